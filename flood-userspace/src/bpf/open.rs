//! The UDP ports of this host, as the filter knows them.

use std::sync::{Arc, atomic::Ordering};

use aya::maps::Map;
use flood_common::{
    abi,
    open::{ALWAYS, LOOKED, WORDS, word},
    reflector::port_bit,
};

use crate::host::UdpPort;

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// The ports in the kernel.
pub struct OpenPorts {
    memory: MappedArray,
    clock: Arc<Clock>,
}

impl OpenPorts {
    pub(super) fn new(map: Map, clock: Arc<Clock>) -> Result<Self, BpfError> {
        Ok(Self { memory: MappedArray::new(abi::map::OPEN, map, WORDS * size_of::<u64>())?, clock })
    }

    /// Takes over what `look` finds. What was there before it and is not found has closed; what is set while it looks is in
    /// use, and stays until the next time.
    pub fn follow<E>(&self, look: impl FnOnce() -> Result<Vec<UdpPort>, E>) -> Result<(), E> {
        let words = &self.memory.words()[..LOOKED];
        let before: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let mut found = vec![0; words.len()];
        for UdpPort { port, has_peer } in look()?.into_iter().chain(ALWAYS.map(UdpPort::open)) {
            found[word(port)] |= port_bit(port);
            if has_peer {
                found[word(port) + 1] |= port_bit(port);
            }
        }
        for ((word, found), before) in words.iter().zip(found).zip(before) {
            word.fetch_or(found, Ordering::Relaxed);
            word.fetch_and(!(before & !found), Ordering::Relaxed);
        }
        self.memory.words()[LOOKED].store(self.clock.now_ns(), Ordering::Release);
        Ok(())
    }
}
