//! The last look at fragments: whether there is memory for them, and what they are charged to. A separate program,
//! like the [second look](crate::prove).

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use flood_common::{
    abi::next,
    packet::{Parsed, parse},
    reassembly::judge,
};

use crate::{
    finish::finish,
    hand_over,
    lookup::MapTables,
    maps::{CPU_STATE, SETTINGS},
    now_ns, settings_in_force, window_of,
};

/// Hands a fragment that passes so far over to [`floodgate_reassemble`], which finishes with it. Returns only if
/// that program is not installed; then the fragment passes.
#[inline(always)]
pub(crate) fn call(ctx: &XdpContext, reason: u32) {
    hand_over(ctx, next::REASSEMBLE, |state| state.reason = reason.into());
}

/// Checks whether there is memory for a fragment, and charges the fragment to its limits.
#[xdp(frags)]
#[inline(always)] // a frame of its own would use stack that the programs share
fn floodgate_reassemble(ctx: XdpContext) -> u32 {
    let (Some(page), Some(state)) = (SETTINGS.get_ptr(0), CPU_STATE.get_ptr(0)) else {
        return xdp_action::XDP_PASS; // cannot happen: the arrays have one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force. The other value is
    // this processor's own, and nothing ran on it since `call` wrote it.
    let ((settings, slot), now_ns, reason, class) =
        unsafe { (settings_in_force(page), now_ns(page), (*state).reason as u32, (*state).class) };
    let window = window_of(&ctx, settings);
    let Parsed::Packet(packet) = parse(window) else {
        return xdp_action::XDP_PASS; // cannot happen: only packets are fragments
    };
    let reason = judge(&packet, class, reason, window, settings, now_ns, &MapTables::new(&ctx, slot));
    finish(&ctx, settings, now_ns, packet.length, reason, xdp_action::XDP_PASS)
}
