//! The protocol between the daemon and its clients: JSON over HTTP on a unix socket.
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
//! A failed request is answered with [`Failure`] and status 400 (bad request), 403 (needs `force`), 404, 405, 409
//! (in use), 413 (too large) or 500. Unknown fields and parameters are rejected, so that a misspelt one does not
//! go unnoticed. The schema is stable: fields are added, never renamed or removed. `docs/control.md` documents it
//! for users.

use std::{collections::BTreeMap, net::IpAddr};

use flood_common::{
    proof::means,
    sanity::{CHECKS, Sanity},
};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::{CellLimits, CellName, Mode, ProtectedLimits, SynProof};

/// Maximum body size of a request about a list, in bytes: a million prefixes have some 30 MB.
pub const LARGEST_REQUEST: usize = 128 << 20;

/// Why a request failed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// One sentence, including what to do.
    pub error: String,
}

/// Which interfaces the filter is attached to, and how.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Process ID of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_s: u64,
    /// Enforce or monitor.
    pub mode: Mode,
    /// The interfaces to guard.
    pub interfaces: Vec<InterfaceStatus>,
    /// Entries in the block list.
    pub blocked: ListSize,
    /// Entries in the allow list.
    pub allowed: ListSize,
    /// Entries in the allow-proven list.
    pub allowed_proven: ListSize,
    /// How full the kernel's tables for the block and allow lists are.
    pub list_places: ListPlaces,
    /// Sources in debt.
    pub sources: TableStatus,
    /// Destinations in debt.
    pub destinations: TableStatus,
    /// Solicited flows to reflectors.
    #[serde(default)]
    pub solicited: PlaceStatus,
    /// Samples of dropped packets.
    pub samples: SampleStatus,
    /// Log lines since the start that could not be written or had to wait too long.
    #[serde(default)]
    pub log_lines_lost: u64,
    /// How packets over a limit prove their origin.
    pub proof: ProofStatus,
    /// Which sanity checks are enabled.
    #[serde(default)]
    pub sanity: SanityStatus,
    /// The source that is being traced.
    pub trace: Option<IpAddr>,
    /// The feeds of all lists.
    #[serde(default)]
    pub feeds: Vec<FeedStatus>,
    /// Configuration keys that changed since the start, as found by a reload. They take effect at the next start.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What the operator should know: generic mode, a missing interface, a table that fills up.
    pub warnings: Vec<String>,
}

/// How packets over a limit prove their origin.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ProofStatus {
    /// How SYNs prove their origin; never `auto`.
    pub syn: SynProof,
    /// Why SYNs have to be retransmitted where cookies might have been used.
    #[serde(default)]
    pub why_no_cookies: Option<String>,
    /// Whether a matching socket vouches for other packets.
    pub sockets: bool,
    /// Whether the absence of a matching socket counts against a packet.
    #[serde(default)]
    pub absence: bool,
    /// Why it does not, where it might.
    #[serde(default)]
    pub why_no_absence: Option<String>,
    /// Whether the filter can tell what a half-open connection has sent. If not, 5,000 packets a second pass to
    /// each listener for such connections.
    #[serde(default)]
    pub half_open: bool,
    /// Whether `net.ipv4.tcp_syncookies` is raised at the moment.
    pub syncookies_raised: bool,
}

/// Returns how SYNs over a limit prove their origin, from the bits of [`means`].
pub fn syn_proof(means: u32) -> SynProof {
    if means & means::COOKIES != 0 {
        SynProof::Cookie
    } else if means & means::RETRANSMISSION != 0 {
        SynProof::Retransmission
    } else {
        SynProof::Off
    }
}

/// Which sanity checks are enabled.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct SanityStatus {
    /// Disabled checks, by the labels of their reasons.
    pub off: Vec<String>,
    /// Refused IP protocols, by number.
    pub refused_protocols: Vec<u8>,
    /// Refused EtherTypes.
    pub refused_ethertypes: Vec<u16>,
    /// The only EtherTypes that are accepted, unless all are.
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
    /// Current name. If the interface is absent: its last name, or the configured one.
    pub name: String,
    /// The name on the command line or in the configuration, if different.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub given: Option<String>,
    /// Interface index; 0 if the interface has never been present.
    pub index: u32,
    /// Where the filter runs.
    pub attached: Attached,
    /// Whether the interface exists.
    pub present: bool,
    /// Why the interface is not guarded, if so: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unguarded: Option<String>,
    /// Whether the configured name now belongs to another interface.
    #[serde(default)]
    pub name_taken: bool,
    /// How often the filter was reattached after it had come off.
    #[serde(default)]
    pub reattached: u64,
    /// How solicited replies are recognized on this interface.
    #[serde(default)]
    pub answers: AnswersBy,
    /// Why the egress program is not in use although it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unnoted: Option<String>,
}

/// How the filter tells whether UDP from a reflector port is solicited.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(rename_all = "snake_case")]
pub enum AnswersBy {
    /// By the records of an egress program, attached as a tcx link; also by sockets if configured.
    Tcx,
    /// The same, attached as a filter in the queueing discipline `clsact`.
    Clsact,
    /// By the host's sockets.
    Sockets,
    /// Not at all: only the limits of `amplification` apply.
    #[default]
    Nothing,
}

/// Where the filter runs.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "snake_case")]
pub enum Attached {
    /// In the driver.
    Native,
    /// In the kernel, after the driver.
    Generic,
    /// Nowhere: the interface is not guarded.
    Nowhere,
}

/// Number of entries on a list.
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
    /// Places in use.
    pub used: u64,
    /// Places available.
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
    /// Recent sampling rate: one packet in this many.
    pub every: u32,
    /// Samples taken since the start.
    pub taken: u64,
    /// Samples lost because the ring was full.
    pub lost: u64,
}

/// Packets and bytes.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Volume {
    /// Frames.
    pub packets: u64,
    /// Bytes of whole frames, without the frame check sequence.
    pub bytes: u64,
}

/// Counters since the filter was attached, by interface.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    /// Counters by interface name.
    pub interfaces: BTreeMap<String, InterfaceStats>,
}

/// Counters of one interface. Reasons that have not occurred are omitted.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct InterfaceStats {
    /// Passed, by reason.
    pub passed: BTreeMap<String, Volume>,
    /// Answered by the filter itself, by reason.
    pub answered: BTreeMap<String, Volume>,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, Volume>,
    /// Passed in monitor mode, but would have been dropped or answered, by reason.
    pub would_drop: BTreeMap<String, Volume>,
}

/// The sources that use their limit, and those whose packets are dropped.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct Sources {
    /// Sources in debt, plus networks and destinations if they are limited; busiest first.
    pub busiest: Vec<BusySource>,
    /// Total number in debt.
    pub in_debt: u64,
    /// Sources whose packets were dropped (in monitor mode: would have been), most drops first.
    pub dropped: Vec<DroppedSource>,
    /// Whether the volumes in `dropped` are exact; otherwise each is an estimate with its error.
    pub dropped_exact: bool,
}

/// A source in debt.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct BusySource {
    /// Address or prefix; unknown for an IPv6 prefix of which no packet has been sampled.
    pub source: Option<String>,
    /// The limit that it is charged to.
    pub limit: CellName,
    /// 4 or 6.
    pub version: u8,
    /// Share of the limit in use, 0 to 1.
    pub share: f64,
    /// Rate if all packets are small, packets per second: the share of the packet limit.
    pub packets_per_s: Option<f64>,
    /// Rate if packets are large, bits per second: the share of the bit limit.
    pub bits_per_s: Option<f64>,
}

/// A source whose packets are dropped.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
pub struct DroppedSource {
    /// Address.
    pub source: String,
    /// Packets dropped since the source was first seen.
    pub packets: u64,
    /// Bytes dropped.
    pub bytes: u64,
    /// Half width of the 95 % interval of `packets`, as a share of it; 0 if exact.
    pub error: f64,
    /// Dropped packets by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Packets dropped over a limit, by the limit's configuration name without `limit.`, such as
    /// `source.amplification`.
    #[serde(default)]
    pub limits: BTreeMap<CellName, u64>,
    /// Seconds since the last drop.
    pub last_seen_s: f64,
}

/// A list.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ListReply {
    /// Entries in address order; a prefix that is on the list for several reasons has several entries.
    pub entries: Vec<ListEntry>,
}

/// A list entry: what one origin says about a prefix.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct ListEntry {
    /// The addresses it covers.
    pub prefix: IpNet,
    /// `operator`, `config`, `file PATH`, `import NAME` or `feed NAME`.
    pub origin: String,
    /// Why it is there.
    pub reason: Option<String>,
    /// Who added it.
    pub added_by: Option<String>,
    /// Seconds since it was added.
    pub age_s: u64,
    /// Seconds until it expires; none if it does not expire.
    pub expires_in_s: Option<u64>,
}

/// Entries to add to a list.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct AddRequest {
    /// Prefixes to add.
    pub prefixes: Vec<IpNet>,
    /// Seconds until they expire; none if they do not expire.
    pub ttl_s: Option<u64>,
    /// Why they are added.
    pub reason: Option<String>,
    /// Who adds them.
    pub added_by: Option<String>,
    /// Name of the import they come from, given as the path of a file; none for entries typed by hand.
    pub file: Option<String>,
    /// Remove entries of an earlier import of this name that are not in this one.
    #[serde(default)]
    pub replace: bool,
    /// Add the entries although they are very short, or cover what this host needs or `logged_in_from`. Accept an
    /// import although it is suddenly much shorter or longer than the one it replaces, or covers very much.
    #[serde(default)]
    pub force: bool,
    /// The address that the operator is logged in from.
    pub logged_in_from: Option<IpAddr>,
}

/// Result of adding entries.
#[derive(Serialize, Deserialize, Clone, Default, PartialEq, Eq, Debug)]
pub struct AddReply {
    /// Entries that were not there before.
    pub added: u64,
    /// Entries that existed and now have this reason and expiry.
    pub replaced: u64,
    /// Entries of the earlier import that are not in the new one.
    #[serde(default)]
    pub removed: u64,
    /// Entries that existed, expire later, and stay unchanged.
    #[serde(default)]
    pub kept: u64,
    /// Prefixes of an import that are not in force as written, because they cover what this host needs.
    #[serde(default)]
    pub withheld: u64,
    /// The first entries that were added.
    #[serde(default)]
    pub first_added: Vec<IpNet>,
    /// The first entries that were removed.
    #[serde(default)]
    pub first_removed: Vec<IpNet>,
    /// Anything that the caller might not expect, in words.
    #[serde(default)]
    pub notes: Vec<String>,
}

impl AddReply {
    /// Describes the changes, naming the first prefixes.
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

/// Lists some of `count` prefixes in brackets.
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

/// Entries to remove from a list. Only what was added at run time, either by an import or by hand.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RemoveRequest {
    /// Prefixes of the entries, as they were added; none for all of an import.
    pub prefixes: Vec<IpNet>,
    /// Name of the import.
    #[serde(default)]
    pub import: Option<String>,
}

/// Result of removing entries.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct RemoveReply {
    /// Number of entries removed.
    pub removed: u64,
    /// Prefixes that were not in the list.
    pub missing: Vec<IpNet>,
    /// Shorter prefixes on the list that still cover a removed one.
    pub still_covered_by: Vec<IpNet>,
    /// Prefixes that stay because feeds contain them, with the names of the feeds.
    #[serde(default)]
    pub in_feeds: BTreeMap<IpNet, Vec<String>>,
    /// Prefixes that stay because other origins hold them, with those origins.
    #[serde(default)]
    pub held_by: BTreeMap<IpNet, Vec<String>>,
}

/// The feeds of all lists.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Feeds {
    /// Feeds in the order of the configuration.
    pub feeds: Vec<FeedStatus>,
}

/// A feed.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct FeedStatus {
    /// `block`, `allow` or `allow-proven`.
    pub list: String,
    /// Its name.
    pub name: String,
    /// Its path or URL, with potential secrets removed.
    pub source: String,
    /// Interval between reads, seconds.
    pub every_s: u64,
    /// Entries it contains.
    pub entries: u64,
    /// Lines and prefixes that were left out.
    pub left_out: u64,
    /// The first problems that caused this.
    pub problems: Vec<String>,
    /// Detected format, once it has been read: `addresses`, `json`, `ipset save` ...
    #[serde(default)]
    pub format: Option<String>,
    /// Prefixes that are not in force as written, because they cover what this host needs.
    #[serde(default)]
    pub withheld: u64,
    /// The first withheld prefixes, and because of what.
    #[serde(default)]
    pub first_withheld: Vec<String>,
    /// When it was last read or found unchanged; seconds since 1970.
    pub last_success: Option<u64>,
    /// Failed reads since the start.
    pub errors: u64,
    /// Current error.
    pub error: Option<String>,
    /// Seconds until the next read; 0 during a read, none before the first.
    pub next_s: Option<u64>,
}

/// Feeds to read now.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct RefreshRequest {
    /// Names of the feeds; none for all.
    pub names: Vec<String>,
    /// Accept feeds even if they are suddenly much shorter or longer than before.
    #[serde(default)]
    pub force: bool,
}

/// Request to read the configuration again.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct ReloadRequest {
    /// Accept files that are suddenly empty or much shorter than before.
    #[serde(default)]
    pub force: bool,
}

/// Result of reading the configuration again. Feeds are read afterwards.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
pub struct ReloadReply {
    /// Changes to the allow list.
    pub allow: AddReply,
    /// Changes to the block list.
    pub block: AddReply,
    /// Changes to the allow-proven list.
    pub allow_proven: AddReply,
    /// What happened to feeds.
    #[serde(default)]
    pub feeds: Vec<String>,
    /// Keys that changed since the start and take effect at the next.
    #[serde(default)]
    pub pending: Vec<String>,
    /// What was left out.
    pub warnings: Vec<String>,
}

/// The limits in force.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// By configuration name without `limit.`: a scope, or a scope and a class.
    pub limits: CellLimits,
    /// Total limits of the messages that keep the host reachable.
    pub protected: ProtectedLimits,
}

/// Limits to change; those not named stay.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Default, Debug)]
#[serde(deny_unknown_fields)]
pub struct LimitChange {
    /// By configuration name without `limit.`: a scope or a scope and a class, such as `source` or `source.syn`,
    /// followed by `.packets`, `.packets_burst`, `.bits` or `.bits_burst`. Without that suffix the unit of the
    /// value decides. Also `protected.neighbour_discovery`, `protected.path_mtu`, `protected.link`. A rate without
    /// its burst sets the burst to its default.
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

/// The interfaces to detach from.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Their names; none for all.
    pub interfaces: Vec<String>,
}

/// Result of detaching.
#[derive(Serialize, Deserialize, Clone, PartialEq, Eq, Debug)]
pub struct DetachReply {
    /// The interfaces.
    pub detached: Vec<String>,
    /// Whether the daemon exits because no interface is left.
    pub ends: bool,
}
