//! End to end: a flood on a virtual interface, with each filter in turn, and a visitor behind it.
//!
//! Each filter guards a server in a laboratory of its own, set up before the first round. The flood comes in on the
//! server's cable itself; the visitor's packets take the way through the switch. Throughput is measured with as many
//! packets as one core can send and the same core take in; the visitor with a flood of one rate for all.
//!
//! Every filter knows the attackers' network and drops it, so that all is dropped and no network stack is part of the
//! comparison; those with a limit of each source have it, too.

use std::fmt::Display;

use anyhow::Result;

use crate::visitor::Visits;

use super::{
    Effort, Guard,
    measure::{quantile, quartiles},
    report::{EndToEnd, Visitor},
    site::{Site, dropped},
    tool::Tool,
};

/// Numbers of sources.
const SOURCES: [u64; 2] = [1, 1 << 24];

/// The flood that the visitor is visited by: less than the slowest filter takes in on one core of the machines that
/// we know, so that all filters have the same.
pub(super) const FLOOD_PER_S: u64 = 400_000;

/// What was measured of one filter with so many sources.
#[derive(Default)]
struct Rounds {
    mpps: Vec<f64>,
    visits: Vec<Visits>,
    flood_mpps: Vec<f64>,
}

/// Measures every filter whose program is there, round by round; the others are named and skipped.
pub(super) fn measure(
    effort: Effort,
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<EndToEnd>> {
    let mut sites = Vec::new();
    for guard in Guard::ALL {
        match guard.tool().filter(|tool| !tool.is_installed()) {
            None => sites.push(Site::with_pages(guard)?),
            Some(Tool { program, package }) => progress(&format!(
                "skipping {}: no {program} here (`--setup` installs {package})",
                guard.label()
            ))?,
        }
    }
    let mut measured: Vec<[Rounds; SOURCES.len()]> = sites.iter().map(|_| Default::default()).collect();
    for _ in 0..effort.floods {
        for (site, by_sources) in sites.iter().zip(&mut measured) {
            for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
                rounds.mpps.push(site.throughput(sources, effort.flood)?);
            }
        }
        progress(&format!("a round of {} filters, end to end", sites.len()))?;
    }
    for _ in 0..effort.visits {
        for (site, by_sources) in
            sites.iter().zip(&mut measured).filter(|(site, _)| site.guard().admits_visitor())
        {
            for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
                let flood = site.flood(&dropped(), sources, Some(FLOOD_PER_S))?;
                let (visits, flood_mpps) = site.visit(&[flood], effort.visit)?;
                rounds.visits.push(visits);
                rounds.flood_mpps.push(flood_mpps);
            }
        }
        progress(&"a round of visits")?;
    }
    let mut rows = Vec::new();
    for (site, by_sources) in sites.iter().zip(&measured) {
        for (sources, rounds) in SOURCES.into_iter().zip(by_sources) {
            let row = rounds.sum_up(site.guard(), sources);
            progress(&row)?;
            rows.push(row);
        }
    }
    Ok(rows)
}

impl Rounds {
    fn sum_up(&self, guard: Guard, sources: u64) -> EndToEnd {
        let Self { mpps, visits, flood_mpps } = self;
        let [low, mpps, high] = quartiles(mpps);
        let rates: Vec<f64> = visits.iter().map(Visits::rate).collect();
        let latencies_ms: Vec<f64> = visits
            .iter()
            .flat_map(|visits| &visits.latencies)
            .map(|latency| latency.as_secs_f64() * 1e3)
            .collect();
        let visitor = (!visits.is_empty()).then(|| Visitor {
            flood_mpps: quantile(flood_mpps.clone(), 0.5),
            requests_per_second: quantile(rates, 0.5),
            p99_ms: quantile(latencies_ms, 0.99),
        });
        EndToEnd { filter: guard.label(), sources, mpps, mpps_quartiles: [low, high], visitor }
    }
}
