//! Limits how much of the kernel's memory for incomplete datagrams fragments may take.
//!
//! The kernel keeps the fragments of a datagram for `ipfrag_time`, and refuses all fragments while it keeps
//! `ipfrag_high_thresh` bytes. So three hundred packets a second, none of which is ever completed, deny fragments
//! to everybody. Here each fragment that would pass is charged what it may take: to a budget of its family, which
//! allows half of that memory at once and drains as much again while fragments are kept, and to its source for a
//! [share](crate::meter::SHARE) of it. A datagram is followed until it is whole. Then the kernel has reassembled
//! it, and its whole charge is paid back.
//!
//! A datagram is whole, in whatever order its fragments arrive, when they lie side by side from its beginning to
//! its end. One sum shows this: each fragment adds a secret number for where it ends and subtracts that for where
//! it begins, except at the two ends of the datagram. Adjacent fragments cancel out; holes, overlaps and
//! repetitions do not, except once in 8,192 times.
//!
//! The first fragment of a visitor's datagram cannot be told from a spoofed one. So the last quarter is reserved
//! for [solicited](crate::solicit) traffic and for traffic that has [proven](crate::proof) its origin, and the
//! quarter before it for sources that have sent fragments before. A flood that spoofs a new address for each packet
//! gets only the first half.
//!
//! Invariants: what the kernel keeps was charged here; a fragment is paid back once, and only with all of its
//! datagram.

use zerocopy::IntoBytes;

use crate::{
    abi::{BUDGET_REASSEMBLY, Settings},
    account::{Account, By},
    address::Address,
    answer::{checksum, words},
    decide::{Load, Tables, limit, source_of},
    fragments::{self, FragmentPlace},
    meter::{Price, Slot, WAYS, own_or_first_to_end},
    packet::{Packet, Part},
    reason::{Reason, is_drop},
    solicit::{Flow, SolicitPlace},
    verifier::opaque,
    wire::{Fragment, Ipv4, Ipv6, Tcp, Window, protocol},
};

/// What a fragment takes in the kernel for each page of its data, bytes: the page, because a driver may use no
/// less, and the structures that describe it and its datagram.
pub const PAGE_BYTES: u64 = 5 << 10;

/// Binary logarithm of the bytes in a page, and the bytes that a driver keeps free in one.
const PAGE_SHIFT: u32 = 12;
const HEADROOM: u32 = 512;

/// The most pages that are paid back for a datagram: more than 64 KiB take.
const MOST_PAGES: u64 = 127;

/// Nanoseconds in a unit of time are two to this power: 0.13 seconds.
const UNIT_SHIFT: u32 = 27;

/// Units for which a datagram is followed: 2 seconds.
const FOLLOWED: u64 = 15;

/// Units for which a source is remembered by its fragments: 60 seconds.
const KNOWN: u64 = 450;

/// Fragments of the same source that may arrive between two of a datagram. The kernel discards what it has of the
/// datagram when there are more than `ipfrag_max_dist`, 64.
const MOST_BETWEEN: u64 = 32;

/// Layout of the words: `tag:32 | count:16 | end:16` for a source, `tag:22 | count:10 | pages:7 | sum:13 | end:12`
/// for a datagram.
mod bits {
    pub(super) const SOURCE_END: u32 = 16;
    pub(super) const SOURCE_TAG: u32 = 32;
    pub(super) const END: u32 = 12;
    pub(super) const SUM: u32 = 13;
    pub(super) const PAGES: u32 = 7;
    pub(super) const COUNT: u32 = 10;
    pub(super) const TAG: u32 = END + SUM + PAGES + COUNT;
}

const fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}

/// Where the use of the kernel's memory is tracked: BPF maps in the kernel, ordinary memory on a host.
pub trait Memory: Tables {
    /// Notes that a fragment of a source [arrived](arrives).
    fn arrives(&self, source: SolicitPlace, now_ns: u64) -> u64;
    /// [Follows](follow) a datagram.
    fn follow(&self, datagram: FragmentPlace, step: Step, now_ns: u64) -> u64;
    /// Pays back a charge to an account and to a host-wide budget, if that much is charged.
    fn pay_back(&self, settings: &Settings, owner: (Account, u32), by: By, now_ns: u64, price: &Price);
}

/// A fragment as a part of its datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What it adds to the sum of its datagram.
    pub sum: u64,
    /// The pages that it takes.
    pub pages: u64,
    /// How many fragments its source sent before it.
    pub count: u64,
}

/// Whether a packet is a fragment that passes so far, for the reason with this number.
#[inline(always)]
pub fn is_due(packet: &Packet, reason: u32) -> bool {
    packet.part != Part::Whole && !is_drop(reason)
}

/// Decides about a fragment of a class that passes so far, for the reason with this number. Checks whether there is
/// memory for it, if it is reassembled here, as connection tracking does for all destinations. Then checks its
/// limits, to which it is charged only now.
#[inline(always)]
pub fn judge<'a, T: Memory>(
    packet: &Packet,
    class: u64,
    reason: u32,
    window: impl Window<'a>,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> u32 {
    let family = u32::from(packet.source.version() == 6);
    let memory = &settings.reassembly[family as usize];
    if !memory.is_set() {
        return reason;
    }
    // VERIFIER: what is known about the packet is forgotten before its limits are checked, because it differs on
    // each path through the parser.
    let forget = |value: u64| opaque(value, settings.solicit_seeds[0]);
    let page = memory.price(0);
    let pages = forget(1 + u64::from((packet.piece.length + HEADROOM) >> PAGE_SHIFT));
    let is_kept = forget((settings.defragments != 0 || tables.is_local(settings, packet.destination)).into());
    let come = forget(if is_kept != 0 { tables.arrives(source(packet, settings), now_ns) } else { 0 });
    let is_wanted =
        [Reason::Solicited, Reason::Proven, Reason::Allowed].iter().any(|wanted| reason == wanted.number());
    let quarters = forget(if is_wanted { 4 } else { 2 + come.min(1) });
    let account = if quarters == 4 { Account::FragmentsProven } else { Account::Fragments };
    let source = source_of(packet, settings);
    let (owner, by) = ((account, BUDGET_REASSEMBLY + family), By::source(source));
    let tolerance_ns = page.tolerance_ns / 4 * quarters;
    let price = Price { cost_ns: page.cost_ns * pages, tolerance_ns, ..page };
    if is_kept != 0 && !tables.charge_shared(settings, owner, by, now_ns, &price) {
        return Reason::FragmentMemory.number();
    }
    let is_followed = forget(is_kept & u64::from(is_taken(packet, window)));
    let datagram = forget(fragments::datagram_hash(packet, &settings.solicit_seeds));
    let step = Step { sum: forget(sum(packet, settings)), pages, count: come };
    let reason = if reason == Reason::Conforming.number() {
        limit(&Load::new(packet, source, class, 1), settings, now_ns, tables.cells()).number()
    } else {
        reason
    };
    let reason = forget(reason.into()) as u32;
    // A dropped fragment completes no datagram.
    if is_followed != 0 && !is_drop(reason) {
        let whole = tables.follow(FragmentPlace::of(datagram), step, now_ns);
        if whole != 0 {
            let price = Price { cost_ns: page.cost_ns * whole, ..page };
            tables.pay_back(settings, owner, by, now_ns, &price);
        }
    }
    reason
}

/// Returns where a source of fragments is noted.
#[inline(always)]
fn source(packet: &Packet, settings: &Settings) -> SolicitPlace {
    let (protocol, remote) = (protocol::FRAGMENT, packet.source);
    Flow { protocol, remote, local: remote, remote_port: 0, local_port: 0 }.place(&settings.solicit_seeds)
}

/// Whether the kernel certainly accepts a fragment. If it discards one, the rest of the datagram is never
/// reassembled.
#[inline(always)]
fn is_taken<'a>(packet: &Packet, window: impl Window<'a>) -> bool {
    let piece = &packet.piece;
    let is_right = match packet.source {
        Address::V4(_) => window
            .view::<Ipv4>(packet.network_at)
            .is_some_and(|ip| ip.version_length == 0x45 && checksum(words(ip.as_bytes())) == 0),
        Address::V6 { .. } => {
            let ip = window.view::<Ipv6>(packet.network_at);
            let fragment = window.view::<Fragment>(packet.network_at + size_of::<Ipv6>());
            // A first fragment without all headers is discarded (RFC 8200 section 4.5). 20 bytes are enough for
            // any, and a fragment with headers in between is not followed.
            ip.is_some_and(|ip| ip.next_header == protocol::FRAGMENT)
                && fragment.is_some_and(|fragment| fragment.next_header == packet.protocol)
                && (piece.start != 0 || piece.length >= size_of::<Tcp>() as u32)
        }
    };
    is_right && piece.length != 0 && piece.end <= 0xffff && (piece.is_last || piece.length.is_multiple_of(8))
}

/// Returns what a fragment adds to the sum of its datagram.
#[inline(always)]
fn sum(packet: &Packet, settings: &Settings) -> u64 {
    let piece = &packet.piece;
    let end = if piece.is_last { 0 } else { place_number(settings, piece.start + piece.length) };
    let start = if piece.start == 0 { 0 } else { place_number(settings, piece.start) };
    end.wrapping_sub(start)
}

/// Returns the secret number of a place in a datagram. It is not a sum of other numbers, because surplus and
/// missing data may have the same length.
#[inline(always)]
fn place_number(settings: &Settings, place: u32) -> u64 {
    let [add, multiply, again, ..] = settings.solicit_seeds;
    let mut x = u64::from(place).wrapping_add(add).wrapping_mul(multiply | 1);
    x ^= x >> 32;
    x = x.wrapping_mul(again | 1);
    x >> (64 - bits::SUM)
}

/// Returns the units until an end of so many bits, 0 once it is past: nothing lasts longer than `longest`.
#[inline(always)]
fn left(end: u64, bits: u32, longest: u64, now: u64) -> u64 {
    let left = end.wrapping_sub(now) & mask(bits);
    left * u64::from(left <= longest)
}

/// Notes that a fragment of the source with this tag arrived. Returns how many arrived before it for as long as the
/// source is remembered, and 0 if none did. The number wraps.
#[inline(always)]
pub fn arrives<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) -> u64 {
    let now = now_ns >> UNIT_SHIFT;
    let (way, is_own) = own_or_first_to_end(bucket, |word| {
        (left(word, bits::SOURCE_END, KNOWN, now), word >> bits::SOURCE_TAG == tag.into())
    });
    let old = bucket[way].load();
    let before = if is_own { 1 + (old >> bits::SOURCE_END & mask(16)) } else { 0 };
    let word = u64::from(tag) << bits::SOURCE_TAG
        | (before & mask(16)) << bits::SOURCE_END
        | now.wrapping_add(KNOWN) & mask(bits::SOURCE_END);
    // If the race is lost, another fragment won it.
    bucket[way].compare_swap(old, word);
    before
}

/// Returns the pages that a datagram has taken if this fragment completes it; 0 if not. `tag` is that of its
/// [place](FragmentPlace).
#[inline(always)]
pub fn follow<S: Slot>(bucket: &[S; WAYS], tag: u64, step: Step, now_ns: u64) -> u64 {
    let now = now_ns >> UNIT_SHIFT;
    let tag = tag & mask(64 - bits::TAG);
    let (way, is_own) =
        own_or_first_to_end(bucket, |word| (left(word, bits::END, FOLLOWED, now), word >> bits::TAG == tag));
    let old = bucket[way].load();
    let (sum, pages, count) = (
        old >> bits::END & mask(bits::SUM),
        old >> (bits::END + bits::SUM) & mask(bits::PAGES),
        old >> (bits::TAG - bits::COUNT) & mask(bits::COUNT),
    );
    // The kernel may have discarded what arrived longer ago.
    let between = step.count.wrapping_sub(count) & mask(bits::COUNT);
    let goes_on = u64::from(is_own && between <= MOST_BETWEEN);
    let sum = step.sum.wrapping_add(sum * goes_on) & mask(bits::SUM);
    let pages = (step.pages + pages * goes_on).min(MOST_PAGES);
    let (left, whole) = if sum == 0 { (0, pages) } else { (pages, 0) };
    let word = tag << bits::TAG
        | (step.count & mask(bits::COUNT)) << (bits::TAG - bits::COUNT)
        | left << (bits::END + bits::SUM)
        | sum << bits::END
        | now.wrapping_add(FOLLOWED) & mask(bits::END);
    if bucket[way].compare_swap(old, word) == old { whole } else { 0 }
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

    /// Returns what is paid back for each of these fragments: `(start, end, is_last, count)`.
    fn paid(fragments: &[(u32, u32, bool, u64)], apart_ns: u64) -> Vec<u64> {
        let settings = Settings {
            solicit_seeds: core::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n as u64 + 1)),
            ..Settings::default()
        };
        let bucket = bucket();
        let mut now_ns = NOW;
        let mut paid = Vec::new();
        for &(start, end, is_last, count) in fragments {
            let number = |place| if place == 0 { 0 } else { place_number(&settings, place) };
            let sum = if is_last { 0 } else { number(end) }.wrapping_sub(number(start));
            paid.push(follow(&bucket, 7, Step { sum, pages: 1, count }, now_ns));
            now_ns += apart_ns;
        }
        paid
    }

    #[test]
    fn a_datagram_is_paid_back_when_it_is_whole_and_once() {
        let (first, middle, last) =
            (|n| (0, 1480, false, n), |n| (1480, 2960, false, n), |n| (2960, 4000, true, n));
        assert_eq!(paid(&[first(1), middle(2), last(3)], 0), [0, 0, 3]);
        assert_eq!(paid(&[last(1), middle(2), first(3)], 0), [0, 0, 3], "the last first");
        assert_eq!(paid(&[middle(1), first(2), last(3)], 0), [0, 0, 3]);
        assert_eq!(paid(&[first(1), middle(2), last(3), last(4)], 0), [0, 0, 3, 0], "the last again");
        assert_eq!(paid(&[first(1), first(2), middle(3), last(4)], 0), [0; 4], "the first again");
        assert_eq!(paid(&[first(1), last(2)], 0), [0, 0], "with a hole");
        assert_eq!(paid(&[first(1), (1400, 2960, false, 2), last(3)], 0), [0; 3], "with an overlap");
        let (missing, twice) = ((1480, 2960, false, 2), (2960, 4440, false, 3));
        assert_eq!(
            paid(&[first(1), twice, twice, (4440, 5000, true, 4)], 0),
            [0; 4],
            "{missing:?} is missing"
        );
        assert_eq!(paid(&[first(1), middle(2), last(3)], 3 * SECOND), [0; 3], "too late");
        assert_eq!(paid(&[first(65_535), middle(0), last(1)], 0), [0, 0, 3], "the number wraps");
        let twice = [first(1), middle(2), last(3), first(4), middle(5), last(6)];
        assert_eq!(paid(&twice, 0), [0, 0, 3, 0, 0, 3], "another of the same name");
    }

    /// The kernel discards what it has of a datagram when too many fragments arrive in between.
    #[test]
    fn a_datagram_with_much_between_its_fragments_is_not_paid_back() {
        for (between, expected) in [(1, 2), (32, 2), (33, 0), (64, 0), (1_000, 0)] {
            let fragments = [(0, 1480, false, 5), (1480, 2000, true, 5 + between)];
            assert_eq!(paid(&fragments, 0), [0, expected], "{between}");
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
