//! The one exit: count the reason, sample or trace the packet perhaps, return the action.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, xdp_action},
    helpers::generated::bpf_get_prandom_u32,
    programs::XdpContext,
};
use flood_common::{
    abi::{Count, INTERFACE_SLOTS, MODE_ENFORCE, Sample, Settings},
    packet::Parsed,
    reason::{FIRST_DROP, REASON_SLOTS, Reason},
    verifier::opaque,
    wire::Window,
};

use crate::{
    maps::{COUNTERS, CPU_STATE, SAMPLES},
    trace,
    window::XdpWindow,
};

/// Finishes with a packet.
#[inline(always)]
pub(crate) fn finish(
    ctx: &XdpContext,
    settings: &Settings,
    parsed: &Parsed,
    reason: Reason,
    window: XdpWindow,
) -> u32 {
    let enforced = settings.mode == MODE_ENFORCE;
    let length = match parsed {
        Parsed::Packet(packet) => packet.length,
        Parsed::NotIp | Parsed::Broken(_) => window.length(),
    };
    let number = opaque(u64::from(reason.number()), u64::from(length)) as u32;
    let is_drop = number >= FIRST_DROP;
    count(interface_slot(ctx, settings), number, is_drop, enforced, length);
    if is_drop && settings.sample_every != 0 {
        sample(parsed, number, settings.sample_every, length);
    }
    let action = if is_drop && enforced { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS };
    if settings.trace_version != 0
        && let Parsed::Packet(packet) = parsed
        && settings.trace_version == u32::from(packet.source.version())
        && settings.trace_source == packet.source.halves()
    {
        trace::call(ctx, number, action);
    }
    action
}

/// The slot of the interface that the packet came in on.
#[inline(always)]
fn interface_slot(ctx: &XdpContext, settings: &Settings) -> u32 {
    let index = ctx.ingress_ifindex() as u32;
    for slot in 1..INTERFACE_SLOTS {
        if settings.interfaces[slot] == index {
            return slot as u32;
        }
    }
    0
}

#[inline(always)]
fn count(slot: u32, reason: u32, is_drop: bool, enforced: bool, length: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return; // cannot happen: every slot has an element
    };
    let number = reason as usize & (REASON_SLOTS - 1);
    // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
    let Count { packets, bytes } = unsafe {
        if is_drop && !enforced { &mut (*counters).would[number] } else { &mut (*counters).done[number] }
    };
    *packets = packets.wrapping_add(1);
    *bytes = bytes.wrapping_add(u64::from(length));
}

/// Writes one in `every` dropped packets to the sample ring. The gaps are random, so that traffic with a rhythm is
/// sampled as fairly as any.
#[inline(always)]
fn sample(parsed: &Parsed, reason: u32, every: u32, length: u32) {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return; // cannot happen: the array has one element
    };
    // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
    let state = unsafe { &mut *state };
    if state.until_sample > 1 {
        state.until_sample -= 1;
        return;
    }
    // Uniform in 1 to 2 * every - 1, so `every` on average.
    // SAFETY: no arguments, no conditions.
    let random = unsafe { bpf_get_prandom_u32() };
    state.until_sample = 1 + u64::from(random) % (2 * u64::from(every) - 1);

    let (version, source) = match parsed {
        Parsed::Packet(packet) => (u32::from(packet.source.version()), packet.source.halves()),
        Parsed::NotIp | Parsed::Broken(_) => (0, [0, 0]),
    };
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        state.samples_lost += 1;
        return;
    };
    entry.write(Sample { source, version, reason, length, weight: every });
    // User space comes by on its own, ten times a second; waking it would cost more than the sample.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    state.sampled += 1;
}
