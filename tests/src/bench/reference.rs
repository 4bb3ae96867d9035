//! The reference programs, loaded.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{LpmTrie, lpm_trie::Key},
    programs::{ProgramFd, Xdp, XdpMode},
};

use super::block_list::BlockList;

/// Where a reference keeps its state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// A limit for each source, in the kernel's LRU map.
    Lru,
    /// The same in one map for each processor.
    PerCpuLru,
    /// The same in a hash map with a lock in each entry.
    SpinLock,
    /// An IPv4 block list, in the kernel's trie.
    Lpm,
}

impl State {
    const ALL: [Self; 4] = [Self::Lru, Self::PerCpuLru, Self::SpinLock, Self::Lpm];

    /// The program and its map (flood-ebpf/src/reference.rs).
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Lru => ("lru_reference", "ARRIVALS"),
            Self::PerCpuLru => ("percpu_lru_reference", "OWN_ARRIVALS"),
            Self::SpinLock => ("spin_lock_reference", "LOCKED_ARRIVALS"),
            Self::Lpm => ("lpm_reference", "BLOCKED"),
        }
    }
}

/// The verdict on a packet that conforms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Conforming {
    /// It passes.
    Passes,
    /// It is dropped as well, because nothing behind the filter is to be measured.
    IsDropped,
}

impl Conforming {
    /// The action (linux/bpf.h).
    fn action(self) -> u32 {
        match self {
            Self::IsDropped => 1,
            Self::Passes => 2,
        }
    }
}

/// A reference program and its map, for the lifetime of this value.
pub(super) struct Reference {
    ebpf: Ebpf,
    program: &'static str,
}

impl Reference {
    /// Loads the trie with a list.
    pub(super) fn lpm(list: &BlockList, conforming: Conforming) -> Result<Self> {
        let mut reference = Self::load(State::Lpm, conforming)?;
        let mut blocked: LpmTrie<_, [u8; 4], u8> =
            reference.ebpf.map_mut("BLOCKED").context("no map BLOCKED")?.try_into()?;
        for prefix in list.prefixes() {
            if let IpAddr::V4(network) = prefix.network() {
                blocked.insert(&Key::new(prefix.prefix_len().into(), network.octets()), 1, 0)?;
            }
        }
        Ok(reference)
    }

    /// Loads a reference with an empty map.
    pub(super) fn load(state: State, conforming: Conforming) -> Result<Self> {
        let mut loader = EbpfLoader::new();
        let action = conforming.action();
        loader.override_global("CONFORMING", &action, true);
        // The kernel allocates all entries of a map at once; those of the other maps would be wasted.
        for other in State::ALL.into_iter().filter(|other| *other != state) {
            loader.map_max_entries(other.names().1, 1);
        }
        let mut ebpf = loader
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reference")))
            .context("loading the references (needs root)")?;
        let (program, _) = state.names();
        let xdp: &mut Xdp =
            ebpf.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
        xdp.load().with_context(|| format!("loading {program}"))?;
        Ok(Self { ebpf, program })
    }

    /// Attaches it to an interface of this thread's namespace, for the lifetime of `self`.
    pub(super) fn attach(&mut self, index: u32) -> Result<()> {
        let program: &mut Xdp =
            self.ebpf.program_mut(self.program).context("the program is gone")?.try_into()?;
        program.attach_to_if_index(index, XdpMode::Driver)?;
        Ok(())
    }

    pub(super) fn fd(&self) -> Result<ProgramFd> {
        let program: &Xdp = self.ebpf.program(self.program).context("the program is gone")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }
}
