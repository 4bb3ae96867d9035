//! The SYN-ACK that answers a SYN in place.
//!
//! It has one option, the segment size. Window scale, SACK and timestamps would have to survive in the cookie, and
//! the kernel accepts those only from its own timestamps.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{
    evidence::Cookie,
    packet::Ports,
    wire::{Be16, Ipv4, Ipv6, Tcp, protocol},
};

/// The window that Linux announces without window scale: 44 segments of 1460 bytes.
const WINDOW: u16 = 64_240;

/// Time to live, hop limit.
const TTL: u8 = 64;

const SYN_ACK: u8 = 0x12;

/// A TCP header with the segment size option (RFC 9293 section 3.2).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct Segment {
    tcp: Tcp,
    option: [u8; 2],
    size: Be16,
}

/// Length of the TCP part, bytes.
const SEGMENT: u16 = size_of::<Segment>() as u16;

/// A SYN-ACK over IPv4.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct AnswerV4 {
    ip: Ipv4,
    segment: Segment,
}

/// A SYN-ACK over IPv6.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
#[repr(C)]
pub struct AnswerV6 {
    ip: Ipv6,
    segment: Segment,
}

impl Segment {
    #[inline(always)]
    fn answering(syn: Ports, cookie: &Cookie, mtu: u16, headers: u16) -> Self {
        // A path may carry less than this host's link; the client's own size has passed it.
        let size = cookie.segment.min(mtu.saturating_sub(headers + size_of::<Tcp>() as u16));
        Self {
            tcp: Tcp {
                source: Be16::new(syn.destination),
                destination: Be16::new(syn.source),
                sequence: cookie.sequence.to_be_bytes(),
                acknowledgement: cookie.clients.wrapping_add(1).to_be_bytes(),
                offset: (SEGMENT / 4) as u8 * 16,
                flags: SYN_ACK,
                window: Be16::new(WINDOW),
                checksum: Be16::new(0),
                urgent: Be16::new(0),
            },
            option: [2, 4],
            size: Be16::new(size),
        }
    }
}

impl AnswerV4 {
    /// Answers a SYN from the first address to the second, on a link with this MTU (bytes).
    #[inline(always)]
    pub fn new([client, host]: [u32; 2], syn: Ports, cookie: &Cookie, mtu: u16) -> Self {
        let mut answer = Self {
            ip: Ipv4 {
                version_length: 0x45,
                service: 0,
                total_length: Be16::new(size_of::<Self>() as u16),
                identification: Be16::new(0),
                flags_offset: Be16::new(0x4000), // do not fragment
                ttl: TTL,
                protocol: protocol::TCP,
                checksum: Be16::new(0),
                source: host.to_be_bytes(),
                destination: client.to_be_bytes(),
            },
            segment: Segment::answering(syn, cookie, mtu, size_of::<Ipv4>() as u16),
        };
        answer.ip.checksum = Be16::new(checksum(words(answer.ip.as_bytes())));
        let pseudo = words(&answer.ip.source) + words(&answer.ip.destination) + pseudo_header();
        let sum = pseudo + words(answer.segment.as_bytes());
        answer.segment.tcp.checksum = Be16::new(checksum(sum));
        answer
    }
}

impl AnswerV6 {
    /// Answers a SYN from the first address to the second, each as its [halves](crate::address::Address::halves), on a
    /// link with this MTU (bytes).
    #[inline(always)]
    pub fn new([client, host]: [[u64; 2]; 2], syn: Ports, cookie: &Cookie, mtu: u16) -> Self {
        let mut answer = Self {
            ip: Ipv6 {
                version_class_flow: [0x60, 0, 0, 0],
                payload_length: Be16::new(SEGMENT),
                next_header: protocol::TCP,
                hop_limit: TTL,
                source: host.map(u64::to_be_bytes),
                destination: client.map(u64::to_be_bytes),
            },
            segment: Segment::answering(syn, cookie, mtu, size_of::<Ipv6>() as u16),
        };
        let addresses = words(answer.ip.source.as_bytes()) + words(answer.ip.destination.as_bytes());
        let sum = addresses + pseudo_header() + words(answer.segment.as_bytes());
        answer.segment.tcp.checksum = Be16::new(checksum(sum));
        answer
    }
}

/// Protocol and length of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
fn pseudo_header() -> u32 {
    u32::from(protocol::TCP) + u32::from(SEGMENT)
}

/// The sum of 16-bit words (RFC 1071), for an even number of bytes.
#[inline(always)]
pub(crate) fn words(bytes: &[u8]) -> u32 {
    let (words, _) = bytes.as_chunks::<2>();
    words.iter().map(|word| u32::from(u16::from_be_bytes(*word))).sum()
}

/// The checksum of a sum.
#[inline(always)]
pub(crate) fn checksum(sum: u32) -> u16 {
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded >> 16) + (folded & 0xffff)) as u16
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The words of a packet with a valid checksum add up to ones.
    fn adds_up(sum: u32) -> bool {
        checksum(sum) == 0
    }

    proptest! {
        #[test]
        fn checksums_are_right(
            v4: [u32; 2], v6: [[u64; 2]; 2], source: u16, destination: u16,
            sequence: u32, clients: u32, segment: u16, mtu: u16
        ) {
            let cookie = Cookie { sequence, clients, segment };
            let syn = Ports { source, destination };
            let answer = AnswerV4::new(v4, syn, &cookie, mtu);
            prop_assert!(adds_up(words(answer.ip.as_bytes())));
            let pseudo = words(v4.map(u32::to_be).as_bytes()) + 6 + 24;
            prop_assert!(adds_up(pseudo + words(answer.segment.as_bytes())));

            let answer = AnswerV6::new(v6, syn, &cookie, mtu);
            let pseudo = words(v6.map(|halves| halves.map(u64::to_be)).as_bytes()) + 6 + 24;
            prop_assert!(adds_up(pseudo + words(answer.segment.as_bytes())));
        }
    }

    #[test]
    fn an_answer_goes_back_with_the_smaller_segment_size() {
        let addresses = [[192, 0, 2, 1], [198, 51, 100, 2]];
        let [client_bytes, host_bytes] = addresses;
        let syn = Ports { source: 40_000, destination: 80 };
        for (client, mtu, wanted) in
            [(536, 1500, 536), (8_960, 1500, 1_460), (1_460, 1_420, 1_380), (1_460, 9_000, 1_460)]
        {
            let cookie = Cookie { sequence: 1, clients: u32::MAX, segment: client };
            let answer = AnswerV4::new(addresses.map(u32::from_be_bytes), syn, &cookie, mtu);
            assert_eq!(answer.segment.size.get(), wanted, "{client} at MTU {mtu}");
            assert_eq!((answer.ip.source, answer.ip.destination), (host_bytes, client_bytes));
            let tcp = answer.segment.tcp;
            assert_eq!((tcp.source.get(), tcp.destination.get()), (80, 40_000));
            assert_eq!(tcp.acknowledgement, [0; 4], "one more than the client's number");
        }
    }
}
