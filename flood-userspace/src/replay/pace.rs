//! The clock of a replay, derived from the times in a capture.
//!
//! Times in captures cannot be trusted: one frame may be an hour ahead, a clock may be set back, several queues may
//! be merged slightly out of order, or each may have a clock of its own. None of this may stop the clock for the
//! frames that follow, or let it run away. So time passes only between frames with the same clock, not between two
//! clocks.

use crate::quantity::PacketRate;

/// Frames that are older than the latest before them by at most this are out of order, nanoseconds. Older ones are
/// from a clock that was set back.
const OUT_OF_ORDER_NS: u64 = 1_000_000_000;

/// The longest time that passes between two frames, nanoseconds: longer than any debt can last.
pub(super) const PAUSE_NS: u64 = 600_000_000_000;

/// How many clocks a capture may have at once, and so how often a clock may be set back by much: after that no time
/// passes.
const MAX_CLOCKS: usize = 16;

/// How many frames with odd times are remembered.
const MAX_ODD: usize = 1 << 20;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How fast a capture is replayed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Pace {
    /// By its own times, this many times as fast.
    Times(f64),
    /// This many judged packets a second, whatever their times.
    Rate(PacketRate),
}

impl Default for Pace {
    fn default() -> Self {
        Self::Times(1.0)
    }
}

/// Frames whose times do not fit those of the frames around them.
#[derive(Clone, Default, Debug)]
pub struct OddTimes {
    /// Their numbers, ascending, as far as there is room.
    alone: Vec<u64>,
    /// How many there are, including those at which the clock was set back.
    count: u64,
    /// Number and time of the last two frames, the older one first.
    last: [Option<(u64, u64)>; 2],
}

impl OddTimes {
    /// Examines the next frame of a capture.
    pub(super) fn see(&mut self, number: u64, time_ns: u64) {
        let [before, at] = self.last;
        self.last = [at, Some((number, time_ns))];
        let Some((at, at_ns)) = at else { return };
        let is_back = time_ns.saturating_add(OUT_OF_ORDER_NS) < at_ns;
        let Some((_, before_ns)) = before else {
            self.count += u64::from(is_back);
            return;
        };
        let fits = |ns: u64| ns.saturating_add(OUT_OF_ORDER_NS) >= before_ns;
        let alone_ahead = is_back && fits(time_ns);
        let alone_behind = !fits(at_ns) && fits(time_ns);
        if alone_ahead || alone_behind {
            if self.alone.len() < MAX_ODD {
                self.alone.push(at);
            }
            // Ignores the odd frame.
            self.last = [before, Some((number, time_ns))];
            self.count += u64::from(alone_ahead); // the step back to a frame that is behind has been counted already
        } else {
            self.count += u64::from(is_back);
        }
    }

    /// Returns how many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    fn is_alone(&self, number: u64) -> bool {
        self.alone.binary_search(&number).is_ok()
    }
}

/// One of the clocks from which frames have their times.
struct Recorder {
    /// Its latest time, nanoseconds since 1970.
    latest_ns: u64,
    /// How much of the capture had passed at that time, nanoseconds.
    passed_ns: u64,
}

/// The clock of a capture.
#[derive(Default)]
pub(super) struct CaptureClock {
    pace: Pace,
    odd: OddTimes,
    /// The clock of the last frame, then the others.
    recorders: Vec<Recorder>,
    /// How much has passed by the capture's times, nanoseconds.
    passed_ns: u64,
    /// Number of frames that were judged.
    judged: u64,
}

impl CaptureClock {
    pub(super) fn new(pace: Pace, odd: OddTimes) -> Self {
        Self { pace, odd, ..Self::default() }
    }

    /// Whether a frame can be judged by rates: it has a time, or the pace gives it one.
    pub(super) fn says(&self, time_ns: Option<u64>) -> bool {
        time_ns.is_some() || matches!(self.pace, Pace::Rate(_))
    }

    /// Advances to a frame. Returns the nanoseconds since the capture began.
    pub(super) fn go_on(&mut self, number: u64, time_ns: Option<u64>) -> u64 {
        if let Some(time_ns) = time_ns.filter(|_| !self.odd.is_alone(number)) {
            self.see(time_ns);
        }
        match self.pace {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_precision_loss,
                clippy::cast_sign_loss,
                reason = "a time that is not negative, to within what a packet takes"
            )]
            Pace::Times(factor) => (self.passed_ns as f64 / factor) as u64,
            Pace::Rate(PacketRate(rate)) => {
                let ns = u128::from(self.judged) * u128::from(NANOS_PER_SECOND) / u128::from(rate.max(1));
                u64::try_from(ns).unwrap_or(u64::MAX)
            }
        }
    }

    /// Finds the clock from which a time is, and advances by what has passed on it.
    fn see(&mut self, time_ns: u64) {
        let is_after = |recorder: &Recorder| time_ns.saturating_add(OUT_OF_ORDER_NS) >= recorder.latest_ns;
        let is_near = |recorder: &Recorder| {
            is_after(recorder) && time_ns <= recorder.latest_ns.saturating_add(OUT_OF_ORDER_NS)
        };
        if !self.recorders.first().is_some_and(is_near) {
            // Among the clocks that the time may be from, the one on which the least time has passed since.
            let after = self.recorders.iter().enumerate().filter(|(_, recorder)| is_after(recorder));
            match after.max_by_key(|(_, recorder)| recorder.latest_ns).map(|(place, _)| place) {
                Some(place) => self.recorders.swap(0, place),
                None if self.recorders.len() < MAX_CLOCKS => {
                    self.recorders.insert(0, Recorder { latest_ns: time_ns, passed_ns: self.passed_ns });
                }
                None => return,
            }
        }
        let recorder = &mut self.recorders[0];
        let before_ns = recorder.latest_ns;
        let step_ns = time_ns.saturating_sub(before_ns);
        self.passed_ns = self.passed_ns.max(recorder.passed_ns.saturating_add(step_ns.min(PAUSE_NS)));
        *recorder = Recorder { latest_ns: before_ns.max(time_ns), passed_ns: self.passed_ns };
        // A clock that this one catches up with can no longer be told from it.
        let reached_ns = before_ns..before_ns.saturating_add(step_ns);
        if step_ns <= OUT_OF_ORDER_NS {
            self.recorders.retain(|recorder| !reached_ns.contains(&recorder.latest_ns));
        }
    }

    /// Counts a judged frame.
    pub(super) fn count(&mut self) {
        self.judged += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;

    /// Returns the number of odd frames, and the clock at each frame, in tenths of a second.
    fn play(pace: Pace, tenths: &[u64]) -> (u64, Vec<u64>) {
        let times = || (1..).zip(tenths.iter().map(|tenth| 1_700_000_000 * S + tenth * S / 10));
        let mut odd = OddTimes::default();
        times().for_each(|(number, time_ns)| odd.see(number, time_ns));
        let count = odd.count();
        let mut clock = CaptureClock::new(pace, odd);
        let passed = times().map(|(number, time_ns)| {
            let now_ns = clock.go_on(number, Some(time_ns));
            clock.count();
            now_ns / (S / 10)
        });
        (count, passed.collect())
    }

    #[test]
    fn no_frame_stops_the_clock_or_makes_it_run_away() {
        let year = 365 * 86_400 * 10;
        let cases: [(&str, &[u64], u64, &[u64]); 14] = [
            (
                "two ahead, time and again",
                &[0, 1, 36_002, 36_003, 4, 5, 36_006, 36_007, 8, 9],
                2,
                &[0, 1, 6_001, 6_002, 6_002, 6_003, 6_005, 6_006, 6_006, 6_007],
            ),
            (
                "two clocks in turn",
                &[0, 1, 52, 53, 2, 3, 54, 55, 4, 5],
                2,
                &[0, 1, 52, 53, 53, 54, 54, 55, 55, 56],
            ),
            (
                "two without a time, time and again",
                &[year, year + 1, 0, 0, year + 2, year + 3, 0, 0, year + 4],
                2,
                &[0, 1, 1, 1, 2, 3, 3, 3, 4],
            ),
            (
                "set back, and on over where it was",
                &[90, 92, 60, 70, 80, 90, 100, 110],
                1,
                &[0, 2, 2, 12, 22, 32, 42, 52],
            ),
            ("as it should be", &[0, 1, 2, 30, 31], 0, &[0, 1, 2, 30, 31]),
            ("one ahead", &[0, 1, 36_000, 3, 4], 1, &[0, 1, 1, 3, 4]),
            ("one a year ahead", &[0, 1, year, 3, 4], 1, &[0, 1, 1, 3, 4]),
            ("each other one ahead", &[0, 90, 2, 93, 4], 2, &[0, 0, 2, 2, 4]),
            ("one behind", &[50_000, 50_001, 0, 50_003], 1, &[0, 1, 1, 3]),
            ("the first ahead", &[36_000, 1, 2, 3], 1, &[0, 0, 1, 2]),
            ("set back", &[50_000, 50_001, 2, 3, 4], 1, &[0, 1, 1, 2, 3]),
            ("two ahead", &[0, 1, 50, 51, 4, 5], 1, &[0, 1, 50, 51, 51, 52]),
            ("a little out of order", &[0, 3, 1, 4, 2, 5], 0, &[0, 3, 3, 4, 4, 5]),
            ("a long pause", &[0, year, year + 1], 0, &[0, 6_000, 6_001]),
        ];
        for (why, tenths, odd, passed) in cases {
            assert_eq!(play(Pace::default(), tenths), (odd, passed.to_vec()), "{why}");
        }
    }

    #[test]
    fn a_capture_is_played_faster_or_at_a_rate() {
        assert_eq!(play(Pace::Times(10.0), &[0, 50, 100]).1, [0, 5, 10]);
        assert_eq!(play(Pace::Times(0.5), &[0, 5, 10]).1, [0, 10, 20]);
        assert_eq!(play(Pace::Rate(PacketRate(5)), &[0, 0, 90, 1]).1, [0, 2, 4, 6]);
    }
}
