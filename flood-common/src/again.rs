//! SYNs that come a second time: what a client does whose first was lost, and what it costs nobody anything to imitate.
//!
//! A SYN sets three bits in a Bloom filter (Bloom 1970; all of them in one line, Putze et al. 2007). There is one for each
//! quarter of a second, sixteen in all, which take turns; a SYN has come before when its bits are in one that is old enough.
//! It takes them out then, so each noting lets one copy pass. So a flood of SYNs that never come again fills no table: it makes
//! some of its own packets look as if they had come before (one in 400 of 100,000 a second, one in 70 of 300,000), and keeps at
//! most one client in twenty from being recognised.
//!
//! The bits are those of addresses, ports and sequence number, by a hash with secret keys.

use crate::{meter::Slot, packet::Packet, solicit::SolicitSeeds, solicit::hash};

/// Binary logarithm of the number of lines: 8 MiB.
pub const LINE_BITS: u32 = 16;

/// Filters in a line, a word each.
pub const SLICES: usize = 16;

/// Nanoseconds for which a filter takes SYNs are two to this power: 0.27 seconds.
const SLICE_SHIFT: u32 = 28;

/// A client sends its SYN again after a second (RFC 6298), then after two more. Filters that are younger than three turns
/// (0.54 seconds at least) hold what comes too soon for that; the oldest is 4 seconds old.
const SOONEST: u64 = 3;

/// Bits of a filter in a word; above them is by how many rounds it is old.
const BITS: u32 = 56;

/// Where a SYN is noted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SynPlace {
    /// Number of the line.
    pub line: u32,
    /// Its bits.
    pub bits: u64,
}

/// Where a SYN with this sequence number is noted.
#[inline(always)]
pub fn place(packet: &Packet, sequence: u32, seeds: &SolicitSeeds) -> SynPlace {
    let ports = packet.ports.map_or(0, |ports| u64::from(ports.source) << 16 | u64::from(ports.destination));
    let x = hash(seeds, [packet.source, packet.destination], ports << 32 | u64::from(sequence));
    // Three numbers below 56 out of six bits each.
    let bit = |shift: u32| 1 << (((x >> shift & 63) * u64::from(BITS)) >> 6);
    SynPlace { line: (x >> (64 - LINE_BITS)) as u32, bits: bit(0) | bit(6) | bit(12) }
}

/// The word and the round of a slice.
#[inline(always)]
fn word_and_round(slice: u64) -> (usize, u64) {
    (slice as usize % SLICES, (slice / SLICES as u64) & 0xff)
}

/// Whether a SYN has come before, as long ago as a client waits. If not, it is noted.
#[inline(always)]
pub fn came_again<S: Slot>(line: &[S; SLICES], bits: u64, now_ns: u64) -> bool {
    let now = now_ns >> SLICE_SHIFT;
    for age in SOONEST..SLICES as u64 {
        let (word, round) = word_and_round(now.wrapping_sub(age));
        let found = line[word].load();
        if found >> BITS == round && found & bits == bits {
            // A copy on another processor, which was faster, has it.
            return line[word].compare_swap(found, found & !bits) == found;
        }
    }
    let (word, round) = word_and_round(now);
    let found = line[word].load();
    let noted = (if found >> BITS == round { found } else { round << BITS }) | bits;
    if noted != found {
        // Lost to another SYN's: the next copy is the first then.
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
        // Wherever in a slice the first comes, before and after the rounds wrap (18 minutes).
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
        // Ten seconds have 37 filters; in each of them it is noted once, however often it comes.
        assert!((30..=37).contains(&passed), "{passed}");
        assert!(!came_again(&line, 0b1_0110, start + 10 * SECOND), "another SYN");
    }

    /// A flood in which no SYN comes twice: how many of it look as if they did, and who is recognised meanwhile.
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
                // A thousand clients a second, each of which comes again after one.
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
