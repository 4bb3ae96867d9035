//! Programs for the laboratory: what tests, bench and demo put around the filter. None of them is part of it.
//!
//! `flood` sends (by a live-frames test run on one end of a veth pair), and so does `flood_in_bursts`. `switch`
//! joins veth pairs. `pass` and `drop` are the two ways of doing nothing, and `leave` does nothing on egress.
//! `count_arrivals` counts what a filter let through. `hold_resets` turns a client into one that sends no resets.
//! `pass_one` is the ideal filter. `harness` gives each run of another program a different source, so that a test
//! run of one frame exercises millions of sources.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "`window` asks whether an offset is a constant")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the `xdp` and `classifier` macros call programs with the context by value"
)]

mod object;
mod window;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_redirect, bpf_xdp_load_bytes, bpf_xdp_store_bytes,
    },
    macros::{classifier, map, xdp},
    maps::{Array, PerCpuArray, ProgramArray},
    programs::{TcContext, XdpContext},
};
use flood_common::{
    packet::{Parsed, parse},
    wire::{Ethernet, Ipv4, Ipv6, Window, ethertype, tcp_flags},
};

use crate::window::XdpWindow;

/// The range of sources: `[first, mask, within, shift]`. The n-th source is `first + (scatter(n & mask) & within)`,
/// shifted left for IPv6.
#[map]
static SOURCES: Array<[u64; 4]> = Array::with_max_entries(1, 0);

/// State of the random number generator.
#[map]
static RANDOM: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// The program that `harness` calls, at index 0.
#[map]
static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// Last byte of a destination MAC address -> index of the interface that leads to it.
#[map]
static PORTS: Array<u32> = Array::with_max_entries(256, 0);

/// The beginning of the frame that `flood` sends: its length in bytes minus one, and in the upper half whether each
/// frame is written anew; then these bytes.
#[map]
static FRAME: Array<[u64; 1 + HEADERS / 8]> = Array::with_max_entries(1, 0);

/// Bytes of a frame that are kept.
const HEADERS: usize = 128;

/// What `flood` randomizes in each frame besides its source: four bytes at an even offset, under a mask. A zero
/// mask ends the list.
#[map]
static VARIED: Array<[[u32; 2]; PLACES]> = Array::with_max_entries(1, 0);

/// Places in a frame that can vary.
const PLACES: usize = 4;

/// Offsets of the checksums that `flood` keeps valid: of the IPv4 header, and of what follows it; 0 for none. Then
/// whether the second covers the addresses.
#[map]
static CHECKSUMS: Array<[u32; 3]> = Array::with_max_entries(1, 0);

/// The bursts of `flood_in_bursts`: nanoseconds before each, frames in one, and the number of the next frame in its
/// burst.
#[map]
static BURSTS: Array<[u64; 3]> = Array::with_max_entries(1, 0);

/// Last byte of a source MAC address -> packets from there that reached the network stack.
#[map]
static ARRIVALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(256, 0);

/// Drops: the least work that a filter can do.
#[xdp(frags)]
fn drop(_: XdpContext) -> u32 {
    xdp_action::XDP_DROP
}

/// Passes. A veth end needs some program for frames that its peer transmits from XDP.
#[xdp(frags)]
fn pass(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Does nothing on egress and leaves every packet to the next program (`TCX_NEXT`).
#[classifier]
fn leave(_: TcContext) -> i32 {
    -1
}

/// Counts packets on ingress, behind a filter, and leaves them to the next program.
#[classifier]
fn count_arrivals(ctx: TcContext) -> i32 {
    if let Ok(Ethernet { source, .. }) = ctx.load::<Ethernet>(0)
        && let Some(count) = ARRIVALS.get_ptr_mut(u32::from(source[5]))
    {
        // SAFETY: the value is this processor's own, the context the program's. A packet that the kernel merged
        // from several says how many they were.
        unsafe { *count += u64::from((*ctx.skb.skb).gso_segs.max(1)) };
    }
    -1
}

/// Drops TCP resets. Most clients are behind a router that admits nothing unsolicited, so they send no resets when
/// a server answers an attacker who spoofs their address.
#[xdp(frags)]
fn hold_resets(ctx: XdpContext) -> u32 {
    match parse(XdpWindow::new(&ctx)) {
        Parsed::Packet(packet) if packet.tcp_flags.is_some_and(|flags| flags & tcp_flags::RST != 0) => {
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

/// Passes the first of the sources over IPv4 and drops the rest: a filter that knows the visitor.
#[xdp(frags)]
fn pass_one(ctx: XdpContext) -> u32 {
    let window = XdpWindow::new(&ctx);
    let (Some([first, ..]), Some(ip)) = (SOURCES.get(0), window.view::<Ipv4>(size_of::<Ethernet>())) else {
        return xdp_action::XDP_DROP;
    };
    if u32::from_be_bytes(ip.source) == *first as u32 { xdp_action::XDP_PASS } else { xdp_action::XDP_DROP }
}

/// Parses like the filter, and drops.
#[xdp(frags)]
fn parse_only(ctx: XdpContext) -> u32 {
    match parse(XdpWindow::new(&ctx)) {
        // Uses the facts that decide, so that none of them is optimised away.
        Parsed::Packet(packet) => {
            let [high, low] = packet.source.halves();
            let usual = packet.defect.is_none() && packet.vital.is_none() && high ^ low != 0;
            if usual { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
        }
        Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_) => xdp_action::XDP_PASS,
    }
}

/// Gives the frame a source, then lets the target judge it.
#[xdp(frags)]
fn harness(ctx: XdpContext) -> u32 {
    write_source(&ctx);
    // SAFETY: on success the call does not return; on failure the verdict below shows that there is no target.
    unsafe { TARGET.tail_call(&ctx, 0) };
    xdp_action::XDP_ABORTED
}

/// Gives the frame a source and sends it out of the interface with valid checksums.
#[xdp(frags)]
fn flood(ctx: XdpContext) -> u32 {
    send(&ctx)
}

/// Does the same, but waits before the first frame of each burst.
#[xdp(frags)]
fn flood_in_bursts(ctx: XdpContext) -> u32 {
    if let Some(bursts) = BURSTS.get_ptr_mut(0) {
        // SAFETY: a generator runs on one processor.
        let [pause_ns, frames, number] = unsafe { &mut *bursts };
        if *number == 0 {
            wait(*pause_ns);
        }
        *number += 1;
        if *number >= *frames {
            *number = 0;
        }
    }
    send(&ctx)
}

#[inline(always)]
fn send(ctx: &XdpContext) -> u32 {
    restore(ctx);
    let source = write_source(ctx);
    let rest = vary(ctx);
    if let Some([header, transport, covers_addresses]) = CHECKSUMS.get(0) {
        amend(ctx, *header, source);
        amend(ctx, *transport, source * covers_addresses + rest);
    }
    xdp_action::XDP_TX
}

/// Waits this long, at most somewhat less than a millisecond.
#[inline(always)]
fn wait(ns: u64) {
    // VERIFIER: it follows each iteration (Linux 6.18), and reading the clock takes some 20 ns.
    const MOST_LOOKS: u32 = 40_000;
    // SAFETY: no arguments, no conditions.
    let now = || unsafe { bpf_ktime_get_ns() };
    let end = now() + ns;
    for _ in 0..MOST_LOOKS {
        if now() >= end {
            break;
        }
    }
}

/// Sends the frame to the port that leads to its destination.
#[xdp(frags)]
fn switch(ctx: XdpContext) -> u32 {
    let Some(ethernet) = XdpWindow::new(&ctx).view::<Ethernet>(0) else {
        return xdp_action::XDP_DROP;
    };
    match PORTS.get(u32::from(ethernet.destination[5])) {
        // SAFETY: no pointers, no conditions.
        Some(port) if *port != 0 => unsafe { bpf_redirect(*port, 0) as u32 },
        _ => xdp_action::XDP_DROP,
    }
}

/// Writes the frame anew if it has been answered in place, or if every frame has to be: the kernel sends the same
/// buffers repeatedly.
#[inline(always)]
fn restore(ctx: &XdpContext) {
    let (Some(frame), Some(ethernet)) = (FRAME.get(0), XdpWindow::new(ctx).view::<Ethernet>(0)) else {
        return;
    };
    let [how, first, ..] = *frame;
    let ours = first.to_ne_bytes();
    let length = (how as u32 & (HEADERS as u32 - 1)) + 1;
    if how >> 32 != 0 || ethernet.destination != [ours[0], ours[1], ours[2], ours[3], ours[4], ours[5]] {
        // SAFETY: the context is the program's, and the value has room for the longest length.
        unsafe { bpf_xdp_store_bytes(ctx.ctx, 0, (&raw const frame[1]).cast_mut().cast(), length) };
    }
}

/// Overwrites the source address of an untagged IPv4 or IPv6 frame. Returns by how much a checksum changes.
#[inline(always)]
fn write_source(ctx: &XdpContext) -> u32 {
    let (Some([first, mask, within, shift]), Some(number)) = (SOURCES.get(0), random()) else {
        return 0; // cannot happen: both arrays have one element
    };
    let number = number >> 16 & *mask;
    let window = XdpWindow::new(ctx);
    let Some(ethernet) = window.view::<Ethernet>(0) else {
        return 0;
    };
    let offset = size_of::<Ethernet>();
    match ethernet.ethertype.get() {
        ethertype::IPV4 => {
            let Some(ip) = window.view::<Ipv4>(offset) else { return 0 };
            let source = ordinary((*first as u32).wrapping_add((scatter(number) & *within) as u32));
            let source = source.to_be_bytes();
            let change = change(u32::from_ne_bytes(ip.source).into(), u32::from_ne_bytes(source).into());
            // SAFETY: `view` has compared the range with the packet's end; packets may be written to.
            unsafe { (&raw const ip.source).cast_mut().write(source) };
            change
        }
        ethertype::IPV6 => {
            let Some(ip) = window.view::<Ipv6>(offset) else { return 0 };
            let network = first.wrapping_add((scatter(number) & *within) << (*shift & 63));
            let network = network.to_be_bytes();
            let change = change(u64::from_ne_bytes(ip.source[0]), u64::from_ne_bytes(network));
            // SAFETY: as above.
            unsafe { (&raw const ip.source).cast_mut().cast::<[u8; 8]>().write(network) };
            change
        }
        _ => 0,
    }
}

/// Randomizes the configured places. Returns by how much a checksum changes.
#[inline(always)]
fn vary(ctx: &XdpContext) -> u32 {
    let Some(places) = VARIED.get(0) else { return 0 };
    let mut total = 0;
    for [offset, mask] in *places {
        let Some(random) = random().filter(|_| mask != 0) else { break };
        let mut bytes = [0; 4];
        // SAFETY: the context is the program's, and the buffer has the length that is read.
        if unsafe { bpf_xdp_load_bytes(ctx.ctx, offset, bytes.as_mut_ptr().cast(), 4) } != 0 {
            break;
        }
        let mut new = (u32::from_be_bytes(bytes) & !mask | (random >> 16) as u32 & mask).to_be_bytes();
        total += change(u32::from_ne_bytes(bytes).into(), u32::from_ne_bytes(new).into());
        // SAFETY: as above.
        unsafe { bpf_xdp_store_bytes(ctx.ctx, offset, new.as_mut_ptr().cast(), 4) };
    }
    total
}

/// Returns by how much a checksum changes when a word of the packet does: the sum of its old parts, complemented,
/// and of its new ones.
#[inline(always)]
fn change(old: u64, new: u64) -> u32 {
    let parts = |word: u64| [0, 16, 32, 48].map(|shift| (word >> shift) as u32 & 0xffff).iter().sum::<u32>();
    parts(!old) + parts(new)
}

/// Updates the checksum at an offset, if there is one (RFC 1624, equation 3).
#[inline(always)]
fn amend(ctx: &XdpContext, offset: u32, change: u32) {
    let mut bytes = [0; 2];
    // SAFETY: the context is the program's, and the buffer has the length that is read.
    if offset == 0 || unsafe { bpf_xdp_load_bytes(ctx.ctx, offset, bytes.as_mut_ptr().cast(), 2) } != 0 {
        return;
    }
    let mut sum = u32::from(!u16::from_ne_bytes(bytes)) + change;
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    let mut bytes = (!(sum as u16)).to_ne_bytes();
    // SAFETY: as above.
    unsafe { bpf_xdp_store_bytes(ctx.ctx, offset, bytes.as_mut_ptr().cast(), 2) };
}

/// Returns the address, or another one if no host can have it (0.0.0.0/8, 127.0.0.0/8, from 224.0.0.0 on).
#[inline(always)]
fn ordinary(address: u32) -> u32 {
    match address >> 24 {
        0 | 127 | 224.. => address ^ 0x4000_0000,
        _ => address,
    }
}

/// Spreads consecutive numbers over 32 bits, one to one.
#[inline(always)]
fn scatter(number: u64) -> u64 {
    u64::from((number as u32).wrapping_mul(0x9e37_79b1))
}

/// Marsaglia's xorshift64. Each processor starts with a different state.
#[inline(always)]
fn random() -> Option<u64> {
    let state = RANDOM.get_ptr_mut(0)?;
    // SAFETY: the value is this processor's own.
    unsafe {
        if *state == 0 {
            *state = u64::from(bpf_get_prandom_u32()) | 1 << 63; // not 0, which it would never leave
        }
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some(*state)
    }
}
