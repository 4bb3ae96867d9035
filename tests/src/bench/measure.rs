//! Time: slices of test runs on pinned processors, and the statistics of them.

use std::{sync::Barrier, thread, time::Duration};

use anyhow::{Context, Result, bail};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};

use crate::{processor::pin, programs::Programs};

/// Minimum runs in a slice: the call itself costs as much as some hundred runs.
const LEAST_RUNS: f64 = 10_000.0;

/// Returns how many runs of this many nanoseconds fill a slice.
pub(super) fn runs_within(slice: Duration, ns: f64) -> u32 {
    (slice.as_nanos() as f64 / ns.max(1.0)).max(LEAST_RUNS) as u32
}

/// Runs the harness `runs` times on each of `cores` processors at once. Returns nanoseconds of CPU time per run.
pub(super) fn slice(lab: &mut Programs, frame: &[u8], cores: usize, runs: u32) -> Result<f64> {
    let program: &Xdp = lab.program("harness")?;
    let start = Barrier::new(cores);
    let times: Vec<Result<f64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|core| {
                let start = &start;
                scope.spawn(move || {
                    let pinned = pin(core);
                    start.wait();
                    pinned.and_then(|()| run(program, frame, runs))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    let times: Result<Vec<f64>> = times.into_iter().collect();
    Ok(times?.iter().sum::<f64>() / cores as f64)
}

fn run(program: &Xdp, frame: &[u8], runs: u32) -> Result<f64> {
    let before = thread_time_ns();
    let options = TestRunOptions { data_in: Some(frame), repeat: runs, ..TestRunOptions::default() };
    program.test_run(options).context("test run of the harness")?;
    Ok((thread_time_ns() - before) / f64::from(runs))
}

/// Runs the harness `runs` times, one by one, on the first processor. Returns the share of runs that ended with this
/// XDP action.
pub(super) fn share_of_action(lab: &mut Programs, frame: &[u8], runs: u32, action: u32) -> Result<f64> {
    let program: &Xdp = lab.program("harness")?;
    let count = || -> Result<u32> {
        // Per-CPU state is that of this processor.
        pin(0)?;
        let mut ended_so = 0;
        for _ in 0..runs {
            let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
            let result = program.test_run(options).context("test run of the harness")?;
            ended_so += u32::from(result.return_value == action);
        }
        Ok(ended_so)
    };
    let ended_so =
        thread::scope(|scope| scope.spawn(count).join().unwrap_or_else(|_| bail!("a thread panicked")))?;
    Ok(f64::from(ended_so) / f64::from(runs))
}

/// CPU time of this thread so far.
pub(super) fn thread_time_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// Returns the smallest value that at least this share of the values does not exceed; 0 without values.
pub fn quantile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
}
