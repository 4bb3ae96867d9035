//! Applying changes of the lists to the kernel's tries.

use std::time::{Duration, SystemTime};

use aya::maps::{LpmTrie, MapData, MapError, lpm_trie::Key};
use flood_common::abi::{self, ListKey};
use ipnet::IpNet;

use crate::lists::Change;

use super::{
    clock::Clock,
    error::{BpfError, errno},
};

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

    pub(super) fn map(self) -> &'static str {
        match self {
            Self::Allow => abi::map::ALLOW,
            Self::Block => abi::map::BLOCK,
        }
    }

    pub(super) fn bits(self) -> (u32, u32) {
        match self {
            Self::Allow => (abi::list::ALLOW_V4, abi::list::ALLOW_V6),
            Self::Block => (abi::list::BLOCK_V4, abi::list::BLOCK_V6),
        }
    }
}

/// The trie of a list.
pub(super) type Trie = LpmTrie<MapData, ListKey, u64>;

/// Applies one change to the trie of a list.
pub(super) fn apply(trie: &mut Trie, kind: ListKind, change: &Change, clock: &Clock) -> Result<(), BpfError> {
    let (prefix, result) = match change {
        Change::Set { prefix, expires } => {
            let expires_ns = expires.map_or(0, |expires| filter_time_ns(expires, clock));
            (prefix, trie.insert(&key(prefix), expires_ns, 0))
        }
        Change::Unset { prefix } => (prefix, trie.remove(&key(prefix))),
    };
    match result {
        Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) if errno(&error) == Some(libc::ENOSPC) => {
            Err(BpfError::ListFull { list: kind.label(), prefix: prefix.to_string() })
        }
        Err(error) => Err(BpfError::map(kind.map(), &error)),
    }
}

fn key(prefix: &IpNet) -> Key<ListKey> {
    let bits = abi::LIST_KEY_VERSION_BITS + u32::from(prefix.prefix_len());
    Key::new(bits, abi::list_key(prefix.network().into()))
}

/// A wall-clock time on the filter's clock. Never 0, which stands for "no end"; a time that has passed is 1.
fn filter_time_ns(time: SystemTime, clock: &Clock) -> u64 {
    let ahead = time.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO);
    match u64::try_from(ahead.as_nanos()) {
        Ok(0) => 1,
        Ok(ahead_ns) => clock.now_ns().saturating_add(ahead_ns),
        Err(_) => 0,
    }
}
