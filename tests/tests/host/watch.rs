//! What is evidence of a session that sockets do not show, and what is not.

use flood_common::{
    abi::{Settings, solicited},
    class::Class,
    evidence::{Connection, state},
    host::{Between, HostTables},
    packet::{Packet, Parsed, parse},
    place::MIN_BUCKET_BITS,
    proof::{Proof, means, prove},
    reason::Reason,
    solicit::Flow,
    watch::ENOUGH,
    wire::Frame,
};
use flood_userspace::{bpf::limit::accounts, config::Config};
use floodgate_tests::packet::{ATTACKER, SERVER, from};

const ACK: u8 = 0x10;
const NOW: u64 = 1_000_000_000_000;

/// A host that forwards packets, and notes what leaves.
fn settings() -> Settings {
    let mut settings = Settings {
        accounts: accounts(&Config::default().proof),
        masks_v4: [u32::MAX, !0xff],
        solicit_seeds: std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(n as u64 + 1)),
        proof: means::SOCKETS,
        solicited: solicited::NOTED | solicited::SOCKETS,
        ..Settings::default()
    };
    settings.set_limits(settings.limits);
    settings
}

fn packet(frame: &[u8]) -> Packet {
    match parse(Frame(frame)) {
        Parsed::Packet(packet) => packet,
        other => unreachable!("{other:?}"),
    }
}

/// Returns the verdict on a segment over the limit of its source.
fn judge(tables: &HostTables, settings: &Settings, frame: &[u8]) -> Proof {
    let (class, exceeded) = (Class::Tcp as u64, Reason::SourcePackets.number());
    prove(&packet(frame), class, exceeded, Frame(frame), settings, NOW, tables)
}

#[test]
fn a_segment_that_does_not_fit_a_connection_of_this_host_has_no_other_way() {
    let (settings, mut tables) = (settings(), HostTables::new(MIN_BUCKET_BITS));
    let frame = from(ATTACKER).tcp(40_000, 80, ACK).numbers(1, 1).bytes();
    let flow = Flow::of(&packet(&frame));
    let leaves = |tables: &HostTables| {
        (0..ENOUGH).for_each(|_| tables.send(&settings, &flow, NOW, true));
    };
    assert_eq!(judge(&tables, &settings, &frame), Proof::Nothing, "its source is watched");
    leaves(&tables);
    assert_eq!(
        judge(&tables, &settings, &frame),
        Proof::Verdict(Reason::Proven),
        "of a host behind this one"
    );
    let connection = Connection {
        state: state::ESTABLISHED,
        unacknowledged: 1 << 30,
        next: 1 << 30,
        expected: 1 << 30,
        window: 1,
    };
    tables.sockets.local.push(SERVER.into());
    tables.sockets.tcp.push((flow, Between::Connection(connection)));
    assert_eq!(judge(&tables, &settings, &frame), Proof::Nothing, "this host knows better");
}

#[test]
fn who_varies_ports_and_addresses_of_his_network_makes_one_mark() {
    let (settings, tables) = (settings(), HostTables::new(MIN_BUCKET_BITS));
    let of = |port: u16| from(ATTACKER).tcp(port, 443, ACK).bytes();
    for port in 1..60_000 {
        assert_eq!(judge(&tables, &settings, &of(port)), Proof::Nothing);
    }
    // A mark that many others had displaced would not be found.
    let flow = Flow::of(&packet(&of(1)));
    (0..ENOUGH).for_each(|_| tables.send(&settings, &flow, NOW, false));
    assert_eq!(judge(&tables, &settings, &of(1)), Proof::Verdict(Reason::Proven));
    assert_eq!(judge(&tables, &settings, &of(2)), Proof::Nothing);
}
