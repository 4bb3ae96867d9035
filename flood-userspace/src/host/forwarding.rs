//! Whether this host forwards packets: on all interfaces, or those that arrive on one of them.

use netlink_packet_route::link::{AfSpecInet, AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkMessage};

use crate::netlink::attributes::link_name;

use super::setting;

/// The settings for all interfaces.
const OF_ALL: [&str; 3] = ["ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv6/conf/all/force_forwarding"];

/// Returns the first setting that enables it, as sysctl(8) names it. Those of an interface are part of its
/// description, so that no files need be read.
pub(super) fn find(links: &[LinkMessage]) -> Option<String> {
    let of_all = OF_ALL.into_iter().find(|key| setting(key).is_some_and(|value| value != "0"));
    of_all.map(named).or_else(|| links.iter().find_map(of_interface))
}

/// Returns the setting of an interface that enables it.
fn of_interface(link: &LinkMessage) -> Option<String> {
    let name = link_name(link)?;
    let families = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::AfSpecUnspec(families) => Some(families),
        _ => None,
    })?;
    let (family, setting) = families.iter().find_map(|family| match family {
        AfSpecUnspec::Inet(about) => about.iter().find_map(of_inet).map(|setting| ("ipv4", setting)),
        AfSpecUnspec::Inet6(about) => about.iter().find_map(of_inet6).map(|setting| ("ipv6", setting)),
        _ => None,
    })?;
    Some(named(&format!("{family}/conf/{name}/{setting}")))
}

fn of_inet(about: &AfSpecInet) -> Option<&'static str> {
    let AfSpecInet::DevConf(settings) = about else { return None };
    (settings.forwarding != 0).then_some("forwarding")
}

fn of_inet6(about: &AfSpecInet6) -> Option<&'static str> {
    let AfSpecInet6::DevConf(settings) = about else { return None };
    if settings.forwarding != 0 {
        Some("forwarding")
    } else {
        (settings.force_forwarding != 0).then_some("force_forwarding")
    }
}

/// Converts the file of a setting into its name: in the name, the dot of an interface's name is a slash.
fn named(key: &str) -> String {
    let swap = |letter| match letter {
        '/' => '.',
        '.' => '/',
        other => other,
    };
    format!("net.{}", key.chars().map(swap).collect::<String>())
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::{Inet6DevConf, InetDevConf};

    use super::*;

    fn link(name: &str, families: Vec<AfSpecUnspec>) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.attributes = vec![LinkAttribute::IfName(name.into()), LinkAttribute::AfSpecUnspec(families)];
        link
    }

    #[test]
    fn one_interface_that_passes_packets_on_is_enough() {
        let (mut on, mut on6, mut forced) =
            (InetDevConf::default(), Inet6DevConf::default(), Inet6DevConf::default());
        (on.forwarding, on6.forwarding, forced.force_forwarding) = (1, 1, 1);
        let inet = |settings| AfSpecUnspec::Inet(vec![AfSpecInet::DevConf(settings)]);
        let inet6 = |settings| AfSpecUnspec::Inet6(vec![AfSpecInet6::DevConf(settings)]);
        let off = || vec![inet(InetDevConf::default()), inet6(Inet6DevConf::default())];
        let cases = [
            ("neither", off(), None),
            ("IPv4", vec![inet(on), inet6(Inet6DevConf::default())], Some("net.ipv4.conf.s0/7.forwarding")),
            ("IPv6", vec![inet(InetDevConf::default()), inet6(on6)], Some("net.ipv6.conf.s0/7.forwarding")),
            ("IPv6, forced", vec![inet6(forced)], Some("net.ipv6.conf.s0/7.force_forwarding")),
        ];
        for (why, families, expected) in cases {
            assert_eq!(of_interface(&link("s0.7", families)).as_deref(), expected, "{why}");
        }
    }
}
