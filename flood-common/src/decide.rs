//! The verdict: from the facts about a packet to the reason why it passes or is dropped.
//!
//! The order is the policy. The allow list comes first, which wins over everything that has a source; then what keeps the host
//! reachable, within budgets of its own and, but for neighbour discovery, unless it is blocked; then defects, the block list, for
//! answers whether they were asked for, and the limits.
//!
//! Lookups are lazy, since each costs: [`Tables`] is asked only for what the packet has come to.

use crate::{
    abi::{MAX_CELLS, Settings, list, solicited},
    account::Accounts,
    address::{Address, Network},
    class::{CLASS_SLOTS, Cell, Class},
    evidence::Receiver,
    fragments::{self, FragmentPlace, first},
    lists::Listed,
    meter::{Charge, Price},
    packet::{Packet, Parsed, Part, Vital},
    reason::Reason,
    solicit::Flow,
    verifier::opaque,
};

/// The tables behind a verdict: BPF maps in the kernel, ordinary memory on a host.
pub trait Tables: Accounts {
    /// What the unexpired entries of both lists say about the address.
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed;
    /// Whether UDP from this port may be a mirror's answer.
    fn is_reflector(&self, port: u16) -> bool;
    /// Whether something has gone out of which this flow is the answer.
    fn is_solicited(&self, settings: &Settings, flow: &Flow, now_ns: u64) -> bool;
    /// What became of the first fragment of a datagram: a number of
    /// [`first`].
    fn first_fragment(&self, datagram: FragmentPlace, now_ns: u64) -> u64;
    /// Notes what became of a first fragment.
    fn note_first_fragment(&self, datagram: FragmentPlace, first: u64, now_ns: u64);
    /// What sockets say to a datagram of the flow.
    fn receiver(&self, flow: &Flow) -> Receiver;
    /// Whether a packet exceeds a cell that counts by address; `network` is the [network](Address::network) by which it
    /// counts. Nothing is charged.
    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool;
    /// Charges it.
    fn charge_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> Charge;
    /// Whether a packet exceeds a cell that counts all packets together. Nothing is charged.
    fn exceeds_total(&self, cell: Cell, now_ns: u64, price: &Price) -> bool;
    /// Charges it.
    fn charge_total(&self, cell: Cell, now_ns: u64, price: &Price) -> Charge;
}

/// Decides about a frame.
#[inline(always)]
pub fn decide<T: Tables>(parsed: &Parsed, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    match parsed {
        Parsed::Packet(packet) => decide_packet(packet, settings, now_ns, tables),
        Parsed::NotIp => Reason::NotIp,
        Parsed::Broken(reason) => *reason,
    }
}

#[inline(always)]
fn decide_packet<T: Tables>(packet: &Packet, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    // VERIFIER: what the parser found is a constant on each way through it. None of them is followed on its own
    // through all that comes now.
    let class = forget(settings, packet.class as u64);
    let [port, to] = packet.ports.map_or([0; 2], |ports| [ports.source, ports.destination].map(u64::from));
    let (port, to) = (forget(settings, port) as u16, forget(settings, to) as u16);
    let part = forget(settings, packet.part as u64);
    let datagram = match packet.part {
        Part::Whole => FragmentPlace::default(),
        Part::First | Part::Later => fragments::place(packet, &settings.solicit_seeds),
    };
    let datagram = FragmentPlace {
        bucket: forget(settings, datagram.bucket.into()) as u32,
        tag: forget(settings, datagram.tag),
    };
    let defect = match packet.defect {
        None if settings.sanity.is_beyond_doubt(packet) => None,
        None => settings.sanity.check(packet),
        defect => defect,
    };
    let defect = forget(settings, defect.map_or(0, |defect| defect.number().into()));
    let family = match packet.source {
        Address::V4(_) => list::V4,
        Address::V6 { .. } => list::V6,
    };
    let listed = if settings.lists & family == 0 {
        Listed::Nothing
    } else {
        tables.look_up(settings, packet.source, now_ns)
    };
    if listed == Listed::Allowed {
        return Reason::Allowed;
    }
    // No router forwards neighbour discovery, so it is from a neighbour, blocked or not.
    if let Some(vital) = packet.vital
        && (listed != Listed::Blocked || vital == Vital::NeighbourDiscovery)
    {
        let price = settings.vital[vital as usize].price(packet.length);
        let budget = (vital.account(), vital as u32);
        if tables.charge_shared(settings, budget, packet.source, now_ns, &price) {
            return Reason::Protected;
        }
    }
    if defect != 0 {
        return Reason::from_number(defect as u32).unwrap_or(Reason::Truncated);
    }
    if listed == Listed::Blocked {
        return Reason::Blocked;
    }
    let is_reflected = settings.reflectors | settings.solicited != 0
        && class == Class::Udp as u64
        && tables.is_reflector(port);
    let class = if is_reflected {
        let flow =
            Flow { remote: packet.source, local: packet.destination, remote_port: port, local_port: to };
        match answer(&flow, settings, now_ns, tables) {
            Answer::Solicited => class,
            Answer::Unsolicited => UNWANTED,
            Answer::Unknown => Class::Amplification as u64,
        }
    } else if part == Part::Later as u64 {
        match tables.first_fragment(datagram, now_ns) {
            first::UNKNOWN => class,
            first::DROPPED => return Reason::FragmentOfDropped,
            first => first - 1,
        }
    } else {
        class
    };
    let class = forget(settings, class);
    let reason = if class == UNWANTED {
        Reason::Unsolicited
    } else {
        limit(packet, class as usize, settings, now_ns, tables)
    };
    // What may prove its origin yet has no verdict so far.
    if part == Part::First as u64 && !(settings.proof != 0 && reason.is_provable()) {
        let first = if reason.is_drop() { first::DROPPED } else { class + 1 };
        tables.note_first_fragment(datagram, first, now_ns);
    }
    reason
}

/// No class: what has it was not asked for.
const UNWANTED: u64 = CLASS_SLOTS as u64;

/// What UDP from the port of a mirror is.
enum Answer {
    /// It was asked for.
    Solicited,
    /// Nobody here can have asked for it.
    Unsolicited,
    /// Nobody knows.
    Unknown,
}

#[inline(always)]
fn answer<T: Tables>(flow: &Flow, settings: &Settings, now_ns: u64, tables: &T) -> Answer {
    if settings.solicited & solicited::NOTED != 0 && tables.is_solicited(settings, flow, now_ns) {
        return Answer::Solicited;
    }
    if settings.solicited & solicited::SOCKETS == 0 {
        return Answer::Unknown;
    }
    match tables.receiver(flow) {
        Receiver::NoSocket if settings.absence != 0 => Answer::Unsolicited,
        Receiver::NoSocket | Receiver::Anybodys | Receiver::Elsewhere => Answer::Unknown,
        Receiver::Connected => Answer::Solicited,
    }
}

/// [`opaque`], by a secret: 64 bits of which the verifier knows nothing.
#[inline(always)]
fn forget(settings: &Settings, value: u64) -> u64 {
    opaque(value, settings.seeds.v6[0])
}

/// Charges a packet to each cell that its class has, or to none: the first that it exceeds, the narrow scopes first, is its
/// reason, and nobody pays for what is dropped.
///
/// Another processor may take the last of a limit between the two looks. Then the packet is dropped, and what it has been
/// charged to by then keeps its trace: no more than one packet for each race.
#[inline(always)]
fn limit<T: Tables>(packet: &Packet, class: usize, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    // VERIFIER: as above.
    let version = forget(settings, packet.source.version().into());
    let [source, destination] = [packet.source, packet.destination]
        .map(|address| Network { version, bits: forget(settings, address.network().bits) });
    let network = |cell: Cell| if cell.is_by_destination() { destination } else { source };
    let plan = &settings.plan[class % CLASS_SLOTS];
    // One cell alone is looked at when it is charged.
    let looks = if plan[1] == 0 { 0 } else { MAX_CELLS };
    for &entry in &plan[..looks] {
        let Some((cell, price)) = price(settings, entry, packet.length) else { break };
        let exceeds = if cell.is_total() {
            tables.exceeds_total(cell, now_ns, &price)
        } else {
            tables.exceeds_network(settings, cell, network(cell), now_ns, &price)
        };
        if exceeds {
            return Reason::exceeding(cell, price.bits);
        }
    }
    let mut unaccounted = 0;
    for &entry in &plan[..MAX_CELLS] {
        let Some((cell, price)) = price(settings, entry, packet.length) else { break };
        let charge = if cell.is_total() {
            tables.charge_total(cell, now_ns, &price)
        } else {
            tables.charge_network(settings, cell, network(cell), now_ns, &price)
        };
        match charge {
            Charge::Conforming => {}
            Charge::Unaccounted => unaccounted = 1,
            Charge::Exceeding => return Reason::exceeding(cell, price.bits),
        }
        unaccounted = forget(settings, unaccounted);
    }
    if unaccounted == 0 { Reason::Conforming } else { Reason::Unaccounted }
}

/// The cell of an entry of a plan, and what a packet costs there; `None` at the end of the plan.
#[inline(always)]
fn price(settings: &Settings, entry: u8, length: u32) -> Option<(Cell, Price)> {
    // Zero, the end, becomes a number that no cell has.
    let cell = Cell::from_number(entry.wrapping_sub(1));
    Some((cell, settings.limits.get(cell.number())?.price(length)))
}
