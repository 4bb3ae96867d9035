//! The interface between user space and the kernel: the layout of map values, and the names of maps and globals.
//!
//! Every type is `repr(C)`, of fixed-width integers, without padding (the derives refuse padded types), and its
//! size is asserted beside it. A field never is a `bool`, an `Option` or an enum.
//!
//! Invariant: any change here raises [`VERSION`], which the loader compares with that of the object.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::{
    account::ACCOUNTS,
    address::{Address, Network, Translators},
    class::{CELLS, CLASS_SLOTS, Cell, Class, Scope},
    meter::{self, Limit},
    packet::VITALS,
    place::{Place, Seeds},
    reason::REASON_SLOTS,
    sampler::Sampler,
    sanity::Sanity,
    solicit::SolicitSeeds,
    verifier,
};

/// Version of this module.
pub const VERSION: u32 = 13;

/// Names of maps in the object; the kernel cuts names at 15 characters.
pub mod map {
    /// `[SettingsPage; 1]`, mmapable.
    pub const SETTINGS: &str = "SETTINGS";
    /// Per processor: one [`InterfaceCounters`](super::InterfaceCounters) for each interface slot.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per processor: one [`CpuState`](super::CpuState).
    pub const CPU_STATE: &str = "CPU_STATE";
    /// Buckets of debts, mmapable: of IPv4 sources, then as many of IPv6 sources, of IPv4 destinations and of IPv6
    /// destinations.
    pub const DEBTS: &str = "DEBTS";
    /// The words of the [`sketch`](crate::sketch), for each processor.
    pub const SKETCH: &str = "SKETCH";
    /// Words of the host-wide budgets and totals, mmapable.
    pub const BUDGETS: &str = "BUDGETS";
    /// Two sets of UDP ports, [`PORT_WORDS`](crate::reflector::PORT_WORDS) words each: reflector ports, and ports
    /// of services that have sessions.
    pub const REFLECTORS: &str = "REFLECTORS";
    /// Words of the gates of the lists, mmapable: for IPv4 the overview, the summary and the gate, then the gate
    /// for IPv6, then an index for each bucket of IPv6 nodes ([`lists`](crate::lists)).
    pub const GATES: &str = "GATES";
    /// Buckets of listed IPv4 addresses, mmapable.
    pub const LISTED: &str = "LISTED";
    /// Buckets of IPv6 nodes of the lists, mmapable, followed by as many buckets of ends
    /// ([`ipv6`](crate::lists::ipv6)).
    pub const NODES: &str = "NODES";
    /// Buckets of solicited flows, mmapable ([`solicit`](crate::solicit)).
    pub const SOLICITED: &str = "SOLICITED";
    /// Buckets of flows that the remote side began ([`solicit`](crate::solicit)).
    pub const BEGUN: &str = "BEGUN";
    /// See [`watch`](crate::watch).
    pub const WATCHED: &str = "WATCHED";
    /// Words with the bits of this host's UDP ports, mmapable ([`open`](crate::open)).
    pub const OPEN: &str = "OPEN";
    /// Buckets of first fragments ([`fragments`](crate::fragments)).
    pub const FRAGMENTS: &str = "FRAGMENTS";
    /// Buckets of incomplete datagrams, and of sources of fragments ([`reassembly`](crate::reassembly)).
    pub const DATAGRAMS: &str = "DATAGRAMS";
    /// See [`DATAGRAMS`].
    pub const FRAGMENTING: &str = "FRAGMENTING";
    /// Lines of SYNs that may be [retransmitted](crate::again).
    pub const SYNS: &str = "SYNS";
    /// Trie of the host's own unicast addresses ([`trie_key`](super::trie_key)) -> 1.
    pub const LOCAL: &str = "LOCAL";
    /// Trie of sources that pass over the limits by evidence ([`trie_key`](super::trie_key)) -> `u64`: the expiry
    /// of the entry, the first time at which it no longer holds, nanoseconds.
    pub const ALLOW_PROVEN: &str = "ALLOW_PROVEN";
    /// Ring buffer of [`Sample`](super::Sample).
    pub const SAMPLES: &str = "SAMPLES";
    /// The programs that the filter calls, by index ([`next`](super::next)).
    pub const NEXT: &str = "NEXT";
}

/// Names of the set-once values in `.rodata`.
pub mod global {
    /// `u32`: [`VERSION`](super::VERSION) that the object was built with.
    pub const ABI: &str = "ABI";
    /// `u32`: binary logarithm of the number of buckets for each address family.
    pub const BUCKET_BITS: &str = "BUCKET_BITS";
    /// `u32`: [`sketch::shift`](crate::sketch::shift), 0 without a sketch.
    pub const SKETCH_SHIFT: &str = "SKETCH_SHIFT";
    /// `u64`: nanoseconds in a tick of the kernel, 0 for the virtual clock in the settings page.
    pub const TICK_NS: &str = "TICK_NS";
    /// `u32`: binary logarithm of the number of buckets of listed IPv4 addresses.
    pub const LISTED_BITS: &str = "LISTED_BITS";
    /// `[u64; 4]`: the keys with which the lists hash IPv6 prefixes.
    pub const LIST_KEYS: &str = "LIST_KEYS";
    /// `u32`: the maximum number of buckets of IPv6 nodes.
    pub const NODE_BUCKETS: &str = "NODE_BUCKETS";
}

/// A field of the kernel's sockets that the second look reads. Its offset differs between kernels; each kernel
/// states it in its BTF.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Field {
    /// Name of the set-once value that holds its offset, `u32`, bytes; 0 if the kernel does not state it.
    pub global: &'static str,
    /// The structure that has the field.
    pub structure: &'static str,
    /// The name of the field.
    pub name: &'static str,
}

impl Field {
    /// Whether it is a field of a request, which is a half-open connection.
    pub fn is_of_request(&self) -> bool {
        self.structure == "tcp_request_sock"
    }
}

const fn field(global: &'static str, structure: &'static str, name: &'static str) -> Field {
    Field { global, structure, name }
}

/// All of these fields: `u32` each.
pub const FIELDS: [Field; 10] = [
    field("SND_UNA", "tcp_sock", "snd_una"),
    field("WRITE_SEQ", "tcp_sock", "write_seq"),
    field("RCV_NXT", "tcp_sock", "rcv_nxt"),
    field("RCV_WND", "tcp_sock", "rcv_wnd"),
    field("SNT_ISN", "tcp_request_sock", "snt_isn"),
    field("REQUEST_RCV_NXT", "tcp_request_sock", "rcv_nxt"),
    field("TW_SND_NXT", "sock_common", "skc_tw_snd_nxt"),
    field("TW_RCV_NXT", "sock_common", "skc_tw_rcv_nxt"),
    field("ACK_BACKLOG", "sock", "sk_ack_backlog"),
    field("MAX_ACK_BACKLOG", "sock", "sk_max_ack_backlog"),
];

/// Maximum number of the host's own addresses and prefixes.
pub const LOCAL_PREFIXES: u32 = 65_536;

/// Maximum number of prefixes whose packets pass over the limits by evidence.
pub const PROVEN_PREFIXES: u32 = 65_536;

/// Number of the host's addresses that are compared before [`map::LOCAL`] is looked up.
pub const FIRST_LOCAL: usize = 4;

/// Returns an address of either family as the halves of an IPv6 address. An IPv4 address becomes one of
/// ::ffff:0:0/96.
#[inline(always)]
pub fn mapped(address: Address) -> [u64; 2] {
    match address {
        Address::V4(v4) => [0, 0xffff << 32 | u64::from(v4)],
        Address::V6 { network, interface } => [network, interface],
    }
}

/// Returns an address in the form of a key of [`map::LOCAL`] and [`map::ALLOW_PROVEN`].
#[inline(always)]
pub fn trie_key(address: Address) -> [u8; 16] {
    let [high, low] = mapped(address);
    zerocopy::transmute!([high.to_be_bytes(), low.to_be_bytes()])
}

/// Indices in [`map::NEXT`].
pub mod next {
    /// Logs a decision.
    pub const TRACE: u32 = 0;
    /// Takes a second look at a packet over a limit, and hands fragments on.
    pub const PROVE: u32 = 1;
    /// Checks whether there is memory for a fragment.
    pub const REASSEMBLE: u32 = 2;
    /// The slow path: judges packets that are not [ordinary](crate::ordinary).
    pub const LONG: u32 = 3;
    /// Number of programs.
    pub const PROGRAMS: u32 = 4;
}

/// Interface slots: slot 0 counts frames of interfaces without a slot, the others belong to attached interfaces.
pub const INTERFACE_SLOTS: usize = 16;

/// `Settings::mode`: drop packets whose verdict is to drop.
pub const MODE_ENFORCE: u32 = 0;
/// `Settings::mode`: pass everything, and count what would have been dropped.
pub const MODE_MONITOR: u32 = 1;

/// Bits of `Settings::lists`: the address families for which either list has an entry. Empty lists cost nothing.
pub mod list {
    /// IPv4.
    pub const V4: u32 = 1 << 0;
    /// IPv6.
    pub const V6: u32 = 1 << 1;
    /// The list of sources that pass over the limits by evidence has an entry.
    pub const PROVEN: u32 = 1 << 2;
}

/// Bits of `Settings::solicited`: how the filter recognizes solicited UDP from a reflector port. If neither is set,
/// it cannot tell, and only the limits of `amplification` apply.
pub mod solicited {
    /// By the notes of the egress program.
    pub const NOTED: u32 = 1 << 0;
    /// By the host's sockets: a packet for which no socket is open is unsolicited.
    pub const SOCKETS: u32 = 1 << 1;
}

/// Maximum number of cells that a packet is charged to: two in each scope.
pub const MAX_CELLS: usize = 2 * Scope::ALL.len();

/// Maximum number of those cells that depend on the source alone.
pub const MAX_SOURCE_CELLS: usize = 2 * Scope::Destination as usize;

/// Space for those cells: a multiple of eight, so that there is no padding.
pub const PLAN: usize = MAX_CELLS.next_multiple_of(8);

/// The settings that may change while the filter runs. A packet sees one `Settings` from beginning to end.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Settings {
    /// [`MODE_ENFORCE`] or [`MODE_MONITOR`].
    pub mode: u32,
    /// Bits of [`list`].
    pub lists: u32,
    /// What a sample of a dropped packet costs the [budget](crate::sampler) of its processor, nanoseconds; 0 turns
    /// sampling off.
    pub sample_cost_ns: u32,
    /// IP version of the source to trace, 0 for none.
    pub trace_version: u32,
    /// The source to trace, as [`Address::halves`].
    pub trace_source: [u64; 2],
    /// Secrets of the debt tables.
    pub seeds: Seeds,
    /// Secrets of the lists' tables. They never change after load, because they determine the places of the
    /// entries.
    pub list_seeds: Seeds,
    /// Masks of an address (0) and of a network (1) in IPv4.
    pub masks_v4: [u32; 2],
    /// The same for IPv6, for the upper 64 bits.
    pub masks_v6: [u64; 2],
    /// The prefixes in which translators embed IPv4 addresses.
    pub translators: Translators,
    /// Whether UDP ports are looked up among the reflector ports: only if the limits make that matter.
    pub reflectors: u32,
    /// Bits of [`means`](crate::proof::means): how packets over a limit may prove their origin.
    pub proof: u32,
    /// The limits, by number of the [`Cell`].
    pub limits: [Limit; CELLS],
    /// The cells that apply to IPv6 only, one bit for each number.
    pub ipv6_cells: [u64; 2],
    /// For each class of IPv4, then of IPv6, the cells that a packet is charged to, in this order: numbers plus
    /// one, then zeros. [`set_limits`](Self::set_limits) derives it from `limits`.
    pub plan: [[u8; PLAN]; 2 * CLASS_SLOTS],
    /// Budgets of [`Vital`](crate::packet::Vital) messages, by number.
    pub vital: [Limit; VITALS],
    /// Budget of all SYNs that pass because they were retransmitted.
    pub retransmissions: Limit,
    /// The limit of each [`Account`](crate::account::Account), by number.
    pub accounts: [Limit; ACCOUNTS],
    /// Budgets for UDP over a shared limit, of which each port of this host gets a [share](crate::meter::SHARE):
    /// for UDP as such, and for UDP from reflector ports. Derived from `limits`.
    pub port_shares: [Limit; 2],
    /// The memory in which this host keeps fragments of IPv4 and of IPv6, as the cost of a page; not set if it
    /// keeps none.
    pub reassembly: [Limit; 2],
    /// The smallest MTU of the interfaces, bytes.
    pub mtu: u32,
    /// 1 if this host also reassembles fragments that are not addressed to it.
    pub defragments: u32,
    /// Bits of [`solicited`].
    pub solicited: u32,
    /// 1 if a missing socket means that nobody here wants a packet to an address of this host: nothing is
    /// forwarded, translated or taken over, or the operator says so. 0 if that is unknown.
    pub absence: u32,
    /// The first and the last of the ports that this host assigns to its own clients.
    pub client_ports: [u32; 2],
    /// Some of the host's addresses, which are compared first, as [`Address::halves`]; zeros if there are fewer.
    pub first_local: [[u64; 2]; FIRST_LOCAL],
    /// Which sanity checks are made.
    pub sanity: Sanity,
    /// Secrets of the tables of solicited flows and of first fragments.
    pub solicit_seeds: SolicitSeeds,
    /// One bit for each slot whose interface has no link layer: packets there begin with an IP header.
    pub bare: u64,
    /// Index of the interface in each slot, 0 if there is none; slot 0 is never assigned.
    pub interfaces: [u32; INTERFACE_SLOTS],
}
const _: () = assert!(size_of::<Settings>() == SETTINGS_BYTES && align_of::<Settings>() == 8);
const SETTINGS_BYTES: usize = 528
    + size_of::<Translators>()
    + 16 * FIRST_LOCAL
    + (VITALS + 1 + ACCOUNTS + 4 + CELLS) * size_of::<Limit>()
    + 2 * PLAN * CLASS_SLOTS;
const _: () = assert!(CELLS <= 2 * u64::BITS as usize);

impl Default for Settings {
    /// Enforces nothing, because nothing is set.
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// Tables in [`map::DEBTS`]: sources and destinations, of each family.
pub const DEBT_TABLES: u32 = 4;

/// The place of a debt: a bucket among those of all [`DEBT_TABLES`], and an owner in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DebtPlace {
    /// Number of the bucket.
    pub bucket: u32,
    /// See [`meter::owner`].
    pub owner: u32,
}

impl DebtPlace {
    /// Returns the place of an owner in a table of `2^bucket_bits` buckets, from the place of the address that is
    /// charged.
    ///
    /// Everything else that an address is charged for is in other buckets, so no address can fill a bucket by
    /// itself.
    #[inline(always)]
    pub(crate) fn new(table: u32, place: Place, owner: u32, bucket_bits: u32) -> Self {
        Self { bucket: (table << bucket_bits) + meter::apart(place.bucket, owner), owner }
    }
}

impl Settings {
    /// Returns the [horizon](Limit::horizon_ns) of everything that is charged in the debt tables; 0 if nothing is.
    pub fn horizon_ns(&self) -> u64 {
        self.tabled().map(|limit| limit.horizon_ns).max().unwrap_or(0)
    }

    /// Returns everything that is charged in the debt tables.
    fn tabled(&self) -> impl Iterator<Item = &Limit> {
        let shared =
            self.vital.iter().chain([&self.retransmissions]).chain(&self.port_shares).chain(&self.reassembly);
        self.limits.iter().chain(&self.accounts).chain(shared)
    }

    /// Returns what a source [counts by](Address::source_network).
    #[inline(always)]
    pub fn source(&self, address: Address) -> Network {
        address.source_network(&self.translators)
    }

    /// Returns the family of an address (0 for IPv4, 1 for IPv6), and the place of the address, or of the network
    /// around it, in the table of that family.
    #[inline(always)]
    pub(crate) fn place(&self, address: Network, by_network: bool, bucket_bits: u32) -> (u32, Place) {
        let Network { version, bits } = address;
        let mask = usize::from(by_network);
        if version == 4 {
            (0, self.seeds.place_v4(bits as u32 & self.masks_v4[mask], bucket_bits))
        } else {
            (1, self.seeds.place_v6(bits & self.masks_v6[mask], bucket_bits))
        }
    }

    /// Sets the interface of a slot, 0 for none, and whether that has no link layer.
    pub fn enter_interface(&mut self, slot: usize, index: u32, is_bare: bool) {
        self.interfaces[slot] = index;
        self.bare = self.bare & !(1 << slot) | u64::from(is_bare && index != 0) << slot;
    }

    /// Whether packets on the interface with this index begin with an IP header.
    #[inline(always)]
    pub fn is_bare(&self, interface: u32) -> bool {
        // Hardly any host has such an interface.
        self.bare != 0 && {
            // VERIFIER: without a branch, as for addresses.
            let slots = self.interfaces.iter().enumerate().fold(0, |slots, (slot, index)| {
                let difference = u64::from(index ^ interface);
                slots | (difference.wrapping_sub(1) >> 63) << slot
            });
            slots & self.bare != 0
        }
    }

    /// Whether this host assigns this port to its own clients, rather than to a service.
    #[inline(always)]
    pub fn is_of_clients(&self, port: u16) -> bool {
        let [first, last] = self.client_ports;
        first <= u32::from(port) && u32::from(port) <= last
    }

    /// Whether an address is one of the host's that are compared first.
    #[inline(always)]
    pub fn is_first_local(&self, address: Address) -> bool {
        // VERIFIER: `here` keeps the compiler from widening the address before it checks the family. 6.1 refused to
        // see the halves widened if they are those of IPv6.
        let [high, low] = match address {
            Address::V4(address) => [0, verifier::here(address).into()],
            // The halves of an address in ::/64 stand for IPv4 addresses. Such an address belongs to nobody, so it
            // becomes zeros, which match nothing.
            Address::V6 { network, interface } => [network, interface * u64::from(network != 0)],
        };
        // VERIFIER: without a branch, so that there is one path through the program.
        let found = self.first_local.iter().fold(0, |found, [other_high, other_low]| {
            let difference = (high ^ other_high) | (low ^ other_low);
            found | !(difference | difference.wrapping_neg())
        });
        found >> 63 != 0 && high | low != 0
    }

    /// Returns where a network is charged for a cell, in tables of `2^bucket_bits` buckets.
    #[inline(always)]
    pub fn debt_place(&self, cell: Cell, network: Network, bucket_bits: u32) -> DebtPlace {
        let by_network = cell.is_by_prefix();
        let (family, place) = self.place(network, by_network, bucket_bits);
        let table = 2 * u32::from(cell.is_by_destination()) + family;
        DebtPlace::new(table, place, meter::owner(by_network, cell.class_number(), place.tag), bucket_bits)
    }

    /// Puts these limits, by number of the cell, in force, and plans what each class is charged to. The limits of
    /// accounts and vital messages must be set first, because all limits of a table share one horizon.
    pub fn set_limits(&mut self, limits: [Limit; CELLS]) {
        self.limits = limits;
        self.plan = [[0; PLAN]; 2 * CLASS_SLOTS];
        for version in [4, 6] {
            let classes = Class::ALL.into_iter().chain([Class::Answered]);
            for class in classes.filter(|class| *class != Class::Any) {
                self.plan[Self::plan_of(version, class as usize)] = self.plan_class(version, class);
            }
        }
        for (share, class) in self.port_shares.iter_mut().zip([Class::Udp, Class::Amplification]) {
            let plan = self.plan[Self::plan_of(6, class as usize)].iter().filter(|entry| **entry != 0);
            let cells = plan.map(|entry| Cell::from_number(entry - 1)).filter(|cell| cell.is_wide());
            *share =
                cells.map(|cell| self.limits[cell.number()]).fold(Limit::default(), Limit::tighter).shared();
        }
        let horizon_ns = self.horizon_ns();
        let set = self.limits.iter().filter(|limit| limit.is_set());
        let evictable_ns = set.map(|limit| limit.evictable_ns).min().unwrap_or(0);
        for limit in self.limits.iter_mut().filter(|limit| limit.is_set()) {
            *limit = Limit { horizon_ns, evictable_ns, ..*limit };
        }
        // These are not limits, so they evict no debt from a full bucket.
        let (accounts, vital) = (&mut self.accounts[..], &mut self.vital[..]);
        let (port_shares, reassembly) = (&mut self.port_shares[..], &mut self.reassembly[..]);
        let others =
            [accounts, vital, port_shares, reassembly, core::slice::from_mut(&mut self.retransmissions)];
        for limit in others.into_iter().flatten().filter(|limit| limit.is_set()) {
            *limit = Limit { horizon_ns, evictable_ns: 0, ..*limit };
        }
        let differs = |version| {
            self.plan[Self::plan_of(version, Class::Amplification as usize)]
                != self.plan[Self::plan_of(version, Class::Udp as usize)]
        };
        self.reflectors = (differs(4) || differs(6)).into();
    }

    /// Returns the index of a class in `plan`, for packets of this IP version.
    #[inline(always)]
    pub const fn plan_of(version: u64, class: usize) -> usize {
        // Bit 1 distinguishes 6 from 4.
        ((version as usize >> 1 & 1) * CLASS_SLOTS + class) % (2 * CLASS_SLOTS)
    }

    fn plan_class(&self, version: u64, class: Class) -> [u8; PLAN] {
        let is_set = |cell: Cell| {
            let number = cell.number();
            let is_of_ipv6 = self.ipv6_cells[number / 64] >> (number % 64) & 1 != 0;
            self.limits[number].is_set() && (version == 6 || !is_of_ipv6)
        };
        let mut plan = [0; PLAN];
        let mut next = plan.iter_mut();
        for scope in Scope::ALL {
            let classes = core::iter::successors(Some(class), |class| class.parent(scope));
            let of_class = classes.map(|class| Cell::new(scope, class)).find(|cell| is_set(*cell));
            let of_all = Cell::new(scope, Class::Any);
            for cell in of_class.into_iter().chain([of_all]).filter(|cell| is_set(*cell)) {
                if let Some(entry) = next.next() {
                    *entry = cell.number() as u8 + 1;
                }
            }
        }
        plan
    }
}

/// The one value of [`map::SETTINGS`]: two settings, of which one is in force. User space writes the other, then
/// the index.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct SettingsPage {
    /// Which of `slots` is in force (its lowest bit).
    pub active: u32,
    /// Unused.
    pub reserved: u32,
    /// With ticks: the time at which the clock program last ran, nanoseconds. Without: the clock itself.
    pub clock_ns: u64,
    /// The settings.
    pub slots: [Settings; 2],
}
const _: () = assert!(size_of::<SettingsPage>() == 16 + 2 * SETTINGS_BYTES);

/// Packets and bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of whole frames, without frame check sequence.
    pub bytes: u64,
}

/// The counters of one processor for one interface, by number of [`Reason`](crate::reason::Reason).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct InterfaceCounters {
    /// What was done.
    pub done: [Count; REASON_SLOTS],
    /// What would have been dropped, in monitor mode.
    pub would: [Count; REASON_SLOTS],
}
const _: () = assert!(size_of::<InterfaceCounters>() == 2 * 16 * REASON_SLOTS);

impl Default for InterfaceCounters {
    /// Nothing counted yet.
    fn default() -> Self {
        Self::new_zeroed()
    }
}

/// The state of one processor.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct CpuState {
    /// Which dropped packets are sampled.
    pub sampler: Sampler,
    /// Samples written to the ring.
    pub sampled: u64,
    /// Samples lost because the ring was full.
    pub samples_lost: u64,
    /// Trace lines not written because there were too many.
    pub trace_suppressed: u64,
    /// Handed over from one program to the next: number of the reason.
    pub reason: u64,
    /// Handed over from one program to the next: XDP action.
    pub action: u64,
    /// Handed over from one program to the next: number of the class.
    pub class: u64,
    /// Number of the [cell](Cell) that the last packet over a limit exceeded.
    pub exceeded: u64,
    /// What is left of the processor's lease of each total, by class, nanoseconds.
    pub leases: [u64; CLASS_SLOTS],
}
const _: () = assert!(size_of::<CpuState>() == 88 + 8 * CLASS_SLOTS);

/// Budget words: one per `Vital`, that of trace lines, those below, then the totals by class.
pub const BUDGET_TRACE: u32 = VITALS as u32;
/// Budget of retransmitted SYNs.
pub const BUDGET_RETRANSMISSIONS: u32 = BUDGET_TRACE + 1;
/// Budget of UDP over a shared limit, for all ports of the host together.
pub const BUDGET_PORTS: u32 = BUDGET_RETRANSMISSIONS + 1;
/// The same for UDP from reflector ports.
pub const BUDGET_PORTS_REFLECTED: u32 = BUDGET_PORTS + 1;
/// Budget of the memory for fragments: IPv4, then IPv6.
pub const BUDGET_REASSEMBLY: u32 = BUDGET_PORTS_REFLECTED + 1;
/// The first of the totals.
pub const BUDGET_TOTALS: u32 = BUDGET_REASSEMBLY + 2;
/// Number of budgets.
pub const BUDGETS: u32 = BUDGET_TOTALS + CLASS_SLOTS as u32;

/// One dropped packet out of [`weight`](Self::weight).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Sample {
    /// The source, as [`Address::halves`]; meaningless when `version` is 0.
    pub source: [u64; 2],
    /// IP version, 0 for a frame without a source.
    pub version: u32,
    /// Number of the [`Reason`](crate::reason::Reason).
    pub reason: u16,
    /// Number of the [cell](Cell) that the packet exceeded, if the reason [is over a
    /// limit](crate::reason::Reason::is_over_limit).
    pub exceeded: u16,
    /// Length of the frame, bytes.
    pub length: u32,
    /// How many dropped packets this one stands for, on average.
    pub weight: u32,
}
const _: () = assert!(size_of::<Sample>() == 32);
