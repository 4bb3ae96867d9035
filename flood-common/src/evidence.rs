//! What the host can say for a packet: its sockets, as values.
//!
//! What each finding proves is in ARCHITECTURE.md ("What may pass over a limit"). The rule: a packet proves itself when it
//! shows that its sender has received something from this host, and that is a number which nobody else can know. The existence
//! of a socket alone proves nothing about a packet, as anybody can send to it.

use crate::{
    address::Address,
    packet::Packet,
    solicit::Flow,
    wire::{Icmp, Ipv4, Ipv6, Tcp, Udp, Window, protocol, tcp_flags},
};

/// States of a TCP socket (include/net/tcp_states.h).
pub mod state {
    /// Connected.
    pub const ESTABLISHED: u32 = 1;
    /// This host has sent a SYN.
    pub const SYN_SENT: u32 = 2;
    /// Both have, or the first data came with it.
    pub const SYN_RECV: u32 = 3;
    /// Over, but for what is still under way.
    pub const TIME_WAIT: u32 = 6;
    /// Not in use.
    pub const CLOSE: u32 = 7;
    /// A listener.
    pub const LISTEN: u32 = 10;
    /// A request: a SYN has come, and its answer has not been acknowledged.
    pub const NEW_SYN_RECV: u32 = 12;
}

/// How far behind what has been acknowledged a segment may still be: a MiB, more than most connections have under way. Whoever
/// guesses both numbers is right with a probability of 2^-23 where the window is as large, and of 2^-21 where it is 6 MiB.
const BEHIND: u32 = 1 << 20;

/// The numbers of a TCP segment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Segment {
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: u8,
}

impl Segment {
    /// Reads them, where the packet has a TCP header.
    #[inline(always)]
    pub fn read<'a>(packet: &Packet, window: impl Window<'a>) -> Option<Self> {
        let tcp = window.view::<Tcp>(packet.transport_at)?;
        Some(Self {
            sequence: u32::from_be_bytes(tcp.sequence),
            acknowledgement: u32::from_be_bytes(tcp.acknowledgement),
            flags: tcp.flags,
        })
    }

    #[inline(always)]
    fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }
}

/// What a TCP socket knows of its connection (struct tcp_sock).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Connection {
    /// One of [`state`].
    pub state: u32,
    /// The first byte sent that is not acknowledged.
    pub unacknowledged: u32,
    /// The end of what it was given to send (`write_seq`). What has been sent (`snd_nxt`) is noted by the kernel only after a
    /// segment has left, and on a short link its acknowledgement is faster.
    pub next: u32,
    /// The next byte that is expected.
    pub expected: u32,
    /// How many may come from there on.
    pub window: u32,
}

/// Whether `number` is at `from`, or up to `length` behind it, as sequence numbers go round.
#[inline(always)]
fn is_within(number: u32, from: u32, length: u32) -> bool {
    number.wrapping_sub(from) <= length
}

/// The window of a connection of which is left only what waits for the last segments (TIME_WAIT, and FIN_WAIT2 without an
/// owner): the largest without window scale.
const LAST_WINDOW: u32 = 65_535;

impl Connection {
    /// What is left of one that has sent all, and expects nothing but the last segments.
    #[inline(always)]
    pub fn remains(sent: u32, expected: u32) -> Self {
        Self { state: state::TIME_WAIT, unacknowledged: sent, next: sent, expected, window: LAST_WINDOW }
    }

    /// Whether a segment fits the connection: it acknowledges what has been sent, and is where data may be
    /// (RFC 9293 section 3.10.7.4, RFC 5961).
    #[inline(always)]
    pub fn fits(&self, segment: &Segment) -> bool {
        let acknowledges = segment.has(tcp_flags::ACK);
        let outstanding = self.next.wrapping_sub(self.unacknowledged);
        if self.state == state::SYN_SENT || self.state == state::SYN_RECV {
            // Nothing but the SYN, or what came with it, can be acknowledged yet.
            return acknowledges
                && segment.acknowledgement != self.unacknowledged
                && is_within(segment.acknowledgement, self.unacknowledged, outstanding);
        }
        let is_near = is_within(
            segment.sequence,
            self.expected.wrapping_sub(BEHIND),
            BEHIND.saturating_add(self.window),
        );
        let is_acknowledged = is_within(
            segment.acknowledgement,
            self.unacknowledged.wrapping_sub(BEHIND),
            BEHIND.saturating_add(outstanding),
        );
        if acknowledges {
            is_near && is_acknowledged
        } else {
            // Only a RST may come without, and the kernel takes it at the very byte that it expects (RFC 5961 section 3.2).
            segment.has(tcp_flags::RST) && segment.sequence == self.expected
        }
    }

    /// Whether a segment with this sequence number may be under way. Of an error about anything else the kernel takes no notice
    /// (`OutOfWindowIcmps`; net/ipv4/tcp_ipv4.c, `tcp_v4_err`), and each number more is one to be guessed.
    #[inline(always)]
    pub fn has_sent(&self, sequence: u32) -> bool {
        is_within(sequence, self.unacknowledged, self.next.wrapping_sub(self.unacknowledged))
    }
}

/// What a request has sent and expects (struct tcp_request_sock).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Request {
    /// The sequence number of the SYN-ACK.
    pub sent: u32,
    /// The next byte that is expected.
    pub expected: u32,
}

impl Request {
    /// Whether a segment shows that its sender has received the SYN-ACK. A RST may come from who has not asked for it.
    #[inline(always)]
    pub fn is_acknowledged(&self, segment: &Segment) -> bool {
        if segment.has(tcp_flags::ACK) {
            segment.acknowledgement == self.sent.wrapping_add(1)
        } else {
            segment.has(tcp_flags::RST) && segment.sequence == self.expected
        }
    }
}

/// What sockets say to a TCP segment that is not a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is none.
    NoSocket,
    /// It fits a connection, or acknowledges the answer to a SYN, or brings a right cookie back.
    Proven,
    /// There is a connection, or a request, or what is left of one, and it does not.
    Unproven,
    /// There is a listener, and it brings no right cookie.
    WrongCookie,
    /// There is a request, and on this kernel it cannot be told what it has sent.
    Unknown,
}

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// Nobody listens.
    NoSocket,
    /// There is a connection between these ports, or what is left of one.
    Connection,
    /// The listener's queue is said to have room for it, so that the kernel makes no cookies.
    Room,
    /// The listener has more connections waiting than it takes: the kernel drops the SYN.
    Full,
    /// The listener's cookie.
    Cookie(Cookie),
    /// No cookie can be made for it.
    Unable,
}

/// A SYN cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// The sequence number that it is.
    pub sequence: u32,
    /// The client's sequence number.
    pub clients: u32,
    /// The segment size in it, bytes.
    pub segment: u16,
}

/// What sockets say to a UDP datagram for an address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// There is none.
    NoSocket,
    /// One that takes datagrams from anywhere.
    Anybodys,
    /// One that is connected to the sender.
    Connected,
}

/// What an ICMP error quotes: the beginning of a packet that this host is said to have sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quote {
    /// TCP or UDP.
    pub protocol: u8,
    /// The quoted source: this host.
    pub source: Address,
    /// The quoted destination.
    pub destination: Address,
    /// Source and destination port.
    pub ports: [u16; 2],
    /// The sequence number, of TCP.
    pub sequence: u32,
}

impl Quote {
    /// The flow of what is quoted, whose answer would go the other way.
    #[inline(always)]
    pub fn flow(&self) -> Flow {
        let [local_port, remote_port] = self.ports;
        Flow {
            protocol: self.protocol,
            remote: self.destination,
            local: self.source,
            remote_port,
            local_port,
        }
    }

    /// Reads the quote of an ICMP or ICMPv6 error (RFC 792, RFC 4443); `None` for any other message, and for a quote
    /// of anything but TCP and UDP right behind an IP header without options.
    #[inline(always)]
    pub fn read<'a>(packet: &Packet, window: impl Window<'a>) -> Option<Self> {
        const HEADER: usize = 8;
        let kind = window.view::<Icmp>(packet.transport_at)?.kind;
        let at = packet.transport_at + HEADER;
        let (protocol, source, destination, size) = match packet.protocol {
            protocol::ICMP if matches!(kind, 3 | 11 | 12) => {
                let ip = window.view::<Ipv4>(at)?;
                if ip.version_length != 0x45 {
                    return None;
                }
                let [source, destination] = [&ip.source, &ip.destination].map(Address::from_v4_bytes);
                (ip.protocol, source, destination, size_of::<Ipv4>())
            }
            protocol::ICMPV6 if matches!(kind, 1..=4) => {
                let ip = window.view::<Ipv6>(at)?;
                let [source, destination] = [&ip.source, &ip.destination].map(Address::from_v6_bytes);
                (ip.next_header, source, destination, size_of::<Ipv6>())
            }
            _ => return None,
        };
        if protocol != protocol::TCP && protocol != protocol::UDP {
            return None;
        }
        // The first eight bytes are always quoted: of TCP, ports and sequence number; of UDP, the whole header.
        let first = window.view::<Udp>(at + size)?;
        let ports = [first.source.get(), first.destination.get()];
        let sequence = u32::from(first.length.get()) << 16 | u32::from(first.checksum.get());
        Some(Self { protocol, source, destination, ports, sequence })
    }
}

/// Reads the client's sequence number and the length of the TCP header of a SYN that can be answered in place: no IP
/// options and no extension headers.
#[inline(always)]
pub fn answerable<'a>(packet: &Packet, window: impl Window<'a>) -> Option<(u32, usize)> {
    let network = match packet.source {
        Address::V4(_) => size_of::<Ipv4>(),
        Address::V6 { .. } => size_of::<Ipv6>(),
    };
    if packet.transport_at != packet.network_at + network {
        return None;
    }
    let tcp = window.view::<Tcp>(packet.transport_at)?;
    Some((u32::from_be_bytes(tcp.sequence), usize::from(tcp.offset >> 4) * 4))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use tcp_flags::{ACK, FIN, RST, SYN};

    fn segment(sequence: u32, acknowledgement: u32, flags: u8) -> Segment {
        Segment { sequence, acknowledgement, flags }
    }

    /// Why, the segment relative to what the connection expects and has sent, whether it fits.
    type Case = (&'static str, (i64, i64, u8), bool);

    #[test]
    fn a_segment_fits_a_connection_by_both_of_its_numbers() {
        let cases: [Case; 17] = [
            ("the next one", (0, 0, ACK), true),
            ("with data that are under way acknowledged", (0, 5_000, ACK), true),
            ("data at the end of the window", (60_000, 0, ACK), true),
            ("beyond the window", (60_002, 0, ACK), false),
            ("what has come already", (-1_400, 0, ACK), true),
            ("an old acknowledgement", (0, -100_000, ACK), true),
            ("a keep-alive", (-1, 0, ACK), true),
            ("the SYN-ACK again", (-1, 0, ACK | SYN), true),
            ("a FIN", (0, 5_000, ACK | FIN), true),
            ("a RST", (0, 0, RST), true),
            ("a RST with ACK", (0, 5_000, RST | ACK), true),
            ("a RST within the window", (1, 0, RST), false),
            ("a RST with ACK from elsewhere", (1 << 30, 0, RST | ACK), false),
            ("nothing that was sent is acknowledged", (0, 5_001, ACK), false),
            ("long before anything", (0, -(1 << 30), ACK), false),
            ("numbers out of the air", (1 << 30, 1 << 30, ACK), false),
            ("without ACK", (0, 0, FIN), false),
        ];
        for base in [1_000_000_u32, u32::MAX - 100, 0] {
            let connection = Connection {
                state: state::ESTABLISHED,
                unacknowledged: base,
                next: base.wrapping_add(5_000),
                expected: base.wrapping_add(777),
                window: 60_000,
            };
            for (why, (sequence, acknowledgement, flags), expected) in cases {
                let at = |from: u32, offset: i64| from.wrapping_add(offset as u32);
                let segment = segment(at(connection.expected, sequence), at(base, acknowledgement), flags);
                assert_eq!(connection.fits(&segment), expected, "{why}, from {base}");
            }
        }
    }

    #[test]
    fn before_the_handshake_is_over_only_what_acknowledges_it_fits() {
        let sent = |state, next| Connection { state, unacknowledged: 99, next, expected: 0, window: 0 };
        let syn_sent = sent(state::SYN_SENT, 100);
        for (why, segment, expected) in [
            ("the answer", segment(7, 100, SYN | ACK), true),
            ("refused", segment(0, 100, RST | ACK), true),
            ("to something else", segment(7, 101, SYN | ACK), false),
            ("to nothing", segment(7, 99, SYN | ACK), false),
            ("a RST that says nothing", segment(0, 0, RST), false),
            ("a SYN", segment(7, 0, SYN), false),
        ] {
            assert_eq!(syn_sent.fits(&segment), expected, "{why}");
            assert_eq!(sent(state::SYN_RECV, 100).fits(&segment), expected, "{why}");
        }
        assert!(
            sent(state::SYN_RECV, 1_500).fits(&segment(1, 1_000, ACK)),
            "data that went with the SYN-ACK"
        );

        let request = Request { sent: 41, expected: 8 };
        for (why, segment, expected) in [
            ("the last step", segment(8, 42, ACK), true),
            ("with data", segment(8, 42, ACK), true),
            ("of another handshake", segment(8, 43, ACK), false),
            ("a SYN-ACK", segment(8, 7, SYN | ACK), false),
            ("a RST in its place", segment(8, 0, RST), true),
            ("a RST out of the air", segment(9, 0, RST), false),
            ("the SYN again", segment(7, 0, SYN), false),
        ] {
            assert_eq!(request.is_acknowledged(&segment), expected, "{why}");
        }
    }

    #[test]
    fn an_error_is_about_what_is_under_way() {
        for base in [1_000_000_u32, u32::MAX - 100] {
            let connection =
                Connection { unacknowledged: base, next: base.wrapping_add(5_000), ..Connection::default() };
            for (offset, expected) in [(-1, false), (0, true), (4_999, true), (5_000, true), (5_001, false)] {
                assert_eq!(connection.has_sent(base.wrapping_add_signed(offset)), expected, "{offset}");
            }
        }
    }

    proptest! {
        /// Whatever the connection: who guesses is right once in millions of times, and no packet of the other side is refused.
        #[test]
        fn numbers_out_of_the_air_do_not_fit(
            unacknowledged: u32, outstanding in 0_u32..4_000_000, expected: u32, window in 0_u32..6_000_000,
            guesses in prop::collection::vec((any::<u32>(), any::<u32>()), 64),
            ahead in 0_u32..6_000_000, acknowledged in 0_u32..4_000_000,
        ) {
            let connection = Connection {
                state: state::ESTABLISHED, unacknowledged, next: unacknowledged.wrapping_add(outstanding), expected, window,
            };
            let right = guesses.iter().filter(|(sequence, acknowledgement)| {
                connection.fits(&segment(*sequence, *acknowledgement, ACK))
            });
            prop_assert!(right.count() <= 1);
            let real = segment(
                expected.wrapping_add(ahead.min(window)),
                unacknowledged.wrapping_add(acknowledged.min(outstanding)),
                ACK,
            );
            prop_assert!(connection.fits(&real));
        }
    }
}
