//! The UDP ports of tunnels, from the interfaces that have them.
//!
//! The end of a tunnel sends to its peers and does not answer others, so what it sends shows who its peers are.

use std::io;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_generic::GenlMessage;
use netlink_packet_route::link::{
    InfoBareUdp, InfoData, InfoGeneve, InfoKind, InfoVxlan, LinkAttribute, LinkInfo, LinkMessage,
};
use netlink_packet_wireguard::{WireguardAttribute, WireguardCmd, WireguardMessage};

use crate::netlink::{exchange, family_id};

/// Ports of tunnels that programs create, if a socket is open there, and whether they send from ports that are
/// hashes: WireGuard, Tailscale, and those of OpenVSwitch and the like: VXLAN (two, as Linux began with another),
/// Geneve and GUE.
pub const USUAL: [(u16, bool); 6] =
    [(51_820, false), (41_641, false), (4_789, true), (8_472, true), (6_081, true), (6_080, true)];

/// Returns the ports of these interfaces, and whether they send from ports that are hashes.
pub(super) fn ports(links: &[LinkMessage]) -> Vec<(u16, bool)> {
    let mut ports = Vec::new();
    for link in links {
        for attribute in &link.attributes {
            let LinkAttribute::LinkInfo(infos) = attribute else { continue };
            for info in infos {
                match info {
                    LinkInfo::Data(data) => ports.extend(port(data).map(|port| (port, true))),
                    LinkInfo::Kind(InfoKind::Wireguard) => {
                        // Without permission, or while the interface disappears, one port is missing.
                        let port = wireguard(link.header.index).ok().flatten();
                        ports.extend(port.map(|port| (port, false)));
                    }
                    _ => {}
                }
            }
        }
    }
    ports
}

/// Returns the port of a tunnel, if its interface tells it.
fn port(data: &InfoData) -> Option<u16> {
    match data {
        InfoData::Vxlan(vxlan) => vxlan.iter().find_map(|info| match info {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        }),
        InfoData::Geneve(geneve) => geneve.iter().find_map(|info| match info {
            InfoGeneve::Port(port) => Some(*port),
            _ => None,
        }),
        InfoData::BareUdp(bare) => bare.iter().find_map(|info| match info {
            InfoBareUdp::Port(port) => Some(*port),
            _ => None,
        }),
        _ => None,
    }
}

/// Returns the port of a WireGuard interface. The kernel's answer contains its whole configuration; only the port is
/// kept.
fn wireguard(index: u32) -> io::Result<Option<u16>> {
    let attributes = vec![WireguardAttribute::IfIndex(index)];
    let mut request =
        GenlMessage::from_payload(WireguardMessage { cmd: WireguardCmd::GetDevice, attributes });
    request.set_resolved_family_id(family_id("wireguard")?);
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    let mut attributes = answers.into_iter().flat_map(|answer| answer.payload.attributes);
    Ok(attributes.find_map(|attribute| match attribute {
        WireguardAttribute::ListenPort(port) => Some(port),
        _ => None,
    }))
}
