//! The tables of a verdict in ordinary memory, and a model of a host's sockets. Tests compare the kernel with them.
//!
//! The lists of [`HostTables`] are scanned naively, so that they can serve as the model. The debt table, and the
//! lists of [`ListMemory`], are the real code over atomics.

use std::{
    cell,
    sync::atomic::{AtomicU64, Ordering},
};

use crate::{
    abi::{BUDGET_TOTALS, BUDGETS, DEBT_TABLES, DebtPlace, Settings},
    account::{Account, Accounts, By, charge_both, share},
    address::{Address, Network},
    again::{self, LINE_BITS, SLICES, SynPlace},
    class::{CLASS_SLOTS, Cell},
    decide::{Cells, Tables},
    evidence::{Connection, Cookie, Opening, Quote, Receiver, Request, Segment, Standing, state},
    fragments::{self, FRAGMENT_BITS, FragmentPlace},
    lists::{
        GATE_WORDS, ListTables, Listed,
        ipv6::{self, Memo},
    },
    meter::{
        Charge, Price, Slot, WAYS, charge, charge_budget, charge_leased, exceeds, exceeds_leased, pay_back,
        pay_back_budget,
    },
    open,
    packet::Packet,
    proof::Host,
    reassembly::{self, Memory, Step},
    reflector::{PORT_WORDS, REFLECTORS, port_bit, port_sets, port_word},
    sketch::{self, SKETCH_WORDS},
    solicit::{self, Asked, Flow, Note, Outgoing, SOLICIT_BITS, SolicitPlace},
    watch,
    wire::protocol,
};

/// A list entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Any address in the prefix.
    pub address: Address,
    /// Length of the prefix, bits.
    pub length: u32,
    /// When the entry expires, nanoseconds; 0 for never.
    pub expires_ns: u64,
}

impl Entry {
    /// Whether the entry covers the address and has not expired.
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
pub struct UdpSocket {
    /// Its local address; `None` for every address of both families.
    pub local: Option<Address>,
    /// Its port.
    pub port: u16,
    /// The peer that it is connected to.
    pub peer: Option<(Address, u16)>,
}

impl UdpSocket {
    /// Whether it receives packets of a flow.
    fn takes(&self, flow: &Flow) -> bool {
        self.port == flow.local_port
            && self.local.is_none_or(|local| local == flow.local)
            && self.peer.is_none_or(|peer| peer == (flow.remote, flow.remote_port))
    }
}

/// A TCP listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its local address; `None` for every address of both families.
    pub local: Option<Address>,
    /// Its port.
    pub port: u16,
    /// What happens to a SYN.
    pub opening: Opening,
}

impl Listener {
    /// A listener on every address that makes cookies.
    pub fn with_cookies(port: u16) -> Self {
        let cookie = Cookie { sequence: 0, clients: 0, segment: 0 };
        Self { local: None, port, opening: Opening::Cookie(cookie) }
    }
}

/// The state between two ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Between {
    /// A connection.
    Connection(Connection),
    /// A request: a SYN arrived.
    Request(Request),
}

/// A model of what a host's sockets say.
#[derive(Default)]
pub struct HostSockets {
    /// Its unicast addresses.
    pub local: Vec<Address>,
    /// Its TCP listeners.
    pub listeners: Vec<Listener>,
    /// The state between two TCP ports, seen from the host.
    pub tcp: Vec<(Flow, Between)>,
    /// The UDP ports of its tunnels, and whether their remote ends send from ports that are hashes.
    pub tunnels: Vec<(u16, bool)>,
    /// Its UDP sockets.
    pub udp: Vec<UdpSocket>,
    /// Whether segments to listeners carry a valid cookie.
    pub right_cookie: bool,
}

impl HostSockets {
    fn between(&self, flow: &Flow) -> Option<Between> {
        self.tcp.iter().find(|(other, _)| other == flow).map(|(_, between)| *between)
    }

    fn listener(&self, flow: &Flow) -> Option<Listener> {
        let takes = |listener: &&Listener| {
            listener.port == flow.local_port && listener.local.is_none_or(|local| local == flow.local)
        };
        self.listeners.iter().find(takes).copied()
    }

    fn receiver(&self, flow: &Flow) -> Receiver {
        let found = || self.udp.iter().filter(|socket| socket.takes(flow));
        if found().any(|socket| socket.peer.is_some()) {
            Receiver::Connected
        } else if found().next().is_some() {
            Receiver::Anybodys
        } else {
            Receiver::NoSocket
        }
    }
}

/// The state that belongs to one processor.
#[derive(Default)]
struct Processor {
    /// The words of its sketch, if it has one.
    sketch: Vec<cell::Cell<u32>>,
    leases: [cell::Cell<u64>; CLASS_SLOTS],
}

/// Tables in memory.
pub struct HostTables {
    /// The allow list.
    pub allow: Vec<Entry>,
    /// The block list.
    pub block: Vec<Entry>,
    /// Sources whose packets pass over the limits by evidence.
    pub allow_proven: Vec<Entry>,
    /// The sockets of the host.
    pub sockets: HostSockets,
    /// Buckets of solicited flows.
    pub solicited: Vec<[AtomicU64; WAYS]>,
    /// Buckets of flows that the remote side began.
    begun: Vec<[AtomicU64; WAYS]>,
    /// Buckets of watched sources and sessions.
    watched: Vec<[AtomicU64; WAYS]>,
    /// The words for the host's UDP ports.
    pub open: Vec<AtomicU64>,
    /// The state of each processor, and which of them handles the packet now.
    processors: Vec<Processor>,
    running: cell::Cell<usize>,
    sketch_shift: u32,
    fragments: Vec<[AtomicU64; WAYS]>,
    datagrams: Vec<[AtomicU64; WAYS]>,
    fragmenting: Vec<[AtomicU64; WAYS]>,
    syns: Vec<[AtomicU64; SLICES]>,
    bucket_bits: u32,
    debts: Vec<[AtomicU64; WAYS]>,
    reflectors: [u64; 2 * PORT_WORDS],
    budgets: [AtomicU64; BUDGETS as usize],
    /// The cell that the last packet over a limit exceeded.
    pub exceeded: cell::Cell<Option<Cell>>,
}

impl HostTables {
    /// Makes empty tables with `2^bucket_bits` buckets.
    pub fn new(bucket_bits: u32) -> Self {
        Self {
            allow: Vec::new(),
            block: Vec::new(),
            allow_proven: Vec::new(),
            sockets: HostSockets::default(),
            solicited: (0..1 << SOLICIT_BITS).map(|_| Default::default()).collect(),
            begun: (0..1 << SOLICIT_BITS).map(|_| Default::default()).collect(),
            watched: (0..1 << SOLICIT_BITS).map(|_| Default::default()).collect(),
            open: (0..open::WORDS).map(|_| AtomicU64::new(0)).collect(),
            processors: vec![Processor::default()],
            running: cell::Cell::new(0),
            sketch_shift: 0,
            fragments: (0..1 << FRAGMENT_BITS).map(|_| Default::default()).collect(),
            datagrams: (0..1 << FRAGMENT_BITS).map(|_| Default::default()).collect(),
            fragmenting: (0..1 << SOLICIT_BITS).map(|_| Default::default()).collect(),
            syns: (0..1 << LINE_BITS).map(|_| Default::default()).collect(),
            bucket_bits,
            debts: (0..DEBT_TABLES << bucket_bits).map(|_| Default::default()).collect(),
            reflectors: port_sets(REFLECTORS.iter().map(|reflector| reflector.port)),
            budgets: Default::default(),
            exceeded: cell::Cell::new(None),
        }
    }

    /// Sets up this many processors, each with a sketch in front of the debt table. Packets run on the first until
    /// [`run_on`](Self::run_on) selects another.
    pub fn sketch(&mut self, processors: u32) {
        let sketch = || vec![cell::Cell::new(0); SKETCH_WORDS];
        self.processors =
            (0..processors).map(|_| Processor { sketch: sketch(), ..Processor::default() }).collect();
        self.sketch_shift = sketch::shift(processors);
        self.run_on(0);
    }

    /// Runs the packets that follow on this processor.
    pub fn run_on(&self, processor: usize) {
        self.running.set(processor % self.processors.len());
    }

    fn processor(&self) -> &Processor {
        &self.processors[self.running.get()]
    }

    /// Returns the word of this processor's sketch for the party charged in this place, if the charge is sketched.
    fn sketch_word(&self, place: DebtPlace, sketched: bool) -> Option<&cell::Cell<u32>> {
        let words = &self.processor().sketch;
        if sketched { words.get(sketch::word_of(place.bucket)) } else { None }
    }

    /// Whether all debts equal those in `other`, which should have received the same charges.
    pub fn owes_as(&self, other: &Self) -> bool {
        let words = |tables: &Self| -> Vec<u64> {
            let budgets = tables.budgets.iter().chain(tables.debts.iter().flatten()).map(Slot::load);
            let own = tables.processors.iter().flat_map(|processor| {
                let sketch = processor.sketch.iter().map(|word| word.get().into());
                processor.leases.iter().map(cell::Cell::get).chain(sketch)
            });
            budgets.chain(own).collect()
        };
        words(self) == words(other)
    }

    fn exceeds_place(&self, place: DebtPlace, sketched: bool, now_ns: u64, price: &Price) -> bool {
        let conforms_by_sketch = self
            .sketch_word(place, sketched)
            .is_some_and(|word| sketch::would_admit(word, now_ns, price, self.sketch_shift));
        !conforms_by_sketch && exceeds(&self.debts[place.bucket as usize], place.owner, now_ns, price)
    }

    fn charge_place(&self, place: DebtPlace, sketched: bool, now_ns: u64, price: &Price) -> Charge {
        let word = self.sketch_word(place, sketched);
        if word.is_some_and(|word| sketch::admits(word, now_ns, price, self.sketch_shift)) {
            return Charge::Conforming;
        }
        // A host test never fills a bucket by chance; 1 is a random number that does not admit.
        charge(&self.debts[place.bucket as usize], place.owner, now_ns, price, || 1)
    }

    fn total(&self, cell: Cell) -> (&AtomicU64, &cell::Cell<u64>) {
        let class = cell.class_number();
        (&self.budgets[(BUDGET_TOTALS + class) as usize], &self.processor().leases[class as usize])
    }

    /// Does what the egress program does with a packet that leaves the host; `connected` says whether its socket is
    /// connected.
    pub fn send(&self, settings: &Settings, flow: &Flow, now_ns: u64, connected: bool) {
        solicit::sent(settings, flow, connected, now_ns, self);
    }

    /// Does what the daemon does after it has looked at the sockets of the host.
    pub fn look_at_ports(&self, now_ns: u64) {
        for word in &self.open {
            word.store(0, Ordering::Relaxed);
        }
        for UdpSocket { port, peer, .. } in &self.sockets.udp {
            open::set(&self.open[open::word(*port)], *port);
            if peer.is_some() {
                open::set(&self.open[open::peer_word(*port)], *port);
            }
        }
        for (port, hashes) in &self.sockets.tunnels {
            if *hashes {
                open::set(&self.open[open::hashing_word(*port)], *port);
            }
            open::set(&self.open[open::peer_word(*port)], *port);
            open::set(&self.open[open::tunnel_word(*port)], *port);
        }
        self.open[open::LOOKED].store(now_ns, Ordering::Relaxed);
    }

    fn has_port(&self, word: usize, port: u16, now_ns: u64) -> bool {
        let is_fresh = open::is_fresh(Slot::load(&self.open[open::LOOKED]), now_ns);
        !is_fresh || Slot::load(&self.open[word]) & port_bit(port) != 0
    }
}

impl sketch::Word for cell::Cell<u32> {
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

    fn is_allowed_by_evidence(&self, _: &Settings, source: Address, now_ns: u64) -> bool {
        self.allow_proven.iter().any(|entry| entry.covers(source, now_ns))
    }

    fn is_reflector(&self, port: u16) -> bool {
        self.reflectors[port_word(port)] & port_bit(port) != 0
    }

    fn asked(&self, flow: SolicitPlace, now_ns: u64) -> Asked {
        solicit::asked(&self.solicited[flow.bucket as usize], flow.tag, now_ns)
    }

    fn mark_begun(&self, flow: SolicitPlace, now_ns: u64) {
        solicit::write(&self.begun[flow.bucket as usize], flow.tag, now_ns, Note::BEGUN);
    }

    fn is_closed(&self, port: u16, now_ns: u64) -> bool {
        !self.has_port(open::word(port), port, now_ns)
    }

    fn may_have_peer(&self, port: u16, now_ns: u64) -> bool {
        self.has_port(open::peer_word(port), port, now_ns)
    }

    fn is_tunnel(&self, port: u16) -> bool {
        Slot::load(&self.open[open::tunnel_word(port)]) & port_bit(port) != 0
    }

    fn is_answered(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        solicit::is_session(&self.begun[flow.bucket as usize], flow.tag, now_ns)
    }

    fn is_session(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        solicit::is_session(&self.watched[flow.bucket as usize], flow.tag, now_ns)
    }

    fn watch(&self, source: SolicitPlace, now_ns: u64) {
        solicit::write(&self.watched[source.bucket as usize], source.tag, now_ns, watch::WATCHED);
    }

    fn is_local(&self, _: &Settings, address: Address) -> bool {
        self.sockets.local.contains(&address)
    }

    fn first_fragment(&self, datagram: FragmentPlace, now_ns: u64) -> u64 {
        fragments::find(&self.fragments[datagram.bucket as usize], datagram.tag, now_ns)
    }

    fn note_first_fragment(&self, datagram: FragmentPlace, first: u64, now_ns: u64) {
        fragments::note(&self.fragments[datagram.bucket as usize], datagram.tag, first, now_ns);
    }

    fn receiver(&self, flow: &Flow) -> Receiver {
        self.sockets.receiver(flow)
    }

    fn cells(&self) -> &impl Cells {
        self
    }
}

impl Cells for HostTables {
    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = settings.debt_place(cell, network, self.bucket_bits);
        self.exceeds_place(place, !cell.is_by_destination(), now_ns, price)
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
        self.charge_place(place, !cell.is_by_destination(), now_ns, price)
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

    fn note_exceeded(&self, cell: Cell) {
        self.exceeded.set(Some(cell));
    }
}

impl Outgoing for HostTables {
    fn set_open(&self, word: usize, port: u16) {
        open::set(&self.open[word], port);
    }

    fn is_mirror(&self, port: u16) -> bool {
        self.is_reflector(port)
    }

    fn has_sessions(&self, port: u16) -> bool {
        self.reflectors[PORT_WORDS + port_word(port)] & port_bit(port) != 0
    }

    fn has_asked(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        solicit::is_in(&self.solicited[flow.bucket as usize], flow.tag, now_ns)
    }

    fn has_begun(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        solicit::is_in(&self.begun[flow.bucket as usize], flow.tag, now_ns)
    }

    fn is_tunnel(&self, port: u16) -> bool {
        Tables::is_tunnel(self, port)
    }

    fn is_hashing_tunnel(&self, port: u16) -> bool {
        Slot::load(&self.open[open::hashing_word(port)]) & port_bit(port) != 0
    }

    fn is_watched(&self, source: SolicitPlace, now_ns: u64) -> bool {
        solicit::is_in(&self.watched[source.bucket as usize], source.tag, now_ns)
    }

    fn count(&self, flow: SolicitPlace, now_ns: u64) {
        watch::count(&self.watched[flow.bucket as usize], flow.tag, now_ns);
    }

    fn goes_on(&self, flow: SolicitPlace, now_ns: u64) {
        solicit::write(&self.begun[flow.bucket as usize], flow.tag, now_ns, Note::ANSWERED);
    }

    fn ask(&self, flow: SolicitPlace, note: Note, now_ns: u64) {
        solicit::write(&self.solicited[flow.bucket as usize], flow.tag, now_ns, note);
    }
}

impl Accounts for HostTables {
    fn exceeds_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        self.exceeds_place(settings.account_place(account, by, self.bucket_bits), true, now_ns, price)
    }

    fn charge_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> Charge {
        self.charge_place(settings.account_place(account, by, self.bucket_bits), true, now_ns, price)
    }

    fn charge_shared(
        &self,
        settings: &Settings,
        (account, budget): (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = settings.account_place(account, by, self.bucket_bits);
        charge_both(
            price,
            |share| self.exceeds_place(place, true, now_ns, share),
            |price| charge_budget(&self.budgets[budget as usize], now_ns, price),
            |share| self.charge_place(place, true, now_ns, share),
        )
    }
}

impl Memory for HostTables {
    fn arrives(&self, source: SolicitPlace, now_ns: u64) -> u64 {
        reassembly::arrives(&self.fragmenting[source.bucket as usize], source.tag, now_ns)
    }

    fn follow(&self, datagram: FragmentPlace, step: Step, now_ns: u64) -> u64 {
        reassembly::follow(&self.datagrams[datagram.bucket as usize], datagram.tag, step, now_ns)
    }

    fn pay_back(
        &self,
        settings: &Settings,
        (account, budget): (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) {
        let place = settings.account_place(account, by, self.bucket_bits);
        pay_back(&self.debts[place.bucket as usize], place.owner, now_ns, &share(price));
        pay_back_budget(&self.budgets[budget as usize], price);
    }
}

impl Host for HostTables {
    fn open(&self, packet: &Packet) -> Opening {
        let flow = Flow::of(packet);
        match (self.sockets.between(&flow), self.sockets.listener(&flow)) {
            (Some(Between::Connection(_)), _) => Opening::Connection,
            (_, Some(listener)) => listener.opening,
            (_, None) => Opening::NoSocket,
        }
    }

    fn stand(&self, packet: &Packet, segment: &Segment) -> Standing {
        let flow = Flow::of(packet);
        let by_cookie = || match self.sockets.listener(&flow) {
            Some(_) if self.sockets.right_cookie => Standing::Proven,
            Some(_) => Standing::WrongCookie,
            None => Standing::NoSocket,
        };
        match self.sockets.between(&flow) {
            None => by_cookie(),
            Some(Between::Request(request)) if request.is_acknowledged(segment) => Standing::Proven,
            Some(Between::Request(_)) if by_cookie() == Standing::Proven => Standing::Proven,
            Some(Between::Connection(connection)) if connection.fits(segment) => Standing::Proven,
            Some(Between::Request(_) | Between::Connection(_)) => Standing::Unproven,
        }
    }

    fn has_sent(&self, quote: &Quote) -> bool {
        let flow = quote.flow();
        if quote.protocol == protocol::UDP {
            return self.sockets.local.contains(&flow.local)
                && self.sockets.receiver(&flow) == Receiver::Connected;
        }
        match self.sockets.between(&flow) {
            Some(Between::Connection(connection)) if connection.state != state::TIME_WAIT => {
                connection.has_sent(quote.sequence)
            }
            _ => false,
        }
    }

    fn came_again(&self, place: SynPlace, now_ns: u64) -> bool {
        again::came_again(&self.syns[place.line as usize], place.bits, now_ns)
    }
}

/// The tables of the lists, in memory.
pub struct ListMemory {
    bucket_bits: u32,
    keys: [u64; 4],
    /// Both gates, and an index for each bucket of IPv6 nodes.
    pub gates: Vec<AtomicU64>,
    /// Buckets of IPv4 addresses, word by word.
    pub buckets: Vec<AtomicU64>,
    /// Buckets of IPv6 nodes, word by word, then as many buckets of expiry times.
    pub nodes: Vec<AtomicU64>,
}

impl ListMemory {
    /// Makes empty tables with `2^bucket_bits` buckets for IPv4 and `node_buckets` for IPv6, hashed with these
    /// keys.
    pub fn new(bucket_bits: u32, node_buckets: u32, keys: [u64; 4]) -> Self {
        let words = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            bucket_bits,
            keys,
            gates: words((GATE_WORDS + node_buckets) as usize),
            buckets: words(WAYS << bucket_bits),
            nodes: words(2 * WAYS * node_buckets as usize),
        }
    }
}

impl ListTables for ListMemory {
    type Word = AtomicU64;
    type Note = cell::Cell<u64>;

    fn bucket_bits(&self) -> u32 {
        self.bucket_bits
    }

    fn gate(&self, word: u32) -> u64 {
        Slot::load(&self.gates[word as usize])
    }

    fn bucket(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.buckets.as_chunks().0.get(number as usize)
    }

    fn key(&self, number: usize) -> u64 {
        self.keys[number]
    }

    fn nodes(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.nodes.as_chunks().0.get(number as usize)
    }

    fn ends(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        let buckets = self.nodes.as_chunks().0;
        buckets.get(buckets.len() / 2 + number as usize)
    }

    fn search(&self, address: [u64; 2], now_ns: u64) -> u64 {
        ipv6::search(self, &Memo::default(), address, now_ns)
    }
}
