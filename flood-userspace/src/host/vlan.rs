//! Interfaces whose VLAN tags the card takes off, so that the filter does not see them: what it sends back has none.

use std::{ffi::CString, io, mem, os::fd::AsRawFd};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};

use crate::netlink::exchange;

/// An interface on which another takes the packets of a VLAN, without their tags.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stripped {
    /// Number of the interface.
    pub index: u32,
    /// Name of that of the VLAN.
    pub vlan: String,
}

/// All of them. Where a card does not say what it does, it takes the tags off.
pub(super) fn stripped() -> io::Result<Vec<Stripped>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let links: Vec<LinkMessage> = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?
        .into_iter()
        .filter_map(|answer| if let RouteNetlinkMessage::NewLink(link) = answer { Some(link) } else { None })
        .collect();
    let name = |link: &LinkMessage| {
        link.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        })
    };
    let vlans = links.iter().filter(|link| is_vlan(link));
    let stripped = vlans.filter_map(|vlan| {
        let index = vlan.attributes.iter().find_map(|attribute| match attribute {
            LinkAttribute::Link(index) => Some(*index),
            _ => None,
        })?;
        let below = links.iter().find(|link| link.header.index == index)?;
        let takes_off = takes_tags_off(&name(below)?).unwrap_or(true);
        Some(Stripped { index, vlan: name(vlan)? }).filter(|_| takes_off)
    });
    Ok(stripped.collect())
}

fn is_vlan(link: &LinkMessage) -> bool {
    link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Vlan)),
        _ => false,
    })
}

/// Whether an interface takes VLAN tags off what it receives (`rx-vlan-offload` of ethtool(8)).
fn takes_tags_off(name: &str) -> io::Result<bool> {
    // linux/ethtool.h: ETHTOOL_GFLAGS, ETH_FLAG_RXVLAN; linux/sockios.h: SIOCETHTOOL
    const GET_FLAGS: u32 = 0x25;
    const RX_VLAN: u32 = 1 << 8;
    const ETHTOOL: libc::c_ulong = 0x8946;
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("[::]:0"))?;
    let mut value = [GET_FLAGS, 0];
    // SAFETY: zeros are an empty name and no request.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    let name = CString::new(name)?;
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
    // SAFETY: the kernel reads the name and the first word of `value`, and writes the second.
    if unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL as _, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(value[1] & RX_VLAN != 0)
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
