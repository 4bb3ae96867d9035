//! Limits, against an exact model: a theoretical arrival time in 128 bits that never wraps.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use flood_common::meter::{Charge, Limit, Price, Slot, TAT_BITS, WAYS, charge, charge_budget, debt_ns};
use flood_userspace::{
    bpf::limit::rate_limit,
    config::{BitLimit, PacketLimit, RateLimit},
    quantity::{BitRate, Bits, PacketRate, Packets},
};
use proptest::prelude::*;

type Bucket = [AtomicU64; WAYS];

const SECOND: u64 = 1_000_000_000;

/// A time at which nothing special happens.
const START: u64 = 1_000 * SECOND;

/// When the table's clock wraps for the first time.
const WRAP: u64 = 1 << TAT_BITS;

fn packets(rate: u64, burst: u64) -> Limit {
    let limit = PacketLimit { rate: PacketRate(rate), burst: Packets(burst) };
    rate_limit(&RateLimit { packets: Some(limit), bits: None })
}

fn bits(rate: u64, burst: u64) -> Limit {
    let limit = BitLimit { rate: BitRate(rate), burst: Bits(burst) };
    rate_limit(&RateLimit { packets: None, bits: Some(limit) })
}

/// A random number that admits nothing to a full bucket.
fn no_luck() -> u32 {
    1
}

/// The algorithm as specified (ITU-T I.371, virtual scheduling).
#[derive(Default)]
struct Model {
    arrival_ns: u128,
}

impl Model {
    fn conforms(&mut self, now_ns: u128, price: &Price) -> bool {
        let debt = self.arrival_ns.saturating_sub(now_ns);
        let conforms = debt <= u128::from(price.tolerance_ns);
        if conforms {
            self.arrival_ns = now_ns + debt + u128::from(price.cost_ns);
        }
        conforms
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Steps of all sizes, some longer than any debt can last. Begins near the wrap, far from it, and after it.
    #[test]
    fn one_source_is_charged_as_the_model_says(
        rate in 1_u64..5_000_000,
        seconds in 1_u64..60,
        start in prop::sample::select(vec![START, WRAP - SECOND, 2 * WRAP - 1, 5 * WRAP + 17]),
        steps in prop::collection::vec((0_u32..42, any::<u64>(), 60_u32..9_000), 1..400),
        owner in 0_u32..1 << 21,
        in_bits: bool,
    ) {
        let limit = if in_bits { bits(rate * 1_000, rate * 1_000 * seconds) } else { packets(rate, rate * seconds) };
        let bucket = Bucket::default();
        let mut model = Model::default();
        let mut now = start;
        for (magnitude, noise, length) in steps {
            now += noise & ((1 << magnitude) - 1);
            let price = limit.price(length);
            let charged = charge(&bucket, owner, now, &price, no_luck);
            let expected = if model.conforms(now.into(), &price) { Charge::Conforming } else { Charge::Exceeding };
            prop_assert_eq!(charged, expected);
        }
    }

    /// A bucket has room for eight sources, and none of them affects the others.
    #[test]
    fn eight_sources_in_a_bucket_do_not_touch_each_other(
        steps in prop::collection::vec((0_u32..8, 0_u64..3_000_000), 1..2_000),
    ) {
        let limit = packets(1_000, 40);
        let price = limit.price(60);
        let bucket = Bucket::default();
        let mut models: [Model; 8] = Default::default();
        let mut now = START;
        for (source, step) in steps {
            now += step;
            let charged = charge(&bucket, source * 8_191, now, &price, no_luck);
            let expected = models[source as usize].conforms(now.into(), &price);
            prop_assert_eq!(charged == Charge::Conforming, expected);
        }
    }

    /// In any time, no more passes than rate and burst allow; and a source below its limit loses nothing.
    #[test]
    fn a_limit_is_kept_and_who_stays_below_loses_nothing(
        rate in 10_u64..100_000,
        share in 1_u64..400,
        start in prop::sample::select(vec![START, WRAP - 3 * SECOND]),
    ) {
        let burst = rate;
        let limit = packets(rate, burst);
        let price = limit.price(60);
        let bucket = Bucket::default();
        // `share` percent of the rate, for five seconds.
        let gap = SECOND * 100 / (rate * share).max(1);
        let sent = 5 * SECOND / gap.max(1);
        let mut passed = 0;
        for n in 0..sent {
            passed += u64::from(charge(&bucket, 7, start + n * gap, &price, no_luck) == Charge::Conforming);
        }
        if share <= 99 {
            prop_assert_eq!(passed, sent);
        }
        // Costs are whole nanoseconds: at a rate of 100,000/s that is a rounding of 0.005 % at most.
        let most = burst + 5 * rate + 5 * rate / 10_000 + 2;
        prop_assert!(passed <= most, "{} passed, {} may", passed, most);
        prop_assert!(passed >= sent.min(burst + 5 * rate - 5 * rate / 10_000 - 2), "{} of {} passed", passed, sent);
    }
}

#[test]
fn packet_and_bit_limits_hold_together() {
    let both = rate_limit(&RateLimit {
        packets: Some(PacketLimit { rate: PacketRate(1_000), burst: Packets(1_000) }),
        bits: Some(BitLimit { rate: BitRate(4_000_000), burst: Bits(4_000_000) }),
    });
    for (why, length, most) in [
        ("small packets meet the packet limit", 60, 1_000 * 11),
        ("large ones the bit limit", 1_476, 4_000_000 / 12_000 * 11),
    ] {
        let bucket = Bucket::default();
        let price = both.price(length);
        let passed = (0..100_000)
            .filter(|n| {
                charge(&bucket, 1, START + n * SECOND / 10_000, &price, no_luck) == Charge::Conforming
            })
            .count();
        assert!(passed.abs_diff(most) <= most / 100, "{why}: {passed} passed, {most} should");
    }
}

/// Packets per second that [`race`] allows; the burst is a tenth of them.
const RATE: u64 = 100_000;
const TOLERANCE_NS: u64 = SECOND / 10;

/// Two processors charge one source, and their clocks differ.
fn race(skew_ns: u64) -> (u64, u64) {
    /// How far each reading of the clock advances it: 2 million packets a second.
    const STEP: u64 = 500;
    const LAST: u64 = START + 2 * SECOND;
    /// How far one processor may be ahead of the other. In the kernel nothing interrupts the sequence of clock
    /// reading and charge; here the scheduler may, for what would be seconds of this clock.
    const LEAD: u64 = SECOND / 20;

    let price = packets(RATE, RATE / 10).price(60);
    let bucket = Bucket::default();
    let clock = AtomicU64::new(START);
    let looked = [AtomicU64::new(START), AtomicU64::new(START)];
    let go = AtomicBool::new(false);
    let passed = thread::scope(|scope| {
        let threads = [(0, 0), (1, skew_ns)].map(|(own, behind)| {
            let (bucket, clock, go, price) = (&bucket, &clock, &go, &price);
            let (own, other) = (&looked[own], &looked[1 - own]);
            scope.spawn(move || {
                while !go.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
                let mut passed = 0;
                loop {
                    let now = clock.fetch_add(STEP, Ordering::Relaxed);
                    own.store(now, Ordering::Relaxed);
                    if now >= LAST {
                        return passed;
                    }
                    while now > other.load(Ordering::Relaxed) + LEAD {
                        thread::yield_now();
                    }
                    let charged = charge(bucket, 9, now - behind, price, no_luck);
                    passed += u64::from(charged == Charge::Conforming);
                }
            })
        });
        go.store(true, Ordering::Relaxed);
        threads.map(|thread| thread.join().expect("charging does not panic")).iter().sum()
    });
    // A burst, two seconds, and the skew, by which one processor counts earlier.
    (passed, RATE / 10 + 2 * RATE + RATE * skew_ns / SECOND)
}

#[test]
fn two_processors_with_skewed_clocks_admit_what_one_would() {
    for skew_ns in [0, 1_000, 4_000_000, 900_000_000] {
        let (passed, most) = race(skew_ns);
        assert!(passed <= most + 2, "skew {skew_ns} ns: {passed} passed, {most} may");
        // A processor that is behind by more than the tolerance is refused for what the other has just charged, as
        // long as it is behind. How often that happens depends on the scheduler. The burst passes in any case.
        let least = if skew_ns > TOLERANCE_NS { RATE / 10 } else { most * 95 / 100 };
        assert!(passed >= least, "skew {skew_ns} ns: {passed} passed of {most}");
    }
}

/// Without the slack in the horizon, a processor that is behind mistakes the other's debt for an expired word.
#[test]
fn a_debt_written_by_a_clock_that_is_ahead_is_still_a_debt() {
    let limit = packets(1_000, 40);
    let price = limit.price(60);
    let bucket = Bucket::default();
    let ahead = 900_000_000;
    let mut passed = 0;
    for n in 0..100_000 {
        let now = START + n * 10_000; // a second in all
        for now in [now, now + ahead] {
            passed += u64::from(charge(&bucket, 1, now, &price, no_luck) == Charge::Conforming);
        }
    }
    // A second at the rate, the burst, and the 0.9 s by which one processor is ahead.
    assert!(passed <= 1_000 + 40 + 900 + 1, "{passed} passed");
}

#[test]
fn a_full_bucket_lets_newcomers_pass_and_keeps_its_heavy_debtors() {
    let limit = packets(10, 100);
    let price = limit.price(60);
    let bucket = Bucket::default();
    for source in 0..8 {
        while charge(&bucket, source, START, &price, no_luck) == Charge::Conforming {}
    }
    let heavy: Vec<u64> = bucket.iter().map(Slot::load).collect();
    // Every newcomer draws a random number for admission, and none is admitted.
    for newcomer in 100..10_100 {
        assert_eq!(charge(&bucket, newcomer, START, &price, || 0), Charge::Unaccounted);
    }
    assert_eq!(bucket.iter().map(Slot::load).collect::<Vec<_>>(), heavy);
    for source in 0..8 {
        assert_eq!(charge(&bucket, source, START, &price, no_luck), Charge::Exceeding, "still in debt");
    }
}

#[test]
fn a_heavy_source_gets_into_a_full_bucket_of_light_ones() {
    let limit = packets(10, 100);
    let price = limit.price(60);
    let bucket = Bucket::default();
    for source in 0..8 {
        assert_eq!(charge(&bucket, source, START, &price, no_luck), Charge::Conforming);
    }
    let mut dice = 0;
    let mut throw = || {
        dice += 1;
        dice
    };
    let mut passed = 0;
    for _ in 0..10_000 {
        passed += u64::from(charge(&bucket, 99, START, &price, &mut throw) != Charge::Exceeding);
    }
    // Fifteen draws without admission, and then its burst.
    assert_eq!(passed, 15 + 100 + 1 - 1, "{passed} passed");
}

#[test]
fn a_word_is_a_debt_until_its_time_and_nothing_afterwards() {
    let limit = packets(10, 100);
    let bucket = Bucket::default();
    assert_eq!(charge(&bucket, 3, START, &limit.price(60), no_luck), Charge::Conforming);
    let word = bucket.iter().map(Slot::load).find(|word| *word != 0).unwrap();
    let cases = [
        ("at once", START, SECOND / 10),
        ("half way", START + SECOND / 20, SECOND / 20),
        ("at its time", START + SECOND / 10, 0),
        ("long after", START + 3_600 * SECOND, 0),
        ("by a clock that is behind", START - SECOND / 2, SECOND / 10 + SECOND / 2),
    ];
    for (why, now, expected) in cases {
        assert_eq!(debt_ns(word, now, limit.horizon_ns), expected, "{why}");
    }
}

/// The words of the table wrap and have to be swept; the word of a budget must not need that.
#[test]
fn a_budget_is_whole_again_however_long_nobody_has_used_it() {
    let limit = packets(1, 1);
    let price = limit.price(60);
    let later = [2 * SECOND, 3_600 * SECOND, WRAP - SECOND, WRAP, WRAP + SECOND / 2, 7 * WRAP + SECOND / 2];
    for after in later.into_iter().chain([365 * 24 * 3_600 * SECOND]) {
        let word = AtomicU64::default();
        assert_eq!(charge_budget(&word, START, &price), Charge::Conforming);
        assert_eq!(charge_budget(&word, START, &price), Charge::Exceeding, "used up");
        assert_eq!(charge_budget(&word, START + after, &price), Charge::Conforming, "{after} ns later");
    }
}
