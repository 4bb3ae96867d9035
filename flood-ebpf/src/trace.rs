//! Logs a line for each decision about one source, while an operator requests it.
//!
//! A separate program writes the lines; the filter calls it only for packets of that source. So the verifier
//! follows the formatting once, not once for every path through the filter. What is logged besides the decision is
//! parsed again rather than carried along for every packet.

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_ktime_get_coarse_ns, macros::xdp, programs::XdpContext,
};
use aya_log_ebpf::info;
use flood_common::{
    abi::{BUDGET_TRACE, next},
    address::Address,
    meter::{Charge, Price},
    packet::{Packet, Parsed, parse},
    reason::Reason,
};

use crate::{
    hand_over,
    lookup::charge_host,
    maps::{CPU_STATE, SETTINGS},
    settings_in_force, window_of,
};

/// 100 lines a second, with a burst of 100. More would say nothing new about one source and would fill the log
/// ring.
const PRICE: Price = Price {
    cost_ns: 10_000_000,
    tolerance_ns: 1_000_000_000,
    horizon_ns: 3_000_000_000,
    evictable_ns: 0,
    bits: false,
};

/// Hands the packet over to [`floodgate_trace`], which returns `action` for it. Returns only if that program is not
/// installed; then there is no line.
#[inline(always)]
pub(crate) fn call(ctx: &XdpContext, reason: u32, action: u32) {
    hand_over(ctx, next::TRACE, |state| {
        state.reason = reason.into();
        state.action = action.into();
    });
}

/// Logs the decision that was made about a packet, and carries it out.
#[xdp(frags)]
fn floodgate_trace(ctx: XdpContext) -> u32 {
    let Some(state) = CPU_STATE.get_ptr_mut(0) else {
        return xdp_action::XDP_PASS; // cannot happen: the array has one element
    };
    // SAFETY: the value is this processor's own, and nothing ran on it since `call` wrote it.
    let state = unsafe { &mut *state };
    // SAFETY: no arguments, no conditions.
    let now_ns = unsafe { bpf_ktime_get_coarse_ns() }; // any clock will do, because only the tracer uses this budget
    if charge_host(BUDGET_TRACE, now_ns, &PRICE) != Charge::Conforming {
        state.trace_suppressed += 1;
    } else if let Some(page) = SETTINGS.get_ptr(0) {
        // SAFETY: array values live as long as the program; user space never writes the slot in force.
        let (settings, _) = unsafe { settings_in_force(page) };
        if let Parsed::Packet(packet) = parse(window_of(&ctx, settings)) {
            write_line(&ctx, state.reason as u32, state.exceeded as u32, &packet);
        }
    }
    state.action as u32
}

/// Writes a line. It begins with the numbers of the reason and of the cell that the last packet over a limit
/// exceeded, which user space replaces with their names.
#[inline(always)]
fn write_line(ctx: &XdpContext, reason: u32, exceeded: u32, packet: &Packet) {
    let ports = packet.ports.map_or([0; 2], |ports| [ports.source, ports.destination]);
    // An answer goes back to the source that the line is about.
    let answered = reason == Reason::Answered.number();
    let ([from, to], source) =
        if answered { ([ports[1], ports[0]], packet.destination) } else { (ports, packet.source) };
    let (protocol, length) = (packet.protocol, packet.length);
    macro_rules! write {
        ($source:expr) => {
            info!(
                ctx,
                "{} {} {:i} protocol {} ports {} {} length {}",
                reason,
                exceeded,
                $source,
                protocol,
                from,
                to,
                length
            )
        };
    }
    // The format of an address depends on its type.
    match source {
        Address::V4(source) => write!(source),
        Address::V6 { network, interface } => {
            write!(((u128::from(network) << 64) | u128::from(interface)).to_be_bytes());
        }
    }
}
