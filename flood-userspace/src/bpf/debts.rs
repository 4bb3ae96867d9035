//! Looking into the debt tables while the filter runs.
//!
//! A debt is the work that lies ahead of a source at the speed of its limit, as in a queue; so the share of time in
//! which a source is in debt is the share of its limit that it uses (the utilisation law), and a source that is
//! always in debt is at its limit. [`DebtTables::watch`] measures that share by looking several times.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use aya::maps::Map;
use flood_common::{
    abi,
    address::Address,
    meter::{WAYS, debt_ns, tag},
    place::{Place, Seeds},
};

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// Looks per watch: the share of the limit is right to about ±6 percentage points (binomial, at a half).
const LOOKS: u32 = 64;

/// Between two looks: longer than a tick of the coarse clock at 250 Hz, so that looks are independent.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4, table exact by address.
    V4,
    /// IPv6, table by a tag of the prefix.
    V6,
}

/// A slot in debt.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Debtor {
    /// Family of the table.
    pub family: Family,
    /// Where the source is in the table.
    pub place: Place,
    /// The source: an IPv4 address. An IPv6 prefix cannot be had from its place.
    pub source: Option<Address>,
    /// Debt when first seen.
    pub debt: Duration,
    /// Share of the limit that is used, 0 to 1.
    pub share: f64,
}

/// The debt table of each family.
pub struct DebtTables {
    memory: MappedArray,
    bucket_bits: u32,
    clock: Arc<Clock>,
}

impl DebtTables {
    pub(super) fn new(map: &Map, bucket_bits: u32, clock: Arc<Clock>) -> Result<Self, BpfError> {
        let bytes = (2 * WAYS * size_of::<u64>()) << bucket_bits;
        Ok(Self { memory: MappedArray::new(abi::map::DEBTS, map, bytes)?, bucket_bits, clock })
    }

    /// Slots of each family.
    pub fn capacity(&self) -> u64 {
        (WAYS as u64) << self.bucket_bits
    }

    /// Binary logarithm of the number of buckets of each family, for [`Seeds`].
    pub fn bucket_bits(&self) -> u32 {
        self.bucket_bits
    }

    fn table(&self, family: Family) -> &[AtomicU64] {
        let (v4, v6) = self.memory.words().split_at(WAYS << self.bucket_bits);
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }

    /// Slots in debt now.
    pub fn occupied(&self, family: Family, horizon_ns: u64) -> u64 {
        let now_ns = self.clock.now_ns();
        let in_debt = |word: u64| debt_ns(word, now_ns, horizon_ns) > 0;
        self.table(family).iter().filter(|word| in_debt(word.load(Ordering::Relaxed))).count() as u64
    }

    /// Clears words that stand for no debt, so that none of them can look like one after the clock has wrapped.
    pub fn sweep(&self, horizon_ns: u64) {
        for family in [Family::V4, Family::V6] {
            let now_ns = self.clock.now_ns();
            for word in self.table(family) {
                let seen = word.load(Ordering::Relaxed);
                if seen != 0 && debt_ns(seen, now_ns, horizon_ns) == 0 {
                    // Lost races are fine: whoever won has written a fresh word.
                    let _ = word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
                }
            }
        }
    }

    /// Names the sources in debt and measures what share of their limit they use. Takes about a third of a second.
    pub fn watch(&self, seeds: &Seeds, horizon_ns: u64) -> Vec<Debtor> {
        let mut debtors = HashMap::new();
        for family in [Family::V4, Family::V6] {
            self.find(family, seeds, horizon_ns, &mut debtors);
        }
        let mut in_debt: Vec<(usize, Debtor, u32)> =
            debtors.into_iter().map(|((_, index), debtor)| (index, debtor, 0)).collect();
        for _ in 0..LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            let now_ns = self.clock.now_ns();
            for (index, debtor, looks) in &mut in_debt {
                let word = self.table(debtor.family)[*index].load(Ordering::Relaxed);
                if tag(word) == debtor.place.tag && debt_ns(word, now_ns, horizon_ns) > 0 {
                    *looks += 1;
                }
            }
        }
        in_debt
            .into_iter()
            .map(|(_, debtor, looks)| Debtor { share: f64::from(looks) / f64::from(LOOKS), ..debtor })
            .collect()
    }

    fn find(
        &self,
        family: Family,
        seeds: &Seeds,
        horizon_ns: u64,
        debtors: &mut HashMap<(Family, usize), Debtor>,
    ) {
        let now_ns = self.clock.now_ns();
        for (index, word) in self.table(family).iter().enumerate() {
            let word = word.load(Ordering::Relaxed);
            let debt = debt_ns(word, now_ns, horizon_ns);
            if debt == 0 {
                continue;
            }
            let place = Place { bucket: (index / WAYS) as u32, tag: tag(word) };
            let source = match family {
                Family::V4 => Some(Address::V4(seeds.v4_address(place, self.bucket_bits))),
                Family::V6 => None,
            };
            let debtor = Debtor { family, place, source, debt: Duration::from_nanos(debt), share: 0.0 };
            debtors.insert((family, index), debtor);
        }
    }
}
