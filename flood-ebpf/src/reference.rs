//! References: what a packet costs in a filter that keeps its state as most filters do. The bench compares
//! Floodgate with them; none of this is part of the filter.
//!
//! They parse with Floodgate's parser and count nothing, so that only the state differs, and whatever is left out
//! is to their advantage. Each uses the kernel's own kind of map as such filters use it.
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
    Global,
    bindings::{bpf_spin_lock as SpinLock, xdp_action},
    btf_maps,
    helpers::generated::{bpf_ktime_get_ns, bpf_spin_lock, bpf_spin_unlock},
    macros::{btf_map, map, xdp},
    maps::{LpmTrie, LruHashMap, LruPerCpuHashMap, lpm_trie::Key},
    programs::XdpContext,
};
use flood_common::{
    address::Address,
    packet::{Parsed, parse},
};

use crate::window::XdpWindow;

/// Entries of each map, a number that other projects configure for a large site.
const ENTRIES: u32 = 1 << 20;

/// Floodgate's default limit, 20,000 packets a second with a burst of two seconds, as GCRA.
const COST_NS: u64 = 50_000;
const TOLERANCE_NS: u64 = 2_000_000_000;

/// Action for a packet that conforms. It is dropped where nothing behind a filter is to be measured.
#[unsafe(no_mangle)]
static CONFORMING: Global<u32> = Global::new(xdp_action::XDP_PASS);

/// Source (IPv4 address or IPv6 /64) -> theoretical arrival time.
#[map]
static ARRIVALS: LruHashMap<u64, u64> = LruHashMap::with_max_entries(ENTRIES, 0);

/// The same, for each processor separately.
#[map]
static OWN_ARRIVALS: LruPerCpuHashMap<u64, u64> = LruPerCpuHashMap::with_max_entries(ENTRIES, 0);

/// The same with a lock for each source. The kernel allows locks only in maps without eviction, and finds them by
/// the map's type information.
#[btf_map]
static LOCKED_ARRIVALS: btf_maps::HashMap<u64, Locked, { ENTRIES as usize }> = btf_maps::HashMap::new();

/// A theoretical arrival time and its lock.
#[repr(C)]
struct Locked {
    lock: SpinLock,
    arrival: u64,
}

/// Blocked IPv4 prefixes, in network byte order.
#[map]
static BLOCKED: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(ENTRIES, 0);

/// Limits each source, with state in the kernel's LRU map.
#[xdp(frags)]
fn lru_reference(ctx: XdpContext) -> u32 {
    let (Some(source), now_ns) = (source(&ctx), now_ns()) else { return xdp_action::XDP_PASS };
    let Some(arrival) = ARRIVALS.get_ptr_mut(source) else {
        // A full map makes room by itself; any other failure leaves the source without a limit.
        let _ = ARRIVALS.insert(source, now_ns + COST_NS, 0);
        return CONFORMING.load();
    };
    // SAFETY: the kernel does not reuse an entry's memory for another value while the program runs. Two processors
    // may overwrite each other's charge, as in the filters that this one represents.
    if unsafe { charge(arrival, now_ns) } { CONFORMING.load() } else { xdp_action::XDP_DROP }
}

/// Does the same in the kernel's per-CPU LRU map: a source that arrives on several processors has a limit on each.
#[xdp(frags)]
fn percpu_lru_reference(ctx: XdpContext) -> u32 {
    let (Some(source), now_ns) = (source(&ctx), now_ns()) else { return xdp_action::XDP_PASS };
    let Some(arrival) = OWN_ARRIVALS.get_ptr_mut(source) else {
        let _ = OWN_ARRIVALS.insert(source, now_ns + COST_NS, 0); // as above
        return CONFORMING.load();
    };
    // SAFETY: as above, and no other processor writes to this processor's values.
    if unsafe { charge(arrival, now_ns) } { CONFORMING.load() } else { xdp_action::XDP_DROP }
}

/// Does the same in a hash map, under a lock, so that no charge is lost. Once the map is full, new sources have no
/// limit.
#[xdp(frags)]
fn spin_lock_reference(ctx: XdpContext) -> u32 {
    let (Some(source), now_ns) = (source(&ctx), now_ns()) else { return xdp_action::XDP_PASS };
    let Some(entry) = LOCKED_ARRIVALS.get_ptr_mut(source) else {
        let entry = Locked { lock: SpinLock { val: 0 }, arrival: now_ns + COST_NS };
        let _ = LOCKED_ARRIVALS.insert(source, &entry, 0);
        return CONFORMING.load();
    };
    // SAFETY: the entry is one of the map, and nothing is called between lock and unlock.
    let conforms = unsafe {
        bpf_spin_lock(&raw mut (*entry).lock);
        let conforms = charge(&raw mut (*entry).arrival, now_ns);
        bpf_spin_unlock(&raw mut (*entry).lock);
        conforms
    };
    if conforms { CONFORMING.load() } else { xdp_action::XDP_DROP }
}

/// Checks a block list in the kernel's trie.
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
        None => CONFORMING.load(),
    }
}

/// Returns the source of a packet.
#[inline(always)]
fn source(ctx: &XdpContext) -> Option<u64> {
    let Parsed::Packet(packet) = parse(XdpWindow::new(ctx)) else { return None };
    Some(match packet.source {
        Address::V4(v4) => u64::from(v4),
        Address::V6 { network, .. } => network,
    })
}

#[inline(always)]
fn now_ns() -> u64 {
    // SAFETY: no arguments, no conditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Charges a packet, if it conforms.
///
/// # Safety
/// The pointer must be valid for reads and writes.
#[inline(always)]
unsafe fn charge(arrival: *mut u64, now_ns: u64) -> bool {
    // SAFETY: the caller ensures it.
    unsafe {
        let conforms = *arrival <= now_ns + TOLERANCE_NS;
        if conforms {
            *arrival = now_ns.max(*arrival) + COST_NS;
        }
        conforms
    }
}
