//! One list, block or allow, with everything that is known about its entries.
//!
//! A book changes by [`Edit`]s, and [`Book::swap`] gives back the edit that undoes one. What the kernel must be told
//! follows from the prefixes in an edit and from what the book says afterwards; [`tables`](super::tables) sees to it.
//!
//! The book has no clock. An entry applies while `now < expires`, whether it is still in the book or not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flood_common::lists::CELL_LENGTH;
use ipnet::IpNet;

use crate::{boot_time::BootTime, config::FeedName};

#[cfg(test)]
mod tests;
mod walk;

pub use walk::{Above, Walk};

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Typed or sent by the operator at run time.
    Operator,
    /// `entries` of the configuration.
    Config,
    /// A list file, by its name.
    File(String),
    /// A feed.
    Feed(FeedName),
}

/// What is known about entries that came together.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    /// Where they came from.
    pub origin: Origin,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Since when.
    pub added: BootTime,
    /// Who added them, when that is known.
    pub added_by: Option<String>,
}

/// One entry of a list. A million of them share few notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// From this time on it no longer applies; `None` is never.
    pub expires: Option<BootTime>,
    /// The rest.
    pub note: Arc<Note>,
}

/// Entries to put into a book or, where there is none, to take out of it. By address, broader before narrower, no
/// prefix twice, host bits cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit(Vec<(IpNet, Option<Entry>)>);

impl Edit {
    /// Puts these in. Of two with the same prefix the later one holds.
    pub fn put(prefixes: impl IntoIterator<Item = (IpNet, Entry)>) -> Self {
        Self::new(prefixes.into_iter().map(|(prefix, entry)| (prefix.trunc(), Some(entry))).collect())
    }

    /// Puts these in with the same entry. Sorting prefixes alone is several times as fast as sorting entries.
    pub fn put_alike(mut prefixes: Vec<IpNet>, entry: &Entry) -> Self {
        prefixes.sort_unstable_by_key(|prefix| match prefix.trunc() {
            IpNet::V4(v4) => (4, u128::from(v4.addr().to_bits()), v4.prefix_len()),
            IpNet::V6(v6) => (6, v6.addr().to_bits(), v6.prefix_len()),
        });
        Self::put(prefixes.into_iter().map(|prefix| (prefix, entry.clone())))
    }

    /// Takes these out.
    pub fn take(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        Self::new(prefixes.into_iter().map(|prefix| (prefix.trunc(), None)).collect())
    }

    /// This edit, but where it takes something out that `entry` has an entry for, that is put in.
    pub fn or_put(mut self, entry: impl Fn(IpNet) -> Option<Entry>) -> Self {
        for (prefix, change) in self.0.iter_mut().filter(|(_, change)| change.is_none()) {
            *change = entry(*prefix);
        }
        self
    }

    /// Puts these in or takes them out. Host bits must be cleared.
    pub(super) fn new(mut changes: Vec<(IpNet, Option<Entry>)>) -> Self {
        // Stable, so that the later of two stays behind, and takes the place of the earlier.
        changes.sort_by_key(|(prefix, _)| *prefix);
        changes.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0;
            if same {
                earlier.1 = later.1.take();
            }
            same
        });
        Self(changes)
    }

    /// This edit, and then another, as one.
    pub fn then(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => return other,
            (_, true) => return self,
            (false, false) => {}
        }
        Self::new([self.0, other.0].concat())
    }

    /// The places that what is put in takes, if none of it is there yet.
    pub fn places(&self) -> Places {
        let put = self.0.iter().filter(|(_, entry)| entry.is_some());
        put.fold(Places::default(), |sum, (prefix, _)| sum.plus(Places::of(*prefix)))
    }

    /// The prefixes, and what becomes of them.
    pub fn changes(&self) -> &[(IpNet, Option<Entry>)] {
        &self.0
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Places in the tables that entries take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// Single IPv4 addresses in prefixes longer than /24. Shorter ones are painted, which takes no place.
    pub ipv4: u64,
    /// IPv6 prefixes.
    pub ipv6: u64,
}

impl Places {
    /// What this prefix takes.
    pub fn of(prefix: IpNet) -> Self {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(_) if length <= CELL_LENGTH => Self::default(),
            IpNet::V4(_) => Self { ipv4: 1 << (32 - length), ipv6: 0 },
            IpNet::V6(_) => Self { ipv4: 0, ipv6: 1 },
        }
    }

    /// The sum.
    pub fn plus(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 + other.ipv4, ipv6: self.ipv6 + other.ipv6 }
    }

    fn minus(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 - other.ipv4, ipv6: self.ipv6 - other.ipv6 }
    }
}

/// How many entries there are of each length.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lengths {
    ipv4: [usize; 33],
    ipv6: [usize; 129],
}

impl Lengths {
    fn of(&self, family: &IpNet) -> &[usize] {
        match family {
            IpNet::V4(_) => &self.ipv4,
            IpNet::V6(_) => &self.ipv6,
        }
    }

    fn at(&mut self, prefix: IpNet) -> &mut usize {
        let length = usize::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(_) => &mut self.ipv4[length],
            IpNet::V6(_) => &mut self.ipv6[length],
        }
    }
}

/// One list of entries, at most one per prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// In the order of prefixes, what lies within a prefix follows it.
    entries: BTreeMap<IpNet, Entry>,
    /// The entries that expire, soonest first.
    expiries: BTreeSet<(BootTime, IpNet)>,
    lengths: Lengths,
    places: Places,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            expiries: BTreeSet::new(),
            lengths: Lengths { ipv4: [0; 33], ipv6: [0; 129] },
            places: Places::default(),
        }
    }
}

impl Book {
    /// Makes the changes of an edit; returns the edit that undoes them. An entry with the same prefix is replaced as
    /// a whole, expiry, reason and origin included: what the operator said last holds, be it longer or shorter.
    pub fn swap(&mut self, edit: Edit) -> Edit {
        let Edit(mut changes) = edit;
        if self.entries.is_empty() {
            self.fill(&mut changes);
            return Edit(changes);
        }
        for (prefix, entry) in &mut changes {
            *entry = match entry.take() {
                Some(entry) => self.insert(*prefix, entry),
                None => self.remove(*prefix),
            };
        }
        Edit(changes)
    }

    /// Fills an empty book. A map that is built whole takes half the memory of one that is built bit by bit, and a
    /// fraction of the time.
    fn fill(&mut self, changes: &mut [(IpNet, Option<Entry>)]) {
        let entries = changes.iter_mut().filter_map(|(prefix, entry)| Some((*prefix, entry.take()?)));
        self.entries = entries.collect();
        for (prefix, entry) in &self.entries {
            *self.lengths.at(*prefix) += 1;
            self.places = self.places.plus(Places::of(*prefix));
            self.expiries.extend(entry.expires.map(|at| (at, *prefix)));
        }
    }

    fn insert(&mut self, prefix: IpNet, entry: Entry) -> Option<Entry> {
        let ends = entry.expires;
        let before = self.entries.insert(prefix, entry);
        match &before {
            Some(before) => self.forget_expiry(prefix, before.expires),
            None => {
                *self.lengths.at(prefix) += 1;
                self.places = self.places.plus(Places::of(prefix));
            }
        }
        self.expiries.extend(ends.map(|at| (at, prefix)));
        before
    }

    fn remove(&mut self, prefix: IpNet) -> Option<Entry> {
        let before = self.entries.remove(&prefix)?;
        *self.lengths.at(prefix) -= 1;
        self.places = self.places.minus(Places::of(prefix));
        self.forget_expiry(prefix, before.expires);
        Some(before)
    }

    fn forget_expiry(&mut self, prefix: IpNet, expires: Option<BootTime>) {
        if let Some(at) = expires {
            self.expiries.remove(&(at, prefix));
        }
    }

    /// The edit that takes out what no longer applies at `now`.
    pub fn expired(&self, now: BootTime) -> Edit {
        Edit::take(self.expiries.iter().take_while(|(at, _)| *at <= now).map(|(_, prefix)| *prefix))
    }

    /// The edit that takes out all that came from there.
    pub fn leaving(&self, origin: &Origin) -> Edit {
        let from_there = self.entries.iter().filter(|(_, entry)| entry.note.origin == *origin);
        Edit::take(from_there.map(|(prefix, _)| *prefix))
    }

    /// When [`expired`](Self::expired) will next have something to say.
    #[cfg(test)]
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> Option<&Entry> {
        self.entries.get(&prefix.trunc())
    }

    /// All entries that cover a prefix, itself included, broadest first, whether expired or not.
    pub fn cover(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &Entry)> {
        let longest = usize::from(prefix.prefix_len());
        let lengths = self.lengths.of(&prefix)[..=longest].iter().zip(0u8..);
        lengths.filter(|(count, _)| **count > 0).filter_map(move |(_, length)| {
            let around = IpNet::new(prefix.addr(), length).ok()?.trunc();
            self.entries.get_key_value(&around).map(|(prefix, entry)| (*prefix, entry))
        })
    }

    /// All entries within a prefix, itself included, by address, broader before narrower.
    pub fn within(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &Entry)> {
        let last = IpNet::from(prefix.broadcast());
        self.entries.range(prefix.trunc()..=last).map(|(prefix, entry)| (*prefix, entry))
    }

    /// For visits to many prefixes, in their order.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    /// All entries: IPv4 before IPv6, then by address, broader before narrower.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Entry)> {
        self.entries.iter().map(|(prefix, entry)| (*prefix, entry))
    }

    /// The number of IPv4 entries.
    pub fn len_ipv4(&self) -> usize {
        self.lengths.ipv4.iter().sum()
    }

    /// The number of IPv6 entries.
    pub fn len_ipv6(&self) -> usize {
        self.lengths.ipv6.iter().sum()
    }

    /// The places that the entries take.
    pub fn places(&self) -> Places {
        self.places
    }

    /// The places that they will take after an edit.
    pub fn places_after(&self, edit: &Edit) -> Places {
        let (mut more, mut less) = (self.places, Places::default());
        for (prefix, entry) in edit.changes() {
            match (self.entries.contains_key(prefix), entry) {
                (false, Some(_)) => more = more.plus(Places::of(*prefix)),
                (true, None) => less = less.plus(Places::of(*prefix)),
                (true, Some(_)) | (false, None) => {}
            }
        }
        more.minus(less)
    }
}
