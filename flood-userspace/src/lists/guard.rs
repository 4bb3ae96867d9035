//! Protects what must not be blocked by mistake: the addresses without which this host, or its operator, is cut
//! off.
//!
//! Every way into the block list passes through one [`Guard`]. A typed entry is refused as a whole, with the
//! reason, unless the operator says `--force`. A file, a feed or an import has many lines that nobody typed: of
//! those, only what covers a lifeline is left out, as little as possible ([`Guard::sift`]), and the rest is in
//! force.
//!
//! The guard does not look at the lists: an allow entry may make a refused block harmless, and then `--force` is
//! the right answer.

mod carve;

use std::{
    collections::{BTreeMap, HashSet, btree_map},
    fmt,
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::host::{Lifeline, Purpose};

use super::{Book, Change, Edit, Entry, Origin};

/// The broadest IPv4 prefix that is accepted without question: /8 is the most that was ever assigned to one
/// holder.
const BROADEST_IPV4: u8 = 8;

/// The broadest IPv6 prefix accepted: regional registries hold /12 to /23, their members longer ones. Anything
/// broader is a typing error.
const BROADEST_IPV6: u8 = 16;

/// The broadest IPv4 prefix of a list that nobody typed. Country lists have aggregated prefixes up to /6, lists of
/// unassigned addresses 224.0.0.0/3.
const BROADEST_LISTED_IPV4: u8 = 3;

/// The broadest IPv6 prefix of such a list: lists of unassigned addresses have 4000::/3 and others.
const BROADEST_LISTED_IPV6: u8 = 3;

/// An entry that is not added without `--force`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The prefix covers more addresses than anyone intends.
    #[error(
        "{prefix} is refused, it covers more than a /{broadest}: check its length, or repeat with --force"
    )]
    TooBroad {
        /// The entry.
        prefix: IpNet,
        /// The broadest prefix length accepted without question.
        broadest: u8,
    },
    /// The block would end the operator's own session.
    #[error(
        "{prefix} is refused, it contains {address}, from which you are logged in: \
         put that on the allow list first, and then repeat with --force"
    )]
    CutsOffLogin {
        /// The entry.
        prefix: IpNet,
        /// The address the operator is logged in from.
        address: IpAddr,
    },
    /// The block would cut the host off.
    #[error("{prefix} is refused because of {lifeline}: name a narrower prefix, or repeat with --force")]
    CutsOffHost {
        /// The entry.
        prefix: IpNet,
        /// What this host needs there.
        lifeline: Lifeline,
    },
}

/// A prefix of a list that is not in force as written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Withheld {
    /// The prefix as written.
    pub prefix: IpNet,
    /// What remains of it, which is in force.
    pub pieces: Vec<IpNet>,
    /// Why: the broadest of the lifelines that it would harm.
    pub lifeline: Lifeline,
    /// Number of other such lifelines, not counting those that lie within another.
    pub more: usize,
}

impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.pieces.is_empty() { "is left out because of" } else { "is in force but for" };
        write!(f, "{} {how} {}", self.prefix, self.lifeline)?;
        if self.more > 0 { write!(f, ", and {} more", self.more) } else { Ok(()) }
    }
}

/// Knows what must not be blocked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guard {
    lifelines: Vec<Lifeline>,
    /// Addresses of the lifelines, IPv4 and IPv6: first and last, sorted, without overlaps.
    ranges: [Vec<(u128, u128)>; 2],
}

impl Guard {
    /// Returns the lifelines.
    pub fn lifelines(&self) -> &[Lifeline] {
        &self.lifelines
    }

    /// Creates a guard for these lifelines.
    pub fn new(lifelines: Vec<Lifeline>) -> Self {
        let ranges = [4, 6].map(|version| carve::ranges(&lifelines, version));
        Self { lifelines, ranges }
    }

    /// Checks whether a typed prefix may go on the block list. `logged_in_from` is the operator's address, if
    /// known.
    pub fn check_block(&self, prefix: IpNet, logged_in_from: Option<IpAddr>) -> Result<(), Refusal> {
        check_typed(prefix)?;
        if let Some(address) = logged_in_from.map(|address| address.to_canonical())
            && prefix.contains(&address)
        {
            return Err(Refusal::CutsOffLogin { prefix, address });
        }
        // SSH attackers also have connections, and operators and tools block them.
        match self.harmed(prefix).find(|lifeline| lifeline.purpose != Purpose::Connection) {
            Some(lifeline) => Err(Refusal::CutsOffHost { prefix, lifeline: lifeline.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the lifelines that a block of this prefix would harm.
    fn harmed(&self, prefix: IpNet) -> impl Iterator<Item = &Lifeline> {
        let lifelines = if carve::touches(&self.ranges, prefix) { self.lifelines.as_slice() } else { &[] };
        lifelines.iter().filter(move |lifeline| {
            // A single host in a network may be an attacker; all of its hosts are not.
            let is_harmed =
                lifeline.purpose != Purpose::Network || prefix.prefix_len() < prefix.max_prefix_len();
            is_harmed && (prefix.contains(&lifeline.prefix) || lifeline.prefix.contains(&prefix))
        })
    }

    /// Returns what is withheld of a prefix, if anything.
    pub fn withhold(&self, prefix: IpNet) -> Option<Withheld> {
        let mut harmed: Vec<&Lifeline> = self.harmed(prefix).collect();
        harmed.sort_by_key(|lifeline| lifeline.prefix.prefix_len());
        let mut holes: Vec<IpNet> = Vec::new();
        for Lifeline { prefix, .. } in &harmed {
            if !holes.iter().any(|hole| hole.contains(prefix)) {
                holes.push(*prefix);
            }
        }
        let (lifeline, more) = ((*harmed.first()?).clone(), holes.len() - 1);
        Some(Withheld { prefix, pieces: carve::without(prefix, &holes), lifeline, more })
    }

    /// Reduces these prefixes to what may be blocked, in no particular order; returns what is withheld.
    pub fn sift(&self, prefixes: &mut Vec<IpNet>) -> Vec<Withheld> {
        let mut withheld = Vec::new();
        prefixes.retain(|prefix| {
            let held = self.withhold(*prefix);
            let stays = held.is_none();
            withheld.extend(held);
            stays
        });
        prefixes.extend(withheld.iter().flat_map(|held| &held.pieces));
        withheld
    }

    /// Returns the entries in a book that harm a lifeline and whose origin `is_guarded`.
    pub fn harmful<'a>(
        &'a self,
        book: &'a Book,
        is_guarded: impl Fn(&Origin) -> bool + 'a,
    ) -> impl Iterator<Item = (IpNet, &'a Entry)> {
        let around = self.lifelines.iter().flat_map(|lifeline| {
            book.cover(lifeline.prefix).chain(book.within(lifeline.prefix)).map(|(prefix, _)| prefix)
        });
        let mut around: Vec<IpNet> = around.filter(|prefix| self.harmed(*prefix).next().is_some()).collect();
        around.sort_unstable();
        around.dedup();
        around
            .into_iter()
            .flat_map(|prefix| book.holders(prefix).map(move |entry| (prefix, entry)))
            .filter(move |(_, entry)| is_guarded(&entry.note.origin))
    }
}

/// Refuses a prefix that is so short that nobody types it on purpose.
pub fn check_typed(prefix: IpNet) -> Result<(), Refusal> {
    let broadest = if matches!(prefix, IpNet::V4(_)) { BROADEST_IPV4 } else { BROADEST_IPV6 };
    check_breadth(prefix, broadest)
}

/// Refuses a prefix that is so short that no list has it.
pub fn check_listed(prefix: IpNet) -> Result<(), Refusal> {
    check_breadth(prefix, broadest_listed(&prefix))
}

/// Returns the shortest prefix length that a list may have in this address family.
pub fn broadest_listed(prefix: &IpNet) -> u8 {
    if matches!(prefix, IpNet::V4(_)) { BROADEST_LISTED_IPV4 } else { BROADEST_LISTED_IPV6 }
}

fn check_breadth(prefix: IpNet, broadest: u8) -> Result<(), Refusal> {
    if prefix.prefix_len() < broadest { Err(Refusal::TooBroad { prefix, broadest }) } else { Ok(()) }
}

/// What is withheld of an origin's entries. An empty one means that the origin is guarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withholding {
    /// The origin of the entries.
    pub origin: Arc<Origin>,
    /// Sorted by prefix, each prefix once.
    pub held: Vec<Held>,
}

/// What is withheld of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What is withheld, and what remains.
    pub withheld: Withheld,
    /// The entry itself; the pieces are in force with it.
    pub entry: Entry,
}

impl Withholding {
    /// Returns what is withheld of prefixes that all have this entry.
    pub fn of(withheld: Vec<Withheld>, entry: &Entry) -> Self {
        let nothing = Self { origin: Arc::clone(&entry.note.origin), held: Vec::new() };
        nothing.and(withheld.into_iter().map(|withheld| Held { withheld, entry: entry.clone() }))
    }

    /// Adds what is withheld of more entries of the origin. Of two for one prefix the one that expires later
    /// counts; if they expire together, the new one.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = Held>) -> Self {
        let mut all: BTreeMap<IpNet, Held> =
            self.held.into_iter().map(|held| (held.withheld.prefix, held)).collect();
        for held in more {
            match all.entry(held.withheld.prefix) {
                btree_map::Entry::Occupied(there) if there.get().entry.outlasts(&held.entry) => {}
                btree_map::Entry::Occupied(mut there) => _ = there.insert(held),
                btree_map::Entry::Vacant(place) => _ = place.insert(held),
            }
        }
        Self { origin: self.origin, held: all.into_values().collect() }
    }

    /// Returns what is withheld.
    pub fn withheld(&self) -> impl Iterator<Item = &Withheld> {
        self.held.iter().map(|held| &held.withheld)
    }

    /// Returns how many entries the origin has, including those in force in pieces and those left out.
    pub fn entries(&self, book: &Book) -> usize {
        let pieces: HashSet<IpNet> = self.withheld().flat_map(|held| &held.pieces).copied().collect();
        book.of(&self.origin).filter(|prefix| !pieces.contains(prefix)).count() + self.held.len()
    }

    /// Applies another guard to the origin's entries. Returns the changes of the book, and what is withheld
    /// afterwards.
    pub fn again(&self, guard: &Guard, book: &Book) -> (Vec<(IpNet, Change)>, Self) {
        let take = |prefix: IpNet| (prefix, Change::Take(Arc::clone(&self.origin)));
        let (mut changes, mut again) = (Vec::new(), Vec::new());
        for Held { withheld: Withheld { prefix, pieces, .. }, entry } in &self.held {
            changes.extend(pieces.iter().copied().map(take));
            match guard.withhold(*prefix) {
                Some(withheld) => again.push(Held { withheld, entry: entry.clone() }),
                None => changes.push((*prefix, Change::Put(entry.clone()))),
            }
        }
        let pieces: HashSet<IpNet> = self.withheld().flat_map(|held| &held.pieces).copied().collect();
        let harmful = guard.harmful(book, |of| *of == *self.origin);
        for (prefix, entry) in harmful.filter(|(prefix, _)| !pieces.contains(prefix)) {
            changes.push(take(prefix));
            let withheld = guard.withhold(prefix);
            again.extend(withheld.map(|withheld| Held { withheld, entry: entry.clone() }));
        }
        let again = Self { origin: Arc::clone(&self.origin), held: Vec::new() }.and(again);
        // One prefix's piece may also be a piece of another, so put the pieces in last.
        for Held { withheld, entry } in &again.held {
            changes.extend(withheld.pieces.iter().map(|piece| (*piece, Change::Put(entry.clone()))));
        }
        (changes, again)
    }

    /// Withholds these prefixes entirely, when there is no room for their pieces. Returns the edit that takes out
    /// the pieces that were in force `before`, and the whole prefixes.
    pub fn give_up(&mut self, before: &Self) -> Edit {
        let now: HashSet<IpNet> = self.withheld().map(|held| held.prefix).collect();
        let pieces =
            before.withheld().filter(|held| now.contains(&held.prefix)).flat_map(|held| &held.pieces);
        let edit = Edit::take_from(pieces.copied().chain(now.iter().copied()), &self.origin);
        for held in &mut self.held {
            held.withheld.pieces.clear();
        }
        edit
    }
}

#[cfg(test)]
mod tests {
    use crate::boot_time::BootTime;

    use super::*;

    /// Address of the operator in these tests (RFC 5737, TEST-NET-2).
    const OPERATOR: &str = "198.51.100.7";

    fn prefixes(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn guard(lifelines: &[(&str, Purpose)]) -> Guard {
        let lifeline = |(prefix, purpose): &(&str, Purpose)| Lifeline::new(prefix.parse().unwrap(), *purpose);
        Guard::new(lifelines.iter().map(lifeline).collect())
    }

    fn usual() -> Guard {
        guard(&[
            ("192.0.2.1/32", Purpose::Address),
            ("192.0.2.0/24", Purpose::Network),
            ("192.0.2.254/32", Purpose::Gateway),
            ("203.0.113.53/32", Purpose::Resolver),
            ("fe80::/10", Purpose::LinkLocal),
            ("2001:db8:1::/64", Purpose::Network),
        ])
    }

    #[test]
    fn a_typed_block_is_refused_when_too_broad_or_around_what_the_host_needs() {
        let cases = [
            ("a network elsewhere", "198.18.0.0/24", None),
            ("everything", "0.0.0.0/0", Some("more than a /8")),
            ("half of a slip", "203.0.0.0/7", Some("more than a /8")),
            ("as broad as can be meant", "10.0.0.0/8", None),
            ("all of IPv6", "::/0", Some("more than a /16")),
            ("broad IPv6", "2001::/15", Some("more than a /16")),
            ("the operator's network", "198.51.100.0/24", Some("you are logged in")),
            ("the operator", "198.51.100.7/32", Some("you are logged in")),
            ("the operator's neighbour", "198.51.100.8/32", None),
            ("the host", "192.0.2.1/32", Some("this host's own address")),
            ("its network", "192.0.0.0/16", Some("192.0.2.1/32")),
            ("a half of its network without its addresses", "192.0.2.64/26", Some("192.0.2.0/24")),
            ("a neighbour in its network", "192.0.2.77/32", None),
            ("the gateway", "192.0.2.254/32", Some("a gateway")),
            ("a network with the resolver", "203.0.113.0/24", Some("a resolver")),
            ("a link-local neighbour", "fe80::7/128", Some("link-local")),
            ("the site", "2001:db8::/32", Some("2001:db8:1::/64")),
        ];
        for (why, prefix, expected) in cases {
            let result = usual().check_block(prefix.parse().unwrap(), OPERATOR.parse().ok());
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(refusal), Some(expected)) => {
                    let text = refusal.to_string();
                    assert!(text.contains(expected) && text.contains("--force"), "{why}: {text}");
                }
                (result, _) => panic!("{why}: {result:?}"),
            }
        }
    }

    #[test]
    fn an_operator_who_comes_over_a_dual_stack_socket_is_an_ipv4_address() {
        let mapped = "::ffff:198.51.100.7".parse().ok();
        assert!(Guard::default().check_block("198.51.100.0/24".parse().unwrap(), mapped).is_err());
    }

    #[test]
    fn who_has_no_more_than_a_connection_can_be_blocked_by_hand() {
        let guard = guard(&[("203.0.113.9/32", Purpose::Connection)]);
        let address: IpNet = "203.0.113.9/32".parse().unwrap();
        assert_eq!(guard.check_block(address, None), Ok(()));
        assert!(guard.withhold(address).is_some(), "nobody has typed what a feed lists");
    }

    #[test]
    fn what_nobody_has_typed_is_in_force_but_for_the_lifelines() {
        let mut list =
            prefixes(&["10.0.0.0/8", "192.0.2.77/32", "192.0.2.128/25", "203.0.113.48/29", "fe00::/8"]);
        let withheld = usual().sift(&mut list);
        list.sort_unstable();
        let expected = [
            "10.0.0.0/8",
            "192.0.2.77/32",
            "203.0.113.48/30",
            "203.0.113.52/32",
            "203.0.113.54/31",
            "fe00::/9",
            "fec0::/10",
        ];
        assert_eq!(list, prefixes(&expected));
        let shown: Vec<String> = withheld.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "192.0.2.128/25 is left out because of 192.0.2.0/24, a network of this host",
                "203.0.113.48/29 is in force but for 203.0.113.53/32, a resolver",
                "fe00::/8 is in force but for fe80::/10, link-local addresses",
            ]
        );
    }

    #[test]
    fn no_piece_has_an_address_of_a_lifeline_and_together_they_have_all_others() {
        let holes = prefixes(&["10.1.2.0/24", "10.1.2.7/32", "10.200.0.1/32"]);
        let pieces = carve::without("10.0.0.0/8".parse().unwrap(), &holes);
        let count =
            |prefixes: &[IpNet]| -> u64 { prefixes.iter().map(|p| 1_u64 << (32 - p.prefix_len())).sum() };
        assert_eq!(count(&pieces), (1 << 24) - 256 - 1);
        assert!(
            pieces
                .iter()
                .all(|piece| holes.iter().all(|hole| !hole.contains(piece) && !piece.contains(hole)))
        );
        assert_eq!(carve::without(holes[1], &holes), []);
    }

    /// Returns what is in force of a file after each of several successive guards.
    fn follow(guards: &[Guard], list: &[&str]) -> Vec<Vec<IpNet>> {
        let entry = Entry::of(&Arc::new(Origin::File("list".into())), BootTime::START);
        let mut there = prefixes(list);
        let mut kept = Withholding::of(guards[0].sift(&mut there), &entry);
        let mut book = Book::default();
        book.swap(Edit::put_alike(there, &entry));
        let shown = |book: &Book| book.iter().map(|(prefix, _)| prefix).collect::<Vec<_>>();
        let mut all = vec![shown(&book)];
        for guard in &guards[1..] {
            let (changes, again) = kept.again(guard, &book);
            book.swap(Edit::new(changes));
            kept = again;
            all.push(shown(&book));
        }
        all
    }

    #[test]
    fn an_address_that_comes_later_is_kept_out_and_one_that_goes_is_let_in() {
        let address = |text| (text, Purpose::Address);
        let guards =
            [guard(&[]), guard(&[address("192.0.2.1/32")]), guard(&[address("192.0.2.3/32")]), guard(&[])];
        let states = follow(&guards, &["192.0.2.0/30", "198.51.100.0/24"]);
        assert_eq!(states[0], prefixes(&["192.0.2.0/30", "198.51.100.0/24"]));
        assert_eq!(states[1], prefixes(&["192.0.2.0/32", "192.0.2.2/31", "198.51.100.0/24"]));
        assert_eq!(states[2], prefixes(&["192.0.2.0/31", "192.0.2.2/32", "198.51.100.0/24"]));
        assert_eq!(states[3], states[0]);
    }

    #[test]
    fn without_room_nothing_of_what_is_withheld_stays() {
        let entry = Entry::of(&Arc::new(Origin::File("list".into())), BootTime::START);
        let [one, two] = [("192.0.2.1/32", Purpose::Address), ("192.0.2.201/32", Purpose::Address)];
        let mut there = prefixes(&["192.0.2.0/24", "198.51.100.0/24"]);
        let before = Withholding::of(guard(&[one]).sift(&mut there), &entry);
        let mut book = Book::default();
        book.swap(Edit::put_alike(there, &entry));
        let (_, mut again) = before.again(&guard(&[one, two]), &book);
        book.swap(again.give_up(&before));
        let said: Vec<String> = again.withheld().map(ToString::to_string).collect();
        assert_eq!(
            said,
            ["192.0.2.0/24 is left out because of 192.0.2.1/32, this host's own address, and 1 more"]
        );
        let left: Vec<_> = book.iter().map(|(prefix, _)| prefix).collect();
        assert_eq!(left, prefixes(&["198.51.100.0/24"]));
    }

    #[test]
    fn entries_that_come_again_are_withheld_once_and_as_long_as_the_longest() {
        let origin = Arc::new(Origin::Import("list".into()));
        let guards = [guard(&[("192.0.2.1/32", Purpose::Address)]), guard(&[])];
        let until = |seconds| Entry {
            expires: BootTime::START.checked_add(std::time::Duration::from_secs(seconds)),
            ..Entry::of(&origin, BootTime::START)
        };
        let for_ever = Entry::of(&origin, BootTime::START);
        for (entries, expected) in [
            ([until(60), for_ever.clone()], &for_ever),
            ([for_ever.clone(), until(60)], &for_ever),
            ([until(60), until(30)], &until(60)),
        ] {
            let mut book = Book::default();
            let mut all = Withholding::of(Vec::new(), &entries[0]);
            for entry in &entries {
                let mut there = prefixes(&["192.0.2.0/30"]);
                let withheld = guards[0].sift(&mut there);
                all = all.and(Withholding::of(withheld, entry).held);
            }
            assert_eq!(all.held.len(), 1);
            assert_eq!(all.entries(&book), 1);
            let (changes, _) = all.again(&guards[1], &book);
            book.swap(Edit::new(changes));
            let whole: Vec<_> = book.all().map(|(prefix, entry)| (prefix, entry.expires)).collect();
            assert_eq!(whole, [("192.0.2.0/30".parse().unwrap(), expected.expires)]);
        }
    }

    #[test]
    fn a_guard_leaves_alone_what_others_have_put_in() {
        let (file, by_hand) = (Arc::new(Origin::File("list".into())), Arc::new(Origin::Operator));
        let mut book = Book::default();
        let entry = |origin| Entry::of(origin, BootTime::START);
        let broad: IpNet = "192.0.2.0/24".parse().unwrap();
        book.swap(Edit::put([(broad, entry(&file)), (broad, entry(&by_hand))]));
        let kept = Withholding::of(Vec::new(), &entry(&file));
        let (changes, _) = kept.again(&guard(&[("192.0.2.1/32", Purpose::Address)]), &book);
        book.swap(Edit::new(changes));
        let origins: Vec<_> = book.holders(broad).map(|entry| entry.note.origin.to_string()).collect();
        assert_eq!(origins, ["operator"]);
        assert_eq!(book.of(&file).count(), 8);
    }
}
