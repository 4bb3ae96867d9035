//! The fast path, for what most packets are: TCP and UDP over IP directly behind Ethernet, whole and without
//! options.
//!
//! Any packet that is unusual in some respect takes the slow path, through [`packet::parse`](crate::packet::parse)
//! and [`decide`](crate::decide::decide); so does any packet whose verdict needs more than a look at the lists, the
//! open ports and the limits. The fast path reaches the same verdict in half of the instructions, because it knows
//! where everything is and which checks it can omit.
//!
//! Invariant: it decides and charges what the slow path would, or nothing. The host uses only the slow path, so
//! each test that compares verdicts of the kernel with those of the host compares the two paths.

use crate::{
    abi::Settings,
    address::Address,
    class::{CLASS_SLOTS, Class},
    decide::{
        Cells as _, Load, Tables, Verdict, exceeding, forget, is_to_closed_port, listed, may_be_of_socket,
        may_be_reflected, price, source_of,
    },
    lists::Listed,
    meter::Charge,
    packet::{LINK_MULTICAST_V4, LINK_MULTICAST_V6, Message, Packet, Part, Piece, Ports, tcp_class},
    reason::Reason,
    wire::{Ethernet, Head, HeadV4, HeadV6, Ipv4, Ipv6, Tcp, Udp, Window, protocol, read_be32, read_be64},
};

/// How an ordinary packet begins behind its MAC addresses: the EtherType, the version, and in IPv4 the length of
/// the header.
const IPV4: u64 = 0x08_0045;
const IPV6: u64 = 0x8_6dd6;

/// Offsets of the IP header and of what follows it, bytes.
const NETWORK_AT: usize = size_of::<Ethernet>();
const TRANSPORT_V4_AT: usize = NETWORK_AT + size_of::<Ipv4>();
const TRANSPORT_V6_AT: usize = NETWORK_AT + size_of::<Ipv6>();

/// Returns the verdict for the packet in a frame, if it is ordinary, and the length of the frame. Returns `None`
/// where [`decide`](crate::decide::decide) has to check more, before anything is charged.
///
/// There are two copies of the code, so that the family is a constant in each.
#[inline(always)]
pub fn judge<'a, W: Window<'a>, T: Tables>(
    window: W,
    settings: &Settings,
    now_ns: u64,
    tables: &T,
) -> Option<(Verdict, u32)> {
    if window.is_bare() {
        return None;
    }
    let start = read_be64(&window.view::<Head>(0)?.start);
    if start >> 40 == IPV4 {
        let packet = parse_ipv4(window, start)?;
        Some((decide(&packet, settings, now_ns, tables)?, packet.length))
    } else if start >> 44 == IPV6 {
        let packet = parse_ipv6(window, start)?;
        Some((decide(&packet, settings, now_ns, tables)?, packet.length))
    } else {
        None
    }
}

#[inline(always)]
fn parse_ipv4<'a, W: Window<'a>>(window: W, start: u64) -> Option<Packet> {
    /// In the second word of the header: the fragment offset, and the flag that more fragments follow.
    const CUT: u32 = 0x3fff_0000;

    let head = window.view::<HeadV4>(0)?;
    let total = (start >> 16) as usize & 0xffff;
    let middle = read_be32(&head.middle);
    let (source, destination) = (read_be32(&head.source), read_be32(&head.destination));
    let length = window.first_buffer();
    if middle & CUT != 0
        || total < size_of::<Ipv4>()
        || NETWORK_AT + total > length as usize
        || destination >> 8 == LINK_MULTICAST_V4
    {
        return None;
    }
    let (behind, protocol) = (total - size_of::<Ipv4>(), middle as u8);
    let transport = parse_transport(window, TRANSPORT_V4_AT, behind, protocol, &head.transport)?;
    let addresses = [source, destination].map(Address::V4);
    Some(packet(addresses, protocol, length, TRANSPORT_V4_AT, behind, transport))
}

#[inline(always)]
fn parse_ipv6<'a, W: Window<'a>>(window: W, start: u64) -> Option<Packet> {
    let head = window.view::<HeadV6>(0)?;
    let behind = start as usize & 0xffff;
    let (source, destination) =
        (Address::from_v6_bytes(&head.source), Address::from_v6_bytes(&head.destination));
    let length = window.first_buffer();
    let [upper, _] = destination.halves();
    if TRANSPORT_V6_AT + behind > length as usize || upper >> 48 == LINK_MULTICAST_V6 {
        return None;
    }
    let transport = parse_transport(window, TRANSPORT_V6_AT, behind, head.next_header, &head.transport)?;
    Some(packet([source, destination], head.next_header, length, TRANSPORT_V6_AT, behind, transport))
}

/// Returns the facts about an ordinary packet.
#[inline(always)]
fn packet(
    [source, destination]: [Address; 2],
    protocol: u8,
    length: u32,
    transport_at: usize,
    behind: usize,
    Transport { ports, tcp_flags, class }: Transport,
) -> Packet {
    Packet {
        source,
        destination,
        class,
        length,
        network_at: NETWORK_AT,
        length_at: 0,
        transport_at,
        protocol,
        part: Part::Whole,
        datagram: 0,
        piece: Piece { start: 0, length: behind as u32, end: behind as u32, is_last: true },
        ports: Some(ports),
        tcp_flags,
        icmp: Message::default(),
        vital: None,
        defect: None,
    }
}

struct Transport {
    ports: Ports,
    tcp_flags: Option<u8>,
    class: Class,
}

/// Parses the header behind the IP header. `head` is its beginning; it and what follows it have `behind` bytes.
#[inline(always)]
fn parse_transport<'a, W: Window<'a>>(
    window: W,
    offset: usize,
    behind: usize,
    number: u8,
    [ports, rest]: &[[u8; 4]; 2],
) -> Option<Transport> {
    let ports = read_be32(ports);
    let ports = Ports { source: (ports >> 16) as u16, destination: ports as u16 };
    match number {
        protocol::UDP => {
            let length = (read_be32(rest) >> 16) as usize;
            let is_right = length >= size_of::<Udp>() && length <= behind;
            is_right.then_some(Transport { ports, tcp_flags: None, class: Class::Udp })
        }
        protocol::TCP => {
            let Tcp { offset, flags, .. } = *window.view::<Tcp>(offset)?;
            let header = usize::from(offset >> 4) * 4;
            let is_right = header >= size_of::<Tcp>() && header <= behind;
            is_right.then_some(Transport { ports, tcp_flags: Some(flags), class: tcp_class(flags) })
        }
        _ => None,
    }
}

#[inline(always)]
fn decide<T: Tables>(packet: &Packet, settings: &Settings, now_ns: u64, tables: &T) -> Option<Verdict> {
    let ports = packet.ports?;
    if packet.class == Class::Udp && may_be_reflected(ports.source, settings, tables)
        || !settings.sanity.is_beyond_doubt(packet)
    {
        return None;
    }
    match listed(packet.source, settings, now_ns, tables) {
        Listed::Allowed => return Some(Reason::Allowed.into()),
        Listed::Blocked => return Some(Reason::Blocked.into()),
        Listed::Nothing => {}
    }
    let class = match packet.class {
        Class::Udp if is_to_closed_port(packet, ports.destination, settings, now_ns, tables) => Class::Closed,
        class => class,
    };
    // VERIFIER: one path for all of them.
    let class = forget(settings, class as u64) % CLASS_SLOTS as u64;
    let load = Load::new(packet, source_of(packet, settings), class, 1);
    let reason = limit(&load, settings, now_ns, tables);
    if reason == Reason::Conforming {
        return Some(reason.into());
    }
    let looks_again = settings.proof != 0
        && reason.is_provable()
        && (packet.class != Class::Udp
            || may_be_of_socket(reason.number(), ports.destination, now_ns, tables));
    Some(Verdict { reason, looks_again, class })
}

/// The most common case of [`decide::limit`](crate::decide::limit): a packet has no limit, or only one, of its
/// source, which needs no check before it is charged.
#[inline(always)]
fn limit<T: Tables>(load: &Load, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    let [first, second, ..] = settings.plan[Settings::plan_of(load.source.version, load.class as usize)];
    match price(settings, first, load.length) {
        None => Reason::Conforming,
        Some((cell, price)) if second == 0 && !cell.is_wide() => {
            match tables.cells().charge_network(settings, cell, load.source, now_ns, &price) {
                Charge::Conforming => Reason::Conforming,
                Charge::Unaccounted => Reason::Unaccounted,
                Charge::Exceeding => exceeding(load.class as usize, cell, price.bits, tables.cells()),
            }
        }
        Some(_) => tables.limit(load, settings, now_ns),
    }
}
