//! One list, block or allow, with everything that is known about its entries.
//!
//! Entries of different origins coexist: a prefix is on the list while any origin holds it, and each origin
//! changes only its own entries. So no origin has to know the others, and an entry that one origin removes or lets
//! expire stays on the list if another origin also holds it.
//!
//! A book changes by [`Edit`]s, and [`Book::swap`] returns the edit that undoes one. The updates of the kernel
//! tables follow from the prefixes in an edit and from the book afterwards; [`tables`](super::tables) makes them.
//!
//! The book has no clock. An entry applies while `now < expires`, whether it is still in the book or not.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::fmt;
use std::iter;
use std::mem;
use std::sync::Arc;

use flood_common::lists::CELL_LENGTH;
use ipnet::IpNet;
use smallvec::SmallVec;

use crate::{boot_time::BootTime, config::FeedName};

mod edit;
#[cfg(test)]
mod tests;
mod walk;

pub use edit::{Change, Edit};
pub use walk::{Above, Walk};

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Origin {
    /// Typed or sent by the operator at run time.
    Operator,
    /// `entries` of the configuration.
    Config,
    /// A list file of the configuration, by its path.
    File(String),
    /// Imported at run time under this name.
    Import(String),
    /// A feed.
    Feed(FeedName),
}

impl Origin {
    /// Whether the entry comes from the configuration itself.
    pub fn is_configured(&self) -> bool {
        matches!(self, Self::Config | Self::File(_))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("operator"),
            Self::Config => f.write_str("config"),
            Self::File(path) => write!(f, "file {path}"),
            Self::Import(name) => write!(f, "import {name}"),
            Self::Feed(name) => write!(f, "feed {name}"),
        }
    }
}

/// What is known about entries that were added together.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    /// Where they came from.
    pub origin: Arc<Origin>,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// When they were added.
    pub added: BootTime,
    /// Who added them, if known.
    pub added_by: Option<String>,
}

/// One entry of a list. A million of them share few notes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The entry no longer applies from this time on; `None` means never.
    pub expires: Option<BootTime>,
    /// Everything else about the entry.
    pub note: Arc<Note>,
}

impl Entry {
    /// Returns an entry without expiry, with only its origin and the time it was added.
    pub fn of(origin: &Arc<Origin>, added: BootTime) -> Self {
        let note = Note { origin: Arc::clone(origin), reason: None, added, added_by: None };
        Self { expires: None, note: Arc::new(note) }
    }

    /// Whether it expires after `other`.
    pub fn outlasts(&self, other: &Self) -> bool {
        ends_late(self) > ends_late(other)
    }
}

/// Returns a key that is greater for entries that expire later.
fn ends_late(entry: &Entry) -> (bool, Option<BootTime>) {
    (entry.expires.is_none(), entry.expires)
}

/// Swaps two entries of a prefix if the second one expires later.
fn put_in_order(first: &mut Entry, other: &mut Entry) {
    if ends_last(other, first) == Ordering::Less {
        mem::swap(first, other);
    }
}

/// Orders the entries of a prefix: the latest expiry first. If two expire together, the smaller origin comes
/// first.
fn ends_last(a: &Entry, b: &Entry) -> Ordering {
    Reverse(ends_late(a)).cmp(&Reverse(ends_late(b))).then_with(|| a.note.origin.cmp(&b.note.origin))
}

/// Table places that entries occupy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// Single IPv4 addresses in prefixes longer than /24. Shorter prefixes are painted, which takes no place.
    pub ipv4: u64,
    /// IPv6 prefixes.
    pub ipv6: u64,
}

impl Places {
    /// Places that this prefix occupies.
    pub fn of(prefix: IpNet) -> Self {
        let length = u32::from(prefix.prefix_len());
        match prefix {
            IpNet::V4(_) if length <= CELL_LENGTH => Self::default(),
            IpNet::V4(_) => Self { ipv4: 1 << (32 - length), ipv6: 0 },
            IpNet::V6(_) => Self { ipv4: 0, ipv6: 1 },
        }
    }

    /// Returns the sum.
    pub fn plus(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 + other.ipv4, ipv6: self.ipv6 + other.ipv6 }
    }

    fn minus(self, other: Self) -> Self {
        Self { ipv4: self.ipv4 - other.ipv4, ipv6: self.ipv6 - other.ipv6 }
    }
}

/// Number of entries of each prefix length.
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

/// Entries of a prefix other than the one that expires last.
type Others = SmallVec<[Entry; 1]>;

/// One list of entries, at most one per prefix and origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Book {
    /// For each prefix the entry that expires last; only this one matters to packets. In prefix order, whatever
    /// lies within a prefix follows it.
    entries: BTreeMap<IpNet, Entry>,
    /// The other entries of prefixes that have several, ordered by [`ends_last`]; mostly one each.
    others: BTreeMap<IpNet, Others>,
    /// The prefixes of entries that expire, soonest first.
    expiries: BTreeSet<(BootTime, IpNet)>,
    lengths: Lengths,
    places: Places,
}

impl Default for Book {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            others: BTreeMap::new(),
            expiries: BTreeSet::new(),
            lengths: Lengths { ipv4: [0; 33], ipv6: [0; 129] },
            places: Places::default(),
        }
    }
}

impl Book {
    /// Applies an edit and returns the edit that undoes it. An origin's entry for the same prefix is replaced as a
    /// whole, including expiry and reason.
    pub fn swap(&mut self, edit: Edit) -> Edit {
        let Edit(mut changes) = edit;
        if self.entries.is_empty() {
            self.fill(&mut changes);
            return Edit(changes);
        }
        for (prefix, change) in &mut changes {
            *change = match take_entry(change) {
                Some(entry) => self.put(*prefix, entry),
                None => self.take(*prefix, change.origin()),
            };
        }
        Edit(changes)
    }

    /// Fills an empty book and turns `changes` into those that empty it. A map that is built in one pass takes
    /// half the memory of one that is built by single insertions, and a fraction of the time.
    fn fill(&mut self, changes: &mut [(IpNet, Change)]) {
        let entries = changes.iter_mut().filter_map(|(prefix, change)| Some((*prefix, take_entry(change)?)));
        let mut entries = entries.peekable();
        let others = &mut self.others;
        self.entries = iter::from_fn(|| {
            let (prefix, mut entry) = entries.next()?;
            while let Some((_, mut next)) = entries.next_if(|(next, _)| *next == prefix) {
                put_in_order(&mut entry, &mut next);
                others.entry(prefix).or_default().push(next);
            }
            if let Some(others) = others.get_mut(&prefix) {
                others.sort_by(ends_last);
            }
            Some((prefix, entry))
        })
        .collect();
        for (prefix, entry) in &self.entries {
            *self.lengths.at(*prefix) += 1;
            self.places = self.places.plus(Places::of(*prefix));
            self.expiries.extend(entry.expires.map(|at| (at, *prefix)));
        }
        for (prefix, entries) in &self.others {
            self.expiries.extend(entries.iter().filter_map(|entry| entry.expires).map(|at| (at, *prefix)));
        }
    }

    /// Puts in an entry; returns the change that undoes it.
    fn put(&mut self, prefix: IpNet, entry: Entry) -> Change {
        let origin = Arc::clone(&entry.note.origin);
        self.expiries.extend(entry.expires.map(|at| (at, prefix)));
        let first = match self.entries.entry(prefix) {
            btree_map::Entry::Occupied(first) => first.into_mut(),
            btree_map::Entry::Vacant(place) => {
                place.insert(entry);
                *self.lengths.at(prefix) += 1;
                self.places = self.places.plus(Places::of(prefix));
                return Change::Take(origin);
            }
        };
        let mut entry = entry;
        let before = match self.others.entry(prefix) {
            btree_map::Entry::Vacant(_) if first.note.origin == origin => Some(mem::replace(first, entry)),
            btree_map::Entry::Vacant(others) => {
                put_in_order(first, &mut entry);
                others.insert(Others::from_iter([entry]));
                None
            }
            btree_map::Entry::Occupied(others) => {
                let others = others.into_mut();
                let before = if first.note.origin == origin {
                    Some(mem::replace(first, entry))
                } else if let Some(there) = others.iter_mut().find(|there| there.note.origin == origin) {
                    Some(mem::replace(there, entry))
                } else {
                    others.push(entry);
                    None
                };
                others.sort_by(ends_last);
                put_in_order(first, &mut others[0]);
                others.sort_by(ends_last);
                before
            }
        };
        match before {
            Some(before) => {
                self.forget_expiry(prefix, before.expires);
                Change::Put(before)
            }
            None => Change::Take(origin),
        }
    }

    /// Takes out an origin's entry; returns the change that undoes it.
    fn take(&mut self, prefix: IpNet, origin: &Arc<Origin>) -> Change {
        let nothing = Change::Take(Arc::clone(origin));
        let btree_map::Entry::Occupied(mut first) = self.entries.entry(prefix) else { return nothing };
        let before = match self.others.entry(prefix) {
            btree_map::Entry::Occupied(mut others) => {
                let before = if first.get().note.origin == *origin {
                    first.insert(others.get_mut().remove(0))
                } else {
                    let at = others.get().iter().position(|there| there.note.origin == *origin);
                    let Some(at) = at else { return nothing };
                    others.get_mut().remove(at)
                };
                if others.get().is_empty() {
                    others.remove();
                }
                before
            }
            btree_map::Entry::Vacant(_) if first.get().note.origin == *origin => {
                *self.lengths.at(prefix) -= 1;
                self.places = self.places.minus(Places::of(prefix));
                first.remove()
            }
            btree_map::Entry::Vacant(_) => return nothing,
        };
        self.forget_expiry(prefix, before.expires);
        Change::Put(before)
    }

    /// Drops the expiry of an entry that is gone, unless another entry of the prefix expires at the same time.
    fn forget_expiry(&mut self, prefix: IpNet, expires: Option<BootTime>) {
        if let Some(at) = expires
            && self.holders(prefix).all(|entry| entry.expires != expires)
        {
            self.expiries.remove(&(at, prefix));
        }
    }

    /// Returns the edit that takes out all entries that no longer apply at `now`.
    pub fn expired(&self, now: BootTime) -> Edit {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        let has_ended = |entry: &&Entry| entry.expires.is_some_and(|at| at <= now);
        let take = |entry: &Entry| Change::Take(Arc::clone(&entry.note.origin));
        Edit::new(
            due.flat_map(|(_, prefix)| {
                self.holders(*prefix).filter(has_ended).map(move |entry| (*prefix, take(entry)))
            })
            .collect(),
        )
    }

    /// Returns the edit that gives an origin exactly these prefixes (sorted, none twice). Its existing entries
    /// stay unchanged; new prefixes get `entry`.
    pub fn exchange(&self, prefixes: &[IpNet], entry: &Entry) -> Edit {
        let origin = &entry.note.origin;
        let mut there = self.of(origin).peekable();
        let mut changes = Vec::new();
        let take = |prefix| (prefix, Change::Take(Arc::clone(origin)));
        for prefix in prefixes {
            while let Some(gone) = there.next_if(|there| there < prefix) {
                changes.push(take(gone));
            }
            if there.next_if_eq(prefix).is_none() {
                changes.push((*prefix, Change::Put(entry.clone())));
            }
        }
        changes.extend(there.map(take));
        Edit::new(changes)
    }

    /// When [`expired`](Self::expired) will next return something.
    #[cfg(test)]
    pub fn next_expiry(&self) -> Option<BootTime> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Returns the entry of exactly this prefix that expires last.
    pub fn get(&self, prefix: IpNet) -> Option<&Entry> {
        self.entries.get(&prefix.trunc())
    }

    /// Returns all entries of exactly this prefix, the one that expires last first.
    pub fn holders(&self, prefix: IpNet) -> impl Iterator<Item = &Entry> {
        let prefix = prefix.trunc();
        let others = if self.others.is_empty() { None } else { self.others.get(&prefix) };
        self.entries.get(&prefix).into_iter().chain(others.into_iter().flatten())
    }

    /// Returns an origin's entry of exactly this prefix.
    pub fn held_by(&self, prefix: IpNet, origin: &Origin) -> Option<&Entry> {
        self.holders(prefix).find(|entry| *entry.note.origin == *origin)
    }

    /// Returns the prefixes of an origin's entries, in order.
    pub fn of<'a>(&'a self, origin: &'a Origin) -> impl Iterator<Item = IpNet> + 'a {
        self.all().filter(|(_, entry)| *entry.note.origin == *origin).map(|(prefix, _)| prefix)
    }

    /// Returns the entries of all origins in prefix order; within a prefix, the one that expires last comes first.
    pub fn all(&self) -> impl Iterator<Item = (IpNet, &Entry)> {
        let mut others = self.others.iter().peekable();
        self.entries.iter().flat_map(move |(prefix, first)| {
            let others = others.next_if(|(other, _)| *other == prefix);
            let others = others.into_iter().flat_map(|(_, others)| others);
            iter::once(first).chain(others).map(|entry| (*prefix, entry))
        })
    }

    /// Returns the prefixes that cover this one, itself included, broadest first. Each comes with its entry that
    /// expires last, expired or not.
    pub fn cover(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &Entry)> {
        let longest = usize::from(prefix.prefix_len());
        let lengths = self.lengths.of(&prefix)[..=longest].iter().zip(0u8..);
        lengths.filter(|(count, _)| **count > 0).filter_map(move |(_, length)| {
            let around = IpNet::new(prefix.addr(), length).ok()?.trunc();
            self.entries.get_key_value(&around).map(|(prefix, entry)| (*prefix, entry))
        })
    }

    /// Returns the prefixes within this one, itself included, by address, broader before narrower. Each comes with
    /// its entry that expires last.
    pub fn within(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &Entry)> {
        let last = IpNet::from(prefix.broadcast());
        self.entries.range(prefix.trunc()..=last).map(|(prefix, entry)| (*prefix, entry))
    }

    /// Returns a cursor for visiting many prefixes in order.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    /// Returns all prefixes: IPv4 before IPv6, then by address, broader before narrower. Each comes with its entry
    /// that expires last.
    pub fn iter(&self) -> impl Iterator<Item = (IpNet, &Entry)> {
        self.entries.iter().map(|(prefix, entry)| (*prefix, entry))
    }

    /// Returns the number of IPv4 prefixes.
    pub fn len_ipv4(&self) -> usize {
        self.lengths.ipv4.iter().sum()
    }

    /// Returns the number of IPv6 prefixes.
    pub fn len_ipv6(&self) -> usize {
        self.lengths.ipv6.iter().sum()
    }

    /// Returns the places that all entries occupy.
    pub fn places(&self) -> Places {
        self.places
    }

    /// Returns the places that the entries will occupy after an edit.
    pub fn places_after(&self, edit: &Edit) -> Places {
        let (mut more, mut less) = (self.places, Places::default());
        for (prefix, stays) in self.coming_and_going(edit) {
            let sum = if stays { &mut more } else { &mut less };
            *sum = sum.plus(Places::of(prefix));
        }
        more.minus(less)
    }

    /// Returns the number of prefixes after an edit.
    pub fn len_after(&self, edit: &Edit) -> usize {
        let (coming, going): (Vec<_>, Vec<_>) =
            self.coming_and_going(edit).map(|(_, stays)| stays).partition(|stays| *stays);
        self.entries.len() + coming.len() - going.len()
    }

    /// Returns the prefixes that an edit would put on the list (`true`) or take off it (`false`).
    fn coming_and_going(&self, edit: &Edit) -> impl Iterator<Item = (IpNet, bool)> {
        edit.by_prefix().filter_map(|(prefix, changes)| {
            let is_taken = |entry: &Entry| {
                changes.iter().any(|(_, c)| c.put().is_none() && *c.origin() == entry.note.origin)
            };
            let is_put = changes.iter().any(|(_, change)| change.put().is_some());
            let stays = is_put || self.holders(prefix).any(|entry| !is_taken(entry));
            (stays != self.entries.contains_key(&prefix)).then_some((prefix, stays))
        })
    }
}

/// Returns the entry that a change puts in, and turns the change into one that takes out that origin's entry.
fn take_entry(change: &mut Change) -> Option<Entry> {
    let origin = Arc::clone(change.origin());
    match mem::replace(change, Change::Take(origin)) {
        Change::Put(entry) => Some(entry),
        Change::Take(_) => None,
    }
}
