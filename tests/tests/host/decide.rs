//! The verdict: the order of the rules, and which tables each one consults.

use std::{cell::RefCell, path::Path};

use flood_common::{
    abi::{MODE_MONITOR, Settings, list, solicited},
    account::{Account, Accounts, By, charge_both},
    address::{Address, Network},
    class::{Cell, Class},
    decide::{Cells, Tables, decide},
    evidence::Receiver,
    fragments::{FragmentPlace, first},
    lists::Listed,
    meter::{Charge, Price},
    packet::{Message, Packet, Parsed, Part, Piece, Ports, Vital},
    reason::Reason::{self, *},
    solicit::{Asked, Flow, SolicitPlace},
    wire::protocol,
};
use flood_userspace::{
    bpf::limit::set_limits,
    config::{CellName, Config},
};

const SOURCE: Address = Address::V4(0xc633_6442);
const DESTINATION: Address = Address::V4(0xc000_0201);

/// A reflector port.
const MIRROR: u16 = 53;

/// Tables that return preset answers, and record the lookups.
struct Oracle {
    listed: Listed,
    source: Option<Charge>,
    /// The name of the only limit that is exceeded.
    exceeded: Option<&'static str>,
    vital: Option<Charge>,
    /// Whether the source has used up its share of vital packets.
    share_is_used_up: bool,
    /// The account of the source for packets with evidence, and whether it may send more.
    proven: Charge,
    is_allowed_by_evidence: bool,
    of_flow: Asked,
    is_closed: bool,
    is_forwarded: bool,
    socket: Option<Receiver>,
    /// The verdict on the first fragment, and what has been noted of one.
    first: Option<u64>,
    noted: std::cell::Cell<Option<u64>>,
    asked: RefCell<Vec<&'static str>>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self {
            listed: Listed::Nothing,
            source: None,
            exceeded: None,
            vital: None,
            share_is_used_up: false,
            proven: Charge::Conforming,
            is_allowed_by_evidence: false,
            of_flow: Asked::Nothing,
            is_closed: false,
            is_forwarded: false,
            socket: None,
            first: None,
            noted: Default::default(),
            asked: RefCell::default(),
        }
    }
}

impl Oracle {
    fn charge(&self, cell: Cell) -> Charge {
        let name = CellName::of(cell).expect("a cell that exists").to_string();
        let charge = match self.exceeded {
            Some(exceeded) if name == exceeded => Some(Charge::Exceeding),
            Some(_) => Some(Charge::Conforming),
            None => self.source,
        };
        // The name outlives the test.
        self.note(name.leak(), charge.expect("the case says what is charged"))
    }

    /// Whether this limit is exceeded. Checks before a charge are not recorded.
    fn exceeds(&self, cell: Cell) -> bool {
        let name = CellName::of(cell).expect("a cell that exists").to_string();
        self.exceeded.is_some_and(|exceeded| name == exceeded) || self.source == Some(Charge::Exceeding)
    }

    fn note<T>(&self, question: &'static str, answer: T) -> T {
        self.asked.borrow_mut().push(question);
        answer
    }
}

impl Tables for Oracle {
    fn look_up(&self, _: &Settings, _: Address, _: u64) -> Listed {
        self.note("lists", self.listed)
    }

    fn is_allowed_by_evidence(&self, _: &Settings, source: Address, _: u64) -> bool {
        assert_eq!(source, SOURCE);
        self.note("allow-proven", self.is_allowed_by_evidence)
    }

    fn is_reflector(&self, port: u16) -> bool {
        port == MIRROR
    }

    fn asked(&self, _: SolicitPlace, _: u64) -> Asked {
        self.note("notes", self.of_flow)
    }

    fn mark_begun(&self, _: SolicitPlace, _: u64) {
        self.note("mark", ());
    }

    fn is_closed(&self, _: u16, _: u64) -> bool {
        self.is_closed
    }

    fn may_have_peer(&self, _: u16, _: u64) -> bool {
        unreachable!("that is asked after a verdict")
    }

    fn is_tunnel(&self, _: u16) -> bool {
        false
    }

    fn is_answered(&self, _: SolicitPlace, _: u64) -> bool {
        unreachable!("the mirror has a port that no client has")
    }

    fn is_session(&self, _: SolicitPlace, _: u64) -> bool {
        unreachable!("that is asked after a verdict")
    }

    fn watch(&self, _: SolicitPlace, _: u64) {
        unreachable!("that is done after a verdict")
    }

    fn is_local(&self, _: &Settings, address: Address) -> bool {
        assert_eq!(address, DESTINATION);
        !self.is_forwarded
    }

    fn first_fragment(&self, _: FragmentPlace, _: u64) -> u64 {
        self.note("first fragment", self.first.expect("the case says what became of it"))
    }

    fn note_first_fragment(&self, _: FragmentPlace, first: u64, _: u64) {
        self.noted.set(Some(first));
    }

    fn receiver(&self, flow: &Flow) -> Receiver {
        assert_eq!((flow.remote_port, flow.local_port), (MIRROR, 9));
        self.note("sockets", self.socket.expect("the case says what is open"))
    }

    fn cells(&self) -> &impl Cells {
        self
    }
}

impl Cells for Oracle {
    fn note_exceeded(&self, _: Cell) {}

    fn exceeds_network(&self, _: &Settings, cell: Cell, network: Network, _: u64, _: &Price) -> bool {
        let by = if cell.is_by_destination() { DESTINATION } else { SOURCE };
        assert_eq!(network, by.network());
        self.exceeds(cell)
    }

    fn exceeds_total(&self, cell: Cell, _: u64, _: &Price) -> bool {
        self.exceeds(cell)
    }

    fn charge_network(&self, _: &Settings, cell: Cell, network: Network, _: u64, _: &Price) -> Charge {
        let by = if cell.is_by_destination() { DESTINATION } else { SOURCE };
        assert_eq!(network, by.network());
        self.charge(cell)
    }

    fn charge_total(&self, cell: Cell, _: u64, _: &Price) -> Charge {
        self.charge(cell)
    }
}

impl Accounts for Oracle {
    fn exceeds_account(&self, _: &Settings, _: Account, by: By, _: u64, _: &Price) -> bool {
        assert_eq!(by, By::source(SOURCE.network()));
        self.share_is_used_up
    }

    fn charge_account(&self, _: &Settings, account: Account, _: By, _: u64, _: &Price) -> Charge {
        if account == Account::Proven { self.note("proven", self.proven) } else { Charge::Conforming }
    }

    fn charge_shared(
        &self,
        settings: &Settings,
        (account, _): (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        charge_both(
            price,
            |share| self.exceeds_account(settings, account, by, now_ns, share),
            |_| self.note("vital", self.vital.expect("the case says what the budget says")),
            |share| self.charge_account(settings, account, by, now_ns, share),
        )
    }
}

fn settings(lists: u32) -> Settings {
    let mut settings = Settings { lists, ..Settings::default() };
    let config =
        Config::parse("[limit]\nsource.syn.packets = \"off\"\ntotal.syn.packets = \"off\"", Path::new(""))
            .expect("a right one");
    set_limits(&mut settings, &config.limits, &config.protected_limits);
    settings
}

fn packet(vital: Option<Vital>, defect: Option<Reason>) -> Parsed {
    Parsed::Packet(Packet {
        source: SOURCE,
        destination: DESTINATION,
        class: Class::Syn,
        length: 60,
        network_at: 14,
        length_at: 0,
        transport_at: 34,
        protocol: 6,
        part: Part::Whole,
        datagram: 0,
        piece: Piece { start: 0, length: 20, end: 40, is_last: true },
        ports: None,
        tcp_flags: None,
        icmp: Message::default(),
        vital,
        defect,
    })
}

/// Why, the packet, the tables, the reason, and the lookups in order.
type Case = (&'static str, Parsed, Oracle, Reason, &'static [&'static str]);

#[test]
fn the_order_of_the_rules_is_the_policy() {
    let plain = || packet(None, None);
    let broken = || packet(None, Some(TransportHeader));
    let vital = || packet(Some(Vital::PathMtu), None);
    let neighbour = || packet(Some(Vital::NeighbourDiscovery), None);
    let source = |charge| Oracle { source: Some(charge), ..Oracle::default() };
    let cases: [Case; 19] = [
        ("not IP is none of our business", Parsed::NotIp(0x0806), Oracle::default(), NotIp, &[]),
        ("without a source nothing is asked", Parsed::Broken(IpLength), Oracle::default(), IpLength, &[]),
        ("nothing speaks against it", plain(), source(Charge::Conforming), Conforming, &["lists", "source"]),
        ("beyond the limit", plain(), source(Charge::Exceeding), SourcePackets, &["lists", "source"]),
        ("no room", plain(), source(Charge::Unaccounted), Unaccounted, &["lists", "source"]),
        ("blocked", plain(), Oracle { listed: Listed::Blocked, ..Oracle::default() }, Blocked, &["lists"]),
        (
            "allow wins over block",
            plain(),
            Oracle { listed: Listed::Allowed, ..Oracle::default() },
            Allowed,
            &["lists"],
        ),
        (
            "allow wins over a defect",
            broken(),
            Oracle { listed: Listed::Allowed, ..Oracle::default() },
            Allowed,
            &["lists"],
        ),
        (
            "a defect is found before the block",
            broken(),
            Oracle { listed: Listed::Blocked, ..Oracle::default() },
            TransportHeader,
            &["lists"],
        ),
        (
            "neighbour discovery within its budget passes, blocked or not",
            neighbour(),
            Oracle { listed: Listed::Blocked, vital: Some(Charge::Conforming), ..Oracle::default() },
            Protected,
            &["lists", "vital"],
        ),
        (
            "over it, it is like any other: blocked",
            neighbour(),
            Oracle { listed: Listed::Blocked, vital: Some(Charge::Exceeding), ..Oracle::default() },
            Blocked,
            &["lists", "vital"],
        ),
        (
            "allowed, it needs none",
            neighbour(),
            Oracle { listed: Listed::Allowed, ..Oracle::default() },
            Allowed,
            &["lists"],
        ),
        (
            "or limited",
            neighbour(),
            Oracle { vital: Some(Charge::Exceeding), source: Some(Charge::Exceeding), ..Oracle::default() },
            SourcePackets,
            &["lists", "vital", "source"],
        ),
        (
            "a source that has had its share of the budget leaves the rest to others",
            neighbour(),
            Oracle { share_is_used_up: true, source: Some(Charge::Exceeding), ..Oracle::default() },
            SourcePackets,
            &["lists", "source"],
        ),
        (
            "of what comes through a router, what is blocked is blocked",
            vital(),
            Oracle { listed: Listed::Blocked, vital: Some(Charge::Conforming), ..Oracle::default() },
            Blocked,
            &["lists"],
        ),
        (
            "what is not has its budget",
            vital(),
            Oracle { vital: Some(Charge::Conforming), ..Oracle::default() },
            Protected,
            &["lists", "vital"],
        ),
        (
            "with whatever defect",
            packet(Some(Vital::PathMtu), Some(TransportHeader)),
            Oracle { vital: Some(Charge::Conforming), ..Oracle::default() },
            Protected,
            &["lists", "vital"],
        ),
        (
            "but what is sent to all hosts of a link",
            packet(Some(Vital::Link), Some(TransportHeader)),
            Oracle { vital: Some(Charge::Conforming), ..Oracle::default() },
            TransportHeader,
            &["lists"],
        ),
        (
            "and over it is like any other",
            vital(),
            Oracle {
                vital: Some(Charge::Unaccounted),
                source: Some(Charge::Conforming),
                ..Oracle::default()
            },
            Conforming,
            &["lists", "vital", "source"],
        ),
    ];
    let settings = settings(list::V4);
    for (why, parsed, tables, expected, asked) in cases {
        assert_eq!(decide(&parsed, &settings, 1, &tables).reason, expected, "{why}");
        assert_eq!(*tables.asked.borrow(), asked, "{why}");
    }
}

#[test]
fn a_first_fragment_is_noted_and_a_later_one_has_its_class() {
    let udp = |part| {
        let Parsed::Packet(packet) = packet(None, None) else { unreachable!("it is one") };
        let class = if part == Part::Later { Class::Fragment } else { Class::Udp };
        let ports = (part == Part::First).then_some(Ports { source: 5_000, destination: 9 });
        Parsed::Packet(Packet { part, class, protocol: protocol::UDP, ports, ..packet })
    };
    let limits = limited("source.udp source.fragment");
    let noted = |exceeded| {
        let tables = Oracle { exceeded: Some(exceeded), ..Oracle::default() };
        let reason = decide(&udp(Part::First), &limits, 1, &tables).reason;
        (reason, tables.noted.get())
    };
    let passed = Class::Udp as u64 + 1;
    assert_eq!(noted("source.fragment"), (Conforming, Some(passed)), "it has the class of what it carries");
    assert_eq!(noted("source.udp"), (SourcePackets, Some(first::DROPPED)));
    for (first, exceeded, expected) in [
        (passed, "source.udp", SourcePackets),
        (passed, "source.fragment", Conforming),
        (first::DROPPED, "source.other", FragmentOfDropped),
        (first::UNKNOWN, "source.udp", Conforming),
        (first::UNKNOWN, "source.fragment", SourcePackets),
    ] {
        let tables = Oracle { first: Some(first), exceeded: Some(exceeded), ..Oracle::default() };
        assert_eq!(decide(&udp(Part::Later), &limits, 1, &tables).reason, expected, "{first}, {exceeded}");
        assert_eq!(tables.noted.get(), None);
    }
    let proving = Settings { proof: 1, ..limited("total") };
    let tables = Oracle { exceeded: Some("total"), ..Oracle::default() };
    assert_eq!(decide(&udp(Part::First), &proving, 1, &tables).reason, TotalPackets);
    assert_eq!(tables.noted.get(), None, "it may prove its origin yet");
}

#[test]
fn an_empty_list_and_an_unset_limit_are_not_asked() {
    let tables = Oracle { source: Some(Charge::Conforming), ..Oracle::default() };
    // Only the lists of the other family have entries.
    let settings = settings(list::V6);
    assert_eq!(decide(&packet(None, None), &settings, 1, &tables).reason, Conforming);
    assert_eq!(*tables.asked.borrow(), ["source"]);

    let tables = Oracle::default();
    assert_eq!(decide(&packet(None, None), &Settings::default(), 1, &tables).reason, Conforming);
    assert!(tables.asked.borrow().is_empty());
}

/// Why, the limits that are set, the packet's class and source port, the limit that is exceeded, the reason, and the
/// charges in order.
type LimitCase =
    (&'static str, &'static str, (Class, u16), Option<&'static str>, Reason, &'static [&'static str]);

/// Settings with only these limits.
fn limited(limits: &str) -> Settings {
    let sections = limits.split(' ').map(|name| format!("[limit.{name}]\npackets = \"100/s\"\n"));
    let mut config = Config::parse(&sections.collect::<String>(), Path::new("")).expect("right limits");
    config.limits.retain(|name, _| limits.split(' ').any(|limit| limit == name.to_string()));
    let mut settings = Settings { absence: 1, ..Settings::default() };
    set_limits(&mut settings, &config.limits, &config.protected_limits);
    settings
}

#[test]
fn a_packet_is_charged_to_its_class_and_to_all_in_each_scope_the_narrow_ones_first() {
    const EVERYWHERE: &str = "source.udp total destination.udp source_prefix destination_prefix";
    let cases: [LimitCase; 12] = [
        (
            "its own class and all",
            "source.syn source",
            (Class::Syn, 1),
            None,
            Conforming,
            &["source.syn", "source"],
        ),
        ("another class", "source.syn source", (Class::Udp, 1), None, Conforming, &["source"]),
        (
            "every scope",
            EVERYWHERE,
            (Class::Udp, 1),
            None,
            Conforming,
            &["source.udp", "source_prefix", "destination.udp", "destination_prefix", "total"],
        ),
        (
            "nobody pays for what is dropped",
            EVERYWHERE,
            (Class::Udp, 1),
            Some("destination.udp"),
            DestinationPackets,
            &[],
        ),
        (
            "the network",
            "source_prefix",
            (Class::Other, 1),
            Some("source_prefix"),
            SourcePrefixPackets,
            &["source_prefix"],
        ),
        ("the total", "total.icmp", (Class::Icmp, 1), Some("total.icmp"), TotalPackets, &["total.icmp"]),
        (
            "flags do not lead around a limit on TCP",
            "source.tcp",
            (Class::RstFin, 1),
            None,
            Conforming,
            &["source.tcp"],
        ),
        (
            "unless they have their own",
            "source.tcp source.syn",
            (Class::Syn, 1),
            None,
            Conforming,
            &["source.syn"],
        ),
        ("a mirror", "total.amplification", (Class::Udp, MIRROR), None, Conforming, &["total.amplification"]),
        ("no mirror", "total.amplification", (Class::Udp, 54), None, Conforming, &[]),
        (
            "a mirror without limit is UDP",
            "total.udp",
            (Class::Udp, MIRROR),
            None,
            Conforming,
            &["total.udp"],
        ),
        ("TCP from its port is none", "total.amplification", (Class::Tcp, MIRROR), None, Conforming, &[]),
    ];
    for (why, limits, (class, port), exceeded, expected, charged) in cases {
        let settings = limited(limits);
        let Parsed::Packet(plain) = packet(None, None) else { unreachable!() };
        let ports = Some(Ports { source: port, destination: 9 });
        let tables = Oracle { source: Some(Charge::Conforming), exceeded, ..Oracle::default() };
        let reason = decide(&Parsed::Packet(Packet { class, ports, ..plain }), &settings, 1, &tables).reason;
        assert_eq!(reason, expected, "{why}");
        assert_eq!(*tables.asked.borrow(), charged, "{why}");
    }
}

/// Why, how solicited replies are recognized, what has been sent, what is open on this host, the source port, the
/// reason, and the table lookups.
type AnswerCase = (&'static str, u32, Asked, Option<Receiver>, u16, Reason, &'static [&'static str]);

#[test]
fn an_answer_passes_as_it_was_asked_for() {
    const BOTH: u32 = solicited::NOTED | solicited::SOCKETS;
    let cases: [AnswerCase; 10] = [
        ("asked for", BOTH, Asked::Question, None, MIRROR, Solicited, &["notes"]),
        ("a session", BOTH, Asked::Session, None, MIRROR, Solicited, &["notes", "proven"]),
        (
            "connected",
            BOTH,
            Asked::Nothing,
            Some(Receiver::Connected),
            MIRROR,
            Solicited,
            &["notes", "sockets", "proven"],
        ),
        (
            "a service listens",
            BOTH,
            Asked::Nothing,
            Some(Receiver::Anybodys),
            MIRROR,
            Conforming,
            &["notes", "sockets", "source.amplification", "mark"],
        ),
        (
            "nobody is there",
            BOTH,
            Asked::Nothing,
            Some(Receiver::NoSocket),
            MIRROR,
            Unsolicited,
            &["notes", "sockets"],
        ),
        (
            "sockets do not tell",
            solicited::NOTED,
            Asked::Nothing,
            None,
            MIRROR,
            Conforming,
            &["notes", "source.amplification", "mark"],
        ),
        (
            "nothing is noted",
            solicited::SOCKETS,
            Asked::Question,
            Some(Receiver::NoSocket),
            MIRROR,
            Unsolicited,
            &["sockets"],
        ),
        (
            "sockets alone",
            solicited::SOCKETS,
            Asked::Question,
            Some(Receiver::Connected),
            MIRROR,
            Solicited,
            &["sockets", "proven"],
        ),
        ("nothing tells", 0, Asked::Question, None, MIRROR, Conforming, &["source.amplification"]),
        ("no mirror", BOTH, Asked::Question, None, 54, Conforming, &["source.udp"]),
    ];
    for (why, told_by, of_flow, socket, from, expected, asked) in cases {
        let settings = answering(told_by);
        let tables = Oracle { source: Some(Charge::Conforming), of_flow, socket, ..Oracle::default() };
        assert_eq!(decide(&udp(from), &settings, 1, &tables).reason, expected, "{why}");
        assert_eq!(*tables.asked.borrow(), asked, "{why}");
    }
}

#[test]
fn whoever_is_listed_for_it_sends_more_by_evidence_than_others() {
    let settings = answering(solicited::NOTED);
    let cases: [(_, _, _, _, &[_]); 3] = [
        ("within the budget no list is asked", Charge::Conforming, true, Solicited, &["notes", "proven"]),
        ("over it", Charge::Exceeding, true, Solicited, &["notes", "proven", "allow-proven"]),
        (
            "not listed",
            Charge::Exceeding,
            false,
            Conforming,
            &["notes", "proven", "allow-proven", "source.amplification"],
        ),
    ];
    for (why, proven, is_allowed_by_evidence, expected, asked) in cases {
        let of_flow = Asked::Session;
        let source = Some(Charge::Conforming);
        let tables = Oracle { source, of_flow, proven, is_allowed_by_evidence, ..Oracle::default() };
        assert_eq!(decide(&udp(MIRROR), &settings, 1, &tables).reason, expected, "{why}");
        assert_eq!(*tables.asked.borrow(), asked, "{why}");
    }
}

#[test]
fn a_flow_is_marked_when_a_service_is_sent_something_that_it_may_answer() {
    let client = Settings { client_ports: [9, 9], ..answering(solicited::NOTED | solicited::SOCKETS) };
    let monitor = Settings { mode: MODE_MONITOR, ..client };
    let service = Settings { client_ports: [10, 20], ..client };
    for (why, settings, is_forwarded, source, expected) in [
        ("a socket", client, false, Charge::Conforming, true),
        ("what is dropped is not answered", client, false, Charge::Exceeding, false),
        ("unless nothing is dropped", monitor, false, Charge::Exceeding, true),
        ("behind this host, on a client's port", client, true, Charge::Conforming, false),
        ("behind this host, on another", service, true, Charge::Conforming, true),
    ] {
        let socket = (!is_forwarded).then_some(Receiver::Anybodys);
        let tables = Oracle { source: Some(source), socket, is_forwarded, ..Oracle::default() };
        let _ = decide(&udp(MIRROR), &settings, 1, &tables);
        assert_eq!(tables.asked.borrow().contains(&"mark"), expected, "{why}");
    }
}

/// A port known to be closed may have been opened within the last second, and packets that have left may not have been
/// noted.
#[test]
fn a_mirror_s_answer_to_a_closed_port_is_dropped_unless_a_socket_has_been_opened_since() {
    const BOTH: u32 = solicited::NOTED | solicited::SOCKETS;
    for (told_by, socket, expected, asked) in [
        (BOTH, Some(Receiver::NoSocket), Unsolicited, &["notes", "sockets"][..]),
        (BOTH, Some(Receiver::Connected), Solicited, &["notes", "sockets", "proven"]),
        (solicited::SOCKETS, Some(Receiver::Connected), Solicited, &["sockets", "proven"]),
        (solicited::SOCKETS, Some(Receiver::Anybodys), Conforming, &["sockets", "source.amplification"]),
        (solicited::SOCKETS, Some(Receiver::NoSocket), Unsolicited, &["sockets"]),
        (solicited::NOTED, None, Conforming, &["source.udp"]),
    ] {
        let source = Some(Charge::Conforming);
        let tables = Oracle { source, is_closed: true, socket, ..Oracle::default() };
        assert_eq!(
            decide(&udp(MIRROR), &answering(told_by), 1, &tables).reason,
            expected,
            "{told_by}, {socket:?}"
        );
        assert_eq!(*tables.asked.borrow(), asked, "{told_by}, {socket:?}");
    }
}

#[test]
fn what_nobody_listens_for_has_a_budget_of_its_own() {
    let limits = "source.udp destination.udp total.closed total.udp";
    let settings = Settings { solicited: 0, ..limited(limits) };
    for (why, is_closed, exceeded, expected, charged) in [
        ("closed", true, None, Conforming, &["source.udp", "total.closed"][..]),
        ("open", false, None, Conforming, &["source.udp", "destination.udp", "total.udp"]),
        ("too much of it", true, Some("total.closed"), NoSocket, &[]),
        (
            "what is listened for is over its limits",
            true,
            Some("total.udp"),
            Conforming,
            &["source.udp", "total.closed"],
        ),
        ("too much of one source", true, Some("source.udp"), SourcePackets, &[]),
    ] {
        let tables = Oracle { source: Some(Charge::Conforming), is_closed, exceeded, ..Oracle::default() };
        assert_eq!(decide(&udp(54), &settings, 1, &tables).reason, expected, "{why}");
        assert_eq!(*tables.asked.borrow(), charged, "{why}");
    }
}

/// Limits on UDP from each source, with solicited replies recognized by these bits of [`solicited`].
fn answering(told_by: u32) -> Settings {
    let text = "[limit.source.udp]\npackets = \"100/s\"\n[limit.source]\npackets = \"off\"\n";
    let mut config = Config::parse(text, Path::new("")).expect("it is right");
    config.limits.retain(|name, _| name.to_string().starts_with("source."));
    let mut settings = Settings { solicited: told_by, absence: 1, ..Settings::default() };
    set_limits(&mut settings, &config.limits, &config.protected_limits);
    settings
}

/// UDP from a port.
fn udp(from: u16) -> Parsed {
    let Parsed::Packet(plain) = packet(None, None) else { unreachable!() };
    let ports = Some(Ports { source: from, destination: 9 });
    Parsed::Packet(Packet { class: Class::Udp, protocol: protocol::UDP, ports, ..plain })
}
