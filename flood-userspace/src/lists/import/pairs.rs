//! Two addresses on each line: a range, an address and its mask, or something else.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::lists::target::{netmask_length, subnets};

/// The smallest block whose first and last address alone are taken for a range: four addresses.
const TELLING_BITS: u8 = 2;

/// Minimum alignment of both ends of a range that is not a single block, if nothing else marks it as a range.
const ALIGNED: u128 = 64;

/// The same for ranges that are written as integers: the larger ones are times, which come as they come.
const ALIGNED_INTEGERS: u128 = 8;

/// Meaning of two addresses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// First and last.
    Range,
    /// An address and its netmask.
    Mask,
}

/// Two addresses on a line.
pub(super) struct Pair {
    pub(super) line: u64,
    pub(super) first: IpAddr,
    pub(super) last: IpAddr,
    /// The number after them.
    pub(super) third: Option<u8>,
}

impl Pair {
    /// Returns the prefixes that the pair stands for.
    pub(super) fn prefixes(&self, meaning: Meaning) -> Vec<IpNet> {
        match meaning {
            Meaning::Range => subnets(self.first, self.last).unwrap_or_default(),
            Meaning::Mask => {
                let length = netmask_length(self.first, self.last);
                let prefix = length.and_then(|length| IpNet::new(self.first, length).ok());
                prefix.map(|prefix| prefix.trunc()).into_iter().collect()
            }
        }
    }
}

fn value(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// Returns the length of the prefix that covers a range exactly, if there is one.
fn block(pair: &Pair) -> Option<u8> {
    let prefixes = subnets(pair.first, pair.last).ok()?;
    matches!(prefixes[..], [_]).then(|| prefixes[0].prefix_len())
}

/// Returns whether a pair, taken as a range, is a whole block of several addresses.
fn is_block(pair: &Pair) -> bool {
    pair.first != pair.last && block(pair).is_some()
}

/// Returns what all pairs of a file mean, or the line at which this is ambiguous. `named` is the meaning by the
/// column names; `integers` tells whether the addresses are written as integers. Sorts the pairs.
pub(super) fn meaning(named: Option<Meaning>, integers: bool, pairs: &mut [Pair]) -> Result<Meaning, u64> {
    let not_a_range = pairs.iter().find(|pair| subnets(pair.first, pair.last).is_err());
    let not_a_mask = pairs.iter().find(|pair| netmask_length(pair.first, pair.last).is_none());
    let (not_a_range, not_a_mask) = (not_a_range.map(|pair| pair.line), not_a_mask.map(|pair| pair.line));
    match (named, not_a_range, not_a_mask) {
        (Some(Meaning::Range), None, _) => return Ok(Meaning::Range),
        (Some(Meaning::Range), Some(line), _) | (Some(Meaning::Mask), _, Some(line)) => return Err(line),
        (Some(Meaning::Mask), _, None) => return Ok(Meaning::Mask),
        (None, ..) => {}
    }
    let is_said_by_length = pairs.iter().all(|pair| pair.third.is_some() && block(pair) == pair.third);
    let not_ranges = if is_said_by_length { None } else { not_surely_ranges(integers, pairs) };
    match (not_ranges, not_a_mask) {
        (None, Some(_)) => Ok(Meaning::Range),
        (Some(_), None) if !integers && !pairs.iter().all(is_block) => Ok(Meaning::Mask),
        (Some(line), _) => Err(line),
        (None, None) => Err(pairs.first().map_or(1, |pair| pair.line)),
    }
}

/// Returns the first line that shows that the pairs may be something other than ranges. Ranges are whole blocks,
/// or at least begin and end with one, and do not overlap. Pairs of communicating hosts look different.
fn not_surely_ranges(integers: bool, pairs: &mut [Pair]) -> Option<u64> {
    let bits = |pair: &Pair| if pair.first.is_ipv4() { 32 } else { 128 };
    let is_telling = |pair: &Pair| {
        !integers && block(pair).is_some_and(|length| (1..=bits(pair) - TELLING_BITS).contains(&length))
    };
    let aligned = if integers { ALIGNED_INTEGERS } else { ALIGNED };
    let is_aligned = |pair: &Pair| {
        let (first, last) = (value(pair.first), value(pair.last));
        subnets(pair.first, pair.last).is_ok() && first % aligned == 0 && last % aligned == aligned - 1
    };
    if let Some(odd) = pairs.iter().find(|pair| !is_telling(pair) && !is_aligned(pair)) {
        return Some(odd.line);
    }
    if let [alone] = pairs
        && !is_telling(alone)
    {
        return Some(alone.line);
    }
    pairs.sort_by_key(|pair| (pair.first, pair.last));
    let is_same = |two: &[Pair]| (two[0].first, two[0].last) == (two[1].first, two[1].last);
    let overlap = |two: &[Pair]| two[1].first <= two[0].last && !is_same(two);
    pairs.windows(2).find(|two| overlap(two)).map(|two| two[0].line.max(two[1].line))
}
