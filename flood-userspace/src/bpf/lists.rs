//! The tables of the lists in the kernel.

use std::sync::atomic::AtomicU64;

use aya::maps::Map;
use flood_common::{abi, lists::GATE_WORDS, meter::WAYS};

use crate::lists::{
    EditError,
    tables::{Layout, Memory},
};

use super::{error::BpfError, mapped::MappedArray};

/// The maps.
pub struct ListMaps {
    gates: MappedArray,
    buckets: MappedArray,
    nodes: MappedArray,
}

impl ListMaps {
    pub(super) fn new(layout: &Layout, gates: Map, buckets: Map, nodes: Map) -> Result<Self, BpfError> {
        let word = size_of::<u64>();
        let node_buckets = layout.node_buckets as usize;
        Ok(Self {
            gates: MappedArray::new(abi::map::GATES, gates, (GATE_WORDS as usize + node_buckets) * word)?,
            buckets: MappedArray::new(abi::map::LISTED, buckets, (WAYS * word) << layout.bucket_bits)?,
            nodes: MappedArray::new(abi::map::NODES, nodes, 2 * node_buckets * WAYS * word)?,
        })
    }
}

impl Memory for ListMaps {
    fn gates(&self) -> &[AtomicU64] {
        self.gates.words()
    }

    fn buckets(&self) -> &[AtomicU64] {
        self.buckets.words()
    }

    fn nodes(&self) -> &[AtomicU64] {
        self.nodes.words()
    }
}

impl From<EditError> for BpfError {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Full(_) | EditError::TooMany { .. } => Self::ListFull(error),
            EditError::NoPlace(error) => Self::Other { what: "writing the lists", cause: error.to_string() },
        }
    }
}
