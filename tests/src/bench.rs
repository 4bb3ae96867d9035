//! What a packet costs in the filter and in what people would use instead, side by side in one run.
//!
//! *Cases* are test runs of one frame. The `harness` program writes a random source into it and calls the program
//! under test, so that one run exercises up to 16 million sources. The same harness calling a bare `XDP_DROP` is the
//! floor; a figure is the median, over rounds, of program minus the floor *just before it*, in thread CPU time. On a
//! noisy machine only such differences and their ratios mean anything.
//!
//! *End to end* ([`e2e`]) is a flood on a virtual interface; [`Part`] names what else there is. docs/bench.md says
//! how to read all of it.
//!
//! Invariant: a figure counts only if the packets came to what its case says.

use std::{fmt::Display, thread, time::Duration};

use anyhow::{Result, bail};

pub use self::{
    case::Case,
    family::Family,
    guard::Guard,
    hosts::{HostCell, HostRow},
    lists::ListRow,
    measure::quantile,
    ratio::{Bound, TARGETS, ratios},
    report::{EndToEnd, Figure, Report, Visitor},
    tool::TOOLS,
    vectors::VectorRow,
};
use self::{
    case::Subject,
    measure::{quartiles, runs_within},
};

mod attack;
mod block_list;
mod case;
mod e2e;
mod family;
mod guard;
mod host;
mod hosts;
mod lists;
mod measure;
pub mod plot;
mod profile;
mod ratio;
mod reference;
mod report;
mod site;
mod tool;
mod vector;
mod vectors;

/// What is measured besides the cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// A flood and a visitor, with each filter in turn.
    EndToEnd,
    /// Floods of each kind.
    Vectors,
    /// How long it takes to change long lists.
    Lists,
    /// Floods of each kind at a host with services and clients.
    Hosts,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::EndToEnd, Self::Vectors, Self::Lists, Self::Hosts];

    /// The word for it on the command line.
    pub fn label(self) -> &'static str {
        match self {
            Self::EndToEnd => "e2e",
            Self::Vectors => "vectors",
            Self::Lists => "lists",
            Self::Hosts => "hosts",
        }
    }
}

/// Runs before the first slice, so that caches fill up.
const WARM_UP_RUNS: u64 = 100_000;

/// Where sources are remembered: runs for each of them, so that nearly all have been seen (all but e^-4), and the
/// most runs, which fill the largest table, of a million entries.
const WARM_UP_RUNS_FOR_A_SOURCE: u64 = 4;
const MOST_WARM_UP_RUNS: u64 = 2_000_000;

/// Runs before each slice that do not count: caches that other cases have emptied fill again, with a table of some
/// megabytes where there are many sources, and a source uses up what it has regained of its burst, 40,000 packets at most
/// by default.
fn runs_before_a_slice(sources: u64) -> u32 {
    if sources > 1 { 200_000 } else { 50_000 }
}

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// The cases that are measured when none is named,
    pub cases: &'static [Case],
    /// the families,
    pub families: &'static [Family],
    /// and the parts when nothing is named.
    pub parts: &'static [Part],
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
    /// IPv4 addresses in the lists that are changed, and a fifth as many IPv6 prefixes.
    pub listed: usize,
    /// How often each change is made; odd, for the median.
    pub changes: usize,
    /// How long clients are counted in each flood at each host.
    pub host: Duration,
}

impl Effort {
    /// Under a minute: the cases behind the ratios.
    pub const QUICK: Self = Self {
        cases: &[
            Case::Floor,
            Case::Blocked,
            Case::BlockList(0),
            Case::BLOCK_LIST_1M,
            Case::Exceeding,
            Case::SourceLimit,
            Case::Default,
            Case::LruReference,
            Case::LPM_REFERENCE_1M,
        ],
        families: &[Family::Ipv4],
        parts: &[Part::EndToEnd],
        rounds: 5,
        slice: Duration::from_millis(8),
        sources: &[1, 1 << 24],
        floods: 3,
        flood: Duration::from_millis(150),
        visits: 1,
        visit: Duration::from_millis(500),
        listed: 1_000_000,
        changes: 1,
        host: Duration::from_millis(1_500),
    };

    /// About ten minutes; hosts, which are as many again, have to be named.
    pub const FULL: Self = Self {
        cases: &Case::ALL,
        families: &Family::ALL,
        parts: &[Part::EndToEnd, Part::Vectors, Part::Lists],
        rounds: 5,
        slice: Duration::from_millis(15),
        sources: &[1, 1 << 16, 1 << 20, 1 << 24],
        floods: 5,
        flood: Duration::from_millis(500),
        visits: 3,
        visit: Duration::from_secs(1),
        listed: 1_000_000,
        changes: 3,
        host: Duration::from_secs(3),
    };
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    cases: Vec<Case>,
    families: Vec<Family>,
    parts: Vec<Part>,
    floods: Vec<String>,
}

impl Selection {
    /// The cases, families and parts that are named, and where none is named those of the effort. But parts that stand
    /// alone go without cases, and cases and families without parts.
    pub fn parse(words: &[String], effort: Effort) -> Result<Self> {
        let named = |label: &str| words.iter().any(|word| word == label);
        let labels = [
            Case::ALL.map(Case::label).to_vec(),
            Family::ALL.map(Family::label).to_vec(),
            Part::ALL.map(Part::label).to_vec(),
        ];
        if let Some(word) = words.iter().find(|word| !labels.iter().flatten().any(|label| word == label)) {
            let [cases, families, parts] = labels.map(|labels| labels.join(", "));
            bail!("{word} is neither a case ({cases}) nor a family ({families}) nor a part ({parts})");
        }
        let mut cases: Vec<Case> = Case::ALL.into_iter().filter(|case| named(case.label())).collect();
        let mut families: Vec<Family> =
            Family::ALL.into_iter().filter(|family| named(family.label())).collect();
        let mut parts: Vec<Part> = Part::ALL.into_iter().filter(|part| named(part.label())).collect();
        let parts_alone = cases.is_empty() && families.is_empty() && !parts.is_empty();
        if words.is_empty() {
            parts = effort.parts.to_vec();
        }
        if cases.is_empty() && !parts_alone {
            cases = effort.cases.to_vec();
        }
        if families.is_empty() {
            families = effort.families.to_vec();
        }
        Ok(Self { cases, families, parts, floods: Vec::new() })
    }

    /// At hosts only these floods, where any is named.
    pub fn with_floods(self, floods: Vec<String>) -> Self {
        Self { floods, ..self }
    }
}

/// Measures what is selected. `progress` is told each figure as it is there, and ends the run with an error.
pub fn run(
    effort: Effort,
    selection: &Selection,
    mut progress: impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Report> {
    let mut figures = Vec::new();
    for &family in &selection.families {
        figures.extend(measure_family(effort, family, &selection.cases, &mut progress)?);
    }
    let has = |part| selection.parts.contains(&part);
    let rows = if has(Part::EndToEnd) { e2e::measure(effort, &mut progress)? } else { Vec::new() };
    let vectors = if has(Part::Vectors) { vectors::measure(effort, &mut progress)? } else { Vec::new() };
    let lists = if has(Part::Lists) { lists::measure(effort, &mut progress)? } else { Vec::new() };
    let hosts =
        if has(Part::Hosts) { hosts::measure(effort, &selection.floods, &mut progress)? } else { Vec::new() };
    Report::new(figures, rows, vectors, lists, hosts)
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
                subject.warm_up(cores, runs_before_a_slice(sources))?;
                let floor_ns = floor.slice(cores, floor_runs)?;
                floors.push(floor_ns);
                differences.push(subject.slice(cores, *runs)? - floor_ns);
            }
        }
    }
    let mut figures = Vec::new();
    for (subject, (_, rounds)) in subjects.iter_mut().zip(measured) {
        subject.warm_up(1, runs_before_a_slice(sources))?;
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
