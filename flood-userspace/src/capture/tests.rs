use std::{
    fs::File,
    io::{self, Write},
    os::fd::AsRawFd,
};

use super::{source::keep, *};

/// A frame as the reader gives it, to be compared.
type Read = (u64, Option<u64>, Vec<u8>);

fn open(bytes: &[u8]) -> Result<Capture, CaptureError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Capture::open(file.path())
}

fn read(bytes: &[u8]) -> (Vec<Read>, Option<String>) {
    let mut frames = Vec::new();
    let mut capture = match open(bytes) {
        Ok(capture) => capture,
        Err(error) => return (frames, Some(error.to_string())),
    };
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => frames.push((frame.number, frame.time_ns, frame.bytes.to_vec())),
            Ok(None) => return (frames, None),
            Err(error) => return (frames, Some(error.to_string())),
        }
    }
}

/// Numbers in the byte order of a file.
#[derive(Clone, Copy)]
struct Order {
    big: bool,
}

const LITTLE: Order = Order { big: false };
const BIG: Order = Order { big: true };

impl Order {
    fn words(self, words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| if self.big { word.to_be_bytes() } else { word.to_le_bytes() }).collect()
    }

    fn half(self, half: u16) -> [u8; 2] {
        if self.big { half.to_be_bytes() } else { half.to_le_bytes() }
    }

    fn pcap(self, magic: u32, link: u32, frames: &[(u32, u32, u32, &[u8])]) -> Vec<u8> {
        let mut file = self.words(&[magic]);
        file.extend(self.half(2));
        file.extend(self.half(4));
        file.extend(self.words(&[0, 0, 65_535, link]));
        for (seconds, fraction, original, data) in frames {
            file.extend(self.words(&[*seconds, *fraction, data.len() as u32, *original]));
            file.extend(*data);
        }
        file
    }

    fn block(self, kind: u32, body: &[u8]) -> Vec<u8> {
        let length = 12 + body.len() as u32;
        [self.words(&[kind, length]), body.to_vec(), self.words(&[length])].concat()
    }

    fn section(self) -> Vec<u8> {
        let version = [self.half(1), self.half(0)].concat();
        let body = [self.words(&[0x1a2b_3c4d]), version, vec![0xff; 8]].concat();
        self.block(0x0a0d_0d0a, &body)
    }

    fn interface(self, link: u16, resolution: Option<u8>) -> Vec<u8> {
        let mut body = [self.half(link).to_vec(), vec![0, 0], self.words(&[0])].concat();
        if let Some(resolution) = resolution {
            body.extend(self.half(9));
            body.extend(self.half(1));
            body.extend([resolution, 0, 0, 0, 0, 0, 0, 0]);
        }
        self.block(1, &body)
    }

    fn packet(self, interface: u32, time: u64, data: &[u8]) -> Vec<u8> {
        let length = data.len() as u32;
        let mut body = self.words(&[interface, (time >> 32) as u32, time as u32, length, length]);
        body.extend(data);
        body.resize(body.len().next_multiple_of(4), 0);
        self.block(6, &body)
    }
}

const ETHERNET: u32 = 1;
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;

#[test]
fn pcap_is_read_in_both_orders_and_both_resolutions() {
    let frames: &[(u32, u32, u32, &[u8])] = &[(1, 5, 3, b"abc"), (2, 6, 2, b"de")];
    for order in [LITTLE, BIG] {
        for (magic, unit_ns) in [(MICROSECONDS, 1_000), (NANOSECONDS, 1)] {
            let (read, error) = read(&order.pcap(magic, ETHERNET, frames));
            let expected: Vec<Read> = vec![
                (1, Some(NANOS_PER_SECOND + 5 * unit_ns), b"abc".to_vec()),
                (2, Some(2 * NANOS_PER_SECOND + 6 * unit_ns), b"de".to_vec()),
            ];
            assert_eq!((read, error), (expected, None));
        }
    }
}

#[test]
fn pcapng_is_read_with_the_clock_of_each_interface_and_in_several_sections() {
    for order in [LITTLE, BIG] {
        let file = [
            order.section(),
            order.interface(1, None),
            order.interface(1, Some(9)),
            order.interface(1, Some(0x80 | 10)),
            order.packet(0, 7, b"microseconds"),
            order.packet(1, 7, b"nanoseconds"),
            order.block(0x0bad, b"some other block"),
            order.packet(2, 512, b"half a second in 1024ths"),
            order.section(),
            order.interface(101, None),
            order.block(3, &[order.words(&[5]), b"Eabcd\0\0\0".to_vec()].concat()),
        ]
        .concat();
        let (read, error) = read(&file);
        assert_eq!(error, None);
        let times: Vec<_> = read.iter().map(|(_, time_ns, _)| *time_ns).collect();
        assert_eq!(times, [Some(7_000), Some(7), Some(NANOS_PER_SECOND / 2), None]);
        assert_eq!(read[3].2, b"\0\0\0\0\0\0\0\0\0\0\0\0\x08\0Eabcd");
    }
}

/// The obsolete packet block: interface, drops, time, lengths, data.
fn obsolete(order: Order, interface: u16, time: u64, data: &[u8]) -> Vec<u8> {
    let length = data.len() as u32;
    let words = order.words(&[(time >> 32) as u32, time as u32, length, length + 1]);
    let mut body = [order.half(interface).to_vec(), order.half(9).to_vec(), words, data.to_vec()].concat();
    body.resize(body.len().next_multiple_of(4), 0);
    order.block(2, &body)
}

#[test]
fn the_obsolete_packet_block_is_read() {
    for order in [LITTLE, BIG] {
        let start = [order.section(), order.interface(1, None), order.interface(1, Some(9))].concat();
        let file =
            [start.clone(), obsolete(order, 1, 1 << 33, b"abcde"), order.packet(0, 7, b"new")].concat();
        let (read, error) = read(&file);
        assert_eq!(error, None);
        assert_eq!(read, [(1, Some(1 << 33), b"abcde\0".to_vec()), (2, Some(7_000), b"new".to_vec())]);
        for (why, block) in [
            ("an interface that is not there", obsolete(order, 2, 0, b"x")),
            ("shorter than its header", order.block(2, &[0; 16])),
            ("shorter than its packet", order.block(2, &[&[0; 12][..], &[0xff; 8]].concat())),
        ] {
            let (read, error) = self::read(&[start.clone(), block].concat());
            assert!(read.is_empty() && error.is_some_and(|error| error.contains("damaged")), "{why}");
        }
    }
}

#[test]
fn every_link_type_that_carries_ip_becomes_ethernet() {
    let made_up = |ethertype: [u8; 2], rest: &[u8]| [&[0; 12][..], &ethertype, rest].concat();
    let session =
        |rest: &[u8]| made_up([0x88, 0x64], &[&[0x11, 0, 0, 1, 0, rest.len() as u8], rest].concat());
    let sll = [&[0; 14][..], &[0x86, 0xdd], b"rest"].concat();
    let sll2 = [&[0x08, 0x06][..], &[0; 18], b"rest"].concat();
    // The length of the header, without the padding that aligns the packet; then 60 bytes, of which the last is the
    // direction.
    let pflog = |length: u8| [&[length][..], &[0; 59], &[1], &[0; 3], b"`..."].concat();
    let cases: [(&str, u32, &[u8], Vec<u8>); 17] = [
        ("Ethernet", 1, b"as it is", b"as it is".to_vec()),
        ("raw IPv4", 101, b"E...", made_up([8, 0], b"E...")),
        ("raw IPv6", 101, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("raw, by its BSD number", 12, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("IPv6 only", 229, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("loopback", 0, b"\x02\0\0\0E...", made_up([8, 0], b"E...")),
        ("cooked", 113, &sll, made_up([0x86, 0xdd], b"rest")),
        ("cooked, version 2", 276, &sll2, made_up([8, 6], b"rest")),
        ("PPP", 9, b"\xff\x03\0\x21E...", session(b"\0\x21E...")),
        ("PPP without address and control", 9, b"\x21E...", session(b"\x21E...")),
        ("PPP on a serial line", 50, b"\xff\x03\0\x57`...", session(b"\0\x57`...")),
        ("PPP with direction", 166, b"\x01\xff\x03\0\x21E...", session(b"\0\x21E...")),
        ("HDLC of Cisco", 104, b"\x0f\0\x08\0E...", made_up([8, 0], b"E...")),
        ("PPPoE session", 51, b"\x11\0..", made_up([0x88, 0x64], b"\x11\0..")),
        ("PPPoE discovery", 51, b"\x11\x09..", made_up([0x88, 0x63], b"\x11\x09..")),
        ("pflog", 117, &pflog(61), made_up([0x86, 0xdd], b"`...")),
        ("pflog, of another length", 117, &pflog(64), made_up([0x86, 0xdd], b"`...")),
    ];
    for (why, link, data, expected) in cases {
        let (read, error) = read(&LITTLE.pcap(MICROSECONDS, link, &[(0, 0, data.len() as u32, data)]));
        assert_eq!(error, None, "{why}");
        assert_eq!(read[0].2, expected, "{why}");
    }
}

/// An attribute of NFLOG.
fn attribute(order: Order, kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len() as u16;
    let mut bytes = [&order.half(length)[..], &order.half(kind), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

#[test]
fn which_way_a_frame_went_is_read_where_a_capture_says_it() {
    let nflog = |order: Order, hook: u8| {
        [
            vec![2, 0, 0, 30],
            attribute(order, 1, &[8, 0, hook, 0]),
            attribute(order, 10, b"prefix\0"),
            attribute(order, 9, b"E..."),
        ]
        .concat()
    };
    let cooked = |kind: u8| [&[0, kind][..], &[0; 12], &[8, 0], b"E..."].concat();
    let cooked2 = |kind: u8| [&[8, 0][..], &[0; 8], &[kind], &[0; 9], b"E..."].concat();
    let pflog = |to: u8| [&[61][..], &[0; 59], &[to], &[0; 3], b"E..."].concat();
    let (came, left) = (Some(Direction::In), Some(Direction::Out));
    let cases = [
        ("Ethernet", LITTLE, 1, vec![0; 14], None),
        ("NFLOG, input", LITTLE, 239, nflog(LITTLE, 1), came),
        ("NFLOG, forwarded", LITTLE, 239, nflog(LITTLE, 2), None),
        ("NFLOG, output", BIG, 239, nflog(BIG, 3), left),
        ("cooked, to the host", LITTLE, 113, cooked(0), came),
        ("cooked, to another host", LITTLE, 113, cooked(3), None),
        ("cooked, outgoing", LITTLE, 113, cooked(4), left),
        ("cooked, version 2, outgoing", LITTLE, 276, cooked2(4), left),
        ("pflog, in", LITTLE, 117, pflog(1), came),
        ("pflog, out", LITTLE, 117, pflog(2), left),
        ("PPP", LITTLE, 166, b"\0\x21E...".to_vec(), came),
    ];
    let direction = |file: &[u8]| {
        let mut capture = open(file).unwrap();
        let frame = capture.next_frame().unwrap().unwrap();
        assert!(frame.bytes.ends_with(b"E...") || frame.bytes.len() == 14);
        frame.direction
    };
    for (why, order, link, data, expected) in cases {
        let file = order.pcap(MICROSECONDS, link, &[(0, 0, data.len() as u32, &data)]);
        assert_eq!(direction(&file), expected, "{why}");
    }
    for (flags, expected) in [(0, None), (1, came), (2, left), (0x101, came)] {
        let option = [&LITTLE.half(2)[..], &LITTLE.half(4), &LITTLE.words(&[flags, 0])].concat();
        let data: &[u8] = &[0; 16];
        let body = [LITTLE.words(&[0, 0, 0, 14, 14]), data.to_vec(), option].concat();
        let file = [LITTLE.section(), LITTLE.interface(1, None), LITTLE.block(6, &body)].concat();
        assert_eq!(direction(&file), expected, "{flags:#x}");
    }
}

#[test]
fn frames_of_other_link_types_are_skipped_and_counted_by_name() {
    let mixed = [
        LITTLE.section(),
        LITTLE.interface(1, None),
        LITTLE.interface(189, None),
        LITTLE.interface(777, None),
        LITTLE.packet(1, 0, b"usb"),
        LITTLE.packet(0, 0, b"one"),
        LITTLE.packet(2, 0, b"?"),
        LITTLE.packet(1, 0, b"usb"),
        LITTLE.packet(0, 0, b"two"),
    ]
    .concat();
    let mut capture = open(&mixed).unwrap();
    let mut numbers = Vec::new();
    while let Some(frame) = capture.next_frame().unwrap() {
        numbers.push(frame.number);
    }
    assert_eq!(numbers, [2, 5]);
    let skipped: Vec<_> = capture.skipped().collect();
    assert_eq!(skipped, [("link type 189 (USB of Linux)".to_owned(), 2), ("link type 777".to_owned(), 1)]);

    let (_, error) = read(&LITTLE.pcap(MICROSECONDS, 105, &[(0, 0, 1, b"x"), (0, 0, 1, b"y")]));
    assert!(error.is_some_and(|error| error.contains("only 2 frames of link type 105 (IEEE 802.11)")));
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

#[test]
fn compressed_captures_are_read_by_content_and_in_pieces() {
    let whole = LITTLE.pcap(MICROSECONDS, 1, &[(0, 0, 3, b"abc"), (0, 0, 3, b"def")]);
    let (one, two) = whole.split_at(50);
    let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"xyz"].concat();
    let cases = [
        ("gzip", gzip(&whole)),
        ("gzip in two members", [gzip(one), gzip(two)].concat()),
        ("zstd", zstd(&whole)),
        ("zstd in two frames", [zstd(one), zstd(two)].concat()),
        ("zstd with frames to skip", [skippable.clone(), zstd(one), skippable, zstd(two)].concat()),
    ];
    for (why, bytes) in &cases {
        let (read, error) = read(bytes);
        assert_eq!((read.len(), error), (2, None), "{why}");
        let (_, error) = self::read(&bytes[..bytes.len() - 9]);
        let error = error.unwrap_or_else(|| panic!("{why}: cut, and no error"));
        assert!(error.contains("cut short") || error.contains("no capture"), "{why}: {error}");
    }
    let mut damaged = gzip(&whole);
    damaged[20] ^= 0xff;
    assert!(read(&damaged).1.is_some());
}

/// A decompression bomb costs time, but no memory: its output is not kept.
#[test]
fn what_is_compressed_is_not_unpacked_at_once() {
    let mut bomb = LITTLE.pcap(MICROSECONDS, 1, &[]);
    bomb.extend(LITTLE.words(&[0, 0, u32::MAX, u32::MAX]));
    bomb.resize(64 << 20, 0);
    let (read, error) = read(&gzip(&bomb));
    assert!(read.is_empty());
    assert!(error.is_some_and(|error| error.contains("more than 1048576 bytes")), "the frame is too long");
}

#[test]
fn a_pipe_is_kept_and_read_as_often_as_a_file() {
    let whole = LITTLE.pcap(MICROSECONDS, 1, &[(0, 0, 3, b"abc"), (0, 0, 3, b"def")]);
    let (reader, mut writer) = io::pipe().unwrap();
    let writer = std::thread::spawn(move || writer.write_all(&whole).unwrap());
    let source = Source::open(&PathBuf::from(format!("/dev/fd/{}", reader.as_raw_fd()))).unwrap();
    writer.join().unwrap();
    for _ in 0..2 {
        let mut capture = source.read().unwrap();
        while capture.next_frame().unwrap().is_some() {}
        assert_eq!(capture.number, 2);
    }
    let endless = keep(File::open("/dev/zero").unwrap()).unwrap();
    assert_eq!(endless.metadata().unwrap().len(), 4, "what begins otherwise is not kept");
}

#[test]
fn what_was_cut_in_capturing_is_filled_up_unless_the_length_is_absurd() {
    let (read, _) = read(&LITTLE.pcap(MICROSECONDS, 1, &[(0, 0, 6, b"abc"), (0, 0, u32::MAX, b"abc")]));
    assert_eq!(read[0].2, b"abc\0\0\0");
    assert_eq!(read[1].2, b"abc");
}

#[test]
fn what_is_no_whole_capture_is_said() {
    let whole = LITTLE.pcap(MICROSECONDS, 1, &[(0, 0, 3, b"abc"), (0, 0, 3, b"def")]);
    let described = [LITTLE.section(), LITTLE.interface(1, None)].concat();
    let nowhere = [described.clone(), LITTLE.packet(1, 0, b"x")].concat();
    let in_block = [described, LITTLE.packet(0, 0, b"x"), LITTLE.packet(0, 0, b"yyy")].concat();
    let cases: [(&str, &[u8], usize, &str); 9] = [
        ("empty", b"", 0, "no capture"),
        ("text", b"This is text, and long enough for a header.", 0, "no capture"),
        ("compressed otherwise", b"\xfd7zXZ\0", 0, "unxz"),
        ("within the header of the file", &whole[..20], 0, "no capture"),
        ("within the header of a frame", &whole[..50], 1, "cut short"),
        ("within a frame", &whole[..whole.len() - 1], 1, "cut short"),
        ("within a block", &in_block[..in_block.len() - 5], 1, "cut short"),
        ("an interface that is not there", &nowhere, 0, "interface 1"),
        ("garbage", &[&whole[..24], &[0xff; 60]].concat(), 0, "damaged"),
    ];
    for (why, bytes, frames, expected) in cases {
        let (read, error) = read(bytes);
        let error = error.unwrap_or_else(|| panic!("{why}: no error"));
        assert!(error.contains(expected), "{why}: {error}");
        assert_eq!(read.len(), frames, "{why}");
    }
    let missing = Capture::open(Path::new("/nonexistent/capture")).err().unwrap().to_string();
    assert!(missing.contains("/nonexistent/capture"), "{missing}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(ng: bool, tail: Vec<u8>) {
        let start = if ng { [LITTLE.section(), LITTLE.interface(1, None)].concat() } else { LITTLE.pcap(MICROSECONDS, 1, &[]) };
        let _ = read(&[start, tail].concat());
    }
}
