//! Large lists for tests and bench.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use flood_userspace::lists::Edit;
use ipnet::IpNet;

use crate::rig::entry;

/// The first of the IPv6 prefixes of [`random`], and of the harness's sources.
pub const FIRST_V6: u64 = 0x2001_0db8_0000_0000;

/// Returns this many random IPv4 addresses, and this many random IPv6 /48 among the 2^32 from [`FIRST_V6`] on. Some
/// occur twice.
pub fn random(ipv4: usize, ipv6: usize, seed: u64) -> Vec<IpNet> {
    let mut random = Rng::with_seed(seed);
    let mut prefixes: Vec<IpNet> = Vec::with_capacity(ipv4 + ipv6);
    prefixes.extend((0..ipv4).map(|_| IpNet::from(IpAddr::V4(Ipv4Addr::from_bits(random.u32(..))))));
    prefixes.extend((0..ipv6).map(|_| {
        let network = FIRST_V6 + (u64::from(random.u32(..)) << 16);
        IpNet::new_assert(Ipv6Addr::from_bits(u128::from(network) << 64).into(), 48)
    }));
    prefixes
}

/// Returns this many random IPv6 prefixes of the /32 that begins at [`FIRST_V6`], longer than the /48 of a source.
pub fn of_all_lengths(count: usize, seed: u64) -> Vec<IpNet> {
    let mut random = Rng::with_seed(seed);
    let first = u128::from(FIRST_V6) << 64;
    let prefixes = (0..count).map(|_| {
        let address = Ipv6Addr::from_bits(first | random.u128(..) >> 32);
        IpNet::new_assert(address.into(), random.u8(49..=128)).trunc()
    });
    prefixes.collect()
}

/// Returns an edit that adds prefixes to a list without an expiry.
pub fn put(prefixes: impl IntoIterator<Item = IpNet>) -> Edit {
    Edit::put_alike(prefixes.into_iter().collect(), &entry(None))
}
