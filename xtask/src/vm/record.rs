//! Records of a run: the verifier's work for each program on each kernel, and the page about kernels.

use std::{
    collections::BTreeMap,
    env,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::command::{CommandLine, workspace};

use super::machine::{Outcome, Run};

/// The record that a test compares with.
const GOLDEN: &str = "tests/golden/verifier.txt";

/// The page that is generated.
const PAGE: &str = "docs/kernels.md";

/// The lines that delimit the generated part of the page.
const BEGIN: &str = "<!-- written by `cargo xtask vm --record` -->\n";
const END: &str = "<!-- end -->\n";

const HEADER: &str = "\
# What the verifier needs for each program: kernel, program, instructions processed, bytes of stack.
# Written by `cargo xtask vm --record`; compared by the test `the_verifier_needs_about_what_it_did`.
";

/// Writes both, from these runs and one on the running kernel.
pub(crate) fn write(runs: &[Run], executables: &[PathBuf]) -> Result<()> {
    let mut measured: Vec<String> = native(executables)?;
    for run in runs {
        if let Outcome::Finished { verified, .. } = &run.outcome {
            measured.extend(verified.iter().cloned());
        }
    }
    let path = workspace().join(GOLDEN);
    let before = fs::read_to_string(&path).unwrap_or_default();
    let golden = merge(&before, &measured);
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    fs::write(&path, &golden).with_context(|| format!("writing {GOLDEN}"))?;

    let path = workspace().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let (head, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has lost the line {BEGIN}"))?;
    let (_, tail) = rest.split_once(END).with_context(|| format!("{PAGE} has lost the line {END}"))?;
    fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", render(runs, &golden)))?;
    Ok(())
}

/// Runs the same test on the running kernel.
fn native(executables: &[PathBuf]) -> Result<Vec<String>> {
    let file = env::temp_dir().join(format!("floodgate-verified-{}", std::process::id()));
    for executable in executables {
        let line = CommandLine::program(executable).args(&["verifier"]);
        line.env("FLOODGATE_VERIFIED", &file.display().to_string()).env("FLOODGATE_RECORD", "1").status()?;
    }
    let text = fs::read_to_string(&file).context("the test of the verifier's work has noted nothing")?;
    fs::remove_file(&file)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Replaces the rows of the measured kernels; the others stay.
fn merge(before: &str, measured: &[String]) -> String {
    let rows =
        before.lines().filter(|line| !line.starts_with('#')).chain(measured.iter().map(String::as_str));
    let mut latest = BTreeMap::new();
    for row in rows {
        if let [kernel, program, needed @ ..] = &row.split('\t').collect::<Vec<_>>()[..] {
            let order: Vec<u32> = kernel.split('.').filter_map(|part| part.parse().ok()).collect();
            latest.insert(
                (order, (*program).to_owned()),
                format!("{kernel}\t{program}\t{}", needed.join("\t")),
            );
        }
    }
    latest.values().fold(HEADER.to_owned(), |text, row| text + row + "\n")
}

/// Renders the tables of the page.
fn render(runs: &[Run], golden: &str) -> String {
    let mut text = String::from("\n| series | release | tests | skipped there |\n|---|---|---|---|\n");
    for Run { series, release, outcome, .. } in runs {
        let release = release.as_deref().unwrap_or("not fetched");
        let (tests, skipped) = match outcome {
            Outcome::Finished { counts, skipped, .. } => {
                let tests = format!("{} passed, {} failed", counts.passed, counts.failed);
                let mut reasons: Vec<&str> = skipped.iter().map(|(_, why)| why.as_str()).collect();
                reasons.sort_unstable();
                reasons.dedup();
                (
                    tests,
                    if reasons.is_empty() {
                        "none".into()
                    } else {
                        format!("{}: {}", skipped.len(), reasons.join("; "))
                    },
                )
            }
            Outcome::Missing(why) => ("not run".into(), why.clone()),
            Outcome::Died(_) => ("the machine died".into(), String::new()),
        };
        let _ = writeln!(text, "| {}, {} | `{release}` | {tests} | {skipped} |", series.name, series.about);
    }
    text.push_str("\nInstructions that the verifier processes (the limit is a million), and stack (the limit is 512 bytes):\n\n");
    text.push_str("| kernel | program | instructions | stack |\n|---|---|---:|---:|\n");
    for row in golden.lines().filter(|line| !line.starts_with('#')) {
        let _ = writeln!(text, "| {} |", row.split('\t').collect::<Vec<_>>().join(" | "));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_replaces_its_own_rows_and_no_others() {
        let before = "# a comment\n6.12\tfloodgate\t90\t8\n6.1\tfloodgate\t100\t8\n";
        let after = merge(before, &["6.1\tfloodgate\t110\t8".into(), "7.3\tfloodgate\t80\t8".into()]);
        let rows: Vec<&str> = after.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rows, ["6.1\tfloodgate\t110\t8", "6.12\tfloodgate\t90\t8", "7.3\tfloodgate\t80\t8"]);
    }
}
