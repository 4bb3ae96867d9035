//! The last look at fragments: whether there is memory for them. A program of its own, as the [second look](crate::prove) is.

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use flood_common::{
    abi::next,
    address::Address,
    packet::{Packet, Parsed, parse},
    reason::Reason,
    reassembly::admits,
    wire::{Ipv4, Ipv6, Window},
};

use crate::{
    finish::finish,
    lookup::MapTables,
    maps::{CPU_STATE, NEXT, SETTINGS},
    now_ns, settings_in_force,
    window::XdpWindow,
};

/// Hands a fragment that passes so far over to [`floodgate_reassemble`], which finishes with it. Comes back only if that program
/// is not in its place.
#[inline(always)]
pub(crate) fn call(ctx: &XdpContext, reason: u32) {
    if let Some(state) = CPU_STATE.get_ptr_mut(0) {
        // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
        unsafe { (*state).reason = reason.into() };
        // SAFETY: on success the call does not return; on failure the packet passes as it did.
        unsafe { NEXT.tail_call(ctx, next::REASSEMBLE) };
    }
}

/// Looks whether there is memory for a fragment.
#[xdp(frags)]
#[inline(always)] // a frame of its own would be a part of the stack that programs have together
fn floodgate_reassemble(ctx: XdpContext) -> u32 {
    let (Some(page), Some(state)) = (SETTINGS.get_ptr(0), CPU_STATE.get_ptr(0)) else {
        return xdp_action::XDP_PASS; // cannot happen: the arrays have one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force. The other value is
    // this processor's own, and nothing ran on it since `call` wrote it.
    let (settings, now_ns, reason) =
        unsafe { (settings_in_force(page), now_ns(page), (*state).reason as u32) };
    let window = XdpWindow::new(&ctx);
    let Parsed::Packet(packet) = parse(window) else {
        return xdp_action::XDP_PASS; // cannot happen: only a packet is a fragment
    };
    // VERIFIER: read once more. Those that the parser has read are on one way a number and on the other an undefined one, maybe
    // a pointer, with which the compiler computes before it looks which.
    let Some([source, destination]) = addresses(&packet, window) else {
        return xdp_action::XDP_PASS; // cannot happen: the parser has seen them
    };
    let packet = Packet { source, destination, ..packet };
    let admitted = admits(&packet, reason, window, settings, now_ns, &MapTables::new(&ctx));
    let reason = if admitted { reason } else { Reason::FragmentMemory.number() };
    finish(&ctx, settings, now_ns, packet.length, reason, xdp_action::XDP_PASS)
}

/// Source and destination of a packet.
#[inline(always)]
fn addresses(packet: &Packet, window: XdpWindow) -> Option<[Address; 2]> {
    let version = packet.source.version();
    let halves = if version == 4 {
        let ip = window.view::<Ipv4>(packet.network_at)?;
        [&ip.source, &ip.destination].map(|address| [0, u64::from(u32::from_be_bytes(*address))])
    } else {
        let ip = window.view::<Ipv6>(packet.network_at)?;
        [&ip.source, &ip.destination].map(|halves| halves.map(u64::from_be_bytes))
    };
    Some(halves.map(|[network, interface]| {
        if version == 4 { Address::V4(interface as u32) } else { Address::V6 { network, interface } }
    }))
}
