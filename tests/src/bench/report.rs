//! What a run comes to: the object for machines and the tables for people.

use std::{collections::BTreeMap, fmt, fmt::Write as _, fs, process::Command};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    HostRow, ListRow, VectorRow, hosts,
    ratio::{TARGETS, Target, ratios},
};

/// Between these, a page has the table of hosts.
const BEGIN: &str = "<!-- printed by `cargo xtask bench hosts --record` -->";
const END: &str = "<!-- end -->";

/// All figures of a run. The fields are the keys of `--json`.
#[derive(Serialize, Clone, Debug)]
pub struct Report {
    /// As `git describe` says.
    pub commit: String,
    /// Release of the kernel.
    pub kernel: String,
    /// Model of the processor.
    pub cpu: String,
    /// What a packet costs.
    pub cases: Vec<Figure>,
    /// What comes through an interface.
    pub e2e: Vec<EndToEnd>,
    /// What becomes of floods of each kind.
    pub vectors: Vec<VectorRow>,
    /// How long it takes to change long lists.
    pub lists: Vec<ListRow>,
    /// What becomes of floods at a host, and of its services.
    pub hosts: Vec<HostRow>,
    /// By key of [`TARGETS`]; one whose parts did not run is not there.
    pub ratios: BTreeMap<&'static str, f64>,
}

/// What a packet costs in one case.
#[derive(Serialize, Clone, Debug)]
pub struct Figure {
    /// Label of the [`Case`](super::Case).
    pub case: &'static str,
    /// Label of the [`Family`](super::Family).
    pub family: &'static str,
    /// Random sources.
    pub sources: u64,
    /// Processors that ran it at once.
    pub cores: usize,
    /// Above the floor, median of the rounds.
    pub ns: f64,
    /// Bare `XDP_DROP` in the same harness.
    pub floor_ns: f64,
    /// Lower and upper quartile of the rounds.
    pub ns_quartiles: [f64; 2],
}

/// What a filter makes of a flood on an interface.
#[derive(Serialize, Clone, Debug)]
pub struct EndToEnd {
    /// Label of the [`Guard`](super::Guard).
    pub filter: &'static str,
    /// Random sources.
    pub sources: u64,
    /// Million packets a second taken in and dropped, median of the rounds.
    pub mpps: f64,
    /// Lower and upper quartile of the rounds.
    pub mpps_quartiles: [f64; 2],
    /// What the visitor gets meanwhile; nothing where the filter keeps everybody out.
    #[serde(flatten)]
    pub visitor: Option<Visitor>,
}

/// A visitor during a flood of a fixed rate.
#[derive(Serialize, Clone, Debug)]
pub struct Visitor {
    /// Million packets a second that the flood came to.
    pub flood_mpps: f64,
    /// Pages, each over a connection of its own; median of the rounds.
    #[serde(rename = "visitor_requests_per_second")]
    pub requests_per_second: f64,
    /// Over all rounds; an attempt that failed counts with the time it took.
    #[serde(rename = "visitor_p99_ms")]
    pub p99_ms: f64,
}

impl Report {
    /// Figures with their ratios, and what they were measured on.
    pub fn new(
        cases: Vec<Figure>,
        e2e: Vec<EndToEnd>,
        vectors: Vec<VectorRow>,
        lists: Vec<ListRow>,
        hosts: Vec<HostRow>,
    ) -> Result<Self> {
        let ratios = ratios(&cases, &e2e);
        Ok(Self {
            commit: commit(),
            kernel: kernel()?,
            cpu: cpu(),
            cases,
            e2e,
            vectors,
            lists,
            hosts,
            ratios,
        })
    }

    /// The figures as tables.
    pub fn table(&self) -> String {
        let Self { commit, kernel, cpu, cases, e2e, vectors, lists, hosts, ratios } = self;
        let mut text = format!("{cpu}, Linux {kernel}, commit {commit}\n");
        if !cases.is_empty() {
            text.push_str(
                "\nnanoseconds per packet above a bare XDP_DROP in the same harness: median (quartiles)\n\n\
                 family  case            cores     sources      ns\n",
            );
        }
        for figure in cases {
            let _ = writeln!(text, "{figure}");
        }
        if !e2e.is_empty() {
            text.push_str(
                "\na flood on a virtual interface: million packets a second taken in, as many as can be sent; and \
                 what a visitor\ngets during a flood of a fixed rate\n\n\
                 filter          sources    Mpps (quartiles)         requests/s   p99 ms  flood Mpps\n",
            );
        }
        for row in e2e {
            let _ = writeln!(text, "{row}");
        }
        if !vectors.is_empty() {
            text.push_str(
                "\nfloods of each kind from 16 million addresses, beyond limits for all of them together: the share that \
                 reaches the\nnetwork stack, after how long no more does, the CPU time in which a packet of it is made and \
                 taken in, and what\na visitor gets; both beside the same with an ideal filter\n\n\
                 flood                 flood Mpps      passed end, ms  CPU ns   ideal requests/s  failed       ideal\n",
            );
        }
        for row in vectors {
            let _ = writeln!(text, "{row}");
        }
        if !lists.is_empty() {
            text.push_str(
                "\nmilliseconds from the command to its end, when the lists are in force: median\n\n",
            );
        }
        for row in lists {
            let _ = writeln!(text, "{row}");
        }
        if !hosts.is_empty() {
            text.push_str(
                "\nfloods of each kind at a host: the share that reaches its network stack, what is left to the worst-off \
                 service of its\nvisitors, and to the worst-off of its own clients, percent of the quiet host without a \
                 filter\n\n",
            );
            text.push_str(&hosts::markdown(hosts));
        }
        if !ratios.is_empty() {
            text.push('\n');
        }
        for Target { key, bound, .. } in &TARGETS {
            if let Some(ratio) = ratios.get(key) {
                let verdict = if bound.holds(*ratio) { "reached" } else { "missed" };
                let _ = writeln!(text, "{key:<22}{ratio:>9.2}  {bound}: {verdict}");
            }
        }
        text
    }

    /// Writes the table of hosts into a page, between the two marks that are there for it.
    pub fn record(&self, page: &str) -> Result<String> {
        let Self { commit, kernel, cpu, hosts, .. } = self;
        let (before, rest) = page.split_once(BEGIN).with_context(|| format!("the page has no {BEGIN}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("the page has no {END}"))?;
        let table = hosts::markdown(hosts);
        Ok(format!("{before}{BEGIN}\n{cpu}, Linux {kernel}, commit {commit}.\n\n{table}{END}{after}"))
    }

    /// The ratios that miss what was promised, in words.
    pub fn missed(&self) -> Vec<String> {
        let missed = TARGETS.iter().filter_map(|Target { key, bound, .. }| {
            let ratio = self.ratios.get(key)?;
            (!bound.holds(*ratio)).then(|| format!("{key} is {ratio:.2}, and should be {bound}"))
        });
        missed.chain(self.hosts.iter().flat_map(HostRow::misses)).collect()
    }

    /// The keys of ratios whose parts did not run.
    pub fn not_measured(&self) -> Vec<&'static str> {
        TARGETS.iter().map(|target| target.key).filter(|key| !self.ratios.contains_key(key)).collect()
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { case, family, sources, cores, ns, ns_quartiles: [low, high], floor_ns } = self;
        write!(
            f,
            "{family:<7} {case:<15} {cores:>5} {sources:>11}  {ns:>6.1}  ({low:.1} to {high:.1}; floor {floor_ns:.1})"
        )
    }
}

impl fmt::Display for EndToEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { filter, sources, mpps, mpps_quartiles: [low, high], visitor } = self;
        let spread = format!("({low:.2} to {high:.2})");
        write!(f, "{filter:<12} {sources:>10}  {mpps:>6.2} {spread:<17}")?;
        match visitor {
            Some(Visitor { flood_mpps, requests_per_second, p99_ms }) => {
                write!(f, "  {requests_per_second:>8.0} {p99_ms:>8.2}  {flood_mpps:>10.2}")
            }
            None => write!(f, "  {:>8} {:>8}  {:>10}", "-", "-", "-"),
        }
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
