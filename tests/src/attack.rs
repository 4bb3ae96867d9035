//! An attacker who has read the source: random mixes of packets against the filter's twin on a host.
//!
//! A [`Trial`] is a configuration, facts of the host, and the phases of an attack. [`Trial::run`] simulates six
//! seconds of virtual time: the packets of the [attacker](attacker), between them those of [visitors](visitors) and
//! of the host's own clients, and what the [host](world) does with packets that pass. Two outcomes are errors,
//! whatever the attack:
//!
//! - More passes than the limits and the budgets of evidence allow: the [ledger](ledger) records what has passed, and
//!   overflows.
//! - A visitor loses a packet with evidence, or a connection is not established within a retransmission, or a visitor
//!   loses a packet without evidence although the ledger does not show that others have used up its limit.
//!
//! [`search`] draws trials and shrinks what it finds. The attacker knows all addresses and the ports of services, and
//! has an address, a connection and a server of its own. It does not know sequence numbers, cookies, or the ports of
//! the host's clients.
//!
//! Not covered: IPv6, lists, defects, the memory for fragments, the full table, and races between processors.

mod attacker;
mod ledger;
mod visitors;
mod world;

use std::net::Ipv4Addr;

use fastrand::Rng;
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner},
};

pub use attacker::{Aim, Kind, Phase, Pool};
use visitors::Visitor;
use world::World;

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;

/// Length of a trial. The attack may last for the first four seconds of it.
const LASTS: u64 = 6 * SECOND;

/// When it begins: far from time 0.
const START: u64 = 1_000 * SECOND;

/// Addresses of the documentation ranges (RFC 5737).
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const RESOLVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 53);
const CDN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
const ATTACKER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
const VISITOR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 8);

/// Ports of the host.
mod port {
    use std::ops::RangeInclusive;

    /// A web server.
    pub(super) const WEB: u16 = 443;
    /// A server that accepts no more connections.
    pub(super) const STUCK: u16 = 8_080;
    /// UDP services that reply to what they receive: one below the host's client port range, and one within it.
    pub(super) const GAME: u16 = 30_000;
    pub(super) const VOICE: u16 = 40_000;
    /// A closed port.
    pub(super) const CLOSED: u16 = 9;
    /// The ports from which the host has sent a request to the attacker's server, and has a session with it.
    pub(super) const ASKED: u16 = 45_001;
    pub(super) const SESSION: u16 = 45_000;
    /// The client port range (`ip_local_port_range`).
    pub(super) const CLIENTS: RangeInclusive<u16> = 32_768..=60_999;
    /// The part of it that the host's clients use now and then.
    pub(super) const TAKEN: RangeInclusive<u16> = 45_100..=60_000;
}

/// A configuration: the default one, or one of the profiles in `docs/`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "they are called like their files")]
pub enum Profile {
    Default,
    Web,
    Dns,
    Game,
}

/// What is tried.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The configuration.
    pub profile: Profile,
    /// Whether SYNs over a limit are answered with cookies, rather than having to be retransmitted.
    pub cookies: bool,
    /// Whether the kernel always uses cookies (`net.ipv4.tcp_syncookies` is 2), rather than only when a queue is
    /// full.
    pub always_cookies: bool,
    /// Whether the absence of a socket counts.
    pub absence: bool,
    /// Whether the filter notes what the host sends.
    pub notes: bool,
    /// The attack.
    pub phases: Vec<Phase>,
    /// Seed for times and numbers.
    pub seed: u64,
}

impl Trial {
    /// Creates a trial of a typical host.
    pub fn new(profile: Profile, phases: Vec<Phase>) -> Self {
        Self { profile, cookies: true, always_cookies: false, absence: true, notes: true, phases, seed: 1 }
    }

    /// Runs the trial.
    ///
    /// # Errors
    /// Describes what is wrong, in a sentence.
    pub fn run(&self) -> Result<(), String> {
        let mut world = World::new(self);
        let mut random = Rng::with_seed(self.seed);
        let mut visitors = Visitor::all(&mut world, random.fork());
        let mut attack: Vec<_> =
            self.phases.iter().enumerate().map(|(index, phase)| phase.begin(index, random.fork())).collect();
        loop {
            let visitor = visitors.iter_mut().min_by_key(|visitor| visitor.next_ns);
            let phase = attack.iter_mut().min_by_key(|phase| phase.next_ns);
            let next_ns = |next_ns: Option<u64>| next_ns.unwrap_or(u64::MAX);
            let (visitor_at, phase_at) = (
                next_ns(visitor.as_ref().map(|visitor| visitor.next_ns)),
                next_ns(phase.as_ref().map(|phase| phase.next_ns)),
            );
            if visitor_at.min(phase_at) > START + LASTS {
                return Ok(());
            }
            world.advance(visitor_at.min(phase_at));
            match (visitor, phase) {
                (Some(visitor), _) if visitor_at <= phase_at => visitor.act(&mut world)?,
                (_, Some(phase)) => phase.fire(&mut world)?,
                _ => {}
            }
        }
    }
}

/// Draws any trial. Simple values come first, because the search shrinks towards them. Half of the phases have the
/// same addresses and ports, so that one can prepare what another exploits.
fn trials() -> impl Strategy<Value = Trial> {
    let profile = select(vec![Profile::Default, Profile::Web, Profile::Dns, Profile::Game]);
    let facts = [0.7, 0.5, 0.8, 0.9].map(prop::bool::weighted);
    let phases = prop::collection::vec((Phase::any(), any::<bool>()), 1..4);
    (profile, facts, phases, Phase::any_source(), any::<u64>().no_shrink()).prop_map(
        |(profile, [cookies, always_cookies, absence, notes], phases, (pool, ports), seed)| {
            let in_common = |(phase, shares)| if shares { Phase { pool, ports, ..phase } } else { phase };
            let phases = phases.into_iter().map(in_common).collect();
            Trial { profile, cookies, always_cookies, absence, notes, phases, seed }
        },
    )
}

/// What the search has found.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The smallest trial that shows the error.
    pub trial: Trial,
    /// What is wrong.
    pub why: String,
}

/// Draws this many trials, reproducibly by seed.
pub fn search(seed: u64, trials_in_all: u32) -> Option<Finding> {
    /// Shrinking steps: some seconds of them.
    const SHRINKING: u32 = 400;

    let config = Config {
        cases: trials_in_all,
        max_shrink_iters: SHRINKING,
        failure_persistence: None,
        ..Config::default()
    };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, random);
    match runner.run(&trials(), |trial| trial.run().map_err(TestCaseError::fail)) {
        Err(TestError::Fail(_, trial)) => {
            let why = trial.run().err()?;
            Some(Finding { trial, why })
        }
        Ok(()) => None,
        Err(TestError::Abort(why)) => unreachable!("no trial is refused: {why}"),
    }
}
