//! Frames, byte by byte: valid by default, and broken on purpose.
//!
//! [`from`] begins a packet; methods add layers; [`Build::bytes`] computes lengths and checksums. [`Build::patch`]
//! and [`Build::cut`] break the finished bytes on purpose, so that a test states exactly which byte it breaks.

pub mod generate;

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use flood_common::wire::{ethertype, protocol};

/// The flood's sender (RFC 5737, TEST-NET-2).
pub const ATTACKER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 66));
/// A legitimate client (TEST-NET-3).
pub const VISITOR: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 7));
/// The host under attack (TEST-NET-1).
pub const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
/// [`ATTACKER`] in IPv6 (RFC 3849).
pub const ATTACKER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, 0x66));
/// [`VISITOR`] in IPv6.
pub const VISITOR6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x600d, 0, 0, 0, 0, 7));
/// [`SERVER`] in IPv6.
pub const SERVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));

/// A server that the host sends requests to (TEST-NET-2): a resolver, an NTP server, a web site.
pub const RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 53));
/// [`RESOLVER`] in IPv6.
pub const RESOLVER6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0x53));

/// Four bytes of a frame, at an even offset, that a flood randomizes in each packet, under a mask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Varied {
    /// Offset of the first byte.
    pub offset: usize,
    /// The bits that vary.
    pub mask: u32,
}

/// Length of an Ethernet header.
pub const ETHERNET: usize = 14;

/// The encapsulation between the tags and the IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Around {
    Nothing,
    /// PPPoE, with the PPP protocol in one byte or two.
    Pppoe {
        is_short: bool,
    },
    /// An 802.3 length, LLC and SNAP.
    Snap,
}

impl Around {
    /// Bytes that it takes, in addition to an EtherType.
    fn size(self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Pppoe { is_short } => 8 - usize::from(is_short),
            Self::Snap => 8,
        }
    }

    /// Returns the EtherType, or the encapsulation header that stands for it, of a packet of this many bytes.
    fn announce(self, ethertype: u16, packet: usize) -> Vec<u8> {
        let length = |more: usize| u16::try_from(packet + more).unwrap_or(u16::MAX).to_be_bytes();
        let kind = ethertype.to_be_bytes();
        match self {
            Self::Nothing => kind.to_vec(),
            Self::Pppoe { is_short } => {
                let protocol = [0, if ethertype == ethertype::IPV4 { 0x21 } else { 0x57 }];
                let protocol = &protocol[usize::from(is_short)..];
                let [high, low] = ethertype::PPPOE_SESSION.to_be_bytes();
                [&[high, low, 0x11, 0, 0, 1], &length(protocol.len())[..], protocol].concat()
            }
            Self::Snap => [&length(8)[..], &[0xaa, 0xaa, 3, 0, 0, 0], &kind].concat(),
        }
    }
}

/// A packet under construction.
#[derive(Clone, Debug)]
pub struct Build {
    source: IpAddr,
    destination: IpAddr,
    tags: Vec<u16>,
    around: Around,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    fragment: Option<(u16, bool)>,
    identification: u16,
    hop_limit: u8,
    protocol: u8,
    transport: Vec<u8>,
    payload: usize,
    padding: usize,
    varied: Vec<Varied>,
    patches: Vec<(usize, Vec<u8>)>,
    cut: Option<usize>,
}

/// Begins a packet from `source` to the server. Without a transport header, its protocol is the experimental 253 (RFC
/// 3692).
pub fn from(source: IpAddr) -> Build {
    Build {
        source,
        destination: if source.is_ipv4() { SERVER } else { SERVER6 },
        tags: Vec::new(),
        around: Around::Nothing,
        options: Vec::new(),
        extensions: Vec::new(),
        fragment: None,
        identification: 1,
        hop_limit: 64,
        protocol: 253,
        transport: Vec::new(),
        payload: 0,
        padding: 0,
        varied: Vec::new(),
        patches: Vec::new(),
        cut: None,
    }
}

impl Build {
    /// Whether it is IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.source.is_ipv4()
    }

    /// Sets the destination.
    pub fn to(mut self, destination: IpAddr) -> Self {
        self.destination = destination;
        self
    }

    /// Adds a customer's VLAN tag (802.1Q) inside the existing tags.
    pub fn vlan(self) -> Self {
        self.tag(ethertype::VLAN)
    }

    /// Adds a provider's VLAN tag (802.1ad) inside the existing tags.
    pub fn service_vlan(self) -> Self {
        self.tag(ethertype::SERVICE_VLAN)
    }

    /// Adds a VLAN tag of this EtherType inside the existing tags.
    pub fn tag(mut self, ethertype: u16) -> Self {
        self.tags.push(ethertype);
        self
    }

    /// Puts it into a PPPoE session.
    pub fn pppoe(mut self) -> Self {
        self.around = Around::Pppoe { is_short: false };
        self
    }

    /// The same with the PPP protocol in one byte.
    pub fn short_pppoe(mut self) -> Self {
        self.around = Around::Pppoe { is_short: true };
        self
    }

    /// Puts it into a frame with an 802.3 length, behind LLC and SNAP.
    pub fn snap(mut self) -> Self {
        self.around = Around::Snap;
        self
    }

    /// Adds IPv4 options: this many words of no-operations.
    pub fn options(mut self, words: usize) -> Self {
        self.options = vec![1; words * 4];
        self
    }

    /// Adds an IPv6 extension header of this kind, with `words` times eight bytes behind its first eight (for the
    /// authentication header, `words` times four).
    pub fn extension(mut self, kind: u8, words: u8) -> Self {
        let unit = if kind == protocol::AUTHENTICATION { 4 } else { 8 };
        let mut header = vec![0; 8 + usize::from(words) * unit];
        header[1] = words;
        if kind == protocol::HOP_BY_HOP || kind == protocol::DESTINATION_OPTIONS {
            // One PadN option over all of it (RFC 8200 section 4.2); its length is one byte.
            header[2] = 1;
            header[3] = u8::try_from(header.len() - 4).unwrap_or(u8::MAX);
        }
        self.extensions.push((kind, header));
        self
    }

    /// Makes it a fragment, at `offset` in units of eight bytes.
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        if self.source.is_ipv6() {
            let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
            self.extensions.push((protocol::FRAGMENT, vec![0, 0, high, low, 0, 0, 0, 0]));
        }
        self.fragment = Some((offset, more));
        self
    }

    /// Sets the identification of the datagram.
    pub fn datagram(mut self, identification: u16) -> Self {
        self.identification = identification;
        self
    }

    /// Sets the hop limit, or TTL.
    pub fn hop_limit(mut self, hop_limit: u8) -> Self {
        self.hop_limit = hop_limit;
        self
    }

    /// Adds a TCP header with these flags.
    pub fn tcp(mut self, source: u16, destination: u16, flags: u8) -> Self {
        self.protocol = protocol::TCP;
        self.transport = vec![0; 20];
        self.transport[0..2].copy_from_slice(&source.to_be_bytes());
        self.transport[2..4].copy_from_slice(&destination.to_be_bytes());
        self.transport[12] = 5 << 4;
        self.transport[13] = flags;
        self.transport[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
        self
    }

    /// Sets the sequence and acknowledgement numbers of its TCP header.
    pub fn numbers(mut self, sequence: u32, acknowledgement: u32) -> Self {
        self.transport[4..8].copy_from_slice(&sequence.to_be_bytes());
        self.transport[8..12].copy_from_slice(&acknowledgement.to_be_bytes());
        self
    }

    /// Adds the TCP header of a SYN.
    pub fn syn(self, destination: u16) -> Self {
        self.tcp(40_000, destination, 0x02)
    }

    /// Adds a UDP header.
    pub fn udp(mut self, source: u16, destination: u16) -> Self {
        self.protocol = protocol::UDP;
        self.transport = vec![0; 8];
        self.transport[0..2].copy_from_slice(&source.to_be_bytes());
        self.transport[2..4].copy_from_slice(&destination.to_be_bytes());
        self
    }

    /// Adds an ICMP or ICMPv6 header followed by four zero bytes.
    pub fn icmp(mut self, kind: u8, code: u8) -> Self {
        self.protocol = if self.source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
        self.transport = vec![kind, code, 0, 0, 0, 0, 0, 0];
        self
    }

    /// Makes it a ping.
    pub fn echo_request(self) -> Self {
        let kind = if self.source.is_ipv4() { 8 } else { 128 };
        self.icmp(kind, 0)
    }

    /// Makes it the reply to a ping with this identifier.
    pub fn ping_answer(self, identifier: u16) -> Self {
        let kind = if self.source.is_ipv4() { 0 } else { 129 };
        self.icmp(kind, 0).identifier(identifier)
    }

    /// Sets the identifier of a ping.
    pub fn identifier(self, identifier: u16) -> Self {
        let at = self.transport_offset() + 4;
        self.patch(at, &identifier.to_be_bytes())
    }

    /// A neighbour solicitation, as a neighbour on the link sends it.
    pub fn neighbour_solicitation(self) -> Self {
        self.hop_limit(255).icmp(135, 0).payload(16)
    }

    /// Sets the protocol number of a packet without a transport header.
    pub fn protocol(mut self, number: u8) -> Self {
        self.protocol = number;
        self.transport.clear();
        self
    }

    /// Adds specific data, before those of [`payload`](Self::payload).
    pub fn data(mut self, data: &[u8]) -> Self {
        self.transport.extend(data);
        self
    }

    /// Adds this many bytes of data.
    pub fn payload(mut self, bytes: usize) -> Self {
        self.payload = bytes;
        self
    }

    /// Adds this many bytes behind the packet, as in short frames.
    pub fn padding(mut self, bytes: usize) -> Self {
        self.padding = bytes;
        self
    }

    /// Overwrites bytes of the finished frame.
    pub fn patch(mut self, offset: usize, bytes: &[u8]) -> Self {
        self.patches.push((offset, bytes.to_vec()));
        self
    }

    /// Lets a flood randomize four bytes at this offset from the transport header, under a mask.
    pub fn vary(mut self, behind: usize, mask: u32) -> Self {
        self.varied.push(Varied { offset: self.transport_offset() + behind, mask });
        self
    }

    /// Returns what a flood randomizes.
    pub fn varied(&self) -> &[Varied] {
        &self.varied
    }

    /// Truncates the finished frame.
    pub fn cut(mut self, length: usize) -> Self {
        self.cut = Some(length);
        self
    }

    /// Returns the offset of the IP header.
    pub fn ip_offset(&self) -> usize {
        ETHERNET + 4 * self.tags.len() + self.around.size()
    }

    /// Returns the offset of the transport header.
    pub fn transport_offset(&self) -> usize {
        let extensions: usize = self.extensions.iter().map(|(_, header)| header.len()).sum();
        let header = if self.source.is_ipv4() { 20 + self.options.len() } else { 40 + extensions };
        self.ip_offset() + header
    }

    /// Returns the frame.
    pub fn bytes(&self) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for tag in &self.tags {
            frame.extend(tag.to_be_bytes());
            frame.extend(7_u16.to_be_bytes());
        }
        let mut data = self.transport.clone();
        data.resize(self.transport.len() + self.payload, 0xa5);
        let whole = self.fragment.is_none();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut pseudo = [source.octets(), destination.octets()].concat();
                pseudo.extend([0, self.protocol]);
                self.finish_transport(&mut data, pseudo, whole);
                self.push_ipv4(&mut frame, source, destination, &data);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut pseudo = [source.octets(), destination.octets()].concat();
                pseudo.extend([0, self.protocol]);
                self.finish_transport(&mut data, pseudo, whole);
                self.push_ipv6(&mut frame, source, destination, &data);
            }
            (source, destination) => panic!("{source} and {destination} are of different families"),
        }
        frame.resize(frame.len() + self.padding, 0);
        for (offset, bytes) in &self.patches {
            frame[*offset..*offset + bytes.len()].copy_from_slice(bytes);
        }
        if let Some(length) = self.cut {
            frame.truncate(length);
        }
        frame
    }

    /// Fills in the length (UDP) and the checksum of the transport header.
    fn finish_transport(&self, data: &mut [u8], mut pseudo: Vec<u8>, whole: bool) {
        let length = u16::try_from(data.len()).unwrap_or(0);
        let checksum_at = match self.protocol {
            _ if self.transport.is_empty() => return,
            protocol::TCP => 16,
            protocol::UDP => {
                data[4..6].copy_from_slice(&length.to_be_bytes());
                6
            }
            _ => 2,
        };
        pseudo.extend(length.to_be_bytes());
        if self.protocol == protocol::ICMP {
            pseudo.clear();
        }
        // A fragment's checksum covers data in other fragments.
        if whole {
            let sum = checksum(&[&pseudo, data]);
            data[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
        }
    }

    fn push_ipv4(&self, frame: &mut Vec<u8>, source: Ipv4Addr, destination: Ipv4Addr, data: &[u8]) {
        let header = 20 + self.options.len();
        frame.extend(self.around.announce(ethertype::IPV4, header + data.len()));
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let mut ip = vec![0x40 | u8::try_from(header / 4).unwrap_or(15), 0];
        ip.extend(u16::try_from(header + data.len()).unwrap_or(u16::MAX).to_be_bytes());
        ip.extend(self.identification.to_be_bytes());
        ip.extend((offset | u16::from(more) << 13).to_be_bytes());
        ip.extend([self.hop_limit, self.protocol, 0, 0]);
        ip.extend(source.octets());
        ip.extend(destination.octets());
        ip.extend(&self.options);
        let sum = checksum(&[&ip]);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(ip);
        frame.extend(data);
    }

    fn push_ipv6(&self, frame: &mut Vec<u8>, source: Ipv6Addr, destination: Ipv6Addr, data: &[u8]) {
        let extensions: usize = self.extensions.iter().map(|(_, header)| header.len()).sum();
        frame.extend(self.around.announce(ethertype::IPV6, 40 + extensions + data.len()));
        let mut kinds = self.extensions.iter().map(|(kind, _)| *kind).chain([self.protocol]);
        frame.extend([0x60, 0, 0, 0]);
        frame.extend(u16::try_from(extensions + data.len()).unwrap_or(u16::MAX).to_be_bytes());
        frame.extend([kinds.next().unwrap_or(59), self.hop_limit]);
        frame.extend(source.octets());
        frame.extend(destination.octets());
        for (kind, header) in &self.extensions {
            frame.push(kinds.next().unwrap_or(59));
            frame.extend(&header[1..]);
            if *kind == protocol::FRAGMENT {
                let at = frame.len() - 2;
                frame[at..].copy_from_slice(&self.identification.to_be_bytes());
            }
        }
        frame.extend(data);
    }
}

/// Computes the Internet checksum (RFC 1071) over parts of even length, except for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 =
        words.map(|pair| u32::from(pair[0]) << 8 | pair.get(1).copied().map_or(0, u32::from)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Returns a frame that is not IP, of the minimum length on the wire.
pub fn not_ip(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.resize(60, 0);
    frame
}

/// Returns a frame with an IP packet behind `header`, an encapsulation that the filter does not look into.
pub fn encapsulated(ethertype: u16, header: &[u8], packet: &Build) -> Vec<u8> {
    let bytes = packet.bytes();
    [&bytes[..ETHERNET - 2], &ethertype.to_be_bytes(), header, &bytes[packet.ip_offset()..]].concat()
}

/// Describes a frame for a message: etherparse's view of it, and its bytes.
pub fn describe(frame: &[u8]) -> String {
    /// Bytes per line.
    const LINE: usize = 16;

    let mut text = format!("{} bytes", frame.len());
    match etherparse::LaxSlicedPacket::from_ethernet(frame) {
        Ok(sliced) => _ = write!(text, ", net {:?}, stop {:?}", sliced.net, sliced.stop_err),
        Err(error) => _ = write!(text, ", etherparse: {error}"),
    }
    for (number, line) in frame.chunks(LINE).take(20).enumerate() {
        _ = write!(text, "\n{:04x} ", number * LINE);
        for byte in line {
            _ = write!(text, " {byte:02x}");
        }
    }
    text
}
