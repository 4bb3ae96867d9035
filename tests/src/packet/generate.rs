//! Random frames: most of them almost valid, because that is where parsers differ.

use std::net::IpAddr;

use fastrand::Rng;
use flood_common::{
    evidence::Connection,
    solicit::Flow,
    wire::{ethertype, protocol},
};

use super::{Build, ETHERNET, SERVER, SERVER6, encapsulated, from, not_ip};

/// The EtherType of some of the frames that are not IP.
pub const REFUSED: u16 = 0x88cc;

/// Returns a random frame.
pub fn frame(random: &mut Rng) -> Vec<u8> {
    let mut frame = match random.u8(..32) {
        0 => not_ip_at_all(random),
        1 => (0..random.usize(14..200)).map(|_| random.u8(..)).collect(),
        _ => packet(random),
    };
    match random.u8(..8) {
        0 => frame.truncate(random.usize(ETHERNET..=frame.len())),
        1 => {
            let at = random.usize(..frame.len());
            frame[at] = random.u8(..);
        }
        2 => {
            // A length, a version, a next header: all lie within the first bytes of some header.
            let at = random.usize(ETHERNET - 2..frame.len().min(ETHERNET + 70));
            frame[at] =
                [0, 1, 4, 5, 6, 15, 43, 44, 51, 58, 60, 0x21, 0x41, 0x45, 0x46, 0x4f, 0x57, 0x60, 0xff]
                    [random.usize(..19)];
        }
        _ => {}
    }
    frame
}

fn not_ip_at_all(random: &mut Rng) -> Vec<u8> {
    let other = random.u16(..);
    let kinds = [0x0806, REFUSED, 0x8863, ethertype::PPPOE_SESSION, 46, other];
    match random.u8(..4) {
        0 => {
            let kind = ethertype::CARRIERS[random.usize(..ethertype::CARRIERS.len())];
            let header: Vec<u8> = (0..random.usize(..3) * 4).map(|_| random.u8(..)).collect();
            encapsulated(kind, &header, &from(source(random, true)).syn(443))
        }
        _ => not_ip(kinds[random.usize(..kinds.len())]),
    }
}

/// Returns what the server sends to one of the sources of [`frame`]: a request, a ping, a packet into a tunnel.
pub fn question(random: &mut Rng) -> Vec<u8> {
    let v4 = random.bool();
    let server = if v4 { SERVER } else { SERVER6 };
    let port = [53, 4_000, 40_000][random.usize(..3)];
    let to = source(random, v4);
    let build = around(random, from(server).to(to));
    match random.u8(..8) {
        0 => build.echo_request().identifier(identifier(random)),
        1 => build.protocol([47, 50][random.usize(..2)]),
        _ => build.udp(port, mirror(random)),
    }
    .payload(30)
    .bytes()
}

/// Returns the identifier of a ping, out of a few.
fn identifier(random: &mut Rng) -> u16 {
    random.u16(..2)
}

/// The state of the host that frames are [about](about).
#[derive(Clone, Debug)]
pub struct Target {
    /// A connection of the host, and what the host knows of it.
    pub tcp: (Flow, Connection),
    /// The flow of a connected UDP socket.
    pub session: Flow,
    /// An open TCP and UDP port.
    pub service: u16,
}

/// Returns a random frame about the state of a host: segments, datagrams, and ICMP errors that quote them, all nearly
/// valid.
pub fn about(random: &mut Rng, target: &Target) -> Vec<u8> {
    let (tcp, connection) = &target.tcp;
    let mut flow = if random.bool() { *tcp } else { target.session };
    match random.u8(..8) {
        0 => flow.remote_port ^= 1,
        1 => flow.local_port = target.service,
        2 => flow.local_port ^= 1,
        3 => flow.remote = source(random, flow.remote.version() == 4).into(),
        _ => {}
    }
    let near = |random: &mut Rng, number: u32| match random.u8(..4) {
        0 => number,
        1 => number.wrapping_sub(random.u32(..2_000)),
        2 => number.wrapping_add(random.u32(..50_000)),
        _ => random.u32(..),
    };
    let (sequence, acknowledgement) = (near(random, connection.expected), near(random, connection.next));
    let (remote, local) = (IpAddr::from(flow.remote), IpAddr::from(flow.local));
    let is_tcp = random.bool();
    if random.bool() {
        let build = from(remote).to(local);
        return if is_tcp {
            build.tcp(flow.remote_port, flow.local_port, flags(random)).numbers(sequence, acknowledgement)
        } else {
            build.udp(flow.remote_port, flow.local_port).payload(20)
        }
        .bytes();
    }
    let sent = from(local).to(remote);
    let sent = if is_tcp {
        sent.tcp(flow.local_port, flow.remote_port, flags(random)).numbers(acknowledgement, sequence)
    } else {
        sent.udp(flow.local_port, flow.remote_port).payload(20)
    };
    let quoted = sent.bytes();
    let kinds = if local.is_ipv4() { [3, 11, 12, 8] } else { [1, 2, 3, 128] };
    let build =
        from(source(random, local.is_ipv4())).to(local).icmp(kinds[random.usize(..4)], random.u8(..5));
    let build = build.payload(quoted.len() - ETHERNET);
    let at = build.transport_offset() + 8;
    build.patch(at, &quoted[ETHERNET..]).bytes()
}

/// Returns a reflector port, out of a few.
fn mirror(random: &mut Rng) -> u16 {
    [53, 123, 443][random.usize(..3)]
}

fn packet(random: &mut Rng) -> Vec<u8> {
    let v4 = random.bool();
    let mut build = from(source(random, v4));
    build = around(random, build);
    if v4 {
        build = build.options([0, 0, 0, 1, 5, 10][random.usize(..6)]);
        if random.u8(..4) == 0 {
            build = fragment(random, build);
        }
    } else {
        for _ in 0..[0, 0, 0, 1, 2, 3, 6, 7][random.usize(..8)] {
            let kinds = [
                protocol::HOP_BY_HOP,
                protocol::ROUTING,
                protocol::DESTINATION_OPTIONS,
                protocol::AUTHENTICATION,
                protocol::FRAGMENT,
            ];
            build = match kinds[random.usize(..kinds.len())] {
                protocol::FRAGMENT => fragment(random, build),
                kind => build.extension(kind, [0, 0, 1, 2, 30][random.usize(..5)]),
            };
        }
        build = build.hop_limit(if random.bool() { 255 } else { 64 });
    }
    transport(random, build)
        .payload([0, 1, 26, 64, 512, 1400][random.usize(..6)])
        .padding([0, 0, 6][random.usize(..3)])
        .bytes()
}

/// Adds up to three tags, and sometimes other encapsulations of IP.
fn around(random: &mut Rng, mut build: Build) -> Build {
    for _ in 0..[0, 0, 0, 0, 1, 1, 2, 3][random.usize(..8)] {
        build = build.tag(match random.u8(..32) {
            0 => 0x9100,
            1 => 0x9200,
            2 => 0x9300,
            3..16 => ethertype::VLAN,
            _ => ethertype::SERVICE_VLAN,
        });
    }
    match random.u8(..64) {
        0 => build.pppoe(),
        1 => build.short_pppoe(),
        2 => build.snap(),
        _ => build,
    }
}

/// Returns a source, out of few enough that lists and limits apply to them, and now and then an impossible one.
fn source(random: &mut Rng, v4: bool) -> IpAddr {
    if random.u8(..64) == 0 {
        return odd_source(random, v4);
    }
    let host = random.u8(..16);
    if v4 {
        [198, 51, 100, host].into()
    } else {
        [0x2001, 0xdb8, 0, u16::from(host), 0, 0, 0, u16::from(random.u8(..4))].into()
    }
}

fn odd_source(random: &mut Rng, v4: bool) -> IpAddr {
    if v4 {
        let first = [0, 127, 224, 250, 255, 10][random.usize(..6)];
        let rest = [0, 255][random.usize(..2)];
        [first, rest, rest, rest].into()
    } else {
        let [first, last] = [[0, 0], [0, 1], [0xff02, 1], [0xfe80, 1], [0xfc00, 1]][random.usize(..5)];
        [first, 0, 0, 0, 0, 0, 0, last].into()
    }
}

fn fragment(random: &mut Rng, build: Build) -> Build {
    let offset = if random.bool() { 0 } else { random.u16(1..0x1fff) };
    build.fragment(offset, random.bool())
}

/// Returns flags that mostly make sense together.
fn flags(random: &mut Rng) -> u8 {
    if random.u8(..8) == 0 {
        random.u8(..)
    } else {
        [0x02, 0x12, 0x10, 0x18, 0x11, 0x14, 0x04][random.usize(..7)]
    }
}

fn transport(random: &mut Rng, build: Build) -> Build {
    let port = if random.u8(..32) == 0 { 0 } else { random.u16(..) };
    match random.u8(..8) {
        0 | 1 => build.tcp(port, 443, flags(random)),
        2 => build.udp(port, 53),
        3 => build.udp(mirror(random), [53, 4_000, 40_000][random.usize(..3)]),
        4 if random.bool() => build.echo_request().identifier(identifier(random)),
        4 => build.ping_answer(identifier(random)),
        5 => build.icmp([1, 2, 3, 133, 134, 135, 136, 137][random.usize(..8)], [0, 4][random.usize(..2)]),
        6 => build
            .protocol([protocol::TCP, protocol::UDP, protocol::ICMP, protocol::ICMPV6][random.usize(..4)]),
        _ => build.protocol([47, 50, 59, 132, ethertype::IPV4 as u8][random.usize(..5)]),
    }
}
