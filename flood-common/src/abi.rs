//! What user space and the kernel agree on: the layout of map values, the names of maps and globals.
//!
//! Every type is `repr(C)`, of fixed-width integers, without padding (the derives refuse padded types), and its
//! size is asserted beside it. A field never is a `bool`, an `Option` or an enum.
//!
//! Invariant: whoever changes anything here raises [`VERSION`]; the loader compares it with the object's.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{meter::Limit, place::Seeds, reason::REASON_SLOTS};

/// Version of this module.
pub const VERSION: u32 = 2;

/// Names of maps in the object; the kernel cuts names at 15 characters.
pub mod map {
    /// `[SettingsPage; 1]`, mmapable.
    pub const SETTINGS: &str = "SETTINGS";
    /// Per processor: one [`InterfaceCounters`](super::InterfaceCounters) for each interface slot.
    pub const COUNTERS: &str = "COUNTERS";
    /// Per processor: one [`CpuState`](super::CpuState).
    pub const CPU_STATE: &str = "CPU_STATE";
    /// Buckets of sources in debt, mmapable: those of IPv4 addresses, then as many of IPv6 prefixes.
    pub const DEBTS: &str = "DEBTS";
    /// Words of the host-wide budgets, mmapable.
    pub const BUDGETS: &str = "BUDGETS";
    /// Words of the gates of the lists, mmapable: those of IPv4, of IPv6, and the one for all of IPv6
    /// ([`lists`](crate::lists)).
    pub const GATES: &str = "GATES";
    /// Buckets of listed IPv4 addresses, mmapable.
    pub const LISTED: &str = "LISTED";
    /// Listed IPv6 prefixes ([`Prefix`](crate::lists::Prefix)) -> a word for each list.
    pub const PREFIXES: &str = "PREFIXES";
    /// Ring buffer of [`Sample`](super::Sample).
    pub const SAMPLES: &str = "SAMPLES";
    /// The program that logs decisions, at index 0.
    pub const TRACER: &str = "TRACER";
}

/// Names of the set-once values in `.rodata`.
pub mod global {
    /// `u32`: [`VERSION`](super::VERSION) that the object was built with.
    pub const ABI: &str = "ABI";
    /// `u32`: binary logarithm of the number of buckets for each address family.
    pub const BUCKET_BITS: &str = "BUCKET_BITS";
    /// `u64`: mask of the upper 64 bits of an IPv6 address that make a source.
    pub const IPV6_MASK: &str = "IPV6_MASK";
    /// `u64`: nanoseconds in a tick of the kernel, 0 for the virtual clock in the settings page.
    pub const TICK_NS: &str = "TICK_NS";
    /// `u32`: binary logarithm of the number of buckets of listed IPv4 addresses.
    pub const LISTED_BITS: &str = "LISTED_BITS";
    /// `u32`: binary logarithm of the number of cells of the IPv6 gate.
    pub const CELL_BITS: &str = "CELL_BITS";
}

/// Interface slots: slot 0 counts frames of an interface that has none, the others belong to attached interfaces.
pub const INTERFACE_SLOTS: usize = 16;

/// `Settings::mode`: drop what is judged so.
pub const MODE_ENFORCE: u32 = 0;
/// `Settings::mode`: pass everything, count what would have been dropped.
pub const MODE_MONITOR: u32 = 1;

/// Bits of `Settings::lists`: the families of which either list has an entry. Empty lists cost nothing.
pub mod list {
    /// IPv4.
    pub const V4: u32 = 1 << 0;
    /// IPv6.
    pub const V6: u32 = 1 << 1;
}

/// What may change while the filter runs. A packet sees one `Settings` from its first look to its last.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Settings {
    /// [`MODE_ENFORCE`] or [`MODE_MONITOR`].
    pub mode: u32,
    /// Bits of [`list`].
    pub lists: u32,
    /// One in so many dropped packets is sampled, on average; 0 samples none.
    pub sample_every: u32,
    /// IP version of the source to trace, 0 for none.
    pub trace_version: u32,
    /// The source to trace, as [`Address::halves`](crate::address::Address::halves).
    pub trace_source: [u64; 2],
    /// Secrets of the debt tables.
    pub seeds: Seeds,
    /// Secrets of the lists' tables; never changed after load, as the tables are filled by them.
    pub list_seeds: Seeds,
    /// Limit of each source.
    pub source: Limit,
    /// Budgets of [`Vital`](crate::packet::Vital) messages, by its numbers.
    pub vital: [Limit; 2],
    /// Index of the interface in each slot, 0 where there is none; slot 0 is never assigned.
    pub interfaces: [u32; INTERFACE_SLOTS],
}
const _: () = assert!(size_of::<Settings>() == 312 && align_of::<Settings>() == 8);

/// The one value of [`map::SETTINGS`]: two settings, of which one is in force. User space writes the other, then
/// the index.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct SettingsPage {
    /// Which of `slots` is in force (its lowest bit).
    pub active: u32,
    /// Unused.
    pub reserved: u32,
    /// With ticks: what the clock said when the clock program last ran, nanoseconds. Without: the clock itself.
    pub clock_ns: u64,
    /// The settings.
    pub slots: [Settings; 2],
}
const _: () = assert!(size_of::<SettingsPage>() == 16 + 2 * 312);

/// Packets and bytes.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Count {
    /// Frames.
    pub packets: u64,
    /// Bytes of whole frames, without frame check sequence.
    pub bytes: u64,
}

/// What one processor counted on one interface, by number of [`Reason`](crate::reason::Reason).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct InterfaceCounters {
    /// What was done.
    pub done: [Count; REASON_SLOTS],
    /// What would have been dropped, in monitor mode.
    pub would: [Count; REASON_SLOTS],
}
const _: () = assert!(size_of::<InterfaceCounters>() == 2 * 16 * REASON_SLOTS);

/// What one processor keeps for itself.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct CpuState {
    /// Dropped packets until the next sample.
    pub until_sample: u64,
    /// Samples written to the ring.
    pub sampled: u64,
    /// Samples lost because the ring was full.
    pub samples_lost: u64,
    /// Trace lines not written because there were too many.
    pub trace_suppressed: u64,
    /// What the filter hands over to the tracing program: number of the reason.
    pub traced_reason: u64,
    /// What the filter hands over to the tracing program: XDP action.
    pub traced_action: u64,
}
const _: () = assert!(size_of::<CpuState>() == 48);

/// Budget words: one per `Vital`, then the trace lines'.
pub const BUDGET_TRACE: u32 = 2;
/// Number of budgets.
pub const BUDGETS: u32 = 3;

/// One dropped packet out of [`weight`](Self::weight).
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Sample {
    /// The source, as [`Address::halves`](crate::address::Address::halves); meaningless when `version` is 0.
    pub source: [u64; 2],
    /// IP version, 0 for a frame without a source.
    pub version: u32,
    /// Number of the [`Reason`](crate::reason::Reason).
    pub reason: u32,
    /// Length of the frame, bytes.
    pub length: u32,
    /// How many dropped packets this one stands for, on average.
    pub weight: u32,
}
const _: () = assert!(size_of::<Sample>() == 32);
