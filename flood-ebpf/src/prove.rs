//! The second look at packets over a limit, and at fragments.
//!
//! This is a separate program, which the filter calls for such packets only: the filter stays short, and the
//! verifier follows socket lookups once, not once for every path to a limit.

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_store_bytes},
    macros::xdp,
    programs::XdpContext,
};
use flood_common::{
    abi::{MODE_ENFORCE, Settings, next},
    address::Address,
    answer::{AnswerV4, AnswerV6},
    evidence::Cookie,
    packet::{Packet, Parsed, parse},
    proof::{Proof, prove},
    reason::{Reason, is_drop},
    reassembly::is_due,
    wire::{Be16, Ethernet, Window},
};

use crate::{
    finish::finish,
    hand_over,
    lookup::MapTables,
    maps::{CPU_STATE, SETTINGS},
    now_ns, reassemble, settings_in_force,
    window::XdpWindow,
    window_of,
};

/// Hands the packet over to [`floodgate_prove`], which finishes with it. Returns only if that program is not
/// installed; then the verdict so far stands.
#[inline(always)]
pub(crate) fn call(ctx: &XdpContext, reason: Reason, class: u64) {
    hand_over(ctx, next::PROVE, |state| {
        state.reason = reason.number().into();
        state.class = class;
    });
}

/// Takes a second look at a packet that exceeds a limit, and hands a fragment that passes over to the next program.
#[xdp(frags)]
#[inline(always)] // a frame of its own would use stack that the programs share
fn floodgate_prove(ctx: XdpContext) -> u32 {
    let (Some(page), Some(state)) = (SETTINGS.get_ptr(0), CPU_STATE.get_ptr(0)) else {
        return xdp_action::XDP_PASS; // cannot happen: the arrays have one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force. The other value is
    // this processor's own, and nothing ran on it since `call` wrote it.
    let ((settings, slot), now_ns, reason, class) =
        unsafe { (settings_in_force(page), now_ns(page), (*state).reason as u32, (*state).class) };
    let window = window_of(&ctx, settings);
    let Parsed::Packet(packet) = parse(window) else {
        return xdp_action::XDP_PASS; // cannot happen: only packets get a second look
    };
    let length = packet.length;
    let (reason, pass) = if is_drop(reason) {
        match prove(&packet, class, reason, window, settings, now_ns, &MapTables::new(&ctx, slot)) {
            Proof::Verdict(reason) => (reason.number(), xdp_action::XDP_PASS),
            Proof::Nothing => (reason, xdp_action::XDP_PASS),
            Proof::Answer(_) if settings.mode != MODE_ENFORCE => {
                (Reason::Answered.number(), xdp_action::XDP_PASS)
            }
            Proof::Answer(cookie) => match answer(&ctx, &packet, settings, &cookie) {
                Some(()) => (Reason::Answered.number(), xdp_action::XDP_TX),
                None => (reason, xdp_action::XDP_PASS),
            },
        }
    } else {
        (reason, xdp_action::XDP_PASS)
    };
    if is_due(&packet, reason) {
        reassemble::call(&ctx, reason);
    }
    finish(&ctx, settings, now_ns, length, reason, pass)
}

/// Bytes of the link's MTU that PPPoE and LLC/SNAP take.
const AROUND: u16 = 8;

/// Turns the SYN into the SYN-ACK, in place. What surrounds it stays, except the MAC addresses, which are swapped,
/// and the length field. Returns `None` if that fails; the packet is then dropped.
#[inline(always)]
fn answer(ctx: &XdpContext, packet: &Packet, settings: &Settings, cookie: &Cookie) -> Option<()> {
    let mtu = (settings.mtu as u16).saturating_sub(if packet.length_at == 0 { 0 } else { AROUND });
    let syn = packet.ports?;
    match (packet.source, packet.destination) {
        (Address::V4(client), Address::V4(host)) => {
            store(ctx, packet, AnswerV4::new([client, host], syn, cookie, mtu))
        }
        (client, host) => {
            store(ctx, packet, AnswerV6::new([client, host].map(Address::halves), syn, cookie, mtu))
        }
    }
}

#[inline(always)]
fn store<T>(ctx: &XdpContext, packet: &Packet, mut answer: T) -> Option<()> {
    let ethernet = XdpWindow::new(ctx).view::<Ethernet>(0)?;
    let mut addresses = [ethernet.source, ethernet.destination];
    let size = size_of::<T>();
    let end = packet.network_at + size;
    let change = end as i64 - i64::from(packet.length);
    let mut length = (end.wrapping_sub(packet.length_at + size_of::<Be16>()) as u16).to_be_bytes();
    // SAFETY: the context is the program's, and all values have the stated length. All views of the packet end
    // here.
    let results = unsafe {
        if bpf_xdp_adjust_tail(ctx.ctx, change as i32) != 0 {
            return None;
        }
        if packet.length_at != 0
            && bpf_xdp_store_bytes(ctx.ctx, packet.length_at as u32, (&raw mut length).cast(), 2) != 0
        {
            return None;
        }
        let has_link_layer = packet.network_at != 0;
        [
            if has_link_layer {
                bpf_xdp_store_bytes(ctx.ctx, 0, (&raw mut addresses).cast(), size_of_val(&addresses) as u32)
            } else {
                0
            },
            bpf_xdp_store_bytes(ctx.ctx, packet.network_at as u32, (&raw mut answer).cast(), size as u32),
        ]
    };
    (results == [0, 0]).then_some(())
}
