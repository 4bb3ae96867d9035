//! Limits how often a program that another tool detaches is attached again.

use std::time::{Duration, Instant};

/// A program that stays attached for this long has been left alone.
const STABLE: Duration = Duration::from_secs(60);

/// The longest delay before a program is attached again that is detached each time, or cannot be attached.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When a program that another tool detaches may be attached again.
#[derive(Debug, Default)]
pub struct Pause {
    /// Since when it has been attached.
    since: Option<Instant>,
    /// How many times in a row it did not stay.
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// Records that it is attached.
    pub fn attached(&mut self, now: Instant) {
        self.since = Some(now);
        self.until = None;
    }

    /// Records that it was detached, or could not be attached. It may be attached again at once the first time, then
    /// with growing delays.
    pub fn failed(&mut self, now: Instant) {
        if self.since.take().is_some_and(|since| now.saturating_duration_since(since) >= STABLE) {
            self.failures = 0;
        }
        let pause = match self.failures {
            0 => Duration::ZERO,
            failures => Duration::from_secs(1 << (failures - 1).min(10)).min(LONGEST_PAUSE),
        };
        self.failures = self.failures.saturating_add(1);
        self.until = Some(now + pause);
    }

    /// Whether it has been detached before.
    pub fn has_come_off(&self) -> bool {
        self.failures > 0
    }

    /// Whether it may be attached now.
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_stay_is_attached_again_less_and_less_often() {
        let (mut pause, mut now) = (Pause::default(), Instant::now());
        let mut pauses = Vec::new();
        for _ in 0..9 {
            pause.attached(now);
            pause.failed(now);
            pauses.push(pause.until.map(|until| (until - now).as_secs()));
            now += LONGEST_PAUSE;
            assert!(pause.is_over(now));
        }
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 32, 60, 60].map(Some));
        pause.attached(now);
        pause.failed(now + STABLE);
        assert!(pause.is_over(now + STABLE), "it had stayed for long");
    }
}
