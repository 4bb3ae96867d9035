//! The attacker: phases of packets of one kind each.
//!
//! A phase has a frame or two, and overwrites the address, port and numbers of each packet. The checksums are wrong
//! then, but the filter does not check them.

use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use flood_common::{
    class::Class,
    evidence::{Connection, state},
    host::Between,
    reason::Reason,
    reflector::REFLECTORS,
    solicit::Flow,
    wire::protocol,
};
use proptest::{prelude::*, sample::select};

use super::{
    ATTACKER, MS, RESOLVER, SECOND, START, VISITOR,
    ledger::Evidence,
    port,
    world::{IntoAddress, World, flow},
};
use crate::packet::{Build, from};

/// What the attacker sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// UDP from any port.
    Udp,
    /// UDP from a reflector port.
    Reflected,
    /// SYNs with sequence numbers derived from the ports.
    Syn,
    /// SYN-ACKs with guessed numbers.
    SynAck,
    /// ACKs with guessed numbers.
    Ack,
    /// RSTs with guessed numbers.
    Rst,
    /// Pings.
    Echo,
    /// ICMP errors that quote a packet of the host: of a connection with a visitor, with guessed numbers, or of a
    /// service.
    Error,
    /// Later fragments without a first one.
    Later,
    /// Datagrams in two fragments each.
    Fragments,
    /// A protocol without ports.
    Other,
    /// Packets of a connection of the attacker.
    OwnConnection,
    /// Errors about that connection.
    OwnError,
    /// Connections that the attacker opens.
    OwnHandshake,
    /// Replies of the attacker's server, to which the host sent one request.
    OwnAnswer,
    /// Packets of a session with the attacker's server.
    OwnSession,
}

/// The destination of the packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// A service: the web server, or the UDP service on a port below the client port range.
    Service,
    /// The other service: a server that accepts no connections, or the UDP service on a port in the client port
    /// range.
    Other,
    /// A closed port.
    Closed,
    /// A random port of the host's client port range.
    Client,
}

/// The source addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pool {
    /// The attacker.
    Own,
    /// The attacker's /24.
    OwnNetwork,
    /// A visitor's address.
    Visitor,
    /// The visitor's /24.
    VisitorNetwork,
    /// The host's resolver.
    Resolver,
    /// This many addresses.
    Many(u32),
}

impl Pool {
    /// Returns the source address of a packet.
    fn address(self, number: u32) -> Ipv4Addr {
        let within = |network: Ipv4Addr| Ipv4Addr::from((network.to_bits() & !0xff) + number % 256);
        match self {
            Self::Own => ATTACKER,
            Self::OwnNetwork => within(ATTACKER),
            Self::Visitor => VISITOR,
            Self::VisitorNetwork => within(VISITOR),
            Self::Resolver => RESOLVER,
            // The benchmarking range (RFC 2544): a /24 for each address, as long as there are enough.
            Self::Many(count) => {
                Ipv4Addr::from(0xc612_0000 | (number % count) << 8 & 0x1_ff00 | (number % count) >> 9)
            }
        }
    }

    fn size(self) -> u32 {
        match self {
            Self::Own | Self::Visitor | Self::Resolver => 1,
            Self::OwnNetwork | Self::VisitorNetwork => 256,
            Self::Many(count) => count,
        }
    }
}

/// A phase of an attack.
#[derive(Clone, Debug)]
pub struct Phase {
    /// Kind of packets.
    pub kind: Kind,
    /// Destination.
    pub aim: Aim,
    /// Source addresses, unless the packets are the attacker's own.
    pub pool: Pool,
    /// Number of source ports of each address.
    pub ports: u16,
    /// Bytes of data.
    pub size: usize,
    /// If set, one in this many packets is a large one.
    pub large_every: Option<u32>,
    /// Packets a second.
    pub rate: u32,
    /// When it begins, milliseconds.
    pub start_ms: u64,
    /// How long it lasts, milliseconds.
    pub length_ms: u64,
}

/// Bytes of data of a large packet.
const LARGE: usize = 1_400;

/// Maximum number of datagrams of one address in a second. For two seconds the filter remembers, by identifier, the
/// verdict on the first fragment. No identifier is used twice in this time, so that the class of the other fragments
/// is known.
const DATAGRAMS: u32 = 7_000;

/// The port of the attacker's connection.
const OWN_PORT: u16 = 50_000;

impl Phase {
    /// Returns a flood of two seconds.
    pub fn flood(kind: Kind, aim: Aim, pool: Pool, rate: u32) -> Self {
        Self {
            kind,
            aim,
            pool,
            ports: 1_000,
            size: 10,
            large_every: None,
            rate,
            start_ms: 500,
            length_ms: 2_000,
        }
    }

    pub(super) fn any() -> impl Strategy<Value = Self> {
        let kinds = select(vec![
            Kind::Udp,
            Kind::Reflected,
            Kind::Syn,
            Kind::SynAck,
            Kind::Ack,
            Kind::Rst,
            Kind::Echo,
            Kind::Error,
            Kind::Later,
            Kind::Fragments,
            Kind::Other,
            Kind::OwnConnection,
            Kind::OwnError,
            Kind::OwnHandshake,
            Kind::OwnAnswer,
            Kind::OwnSession,
        ]);
        let aims = select(vec![Aim::Service, Aim::Other, Aim::Closed, Aim::Client]);
        let sizes = (prop_oneof![Just(10_usize), 10..LARGE], prop::option::of(2_u32..400));
        let rates = prop_oneof![100..2_000_u32, 2_000..20_000_u32, 20_000..40_000_u32];
        let times = (0..2_000_u64, 200..2_500_u64);
        (kinds, aims, Self::any_source(), sizes, rates, times).prop_map(
            |(kind, aim, (pool, ports), (size, large_every), rate, (start_ms, length_ms))| Self {
                kind,
                aim,
                pool,
                ports,
                size,
                large_every,
                rate,
                start_ms,
                length_ms,
            },
        )
    }

    /// Draws any pool and number of ports.
    pub(super) fn any_source() -> impl Strategy<Value = (Pool, u16)> {
        let pools = prop_oneof![
            select(vec![Pool::Own, Pool::OwnNetwork, Pool::Visitor, Pool::VisitorNetwork, Pool::Resolver]),
            (1_u32..4_096).prop_map(Pool::Many),
        ];
        let ports = prop_oneof![Just(1_u16), 2..100_u16, 1_000..60_000_u16];
        (pools, ports)
    }

    /// Begins it, as one of four phases at most.
    pub(super) fn begin(&self, index: usize, random: Rng) -> Running {
        let pool = match self.kind {
            Kind::OwnConnection | Kind::OwnHandshake | Kind::OwnAnswer | Kind::OwnSession => Pool::Own,
            _ => self.pool,
        };
        let rate =
            if self.kind == Kind::Fragments { self.rate.min(DATAGRAMS * pool.size()) } else { self.rate };
        let frames = [self.size, LARGE].map(|size| self.build(size).bytes());
        let start_ns = START + self.start_ms * MS;
        let end_ns = start_ns + self.length_ms * MS;
        Running {
            phase: Self { pool, rate, ..self.clone() },
            index: index as u16,
            frames,
            number: 0,
            next_ns: start_ns,
            end_ns,
            own: None,
            random,
        }
    }

    fn build(&self, size: usize) -> Build {
        const TIME_EXCEEDED: u8 = 11;
        let packet = from(IpAddr::V4(ATTACKER));
        let to = self.port();
        match self.kind {
            Kind::Udp | Kind::Reflected => packet.udp(0, to).payload(size),
            Kind::Syn | Kind::OwnHandshake => packet.tcp(0, to, SYN).payload(0),
            Kind::SynAck => packet.tcp(0, to, SYN | ACK),
            Kind::Ack => packet.tcp(0, to, ACK).payload(size),
            Kind::Rst => packet.tcp(0, to, RST),
            Kind::Echo => packet.echo_request().payload(size),
            Kind::Error => quoting(packet.icmp(TIME_EXCEEDED, 0), &self.quoted(), 0),
            Kind::OwnError => quoting(packet.icmp(TIME_EXCEEDED, 0), &own_connection(), 0),
            Kind::Later => packet.udp(0, to).payload(size / 8 * 8).fragment(100, true),
            Kind::Fragments => packet.udp(0, to).payload(size / 8 * 8).fragment(0, true),
            Kind::Other => packet.protocol(47).payload(size),
            Kind::OwnConnection => packet.tcp(OWN_PORT, port::WEB, ACK).payload(size),
            Kind::OwnAnswer => packet.udp(53, port::ASKED).payload(size),
            Kind::OwnSession => packet.udp(443, port::SESSION).payload(size),
        }
    }

    fn is_udp(&self) -> bool {
        matches!(self.kind, Kind::Udp | Kind::Reflected | Kind::Later | Kind::Fragments)
    }

    fn port(&self) -> u16 {
        match (self.aim, self.is_udp()) {
            (Aim::Service, true) => port::GAME,
            (Aim::Service, false) => port::WEB,
            (Aim::Other, true) => port::VOICE,
            (Aim::Other, false) => port::STUCK,
            (Aim::Closed | Aim::Client, _) => port::CLOSED,
        }
    }

    /// The flow that an error quotes.
    fn quoted(&self) -> Flow {
        let visitor = VISITOR.into_address();
        match self.aim {
            Aim::Service => flow(protocol::TCP, visitor, super::visitors::CONNECTED, port::WEB),
            Aim::Other => flow(protocol::UDP, visitor, 5_000, port::VOICE),
            Aim::Closed | Aim::Client => flow(protocol::UDP, visitor, 5_000, port::CLOSED),
        }
    }

    /// Returns the class of a packet from this port, according to the documentation.
    fn class(&self, source_port: u16, absence: bool) -> Class {
        let is_closed = absence && matches!(self.aim, Aim::Closed | Aim::Client);
        match self.kind {
            Kind::Udp | Kind::Reflected | Kind::Fragments if is_closed => Class::Closed,
            Kind::Udp | Kind::Reflected | Kind::Fragments => udp_class(source_port),
            Kind::Syn | Kind::OwnHandshake => Class::Syn,
            Kind::SynAck => Class::SynAck,
            Kind::Ack | Kind::OwnConnection => Class::Tcp,
            Kind::Rst => Class::RstFin,
            Kind::Echo => Class::Icmp,
            Kind::Error | Kind::OwnError => Class::IcmpError,
            Kind::Later => Class::Fragment,
            Kind::Other => Class::Other,
            Kind::OwnAnswer | Kind::OwnSession => Class::Amplification,
        }
    }

    fn evidence(&self) -> Evidence {
        match self.kind {
            Kind::OwnConnection | Kind::OwnSession => Evidence::Connection,
            Kind::OwnError => Evidence::Error,
            Kind::OwnAnswer => Evidence::Answer,
            _ => Evidence::Nothing,
        }
    }
}

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Returns the class of UDP to an open port, by source port.
pub(super) fn udp_class(source_port: u16) -> Class {
    let is_reflected = REFLECTORS.iter().any(|reflector| reflector.port == source_port);
    if is_reflected { Class::Amplification } else { Class::Udp }
}

/// An ICMP error that quotes a packet of the host with this sequence number.
pub(super) fn quoting(icmp: Build, flow: &Flow, sequence: u32) -> Build {
    let at = icmp.transport_offset() + 8;
    let Flow { local, remote, remote_port, local_port, .. } = *flow;
    let quoted = from(local.into()).to(remote.into());
    let quoted = match flow.protocol {
        protocol::TCP => quoted.tcp(local_port, remote_port, ACK).numbers(sequence, 0),
        _ => quoted.udp(local_port, remote_port).payload(20),
    };
    // An IP header and the first eight bytes.
    let quote = &quoted.bytes()[14..42];
    icmp.payload(quote.len()).patch(at, quote)
}

fn own_connection() -> Flow {
    flow(protocol::TCP, ATTACKER.into_address(), OWN_PORT, port::WEB)
}

/// A running phase.
pub(super) struct Running {
    phase: Phase,
    index: u16,
    frames: [Vec<u8>; 2],
    number: u32,
    pub(super) next_ns: u64,
    end_ns: u64,
    own: Option<Connection>,
    random: Rng,
}

/// Offsets in a frame.
mod at {
    pub(super) const IDENTIFIER: usize = 18;
    pub(super) const OFFSET: usize = 20;
    pub(super) const SOURCE: usize = 26;
    pub(super) const PORTS: usize = 34;
    pub(super) const NUMBERS: usize = 38;
    /// The sequence number that an error quotes.
    pub(super) const QUOTED: usize = 14 + 20 + 8 + 20 + 4;
}

fn write<const N: usize>(frame: &mut [u8], at: usize, bytes: [u8; N]) {
    frame[at..at + N].copy_from_slice(&bytes);
}

impl Running {
    /// Sends a packet.
    pub(super) fn fire(&mut self, world: &mut World) -> Result<(), String> {
        let number = self.number;
        self.number += 1;
        let size = self.phase.pool.size();
        let (address, nth) = (self.phase.pool.address(number), number / size % u32::from(self.phase.ports));
        let is_large = self.phase.large_every.is_some_and(|every| number % every == every - 1);
        let source_port = self.source_port(nth as u16);
        let class = self.phase.class(source_port, world.settings.absence != 0);
        let numbers = self.numbers(world, nth);

        let kind = self.phase.kind;
        let datagram = self.datagram(number / size);
        let frame = &mut self.frames[usize::from(is_large)];
        write(frame, at::SOURCE, address.octets());
        match kind {
            Kind::Echo | Kind::Other => {}
            Kind::Error | Kind::OwnError => write(frame, at::QUOTED, numbers[0].to_be_bytes()),
            Kind::Later | Kind::Fragments => {
                write(frame, at::IDENTIFIER, datagram.to_be_bytes());
                if kind == Kind::Fragments {
                    // The first fragment: more follow.
                    write(frame, at::OFFSET, 0x2000_u16.to_be_bytes());
                    write(frame, at::PORTS, source_port.to_be_bytes());
                }
            }
            Kind::Udp | Kind::Reflected | Kind::OwnAnswer | Kind::OwnSession => {
                write(frame, at::PORTS, source_port.to_be_bytes());
                if self.phase.aim == Aim::Client && matches!(kind, Kind::Udp | Kind::Reflected) {
                    write(frame, at::PORTS + 2, self.random.u16(port::TAKEN).to_be_bytes());
                }
            }
            Kind::Syn | Kind::SynAck | Kind::Ack | Kind::Rst | Kind::OwnConnection | Kind::OwnHandshake => {
                write(frame, at::PORTS, source_port.to_be_bytes());
                write(frame, at::NUMBERS, numbers[0].to_be_bytes());
                write(
                    frame,
                    at::NUMBERS + 4,
                    if kind == Kind::Syn { [0; 4] } else { numbers[1].to_be_bytes() },
                );
            }
        }
        let judged = world.attack(frame, (class, self.phase.evidence()), false)?;
        match kind {
            Kind::Fragments => {
                // It has the class of its first fragment, if that was noted. A packet that passes by a second look is
                // not noted.
                let class = if judged.reason == Reason::Conforming { class } else { Class::Fragment };
                write(frame, at::OFFSET, 100_u16.to_be_bytes());
                world.attack(frame, (class, Evidence::Nothing), false)?;
            }
            Kind::OwnHandshake if judged.passed() || judged.reason.verdict() == "answer" => {
                self.acknowledge(world, source_port, numbers[0])?;
            }
            _ => {}
        }
        self.next_ns +=
            u64::from(2 * SECOND as u32 / self.phase.rate) * u64::from(self.random.u32(1..1_000)) / 1_000;
        if self.next_ns > self.end_ns {
            self.next_ns = u64::MAX;
        }
        Ok(())
    }

    /// The identifier of a datagram, unique to this phase.
    fn datagram(&self, nth: u32) -> u16 {
        (nth % 0x4000) as u16 + (self.index << 14)
    }

    fn source_port(&self, nth: u16) -> u16 {
        match self.phase.kind {
            Kind::Reflected => REFLECTORS[usize::from(nth) % REFLECTORS.len()].port,
            Kind::OwnConnection => OWN_PORT,
            Kind::OwnAnswer => 53,
            Kind::OwnSession => 443,
            _ => 1_024 + nth % 60_000,
        }
    }

    /// Sequence and acknowledgement numbers.
    fn numbers(&mut self, world: &mut World, nth: u32) -> [u32; 2] {
        match self.phase.kind {
            Kind::Syn | Kind::OwnHandshake => [nth.wrapping_mul(0x9e37_79b1), 0],
            Kind::OwnConnection => self.own(world),
            Kind::OwnError => {
                let [_, sent] = self.own(world);
                [sent, 0]
            }
            _ => [self.random.u32(..), self.random.u32(..)],
        }
    }

    /// Sequence and acknowledgement numbers that fit the attacker's connection.
    fn own(&mut self, world: &mut World) -> [u32; 2] {
        let own = *self.own.get_or_insert_with(|| match world.between(&own_connection()) {
            Some(Between::Connection(connection)) => connection,
            _ => world.connect(own_connection(), state::ESTABLISHED),
        });
        [own.expected, own.unacknowledged]
    }

    /// Completes a handshake, and forgets the connection.
    fn acknowledge(&mut self, world: &mut World, source_port: u16, sequence: u32) -> Result<(), String> {
        let port = self.phase.port();
        let flow = flow(protocol::TCP, ATTACKER.into_address(), source_port, port);
        let (sent, cookie) = match world.between(&flow) {
            Some(Between::Request(request)) => (request.sent, false),
            _ => (0, port == port::WEB),
        };
        let ack = from(IpAddr::V4(ATTACKER))
            .tcp(source_port, port, ACK)
            .numbers(sequence.wrapping_add(1), sent.wrapping_add(1));
        world.attack(&ack.bytes(), (Class::Tcp, Evidence::Connection), cookie)?;
        world.forget(&flow);
        Ok(())
    }
}
