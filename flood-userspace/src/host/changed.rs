//! Settings that this program changes on the host. Each is recorded before it is changed, so that the next start can
//! restore it if this process is killed.
//!
//! A note counts as long as no process holds a lock on its file, which the kernel releases when the process ends, and
//! only in the boot and in the network namespace in which it was written: elsewhere it is a different setting.

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read},
    os::{fd::AsRawFd, unix::net::UnixDatagram},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{file, state::Folder};

/// A setting that was changed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// The previous value.
    pub before: String,
    /// The new value.
    pub set: String,
}

#[derive(Serialize, Deserialize)]
struct Note {
    boot: String,
    /// The file of the setting, for people.
    setting: PathBuf,
    #[serde(flatten)]
    change: Change,
}

/// The notes about changes of one setting.
#[derive(Debug)]
pub struct Changes {
    setting: PathBuf,
    folder: Folder,
}

/// A note whose lock we hold.
#[derive(Debug)]
pub struct Kept {
    /// Contents of the note.
    pub change: Change,
    path: PathBuf,
    /// Locked.
    _file: File,
}

/// Longer than any note, bytes.
const LONGEST: u64 = 64 << 10;

impl Changes {
    /// Returns the notes about the setting in this file, within the state folder.
    pub fn of(setting: &Path, state: &Path) -> Self {
        Self { setting: setting.to_owned(), folder: Folder::at(state.join("changed")) }
    }

    /// Writes a note about a change that is about to be made. It is on disk when this returns.
    pub fn note(&self, change: Change) -> io::Result<Kept> {
        let name = self.name()?;
        match self.open(&name) {
            Ok(other) => drop(other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let note = Note { boot: boot()?, setting: self.setting.clone(), change: change.clone() };
        let lock = |file: &File| Ok(file.try_lock()?);
        let file = self.folder.write_held(&name, &[&serde_json::to_vec(&note)?], lock)?;
        Ok(Kept { change, path: self.folder.file(&name), _file: file })
    }

    /// Returns the change of a process that ended without restoring it.
    pub fn left(&self) -> io::Result<Option<Kept>> {
        self.folder.check()?;
        let name = self.name()?;
        let path = self.folder.file(&name);
        let file = match self.open(&name) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::WouldBlock) => {
                return Ok(None);
            }
            file => file?,
        };
        let mut text = Vec::new();
        (&file).take(LONGEST).read_to_end(&mut text)?;
        match serde_json::from_slice::<Note>(&text) {
            Ok(Note { boot: when, change, .. }) if when == boot()? => {
                Ok(Some(Kept { change, path, _file: file }))
            }
            // After another boot the setting has its default again. A note that cannot be read was never complete, so
            // nothing was changed.
            Ok(_) | Err(_) => {
                fs::remove_file(&path)?;
                Ok(None)
            }
        }
    }

    /// Opens and locks a note. An error if another process holds it.
    fn open(&self, name: &str) -> io::Result<File> {
        let (file, _) = file::open(&self.folder.file(name))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!("another floodgate that runs has changed {}", self.setting.display()),
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn name(&self) -> io::Result<String> {
        let name = self.setting.file_name().unwrap_or_default().to_string_lossy();
        Ok(format!("{name}.{:x}", namespace()?))
    }
}

impl Kept {
    /// Removes the note: the setting has been restored.
    pub fn forget(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
}

/// Returns the kernel's identifier of this boot.
fn boot() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// Returns the kernel's number of this network namespace, which is unique until the next boot.
fn namespace() -> io::Result<u64> {
    /// From asm-generic/socket.h; since Linux 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;

    let socket = UnixDatagram::unbound()?;
    let (mut cookie, mut length) = (0_u64, size_of::<u64>() as libc::socklen_t);
    // SAFETY: the kernel writes no more than `length` bytes into `cookie`, which has them.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Change {
        Change { before: "1".into(), set: "2".into() }
    }

    #[test]
    fn what_was_changed_is_left_to_the_next_unless_it_was_put_back() {
        let state = tempfile::tempdir().unwrap();
        let changes = Changes::of(Path::new("/proc/sys/net/ipv4/tcp_syncookies"), &state.path().join("deep"));
        assert!(changes.left().unwrap().is_none(), "nothing was noted");
        let kept = changes.note(change()).unwrap();
        assert!(changes.left().unwrap().is_none(), "its holder lives");
        let error = changes.note(change()).unwrap_err();
        assert!(error.to_string().contains("another floodgate"), "{error}");
        drop(kept);
        let left = changes.left().unwrap().unwrap();
        assert_eq!(left.change, change());
        left.forget().unwrap();
        assert!(changes.left().unwrap().is_none());
        assert_eq!(fs::read_dir(state.path().join("deep/changed")).unwrap().count(), 0);
    }

    #[test]
    fn a_note_of_another_boot_and_one_that_is_not_whole_say_nothing() {
        let state = tempfile::tempdir().unwrap();
        let changes = Changes::of(Path::new("/proc/sys/net/ipv4/tcp_syncookies"), state.path());
        for spoil in
            [|text: String| text.replacen("boot\":\"", "boot\":\"0", 1), |text: String| text[..20].into()]
        {
            drop(changes.note(change()).unwrap());
            let path = changes.folder.file(&changes.name().unwrap());
            fs::write(&path, spoil(fs::read_to_string(&path).unwrap())).unwrap();
            assert!(changes.left().unwrap().is_none());
            assert!(!path.exists());
        }
    }

    #[test]
    fn a_note_is_of_one_network_namespace() {
        assert_eq!(namespace().unwrap(), namespace().unwrap());
    }
}
