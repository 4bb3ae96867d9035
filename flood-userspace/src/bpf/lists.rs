//! The tables of the lists in the kernel.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::atomic::AtomicU64,
    thread,
};

use aya::maps::Map;
use flood_common::{
    abi,
    lists::{Prefix, gate_words},
    meter::WAYS,
};

use crate::lists::{
    Full,
    tables::{Layout, Memory, NoPlace},
};

use super::{error::BpfError, mapped::MappedArray};

/// How often a write is tried for which the kernel has no memory at hand. It fetches some in the background.
const TRIES: u32 = 100;

/// The maps.
pub struct ListMaps {
    gates: MappedArray,
    buckets: MappedArray,
    prefixes: OwnedFd,
    /// Kept open: programs that are loaded later name it by its file descriptor.
    _map: Map,
}

impl ListMaps {
    pub(super) fn new(layout: &Layout, gates: Map, buckets: Map, prefixes: Map) -> Result<Self, BpfError> {
        let word = size_of::<u64>();
        let gate_bytes = gate_words(layout.cell_bits) as usize * word;
        let Map::HashMap(data) = &prefixes else {
            return Err(BpfError::WrongObject { what: format!("map {} is no hash map", abi::map::PREFIXES) });
        };
        Ok(Self {
            gates: MappedArray::new(abi::map::GATES, gates, gate_bytes)?,
            buckets: MappedArray::new(abi::map::LISTED, buckets, (WAYS * word) << layout.bucket_bits)?,
            prefixes: data.fd().as_fd().try_clone_to_owned().map_err(access)?,
            _map: prefixes,
        })
    }
}

fn access(source: io::Error) -> BpfError {
    BpfError::MapAccess { map: abi::map::PREFIXES, source }
}

impl Memory for ListMaps {
    type Error = BpfError;

    fn gates(&self) -> &[AtomicU64] {
        self.gates.words()
    }

    fn buckets(&self) -> &[AtomicU64] {
        self.buckets.words()
    }

    fn set_prefixes(&mut self, prefixes: &[Prefix], words: &[[u64; 2]]) -> Result<(), BpfError> {
        let (mut done, mut tries) = (0, 0);
        while done < prefixes.len() {
            let (count, result) = batch(&self.prefixes, &prefixes[done..], Some(&words[done..]));
            done += count;
            tries = if count == 0 { tries + 1 } else { 0 };
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && tries < TRIES => {
                    thread::yield_now();
                }
                result => result.map_err(access)?,
            }
        }
        Ok(())
    }

    fn unset_prefixes(&mut self, prefixes: &[Prefix]) -> Result<(), BpfError> {
        let mut done = 0;
        while done < prefixes.len() {
            let (count, result) = batch(&self.prefixes, &prefixes[done..], None);
            done += count;
            match result {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => done += 1, // it is not there
                result => result.map_err(access)?,
            }
        }
        Ok(())
    }
}

/// Writes words into a hash map, or where there are none removes its elements, by one system call (bpf(2), Linux 5.6):
/// half the time of a call for each. Returns how many were done before the first error. aya has no such call.
fn batch(map: &OwnedFd, keys: &[Prefix], values: Option<&[[u64; 2]]>) -> (usize, io::Result<()>) {
    const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
    const BPF_MAP_DELETE_BATCH: libc::c_long = 27;

    /// `union bpf_attr`, the part for batches (include/uapi/linux/bpf.h).
    #[repr(C)]
    struct Attributes {
        in_batch: u64,
        out_batch: u64,
        keys: u64,
        values: u64,
        count: u32,
        map_fd: u32,
        elem_flags: u64,
        flags: u64,
    }

    let mut attributes = Attributes {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.map_or(0, |values| values.as_ptr() as u64),
        count: u32::try_from(keys.len()).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().cast_unsigned(),
        elem_flags: 0,
        flags: 0,
    };
    let command = if values.is_some() { BPF_MAP_UPDATE_BATCH } else { BPF_MAP_DELETE_BATCH };
    // SAFETY: the attributes are as long as is said, the kernel reads `count` keys and values behind the pointers,
    // which are as many, and writes nothing but `count`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut attributes, size_of::<Attributes>()) };
    if result == 0 {
        return (keys.len(), Ok(()));
    }
    let error = io::Error::last_os_error();
    // An error before the first element leaves the count as it was.
    let count = if attributes.count as usize == keys.len() { 0 } else { attributes.count as usize };
    (count, Err(error))
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
