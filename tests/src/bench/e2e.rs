//! End to end: a flood on a virtual interface, with each filter in turn, and a visitor behind it.
//!
//! Each filter guards a server in a laboratory of its own, set up before the first round. The flood arrives directly
//! on the server's veth pair; the visitor's packets pass through the switch. First it measures [what a core
//! receives](super::capacity), then what the visitor gets during a flood of a share of that.
//!
//! Every filter knows the attackers' network and drops it. So the whole flood is dropped, and the network stack is
//! not part of the comparison. Filters that support a limit for each source have one as well.

use std::fmt::Display;

use anyhow::Result;

use crate::{programs::Programs, visitor::Visits};

use super::{
    Effort, Guard,
    capacity::{Capacity, RECEIVING_CORE, Visited},
    measure::quantile,
    report::{Core, EndToEnd, Visit},
    site::{Site, dropped},
    spread::Spread,
    tool::Tool,
};

/// Number of sources of the flood while a visitor is measured.
const MANY: u64 = 1 << 24;

/// Rate of the flood of each kind in the part `vectors`, which two cores send and receive: below what the slowest
/// filter handles on the machines that we know.
pub(super) const FLOOD_PER_S: u64 = 400_000;

/// Measurements of one filter with one number of sources.
#[derive(Default)]
struct Rounds {
    capacities: Vec<Capacity>,
    shared_ns: Vec<f64>,
}

/// Measures the named filters, or all of the effort, round by round. Filters whose program or kernel module is
/// missing are reported and skipped.
pub(super) fn measure(
    effort: Effort,
    filters: &[&str],
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<EndToEnd>> {
    let mut sites = Vec::new();
    let chosen = Guard::ALL.into_iter().filter(|guard| match filters {
        [] => effort.guards.contains(guard),
        _ => filters.contains(&guard.label()),
    });
    for guard in chosen {
        match set_up(guard) {
            Ok(site) => sites.push(site),
            Err(Unusable::Skipped(reason)) => progress(&format!("skipping {}: {reason}", guard.label()))?,
            Err(Unusable::Failed(error)) => return Err(error),
        }
    }
    let Some(first) = sites.first() else { return Ok(Vec::new()) };
    let has_core = match cannot_take_in_alone(first) {
        None => true,
        Some(reason) => {
            progress(&format!("skipping the capacity of a core and the visitor: {reason}"))?;
            false
        }
    };
    let mut generators = effort
        .flood_sources
        .iter()
        .map(|sources| Ok((*sources, first.flood(&dropped(), *sources, None)?.load_with_bursts()?)))
        .collect::<Result<Vec<(u64, Programs)>>>()?;
    let mut measured: Vec<Vec<Rounds>> =
        sites.iter().map(|_| generators.iter().map(|_| Rounds::default()).collect()).collect();
    for round in 1..=effort.floods {
        for (site, by_sources) in sites.iter().zip(&mut measured) {
            for ((sources, generator), rounds) in generators.iter_mut().zip(by_sources) {
                if has_core {
                    rounds.capacities.push(site.capacity(generator, *sources, effort.flood)?);
                }
                rounds.shared_ns.push(site.shared_core(generator, *sources, effort.flood)?);
            }
        }
        progress(&format!("round {round} of {}, {} filters end to end", effort.floods, sites.len()))?;
    }
    let mut rows = Vec::new();
    for (site, by_sources) in sites.iter().zip(measured) {
        for ((sources, _), rounds) in generators.iter().zip(by_sources) {
            let row = rounds.sum_up(site.guard(), *sources);
            progress(&row)?;
            rows.push(row);
        }
    }
    if let Some((_, generator)) = generators.iter_mut().find(|(sources, _)| *sources == MANY) {
        measure_visits(effort, &sites, generator, &mut rows, progress)?;
    }
    Ok(rows)
}

/// Why a filter is not measured.
pub(super) enum Unusable {
    /// A program or a kernel feature is missing.
    Skipped(String),
    /// It should have worked.
    Failed(anyhow::Error),
}

/// Names the first program that a filter lacks, if any.
pub(super) fn missing_tool(guard: Guard) -> Option<String> {
    let Tool { program, package } = guard.tools().iter().find(|tool| !tool.is_installed())?;
    Some(format!("no {program} here (`--setup` installs {package})"))
}

fn set_up(guard: Guard) -> Result<Site, Unusable> {
    if let Some(reason) = missing_tool(guard) {
        return Err(Unusable::Skipped(reason));
    }
    Site::with_pages_from(guard, RECEIVING_CORE).map_err(|error| {
        // Third-party programs may need kernel features that are missing.
        if guard.tools().is_empty() {
            Unusable::Failed(error)
        } else {
            Unusable::Skipped(format!("{error:#}"))
        }
    })
}

/// Explains why no core can be dedicated to receiving, if none can.
fn cannot_take_in_alone(site: &Site) -> Option<String> {
    match std::thread::available_parallelism() {
        Ok(cores) if cores.get() > RECEIVING_CORE => site.receiver().err().map(|error| format!("{error:#}")),
        Ok(_) => Some("this machine has one processor".into()),
        Err(error) => Some(error.to_string()),
    }
}

/// Measures visitors, alternating between filters and shares of their capacity, and adds the results to the rows.
fn measure_visits(
    effort: Effort,
    sites: &[Site],
    generator: &mut Programs,
    rows: &mut [EndToEnd],
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<()> {
    let mut all = Vec::new();
    for site in sites.iter().filter(|site| site.guard().admits_visitor()) {
        let is_his = |row: &EndToEnd| row.filter == site.guard().label() && row.sources == MANY;
        let Some(row) = rows.iter().position(is_his) else { continue };
        let Some(Core { mpps, .. }) = rows[row].core else { continue };
        all.push(Visiting { site, row, mpps, by_load: effort.loads.iter().map(|_| Vec::new()).collect() });
    }
    for round in 1..=effort.load_visits {
        for Visiting { site, mpps, by_load, .. } in &mut all {
            for (load, visits) in effort.loads.iter().zip(by_load) {
                let capacity = *mpps * 1e6;
                let rate = (capacity * f64::from(*load) / 100.0) as u64;
                visits.push(site.visit_during(generator, MANY, (rate, capacity), effort.visit)?);
            }
        }
        progress(&format!("round {round} of {} of visits", effort.load_visits))?;
    }
    for Visiting { row, by_load, .. } in all {
        let rounds = effort.loads.iter().zip(by_load).filter(|(_, rounds)| !rounds.is_empty());
        rows[row].visits = rounds.map(|(load, rounds)| sum_up_visits(*load, &rounds)).collect();
        for visit in &rows[row].visits {
            progress(&format!("{:<22} {visit}", rows[row].filter))?;
        }
    }
    Ok(())
}

/// A filter that a visitor passes, its row, the capacity of its core, and the visits by load.
struct Visiting<'a> {
    site: &'a Site,
    row: usize,
    mpps: f64,
    by_load: Vec<Vec<Visited>>,
}

impl Rounds {
    fn sum_up(self, guard: Guard, sources: u64) -> EndToEnd {
        let Self { capacities, shared_ns } = self;
        let core = (!capacities.is_empty()).then(|| Core::of(&capacities));
        let shared_core_ns = Some(Spread::of(shared_ns));
        EndToEnd { filter: guard.label(), sources, core, shared_core_ns, visits: Vec::new() }
    }
}

fn sum_up_visits(load_percent: u32, rounds: &[Visited]) -> Visit {
    let of_each = |of: fn(&Visited) -> f64| rounds.iter().map(of).collect::<Vec<_>>();
    let latencies = rounds.iter().flat_map(|round| &round.visits.latencies);
    let latencies_ms: Vec<f64> = latencies.map(|latency| latency.as_secs_f64() * 1e3).collect();
    let failed = |Visits { latencies, pages, .. }: &Visits| latencies.len() as u64 - pages;
    Visit {
        load_percent,
        offered_mpps: quantile(of_each(|round| round.offered_mpps), 0.5),
        received_mpps: quantile(of_each(|round| round.received_mpps), 0.5),
        pages_per_second: Spread::of(of_each(|round| round.visits.rate())),
        median_ms: quantile(latencies_ms.clone(), 0.5),
        p99_ms: quantile(latencies_ms, 0.99),
        failed: rounds.iter().map(|round| failed(&round.visits)).sum(),
    }
}
