//! The tables of a verdict, as maps.

use core::{
    cell::UnsafeCell,
    intrinsics::{AtomicOrdering, atomic_cxchg},
};

use aya_ebpf::{
    helpers::generated::bpf_get_prandom_u32,
    maps::{Array, LpmTrie, lpm_trie::Key},
};
use flood_common::{
    abi::Settings,
    address::Address,
    decide::Tables,
    meter::{Charge, Price, Slot, charge, charge_budget},
    packet::Vital,
};

use crate::maps::{
    ALLOW_V4, ALLOW_V6, BLOCK_V4, BLOCK_V6, BUCKET_BITS, BUDGETS, Bucket, DEBTS_V4, DEBTS_V6, IPV6_MASK,
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

/// The maps of this program.
pub(crate) struct MapTables;

impl Tables for MapTables {
    #[inline(always)]
    fn allows(&self, address: Address, now_ns: u64) -> bool {
        covered(&ALLOW_V4, &ALLOW_V6, address, now_ns)
    }

    #[inline(always)]
    fn blocks(&self, address: Address, now_ns: u64) -> bool {
        covered(&BLOCK_V4, &BLOCK_V6, address, now_ns)
    }

    #[inline(always)]
    fn charge_source(&self, settings: &Settings, source: Address, now_ns: u64, price: &Price) -> Charge {
        let bits = BUCKET_BITS.load();
        let (table, place) = match source {
            Address::V4(v4) => (&DEBTS_V4, settings.seeds.place_v4(v4, bits)),
            Address::V6 { network, .. } => (
                &DEBTS_V6,
                settings.seeds.place_v6(network & IPV6_MASK.load(), bits),
            ),
        };
        let Some(bucket) = bucket(table, place.bucket) else {
            return Charge::Unaccounted;
        };
        // SAFETY: no arguments, no conditions.
        charge(bucket, place.tag, now_ns, price, || unsafe {
            bpf_get_prandom_u32()
        })
    }

    #[inline(always)]
    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge {
        charge_host(vital as u32, now_ns, price)
    }
}

/// Charges one of the host-wide budgets.
#[inline(always)]
pub(crate) fn charge_host(budget: u32, now_ns: u64, price: &Price) -> Charge {
    match bucket(&BUDGETS, budget) {
        Some(bucket) => charge_budget(&bucket[0], now_ns, price),
        None => Charge::Unaccounted,
    }
}

#[inline(always)]
fn bucket(table: &'static Array<Bucket>, index: u32) -> Option<&'static Bucket> {
    table.get(index)
}

#[inline(always)]
fn covered(
    v4: &'static LpmTrie<[u8; 4], u64>,
    v6: &'static LpmTrie<[u8; 16], u64>,
    address: Address,
    now_ns: u64,
) -> bool {
    let expires_ns = match address {
        Address::V4(address) => v4.get(Key::new(32, address.to_be_bytes())),
        Address::V6 { network, interface } => {
            let bits = (u128::from(network) << 64) | u128::from(interface);
            v6.get(Key::new(128, bits.to_be_bytes()))
        }
    };
    expires_ns.is_some_and(|expires_ns| *expires_ns == 0 || now_ns < *expires_ns)
}
