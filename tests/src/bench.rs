//! What a packet costs in the filter and in what people would use instead, side by side in one run.
//!
//! *Cases* are test runs of one frame. The `harness` program writes a random source into it and calls the program
//! under test, so that one run exercises up to 16 million sources. The same harness calling a bare `XDP_DROP` is the
//! floor; a figure is the median, over rounds, of program minus the floor *just before it*, in thread CPU time. On a
//! noisy machine only such differences and their ratios mean anything.
//!
//! *End to end* ([`e2e`]) is a flood on a virtual interface. docs/bench.md says how to read all of it.
//!
//! Invariant: a figure counts only if the packets came to what its case says.

use std::{fmt::Display, thread, time::Duration};

use anyhow::{Result, bail};

pub(crate) use self::measure::pin;
pub use self::{
    case::Case,
    e2e::Guard,
    family::Family,
    measure::quantile,
    ratio::{Bound, TARGETS, ratios},
    report::{EndToEnd, Figure, Report, Visitor},
    vectors::VectorRow,
};
use self::{
    case::Subject,
    measure::{quartiles, runs_within},
};

mod block_list;
mod case;
pub mod e2e;
mod family;
mod measure;
pub mod plot;
mod ratio;
mod reference;
mod report;
mod vectors;

/// The word on the command line for the end-to-end part.
const END_TO_END: &str = "e2e";

/// The word for floods of each kind.
const VECTORS: &str = "vectors";

/// Runs before the first slice, so that caches fill up.
const WARM_UP_RUNS: u64 = 100_000;

/// Where sources are remembered: runs for each of them, so that nearly all have been seen (all but e^-4), and the
/// most runs, which fill the largest table, of a million entries.
const WARM_UP_RUNS_FOR_A_SOURCE: u64 = 4;
const MOST_WARM_UP_RUNS: u64 = 2_000_000;

/// Runs before each slice that do not count: caches that other cases have emptied fill again, and a source uses up
/// what it has regained of its burst, 40,000 packets at most by default.
const RUNS_BEFORE_A_SLICE: u32 = 50_000;

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// The families that are measured when none is named.
    pub families: &'static [Family],
    /// Slices of each case; odd, for the median.
    pub rounds: usize,
    /// How long a slice takes.
    pub slice: Duration,
    /// Numbers of sources, ascending, for the cases.
    pub sources: &'static [u64],
    /// Floods on each filter for the throughput; odd, for the median.
    pub floods: usize,
    /// How long each lasts.
    pub flood: Duration,
    /// Visits in each filter; odd, for the median.
    pub visits: usize,
    /// How long each lasts.
    pub visit: Duration,
}

impl Effort {
    /// One to two minutes.
    pub const QUICK: Self = Self {
        families: &[Family::Ipv4],
        rounds: 5,
        slice: Duration::from_millis(8),
        sources: &[1, 1 << 24],
        floods: 3,
        flood: Duration::from_millis(150),
        visits: 1,
        visit: Duration::from_millis(500),
    };

    /// Under ten minutes.
    pub const FULL: Self = Self {
        families: &Family::ALL,
        rounds: 7,
        slice: Duration::from_millis(15),
        sources: &[1, 1 << 16, 1 << 20, 1 << 24],
        floods: 7,
        flood: Duration::from_millis(500),
        visits: 5,
        visit: Duration::from_secs(1),
    };
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    cases: Vec<Case>,
    /// None named: those of the [`Effort`].
    families: Vec<Family>,
    end_to_end: bool,
    vectors: bool,
}

impl Selection {
    /// Everything, or only the cases and families that are named; `e2e` names the end-to-end part, which goes
    /// without cases when it stands alone.
    pub fn parse(words: &[String]) -> Result<Self> {
        let named = |label: &str| words.iter().any(|word| word == label);
        let cases: Vec<Case> = Case::ALL.into_iter().filter(|case| named(case.label())).collect();
        let families: Vec<Family> = Family::ALL.into_iter().filter(|family| named(family.label())).collect();
        let known = |word: &str| {
            [END_TO_END, VECTORS].contains(&word)
                || Case::ALL.iter().any(|case| case.label() == word)
                || Family::ALL.iter().any(|family| family.label() == word)
        };
        if let Some(word) = words.iter().find(|word| !known(word)) {
            bail!(
                "{word} is neither a case ({}) nor a family ({}) nor {END_TO_END} nor {VECTORS}",
                Case::ALL.map(Case::label).join(", "),
                Family::ALL.map(Family::label).join(", ")
            );
        }
        let end_to_end = words.is_empty() || named(END_TO_END);
        let vectors = words.is_empty() || named(VECTORS);
        let no_cases = (named(END_TO_END) || named(VECTORS)) && cases.is_empty() && families.is_empty();
        let all_if_none = |cases: Vec<Case>| if cases.is_empty() { Case::ALL.to_vec() } else { cases };
        Ok(Self {
            cases: if no_cases { Vec::new() } else { all_if_none(cases) },
            families,
            end_to_end,
            vectors,
        })
    }
}

/// Measures what is selected. `progress` is told each figure as it is there, and ends the run with an error.
pub fn run(
    effort: Effort,
    selection: &Selection,
    mut progress: impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Report> {
    let mut figures = Vec::new();
    let families = if selection.families.is_empty() { effort.families } else { &selection.families };
    for &family in families {
        figures.extend(measure_family(effort, family, &selection.cases, &mut progress)?);
    }
    let rows = if selection.end_to_end { e2e::measure(effort, &mut progress)? } else { Vec::new() };
    let vectors = if selection.vectors { vectors::measure(effort, &mut progress)? } else { Vec::new() };
    Report::new(figures, rows, vectors)
}

fn measure_family(
    effort: Effort,
    family: Family,
    cases: &[Case],
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<Figure>> {
    let cases = cases.iter().filter(|case| case.exists_in(family));
    let mut subjects = cases.map(|&case| Subject::new(case, family)).collect::<Result<Vec<_>>>()?;
    let mut floor = Subject::new(Case::Floor, family)?;
    let mut figures = Vec::new();
    for &sources in effort.sources {
        if subjects.is_empty() {
            break;
        }
        for figure in measure(effort, family, sources, &mut floor, &mut subjects)? {
            progress(&figure)?;
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// What was measured of one case on so many cores.
#[derive(Default)]
struct Rounds {
    floors: Vec<f64>,
    differences: Vec<f64>,
}

/// Measures the cases with one set of sources, round by round, each slice just after one of the floor.
fn measure(
    effort: Effort,
    family: Family,
    sources: u64,
    floor: &mut Subject,
    subjects: &mut [Subject],
) -> Result<Vec<Figure>> {
    let most_cores = thread::available_parallelism()?.get().min(2);
    let begin = |subject: &mut Subject| -> Result<u32> {
        subject.set_sources(family, sources)?;
        let for_sources =
            if subject.case.remembers_sources() { sources * WARM_UP_RUNS_FOR_A_SOURCE } else { 0 };
        let runs = for_sources.clamp(WARM_UP_RUNS, MOST_WARM_UP_RUNS) / most_cores as u64;
        let ns = subject.warm_up(most_cores, runs as u32)?;
        Ok(runs_within(effort.slice, ns))
    };
    let floor_runs = begin(floor)?;
    let mut measured = Vec::new();
    for subject in &mut *subjects {
        let rounds: Vec<Rounds> = (0..most_cores).map(|_| Rounds::default()).collect();
        measured.push((begin(subject)?, rounds));
    }
    for _ in 0..effort.rounds {
        for (subject, (runs, rounds)) in subjects.iter_mut().zip(&mut measured) {
            for (cores, Rounds { floors, differences }) in (1..).zip(rounds) {
                subject.warm_up(cores, RUNS_BEFORE_A_SLICE)?;
                let floor_ns = floor.slice(cores, floor_runs)?;
                floors.push(floor_ns);
                differences.push(subject.slice(cores, *runs)? - floor_ns);
            }
        }
    }
    let mut figures = Vec::new();
    for (subject, (_, rounds)) in subjects.iter_mut().zip(measured) {
        subject.warm_up(1, RUNS_BEFORE_A_SLICE)?;
        subject.check()?;
        for (cores, Rounds { floors, differences }) in (1..).zip(rounds) {
            let [low, ns, high] = quartiles(&differences);
            let [_, floor_ns, _] = quartiles(&floors);
            figures.push(Figure {
                case: subject.case.label(),
                family: family.label(),
                sources,
                cores,
                ns,
                floor_ns,
                ns_quartiles: [low, high],
            });
        }
    }
    Ok(figures)
}
