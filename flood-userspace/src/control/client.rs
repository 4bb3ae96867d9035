//! The client side of the control socket, used by the other subcommands.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, StatusCode, body::Incoming, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{net::UnixStream, time};

use super::protocol::{Failure, LARGEST_REQUEST};

/// How long a daemon may take to answer from data at hand.
const READING: Duration = Duration::from_secs(15);

/// How long a change may take: a long list, a configuration on a slow disk.
const CHANGING: Duration = Duration::from_secs(120);

/// How long reading feeds may take; their servers may be slow.
const FETCHING: Duration = Duration::from_secs(900);

/// How long to wait before retrying a socket whose backlog is full.
const AGAIN: Duration = Duration::from_millis(50);

/// Why a request got no answer.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no floodgate answers at {socket} ({source}): start one with `floodgate run`, or name its socket with --socket",
        socket = socket.display()
    )]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The socket may not be opened.
    #[error("{socket} may not be opened: the control socket is root's, try it with sudo", socket = socket.display())]
    NotPermitted {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon does not answer.
    #[error(
        "{socket} is a daemon's, but it has not answered within {} s: it hangs, is stopped, or this host is overloaded; its \
         log may say more, and `kill -KILL` of its process takes the filter off",
        waited.as_secs(), socket = socket.display()
    )]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long the client waited.
        waited: Duration,
    },
    /// The request is larger than the daemon accepts.
    #[error("this is too much for one request ({0} bytes, and {LARGEST_REQUEST} are the most): divide it")]
    TooLarge(usize),
    /// The connection broke off.
    #[error("floodgate broke off the conversation: {0}")]
    BrokenOff(String),
    /// The daemon refused the request.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: StatusCode,
        /// The daemon's explanation.
        message: String,
    },
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        Self::BrokenOff(error.to_string())
    }
}

/// A client for a daemon.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Creates a client for the daemon that listens on this socket.
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// Sends a GET request.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path, Bytes::new(), READING).await
    }

    /// Sends a request with a body.
    pub async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.ask(method, path, to_json(body)?, CHANGING).await
    }

    /// Does the same for requests during which the daemon waits for others.
    pub async fn send_and_wait<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, ClientError> {
        self.ask(method, path, to_json(body)?, FETCHING).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let answer =
            async { Ok(self.request(method, path, body).await?.into_body().collect().await?.to_bytes()) };
        let answer = self.within(patience, answer).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| ClientError::BrokenOff(format!("its answer cannot be read: {error}")))
    }

    /// Requests continuous text; `each` gets the pieces as they arrive.
    pub async fn stream(
        &self,
        path: &str,
        body: &impl Serialize,
        mut each: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), ClientError> {
        let answer = self.request(Method::POST, path, to_json(body)?);
        let mut answer = self.within(READING, answer).await?.into_body();
        while let Some(frame) = answer.frame().await {
            if let Some(data) = frame?.data_ref()
                && each(data).is_err()
            {
                break; // nobody reads any more
            }
        }
        Ok(())
    }

    async fn within<T>(
        &self,
        patience: Duration,
        answer: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, ClientError> {
        let silent = |_| ClientError::Silent { socket: self.socket.clone(), waited: patience };
        time::timeout(patience, answer).await.map_err(silent)?
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        loop {
            match UnixStream::connect(&self.socket).await {
                // The backlog of pending connections is full.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => time::sleep(AGAIN).await,
                connected => return connected,
            }
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let stream = self.connect().await.map_err(|source| {
            let socket = self.socket.clone();
            match source.kind() {
                io::ErrorKind::PermissionDenied => ClientError::NotPermitted { socket },
                _ => ClientError::Unreachable { socket, source },
            }
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "floodgate")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| ClientError::BrokenOff(error.to_string()))?;
        let response = sender.send_request(request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.into_body().collect().await?.to_bytes();
        let message = serde_json::from_slice(&text).map_or_else(
            |_| format!("{status}: {}", String::from_utf8_lossy(&text)),
            |Failure { error }| error,
        );
        Err(ClientError::Refused { status, message })
    }
}

fn to_json(body: &impl Serialize) -> Result<Bytes, ClientError> {
    let text = serde_json::to_vec(body).map_err(|error| ClientError::BrokenOff(error.to_string()))?;
    if text.len() > LARGEST_REQUEST { Err(ClientError::TooLarge(text.len())) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net;

    use super::*;

    /// Returns a client's error after this time if the daemon listens and does nothing else.
    const PATIENCE: Duration = Duration::from_millis(300);

    async fn asked(client: &Client) -> ClientError {
        client.ask::<()>(Method::GET, "/v1/status", Bytes::new(), PATIENCE).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_daemon_that_hangs_is_not_waited_for_for_ever() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = net::UnixListener::bind(&path).unwrap();
        let client = Client::new(&path);
        let error = asked(&client).await;
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
        assert!(error.to_string().contains("has not answered within"), "{error}");
        // The same with a full backlog.
        listener.set_nonblocking(true).unwrap();
        // SAFETY: the descriptor is open, and no memory is involved.
        assert_eq!(unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) }, 0);
        let waiting: Vec<_> = (0..3).map(|_| asked(&client)).collect();
        for error in waiting {
            let error = error.await;
            assert!(matches!(error, ClientError::Silent { .. }), "{error}");
        }
        drop(listener);
        assert!(matches!(asked(&client).await, ClientError::Unreachable { .. }));
    }

    #[test]
    fn what_would_be_refused_by_its_size_is_not_sent() {
        let error = to_json(&"x".repeat(LARGEST_REQUEST)).unwrap_err();
        assert!(matches!(error, ClientError::TooLarge(_)), "{error}");
    }
}
