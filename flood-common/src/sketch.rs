//! A sketch in front of the debt table: a source far below its limit needs no slot.
//!
//! One row of a count-min sketch (Cormode and Muthukrishnan 2005) whose counters are debts, so that they decay by
//! themselves. All sources that share a word add to one debt, so the debt of a single source is never larger. As
//! long as the word says "far below the limit", the table is not consulted: in a flood from spoofed addresses, each
//! of which sends little, the table is neither read nor filled. Each processor has words of its own, few enough for
//! its cache.
//!
//! A packet weighs [as much](shift) as there are processors, times 32: through the words of all processors together
//! a source gets no more than a 32nd of its limit. When a source is looked up in the table, its word is filled, so
//! that it gets nothing more from the sketch as long as it continues.

use crate::{meter::Price, verifier::unknown};

/// Binary logarithm of the number of words of each processor: 512 KiB.
pub const SKETCH_BITS: u32 = 17;

/// Words of each processor.
pub const SKETCH_WORDS: usize = 1 << SKETCH_BITS;

/// Nanoseconds in the unit of a word, as a binary logarithm: 4 microseconds, and a word wraps after 4.9 hours.
const UNIT: u32 = 12;

/// The sketch admits one part in so many of a limit.
const SHARE: u32 = 32;

/// Returns how much more a packet weighs here than in the table, as a binary logarithm, on so many processors.
pub fn shift(processors: u32) -> u32 {
    (SHARE * processors.max(1)).next_power_of_two().ilog2()
}

/// Returns the word for the party charged in this bucket. Different limits of one source lie side by side, as their
/// buckets do.
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

/// Returns the debt of a word at a time, the debt with one more packet, and the highest that still conforms, in
/// units.
#[inline(always)]
fn debts(word: u32, now: u32, price: &Price, shift: u32) -> (u64, u64, u64) {
    let ahead = u64::from(word.wrapping_sub(now));
    // A value further ahead is not a debt, but a word from long ago.
    let debt = if ahead > price.horizon_ns >> UNIT { 0 } else { ahead };
    (debt, debt + ((price.cost_ns << shift) >> UNIT) + 1, price.tolerance_ns >> UNIT)
}

/// Whether a packet conforms according to its word; if not, the table must be consulted. Writes nothing. For
/// `shift` see [`shift`].
#[inline(always)]
pub fn would_admit(word: &impl Word, now_ns: u64, price: &Price, shift: u32) -> bool {
    let (_, charged, most) = debts(word.load(), (now_ns >> UNIT) as u32, price, shift);
    charged <= most
}

/// Does the same, and charges the word.
///
/// A word is never lowered: packets of one source, or of two that share a word, may have different tolerances, and
/// a packet with the smaller one must not erase what the others have filled.
#[inline(always)]
pub fn admits(word: &impl Word, now_ns: u64, price: &Price, shift: u32) -> bool {
    let now = (now_ns >> UNIT) as u32;
    let (debt, charged, most) = debts(word.load(), now, price, shift);
    word.store(now.wrapping_add(charged.min(most).max(debt) as u32));
    charged <= most
}
