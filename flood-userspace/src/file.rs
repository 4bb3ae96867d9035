//! Reads files that an operator names: a configuration, a list, a copy of a feed, a capture.
//!
//! The path may lead to something else: a pipe that nobody writes to, an endless device, a folder. None of them
//! blocks the reader or fills the memory.

use std::{
    fs::{File, Metadata},
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
};

/// Opens a regular file. Anything else is refused, naming its kind, before anything is read or waited for. Follows
/// symbolic links.
pub fn open(path: &Path) -> io::Result<(File, Metadata)> {
    // Opening a pipe would wait for its writer.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    match kind(&metadata) {
        None => Ok((file, metadata)),
        Some(kind) => Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it is {kind} and no file"))),
    }
}

/// Returns what it is, if not a regular file.
fn kind(metadata: &Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some("a pipe"),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// Reads a whole file of at most `most` bytes; a larger one is an error that names the bound.
pub fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let (file, metadata) = open(path)?;
    read_from(file, metadata.len(), most)
}

/// Does the same for UTF-8 text.
pub fn read_to_string(path: &Path, most: u64) -> io::Result<String> {
    String::from_utf8(read(path, most)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("it is not text: {error}")))
}

/// Opens a file for an interactive caller, who can interrupt it: `-` is standard input, and what the command was
/// started with (`/dev/stdin`, the shell's `<(…)`) may be a pipe.
pub fn open_given(path: &Path) -> io::Result<File> {
    if path == Path::new("-") {
        io::stdin().as_fd().try_clone_to_owned().map(File::from)
    } else if is_inherited(path) {
        File::open(path)
    } else {
        open(path).map(|(file, _)| file)
    }
}

/// Does what [`read`] does, for the same files.
pub fn read_given(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    read_from(open_given(path)?, 0, most)
}

/// Returns whether [`open_given`] opens something that the process was started with, which may have no name of its
/// own.
pub fn is_given(path: &Path) -> bool {
    path == Path::new("-") || is_inherited(path)
}

/// Returns whether a path names something that this process was started with.
fn is_inherited(path: &Path) -> bool {
    path == Path::new("/dev/stdin") || path.starts_with("/dev/fd") || path.starts_with("/proc/self/fd")
}

fn read_from(from: impl Read, expected: u64, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(most)).unwrap_or(0));
    from.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {}", size(most))));
    }
    Ok(bytes)
}

fn size(bytes: u64) -> String {
    if bytes >= 1 << 20 { format!("{} MiB", bytes >> 20) } else { format!("{bytes} bytes") }
}

#[cfg(test)]
mod tests {
    use std::{ffi::CString, fs, os::unix::net::UnixListener};

    use super::*;

    #[test]
    fn what_is_no_file_is_refused_by_its_kind_and_holds_up_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let pipe = CString::new(at("pipe").to_str().unwrap()).unwrap();
        // SAFETY: the path is a string that ends with a zero.
        assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", at("link")).unwrap();
        let cases = [
            (at("pipe"), "it is a pipe and no file"),
            (at(""), "it is a folder and no file"),
            ("/dev/zero".into(), "it is a device and no file"),
            (at("link"), "it is a device and no file"),
            (at("none"), "No such file"),
        ];
        for (path, expected) in cases {
            let error = read(&path, 10).unwrap_err().to_string();
            assert!(error.contains(expected), "{}: {error}", path.display());
        }
        assert!(read(&at("socket"), 10).is_err());
    }

    #[test]
    fn a_file_is_read_up_to_a_bound_that_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "0123456789").unwrap();
        assert_eq!(read(&path, 10).unwrap(), b"0123456789");
        assert_eq!(read(&path, 9).unwrap_err().to_string(), "it has more than 9 bytes");
        assert_eq!(size(64 << 20), "64 MiB");
        // Files in /proc report a size of zero.
        assert!(!read(Path::new("/proc/self/status"), 1 << 20).unwrap().is_empty());
        fs::write(&path, b"\xff\xfe").unwrap();
        assert!(read_to_string(&path, 10).unwrap_err().to_string().contains("not text"));
    }
}
