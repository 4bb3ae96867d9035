//! The tables of a verdict, as BPF maps.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id},
    programs::XdpContext,
};
use flood_common::{
    abi::{BUDGET_TOTALS, BUDGETS as BUDGETS_LEN, DEBT_TABLES, DebtPlace, Settings, list, mapped},
    account::{Account, Accounts, By, charge_both, share},
    address::{Address, Network},
    class::{CLASS_SLOTS, Cell},
    decide::{Cells, Load, Tables, limit},
    evidence::Receiver,
    fragments::{self, FragmentPlace},
    lists::{Listed, look_up},
    meter::{
        Charge, Price, Slot, charge, charge_budget, charge_leased, exceeds, exceeds_leased, pay_back,
        pay_back_budget,
    },
    open,
    place::MAX_BUCKET_BITS,
    reason::Reason,
    reassembly::{self, Memory, Step},
    reflector::{PORT_WORDS, port_bit, port_word},
    sketch,
    solicit::{self, Asked, Flow, Note, SolicitPlace},
    watch,
};

use crate::{
    lists::{Lists, floodgate_allowed},
    maps::{
        BEGUN, BUCKET_BITS, BUDGETS, CPU_STATE, DATAGRAMS, DEBTS, FRAGMENTING, FRAGMENTS, OPEN, REFLECTORS,
        SETTINGS, SKETCH, SKETCH_SHIFT, SOLICITED, WATCHED,
    },
    settings_in, sockets,
};

/// A word in a map that every processor and user space may write.
#[repr(transparent)]
pub(crate) struct Word(UnsafeCell<u64>);

// SAFETY: the word is read whole and written only by compare-and-swap.
unsafe impl Sync for Word {}

impl Slot for Word {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the word is in a map value; an aligned 64-bit load is whole.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn compare_swap(&self, expected: u64, new: u64) -> u64 {
        // SAFETY: the word is in a map value and aligned.
        let (seen, _) = unsafe {
            atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                self.0.get(),
                expected,
                new,
            )
        };
        seen
    }
}

/// A word of one processor's sketch.
#[repr(transparent)]
pub(crate) struct SketchWord(UnsafeCell<u32>);

// SAFETY: only one processor reads and writes the word, and a program is not interrupted by itself on a processor.
unsafe impl Sync for SketchWord {}

impl sketch::Word for SketchWord {
    #[inline(always)]
    fn load(&self) -> u32 {
        // SAFETY: the word is in a map value; an aligned 32-bit load is whole.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u32) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) }
    }
}

/// The maps of this program, and the sockets of the host that it runs on.
pub(crate) struct MapTables<'a> {
    pub(crate) ctx: &'a XdpContext,
    /// The settings slot that the packet sees.
    slot: u64,
}

impl<'a> MapTables<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext, slot: u64) -> Self {
        Self { ctx, slot }
    }
}

impl Tables for MapTables<'_> {
    #[inline(always)]
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed {
        look_up(&Lists, &settings.list_seeds, address, now_ns)
    }

    #[inline(always)]
    fn is_reflector(&self, port: u16) -> bool {
        is_reflector(port)
    }

    #[inline(always)]
    fn asked(&self, flow: SolicitPlace, now_ns: u64) -> Asked {
        Asked::from_number(floodgate_asked(flow.bucket, flow.tag, now_ns))
    }

    #[inline(always)]
    fn mark_begun(&self, flow: SolicitPlace, now_ns: u64) {
        floodgate_mark(flow.bucket, flow.tag, now_ns);
    }

    #[inline(always)]
    fn is_closed(&self, port: u16, now_ns: u64) -> bool {
        !has_port(open::word(port), port, now_ns)
    }

    #[inline(always)]
    fn may_have_peer(&self, port: u16, now_ns: u64) -> bool {
        has_port(open::peer_word(port), port, now_ns)
    }

    #[inline(always)]
    fn is_tunnel(&self, port: u16) -> bool {
        is_tunnel(port)
    }

    #[inline(always)]
    fn is_answered(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        floodgate_answered(flow.bucket, flow.tag, now_ns) != 0
    }

    #[inline(always)]
    fn is_session(&self, flow: SolicitPlace, now_ns: u64) -> bool {
        floodgate_session(flow.bucket, flow.tag, now_ns) != 0
    }

    #[inline(always)]
    fn watch(&self, source: SolicitPlace, now_ns: u64) {
        floodgate_watch(source.bucket, source.tag, now_ns);
    }

    #[inline(always)]
    fn is_local(&self, settings: &Settings, address: Address) -> bool {
        settings.is_first_local(address) || sockets::is_local(address)
    }

    #[inline(always)]
    fn is_allowed_by_evidence(&self, settings: &Settings, source: Address, now_ns: u64) -> bool {
        settings.lists & list::PROVEN != 0 && {
            let [high, low] = mapped(source);
            floodgate_allowed(high, low, now_ns) != 0
        }
    }

    #[inline(always)]
    fn first_fragment(&self, datagram: FragmentPlace, now_ns: u64) -> u64 {
        match FRAGMENTS.get(datagram.bucket) {
            Some(bucket) => fragments::find(bucket, datagram.tag, now_ns),
            None => fragments::first::UNKNOWN,
        }
    }

    #[inline(always)]
    fn note_first_fragment(&self, datagram: FragmentPlace, first: u64, now_ns: u64) {
        floodgate_note(datagram.bucket, datagram.tag, first, now_ns);
    }

    #[inline(always)]
    fn receiver(&self, flow: &Flow) -> Receiver {
        sockets::receiver(self.ctx, flow)
    }

    #[inline(always)]
    fn cells(&self) -> &impl Cells {
        &CellMaps
    }

    #[inline(always)]
    fn limit(&self, load: &Load, _: &Settings, now_ns: u64) -> Reason {
        let Load { source, destination, class, length, .. } = *load;
        let facts = u64::from(length)
            | class << CLASS_SHIFT
            | source.version << VERSION_SHIFT
            | self.slot << SLOT_SHIFT;
        let reason = floodgate_limit(source.bits, destination, facts, now_ns) as u32;
        Reason::from_number(reason).unwrap_or(Reason::Unaccounted)
    }
}

/// Positions in the number that passes [`floodgate_limit`] facts besides the length.
const CLASS_SHIFT: u32 = 32;
const VERSION_SHIFT: u32 = 40;
const SLOT_SHIFT: u32 = 44;

/// See [`limit`], for a packet that is charged. Returns the number of the reason. `facts` are length, class, IP
/// version, and the settings slot that the packet sees.
///
/// VERIFIER: a separate BPF function, as [`floodgate_note`]. Its caller also has all registers to itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_limit(source: u64, destination: u64, facts: u64, now_ns: u64) -> u64 {
    let Some(page) = SETTINGS.get_ptr(0) else {
        return Reason::Unaccounted.number().into(); // cannot happen: the array has one element
    };
    // SAFETY: array values live as long as the program; user space writes a slot only after all packets that saw it
    // are done.
    let settings = unsafe { settings_in(page, facts >> SLOT_SHIFT) };
    let load = Load {
        source: Network { version: facts >> VERSION_SHIFT & 0xf, bits: source },
        destination,
        class: facts >> CLASS_SHIFT & 0xff,
        length: facts as u32,
        charged: 1,
    };
    limit(&load, settings, now_ns, &CellMaps).number().into()
}

/// The maps that hold the cells.
struct CellMaps;

impl Cells for CellMaps {
    #[inline(always)]
    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = settings.debt_place(cell, network, BUCKET_BITS.load());
        exceeds_place(place, is_sketched(cell), now_ns, price)
    }

    #[inline(always)]
    fn charge_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> Charge {
        let place = settings.debt_place(cell, network, BUCKET_BITS.load());
        charge_place(place, is_sketched(cell), now_ns, price)
    }

    #[inline(always)]
    fn exceeds_total(&self, cell: Cell, now_ns: u64, price: &Price) -> bool {
        total(cell).is_some_and(|(budget, lease)| exceeds_leased(budget, *lease, now_ns, price))
    }

    #[inline(always)]
    fn charge_total(&self, cell: Cell, now_ns: u64, price: &Price) -> Charge {
        match total(cell) {
            Some((budget, lease)) => charge_leased(budget, lease, now_ns, price),
            None => Charge::Unaccounted,
        }
    }

    #[inline(always)]
    fn note_exceeded(&self, cell: Cell) {
        if let Some(state) = CPU_STATE.get_ptr_mut(0) {
            // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
            unsafe { (*state).exceeded = cell.number() as u64 };
        }
    }
}

impl Accounts for MapTables<'_> {
    #[inline(always)]
    fn exceeds_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = pack(settings.account_place(account, by, BUCKET_BITS.load()));
        floodgate_exceeds(place, now_ns, price.cost_ns, price.tolerance_ns, price.horizon_ns) != 0
    }

    #[inline(always)]
    fn charge_account(
        &self,
        settings: &Settings,
        account: Account,
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> Charge {
        let place = pack(settings.account_place(account, by, BUCKET_BITS.load()));
        match floodgate_charge(place, now_ns, price.cost_ns, price.tolerance_ns, price.horizon_ns) {
            0 => Charge::Conforming,
            1 => Charge::Exceeding,
            _ => Charge::Unaccounted,
        }
    }

    #[inline(always)]
    fn charge_shared(
        &self,
        settings: &Settings,
        (account, budget): (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let place = settings.account_place(account, by, BUCKET_BITS.load());
        let place = pack(place) | u64::from(budget) << BUDGET_SHIFT;
        floodgate_share(place, now_ns, price.cost_ns, price.tolerance_ns, price.horizon_ns) != 0
    }
}

impl Memory for MapTables<'_> {
    #[inline(always)]
    fn arrives(&self, source: SolicitPlace, now_ns: u64) -> u64 {
        FRAGMENTING.get(source.bucket).map_or(0, |bucket| reassembly::arrives(bucket, source.tag, now_ns))
    }

    #[inline(always)]
    fn follow(&self, datagram: FragmentPlace, step: Step, now_ns: u64) -> u64 {
        DATAGRAMS
            .get(datagram.bucket)
            .map_or(0, |bucket| reassembly::follow(bucket, datagram.tag, step, now_ns))
    }

    #[inline(always)]
    fn pay_back(
        &self,
        settings: &Settings,
        (account, budget): (Account, u32),
        by: By,
        now_ns: u64,
        price: &Price,
    ) {
        let place = settings.account_place(account, by, BUCKET_BITS.load());
        if let Some(bucket) = DEBTS.get(place.bucket) {
            pay_back(bucket, place.owner, now_ns, &share(price));
        }
        if let Some(bucket) = BUDGETS.get(budget) {
            pay_back_budget(&bucket[0], price);
        }
    }
}

/// Destinations have no sketch: there are few of them, and each receives much traffic.
#[inline(always)]
fn is_sketched(cell: Cell) -> bool {
    !cell.is_by_destination()
}

/// Packs a place into one number: bucket numbers have 24 bits at most, because there are four tables of 2^22.
#[inline(always)]
fn pack(place: DebtPlace) -> u64 {
    u64::from(place.bucket) << 32 | u64::from(place.owner)
}

/// Position of a budget's number beside a place.
const BUDGET_SHIFT: u32 = 56;
const _: () = assert!(DEBT_TABLES << MAX_BUCKET_BITS <= 1 << (BUDGET_SHIFT - 32) && BUDGETS_LEN <= 0xff);

/// An owner charged to an account evicts no other owner.
#[inline(always)]
fn unpack(place: u64, cost_ns: u64, tolerance_ns: u64, horizon_ns: u64) -> (DebtPlace, Price) {
    let place = DebtPlace { bucket: (place >> 32) as u32, owner: place as u32 };
    (place, Price { cost_ns, tolerance_ns, horizon_ns, evictable_ns: 0, bits: false })
}

/// Whether a packet exceeds what is charged in a [place](pack).
///
/// VERIFIER: a separate BPF function, as [`floodgate_note`]: accounts are checked and charged in many places.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_exceeds(
    place: u64,
    now_ns: u64,
    cost_ns: u64,
    tolerance_ns: u64,
    horizon_ns: u64,
) -> u64 {
    let (place, price) = unpack(place, cost_ns, tolerance_ns, horizon_ns);
    u64::from(exceeds_place(place, true, now_ns, &price))
}

/// Charges a budget, whose number is beside a [place](pack), and a source in that place for its [share](share):
/// both, or none. Returns 1 if it charged them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_share(
    place: u64,
    now_ns: u64,
    cost_ns: u64,
    tolerance_ns: u64,
    horizon_ns: u64,
) -> u64 {
    let budget = (place >> BUDGET_SHIFT) as u32;
    let (place, price) = unpack(place & ((1 << BUDGET_SHIFT) - 1), cost_ns, tolerance_ns, horizon_ns);
    let charged = charge_both(
        &price,
        |share| exceeds_place(place, true, now_ns, share),
        |price| charge_host(budget, now_ns, price),
        |share| charge_place(place, true, now_ns, share),
    );
    charged.into()
}

/// Charges the account in a [place](pack). Returns 0 for [`Charge::Conforming`], 1 for [`Charge::Exceeding`], 2 for
/// [`Charge::Unaccounted`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_charge(
    place: u64,
    now_ns: u64,
    cost_ns: u64,
    tolerance_ns: u64,
    horizon_ns: u64,
) -> u64 {
    let (place, price) = unpack(place, cost_ns, tolerance_ns, horizon_ns);
    match charge_place(place, true, now_ns, &price) {
        Charge::Conforming => 0,
        Charge::Exceeding => 1,
        Charge::Unaccounted => 2,
    }
}

/// Returns the word of this processor's sketch for the party charged in this place, if the charge is sketched. A
/// processor that was absent when the filter was loaded has none.
#[inline(always)]
fn sketch_word<'a>(place: DebtPlace, sketched: bool) -> Option<&'a SketchWord> {
    if SKETCH_SHIFT.load() == 0 || !sketched {
        return None;
    }
    // SAFETY: no arguments, no conditions.
    let words = SKETCH.get(unsafe { bpf_get_smp_processor_id() })?;
    Some(&words[sketch::word_of(place.bucket)])
}

#[inline(always)]
fn exceeds_place(place: DebtPlace, sketched: bool, now_ns: u64, price: &Price) -> bool {
    let conforms_by_sketch = sketch_word(place, sketched)
        .is_some_and(|word| sketch::would_admit(word, now_ns, price, SKETCH_SHIFT.load()));
    !conforms_by_sketch
        && DEBTS.get(place.bucket).is_some_and(|bucket| exceeds(bucket, place.owner, now_ns, price))
}

// VERIFIER: one map for all tables. With two, the compiler merges their lookups into one call, which the kernel
// then cannot inline: 30 ns more (6.18, AMD EPYC).
#[inline(always)]
fn charge_place(place: DebtPlace, sketched: bool, now_ns: u64, price: &Price) -> Charge {
    if sketch_word(place, sketched)
        .is_some_and(|word| sketch::admits(word, now_ns, price, SKETCH_SHIFT.load()))
    {
        return Charge::Conforming;
    }
    let Some(bucket) = DEBTS.get(place.bucket) else {
        return Charge::Unaccounted;
    };
    // SAFETY: no arguments, no conditions.
    charge(bucket, place.owner, now_ns, price, || unsafe { bpf_get_prandom_u32() })
}

/// Returns the word of a total, and what is left of this processor's lease on it.
#[inline(always)]
fn total<'a>(cell: Cell) -> Option<(&'a Word, &'a mut u64)> {
    let budget = BUDGETS.get(BUDGET_TOTALS + cell.class_number())?;
    let state = CPU_STATE.get_ptr_mut(0)?;
    // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
    let lease = unsafe { &mut (*state).leases[cell.class_number() as usize % CLASS_SLOTS] };
    Some((&budget[0], lease))
}

/// See [`fragments::note`].
///
/// VERIFIER: a separate BPF function that takes plain numbers is verified once and by itself. Inlined, it would be
/// verified on each path through the limits: 70,000 instructions more (6.18).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_note(bucket: u32, tag: u64, first: u64, now_ns: u64) -> u64 {
    if let Some(bucket) = FRAGMENTS.get(bucket) {
        fragments::note(bucket, tag, first, now_ns);
    }
    0
}

/// See [`Tables::asked`]. Returns the number of an [`Asked`].
///
/// VERIFIER: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_asked(bucket: u32, tag: u32, now_ns: u64) -> u64 {
    SOLICITED.get(bucket).map_or(Asked::Nothing, |bucket| solicit::asked(bucket, tag, now_ns)) as u64
}

/// See [`Tables::is_answered`]. Returns 1 if it is.
///
/// VERIFIER: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_answered(bucket: u32, tag: u32, now_ns: u64) -> u64 {
    BEGUN.get(bucket).is_some_and(|bucket| solicit::is_session(bucket, tag, now_ns)).into()
}

/// See [`Tables::mark_begun`].
///
/// VERIFIER: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_mark(bucket: u32, tag: u32, now_ns: u64) -> u64 {
    if let Some(bucket) = BEGUN.get(bucket) {
        solicit::write(bucket, tag, now_ns, Note::BEGUN);
    }
    0
}

/// See [`Tables::is_session`]. Returns 1 if there is one.
///
/// VERIFIER: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_session(bucket: u32, tag: u32, now_ns: u64) -> u64 {
    WATCHED.get(bucket).is_some_and(|bucket| solicit::is_session(bucket, tag, now_ns)).into()
}

/// See [`Tables::watch`].
///
/// VERIFIER: as above.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_watch(bucket: u32, tag: u32, now_ns: u64) -> u64 {
    if let Some(bucket) = WATCHED.get(bucket) {
        solicit::write(bucket, tag, now_ns, watch::WATCHED);
    }
    0
}

/// Whether the bit of a port is set in a word of [`OPEN`]; true if the port map is out of date.
#[inline(always)]
fn has_port(word: usize, port: u16, now_ns: u64) -> bool {
    let is_set = OPEN.get(word as u32).is_none_or(|word| word.load() & port_bit(port) != 0);
    is_set || OPEN.get(open::LOOKED as u32).is_none_or(|looked| !open::is_fresh(looked.load(), now_ns))
}

/// Charges one of the host-wide budgets.
#[inline(always)]
pub(crate) fn charge_host(budget: u32, now_ns: u64, price: &Price) -> Charge {
    match BUDGETS.get(budget) {
        Some(bucket) => charge_budget(&bucket[0], now_ns, price),
        None => Charge::Unaccounted,
    }
}

/// Whether a socket on this UDP port is the end of a tunnel.
#[inline(always)]
pub(crate) fn is_tunnel(port: u16) -> bool {
    has_bit(open::tunnel_word(port), port)
}

/// Whether a socket on this UDP port is the end of a tunnel whose remote end sends from ports that are hashes.
#[inline(always)]
pub(crate) fn is_hashing_tunnel(port: u16) -> bool {
    has_bit(open::hashing_word(port), port)
}

/// Whether the bit of a port is set in a word of [`OPEN`].
#[inline(always)]
fn has_bit(word: usize, port: u16) -> bool {
    OPEN.get(word as u32).is_some_and(|word| word.load() & port_bit(port) != 0)
}

/// Whether UDP from this port may be from a reflector.
#[inline(always)]
pub(crate) fn is_reflector(port: u16) -> bool {
    REFLECTORS.get(port_word(port) as u32).is_some_and(|word| word & port_bit(port) != 0)
}

/// Whether clients have sessions with services on this UDP port.
#[inline(always)]
pub(crate) fn has_sessions(port: u16) -> bool {
    let sessions = REFLECTORS.get((PORT_WORDS + port_word(port)) as u32);
    sessions.is_some_and(|word| word & port_bit(port) != 0)
}
