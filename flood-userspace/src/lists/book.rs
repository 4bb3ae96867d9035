//! One list, block or allow, with everything that is known about its entries.
//!
//! The kernel holds much less: per list and address family one longest-prefix trie from prefix to expiry. It
//! sees only the *longest* match, so an entry inside a longer-lived one must not end that one's effect.
//! Therefore the kernel is given the **effective expiry** of a prefix: the latest of its own and those of all
//! entries that cover it. Each mutation returns the [`Change`]s that keep the kernel's trie so.
//!
//! The book has no clock. An entry applies while `now < expires`, in the kernel as here, so calling
//! [`Book::expire`] late costs memory but never changes a verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::SystemTime;

use ipnet::IpNet;
use prefix_trie::joint::JointPrefixMap;

#[cfg(test)]
mod tests;

/// Where an entry came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Typed or sent by the operator at run time.
    Operator,
    /// `entries` of the configuration.
    Config,
    /// A list file, by its name.
    File(String),
}

/// One entry of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it covers. A [`Book`] clears the host bits.
    pub prefix: IpNet,
    /// Where it came from.
    pub origin: Origin,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Since when.
    pub added: SystemTime,
    /// Who added it, when that is known.
    pub added_by: Option<String>,
    /// From this time on it no longer applies; `None` is never.
    pub expires: Option<SystemTime>,
}

/// What the kernel's trie of this list must be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Insert the prefix, or overwrite its value.
    Set {
        /// The key.
        prefix: IpNet,
        /// The effective expiry; `None` is never.
        expires: Option<SystemTime>,
    },
    /// Delete the prefix, which is there.
    Unset {
        /// The key.
        prefix: IpNet,
    },
}

/// One list of entries, at most one per prefix.
#[derive(Debug, Clone, Default)]
pub struct Book {
    entries: JointPrefixMap<IpNet, Entry>,
    /// The entries of `entries` that expire, soonest first.
    expiries: BTreeSet<(SystemTime, IpNet)>,
}

impl Book {
    /// Adds an entry. One with the same prefix is replaced as a whole, expiry, reason and origin included:
    /// what the operator said last holds, be it longer or shorter.
    pub fn insert(&mut self, entry: Entry) -> Vec<Change> {
        let entry = Entry { prefix: entry.prefix.trunc(), ..entry };
        self.changes_at(entry.prefix, |book| book.put(entry))
    }

    /// Adds many entries, as by [`insert`](Self::insert) one after the other, but without repeating changes.
    pub fn insert_all(&mut self, mut entries: Vec<Entry>) -> Vec<Change> {
        // By address, what covers an entry before it: so none changes what this very call has told the kernel
        // about another, and neighbours in the trie are visited together.
        // The sort is stable: of two entries with the same prefix the later one still comes later.
        entries.sort_by_key(|entry| entry.prefix.trunc());
        entries.into_iter().flat_map(|entry| self.insert(entry)).collect()
    }

    /// Removes the entry of exactly this prefix. Empty when there is none.
    pub fn remove(&mut self, prefix: IpNet) -> Vec<Change> {
        let prefix = prefix.trunc();
        self.changes_at(prefix, |book| {
            book.take(prefix);
        })
    }

    /// Removes all entries that no longer apply at `now`.
    pub fn expire(&mut self, now: SystemTime) -> Vec<Change> {
        let mut changes = Vec::new();
        while let Some(&(at, prefix)) = self.expiries.first()
            && at <= now
        {
            self.take(prefix);
            // Entries below keep their effective expiry: where it was this entry's, they end here as well.
            changes.push(Change::Unset { prefix });
        }
        changes
    }

    /// When [`expire`](Self::expire) will next have something to do.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// The entry of exactly this prefix.
    pub fn get(&self, prefix: IpNet) -> Option<&Entry> {
        self.entries.get(&prefix.trunc())
    }

    /// All entries that cover an address, broadest first, whether expired or not.
    pub fn cover(&self, address: IpAddr) -> impl Iterator<Item = &Entry> {
        self.entries.cover_values(&IpNet::from(address.to_canonical()))
    }

    /// All entries: IPv4 before IPv6, then by address, broader before narrower.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The number of IPv4 entries.
    pub fn len_ipv4(&self) -> usize {
        self.entries.t1.len()
    }

    /// The number of IPv6 entries.
    pub fn len_ipv6(&self) -> usize {
        self.entries.t2.len()
    }

    /// Mutates the entry at `prefix`, and no other, and returns what that changes for it and for all below
    /// it.
    fn changes_at(&mut self, prefix: IpNet, mutate: impl FnOnce(&mut Self)) -> Vec<Change> {
        let mut before: BTreeMap<_, _> = self.effective_expiries(prefix).into_iter().collect();
        mutate(self);
        let mut changes = Vec::new();
        for (prefix, expires) in self.effective_expiries(prefix) {
            if before.remove(&prefix) != Some(expires) {
                changes.push(Change::Set { prefix, expires });
            }
        }
        changes.extend(before.into_keys().map(|prefix| Change::Unset { prefix }));
        changes
    }

    /// The effective expiry of the entry at `prefix` and of all entries below it.
    fn effective_expiries(&self, prefix: IpNet) -> Vec<(IpNet, Option<SystemTime>)> {
        let above = self.entries.cover(&prefix).filter(|(covering, _)| *covering != prefix);
        let mut effective = Vec::new();
        // The entries around the one at hand, broadest first: in the order of the trie an entry follows those
        // that cover it.
        let mut around: Vec<(IpNet, Option<SystemTime>)> = Vec::new();
        for (at, entry) in above.chain(self.entries.children(&prefix)) {
            while around.pop_if(|(outer, _)| !outer.contains(&at)).is_some() {}
            let expires = match around.last() {
                Some((_, outer)) => later(*outer, entry.expires),
                None => entry.expires,
            };
            around.push((at, expires));
            if prefix.contains(&at) {
                effective.push((at, expires));
            }
        }
        effective
    }

    fn put(&mut self, entry: Entry) {
        self.take(entry.prefix);
        if let Some(at) = entry.expires {
            self.expiries.insert((at, entry.prefix));
        }
        self.entries.insert(entry.prefix, entry);
    }

    fn take(&mut self, prefix: IpNet) {
        if let Some(at) = self.entries.remove(&prefix).and_then(|entry| entry.expires) {
            self.expiries.remove(&(at, prefix));
        }
    }
}

/// The later of two expiries, of which `None` (never) is the latest.
fn later(a: Option<SystemTime>, b: Option<SystemTime>) -> Option<SystemTime> {
    a.zip(b).map(|(a, b)| a.max(b))
}
