//! A server in a laboratory, behind a filter, and floods on its veth pair.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use flood_userspace::control::protocol::Stats;

use crate::{
    flood::Flood,
    lab::{Lab, Role, serve_http},
    packet::{self, Build},
    processor::{favour, go_first, pin},
    programs::{Programs, Sources},
    visitor::{Visits, visit},
};

use super::{Guard, attack::Attack, guard::Held};

/// The attackers' network is 11.0.0.0/8: 16 million sources fill it.
pub(super) const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
/// The attackers' network.
pub(super) const NETWORK: &str = "11.0.0.0/8";

/// The first /64 of the attackers in IPv6: in 2001:db8::/32 (RFC 3849).
const FIRST_SOURCE_V6: u64 = 0x2001_0db8_0b00_0000;

/// Upper limit on the duration of any flood.
pub(super) const LONGEST_FLOOD: Duration = Duration::from_secs(30);

/// The MAC address that floods come from. No host of the laboratory has it, so that no host has to receive answers to
/// spoofed addresses on the processors that are measured.
pub(super) const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0xff];

/// Maximum number of processors that send a flood of a fixed rate: as many as the veth pair has queues.
const MOST_CORES: usize = 2;

/// The processor that sends at full speed, and also receives if it does not share the work with another.
pub(super) const FLOOD_CORE: usize = 0;

/// Length of a flood for measuring when it is mitigated,
const SHORT_FLOOD: Duration = Duration::from_millis(500);

/// and of one for measuring its cost.
const COSTS_FOR: Duration = Duration::from_millis(100);

/// How often to check meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A flood is not mitigated while more than this share of it passes.
const HELD: f64 = 0.01;

/// A server behind a filter.
pub(super) struct Site {
    guard: Guard,
    /// Dropped before the laboratory that it is in.
    held: Held,
    lab: Lab,
}

impl Site {
    /// Sets up a filter in front of the laboratory's server.
    pub(super) fn new(lab: Lab, guard: Guard) -> Result<Self> {
        let held = guard
            .set_up(lab.host(Role::Server), "eth0")
            .with_context(|| format!("setting up {}", guard.label()))?;
        Ok(Self { guard, held, lab })
    }

    /// The same for a server that serves pages.
    pub(super) fn with_pages(guard: Guard) -> Result<Self> {
        let lab = Lab::new()?;
        serve_http(lab.host(Role::Server), Self::pages())?;
        Self::new(lab, guard)
    }

    /// The same for a server whose pages one processor serves.
    pub(super) fn with_pages_from(guard: Guard, core: usize) -> Result<Self> {
        let lab = Lab::new()?;
        thread::scope(|scope| {
            let serving = scope.spawn(|| {
                // The serving thread inherits both.
                pin(core)?;
                favour(0)?;
                serve_http(lab.host(Role::Server), Self::pages())
            });
            serving.join().unwrap_or_else(|_| bail!("the server panicked"))
        })?;
        Self::new(lab, guard)
    }

    /// Returns the address of the web server.
    pub(super) fn pages() -> SocketAddr {
        SocketAddr::new(Role::Server.address(), 80)
    }

    /// Returns its laboratory.
    pub(super) fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Returns the index of the switch's end of the server's veth pair.
    pub(super) fn port(&self) -> Result<u32> {
        self.lab.port(Role::Server)
    }

    /// Returns its filter.
    pub(super) fn guard(&self) -> Guard {
        self.guard
    }

    /// Returns the number of packets that its filter, Floodgate, has passed.
    pub(super) fn passed(&self) -> Result<u64> {
        let Held::Daemon(daemon) = &self.held else { bail!("{} does not count", self.guard.label()) };
        let stats: Stats = daemon.read("stats")?;
        let interfaces = stats.interfaces.values();
        Ok(interfaces.flat_map(|stats| stats.passed.values()).map(|volume| volume.packets).sum())
    }

    /// Returns the number of packets that the visitor has sent.
    pub(super) fn sent_by_visitor(&self) -> Result<u64> {
        self.lab.host(Role::Visitor).packets_sent("eth0")
    }

    /// Returns a flood of this frame on the server's veth pair, from the attackers' network.
    pub(super) fn flood(&self, build: &Build, sources: u64, rate: Option<u64>) -> Result<Flood> {
        let first = if build.is_ipv4() { FIRST_SOURCE.to_bits().into() } else { FIRST_SOURCE_V6 };
        self.flood_from(build, Sources { first, count: sources, adjacent: true }, rate)
    }

    /// The same from other sources.
    pub(super) fn flood_from(&self, build: &Build, sources: Sources, rate: Option<u64>) -> Result<Flood> {
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        frame[6..12].copy_from_slice(&NOBODY);
        Ok(Flood {
            interface: self.port()?,
            frame,
            varied: build.varied().to_vec(),
            sources,
            rate,
            count: u64::MAX,
            duration: LONGEST_FLOOD,
        })
    }

    /// Measures the CPU time, in nanoseconds, in which one core sends and receives a packet of a flood at full speed.
    pub(super) fn cost(&self, flood: &Flood, programs: &mut Programs) -> Result<f64> {
        let flood = Flood { rate: None, duration: COSTS_FOR, ..flood.clone() };
        self.lab.switch().within(|| {
            pin(FLOOD_CORE)?;
            Ok(self.make_and_take_in(programs, &flood)?.ns)
        })
    }

    /// Measures how long after its first packet a flood passed the last packets in excess of the limits.
    pub(super) fn mitigation(&self, flood: &Flood) -> Result<Duration> {
        let rate = flood.rate.context("a flood of a fixed rate")? as f64;
        let flood = flood.duration_of(SHORT_FLOOD);
        let (started, starts) = mpsc::channel();
        thread::scope(|scope| {
            let flooding = scope.spawn(move || {
                self.lab.switch().within(|| {
                    pin(FLOOD_CORE)?;
                    let mut programs = flood.load()?;
                    // The receiver is gone only if this function has failed.
                    let _ = started.send(Instant::now());
                    flood.send(&mut programs, || false)
                })
            });
            let begin = starts.recv_timeout(LONGEST_FLOOD)?;
            let (mut before, mut at, mut last) = (self.passed()?, Duration::ZERO, Duration::ZERO);
            while !flooding.is_finished() {
                thread::sleep(LOOK_EVERY);
                let (passed, now) = (self.passed()?, begin.elapsed());
                if (passed - before) as f64 > rate * (now - at).as_secs_f64() * HELD {
                    last = now;
                }
                (before, at) = (passed, now);
            }
            flooding.join().unwrap_or_else(|_| bail!("the attacker panicked"))?;
            Ok(last)
        })
    }

    /// Measures what the visitor gets during alternating floods, and the rate of the floods in million packets a
    /// second.
    pub(super) fn visit(&self, floods: &[Flood], duration: Duration) -> Result<(Visits, f64)> {
        let visiting = || visit(self.lab.host(Role::Visitor), Self::pages(), duration);
        let Flooded { value, sent, elapsed } = self.under(&Attack::Floods(floods.to_vec()), visiting)?;
        Ok((value, sent as f64 / elapsed.as_secs_f64() / 1e6))
    }

    /// Runs `work` during an attack. Each of two processors sends and receives half of the attack, as with a network
    /// card that has a queue for each of them.
    pub(super) fn under<T>(&self, attack: &Attack, work: impl FnOnce() -> Result<T>) -> Result<Flooded<T>> {
        let cores = if attack.is_none() { 0 } else { thread::available_parallelism()?.get().min(MOST_CORES) };
        let over = AtomicBool::new(false);
        let (ready, all_ready) = mpsc::channel();
        let part = |core, ready: mpsc::Sender<()>| {
            self.lab.switch().within(|| {
                pin(core)?;
                go_first()?;
                attack.send((core, cores), &over, &ready)
            })
        };
        thread::scope(|scope| {
            let part = &part;
            let flooding: Vec<_> = (0..cores)
                .map(|core| {
                    let ready = ready.clone();
                    scope.spawn(move || part(core, ready))
                })
                .collect();
            // A thread that fails reports it when it is joined.
            let begins = (0..cores).all(|_| all_ready.recv_timeout(LONGEST_FLOOD).is_ok());
            let begin = Instant::now();
            let value = if begins { work() } else { Err(anyhow!("the flood does not begin")) };
            over.store(true, Relaxed);
            let sent = flooding
                .into_iter()
                .map(|flooding| flooding.join().unwrap_or_else(|_| bail!("the attacker panicked")))
                .sum::<Result<u64>>()?;
            Ok(Flooded { value: value?, sent, elapsed: begin.elapsed() })
        })
    }
}

/// The result of work during a flood.
pub(super) struct Flooded<T> {
    /// Result of the work.
    pub(super) value: T,
    /// Packets that were sent meanwhile,
    pub(super) sent: u64,
    /// and the time it took.
    pub(super) elapsed: Duration,
}

/// A packet that every filter drops.
pub(super) fn dropped() -> Build {
    packet::from(FIRST_SOURCE.into()).udp(40_000, 9).payload(18)
}
