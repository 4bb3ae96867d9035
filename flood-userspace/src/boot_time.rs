//! The clock for all durations and expiries: time since the host was started, including sleep.
//!
//! The wall clock steps, either when a host without a clock of its own fetches the time, or when somebody sets it.
//! An hour's ban could then end at once, or last for years. So the wall clock is for display only
//! ([`BootTime::wall`]). `std::time::Instant` stops while the host sleeps, and so does the filter's clock; the
//! daemon removes entries from the lists that expired meanwhile.

use std::{
    ops::Add,
    time::{Duration, SystemTime},
};

/// A moment by `CLOCK_BOOTTIME` (clock_gettime(2)); negative before the start of the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BootTime {
    ns: i64,
}

impl BootTime {
    /// When the host was started.
    pub const START: Self = Self { ns: 0 };

    /// Returns the current time.
    pub fn now() -> Self {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is valid for writing the result. The call cannot fail for a clock that every Linux has.
        unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &raw mut time) };
        Self { ns: time.tv_sec * 1_000_000_000 + time.tv_nsec }
    }

    /// Returns the moment `duration` later; `None` in some three hundred years.
    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        let ns = i64::try_from(duration.as_nanos()).ok()?;
        self.ns.checked_add(ns).map(|ns| Self { ns })
    }

    /// Returns the time from `earlier` until this moment; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        let ns = i128::from(self.ns) - i128::from(earlier.ns);
        Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
    }

    /// Returns the time from this moment until now; zero if it is in the future.
    pub fn elapsed(self) -> Duration {
        Self::now().since(self)
    }

    /// Returns the wall-clock time of this moment, by the current wall clock.
    pub fn wall(self) -> SystemTime {
        let (wall, now) = (SystemTime::now(), Self::now());
        let moved =
            if self < now { wall.checked_sub(now.since(self)) } else { wall.checked_add(self.since(now)) };
        moved.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Returns the moment of a wall-clock time in the past, by the current wall clock; now, if that time is in the
    /// future.
    pub fn of_wall(wall: SystemTime) -> Self {
        let (age, now) = (wall.elapsed().unwrap_or_default(), Self::now());
        Self { ns: now.ns.saturating_sub(i64::try_from(age.as_nanos()).unwrap_or(i64::MAX)) }
    }

    /// Waits for this moment; at most a minute longer if the host sleeps meanwhile.
    pub async fn reached(self) {
        const LOOK: Duration = Duration::from_secs(60);

        loop {
            let left = self.since(Self::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LOOK)).await;
        }
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self { ns: i64::MAX })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_never_negative_and_ends_never_wrap() {
        let [zero, one] = [Duration::ZERO, Duration::from_secs(1)];
        let later = BootTime::START + one;
        assert_eq!([later.since(BootTime::START), BootTime::START.since(later)], [one, zero]);
        assert_eq!(later.checked_add(Duration::MAX), None);
        assert!(later + Duration::MAX > later);
        assert!(BootTime::now() > BootTime::START);
    }

    #[test]
    fn the_wall_clock_is_for_showing() {
        let hour = Duration::from_secs(3_600);
        let past = BootTime::of_wall(SystemTime::now() - 100_000 * hour);
        assert!(past < BootTime::START, "more than eleven years ago");
        let age = past.wall().elapsed().unwrap();
        assert!(age >= 100_000 * hour && age < 100_001 * hour, "{age:?}");
        let ahead = BootTime::of_wall(SystemTime::now() + hour);
        assert!(ahead <= BootTime::now(), "a wall clock that was ahead says nothing");
        assert!((BootTime::now() + hour).wall() > SystemTime::now() + hour / 2);
    }
}
