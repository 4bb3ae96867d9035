//! The folder for state that survives a restart.
//!
//! What is read from it is trusted, and what is written to it is written as root. So it is used only while nobody
//! else can put anything there, and a file in it is either complete or absent.

use std::{
    fs::{self, DirBuilder, File, Metadata},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use thiserror::Error;

use crate::{file, printable::Printable};

/// Name prefix of a file that is not complete yet.
const NEW: &str = ".new.";

/// Age from which on nobody is still writing such a file.
const LEFT_BEHIND: Duration = Duration::from_secs(600);

/// Mode bits: others than the owner may write, and only owners may rename and remove (inode(7)).
const OTHERS_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A folder in which others could plant trusted files.
#[derive(Debug, Error)]
pub enum Unsafe {
    /// It belongs to another user.
    #[error("{} belongs to user {owner}, who could put anything there: `chown root` it, or name another folder as `state`", Printable(path.display()))]
    Owner {
        /// The folder.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// Others may write to it.
    #[error("others than its owner may write to {} (mode {mode:04o}): `chmod go-w` it, or name another folder as `state`", Printable(path.display()))]
    Mode {
        /// The folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl From<Unsafe> for io::Error {
    fn from(error: Unsafe) -> Self {
        Self::new(io::ErrorKind::PermissionDenied, error.to_string())
    }
}

/// A folder for files that are trusted when they are read again.
#[derive(Debug, Clone)]
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Returns the folder at a path, which need not exist yet.
    pub fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Returns the path of a file in the folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Checks that others can neither put files there nor replace the folder or one of its parents. Whatever does
    /// not exist yet will be created for this process's user only.
    pub fn check(&self) -> io::Result<()> {
        for path in self.path.ancestors() {
            check_one(path, path == self.path)?;
        }
        // Do the same for the targets of symbolic links.
        match self.path.canonicalize() {
            Ok(real) if real != self.path => {
                real.ancestors().try_for_each(|path| check_one(path, path == real))
            }
            _ => Ok(()),
        }
    }

    /// Reads a file of at most `most` bytes, and its modification time; `None` if it does not exist.
    pub fn read(&self, name: &str, most: u64) -> io::Result<Option<(Vec<u8>, SystemTime)>> {
        self.check()?;
        let path = self.file(name);
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(metadata) => Ok(Some((file::read(&path, most)?, metadata.modified()?))),
        }
    }

    /// Writes a file: first under an unpredictable name, which then replaces the old file.
    pub fn write(&self, name: &str, parts: &[&[u8]]) -> io::Result<()> {
        self.write_held(name, parts, |_| Ok(())).map(drop)
    }

    /// Does the same and keeps the file open; calls `hold` before the file gets its name.
    pub fn write_held(
        &self,
        name: &str,
        parts: &[&[u8]],
        hold: impl FnOnce(&File) -> io::Result<()>,
    ) -> io::Result<File> {
        self.check()?;
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path)?;
        self.check()?;
        self.sweep();
        // The file is created with O_EXCL and mode 0600, and removed if anything fails.
        let mut new = tempfile::Builder::new().prefix(NEW).tempfile_in(&self.path)?;
        parts.iter().try_for_each(|part| new.write_all(part))?;
        new.as_file().sync_all()?;
        hold(new.as_file())?;
        let file = new.persist(self.file(name)).map_err(|error| error.error)?;
        File::open(&self.path)?.sync_all()?;
        Ok(file)
    }

    /// Records that a file is still correct now.
    pub fn touch(&self, name: &str) -> io::Result<()> {
        self.check()?;
        let (file, _) = file::open(&self.file(name))?;
        file.set_modified(SystemTime::now())
    }

    /// Removes a file, if it exists.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.file(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes files that were being written when a process was killed.
    fn sweep(&self) {
        let is_left = |metadata: Metadata| {
            metadata.is_file()
                && metadata.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > LEFT_BEHIND))
        };
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            let is_new = entry.file_name().as_encoded_bytes().starts_with(NEW.as_bytes());
            if is_new && entry.metadata().is_ok_and(is_left) {
                let _ = fs::remove_file(entry.path()); // the next sweep tries again
            }
        }
    }
}

/// Checks one folder or symbolic link on the path; `is_last` marks the folder itself.
fn check_one(path: &Path, is_last: bool) -> io::Result<()> {
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => return Ok(()),
        metadata => metadata?,
    };
    // SAFETY: it takes no arguments and cannot fail.
    let us = unsafe { libc::geteuid() };
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != 0 && owner != us {
        return Err(Unsafe::Owner { path: path.to_owned(), owner }.into());
    }
    // Whoever may write to a sticky folder cannot replace our files in it. The mode of a link means nothing.
    let is_kept_apart = !is_last && mode & STICKY != 0;
    if !metadata.is_symlink() && mode & OTHERS_WRITE != 0 && !is_kept_apart {
        return Err(Unsafe::Mode { path: path.to_owned(), mode }.into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_folder_that_others_can_write_to_is_refused_by_name() {
        let outer = tempfile::tempdir().unwrap();
        let (state, feeds) = (outer.path().join("state"), outer.path().join("state/feeds"));
        let folder = Folder::at(feeds.clone());
        assert!(folder.check().is_ok(), "what is not there will be ours");
        folder.write("a", &[b"one", b"two"]).unwrap();
        assert_eq!(folder.read("a", 10).unwrap().unwrap().0, b"onetwo");
        assert_eq!(fs::metadata(&feeds).unwrap().mode() & 0o777, 0o700);
        let cases = [
            ("the folder itself", &feeds, 0o777, false),
            ("by its group", &feeds, 0o770, false),
            ("the folder itself, though sticky", &feeds, 0o1777, false),
            ("the one above", &state, 0o777, false),
            ("the one above, where nobody can exchange it", &state, 0o1777, true),
        ];
        for (why, path, mode, expected) in cases {
            set_mode(path, mode);
            let (read, written) = (folder.read("a", 10), folder.write("a", &[b"three"]));
            set_mode(path, 0o700);
            assert_eq!((read.is_ok(), written.is_ok()), (expected, expected), "{why}: {read:?} {written:?}");
            if let Err(error) = read {
                let text = error.to_string();
                assert!(text.contains(&format!("{mode:04o}")) && text.contains("chmod"), "{why}: {text}");
            }
        }
    }

    #[test]
    fn a_folder_or_link_of_somebody_else_is_refused() {
        // SAFETY: it takes no arguments and cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return; // only root can give files away
        }
        let outer = tempfile::tempdir().unwrap();
        let (theirs, link) = (outer.path().join("theirs"), outer.path().join("link"));
        fs::create_dir(&theirs).unwrap();
        symlink(&theirs, &link).unwrap();
        Folder::at(link.clone()).write("a", &[b"x"]).unwrap();
        chown(&theirs, Some(12_345), None).unwrap();
        for path in [theirs.clone(), theirs.join("below"), link.clone(), link.join("below")] {
            let error = Folder::at(path.clone()).write("a", &[b"x"]).unwrap_err().to_string();
            assert!(error.contains("12345"), "{}: {error}", path.display());
        }
        chown(&theirs, Some(0), None).unwrap();
        std::os::unix::fs::lchown(&link, Some(12_345), None).unwrap();
        assert!(Folder::at(link).check().is_err());
    }

    #[test]
    fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
        let outer = tempfile::tempdir().unwrap();
        let precious = outer.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let folder = Folder::at(outer.path().join("feeds"));
        folder.write("a", &[b"x"]).unwrap();
        folder.remove("a").unwrap();
        symlink(&precious, folder.file("a")).unwrap();
        folder.write("a", &[b"new"]).unwrap();
        assert_eq!(fs::read_to_string(precious).unwrap(), "precious");
        assert!(fs::symlink_metadata(folder.file("a")).unwrap().is_file());
    }

    #[test]
    fn what_cannot_be_written_leaves_nothing_behind() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::at(outer.path().join("feeds"));
        folder.write("a", &[b"whole"]).unwrap();
        // A file cannot replace a folder at its path.
        fs::create_dir(folder.file("b")).unwrap();
        assert!(folder.write("b", &[b"part"]).is_err());
        let left = folder.file(".new.killed");
        fs::write(&left, "part").unwrap();
        File::options().write(true).open(&left).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
        folder.write("a", &[b"again"]).unwrap();
        let mut names: Vec<_> = fs::read_dir(outer.path().join("feeds"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["a", "b"]);
    }
}
