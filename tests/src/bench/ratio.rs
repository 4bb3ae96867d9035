//! The ratios that the project promises, computed from a report's own figures.

use std::{collections::BTreeMap, fmt};

use super::{
    case::Case,
    family::Family,
    guard::Guard,
    report::{EndToEnd, Figure},
};

/// Sources of the ratios that speak of many.
const MANY: u64 = 1 << 24;

/// How much less than the other a flood may have been for two visitors to be compared.
const SAME_FLOOD: f64 = 0.9;

/// What a ratio must be.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Bound {
    /// Whether a ratio keeps to it.
    pub fn holds(self, ratio: f64) -> bool {
        match self {
            Self::AtMost(bound) => ratio <= bound,
            Self::AtLeast(bound) => ratio >= bound,
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

/// A ratio and what it must be.
pub struct Target {
    /// Its key in the report.
    pub key: &'static str,
    /// The promise.
    pub bound: Bound,
    compute: fn(&Parts<'_>) -> Option<f64>,
}

/// All of them. docs/bench.md says in words what each is.
pub const TARGETS: [Target; 7] = [
    Target {
        key: "growth_1_to_16m",
        bound: Bound::AtMost(3.0),
        compute: |parts| divide(parts.ns(Case::Default, MANY)?, parts.ns(Case::Default, 1)?),
    },
    Target {
        key: "vs_lru_hash_16m",
        bound: Bound::AtLeast(12.0),
        compute: |parts| divide(parts.ns(Case::LruReference, MANY)?, parts.ns(Case::SourceLimit, MANY)?),
    },
    Target {
        key: "vs_lpm_1m",
        bound: Bound::AtLeast(25.0),
        compute: |parts| {
            divide(parts.ns(Case::LPM_REFERENCE_1M, MANY)?, parts.ns(Case::BLOCK_LIST_1M, MANY)?)
        },
    },
    Target {
        key: "e2e_vs_xdp_drop_16m",
        bound: Bound::AtLeast(0.7),
        compute: |parts| divide(parts.mpps(Guard::Floodgate)?, parts.mpps(Guard::XdpDrop)?),
    },
    Target {
        key: "e2e_vs_nft_meter_16m",
        bound: Bound::AtLeast(8.0),
        compute: |parts| divide(parts.mpps(Guard::Floodgate)?, parts.mpps(Guard::NftMeter)?),
    },
    Target { key: "visitor_vs_xdp_drop", bound: Bound::AtLeast(0.9), compute: |parts| parts.visitor() },
    Target { key: "two_core_scaling", bound: Bound::AtLeast(1.7), compute: |parts| parts.scaling() },
];

/// The ratios of these figures. One whose parts did not run is left out.
pub fn ratios(cases: &[Figure], e2e: &[EndToEnd]) -> BTreeMap<&'static str, f64> {
    let parts = Parts { cases, e2e };
    TARGETS.iter().filter_map(|target| Some((target.key, (target.compute)(&parts)?))).collect()
}

struct Parts<'a> {
    cases: &'a [Figure],
    e2e: &'a [EndToEnd],
}

impl Parts<'_> {
    fn figure(&self, case: Case, sources: u64, cores: usize) -> Option<&Figure> {
        self.cases.iter().find(|figure| {
            figure.family == Family::Ipv4.label()
                && figure.case == case.label()
                && (figure.sources, figure.cores) == (sources, cores)
        })
    }

    /// Above the floor, one core.
    fn ns(&self, case: Case, sources: u64) -> Option<f64> {
        Some(self.figure(case, sources, 1)?.ns)
    }

    fn end_to_end(&self, guard: Guard) -> Option<&EndToEnd> {
        self.e2e.iter().find(|row| row.filter == guard.label() && row.sources == MANY)
    }

    fn mpps(&self, guard: Guard) -> Option<f64> {
        Some(self.end_to_end(guard)?.mpps)
    }

    fn visitor(&self) -> Option<f64> {
        let [floodgate, ideal] =
            [Guard::Floodgate, Guard::Ideal].map(|guard| self.end_to_end(guard)?.visitor.as_ref());
        let (floodgate, ideal) = (floodgate?, ideal?);
        let same = floodgate.flood_mpps >= SAME_FLOOD * ideal.flood_mpps;
        same.then(|| divide(floodgate.requests_per_second, ideal.requests_per_second))?
    }

    /// The lesser of the drop path of a limit with one source and that of the block list with many. The harness is
    /// part of both times, as the interface's driver would be.
    fn scaling(&self) -> Option<f64> {
        let scaling = |case, sources| {
            let whole_ns = |cores| {
                let Figure { ns, floor_ns, .. } = self.figure(case, sources, cores)?;
                Some(ns + floor_ns)
            };
            divide(2.0 * whole_ns(1)?, whole_ns(2)?)
        };
        Some(scaling(Case::Exceeding, 1)?.min(scaling(Case::Blocked, MANY)?))
    }
}

/// A ratio, unless noise has made one of its parts nothing or less.
fn divide(dividend: f64, divisor: f64) -> Option<f64> {
    (dividend > 0.0 && divisor > 0.0).then(|| dividend / divisor)
}
