//! The filter: loading, attaching, and the handles to everything in it.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, AsRawFd},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{LpmTrie, Map, MapData, MapInfo, PerCpuArray, ProgramArray, RingBuf},
    programs::{Program, ProgramError, ProgramInfo, SchedClassifier, TestRun, TestRunOptions, Xdp},
    util::KernelVersion,
};
use aya_log::EbpfLogger;
use flood_common::{
    abi::{self, FIELDS, Field, Sample, Settings, list, next, solicited},
    account::ACCOUNTS,
    address::Translators,
    lists::GATE_WORDS,
    meter::{Limit, WAYS},
    place::{MAX_BUCKET_BITS, MIN_BUCKET_BITS, Seeds},
    reflector::port_sets,
    sampler,
    sanity::Sanity,
    sketch::{self, SKETCH_WORDS},
};
use ipnet::IpNet;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    boot_time::BootTime,
    config::{Config, HostSays, SolicitedBy},
    host::{CLIENT_PORTS, Reassembly},
    lists::{
        Book, Edit, ListKind, Lists, Places, proven,
        tables::{Layout, Moment, Tables},
    },
};

use super::{
    Attachment, BpfError, Clock, CounterTable, DebtTables, Hook, ListMaps, OpenPorts, SettingsPage,
    SolicitTable,
    allow_proven::AllowProven,
    btf::Structures,
    clock,
    egress::EGRESS_PROGRAM,
    error::{chain, errno},
    interface, limit,
    local::{LocalAddresses, first},
    mapped::MappedArray,
};

/// The program in the object.
pub(super) const PROGRAM: &str = interface::OUR_PROGRAM;

/// The slow path, which `floodgate` tail-calls for all but ordinary packets.
const LONG_PROGRAM: &str = "floodgate_long";

/// The program that logs decisions, called the same way.
const TRACE_PROGRAM: &str = "floodgate_trace";

/// The program that records the filter's clock.
const CLOCK_PROGRAM: &str = "floodgate_clock";

/// The program for packets over a limit and for fragments, called the same way.
const PROVE_PROGRAM: &str = "floodgate_prove";

/// The program to which `floodgate_prove` hands fragments.
const REASSEMBLE_PROGRAM: &str = "floodgate_reassemble";

/// All XDP programs in the object.
const PROGRAMS: [&str; 6] =
    [PROGRAM, LONG_PROGRAM, PROVE_PROGRAM, REASSEMBLE_PROGRAM, TRACE_PROGRAM, CLOCK_PROGRAM];

/// The object built along with this binary.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/filter"));

/// Shortest frame that the kernel test-runs (an Ethernet header), bytes.
pub const SHORTEST_FRAME: usize = 14;

/// XDP return codes.
const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// Options that are set once, at load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterOptions {
    /// Sources that can be in debt at once, for each address family; rounded up to a power of two.
    pub sources: u64,
    /// Length of the IPv6 prefix that counts as one source, or one destination.
    pub ipv6_prefix: u8,
    /// Length of the IPv4 prefix that counts as one network.
    pub ipv4_network: u8,
    /// Length of the IPv6 prefix that counts as one network.
    pub ipv6_network: u8,
    /// UDP ports of reflectors.
    pub reflectors: Vec<u16>,
    /// Whether the loopback may be guarded, too.
    pub force: bool,
    /// Prefixes of translators, whose addresses contain IPv4 addresses.
    pub translators: Translators,
    /// How solicited UDP from reflector ports is recognized.
    pub solicited: SolicitedBy,
    /// Whether the filter looks up the host's sockets.
    pub host: bool,
    /// Budget of each account.
    pub accounts: [Limit; ACCOUNTS],
    /// Budget for all retransmitted SYNs.
    pub retransmissions: Limit,
    /// Which sanity checks are made.
    pub sanity: Sanity,
    /// Hook of the egress program; the best one that the kernel has if `None`.
    pub hook: Option<Hook>,
    /// IPv4 addresses in prefixes longer than /24 that the lists have room for; rounded up to whole buckets.
    pub listed_ipv4: u64,
    /// IPv6 prefixes that the lists have room for.
    pub listed_ipv6: u64,
    /// Numbers of the processors among which packets are spread. Empty: no [sketch](flood_common::sketch).
    pub processors: Vec<u32>,
    /// Whether [`Filter::set_virtual_now_ns`] sets the time.
    pub virtual_clock: bool,
    /// Whether to look up the offsets of socket fields in the kernel. Tests pretend that it does not tell them.
    pub socket_fields: bool,
}

impl Default for FilterOptions {
    fn default() -> Self {
        Self { listed_ipv4: 1 << 16, listed_ipv6: 1 << 12, ..Self::from(&Config::default()) }
    }
}

impl From<&Config> for FilterOptions {
    fn from(config: &Config) -> Self {
        Self {
            sources: config.sources.table.into(),
            ipv6_prefix: config.sources.ipv6_prefix,
            ipv4_network: config.sources.ipv4_network,
            ipv6_network: config.sources.ipv6_network,
            reflectors: config.sources.reflector_ports(),
            translators: config.sources.translators(),
            solicited: config.proof.solicited,
            force: config.force,
            host: config.proof.host != HostSays::No,
            accounts: limit::accounts(&config.proof),
            retransmissions: limit::shared(&config.proof.retransmissions),
            sanity: (&config.sanity).into(),
            hook: None,
            listed_ipv4: config.lists.ipv4.into(),
            listed_ipv6: config.lists.ipv6.into(),
            processors: aya::util::online_cpus().unwrap_or_default(),
            virtual_clock: false,
            socket_fields: true,
        }
    }
}

impl FilterOptions {
    fn bucket_bits(&self) -> u32 {
        let buckets = self.sources.div_ceil(WAYS as u64).next_power_of_two();
        buckets.ilog2().clamp(MIN_BUCKET_BITS, MAX_BUCKET_BITS)
    }

    /// See [`sketch::shift`].
    fn sketch_shift(&self) -> u32 {
        match self.processors.len() {
            0 => 0,
            processors => sketch::shift(u32::try_from(processors).unwrap_or(u32::MAX)),
        }
    }

    /// See [`sampler::cost_ns`].
    pub fn sample_cost_ns(&self) -> u32 {
        sampler::cost_ns(self.processors.len().max(1) as u64)
    }

    /// Memory of the sketch, bytes.
    fn sketch_bytes(&self) -> u64 {
        let processors = self.processors.iter().max().map_or(1, |last| u64::from(*last) + 1);
        processors * (SKETCH_WORDS * size_of::<u32>()) as u64
    }

    pub(super) fn notes(&self) -> bool {
        matches!(self.solicited, SolicitedBy::Auto | SolicitedBy::Egress)
    }

    /// The bits of [`solicited`]. `noted`: whether an egress program is attached to any interface.
    pub(super) fn solicited_bits(&self, noted: bool) -> u32 {
        let by_sockets = self.host && matches!(self.solicited, SolicitedBy::Auto | SolicitedBy::Socket);
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        bit(noted, solicited::NOTED) | bit(by_sockets, solicited::SOCKETS)
    }

    fn network_mask_v4(&self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.ipv4_network.min(32))).unwrap_or(0)
    }

    /// Layout of the list tables.
    fn lists(&self, seeds: Seeds) -> Layout {
        Layout::with_room(seeds, Places { ipv4: self.listed_ipv4, ipv6: self.listed_ipv6 })
    }
}

fn ipv6_mask(length: u8) -> u64 {
    u64::MAX.checked_shl(64 - u32::from(length.min(64))).unwrap_or(0)
}

/// Outcome of a frame in a test run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RunOutcome {
    /// Passed.
    Pass,
    /// Dropped.
    Drop,
    /// Answered: sent back.
    Answer,
    /// The program aborted, or returned a code that it never should.
    Other(u32),
    /// The kernel does not test-run frames of this size.
    Refused,
}

/// The filter in the kernel.
pub struct Filter {
    pub(super) ebpf: Ebpf,
    /// Limits, mode and everything else that changes at run time.
    pub settings: SettingsPage,
    /// Counters.
    pub counters: CounterTable,
    /// Sources in debt.
    pub debts: Arc<DebtTables>,
    /// The lists.
    pub lists: Lists<ListMaps>,
    /// Flows that the host has opened.
    pub solicited: SolicitTable,
    /// UDP ports in use on the host.
    pub open: OpenPorts,
    pub(super) options: FilterOptions,
    /// Kernel ids of the filter program and of the egress program (0 without one).
    pub(super) program_id: u32,
    pub(super) egress_id: u32,
    /// Whether the egress program could be loaded, or why not.
    pub(super) egress: Result<(), String>,
    clock: Arc<Clock>,
    local: LocalAddresses,
    allow_proven: AllowProven,
    knows_requests: bool,
    samples: RingBuf<MapData>,
    /// Must live as long as the filter, which looks up the programs that it calls in it.
    next: ProgramArray<MapData>,
    _reflectors: MappedArray,
    pub(super) attachments: Vec<Attachment>,
}

impl Filter {
    /// Loads the filter. It is not attached to any interface yet.
    pub fn load(options: &FilterOptions) -> Result<Self, BpfError> {
        check_kernel(KernelVersion::current().ok())?;
        let bucket_bits = options.bucket_bits();
        let seeds: Seeds = draw_seeds()?;
        let layout = options.lists(draw_seeds()?);
        check_memory(
            (WAYS as u64) << bucket_bits,
            layout.bytes() + options.sketch_bytes(),
            available_memory(),
        )?;
        let tick_ns = if options.virtual_clock { 0 } else { clock::tick_ns() };
        let structures = if options.socket_fields { Structures::of_kernel() } else { None };
        let offset = |field: Field| structures.as_ref()?.offset(field.structure, field.name);
        let fields = FIELDS.map(|field| offset(field).unwrap_or(0));
        let mut loader = EbpfLoader::new();
        for (field, offset) in FIELDS.into_iter().zip(&fields) {
            loader.override_global(field.global, offset, true);
        }
        let mut ebpf = loader
            .override_global(abi::global::BUCKET_BITS, &bucket_bits, true)
            .override_global(abi::global::SKETCH_SHIFT, &options.sketch_shift(), true)
            .override_global(abi::global::TICK_NS, &tick_ns, true)
            .override_global(abi::global::LISTED_BITS, &layout.bucket_bits, true)
            .override_global(abi::global::LIST_KEYS, &layout.seeds.v6, true)
            .override_global(abi::global::NODE_BUCKETS, &layout.node_buckets, true)
            .map_max_entries(abi::map::DEBTS, abi::DEBT_TABLES << bucket_bits)
            .map_max_entries(abi::map::SKETCH, options.processors.iter().max().map_or(1, |last| last + 1))
            .map_max_entries(abi::map::LISTED, 1 << layout.bucket_bits)
            .map_max_entries(abi::map::GATES, GATE_WORDS + layout.node_buckets)
            .map_max_entries(abi::map::NODES, 2 * layout.node_buckets)
            .load(OBJECT)
            .map_err(|error| BpfError::load(&error))?;
        for name in [PROGRAM, CLOCK_PROGRAM] {
            let program: &mut Xdp = program(&mut ebpf, name)?;
            program.load().map_err(|error| BpfError::load(&error))?;
        }
        // The egress program is loaded here, not when it is attached, because the loader closes maps once they are
        // taken from it.
        let egress = if options.notes() { load_egress(&mut ebpf) } else { Ok(()) };
        let xdp_id = program_id(program::<Xdp>(&mut ebpf, PROGRAM)?.info())?;
        let egress_id = match &egress {
            Ok(()) if options.notes() => {
                program_id(program::<SchedClassifier>(&mut ebpf, EGRESS_PROGRAM)?.info())?
            }
            Ok(()) | Err(_) => 0,
        };
        let next = typed(&mut ebpf, abi::map::NEXT, ProgramArray::try_from)?;

        let mut settings = SettingsPage::new(take(&mut ebpf, abi::map::SETTINGS)?)?;
        settings.publish(&Settings {
            seeds,
            list_seeds: layout.seeds,
            solicit_seeds: draw_seeds()?,
            sanity: options.sanity,
            masks_v4: [u32::MAX, options.network_mask_v4()],
            translators: options.translators,
            masks_v6: [ipv6_mask(options.ipv6_prefix), ipv6_mask(options.ipv6_network)],
            accounts: options.accounts,
            retransmissions: options.retransmissions,
            client_ports: CLIENT_PORTS.map(u32::from),
            ..Settings::default()
        });
        let counters = CounterTable::new(
            typed(&mut ebpf, abi::map::COUNTERS, PerCpuArray::try_from)?,
            typed(&mut ebpf, abi::map::CPU_STATE, PerCpuArray::try_from)?,
        );
        let clock = Arc::new(Clock::new(!options.virtual_clock));
        let debts = DebtTables::new(take(&mut ebpf, abi::map::DEBTS)?, bucket_bits, Arc::clone(&clock))?;
        let ports = port_sets(options.reflectors.iter().copied());
        let reflectors = take(&mut ebpf, abi::map::REFLECTORS)?;
        let reflectors = MappedArray::new(abi::map::REFLECTORS, reflectors, size_of_val(&ports))?;
        reflectors.write(&ports);
        let solicited = SolicitTable::new(take(&mut ebpf, abi::map::SOLICITED)?, Arc::clone(&clock))?;
        let open = OpenPorts::new(take(&mut ebpf, abi::map::OPEN)?, Arc::clone(&clock))?;
        let (gates, listed) = (take(&mut ebpf, abi::map::GATES)?, take(&mut ebpf, abi::map::LISTED)?);
        let maps = ListMaps::new(&layout, gates, listed, take(&mut ebpf, abi::map::NODES)?)?;
        let local = typed(&mut ebpf, abi::map::LOCAL, LpmTrie::try_from)?;
        let allow_proven = typed(&mut ebpf, abi::map::ALLOW_PROVEN, LpmTrie::try_from)?;
        let samples = typed(&mut ebpf, abi::map::SAMPLES, RingBuf::try_from)?;
        let mut filter = Self {
            ebpf,
            settings,
            counters,
            debts: Arc::new(debts),
            lists: Lists::new(Tables::new(maps, layout)),
            solicited,
            open,
            options: options.clone(),
            program_id: xdp_id,
            egress_id,
            egress,
            clock,
            local: LocalAddresses::new(local),
            allow_proven: AllowProven::new(allow_proven),
            knows_requests: FIELDS
                .iter()
                .zip(fields)
                .all(|(field, offset)| offset != 0 || !field.is_of_request()),
            samples,
            next,
            _reflectors: reflectors,
            attachments: Vec::new(),
        };
        filter.load_next(LONG_PROGRAM, next::LONG)?;
        if !options.virtual_clock {
            filter.set_clock()?;
        }
        Ok(filter)
    }

    /// Sets the clock of a filter that was loaded with a virtual clock.
    pub fn set_virtual_now_ns(&mut self, now_ns: u64) {
        self.settings.set_virtual_now_ns(now_ns);
        self.clock.set_standing(now_ns);
    }

    /// Sets the clock by which debts and expiries are read and written; to be called once a minute.
    pub fn set_clock(&mut self) -> Result<(), BpfError> {
        let program: &mut Xdp = program(&mut self.ebpf, CLOCK_PROGRAM)?;
        // The clocks advance together, so if one has not moved while the other was read, the difference is exact.
        loop {
            let before = clock::monotonic_ns();
            let options = TestRunOptions { data_in: Some(&[0; SHORTEST_FRAME]), ..TestRunOptions::default() };
            program.test_run(options).map_err(|error| BpfError::load(&error))?;
            if clock::monotonic_ns() == before {
                self.clock.set(self.settings.clock_ns(), before);
                return Ok(());
            }
        }
    }

    /// Changes the settings in force, all at once.
    pub fn change_settings(&mut self, change: impl FnOnce(&mut Settings)) {
        let mut settings = self.settings.read();
        change(&mut settings);
        self.settings.publish(&settings);
    }

    /// Chooses [how](flood_common::proof::means) packets over a limit prove their origin. `absence`: whether a packet
    /// without a socket is unwanted.
    pub fn set_proof(&mut self, means: u32, absence: bool) -> Result<(), BpfError> {
        if means != 0 {
            self.load_prover()?;
        }
        self.change_settings(|settings| {
            settings.proof = means;
            settings.absence = absence.into();
        });
        Ok(())
    }

    /// Sets the host's own unicast addresses.
    pub fn set_local(&mut self, addresses: &[IpNet]) -> Result<(), BpfError> {
        self.local.set(addresses)?;
        let first_local = first(addresses);
        if self.settings.read().first_local != first_local {
            self.change_settings(|settings| settings.first_local = first_local);
        }
        Ok(())
    }

    /// Says which ports the host gives to its clients.
    pub fn set_client_ports(&mut self, ports: [u16; 2]) {
        let ports = ports.map(u32::from);
        if self.settings.read().client_ports != ports {
            self.change_settings(|settings| settings.client_ports = ports);
        }
    }

    /// Sets the memory that the host has for fragments of IPv4 and of IPv6.
    pub fn set_reassembly(&mut self, how: &Reassembly) -> Result<(), BpfError> {
        let reassembly = how.memory.each_ref().map(limit::reassembly);
        let settings = self.settings.read();
        let prices =
            |limits: [Limit; 2]| limits.map(|limit| (limit.packet_cost_ns, limit.packet_tolerance_ns));
        let defragments = how.for_all.into();
        if prices(settings.reassembly) != prices(reassembly) || settings.defragments != defragments {
            self.load_prover()?;
            self.change_settings(|settings| {
                settings.reassembly = reassembly;
                settings.defragments = defragments;
                settings.set_limits(settings.limits);
            });
        }
        Ok(())
    }

    /// Returns why the egress program could not be loaded, if it is wanted and could not.
    pub fn egress_error(&self) -> Option<&str> {
        self.egress.as_ref().err().map(String::as_str)
    }

    /// Whether the kernel tells what a half-open connection has sent.
    pub fn knows_requests(&self) -> bool {
        self.knows_requests
    }

    /// Changes a list: all of it, or nothing. Returns the edit that undoes it.
    pub fn edit_list(&mut self, kind: ListKind, edit: Edit) -> Result<Edit, BpfError> {
        let moment = Moment { now: BootTime::now(), filter_ns: self.clock.now_ns() };
        let undo = self.lists.edit(kind, edit, &moment)?;
        if kind == ListKind::AllowProven
            && let Err(error) = self.follow_proven(&undo, &moment)
        {
            let undone = self.lists.edit(kind, undo, &moment)?;
            // The first error is the one that is reported.
            let _ = self.follow_proven(&undone, &moment);
            return Err(error);
        }
        let has = |kinds: &[ListKind], len: fn(&Book) -> usize| {
            kinds.iter().any(|kind| len(self.lists.book(*kind)) > 0)
        };
        let bits = [
            (list::V4, has(&ListKind::OF_EACH_PACKET, Book::len_ipv4)),
            (list::V6, has(&ListKind::OF_EACH_PACKET, Book::len_ipv6)),
            (list::PROVEN, has(&[ListKind::AllowProven], |book| book.len_ipv4() + book.len_ipv6())),
        ];
        let lists = bits.into_iter().filter(|(_, has)| *has).map(|(bit, _)| bit).sum();
        if self.settings.read().lists != lists {
            self.change_settings(|settings| settings.lists = lists);
        }
        Ok(undo)
    }

    fn follow_proven(&mut self, undo: &Edit, moment: &Moment) -> Result<(), BpfError> {
        let book = self.lists.book(ListKind::AllowProven);
        self.allow_proven.write(&proven::changes(book, undo, moment))
    }

    /// Passes each sample that has arrived to `each`.
    pub fn drain_samples(&mut self, mut each: impl FnMut(Sample)) {
        while let Some(item) = self.samples.next() {
            if let Ok(sample) = Sample::read_from_bytes(&item) {
                each(sample);
            }
        }
    }

    /// Returns the trace log. It can be taken once.
    pub fn take_trace<T: log::Log>(&mut self, logger: T) -> Result<EbpfLogger<T>, BpfError> {
        EbpfLogger::init_with_logger(&mut self.ebpf, logger)
            .map_err(|error| BpfError::Other { what: "opening the trace log", cause: chain(&error) })
    }

    /// Test-runs the filter on a frame, without an interface.
    pub fn run(&mut self, frame: &[u8]) -> Result<RunOutcome, BpfError> {
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        let program: &mut Xdp = program(&mut self.ebpf, PROGRAM)?;
        match program.test_run(options) {
            Ok(result) => Ok(match result.return_value {
                XDP_DROP => RunOutcome::Drop,
                XDP_PASS => RunOutcome::Pass,
                XDP_TX => RunOutcome::Answer,
                other => RunOutcome::Other(other),
            }),
            Err(error) => match errno(&error) {
                // Shorter than an Ethernet header, or longer than the kernel has pages for (net/bpf/test_run.c).
                Some(libc::EINVAL | libc::ENOMEM | libc::E2BIG) => Ok(RunOutcome::Refused),
                _ => Err(BpfError::load(&error)),
            },
        }
    }

    /// Sets how solicited replies are recognized, for a filter that is not attached: bits of [`solicited`].
    pub fn tell_solicited_by(&mut self, bits: u32) {
        self.change_settings(|settings| settings.solicited = bits);
    }

    /// Test-runs the egress program on a frame, without an interface. Returns `None` for a frame longer than the
    /// kernel test-runs on egress, a page.
    pub fn run_egress(&mut self, frame: &[u8]) -> Result<Option<i32>, BpfError> {
        let program: &mut SchedClassifier = program(&mut self.ebpf, EGRESS_PROGRAM)?;
        let options = TestRunOptions { data_in: Some(frame), ..TestRunOptions::default() };
        match program.test_run(options) {
            Ok(result) => Ok(Some(result.return_value.cast_signed())),
            Err(error) if errno(&error) == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(BpfError::load(&error)),
        }
    }

    /// Loads the tracing program, if it is not loaded yet. Verifying it takes as long as all the rest of a start, so
    /// it is loaded only when it is first needed.
    pub fn load_tracer(&mut self) -> Result<(), BpfError> {
        self.load_next(TRACE_PROGRAM, next::TRACE)
    }

    /// Loads the programs that examine packets over a limit and fragments, if they are not loaded yet.
    pub fn load_prover(&mut self) -> Result<(), BpfError> {
        self.load_next(REASSEMBLE_PROGRAM, next::REASSEMBLE)?;
        self.load_next(PROVE_PROGRAM, next::PROVE)
    }

    fn load_next(&mut self, name: &str, index: u32) -> Result<(), BpfError> {
        let program: &mut Xdp = program(&mut self.ebpf, name)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        program.load().map_err(|error| BpfError::load(&error))?;
        let fd = program.fd().map_err(|error| BpfError::load(&error))?;
        self.next.set(index, fd, 0).map_err(|error| BpfError::map(abi::map::NEXT, &error))
    }

    /// Returns how many instructions the verifier processed for each program.
    pub fn verified_instructions(&mut self) -> Result<Vec<(&'static str, u32)>, BpfError> {
        self.load_tracer()?;
        self.load_prover()?;
        let mut counts = Vec::new();
        let mut add = |name, info: Result<ProgramInfo, ProgramError>| {
            let info = info.map_err(|error| BpfError::load(&error))?;
            counts.push((name, info.verified_instruction_count().unwrap_or(0))); // reported since Linux 5.16
            Ok::<(), BpfError>(())
        };
        for name in PROGRAMS {
            add(name, program::<Xdp>(&mut self.ebpf, name)?.info())?;
        }
        add(EGRESS_PROGRAM, program::<SchedClassifier>(&mut self.ebpf, EGRESS_PROGRAM)?.info())?;
        Ok(counts)
    }

    /// Returns the program, for callers that attach or run it in their own way (bench, tests).
    pub fn program(&mut self) -> Result<&mut Xdp, BpfError> {
        program(&mut self.ebpf, PROGRAM)
    }
}

pub(super) fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut P, BpfError>
where
    &'a mut P: TryFrom<&'a mut Program>,
{
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| BpfError::WrongObject { what: format!("it has no program {name} of its kind") })
}

fn program_id(info: Result<ProgramInfo, ProgramError>) -> Result<u32, BpfError> {
    info.map(|info| info.id()).map_err(|error| BpfError::load(&error))
}

fn load_egress(ebpf: &mut Ebpf) -> Result<(), String> {
    let program: &mut SchedClassifier = program(ebpf, EGRESS_PROGRAM).map_err(|error| error.to_string())?;
    program.load().map_err(|error| BpfError::load(&error).to_string())
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Map, BpfError> {
    ebpf.take_map(name).ok_or_else(|| BpfError::WrongObject { what: format!("it has no map {name}") })
}

fn typed<T>(
    ebpf: &mut Ebpf,
    name: &'static str,
    convert: impl FnOnce(Map) -> Result<T, aya::maps::MapError>,
) -> Result<T, BpfError> {
    convert(take(ebpf, name)?).map_err(|error| BpfError::map(name, &error))
}

/// The oldest kernel that the filter is tested on.
const OLDEST_KERNEL: (u8, u8, u16) = (6, 1, 0);

fn check_kernel(running: Option<KernelVersion>) -> Result<(), BpfError> {
    let (major, minor, patch) = OLDEST_KERNEL;
    match running {
        Some(version) if version < KernelVersion::new(major, minor, patch) => {
            let (major, minor) = (version.code() >> 16, version.code() >> 8 & 0xff);
            Err(BpfError::KernelTooOld { release: format!("{major}.{minor}") })
        }
        // If the release cannot be read, the loader tries.
        Some(_) | None => Ok(()),
    }
}

/// Refuses tables that take more than half of the available memory.
fn check_memory(slots: u64, list_bytes: u64, available: Option<u64>) -> Result<(), BpfError> {
    const MIB: u64 = 1 << 20;
    let needed = u64::from(abi::DEBT_TABLES) * slots * size_of::<u64>() as u64 + list_bytes;
    match available {
        Some(available) if needed > available / 2 => {
            Err(BpfError::TooLarge { slots, needed_mib: needed / MIB, available_mib: available / 2 / MIB })
        }
        _ => Ok(()),
    }
}

/// Memory of the tables of other running floodgates, bytes; `None` if none runs, or the kernel does not tell.
pub fn tables_of_others() -> Option<u64> {
    // Each floodgate has programs with maps of its own.
    let is_one = |info: &ProgramInfo| info.name_as_str().is_some_and(|name| name.starts_with(PROGRAM));
    let mut maps = BTreeSet::new();
    for info in aya::programs::loaded_programs().filter_map(Result::ok).filter(is_one) {
        maps.extend(info.map_ids().ok().flatten().unwrap_or_default());
    }
    let bytes = |id: &u32| -> Option<u64> {
        let map = MapInfo::from_id(*id).ok()?.fd().ok()?;
        let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_fd().as_raw_fd())).ok()?;
        text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
    };
    if maps.is_empty() { None } else { Some(maps.iter().filter_map(bytes).sum()) }
}

/// Memory that the kernel could give, bytes (proc(5), `MemAvailable`).
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn draw_seeds<T: IntoBytes + FromBytes>() -> Result<T, BpfError> {
    let mut seeds = T::new_zeroed();
    getrandom::fill(seeds.as_mut_bytes()).map_err(|error| BpfError::Other {
        what: "drawing the secrets of the tables",
        cause: error.to_string(),
    })?;
    Ok(seeds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_below_the_floor_are_refused_by_name() {
        let cases = [
            ("the floor itself", Some(KernelVersion::new(6, 1, 0)), true),
            ("newer", Some(KernelVersion::new(6, 18, 3)), true),
            ("older", Some(KernelVersion::new(5, 10, 200)), false),
            ("unreadable", None, true),
        ];
        for (why, running, accepted) in cases {
            assert_eq!(check_kernel(running).is_ok(), accepted, "{why}");
        }
        let message = check_kernel(Some(KernelVersion::new(5, 10, 200))).unwrap_err().to_string();
        assert!(message.starts_with("this is Linux 5.10; Floodgate needs 6.1"), "{message}");
    }

    #[test]
    fn tables_larger_than_half_of_the_memory_are_refused_with_both_sizes() {
        let message = check_memory(1 << 24, 32 << 20, Some(256 << 20)).unwrap_err().to_string();
        assert!(message.contains("544 MiB") && message.contains("128 MiB"), "{message}");
        assert!(check_memory(1 << 19, 32 << 20, Some(256 << 20)).is_ok());
        assert!(check_memory(1 << 19, 128 << 20, Some(256 << 20)).is_err());
        assert!(check_memory(1 << 24, 32 << 20, None).is_ok());
    }

    #[test]
    fn the_number_of_sources_is_rounded_up_to_what_the_table_can_be() {
        let bits = |sources| FilterOptions { sources, ..FilterOptions::default() }.bucket_bits();
        assert_eq!([bits(1), bits(524_288), bits(524_289), bits(u64::MAX / 2)], [16, 16, 17, 22]);
    }

    #[test]
    fn the_ipv6_mask_keeps_the_prefix() {
        assert_eq!([64, 56, 48].map(ipv6_mask), [u64::MAX, u64::MAX << 8, u64::MAX << 16]);
    }
}
