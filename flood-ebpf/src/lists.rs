//! The tables of the lists, as BPF maps.

use core::cell::UnsafeCell;

use flood_common::{
    address::Address,
    lists::{
        ListTables,
        ipv6::{self, Memo, Note},
    },
    meter::{Slot as _, WAYS},
};

use crate::{
    lookup::Word,
    maps::{ALLOW_PROVEN, GATES, LIST_KEYS, LISTED, LISTED_BITS, NODE_BUCKETS, NODES, SEARCH, key_of},
};

/// All tables of the lists.
pub(crate) struct Lists;

impl ListTables for Lists {
    type Word = Word;
    type Note = OwnWord;

    #[inline(always)]
    fn bucket_bits(&self) -> u32 {
        LISTED_BITS.load()
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
    fn key(&self, number: usize) -> u64 {
        LIST_KEYS[number].load()
    }

    #[inline(always)]
    fn nodes(&self, number: u32) -> Option<&[Word; WAYS]> {
        NODES.get(number)
    }

    #[inline(always)]
    fn ends(&self, number: u32) -> Option<&[Word; WAYS]> {
        NODES.get(NODE_BUCKETS.load() + number)
    }

    #[inline(always)]
    fn search(&self, [network, interface]: [u64; 2], now_ns: u64) -> u64 {
        floodgate_search(network, interface, now_ns)
    }

    #[inline(always)]
    fn look(&self, _: &Memo<OwnWord>, length: u64) -> u64 {
        floodgate_look(length)
    }
}

/// See [`ipv6::search`].
///
/// VERIFIER: a separate BPF function that takes plain numbers is verified once and by itself.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_search(network: u64, interface: u64, now_ns: u64) -> u64 {
    match SEARCH.get(0) {
        Some(memo) => ipv6::search(&Lists, memo, [network, interface], now_ns),
        None => 0, // cannot happen: the array has one element
    }
}

/// See [`ipv6::look`].
///
/// VERIFIER: as above. Inlined, it would be verified for each lookup that a search may make: 200,000 instructions
/// more.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn floodgate_look(length: u64) -> u64 {
    match SEARCH.get(0) {
        Some(memo) => ipv6::look(&Lists, memo, length),
        None => 0, // as above
    }
}

/// Whether an address, by its halves, is on the list of sources whose packets pass over the limits by evidence.
///
/// VERIFIER: as above. It keeps the key of the trie off the stack of the programs.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn floodgate_allowed(high: u64, low: u64, now_ns: u64) -> u64 {
    let address = Address::V6 { network: high, interface: low };
    let until = ALLOW_PROVEN.get(key_of(address));
    u64::from(until.is_some_and(|until| now_ns < *until))
}

/// A word that only one processor reads and writes, in programs that do not interrupt each other there.
#[repr(transparent)]
pub(crate) struct OwnWord(UnsafeCell<u64>);

// SAFETY: see above.
unsafe impl Sync for OwnWord {}

impl Note for OwnWord {
    #[inline(always)]
    fn load(&self) -> u64 {
        // SAFETY: the word is in a map value; an aligned 64-bit load is whole.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) }
    }
}
