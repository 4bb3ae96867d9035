//! The tables of the lists in the kernel.

use std::{sync::atomic::AtomicU64, thread};

use aya::maps::{HashMap, Map, MapData, MapError};
use flood_common::{
    abi,
    lists::{Prefix, gate_words},
    meter::WAYS,
};

use crate::lists::{
    Full,
    tables::{Layout, Memory, NoPlace},
};

use super::{
    error::{BpfError, errno},
    mapped::MappedArray,
    plain::Plain,
};

/// How often a write is tried for which the kernel has no memory at hand. It fetches some in the background.
const TRIES: u32 = 100;

/// The maps.
pub struct ListMaps {
    gates: MappedArray,
    buckets: MappedArray,
    prefixes: HashMap<MapData, Plain<Prefix>, [u64; 2]>,
}

impl ListMaps {
    pub(super) fn new(layout: &Layout, gates: &Map, buckets: &Map, prefixes: Map) -> Result<Self, BpfError> {
        let word = size_of::<u64>();
        let gate_bytes = gate_words(layout.cell_bits) as usize * word;
        let prefixes =
            HashMap::try_from(prefixes).map_err(|error| BpfError::map(abi::map::PREFIXES, &error))?;
        Ok(Self {
            gates: MappedArray::new(abi::map::GATES, gates, gate_bytes)?,
            buckets: MappedArray::new(abi::map::LISTED, buckets, (WAYS * word) << layout.bucket_bits)?,
            prefixes,
        })
    }
}

impl Memory for ListMaps {
    type Error = BpfError;

    fn gates(&self) -> &[AtomicU64] {
        self.gates.words()
    }

    fn buckets(&self) -> &[AtomicU64] {
        self.buckets.words()
    }

    fn set_prefix(&mut self, prefix: &Prefix, words: [u64; 2]) -> Result<(), BpfError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.prefixes.insert(Plain(*prefix), words, 0) {
                Err(error) if errno(&error) == Some(libc::ENOMEM) && tries < TRIES => thread::yield_now(),
                result => return result.map_err(|error| BpfError::map(abi::map::PREFIXES, &error)),
            }
        }
    }

    fn unset_prefix(&mut self, prefix: &Prefix) -> Result<(), BpfError> {
        match self.prefixes.remove(&Plain(*prefix)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(BpfError::map(abi::map::PREFIXES, &error)),
        }
    }
}

impl From<NoPlace> for BpfError {
    fn from(error: NoPlace) -> Self {
        Self::Other { what: "writing the lists", cause: error.to_string() }
    }
}

impl From<Full> for BpfError {
    fn from(full: Full) -> Self {
        Self::ListFull(full)
    }
}
