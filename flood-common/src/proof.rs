//! Proof of origin: what a packet beyond a limit can still say for itself.
//!
//! A flood from invented addresses exceeds the limits of destinations and totals, and with it whoever else comes. So a
//! packet that such a limit would drop is looked at once more, by the sockets of this host: what belongs to a
//! connection passes, a SYN to a listener is answered with a cookie, and the ACK that brings the cookie back passes. None
//! of this costs anything before a limit is exceeded, and none of it drops what the limit alone would have passed.
//!
//! The limit of one source is final: a proof that a source is real does not allow it more.

use crate::{
    abi::Settings,
    address::Address,
    class::Class,
    meter::{Charge, Price, Slot, WAYS},
    packet::{Packet, Part},
    place::{Place, Seeds},
    reason::Reason,
    wire::{Icmp, Ipv4, Ipv6, Tcp, Udp, Window, protocol},
};

/// Bits of [`Settings::proof`]: what is asked.
pub mod means {
    /// SYNs are answered with cookies of the listener.
    pub const COOKIES: u32 = 1 << 0;
    /// SYNs pass when they come a second time.
    pub const RETRANSMISSION: u32 = 1 << 1;
    /// All but SYNs pass when this host has a socket for them.
    pub const SOCKETS: u32 = 1 << 2;
}

/// How soon a SYN comes again: after a second (RFC 6298), or three where the RFC is not followed yet. A copy that comes
/// sooner is no retransmission.
pub const SOONEST_RETRANSMISSION_NS: u64 = 700_000_000;
/// How late a SYN may come again.
pub const LATEST_RETRANSMISSION_NS: u64 = 4_000_000_000;

/// What becomes of a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Opening {
    /// Nobody listens.
    NoSocket,
    /// There is a connection between these ports already.
    Connection,
    /// The listener's queue has room for it, so that the kernel makes no cookies.
    Room,
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

/// What sockets say to a TCP segment that is not a SYN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There is none.
    NoSocket,
    /// It belongs to a connection, or to one that is being opened or closed.
    Connection,
    /// There is a listener, and it brings a cookie back (or does not).
    Listener {
        /// Whether the cookie is right.
        cookie: bool,
    },
}

/// What sockets say to a UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Receiver {
    /// There is none.
    NoSocket,
    /// One that takes datagrams from anywhere.
    Anybodys,
    /// One that is connected to the sender.
    Connected,
}

/// The sockets of this host, and its memory of SYNs.
pub trait Sockets {
    /// What becomes of a SYN.
    fn open(&self, packet: &Packet) -> Opening;
    /// What sockets say to another TCP segment.
    fn stand(&self, packet: &Packet) -> Standing;
    /// What sockets say to a UDP datagram.
    fn receive(&self, packet: &Packet) -> Receiver;
    /// Whether there is a connection that sent the packet quoted by an ICMP error.
    fn sent(&self, quote: &Quote) -> bool;
    /// [Notes](note_syn) a SYN.
    fn note_syn(&self, place: Place, now_ns: u64) -> Retransmission;
    /// Charges the budget of SYNs that came again.
    fn charge_retransmission(&self, now_ns: u64, price: &Price) -> Charge;
}

/// Whether a SYN came before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retransmission {
    /// It did not, and is noted now.
    First,
    /// It did, as long ago as a client waits.
    Again,
    /// There is no room to note it.
    Full,
}

/// What became of a packet beyond a limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proof {
    /// It passes or is dropped, for this reason.
    Verdict(Reason),
    /// It is answered.
    Answer(Cookie),
    /// Nothing speaks for it: it is dropped for the limit that it exceeds.
    Nothing,
}

/// Looks at a packet once more.
#[inline(always)]
pub fn prove<'a, S: Sockets>(
    packet: &Packet,
    window: impl Window<'a>,
    settings: &Settings,
    now_ns: u64,
    sockets: &S,
) -> Proof {
    if packet.part == Part::Later || packet.ports.is_none() && packet.class != Class::Icmp {
        return Proof::Nothing;
    }
    let asks = |means| settings.proof & means != 0;
    match packet.protocol {
        protocol::TCP if packet.part != Part::Whole => Proof::Nothing,
        protocol::TCP if packet.class == Class::Syn => {
            if asks(means::COOKIES) {
                open(packet, sockets)
            } else if asks(means::RETRANSMISSION) {
                await_retransmission(packet, settings, now_ns, sockets)
            } else {
                Proof::Nothing
            }
        }
        _ if !asks(means::SOCKETS) => Proof::Nothing,
        protocol::TCP => Proof::Verdict(match sockets.stand(packet) {
            Standing::Connection | Standing::Listener { cookie: true } => Reason::Proven,
            Standing::Listener { cookie: false } => Reason::WrongCookie,
            Standing::NoSocket => Reason::NoConnection,
        }),
        protocol::UDP => match sockets.receive(packet) {
            Receiver::Connected => Proof::Verdict(Reason::Proven),
            Receiver::Anybodys => Proof::Nothing,
            Receiver::NoSocket => Proof::Verdict(Reason::NoSocket),
        },
        _ => match Quote::read(packet, window) {
            Some(quote) if sockets.sent(&quote) => Proof::Verdict(Reason::Proven),
            Some(_) => Proof::Verdict(Reason::NoConnection),
            None => Proof::Nothing,
        },
    }
}

#[inline(always)]
fn open<S: Sockets>(packet: &Packet, sockets: &S) -> Proof {
    match sockets.open(packet) {
        Opening::NoSocket => Proof::Verdict(Reason::NoListener),
        Opening::Connection => Proof::Verdict(Reason::Proven),
        Opening::Room => Proof::Verdict(Reason::QueueHasRoom),
        Opening::Cookie(cookie) => Proof::Answer(cookie),
        Opening::Unable => Proof::Nothing,
    }
}

#[inline(always)]
fn await_retransmission<S: Sockets>(packet: &Packet, settings: &Settings, now_ns: u64, sockets: &S) -> Proof {
    match sockets.note_syn(syn_place(settings, packet), now_ns) {
        Retransmission::First => Proof::Verdict(Reason::FirstSyn),
        Retransmission::Full => Proof::Nothing,
        Retransmission::Again => {
            let price = settings.retransmissions.price(packet.length);
            match sockets.charge_retransmission(now_ns, &price) {
                Charge::Conforming => Proof::Verdict(Reason::Proven),
                Charge::Exceeding | Charge::Unaccounted => Proof::Nothing,
            }
        }
    }
}

/// Binary logarithm of the number of buckets in which SYNs are noted: 131,072 SYNs, 1 MiB.
pub const SYN_BUCKET_BITS: u32 = 14;

/// Where a SYN is noted.
#[inline(always)]
fn syn_place(settings: &Settings, packet: &Packet) -> Place {
    let Seeds { v6: [first, second, ..], .. } = settings.seeds;
    let mix = |hash: u64, word: u64, seed: u64| {
        let product = (hash ^ word).wrapping_mul(seed | 1);
        product ^ (product >> 32)
    };
    let ports = packet.ports.map_or(0, |ports| u64::from(ports.source) << 16 | u64::from(ports.destination));
    let [source, destination] = [packet.source.halves(), packet.destination.halves()];
    let mut hash = mix(first, ports, second);
    for half in [source[0], source[1], destination[0], destination[1]] {
        hash = mix(hash.wrapping_add(first), half, second);
    }
    Place { bucket: (hash >> (64 - SYN_BUCKET_BITS)) as u32, tag: (hash >> (48 - SYN_BUCKET_BITS)) as u16 }
}

/// Notes a SYN in a bucket, and tells whether it came before. A word is `tag:16 | time:48`, the time in nanoseconds
/// (modulo 78 hours).
///
/// Nothing is ever pushed out: a bucket full of SYNs that may still come again takes no more. A flood that fills the
/// table keeps clients waiting, until a place becomes free, but cannot make it forget those who wait.
#[inline(always)]
pub fn note_syn<S: Slot>(bucket: &[S; WAYS], tag: u16, now_ns: u64) -> Retransmission {
    const TIME: u64 = (1 << 48) - 1;
    let word = u64::from(tag) << 48 | now_ns & TIME;
    let age_ns = |held: u64| now_ns.wrapping_sub(held) & TIME;
    let mut free = None;
    for slot in bucket {
        let held = slot.load();
        let age_ns = age_ns(held);
        if held == 0 || age_ns > LATEST_RETRANSMISSION_NS {
            free = free.or(Some((slot, held)));
        } else if held >> 48 == tag.into() {
            // Who comes first with the same SYN has it; a copy on another processor has to wait.
            let again = age_ns >= SOONEST_RETRANSMISSION_NS && slot.compare_swap(held, 0) == held;
            return if again { Retransmission::Again } else { Retransmission::First };
        }
    }
    match free {
        Some((slot, held)) if slot.compare_swap(held, word) == held => Retransmission::First,
        _ => Retransmission::Full,
    }
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
}

impl Quote {
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
        // TCP and UDP begin alike.
        let ports = window.view::<Udp>(at + size)?;
        let ports = [ports.source.get(), ports.destination.get()];
        Some(Self { protocol, source, destination, ports })
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
