use core::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::{class::Class, link::LENGTH, packet::Message, wire::ethertype::ARP};

fn address(text: &str) -> Address {
    text.parse::<IpAddr>().unwrap().into()
}

/// A whole packet from `source` to a server of its family.
fn packet(source: &str, protocol: u8, ports: Option<(u16, u16)>) -> Packet {
    let source = address(source);
    let server = if source.version() == 4 { "192.0.2.1" } else { "2001:db8::1" };
    Packet {
        datagram: 0,
        source,
        destination: address(server),
        class: Class::Other,
        length: 60,
        network_at: 14,
        length_at: 0,
        transport_at: 34,
        protocol,
        part: Part::Whole,
        piece: Piece { start: 0, length: 26, end: 46, is_last: true },
        ports: ports.map(|(source, destination)| Ports { source, destination }),
        tcp_flags: None,
        icmp: Message::default(),
        vital: None,
        defect: None,
    }
}

fn udp(source: &str) -> Packet {
    packet(source, protocol::UDP, Some((4_000, 53)))
}

fn tcp(flags: u8) -> Packet {
    Packet { tcp_flags: Some(flags), ..packet("8.8.8.8", protocol::TCP, Some((40_000, 443))) }
}

/// A fragment with `length` bytes from `start` on.
fn fragment(of: Packet, start: u32, length: u32, is_last: bool) -> Packet {
    let (part, ports, tcp_flags) =
        if start == 0 { (Part::First, of.ports, of.tcp_flags) } else { (Part::Later, None, None) };
    let header = if of.source.version() == 4 { 20 } else { 0 };
    let piece = Piece { start, length, end: header + start + length, is_last };
    Packet { part, piece, ports, tcp_flags, ..of }
}

fn all() -> Sanity {
    Sanity::new(CHECKS.map(|(reason, _)| reason), &[47])
}

/// Calls it as the filter does.
fn judge(sanity: &Sanity, packet: &Packet) -> Option<Reason> {
    if sanity.is_beyond_doubt(packet) { None } else { sanity.check(packet) }
}

#[test]
fn each_source_is_what_the_rfcs_say() {
    use Reason::{BogonSource, LoopbackSource, MulticastSource, ReservedSource};
    let cases = [
        ("1.0.0.1", None),
        ("126.255.255.255", None),
        ("128.0.0.1", None),
        ("172.15.255.255", None),
        ("172.32.0.1", None),
        ("192.0.1.255", None),
        ("223.255.255.255", None),
        ("100.63.255.255", None),
        ("100.128.0.1", None),
        ("0.0.0.0", Some(ReservedSource)),
        ("0.255.255.255", Some(ReservedSource)),
        ("127.0.0.1", Some(LoopbackSource)),
        ("224.0.0.1", Some(MulticastSource)),
        ("239.255.255.255", Some(MulticastSource)),
        ("255.255.255.255", Some(MulticastSource)),
        ("240.0.0.1", Some(ReservedSource)),
        ("255.255.255.254", Some(ReservedSource)),
        ("10.1.2.3", Some(BogonSource)),
        ("100.64.0.1", Some(BogonSource)),
        ("169.254.1.1", Some(BogonSource)),
        ("172.16.0.1", Some(BogonSource)),
        ("172.31.255.255", Some(BogonSource)),
        ("192.0.0.1", Some(BogonSource)),
        ("192.0.2.77", Some(BogonSource)),
        ("192.168.0.1", Some(BogonSource)),
        ("198.19.0.1", Some(BogonSource)),
        ("198.51.100.66", Some(BogonSource)),
        ("203.0.113.7", Some(BogonSource)),
        ("2606:4700::1", None),
        ("2000::1", None),
        ("3ffe::1", None),
        ("2001:db7::1", None),
        ("fe80::1", None),
        ("64:ff9b::c000:201", None),
        ("64:ff9b:1::1", None),
        ("::", Some(ReservedSource)),
        ("::1", Some(LoopbackSource)),
        ("::2", Some(ReservedSource)),
        ("::192.0.2.1", Some(ReservedSource)),
        ("::ffff:192.0.2.1", Some(ReservedSource)),
        ("::1:0:0:0", Some(BogonSource)),
        ("ff02::1", Some(MulticastSource)),
        ("2001:db8::7", Some(BogonSource)),
        ("3fff:fff::1", Some(BogonSource)),
        ("2001:2::1", Some(BogonSource)),
        ("fc00::1", Some(BogonSource)),
        ("fec0::1", Some(BogonSource)),
        ("64:ff9b:2::1", Some(BogonSource)),
        ("100::1", Some(BogonSource)),
    ];
    for (source, expected) in cases {
        assert_eq!(judge(&all(), &udp(source)), expected, "{source}");
        let but_bogons = Sanity::new(CHECKS.iter().filter(|check| check.1).map(|check| check.0), &[]);
        let expected = expected.filter(|reason| *reason != BogonSource);
        assert_eq!(judge(&but_bogons, &udp(source)), expected, "{source}");
    }
}

#[test]
fn who_has_no_address_yet_may_say_so() {
    let to = |destination, packet| Packet { destination: address(destination), ..packet };
    let nobody = |protocol, ports| packet("0.0.0.0", protocol, ports);
    let cases = [
        ("BOOTP from a port of its own", nobody(protocol::UDP, Some((1_067, 67))), None),
        ("a router solicitation", to("224.0.0.2", nobody(protocol::ICMP, None)), None),
        ("the same to everybody", to("255.255.255.255", nobody(protocol::ICMP, None)), None),
        ("a cluster's heartbeat", to("239.192.9.1", nobody(protocol::UDP, Some((5_405, 5_405)))), None),
        ("VRRP", to("224.0.0.18", nobody(112, None)), None),
        ("TCP to many", to("224.0.0.1", nobody(6, Some((1, 2)))), Some(Reason::ReservedSource)),
        (
            "another source to many",
            to("224.0.0.1", packet("0.0.0.1", 17, None)),
            Some(Reason::ReservedSource),
        ),
        ("one of 240.0.0.0/4", to("224.0.0.1", packet("240.0.0.1", 17, None)), Some(Reason::ReservedSource)),
        ("DHCP", packet("0.0.0.0", protocol::UDP, Some((68, 67))), None),
        ("its answer", packet("0.0.0.0", protocol::UDP, Some((67, 68))), Some(Reason::ReservedSource)),
        ("TCP between these ports", packet("0.0.0.0", 6, Some((68, 67))), Some(Reason::ReservedSource)),
        ("from another such address", packet("0.0.0.1", 17, Some((68, 67))), Some(Reason::ReservedSource)),
        ("IGMP", packet("0.0.0.0", IGMP, None), None),
        ("ICMP", packet("0.0.0.0", protocol::ICMP, None), Some(Reason::ReservedSource)),
        ("a neighbour solicitation", packet("::", protocol::ICMPV6, None), None),
        ("UDP from ::", udp("::"), Some(Reason::ReservedSource)),
    ];
    for (why, packet, expected) in cases {
        assert_eq!(judge(&all(), &packet), expected, "{why}");
    }
}

#[test]
fn a_source_that_is_the_destination_is_of_no_other_host() {
    for [one, other] in [["8.8.8.8", "8.8.8.9"], ["2606:4700::1", "2606:4700::2"]] {
        let to = |destination| Packet { destination: address(destination), ..udp(one) };
        assert_eq!(judge(&all(), &to(one)), Some(Reason::Land), "{one}");
        assert_eq!(judge(&all(), &to(other)), None, "{one}");
    }
}

#[test]
fn flags_that_a_stack_sends_pass_and_no_others() {
    use tcp_flags::{ACK, FIN, PSH, RST, SYN, URG};
    const ECN: u8 = 0xc0;
    let sent =
        [SYN, SYN | ACK, SYN | PSH, ACK, PSH | ACK, URG | ACK, FIN | ACK, FIN | PSH | ACK, RST, RST | ACK];
    for flags in sent {
        for flags in [flags, flags | ECN] {
            assert_eq!(judge(&all(), &tcp(flags)), None, "{flags:#x}");
        }
    }
    for flags in [0, ECN] {
        assert_eq!(judge(&all(), &tcp(flags)), Some(Reason::TcpNoFlags), "{flags:#x}");
    }
    for flags in
        [SYN | FIN, SYN | RST, SYN | FIN | ACK, FIN, PSH, URG, FIN | PSH | URG, FIN | RST | ACK, 0xff]
    {
        assert_eq!(judge(&all(), &tcp(flags)), Some(Reason::TcpImpossibleFlags), "{flags:#x}");
    }
}

#[test]
fn port_0_is_nobody_s_but_udp_may_want_no_answer() {
    let cases = [
        (protocol::TCP, (0, 443), Some(Reason::ZeroPort)),
        (protocol::TCP, (40_000, 0), Some(Reason::ZeroPort)),
        (protocol::UDP, (40_000, 0), Some(Reason::ZeroPort)),
        (protocol::UDP, (0, 53), None),
        (protocol::UDP, (1, 1), None),
    ];
    for (protocol, ports, expected) in cases {
        assert_eq!(
            judge(&all(), &packet("8.8.8.8", protocol, Some(ports))),
            expected,
            "{protocol} {ports:?}"
        );
    }
    assert_eq!(judge(&all(), &packet("8.8.8.8", protocol::ICMP, None)), None, "no ports at all");
}

#[test]
fn fragments_are_such_as_a_datagram_comes_to() {
    use Reason::{FragmentOffset, FragmentOverlap, TinyFragment};
    let headless =
        |start, length, is_last| Packet { ports: None, ..fragment(tcp(0x10), start, length, is_last) };
    let cases = [
        ("a first one", fragment(tcp(0x10), 0, 1_480, false), None),
        ("a last one of any length", fragment(udp("8.8.8.8"), 1_480, 3, true), None),
        ("an uneven one in between", fragment(udp("8.8.8.8"), 1_480, 3, false), Some(FragmentOffset)),
        ("an uneven first one", fragment(udp("8.8.8.8"), 0, 1_481, false), Some(FragmentOffset)),
        ("to the last byte", fragment(udp("8.8.8.8"), 65_512, 3, true), None),
        ("beyond it", fragment(udp("8.8.8.8"), 65_512, 4, true), Some(FragmentOffset)),
        ("to the last byte, IPv6", fragment(udp("fe80::1"), 65_528, 7, true), None),
        ("beyond it, IPv6", fragment(udp("fe80::1"), 65_528, 8, true), Some(FragmentOffset)),
        ("a first one without the header", headless(0, 16, false), Some(TinyFragment)),
        ("of a protocol without one", fragment(packet("8.8.8.8", 50, None), 0, 8, false), None),
        ("over the header", fragment(tcp(0x10), 8, 1_480, true), Some(FragmentOverlap)),
        ("behind it", fragment(tcp(0x10), 24, 1_480, true), None),
        ("UDP behind its header", fragment(udp("8.8.8.8"), 8, 16, true), None),
    ];
    for (why, packet, expected) in cases {
        assert_eq!(judge(&all(), &packet), expected, "{why}");
    }
}

#[test]
fn protocols_are_refused_by_number() {
    assert_eq!(judge(&all(), &packet("8.8.8.8", 47, None)), Some(Reason::RefusedProtocol));
    assert_eq!(judge(&all(), &packet("8.8.8.8", 50, None)), None);
    assert_eq!(judge(&Sanity::default(), &packet("8.8.8.8", 47, None)), None);
}

/// Words that are likely to be significant.
fn odd_words() -> impl Strategy<Value = u64> {
    let ends = prop::sample::select(vec![0_u64, 1, 0xffff, 0xffff << 32]);
    let starts =
        prop::sample::select(vec![0x2001_0db8_u64 << 32, 0xff02 << 48, 0xfe80 << 48, 0x0064_ff9b << 32]);
    prop_oneof![any::<u64>(), ends, starts]
}

fn packets() -> impl Strategy<Value = Packet> {
    let address = || {
        prop_oneof![
            any::<u32>().prop_map(Address::V4),
            (odd_words(), odd_words()).prop_map(|(network, interface)| Address::V6 { network, interface })
        ]
    };
    let ports = prop::option::of((0..4_u16, 0..4_u16));
    let protocol = prop::sample::select(vec![6_u8, 17, 1, 58, 2, 47, 50]);
    (address(), address(), protocol, ports, any::<u8>(), 0..3_u32, any::<(u16, bool)>()).prop_map(
        |(source, destination, protocol, ports, flags, start, (length, is_last))| {
            let ports = ports.map(|(source, destination)| Ports { source, destination });
            let tcp_flags = (protocol == 6 && ports.is_some()).then_some(flags);
            let whole = Packet { source, destination, tcp_flags, ports, ..packet("8.8.8.8", protocol, None) };
            if start == 0 && is_last { whole } else { fragment(whole, start * 8, length.into(), is_last) }
        },
    )
}

proptest! {
    #[test]
    fn what_is_beyond_doubt_fails_no_check(packet in packets(), checks in prop::collection::vec(0..CHECKS.len(), 0..12)) {
        let sanity = Sanity::new(checks.iter().map(|index| CHECKS[*index].0), &[47]);
        prop_assert!(!sanity.is_beyond_doubt(&packet) || sanity.check(&packet).is_none(), "{packet:?}");
    }

    #[test]
    fn only_checks_that_are_made_find_something(packet in packets(), made in 0..CHECKS.len()) {
        let (made, _) = CHECKS[made];
        let found = judge(&Sanity::new([made], &[]), &packet);
        prop_assert!(found.is_none_or(|found| found == made));
        // And no failed check hides another.
        if let Some(first) = judge(&all(), &packet).filter(|first| *first != Reason::RefusedProtocol) {
            prop_assert_eq!(judge(&Sanity::new([first], &[]), &packet), Some(first));
        }
    }
}

#[test]
fn ethertypes_are_refused_or_accepted_by_a_list_and_arp_always_passes() {
    const MPLS: u16 = 0x8847;
    const LLDP: u16 = 0x88cc;
    let many: Vec<u16> = (0..MAX_ETHERTYPES as u16).map(|n| 0x9000 + n).collect();
    let cases = [
        ("no list", Ethertypes::default(), [MPLS, LLDP, LENGTH].as_slice(), [].as_slice()),
        ("an empty one", Ethertypes::accept(&[]), &[MPLS, LLDP, LENGTH], &[]),
        ("refused", Ethertypes::refuse(&[MPLS]), &[LLDP, LENGTH, 0x8848], &[MPLS]),
        ("accepted", Ethertypes::accept(&[LLDP]), &[LLDP], &[MPLS, LENGTH, 0x1234]),
        ("frames with a length", Ethertypes::refuse(&[LENGTH, LLDP]), &[MPLS], &[LENGTH, LLDP]),
        ("a full list", Ethertypes::refuse(&many), &[MPLS, 0x9010], &many),
        ("ARP, by accident", Ethertypes::refuse(&[ARP]), &[MPLS, LLDP], &[]),
    ];
    for (why, ethertypes, passed, refused) in cases {
        for (kinds, expected) in [(passed, Reason::NotIp), (refused, Reason::RefusedEthertype)] {
            for kind in kinds {
                assert_eq!(ethertypes.check(*kind, Reason::NotIp), expected, "{why}: {kind:#06x}");
            }
        }
        assert_eq!(ethertypes.check(ARP, Reason::NotIp), Reason::NotIp, "{why}");
    }
    assert_eq!(Ethertypes::refuse(&many).refused(), many);
    assert_eq!(Ethertypes::accept(&[LLDP, MPLS]).accepted(), [LLDP, MPLS]);
    assert!(Ethertypes::accept(&[LLDP]).refused().is_empty());
}
