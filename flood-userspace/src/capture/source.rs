//! Where the bytes of a capture come from: a file, or a pipe whose data are kept; uncompressed or compressed.

use std::{
    error::Error,
    fs::File,
    io::{self, BufRead, BufReader, IsTerminal, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

use crate::file::open_given;

use super::{Capture, CaptureError};

/// How much data from a pipe is kept, bytes, as received (perhaps compressed): a capture is read more than once.
const LARGEST_PIPED: u64 = 1 << 30;

/// Magic numbers of captures, and of files that contain them compressed.
const MAGIC: [[u8; 4]; 8] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0xa1, 0xb2, 0xcd, 0x34],
    [0x34, 0xcd, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
    ZSTD,
];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// A zstd frame without data, which parallel compressors write first.
const ZSTD_SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];
const XZ: [u8; 4] = [0xfd, b'7', b'z', b'X'];
const BZIP2: [u8; 3] = *b"BZh";

/// The error that stopped reading, kept here because the capture parser does not pass it on.
pub(super) type Trouble = Arc<Mutex<Option<io::Error>>>;

/// A capture that can be read repeatedly from its beginning.
pub struct Source {
    path: PathBuf,
    file: Arc<File>,
}

impl Source {
    /// Opens a capture; `-` is standard input. Anything but a regular file is read to its end first, as long as it
    /// begins like a capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let open = || {
            let file = open_given(path)?;
            if file.is_terminal() {
                return Err(io::Error::other("this is a terminal, and no capture"));
            }
            if file.metadata()?.is_file() { Ok(file) } else { keep(file) }
        };
        let file = open().map_err(|source| CaptureError::Read { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), file: Arc::new(file) })
    }

    /// Reads the capture from its beginning.
    pub fn read(&self) -> Result<Capture, CaptureError> {
        let read_error = |source| CaptureError::Read { path: self.path.clone(), source };
        let file = Positioned { file: Arc::clone(&self.file), position: 0 };
        let mut bytes = BufReader::new(file);
        let first = bytes.fill_buf().map_err(read_error)?;
        let trouble = Trouble::default();
        let reader: Box<dyn Read + Send> = if first.starts_with(&GZIP) {
            Box::new(MultiGzDecoder::new(bytes))
        } else if first.starts_with(&ZSTD) || first.get(1..4) == Some(&ZSTD_SKIPPABLE) {
            Box::new(Zstd { bytes, decoder: FrameDecoder::new(), is_within: false })
        } else if first.starts_with(&XZ) || first.starts_with(&BZIP2) {
            let with = if first.starts_with(&XZ) { "unxz" } else { "bunzip2" };
            return Err(CaptureError::Compressed { path: self.path.clone(), with });
        } else {
            Box::new(bytes)
        };
        let reader = Watched { reader, trouble: Arc::clone(&trouble) };
        Capture::new(self.path.clone(), reader, trouble)
    }
}

/// Copies data from a pipe into a file without a name.
pub(super) fn keep(mut pipe: File) -> io::Result<File> {
    let mut first = [0; 4];
    let mut have = 0;
    while have < first.len() {
        match pipe.read(&mut first[have..])? {
            0 => break,
            more => have += more,
        }
    }
    let mut file = tempfile::tempfile()?;
    let first = &first[..have];
    // Data that cannot be a capture are not worth keeping: they may have no end.
    let begins = first.starts_with(&GZIP)
        || first.get(1..4) == Some(&ZSTD_SKIPPABLE)
        || MAGIC.iter().any(|magic| first == magic);
    file.write_all(first)?;
    if begins {
        let kept = io::copy(&mut pipe.take(LARGEST_PIPED + 1), &mut file)?;
        if kept > LARGEST_PIPED {
            let message = "more than 1 GiB through a pipe: write it to a file first";
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
        }
    }
    Ok(file)
}

/// A file that is read at its own position.
struct Positioned {
    file: Arc<File>,
    position: u64,
}

impl Read for Positioned {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// A reader that reports its end where it fails, and keeps the error: what came before is still part of the capture.
pub(super) struct Watched {
    reader: Box<dyn Read + Send>,
    trouble: Trouble,
}

impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        match self.reader.read(buffer) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                *trouble = Some(error);
                Ok(0)
            }
            read => read,
        }
    }
}

/// A sequence of zstd frames. None needs more memory than the decoder's limit on windows, 128 MiB.
struct Zstd<R> {
    bytes: R,
    decoder: FrameDecoder,
    is_within: bool,
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { bytes, decoder, is_within } = self;
        loop {
            while !*is_within {
                if bytes.fill_buf()?.is_empty() {
                    return Ok(0);
                }
                match decoder.init(&mut *bytes) {
                    Ok(()) => *is_within = true,
                    Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                        length,
                        ..
                    })) => {
                        io::copy(&mut bytes.by_ref().take(length.into()), &mut io::sink())?;
                    }
                    Err(error) => {
                        return Err(broken(error));
                    }
                }
            }
            while decoder.can_collect() == 0 && !decoder.is_finished() {
                if let Err(error) = decoder.decode_blocks(&mut *bytes, BlockDecodingStrategy::UptoBlocks(1)) {
                    return Err(broken(error));
                }
            }
            match decoder.read(buffer)? {
                0 if !buffer.is_empty() => *is_within = false,
                read => return Ok(read),
            }
        }
    }
}

/// Converts an error, by whether a frame is damaged or only truncated.
fn broken(error: FrameDecoderError) -> io::Error {
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    let is_cut = causes
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::UnexpectedEof);
    io::Error::new(if is_cut { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::InvalidData }, error)
}
