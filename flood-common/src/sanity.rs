//! Checks for packets that should not exist on any wire. They look at the packet alone, without tables or memory.
//!
//! Each check is a [`Reason`] of its own and can be switched off. A failed check is a defect like those that the
//! parser finds, so the allow list still overrides it. The section `[sanity]` of `docs/configuration.md` says what
//! each check finds and by which RFC.
//!
//! Invariant: a packet that an RFC allows passes every check except [`Reason::BogonSource`] and
//! [`Reason::RefusedProtocol`], which express what the operator does not expect.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    address::Address,
    packet::{Packet, Part, Piece, Ports},
    reason::Reason,
    verifier,
    wire::{ethertype, protocol, tcp_flags},
};

/// All checks that can be switched on and off, in the order of their numbers, and whether each is made by default.
pub const CHECKS: [(Reason, bool); 11] = [
    (Reason::Land, true),
    (Reason::LoopbackSource, true),
    (Reason::MulticastSource, true),
    (Reason::ReservedSource, true),
    (Reason::BogonSource, false),
    (Reason::TcpNoFlags, true),
    (Reason::TcpImpossibleFlags, true),
    (Reason::ZeroPort, true),
    (Reason::TinyFragment, true),
    (Reason::FragmentOffset, true),
    (Reason::FragmentOverlap, true),
];

/// A set of numbers of one byte.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct ByteSet {
    words: [u64; 4],
}
const _: () = assert!(size_of::<ByteSet>() == 32);

impl ByteSet {
    /// The numbers for which `is_in` holds.
    pub fn of(is_in: impl Fn(u8) -> bool) -> Self {
        let mut set = Self::default();
        for number in (0..=u8::MAX).filter(|number| is_in(*number)) {
            set.words[usize::from(number >> 6)] |= 1 << (number & 63);
        }
        set
    }

    /// Returns 1 if the set has the number (its lowest byte), 0 if not, without a branch.
    #[inline(always)]
    pub fn has(&self, number: u64) -> u64 {
        (self.words[(number >> 6 & 3) as usize] >> (number & 63)) & 1
    }

    /// The numbers in it.
    pub fn numbers(&self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(|number| self.has((*number).into()) != 0)
    }
}

/// Most EtherTypes in a list.
pub const MAX_ETHERTYPES: usize = 16;

/// Which non-IP frames may pass. ARP always may: without it a host loses its network.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Ethertypes {
    /// Unused entries repeat the first.
    listed: [u16; MAX_ETHERTYPES],
    /// [`REFUSED`](Self::REFUSED), [`ACCEPTED`](Self::ACCEPTED), or 0 if none is refused.
    listed_are: u64,
}
const _: () = assert!(size_of::<Ethertypes>() == 40);

impl Ethertypes {
    const REFUSED: u64 = 1;
    const ACCEPTED: u64 = 2;

    /// Refuses these.
    ///
    /// # Panics
    /// When there are more than [`MAX_ETHERTYPES`].
    pub fn refuse(listed: &[u16]) -> Self {
        Self::new(listed, Self::REFUSED)
    }

    /// Refuses all but these. If the list is empty, refuses none.
    ///
    /// # Panics
    /// When there are more than [`MAX_ETHERTYPES`].
    pub fn accept(listed: &[u16]) -> Self {
        Self::new(listed, Self::ACCEPTED)
    }

    fn new(numbers: &[u16], listed_are: u64) -> Self {
        let Some(first) = numbers.first() else { return Self::default() };
        let mut listed = [*first; MAX_ETHERTYPES];
        listed[..numbers.len()].copy_from_slice(numbers);
        Self { listed, listed_are }
    }

    /// The refused EtherTypes; empty if the list is of [`accepted`](Self::accepted) ones.
    pub fn refused(&self) -> &[u16] {
        self.those_that_are(Self::REFUSED)
    }

    /// The accepted EtherTypes; all others are refused.
    pub fn accepted(&self) -> &[u16] {
        self.those_that_are(Self::ACCEPTED)
    }

    fn those_that_are(&self, wanted: u64) -> &[u16] {
        let [first, rest @ ..] = &self.listed;
        let count = 1 + rest.iter().position(|number| number == first).unwrap_or(rest.len());
        if self.listed_are == wanted { &self.listed[..count] } else { &[] }
    }

    /// Returns the reason for a non-IP frame of this EtherType: `passed` if it may pass.
    #[inline(always)]
    pub fn check(&self, kind: u16, passed: Reason) -> Reason {
        let is_listed = || {
            // Compares without a branch for each entry.
            let found = |number: u16| u32::from(number ^ kind).wrapping_sub(1) >> 31;
            self.listed.iter().fold(0, |any, number| any | found(*number)) != 0
        };
        match self.listed_are {
            _ if kind == ethertype::ARP => passed,
            Self::REFUSED if is_listed() => Reason::RefusedEthertype,
            Self::ACCEPTED if !is_listed() => Reason::RefusedEthertype,
            _ => passed,
        }
    }
}

/// Which checks are made.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Sanity {
    /// The reasons for which a packet may be dropped: bits by their numbers.
    checks: u64,
    /// First bytes of IPv4 sources that need a closer look. Derived from `checks`, like the next two fields.
    sources_v4: ByteSet,
    /// The same for IPv6.
    sources_v6: ByteSet,
    /// TCP flags that need a closer look.
    flags: ByteSet,
    /// Protocols that are refused, by number.
    protocols: ByteSet,
    /// Which non-IP frames may pass.
    pub ethertypes: Ethertypes,
}
const _: () = assert!(size_of::<Sanity>() == 176);

const fn bit(reason: Reason) -> u64 {
    1 << reason.number()
}

impl Sanity {
    /// Makes these checks, and refuses the protocols with these numbers.
    pub fn new(checks: impl IntoIterator<Item = Reason>, protocols: &[u8]) -> Self {
        let checks = checks.into_iter().fold(0, |bits, reason| bits | bit(reason));
        let checks = if protocols.is_empty() { checks } else { checks | bit(Reason::RefusedProtocol) };
        let makes = |reason: Reason| checks & bit(reason) != 0;
        Self {
            checks,
            sources_v4: ByteSet::of(|first| match first {
                0 | 240..=254 => makes(Reason::ReservedSource),
                127 => makes(Reason::LoopbackSource),
                224..=239 => makes(Reason::MulticastSource),
                255 => makes(Reason::MulticastSource) || makes(Reason::ReservedSource),
                10 | 100 | 169 | 172 | 192 | 198 | 203 => makes(Reason::BogonSource),
                _ => false,
            }),
            sources_v6: ByteSet::of(|first| {
                let bogon = makes(Reason::BogonSource) && !(0x21..0x3f).contains(&first);
                bogon
                    || match first {
                        0 => makes(Reason::ReservedSource) || makes(Reason::LoopbackSource),
                        0xff => makes(Reason::MulticastSource),
                        _ => false,
                    }
            }),
            flags: ByteSet::of(|flags| wrong_flags(flags).is_some_and(makes)),
            protocols: ByteSet::of(|number| protocols.contains(&number)),
            ethertypes: Ethertypes::default(),
        }
    }

    /// Returns the same checks with these rules for non-IP frames.
    pub fn with(self, ethertypes: Ethertypes) -> Self {
        Self { ethertypes, ..self }
    }

    /// Whether a check is made.
    #[inline(always)]
    pub fn makes(&self, reason: Reason) -> bool {
        self.checks & bit(reason) != 0
    }

    /// The refused protocols, by number.
    pub fn refused_protocols(&self) -> impl Iterator<Item = u8> {
        self.protocols.numbers()
    }

    /// Returns the first check that the packet fails.
    #[inline(always)]
    pub fn check(&self, packet: &Packet) -> Option<Reason> {
        let [high, low] = packet.source.halves();
        let land = if packet.source == packet.destination { bit(Reason::Land) } else { 0 };
        let failed = land
            | floodgate_failed(high, low, pack_transport(packet), pack_piece(&packet.piece))
            | (self.protocols.has(packet.protocol.into()) * bit(Reason::RefusedProtocol));
        Reason::from_number((failed & self.checks).trailing_zeros())
    }

    /// Whether a few instructions suffice to show that the packet fails no check. For an ordinary packet they do.
    #[inline(always)]
    pub fn is_beyond_doubt(&self, packet: &Packet) -> bool {
        // VERIFIER: the compiler computes with the upper half before it checks whether there is one, and 6.18
        // rejects that where the stack slot still holds a pointer. Using the half in any case makes it zero then.
        // The compiler also knows that the lower half of an IPv4 address has 32 bits, which 6.1 does not, and would
        // omit what keeps its first byte within the words.
        let [high, low] = packet.source.halves().map(|half| verifier::unknown(half as usize) as u64);
        let unusual_source = match packet.source {
            Address::V4(_) => self.sources_v4.has(low >> 24),
            Address::V6 { .. } => self.sources_v6.has(high >> 56),
        };
        // A packet without ports or flags is treated as one with ordinary ones.
        let [from, to] =
            packet.ports.map_or([1; 2], |ports| [ports.source, ports.destination].map(u64::from));
        let zero_port = (from.wrapping_sub(1) | to.wrapping_sub(1)) >> 63;
        let flags = self.flags.has(packet.tcp_flags.unwrap_or(tcp_flags::ACK).into());
        let protocol = self.protocols.has(packet.protocol.into());
        unusual_source | zero_port | flags | protocol == 0
            && packet.part == Part::Whole
            && packet.source != packet.destination
    }
}

/// Packs the facts from the transport header into one word. From the highest bits down: the IP version (4 bits),
/// whether there are ports, whether there are flags, whether the packet [is for many](is_for_many) (one bit each),
/// the protocol, the flags, source and destination port.
#[inline(always)]
fn pack_transport(packet: &Packet) -> u64 {
    let ports = packet.ports.map_or(0, |Ports { source, destination }| {
        1 << 59 | u64::from(source) << 16 | u64::from(destination)
    });
    let flags = packet.tcp_flags.map_or(0, |flags| 1 << 58 | u64::from(flags) << 32);
    let for_many = u64::from(is_for_many(packet.destination)) << 57;
    u64::from(packet.source.version()) << 60 | ports | flags | for_many | u64::from(packet.protocol) << 40
}

/// Whether the destination is an IPv4 multicast address or the broadcast address of all networks.
#[inline(always)]
fn is_for_many(destination: Address) -> bool {
    matches!(destination, Address::V4(address) if address >> 28 == 0xe || address == u32::MAX)
}

/// Packs a piece into one word: whether another follows (1 bit), where it ends (24 bits), where it starts, and its
/// length.
#[inline(always)]
fn pack_piece(piece: &Piece) -> u64 {
    let Piece { start, length, end, is_last } = *piece;
    u64::from(!is_last) << 63
        | u64::from(end & 0xff_ffff) << 32
        | u64::from(start & 0xffff) << 16
        | u64::from(length & 0xffff)
}

/// Returns all checks that a packet fails, as bits: those of its source (in halves), of its transport header, and
/// of the packet as a piece.
///
/// VERIFIER: a separate BPF function that takes plain numbers is verified once and by itself (since Linux 5.6).
/// Inlined, it would be verified on each path that leads to it: 36,000 instructions more (6.18).
#[cfg_attr(target_arch = "bpf", unsafe(no_mangle))]
#[inline(never)]
pub extern "C" fn floodgate_failed(high: u64, low: u64, transport: u64, piece: u64) -> u64 {
    let facts = Facts {
        source: match transport >> 60 {
            4 => Address::V4(low as u32),
            _ => Address::V6 { network: high, interface: low },
        },
        protocol: (transport >> 40) as u8,
        ports: (transport >> 59 & 1 != 0)
            .then_some(Ports { source: (transport >> 16) as u16, destination: transport as u16 }),
        tcp_flags: (transport >> 58 & 1 != 0).then_some((transport >> 32) as u8),
        is_for_many: transport >> 57 & 1 != 0,
        piece: Piece {
            is_last: piece >> 63 == 0,
            end: (piece >> 32) as u32 & 0xff_ffff,
            start: (piece >> 16) as u32 & 0xffff,
            length: piece as u32 & 0xffff,
        },
    };
    let found = [facts.wrong_source(), facts.wrong_flags(), facts.zero_port(), facts.wrong_fragment()];
    found.into_iter().flatten().fold(0, |failed, reason| failed | bit(reason))
}

/// IGMP. A host that has no address yet reports its groups from 0.0.0.0 (RFC 3376 section 4.2.13).
const IGMP: u8 = 2;

/// The port of DHCP servers. A client sends from port 68 (RFC 2131 section 4.1), a booting one from any port (RFC
/// 951 section 4).
const DHCP: u16 = 67;

/// The longest IPv4 packet, and the most that can follow the header of an IPv6 packet, bytes.
const LONGEST: u32 = 65_535;

/// The facts that the checks use.
struct Facts {
    source: Address,
    protocol: u8,
    ports: Option<Ports>,
    tcp_flags: Option<u8>,
    is_for_many: bool,
    piece: Piece,
}

impl Facts {
    fn wrong_source(&self) -> Option<Reason> {
        match self.source {
            Address::V4(source) => self.wrong_source_v4(source),
            Address::V6 { network, interface } => self.wrong_source_v6(network, interface),
        }
    }

    fn wrong_source_v4(&self, source: u32) -> Option<Reason> {
        let is_in =
            |prefix: [u8; 4], length: u32| (source ^ u32::from_be_bytes(prefix)) >> (32 - length) == 0;
        match source >> 24 {
            0 => {
                let is_dhcp = self.protocol == protocol::UDP
                    && self.ports.is_some_and(|ports| ports.destination == DHCP);
                let asks_all = self.is_for_many && self.protocol != protocol::TCP;
                let may_be_nobody = source == 0 && (is_dhcp || self.protocol == IGMP || asks_all);
                (!may_be_nobody).then_some(Reason::ReservedSource)
            }
            127 => Some(Reason::LoopbackSource),
            224..240 => Some(Reason::MulticastSource),
            240.. if source == u32::MAX => Some(Reason::MulticastSource),
            240.. => Some(Reason::ReservedSource),
            _ => {
                let is_bogon = is_in([10, 0, 0, 0], 8)
                    || is_in([100, 64, 0, 0], 10)
                    || is_in([169, 254, 0, 0], 16)
                    || is_in([172, 16, 0, 0], 12)
                    || is_in([192, 0, 0, 0], 24)
                    || is_in([192, 0, 2, 0], 24)
                    || is_in([192, 168, 0, 0], 16)
                    || is_in([198, 18, 0, 0], 15)
                    || is_in([198, 51, 100, 0], 24)
                    || is_in([203, 0, 113, 0], 24);
                is_bogon.then_some(Reason::BogonSource)
            }
        }
    }

    fn wrong_source_v6(&self, network: u64, interface: u64) -> Option<Reason> {
        let is_in = |[first, second, third]: [u16; 3], length: u32| {
            let prefix = u64::from(first) << 48 | u64::from(second) << 32 | u64::from(third) << 16;
            (network ^ prefix) >> (64 - length) == 0
        };
        if network == 0 {
            return match (interface, interface >> 32) {
                (0, _) if self.protocol == protocol::ICMPV6 => None,
                (1, _) => Some(Reason::LoopbackSource),
                // The unspecified address, or an IPv4 address alone or behind ffff.
                (_, 0 | 0xffff) => Some(Reason::ReservedSource),
                _ => Some(Reason::BogonSource),
            };
        }
        if is_in([0xff00, 0, 0], 8) {
            return Some(Reason::MulticastSource);
        }
        let is_global = is_in([0x2000, 0, 0], 3)
            && !is_in([0x2001, 0x0db8, 0], 32)
            && !is_in([0x3fff, 0, 0], 20)
            && !is_in([0x2001, 0x0002, 0], 48);
        let is_translated =
            (network, interface >> 32) == (0x0064_ff9b << 32, 0) || is_in([0x0064, 0xff9b, 0x0001], 48);
        let is_neighbour = is_in([0xfe80, 0, 0], 10);
        (!is_global && !is_translated && !is_neighbour).then_some(Reason::BogonSource)
    }

    fn wrong_flags(&self) -> Option<Reason> {
        self.tcp_flags.and_then(wrong_flags)
    }

    fn zero_port(&self) -> Option<Reason> {
        let Ports { source, destination } = self.ports?;
        (destination == 0 || source == 0 && self.protocol == protocol::TCP).then_some(Reason::ZeroPort)
    }

    /// A whole packet is its only piece, which has no defect.
    fn wrong_fragment(&self) -> Option<Reason> {
        let Piece { start, length, end, is_last } = self.piece;
        let has_ports = matches!(self.protocol, protocol::TCP | protocol::UDP);
        match start {
            0 if is_last => None,
            0 if has_ports && self.ports.is_none() => Some(Reason::TinyFragment),
            _ if end > LONGEST || !is_last && length % 8 != 0 => Some(Reason::FragmentOffset),
            8 if self.protocol == protocol::TCP => Some(Reason::FragmentOverlap),
            _ => None,
        }
    }
}

/// Returns what is wrong with these TCP flags.
fn wrong_flags(flags: u8) -> Option<Reason> {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    // At most one of the flags that open, close and reset a connection may be set.
    let kind = flags & (SYN | FIN | RST);
    if flags & (SYN | FIN | RST | PSH | ACK | URG) == 0 {
        Some(Reason::TcpNoFlags)
    } else if kind & kind.wrapping_sub(1) != 0 || flags & (SYN | RST | ACK) == 0 {
        Some(Reason::TcpImpossibleFlags)
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
