//! Changes to a book: entries put in and taken out.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Book, Entry, Origin, Places, ends_last};

/// A change to an origin's entry of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The origin's entry is this from now on.
    Put(Entry),
    /// The origin has no entry any more.
    Take(Arc<Origin>),
}

impl Change {
    /// Returns the origin of the entry.
    pub fn origin(&self) -> &Arc<Origin> {
        match self {
            Self::Put(entry) => &entry.note.origin,
            Self::Take(origin) => origin,
        }
    }

    /// Returns the entry, if one is put in.
    pub fn put(&self) -> Option<&Entry> {
        match self {
            Self::Put(entry) => Some(entry),
            Self::Take(_) => None,
        }
    }
}

/// Changes to a book, sorted by address, broader before narrower. At most one per prefix and origin; host bits
/// cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit(pub(super) Vec<(IpNet, Change)>);

impl Edit {
    /// Puts in these entries. Of two with the same prefix and origin the later one counts.
    pub fn put(prefixes: impl IntoIterator<Item = (IpNet, Entry)>) -> Self {
        Self::new(prefixes.into_iter().map(|(prefix, entry)| (prefix.trunc(), Change::Put(entry))).collect())
    }

    /// Puts in these prefixes with the same entry. Sorting prefixes alone is several times as fast as sorting
    /// entries.
    pub fn put_alike(mut prefixes: Vec<IpNet>, entry: &Entry) -> Self {
        prefixes.sort_unstable_by_key(|prefix| match prefix.trunc() {
            IpNet::V4(v4) => (4, u128::from(v4.addr().to_bits()), v4.prefix_len()),
            IpNet::V6(v6) => (6, v6.addr().to_bits(), v6.prefix_len()),
        });
        Self::put(prefixes.into_iter().map(|prefix| (prefix, entry.clone())))
    }

    /// Takes out what the operator has put in at run time.
    pub fn take(prefixes: impl IntoIterator<Item = IpNet>) -> Self {
        Self::take_from(prefixes, &Arc::new(Origin::Operator))
    }

    /// Takes out an origin's entries.
    pub fn take_from(prefixes: impl IntoIterator<Item = IpNet>, origin: &Arc<Origin>) -> Self {
        let take = |prefix: IpNet| (prefix.trunc(), Change::Take(Arc::clone(origin)));
        Self::new(prefixes.into_iter().map(take).collect())
    }

    /// Makes an edit of these changes; of two for the same entry the later one counts. Host bits must be cleared.
    pub fn new(mut changes: Vec<(IpNet, Change)>) -> Self {
        // The sort is stable, so the later of two comes second, and takes the place of the earlier.
        changes.sort_by_key(|(prefix, _)| *prefix);
        changes.dedup_by(|later, earlier| {
            let same = later.0 == earlier.0 && later.1.origin() == earlier.1.origin();
            if same {
                std::mem::swap(&mut earlier.1, &mut later.1);
            }
            same
        });
        if changes.is_sorted_by(|a, b| a.0 < b.0) { Self(changes) } else { Self(of_several_origins(changes)) }
    }

    /// Combines this edit and a later one.
    pub fn then(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => return other,
            (_, true) => return self,
            (false, false) => {}
        }
        Self::new([self.0, other.0].concat())
    }

    /// Returns the places that the new entries take, if none of them exists yet.
    pub fn places(&self) -> Places {
        let put =
            self.by_prefix().filter(|(_, changes)| changes.iter().any(|(_, change)| change.put().is_some()));
        put.fold(Places::default(), |sum, (prefix, _)| sum.plus(Places::of(prefix)))
    }

    /// Returns the changes.
    pub fn changes(&self) -> &[(IpNet, Change)] {
        &self.0
    }

    /// Returns the affected prefixes, each once.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.by_prefix().map(|(prefix, _)| prefix)
    }

    /// Returns the changes of each prefix.
    pub(super) fn by_prefix(&self) -> impl Iterator<Item = (IpNet, &[(IpNet, Change)])> {
        self.0.chunk_by(|a, b| a.0 == b.0).map(|changes| (changes[0].0, changes))
    }

    /// Returns what this edit does to an origin's entry of a prefix.
    pub fn of(&self, prefix: IpNet, origin: &Origin) -> Option<&Change> {
        let first = self.0.partition_point(|(other, _)| *other < prefix);
        let of_prefix = self.0[first..].iter().take_while(|(other, _)| *other == prefix);
        of_prefix.map(|(_, change)| change).find(|change| **change.origin() == *origin)
    }

    /// For an edit that undoes another, with `book` in the state after that other: returns each prefix from `from`
    /// on, with its entry that expired last before the other edit.
    pub fn before<'a>(
        &'a self,
        book: &'a Book,
        from: IpNet,
    ) -> impl Iterator<Item = (IpNet, Option<&'a Entry>)> {
        let first = self.0.partition_point(|(prefix, _)| *prefix < from);
        self.0[first..].chunk_by(|a, b| a.0 == b.0).map(|changes| {
            let prefix = changes[0].0;
            let is_changed = |entry: &&Entry| changes.iter().any(|(_, c)| *c.origin() == entry.note.origin);
            let stayed = book.holders(prefix).filter(|entry| !is_changed(entry));
            let were = changes.iter().filter_map(|(_, change)| change.put());
            (prefix, stayed.chain(were).min_by(|a, b| ends_last(a, b)))
        })
    }

    /// Returns whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Reduces sorted changes to the last one for each prefix and origin.
fn of_several_origins(changes: Vec<(IpNet, Change)>) -> Vec<(IpNet, Change)> {
    let mut kept: Vec<(IpNet, Change)> = Vec::with_capacity(changes.len());
    let mut first = 0;
    for (prefix, change) in changes {
        if kept.last().is_none_or(|(last, _)| *last != prefix) {
            first = kept.len();
        }
        match kept[first..].iter_mut().find(|(_, there)| there.origin() == change.origin()) {
            Some((_, there)) => *there = change,
            None => kept.push((prefix, change)),
        }
    }
    kept
}
