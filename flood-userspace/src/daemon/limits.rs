//! Changing limits at run time, by the same names and rules as in the configuration.

use std::{fmt::Display, str::FromStr};

use crate::{
    config::{BitLimit, CellLimit, CellName, LimitOrigin, PacketLimit, RateLimit, limit::UnknownCell},
    control::protocol::{LimitChange, Limits},
    quantity::{BitRate, OrOff, PacketRate, Quantity},
};

/// The budgets that can be set, each as a rate.
const BUDGETS: [&str; 3] = ["protected.neighbour_discovery", "protected.path_mtu", "protected.link"];

/// The part of a limit that a name refers to, by its last word. Rates come before the bursts that they reset.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Determined by the unit of the value.
    ByUnit,
    Packets,
    Bits,
    PacketsBurst,
    BitsBurst,
}

/// Returns the limits after a change. A rate sets its burst to the default, unless the burst is set as well.
pub(super) fn changed(limits: &Limits, change: &LimitChange) -> Result<Limits, String> {
    let mut changed = limits.clone();
    let mut cells: Vec<(Part, CellName, &str, &str)> = Vec::new();
    for (name, value) in &change.set {
        match name.as_str() {
            "protected.neighbour_discovery" => {
                set_budget(&mut changed.protected.neighbour_discovery, name, value)?;
            }
            "protected.path_mtu" => set_budget(&mut changed.protected.path_mtu, name, value)?,
            "protected.link" => set_budget(&mut changed.protected.link, name, value)?,
            _ => {
                let (cell, part) = parse_name(name)?;
                cells.push((part, cell, name, value));
            }
        }
    }
    cells.sort_unstable();
    for (part, cell, name, value) in cells {
        let unset = CellLimit { limit: RateLimit::default(), origin: LimitOrigin::RunTime };
        let entry = changed.limits.entry(cell).or_insert(unset);
        entry.origin = LimitOrigin::RunTime;
        set_part(&mut entry.limit, part, cell, name, value)?;
        entry.limit.check().map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(changed)
}

fn set_budget(budget: &mut PacketLimit, name: &str, value: &str) -> Result<(), String> {
    *budget = PacketLimit::of_rate(read(name, value)?);
    budget.check().map_err(|error| format!("{name}: {error}"))
}

/// Splits a name into the cell and the part of its limit.
fn parse_name(name: &str) -> Result<(CellName, Part), String> {
    let parts = [
        (".packets", Part::Packets),
        (".bits", Part::Bits),
        (".packets_burst", Part::PacketsBurst),
        (".bits_burst", Part::BitsBurst),
    ];
    let found = parts.iter().find_map(|(suffix, part)| Some((name.strip_suffix(suffix)?, *part)));
    let (cell, part) = found.unwrap_or((name, Part::ByUnit));
    let cell = cell.parse::<CellName>().map_err(|_| {
        // Shows the operator's input, and the names that are not cells.
        format!("{}; further there are {}", UnknownCell(name.to_owned()), BUDGETS.join(", "))
    })?;
    Ok((cell, part))
}

fn set_part(
    limit: &mut RateLimit,
    part: Part,
    cell: CellName,
    name: &str,
    value: &str,
) -> Result<(), String> {
    match part {
        Part::ByUnit if value == "off" => *limit = RateLimit::default(),
        Part::ByUnit => {
            let part = if value.parse::<BitRate>().is_ok() { Part::Bits } else { Part::Packets };
            set_part(limit, part, cell, name, value)?;
        }
        Part::Packets => {
            let OrOff(rate) = read::<OrOff<PacketRate>>(name, value)?;
            limit.packets = rate.map(PacketLimit::of_rate);
        }
        Part::Bits => {
            let OrOff(rate) = read::<OrOff<BitRate>>(name, value)?;
            limit.bits = rate.map(BitLimit::of_rate);
        }
        Part::PacketsBurst => {
            let packets = limit.packets.as_mut();
            packets.ok_or_else(|| without_rate(cell, "packets", PacketRate::EXAMPLE))?.burst =
                read(name, value)?;
        }
        Part::BitsBurst => {
            let bits = limit.bits.as_mut();
            bits.ok_or_else(|| without_rate(cell, "bits", BitRate::EXAMPLE))?.burst = read(name, value)?;
        }
    }
    Ok(())
}

fn read<T: FromStr<Err: Display>>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{name}: {error}"))
}

fn without_rate(cell: CellName, unit: &str, example: &str) -> String {
    format!(
        "{cell}.{unit} is off, and a burst without a rate means nothing: set {cell}.{unit} as well, as {example}"
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
        Limits { limits: config.limits, protected: config.protected_limits }
    }

    fn change(pairs: &[(&str, &str)]) -> Result<Limits, String> {
        let set = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        changed(&limits(), &LimitChange { set })
    }

    fn limit_of(limits: &Limits, name: &str) -> RateLimit {
        limits.limits[&name.parse().unwrap()].limit
    }

    #[test]
    fn what_is_not_named_stays_and_a_rate_brings_its_burst() {
        let five_thousand = PacketLimit { rate: PacketRate(5_000), burst: Packets(10_000) };
        let eight_million = BitLimit { rate: BitRate(8_000_000), burst: Bits(8_000_000) };
        let changed = change(&[("source.packets", "5k/s"), ("source.bits", "8Mbit/s")]).unwrap();
        let both = RateLimit { packets: Some(five_thousand), bits: Some(eight_million) };
        assert_eq!(limit_of(&changed, "source"), both);
        assert_eq!(limit_of(&changed, "source.syn"), limit_of(&limits(), "source.syn"));
        assert_eq!(changed.protected, limits().protected);

        let changed = change(&[("source.packets_burst", "1k"), ("protected.path_mtu", "50/s")]).unwrap();
        let expected = PacketLimit { rate: PacketRate(20_000), burst: Packets(1_000) };
        assert_eq!(limit_of(&changed, "source").packets, Some(expected));
        assert_eq!(changed.protected.path_mtu, PacketLimit::of_rate(PacketRate(50)));
        assert_eq!(change(&[("source.packets", "off")]).map(|l| limit_of(&l, "source").packets), Ok(None));
    }

    #[test]
    fn the_unit_tells_what_is_limited_and_the_origin_who_said_so() {
        let changed =
            change(&[("total", "2Gbit/s"), ("source.syn", "200/s"), ("source.icmp", "off")]).unwrap();
        let two_billion = BitLimit::of_rate(BitRate(2_000_000_000));
        assert_eq!(limit_of(&changed, "total"), RateLimit { packets: None, bits: Some(two_billion) });
        let syn = PacketLimit::of_rate(PacketRate(200));
        assert_eq!(limit_of(&changed, "source.syn"), RateLimit { packets: Some(syn), bits: None });
        assert_eq!(limit_of(&changed, "source.icmp"), RateLimit::default());
        let origin = |name: &str| changed.limits[&name.parse().unwrap()].origin;
        assert_eq!([origin("total"), origin("source")], [LimitOrigin::RunTime, LimitOrigin::Default]);
    }

    /// Why, the change, what the error says.
    type Case = (&'static str, &'static [(&'static str, &'static str)], &'static str);

    #[test]
    fn a_wrong_change_is_refused_with_the_name_of_the_limit() {
        let cases: [Case; 8] = [
            ("no such part", &[("source.packet", "5k/s")], "no limit \"source.packet\""),
            ("no such class", &[("source.tls.packets", "5k/s")], "rst_fin"),
            ("no unit", &[("source.packets", "5k")], "source.packets: "),
            ("no unit, and none in the name", &[("total.udp", "5k")], "total.udp: "),
            ("out of bounds", &[("source.packets_burst", "3")], "source.packets_burst: a burst of 3"),
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
