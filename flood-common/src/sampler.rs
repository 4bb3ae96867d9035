//! Selects which dropped packets are sampled.
//!
//! Each processor has a budget of samples, which works like the limit of a source: a sample costs a number of
//! nanoseconds, and what is not paid for yet is a debt. The deeper the processor is in debt, the more packets a
//! sample stands for. So from its first packets on, a flood is sampled no more than anything else, whether it
//! stays, grows, or comes in pulses, and its beginning need not be detected.
//!
//! Packets are taken in blocks, and one packet of each block is sampled, at random. Whatever ends a block, each of
//! its packets had the same chance, so traffic with a rhythm is sampled as fairly as any.
//!
//! Invariant: the expected weight of the samples of some packets is the number of those packets.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The debt up to which every packet is sampled, 67 ms: a small number of drops is counted exactly.
const FREE_SHIFT: u32 = 26;
/// For each further step of debt, 4.2 ms, a sample stands for twice as many packets. The lower bound is a tick of
/// the kernel's clock, so that a steady flood is sampled evenly; the upper bound lets a processor sample everything
/// again soon after a flood.
const STEP_SHIFT: u32 = 22;
/// The largest block has a million packets; that gives few samples whatever the flood.
const MAX_SHIFT: u64 = 20;
/// The deepest debt, so that setting the clock does no harm.
const MAX_DEBT_NS: u64 = (1 << FREE_SHIFT) + ((MAX_SHIFT + 1) << STEP_SHIFT);

/// Samples wanted per second of a flood on all processors. Each costs the filter some 100 ns.
const SAMPLES_PER_SECOND: u64 = 4_000;
/// The least share of a processor, because a flood may arrive on few of them.
const LEAST_PER_SECOND: u64 = 500;

/// Returns what a sample costs on a host with so many processors, nanoseconds.
pub fn cost_ns(processors: u64) -> u32 {
    const NANOS_PER_SECOND: u64 = 1_000_000_000;
    (NANOS_PER_SECOND / (SAMPLES_PER_SECOND / processors.max(1)).max(LEAST_PER_SECOND)) as u32
}

/// The sampling state of a processor.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Sampler {
    /// When the samples taken so far are paid for, nanoseconds.
    paid_ns: u64,
    /// When the block began; it ends with the tick of the clock.
    begun_ns: u64,
    /// Packets left in the block, and how many are left once its sample has been taken.
    left: u32,
    sample_at: u32,
    /// Packets in the block.
    weight: u32,
    /// Padding, made explicit.
    reserved: u32,
}
const _: () = assert!(size_of::<Sampler>() == 32);

impl Sampler {
    /// Looks at a packet. If it is to be sampled, returns the number of packets that it stands for. A sample costs
    /// `cost_ns`; 0 takes none.
    #[inline(always)]
    pub fn take(&mut self, now_ns: u64, cost_ns: u32, random: impl FnOnce() -> u32) -> Option<u32> {
        if cost_ns == 0 {
            return None;
        }
        if self.left == 0 || self.begun_ns != now_ns {
            self.begin(now_ns, random());
        }
        self.left = self.left.wrapping_sub(1);
        if self.left != self.sample_at {
            return None;
        }
        self.paid_ns = self.paid_ns.max(now_ns).wrapping_add(cost_ns.into());
        Some(self.weight)
    }

    #[inline(always)]
    fn begin(&mut self, now_ns: u64, random: u32) {
        let debt = self.paid_ns.saturating_sub(now_ns).min(MAX_DEBT_NS);
        let shift = (debt.saturating_sub(1 << FREE_SHIFT) >> STEP_SHIFT).min(MAX_SHIFT);
        self.paid_ns = now_ns.wrapping_add(debt);
        self.begun_ns = now_ns;
        self.weight = 1 << shift;
        self.left = self.weight;
        self.sample_at = random & (self.weight - 1);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// For 2,000 samples a second, of packets in ticks of 4 ms.
    const COST_NS: u32 = NANOS_PER_SECOND / 2_000;
    const NANOS_PER_SECOND: u32 = 1_000_000_000;
    const TICK_NS: u64 = 4_000_000;

    /// The result of a flood.
    #[derive(Default)]
    struct Told {
        samples: u64,
        packets: f64,
        /// Upper bound for `packets`.
        variance: f64,
        heaviest: f64,
    }

    impl Told {
        fn add(&mut self, weight: u32) {
            self.samples += 1;
            self.packets += f64::from(weight);
            self.heaviest = self.heaviest.max(f64::from(weight));
        }
    }

    struct Processor {
        sampler: Sampler,
        tick: u64,
        random: u32,
    }

    impl Processor {
        fn new(seed: u32) -> Self {
            Self { sampler: Sampler::default(), tick: 1_000, random: seed | 1 }
        }

        /// Drops so many packets in the next tick.
        fn drop(&mut self, packets: u64, told: &mut Told) {
            self.tick += 1;
            for _ in 0..packets {
                let random = &mut self.random;
                let weight = self.sampler.take(self.tick * TICK_NS, COST_NS, || {
                    // Xorshift, whose upper bits are better.
                    *random ^= *random << 13;
                    *random ^= *random >> 17;
                    *random ^= *random << 5;
                    random.wrapping_mul(0x9e37_79b9) >> 8
                });
                told.variance += f64::from(self.sampler.weight - 1);
                if let Some(weight) = weight {
                    told.add(weight);
                }
            }
        }
    }

    proptest! {
        /// The samples stand for what was dropped, and they stay within the budget, whatever the pulses.
        #[test]
        fn pulses_are_told_right_and_cost_no_more_than_the_budget(
            seed: u32,
            pulses in prop::collection::vec((1..60_000_u64, 0..40_u64, 1..4_u64), 1..12),
        ) {
            let mut processor = Processor::new(seed);
            let (mut told, mut packets, begin) = (Told::default(), 0, processor.tick);
            for (size, pause, ticks) in &pulses {
                for _ in 0..*ticks {
                    processor.drop(*size, &mut told);
                    packets += size;
                }
                processor.tick += pause;
            }
            let time_ns = (processor.tick - begin) * TICK_NS;
            let most = (time_ns + MAX_DEBT_NS) / u64::from(COST_NS) + 1;
            prop_assert!(told.samples <= most, "{} samples of {packets}, at most {most}", told.samples);
            let error = (told.packets - packets as f64).abs();
            let deviation = told.variance.sqrt() + told.heaviest;
            prop_assert!(error <= 6.0 * deviation, "{} of {packets}, {deviation}", told.packets);
        }
    }

    #[test]
    fn few_drops_are_all_sampled_and_again_soon_after_a_flood() {
        let mut processor = Processor::new(7);
        let mut told = Told::default();
        processor.drop(100, &mut told);
        assert_eq!((told.samples, told.packets), (100, 100.0));
        for _ in 0..250 {
            processor.drop(40_000, &mut told);
        }
        assert!(processor.sampler.weight >= 4_096, "{}", processor.sampler.weight);
        processor.tick += 25;
        let mut told = Told::default();
        processor.drop(10, &mut told);
        assert_eq!((told.samples, told.packets), (10, 10.0));
    }

    #[test]
    fn a_steady_flood_is_sampled_at_the_rate_of_the_budget() {
        let mut processor = Processor::new(3);
        for _ in 0..50 {
            processor.drop(40_000, &mut Told::default());
        }
        let mut told = Told::default();
        for _ in 0..250 {
            processor.drop(40_000, &mut told);
        }
        assert!((1_800..=2_200).contains(&told.samples), "{}", told.samples);
        assert!((told.packets / 10_000_000.0 - 1.0).abs() < 0.15, "{}", told.packets);
    }

    #[test]
    fn packets_with_a_rhythm_are_sampled_alike() {
        let mut sampler = Sampler::default();
        let mut random = 1_u32;
        let mut by_phase = [0_u64; 8];
        for n in 0..8_000_000_u64 {
            let weight = sampler.take(TICK_NS * (1 + n / 40_000), COST_NS, || {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                random >> 12
            });
            by_phase[n as usize % 8] += u64::from(weight.unwrap_or(0));
        }
        for packets in by_phase {
            assert!((packets as f64 / 1_000_000.0 - 1.0).abs() < 0.5, "{by_phase:?}");
        }
    }

    #[test]
    fn processors_share_the_budget_and_none_has_very_little() {
        for (processors, per_second) in [(0, 4_000), (1, 4_000), (2, 2_000), (8, 500), (256, 500)] {
            assert_eq!(NANOS_PER_SECOND / cost_ns(processors), per_second, "{processors}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_costs_a_moment() {
        let mut sampler = Sampler::default();
        assert_eq!(sampler.take(u64::MAX / 2, COST_NS, || 0), Some(1));
        let mut taken = 0;
        for tick in 1..100 {
            taken = sampler.take(tick * TICK_NS, COST_NS, || 0).unwrap_or(0);
        }
        assert_eq!(taken, 1);
    }
}
