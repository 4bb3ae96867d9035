//! What the feeds of a list carry, beside the book that says what holds.
//!
//! The book has one entry for a prefix; several feeds may carry it, and the operator or the configuration may have
//! said something of their own about it. That always goes before, and among feeds the one that is first in the
//! configuration. So a feed puts in only what nobody else has, and what anybody else takes out falls back to a feed
//! that carries it. Every change comes out as an [`Edit`] of the book.

use std::sync::Arc;

use ipnet::IpNet;

use crate::{boot_time::BootTime, config::FeedName};

use super::{Book, Edit, Entry, Note, Origin};

/// What the feeds of a list carry.
#[derive(Debug, Clone, Default)]
pub struct Carriers(Vec<Carrier>);

#[derive(Debug, Clone)]
struct Carrier {
    name: FeedName,
    /// Sorted, no prefix twice, host bits cleared.
    prefixes: Vec<IpNet>,
    entry: Entry,
}

impl Carrier {
    fn carries(&self, prefix: IpNet) -> bool {
        self.prefixes.binary_search(&prefix).is_ok()
    }
}

impl Carriers {
    /// Names the feeds that there are, in their order. What one of another name carries must have been taken out.
    pub fn order(&mut self, names: &[FeedName]) {
        let place = |carrier: &Carrier| names.iter().position(|name| *name == carrier.name);
        self.0.retain(|carrier| place(carrier).is_some());
        self.0.sort_by_key(place);
        for (index, name) in names.iter().enumerate() {
            if self.0.get(index).is_none_or(|carrier| carrier.name != *name) {
                let entry = entry_of(name, BootTime::START);
                self.0.insert(index, Carrier { name: name.clone(), prefixes: Vec::new(), entry });
            }
        }
    }

    /// Whether no feed carries anything.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|carrier| carrier.prefixes.is_empty())
    }

    /// What a feed carries.
    pub fn prefixes(&self, name: &FeedName) -> &[IpNet] {
        self.0.iter().find(|carrier| carrier.name == *name).map_or(&[], |carrier| &carrier.prefixes)
    }

    /// The feeds that carry this very prefix.
    pub fn of(&self, prefix: IpNet) -> impl Iterator<Item = &FeedName> {
        self.0.iter().filter(move |carrier| carrier.carries(prefix)).map(|carrier| &carrier.name)
    }

    /// The edit with which a feed carries these prefixes (sorted, none twice) and nothing else. Once the edit is made,
    /// [`carry`](Self::carry) is due.
    pub fn exchange(&self, book: &Book, name: &FeedName, prefixes: &[IpNet], now: BootTime) -> Edit {
        let entry = entry_of(name, now);
        let before = self.prefixes(name);
        let new = missing(prefixes, before).filter(|prefix| book.get(*prefix).is_none());
        let is_its_own =
            |prefix: &IpNet| book.get(*prefix).is_some_and(|there| there.note.origin == entry.note.origin);
        let gone = missing(before, prefixes).filter(is_its_own);
        let gone = gone.map(|prefix| (prefix, self.entry(prefix, Some(name)).cloned()));
        Edit::new(new.map(|prefix| (prefix, Some(entry.clone()))).chain(gone).collect())
    }

    /// Notes what a feed carries from now on.
    pub fn carry(&mut self, name: &FeedName, prefixes: Vec<IpNet>, now: BootTime) {
        if let Some(carrier) = self.0.iter_mut().find(|carrier| carrier.name == *name) {
            carrier.entry = entry_of(name, now);
            carrier.prefixes = prefixes;
        }
    }

    /// This edit, but what it takes out falls back to a feed that carries it.
    pub fn fall_back(&self, edit: Edit) -> Edit {
        if self.is_empty() {
            return edit;
        }
        edit.or_put(|prefix| self.entry(prefix, None).cloned())
    }

    /// What of this edit is taken out although a feed carries it, as the edit that leaves it to the feed.
    pub fn handed_over(&self, edit: &Edit) -> Edit {
        let taken = edit.changes().iter().filter(|(_, entry)| entry.is_none());
        Edit::put(taken.filter_map(|(prefix, _)| Some((*prefix, self.entry(*prefix, None)?.clone()))))
    }

    /// The entry of the first feed, this one left out, that carries a prefix.
    fn entry(&self, prefix: IpNet, without: Option<&FeedName>) -> Option<&Entry> {
        let others = self.0.iter().filter(|carrier| Some(&carrier.name) != without);
        others.filter(|carrier| carrier.carries(prefix)).map(|carrier| &carrier.entry).next()
    }
}

fn entry_of(name: &FeedName, added: BootTime) -> Entry {
    let note = Note { origin: Origin::Feed(name.clone()), reason: None, added, added_by: None };
    Entry { expires: None, note: Arc::new(note) }
}

/// What is in `these` and not in `those`; both are sorted.
fn missing<'a>(these: &'a [IpNet], those: &'a [IpNet]) -> impl Iterator<Item = IpNet> + 'a {
    let mut those = those.iter().peekable();
    these.iter().copied().filter(move |prefix| {
        while those.next_if(|other| *other < prefix).is_some() {}
        those.peek() != Some(&prefix)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct List {
        book: Book,
        carriers: Carriers,
    }

    impl List {
        fn of_feeds(names: &[&str]) -> Self {
            let mut carriers = Carriers::default();
            carriers.order(&names.iter().map(|name| self::name(name)).collect::<Vec<_>>());
            Self { book: Book::default(), carriers }
        }

        fn exchange(&mut self, feed: &str, prefixes: &[&str]) {
            let mut prefixes: Vec<IpNet> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
            prefixes.sort();
            let edit = self.carriers.exchange(&self.book, &name(feed), &prefixes, BootTime::START);
            self.book.swap(edit);
            self.carriers.carry(&name(feed), prefixes, BootTime::START);
        }

        fn add(&mut self, prefix: &str) {
            self.book.swap(Edit::put([(prefix.parse().unwrap(), by_hand(None))]));
        }

        fn take(&mut self, prefix: &str) {
            let edit = self.carriers.fall_back(Edit::take([prefix.parse().unwrap()]));
            self.book.swap(edit);
        }

        fn shown(&self) -> Vec<String> {
            let entry = |(prefix, entry): (IpNet, &Entry)| match &entry.note.origin {
                Origin::Feed(name) => format!("{prefix} {name}"),
                _ => format!("{prefix} by hand"),
            };
            self.book.iter().map(entry).collect()
        }
    }

    fn name(text: &str) -> FeedName {
        text.parse().unwrap()
    }

    fn by_hand(expires: Option<BootTime>) -> Entry {
        let note = Note { origin: Origin::Operator, reason: None, added: BootTime::START, added_by: None };
        Entry { expires, note: Arc::new(note) }
    }

    const A: &str = "192.0.2.1/32";
    const B: &str = "198.51.100.0/24";
    const C: &str = "2001:db8::/32";

    #[test]
    fn an_entry_of_two_feeds_stays_until_both_have_lost_it() {
        let mut list = List::of_feeds(&["one", "two"]);
        list.exchange("two", &[A, B]);
        list.exchange("one", &[A, C]);
        assert_eq!(list.shown(), [format!("{A} two"), format!("{B} two"), format!("{C} one")]);
        assert_eq!(list.carriers.of(A.parse().unwrap()).collect::<Vec<_>>(), [&name("one"), &name("two")]);
        list.exchange("two", &[]);
        assert_eq!(list.shown(), [format!("{A} one"), format!("{C} one")]);
        list.exchange("one", &[C]);
        assert_eq!(list.shown(), [format!("{C} one")]);
        list.exchange("one", &[]);
        assert_eq!(list.shown(), [""; 0]);
        assert_eq!(list.book, Book::default());
    }

    #[test]
    fn what_was_added_by_hand_is_not_the_feeds() {
        let mut list = List::of_feeds(&["one"]);
        list.add(A);
        list.exchange("one", &[A, B]);
        assert_eq!(list.shown(), [format!("{A} by hand"), format!("{B} one")]);
        list.exchange("one", &[]);
        assert_eq!(list.shown(), [format!("{A} by hand")]);
    }

    #[test]
    fn what_is_taken_out_by_hand_falls_back_to_the_feed() {
        let mut list = List::of_feeds(&["one", "two"]);
        list.exchange("two", &[A]);
        list.add(A);
        assert_eq!(list.shown(), [format!("{A} by hand")]);
        list.take(A);
        assert_eq!(list.shown(), [format!("{A} two")]);
        list.take(A);
        assert_eq!(list.shown(), [format!("{A} two")]);
    }

    #[test]
    fn what_ends_soon_is_handed_over_only_if_a_feed_carries_it() {
        let mut list = List::of_feeds(&["one"]);
        list.exchange("one", &[A]);
        let end = BootTime::START + Duration::from_secs(9);
        list.book.swap(Edit::put([A, B].map(|prefix| (prefix.parse().unwrap(), by_hand(Some(end))))));
        let edit = list.carriers.handed_over(&list.book.expired(end));
        list.book.swap(edit);
        assert_eq!(list.shown(), [format!("{A} one"), format!("{B} by hand")]);
        assert_eq!(list.book.expired(end), Edit::take([B.parse().unwrap()]));
    }

    #[test]
    fn feeds_keep_what_they_carry_when_their_order_changes() {
        let mut list = List::of_feeds(&["one", "two"]);
        list.exchange("one", &[A]);
        list.carriers.order(&[name("three"), name("two"), name("one")]);
        assert_eq!(list.carriers.prefixes(&name("one")), [A.parse::<IpNet>().unwrap()]);
        list.carriers.order(&[name("two")]);
        assert!(list.carriers.is_empty());
    }
}
