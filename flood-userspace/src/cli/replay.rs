//! `replay`.

mod summary;

use std::{
    io::{self, BufWriter, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use flood_common::{
    packet::{Packet, Parsed, parse},
    reason::Reason,
    wire::Frame as Bytes,
};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    bpf::BpfError,
    capture::{CaptureError, Source},
    config::{CellName, DEFAULT_PATH},
    lists::parse_target,
    quantity::{PacketRate, parse_duration},
    replay::{Pace, Replay, Said, Service, Stage, Survey, Verdict, leave_network},
};

use self::summary::Summary;
use super::{
    complain, configuration,
    exit::{Failed, NO, USAGE},
};

/// What to replay.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Captures in pcap or pcapng, also compressed with gzip or zstd; `-` is standard input. Each begins with nothing left of
    /// the one before.
    #[arg(required = true, value_name = "CAPTURE")]
    captures: Vec<PathBuf>,
    /// Judge by this configuration [default: /etc/floodgate/floodgate.toml if it is there]. Its mode does not matter: `drop`
    /// is what enforcing does.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// All that would have listened, as tcp/443,udp/53 [default: what the capture shows as answered]
    #[arg(long, value_name = "SERVICES", value_delimiter = ',')]
    listen: Vec<Service>,
    /// Addresses of the host: what they send is not judged, but noted as its questions [default: what the capture shows]
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',', value_parser = parse_local)]
    local: Vec<Prefixes>,
    /// Play the capture so many times as fast.
    #[arg(long, value_name = "FACTOR", value_parser = parse_factor, conflicts_with = "rate")]
    speed: Option<f64>,
    /// Play the capture at so many packets a second, as 1M/s, over and over for the time of --for, whatever its own times.
    #[arg(long, value_name = "RATE")]
    rate: Option<PacketRate>,
    /// How long a capture is played at a rate, at least once.
    #[arg(long = "for", value_name = "TIME", default_value = "1s", value_parser = parse_duration, requires = "rate")]
    duration: Duration,
    /// Show the sources and ports that most packets of a verdict are from and for.
    #[arg(long, value_name = "COUNT")]
    top: Option<usize>,
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

/// What one word of `--local` names.
#[derive(Clone, Debug)]
struct Prefixes(Vec<IpNet>);

fn parse_local(text: &str) -> Result<Prefixes, String> {
    parse_target(text).map(Prefixes).map_err(|error| error.to_string())
}

fn parse_factor(text: &str) -> Result<f64, String> {
    /// By how much a capture can be played faster, or slower.
    const MOST: f64 = 1e6;

    match text.parse() {
        Ok(factor) if (1.0 / MOST..=MOST).contains(&factor) => Ok(factor),
        _ => Err(format!("a number from {} to {MOST}", 1.0 / MOST)),
    }
}

/// One packet, for `--json --each`.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a Path,
    n: u64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The limit that it exceeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<CellName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<IpAddr>,
}

/// Replays.
pub(super) fn run(arguments: &Arguments) -> Result<ExitCode, Failed> {
    let (config, written) = configuration(arguments.config.as_deref(), &[])?;
    leave_network().map_err(|error| {
        let what = "moving into a network namespace of its own, as replay asks sockets there";
        Failed::from(BpfError::Other { what, cause: error.to_string() })
    })?;
    let mut player = Player {
        arguments,
        said: Said {
            local: arguments.local.iter().flat_map(|prefixes| prefixes.0.clone()).collect(),
            listen: arguments.listen.clone(),
            flood: arguments.rate.is_some() || !arguments.listen.is_empty(),
        },
        replay: Replay::new(&config)?,
        output: BufWriter::new(io::stdout().lock()),
        summary: Summary::new(arguments.top),
    };
    player.summary.assume(match &arguments.config {
        Some(path) => format!("the configuration {}", path.display()),
        None if written.path.exists() => format!("the configuration {DEFAULT_PATH}"),
        None => "the default configuration".to_owned(),
    });
    let mut damaged = false;
    for path in &arguments.captures {
        match player.play(path) {
            Ok(()) => {}
            // Nobody reads any more, as with `| head`.
            Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(Stop::Output(error)) => return Err(error.into()),
            Err(Stop::Replay(failed)) => return Err(failed),
            Err(Stop::Capture(error)) => {
                player.output.flush()?;
                complain(&error);
                damaged = true;
            }
        }
    }
    let Player { mut output, mut summary, .. } = player;
    summary.write(&mut output, arguments.json)?;
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

impl From<BpfError> for Stop {
    fn from(error: BpfError) -> Self {
        Self::Replay(error.into())
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Plays captures and says what becomes of them.
struct Player<'a> {
    arguments: &'a Arguments,
    said: Said,
    replay: Replay,
    output: BufWriter<io::StdoutLock<'static>>,
    summary: Summary,
}

impl Player<'_> {
    /// Plays a capture.
    fn play(&mut self, path: &Path) -> Result<(), Stop> {
        let source = Source::open(path)?;
        let survey = Survey::of(&source, &self.said);
        let stage = Stage::plan(&survey, &self.said);
        self.assume(path, &survey, stage.as_ref());
        let pace = match (self.arguments.rate, self.arguments.speed) {
            (Some(rate), _) => Pace::Rate(rate),
            (None, Some(factor)) => Pace::Times(factor),
            (None, None) => Pace::default(),
        };
        self.replay.begin_capture();
        self.replay.set_stage(stage)?;
        let timed = survey.has_times();
        self.replay.set_pace(pace, survey.odd);
        loop {
            let judged = self.summary.judged();
            self.play_once(path, &source, timed)?;
            let is_long = Duration::from_nanos(self.replay.passed_ns()) >= self.arguments.duration;
            if self.arguments.rate.is_none() || is_long || self.summary.judged() == judged {
                return Ok(());
            }
        }
    }

    fn play_once(&mut self, path: &Path, source: &Source, timed: bool) -> Result<(), Stop> {
        let mut capture = source.read()?;
        let played = loop {
            let mut frame = match capture.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            };
            frame.time_ns = frame.time_ns.filter(|_| timed);
            let verdict = self.replay.run(&frame)?;
            let packet = match parse(Bytes(frame.bytes)) {
                Parsed::Packet(packet) => Some(packet),
                Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_) => None,
            };
            let limit = words(verdict).1.map_or(Ok(None), |reason| self.replay.exceeded(reason))?;
            self.summary.add(verdict, limit, packet.as_ref());
            if self.arguments.each {
                let line = Line::new(path, frame.number, verdict, limit, packet.as_ref());
                line.write(&mut self.output, self.arguments.json)?;
            }
        };
        capture.skipped().for_each(|(link, frames)| self.summary.skip_link(link, frames));
        Ok(played?)
    }

    /// Says what is assumed about a capture.
    fn assume(&mut self, path: &Path, survey: &Survey, stage: Option<&Stage>) {
        /// How many addresses, and how many services, are named.
        const NAMED: usize = 4;

        let of =
            if self.arguments.captures.len() > 1 { format!("{}: ", path.display()) } else { String::new() };
        let some = |names: Vec<String>| match names.len().checked_sub(NAMED) {
            None | Some(0) => names.join(", "),
            Some(more) => format!("{} and {more} more", names[..NAMED].join(", ")),
        };
        let addresses = |prefix: &IpNet| {
            let is_single = prefix.prefix_len() == prefix.max_prefix_len();
            if is_single { prefix.addr().to_string() } else { prefix.to_string() }
        };
        self.summary.see_times(survey, self.arguments.rate.is_some());
        let Some(stage) = stage else {
            self.summary.assume(format!(
                "{of}nothing is known of the host, so no socket is asked, and what nobody wants is not told from what \
                 somebody does: --local and --listen say more"
            ));
            return;
        };
        let local = some(stage.local.iter().map(addresses).collect());
        self.summary.assume(format!("{of}the host is {local}, {}", stage.known.describe()));
        let listening = stage.listening.iter().map(|(service, address)| match address {
            Some(IpAddr::V6(address)) => format!("{service} at [{address}]"),
            Some(address) => format!("{service} at {address}"),
            None => service.to_string(),
        });
        let listening: Vec<String> = listening.collect();
        let by = if self.said.listen.is_empty() { "as the capture shows its answers" } else { "by --listen" };
        let what = if listening.is_empty() { "nothing".to_owned() } else { some(listening) };
        self.summary
            .assume(format!("{of}listening is {what}, {by}; no packet proves that it is of a connection"));
        if stage.incomplete {
            self.summary.assume(format!(
                "{of}the host may be known in part only, as the capture shows more addresses and ports than replay keeps: \
                 packets that it wants may count as unwanted"
            ));
        }
    }
}

/// The words for a verdict.
fn words(verdict: Verdict) -> (&'static str, Option<Reason>) {
    match verdict {
        Verdict::Pass(reason) => ("pass", Some(reason)),
        Verdict::Answer(reason) => ("answer", Some(reason)),
        Verdict::Drop(reason) => ("drop", Some(reason)),
        Verdict::Noted => ("noted", None),
        Verdict::Skipped => ("skipped", None),
    }
}

impl<'a> Line<'a> {
    fn new(
        file: &'a Path,
        n: u64,
        verdict: Verdict,
        limit: Option<CellName>,
        packet: Option<&Packet>,
    ) -> Self {
        let (verdict, reason) = words(verdict);
        let source = packet.map(|packet| packet.source.into());
        let destination = packet.map(|packet| packet.destination.into());
        Self { file, n, verdict, reason: reason.map(Reason::label), limit, source, destination }
    }

    fn write(&self, output: &mut impl Write, json: bool) -> io::Result<()> {
        if json {
            serde_json::to_writer(&mut *output, self)?;
            return writeln!(output);
        }
        let Self { file, n, verdict, reason, limit, source, destination } = self;
        write!(output, "{} {n} {verdict} {}", file.display(), reason.unwrap_or("-"))?;
        if let Some(limit) = limit {
            write!(output, " (limit.{limit})")?;
        }
        if let (Some(source), Some(destination)) = (source, destination) {
            write!(output, " {source} > {destination}")?;
        }
        writeln!(output)
    }
}
