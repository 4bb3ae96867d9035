//! Each kind of flood against a [`Host`] without a filter, with the default configuration, and with each example.
//! Measures what reaches the network stack, and what is left to the worst-off service of its visitors and to the
//! worst-off of its own clients, relative to an unguarded host without a flood.

use std::{
    collections::BTreeMap,
    env,
    fmt::{self, Display, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use super::{
    Effort, Guard,
    attack::{Attack, captures, frames_of},
    host::{Host, Outcome},
    profile::{DNS, GAME, WEB},
    tool::{SERVICES, Tool},
    vector::{VECTORS, Vector},
};

/// Packets a second: 0.13 Gbit/s of minimum-size frames, what a rented server can send.
const FLOOD_PER_S: u64 = 200_000;

/// The goals, as shares: the most that should reach the stack of a host with the default configuration, and the least
/// that should be left to each service.
const MOST_REACHED: f64 = 0.10;
const LEAST_SERVED: f64 = 0.95;

/// Below this share of the intended flood, a cell is unreliable: the machine was too busy to send it.
const LEAST_FLOOD: f64 = 0.9;

/// Floods that cannot be distinguished from legitimate use of the services. They are exempt from the first goal.
const OPEN_PORTS: [&str; 4] = ["UDP, game", "UDP, game, IPv6", "DNS queries", "DNS queries, IPv6"];

/// The column without a filter, and the one that the goals apply to.
const UNGUARDED: &str = "no filter";
const DEFAULT: &str = "default";

/// Results of a kind of flood.
#[derive(Serialize, Clone, Debug)]
pub struct HostRow {
    /// Its kind, or the name of a capture.
    pub vector: String,
    /// By configuration, in the order in which they were measured.
    pub cells: Vec<HostCell>,
}

/// Results with one configuration.
#[derive(Serialize, Clone, Debug)]
pub struct HostCell {
    /// The configuration.
    pub config: &'static str,
    /// Million packets a second of the flood that the host received.
    pub flood_mpps: f64,
    /// The share of the flood that reached the network stack.
    pub reached: f64,
    /// What is left to each service of visitors, relative to the host without a flood.
    pub visitors: BTreeMap<&'static str, f64>,
    /// The same for the host's own clients.
    pub own: BTreeMap<&'static str, f64>,
}

/// A kind of flood, or a capture.
enum Source {
    Kind(&'static Vector),
    Capture(String, PathBuf),
}

impl Source {
    fn label(&self) -> &str {
        match self {
            Self::Kind(vector) => vector.label,
            Self::Capture(name, _) => name,
        }
    }

    fn is_ipv6(&self) -> bool {
        matches!(self, Self::Kind(vector) if vector.is_ipv6())
    }

    fn attack(&self, host: &Host) -> Result<Attack> {
        match self {
            Self::Kind(vector) => Ok(Attack::Floods(vector.floods(host.site(), FLOOD_PER_S)?)),
            Self::Capture(_, path) => Ok(Attack::Frames {
                interface: host.site().port()?,
                frames: frames_of(path)?,
                rate: FLOOD_PER_S,
            }),
        }
    }
}

/// Measures the named kinds of floods, or all, and captures if there are any. All hosts are set up first and take
/// turns with each flood, so that each is idle in between.
pub(super) fn measure(
    effort: Effort,
    named: &[String],
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<HostRow>> {
    if let Some(Tool { program, package }) = SERVICES.iter().find(|tool| !tool.is_installed()) {
        progress(&format!("skipping hosts: no {program} here (`--setup` installs {package})"))?;
        return Ok(Vec::new());
    }
    let sources = sources(named, progress)?;
    let guards = [Guard::Nothing, Guard::Configured(DEFAULT, "")];
    let examples = [WEB, DNS, GAME].map(|(name, config)| Guard::Configured(name, config));
    let guards = guards.into_iter().chain(examples);
    let hosts = guards.map(Host::new).collect::<Result<Vec<_>>>()?;
    let [unguarded, ..] = hosts.as_slice() else { return Ok(Vec::new()) };
    let quiet = [false, true].map(|ipv6| Quiet::of(unguarded, ipv6, effort.host));
    let [quiet, quiet6] = quiet;
    let (quiet, quiet6) = (quiet?, quiet6?);
    let mut rows = Vec::new();
    for source in &sources {
        let mut cells = Vec::new();
        for host in &hosts {
            let outcome = host.under(&source.attack(host)?, source.is_ipv6(), effort.host)?;
            let quiet = if source.is_ipv6() { &quiet6 } else { &quiet };
            cells.push(quiet.cell(host.guard().label(), &outcome));
        }
        let row = HostRow { vector: source.label().to_owned(), cells };
        progress(&row)?;
        rows.push(row);
    }
    Ok(rows)
}

/// Returns what to send: what is named, or everything.
fn sources(named: &[String], progress: &mut impl FnMut(&dyn Display) -> Result<()>) -> Result<Vec<Source>> {
    let mut sources: Vec<Source> = VECTORS.iter().map(Source::Kind).collect();
    match env::var_os("FLOODGATE_CAPTURES") {
        Some(folder) => {
            let captures = captures(Path::new(&folder)).context("reading FLOODGATE_CAPTURES")?;
            sources.extend(captures.into_iter().map(|(name, path)| Source::Capture(name, path)));
        }
        None => progress(&"skipping captures: FLOODGATE_CAPTURES names no folder with any")?,
    }
    for name in named {
        let labels: Vec<&str> = sources.iter().map(Source::label).collect();
        ensure!(labels.contains(&name.as_str()), "{name} is none of the floods: {}", labels.join("; "));
    }
    sources.retain(|source| named.is_empty() || named.iter().any(|name| name == source.label()));
    Ok(sources)
}

/// Success shares of an unguarded host without a flood.
struct Quiet(BTreeMap<&'static str, f64>);

impl Quiet {
    fn of(host: &Host, ipv6: bool, duration: Duration) -> Result<Self> {
        let Outcome { visitors, own, .. } = host.under(&Attack::Floods(Vec::new()), ipv6, duration)?;
        let shares = visitors.into_iter().chain(own).map(|(name, tally)| (name, tally.share()));
        let shares: BTreeMap<_, _> = shares.collect();
        let broken = shares.iter().find(|(_, share)| **share < LEAST_SERVED);
        ensure!(broken.is_none(), "without any flood, too little comes of this: {broken:?}");
        Ok(Self(shares))
    }

    fn cell(&self, config: &'static str, outcome: &Outcome) -> HostCell {
        let Outcome { flood_mpps, reached, visitors, own } = outcome;
        let left = |tallies: &[(&'static str, _)]| {
            tallies
                .iter()
                .map(|(name, tally): &(_, crate::clients::Tally)| {
                    (*name, (tally.share() / self.0.get(name).copied().unwrap_or(1.0)).min(1.0))
                })
                .collect()
        };
        HostCell {
            config,
            flood_mpps: *flood_mpps,
            reached: *reached,
            visitors: left(visitors),
            own: left(own),
        }
    }
}

impl HostCell {
    fn worst(shares: &BTreeMap<&'static str, f64>) -> f64 {
        shares.values().copied().fold(1.0, f64::min)
    }

    /// What is left to the worst-off service of visitors.
    pub fn worst_visitor(&self) -> f64 {
        Self::worst(&self.visitors)
    }

    /// What is left to the worst-off client of the host.
    pub fn worst_own(&self) -> f64 {
        Self::worst(&self.own)
    }
}

impl HostRow {
    /// Describes the goals that were missed: how much of the flood reaches the stack with the default configuration,
    /// and what is left of services with any configuration.
    pub fn misses(&self) -> Vec<String> {
        let Self { vector, cells } = self;
        let percent = |share: f64| format!("{:.0} %", share * 100.0);
        let mut misses = Vec::new();
        for HostCell { config, reached, visitors, own, .. } in
            cells.iter().filter(|cell| cell.config != UNGUARDED)
        {
            if *config == DEFAULT && *reached > MOST_REACHED && !OPEN_PORTS.contains(&vector.as_str()) {
                misses.push(format!("{vector}, {config}: {} reaches the stack", percent(*reached)));
            }
            let unguarded = cells.iter().find(|cell| cell.config == UNGUARDED);
            for (name, left) in visitors.iter().chain(own).filter(|(_, left)| **left < LEAST_SERVED) {
                let without =
                    unguarded.and_then(|cell| cell.visitors.get(name).or_else(|| cell.own.get(name)));
                let without = without.map(|left| format!(", {} without a filter", percent(*left)));
                misses.push(format!(
                    "{vector}, {config}: {} left to {name}{}",
                    percent(*left),
                    without.unwrap_or_default()
                ));
            }
        }
        misses
    }
}

impl HostRow {
    /// Describes the cells where less of a flood arrived than should have.
    fn too_small(&self) -> Vec<String> {
        let Self { vector, cells } = self;
        let is_small = |cell: &&HostCell| {
            cell.flood_mpps > 0.0 && cell.flood_mpps * 1e6 < FLOOD_PER_S as f64 * LEAST_FLOOD
        };
        let small = cells.iter().filter(is_small);
        small
            .map(|cell| format!("{vector}, {}: {:.0} packets a second", cell.config, cell.flood_mpps * 1e6))
            .collect()
    }
}

/// Formats the rows as a Markdown table, followed by the missed goals.
pub(super) fn markdown(rows: &[HostRow]) -> String {
    let configs = rows.first().map(|row| row.cells.iter().map(|cell| cell.config)).into_iter().flatten();
    let configs: Vec<_> = configs.collect();
    let mut text = format!("| Flood | {} |\n|---|{}\n", configs.join(" | "), "---:|".repeat(configs.len()));
    for HostRow { vector, cells } in rows {
        let _ = write!(text, "| {vector} |");
        for cell in cells {
            let _ = write!(text, " {cell} |");
        }
        text.push('\n');
    }
    let misses = rows.iter().flat_map(HostRow::misses).collect::<Vec<_>>();
    let too_small = rows.iter().flat_map(HostRow::too_small).collect::<Vec<_>>();
    for (what, lines) in [
        ("What misses the goals:", misses),
        ("Of these floods less came in, as the machine was busy:", too_small),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n{what}\n");
        }
        for line in lines {
            let _ = writeln!(text, "- {line}");
        }
    }
    text
}

impl Display for HostCell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| (share * 100.0).round();
        let reached = self.reached * 100.0;
        let digits = usize::from(reached < 9.95);
        write!(f, "{reached:.digits$} · {} · {}", percent(self.worst_visitor()), percent(self.worst_own()))
    }
}

impl Display for HostRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vector, cells } = self;
        write!(f, "{vector:<24}")?;
        for cell in cells {
            let text = cell.to_string();
            write!(f, " {text:>16}")?;
        }
        Ok(())
    }
}
