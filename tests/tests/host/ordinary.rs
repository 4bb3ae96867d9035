//! The fast path has the same result as the slow path, for every packet that it does not leave to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use fastrand::Rng;
use flood_common::{
    abi::{Settings, list},
    decide::decide,
    host::{Entry, HostTables, UdpSocket},
    ordinary,
    packet::{Parsed, parse},
    place::MIN_BUCKET_BITS,
    proof::means,
    reason::Reason,
    sanity::{CHECKS, Sanity},
    wire::{BarePacket, Frame},
};
use flood_userspace::{bpf::limit::set_limits, config::Config};
use floodgate_tests::packet::{Build, SERVER, from, generate};
use ipnet::IpNet;

/// Frames for each configuration.
const FRAMES: u64 = 20_000;

/// Configurations in which a class has no limit, one for its source, or several.
const LIMITS: [&str; 4] = [
    "",
    "[limit]\nsource.packets = \"off\"\nsource.syn.packets = \"off\"",
    "[limit.source]\npackets = \"200/s\"\npackets_burst = \"40\"\n[limit.total.udp]\npackets = \"30/s\"",
    "[limit.source]\npackets = \"20/s\"\nbits = \"40kbit/s\"\n[limit.total.closed]\npackets = \"10/s\"",
];

fn entries(prefixes: &[&str]) -> Vec<Entry> {
    let entry = |text: &&str| {
        let prefix: IpNet = text.parse().expect("a prefix");
        Entry { address: prefix.network().into(), length: prefix.prefix_len().into(), expires_ns: 0 }
    };
    prefixes.iter().map(entry).collect()
}

/// A frame with nothing special in it except perhaps its source and destination.
fn plain(random: &mut Rng) -> Vec<u8> {
    let source = random.u32(..16);
    let source: IpAddr = if random.bool() {
        Ipv4Addr::from(0xc633_6400 + source).into()
    } else {
        Ipv6Addr::from(0x2001_0db8_0000_u128 << 80 | u128::from(source) << 64 | 1).into()
    };
    let [client, service] = [[0, 53, 4_000], [9, 53, 443]].map(|ports| ports[random.usize(..3)]);
    let build = match random.bool() {
        true => from(source).udp(client, service),
        false => from(source).tcp(client, service, [0x02, 0x10, 0x12, 0x18, 0x04, 0x03][random.usize(..6)]),
    };
    build.payload(random.usize(..200)).padding(random.usize(..20)).bytes()
}

fn tables() -> HostTables {
    let mut tables = HostTables::new(MIN_BUCKET_BITS);
    tables.sketch(1);
    tables.block = entries(&["198.51.100.4/30", "2001:db8:0:5::/64"]);
    tables.allow = entries(&["198.51.100.6/32", "2001:db8:0:6::/63"]);
    tables.sockets.local = vec![SERVER.into()];
    let open = |port, peer| UdpSocket { local: None, port, peer };
    tables.sockets.udp = vec![open(9, None), open(443, Some((SERVER.into(), 1)))];
    tables
}

#[test]
fn it_says_and_charges_what_the_long_way_does() {
    let (mut seen, mut looked_again, mut long) = (BTreeMap::new(), 0, 0);
    for limits in LIMITS {
        for (absence, proof) in [(0, 0), (1, 0), (0, means::SOCKETS), (1, means::SOCKETS)] {
            let settings = settings(limits, absence, proof);
            // Each path has tables of its own, which stay equal as long as both are charged the same.
            let (ours, theirs) = (tables(), tables());
            let mut now_ns = 1_000_000_000;
            for seed in 0..FRAMES {
                let mut random = Rng::with_seed(seed);
                now_ns += random.u64(..1_000_000);
                if seed % 1_000 == 0 {
                    [&ours, &theirs].iter().for_each(|tables| tables.look_at_ports(now_ns));
                }
                let bytes = if random.bool() { generate::frame(&mut random) } else { plain(&mut random) };
                let frame = Frame(&bytes);
                let parsed = parse(frame);
                let expected = decide(&parsed, &settings, now_ns, &theirs);
                let Some((verdict, length)) = ordinary::judge(frame, &settings, now_ns, &ours) else {
                    long += 1;
                    assert_eq!(decide(&parsed, &settings, now_ns, &ours), expected);
                    continue;
                };
                let Parsed::Packet(packet) = parsed else { panic!("{parsed:?} is ordinary?") };
                assert_eq!(
                    (verdict.reason, verdict.looks_again, length),
                    (expected.reason, expected.looks_again, packet.length),
                    "{packet:?}"
                );
                assert!(!verdict.looks_again || verdict.class == expected.class, "{packet:?}");
                assert_eq!(ours.exceeded.get(), theirs.exceeded.get(), "{packet:?}");
                *seen.entry(verdict.reason).or_insert(0) += 1;
                looked_again += u64::from(verdict.looks_again);
            }
            assert!(ours.owes_as(&theirs), "the same was charged");
        }
    }
    println!("{long} the long way; {looked_again} again; {seen:?}");
    use Reason::{Allowed, Blocked, Conforming, NoSocket, SourceBits, SourcePackets, TotalPackets};
    for reason in [Conforming, Allowed, Blocked, SourcePackets, SourceBits, TotalPackets, NoSocket] {
        assert!(seen.get(&reason).is_some_and(|count| *count > 10), "{reason:?}: {seen:?}");
    }
    assert!(looked_again > 100, "{looked_again} looked at again");
    let short: u64 = seen.values().sum();
    assert!(4 * short > long, "only {short} the short way");
}

fn settings(limits: &str, absence: u32, proof: u32) -> Settings {
    let config = Config::parse(limits, Path::new("")).expect("a right one");
    let checks = CHECKS.map(|(reason, _)| reason).into_iter().filter(|reason| *reason != Reason::BogonSource);
    let mut settings = Settings {
        lists: list::V4 | list::V6,
        sanity: Sanity::new(checks, &[132]),
        absence,
        proof,
        masks_v4: [u32::MAX, 0xffff_ff00],
        masks_v6: [u64::MAX, u64::MAX << 16],
        ..Settings::default()
    };
    set_limits(&mut settings, &config.limits, &config.protected_limits);
    settings
}

#[test]
fn what_most_packets_are_goes_the_short_way() {
    let (settings, tables) = (Settings::default(), tables());
    let judge = |build: &Build| {
        ordinary::judge(Frame(&build.bytes()), &settings, 1, &tables).map(|(verdict, _)| verdict.reason)
    };
    let [v4, v6] = ["198.51.100.66", "2001:db8::66"].map(|source| from(source.parse().expect("an address")));
    for source in [v4, v6] {
        let ordinary = [
            source.clone().udp(4_000, 9),
            source.clone().syn(443),
            source.clone().tcp(4_000, 443, 0x18).payload(1_000),
        ];
        for build in &ordinary {
            assert_eq!(judge(build), Some(Reason::Conforming));
            assert_eq!(ordinary::judge(BarePacket(&build.bytes()), &settings, 1, &tables), None);
        }
        assert_eq!(judge(&source.clone().echo_request()), None);
        assert_eq!(judge(&source.clone().vlan().udp(4_000, 9)), None);
    }
}
