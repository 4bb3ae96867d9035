//! Writes the hash table of IPv6 nodes while the kernel reads it.
//!
//! A word that does not fit into the first bucket of its node goes into the second, and the first bucket says so.
//! When both are full, a word is copied from its first bucket to its second and then overwritten, never back. A
//! reader that reads the first bucket, then what it says about the second, then the second, finds the word at any
//! moment.
//!
//! The table uses as many buckets as its words need, so that it fits into a cache if possible. Splitting or
//! joining buckets takes three steps: words are copied to their new places, the new [`Size`] is published, and
//! words that are no longer in the right place are cleared. A search that spans the second step starts again.

use std::{
    collections::HashMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use super::store;

use flood_common::{
    lists::{
        ALLOWED, BLOCKED,
        ipv6::{self, AHEAD, ENDS, HOME, HOMES, LODGER, MIN_BUCKET_BITS, PLACES, SIZE_WORD, STATE, Size},
    },
    meter::WAYS,
};

/// The minimum number of buckets.
pub(super) const LEAST: u32 = 1 << MIN_BUCKET_BITS;

/// Share of places in use, percent: right after the number of buckets was chosen, and the limits above and below
/// which it is chosen again. Above, too many words are outside their first bucket; below, the table is larger than
/// necessary.
const WANTED: usize = 75;
const MOST: usize = 85;
const LEAST_USED: usize = 40;

/// Maximum share of places in use, percent, counted over all buckets that the table may have: the test fills
/// tables this far.
const FULL: usize = 90;

/// The fraction of its size by which a table grows when a word finds no place in it.
const FURTHER: u32 = 8;

/// No bucket has a free place.
pub(super) struct AllFull;

/// The content of a word.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct State {
    /// Until when the prefix of the word is on each list: 0 if it is not, [`u32::MAX`] if without end.
    pub ends: [u32; 2],
    /// The offsets at which there are more nodes within this one.
    pub offsets: u32,
}

impl State {
    /// Combines two states: the result covers both.
    pub(super) fn or(self, other: Self) -> Self {
        let Self { ends: [a, b], offsets } = self;
        Self { ends: [a.max(other.ends[0]), b.max(other.ends[1])], offsets: offsets | other.offsets }
    }

    fn in_word(self) -> u64 {
        let kinds = [ALLOWED, BLOCKED].into_iter().zip(self.ends);
        let for_ever = kinds.filter(|(_, end)| *end == u32::MAX).map(|(kind, _)| kind).sum::<u64>();
        for_ever | if self.in_ends() == 0 { 0 } else { ENDS } | ipv6::ahead(self.offsets)
    }

    fn in_ends(self) -> u64 {
        let [allowed, blocked] = self.ends.map(|end| if end == u32::MAX { 0 } else { u64::from(end) });
        allowed | blocked << u32::BITS
    }

    fn read(word: u64, ends: u64) -> Self {
        let half = |kind, half: u64| {
            let ends = if word & ENDS == 0 { 0 } else { half as u32 };
            if word & kind == 0 { ends } else { u32::MAX }
        };
        let offsets = if word & LODGER == 0 { ipv6::offsets_in(word) } else { 0 };
        Self { ends: [half(ALLOWED, ends), half(BLOCKED, ends >> u32::BITS)], offsets }
    }
}

/// Identifies a word in the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Key {
    /// The hash of the node.
    pub hash: u64,
    /// The word without its state, as in its first home.
    pub word: u64,
    /// Its mark in the index.
    pub mark: u64,
}

impl Key {
    fn is_of(self, word: u64) -> bool {
        let state = if self.word & LODGER == 0 { STATE | AHEAD } else { STATE };
        word & !(state | HOME) == self.word
    }
}

/// The position of a word.
#[derive(Clone, Copy)]
struct Spot {
    bucket: u32,
    place: usize,
}

/// The memory of the table.
#[derive(Clone, Copy)]
pub(super) struct Words<'a> {
    pub gates: &'a [AtomicU64],
    /// Buckets of words, followed by as many buckets of ends.
    pub nodes: &'a [AtomicU64],
}

impl<'a> Words<'a> {
    pub(super) fn size(self) -> Size {
        Size(self.gates[SIZE_WORD as usize].load(Ordering::Relaxed))
    }

    fn bucket(self, number: u32) -> &'a [AtomicU64] {
        let first = number as usize * WAYS;
        &self.nodes[first..first + PLACES]
    }

    fn word(self, spot: Spot) -> &'a AtomicU64 {
        &self.nodes[spot.bucket as usize * WAYS + spot.place]
    }

    fn ends(self, spot: Spot) -> &'a AtomicU64 {
        &self.nodes[self.nodes.len() / 2 + spot.bucket as usize * WAYS + spot.place]
    }

    fn index(self, number: u32) -> &'a AtomicU64 {
        &self.gates[ipv6::index_at(number) as usize]
    }

    /// Sets the bits in `mask` of a bucket's index to `bits`.
    fn change_index(self, number: u32, bits: u64, mask: u64) {
        let index = self.index(number);
        let before = index.load(Ordering::Relaxed);
        if before & mask != bits {
            store(index, before & !mask | bits);
        }
    }

    fn free(self, number: u32) -> Option<Spot> {
        let place = self.bucket(number).iter().position(|word| word.load(Ordering::Relaxed) == 0)?;
        Some(Spot { bucket: number, place })
    }

    /// Iterates over all words.
    fn all(self, buckets: u32) -> impl Iterator<Item = (Spot, u64)> + use<'a> {
        (0..buckets).flat_map(move |bucket| {
            let words = self.bucket(bucket).iter().enumerate();
            words.filter_map(move |(place, word)| match word.load(Ordering::Relaxed) {
                0 => None,
                word => Some((Spot { bucket, place }, word)),
            })
        })
    }

    /// Fills a free place. A reader that sees the word also sees its ends.
    fn put(self, spot: Spot, word: u64, ends: u64, mark: u64) {
        if word & ENDS != 0 {
            store(self.ends(spot), ends);
        }
        store(self.word(spot), word);
        let (mark, mask) = ipv6::mark_in(mark, spot.place);
        self.change_index(spot.bucket, mark, mask);
    }

    /// Returns the mark of a word in the index.
    fn mark(self, spot: Spot) -> u64 {
        ipv6::mark_of(self.index(spot.bucket).load(Ordering::Relaxed), spot.place)
    }

    /// Copies a word to a free place in the home of this number.
    fn copy(self, from: Spot, to: Spot, home: u64) {
        let word = self.word(from).load(Ordering::Relaxed);
        self.put(to, ipv6::in_home(word, home), self.ends(from).load(Ordering::Relaxed), self.mark(from));
    }

    /// Frees a place. A reader that still has the old word but sees no ends notices the change.
    fn clear(self, spot: Spot) {
        store(self.word(spot), 0);
        store(self.ends(spot), 0);
        let (mark, mask) = ipv6::mark_in(0, spot.place);
        self.change_index(spot.bucket, mark, mask);
    }
}

/// Returns the hash that determines the bucket of a word, given the bucket that it is in.
fn hash_here(word: u64, bucket: u32) -> u64 {
    ipv6::home_hash(ipv6::hash_of(word, bucket), ipv6::home_of(word))
}

/// State needed to write the table, besides its content.
#[derive(Default)]
pub(super) struct NodeTable {
    /// Number of words in the table.
    used: usize,
    /// For each bucket and bit of its index, the number of words that are in a later bucket.
    displaced: HashMap<(u32, u64), u32>,
}

impl NodeTable {
    /// Creates an empty table in empty memory.
    pub(super) fn new(words: Words<'_>) -> Self {
        store(&words.gates[SIZE_WORD as usize], Size::new(LEAST, 0).0);
        Self::default()
    }

    /// Returns how many words fit into `buckets` at this share of use.
    fn fit(buckets: u32, percent: usize) -> usize {
        buckets as usize * PLACES * percent / 100
    }

    /// Returns the number of words in the table.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    fn find(words: Words<'_>, key: Key) -> Option<(Spot, u64)> {
        let size = words.size();
        (0..HOMES).find_map(|home| {
            let bucket = size.bucket(ipv6::home_hash(key.hash, home));
            words.bucket(bucket).iter().enumerate().find_map(|(place, word)| {
                let word = word.load(Ordering::Relaxed);
                let found = key.is_of(word) && ipv6::home_of(word) == home;
                found.then_some((Spot { bucket, place }, word))
            })
        })
    }

    /// Returns the state stored under this key.
    pub(super) fn get(words: Words<'_>, key: Key) -> Option<State> {
        let (spot, word) = Self::find(words, key)?;
        Some(State::read(word, words.ends(spot).load(Ordering::Relaxed)))
    }

    /// Stores a state under this key.
    pub(super) fn set(&mut self, words: Words<'_>, key: Key, state: State) -> Result<(), AllFull> {
        let word = key.word | state.in_word();
        if let Some((spot, found)) = Self::find(words, key) {
            if word & ENDS != 0 {
                store(words.ends(spot), state.in_ends());
            }
            store(words.word(spot), word | found & HOME);
            if word & ENDS == 0 {
                store(words.ends(spot), 0);
            }
            return Ok(());
        }
        let size = words.size();
        let bucket = |home: u64| size.bucket(ipv6::home_hash(key.hash, home));
        let free = (0..HOMES).find_map(|home| Some((home, words.free(bucket(home))?)));
        let mut made = || (0..HOMES).find_map(|home| Some((home, self.make_room(words, bucket(home))?)));
        let (home, spot) = free.or_else(&mut made).ok_or(AllFull)?;
        words.put(spot, ipv6::in_home(word, home), state.in_ends(), key.mark);
        self.displace(words, key.hash, key.mark, 0..home);
        self.used += 1;
        Ok(())
    }

    /// Moves one of the words in a bucket to a later one; returns the place that becomes free.
    fn make_room(&mut self, words: Words<'_>, bucket: u32) -> Option<Spot> {
        let size = words.size();
        (0..PLACES).map(|place| Spot { bucket, place }).find(|spot| {
            let word = words.word(*spot).load(Ordering::Relaxed);
            let (hash, home) = (ipv6::hash_of(word, bucket), ipv6::home_of(word));
            let later = (home + 1..HOMES)
                .find_map(|later| Some((later, words.free(size.bucket(ipv6::home_hash(hash, later)))?)));
            let Some((later, there)) = later else { return false };
            words.copy(*spot, there, later);
            self.displace(words, hash, words.mark(*spot), home..later);
            words.clear(*spot);
            true
        })
    }

    /// Marks these homes of a node to show that a word with this mark is in a later one.
    fn displace(&mut self, words: Words<'_>, hash: u64, mark: u64, homes: Range<u64>) {
        let bit = ipv6::later(mark);
        for home in homes {
            let bucket = words.size().bucket(ipv6::home_hash(hash, home));
            *self.displaced.entry((bucket, bit)).or_default() += 1;
            words.change_index(bucket, bit, bit);
        }
    }

    /// Removes the word of this key.
    pub(super) fn unset(&mut self, words: Words<'_>, key: Key) {
        let Some((spot, word)) = Self::find(words, key) else { return };
        words.clear(spot);
        self.used -= 1;
        let bit = ipv6::later(key.mark);
        for home in 0..ipv6::home_of(word) {
            let bucket = words.size().bucket(ipv6::home_hash(key.hash, home));
            if let Some(count) = self.displaced.get_mut(&(bucket, bit)) {
                *count -= 1;
                if *count == 0 {
                    self.displaced.remove(&(bucket, bit));
                    words.change_index(bucket, 0, bit);
                }
            }
        }
    }

    /// Makes searches in progress start again.
    pub(super) fn next_edition(words: Words<'_>) {
        let size = words.size();
        store(&words.gates[SIZE_WORD as usize], Size::new(size.buckets(), size.edition() + 1).0);
    }

    /// Makes room for `more` additional words, if necessary.
    pub(super) fn grow(&mut self, words: Words<'_>, more: usize, most: u32) {
        let wanted = self.used + more;
        if wanted > Self::fit(words.size().buckets(), MOST) {
            self.resize(words, Self::buckets_for(wanted).min(most));
        }
    }

    /// Grows although there should be enough room. Returns whether that was possible.
    pub(super) fn grow_further(&mut self, words: Words<'_>, most: u32) -> bool {
        let buckets = words.size().buckets();
        self.resize(words, (buckets + buckets / FURTHER).min(most));
        buckets < words.size().buckets()
    }

    /// Returns the maximum number of words in this many buckets.
    pub(super) fn most(buckets: u32) -> usize {
        Self::fit(buckets, FULL)
    }

    /// Shrinks the table if it is far larger than it need be.
    pub(super) fn shrink(&mut self, words: Words<'_>) {
        if self.used < Self::fit(words.size().buckets(), LEAST_USED) {
            self.resize(words, Self::buckets_for(self.used));
        }
    }

    fn buckets_for(used: usize) -> u32 {
        let buckets = (used * 100).div_ceil(PLACES * WANTED);
        u32::try_from(buckets).unwrap_or(u32::MAX).max(LEAST)
    }

    /// Switches to this many buckets, if the words fit into them.
    fn resize(&mut self, words: Words<'_>, buckets: u32) {
        let old = words.size();
        if buckets == old.buckets() {
            return;
        }
        let new = Size::new(buckets, old.edition() + 1);
        let mut copies = Vec::new();
        for (spot, word) in words.all(old.buckets()) {
            if new.bucket(hash_here(word, spot.bucket)) == spot.bucket {
                continue;
            }
            let hash = ipv6::hash_of(word, spot.bucket);
            let free = (ipv6::home_of(word)..HOMES)
                .find_map(|home| Some((home, words.free(new.bucket(ipv6::home_hash(hash, home)))?)));
            let Some((home, free)) = free else {
                // Practically impossible. The table stays as it is.
                copies.into_iter().for_each(|spot| words.clear(spot));
                return;
            };
            words.copy(spot, free, home);
            copies.push(free);
        }
        let most = old.buckets().max(buckets);
        // Before the new size is read, mark all words that will not be in their first bucket.
        for (spot, word) in words.all(most) {
            let hash = ipv6::hash_of(word, spot.bucket);
            let bit = ipv6::later(words.mark(spot));
            for home in 0..ipv6::home_of(word) {
                words.change_index(new.bucket(ipv6::home_hash(hash, home)), bit, bit);
            }
        }
        store(&words.gates[SIZE_WORD as usize], new.0);
        for (spot, _) in
            words.all(most).filter(|(spot, word)| new.bucket(hash_here(*word, spot.bucket)) != spot.bucket)
        {
            words.clear(spot);
        }
        self.recount(words, most);
    }

    /// Recomputes from the words what each index must say about later buckets.
    fn recount(&mut self, words: Words<'_>, buckets: u32) {
        let size = words.size();
        self.displaced.clear();
        let mut masks = vec![0; buckets as usize];
        for (spot, word) in words.all(buckets) {
            let hash = ipv6::hash_of(word, spot.bucket);
            let bit = ipv6::later(words.mark(spot));
            for home in 0..ipv6::home_of(word) {
                let bucket = size.bucket(ipv6::home_hash(hash, home));
                *self.displaced.entry((bucket, bit)).or_default() += 1;
                masks[bucket as usize] |= bit;
            }
        }
        for (bits, number) in masks.into_iter().zip(0..) {
            words.change_index(number, bits, ipv6::LATER);
        }
    }
}
