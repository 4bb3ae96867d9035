//! What the host can say for a packet: its sockets, as values.
//!
//! ARCHITECTURE.md ("What may pass over a limit") explains what each finding proves. The rule: a packet proves
//! itself by showing that its sender received something from this host: a number that nobody else can know. The
//! mere existence of a socket proves nothing about a packet, because anybody can send to it.

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
    /// Both sides have sent a SYN, or the first data came with it.
    pub const SYN_RECV: u32 = 3;
    /// Closed, except for segments still in flight.
    pub const TIME_WAIT: u32 = 6;
    /// Not in use.
    pub const CLOSE: u32 = 7;
    /// A listener.
    pub const LISTEN: u32 = 10;
    /// A request: a SYN arrived, and its SYN-ACK has not been acknowledged.
    pub const NEW_SYN_RECV: u32 = 12;
}

/// How far behind the acknowledged data a segment may be: 1 MiB, more than most connections have in flight. A guess
/// of both numbers is valid with a probability of 2^-23 where the window is as large, and of 2^-21 where it is 6
/// MiB.
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
    /// Reads the numbers, if the packet has a TCP header.
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

/// What a TCP socket knows about its connection (struct tcp_sock).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Connection {
    /// One of [`state`].
    pub state: u32,
    /// The first byte sent that is not acknowledged.
    pub unacknowledged: u32,
    /// The end of the data that it was given to send (`write_seq`). The kernel updates `snd_nxt`, the end of what
    /// was sent, only after a segment has left, and on a short link the acknowledgement arrives sooner.
    pub next: u32,
    /// The next byte expected.
    pub expected: u32,
    /// How many bytes may arrive from there on.
    pub window: u32,
}

/// Whether `number` equals `from` or follows it by at most `length`, in sequence number arithmetic.
#[inline(always)]
fn is_within(number: u32, from: u32, length: u32) -> bool {
    number.wrapping_sub(from) <= length
}

/// The window of a connection of which only the wait for the last segments is left (TIME_WAIT, and FIN_WAIT2
/// without an owner): the largest without window scale.
const LAST_WINDOW: u32 = 65_535;

impl Connection {
    /// Returns the remains of a connection that has sent everything and expects only the last segments.
    #[inline(always)]
    pub fn remains(sent: u32, expected: u32) -> Self {
        Self { state: state::TIME_WAIT, unacknowledged: sent, next: sent, expected, window: LAST_WINDOW }
    }

    /// Whether a segment fits the connection: it acknowledges data that was sent, and lies where data may be (RFC
    /// 9293 section 3.10.7.4, RFC 5961).
    #[inline(always)]
    pub fn fits(&self, segment: &Segment) -> bool {
        let acknowledges = segment.has(tcp_flags::ACK);
        let outstanding = self.next.wrapping_sub(self.unacknowledged);
        if self.state == state::SYN_SENT || self.state == state::SYN_RECV {
            // Only the SYN, or data sent with it, can be acknowledged yet.
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
            // Only a RST may lack an ACK, and the kernel accepts it only at exactly the byte that it expects (RFC
            // 5961 section 3.2).
            segment.has(tcp_flags::RST) && segment.sequence == self.expected
        }
    }

    /// Whether a segment with this sequence number may be in flight. The kernel ignores an error about any other
    /// (`OutOfWindowIcmps`; net/ipv4/tcp_ipv4.c, `tcp_v4_err`), and each additional number would make guessing
    /// easier.
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
    /// The next byte expected.
    pub expected: u32,
}

impl Request {
    /// Whether a segment shows that its sender received the SYN-ACK. A host that got an unsolicited SYN-ACK may
    /// send a RST.
    #[inline(always)]
    pub fn is_acknowledged(&self, segment: &Segment) -> bool {
        if segment.has(tcp_flags::ACK) {
            segment.acknowledgement == self.sent.wrapping_add(1)
        } else {
            segment.has(tcp_flags::RST) && segment.sequence == self.expected
        }
    }
}

/// What the sockets say about a TCP segment that is not a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is no socket.
    NoSocket,
    /// It fits a connection, acknowledges the answer to a SYN, or returns a valid cookie.
    Proven,
    /// There is a connection, a request, or the remains of one, and the segment does not fit it.
    Unproven,
    /// There is a listener, and the segment has no valid cookie.
    WrongCookie,
    /// There is a request, but on this kernel it is not known what the request has sent.
    Unknown,
}

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// No socket listens.
    NoSocket,
    /// There is a connection between these ports, or the remains of one.
    Connection,
    /// The listener's queue reports room for it, so the kernel makes no cookies.
    Room,
    /// The listener has more connections waiting than it accepts: the kernel drops the SYN.
    Full,
    /// The listener's cookie.
    Cookie(Cookie),
    /// No cookie can be made for this SYN.
    Unable,
}

/// A SYN cookie.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cookie {
    /// The sequence number that is the cookie.
    pub sequence: u32,
    /// The client's sequence number.
    pub clients: u32,
    /// The segment size encoded in it, bytes.
    pub segment: u16,
}

/// What the sockets say about a UDP datagram to an address of this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// There is no socket.
    NoSocket,
    /// A socket that accepts datagrams from anywhere.
    Anybodys,
    /// A socket that is connected to the sender.
    Connected,
}

/// What an ICMP error quotes: the beginning of a packet that this host supposedly sent.
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
    /// The sequence number, for TCP.
    pub sequence: u32,
}

impl Quote {
    /// Returns the flow of the quoted packet, whose reply would go the other way.
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

    /// Reads the quote of an ICMP or ICMPv6 error (RFC 792, RFC 4443). Returns `None` for any other message, and
    /// for a quote of anything but TCP or UDP directly behind an IP header without options.
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
        /// For any connection, a guess is valid once in millions of times, and no packet of the remote side is
        /// refused.
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
