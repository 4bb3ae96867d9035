//! Parsing: from a frame to the few facts that a verdict needs.
//!
//! One pass from the outside in: Ethernet and what surrounds IP ([`link`]), IP, IPv6 extension headers, transport.
//! Every loop has a named bound, and exceeding it has a reason of its own. A fault before the source address is
//! known makes the frame [`Parsed::Broken`]; a fault behind it is a [`defect`](Packet::defect) of the packet, so
//! that the allow list still applies to its source.
//!
//! Invariant: ports are read only where the IP header, its options and its extension headers say that a transport
//! header begins, and never from a later fragment.

use crate::{
    address::Address,
    class::Class,
    link::{self, Inner, Link},
    reason::Reason,
    verifier,
    wire::{
        Ethernet, Extension, Fragment, Icmp, Ipv4, Ipv6, Tcp, Udp, Window, ethertype, protocol, read_be32,
        read_be64, tcp_flags,
    },
};

/// Maximum number of IPv6 extension headers that are parsed. RFC 8200 section 4.1 recommends an order in which each
/// occurs at most once, destination options twice; six leaves room for all that occur together in practice.
pub const MAX_IPV6_EXTENSIONS: usize = 6;

/// No header is read at or beyond this offset, bytes. What surrounds IP (30 bytes) and IPv6 with the longest chain
/// of extension headers (2048 bytes each) end before it, and the verifier knows a bound for every packet access.
pub const MAX_HEADER_OFFSET: usize = 0x3fff;

/// The result of parsing a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Parsed {
    /// An IP packet whose source is known.
    Packet(Packet),
    /// Not IP; the EtherType, or [`link::LENGTH`].
    NotIp(u16),
    /// A protocol that may carry IP and is not parsed; the EtherType.
    Encapsulated(u16),
    /// Too broken to have a source.
    Broken(Reason),
}

/// The facts about an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub source: Address,
    /// Destination address.
    pub destination: Address,
    /// Preliminary class: UDP from a reflector port is still `Udp`, and an ICMP error still `Icmp`.
    pub class: Class,
    /// Length of the whole frame, bytes.
    pub length: u32,
    /// Offset of the IP header, bytes.
    pub network_at: usize,
    /// Offset of the field in a surrounding header that states how many bytes follow it ([`Inner::length_at`]).
    pub length_at: usize,
    /// Offset of what follows the IP header, its options and its extension headers, bytes.
    pub transport_at: usize,
    /// Protocol of the innermost header reached (IANA number).
    pub protocol: u8,
    /// Which part of a datagram this is.
    pub part: Part,
    /// Identifies the datagram that this is a part of: its identification, and in IPv4 its protocol in the bits
    /// above that (RFC 791 section 3.2, RFC 8200 section 4.5).
    pub datagram: u64,
    /// Its position in the datagram.
    pub piece: Piece,
    /// Source and destination port, if there is a TCP or UDP header.
    pub ports: Option<Ports>,
    /// Flags, if there is a TCP header.
    pub tcp_flags: Option<u8>,
    /// Fields of an ICMP or ICMPv6 header, the identifier read as that of a ping.
    pub icmp: Message,
    /// Set when the packet must get through for the host to stay reachable.
    pub vital: Option<Vital>,
    /// The defect of the packet behind its addresses, if any.
    pub defect: Option<Reason>,
}

/// The fields of an ICMP header; zeros if there is none.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Message {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Distinguishes the senders of pings.
    pub identifier: u16,
}

/// Which part of a datagram a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Part {
    /// All of it.
    Whole = 0,
    /// The fragment with the transport header.
    First = 1,
    /// A fragment without transport header.
    Later = 2,
}

/// Position of a packet in its datagram; an unfragmented packet is the only piece.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// Offset of its data in that of the datagram, bytes.
    pub start: u32,
    /// Length of its data, bytes.
    pub length: u32,
    /// End of its data, bytes. In IPv4 this includes the IP header, which counts towards the maximum packet length
    /// there.
    pub end: u32,
    /// Whether no other piece follows.
    pub is_last: bool,
}

/// Ports, host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
}

/// Kinds of messages without which a host falls off the network. Each has a budget of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Vital {
    /// IPv6 neighbour discovery (RFC 4861) that cannot have come through a router: hop limit 255.
    NeighbourDiscovery = 0,
    /// ICMP fragmentation needed (RFC 1191) and ICMPv6 packet too big (RFC 8201).
    PathMtu = 1,
    /// Packets to all hosts of the link, which no router forwards (224.0.0.0/24, RFC 5771; ff02::/16, RFC 4291):
    /// the protocols that run a link, such as VRRP, OSPF, IGMP and mDNS.
    Link = 2,
}

/// Number of kinds.
pub const VITALS: usize = 3;

/// The first 24 bits of the addresses of all hosts of a link in IPv4, and the first 16 in IPv6: see
/// [`Vital::Link`].
pub(crate) const LINK_MULTICAST_V4: u32 = 0x00e0_0000;
pub(crate) const LINK_MULTICAST_V6: u64 = 0xff02;

/// Hop limit that only packets from a neighbour on the link can have (RFC 4861 section 7.1).
const ON_LINK_HOP_LIMIT: u8 = 255;

/// Parses a frame.
#[inline(always)]
pub fn parse<'a, W: Window<'a>>(window: W) -> Parsed {
    let kind = match window.view::<Ethernet>(0) {
        _ if window.is_bare() => link::LENGTH,
        Some(ethernet) => ethernet.ethertype.get(),
        None => return Parsed::Broken(Reason::Truncated),
    };
    let bare = Inner { ethertype: kind, offset: size_of::<Ethernet>(), length_at: 0 };
    // Two copies of the code: offsets are constants in the copy for IP directly behind Ethernet.
    match kind {
        ethertype::IPV4 => parse_ipv4(window, bare),
        ethertype::IPV6 => parse_ipv6(window, bare),
        kind => match link::open(window, kind) {
            Link::Ip(inner) if inner.ethertype == ethertype::IPV4 => parse_ipv4(window, inner),
            Link::Ip(inner) => parse_ipv6(window, inner),
            Link::NotIp(kind) => Parsed::NotIp(kind),
            Link::Encapsulated(kind) => Parsed::Encapsulated(kind),
            Link::Broken(reason) => Parsed::Broken(reason),
        },
    }
}

#[inline(always)]
fn parse_ipv4<'a, W: Window<'a>>(window: W, Inner { offset, length_at, .. }: Inner) -> Parsed {
    let Some(ip) = window.view::<Ipv4>(offset) else {
        return Parsed::Broken(Reason::Truncated);
    };
    if ip.version_length >> 4 != 4 {
        return Parsed::Broken(Reason::IpVersion);
    }
    let header = usize::from(ip.version_length & 0x0f) * 4;
    if header < size_of::<Ipv4>() {
        return Parsed::Broken(Reason::IpHeaderLength);
    }
    let stated = usize::from(ip.total_length.get());
    // 0 if a host hands over segments to be cut later (TSO, BIG TCP). Then the end of the frame is the bound.
    let length = if stated == 0 { window.length() } else { window.length_of_packet(offset + stated) };
    let total = if stated == 0 { (length as usize).saturating_sub(offset) } else { stated };
    if total < header || offset + total > length as usize {
        return Parsed::Broken(Reason::IpLength);
    }

    let cut = Cut::from_ipv4(ip.flags_offset.get());
    let transport = parse_transport(window, offset + header, total - header, ip.protocol, cut);
    let (is_whole_message, Message { kind, code, .. }) = (cut.is_whole(), transport.icmp);
    let vital = if read_be32(&ip.destination) >> 8 == LINK_MULTICAST_V4 && ip.protocol != protocol::TCP {
        Some(Vital::Link)
    } else if ip.protocol == protocol::ICMP && is_whole_message && matches!((kind, code), (3, 4)) {
        Some(Vital::PathMtu)
    } else {
        None
    };
    Parsed::Packet(Packet {
        source: Address::from_v4_bytes(&ip.source),
        destination: Address::from_v4_bytes(&ip.destination),
        class: transport.class,
        length,
        network_at: offset,
        length_at,
        transport_at: offset + header,
        protocol: ip.protocol,
        part: cut.part(),
        datagram: u64::from(ip.protocol) << 32 | u64::from(ip.identification.get()),
        piece: cut.piece(total - header, header),
        ports: transport.ports,
        tcp_flags: transport.tcp_flags,
        icmp: transport.icmp,
        vital,
        defect: transport.defect,
    })
}

#[inline(always)]
fn parse_ipv6<'a, W: Window<'a>>(window: W, Inner { offset, length_at, .. }: Inner) -> Parsed {
    let Some(ip) = window.view::<Ipv6>(offset) else {
        return Parsed::Broken(Reason::Truncated);
    };
    if ip.version_class_flow[0] >> 4 != 6 {
        return Parsed::Broken(Reason::IpVersion);
    }
    let start = offset + size_of::<Ipv6>();
    let stated = usize::from(ip.payload_length.get());
    let length = window.length_of_packet(start + stated);
    let room = (length as usize).saturating_sub(start);
    if stated > room {
        return Parsed::Broken(Reason::IpLength);
    }
    // A jumbogram states its length in a hop-by-hop option (RFC 2675). Then the end of the frame is the bound.
    let jumbo = stated == 0 && ip.next_header == protocol::HOP_BY_HOP;
    let remaining = if jumbo { room } else { stated };
    let end = opaque(start + remaining, length);
    let chain = walk_extensions(window, end, length, remaining, ip.next_header);
    let transport = match chain.defect {
        None => parse_transport(window, end - chain.remaining, chain.remaining, chain.protocol, chain.cut),
        defect => Transport { defect, ..Transport::NONE },
    };

    let Message { kind, code, .. } = transport.icmp;
    let vital = match (chain.protocol, kind, code) {
        (protocol::ICMPV6, 2, _) if chain.cut.is_whole() => Some(Vital::PathMtu),
        (protocol::ICMPV6, 133..=137, 0) if chain.cut.is_whole() && ip.hop_limit == ON_LINK_HOP_LIMIT => {
            Some(Vital::NeighbourDiscovery)
        }
        _ if read_be64(&ip.destination[0]) >> 48 == LINK_MULTICAST_V6 && chain.protocol != protocol::TCP => {
            Some(Vital::Link)
        }
        _ => None,
    };
    Parsed::Packet(Packet {
        source: Address::from_v6_bytes(&ip.source),
        destination: Address::from_v6_bytes(&ip.destination),
        class: transport.class,
        length,
        network_at: offset,
        length_at,
        transport_at: end - chain.remaining,
        protocol: chain.protocol,
        part: chain.cut.part(),
        datagram: chain.identification.into(),
        piece: chain.cut.piece(chain.behind_cut, 0),
        ports: transport.ports,
        tcp_flags: transport.tcp_flags,
        icmp: transport.icmp,
        vital,
        defect: transport.defect,
    })
}

/// The end of a chain of IPv6 extension headers: the header `protocol`, `remaining` bytes before the packet's end.
struct Chain {
    remaining: usize,
    protocol: u8,
    cut: Cut,
    /// Bytes behind the last fragment header, or behind the IP header if there is none.
    behind_cut: usize,
    /// Identification in the last fragment header.
    identification: u32,
    defect: Option<Reason>,
}

/// [`verifier::opaque`] for offsets.
#[inline(always)]
fn opaque(value: usize, unknown: u32) -> usize {
    verifier::opaque(value as u64, u64::from(unknown)) as usize
}

/// Parses the extension headers of a packet that ends at offset `end`, starting `remaining` bytes before it.
///
/// VERIFIER: positions are counted from the end, which is never a constant. Counted from the start, each path
/// through the chain has an offset of its own and is verified separately: 158,000 instructions (6.18).
#[inline(always)]
fn walk_extensions<'a, W: Window<'a>>(
    window: W,
    end: usize,
    length: u32,
    remaining: usize,
    next_header: u8,
) -> Chain {
    let mut chain = Chain {
        remaining,
        protocol: next_header,
        cut: Cut(0),
        behind_cut: remaining,
        identification: 0,
        defect: None,
    };
    for _ in 0..MAX_IPV6_EXTENSIONS {
        if !is_extension(chain.protocol) {
            return chain;
        }
        let offset = end - chain.remaining;
        let Some(extension) = window.view::<Extension>(offset) else {
            return Chain { defect: Some(Reason::Truncated), ..chain };
        };
        let size = match chain.protocol {
            protocol::FRAGMENT => size_of::<Fragment>(),
            protocol::AUTHENTICATION => 8 + usize::from(extension.length) * 4,
            _ => 8 + usize::from(extension.length) * 8,
        };
        if size > chain.remaining {
            return Chain { defect: Some(Reason::Ipv6Extensions), ..chain };
        }
        if chain.protocol == protocol::FRAGMENT {
            let Some(fragment) = window.view::<Fragment>(offset) else {
                return Chain { defect: Some(Reason::Truncated), ..chain };
            };
            chain.cut = chain.cut.and(Cut::from_ipv6(fragment.offset_more.get()));
            chain.identification = u32::from_be_bytes(fragment.identification);
            chain.behind_cut = opaque(chain.remaining - size, length);
        }
        chain.protocol = extension.next_header;
        chain.remaining = opaque(chain.remaining - size, length);
        if chain.cut.is_later() {
            return chain;
        }
    }
    if is_extension(chain.protocol) {
        chain.defect = Some(Reason::Ipv6Extensions);
    }
    chain
}

/// Whether it is the number of an IPv6 extension header.
#[inline(always)]
pub(crate) fn is_extension(number: u8) -> bool {
    matches!(
        number,
        protocol::FRAGMENT
            | protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION_OPTIONS
            | protocol::AUTHENTICATION
    )
}

/// How a datagram was fragmented: bit 13 says that more fragments follow, the bits below are the offset (RFC 791
/// section 3.1).
///
/// Bits instead of a [`Part`], which the compiler would carry as a constant on each of three paths.
#[derive(Clone, Copy)]
struct Cut(u16);

impl Cut {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;

    #[inline(always)]
    fn from_ipv4(flags_offset: u16) -> Self {
        Self(flags_offset & (Self::MORE | Self::OFFSET))
    }

    /// Offset 0 without more fragments is an atomic fragment: a whole packet (RFC 6946).
    #[inline(always)]
    fn from_ipv6(offset_more: u16) -> Self {
        Self(((offset_more & 1) << 13) | (offset_more >> 3))
    }

    /// Combines two fragment headers: the second does not make a fragment whole again.
    #[inline(always)]
    fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[inline(always)]
    fn is_whole(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    fn is_later(self) -> bool {
        self.0 & Self::OFFSET != 0
    }

    #[inline(always)]
    fn piece(self, length: usize, header: usize) -> Piece {
        let (start, length) = (u32::from(self.0 & Self::OFFSET) * 8, length as u32);
        Piece { start, length, end: header as u32 + start + length, is_last: self.0 & Self::MORE == 0 }
    }

    #[inline(always)]
    fn part(self) -> Part {
        if self.is_later() {
            Part::Later
        } else if self.is_whole() {
            Part::Whole
        } else {
            Part::First
        }
    }
}

/// The content of the transport header.
struct Transport {
    ports: Option<Ports>,
    tcp_flags: Option<u8>,
    icmp: Message,
    class: Class,
    defect: Option<Reason>,
}

impl Transport {
    /// No information.
    const NONE: Self = Self {
        ports: None,
        tcp_flags: None,
        icmp: Message { kind: 0, code: 0, identifier: 0 },
        class: Class::Other,
        defect: None,
    };
}

/// Parses the transport header at `offset`. The IP header states that `remaining` bytes are there.
#[inline(always)]
fn parse_transport<'a, W: Window<'a>>(
    window: W,
    offset: usize,
    remaining: usize,
    number: u8,
    cut: Cut,
) -> Transport {
    let nothing = Transport::NONE;
    let fragment = Transport { class: Class::Fragment, ..nothing };
    if cut.is_later() {
        return fragment;
    }
    let whole = cut.is_whole();
    let needed = match number {
        protocol::TCP => size_of::<Tcp>(),
        protocol::UDP => size_of::<Udp>(),
        protocol::ICMP | protocol::ICMPV6 => size_of::<Icmp>(),
        _ => return nothing,
    };
    if remaining < needed {
        // The rest of the header may be in another fragment. The sanity checks decide whether that is allowed.
        return if whole { Transport { defect: Some(Reason::TransportHeader), ..nothing } } else { fragment };
    }
    let beyond = Transport { defect: Some(Reason::Truncated), ..nothing };
    match number {
        protocol::TCP => {
            let Some(tcp) = window.view::<Tcp>(offset) else {
                return beyond;
            };
            let header = usize::from(tcp.offset >> 4) * 4;
            let wrong = header < size_of::<Tcp>() || (whole && header > remaining);
            Transport {
                ports: Some(Ports { source: tcp.source.get(), destination: tcp.destination.get() }),
                tcp_flags: Some(tcp.flags),
                class: tcp_class(tcp.flags),
                defect: if wrong { Some(Reason::TransportHeader) } else { None },
                ..nothing
            }
        }
        protocol::UDP => {
            let Some(udp) = window.view::<Udp>(offset) else {
                return beyond;
            };
            let length = usize::from(udp.length.get());
            // 0 means that the length does not fit, in a jumbogram (RFC 2675 section 4).
            let jumbo = length == 0 && remaining > usize::from(u16::MAX);
            let wrong = (length < size_of::<Udp>() && !jumbo) || (whole && length > remaining);
            Transport {
                ports: Some(Ports { source: udp.source.get(), destination: udp.destination.get() }),
                class: Class::Udp,
                defect: if wrong { Some(Reason::TransportHeader) } else { None },
                ..nothing
            }
        }
        _ => {
            let Some(icmp) = window.view::<Icmp>(offset) else {
                return beyond;
            };
            let icmp = Message { kind: icmp.kind, code: icmp.code, identifier: icmp.identifier.get() };
            Transport { icmp, class: Class::Icmp, ..nothing }
        }
    }
}

#[inline(always)]
pub(crate) fn tcp_class(flags: u8) -> Class {
    use tcp_flags::{ACK, FIN, RST, SYN};
    if flags & (RST | FIN) != 0 {
        Class::RstFin
    } else if flags & SYN == 0 {
        Class::Tcp
    } else if flags & ACK == 0 {
        Class::Syn
    } else {
        Class::SynAck
    }
}
