//! Cuts the addresses of lifelines out of prefixes.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::host::Lifeline;

/// Maximum pieces of a prefix; one that would need more is left out whole.
const MOST_PIECES: usize = 4096;

/// Returns the addresses of the lifelines of an address family, sorted and without overlaps.
pub(super) fn ranges(lifelines: &[Lifeline], version: u8) -> Vec<(u128, u128)> {
    let of_family = lifelines.iter().filter(|lifeline| version_of(lifeline.prefix) == version);
    let mut ranges: Vec<(u128, u128)> = of_family.map(|lifeline| range(lifeline.prefix)).collect();
    ranges.sort_unstable();
    ranges.dedup_by(|later, earlier| {
        let overlaps = later.0 <= earlier.1;
        if overlaps {
            earlier.1 = earlier.1.max(later.1);
        }
        overlaps
    });
    ranges
}

/// Returns whether a prefix has an address in one of these ranges of both families.
pub(super) fn touches(ranges: &[Vec<(u128, u128)>; 2], prefix: IpNet) -> bool {
    let ranges = &ranges[usize::from(version_of(prefix) == 6)];
    let (first, last) = range(prefix);
    let next = ranges.partition_point(|(_, end)| *end < first);
    ranges.get(next).is_some_and(|(begin, _)| *begin <= last)
}

/// Returns the fewest prefixes that cover `prefix` without the `holes`; none if they would be too many.
pub(super) fn without(prefix: IpNet, holes: &[IpNet]) -> Vec<IpNet> {
    let mut pieces = Vec::new();
    let mut ahead = vec![prefix];
    while let Some(part) = ahead.pop() {
        if holes.iter().any(|hole| hole.contains(&part)) {
            continue;
        }
        if !holes.iter().any(|hole| part.contains(hole)) {
            pieces.push(part);
        } else if let Some(halves) = halves(part) {
            ahead.extend(halves);
        }
        if pieces.len() > MOST_PIECES {
            return Vec::new();
        }
    }
    pieces.sort_unstable();
    pieces
}

fn halves(prefix: IpNet) -> Option<[IpNet; 2]> {
    let length = prefix.prefix_len() + 1;
    let lower = IpNet::new(prefix.network(), length).ok()?;
    Some([lower, IpNet::new(prefix.broadcast(), length).ok()?.trunc()])
}

fn version_of(prefix: IpNet) -> u8 {
    match prefix {
        IpNet::V4(_) => 4,
        IpNet::V6(_) => 6,
    }
}

fn range(prefix: IpNet) -> (u128, u128) {
    (bits(prefix.network()), bits(prefix.broadcast()))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_bits().into(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}
