//! The filter's clock, as user space can read it.
//!
//! The filter counts the kernel's ticks, which user space cannot read; so a small program in the same object writes
//! them down when asked, and the distance to `CLOCK_MONOTONIC_COARSE`, which moves with the same ticks, is kept.
//! The two drift apart as slowly as the wall clock is disciplined (500 ppm at worst): [`Clock::set`] once a minute
//! is ample.

use std::sync::atomic::{AtomicU64, Ordering};

/// The clock; shared by those who read debts and those who write expiries.
#[derive(Debug)]
pub struct Clock {
    /// Filter's time minus `CLOCK_MONOTONIC_COARSE`, modulo 2^64; of a clock that stands, the time.
    offset_ns: AtomicU64,
    /// Whether it moves by itself.
    running: bool,
}

impl Clock {
    pub(super) fn new(running: bool) -> Self {
        Self { offset_ns: AtomicU64::new(0), running }
    }

    /// The filter's time, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let moved = if self.running { monotonic_ns() } else { 0 };
        moved.wrapping_add(self.offset_ns.load(Ordering::Relaxed))
    }

    /// Sets a clock that stands.
    pub(super) fn set_standing(&self, now_ns: u64) {
        self.offset_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Takes note that the filter's time was `filter_ns` when the monotonic clock said `monotonic_ns`.
    pub(super) fn set(&self, filter_ns: u64, monotonic_ns: u64) {
        self.offset_ns.store(filter_ns.wrapping_sub(monotonic_ns), Ordering::Relaxed);
    }
}

/// `CLOCK_MONOTONIC_COARSE`, nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer. The call cannot fail for a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    nanoseconds(time)
}

/// Nanoseconds in a tick of the kernel: what the coarse clock moves by.
pub(super) fn tick_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
