//! The configuration as it is written: every section and key, each with its documentation.
//!
//! The documentation of a key is its doc comment; its default and what it accepts stand beside it. From this
//! one text come the types that serde fills, the list of expected keys in error messages, and
//! `docs/configuration.md`. Nothing is checked here beyond types: a value keeps its place in the file
//! ([`Spanned`]) for `validate`.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

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

/// A section of the file, for the reference.
#[derive(Debug)]
pub(super) struct Section {
    /// Its name in brackets, empty for the top of the file.
    pub(super) name: &'static str,
    pub(super) doc: &'static [&'static str],
    pub(super) keys: &'static [Key],
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
    sections
}

/// What the key with this path accepts, or `None` when there is no such key.
pub(super) fn accepts(path: &str) -> Option<&'static str> {
    let (section, name) = path.rsplit_once('.').unwrap_or(("", path));
    let section = sections().into_iter().find(|candidate| candidate.name == section)?;
    section.keys.iter().find_map(|key| (key.name == name).then_some(key.accepts))
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

        impl $name {
            /// Appends this section and those within, in the order of the file.
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
        /// Interfaces to filter on. May be empty when they are given on the command line.
        interfaces: Vec<Spanned<String>>, default [], accepts "names of interfaces, each once";
        /// `enforce` drops attack packets. `monitor` passes everything, computes the same verdicts and counts
        /// what would have been dropped.
        mode: Mode, default "enforce", accepts "`\"enforce\"` or `\"monitor\"`";
        /// Where the filter is attached: `native` in the network driver, `generic` in the network stack
        /// (works with every driver, several times slower). `native-or-generic` takes what the driver can do.
        attach: AttachMode, default "native",
            accepts "`\"native\"`, `\"generic\"` or `\"native-or-generic\"`";
    }
    contains {
        control: ControlFile,
        limit: LimitFile,
        sources: SourcesFile,
        lists: ListsFile,
        block: BlockFile,
        allow: AllowFile
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
    /// Limits.
    LimitFile at "limit" {}
    contains {
        source: SourceLimitFile,
        protected: ProtectedLimitFile
    }
}

section! {
    /// What one source may send before its packets are dropped. A source is one IPv4 address, or one IPv6
    /// prefix (`sources.ipv6_prefix`).
    SourceLimitFile at "limit.source" {
        /// Packets per second.
        packets: OrOff<PacketRate>, default "20k/s", accepts "`1/s` to `100M/s`, or `\"off\"`";
        /// Packets that may come at once after a silence.
        packets_burst: Packets, unset "two seconds at the rate of `packets`",
            accepts "40 ms to 60 s at the rate of `packets`";
        /// Bits per second on the wire.
        bits: OrOff<BitRate>, default "off", accepts "`8kbit/s` to `1000Gbit/s`, or `\"off\"`";
        /// Bits that may come at once after a silence.
        bits_burst: Bits, unset "one second at the rate of `bits`, and at least one jumbo frame",
            accepts "40 ms to 60 s at the rate of `bits`, at least a jumbo frame (`73920bit`)";
    }
}

section! {
    /// IPv6 stops working without these messages, so they are not charged to their sources: all of a kind
    /// together have this budget. The burst is two seconds at the rate.
    ProtectedLimitFile at "limit.protected" {
        /// Neighbour discovery: router and neighbour solicitations, advertisements and redirects.
        neighbour_discovery: PacketRate, default "1k/s", accepts "`1/s` to `100M/s`";
        /// Packet Too Big messages, from which the path MTU is learnt.
        path_mtu: PacketRate, default "1k/s", accepts "`1/s` to `100M/s`";
    }
}

section! {
    /// The memory of sources. Its size is fixed, however many sources there are.
    SourcesFile at "sources" {
        /// How many sources can be in debt at once, for each address family. A source is in debt for as long
        /// as it has sent more than its rate allows so far. Eight of them take 64 bytes: the default is 4 MiB
        /// for each family.
        table: u32, default 524288, accepts "a power of two from `32768` to `16777216`";
        /// The length of the prefix that counts as one IPv6 source. A host can choose any address in its /64.
        ipv6_prefix: u8, default 64, accepts "`48` to `64`";
    }
}

section! {
    /// The memory of the lists. Its size is fixed, and both lists share it; what does not fit is refused as a whole.
    /// IPv4 prefixes up to /24 take none of it: for them there are always 8 MiB.
    ListsFile at "lists" {
        /// IPv4 addresses that can be listed one by one. A prefix longer than /24 counts as all its addresses: a /25
        /// as 128, a /32 as one. Six of them take 64 bytes: the default is 16 MiB. Rounded up to 393216 times a
        /// power of two.
        ipv4: u32, default 1572864, accepts "`1` to `25165824`";
        /// IPv6 prefixes that can be listed. One whose length is not a multiple of four counts as two, four or
        /// eight of the next such length. Each has 48 bytes, and when it is used some 90 more: the default is 12
        /// MiB, and 36 MiB when it is full. Rounded up to a power of two.
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
    }
}

section! {
    /// What is never dropped. Allow wins over block.
    AllowFile at "allow" {
        /// Addresses, prefixes and ranges.
        entries: Vec<Spanned<String>>, default [], accepts "as for `block.entries`";
        /// Files with one such entry per line. Relative paths are relative to the folder of this file.
        files: Vec<PathBuf>, default [], accepts "paths";
    }
}
