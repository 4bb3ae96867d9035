use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use flood_common::{
    host::ListMemory,
    lists::{Listed, look_up},
    place::MIN_BUCKET_BITS,
};
use proptest::prelude::*;

use super::*;
use crate::lists::{Edit, Entry, Full, Lists, Note, Origin};

/// Why an edit was refused.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    Full(Full),
    NoPlace(NoPlace),
}

impl From<Full> for Refused {
    fn from(full: Full) -> Self {
        Self::Full(full)
    }
}

impl From<NoPlace> for Refused {
    fn from(error: NoPlace) -> Self {
        Self::NoPlace(error)
    }
}

impl Memory for ListMemory {
    type Error = Refused;

    fn gates(&self) -> &[AtomicU64] {
        &self.gates
    }

    fn buckets(&self) -> &[AtomicU64] {
        &self.buckets
    }

    fn set_prefixes(&mut self, prefixes: &[Prefix], words: &[[u64; 2]]) -> Result<(), Refused> {
        prefixes.iter().zip(words).for_each(|(prefix, words)| self.set_prefix(*prefix, *words));
        Ok(())
    }

    fn unset_prefixes(&mut self, prefixes: &[Prefix]) -> Result<(), Refused> {
        self.prefixes.retain(|prefix, _| !prefixes.contains(prefix));
        Ok(())
    }
}

const SEEDS: Seeds = Seeds {
    v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f],
    v6: [0x9e37_79b9_7f4a_7c15, 0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb, 0x2545_f491_4f6c_dd1d],
};

/// Few cells, so that prefixes share one.
const LAYOUT: Layout = Layout { seeds: SEEDS, bucket_bits: MIN_BUCKET_BITS, cell_bits: 4 };

/// Room for the addresses of some /25, and for a few IPv6 prefixes that meet.
const ROOMY: Layout = Layout { cell_bits: 10, ..LAYOUT };

fn lists(layout: Layout) -> Lists<ListMemory> {
    Lists::new(Tables::new(ListMemory::new(layout.bucket_bits, layout.cell_bits), layout))
}

fn at(seconds: u32) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000 + u64::from(seconds))
}

fn entry(expires: Option<u32>) -> Entry {
    let note = Note { origin: Origin::Operator, reason: None, added: at(0), added_by: None };
    Entry { expires: expires.map(at), note: Arc::new(note) }
}

/// Half a second after `seconds`: entries end at whole seconds, so that no rounding matters.
fn moment(seconds: u32) -> Moment {
    let filter_ns = 77_000_000_000_000 + u64::from(seconds) * 1_000_000_000 + 500_000_000;
    Moment { wall: at(seconds) + Duration::from_millis(500), filter_ns }
}

/// What the real code finds in the tables.
fn found(lists: &Lists<ListMemory>, address: IpAddr, now: &Moment) -> Listed {
    look_up(lists.tables().memory(), &SEEDS, address.into(), now.filter_ns)
}

/// The naive model: all entries, one after the other.
#[derive(Default)]
struct Model(BTreeMap<(usize, IpNet), Option<u32>>);

impl Model {
    fn expire(&mut self, now: u32) {
        self.0.retain(|_, expires| expires.is_none_or(|at| now < at));
    }

    fn is_on(&self, kind: ListKind, address: IpAddr, now: u32) -> bool {
        self.0.iter().any(|((list, prefix), expires)| {
            // What is painted ends when the daemon comes by, not by itself.
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
    Put(ListKind, Vec<(IpNet, Option<u32>)>),
    /// Those of the entries, by their number.
    Take(ListKind, Vec<usize>),
    /// All of the block list that is there is exchanged for these.
    Exchange(Vec<(IpNet, Option<u32>)>),
    /// Time passes, and the daemon does not come by.
    Wait(u32),
    /// The daemon removes what has ended.
    Expire,
}

/// Addresses of few bits, so that prefixes nest and meet often; in all four corners of each family.
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
    prop_oneof![
        5 => (kind(), any_entries()).prop_map(|(kind, entries)| Action::Put(kind, entries)),
        3 => (kind(), proptest::collection::vec(0usize..64, 1..4))
            .prop_map(|(kind, numbers)| Action::Take(kind, numbers)),
        1 => any_entries().prop_map(Action::Exchange),
        2 => (1u32..8).prop_map(Action::Wait),
        2 => Just(Action::Expire),
    ]
}

/// Does the action to the lists and to the model.
fn act(
    action: Action,
    lists: &mut Lists<ListMemory>,
    model: &mut Model,
    now: &mut u32,
) -> Result<(), Refused> {
    let put = |entries: &[(IpNet, Option<u32>)]| {
        Edit::put(entries.iter().map(|(prefix, expires)| (*prefix, entry(*expires))))
    };
    let time = moment(*now);
    match action {
        Action::Put(kind, entries) => {
            lists.edit(kind, put(&entries), &time)?;
            model.0.extend(entries.into_iter().map(|(prefix, expires)| ((kind as usize, prefix), expires)));
        }
        Action::Take(kind, numbers) => {
            let there: Vec<IpNet> = lists.book(kind).iter().map(|(prefix, _)| prefix).collect();
            let chosen: Vec<IpNet> =
                numbers.iter().filter_map(|number| there.get(*number).copied()).collect();
            model.0.retain(|(list, prefix), _| *list != kind as usize || !chosen.contains(prefix));
            lists.edit(kind, Edit::take(chosen), &time)?;
        }
        Action::Exchange(entries) => {
            let prefixes: Vec<IpNet> = entries.iter().map(|(prefix, _)| *prefix).collect();
            let put = Edit::put_alike(prefixes.clone(), &entry(None));
            let edit = lists.book(ListKind::Block).leaving(&Origin::Operator).then(put);
            lists.edit(ListKind::Block, edit, &time)?;
            model.0.retain(|(list, _), _| *list != ListKind::Block as usize);
            model.0.extend(prefixes.into_iter().map(|prefix| ((ListKind::Block as usize, prefix), None)));
        }
        Action::Wait(seconds) => *now += seconds,
        Action::Expire => {
            for kind in ListKind::ALL {
                let edit = lists.book(kind).expired(time.wall);
                lists.edit(kind, edit, &time)?;
            }
            model.expire(*now);
        }
    }
    Ok(())
}

/// Where a mistake about this prefix would show.
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
        let (mut lists, mut model, mut now) = (lists(ROOMY), Model::default(), 0);
        let mut probes = addresses;
        for action in actions {
            if let Action::Put(_, entries) | Action::Exchange(entries) = &action {
                probes.extend(entries.iter().flat_map(|(prefix, _)| around(*prefix)));
            }
            let text = format!("{action:?}");
            prop_assert_eq!(act(action, &mut lists, &mut model, &mut now), Ok(()));
            for kind in ListKind::ALL {
                let entries = model.0.keys().filter(|(list, _)| *list == kind as usize).count();
                prop_assert_eq!(lists.book(kind).iter().count(), entries);
            }
            for address in &probes {
                let wanted = model.look_up(*address, now);
                prop_assert_eq!(found(&lists, *address, &moment(now)), wanted, "{} after {}", address, text);
            }
        }
        for kind in ListKind::ALL {
            let edit = Edit::take(lists.book(kind).iter().map(|(prefix, _)| prefix).collect::<Vec<_>>());
            lists.edit(kind, edit, &moment(now)).unwrap();
        }
        prop_assert!(lists.tables().memory().is_empty(), "something is left behind");
        prop_assert_eq!(lists.books().places(), Places::default());
    }

    #[test]
    fn an_undone_edit_leaves_everything_as_it_was(before in any_entries(), edit in any_entries()) {
        let put = |entries: &[(IpNet, Option<u32>)]| {
            Edit::put(entries.iter().map(|(prefix, expires)| (*prefix, entry(*expires))))
        };
        let mut lists = lists(ROOMY);
        lists.edit(ListKind::Block, put(&before), &moment(0)).unwrap();
        let words = |lists: &Lists<ListMemory>| -> Vec<u64> {
            lists.tables().memory().gates.iter().map(|word| word.load(Ordering::Relaxed)).collect()
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
        let Err(Refused::Full(full)) = refused else { panic!("{why}: {refused:?}") };
        assert_eq!((full.room, full.capacity), (capacity, capacity), "{why}");
        assert!(lists.tables().memory().is_empty() && lists.book(ListKind::Block).iter().next().is_none());
        let last = prefixes.pop().unwrap();
        assert_eq!(lists.edit(ListKind::Block, edit(&prefixes), &moment(0)).map(|_| ()), Ok(()), "{why}");
        let refused = lists.edit(ListKind::Allow, edit(&[last]), &moment(0));
        assert!(matches!(refused, Err(Refused::Full(Full { room: 0, .. }))), "{why}: {refused:?}");
        // As many again fit in their place.
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
