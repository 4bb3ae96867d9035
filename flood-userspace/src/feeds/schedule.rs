//! When a feed is read next.

use std::time::Duration;

/// Delay after the first failure; each further failure doubles it.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Chance may shorten a delay by one part in this many.
const CHANCE: u32 = 10;

/// Returns the time until a feed is read again. `failures` is the number of failures in a row, and `chance` any
/// number: it makes the time up to a tenth shorter, so that hosts that were started together do not send requests
/// together.
pub fn delay(every: Duration, failures: u32, chance: u32) -> Duration {
    let whole = match failures {
        0 => every,
        _ => FIRST_RETRY.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(every),
    };
    whole - (whole / CHANCE).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_tried_again_soon_and_then_less_and_less_often() {
        let hour = Duration::from_secs(3_600);
        let minutes = |failures| delay(hour, failures, 0).as_secs() / 60;
        assert_eq!(
            [0, 1, 2, 3, 6, 7, 8, 33, 40, u32::MAX].map(minutes),
            [60, 1, 2, 4, 32, 60, 60, 60, 60, 60]
        );
        let often = Duration::from_secs(60);
        assert_eq!([0, 1, 5].map(|failures| delay(often, failures, 0)), [often; 3]);
    }

    #[test]
    fn chance_takes_a_tenth_at_most() {
        let every = Duration::from_secs(100);
        let seconds = [0, u32::MAX / 2, u32::MAX].map(|chance| delay(every, 0, chance).as_secs_f64().round());
        assert_eq!(seconds, [100.0, 95.0, 90.0]);
    }
}
