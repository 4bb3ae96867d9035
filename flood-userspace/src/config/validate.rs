//! From what is written to what holds: defaults, bounds, and rules between keys.
//!
//! Validation goes on after a fault, so that one run reports all of them. A fault is the range of bytes it is
//! about and one sentence; [`super::position`] does the rest.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::{Range, RangeInclusive};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flood_common::address::TRANSLATORS;
use flood_common::class::{Class, Scope};
use flood_common::link::{LENGTH, is_ip, is_vlan};
use flood_common::reflector::REFLECTORS;
use flood_common::sanity::MAX_ETHERTYPES;
use flood_common::wire::ethertype;
use ipnet::{IpNet, Ipv6Net};
use toml::Spanned;

use super::file::{
    AllowFile, AllowProvenFile, BlockFile, ClassLimitFile, ConfigFile, ControlFile, FeedFile, LimitFile,
    ListsFile, PortOrName, ProofFile, ProtectedLimitFile, SanityFile, ScopeLimitFile, SourcesFile,
};
use super::limit::{Half, LimitError};
use super::{
    BitLimit, CellLimit, CellLimits, CellName, Config, Control, Feed, FeedName, FeedSource, FeedUrl,
    HostSays, InterfaceName, LimitOrigin, ListInput, ListRoom, PacketLimit, Proof, ProtectedLimits,
    RateLimit, Sanity, Sources, SynProof,
};
use crate::lists::{doubt::Coverage, parse_target};
use crate::quantity::{BitRate, Bits, OrOff, PacketRate, Packets, parse_duration};

/// Longest path of a unix socket in bytes: `sun_path` has 108 with the NUL (unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Bounds of `sources.table`. The least is a table of 256 KiB, which a second-level cache holds; the greatest
/// has 128 MiB for each address family.
const TABLE: RangeInclusive<u32> = 32_768..=16_777_216;

/// Bounds of `sources.ipv6_prefix`: /64 is one network, /48 the most that one site is usually given (RFC
/// 6177).
const IPV6_PREFIX: RangeInclusive<u8> = 48..=64;

/// Bounds of `sources.ipv4_network`: shorter than an address, and no shorter than the largest networks there are.
const IPV4_NETWORK: RangeInclusive<u8> = 8..=31;

/// Bounds of `sources.ipv6_network`, likewise.
const IPV6_NETWORK: RangeInclusive<u8> = 16..=63;

/// Bounds of `lists.ipv4`: the greatest fills 256 MiB.
const LISTED_IPV4: RangeInclusive<u32> = 1..=25_165_824;

/// Bounds of `lists.ipv6`: the greatest takes 136 MiB, and when it is full 180 MiB more.
const LISTED_IPV6: RangeInclusive<u32> = 1..=2_097_152;

/// Bounds of a feed's `every`: more often than once a minute is a burden on whoever keeps the list.
const FEED_EVERY: RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(30 * 24 * 3_600);

/// How often a feed is read when nothing is said: as in the reference.
const FEED_EVERY_DEFAULT: Duration = Duration::from_secs(3_600);

/// The most feeds. Each has metrics, and is searched for what another has lost.
const MAX_FEEDS: usize = 64;

/// What is wrong with which bytes of the file.
pub(super) type Fault = (Range<usize>, String);

/// Resolves a file into a configuration, or says all that is wrong with it.
pub(super) fn validate(file: ConfigFile, folder: &Path) -> Result<Config, Vec<Fault>> {
    let ConfigFile {
        interfaces,
        mode,
        attach,
        state,
        control,
        limit,
        proof,
        sanity,
        sources,
        lists,
        block,
        allow,
        allow_proven,
    } = file;
    let BlockFile {
        entries: block_entries,
        files: block_files,
        may_cover_host,
        max_coverage: block_coverage,
        feed: block_feeds,
    } = block;
    let AllowFile {
        entries: allow_entries,
        files: allow_files,
        max_coverage: allow_coverage,
        feed: allow_feeds,
    } = allow;
    let AllowProvenFile {
        entries: proven_entries,
        files: proven_files,
        max_coverage: proven_coverage,
        feed: proven_feeds,
    } = allow_proven;

    let default = Config::default();
    let mut faults = Faults::default();
    let mut feed_names = BTreeSet::new();
    let config = Config {
        interfaces: faults.interfaces(value_or(interfaces, Vec::new())),
        mode: value_or(mode, default.mode),
        attach: value_or(attach, default.attach),
        force: default.force,
        state: faults.state(state, default.state),
        control: faults.control(control, default.control),
        limits: faults.limits(&limit, default.limits),
        protected_limits: faults.protected_limits(&limit.protected, default.protected_limits),
        proof: faults.proof(&proof, default.proof),
        sanity: faults.sanity(&sanity, default.sanity),
        sources: faults.sources(&sources, default.sources),
        lists: faults.lists(&lists, default.lists),
        block: ListInput {
            feeds: faults.feeds(block_feeds, folder, &mut feed_names),
            may_cover_host: value_or(may_cover_host, false),
            max_coverage: faults.coverage(block_coverage),
            ..faults.list(block_entries, block_files, folder)
        },
        allow: ListInput {
            feeds: faults.feeds(allow_feeds, folder, &mut feed_names),
            max_coverage: faults.coverage(allow_coverage),
            ..faults.list(allow_entries, allow_files, folder)
        },
        allow_proven: ListInput {
            feeds: faults.feeds(proven_feeds, folder, &mut feed_names),
            max_coverage: faults.coverage(proven_coverage),
            ..faults.list(proven_entries, proven_files, folder)
        },
    };
    if faults.0.is_empty() { Ok(config) } else { Err(faults.0) }
}

fn value_or<T>(written: Option<Spanned<T>>, default: T) -> T {
    written.map_or(default, Spanned::into_inner)
}

fn copy<T: Copy>(written: Option<&Spanned<T>>) -> Option<T> {
    written.map(|value| *value.get_ref())
}

/// The faults found so far. Each method resolves one section, with any value in the place of a wrong one.
#[derive(Default)]
struct Faults(Vec<Fault>);

impl Faults {
    fn add<T>(&mut self, at: &Spanned<T>, what: impl Display) {
        self.0.push((at.span(), what.to_string()));
    }

    fn interfaces(&mut self, written: Vec<Spanned<String>>) -> Vec<InterfaceName> {
        let mut seen = BTreeSet::new();
        let mut names = Vec::new();
        for text in written {
            match text.get_ref().parse::<InterfaceName>() {
                Ok(name) if !seen.insert(name.clone()) => self.add(&text, format!("{name} is named twice")),
                Ok(name) => names.push(name),
                Err(error) => self.add(&text, error),
            }
        }
        names
    }

    fn state(&mut self, written: Option<Spanned<PathBuf>>, default: PathBuf) -> PathBuf {
        if let Some(state) = &written
            && !state.get_ref().is_absolute()
        {
            self.add(state, "the folder needs an absolute path");
        }
        value_or(written, default)
    }

    fn control(&mut self, written: ControlFile, default: Control) -> Control {
        let ControlFile { socket, metrics } = written;
        if let Some(socket) = &socket {
            let path: &PathBuf = socket.get_ref();
            if !path.is_absolute() || path.as_os_str().as_bytes().len() > MAX_SOCKET_PATH_BYTES {
                self.add(
                    socket,
                    format!("a socket needs an absolute path of at most {MAX_SOCKET_PATH_BYTES} bytes"),
                );
            }
        }
        if let Some(metrics) = &metrics
            && !metrics.get_ref().ip().is_loopback()
        {
            let address: &SocketAddr = metrics.get_ref();
            let right = format!("127.0.0.1:{}", address.port());
            self.add(
                metrics,
                format!("{address} can be reached from outside: write a loopback address, as \"{right}\""),
            );
        }
        Control { socket: value_or(socket, default.socket), metrics: metrics.map(Spanned::into_inner) }
    }

    fn limits(&mut self, written: &LimitFile, mut limits: CellLimits) -> CellLimits {
        let LimitFile { source, source_prefix, destination, destination_prefix, total, protected: _ } =
            written;
        let scopes = [
            (Scope::Source, source),
            (Scope::SourcePrefix, source_prefix),
            (Scope::Destination, destination),
            (Scope::DestinationPrefix, destination_prefix),
            (Scope::Total, total),
        ];
        for (scope, file) in scopes {
            let ScopeLimitFile { packets, packets_burst, bits, bits_burst, .. } = file;
            self.cell(
                &mut limits,
                CellName { scope, class: Class::Any },
                packets,
                packets_burst,
                bits,
                bits_burst,
            );
            for (class, file) in file.classes() {
                let ClassLimitFile { packets, packets_burst, bits, bits_burst } = file;
                self.cell(&mut limits, CellName { scope, class }, packets, packets_burst, bits, bits_burst);
            }
        }
        limits
    }

    /// Resolves the four keys of a limit, and puts it among the others if any is written.
    fn cell(
        &mut self,
        limits: &mut CellLimits,
        name: CellName,
        packets: &Option<Spanned<OrOff<PacketRate>>>,
        packets_burst: &Option<Spanned<Packets>>,
        bits: &Option<Spanned<OrOff<BitRate>>>,
        bits_burst: &Option<Spanned<Bits>>,
    ) {
        if (packets, packets_burst, bits, bits_burst) == (&None, &None, &None, &None) {
            return;
        }
        let default_rate = limits.get(&name).and_then(|limit| limit.limit.packets).map(|limit| limit.rate);
        let packet_rate = copy(packets.as_ref()).map_or(default_rate, |OrOff(rate): OrOff<PacketRate>| rate);
        let packet_burst: Option<Packets> = copy(packets_burst.as_ref());
        let packet_limit = packet_rate
            .map(PacketLimit::of_rate)
            .map(|limit| PacketLimit { rate: limit.rate, burst: packet_burst.unwrap_or(limit.burst) });
        let checked = packet_limit.as_ref().map_or(Ok(()), PacketLimit::check);
        self.limit(checked, packets.as_ref(), packets_burst.as_ref());
        if let (None, None, Some(burst)) = (default_rate, packets, packets_burst) {
            self.add(burst, "there is no limit for this burst: write packets = \"20k/s\" too, or remove it");
        }

        let bit_rate = copy(bits.as_ref()).and_then(|OrOff(rate): OrOff<BitRate>| rate);
        let bit_burst: Option<Bits> = copy(bits_burst.as_ref());
        let bit_limit = bit_rate
            .map(BitLimit::of_rate)
            .map(|limit| BitLimit { rate: limit.rate, burst: bit_burst.unwrap_or(limit.burst) });
        let checked = bit_limit.as_ref().map_or(Ok(()), BitLimit::check);
        self.limit(checked, bits.as_ref(), bits_burst.as_ref());
        if let (None, Some(burst)) = (bits, bits_burst) {
            self.add(burst, "there is no limit for this burst: write bits = \"200Mbit/s\" too, or remove it");
        }
        let limit = RateLimit { packets: packet_limit, bits: bit_limit };
        limits.insert(name, CellLimit { limit, origin: LimitOrigin::Configuration });
    }

    /// Reports a broken rule at the half that is wrong, or where that is the default, at the other one.
    fn limit<R, B>(
        &mut self,
        checked: Result<(), LimitError>,
        rate: Option<&Spanned<R>>,
        burst: Option<&Spanned<B>>,
    ) {
        let Err(error) = checked else { return };
        let (rate, burst) = (rate.map(Spanned::span), burst.map(Spanned::span));
        let at = match error.half {
            Half::Rate => rate.or(burst),
            Half::Burst => burst.or(rate),
        };
        self.0.push((at.unwrap_or_default(), error.to_string()));
    }

    fn protected_limits(
        &mut self,
        written: &ProtectedLimitFile,
        default: ProtectedLimits,
    ) -> ProtectedLimits {
        let ProtectedLimitFile { neighbour_discovery, path_mtu, link } = written;
        ProtectedLimits {
            neighbour_discovery: self.budget(neighbour_discovery.as_ref(), default.neighbour_discovery),
            path_mtu: self.budget(path_mtu.as_ref(), default.path_mtu),
            link: self.budget(link.as_ref(), default.link),
        }
    }

    fn proof(&mut self, written: &ProofFile, default: Proof) -> Proof {
        let ProofFile { syn, host, proven, answers, retransmissions, syncookies, solicited } = written;
        let (syn, host) =
            (copy(syn.as_ref()).unwrap_or(default.syn), copy(host.as_ref()).unwrap_or(default.host));
        if let (SynProof::Cookie, HostSays::No, Some(at)) = (syn, host, written.syn.as_ref()) {
            self.add(at, "a cookie needs the listener, which is not on this host when `proof.host` is false");
        }
        Proof {
            syn,
            host,
            proven: self.budget(proven.as_ref(), default.proven),
            answers: self.budget(answers.as_ref(), default.answers),
            retransmissions: self.budget(retransmissions.as_ref(), default.retransmissions),
            syncookies: copy(syncookies.as_ref()).unwrap_or(default.syncookies),
            solicited: copy(solicited.as_ref()).unwrap_or(default.solicited),
        }
    }

    fn sanity(&mut self, written: &SanityFile, mut sanity: Sanity) -> Sanity {
        for (reason, is_made) in written.checks() {
            if let Some(is_made) = copy(is_made) {
                sanity.checks.insert(reason.label(), is_made);
            }
        }
        for number in written.refuse_protocols.iter().flat_map(Spanned::get_ref) {
            if sanity.refuse_protocols.contains(number.get_ref()) {
                self.add(number, format!("protocol {number} is named twice"));
            }
            sanity.refuse_protocols.push(*number.get_ref());
        }
        sanity.refuse_ethertypes = self.ethertypes(written.refuse_ethertypes.as_ref());
        sanity.accept_ethertypes = self.ethertypes(written.accept_ethertypes.as_ref());
        if let Some(accepted) = &written.accept_ethertypes
            && !sanity.accept_ethertypes.is_empty()
        {
            if !sanity.refuse_ethertypes.is_empty() {
                self.add(accepted, "`refuse_ethertypes` is set, too: what is not accepted is refused");
            }
        } else if sanity.refuse_ethertypes.contains(&ethertype::ARP)
            && let Some(refused) = &written.refuse_ethertypes
        {
            self.add(refused, "0x0806 is ARP, without which nobody finds this host");
        }
        sanity
    }

    fn ethertypes(&mut self, written: Option<&Spanned<Vec<Spanned<u16>>>>) -> Vec<u16> {
        let mut numbers = Vec::new();
        let Some(written) = written else { return numbers };
        for spanned in written.get_ref() {
            let number = *spanned.get_ref();
            if is_ip(number) || is_vlan(number) {
                self.add(spanned, format!("frames of {number:#06x} are judged by the packet in them"));
            } else if number != LENGTH && number < ethertype::FIRST {
                self.add(spanned, format!("{number} is a length and no EtherType; 0 stands for all of them"));
            } else if numbers.contains(&number) {
                self.add(spanned, format!("{number:#06x} is named twice"));
            }
            numbers.push(number);
        }
        if numbers.len() > MAX_ETHERTYPES {
            self.add(written, format!("more than {MAX_ETHERTYPES}"));
        }
        numbers
    }

    fn budget(&mut self, rate: Option<&Spanned<PacketRate>>, default: PacketLimit) -> PacketLimit {
        let limit = copy(rate).map_or(default, PacketLimit::of_rate);
        self.limit(limit.check(), rate, None::<&Spanned<Packets>>);
        limit
    }

    fn sources(&mut self, written: &SourcesFile, default: Sources) -> Sources {
        let SourcesFile { table, ipv6_prefix, ipv4_network, ipv6_network, nat64, reflectors, reflectors_off } =
            written;
        if let Some(size) = table
            && !(TABLE.contains(size.get_ref()) && size.get_ref().is_power_of_two())
        {
            let (least, greatest) = TABLE.into_inner();
            let near = size.get_ref().clamp(&least, &greatest).next_power_of_two();
            self.add(
                size,
                format!("{size} is not a power of two from {least} to {greatest}: write for example {near}"),
            );
        }
        let lengths =
            [(ipv6_prefix, IPV6_PREFIX), (ipv4_network, IPV4_NETWORK), (ipv6_network, IPV6_NETWORK)];
        for (length, bounds) in lengths {
            if let Some(length) = length
                && !bounds.contains(length.get_ref())
            {
                let (least, greatest) = bounds.into_inner();
                self.add(length, format!("{length} is not a prefix length from {least} to {greatest}"));
            }
        }
        let nat64 = nat64.as_ref().map_or(default.nat64, |prefixes| self.translators(prefixes));
        let reflectors = reflectors.as_ref().map_or(default.reflectors, |ports| ports.get_ref().clone());
        let reflectors_off = reflectors_off.as_ref().map_or(default.reflectors_off, |known| {
            known.get_ref().iter().filter_map(|known| self.known_reflector(known, &reflectors)).collect()
        });
        Sources {
            table: copy(table.as_ref()).unwrap_or(default.table),
            ipv6_prefix: copy(ipv6_prefix.as_ref()).unwrap_or(default.ipv6_prefix),
            ipv4_network: copy(ipv4_network.as_ref()).unwrap_or(default.ipv4_network),
            ipv6_network: copy(ipv6_network.as_ref()).unwrap_or(default.ipv6_network),
            nat64,
            reflectors,
            reflectors_off,
        }
    }

    /// Prefixes of translators.
    fn translators(&mut self, written: &Spanned<Vec<Spanned<String>>>) -> Vec<Ipv6Net> {
        const MOST: usize = TRANSLATORS - 1;
        if written.get_ref().len() > MOST {
            self.add(written, format!("{} prefixes: {MOST} can be told apart", written.get_ref().len()));
        }
        let mut prefixes = Vec::new();
        for text in written.get_ref() {
            match text.get_ref().parse::<Ipv6Net>() {
                Ok(prefix) if prefix.prefix_len() == 96 && prefix.network() == prefix.addr() => {
                    prefixes.push(prefix);
                }
                _ => self.add(
                    text,
                    format!("`{}` is no IPv6 prefix of /96, as 2001:db8:64::/96 is", text.get_ref()),
                ),
            }
        }
        prefixes
    }

    /// The port of a known mirror, which must not be among those that are `added`.
    fn known_reflector(&mut self, written: &Spanned<PortOrName>, added: &[u16]) -> Option<u16> {
        let is_meant = |name: &str, port: u16| match written.get_ref() {
            PortOrName::Port(meant) => *meant == port,
            PortOrName::Name(meant) => meant == name,
        };
        let Some(known) = REFLECTORS.iter().find(|known| is_meant(known.name, known.port)) else {
            let names: Vec<_> = REFLECTORS.iter().map(|known| known.name).collect();
            self.add(
                written,
                format!(
                    "{} is no service that is known as a mirror; these are: {}",
                    written.get_ref(),
                    names.join(", ")
                ),
            );
            return None;
        };
        if added.contains(&known.port) {
            self.add(
                written,
                format!("{} is among `reflectors`, too: remove it from one of them", known.port),
            );
        }
        Some(known.port)
    }

    fn lists(&mut self, written: &ListsFile, default: ListRoom) -> ListRoom {
        let ListsFile { ipv4, ipv6 } = written;
        ListRoom {
            ipv4: self.within(ipv4.as_ref(), LISTED_IPV4, default.ipv4),
            ipv6: self.within(ipv6.as_ref(), LISTED_IPV6, default.ipv6),
        }
    }

    fn within(&mut self, written: Option<&Spanned<u32>>, bounds: RangeInclusive<u32>, default: u32) -> u32 {
        let Some(number) = written else { return default };
        if !bounds.contains(number.get_ref()) {
            let (least, greatest) = bounds.into_inner();
            self.add(number, format!("{number} is not a number from {least} to {greatest}"));
        }
        *number.get_ref()
    }

    fn list(
        &mut self,
        entries: Option<Spanned<Vec<Spanned<String>>>>,
        files: Option<Spanned<Vec<PathBuf>>>,
        folder: &Path,
    ) -> ListInput {
        let mut prefixes: Vec<IpNet> = Vec::new();
        for entry in value_or(entries, Vec::new()) {
            match parse_target(entry.get_ref()) {
                Ok(target) => prefixes.extend(target),
                Err(error) => self.add(&entry, error),
            }
        }
        // Joining an absolute path replaces the folder.
        let files = value_or(files, Vec::new()).iter().map(|file| folder.join(file)).collect();
        ListInput { entries: prefixes, files, ..ListInput::default() }
    }

    /// Resolves the feeds of a list; `names` are those of all feeds so far.
    fn feeds(
        &mut self,
        written: Vec<Spanned<FeedFile>>,
        folder: &Path,
        names: &mut BTreeSet<FeedName>,
    ) -> Vec<Feed> {
        let mut feeds = Vec::new();
        for written in written {
            // A section has no bytes of its own but its header, where what is missing is reported.
            let header = Spanned::new(written.span(), ());
            let FeedFile { name, path, url, every, may_shrink, may_grow, may_cover_host, max_coverage } =
                written.into_inner();
            let name = self.feed_name(&header, name, names);
            let source = self.feed_source(&header, path, url, folder);
            let every = self.feed_every(every);
            let max_coverage = self.coverage(max_coverage);
            if let (Some(name), Some(source)) = (name, source) {
                feeds.push(Feed {
                    name,
                    source,
                    every,
                    may_shrink: value_or(may_shrink, false),
                    may_grow: value_or(may_grow, false),
                    may_cover_host: value_or(may_cover_host, false),
                    max_coverage,
                });
            }
        }
        feeds
    }

    /// A share of all addresses.
    fn coverage(&mut self, written: Option<Spanned<String>>) -> Coverage {
        let Some(written) = written else { return Coverage::default() };
        let percent = written.get_ref().strip_suffix('%').and_then(|number| number.trim().parse().ok());
        match percent {
            Some(percent @ 1..=100) => return Coverage { ipv4: percent, ipv6: percent },
            _ => {
                self.add(&written, format!("{:?} is not a share from \"1%\" to \"100%\"", written.get_ref()));
            }
        }
        Coverage::default()
    }

    fn feed_name(
        &mut self,
        header: &Spanned<()>,
        written: Option<Spanned<String>>,
        names: &mut BTreeSet<FeedName>,
    ) -> Option<FeedName> {
        let Some(written) = written else {
            self.add(header, "a feed needs a `name`");
            return None;
        };
        match written.get_ref().parse::<FeedName>() {
            Ok(name) if !names.insert(name.clone()) => {
                self.add(&written, format!("another feed is called {name}, too"));
                None
            }
            Ok(name) if names.len() > MAX_FEEDS => {
                self.add(&written, format!("{name} is one more than {MAX_FEEDS} feeds"));
                None
            }
            Ok(name) => Some(name),
            Err(error) => {
                self.add(&written, error);
                None
            }
        }
    }

    fn feed_source(
        &mut self,
        header: &Spanned<()>,
        path: Option<Spanned<PathBuf>>,
        url: Option<Spanned<String>>,
        folder: &Path,
    ) -> Option<FeedSource> {
        match (path, url) {
            (Some(path), None) => Some(FeedSource::Path(folder.join(path.into_inner()))),
            (None, Some(url)) => match url.get_ref().parse::<FeedUrl>() {
                Ok(url) => Some(FeedSource::Url(url)),
                Err(error) => {
                    self.add(&url, error);
                    None
                }
            },
            (Some(_), Some(url)) => {
                self.add(&url, "a feed has a `path` or a `url`, not both");
                None
            }
            (None, None) => {
                self.add(header, "a feed needs a `path` or a `url`");
                None
            }
        }
    }

    fn feed_every(&mut self, written: Option<Spanned<String>>) -> Duration {
        let Some(written) = written else { return FEED_EVERY_DEFAULT };
        match parse_duration(written.get_ref()) {
            Ok(every) if FEED_EVERY.contains(&every) => return every,
            Ok(_) => {
                self.add(&written, format!("{:?} is not from 1m to 30d", written.get_ref()));
            }
            Err(error) => self.add(&written, error),
        }
        FEED_EVERY_DEFAULT
    }
}
