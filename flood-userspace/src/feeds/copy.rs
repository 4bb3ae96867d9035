//! The last good copy of each feed, on disk.
//!
//! A copy is the feed as received, after one comment line that says where and when it came from, so that
//! `floodgate block import` can read it as well. It is written beside the previous one and replaces it in one step: a
//! complete copy is there whenever the power fails.

use std::{io, path::Path, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    config::{Feed, FeedName},
    lists::{ListKind, import::COPY_MARK as MARK},
    printable::Printable,
    state::Folder,
};

use super::fetch::{LARGEST_FEED, Stamp};

/// Maximum length of that line, bytes.
const LONGEST_MARK: u64 = 64 << 10;

/// The copies on disk.
#[derive(Debug, Clone)]
pub struct Copies {
    folder: Folder,
}

/// A copy that cannot be read or written.
#[derive(Debug, Error)]
#[error("{what} the copy {path}: {source}", path = Printable(path.display()))]
pub struct CopyError {
    what: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// The feed as it was received.
    pub bytes: Vec<u8>,
    /// The state of the feed that this is.
    pub stamp: Stamp,
    /// When the feed was last known to be in this state.
    pub good_at: SystemTime,
}

/// The comment line.
#[derive(Serialize, Deserialize)]
struct Mark {
    list: String,
    name: String,
    stamp: Stamp,
}

impl Copies {
    /// Returns the copies within the state folder.
    pub fn within(state: &Path) -> Self {
        Self { folder: Folder::at(state.join("feeds")) }
    }

    /// Checks that no other user could put copies there.
    pub fn check(&self) -> io::Result<()> {
        self.folder.check()
    }

    /// Loads the copy of a feed; `None` if there is none of exactly this source.
    pub fn load(&self, kind: ListKind, feed: &Feed) -> Result<Option<Copy>, CopyError> {
        let file = file(kind, &feed.name);
        let read = || -> io::Result<Option<Copy>> {
            let Some((mut bytes, good_at)) = self.folder.read(&file, LARGEST_FEED + LONGEST_MARK)? else {
                return Ok(None);
            };
            let end = bytes.iter().position(|&b| b == b'\n').unwrap_or(bytes.len());
            let mark = bytes[..end].strip_prefix(MARK.as_bytes()).unwrap_or_default();
            let Mark { stamp, .. } = serde_json::from_slice(mark)?;
            if !stamp.is_of(&feed.source) {
                return Ok(None);
            }
            let bytes = bytes.split_off((end + 1).min(bytes.len()));
            Ok(Some(Copy { bytes, stamp, good_at }))
        };
        read().map_err(|source| self.failed("reading", &file, source))
    }

    /// Stores what has just been received.
    pub fn store(
        &self,
        kind: ListKind,
        name: &FeedName,
        bytes: &[u8],
        stamp: &Stamp,
    ) -> Result<(), CopyError> {
        let file = file(kind, name);
        let write = || -> io::Result<()> {
            let mark = Mark { list: kind.label().to_owned(), name: name.to_string(), stamp: stamp.clone() };
            let mark = format!("{MARK}{}\n", serde_json::to_string(&mark)?);
            self.folder.write(&file, &[mark.as_bytes(), bytes])
        };
        write().map_err(|source| self.failed("writing", &file, source))
    }

    /// Records that a feed has just been found unchanged from its copy.
    pub fn confirm(&self, kind: ListKind, name: &FeedName) -> Result<(), CopyError> {
        let file = file(kind, name);
        self.folder.touch(&file).map_err(|source| self.failed("confirming", &file, source))
    }

    /// Removes the copy of a feed.
    pub fn remove(&self, kind: ListKind, name: &FeedName) -> Result<(), CopyError> {
        let file = file(kind, name);
        self.folder.remove(&file).map_err(|source| self.failed("removing", &file, source))
    }

    fn failed(&self, what: &'static str, file: &str, source: io::Error) -> CopyError {
        CopyError { what, path: self.folder.file(file), source }
    }
}

/// Returns the file name of a copy.
fn file(kind: ListKind, name: &FeedName) -> String {
    format!("{}.{name}", kind.label())
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::config::FeedSource;

    fn feed(url: &str) -> Feed {
        Feed {
            name: "drop".parse().unwrap(),
            source: FeedSource::Url(url.parse().unwrap()),
            every: Duration::from_secs(60),
            may_shrink: false,
            may_grow: false,
            may_cover_host: false,
            max_coverage: Default::default(),
        }
    }

    fn stamp(feed: &Feed) -> Stamp {
        Stamp { etag: Some("\"one\ntwo\"".into()), ..Stamp::of(&feed.source) }
    }

    #[test]
    fn a_copy_is_what_came_and_belongs_to_its_source() {
        let folder = tempfile::tempdir().unwrap();
        let copies = Copies::within(folder.path());
        let feed = feed("http://example.net/drop");
        assert_eq!(copies.load(ListKind::Block, &feed).unwrap(), None);
        let stamp = stamp(&feed);
        for bytes in ["192.0.2.1\n", "", "192.0.2.2"] {
            copies.store(ListKind::Block, &feed.name, bytes.as_bytes(), &stamp).unwrap();
            let copy = copies.load(ListKind::Block, &feed).unwrap().unwrap();
            assert_eq!((copy.bytes.as_slice(), &copy.stamp), (bytes.as_bytes(), &stamp));
        }
        assert_eq!(copies.load(ListKind::Allow, &feed).unwrap(), None);
        assert_eq!(copies.load(ListKind::Block, &self::feed("http://example.net/other")).unwrap(), None);
        copies.remove(ListKind::Block, &feed.name).unwrap();
        copies.remove(ListKind::Block, &feed.name).unwrap();
        assert_eq!(copies.load(ListKind::Block, &feed).unwrap(), None);
        assert_eq!(fs::read_dir(folder.path().join("feeds")).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_can_be_imported() {
        let folder = tempfile::tempdir().unwrap();
        let copies = Copies::within(folder.path());
        let feed = feed("http://example.net/drop");
        let utf16: Vec<u8> = "\u{feff}192.0.2.1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        for bytes in [&b"\xEF\xBB\xBF192.0.2.1\n"[..], b"{\"cidr\":\n\"192.0.2.1\"}", &utf16] {
            copies.store(ListKind::Block, &feed.name, bytes, &stamp(&feed)).unwrap();
            let import = crate::lists::import::load(&folder.path().join("feeds/block.drop")).unwrap();
            assert_eq!((import.prefixes.len(), import.bad_lines), (1, 0));
        }
    }

    #[test]
    fn a_broken_copy_is_an_error_and_not_a_list() {
        let folder = tempfile::tempdir().unwrap();
        let copies = Copies::within(folder.path());
        fs::create_dir(folder.path().join("feeds")).unwrap();
        for text in ["", "192.0.2.1\n", "# floodgate feed {\"list\":", "# floodgate feed {}\n192.0.2.1\n"] {
            fs::write(folder.path().join("feeds/block.drop"), text).unwrap();
            let error = copies.load(ListKind::Block, &feed("http://example.net/drop")).unwrap_err();
            assert!(error.to_string().contains("feeds/block.drop"), "{text:?}: {error}");
        }
    }
}
