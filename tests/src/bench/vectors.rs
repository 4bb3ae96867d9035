//! One flood of each kind after the other, from spoofed addresses: what reaches the network stack, and what a visitor
//! gets, compared with the same flood in front of an ideal filter.

use std::fmt::{self, Display};

use anyhow::Result;
use serde::Serialize;

use crate::packet::Build;

use super::{
    Effort, Guard, e2e::FLOOD_PER_S, measure::quantile, site::Site, spread::Spread, vector::VECTORS,
};

/// Budgets for the whole host, below what the visitor needs, so that the visitor needs evidence as well, for each
/// packet. The visitor is a single address, so there is no limit for a source.
const CONFIG: &str = "
    [proof]
    syn = \"cookie\"
    syncookies = \"raise\"
    [limit]
    source.packets = \"off\"
    source.syn.packets = \"off\"
    total.syn = { packets = \"500/s\", packets_burst = \"50\" }
    total.synack = { packets = \"500/s\", packets_burst = \"50\" }
    total.rst_fin = { packets = \"500/s\", packets_burst = \"50\" }
    total.tcp = { packets = \"500/s\", packets_burst = \"50\" }
    total.udp = { packets = \"500/s\", packets_burst = \"50\" }
    total.amplification = { packets = \"500/s\", packets_burst = \"50\" }
    total.icmp = { packets = \"500/s\", packets_burst = \"50\" }
    total.fragment = { packets = \"500/s\", packets_burst = \"50\" }
    total.other = { packets = \"500/s\", packets_burst = \"50\" }
";

/// Sources: a /8 of IPv4.
const SOURCES: u64 = 1 << 24;

/// How often the cost of a packet is measured; odd, for the median.
const COSTS: usize = 5;

/// Results of a flood.
#[derive(Serialize, Clone, Debug)]
pub struct VectorRow {
    /// Its kind.
    pub vector: &'static str,
    /// Rate of the flood, million packets a second.
    pub flood_mpps: f64,
    /// Share of the flood that reached the network stack.
    pub passed: f64,
    /// When the last packets in excess of the budget passed, milliseconds after the first; only for a flood of one
    /// kind.
    pub mitigated_ms: Option<f64>,
    /// CPU time in which one of its packets is sent and received, nanoseconds; also only for a flood of one kind.
    pub cpu_ns: Option<Spread>,
    /// The same in front of an ideal filter.
    pub ideal_cpu_ns: Option<Spread>,
    /// Pages a second, each over a new connection.
    pub requests_per_second: Spread,
    /// Attempts of the visitor that failed.
    pub failed: u64,
    /// Pages a second behind an ideal filter.
    pub ideal_requests_per_second: Spread,
    /// Rate of the flood in front of the ideal filter, million packets a second.
    pub ideal_flood_mpps: f64,
}

/// The kinds of floods, by their first packets.
pub(super) const KINDS: [&str; 12] = [
    "SYN",
    "SYN, IPv6",
    "SYN, closed port",
    "SYN-ACK",
    "ACK",
    "RST",
    "UDP, closed port",
    "reflectors, closed port",
    "later fragments",
    "ICMP echo",
    "GRE",
    "ACK, IPv6",
];

/// Measures without a flood, with each kind of flood, and with all of them in turn.
pub(super) fn measure(
    effort: Effort,
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<VectorRow>> {
    let guarded = Guard::Configured("floodgate, proof", CONFIG);
    let sites = [Site::with_pages(guarded)?, Site::with_pages(Guard::Ideal)?];
    let mut rows = Vec::new();
    let kinds = VECTORS.iter().filter(|vector| effort.kinds.contains(&vector.label));
    let kinds: Vec<_> =
        kinds.map(|vector| (vector.label, vector.packets().into_iter().take(1).collect())).collect();
    let builds = kinds.iter().flat_map(|(_, builds): &(_, Vec<Build>)| builds.clone()).collect();
    for (vector, builds) in [("none", vec![])].into_iter().chain(kinds).chain([("in turn", builds)]) {
        let row = row(&sites, vector, &builds, effort)?;
        progress(&row)?;
        rows.push(row);
    }
    Ok(rows)
}

fn row(
    [guarded, ideal]: &[Site; 2],
    vector: &'static str,
    builds: &[Build],
    effort: Effort,
) -> Result<VectorRow> {
    let floods = |site: &Site| -> Result<Vec<_>> {
        builds.iter().map(|build| site.flood(build, SOURCES, Some(FLOOD_PER_S))).collect()
    };
    let (ours, ideals) = (floods(guarded)?, floods(ideal)?);
    let duration = effort.visit * builds.len().clamp(1, 4) as u32;
    // Without the visitor's packets.
    let through = || -> Result<i64> { Ok(guarded.passed()? as i64 - guarded.sent_by_visitor()? as i64) };
    let (mut cpu_ns, mut ideal_cpu_ns, mut mitigated_ms) = (Vec::new(), Vec::new(), None);
    let (mut rates, mut best) = (Vec::new(), Vec::new());
    let (mut flood_mpps, mut ideal_flood_mpps) = (Vec::new(), Vec::new());
    let (mut passed, mut offered, mut failed) = (0, 0.0, 0);
    if let ([flood], [ideal_flood]) = (ours.as_slice(), ideals.as_slice()) {
        mitigated_ms = Some(guarded.mitigation(flood)?.as_secs_f64() * 1e3);
        let (mut programs, mut ideal_programs) = (flood.load()?, ideal_flood.load()?);
        programs.write_each_anew()?;
        ideal_programs.write_each_anew()?;
        for _ in 0..COSTS {
            cpu_ns.push(guarded.cost(flood, &mut programs)?);
            ideal_cpu_ns.push(ideal.cost(ideal_flood, &mut ideal_programs)?);
        }
    }
    for _ in 0..effort.visits {
        let before = through()?;
        let (visits, mpps) = guarded.visit(&ours, duration)?;
        passed += through()? - before;
        offered += mpps * 1e6 * visits.elapsed.as_secs_f64();
        failed += visits.latencies.len() as u64 - visits.pages;
        rates.push(visits.rate());
        flood_mpps.push(mpps);
        let (visits, mpps) = ideal.visit(&ideals, duration)?;
        best.push(visits.rate());
        ideal_flood_mpps.push(mpps);
    }
    let if_any = |rounds: Vec<f64>| (!rounds.is_empty()).then(|| Spread::of(rounds));
    Ok(VectorRow {
        vector,
        flood_mpps: quantile(flood_mpps, 0.5),
        // Packets of the visitor that did not pass because they were answered make this slightly smaller than it was.
        passed: if offered > 0.0 { passed.max(0) as f64 / offered } else { 0.0 },
        mitigated_ms,
        cpu_ns: if_any(cpu_ns),
        ideal_cpu_ns: if_any(ideal_cpu_ns),
        requests_per_second: Spread::of(rates),
        failed,
        ideal_requests_per_second: Spread::of(best),
        ideal_flood_mpps: quantile(ideal_flood_mpps, 0.5),
    })
}

impl Display for VectorRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            vector,
            flood_mpps,
            passed,
            mitigated_ms,
            cpu_ns,
            ideal_cpu_ns,
            requests_per_second,
            failed,
            ideal_requests_per_second,
            ideal_flood_mpps: _,
        } = self;
        let median = |spread: &Option<Spread>| spread.as_ref().map(|spread| spread.median);
        let [mitigated_ms, cpu_ns, ideal_cpu_ns] = [*mitigated_ms, median(cpu_ns), median(ideal_cpu_ns)]
            .map(|value| value.map_or_else(|| "-".into(), |value| format!("{value:.0}")));
        let [pages, ideal_pages] =
            [requests_per_second, ideal_requests_per_second].map(|spread| spread.median);
        write!(
            f,
            "{vector:<21} {flood_mpps:>10.2} {:>9.3} % {mitigated_ms:>7} {cpu_ns:>7} {ideal_cpu_ns:>7} {pages:>10.0} {failed:>7} {ideal_pages:>11.0}",
            passed * 100.0
        )
    }
}
