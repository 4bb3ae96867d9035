//! How much of the kernel's memory for datagrams that are not whole yet fragments may take.
//!
//! The kernel keeps what has come of a datagram for `ipfrag_time`, and refuses all fragments while it keeps
//! `ipfrag_high_thresh` bytes. So three hundred packets a second that nothing follows take fragments away from everybody. Here
//! each that would pass is charged what it may take, to a budget of its family which is as large and drains as fast as that
//! memory, and to its source for a [share](crate::account::SHARE) of it. A datagram that comes whole and in order is followed
//! to its end, where the kernel has put it together, and all of it is paid back.
//!
//! Nobody can tell the first fragment of a visitor's datagram from one that is made up. So the last quarter is for what the host
//! has [asked for](crate::solicit) and what has [proven](crate::proof) its origin, and the quarter before for sources whose
//! fragments have come before: a flood from addresses that are invented one by one takes the first half.
//!
//! Invariants: what the kernel keeps was charged here; a fragment is paid back once, and only with all of its datagram.

use zerocopy::IntoBytes;

use crate::{
    abi::{BUDGET_REASSEMBLY, Settings},
    account::{Account, By},
    address::Address,
    answer::{checksum, words},
    decide::Tables,
    fragments::{self, FragmentPlace},
    meter::{Price, Slot, WAYS},
    packet::{Packet, Part},
    reason::{Reason, is_drop},
    solicit::{Flow, SolicitPlace},
    verifier::opaque,
    wire::{Fragment, Ipv4, Ipv6, Window, protocol},
};

/// What a fragment takes in the kernel for each page of its data, bytes: the page, since a driver may give it no less, and what
/// describes it and its datagram.
pub const PAGE_BYTES: u64 = 5 << 10;

/// Binary logarithm of the bytes in a page, and what a driver keeps free in one.
const PAGE_SHIFT: u32 = 12;
const HEADROOM: u32 = 512;

/// The most pages that are paid back for a datagram: more than 64 KiB take.
const MOST_PAGES: u64 = 127;

/// Nanoseconds in a unit of time are two to this power: 0.13 seconds.
const UNIT_SHIFT: u32 = 27;

/// Units for which a datagram is followed: 2 seconds.
const FOLLOWED: u64 = 15;

/// Units for which a source is known by its fragments: 60 seconds.
const KNOWN: u64 = 450;

/// Fragments of the same source that may come between two of a datagram. The kernel throws away what it has of the datagram when
/// there are more than `ipfrag_max_dist`, 64.
const MOST_BETWEEN: u64 = 32;

/// The words: `tag:32 | count:16 | end:16` of a source, `tag:22 | count:10 | pages:7 | next:13 | end:12` of a datagram.
mod bits {
    pub(super) const SOURCE_END: u32 = 16;
    pub(super) const SOURCE_TAG: u32 = 32;
    pub(super) const END: u32 = 12;
    pub(super) const NEXT: u32 = 13;
    pub(super) const PAGES: u32 = 7;
    pub(super) const COUNT: u32 = 10;
    pub(super) const TAG: u32 = END + NEXT + PAGES + COUNT;
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Where the kernel's memory is followed: BPF maps in the kernel, ordinary memory on a host.
pub trait Memory: Tables {
    /// Notes that a fragment of a source [has come](arrives).
    fn arrives(&self, source: SolicitPlace, now_ns: u64) -> u64;
    /// [Follows](follow) a datagram.
    fn follow(&self, datagram: FragmentPlace, step: Step, now_ns: u64) -> u64;
    /// Takes back what was charged to an account and to a budget of the whole host, where there is that much.
    fn pay_back(&self, settings: &Settings, owner: (Account, u32), by: By, now_ns: u64, price: &Price);
}

/// A fragment in its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Where it begins, units of eight bytes.
    pub start: u64,
    /// Where the next one begins; 0 if there is none.
    pub next: u64,
    /// What it takes, pages.
    pub pages: u64,
    /// By how many fragments of its source it is later than others.
    pub count: u64,
}

/// Whether a packet that passes so far, or does not, for the reason with this number, is looked at for its memory.
#[inline(always)]
pub fn is_due(packet: &Packet, reason: u32) -> bool {
    packet.part != Part::Whole && !is_drop(reason)
}

/// Whether a fragment may go where it is put together, if that is here. `reason` is the number of that for which it has passed so
/// far.
#[inline(always)]
pub fn admits<'a, T: Memory>(
    packet: &Packet,
    reason: u32,
    window: impl Window<'a>,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> bool {
    let family = u32::from(packet.source.version() == 6);
    let memory = &settings.reassembly[family as usize];
    if !memory.is_set() || !tables.is_local(settings, packet.destination) {
        return true;
    }
    let page = memory.price(0);
    let pages = 1 + u64::from((packet.piece.length + HEADROOM) >> PAGE_SHIFT);
    let come = tables.arrives(source(packet, settings), now_ns);
    let is_wanted = reason == Reason::Solicited.number() || reason == Reason::Proven.number();
    let (account, quarters) = match come {
        _ if is_wanted => (Account::FragmentsProven, 4),
        0 => (Account::Fragments, 2),
        _ => (Account::Fragments, 3),
    };
    let price =
        Price { cost_ns: page.cost_ns * pages, tolerance_ns: page.tolerance_ns / 4 * quarters, ..page };
    let (owner, by) = ((account, BUDGET_REASSEMBLY + family), By::address(packet.source));
    if !tables.charge_shared(settings, owner, by, now_ns, &price) {
        return false;
    }
    if let Some((start, next)) = taken(packet, window) {
        let datagram = fragments::place(packet, &settings.solicit_seeds);
        let whole = tables.follow(datagram, Step { start, next, pages, count: come }, now_ns);
        if whole != 0 {
            let price = Price { cost_ns: page.cost_ns * whole, ..page };
            tables.pay_back(settings, owner, by, now_ns, &price);
        }
    }
    true
}

/// Where a source is noted whose fragments come.
#[inline(always)]
fn source(packet: &Packet, settings: &Settings) -> SolicitPlace {
    let (protocol, remote) = (protocol::FRAGMENT, packet.source);
    Flow { protocol, remote, local: remote, remote_port: 0, local_port: 0 }.place(&settings.solicit_seeds)
}

/// Where a fragment begins and where the next one does, units of eight bytes, if it is certain that the kernel takes it: of what
/// it throws away the rest is never put together. The next of the last is 0.
#[inline(always)]
fn taken<'a>(packet: &Packet, window: impl Window<'a>) -> Option<(u64, u64)> {
    let piece = &packet.piece;
    let is_right = match packet.source {
        Address::V4(_) => {
            let ip = window.view::<Ipv4>(packet.network_at)?;
            ip.version_length == 0x45 && checksum(words(ip.as_bytes())) == 0
        }
        Address::V6 { .. } => {
            let ip = window.view::<Ipv6>(packet.network_at)?;
            let fragment = window.view::<Fragment>(packet.network_at + size_of::<Ipv6>())?;
            ip.next_header == protocol::FRAGMENT && fragment.next_header != protocol::FRAGMENT
        }
    };
    let fits = piece.length != 0 && piece.end <= 0xffff && (piece.is_last || piece.length % 8 == 0);
    let next = if piece.is_last { 0 } else { (piece.start + piece.length) / 8 };
    (is_right && fits).then_some(((piece.start / 8).into(), next.into()))
}

/// The way of a bucket whose word is the own one, or if there is none that which ends first. `left` tells of a word for how many
/// units it lasts, 0 if it has ended, and whether it is the own one.
#[inline(always)]
fn find<S: Slot>(bucket: &[S; WAYS], left: impl Fn(u64) -> (u64, bool)) -> (usize, bool) {
    // VERIFIER: without a branch, and the way in the low bits, as in the table of debts.
    let mut best = u64::MAX;
    for (way, slot) in bucket.iter().enumerate() {
        let found = slot.load();
        let (left, is_own) = left(found);
        let rank = (1 + left) * u64::from(!is_own || left == 0);
        best = opaque(best.min(rank * WAYS as u64 + way as u64), found);
    }
    (best as usize % WAYS, best < WAYS as u64)
}

/// Units until an end of so many bits, 0 once it is over: nothing lasts longer than `longest`.
#[inline(always)]
fn left(end: u64, bits: u32, longest: u64, now: u64) -> u64 {
    let left = end.wrapping_sub(now) & mask(bits);
    left * u64::from(left <= longest)
}

/// Notes that a fragment of the source with this tag has come: how many have before it, for as long as it is known, and 0 if none
/// has. The number wraps.
#[inline(always)]
pub fn arrives<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) -> u64 {
    let now = now_ns >> UNIT_SHIFT;
    let (way, is_own) = find(bucket, |word| {
        (left(word, bits::SOURCE_END, KNOWN, now), word >> bits::SOURCE_TAG == tag.into())
    });
    let old = bucket[way].load();
    let before = if is_own { 1 + (old >> bits::SOURCE_END & mask(16)) } else { 0 };
    let word = u64::from(tag) << bits::SOURCE_TAG
        | (before & mask(16)) << bits::SOURCE_END
        | now.wrapping_add(KNOWN) & mask(bits::SOURCE_END);
    // A lost race is another fragment's.
    bucket[way].compare_swap(old, word);
    before
}

/// Pages that a datagram has taken, if this fragment makes it whole; 0 if not. `tag` is that of its [place](FragmentPlace).
#[inline(always)]
pub fn follow<S: Slot>(bucket: &[S; WAYS], tag: u64, step: Step, now_ns: u64) -> u64 {
    let now = now_ns >> UNIT_SHIFT;
    let tag = tag & mask(64 - bits::TAG);
    let (way, is_own) = find(bucket, |word| (left(word, bits::END, FOLLOWED, now), word >> bits::TAG == tag));
    let old = bucket[way].load();
    let (next, pages, count) = (
        old >> bits::END & mask(bits::NEXT),
        old >> (bits::END + bits::NEXT) & mask(bits::PAGES),
        old >> (bits::TAG - bits::COUNT) & mask(bits::COUNT),
    );
    let between = step.count.wrapping_sub(count) & mask(bits::COUNT);
    let follows = is_own && next == step.start && between <= MOST_BETWEEN;
    // The kernel takes no second first fragment.
    let pages = match step.start {
        0 if is_own => return 0,
        0 => step.pages,
        _ if follows && pages + step.pages <= MOST_PAGES => pages + step.pages,
        _ => return 0,
    };
    let word = tag << bits::TAG
        | (step.count & mask(bits::COUNT)) << (bits::TAG - bits::COUNT)
        | pages << (bits::END + bits::NEXT)
        | step.next << bits::END
        | now.wrapping_add(FOLLOWED) & mask(bits::END);
    let is_written = bucket[way].compare_swap(old, word) == old;
    // Nothing follows the last one, as no fragment but the first begins at 0.
    if is_written && step.next == 0 { pages } else { 0 }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    fn bucket() -> [AtomicU64; WAYS] {
        Default::default()
    }

    fn step(start: u64, next: u64, count: u64) -> Step {
        Step { start, next, pages: 1, count }
    }

    /// What is paid back for each of these fragments, `(start, next, count)`, a second apart or less.
    fn paid(fragments: &[(u64, u64, u64)], apart_ns: u64) -> Vec<u64> {
        let bucket = bucket();
        let times = (NOW..).step_by(apart_ns.max(1) as usize);
        let follow_one =
            |(&(start, next, count), now_ns)| follow(&bucket, 7, step(start, next, count), now_ns);
        fragments.iter().zip(times).map(follow_one).collect()
    }

    #[test]
    fn a_datagram_is_paid_back_when_it_is_whole_and_once() {
        assert_eq!(paid(&[(0, 185, 1), (185, 370, 2), (370, 0, 3)], 0), [0, 0, 3]);
        assert_eq!(paid(&[(0, 185, 1), (185, 0, 2), (185, 0, 3)], 0), [0, 2, 0], "the last again");
        assert_eq!(paid(&[(0, 185, 1), (0, 185, 2), (185, 0, 3)], 0), [0, 0, 2], "the first again");
        assert_eq!(paid(&[(0, 185, 1), (185, 370, 2), (185, 370, 3), (370, 0, 4)], 0), [0, 0, 0, 3]);
        assert_eq!(paid(&[(185, 0, 1), (0, 185, 2)], 0), [0, 0], "out of order");
        assert_eq!(paid(&[(0, 185, 1), (186, 0, 2)], 0), [0, 0], "with a hole");
        assert_eq!(paid(&[(0, 185, 1), (184, 0, 2)], 0), [0, 0], "with an overlap");
        assert_eq!(paid(&[(0, 185, 1), (185, 0, 2)], 3 * SECOND), [0, 0], "too late");
        assert_eq!(paid(&[(0, 185, 65_535), (185, 0, 0)], 0), [0, 2], "the number wraps");
    }

    /// The kernel throws away what it has of a datagram when too many fragments come in between.
    #[test]
    fn a_datagram_with_much_between_its_fragments_is_not_paid_back() {
        for (between, expected) in [(1, 2), (32, 2), (33, 0), (64, 0), (1_000, 0)] {
            assert_eq!(paid(&[(0, 185, 5), (185, 0, 5 + between)], 0), [0, expected], "{between}");
        }
    }

    #[test]
    fn a_source_is_known_for_a_minute_after_its_last_fragment() {
        let bucket = bucket();
        let come = |tag, seconds: u64| arrives(&bucket, tag, NOW + seconds * SECOND);
        assert_eq!(
            [come(7, 0), come(8, 0), come(7, 1), come(7, 50), come(7, 105), come(7, 170)],
            [0, 0, 1, 2, 3, 0]
        );
    }

    #[test]
    fn in_a_full_bucket_the_oldest_gives_way() {
        let bucket = bucket();
        for tag in 1..=9 {
            assert_eq!(arrives(&bucket, tag, NOW + u64::from(tag) * SECOND), 0);
        }
        let known: Vec<bool> = (2..=9).map(|tag| arrives(&bucket, tag, NOW + 10 * SECOND) != 0).collect();
        assert_eq!(known, [true; 8]);
    }
}
