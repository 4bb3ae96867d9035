//! Which dropped packets are sampled, by the kernel alone: user space does not report the start of a flood.
use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use flood_common::{abi::MODE_ENFORCE, address::Address, reason::Reason, sampler};
use flood_userspace::{
    bpf::{Filter, FilterOptions},
    lists::ListKind,
};
use floodgate_tests::{
    needs_root,
    packet::{ATTACKER, from},
    prefixes,
    processor::pin,
};

/// Packets in a pulse: a hundredth of a second of a large flood on one processor.
const PULSE: u32 = 40_000;
const PULSES: u64 = 10;
/// Interval between pulses, nanoseconds: long enough for the sampler to become idle.
const BETWEEN_NS: u64 = 500_000_000;
/// Maximum samples of a pulse: 1 % of it. The free ones, and eight for each time that their weight doubles.
const MOST: u64 = 400;

/// A filter that drops everything, with the budget of one of two processors.
fn filter() -> Result<Filter> {
    let mut filter = Filter::load(&FilterOptions { virtual_clock: true, ..FilterOptions::default() })?;
    filter.edit_list(ListKind::Block, prefixes::put(["0.0.0.0/0".parse()?]))?;
    filter.change_settings(|settings| {
        settings.mode = MODE_ENFORCE;
        settings.sample_cost_ns = sampler::cost_ns(2);
    });
    Ok(filter)
}

/// Drops this many packets within a clock tick.
fn drop_at(filter: &mut Filter, now_ns: u64, packets: u32) -> Result<()> {
    filter.set_virtual_now_ns(now_ns);
    let frame = from(ATTACKER).udp(40_000, 9).bytes();
    let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::default() };
    filter.program()?.test_run(options).context("test run of the filter")?;
    Ok(())
}

/// Returns the weights of the samples that have arrived.
fn weights(filter: &mut Filter) -> Result<Vec<u32>> {
    let (mut weights, mut others) = (Vec::new(), 0);
    let attacker = Address::from(ATTACKER).halves();
    filter.drain_samples(|sample| {
        weights.push(sample.weight);
        others +=
            u32::from(sample.source != attacker || u32::from(sample.reason) != Reason::Blocked.number());
    });
    let state = filter.counters.state()?;
    ensure!(others == 0 && state.samples_lost == 0, "{others} of others, {} lost", state.samples_lost);
    Ok(weights)
}

#[test]
fn a_flood_in_pulses_is_sampled_no_more_than_any_other_and_told_right() -> Result<()> {
    needs_root!();
    pin(0)?;
    let mut filter = filter()?;
    let mut told = 0;
    for pulse in 1..=PULSES {
        drop_at(&mut filter, pulse * BETWEEN_NS, PULSE)?;
        let weights = weights(&mut filter)?;
        ensure!(weights.len() as u64 <= MOST, "{} samples of pulse {pulse}", weights.len());
        ensure!(weights[0] == 1, "the first stands for {}", weights[0]);
        told += weights.into_iter().map(u64::from).sum::<u64>();
    }
    // The standard deviation is about 2.5 %.
    let error = told as f64 / (PULSES * u64::from(PULSE)) as f64 - 1.0;
    ensure!(error.abs() < 0.15, "{told}");
    Ok(())
}

#[test]
fn few_drops_are_all_sampled_and_again_after_a_flood() -> Result<()> {
    needs_root!();
    pin(0)?;
    let mut filter = filter()?;
    for now_ns in [BETWEEN_NS, 2 * BETWEEN_NS] {
        drop_at(&mut filter, now_ns, 100)?;
        ensure!(weights(&mut filter)? == [1; 100]);
        drop_at(&mut filter, now_ns, PULSE)?;
        ensure!(weights(&mut filter)?.last().is_some_and(|weight| *weight > 16));
    }
    Ok(())
}

#[test]
fn without_a_budget_nothing_is_sampled() -> Result<()> {
    needs_root!();
    let mut filter = filter()?;
    filter.change_settings(|settings| settings.sample_cost_ns = 0);
    drop_at(&mut filter, BETWEEN_NS, 100)?;
    ensure!(weights(&mut filter)?.is_empty());
    Ok(())
}
