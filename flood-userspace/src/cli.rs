//! The command line: what is said, what is called for it, and how it ends.
//!
//! Data go to stdout, talk to stderr. Exit codes: 0 done, 1 a negative answer, 2 usage or configuration, 3 no daemon,
//! 4 kernel or permission ([`exit`]).

mod check;
mod exit;
mod feeds;
mod lists;
mod replay;
mod show;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    io::{self, Write},
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use hyper::Method;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    config::{AttachMode, Config, DEFAULT_PATH, InterfaceName, Mode},
    control::{
        client::Client,
        protocol::{
            DetachReply, DetachRequest, LimitChange, Limits, ModeChange, ReloadReply, ReloadRequest, Sources,
            Stats, Status, TraceRequest,
        },
    },
    daemon::{self, Signals, Written},
    doctor::{self, Verdict},
    lists::ListKind,
    log, memory,
    printable::{self, Lines},
};

use self::exit::Failed;

/// Where the control socket is, unless `--socket` says otherwise: where the configuration in its usual place has it.
fn default_socket() -> PathBuf {
    // What is wrong with that file is for `run` and `check` to say.
    Config::load(Path::new(DEFAULT_PATH)).unwrap_or_default().control.socket
}

/// Drops floods in the network driver, and says why.
///
/// `floodgate run eth0` guards an interface until Ctrl-C; every other verb talks to that process over its control
/// socket. A packet from a source on the allow list passes, from one on the block list it is dropped. Others are held to
/// limits, and what is over a limit still passes when it proves its origin. Exit codes: 0 done, 1 a negative answer, 2 usage or
/// configuration, 3 no daemon, 4 kernel or permission.
#[derive(Parser)]
#[command(name = "floodgate", version, max_term_width = 100)]
struct Arguments {
    /// The control socket [default: that of the configuration, /run/floodgate/floodgate.sock]
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Attaches the filter and serves until Ctrl-C or SIGTERM, which take it off again.
    Run(Run),
    /// Shows what is attached and how, and what deserves attention.
    Status(Json),
    /// Shows the counters: packets and bytes by interface, verdict and reason.
    Stats(Json),
    /// Shows the busiest sources and those that lose the most packets.
    Sources(SourcesArguments),
    /// Looks at and changes the block list: sources that are dropped.
    #[command(subcommand)]
    Block(lists::Verb),
    /// Looks at and changes the allow list: sources that pass whatever else holds.
    #[command(subcommand)]
    Allow(lists::Verb),
    /// Looks at and changes the list allow-proven: sources whose packets pass over the limits when they give evidence.
    #[command(subcommand)]
    AllowProven(lists::Verb),
    /// Looks at the feeds, and reads them now.
    #[command(subcommand)]
    Feed(feeds::Verb),
    /// Reads the configuration again, as SIGHUP does: its lists are exchanged, and all feeds are read.
    ///
    /// What was added to the lists at run time stays. A configuration with a fault changes nothing. Whatever else has
    /// changed in it since the start is named each time, also by `status`, and takes effect at the next start.
    Reload {
        /// Believe a file that is suddenly empty, or has less than a tenth of its entries.
        #[arg(long)]
        force: bool,
    },
    /// Looks at and changes the limits.
    #[command(subcommand)]
    Limit(LimitVerb),
    /// Drops attack packets (enforce), or passes and counts what would be dropped (monitor).
    Mode {
        /// The mode to change to.
        mode: ModeName,
    },
    /// Shows every decision about the packets of one source, until Ctrl-C.
    ///
    /// At most a hundred lines a second are written; how many were left out is said.
    Trace {
        /// The source.
        address: IpAddr,
    },
    /// Shows what the filter would do with a capture, by running it through the real program.
    Replay(replay::Arguments),
    /// Looks whether this host is fit for the filter: kernel, drivers, settings, lists. Attaches nothing.
    ///
    /// Ends with 1 if something is in the way of `floodgate run`.
    Doctor(Doctor),
    /// Checks a configuration with all its lists, as `run` and `reload` do; needs neither root nor a daemon.
    Check(Check),
    /// Makes the daemon let go of interfaces; it ends when it has none left.
    Detach {
        /// The interfaces [default: all]
        interfaces: Vec<String>,
    },
}

#[derive(Args)]
struct Run {
    /// The configuration [default: /etc/floodgate/floodgate.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where to attach [default: native]
    #[arg(long, value_name = "WHERE")]
    attach: Option<AttachName>,
    /// The mode to begin with [default: enforce]
    #[arg(long)]
    mode: Option<ModeName>,
    /// Take another XDP program off the interfaces; it is not put back afterwards.
    #[arg(long)]
    replace: bool,
    /// Guard the loopback as well. Set `sanity.land` and `sanity.loopback_source` to false first, or all local traffic is
    /// dropped.
    #[arg(long)]
    force: bool,
    /// The interfaces to guard [default: those of the configuration]
    interfaces: Vec<String>,
}

#[derive(Args)]
struct Doctor {
    /// The configuration [default: /etc/floodgate/floodgate.toml if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
    /// The interfaces to look at [default: those of the configuration, or else all]
    interfaces: Vec<String>,
}

#[derive(Args)]
struct Check {
    /// The file [default: /etc/floodgate/floodgate.toml]
    file: Option<PathBuf>,
    #[command(flatten)]
    json: Json,
}

#[derive(Args)]
struct Json {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct SourcesArguments {
    /// Sources to show of each kind.
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    #[command(flatten)]
    json: Json,
}

#[derive(Subcommand)]
enum LimitVerb {
    /// Shows the limits in force.
    Show(Json),
    /// Changes limits at once: `floodgate limit set source.syn=200/s total=2Gbit/s source.udp=off`.
    ///
    /// A limit is named by its scope (source, source_prefix, destination, destination_prefix, total), alone or with a class of
    /// packets (syn, synack, rst_fin, tcp, udp, amplification, closed, icmp, icmp_error, fragment, other). The unit of the
    /// value tells whether packets or bits are limited; `.packets`, `.bits`, `.packets_burst` and `.bits_burst` behind the name
    /// say it outright. Further there are protected.neighbour_discovery, protected.path_mtu and protected.link, which cannot be
    /// `off`. A rate without its burst sets the burst to its default. The change lasts until the daemon ends.
    Set {
        /// What to change.
        #[arg(required = true, value_name = "LIMIT=VALUE")]
        changes: Vec<String>,
    },
}

#[derive(ValueEnum, Clone, Copy)]
enum ModeName {
    /// Drop attack packets.
    Enforce,
    /// Pass them, and count what would have been dropped.
    Monitor,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Enforce => Self::Enforce,
            ModeName::Monitor => Self::Monitor,
        }
    }
}

#[derive(ValueEnum, Clone, Copy)]
enum AttachName {
    /// In the network driver.
    Native,
    /// In the network stack: works with every driver, and is several times slower.
    Generic,
    /// In the driver, or where it cannot do that in the network stack.
    NativeOrGeneric,
}

impl From<AttachName> for AttachMode {
    fn from(name: AttachName) -> Self {
        match name {
            AttachName::Native => Self::Native,
            AttachName::Generic => Self::Generic,
            AttachName::NativeOrGeneric => Self::NativeOrGeneric,
        }
    }
}

/// Reads `LIMIT=VALUE` and `LIMIT VALUE`.
fn parse_assignments(words: &[String]) -> Result<BTreeMap<String, String>, String> {
    let mut set = BTreeMap::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let pair = word.split_once('=').or_else(|| Some((word.as_str(), words.next()?.as_str())));
        let (name, value) =
            pair.ok_or_else(|| format!("{word} has no value: write LIMIT=VALUE, as source.syn=200/s"))?;
        if set.insert(name.trim().to_owned(), value.trim().to_owned()).is_some() {
            return Err(format!("{name} is set twice"));
        }
    }
    Ok(set)
}

/// Reads the command line, does what it says, and ends accordingly.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match dispatch(arguments) {
        Ok(code) => code,
        Err(failed) => {
            complain(&failed);
            failed.code()
        }
    }
}

fn dispatch(Arguments { socket, verb }: Arguments) -> Result<ExitCode, Failed> {
    match verb {
        Verb::Run(run) => return self::run(&run, socket),
        Verb::Replay(arguments) => return replay::run(&arguments),
        Verb::Check(arguments) => return check::run(&arguments),
        Verb::Doctor(doctor) => return self::doctor(&doctor),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(&Client::new(&socket.unwrap_or_else(default_socket)), verb))
}

/// The configuration that a verb is to go by: the file that is named, or the one in its usual place if it is there, with
/// the interfaces that the command line names. What is written in the file comes with it.
fn configuration(path: Option<&Path>, interfaces: &[String]) -> Result<(Config, Written), Failed> {
    let usual = Path::new(DEFAULT_PATH);
    let found = path.is_some() || usual.exists();
    let path = path.unwrap_or(usual);
    let mut config = if found { Config::load(path)? } else { Config::default() };
    let written = Written { path: path.to_owned(), config: config.clone(), found };
    if !interfaces.is_empty() {
        config.interfaces = interfaces
            .iter()
            .map(|name| name.parse::<InterfaceName>().map_err(|error| Failed::usage(error.to_string())))
            .collect::<Result<_, _>>()?;
        let mut named = BTreeSet::new();
        config.interfaces.retain(|name| named.insert(name.clone()));
    }
    Ok((config, written))
}

fn run(run: &Run, socket: Option<PathBuf>) -> Result<ExitCode, Failed> {
    memory::keep_little();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let signals = runtime.block_on(async { Signals::catch() })?;
    let (mut config, written) = configuration(run.config.as_deref(), &run.interfaces)?;
    config.control.socket = socket.unwrap_or(config.control.socket);
    config.attach = run.attach.map_or(config.attach, AttachMode::from);
    config.force = run.force;
    config.mode = run.mode.map_or(config.mode, Mode::from);

    log::start();
    let outcome = runtime.block_on(daemon::run(&config, written, run.replace, signals));
    // A client who still reads a trace must not keep us.
    runtime.shutdown_background();
    log::flush();
    outcome?;
    Ok(ExitCode::SUCCESS)
}

fn doctor(Doctor { config, json: Json { json }, interfaces }: &Doctor) -> Result<ExitCode, Failed> {
    let (config, _) = configuration(config.as_deref(), interfaces)?;
    let findings = doctor::examine(&config);
    if *json {
        say_json(&findings)?;
    } else {
        say(&show::findings(&findings))?;
    }
    let is_fit = findings.iter().all(|finding| finding.verdict != Verdict::Fault);
    Ok(if is_fit { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Everything that a daemon is asked for.
async fn ask(client: &Client, verb: Verb) -> Result<ExitCode, Failed> {
    match verb {
        Verb::Status(Json { json }) => print::<Status>(client, "/v1/status", json, show::status).await?,
        Verb::Stats(Json { json }) => print::<Stats>(client, "/v1/stats", json, show::stats).await?,
        Verb::Sources(SourcesArguments { limit, json: Json { json } }) => {
            print::<Sources>(client, &format!("/v1/sources?limit={limit}"), json, show::sources).await?;
        }
        Verb::Block(verb) => return lists::run(client, ListKind::Block, verb).await,
        Verb::Allow(verb) => return lists::run(client, ListKind::Allow, verb).await,
        Verb::AllowProven(verb) => return lists::run(client, ListKind::AllowProven, verb).await,
        Verb::Feed(verb) => return feeds::run(client, verb).await,
        Verb::Reload { force } => {
            let ReloadReply { allow, block, allow_proven, feeds, pending, warnings } =
                client.send(Method::POST, "/v1/reload", &ReloadRequest { force }).await?;
            for (kind, reply) in ListKind::ALL.into_iter().zip([&allow, &block, &allow_proven]) {
                say(&format!("{} list: {}", kind.label(), reply.named()))?;
            }
            for feed in feeds {
                say(&feed)?;
            }
            for warning in warnings {
                complain(&warning);
            }
            if !pending.is_empty() {
                complain(&format_args!("{}: {}", daemon::PENDING, pending.join(", ")));
            }
        }
        Verb::Limit(LimitVerb::Show(Json { json })) => {
            print::<Limits>(client, "/v1/limits", json, show::limits).await?;
        }
        Verb::Limit(LimitVerb::Set { changes }) => {
            let set = parse_assignments(&changes).map_err(Failed::usage)?;
            let limits: Limits = client.send(Method::PATCH, "/v1/limits", &LimitChange { set }).await?;
            say(&show::limits(&limits))?;
        }
        Verb::Mode { mode } => {
            let status: Status =
                client.send(Method::PUT, "/v1/mode", &ModeChange { mode: mode.into() }).await?;
            say(&format!("mode is now {}", show::mode(status.mode)))?;
        }
        Verb::Trace { address } => {
            complain(&format_args!("tracing {address} until Ctrl-C"));
            let mut stdout = io::stdout();
            let each = |line: &[u8]| stdout.write_all(line).and_then(|()| stdout.flush());
            client.stream("/v1/trace", &TraceRequest { address }, each).await?;
            complain(&"the daemon has ended the trace");
        }
        Verb::Detach { interfaces } => {
            let reply: DetachReply =
                client.send(Method::POST, "/v1/detach", &DetachRequest { interfaces }).await?;
            let end = if reply.ends { "; nothing is left, and the daemon ends" } else { "" };
            say(&format!("let go: {}{end}", reply.detached.join(", ")))?;
        }
        Verb::Run(_) | Verb::Replay(_) | Verb::Check(_) | Verb::Doctor(_) => {} // asks no daemon
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what a daemon answers.
async fn print<T: Serialize + DeserializeOwned>(
    client: &Client,
    path: &str,
    json: bool,
    show: impl FnOnce(&T) -> String,
) -> Result<(), Failed> {
    let answer: T = client.get(path).await?;
    if json { say_json(&answer) } else { say(&show(&answer)) }
}

/// Writes to stdout. Whoever has closed it wants no more, which is no failure.
fn say(text: &str) -> Result<(), Failed> {
    put(&Lines { text: text.trim_end(), indent: "" })
}

/// Writes JSON to stdout.
fn say_json(value: &impl Serialize) -> Result<(), Failed> {
    put(&printable::json(&serde_json::to_string_pretty(value)?))
}

fn put(text: &dyn Display) -> Result<(), Failed> {
    // As one piece: standard output writes line by line otherwise.
    match io::stdout().write_all(format!("{text}\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Says what is wrong on stderr. That this cannot be written is nothing that could be said there.
fn complain(problem: &dyn Display) {
    let text = format!("{}\n", Lines { text: format_args!("floodgate: {problem}"), indent: "" });
    _ = io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }
}
