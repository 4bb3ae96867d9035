//! The tables of a verdict in ordinary memory: what the kernel's maps are compared with in tests.
//!
//! Lists are scanned naively, so that they can serve as the model; the debt table is the real code over atomics.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{
    abi::{BUDGETS, Settings},
    address::Address,
    decide::Tables,
    lists::Listed,
    meter::{Charge, Price, Slot, WAYS, charge, charge_budget},
    packet::Vital,
};

impl Slot for AtomicU64 {
    fn load(&self) -> u64 {
        Self::load(self, Ordering::Relaxed)
    }

    fn compare_swap(&self, expected: u64, new: u64) -> u64 {
        match self.compare_exchange(expected, new, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(seen) | Err(seen) => seen,
        }
    }
}

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

/// Tables in memory.
pub struct HostTables {
    /// The allow list.
    pub allow: Vec<Entry>,
    /// The block list.
    pub block: Vec<Entry>,
    bucket_bits: u32,
    ipv6_mask: u64,
    debts_v4: Vec<[AtomicU64; WAYS]>,
    debts_v6: Vec<[AtomicU64; WAYS]>,
    budgets: [AtomicU64; BUDGETS as usize],
}

impl HostTables {
    /// Makes empty tables with `2^bucket_bits` buckets; `ipv6_mask` selects what makes an IPv6 source.
    pub fn new(bucket_bits: u32, ipv6_mask: u64) -> Self {
        let debts = || (0..1 << bucket_bits).map(|_| Default::default()).collect();
        Self {
            allow: Vec::new(),
            block: Vec::new(),
            bucket_bits,
            ipv6_mask,
            debts_v4: debts(),
            debts_v6: debts(),
            budgets: Default::default(),
        }
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

    fn charge_source(&self, settings: &Settings, source: Address, now_ns: u64, price: &Price) -> Charge {
        let (table, place) = match source {
            Address::V4(v4) => (&self.debts_v4, settings.seeds.place_v4(v4, self.bucket_bits)),
            Address::V6 { network, .. } => {
                (&self.debts_v6, settings.seeds.place_v6(network & self.ipv6_mask, self.bucket_bits))
            }
        };
        // A host test never fills a bucket by chance; 1 is a throw that does not admit.
        charge(&table[place.bucket as usize], place.tag, now_ns, price, || 1)
    }

    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge {
        charge_budget(&self.budgets[vital as usize], now_ns, price)
    }
}
