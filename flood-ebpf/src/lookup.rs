//! The tables of a verdict, as maps.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};

use aya_ebpf::{
    helpers::generated::bpf_get_prandom_u32,
    maps::{LpmTrie, lpm_trie::Key},
};
use flood_common::{
    abi::{LIST_KEY_BYTES, ListKey, Settings, list_key},
    address::Address,
    decide::Tables,
    meter::{Charge, Price, Slot, charge, charge_budget},
    packet::Vital,
};

use crate::maps::{ALLOW, BLOCK, BUCKET_BITS, BUDGETS, DEBTS, IPV6_MASK};

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
    fn allows(&self, address: Address, now_ns: u64) -> bool {
        covers(&ALLOW, address, now_ns)
    }

    #[inline(always)]
    fn blocks(&self, address: Address, now_ns: u64) -> bool {
        covers(&BLOCK, address, now_ns)
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

#[inline(always)]
fn covers(list: &LpmTrie<ListKey, u64>, address: Address, now_ns: u64) -> bool {
    let key = Key::new(8 * LIST_KEY_BYTES as u32, list_key(address));
    list.get(key).is_some_and(|expires_ns| *expires_ns == 0 || now_ns < *expires_ns)
}
