//! A sketch before the table of debts: what is far below its limit needs no slot.
//!
//! One row of a count-min sketch (Cormode and Muthukrishnan 2005) whose counters are debts, so that they decay by
//! themselves. All sources that share a word add to one debt, so nobody's own is ever larger. While that says "far below
//! the limit", nobody is looked up in the table: in a flood from invented addresses, of which each sends little, the
//! table is neither read nor filled. A processor has words of its own, few enough for its cache.
//!
//! A packet weighs [as often](shift) as there are processors, 32 times: through the words of all of them together a source
//! gets no more than a 32nd of its limit. Whoever is looked up in the table has his word filled, so that he gets nothing
//! more there as long as he goes on.

use crate::{meter::Price, verifier::unknown};

/// Binary logarithm of the number of words of each processor: 512 KiB.
pub const SKETCH_BITS: u32 = 17;

/// Words of each processor.
pub const SKETCH_WORDS: usize = 1 << SKETCH_BITS;

/// Nanoseconds in the unit of a word, as a binary logarithm: 4 microseconds, and a word wraps after 4.9 hours.
const UNIT: u32 = 12;

/// Through the sketch goes one part in so many of a limit.
const SHARE: u32 = 32;

/// How much more a packet weighs here than in the table, as a binary logarithm, on so many processors.
pub fn shift(processors: u32) -> u32 {
    (SHARE * processors.max(1)).next_power_of_two().ilog2()
}

/// The word of whoever is charged in this bucket. Different limits of one source lie side by side, as their buckets do.
#[inline(always)]
pub fn word_of(bucket: u32) -> usize {
    // VERIFIER: the bound comes last, and the compiler must not move it.
    unknown(bucket as usize) % SKETCH_WORDS
}

/// A word that only this processor writes.
pub trait Word {
    /// Reads it.
    fn load(&self) -> u32;
    /// Writes it.
    fn store(&self, value: u32);
}

/// What a word stands for at a time, and what it would with a packet more, in units; and the most that still conforms.
#[inline(always)]
fn debts(word: u32, now: u32, price: &Price, shift: u32) -> (u64, u64, u64) {
    let ahead = u64::from(word.wrapping_sub(now));
    // Further ahead is nobody's debt, but a word from long ago.
    let debt = if ahead > price.horizon_ns >> UNIT { 0 } else { ahead };
    (debt, debt + ((price.cost_ns << shift) >> UNIT) + 1, price.tolerance_ns >> UNIT)
}

/// Whether a packet conforms by what its word says; if not, the table has to be asked. Nothing is written. For `shift` see
/// [`shift`].
#[inline(always)]
pub fn would_admit(word: &impl Word, now_ns: u64, price: &Price, shift: u32) -> bool {
    let (_, charged, most) = debts(word.load(), (now_ns >> UNIT) as u32, price, shift);
    charged <= most
}

/// The same, and charges the word.
///
/// A word is never lowered: packets of one source, or of two that share a word, may have different tolerances, and one
/// with the shorter must not forget what the others have filled.
#[inline(always)]
pub fn admits(word: &impl Word, now_ns: u64, price: &Price, shift: u32) -> bool {
    let now = (now_ns >> UNIT) as u32;
    let (debt, charged, most) = debts(word.load(), now, price, shift);
    word.store(now.wrapping_add(charged.min(most).max(debt) as u32));
    charged <= most
}
