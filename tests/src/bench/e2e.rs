//! End to end: a flood on a virtual interface, with each filter in turn, and a visitor behind it.
//!
//! Each filter guards a server in a laboratory of its own, set up before the first round. The flood comes in on the
//! server's cable itself; the visitor's packets take the way through the switch. Throughput is measured with as many
//! packets as one core can send and the same core take in; the visitor with a flood of one rate for all.
//!
//! Every filter knows the attackers' network and drops it, so that all is dropped and no network stack is part of the
//! comparison; those with a limit of each source have it, too.

use std::{
    fmt::Display,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::XdpMode;
use flood_userspace::control::protocol::Stats;

use crate::{
    daemon::Daemon,
    flood::Flood,
    lab::{Lab, Namespace, Role, serve_http},
    packet::{self, Build},
    programs::{Programs, Sources},
    visitor::{Visits, visit},
};

use super::{
    Effort,
    measure::{pin, quantile, quartiles, thread_time_ns},
    report::{EndToEnd, Visitor},
    vectors,
};

/// The attackers' network is 11.0.0.0/8: 16 million sources fill it.
pub(super) const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);
const NETWORK: &str = "11.0.0.0/8";

/// The first /64 of the attackers in IPv6: in 2001:db8::/32 (RFC 3849).
const FIRST_SOURCE_V6: u64 = 0x2001_0db8_0b00_0000;

/// Numbers of sources.
const SOURCES: [u64; 2] = [1, 1 << 24];

/// The flood that the visitor is visited by: less than the slowest filter takes in on one core of the machines that
/// we know, so that all filters have the same.
pub(super) const FLOOD_PER_S: u64 = 400_000;

/// No flood lasts longer, whatever happens.
const LONGEST_FLOOD: Duration = Duration::from_secs(30);

/// The MAC address that floods come from: no host of the laboratory has it, so that no host has to take in answers to
/// invented addresses on the processors that are measured.
const NOBODY: [u8; 6] = [0x02, 0, 0, 0, 0, 0xff];

/// How long a flood lasts of which is measured when it is held, and what it costs.
const SHORT_FLOOD: Duration = Duration::from_millis(500);

/// How often is looked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// A flood is not held yet while more than this share of it passes.
const HELD: f64 = 0.01;

/// The processor that sends the flood, and takes it in.
const FLOOD_CORE: usize = 0;

/// The limit of each source, for filters that have one: far above what the visitor sends.
const LIMIT_PER_S: u64 = 200_000;

/// Sources that nft has room for, as many as the LRU reference.
const METER_SIZE: u64 = 1 << 20;

/// Up to this share of the flood may reach the network stack of a server whose filter drops all.
const LEAK: f64 = 0.001;

/// What guards the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Nothing: the network stack takes the flood.
    Nothing,
    /// Floodgate with a limit and the attackers' network blocked.
    Floodgate,
    /// Floodgate with limits for all sources together, and proof of origin beyond them.
    Proof,
    /// A bare `XDP_DROP`, which keeps the visitor out, too.
    XdpDrop,
    /// A program that passes the visitor and drops the rest: no filter can be better.
    Ideal,
    /// xdp-filter, which knows no networks: it denies everybody but the visitor.
    XdpFilter,
    /// nftables, the attackers' network dropped at ingress.
    NftDrop,
    /// nftables with a limit of each source in a dynamic set, then the attackers' network dropped.
    NftMeter,
}

/// A program that the bench compares with, and what brings it.
pub struct Peer {
    /// The program.
    pub program: &'static str,
    /// The package of Debian.
    pub package: &'static str,
}

const XDP_FILTER: Peer = Peer { program: "xdp-filter", package: "xdp-tools" };
const NFT: Peer = Peer { program: "nft", package: "nftables" };

/// All of them.
pub const PEERS: [Peer; 2] = [XDP_FILTER, NFT];

impl Peer {
    /// Whether it is there.
    pub fn is_installed(&self) -> bool {
        Command::new(self.program)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok()
    }

    /// Installs its package.
    pub fn install(&self) -> Result<()> {
        let status = Command::new("apt-get")
            .args(["install", "--yes", "--no-install-recommends", self.package])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .status()
            .context("starting apt-get")?;
        ensure!(status.success(), "`apt-get install {}` failed; `apt-get update` first?", self.package);
        Ok(())
    }
}

impl Guard {
    /// Those that are compared.
    pub const ALL: [Self; 7] = [
        Self::Nothing,
        Self::Floodgate,
        Self::XdpDrop,
        Self::Ideal,
        Self::XdpFilter,
        Self::NftDrop,
        Self::NftMeter,
    ];

    /// The word for it in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Nothing => "no filter",
            Self::Floodgate => "floodgate",
            Self::Proof => "floodgate, proof",
            Self::XdpDrop => "xdp drop",
            Self::Ideal => "ideal",
            Self::XdpFilter => "xdp-filter",
            Self::NftDrop => "nft drop",
            Self::NftMeter => "nft meter",
        }
    }

    fn peer(self) -> Option<Peer> {
        match self {
            Self::XdpFilter => Some(XDP_FILTER),
            Self::NftDrop | Self::NftMeter => Some(NFT),
            Self::Nothing | Self::Floodgate | Self::Proof | Self::XdpDrop | Self::Ideal => None,
        }
    }

    fn admits_visitor(self) -> bool {
        self != Self::XdpDrop
    }

    /// Puts it in front of the server.
    fn set_up(self, server: &Namespace) -> Result<Held> {
        match self {
            Self::Nothing => Ok(Held::Nothing),
            Self::Floodgate => {
                let config = format!(
                    "[limit.source]\npackets = \"{LIMIT_PER_S}/s\"\nsyn.packets = \"off\"\n[block]\nentries = [\"{NETWORK}\"]\n"
                );
                Ok(Held::Daemon(Daemon::start(server, &config, "eth0")?))
            }
            Self::Proof => Ok(Held::Daemon(Daemon::start(server, vectors::CONFIG, "eth0")?)),
            Self::XdpDrop => attach(server, "drop"),
            Self::Ideal => attach(server, "pass_one"),
            Self::XdpFilter => xdp_filter(server),
            Self::NftDrop => nft(server, "", ""),
            Self::NftMeter => {
                let set = format!(
                    "set sources {{ type ipv4_addr; size {METER_SIZE}; flags dynamic,timeout; timeout 10s; }}"
                );
                let limit = format!(
                    "update @sources {{ ip saddr limit rate over {LIMIT_PER_S}/second burst {LIMIT_PER_S} packets }} drop"
                );
                nft(server, &set, &limit)
            }
        }
    }
}

/// What has to live for a filter to stay where it is.
enum Held {
    /// Nothing, or what goes with its namespace.
    Nothing,
    Daemon(Daemon),
    Program(#[expect(dead_code, reason = "detaches when dropped")] Programs),
    Shell(Child),
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Self::Shell(child) = self {
            drop(child.stdin.take()); // it waits for the end of its input
            let _ = child.wait();
        }
    }
}

/// Attaches a program of the laboratory; the one source that it may want to know is the visitor.
fn attach(server: &Namespace, name: &str) -> Result<Held> {
    let IpAddr::V4(visitor) = Role::Visitor.address() else { bail!("the visitor has no IPv4 address") };
    let mut programs = Programs::load()?;
    programs.set_sources(Sources { first: visitor.to_bits().into(), count: 1, adjacent: true })?;
    let index = server.index("eth0")?;
    let program = programs.program(name)?;
    server.within(|| Ok(program.attach_to_if_index(index, XdpMode::Driver)?))?;
    Ok(Held::Program(programs))
}

/// Sets xdp-filter up. It pins its maps by the name of the interface; in a BPF file system of its own that can be no
/// operator's `eth0`, and nothing stays behind.
fn xdp_filter(server: &Namespace) -> Result<Held> {
    let visitor = Role::Visitor.address();
    let script = format!(
        "mount -t bpf bpf /sys/fs/bpf && xdp-filter load eth0 --policy deny --features ipv4 && \
         xdp-filter ip {visitor} --mode src && echo ready && read -r _"
    );
    let mut command = server.command("unshare")?;
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().context("starting xdp-filter")?;
    let mut lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let held = Held::Shell(child);
    ensure!(lines.any(|line| line.is_ok_and(|line| line == "ready")), "xdp-filter cannot be set up");
    Ok(held)
}

/// Sets nftables up at ingress: perhaps a set and a rule on it, then a drop of the attackers' network.
fn nft(server: &Namespace, set: &str, rule: &str) -> Result<Held> {
    let rules = format!(
        "table netdev flood {{\n{set}\nchain ingress {{\ntype filter hook ingress device \"eth0\" priority 0;\n\
         {rule}\nip saddr {NETWORK} drop\n}}\n}}\n"
    );
    let mut command = server.command("nft")?;
    let mut child = command
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting nft")?;
    child.stdin.take().context("nft has no standard input")?.write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(output.status.success(), "nft: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(Held::Nothing)
}

/// A server behind a filter.
pub(super) struct Site {
    guard: Guard,
    /// Dropped before the laboratory that it is in.
    held: Held,
    lab: Lab,
}

impl Site {
    pub(super) fn new(guard: Guard) -> Result<Self> {
        let lab = Lab::new()?;
        let server = lab.host(Role::Server);
        serve_http(server, Self::address())?;
        let held = guard.set_up(server)?;
        Ok(Self { guard, held, lab })
    }

    fn address() -> SocketAddr {
        SocketAddr::new(Role::Server.address(), 80)
    }

    /// Packets that its filter, Floodgate, has let through.
    pub(super) fn passed(&self) -> Result<u64> {
        let Held::Daemon(daemon) = &self.held else { bail!("{} does not count", self.guard.label()) };
        let stats: Stats = daemon.read("stats")?;
        let interfaces = stats.interfaces.values();
        Ok(interfaces.flat_map(|stats| stats.passed.values()).map(|volume| volume.packets).sum())
    }

    /// Packets that the visitor has sent.
    pub(super) fn sent_by_visitor(&self) -> Result<u64> {
        self.lab.host(Role::Visitor).packets_sent("eth0")
    }

    /// A flood of this frame on the server's cable.
    pub(super) fn flood(&self, build: &Build, sources: u64, rate: Option<u64>) -> Result<Flood> {
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        frame[6..12].copy_from_slice(&NOBODY);
        let first = if build.is_ipv4() { FIRST_SOURCE.to_bits().into() } else { FIRST_SOURCE_V6 };
        Ok(Flood {
            interface: self.lab.port(Role::Server)?,
            frame,
            sources: Sources { first, count: sources, adjacent: true },
            rate,
            count: u64::MAX,
            duration: LONGEST_FLOOD,
        })
    }

    /// Million packets a second that the server takes in, of as many as can be sent.
    fn throughput(&self, sources: u64, duration: Duration) -> Result<f64> {
        let server = self.lab.host(Role::Server);
        let flood = Flood { duration, ..self.flood(&blocked(), sources, None)? };
        let (for_stack, before) = (server.packets_for_stack()?, server.packets_received("eth0")?);
        let elapsed = self.lab.switch().within(|| {
            pin(FLOOD_CORE)?;
            let mut programs = flood.load()?;
            let begin = Instant::now();
            flood.send(&mut programs, || false)?;
            Ok(begin.elapsed())
        })?;
        let received = server.packets_received("eth0")? - before;
        let leaked = (server.packets_for_stack()? - for_stack) as f64 / received.max(1) as f64;
        ensure!(received > 0, "{}: nothing of the flood arrived", self.guard.label());
        ensure!(
            self.guard == Guard::Nothing || leaked <= LEAK,
            "{}: {leaked:.3} of the flood reached the network stack",
            self.guard.label()
        );
        Ok(received as f64 / elapsed.as_secs_f64() / 1e6)
    }

    /// Nanoseconds of CPU time in which a packet of a flood is made and taken in. `begin` is told when the first is sent.
    pub(super) fn cost(&self, flood: &Flood, begin: impl FnOnce(Instant) + Send) -> Result<f64> {
        let flood = Flood { duration: SHORT_FLOOD, ..flood.clone() };
        self.lab.switch().within(|| {
            pin(FLOOD_CORE)?;
            let mut programs = flood.load()?;
            begin(Instant::now());
            let before = thread_time_ns();
            let sent = flood.send(&mut programs, || false)?;
            Ok((thread_time_ns() - before) / sent.max(1) as f64)
        })
    }

    /// When, after its first packet, the last of a flood passed but for what limits allow; and its [cost](Self::cost).
    pub(super) fn mitigation(&self, flood: &Flood) -> Result<(Duration, f64)> {
        let rate = flood.rate.context("a flood of a fixed rate")? as f64;
        let (started, starts) = mpsc::channel();
        thread::scope(|scope| {
            // Nobody listens any more only if this function has failed.
            let flooding = scope.spawn(move || {
                self.cost(flood, |begin| {
                    let _ = started.send(begin);
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
            Ok((last, flooding.join().unwrap_or_else(|_| bail!("the attacker panicked"))?))
        })
    }

    /// What the visitor gets during floods that take turns, and million packets a second that they came to.
    pub(super) fn visit(&self, floods: &[Flood], duration: Duration) -> Result<(Visits, f64)> {
        let turn = duration / u32::try_from(floods.len().max(1))?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let flooding = scope.spawn(|| {
                self.lab.switch().within(|| {
                    pin(FLOOD_CORE)?;
                    let mut loaded = floods.iter().map(Flood::load).collect::<Result<Vec<_>>>()?;
                    let begin = Instant::now();
                    let mut sent = 0;
                    for (number, (flood, programs)) in (1..).zip(floods.iter().zip(&mut loaded)) {
                        let last = number == floods.len();
                        let turn_begins = Instant::now();
                        let is_over = || over.load(Relaxed) || !last && turn_begins.elapsed() > turn;
                        sent += flood.send(programs, is_over)?;
                    }
                    Ok(sent as f64 / begin.elapsed().as_secs_f64() / 1e6)
                })
            });
            let visits = visit(self.lab.host(Role::Visitor), Self::address(), duration);
            over.store(true, Relaxed);
            let flood_mpps = flooding.join().unwrap_or_else(|_| bail!("the attacker panicked"))?;
            Ok((visits?, flood_mpps))
        })
    }
}

/// What was measured of one filter with so many sources.
#[derive(Default)]
struct Rounds {
    mpps: Vec<f64>,
    visits: Vec<Visits>,
    flood_mpps: Vec<f64>,
}

/// A packet that every filter drops.
fn blocked() -> Build {
    packet::from(FIRST_SOURCE.into()).udp(40_000, 9).payload(18)
}

/// Measures every filter whose program is there, round by round; the others are named and skipped.
pub(super) fn measure(
    effort: Effort,
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<EndToEnd>> {
    let mut sites = Vec::new();
    for guard in Guard::ALL {
        match guard.peer().filter(|peer| !peer.is_installed()) {
            None => sites.push(Site::new(guard).with_context(|| format!("setting up {}", guard.label()))?),
            Some(Peer { program, package }) => progress(&format!(
                "skipping {}: no {program} here (`--setup` installs {package})",
                guard.label()
            ))?,
        }
    }
    let mut measured: Vec<[Rounds; SOURCES.len()]> = sites.iter().map(|_| Default::default()).collect();
    for _ in 0..effort.floods {
        for (site, by_sources) in sites.iter().zip(&mut measured) {
            for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
                rounds.mpps.push(site.throughput(sources, effort.flood)?);
            }
        }
        progress(&format!("a round of {} filters, end to end", sites.len()))?;
    }
    for _ in 0..effort.visits {
        for (site, by_sources) in
            sites.iter().zip(&mut measured).filter(|(site, _)| site.guard.admits_visitor())
        {
            for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
                let flood = site.flood(&blocked(), sources, Some(FLOOD_PER_S))?;
                let (visits, flood_mpps) = site.visit(&[flood], effort.visit)?;
                rounds.visits.push(visits);
                rounds.flood_mpps.push(flood_mpps);
            }
        }
        progress(&"a round of visits")?;
    }
    let mut rows = Vec::new();
    for (site, by_sources) in sites.iter().zip(&measured) {
        for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
            let row = rounds.sum_up(site.guard, sources);
            progress(&row)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

impl Rounds {
    fn sum_up(&self, guard: Guard, sources: u64) -> EndToEnd {
        let Self { mpps, visits, flood_mpps } = self;
        let [low, mpps, high] = quartiles(mpps);
        let rates: Vec<f64> = visits.iter().map(Visits::rate).collect();
        let latencies_ms: Vec<f64> = visits
            .iter()
            .flat_map(|visits| &visits.latencies)
            .map(|latency| latency.as_secs_f64() * 1e3)
            .collect();
        let visitor = (!visits.is_empty()).then(|| Visitor {
            flood_mpps: quantile(flood_mpps.clone(), 0.5),
            requests_per_second: quantile(rates, 0.5),
            p99_ms: quantile(latencies_ms, 0.99),
        });
        EndToEnd { filter: guard.label(), sources, mpps, mpps_quartiles: [low, high], visitor }
    }
}
