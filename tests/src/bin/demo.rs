//! `cargo xtask demo`: a flood is dropped before your eyes while a visitor is served.
//!
//! Three namespaces (attacker, server, visitor) joined by a switch. The server runs floodgate in its driver, with a
//! limit of 200 packets a second for each source; the visitor fetches twenty pages a second, the attacker sends 1.5
//! million packets a second from more and more sources.

use std::{
    net::SocketAddr,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{Stats, Volume};
use floodgate_tests::{
    daemon::Daemon,
    flood::Flood,
    lab::{Lab, Namespace, Role, fetch, serve_http},
    packet,
    programs::Sources,
};

/// The limit of each source.
const LIMIT_PER_S: u64 = 200;
const BURST: u64 = 400;

/// What the attacker sends. The machine that shows this is attacker, network and server in one.
const ATTACK_PER_S: u64 = 1_500_000;

/// Pages that the visitor wants.
const PAGES_PER_S: u64 = 20;

/// The attacker's addresses begin here.
const FIRST_SOURCE: u32 = 0x0b00_0000; // 11.0.0.0

/// Set by Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A part of the demonstration.
struct Phase {
    name: &'static str,
    sources: u64,
    seconds: u32,
    /// In which second the attacker's network is blocked.
    block_at: Option<u32>,
}

const PHASES: [Phase; 5] = [
    Phase { name: "quiet", sources: 0, seconds: 4, block_at: None },
    Phase { name: "1 source", sources: 1, seconds: 6, block_at: None },
    Phase { name: "1,024 sources", sources: 1 << 10, seconds: 6, block_at: None },
    Phase { name: "16 M sources", sources: 1 << 24, seconds: 8, block_at: Some(4) },
    Phase { name: "after", sources: 0, seconds: 4, block_at: None },
];

/// What was counted until some moment.
#[derive(Clone, Copy, Default)]
struct Reading {
    passed: u64,
    source_packets: u64,
    blocked: u64,
    pages: u64,
}

impl Reading {
    fn since(self, before: Self) -> Self {
        Self {
            passed: self.passed - before.passed,
            source_packets: self.source_packets - before.source_packets,
            blocked: self.blocked - before.blocked,
            pages: self.pages - before.pages,
        }
    }

    fn dropped(self) -> u64 {
        self.source_packets + self.blocked
    }

    fn arrived(self) -> u64 {
        self.passed + self.dropped()
    }
}

/// What a phase came to.
struct Outcome {
    name: &'static str,
    total: Reading,
    last: Reading,
    seconds: f64,
    wrong: Option<String>,
}

fn main() -> ExitCode {
    catch_interrupts();
    match demonstrate() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn catch_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

fn demonstrate() -> Result<bool> {
    println!(
        "three network namespaces: attacker {}, server {}, visitor {}",
        Role::Attacker.address(),
        Role::Server.address(),
        Role::Visitor.address()
    );
    let lab = Lab::new()?;
    let address = SocketAddr::new(Role::Server.address(), 80);
    serve_http(lab.host(Role::Server), address)?;
    let config = format!("[limit.source]\npackets = \"{LIMIT_PER_S}/s\"\npackets_burst = \"{BURST}\"\n");
    let daemon = Daemon::start(lab.host(Role::Server), &config, "eth0")?;
    println!(
        "floodgate guards the server's eth0 in native mode; limit of each source: {LIMIT_PER_S}/s, burst {BURST}"
    );
    println!(
        "the attacker sends {:.1} million packets a second, the visitor wants {PAGES_PER_S} pages a second\n",
        ATTACK_PER_S as f64 / 1e6
    );
    println!(
        "{:<15}{:>13}{:>13}{:>16}{:>13}{:>16}",
        "", "arriving/s", "passed/s", "over limit/s", "blocked/s", "visitor pages/s"
    );

    let pages = Arc::new(AtomicU64::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let outcomes = thread::scope(|scope| {
        let served = scope.spawn(|| visit(lab.host(Role::Visitor), address, &pages, &over));
        let outcomes: Result<Vec<Outcome>> =
            PHASES.iter().map_while(|phase| show(phase, &lab, &daemon, &pages).transpose()).collect();
        over.store(true, Ordering::Relaxed);
        served.join().map_err(|_| anyhow::anyhow!("the visitor panicked"))??;
        outcomes
    });
    let outcomes = outcomes?;
    let (status, log) = daemon.end(libc::SIGTERM)?;
    ensure!(status.success(), "floodgate ended with {status}: {log}");
    if interrupted() {
        println!("interrupted; nothing remains behind");
        return Ok(false);
    }
    Ok(sum_up(&outcomes))
}

/// The visitor: a page at a time, over a connection of its own each.
fn visit(host: &Namespace, address: SocketAddr, pages: &AtomicU64, over: &AtomicBool) -> Result<()> {
    host.enter()?;
    let pause = Duration::from_millis(1_000 / PAGES_PER_S);
    while !over.load(Ordering::Relaxed) {
        let begin = Instant::now();
        if fetch(address, Duration::from_secs(2)).is_ok() {
            pages.fetch_add(1, Ordering::Relaxed);
        }
        thread::sleep(pause.saturating_sub(begin.elapsed()));
    }
    Ok(())
}

/// One phase, second by second. `None` after Ctrl-C.
fn show(phase: &Phase, lab: &Lab, daemon: &Daemon, pages: &AtomicU64) -> Result<Option<Outcome>> {
    let attacker = lab.host(Role::Attacker);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| -> Result<u64> {
            if phase.sources == 0 {
                return Ok(0);
            }
            attacker.enter()?;
            attack(attacker, phase).run(|| over.load(Ordering::Relaxed) || interrupted())
        });
        let begin = Instant::now();
        let first = read(daemon, pages)?;
        let mut before = first;
        let mut last = Reading::default();
        for second in 1..=phase.seconds {
            if phase.block_at == Some(second) {
                daemon.tell("block add 11.0.0.0/8")?;
                println!("{:<15}$ floodgate block add 11.0.0.0/8", "");
            }
            while begin.elapsed() < Duration::from_secs(second.into()) && !interrupted() {
                thread::sleep(Duration::from_millis(20));
            }
            if interrupted() {
                break;
            }
            let now = read(daemon, pages)?;
            last = now.since(before);
            before = now;
            println!(
                "{:<15}{:>13}{:>13}{:>16}{:>13}{:>16}",
                phase.name,
                last.arrived(),
                last.passed,
                last.source_packets,
                last.blocked,
                last.pages
            );
        }
        let seconds = begin.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        flood.join().map_err(|_| anyhow::anyhow!("the attacker panicked"))??;
        if interrupted() {
            return Ok(None);
        }
        let total = before.since(first);
        Ok(Some(Outcome {
            name: phase.name,
            total,
            last,
            seconds,
            wrong: judge(phase, total, last, seconds),
        }))
    })
}

fn read(daemon: &Daemon, pages: &AtomicU64) -> Result<Reading> {
    let stats: Stats = daemon.read("stats")?;
    let eth0 = stats.interfaces.get("eth0").context("floodgate no longer guards eth0")?;
    let dropped = |reason: &str| eth0.dropped.get(reason).map_or(0, |volume| volume.packets);
    Ok(Reading {
        passed: eth0.passed.values().map(|Volume { packets, .. }| packets).sum(),
        source_packets: dropped("source_packets"),
        blocked: dropped("blocked"),
        pages: pages.load(Ordering::Relaxed),
    })
}

fn attack(attacker: &Namespace, phase: &Phase) -> Flood {
    let source = std::net::Ipv4Addr::from(FIRST_SOURCE).into();
    let mut frame = packet::from(source).udp(40_000, 9).payload(18).bytes();
    frame[..6].copy_from_slice(&Role::Server.mac());
    Flood {
        interface: attacker.index("eth0").unwrap_or(0),
        frame,
        varied: Vec::new(),
        sources: Sources { first: FIRST_SOURCE.into(), count: phase.sources, adjacent: true },
        rate: Some(ATTACK_PER_S),
        count: ATTACK_PER_S * u64::from(phase.seconds) * 2,
        duration: Duration::from_secs(u64::from(phase.seconds) + 5),
    }
}

/// What is wrong with how a phase went.
fn judge(phase: &Phase, total: Reading, last: Reading, seconds: f64) -> Option<String> {
    let wanted = PAGES_PER_S * u64::from(phase.seconds);
    if total.pages * 2 < wanted {
        return Some(format!("the visitor got {} of {wanted} pages", total.pages));
    }
    if phase.sources == 0 {
        return None;
    }
    if total.arrived() < ATTACK_PER_S / 10 {
        return Some("hardly any attack arrived".into());
    }
    if phase.block_at.is_some() {
        let missed = last.arrived() - last.blocked;
        return (missed > last.arrived() / 100)
            .then(|| format!("{missed} packets a second passed the block"));
    }
    // Ten packets for each page, and a tick of the clock for each source.
    let allowed = phase.sources as f64 * (LIMIT_PER_S as f64 * (seconds + 0.02) + BURST as f64 + 1.0);
    let own = total.pages * 10 + 100;
    let attack = total.passed.saturating_sub(own);
    (attack as f64 > allowed).then(|| format!("{attack} packets passed where {allowed:.0} may"))
}

fn sum_up(outcomes: &[Outcome]) -> bool {
    println!(
        "\n{:<15}{:>14}{:>14}{:>10}{:>16}  verdict",
        "", "arrived", "dropped", "share", "visitor pages/s"
    );
    for Outcome { name, total, seconds, wrong, .. } in outcomes {
        println!(
            "{name:<15}{:>14}{:>14}{:>8.2} %{:>16.1}  {}",
            total.arrived(),
            total.dropped(),
            100.0 * total.dropped() as f64 / total.arrived().max(1) as f64,
            total.pages as f64 / seconds,
            wrong.as_deref().unwrap_or("as it should be")
        );
    }
    let last_blocked = outcomes.iter().find(|outcome| outcome.last.blocked > 0);
    if let Some(Outcome { last, .. }) = last_blocked {
        println!(
            "\n16 million sources stay below every limit of a source; blocking their network dropped {:.2} % of what came",
            100.0 * last.blocked as f64 / last.arrived().max(1) as f64
        );
    }
    outcomes.len() == PHASES.len() && outcomes.iter().all(|outcome| outcome.wrong.is_none())
}
