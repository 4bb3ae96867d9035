//! The daemon: loads the filter, attaches it, serves its socket, and takes it off again.
//!
//! [`engine`] is the state with its operations, `drops` and `trace` are what it makes of the kernel's samples and
//! log lines. Beside the server run one loop, [`upkeep`], and a task for each feed (`feeds`); `reload` reads the
//! configuration again.

mod drops;
mod engine;
mod feeds;
mod limits;
mod proof;
mod reload;
mod trace;

use std::{
    fs, io,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use thiserror::Error;
use tokio::{
    net::{TcpListener, UnixListener},
    signal::unix::{Signal, SignalKind, signal},
    sync::Notify,
    time::{Interval, MissedTickBehavior, interval},
};
use tracing::{error, info};

use crate::{
    bpf::BpfError,
    config::{Config, InterfaceName},
    control::server::Server,
    host::Facts,
    lists::{
        Guard, ListKind,
        configured::{Configured, ListError, configured},
    },
};

pub use engine::{Engine, Refused, Watch};
pub use feeds::FeedKeeper;
pub use reload::{PENDING, Reloader};

/// How often samples and trace lines are fetched: the sample ring holds more than twice what may come in between.
const TICK: Duration = Duration::from_millis(100);

/// How often the host and its interfaces are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// How often the clock is set; it drifts by 500 ppm at worst.
const SET_CLOCK: Duration = Duration::from_secs(60);

/// How often ended debts are cleared. Their words become ambiguous after 73 minutes (`flood_common::meter`).
const SWEEP: Duration = Duration::from_secs(1_800);

/// How long requests that are under way may take when the daemon ends.
const LAST_REPLIES: Duration = Duration::from_millis(200);

/// Why the daemon cannot start or go on.
#[derive(Debug, Error)]
pub enum DaemonError {
    /// The kernel refuses.
    #[error(transparent)]
    Bpf(#[from] BpfError),
    /// A list of the configuration cannot be used.
    #[error(transparent)]
    List(#[from] ListError),
    /// Nothing to guard.
    #[error(
        "no interface to guard: name one (`floodgate run eth0`) or list it under `interfaces` in the configuration"
    )]
    NoInterface,
    /// Another daemon.
    #[error(
        "another floodgate answers at {socket}: let it go first (`floodgate detach`), or give this one a socket of its \
         own with --socket",
        socket = .0.display()
    )]
    SocketInUse(PathBuf),
    /// The control socket cannot be made.
    #[error("making the control socket {socket}: {source}", socket = socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The metrics cannot be served.
    #[error("serving metrics at {address}: {source}")]
    Metrics {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system fails us otherwise.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// The configuration as it was found.
#[derive(Debug)]
pub struct Written {
    /// Where it was looked for, and will be when it is read again.
    pub path: PathBuf,
    /// What it says; the defaults if there was none.
    pub config: Config,
    /// Whether there was one.
    pub found: bool,
}

/// Guards the configured interfaces until a signal or `floodgate detach` ends it. `config` is what is `written`, with
/// what the command line says about it. `replace` takes other XDP programs off the interfaces.
pub async fn run(config: &Config, written: Written, replace: bool) -> Result<(), DaemonError> {
    if config.interfaces.is_empty() {
        return Err(DaemonError::NoInterface);
    }
    let engine = Arc::new(Mutex::new(load(config)?));
    let feeds = Arc::new(FeedKeeper::new(Arc::clone(&engine), &config.state));
    locked(&engine).set_feeds(config)?;
    let stamps = feeds.load_copies(config);
    let socket = ControlSocket::bind(&config.control.socket)?;
    let metrics = match config.control.metrics {
        None => None,
        Some(address) => Some(
            TcpListener::bind(address).await.map_err(|source| DaemonError::Metrics { address, source })?,
        ),
    };
    for name in &config.interfaces {
        locked(&engine).attach(InterfaceName::as_str(name), config, replace)?;
    }
    feeds.keep(config, stamps);

    let ended = Arc::new(Notify::new());
    let reloader = Arc::new(Reloader::new(written, Arc::clone(&engine), Arc::clone(&feeds)));
    tokio::spawn(reload_when_signalled(catch(SignalKind::hangup())?, Arc::clone(&reloader)));
    let server = Server::new(Arc::clone(&engine), feeds, reloader, Arc::clone(&ended));
    if let Some(listener) = metrics {
        let router = server.clone().metrics();
        tokio::spawn(async move { axum::serve(listener, router).await });
    }
    let ControlSocket { listener, path } = socket;
    let _remove_socket = RemoveFile(path.clone());
    tokio::spawn(async move { axum::serve(listener, server.control()).await });
    info!("ready; the control socket is {}", path.display());

    tokio::select! {
        outcome = until_signalled() => outcome?,
        () = ended.notified() => info!("nothing is left to guard"),
        () = upkeep(&engine) => {}
    }
    tokio::time::sleep(LAST_REPLIES).await;
    // Requests may still hold the engine, so letting go cannot be left to its end.
    locked(&engine).detach(&[]).map(|_| ()).or_else(|refused| match refused {
        Refused::Kernel(error) => Err(error.into()),
        _ => Ok(()),
    })
}

/// The engine with the filter loaded and the lists filled. Reading files takes about as long as what the kernel does
/// with the filter, and goes on beside it.
fn load(config: &Config) -> Result<Engine, DaemonError> {
    let facts = Facts::read()
        .map_err(|source| DaemonError::System { what: "asking for the addresses of this host", source })?;
    let guard = Guard::new(facts.lifelines);
    let (engine, lists) = thread::scope(|scope| {
        let lists = scope.spawn(|| configured(config, &guard));
        let engine = Engine::new(config);
        let lists: Result<Vec<(ListKind, Configured)>, ListError> =
            lists.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (engine, lists)
    });
    let (lists, mut engine) = (lists?, engine?);
    engine.set_guard(guard);
    for (kind, configured) in lists {
        engine.fill(kind, configured)?;
    }
    Ok(engine)
}

/// The engine, for as long as this is held.
fn locked(engine: &Mutex<Engine>) -> MutexGuard<'_, Engine> {
    // What a panicking thread left is still the state of the filter.
    engine.lock().unwrap_or_else(PoisonError::into_inner)
}

fn catch(kind: SignalKind) -> Result<Signal, DaemonError> {
    signal(kind).map_err(|source| DaemonError::System { what: "catching signals", source })
}

/// Reads the configuration again with each SIGHUP. Never ends.
async fn reload_when_signalled(mut hangup: Signal, reloader: Arc<Reloader>) {
    while hangup.recv().await.is_some() {
        if let Err(refused) = reloader.reload().await {
            error!("SIGHUP: {refused}");
        }
    }
}

/// Waits for Ctrl-C or SIGTERM.
async fn until_signalled() -> Result<(), DaemonError> {
    let (mut interrupt, mut terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
    let name = tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    };
    info!("{name}: letting go");
    Ok(())
}

/// Does what has to be done again and again. Never ends.
async fn upkeep(engine: &Mutex<Engine>) {
    let (mut tick, mut look, mut set_clock, mut sweep) =
        (every(TICK), every(LOOK), every(SET_CLOCK), every(SWEEP));
    loop {
        let work: fn(&mut Engine) -> Result<(), BpfError> = tokio::select! {
            _ = tick.tick() => Engine::tick,
            _ = look.tick() => Engine::look_at_host,
            _ = set_clock.tick() => Engine::set_clock,
            _ = sweep.tick() => |engine| { engine.sweep(); Ok(()) },
        };
        let outcome = tokio::task::block_in_place(|| work(&mut locked(engine)));
        if let Err(error) = outcome {
            error!("{error}");
            // What fails now fails ten times a second; the log is no place for that.
            tokio::time::sleep(LOOK).await;
        }
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The control socket, listening.
struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ControlSocket {
    fn bind(path: &Path) -> Result<Self, DaemonError> {
        if UnixStream::connect(path).is_ok() {
            return Err(DaemonError::SocketInUse(path.to_owned()));
        }
        Self::make(path).map_err(|source| DaemonError::Socket { socket: path.to_owned(), source })
    }

    fn make(path: &Path) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

/// Removes a file at the end.
struct RemoveFile(PathBuf);

impl Drop for RemoveFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0); // it may be gone with its folder
    }
}
