//! What a packet costs in the filter: test runs of one frame, each with a source of its own.
//!
//! The `harness` program writes a random source into the frame and calls the program under test, so that one run
//! exercises up to 16 million sources. The same harness calling a bare `XDP_DROP` is the floor; a figure is the
//! median, over rounds, of program minus floor *in the same round*, in thread CPU time. On a noisy machine only such
//! differences and their ratios mean anything.

use std::{fmt::Write as _, fs, process::Command, thread};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use flood_common::{
    abi::InterfaceCounters,
    class::{CELLS, Cell, Class, Scope},
    meter::Limit,
    reason::Reason,
};
use flood_userspace::{
    bpf::{Filter, FilterOptions, limit::set_limits},
    config::Config,
    lists::ListKind,
};
use serde::Serialize;

use crate::{
    prefixes,
    programs::{Programs, Sources},
};

/// Runs of the program per slice; a slice takes some ten milliseconds.
const RUNS: u32 = 300_000;

/// Runs before the first slice, so that tables and caches are as full as they get.
const WARM_UP_RUNS: u32 = 2_000_000;

/// In the drop path one in so many packets is sampled; the daemon comes to about this at ten million a second.
const SAMPLE_EVERY: u32 = 2_500;

/// Test runs come in on the loopback interface; it has the first slot, as an attached interface would.
const LOOPBACK: u32 = 1;
const SLOT: u32 = 1;

/// How long to measure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Effort {
    /// Slices of each case; odd, for the median.
    pub rounds: usize,
    /// Numbers of sources.
    pub sources: &'static [u64],
}

impl Effort {
    /// Well under a minute.
    pub const QUICK: Self = Self { rounds: 5, sources: &[1, 1 << 24] };
    /// Some minutes.
    pub const FULL: Self = Self { rounds: 15, sources: &[1, 1 << 16, 1 << 20, 1 << 24] };
}

/// All figures of a run.
#[derive(Serialize, Debug)]
pub struct Report {
    commit: String,
    kernel: String,
    cpu: String,
    cases: Vec<Figure>,
}

/// One figure.
#[derive(Serialize, Clone, Debug)]
pub struct Figure {
    case: &'static str,
    family: &'static str,
    sources: u64,
    cores: usize,
    /// Above the floor.
    ns: f64,
    /// Lower and upper quartile of the rounds.
    ns_quartiles: [f64; 2],
    floor_ns: f64,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Case {
    /// Parsing alone.
    Parse,
    /// No limit and no list: what every packet pays.
    NoLimit,
    /// The default configuration.
    Default,
    /// A limit that every packet exceeds after the first.
    Exceeding,
    /// The default configuration, all sources on the allow list.
    Allowed,
    /// The default configuration, all sources on the block list.
    Blocked,
    /// The default configuration, a block list of so many random entries, in which few sources are.
    Listed(usize),
}

impl Case {
    const ALL: [Self; 9] = [
        Self::Parse,
        Self::NoLimit,
        Self::Default,
        Self::Exceeding,
        Self::Allowed,
        Self::Blocked,
        Self::Listed(1_000),
        Self::Listed(100_000),
        Self::Listed(1_000_000),
    ];

    fn label(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::NoLimit => "no limit",
            Self::Default => "default",
            Self::Exceeding => "exceeding",
            Self::Allowed => "allowed",
            Self::Blocked => "blocked",
            Self::Listed(1_000) => "list 1k",
            Self::Listed(100_000) => "list 100k",
            Self::Listed(_) => "list 1m",
        }
    }

    fn filter(self) -> Result<Filter> {
        let config = Config::default();
        let mut filter = Filter::load(&FilterOptions::from(&config))?;
        filter.change_settings(|settings| {
            settings.sample_every = SAMPLE_EVERY;
            settings.interfaces[SLOT as usize] = LOOPBACK;
            match self {
                Self::NoLimit | Self::Parse => {}
                // One packet in ten seconds, none at once: even 16 million sources stay in debt.
                Self::Exceeding => {
                    let mut cells = [Limit::default(); CELLS];
                    cells[Cell::new(Scope::Source, Class::Any).number()] = Limit {
                        packet_cost_ns: 10_000_000_000,
                        horizon_ns: 20_000_000_000,
                        ..Limit::default()
                    };
                    settings.set_limits(cells);
                }
                Self::Default | Self::Allowed | Self::Blocked | Self::Listed(_) => {
                    set_limits(settings, &config.limits, &config.protected_limits);
                }
            }
        });
        self.fill(&mut filter)?;
        Ok(filter)
    }

    /// Fills the lists.
    fn fill(self, filter: &mut Filter) -> Result<()> {
        /// IPv6 has fewer prefixes than IPv4 has addresses on the largest lists that there are.
        const MOST_V6: usize = 200_000;

        let everything = ["0.0.0.0/0".parse()?, "::/0".parse()?];
        let (kind, prefixes) = match self {
            Self::Allowed => (ListKind::Allow, everything.to_vec()),
            Self::Blocked => (ListKind::Block, everything.to_vec()),
            Self::Listed(size) => (ListKind::Block, prefixes::random(size, size.min(MOST_V6), 1)),
            Self::Parse | Self::NoLimit | Self::Default | Self::Exceeding => return Ok(()),
        };
        filter.edit_list(kind, prefixes::put(prefixes))?;
        Ok(())
    }
}

/// An address family's frame: the shortest UDP packet on Ethernet, and the first source.
struct Family {
    label: &'static str,
    frame: Vec<u8>,
    first: u64,
}

impl Family {
    fn all() -> [Self; 2] {
        let mut v4 = vec![0; 60];
        v4[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 0]);
        v4[16..18].copy_from_slice(&46u16.to_be_bytes());
        v4[22..24].copy_from_slice(&[64, 17]);
        v4[38..40].copy_from_slice(&26u16.to_be_bytes());
        let mut v6 = vec![0; 74];
        v6[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        v6[18..22].copy_from_slice(&[0, 20, 17, 64]);
        v6[58..60].copy_from_slice(&20u16.to_be_bytes());
        [
            Self { label: "ipv4", frame: v4, first: 0x0b00_0000 },
            Self { label: "ipv6", frame: v6, first: prefixes::FIRST_V6 },
        ]
    }
}

/// Measures everything, or only the cases and families that are named.
pub fn run(effort: Effort, only: &[String], mut progress: impl FnMut(&Figure)) -> Result<Report> {
    let wanted = |labels: &[&str], label| {
        let named = only.iter().any(|name| labels.contains(&name.as_str()));
        !named || only.iter().any(|name| name == label)
    };
    let case_labels = Case::ALL.map(Case::label);
    let family_labels = Family::all().map(|family| family.label);
    if let Some(name) =
        only.iter().find(|name| ![&case_labels[..], &family_labels].concat().contains(&name.as_str()))
    {
        bail!(
            "{name} is neither a case ({}) nor a family ({})",
            case_labels.join(", "),
            family_labels.join(", ")
        );
    }
    let chosen: Vec<Case> = Case::ALL.into_iter().filter(|case| wanted(&case_labels, case.label())).collect();
    let cores = thread::available_parallelism()?.get().min(2);
    let mut cases = Vec::new();
    for family in Family::all().into_iter().filter(|family| wanted(&family_labels, family.label)) {
        for &sources in effort.sources {
            for cores in 1..=cores {
                for figure in measure(&family, &chosen, sources, cores, effort.rounds)? {
                    progress(&figure);
                    cases.push(figure);
                }
            }
        }
    }
    Ok(Report { commit: commit(), kernel: kernel()?, cpu: cpu(), cases })
}

/// Measures cases with one set of sources, interleaved round by round.
fn measure(
    family: &Family,
    cases: &[Case],
    sources: u64,
    cores: usize,
    rounds: usize,
) -> Result<Vec<Figure>> {
    let mut floor = harness(family, sources, |lab| Ok(lab.program("drop")?.fd()?.try_clone()?))?;
    let mut under_test = Vec::new();
    for &case in cases {
        let mut filter = case.filter()?;
        let program = harness(family, sources, |lab| match case {
            Case::Parse => Ok(lab.program("parse_only")?.fd()?.try_clone()?),
            _ => Ok(filter.program()?.fd()?.try_clone()?),
        })?;
        under_test.push((case, filter, program, Vec::with_capacity(rounds)));
    }
    for (_, _, program, _) in &mut under_test {
        slice(program, &family.frame, cores, WARM_UP_RUNS)?;
    }
    let mut floors = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let floor_ns = slice(&mut floor, &family.frame, cores, RUNS)?;
        floors.push(floor_ns);
        for (_, _, program, differences) in &mut under_test {
            differences.push(slice(program, &family.frame, cores, RUNS)? - floor_ns);
        }
    }
    let [_, floor_ns, _] = quartiles(floors);
    let mut figures = Vec::new();
    for (case, filter, _, differences) in under_test {
        check(case, &filter)?;
        let [low, ns, high] = quartiles(differences);
        figures.push(Figure {
            case: case.label(),
            family: family.label,
            sources,
            cores,
            ns,
            ns_quartiles: [low, high],
            floor_ns,
        });
    }
    Ok(figures)
}

/// A harness of its own for a program, so that switching between programs changes nothing in the kernel.
fn harness(
    family: &Family,
    sources: u64,
    target: impl FnOnce(&mut Programs) -> Result<ProgramFd>,
) -> Result<Programs> {
    let mut lab = Programs::load()?;
    lab.set_sources(Sources { first: family.first, count: sources, adjacent: false })?;
    let target = target(&mut lab)?;
    lab.set_target(&target)?;
    Ok(lab)
}

/// Runs the harness `runs` times on each of `cores` processors at once; returns nanoseconds of CPU time per run.
fn slice(lab: &mut Programs, frame: &[u8], cores: usize, runs: u32) -> Result<f64> {
    let program: &Xdp = lab.program("harness")?;
    let times: Vec<Result<f64>> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..cores).map(|core| scope.spawn(move || run_pinned(program, frame, core, runs))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| bail!("a thread panicked")))
            .collect()
    });
    let times: Result<Vec<f64>> = times.into_iter().collect();
    Ok(times?.iter().sum::<f64>() / cores as f64)
}

fn run_pinned(program: &Xdp, frame: &[u8], core: usize, runs: u32) -> Result<f64> {
    pin(core)?;
    let before = thread_time_ns();
    let options = TestRunOptions { data_in: Some(frame), repeat: runs, ..TestRunOptions::default() };
    program.test_run(options).context("test run of the harness")?;
    Ok((thread_time_ns() - before) / f64::from(runs))
}

/// Keeps this thread on one processor.
pub(crate) fn pin(core: usize) -> Result<()> {
    // SAFETY: a zeroed set is empty, `core` is within it, and the call reads no more than its size.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(result == 0, "pinning to processor {core}: {}", std::io::Error::last_os_error());
    Ok(())
}

fn thread_time_ns() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

/// A figure counts only if the filter did what the case says.
fn check(case: Case, filter: &Filter) -> Result<()> {
    let InterfaceCounters { done, would: _ } = filter.counters.interface(SLOT)?;
    let total: u64 = done.iter().map(|count| count.packets).sum();
    let share = |label: &str| {
        let reasons = Reason::ALL.iter().filter(|reason| reason.label() == label);
        reasons.map(|reason| done[reason.number() as usize].packets).sum::<u64>() as f64 / total.max(1) as f64
    };
    let (label, at_least) = match case {
        Case::Parse => return Ok(()),
        Case::NoLimit => ("conforming", 1.0),
        Case::Allowed => ("allowed", 1.0),
        Case::Blocked => ("blocked", 1.0),
        // Many sources conform, one exceeds; both are the default. A few are on a list.
        Case::Default | Case::Listed(_) => return Ok(()),
        // Beyond the table's size, most find no slot and pass.
        Case::Exceeding => return Ok(()),
    };
    ensure!(share(label) >= at_least, "{case:?}: only {:.3} of the packets were {label}", share(label));
    Ok(())
}

/// Lower quartile, median, upper quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    let at = |share: f64| values[((values.len() - 1) as f64 * share).round() as usize];
    [at(0.25), at(0.5), at(0.75)]
}

fn commit() -> String {
    let output = Command::new("git").args(["describe", "--always", "--dirty"]).output();
    output
        .map_or_else(|_| "unknown".into(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn kernel() -> Result<String> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    Ok(release.trim().to_owned())
}

fn cpu() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(|| "unknown".into(), |(_, name)| name.to_owned())
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { case, family, sources, cores, ns, ns_quartiles: [low, high], floor_ns } = self;
        write!(
            f,
            "{family:<7} {case:<11} {cores:>5} {sources:>11}  {ns:>6.1}  ({low:.1} to {high:.1}; floor {floor_ns:.1})"
        )
    }
}

impl Report {
    /// The figures as a table.
    pub fn table(&self) -> String {
        let mut text = format!("{}, Linux {}, commit {}\n", self.cpu, self.kernel, self.commit);
        text.push_str(
            "nanoseconds per packet above a bare XDP_DROP in the same harness: median (quartiles)\n\n",
        );
        text.push_str("family  case        cores     sources      ns\n");
        for figure in &self.cases {
            let _ = writeln!(text, "{figure}");
        }
        text
    }
}
