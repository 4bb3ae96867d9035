//! Host and kernel agree on generated frames. [`Rig::send`] checks that, with every counter.

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Result;
use fastrand::Rng;
use flood_common::{
    evidence::state,
    host::{Between, Listener},
    proof::means,
    reason::Reason,
    reassembly::PAGE_BYTES,
    sanity::{CHECKS, Ethertypes},
    solicit::Flow,
};
use flood_userspace::host::FragmentMemory;
use floodgate_tests::{
    lab::{Namespace, slowness},
    needs_root,
    packet::{SERVER, SERVER6, generate},
    peer::Peer,
    rig::{Open, Rig},
};

/// Limits, tight enough that each is exceeded now and then. They take turns, because what exceeds a narrow limit
/// never reaches a wide one. Some weigh packets more, others bits.
const LIMITS: [&str; 5] = [
    r#"
        [limit.source]
        packets = "100/s"
        packets_burst = "60"
        bits = "1Mbit/s"
        bits_burst = "100kbit"
    "#,
    r#"
        [limit]
        source.packets = "off"
        source_prefix.udp = { packets = "20/s", bits = "1Mbit/s" }
    "#,
    r#"
        [limit]
        source.packets = "off"
        source_prefix.udp = { bits = "1Mbit/s" }
        destination.tcp = { packets = "20/s", bits = "100kbit/s" }
        destination_prefix.other = { packets = "20/s", bits = "100kbit/s" }
    "#,
    r#"
        [limit]
        source.packets = "off"
        destination_prefix.other.packets = "10/s"
        destination.tcp.packets = "10/s"
    "#,
    r#"
        [limit]
        source.packets = "off"
        total = { packets = "100/s", bits = "400kbit/s" }
    "#,
];

/// Frames after which the next limits apply.
const TURN: u64 = 2_000;

/// An open TCP and UDP port.
const SERVICE: u16 = 53;

/// One frame in this many is about the state of the host.
const ABOUT: u8 = 4;

/// Number of generated frames on a real processor; fewer on a slow one.
const FRAMES: u64 = 120_000;

/// Reasons for which a frame alone is not enough: they need a full bucket, another kernel setting, a listener that
/// has stopped listening, or time.
const NEED_MORE: [Reason; 4] =
    [Reason::Unaccounted, Reason::QueueHasRoom, Reason::QueueFull, Reason::SynAgain];

#[test]
fn host_and_kernel_agree_on_generated_frames() -> Result<()> {
    needs_root!();
    // A host without sockets, whatever runs on this one.
    Namespace::new("differential")?.within(|| {
        compare_generated_frames();
        Ok(())
    })
}

fn compare_generated_frames() {
    let mut rig = Rig::sketched();
    rig.tell_answers();
    rig.check(
        CHECKS.map(|(reason, _)| reason).into_iter().filter(|reason| *reason != Reason::BogonSource),
        &[132],
    );
    rig.refuse(Ethertypes::refuse(&[generate::REFUSED]));
    rig.fragment_memory(FragmentMemory { bytes: 64 * PAGE_BYTES, kept: Duration::from_secs(30) });
    let (targets, _open) = sockets(&mut rig);
    rig.block("198.51.100.4/30");
    rig.block("2001:db8:0:5::/64");
    rig.block("2001:db8:0:c::/62");
    rig.allow("198.51.100.6/32");
    rig.allow("2001:db8:0:6::/63");

    let mut seen = std::collections::BTreeMap::new();
    let mut refused = 0_u64;
    let frames = FRAMES / u64::from(slowness());
    for seed in 0..frames {
        let mut random = Rng::with_seed(seed);
        if random.u8(..4) == 0 {
            rig.advance(Duration::from_micros(random.u64(..1_000)));
        }
        if random.u8(..16) == 0 {
            rig.ask(&generate::question(&mut random));
        }
        if seed % TURN == 0 {
            rig.limits(LIMITS[(seed / TURN) as usize % LIMITS.len()]);
        }
        if seed == frames / 4 {
            rig.prove(means::COOKIES | means::SOCKETS, 1);
        } else if seed == frames / 2 {
            rig.monitor(true);
        } else if seed == frames * 3 / 4 {
            rig.prove(means::RETRANSMISSION, 1);
        }
        let frame = if random.u8(..ABOUT) == 0 {
            let target = &targets[random.usize(..targets.len())];
            generate::about(&mut random, target)
        } else {
            generate::frame(&mut random)
        };
        match rig.send(&frame) {
            Some(reason) => *seen.entry(reason).or_insert(0_u64) += 1,
            None => refused += 1,
        }
    }
    assert_eq!(refused, 0, "every generated frame has an Ethernet header");
    println!("{seen:?}");
    if frames < FRAMES {
        return; // the rarest may be missing
    }
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::BogonSource) {
        assert!(
            seen.contains_key(reason) || NEED_MORE.contains(reason),
            "{reason:?}: the frames should vary enough: {seen:?}"
        );
    }
}

/// Opens sockets on the host, and describes them to the twin. The second return value has to stay alive.
fn sockets(rig: &mut Rig) -> (Vec<generate::Target>, Vec<(TcpListener, TcpStream)>) {
    fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2").expect("the namespace is ours");
    rig.open(SERVICE, Open::ForAll);
    rig.twin.sockets.listeners = vec![];
    let (mut targets, mut open) = (Vec::new(), Vec::new());
    for (server, visitor) in [(SERVER, [198, 51, 100, 3].into()), (SERVER6, VISITOR6_NEAR)] {
        let listener = TcpListener::bind((server, SERVICE)).expect("the port is free");
        let mut peer = Peer::new(visitor, 50_000, (server, SERVICE).into()).expect("a wire");
        peer.connect().expect("somebody listens");
        let (stream, _) = listener.accept().expect("somebody has connected");
        let session = SocketAddr::new(visitor, 50_001);
        rig.open(40_001, Open::To(session));
        let connection = peer.connection(state::ESTABLISHED, 0);
        rig.twin.sockets.tcp.push((peer.flow(), Between::Connection(connection)));
        rig.twin
            .sockets
            .listeners
            .push(Listener { local: Some(server.into()), ..Listener::with_cookies(SERVICE) });
        let flow = Flow { remote_port: session.port(), local_port: 40_001, ..peer.flow() };
        targets.push(generate::Target { tcp: (peer.flow(), connection), session: flow, service: SERVICE });
        open.push((listener, stream));
    }
    (targets, open)
}

/// One of the sources of generated frames.
const VISITOR6_NEAR: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 3, 0, 0, 0, 1));
