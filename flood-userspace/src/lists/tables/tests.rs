use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::{Arc, atomic::AtomicBool};
use std::thread;
use std::time::Duration;

use flood_common::{
    host::ListMemory,
    lists::{
        BLOCKED, ListTables, Listed,
        ipv6::{self, Memo, SIZE_WORD},
        look_up,
    },
    place::MIN_BUCKET_BITS,
};
use proptest::prelude::*;

use super::*;
use crate::lists::{Edit, EditError, Entry, Full, Lists, Note, Origin};

impl Memory for Arc<ListMemory> {
    fn gates(&self) -> &[AtomicU64] {
        &self.gates
    }

    fn buckets(&self) -> &[AtomicU64] {
        &self.buckets
    }

    fn nodes(&self) -> &[AtomicU64] {
        &self.nodes
    }
}

impl Memory for ListMemory {
    fn gates(&self) -> &[AtomicU64] {
        &self.gates
    }

    fn buckets(&self) -> &[AtomicU64] {
        &self.buckets
    }

    fn nodes(&self) -> &[AtomicU64] {
        &self.nodes
    }
}

const SEEDS: Seeds = Seeds {
    v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f],
    v6: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0x2545_f491_4f6c_dd1d],
};

/// The smallest possible layout.
const LAYOUT: Layout = Layout { seeds: SEEDS, bucket_bits: MIN_BUCKET_BITS, node_buckets: nodes::LEAST };

/// Returns whether the lists are empty and no word is left behind.
fn is_empty(lists: &Lists<ListMemory>) -> bool {
    let ListMemory { gates, buckets, nodes, .. } = lists.tables().memory();
    let is_zero = |word: &AtomicU64| word.load(Ordering::Relaxed) == 0;
    let (before, after) = gates.split_at(SIZE_WORD as usize);
    before.iter().chain(&after[1..]).chain(buckets).chain(nodes).all(is_zero)
}

fn lists(layout: Layout) -> Lists<ListMemory> {
    Lists::new(Tables::new(ListMemory::new(layout.bucket_bits, layout.node_buckets, layout.seeds.v6), layout))
}

fn at(seconds: u32) -> BootTime {
    BootTime::START + Duration::from_secs(1_000 + u64::from(seconds))
}

fn entry(expires: Option<u32>) -> Entry {
    entry_of(Origin::Operator, expires)
}

fn entry_of(origin: Origin, expires: Option<u32>) -> Entry {
    let note = Note { origin: origin.into(), reason: None, added: at(0), added_by: None };
    Entry { expires: expires.map(at), note: Arc::new(note) }
}

/// Origins that may have entries for the same prefixes.
const ORIGINS: [Origin; 2] = [Origin::Operator, Origin::Config];

/// Returns the moment half a second after `seconds`: entries expire at whole seconds, so rounding does not matter.
fn moment(seconds: u32) -> Moment {
    let filter_ns = 77_000_000_000_000 + u64::from(seconds) * 1_000_000_000 + 500_000_000;
    Moment { now: at(seconds) + Duration::from_millis(500), filter_ns }
}

/// Returns what the real code finds in the tables.
fn found(lists: &Lists<ListMemory>, address: IpAddr, now: &Moment) -> Listed {
    look_up(lists.tables().memory(), &SEEDS, address.into(), now.filter_ns)
}

/// The naive model: all entries in sequence.
#[derive(Default)]
struct Model(BTreeMap<(usize, IpNet, Origin), Option<u32>>);

impl Model {
    fn expire(&mut self, now: u32) {
        self.0.retain(|_, expires| expires.is_none_or(|at| now < at));
    }

    fn is_on(&self, kind: ListKind, address: IpAddr, now: u32) -> bool {
        self.0.iter().any(|((list, prefix, _), expires)| {
            // A painted entry ends when the daemon removes it, not by itself.
            let is_painted = address.is_ipv4() && u32::from(prefix.prefix_len()) <= CELL_LENGTH;
            let in_force = is_painted || expires.is_none_or(|at| now < at);
            *list == kind as usize && in_force && prefix.contains(&address)
        })
    }

    fn look_up(&self, address: IpAddr, now: u32) -> Listed {
        if self.is_on(ListKind::Allow, address, now) {
            Listed::Allowed
        } else if self.is_on(ListKind::Block, address, now) {
            Listed::Blocked
        } else {
            Listed::Nothing
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Put(ListKind, Origin, Vec<(IpNet, Option<u32>)>),
    /// Removes an origin's entries of prefixes, given by number.
    Take(ListKind, Origin, Vec<usize>),
    /// Replaces all operator entries of the block list with these.
    Exchange(Vec<(IpNet, Option<u32>)>),
    /// Time passes, and the daemon does nothing.
    Wait(u32),
    /// The daemon removes expired entries.
    Expire,
}

/// Addresses with few variable bits, so that prefixes often nest and meet; in all four corners of each family.
fn any_address() -> impl Strategy<Value = IpAddr> {
    let v4 = (any::<bool>(), prop_oneof![Just(0), Just(8), Just(16), Just(30)], 0u32..64);
    let v6 = (any::<bool>(), prop_oneof![Just(0), Just(30), Just(62), Just(90), Just(120)], 0u128..64);
    prop_oneof![
        v4.prop_map(
            |(high, shift, bits)| Ipv4Addr::from(bits << shift ^ if high { u32::MAX } else { 0 }).into()
        ),
        v6.prop_map(|(high, shift, bits)| {
            IpAddr::V6((bits << shift ^ if high { u128::MAX } else { 0 }).into())
        }),
    ]
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    (any_address(), any::<proptest::sample::Index>()).prop_map(|(address, length)| {
        let longest = IpNet::from(address).max_prefix_len();
        IpNet::new_assert(address, length.index(usize::from(longest) + 1) as u8).trunc()
    })
}

fn any_entries() -> impl Strategy<Value = Vec<(IpNet, Option<u32>)>> {
    proptest::collection::vec((any_prefix(), proptest::option::of(0u32..40)), 1..6)
}

fn any_action() -> impl Strategy<Value = Action> {
    let kind = || prop_oneof![Just(ListKind::Allow), Just(ListKind::Block)];
    let origin = || proptest::sample::select(&ORIGINS);
    prop_oneof![
        5 => (kind(), origin(), any_entries())
            .prop_map(|(kind, origin, entries)| Action::Put(kind, origin, entries)),
        3 => (kind(), origin(), proptest::collection::vec(0usize..64, 1..4))
            .prop_map(|(kind, origin, numbers)| Action::Take(kind, origin, numbers)),
        1 => any_entries().prop_map(Action::Exchange),
        2 => (1u32..8).prop_map(Action::Wait),
        2 => Just(Action::Expire),
    ]
}

/// Applies the action to the lists and to the model.
fn act(
    action: Action,
    lists: &mut Lists<ListMemory>,
    model: &mut Model,
    now: &mut u32,
) -> Result<(), EditError> {
    let time = moment(*now);
    match action {
        Action::Put(kind, origin, entries) => {
            let put = entries.iter().map(|(prefix, expires)| (*prefix, entry_of(origin.clone(), *expires)));
            lists.edit(kind, Edit::put(put), &time)?;
            let entries = entries.into_iter();
            model
                .0
                .extend(entries.map(|(prefix, expires)| ((kind as usize, prefix, origin.clone()), expires)));
        }
        Action::Take(kind, origin, numbers) => {
            let there: Vec<IpNet> = lists.book(kind).iter().map(|(prefix, _)| prefix).collect();
            let chosen: Vec<IpNet> =
                numbers.iter().filter_map(|number| there.get(*number).copied()).collect();
            model.0.retain(|(list, prefix, of), _| {
                *list != kind as usize || *of != origin || !chosen.contains(prefix)
            });
            lists.edit(kind, Edit::take_from(chosen, &Arc::new(origin)), &time)?;
        }
        Action::Exchange(entries) => {
            let prefixes: Vec<IpNet> = entries.iter().map(|(prefix, _)| *prefix).collect();
            let put = Edit::put_alike(prefixes.clone(), &entry(None));
            let leaving = Edit::take(lists.book(ListKind::Block).of(&Origin::Operator));
            lists.edit(ListKind::Block, leaving.then(put), &time)?;
            let key = |prefix| (ListKind::Block as usize, prefix, Origin::Operator);
            model.0.retain(|(list, _, of), _| *list != ListKind::Block as usize || *of != Origin::Operator);
            model.0.extend(prefixes.into_iter().map(|prefix| (key(prefix), None)));
        }
        Action::Wait(seconds) => *now += seconds,
        Action::Expire => {
            for kind in ListKind::OF_EACH_PACKET {
                let edit = lists.book(kind).expired(time.now);
                lists.edit(kind, edit, &time)?;
            }
            model.expire(*now);
        }
    }
    Ok(())
}

/// Returns addresses where a mistake about this prefix would show.
fn around(prefix: IpNet) -> Vec<IpAddr> {
    let neighbour = |address: IpAddr, up: bool| match address {
        IpAddr::V4(v4) => {
            let number = u32::from(v4);
            IpAddr::V4(if up { number.wrapping_add(1) } else { number.wrapping_sub(1) }.into())
        }
        IpAddr::V6(v6) => {
            let number = u128::from(v6);
            IpAddr::V6(if up { number.wrapping_add(1) } else { number.wrapping_sub(1) }.into())
        }
    };
    let (first, last) = (prefix.network(), prefix.broadcast());
    vec![first, last, neighbour(first, true), neighbour(first, false), neighbour(last, true)]
}

proptest! {
    #[test]
    fn the_tables_answer_as_a_scan_over_all_entries_would(
        actions in proptest::collection::vec(any_action(), 1..25),
        addresses in proptest::collection::vec(any_address(), 16),
    ) {
        let (mut lists, mut model, mut now) = (lists(LAYOUT), Model::default(), 0);
        let mut probes = addresses;
        for action in actions {
            if let Action::Put(_, _, entries) | Action::Exchange(entries) = &action {
                probes.extend(entries.iter().flat_map(|(prefix, _)| around(*prefix)));
            }
            let text = format!("{action:?}");
            prop_assert_eq!(act(action, &mut lists, &mut model, &mut now), Ok(()));
            for kind in ListKind::OF_EACH_PACKET {
                let entries = model.0.keys().filter(|(list, ..)| *list == kind as usize);
                let prefixes: BTreeSet<IpNet> = entries.clone().map(|(_, prefix, _)| *prefix).collect();
                prop_assert_eq!(lists.book(kind).all().count(), entries.count());
                prop_assert_eq!(lists.book(kind).iter().count(), prefixes.len());
            }
            for address in &probes {
                let wanted = model.look_up(*address, now);
                prop_assert_eq!(found(&lists, *address, &moment(now)), wanted, "{} after {}", address, text);
            }
        }
        for (kind, origin) in ListKind::OF_EACH_PACKET.into_iter().flat_map(|kind| ORIGINS.map(|of| (kind, of))) {
            let edit = Edit::take_from(lists.book(kind).of(&origin), &Arc::new(origin.clone()));
            lists.edit(kind, edit, &moment(now)).unwrap();
        }
        prop_assert!(is_empty(&lists), "something is left behind");
        prop_assert_eq!(lists.books().places(), Places::default());
    }

    #[test]
    fn an_undone_edit_leaves_everything_as_it_was(before in any_entries(), edit in any_entries()) {
        let put = |entries: &[(IpNet, Option<u32>)]| {
            Edit::put(entries.iter().map(|(prefix, expires)| (*prefix, entry(*expires))))
        };
        let mut lists = lists(LAYOUT);
        lists.edit(ListKind::Block, put(&before), &moment(0)).unwrap();
        let words = |lists: &Lists<ListMemory>| -> Vec<u64> {
            let ListMemory { gates, nodes, .. } = lists.tables().memory();
            let words = gates.iter().take(SIZE_WORD as usize).chain(&gates[1 + SIZE_WORD as usize..]).chain(nodes);
            words.map(|word| word.load(Ordering::Relaxed)).collect()
        };
        let (book, gates) = (lists.book(ListKind::Block).clone(), words(&lists));
        let undo = lists.edit(ListKind::Block, put(&edit), &moment(0)).unwrap();
        lists.edit(ListKind::Block, undo, &moment(0)).unwrap();
        prop_assert!(lists.book(ListKind::Block).iter().eq(book.iter()));
        prop_assert_eq!(lists.book(ListKind::Block).next_expiry(), book.next_expiry());
        prop_assert!(words(&lists) == gates);
    }
}

#[test]
fn what_does_not_fit_is_refused_whole_with_the_number_that_would() {
    let Places { ipv4, ipv6 } = LAYOUT.capacity();
    let v4 =
        |number: u32, length| IpNet::new_assert(Ipv4Addr::from(number << (32 - length)).into(), length as u8);
    let v6 = |number: u128| IpNet::new_assert(IpAddr::V6((number << 80).into()), 48);
    let cases = [
        ("IPv4", (0..ipv4 as u32 / 128 + 1).map(|number| v4(number, 25)).collect::<Vec<_>>(), ipv4),
        ("IPv6", (0..ipv6 as u128 + 1).map(v6).collect(), ipv6),
    ];
    for (why, mut prefixes, capacity) in cases {
        let mut lists = lists(LAYOUT);
        let edit = |prefixes: &[IpNet]| Edit::put(prefixes.iter().map(|prefix| (*prefix, entry(None))));
        let refused = lists.edit(ListKind::Block, edit(&prefixes), &moment(0));
        let Err(EditError::Full(full)) = refused else { panic!("{why}: {refused:?}") };
        assert_eq!((full.room, full.capacity), (capacity, capacity), "{why}");
        assert!(is_empty(&lists) && lists.book(ListKind::Block).iter().next().is_none());
        let last = prefixes.pop().unwrap();
        assert_eq!(lists.edit(ListKind::Block, edit(&prefixes), &moment(0)).map(|_| ()), Ok(()), "{why}");
        let refused = lists.edit(ListKind::Allow, edit(&[last]), &moment(0));
        assert!(matches!(refused, Err(EditError::Full(Full { room: 0, .. }))), "{why}: {refused:?}");
        // The same number again fits in their place.
        let allowed = Edit::take(prefixes.split_off(1));
        assert_eq!(lists.edit(ListKind::Block, allowed, &moment(0)).map(|_| ()), Ok(()), "{why}");
        assert_eq!(lists.edit(ListKind::Allow, edit(&[last]), &moment(0)).map(|_| ()), Ok(()), "{why}");
    }
    let mut lists = lists(LAYOUT);
    let painted = Edit::put((0..1u32 << 12).map(|number| (v4(number, 24), entry(None))));
    assert_eq!(
        lists.edit(ListKind::Block, painted, &moment(0)).map(|_| ()),
        Ok(()),
        "painting takes no place"
    );
}

/// Tables that count how much is read from them.
struct Counting<'a> {
    memory: &'a ListMemory,
    indices: Cell<u32>,
    buckets: Cell<u32>,
}

impl Counting<'_> {
    /// Returns how many indices and buckets a search reads, and what it finds.
    fn count(&self, address: u128) -> ([u32; 2], u64) {
        self.indices.set(0);
        self.buckets.set(0);
        let kinds = self.search([(address >> 64) as u64, address as u64], 0);
        let buckets = self.buckets.get();
        // With each bucket it reads the index again, which is already at hand.
        ([self.indices.get() - buckets, buckets], kinds)
    }
}

impl ListTables for Counting<'_> {
    type Word = AtomicU64;
    type Note = Cell<u64>;

    fn bucket_bits(&self) -> u32 {
        self.memory.bucket_bits()
    }

    fn gate(&self, word: u32) -> u64 {
        self.indices.set(self.indices.get() + u32::from(word >= GATE_WORDS));
        self.memory.gate(word)
    }

    fn bucket(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.memory.bucket(number)
    }

    fn key(&self, number: usize) -> u64 {
        self.memory.key(number)
    }

    fn nodes(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.buckets.set(self.buckets.get() + 1);
        ListTables::nodes(self.memory, number)
    }

    fn ends(&self, number: u32) -> Option<&[AtomicU64; WAYS]> {
        self.memory.ends(number)
    }

    fn search(&self, address: [u64; 2], now_ns: u64) -> u64 {
        ipv6::search(self, &Memo::default(), address, now_ns)
    }
}

/// The IPv6 network of the large lists: 2001:db8::/32.
const NETWORK: u128 = 0x2001_0db8 << 96;

fn v6(address: u128) -> IpAddr {
    Ipv6Addr::from_bits(address).into()
}

/// Returns `count` prefixes of one /32 with random lengths from this range. Some occur twice.
fn within(random: &mut fastrand::Rng, count: usize, lengths: RangeInclusive<u8>) -> Vec<IpNet> {
    let mut prefix = |_| {
        let address = NETWORK | random.u128(..) >> 32;
        IpNet::new_assert(v6(address), random.u8(lengths.clone())).trunc()
    };
    (0..count).map(&mut prefix).collect()
}

/// Returns prefixes of all lengths around one address, and next to each of them so many more that a search
/// continues from all of its lengths.
fn crowds(address: u128) -> Vec<IpNet> {
    let around = |length: u8| IpNet::new_assert(v6(address), length).trunc();
    let beside =
        |length: u8| (0..10).map(move |bit| IpNet::new_assert(v6(address ^ 1 << bit), length).trunc());
    (17..=128).map(around).chain((118..=128).flat_map(beside)).collect()
}

/// What searches in a list may read: average and worst-case indices, and average buckets.
struct Reads {
    why: &'static str,
    list: Vec<IpNet>,
    /// For random sources in a network of this length,
    network: u32,
    random: (f64, u32, f64),
    /// and for listed sources.
    listed: (f64, u32, f64),
}

#[test]
fn a_search_reads_little_whatever_the_lengths_on_the_list() {
    const ENTRIES: usize = 100_000;

    let mut random = fastrand::Rng::with_seed(5);
    let deep = NETWORK | random.u128(..) >> 32;
    let fours = (4..=32).map(|quarter| IpNet::new_assert(v6(deep), 4 * quarter).trunc()).collect();
    let mut site = |_| {
        let address = NETWORK >> 112 << 112 | random.u128(..) >> 16;
        IpNet::new_assert(v6(address), [48, 48, 40, 36][random.usize(..4)]).trunc()
    };
    let sites = (0..ENTRIES).map(&mut site).collect();
    let mut within = |lengths| within(&mut random, ENTRIES, lengths);
    let [every, long, usual] = [33..=128, 49..=128, 48..=64].map(&mut within);
    let reads = |why, list, network, random, listed| Reads { why, list, network, random, listed };
    let cases = [
        reads("as in the bench", sites, 16, (1.4, 14, 0.3), (1.6, 14, 1.2)),
        reads("every length", every, 32, (3.6, 14, 2.6), (2.9, 14, 2.4)),
        reads("long ones", long, 32, (2.5, 14, 1.4), (2.6, 14, 2.2)),
        reads("what sites have", usual, 32, (2.5, 14, 1.6), (2.6, 14, 2.2)),
        reads("each in the next", fours, 32, (5.2, 14, 2.2), (6.3, 14, 4.5)),
        reads("crowds", crowds(deep), 32, (5.9, 14, 1.7), (7.7, 14, 5.7)),
    ];
    for Reads { why, list, network, random: of_random, listed: of_listed } in cases {
        let layout = Layout { node_buckets: Layout::node_buckets(ENTRIES as u64), ..LAYOUT };
        let mut lists = lists(layout);
        // Longer prefixes expire later, so that none says no more than a shorter one.
        let entries = list.iter().map(|prefix| (*prefix, entry(Some(u32::from(prefix.prefix_len())))));
        let edit = lists.edit(ListKind::Block, Edit::put(entries), &moment(0));
        assert_eq!(edit.map(|_| ()), Ok(()), "{why}");
        let memory = lists.tables().memory();
        let tables = Counting { memory, indices: Cell::new(0), buckets: Cell::new(0) };
        let first = |prefix: &IpNet| match prefix.network() {
            IpAddr::V4(_) => unreachable!(),
            IpAddr::V6(first) => first.to_bits(),
        };
        let stranger = |_| NETWORK >> (128 - network) << (128 - network) | random.u128(..) >> network;
        let strangers = (0..ENTRIES).map(stranger).collect();
        let addresses: [Vec<u128>; 2] = [strangers, list.iter().map(first).collect()];
        for ((addresses, is_listed), bound) in addresses.iter().zip([false, true]).zip([of_random, of_listed])
        {
            let (mut sums, mut most) = ([0; 2], 0);
            for address in addresses {
                let ([indices, buckets], kinds) = tables.count(*address);
                assert!(!is_listed || kinds == BLOCKED, "{why}: {}", v6(*address));
                sums = [sums[0] + indices, sums[1] + buckets];
                most = most.max(indices);
            }
            let [indices, buckets] = sums.map(|sum| f64::from(sum) / addresses.len() as f64);
            println!("{why}, {is_listed}: {indices:.2} indices, {most} at most, {buckets:.2} buckets");
            let (most_indices, worst, most_buckets) = bound;
            assert!(
                indices <= most_indices && most <= worst && buckets <= most_buckets,
                "{why}, {is_listed}: {indices:.2} indices, {most} at most, {buckets:.2} buckets"
            );
        }
    }
}

#[test]
fn what_lies_within_a_blocked_network_takes_no_place_until_that_is_taken_out() {
    let mut random = fastrand::Rng::with_seed(7);
    let layout = Layout { node_buckets: Layout::node_buckets(20_000), ..LAYOUT };
    let (mut alone, mut lists) = (lists(layout), lists(layout));
    let network = IpNet::new_assert(v6(NETWORK), 32);
    let list = within(&mut random, 10_000, 33..=128);
    let words = |lists: &Lists<ListMemory>| {
        lists.tables().memory().nodes.iter().filter(|word| word.load(Ordering::Relaxed) != 0).count()
    };
    alone.edit(ListKind::Block, Edit::put([(network, entry(None))]), &moment(0)).unwrap();
    lists.edit(ListKind::Block, Edit::put_alike(list.clone(), &entry(Some(9))), &moment(0)).unwrap();
    lists.edit(ListKind::Block, Edit::put([(network, entry(None))]), &moment(0)).unwrap();
    assert_eq!(words(&lists), words(&alone));
    lists.edit(ListKind::Block, Edit::take([network]), &moment(0)).unwrap();
    for prefix in list {
        assert_eq!(found(&lists, prefix.network(), &moment(0)), Listed::Blocked, "{prefix}");
    }
}

/// Finds which of two lists an address is on, with one search per prefix length.
#[derive(Default)]
struct Lengths([HashMap<IpNet, Option<u32>>; 2]);

impl Lengths {
    fn look_up(&self, address: IpAddr, now: u32) -> Listed {
        let is_on = |kind: ListKind| {
            (0..=128).any(|length| {
                let prefix = IpNet::new_assert(address, length).trunc();
                self.0[kind as usize].get(&prefix).is_some_and(|expires| expires.is_none_or(|at| now < at))
            })
        };
        match () {
            () if is_on(ListKind::Allow) => Listed::Allowed,
            () if is_on(ListKind::Block) => Listed::Blocked,
            () => Listed::Nothing,
        }
    }
}

#[test]
fn a_large_list_of_all_lengths_is_answered_as_a_scan_would_while_it_grows_shrinks_and_is_exchanged() {
    const ENTRIES: usize = 6_000;
    const ROUNDS: u32 = 10;

    let mut random = fastrand::Rng::with_seed(11);
    let layout = Layout { node_buckets: Layout::node_buckets(4 * ENTRIES as u64), ..LAYOUT };
    let (mut lists, mut model) = (lists(layout), Lengths::default());
    for round in 0..ROUNDS {
        let kind = if round % 3 == 2 { ListKind::Allow } else { ListKind::Block };
        let there: Vec<IpNet> = model.0[kind as usize].keys().copied().collect();
        let leaving: Vec<IpNet> = there.into_iter().filter(|_| random.u8(..3) > 0).collect();
        let coming: BTreeMap<IpNet, Option<u32>> = within(&mut random, ENTRIES, 39..=128)
            .into_iter()
            .map(|prefix| (prefix, random.bool().then(|| random.u32(..2 * ROUNDS))))
            .collect();
        // A reload removes old entries and adds new ones in one edit.
        let put = Edit::put(coming.iter().map(|(prefix, expires)| (*prefix, entry(*expires))));
        let edit = Edit::take(leaving.iter().copied()).then(put);
        assert_eq!(lists.edit(kind, edit, &moment(round)).map(|_| ()), Ok(()), "round {round}");
        model.0[kind as usize].retain(|prefix, _| !leaving.contains(prefix));
        model.0[kind as usize].extend(&coming);
        for prefix in coming.keys().chain(&leaving) {
            for address in around(*prefix) {
                let wanted = model.look_up(address, round);
                assert_eq!(found(&lists, address, &moment(round)), wanted, "{address}, round {round}");
            }
        }
    }
    for kind in ListKind::OF_EACH_PACKET {
        let everything: Vec<IpNet> = model.0[kind as usize].keys().copied().collect();
        lists.edit(kind, Edit::take(everything), &moment(ROUNDS)).unwrap();
    }
    assert!(is_empty(&lists), "something is left behind");
}

#[test]
fn what_lodges_with_another_node_does_not_end_a_search() {
    // With these seeds, the searched /48, which is no node, shares its bucket with the entry's node, and a mark is
    // the same.
    for (blocked, allowed, address) in [
        ("2001:16::/35", "2001:16:1400::/40", "2001:16:14f8::1"),
        ("2001:d:8000::/35", "2001:d:8800::/40", "2001:d:8830::1"),
        ("2001:1d:2000::/35", "2001:1d:2b00::/40", "2001:1d:2b90::1"),
    ] {
        let prefix = |text: &str| text.parse::<IpNet>().unwrap();
        let mut lists = lists(LAYOUT);
        let address: Ipv6Addr = address.parse().unwrap();
        // So many that their /32 has a word, and leads on to where they are.
        let crowd = (0..6).map(|number| {
            let network = address.to_bits() >> 96 << 96 | (0xf000 + number) << 80;
            IpNet::new(Ipv6Addr::from_bits(network).into(), 48).unwrap()
        });
        lists
            .edit(
                ListKind::Block,
                Edit::put_alike(crowd.chain([prefix(blocked)]).collect(), &entry(None)),
                &moment(0),
            )
            .unwrap();
        lists
            .edit(ListKind::Allow, Edit::put_alike(vec![prefix(allowed)], &entry(None)), &moment(0))
            .unwrap();
        let listed = look_up(lists.tables().memory(), &SEEDS, IpAddr::from(address).into(), 0);
        assert_eq!(listed, Listed::Allowed, "{address}");
    }
}

#[test]
fn no_search_misses_an_entry_while_others_come_and_go_around_it() {
    let mut random = fastrand::Rng::with_seed(3);
    let staying = within(&mut random, 300, 33..=128);
    let others = within(&mut random, 4_000, 17..=128);
    stay_listed(&staying, &others);
}

#[test]
fn no_look_misses_an_ipv4_entry_while_others_come_and_go_around_it() {
    let prefix = |text: &str| text.parse::<IpNet>().unwrap();
    let staying = ["10.0.1.1/32", "10.0.2.0/24", "10.0.16.0/20", "10.1.255.0/24", "10.2.0.0/15"].map(prefix);
    // So few large ones that a /16 is sometimes of one kind, and sometimes of several.
    let others = [
        "10.0.0.0/16",
        "10.0.0.0/15",
        "10.0.0.0/17",
        "10.1.0.0/16",
        "10.0.0.0/13",
        "10.2.3.4/32",
        "10.0.1.0/24",
    ];
    stay_listed(&staying, &others.map(prefix));
}

/// Looks up what stays on a list while others are added around it and removed, on both lists.
fn stay_listed(staying: &[IpNet], others: &[IpNet]) {
    const EDITS: u32 = 300;

    let mut random = fastrand::Rng::with_seed(3);
    let layout = Layout { node_buckets: Layout::node_buckets(20_000), ..LAYOUT };
    let memory = Arc::new(ListMemory::new(layout.bucket_bits, layout.node_buckets, layout.seeds.v6));
    let mut lists = Lists::new(Tables::new(Arc::clone(&memory), layout));
    lists.edit(ListKind::Block, Edit::put_alike(staying.to_vec(), &entry(None)), &moment(0)).unwrap();
    let over = AtomicBool::new(false);
    let searches = thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut searches = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        for prefix in staying {
                            let listed = look_up(&*memory, &SEEDS, prefix.broadcast().into(), 0);
                            assert_ne!(listed, Listed::Nothing, "{prefix}");
                            searches += 1;
                        }
                    }
                    searches
                })
            })
            .collect();
        for _ in 0..EDITS {
            // Beside, above and below what stays, which is put again in between, with and without an expiry.
            let few: Vec<IpNet> =
                (0..random.usize(1..200)).map(|_| others[random.usize(..others.len())]).collect();
            let again: Vec<IpNet> = (0..20).map(|_| staying[random.usize(..staying.len())]).collect();
            let entry = entry(random.bool().then_some(1_000));
            let kind = if random.u8(..4) == 0 { ListKind::Allow } else { ListKind::Block };
            let edit = match random.u8(..3) {
                0 => Edit::take(
                    few.into_iter().filter(|prefix| kind == ListKind::Allow || !staying.contains(prefix)),
                ),
                1 => Edit::put_alike(few, &entry),
                _ => Edit::put_alike(if kind == ListKind::Block { again } else { few }, &entry),
            };
            lists.edit(kind, edit, &moment(0)).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        readers.into_iter().map(|reader| reader.join().unwrap()).sum::<u64>()
    });
    println!("{searches} searches");
    assert!(searches > u64::from(EDITS), "{searches} searches");
}
