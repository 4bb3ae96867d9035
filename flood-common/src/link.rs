//! The link layer: what surrounds an IP packet.
//!
//! The parser looks behind what a host, or one that it forwards to, removes by itself: up to two VLAN tags of any
//! kind, and in them PPPoE or LLC/SNAP. Anything else that carries packets is named ([`Link::Encapsulated`]), not
//! guessed: behind MPLS nothing says what follows, and a frame of another kind may look like IP.
//!
//! Invariant: a frame whose own EtherType is that of IP pays for none of this.

use crate::{
    reason::Reason,
    verifier::opaque,
    wire::{Ethernet, Ipv4, Pppoe, Snap, VlanTag, Window, ethertype, ppp},
};

/// The most VLAN tags that the parser looks behind: a customer's tag inside a provider's (802.1ad). The kernel's
/// own receive path goes no deeper either, unless VLAN devices are stacked by hand.
pub const MAX_VLAN_TAGS: usize = 2;

/// Stands for the EtherType of a frame that has a length instead, such as spanning tree, or none at all.
pub const LENGTH: u16 = 0;

/// The content of a frame.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Link {
    /// An IP packet.
    Ip(Inner),
    /// Neither IP nor a carrier of IP; the EtherType.
    NotIp(u16),
    /// A protocol that may carry IP and is not parsed; the EtherType.
    Encapsulated(u16),
    /// No valid content, for this reason.
    Broken(Reason),
}

/// An IP packet in a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Inner {
    /// Its EtherType: [`is_ip`].
    pub ethertype: u16,
    /// Its offset in the frame, bytes.
    pub offset: usize,
    /// Offset of the field in a surrounding header that states how many bytes follow it, bytes; 0 if there is none.
    pub length_at: usize,
}

/// Whether an EtherType is that of IPv4 or IPv6.
#[inline(always)]
pub fn is_ip(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::IPV4 | ethertype::IPV6)
}

/// Whether an EtherType is that of a VLAN tag.
#[inline(always)]
pub fn is_vlan(ethertype: u16) -> bool {
    matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN)
        || ethertype::OLD_SERVICE_VLANS.contains(&ethertype)
}

/// Finds the IP packet in a frame of this EtherType.
#[inline(always)]
pub fn open<'a, W: Window<'a>>(window: W, kind: u16) -> Link {
    if window.is_bare() {
        bare(window)
    } else if is_ip(kind) {
        Link::Ip(Inner { ethertype: kind, offset: size_of::<Ethernet>(), length_at: 0 })
    } else {
        open_other(window, kind)
    }
}

/// Opens an IP packet without a link-layer header; its own version field says which version it is.
#[inline(always)]
fn bare<'a, W: Window<'a>>(window: W) -> Link {
    let Some(ip) = window.view::<Ipv4>(0) else {
        return Link::Broken(Reason::Truncated);
    };
    match ip.version_length >> 4 {
        4 => Link::Ip(Inner { ethertype: ethertype::IPV4, offset: 0, length_at: 0 }),
        6 => Link::Ip(Inner { ethertype: ethertype::IPV6, offset: 0, length_at: 0 }),
        _ => Link::NotIp(LENGTH),
    }
}

#[inline(always)]
fn open_other<'a, W: Window<'a>>(window: W, mut kind: u16) -> Link {
    let Some(ethernet) = window.view::<Ethernet>(0) else {
        return Link::Broken(Reason::Truncated);
    };
    let mut offset = size_of::<Ethernet>();
    for _ in 0..MAX_VLAN_TAGS {
        if !is_vlan(kind) {
            break;
        }
        let Some(tag) = window.view::<VlanTag>(offset) else {
            return Link::Broken(Reason::Truncated);
        };
        kind = tag.ethertype.get();
        offset += size_of::<VlanTag>();
    }
    let inner = match kind {
        ethertype::PPPOE_SESSION => open_pppoe(window, offset),
        kind if kind < ethertype::FIRST => open_snap(window, offset),
        kind if is_ip(kind) => Link::Ip(Inner { ethertype: kind, offset, length_at: 0 }),
        kind if is_vlan(kind) => Link::Broken(Reason::VlanDepth),
        kind if ethertype::CARRIERS.contains(&kind) => Link::Encapsulated(kind),
        kind => Link::NotIp(kind),
    };
    match inner {
        // VERIFIER: many paths lead here, each with offsets of its own. One unknown byte is enough, because offsets
        // are less.
        Link::Ip(Inner { ethertype, offset, length_at }) => {
            let forget = |offset: usize| opaque(offset as u64, ethernet.source[0].into()) as usize;
            Link::Ip(Inner { ethertype, offset: forget(offset), length_at: forget(length_at) })
        }
        other => other,
    }
}

#[inline(always)]
fn open_pppoe<'a, W: Window<'a>>(window: W, offset: usize) -> Link {
    let Some(pppoe) = window.view::<Pppoe>(offset) else {
        return Link::Broken(Reason::Truncated);
    };
    let [first, second] = pppoe.protocol;
    let is_short = first & 1 != 0;
    let protocol = if is_short { first.into() } else { u16::from_be_bytes([first, second]) };
    let ethertype = match protocol {
        ppp::IPV4 => ethertype::IPV4,
        ppp::IPV6 => ethertype::IPV6,
        ppp::FIRST_CONTROL.. => return Link::NotIp(ethertype::PPPOE_SESSION),
        _ => return Link::Encapsulated(ethertype::PPPOE_SESSION),
    };
    Link::Ip(Inner {
        ethertype,
        offset: offset + size_of::<Pppoe>() - usize::from(is_short),
        length_at: offset + core::mem::offset_of!(Pppoe, length),
    })
}

#[inline(always)]
fn open_snap<'a, W: Window<'a>>(window: W, offset: usize) -> Link {
    match window.view::<Snap>(offset) {
        Some(snap) if snap.llc == Snap::LLC && snap.organization == [0; 3] && is_ip(snap.ethertype.get()) => {
            Link::Ip(Inner {
                ethertype: snap.ethertype.get(),
                offset: offset + size_of::<Snap>(),
                length_at: offset - size_of_val(&snap.ethertype),
            })
        }
        _ => Link::NotIp(LENGTH),
    }
}
