//! Applying changes of the lists to the kernel's tries.

use std::{net::IpAddr, time::{Duration, SystemTime}};

use aya::maps::{LpmTrie, Map, MapError, lpm_trie::Key};
use flood_common::abi;
use ipnet::IpNet;

use crate::lists::Change;

use super::{error::BpfError, mapped::coarse_now_ns};

/// Which of the two lists.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ListKind {
    /// Sources that pass whatever else holds.
    Allow,
    /// Sources that are dropped.
    Block,
}

impl ListKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Allow, Self::Block];

    /// The word for it on the command line and in messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Block => "block",
        }
    }

    pub(super) fn maps(self) -> (&'static str, &'static str) {
        match self {
            Self::Allow => (abi::map::ALLOW_V4, abi::map::ALLOW_V6),
            Self::Block => (abi::map::BLOCK_V4, abi::map::BLOCK_V6),
        }
    }

    pub(super) fn bits(self) -> (u32, u32) {
        match self {
            Self::Allow => (abi::list::ALLOW_V4, abi::list::ALLOW_V6),
            Self::Block => (abi::list::BLOCK_V4, abi::list::BLOCK_V6),
        }
    }
}

/// Applies one change to the trie of its family.
pub(super) fn apply(v4: &mut Map, v6: &mut Map, kind: ListKind, change: &Change) -> Result<(), BpfError> {
    let (prefix, expires_ns) = match change {
        Change::Set { prefix, expires } => (prefix, Some(expires.map_or(0, kernel_time_ns))),
        Change::Unset { prefix } => (prefix, None),
    };
    let (name_v4, name_v6) = kind.maps();
    let length = u32::from(prefix.prefix_len());
    let (name, result) = match (prefix, prefix.network()) {
        (IpNet::V4(_), IpAddr::V4(network)) => (name_v4, write(v4, Key::new(length, network.octets()), expires_ns)),
        (IpNet::V6(_), IpAddr::V6(network)) => (name_v6, write(v6, Key::new(length, network.octets()), expires_ns)),
        _ => unreachable!("the network address of a prefix is of the prefix's family"),
    };
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(source) => Err(BpfError::map(name, source)),
    }
}

fn write<K: aya::Pod>(map: &mut Map, key: Key<K>, expires_ns: Option<u64>) -> Result<(), MapError> {
    let mut trie = LpmTrie::<_, K, u64>::try_from(map)?;
    match expires_ns {
        Some(expires_ns) => trie.insert(&key, expires_ns, 0),
        None => trie.remove(&key),
    }
}

/// A wall-clock time on the filter's clock. Never 0, which stands for "no end"; a time that has passed is 1.
fn kernel_time_ns(time: SystemTime) -> u64 {
    let ahead = time.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    match u64::try_from(ahead.as_nanos()) {
        Ok(0) => 1,
        Ok(ahead_ns) => coarse_now_ns().saturating_add(ahead_ns),
        Err(_) => 0,
    }
}
