//! What the daemon and its clients say to each other: JSON over HTTP on a unix socket.
//!
//! | request | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/stats` | | [`Stats`] |
//! | `GET /v1/sources?limit=N` | | [`Sources`] |
//! | `GET /v1/lists/{block,allow,allow-proven}` | | [`ListReply`] |
//! | `GET /v1/lists/{block,allow,allow-proven}?covering=ADDRESS` | | [`ListReply`] |
//! | `POST /v1/lists/{block,allow,allow-proven}` | [`AddRequest`] | [`AddReply`] |
//! | `DELETE /v1/lists/{block,allow,allow-proven}` | [`RemoveRequest`] | [`RemoveReply`] |
//! | `GET /v1/feeds` | | [`Feeds`] |
//! | `POST /v1/feeds/refresh` | [`RefreshRequest`] | [`Feeds`], when they have been read |
//! | `POST /v1/reload` | [`ReloadRequest`], or nothing | [`ReloadReply`] |
//! | `GET /v1/limits` | | [`Limits`] |
//! | `PATCH /v1/limits` | [`LimitChange`] | [`Limits`] |
//! | `PUT /v1/mode` | [`ModeChange`] | [`Status`] |
//! | `POST /v1/trace` | [`TraceRequest`] | lines of text, until the client hangs up |
//! | `POST /v1/detach` | [`DetachRequest`] | [`DetachReply`] |
//! | `GET /metrics` | | OpenMetrics, or the text format of Prometheus |
//!
//! A request that fails is answered with [`Failure`] and a status of 400 (bad request), 403 (needs `force`), 404, 405,
//! 409 (in use), 413 (too large) or 500. A field or parameter that a request does not have is refused, so that none is
//! misspelt in vain. The schema is stable: fields are added, never renamed or removed. `docs/control.md` has it for people.

use std::{collections::BTreeMap, net::IpAddr};

use flood_common::{
    proof::means,
    sanity::{CHECKS, Sanity},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{CellLimits, CellName, Mode, ProtectedLimits, SynProof};

/// Room for a request about a list, in bytes: a million prefixes have some 30 MB.
pub const LARGEST_REQUEST: usize = 128 << 20;

/// Why a request failed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// One sentence, with what to do.
    pub error: String,
}

/// What is attached, and how.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// Seconds that it has run.
    pub uptime_s: u64,
    /// Enforce or monitor.
    pub mode: Mode,
    /// The interfaces that it guards.
    pub interfaces: Vec<InterfaceStatus>,
    /// Entries in the block list.
    pub blocked: ListSize,
    /// Entries in the allow list.
    pub allowed: ListSize,
    /// Entries in the list allow-proven.
    pub allowed_proven: ListSize,
    /// Places of both lists in the kernel's tables.
    pub list_places: ListPlaces,
    /// Sources in debt.
    pub sources: TableStatus,
    /// Destinations in debt.
    pub destinations: TableStatus,
    /// Flows to mirrors that were asked for.
    #[serde(default)]
    pub solicited: PlaceStatus,
    /// Samples of dropped packets.
    pub samples: SampleStatus,
    /// Lines of the log that could not be written since the start, or had to wait for too long.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// How packets over a limit prove their origin.
    pub proof: ProofStatus,
    /// Which checks of sanity are made.
    #[serde(default)]
    pub sanity: SanityStatus,
    /// The source that is being traced.
    pub trace: Option<IpAddr>,
    /// The feeds of all lists.
    #[serde(default)]
    pub feeds: Vec<FeedStatus>,
    /// The keys of the configuration that have changed since the start, as a reload has found, and take effect at the next.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What the operator should know: generic mode, an interface that is gone, a table that fills up.
    pub warnings: Vec<String>,
}

/// How packets over a limit prove their origin.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ProofStatus {
    /// How SYNs do; never `auto`.
    pub syn: SynProof,
    /// Why SYNs have to come twice, where they might have been answered.
    #[serde(default)]
    pub why_no_cookies: Option<String>,
    /// Whether sockets speak for other packets.
    pub sockets: bool,
    /// Whether it speaks against a packet when there is no socket for it.
    #[serde(default)]
    pub absence: bool,
    /// Why it does not, where it might.
    #[serde(default)]
    pub why_no_absence: Option<String>,
    /// Whether it can be told what a half-open connection has sent; where it cannot, 5,000 packets a second pass to each
    /// listener for such.
    #[serde(default)]
    pub half_open: bool,
    /// Whether `net.ipv4.tcp_syncookies` is raised at the moment.
    pub syncookies_raised: bool,
}

/// How SYNs over a limit prove their origin, by bits of [`means`].
pub fn syn_proof(means: u32) -> SynProof {
    if means & means::COOKIES != 0 {
        SynProof::Cookie
    } else if means & means::RETRANSMISSION != 0 {
        SynProof::Retransmission
    } else {
        SynProof::Off
    }
}

/// Which checks of sanity are made.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct SanityStatus {
    /// Those that are not, by the labels of their reasons.
    pub off: Vec<String>,
    /// Protocols that are refused, by number.
    pub refused_protocols: Vec<u8>,
    /// EtherTypes that are refused.
    pub refused_ethertypes: Vec<u16>,
    /// The only ones that are accepted, if not all are.
    pub accepted_ethertypes: Vec<u16>,
}

impl From<&Sanity> for SanityStatus {
    fn from(sanity: &Sanity) -> Self {
        let off = CHECKS.iter().filter(|(reason, _)| !sanity.makes(*reason));
        Self {
            off: off.map(|(reason, _)| reason.label().to_owned()).collect(),
            refused_protocols: sanity.refused_protocols().collect(),
            refused_ethertypes: sanity.ethertypes.refused().to_vec(),
            accepted_ethertypes: sanity.ethertypes.accepted().to_vec(),
        }
    }
}

/// An interface that the filter is to guard.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct InterfaceStatus {
    /// The name that it has; of one that is not there, the last that it had, or that it was given.
    pub name: String,
    /// The name that it was given on the command line or in the configuration, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Number in the kernel; 0 of one that has never been there.
    pub index: u32,
    /// Where the filter runs.
    pub attached: Attached,
    /// Whether the interface is there.
    pub present: bool,
    /// Why it is not guarded, if it is not: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unguarded: Option<String>,
    /// Whether the name that it was given is that of another interface by now.
    #[serde(default)]
    pub name_taken: bool,
    /// How often the filter was attached again, since it had come off.
    #[serde(default)]
    pub reattached: u64,
    /// By what is told whether answers that come in by it were asked for.
    #[serde(default)]
    pub answers: AnswersBy,
    /// Why that is not by what was noted, where it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnoted: Option<String>,
}

/// By what is told whether UDP from the port of a mirror was asked for.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "snake_case")]
pub enum AnswersBy {
    /// By what a program on the way out has noted, a link of its own; and by sockets where the configuration has it.
    Tcx,
    /// The same, as a filter in the queueing discipline `clsact`.
    Clsact,
    /// By the host's sockets.
    Sockets,
    /// By nothing: the limits of `amplification` are all that holds.
    #[default]
    Nothing,
}

/// Where the filter runs.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    /// In the driver.
    Native,
    /// Behind the driver.
    Generic,
    /// Nowhere: the interface is not guarded.
    Nowhere,
}

/// How much is on a list.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListSize {
    /// IPv4 prefixes.
    pub ipv4: u64,
    /// IPv6 prefixes.
    pub ipv6: u64,
}

/// How full the tables of the lists are.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListPlaces {
    /// IPv4 addresses in prefixes longer than /24.
    pub ipv4: PlaceStatus,
    /// IPv6 prefixes.
    pub ipv6: PlaceStatus,
}

/// How full a table is.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct PlaceStatus {
    /// Places that entries take.
    pub used: u64,
    /// Places that there are.
    pub capacity: u64,
}

/// How full the tables of sources or of destinations are.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct TableStatus {
    /// Slots in each table.
    pub capacity: u64,
    /// IPv4 addresses in debt.
    pub ipv4: u64,
    /// IPv6 prefixes in debt.
    pub ipv6: u64,
    /// Length of those prefixes.
    pub ipv6_prefix: u8,
}

/// How dropped packets are sampled.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
pub struct SampleStatus {
    /// One in so many was sampled of late.
    pub every: u32,
    /// Samples taken since the start.
    pub taken: u64,
    /// Samples that the ring had no room for.
    pub lost: u64,
}

/// Packets and bytes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Bytes of whole frames without frame check sequence.
    pub bytes: u64,
}

/// Counters since the filter was attached, by interface.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// By name of the interface.
    pub interfaces: BTreeMap<String, InterfaceStats>,
}

/// Counters of one interface. A reason that has not occurred is not listed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct InterfaceStats {
    /// Passed, by reason.
    pub passed: BTreeMap<String, Volume>,
    /// Answered by the filter itself, by reason.
    pub answered: BTreeMap<String, Volume>,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, Volume>,
    /// Passed in monitor mode, where it would have been dropped or answered, by reason.
    pub would_drop: BTreeMap<String, Volume>,
}

/// The sources that use their limit, and those that lose packets.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Sources {
    /// Sources in debt, and networks and destinations if they are limited; the busiest first.
    pub busiest: Vec<BusySource>,
    /// How many are in debt in all.
    pub in_debt: u64,
    /// Sources whose packets were dropped (in monitor mode: would have been), the most first.
    pub dropped: Vec<DroppedSource>,
    /// Whether the volumes in `dropped` are exact; otherwise each is an estimate with its error.
    pub dropped_exact: bool,
}

/// A source in debt.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct BusySource {
    /// Address, or prefix; unknown for an IPv6 prefix of which no packet has been sampled.
    pub source: Option<String>,
    /// The limit that it is charged to.
    pub limit: CellName,
    /// 4 or 6.
    pub version: u8,
    /// Share of the limit that it uses, 0 to 1.
    pub share: f64,
    /// Its rate if all its packets are small, packets per second: the share of the packet limit.
    pub packets_per_s: Option<f64>,
    /// Its rate if its packets are large, bits per second: the share of the bit limit.
    pub bits_per_s: Option<f64>,
}

/// A source that loses packets.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct DroppedSource {
    /// Address.
    pub source: String,
    /// Packets dropped since the source was first seen.
    pub packets: u64,
    /// Bytes dropped.
    pub bytes: u64,
    /// Half width of the 95 % interval of `packets`, as a share of it; 0 when exact.
    pub error: f64,
    /// Dropped packets by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Those over a limit, by its name in the configuration without `limit.`, as `source.amplification`.
    #[serde(default)]
    pub limits: BTreeMap<CellName, u64>,
    /// Seconds since the last of them.
    pub last_seen_s: f64,
}

/// A list.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ListReply {
    /// Its entries, in the order of their addresses; several where a prefix is on the list for several reasons.
    pub entries: Vec<ListEntry>,
}

/// An entry of a list: what one origin says about a prefix.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ListEntry {
    /// What it covers.
    pub prefix: IpNet,
    /// `operator`, `config`, `file PATH`, `import NAME` or `feed NAME`.
    pub origin: String,
    /// Why it is there.
    pub reason: Option<String>,
    /// Who added it.
    pub added_by: Option<String>,
    /// Seconds since it was added.
    pub age_s: u64,
    /// Seconds until it ends; none for an entry without end.
    pub expires_in_s: Option<u64>,
}

/// Entries to add to a list.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// What to cover.
    pub prefixes: Vec<IpNet>,
    /// Seconds until they end; none for entries without end.
    pub ttl_s: Option<u64>,
    /// Why.
    pub reason: Option<String>,
    /// Who adds them.
    pub added_by: Option<String>,
    /// The name of the import that they come from, as the path of a file; none for what was typed.
    pub file: Option<String>,
    /// Remove what came from an import of this name before and is not among them.
    #[serde(default)]
    pub replace: bool,
    /// Add them although they are very short, or cover what this host needs or `logged_in_from`; believe an import although it is
    /// suddenly much shorter or longer than the one that it replaces, or covers very much.
    #[serde(default)]
    pub force: bool,
    /// The address that the operator is logged in from.
    pub logged_in_from: Option<IpAddr>,
}

/// What was added.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq, Eq, Debug)]
pub struct AddReply {
    /// Entries that were not there before.
    pub added: u64,
    /// Entries that were there and now have this reason and end.
    pub replaced: u64,
    /// Entries that came from this import before and are not among the new ones.
    #[serde(default)]
    pub removed: u64,
    /// Entries that were there, end later, and stay as they are.
    #[serde(default)]
    pub kept: u64,
    /// Prefixes of an import that are not in force as they are written, since they cover what this host needs.
    #[serde(default)]
    pub withheld: u64,
    /// The first of those that were added.
    #[serde(default)]
    pub first_added: Vec<IpNet>,
    /// The first of those that were removed.
    #[serde(default)]
    pub first_removed: Vec<IpNet>,
    /// What is different from what one might expect, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl AddReply {
    /// What has changed, with the first prefixes by name.
    pub fn named(&self) -> String {
        let Self { added, replaced, removed, kept, first_added, first_removed, .. } = self;
        let counts = [
            (*added, "added", first_added.as_slice()),
            (*replaced, "replaced", &[]),
            (*removed, "removed", first_removed.as_slice()),
            (*kept, "kept", &[]),
        ];
        let counts = counts.into_iter().filter(|(count, ..)| *count > 0);
        let counts: Vec<String> = counts
            .map(|(count, what, names)| format!("{count} {what}{}", in_brackets(names, count)))
            .collect();
        if counts.is_empty() { "unchanged".to_owned() } else { counts.join(", ") }
    }
}

/// Names some of so many prefixes.
fn in_brackets(some: &[IpNet], count: u64) -> String {
    if some.is_empty() {
        return String::new();
    }
    let names: Vec<String> = some.iter().map(ToString::to_string).collect();
    match count.saturating_sub(some.len() as u64) {
        0 => format!(" ({})", names.join(", ")),
        more => format!(" ({}, {more} more)", names.join(", ")),
    }
}

/// Entries to remove from a list: what was added at run time, from an import or else by hand.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// The entries' prefixes, as they were added; none for all of an import.
    pub prefixes: Vec<IpNet>,
    /// The name of the import.
    #[serde(default)]
    pub import: Option<String>,
}

/// What was removed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct RemoveReply {
    /// How many entries.
    pub removed: u64,
    /// Prefixes that were not in the list.
    pub missing: Vec<IpNet>,
    /// Shorter prefixes on the list that still cover a removed one.
    pub still_covered_by: Vec<IpNet>,
    /// Prefixes that stay because feeds carry them, with the names of the feeds.
    #[serde(default)]
    pub in_feeds: BTreeMap<IpNet, Vec<String>>,
    /// Prefixes that stay because others have them, with their origins.
    #[serde(default)]
    pub held_by: BTreeMap<IpNet, Vec<String>>,
}

/// The feeds of all lists.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Feeds {
    /// In the order of the configuration.
    pub feeds: Vec<FeedStatus>,
}

/// A feed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FeedStatus {
    /// `block`, `allow` or `allow-proven`.
    pub list: String,
    /// Its name.
    pub name: String,
    /// Its path or URL, without what may be secret.
    pub source: String,
    /// How often it is read, seconds.
    pub every_s: u64,
    /// Entries that it carries.
    pub entries: u64,
    /// Lines and prefixes of it that were left out.
    pub left_out: u64,
    /// The first of them.
    pub problems: Vec<String>,
    /// What it is written in, once it has been read: `addresses`, `json`, `ipset save` ...
    #[serde(default)]
    pub format: Option<String>,
    /// Prefixes that are not in force as they are written, since they cover what this host needs.
    #[serde(default)]
    pub withheld: u64,
    /// The first of them, and because of what.
    #[serde(default)]
    pub first_withheld: Vec<String>,
    /// When it was last read, or found unchanged; seconds since 1970.
    pub last_success: Option<u64>,
    /// How often reading it has failed since the start.
    pub errors: u64,
    /// What is wrong with it now.
    pub error: Option<String>,
    /// Seconds until it is read again; 0 while it is being read, none before it has been.
    pub next_s: Option<u64>,
}

/// Feeds to read now.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// Their names; none for all.
    pub names: Vec<String>,
    /// Believe them even if they are suddenly much shorter or longer than they were.
    #[serde(default)]
    pub force: bool,
}

/// The configuration is to be read again.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Believe files that are suddenly empty or much shorter than they were.
    #[serde(default)]
    pub force: bool,
}

/// What reading the configuration again has changed. Feeds are read afterwards.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct ReloadReply {
    /// In the allow list.
    pub allow: AddReply,
    /// In the block list.
    pub block: AddReply,
    /// In the list allow-proven.
    pub allow_proven: AddReply,
    /// What has become of feeds.
    #[serde(default)]
    pub feeds: Vec<String>,
    /// The keys that have changed since the start, and take effect at the next.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// The limits in force.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// By name as in the configuration without `limit.`: a scope, or a scope and a class.
    pub limits: CellLimits,
    /// Of messages that keep the host reachable, in all.
    pub protected: ProtectedLimits,
}

/// Limits to change; what is not named stays.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// By name as in the configuration without `limit.`: a scope or a scope and a class, as `source` or `source.syn`, then
    /// `.packets`, `.packets_burst`, `.bits` or `.bits_burst`; without that the unit of the value tells which. Further
    /// `protected.neighbour_discovery`, `protected.path_mtu`, `protected.link`. A rate without its burst sets the burst to its
    /// default.
    pub set: BTreeMap<String, String>,
}

/// The mode to change to.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct ModeChange {
    /// Enforce or monitor.
    pub mode: Mode,
}

/// The source to trace.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// Its address.
    pub address: IpAddr,
}

/// The interfaces to let go.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Their names; none for all.
    pub interfaces: Vec<String>,
}

/// What was let go.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DetachReply {
    /// The interfaces.
    pub detached: Vec<String>,
    /// Whether the daemon ends, having none left.
    pub ends: bool,
}
