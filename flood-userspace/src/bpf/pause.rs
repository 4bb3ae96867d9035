//! Attaching again what another tool takes off: not for ever, and not at once each time.

use std::time::{Duration, Instant};

/// A program that stays for so long has been left alone.
const STABLE: Duration = Duration::from_secs(60);

/// The longest time until a program is attached again that comes off each time, or cannot be attached.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When a program may be attached again that another tool takes off.
#[derive(Debug, Default)]
pub struct Pause {
    /// Since when it is on.
    since: Option<Instant>,
    /// How often in a row it did not stay.
    failures: u32,
    until: Option<Instant>,
}

impl Pause {
    /// It is on.
    pub fn attached(&mut self, now: Instant) {
        self.since = Some(now);
        self.until = None;
    }

    /// It has come off, or could not be attached: at once the first time, then with pauses that grow.
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

    /// Whether it has come off before.
    pub fn has_come_off(&self) -> bool {
        self.failures > 0
    }

    /// Whether it may be attached.
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
