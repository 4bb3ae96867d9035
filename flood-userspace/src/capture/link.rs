//! Removes the encapsulation of a link type, and builds the Ethernet frame that the filter would see instead.
//!
//! Numbers and layouts: <https://www.tcpdump.org/linktypes.html>.

use super::Direction;

/// EtherTypes of generated headers.
const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const PPPOE_DISCOVERY: [u8; 2] = [0x88, 0x63];
const PPPOE_SESSION: [u8; 2] = [0x88, 0x64];

/// The header to generate in front of a packet.
#[derive(Clone, Copy)]
enum Header {
    /// None: it is an Ethernet frame.
    None,
    /// An Ethernet header with this type.
    Ethernet([u8; 2]),
    /// A PPPoE session header, in front of the protocol number of PPP.
    Session,
}

/// A packet without the encapsulation of its link type.
pub(super) struct Unwrapped<'a> {
    header: Header,
    rest: &'a [u8],
    /// Whether it was received or sent, if the link type says so.
    pub(super) direction: Option<Direction>,
}

/// Link types that carry no packets that a filter on an interface sees, and that people capture by mistake.
const NAMES: [(i32, &str); 10] = [
    (105, "IEEE 802.11"),
    (119, "IEEE 802.11 with Prism headers"),
    (127, "IEEE 802.11 with radiotap"),
    (187, "Bluetooth HCI"),
    (189, "USB of Linux"),
    (195, "IEEE 802.15.4"),
    (201, "Bluetooth HCI with direction"),
    (220, "USB of Linux, memory-mapped"),
    (227, "CAN"),
    (253, "netlink of Linux"),
];

/// Returns the name of a link type, for people.
pub(super) fn name(link: i32) -> String {
    match NAMES.iter().find(|(number, _)| *number == link) {
        Some((_, name)) => format!("link type {link} ({name})"),
        None => format!("link type {link}"),
    }
}

fn half(data: &[u8], at: usize) -> Option<[u8; 2]> {
    data.get(at..)?.first_chunk().copied()
}

/// Derives the EtherType of a packet without a link-layer header.
fn by_version(packet: &[u8]) -> Header {
    match packet.first().map(|byte| byte >> 4) {
        Some(6) => Header::Ethernet(IPV6),
        _ => Header::Ethernet(IPV4),
    }
}

/// Removes the encapsulation of a link type. Returns `None` for link types, and for kinds of packets in them, that no
/// filter on an interface sees. `big_endian` is the byte order of the capturing machine.
pub(super) fn unwrap(link: i32, big_endian: bool, data: &[u8]) -> Option<Unwrapped<'_>> {
    let bare = |header, at: usize, direction| {
        Some(Unwrapped { header, rest: data.get(at..).unwrap_or_default(), direction })
    };
    let ip = |at: usize, direction| bare(by_version(data.get(at..).unwrap_or_default()), at, direction);
    match link {
        1 => bare(Header::None, 0, None),
        12 | 14 | 101 => ip(0, None),
        228 => bare(Header::Ethernet(IPV4), 0, None),
        229 => bare(Header::Ethernet(IPV6), 0, None),
        // Four bytes for the address family, whose numbers differ between systems.
        0 | 108 => ip(4, None),
        9 | 50 => ppp(data, None),
        // A byte in front: 0 for received.
        166 => ppp(data.get(1..)?, Some(if *data.first()? == 0 { Direction::In } else { Direction::Out })),
        51 => {
            let code = data.get(1).copied().unwrap_or(0);
            bare(Header::Ethernet(if code == 0 { PPPOE_SESSION } else { PPPOE_DISCOVERY }), 0, None)
        }
        // Cisco HDLC: address, control, EtherType.
        104 => bare(Header::Ethernet(half(data, 2)?), 4, None),
        113 => {
            let kind = u16::from_be_bytes(half(data, 0)?);
            cooked(data, u16::from_be_bytes(half(data, 2)?), kind, half(data, 14)?, 16)
        }
        276 => {
            let kind = data.get(10).copied()?.into();
            cooked(data, u16::from_be_bytes(half(data, 8)?), kind, half(data, 0)?, 20)
        }
        117 => {
            // The first byte is the length of the header without the padding that aligns the packet; byte 60 is the
            // direction, 1 for in.
            let length = usize::from(*data.first()?).next_multiple_of(4);
            let direction = match data.get(60) {
                Some(1) if length > 60 => Some(Direction::In),
                Some(2) if length > 60 => Some(Direction::Out),
                _ => None,
            };
            ip(length, direction)
        }
        239 => nflog(big_endian, data),
        _ => None,
    }
}

/// Removes the pseudo-headers of Linux. `kind` is 4 for sent packets (`PACKET_OUTGOING`, linux/if_packet.h).
fn cooked(data: &[u8], device: u16, kind: u16, ethertype: [u8; 2], at: usize) -> Option<Unwrapped<'_>> {
    /// Devices whose protocol is not an EtherType: IEEE 802.11 in its variants, netlink (linux/if_arp.h).
    const OTHERS: [u16; 4] = [801, 802, 803, 824];

    if OTHERS.contains(&device) {
        return None;
    }
    let direction = match kind {
        0..=2 => Some(Direction::In),
        4 => Some(Direction::Out),
        _ => None,
    };
    Some(Unwrapped {
        header: Header::Ethernet(ethertype),
        rest: data.get(at..).unwrap_or_default(),
        direction,
    })
}

/// Removes PPP's address and control, if present. The filter would see a PPPoE session.
fn ppp(data: &[u8], direction: Option<Direction>) -> Option<Unwrapped<'_>> {
    let rest = data.strip_prefix(&[0xff, 0x03]).unwrap_or(data);
    Some(Unwrapped { header: Header::Session, rest, direction })
}

/// Finds the packet among the attributes that netfilter's target NFLOG sends (linux/netfilter/nfnetlink_log.h).
fn nflog(big_endian: bool, data: &[u8]) -> Option<Unwrapped<'_>> {
    /// Bytes before the attributes: family, version, group.
    const HEADER: usize = 4;
    const PACKET_HEADER: u16 = 1;
    const PAYLOAD: u16 = 9;
    /// Netfilter hooks of received and of sent packets; a forwarded packet is neither (linux/netfilter.h).
    const COMES: [u8; 2] = [0, 1];
    const LEAVES: [u8; 2] = [3, 4];

    let number =
        |bytes: [u8; 2]| if big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) };
    let mut rest = data.get(HEADER..)?;
    let mut direction = None;
    loop {
        let (length, kind) = (number(half(rest, 0)?), number(half(rest, 2)?) & 0x7fff);
        let length = usize::from(length);
        let value = rest.get(4..length.min(rest.len()))?;
        match kind {
            PAYLOAD => return Some(Unwrapped { header: by_version(value), rest: value, direction }),
            PACKET_HEADER => {
                direction = match value.get(2) {
                    Some(hook) if COMES.contains(hook) => Some(Direction::In),
                    Some(hook) if LEAVES.contains(hook) => Some(Direction::Out),
                    _ => None,
                };
            }
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

impl Unwrapped<'_> {
    /// Writes the frame.
    pub(super) fn write(&self, frame: &mut Vec<u8>) {
        frame.clear();
        match self.header {
            Header::None => {}
            Header::Ethernet(ethertype) => {
                frame.extend([0; 12]);
                frame.extend(ethertype);
            }
            Header::Session => {
                let length = u16::try_from(self.rest.len()).unwrap_or(u16::MAX).to_be_bytes();
                frame.extend([0; 12]);
                frame.extend(PPPOE_SESSION);
                frame.extend([0x11, 0, 0, 1, length[0], length[1]]); // version and type, session data, session 1
            }
        }
        frame.extend(self.rest);
    }
}
