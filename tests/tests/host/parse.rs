//! Parse results. The reasons of broken frames are in `kernel/reasons.rs`; here are the facts of valid ones.

use flood_common::{
    address::Address,
    packet::{Packet, Parsed, Part, Ports, Vital, parse},
    reason::Reason,
    wire::{Frame, protocol},
};
use floodgate_tests::packet::{Build, VISITOR, VISITOR6, from};
use proptest::prelude::*;

fn packet(build: &Build) -> Packet {
    match parse(Frame(&build.bytes())) {
        Parsed::Packet(packet) => packet,
        other => panic!("{other:?}"),
    }
}

/// The facts that do not follow from how the frame was built: protocol, part, ports, vital, defect.
type Facts = (u8, Part, Option<(u16, u16)>, Option<Vital>, Option<Reason>);

fn facts(packet: &Packet) -> Facts {
    let ports = packet.ports.map(|Ports { source, destination }| (source, destination));
    (packet.protocol, packet.part, ports, packet.vital, packet.defect)
}

#[test]
fn the_facts_of_a_packet_are_found_behind_whatever_comes_first() {
    use Part::{First, Later, Whole};
    let tcp = |build: Build| build.tcp(50_000, 443, 0x10);
    let v4 = || from(VISITOR);
    let v6 = || from(VISITOR6);
    let ports = Some((50_000, 443));
    let cases: Vec<(&str, Build, Facts)> = vec![
        ("TCP", tcp(v4()), (6, Whole, ports, None, None)),
        ("TCP in IPv6", tcp(v6()), (6, Whole, ports, None, None)),
        ("UDP", v4().udp(53, 4_000).payload(9), (17, Whole, Some((53, 4_000)), None, None)),
        ("behind one VLAN tag", tcp(v4().vlan()), (6, Whole, ports, None, None)),
        ("behind two", tcp(v6().service_vlan().vlan()), (6, Whole, ports, None, None)),
        ("behind old service tags", tcp(v4().tag(0x9100).tag(0x9200)), (6, Whole, ports, None, None)),
        ("in PPPoE", tcp(v4().pppoe()), (6, Whole, ports, None, None)),
        ("in PPPoE, in VLANs", tcp(v6().service_vlan().vlan().short_pppoe()), (6, Whole, ports, None, None)),
        ("behind SNAP", tcp(v6().tag(0x9300).snap()), (6, Whole, ports, None, None)),
        ("behind options", tcp(v4().options(10)), (6, Whole, ports, None, None)),
        (
            "behind extension headers",
            tcp(v6().extension(protocol::HOP_BY_HOP, 2).extension(protocol::ROUTING, 3)),
            (6, Whole, ports, None, None),
        ),
        (
            "behind an authentication header, whose length counts differently",
            tcp(v6().extension(protocol::AUTHENTICATION, 4)),
            (6, Whole, ports, None, None),
        ),
        ("no protocol of ours", v4().protocol(47).payload(8), (47, Whole, None, None, None)),
        ("encrypted", v6().protocol(50).payload(8), (50, Whole, None, None, None)),
        ("no next header", v6().protocol(59), (59, Whole, None, None, None)),
        ("a first fragment has ports", tcp(v4()).fragment(0, true), (6, First, ports, None, None)),
        ("a later one has none", tcp(v4()).fragment(185, true), (6, Later, None, None, None)),
        ("the last one neither", tcp(v4()).fragment(370, false), (6, Later, None, None, None)),
        ("a first fragment in IPv6", tcp(v6()).fragment(0, true), (6, First, ports, None, None)),
        ("a later one in IPv6", tcp(v6()).fragment(185, true), (6, Later, None, None, None)),
        ("an atomic fragment is a packet", tcp(v6()).fragment(0, false), (6, Whole, ports, None, None)),
        (
            "an atomic fragment in a first fragment is a first fragment",
            tcp(v6()).fragment(0, true).fragment(0, false),
            (6, First, ports, None, None),
        ),
        (
            "what a later fragment calls its next header is not looked for",
            v6().protocol(protocol::ROUTING).fragment(7, false).payload(3),
            (protocol::ROUTING, Later, None, None, None),
        ),
        ("fragmentation needed", v4().icmp(3, 4), (1, Whole, None, Some(Vital::PathMtu), None)),
        ("port unreachable", v4().icmp(3, 3), (1, Whole, None, None, None)),
        ("the same in a fragment", v4().icmp(3, 4).fragment(0, true), (1, First, None, None, None)),
        ("packet too big", v6().icmp(2, 0), (58, Whole, None, Some(Vital::PathMtu), None)),
        ("ICMPv6 in IPv4 says nothing", v4().icmp(2, 0), (1, Whole, None, None, None)),
        (
            "a neighbour solicitation",
            v6().neighbour_solicitation(),
            (58, Whole, None, Some(Vital::NeighbourDiscovery), None),
        ),
        ("through a router", v6().neighbour_solicitation().hop_limit(254), (58, Whole, None, None, None)),
        ("with another code", v6().hop_limit(255).icmp(135, 1), (58, Whole, None, None, None)),
        (
            "a redirect",
            v6().hop_limit(255).icmp(137, 0).payload(32),
            (58, Whole, None, Some(Vital::NeighbourDiscovery), None),
        ),
        (
            "a header that is cut off",
            v4().protocol(protocol::UDP).payload(7),
            (17, Whole, None, None, Some(Reason::TransportHeader)),
        ),
    ];
    for (why, build, expected) in cases {
        let packet = packet(&build);
        assert_eq!(facts(&packet), expected, "{why}");
        assert_eq!(
            (packet.network_at, packet.transport_at),
            (build.ip_offset(), build.transport_offset()),
            "{why}"
        );
        if packet.length_at != 0 {
            let bytes = build.bytes();
            let stated = u16::from_be_bytes([bytes[packet.length_at], bytes[packet.length_at + 1]]);
            assert_eq!(packet.length_at + 2 + usize::from(stated), bytes.len(), "{why}");
        }
        let source =
            if build.bytes().len() as u32 == packet.length { packet.source } else { panic!("{why}") };
        assert!([VISITOR, VISITOR6].map(Address::from).contains(&source), "{why}: {source:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_come_to_something(bytes: Vec<u8>) {
        let _ = parse(Frame(&bytes));
    }

    /// Bytes that begin like IP, because other bytes seldom get far.
    #[test]
    fn any_bytes_behind_an_ethertype_come_to_something(
        kind in prop::sample::select(vec![0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8864, 0x8847, 46]),
        first in prop::sample::select(vec![0x45_u8, 0x4f, 0x60, 0x00, 0x11, 0xaa]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let mut frame = vec![0; 12];
        frame.extend(kind.to_be_bytes());
        frame.push(first);
        frame.extend(&bytes);
        if let Parsed::Packet(packet) = parse(Frame(&frame)) {
            prop_assert_eq!(packet.length as usize, frame.len());
            prop_assert!(packet.part != Part::Later || packet.ports.is_none());
        }
    }

    /// What is cut off is never read: every frame, cut anywhere, has a result, and a frame that was valid keeps its
    /// source or is broken.
    #[test]
    fn a_frame_that_is_cut_keeps_its_source_or_is_broken(seed: u64, cut in 0_usize..1_600) {
        let whole = floodgate_tests::packet::generate::frame(&mut fastrand::Rng::with_seed(seed));
        let part = &whole[..cut.min(whole.len())];
        if let (Parsed::Packet(whole), Parsed::Packet(part)) = (parse(Frame(&whole)), parse(Frame(part))) {
            prop_assert_eq!(whole.source, part.source);
        }
    }
}
