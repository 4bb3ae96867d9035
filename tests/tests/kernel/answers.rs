//! UDP from the ports of mirrors: what was asked for, what leads to a socket, and what nobody can want.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use flood_common::{
    abi::solicited,
    reason::Reason::{self, *},
    reflector::REFLECTORS,
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

/// A question of the server's.
fn question(server: IpAddr, port: u16, to: IpAddr, service: u16) -> Build {
    from(server).to(to).udp(port, service).payload(30)
}

/// An answer to the server.
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
            ("the answer", answer(resolver, 53, 40_000), Conforming),
            ("somebody else", answer(mirror, 53, 40_000), Unsolicited),
            ("another port of the host", answer(resolver, 53, 40_001), Unsolicited),
            ("another service", answer(resolver, 123, 40_000), Unsolicited),
            ("in a VLAN", from(resolver).udp(53, 40_000).vlan().bytes(), Conforming),
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
        ("not to a mirror", question(SERVER, 40_007, VISITOR, 54), false),
        ("TCP", from(SERVER).to(VISITOR).tcp(40_008, 53, 0x02), false),
        ("a later fragment", from(SERVER).to(VISITOR).protocol(17).payload(64).fragment(9, false), false),
        ("an answer of a service", question(SERVER, 27_015, VISITOR, 53), false),
        ("an answer to a client who has a mirror's port", question(SERVER, 27_015, VISITOR, 37_810), true),
        ("peers with the same port", question(SERVER, 123, VISITOR, 123), true),
    ];
    let mut noted = 0;
    for (why, build, expected) in cases {
        rig.ask(&build.bytes());
        noted += u64::from(expected);
        assert_eq!(rig.noted(), noted, "{why}");
    }
}

#[test]
fn a_note_ends_with_silence_and_is_renewed_from_either_side() {
    needs_root!();
    let mut rig = rig();
    for (service, seconds) in [(53, 10), (123, 16), (443, 60), (4_500, 60), (1_194, 60)] {
        let reply = answer(VISITOR, service, 50_000);
        rig.ask(&question(SERVER, 50_000, VISITOR, service).bytes());
        rig.advance(Duration::from_secs(seconds));
        assert_eq!(rig.send(&reply), Some(Conforming), "{service}: the last moment");
        for _ in 0..5 {
            rig.advance(Duration::from_secs(seconds * 9 / 10));
            assert_eq!(rig.send(&reply), Some(Conforming), "{service}: what comes in renews it");
        }
        for _ in 0..5 {
            rig.advance(Duration::from_secs(seconds * 9 / 10));
            rig.ask(&question(SERVER, 50_000, VISITOR, service).bytes());
        }
        rig.advance(Duration::from_secs(seconds / 2));
        assert_eq!(rig.send(&reply), Some(Conforming), "{service}: what goes out renews it");
        rig.advance(Duration::from_secs(seconds + 1));
        assert_eq!(rig.send(&reply), Some(Unsolicited), "{service}: after silence");
    }
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
        let passed =
            |rig: &mut Rig, frame: &[u8]| (0..3_000).filter(|_| rig.send(frame) == Some(Conforming)).count();
        assert_eq!(passed(&mut rig, &answer(peer, 53, 40_000)), 3_000, "{peer}: to a connected socket");
        assert_eq!(rig.send(&answer(mirror, 53, 40_000)), Some(Unsolicited), "{peer}: from another to it");
        assert_eq!(passed(&mut rig, &answer(mirror, 53, 27_015)), 2_000, "{mirror}: the burst of its limit");
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
    // The burst of the total is two seconds, and a lease.
    let passed = reasons[&Conforming];
    assert!((10_000..=10_064).contains(&passed), "{reasons:?}");
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
            .filter(|port| rig.send(&answer(resolver(n), 53, *port)) == Some(Conforming))
            .count()
    };
    // Of 32,768 in 16,384 buckets some five find more than seven others of their own there.
    assert!(kept(&mut rig, 3) >= 508, "the last are all there");
    assert!(kept(&mut rig, 0) < 512, "and of the first some have given way");
}
