//! The bench measures: the smallest measurement of each kind, for real.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use floodgate_tests::{
    bench::{Case, Effort, Family, Guard, Part, Selection, TOOLS, run},
    measures, needs_root,
};

const LEAST: Effort = Effort {
    cases: &Case::ALL,
    families: &Family::ALL,
    parts: &Part::ALL,
    rounds: 1,
    slice: Duration::from_millis(3),
    sources: &[1, 1 << 10],
    floods: 1,
    flood: Duration::from_millis(20),
    visits: 1,
    visit: Duration::from_millis(50),
    listed: 1_000,
    changes: 1,
    host: Duration::from_millis(300),
};

/// What the bench measures when these words name it, and what it says meanwhile.
fn measure(words: &[&str]) -> Result<(floodgate_tests::bench::Report, String)> {
    measure_floods(words, &[])
}

/// The same, at hosts with these floods.
fn measure_floods(words: &[&str], floods: &[&str]) -> Result<(floodgate_tests::bench::Report, String)> {
    let [words, floods] =
        [words, floods].map(|words| words.iter().map(ToString::to_string).collect::<Vec<_>>());
    let mut said = String::new();
    let report = run(LEAST, &Selection::parse(&words, LEAST)?.with_floods(floods), |figure| {
        said.push_str(&format!("{figure}\n"));
        Ok(())
    })?;
    Ok((report, said))
}

#[test]
fn every_case_comes_to_what_it_says() -> Result<()> {
    needs_root!();
    measures!();
    // Loading a million entries takes seconds; the same code loads and checks a thousand.
    let is_quick = |case: &Case| !matches!(*case, Case::BLOCK_LIST_1M | Case::LPM_REFERENCE_1M);
    let labels: Vec<&str> = Case::ALL
        .into_iter()
        .filter(|case| case.exists_in(Family::Ipv4) && is_quick(case))
        .map(Case::label)
        .collect();
    let cores = std::thread::available_parallelism()?.get().min(2);
    let (ipv4, said) = measure(&[&labels[..], &["ipv4"]].concat())?;
    ensure!(ipv4.cases.len() == labels.len() * LEAST.sources.len() * cores, "{said}");
    let (ipv6, said) = measure(&["block list 1k", "default", "lru reference", "ipv6"])?;
    ensure!(ipv6.cases.len() == 3 * LEAST.sources.len() * cores, "{said}");
    for figure in ipv4.cases.iter().chain(&ipv6.cases) {
        // Nothing about how long: on a busy machine a difference may even be negative.
        ensure!(figure.floor_ns > 0.0 && figure.ns.is_finite(), "{figure}");
        let [low, high] = figure.ns_quartiles;
        ensure!(low <= figure.ns && figure.ns <= high, "{figure}");
    }
    Ok(())
}

#[test]
fn every_filter_takes_a_flood_in_and_serves_the_visitor() -> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure(&["e2e"])?;
    for guard in Guard::ALL {
        let rows: Vec<_> = report.e2e.iter().filter(|row| row.filter == guard.label()).collect();
        if rows.is_empty() {
            let missing = TOOLS.iter().any(|peer| !peer.is_installed());
            ensure!(missing && said.contains(&format!("skipping {}", guard.label())), "{guard:?}: {said}");
        }
        for row in rows {
            ensure!(row.mpps > 0.0, "{row}");
            let visitor = row.visitor.as_ref();
            ensure!(visitor.is_none() == (guard == Guard::XdpDrop), "{row}");
            let served =
                visitor.is_none_or(|visitor| visitor.requests_per_second > 0.0 && visitor.p99_ms > 0.0);
            ensure!(served || guard == Guard::Nothing, "{row}");
        }
    }
    Ok(())
}

#[test]
fn long_lists_are_changed_and_in_force() -> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure(&["lists"])?;
    ensure!(report.lists.len() == 6 && report.lists.iter().all(|row| row.ms > 0.0), "{said}");
    Ok(())
}

#[test]
fn a_host_is_served_behind_each_configuration_while_nobody_floods_it_and_most_of_a_flood_is_dropped()
-> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure_floods(&["hosts"], &["none", "RST"])?;
    let [quiet, flooded] = report.hosts.as_slice() else {
        let missing = TOOLS.iter().any(|tool| !tool.is_installed());
        ensure!(missing && said.contains("skipping hosts"), "{said}");
        return Ok(());
    };
    for cell in &quiet.cells {
        ensure!(cell.worst_visitor() > 0.8 && cell.worst_own() > 0.8, "{quiet}");
    }
    let [unguarded, default, ..] = flooded.cells.as_slice() else { bail!("{flooded}") };
    ensure!(unguarded.reached > 0.9 && default.reached < 0.5, "{flooded}");
    Ok(())
}
