//! A figure and how sure it is: the middle of its rounds, and how far these are apart.
//!
//! What is compared has its turn in every round, so two figures are compared round by round: whatever else the machine does
//! meets both.

use std::fmt;

use serde::Serialize;

use super::measure::quantile;

/// How often two figures that are the same may be told apart, as a share.
const LUCK: f64 = 1.0 / 16.0;

/// The rounds of a figure.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Spread {
    /// Median of the rounds.
    pub median: f64,
    /// Lower and upper quartile.
    pub quartiles: [f64; 2],
    /// What each round came to, in their order.
    #[serde(skip)]
    pub rounds: Vec<f64>,
}

impl Spread {
    /// Of these rounds.
    pub fn of(rounds: Vec<f64>) -> Self {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|share| quantile(rounds.clone(), share));
        Self { median, quartiles: [low, high], rounds }
    }

    /// Each round over the same round of another figure, unless noise has made one of the two nothing or less. A round that it
    /// has made so is left out.
    pub fn over(&self, divisor: &Self) -> Option<Self> {
        let is_there = self.median > 0.0 && divisor.median > 0.0;
        let pairs = self.pairs(divisor).filter(|(dividend, divisor)| *dividend > 0.0 && *divisor > 0.0);
        let ratios: Vec<f64> = pairs.map(|(dividend, divisor)| dividend / divisor).collect();
        (is_there && !ratios.is_empty()).then(|| Self::of(ratios))
    }

    /// By how much each round is above the same round of another figure.
    pub fn above(&self, other: &Self) -> Self {
        Self::of(self.pairs(other).map(|(one, other)| one - other).collect())
    }

    /// The sums of the rounds of both.
    pub fn and(&self, other: &Self) -> Self {
        Self::of(self.pairs(other).map(|(one, other)| one + other).collect())
    }

    /// Something of each round.
    pub fn map(&self, of_round: impl Fn(f64) -> f64) -> Self {
        Self::of(self.rounds.iter().map(|round| of_round(*round)).collect())
    }

    /// Whether the rounds tell the figure from a value: no more of them lie at it or on its other side than of as many coins show
    /// the rarer side once in sixteen times. Of five rounds none may, of nine one.
    pub fn is_told_from(&self, value: f64) -> bool {
        let below = self.rounds.iter().filter(|round| **round <= value).count();
        let above = self.rounds.iter().filter(|round| **round >= value).count();
        let all = self.rounds.len();
        // Of the ways in which coins can fall those with one head, two, and so on.
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
