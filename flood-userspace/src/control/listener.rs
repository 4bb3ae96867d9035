//! Accepts connections, and limits them.
//!
//! A client may be slow, broken or hostile: any user of the host can connect to the metrics. So there is a limited
//! number of places for connections, and each connection serves one request. If all places are taken, a new
//! connection replaces the oldest one that has not sent its request yet, or that does not fetch its response. So
//! no client can exhaust the process's file descriptors, or keep others from being answered by waiting.

use std::{
    os::fd::{AsFd, AsRawFd, RawFd},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{Router, body::Body, serve::Listener};
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{
    Request,
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    task::AbortHandle,
    time::{Sleep, interval, sleep},
};

/// Maximum places of a listener; a host's operators and scrapers need a handful.
const MOST_PLACES: u64 = 128;

/// The share of the process's file descriptors that a listener may use: one in so many.
const SHARE: u64 = 8;

/// How long the head of a request may take to arrive, and how long its body may pause.
const PATIENCE: Duration = Duration::from_secs(10);

/// Maximum size of a request's head, in bytes.
const LARGEST_HEAD: usize = 64 << 10;

/// How long a new connection waits when it replaces another: this bounds the cost of an endless stream of them.
const TAKING_A_PLACE: Duration = Duration::from_millis(1);

/// How long to wait for a place while the daemon is working for all connections.
const AGAIN: Duration = Duration::from_millis(10);

/// How often a connection is checked for a client that has hung up while its response is not finished.
const LOOK: Duration = Duration::from_secs(1);

/// How long a scrape may take in total.
const SCRAPE: Duration = Duration::from_secs(10);

/// Limits of a listener.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Simultaneous connections.
    places: usize,
    /// Maximum duration of a connection.
    lasts: Option<Duration>,
    /// How long a connection whose response has begun keeps its place when others need it.
    keeps_place: Duration,
}

impl Bounds {
    /// Limits for the control socket, in a process that may have this many file descriptors.
    pub fn of_control(descriptors: u64) -> Self {
        Self { places: places(descriptors), lasts: None, keeps_place: Duration::from_secs(30) }
    }

    /// Limits for the metrics, which any user of the host may request.
    pub fn of_metrics(descriptors: u64) -> Self {
        Self { places: places(descriptors), lasts: Some(SCRAPE), keeps_place: Duration::from_secs(1) }
    }
}

fn places(descriptors: u64) -> usize {
    usize::try_from((descriptors / SHARE).clamp(1, MOST_PLACES)).unwrap_or(1)
}

/// Progress of a connection.
#[derive(Clone, Copy)]
enum Stage {
    /// Its request has not arrived completely.
    Asking,
    /// The daemon is working on it.
    Waiting,
    /// It has been fetching its response since this time.
    Fetching(Instant),
}

/// The stage of a connection, shared by all who need it.
#[derive(Clone)]
struct Progress(Arc<Mutex<Stage>>);

impl Progress {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that has a place.
struct Open {
    progress: Progress,
    task: AbortHandle,
}

/// Serves connections. Never ends; connections continue when this is dropped.
pub async fn serve<L>(mut listener: L, router: Router, bounds: Bounds)
where
    L: Listener,
    L::Io: AsFd,
{
    let mut open: Vec<Open> = Vec::new(); // the oldest first
    loop {
        let (io, _) = listener.accept().await;
        make_room(&mut open, &bounds).await;
        let progress = Progress(Arc::new(Mutex::new(Stage::Asking)));
        let task = tokio::spawn(serve_one(io, router.clone(), bounds, progress.clone()));
        open.push(Open { progress, task: task.abort_handle() });
    }
}

/// Waits for a place, or takes one from a connection that does not use it.
async fn make_room(open: &mut Vec<Open>, bounds: &Bounds) {
    loop {
        open.retain(|connection| !connection.task.is_finished());
        if open.len() < bounds.places {
            return;
        }
        let is_asking = |open: &Open| matches!(*open.progress.stage(), Stage::Asking);
        let is_slow = |open: &Open| match *open.progress.stage() {
            Stage::Fetching(since) => since.elapsed() >= bounds.keeps_place,
            Stage::Asking | Stage::Waiting => false,
        };
        if let Some(index) = open.iter().position(is_asking).or_else(|| open.iter().position(is_slow)) {
            open.remove(index).task.abort();
            sleep(TAKING_A_PLACE).await;
        } else {
            sleep(AGAIN).await;
        }
    }
}

async fn serve_one<I>(io: I, router: Router, bounds: Bounds, progress: Progress)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + AsFd,
{
    let descriptor = io.as_fd().as_raw_fd();
    let service = TowerToHyperService::new(router);
    let answer = service_fn(move |request: Request<Incoming>| {
        let whole = {
            let progress = progress.clone();
            request.map(|body| Body::new(Asked::new(body, progress)))
        };
        let (answer, progress) = (service.call(whole), progress.clone());
        async move {
            let answer = answer.await;
            *progress.stage() = Stage::Fetching(Instant::now());
            answer
        }
    });
    // A client may close its side after the request and still wait for the response, as `nc -N` does.
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .keep_alive(false)
        .half_close(true)
        .serve_connection(TokioIo::new(io), answer);
    let mut lasts = pin!(async {
        match bounds.lasts {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
    });
    tokio::select! {
        _ = connection => {} // a client's errors are its own concern
        () = hung_up(descriptor) => {}
        () = &mut lasts => {}
    }
}

/// Waits until the peer has closed a connection completely. HTTP alone would notice only at its next write, which
/// may never come for a trace.
async fn hung_up(descriptor: RawFd) {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        let mut state = libc::pollfd { fd: descriptor, events: 0, revents: 0 };
        // SAFETY: the pointer is to one pollfd, and the count passed is 1; the call does not wait.
        let found = unsafe { libc::poll(&raw mut state, 1, 0) };
        if found > 0 && state.revents & (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) != 0 {
            return;
        }
    }
}

/// The body of a request. Records when it has arrived completely, and fails if it pauses for too long.
struct Asked {
    body: Incoming,
    progress: Progress,
    pause: Pin<Box<Sleep>>,
}

impl Asked {
    fn new(body: Incoming, progress: Progress) -> Self {
        let asked = Self { body, progress, pause: Box::pin(sleep(PATIENCE)) };
        if asked.body.is_end_stream() {
            asked.has_come();
        }
        asked
    }

    fn has_come(&self) {
        let mut stage = self.progress.stage();
        if let Stage::Asking = *stage {
            *stage = Stage::Waiting;
        }
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match Pin::new(&mut self.body).poll_frame(context) {
            Poll::Ready(frame) => {
                if frame.is_none() || self.body.is_end_stream() {
                    self.has_come();
                }
                self.pause.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Poll::Pending => {
                let paused = self.pause.as_mut().poll(context);
                paused.map(|()| Some(Err("the rest of the request does not come".into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
