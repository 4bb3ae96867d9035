//! UDP from reflector ports: what was solicited, what leads to a socket, and what nobody can want.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use flood_common::{
    abi::solicited,
    proof::means,
    reason::Reason::{self, *},
    reflector::REFLECTORS,
    watch::ENOUGH,
};
use floodgate_tests::{
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, SERVER, SERVER6, VISITOR, VISITOR6, from},
    rig::{Loan, Open, Rig},
};

const FAMILIES: [(IpAddr, IpAddr, IpAddr); 2] = [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)];

fn rig() -> Loan {
    let mut rig = Rig::new();
    rig.tell_answers();
    rig
}

/// A request of the server.
fn question(server: IpAddr, port: u16, to: IpAddr, service: u16) -> Build {
    from(server).to(to).udp(port, service).payload(30)
}

/// A reply to the server.
fn answer(from_whom: IpAddr, service: u16, port: u16) -> Vec<u8> {
    from(from_whom).udp(service, port).payload(60).bytes()
}

#[test]
fn what_was_asked_for_is_let_in_and_nothing_beside_it() {
    needs_root!();
    let mut rig = rig();
    for (server, resolver, mirror) in FAMILIES {
        assert_eq!(rig.send(&answer(resolver, 53, 40_000)), Some(Unsolicited), "before it is asked");
        rig.ask(&question(server, 40_000, resolver, 53).bytes());
        let cases = [
            ("the answer", answer(resolver, 53, 40_000), Solicited),
            ("somebody else", answer(mirror, 53, 40_000), Unsolicited),
            ("another port of the host", answer(resolver, 53, 40_001), Unsolicited),
            ("another service", answer(resolver, 123, 40_000), Unsolicited),
            ("in a VLAN", from(resolver).udp(53, 40_000).vlan().bytes(), Solicited),
            ("in PPPoE", from(resolver).udp(53, 40_000).pppoe().bytes(), Solicited),
            ("somebody else's in PPPoE", from(mirror).udp(53, 40_000).pppoe().bytes(), Unsolicited),
            ("no mirror's port", answer(mirror, 54, 40_000), Conforming),
            ("TCP", from(mirror).tcp(53, 40_000, 0x10).bytes(), Conforming),
        ];
        for (why, frame, expected) in cases {
            assert_eq!(rig.send(&frame), Some(expected), "{server}: {why}");
        }
    }
}

#[test]
fn questions_are_seen_in_every_frame_that_a_host_sends() {
    needs_root!();
    let mut rig = rig();
    let cases = [
        ("plain", question(SERVER, 40_000, VISITOR, 53), true),
        ("VLAN", question(SERVER, 40_001, VISITOR, 53).vlan(), true),
        ("options", question(SERVER, 40_002, VISITOR, 53).options(10), true),
        ("a first fragment", question(SERVER, 40_003, VISITOR, 53).payload(64).fragment(0, true), true),
        ("segments that are still to be cut", question(SERVER, 40_004, VISITOR, 443).payload(3_000), true),
        ("IPv6", question(SERVER6, 40_005, VISITOR6, 53), true),
        ("IPv6 in a VLAN", question(SERVER6, 40_006, VISITOR6, 53).vlan(), true),
        ("two old service tags", question(SERVER, 40_009, VISITOR, 53).tag(0x9100).tag(0x9200), true),
        ("PPPoE", question(SERVER, 40_010, VISITOR, 53).pppoe(), true),
        ("IPv6 in PPPoE in a VLAN", question(SERVER6, 40_011, VISITOR6, 53).vlan().short_pppoe(), true),
        ("SNAP", question(SERVER, 40_012, VISITOR, 53).snap(), true),
        ("three tags", question(SERVER, 40_013, VISITOR, 53).vlan().vlan().vlan(), false),
        ("not to a mirror", question(SERVER, 40_007, VISITOR, 54), false),
        ("TCP", from(SERVER).to(VISITOR).tcp(40_008, 53, 0x02), false),
        ("a later fragment", from(SERVER).to(VISITOR).protocol(17).payload(64).fragment(9, false), false),
        ("a service that asks", question(SERVER, 27_015, VISITOR, 53), true),
        ("peers with the same port", question(SERVER, 123, VISITOR, 123), true),
        ("a ping", from(SERVER).to(VISITOR).echo_request(), true),
        ("in IPv6", from(SERVER6).to(VISITOR6).echo_request(), true),
        ("the answer to one", from(SERVER).to(VISITOR).ping_answer(1), false),
        ("a tunnel", from(SERVER).to(VISITOR).protocol(47), true),
        (
            "in IPv6, with an extension header",
            from(SERVER6).to(VISITOR6).extension(60, 0).protocol(47),
            false,
        ),
    ];
    let mut noted = 0;
    for (why, build, expected) in cases {
        rig.ask(&build.bytes());
        noted += u64::from(expected);
        assert_eq!(rig.noted(), noted, "{why}");
    }
}

#[test]
fn a_note_ends_with_silence_and_only_what_goes_out_renews_it() {
    needs_root!();
    let mut rig = rig();
    // So that an unsolicited reply is counted in its class.
    rig.absence(false);
    for (service, seconds) in [(53, 10), (123, 16), (443, 60), (4_500, 60), (1_194, 60)] {
        let asks = question(SERVER, 50_000, VISITOR, service).bytes();
        let reply = answer(VISITOR, service, 50_000);
        rig.ask(&asks);
        rig.advance(Duration::from_secs(seconds));
        assert_eq!(rig.send(&reply), Some(Solicited), "{service}: the last moment");
        rig.advance(Duration::from_secs(1));
        assert_eq!(rig.send(&reply), Some(Conforming), "{service}: what comes in does not renew it");
        for _ in 0..5 {
            rig.ask(&asks);
            rig.advance(Duration::from_secs(seconds * 9 / 10));
        }
        assert_eq!(rig.send(&reply), Some(Solicited), "{service}: what goes out does");
        rig.advance(Duration::from_secs(seconds + 1));
        assert_eq!(rig.send(&reply), Some(Conforming), "{service}: after silence");
    }
}

/// A peer that received one request may not send indefinitely.
#[test]
fn a_question_lets_its_answers_in_and_a_session_what_a_peer_may_send() {
    needs_root!();
    let mut rig = rig();
    rig.open(50_000, Open::ForAll);
    let passed = |rig: &mut Rig, service, count| {
        (0..count).filter(|_| rig.send(&answer(VISITOR, service, 50_000)) == Some(Solicited)).count()
    };
    rig.ask(&question(SERVER, 50_000, VISITOR, 53).bytes());
    assert_eq!(passed(&mut rig, 53, 1_000), 8, "a long answer");
    assert_eq!(
        rig.send(&answer(VISITOR, 53, 50_000)),
        Some(Conforming),
        "within the limits of `amplification`"
    );
    rig.account("[proof]\nproven = \"100/s\"");
    rig.ask(&question(SERVER, 50_000, VISITOR, 443).bytes());
    assert_eq!(passed(&mut rig, 443, 1_000), 200, "the burst of what a peer may send");
    rig.advance(Duration::from_secs(1));
    assert_eq!(passed(&mut rig, 443, 1_000), 100);
}

/// A service replies to whatever it receives. If its replies counted as requests, it would vouch for every reflector.
#[test]
fn a_service_does_not_vouch_for_the_mirrors_that_are_aimed_at_it() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source.amplification]\npackets = \"10/s\"\npackets_burst = \"10\"");
    // A game, on a port of its own and on one in the client port range; to reflectors, and to the same port.
    for (port, service) in [(27_015, 53), (40_000, 53), (500, 500)] {
        rig.open(port, Open::ForAll);
        let (comes, goes) =
            (answer(ATTACKER, service, port), question(SERVER, port, ATTACKER, service).bytes());
        let mut passed = 0;
        for _ in 0..1_000 {
            match rig.send(&comes).expect("is run") {
                Conforming => {
                    passed += 1;
                    rig.ask(&goes);
                }
                reason => assert_eq!(reason, SourcePackets, "{port} and {service}"),
            }
            rig.advance(Duration::from_millis(1));
        }
        assert!((15..=21).contains(&passed), "{port} and {service}: {passed} of 1,000 in a second");
        // What the service keeps sending retains its mark.
        for _ in 0..10 {
            rig.ask(&goes);
            rig.advance(Duration::from_secs(4));
        }
        assert_ne!(rig.send(&comes), Some(Solicited), "{port} and {service}: after streaming");
        rig.close();
        rig.advance(Duration::from_secs(60));
    }
}

/// A reflector port that is also in the client port range says little. A source that is answered there is a client;
/// one that is not may be a reflector.
#[test]
fn from_a_port_that_clients_are_given_as_well_who_is_answered_is_a_client() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source.amplification]\npackets = \"10/s\"\npackets_burst = \"10\"");
    for (port, mirror) in [(27_015, 37_810), (443, 47_808), (40_000, 33_848)] {
        rig.open(port, Open::ForAll);
        let comes = answer(ATTACKER, mirror, port);
        let passed = |rig: &mut Rig| (0..100).filter(|_| rig.send(&comes) == Some(Conforming)).count();
        assert!((10..=12).contains(&passed(&mut rig)), "{port} and {mirror}: not answered");
        rig.ask(&question(SERVER, port, ATTACKER, mirror).bytes());
        assert_eq!(passed(&mut rig), 100, "{port} and {mirror}: answered");
        rig.close();
        rig.advance(Duration::from_secs(60));
        rig.open(port, Open::ForAll);
        assert!((10..=12).contains(&passed(&mut rig)), "{port} and {mirror}: long ago");
        rig.close();
        rig.advance(Duration::from_secs(60));
    }
}

/// Sends a frame from the host this many times.
fn asks(rig: &mut Rig, frame: &[u8], times: u32) {
    (0..times).for_each(|_| rig.ask(frame));
}

/// Returns how many of a hundred packets pass.
fn passing(rig: &mut Rig, frame: &[u8]) -> usize {
    (0..100).filter(|_| rig.send(frame).is_some_and(|reason| !reason.is_drop())).count()
}

/// VXLAN sends from ports that are hashes, some of which are reflector ports. Its socket accepts packets from any
/// source.
#[test]
fn the_peer_of_a_tunnel_has_a_limit_of_its_own_once_this_host_sends_to_it() {
    needs_root!();
    let limit = "packets = \"10/s\"\npackets_burst = \"10\"\n";
    for (tunnel, hashed) in [(4_789, 40_001), (4_789, 47_808), (51_820, 51_820), (6_081, 37_810)] {
        let mut rig = rig();
        rig.limits(&format!("[limit.source]\n{limit}[limit.source.amplification]\n{limit}"));
        rig.prove(means::SOCKETS, 10_000);
        rig.open(tunnel, Open::ForAll);
        // With WireGuard, both ends have a fixed port.
        let from_port = if tunnel == 51_820 { tunnel } else { 45_000 };
        let (comes, goes) =
            (answer(ATTACKER, hashed, tunnel), question(SERVER, from_port, ATTACKER, tunnel).bytes());
        let why = format!("{tunnel} from {hashed}");
        asks(&mut rig, &goes, ENOUGH);
        assert!(
            (10..=12).contains(&passing(&mut rig, &comes)),
            "{why}: who has not sent too much is not noted"
        );
        asks(&mut rig, &question(SERVER, 53, ATTACKER, tunnel).bytes(), ENOUGH);
        assert!(passing(&mut rig, &comes) < 3, "{why}: a service may be made to send there");
        asks(&mut rig, &goes, ENOUGH - 1);
        assert!(passing(&mut rig, &comes) < 3, "{why}: a few may be had for the asking");
        rig.ask(&goes);
        assert_eq!(passing(&mut rig, &comes), 100, "{why}: a peer");
        let spoofed = answer(VISITOR, hashed, tunnel);
        assert!(passing(&mut rig, &spoofed) < 13, "{why}: from somebody else");
        rig.advance(Duration::from_secs(61));
        assert!(passing(&mut rig, &comes) < 13, "{why}: a minute later");
    }
}

/// The end of a tunnel whose other end has a fixed port is not a client.
#[test]
fn who_is_sent_something_at_the_port_of_a_tunnel_without_hashes_is_no_peer() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source]\npackets = \"10/s\"\npackets_burst = \"10\"");
    rig.prove(means::SOCKETS, 10_000);
    rig.open(51_820, Open::ForAll);
    let comes = answer(ATTACKER, 51_820, 51_820);
    passing(&mut rig, &comes);
    asks(&mut rig, &question(SERVER, 45_000, ATTACKER, 51_820).bytes(), 2 * ENOUGH);
    assert!(passing(&mut rig, &comes) < 3);
}

/// A flood on another port uses up the shared limit.
#[test]
fn a_tunnel_has_its_share_of_a_limit_of_many_like_any_port() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.total.udp]\npackets = \"100/s\"\npackets_burst = \"100\"");
    rig.prove(means::SOCKETS, 10_000);
    rig.open(27_015, Open::ForAll);
    rig.open(51_820, Open::ForAll);
    for _ in 0..1_000 {
        let _ = rig.send(&answer(ATTACKER, 5_000, 27_015));
    }
    assert_eq!(rig.send(&answer(VISITOR, 51_820, 51_820)), Some(PortShare));
}

/// A container's download: no socket here belongs to it.
#[test]
fn connections_of_hosts_behind_this_one_are_known_by_what_they_send() {
    const SYN: u8 = 0x02;
    const RST: u8 = 0x04;
    const ACK: u8 = 0x10;
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source]\npackets = \"10/s\"\npackets_burst = \"10\"");
    let comes = from(ATTACKER).tcp(443, 40_000, ACK).bytes();
    let leaves = |flags| from(SERVER).to(ATTACKER).tcp(40_000, 443, flags).bytes();
    rig.prove(means::SOCKETS, 10_000);
    rig.absence(false);
    asks(&mut rig, &leaves(ACK), ENOUGH);
    assert!((10..=12).contains(&passing(&mut rig, &comes)), "who has not sent too much is not noted");
    for flags in [SYN, SYN | ACK, RST, RST | ACK, 0] {
        asks(&mut rig, &leaves(flags), 2 * ENOUGH);
        assert!(passing(&mut rig, &comes) < 3, "{flags:#x} may answer a stranger");
    }
    // A second SYN on a half-open connection is answered with a bare ACK, at most twice a second.
    for _ in 0..2 * ENOUGH {
        rig.ask(&leaves(ACK));
        rig.advance(Duration::from_millis(500));
        assert!(passing(&mut rig, &comes) < 13, "who has asked for it");
    }
    rig.advance(Duration::from_secs(6));
    assert!(passing(&mut rig, &comes) < 13);
    asks(&mut rig, &leaves(ACK), ENOUGH);
    assert_eq!(passing(&mut rig, &comes), 100);
    let other = from(ATTACKER).tcp(443, 40_001, ACK).bytes();
    assert!(passing(&mut rig, &other) < 3, "another connection");
    rig.advance(Duration::from_secs(61));
    assert!(passing(&mut rig, &comes) < 13, "a minute later");
}

/// All sources behind one translator share a /64 and a /96.
#[test]
fn who_comes_through_nat64_is_a_source_of_his_own() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source]\npackets = \"10/s\"\npackets_burst = \"10\"");
    for visitor in ["64:ff9b::c000:201", "64:ff9b::c000:202", "64:ff9b::808:808"] {
        let source: IpAddr = visitor.parse().expect("an address");
        let frame = from(source).udp(5_000, 9).bytes();
        assert!((10..=12).contains(&passing(&mut rig, &frame)), "{visitor}");
    }
    let neighbour = "64:ff9b:1::1".parse().expect("an address");
    assert!(passing(&mut rig, &from(neighbour).udp(5_000, 9).bytes()) > 9, "of another prefix");
}

/// A service bound to all addresses of a host replies from its first address, whichever address the request was sent
/// to.
#[test]
fn a_service_that_answers_from_another_address_does_not_vouch_either() {
    needs_root!();
    let mut rig = rig();
    let another: IpAddr = "192.0.2.77".parse().expect("an address");
    rig.own(&[SERVER, another]);
    rig.open(27_015, Open::ForAll);
    assert_eq!(rig.send(&from(ATTACKER).to(another).udp(53, 27_015).bytes()), Some(Conforming));
    rig.ask(&question(SERVER, 27_015, ATTACKER, 53).bytes());
    assert_eq!(rig.send(&answer(ATTACKER, 53, 27_015)), Some(Conforming), "within the limits of its class");
}

/// A source that spoofs the peer of a session, to another address of this host, does not capture the session.
#[test]
fn what_comes_to_another_address_takes_no_session_away() {
    needs_root!();
    let mut rig = rig();
    let another: IpAddr = "192.0.2.77".parse().expect("an address");
    rig.own(&[SERVER, another]);
    rig.open(4_500, Open::ForAll);
    for _ in 0..30 {
        rig.ask(&question(SERVER, 4_500, VISITOR, 4_500).bytes());
        let spoofed = from(VISITOR).to(another).udp(4_500, 4_500).payload(60).bytes();
        assert_eq!(rig.send(&spoofed), Some(Conforming));
        assert_eq!(rig.send(&answer(VISITOR, 4_500, 4_500)), Some(Solicited));
        rig.advance(Duration::from_secs(4));
    }
}

/// Others may send too much in reply to this host's requests: the flow is still one that this host has begun.
#[test]
fn too_many_answers_do_not_make_a_question_somebody_else_s() {
    needs_root!();
    let mut rig = rig();
    rig.account("[proof]\nproven = \"100/s\"");
    for service in [123, 4_500] {
        rig.open(service, Open::ForAll);
        rig.ask(&question(SERVER, service, VISITOR, service).bytes());
        let reply = answer(VISITOR, service, service);
        let solicited = (0..1_000).filter(|_| rig.send(&reply) == Some(Solicited)).count();
        assert_eq!(solicited, if service == 123 { 8 } else { 200 }, "{service}");
        for _ in 0..30 {
            rig.ask(&question(SERVER, service, VISITOR, service).bytes());
            rig.advance(Duration::from_secs(4));
        }
        assert_eq!(rig.send(&reply), Some(Solicited), "{service}: two minutes later");
        rig.close();
    }
}

/// Spoofed packets of a session do not reduce what its peer may send besides.
#[test]
fn a_session_has_an_account_of_its_own() {
    needs_root!();
    let mut rig = rig();
    rig.account("[proof]\nproven = \"100/s\"");
    rig.open(4_500, Open::ForAll);
    rig.open(50_000, Open::ForAll);
    for (port, service) in [(4_500, 4_500), (50_000, 443)] {
        rig.ask(&question(SERVER, port, VISITOR, service).bytes());
        let spoofed =
            (0..1_000).filter(|_| rig.send(&answer(VISITOR, service, port)) == Some(Solicited)).count();
        assert_eq!(spoofed, 200, "{service}");
    }
}

/// The kernel replies to unknown sources in SCTP, but not in a tunnel.
#[test]
fn who_sends_first_in_a_protocol_of_services_has_no_session() {
    needs_root!();
    let mut rig = rig();
    for (protocol, expected) in [(132, Conforming), (33, Conforming), (136, Conforming), (50, Solicited)] {
        let comes = from(VISITOR).protocol(protocol).payload(40).bytes();
        let goes = from(SERVER).to(VISITOR).protocol(protocol).payload(40).bytes();
        assert_eq!(rig.send(&comes), Some(Conforming), "{protocol}");
        rig.ask(&goes);
        assert_eq!(rig.send(&comes), Some(expected), "{protocol}: after an answer");
        rig.advance(Duration::from_secs(100));
        rig.ask(&goes);
        assert_eq!(rig.send(&comes), Some(Solicited), "{protocol}: of the host's own");
    }
}

/// A DHCP client has no visible socket, but it sends before it receives replies.
#[test]
fn the_port_of_dhcp_is_open_when_a_client_has_asked() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.total.closed]\npackets = \"1/s\"\npackets_burst = \"1\"");
    let offer = from(ATTACKER).udp(67, 68).payload(300).bytes();
    let _ = rig.send(&offer);
    assert_eq!(rig.send(&offer), Some(NoSocket));
    rig.ask(&question(SERVER, 68, VISITOR, 67).bytes());
    assert_eq!(rig.send(&offer), Some(Conforming));
}

/// dnsmasq sends requests from unconnected sockets, NTP from the port that it serves.
#[test]
fn who_asks_first_is_answered_from_whatever_port() {
    needs_root!();
    let mut rig = rig();
    for (port, service) in [(40_000, 53), (1_053, 53), (123, 123), (53, 53), (4_500, 4_500)] {
        rig.open(port, Open::ForAll);
        for _ in 0..5 {
            rig.ask(&question(SERVER, port, VISITOR, service).bytes());
            assert_eq!(rig.send(&answer(VISITOR, service, port)), Some(Solicited), "{port} and {service}");
            rig.advance(Duration::from_secs(3));
        }
        rig.close();
    }
}

/// An attacker that knows the host's servers would otherwise block its requests by sending first, on every port.
#[test]
fn a_port_of_clients_without_a_socket_cannot_be_marked() {
    needs_root!();
    let mut rig = rig();
    // A host that also sends for others: none of the sockets is its own.
    rig.absence(false);
    for port in [40_000, 40_001] {
        assert_eq!(rig.send(&answer(VISITOR, 53, port)), Some(Conforming));
    }
    rig.ask(&question(SERVER, 40_000, VISITOR, 53).bytes());
    assert_eq!(rig.send(&answer(VISITOR, 53, 40_000)), Some(Solicited));
    // On the other port there is a service behind the host.
    assert_eq!(rig.send(&answer(VISITOR, 53, 27_015)), Some(Conforming));
    rig.ask(&question(SERVER, 27_015, VISITOR, 53).bytes());
    assert_eq!(rig.send(&answer(VISITOR, 53, 27_015)), Some(Conforming));
}

#[test]
fn pings_are_answered_and_tunnels_stay_open_over_their_limits() {
    needs_root!();
    let mut rig = rig();
    rig.limits(
        "[limit.total.icmp]\npackets = \"1/s\"\npackets_burst = \"1\"\n\
         [limit.total.other]\npackets = \"1/s\"\npackets_burst = \"1\"",
    );
    for (server, peer, other) in FAMILIES {
        rig.advance(Duration::from_secs(60));
        let ping = |from_whom| from(from_whom).ping_answer(7).bytes();
        let tunnel = |from_whom| from(from_whom).protocol(50).payload(40).bytes();
        for frame in [ping(other), tunnel(other)] {
            let _ = rig.send(&frame);
            assert_eq!(rig.send(&frame), Some(TotalPackets), "{server}: unasked");
        }
        rig.ask(&from(server).to(peer).echo_request().identifier(7).bytes());
        rig.ask(&from(server).to(peer).protocol(50).payload(40).bytes());
        assert_eq!(rig.send(&ping(peer)), Some(Solicited), "{server}");
        assert_eq!(
            rig.send(&from(peer).ping_answer(8).bytes()),
            Some(TotalPackets),
            "{server}: another ping"
        );
        assert!((0..100).all(|_| rig.send(&tunnel(peer)) == Some(Solicited)), "{server}");
        assert_eq!(
            rig.send(&from(peer).protocol(47).bytes()),
            Some(TotalPackets),
            "{server}: another tunnel"
        );
    }
}

/// A flood on one port, or on none, does not affect the others.
#[test]
fn a_flood_takes_the_port_that_it_is_aimed_at() {
    needs_root!();
    let mut rig = rig();
    rig.prove(means::SOCKETS, 0);
    rig.limits(
        "[limit.total.udp]\npackets = \"800/s\"\npackets_burst = \"400\"\n\
         [limit.total.closed]\npackets = \"80/s\"\npackets_burst = \"40\"",
    );
    for port in [53, 27_015] {
        rig.open(port, Open::ForAll);
    }
    let from_anywhere = |n: u32| from(IpAddr::from((0xc633_0000 + n).to_be_bytes()));
    let mut send = |n: u32, port: u16| rig.send(&from_anywhere(n).udp(50_000, port).bytes()).expect("is run");
    let closed = (0..10_000).filter(|n| send(*n, 9) == Conforming).count();
    assert!((40..=104).contains(&closed), "{closed}: the burst of `total.closed` and a lease");
    assert_eq!(send(1, 9), NoSocket);
    let flooded = (0..10_000).filter(|n| !send(*n, 27_015).is_drop()).count();
    assert!((450..=514).contains(&flooded), "{flooded}: the burst, the port's share, and a lease");
    assert_eq!(send(1, 27_015), TotalPackets);
    let other = (0..1_000).filter(|n| send(*n, 53) == PortShare).count();
    assert_eq!(other, 50, "the burst of its share");
}

#[test]
fn every_known_mirror_is_asked_for_an_answer_s_reason() {
    needs_root!();
    let mut rig = rig();
    for known in &REFLECTORS {
        assert_eq!(rig.send(&answer(ATTACKER, known.port, 50_000)), Some(Unsolicited), "{}", known.name);
    }
}

#[test]
fn a_connected_socket_has_asked_and_an_open_one_has_limits() {
    needs_root!();
    let mut rig = rig();
    for (_, peer, mirror) in FAMILIES {
        rig.advance(Duration::from_secs(60));
        rig.open(27_015, Open::ForAll);
        rig.open(40_000, Open::To(SocketAddr::new(peer, 53)));
        let passed = |rig: &mut Rig, frame: &[u8], reason| {
            (0..3_000).filter(|_| rig.send(frame) == Some(reason)).count()
        };
        let connected = passed(&mut rig, &answer(peer, 53, 40_000), Solicited);
        assert_eq!(connected, 3_000, "{peer}: to a connected socket");
        assert_eq!(rig.send(&answer(mirror, 53, 40_000)), Some(Unsolicited), "{peer}: from another to it");
        assert_eq!(
            passed(&mut rig, &answer(mirror, 53, 27_015), Conforming),
            2_000,
            "{mirror}: the burst of its limit"
        );
        assert_eq!(rig.send(&answer(mirror, 53, 27_015)), Some(SourcePackets), "{mirror}");
        assert_eq!(
            rig.send(&from(mirror).udp(50_000, 27_015).bytes()),
            Some(Conforming),
            "{mirror}: as a player"
        );
        assert_eq!(
            rig.send(&answer(mirror, 53, 27_016)),
            Some(Unsolicited),
            "{mirror}: where nobody listens"
        );
        rig.close();
        assert_eq!(rig.send(&answer(mirror, 53, 27_015)), Some(Unsolicited), "{mirror}: after it is closed");
    }
}

#[test]
fn mirrors_aimed_at_a_service_are_held_in_all_and_players_are_not() {
    needs_root!();
    let mut rig = rig();
    rig.limits("");
    rig.open(27_015, Open::ForAll);
    let mut reasons = std::collections::BTreeMap::<Reason, u32>::new();
    for n in 0..40_000_u32 {
        let source = IpAddr::from((0xc633_0000_u32 + (n % 1_000) * 0x101).to_be_bytes());
        *reasons.entry(rig.send(&answer(source, 53, 27_015)).expect("is run")).or_default() += 1;
    }
    // The burst of the total is half a second's worth, plus a lease.
    let passed = reasons[&Conforming];
    assert!((2_500..=2_564).contains(&passed), "{reasons:?}");
    assert!(reasons.contains_key(&TotalPackets), "{reasons:?}");
    for n in 0..128 {
        assert_eq!(rig.send(&from(VISITOR).udp(50_000, 27_015).payload(n).bytes()), Some(Conforming));
    }
}

#[test]
fn where_sockets_do_not_tell_nothing_is_dropped_for_having_none() {
    needs_root!();
    let mut rig = rig();
    rig.tell_by(solicited::NOTED);
    assert_eq!(rig.send(&answer(ATTACKER, 53, 40_000)), Some(Conforming));
    rig.tell_by(0);
    assert_eq!(rig.send(&answer(ATTACKER, 53, 40_000)), Some(Conforming));
    rig.tell_by(solicited::SOCKETS);
    rig.ask(&question(SERVER, 40_000, ATTACKER, 53).bytes());
    assert_eq!(rig.send(&answer(ATTACKER, 53, 40_000)), Some(Unsolicited));
}

#[test]
fn a_flood_of_the_host_s_own_questions_forgets_the_oldest() {
    needs_root!();
    let mut rig = rig();
    rig.absence(false);
    let resolvers = 0..4_u8;
    let resolver = |n: u8| IpAddr::from([203, 0, 113, n]);
    for n in resolvers {
        for port in 16_384..=u16::MAX {
            rig.ask(&from(SERVER).to(resolver(n)).udp(port | 0x8000, 53).bytes());
        }
        rig.advance(Duration::from_secs(1));
    }
    let noted = rig.noted();
    assert!(noted <= 1 << 17, "{noted} notes");
    let kept = |rig: &mut Rig, n| {
        (0x8000..=u16::MAX)
            .step_by(64)
            .filter(|port| rig.send(&answer(resolver(n), 53, *port)) == Some(Solicited))
            .count()
    };
    // Of 32,768 flows in 16,384 buckets, some five share a bucket with more than seven others.
    assert!(kept(&mut rig, 3) >= 508, "the last are all there");
    assert!(kept(&mut rig, 0) < 512, "and of the first some have given way");
}
