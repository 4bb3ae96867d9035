//! Whose packets are dropped: the sources of dropped packets, estimated from samples in bounded memory.
//!
//! A sample stands for `weight` dropped packets. While drops are few, each one is sampled and the volumes are
//! exact. In a flood the [`sampler`](flood_common::sampler) thins out the samples, and each volume comes with its
//! error.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    time::Instant,
};

use flood_common::{abi::Sample, address::Address, reason::Reason};

use crate::{config::CellName, control::protocol::DroppedSource};

/// Maximum number of sources that survive a pruning; up to twice as many are held before it.
const KEPT: usize = 16_384;

/// Half width of a 95 % interval in standard deviations.
const TWO_SIDED_95: f64 = 1.96;

/// Dropped packets by source.
#[derive(Default)]
pub(super) struct Drops {
    sources: HashMap<Address, Dropped>,
    /// A source that is not in `sources` may have lost up to this many packets.
    floor: f64,
    /// Samples that the kernel had taken and lost at the last call.
    taken_lost: (u64, u64),
    inexact: bool,
}

/// Losses of one source.
struct Dropped {
    packets: f64,
    bytes: f64,
    /// Variance of `packets`.
    variance: f64,
    /// Packets that may have been lost before the source was tracked.
    before: f64,
    reasons: BTreeMap<Reason, f64>,
    /// By the limits that were exceeded.
    limits: BTreeMap<CellName, f64>,
    last: Instant,
}

impl Drops {
    /// Adds the samples taken since the last call. `taken` and `lost` are the kernel's total counts of samples.
    pub(super) fn add(&mut self, samples: &[Sample], taken: u64, lost: u64, now: Instant) {
        let (taken_before, lost_before) = std::mem::replace(&mut self.taken_lost, (taken, lost));
        let (new_taken, new_lost) = (taken.saturating_sub(taken_before), lost.saturating_sub(lost_before));
        // The samples that arrived stand for those that were lost.
        let scale = 1.0 + new_lost as f64 / new_taken.max(1) as f64;
        for sample in samples {
            self.add_sample(sample, scale, now);
        }
        self.inexact |= new_lost > 0;
    }

    fn add_sample(&mut self, sample: &Sample, scale: f64, now: Instant) {
        let Some(reason) = Reason::from_number(sample.reason.into()) else { return };
        self.inexact |= sample.weight > 1;
        let Some(source) = u8::try_from(sample.version)
            .ok()
            .and_then(|version| Address::from_halves(version, sample.source))
        else {
            return;
        };
        if self.sources.len() >= 2 * KEPT && !self.sources.contains_key(&source) {
            self.prune();
        }
        let weight = f64::from(sample.weight) * scale;
        let dropped = self.sources.entry(source).or_insert_with(|| Dropped {
            packets: 0.0,
            bytes: 0.0,
            variance: 0.0,
            before: self.floor,
            reasons: BTreeMap::new(),
            limits: BTreeMap::new(),
            last: now,
        });
        dropped.packets += weight;
        dropped.bytes += weight * f64::from(sample.length);
        dropped.variance += weight * (weight - 1.0);
        *dropped.reasons.entry(reason).or_default() += weight;
        if let Some(limit) = CellName::exceeded(reason, sample.exceeded) {
            *dropped.limits.entry(limit).or_default() += weight;
        }
        dropped.last = now;
    }

    /// Forgets the half that lost the least, and all that lost no more than those.
    fn prune(&mut self) {
        let mut volumes: Vec<f64> = self.sources.values().map(|dropped| dropped.packets).collect();
        let (_, median, _) = volumes.select_nth_unstable_by(KEPT, f64::total_cmp);
        let median = *median;
        self.sources.retain(|_, dropped| dropped.packets > median);
        self.floor = self.floor.max(median);
        self.inexact = true;
    }

    /// Returns whether every dropped packet was sampled, and no source forgotten.
    pub(super) fn exact(&self) -> bool {
        !self.inexact
    }

    /// Returns the sources that lost the most packets.
    pub(super) fn most(&self, count: usize, now: Instant) -> Vec<DroppedSource> {
        let mut sources: Vec<(IpAddr, &Dropped)> =
            self.sources.iter().map(|(address, dropped)| ((*address).into(), dropped)).collect();
        sources.sort_by(|(a, one), (b, other)| other.packets.total_cmp(&one.packets).then(a.cmp(b)));
        sources.truncate(count);
        sources.into_iter().map(|(address, dropped)| dropped.describe(address, now)).collect()
    }

    /// Returns all tracked sources.
    pub(super) fn addresses(&self) -> impl Iterator<Item = Address> {
        self.sources.keys().copied()
    }
}

impl Dropped {
    fn describe(&self, source: IpAddr, now: Instant) -> DroppedSource {
        let reasons = self.reasons.iter();
        DroppedSource {
            source: source.to_string(),
            packets: self.packets.round() as u64,
            bytes: self.bytes.round() as u64,
            error: (TWO_SIDED_95 * self.variance.sqrt() + self.before) / self.packets,
            reasons: reasons
                .map(|(reason, packets)| (reason.label().to_owned(), packets.round() as u64))
                .collect(),
            limits: self.limits.iter().map(|(limit, packets)| (*limit, packets.round() as u64)).collect(),
            last_seen_s: now.saturating_duration_since(self.last).as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use flood_common::class::Class;

    use super::*;

    fn sample(source: u32, weight: u32) -> Sample {
        Sample {
            source: [0, u64::from(source)],
            version: 4,
            reason: Reason::Blocked.number() as u16,
            exceeded: 0,
            length: 100,
            weight,
        }
    }

    #[test]
    fn while_all_drops_are_sampled_volumes_are_exact() {
        let mut drops = Drops::default();
        let now = Instant::now();
        let samples: Vec<_> = (0..10).map(|n| sample(1 + n % 3, 1)).collect();
        drops.add(&samples, 10, 0, now);
        let most = drops.most(2, now);
        assert!(drops.exact());
        assert_eq!(most.len(), 2);
        assert_eq!((most[0].source.as_str(), most[0].packets, most[0].bytes), ("0.0.0.1", 4, 400));
        assert_eq!((most[0].error, most[0].reasons["blocked"]), (0.0, 4));
        assert_eq!((most[1].source.as_str(), most[1].packets), ("0.0.0.2", 3));
    }

    #[test]
    fn what_a_source_has_exceeded_is_named() {
        let mut drops = Drops::default();
        let now = Instant::now();
        let mut over = sample(7, 2);
        over.reason = Reason::SourcePackets.number() as u16;
        over.exceeded = Class::Amplification as u16;
        // The limit that the last packet exceeded says nothing about a packet that is blocked.
        drops.add(&[over, Sample { exceeded: 5, ..sample(7, 1) }], 2, 0, now);
        let limits: Vec<_> = drops.most(1, now)[0].limits.clone().into_iter().collect();
        assert_eq!(limits, [("source.amplification".parse().unwrap(), 2)]);
    }

    #[test]
    fn thinned_out_samples_give_an_estimate_whose_error_is_stated() {
        let mut drops = Drops::default();
        let now = Instant::now();
        drops.add(&vec![sample(7, 100); 400], 400, 0, now);
        let most = &drops.most(1, now)[0];
        assert!(!drops.exact());
        assert_eq!(most.packets, 40_000);
        // 400 samples: a relative standard deviation of 1/20.
        assert!((most.error - 1.96 / 20.0).abs() < 0.001, "{}", most.error);
    }

    #[test]
    fn samples_that_the_ring_lost_are_stood_for_by_the_others() {
        let mut drops = Drops::default();
        let now = Instant::now();
        drops.add(&vec![sample(7, 1); 100], 100, 0, now);
        drops.add(&vec![sample(7, 1); 100], 200, 300, now);
        assert!(!drops.exact());
        assert_eq!(drops.most(1, now)[0].packets, 100 + 400);
    }

    #[test]
    fn a_spray_of_sources_neither_fills_the_memory_nor_hides_a_heavy_one() {
        let mut drops = Drops::default();
        let now = Instant::now();
        for n in 0..200_000 {
            drops.add_sample(&sample(1_000 + n, 1), 1.0, now);
            if n % 100 == 0 {
                drops.add_sample(&sample(7, 1), 1.0, now);
            }
        }
        assert!(drops.sources.len() <= 2 * KEPT);
        let most = &drops.most(1, now)[0];
        assert_eq!((most.source.as_str(), most.packets), ("0.0.0.7", 2_000));
        assert!(most.error < 0.01 && !drops.exact());
    }
}
