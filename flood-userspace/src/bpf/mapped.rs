//! Array maps in this process's memory, read and written without system calls while the filter runs.

use std::{
    os::fd::AsFd,
    sync::atomic::{AtomicU64, Ordering},
};

use aya::maps::Map;
use memmap2::{MmapOptions, MmapRaw};

use super::error::BpfError;

/// An mmapable array map.
pub(super) struct MappedArray {
    memory: MmapRaw,
    bytes: usize,
    /// Kept open: programs that are loaded later refer to it by its file descriptor.
    _map: Map,
}

impl MappedArray {
    /// Maps the values of `map`, `bytes` in all.
    pub(super) fn new(name: &'static str, map: Map, bytes: usize) -> Result<Self, BpfError> {
        let Map::Array(data) = &map else {
            return Err(BpfError::WrongObject { what: format!("map {name} is not an array") });
        };
        let memory = MmapOptions::new()
            .len(bytes)
            .map_raw(&data.fd().as_fd())
            .map_err(|source| BpfError::MapAccess { map: name, source })?;
        Ok(Self { memory, bytes, _map: map })
    }

    /// Returns the beginning of the values, page-aligned.
    pub(super) fn start(&self) -> *mut u8 {
        self.memory.as_mut_ptr()
    }

    /// Writes the first words.
    pub(super) fn write(&self, words: &[u64]) {
        for (place, word) in self.words().iter().zip(words) {
            place.store(*word, Ordering::Relaxed);
        }
    }

    /// Returns the values as words, which the kernel reads and writes, too.
    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is `bytes` long, page-aligned, lives as long as `self`, and every access to it, by
        // the kernel as well, is an aligned 64-bit load or compare-and-swap.
        unsafe {
            std::slice::from_raw_parts(self.start().cast::<AtomicU64>(), self.bytes / size_of::<AtomicU64>())
        }
    }
}
