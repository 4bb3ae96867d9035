//! The sketch in front of the table: what passes both together, compared with the limit.

use std::{cell::Cell, sync::atomic::AtomicU64};

use flood_common::{
    meter::{self, Charge, Limit, Price, WAYS},
    sketch::{self, SKETCH_BITS, SKETCH_WORDS, shift, word_of},
};
use flood_userspace::{
    bpf::limit::rate_limit,
    config::{BitLimit, PacketLimit, RateLimit},
    quantity::{BitRate, Bits, PacketRate, Packets},
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;

/// Packets a second, and burst.
const RATE: u64 = 10_000;

/// After this time a word means something else.
const WORD_WRAPS_NS: u64 = 1 << (32 + 12);

fn packets(rate: u64, burst: u64) -> PacketLimit {
    PacketLimit { rate: PacketRate(rate), burst: Packets(burst) }
}

fn bits(rate: u64, burst: u64) -> BitLimit {
    BitLimit { rate: BitRate(rate), burst: Bits(burst) }
}

fn price() -> Price {
    rate_limit(&RateLimit { packets: Some(packets(RATE, RATE)), bits: None }).price(60)
}

/// One word on each processor, and one bucket: all sources share them.
struct Shared {
    words: Vec<Cell<u32>>,
    bucket: [AtomicU64; WAYS],
}

impl Shared {
    fn new(processors: u32) -> Self {
        Self { words: (0..processors).map(|_| Cell::new(0)).collect(), bucket: Default::default() }
    }

    fn send(&self, source: u32, processor: usize, now_ns: u64) -> Charge {
        self.charge(source, processor, now_ns, &price())
    }

    fn charge(&self, source: u32, processor: usize, now_ns: u64, price: &Price) -> Charge {
        if sketch::admits(&self.words[processor], now_ns, price, shift(self.words.len() as u32)) {
            return Charge::Conforming;
        }
        meter::charge(&self.bucket, source, now_ns, price, || 1)
    }

    /// Returns how many of this many packets a second conform in ten seconds, sent on each processor in turn.
    fn ten_seconds_of(&self, rate: u64, start_ns: u64) -> u64 {
        let gap_ns = SECOND / rate;
        let turn = |packet: u64| packet as usize % self.words.len();
        let send = |packet| self.send(1, turn(packet), start_ns + packet * gap_ns);
        (0..10 * rate).filter(|packet| send(*packet) == Charge::Conforming).count() as u64
    }
}

#[test]
fn twice_the_limit_comes_down_to_the_limit_on_any_number_of_processors() {
    for processors in [1, 2, 3, 8, 64] {
        // A burst of a second's worth, and ten seconds at the rate.
        let limit = 11 * RATE;
        let passed = Shared::new(processors).ten_seconds_of(2 * RATE, 5 * SECOND);
        assert!(
            (limit..=limit * 102 / 100).contains(&passed),
            "{passed} on {processors}, {limit} is the limit"
        );
    }
}

#[test]
fn within_the_limit_nothing_is_lost_beside_a_heavy_source_in_the_same_word() {
    for processors in [1, 2, 8] {
        let shared = Shared::new(processors);
        let mut lost = 0;
        // The visitor sends at half the limit, with two hundred packets of another source between each two of its
        // own.
        for packet in 0..RATE {
            let now_ns = 5 * SECOND + packet * 2 * SECOND / RATE;
            let processor = packet as usize % shared.words.len();
            for _ in 0..200 {
                let _ = shared.send(2, processor, now_ns);
            }
            lost += u64::from(shared.send(1, processor, now_ns) != Charge::Conforming);
        }
        assert_eq!(lost, 0, "on {processors} processors");
    }
}

#[test]
fn many_light_sources_need_no_slot() {
    let shared = Shared::new(2);
    // All of them together send a 64th of what one source may.
    for packet in 0..RATE {
        let charge = shared.send(packet as u32 + 1, 0, 5 * SECOND + packet * 64 * SECOND / RATE);
        assert_eq!(charge, Charge::Conforming);
    }
    assert!(shared.bucket.iter().all(|slot| slot.load(std::sync::atomic::Ordering::Relaxed) == 0));
}

#[test]
fn a_word_from_long_ago_is_nobodys_debt() {
    for later in [WORD_WRAPS_NS / 2, WORD_WRAPS_NS - 20 * SECOND, WORD_WRAPS_NS - SECOND, WORD_WRAPS_NS] {
        let shared = Shared::new(1);
        assert!(shared.ten_seconds_of(2 * RATE, 5 * SECOND) > 0);
        let passed = shared.ten_seconds_of(RATE / 2, 5 * SECOND + later);
        assert_eq!(passed, 10 * RATE / 2, "{later} ns later");
    }
}

#[test]
fn limits_of_one_source_have_words_of_their_own_side_by_side() {
    let words: Vec<usize> = (0..32).map(|cell| word_of(meter::apart(0x0040_0040, cell << 16 | 7))).collect();
    assert!(words.iter().all(|word| *word < SKETCH_WORDS && word / 32 == words[0] / 32));
    assert!((1..32).all(|cell| !words[..cell].contains(&words[cell])));
    assert_eq!(word_of(1 << SKETCH_BITS), 0, "a larger table shares the words");
}

/// An occasional packet that is weighed by its bits, which have the shorter tolerance, must not empty a word that
/// small packets have filled.
#[test]
fn packets_of_another_size_do_not_open_the_sketch() {
    let limit = rate_limit(&RateLimit {
        packets: Some(packets(20_000, 40_000)),
        bits: Some(bits(200_000_000, 200_000_000)),
    });
    let shared = Shared::new(2);
    let (seconds, rate) = (10, 150_000);
    let sent = (0..seconds * rate).filter(|packet| {
        let length = if packet % 301 == 300 { 1_400 } else { 60 };
        let now_ns = 5 * SECOND + packet * SECOND / rate;
        shared.charge(1, *packet as usize % 2, now_ns, &limit.price(length)) == Charge::Conforming
    });
    let passed = sent.count() as u64;
    let limit = 40_000 + seconds * 20_000;
    assert!(passed <= limit * 33 / 32, "{passed} passed, {limit} is the limit");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is sent when, and on which processor: at most a 32nd more than the limit passes.
    #[test]
    fn a_thirty_second_more_than_the_limit_at_most(
        processors in 1_u32..16,
        trains in prop::collection::vec((0_u64..SECOND / 2, 0_u64..400_000, 1_u64..4_000, any::<usize>()), 1..40),
    ) {
        let shared = Shared::new(processors);
        let (start, mut now_ns, mut passed) = (5 * SECOND, 5 * SECOND, 0);
        for (pause_ns, gap_ns, packets, processor) in trains {
            now_ns += pause_ns;
            for _ in 0..packets {
                now_ns += gap_ns;
                passed += u64::from(shared.send(1, processor % shared.words.len(), now_ns) == Charge::Conforming);
            }
        }
        let limit = RATE + 1 + (now_ns - start) * RATE / SECOND;
        prop_assert!(passed <= limit * 33 / 32 + 1, "{passed} passed, {limit} is the limit");
    }

    /// Whichever sources share a word, and whatever their tolerances: the debt that it represents is never lowered.
    #[test]
    fn a_live_word_is_never_lowered(
        processors in 1_u32..16,
        limits in prop::collection::vec((1_u64..1_000_000, 1_u64..60, 100_000_u64..10_000_000_000, 1_u64..60), 1..5),
        packets in prop::collection::vec((any::<prop::sample::Index>(), 60_u32..9_000, 0_u64..10_000_000), 1..400),
    ) {
        let mut limits: Vec<Limit> = limits.iter().map(|(rate, seconds, bit_rate, bit_seconds)| {
            let packets = Some(self::packets(*rate, rate * seconds));
            rate_limit(&RateLimit { packets, bits: Some(bits(*bit_rate, bit_rate * bit_seconds)) })
        }).collect();
        let horizon_ns = limits.iter().map(|limit| limit.horizon_ns).max().unwrap_or(0);
        for limit in &mut limits {
            limit.horizon_ns = horizon_ns;
        }
        let (word, mut now_ns, mut stands_for) = (Cell::new(0), 5 * SECOND, 0);
        for (limit, length, pause_ns) in packets {
            now_ns += pause_ns;
            let _ = sketch::admits(&word, now_ns, &limit.get(&limits).price(length), shift(processors));
            let unit = now_ns >> 12;
            let until = unit + u64::from(word.get().wrapping_sub(unit as u32));
            prop_assert!(until >= stands_for, "{until} after {stands_for}, at {unit}");
            stands_for = until.max(unit);
        }
    }

    /// The replay of a capture has no sketch: it reports a packet or a 32nd more as dropped than a filter drops, and
    /// never less.
    #[test]
    fn without_a_sketch_no_more_passes_than_with_it(
        processors in 1_u32..8,
        rates in (1_u64..100_000, 1_u64..4, 1_000_000_u64..1_000_000_000, 1_u64..4),
        sent in prop::collection::vec((0_u64..SECOND / 1_000, 60_u32..1_515, any::<usize>()), 1..2_000),
    ) {
        let (rate, seconds, bit_rate, bit_seconds) = rates;
        let limit = rate_limit(&RateLimit {
            packets: Some(packets(rate, rate * seconds)),
            bits: Some(bits(bit_rate, bit_rate * bit_seconds)),
        });
        let shared = Shared::new(processors);
        let alone: [AtomicU64; WAYS] = Default::default();
        let (mut now_ns, mut with, mut without, mut dearest_ns) = (5 * SECOND, 0, 0, 0);
        for (pause_ns, length, processor) in sent {
            now_ns += pause_ns;
            let price = limit.price(length);
            dearest_ns = price.cost_ns.max(dearest_ns);
            if shared.charge(1, processor % shared.words.len(), now_ns, &price) == Charge::Conforming {
                with += price.cost_ns;
            }
            if meter::charge(&alone, 1, now_ns, &price, || 1) == Charge::Conforming {
                without += price.cost_ns;
            }
            prop_assert!(without <= with + dearest_ns, "{without} ns without, {with} with");
        }
    }
}
