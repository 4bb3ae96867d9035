//! What is put into a book and taken out of it.

use std::sync::Arc;

use ipnet::IpNet;

use super::{Book, Entry, Origin, Places, ends_last};

/// What becomes of an origin's entry of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// This is it from now on.
    Put(Entry),
    /// There is none from this origin any more.
    Take(Arc<Origin>),
}

impl Change {
    /// Whose entry it is.
    pub fn origin(&self) -> &Arc<Origin> {
        match self {
            Self::Put(entry) => &entry.note.origin,
            Self::Take(origin) => origin,
        }
    }

    /// The entry, if one is put in.
    pub fn put(&self) -> Option<&Entry> {
        match self {
            Self::Put(entry) => Some(entry),
            Self::Take(_) => None,
        }
    }
}

/// Changes of a book: by address, broader before narrower, of each prefix at most one for an origin, host bits cleared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit(pub(super) Vec<(IpNet, Change)>);

impl Edit {
    /// Puts these in. Of two with the same prefix and origin the later one holds.
    pub fn put(prefixes: impl IntoIterator<Item = (IpNet, Entry)>) -> Self {
        Self::new(prefixes.into_iter().map(|(prefix, entry)| (prefix.trunc(), Change::Put(entry))).collect())
    }

    /// Puts these in with the same entry. Sorting prefixes alone is several times as fast as sorting entries.
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

    /// Takes out what came from there.
    pub fn take_from(prefixes: impl IntoIterator<Item = IpNet>, origin: &Arc<Origin>) -> Self {
        let take = |prefix: IpNet| (prefix.trunc(), Change::Take(Arc::clone(origin)));
        Self::new(prefixes.into_iter().map(take).collect())
    }

    /// Makes these changes; of two of the same entry the later one counts. Host bits must be cleared.
    pub fn new(mut changes: Vec<(IpNet, Change)>) -> Self {
        // Stable, so that the later of two stays behind, and takes the place of the earlier.
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
        let put =
            self.by_prefix().filter(|(_, changes)| changes.iter().any(|(_, change)| change.put().is_some()));
        put.fold(Places::default(), |sum, (prefix, _)| sum.plus(Places::of(prefix)))
    }

    /// The changes.
    pub fn changes(&self) -> &[(IpNet, Change)] {
        &self.0
    }

    /// The prefixes that are concerned, each once.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> {
        self.by_prefix().map(|(prefix, _)| prefix)
    }

    /// The changes of each prefix.
    pub(super) fn by_prefix(&self) -> impl Iterator<Item = (IpNet, &[(IpNet, Change)])> {
        self.0.chunk_by(|a, b| a.0 == b.0).map(|changes| (changes[0].0, changes))
    }

    /// What this edit does to a prefix for an origin.
    pub fn of(&self, prefix: IpNet, origin: &Origin) -> Option<&Change> {
        let first = self.0.partition_point(|(other, _)| *other < prefix);
        let of_prefix = self.0[first..].iter().take_while(|(other, _)| *other == prefix);
        of_prefix.map(|(_, change)| change).find(|change| **change.origin() == *origin)
    }

    /// Each prefix from this one on, with the entry that ended last of those that it had before the edit which this one
    /// undoes; the book is as it is after that.
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

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Sorted changes, of each prefix the last for each origin.
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
