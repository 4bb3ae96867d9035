//! The daemon's state of its feeds, and how they change the lists.

use std::{collections::BTreeSet, sync::Arc, time::SystemTime};

use tracing::{debug, info, warn};

use crate::{
    boot_time::BootTime,
    bpf::BpfError,
    config::{Config, Feed, FeedName},
    control::protocol::FeedStatus,
    feeds::{Content, FetchError, NoList, copy::CopyError},
    lists::{
        Edit, Entry, ListKind, Origin,
        configured::NAMED,
        doubt::{Doubt, Entries, check_coverage, check_growth, check_shrinking},
        guard::Withholding,
        import::Format,
    },
};

use super::{Engine, withheld::log_withheld};

/// Why a feed was not updated.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The feed cannot be read.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The content is something else.
    #[error(transparent)]
    NoList(#[from] NoList),
    /// The content is implausible.
    #[error("{0}; if that is right, say `{key}` in its section{once}", key = .0.key(), once = once(.0))]
    Doubt(#[from] Doubt),
    /// The content does not fit, or the kernel refuses it.
    #[error(transparent)]
    Kernel(#[from] BpfError),
    /// The last good copy is unusable.
    #[error(transparent)]
    Copy(#[from] CopyError),
    /// The content is in force, but the next start will lack it until it has been read.
    #[error("it is in force, but without a copy for the next start: {0}")]
    NoCopy(CopyError),
    /// Reading the feed does not end.
    #[error("reading it has not ended within {0} s")]
    Hangs(u64),
    /// The thread that read it panicked.
    #[error("reading it ended with {0}")]
    Panic(String),
}

/// When the accepted content of a feed was last known to be current.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// As read by this daemon.
    At(BootTime),
    /// As read by the daemon that wrote the copy, by the wall clock at that time.
    Copied(SystemTime),
}

impl Read {
    fn moment(self) -> BootTime {
        match self {
            Self::At(moment) => moment,
            Self::Copied(wall) => BootTime::of_wall(wall),
        }
    }

    /// Returns the wall-clock time, for display.
    fn wall(self) -> SystemTime {
        match self {
            Self::At(moment) => moment.wall(),
            Self::Copied(wall) => wall,
        }
    }
}

/// Returns what else resolves a doubt.
fn once(doubt: &Doubt) -> &'static str {
    match doubt {
        Doubt::Covers { .. } => "",
        _ => ", or `floodgate feed refresh --force` once",
    }
}

/// A feed and its current state.
pub(super) struct FeedState {
    kind: ListKind,
    feed: Feed,
    /// Number of entries that it lists.
    listed: usize,
    left_out: u64,
    problems: Vec<String>,
    format: Option<Format>,
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
            listed: 0,
            left_out: 0,
            problems: Vec::new(),
            format: None,
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
    /// Takes over the feeds of a configuration. Entries of feeds that are no longer in it are removed. Returns
    /// what happened to feeds.
    pub fn set_feeds(&mut self, config: &Config) -> Result<Vec<String>, BpfError> {
        let mut changed = Vec::new();
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
                let origin = Arc::new(Origin::Feed(name.clone()));
                let reply = self.insert(kind, Edit::take_from(self.list(kind).of(&origin), &origin))?;
                self.forget_withheld(&origin);
                changed.push(format!("{} list: the feed {name} is gone, {}", kind.label(), reply.named()));
                self.feeds.retain(|state| state.kind != kind || state.feed.name != name);
            }
            for feed in wanted {
                let there =
                    self.feeds.iter_mut().find(|state| state.kind == kind && state.feed.name == feed.name);
                match there {
                    Some(state) if state.feed == *feed => {}
                    Some(state) => {
                        state.feed = feed.clone();
                        changed.push(format!(
                            "{} list: the feed {} is set otherwise",
                            kind.label(),
                            feed.name
                        ));
                    }
                    None => {
                        self.feeds.push(FeedState::new(kind, feed.clone()));
                        changed.push(format!("{} list: the feed {} is new", kind.label(), feed.name));
                    }
                }
            }
        }
        // Sort them in the order of the configuration.
        let place = |state: &FeedState| {
            let feeds = &config.list(state.kind).feeds;
            (state.kind as usize, feeds.iter().position(|feed| feed.name == state.feed.name))
        };
        self.feeds.sort_by_key(place);
        Ok(changed)
    }

    /// Puts the content of a feed into force: completely, or not at all. Returns false, and does nothing, if the
    /// feed is no longer configured like this. `force` accepts content that is suddenly much shorter or longer.
    pub fn accept_feed(
        &mut self,
        kind: ListKind,
        feed: &Feed,
        content: Content,
        force: bool,
        good_at: Read,
    ) -> Result<bool, FeedError> {
        let Some(state) = self.feed_mut(kind, feed) else { return Ok(false) };
        let before = state.listed;
        content.check()?;
        let Content { mut prefixes, left_out, problems, format, .. } = content;
        let listed = prefixes.len();
        if !(force || feed.may_shrink) {
            check_shrinking(before, listed)?;
        }
        if !(force || feed.may_grow) {
            check_growth(before, listed)?;
        }
        check_coverage(prefixes.iter().copied(), feed.max_coverage)?;

        let entry = Entry::of(&Arc::new(Origin::Feed(feed.name.clone())), good_at.moment());
        let is_guarded = kind == ListKind::Block && !feed.may_cover_host;
        let mut withheld = Vec::new();
        if is_guarded {
            withheld = self.list_guard.sift(&mut prefixes);
            prefixes.sort_unstable();
            prefixes.dedup();
        }
        let edit = self.list(kind).exchange(&prefixes, &entry);
        let reply = self.insert(kind, edit)?;
        if reply.added + reply.removed > 0 || before != listed {
            info!("{} list: feed {}: {}, {}", kind.label(), feed.name, Entries(listed), reply.named());
        }
        let known: BTreeSet<_> = self.withheld(&entry.note.origin).cloned().collect();
        for held in withheld.iter().filter(|held| !known.contains(held)).take(NAMED) {
            log_withheld(&format!("{} list: feed {}", kind.label(), feed.name), held);
        }
        self.forget_withheld(&entry.note.origin);
        if is_guarded {
            self.note_withheld(vec![Withholding::of(withheld, &entry)]);
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
            (state.listed, state.left_out, state.problems) = (listed, left_out, problems);
            state.format = Some(format);
            state.has_worked(good_at);
        }
        Ok(true)
    }

    /// Records that a feed is unchanged; returns whether it is configured like this.
    pub fn confirm_feed(&mut self, kind: ListKind, feed: &Feed, at: BootTime) -> bool {
        debug!("feed {}: nothing has changed", feed.name);
        let Some(state) = self.feed_mut(kind, feed) else { return false };
        state.has_worked(Read::At(at));
        true
    }

    /// Records that a feed was not updated because of an error. Logs the same error once.
    pub fn fail_feed(&mut self, kind: ListKind, feed: &Feed, error: &FeedError) {
        let Some(state) = self.feed_mut(kind, feed) else { return };
        state.errors += 1;
        let error = error.to_string();
        if state.error.as_ref() != Some(&error) {
            warn!("feed {}: {}: {error}; what was last believed of it is in force", feed.name, feed.source);
        }
        state.error = Some(error);
    }

    /// Records when a feed will be read next.
    pub fn schedule_feed(&mut self, kind: ListKind, feed: &Feed, next: BootTime) {
        if let Some(state) = self.feed_mut(kind, feed) {
            state.next = Some(next);
        }
    }

    fn feed_mut(&mut self, kind: ListKind, feed: &Feed) -> Option<&mut FeedState> {
        self.feeds.iter_mut().find(|state| state.kind == kind && state.feed == *feed)
    }

    /// Returns the feeds with their current state.
    pub fn feeds(&self) -> Vec<FeedStatus> {
        let status = |state: &FeedState| {
            let FeedState { kind, feed, listed, left_out, problems, format, good_at, errors, error, next } =
                state;
            // Only feeds of the block list are guarded, and no two feeds have the same name.
            let withheld: Vec<_> = self.withheld(&Origin::Feed(feed.name.clone())).collect();
            let since_epoch = |at: &Read| at.wall().duration_since(SystemTime::UNIX_EPOCH).ok();
            FeedStatus {
                list: kind.label().to_owned(),
                name: feed.name.to_string(),
                source: feed.source.to_string(),
                every_s: feed.every.as_secs(),
                entries: *listed as u64,
                left_out: *left_out,
                problems: problems.clone(),
                format: format.map(|format| format.label().to_owned()),
                withheld: withheld.len() as u64,
                first_withheld: withheld.iter().take(NAMED).map(ToString::to_string).collect(),
                last_success: good_at.as_ref().and_then(since_epoch).map(|since| since.as_secs()),
                errors: *errors,
                error: error.clone(),
                next_s: next.map(|next| next.since(BootTime::now()).as_secs()),
            }
        };
        self.feeds.iter().map(status).collect()
    }
}
