//! One machine: boots a kernel on this machine's own files, read-only, and runs the test executables in it.
//!
//! All results arrive on its console: a line for the start and the end, libtest's output, and the notes of the test
//! kit. A machine that never reaches the tests is tried once more (emulated processors occasionally hang while
//! booting); one that panics or hangs afterwards has failed.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    command::{CommandLine, workspace},
    test::Counts,
};

use super::{
    kernels::{Kernel, Series},
    tools,
};

/// How long a machine may take. Emulated, a suite needs a sixth of it, and a busy processor does not affect its
/// clock.
const LIMIT: Duration = Duration::from_secs(1800);

/// Exit code of `timeout` when the time is up (coreutils).
const TIMED_OUT: i32 = 124;

/// How many of the last console lines are shown when a machine dies.
const LAST_LINES: usize = 25;

/// Console lines that mark the start and the end of the tests.
const START: &str = "floodgate-vm start ";
const END: &str = "floodgate-vm end ";
/// Lines of the test kit: a skipped test, and what the verifier needed for a program.
const SKIPPED: &str = "floodgate-vm skipped ";
const VERIFIED: &str = "floodgate-vm verified ";

/// Number of concurrent tests in a machine: while one waits, the other runs.
const TEST_THREADS: u32 = 2;

/// The tests that make sense on an unsupported kernel.
const REFUSAL: &str = "a_kernel_below_the_floor_is_refused_by_name";

/// How a processor is emulated where necessary.
///
/// With a thread for each processor, kernels occasionally die while booting. The machine's clock counts instructions,
/// two nanoseconds each: so it ticks no more often than on a real machine, and the load of the host does not affect
/// what the tests see. A processor without wide vectors is emulated faster than one with them.
const EMULATION: &str = "-accel tcg,thread=single -icount shift=1 -cpu Nehalem ";

/// Processors of a machine. Emulated ones would take turns and wait for each other.
const PROCESSORS: u32 = 2;
const EMULATED_PROCESSORS: u32 = 1;

/// No drives and no drive controller, which take time to probe. And few ports: virtme-ng adds six devices of 31
/// ports, and QEMU polls each port whenever it wakes up.
const LEAST_DEVICES: &str = "-nodefaults -machine sata=off -global virtio-serial-device.max_ports=2 ";

/// Kernel arguments: end on an oops, and skip mitigations of processor faults, which an emulated processor does not
/// have (this saves a third of the time).
const KERNEL_ARGUMENTS: &str = "oops=panic mitigations=off";

/// Two network interfaces that are connected only to each other.
const CABLE: &str = "-netdev hubport,id=h0,hubid=0 -netdev hubport,id=h1,hubid=0 \
                     -device virtio-net-pci,netdev=h0,romfile= -device virtio-net-pci,netdev=h1,romfile=";

/// What to run on which kernel.
pub(crate) struct Job<'a> {
    /// The series.
    pub(crate) series: &'static Series,
    /// Its kernel.
    pub(crate) kernel: &'a Kernel,
    /// The test executables.
    pub(crate) executables: &'a [PathBuf],
    /// Only tests whose names contain this.
    pub(crate) filter: Option<&'a str>,
    /// Whether to record what the verifier needs, rather than compare it.
    pub(crate) record: bool,
}

/// The result of a series.
pub(crate) struct Run {
    /// The series.
    pub(crate) series: &'static Series,
    /// The release of the kernel, if there was one.
    pub(crate) release: Option<String>,
    /// How it went.
    pub(crate) outcome: Outcome,
    time: Duration,
}

/// The outcome of a run.
pub(crate) enum Outcome {
    /// The tests ran to their end.
    Finished {
        /// libtest's counts, with skipped tests subtracted from the passed ones.
        counts: Counts,
        /// Exit status of the tests.
        status: i32,
        /// Skipped tests, with reasons.
        skipped: Vec<(String, String)>,
        /// What the verifier needed: lines in the format of the golden file.
        verified: Vec<String>,
        /// The whole output.
        output: String,
    },
    /// There is no kernel; the reason.
    Missing(String),
    /// The machine panicked, hung, or never came up: the last lines of its console.
    Died(String),
}

impl Run {
    /// Returns the result of a series without a kernel.
    pub(crate) fn missing(series: &'static Series, why: &str) -> Self {
        Self { series, release: None, outcome: Outcome::Missing(why.to_owned()), time: Duration::ZERO }
    }

    /// Combines this run with another one of the same series.
    pub(crate) fn and(self, other: Self) -> Self {
        let time = self.time + other.time;
        let outcome = match (self.outcome, other.outcome) {
            (
                Outcome::Finished { mut counts, status, mut skipped, mut verified, mut output },
                Outcome::Finished {
                    counts: more,
                    status: other_status,
                    skipped: more_skipped,
                    verified: more_verified,
                    output: more_output,
                },
            ) => {
                counts.passed += more.passed;
                counts.failed += more.failed;
                counts.ignored += more.ignored;
                skipped.extend(more_skipped);
                verified.extend(more_verified);
                output.push_str(&more_output);
                let status = if status == 0 { other_status } else { status };
                Outcome::Finished { counts, status, skipped, verified, output }
            }
            // A failure determines the result.
            (Outcome::Finished { .. }, wrong) | (wrong, _) => wrong,
        };
        Self { outcome, time, ..self }
    }

    /// Describes the run: in one line if all is well, plus the skipped tests, and with the whole output otherwise.
    pub(crate) fn describe(&self) -> String {
        let Self { series, release, outcome, time } = self;
        let head = format!("kernel {} ({})", series.name, release.as_deref().unwrap_or("not fetched"));
        match outcome {
            Outcome::Missing(why) => format!("{head}: skipped: {why}"),
            Outcome::Died(last) => format!("{head}: died after {} s\n{last}", time.as_secs()),
            Outcome::Finished { counts, status, skipped, output, .. } => {
                let mut text = format!(
                    "{head}: {} passed, {} failed, {} skipped in {} s",
                    counts.passed,
                    counts.failed,
                    counts.ignored,
                    time.as_secs()
                );
                for (test, why) in skipped {
                    text.push_str(&format!("\n  skipped {test}: {why}"));
                }
                if *status != 0 {
                    text.push_str(&format!("\n{output}"));
                }
                text
            }
        }
    }
}

/// Runs the tests in a machine.
pub(crate) fn run(cache: &Path, job: &Job<'_>) -> Run {
    let begin = Instant::now();
    let outcome = boot_and_test(cache, job).unwrap_or_else(|error| Outcome::Died(format!("{error:#}")));
    Run { series: job.series, release: Some(job.kernel.release.clone()), outcome, time: begin.elapsed() }
}

fn boot_and_test(cache: &Path, job: &Job<'_>) -> Result<Outcome> {
    // The hash that cargo appends to a name is removed.
    let name = job.executables.first().and_then(|path| path.file_name()?.to_str()?.split('-').next());
    let folder = cache.join("machines").join(job.series.name).join(name.unwrap_or("none"));
    fs::create_dir_all(&folder)?;
    let script = folder.join("job.sh");
    fs::write(&script, job_script(job))?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    let mut last = String::new();
    for _ in 0..2 {
        let (console, status) = boot(cache, job.kernel, &script)?;
        fs::write(folder.join("console.log"), &console)?;
        match console.find(START) {
            Some(start) => return Ok(read(&console[start..], status)),
            None => last = format!("the machine did not reach the tests\n{}", last_lines(&console)),
        }
    }
    Ok(Outcome::Died(last))
}

/// Boots the machine. Returns the console output and the exit status.
fn boot(cache: &Path, kernel: &Kernel, script: &Path) -> Result<(String, i32)> {
    let limit = LIMIT.as_secs().to_string();
    let line = CommandLine::new("timeout --kill-after 10").args(&[limit]);
    let line = line.args(&machine(cache, kernel).words).args(&["--exec", &script.display().to_string()]);
    // QEMU truncates a regular file that is its standard output, so it gets a pipe.
    let mut command = line.command();
    command.env("PATH", path(cache)).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().context("starting the machine")?;
    let mut console = String::new();
    let mut reader = BufReader::new(child.stdout.take().context("a machine without console")?);
    let mut bytes = Vec::new();
    while reader.read_until(b'\n', &mut bytes)? > 0 {
        console.push_str(&String::from_utf8_lossy(&bytes).replace('\r', ""));
        bytes.clear();
    }
    Ok((console, child.wait()?.code().unwrap_or(-1)))
}

/// virtme-ng's command line. It uses KVM wherever `/dev/kvm` can be opened, which says nothing about the processor.
fn machine(cache: &Path, kernel: &Kernel) -> CommandLine {
    let mut line = CommandLine::program(&tools::programs(cache).join("vng"));
    let mut qemu = String::from(LEAST_DEVICES);
    let mut processors = PROCESSORS;
    if !has_virtualisation() {
        line = line.args(&["--disable-kvm"]);
        qemu.push_str(EMULATION);
        processors = EMULATED_PROCESSORS;
    }
    qemu.push_str(CABLE);
    let processors = processors.to_string();
    let image = kernel.image.display().to_string();
    line.args(&["--disable-microvm", "--verbose", "--run", &image, "--cpus", &processors, "--memory", "2G"])
        .args(&["--append", KERNEL_ARGUMENTS, &format!("--qemu-opts={qemu}")])
}

fn has_virtualisation() -> bool {
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has_flag = processor.split_whitespace().any(|word| word == "vmx" || word == "svm");
    has_flag && fs::OpenOptions::new().write(true).open("/dev/kvm").is_ok()
}

fn path(cache: &Path) -> String {
    format!("{}:{}", tools::programs(cache).display(), env::var("PATH").unwrap_or_default())
}

/// Runs a shell in a machine.
pub(crate) fn shell(cache: &Path, kernel: &Kernel) -> Result<ExitCode> {
    let mut command = machine(cache, kernel).command();
    let status = command.env("PATH", path(cache)).stdin(Stdio::inherit()).status()?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The script that the machine runs. The kernel's command line has only room for the name of a script.
fn job_script(job: &Job<'_>) -> String {
    let supported = job.series.supported;
    let mut script = String::from("#!/bin/sh\n");
    let mut line = |text: &str| {
        script.push_str(text);
        script.push('\n');
    };
    line(&format!("echo \"{START}$(uname -r)\""));
    line(&format!("export PATH='{}' HOME=/root", env::var("PATH").unwrap_or_default()));
    let kind = if has_virtualisation() { "virtual" } else { "emulated" };
    line(&format!("export FLOODGATE_VM={kind}"));
    line("export FLOODGATE_SKIPPED=/tmp/skipped FLOODGATE_VERIFIED=/tmp/verified");
    if job.record {
        line("export FLOODGATE_RECORD=1");
    }
    line("ulimit -l unlimited"); // kernels before 5.11 count maps against this limit
    line("rm -f /tmp/skipped /tmp/verified; touch /tmp/skipped /tmp/verified; status=0");
    line(&format!("cd '{}'", workspace().join("tests").display()));
    let filter = match (supported, job.filter) {
        (false, _) => REFUSAL,
        (true, filter) => filter.unwrap_or_default(),
    };
    for executable in job.executables {
        line(&format!("'{}' --test-threads={TEST_THREADS} {filter} || status=$?", executable.display()));
    }
    line(&format!("sed 's/^/{SKIPPED}/' /tmp/skipped; sed 's/^/{VERIFIED}/' /tmp/verified"));
    line(&format!("echo \"{END}$status\"; exit $status"));
    script
}

/// Parses a console from the start of the tests on.
fn read(console: &str, status: i32) -> Outcome {
    let Some((output, end)) = console.split_once(END) else {
        let why = if status == TIMED_OUT { "the machine hung" } else { "the machine panicked" };
        return Outcome::Died(format!("{why} during the tests\n{}", last_lines(console)));
    };
    let status = end.lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(-1);
    let mut counts = Counts::default();
    let (mut skipped, mut verified) = (Vec::new(), Vec::new());
    for line in output.lines() {
        counts.add(line);
        if let Some((test, why)) = line.strip_prefix(SKIPPED).and_then(|rest| rest.split_once('\t')) {
            skipped.push((test.to_owned(), why.to_owned()));
        } else if let Some(rest) = line.strip_prefix(VERIFIED) {
            verified.push(rest.to_owned());
        }
    }
    skipped.sort();
    skipped.dedup();
    // A skipped test has returned, so libtest counts it as passed.
    counts.passed = counts.passed.saturating_sub(skipped.len() as u64);
    counts.ignored += skipped.len() as u64;
    Outcome::Finished { counts, status, skipped, verified, output: output.to_owned() }
}

fn last_lines(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_read_for_what_was_counted_and_noted() {
        let console = format!(
            "{START}6.1.0\ntest result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s\n\
             {SKIPPED}a::test\tneeds a thing\n{VERIFIED}6.1\tfloodgate\t100\n{END}0\n"
        );
        let Outcome::Finished { counts, status, skipped, verified, .. } = read(&console, 0) else {
            panic!("it has an end");
        };
        assert_eq!((counts.passed, counts.ignored, status), (4, 1, 0));
        assert_eq!(skipped, [("a::test".to_owned(), "needs a thing".to_owned())]);
        assert_eq!(verified, ["6.1\tfloodgate\t100"]);
    }

    #[test]
    fn two_runs_of_a_series_are_counted_together_and_a_death_is_not_forgotten() {
        let series = &super::super::kernels::SERIES[0];
        let run = |outcome| Run { series, release: None, outcome, time: Duration::from_secs(1) };
        let console = |failed: u32| {
            format!(
                "{START}6.1.0\ntest result: FAILED. 5 passed; {failed} failed; 0 ignored; 0 measured\n{END}{failed}\n"
            )
        };
        let both = run(read(&console(0), 0)).and(run(read(&console(2), 0)));
        let Outcome::Finished { counts, status, .. } = &both.outcome else { panic!("both have ended") };
        assert_eq!((counts.passed, counts.failed, *status, both.time.as_secs()), (10, 2, 2, 2));
        for runs in [["died", ""], ["", "died"]] {
            let [first, second] = runs.map(|why| match why {
                "" => run(read(&console(0), 0)),
                _ => run(Outcome::Died("hung".into())),
            });
            assert!(matches!(first.and(second).outcome, Outcome::Died(_)));
        }
    }

    #[test]
    fn a_machine_that_panics_or_hangs_has_died_and_shows_its_last_lines() {
        let console = format!("{START}6.1.0\nrunning 3 tests\nKernel panic - not syncing: Oops\n");
        for (status, word) in [(255, "panicked"), (TIMED_OUT, "hung")] {
            let Outcome::Died(text) = read(&console, status) else { panic!("it has no end") };
            assert!(text.contains(word) && text.contains("not syncing"), "{text}");
        }
    }
}
