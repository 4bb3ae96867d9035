use std::io::Write;

use super::*;

/// A frame as the reader gives it, to be compared.
type Read = (u64, u64, Vec<u8>);

fn read(bytes: &[u8]) -> (Vec<Read>, Option<String>) {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let mut frames = Vec::new();
    let mut capture = match Capture::open(file.path()) {
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
                (1, NANOS_PER_SECOND + 5 * unit_ns, b"abc".to_vec()),
                (2, 2 * NANOS_PER_SECOND + 6 * unit_ns, b"de".to_vec()),
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
        let times: Vec<u64> = read.iter().map(|(_, time_ns, _)| *time_ns).collect();
        assert_eq!(times, [7_000, 7, NANOS_PER_SECOND / 2, 0]);
        assert_eq!(read[3].2, b"\0\0\0\0\0\0\0\0\0\0\0\0\x08\0Eabcd");
    }
}

#[test]
fn every_link_type_that_carries_ip_becomes_ethernet() {
    let made_up = |ethertype: [u8; 2], rest: &[u8]| [&[0; 12][..], &ethertype, rest].concat();
    let sll = [&[0; 14][..], &[0x86, 0xdd], b"rest"].concat();
    let sll2 = [&[0x08, 0x06][..], &[0; 18], b"rest"].concat();
    let cases: [(&str, u32, &[u8], Vec<u8>); 8] = [
        ("Ethernet", 1, b"as it is", b"as it is".to_vec()),
        ("raw IPv4", 101, b"E...", made_up([8, 0], b"E...")),
        ("raw IPv6", 101, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("raw, by its BSD number", 12, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("IPv6 only", 229, b"`...", made_up([0x86, 0xdd], b"`...")),
        ("loopback", 0, b"\x02\0\0\0E...", made_up([8, 0], b"E...")),
        ("cooked", 113, &sll, made_up([0x86, 0xdd], b"rest")),
        ("cooked, version 2", 276, &sll2, made_up([8, 6], b"rest")),
    ];
    for (why, link, data, expected) in cases {
        let (read, error) = read(&LITTLE.pcap(MICROSECONDS, link, &[(0, 0, data.len() as u32, data)]));
        assert_eq!(error, None, "{why}");
        assert_eq!(read[0].2, expected, "{why}");
    }
    let (_, error) = read(&LITTLE.pcap(MICROSECONDS, 105, &[(0, 0, 1, b"x")]));
    assert!(error.unwrap().contains("link type 105"));
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
        ("compressed", b"\x1f\x8b\x08\x00", 0, "gunzip"),
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
