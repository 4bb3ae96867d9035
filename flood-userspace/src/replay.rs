//! Replays captures: test-runs each frame on a separate instance of the filter in the kernel.
//!
//! No interface is touched and time is taken from the capture ([`pace`]), so the result is the same on every machine.
//! A stand-in for the host of the capture ([`stage`]) tells the program what that host would have told it; it is
//! planned from a first look ([`survey`]). There is no sketch, which works per processor: so a replay allows a source
//! exactly its limit, where a filter may allow it a 32nd more (`flood_common::sketch`).

mod pace;
mod stage;
mod survey;

use std::{net::IpAddr, sync::Arc};

use flood_common::{
    abi::{InterfaceCounters, Settings, solicited},
    class::CELLS,
    meter::Limit,
    packet::{Parsed, parse},
    proof::means,
    reason::Reason,
    wire::Frame as Bytes,
};
use socket2::Socket;
use thiserror::Error;

use crate::{
    boot_time::BootTime,
    bpf::{BpfError, Filter, FilterOptions, RunOutcome, limit::set_limits},
    capture::{Direction, Frame},
    config::{CellName, Config, FeedName, HostSays, SolicitedBy, SynProof},
    feeds::{Content, Copies, Copy, NoList, copy::CopyError},
    lists::{
        Edit, Entry, Guard, ListKind, Origin,
        configured::{ListError, configured},
    },
    process::stay,
};

use self::pace::{CaptureClock, PAUSE_NS};
pub use self::{
    pace::{OddTimes, Pace},
    stage::{Known, Stage, leave_network},
    survey::{Said, Service, Survey},
};

/// Test runs come from an interface that the filter does not guard.
const SLOT: u32 = 0;

/// How often expired debts are cleared, nanoseconds; a word becomes ambiguous only after 2^42 (73 minutes).
const SWEEP_NS: u64 = 1_800_000_000_000;

/// How often the ports of the stand-in are read, nanoseconds; as often as the daemon reads those of a host.
const LOOK_NS: u64 = 1_000_000_000;

/// The MTU from which SYN cookies derive their MSS, bytes.
const MTU: u32 = 1_500;

/// Why a replay cannot begin.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The kernel refuses the filter.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A list of the configuration cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// The stored copy of a feed cannot be read.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The stored copy of a feed is not a list.
    #[error("the last good copy of the feed {name} is not believed: {source}")]
    Feed {
        /// Name of the feed.
        name: FeedName,
        /// Why.
        source: Box<NoList>,
    },
}

/// What became of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Passed.
    Pass(Reason),
    /// Answered by the filter itself, with a SYN cookie.
    Answer(Reason),
    /// Dropped.
    Drop(Reason),
    /// Not judged, as it leaves the host; the request in it is recorded.
    Noted,
    /// Not run: the kernel does not test-run such a frame (too short for an Ethernet header, or too long).
    Skipped,
}

/// A filter that runs on the clock of a capture.
pub struct Replay {
    filter: Filter,
    config: Config,
    /// Whether requests in frames are recorded.
    notes: bool,
    counters: InterfaceCounters,
    /// The processor to which this thread is pinned.
    processor: usize,
    stage: Option<Stage>,
    /// Sockets of the stage.
    sockets: Vec<Socket>,
    clock: CaptureClock,
    /// The filter's time when the capture began, and now.
    begun_ns: u64,
    now_ns: u64,
    swept_ns: u64,
    looked_ns: u64,
    /// Whether limits are in force.
    limits: bool,
}

impl Replay {
    /// Loads a filter with this configuration. It always enforces, whatever the configured mode.
    pub fn new(config: &Config) -> Result<Self, ReplayError> {
        let options = FilterOptions { virtual_clock: true, processors: Vec::new(), ..config.into() };
        let mut filter = Filter::load(&options)?;
        // The egress program recognizes solicited replies, as a capture has no sockets.
        let notes = matches!(config.proof.solicited, SolicitedBy::Auto | SolicitedBy::Egress);
        let notes = notes && filter.egress_error().is_none();
        // The capture is most likely not from this host, so its lifelines do not matter.
        for (kind, list) in configured(config, &Guard::default())? {
            filter.edit_list(kind, list.edit)?;
            add_feeds(&mut filter, kind, config)?;
        }
        let counters = filter.counters.interface(SLOT)?;
        let processor = stay().map_err(|error| BpfError::Other {
            what: "staying on one processor",
            cause: error.to_string(),
        })?;
        let mut replay = Self {
            filter,
            config: config.clone(),
            notes,
            counters,
            processor,
            stage: None,
            sockets: Vec::new(),
            clock: CaptureClock::default(),
            begun_ns: 0,
            now_ns: 0,
            swept_ns: 0,
            looked_ns: 0,
            limits: true,
        };
        replay.begin_capture();
        replay.tell(0)?;
        Ok(replay)
    }

    /// Begins another capture, for which nothing of the previous one remains. It is replayed at its own pace.
    pub fn begin_capture(&mut self) {
        self.clock = CaptureClock::default();
        self.set_time(self.now_ns + PAUSE_NS);
        self.begun_ns = self.now_ns;
        self.sweep();
    }

    /// Sets the pace of the capture that has been begun. `odd` are the frames whose times are ignored.
    pub fn set_pace(&mut self, pace: Pace, odd: OddTimes) {
        self.clock = CaptureClock::new(pace, odd);
    }

    /// Judges for the host that the stage describes, in the network namespace of this thread, which should have
    /// [nothing else in it](leave_network); with `None`, for an unknown host.
    pub fn set_stage(&mut self, stage: Option<Stage>) -> Result<(), BpfError> {
        self.sockets.clear();
        self.sockets = stage.as_ref().map(Stage::open).unwrap_or_default();
        self.filter.set_local(stage.as_ref().map_or(&[][..], |stage| &stage.local))?;
        let proof = &self.config.proof;
        let asks = stage.is_some() && proof.host != HostSays::No;
        let syn = match proof.syn {
            SynProof::Off => 0,
            SynProof::Retransmission => means::RETRANSMISSION,
            SynProof::Auto | SynProof::Cookie => means::COOKIES,
        };
        let by_sockets = matches!(proof.solicited, SolicitedBy::Auto | SolicitedBy::Socket);
        let absence = asks && stage.as_ref().is_some_and(Stage::absence_counts);
        self.filter.set_proof(if asks { syn | means::SOCKETS } else { 0 }, absence)?;
        self.filter.change_settings(|settings| settings.mtu = MTU);
        self.stage = stage;
        self.look()?;
        self.tell(if absence && by_sockets { solicited::SOCKETS } else { 0 })
    }

    /// Sets how solicited replies are recognized besides the records of the egress program, and puts the
    /// corresponding limits in force.
    fn tell(&mut self, by: u32) -> Result<(), BpfError> {
        self.filter.tell_solicited_by(by | if self.notes { solicited::NOTED } else { 0 });
        self.limits = false;
        self.judge_limits(true);
        Ok(())
    }

    /// Puts limits in force, or removes all of them.
    fn judge_limits(&mut self, limits: bool) {
        if std::mem::replace(&mut self.limits, limits) == limits {
            return;
        }
        let Config { limits: cells, protected_limits, .. } = &self.config;
        self.filter.change_settings(|settings| {
            if limits {
                set_limits(settings, cells, protected_limits);
            } else {
                settings.vital = Settings::default().vital;
                settings.set_limits([Limit::default(); CELLS]);
            }
        });
    }

    /// Runs a frame.
    pub fn run(&mut self, frame: &Frame<'_>) -> Result<Verdict, BpfError> {
        let passed_ns = self.clock.go_on(frame.number, frame.time_ns);
        let now_ns = self.begun_ns.saturating_add(passed_ns);
        if now_ns > self.now_ns {
            self.set_time(now_ns);
        }
        if self.now_ns - self.swept_ns > SWEEP_NS {
            self.sweep();
        }
        if self.stage.is_some() && self.now_ns - self.looked_ns >= LOOK_NS {
            self.look()?;
        }
        let is_said = self.stage.as_ref().is_some_and(|stage| stage.known == Known::Said);
        let by_source = || self.direction_by_source(frame.bytes);
        // A capture from elsewhere, such as from a router, has the directions of that place.
        let direction =
            if is_said { by_source().or(frame.direction) } else { frame.direction.or_else(by_source) };
        // If nothing tells whether a frame was sent or received, it counts as both, so that a reply to it counts as
        // solicited.
        if self.notes && direction != Some(Direction::In) {
            let _ = self.filter.run_egress(frame.bytes)?;
        }
        if direction == Some(Direction::Out) {
            return Ok(Verdict::Noted);
        }
        self.judge_limits(self.clock.says(frame.time_ns));
        self.clock.count();
        match self.filter.run(frame.bytes)? {
            RunOutcome::Pass => Ok(Verdict::Pass(self.counted()?)),
            RunOutcome::Drop => Ok(Verdict::Drop(self.counted()?)),
            RunOutcome::Answer => Ok(Verdict::Answer(self.counted()?)),
            RunOutcome::Refused => Ok(Verdict::Skipped),
            RunOutcome::Other(code) => {
                Err(BpfError::WrongObject { what: format!("it returned {code} for a packet") })
            }
        }
    }

    /// Nanoseconds by the filter's clock since the capture began.
    pub fn passed_ns(&self) -> u64 {
        self.now_ns - self.begun_ns
    }

    /// Derives the direction of a frame from its addresses, where they tell it.
    fn direction_by_source(&self, frame: &[u8]) -> Option<Direction> {
        let stage = self.stage.as_ref().filter(|stage| stage.tells_direction())?;
        let Parsed::Packet(packet) = parse(Bytes(frame)) else { return None };
        let [source, destination] = [packet.source, packet.destination].map(IpAddr::from);
        match (stage.is_local(source), stage.is_local(destination)) {
            (true, false) => Some(Direction::Out),
            (false, true) => Some(Direction::In),
            (true, true) | (false, false) => None,
        }
    }

    /// Updates the filter's view of the UDP ports in use.
    fn look(&mut self) -> Result<(), BpfError> {
        self.looked_ns = self.now_ns;
        let Some(stage) = &self.stage else { return Ok(()) };
        let looked: Result<(), BpfError> = self.filter.open.follow(self.notes, || Ok(stage.udp_ports()));
        looked
    }

    /// Returns the reason that was counted since the last call.
    fn counted(&mut self) -> Result<Reason, BpfError> {
        let counters = self.filter.counters.interface(SLOT)?;
        let before = std::mem::replace(&mut self.counters, counters);
        let moved = counters.done.iter().zip(&before.done).position(|(after, before)| after != before);
        moved
            .and_then(|number| Reason::from_number(u32::try_from(number).ok()?))
            .ok_or_else(|| BpfError::WrongObject { what: "it counted no reason".into() })
    }

    /// Returns the limit that the last frame has exceeded, if its reason is one of being over a limit.
    pub fn exceeded(&self, reason: Reason) -> Result<Option<CellName>, BpfError> {
        if !reason.is_over_limit() {
            return Ok(None);
        }
        let number = self.filter.counters.exceeded()?.get(self.processor).copied();
        Ok(number.and_then(|number| CellName::exceeded(reason, number)))
    }

    fn set_time(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.filter.set_virtual_now_ns(now_ns);
    }

    fn sweep(&mut self) {
        self.filter.debts.sweep(self.filter.settings.read().horizon_ns());
        self.swept_ns = self.now_ns;
    }
}

/// Adds the last good copies of its feeds to a list.
fn add_feeds(filter: &mut Filter, kind: ListKind, config: &Config) -> Result<(), ReplayError> {
    let copies = Copies::within(&config.state);
    for feed in &config.list(kind).feeds {
        if let Some(Copy { bytes, good_at, .. }) = copies.load(kind, feed)? {
            let entry = Entry::of(&Arc::new(Origin::Feed(feed.name.clone())), BootTime::of_wall(good_at));
            let content = Content::read(&bytes);
            let not_believed =
                |source| ReplayError::Feed { name: feed.name.clone(), source: Box::new(source) };
            content.check().map_err(not_believed)?;
            filter.edit_list(kind, Edit::put_alike(content.prefixes, &entry))?;
        }
    }
    Ok(())
}
