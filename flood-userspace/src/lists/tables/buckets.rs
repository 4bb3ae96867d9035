//! Writes the exact stage of IPv4: eight words in a bucket, two buckets for an address.
//!
//! A new word goes into the emptier of its buckets. When both are full, a word in them that is in the first of its
//! own two buckets is copied to its second and then overwritten. Readers look into the first bucket, then the
//! second, so they find a moving word at any moment; it never moves back. This allows three quarters of all words
//! to be in use (the test fills tables this far).

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::atomic::{AtomicU64, Ordering},
};

use flood_common::{
    lists::{Home, homes, identity, other_home, who, word},
    meter::WAYS,
    place::Seeds,
};

use super::{NoPlace, store};

/// Of eight words, how many may be in use on average.
pub(super) const USABLE: u64 = 6;

/// The buckets.
#[derive(Clone, Copy)]
pub(super) struct Buckets<'a> {
    pub(super) words: &'a [AtomicU64],
    pub(super) seeds: &'a Seeds,
    pub(super) bits: u32,
}

impl Buckets<'_> {
    fn homes(&self, address: u32) -> [Home; 2] {
        homes(self.seeds.place_v4(address, self.bits), self.bits)
    }

    fn bucket(&self, home: Home) -> &[AtomicU64] {
        let first = home.bucket as usize * WAYS;
        &self.words[first..first + WAYS]
    }

    fn free(&self, home: Home) -> impl Iterator<Item = &AtomicU64> {
        self.bucket(home).iter().filter(|word| word.load(Ordering::Relaxed) == 0)
    }

    /// Returns the word that puts the address on a list.
    fn find(&self, address: u32, kind: u64) -> Option<(&AtomicU64, Home)> {
        self.homes(address).into_iter().find_map(|home| {
            let wanted = who(word(home.identity, kind, 0));
            let found = self.bucket(home).iter().find(|word| who(word.load(Ordering::Relaxed)) == wanted);
            found.map(|word| (word, home))
        })
    }

    /// Puts the address on a list until `end`.
    pub(super) fn set(&self, address: u32, kind: u64, end: u64) -> Result<(), NoPlace> {
        if let Some((found, home)) = self.find(address, kind) {
            store(found, word(home.identity, kind, end));
            return Ok(());
        }
        let homes = self.homes(address);
        let [first, second] = homes.map(|home| self.free(home).count());
        let emptier = if first >= second { homes[0] } else { homes[1] };
        let free = self.free(emptier).next().map(|place| (place, emptier));
        let (place, home) = free
            .or_else(|| homes.into_iter().find_map(|home| Some((self.make_room(home)?, home))))
            .ok_or(NoPlace { prefix: IpAddr::from(Ipv4Addr::from(address)).into() })?;
        store(place, word(home.identity, kind, end));
        Ok(())
    }

    /// Copies one of the words in a bucket to its second home; returns its place here, to be overwritten.
    fn make_room(&self, home: Home) -> Option<&AtomicU64> {
        self.bucket(home).iter().find(|place| {
            let held = place.load(Ordering::Relaxed);
            let is_second = identity(held) & 1 == 1;
            let other = other_home(Home { bucket: home.bucket, identity: identity(held) }, self.bits);
            let room = if is_second { None } else { self.free(other).next() };
            if let Some(room) = room {
                store(room, held ^ word(1, 0, 0));
            }
            room.is_some()
        })
    }

    /// Takes the address off a list.
    pub(super) fn unset(&self, address: u32, kind: u64) {
        if let Some((found, _)) = self.find(address, kind) {
            store(found, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use flood_common::place::MIN_BUCKET_BITS;

    use super::*;

    /// The pattern's name, and the address that it makes of a number.
    type Pattern = (&'static str, fn(u32) -> u32);

    #[test]
    fn six_of_eight_words_can_be_used_whatever_the_addresses() {
        let patterns: [Pattern; 3] = [
            ("neighbours", |n| 0xc000_0000 + n),
            ("one per /24", |n| n.rotate_left(8)),
            ("random", |n| n.wrapping_mul(0x9e37_79b1).rotate_left(11).wrapping_mul(0x85eb_ca77)),
        ];
        let usable = (USABLE as u32) << MIN_BUCKET_BITS;
        for (round, (why, pattern)) in (1u32..).zip(patterns) {
            let seeds = Seeds {
                v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f].map(|seed| round.wrapping_mul(seed)),
                ..Seeds::default()
            };
            let words: Vec<_> = (0..WAYS << MIN_BUCKET_BITS).map(|_| AtomicU64::new(0)).collect();
            let buckets = Buckets { words: &words, seeds: &seeds, bits: MIN_BUCKET_BITS };
            for number in 0..usable {
                assert_eq!(buckets.set(pattern(number), 2, 1), Ok(()), "{why}, after {number}");
            }
            assert!((0..usable).all(|number| buckets.find(pattern(number), 2).is_some()), "{why}");
            for number in 0..usable {
                buckets.unset(pattern(number), 2);
            }
            assert!(words.iter().all(|word| word.load(Ordering::Relaxed) == 0), "{why}");
        }
    }
}
