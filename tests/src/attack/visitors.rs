//! Legitimate traffic that must not suffer: visitors of the host's services, and the host's own clients.
//!
//! Each stays far within all limits. Their packets are jittered, so that they are not in step with the attack.

use std::net::{IpAddr, Ipv4Addr};

use fastrand::Rng;
use flood_common::{
    abi::solicited,
    class::Class,
    evidence::{Connection, state},
    host::{Between, UdpSocket},
    solicit::Flow,
    wire::protocol,
};

use super::{
    CDN, MS, NEIGHBOUR, RESOLVER, ROUTER, SECOND, START, VISITOR,
    attacker::{quoting, udp_class},
    port,
    world::{IntoAddress, Judged, World, flow},
};
use crate::packet::from;

/// The port of the visitor's connection.
pub(super) const CONNECTED: u16 = 33_333;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// How often a SYN is sent before the connection counts as failed: once, and again after a second (RFC 6298).
const SYNS: u32 = 2;

/// A participant with a habit.
pub(super) struct Visitor {
    habit: Habit,
    pub(super) next_ns: u64,
    random: Rng,
}

enum Habit {
    /// Sends on an existing connection.
    Connected(Connection),
    /// Sends the host ICMP errors about the path of that connection.
    Router(Connection),
    /// Opens one connection after another: from this address and port, after this many SYNs.
    Newcomer { address: Ipv4Addr, port: u16, syns: u32, waits_for: Option<Wait>, is_excused: bool },
    /// Plays: from this port to that one, without evidence.
    Player { address: Ipv4Addr, port: u16, to: u16 },
    /// Sends pings, also without evidence.
    Pinger,
    /// The host sends requests to its resolver, each from a new port, with connected or unconnected sockets.
    Asker { asked: Option<u16> },
    /// The host has a session with a peer. `connected` says whether its socket is connected.
    Session { connected: bool, packets: u32 },
    /// The host opens connections, the last of them from this port.
    Caller { port: Option<u16> },
}

/// What a newcomer has received and has to reply to.
#[derive(Clone, Copy)]
enum Wait {
    Cookie,
    Request(u32),
}

/// The port of the host's session.
const TALKING: u16 = 35_353;

impl Visitor {
    /// Returns all visitors.
    pub(super) fn all(world: &mut World, mut random: Rng) -> Vec<Self> {
        let connection = world.connect(connected(), state::ESTABLISHED);
        let newcomer =
            |address| Habit::Newcomer { address, port: 0, syns: 0, waits_for: None, is_excused: false };
        let notes = world.settings.solicited & solicited::NOTED != 0;
        let talks_connected = !notes || random.bool();
        let (cdn, peer) = (CDN.into_address(), talks_connected.then(|| (CDN.into_address(), 443)));
        world.tables.sockets.udp.push(UdpSocket { local: None, port: TALKING, peer });
        world.tables.send(&world.settings, &flow(protocol::UDP, cdn, 443, TALKING), START, talks_connected);
        let habits = [
            Habit::Connected(connection),
            Habit::Router(connection),
            newcomer(VISITOR),
            newcomer(NEIGHBOUR),
            Habit::Player { address: NEIGHBOUR, port: 20_000, to: port::GAME },
            Habit::Player { address: NEIGHBOUR, port: 20_001, to: port::VOICE },
            // A port that happens to be a reflector port, too.
            Habit::Player { address: VISITOR, port: 4_500, to: port::GAME },
            Habit::Pinger,
            Habit::Asker { asked: None },
            Habit::Session { connected: talks_connected, packets: 0 },
            Habit::Caller { port: None },
        ];
        habits
            .into_iter()
            .map(|habit| {
                let mut random = random.fork();
                Self { habit, next_ns: START + random.u64(0..200 * MS), random }
            })
            .collect()
    }

    /// Takes the next step.
    pub(super) fn act(&mut self, world: &mut World) -> Result<(), String> {
        let random = &mut self.random;
        let wait_ns = match &mut self.habit {
            Habit::Connected(connection) => {
                let data = from(IpAddr::V4(VISITOR)).tcp(CONNECTED, port::WEB, ACK).payload(100);
                let data = data.numbers(connection.expected, connection.next).bytes();
                proves("a packet of a connection", &world.visit(&data, Class::Tcp, false))?;
                random.u64(10..40) * MS
            }
            Habit::Router(connection) => {
                let error = from(IpAddr::V4(ROUTER)).icmp(3, 4);
                let error = quoting(error, &connected(), connection.unacknowledged).bytes();
                proves(
                    "a message about the path of a connection",
                    &world.visit(&error, Class::IcmpError, false),
                )?;
                random.u64(800..1_200) * MS
            }
            Habit::Newcomer { address, port, syns, waits_for, is_excused } => {
                open(world, random, *address, (port, syns, waits_for, is_excused))?
            }
            Habit::Player { address, port, to } => {
                let packet = from(IpAddr::V4(*address)).udp(*port, *to).payload(80).bytes();
                fair("a player's packet", world, &packet, udp_class(*port))?;
                random.u64(40..60) * MS
            }
            Habit::Pinger => {
                let ping = from(IpAddr::V4(NEIGHBOUR)).echo_request().payload(56).bytes();
                fair("a ping", world, &ping, Class::Icmp)?;
                random.u64(400..600) * MS
            }
            Habit::Asker { asked } => ask(world, random, asked)?,
            Habit::Session { connected, packets } => talk(world, random, *connected, packets)?,
            Habit::Caller { port } => call(world, random, port)?,
        };
        self.next_ns += wait_ns;
        Ok(())
    }
}

fn connected() -> Flow {
    flow(protocol::TCP, VISITOR.into_address(), CONNECTED, port::WEB)
}

/// A packet with evidence must pass.
fn proves(what: &str, judged: &Judged) -> Result<(), String> {
    if judged.passed() { Ok(()) } else { Err(format!("{what} was dropped: {}", judged.reason.label())) }
}

/// A packet without evidence must pass unless other traffic has used up its limit.
fn fair(what: &str, world: &mut World, frame: &[u8], class: Class) -> Result<(), String> {
    let class = world.class_now(frame, class);
    let Judged { packet, reason } = world.visit(frame, class, false);
    if !reason.is_drop() {
        return Ok(());
    }
    let excuse = world.ledger.excuses(&world.settings, &packet, class, reason, world.now_ns);
    excuse.map_err(|left| format!("{what} was dropped as {}, and {left}", reason.label()))
}

/// Takes a step of opening a connection. Returns the time until the next step.
fn open(
    world: &mut World,
    random: &mut Rng,
    address: Ipv4Addr,
    (port, syns, waits_for, is_excused): (&mut u16, &mut u32, &mut Option<Wait>, &mut bool),
) -> Result<u64, String> {
    if *syns == 0 {
        *port = random.u16(33_334..60_000);
        *is_excused = false;
    }
    let sequence = u32::from(*port) << 12;
    let source = from(IpAddr::V4(address));
    let flow = flow(protocol::TCP, address.into_address(), *port, port::WEB);
    if let Some(wait) = waits_for.take() {
        let (sent, cookie) = match wait {
            Wait::Cookie => (0, true),
            Wait::Request(sent) => (sent, false),
        };
        let ack = source.tcp(*port, port::WEB, ACK).numbers(sequence.wrapping_add(1), sent.wrapping_add(1));
        proves("the last step of a handshake", &world.visit(&ack.bytes(), Class::Tcp, cookie))?;
        proves("the first data", &world.visit(&ack.payload(300).bytes(), Class::Tcp, false))?;
        world.forget(&flow);
        *syns = 0;
        return Ok(random.u64(500..900) * MS);
    }
    let syn = source.tcp(*port, port::WEB, SYN).numbers(sequence, 0).bytes();
    let judged = world.visit(&syn, Class::Syn, false);
    *syns += 1;
    if !judged.reason.is_drop() {
        *waits_for = Some(match world.between(&flow) {
            Some(Between::Request(request)) => Wait::Request(request.sent),
            _ => Wait::Cookie,
        });
        return Ok(random.u64(5..60) * MS);
    }
    *is_excused |= world.ledger.excuses_syn(&world.settings, address, world.now_ns);
    if *syns < SYNS {
        // The retransmission timer, plus the delay of the path.
        return Ok(SECOND + random.u64(0..20) * MS);
    }
    *syns = 0;
    if *is_excused {
        return Ok(random.u64(500..900) * MS);
    }
    Err(format!("no connection after {SYNS} SYNs: {}", judged.reason.label()))
}

/// Sends the host's request, or the reply to it.
fn ask(world: &mut World, random: &mut Rng, asked: &mut Option<u16>) -> Result<u64, String> {
    let resolver = RESOLVER.into_address();
    if let Some(port) = asked.take() {
        let answer = from(IpAddr::V4(RESOLVER)).udp(53, port).payload(120).bytes();
        proves("the answer to a question", &world.visit(&answer, Class::Udp, false))?;
        world.tables.sockets.udp.retain(|socket| socket.port != port);
        return Ok(random.u64(100..200) * MS);
    }
    let port = random.u16(port::TAKEN);
    let connected = world.settings.solicited & solicited::NOTED == 0 || random.bool();
    world.tables.sockets.udp.push(UdpSocket { local: None, port, peer: connected.then_some((resolver, 53)) });
    let question = flow(protocol::UDP, resolver, 53, port);
    world.tables.send(&world.settings, &question, world.now_ns, connected);
    *asked = Some(port);
    Ok(random.u64(5..30) * MS)
}

/// Sends a packet of a session to the host, and now and then one from it.
fn talk(world: &mut World, random: &mut Rng, connected: bool, packets: &mut u32) -> Result<u64, String> {
    *packets += 1;
    if packets.is_multiple_of(3) {
        let session = flow(protocol::UDP, CDN.into_address(), 443, TALKING);
        world.tables.send(&world.settings, &session, world.now_ns, connected);
    }
    let packet = from(IpAddr::V4(CDN)).udp(443, TALKING).payload(1_200).bytes();
    proves("a packet of a session", &world.visit(&packet, Class::Udp, false))?;
    Ok(random.u64(15..40) * MS)
}

/// Sends a SYN of the host, or the reply to it.
fn call(world: &mut World, random: &mut Rng, calling: &mut Option<u16>) -> Result<u64, String> {
    let called = |port| flow(protocol::TCP, CDN.into_address(), 443, port);
    let Some(port) = calling.take() else {
        let port = random.u16(port::TAKEN);
        world.connect(called(port), state::SYN_SENT);
        *calling = Some(port);
        return Ok(random.u64(5..30) * MS);
    };
    let Some(Between::Connection(connection)) = world.between(&called(port)) else { return Ok(SECOND) };
    let answer = from(IpAddr::V4(CDN)).tcp(443, port, SYN | ACK).numbers(1, connection.next).bytes();
    proves("the answer to a SYN", &world.visit(&answer, Class::SynAck, false))?;
    world.forget(&called(port));
    Ok(random.u64(300..600) * MS)
}
