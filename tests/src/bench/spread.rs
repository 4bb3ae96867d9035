//! A figure and its uncertainty: the median of its rounds, and their spread.
//!
//! What is compared has its turn in every round, and figures are compared round by round, so that other load on the
//! machine affects both.

use std::fmt;

use serde::Serialize;

use super::measure::quantile;

/// Share of cases in which two equal figures may be distinguished by chance.
const LUCK: f64 = 1.0 / 16.0;

/// The rounds of a figure.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Spread {
    /// Median of the rounds.
    pub median: f64,
    /// Lower and upper quartile.
    pub quartiles: [f64; 2],
    /// The result of each round, in order.
    #[serde(skip)]
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Summarizes these rounds.
    pub fn of(rounds: Vec<f64>) -> Self {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(rounds.clone(), share));
        Self { median, quartiles: [low, high], rounds }
    }

    /// Divides each round by the same round of another figure. Returns nothing if noise has made one of the two
    /// figures zero or less, and leaves out rounds where it has.
    pub fn over(&self, divisor: &Self) -> Option<Self> {
        let is_there = self.median > 0.0 && divisor.median > 0.0;
        let pairs = self.pairs(divisor).filter(|(dividend, divisor)| *dividend > 0.0 && *divisor > 0.0);
        let ratios: Vec<f64> = pairs.map(|(dividend, divisor)| dividend / divisor).collect();
        (is_there && !ratios.is_empty()).then(|| Self::of(ratios))
    }

    /// Subtracts from each round the same round of another figure.
    pub fn above(&self, other: &Self) -> Self {
        Self::of(self.pairs(other).map(|(one, other)| one - other).collect())
    }

    /// Adds the rounds of both.
    pub fn and(&self, other: &Self) -> Self {
        Self::of(self.pairs(other).map(|(one, other)| one + other).collect())
    }

    /// Applies a function to each round.
    pub fn map(&self, of_round: impl Fn(f64) -> f64) -> Self {
        Self::of(self.rounds.iter().map(|round| of_round(*round)).collect())
    }

    /// Whether the rounds distinguish the figure from a value (sign test): the number of rounds at the value or on
    /// its other side is no more than a rarer side that as many coins show once in sixteen times. Of five rounds none
    /// may be there, of nine one.
    pub fn is_told_from(&self, value: f64) -> bool {
        let below = self.rounds.iter().filter(|round| **round <= value).count();
        let above = self.rounds.iter().filter(|round| **round >= value).count();
        let all = self.rounds.len();
        // The number of ways in which coins can fall with one head, two, and so on.
        let (mut chance, mut ways) = (0.0, 0.5f64.powi(all as i32));
        for heads in 0..=below.min(above) {
            chance += ways;
            ways *= all.saturating_sub(heads) as f64 / (heads + 1) as f64;
        }
        2.0 * chance <= LUCK
    }

    fn pairs<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (f64, f64)> + 'a {
        self.rounds.iter().copied().zip(other.rounds.iter().copied())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, quartiles: [low, high], .. } = self;
        let digits = f.precision().unwrap_or(1);
        let text = format!("{median:.digits$} ({low:.digits$} to {high:.digits$})");
        write!(f, "{text:>width$}", width = f.width().unwrap_or(0))
    }
}
