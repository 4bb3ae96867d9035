//! The table of flows whose replies are solicited.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use flood_common::{
    abi,
    meter::WAYS,
    solicit::{SOLICIT_BITS, is_live},
};

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// The table.
pub struct SolicitTable {
    memory: MappedArray,
    clock: Arc<Clock>,
}

impl SolicitTable {
    pub(super) fn new(map: Map, clock: Arc<Clock>) -> Result<Self, BpfError> {
        let bytes = (WAYS * size_of::<u64>()) << SOLICIT_BITS;
        Ok(Self { memory: MappedArray::new(abi::map::SOLICITED, map, bytes)?, clock })
    }

    /// Returns how many flows can be recorded.
    pub fn capacity(&self) -> u64 {
        (WAYS as u64) << SOLICIT_BITS
    }

    /// Returns how many flows are recorded.
    pub fn noted(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.words().iter().filter(|word| is_live(word.load(Ordering::Relaxed), now_ns)).count() as u64
    }

    /// Returns the words of all buckets.
    pub fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }
}
