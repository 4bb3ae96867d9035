use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> BootTime {
    BootTime::START + Duration::from_secs(seconds)
}

fn note(origin: Origin) -> Arc<Note> {
    Arc::new(Note { origin, reason: None, added: at(0), added_by: None })
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
fn what_was_said_last_about_a_prefix_holds() {
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
    let before = [(prefix("192.0.2.0/24"), Some(entry(Some(10)))), (prefix("2001:db8::/32"), None)];
    assert_eq!(undo.changes(), before);
    assert_eq!(book.swap(take(&["192.0.2.0/25"])).changes(), [(prefix("192.0.2.0/25"), None)]);
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

#[test]
fn a_file_that_is_read_again_is_exchanged_and_what_others_said_stays() {
    let of_file = Entry { note: note(Origin::File("drop.txt".into())), ..entry(None) };
    let mut book = Book::default();
    book.swap(put(&[("192.0.2.0/24", None)]));
    let first = ["198.51.100.0/24", "203.0.113.0/24"].map(prefix);
    let second = ["203.0.113.0/24", "2001:db8::/32"].map(prefix);
    for prefixes in [first, second] {
        let put = Edit::put(prefixes.map(|prefix| (prefix, of_file.clone())));
        book.swap(book.leaving(&of_file.note.origin).then(put));
    }
    assert_eq!(names(book.iter()), ["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"]);
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
    fn places_after_an_edit_are_known_before(
        edits in proptest::collection::vec(
            proptest::collection::vec((0u32..8, 24u8..=32, any::<bool>()), 0..8),
            1..12,
        ),
    ) {
        let mut book = Book::default();
        for edit in edits {
            let (more, less): (Vec<_>, Vec<_>) = edit.into_iter().partition(|(_, _, put)| *put);
            let prefix = |(number, length, _): (u32, u8, bool)| {
                IpNet::new_assert(IpAddr::V4(number.into()), length)
            };
            let put = Edit::put(more.into_iter().map(|each| (prefix(each), entry(None))));
            for edit in [put, Edit::take(less.into_iter().map(prefix))] {
                let foretold = book.places_after(&edit);
                book.swap(edit);
                prop_assert_eq!(book.places(), foretold);
                let sum = book.iter().map(|(prefix, _)| Places::of(prefix)).fold(Places::default(), Places::plus);
                prop_assert_eq!(book.places(), sum);
            }
        }
    }
}
