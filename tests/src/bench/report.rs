//! The results of a run: an object for machines, and tables for people.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    HostRow, ListRow, TableMemory, VectorRow,
    capacity::Capacity,
    hosts,
    measure::quantile,
    ratio::{Parts, Ratio, TARGETS, Target, Unit},
    scaling,
    spread::Spread,
};

/// All figures of a run. The fields are the keys of `--json`.
#[derive(Serialize, Clone, Debug)]
pub struct Report {
    /// Output of `git describe`.
    pub commit: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// What was measured.
    #[serde(flatten)]
    pub measured: Measured,
    /// By key of [`TARGETS`]; ratios whose parts did not run are absent.
    pub ratios: BTreeMap<&'static str, Ratio>,
}

/// What was measured, by part.
#[derive(Serialize, Clone, Default, Debug)]
pub struct Measured {
    /// Cost of a packet.
    pub cases: Vec<Figure>,
    /// Floods through an interface, with each filter.
    pub e2e: Vec<EndToEnd>,
    /// Results of floods of each kind.
    pub vectors: Vec<VectorRow>,
    /// Time to change long lists.
    pub lists: Vec<ListRow>,
    /// Memory of tables.
    pub memory: Vec<TableMemory>,
    /// Results of floods against a host, and of its services.
    pub hosts: Vec<HostRow>,
}

/// Cost of a packet in one case.
#[derive(Serialize, Clone, Debug)]
pub struct Figure {
    /// Label of the [`Case`](super::Case).
    pub case: &'static str,
    /// Label of the [`Family`](super::Family).
    pub family: &'static str,
    /// Random sources.
    pub sources: u64,
    /// Number of processors that ran it at once.
    pub cores: usize,
    /// Nanoseconds above the floor.
    pub ns: Spread,
    /// Nanoseconds of a bare `XDP_DROP` in the same harness.
    pub floor_ns: Spread,
}

/// Results of a filter with a flood on an interface.
#[derive(Serialize, Clone, Debug)]
pub struct EndToEnd {
    /// Label of the [`Guard`](super::Guard).
    pub filter: &'static str,
    /// Random sources.
    pub sources: u64,
    /// What a dedicated core receives; absent if no core can be dedicated.
    pub core: Option<Core>,
    /// CPU time in which one core sends and receives a packet; absent if another machine sends.
    pub shared_core_ns: Option<Spread>,
    /// The visitor's results, by load.
    pub visits: Vec<Visit>,
}

/// What a dedicated core receives.
#[derive(Serialize, Clone, Debug)]
pub struct Core {
    /// CPU time per packet.
    pub ns: Spread,
    /// Capacity in million packets a second, computed from the time per packet.
    pub mpps: f64,
    /// Million packets a second sent, median of the rounds.
    pub offered_mpps: f64,
    /// Million packets a second received, median of the rounds.
    pub received_mpps: f64,
}

impl Core {
    /// Summarizes these rounds.
    pub(super) fn of(rounds: &[Capacity]) -> Self {
        let median = |of: fn(&Capacity) -> f64| quantile(rounds.iter().map(of).collect(), 0.5);
        let ns = Spread::of(rounds.iter().map(|round| round.ns).collect());
        Self {
            mpps: 1e3 / ns.median,
            ns,
            offered_mpps: median(|round| round.offered_mpps),
            received_mpps: median(|round| round.received_mpps),
        }
    }
}

/// A visitor's results during a flood of a share of the receiving core's capacity.
#[derive(Serialize, Clone, Debug)]
pub struct Visit {
    /// That share.
    pub load_percent: u32,
    /// Million packets a second sent, median of the rounds.
    pub offered_mpps: f64,
    /// Million packets a second received, median of the rounds.
    pub received_mpps: f64,
    /// Pages a second, each over a new connection.
    pub pages_per_second: Spread,
    /// Time for a page, over all rounds. An attempt that failed counts with the time it took.
    pub median_ms: f64,
    /// The same, 99th percentile.
    pub p99_ms: f64,
    /// Attempts that failed.
    pub failed: u64,
}

/// Heading above the rows of a part.
const CASES: &str = "nanoseconds per packet above a bare XDP_DROP in the same harness: median (quartiles)

family  case                   cores     sources  ns
";
const END_TO_END: &str = "a flood on one interface: time of the receiving core for a packet, and the million packets a second that this \
comes to;
million a second that were offered, and taken in; and CPU time for a packet that the same core makes and takes in

filter                     sources  core ns                    Mpps  offered  received  one core, ns
";
const VISITS: &str =
    "a visitor during floods from 16 million sources, by percent of the receiving core's capacity

filter                    %  offered  received  pages/s                   median ms   p99 ms  failed
";
const VECTORS: &str = "floods of each kind from 16 million addresses, beyond limits for all of them together: the share that reaches the
network stack, after how long no more does, the CPU time in which a packet of it is made and taken in, and what
a visitor gets; both beside the same with an ideal filter

flood                 flood Mpps      passed end, ms  CPU ns   ideal requests/s  failed       ideal
";
const LISTS: &str = "milliseconds from the command to its end, when the lists are in force: median

";
const MEMORY: &str = "memory of the tables, MiB

";
const HOSTS: &str = "floods of each kind at a host: the share that reaches its network stack, what is left to the worst-off service of its
visitors, and to the worst-off of its own clients, percent of the quiet host without a filter

";

impl Report {
    /// Creates the report of what was measured, with its ratios and the machine.
    pub fn new(measured: Measured) -> Result<Self> {
        let ratios = measured.parts().ratios();
        Ok(Self { commit: commit(), kernel: kernel()?, cpu: cpu(), measured, ratios })
    }

    /// Describes the machine.
    pub(super) fn machine(&self) -> String {
        let Self { commit, kernel, cpu, .. } = self;
        format!("{cpu}, Linux {kernel}, commit {commit}")
    }

    /// Formats the figures as tables.
    pub fn table(&self) -> String {
        let Measured { cases, e2e, vectors, lists, memory, hosts } = &self.measured;
        let mut text = format!("{}\n", self.machine());
        let visits: Vec<VisitOf<'_>> = e2e.iter().flat_map(EndToEnd::visits).collect();
        add_part(&mut text, CASES, cases);
        add_part(&mut text, END_TO_END, e2e);
        add_part(&mut text, VISITS, &visits);
        add_part(&mut text, VECTORS, vectors);
        add_part(&mut text, LISTS, lists);
        add_part(&mut text, MEMORY, memory);
        if !hosts.is_empty() {
            let _ = write!(text, "\n{HOSTS}{}", hosts::markdown(hosts));
        }
        if let Some(scaling) = scaling::markdown(self) {
            let _ = write!(text, "\n{scaling}");
        }
        if !self.ratios.is_empty() {
            text.push('\n');
        }
        for Target { key, bound, unit, .. } in &TARGETS {
            if let Some(ratio) = self.ratios.get(key) {
                let verdict = if ratio.reached { "reached" } else { "missed" };
                let unit = if *unit == Unit::Nanoseconds { " ns" } else { "" };
                let _ = writeln!(text, "{key:<26}{:<42}  {bound}{unit}: {verdict}", ratio.to_string());
            }
        }
        text
    }

    /// Describes the targets that were missed.
    pub fn missed(&self) -> Vec<String> {
        let missed = TARGETS.iter().filter_map(|Target { key, bound, .. }| {
            let ratio = self.ratios.get(key).filter(|ratio| !ratio.reached)?;
            Some(format!("{key} is {ratio}, and should be {bound}"))
        });
        missed.chain(self.measured.hosts.iter().flat_map(HostRow::misses)).collect()
    }

    /// Returns the keys of ratios whose parts did not run.
    pub fn not_measured(&self) -> Vec<&'static str> {
        TARGETS.iter().map(|target| target.key).filter(|key| !self.ratios.contains_key(key)).collect()
    }
}

impl Measured {
    /// What ratios are computed from.
    pub(super) fn parts(&self) -> Parts<'_> {
        let Self { cases, e2e, vectors, .. } = self;
        Parts { cases, e2e, vectors }
    }
}

/// Adds the rows of a part below their heading, if there are any.
fn add_part<T: fmt::Display>(text: &mut String, above: &str, rows: &[T]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(text, "\n{above}");
    for row in rows {
        let _ = writeln!(text, "{row}");
    }
}

impl EndToEnd {
    /// Its visits, with its label.
    fn visits(&self) -> impl Iterator<Item = VisitOf<'_>> {
        self.visits.iter().map(|visit| VisitOf { filter: self.filter, visit })
    }
}

/// A visit and the filter it went through.
struct VisitOf<'a> {
    filter: &'static str,
    visit: &'a Visit,
}

impl fmt::Display for VisitOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<22} {}", self.filter, self.visit)
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, family, sources, cores, ns, floor_ns } = self;
        let floor = floor_ns.median;
        write!(f, "{family:<7} {case:<22} {cores:>5} {sources:>11}  {ns:.1}; floor {floor:.1}")
    }
}

impl fmt::Display for EndToEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, sources, core, shared_core_ns, visits: _ } = self;
        write!(f, "{filter:<22} {sources:>10}  ")?;
        match core {
            Some(Core { ns, mpps, offered_mpps, received_mpps }) => {
                let ns = format!("{ns:.0}");
                write!(f, "{ns:<22} {mpps:>8.2} {offered_mpps:>8.2} {received_mpps:>9.2}")?;
            }
            None => write!(f, "{:<22} {:>8} {:>8} {:>9}", "-", "-", "-", "-")?,
        }
        match shared_core_ns {
            Some(ns) => write!(f, "  {ns:.0}"),
            None => write!(f, "  -"),
        }
    }
}

impl fmt::Display for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { load_percent, offered_mpps, received_mpps, pages_per_second, median_ms, p99_ms, failed } =
            self;
        let pages = format!("{pages_per_second:.0}");
        write!(
            f,
            "{load_percent:>4} {offered_mpps:>8.2} {received_mpps:>9.2}  {pages:<24} {median_ms:>10.1} {p99_ms:>8.1} {failed:>7}"
        )
    }
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    output
        .map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    Ok(release.trim().to_owned())
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned())
}
