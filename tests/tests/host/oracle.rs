//! The filter's parser beside etherparse, on generated frames. Where they disagree, a reason is named here, or the
//! test fails.

use std::{collections::BTreeMap, net::IpAddr};

use etherparse::{
    EtherType, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket, LinkSlice, TransportSlice,
    err::{Layer, ipv6_exts::HeaderError, packet::SliceError},
};
use fastrand::Rng;
use flood_common::{
    address::Address,
    packet::{Packet, Parsed, Part, Ports, parse},
    reason::Reason,
    wire::{Frame, protocol},
};
use floodgate_tests::packet::{describe, generate};

/// etherparse's view of a packet.
#[derive(PartialEq, Debug)]
struct Theirs {
    source: IpAddr,
    protocol: u8,
    fragment: bool,
    ports: Option<(u16, u16)>,
}

fn theirs(sliced: &LaxSlicedPacket<'_>) -> Option<Theirs> {
    let (source, payload) = match sliced.net.as_ref()? {
        LaxNetSlice::Ipv4(ip) => (IpAddr::V4(ip.header().source_addr()), ip.payload()),
        LaxNetSlice::Ipv6(ip) => (IpAddr::V6(ip.header().source_addr()), ip.payload()),
        LaxNetSlice::Arp(_) => return None,
    };
    let ports = match &sliced.transport {
        Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
        Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
        _ => None,
    };
    Some(Theirs { source, protocol: payload.ip_number.0, fragment: payload.fragmented, ports })
}

fn ours(packet: &Packet) -> Theirs {
    Theirs {
        source: packet.source.into(),
        protocol: packet.protocol,
        fragment: packet.part != Part::Whole,
        ports: packet.ports.map(|Ports { source, destination }| (source, destination)),
    }
}

/// The EtherType at which it stopped.
fn last_ethertype(sliced: &LaxSlicedPacket<'_>) -> Option<u16> {
    let in_frame = match &sliced.link {
        Some(LinkSlice::Ethernet2(ethernet)) => Some(ethernet.ether_type()),
        _ => None,
    };
    let last = match sliced.link_exts.last() {
        Some(LaxLinkExtSlice::Vlan(tag)) => Some(tag.ether_type()),
        Some(LaxLinkExtSlice::Macsec(_)) => None,
        None => in_frame,
    };
    last.map(|EtherType(number)| number)
}

/// Returns the outcome for a frame: that they agree, or why not; `None` without a known reason.
fn compare(parsed: &Parsed, sliced: &LaxSlicedPacket<'_>) -> Option<&'static str> {
    let (packet, theirs) = match (parsed, theirs(sliced)) {
        (Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_), None) => {
            return Some("neither finds an IP packet");
        }
        (Parsed::Packet(Packet { length_at: 1.., .. }), None) => {
            return Some("it does not look into PPPoE and SNAP");
        }
        (Parsed::Packet(_), None) if matches!(last_ethertype(sliced), Some(0x9200 | 0x9300)) => {
            return Some("it knows one VLAN EtherType from before 802.1ad, and we three");
        }
        (Parsed::Encapsulated(0x88e5), Some(_)) => return Some("it looks into MACsec that does not encrypt"),
        (Parsed::Packet(packet), Some(theirs)) => (packet, theirs),
        (Parsed::Broken(Reason::VlanDepth), Some(_)) => return Some("it looks behind three tags"),
        (Parsed::Broken(Reason::IpLength), Some(_)) => {
            return Some("it cuts an IP length of more than the frame down to the frame");
        }
        (Parsed::Broken(Reason::IpVersion), Some(_)) => {
            return Some("it believes the version in the IP header, not the EtherType");
        }
        _ => return None,
    };
    let ours = ours(packet);
    if ours.source != theirs.source {
        return None;
    }
    if ours == theirs {
        return Some("agreed");
    }
    if let Some((SliceError::Ipv6Exts(error), _)) = &sliced.stop_err {
        return Some(match error {
            HeaderError::HopByHopNotAtStart => "it takes hop-by-hop options only in the first place",
            HeaderError::IpAuth(_) => "it refuses an authentication header of eight bytes",
        });
    }
    if let Some((SliceError::Len(error), _)) = &sliced.stop_err
        && error.layer == Layer::IpAuthHeader
    {
        return Some("it refuses an authentication header of eight bytes");
    }
    match packet {
        Packet { part: Part::Later, source: Address::V6 { .. }, .. } => {
            Some("it takes the data of a later fragment for extension headers")
        }
        Packet { protocol: protocol::AUTHENTICATION, source: Address::V4(_), .. } => {
            Some("it looks behind an authentication header in IPv4")
        }
        Packet { part: Part::First, .. } if ours == (Theirs { ports: ours.ports, ..theirs }) => {
            Some("it reads no ports in a first fragment")
        }
        Packet { defect: Some(Reason::TransportHeader), .. }
            if ours == (Theirs { ports: ours.ports, ..theirs }) =>
        {
            Some("both find the transport header broken, and only we read ports in it")
        }
        Packet { defect: Some(Reason::Ipv6Extensions), .. } => {
            Some("it follows any number of extension headers")
        }
        _ => None,
    }
}

#[test]
fn the_parser_agrees_with_etherparse_or_says_why_not() {
    let mut seen = BTreeMap::new();
    for seed in 0..100_000 {
        let frame = generate::frame(&mut Rng::with_seed(seed));
        let parsed = parse(Frame(&frame));
        let sliced = LaxSlicedPacket::from_ethernet(&frame).expect("every generated frame has a header");
        match compare(&parsed, &sliced) {
            Some(why) => *seen.entry(why).or_insert(0) += 1,
            None => panic!("no reason to disagree\n{parsed:?}\n{}", describe(&frame)),
        }
    }
    println!("{seen:#?}");
    assert!(seen["agreed"] > 50_000, "{seen:?}");
}
