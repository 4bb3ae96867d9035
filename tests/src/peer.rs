//! A hand-made TCP peer: it sends what a test tells it to, and nothing by itself. So a socket of the kernel can be
//! brought into any state, with known sequence numbers.
//!
//! It has an address that no interface has, at the far end of a veth pair to which this thread's network namespace
//! sends everything ([`Peer::prepare`]).

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use flood_common::{
    evidence::{Connection, Segment},
    packet::{Parsed, parse},
    solicit::Flow,
    wire::{Frame, protocol},
};

use crate::{
    lab::{command, slowness},
    packet::{Build, from},
    wire::Wire,
};

/// Both ends of the veth pair: the host's, and that of all peers.
const ENDS: [&str; 2] = ["wire", "far"];

/// The MAC address of the host's end.
const HOST_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xaa];

/// TCP flags.
pub const FIN: u8 = 0x01;
/// As above.
pub const SYN: u8 = 0x02;
/// As above.
pub const RST: u8 = 0x04;
/// As above.
pub const ACK: u8 = 0x10;

/// A window that no test fills.
const WINDOW: u32 = 60_000;

/// The peer.
pub struct Peer {
    address: IpAddr,
    port: u16,
    server: SocketAddr,
    wire: Wire,
    /// Index of the far end.
    interface: u32,
    /// The sequence number of the next segment that it sends.
    pub sequence: u32,
    /// What it has received.
    pub acknowledgement: u32,
}

impl Peer {
    /// Creates the veth pair in this thread's network namespace. It has no address resolution, because nothing would
    /// reply.
    pub fn prepare() -> Result<()> {
        let [host, far] = ENDS;
        command(&format!("ip link add {host} address 02:00:00:00:00:aa type veth peer name {far}"))?;
        for key in ["all", host] {
            fs::write(format!("/proc/sys/net/ipv4/conf/{key}/rp_filter"), "0")?;
        }
        command(&format!("ip link set {host} arp off up"))?;
        command(&format!("ip link set {far} up"))?;
        command(&format!("ip route add default dev {host}"))?;
        command(&format!("ip -6 route add default dev {host}"))?;
        Ok(())
    }

    /// Creates a peer of a server in this namespace.
    pub fn new(address: IpAddr, port: u16, server: SocketAddr) -> Result<Self> {
        let name = std::ffi::CString::new(ENDS[1])?;
        // SAFETY: the string ends with a NUL.
        let interface = unsafe { libc::if_nametoindex(name.as_ptr()) };
        ensure!(interface != 0, "no {}: {}", ENDS[1], io::Error::last_os_error());
        let wire = Wire::to_all()?;
        wire.set_patience(Duration::from_millis(100))?;
        Ok(Self { address, port, server, wire, interface, sequence: 1_000_000, acknowledgement: 0 })
    }

    /// Returns a segment with these flags and the next numbers.
    pub fn segment(&self, flags: u8) -> Build {
        let acknowledgement = if flags & ACK == 0 { 0 } else { self.acknowledgement };
        from(self.address)
            .to(self.server.ip())
            .tcp(self.port, self.server.port(), flags)
            .numbers(self.sequence, acknowledgement)
    }

    /// Sends a segment. A SYN or FIN counts as one byte.
    pub fn send(&mut self, flags: u8) -> Result<()> {
        let frame = self.segment(flags).patch(0, &HOST_MAC).bytes();
        self.wire.send(self.interface, &frame)?;
        if flags & (SYN | FIN) != 0 {
            self.sequence = self.sequence.wrapping_add(1);
        }
        Ok(())
    }

    /// Waits for a segment with exactly these flags, and records its numbers.
    pub fn receive(&mut self, flags: u8) -> Result<()> {
        let end = Instant::now() + Duration::from_secs(5) * slowness();
        let mut buffer = [0; 2_048];
        while Instant::now() < end {
            let Ok(frame) = self.wire.receive(&mut buffer) else { continue };
            let frame = Frame(frame);
            let Parsed::Packet(packet) = parse(frame) else { continue };
            let is_for_us = packet.destination == self.address.into()
                && packet.ports.is_some_and(|ports| {
                    (ports.source, ports.destination) == (self.server.port(), self.port)
                });
            let Some(segment) = Segment::read(&packet, frame).filter(|_| is_for_us) else { continue };
            if segment.flags == flags {
                let length = u32::from(flags & (SYN | FIN) != 0);
                self.acknowledgement = segment.sequence.wrapping_add(length);
                return Ok(());
            }
        }
        bail!("no segment with flags {flags:#x} for {}", self.address)
    }

    /// Sends a SYN, and waits for the reply: the server then has a request.
    pub fn ask(&mut self) -> Result<()> {
        self.send(SYN)?;
        self.receive(SYN | ACK)
    }

    /// Opens a connection.
    pub fn connect(&mut self) -> Result<()> {
        self.ask()?;
        self.send(ACK)
    }

    /// Returns the flow of its packets.
    pub fn flow(&self) -> Flow {
        Flow {
            protocol: protocol::TCP,
            remote: self.address.into(),
            local: self.server.ip().into(),
            remote_port: self.port,
            local_port: self.server.port(),
        }
    }

    /// Returns what the server's socket knows when the peer has acknowledged all but this many bytes.
    pub fn connection(&self, state: u32, outstanding: u32) -> Connection {
        Connection {
            state,
            unacknowledged: self.acknowledgement.wrapping_sub(outstanding),
            next: self.acknowledgement,
            expected: self.sequence,
            window: WINDOW,
        }
    }

    /// Returns the state of the server's socket, by its number, as the kernel reports it.
    pub fn state(&self) -> Result<Option<u32>> {
        let file = if self.address.is_ipv4() { "tcp" } else { "tcp6" };
        let table = fs::read_to_string(format!("/proc/thread-self/net/{file}"))?;
        let ports = (format!(":{:04X}", self.server.port()), format!(":{:04X}", self.port));
        let line = table.lines().find(|line| {
            let mut columns = line.split_whitespace().skip(1);
            let mut is = |end: &str| columns.next().is_some_and(|address| address.ends_with(end));
            is(&ports.0) && is(&ports.1)
        });
        line.and_then(|line| line.split_whitespace().nth(3))
            .map(|state| u32::from_str_radix(state, 16).with_context(|| state.to_owned()))
            .transpose()
    }
}
