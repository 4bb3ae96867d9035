//! Reads the bytes of a feed from a file, or from a web server that may be slow, broken or hostile.
//!
//! Everything is bounded: size, time, redirects, and the memory of all feeds that are being read. A feed that has not
//! changed since the last time is not read again.

use std::{
    fs::Metadata,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use hyper::{StatusCode, header};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use ureq::{
    Agent,
    http::Response,
    tls::{RootCerts, TlsConfig},
    unversioned::transport::DefaultConnector,
};

use crate::{
    config::{FeedSource, FeedUrl},
    file,
    printable::Printable,
};

use super::reach::{Inside, Reach};

/// The largest feed that is read. A million lines take 20 MB, so this is room for three million.
pub const LARGEST_FEED: u64 = 64 << 20;

/// Memory that each feed may take while it is read, regardless of the others.
const OWN_ROOM: u64 = 4 << 20;

/// Memory that all feeds together may take beyond that. A feed that finds it exhausted is tried again later, so that
/// a server that sends much data slowly does not hold up the others.
const SHARED_ROOM: u64 = 256 << 20;

/// How much of a feed is read before the memory limit is checked again.
const STEP: u64 = 1 << 20;

/// How many redirects are followed.
const MAX_REDIRECTS: u32 = 5;

/// Timeout for resolving a name, and for connecting.
const CONNECT: Duration = Duration::from_secs(10);

/// Timeout for the response header.
const FIRST_BYTE: Duration = Duration::from_secs(30);

/// Timeout for the whole request.
const WHOLE: Duration = Duration::from_secs(300);

/// Longest validator that is kept. A hostile server may send one of any length.
const MAX_VALIDATOR_BYTES: usize = 1024;

/// Identifies the state of a feed that was read, as far as its source can tell.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The source that was read.
    pub source: String,
    /// The server's entity tag (RFC 9110, 8.8.3).
    pub etag: Option<String>,
    /// When the server says that the feed was modified (RFC 9110, 8.8.2).
    pub last_modified: Option<String>,
    /// For a file: its device, inode number, size, and times of change.
    pub file: Option<String>,
}

impl Stamp {
    /// Returns the stamp of a source that cannot tell its states apart.
    pub fn of(source: &FeedSource) -> Self {
        Self { source: source.identity(), etag: None, last_modified: None, file: None }
    }

    /// Whether exactly this source was read.
    pub fn is_of(&self, source: &FeedSource) -> bool {
        self.source == source.identity()
    }
}

/// Result of reading a source.
#[derive(Debug, PartialEq, Eq)]
pub enum Fetched {
    /// Nothing has changed.
    Unchanged,
    /// The whole feed.
    New {
        /// The bytes as received.
        bytes: Vec<u8>,
        /// Which state this is.
        stamp: Stamp,
        /// The share of the common memory limit that the bytes take.
        room: Room,
    },
}

/// Why a feed could not be read.
#[derive(Debug, Error)]
pub enum FetchError {
    /// The file cannot be read.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The other feeds take all the memory that there is for feeds.
    #[error("the feeds that are being read take more than {} MiB together; this one has to wait", SHARED_ROOM >> 20)]
    NoRoom,
    /// The server redirects to an internal address, which is not in the configuration.
    #[error(
        "the server redirects to {0}, which is an address inside of this network: name it as the feed's URL if that is right"
    )]
    Inside(std::net::IpAddr),
    /// The feed is too large.
    #[error("it has more than {} MiB: this is not a list", .0 >> 20)]
    TooLarge(u64),
    /// The server answers with an error status.
    #[error("the server answers {0}")]
    Status(StatusCode),
    /// The server uses a content encoding that was not requested.
    #[error("the server sends it encoded as \"{}\", which was not asked for", Printable(.0))]
    Encoded(String),
    /// The server redirects from TLS to plain text.
    #[error("the server redirects from https to http, which anyone on the way could forge")]
    Unprotected,
    /// The network, or a protocol on it, fails.
    #[error("{0}")]
    Network(String),
}

impl From<ureq::Error> for FetchError {
    fn from(error: ureq::Error) -> Self {
        match error {
            ureq::Error::RequireHttpsOnly(_) => Self::Unprotected,
            // Both messages would show the URL, which may contain secrets.
            ureq::Error::BadUri(_) => Self::Network("a URL on the way there cannot be read".into()),
            ureq::Error::TooManyRedirects => Self::Network(format!("more than {MAX_REDIRECTS} redirects")),
            ureq::Error::HostNotFound => Self::Network("there is no host of this name".into()),
            ureq::Error::Io(error) => Self::Network(error.to_string()),
            ureq::Error::Other(error) => match error.downcast::<Inside>() {
                Ok(inside) => Self::Inside(inside.0),
                Err(error) => Self::Network(error.to_string()),
            },
            error => Self::Network(error.to_string()),
        }
    }
}

/// Reads a feed, unless it is still in the state `known`.
pub fn fetch(source: &FeedSource, known: Option<&Stamp>) -> Result<Fetched, FetchError> {
    fetch_at_most(LARGEST_FEED, source, known)
}

fn fetch_at_most(largest: u64, source: &FeedSource, known: Option<&Stamp>) -> Result<Fetched, FetchError> {
    let known = known.filter(|stamp| stamp.is_of(source));
    match source {
        FeedSource::Path(path) => read(largest, path, source, known),
        FeedSource::Url(url) => download(largest, url, source, known),
    }
}

fn read(
    largest: u64,
    path: &Path,
    source: &FeedSource,
    known: Option<&Stamp>,
) -> Result<Fetched, FetchError> {
    let (file, metadata) = file::open(path)?;
    let stamp = Stamp { file: Some(state(&metadata)), ..Stamp::of(source) };
    if known == Some(&stamp) {
        return Ok(Fetched::Unchanged);
    }
    let (bytes, room) = all(largest, file)?;
    Ok(Fetched::New { bytes, stamp, room })
}

fn state(metadata: &Metadata) -> String {
    format!(
        "{} {} {} {}.{} {}.{}",
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        metadata.mtime(),
        metadata.mtime_nsec(),
        metadata.ctime(),
        metadata.ctime_nsec()
    )
}

/// Reads everything, within the memory limit.
fn all(largest: u64, mut from: impl Read) -> Result<(Vec<u8>, Room), FetchError> {
    let (mut bytes, mut room) = (Vec::new(), Room::default());
    loop {
        let so_far = bytes.len() as u64;
        if so_far > largest {
            return Err(FetchError::TooLarge(largest));
        }
        room.grow(so_far + STEP)?;
        let step = STEP.min(largest + 1 - so_far);
        if (&mut from).take(step).read_to_end(&mut bytes)? == 0 {
            return Ok((bytes, room));
        }
    }
}

/// The share of the common memory limit that a feed takes, for as long as its bytes exist.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Room(u64);

/// How much of the common limit is taken.
static TAKEN: AtomicU64 = AtomicU64::new(0);

impl Room {
    /// Takes as much as a feed of this many bytes needs.
    fn grow(&mut self, bytes: u64) -> Result<(), FetchError> {
        let more = bytes.saturating_sub(OWN_ROOM).saturating_sub(self.0);
        let taken = TAKEN.fetch_add(more, Ordering::Relaxed) + more;
        self.0 += more;
        if more > 0 && taken > SHARED_ROOM { Err(FetchError::NoRoom) } else { Ok(()) }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        TAKEN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

fn download(
    largest: u64,
    url: &FeedUrl,
    source: &FeedSource,
    known: Option<&Stamp>,
) -> Result<Fetched, FetchError> {
    let config = Agent::config_builder()
        .https_only(url.is_secure())
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .user_agent(concat!("floodgate/", env!("CARGO_PKG_VERSION")))
        .http_status_as_error(false)
        .max_redirects(MAX_REDIRECTS)
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(FIRST_BYTE))
        .timeout_global(Some(WHOLE))
        .build();
    let agent = Agent::with_parts(config, DefaultConnector::default(), Reach::from(url));
    let mut request = agent.get(url.as_str()).header(header::ACCEPT_ENCODING.as_str(), "identity");
    let validators = known.map(|stamp| (&stamp.etag, &stamp.last_modified));
    if let Some((etag, last_modified)) = validators {
        for (name, value) in [(header::IF_NONE_MATCH, etag), (header::IF_MODIFIED_SINCE, last_modified)] {
            if let Some(value) = value {
                request = request.header(name.as_str(), value);
            }
        }
    }
    let asked = validators.is_some_and(|(etag, last_modified)| etag.is_some() || last_modified.is_some());
    let response = request.call()?;
    match response.status() {
        StatusCode::NOT_MODIFIED if asked => return Ok(Fetched::Unchanged),
        StatusCode::OK => {}
        status => return Err(FetchError::Status(status)),
    }
    match text_of(&response, &header::CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => return Err(FetchError::Encoded(encoding)),
        _ => {}
    }
    let stamp = Stamp {
        etag: text_of(&response, &header::ETAG),
        last_modified: text_of(&response, &header::LAST_MODIFIED),
        ..Stamp::of(source)
    };
    let (bytes, room) = match all(largest, response.into_body().into_reader()) {
        Err(FetchError::File(error)) => return Err(FetchError::Network(error.to_string())),
        read => read?,
    };
    Ok(Fetched::New { bytes, stamp, room })
}

fn text_of<T>(response: &Response<T>, name: &header::HeaderName) -> Option<String> {
    let value = response.headers().get(name)?.to_str().ok()?;
    (value.len() <= MAX_VALIDATOR_BYTES).then(|| value.to_owned())
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::{BufRead, BufReader, Write},
        net::{SocketAddr, TcpListener},
        thread,
    };

    use super::*;

    /// Starts a server that gives the answers in order, each on its own connection, and then ends. Returns its
    /// address and a thread that returns the requests.
    fn server(answers: Vec<String>) -> (SocketAddr, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let serve = move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let request: Vec<String> =
                    lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
                requests.push(request.join("\n").to_lowercase());
                stream.write_all(answer.as_bytes()).unwrap();
            }
            requests
        };
        (address, thread::spawn(serve))
    }

    fn ok(headers: &str, body: &str) -> String {
        format!(
            "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    }

    fn source(address: SocketAddr, path: &str) -> FeedSource {
        FeedSource::Url(format!("http://{address}{path}").parse().unwrap())
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let not_modified = "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned();
        let first = ok("ETag: \"v1\"\r\nLast-Modified: Tue, 27 Feb 2024 00:00:00 GMT\r\n", "192.0.2.1\n");
        let (address, server) = server(vec![first, not_modified.clone(), not_modified]);
        let source = source(address, "/drop.txt?key=k");
        let Fetched::New { bytes, stamp, .. } = fetch(&source, None).unwrap() else { panic!("not new") };
        assert_eq!(bytes, b"192.0.2.1\n");
        assert_eq!(fetch(&source, Some(&stamp)).unwrap(), Fetched::Unchanged);
        // The request was not conditional.
        let error = fetch(&source, Some(&Stamp::of(&source))).unwrap_err();
        assert!(matches!(error, FetchError::Status(StatusCode::NOT_MODIFIED)), "{error}");
        let requests = server.join().unwrap();
        assert!(requests[0].starts_with("get /drop.txt?key=k http/1.1\n"), "{}", requests[0]);
        assert!(!requests[0].contains("\nif-") && !requests[2].contains("\nif-"), "{requests:?}");
        assert!(requests[1].contains("\nif-none-match: \"v1\""), "{}", requests[1]);
        assert!(requests[1].contains("\nif-modified-since: tue, 27 feb 2024"), "{}", requests[1]);
    }

    #[test]
    fn a_stamp_of_another_source_is_not_used() {
        let (address, server) = server(vec![ok("", "a")]);
        let other = Stamp { etag: Some("\"v1\"".into()), ..Stamp::of(&source(address, "/other")) };
        fetch(&source(address, "/"), Some(&other)).unwrap();
        assert!(!server.join().unwrap()[0].contains("if-none-match"));
    }

    #[test]
    fn answers_that_cannot_be_right_are_errors() {
        let truncated =
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n192.0.2.1\n".to_owned();
        let chunk =
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n5\r\n1.2.3\r\n";
        let endless = ok("", &"x".repeat(2_000));
        let cases = [
            ("truncated", truncated, ""),
            ("without its last chunk", chunk.to_owned(), ""),
            ("too large", endless, "MiB"),
            ("not there", "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".into(), "404"),
            ("broken", "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n".into(), "503"),
            ("a part", "HTTP/1.1 206 Partial Content\r\nContent-Length: 0\r\n\r\n".into(), "206"),
            ("compressed", ok("Content-Encoding: gzip\r\n", "a"), "gzip"),
            ("not HTTP", "SSH-2.0-OpenSSH_9.2\r\n".into(), ""),
            ("nothing", String::new(), ""),
        ];
        for (why, answer, expected) in cases {
            let (address, server) = server(vec![answer]);
            let error = fetch_at_most(1_000, &source(address, "/"), None).expect_err(why).to_string();
            assert!(error.contains(expected), "{why}: {error}");
            server.join().unwrap();
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = source(listener.local_addr().unwrap(), "/");
        drop(listener);
        assert!(matches!(fetch(&nobody, None), Err(FetchError::Network(_))));
    }

    #[test]
    fn redirects_are_followed_within_bounds() {
        let moved =
            "HTTP/1.1 302 Found\r\nLocation: /there\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let (address, once) = server(vec![moved.to_owned(), ok("", "192.0.2.1\n")]);
        let fetched = fetch(&source(address, "/"), None).unwrap();
        assert!(matches!(fetched, Fetched::New { bytes, .. } if bytes == b"192.0.2.1\n"));
        assert!(once.join().unwrap()[1].starts_with("get /there "));
        let (address, _circle) = server(vec![moved.to_owned(); MAX_REDIRECTS as usize + 1]);
        let error = fetch(&source(address, "/"), None).unwrap_err().to_string();
        assert!(error.contains("redirects"), "{error}");
    }

    #[test]
    fn a_redirect_to_an_address_inside_is_not_followed() {
        let (secret, _never_asked) = server(vec![ok("", "10.0.0.0/8\n")]);
        for target in
            [format!("http://{secret}/"), "http://169.254.169.254/latest/".into(), "http://[::1]:1/".into()]
        {
            let moved = format!(
                "HTTP/1.1 302 Found\r\nLocation: {target}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let (address, _server) = server(vec![moved]);
            let error = fetch(&source(address, "/"), None).unwrap_err();
            assert!(matches!(error, FetchError::Inside(_)), "{target}: {error}");
            assert!(error.to_string().contains("feed's URL"), "{error}");
        }
    }

    #[test]
    fn feeds_share_the_room_that_one_alone_could_fill() {
        let large = || {
            let mut room = Room::default();
            room.grow(LARGEST_FEED).map(|()| room)
        };
        let rooms: Vec<_> = (0..8).map(|_| large()).collect();
        assert!(rooms[..4].iter().all(Result::is_ok) && rooms[7].is_err());
        // A feed of usual size still has room.
        assert!(Room::default().grow(OWN_ROOM).is_ok());
        drop(rooms);
        assert!(large().is_ok());
    }

    #[test]
    fn a_server_that_does_not_speak_tls_is_not_talked_to_without() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let source = format!("https://{}/", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(ok("", "192.0.2.1\n").as_bytes()).unwrap();
            let mut first = [0];
            stream.read_exact(&mut first).unwrap();
            first[0]
        });
        let fetched = fetch(&FeedSource::Url(source.parse().unwrap()), None);
        assert!(matches!(fetched, Err(FetchError::Network(_))), "{fetched:?}");
        // The type of the first TLS record (RFC 8446, 5.1: handshake).
        assert_eq!(server.join().unwrap(), 22);
    }

    #[test]
    fn a_file_is_read_again_when_it_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("list");
        let source = FeedSource::Path(path.clone());
        assert!(matches!(fetch(&source, None), Err(FetchError::File(_))));
        fs::write(&path, "192.0.2.1\n").unwrap();
        let Fetched::New { stamp, .. } = fetch(&source, None).unwrap() else { panic!("not new") };
        assert_eq!(fetch(&source, Some(&stamp)).unwrap(), Fetched::Unchanged);
        let new = folder.path().join("new");
        fs::write(&new, "192.0.2.2\n").unwrap();
        fs::rename(new, &path).unwrap();
        let fetched = fetch(&source, Some(&stamp)).unwrap();
        assert!(matches!(fetched, Fetched::New { bytes, .. } if bytes == b"192.0.2.2\n"));
        let error = fetch_at_most(9, &source, None).unwrap_err();
        assert!(matches!(error, FetchError::TooLarge(9)), "{error}");
    }

    #[test]
    fn what_never_ends_is_no_file() {
        for path in ["/dev/zero", "/"] {
            let error = fetch(&FeedSource::Path(path.into()), None).unwrap_err();
            assert!(error.to_string().contains("no file"), "{path}: {error}");
        }
    }
}
