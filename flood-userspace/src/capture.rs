//! Reading captures: pcap and pcapng of any size, frame by frame.
//!
//! Every frame is returned as an Ethernet frame, because that is what an XDP program sees: [`link`] removes the
//! encapsulation of another link type and adds an Ethernet header. A truncated frame is filled up to its original
//! length with zeros; otherwise its IP header would announce more than there is. Frames of link types that no filter
//! on an interface sees are skipped and counted.

mod link;
mod source;

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::PoisonError,
};

use pcap_parser::{
    Block, LegacyPcapBlock, PcapBlockOwned, PcapError, PcapHeader, create_reader,
    pcapng::{EnhancedPacketBlock, InterfaceDescriptionBlock, UnknownBlock},
    traits::PcapReaderIterator,
};
use thiserror::Error;

pub use source::Source;
use source::{Trouble, Watched};

/// Room for one block of a capture. The largest frames have 64 KiB.
const BUFFER_BYTES: usize = 1 << 20;

/// Truncated frames are filled up to this length at most; no real frame is longer.
const LONGEST_FRAME: usize = 1 << 18;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// What is wrong with a capture.
#[derive(Debug, Error)]
pub enum CaptureError {
    /// The file cannot be read.
    #[error("{path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not a capture at all.
    #[error("{path} is no capture: it begins neither like pcap nor like pcapng", path = path.display())]
    NotACapture {
        /// The file.
        path: PathBuf,
    },
    /// A compressed file.
    #[error("{path} is compressed: unpack it first ({with})", path = path.display())]
    Compressed {
        /// The file.
        path: PathBuf,
        /// What unpacks it.
        with: &'static str,
    },
    /// The file ends within a frame.
    #[error("{path} is cut short: it ends within what follows frame {after}", path = path.display())]
    CutShort {
        /// The file.
        path: PathBuf,
        /// Number of the last whole frame.
        after: u64,
    },
    /// The file is not a valid capture beyond a frame.
    #[error("{path} is damaged after frame {after}: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the last whole frame.
        after: u64,
        /// What is wrong.
        what: String,
    },
    /// No frame is of a kind that the filter sees.
    #[error("{path} has nothing that can be judged, only {frames} frames of {links}", path = path.display())]
    Nothing {
        /// The file.
        path: PathBuf,
        /// How many frames there are.
        frames: u64,
        /// Their link types.
        links: String,
    },
}

/// Whether a frame was received or sent by the host that captured it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Received.
    In,
    /// Sent.
    Out,
}

/// A frame of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its number, from 1, as in Wireshark.
    pub number: u64,
    /// When it was captured, nanoseconds since 1970, if the capture says so.
    pub time_ns: Option<u64>,
    /// Whether it was received or sent, if the capture says so.
    pub direction: Option<Direction>,
    /// The Ethernet frame, at its full length.
    pub bytes: &'a [u8],
}

/// A capture that is being read.
pub struct Capture {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    /// How to read the frames of each interface; a pcap file has one.
    interfaces: Vec<Interface>,
    big_endian: bool,
    number: u64,
    /// Number of frames whose link type the filter does not see, by link type.
    skipped: BTreeMap<i32, u64>,
    frame: Vec<u8>,
    trouble: Trouble,
}

/// How to read the frames of an interface.
#[derive(Clone, Copy)]
struct Interface {
    /// Number of the link type.
    link: i32,
    units_per_second: u64,
    offset_s: i64,
    /// Length at which frames were truncated; 0 for no limit.
    snap_length: u32,
}

/// A frame as it is in the file.
struct Record<'a> {
    interface: Interface,
    time_units: Option<u64>,
    direction: Option<Direction>,
    data: &'a [u8],
    original_length: usize,
}

impl Capture {
    /// Opens a capture that is read once.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        Source::open(path)?.read()
    }

    fn new(path: PathBuf, reader: Watched, trouble: Trouble) -> Result<Self, CaptureError> {
        let Ok(reader) = create_reader(BUFFER_BYTES, reader) else {
            return Err(in_reading(&path, 0, &trouble).unwrap_or(CaptureError::NotACapture { path }));
        };
        Ok(Self {
            path,
            reader,
            interfaces: Vec::new(),
            big_endian: false,
            number: 0,
            skipped: BTreeMap::new(),
            frame: Vec::new(),
            trouble,
        })
    }

    /// Returns how many frames so far were skipped because no filter on an interface sees their link type, by its
    /// name.
    pub fn skipped(&self) -> impl Iterator<Item = (String, u64)> {
        self.skipped.iter().map(|(link, frames)| (link::name(*link), *frames))
    }

    /// Returns an error if every frame was skipped.
    fn check_end(&self) -> Result<(), CaptureError> {
        let skipped: u64 = self.skipped.values().sum();
        if skipped == 0 || skipped < self.number {
            return Ok(());
        }
        let links: Vec<String> = self.skipped().map(|(link, _)| link).collect();
        Err(CaptureError::Nothing { path: self.path.clone(), frames: skipped, links: links.join(", ") })
    }

    /// Reads the next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        loop {
            let (size, block) = match self.reader.next() {
                Ok(next) => next,
                Err(PcapError::Eof) => {
                    in_reading(&self.path, self.number, &self.trouble).map_or(Ok(()), Err)?;
                    self.check_end()?;
                    return Ok(None);
                }
                Err(PcapError::Incomplete(_)) => {
                    let refilled = self.reader.refill();
                    refilled.map_err(|error| damage(&self.path, self.number, &self.trouble, &error))?;
                    continue;
                }
                Err(error) => return Err(damage(&self.path, self.number, &self.trouble, &error)),
            };
            let record = match block {
                PcapBlockOwned::LegacyHeader(header) => {
                    self.interfaces = vec![Interface::from_header(&header)];
                    self.big_endian = header.is_bigendian();
                    None
                }
                PcapBlockOwned::Legacy(block) => Some(Record::from_pcap(&self.interfaces, &block)),
                PcapBlockOwned::NG(Block::SectionHeader(header)) => {
                    self.interfaces.clear();
                    self.big_endian = header.big_endian();
                    None
                }
                PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                    self.interfaces.push(Interface::from_description(&block));
                    None
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                    Some(Record::from_enhanced(&self.interfaces, self.big_endian, &block))
                }
                PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                    Some(Record::from_simple(&self.interfaces, block.data, block.origlen))
                }
                PcapBlockOwned::NG(Block::Unknown(block)) => {
                    Record::from_obsolete(&self.interfaces, self.big_endian, &block)
                }
                PcapBlockOwned::NG(_) => None,
            };
            let record = match record {
                None => {
                    self.reader.consume(size);
                    continue;
                }
                Some(Ok(record)) => record,
                Some(Err(what)) => {
                    return Err(CaptureError::Damaged { path: self.path.clone(), after: self.number, what });
                }
            };
            self.number += 1;
            let time_ns = record.time_units.map(|units| record.interface.time_ns(units));
            let link = record.interface.link;
            let found = record.write(self.big_endian, &mut self.frame);
            self.reader.consume(size);
            match found {
                None => *self.skipped.entry(link).or_default() += 1,
                Some(direction) => {
                    return Ok(Some(Frame { number: self.number, time_ns, direction, bytes: &self.frame }));
                }
            }
        }
    }
}

/// Returns the read error, if there was one.
fn in_reading(path: &Path, after: u64, trouble: &Trouble) -> Option<CaptureError> {
    let path = path.to_owned();
    let source = trouble.lock().unwrap_or_else(PoisonError::into_inner).take()?;
    Some(match source.kind() {
        // Within compressed data.
        io::ErrorKind::UnexpectedEof => CaptureError::CutShort { path, after },
        _ => CaptureError::Read { path, source },
    })
}

fn damage(path: &Path, after: u64, trouble: &Trouble, error: &PcapError<&[u8]>) -> CaptureError {
    if let Some(error) = in_reading(path, after, trouble) {
        return error;
    }
    let path = path.to_owned();
    let what = match error {
        PcapError::UnexpectedEof | PcapError::Incomplete(_) => return CaptureError::CutShort { path, after },
        PcapError::BufferTooSmall => format!("a block of more than {BUFFER_BYTES} bytes"),
        PcapError::ReadError => "reading failed".to_owned(),
        _ => "what follows is no block of a capture".to_owned(),
    };
    CaptureError::Damaged { path, after, what }
}

impl Interface {
    fn from_header(header: &PcapHeader) -> Self {
        Self {
            link: header.network.0 & 0xffff, // the upper bits are flags about frame check sequences
            units_per_second: if header.is_nanosecond_precision() { NANOS_PER_SECOND } else { 1_000_000 },
            offset_s: 0,
            snap_length: header.snaplen,
        }
    }

    fn from_description(block: &InterfaceDescriptionBlock<'_>) -> Self {
        // The parser's own function for this option does not support powers of two.
        let exponent = u32::from(block.if_tsresol & 0x7f);
        let base: u64 = if block.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        Self {
            link: block.linktype.0,
            units_per_second: base.checked_pow(exponent).unwrap_or(u64::MAX),
            offset_s: block.if_tsoffset,
            snap_length: block.snaplen,
        }
    }

    fn time_ns(&self, units: u64) -> u64 {
        let units = u128::from(units) * u128::from(NANOS_PER_SECOND) / u128::from(self.units_per_second);
        let offset = i128::from(self.offset_s) * i128::from(NANOS_PER_SECOND);
        let total = i128::try_from(units).unwrap_or(i128::MAX).saturating_add(offset);
        u64::try_from(total.max(0)).unwrap_or(u64::MAX)
    }
}

/// Returns the interface with this number.
fn described(interfaces: &[Interface], number: u32) -> Result<Interface, String> {
    let interface = interfaces.get(number as usize).copied();
    interface.ok_or_else(|| format!("it names interface {number}, which is not described"))
}

impl<'a> Record<'a> {
    fn from_pcap(interfaces: &[Interface], block: &LegacyPcapBlock<'a>) -> Result<Self, String> {
        let interface = described(interfaces, 0)?;
        Ok(Self {
            interface,
            time_units: Some(u64::from(block.ts_sec) * interface.units_per_second + u64::from(block.ts_usec)),
            direction: None,
            data: block.data,
            original_length: block.origlen as usize,
        })
    }

    fn from_enhanced(
        interfaces: &[Interface],
        big_endian: bool,
        block: &EnhancedPacketBlock<'a>,
    ) -> Result<Self, String> {
        /// The option with flags, whose lowest two bits are the direction.
        const FLAGS: u16 = 2;

        let flags = block.options.iter().find(|option| option.code.0 == FLAGS);
        let flags = flags.and_then(|option| option.value.first_chunk()).map(|value| word(big_endian, *value));
        Ok(Self {
            interface: described(interfaces, block.if_id)?,
            time_units: Some(u64::from(block.ts_high) << 32 | u64::from(block.ts_low)),
            direction: match flags.unwrap_or(0) & 3 {
                1 => Some(Direction::In),
                2 => Some(Direction::Out),
                _ => None,
            },
            data: block.data.get(..block.caplen as usize).ok_or(TOO_SHORT)?,
            original_length: block.origlen as usize,
        })
    }

    /// Reads a simple packet block. It has no time and no length but the original one: truncated data end at the snap
    /// length, and up to three bytes of padding follow.
    fn from_simple(interfaces: &[Interface], data: &'a [u8], original_length: u32) -> Result<Self, String> {
        let interface = described(interfaces, 0)?;
        let snap = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
        let captured = (original_length.min(snap) as usize).min(data.len());
        Ok(Self {
            interface,
            time_units: None,
            direction: None,
            data: &data[..captured],
            original_length: original_length as usize,
        })
    }

    /// Reads a packet block, the obsolete predecessor of the enhanced one: number of the interface and count of drops
    /// in two bytes each, then the same fields. Returns `None` for any other unknown block.
    fn from_obsolete(
        interfaces: &[Interface],
        big_endian: bool,
        block: &UnknownBlock<'a>,
    ) -> Option<Result<Self, String>> {
        const PACKET_BLOCK: u32 = 2;

        // The parser decodes the type as little-endian.
        let kind = if big_endian { block.block_type.swap_bytes() } else { block.block_type };
        if kind != PACKET_BLOCK {
            return None;
        }
        let read = || {
            let (header, data) = block.data.split_first_chunk::<20>().ok_or(TOO_SHORT)?;
            let (number, words) = header.split_at(4);
            let number: [u8; 2] = [number[0], number[1]];
            let number = if big_endian { u16::from_be_bytes(number) } else { u16::from_le_bytes(number) };
            let (words, _) = words.as_chunks::<4>();
            let words: Vec<u32> = words.iter().map(|bytes| word(big_endian, *bytes)).collect();
            let [high, low, captured, original] = words[..] else { return Err(TOO_SHORT.into()) };
            Ok(Self {
                interface: described(interfaces, number.into())?,
                time_units: Some(u64::from(high) << 32 | u64::from(low)),
                direction: None,
                data: data.get(..captured as usize).ok_or(TOO_SHORT)?,
                original_length: original as usize,
            })
        };
        Some(read())
    }

    /// Writes the Ethernet frame and returns its direction; `None` if the filter does not see such frames.
    fn write(&self, big_endian: bool, frame: &mut Vec<u8>) -> Option<Option<Direction>> {
        let unwrapped = link::unwrap(self.interface.link, big_endian, self.data)?;
        unwrapped.write(frame);
        let missing = self.original_length.saturating_sub(self.data.len());
        if frame.len() + missing <= LONGEST_FRAME {
            frame.resize(frame.len() + missing, 0);
        }
        Some(self.direction.or(unwrapped.direction))
    }
}

/// The error for a block that ends before its packet does.
const TOO_SHORT: &str = "a block is shorter than the packet in it";

fn word(big_endian: bool, bytes: [u8; 4]) -> u32 {
    if big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}

#[cfg(test)]
mod tests;
