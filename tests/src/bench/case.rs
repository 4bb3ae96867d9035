//! The cases: what each one sets up, and what must happen to its packets for the figure to count.

use std::{collections::BTreeMap, ops::RangeInclusive, path::Path};

use anyhow::{Context, Result, ensure};
use flood_common::{
    abi::{Settings, solicited},
    class::{CELLS, Cell, Class, Scope},
    meter::Limit,
    proof::means,
    reason::{REASON_SLOTS, Reason},
    sanity::Sanity,
};
use flood_userspace::{
    bpf::{
        Filter, FilterOptions,
        limit::{rate_limit, set_limits},
    },
    config::{CellName, Config, PacketLimit, RateLimit},
    host::{CLIENT_PORTS, UdpPort},
    lists::ListKind,
    quantity::PacketRate,
};

use crate::{
    packet::{SERVER, SERVER6},
    prefixes,
    programs::{Programs, Sources},
};

use super::{
    block_list::{BlockList, Drawn},
    family::{Family, Region, UNUSED_PORT},
    measure::{share_of_action, slice},
    profile::{DNS, GAME, WEB},
    reference::{Conforming, Reference, State},
};

/// Test runs arrive on the loopback interface. It gets the first slot, as an attached interface would.
const LOOPBACK: u32 = 1;
const SLOT: u32 = 1;

/// The port of a reflector: DNS.
const MIRROR_PORT: u16 = 53;

/// Lengths of block lists.
const THOUSAND: usize = 1_000;
const HUNDRED_THOUSAND: usize = 100_000;
const MILLION: usize = 1_000_000;

/// Single runs that measure which share of packets a program without counters drops.
const SINGLE_RUNS: u32 = 2_000;

/// The action that drops (linux/bpf.h).
const XDP_DROP: u32 = 1;

/// With up to this many sources, all fit into the debt table and each returns before its debt has ended.
const RETURNING: u64 = 1 << 16;

/// With this many sources, none comes near the default limit: that would take 20 thousand million packets a second.
const RARE: u64 = 1 << 20;

/// Tolerance for the errors of the two samples (the list and the single runs) that a share is measured with: four
/// standard deviations of the latter.
const SHARE_ERROR: f64 = 0.04;

/// A limit in every scope, for the class of the packets and for all, in packets and bits. The wide ones are not
/// exceeded.
const EVERYTHING: &str = r#"
    [limit.source]
    packets = "20k/s"
    bits = "1Gbit/s"
    [limit.source.udp]
    packets = "20k/s"
    [limit.source_prefix]
    packets = "100M/s"
    [limit.source_prefix.udp]
    packets = "100M/s"
    [limit.destination]
    packets = "100M/s"
    [limit.destination.udp]
    packets = "100M/s"
    [limit.destination_prefix]
    packets = "100M/s"
    [limit.destination_prefix.udp]
    packets = "100M/s"
    [limit.total]
    packets = "100M/s"
    [limit.total.udp]
    packets = "100M/s"
"#;

/// A total limit that lets next to nothing pass.
const BEYOND: &str = r#"
    [limit]
    source.packets = "off"
    source.syn.packets = "off"
    total.packets = "1/s"
"#;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Case {
    /// Bare `XDP_DROP` against itself: how far to trust the other figures.
    Floor,
    /// Parsing alone.
    Parse,
    /// All sources on the allow list, by one entry.
    Allowed,
    /// All sources on the block list, by one entry.
    Blocked,
    /// No limit, and a block list with this many entries.
    BlockList(usize),
    /// A limit that no packet exceeds.
    Conforming,
    /// A limit that every packet exceeds after the first of its source.
    Exceeding,
    /// The default limit of a source, and nothing else.
    SourceLimit,
    /// The default configuration on a host, set up as the daemon does, and an open UDP port.
    Default,
    /// The same, with a closed UDP port.
    ClosedPort,
    /// An example configuration from docs/profiles: its name and its text. Otherwise the same as [`Case::Default`].
    Example(&'static str, &'static str),
    /// [`Case::BlockList`] without entries and without sanity checks.
    Unchecked,
    /// An ACK over the total limit, which requires a socket lookup.
    NoConnection,
    /// UDP over the total limit, which requires a socket lookup.
    NoSocket,
    /// A SYN over the total limit, which has to be retransmitted.
    FirstSyn,
    /// UDP from a reflector port, which requires a lookup in the table of what the host asked and a socket lookup.
    Unsolicited,
    /// Everything that can be set at once: limits in every scope, both lists, and a trace of another source.
    Everything,
    /// The reference with the kernel's LRU map, for comparison with [`Case::SourceLimit`].
    LruReference,
    /// The same with one map for each processor.
    PerCpuLruReference,
    /// The same with a hash map and a lock in each entry.
    SpinLockReference,
    /// The reference with the kernel's trie of this many entries, for comparison with [`Case::BlockList`].
    LpmReference(usize),
    /// 200,000 IPv6 entries of every length in one /32, and sources inside or outside it.
    EveryLength(Reach),
    /// 200,000 IPv6 entries in one /32, longer than the networks of most sources, and sources inside it.
    LongLengths,
    /// IPv6 entries of each length, each inside the next shorter one, and sources inside the shortest.
    Nested,
}

/// Where the sources are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// In the network that the list covers.
    Within,
    /// In another network.
    Without,
}

impl Case {
    /// All cases.
    pub const ALL: [Self; 31] = [
        Self::Floor,
        Self::Parse,
        Self::Allowed,
        Self::Blocked,
        Self::BlockList(0),
        Self::BLOCK_LIST_1K,
        Self::BLOCK_LIST_100K,
        Self::BLOCK_LIST_1M,
        Self::Conforming,
        Self::Exceeding,
        Self::SourceLimit,
        Self::Default,
        Self::ClosedPort,
        Self::Example(WEB.0, WEB.1),
        Self::Example(DNS.0, DNS.1),
        Self::Example(GAME.0, GAME.1),
        Self::Unchecked,
        Self::NoConnection,
        Self::NoSocket,
        Self::FirstSyn,
        Self::Unsolicited,
        Self::Everything,
        Self::LruReference,
        Self::PerCpuLruReference,
        Self::SpinLockReference,
        Self::LpmReference(THOUSAND),
        Self::LPM_REFERENCE_1M,
        Self::EveryLength(Reach::Within),
        Self::EveryLength(Reach::Without),
        Self::LongLengths,
        Self::Nested,
    ];

    /// A shorter block list.
    pub const BLOCK_LIST_1K: Self = Self::BlockList(THOUSAND);
    /// A shorter block list.
    pub const BLOCK_LIST_100K: Self = Self::BlockList(HUNDRED_THOUSAND);

    /// The longest block list.
    pub const BLOCK_LIST_1M: Self = Self::BlockList(MILLION);

    /// The reference with as many entries as the longest block list.
    pub const LPM_REFERENCE_1M: Self = Self::LpmReference(MILLION);

    /// The name on the command line and in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Parse => "parse",
            Self::Allowed => "allowed",
            Self::Blocked => "blocked",
            Self::BlockList(MILLION) => "block list 1M",
            Self::BlockList(HUNDRED_THOUSAND) => "block list 100k",
            Self::BlockList(THOUSAND) => "block list 1k",
            Self::BlockList(_) => "block list 0",
            Self::Conforming => "conforming",
            Self::Exceeding => "exceeding",
            Self::SourceLimit => "source limit",
            Self::Default => "default",
            Self::ClosedPort => "closed port",
            Self::Example(name, _) => name,
            Self::Unchecked => "no checks",
            Self::NoConnection => "no connection",
            Self::NoSocket => "no socket",
            Self::FirstSyn => "first syn",
            Self::Unsolicited => "unsolicited",
            Self::Everything => "everything",
            Self::LruReference => "lru reference",
            Self::PerCpuLruReference => "per-cpu lru reference",
            Self::SpinLockReference => "spin lock reference",
            Self::LPM_REFERENCE_1M => "lpm reference 1M",
            Self::LpmReference(_) => "lpm reference 1k",
            Self::EveryLength(Reach::Within) => "every length",
            Self::EveryLength(Reach::Without) => "every length, outside",
            Self::LongLengths => "long lengths",
            Self::Nested => "nested",
        }
    }

    /// Whether the case exists in a family. A million IPv6 prefixes exceed the filter's capacity, the reference's
    /// trie is IPv4 only, and the examples differ from the default only in limits.
    pub fn exists_in(self, family: Family) -> bool {
        let is_of_ipv6 = matches!(self, Self::EveryLength(_) | Self::LongLengths | Self::Nested);
        let is_of_ipv4 = matches!(self, Self::BLOCK_LIST_1M | Self::LpmReference(_) | Self::Example(..));
        if family == Family::Ipv4 { !is_of_ipv6 } else { !is_of_ipv4 }
    }

    /// Where its sources are.
    fn region(self, family: Family) -> Region {
        match self {
            Self::EveryLength(Reach::Within) | Self::LongLengths | Self::Nested => Region::first_network(),
            Self::EveryLength(Reach::Without) => Region::other_network(),
            _ => Region::of(family),
        }
    }

    /// Whether the verdict on a packet depends on earlier packets.
    pub(super) fn remembers_sources(self) -> bool {
        match self {
            Self::Conforming
            | Self::Exceeding
            | Self::SourceLimit
            | Self::Default
            | Self::ClosedPort
            | Self::Example(..)
            | Self::Everything
            | Self::FirstSyn
            | Self::LruReference
            | Self::PerCpuLruReference
            | Self::SpinLockReference => true,
            Self::Floor
            | Self::Parse
            | Self::Allowed
            | Self::Blocked
            | Self::BlockList(_)
            | Self::Unchecked
            | Self::NoConnection
            | Self::NoSocket
            | Self::Unsolicited
            | Self::LpmReference(_)
            | Self::EveryLength(_)
            | Self::LongLengths
            | Self::Nested => false,
        }
    }

    /// Whether everything is set that a daemon sets on a host.
    fn is_on_host(self) -> bool {
        matches!(self, Self::Default | Self::ClosedPort | Self::Example(..))
    }

    /// The open UDP ports of the host.
    fn ports(self) -> Vec<UdpPort> {
        if self == Self::ClosedPort { Vec::new() } else { vec![UdpPort::open(UNUSED_PORT)] }
    }

    /// Contents of its block list.
    fn block_list(self) -> Drawn {
        match self {
            Self::BlockList(entries) | Self::LpmReference(entries) => Drawn::Random(entries),
            Self::Everything => Drawn::Random(HUNDRED_THOUSAND),
            Self::EveryLength(_) => Drawn::Within(2 * HUNDRED_THOUSAND, 33..=128),
            Self::LongLengths => Drawn::Within(2 * HUNDRED_THOUSAND, 49..=128),
            Self::Nested => Drawn::Nested(33..=128),
            _ => Drawn::Random(0),
        }
    }

    fn set_limits(self, settings: &mut Settings) -> Result<()> {
        let config = Config::default();
        let of_source = |limit| {
            let mut cells = [Limit::default(); CELLS];
            cells[Cell::new(Scope::Source, Class::Any).number()] = limit;
            cells
        };
        match self {
            Self::SourceLimit => {
                let name = CellName { scope: Scope::Source, class: Class::Any };
                let limit = config.limits.get(&name).context("no default limit")?;
                settings.set_limits(of_source(rate_limit(&limit.limit)));
            }
            Self::Default | Self::ClosedPort => {
                set_limits(settings, &config.limits, &config.protected_limits);
            }
            Self::Example(_, text) => set_limits_of(settings, text)?,
            Self::Everything => {
                set_limits_of(settings, EVERYTHING)?;
                settings.trace_version = 4;
            }
            Self::Conforming => {
                // More than a test run of one source reaches.
                let packets = PacketLimit::of_rate(PacketRate(100_000_000));
                settings.set_limits(of_source(rate_limit(&RateLimit { packets: Some(packets), bits: None })));
            }
            // One packet in ten seconds, and no burst: even 16 million sources stay in debt.
            Self::Exceeding => settings.set_limits(of_source(Limit {
                packet_cost_ns: 10_000_000_000,
                horizon_ns: 20_000_000_000,
                ..Limit::default()
            })),
            Self::NoConnection | Self::NoSocket | Self::FirstSyn => set_limits_of(settings, BEYOND)?,
            Self::Floor
            | Self::Parse
            | Self::Allowed
            | Self::Blocked
            | Self::BlockList(_)
            | Self::Unchecked
            | Self::Unsolicited
            | Self::LruReference
            | Self::PerCpuLruReference
            | Self::SpinLockReference
            | Self::LpmReference(_)
            | Self::EveryLength(_)
            | Self::LongLengths
            | Self::Nested => {}
        }
        Ok(())
    }

    fn filter(self, list: &BlockList) -> Result<Filter> {
        let mut options = FilterOptions::from(&Config::default());
        if self == Self::Unchecked {
            options.sanity = Sanity::default();
        }
        let mut filter = Filter::load(&options)?;
        filter.set_local(&[SERVER.into(), SERVER6.into()])?;
        if self.is_on_host() {
            // As on a network card, which can send the filter's answers.
            filter.set_proof(means::SOCKETS | means::COOKIES, true)?;
            filter.tell_solicited_by(solicited::NOTED | solicited::SOCKETS);
            filter.set_client_ports(CLIENT_PORTS);
        }
        // The host information above determines which limits are in force.
        let mut limited = Ok(());
        filter.change_settings(|settings| {
            settings.sample_cost_ns = options.sample_cost_ns();
            settings.interfaces[SLOT as usize] = LOOPBACK;
            settings.absence = 1;
            limited = self.set_limits(settings);
        });
        limited?;
        let everybody = ["0.0.0.0/0".parse()?, "::/0".parse()?];
        let somebody = ["192.0.2.0/24".parse()?, "2001:db8:600d::/48".parse()?];
        match self {
            Self::Allowed => filter.edit_list(ListKind::Allow, prefixes::put(everybody))?,
            Self::Blocked => filter.edit_list(ListKind::Block, prefixes::put(everybody))?,
            Self::Everything => filter.edit_list(ListKind::Allow, prefixes::put(somebody))?,
            _ => Default::default(),
        };
        match self {
            Self::NoConnection | Self::NoSocket => filter.set_proof(means::SOCKETS, true)?,
            Self::FirstSyn => filter.set_proof(means::RETRANSMISSION, true)?,
            Self::Unsolicited => filter.tell_solicited_by(solicited::NOTED | solicited::SOCKETS),
            _ => {}
        }
        filter.edit_list(ListKind::Block, prefixes::put(list.prefixes()))?;
        Ok(filter)
    }

    /// The frame to send, with room for a source address.
    fn frame(self, family: Family) -> Vec<u8> {
        const SYN: u8 = 0x02;
        const ACK: u8 = 0x10;
        const ORDINARY_PORT: u16 = 40_000;
        let frame = match self {
            Self::NoConnection => family.frame().tcp(ORDINARY_PORT, UNUSED_PORT, ACK),
            Self::FirstSyn => family.frame().tcp(ORDINARY_PORT, UNUSED_PORT, SYN),
            Self::Unsolicited => family.udp(MIRROR_PORT),
            _ => family.udp(ORDINARY_PORT),
        };
        frame.bytes()
    }

    /// The reference that this case measures, with a limit that passes conforming packets.
    fn reference(self, list: &BlockList) -> Result<Reference> {
        match self {
            Self::PerCpuLruReference => Reference::load(State::PerCpuLru, Conforming::Passes),
            Self::SpinLockReference => Reference::load(State::SpinLock, Conforming::Passes),
            Self::LpmReference(_) => Reference::lpm(list, Conforming::Passes),
            _ => Reference::load(State::Lru, Conforming::Passes),
        }
    }

    /// What must happen to the packets.
    fn claim(self, list: &BlockList, sources: u64) -> Option<Claim> {
        let all = 0.999..=1.0;
        // On a busy machine a source regains some of its burst before a slice begins.
        let nearly_all = 0.75..=1.0;
        match self {
            Self::Floor | Self::Parse => Some(Claim::Dropped(all)),
            Self::Allowed => Some(Claim::Reasons(&[Reason::Allowed], all)),
            Self::Blocked => Some(Claim::Reasons(&[Reason::Blocked], all)),
            Self::Unchecked => Some(Claim::Reasons(&[Reason::Conforming], all)),
            Self::NoConnection => Some(Claim::Reasons(&[Reason::NoConnection], nearly_all)),
            Self::NoSocket => Some(Claim::Reasons(&[Reason::NoSocket], nearly_all)),
            // When the table is full, no SYN is noted.
            Self::FirstSyn => Some(Claim::Reasons(&[Reason::FirstSyn, Reason::TotalPackets], nearly_all)),
            Self::Unsolicited => Some(Claim::Reasons(&[Reason::Unsolicited], all)),
            Self::BlockList(_) | Self::EveryLength(_) | Self::LongLengths | Self::Nested => {
                Some(Claim::Reasons(&[Reason::Blocked], about(list.share(sources))))
            }
            Self::Conforming => Some(Claim::Reasons(&[Reason::Conforming, Reason::Unaccounted], all)),
            Self::Exceeding if sources <= RETURNING => {
                Some(Claim::Reasons(&[Reason::SourcePackets], nearly_all))
            }
            // The filter also looks up a socket before it drops the packet.
            Self::ClosedPort => Some(Claim::Reasons(
                &[Reason::SourcePackets, Reason::TotalPackets, Reason::NoSocket],
                nearly_all,
            )),
            Self::SourceLimit | Self::Default if sources == 1 => {
                Some(Claim::Reasons(&[Reason::SourcePackets], nearly_all))
            }
            // Single runs are so slow that some packets are within the limit.
            Self::LruReference | Self::PerCpuLruReference | Self::SpinLockReference if sources == 1 => {
                Some(Claim::Dropped(0.3..=1.0))
            }
            Self::LpmReference(_) => Some(Claim::Dropped(about(list.share(sources)))),
            Self::SourceLimit if sources >= RARE => {
                Some(Claim::Reasons(&[Reason::Conforming, Reason::Unaccounted], all))
            }
            Self::LruReference | Self::PerCpuLruReference | Self::SpinLockReference if sources >= RARE => {
                Some(Claim::Dropped(0.0..=0.0))
            }
            // In between, which sources exceed the limit depends on the speed of the machine.
            Self::Exceeding
            | Self::SourceLimit
            | Self::Default
            | Self::Example(..)
            | Self::Everything
            | Self::LruReference
            | Self::PerCpuLruReference
            | Self::SpinLockReference => None,
        }
    }
}

/// Sets the limits of a configuration.
fn set_limits_of(settings: &mut Settings, text: &str) -> Result<()> {
    let config = Config::parse(text, Path::new(""))?;
    set_limits(settings, &config.limits, &config.protected_limits);
    Ok(())
}

fn about(share: f64) -> RangeInclusive<f64> {
    share - SHARE_ERROR..=share + SHARE_ERROR
}

/// What must happen to the packets of a case, as a range of shares.
enum Claim {
    /// This share has one of these reasons, by the filter's own counters.
    Reasons(&'static [Reason], RangeInclusive<f64>),
    /// This share is dropped, by the action of single runs.
    Dropped(RangeInclusive<f64>),
}

/// A case that is set up: what it calls, and a harness of its own, so that switching between programs changes nothing
/// in the kernel.
pub(super) struct Subject {
    pub(super) case: Case,
    harness: Programs,
    called: Called,
    list: BlockList,
    frame: Vec<u8>,
    sources: Sources,
    /// What the filter counted in slices that count: packets by reason number, by number of sources.
    counted: BTreeMap<u64, Vec<u64>>,
}

enum Called {
    /// A program of the laboratory itself.
    Laboratory,
    Filter(Box<Filter>),
    /// Kept because dropping it would free its maps.
    Reference(#[expect(dead_code, reason = "kept for its maps")] Reference),
}

impl Subject {
    pub(super) fn new(case: Case, family: Family) -> Result<Self> {
        let mut harness = Programs::load()?;
        let region = case.region(family);
        harness.set_lowest_bit(region.lowest_bit);
        let list = BlockList::draw(region, case.block_list());
        let (fd, called) = match case {
            Case::Floor => (harness.program("drop")?.fd()?.try_clone()?, Called::Laboratory),
            Case::Parse => (harness.program("parse_only")?.fd()?.try_clone()?, Called::Laboratory),
            Case::LruReference
            | Case::PerCpuLruReference
            | Case::SpinLockReference
            | Case::LpmReference(_) => {
                let reference = case.reference(&list)?;
                (reference.fd()?, Called::Reference(reference))
            }
            _ => {
                let mut filter = case.filter(&list)?;
                (filter.program()?.fd()?.try_clone()?, Called::Filter(Box::new(filter)))
            }
        };
        harness.set_target(&fd)?;
        harness.program("harness")?; // loaded now rather than in the first slice
        let sources = region.sources(1);
        Ok(Self { case, harness, called, list, frame: case.frame(family), sources, counted: BTreeMap::new() })
    }

    /// Switches to this many sources.
    pub(super) fn set_sources(&mut self, family: Family, count: u64) -> Result<()> {
        self.sources = self.case.region(family).sources(count);
        self.harness.set_sources(self.sources)
    }

    /// Runs a slice that does not count: before one that does, and to learn how long a run takes.
    pub(super) fn warm_up(&mut self, cores: usize, runs: u32) -> Result<f64> {
        self.look()?;
        slice(&mut self.harness, &self.frame, cores, runs)
    }

    /// See [`slice`].
    pub(super) fn slice(&mut self, cores: usize, runs: u32) -> Result<f64> {
        self.look()?;
        let before = self.counts()?;
        let ns = slice(&mut self.harness, &self.frame, cores, runs)?;
        let after = self.counts()?;
        let counted = self.counted.entry(self.sources.count).or_insert_with(|| vec![0; REASON_SLOTS]);
        for (sum, (after, before)) in counted.iter_mut().zip(after.iter().zip(before)) {
            *sum += after - before;
        }
        Ok(ns)
    }

    /// Updates the filter's view of the host's UDP ports, as a daemon does each second. The filter trusts it for
    /// three seconds.
    fn look(&mut self) -> Result<()> {
        match &mut self.called {
            Called::Filter(filter) if self.case.is_on_host() => {
                filter.open.follow(true, || Ok(self.case.ports()))
            }
            _ => Ok(()),
        }
    }

    /// Returns what the filter has counted so far: packets by reason number. Empty without a filter.
    fn counts(&self) -> Result<Vec<u64>> {
        let Called::Filter(filter) = &self.called else { return Ok(Vec::new()) };
        let counters = filter.counters.interface(SLOT)?;
        Ok(counters.done.iter().map(|count| count.packets).collect())
    }

    /// Checks that the packets got the verdicts that the case claims, with the present number of sources. Otherwise
    /// the figure does not count.
    pub(super) fn check(&mut self) -> Result<()> {
        let (what, share, range) = match self.case.claim(&self.list, self.sources.count) {
            None => return Ok(()),
            Some(Claim::Dropped(range)) => {
                let share = share_of_action(&mut self.harness, &self.frame, SINGLE_RUNS, XDP_DROP)?;
                ("dropped".into(), share, range)
            }
            Some(Claim::Reasons(reasons, range)) => {
                let counted = self.counted.get(&self.sources.count).context("no slice has been measured")?;
                let total: u64 = counted.iter().sum();
                let so: u64 = reasons.iter().map(|reason| counted[reason.number() as usize]).sum();
                (format!("{reasons:?}"), so as f64 / total.max(1) as f64, range)
            }
        };
        let Self { case, sources, .. } = self;
        ensure!(
            range.contains(&share),
            "{} with {} sources: {share:.3} of the packets were {what}, not {range:?}",
            case.label(),
            sources.count
        );
        Ok(())
    }
}
