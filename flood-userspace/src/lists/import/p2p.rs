//! Lists of file-sharing programs: P2P of PeerGuardian, and `ipfilter.dat` of eMule.

use std::net::{IpAddr, Ipv4Addr};

use super::{
    Import, LineProblem, Refusal,
    sniff::Head,
    text::{Text, printable, without_remarks},
};
use crate::lists::target::{TargetError, parse_address, parse_target, subnets};

/// The highest eMule level whose addresses are blocked.
const BLOCKED_LEVEL: u16 = 127;

/// Returns the range of a P2P line: the name before it may contain colons.
fn range(line: &str) -> Option<(&str, &str)> {
    let (_, range) = line.rsplit_once(':')?;
    let (first, last) = range.split_once('-')?;
    Some((first.trim(), last.trim())).filter(|(first, _)| first.parse::<Ipv4Addr>().is_ok())
}

pub(super) fn recognises(head: &Head) -> bool {
    range(head.first()).is_some()
}

pub(super) fn read(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    for line in text.lines() {
        let Some(beginning) = import.begin(&line) else { continue };
        let read = match range(&beginning) {
            Some((first, last)) => parse_target(&format!("{first}-{last}")),
            None => Err(TargetError::NotAnAddress(printable(beginning.as_bytes()))),
        };
        import.take(&line, read.map_err(LineProblem::from));
    }
    Ok(())
}

/// Returns first address, last address and level of a line of `ipfilter.dat`.
fn filter(line: &str) -> Option<(IpAddr, IpAddr, u16)> {
    let mut parts = line.splitn(3, ',').map(str::trim);
    let (range, level) = (parts.next()?, parts.next()?.parse().ok()?);
    let (first, last) = range.split_once('-')?;
    Some((padded(first.trim())?, padded(last.trim())?, level))
}

/// Parses an IPv4 address that may have leading zeros: if each number has three digits, none is octal.
fn padded(text: &str) -> Option<IpAddr> {
    let numbers: Vec<&str> = text.split('.').collect();
    if !numbers.iter().all(|number| number.len() == 3 && number.bytes().all(|b| b.is_ascii_digit())) {
        return parse_address(text).ok();
    }
    let octets: Vec<u8> = numbers.iter().map(|number| number.parse().ok()).collect::<Option<_>>()?;
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into())
}

pub(super) fn recognises_filter(head: &Head) -> bool {
    // Fields that any list may have are not enough: require an address, or a comma, as only this format writes it.
    let is_padded = |line: &str| line.split(',').next().is_some_and(|range| parse_target(range).is_err());
    head.lines.iter().any(|(_, line)| filter(line).is_some() && (is_padded(line) || line.contains(" , ")))
}

pub(super) fn read_filter(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    for line in text.lines() {
        let Some(beginning) = import.begin(&line) else { continue };
        let read = match filter(&beginning) {
            Some((.., level)) if level > BLOCKED_LEVEL => Err(LineProblem::Level(level)),
            Some((first, last, _)) => subnets(first, last).map_err(LineProblem::from),
            None => parse_target(without_remarks(&beginning)).map_err(LineProblem::from),
        };
        import.take(&line, read);
    }
    Ok(())
}
