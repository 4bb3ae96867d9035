//! The table of what was asked for.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use flood_common::{
    abi::{self, Settings},
    meter::WAYS,
    reflector::{PORT_WORDS, port_bit, port_word},
    solicit::{Flow, SOLICIT_BITS, is_live, lifetime, note},
};

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// The table, with the ports that it is about.
pub struct SolicitTable {
    memory: MappedArray,
    ports: Box<[u64; 2 * PORT_WORDS]>,
    clock: Arc<Clock>,
}

impl SolicitTable {
    pub(super) fn new(
        map: Map,
        ports: Box<[u64; 2 * PORT_WORDS]>,
        clock: Arc<Clock>,
    ) -> Result<Self, BpfError> {
        let bytes = (WAYS * size_of::<u64>()) << SOLICIT_BITS;
        Ok(Self { memory: MappedArray::new(abi::map::SOLICITED, map, bytes)?, ports, clock })
    }

    /// How many flows can be noted.
    pub fn capacity(&self) -> u64 {
        (WAYS as u64) << SOLICIT_BITS
    }

    /// How many are.
    pub fn noted(&self) -> u64 {
        let now_ns = self.clock.now_ns();
        self.words().iter().filter(|word| is_live(word.load(Ordering::Relaxed), now_ns)).count() as u64
    }

    /// The words of all buckets.
    pub fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// Does what the egress program does with a packet that leaves the host: notes it if it is a question to a mirror. See
    /// [`Flow::is_question`] for `client`.
    pub fn ask(&self, settings: &Settings, flow: &Flow, client: bool) {
        let has = |set: usize| {
            self.ports[set * PORT_WORDS + port_word(flow.remote_port)] & port_bit(flow.remote_port) != 0
        };
        let place = flow.place(&settings.solicit_seeds);
        if let Some(bucket) = self.words().as_chunks::<WAYS>().0.get(place.bucket as usize)
            && has(0)
            && flow.is_question(client)
        {
            note(bucket, place.tag, self.clock.now_ns(), lifetime(flow.remote_port, has(1)));
        }
    }
}
