//! Addresses that this host, and its operators, cannot do without: blocking one of them cuts it off.

use std::{fmt, io, net::IpAddr, path::Path};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
};

use crate::{file, netlink::exchange};

use super::logins;

/// Files with the addresses of resolvers: as programs see them, and those behind the stub of systemd-resolved.
const RESOLVERS: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// How much of such a file is read, bytes.
const MOST_READ: u64 = 1 << 20;

/// What an address is needed for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Purpose {
    /// It is an address of this host.
    Address,
    /// Packets to other hosts go through it.
    Gateway,
    /// It resolves names for this host.
    Resolver,
    /// A user is logged in from it.
    Login,
    /// A user may be logged in from it: it has a connection to the port of SSH, and nothing records sessions.
    Connection,
    /// Neighbours on a link use it to communicate.
    LinkLocal,
    /// A host without an address sends from it.
    Unspecified,
    /// It is a network of this host; not every address in it is needed.
    Network,
}

/// An address or a prefix that this host needs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lifeline {
    /// What it is needed for.
    pub purpose: Purpose,
    /// The prefix.
    pub prefix: IpNet,
}

impl Lifeline {
    /// Creates one. Host bits need not be cleared.
    pub fn new(prefix: IpNet, purpose: Purpose) -> Self {
        Self { purpose, prefix: prefix.trunc() }
    }
}

impl Lifeline {
    /// Whether every host has it, so that leaving it out of a list need not be reported: no list of other people's
    /// addresses is meant to block it.
    pub fn is_of_every_host(&self) -> bool {
        matches!(self.purpose, Purpose::LinkLocal | Purpose::Unspecified) || self.prefix.addr().is_loopback()
    }
}

impl fmt::Display for Lifeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.purpose {
            Purpose::Address => "this host's own address",
            Purpose::Gateway => "a gateway",
            Purpose::Resolver => "a resolver",
            Purpose::Login => "from where somebody is logged in",
            Purpose::Connection => "from where there is a connection to SSH",
            Purpose::LinkLocal => "link-local addresses",
            Purpose::Unspecified => "the source of a host without an address",
            Purpose::Network => "a network of this host",
        };
        write!(f, "{}, {what}", self.prefix)
    }
}

/// Finds all of them, given `local` and `gateways`. Sorted.
pub(super) fn find(local: &[IpNet], gateways: &[IpAddr]) -> io::Result<Vec<Lifeline>> {
    let mut lifelines = constant();
    let mut add = |prefixes: &mut dyn Iterator<Item = IpNet>, purpose| {
        lifelines.extend(prefixes.map(|prefix| Lifeline::new(prefix, purpose)));
    };
    add(&mut local.iter().copied(), Purpose::Address);
    add(&mut networks()?.into_iter(), Purpose::Network);
    add(&mut gateways.iter().copied().map(IpNet::from), Purpose::Gateway);
    let resolvers = RESOLVERS.map(|path| file::read_to_string(Path::new(path), MOST_READ).ok());
    let resolvers = resolvers.into_iter().flatten();
    add(&mut resolvers.flat_map(|text| nameservers(&text)).map(IpNet::from), Purpose::Resolver);
    add(&mut logins::peers().into_iter().map(IpNet::from), Purpose::Login);
    add(&mut logins::possible_peers().into_iter().map(IpNet::from), Purpose::Connection);
    lifelines.sort_unstable();
    lifelines.dedup();
    Ok(lifelines)
}

/// Returns those that every host has.
fn constant() -> Vec<Lifeline> {
    let of = |address: [u16; 8], length, purpose| {
        Lifeline::new(IpNet::new_assert(IpAddr::from(address), length), purpose)
    };
    vec![
        // RFC 4291, 2.5.6.
        of([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Purpose::LinkLocal),
        // Duplicate address detection (RFC 4862, 5.4.2).
        of([0; 8], 128, Purpose::Unspecified),
        // DHCP (RFC 2131, 4.1).
        Lifeline::new(IpAddr::from([0, 0, 0, 0]).into(), Purpose::Unspecified),
    ]
}

/// Returns the networks of this host's addresses, and of the peers of its point-to-point links.
fn networks() -> io::Result<Vec<IpNet>> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let networks = answers.into_iter().flat_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(address) => networks_of(&address),
        _ => Vec::new(),
    });
    Ok(networks.collect())
}

fn networks_of(message: &AddressMessage) -> Vec<IpNet> {
    let address = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) | AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let prefix = |address| IpNet::new(address, message.header.prefix_len).ok();
    let prefixes = message.attributes.iter().filter_map(address).filter_map(prefix);
    // An address with a /0 is in no network; one with a full-length prefix is a network by itself.
    prefixes.map(|prefix| prefix.trunc()).filter(|prefix| prefix.prefix_len() > 0).collect()
}

/// Returns the addresses in the text of a resolv.conf (resolv.conf(5)).
fn nameservers(text: &str) -> Vec<IpAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let address = words.next().filter(|word| *word == "nameserver").and(words.next())?;
        // A link-local address is followed by its interface: fe80::1%eth0.
        address.split('%').next()?.parse::<IpAddr>().ok()
    });
    addresses.map(|address| address.to_canonical()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_read_as_libraries_read_them() {
        let text = "# nameserver 192.0.2.1\nsearch example.net\n nameserver  192.0.2.53\nnameserver fe80::1%eth0\n\
                    nameserver\nnameserver nonsense\noptions edns0\nnameserver 2001:db8::53\n";
        let expected: Vec<IpAddr> =
            ["192.0.2.53", "fe80::1", "2001:db8::53"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(nameservers(text), expected);
    }

    #[test]
    fn every_host_has_lifelines_that_do_not_repeat() {
        let lifelines = find(&["192.0.2.1/32".parse().unwrap()], &["192.0.2.254".parse().unwrap()]).unwrap();
        assert!(lifelines.iter().any(|lifeline| lifeline.to_string() == "192.0.2.254/32, a gateway"));
        assert!(lifelines.iter().any(|lifeline| lifeline.to_string() == "fe80::/10, link-local addresses"));
        assert!(lifelines.is_sorted_by(|a, b| a < b));
    }
}
