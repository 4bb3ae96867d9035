//! The host under attack: the filter's twin, and a network stack that handles what passes.
//!
//! The stack is a model of what the filter can see: a SYN creates a request until the queue is full, and afterwards a
//! cookie; a matching ACK creates a connection; a UDP service replies to every sender.

use std::path::Path;

use fastrand::Rng;
use flood_common::{
    abi::{Settings, solicited},
    class::Class,
    decide::{Tables, Verdict, decide},
    evidence::{Connection, Cookie, Opening, Request, Segment, state},
    host::{Between, HostTables, Listener, UdpSocket},
    meter::Limit,
    packet::{Packet, Parsed, parse},
    place::{MIN_BUCKET_BITS, Seeds},
    proof::{Proof, means, prove},
    reason::Reason,
    reflector::FIRST_OF_CLIENTS,
    solicit::Flow,
    wire::{Frame, protocol},
};
use flood_userspace::{
    bpf::limit::{accounts, set_limits, shared},
    config::Config,
};

use super::{
    ATTACKER, Profile, SECOND, SERVER, START, Trial,
    attacker::udp_class,
    ledger::{Evidence, Ledger},
    port,
};

/// All rates are divided by this, so that a trial has fewer packets. Bursts last as long as configured.
const SLOWER: u64 = 10;

/// Requests that a listener keeps.
const BACKLOG: usize = 64;

/// Number of processors. Each packet arrives on a random one.
const PROCESSORS: u32 = 2;

/// The server's window.
const WINDOW: u32 = 60_000;

/// The host.
pub(super) struct World {
    pub(super) settings: Settings,
    pub(super) tables: HostTables,
    pub(super) ledger: Ledger,
    pub(super) random: Rng,
    pub(super) now_ns: u64,
    always_cookies: bool,
    looked_ns: u64,
}

/// The verdict on a packet.
pub(super) struct Judged {
    pub(super) packet: Packet,
    pub(super) reason: Reason,
}

impl Judged {
    /// Whether the stack received it.
    pub(super) fn passed(&self) -> bool {
        self.reason.verdict() == "pass"
    }
}

impl World {
    pub(super) fn new(trial: &Trial) -> Self {
        let mut tables = HostTables::new(MIN_BUCKET_BITS);
        tables.sketch(PROCESSORS);
        tables.sockets.local = vec![SERVER.into_address()];
        tables.sockets.udp =
            [port::GAME, port::VOICE].map(|port| UdpSocket { local: None, port, peer: None }).into();
        let stuck = Listener { local: None, port: port::STUCK, opening: Opening::Full };
        tables.sockets.listeners = vec![Listener::with_cookies(port::WEB), stuck];
        let mut world = Self {
            settings: settings(trial),
            tables,
            ledger: Ledger::default(),
            random: Rng::with_seed(trial.seed),
            now_ns: START,
            always_cookies: trial.always_cookies,
            looked_ns: 0,
        };
        world.advance(START);
        world.queue();
        world.know(ATTACKER.into_address());
        world
    }

    /// Creates the host's request to the attacker's server, and a session with it.
    fn know(&mut self, attacker: flood_common::address::Address) {
        let asked = flow(protocol::UDP, attacker, 53, port::ASKED);
        self.tables.send(&self.settings, &asked, self.now_ns, false);
        self.tables.sockets.udp.push(UdpSocket {
            local: None,
            port: port::SESSION,
            peer: Some((attacker, 443)),
        });
        let session = flow(protocol::UDP, attacker, 443, port::SESSION);
        self.tables.send(&self.settings, &session, self.now_ns, true);
    }

    /// Lets time pass. The daemon reads the ports each second.
    pub(super) fn advance(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        if now_ns >= self.looked_ns + SECOND {
            self.looked_ns = now_ns;
            self.tables.look_at_ports(now_ns);
        }
    }

    /// Judges a packet of the attacker, with this evidence or a valid cookie.
    ///
    /// # Errors
    /// If more has passed than is allowed.
    pub(super) fn attack(
        &mut self,
        frame: &[u8],
        is: (Class, Evidence),
        cookie: bool,
    ) -> Result<Judged, String> {
        let class = self.class_now(frame, is.0);
        let judged = self.judge(frame, cookie);
        if !judged.reason.is_drop() {
            let Judged { packet, reason } = &judged;
            // A randomly hit port of a client is in fact open.
            let class = match (class, packet.ports) {
                (Class::Closed, Some(ports)) if *reason == Reason::PortShare => udp_class(ports.source),
                (class, _) => class,
            };
            self.ledger
                .passed(&self.settings, packet, (class, is.1), *reason, self.now_ns)
                .map_err(|why| format!("too much passes: {class:?} as {}, {why}", reason.label()))?;
        }
        Ok(judged)
    }

    /// Judges a packet of a visitor.
    pub(super) fn visit(&mut self, frame: &[u8], class: Class, cookie: bool) -> Judged {
        let judged = self.judge(frame, cookie);
        if !judged.reason.is_drop() {
            // Full pots are caused by the attacker, and reported when the attacker fills them.
            let as_who = (class, Evidence::Connection);
            let _ = self.ledger.passed(&self.settings, &judged.packet, as_who, judged.reason, self.now_ns);
        }
        judged
    }

    /// Corrects the class of a packet from a port that both reflectors and clients use: an answered source is a
    /// client.
    pub(super) fn class_now(&self, frame: &[u8], class: Class) -> Class {
        let Parsed::Packet(packet) = parse(Frame(frame)) else { return class };
        let flow = Flow::of(&packet);
        let is_client = class == Class::Amplification
            && flow.remote_port >= FIRST_OF_CLIENTS
            && self.tables.is_answered(flow.place_begun(&self.settings.solicit_seeds), self.now_ns);
        if is_client { Class::Answered } else { class }
    }

    fn judge(&mut self, frame: &[u8], cookie: bool) -> Judged {
        self.tables.sockets.right_cookie = cookie;
        self.tables.run_on(self.random.usize(..));
        let window = Frame(frame);
        let parsed = parse(window);
        let Parsed::Packet(packet) = parsed else { unreachable!("all frames are packets: {parsed:?}") };
        let Verdict { mut reason, looks_again, class } =
            decide(&parsed, &self.settings, self.now_ns, &self.tables);
        // A passing packet that is checked again is a fragment, and trials do not simulate fragment memory.
        if looks_again && reason.is_drop() {
            reason = match prove(
                &packet,
                class,
                reason.number(),
                window,
                &self.settings,
                self.now_ns,
                &self.tables,
            ) {
                Proof::Verdict(reason) => reason,
                Proof::Answer(_) => Reason::Answered,
                Proof::Nothing => reason,
            };
        }
        let judged = Judged { packet, reason };
        if judged.passed() {
            self.deliver(&packet, window, cookie);
        }
        judged
    }

    /// Simulates what the stack does with a packet.
    fn deliver(&mut self, packet: &Packet, window: Frame<'_>, cookie: bool) {
        let flow = Flow::of(packet);
        if packet.protocol == protocol::UDP && [port::GAME, port::VOICE].contains(&flow.local_port) {
            self.tables.send(&self.settings, &flow, self.now_ns, false);
        }
        let Some(segment) = Segment::read(packet, window).filter(|_| packet.protocol == protocol::TCP) else {
            return;
        };
        if flow.local_port != port::WEB {
            return;
        }
        let held = self.tables.sockets.tcp.iter().position(|(other, _)| *other == flow);
        match (held, held.map(|at| self.tables.sockets.tcp[at].1)) {
            (None, _) if packet.class == Class::Syn && self.requests() < BACKLOG => {
                let sent = self.random.u32(..);
                let expected = segment.sequence.wrapping_add(1);
                self.tables.sockets.tcp.push((flow, Between::Request(Request { sent, expected })));
                self.queue();
            }
            (None, _) if cookie => {
                let connection = established(segment.acknowledgement, segment.sequence);
                self.tables.sockets.tcp.push((flow, Between::Connection(connection)));
            }
            (Some(at), Some(Between::Request(request))) if request.is_acknowledged(&segment) => {
                let connection = established(request.sent.wrapping_add(1), request.expected);
                self.tables.sockets.tcp[at].1 = Between::Connection(connection);
                self.queue();
            }
            _ => {}
        }
    }

    fn requests(&self) -> usize {
        self.tables.sockets.tcp.iter().filter(|(_, between)| matches!(between, Between::Request(_))).count()
    }

    /// Sets whether the web server's queue is full.
    fn queue(&mut self) {
        let is_full = self.always_cookies || self.requests() >= BACKLOG;
        let cookie = Opening::Cookie(Cookie { sequence: 0, clients: 0, segment: 0 });
        self.tables.sockets.listeners[0].opening = if is_full { cookie } else { Opening::Room };
    }

    /// Returns the connection or request of a flow.
    pub(super) fn between(&self, flow: &Flow) -> Option<Between> {
        self.tables.sockets.tcp.iter().find(|(other, _)| other == flow).map(|(_, between)| *between)
    }

    /// Creates a connection directly in a [`state`].
    pub(super) fn connect(&mut self, flow: Flow, state: u32) -> Connection {
        let sent = self.random.u32(..);
        let expected = self.random.u32(..);
        let connection = Connection { state, next: sent.wrapping_add(1), ..established(sent, expected) };
        self.tables.sockets.tcp.push((flow, Between::Connection(connection)));
        connection
    }

    /// Removes the connection or request of a flow.
    pub(super) fn forget(&mut self, flow: &Flow) {
        self.tables.sockets.tcp.retain(|(other, _)| other != flow);
        self.queue();
    }
}

/// Returns a connection with the acknowledgement and sequence numbers of a segment that fits it.
fn established(acknowledged: u32, expected: u32) -> Connection {
    Connection {
        state: state::ESTABLISHED,
        unacknowledged: acknowledged,
        next: acknowledged,
        expected,
        window: WINDOW,
    }
}

/// Returns a flow of the host.
pub(super) fn flow(
    protocol: u8,
    remote: flood_common::address::Address,
    remote_port: u16,
    local_port: u16,
) -> Flow {
    Flow { protocol, remote, local: SERVER.into_address(), remote_port, local_port }
}

/// Conversion to the filter's address type.
pub(super) trait IntoAddress {
    fn into_address(self) -> flood_common::address::Address;
}

impl IntoAddress for std::net::Ipv4Addr {
    fn into_address(self) -> flood_common::address::Address {
        std::net::IpAddr::V4(self).into()
    }
}

/// Returns the settings in force.
fn settings(trial: &Trial) -> Settings {
    let text = match trial.profile {
        Profile::Default => "",
        Profile::Web => include_str!("../../../docs/profiles/web.toml"),
        Profile::Dns => include_str!("../../../docs/profiles/dns.toml"),
        Profile::Game => include_str!("../../../docs/profiles/game.toml"),
    };
    let config = Config::parse(text, Path::new("")).unwrap_or_else(|error| panic!("{error}"));
    let mut secret = Rng::with_seed(!trial.seed);
    let mut settings = Settings {
        seeds: Seeds {
            v4: std::array::from_fn(|_| secret.u32(..)),
            v6: std::array::from_fn(|_| secret.u64(..)),
        },
        solicit_seeds: std::array::from_fn(|_| secret.u64(..)),
        masks_v4: [u32::MAX, !0xff],
        masks_v6: [u64::MAX, !0xffff],
        sanity: (&config.sanity).into(),
        proof: means::SOCKETS | if trial.cookies { means::COOKIES } else { means::RETRANSMISSION },
        absence: trial.absence.into(),
        solicited: solicited::SOCKETS | if trial.notes { solicited::NOTED } else { 0 },
        client_ports: [*port::CLIENTS.start(), *port::CLIENTS.end()].map(u32::from),
        mtu: 1_500,
        accounts: accounts(&config.proof),
        retransmissions: shared(&config.proof.retransmissions),
        ..Settings::default()
    };
    set_limits(&mut settings, &config.limits, &config.protected_limits);
    let budgets =
        settings.accounts.iter_mut().chain(&mut settings.vital).chain([&mut settings.retransmissions]);
    budgets.chain(&mut settings.limits).for_each(slow_down);
    settings.set_limits(settings.limits);
    settings
}

/// Makes a limit [slower](SLOWER).
fn slow_down(limit: &mut Limit) {
    if limit.is_set() {
        limit.packet_cost_ns *= SLOWER;
        limit.byte_cost *= SLOWER;
        // Longer than the most expensive packet takes to drain.
        limit.horizon_ns += 10 * SECOND;
    }
}
