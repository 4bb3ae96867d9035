//! The configuration as it is written: every section and key, each with its documentation.
//!
//! The documentation of a key is its doc comment; its default and what it accepts stand beside it. From this
//! one text come the types that serde fills, the list of expected keys in error messages, and
//! `docs/configuration.md`. Nothing is checked here beyond types: a value keeps its place in the file
//! ([`Spanned`]) for `validate`.

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use flood_common::{class::Class, reason::Reason, sanity::CHECKS};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use toml::Spanned;
use toml::de::DeValue;

use super::unknown::{self, Known};
use super::validate::Fault;
use crate::quantity::{BitRate, Bits, OrOff, PacketRate, Packets};

/// Whether attack packets are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Drop them.
    Enforce,
    /// Pass them, and count what would have been dropped.
    Monitor,
}

/// Where in the receive path the filter is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachMode {
    /// In the network driver.
    Native,
    /// In the network stack: works with every driver, and is several times slower.
    Generic,
    /// In the driver, or where it cannot do that in the network stack.
    NativeOrGeneric,
}

/// How SYNs over a limit prove their origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SynProof {
    /// By a cookie where that is possible, or else by a retransmission.
    Auto,
    /// By bringing back a SYN cookie.
    Cookie,
    /// By coming again.
    Retransmission,
    /// Not at all.
    Off,
}

/// Whether the kernel's `net.ipv4.tcp_syncookies` may be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SyncookieControl {
    /// It is left alone.
    Keep,
    /// It is 2 while SYNs exceed a limit.
    Raise,
}

/// Whether the sockets of this host tell what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostSays {
    /// They do, unless the host translates or forwards packets.
    Auto,
    /// They do.
    Yes,
    /// They do not.
    No,
}

impl Serialize for HostSays {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Yes => serializer.serialize_bool(true),
            Self::No => serializer.serialize_bool(false),
        }
    }
}

impl<'de> Deserialize<'de> for HostSays {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// What is written.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Known(bool),
            Word(String),
        }

        match Written::deserialize(deserializer) {
            Ok(Written::Known(true)) => Ok(Self::Yes),
            Ok(Written::Known(false)) => Ok(Self::No),
            Ok(Written::Word(word)) if word == "auto" => Ok(Self::Auto),
            Ok(Written::Word(_)) | Err(_) => Err(D::Error::custom("invalid value")),
        }
    }
}

/// By what is told whether UDP from the port of a mirror was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SolicitedBy {
    /// By what the host was seen to ask where that can be had, and by its sockets.
    Auto,
    /// By what the host was seen to ask alone.
    Egress,
    /// By its sockets alone.
    Socket,
    /// By nothing.
    Off,
}

/// A section of the file, for the reference.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name in brackets, empty for the top of the file.
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) keys: &'static [Key],
}

impl ScopeLimitFile {
    /// The sections of its classes.
    pub(super) fn classes(&self) -> [(Class, &ClassLimitFile); 11] {
        [
            (Class::Syn, &self.syn),
            (Class::SynAck, &self.synack),
            (Class::RstFin, &self.rst_fin),
            (Class::Tcp, &self.tcp),
            (Class::Udp, &self.udp),
            (Class::Amplification, &self.amplification),
            (Class::Closed, &self.closed),
            (Class::Icmp, &self.icmp),
            (Class::IcmpError, &self.icmp_error),
            (Class::Fragment, &self.fragment),
            (Class::Other, &self.other),
        ]
    }
}

impl SanityFile {
    /// The checks that are written, by their reasons.
    pub(super) fn checks(&self) -> [(Reason, Option<&Spanned<bool>>); CHECKS.len()] {
        [
            (Reason::Land, self.land.as_ref()),
            (Reason::LoopbackSource, self.loopback_source.as_ref()),
            (Reason::MulticastSource, self.multicast_source.as_ref()),
            (Reason::ReservedSource, self.reserved_source.as_ref()),
            (Reason::BogonSource, self.bogon_source.as_ref()),
            (Reason::TcpNoFlags, self.tcp_no_flags.as_ref()),
            (Reason::TcpImpossibleFlags, self.tcp_impossible_flags.as_ref()),
            (Reason::ZeroPort, self.zero_port.as_ref()),
            (Reason::TinyFragment, self.tiny_fragment.as_ref()),
            (Reason::FragmentOffset, self.fragment_offset.as_ref()),
            (Reason::FragmentOverlap, self.fragment_overlap.as_ref()),
        ]
    }
}

impl Section {
    /// Whether it describes the section at this path. A part of its name in capitals stands for any.
    pub(super) fn is_at(&self, path: &str) -> bool {
        let stands_for_any = |part: &str| part.starts_with(|first: char| first.is_ascii_uppercase());
        self.name.split('.').count() == path.split('.').count()
            && self
                .name
                .split('.')
                .zip(path.split('.'))
                .all(|(name, part)| stands_for_any(name) || name == part)
    }

    /// Whether its name is that of one section, rather than a pattern.
    pub(super) fn is_one(&self) -> bool {
        self.name == self.name.to_ascii_lowercase()
    }
}

/// A known service, as it is named.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum PortOrName {
    /// By its port.
    Port(u16),
    /// By its name.
    Name(String),
}

impl fmt::Display for PortOrName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(f, "{port}"),
            Self::Name(name) => write!(f, "{name:?}"),
        }
    }
}

/// A key of a section, for the reference.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) default: DefaultValue,
    pub(super) accepts: &'static str,
}

/// What holds when a key is not written.
#[derive(Debug)]
pub(super) enum DefaultValue {
    /// The same as if this were written.
    Written(&'static str),
    /// What these words say; no value can be written that means it.
    Unset(&'static str),
}

/// All sections, in the order of the file.
pub(super) fn sections() -> Vec<Section> {
    let mut sections = Vec::new();
    ConfigFile::describe(&mut sections);
    // A kind of section that occurs in many places is described once.
    let mut names = HashSet::new();
    sections.retain(|section| names.insert(section.name));
    sections
}

/// What the key with this path accepts, or `None` when there is no such key.
pub(super) fn accepts(path: &str) -> Option<&'static str> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let section = sections().into_iter().find(|candidate| candidate.is_at(section))?;
    section.keys.iter().find_map(|key| (key.name == name).then_some(key.accepts))
}

/// What the reference says about a section.
trait Describe {
    /// Appends this section and those within, in the order of the file.
    fn describe(sections: &mut Vec<Section>);
}

/// A section that may occur any number of times.
impl<T: Describe> Describe for Vec<Spanned<T>> {
    fn describe(sections: &mut Vec<Section>) {
        T::describe(sections);
    }
}

/// Declares a section: a struct for serde, in which everything may be missing, and its description.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+
        $name:ident at $path:literal {
            $(
                $(#[doc = $key_doc:literal])+
                $key:ident: $type:ty, $how:ident $default:tt, accepts $accepts:literal;
            )*
        }
        $( contains { $( $sub:ident: $sub_type:ty ),* } )?
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, expecting = "a section with its keys")]
        pub struct $name {
            $(
                $(#[doc = $key_doc])+
                pub $key: Option<Spanned<$type>>,
            )*
            $($(
                #[doc = concat!("The section `", stringify!($sub), "`.")]
                pub $sub: $sub_type,
            )*)?
        }

        impl Known for $name {
            fn take_unknown(value: &mut DeValue<'_>, faults: &mut Vec<Fault>) {
                const NAMES: &[&str] = &[$(stringify!($key),)* $($(stringify!($sub)),*)?];
                let DeValue::Table(table) = value else { return };
                unknown::take(table, NAMES, faults);
                for (key, value) in table.iter_mut() {
                    match key.get_ref().as_ref() {
                        $($(stringify!($sub) => <$sub_type>::take_unknown(value.get_mut(), faults),)*)?
                        _ => _ = value,
                    }
                }
            }
        }

        impl Describe for $name {
            fn describe(sections: &mut Vec<Section>) {
                const KEYS: &[Key] = &[$(Key {
                    name: stringify!($key),
                    doc: &[$($key_doc),+],
                    default: section!(@$how $default),
                    accepts: $accepts,
                }),*];
                if !KEYS.is_empty() {
                    sections.push(Section { name: $path, doc: &[$($doc),+], keys: KEYS });
                }
                $($( <$sub_type>::describe(sections); )*)?
            }
        }
    };
    (@default $value:tt) => { DefaultValue::Written(stringify!($value)) };
    (@unset $words:literal) => { DefaultValue::Unset($words) };
}

section! {
    /// What is filtered, and how.
    ConfigFile at "" {
        /// Interfaces to filter on, by name or alternative name. May be empty when they are given on the command line. One
        /// that is not there is waited for, while the others are guarded. If none of those on the
        /// command line exists, `run` refuses. A renamed interface stays guarded; once it is gone, the next one with the
        /// configured name is guarded.
        interfaces: Vec<Spanned<String>>, default [], accepts "names of interfaces, each once";
        /// `enforce` drops attack packets. `monitor` passes everything, computes the same verdicts and counts
        /// what would have been dropped.
        mode: Mode, default "enforce", accepts "`\"enforce\"` or `\"monitor\"`";
        /// Where the filter is attached: `native` in the network driver, `generic` in the network stack
        /// (works with every driver, several times slower). `native-or-generic` takes what the driver can do.
        attach: AttachMode, default "native",
            accepts "`\"native\"`, `\"generic\"` or `\"native-or-generic\"`";
        /// The folder of what is kept over a restart: the last good copy of each feed, and what was changed on the host and
        /// has to be put back. It is made when it is needed.
        /// It must be root's (or that of who runs `floodgate`), and nobody else may be able to write to it or to a folder above
        /// it, unless that is sticky as `/tmp` is.
        state: PathBuf, default "/var/lib/floodgate", accepts "an absolute path";
    }
    contains {
        control: ControlFile,
        limit: LimitFile,
        proof: ProofFile,
        sanity: SanityFile,
        sources: SourcesFile,
        lists: ListsFile,
        block: BlockFile,
        allow: AllowFile,
        allow_proven: AllowProvenFile
    }
}

section! {
    /// How the daemon is talked to.
    ControlFile at "control" {
        /// The unix socket of the control interface, for `floodgate status` and all other verbs.
        socket: PathBuf, default "/run/floodgate/floodgate.sock",
            accepts "an absolute path of at most 107 bytes";
        /// Serve `/metrics` (Prometheus) at this TCP address too. There is no login, so it must not be
        /// reachable from outside.
        metrics: SocketAddr, unset "not served over TCP",
            accepts "a loopback address with a port, as `\"127.0.0.1:9750\"`";
    }
}

section! {
    /// Limits: what may come before packets are dropped.
    LimitFile at "limit" {}
    contains {
        source: ScopeLimitFile,
        source_prefix: ScopeLimitFile,
        destination: ScopeLimitFile,
        destination_prefix: ScopeLimitFile,
        total: ScopeLimitFile,
        protected: ProtectedLimitFile
    }
}

section! {
    /// A limit on all packets together, in a scope: `[limit.source]` for each source, `[limit.source_prefix]` for each
    /// network of sources, `[limit.destination]` and `[limit.destination_prefix]` for each address and network that is
    /// sent to, `[limit.total]` for all that the host receives. What exceeds a narrow scope is not charged to a wider
    /// one. A limit that is not set costs nothing. All of them can be changed at run time by `floodgate limit set`.
    ///
    /// Without a word in the file, one source may send 20,000 packets a second, 1,000 of them to open connections and 500 of
    /// ICMP, with bursts of two seconds (those of the totals below are half a second): several times what a network of a
    /// thousand people behind one address needs. All sources together may send 10,000 SYNs a second; those over that have to
    /// prove their origin (`[proof]`). UDP from the ports of mirrors that was not asked for (`amplification`) may come with
    /// 1,000 packets a second from a source, 2,000 from its network, and 5,000 in all: eight times what a player sends who has
    /// such a port by chance, and no more than 60 Mbit/s of an attack on a port where a service listens.
    ///
    /// Where this host's sockets tell what is wanted (`proof.host`), there are totals of what belongs to no connection and to no
    /// service: 15,000 packets a second of `tcp`, 5,000 of `rst_fin`, 2,000 of `synack`, and 1,000 each of `closed`, `icmp`,
    /// `icmp_error`, `fragment` and `other`, with bursts of half a second. Whatever is of a connection, was asked for, or is of a
    /// tunnel of this host passes over them. UDP to an open port has no total by default, since only you know what your
    /// services can take. If you set one, a flood takes all of it; so beside it each port of this host gets an eighth of it, as
    /// long as no more than eight of them are flooded.
    ScopeLimitFile at "limit.SCOPE" {
        /// Packets per second.
        packets: OrOff<PacketRate>, unset "`\"20k/s\"` for `source`, off elsewhere", accepts "`1/s` to `100M/s`, or `\"off\"`";
        /// Packets that may come at once after a silence.
        packets_burst: Packets, unset "two seconds at the rate of `packets`",
            accepts "40 ms to 60 s at the rate of `packets`";
        /// Bits per second on the wire.
        bits: OrOff<BitRate>, unset "off", accepts "`8kbit/s` to `1000Gbit/s`, or `\"off\"`";
        /// Bits that may come at once after a silence.
        bits_burst: Bits, unset "one second at the rate of `bits`, and at least one jumbo frame",
            accepts "40 ms to 60 s at the rate of `bits`, at least a jumbo frame (`73920bit`)";
    }
    contains {
        syn: ClassLimitFile,
        synack: ClassLimitFile,
        rst_fin: ClassLimitFile,
        tcp: ClassLimitFile,
        udp: ClassLimitFile,
        amplification: ClassLimitFile,
        closed: ClassLimitFile,
        icmp: ClassLimitFile,
        icmp_error: ClassLimitFile,
        fragment: ClassLimitFile,
        other: ClassLimitFile
    }
}

section! {
    /// A limit on one class of packets in a scope, as `[limit.source.syn]`; it holds besides that of all packets. The
    /// classes are `syn`, `synack`, `rst_fin` and `tcp` (any other TCP), `udp`, `amplification` (UDP from the port of a
    /// service that attackers use as a mirror, unless it was asked for), `closed` (UDP to a port of this host on which nobody
    /// listens), `icmp` (both versions) and `icmp_error` (about packets that were not delivered), `fragment` (parts of a
    /// datagram whose first is not known; the first has the class of what it carries), and `other`. Where a class of TCP has
    /// no limit of its own, that of `tcp` holds for it; that of `udp` for `amplification`, and for `closed` in the scopes of
    /// sources; that of `icmp` for `icmp_error`. Where it has a default, the stricter of the two holds.
    ClassLimitFile at "limit.SCOPE.CLASS" {
        /// Packets per second.
        packets: OrOff<PacketRate>, unset "as above and in the file of defaults below; off elsewhere",
            accepts "`1/s` to `100M/s`, or `\"off\"`";
        /// Packets that may come at once after a silence.
        packets_burst: Packets, unset "two seconds at the rate of `packets`",
            accepts "40 ms to 60 s at the rate of `packets`";
        /// Bits per second on the wire.
        bits: OrOff<BitRate>, unset "off", accepts "`8kbit/s` to `1000Gbit/s`, or `\"off\"`";
        /// Bits that may come at once after a silence.
        bits_burst: Bits, unset "one second at the rate of `bits`, and at least one jumbo frame",
            accepts "40 ms to 60 s at the rate of `bits`, at least a jumbo frame (`73920bit`)";
    }
}

section! {
    /// A host falls off the network without these messages, so they have budgets of their own, which no limit touches: so
    /// many of a kind in all, and an eighth of that from each source. The burst is two seconds at the rate. Neighbour discovery
    /// from the link passes before the lists are looked at; of the others what is blocked does not pass.
    ProtectedLimitFile at "limit.protected" {
        /// Neighbour discovery: router and neighbour solicitations, advertisements and redirects.
        neighbour_discovery: PacketRate, default "1k/s", accepts "`1/s` to `100M/s`";
        /// Packet Too Big messages, from which the path MTU is learnt. One about a connection of this host passes beyond that.
        path_mtu: PacketRate, default "1k/s", accepts "`1/s` to `100M/s`";
        /// What is sent to all hosts of the link and which no router forwards (224.0.0.0/24, ff02::/16): VRRP, OSPF, IGMP,
        /// mDNS and others.
        link: PacketRate, default "1k/s", accepts "`1/s` to `100M/s`";
    }
}

section! {
    /// What may pass over a limit. A packet that exceeds one is looked at once more before it is dropped: TCP that fits a
    /// connection of this host passes, and UDP to a socket that is connected to the sender, and ICMP errors about what the host
    /// has sent; SYNs are dealt with as `syn` says. So a flood from spoofed addresses fills a limit and does not keep real
    /// clients out, also when it comes from the address of one of them. What passes so has budgets of its own, for each peer,
    /// which nothing else is charged to. Below the limits, none of this happens, and nothing is dropped that the limit alone
    /// would have passed. Answers are another matter: whether they were asked for (`solicited`) is looked at before the limits.
    ProofFile at "proof" {
        /// What becomes of a SYN over a limit. `cookie`: the filter answers it with a SYN cookie of the listener,
        /// and the client's next packet passes when it brings that back; the network stack sees nothing of a flood. Such a
        /// connection has no window scale, SACK or timestamps. `retransmission`: the first is dropped, and the second of
        /// the same client, one to four seconds later, passes; so it is with `cookie`, too, where the listener can make none:
        /// for an address that is not this host's, and where ports are translated. `auto`: cookies, or retransmission where
        /// there are none: where the host is not the one that is guarded (`host`), where `net.ipv4.tcp_syncookies` is 0, and on
        /// the native path of a veth, which loses what it sends by itself unless its peer has an XDP program too. Neither
        /// makes cookies where the client would not get in with one: where the host's firewall looks at the flags or options of
        /// TCP and asks connection tracking, or asks that and `nf_conntrack_tcp_loose` is 0, or notes in a set who has sent a
        /// SYN, or the old iptables has rules; and where the card takes VLAN tags off.
        /// `floodgate status` says which, and why.
        syn: SynProof, default "auto", accepts "`\"auto\"`, `\"cookie\"`, `\"retransmission\"` or `\"off\"`";
        /// Whether the sockets of this host tell what is wanted. `auto`: a socket always speaks for its packets; that there is
        /// none speaks against a packet only if it is for an address of this host, and this host neither translates addresses
        /// or ports (nftables, iptables, IPVS, tc) nor forwards. `true`: it does even so. `false`: sockets are not asked, as on a
        /// router, or where those that matter are bound to another interface than the guarded one, a VLAN, PPPoE or bridge on it.
        host: HostSays, default "auto", accepts "`\"auto\"`, `true` or `false`";
        /// Packets a second that each peer may send over the limits: those of TCP connections of this host, and as many again
        /// of tunnels and of connections of hosts behind this one; and what may come in each session that this host has begun.
        proven: PacketRate, default "1M/s", accepts "`1/s` to `100M/s`";
        /// How many SYN-ACKs the filter sends to one address in a second at once; to all of a network together, four times as
        /// many. So it is no mirror for whoever spoofs an address: SYNs over that are answered when they come again.
        answers: PacketRate, default "20k/s", accepts "`1/s` to `100M/s`";
        /// How many SYNs that came again may pass in a second, all together; an eighth of them from one source.
        retransmissions: PacketRate, default "20k/s", accepts "`1/s` to `100M/s`";
        /// `raise` sets `net.ipv4.tcp_syncookies` to 2 while SYNs exceed a limit, and puts it back a minute after. The previous
        /// value is saved in `state` first; if floodgate is killed, the next start restores it.
        /// With `keep`, cookies are made for a listener from when its queue is full; until then, SYNs over the limit pass,
        /// 5,000 a second for each listener at most.
        syncookies: SyncookieControl, default "keep", accepts "`\"keep\"` or `\"raise\"`";
        /// By what is told whether UDP from the port of a mirror (see `sources.reflectors`) was asked for. What was passes before
        /// the limits: eight packets for each question, and a session within `proof.proven`. What was not is dropped, if no
        /// socket is open on the port that it is sent to, and has the limits of `amplification` otherwise.
        ///
        /// `auto`: a small program on the way out of each interface notes for 10 seconds (DNS), 16 seconds (other services
        /// that answer a question) or a minute (QUIC, VPNs and others with sessions) whom the host asks; what it sends renews
        /// the note. A connected socket counts as having asked, too. Where the program cannot be attached, the sockets alone
        /// tell. `egress` insists on the program, and drops nothing as `unsolicited`. `socket` does without the program. `off`
        /// does without both, so that only the limits of `amplification` hold. `floodgate status` shows what is in force.
        solicited: SolicitedBy, default "auto", accepts "`\"auto\"`, `\"egress\"`, `\"socket\"` or `\"off\"`";
    }
}

section! {
    /// What no packet on a wire should be. Each check is named like the reason under which it drops, and can be switched
    /// off. They are made before the limits and after the allow list, and cost a packet that passes them next to nothing.
    /// Neighbour discovery and path-MTU messages (`[limit.protected]`) pass without them. A frame with a broken header or with
    /// wrong lengths is dropped in any case.
    SanityFile at "sanity" {
        /// The source is the destination. What a host sends to itself does not leave it, so the source is invented
        /// (RFC 2827); hosts have answered such packets to themselves without end (CERT CA-1997-28, "LAND").
        land: bool, default true, accepts "`true` or `false`";
        /// The source is in 127.0.0.0/8, or is ::1. They must not appear outside of a host (RFC 1122 section 3.2.1.3,
        /// RFC 4291 section 2.5.3). Switch it off, and `land`, where the interface
        /// `lo` is guarded (`floodgate run --force lo`).
        loopback_source: bool, default true, accepts "`true` or `false`";
        /// The source is in 224.0.0.0/4 or ff00::/8, or is 255.255.255.255. Neither a multicast nor a broadcast address
        /// may be a source (RFC 1122 section 3.2.1.3, RFC 1112 section 7.2, RFC 4291 section 2.7).
        multicast_source: bool, default true, accepts "`true` or `false`";
        /// The source is in 0.0.0.0/8 (RFC 1122 section 3.2.1.3) or 240.0.0.0/4 (RFC 1112 section 4), or it is :: or has an
        /// IPv4 address in it, ::/96 or ::ffff:0:0/96 (RFC 4291 section 2.5, RFC 6890). Who has no address yet may use
        /// 0.0.0.0 for DHCP and BOOTP, to port 67 (RFC 2131 section 4.1, RFC 951), for IGMP (RFC 3376 section 4.2.13), and for
        /// whatever is no TCP and goes to a multicast address or to 255.255.255.255, as router solicitations (RFC 1256) and
        /// the protocols of clusters do; and :: for ICMPv6 (RFC 4861 section 4, RFC 3590).
        reserved_source: bool, default true, accepts "`true` or `false`";
        /// The source is one that no network on the Internet has: private (10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, RFC
        /// 1918), behind a provider's translator (100.64.0.0/10, RFC 6598), link-local (169.254.0.0/16, RFC 3927), for
        /// protocols (192.0.0.0/24, RFC 6890), for documents (192.0.2.0/24, 198.51.100.0/24, 203.0.113.0/24, RFC 5737) or
        /// for benchmarks (198.18.0.0/15, RFC 2544). In IPv6 it is outside of 2000::/3 (RFC 4291 section 2.4, fc00::/7 by RFC
        /// 4193), or for documents (2001:db8::/32, RFC 3849; 3fff::/20, RFC 9637) or benchmarks (2001:2::/48, RFC 5180).
        /// Neighbours on the link (fe80::/10) pass, and what a translator makes (64:ff9b::/96, RFC 6052; 64:ff9b:1::/48,
        /// RFC 8215). Off by default: behind a load balancer, a translator or a VPN such sources are the visitors.
        bogon_source: bool, default false, accepts "`true` or `false`";
        /// TCP without any of FIN, SYN, RST, PSH, ACK and URG. What neither opens nor breaks off a connection has ACK set
        /// (RFC 9293 section 3.1), and no state takes it without (section 3.10.7).
        tcp_no_flags: bool, default true, accepts "`true` or `false`";
        /// TCP with two or three of SYN, FIN and RST, or without ACK where it has neither SYN nor RST. No state knows what
        /// to do with these (RFC 9293 section 3.10.7). T/TCP had SYN with FIN, and is historic (RFC 6247).
        tcp_impossible_flags: bool, default true, accepts "`true` or `false`";
        /// TCP from or to port 0, or UDP to port 0, which is reserved (RFC 6335 section 6). UDP from port 0 passes: it wants
        /// no answer (RFC 768).
        zero_port: bool, default true, accepts "`true` or `false`";
        /// A first fragment that does not hold the header of TCP or UDP, so that its ports or flags would be in the next (RFC
        /// 1858 section 3, RFC 3128). No link is so narrow that it has to be. In IPv6 all headers are in the first (RFC 7112).
        tiny_fragment: bool, default true, accepts "`true` or `false`";
        /// A fragment that ends beyond the longest packet there is, 65,535 bytes, or that is not the last and whose length is
        /// no multiple of eight. No datagram has such a fragment (RFC 791 section 3.1), and a host has to discard it (RFC 8200
        /// section 4.5).
        fragment_offset: bool, default true, accepts "`true` or `false`";
        /// A later fragment of TCP at offset 8, which would write over the flags in the first (RFC 1858 section 4, RFC 3128;
        /// in IPv6 no fragment may overlap another, RFC 5722).
        fragment_overlap: bool, default true, accepts "`true` or `false`";
        /// IP protocols that are not wanted here, as 47 (GRE), 132 (SCTP) or 4 (IPIP); in IPv6, the one behind the
        /// extension headers. The numbers are those of IANA (`/etc/protocols`). Their packets are dropped as
        /// `refused_protocol`.
        refuse_protocols: Vec<Spanned<u8>>, default [], accepts "numbers from `0` to `255`, each once";
        /// EtherTypes of frames that are not IP and not wanted here, as 0x8847 (MPLS) or 0x8863 (PPPoE discovery); 0 stands
        /// for frames with a length in its place (802.3, as those of spanning tree). They are dropped as `refused_ethertype`.
        /// ARP (0x0806) cannot be refused. What is in VLAN tags (0x8100, 0x88a8, 0x9100, 0x9200, 0x9300) goes by the
        /// EtherType in them, and IP in PPPoE (0x8864) or LLC/SNAP is judged as any other, so 0x8864 refuses the rest.
        refuse_ethertypes: Vec<Spanned<u16>>, default [],
            accepts "up to 16 numbers, `0` or from `0x0600` on, each once; not along with `accept_ethertypes`";
        /// The only EtherTypes of frames that are not IP, besides ARP; all others are dropped as `refused_ethertype`. Against a
        /// flood of made-up EtherTypes. Think of what your network needs: 0 (spanning tree), 0x8809 (LACP), 0x888e (802.1X),
        /// 0x88cc (LLDP), 0x8863 and 0x8864 (PPPoE). Empty accepts all.
        accept_ethertypes: Vec<Spanned<u16>>, default [],
            accepts "up to 16 numbers, `0` or from `0x0600` on, each once; not along with `refuse_ethertypes`";
    }
}

section! {
    /// The memory of sources and destinations. Its size is fixed, however many there are.
    SourcesFile at "sources" {
        /// How many sources can be in debt at once, for each address family, and as many destinations. A source is in
        /// debt for as long as it has sent more than its rate allows so far; one that exceeds limits on several classes
        /// counts for each. Eight of them take 64 bytes: the default is 16 MiB in all.
        table: u32, default 524288, accepts "a power of two from `32768` to `16777216`";
        /// The length of the prefix that counts as one IPv6 source, or destination. A host can choose any address in
        /// its /64.
        ipv6_prefix: u8, default 64, accepts "`48` to `64`";
        /// The length of the prefix that counts as one IPv4 network, for the scopes `source_prefix` and
        /// `destination_prefix`.
        ipv4_network: u8, default 24, accepts "`8` to `31`";
        /// The length of the prefix that counts as one IPv6 network.
        ipv6_network: u8, default 48, accepts "`16` to `63`";
        /// Prefixes behind which a translator (NAT64, SIIT-DC) shows the IPv4 addresses of those who come through it, beside the
        /// well-known `64:ff9b::/96` (RFC 6052). Each visitor behind it is a source of its own, by the IPv4 address in the IPv6
        /// one.
        nat64: Vec<Spanned<String>>, default [], accepts "up to 3 prefixes of `/96`, as `\"2001:db8:64::/96\"`";
        /// UDP ports of mirrors, besides those of the services that are [known](reflectors.md).
        reflectors: Vec<u16>, default [], accepts "port numbers";
        /// Known services that are no mirrors here, so that packets from their ports are like any other UDP. A public NTP
        /// server writes `["ntp"]`, as many clients ask it from port 123.
        reflectors_off: Vec<Spanned<PortOrName>>, default [], accepts "names or ports of known services, as `\"ntp\"` or `123`";
    }
}

section! {
    /// The memory of the lists. Its size is fixed, and both lists share it; what does not fit is refused as a whole.
    /// IPv4 prefixes up to /24 take none of it: for them there are always 12 MiB. Files, imports and feeds of the block list may
    /// take fourteen sixteenths of it, and those of the allow list fifteen, so that there is always room for what is typed and
    /// for the allow list.
    ListsFile at "lists" {
        /// IPv4 addresses that can be listed one by one. A prefix longer than /24 counts as all its addresses: a /25
        /// as 128, a /32 as one. Six of them take 64 bytes: the default is 16 MiB. Rounded up to 393216 times a
        /// power of two.
        ipv4: u32, default 1572864, accepts "`1` to `25165824`";
        /// IPv6 prefixes that can be listed, of any length. Four words are set aside for each, which is enough whatever
        /// the lengths are, as much again for when they end, and a sixteenth of both for their index: the default is 17 MiB.
        ipv6: u32, default 262144, accepts "`1` to `2097152`";
    }
}

section! {
    /// What is always dropped, unless it is allowed.
    BlockFile at "block" {
        /// Addresses, prefixes and ranges.
        entries: Vec<Spanned<String>>, default [],
            accepts "as `\"203.0.113.7\"`, `\"203.0.113.0/24\"`, `\"203.0.113.1-203.0.113.9\"`";
        /// Files with one such entry per line. Relative paths are relative to the folder of this file.
        files: Vec<PathBuf>, default [], accepts "paths";
        /// Whether `entries` and `files` may block what this host needs: its own addresses and networks, gateways, resolvers,
        /// the addresses from which people are logged in over SSH, fe80::/10, 0.0.0.0 and ::. By default these
        /// addresses are left out, and the rest of a prefix is blocked. A single address in a network of this host can be
        /// blocked all the same.
        may_cover_host: bool, default false, accepts "`true` or `false`";
        /// How much of all IPv4 addresses `entries` and `files` may cover together, and how much of the IPv6 addresses that
        /// registries give out. By default 25 % of IPv4 and 97 % of IPv6, which is enough for a list of all that nobody has been given.
        /// What covers more is refused: a slip of the finger must not shut off the Internet, or let all of it in.
        max_coverage: String, unset "25 % of IPv4, 97 % of IPv6", accepts "a share from `\"1%\"` to `\"100%\"`";
    }
    contains { feed: Vec<Spanned<FeedFile>> }
}

section! {
    /// A list that somebody else keeps, as `[[block.feed]]`, `[[allow.feed]]` or `[[allow_proven.feed]]`, as often as there are
    /// feeds. It is read at the start, then on a schedule, on `floodgate reload` (or SIGHUP) and on `floodgate feed refresh`.
    /// The formats are those of `floodgate block import` ([lists.md](lists.md)): in the simplest, an address, prefix or range first on
    /// each line, and remarks behind it.
    ///
    /// A line that cannot be read is left out and counted, and so is a prefix shorter than /3. What has
    /// more lines that cannot be read than entries is no list, and refused. After any error what the feed had last stays
    /// in force; a copy of it in the folder `state` is used at the start, so that a restart needs no network, and by
    /// `floodgate replay`.
    /// `floodgate feed list` shows how old it is and what is wrong. What several feeds have, or what is also in `entries` or
    /// `files` or was added by hand, stays on the list until all have lost it.
    FeedFile at "LIST.feed" {
        /// What it is called: in lists, messages, metrics, and for its copy. No two feeds have the same name.
        name: String, unset "none; it has to be written", accepts "up to 64 letters, digits, `-`, `_` and `.`";
        /// The file to read. A relative path is relative to the folder of this file.
        path: PathBuf, unset "none; either this or `url` has to be written", accepts "a path";
        /// The URL to fetch. Certificates are those that the system trusts. At most 64 MiB are read, in at most five
        /// minutes, by way of at most five redirects and none from `https` to `http`. What has not changed is not sent again, if
        /// the server knows ETag or Last-Modified. Proxies are taken from the environment.
        url: String, unset "none; either this or `path` has to be written", accepts "an `http` or `https` URL";
        /// How often it is read; a tenth less at random, so that hosts do not ask all at once. After an error it is
        /// tried again in a minute, then in two, four and so on, and at the latest in this time.
        every: String, default "1h", accepts "a time from `\"1m\"` to `\"30d\"`";
        /// Believe the feed when it has no entries at all, or less than a tenth of those that it had. Otherwise that is
        /// an error, for an empty answer of a broken server must not open the gate. `floodgate feed refresh --force`
        /// believes it once.
        may_shrink: bool, default false, accepts "`true` or `false`";
        /// Believe the feed when it has more than ten times the entries that it had, and over 10,000 more. Otherwise that is
        /// an error, which `floodgate feed refresh --force` overrides once.
        may_grow: bool, default false, accepts "`true` or `false`";
        /// Whether a feed of the block list may block what this host needs; as `block.may_cover_host`.
        may_cover_host: bool, default false, accepts "`true` or `false`";
        /// How much of all addresses it may cover; as `block.max_coverage`, but for this feed alone. A feed that covers more is
        /// not believed.
        max_coverage: String, unset "25 % of IPv4, 97 % of IPv6", accepts "a share from `\"1%\"` to `\"100%\"`";
    }
}

section! {
    /// What is never dropped. Allow wins over block.
    AllowFile at "allow" {
        /// Addresses, prefixes and ranges.
        entries: Vec<Spanned<String>>, default [], accepts "as for `block.entries`";
        /// Files with one such entry per line. Relative paths are relative to the folder of this file.
        files: Vec<PathBuf>, default [], accepts "paths";
        /// As `block.max_coverage`.
        max_coverage: String, unset "25 % of IPv4, 97 % of IPv6", accepts "a share from `\"1%\"` to `\"100%\"`";
    }
    contains { feed: Vec<Spanned<FeedFile>> }
}

section! {
    /// What passes over the limits when it gives evidence of its origin (see `[proof]`): segments that fit an established
    /// connection or bring a right cookie, datagrams to a connected socket, packets of a session that this host keeps up.
    /// Everybody's may do so within `proof.proven`; these sources' do without end, and count as `allowed`, or as `solicited` if
    /// it is a session. Whatever else comes from these addresses is limited as it is from everybody, so that nobody gains by
    /// spoofing them, which is what `[allow]` would open. For a CDN, a monitoring service, a resolver. At most 65,536 prefixes.
    /// The block list wins over it. With `proof.host = false` only sessions are evidence.
    AllowProvenFile at "allow_proven" {
        /// Addresses, prefixes and ranges.
        entries: Vec<Spanned<String>>, default [], accepts "as for `block.entries`";
        /// Files with one such entry per line. Relative paths are relative to the folder of this file.
        files: Vec<PathBuf>, default [], accepts "paths";
        /// As `block.max_coverage`.
        max_coverage: String, unset "25 % of IPv4, 97 % of IPv6", accepts "a share from `\"1%\"` to `\"100%\"`";
    }
    contains { feed: Vec<Spanned<FeedFile>> }
}
