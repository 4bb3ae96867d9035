//! Keeps the feeds up to date: one task per feed reads it when it is due or when ordered to.
//!
//! Reading and parsing happen without the engine's lock, and startup waits for neither: until a feed has been
//! read, its last good copy is in force.

use std::{
    collections::BTreeMap,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::warn;

use crate::{
    boot_time::BootTime,
    config::{Config, Feed, FeedName},
    feeds::{Content, Copies, Copy, Fetched, Stamp, fetch, schedule::delay},
    lists::ListKind,
    memory,
};

use super::{
    engine::{Engine, FeedError, Read, Refused},
    locked,
};

/// How many threads may be waiting for feeds: at most twice as many as there are feeds, because a reconfigured
/// feed does not wait for its previous incarnation. [`fetch`] bounds the memory.
const WAITING: usize = 128;

/// How many feeds are parsed, put into force and copied at the same time, because that takes memory and CPU time.
const AT_ONCE: usize = 2;

/// Maximum duration of one visit. A server gets less time; a file on a lost disk would take forever.
const VISIT: Duration = Duration::from_secs(360);

/// Maximum number of pending orders per feed; further callers wait.
const ORDERS: usize = 16;

/// Keeps the feeds up to date.
pub struct FeedKeeper {
    engine: Arc<Mutex<Engine>>,
    copies: Copies,
    waiting: Arc<Semaphore>,
    at_once: Arc<Semaphore>,
    kept: Mutex<BTreeMap<FeedName, Kept>>,
}

/// A feed that is kept up to date as long as this exists.
struct Kept {
    kind: ListKind,
    feed: Feed,
    orders: mpsc::Sender<Order>,
}

/// An order to read a feed now.
struct Order {
    /// Accept it even if it lists almost nothing.
    force: bool,
    /// Notified when the read is done.
    done: oneshot::Sender<()>,
}

impl FeedKeeper {
    /// Creates a keeper without feeds. `state` is the folder for state that survives a restart.
    pub fn new(engine: Arc<Mutex<Engine>>, state: &Path) -> Self {
        Self {
            engine,
            copies: Copies::within(state),
            waiting: Arc::new(Semaphore::new(WAITING)),
            at_once: Arc::new(Semaphore::new(AT_ONCE)),
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, BTreeMap<FeedName, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks that others cannot change the copies, if there are any feeds.
    pub fn check(&self, config: &Config) -> io::Result<()> {
        if feeds(config).next().is_some() { self.copies.check() } else { Ok(()) }
    }

    /// Puts the last good copies into force. Returns the stamps of the copied content.
    pub fn load_copies(&self, config: &Config) -> BTreeMap<FeedName, Stamp> {
        let mut stamps = BTreeMap::new();
        for (kind, feed) in feeds(config) {
            let accept = |Copy { bytes, stamp, good_at }| {
                let content = Content::read(&bytes);
                // It was accepted when it was fetched.
                locked(&self.engine).accept_feed(kind, feed, content, true, Read::Copied(good_at))?;
                Ok(stamp)
            };
            let loaded = self.copies.load(kind, feed).map_err(FeedError::from);
            match loaded.and_then(|copy| copy.map(accept).transpose()) {
                Ok(stamp) => stamps.extend(stamp.map(|stamp| (feed.name.clone(), stamp))),
                Err(error) => locked(&self.engine).fail_feed(kind, feed, &error),
            }
        }
        stamps
    }

    /// Keeps exactly the feeds of a configuration; the engine must already know them. Reads each of them now.
    /// `stamps` has what is known about new ones.
    pub fn keep(self: &Arc<Self>, config: &Config, mut stamps: BTreeMap<FeedName, Stamp>) {
        let mut kept = self.kept();
        kept.retain(|name, kept| {
            let same = |(kind, feed): (ListKind, &Feed)| kind == kept.kind && feed.name == *name;
            let stays = feeds(config).any(same);
            if !stays && let Err(error) = self.copies.remove(kept.kind, name) {
                warn!("feed {name}: {error}");
            }
            stays
        });
        for (kind, feed) in feeds(config) {
            let same = |kept: &&Kept| kept.kind == kind && kept.feed == *feed;
            if let Some(Kept { orders, .. }) = kept.get(&feed.name).filter(same) {
                // If the queue is full, a read has already been ordered.
                let _ = orders.try_send(Order { force: false, done: oneshot::channel().0 });
                continue;
            }
            let (orders, inbox) = mpsc::channel(ORDERS);
            let stamp = stamps.remove(&feed.name);
            tokio::spawn(Arc::clone(self).keep_one(kind, feed.clone(), stamp, inbox));
            kept.insert(feed.name.clone(), Kept { kind, feed: feed.clone(), orders });
        }
    }

    /// Reads feeds now, all if none is named, and returns when that is done.
    pub async fn refresh(&self, names: &[String], force: bool) -> Result<(), Refused> {
        let mut orders = Vec::new();
        {
            let kept = self.kept();
            for name in names {
                if !kept.keys().any(|have| have.as_str() == name) {
                    let have: Vec<&str> = kept.keys().map(FeedName::as_str).collect();
                    let have = if have.is_empty() { "none".to_owned() } else { have.join(", ") };
                    return Err(Refused::NotFound(format!("there is no feed {name}; there are {have}")));
                }
            }
            let is_named = |name: &FeedName| names.is_empty() || names.iter().any(|n| n == name.as_str());
            orders
                .extend(kept.iter().filter(|(name, _)| is_named(name)).map(|(_, kept)| kept.orders.clone()));
        }
        let mut waiting = Vec::new();
        for feed in orders {
            let (done, is_done) = oneshot::channel();
            // A feed that was removed in the meantime need not be read.
            if feed.send(Order { force, done }).await.is_ok() {
                waiting.push(is_done);
            }
        }
        for is_done in waiting {
            let _ = is_done.await; // likewise
        }
        Ok(())
    }

    /// Reads a feed repeatedly, until nobody can give orders any more.
    async fn keep_one(
        self: Arc<Self>,
        kind: ListKind,
        feed: Feed,
        mut stamp: Option<Stamp>,
        mut orders: mpsc::Receiver<Order>,
    ) {
        let mut failures = 0_u32;
        let mut order: Option<Order> = None;
        loop {
            let force = order.as_ref().is_some_and(|order| order.force);
            let error = match self.visit(kind, &feed, stamp.clone(), force).await {
                Ok(state) => {
                    (stamp, failures) = (Some(state), 0);
                    None
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    Some(error)
                }
            };
            let delay = delay(feed.every, failures, getrandom::u32().unwrap_or(0));
            let next = BootTime::now() + delay;
            // Another feed may hold the engine for a second.
            tokio::task::block_in_place(|| {
                let mut engine = locked(&self.engine);
                if let Some(error) = &error {
                    engine.fail_feed(kind, &feed, error);
                }
                engine.schedule_feed(kind, &feed, next);
            });
            if let Some(Order { done, .. }) = order.take() {
                let _ = done.send(()); // the caller may have gone
            }
            tokio::select! {
                next = orders.recv() => match next {
                    Some(next) => order = Some(next),
                    None => return,
                },
                () = next.reached() => {}
            }
        }
    }

    /// Reads a feed once; returns the stamp of the content that is now in force.
    async fn visit(
        self: &Arc<Self>,
        kind: ListKind,
        feed: &Feed,
        known: Option<Stamp>,
        force: bool,
    ) -> Result<Stamp, FeedError> {
        let known = known.filter(|_| !force);
        // The semaphores are never closed. A hanging thread keeps its permit, so there are never too many threads.
        let waiting = Arc::clone(&self.waiting).acquire_owned().await;
        let (source, known_there) = (feed.source.clone(), known.clone());
        let fetching = tokio::task::spawn_blocking(move || {
            let _waiting = waiting;
            fetch(&source, known_there.as_ref())
        });
        let fetched = timeout(VISIT, fetching).await.map_err(|_| FeedError::Hangs(VISIT.as_secs()))?;
        let fetched = fetched.map_err(|error| FeedError::Panic(error.to_string()))??;
        let _permit = self.at_once.acquire().await;
        let (keeper, feed) = (Arc::clone(self), feed.clone());
        let take = move || {
            let taken = keeper.take(kind, &feed, fetched, known, force);
            memory::give_back();
            taken
        };
        tokio::task::spawn_blocking(take).await.map_err(|error| FeedError::Panic(error.to_string()))?
    }

    /// Puts fetched content into force.
    fn take(
        &self,
        kind: ListKind,
        feed: &Feed,
        fetched: Fetched,
        known: Option<Stamp>,
        force: bool,
    ) -> Result<Stamp, FeedError> {
        let now = BootTime::now();
        let (stamp, copied) = match (fetched, known) {
            (Fetched::New { bytes, stamp, room: _room }, _) => {
                // Others can use the engine meanwhile.
                let content = Content::read(&bytes);
                let is_kept = locked(&self.engine).accept_feed(kind, feed, content, force, Read::At(now))?;
                let store = || self.copies.store(kind, &feed.name, &bytes, &stamp);
                let copied = if is_kept { store() } else { Ok(()) };
                (stamp, copied)
            }
            (Fetched::Unchanged, known) => {
                let is_kept = locked(&self.engine).confirm_feed(kind, feed, now);
                let stamp = known.unwrap_or_else(|| Stamp::of(&feed.source));
                (stamp, if is_kept { self.copies.confirm(kind, &feed.name) } else { Ok(()) })
            }
        };
        // The next visit writes one.
        copied.map_err(FeedError::NoCopy)?;
        Ok(stamp)
    }
}

fn feeds(config: &Config) -> impl Iterator<Item = (ListKind, &Feed)> {
    ListKind::ALL.into_iter().flat_map(|kind| config.list(kind).feeds.iter().map(move |feed| (kind, feed)))
}
