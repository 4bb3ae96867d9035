//! The control socket as a file: created where nothing else exists, created again when it has been removed, and
//! removed at the end if it is still ours.

use std::{
    fs::{self, File, Metadata},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
use tracing::{error, warn};

use crate::control::listener::{self, Bounds};

use super::{DaemonError, every};

/// How often the socket's existence is checked.
const LOOK: Duration = Duration::from_secs(2);

/// How long to wait for another start in the same folder.
const OTHER_START: Duration = Duration::from_secs(2);

/// The control socket. Dropping this removes it.
pub(super) struct ControlSocket {
    path: PathBuf,
    listener: Option<UnixListener>,
    /// Device and inode of the file; none after the end.
    ours: Mutex<Option<(u64, u64)>>,
}

impl ControlSocket {
    /// Creates the socket. An existing file is removed only if it is a socket on which nobody listens.
    pub(super) fn bind(path: &Path) -> Result<Self, DaemonError> {
        let (listener, ours) = bind(path)?;
        Ok(Self { path: path.to_owned(), listener: Some(listener), ours: Mutex::new(Some(ours)) })
    }

    /// Returns its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Serves the socket, and creates it again if its file is gone. Never ends.
    pub(super) async fn serve(&mut self, router: Router, bounds: Bounds) {
        let serve = |listener| tokio::spawn(listener::serve(listener, router.clone(), bounds)).abort_handle();
        let mut serving = self.listener.take().map(serve);
        let (mut look, mut said) = (every(LOOK), None);
        loop {
            look.tick().await;
            let ours = *self.ours();
            if ours.is_some() && ours == identity(&self.path) {
                continue;
            }
            let path = self.path.clone();
            let bound = tokio::task::spawn_blocking(move || bind(&path)).await;
            match bound.unwrap_or_else(|error| Err(failed(&self.path)(io::Error::other(error)))) {
                Ok((listener, ours)) => {
                    warn!("the control socket {} was gone, and is made again", self.path.display());
                    *self.ours() = Some(ours);
                    if let Some(before) = serving.replace(serve(listener)) {
                        before.abort();
                    }
                    said = None;
                }
                Err(error) => {
                    let error = error.to_string();
                    if said.as_ref() != Some(&error) {
                        error!("the control socket is gone: {error}");
                    }
                    said = Some(error);
                }
            }
        }
    }

    fn ours(&self) -> std::sync::MutexGuard<'_, Option<(u64, u64)>> {
        self.ours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = self.ours().take();
        if ours.is_some() && ours == identity(&self.path) {
            let _ = fs::remove_file(&self.path); // it may be gone with its folder
        }
    }
}

/// Returns the identity of the socket at a path.
fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    metadata.file_type().is_socket().then(|| number(&metadata))
}

fn number(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn failed(path: &Path) -> impl Fn(io::Error) -> DaemonError {
    |source| DaemonError::Socket { socket: path.to_owned(), source }
}

fn bind(path: &Path) -> Result<(UnixListener, (u64, u64)), DaemonError> {
    let failed = failed(path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(&failed)?;
    // If two processes start at the same time, one could remove the other's socket.
    let _alone = lock(folder);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(DaemonError::NoSocket(path.to_owned()));
        }
        Ok(_) => match connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(&failed)?;
            }
            // Somebody listens, even if the backlog is full at the moment.
            Ok(()) => return Err(DaemonError::SocketInUse(path.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(DaemonError::SocketInUse(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        },
    }
    let listener = UnixListener::bind(path).map_err(&failed)?;
    let made = fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::symlink_metadata(path))
        .map(|metadata| number(&metadata));
    match made {
        Ok(ours) => Ok((listener, ours)),
        Err(error) => {
            let _ = fs::remove_file(path); // nobody will listen there
            Err(failed(error))
        }
    }
}

/// Tries to connect, without waiting for a listener that does not accept.
fn connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

/// Locks a folder for as long as the returned file exists. Returns none if that fails, because anybody may hold
/// the lock of `/tmp`.
fn lock(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    let end = Instant::now() + OTHER_START;
    // SAFETY: the descriptor is open, and no memory is involved.
    while unsafe { libc::flock(folder.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        if Instant::now() >= end {
            return None;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Some(folder)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    #[tokio::test]
    async fn what_is_no_stale_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "precious").unwrap();
        fs::create_dir(at("folder")).unwrap();
        let listening = net::UnixListener::bind(at("used")).unwrap();
        drop(net::UnixListener::bind(at("stale")).unwrap());
        std::os::unix::fs::symlink(at("stale"), at("link")).unwrap();
        for (name, expected) in
            [("file", "is no socket"), ("folder", "is no socket"), ("link", "is no socket")]
        {
            let error = ControlSocket::bind(&at(name)).err().unwrap().to_string();
            assert!(error.contains(expected), "{name}: {error}");
        }
        let error = ControlSocket::bind(&at("used")).err().unwrap();
        assert!(matches!(error, DaemonError::SocketInUse(_)), "{error}");
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "precious");
        drop(listening);
        for name in ["stale", "new", "deep/er/new"] {
            let socket = ControlSocket::bind(&at(name)).unwrap();
            assert_eq!(fs::metadata(socket.path()).unwrap().mode() & 0o777, 0o600);
            drop(socket);
            assert!(!at(name).exists(), "{name}");
        }
    }

    #[tokio::test]
    async fn the_socket_of_another_is_not_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let socket = ControlSocket::bind(&path).unwrap();
        fs::rename(&path, folder.path().join("moved")).unwrap();
        let other = ControlSocket::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(other);
        assert!(!path.exists());
    }
}
