//! The allow list and the block list as the filter looks them up: a gate, then an exact stage, at a cost that does
//! not grow with the number of entries.
//!
//! **IPv4.** The gate has four bits for each /24. Prefixes up to /24 are painted into it. Longer ones are expanded
//! into single addresses in buckets of eight words, and the gate says where it is worth looking there. In front of
//! the gate is its summary, two bits for each /24, which is the answer unless a closer look is needed: its 4 MiB
//! are more often in a cache than the gate's 8. In front of the summary is an overview, two bits for each /16,
//! which is the answer if all /24 in the /16 have the same one: its 16 KiB are always in the nearest cache, and most
//! of a list is empty, or a few large networks. A word names its address exactly, because the place of an address
//! is a permutation of it (see [`place`](crate::place)).
//!
//! **IPv6.** See [`ipv6`].
//!
//! An address is on a list while any unexpired entry of it covers the address; allow wins over block. Only user
//! space writes, one word at a time, in an order in which no address is off a list in between.

pub mod ipv6;

use core::ops::Range;

use crate::{
    address::Address,
    meter::{Slot, WAYS},
    place::{Place, Seeds, TAG_BITS},
    verifier::opaque,
};

/// On the allow list: in a cell of the IPv4 gate, and among the kinds in a word.
pub const ALLOWED: u64 = 1 << 0;
/// On the block list, likewise.
pub const BLOCKED: u64 = 1 << 1;
/// In a cell of the IPv4 gate: single addresses of this /24 are in the buckets.
pub const CLOSER: u64 = 1 << 2;

const KINDS: u64 = ALLOWED | BLOCKED;

/// Length of the IPv4 prefix that is a cell of the gate.
pub const CELL_LENGTH: u32 = 24;
/// Bits of a cell of the IPv4 gate.
pub const CELL_BITS: u32 = 4;
/// Cells in a word of the IPv4 gate.
pub const CELLS_PER_WORD: u32 = u64::BITS / CELL_BITS;
/// A one in each cell of a word.
pub const CELL_ONES: u64 = u64::MAX / ((1 << CELL_BITS) - 1);
/// Bits of a cell in the summary of the IPv4 gate and in the overview: [`ALLOWED`], [`BLOCKED`], or both of them,
/// which stands for [`CLOSER`].
const SUMMARY_BITS: u32 = 2;
/// Cells in a word of the summary or the overview.
const SUMMARY_CELLS: u32 = u64::BITS / SUMMARY_BITS;
/// Length of the IPv4 prefix that is a cell of the overview.
const OVERVIEW_LENGTH: u32 = 16;
/// Cells of the gate in a cell of the overview.
pub const CELLS_PER_OVERVIEW: u32 = 1 << (CELL_LENGTH - OVERVIEW_LENGTH);
/// Words of the overview (16 KiB). The summary begins after them.
const OVERVIEW_WORDS: u32 = (1 << OVERVIEW_LENGTH) / SUMMARY_CELLS;
/// Words of the summary (4 MiB). The IPv4 gate begins after them.
const SUMMARY_WORDS: u32 = (1 << CELL_LENGTH) / SUMMARY_CELLS;
/// Words of the IPv4 gate (8 MiB). The IPv6 gate begins after them.
const GATE_V4_WORDS: u32 = (1 << CELL_LENGTH) / CELLS_PER_WORD;
/// The first word of the IPv6 gate.
const GATE_V6: u32 = OVERVIEW_WORDS + SUMMARY_WORDS + GATE_V4_WORDS;
/// Words of both gates. The indices of the IPv6 buckets begin after them.
pub const GATE_WORDS: u32 = GATE_V6 + ipv6::GATE_WORDS;

/// Bits of an end in a word.
const END_BITS: u32 = 45;
/// An end counts in units of 2^19 ns (0.5 ms), so that it can express every time of a 64-bit clock in nanoseconds.
const END_SHIFT: u32 = u64::BITS - END_BITS;
/// The end of an entry without one: later than any time.
pub const NEVER: u64 = (1 << END_BITS) - 1;
/// Position of the kinds in a word.
const KINDS_SHIFT: u32 = END_BITS;
/// Position of the identity in a word: the tag, and whether the bucket is the second of the address.
const IDENTITY_SHIFT: u32 = KINDS_SHIFT + 2;
const _: () = assert!(IDENTITY_SHIFT + 1 + TAG_BITS == u64::BITS);

/// What the lists say about an address.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Listed {
    /// Nothing.
    Nothing,
    /// It is on the allow list, and perhaps on the block list.
    Allowed,
    /// It is on the block list only.
    Blocked,
}

impl Listed {
    /// Converts from [`ALLOWED`] and [`BLOCKED`]; other bits mean nothing.
    #[inline(always)]
    fn from_kinds(kinds: u64) -> Self {
        if kinds & ALLOWED != 0 {
            Self::Allowed
        } else if kinds & BLOCKED != 0 {
            Self::Blocked
        } else {
            Self::Nothing
        }
    }
}

/// Returns the end of an entry, given the first time at which it no longer holds, nanoseconds. Rounds up, by less
/// than a millisecond.
pub fn end(expires_ns: u64) -> u64 {
    expires_ns.div_ceil(1 << END_SHIFT).clamp(1, NEVER)
}

/// Returns a word that puts its address or prefix on the list `kind` until `end`. It is never 0, which is a free
/// place.
pub fn word(identity: u64, kind: u64, end: u64) -> u64 {
    identity << IDENTITY_SHIFT | kind << KINDS_SHIFT | end
}

/// Returns the identity and kind of a word, which distinguish it from the others in its bucket.
pub fn who(word: u64) -> u64 {
    word >> KINDS_SHIFT
}

/// Returns the identity in a word.
#[inline(always)]
pub fn identity(word: u64) -> u64 {
    word >> IDENTITY_SHIFT
}

/// Returns the list of a word, if the word has not ended.
#[inline(always)]
fn kinds_in_force(word: u64, now_ns: u64) -> u64 {
    if now_ns >> END_SHIFT < word & NEVER { word >> KINDS_SHIFT & KINDS } else { 0 }
}

/// One of the two buckets in which an IPv4 address may be, and its identity there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Home {
    /// Number of the bucket.
    pub bucket: u32,
    /// Identity of the address in it.
    pub identity: u64,
}

/// Returns the two buckets of the address with this place. The second is a function of the first and the tag that
/// is its own inverse, so that both name the address.
#[inline(always)]
pub fn homes(place: Place, bucket_bits: u32) -> [Home; 2] {
    let Place { bucket, tag } = place;
    let identity = u64::from(tag) << 1;
    // Fibonacci hashing (Knuth 6.4) of the tag; odd, so that the buckets differ.
    let distance = u32::from(tag).wrapping_add(1).wrapping_mul(0x9e37_79b1) >> (32 - bucket_bits) | 1;
    [Home { bucket, identity }, Home { bucket: bucket ^ distance, identity: identity | 1 }]
}

/// Returns the other home of the address that is in this one.
pub fn other_home(home: Home, bucket_bits: u32) -> Home {
    let tag = (home.identity >> 1) as u16;
    let [_, mut other] = homes(Place { bucket: home.bucket, tag }, bucket_bits);
    other.identity = home.identity ^ 1;
    other
}

/// Returns where a cell is in the IPv4 gate: the word, and by how much to shift it.
#[inline(always)]
pub fn gate_cell(cell: u32) -> (u32, u32) {
    (OVERVIEW_WORDS + SUMMARY_WORDS + cell / CELLS_PER_WORD, cell % CELLS_PER_WORD * CELL_BITS)
}

/// Returns where a cell is in the summary: the word, and by how much to shift it.
#[inline(always)]
pub fn summary_cell(cell: u32) -> (u32, u32) {
    (OVERVIEW_WORDS + cell / SUMMARY_CELLS, cell % SUMMARY_CELLS * SUMMARY_BITS)
}

/// Returns where a cell is in the overview: the word, and by how much to shift it.
#[inline(always)]
pub fn overview_cell(cell: u32) -> (u32, u32) {
    let cell = cell / CELLS_PER_OVERVIEW;
    (cell / SUMMARY_CELLS, cell % SUMMARY_CELLS * SUMMARY_BITS)
}

/// Returns the words of the summary that a cell of the overview stands for, given one of the cells of the gate in
/// it.
pub fn overviewed(cell: u32) -> Range<u32> {
    let (first, _) = summary_cell(cell / CELLS_PER_OVERVIEW * CELLS_PER_OVERVIEW);
    first..first + CELLS_PER_OVERVIEW / SUMMARY_CELLS
}

/// Returns the content of the overview's cell for these words of the summary.
pub fn overview(mut words: impl Iterator<Item = u64>) -> u64 {
    /// A one in each cell.
    const ONES: u64 = u64::MAX / KINDS;

    let first = words.next().unwrap_or(0);
    let kinds = first & KINDS;
    if first == kinds * ONES && words.all(|word| word == first) { kinds } else { KINDS }
}

/// Returns the content of the summary for a word of the IPv4 gate: 32 bits.
pub fn summary(gate: u64) -> u64 {
    let [allowed, blocked, closer] =
        [ALLOWED, BLOCKED, CLOSER].map(|bit| gate >> bit.trailing_zeros() & CELL_ONES);
    // Allow wins, whatever else holds.
    let spread = (allowed | closer) | ((blocked | closer) & !allowed) << 1;
    // Every other pair of bits is empty, so move the pairs together.
    let spread = (spread | spread >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    let spread = (spread | spread >> 4) & 0x00ff_00ff_00ff_00ff;
    let spread = (spread | spread >> 8) & 0x0000_ffff_0000_ffff;
    (spread | spread >> 16) & 0xffff_ffff
}

/// The tables of the lists: maps in the kernel, ordinary memory on a host.
pub trait ListTables {
    /// A word of the buckets.
    type Word: Slot;
    /// A word of the state that a search keeps.
    type Note: ipv6::Note;

    /// Binary logarithm of the number of buckets.
    fn bucket_bits(&self) -> u32;
    /// A word of the gates, or an index.
    fn gate(&self, word: u32) -> u64;
    /// A bucket of IPv4 addresses.
    fn bucket(&self, number: u32) -> Option<&[Self::Word; WAYS]>;
    /// One of the four keys with which IPv6 prefixes are hashed.
    fn key(&self, number: usize) -> u64;
    /// A bucket of IPv6 nodes.
    fn nodes(&self, number: u32) -> Option<&[Self::Word; WAYS]>;
    /// The ends of the words in a bucket of IPv6 nodes.
    fn ends(&self, number: u32) -> Option<&[Self::Word; WAYS]>;

    /// The lists that an IPv6 address is on, if its cell does not tell: an [`ipv6::search`].
    fn search(&self, address: [u64; 2], now_ns: u64) -> u64;

    /// A look of that search.
    #[inline(always)]
    fn look(&self, memo: &ipv6::Memo<Self::Note>, length: u64) -> u64
    where
        Self: Sized,
    {
        ipv6::look(self, memo, length)
    }
}

/// Looks an address up in both lists.
#[inline(always)]
pub fn look_up<T: ListTables>(tables: &T, seeds: &Seeds, address: Address, now_ns: u64) -> Listed {
    Listed::from_kinds(match address {
        Address::V4(v4) => kinds_v4(tables, seeds, v4, now_ns),
        Address::V6 { network, interface } => ipv6::kinds(tables, [network, interface], now_ns),
    })
}

#[inline(always)]
fn kinds_v4<T: ListTables>(tables: &T, seeds: &Seeds, address: u32, now_ns: u64) -> u64 {
    let cell = address >> (32 - CELL_LENGTH);
    let (word, shift) = overview_cell(cell);
    let mut kinds = tables.gate(word) >> shift & KINDS;
    if kinds == KINDS {
        let (word, shift) = summary_cell(cell);
        kinds = tables.gate(word) >> shift & KINDS;
    }
    // VERIFIER: one path for both answers.
    kinds = opaque(kinds, now_ns);
    if kinds != KINDS {
        return kinds;
    }
    let (word, shift) = gate_cell(cell);
    let gate = tables.gate(word);
    let mut kinds = gate >> shift;
    if kinds & CLOSER == 0 || kinds & ALLOWED != 0 {
        return kinds;
    }
    let bits = tables.bucket_bits();
    for home in homes(seeds.place_v4(address, bits), bits) {
        let Some(bucket) = tables.bucket(home.bucket) else { continue };
        // VERIFIER: it need not distinguish what was found so far.
        kinds = opaque(kinds, gate);
        for slot in bucket {
            let word = slot.load();
            if identity(word) == home.identity {
                kinds |= kinds_in_force(word, now_ns);
            }
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::place::MIN_BUCKET_BITS;

    proptest! {
        #[test]
        fn both_homes_name_the_same_address(bucket in 0..1u32 << MIN_BUCKET_BITS, tag: u16) {
            let [first, second] = homes(Place { bucket, tag }, MIN_BUCKET_BITS);
            prop_assert_ne!(first.bucket, second.bucket);
            prop_assert!(second.bucket < 1 << MIN_BUCKET_BITS);
            prop_assert_eq!(other_home(first, MIN_BUCKET_BITS), second);
            prop_assert_eq!(other_home(second, MIN_BUCKET_BITS), first);
        }

        #[test]
        fn a_word_holds_until_its_end_and_less_than_a_millisecond_longer(expires_ns in 1u64.., before: u32) {
            let word = word(0x1_ffff, BLOCKED, end(expires_ns));
            prop_assert_eq!(identity(word), 0x1_ffff);
            prop_assert_eq!(who(word), 0x1_ffff << 2 | BLOCKED);
            prop_assert_eq!(kinds_in_force(word, expires_ns.saturating_sub(1 + u64::from(before))), BLOCKED);
            if let Some(after) = expires_ns.checked_add(1_000_000) {
                prop_assert_eq!(kinds_in_force(word, after), 0);
            }
        }
    }

    #[test]
    fn the_summary_has_the_answer_or_says_where_to_look_closer() {
        let kinds = [
            (0, 0),
            (ALLOWED, ALLOWED),
            (BLOCKED, BLOCKED),
            (ALLOWED | BLOCKED, ALLOWED),
            (CLOSER, KINDS),
            (ALLOWED | CLOSER, ALLOWED),
            (BLOCKED | CLOSER, KINDS),
            (ALLOWED | BLOCKED | CLOSER, ALLOWED),
        ];
        for cell in 0..CELLS_PER_WORD {
            for (gate, expected) in kinds {
                let (word, shift) = summary_cell(cell);
                let first = summary_cell(0).0;
                assert_eq!(
                    (word, summary(gate << (cell * CELL_BITS))),
                    (first, expected << shift),
                    "{gate:#b}"
                );
            }
        }
        assert_eq!(summary(u64::MAX / 0xf * BLOCKED), u64::from(u32::MAX) / 3 * BLOCKED);
    }

    #[test]
    fn the_overview_has_the_answer_where_all_have_the_same() {
        let ones = u64::MAX / KINDS;
        let of = |words: [u64; 3]| overview(words.into_iter());
        for kinds in [0, ALLOWED, BLOCKED, KINDS] {
            assert_eq!(of([kinds * ones; 3]), kinds);
        }
        for cell in 0..SUMMARY_CELLS {
            let other = BLOCKED << (cell * SUMMARY_BITS);
            assert_eq!([of([other, 0, 0]), of([0, other, 0]), of([0, 0, other])], [KINDS; 3], "{cell}");
        }
        let last = u32::MAX >> (32 - CELL_LENGTH);
        assert_eq!(overviewed(last), overviewed(last - 255));
        assert_eq!(overviewed(last).end, gate_cell(0).0);
    }

    #[test]
    fn what_never_ends_outlasts_every_clock() {
        assert_eq!(
            kinds_in_force(word(0, ALLOWED, NEVER), (u64::MAX >> END_SHIFT << END_SHIFT) - 1),
            ALLOWED
        );
        assert_eq!(end(u64::MAX), NEVER);
        assert_eq!(kinds_in_force(0, 0), 0, "a free place");
    }
}
