//! The reference programs, loaded.

use std::net::IpAddr;

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{LpmTrie, lpm_trie::Key},
    programs::{ProgramFd, Xdp},
};

use super::block_list::BlockList;

/// A program of the object, and its maps for as long as this lives.
pub(super) struct Reference {
    ebpf: Ebpf,
    program: &'static str,
}

impl Reference {
    /// A limit of each source, in the kernel's LRU map.
    pub(super) fn lru() -> Result<Self> {
        Self::load("lru_reference")
    }

    /// An IPv4 block list, in the kernel's trie.
    pub(super) fn lpm(list: &BlockList) -> Result<Self> {
        let mut reference = Self::load("lpm_reference")?;
        let mut blocked: LpmTrie<_, [u8; 4], u8> =
            reference.ebpf.map_mut("BLOCKED").context("no map BLOCKED")?.try_into()?;
        for prefix in list.prefixes() {
            if let IpAddr::V4(network) = prefix.network() {
                blocked.insert(&Key::new(prefix.prefix_len().into(), network.octets()), 1, 0)?;
            }
        }
        Ok(reference)
    }

    fn load(program: &'static str) -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/reference")))
            .context("loading the references (needs root)")?;
        let xdp: &mut Xdp =
            ebpf.program_mut(program).with_context(|| format!("no program {program}"))?.try_into()?;
        xdp.load().with_context(|| format!("loading {program}"))?;
        Ok(Self { ebpf, program })
    }

    pub(super) fn fd(&self) -> Result<ProgramFd> {
        let program: &Xdp = self.ebpf.program(self.program).context("the program is gone")?.try_into()?;
        Ok(program.fd()?.try_clone()?)
    }
}
