//! The filter on a test bench: frames go in by test run, verdicts come out, and a twin on the host must agree.
//!
//! [`Rig::send`] runs a frame in the kernel, runs the same frame through the same code over tables in ordinary
//! memory, and compares *all* counters before and after: exactly one reason may have counted, once, with the length
//! of the frame, and it must be the twin's. So every test that sends a frame is also a differential test.
//!
//! Time stands still until [`Rig::advance`]. No interface is touched, so tests run side by side. Each test has a rig
//! of its own, except on emulated processors, which need seconds to verify a program: there a [`Loan`] is reused.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    ops::{Deref, DerefMut},
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use flood_common::{
    abi::{Count, InterfaceCounters, MODE_MONITOR, Settings, solicited},
    class::{CELLS, Cell, Class, Scope},
    decide::{Verdict, decide},
    host::{self, HostSockets, HostTables},
    meter::{Limit, WAYS},
    packet::{Parsed, parse},
    place::{MIN_BUCKET_BITS, Place},
    proof::{Proof, prove},
    reason::Reason,
    reassembly::{is_due, judge},
    sanity::{Ethertypes, Sanity},
    solicit::{Flow, outgoing},
    wire::{Ethernet, Frame, Window, WireType},
};
use flood_userspace::{
    boot_time::BootTime,
    bpf::{
        Filter, FilterOptions, RunOutcome,
        limit::{accounts, rate_limit, reassembly, set_limits, set_mode, shared},
    },
    config::{Config, Mode, PacketLimit, RateLimit},
    host::{FragmentMemory, Reassembly, USUAL_TUNNELS, udp_ports},
    lists::{Edit, Entry, ListKind, Note, Origin},
    process::stay,
    quantity::PacketRate,
};
use ipnet::IpNet;

use crate::{
    lab::{command, slowness},
    packet::{SERVER, SERVER6, describe},
    peer::Peer,
};

/// Test runs arrive on the loopback interface, to which the rig gives the first slot.
const LOOPBACK: u32 = 1;
const SLOT: u32 = 1;

/// Rigs whose tests have passed, for reuse.
static USED: Mutex<Vec<Rig>> = Mutex::new(Vec::new());

/// Longer than any debt of a test lasts.
const LONGEST_DEBT: Duration = Duration::from_secs(200);

/// When time begins: far enough from 0 that nothing is special about it.
const START_NS: u64 = 1_000_000_000_000;

/// What a test run puts into the first buffer: a page without headroom (256) and tailroom (320) (net/bpf/test_run.c).
const FIRST_BUFFER: usize = 4_096 - 256 - 320;

/// A frame as a test run lays it out: a program sees only the first buffer, but can query the length of all buffers.
#[derive(Clone, Copy)]
struct Buffers<'a> {
    frame: &'a [u8],
}

impl<'a> Buffers<'a> {
    fn first(self) -> Frame<'a> {
        Frame(&self.frame[..self.frame.len().min(FIRST_BUFFER)])
    }
}

impl<'a> Window<'a> for Buffers<'a> {
    fn view<T: WireType>(self, offset: usize) -> Option<&'a T> {
        self.first().view(offset)
    }

    fn length(self) -> u32 {
        Frame(self.frame).length()
    }

    fn first_buffer(self) -> u32 {
        self.first().length()
    }
}

/// A filter and its twin.
pub struct Rig {
    filter: Filter,
    /// The host's tables for the twin, with what the twin assumes about this host's sockets.
    pub twin: HostTables,
    settings: Settings,
    /// The settings that the rig began with.
    unlimited: Settings,
    now_ns: u64,
    counters: InterfaceCounters,
    open: Vec<UdpSocket>,
    reassembly: Reassembly,
    /// Whether the filter follows the UDP ports of the host.
    looks: bool,
}

/// How a socket is open.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Open {
    /// Not connected, at every address of both families.
    ForAll,
    /// At the server's address of the peer's family, connected to the peer.
    To(SocketAddr),
}

/// What the egress program returns for every packet: `TCX_NEXT`, or `TC_ACT_UNSPEC`.
const NEXT: i32 = -1;

impl Rig {
    /// A filter with the default configuration.
    #[expect(clippy::new_ret_no_self, reason = "a rig is lent, and goes back")]
    pub fn new() -> Loan {
        let config = Config::default();
        let mut rig = Self::without_limits();
        set_limits(&mut rig.settings, &config.limits, &config.protected_limits);
        rig.stay();
        rig.publish();
        rig
    }

    /// A filter that limits nothing.
    pub fn without_limits() -> Loan {
        let used = USED.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Loan(Some(used.map_or_else(Self::load, Self::renew)))
    }

    /// The same, with the sketch in front of the debt table. The filter and its twin stay on one processor.
    pub fn sketched() -> Self {
        let mut rig = Self::load_on(FilterOptions::default().processors);
        let processors =
            u32::try_from(FilterOptions::default().processors.len()).expect("so many processors");
        rig.twin.sketch(processors);
        rig.stay();
        rig
    }

    /// A filter on a kernel that does not reveal the offsets of its socket fields.
    pub fn without_socket_fields() -> Self {
        Self::load_with(FilterOptions {
            processors: Vec::new(),
            socket_fields: false,
            ..FilterOptions::default()
        })
    }

    fn load() -> Self {
        Self::load_on(Vec::new())
    }

    fn load_on(processors: Vec<u32>) -> Self {
        Self::load_with(FilterOptions { processors, ..FilterOptions::default() })
    }

    fn load_with(options: FilterOptions) -> Self {
        let options = FilterOptions { virtual_clock: true, ..options };
        let filter = Filter::load(&options).unwrap_or_else(|error| panic!("loading the filter: {error}"));
        let mut settings = filter.settings.read();
        settings.sample_cost_ns = 1; // cheap enough that every drop is sampled
        settings.interfaces[SLOT as usize] = LOOPBACK;
        let twin = HostTables::new(MIN_BUCKET_BITS);
        let mut rig = Self {
            filter,
            reassembly: Reassembly::default(),
            twin,
            settings,
            unlimited: settings,
            now_ns: START_NS,
            counters: InterfaceCounters::default(),
            open: Vec::new(),
            looks: false,
        };
        rig.filter.set_virtual_now_ns(START_NS);
        rig.publish();
        rig
    }

    /// Makes a used rig as good as new: all debts have ended, and the lists are empty.
    fn renew(mut self) -> Self {
        for kind in [ListKind::Allow, ListKind::Block] {
            let entries: Vec<IpNet> = self.filter.lists.book(kind).iter().map(|(prefix, _)| prefix).collect();
            self.edit(kind, Edit::take(entries));
        }
        self.recount();
        self.looks = false;
        self.advance(LONGEST_DEBT);
        self.twin.sockets = HostSockets::default();
        self.open.clear();
        self.own(&[]);
        self.settings = Settings { lists: self.settings.lists, ..self.unlimited };
        self.publish();
        self
    }

    fn publish(&mut self) {
        self.filter.settings.publish(&self.settings);
    }

    /// Sets the limit of each source, and no other.
    pub fn limit(&mut self, limit: &RateLimit) {
        let mut cells = [Limit::default(); CELLS];
        cells[Cell::new(Scope::Source, Class::Any).number()] = rate_limit(limit);
        self.settings.set_limits(cells);
        self.publish();
    }

    /// Stays on one processor from now on, so that only the leases of one processor count for totals.
    fn stay(&self) {
        stay().unwrap_or_else(|error| panic!("staying on a processor: {error}"));
    }

    /// Sets all limits: those of a configuration (TOML), and the defaults that it does not change.
    pub fn limits(&mut self, config: &str) {
        let config = Config::parse(config, Path::new("")).unwrap_or_else(|error| panic!("{error}"));
        set_limits(&mut self.settings, &config.limits, &config.protected_limits);
        self.stay();
        self.publish();
    }

    /// Enables these checks, and refuses the protocols with these numbers.
    pub fn check(&mut self, checks: impl IntoIterator<Item = Reason>, protocols: &[u8]) {
        self.settings.sanity = Sanity::new(checks, protocols);
        self.publish();
    }

    /// Refuses frames that are not IP.
    pub fn refuse(&mut self, ethertypes: Ethertypes) {
        self.settings.sanity.ethertypes = ethertypes;
        self.publish();
    }

    /// Chooses [how](flood_common::proof::means) packets over a limit prove their origin. Up to `again` retransmitted
    /// SYNs may pass in a second.
    pub fn prove(&mut self, means: u32, again: u64) {
        self.filter.set_proof(means, true).unwrap_or_else(|error| panic!("{error}"));
        self.settings.proof = means;
        self.settings.absence = 1;
        self.settings.retransmissions = shared(&PacketLimit::of_rate(PacketRate(again)));
        self.settings.mtu = 1500;
        self.settings.set_limits(self.settings.limits);
        self.publish();
    }

    /// Sets the size of each account, as the section `[proof]` of a configuration would.
    pub fn account(&mut self, config: &str) {
        let config = Config::parse(config, Path::new("")).unwrap_or_else(|error| panic!("{error}"));
        self.settings.accounts = accounts(&config.proof);
        self.settings.retransmissions = shared(&config.proof.retransmissions);
        self.settings.set_limits(self.settings.limits);
        self.publish();
    }

    /// Sets how much memory the host has for fragments of each family.
    pub fn fragment_memory(&mut self, memory: FragmentMemory) {
        self.reassembly.memory = [memory; 2];
        self.reassemble();
    }

    /// Sets whether the host also reassembles packets that are not addressed to it.
    pub fn defragment_for_all(&mut self, for_all: bool) {
        self.reassembly.for_all = for_all;
        self.reassemble();
    }

    fn reassemble(&mut self) {
        self.filter.set_reassembly(&self.reassembly).unwrap_or_else(|error| panic!("{error}"));
        self.settings.reassembly = self.reassembly.memory.each_ref().map(reassembly);
        self.settings.defragments = self.reassembly.for_all.into();
        self.settings.set_limits(self.settings.limits);
        self.publish();
    }

    /// Sets whether the absence of a socket means that nobody wants a packet.
    pub fn absence(&mut self, counts: bool) {
        self.settings.absence = counts.into();
        self.publish();
    }

    /// Sets the host's own addresses.
    pub fn own(&mut self, addresses: &[IpAddr]) {
        let prefixes: Vec<IpNet> = addresses.iter().map(|address| IpNet::from(*address)).collect();
        self.filter.set_local(&prefixes).unwrap_or_else(|error| panic!("{error}"));
        self.twin.sockets.local = addresses.iter().map(|address| (*address).into()).collect();
    }

    /// Has solicited replies recognized by what the host sends ([`ask`](Self::ask)) and by its sockets
    /// ([`open`](Self::open)). There are no sockets yet: this thread moves into a network namespace of its own.
    pub fn tell_answers(&mut self) {
        // SAFETY: no pointers, and only this thread is moved, which relies on no other namespace.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) } == 0;
        assert!(moved, "leaving the network namespace: {}", std::io::Error::last_os_error());
        for line in [
            "link set lo up".to_owned(),
            format!("address add {SERVER}/32 dev lo"),
            format!("address add {SERVER6}/128 dev lo nodad"),
        ] {
            command(&format!("ip {line}")).unwrap_or_else(|error| panic!("{error}"));
        }
        Peer::prepare().unwrap_or_else(|error| panic!("{error}"));
        self.own(&[SERVER, SERVER6]);
        self.absence(true);
        self.looks = true;
        self.look();
        self.tell_by(solicited::NOTED | solicited::SOCKETS);
    }

    /// Has the filter read the UDP ports of the host, as its daemon does each second.
    fn look(&mut self) {
        if self.looks {
            self.filter.open.follow(true, || udp_ports(&[])).unwrap_or_else(|error| panic!("{error}"));
            self.twin.look_at_ports(self.now_ns);
        }
    }

    /// Sets how solicited replies are recognized: bits of [`solicited`].
    pub fn tell_by(&mut self, bits: u32) {
        self.settings.solicited = bits;
        self.publish();
    }

    /// Opens a UDP socket on a port.
    pub fn open(&mut self, port: u16, how: Open) {
        let (local, peer) = match how {
            Open::ForAll => (IpAddr::from([0_u16; 8]), None),
            Open::To(peer) => (if peer.is_ipv4() { SERVER } else { SERVER6 }, Some(peer)),
        };
        let socket = UdpSocket::bind((local, port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
        if let Some(peer) = peer {
            socket.connect(peer).unwrap_or_else(|error| panic!("{peer}: {error}"));
        }
        self.open.push(socket);
        self.twin.sockets.tunnels.extend(USUAL_TUNNELS.iter().filter(|(tunnel, _)| *tunnel == port));
        self.twin.sockets.udp.push(host::UdpSocket {
            local: peer.map(|_| local.into()),
            port,
            peer: peer.map(|peer| (peer.ip().into(), peer.port())),
        });
        self.look();
    }

    /// Closes all sockets.
    pub fn close(&mut self) {
        self.open.clear();
        self.twin.sockets.udp.clear();
        self.twin.sockets.tunnels.clear();
        self.look();
    }

    /// Sends a frame out of the host, from an unconnected socket. Does nothing if the kernel does not run such a
    /// frame.
    ///
    /// # Panics
    /// If the twin has noted something else, or the program does anything to the frame.
    pub fn ask(&mut self, frame: &[u8]) {
        let action =
            self.filter.run_egress(frame).unwrap_or_else(|error| panic!("{error}\n{}", describe(frame)));
        if action.is_none() {
            return;
        }
        assert_eq!(action, Some(NEXT), "{}", describe(frame));
        let window = Frame(frame);
        let kind = window.view::<Ethernet>(0).map(|ethernet| ethernet.ethertype.get());
        if let Some(flow) = kind.and_then(|kind| outgoing(window, kind, self.settings.absence == 0)) {
            self.twin.send(&self.settings, &flow, self.now_ns, false);
            self.compare_notes(&flow, frame);
        }
    }

    /// Compares a flow's bucket in the kernel with the twin's.
    fn compare_notes(&self, flow: &Flow, frame: &[u8]) {
        let bucket = flow.place(&self.settings.solicit_seeds).bucket as usize;
        let [kernel, twin] =
            [&self.filter.solicited.words().as_chunks::<WAYS>().0[bucket], &self.twin.solicited[bucket]]
                .map(|words| words.each_ref().map(|word| word.load(Ordering::Relaxed)));
        assert_eq!(kernel, twin, "notes of kernel and host differ after\n{}", describe(frame));
    }

    /// Returns how many flows are noted.
    pub fn noted(&self) -> u64 {
        self.filter.solicited.noted()
    }

    /// Changes to monitor mode, or back.
    pub fn monitor(&mut self, monitor: bool) {
        set_mode(&mut self.settings, if monitor { Mode::Monitor } else { Mode::Enforce });
        self.publish();
    }

    /// Blocks a prefix.
    pub fn block(&mut self, prefix: &str) {
        self.add(ListKind::Block, prefix);
    }

    /// Allows a prefix.
    pub fn allow(&mut self, prefix: &str) {
        self.add(ListKind::Allow, prefix);
    }

    /// Lets the packets of a prefix exceed all limits if there is evidence for them.
    pub fn allow_proven(&mut self, prefix: &str) {
        self.add(ListKind::AllowProven, prefix);
    }

    fn add(&mut self, kind: ListKind, prefix: &str) {
        let prefix: IpNet = prefix.parse().unwrap_or_else(|error| panic!("{prefix}: {error}"));
        self.edit(kind, Edit::put([(prefix, entry(None))]));
    }

    /// Changes a list of the filter and of the twin.
    pub fn edit(&mut self, kind: ListKind, edit: Edit) {
        let list = match kind {
            ListKind::Allow => &mut self.twin.allow,
            ListKind::Block => &mut self.twin.block,
            ListKind::AllowProven => &mut self.twin.allow_proven,
        };
        for (prefix, change) in edit.changes() {
            let (address, length) = (prefix.network().into(), u32::from(prefix.prefix_len()));
            list.retain(|held| (held.address, held.length) != (address, length));
            let ends = change.put().map(|entry| entry.expires.map_or(0, |at| self.now_ns + until(at)));
            list.extend(ends.map(|expires_ns| host::Entry { address, length, expires_ns }));
        }
        self.filter
            .edit_list(kind, edit)
            .unwrap_or_else(|error| panic!("changing the {kind:?} list: {error}"));
        self.settings.lists = self.filter.settings.read().lists;
    }

    /// Returns the IPv4 source that has this place in the debt table.
    pub fn source_at(&self, place: Place) -> IpAddr {
        Ipv4Addr::from(self.settings.seeds.v4_address(place, MIN_BUCKET_BITS)).into()
    }

    /// Lets time pass.
    pub fn advance(&mut self, time: Duration) {
        self.now_ns += u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.filter.set_virtual_now_ns(self.now_ns);
        self.look();
    }

    /// Sends a frame. Returns the reason, or `None` if the kernel does not run such a frame.
    ///
    /// # Panics
    /// If the twin disagrees, if any other counter moved, or if action and reason do not match.
    pub fn send(&mut self, frame: &[u8]) -> Option<Reason> {
        let outcome = self.filter.run(frame).unwrap_or_else(|error| panic!("{error}\n{}", describe(frame)));
        if outcome == RunOutcome::Refused {
            return None;
        }
        let buffers = Buffers { frame };
        let parsed = parse(buffers);
        let length = match parsed {
            Parsed::Packet(packet) => packet.length,
            Parsed::NotIp(_) | Parsed::Encapsulated(_) | Parsed::Broken(_) => buffers.length(),
        };
        let expected = self.expect(&parsed, buffers);

        let after = self.read_counters();
        let before = std::mem::replace(&mut self.counters, after);
        let monitor = self.settings.mode == MODE_MONITOR;
        let mut wanted = before;
        let bank = if monitor && expected.is_action() { &mut wanted.would } else { &mut wanted.done };
        bank[expected.number() as usize].packets += 1;
        bank[expected.number() as usize].bytes += u64::from(length);
        if wanted != self.counters {
            panic!(
                "the host says {expected:?}, and the kernel counted {}\n{parsed:?}\n{}",
                difference(&before, &self.counters),
                describe(frame)
            );
        }
        let action = match expected.verdict() {
            "drop" if !monitor => RunOutcome::Drop,
            "answer" if !monitor => RunOutcome::Answer,
            _ => RunOutcome::Pass,
        };
        assert_eq!(outcome, action, "{expected:?} with the wrong action\n{}", describe(frame));
        if expected.is_over_limit() {
            let twin = self.twin.exceeded.get().map(|cell| cell.number() as u64);
            let kernel = self.filter.counters.exceeded().unwrap_or_else(|error| panic!("{error}"));
            assert!(
                kernel.iter().any(|number| Some(*number) == twin),
                "{expected:?}: the host exceeds the cell {twin:?}, and the kernel one of {kernel:?}"
            );
        }
        if let Parsed::Packet(packet) = &parsed {
            self.compare_notes(&Flow::of(packet), frame);
        }
        Some(expected)
    }

    /// Returns the twin's verdict.
    fn expect(&self, parsed: &Parsed, buffers: Buffers<'_>) -> Reason {
        let (settings, now_ns, twin) = (&self.settings, self.now_ns, &self.twin);
        let Verdict { reason, looks_again, class } = decide(parsed, settings, now_ns, twin);
        let Parsed::Packet(packet) = parsed else { return reason };
        if !looks_again {
            return reason;
        }
        let mut number = reason.number();
        if reason.is_drop() {
            number = match prove(packet, class, number, buffers, settings, now_ns, twin) {
                Proof::Verdict(reason) => reason.number(),
                Proof::Answer(_) => Reason::Answered.number(),
                Proof::Nothing => number,
            };
        }
        if is_due(packet, number) {
            number = judge(packet, class, number, buffers, settings, now_ns, twin);
        }
        Reason::from_number(number).expect("it is one's")
    }

    /// Discards the counts of frames that were not [sent](Self::send).
    pub fn recount(&mut self) {
        self.counters = self.read_counters();
    }

    fn read_counters(&self) -> InterfaceCounters {
        self.filter.counters.interface(SLOT).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the filter itself.
    pub fn filter(&mut self) -> &mut Filter {
        &mut self.filter
    }
}

/// A rig on loan until the test ends.
pub struct Loan(Option<Rig>);

impl Deref for Loan {
    type Target = Rig;

    fn deref(&self) -> &Rig {
        self.0.as_ref().expect("it is there until it goes back")
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut Rig {
        self.0.as_mut().expect("it is there until it goes back")
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        if let Some(rig) = self.0.take().filter(|_| slowness() > 1 && !thread::panicking()) {
            USED.lock().unwrap_or_else(PoisonError::into_inner).push(rig);
        }
    }
}

/// Returns a list entry.
pub fn entry(expires: Option<BootTime>) -> Entry {
    let note = Note { origin: Origin::Operator.into(), reason: None, added: BootTime::now(), added_by: None };
    Entry { expires, note: Arc::new(note) }
}

/// Returns the nanoseconds until a time.
fn until(time: BootTime) -> u64 {
    let ahead = time.since(BootTime::now());
    u64::try_from(ahead.as_nanos()).unwrap_or(u64::MAX)
}

/// Describes the counters that moved, for a message.
fn difference(before: &InterfaceCounters, after: &InterfaceCounters) -> String {
    let mut moved = Vec::new();
    for (bank, before, after) in [("done", &before.done, &after.done), ("would", &before.would, &after.would)]
    {
        for (number, (Count { packets, bytes }, after)) in before.iter().zip(after).enumerate() {
            if (*packets, *bytes) != (after.packets, after.bytes) {
                let label =
                    u32::try_from(number).ok().and_then(Reason::from_number).map_or("?", Reason::label);
                moved.push(format!(
                    "{bank} {label}: +{} packets, +{} bytes",
                    after.packets - packets,
                    after.bytes - bytes
                ));
            }
        }
    }
    if moved.is_empty() { "nothing".into() } else { moved.join("; ") }
}
