//! The one exit: counts the reason, samples or traces the packet if required, and returns the action.

use aya_ebpf::{
    bindings::{BPF_RB_NO_WAKEUP, xdp_action},
    helpers::generated::bpf_get_prandom_u32,
    programs::XdpContext,
};
use flood_common::{
    abi::{Count, CpuState, INTERFACE_SLOTS, MODE_ENFORCE, Sample, Settings},
    packet::{Parsed, parse},
    reason::{self, REASON_SLOTS, Reason},
    verifier::opaque,
};

use crate::{
    maps::{COUNTERS, CPU_STATE, SAMPLES},
    trace, window_of,
};

/// Finishes a packet of `length` bytes: `reason` is the number of a reason, and `pass` the action for a packet that
/// is not dropped.
#[inline(always)]
pub(crate) fn finish(
    ctx: &XdpContext,
    settings: &Settings,
    now_ns: u64,
    length: u32,
    reason: u32,
    pass: u32,
) -> u32 {
    let enforced = settings.mode == MODE_ENFORCE;
    // VERIFIER: many paths lead here, each with a reason of its own.
    let reason = opaque(reason.into(), length.into()) as u32;
    let is_drop = reason::is_drop(reason);
    count(interface_slot(ctx, settings), reason, enforced, length);
    let action = if is_drop && enforced { xdp_action::XDP_DROP } else { pass };
    let sampled = if is_drop { to_sample(settings, now_ns) } else { None };
    if sampled.is_some() || settings.trace_version != 0 {
        // Parses again, which is rare, rather than carrying the facts along for every packet.
        let (version, source) = match parse(window_of(ctx, settings)) {
            // An answered packet has become the answer, whose destination is the original source.
            Parsed::Packet(packet) if reason == Reason::Answered.number() && enforced => {
                (u32::from(packet.source.version()), packet.destination.halves())
            }
            Parsed::Packet(packet) => (u32::from(packet.source.version()), packet.source.halves()),
            Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_) => (0, [0, 0]),
        };
        if let Some((state, weight)) = sampled {
            let (reason, exceeded) = (reason as u16, state.exceeded as u16);
            sample(state, Sample { source, version, reason, exceeded, length, weight });
        }
        if settings.trace_version != 0 && settings.trace_version == version && settings.trace_source == source
        {
            trace::call(ctx, reason, action);
        }
    }
    action
}

/// Returns the slot of the interface that the packet arrived on.
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
fn count(slot: u32, reason: u32, enforced: bool, length: u32) {
    let Some(counters) = COUNTERS.get_ptr_mut(slot) else {
        return; // cannot happen: every slot has an element
    };
    let number = reason as usize & (REASON_SLOTS - 1);
    // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
    let Count { packets, bytes } = unsafe {
        if reason::is_action(reason) && !enforced {
            &mut (*counters).would[number]
        } else {
            &mut (*counters).done[number]
        }
    };
    *packets = packets.wrapping_add(1);
    *bytes = bytes.wrapping_add(u64::from(length));
}

/// Returns the processor's state and the weight of the sample if a dropped packet is to be sampled.
#[inline(always)]
fn to_sample<'a>(settings: &Settings, now_ns: u64) -> Option<(&'a mut CpuState, u32)> {
    // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
    let state = unsafe { &mut *CPU_STATE.get_ptr_mut(0)? };
    // SAFETY: no arguments, no conditions.
    let random = || unsafe { bpf_get_prandom_u32() };
    let weight = state.sampler.take(now_ns, settings.sample_cost_ns, random)?;
    Some((state, weight))
}

/// Writes a sample to the ring.
#[inline(always)]
fn sample(state: &mut CpuState, sample: Sample) {
    let Some(mut entry) = SAMPLES.reserve::<Sample>(0) else {
        state.samples_lost += 1;
        return;
    };
    entry.write(sample);
    // User space polls ten times a second; waking it would cost more than the sample.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    state.sampled += 1;
}
