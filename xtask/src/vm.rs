//! `vm`: the kernel and end-to-end suites on the kernels that users run, each in a virtual machine.
//!
//! [`kernels`] fetches distribution kernels into a cache, [`tools`] installs what runs them (QEMU with virtme-ng),
//! [`machine`] is one run, [`record`] keeps what the verifier needed and renders docs/kernels.md. Nothing here knows
//! what a test does: it runs the same executables as `cargo xtask test`, unchanged.

mod kernels;
mod machine;
mod record;
mod tools;

use std::{
    collections::BTreeMap,
    env,
    path::PathBuf,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use anyhow::{Context, Result, ensure};

use crate::{
    setup,
    test::{Counts, build_executables},
};

pub(crate) use self::tools::PACKAGES;
use self::{
    kernels::{Availability, Kernel, SERIES, Series},
    machine::{Job, Outcome, Run},
};

/// Concurrent machines: with two processors, more of them would only take turns.
const AT_A_TIME: usize = 2;

/// On which kernels, and which tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this series, as `6.1` or `newest`; can be given again.
    #[arg(long = "kernel", value_name = "SERIES")]
    kernels: Vec<String>,
    /// Lists the series, and which release of each is in the cache.
    #[arg(long)]
    list: bool,
    /// Opens a shell in a machine with the kernel that `--kernel` names.
    #[arg(long)]
    shell: bool,
    /// Writes what the verifier needed to tests/golden/verifier.txt, and docs/kernels.md.
    #[arg(long)]
    record: bool,
    /// Only tests whose names contain this.
    #[arg(last = true)]
    filter: Option<String>,
}

/// The folder in which kernels and tools are kept from run to run.
fn cache() -> Result<PathBuf> {
    let variable = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    Ok(base
        .context("neither XDG_CACHE_HOME nor HOME is set: there is no place for a cache")?
        .join("floodgate"))
}

/// Runs the suites in virtual machines.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    let cache = cache()?;
    let wanted = chosen(&arguments.kernels)?;
    if arguments.list {
        for series in SERIES {
            let release =
                kernels::cached(&cache, series).map_or("not fetched yet".into(), |kernel| kernel.release);
            println!("{:<8}{:<32}{}", series.name, release, series.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    setup::ensure()?;
    tools::ensure(&cache)?;
    let fetched = kernels::fetch(&cache, &wanted)?;
    if arguments.shell {
        let kernel = fetched.iter().find_map(|(_, availability)| match availability {
            Availability::Ready(kernel) => Some(kernel),
            Availability::Missing(_) => None,
        });
        return machine::shell(&cache, kernel.context("no kernel to open a shell on")?);
    }
    let executables = build_executables()?;
    let runs = run_all(&fetched, &executables, |series, kernel, executables| {
        let job = Job {
            series,
            kernel,
            executables,
            filter: arguments.filter.as_deref(),
            record: arguments.record,
        };
        machine::run(&cache, &job)
    });
    if arguments.record {
        record::write(&runs, &executables)?;
    }
    Ok(sum_up(&runs, arguments.filter.is_some()))
}

fn chosen(names: &[String]) -> Result<Vec<&'static Series>> {
    let known = || SERIES.iter().map(|series| series.name).collect::<Vec<_>>().join(", ");
    for name in names {
        ensure!(SERIES.iter().any(|series| series.name == name), "no series {name}; there are {}", known());
    }
    Ok(SERIES
        .iter()
        .filter(|series| names.is_empty() || names.iter().any(|name| name == series.name))
        .collect())
}

/// Runs each available kernel, some machines at a time. Returns results in the order of the series.
///
/// Each executable gets a machine of its own. Those of the first executable run before all others, and the newest
/// kernel, which takes longest, before older ones, so that all processors are busy to the end. An unsupported kernel
/// has too little to do for that.
fn run_all(
    fetched: &[(&'static Series, Availability)],
    executables: &[PathBuf],
    run: impl Fn(&'static Series, &Kernel, &[PathBuf]) -> Run + Sync,
) -> Vec<Run> {
    let mut jobs: Vec<(usize, &[PathBuf])> = Vec::new();
    for executable in executables.chunks(1) {
        let supported = fetched.iter().enumerate().rev().filter(|(_, (series, _))| series.supported);
        jobs.extend(supported.map(|(index, _)| (index, executable)));
    }
    let refused = fetched.iter().enumerate().filter(|(_, (series, _))| !series.supported);
    jobs.extend(refused.map(|(index, _)| (index, executables)));

    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Run>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(&(index, executables)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (series, availability) = &fetched[index];
                    let result = match availability {
                        Availability::Ready(kernel) => run(series, kernel, executables),
                        Availability::Missing(why) => Run::missing(series, why),
                    };
                    println!("{}", result.describe());
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    let all = match results.remove(&index) {
                        Some(before) => before.and(result),
                        None => result,
                    };
                    results.insert(index, all);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// Prints the totals; the last line is `N passed, N failed, N skipped`.
fn sum_up(runs: &[Run], filtered: bool) -> ExitCode {
    let mut total = Counts::default();
    let mut broken = false;
    for run in runs {
        match &run.outcome {
            Outcome::Finished { counts, status, .. } => {
                total.passed += counts.passed;
                total.failed += counts.failed;
                total.ignored += counts.ignored;
                broken |= *status != 0 || (counts.passed == 0 && !filtered);
            }
            Outcome::Missing(_) => total.ignored += 1,
            Outcome::Died(_) => {
                total.failed += 1;
                broken = true;
            }
        }
    }
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed, total.ignored);
    let nothing_ran = total.passed == 0;
    if broken || total.failed > 0 || nothing_ran { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
