//! Recognizes retransmitted SYNs. A client whose first SYN was lost sends it again; imitating that costs an
//! attacker nothing.
//!
//! A SYN sets three bits in a Bloom filter (Bloom 1970; all bits in one line, Putze et al. 2007). There is one
//! filter for each quarter of a second, sixteen in all, which take turns. A SYN counts as a retransmission when its
//! bits are set in a filter that is old enough. It then clears them, so each noting lets one copy pass. So a flood
//! of SYNs without retransmissions fills no table: it makes some of its own packets look like retransmissions (one
//! in 400 of 100,000 a second, one in 70 of 300,000), and keeps at most one client in twenty from being recognised.
//!
//! The bits are a hash of addresses, ports and sequence number with secret keys.

use crate::{meter::Slot, packet::Packet, solicit::SolicitSeeds, solicit::hash};

/// Binary logarithm of the number of lines: 8 MiB.
pub const LINE_BITS: u32 = 16;

/// Filters in a line, one word each.
pub const SLICES: usize = 16;

/// Nanoseconds for which a filter takes SYNs, as a binary logarithm: 0.27 seconds.
const SLICE_SHIFT: u32 = 28;

/// A client retransmits its SYN after a second (RFC 6298), then after two more. A copy in a filter younger than
/// three turns (0.54 seconds at least) arrives too soon for that; the oldest filter is 4 seconds old.
const SOONEST: u64 = 3;

/// Bits of a filter in a word; above them is the round that it belongs to.
const BITS: u32 = 56;

/// The place where a SYN is noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynPlace {
    /// Number of the line.
    pub line: u32,
    /// Its bits.
    pub bits: u64,
}

/// Returns where a SYN with this sequence number is noted.
#[inline(always)]
pub fn place(packet: &Packet, sequence: u32, seeds: &SolicitSeeds) -> SynPlace {
    let ports = packet.ports.map_or(0, |ports| u64::from(ports.source) << 16 | u64::from(ports.destination));
    let x = hash(seeds, [packet.source, packet.destination], ports << 32 | u64::from(sequence));
    // Three numbers below 56, from six bits each.
    let bit = |shift: u32| 1 << (((x >> shift & 63) * u64::from(BITS)) >> 6);
    SynPlace { line: (x >> (64 - LINE_BITS)) as u32, bits: bit(0) | bit(6) | bit(12) }
}

/// Returns the word and the round of a slice.
#[inline(always)]
fn word_and_round(slice: u64) -> (usize, u64) {
    (slice as usize % SLICES, (slice / SLICES as u64) & 0xff)
}

/// Whether a SYN arrived before, as long ago as a client waits. If not, notes it.
#[inline(always)]
pub fn came_again<S: Slot>(line: &[S; SLICES], bits: u64, now_ns: u64) -> bool {
    let now = now_ns >> SLICE_SHIFT;
    for age in SOONEST..SLICES as u64 {
        let (word, round) = word_and_round(now.wrapping_sub(age));
        let found = line[word].load();
        if found >> BITS == round && found & bits == bits {
            // If a copy on another processor was faster, that one passes.
            return line[word].compare_swap(found, found & !bits) == found;
        }
    }
    let (word, round) = word_and_round(now);
    let found = line[word].load();
    let noted = (if found >> BITS == round { found } else { round << BITS }) | bits;
    if noted != found {
        // If another SYN wins the race, the next copy counts as the first.
        line[word].compare_swap(found, noted);
    }
    false
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    fn line() -> [AtomicU64; SLICES] {
        Default::default()
    }

    #[test]
    fn a_syn_comes_again_after_as_long_as_a_client_waits() {
        // Wherever in a slice the first SYN arrives, before and after the rounds wrap (18 minutes).
        for start in (0..20).map(|n| 1_000 * SECOND + n * 37 * MS).chain([(1 << 40) - 500 * MS]) {
            for (after, expected) in [
                (0, false),
                (500 * MS, false),
                (1_000 * MS, true),
                (2_000 * MS, true),
                (3_000 * MS, true),
                (3_700 * MS, true),
                (4_400 * MS, false),
                (8_000 * MS, false),
            ] {
                let line = line();
                assert!(!came_again(&line, 0b111, start));
                assert_eq!(came_again(&line, 0b111, start + after), expected, "{after} ns after {start}");
            }
        }
    }

    #[test]
    fn each_noting_lets_one_copy_pass() {
        let line = line();
        let start = 1_000 * SECOND;
        let passed = (0..10_000).filter(|n| came_again(&line, 0b1110, start + n * MS)).count();
        // Ten seconds have 37 filters; the SYN is noted once in each, however often it arrives.
        assert!((30..=37).contains(&passed), "{passed}");
        assert!(!came_again(&line, 0b1_0110, start + 10 * SECOND), "another SYN");
    }

    /// A flood without retransmissions: how much of it looks retransmitted, and how many clients are recognised
    /// meanwhile.
    #[test]
    fn a_flood_keeps_at_most_one_client_in_twenty_from_being_recognised() {
        for (rate, most) in [(100_000_u64, 0.003), (300_000, 0.017), (1_000_000, 0.12)] {
            let lines: Vec<_> = (0..1 << LINE_BITS).map(|_| line()).collect();
            let mut state = 7_u64;
            let mut hash = || {
                state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                (state ^ state >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
            };
            let place = |x: u64| {
                let bit = |shift: u32| 1_u64 << (((x >> shift & 63) * u64::from(BITS)) >> 6);
                ((x >> (64 - LINE_BITS)) as usize, bit(0) | bit(6) | bit(12))
            };
            let (mut looked_so, mut clients, mut recognised) = (0, Vec::new(), 0);
            let start = 1_000 * SECOND;
            for n in 0..6 * rate {
                let now_ns = start + n * SECOND / rate;
                let (line, bits) = place(hash());
                let again = came_again(&lines[line], bits, now_ns);
                looked_so += u64::from(again && n > 5 * rate);
                // A thousand clients a second, each of which retransmits after one second.
                if n % (rate / 1_000) == 0 {
                    let (line, bits) = place(hash());
                    clients.push((now_ns + SECOND, line, bits, came_again(&lines[line], bits, now_ns)));
                    if let Some((_, line, bits, passed)) = clients.get(clients.len().wrapping_sub(1_001)) {
                        recognised += u64::from(*passed || came_again(&lines[*line], *bits, now_ns));
                    }
                }
            }
            let share = looked_so as f64 / rate as f64;
            println!("{rate} a second: {:.2} % look as if they came again", share * 100.0);
            assert!(share <= most, "{rate}: {share} of the flood");
            let asked = clients.len() as u64 - 1_000;
            assert!(recognised * 100 >= asked * 95, "{rate}: {recognised} of {asked} clients");
        }
    }
}
