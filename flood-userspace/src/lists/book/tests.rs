use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn entry(prefix: &str, expires: Option<u64>) -> Entry {
    Entry {
        prefix: prefix.parse().unwrap(),
        origin: Origin::Operator,
        reason: None,
        added: at(0),
        added_by: None,
        expires: expires.map(at),
    }
}

fn set(prefix: &str, expires: Option<u64>) -> Change {
    Change::Set { prefix: prefix.parse().unwrap(), expires: expires.map(at) }
}

fn unset(prefix: &str) -> Change {
    Change::Unset { prefix: prefix.parse().unwrap() }
}

#[test]
fn an_entry_inside_a_longer_lived_one_lives_as_long() {
    let mut book = Book::default();
    assert_eq!(book.insert(entry("192.0.2.0/24", None)), [set("192.0.2.0/24", None)]);
    assert_eq!(book.insert(entry("192.0.2.7/32", Some(10))), [set("192.0.2.7/32", None)]);
    assert_eq!(
        book.remove("192.0.2.0/24".parse().unwrap()),
        [set("192.0.2.7/32", Some(10)), unset("192.0.2.0/24")]
    );
}

#[test]
fn a_broad_entry_lengthens_those_below_and_shortens_none() {
    let mut book = Book::default();
    book.insert_all(vec![
        entry("2001:db8:1::/48", Some(10)),
        entry("2001:db8:2::/48", Some(90)),
        entry("2001:db8:1:1::/64", Some(90)),
    ]);
    assert_eq!(
        book.insert(entry("2001:db8::/32", Some(50))),
        [set("2001:db8::/32", Some(50)), set("2001:db8:1::/48", Some(50)),]
    );
}

#[test]
fn what_was_said_last_about_a_prefix_holds() {
    let mut book = Book::default();
    book.insert(entry("192.0.2.0/24", None));
    let shorter = Entry { reason: Some("only a scan".to_owned()), ..entry("192.0.2.7/24", Some(10)) };
    assert_eq!(book.insert(shorter), [set("192.0.2.0/24", Some(10))]);
    assert_eq!(book.len_ipv4(), 1);
    let held = book.get("192.0.2.0/24".parse().unwrap()).unwrap();
    assert_eq!((held.expires, held.reason.as_deref()), (Some(at(10)), Some("only a scan")));
}

#[test]
fn what_is_said_last_holds_within_a_batch_too() {
    let mut book = Book::default();
    book.insert_all(vec![entry("192.0.2.9/24", None), entry("192.0.2.1/24", Some(10))]);
    assert_eq!(book.get("192.0.2.0/24".parse().unwrap()).unwrap().expires, Some(at(10)));
}

#[test]
fn a_new_reason_alone_changes_nothing_for_the_kernel() {
    let mut book = Book::default();
    book.insert(entry("192.0.2.0/24", None));
    let reworded = Entry { reason: Some("scanner".to_owned()), ..entry("192.0.2.0/24", None) };
    assert_eq!(book.insert(reworded), []);
}

#[test]
fn removing_what_is_not_there_changes_nothing() {
    let mut book = Book::default();
    book.insert(entry("192.0.2.0/24", None));
    assert_eq!(book.remove("192.0.2.0/25".parse().unwrap()), []);
}

#[test]
fn an_entry_ends_at_its_expiry_and_not_before() {
    let mut book = Book::default();
    book.insert_all(vec![entry("192.0.2.1/32", Some(10)), entry("192.0.2.2/32", Some(20))]);
    assert_eq!(book.next_expiry(), Some(at(10)));
    assert_eq!(book.expire(at(9)), []);
    assert_eq!(book.expire(at(10)), [unset("192.0.2.1/32")]);
    assert_eq!(book.next_expiry(), Some(at(20)));
    book.insert(entry("192.0.2.2/32", None));
    assert_eq!(book.next_expiry(), None);
}

#[test]
fn a_batch_tells_the_kernel_about_each_prefix_once() {
    let mut book = Book::default();
    let changes = book.insert_all(vec![entry("192.0.2.7/32", Some(10)), entry("192.0.2.0/24", Some(20))]);
    assert_eq!(changes, [set("192.0.2.0/24", Some(20)), set("192.0.2.7/32", Some(20))]);
}

#[test]
fn cover_and_iteration_are_broadest_first() {
    let mut book = Book::default();
    let prefixes = ["192.0.2.0/24", "192.0.2.0/25", "192.0.2.200/32", "2001:db8::/32"];
    book.insert_all(prefixes.iter().rev().map(|prefix| entry(prefix, None)).collect());

    let all: Vec<_> = book.iter().map(|entry| entry.prefix.to_string()).collect();
    assert_eq!(all, prefixes);
    assert_eq!((book.len_ipv4(), book.len_ipv6()), (3, 1));

    let covering: Vec<_> =
        book.cover("::ffff:192.0.2.7".parse().unwrap()).map(|e| e.prefix.to_string()).collect();
    assert_eq!(covering, ["192.0.2.0/24", "192.0.2.0/25"]);
}

/// The kernel's side: only the longest match counts.
#[derive(Default)]
struct Trie(BTreeMap<IpNet, Option<SystemTime>>);

impl Trie {
    /// Applies changes, of which each must change something.
    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Set { prefix, expires } => {
                    assert_ne!(
                        self.0.insert(prefix, expires),
                        Some(expires),
                        "{prefix} was already set to that"
                    );
                }
                Change::Unset { prefix } => assert!(self.0.remove(&prefix).is_some(), "{prefix} was not set"),
            }
        }
    }

    fn matches(&self, address: IpAddr, now: SystemTime) -> bool {
        let covering = self.0.iter().filter(|(prefix, _)| prefix.contains(&address));
        let longest = covering.max_by_key(|(prefix, _)| prefix.prefix_len());
        longest.is_some_and(|(_, expires)| applies(*expires, now))
    }
}

fn applies(expires: Option<SystemTime>, now: SystemTime) -> bool {
    expires.is_none_or(|expires| now < expires)
}

#[derive(Debug, Clone)]
enum Action {
    Insert(Vec<Entry>),
    Remove(IpNet),
    Expire(SystemTime),
}

/// Times of the test are below this, in seconds.
const HORIZON: u64 = 8;

/// Prefixes within 192.0.2.0/28 and 2001:db8::/124, so that they nest and meet often.
fn any_prefix() -> impl Strategy<Value = IpNet> {
    (any::<bool>(), 0_u8..16, 0_u8..=4).prop_map(|(ipv4, host, shorter)| {
        let base: IpNet = if ipv4 { "192.0.2.0/32" } else { "2001:db8::/128" }.parse().unwrap();
        let address = nth_address(base.addr(), host);
        IpNet::new(address, base.max_prefix_len() - shorter).unwrap().trunc()
    })
}

fn nth_address(base: IpAddr, n: u8) -> IpAddr {
    match base {
        IpAddr::V4(base) => IpAddr::V4((u32::from(base) + u32::from(n)).into()),
        IpAddr::V6(base) => IpAddr::V6((u128::from(base) + u128::from(n)).into()),
    }
}

fn any_entry() -> impl Strategy<Value = Entry> {
    (any_prefix(), proptest::option::of(0..HORIZON))
        .prop_map(|(prefix, expires)| Entry { prefix, ..entry("192.0.2.0/24", expires) })
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => any_entry().prop_map(|entry| Action::Insert(vec![entry])),
        1 => proptest::collection::vec(any_entry(), 0..6).prop_map(Action::Insert),
        2 => any_prefix().prop_map(Action::Remove),
        1 => (0..HORIZON).prop_map(|seconds| Action::Expire(at(seconds))),
    ]
}

proptest! {
    #[test]
    fn the_kernel_answers_as_a_scan_over_all_entries_would(
        actions in proptest::collection::vec(any_action(), 1..40),
    ) {
        let (mut book, mut trie) = (Book::default(), Trie::default());
        let mut model: BTreeMap<IpNet, Option<SystemTime>> = BTreeMap::new();
        let mut now = at(0);
        for action in actions {
            match action {
                Action::Insert(entries) => {
                    model.extend(entries.iter().map(|entry| (entry.prefix, entry.expires)));
                    match <[Entry; 1]>::try_from(entries) {
                        Ok([entry]) => trie.apply(book.insert(entry)),
                        Err(entries) => trie.apply(book.insert_all(entries)),
                    }
                }
                Action::Remove(prefix) => {
                    model.remove(&prefix);
                    trie.apply(book.remove(prefix));
                }
                Action::Expire(at) => {
                    now = now.max(at);
                    model.retain(|_, expires| applies(*expires, now));
                    trie.apply(book.expire(now));
                }
            }
            prop_assert_eq!(book.next_expiry(), model.values().copied().flatten().min());
            prop_assert_eq!(book.iter().count(), model.len());
            for base in ["192.0.2.0", "2001:db8::"] {
                for n in 0..16 {
                    let address = nth_address(base.parse().unwrap(), n);
                    for time in (0..=HORIZON).map(at).filter(|time| *time >= now) {
                        let mut covering = model.iter().filter(|(prefix, _)| prefix.contains(&address));
                        let scan = covering.any(|(_, expires)| applies(*expires, time));
                        prop_assert_eq!(trie.matches(address, time), scan, "{} at {:?}", address, time);
                    }
                }
            }
        }
    }
}
