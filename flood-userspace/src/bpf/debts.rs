//! Reads the debt tables while the filter runs.
//!
//! A debt is the work that lies ahead of a source at the speed of its limit, as in a queue. So the share of time in
//! which a source is in debt is the share of its limit that it uses (the utilisation law), and a source that is
//! always in debt is at its limit. [`DebtTables::watch`] measures that share by sampling.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use aya::maps::Map;
use flood_common::{
    abi::{self, DEBT_TABLES, Settings},
    address::Address,
    class::Cell,
    meter::{WAYS, apart, cell_of, debt_ns, owner_of, tag_of},
    place::Place,
};

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// Samples per watch: the share of the limit is accurate to about ±6 percentage points (binomial, at a half).
const LOOKS: u32 = 64;

/// Time between two samples: longer than a tick of the coarse clock at 250 Hz, so that samples are independent.
const BETWEEN_LOOKS: Duration = Duration::from_millis(5);

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// IPv4. Its table identifies addresses exactly.
    V4,
    /// IPv6. Its table identifies prefixes by a tag.
    V6,
}

/// Which address of a packet a table counts by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Side {
    /// The source.
    Sources,
    /// The destination.
    Destinations,
}

/// A slot in debt.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Debtor {
    /// The limit to which the debt belongs.
    pub cell: Cell,
    /// Family of the table.
    pub family: Family,
    /// Its place in the table.
    pub place: Place,
    /// The IPv4 address, or the first one of the network. An IPv6 prefix cannot be derived from its place.
    pub address: Option<Address>,
    /// Debt when first seen.
    pub debt: Duration,
    /// Share of the limit in use, 0 to 1.
    pub share: f64,
}

/// The debt tables, one for each side and family.
pub struct DebtTables {
    memory: MappedArray,
    bucket_bits: u32,
    clock: Arc<Clock>,
}

impl DebtTables {
    pub(super) fn new(map: Map, bucket_bits: u32, clock: Arc<Clock>) -> Result<Self, BpfError> {
        let bytes = (DEBT_TABLES as usize * WAYS * size_of::<u64>()) << bucket_bits;
        Ok(Self { memory: MappedArray::new(abi::map::DEBTS, map, bytes)?, bucket_bits, clock })
    }

    /// Returns the number of slots in each table.
    pub fn capacity(&self) -> u64 {
        (WAYS as u64) << self.bucket_bits
    }

    /// Returns the binary logarithm of the number of buckets in each table, for [`Settings::debt_place`].
    pub fn bucket_bits(&self) -> u32 {
        self.bucket_bits
    }

    fn table(&self, side: Side, family: Family) -> &[AtomicU64] {
        let number = 2 * usize::from(side == Side::Destinations) + usize::from(family == Family::V6);
        let slots = WAYS << self.bucket_bits;
        &self.memory.words()[number * slots..][..slots]
    }

    /// Returns the number of slots in debt now.
    pub fn occupied(&self, side: Side, family: Family, horizon_ns: u64) -> u64 {
        let now_ns = self.clock.now_ns();
        let in_debt = |word: u64| debt_ns(word, now_ns, horizon_ns) > 0;
        self.table(side, family).iter().filter(|word| in_debt(word.load(Ordering::Relaxed))).count() as u64
    }

    /// Clears words without debt, so that none can look like a debt after the clock has wrapped.
    pub fn sweep(&self, horizon_ns: u64) {
        let now_ns = self.clock.now_ns();
        for word in self.memory.words() {
            let seen = word.load(Ordering::Relaxed);
            if seen != 0 && debt_ns(seen, now_ns, horizon_ns) == 0 {
                // A lost race is harmless: the winner has written a fresh word.
                let _ = word.compare_exchange(seen, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// Lists the slots in debt and measures what share of its limit each uses. Takes about a third of a second.
    pub fn watch(&self, settings: &Settings) -> Vec<Debtor> {
        let horizon_ns = settings.horizon_ns();
        let mut in_debt: Vec<(&AtomicU64, u32, Debtor, u32)> = Vec::new();
        for side in [Side::Sources, Side::Destinations] {
            for family in [Family::V4, Family::V6] {
                in_debt.extend(self.find(side, family, settings));
            }
        }
        for _ in 0..LOOKS {
            thread::sleep(BETWEEN_LOOKS);
            let now_ns = self.clock.now_ns();
            for (word, owner, _, looks) in &mut in_debt {
                let word = word.load(Ordering::Relaxed);
                if owner_of(word) == *owner && debt_ns(word, now_ns, horizon_ns) > 0 {
                    *looks += 1;
                }
            }
        }
        in_debt
            .into_iter()
            .map(|(_, _, debtor, looks)| Debtor { share: f64::from(looks) / f64::from(LOOKS), ..debtor })
            .collect()
    }

    /// Finds the slots in debt. Returns word, owner, what is known, and a count of 0 samples.
    fn find(
        &self,
        side: Side,
        family: Family,
        settings: &Settings,
    ) -> impl Iterator<Item = (&AtomicU64, u32, Debtor, u32)> {
        let (now_ns, horizon_ns) = (self.clock.now_ns(), settings.horizon_ns());
        self.table(side, family).iter().enumerate().filter_map(move |(index, slot)| {
            let word = slot.load(Ordering::Relaxed);
            let debt = debt_ns(word, now_ns, horizon_ns);
            if debt == 0 {
                return None;
            }
            let owner = owner_of(word);
            let cell = cell_of(owner, side == Side::Destinations)?;
            let place = Place { bucket: apart((index / WAYS) as u32, owner), tag: tag_of(owner) };
            let address = match family {
                Family::V4 => Some(Address::V4(settings.seeds.v4_address(place, self.bucket_bits))),
                Family::V6 => None,
            };
            let debt = Duration::from_nanos(debt);
            Some((slot, owner, Debtor { cell, family, place, address, debt, share: 0.0 }, 0))
        })
    }
}
