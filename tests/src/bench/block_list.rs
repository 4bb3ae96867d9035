//! A block list of any length, and what it is expected to block.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use super::family::{Family, Region};

/// Fixed seed, so that each run has the same list.
const SEED: u64 = 0xf100_d6a7;

/// Number of sources that are looked up to estimate the blocked share: the error is below half a percent.
const SAMPLES: u32 = 100_000;

/// The contents of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Drawn {
    /// This many random prefixes: half of them single sources, a quarter each networks of two sizes (/24 and /20 in
    /// IPv4, /40 and /36 in IPv6). The first source is always among them.
    Random(usize),
    /// This many prefixes of one IPv6 /32, of random lengths in this range.
    Within(usize, RangeInclusive<u8>),
    /// Prefixes of each of these lengths, each inside the next shorter one.
    Nested(RangeInclusive<u8>),
}

/// A list of prefixes.
pub(super) struct BlockList {
    region: Region,
    prefixes: HashSet<IpNet>,
    lengths: BTreeSet<u8>,
}

impl BlockList {
    pub(super) fn draw(region: Region, drawn: Drawn) -> Self {
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut prefixes = HashSet::new();
        match drawn {
            Drawn::Random(entries) => {
                let family = region.family;
                let [source, small, large] = lengths(family);
                prefixes.reserve(entries);
                if entries > 0 {
                    prefixes.insert(IpNet::new_assert(family.address(0), source));
                }
                while prefixes.len() < entries {
                    let length = [source, source, small, large][random.usize(..4)];
                    prefixes.insert(IpNet::new_assert(family.address(random.u32(..)), length).trunc());
                }
            }
            Drawn::Within(entries, lengths) => {
                let IpAddr::V6(first) = Family::Ipv6.address(0) else { unreachable!() };
                while prefixes.len() < entries {
                    let address = Ipv6Addr::from_bits(first.to_bits() | random.u128(..) >> 32);
                    let length = random.u8(lengths.clone());
                    prefixes.insert(IpNet::new_assert(address.into(), length).trunc());
                }
            }
            Drawn::Nested(lengths) => {
                let address = region.family.address(0);
                prefixes.extend(lengths.map(|length| IpNet::new_assert(address, length).trunc()));
            }
        }
        let lengths = prefixes.iter().map(IpNet::prefix_len).collect();
        Self { region, prefixes, lengths }
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.iter().copied()
    }

    /// Returns the share of the first `sources` sources that is on the list.
    pub(super) fn share(&self, sources: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(SEED);
        let samples = if sources == 1 { 1 } else { SAMPLES };
        let blocked = (0..samples).filter(|_| self.covers(random.u64(..sources) as u32)).count();
        blocked as f64 / f64::from(samples)
    }

    fn covers(&self, number: u32) -> bool {
        let source = self.region.source(number);
        self.lengths.iter().any(|length| self.prefixes.contains(&IpNet::new_assert(source, *length).trunc()))
    }
}

fn lengths(family: Family) -> [u8; 3] {
    match family {
        Family::Ipv4 => [32, 24, 20],
        Family::Ipv6 => [48, 40, 36],
    }
}
