//! Facts about this host that bear on a verdict: its addresses, whether it forwards packets, whether it translates
//! them.
//!
//! They are not cached: callers read [`Facts`] anew whenever they need one.

mod changed;
mod ethtool;
mod forwarding;
mod lifelines;
mod logins;
mod nftables;
mod tc;
mod tracking;
mod translation;
mod tunnels;
mod udp;
mod vlan;

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteNextHop, RouteType, RouteVia},
};

use crate::netlink::{links, routes};

pub use changed::{Change, Changes, Kept};
pub use ethtool::ethtool;
pub use lifelines::{Lifeline, Purpose};
pub use logins::login_address;
pub use tunnels::USUAL as USUAL_TUNNELS;
pub use udp::{UdpPort, udp_ports};
pub use vlan::Stripped;

/// Routing tables (linux/rtnetlink.h): the table of what is delivered to this host, the default one for the rest, and
/// any.
const TABLE_LOCAL: u8 = 255;
const TABLE_MAIN: u8 = 254;
const ANY_TABLE: u8 = 0;

/// In how many routes gateways are looked for, of all tables and of the main one. A table begins with its default
/// route, and a full table of the Internet has a million routes by a few gateways.
const MOST_ROUTES: usize = 4_096;

/// The kernel's default range of ports for clients (Documentation/networking/ip-sysctl.rst).
pub const CLIENT_PORTS: [u16; 2] = [32_768, 60_999];

/// The facts at the moment.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Facts {
    /// The unicast addresses of packets that are delivered to this host.
    pub local: Vec<IpNet>,
    /// The addresses that must not be blocked by mistake.
    pub lifelines: Vec<Lifeline>,
    /// The range of ports that it gives to its clients.
    pub client_ports: [u16; 2],
    /// How it reassembles fragments.
    pub reassembly: Reassembly,
    /// The setting because of which it forwards packets; `None` if it does not.
    pub forwarding: Option<String>,
    /// What translates addresses or ports of packets, so that a packet with an address of this host may be for
    /// another.
    pub translation: Option<String>,
    /// The UDP ports of its tunnels, as far as its interfaces tell, and whether their peers send from ports that are
    /// hashes.
    pub tunnels: Vec<(u16, bool)>,
    /// Interfaces whose VLAN tags the filter does not see.
    pub stripped: Vec<Stripped>,
    /// Why connection tracking may not admit a client that returns a valid SYN cookie.
    pub tracking: Option<String>,
}

impl Facts {
    /// Reads the facts from the kernel, in the network namespace of this thread.
    pub fn read() -> io::Result<Self> {
        let Routes { local, gateways } = Routes::read()?;
        let links = links()?;
        Ok(Self {
            lifelines: lifelines::find(&local, &gateways)?,
            local,
            client_ports: client_ports(),
            reassembly: Reassembly::read(),
            forwarding: forwarding::find(&links),
            translation: translation::find(&links),
            tunnels: tunnels::ports(&links),
            stripped: vlan::stripped(&links),
            tracking: tracking::why_no_ack_opens(),
        })
    }

    /// Returns why a packet for which this host has no socket may still be wanted; `None` if it is unwanted.
    pub fn why_absence_says_nothing(&self) -> Option<String> {
        if let Some(who) = &self.translation {
            return Some(format!("addresses or ports are translated ({who})"));
        }
        let setting = self.forwarding.as_ref()?;
        Some(format!("this host forwards packets ({setting})"))
    }
}

/// The memory in which a host keeps fragments of incomplete datagrams.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FragmentMemory {
    /// Size, bytes; 0 if nothing is kept.
    pub bytes: u64,
    /// How long incomplete datagrams are kept.
    pub kept: Duration,
}

impl FragmentMemory {
    /// Reads it from the kernel; 0 for what the kernel does not tell.
    fn read(bytes: &str, seconds: &str) -> Self {
        let number = |key| setting(key).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
        Self { bytes: number(bytes), kept: Duration::from_secs(number(seconds)) }
    }
}

/// How a host reassembles fragments.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Reassembly {
    /// The memory for IPv4 and for IPv6.
    pub memory: [FragmentMemory; 2],
    /// Whether it also reassembles datagrams for other hosts, as connection tracking does.
    pub for_all: bool,
}

impl Reassembly {
    fn read() -> Self {
        let v4 = FragmentMemory::read("ipv4/ipfrag_high_thresh", "ipv4/ipfrag_time");
        let mut v6 = FragmentMemory::read("ipv6/ip6frag_high_thresh", "ipv6/ip6frag_time");
        // Connection tracking has separate memory for IPv6, which comes first.
        let tracked = FragmentMemory::read(
            "netfilter/nf_conntrack_frag6_high_thresh",
            "netfilter/nf_conntrack_frag6_timeout",
        );
        if tracked.bytes != 0 {
            v6 = FragmentMemory { bytes: v6.bytes.min(tracked.bytes), kept: v6.kept.max(tracked.kept) };
        }
        Self { memory: [v4, v6], for_all: setting("netfilter/nf_conntrack_max").is_some() }
    }
}

/// Reads `net.ipv4.ip_local_port_range`, which holds for both families; the kernel's default if it cannot be read.
fn client_ports() -> [u16; 2] {
    let read = || {
        let value = setting("ipv4/ip_local_port_range")?;
        let mut ports = value.split_whitespace().map(str::parse);
        Some([ports.next()?.ok()?, ports.next()?.ok()?])
    };
    read().unwrap_or(CLIENT_PORTS)
}

/// Returns the value of a sysctl of networking; the key is without `net/`.
pub fn setting(key: &str) -> Option<String> {
    fs::read_to_string(setting_path(key)).ok().map(|value| value.trim().to_owned())
}

/// Returns the file of a sysctl of networking.
pub fn setting_path(key: &str) -> PathBuf {
    Path::new("/proc/sys/net").join(key)
}

/// Contents of the routing tables.
struct Routes {
    /// Addresses, and whole routed prefixes, that are delivered to this host.
    local: Vec<IpNet>,
    /// Next hops for other destinations, from the first [`MOST_ROUTES`] routes.
    gateways: Vec<IpAddr>,
}

impl Routes {
    fn read() -> io::Result<Self> {
        let (mut local, mut gateways) = (Vec::new(), Vec::new());
        for address_family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let like = |table, kind| RouteHeader { address_family, table, kind, ..RouteHeader::default() };
            let delivered = routes(like(TABLE_LOCAL, RouteType::Local), usize::MAX)?;
            local.extend(delivered.iter().filter_map(local_prefix));
            let mut passed_on = routes(like(ANY_TABLE, RouteType::Unicast), MOST_ROUTES)?;
            if passed_on.len() >= MOST_ROUTES {
                passed_on.extend(routes(like(TABLE_MAIN, RouteType::Unicast), MOST_ROUTES)?);
            }
            gateways.extend(passed_on.iter().flat_map(|route| gateways_in(&route.attributes)));
        }
        local.sort_unstable();
        local.dedup();
        gateways.sort_unstable();
        gateways.dedup();
        Ok(Self { local, gateways })
    }
}

/// Returns the gateways of a route: one, or one for each next hop.
fn gateways_in(attributes: &[RouteAttribute]) -> Vec<IpAddr> {
    let of = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => {
            vec![(*address).into()]
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => vec![(*address).into()],
        RouteAttribute::MultiPath(ways) => {
            ways.iter().flat_map(|way: &RouteNextHop| gateways_in(&way.attributes)).collect()
        }
        _ => Vec::new(),
    };
    attributes.iter().flat_map(of).collect()
}

fn local_prefix(route: &RouteMessage) -> Option<IpNet> {
    let table = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    if route.header.kind != RouteType::Local
        || table.unwrap_or(route.header.table.into()) != u32::from(TABLE_LOCAL)
    {
        return None;
    }
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some((*address).into()),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some((*address).into()),
        _ => None,
    })?;
    IpNet::new(address, route.header.destination_prefix_length).ok()
}
