//! The XDP program `floodgate`: glue between the kernel and `flood-common`.
//!
//! `window` lets the parser look at the packet, `lookup` gives the verdict its tables, `finish` is the one exit
//! that counts, samples, traces and returns the action; `maps` names what is shared with user space. There is
//! nothing here to unit-test, and that is the point: whatever can run on a host is in `flood-common`.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(
    internal_features,
    reason = "the BPF target has no compare-and-swap in core::sync::atomic"
)]

mod finish;
mod lookup;
mod maps;
mod trace;
mod window;

use aya_ebpf::{
    bindings::xdp_action, helpers::generated::bpf_ktime_get_coarse_ns, macros::xdp, programs::XdpContext,
};
use flood_common::{
    abi::{Settings, SettingsPage},
    decide::decide,
    packet::parse,
};

use crate::{lookup::MapTables, window::XdpWindow};

/// The filter. Multi-buffer aware (`frags`), so that interfaces with jumbo frames accept it.
#[xdp(frags)]
fn floodgate(ctx: XdpContext) -> u32 {
    let Some(page) = maps::SETTINGS.get_ptr(0) else {
        return xdp_action::XDP_PASS; // cannot happen: the array has one element
    };
    // SAFETY: array values live as long as the program; user space never writes the slot in force.
    let (settings, now_ns) = unsafe { (settings_in_force(page), now_ns(page)) };
    let window = XdpWindow::new(&ctx);
    let parsed = parse(window);
    let reason = decide(&parsed, settings, now_ns, &MapTables);
    finish::finish(&ctx, settings, &parsed, reason, window)
}

/// # Safety
/// `page` must point to a value of the settings map.
#[inline(always)]
unsafe fn settings_in_force<'a>(page: *const SettingsPage) -> &'a Settings {
    // SAFETY: the caller's; volatile, so that the index is read once and every field comes from one slot.
    unsafe {
        let active = (&raw const (*page).active).read_volatile();
        &(*page).slots[(active & 1) as usize]
    }
}

/// # Safety
/// `page` must point to a value of the settings map.
#[inline(always)]
unsafe fn now_ns(page: *const SettingsPage) -> u64 {
    if maps::VIRTUAL_CLOCK.load() == 0 {
        // SAFETY: no arguments, no conditions. The coarse clock costs 2 ns where the precise one costs 25, and its
        // ticks (1 to 10 ms) are far below every tolerance that the configuration accepts.
        unsafe { bpf_ktime_get_coarse_ns() }
    } else {
        // SAFETY: the caller's.
        unsafe { (&raw const (*page).virtual_now_ns).read_volatile() }
    }
}

/// The kernel lends some helpers only to programs under a GPL-compatible licence.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// An endless loop, so that the verifier rejects the program if a panic can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
