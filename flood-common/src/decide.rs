//! Verdicts: turns the facts about a packet into the reason why it passes or is dropped.
//!
//! The order is the policy. The allow list comes first and wins over everything that has a source. Next is traffic
//! that keeps the host reachable: it passes within budgets of its own and, except for neighbour discovery, only if
//! its source is not blocked. Then come defects, the block list, for replies whether they were solicited, and the
//! limits.
//!
//! Lookups are lazy because each has a cost: [`Tables`] is queried only when the decision for a packet requires it.

use crate::{
    abi::{MAX_CELLS, MAX_SOURCE_CELLS, MODE_MONITOR, Settings, list, solicited},
    account::{Account, Accounts, By},
    address::{Address, Network},
    class::{CELLS, CLASS_SLOTS, Cell, Class},
    evidence::Receiver,
    fragments::{self, FragmentPlace, first},
    lists::Listed,
    meter::{Charge, Price},
    packet::{Packet, Parsed, Part, Vital},
    proof,
    reason::{Reason, is_drop, is_provable},
    reflector::FIRST_OF_CLIENTS,
    solicit::{Asked, Flow, SolicitPlace},
    verifier::{self, opaque},
    wire::{is_icmp_error, is_ping_answer, protocol},
};

/// The tables behind a verdict: BPF maps in the kernel, ordinary memory on a host.
pub trait Tables: Accounts {
    /// Returns what the unexpired entries of both lists say about the address.
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed;
    /// Whether UDP from this port may be a reply from a reflector.
    fn is_reflector(&self, port: u16) -> bool;
    /// Returns what the host has solicited in a flow. A packet that is a reply uses it up.
    fn asked(&self, flow: SolicitPlace, now_ns: u64) -> Asked;
    /// Marks a flow that the remote side began.
    fn mark_begun(&self, flow: SolicitPlace, now_ns: u64);
    /// Whether it is known that this host has no open socket on a UDP port.
    fn is_closed(&self, port: u16, now_ns: u64) -> bool;
    /// Whether a socket on this UDP port may be connected to a peer.
    fn may_have_peer(&self, port: u16, now_ns: u64) -> bool;
    /// Whether a socket on this UDP port is the end of a tunnel, which answers only its peers.
    fn is_tunnel(&self, port: u16) -> bool;
    /// Whether this host has replied in a flow that the remote side began.
    fn is_answered(&self, flow: SolicitPlace, now_ns: u64) -> bool;
    /// Whether a flow has a [session](crate::watch).
    fn is_session(&self, flow: SolicitPlace, now_ns: u64) -> bool;
    /// Marks a source as [watched](crate::watch).
    fn watch(&self, source: SolicitPlace, now_ns: u64);
    /// Whether the address is a unicast address of this host.
    fn is_local(&self, settings: &Settings, address: Address) -> bool;
    /// Whether packets of this source that give evidence pass over all limits.
    fn is_allowed_by_evidence(&self, settings: &Settings, source: Address, now_ns: u64) -> bool;
    /// Returns what happened to the first fragment of a datagram: a number of [`first`].
    fn first_fragment(&self, datagram: FragmentPlace, now_ns: u64) -> u64;
    /// Notes what happened to a first fragment.
    fn note_first_fragment(&self, datagram: FragmentPlace, first: u64, now_ns: u64);
    /// Returns what the sockets say about a datagram of the flow, which is addressed to this host.
    fn receiver(&self, flow: &Flow) -> Receiver;
    /// The cells of the limits.
    fn cells(&self) -> &impl Cells;

    /// Applies [`limit`] to a packet that is charged, with the settings that these tables were made with.
    fn limit(&self, load: &Load, settings: &Settings, now_ns: u64) -> Reason {
        limit(load, settings, now_ns, self.cells())
    }
}

/// The cells of the limits: the debts of sources and destinations.
pub trait Cells {
    /// Whether a packet exceeds a cell that counts by address; `network` is the [network](Address::network) that it
    /// counts by. Charges nothing.
    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool;
    /// Charges a packet to such a cell.
    fn charge_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> Charge;
    /// Whether a packet exceeds a cell that counts all packets together. Charges nothing.
    fn exceeds_total(&self, cell: Cell, now_ns: u64, price: &Price) -> bool;
    /// Charges a packet to such a cell.
    fn charge_total(&self, cell: Cell, now_ns: u64, price: &Price) -> Charge;
    /// Notes which cell the packet exceeds, so that the drop can be explained.
    fn note_exceeded(&self, cell: Cell);
}

/// The outcome for a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Why the frame passes or is dropped.
    pub reason: Reason,
    /// Whether the packet gets a second look: it is over a limit and may [give evidence](crate::proof), or it is a
    /// [fragment](crate::reassembly) that passes so far.
    pub looks_again: bool,
    /// The number of its [`Class`], if it gets a second look.
    pub class: u64,
}

impl From<Reason> for Verdict {
    #[inline(always)]
    fn from(reason: Reason) -> Self {
        Self { reason, looks_again: false, class: 0 }
    }
}

/// Decides about a frame.
#[inline(always)]
pub fn decide<T: Tables>(parsed: &Parsed, settings: &Settings, now_ns: u64, tables: &T) -> Verdict {
    match parsed {
        Parsed::Packet(packet) => decide_packet(packet, settings, now_ns, tables),
        Parsed::NotIp(kind) => settings.sanity.ethertypes.check(*kind, Reason::NotIp).into(),
        Parsed::Encapsulated(kind) => settings.sanity.ethertypes.check(*kind, Reason::Encapsulated).into(),
        Parsed::Broken(reason) => (*reason).into(),
    }
}

/// What the parser found out about a packet: its class, part and [`speech`], and its numbers.
///
/// VERIFIER: these are constants on each path through the parser, and the verifier must not follow each path
/// separately through all the code that comes next. They are packed into two words because forgetting a value takes
/// two instructions and a stack slot.
struct Found {
    kinds: u64,
    numbers: u64,
}

impl Found {
    #[inline(always)]
    fn of(packet: &Packet, settings: &Settings) -> Self {
        let Flow { protocol, remote_port, local_port, .. } = Flow::of(packet);
        let kinds = packet.class as u64 | (packet.part as u64) << 8 | speech(packet) << 16;
        let numbers = u64::from(protocol) << 40
            | u64::from(packet.icmp.kind) << 32
            | u64::from(remote_port) << 16
            | u64::from(local_port);
        Self { kinds: forget(settings, kinds), numbers: forget(settings, numbers) }
    }

    #[inline(always)]
    fn class(&self) -> u64 {
        self.kinds & 0xff
    }

    #[inline(always)]
    fn part(&self) -> u64 {
        self.kinds >> 8 & 0xff
    }

    #[inline(always)]
    fn speech(&self) -> u64 {
        self.kinds >> 16
    }

    /// The type of an ICMP message.
    #[inline(always)]
    fn icmp(&self) -> u8 {
        (self.numbers >> 32) as u8
    }

    #[inline(always)]
    fn flow(&self, packet: &Packet) -> Flow {
        Flow {
            protocol: (self.numbers >> 40) as u8,
            remote: packet.source,
            local: packet.destination,
            remote_port: (self.numbers >> 16) as u16,
            local_port: self.numbers as u16,
        }
    }
}

/// What kind of evidence a packet may be able to give.
mod speech {
    /// None.
    pub(super) const NONE: u64 = 0;
    /// That it belongs to a connection.
    pub(super) const CONNECTION: u64 = 1;
    /// That there is a socket for it.
    pub(super) const SOCKET: u64 = 2;
    /// For an ICMP error: that this host sent the packet that it quotes.
    pub(super) const QUOTE: u64 = 3;
}

#[inline(always)]
fn speech(packet: &Packet) -> u64 {
    let has_ports = packet.ports.is_some();
    match packet.protocol {
        protocol::TCP if has_ports && packet.part == Part::Whole => speech::CONNECTION,
        protocol::UDP if has_ports => speech::SOCKET,
        protocol::ICMP | protocol::ICMPV6 => speech::QUOTE,
        _ => speech::NONE,
    }
}

#[inline(always)]
fn decide_packet<T: Tables>(packet: &Packet, settings: &Settings, now_ns: u64, tables: &T) -> Verdict {
    let found = Found::of(packet, settings);
    let (class, part, flow) = (found.class(), found.part(), found.flow(packet));
    let source = source_of(packet, settings);
    let datagram = match packet.part {
        Part::Whole => 0,
        Part::First | Part::Later => fragments::datagram_hash(packet, &settings.solicit_seeds),
    };
    let datagram = FragmentPlace::of(forget(settings, datagram));
    let defect = match packet.defect {
        None if settings.sanity.is_beyond_doubt(packet) => None,
        None => settings.sanity.check(packet),
        defect => defect,
    };
    let defect = forget(settings, defect.map_or(0, |defect| defect.number().into()));
    let listed = listed(packet.source, settings, now_ns, tables);
    if listed == Listed::Allowed {
        return Reason::Allowed.into();
    }
    // Routers do not forward neighbour discovery, so it comes from a neighbour, blocked or not. Packets to all
    // hosts of a link need not come from one.
    if let Some(vital) = packet.vital
        && (listed != Listed::Blocked || vital == Vital::NeighbourDiscovery)
        && (defect == 0 || vital != Vital::Link)
    {
        let price = settings.vital[vital as usize].price(packet.length);
        let budget = (vital.account(), vital as u32);
        if tables.charge_shared(settings, budget, By::source(source), now_ns, &price) {
            return Reason::Protected.into();
        }
    }
    if defect != 0 {
        return Reason::from_number(defect as u32).unwrap_or(Reason::Truncated).into();
    }
    if listed == Listed::Blocked {
        return Reason::Blocked.into();
    }
    let kind = if class == Class::Udp as u64 {
        udp_kind(packet, source, &flow, settings, now_ns, tables)
    } else if part == Part::Later as u64 {
        match tables.first_fragment(datagram, now_ns) {
            first::UNKNOWN => class,
            first::DROPPED => kind::OF_DROPPED,
            first::ASKED if is_within_proven(packet, by_flow(&flow, settings), settings, now_ns, tables) => {
                kind::ASKED
            }
            first::ASKED => class,
            first => first - 1,
        }
    } else if class == Class::Icmp as u64 && is_icmp_error(flow.protocol, found.icmp()) {
        Class::IcmpError as u64
    } else if class == Class::Other as u64
        || class == Class::Icmp as u64 && is_ping_answer(flow.protocol, found.icmp())
    {
        let asked = asked(&flow, settings, now_ns, tables);
        if is_answer(asked, packet, &flow, settings, now_ns, tables) {
            kind::ASKED
        } else if settings.solicited & solicited::NOTED != 0
            && asked == Asked::Nothing
            && flow.answers_strangers()
        {
            kind::BEGUN + class
        } else {
            class
        }
    } else {
        class
    };
    // VERIFIER: many paths lead to a kind, and many to a reason; only one continues from each.
    let kind = forget(settings, kind);
    let class = kind % CLASS_SLOTS as u64;
    // A fragment [is charged](crate::reassembly::judge) when there is memory for it.
    let has_memory = settings.reassembly[usize::from(packet.source.version() == 6)].is_set();
    // VERIFIER: no branch on the part, because the code that follows must not know anything about it.
    let is_whole = 1 - part.div_ceil(2);
    let charged = forget(settings, is_whole | u64::from(!has_memory));
    let reason = match kind {
        kind::UNWANTED => Reason::Unsolicited,
        kind::ASKED => Reason::Solicited,
        kind::OF_DROPPED => Reason::FragmentOfDropped,
        _ => limit(&Load::new(packet, source, class, charged), settings, now_ns, tables.cells()),
    };
    let reason = forget(settings, reason.number().into()) as u32;
    let may_speak = settings.proof != 0
        && is_provable(reason)
        && match found.speech() {
            speech::NONE => false,
            speech::CONNECTION => true,
            speech::QUOTE => class == Class::IcmpError as u64,
            _ => may_be_of_socket(reason, flow.local_port, now_ns, tables),
        };
    // A packet that may still prove its origin has no verdict yet.
    if part == Part::First as u64 && !may_speak {
        let first = match kind {
            _ if is_drop(reason) => first::DROPPED,
            kind::ASKED => first::ASKED,
            _ => class + 1,
        };
        tables.note_first_fragment(datagram, first, now_ns);
    }
    // A packet that reaches a service of this host may be answered, and the answer is no question.
    if kind >= kind::BEGUN && (!is_drop(reason) || settings.mode == MODE_MONITOR) {
        tables.mark_begun(flow.place_begun(&settings.solicit_seeds), now_ns);
    }
    let looks_again = may_speak || part != Part::Whole as u64 && !is_drop(reason);
    Verdict { reason: Reason::from_number(reason).unwrap_or(Reason::Truncated), looks_again, class }
}

/// What a packet is, as a number: its class, or one of these.
mod kind {
    use crate::class::CLASS_SLOTS;

    /// Nothing on this host wants it.
    pub(super) const UNWANTED: u64 = CLASS_SLOTS as u64;
    /// This host solicited it.
    pub(super) const ASKED: u64 = UNWANTED + 1;
    /// Part of a datagram whose first fragment was dropped.
    pub(super) const OF_DROPPED: u64 = ASKED + 1;
    /// To a service that may answer it: the class is the remainder after division.
    pub(super) const BEGUN: u64 = 2 * CLASS_SLOTS as u64;
}

/// Returns the address or prefix that the source of a packet is counted by.
#[inline(always)]
pub(crate) fn source_of(packet: &Packet, settings: &Settings) -> Network {
    let Network { version, bits } = settings.source(packet.source);
    // VERIFIER: one path for all sources of a family.
    Network { version, bits: forget(settings, bits) }
}

/// Returns what the lists say about a source.
#[inline(always)]
pub(crate) fn listed<T: Tables>(source: Address, settings: &Settings, now_ns: u64, tables: &T) -> Listed {
    let family = match source {
        Address::V4(_) => list::V4,
        Address::V6 { .. } => list::V6,
    };
    if settings.lists & family == 0 { Listed::Nothing } else { tables.look_up(settings, source, now_ns) }
}

/// Whether UDP from this port may be a reply from a reflector, where the settings make use of that.
#[inline(always)]
pub(crate) fn may_be_reflected<T: Tables>(port: u16, settings: &Settings, tables: &T) -> bool {
    settings.reflectors | settings.solicited != 0 && tables.is_reflector(port)
}

/// Whether UDP goes to a port of this host on which, as far as the daemon knows, no socket listens.
#[inline(always)]
pub(crate) fn is_to_closed_port<T: Tables>(
    packet: &Packet,
    port: u16,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> bool {
    settings.absence != 0 && tables.is_closed(port, now_ns) && tables.is_local(settings, packet.destination)
}

/// Whether UDP to this port, over a limit for the reason with this number, may belong to a socket that gives
/// evidence for it.
#[inline(always)]
pub(crate) fn may_be_of_socket<T: Tables>(reason: u32, port: u16, now_ns: u64, tables: &T) -> bool {
    proof::is_of_many(reason) || tables.may_have_peer(port, now_ns)
}

/// Returns the kind of a UDP packet.
#[inline(always)]
fn udp_kind<T: Tables>(
    packet: &Packet,
    source: Network,
    flow: &Flow,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> u64 {
    let is_reflected = may_be_reflected(flow.remote_port, settings, tables);
    let has_notes = settings.solicited & solicited::NOTED != 0;
    let has_sockets = settings.solicited & solicited::SOCKETS != 0;
    if is_to_closed_port(packet, flow.local_port, settings, now_ns, tables) {
        // The list of open ports may be a second old, and a question may have left without being seen. So check the
        // sockets, because unsolicited packets are dropped whatever their rate.
        if !is_reflected || !has_sockets {
            return Class::Closed as u64;
        }
    }
    if !is_reflected {
        return Class::Udp as u64;
    }
    let asked = asked(flow, settings, now_ns, tables);
    if is_answer(asked, packet, flow, settings, now_ns, tables) {
        return kind::ASKED;
    }
    // There may be too many replies to what this host sent, but the remote side did not begin such a flow.
    let may_begin = has_notes && asked == Asked::Nothing;
    // Some reflector ports are also ephemeral ports of clients. The same holds for the remote end of a tunnel, and
    // for remote sides that this host answers.
    let class = if flow.remote_port < FIRST_OF_CLIENTS {
        Class::Amplification
    } else if tables.is_tunnel(flow.local_port) {
        Class::Udp
    } else if may_begin && tables.is_answered(flow.place_begun(&settings.solicit_seeds), now_ns) {
        Class::Answered
    } else {
        Class::Amplification
    };
    // VERIFIER: merge into one path, because many start here.
    let class = forget(settings, class as u64);
    let by_source = By::source(source);
    if has_sockets && tables.is_local(settings, packet.destination) {
        match tables.receiver(flow) {
            Receiver::NoSocket if settings.absence != 0 => return kind::UNWANTED,
            Receiver::Connected if is_within_proven(packet, by_source, settings, now_ns, tables) => {
                return kind::ASKED;
            }
            Receiver::Anybodys if may_begin => return kind::BEGUN + class,
            Receiver::NoSocket | Receiver::Connected | Receiver::Anybodys => {}
        }
    }
    // Only a service answers flows that the remote side began. On a port in the ephemeral range only a socket shows
    // a service.
    if may_begin && !settings.is_of_clients(flow.local_port) { kind::BEGUN + class } else { class }
}

/// Returns what this host has solicited in a flow, as far as that is recorded.
#[inline(always)]
fn asked<T: Tables>(flow: &Flow, settings: &Settings, now_ns: u64, tables: &T) -> Asked {
    if settings.solicited & solicited::NOTED == 0 {
        return Asked::Nothing;
    }
    tables.asked(flow.place(&settings.solicit_seeds), now_ns)
}

/// Whether this host solicited the packet. Sessions have accounts of their own: an attacker who knows the ports of
/// a session can spoof it, but then uses up nothing of what else that source may send.
#[inline(always)]
fn is_answer<T: Tables>(
    asked: Asked,
    packet: &Packet,
    flow: &Flow,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> bool {
    match asked {
        Asked::Question => true,
        Asked::Session => is_within_proven(packet, by_flow(flow, settings), settings, now_ns, tables),
        Asked::Nothing | Asked::Answered => false,
    }
}

/// Returns a flow as the party to charge. Later fragments have no ports, so those between two addresses count as
/// one flow.
#[inline(always)]
fn by_flow(flow: &Flow, settings: &Settings) -> By {
    By::Hash(flow.hash(&settings.solicit_seeds))
}

/// Charges a packet to what may pass by evidence. Returns whether it is within that, or its source is on the list
/// allow-proven.
#[inline(always)]
fn is_within_proven<T: Tables>(
    packet: &Packet,
    by: By,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> bool {
    let price = settings.accounts[Account::Proven as usize].price(packet.length);
    tables.charge_account(settings, Account::Proven, by, now_ns, &price) != Charge::Exceeding
        || tables.is_allowed_by_evidence(settings, packet.source, now_ns)
}

/// [`opaque`], with a secret: 64 bits of which the verifier knows nothing.
#[inline(always)]
pub(crate) fn forget(settings: &Settings, value: u64) -> u64 {
    opaque(value, settings.seeds.v6[0])
}

/// The facts by which a packet is charged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// The prefix that its source is counted by.
    pub source: Network,
    /// The prefix that its destination is counted by; same IP version.
    pub destination: u64,
    /// The number of its [`Class`].
    pub class: u64,
    /// Its length, bytes.
    pub length: u32,
    /// 1 to charge the packet, 0 to only check the cells. VERIFIER: a number, which needs no branch.
    pub charged: u64,
}

impl Load {
    /// The load of a packet of a class.
    #[inline(always)]
    pub(crate) fn new(packet: &Packet, source: Network, class: u64, charged: u64) -> Self {
        let destination = packet.destination.network().bits;
        Self { source, destination, class, length: packet.length, charged }
    }
}

/// Charges a packet to every cell that its class has, or to none. Narrow scopes come first; the first cell that it
/// exceeds is its reason. A dropped packet is charged to no cell.
///
/// Another processor may use up the rest of a limit between the check and the charge. The packet is then dropped,
/// and the cells charged so far keep the charge: at most one packet for each race.
#[inline(always)]
pub fn limit<T: Cells>(load: &Load, settings: &Settings, now_ns: u64, cells: &T) -> Reason {
    let Load { source, length, .. } = *load;
    let class = load.class as usize % CLASS_SLOTS;
    // All bits of the number of a cell, or none. VERIFIER: a packet that is not charged has an empty plan and no
    // path of its own.
    let charged = 0_u8.wrapping_sub(load.charged as u8);
    // VERIFIER: one path for all destinations.
    let bits = forget(settings, load.destination);
    let destination = Network { version: source.version, bits };
    let network = |cell: Cell| if cell.is_by_destination() { destination } else { source };
    let plan = &settings.plan[Settings::plan_of(source.version, class)];
    // A single cell is checked when it is charged, if it is.
    let looks = if plan[1] | !charged == 0 { 0 } else { MAX_CELLS };
    for &entry in &plan[..looks] {
        let Some((cell, price)) = price(settings, entry, length) else { break };
        let exceeds = if cell.is_total() {
            cells.exceeds_total(cell, now_ns, &price)
        } else {
            cells.exceeds_network(settings, cell, network(cell), now_ns, &price)
        };
        if exceeds {
            return exceeding(class, cell, price.bits, cells);
        }
    }
    let mut unaccounted = 0;
    for &entry in &plan[..MAX_CELLS] {
        let Some((cell, price)) = price(settings, entry & charged, length) else { break };
        let charge = if cell.is_total() {
            cells.charge_total(cell, now_ns, &price)
        } else {
            cells.charge_network(settings, cell, network(cell), now_ns, &price)
        };
        match charge {
            Charge::Conforming => {}
            Charge::Unaccounted => unaccounted = 1,
            Charge::Exceeding => return exceeding(class, cell, price.bits, cells),
        }
        unaccounted = forget(settings, unaccounted);
    }
    if unaccounted == 0 { Reason::Conforming } else { Reason::Unaccounted }
}

/// Charges a packet that is over a shared limit, but passes for another reason, to the limits that its source has
/// in a class.
#[inline(always)]
pub(crate) fn charge_source<T: Tables>(
    packet: &Packet,
    class: usize,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) {
    let source = settings.source(packet.source);
    let plan = &settings.plan[Settings::plan_of(source.version, class)];
    for &entry in &plan[..MAX_SOURCE_CELLS] {
        match price(settings, entry, packet.length) {
            Some((cell, price)) if !cell.is_wide() => {
                let _ = tables.cells().charge_network(settings, cell, source, now_ns, &price);
            }
            _ => break,
        }
    }
}

/// Returns the reason for a packet of a class that is over the limit of a cell.
#[inline(always)]
pub(crate) fn exceeding<T: Cells>(class: usize, cell: Cell, bits: bool, cells: &T) -> Reason {
    cells.note_exceeded(cell);
    if class == Class::Closed as usize && cell.is_wide() {
        Reason::NoSocket
    } else {
        Reason::exceeding(cell, bits)
    }
}

/// Returns the cell of a plan entry and what a packet costs there; `None` at the end of the plan.
#[inline(always)]
pub(crate) fn price(settings: &Settings, entry: u8, length: u32) -> Option<(Cell, Price)> {
    // Zero, the end, becomes a number that no cell has.
    let cell = Cell::from_number(entry.wrapping_sub(1));
    // VERIFIER: 6.1 forgets the result of a comparison where the compiler reads the number from the stack again.
    // One past the last limit there are still settings.
    let limit = settings.limits.get(verifier::at_most::<{ CELLS as i32 }>(cell.number()))?;
    Some((cell, limit.price(length)))
}
