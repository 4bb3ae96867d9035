//! What the daemon knows about its feeds, and how they change the lists.

use std::time::{Duration, SystemTime};

use tracing::{debug, info, warn};

use crate::{
    boot_time::BootTime,
    bpf::BpfError,
    config::{Config, Feed, FeedName},
    control::protocol::{AddReply, FeedStatus},
    feeds::{Content, Doubt, FetchError, copy::CopyError},
    lists::{Edit, ListKind},
};

use super::Engine;

/// Why a feed is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// It cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What it says is not believed.
    #[error(transparent)]
    Doubt(#[from] Doubt),
    /// It does not fit, or the kernel does not do it.
    #[error(transparent)]
    Kernel(#[from] BpfError),
    /// Its last good copy is of no use.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// Reading it does not end.
    #[error("reading it has not ended within {0} s")]
    Hangs(u64),
    /// The thread that read it has ended.
    #[error("reading it ended with {0}")]
    Panic(String),
}

/// When a feed was last known to say what it is believed to say.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// By this daemon.
    At(BootTime),
    /// By the one that wrote the copy, as the wall clock was then.
    Copied(SystemTime),
}

impl Read {
    fn moment(self) -> BootTime {
        match self {
            Self::At(moment) => moment,
            Self::Copied(wall) => BootTime::of_wall(wall),
        }
    }

    /// For showing.
    fn wall(self) -> SystemTime {
        match self {
            Self::At(moment) => moment.wall(),
            Self::Copied(wall) => wall,
        }
    }
}

/// A feed, and what became of it.
pub(super) struct FeedState {
    kind: ListKind,
    feed: Feed,
    left_out: u64,
    problems: Vec<String>,
    good_at: Option<Read>,
    errors: u64,
    error: Option<String>,
    next: Option<BootTime>,
}

impl FeedState {
    fn new(kind: ListKind, feed: Feed) -> Self {
        Self {
            kind,
            feed,
            left_out: 0,
            problems: Vec::new(),
            good_at: None,
            errors: 0,
            error: None,
            next: None,
        }
    }

    fn has_worked(&mut self, at: Read) {
        self.good_at = Some(at);
        if let Some(error) = self.error.take() {
            info!("feed {}: works again, after {error}", self.feed.name);
        }
    }
}

impl Engine {
    /// Takes over the feeds of a configuration. What those carried that are no longer in it is taken out.
    pub fn set_feeds(&mut self, config: &Config) -> Result<(), BpfError> {
        for kind in ListKind::ALL {
            let wanted = &config.list(kind).feeds;
            let is_wanted = |name: &FeedName| wanted.iter().any(|feed| feed.name == *name);
            let gone: Vec<FeedName> = self
                .feeds
                .iter()
                .filter(|state| state.kind == kind && !is_wanted(&state.feed.name))
                .map(|state| state.feed.name.clone())
                .collect();
            for name in gone {
                let reply = self.exchange(kind, &name, Vec::new(), BootTime::now())?;
                info!("{} list: the feed {name} is gone, {} removed", kind.label(), reply.removed);
                self.feeds.retain(|state| state.kind != kind || state.feed.name != name);
            }
            for feed in wanted {
                match self.feeds.iter_mut().find(|state| state.kind == kind && state.feed.name == feed.name) {
                    Some(state) => state.feed = feed.clone(),
                    None => self.feeds.push(FeedState::new(kind, feed.clone())),
                }
            }
            let names: Vec<FeedName> = wanted.iter().map(|feed| feed.name.clone()).collect();
            self.carriers[kind as usize].order(&names);
        }
        Ok(())
    }

    /// Puts what a feed says into force: all of it, or nothing. Nothing happens when the feed is no longer configured
    /// like this. `force` believes what lists almost nothing.
    pub fn accept_feed(
        &mut self,
        kind: ListKind,
        feed: &Feed,
        content: Content,
        force: bool,
        good_at: Read,
    ) -> Result<(), FeedError> {
        if self.feed_mut(kind, feed).is_none() {
            return Ok(());
        }
        let before = self.carriers[kind as usize].prefixes(&feed.name).len();
        content.check(before, force || feed.may_shrink)?;
        let Content { prefixes, left_out, problems, .. } = content;
        let entries = prefixes.len();
        let AddReply { added, removed, .. } = self.exchange(kind, &feed.name, prefixes, good_at.moment())?;
        if added + removed > 0 || before != entries {
            info!(
                "{} list: feed {}: {entries} entries, {added} added, {removed} removed",
                kind.label(),
                feed.name
            );
        }
        if let Some(state) = self.feed_mut(kind, feed) {
            if left_out > 0 && state.left_out != left_out {
                warn!(
                    "feed {}: {}: {left_out} lines are left out; {}",
                    feed.name,
                    feed.source,
                    problems.first().map_or("", String::as_str)
                );
            }
            (state.left_out, state.problems) = (left_out, problems);
            state.has_worked(good_at);
        }
        Ok(())
    }

    /// Notes that a feed still says what it said.
    pub fn confirm_feed(&mut self, kind: ListKind, feed: &Feed, at: BootTime) {
        debug!("feed {}: nothing has changed", feed.name);
        if let Some(state) = self.feed_mut(kind, feed) {
            state.has_worked(Read::At(at));
        }
    }

    /// Notes that a feed is as it was before, because of an error. The same error is logged once.
    pub fn fail_feed(&mut self, kind: ListKind, feed: &Feed, error: &FeedError) {
        let Some(state) = self.feed_mut(kind, feed) else { return };
        state.errors += 1;
        let error = error.to_string();
        if state.error.as_ref() != Some(&error) {
            warn!("feed {}: {}: {error}; what it had stays in force", feed.name, feed.source);
        }
        state.error = Some(error);
    }

    /// Notes when a feed will be read next.
    pub fn schedule_feed(&mut self, kind: ListKind, feed: &Feed, next: BootTime) {
        if let Some(state) = self.feed_mut(kind, feed) {
            state.next = Some(next);
        }
    }

    fn feed_mut(&mut self, kind: ListKind, feed: &Feed) -> Option<&mut FeedState> {
        self.feeds.iter_mut().find(|state| state.kind == kind && state.feed == *feed)
    }

    fn exchange(
        &mut self,
        kind: ListKind,
        name: &FeedName,
        prefixes: Vec<ipnet::IpNet>,
        now: BootTime,
    ) -> Result<AddReply, BpfError> {
        let edit = self.carriers[kind as usize].exchange(self.list(kind), name, &prefixes, now);
        let reply = self.insert(kind, edit)?;
        self.carriers[kind as usize].carry(name, prefixes, now);
        Ok(reply)
    }

    /// Leaves to the feeds what will soon end, so that it is on the list throughout.
    pub(super) fn hand_over(&mut self, kind: ListKind, now: BootTime) -> Result<(), BpfError> {
        /// A daemon that is this late lets it end in between.
        const AHEAD: Duration = Duration::from_secs(1);

        let carriers = &self.carriers[kind as usize];
        if carriers.is_empty() {
            return Ok(());
        }
        let edit = carriers.handed_over(&self.list(kind).expired(now + AHEAD));
        if !edit.is_empty() {
            self.filter.edit_list(kind, edit)?;
        }
        Ok(())
    }

    /// Takes entries out, and leaves to the feeds what they carry.
    pub(super) fn taking_out(&self, kind: ListKind, edit: Edit) -> Edit {
        self.carriers[kind as usize].fall_back(edit)
    }

    /// The feeds, with what became of them.
    pub fn feeds(&self) -> Vec<FeedStatus> {
        let status = |state: &FeedState| {
            let FeedState { kind, feed, left_out, problems, good_at, errors, error, next } = state;
            let since_epoch = |at: &Read| at.wall().duration_since(SystemTime::UNIX_EPOCH).ok();
            FeedStatus {
                list: kind.label().to_owned(),
                name: feed.name.to_string(),
                source: feed.source.to_string(),
                every_s: feed.every.as_secs(),
                entries: self.carriers[*kind as usize].prefixes(&feed.name).len() as u64,
                left_out: *left_out,
                problems: problems.clone(),
                last_success: good_at.as_ref().and_then(since_epoch).map(|since| since.as_secs()),
                errors: *errors,
                error: error.clone(),
                next_s: next.map(|next| next.since(BootTime::now()).as_secs()),
            }
        };
        self.feeds.iter().map(status).collect()
    }
}
