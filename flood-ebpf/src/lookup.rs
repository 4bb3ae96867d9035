//! The tables of a verdict, as maps.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use flood_common::{
    abi::Settings,
    address::Address,
    decide::Tables,
    lists::{Listed, look_up},
    meter::{Charge, Price, Slot, charge, charge_budget},
    packet::Vital,
};

use crate::maps::{BUCKET_BITS, BUDGETS, DEBTS, IPV6_MASK};

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

/// The maps of this program.
pub(crate) struct MapTables;

impl Tables for MapTables {
    #[inline(always)]
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed {
        look_up(self, &settings.list_seeds, address, now_ns)
    }

    #[inline(always)]
    fn charge_source(&self, settings: &Settings, source: Address, now_ns: u64, price: &Price) -> Charge {
        let bits = BUCKET_BITS.load();
        // VERIFIER: one map for both families. With two, the compiler merges their lookups into one call, which the
        // kernel then cannot inline: 30 ns more (6.18, AMD EPYC).
        let (first, place) = match source {
            Address::V4(v4) => (0, settings.seeds.place_v4(v4, bits)),
            Address::V6 { network, .. } => {
                (1 << bits, settings.seeds.place_v6(network & IPV6_MASK.load(), bits))
            }
        };
        let Some(bucket) = DEBTS.get(first + place.bucket) else {
            return Charge::Unaccounted;
        };
        // SAFETY: no arguments, no conditions.
        charge(bucket, place.tag, now_ns, price, || unsafe { bpf_get_prandom_u32() })
    }

    #[inline(always)]
    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge {
        charge_host(vital as u32, now_ns, price)
    }
}

/// Charges one of the host-wide budgets.
#[inline(always)]
pub(crate) fn charge_host(budget: u32, now_ns: u64, price: &Price) -> Charge {
    match BUDGETS.get(budget) {
        Some(bucket) => charge_budget(&bucket[0], now_ns, price),
        None => Charge::Unaccounted,
    }
}
