//! A block list as long as one likes, and what it is expected to block.

use std::collections::HashSet;

use ipnet::IpNet;

use super::family::Family;

/// So that each run has the same list.
const SEED: u64 = 0xf100_d6a7;

/// Sources that are looked up to tell which share of them is blocked: the error is below half a percent.
const SAMPLES: u32 = 100_000;

/// Prefixes at random: half of them single sources, a quarter each networks of two sizes (/24 and /20 in IPv4, /40
/// and /36 in IPv6). The first source is always among them.
pub(super) struct BlockList {
    family: Family,
    prefixes: HashSet<IpNet>,
}

impl BlockList {
    pub(super) fn draw(family: Family, entries: usize) -> Self {
        let [source, small, large] = lengths(family);
        let mut random = fastrand::Rng::with_seed(SEED);
        let mut list = Self { family, prefixes: HashSet::with_capacity(entries) };
        if entries > 0 {
            list.prefixes.insert(IpNet::new_assert(family.address(0), source));
        }
        while list.prefixes.len() < entries {
            let length = [source, source, small, large][random.usize(..4)];
            list.prefixes.insert(IpNet::new_assert(family.address(random.u32(..)), length).trunc());
        }
        list
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.prefixes.iter().copied()
    }

    /// The share of the first `sources` sources that is on the list.
    pub(super) fn share(&self, sources: u64) -> f64 {
        let mut random = fastrand::Rng::with_seed(SEED);
        let samples = if sources == 1 { 1 } else { SAMPLES };
        let blocked = (0..samples).filter(|_| self.covers(random.u64(..sources) as u32)).count();
        blocked as f64 / f64::from(samples)
    }

    fn covers(&self, number: u32) -> bool {
        let source = self.family.source(number);
        lengths(self.family)
            .into_iter()
            .any(|length| self.prefixes.contains(&IpNet::new_assert(source, length).trunc()))
    }
}

fn lengths(family: Family) -> [u8; 3] {
    match family {
        Family::Ipv4 => [32, 24, 20],
        Family::Ipv6 => [48, 40, 36],
    }
}
