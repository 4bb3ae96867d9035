//! Headers in wire format, and the only means of reading them.
//!
//! A [`Window`] is a frame that can be viewed at an offset. There are two: [`Frame`] over a slice, for the host,
//! and `XdpWindow` in `flood-ebpf`, for the kernel, whose verifier requires every view to be compared with the
//! packet's end pointer and rejects a plain slice over the packet. They differ in nothing else.
//!
//! Header types are views: alignment 1, every bit pattern valid, numbers in network byte order ([`Be16`]).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A 16-bit number in network byte order.
pub type Be16 = zerocopy::big_endian::U16;

/// A type as which any bytes at any address may be viewed.
pub trait WireType: FromBytes + Immutable + KnownLayout + Unaligned {}
impl<T: FromBytes + Immutable + KnownLayout + Unaligned> WireType for T {}

/// A frame whose bytes can be viewed as headers.
pub trait Window<'a>: Copy {
    /// Views the bytes at `offset` as a `T`, or returns `None` if they extend beyond what can be viewed.
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T>;

    /// Whether the frame begins with an IP header, as on a device without a link layer.
    fn is_bare(self) -> bool {
        false
    }

    /// Length of the whole frame in bytes, as the kernel counts it (no preamble, no frame check sequence). A
    /// frame in several buffers is longer than what can be viewed.
    fn length(self) -> u32;

    /// Length of its first buffer in bytes: what can be viewed.
    fn first_buffer(self) -> u32 {
        self.length()
    }

    /// Length of the frame for a packet that ends at offset `end`. If the first buffer holds the whole packet, this
    /// omits what trails behind it in other buffers, because asking the kernel costs a tenth of a verdict.
    #[inline(always)]
    fn length_of_packet(self, end: usize) -> u32 {
        let first_buffer = self.first_buffer();
        if end <= first_buffer as usize { first_buffer } else { self.length() }
    }
}

/// A frame in a slice.
#[derive(Clone, Copy)]
pub struct Frame<'a>(pub &'a [u8]);

impl<'a> Window<'a> for Frame<'a> {
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        let (header, _) = T::ref_from_prefix(self.0.get(offset..)?).ok()?;
        Some(header)
    }

    fn length(self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }
}

/// An IP packet in a slice, with nothing around it.
#[derive(Clone, Copy)]
pub struct BarePacket<'a>(pub &'a [u8]);

impl<'a> Window<'a> for BarePacket<'a> {
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        Frame(self.0).view(offset)
    }

    fn is_bare(self) -> bool {
        true
    }

    fn length(self) -> u32 {
        Frame(self.0).length()
    }
}

/// Reads a 32-bit number in network byte order.
///
/// In the kernel this is one load: packets have any alignment, for which the compiler would read byte by byte. All
/// processors that Floodgate supports read unaligned words, so the verifier accepts it.
#[inline(always)]
pub fn read_be32(bytes: &[u8; 4]) -> u32 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: a load of the bytes that the reference covers.
        unsafe {
            core::arch::asm!("{value} = *(u32 *)({bytes} + 0)", value = lateout(reg) value, bytes = in(reg) bytes.as_ptr(),
                options(pure, readonly, nostack, preserves_flags));
        }
        u32::from_be(value as u32)
    }
    #[cfg(not(target_arch = "bpf"))]
    u32::from_be_bytes(*bytes)
}

/// Reads a 64-bit number in network byte order; see [`read_be32`].
#[inline(always)]
pub fn read_be64(bytes: &[u8; 8]) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let value: u64;
        // SAFETY: a load of the bytes that the reference covers.
        unsafe {
            core::arch::asm!("{value} = *(u64 *)({bytes} + 0)", value = lateout(reg) value, bytes = in(reg) bytes.as_ptr(),
                options(pure, readonly, nostack, preserves_flags));
        }
        u64::from_be(value)
    }
    #[cfg(not(target_arch = "bpf"))]
    u64::from_be_bytes(*bytes)
}

macro_rules! header {
    ($(#[$doc:meta])* $name:ident, $size:literal { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug)]
        #[repr(C)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)* }
        const _: () = assert!(size_of::<$name>() == $size && align_of::<$name>() == 1);
    };
}

header! {
    /// Ethernet II (IEEE 802.3 clause 3).
    Ethernet, 14 {
        /// Destination MAC address.
        destination: [u8; 6],
        /// Source MAC address.
        source: [u8; 6],
        /// EtherType, or a length when at most 1500.
        ethertype: Be16,
    }
}

header! {
    /// What follows a VLAN EtherType (IEEE 802.1Q, 802.1ad).
    VlanTag, 4 {
        /// Priority, drop eligibility and VLAN number.
        control: Be16,
        /// EtherType of what is inside.
        ethertype: Be16,
    }
}

header! {
    /// A PPPoE session header (RFC 2516 section 4), and the beginning of the PPP frame after it.
    Pppoe, 8 {
        /// Version and type; receivers ignore them.
        version_type: u8,
        /// Code; receivers ignore it, too.
        code: u8,
        /// Number of the session.
        session: Be16,
        /// Length of the PPP frame, bytes.
        length: Be16,
        /// Its protocol. If the first byte is odd, it is the whole protocol field (RFC 1661 section 6.5).
        protocol: [u8; 2],
    }
}

header! {
    /// LLC and SNAP, in a frame with a length (RFC 1042).
    Snap, 8 {
        /// Both service access points and the control field: [`LLC`](Self::LLC).
        llc: [u8; 3],
        /// The organization that assigns `ethertype`; zeros for EtherTypes.
        organization: [u8; 3],
        /// EtherType of what is inside.
        ethertype: Be16,
    }
}

impl Snap {
    /// The value of `llc` for SNAP.
    pub const LLC: [u8; 3] = [0xaa, 0xaa, 0x03];
}

header! {
    /// IPv4 without options (RFC 791 section 3.1).
    Ipv4, 20 {
        /// Version in the upper four bits, header length in 32-bit words in the lower.
        version_length: u8,
        /// Type of service.
        service: u8,
        /// Length of header and data, bytes.
        total_length: Be16,
        /// Groups the fragments of a datagram.
        identification: Be16,
        /// Three flags and the fragment offset in units of eight bytes.
        flags_offset: Be16,
        /// Time to live.
        ttl: u8,
        /// Protocol of the data.
        protocol: u8,
        /// Header checksum.
        checksum: Be16,
        /// Source address.
        source: [u8; 4],
        /// Destination address.
        destination: [u8; 4],
    }
}

header! {
    /// IPv6 (RFC 8200 section 3).
    Ipv6, 40 {
        /// Version in the upper four bits, then traffic class and flow label.
        version_class_flow: [u8; 4],
        /// Length of all that follows this header, bytes; 0 in a jumbogram.
        payload_length: Be16,
        /// Type of the next header.
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source address: network and interface identifier.
        source: [[u8; 8]; 2],
        /// Destination address: network and interface identifier.
        destination: [[u8; 8]; 2],
    }
}

header! {
    /// The common beginning of IPv6 extension headers (RFC 8200 section 4) and of the authentication header.
    Extension, 2 {
        /// Type of the next header.
        next_header: u8,
        /// Length beyond the first eight bytes, in units of eight (AH: of four, RFC 4302 section 2.2).
        length: u8,
    }
}

header! {
    /// The IPv6 fragment header (RFC 8200 section 4.5).
    Fragment, 8 {
        /// Type of the next header.
        next_header: u8,
        /// Reserved.
        reserved: u8,
        /// Fragment offset in units of eight bytes (upper 13 bits) and the more-fragments flag (lowest).
        offset_more: Be16,
        /// Groups the fragments of a datagram.
        identification: [u8; 4],
    }
}

header! {
    /// The beginning of a frame with a packet directly behind Ethernet.
    Head, 20 {
        /// MAC addresses.
        around: [u8; 12],
        /// EtherType, and the first six bytes of the IP header.
        start: [u8; 8],
    }
}

header! {
    /// The same for IPv4 without options, up to the first eight bytes of the transport header.
    HeadV4, 42 {
        /// The fields of [`Head`].
        before: [u8; 20],
        /// Flags and offset, time to live, protocol.
        middle: [u8; 4],
        /// Checksum.
        checksum: Be16,
        /// Source address.
        source: [u8; 4],
        /// Destination address.
        destination: [u8; 4],
        /// Ports, and the bytes that follow them.
        transport: [[u8; 4]; 2],
    }
}

header! {
    /// The same for IPv6 without extension headers.
    HeadV6, 62 {
        /// The fields of [`Head`].
        before: [u8; 20],
        /// What follows the IP header (IANA number).
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source address: two halves.
        source: [[u8; 8]; 2],
        /// Destination address: two halves.
        destination: [[u8; 8]; 2],
        /// Ports, and the bytes that follow them.
        transport: [[u8; 4]; 2],
    }
}

header! {
    /// TCP without options (RFC 9293 section 3.1).
    Tcp, 20 {
        /// Source port.
        source: Be16,
        /// Destination port.
        destination: Be16,
        /// Sequence number.
        sequence: [u8; 4],
        /// Acknowledgement number.
        acknowledgement: [u8; 4],
        /// Header length in 32-bit words in the upper four bits.
        offset: u8,
        /// Flags.
        flags: u8,
        /// Window.
        window: Be16,
        /// Checksum.
        checksum: Be16,
        /// Urgent pointer.
        urgent: Be16,
    }
}

header! {
    /// UDP (RFC 768).
    Udp, 8 {
        /// Source port.
        source: Be16,
        /// Destination port.
        destination: Be16,
        /// Length of header and data, bytes; 0 in an IPv6 jumbogram.
        length: Be16,
        /// Checksum.
        checksum: Be16,
    }
}

header! {
    /// The header of ICMP (RFC 792) and ICMPv6 (RFC 4443); no system accepts a shorter one.
    Icmp, 8 {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Checksum.
        checksum: Be16,
        /// In a ping and its answer: distinguishes senders of pings.
        identifier: Be16,
        /// In a ping and its answer: which ping of its sender.
        sequence: Be16,
    }
}

/// Whether an ICMP or ICMPv6 message of this type is a ping.
#[inline(always)]
pub fn is_ping(number: u8, kind: u8) -> bool {
    kind == if number == protocol::ICMP { 8 } else { 128 }
}

/// Whether an ICMP or ICMPv6 message of this type answers a ping.
#[inline(always)]
pub fn is_ping_answer(number: u8, kind: u8) -> bool {
    kind == if number == protocol::ICMP { 0 } else { 129 }
}

/// Whether an ICMP or ICMPv6 message of this type reports a packet that could not be delivered (RFC 792: 3, 4, 5,
/// 11 and 12; RFC 4443 section 2.1).
#[inline(always)]
pub fn is_icmp_error(number: u8, kind: u8) -> bool {
    const ERRORS: u64 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 11 | 1 << 12;
    if number == protocol::ICMP { kind < 64 && ERRORS >> kind & 1 != 0 } else { kind < 128 }
}

/// EtherTypes (IEEE registration authority; `linux/if_ether.h` for those that it does not list).
pub mod ethertype {
    /// Smaller numbers are lengths (IEEE 802.3 clause 3.2.6).
    pub const FIRST: u16 = 0x0600;
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// VLAN tag (802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// Service VLAN tag (802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
    /// Service VLAN tags from before 802.1ad, never registered, which equipment can still be configured to use.
    pub const OLD_SERVICE_VLANS: [u16; 3] = [0x9100, 0x9200, 0x9300];
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// PPPoE session (RFC 2516).
    pub const PPPOE_SESSION: u16 = 0x8864;
    /// Protocols that carry packets, or whole frames, in ways that are not parsed.
    pub const CARRIERS: [u16; 10] = [
        0x8847, // MPLS
        0x8848, // MPLS multicast
        0x88e5, // MACsec (802.1AE)
        0x88e7, // provider backbone bridge (802.1ah)
        0x893f, // E-tag (802.1BR)
        0x8926, // VN-tag
        0x894f, // NSH (RFC 8300)
        0x22f3, // TRILL (RFC 6325)
        0x892f, // HSR (IEC 62439-3)
        0x4305, // batman-adv
    ];
}

/// PPP protocol numbers (IANA "PPP DLL Protocol Numbers").
pub mod ppp {
    /// IPv4.
    pub const IPV4: u16 = 0x0021;
    /// IPv6.
    pub const IPV6: u16 = 0x0057;
    /// The protocols from here on run a link; those below carry data (RFC 1661 section 2).
    pub const FIRST_CONTROL: u16 = 0x8000;
}

/// Protocol and next-header numbers (IANA "Assigned Internet Protocol Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header.
    pub const FRAGMENT: u8 = 44;
    /// Authentication header.
    pub const AUTHENTICATION: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// IPv6 destination options.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
}

/// TCP flags (RFC 9293 section 3.1).
pub mod tcp_flags {
    /// The sender has no more data.
    pub const FIN: u8 = 0x01;
    /// Opens a connection.
    pub const SYN: u8 = 0x02;
    /// Aborts a connection.
    pub const RST: u8 = 0x04;
    /// The data should be delivered at once.
    pub const PSH: u8 = 0x08;
    /// The acknowledgement number is valid.
    pub const ACK: u8 = 0x10;
    /// The urgent pointer is valid.
    pub const URG: u8 = 0x20;
}
