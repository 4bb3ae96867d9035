//! Writes the figures of a run into the pages that show them, between markers, so that nobody copies a figure by
//! hand.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result, ensure};

use super::{
    Case, Family, Guard, Part, Report, VectorRow, hosts,
    ratio::{TARGETS, Target, Unit},
    report::{Core, EndToEnd, Visit},
    scaling,
    spread::Spread,
};

/// Marks the end of a table.
const END: &str = "<!-- end -->";

/// One source, and many.
const SOURCES: [u64; 2] = [1, 1 << 24];

/// A table: its page, and how it is formatted, if its part has been measured.
struct Section {
    name: &'static str,
    page: &'static str,
    render: fn(&Report) -> Option<String>,
}

const SECTIONS: [Section; 7] = [
    Section { name: "cases", page: "README.md", render: cases },
    Section { name: Part::EndToEnd.label(), page: "docs/bench.md", render: end_to_end },
    Section { name: Part::Vectors.label(), page: "docs/bench.md", render: vectors },
    Section { name: Part::Lists.label(), page: "docs/bench.md", render: lists },
    Section { name: "ratios", page: "docs/bench.md", render: ratios },
    Section { name: Part::Scaling.label(), page: "docs/scaling.md", render: scaling::markdown },
    Section { name: Part::Hosts.label(), page: "docs/vectors.md", render: hosts },
];

/// The description of each case on a page.
const CASES: [(&str, Case); 9] = [
    ("default configuration", Case::Default),
    ("everything blocked by one entry", Case::Blocked),
    ("everything allowed by one entry", Case::Allowed),
    ("1,000,000 entries in the block list, no limit", Case::BLOCK_LIST_1M),
    ("a TCP segment beyond a limit on all: looked up among the host's sockets", Case::NoConnection),
    ("for comparison: state of each source in the kernel's LRU map", Case::LruReference),
    ("for comparison: in one for each processor", Case::PerCpuLruReference),
    ("for comparison: in a hash map, under a lock in each entry", Case::SpinLockReference),
    ("for comparison: 1,000,000 entries in the kernel's LPM trie", Case::LPM_REFERENCE_1M),
];

impl Report {
    /// Writes each table that has been measured completely into its page, below this folder. Returns the names of the
    /// tables.
    pub fn record(&self, root: &Path) -> Result<Vec<&'static str>> {
        let mut recorded = Vec::new();
        for Section { name, page, render } in &SECTIONS {
            let Some(table) = render(self) else { continue };
            let path = root.join(page);
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            let text = self.put(&text, name, &table).with_context(|| path.display().to_string())?;
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
            recorded.push(*name);
        }
        ensure!(!recorded.is_empty(), "there is nothing to record: no part was measured whole");
        Ok(recorded)
    }

    /// Returns a page with a table between its markers, below a description of the machine.
    pub fn put(&self, page: &str, name: &str, table: &str) -> Result<String> {
        let begin = format!("<!-- bench: {name} -->");
        let (before, rest) = page.split_once(&begin).with_context(|| format!("no {begin}"))?;
        let (_, after) = rest.split_once(END).with_context(|| format!("no {END} behind {begin}"))?;
        // The version without the suffix of a distribution or a host.
        let version = self.kernel.split('-').next().unwrap_or_default();
        let processors = std::thread::available_parallelism()?;
        let machine =
            format!("{}, {processors} processors, Linux {version}, commit {}", self.cpu, self.commit);
        Ok(format!("{before}{begin}\n{machine}.\n\n{table}{END}{after}"))
    }
}

fn cases(report: &Report) -> Option<String> {
    let parts = report.measured.parts();
    let mut text = String::from("| | 1 source | 16 million sources |\n|---|---:|---:|\n");
    for (what, case) in CASES {
        let [one, many] = SOURCES.map(|sources| parts.figure(case, Family::Ipv4, sources, 1));
        let _ = writeln!(text, "| {what} | {:.0} | {:.0} |", one?.ns.median, many?.ns.median);
    }
    let mpps = |guard| parts.core_ns(guard, SOURCES[1]).map(|ns| 1e3 / ns.median);
    let others = Guard::ALL.into_iter().filter(|guard| !matches!(guard, Guard::Floodgate | Guard::Nothing));
    let others: Vec<String> =
        others.filter_map(|guard| Some(format!("{} {:.1}", guard.label(), mpps(guard)?))).collect();
    let _ = writeln!(
        text,
        "\nOf a flood from 16 million sources, one core that does nothing else takes in and drops {:.1} million packets a \
         second; behind other filters: {}.",
        mpps(Guard::Floodgate)?,
        others.join(", ")
    );
    Some(text)
}

fn end_to_end(report: &Report) -> Option<String> {
    let rows = &report.measured.e2e;
    let is_there = |guard: &Guard| rows.iter().any(|row| row.filter == guard.label());
    if !Guard::ALL.iter().filter(|guard| guard.tools().is_empty()).all(is_there) {
        return None;
    }
    let mut text = String::from(
        "| Filter | Sources | core, ns (quartiles) | million/s of a core | offered | taken in | one core for all, ns (quartiles) |\n\
         |---|---:|---:|---:|---:|---:|---:|\n",
    );
    for EndToEnd { filter, sources, core, shared_core_ns, visits: _ } in rows {
        let Core { ns, mpps, offered_mpps, received_mpps } = core.as_ref()?;
        let shared = shared_core_ns.as_ref()?;
        let _ = writeln!(
            text,
            "| {filter} | {sources} | {ns:.0} | {mpps:.2} | {offered_mpps:.2} | {received_mpps:.2} | {shared:.0} |"
        );
    }
    text.push_str(
        "\n| Filter | flood, % of capacity | million/s offered | taken in | pages/s (quartiles) | median, ms | p99, ms | failed |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    for (filter, visit) in rows.iter().flat_map(|row| row.visits.iter().map(|visit| (row.filter, visit))) {
        let Visit { load_percent, offered_mpps, received_mpps, pages_per_second, median_ms, p99_ms, failed } =
            visit;
        let _ = writeln!(
            text,
            "| {filter} | {load_percent} | {offered_mpps:.2} | {received_mpps:.2} | {pages_per_second:.0} | {median_ms:.1} | \
             {p99_ms:.1} | {failed} |"
        );
    }
    Some(text)
}

fn vectors(report: &Report) -> Option<String> {
    let mut text = String::from(
        "| Flood | million/s | reached the stack | held after, ms | CPU ns/packet | ideal | pages/s | ideal | failed |\n\
         |---|---:|---:|---:|---:|---:|---:|---:|---:|\n",
    );
    let optional = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.0}"));
    let median = |spread: &Option<Spread>| optional(spread.as_ref().map(|spread| spread.median));
    for row in &report.measured.vectors {
        let VectorRow { vector, flood_mpps, passed, failed, .. } = row;
        let _ = writeln!(
            text,
            "| {vector} | {flood_mpps:.2} | {:.3} % | {} | {} | {} | {:.0} | {:.0} | {failed} |",
            passed * 100.0,
            optional(row.mitigated_ms),
            median(&row.cpu_ns),
            median(&row.ideal_cpu_ns),
            row.requests_per_second.median,
            row.ideal_requests_per_second.median
        );
    }
    (!report.measured.vectors.is_empty()).then_some(text)
}

fn lists(report: &Report) -> Option<String> {
    let mut text = String::from("| | ms |\n|---|---:|\n");
    for row in &report.measured.lists {
        let _ = writeln!(text, "| {} | {:.0} |", row.what, row.ms);
    }
    (!report.measured.lists.is_empty()).then_some(text)
}

/// Formats all ratios: the result of only some parts says nothing about the others.
fn ratios(report: &Report) -> Option<String> {
    let mut text = String::from("| Key | Target | Here (quartiles) | |\n|---|---|---:|---|\n");
    for Target { key, bound, unit, .. } in &TARGETS {
        let ratio = report.ratios.get(key)?;
        let unit = if *unit == Unit::Nanoseconds { " ns" } else { "" };
        let verdict = if ratio.reached { "" } else { "missed" };
        let _ = writeln!(text, "| `{key}` | {bound}{unit} | {ratio} | {verdict} |");
    }
    Some(text)
}

fn hosts(report: &Report) -> Option<String> {
    let hosts = &report.measured.hosts;
    (!hosts.is_empty()).then(|| hosts::markdown(hosts))
}
