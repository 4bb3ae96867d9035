//! The host's own unicast addresses, as the filter knows them.

use std::{array, collections::BTreeSet, net::IpAddr};

use aya::maps::{LpmTrie, MapData, lpm_trie::Key};
use flood_common::{
    abi::{self, FIRST_LOCAL, trie_key},
    address::Address,
};
use ipnet::IpNet;

use super::error::BpfError;

/// Bits that are added to the length of an IPv4 prefix as part of ::ffff:0:0/96.
const MAPPED: u32 = 96;

/// The map of addresses in the kernel.
pub(super) struct LocalAddresses {
    map: LpmTrie<MapData, [u8; 16], u32>,
    have: BTreeSet<IpNet>,
}

impl LocalAddresses {
    pub(super) fn new(map: LpmTrie<MapData, [u8; 16], u32>) -> Self {
        Self { map, have: BTreeSet::new() }
    }

    /// Replaces the addresses. New ones are added before old ones are removed, so that none that stays is missing in
    /// between.
    pub(super) fn set(&mut self, addresses: &[IpNet]) -> Result<(), BpfError> {
        let wanted: BTreeSet<IpNet> = addresses.iter().map(IpNet::trunc).collect();
        let failed = |error| BpfError::map(abi::map::LOCAL, &error);
        for prefix in wanted.difference(&self.have) {
            self.map.insert(&key(*prefix), 1, 0).map_err(failed)?;
        }
        for prefix in self.have.difference(&wanted) {
            self.map.remove(&key(*prefix)).map_err(failed)?;
        }
        self.have = wanted;
        Ok(())
    }
}

/// Returns the addresses that packets are most likely for, as the settings hold them: single addresses that are known
/// outside.
pub(super) fn first(addresses: &[IpNet]) -> [[u64; 2]; FIRST_LOCAL] {
    let is_known = |address: &IpAddr| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    };
    let single = addresses.iter().filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
    let mut known = single.map(IpNet::addr).filter(is_known);
    array::from_fn(|_| known.next().map_or([0; 2], |address| Address::from(address).halves()))
}

/// Returns the key of a prefix in a trie.
pub(super) fn key(prefix: IpNet) -> Key<[u8; 16]> {
    let length = u32::from(prefix.prefix_len()) + if prefix.addr().is_ipv4() { MAPPED } else { 0 };
    Key::new(length, trie_key(prefix.addr().into()))
}
