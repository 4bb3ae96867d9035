//! The daemon: loads the filter, attaches it, serves the control socket, and detaches the filter at the end.
//!
//! [`engine`] holds the state and its operations; `drops` and `trace` process the kernel's samples and log lines.
//! Besides the server there is one loop, [`upkeep`], and a task for each feed (`feeds`); `reload` reads the
//! configuration again.

mod drops;
mod engine;
mod feeds;
mod guards;
mod limits;
mod proof;
mod reload;
mod signals;
mod socket;
mod syncookies;
mod trace;
mod unjudged;

use std::{
    io,
    net::TcpListener,
    path::PathBuf,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use thiserror::Error;
use tokio::{
    signal::unix::Signal,
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval, timeout},
};
use tracing::{error, info, warn};

use crate::{
    bpf::BpfError,
    config::Config,
    control::{
        listener::{self, Bounds},
        server::Server,
    },
    host::Facts,
    lists::{
        Guard, ListKind,
        configured::{Configured, ListError, configured},
    },
    netlink::LinkChanges,
    process::raise_descriptors,
};

pub use engine::{Engine, Refused, Watch};
pub use feeds::FeedKeeper;
pub(crate) use proof::why_answers_harm;
pub use reload::{PENDING, Reloader};
pub use signals::Signals;

use socket::ControlSocket;
use syncookies::SharedSyncookies;

/// How often samples and trace lines are fetched: the sample ring holds more than twice what can arrive in
/// between.
const TICK: Duration = Duration::from_millis(100);

/// How often the host and its interfaces are checked.
const LOOK: Duration = Duration::from_secs(1);

/// How often the clock is set; it drifts by 500 ppm at worst.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// How often expired debts are cleared. Their words become ambiguous after 73 minutes (`flood_common::meter`).
const SWEEP: Duration = Duration::from_secs(1_800);

/// How long an interrupted start may take to reach a point where it can be ended properly.
const LAST_STEPS: Duration = Duration::from_secs(5);

/// How long pending requests may take when the daemon ends.
const LAST_REPLIES: Duration = Duration::from_millis(200);

/// Why the daemon cannot start or continue.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel refuses an operation.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A list of the configuration cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// No interface to guard.
    #[error(
        "no interface to guard: name one (`floodgate run eth0`) or list it under `interfaces` in the configuration"
    )]
    NoInterface,
    /// Another daemon uses the control socket.
    #[error(
        "another floodgate answers at {socket}: let it go first (`floodgate detach`), or give this one a socket of its \
         own with --socket",
        socket = .0.display()
    )]
    SocketInUse(PathBuf),
    /// Something other than a socket exists at the path of the control socket.
    #[error(
        "{path} is there and is no socket: remove it if nobody needs it, or give the control socket another name with \
         --socket",
        path = .0.display()
    )]
    NoSocket(PathBuf),
    /// The control socket cannot be created.
    #[error("making the control socket {socket}: {source}", socket = socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics endpoint cannot be opened.
    #[error("serving metrics at {address}: {source}")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Others could change the state that survives a restart.
    #[error("the copies of feeds are not safe: {0}")]
    State(io::Error),
    /// Another system call failed.
    #[error("{what}: {source}")]
    System {
        /// The operation that failed.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The configuration as found.
#[derive(Debug)]
pub struct Written {
    /// Where it was looked for, and where a reload will look.
    pub path: PathBuf,
    /// Its content; the defaults if there was none.
    pub config: Config,
    /// Whether the file existed.
    pub found: bool,
}

/// What the start created.
struct Started {
    engine: Arc<Mutex<Engine>>,
    feeds: Arc<FeedKeeper>,
    socket: ControlSocket,
    metrics: Option<tokio::net::TcpListener>,
}

/// Guards the configured interfaces until a signal or `floodgate detach` ends it. `config` is the `written`
/// configuration combined with the command line. `replace` detaches other XDP programs from the interfaces.
pub async fn run(
    config: &Config,
    written: Written,
    replace: bool,
    signals: Signals,
) -> Result<(), DaemonError> {
    if config.interfaces.is_empty() {
        return Err(DaemonError::NoInterface);
    }
    let system = |what| move |source| DaemonError::System { what, source };
    let descriptors = raise_descriptors().map_err(system("asking for more descriptors"))?;
    let Signals { hangup, mut end } = signals;
    let typed = config.interfaces != written.config.interfaces;
    // Start listening before the first check, so that no change in between is missed.
    let changes = LinkChanges::listen().map_err(system("listening for changes of interfaces"))?;
    let mut starting = {
        let config = config.clone();
        pin!(tokio::task::spawn_blocking(move || start(&config, replace, typed)))
    };
    let Started { engine, feeds, mut socket, metrics } = tokio::select! {
        started = &mut starting => started.map_err(|error| system("starting")(io::Error::other(error)))??,
        name = end.wait() => {
            info!("{name}: the start is given up");
            return match timeout(LAST_STEPS, starting).await {
                Ok(Ok(Ok(started))) => let_go(&started.engine),
                // The kernel detaches everything when the process ends.
                _ => Ok(()),
            };
        }
    };
    tokio::spawn(look_when_told(changes, Arc::clone(&engine)));
    tokio::spawn(raise_syncookies(locked(&engine).syncookies()));

    let ended = Arc::new(Notify::new());
    let reloader = Arc::new(Reloader::new(written, Arc::clone(&engine), Arc::clone(&feeds)));
    tokio::spawn(reload_when_signalled(hangup, Arc::clone(&reloader)));
    let server = Server::new(Arc::clone(&engine), feeds, reloader, Arc::clone(&ended));
    if let Some(listener) = metrics {
        let router = server.clone().metrics();
        tokio::spawn(listener::serve(listener, router, Bounds::of_metrics(descriptors)));
    }
    info!("ready; the control socket is {}", socket.path().display());

    tokio::select! {
        name = end.wait() => info!("{name}: letting go"),
        () = ended.notified() => info!("nothing is left to guard"),
        () = upkeep(&engine) => {}
        () = socket.serve(server.control(), Bounds::of_control(descriptors)) => {}
    }
    tokio::time::sleep(LAST_REPLIES).await;
    let_go(&engine)
}

/// Loads and attaches the filter, and opens the sockets. May take long, and blocks. `typed` means that the
/// interfaces come from the command line.
fn start(config: &Config, replace: bool, typed: bool) -> Result<Started, DaemonError> {
    let facts = Facts::read()
        .map_err(|source| DaemonError::System { what: "asking for the addresses of this host", source })?;
    let engine = Arc::new(Mutex::new(load(config, &facts)?));
    let feeds = Arc::new(FeedKeeper::new(Arc::clone(&engine), &config.state));
    feeds.check(config).map_err(DaemonError::State)?;
    locked(&engine).set_feeds(config)?;
    let stamps = feeds.load_copies(config);
    let socket = ControlSocket::bind(&config.control.socket)?;
    let metrics = config.control.metrics.map(|address| {
        let listen = || {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(listener)
        };
        listen().map_err(|source| DaemonError::Metrics { address, source })
    });
    let metrics = metrics.transpose()?;
    locked(&engine).guard(config, replace, typed, &facts)?;
    feeds.keep(config, stamps);
    Ok(Started { engine, feeds, socket, metrics })
}

/// Detaches the filter from all interfaces.
fn let_go(engine: &Mutex<Engine>) -> Result<(), DaemonError> {
    // Pending requests may still hold the engine, so detaching cannot be left to its drop.
    locked(engine).detach(&[]).map(|_| ()).or_else(|refused| match refused {
        Refused::Kernel(error) => Err(error.into()),
        _ => Ok(()),
    })
}

/// Returns the engine with the filter loaded and the lists filled. Reads the list files while the kernel loads the
/// filter, because both take about equally long.
fn load(config: &Config, facts: &Facts) -> Result<Engine, DaemonError> {
    let guard = Guard::new(facts.lifelines.clone());
    let (engine, lists) = thread::scope(|scope| {
        let lists = scope.spawn(|| configured(config, &guard));
        let engine = Engine::new(config);
        let lists: Result<Vec<(ListKind, Configured)>, ListError> =
            lists.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (engine, lists)
    });
    let (lists, mut engine) = (lists?, engine?);
    engine.set_list_guard(guard);
    for (kind, configured) in lists {
        engine.fill(kind, configured)?;
    }
    Ok(engine)
}

/// Locks the engine.
fn locked(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    // What a panicking thread left is still the state of the filter.
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the configuration again on each SIGHUP. Never ends.
async fn reload_when_signalled(mut hangup: Signal, reloader: Arc<Reloader>) {
    while hangup.recv().await.is_some() {
        if let Err(refused) = reloader.reload(false).await {
            error!("SIGHUP: {refused}");
        }
    }
}

/// Checks the interfaces whenever the kernel reports a change. Never ends.
async fn look_when_told(mut changes: LinkChanges, engine: Arc<Mutex<Engine>>) {
    loop {
        if let Err(error) = changes.next().await {
            warn!(
                "listening for changes of the interfaces, which are looked at each second all the same: {error}"
            );
            changes = loop {
                tokio::time::sleep(LOOK).await;
                if let Ok(anew) = LinkChanges::listen() {
                    break anew;
                }
            };
        }
        if let Err(error) = tokio::task::block_in_place(|| look_at_interfaces(&engine)) {
            error!("{error}");
        }
        // Changes come in bursts; one check covers all of them.
        tokio::time::sleep(TICK).await;
    }
}

/// Makes the kernel use SYN cookies while SYNs exceed a limit. Never ends. Waits for the disk when it records the
/// change, and therefore runs beside everything else.
async fn raise_syncookies(syncookies: Arc<SharedSyncookies>) {
    loop {
        // React at once: until the setting is raised, the SYNs fill the listeners' queues.
        let _ = timeout(LOOK, syncookies.grown()).await;
        tokio::task::block_in_place(|| syncookies.look(Instant::now()));
    }
}

/// Checks whether the interfaces are guarded, and the rest of the host.
fn look_at_host(engine: &Mutex<Engine>) -> Result<(), BpfError> {
    locked(engine).look_at_interfaces()?;
    follow_host(engine)
}

/// Checks whether the interfaces are guarded, and the rest of the host if that has changed.
fn look_at_interfaces(engine: &Mutex<Engine>) -> Result<(), BpfError> {
    let has_changed = locked(engine).look_at_interfaces()?;
    if has_changed { follow_host(engine) } else { Ok(()) }
}

/// Updates the engine with the state of this host. Reads files and queries the kernel without the lock, except for
/// the UDP ports.
fn follow_host(engine: &Mutex<Engine>) -> Result<(), BpfError> {
    let facts = Facts::read().map_err(|error| BpfError::Netlink { cause: error.to_string() })?;
    locked(engine).follow_host(&facts)
}

/// Does the periodic work. Never ends.
async fn upkeep(engine: &Mutex<Engine>) {
    let (mut tick, mut look, mut set_clock, mut sweep) =
        (every(TICK), every(LOOK), every(SET_CLOCK), every(SWEEP));
    loop {
        let work: fn(&Mutex<Engine>) -> Result<(), BpfError> = tokio::select! {
            _ = tick.tick() => |engine| locked(engine).tick(),
            _ = look.tick() => look_at_host,
            _ = set_clock.tick() => |engine| locked(engine).set_clock(),
            _ = sweep.tick() => |engine| { locked(engine).sweep(); Ok(()) },
        };
        let outcome = tokio::task::block_in_place(|| work(engine));
        if let Err(error) = outcome {
            error!("{error}");
            // What fails now would fail ten times a second and flood the log.
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
