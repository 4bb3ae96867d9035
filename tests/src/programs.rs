//! The laboratory's BPF programs: the generator, the switch, and the harness that benchmarks other programs.

use std::{fs::File, io, thread};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{
        LinkOrder, ProgramFd, SchedClassifier, TcAttachType, Xdp, XdpMode,
        tc::{NlOptions, TcAttachOptions},
    },
};

use flood_common::{
    address::Address,
    packet::{Parsed, Part, parse},
    wire::{Frame, protocol},
};

use crate::packet::Varied;

/// Number of places in a frame that can vary (flood-ebpf/src/lab.rs).
const PLACES: usize = 4;

/// The loaded laboratory.
pub struct Programs {
    ebpf: Ebpf,
    /// The bit of the upper 64 of an IPv6 address at which the source number begins.
    lowest_bit: u32,
    /// The namespaces of [`attach_nowhere`](Self::attach_nowhere).
    nowhere: Vec<File>,
}

/// A source is a /48 by default.
const LOWEST_BIT: u32 = 16;

/// Where a generated packet's source comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sources {
    /// IPv4: the first address. IPv6: the upper 64 bits of the first.
    pub first: u64,
    /// Number of sources: a power of two, at most 2^32.
    pub count: u64,
    /// Whether they fill one block of addresses, rather than being spread over all addresses.
    pub adjacent: bool,
}

impl Programs {
    /// Creates the maps. Each program is loaded when it is requested.
    pub fn load() -> Result<Self> {
        let ebpf = EbpfLoader::new()
            .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/lab")))
            .context("loading the laboratory (needs root)")?;
        Ok(Self { ebpf, lowest_bit: LOWEST_BIT, nowhere: Vec::new() })
    }

    /// Returns the program of this name.
    pub fn program(&mut self, name: &str) -> Result<&mut Xdp> {
        let program: &mut Xdp =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        if program.fd().is_err() {
            program.load().with_context(|| format!("loading {name}"))?;
        }
        Ok(program)
    }

    /// Attaches a program where no packet arrives, in a network namespace of its own, for the lifetime of `self`.
    ///
    /// A test run of more than one frame enters its program into the kernel's dispatcher of XDP programs, and removes
    /// it afterwards. Both wait for an RCU grace period, some 25 ms (`bpf_dispatcher_update`,
    /// kernel/bpf/dispatcher.c, Linux 6.18). An attached program is in the dispatcher already.
    pub fn attach_nowhere(&mut self, name: &str) -> Result<()> {
        const LOOPBACK: u32 = 1;

        let program = self.program(name)?;
        let namespace = thread::scope(|scope| {
            let attaching = scope.spawn(|| {
                // SAFETY: this moves only the current thread, which ends at once.
                let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
                ensure!(moved == 0, "making a network namespace: {}", io::Error::last_os_error());
                program
                    .attach_to_if_index(LOOPBACK, XdpMode::Skb)
                    .with_context(|| format!("attaching {name}"))?;
                Ok(File::open("/proc/thread-self/ns/net")?)
            });
            attaching.join().unwrap_or_else(|_| bail!("a thread panicked"))
        })?;
        self.nowhere.push(namespace);
        Ok(())
    }

    /// Attaches the program `leave` to the egress of an interface of this thread's namespace, for the lifetime of
    /// `self`: in `clsact`, or as a link of its own.
    pub fn stand_on_the_way_out(&mut self, interface: &str, clsact: bool) -> Result<()> {
        let options = if clsact {
            TcAttachOptions::Netlink(NlOptions::default())
        } else {
            TcAttachOptions::TcxOrder(LinkOrder::default())
        };
        self.stand_on_the_way("leave", interface, TcAttachType::Egress, options)
    }

    /// Counts what reaches the network stack through an interface of this thread's namespace, for the lifetime of
    /// `self`.
    pub fn count_arrivals(&mut self, interface: &str) -> Result<()> {
        let options = TcAttachOptions::TcxOrder(LinkOrder::default());
        self.stand_on_the_way("count_arrivals", interface, TcAttachType::Ingress, options)
    }

    fn stand_on_the_way(
        &mut self,
        name: &str,
        interface: &str,
        way: TcAttachType,
        options: TcAttachOptions,
    ) -> Result<()> {
        let program: &mut SchedClassifier =
            self.ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
        program.load().with_context(|| format!("loading {name}"))?;
        program
            .attach_with_options(interface, way, options)
            .with_context(|| format!("attaching {name} to {interface}"))?;
        Ok(())
    }

    /// Returns the number of packets [counted](Self::count_arrivals) from the MAC address that ends in this byte.
    pub fn arrivals(&self, last_byte: u8) -> Result<u64> {
        let map: PerCpuArray<_, u64> = self.ebpf.map("ARRIVALS").context("no map ARRIVALS")?.try_into()?;
        Ok(map.get(&u32::from(last_byte), 0)?.iter().sum())
    }

    /// Sets where `harness` and `flood` take sources from.
    pub fn set_sources(&mut self, sources: Sources) -> Result<()> {
        let mut map: Array<_, [u64; 4]> =
            self.ebpf.map_mut("SOURCES").context("no map SOURCES")?.try_into()?;
        let mask = sources.count - 1;
        let within = if sources.adjacent { mask } else { u64::MAX };
        map.set(0, [sources.first, mask, within, self.lowest_bit.into()], 0)?;
        Ok(())
    }

    /// Sets the bit of the upper 64 of an IPv6 address at which source numbers begin. Call it before sources are set.
    pub fn set_lowest_bit(&mut self, bit: u32) {
        self.lowest_bit = bit;
    }

    /// Sets the frame that `flood` sends, and what varies in it besides the source.
    pub fn set_frame(&mut self, frame: &[u8], varied: &[Varied]) -> Result<()> {
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
        let mut places = [[0; 2]; PLACES];
        ensure!(varied.len() <= PLACES, "only {PLACES} places of a frame can vary");
        for (place, Varied { offset, mask }) in places.iter_mut().zip(varied) {
            *place = [u32::try_from(*offset)?, *mask];
        }
        let mut map: Array<_, [[u32; 2]; PLACES]> =
            self.ebpf.map_mut("VARIED").context("no map VARIED")?.try_into()?;
        map.set(0, places, 0)?;
        let mut map: Array<_, [u32; 3]> =
            self.ebpf.map_mut("CHECKSUMS").context("no map CHECKSUMS")?.try_into()?;
        map.set(0, checksums(frame), 0)?;
        Ok(())
    }

    /// Makes `flood` rewrite every frame, not only the answered ones, so that its cost does not depend on the filter.
    pub fn write_each_anew(&mut self) -> Result<()> {
        let mut map: Array<_, [u64; 17]> = self.ebpf.map_mut("FRAME").context("no map FRAME")?.try_into()?;
        let mut words = map.get(&0, 0)?;
        words[0] |= 1 << 32;
        map.set(0, words, 0)?;
        Ok(())
    }

    /// Sets how many nanoseconds `flood_in_bursts` waits before each burst, and how many frames a burst has.
    pub fn set_bursts(&mut self, pause_ns: u64, frames: u32) -> Result<()> {
        let mut map: Array<_, [u64; 3]> = self.ebpf.map_mut("BURSTS").context("no map BURSTS")?.try_into()?;
        map.set(0, [pause_ns, frames.into(), 0], 0)?;
        Ok(())
    }

    /// Sets the program that `harness` calls.
    pub fn set_target(&mut self, target: &ProgramFd) -> Result<()> {
        let mut map: ProgramArray<_> = self.ebpf.map_mut("TARGET").context("no map TARGET")?.try_into()?;
        map.set(0, target, 0)?;
        Ok(())
    }

    /// Sets the interface behind which the destination MAC address that ends in `last_byte` is.
    pub fn set_port(&mut self, last_byte: u8, interface_index: u32) -> Result<()> {
        let mut map: Array<_, u32> = self.ebpf.map_mut("PORTS").context("no map PORTS")?.try_into()?;
        map.set(u32::from(last_byte), interface_index, 0)?;
        Ok(())
    }
}

/// Returns the offsets of a frame's checksums: of the IPv4 header, and of the payload protocol; 0 if there is none,
/// as in fragments, which do not hold all that the checksum covers. The third value is 1 if the second checksum
/// covers the addresses.
fn checksums(frame: &[u8]) -> [u32; 3] {
    let Parsed::Packet(packet) = parse(Frame(frame)) else { return [0; 3] };
    let header = match packet.source {
        Address::V4(_) => packet.network_at + 10,
        Address::V6 { .. } => 0,
    };
    let behind = match packet.protocol {
        protocol::TCP => Some(16),
        protocol::UDP => Some(6),
        protocol::ICMP | protocol::ICMPV6 => Some(2),
        _ => None,
    };
    let behind =
        behind.filter(|_| packet.part == Part::Whole).map_or(0, |behind| packet.transport_at + behind);
    [header as u32, behind as u32, u32::from(packet.protocol != protocol::ICMP)]
}
