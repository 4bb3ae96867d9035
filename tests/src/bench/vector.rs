//! The kinds of floods.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Result;
use flood_common::wire::{protocol, tcp_flags::*};

use crate::{
    dns,
    flood::Flood,
    packet::{self, ATTACKER6, Build, RESOLVER, SERVER, VISITOR},
    programs::Sources,
};

use super::site::{FIRST_SOURCE, Site};

/// A closed port, the web server's, and the game's.
const CLOSED: u16 = 9;
const WEB: u16 = 80;
pub(super) const GAME: u16 = 27_015;

/// The first port of the usual client port range.
const CLIENTS: u16 = 0x8000;

/// ECN flags in a SYN (RFC 3168).
const ECE_CWR: u8 = 0xc0;

/// Ports of reflectors: DNS, NTP, CLDAP, SSDP, memcached, DHCPDiscover.
const REFLECTORS: [u16; 6] = [53, 123, 389, 1_900, 11_211, 37_810];

/// What varies in a TCP or UDP header: the first port, the second, both; the second within the client port range; and
/// the word that follows the ports.
const SOURCE: u32 = 0xffff_0000;
const DESTINATION: u32 = 0x0000_ffff;
const OF_CLIENTS: u32 = 0x0000_7fff;
const WORD: u32 = 0xffff_ffff;

/// Number of hosts of a botnet.
const BOTS: u64 = 1 << 12;

/// A kind of flood.
#[derive(Debug)]
pub(super) struct Vector {
    /// The name on the command line and in reports.
    pub(super) label: &'static str,
    /// Apparent sender.
    from: Sender,
    /// Its packets, sent in turn; none for the absence of a flood.
    packets: fn(Build) -> Vec<Build>,
}

/// The apparent sender of a flood.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Sender {
    /// Any address of IPv4.
    Anyone,
    /// Any /48 of IPv6.
    Anyone6,
    /// Some thousand addresses.
    Botnet,
    /// The visitor.
    Visitor,
    /// A server that the host sends requests to.
    Resolver,
}

/// All kinds. The first two are the absence of a flood, for a visitor over IPv4 and over IPv6.
pub(super) static VECTORS: [Vector; 36] = [
    Vector::new("none", Sender::Anyone, |_| vec![]),
    Vector::new("none, IPv6", Sender::Anyone6, |_| vec![]),
    Vector::new("SYN", Sender::Anyone, |from| vec![tcp(from, WEB, SYN)]),
    Vector::new("SYN, IPv6", Sender::Anyone6, |from| vec![tcp(from, WEB, SYN)]),
    Vector::new("SYN, closed port", Sender::Anyone, |from| vec![tcp(from, CLOSED, SYN)]),
    Vector::new("SYN with ECE and CWR", Sender::Anyone, |from| vec![tcp(from, WEB, SYN | ECE_CWR)]),
    Vector::new("SYN-ACK", Sender::Anyone, |from| {
        vec![from.tcp(443, CLIENTS, SYN | ACK).vary(0, OF_CLIENTS).vary(4, WORD).vary(8, WORD)]
    }),
    Vector::new("ACK", Sender::Anyone, |from| vec![tcp(from, WEB, ACK)]),
    Vector::new("ACK, IPv6", Sender::Anyone6, |from| vec![tcp(from, WEB, ACK)]),
    Vector::new("ACK, botnet", Sender::Botnet, |from| vec![tcp(from, WEB, ACK)]),
    Vector::new("RST", Sender::Anyone, |from| vec![tcp(from, WEB, RST)]),
    Vector::new("FIN", Sender::Anyone, |from| vec![tcp(from, WEB, FIN | ACK)]),
    Vector::new("UDP, game", Sender::Anyone, |from| vec![udp(from, GAME)]),
    Vector::new("UDP, game, IPv6", Sender::Anyone6, |from| vec![udp(from, GAME)]),
    Vector::new("DNS queries", Sender::Anyone, |from| vec![query(from)]),
    Vector::new("DNS queries, IPv6", Sender::Anyone6, |from| vec![query(from)]),
    Vector::new("UDP, closed port", Sender::Anyone, |from| vec![udp(from, CLOSED)]),
    Vector::new("UDP, closed port, IPv6", Sender::Anyone6, |from| vec![udp(from, CLOSED)]),
    Vector::new("UDP, clients' ports", Sender::Anyone, |from| {
        vec![from.udp(0, CLIENTS).payload(32).vary(0, SOURCE | OF_CLIENTS)]
    }),
    Vector::new("UDP, port 443", Sender::Anyone, |from| vec![udp(from, 443)]),
    Vector::new("reflectors, game", Sender::Anyone, |from| reflectors(&from, GAME)),
    Vector::new("reflectors, closed port", Sender::Anyone, |from| reflectors(&from, CLOSED)),
    Vector::new("ICMP echo", Sender::Anyone, |from| vec![from.echo_request().payload(32).vary(4, WORD)]),
    Vector::new("ICMP echo, IPv6", Sender::Anyone6, |from| {
        vec![from.echo_request().payload(32).vary(4, WORD)]
    }),
    Vector::new("ICMP errors", Sender::Anyone, |from| vec![error(&from, 3, 3), error(&from, 11, 0)]),
    Vector::new("ICMP too big", Sender::Anyone, |from| vec![error(&from, 3, 4)]),
    Vector::new("first fragments", Sender::Anyone, |from| {
        vec![from.udp(0, GAME).payload(1_000).vary(0, SOURCE).fragment(0, true)]
    }),
    Vector::new("later fragments", Sender::Anyone, |from| {
        vec![from.protocol(protocol::UDP).payload(400).fragment(185, true)]
    }),
    Vector::new("later fragments, IPv6", Sender::Anyone6, |from| {
        vec![from.protocol(protocol::UDP).payload(400).fragment(185, true)]
    }),
    Vector::new("GRE", Sender::Anyone, |from| vec![from.protocol(47).payload(60)]),
    Vector::new("ESP", Sender::Anyone, |from| vec![from.protocol(50).payload(60)]),
    Vector::new("protocol 253", Sender::Anyone, |from| vec![from.protocol(253).payload(60)]),
    Vector::new("SYN, the visitor's", Sender::Visitor, |from| vec![tcp(from, WEB, SYN)]),
    Vector::new("ACK, the visitor's", Sender::Visitor, |from| vec![tcp(from, WEB, ACK)]),
    Vector::new("UDP, the visitor's", Sender::Visitor, |from| vec![udp(from, GAME)]),
    Vector::new("DNS, the resolver's", Sender::Resolver, |from| {
        vec![from.udp(53, 0).payload(100).vary(0, DESTINATION)]
    }),
];

impl Vector {
    const fn new(label: &'static str, from: Sender, packets: fn(Build) -> Vec<Build>) -> Self {
        Self { label, from, packets }
    }

    /// Whether it is IPv6.
    pub(super) fn is_ipv6(&self) -> bool {
        self.from == Sender::Anyone6
    }

    /// Its packets.
    pub(super) fn packets(&self) -> Vec<Build> {
        (self.packets)(packet::from(match self.from {
            Sender::Anyone | Sender::Botnet => FIRST_SOURCE.into(),
            Sender::Anyone6 => ATTACKER6,
            Sender::Visitor => VISITOR,
            Sender::Resolver => RESOLVER,
        }))
    }

    /// Returns its floods, on the veth pair of a site.
    pub(super) fn floods(&self, site: &Site, rate: u64) -> Result<Vec<Flood>> {
        // The upper half of the first address for IPv6; IPv4 uses its lower half: 0.
        const ALL_OVER: u64 = 0x2000_0000_0000_0000;
        let one = |address: IpAddr| match address {
            IpAddr::V4(address) => Sources { first: address.to_bits().into(), count: 1, adjacent: true },
            IpAddr::V6(address) => {
                Sources { first: (address.to_bits() >> 64) as u64, count: 1, adjacent: true }
            }
        };
        let sources = match self.from {
            Sender::Anyone | Sender::Anyone6 => Sources { first: ALL_OVER, count: 1 << 32, adjacent: false },
            Sender::Botnet => Sources { first: ALL_OVER, count: BOTS, adjacent: false },
            Sender::Visitor => one(VISITOR),
            Sender::Resolver => one(RESOLVER),
        };
        self.packets().iter().map(|build| site.flood_from(build, sources, Some(rate))).collect()
    }
}

/// Returns a segment without data, from a random port, with random numbers.
fn tcp(from: Build, to: u16, flags: u8) -> Build {
    from.tcp(0, to, flags).vary(0, SOURCE).vary(4, WORD).vary(8, WORD)
}

/// Returns a datagram from a random port.
fn udp(from: Build, to: u16) -> Build {
    from.udp(0, to).payload(32).vary(0, SOURCE)
}

/// Returns a query for a random name.
fn query(from: Build) -> Build {
    /// Offset behind the UDP header.
    const MESSAGE: usize = 8;
    /// At an even offset, because of the label's length.
    const WITHIN_LABEL: usize = MESSAGE + dns::LABEL_AT + 1;
    from.udp(0, 53)
        .data(&dns::question(0, [b'x'; dns::LABEL]))
        .vary(0, SOURCE)
        .vary(MESSAGE, 0xffff_0000)
        .vary(WITHIN_LABEL, WORD)
        .vary(WITHIN_LABEL + 4, WORD)
}

/// Returns what reflectors send to the apparent sender of a request.
fn reflectors(from: &Build, to: u16) -> Vec<Build> {
    REFLECTORS.iter().map(|port| from.clone().udp(*port, to).payload(400)).collect()
}

/// Returns an ICMP error about a datagram from the server to a random address, with random ports.
fn error(from: &Build, kind: u8, code: u8) -> Build {
    /// Behind the ICMP header: an address and the ports behind it, of an IPv4 datagram.
    const ADDRESS: usize = 8 + 16;
    let quoted = packet::from(SERVER).to(Ipv4Addr::UNSPECIFIED.into()).udp(0, 0).bytes();
    from.clone()
        .icmp(kind, code)
        .data(&quoted[packet::ETHERNET..])
        .vary(ADDRESS, WORD)
        .vary(ADDRESS + 4, WORD)
}
