//! The ratios and differences that the project promises, computed from the figures of a report, round by round.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    VectorRow,
    case::{Case, Reach},
    family::Family,
    guard::Guard,
    report::{EndToEnd, Figure},
    spread::Spread,
};

/// Number of sources for the ratios with many sources.
const MANY: u64 = 1 << 24;

/// Two visitors are comparable if one flood was at least this share of the other.
const SAME_FLOOD: f64 = 0.9;

/// The bound for a figure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Bound {
    /// Whether a figure satisfies it.
    pub fn holds(self, figure: f64) -> bool {
        match self {
            Self::AtMost(bound) => figure <= bound,
            Self::AtLeast(bound) => figure >= bound,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "at most {bound}"),
            Self::AtLeast(bound) => write!(f, "at least {bound}"),
        }
    }
}

/// Unit of a promise: how many times another figure, or how many nanoseconds more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// A ratio.
    Times,
    /// A difference, nanoseconds.
    Nanoseconds,
}

impl Unit {
    /// Value for two equal figures.
    fn same(self) -> f64 {
        match self {
            Self::Times => 1.0,
            Self::Nanoseconds => 0.0,
        }
    }
}

/// A ratio or difference, and its bound.
pub struct Target {
    /// Its key in the report.
    pub key: &'static str,
    /// The bound.
    pub bound: Bound,
    /// What it is.
    pub unit: Unit,
    compute: fn(&Parts<'_>) -> Option<Spread>,
}

/// A ratio or difference of two figures of a run.
#[derive(Serialize, Clone, PartialEq, Debug)]
pub struct Ratio {
    /// Median of the rounds; nothing if they do not [distinguish](Spread::is_told_from) it from the value for two
    /// equal figures.
    pub value: Option<f64>,
    /// Lower and upper quartile of the rounds.
    pub quartiles: [f64; 2],
    /// Whether the promise is kept. If no difference can be distinguished, both the value for equal figures and the
    /// median must satisfy the bound.
    pub reached: bool,
}

impl Ratio {
    /// Evaluates the rounds against a promise.
    pub fn of(spread: &Spread, unit: Unit, bound: Bound) -> Self {
        let value = spread.is_told_from(unit.same()).then_some(spread.median);
        // Noise does not keep a promise: the median has to satisfy the bound, too.
        let reached = bound.holds(value.unwrap_or(unit.same())) && bound.holds(spread.median);
        Self { value, quartiles: spread.quartiles, reached }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, quartiles: [low, high], .. } = self;
        match value {
            Some(value) => write!(f, "{value:.2} ({low:.2} to {high:.2})"),
            None => write!(f, "no difference told ({low:.2} to {high:.2})"),
        }
    }
}

/// All targets. docs/bench.md explains each in words.
pub const TARGETS: [Target; 15] = [
    times("core_vs_xdp_drop_16m", Bound::AtLeast(0.8), |parts| parts.capacity_over(Guard::XdpDrop)),
    times("core_vs_nft_meter_16m", Bound::AtLeast(10.0), |parts| parts.capacity_over(Guard::NftMeter)),
    times("core_vs_xdp_filter_16m", Bound::AtLeast(1.3), |parts| parts.capacity_over(Guard::XdpFilter)),
    ns("default_16m", Bound::AtMost(30.0), |parts| parts.above_floor(Case::Default)),
    times("vs_lru_hash_16m", Bound::AtLeast(20.0), |parts| {
        parts.above_floor(Case::LruReference)?.over(&parts.above_floor(Case::SourceLimit)?)
    }),
    times("vs_lpm_1m", Bound::AtLeast(25.0), |parts| {
        parts.above_floor(Case::LPM_REFERENCE_1M)?.over(&parts.above_floor(Case::BLOCK_LIST_1M)?)
    }),
    times("growth_1_to_16m", Bound::AtMost(1.3), |parts| {
        parts.above_floor(Case::Default)?.over(&parts.figure(Case::Default, Family::Ipv4, 1, 1)?.ns)
    }),
    ns("blocked_16m", Bound::AtMost(30.0), |parts| parts.above_floor(Case::Blocked)),
    ns("block_list_1k_16m", Bound::AtMost(35.0), |parts| parts.above_floor(Case::BLOCK_LIST_1K)),
    ns("block_list_1m_16m", Bound::AtMost(70.0), |parts| parts.above_floor(Case::BLOCK_LIST_1M)),
    ns("ipv6_block_list_100k_16m", Bound::AtMost(80.0), |parts| parts.ipv6(Case::BLOCK_LIST_100K)),
    ns("ipv6_every_length_16m", Bound::AtMost(150.0), |parts| parts.ipv6(Case::EveryLength(Reach::Within))),
    ns("syn_answered_ns", Bound::AtMost(250.0), |parts| {
        let row = parts.vectors.iter().find(|row| row.vector == "SYN")?;
        Some(row.cpu_ns.as_ref()?.above(row.ideal_cpu_ns.as_ref()?))
    }),
    times("visitor_vs_ideal", Bound::AtLeast(0.95), visitor),
    times("two_core_scaling", Bound::AtLeast(1.9), scaling),
];

const fn times(key: &'static str, bound: Bound, compute: fn(&Parts<'_>) -> Option<Spread>) -> Target {
    Target { key, bound, unit: Unit::Times, compute }
}

const fn ns(key: &'static str, bound: Bound, compute: fn(&Parts<'_>) -> Option<Spread>) -> Target {
    Target { key, bound, unit: Unit::Nanoseconds, compute }
}

/// The figures that the ratios are computed from.
#[derive(Clone, Copy)]
pub(super) struct Parts<'a> {
    pub(super) cases: &'a [Figure],
    pub(super) e2e: &'a [EndToEnd],
    pub(super) vectors: &'a [VectorRow],
}

impl Parts<'_> {
    /// Computes the ratios of these figures. Ratios whose parts did not run are left out.
    pub(super) fn ratios(&self) -> BTreeMap<&'static str, Ratio> {
        let ratio = |Target { key, bound, unit, compute }: &Target| {
            Some((*key, Ratio::of(&compute(self)?, *unit, *bound)))
        };
        TARGETS.iter().filter_map(ratio).collect()
    }

    pub(super) fn figure(&self, case: Case, family: Family, sources: u64, cores: usize) -> Option<&Figure> {
        self.cases.iter().find(|figure| {
            figure.family == family.label()
                && figure.case == case.label()
                && (figure.sources, figure.cores) == (sources, cores)
        })
    }

    /// Nanoseconds above the floor, on one core, with many sources over IPv4.
    fn above_floor(&self, case: Case) -> Option<Spread> {
        Some(self.figure(case, Family::Ipv4, MANY, 1)?.ns.clone())
    }

    fn ipv6(&self, case: Case) -> Option<Spread> {
        Some(self.figure(case, Family::Ipv6, MANY, 1)?.ns.clone())
    }

    /// Time per packet of the receiving core.
    pub(super) fn core_ns(&self, guard: Guard, sources: u64) -> Option<&Spread> {
        let mut rows = self.e2e.iter();
        let row = rows.find(|row| row.filter == guard.label() && row.sources == sources)?;
        Some(&row.core.as_ref()?.ns)
    }

    /// Capacity of one core behind Floodgate, divided by its capacity behind another filter.
    fn capacity_over(&self, guard: Guard) -> Option<Spread> {
        self.core_ns(guard, MANY)?.over(self.core_ns(Guard::Floodgate, MANY)?)
    }

    /// Packets a second of two cores, divided by those of one.
    pub(super) fn scaling_of(&self, case: Case, sources: u64) -> Option<Spread> {
        let [one, two] = [1, 2].map(|cores| self.whole_ns(case, sources, cores));
        Some(one?.over(&two?)?.map(|ratio| 2.0 * ratio))
    }

    /// Time per packet over IPv4, harness included, on this many cores.
    pub(super) fn whole_ns(&self, case: Case, sources: u64, cores: usize) -> Option<Spread> {
        let Figure { ns, floor_ns, .. } = self.figure(case, Family::Ipv4, sources, cores)?;
        Some(ns.and(floor_ns))
    }
}

/// Pages behind Floodgate, divided by those behind an ideal filter, over all rounds of all floods.
fn visitor(parts: &Parts<'_>) -> Option<Spread> {
    let flooded = parts.vectors.iter().filter(|row| row.flood_mpps > 0.0);
    let same = flooded.filter(|row| row.flood_mpps >= SAME_FLOOD * row.ideal_flood_mpps);
    let ratios = same.filter_map(|row| row.requests_per_second.over(&row.ideal_requests_per_second));
    let ratios: Vec<f64> = ratios.flat_map(|ratio| ratio.rounds).collect();
    (!ratios.is_empty()).then(|| Spread::of(ratios))
}

/// The lesser scaling factor of two paths: a limit's drop path with one source, and the block list with many. The
/// harness is part of both times, as the interface's driver would be.
fn scaling(parts: &Parts<'_>) -> Option<Spread> {
    let [one, other] = [parts.scaling_of(Case::Exceeding, 1)?, parts.scaling_of(Case::Blocked, MANY)?];
    Some(if one.median <= other.median { one } else { other })
}
