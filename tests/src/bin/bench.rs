//! `cargo xtask bench`: what a packet costs, here and in what people would use instead.

use std::{
    fmt::Display,
    fs,
    path::PathBuf,
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use flood_userspace::quantity::parse_duration;
use floodgate_tests::bench::{Card, Effort, Report, Selection, TOOLS, guard_card, plot::render_svg, run};

/// Measures what a packet costs in the filter, above a bare `XDP_DROP` in the same harness, and what becomes of a
/// flood and of a visitor end to end, beside xdp-filter, nftables and references. Needs root; works in network
/// namespaces of its own. docs/bench.md says how to read it.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// What is behind the ratios, with one and 16 million sources only, in shorter rounds: under a minute.
    #[arg(long)]
    quick: bool,
    /// Prints one JSON object instead of tables.
    #[arg(long)]
    json: bool,
    /// Writes a plot of cost against number of sources.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Installs the programs to compare with, and those that hosts run, that are missing (apt), naming each, and measures
    /// nothing.
    #[arg(long)]
    setup: bool,
    /// In the part `hosts` only this flood, as `ACK`, or a capture by the name of its file; can be given several times.
    #[arg(long, value_name = "NAME")]
    flood: Vec<String>,
    /// End to end, and on a card, only this filter, as `"xdp drop"`; can be given several times.
    #[arg(long, value_name = "NAME", conflicts_with = "record")]
    filter: Vec<String>,
    /// Writes each table that was measured whole into the page that shows it (README.md, docs), below this folder.
    #[arg(long, value_name = "FOLDER", num_args = 0..=1, require_equals = true, default_missing_value = ".",
        conflicts_with_all = ["quick", "flood"])]
    record: Option<PathBuf>,
    /// Measures nothing but what a core takes in of a flood that another machine sends to this interface, with each filter in
    /// turn; says what to send. Not tried on a real card yet.
    #[arg(long, value_name = "IFACE", conflicts_with_all = ["quick", "record", "svg", "check", "flood", "only"])]
    nic: Option<String>,
    /// With --nic, the processor that takes its packets in [default: the last].
    #[arg(long, value_name = "PROCESSOR", requires = "nic")]
    core: Option<usize>,
    /// With --nic, how long each filter is measured.
    #[arg(long, value_name = "TIME", requires = "nic", default_value = "5s", value_parser = parse_duration)]
    time: Duration,
    /// With --nic, also on an interface that carries the default route or a login.
    #[arg(long, requires = "nic")]
    anyway: bool,
    /// Exit code 1 if a ratio misses what the project promises; names it.
    #[arg(long)]
    check: bool,
    /// Only these cases, families or parts, as `default`, `ipv4` or `e2e`.
    only: Vec<String>,
}

/// Set by Ctrl-C and by a terminal that is closed: the run ends at the next figure and takes its namespaces away.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    catch_interrupts();
    let done = if arguments.setup { set_up().map(|()| true) } else { bench(&arguments) };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn catch_interrupts() {
    extern "C" fn note(_: libc::c_int) {
        INTERRUPTED.store(true, Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is allowed in a signal handler.
        unsafe { libc::signal(signal, note as *const () as libc::sighandler_t) };
    }
}

fn set_up() -> Result<()> {
    for tool in TOOLS.iter().filter(|tool| !tool.is_installed()) {
        eprintln!("bench: installing {}, for {}", tool.package, tool.program);
        tool.install()?;
    }
    Ok(())
}

/// Measures and prints. Returns whether the ratios are as they should be, if that was asked.
fn bench(arguments: &Arguments) -> Result<bool> {
    let Arguments { json, svg, record, check, .. } = arguments;
    let report = measure(arguments)?;
    if *json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{}", report.table());
    }
    if let Some(path) = svg {
        let plot = render_svg(&report).context("there is nothing to plot: no figure of IPv4 was measured")?;
        fs::write(path, plot).with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(folder) = record {
        eprintln!("bench: recorded: {}", report.record(folder)?.join(", "));
    }
    Ok(!check || keeps_promises(&report))
}

fn measure(arguments: &Arguments) -> Result<Report> {
    let Arguments { quick, flood, filter, nic, core, time, anyway, only, .. } = arguments;
    let going_on = || {
        ensure!(!INTERRUPTED.load(Relaxed), "interrupted; nothing remains behind");
        Ok(())
    };
    let progress = |figure: &dyn Display| {
        eprintln!("{figure}");
        going_on()
    };
    if let Some(interface) = nic.clone() {
        let last = thread::available_parallelism()?.get() - 1;
        let card = Card { interface, core: core.unwrap_or(last), time: *time, anyway: *anyway };
        return guard_card(&card, filter, progress, going_on);
    }
    let effort = if *quick { Effort::QUICK } else { Effort::FULL };
    let selection = Selection::parse(only, effort)?.with_floods(flood.clone()).with_filters(filter)?;
    run(effort, &selection, progress)
}

/// Whether every ratio that was measured is as promised, and one was.
fn keeps_promises(report: &Report) -> bool {
    for key in report.not_measured() {
        eprintln!("bench: {key} was not measured");
    }
    let missed = report.missed();
    for miss in &missed {
        eprintln!("bench: {miss}");
    }
    let has_any = !report.ratios.is_empty() || !report.measured.hosts.is_empty();
    if !has_any {
        eprintln!("bench: there is nothing to check: no ratio was measured");
    }
    has_any && missed.is_empty()
}
