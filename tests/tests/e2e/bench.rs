//! The bench works: the smallest measurement of each kind, for real.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use floodgate_tests::{
    bench::{Case, Effort, Family, Guard, Part, Selection, TOOLS, run},
    daemon::{self, Said},
    flood::Flood,
    lab::{Lab, Role},
    measures,
    napi::is_threaded,
    needs_root, packet,
    programs::Sources,
    same_on_every_kernel,
};

const LEAST: Effort = Effort {
    cases: &[(Family::Ipv4, &Case::ALL), (Family::Ipv6, &Case::ALL)],
    parts: &Part::ALL,
    rounds: 1,
    slice: Duration::from_millis(3),
    sources: &[1, 1 << 10],
    guards: &Guard::ALL,
    flood_sources: &[1, 1 << 24],
    floods: 1,
    flood: Duration::from_millis(20),
    loads: &[0, 50],
    load_visits: 1,
    kinds: &["SYN"],
    visits: 1,
    visit: Duration::from_millis(50),
    listed: 1_000,
    changes: 1,
    host: Duration::from_millis(300),
};

/// Returns what the bench measures for these words, and its progress output.
fn measure(words: &[&str]) -> Result<(floodgate_tests::bench::Report, String)> {
    measure_floods(words, &[])
}

/// The same, for hosts with these floods.
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
    ensure!(ipv4.measured.cases.len() == labels.len() * LEAST.sources.len() * cores, "{said}");
    let (ipv6, said) = measure(&["block list 1k", "default", "lru reference", "ipv6"])?;
    ensure!(ipv6.measured.cases.len() == 3 * LEAST.sources.len() * cores, "{said}");
    for figure in ipv4.measured.cases.iter().chain(&ipv6.measured.cases) {
        // No bound on the time: on a busy machine a difference may even be negative.
        ensure!(figure.floor_ns.median > 0.0 && figure.ns.median.is_finite(), "{figure}");
    }
    Ok(())
}

#[test]
fn every_filter_takes_a_flood_in_and_serves_the_visitor() -> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure(&["e2e"])?;
    let has_core = !said.contains("skipping the capacity of a core");
    for guard in Guard::ALL {
        let rows: Vec<_> = report.measured.e2e.iter().filter(|row| row.filter == guard.label()).collect();
        if rows.is_empty() {
            ensure!(said.contains(&format!("skipping {}: ", guard.label())), "{guard:?}: {said}");
        }
        for row in rows {
            ensure!(row.shared_core_ns.as_ref().is_some_and(|ns| ns.median > 0.0), "{row}");
            ensure!(row.core.is_some() == has_core, "{row}\n{said}");
            if let Some(core) = &row.core {
                ensure!(core.ns.median > 0.0 && core.received_mpps > 0.0, "{row}");
                ensure!(core.received_mpps <= core.offered_mpps * 1.01, "{row}");
            }
            let visited = has_core && guard.admits_visitor() && row.sources == 1 << 24;
            ensure!(row.visits.len() == if visited { LEAST.loads.len() } else { 0 }, "{row}\n{said}");
            for visit in row.visits.iter().filter(|_| guard != Guard::Nothing) {
                ensure!(visit.pages_per_second.median > 0.0 && visit.median_ms > 0.0, "{row}: {visit}");
                ensure!((visit.load_percent > 0) == (visit.received_mpps > 0.0), "{row}: {visit}");
            }
        }
    }
    // Filters of this project or of the kernel alone need no third-party program.
    for guard in
        [Guard::Floodgate, Guard::XdpDrop, Guard::Ideal, Guard::LruReference, Guard::SpinLockReference]
    {
        ensure!(report.measured.e2e.iter().any(|row| row.filter == guard.label()), "{guard:?}: {said}");
    }
    Ok(())
}

#[test]
fn tables_have_the_memory_that_their_settings_say() -> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure(&["scaling", "parse"])?;
    let mib = |settings: &str, table: &str| {
        let row = report.measured.memory.iter().find(|row| row.settings == settings && row.table == table);
        row.map(|row| row.mib).with_context(|| format!("{settings}: no {table} in {said}"))
    };
    let [debts, all] = [mib("default", "DEBTS")?, mib("default", "all")?];
    ensure!(all > debts, "{said}");
    let sized = report.measured.memory.iter().filter(|row| row.settings.starts_with("sources.table"));
    let more: Vec<f64> = sized.map(|row| (row.mib - all) / debts).collect();
    ensure!(
        more.len() == 2 && (2.9..3.1).contains(&more[0]) && (14.9..15.1).contains(&more[1]),
        "{more:?} times as much more"
    );
    Ok(())
}

#[test]
fn an_interface_is_guarded_by_one_filter_after_the_other_and_left_as_it_was() -> Result<()> {
    needs_root!();
    measures!();
    same_on_every_kernel!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let mut frame = packet::from([11, 0, 0, 0].into()).udp(40_000, 9).payload(18).bytes();
    frame[..6].copy_from_slice(&Role::Server.mac());
    let flood = Flood {
        interface: lab.port(Role::Server)?,
        frame,
        varied: Vec::new(),
        sources: Sources { first: 0x0b00_0000, count: 1 << 16, adjacent: true },
        rate: Some(100_000),
        count: u64::MAX,
        duration: Duration::from_secs(60),
    };
    let binary = daemon::binary()?;
    let bench = binary.parent().map(|folder| folder.join("bench")).context("a folder")?;
    let nic = |arguments: &[&str]| -> Result<Said> {
        let mut command = server.command(&bench)?;
        daemon::run(
            command.args(["--nic", "eth0", "--time", "500ms", "--filter", "xdp drop"]).args(arguments),
        )
    };
    server.ip("route add default dev eth0")?;
    let refused = nic(&[])?;
    ensure!(refused.code == 1 && refused.stderr.contains("carries the default route of IPv4"), "{refused:?}");
    let (said, _) =
        flood.during(lab.switch(), || nic(&["--anyway", "--filter", "lru reference", "--core", "0"]))?;
    ensure!(said.code == 0, "{said:?}");
    for filter in ["xdp drop", "lru reference"] {
        ensure!(said.stdout.lines().any(|line| line.starts_with(filter)), "{said:?}");
    }
    ensure!(!server.ip("link show dev eth0")?.contains("xdp"), "a program remains");
    ensure!(!server.within(|| is_threaded("eth0"))?, "threads remain");
    Ok(())
}

#[test]
fn long_lists_are_changed_and_in_force() -> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure(&["lists"])?;
    ensure!(
        report.measured.lists.len() == 6 && report.measured.lists.iter().all(|row| row.ms > 0.0),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_host_is_served_behind_each_configuration_while_nobody_floods_it_and_most_of_a_flood_is_dropped()
-> Result<()> {
    needs_root!();
    measures!();
    let (report, said) = measure_floods(&["hosts"], &["none", "RST"])?;
    let [quiet, flooded] = report.measured.hosts.as_slice() else {
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
