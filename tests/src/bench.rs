//! Compares the cost of a packet in the filter and in the alternatives, side by side in one run.
//!
//! *Cases* are test runs of one frame. The `harness` program writes a random source into it and calls the program
//! under test, so that one run exercises up to 16 million sources. The same harness calling a bare `XDP_DROP` is the
//! floor. A figure is the median, over rounds, of program minus the floor *just before it*, in thread CPU time. On a
//! noisy machine only such differences and their ratios mean anything, and only if their quartiles distinguish them
//! from zero.
//!
//! *End to end* ([`e2e`]) is a flood on a virtual interface. [`Part`] names the other measurements. docs/bench.md
//! explains how to read them.
//!
//! Invariant: a figure counts only if the packets got the verdicts that its case claims.

use std::{fmt::Display, thread, time::Duration};

use anyhow::{Context, Result, bail};

use self::{case::Subject, measure::runs_within};
pub use self::{
    case::{Case, Reach},
    family::Family,
    guard::Guard,
    hosts::{HostCell, HostRow},
    lists::ListRow,
    measure::quantile,
    nic::{Card, guard_card},
    ratio::{Bound, Ratio, TARGETS, Unit},
    report::{Core, EndToEnd, Figure, Measured, Report, Visit},
    scaling::TableMemory,
    spread::Spread,
    tool::TOOLS,
    vectors::VectorRow,
};

mod attack;
mod block_list;
mod capacity;
mod case;
mod e2e;
mod family;
mod guard;
mod host;
mod hosts;
mod lists;
mod measure;
mod nic;
pub mod plot;
mod profile;
mod ratio;
mod record;
mod reference;
mod report;
mod scaling;
mod site;
mod spread;
mod tool;
mod vector;
mod vectors;

/// What is measured besides the cases.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// What a core takes in of a flood, and what a visitor gets, with each filter in turn.
    EndToEnd,
    /// Floods of each kind.
    Vectors,
    /// How long it takes to change long lists.
    Lists,
    /// Predictions for more cores, and memory.
    Scaling,
    /// Floods of each kind at a host with services and clients.
    Hosts,
}

impl Part {
    /// All parts.
    pub const ALL: [Self; 5] = [Self::EndToEnd, Self::Vectors, Self::Lists, Self::Scaling, Self::Hosts];

    /// The name on the command line.
    pub const fn label(self) -> &'static str {
        match self {
            Self::EndToEnd => "e2e",
            Self::Vectors => "vectors",
            Self::Lists => "lists",
            Self::Scaling => "scaling",
            Self::Hosts => "hosts",
        }
    }
}

/// Runs before the first slice, to warm up caches.
const WARM_UP_RUNS: u64 = 100_000;

/// Runs for each source in cases that remember sources, so that nearly all have been seen (all but e^-4); and the
/// maximum number of runs, which fills the largest table, of a million entries.
const WARM_UP_RUNS_FOR_A_SOURCE: u64 = 4;
const MOST_WARM_UP_RUNS: u64 = 2_000_000;

/// Time of the runs before each slice that do not count. They refill caches that other cases have evicted (with many
/// sources, a table of some megabytes), and each source uses up the burst it has regained, 40,000 packets at most by
/// default. No longer than this: a case that takes a microsecond needs fewer runs to fill the caches.
const LONGEST_WARM_UP: Duration = Duration::from_millis(30);

fn runs_before_a_slice(sources: u64, ns: f64) -> u32 {
    let runs = if sources > 1 { 200_000 } else { 50_000 };
    runs.min(runs_within(LONGEST_WARM_UP, ns))
}

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// The cases that are measured in each family if none is named,
    pub cases: &'static [(Family, &'static [Case])],
    /// and the parts if nothing is named.
    pub parts: &'static [Part],
    /// Slices of each case; odd, for the median.
    pub rounds: usize,
    /// Length of a slice.
    pub slice: Duration,
    /// Numbers of sources for the cases, ascending.
    pub sources: &'static [u64],
    /// The filters that are measured end to end if none is named.
    pub guards: &'static [Guard],
    /// Numbers of sources of the end-to-end floods.
    pub flood_sources: &'static [u64],
    /// Floods on each filter; odd, for the median.
    pub floods: usize,
    /// Length of each flood.
    pub flood: Duration,
    /// Loads at which a visitor is measured, in percent of a filter's capacity.
    pub loads: &'static [u32],
    /// Visits at each load; odd, for the median.
    pub load_visits: usize,
    /// The kinds of floods,
    pub kinds: &'static [&'static str],
    /// and visits during each flood; odd, for the median.
    pub visits: usize,
    /// Length of each visit.
    pub visit: Duration,
    /// IPv4 addresses in the lists that are changed, and a fifth as many IPv6 prefixes.
    pub listed: usize,
    /// How often each change is made; odd, for the median.
    pub changes: usize,
    /// How long clients are counted in each flood against each host.
    pub host: Duration,
}

/// Load of a core in percent of its capacity, while a visitor uses the server.
const LOADS: [u32; 4] = [0, 25, 50, 90];

impl Effort {
    /// Takes less than a minute: the figures behind the ratios.
    pub const QUICK: Self = Self {
        cases: &[
            (
                Family::Ipv4,
                &[
                    Case::Blocked,
                    Case::BLOCK_LIST_1K,
                    Case::BLOCK_LIST_1M,
                    Case::Exceeding,
                    Case::SourceLimit,
                    Case::Default,
                    Case::LruReference,
                    Case::LPM_REFERENCE_1M,
                ],
            ),
            (Family::Ipv6, &[Case::BLOCK_LIST_100K, Case::EveryLength(Reach::Within)]),
        ],
        parts: &[Part::EndToEnd, Part::Vectors],
        rounds: 5,
        slice: Duration::from_millis(8),
        sources: &[1, 1 << 24],
        guards: &[Guard::Floodgate, Guard::XdpDrop, Guard::XdpFilter, Guard::NftMeter],
        flood_sources: &[1 << 24],
        floods: 5,
        flood: Duration::from_millis(80),
        loads: &[],
        load_visits: 0,
        kinds: &["SYN", "ACK", "UDP, closed port", "later fragments"],
        visits: 1,
        visit: Duration::from_millis(300),
        ..Self::FULL
    };

    /// Takes less than ten minutes. Hosts take longer and have to be named.
    pub const FULL: Self = Self {
        cases: &[(Family::Ipv4, &Case::ALL), (Family::Ipv6, &Case::ALL)],
        parts: &[Part::EndToEnd, Part::Vectors, Part::Lists, Part::Scaling],
        rounds: 5,
        slice: Duration::from_millis(10),
        sources: &[1, 1 << 16, 1 << 20, 1 << 24],
        guards: &Guard::ALL,
        flood_sources: &[1, 1 << 24],
        floods: 5,
        flood: Duration::from_millis(200),
        loads: &LOADS,
        load_visits: 3,
        kinds: &vectors::KINDS,
        visits: 3,
        visit: Duration::from_millis(600),
        listed: 1_000_000,
        changes: 3,
        host: Duration::from_secs(3),
    };
}

/// What to measure.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Selection {
    cases: Vec<(Family, Vec<Case>)>,
    parts: Vec<Part>,
    filters: Vec<&'static str>,
    floods: Vec<String>,
}

impl Selection {
    /// Parses the cases, families and parts that are named; those of the effort stand in for what is not named. But
    /// parts named alone run without cases, and cases and families named alone run without parts.
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
        let cases: Vec<Case> = Case::ALL.into_iter().filter(|case| named(case.label())).collect();
        let families: Vec<Family> = Family::ALL.into_iter().filter(|family| named(family.label())).collect();
        let mut parts: Vec<Part> = Part::ALL.into_iter().filter(|part| named(part.label())).collect();
        let parts_alone = cases.is_empty() && families.is_empty() && !parts.is_empty();
        if words.is_empty() {
            parts = effort.parts.to_vec();
        }
        let mut selected = Vec::new();
        if !cases.is_empty() {
            let all = if families.is_empty() { Family::ALL.to_vec() } else { families };
            selected = all.into_iter().map(|family| (family, cases.clone())).collect();
        } else if !parts_alone {
            let is_wanted = |family| families.is_empty() || families.contains(&family);
            let wanted = effort.cases.iter().filter(|(family, _)| is_wanted(*family));
            selected = wanted.map(|(family, cases)| (*family, cases.to_vec())).collect();
        } else if parts.contains(&Part::Scaling) {
            selected = vec![(Family::Ipv4, scaling::CASES.to_vec())];
        }
        // Cases that do not exist in a family are skipped.
        for (family, cases) in &mut selected {
            cases.retain(|case| case.exists_in(*family));
        }
        selected.retain(|(_, cases)| !cases.is_empty());
        let mut filters = Vec::new();
        if parts.contains(&Part::Scaling) && !parts.contains(&Part::EndToEnd) {
            parts.push(Part::EndToEnd);
            filters = scaling::GUARDS.map(Guard::label).to_vec();
        }
        Ok(Self { cases: selected, parts, filters, floods: Vec::new() })
    }

    /// Restricts hosts to these floods, if any is named.
    pub fn with_floods(self, floods: Vec<String>) -> Self {
        Self { floods, ..self }
    }

    /// Restricts the end-to-end part to these filters, if any is named.
    pub fn with_filters(self, names: &[String]) -> Result<Self> {
        let filters = filters(names)?;
        Ok(if filters.is_empty() { self } else { Self { filters, ..self } })
    }
}

/// Returns the labels of the named filters.
fn filters(names: &[String]) -> Result<Vec<&'static str>> {
    let all = Guard::ALL.map(Guard::label);
    let label = |name: &String| {
        let label = all.into_iter().find(|label| label == name);
        label.with_context(|| format!("{name} is none of the filters: {}", all.join(", ")))
    };
    names.iter().map(label).collect()
}

/// Measures what is selected. Reports each figure to `progress` as soon as it is there; an error from it ends the
/// run.
pub fn run(
    effort: Effort,
    selection: &Selection,
    mut progress: impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Report> {
    let Selection { cases, parts, filters, floods } = selection;
    let has = |part| parts.contains(&part);
    let mut measured = Measured::default();
    for (family, cases) in cases {
        measured.cases.extend(measure_family(effort, *family, cases, &mut progress)?);
    }
    if has(Part::EndToEnd) {
        measured.e2e = e2e::measure(effort, filters, &mut progress)?;
    }
    if has(Part::Vectors) {
        measured.vectors = vectors::measure(effort, &mut progress)?;
    }
    if has(Part::Lists) {
        measured.lists = lists::measure(effort, &mut progress)?;
    }
    if has(Part::Scaling) {
        measured.memory = scaling::memory()?;
    }
    if has(Part::Hosts) {
        measured.hosts = hosts::measure(effort, floods, &mut progress)?;
    }
    Report::new(measured)
}

/// Measurements of one case with one number of sources on one number of cores.
#[derive(Default)]
struct Rounds {
    floors: Vec<f64>,
    differences: Vec<f64>,
}

/// A case, and its measurements with each number of sources.
struct Measuring {
    subject: Subject,
    by_sources: Vec<BySources>,
}

/// With one number of sources: nanoseconds per run, and the rounds on one core and on two.
#[derive(Default)]
struct BySources {
    run_ns: f64,
    by_cores: Vec<Rounds>,
}

/// Measures the cases round by round, each slice just after one of the floor. In a round, each case has its turn with
/// each number of sources, on one core and on two.
fn measure_family(
    effort: Effort,
    family: Family,
    cases: &[Case],
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<Figure>> {
    let most_cores = thread::available_parallelism()?.get().min(2);
    let mut floor = Subject::new(Case::Floor, family)?;
    let mut all = Vec::new();
    for &case in cases {
        let by_sources = effort.sources.iter().map(|_| BySources::default()).collect();
        all.push(Measuring { subject: Subject::new(case, family)?, by_sources });
    }
    for round in 1..=effort.rounds {
        for (index, &sources) in effort.sources.iter().enumerate() {
            floor.set_sources(family, sources)?;
            let floor_runs = runs_within(effort.slice, floor.warm_up(1, runs_before_a_slice(sources, 0.0))?);
            for Measuring { subject, by_sources } in &mut all {
                subject.set_sources(family, sources)?;
                let BySources { run_ns, by_cores } = &mut by_sources[index];
                if by_cores.is_empty() {
                    *run_ns = fill(subject, sources, most_cores)?;
                    by_cores.resize_with(most_cores, Rounds::default);
                }
                let runs = runs_within(effort.slice, *run_ns);
                for (cores, Rounds { floors, differences }) in (1..).zip(by_cores) {
                    subject.warm_up(cores, runs_before_a_slice(sources, *run_ns))?;
                    let floor_ns = floor.slice(cores, floor_runs)?;
                    floors.push(floor_ns);
                    differences.push(subject.slice(cores, runs)? - floor_ns);
                }
            }
        }
        progress(&format!("round {round} of {}, {} cases of {}", effort.rounds, all.len(), family.label()))?;
    }
    let mut figures = Vec::new();
    for Measuring { mut subject, by_sources } in all {
        for (&sources, BySources { run_ns, by_cores }) in effort.sources.iter().zip(by_sources) {
            subject.set_sources(family, sources)?;
            subject.warm_up(1, runs_before_a_slice(sources, run_ns))?;
            subject.check()?;
            for (cores, Rounds { floors, differences }) in (1..).zip(by_cores) {
                let [ns, floor_ns] = [differences, floors].map(Spread::of);
                let case = subject.case.label();
                let figure = Figure { case, family: family.label(), sources, cores, ns, floor_ns };
                progress(&figure)?;
                figures.push(figure);
            }
        }
    }
    Ok(figures)
}

/// Runs a case until its tables and the caches are in the steady state of that many sources. Returns nanoseconds per
/// run.
fn fill(subject: &mut Subject, sources: u64, cores: usize) -> Result<f64> {
    let for_sources = if subject.case.remembers_sources() { sources * WARM_UP_RUNS_FOR_A_SOURCE } else { 0 };
    let runs = for_sources.clamp(WARM_UP_RUNS, MOST_WARM_UP_RUNS) / cores as u64;
    subject.warm_up(cores, runs as u32)
}
