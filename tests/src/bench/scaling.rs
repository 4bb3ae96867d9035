//! Predictions for more cores: the cost of a packet by layer, the interference between two cores, and a model of more
//! cores; and the memory of the tables. docs/scaling.md states the assumptions of the model.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Write as _},
    fs,
};

use anyhow::{Context, Result};
use aya::maps::loaded_maps;
use flood_userspace::{
    bpf::{Filter, FilterOptions},
    config::Config,
};
use serde::Serialize;

use super::{Case, Family, Guard, Report, ratio::Parts, spread::Spread};

/// The cases and filters that this part needs.
pub(super) const CASES: [Case; 8] = [
    Case::Parse,
    Case::BlockList(0),
    Case::BLOCK_LIST_1M,
    Case::Blocked,
    Case::Conforming,
    Case::Exceeding,
    Case::SourceLimit,
    Case::Default,
];
pub(super) const GUARDS: [Guard; 2] = [Guard::XdpDrop, Guard::Floodgate];

/// One source, and many.
const MANY: u64 = 1 << 24;
const SOURCES: [u64; 2] = [1, MANY];

/// Links, and the million minimum-size frames a second that they carry: 64 bytes each, and 20 between two frames.
const LINKS: [(&str, f64); 3] = [("10 Gbit/s", 14.88), ("25 Gbit/s", 37.2), ("100 Gbit/s", 148.8)];

/// Upper limit on the number of queues of a card.
const MOST_CORES: u32 = 1_024;

/// Tables smaller than this are omitted, MiB.
const SMALL_MIB: f64 = 1.0;

/// Memory of tables with some settings.
#[derive(Serialize, Clone, Debug)]
pub struct TableMemory {
    /// The settings.
    pub settings: String,
    /// The table, or the total.
    pub table: String,
    /// Its memory.
    pub mib: f64,
}

impl Display for TableMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { settings, table, mib } = self;
        write!(f, "{settings:<36} {table:<12} {mib:>8.1}")
    }
}

/// Queries the kernel for the memory of the filter's tables: with the default configuration, the larger tables and
/// the total; with tables of other sizes, the total.
pub(super) fn memory() -> Result<Vec<TableMemory>> {
    let default = FilterOptions::from(&Config::default());
    let row = |settings: &str, table: &str, mib| TableMemory {
        settings: settings.to_owned(),
        table: table.to_owned(),
        mib,
    };
    let tables = tables_of(&default)?;
    let mut rows: Vec<TableMemory> = Vec::new();
    for (table, mib) in tables.iter().filter(|(_, mib)| **mib >= SMALL_MIB) {
        rows.push(row("default", table, *mib));
    }
    rows.push(row("default", "all", tables.values().sum()));
    let sized = |sources: u64, listed_ipv4: u64, listed_ipv6: u64| FilterOptions {
        sources,
        listed_ipv4,
        listed_ipv6,
        ..default.clone()
    };
    let FilterOptions { sources, listed_ipv4, listed_ipv6, .. } = default;
    for factor in [4, 16] {
        // The largest size that the configuration accepts is eight times the default.
        let factor_ipv6 = factor / 2;
        let changed = [
            ("sources.table", factor * sources, sized(factor * sources, listed_ipv4, listed_ipv6)),
            ("lists.ipv4", factor * listed_ipv4, sized(sources, factor * listed_ipv4, listed_ipv6)),
            ("lists.ipv6", factor_ipv6 * listed_ipv6, sized(sources, listed_ipv4, factor_ipv6 * listed_ipv6)),
        ];
        for (setting, size, options) in changed {
            rows.push(row(&format!("{setting} = {size}"), "all", tables_of(&options)?.values().sum()));
        }
    }
    Ok(rows)
}

/// Returns the memory of a filter's tables, MiB, by name.
fn tables_of(options: &FilterOptions) -> Result<BTreeMap<String, f64>> {
    let before = maps_of_this_process()?;
    let filter = Filter::load(options)?;
    let ours = maps_of_this_process()?;
    let mut tables = BTreeMap::new();
    for map in loaded_maps() {
        // A map that is gone meanwhile is not ours.
        let Ok(map) = map else { continue };
        if let Some(bytes) = ours.get(&map.id()).filter(|_| !before.contains_key(&map.id())) {
            let name = map.name_as_str().unwrap_or_default().to_owned();
            *tables.entry(name).or_default() += *bytes as f64 / f64::from(1 << 20);
        }
    }
    drop(filter);
    Ok(tables)
}

/// Returns the maps that this process holds, by number, and the bytes of each (`/proc/PID/fdinfo`).
fn maps_of_this_process() -> Result<BTreeMap<u32, u64>> {
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir("/proc/self/fdinfo").context("reading /proc/self/fdinfo")? {
        // The descriptor of the directory listing itself is closed by now.
        let text = fs::read_to_string(entry?.path()).unwrap_or_default();
        maps.extend(parse_map(&text));
    }
    Ok(maps)
}

/// Parses the number and the bytes of a map, if the descriptor is one.
fn parse_map(fdinfo: &str) -> Option<(u32, u64)> {
    let value = |key: &str| {
        fdinfo.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix(':').map(str::trim))
    };
    Some((value("map_id")?.parse().ok()?, value("memlock")?.parse().ok()?))
}

/// A model of cores that each have their own queue of the card.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Model {
    /// Time per packet of a single active core, nanoseconds.
    alone_ns: f64,
    /// Additional time when another core is active as well.
    shared_ns: f64,
}

impl Model {
    /// Nanoseconds per packet on each of this many cores. A cache line that another core wrote last has to be fetched
    /// from there: with two cores that is so for half of the packets, with many for nearly all.
    fn ns(self, cores: u32) -> f64 {
        let others = f64::from(cores - 1) / f64::from(cores);
        self.alone_ns + 2.0 * self.shared_ns.max(0.0) * others
    }

    /// Returns how many cores can receive this many million packets a second, if there are enough.
    fn cores_for(self, mpps: f64) -> Option<u32> {
        (1..=MOST_CORES).find(|cores| f64::from(*cores) * 1e3 / self.ns(*cores) >= mpps)
    }
}

/// Formats the tables of docs/scaling.md for the parts that have been measured; nothing without the first table.
pub(super) fn markdown(report: &Report) -> Option<String> {
    let parts = report.measured.parts();
    let mut text = layers(&parts)?;
    let _ = write!(text, "\n{}\n{}", two_cores(&parts)?, links(&parts)?);
    let memory = &report.measured.memory;
    if !memory.is_empty() {
        text.push_str("\n| Settings | Table | MiB |\n|---|---|---:|\n");
    }
    for TableMemory { settings, table, mib } in memory {
        let _ = writeln!(text, "| `{settings}` | {table} | {mib:.1} |");
    }
    Some(text)
}

/// Formats the cost of a packet, by layer.
fn layers(parts: &Parts<'_>) -> Option<String> {
    let [drop, ours] = GUARDS.map(|guard| SOURCES.map(|sources| parts.core_ns(guard, sources)));
    let ([drop_one, drop_many], [one, many]) = (drop, ours);
    let (filter, whole) = (one?.above(drop_one?), many?.above(drop_many?));
    let mut text = String::from("| Layer | ns for a packet (quartiles) | What it is |\n|---|---:|---|\n");
    for (layer, ns, what) in [
        ("driver, dispatcher, memory", drop_many?, "bare `XDP_DROP`, the receiving core's time"),
        ("filter", &filter, "`floodgate` above it, one source"),
        ("tables", &whole.above(&filter), "from one source to 16 million"),
        ("all", many?, "`floodgate`, 16 million sources"),
    ] {
        let untold = if ns.is_told_from(0.0) { "" } else { "; no difference told" };
        let _ = writeln!(text, "| {layer} | {ns:.0} | {what}{untold} |");
    }
    text.push_str("\n| By test run, above the floor | 1 source | 16 million |\n|---|---:|---:|\n");
    for case in CASES {
        let [one, many] = SOURCES.map(|sources| parts.figure(case, Family::Ipv4, sources, 1));
        let _ = writeln!(text, "| `{}` | {:.0} | {:.0} |", case.label(), one?.ns, many?.ns);
    }
    Some(text)
}

/// Formats the interference between two cores.
fn two_cores(parts: &Parts<'_>) -> Option<String> {
    let mut text = String::from(
        "| Case | Sources | one core, ns | each of two, ns | packets a second of two over those of one |\n\
         |---|---:|---:|---:|---:|\n",
    );
    for case in CASES {
        for sources in SOURCES {
            let [one, two] = [1, 2].map(|cores| parts.whole_ns(case, sources, cores));
            let _ = writeln!(
                text,
                "| `{}` | {sources} | {:.0} | {:.0} | {:.2} |",
                case.label(),
                one?,
                two?,
                parts.scaling_of(case, sources)?
            );
        }
    }
    Some(text)
}

/// Formats how many cores a link requires.
fn links(parts: &Parts<'_>) -> Option<String> {
    let [drop, ours] = GUARDS.map(|guard| parts.core_ns(guard, MANY));
    let alone = |ns: &Spread| Model { alone_ns: ns.median, shared_ns: 0.0 };
    let shared = [Case::Conforming, Case::SourceLimit, Case::Default].map(|case| {
        let [one, two] = [1, 2].map(|cores| parts.whole_ns(case, MANY, cores));
        let dearer = two?.above(&one?);
        Some(if dearer.is_told_from(0.0) { dearer.median } else { 0.0 })
    });
    let shared_ns = shared.into_iter().collect::<Option<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
    let models = [alone(drop?), alone(ours?), Model { shared_ns, ..alone(ours?) }];
    let mut text = format!(
        "| Link | million packets/s | cores: bare `XDP_DROP` | `floodgate` | `floodgate`, each packet's lines shared ({shared_ns:.0} ns) |\n\
         |---|---:|---:|---:|---:|\n"
    );
    for (link, mpps) in LINKS {
        let _ = write!(text, "| {link} | {mpps} |");
        for model in models {
            let cores = model.cores_for(mpps).map_or_else(|| "-".into(), |cores| cores.to_string());
            let _ = write!(text, " {cores} |");
        }
        text.push('\n');
    }
    let _ = writeln!(text, "\nOne core alone: {:.2} million packets a second.", 1e3 / ours?.median);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_that_share_nothing_add_up() {
        let model = Model { alone_ns: 100.0, shared_ns: 0.0 };
        assert_eq!(LINKS.map(|(_, mpps)| model.cores_for(mpps)), [Some(2), Some(4), Some(15)]);
        assert_eq!(Model { alone_ns: 1e6, ..model }.cores_for(148.8), None, "no card has so many queues");
    }

    #[test]
    fn a_shared_line_costs_at_most_twice_what_two_cores_pay() {
        let model = Model { alone_ns: 100.0, shared_ns: 30.0 };
        assert_eq!([1, 2].map(|cores| model.ns(cores)), [100.0, 130.0]);
        assert!((159.0..160.0).contains(&model.ns(1_000)), "{}", model.ns(1_000));
        assert_eq!(Model { shared_ns: -5.0, ..model }.ns(2), 100.0, "noise makes nothing faster");
    }

    #[test]
    fn a_map_is_told_from_other_descriptors() {
        let map = "pos:\t0\nflags:\t02000002\nmap_type:\t2\nmax_entries:\t1\nmemlock:\t4096\nmap_id:\t17\nfrozen:\t0\n";
        assert_eq!(parse_map(map), Some((17, 4_096)));
        assert_eq!(parse_map("pos:\t0\nflags:\t0100000\n"), None);
    }
}
