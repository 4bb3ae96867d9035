//! References: what a packet costs in a filter that keeps its state as most do. The bench compares Floodgate with
//! them; none of this is part of the filter.
//!
//! They parse with Floodgate's parser and count nothing, so that what differs is the state, and what is left out is
//! to their advantage.
#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "`window` asks whether an offset is a constant")]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the `xdp` macro calls programs with the context by value"
)]

mod object;
mod window;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, xdp},
    maps::{LpmTrie, LruHashMap, lpm_trie::Key},
    programs::XdpContext,
};
use flood_common::{
    address::Address,
    packet::{Parsed, parse},
};

use crate::window::XdpWindow;

/// Entries of each map, what peers configure for a large site.
const ENTRIES: u32 = 1 << 20;

/// Floodgate's default limit, 20,000 packets a second with a burst of two seconds, as GCRA.
const COST_NS: u64 = 50_000;
const TOLERANCE_NS: u64 = 2_000_000_000;

/// Source (IPv4 address or IPv6 /64) -> theoretical arrival time.
#[map]
static ARRIVALS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(ENTRIES, 0);

/// Blocked IPv4 prefix, in network byte order.
#[map]
static BLOCKED: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(ENTRIES, 0);

/// A limit of each source, its state in the kernel's LRU map.
#[xdp(frags)]
fn lru_reference(ctx: XdpContext) -> u32 {
    let Parsed::Packet(packet) = parse(XdpWindow::new(&ctx)) else {
        return xdp_action::XDP_PASS;
    };
    let source = match packet.source {
        Address::V4(v4) => u64::from(v4),
        Address::V6 { network, .. } => network,
    };
    // SAFETY: no arguments, no conditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(arrival) = ARRIVALS.get_ptr_mut(source) else {
        // A map that is full makes room by itself; what else fails leaves the source without a limit.
        let _ = ARRIVALS.insert(source, now_ns + COST_NS, 0);
        return xdp_action::XDP_PASS;
    };
    // SAFETY: the kernel does not reuse an entry's memory for another value while the program runs. Two processors
    // may overwrite each other's charge, as they do in the filters that this stands for.
    unsafe {
        if *arrival > now_ns + TOLERANCE_NS {
            return xdp_action::XDP_DROP;
        }
        *arrival = now_ns.max(*arrival) + COST_NS;
    }
    xdp_action::XDP_PASS
}

/// A block list in the kernel's trie.
#[xdp(frags)]
fn lpm_reference(ctx: XdpContext) -> u32 {
    let Parsed::Packet(packet) = parse(XdpWindow::new(&ctx)) else {
        return xdp_action::XDP_PASS;
    };
    let Address::V4(v4) = packet.source else {
        return xdp_action::XDP_PASS;
    };
    match BLOCKED.get(Key::new(u32::BITS, v4.to_be_bytes())) {
        Some(_) => xdp_action::XDP_DROP,
        None => xdp_action::XDP_PASS,
    }
}
