//! The laboratory's BPF programs: the generator, the switch, and the harness that benches other programs.

use anyhow::{Context, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{
        LinkOrder, ProgramFd, SchedClassifier, TcAttachType, Xdp,
        tc::{NlOptions, TcAttachOptions},
    },
};

/// The loaded laboratory.
pub struct Programs {
    ebpf: Ebpf,
    /// Which bit of the upper 64 of an IPv6 address the numbers of sources begin at.
    lowest_bit: u32,
}

/// A source is a /48, if nothing else is said.
const LOWEST_BIT: u32 = 16;

/// Where a generated packet's source comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sources {
    /// IPv4: the first address. IPv6: the upper 64 bits of the first.
    pub first: u64,
    /// How many there are: a power of two, at most 2^32.
    pub count: u64,
    /// Whether they fill one block of addresses, rather than being strewn over all.
    pub adjacent: bool,
}

impl Programs {
    /// Makes the maps; a program is loaded when it is asked for.
    pub fn load() -> Result<Self> {
        let ebpf = EbpfLoader::new()
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab")))
            .context("loading the laboratory (needs root)")?;
        Ok(Self { ebpf, lowest_bit: LOWEST_BIT })
    }

    /// The program of this name.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// Puts the program `leave` on the way out of an interface of this thread's namespace, for as long as this lives: into
    /// `clsact`, or as a link of its own.
    pub fn stand_on_the_way_out(&mut self, interface: &str, clsact: bool) -> Result<()> {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut("leave").context("no program leave")?.try_into()?;
        program.load().context("loading leave")?;
        let options = if clsact {
            TcAttachOptions::Netlink(NlOptions::default())
        } else {
            TcAttachOptions::TcxOrder(LinkOrder::default())
        };
        program
            .attach_with_options(interface, TcAttachType::Egress, options)
            .with_context(|| format!("attaching to {interface}"))?;
        Ok(())
    }

    /// Says where `harness` and `flood` take sources from.
    pub fn set_sources(&mut self, sources: Sources) -> Result<()> {
        let mut map: Array<_, [u64; 4]> =
            self.ebpf.map_mut("SOURCES").context("no map SOURCES")?.try_into()?;
        let mask = sources.count - 1;
        let within = if sources.adjacent { mask } else { u64::MAX };
        map.set(0, [sources.first, mask, within, self.lowest_bit.into()], 0)?;
        Ok(())
    }

    /// Says which bit of the upper 64 of an IPv6 address the numbers of sources begin at, before they are set.
    pub fn set_lowest_bit(&mut self, bit: u32) {
        self.lowest_bit = bit;
    }

    /// Says what `flood` sends.
    pub fn set_frame(&mut self, frame: &[u8]) -> Result<()> {
        let mut map: Array<_, [u64; 17]> = self.ebpf.map_mut("FRAME").context("no map FRAME")?.try_into()?;
        let headers = &frame[..frame.len().min(128)];
        let mut words = [0; 17];
        words[0] = headers.len().saturating_sub(1) as u64;
        for (word, bytes) in words[1..].iter_mut().zip(headers.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            *word = u64::from_ne_bytes(whole);
        }
        map.set(0, words, 0)?;
        Ok(())
    }

    /// Says which program `harness` calls.
    pub fn set_target(&mut self, target: &ProgramFd) -> Result<()> {
        let mut map: ProgramArray<_> = self.ebpf.map_mut("TARGET").context("no map TARGET")?.try_into()?;
        map.set(0, target, 0)?;
        Ok(())
    }

    /// Says behind which interface the destination MAC address that ends in `last_byte` is.
    pub fn set_port(&mut self, last_byte: u8, interface_index: u32) -> Result<()> {
        let mut map: Array<_, u32> = self.ebpf.map_mut("PORTS").context("no map PORTS")?.try_into()?;
        map.set(u32::from(last_byte), interface_index, 0)?;
        Ok(())
    }
}
