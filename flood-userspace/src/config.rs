//! The configuration, in three stages with three names: as written ([`ConfigFile`]), validated ([`Config`]),
//! and compiled into the kernel's maps (elsewhere).
//!
//! `file` has every key with its documentation, `limit` the rules for limits (which hold for changes at
//! run time too), `validate` makes the one stage from the other, `reference` renders
//! `docs/configuration.md`. A `Config` is always complete and right: whoever has one need not check it again.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use flood_common::{
    address::{Address, TRANSLATORS, Translators, WELL_KNOWN_TRANSLATOR},
    reflector::REFLECTORS,
    sanity::{self, CHECKS, Ethertypes},
};
use ipnet::{IpNet, Ipv6Net};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::file as file_at;
use crate::lists::{ListKind, doubt::Coverage};
use crate::printable::Printable;
use crate::quantity::PacketRate;

pub mod feed;
pub mod file;
pub mod interface;
pub mod limit;
mod position;
pub mod reference;
#[cfg(test)]
mod tests;
mod unknown;
mod validate;

pub use feed::{Feed, FeedName, FeedSource, FeedUrl};
pub use file::{AttachMode, ConfigFile, HostSays, Mode, SolicitedBy, SynProof, SyncookieControl};
pub use interface::InterfaceName;
pub use limit::{
    BitLimit, CellLimit, CellLimits, CellName, HostTells, LimitError, LimitOrigin, PacketLimit,
    ProtectedLimits, RateLimit,
};
pub use position::Problem;

use unknown::Known;

/// The largest configuration, in bytes: room for a million entries, which would better be in a file of their own.
const LARGEST: u64 = 64 << 20;

/// How many values of a wrong type are looked for. Each makes the file be read again.
const MOST_MISFITS: usize = 20;

/// How many problems are shown.
const MOST_SHOWN: usize = 100;

/// Where the daemon looks for its configuration.
pub const DEFAULT_PATH: &str = "/etc/floodgate/floodgate.toml";

/// A validated configuration: units resolved, defaults filled in, paths absolute or relative to where we are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Interfaces to filter on. Empty when they are to come from the command line.
    pub interfaces: Vec<InterfaceName>,
    /// Drop, or only count what would be dropped.
    pub mode: Mode,
    /// Where in the receive path the filter is attached.
    pub attach: AttachMode,
    /// Whether the loopback is guarded, too; only the command line says so.
    pub force: bool,
    /// The folder of what is kept over a restart.
    pub state: PathBuf,
    /// How the daemon is talked to.
    pub control: Control,
    /// The limits, by cell.
    pub limits: CellLimits,
    /// Budgets of what keeps the host reachable.
    pub protected_limits: ProtectedLimits,
    /// How packets over a limit prove their origin.
    pub proof: Proof,
    /// What no packet should be.
    pub sanity: Sanity,
    /// The memory of sources.
    pub sources: Sources,
    /// The memory of the lists.
    pub lists: ListRoom,
    /// What is always dropped.
    pub block: ListInput,
    /// What is never dropped.
    pub allow: ListInput,
    /// What passes over the limits by evidence.
    pub allow_proven: ListInput,
}

/// How the daemon is talked to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Control {
    /// The unix socket of the control interface.
    pub socket: PathBuf,
    /// The loopback address at which `/metrics` is also served.
    pub metrics: Option<SocketAddr>,
}

/// How packets over a limit prove their origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// How SYNs do.
    pub syn: SynProof,
    /// Whether the sockets of this host tell what is wanted.
    pub host: HostSays,
    /// What each peer may send over its limits by evidence.
    pub proven: PacketLimit,
    /// What the filter sends back to one address.
    pub answers: PacketLimit,
    /// SYNs that came again, all together.
    pub retransmissions: PacketLimit,
    /// Whether the kernel's own setting may be changed.
    pub syncookies: SyncookieControl,
    /// By what is told whether UDP from the port of a mirror was asked for.
    pub solicited: SolicitedBy,
}

/// What no packet should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sanity {
    /// Which checks are made, by the labels of their reasons.
    #[serde(flatten)]
    pub checks: BTreeMap<&'static str, bool>,
    /// Protocols that are not wanted, by number.
    pub refuse_protocols: Vec<u8>,
    /// EtherTypes that are not wanted.
    pub refuse_ethertypes: Vec<u16>,
    /// The only ones that are, if any.
    pub accept_ethertypes: Vec<u16>,
}

impl Default for Sanity {
    fn default() -> Self {
        let checks = CHECKS.iter().map(|(reason, is_made)| (reason.label(), *is_made)).collect();
        Self {
            checks,
            refuse_protocols: Vec::new(),
            refuse_ethertypes: Vec::new(),
            accept_ethertypes: Vec::new(),
        }
    }
}

impl From<&Sanity> for sanity::Sanity {
    fn from(config: &Sanity) -> Self {
        let made = CHECKS.iter().map(|(reason, _)| *reason).filter(|reason| config.checks[reason.label()]);
        let ethertypes = if config.accept_ethertypes.is_empty() {
            Ethertypes::refuse(&config.refuse_ethertypes)
        } else {
            Ethertypes::accept(&config.accept_ethertypes)
        };
        Self::new(made, &config.refuse_protocols).with(ethertypes)
    }
}

/// The memory of sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sources {
    /// How many sources can be in debt at once, for each address family. A power of two.
    pub table: u32,
    /// The length of the prefix that counts as one IPv6 source.
    pub ipv6_prefix: u8,
    /// The length of the prefix that counts as one IPv4 network.
    pub ipv4_network: u8,
    /// The length of the prefix that counts as one IPv6 network.
    pub ipv6_network: u8,
    /// The prefixes of translators, besides the one that everybody knows.
    pub nat64: Vec<Ipv6Net>,
    /// UDP ports of mirrors besides those that are known.
    pub reflectors: Vec<u16>,
    /// Ports of known mirrors that are none here.
    pub reflectors_off: Vec<u16>,
}

impl Sources {
    /// The prefixes of all translators.
    pub fn translators(&self) -> Translators {
        let mut translators = [WELL_KNOWN_TRANSLATOR; TRANSLATORS];
        for (place, prefix) in translators.iter_mut().skip(1).zip(&self.nat64) {
            *place = Address::from(IpAddr::V6(prefix.network())).halves();
        }
        translators
    }

    /// The UDP ports of mirrors.
    pub fn reflector_ports(&self) -> Vec<u16> {
        let known = REFLECTORS.iter().map(|known| known.port);
        known
            .filter(|port| !self.reflectors_off.contains(port))
            .chain(self.reflectors.iter().copied())
            .collect()
    }
}

/// The memory of the lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ListRoom {
    /// How many IPv4 addresses can be listed one by one.
    pub ipv4: u32,
    /// How many IPv6 prefixes can be listed.
    pub ipv6: u32,
}

/// What a list is filled with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListInput {
    /// Entries from the configuration itself.
    pub entries: Vec<IpNet>,
    /// List files.
    pub files: Vec<PathBuf>,
    /// Lists that somebody else keeps.
    pub feeds: Vec<Feed>,
    /// Whether entries and files may block what this host needs.
    pub may_cover_host: bool,
    /// How much of all addresses entries and files may cover.
    pub max_coverage: Coverage,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: Mode::Enforce,
            attach: AttachMode::Native,
            force: false,
            state: PathBuf::from("/var/lib/floodgate"),
            control: Control { socket: PathBuf::from("/run/floodgate/floodgate.sock"), metrics: None },
            limits: limit::default_limits(),
            protected_limits: ProtectedLimits {
                neighbour_discovery: PacketLimit::of_rate(PacketRate(1_000)),
                path_mtu: PacketLimit::of_rate(PacketRate(1_000)),
                link: PacketLimit::of_rate(PacketRate(1_000)),
            },
            proof: Proof {
                syn: SynProof::Auto,
                host: HostSays::Auto,
                proven: PacketLimit::of_rate(PacketRate(1_000_000)),
                answers: PacketLimit::of_rate(PacketRate(20_000)),
                retransmissions: PacketLimit::of_rate(PacketRate(20_000)),
                syncookies: SyncookieControl::Keep,
                solicited: SolicitedBy::Auto,
            },
            sanity: Sanity::default(),
            sources: Sources {
                table: 524_288,
                ipv6_prefix: 64,
                ipv4_network: 24,
                ipv6_network: 48,
                nat64: Vec::new(),
                reflectors: Vec::new(),
                reflectors_off: Vec::new(),
            },
            lists: ListRoom { ipv4: 1_572_864, ipv6: 262_144 },
            block: ListInput::default(),
            allow: ListInput::default(),
            allow_proven: ListInput::default(),
        }
    }
}

impl Config {
    /// What it fills a list with.
    pub fn list(&self, kind: ListKind) -> &ListInput {
        match kind {
            ListKind::Allow => &self.allow,
            ListKind::Block => &self.block,
            ListKind::AllowProven => &self.allow_proven,
        }
    }

    /// Reads and validates the file at `path`.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = file_at::read_to_string(path, LARGEST)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Validates the text of a configuration file. `path` is where it is from: for messages, and because the
    /// paths in it are relative to its folder.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new(""));
        let (document, faults) = match DeTable::parse(text) {
            Ok(document) => match read(&document) {
                Ok(file) => match validate::validate(file, folder) {
                    Ok(config) => return Ok(config),
                    Err(faults) => (document, faults),
                },
                Err(faults) => (document, faults),
            },
            Err(error) => {
                let fault = (error.span().unwrap_or_default(), error.message().to_owned());
                (DeTable::parse_recoverable(text).0, vec![fault])
            }
        };
        let mut problems = position::locate(text, document.get_ref(), faults);
        problems.iter_mut().for_each(add_accepted);
        Err(ConfigError::Invalid { path: path.to_owned(), problems })
    }
}

/// Where serde only names the type that it wants ("invalid type", "invalid value"), what the key accepts is added.
fn add_accepted(problem: &mut Problem) {
    if !problem.what.starts_with("invalid ") {
        return;
    }
    if let Some(accepts) = problem.key.as_deref().and_then(file::accepts) {
        problem.what += &format!("; it accepts {accepts}");
    }
}

/// Reads a document into the types that it should fit, or says all keys of it that do not exist, and which values do not
/// fit.
fn read(document: &Spanned<DeTable<'_>>) -> Result<ConfigFile, Vec<validate::Fault>> {
    let mut faults = Vec::new();
    let mut root = DeValue::Table(document.get_ref().clone());
    ConfigFile::take_unknown(&mut root, &mut faults);
    // A value that does not fit ends the reading. It is taken out, and the next try finds the next one.
    for _ in 0..MOST_MISFITS {
        let DeValue::Table(table) = &mut root else { break };
        let whole = Spanned::new(document.span(), table.clone());
        let error = match ConfigFile::deserialize(toml::Deserializer::from(whole)) {
            Ok(file) if faults.is_empty() => return Ok(file),
            Ok(_) => break,
            Err(error) => error,
        };
        let span = error.span().unwrap_or_default();
        let is_taken_out = unknown::take_at(table, span.start);
        faults.push((span, error.message().to_owned()));
        if !is_taken_out {
            break;
        }
    }
    Err(faults)
}

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}{}", Printable(path.display()), hint(source))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The file is not TOML, or says something that cannot be done.
    #[error("{}", render_problems(path, problems))]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// All that is wrong with it, in the order of the file.
        problems: Vec<Problem>,
    },
}

/// What to do about a configuration that cannot be read.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "; create it, or have `floodgate run` take another with --config",
        io::ErrorKind::PermissionDenied => "; it may be root's alone: try it with sudo",
        _ => "",
    }
}

/// One problem per line, each as `FILE:LINE:COLUMN: KEY: WHAT`; of very many the first.
fn render_problems(path: &Path, problems: &[Problem]) -> String {
    let path = Printable(path.display());
    let shown = problems.iter().take(MOST_SHOWN);
    let mut lines: Vec<_> = shown.map(|problem| format!("{path}:{}", Printable(problem))).collect();
    if let Some(more @ 1..) = problems.len().checked_sub(MOST_SHOWN) {
        lines.push(format!("{path}: {more} more problems"));
    }
    lines.join("\n")
}
