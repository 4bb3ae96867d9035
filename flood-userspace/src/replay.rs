//! Replaying captures: each frame through the program in the kernel, by test run, in an instance of its own.
//!
//! No interface is touched, time is what the capture says, and so the result is the same on every machine. There is no
//! sketch, which works by processors: so a replay lets a source have just its limit, where a filter may let it have a 32nd
//! more (`flood_common::sketch`).

use std::sync::Arc;

use flood_common::{
    abi::{InterfaceCounters, solicited},
    reason::Reason,
};
use thiserror::Error;

use crate::{
    boot_time::BootTime,
    bpf::{BpfError, Filter, FilterOptions, RunOutcome, limit::set_limits},
    capture::Frame,
    config::{Config, SolicitedBy},
    feeds::{Content, Copies, Copy, copy::CopyError},
    lists::{
        Edit, Entry, Guard, ListKind, Origin,
        configured::{ListError, configured},
    },
};

/// Test runs come in on an interface that the filter does not guard.
const SLOT: u32 = 0;

/// Between two captures, nanoseconds: longer than any debt can last.
const PAUSE_NS: u64 = 600_000_000_000;

/// How often debts that have ended are cleared, nanoseconds; a word is ambiguous only after 2^42 (73 minutes).
const SWEEP_NS: u64 = 1_800_000_000_000;

/// What a replay begins with.
#[derive(Debug, Error)]
pub enum ReplayError {
    /// The kernel refuses.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A list of the configuration cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// The copy of a feed cannot be read.
    #[error(transparent)]
    Copy(#[from] CopyError),
}

/// What became of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Passed.
    Pass(Reason),
    /// Dropped.
    Drop(Reason),
    /// Not run: the kernel test-runs no such frame (too short for an Ethernet header, or too long).
    Skipped,
}

/// The filter with a capture's clock.
pub struct Replay {
    filter: Filter,
    /// Whether what frames ask for is noted.
    notes: bool,
    counters: InterfaceCounters,
    /// The filter's time.
    now_ns: u64,
    /// When the capture began: by its own clock, and by the filter's.
    begun: Option<(u64, u64)>,
    swept_ns: u64,
}

impl Replay {
    /// Loads a filter with this configuration. It always enforces, whatever the configured mode.
    pub fn new(config: &Config) -> Result<Self, ReplayError> {
        let options = FilterOptions { virtual_clock: true, processors: Vec::new(), ..config.into() };
        let mut filter = Filter::load(&options)?;
        // What a capture has no sockets for, an egress program sees.
        let notes = matches!(config.proof.solicited, SolicitedBy::Auto | SolicitedBy::Egress);
        let notes = notes && filter.egress_error().is_none();
        if notes {
            filter.tell_solicited_by(solicited::NOTED);
        }
        filter.change_settings(|settings| set_limits(settings, &config.limits, &config.protected_limits));
        // Whatever host the capture is from, it is hardly this one.
        for (kind, list) in configured(config, &Guard::default())? {
            filter.edit_list(kind, list.edit)?;
            add_feeds(&mut filter, kind, config)?;
        }
        let counters = filter.counters.interface(SLOT)?;
        let mut replay = Self { filter, notes, counters, now_ns: 0, begun: None, swept_ns: 0 };
        replay.begin_capture();
        Ok(replay)
    }

    /// Begins another capture, in which nothing is left of the one before.
    pub fn begin_capture(&mut self) {
        self.begun = None;
        self.set_time(self.now_ns + PAUSE_NS);
        self.sweep();
    }

    /// Runs a frame.
    pub fn run(&mut self, frame: &Frame<'_>) -> Result<Verdict, BpfError> {
        let (begun_at, begun_ns) = *self.begun.get_or_insert((frame.time_ns, self.now_ns));
        // Captures of several interfaces may step back in time. The filter's clock never does.
        let time_ns = begun_ns + frame.time_ns.saturating_sub(begun_at);
        if time_ns > self.now_ns {
            self.set_time(time_ns);
        }
        if self.now_ns - self.swept_ns > SWEEP_NS {
            self.sweep();
        }
        // Whether a frame left a host or came to one the capture does not say, and need not: whoever answers it was asked.
        if self.notes {
            let _ = self.filter.run_egress(frame.bytes)?;
        }
        match self.filter.run(frame.bytes)? {
            RunOutcome::Pass => Ok(Verdict::Pass(self.counted()?)),
            RunOutcome::Drop => Ok(Verdict::Drop(self.counted()?)),
            RunOutcome::Answer => {
                Err(BpfError::WrongObject { what: "it answered a packet that was only replayed".into() })
            }
            RunOutcome::Refused => Ok(Verdict::Skipped),
            RunOutcome::Other(code) => {
                Err(BpfError::WrongObject { what: format!("it returned {code} for a packet") })
            }
        }
    }

    /// The reason that was counted since the last look.
    fn counted(&mut self) -> Result<Reason, BpfError> {
        let counters = self.filter.counters.interface(SLOT)?;
        let before = std::mem::replace(&mut self.counters, counters);
        let moved = counters.done.iter().zip(&before.done).position(|(after, before)| after != before);
        moved
            .and_then(|number| Reason::from_number(u32::try_from(number).ok()?))
            .ok_or_else(|| BpfError::WrongObject { what: "it counted no reason".into() })
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
            filter.edit_list(kind, Edit::put_alike(Content::read(&bytes).prefixes, &entry))?;
        }
    }
    Ok(())
}
