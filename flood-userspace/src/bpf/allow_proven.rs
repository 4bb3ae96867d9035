//! The list allow-proven in the kernel.

use std::collections::BTreeMap;

use aya::maps::{LpmTrie, MapData};
use flood_common::abi;
use ipnet::IpNet;

use super::{error::BpfError, local::key};

/// The trie.
pub(super) struct AllowProven(LpmTrie<MapData, [u8; 16], u64>);

impl AllowProven {
    pub(super) fn new(map: LpmTrie<MapData, [u8; 16], u64>) -> Self {
        Self(map)
    }

    /// Writes when prefixes expire from the list. Prefixes that stay are written before others are removed, so that a
    /// prefix within a removed one has its own expiry by then.
    pub(super) fn write(&mut self, changes: &BTreeMap<IpNet, Option<u64>>) -> Result<(), BpfError> {
        let failed = |error| BpfError::map(abi::map::ALLOW_PROVEN, &error);
        for (prefix, until) in changes {
            if let Some(until) = until {
                self.0.insert(&key(*prefix), until, 0).map_err(failed)?;
            }
        }
        for (prefix, _) in changes.iter().filter(|(_, until)| until.is_none()) {
            match self.0.remove(&key(*prefix)) {
                // The edit removes a prefix that had no entry.
                Ok(()) | Err(aya::maps::MapError::KeyNotFound) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}
