//! Records what happened to the first fragment of a datagram, for later fragments: only the first has ports.
//!
//! A note is a word, `tag:44 | first:4 | end:16`, in a table of buckets like the debt table; the place of a
//! datagram in it is a hash with secret keys. `first` says that the first fragment was dropped, or gives its class.
//! A note lasts for two seconds: the fragments of a datagram leave their sender together.
//!
//! Invariant: a note affects only its own datagram, and without one a fragment is judged by the limits of its
//! class. So a full table, which anyone who sends many first fragments can cause, does no harm except through those
//! limits.

use crate::{
    meter::{Slot, WAYS, own_or_first_to_end},
    packet::Packet,
    solicit::{SolicitSeeds, hash},
    verifier::opaque,
};

/// Binary logarithm of the number of buckets: 131,072 datagrams in 1 MiB.
pub const FRAGMENT_BITS: u32 = 14;

/// Nanoseconds in a unit of time, as a binary logarithm: 0.13 seconds.
const UNIT_SHIFT: u32 = 27;

/// Units for which a note lasts: 2 seconds. A host waits longer for missing fragments (30 seconds in Linux), but a
/// datagram does not arrive over a link that keeps its fragments apart for seconds.
const LIFETIME: u64 = 15;

const TAG_SHIFT: u32 = 20;
const FIRST_SHIFT: u32 = 16;

/// What happened to a first fragment, as a number in a word; any other number is its class, plus one.
pub mod first {
    /// Not known.
    pub const UNKNOWN: u64 = 0;
    /// The host solicited it.
    pub const ASKED: u64 = 14;
    /// It was dropped.
    pub const DROPPED: u64 = 15;
}

/// A bucket and the tag of a datagram in it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FragmentPlace {
    /// Number of the bucket.
    pub bucket: u32,
    /// Distinguishes the datagrams in a bucket.
    pub tag: u64,
}

impl FragmentPlace {
    /// The place for a [hash](datagram_hash).
    #[inline(always)]
    pub fn of(hash: u64) -> Self {
        Self { bucket: (hash >> (64 - FRAGMENT_BITS)) as u32, tag: (hash << FRAGMENT_BITS) >> TAG_SHIFT }
    }
}

/// Returns a hash of the datagram that a packet is part of.
#[inline(always)]
pub fn datagram_hash(packet: &Packet, seeds: &SolicitSeeds) -> u64 {
    hash(seeds, [packet.source, packet.destination], packet.datagram)
}

/// Returns where the datagram that a packet is part of is noted.
#[inline(always)]
pub fn place(packet: &Packet, seeds: &SolicitSeeds) -> FragmentPlace {
    FragmentPlace::of(datagram_hash(packet, seeds))
}

/// Returns the units for which a word still lasts; more than [`LIFETIME`] once it has expired.
#[inline(always)]
fn left(word: u64, now_ns: u64) -> u64 {
    word.wrapping_sub(now_ns >> UNIT_SHIFT) & 0xffff
}

/// Whether a word is the note of the datagram with this tag.
#[inline(always)]
fn is_of(word: u64, tag: u64, now_ns: u64) -> bool {
    (word >> TAG_SHIFT == tag) & (left(word, now_ns) <= LIFETIME)
}

/// Returns what happened to the first fragment of the datagram with this tag: a number of [`first`].
#[inline(always)]
pub fn find<S: Slot>(bucket: &[S; WAYS], tag: u64, now_ns: u64) -> u64 {
    // VERIFIER: searches to the end without a branch, so that there is one path through the program. A datagram has
    // one note.
    bucket.iter().fold(first::UNKNOWN, |first, slot| {
        let found = slot.load();
        let is_here = u64::from(is_of(found, tag, now_ns));
        opaque(first | ((found >> FIRST_SHIFT & 0xf) * is_here), found)
    })
}

/// Notes what happened to the first fragment of a datagram: in its own word, or in the word that expires first.
///
/// Of two first fragments the one that passed counts, so nobody can suppress the rest of another sender's datagram
/// by spoofing a first fragment that is dropped.
#[inline(always)]
pub fn note<S: Slot>(bucket: &[S; WAYS], tag: u64, first: u64, now_ns: u64) {
    let end = (now_ns >> UNIT_SHIFT).wrapping_add(LIFETIME) & 0xffff;
    let (way, _) = own_or_first_to_end(bucket, |word| {
        let left = left(word, now_ns);
        ((left + 1) * u64::from(left <= LIFETIME), is_of(word, tag, now_ns))
    });
    let slot = &bucket[way];
    let old = slot.load();
    if first != first::DROPPED || !is_of(old, tag, now_ns) {
        // If the race is lost, another first fragment's note won it.
        slot.compare_swap(old, tag << TAG_SHIFT | first << FIRST_SHIFT | end);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::class::Class;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;
    const UDP: u64 = Class::Udp as u64 + 1;

    #[test]
    fn a_note_lasts_for_two_seconds_whenever_it_is_made() {
        // The units wrap after 2.4 hours.
        for now_ns in [0, NOW, (1 << 43) - SECOND, 1 << 43] {
            let bucket: [AtomicU64; WAYS] = Default::default();
            assert_eq!(find(&bucket, 5, now_ns), first::UNKNOWN);
            note(&bucket, 5, UDP, now_ns);
            for (later_ns, expected) in [(0, UDP), (1_800_000_000, UDP), (2_200_000_000, first::UNKNOWN)] {
                assert_eq!(find(&bucket, 5, now_ns + later_ns), expected, "{later_ns} ns after {now_ns}");
            }
            assert_eq!(find(&bucket, 6, now_ns), first::UNKNOWN, "another datagram");
        }
    }

    #[test]
    fn of_two_first_fragments_the_one_that_passed_counts() {
        let bucket: [AtomicU64; WAYS] = Default::default();
        note(&bucket, 5, first::DROPPED, NOW);
        assert_eq!(find(&bucket, 5, NOW), first::DROPPED);
        note(&bucket, 5, UDP, NOW);
        note(&bucket, 5, first::DROPPED, NOW);
        assert_eq!(find(&bucket, 5, NOW), UDP);
        note(&bucket, 5, first::DROPPED, NOW + 3 * SECOND);
        assert_eq!(find(&bucket, 5, NOW + 3 * SECOND), first::DROPPED, "the other has ended");
    }

    #[test]
    fn in_a_full_bucket_the_oldest_note_gives_way_and_is_unknown() {
        let bucket: [AtomicU64; WAYS] = Default::default();
        let tags = 100..100 + WAYS as u64 + 1;
        for (tag, now_ns) in tags.clone().zip((NOW..).step_by(200_000_000)) {
            note(&bucket, tag, first::DROPPED, now_ns);
        }
        let found: Vec<u64> = tags.map(|tag| find(&bucket, tag, NOW + 1_600_000_000)).collect();
        assert_eq!(found[0], first::UNKNOWN);
        assert!(found[1..].iter().all(|first| *first == first::DROPPED), "{found:?}");
    }
}
