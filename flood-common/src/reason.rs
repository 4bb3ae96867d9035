//! Why a packet passed or was dropped: the one list.
//!
//! Each line of [`drop_reasons!`] gives a variant, its number in the counters, its label in metrics and replies,
//! and the sentence that documents it. A test in `tests/` fails for every reason that no case produces. Numbers are
//! append-only, so that a pinned counter table or a stored capture keeps its meaning.

use core::ops::Range;

use crate::class::Cell;

/// The numbers of reasons to drop. Those before and after are reasons to pass.
const DROPS: Range<u32> = 8..56;

/// The number of the reason that is neither.
const ANSWERED: u32 = 7;

/// Room for reasons in the counters. A power of two, so that the verifier accepts a mask as a bound.
pub const REASON_SLOTS: usize = 64;

macro_rules! drop_reasons {
    ($($name:ident = $number:literal, $label:literal, $meaning:literal;)*) => {
        /// Why a packet passed or was dropped.
        #[must_use]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u32)]
        pub enum Reason { $(#[doc = $meaning] $name = $number,)* }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in metrics, replies and documents.
            pub fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)* }
            }

            /// One sentence for an operator.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $meaning,)* }
            }

            /// The reason with this number.
            #[inline(always)]
            pub fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }

        const _: () = { $(assert!($number < REASON_SLOTS);)* };
    };
}

drop_reasons! {
    Conforming = 0, "conforming", "Nothing spoke against the packet: not listed, and within all limits that hold for it.";
    Allowed = 1, "allowed", "The source is on the allow list; or it is on the list allow-proven, and the packet is over a limit and gives evidence.";
    NotIp = 2, "not_ip", "Not IP (ARP, LLDP, LACP and the like); the filter judges IP only.";
    Protected = 3, "protected", "Neighbour discovery, a path-MTU message, or one to all hosts of the link (VRRP, OSPF, mDNS and the like), within the budget that keeps the host reachable.";
    Unaccounted = 4, "unaccounted", "Passed without being charged: the table had no free slot for the source.";
    Proven = 5, "proven", "Over a limit, but part of a connection or session of this host, or with a right SYN cookie, and within what its peer may send so.";
    QueueHasRoom = 6, "queue_has_room", "A SYN over a limit, to a listener whose queue is not full, within the budget for these.";
    Answered = 7, "answered", "A SYN over a limit, answered with a SYN cookie: the network stack has not seen it.";
    Truncated = 8, "truncated", "A header reaches beyond the end of the frame, or of its first buffer.";
    VlanDepth = 9, "vlan_depth", "More than two VLAN tags.";
    IpVersion = 10, "ip_version", "The version in the IP header is not the one that the EtherType announced.";
    IpHeaderLength = 11, "ip_header_length", "The IPv4 header says that it is shorter than 20 bytes (RFC 791).";
    IpLength = 12, "ip_length", "The IP length is less than its header (and not 0), or more than the frame holds.";
    Ipv6Extensions = 13, "ipv6_extensions", "The chain of IPv6 extension headers is broken, or has more than six.";
    TransportHeader = 14, "transport_header", "The TCP, UDP or ICMP header is cut off or contradicts the length of the packet.";
    Blocked = 15, "blocked", "The source is on the block list.";
    SourcePackets = 16, "source_packets", "The source sends more packets per second than its limit.";
    SourceBits = 17, "source_bits", "The source sends more bits per second than its limit.";
    SourcePrefixPackets = 18, "source_prefix_packets", "The network of the source sends more packets per second than its limit.";
    SourcePrefixBits = 19, "source_prefix_bits", "The network of the source sends more bits per second than its limit.";
    DestinationPackets = 20, "destination_packets", "The destination is sent more packets per second than its limit.";
    DestinationBits = 21, "destination_bits", "The destination is sent more bits per second than its limit.";
    DestinationPrefixPackets = 22, "destination_prefix_packets", "The network of the destination is sent more packets per second than its limit.";
    DestinationPrefixBits = 23, "destination_prefix_bits", "The network of the destination is sent more bits per second than its limit.";
    TotalPackets = 24, "total_packets", "The host is sent more packets per second than the limit of all together.";
    TotalBits = 25, "total_bits", "The host is sent more bits per second than the limit of all together.";
    NoConnection = 26, "no_connection", "TCP over a limit, or an ICMP error, for which this host has no connection, or not with these sequence numbers.";
    NoListener = 27, "no_listener", "A SYN over a limit, to a port on which nobody listens.";
    WrongCookie = 28, "wrong_cookie", "TCP over a limit, to a listener, without a right SYN cookie.";
    FirstSyn = 29, "first_syn", "A SYN over a limit, for the first time: a client sends it again.";
    NoSocket = 30, "no_socket", "UDP to a port on which nobody here listens, over the limit of all of these, or over another limit.";
    Unsolicited = 31, "unsolicited", "UDP from the port of a service that attackers use as a mirror, which nothing here has asked for: no socket is open on the port that it is sent to.";
    Land = 32, "land", "The source is the destination.";
    LoopbackSource = 33, "loopback_source", "The source is an address that a host has for itself (127.0.0.0/8, ::1).";
    MulticastSource = 34, "multicast_source", "The source is a multicast or broadcast address.";
    ReservedSource = 35, "reserved_source", "The source is of a range that nobody has (0.0.0.0/8, 240.0.0.0/4, ::/96, ::ffff:0:0/96).";
    BogonSource = 36, "bogon_source", "The source is an address that no network on the Internet has.";
    TcpNoFlags = 37, "tcp_no_flags", "TCP without any flag.";
    TcpImpossibleFlags = 38, "tcp_impossible_flags", "TCP with flags that do not go together, or without ACK where it has to be.";
    ZeroPort = 39, "zero_port", "TCP from or to port 0, or UDP to port 0.";
    TinyFragment = 40, "tiny_fragment", "A first fragment that is too short for the TCP or UDP header.";
    FragmentOffset = 41, "fragment_offset", "A fragment beyond the longest packet, or one that is not the last and has no multiple of 8 bytes.";
    FragmentOverlap = 42, "fragment_overlap", "A later fragment of TCP that would write over the header in the first.";
    RefusedProtocol = 43, "refused_protocol", "Of an IP protocol that the configuration refuses.";
    FragmentOfDropped = 44, "fragment_of_dropped", "A later fragment of a datagram whose first was dropped.";
    QueueFull = 45, "queue_full", "A SYN over a limit, to a listener whose application does not take its connections: the network stack would drop it, too.";
    FragmentMemory = 46, "fragment_memory", "A fragment of a datagram that is not whole yet, and those before it may have taken what memory this host has for such.";
    RefusedEthertype = 47, "refused_ethertype", "Not IP, and of an EtherType that the configuration refuses.";
    SynAgain = 56, "syn_again", "A SYN over a limit that came a second time, as that of a client does.";
    Solicited = 57, "solicited", "An answer that this host has asked for, or a packet of a session that it has begun.";
    PortShare = 58, "port_share", "UDP over a limit, within what each of this host's ports gets of it.";
    Encapsulated = 59, "encapsulated", "Not looked into: MPLS, MACsec and the like, which may carry IP.";
}

/// [`Reason::is_drop`] by number.
#[inline(always)]
pub const fn is_drop(number: u32) -> bool {
    // A single comparison: smaller numbers wrap around to large ones.
    number.wrapping_sub(DROPS.start) < DROPS.end - DROPS.start
}

/// [`Reason::is_action`] by number.
#[inline(always)]
pub const fn is_action(number: u32) -> bool {
    number.wrapping_sub(ANSWERED) < DROPS.end - ANSWERED
}

/// [`Reason::is_provable`] by number.
#[inline(always)]
pub const fn is_provable(number: u32) -> bool {
    const FIRST: u32 = Reason::SourcePackets.number();
    number.wrapping_sub(FIRST) <= Reason::TotalBits.number() - FIRST
}

impl Reason {
    /// Whether a packet with this reason is dropped (in enforce mode).
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        is_drop(self.number())
    }

    /// Whether the filter acts on a packet with this reason, by a drop or an answer; monitor mode only counts it.
    #[inline(always)]
    pub const fn is_action(self) -> bool {
        is_action(self.number())
    }

    /// What happens to a packet with this reason (in enforce mode): `pass`, `answer` or `drop`.
    pub fn verdict(self) -> &'static str {
        match self {
            Self::Answered => "answer",
            reason if reason.is_drop() => "drop",
            _ => "pass",
        }
    }

    /// Whether a packet with this reason may [prove](crate::proof) its origin: it is over a limit.
    #[inline(always)]
    pub const fn is_provable(self) -> bool {
        is_provable(self.number())
    }

    /// Whether only packets over a limit have this reason, whether dropped or passed by evidence.
    pub const fn is_over_limit(self) -> bool {
        matches!(
            self,
            Self::Proven
                | Self::QueueHasRoom
                | Self::Answered
                | Self::NoConnection
                | Self::NoListener
                | Self::WrongCookie
                | Self::FirstSyn
                | Self::NoSocket
                | Self::QueueFull
                | Self::SynAgain
                | Self::PortShare
        ) || self.is_provable()
    }

    /// Returns the reason for a packet over a limit: the cell's scope, and whether bits rather than packets weighed
    /// more.
    #[inline(always)]
    pub fn exceeding(cell: Cell, bits: bool) -> Self {
        let number = Self::SourcePackets.number() + 2 * cell.scope_number() + u32::from(bits);
        Self::from_number(number).unwrap_or(Self::SourcePackets)
    }

    /// The number in counters and samples.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::{Class, Scope};

    #[test]
    fn numbers_and_labels_are_unique_and_lead_back() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(Reason::from_number(reason.number()), Some(*reason));
            for other in &Reason::ALL[..index] {
                assert!(other.number() < reason.number(), "numbers ascend: {other:?}, {reason:?}");
                assert_ne!(other.label(), reason.label());
            }
        }
        assert_eq!(Reason::from_number(REASON_SLOTS as u32), None);
    }

    #[test]
    fn each_scope_and_unit_has_its_reason() {
        for scope in Scope::ALL {
            for (bits, unit) in [(false, "packets"), (true, "bits")] {
                let reason = Reason::exceeding(Cell::new(scope, Class::Any), bits);
                assert_eq!(reason.label(), format!("{}_{unit}", scope.label()));
            }
        }
    }

    #[test]
    fn labels_can_be_metric_label_values_without_quoting() {
        for reason in Reason::ALL {
            assert!(
                reason.label().bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            );
            assert!(reason.meaning().ends_with('.'));
        }
    }
}
