//! The tables of a verdict in ordinary memory: what the kernel's maps are compared with in tests.
//!
//! The lists of [`HostTables`] are scanned naively, so that they can serve as the model; the debt table, and the lists
//! of [`ListMemory`], are the real code over atomics.

use std::{array, collections::HashMap, sync::atomic::AtomicU64};

use crate::{
    abi::{BUDGET_TOTALS, BUDGETS, DEBT_TABLES, DebtPlace, Settings},
    address::{Address, Network},
    class::{CLASS_SLOTS, Cell},
    decide::Tables,
    fragments::{self, FRAGMENT_BITS, FragmentPlace},
    lists::{ListTables, Listed, Prefix, gate_words},
    meter::{Charge, Price, Slot, WAYS, charge, charge_budget, charge_leased, exceeds, exceeds_leased},
    packet::{Packet, Vital},
    place::Place,
    proof::{Cookie, Opening, Quote, Receiver, Retransmission, SYN_BUCKET_BITS, Sockets, Standing, note_syn},
    reflector::{PORT_WORDS, REFLECTORS, port_bit, port_sets, port_word},
    sketch::{self, SKETCH_WORDS},
    solicit::{Flow, SOLICIT_BITS, is_noted, lifetime, note},
};

/// A list entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Any address in the prefix.
    pub address: Address,
    /// Length of the prefix, bits.
    pub length: u32,
    /// When the entry ends, nanoseconds; 0 for never.
    pub expires_ns: u64,
}

impl Entry {
    /// Whether it covers the address and has not ended.
    pub fn covers(&self, address: Address, now_ns: u64) -> bool {
        let bits = |address: Address| match address {
            Address::V4(v4) => u128::from(v4) << 96,
            Address::V6 { network, interface } => (u128::from(network) << 64) | u128::from(interface),
        };
        let difference = bits(self.address) ^ bits(address);
        self.address.version() == address.version()
            && (self.expires_ns == 0 || now_ns < self.expires_ns)
            && (self.length == 0 || difference >> (128 - self.length) == 0)
    }
}

/// A UDP socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpenSocket {
    /// Where it listens; `None` for every address of both families.
    pub local: Option<Address>,
    /// Its port.
    pub port: u16,
    /// Whom it is connected to.
    pub peer: Option<(Address, u16)>,
}

impl OpenSocket {
    /// Whether packets of a flow come to it.
    fn takes(&self, flow: &Flow) -> bool {
        self.port == flow.local_port
            && self.local.is_none_or(|local| local == flow.local)
            && self.peer.is_none_or(|peer| peer == (flow.remote, flow.remote_port))
    }
}

/// What a processor keeps for itself.
#[derive(Default)]
struct Processor {
    /// The words of its sketch, if it has one.
    sketch: Vec<std::cell::Cell<u32>>,
    leases: [std::cell::Cell<u64>; CLASS_SLOTS],
}

/// Tables in memory.
pub struct HostTables {
    /// The allow list.
    pub allow: Vec<Entry>,
    /// The block list.
    pub block: Vec<Entry>,
    /// The UDP sockets of the host.
    pub sockets: Vec<OpenSocket>,
    /// Buckets of what was asked for.
    pub solicited: Vec<[AtomicU64; WAYS]>,
    /// What each processor keeps for itself, and which of them has the packet now.
    processors: Vec<Processor>,
    running: std::cell::Cell<usize>,
    sketch_shift: u32,
    fragments: Vec<[AtomicU64; WAYS]>,
    bucket_bits: u32,
    debts: Vec<[AtomicU64; WAYS]>,
    reflectors: [u64; 2 * PORT_WORDS],
    budgets: [AtomicU64; BUDGETS as usize],
}

impl HostTables {
    /// Makes empty tables with `2^bucket_bits` buckets.
    pub fn new(bucket_bits: u32) -> Self {
        Self {
            allow: Vec::new(),
            block: Vec::new(),
            sockets: Vec::new(),
            solicited: (0..1 << SOLICIT_BITS).map(|_| Default::default()).collect(),
            processors: vec![Processor::default()],
            running: std::cell::Cell::new(0),
            sketch_shift: 0,
            fragments: (0..1 << FRAGMENT_BITS).map(|_| Default::default()).collect(),
            bucket_bits,
            debts: (0..DEBT_TABLES << bucket_bits).map(|_| Default::default()).collect(),
            reflectors: port_sets(REFLECTORS.iter().map(|reflector| reflector.port)),
            budgets: Default::default(),
        }
    }

    /// Has this many processors, each with a sketch before the table of debts. Packets are on the first until
    /// [`run_on`](Self::run_on) says otherwise.
    pub fn sketch(&mut self, processors: u32) {
        let sketch = || vec![std::cell::Cell::new(0); SKETCH_WORDS];
        self.processors =
            (0..processors).map(|_| Processor { sketch: sketch(), ..Processor::default() }).collect();
        self.sketch_shift = sketch::shift(processors);
        self.run_on(0);
    }

    /// Has the packets that follow on this processor.
    pub fn run_on(&self, processor: usize) {
        self.running.set(processor % self.processors.len());
    }

    fn processor(&self) -> &Processor {
        &self.processors[self.running.get()]
    }

    /// The word of this processor's sketch for who is charged in this place.
    fn sketch_word(&self, cell: Cell, place: DebtPlace) -> Option<&std::cell::Cell<u32>> {
        if cell.is_by_destination() {
            return None;
        }
        self.processor().sketch.get(sketch::word_of(place.bucket, place.owner))
    }

    fn total(&self, cell: Cell) -> (&AtomicU64, &std::cell::Cell<u64>) {
        let class = cell.class_number();
        (&self.budgets[(BUDGET_TOTALS + class) as usize], &self.processor().leases[class as usize])
    }

    /// What the egress program does with a packet that leaves the host: notes it if it is a question to a mirror. See
    /// [`Flow::is_question`] for `client`.
    pub fn ask(&self, settings: &Settings, flow: &Flow, now_ns: u64, client: bool) {
        if self.is_reflector(flow.remote_port) && flow.is_question(client) {
            let place = flow.place(&settings.solicit_seeds);
            note(&self.solicited[place.bucket as usize], place.tag, now_ns, self.lifetime(flow));
        }
    }

    fn lifetime(&self, flow: &Flow) -> u32 {
        let sessions = self.reflectors[PORT_WORDS + port_word(flow.remote_port)];
        lifetime(flow.remote_port, sessions & port_bit(flow.remote_port) != 0)
    }
}

impl sketch::Word for std::cell::Cell<u32> {
    fn load(&self) -> u32 {
        self.get()
    }

    fn store(&self, value: u32) {
        self.set(value);
    }
}

impl Tables for HostTables {
    fn look_up(&self, _: &Settings, address: Address, now_ns: u64) -> Listed {
        let covered = |list: &[Entry]| list.iter().any(|entry| entry.covers(address, now_ns));
        if covered(&self.allow) {
            Listed::Allowed
        } else if covered(&self.block) {
            Listed::Blocked
        } else {
            Listed::Nothing
        }
    }

    fn is_reflector(&self, port: u16) -> bool {
        self.reflectors[port_word(port)] & port_bit(port) != 0
    }

    fn is_solicited(&self, settings: &Settings, flow: &Flow, now_ns: u64) -> bool {
        let place = flow.place(&settings.solicit_seeds);
        is_noted(&self.solicited[place.bucket as usize], place.tag, now_ns, || self.lifetime(flow))
    }

    fn first_fragment(&self, datagram: FragmentPlace, now_ns: u64) -> u64 {
        fragments::find(&self.fragments[datagram.bucket as usize], datagram.tag, now_ns)
    }

    fn note_first_fragment(&self, datagram: FragmentPlace, first: u64, now_ns: u64) {
        fragments::note(&self.fragments[datagram.bucket as usize], datagram.tag, first, now_ns);
    }

    fn receiver(&self, flow: &Flow) -> Receiver {
        let found = || self.sockets.iter().filter(|socket| socket.takes(flow));
        if found().any(|socket| socket.peer.is_some()) {
            Receiver::Connected
        } else if found().next().is_some() {
            Receiver::Anybodys
        } else {
            Receiver::NoSocket
        }
    }

    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = settings.debt_place(cell, network, self.bucket_bits);
        let conforms_by_sketch = self
            .sketch_word(cell, place)
            .is_some_and(|word| sketch::would_admit(word, now_ns, price, self.sketch_shift));
        !conforms_by_sketch && exceeds(&self.debts[place.bucket as usize], place.owner, now_ns, price)
    }

    fn charge_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> Charge {
        let place = settings.debt_place(cell, network, self.bucket_bits);
        let word = self.sketch_word(cell, place);
        if word.is_some_and(|word| sketch::admits(word, now_ns, price, self.sketch_shift)) {
            return Charge::Conforming;
        }
        // A host test never fills a bucket by chance; 1 is a throw that does not admit.
        charge(&self.debts[place.bucket as usize], place.owner, now_ns, price, || 1)
    }

    fn exceeds_total(&self, cell: Cell, now_ns: u64, price: &Price) -> bool {
        let (budget, lease) = self.total(cell);
        exceeds_leased(budget, lease.get(), now_ns, price)
    }

    fn charge_total(&self, cell: Cell, now_ns: u64, price: &Price) -> Charge {
        let (budget, lease) = self.total(cell);
        let mut left = lease.get();
        let charge = charge_leased(budget, &mut left, now_ns, price);
        lease.set(left);
        charge
    }

    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge {
        charge_budget(&self.budgets[vital as usize], now_ns, price)
    }
}

/// What a host's sockets would say.
pub struct HostSockets {
    /// TCP ports on which somebody listens.
    pub listeners: Vec<u16>,
    /// Remote and local port of connections.
    pub connections: Vec<[u16; 2]>,
    /// Local UDP ports, with the remote port where the socket is connected.
    pub datagrams: Vec<(u16, Option<u16>)>,
    /// Whether listeners make cookies.
    pub cookies: bool,
    /// Whether segments to them bring a right cookie.
    pub right_cookie: bool,
    syns: Vec<[AtomicU64; WAYS]>,
    retransmissions: AtomicU64,
}

impl Default for HostSockets {
    fn default() -> Self {
        Self {
            listeners: Vec::new(),
            connections: Vec::new(),
            datagrams: Vec::new(),
            cookies: false,
            right_cookie: false,
            syns: (0..1 << SYN_BUCKET_BITS).map(|_| Default::default()).collect(),
            retransmissions: AtomicU64::new(0),
        }
    }
}

impl HostSockets {
    fn is_connected(&self, packet: &Packet) -> bool {
        packet.ports.is_some_and(|ports| self.connections.contains(&[ports.source, ports.destination]))
    }

    fn is_listening(&self, packet: &Packet) -> bool {
        packet.ports.is_some_and(|ports| self.listeners.contains(&ports.destination))
    }
}

impl Sockets for HostSockets {
    fn open(&self, packet: &Packet) -> Opening {
        if self.is_connected(packet) {
            Opening::Connection
        } else if !self.is_listening(packet) {
            Opening::NoSocket
        } else if self.cookies {
            Opening::Cookie(Cookie { sequence: 0, clients: 0, segment: 0 })
        } else {
            Opening::Room
        }
    }

    fn stand(&self, packet: &Packet) -> Standing {
        if self.is_connected(packet) {
            Standing::Connection
        } else if self.is_listening(packet) {
            Standing::Listener { cookie: self.right_cookie }
        } else {
            Standing::NoSocket
        }
    }

    fn receive(&self, packet: &Packet) -> Receiver {
        let Some(ports) = packet.ports else { return Receiver::NoSocket };
        let of_port = |(local, _): &&(u16, Option<u16>)| *local == ports.destination;
        match self.datagrams.iter().find(of_port) {
            None => Receiver::NoSocket,
            Some((_, Some(remote))) if *remote == ports.source => Receiver::Connected,
            Some(_) => Receiver::Anybodys,
        }
    }

    fn sent(&self, quote: &Quote) -> bool {
        let [local, remote] = quote.ports;
        self.connections.contains(&[remote, local]) || self.datagrams.contains(&(local, Some(remote)))
    }

    fn note_syn(&self, place: Place, now_ns: u64) -> Retransmission {
        note_syn(&self.syns[place.bucket as usize], place.tag, now_ns)
    }

    fn charge_retransmission(&self, now_ns: u64, price: &Price) -> Charge {
        charge_budget(&self.retransmissions, now_ns, price)
    }
}

/// The tables of the lists in memory.
pub struct ListMemory {
    bucket_bits: u32,
    cell_bits: u32,
    /// Both gates.
    pub gates: Vec<AtomicU64>,
    /// Buckets of IPv4 addresses, word by word.
    pub buckets: Vec<AtomicU64>,
    /// IPv6 prefixes.
    pub prefixes: HashMap<Prefix, [AtomicU64; 2]>,
}

impl ListMemory {
    /// Makes empty tables with `2^bucket_bits` buckets and `2^cell_bits` cells of IPv6.
    pub fn new(bucket_bits: u32, cell_bits: u32) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            bucket_bits,
            cell_bits,
            gates: words(gate_words(cell_bits) as usize),
            buckets: words(WAYS << bucket_bits),
            prefixes: HashMap::new(),
        }
    }

    /// Writes the words of an IPv6 prefix.
    pub fn set_prefix(&mut self, prefix: Prefix, words: [u64; 2]) {
        self.prefixes.insert(prefix, array::from_fn(|index| AtomicU64::new(words[index])));
    }

    /// Whether nothing is on a list.
    pub fn is_empty(&self) -> bool {
        let empty = |words: &[AtomicU64]| words.iter().all(|word| Slot::load(word) == 0);
        empty(&self.gates) && empty(&self.buckets) && self.prefixes.is_empty()
    }
}

impl ListTables for ListMemory {
    type Word = AtomicU64;

    fn bucket_bits(&self) -> u32 {
        self.bucket_bits
    }

    fn cell_bits(&self) -> u32 {
        self.cell_bits
    }

    fn gate(&self, word: u32) -> u64 {
        Slot::load(&self.gates[word as usize])
    }

    fn bucket(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.buckets.as_chunks().0.get(number as usize)
    }

    fn prefix(&self, prefix: &Prefix) -> Option<&[AtomicU64; 2]> {
        self.prefixes.get(prefix)
    }
}
