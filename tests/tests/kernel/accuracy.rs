//! Limits in real time, on the kernel's clock: they hold as promised, and conforming sources lose nothing.
//!
//! Test runs of single frames return the verdict on each. The flooding threads run as many as the processor can.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::Path,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{ProgramFd, TestRun, TestRunOptions, Xdp};
use flood_userspace::{
    bpf::{Filter, FilterOptions, limit::set_limits},
    config::Config,
};
use floodgate_tests::{
    measures, needs_root,
    packet::{ATTACKER, VISITOR, from},
    processor::pin,
    programs::{Programs, Sources},
};

/// Packets a second: one processor can run thousands of times as many.
const LIMIT: u64 = 1_000;
/// A flood has to exceed the limit by at least this factor.
const LEAST_TIMES: f64 = 1_000.0;
/// Half a second's worth, so that a sender may be delayed that long.
const BURST: u64 = LIMIT / 2;
const TIME: Duration = Duration::from_secs(2);

/// Runs of a flood per call into the kernel: some of a call's 20 milliseconds are spent waiting for other processors.
const RUNS: u32 = 1 << 19;

const XDP_PASS: u32 = 2;

/// Only one of these tests runs at a time: each needs both processors.
static PROCESSORS: Mutex<()> = Mutex::new(());

fn processors() -> MutexGuard<'static, ()> {
    PROCESSORS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A filter that limits a scope, and nothing else.
fn filter(scope: &str) -> Result<Filter> {
    let others = if scope == "source" { "" } else { "source.packets = \"off\"\n" };
    let config =
        format!("[limit]\n{others}{scope}.packets = \"{LIMIT}/s\"\n{scope}.packets_burst = \"{BURST}\"\n");
    let config = Config::parse(&config, Path::new(""))?;
    let options = FilterOptions::default();
    let mut filter = Filter::load(&options)?;
    filter.change_settings(|settings| {
        set_limits(settings, &config.limits, &config.protected_limits);
        // As the daemon does.
        settings.sample_cost_ns = options.sample_cost_ns();
    });
    Ok(filter)
}

/// A sender on one processor.
struct Sender {
    programs: Programs,
    processor: usize,
}

impl Sender {
    fn new(filter: &ProgramFd, processor: usize, sources: Sources) -> Result<Self> {
        let mut programs = Programs::load()?;
        programs.set_sources(sources)?;
        programs.set_target(filter)?;
        programs.program("harness")?;
        Ok(Self { programs, processor })
    }

    fn one(filter: &ProgramFd, processor: usize, source: IpAddr) -> Result<Self> {
        let IpAddr::V4(source) = source else { bail!("{source} is not IPv4") };
        Self::new(filter, processor, Sources { first: source.to_bits().into(), count: 1, adjacent: false })
    }

    /// Runs the filter `runs` times in one call. Returns whether the last packet passed.
    fn run(&mut self, runs: u32) -> Result<bool> {
        let program: &Xdp = self.programs.program("harness")?;
        let frame = from(ATTACKER).udp(40_000, 9).payload(18).bytes();
        let options = TestRunOptions { data_in: Some(&frame), repeat: runs, ..TestRunOptions::default() };
        Ok(program.test_run(options).context("test run of the harness")?.return_value == XDP_PASS)
    }

    /// Sends this many packets a second, one by one. Returns how many were sent, how many passed, and the time taken.
    fn send(&mut self, rate: u64) -> Result<Sent> {
        pin(self.processor)?;
        let begin = Instant::now();
        let mut sent = Sent::default();
        while sent.time < TIME {
            let due = (sent.time.as_secs_f64() * rate as f64) as u64 + 1;
            while sent.packets < due {
                sent.passed += u64::from(self.run(1)?);
                sent.packets += 1;
            }
            thread::sleep(Duration::from_micros(200));
            sent.time = begin.elapsed();
        }
        Ok(sent)
    }

    /// Sends as much as possible until `over`. Returns how many packets were sent.
    fn flood(&mut self, over: &AtomicBool) -> Result<u64> {
        pin(self.processor)?;
        let mut packets = 0;
        while !over.load(Relaxed) {
            self.run(RUNS)?;
            packets += u64::from(RUNS);
        }
        Ok(packets)
    }
}

#[derive(Default, Debug)]
struct Sent {
    packets: u64,
    passed: u64,
    time: Duration,
}

/// Checks that the number passed in a time is what the limit allows, within this tolerance.
fn is_held(passed: u64, time: Duration, share: f64) -> Result<()> {
    let rate = LIMIT as f64 * time.as_secs_f64();
    let error = (passed as f64 - BURST as f64 - rate) / rate;
    ensure!(error.abs() <= share, "{passed} passed in {time:?}: {:.1} % off the limit", error * 100.0);
    Ok(())
}

/// Floods while `work` runs.
fn beside<T>(flooders: &mut [Sender], work: impl FnOnce() -> Result<T>) -> Result<(T, u64)> {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = &over;
        let floods: Vec<_> =
            flooders.iter_mut().map(|sender| scope.spawn(move || sender.flood(over))).collect();
        let done = work();
        over.store(true, Relaxed);
        let mut packets = 0;
        for flood in floods {
            packets += flood.join().unwrap_or_else(|_| bail!("a sender panicked"))?;
        }
        Ok((done?, packets))
    })
}

#[test]
fn twice_the_limit_comes_down_to_the_limit_in_every_scope() -> Result<()> {
    needs_root!();
    measures!();
    let _alone = processors();
    for scope in ["source", "source_prefix", "destination", "destination_prefix", "total"] {
        let mut filter = filter(scope)?;
        let sent = Sender::one(filter.program()?.fd()?, 0, ATTACKER)?.send(2 * LIMIT)?;
        is_held(sent.passed, sent.time, 0.02).with_context(|| format!("{scope}: {sent:?}"))?;
    }
    Ok(())
}

#[test]
fn who_keeps_to_half_the_limit_loses_nothing_beside_one_with_a_thousand_times_as_much() -> Result<()> {
    needs_root!();
    measures!();
    let _alone = processors();
    let mut filter = filter("source")?;
    let fd = filter.program()?.fd()?;
    let mut attackers = [Sender::one(fd, 1, ATTACKER)?];
    let mut visitor = Sender::one(fd, 0, VISITOR)?;
    let (sent, flood) = beside(&mut attackers, || visitor.send(LIMIT / 2))?;
    ensure!(sent.passed == sent.packets, "{sent:?}");
    let times = flood as f64 / sent.time.as_secs_f64() / LIMIT as f64;
    println!("the attacker sent {times:.0} times its limit");
    ensure!(times > LEAST_TIMES, "only {times}");
    is_held(passed(&filter)? - sent.passed, sent.time, 0.02)
}

#[test]
fn one_source_on_two_processors_has_one_limit() -> Result<()> {
    needs_root!();
    measures!();
    let _alone = processors();
    let mut filter = filter("source")?;
    let fd = filter.program()?.fd()?;
    let mut senders = [Sender::one(fd, 0, ATTACKER)?, Sender::one(fd, 1, ATTACKER)?];
    let begin = Instant::now();
    let (time, packets) = beside(&mut senders, || {
        thread::sleep(TIME);
        Ok(begin.elapsed())
    })?;
    let passed = passed(&filter)?;
    is_held(passed, time, 0.05).with_context(|| format!("{passed} of {packets}"))
}

#[test]
fn among_sixteen_million_sources_a_light_one_loses_nothing_and_a_heavy_one_is_held() -> Result<()> {
    needs_root!();
    measures!();
    let _alone = processors();
    let mut filter = filter("source")?;
    let fd = filter.program()?.fd()?;
    let first = Ipv4Addr::new(11, 0, 0, 0).to_bits().into();
    let crowd = Sources { first, count: 1 << 24, adjacent: true };
    let mut crowd = [Sender::new(fd, 1, crowd)?];
    let (mut light, mut heavy) = (Sender::one(fd, 0, VISITOR)?, Sender::one(fd, 0, ATTACKER)?);
    let ([light, heavy], packets) = beside(&mut crowd, || {
        thread::scope(|scope| {
            let light = scope.spawn(|| light.send(LIMIT / 2));
            let heavy = heavy.send(2 * LIMIT)?;
            Ok([light.join().unwrap_or_else(|_| bail!("a sender panicked"))?, heavy])
        })
    })?;
    println!("{packets} packets of the crowd");
    ensure!(light.passed == light.packets, "{light:?}");
    is_held(heavy.passed, heavy.time, 0.02).with_context(|| format!("{heavy:?}"))
}

/// Returns how many packets have passed so far.
fn passed(filter: &Filter) -> Result<u64> {
    use flood_common::reason::Reason;
    let counters = filter.counters.interface(0)?;
    let of = |reason: Reason| counters.done[reason.number() as usize].packets;
    Ok(of(Reason::Conforming) + of(Reason::Unaccounted))
}
