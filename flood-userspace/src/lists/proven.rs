//! What the kernel has to know of the allow-proven list: a trie of prefixes, each with the latest expiry of all
//! entries that cover it. The kernel finds only the longest prefix, so that one has to represent all of them.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Book, Edit, tables::Moment};

/// Returns until when prefixes are on the list, on the filter's clock, nanoseconds; none for a prefix that is no
/// longer an entry. The book is in the state after the edit that `undo` undoes.
pub fn changes(book: &Book, undo: &Edit, moment: &Moment) -> BTreeMap<IpNet, Option<u64>> {
    let concerned = undo
        .prefixes()
        .flat_map(|prefix| book.within(prefix).map(|(within, _)| within).chain([prefix]).collect::<Vec<_>>());
    let until = |prefix: IpNet| {
        let is_entry = book.get(prefix).is_some();
        let ends = book.cover(prefix).map(|(_, entry)| moment.end_ns(entry.expires));
        if is_entry { ends.max() } else { None }
    };
    concerned.map(|prefix| (prefix, until(prefix))).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        boot_time::BootTime,
        lists::{Entry, Note, Origin},
    };

    const SECOND_NS: u64 = 1_000_000_000;

    #[test]
    fn each_prefix_has_the_end_of_the_last_entry_that_covers_it() {
        let moment = Moment { now: BootTime::START, filter_ns: 7 * SECOND_NS };
        let prefix = |text: &str| -> IpNet { text.parse().unwrap() };
        let put = |text: &str, seconds: Option<u64>| {
            let note =
                Note { origin: Origin::Operator.into(), reason: None, added: moment.now, added_by: None };
            let expires = seconds.map(|seconds| moment.now + Duration::from_secs(seconds));
            Edit::put([(prefix(text), Entry { expires, note: Arc::new(note) })])
        };
        let mut book = Book::default();
        let mut edit = |edit: Edit| {
            let undo = book.swap(edit);
            changes(&book, &undo, &moment)
                .into_iter()
                .map(|(at, end)| (at.to_string(), end))
                .collect::<Vec<_>>()
        };
        let (broad, narrow) = ("2001:db8::/32".to_owned(), "2001:db8:7::/48".to_owned());
        assert_eq!(edit(put(&narrow, Some(5))), [(narrow.clone(), Some(12 * SECOND_NS))]);
        assert_eq!(
            edit(put(&broad, None)),
            [(broad.clone(), Some(u64::MAX)), (narrow.clone(), Some(u64::MAX))],
            "the broader one lasts longer"
        );
        assert_eq!(
            edit(put(&broad, Some(3))),
            [(broad.clone(), Some(10 * SECOND_NS)), (narrow.clone(), Some(12 * SECOND_NS))]
        );
        assert_eq!(
            edit(Edit::take([prefix(&broad)])),
            [(broad, None), (narrow, Some(12 * SECOND_NS))],
            "what lies within stays"
        );
    }
}
