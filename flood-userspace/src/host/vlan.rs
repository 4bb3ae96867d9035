//! Interfaces whose VLAN tags the card takes off, so that the filter does not see them: what it sends back has none.

use std::io;

use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};

use crate::netlink::attributes::link_name;

use super::ethtool::ethtool;

/// An interface on which another, or one on the bridge or bond that it is a port of, takes the packets of a VLAN, without their
/// tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stripped {
    /// Number of the interface.
    pub index: u32,
    /// Name of that of the VLAN.
    pub vlan: String,
}

/// Those among these interfaces. Where a card does not say what it does, it takes the tags off.
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

/// The interfaces through which the packets of one come: itself, and the ports of the bridge or bond that it is.
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

/// Whether an interface takes VLAN tags off what it receives (`rx-vlan-offload` of ethtool(8)).
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
