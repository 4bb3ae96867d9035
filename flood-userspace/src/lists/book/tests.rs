use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> BootTime {
    BootTime::START + Duration::from_secs(seconds)
}

fn note(origin: Origin) -> Arc<Note> {
    Arc::new(Note { origin: Arc::new(origin), reason: None, added: at(0), added_by: None })
}

fn entry(expires: Option<u64>) -> Entry {
    Entry { expires: expires.map(at), note: note(Origin::Operator) }
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn put(entries: &[(&str, Option<u64>)]) -> Edit {
    Edit::put(entries.iter().map(|(text, expires)| (prefix(text), entry(*expires))))
}

fn take(prefixes: &[&str]) -> Edit {
    Edit::take(prefixes.iter().map(|text| prefix(text)))
}

fn names<'a>(entries: impl Iterator<Item = (IpNet, &'a Entry)>) -> Vec<String> {
    entries.map(|(prefix, _)| prefix.to_string()).collect()
}

#[test]
fn what_an_origin_said_last_about_a_prefix_holds() {
    let mut book = Book::default();
    book.swap(put(&[("192.0.2.9/24", None), ("192.0.2.1/24", Some(10))]));
    assert_eq!(book.get(prefix("192.0.2.0/24")), Some(&entry(Some(10))), "within an edit");
    book.swap(put(&[("192.0.2.7/24", None)]));
    assert_eq!(book.get(prefix("192.0.2.0/24")), Some(&entry(None)), "and afterwards");
    assert_eq!((book.len_ipv4(), book.next_expiry()), (1, None));
}

#[test]
fn an_edit_gives_back_what_was_there() {
    let mut book = Book::default();
    book.swap(put(&[("192.0.2.0/24", Some(10))]));
    let undo = book.swap(put(&[("192.0.2.0/24", None), ("2001:db8::/32", None)]));
    let nothing = || Change::Take(Arc::new(Origin::Operator));
    let before =
        [(prefix("192.0.2.0/24"), Change::Put(entry(Some(10)))), (prefix("2001:db8::/32"), nothing())];
    assert_eq!(undo.changes(), before);
    assert_eq!(book.swap(take(&["192.0.2.0/25"])).changes(), [(prefix("192.0.2.0/25"), nothing())]);
}

#[test]
fn an_entry_ends_at_its_expiry_and_not_before() {
    let mut book = Book::default();
    book.swap(put(&[("192.0.2.1/32", Some(10)), ("192.0.2.2/32", Some(20))]));
    assert_eq!(book.next_expiry(), Some(at(10)));
    assert!(book.expired(at(9)).is_empty());
    let expired = book.expired(at(10));
    assert_eq!(expired, take(&["192.0.2.1/32"]));
    book.swap(expired);
    assert_eq!(book.next_expiry(), Some(at(20)));
    book.swap(put(&[("192.0.2.2/32", None)]));
    assert_eq!(book.next_expiry(), None);
}

fn of(origin: &Origin, expires: Option<u64>) -> Entry {
    Entry { note: note(origin.clone()), ..entry(expires) }
}

fn origins(book: &Book, text: &str) -> Vec<String> {
    book.holders(prefix(text)).map(|entry| entry.note.origin.to_string()).collect()
}

#[test]
fn a_prefix_is_on_the_list_while_anybody_holds_it() {
    const PREFIX: &str = "192.0.2.0/24";
    let import = Arc::new(Origin::Import("drop".into()));
    let mut book = Book::default();
    book.swap(put(&[(PREFIX, None)]));
    book.swap(Edit::put([(prefix(PREFIX), of(&import, Some(20)))]));
    book.swap(Edit::put([(prefix(PREFIX), of(&Origin::Config, Some(10)))]));
    assert_eq!(origins(&book, PREFIX), ["operator", "import drop", "config"], "what ends last is the first");
    assert_eq!(book.len_ipv4(), 1);
    let undo = book.swap(take(&[PREFIX]));
    assert_eq!(origins(&book, PREFIX), ["import drop", "config"]);
    assert_eq!(book.get(prefix(PREFIX)).unwrap().expires, Some(at(20)));
    assert_eq!(book.expired(at(10)), Edit::take_from([prefix(PREFIX)], &Arc::new(Origin::Config)));
    book.swap(book.expired(at(10)));
    assert_eq!(origins(&book, PREFIX), ["import drop"]);
    book.swap(undo);
    assert_eq!(origins(&book, PREFIX), ["operator", "import drop"]);
    book.swap(book.expired(at(20)));
    assert_eq!(origins(&book, PREFIX), ["operator"]);
    assert_eq!(book.swap(Edit::take_from([prefix(PREFIX)], &import)).changes().len(), 1, "nothing to take");
    book.swap(take(&[PREFIX]));
    assert_eq!(book, Book::default());
}

#[test]
fn entries_that_end_together_are_forgotten_one_by_one() {
    let mut book = Book::default();
    let both =
        [&Origin::Operator, &Origin::Config].map(|origin| (prefix("192.0.2.1/32"), of(origin, Some(10))));
    book.swap(Edit::put(both));
    book.swap(take(&["192.0.2.1/32"]));
    assert_eq!(book.next_expiry(), Some(at(10)));
    book.swap(book.expired(at(10)));
    assert_eq!(book, Book::default());
}

#[test]
fn an_origin_is_exchanged_and_what_others_said_stays() {
    let file = Origin::File("drop.txt".into());
    let mut book = Book::default();
    book.swap(put(&[("192.0.2.0/24", None), ("203.0.113.0/24", None)]));
    let exchange = |book: &mut Book, list: &[&str]| {
        let prefixes: Vec<IpNet> = list.iter().map(|text| prefix(text)).collect();
        let edit = book.exchange(&prefixes, &of(&file, None));
        book.swap(edit).changes().len()
    };
    assert_eq!(exchange(&mut book, &["198.51.100.0/24", "203.0.113.0/24"]), 2);
    assert_eq!(exchange(&mut book, &["203.0.113.0/24", "2001:db8::/32"]), 2);
    assert_eq!(exchange(&mut book, &["203.0.113.0/24", "2001:db8::/32"]), 0);
    assert_eq!(names(book.iter()), ["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"]);
    assert_eq!(book.of(&file).collect::<Vec<_>>(), ["203.0.113.0/24", "2001:db8::/32"].map(prefix));
    assert_eq!(exchange(&mut book, &[]), 2);
    assert_eq!(names(book.iter()), ["192.0.2.0/24", "203.0.113.0/24"]);
    book.swap(take(&["192.0.2.0/24", "203.0.113.0/24"]));
    assert_eq!(book, Book::default());
}

#[test]
fn an_empty_book_is_filled_as_one_that_grows() {
    let prefixes = ["192.0.2.0/24", "192.0.2.1/32", "2001:db8::/32"];
    let entries = [(Origin::Operator, Some(5)), (Origin::Config, None), (Origin::File("a".into()), Some(9))];
    let all: Vec<(IpNet, Entry)> = entries
        .iter()
        .zip(1..)
        .flat_map(|((origin, expires), count)| {
            prefixes[..count].iter().map(|text| (prefix(text), of(origin, *expires))).collect::<Vec<_>>()
        })
        .collect();
    let (mut filled, mut grown) = (Book::default(), Book::default());
    let undo = filled.swap(Edit::put(all.clone()));
    for (prefix, entry) in all {
        grown.swap(Edit::put([(prefix, entry)]));
    }
    assert_eq!(filled, grown);
    assert_eq!(filled.all().count(), 6);
    filled.swap(undo);
    assert_eq!(filled, Book::default());
}

#[test]
fn cover_within_and_iteration_are_broadest_first() {
    let mut book = Book::default();
    let prefixes = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.200/32", "2001:db8::/32"];
    book.swap(Edit::put(prefixes.iter().rev().map(|text| (prefix(text), entry(None)))));
    assert_eq!(names(book.iter()), prefixes);
    assert_eq!((book.len_ipv4(), book.len_ipv6()), (3, 1));
    assert_eq!(names(book.cover(prefix("192.0.2.7/32"))), ["192.0.2.0/24", "192.0.2.0/25"]);
    assert_eq!(names(book.within(prefix("192.0.2.128/25"))), ["192.0.2.200/32"]);
    assert_eq!(names(book.cover(prefix("192.0.3.7/32"))), [""; 0]);
}

#[test]
fn places_are_what_the_documentation_says() {
    let cases = [
        ("a painted prefix takes none", "192.0.2.0/24", (0, 0)),
        ("a /25 is its addresses", "192.0.2.0/25", (128, 0)),
        ("an address is one", "192.0.2.1/32", (1, 0)),
        ("an IPv6 prefix is one, whatever its length", "2001:db8::/33", (0, 1)),
        ("everything", "::/0", (0, 1)),
    ];
    for (why, text, (ipv4, ipv6)) in cases {
        assert_eq!(Places::of(prefix(text)), Places { ipv4, ipv6 }, "{why}");
    }
}

proptest! {
    #[test]
    fn a_book_says_what_a_plain_table_says(
        edits in proptest::collection::vec(
            proptest::collection::vec((0u32..8, 24u8..=32, 0usize..3, any::<bool>(), proptest::option::of(1u64..4)), 0..8),
            1..12,
        ),
    ) {
        let origins =
            [Origin::Operator, Origin::Config, Origin::Import("a".into())].map(Arc::new);
        let mut book = Book::default();
        let mut table: BTreeMap<(IpNet, Arc<Origin>), Option<BootTime>> = BTreeMap::new();
        for edit in edits {
            let before = book.clone();
            let mut changes = Vec::new();
            for (number, length, origin, is_put, expires) in edit {
                let prefix = IpNet::new_assert(IpAddr::V4(number.into()), length).trunc();
                let origin = &origins[origin];
                if is_put {
                    changes.push((prefix, Change::Put(of(origin, expires))));
                    table.insert((prefix, Arc::clone(origin)), expires.map(at));
                } else {
                    changes.push((prefix, Change::Take(Arc::clone(origin))));
                    table.remove(&(prefix, Arc::clone(origin)));
                }
            }
            let edit = Edit::new(changes);
            let (foretold, prefixes) = (book.places_after(&edit), book.len_after(&edit));
            let undo = book.swap(edit);
            prop_assert_eq!(book.places(), foretold);
            prop_assert_eq!(book.iter().count(), prefixes);
            let sum = book.iter().map(|(prefix, _)| Places::of(prefix)).fold(Places::default(), Places::plus);
            prop_assert_eq!(book.places(), sum);
            let all = book.all().map(|(prefix, entry)| ((prefix, Arc::clone(&entry.note.origin)), entry.expires));
            prop_assert_eq!(all.collect::<BTreeMap<_, _>>(), table.clone());
            let first = book.all().find(|(prefix, entry)| book.get(*prefix).is_some_and(|first| entry.outlasts(first)));
            prop_assert!(first.is_none(), "{:?}", first);
            let soonest = table.values().copied().flatten().min();
            prop_assert_eq!(book.next_expiry(), soonest);
            for (prefix, entry) in undo.before(&book, prefix("0.0.0.0/0")) {
                prop_assert_eq!(entry, before.get(prefix));
            }
            let mut undone = book.clone();
            undone.swap(undo);
            prop_assert_eq!(undone, before);
        }
    }
}
