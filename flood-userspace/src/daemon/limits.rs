//! Changing limits at run time, by the same names and rules as in the configuration.

use std::{fmt::Display, str::FromStr};

use crate::{
    config::{BitLimit, PacketLimit, SourceLimit},
    control::protocol::{LimitChange, Limits},
    quantity::{BitRate, OrOff, PacketRate, Quantity},
};

/// The limits that can be set.
const NAMES: [&str; 6] = [
    "source.packets",
    "source.packets_burst",
    "source.bits",
    "source.bits_burst",
    "protected.neighbour_discovery",
    "protected.path_mtu",
];

/// The limits after a change. A rate is set before its burst, and sets that to its default.
pub(super) fn changed(limits: &Limits, change: &LimitChange) -> Result<Limits, String> {
    if let Some(name) = change.set.keys().find(|name| !NAMES.contains(&name.as_str())) {
        return Err(format!("there is no limit {name:?}. There are: {}", NAMES.join(", ")));
    }
    let Limits { source: SourceLimit { mut packets, mut bits }, mut protected } = *limits;
    let value = |name: &str| change.set.get(name).map(String::as_str);

    if let Some(text) = value("source.packets") {
        let OrOff(rate) = read::<OrOff<PacketRate>>("source.packets", text)?;
        packets = rate.map(PacketLimit::of_rate);
    }
    if let Some(text) = value("source.packets_burst") {
        let limit = packets.as_mut().ok_or_else(|| without_rate("source.packets"))?;
        limit.burst = read("source.packets_burst", text)?;
    }
    if let Some(text) = value("source.bits") {
        let OrOff(rate) = read::<OrOff<BitRate>>("source.bits", text)?;
        bits = rate.map(BitLimit::of_rate);
    }
    if let Some(text) = value("source.bits_burst") {
        let limit = bits.as_mut().ok_or_else(|| without_rate("source.bits"))?;
        limit.burst = read("source.bits_burst", text)?;
    }
    let budgets = [
        ("protected.neighbour_discovery", &mut protected.neighbour_discovery),
        ("protected.path_mtu", &mut protected.path_mtu),
    ];
    for (name, budget) in budgets {
        if let Some(text) = value(name) {
            *budget = PacketLimit::of_rate(read(name, text)?);
        }
        budget.check().map_err(|error| format!("{name}: {error}"))?;
    }
    packets.map_or(Ok(()), |limit| limit.check()).map_err(|error| format!("source.packets: {error}"))?;
    bits.map_or(Ok(()), |limit| limit.check()).map_err(|error| format!("source.bits: {error}"))?;
    Ok(Limits { source: SourceLimit { packets, bits }, protected })
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name}: {error}"))
}

fn without_rate(rate: &str) -> String {
    format!(
        "{rate} is off, and a burst without a rate means nothing: set {rate} as well, as {}",
        PacketRate::EXAMPLE
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Config,
        quantity::{Bits, Packets},
    };

    fn limits() -> Limits {
        let config = Config::default();
        Limits { source: config.source_limit, protected: config.protected_limits }
    }

    fn change(pairs: &[(&str, &str)]) -> Result<Limits, String> {
        let set = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        changed(&limits(), &LimitChange { set })
    }

    #[test]
    fn what_is_not_named_stays_and_a_rate_brings_its_burst() {
        let changed = change(&[("source.packets", "5k/s"), ("source.bits", "8Mbit/s")]).unwrap();
        assert_eq!(
            changed.source.packets,
            Some(PacketLimit { rate: PacketRate(5_000), burst: Packets(10_000) })
        );
        assert_eq!(changed.source.bits, Some(BitLimit { rate: BitRate(8_000_000), burst: Bits(8_000_000) }));
        assert_eq!(changed.protected, limits().protected);

        let changed = change(&[("source.packets_burst", "1k"), ("protected.path_mtu", "50/s")]).unwrap();
        assert_eq!(
            changed.source.packets,
            Some(PacketLimit { rate: PacketRate(20_000), burst: Packets(1_000) })
        );
        assert_eq!(changed.protected.path_mtu, PacketLimit::of_rate(PacketRate(50)));
        assert_eq!(change(&[("source.packets", "off")]).unwrap().source.packets, None);
    }

    /// Why, the change, what the error says.
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

    #[test]
    fn a_wrong_change_is_refused_with_the_name_of_the_limit() {
        let cases: [Case; 6] = [
            ("no such limit", &[("source.packet", "5k/s")], "source.packets_burst"),
            ("no unit", &[("source.packets", "5k")], "source.packets: "),
            ("out of bounds", &[("source.packets_burst", "3")], "source.packets: a burst of 3"),
            ("a burst without rate", &[("source.bits_burst", "8Mbit")], "source.bits is off"),
            (
                "a rate that goes, and its burst",
                &[("source.packets", "off"), ("source.packets_burst", "9k")],
                "is off",
            ),
            ("a budget cannot be off", &[("protected.path_mtu", "off")], "protected.path_mtu: "),
        ];
        for (why, pairs, expected) in cases {
            let error = change(pairs).unwrap_err();
            assert!(error.contains(expected), "{why}: {error}");
        }
    }
}
