//! `replay`.

use std::{
    collections::BTreeMap,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use flood_common::reason::Reason;
use serde::Serialize;

use crate::{
    capture::{Capture, CaptureError, Frame},
    config::Config,
    replay::{Replay, Verdict},
};

use super::{
    complain,
    exit::{Failed, NO, USAGE},
};

/// What to replay.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Captures in pcap or pcapng. Each begins with nothing left of the one before.
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Judge by this configuration [default: all defaults]. Its mode does not matter: `drop` is what enforcing does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON, one object per line.
    #[arg(long)]
    json: bool,
    /// Print a line for each packet.
    #[arg(long)]
    each: bool,
    /// End with exit code 1 if anything is dropped.
    #[arg(long)]
    fail_on_drop: bool,
}

/// One packet, for `--json --each`.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    n: u64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
}

/// The last line.
#[derive(Serialize, Default)]
struct Summary {
    packets: u64,
    pass: u64,
    drop: u64,
    skipped: u64,
    reasons: BTreeMap<&'static str, u64>,
}

/// Replays.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let config = arguments.config.as_ref().map_or(Ok(Config::default()), |path| Config::load(path))?;
    let mut replay = Replay::new(&config)?;
    let mut output = BufWriter::new(io::stdout().lock());
    let mut summary = Summary::default();
    let mut damaged = false;
    for path in &arguments.captures {
        replay.begin_capture();
        let outcome = each_frame(path, |frame| {
            let verdict = replay.run(frame)?;
            summary.add(verdict);
            if arguments.each {
                write_line(&mut output, arguments.json, path, frame.number, verdict)?;
            }
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            // Nobody reads any more, as with `| head`.
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(Stop::Output(error)) => return Err(error.into()),
            Err(Stop::Replay(failed)) => return Err(failed),
            Err(Stop::Capture(error)) => {
                output.flush()?;
                complain(&error);
                damaged = true;
            }
        }
    }
    if arguments.json {
        serde_json::to_writer(&mut output, &BTreeMap::from([("summary", &summary)]))?;
        writeln!(output)?;
    } else {
        write!(output, "{}", summary.table())?;
    }
    output.flush()?;
    Ok(match (damaged, arguments.fail_on_drop && summary.drop > 0) {
        (true, _) => ExitCode::from(USAGE),
        (false, true) => ExitCode::from(NO),
        (false, false) => ExitCode::SUCCESS,
    })
}

/// Why a capture is not replayed to its end.
enum Stop {
    Capture(CaptureError),
    Replay(Failed),
    Output(io::Error),
}

impl From<CaptureError> for Stop {
    fn from(error: CaptureError) -> Self {
        Self::Capture(error)
    }
}

impl From<crate::bpf::BpfError> for Stop {
    fn from(error: crate::bpf::BpfError) -> Self {
        Self::Replay(error.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn each_frame(path: &Path, mut each: impl FnMut(&Frame<'_>) -> Result<(), Stop>) -> Result<(), Stop> {
    let mut capture = Capture::open(path)?;
    while let Some(frame) = capture.next_frame()? {
        each(&frame)?;
    }
    Ok(())
}

/// The words for a verdict.
fn words(verdict: Verdict) -> (&'static str, Option<Reason>) {
    match verdict {
        Verdict::Pass(reason) => ("pass", Some(reason)),
        Verdict::Drop(reason) => ("drop", Some(reason)),
        Verdict::Skipped => ("skipped", None),
    }
}

fn write_line(output: &mut impl Write, json: bool, file: &Path, n: u64, verdict: Verdict) -> io::Result<()> {
    let (verdict, reason) = words(verdict);
    let reason = reason.map(Reason::label);
    if json {
        serde_json::to_writer(&mut *output, &Line { file, n, verdict, reason })?;
        return writeln!(output);
    }
    writeln!(output, "{} {n} {verdict} {}", file.display(), reason.unwrap_or("-"))
}

impl Summary {
    fn add(&mut self, verdict: Verdict) {
        self.packets += 1;
        match verdict {
            Verdict::Pass(_) => self.pass += 1,
            Verdict::Drop(_) => self.drop += 1,
            Verdict::Skipped => self.skipped += 1,
        }
        if let (_, Some(reason)) = words(verdict) {
            *self.reasons.entry(reason.label()).or_default() += 1;
        }
    }

    fn table(&self) -> String {
        let mut text = format!(
            "{} packets: {} would pass, {} would be dropped, {} not run\n",
            self.packets, self.pass, self.drop, self.skipped
        );
        for reason in Reason::ALL {
            if let Some(count) = self.reasons.get(reason.label()) {
                let verdict = reason.verdict();
                text += &format!("{count:>12} {verdict} {:<17} {}\n", reason.label(), reason.meaning());
            }
        }
        text
    }
}
