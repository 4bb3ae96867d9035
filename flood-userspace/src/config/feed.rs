//! Feeds: what is said about a list that somebody else keeps.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use hyper::Uri;
use serde::Serialize;
use thiserror::Error;

use crate::lists::doubt::Coverage;

/// Longest name of a feed in bytes: it becomes the name of a file and the label of a metric.
const MAX_NAME_BYTES: usize = 64;

/// The name of a feed: letters, digits, `-`, `_` and `.`, and no dot in front. It is safe as the name of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct FeedName(String);

/// A text that names no feed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{0:?} cannot be the name of a feed: 1 to {MAX_NAME_BYTES} letters, digits, '-', '_' or '.', and no '.' in front"
)]
pub struct FeedNameError(String);

impl FeedName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FeedName {
    type Err = FeedNameError;

    fn from_str(text: &str) -> Result<Self, FeedNameError> {
        let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let right_length = (1..=MAX_NAME_BYTES).contains(&text.len());
        if !right_length || text.starts_with('.') || !text.bytes().all(fits) {
            return Err(FeedNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for FeedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// An `http` or `https` URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct FeedUrl(String);

/// A text that is no URL from which a feed can be fetched.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("this cannot be the URL of a feed: {0}; write it as \"https://example.net/drop.txt\"")]
pub struct FeedUrlError(&'static str);

impl FeedUrl {
    /// All of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether what it names comes over TLS.
    pub fn is_secure(&self) -> bool {
        self.0.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://"))
    }

    /// What may be shown to anyone: name, password and query may hold secrets.
    fn shown(&self) -> String {
        let Ok(uri) = self.0.parse::<Uri>() else { return String::new() };
        let port = uri.port_u16().map_or(String::new(), |port| format!(":{port}"));
        let query = if uri.query().is_some() { "?…" } else { "" };
        let (scheme, host) = (uri.scheme_str().unwrap_or_default(), uri.host().unwrap_or_default());
        format!("{scheme}://{host}{port}{}{query}", uri.path())
    }
}

impl FromStr for FeedUrl {
    type Err = FeedUrlError;

    fn from_str(text: &str) -> Result<Self, FeedUrlError> {
        let uri: Uri = text.parse().map_err(|_| FeedUrlError("it is not a URL"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(FeedUrlError("it begins with neither http:// nor https://"));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(FeedUrlError("it names no host"));
        }
        Ok(Self(text.to_owned()))
    }
}

/// Where a feed is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FeedSource {
    /// In a file.
    Path(PathBuf),
    /// At a web server.
    Url(FeedUrl),
}

impl FeedSource {
    /// All of it, secrets included: to tell one source from another.
    pub fn identity(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Url(url) => url.as_str().to_owned(),
        }
    }
}

impl fmt::Display for FeedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => Path::display(path).fmt(f),
            Self::Url(url) => f.pad(&url.shown()),
        }
    }
}

/// A list that somebody else keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Feed {
    /// What it is called; no other feed is, of either list.
    pub name: FeedName,
    /// Where it is read.
    pub source: FeedSource,
    /// How often.
    pub every: Duration,
    /// Whether it is believed when it lists nothing, or almost nothing, all of a sudden.
    pub may_shrink: bool,
    /// Whether it is believed when it lists many times as much, all of a sudden.
    pub may_grow: bool,
    /// Whether it may block what this host needs.
    pub may_cover_host: bool,
    /// How much of all addresses it may cover.
    pub max_coverage: Coverage,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_safe_as_that_of_a_file() {
        let cases = [
            ("usual", "spamhaus-drop_v4.1", true),
            ("empty", "", false),
            ("hidden", ".drop", false),
            ("the folder above", "..", false),
            ("path", "a/b", false),
            ("blank", "a b", false),
            ("a letter of two bytes", "é", false),
        ];
        for (why, text, expected) in cases {
            assert_eq!(text.parse::<FeedName>().is_ok(), expected, "{why}");
        }
        assert!("a".repeat(MAX_NAME_BYTES).parse::<FeedName>().is_ok());
        assert!("a".repeat(MAX_NAME_BYTES + 1).parse::<FeedName>().is_err());
    }

    #[test]
    fn a_url_has_a_scheme_that_can_be_fetched_and_a_host() {
        let cases = [
            ("secure", "https://example.net/drop.txt", true),
            ("plain, with port", "http://[2001:db8::1]:8080/", true),
            ("no scheme", "example.net/drop.txt", false),
            ("another scheme", "ftp://example.net/drop.txt", false),
            ("no host", "https:///drop.txt", false),
            ("a path", "/etc/drop.txt", false),
            ("blank", "https://example.net/a b", false),
        ];
        for (why, text, expected) in cases {
            assert_eq!(text.parse::<FeedUrl>().is_ok(), expected, "{why}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_has_no_secrets() {
        let url: FeedUrl = "https://me:hush@example.net:444/drop.txt?key=hush".parse().unwrap();
        assert_eq!(FeedSource::Url(url.clone()).to_string(), "https://example.net:444/drop.txt?…");
        assert!(url.is_secure());
        assert!(!"http://example.net/".parse::<FeedUrl>().unwrap().is_secure());
    }
}
