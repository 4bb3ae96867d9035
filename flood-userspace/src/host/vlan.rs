//! Interfaces whose card strips VLAN tags, so that the filter does not see them and sends its answers without tags.

use std::io;

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::netlink::attributes::link_name;

use super::ethtool::ethtool;

/// An interface that receives the packets of a VLAN interface, without their tags. The VLAN interface is on top of
/// it, or of the bridge or bond that it is a port of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stripped {
    /// Index of the interface.
    pub index: u32,
    /// Name of the VLAN interface.
    pub vlan: String,
}

/// Finds them among these interfaces. A card that does not tell is assumed to strip tags.
pub(super) fn stripped(links: &[LinkMessage]) -> Vec<Stripped> {
    let mut found = Vec::new();
    for vlan in links.iter().filter(|link| is_vlan(link)) {
        let below = vlan.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        });
        for link in ports(links, below) {
            if let (Some(below), Some(vlan)) = (link_name(link), link_name(vlan))
                && takes_tags_off(below).unwrap_or(true)
            {
                found.push(Stripped { index: link.header.index, vlan: vlan.to_owned() });
            }
        }
    }
    found
}

/// Returns the interfaces that receive the packets of one: itself, and the ports of the bridge or bond that it is.
fn ports(links: &[LinkMessage], index: Option<u32>) -> impl Iterator<Item = &LinkMessage> {
    links.iter().filter(move |link| {
        let is_port = |attribute: &LinkAttribute| {
            matches!(attribute, LinkAttribute::Controller(controller) if Some(*controller) == index)
        };
        Some(link.header.index) == index || link.attributes.iter().any(is_port)
    })
}

fn is_vlan(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Vlan)),
        _ => false,
    })
}

/// Whether an interface strips VLAN tags from received packets (`rx-vlan-offload` of ethtool(8)).
fn takes_tags_off(name: &str) -> io::Result<bool> {
    // linux/ethtool.h: ETHTOOL_GFLAGS, ETH_FLAG_RXVLAN
    const GET_FLAGS: u32 = 0x25;
    const RX_VLAN: u32 = 1 << 8;
    let mut request = [GET_FLAGS, 0];
    ethtool(name, &mut request)?;
    Ok(request[1] & RX_VLAN != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_says_whether_it_takes_tags_off() {
        assert!(!takes_tags_off("lo").unwrap());
        assert!(takes_tags_off("no such thing").is_err());
    }
}
