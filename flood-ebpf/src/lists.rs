//! The tables of the lists, as maps.

use flood_common::{
    lists::{ListTables, Prefix},
    meter::{Slot as _, WAYS},
};

use crate::{
    lookup::{MapTables, Word},
    maps::{CELL_BITS, GATES, LISTED, LISTED_BITS, PREFIXES},
};

impl ListTables for MapTables<'_> {
    type Word = Word;

    #[inline(always)]
    fn bucket_bits(&self) -> u32 {
        LISTED_BITS.load()
    }

    #[inline(always)]
    fn cell_bits(&self) -> u32 {
        CELL_BITS.load()
    }

    #[inline(always)]
    fn gate(&self, word: u32) -> u64 {
        GATES.get(word).map_or(0, Word::load)
    }

    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<&[Word; WAYS]> {
        LISTED.get(number)
    }

    #[inline(always)]
    fn prefix(&self, prefix: &Prefix) -> Option<&[Word; 2]> {
        // SAFETY: the words are read whole. An element that user space has removed may be used again for another
        // prefix while it is read here; ARCHITECTURE.md says what that comes to.
        unsafe { PREFIXES.get(prefix) }
    }
}
