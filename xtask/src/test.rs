//! `test`: runs what can run here, and reports what did not, and why.
//!
//! The test kit writes each test that it skips to the file that `FLOODGATE_SKIPPED` names; libtest's own summary
//! lines give the rest. The last line is `N passed, N failed, N skipped`.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::{
    command::{CommandLine, workspace},
    setup,
};

/// Which tests.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only the tests that need no root.
    #[arg(long)]
    host_only: bool,
    /// Only tests whose names contain this.
    filter: Option<String>,
}

/// libtest's counts.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Counts {
    /// Passed.
    pub(crate) passed: u64,
    /// Failed.
    pub(crate) failed: u64,
    /// Not run.
    pub(crate) ignored: u64,
}

/// Runs the suites.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure()?;
    let skipped_file = env::temp_dir().join(format!("floodgate-skipped-{}", std::process::id()));
    // A failing test does not prevent the others from running.
    let mut suites = vec!["cargo test --quiet --no-fail-fast -p flood-common -p flood-userspace -p xtask"];
    if arguments.host_only {
        suites.push("cargo test --quiet --no-fail-fast -p floodgate-tests --test host");
    } else {
        suites.push("cargo build --quiet -p flood-userspace --bin floodgate");
        suites.push("cargo test --quiet --no-fail-fast -p floodgate-tests");
    }
    let mut counts = Counts::default();
    let mut failed = false;
    for suite in suites {
        let mut line = CommandLine::new(suite).env("FLOODGATE_SKIPPED", &skipped_file.display().to_string());
        if let Some(filter) = arguments.filter.as_ref().filter(|_| suite.starts_with("cargo test")) {
            line = line.args(&[filter]);
        }
        failed |= !stream(&line, &mut counts)?;
    }

    let skipped = fs::read_to_string(&skipped_file).unwrap_or_default();
    let _ = fs::remove_file(&skipped_file); // it may never have been made
    let mut skipped: Vec<(&str, &str)> = skipped.lines().filter_map(|line| line.split_once('\t')).collect();
    skipped.sort_unstable();
    skipped.dedup();
    for (test, reason) in &skipped {
        println!("skipped {test}: {reason}");
    }
    if counts.ignored > 0 {
        println!("skipped {} more: marked #[ignore], to be run by name", counts.ignored);
    }
    if arguments.host_only {
        println!("skipped the kernel and end-to-end suites: --host-only");
    }
    let skips = skipped.len() as u64;
    // A skipped test has returned, so libtest counts it as passed.
    let passed = counts.passed.saturating_sub(skips);
    println!("{passed} passed, {} failed, {} skipped", counts.failed, skips + counts.ignored);
    let nothing_ran = passed == 0 && arguments.filter.is_none();
    Ok(if failed || nothing_ran { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Builds `floodgate` and the executables of the kernel and end-to-end suites; returns the latter.
pub(crate) fn build_executables() -> Result<Vec<PathBuf>> {
    CommandLine::new("cargo build --quiet -p flood-userspace --bin floodgate").run()?;
    let build = CommandLine::new("cargo test --no-run -p floodgate-tests --test kernel --test e2e");
    eprintln!("$ {}", build.text());
    let output = build.command().output().context("starting cargo")?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the tests do not build:\n{text}");
    let executables = executables(&text);
    ensure!(executables.len() == 2, "cargo does not say where the executables are:\n{text}");
    Ok(executables)
}

/// The paths in cargo's lines `  Executable tests/kernel.rs (target/debug/deps/kernel-0123456789abcdef)`.
fn executables(text: &str) -> Vec<PathBuf> {
    text.lines()
        .filter_map(|line| line.trim_start().strip_prefix("Executable ")?.split_once('('))
        .map(|(_, path)| workspace().join(path.trim_end_matches(')')))
        .collect()
}

/// Runs a suite, showing its output as it comes. Returns whether it succeeded.
fn stream(line: &CommandLine, counts: &mut Counts) -> Result<bool> {
    eprintln!("$ {}", line.text());
    let starting = || format!("starting `{}`", line.text());
    let mut child = line.command().stdout(Stdio::piped()).spawn().with_context(starting)?;
    if let Some(stdout) = child.stdout.take() {
        for text in BufReader::new(stdout).lines() {
            let text = text.with_context(|| format!("reading what `{}` says", line.text()))?;
            println!("{text}");
            counts.add(&text);
        }
    }
    Ok(child.wait()?.success())
}

impl Counts {
    /// Adds libtest's summary, if the line is one:
    /// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
    pub(crate) fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for part in counts.split("; ") {
            match part.split_once(' ').map(|(number, what)| (number.parse::<u64>(), what)) {
                Some((Ok(number), "passed")) => self.passed += number,
                Some((Ok(number), "failed")) => self.failed += number,
                Some((Ok(number), "ignored")) => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_in_what_cargo_says() {
        let text = "   Compiling a v1.0\n  Executable tests/kernel.rs (target/debug/deps/kernel-0a1b)\n";
        assert_eq!(executables(text), [workspace().join("target/debug/deps/kernel-0a1b")]);
    }

    #[test]
    fn summaries_are_added_and_other_lines_are_not() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.51s",
            "9 passed; 9 failed",
        ] {
            counts.add(line);
        }
        assert_eq!(counts, Counts { passed: 8, failed: 2, ignored: 1 });
    }
}
