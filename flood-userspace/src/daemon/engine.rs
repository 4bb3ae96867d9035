//! The daemon's state, and every operation on it. One lock protects all of it; nothing here waits for the network.

mod feeds;
mod lists;
mod withheld;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Instant};

use bytes::Bytes;
use flood_common::{
    abi::{Count, InterfaceCounters, solicited},
    address::Address,
    proof::means,
    reason::Reason,
};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{
    boot_time::BootTime,
    bpf::{
        BpfError, DebtTables, Debtor, Family, Filter, FilterOptions, Side,
        limit::{host_tells, in_force_as, set_limits, set_mode},
    },
    config::{CellLimit, CellName, Config, HostTells, Mode, Proof, RateLimit},
    control::protocol::{
        Attached, BusySource, DetachReply, FeedStatus, InterfaceStats, LimitChange, Limits, ListPlaces,
        ListSize, PlaceStatus, ProofStatus, SampleStatus, Sources, Stats, Status, TableStatus, Volume,
        syn_proof,
    },
    host::{Facts, Reassembly, udp_ports},
    lists::{
        Book, Guard, ListKind,
        doubt::Doubt,
        guard::{self, Withheld, Withholding},
    },
    log,
};

use super::{
    drops::Drops,
    guards::{Guards, generic_warning, namesake_warning, unnoted_warning},
    limits::changed,
    proof::Means,
    syncookies::SharedSyncookies,
    trace::Trace,
    unjudged::Unjudged,
};

use feeds::FeedState;
pub(super) use feeds::{FeedError, Read};
use withheld::withheld_warning;

/// The share of a table in use from which on the operator is warned, percent.
const FULL_PERCENT: u64 = 80;

/// Why a request is refused.
#[derive(thiserror::Error, Debug)]
pub enum Refused {
    /// The request makes no sense.
    #[error("{0}")]
    Bad(String),
    /// The request is dangerous.
    #[error("{0}")]
    NeedsForce(#[from] guard::Refusal),
    /// An import is implausible.
    #[error("the {origin} is not believed: {doubt}; if that is right, repeat with --force")]
    Doubtful {
        /// The import.
        origin: String,
        /// What is doubtful about it.
        doubt: Doubt,
    },
    /// The request names something that does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Something else conflicts with the request.
    #[error("{0}")]
    Conflict(String),
    /// The kernel refuses it.
    #[error(transparent)]
    Kernel(#[from] BpfError),
}

/// The daemon's state.
pub struct Engine {
    filter: Filter,
    mode: Mode,
    limits: Limits,
    proof: Proof,
    /// What `proof` resolves to on this host.
    means: Means,
    /// What this host can tell about its traffic.
    told: HostTells,
    reassembly: Reassembly,
    syncookies: Arc<SharedSyncookies>,
    ipv6_prefix: u8,
    drops: Drops,
    trace: Trace,
    traced: Option<IpAddr>,
    started: BootTime,
    /// The feeds of all lists.
    feeds: Vec<FeedState>,
    /// Protects what must not be blocked.
    list_guard: Guard,
    /// What is withheld of the block list, by origin; origins that are not guarded have no item.
    withheld: Vec<Withholding>,
    /// Typed block entries that cover what this host needs. The list tells whether they are still there.
    harm: Vec<Withheld>,
    /// Configuration keys that take effect at the next start.
    pending: Vec<String>,
    guards: Guards,
    /// The current sampling rate.
    sampled: Sampled,
    unjudged: Unjudged,
}

/// How many dropped packets a sample stands for, from the counts between one look and the next.
#[derive(Clone, Copy)]
struct Sampled {
    every: u32,
    /// Dropped packets and samples at the last look.
    before: (u64, u64),
}

impl Default for Sampled {
    fn default() -> Self {
        Self { every: 1, before: (0, 0) }
    }
}

impl Sampled {
    fn look(&mut self, dropped: u64, taken: u64) {
        let (dropped_before, taken_before) = std::mem::replace(&mut self.before, (dropped, taken));
        let (dropped, taken) = (dropped.saturating_sub(dropped_before), taken.saturating_sub(taken_before));
        self.every = u32::try_from((dropped / taken.max(1)).max(1)).unwrap_or(u32::MAX);
    }
}

/// What is needed to watch for sources in debt without the lock.
pub struct Watch {
    debts: Arc<DebtTables>,
    settings: flood_common::abi::Settings,
}

impl Watch {
    /// Watches for about a third of a second.
    pub fn run(&self) -> Vec<Debtor> {
        self.debts.watch(&self.settings)
    }
}

impl Engine {
    /// Loads the filter with the configured limits and mode. The lists are empty, and nothing is guarded yet.
    pub fn new(config: &Config) -> Result<Self, BpfError> {
        let options = FilterOptions::from(config);
        let mut filter = Filter::load(&options)?;
        let limits = Limits { limits: config.limits.clone(), protected: config.protected_limits };
        filter.change_settings(|settings| {
            set_limits(settings, &limits.limits, &limits.protected);
            set_mode(settings, config.mode);
            settings.sample_cost_ns = options.sample_cost_ns();
        });
        let trace = Trace::new(&mut filter)?;
        Ok(Self {
            filter,
            mode: config.mode,
            limits,
            proof: config.proof,
            means: Means::default(),
            told: HostTells::default(),
            reassembly: Reassembly::default(),
            syncookies: Arc::new(SharedSyncookies::new(config.proof.syncookies, &config.state)),
            ipv6_prefix: config.sources.ipv6_prefix,
            drops: Drops::default(),
            trace,
            traced: None,
            started: BootTime::now(),
            feeds: Vec::new(),
            list_guard: Guard::default(),
            withheld: Vec::new(),
            harm: Vec::new(),
            pending: Vec::new(),
            guards: Guards::none(config.attach),
            sampled: Sampled::default(),
            unjudged: Unjudged::new(Instant::now()),
        })
    }

    /// Guards the configured interfaces; `replace` detaches other XDP programs from them. Waits for missing
    /// interfaces; but if all are missing and they were `typed`, returns an error.
    pub fn guard(
        &mut self,
        config: &Config,
        replace: bool,
        typed: bool,
        facts: &Facts,
    ) -> Result<(), BpfError> {
        self.guards = Guards::start(&mut self.filter, config, replace, typed)?;
        self.follow_host(facts)
    }

    /// Updates the filter with the current state of the host: its addresses, and what may pass over a limit.
    pub fn follow_host(&mut self, facts: &Facts) -> Result<(), BpfError> {
        self.filter.set_local(&facts.local)?;
        self.follow_lifelines(&facts.lifelines)?;
        self.filter.set_client_ports(facts.client_ports);
        let is_noted = self.filter.notes_questions();
        let looked = self.filter.open.follow(is_noted, || udp_ports(&facts.tunnels));
        looked
            .map_err(|error| BpfError::Other { what: "reading /proc/net/udp", cause: error.to_string() })?;
        if facts.reassembly != self.reassembly {
            self.reassembly = facts.reassembly;
            if let Err(error) = self.filter.set_reassembly(&facts.reassembly) {
                let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
                warn!(
                    "fragments are judged by their limits alone on this kernel; please report this with its release, \
                     `uname -r`: {first_line}"
                );
            }
        }
        let means = Means::resolve(&self.proof, self.filter.attachments(), facts);
        if means != self.means {
            means.log();
            // If the kernel's verifier rejects the program for the second look, guard without it, and without
            // limits that need it.
            if let Err(error) = self.filter.set_proof(means.bits, means.absence) {
                let first_line = error.to_string().lines().next().unwrap_or_default().to_owned();
                warn!(
                    "nothing passes over a limit on this kernel, whatever it proves; please report this with its release, \
                     `uname -r`: {first_line}"
                );
                self.filter.set_proof(0, false)?;
            }
            self.means = means;
        }
        let told = host_tells(&self.filter.settings.read());
        if told != self.told {
            self.told = told;
            self.publish_limits();
        }
        Ok(())
    }

    fn publish_limits(&mut self) {
        let Limits { limits, protected } = &self.limits;
        self.filter.change_settings(|settings| set_limits(settings, limits, protected));
    }

    /// Returns what is attached, and how.
    pub fn status(&self) -> Result<Status, BpfError> {
        let horizon = self.filter.settings.read().horizon_ns();
        let state = self.filter.counters.state()?;
        let by_sockets = self.filter.settings.read().solicited & solicited::SOCKETS != 0;
        let size = |book: &Book| ListSize { ipv4: book.len_ipv4() as u64, ipv6: book.len_ipv6() as u64 };
        let table = |side| TableStatus {
            capacity: self.filter.debts.capacity(),
            ipv4: self.filter.debts.occupied(side, Family::V4, horizon),
            ipv6: self.filter.debts.occupied(side, Family::V6, horizon),
            ipv6_prefix: self.ipv6_prefix,
        };
        let mut status = Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            mode: self.mode,
            interfaces: self.guards.status(&self.filter, by_sockets),
            blocked: size(self.list(ListKind::Block)),
            allowed: size(self.list(ListKind::Allow)),
            allowed_proven: size(self.list(ListKind::AllowProven)),
            list_places: self.list_places(),
            sources: table(Side::Sources),
            destinations: table(Side::Destinations),
            solicited: PlaceStatus {
                used: self.filter.solicited.noted(),
                capacity: self.filter.solicited.capacity(),
            },
            samples: SampleStatus {
                every: self.sampled.every,
                taken: state.sampled,
                lost: state.samples_lost,
            },
            log_lines_lost: log::lost(),
            proof: self.proof_status(),
            sanity: (&self.filter.settings.read().sanity).into(),
            trace: self.traced,
            feeds: self.feeds(),
            pending: self.pending.clone(),
            warnings: Vec::new(),
        };
        status.warnings = warnings(&status);
        status.warnings.extend(self.warnings_of_typed());
        status.warnings.extend(self.unjudged.warnings());
        status.warnings.extend(self.withheld.iter().filter_map(withheld_warning));
        Ok(status)
    }

    fn proof_status(&self) -> ProofStatus {
        let settings = self.filter.settings.read();
        let bits = settings.proof;
        ProofStatus {
            syn: syn_proof(bits),
            why_no_cookies: self.means.why_no_cookies.clone(),
            sockets: bits & means::SOCKETS != 0,
            absence: settings.absence != 0,
            why_no_absence: self.means.why_no_absence.clone(),
            half_open: self.filter.knows_requests(),
            syncookies_raised: self.syncookies.is_raised(),
        }
    }

    fn list_places(&self) -> ListPlaces {
        let (used, capacity) =
            (self.filter.lists.books().places(), self.filter.lists.tables().layout().capacity());
        ListPlaces {
            ipv4: PlaceStatus { used: used.ipv4, capacity: capacity.ipv4 },
            ipv6: PlaceStatus { used: used.ipv6, capacity: capacity.ipv6 },
        }
    }

    /// Returns the counters of every interface.
    pub fn stats(&self) -> Result<Stats, BpfError> {
        let mut interfaces = BTreeMap::new();
        for attachment in self.filter.attachments() {
            let counters = self.filter.counters.interface(attachment.slot)?;
            interfaces.insert(attachment.interface.name.clone(), interface_stats(&counters));
        }
        Ok(Stats { interfaces })
    }

    /// Returns the raw counters, by interface name.
    pub fn counters(&self) -> Result<Vec<(String, InterfaceCounters)>, BpfError> {
        let attachments = self.filter.attachments().iter();
        attachments
            .map(|attachment| {
                Ok((attachment.interface.name.clone(), self.filter.counters.interface(attachment.slot)?))
            })
            .collect()
    }

    /// Returns what must run first, without the lock, to collect the input of [`sources`](Self::sources).
    pub fn watch(&self) -> Watch {
        Watch { debts: self.filter.debts.clone(), settings: self.filter.settings.read() }
    }

    /// Returns the busiest and the most dropped sources.
    pub fn sources(&mut self, debtors: &[Debtor], count: usize) -> Result<Sources, BpfError> {
        self.take_samples()?;
        let settings = self.filter.settings.read();
        let bits = self.filter.debts.bucket_bits();
        // An IPv6 prefix cannot be recovered from its place, but sources whose packets were dropped are known.
        let mut known_v6 = BTreeMap::new();
        for address in self.drops.addresses().filter(|address| address.version() == 6) {
            let counted_by = address.source_network(&settings.translators).bits;
            for mask in settings.masks_v6 {
                let place = settings.seeds.place_v6(counted_by & mask, bits);
                let [network, _] = address.halves();
                let name = if counted_by == network {
                    prefix_v6(network & mask, mask.count_ones() as u8)
                } else {
                    IpAddr::from(address).to_string()
                };
                known_v6.insert((place.bucket, place.tag), name);
            }
        }
        let mut busiest: Vec<&Debtor> = debtors.iter().collect();
        busiest.sort_by(|a, b| b.share.total_cmp(&a.share).then(b.debt.cmp(&a.debt)));
        let describe = |debtor: &Debtor| {
            let source = match debtor.address {
                Some(address) if debtor.cell.is_by_prefix() => {
                    Some(format!("{}/{}", IpAddr::from(address), settings.masks_v4[1].count_ones()))
                }
                Some(address) => Some(IpAddr::from(address).to_string()),
                None => known_v6.get(&(debtor.place.bucket, debtor.place.tag)).cloned(),
            };
            let name = CellName::of(debtor.cell)?;
            let RateLimit { packets, bits } = self.limits.limits.get(&name)?.limit;
            Some(BusySource {
                source,
                limit: name,
                version: if debtor.family == Family::V4 { 4 } else { 6 },
                share: debtor.share,
                packets_per_s: packets.map(|packets| packets.rate.0 as f64 * debtor.share),
                bits_per_s: bits.map(|bits| bits.rate.0 as f64 * debtor.share),
            })
        };
        Ok(Sources {
            busiest: busiest.into_iter().filter_map(describe).take(count).collect(),
            in_debt: debtors.len() as u64,
            dropped: self.drops.most(count, Instant::now()),
            dropped_exact: self.drops.exact(),
        })
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> Limits {
        let all = &self.limits.limits;
        let in_force = all.iter().filter(|(name, limit)| limit.is_in_force(**name, self.told));
        let limits = in_force
            .map(|(name, limit)| (*name, CellLimit { limit: in_force_as(*name, limit, all), ..*limit }));
        Limits { limits: limits.collect(), ..self.limits.clone() }
    }

    /// Changes limits: all of them, or none.
    pub fn change_limits(&mut self, change: &LimitChange) -> Result<Limits, Refused> {
        self.limits = changed(&self.limits, change).map_err(Refused::Bad)?;
        self.publish_limits();
        info!("limits changed: {:?}", change.set);
        Ok(self.limits())
    }

    /// Changes the mode.
    pub fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
        self.filter.change_settings(|settings| set_mode(settings, mode));
        info!("mode is now {mode:?}");
    }

    /// Starts tracing a source. The receiver yields its lines; pass the number to
    /// [`stop_trace`](Self::stop_trace).
    pub fn start_trace(&mut self, address: IpAddr) -> Result<(u64, mpsc::Receiver<Bytes>), Refused> {
        if let (Some(traced), true) = (self.traced, self.trace.is_on()) {
            return Err(Refused::Conflict(format!("{traced} is being traced already, and one is the most")));
        }
        self.filter.load_tracer()?;
        let suppressed = self.filter.counters.state()?.trace_suppressed;
        let reader = self.trace.start(suppressed);
        let source = Address::from(address.to_canonical());
        self.traced = Some(address);
        self.filter.change_settings(|settings| {
            settings.trace_version = u32::from(source.version());
            settings.trace_source = source.halves();
        });
        info!("tracing {address}");
        Ok(reader)
    }

    /// Ends a trace, unless another one has started since.
    pub fn stop_trace(&mut self, number: u64) {
        if self.trace.stop(number) {
            self.traced = None;
            self.filter.change_settings(|settings| settings.trace_version = 0);
            info!("tracing ended");
        }
    }

    /// Detaches from the named interfaces, or from all if none is named.
    pub fn detach(&mut self, names: &[String]) -> Result<DetachReply, Refused> {
        let detached = self.guards.let_go(&mut self.filter, names);
        let ends = self.guards.is_empty();
        if ends {
            self.syncookies.end();
        }
        Ok(DetachReply { detached: detached?, ends })
    }

    /// Does the periodic work: expires list entries, fetches samples and trace lines.
    pub fn tick(&mut self) -> Result<(), BpfError> {
        self.expire()?;
        self.take_samples()?;
        let counters = self.counters()?;
        let taken = self.filter.counters.state()?.sampled;
        self.sampled.look(sum(&counters, Reason::is_drop), taken);
        self.unjudged.look(&counters, Instant::now());
        self.syncookies.note(sum(&counters, is_open_question));
        if self.trace.is_on() {
            let suppressed = self.filter.counters.state()?.trace_suppressed;
            self.trace.forward(self.mode == Mode::Monitor, suppressed);
        }
        Ok(())
    }

    /// Returns the control of the kernel's SYN cookies. It waits for files, so it must not be used while the
    /// engine is locked.
    pub fn syncookies(&self) -> Arc<SharedSyncookies> {
        Arc::clone(&self.syncookies)
    }

    fn take_samples(&mut self) -> Result<(), BpfError> {
        let mut samples = Vec::new();
        self.filter.drain_samples(|sample| samples.push(sample));
        let state = self.filter.counters.state()?;
        self.drops.add(&samples, state.sampled, state.samples_lost, Instant::now());
        Ok(())
    }

    /// Checks whether the interfaces are guarded. Returns whether anything has changed.
    pub fn look_at_interfaces(&mut self) -> Result<bool, BpfError> {
        self.guards.look(&mut self.filter, Instant::now())
    }

    /// Sets the clock for reading and writing debts and expiries; must be called once a minute.
    pub fn set_clock(&mut self) -> Result<(), BpfError> {
        self.filter.set_clock()
    }

    /// Clears the words of expired debts; must be called at least twice an hour.
    pub fn sweep(&self) {
        self.filter.debts.sweep(self.filter.settings.read().horizon_ns());
    }
}

fn prefix_v6(network: u64, length: u8) -> String {
    format!("{}/{length}", IpAddr::from(Address::V6 { network, interface: 0 }))
}

fn warnings(status: &Status) -> Vec<String> {
    let mut warnings = Vec::new();
    for interface in &status.interfaces {
        match (&interface.unguarded, &interface.unnoted) {
            (Some(why), _) => warnings.push(why.clone()),
            (None, Some(cause)) => warnings.push(unnoted_warning(&interface.name, cause)),
            (None, None) => {}
        }
        if interface.attached == Attached::Generic {
            warnings.push(generic_warning(&interface.name));
        }
        if let (true, Some(given)) = (interface.name_taken, &interface.given) {
            warnings.push(namesake_warning(given, &interface.name));
        }
    }
    for (side, table) in [("sources", status.sources), ("destinations", status.destinations)] {
        let TableStatus { capacity, ipv4, ipv6, .. } = table;
        for (family, used) in [("IPv4", ipv4), ("IPv6", ipv6)] {
            if used * 100 >= capacity * FULL_PERCENT {
                warnings.push(format!(
                    "{used} of {capacity} slots for {family} {side} are in use; beyond that {side} pass unaccounted: \
                     raise `sources.table`"
                ));
            }
        }
    }
    let ListPlaces { ipv4, ipv6 } = status.list_places;
    for (what, PlaceStatus { used, capacity }, key) in
        [("IPv4 addresses", ipv4, "lists.ipv4"), ("IPv6 prefixes", ipv6, "lists.ipv6")]
    {
        if used * 100 >= capacity * FULL_PERCENT {
            warnings.push(format!(
                "{used} of {capacity} places for listed {what} are in use; what does not fit is refused: raise `{key}`"
            ));
        }
    }
    for FeedStatus { list, name, source, error, last_success, .. } in &status.feeds {
        if let Some(error) = error {
            let kept = if last_success.is_some() {
                "what was last believed of it is in force"
            } else {
                "it has no entries yet"
            };
            warnings.push(format!("{list} list, feed {name} ({source}): {error}; {kept}"));
        }
    }
    if status.log_lines_lost > 0 {
        let lost = status.log_lines_lost;
        warnings.push(format!("{lost} lines of the log are lost: whoever reads it is gone, stopped or too slow, or its disk is full"));
    }
    if !status.pending.is_empty() {
        warnings.push(format!("{}: {}", super::reload::PENDING, status.pending.join(", ")));
    }
    if status.mode == Mode::Monitor {
        warnings.push("monitor mode: nothing is dropped, only counted".into());
    }
    warnings
}

/// Counts the packets that had one of these reasons, or would have had.
fn sum(counters: &[(String, InterfaceCounters)], is_wanted: impl Fn(Reason) -> bool) -> u64 {
    let packets = |counters: &InterfaceCounters| -> u64 {
        let wanted = Reason::ALL.iter().filter(|reason| is_wanted(**reason));
        wanted
            .map(|reason| {
                let number = reason.number() as usize;
                counters.done[number].packets + counters.would[number].packets
            })
            .sum()
    };
    counters.iter().map(|(_, counters)| packets(counters)).sum()
}

/// Returns whether this is the reason of a SYN to a listener over a limit.
fn is_open_question(reason: Reason) -> bool {
    matches!(reason, Reason::QueueHasRoom | Reason::Answered)
}

fn interface_stats(counters: &InterfaceCounters) -> InterfaceStats {
    let mut stats = InterfaceStats::default();
    for reason in Reason::ALL {
        let number = reason.number() as usize;
        let done = match reason.verdict() {
            "pass" => &mut stats.passed,
            "answer" => &mut stats.answered,
            _ => &mut stats.dropped,
        };
        for (side, Count { packets, bytes }) in
            [(done, counters.done[number]), (&mut stats.would_drop, counters.would[number])]
        {
            if packets > 0 {
                side.insert(reason.label().to_owned(), Volume { packets, bytes });
            }
        }
    }
    stats
}
