//! Numbers as people write them: `20k/s`, `1.2Gbit/s`, `40k`, `8Mbit`, and durations such as `10m`.
//!
//! A quantity is a whole number in a type that carries its unit. Parsing is strict (the unit is never guessed),
//! and printing gives the shortest form that reads back as exactly the same number. Prefixes are decimal:
//! `k` is 1000. [`crate::config`] decides what a sensible limit is.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use thiserror::Error;

mod serde;
#[cfg(test)]
mod tests;

/// A whole number with a unit, written as `NUMBER[k|M|G]UNIT`.
pub trait Quantity: FromStr<Err = QuantityError> {
    /// Name for messages: "packet rate".
    const KIND: &str;
    /// The letters after the number and its prefix: "/s".
    const UNIT: &str;
    /// A valid value, for messages.
    const EXAMPLE: &str;
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $kind:literal, unit $unit:literal, example $example:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl Quantity for $name {
            const KIND: &str = $kind;
            const UNIT: &str = $unit;
            const EXAMPLE: &str = $example;
        }

        impl FromStr for $name {
            type Err = QuantityError;

            fn from_str(text: &str) -> Result<Self, QuantityError> {
                parse::<Self>(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&(render_number(self.0) + Self::UNIT))
            }
        }
    };
}

quantity!(
    /// Packets per second: `20k/s`.
    PacketRate, "packet rate", unit "/s", example "20k/s"
);
quantity!(
    /// Bits per second: `200Mbit/s`.
    BitRate, "bit rate", unit "bit/s", example "200Mbit/s"
);
quantity!(
    /// A number of packets: `40k`.
    Packets, "number of packets", unit "", example "40k"
);
quantity!(
    /// A number of bits: `8Mbit`.
    Bits, "number of bits", unit "bit", example "8Mbit"
);

/// A setting that can be switched off: the word `off`, or a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrOff<T>(pub Option<T>);

/// The word that switches a setting off.
const OFF: &str = "off";

impl<T: Quantity> FromStr for OrOff<T> {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.trim() == OFF { Ok(Self(None)) } else { text.parse().map(|value| Self(Some(value))) }
    }
}

impl<T: fmt::Display> fmt::Display for OrOff<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.pad(OFF),
        }
    }
}

/// Text that is not the expected quantity.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{written:?} cannot be a {kind}: {fault}; write for example \"{example}\"")]
pub struct QuantityError {
    written: String,
    kind: &'static str,
    example: &'static str,
    fault: Fault,
}

#[derive(Debug, Clone, PartialEq, Error)]
enum Fault {
    #[error("it does not begin with a number")]
    Number,
    #[error("it must end in {0:?}")]
    Unit(&'static str),
    #[error("{0:?} is none of k (thousand), M (million), G (thousand million)")]
    Prefix(String),
    #[error("m would be milli or per minute; write M for million")]
    Milli,
    #[error("it is not a whole number")]
    Fraction,
    #[error("it is too large")]
    Overflow,
    #[error("a limit of 0 would drop everything; use \"off\" or a block")]
    Zero,
    #[error("{0}")]
    Duration(humantime::DurationError),
    #[error("it is over before it begins")]
    ZeroDuration,
}

/// Decimal prefixes with their power of ten, smallest first.
const PREFIXES: [(&str, u32); 4] = [("", 0), ("k", 3), ("M", 6), ("G", 9)];

fn parse<Q: Quantity>(text: &str) -> Result<u64, QuantityError> {
    parse_number(text.trim(), Q::UNIT).map_err(|fault| QuantityError {
        written: text.to_owned(),
        kind: Q::KIND,
        example: Q::EXAMPLE,
        fault,
    })
}

fn parse_number(text: &str, unit: &'static str) -> Result<u64, Fault> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(Fault::Number);
    }
    let prefix = suffix.trim_start().strip_suffix(unit).ok_or(Fault::Unit(unit))?;
    let exponent = parse_prefix(prefix)?;

    // "1.25k" is the digits 125 and the one power of ten that remains of the prefix.
    let fraction = fraction.trim_end_matches('0');
    let decimals = u32::try_from(fraction.len()).map_err(|_| Fault::Fraction)?;
    let left_over = exponent.checked_sub(decimals).ok_or(Fault::Fraction)?;
    let digits: u64 = format!("{whole}{fraction}").parse().map_err(|_| Fault::Overflow)?;
    let value = digits.checked_mul(10_u64.pow(left_over)).ok_or(Fault::Overflow)?;
    if value == 0 { Err(Fault::Zero) } else { Ok(value) }
}

/// Returns the power of ten of a prefix. `K` is read as `k`, because it can mean nothing else here.
fn parse_prefix(prefix: &str) -> Result<u32, Fault> {
    match prefix {
        "m" => Err(Fault::Milli),
        "K" => Ok(3),
        _ => PREFIXES
            .iter()
            .find_map(|&(name, exponent)| (name == prefix).then_some(exponent))
            .ok_or_else(|| Fault::Prefix(prefix.to_owned())),
    }
}

/// Returns the shortest exact decimal form; of two equally short ones, the one with the larger prefix (`1.5k`, not
/// `1500`).
fn render_number(value: u64) -> String {
    PREFIXES
        .iter()
        .rev()
        .filter(|(_, exponent)| value >= 10_u64.pow(*exponent))
        .map(|(prefix, exponent)| render_scaled(value, *exponent) + prefix)
        .min_by_key(String::len)
        .unwrap_or_else(|| value.to_string())
}

fn render_scaled(value: u64, exponent: u32) -> String {
    let (scale, width) = (10_u64.pow(exponent), exponent as usize);
    let (whole, fraction) = (value / scale, value % scale);
    let padded = format!("{whole}.{fraction:0width$}");
    padded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parses a duration as people write it, such as `90s`, `10m`, `24h` or `7d` (`m` is minutes, `M` is months). Zero
/// is rejected, because whatever it applies to would be over at once.
pub fn parse_duration(text: &str) -> Result<Duration, QuantityError> {
    let fault = match humantime::parse_duration(text.trim()) {
        Ok(Duration::ZERO) => Fault::ZeroDuration,
        Ok(duration) => return Ok(duration),
        Err(error) => Fault::Duration(error),
    };
    Err(QuantityError { written: text.to_owned(), kind: "duration", example: "10m", fault })
}
