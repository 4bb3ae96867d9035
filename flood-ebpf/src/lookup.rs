//! The tables of a verdict, as maps.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};

use aya_ebpf::{
    helpers::generated::{bpf_get_prandom_u32, bpf_get_smp_processor_id},
    programs::XdpContext,
};
use flood_common::{
    abi::{BUDGET_TOTALS, DebtPlace, Settings},
    address::{Address, Network},
    class::{CLASS_SLOTS, Cell},
    decide::Tables,
    fragments::{self, FragmentPlace},
    lists::{Listed, look_up},
    meter::{Charge, Price, Slot, charge, charge_budget, charge_leased, exceeds, exceeds_leased},
    packet::Vital,
    proof::Receiver,
    reflector::{PORT_WORDS, port_bit, port_word},
    sketch,
    solicit::{Flow, is_noted, lifetime},
};

use crate::{
    maps::{BUCKET_BITS, BUDGETS, CPU_STATE, DEBTS, FRAGMENTS, REFLECTORS, SKETCH, SKETCH_SHIFT, SOLICITED},
    prove::receiver,
};

/// A word in a map that every processor and user space may write.
#[repr(transparent)]
pub(crate) struct Word(UnsafeCell<u64>);

// SAFETY: the word is read whole and written by compare-and-swap only.
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

/// A word of a processor's sketch.
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
    ctx: &'a XdpContext,
}

impl<'a> MapTables<'a> {
    #[inline(always)]
    pub(crate) fn new(ctx: &'a XdpContext) -> Self {
        Self { ctx }
    }
}

impl Tables for MapTables<'_> {
    #[inline(always)]
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed {
        look_up(self, &settings.list_seeds, address, now_ns)
    }

    #[inline(always)]
    fn is_reflector(&self, port: u16) -> bool {
        is_reflector(port)
    }

    #[inline(always)]
    fn is_solicited(&self, settings: &Settings, flow: &Flow, now_ns: u64) -> bool {
        let place = flow.place(&settings.solicit_seeds);
        SOLICITED
            .get(place.bucket)
            .is_some_and(|bucket| is_noted(bucket, place.tag, now_ns, || lifetime_of(flow)))
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
        receiver(self.ctx, [flow.remote, flow.local], [flow.remote_port, flow.local_port])
    }

    #[inline(always)]
    fn exceeds_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> bool {
        let DebtPlace { bucket, owner } = settings.debt_place(cell, network, BUCKET_BITS.load());
        let conforms_by_sketch = sketch_word(cell, bucket, owner)
            .is_some_and(|word| sketch::would_admit(word, now_ns, price, SKETCH_SHIFT.load()));
        !conforms_by_sketch && DEBTS.get(bucket).is_some_and(|bucket| exceeds(bucket, owner, now_ns, price))
    }

    // VERIFIER: one map for all tables. With two, the compiler merges their lookups into one call, which the kernel
    // then cannot inline: 30 ns more (6.18, AMD EPYC).
    #[inline(always)]
    fn charge_network(
        &self,
        settings: &Settings,
        cell: Cell,
        network: Network,
        now_ns: u64,
        price: &Price,
    ) -> Charge {
        let DebtPlace { bucket, owner } = settings.debt_place(cell, network, BUCKET_BITS.load());
        if sketch_word(cell, bucket, owner)
            .is_some_and(|word| sketch::admits(word, now_ns, price, SKETCH_SHIFT.load()))
        {
            return Charge::Conforming;
        }
        let Some(bucket) = DEBTS.get(bucket) else {
            return Charge::Unaccounted;
        };
        // SAFETY: no arguments, no conditions.
        charge(bucket, owner, now_ns, price, || unsafe { bpf_get_prandom_u32() })
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
    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge {
        charge_host(vital as u32, now_ns, price)
    }
}

/// The word of this processor's sketch for whoever is charged in this place. Destinations have none: they are few, and each
/// is sent much; nor has a processor that was not there when the filter was loaded.
#[inline(always)]
fn sketch_word<'a>(cell: Cell, bucket: u32, owner: u32) -> Option<&'a SketchWord> {
    if SKETCH_SHIFT.load() == 0 || cell.is_by_destination() {
        return None;
    }
    // SAFETY: no arguments, no conditions.
    let words = SKETCH.get(unsafe { bpf_get_smp_processor_id() })?;
    Some(&words[sketch::word_of(bucket, owner)])
}

/// The word of a total, and what this processor has left of it.
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
/// VERIFIER: a function of the object, of plain numbers, is verified once and by itself. Inlined it is verified on each way
/// through the limits: 70,000 instructions more (6.18).
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_note(bucket: u32, tag: u64, first: u64, now_ns: u64) -> u64 {
    if let Some(bucket) = FRAGMENTS.get(bucket) {
        fragments::note(bucket, tag, first, now_ns);
    }
    0
}

/// Charges one of the host-wide budgets.
#[inline(always)]
pub(crate) fn charge_host(budget: u32, now_ns: u64, price: &Price) -> Charge {
    match BUDGETS.get(budget) {
        Some(bucket) => charge_budget(&bucket[0], now_ns, price),
        None => Charge::Unaccounted,
    }
}

/// Whether UDP from this port may be a mirror's.
#[inline(always)]
pub(crate) fn is_reflector(port: u16) -> bool {
    REFLECTORS.get(port_word(port) as u32).is_some_and(|word| word & port_bit(port) != 0)
}

/// How long a note of the flow lasts.
#[inline(always)]
pub(crate) fn lifetime_of(flow: &Flow) -> u32 {
    let port = flow.remote_port;
    let sessions = REFLECTORS.get((PORT_WORDS + port_word(port)) as u32);
    lifetime(port, sessions.is_some_and(|word| word & port_bit(port) != 0))
}
