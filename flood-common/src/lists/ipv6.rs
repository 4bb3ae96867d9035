//! The lists for IPv6: entries of any length, found with few looks whatever their lengths are.
//!
//! The gate has a cell for each /16, which holds what entries of up to 16 bits say. Longer entries are in a hash
//! table of *nodes*: prefixes, at the lengths at which a binary search over all lengths looks (Waldvogel et al.,
//! SIGCOMM 1997). A cell or node has the offsets to the lengths at which there is more within it, a mask of powers
//! of two. The search takes the largest offset: if the node of the address at that length exists, the search
//! continues from there, otherwise with the next offset.
//!
//! A node with at most [`LODGERS`] entries consists only of these. They are in its bucket, each a word with its own
//! length and tag, so one cache line has them all. Only a node with more entries has a word of its own; its entries
//! are at greater lengths.
//!
//! A bucket has an *index*, a word that shows which of its words may match. All indices together are an eighth of
//! the table, and more often in a cache. For most addresses that are not listed, they alone suffice.
//!
//! A word combines what all entries that cover its prefix say, so no shorter prefix has to be looked up.
//!
//! The table grows and shrinks while it is read, by a few buckets at a time (linear hashing, Litwin 1980). If its
//! [edition](Size::edition) changes during a search, the search starts again.

#[cfg(not(target_arch = "bpf"))]
use core::cell;

use crate::{
    meter::{Slot, WAYS},
    place::prefix_hash,
    verifier::opaque,
};

use super::{ALLOWED, BLOCKED, GATE_V6, KINDS, ListTables};

/// Entries of up to this many bits are in the cells of the gate.
pub const CELL_LENGTH: u32 = 16;
/// The word of the gate with the [`Size`].
pub const SIZE_WORD: u32 = GATE_V6;
const CELL_BITS: u32 = 32;
/// The bits of a cell.
pub const CELL_MASK: u64 = (1 << CELL_BITS) - 1;
const CELLS_PER_WORD: u32 = u64::BITS / CELL_BITS;
/// Words of this part of the gate, without the indices after it: the size, and the cells (256 KiB).
pub(super) const GATE_WORDS: u32 = 1 + (1 << CELL_LENGTH) / CELLS_PER_WORD;

/// The most entries that are in the bucket of their node.
pub const LODGERS: usize = 5;

/// Places in a bucket: one word each, in one cache line.
pub const PLACES: usize = WAYS;
/// Buckets in which a word may be.
pub const HOMES: u64 = 4;

/// Binary logarithm of the minimum number of buckets (256 KiB). A word has the bits of its hash from here on; its
/// bucket gives the bits before.
pub const MIN_BUCKET_BITS: u32 = 12;
/// Binary logarithm of a number of buckets that is never reached.
pub const MAX_BUCKET_BITS: u32 = 22;

/// In a word, besides what it says permanently ([`ALLOWED`], [`BLOCKED`]): it also says something that ends. The
/// end is at the same place in the other half of the table.
pub const ENDS: u64 = 1 << 2;
/// In a word: it belongs to an entry, not to a node.
pub const LODGER: u64 = 1 << 3;
/// Position of the offsets in the word of a node, and in a cell.
const AHEAD_SHIFT: u32 = 5;
/// The offsets in the word of a node: up to 32.
pub const AHEAD: u64 = 0x3f << AHEAD_SHIFT;
/// In the word of a node: makes it differ from zero, which is a free place.
const TAKEN: u64 = 1 << 4;
/// In the result of a look: a word changed in the meantime.
const CHANGED: u64 = 1 << 12;
/// Position of the length, less one, in the word of an entry: 7 bits.
const LENGTH_SHIFT: u32 = 4;
const LENGTH: u64 = 0x7f;
/// The bits that may change in a word while it belongs to the same node or entry.
pub const STATE: u64 = KINDS | ENDS;

/// Position of the tag: 50 bits of the node's hash.
const TAG_SHIFT: u32 = MIN_BUCKET_BITS;
/// The bits of the tag that the words of entries have as well: they determine in which buckets a word may be.
const COMMON_BITS: u32 = 14;
const COMMON: u64 = ((1 << COMMON_BITS) - 1) << TAG_SHIFT;
/// Position of an entry's own tag: 36 bits of its hash.
const ENTRY_TAG_SHIFT: u32 = TAG_SHIFT + COMMON_BITS;
/// Position of the number of its home in a word, above all tags.
const HOME_SHIFT: u32 = 62;
/// The bits of that number.
pub const HOME: u64 = 3 << HOME_SHIFT;
/// The bits of the tags.
const TAG: u64 = !HOME >> TAG_SHIFT << TAG_SHIFT;
const ENTRY_TAG: u64 = !HOME >> ENTRY_TAG_SHIFT << ENTRY_TAG_SHIFT;
/// Bits of the index for each word.
const MARK_BITS: u32 = 7;
const MARK: u64 = (1 << MARK_BITS) - 1;
/// Position of these bits in a node's hash: the upper ones of the common bits, because buckets use the lower ones.
const MARK_SHIFT: u32 = ENTRY_TAG_SHIFT - MARK_BITS;
/// The lower ones of these bits, which distinguish the entries of a node.
const NIBBLE_BITS: u32 = 4;
/// A one in each of the marks in an index.
const MARK_ONES: u64 = ((1 << (PLACES as u32 * MARK_BITS)) - 1) / MARK;
/// Position of the bits for words in later buckets.
const LATER_SHIFT: u32 = PLACES as u32 * MARK_BITS;
/// All of those bits: 8.
pub const LATER: u64 = !0 << LATER_SHIFT;
const _: () = assert!(LATER_SHIFT + (1 << (MARK_BITS - NIBBLE_BITS)) == u64::BITS);
const _: () = assert!(MAX_BUCKET_BITS < ENTRY_TAG_SHIFT);

/// Unit of an end: 2^26 ns (67 ms), so that 32 bits last for nine years after the host has started.
const END_SHIFT: u32 = 26;

/// Position in a cell of the lengths of two entries that end, plus one: the last to end of those that allow, and of
/// those that block.
const ENDING_SHIFT: u32 = AHEAD_SHIFT + 5;
const ENDING_BITS: u32 = 5;
const ENDING: u64 = (1 << ENDING_BITS) - 1;

/// The most steps of a search. One attempt looks at ten lengths at most, at two more for entries of the cell that
/// end, and checks whether the size is unchanged. All attempts together may take three times that, because an edit
/// may change the size that often.
const STEPS: u32 = 3 * (10 + 2 + 1);

/// Converts the end of an entry ([`end`](super::end)) to the unit of this table. An end too far ahead becomes
/// `u32::MAX`, which means none.
pub fn end(end: u64) -> u32 {
    let units = end.div_ceil(1 << (END_SHIFT - super::END_SHIFT));
    if end == super::NEVER { u32::MAX } else { u32::try_from(units).unwrap_or(u32::MAX) }
}

/// Returns the offsets from a node or cell to the lengths at which the search may continue.
///
/// Each longer length is a sum of such offsets, and is reached by the largest first. Common lengths are reached
/// early: 32, 48, 64, and 128 from 96.
pub fn offsets(length: u32) -> u32 {
    let step = 1 << length.trailing_zeros();
    match length {
        16 | 48 | 96 => 2 * step - 1,
        128.. => 0,
        _ => step - 1,
    }
}

/// Returns the length at which the search for an entry looks after `node`, a shorter length.
pub fn next(node: u32, entry: u32) -> u32 {
    node + (1 << (entry - node).min(offsets(node)).ilog2())
}

/// A size that no table has.
const NO_SIZE: u64 = 0;

/// The number of buckets of the table, and its edition: a word of the gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl Size {
    const SPLIT_SHIFT: u32 = MAX_BUCKET_BITS;
    const EDITION_SHIFT: u32 = 2 * MAX_BUCKET_BITS;
    const FIELD: u64 = (1 << MAX_BUCKET_BITS) - 1;

    /// Combines a number of buckets, at least `2^MIN_BUCKET_BITS` and less than `2^MAX_BUCKET_BITS`, with an
    /// edition, of which 20 bits are kept.
    pub fn new(buckets: u32, edition: u64) -> Self {
        let whole = 1 << buckets.ilog2();
        let split = u64::from(buckets - whole);
        Self(edition << Self::EDITION_SHIFT | split << Self::SPLIT_SHIFT | u64::from(whole - 1))
    }

    /// Returns the number of buckets.
    pub fn buckets(self) -> u32 {
        (self.mask() + 1 + self.split()) as u32
    }

    /// Returns the edition, which changes with everything that a search must not span.
    pub fn edition(self) -> u64 {
        self.0 >> Self::EDITION_SHIFT
    }

    /// The bits of a hash that select the bucket; if that bucket has been split, one more bit does.
    #[inline(always)]
    fn mask(self) -> u64 {
        self.0 & Self::FIELD
    }

    /// The number of buckets that have been split in two; they are the first ones.
    #[inline(always)]
    fn split(self) -> u64 {
        self.0 >> Self::SPLIT_SHIFT & Self::FIELD
    }

    /// Returns the bucket of a hash.
    #[inline(always)]
    pub fn bucket(self, hash: u64) -> u32 {
        let low = hash & self.mask();
        let number = if low < self.split() { hash & (2 * self.mask() + 1) } else { low };
        number as u32
    }
}

/// Fibonacci hashing (Knuth 6.4) of the part of a node's hash that all its words have.
#[inline(always)]
fn spread(hash: u64) -> u64 {
    ((hash & COMMON) >> TAG_SHIFT).wrapping_add(1).wrapping_mul(0x9e37_79b1)
}

/// Returns the bits in which the hash for a home differs from that of the node. All four homes differ in the lowest
/// two bits.
#[inline(always)]
fn distance(hash: u64, home: u64) -> u64 {
    let bits = spread(hash).wrapping_mul(2 * home + 1) >> (u32::BITS - MAX_BUCKET_BITS) & Size::FIELD;
    if home == 0 { 0 } else { bits & !(HOMES - 1) | home }
}

/// Returns the hash that selects a node's bucket: the first, second or a further one.
#[inline(always)]
pub fn home_hash(hash: u64, home: u64) -> u64 {
    hash ^ distance(hash, home)
}

/// Returns the number of the home in which a word is.
pub fn home_of(word: u64) -> u64 {
    word >> HOME_SHIFT
}

/// Returns a word as it is in the home of this number.
pub fn in_home(word: u64, home: u64) -> u64 {
    word & !HOME | home << HOME_SHIFT
}

/// Returns four bits that all addresses in a prefix share, if the prefix is at least four bits longer than the
/// node: the bits after the node's, or others if those are in both halves of the address.
#[inline(always)]
fn nibble([network, interface]: [u64; 2], node: u32) -> u64 {
    let half = if node < 64 { network } else { interface };
    half >> (60_u32.wrapping_sub(node) & 63) & 0xf
}

/// The marks that words have in an index: that of a node's own word and of entries less than four bits longer, and
/// that of the other entries with a certain [`nibble`].
#[derive(Clone, Copy)]
struct Marks([u64; 2]);

impl Marks {
    #[inline(always)]
    fn new(hash: u64, nibble: u64) -> Self {
        Self([node_mark(hash), node_mark(hash) ^ nibble])
    }

    /// Returns the places whose words may match, each as the highest bit of its mark in the index.
    #[inline(always)]
    fn places(self, index: u64) -> u64 {
        let [of_node, of_entry] = self.0.map(|mark| {
            let differs = index ^ (mark * MARK_ONES);
            // A mark of zeros is found by its borrow (Hacker's Delight 6-1), and the mark above it may be found as
            // well.
            differs.wrapping_sub(MARK_ONES) & !differs
        });
        (of_node | of_entry) & MARK_ONES << (MARK_BITS - 1)
    }
}

/// Returns the mark that the word of a node has in an index.
#[inline(always)]
fn node_mark(hash: u64) -> u64 {
    hash >> MARK_SHIFT & MARK
}

/// Returns the mark that the word of an entry, or of the node itself, has in an index.
pub fn mark(hash: u64, node: u32, address: [u64; 2], length: u32) -> u64 {
    let Marks([of_node, of_entry]) = Marks::new(hash, nibble(address, node));
    if length < node + 4 { of_node } else { of_entry }
}

/// Returns the mark of a word at its position in an index, and the mask of its bits.
pub fn mark_in(mark: u64, place: usize) -> (u64, u64) {
    let shift = place as u32 * MARK_BITS;
    (mark << shift, MARK << shift)
}

/// Returns the mark of a place in an index.
pub fn mark_of(index: u64, place: usize) -> u64 {
    index >> (place as u32 * MARK_BITS) & MARK
}

/// Returns the bit that an index has for words with this mark in a later bucket. It is the same for all words of a
/// node.
#[inline(always)]
pub fn later(mark: u64) -> u64 {
    1 << (u64::from(LATER_SHIFT) + (mark >> NIBBLE_BITS))
}

/// Returns the hash of the node to which a word in this bucket belongs, as far as it determines the buckets of the
/// node.
pub fn hash_of(word: u64, bucket: u32) -> u64 {
    let low = u64::from(bucket) ^ distance(word, home_of(word));
    word & COMMON | low & ((1 << TAG_SHIFT) - 1)
}

/// Returns the word of a node in its first home, without state.
pub fn node_word(hash: u64) -> u64 {
    hash & TAG | TAKEN
}

/// Returns the word of an entry in the first home of its node, without state.
pub fn entry_word(node_hash: u64, entry_hash: u64, length: u32) -> u64 {
    entry_hash & ENTRY_TAG | node_hash & COMMON | u64::from(length - 1) << LENGTH_SHIFT | LODGER
}

/// Returns offsets as a part of the word of a node.
pub fn ahead(offsets: u32) -> u64 {
    u64::from(offsets) << AHEAD_SHIFT
}

/// Returns the offsets in the word of a node.
#[inline(always)]
pub fn offsets_in(word: u64) -> u32 {
    ((word & AHEAD) >> AHEAD_SHIFT) as u32
}

/// Returns a cell: what it says permanently, the offsets, and the lengths of entries that end.
pub fn cell(kinds: u64, offsets: u32, ending: [Option<u32>; 2]) -> u64 {
    let [allowed, blocked] = ending.map(|length| length.map_or(0, |length| u64::from(length) + 1));
    kinds | ahead(offsets) | (allowed | blocked << ENDING_BITS) << ENDING_SHIFT
}

/// Returns what a cell must say while its content changes.
pub fn cell_meanwhile(before: u64, after: u64) -> u64 {
    let both = KINDS | ahead(offsets(CELL_LENGTH));
    let lengths = [ENDING << ENDING_SHIFT, ENDING << ENDING_SHIFT << ENDING_BITS];
    // An entry that ends is found by its length. If there is a new one, it takes effect at once.
    let ending = lengths.map(|length| if after & length == 0 { before & length } else { after & length });
    (before | after) & both | ending[0] | ending[1]
}

/// Returns where a cell is in the gate: the word, and by how much to shift it.
#[inline(always)]
pub fn cell_at(cell: u32) -> (u32, u32) {
    (SIZE_WORD + 1 + cell / CELLS_PER_WORD, cell % CELLS_PER_WORD * CELL_BITS)
}

/// Returns where the index of a bucket is in the gates. An index has a [mark](Marks) of each word in the bucket,
/// and bits for the words that are in a later bucket.
#[inline(always)]
pub fn index_at(bucket: u32) -> u32 {
    super::GATE_WORDS + bucket
}

/// Returns the lists whose end, in a word of the other half of the table, is still ahead.
#[inline(always)]
fn kinds_in_force(ends: u64, now: u64) -> u64 {
    // VERIFIER: the difference is negative before the end; comparisons would make four paths.
    let before = |end: u64| now.wrapping_sub(end) >> 63;
    (before(ends & u64::from(u32::MAX)) * ALLOWED) | (before(ends >> u32::BITS) * BLOCKED)
}

/// Returns the lists that an address is on.
#[inline(always)]
pub(super) fn kinds<T: ListTables>(tables: &T, address: [u64; 2], now_ns: u64) -> u64 {
    let cell = cell_of(tables, address[0]);
    let kinds = cell & KINDS;
    if kinds & ALLOWED != 0 || cell == kinds { kinds } else { tables.search(address, now_ns) }
}

#[inline(always)]
fn cell_of<T: ListTables>(tables: &T, network: u64) -> u64 {
    let (word, shift) = cell_at((network >> (u64::BITS - CELL_LENGTH)) as u32);
    tables.gate(word) >> shift & CELL_MASK
}

/// A word of a [`Memo`].
pub trait Note {
    /// Reads it.
    fn load(&self) -> u64;
    /// Writes it.
    fn store(&self, value: u64);
}

#[cfg(not(target_arch = "bpf"))]
impl Note for cell::Cell<u64> {
    fn load(&self) -> u64 {
        self.get()
    }

    fn store(&self, value: u64) {
        self.set(value);
    }
}

/// The state that a search keeps from look to look, and that a look keeps during its steps.
///
/// VERIFIER: a program and the functions that it calls have 512 bytes of stack together, and a search may use a
/// fifth. In the kernel this state is in a map. The verifier does not know what is read from there, so the paths to
/// a step merge.
#[repr(C)]
#[derive(Default)]
pub struct Memo<N> {
    network: N,
    interface: N,
    /// The time, in units of an end.
    now: N,
    /// The size of the table when this attempt began.
    size: N,
    /// Of the present look: the length, the hash, the bucket, and what was found.
    length: N,
    hash: N,
    bucket: N,
    found: N,
}

impl<N: Note> Memo<N> {
    #[inline(always)]
    fn address(&self) -> [u64; 2] {
        [self.network.load(), self.interface.load()]
    }
}

/// Returns the lists that an IPv6 address is on, if its cell does not tell.
#[inline(always)]
pub fn search<T: ListTables>(
    tables: &T,
    memo: &Memo<T::Note>,
    [network, interface]: [u64; 2],
    now_ns: u64,
) -> u64 {
    memo.network.store(network);
    memo.interface.store(interface);
    memo.now.store(now_ns >> END_SHIFT);
    let (mut kinds, mut node, mut todo) = begin(tables, memo);
    for _ in 0..STEPS {
        // VERIFIER: merges the paths to the next step.
        let unknown = memo.size.load();
        (kinds, node, todo) = (opaque(kinds, unknown), opaque(node, unknown), opaque(todo, unknown));
        if todo == 0 {
            if tables.gate(SIZE_WORD) == memo.size.load() {
                break;
            }
            (kinds, node, todo) = begin(tables, memo);
            continue;
        }
        let (length, done) = todo::first(todo, node);
        todo -= done;
        let found = tables.look(memo, length);
        kinds |= found & KINDS;
        if found & CHANGED != 0 {
            memo.size.store(NO_SIZE);
            todo = 0;
        } else if length <= CELL_LENGTH.into() {
            // An entry of the cell leads no further.
        } else if found & TAKEN != 0 {
            (node, todo) = (length, (found & AHEAD) >> AHEAD_SHIFT);
        } else if found & LODGER != 0 {
            todo = 0;
        }
    }
    kinds
}

/// Begins an attempt. Returns what the cell says, its length, and where to look next.
#[inline(always)]
fn begin<T: ListTables>(tables: &T, memo: &Memo<T::Note>) -> (u64, u64, u64) {
    memo.size.store(tables.gate(SIZE_WORD));
    let cell = cell_of(tables, memo.network.load());
    (cell & KINDS, CELL_LENGTH.into(), todo::of_cell(cell))
}

/// Looks up the node of this length that contains the address, and the entries that lodge with it.
///
/// Returns the combination of what all words that concern the address say.
#[inline(always)]
pub fn look<T: ListTables>(tables: &T, memo: &Memo<T::Note>, length: u64) -> u64 {
    // VERIFIER: it need not distinguish lengths.
    let length = opaque(length, memo.network.load()) as u32;
    let hash = prefix_hash(|number| tables.key(number), memo.address(), length);
    memo.length.store(length.into());
    memo.hash.store(hash);
    memo.found.store(0);
    let marks = Marks::new(hash, nibble(memo.address(), length));
    let mut number = Size(memo.size.load()).bucket(hash);
    for home in 0..HOMES {
        let mut index = tables.gate(index_at(number));
        let places = marks.places(index);
        if places != 0 {
            memo.bucket.store(number.into());
            examine(tables, memo, places);
            // A word that has left this bucket in the meantime is in a later one.
            index = tables.gate(index_at(memo.bucket.load() as u32));
        }
        let hash = memo.hash.load();
        if index & later(node_mark(hash)) == 0 {
            break;
        }
        number = Size(memo.size.load()).bucket(home_hash(hash, home + 1));
    }
    memo.found.load()
}

/// Where a search still has to look: offsets from a node, and before them the lengths of entries of the cell that
/// end.
mod todo {
    use super::{AHEAD_SHIFT, CELL_LENGTH, ENDING, ENDING_BITS, ENDING_SHIFT};

    /// Positions of the two lengths, each plus one.
    const ALLOWING: u32 = 6;
    const BLOCKING: u32 = ALLOWING + ENDING_BITS;

    #[inline(always)]
    pub(super) fn of_cell(cell: u64) -> u64 {
        cell >> AHEAD_SHIFT & (2 * CELL_LENGTH as u64 - 1) | cell >> ENDING_SHIFT << ALLOWING
    }

    /// Returns the length to look at, and the part of `todo` that this completes.
    #[inline(always)]
    pub(super) fn first(todo: u64, node: u64) -> (u64, u64) {
        if todo >> ALLOWING != 0 {
            let allowing = todo >> ALLOWING & ENDING;
            let blocking = todo >> BLOCKING;
            return if allowing != 0 {
                (allowing - 1, allowing << ALLOWING)
            } else {
                (blocking - 1, blocking << BLOCKING)
            };
        }
        // Comparisons, because the processor predicts their outcome: it looks there before it knows what is to be
        // done.
        let offset = match todo {
            32.. => 32,
            16.. => 16,
            8.. => 8,
            4.. => 4,
            2.. => 2,
            _ => 1,
        };
        (node + offset, offset)
    }
}

/// Returns the first of some places.
#[inline(always)]
fn first_place(places: u64) -> usize {
    /// The number of each place, in three bits that its product with the highest bit of its mark has at the top.
    const NUMBERS: u64 = 1 << 48 | 2 << 41 | 3 << 34 | 4 << 27 | 5 << 20 | 6 << 13 | 7 << 6;

    let first = places & places.wrapping_neg();
    (first.wrapping_mul(NUMBERS) >> (u64::BITS - 3)) as usize % WAYS
}

/// Collects what some words of a bucket say, if they belong to the node at which a search looks, or to entries that
/// cover its address.
#[inline(always)]
fn examine<T: ListTables>(tables: &T, memo: &Memo<T::Note>, mut places: u64) {
    let Some(bucket) = tables.nodes(memo.bucket.load() as u32) else { return };
    for _ in 0..PLACES {
        let hash = memo.hash.load();
        // VERIFIER: as above.
        places = opaque(places, hash);
        if places == 0 {
            break;
        }
        let place = first_place(places);
        places &= places - 1;
        let word = bucket[place].load();
        let mut found = word & KINDS;
        if word & LODGER == 0 {
            if (word ^ hash) & TAG != 0 {
                continue;
            }
            found |= word & (AHEAD | TAKEN);
        } else {
            // An entry that covers the address counts, whichever node it lodges with.
            let length = (word >> LENGTH_SHIFT & LENGTH) as u32 + 1;
            if (word ^ prefix_hash(|number| tables.key(number), memo.address(), length)) & ENTRY_TAG != 0 {
                continue;
            }
            // If it is shorter than the node, it lodges with another, and longer ones must still be looked for.
            // VERIFIER: the difference is then negative, which takes no branch.
            found |= LODGER * (u64::from(length).wrapping_sub(memo.length.load()) >> 63 ^ 1);
        }
        memo.found.store(memo.found.load() | found);
        if word & ENDS != 0
            && let Some(ends) = tables.ends(memo.bucket.load() as u32)
        {
            let mut found = kinds_in_force(ends[place].load(), memo.now.load());
            // The end may belong to another word, which has taken this place.
            if bucket[place].load() != word {
                found |= CHANGED;
            }
            memo.found.store(memo.found.load() | found);
        }
    }
}
