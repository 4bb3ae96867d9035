//! The filter's clock, as user space can read it.
//!
//! The filter counts the kernel's ticks, which user space cannot read. So a small program in the same object records
//! them on request, and the difference to `CLOCK_MONOTONIC_COARSE`, which advances with the same ticks, is kept. The
//! two drift apart as slowly as the wall clock is disciplined (500 ppm at worst): calling [`Clock::set`] once a
//! minute is ample.

use std::sync::atomic::{AtomicU64, Ordering};

/// The clock, shared by readers of debts and writers of expiries.
#[derive(Debug)]
pub struct Clock {
    /// Filter's time minus `CLOCK_MONOTONIC_COARSE`, modulo 2^64; for a stopped clock, the time itself.
    offset_ns: AtomicU64,
    /// Whether it advances by itself.
    running: bool,
}

impl Clock {
    pub(super) fn new(running: bool) -> Self {
        Self { offset_ns: AtomicU64::new(0), running }
    }

    /// Returns the filter's time, nanoseconds.
    pub fn now_ns(&self) -> u64 {
        let moved = if self.running { monotonic_ns() } else { 0 };
        moved.wrapping_add(self.offset_ns.load(Ordering::Relaxed))
    }

    /// Sets a stopped clock.
    pub(super) fn set_standing(&self, now_ns: u64) {
        self.offset_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Records that the filter's time was `filter_ns` when the monotonic clock was `monotonic_ns`.
    pub(super) fn set(&self, filter_ns: u64, monotonic_ns: u64) {
        self.offset_ns.store(filter_ns.wrapping_sub(monotonic_ns), Ordering::Relaxed);
    }
}

/// Returns `CLOCK_MONOTONIC_COARSE`, nanoseconds.
pub(super) fn monotonic_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer. The call cannot fail for a clock that every Linux has.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    nanoseconds(time)
}

/// Returns the length of a kernel tick, by which the coarse clock advances, nanoseconds.
pub(super) fn tick_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: as above.
    unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) };
    nanoseconds(time)
}

fn nanoseconds(time: libc::timespec) -> u64 {
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
