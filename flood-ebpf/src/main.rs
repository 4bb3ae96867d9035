//! The XDP program `floodgate`, and `floodgate_egress` on egress: glue between the kernel and `flood-common`.
//!
//! `window` gives the parser access to the packet, `lookup` and `lists` give the verdict its tables, and `finish`
//! is the one exit that counts, samples, traces and returns the action. `prove` takes a second look at packets over
//! a limit, `reassemble` at fragments, and `sockets` queries the host's sockets about them. `egress` is the egress
//! program. `maps` names what is shared with user space. There is nothing here to unit-test, by design: whatever
//! can run on a host is in `flood-common`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the `xdp` and `classifier` macros call programs with the context by value"
)]
#![expect(internal_features, reason = "the BPF target has no compare-and-swap in core::sync::atomic")]

mod egress;
mod finish;
mod lists;
mod lookup;
mod maps;
mod object;
mod prove;
mod reassemble;
mod sockets;
mod trace;
mod window;

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_jiffies64, macros::xdp, programs::XdpContext};
use flood_common::{
    abi::{CpuState, Settings, SettingsPage, next},
    decide::{Verdict, decide},
    ordinary,
    packet::{Parsed, parse},
    reason::Reason,
    wire::Window,
};

use crate::{lookup::MapTables, window::XdpWindow};

/// The filter. Multi-buffer aware (`frags`), so that interfaces with jumbo frames accept it.
#[xdp(frags)]
#[inline(always)] // a call costs every packet, and its frame would use stack that the programs share
fn floodgate(ctx: XdpContext) -> u32 {
    let Some(page) = maps::SETTINGS.get_ptr(0) else {
        return xdp_action::XDP_PASS; // cannot happen: the array has one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force.
    let ((settings, slot), now_ns) = unsafe { (settings_in_force(page), now_ns(page)) };
    let window = window_of(&ctx, settings);
    let short = ordinary::judge(window, settings, now_ns, &MapTables::new(&ctx, slot));
    let (verdict, length) = short.unwrap_or_else(|| {
        // SAFETY: on success the call does not return.
        unsafe { maps::NEXT.tail_call(&ctx, next::LONG) };
        // The program is missing, although the loader installs it before anything is attached.
        (Reason::Unaccounted.into(), window.length())
    });
    carry_out(&ctx, settings, now_ns, verdict, length)
}

/// The slow path, for every frame that is not [ordinary]. It reads settings and clock again; nothing has been
/// charged before.
#[xdp(frags)]
#[inline(always)] // as above
fn floodgate_long(ctx: XdpContext) -> u32 {
    let Some(page) = maps::SETTINGS.get_ptr(0) else {
        return xdp_action::XDP_PASS; // cannot happen: the array has one element
    };
    // SAFETY: as above.
    let ((settings, slot), now_ns) = unsafe { (settings_in_force(page), now_ns(page)) };
    let window = window_of(&ctx, settings);
    let parsed = parse(window);
    let verdict = decide(&parsed, settings, now_ns, &MapTables::new(&ctx, slot));
    let length = match parsed {
        Parsed::Packet(packet) => packet.length,
        Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_) => window.length(),
    };
    carry_out(&ctx, settings, now_ns, verdict, length)
}

/// Finishes a frame of `length` bytes, or hands it over for a second look.
#[inline(always)]
fn carry_out(ctx: &XdpContext, settings: &Settings, now_ns: u64, verdict: Verdict, length: u32) -> u32 {
    let Verdict { reason, looks_again, class } = verdict;
    if looks_again {
        prove::call(ctx, reason, class);
    }
    finish::finish(ctx, settings, now_ns, length, reason.number(), xdp_action::XDP_PASS)
}

/// Returns a window on the input: a frame, or on an interface without a link layer a packet.
#[inline(always)]
fn window_of(ctx: &XdpContext, settings: &Settings) -> XdpWindow {
    let mut window = XdpWindow::new(ctx);
    window.bare = settings.is_bare(ctx.ingress_ifindex() as u32);
    window
}

/// Hands the packet over to a program, with what `write` leaves for it. Returns only if that program is not
/// installed.
#[inline(always)]
fn hand_over(ctx: &XdpContext, program: u32, write: impl FnOnce(&mut CpuState)) {
    if let Some(state) = maps::CPU_STATE.get_ptr_mut(0) {
        // SAFETY: the value is this processor's own, and a program is not interrupted by itself on a processor.
        write(unsafe { &mut *state });
        // SAFETY: on success the call does not return.
        unsafe { maps::NEXT.tail_call(ctx, program) };
    }
}

/// Returns the settings in force, and their slot.
///
/// # Safety
/// `page` must point to a value of the settings map.
#[inline(always)]
unsafe fn settings_in_force<'a>(page: *const SettingsPage) -> (&'a Settings, u64) {
    // SAFETY: the caller ensures it; volatile, so that the index is read once and every field comes from one slot.
    unsafe {
        let slot = u64::from((&raw const (*page).active).read_volatile()) & 1;
        (settings_in(page, slot), slot)
    }
}

/// Returns the settings in a slot that was in force when the packet arrived: before user space writes to a slot, it
/// waits until all packets that may have seen it in force are done.
///
/// # Safety
/// `page` must point to a value of the settings map.
#[inline(always)]
unsafe fn settings_in<'a>(page: *const SettingsPage, slot: u64) -> &'a Settings {
    // SAFETY: the caller ensures it.
    unsafe { &(*page).slots[(slot & 1) as usize] }
}

/// # Safety
/// `page` must point to a value of the settings map.
#[inline(always)]
unsafe fn now_ns(page: *const SettingsPage) -> u64 {
    match maps::TICK_NS.load() {
        // SAFETY: the caller ensures it.
        0 => unsafe { (&raw const (*page).clock_ns).read_volatile() },
        // The kernel's tick counter is inlined as one load, whereas even the coarse clock is a call (2 to 24 ns).
        // Its ticks (1 to 10 ms) are far below every tolerance that the configuration accepts.
        // SAFETY: no arguments, no conditions.
        tick_ns => unsafe { bpf_jiffies64() }.wrapping_mul(tick_ns),
    }
}

/// Writes the filter's clock into the settings page. User space runs it to relate that clock to its own.
#[xdp]
fn floodgate_clock(_: XdpContext) -> u32 {
    if let Some(page) = maps::SETTINGS.get_ptr_mut(0) {
        // SAFETY: array values live as long as the program, and only this program and user space write the field.
        unsafe { (&raw mut (*page).clock_ns).write_volatile(now_ns(page)) };
    }
    xdp_action::XDP_PASS
}
