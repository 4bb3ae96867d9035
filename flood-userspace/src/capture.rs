//! Reading captures: pcap and pcapng, frame by frame, whatever their size.
//!
//! Every frame comes out as an Ethernet frame, because that is what an XDP program sees: a link type that carries
//! bare IP packets gets a header made up for it. A frame of which only the beginning was captured is filled up to
//! its length with zeros, for otherwise its IP header would announce more than there is.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::{Path, PathBuf},
};

use pcap_parser::{
    Block, LegacyPcapBlock, Linktype, PcapBlockOwned, PcapError, PcapHeader, create_reader,
    pcapng::{EnhancedPacketBlock, InterfaceDescriptionBlock},
    traits::PcapReaderIterator,
};
use thiserror::Error;

/// Room for one block of a capture. The largest frames have 64 KiB.
const BUFFER_BYTES: usize = 1 << 20;

/// Up to here frames that were cut are filled up; a length beyond it is no frame's.
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
    /// The file does not go on as a capture.
    #[error("{path} is damaged after frame {after}: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Number of the last whole frame.
        after: u64,
        /// What is wrong.
        what: String,
    },
    /// Frames of a kind that XDP never sees.
    #[error(
        "{path}: frame {number} is of link type {link}, which is neither Ethernet nor bare IP",
        path = path.display()
    )]
    LinkType {
        /// The file.
        path: PathBuf,
        /// Number of the frame.
        number: u64,
        /// Number of the link type (<https://www.tcpdump.org/linktypes.html>).
        link: i32,
    },
}

/// A frame of a capture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// Its number, from 1, as in Wireshark.
    pub number: u64,
    /// When it was captured, nanoseconds since 1970.
    pub time_ns: u64,
    /// The Ethernet frame, at its full length.
    pub bytes: &'a [u8],
}

/// A capture that is being read.
pub struct Capture {
    path: PathBuf,
    reader: Box<dyn PcapReaderIterator + Send>,
    /// How to read the frames of each interface; a pcap file has one.
    interfaces: Vec<Interface>,
    number: u64,
    frame: Vec<u8>,
}

/// How frames of an interface are to be read.
#[derive(Clone, Copy)]
struct Interface {
    link: Linktype,
    units_per_second: u64,
    offset_s: i64,
    /// Length at which frames were cut; 0 for none.
    snap_length: u32,
}

/// A frame as the file has it.
struct Record<'a> {
    interface: Interface,
    time_units: u64,
    data: &'a [u8],
    original_length: usize,
}

impl Capture {
    /// Opens a capture.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let read_error = |source| CaptureError::Read { path: path.to_owned(), source };
        let mut file = BufReader::new(File::open(path).map_err(read_error)?);
        let with = match *file.fill_buf().map_err(read_error)? {
            [0x1f, 0x8b, ..] => Some("gunzip"),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("unzstd"),
            [0xfd, b'7', b'z', b'X', ..] => Some("unxz"),
            _ => None,
        };
        if let Some(with) = with {
            return Err(CaptureError::Compressed { path: path.to_owned(), with });
        }
        let reader = create_reader(BUFFER_BYTES, file).map_err(|error| match error {
            PcapError::ReadError => read_error(io::Error::other("reading failed")),
            _ => CaptureError::NotACapture { path: path.to_owned() },
        })?;
        Ok(Self { path: path.to_owned(), reader, interfaces: Vec::new(), number: 0, frame: Vec::new() })
    }

    /// Reads the next frame; `None` at the end.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, CaptureError> {
        loop {
            let (size, block) = match self.reader.next() {
                Ok(next) => next,
                Err(PcapError::Eof) => return Ok(None),
                Err(PcapError::Incomplete(_)) => {
                    self.reader.refill().map_err(|error| damage(&self.path, self.number, &error))?;
                    continue;
                }
                Err(error) => return Err(damage(&self.path, self.number, &error)),
            };
            let record = match block {
                PcapBlockOwned::LegacyHeader(header) => {
                    self.interfaces = vec![Interface::from_header(&header)];
                    None
                }
                PcapBlockOwned::Legacy(block) => Record::from_pcap(&self.interfaces, &block),
                PcapBlockOwned::NG(Block::SectionHeader(_)) => {
                    self.interfaces.clear();
                    None
                }
                PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                    self.interfaces.push(Interface::from_description(&block));
                    None
                }
                PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                    let Some(record) = Record::from_enhanced(&self.interfaces, &block) else {
                        let what = format!("it names interface {}, which is not described", block.if_id);
                        return Err(CaptureError::Damaged {
                            path: self.path.clone(),
                            after: self.number,
                            what,
                        });
                    };
                    Some(record)
                }
                PcapBlockOwned::NG(Block::SimplePacket(block)) => {
                    Record::from_simple(&self.interfaces, block.data, block.origlen)
                }
                PcapBlockOwned::NG(_) => None,
            };
            let Some(record) = record else {
                self.reader.consume(size);
                continue;
            };
            self.number += 1;
            let time_ns = record.interface.time_ns(record.time_units);
            let link = record.interface.link;
            let known = record.write(&mut self.frame);
            self.reader.consume(size);
            if !known {
                return Err(CaptureError::LinkType {
                    path: self.path.clone(),
                    number: self.number,
                    link: link.0,
                });
            }
            return Ok(Some(Frame { number: self.number, time_ns, bytes: &self.frame }));
        }
    }
}

fn damage(path: &Path, after: u64, error: &PcapError<&[u8]>) -> CaptureError {
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
            link: Linktype(header.network.0 & 0xffff), // above are flags about frame check sequences
            units_per_second: if header.is_nanosecond_precision() { NANOS_PER_SECOND } else { 1_000_000 },
            offset_s: 0,
            snap_length: header.snaplen,
        }
    }

    fn from_description(block: &InterfaceDescriptionBlock<'_>) -> Self {
        // The parser's own reading of this option takes no powers of two.
        let exponent = u32::from(block.if_tsresol & 0x7f);
        let base: u64 = if block.if_tsresol & 0x80 == 0 { 10 } else { 2 };
        Self {
            link: block.linktype,
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

impl<'a> Record<'a> {
    fn from_pcap(interfaces: &[Interface], block: &LegacyPcapBlock<'a>) -> Option<Self> {
        let interface = *interfaces.first()?;
        Some(Self {
            interface,
            time_units: u64::from(block.ts_sec) * interface.units_per_second + u64::from(block.ts_usec),
            data: block.data,
            original_length: block.origlen as usize,
        })
    }

    fn from_enhanced(interfaces: &[Interface], block: &EnhancedPacketBlock<'a>) -> Option<Self> {
        Some(Self {
            interface: *interfaces.get(block.if_id as usize)?,
            time_units: u64::from(block.ts_high) << 32 | u64::from(block.ts_low),
            data: block.data.get(..block.caplen as usize)?,
            original_length: block.origlen as usize,
        })
    }

    /// A simple packet block has no time, and no length but the original one: data that were cut end at the snap
    /// length, and all are followed by up to three bytes of padding.
    fn from_simple(interfaces: &[Interface], data: &'a [u8], original_length: u32) -> Option<Self> {
        let interface = *interfaces.first()?;
        let snap = if interface.snap_length == 0 { u32::MAX } else { interface.snap_length };
        let captured = (original_length.min(snap) as usize).min(data.len());
        Some(Self {
            interface,
            time_units: 0,
            data: &data[..captured],
            original_length: original_length as usize,
        })
    }

    /// Writes the Ethernet frame; false when the link type has none.
    fn write(&self, frame: &mut Vec<u8>) -> bool {
        frame.clear();
        let Some((ethertype, skip)) = self.link_header() else {
            return false;
        };
        if let Some(ethertype) = ethertype {
            frame.extend([0; 12]);
            frame.extend(ethertype);
        }
        frame.extend(self.data.get(skip..).unwrap_or_default());
        let missing = self.original_length.saturating_sub(self.data.len());
        if frame.len() + missing <= LONGEST_FRAME {
            frame.resize(frame.len() + missing, 0);
        }
        true
    }

    /// The EtherType that the link layer's header stands for, and the length of that header. Ethernet is what it is.
    fn link_header(&self) -> Option<(Option<[u8; 2]>, usize)> {
        const IPV4: [u8; 2] = [0x08, 0x00];
        const IPV6: [u8; 2] = [0x86, 0xdd];

        let bytes_at =
            |at: usize| self.data.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or_default();
        let by_version = |at: usize| match self.data.get(at).map(|byte| byte >> 4) {
            Some(6) => IPV6,
            _ => IPV4,
        };
        Some(match self.interface.link {
            Linktype::ETHERNET => (None, 0),
            Linktype::RAW | Linktype(12 | 14) => (Some(by_version(0)), 0),
            Linktype::IPV4 => (Some(IPV4), 0),
            Linktype::IPV6 => (Some(IPV6), 0),
            // Four bytes that name the address family in numbers that differ between systems.
            Linktype::NULL | Linktype::LOOP => (Some(by_version(4)), 4),
            Linktype::LINUX_SLL => (Some(bytes_at(14)), 16),
            Linktype::LINUX_SLL2 => (Some(bytes_at(0)), 20),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
