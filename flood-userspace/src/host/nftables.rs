//! The rules of nftables, as far as it matters here what they do (linux/netfilter/nf_tables.h). iptables writes such rules, too,
//! unless it is the old one.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::{Message, exchange};

/// What the rules of a network namespace do that matters here, each as the chain in which it is.
#[derive(Default, Clone, Debug)]
pub(super) struct Ruleset {
    /// Translates addresses or ports, or hands packets to others.
    pub(super) translates: Option<String>,
    /// Asks what connection tracking says of a packet that comes to this host.
    pub(super) asks_state: Option<String>,
    /// Looks at the TCP flags or options of such a packet.
    pub(super) asks_flags: Option<String>,
    /// Adds to a set by them, and a rule looks into that set.
    pub(super) notes_flags: Option<String>,
}

/// The rules that were read last. With many rules that takes a while, and they hardly ever change.
static READ: Mutex<Option<Read>> = Mutex::new(None);

/// Rules as they were read.
struct Read {
    /// The inode of the network namespace, and the number of the state that its rules were in.
    of: (u64, u32),
    ruleset: Ruleset,
}

/// The rules of the network namespace of this thread; none where this kernel has no nftables.
pub(super) fn ruleset() -> io::Result<Ruleset> {
    let Some(generation) = generation()? else { return Ok(Ruleset::default()) };
    let of = (fs::metadata("/proc/thread-self/ns/net")?.ino(), generation);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(read) = &*read
        && read.of == of
    {
        return Ok(read.ruleset.clone());
    }
    let ruleset = Ruleset::of(&dump::<Table>()?, &dump::<Chain>()?, &dump::<Rule>()?);
    *read = Some(Read { of, ruleset: ruleset.clone() });
    Ok(ruleset)
}

impl Ruleset {
    fn of(tables: &[Table], chains: &[Chain], rules: &[Rule]) -> Self {
        let way_in = way_in(tables, chains, rules);
        let rules: Vec<&Rule> = rules.iter().filter(|rule| way_in.contains(&rule.place())).collect();
        let looked_into: HashSet<&String> = rules.iter().flat_map(|rule| &rule.looks_into).collect();
        let first = |asks: &dyn Fn(&Rule) -> bool| {
            rules.iter().find(|rule| asks(rule)).map(|rule| name(rule.place()))
        };
        let translates = chains.iter().find(|chain| chain.is_translation() && !is_dormant(tables, chain));
        Self {
            translates: translates
                .map(|chain| name(chain.place()))
                .or_else(|| first(&|rule| rule.translates && !rule.is_of_arp())),
            asks_state: first(&|rule| rule.asks_state && rule.is_of_ip()),
            asks_flags: first(&|rule| rule.asks_flags && rule.is_of_ip()),
            notes_flags: first(&|rule| {
                rule.asks_flags && rule.is_of_ip() && rule.adds_to.iter().any(|set| looked_into.contains(set))
            }),
        }
    }
}

/// Where a chain is: its family, its table and its name.
type Place<'a> = (u8, &'a str, &'a str);

fn name((_, table, chain): Place<'_>) -> String {
    format!("chain {chain} of table {table}")
}

/// The chains through which comes what comes to this host: those where it begins, and those to which their rules lead. Which
/// rules lead to a chain by way of a map is not asked: one of the same table may.
fn way_in<'a>(tables: &[Table], chains: &'a [Chain], rules: &'a [Rule]) -> HashSet<Place<'a>> {
    let begins = |chain: &&Chain| chain.hook.is_some() && !chain.is_elsewhere() && !is_dormant(tables, chain);
    let mut found: HashSet<Place<'_>> = chains.iter().filter(begins).map(Chain::place).collect();
    let begun: HashSet<(u8, &str)> = found.iter().map(|(family, table, _)| (*family, *table)).collect();
    let mut uses: HashMap<Place<'_>, u32> = HashMap::new();
    for rule in rules {
        for place in rule.leads_to().chain([rule.place()]) {
            *uses.entry(place).or_default() += 1;
        }
    }
    let has_other_uses = |chain: &&Chain| chain.uses > uses.get(&chain.place()).copied().unwrap_or(0);
    let is_begun =
        |chain: &&Chain| chain.hook.is_none() && begun.contains(&(chain.family, chain.table.as_str()));
    found.extend(chains.iter().filter(is_begun).filter(has_other_uses).map(Chain::place));
    loop {
        let before = found.len();
        for rule in rules {
            if found.contains(&rule.place()) {
                found.extend(rule.leads_to());
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

/// Whether the table of a chain is switched off.
fn is_dormant(tables: &[Table], chain: &Chain) -> bool {
    let is_its = |table: &&Table| table.family == chain.family && table.name == chain.table;
    tables.iter().find(is_its).is_some_and(|table| table.is_dormant)
}

/// A table.
#[derive(Default, Clone, Debug)]
struct Table {
    name: String,
    family: u8,
    /// Whether it is switched off.
    is_dormant: bool,
}

/// The number of the state that the rules are in: it changes with each of them. `None` where there are none.
fn generation() -> io::Result<Option<u32>> {
    let answers = known(exchange(Request::<Generation>::new(), NLM_F_REQUEST))?;
    Ok(answers.into_iter().flat_map(|answer| answer.found).next().map(|generation| generation.number))
}

/// A chain.
#[derive(Default, Clone, Debug)]
struct Chain {
    table: String,
    name: String,
    kind: String,
    family: u8,
    /// Its rules, and what else refers to it.
    uses: u32,
    /// Where packets come into it, if they do by themselves.
    hook: Option<u32>,
}

impl Chain {
    /// Whether it translates anything.
    fn is_translation(&self) -> bool {
        self.kind == "nat" && self.uses > 0
    }

    fn place(&self) -> Place<'_> {
        (self.family, &self.table, &self.name)
    }

    /// Whether what comes to this host does not come through it, but what it sends or passes on.
    fn is_elsewhere(&self) -> bool {
        match self.family {
            // linux/netfilter.h: NFPROTO_NETDEV, NF_NETDEV_EGRESS
            5 => self.hook == Some(1),
            // NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
            _ => matches!(self.hook, Some(2..=4)),
        }
    }
}

/// A rule.
#[derive(Default, Clone, Debug)]
struct Rule {
    table: String,
    chain: String,
    family: u8,
    /// The chains that it leads to, but for those by way of a map.
    chains: Vec<String>,
    /// Whether it asks what connection tracking says of a packet.
    asks_state: bool,
    /// Whether it looks at the flags of TCP, or at its options, as those of a SYN are others.
    asks_flags: bool,
    /// Whether it writes addresses or ports, or hands packets to others.
    translates: bool,
    /// The sets that it adds to.
    adds_to: Vec<String>,
    /// The sets that it looks into.
    looks_into: Vec<String>,
}

impl Rule {
    fn place(&self) -> Place<'_> {
        (self.family, &self.table, &self.chain)
    }

    /// The chains that it leads to.
    fn leads_to(&self) -> impl Iterator<Item = Place<'_>> {
        self.chains.iter().map(|chain| (self.family, self.table.as_str(), chain.as_str()))
    }

    /// Whether it is about IP, rather than about frames.
    fn is_of_ip(&self) -> bool {
        // linux/netfilter.h: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
        matches!(self.family, 1 | 2 | 10)
    }

    /// Whether it is about ARP.
    fn is_of_arp(&self) -> bool {
        // NFPROTO_ARP
        self.family == 3
    }

    /// Reads an expression: its name and what is asked.
    fn read(&mut self, expression: &[u8]) -> Result<(), DecodeError> {
        const NAME: u16 = 1;
        const DATA: u16 = 2;
        let (mut name, mut data) = (String::new(), Vec::new());
        for attribute in NlasIterator::new(expression) {
            let attribute = attribute?;
            match attribute.kind() {
                NAME => name = text(attribute.value()),
                DATA => data = attribute.value().to_vec(),
                _ => {}
            }
        }
        let data = &data[..];
        match name.as_str() {
            // NFTA_CT_DREG: it reads, whatever that is. To set a mark is to ask nothing.
            "ct" => self.asks_state |= number(data, 1)?.is_some(),
            "payload" => self.read_payload(data)?,
            "tproxy" | "fwd" | "dup" => self.translates = true,
            // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CHAIN
            "immediate" => {
                let verdict = value(&value(data, 2)?.unwrap_or_default(), 2)?.unwrap_or_default();
                self.chains.extend(word(&verdict, 2)?);
            }
            // NFTA_EXTHDR_DREG; NFTA_EXTHDR_OP, NFT_EXTHDR_OP_TCPOPT
            "exthdr" => self.asks_flags |= number(data, 1)?.is_some() && number(data, 6)? == Some(1),
            // NFTA_DYNSET_SET_NAME, NFTA_LOOKUP_SET
            "dynset" => self.adds_to.extend(word(data, 1)?),
            "lookup" => self.looks_into.extend(word(data, 1)?),
            "match" => self.read_match(data)?,
            // NFTA_TARGET_NAME
            "target" => match word(data, 1)?.as_deref() {
                Some("SET") => self.adds_to.push(IPSET.to_owned()),
                Some("TPROXY" | "TEE" | "DNPT" | "SNPT") => self.translates = true,
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    /// Reads what looks at bytes of a packet, or writes them.
    fn read_payload(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
        const NETWORK: Option<u32> = Some(1);
        const TRANSPORT: Option<u32> = Some(2);
        // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_SREG
        let (base, from) = (number(data, 2)?, number(data, 3)?.unwrap_or(0));
        let to = from.saturating_add(number(data, 4)?.unwrap_or(0));
        if number(data, 5)?.is_some() {
            // What comes before the addresses, of either version: DSCP, time to live.
            self.translates |= base == NETWORK && to > ADDRESSES_AT || base == TRANSPORT && from < PORTS_TO;
        } else {
            self.asks_flags |= base == TRANSPORT && (from..to).contains(&FLAGS_AT);
        }
        Ok(())
    }

    /// Reads a match of iptables.
    fn read_match(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        const NAME: u16 = 1;
        const INFO: u16 = 3;
        /// `option` and `flg_mask` in `struct xt_tcp` (linux/netfilter/xt_tcpudp.h).
        const OPTION_AT: usize = 8;
        const MASK_AT: usize = 9;
        /// `check_set` in `struct xt_recent_mtinfo` (linux/netfilter/xt_recent.h), and `XT_RECENT_SET` in it.
        const RECENT_AT: usize = 8;
        const RECENT_SET: u8 = 1 << 1;
        let (mut name, mut info) = (String::new(), Vec::new());
        for attribute in NlasIterator::new(data) {
            let attribute = attribute?;
            match attribute.kind() {
                NAME => name = text(attribute.value()),
                INFO => info = attribute.value().to_vec(),
                _ => {}
            }
        }
        let at = |place: usize| info.get(place).copied().unwrap_or(0);
        match name.as_str() {
            "conntrack" | "state" | "connmark" | "connlabel" | "connbytes" | "helper" => {
                self.asks_state = true;
            }
            "tcp" => self.asks_flags |= at(OPTION_AT) != 0 || at(MASK_AT) != 0,
            "tcpmss" => self.asks_flags = true,
            "set" => self.looks_into.push(IPSET.to_owned()),
            "recent" if at(RECENT_AT) & RECENT_SET != 0 => self.adds_to.push(RECENT.to_owned()),
            "recent" => self.looks_into.push(RECENT.to_owned()),
            _ => {}
        }
        Ok(())
    }
}

/// What the sets of ipset(8) and the lists of iptables' match `recent` are called here, each as one: which they are does not matter.
const IPSET: &str = "a set of ipset";
const RECENT: &str = "a list of recent";

/// Where the flags are in a TCP header.
const FLAGS_AT: u32 = 13;

/// Where the ports end in a TCP or UDP header.
const PORTS_TO: u32 = 4;

/// Where the addresses begin in an IPv4 header. Those of IPv6 begin earlier and are longer.
const ADDRESSES_AT: u32 = 12;

/// The number of the rules' state.
#[derive(Default, Clone, Debug)]
struct Generation {
    number: u32,
}

/// Something that the kernel is asked for.
trait Asked: Default + Clone + std::fmt::Debug {
    /// `NFT_MSG_GET…`.
    const MESSAGE: u16;
    /// Takes over an attribute.
    fn take(&mut self, family: u8, kind: u16, value: &[u8]) -> Result<(), DecodeError>;
}

impl Asked for Table {
    const MESSAGE: u16 = 1;

    /// `enum nft_table_attributes`.
    fn take(&mut self, family: u8, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
        /// `NFT_TABLE_F_DORMANT`
        const DORMANT: u32 = 1;
        self.family = family;
        match kind {
            1 => self.name = text(value),
            2 => {
                self.is_dormant =
                    value.try_into().is_ok_and(|flags| u32::from_be_bytes(flags) & DORMANT != 0);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Asked for Chain {
    const MESSAGE: u16 = 4;

    /// `enum nft_chain_attributes`.
    fn take(&mut self, family: u8, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
        self.family = family;
        match kind {
            1 => self.table = text(value),
            3 => self.name = text(value),
            7 => self.kind = text(value),
            4 => self.hook = number(value, 1)?,
            6 => self.uses = value.try_into().map_or(0, u32::from_be_bytes),
            _ => {}
        }
        Ok(())
    }
}

impl Asked for Rule {
    const MESSAGE: u16 = 7;

    /// `enum nft_rule_attributes`.
    fn take(&mut self, family: u8, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
        self.family = family;
        match kind {
            1 => self.table = text(value),
            2 => self.chain = text(value),
            4 => {
                for expression in NlasIterator::new(value) {
                    self.read(expression?.value())?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

impl Asked for Generation {
    const MESSAGE: u16 = 16;

    /// `enum nft_gen_attributes`.
    fn take(&mut self, _: u8, kind: u16, value: &[u8]) -> Result<(), DecodeError> {
        if kind == 1 {
            self.number = value.try_into().map_or(0, u32::from_be_bytes);
        }
        Ok(())
    }
}

fn dump<T: Asked>() -> io::Result<Vec<T>> {
    let answers = known(exchange(Request::<T>::new(), NLM_F_REQUEST | NLM_F_DUMP))?;
    Ok(answers.into_iter().flat_map(|answer| answer.found).collect())
}

/// Nothing, where this kernel has no nftables.
fn known<T>(answers: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    answers.or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT | libc::ECONNREFUSED) => {
            Ok(Vec::new())
        }
        _ => Err(error),
    })
}

/// A request, and what the kernel answers.
#[derive(Debug)]
struct Request<T> {
    found: Vec<T>,
}

impl<T> Request<T> {
    fn new() -> Self {
        Self { found: Vec::new() }
    }
}

/// `NFNL_SUBSYS_NFTABLES`, above the number of a message.
const NFTABLES: u16 = 10 << 8;

/// Bytes of `struct nfgenmsg`, which comes first: the address family, 0 for all of them, and nothing that matters here.
const GENERIC_HEADER: usize = 4;

impl<T: Asked> Message for Request<T> {
    const PROTOCOL: isize = NETLINK_NETFILTER;
}

impl<T: Asked> NetlinkSerializable for Request<T> {
    fn message_type(&self) -> u16 {
        NFTABLES | T::MESSAGE
    }

    fn buffer_len(&self) -> usize {
        GENERIC_HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
    }
}

impl<T: Asked> NetlinkDeserializable for Request<T> {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let mut found = T::default();
        let family = payload.first().copied().unwrap_or(0);
        for attribute in NlasIterator::new(payload.get(GENERIC_HEADER..).unwrap_or_default()) {
            let attribute = attribute?;
            found.take(family, attribute.kind(), attribute.value())?;
        }
        Ok(Self { found: vec![found] })
    }
}

impl<T: Asked> From<Request<T>> for NetlinkPayload<Request<T>> {
    fn from(request: Request<T>) -> Self {
        Self::InnerMessage(request)
    }
}

/// A string that ends with a zero.
pub(super) fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number that an attribute of this kind has.
fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>, DecodeError> {
    Ok(value(attributes, kind)?.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes))
}

/// The string that an attribute of this kind has.
fn word(attributes: &[u8], kind: u16) -> Result<Option<String>, DecodeError> {
    Ok(value(attributes, kind)?.map(|value| text(&value)))
}

/// What an attribute of this kind has.
pub(super) fn value(attributes: &[u8], kind: u16) -> Result<Option<Vec<u8>>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(Some(attribute.value().to_vec()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attribute as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn number(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_be_bytes())
    }

    /// An expression with these attributes.
    fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        [attribute(1, format!("{name}\0").as_bytes()), attribute(2, &data.concat())].concat()
    }

    /// A match of iptables.
    fn of_iptables(name: &str, info: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = [0; 220];
        for (place, value) in info {
            bytes[*place] = *value;
        }
        expression("match", &[attribute(1, format!("{name}\0").as_bytes()), attribute(3, &bytes)])
    }

    fn read(expressions: &[Vec<u8>]) -> Rule {
        let mut rule = Rule::default();
        for expression in expressions {
            rule.read(expression).unwrap();
        }
        rule
    }

    #[test]
    fn whatever_is_read_of_connection_tracking_asks_it() {
        let cases = [
            ("ct state", expression("ct", &[number(2, 0), number(1, 1)]), true),
            ("ct direction", expression("ct", &[number(2, 1), number(1, 1)]), true),
            ("ct status", expression("ct", &[number(2, 2), number(1, 1)]), true),
            ("ct mark", expression("ct", &[number(2, 3), number(1, 1)]), true),
            ("ct mark set", expression("ct", &[number(2, 3), number(4, 1)]), false),
            ("-m conntrack", of_iptables("conntrack", &[]), true),
            ("-m connmark", of_iptables("connmark", &[]), true),
            ("-m tcp", of_iptables("tcp", &[]), false),
        ];
        for (why, expression, expected) in cases {
            assert_eq!(read(&[expression]).asks_state, expected, "{why}");
        }
    }

    #[test]
    fn flags_and_options_of_tcp_are_seen() {
        let payload =
            |from, length| expression("payload", &[number(2, 2), number(3, from), number(4, length)]);
        let cases = [
            ("tcp flags", payload(13, 1), true),
            ("a range with the flags", payload(12, 2), true),
            ("tcp dport", payload(2, 2), false),
            ("tcp option maxseg exists", expression("exthdr", &[number(1, 1), number(6, 1)]), true),
            ("tcp option maxseg size set", expression("exthdr", &[number(7, 1), number(6, 1)]), false),
            ("exthdr frag exists", expression("exthdr", &[number(1, 1)]), false),
            ("-p tcp --syn", of_iptables("tcp", &[(9, 0x17)]), true),
            ("-p tcp --tcp-option 2", of_iptables("tcp", &[(8, 2)]), true),
            ("-p tcp", of_iptables("tcp", &[]), false),
        ];
        for (why, expression, expected) in cases {
            assert_eq!(read(&[expression]).asks_flags, expected, "{why}");
        }
    }

    #[test]
    fn only_rules_that_packets_for_this_host_come_to_are_asked() {
        const INPUT: Option<u32> = Some(1);
        const FORWARD: Option<u32> = Some(2);
        let verdict =
            |chain: &str| attribute(2, &attribute(2, &attribute(2, format!("{chain}\0").as_bytes())));
        let rule = |chain: &str, leads_to: Option<&str>| {
            let ask = expression("ct", &[number(1, 1)]);
            let mut rule = match leads_to {
                Some(chain) => read(&[expression("immediate", &[verdict(chain)])]),
                None => read(&[ask]),
            };
            (rule.table, rule.chain, rule.family) = ("own".into(), chain.into(), 1);
            rule
        };
        let chain = |name: &str, hook, uses| {
            let (table, name, kind) = ("own".into(), name.into(), String::new());
            Chain { table, name, kind, family: 1, uses, hook }
        };
        let cases = [
            ("at the beginning", false, vec![chain("in", INPUT, 1)], vec![rule("in", None)], Some("in")),
            ("in a dormant table", true, vec![chain("in", INPUT, 1)], vec![rule("in", None)], None),
            (
                "where nothing leads to",
                false,
                vec![chain("in", INPUT, 0), chain("x", None, 1)],
                vec![rule("x", None)],
                None,
            ),
            (
                "behind two jumps",
                false,
                vec![chain("x", None, 2), chain("y", None, 2), chain("in", INPUT, 1)],
                vec![rule("x", None), rule("y", Some("x")), rule("in", Some("y"))],
                Some("x"),
            ),
            (
                "behind a jump for what is passed on",
                false,
                vec![chain("out", FORWARD, 1), chain("in", INPUT, 0), chain("x", None, 2)],
                vec![rule("out", Some("x")), rule("x", None)],
                None,
            ),
            (
                "by way of a map",
                false,
                vec![chain("in", INPUT, 1), chain("x", None, 2)],
                vec![rule("x", None)],
                Some("x"),
            ),
            (
                "by way of a map elsewhere",
                false,
                vec![chain("out", FORWARD, 1), chain("x", None, 2)],
                vec![rule("x", None)],
                None,
            ),
        ];
        for (why, is_dormant, chains, rules, expected) in cases {
            let tables = [Table { name: "own".into(), family: 1, is_dormant }];
            let found = Ruleset::of(&tables, &chains, &rules).asks_state;
            assert_eq!(found, expected.map(|chain| name((1, "own", chain))), "{why}");
        }
    }

    #[test]
    fn who_writes_ports_or_addresses_or_hands_packets_to_others_translates() {
        let write = |base, from, length| {
            expression("payload", &[number(5, 1), number(2, base), number(3, from), number(4, length)])
        };
        let target = |name: &str| expression("target", &[attribute(1, format!("{name}\0").as_bytes())]);
        let look = expression("payload", &[number(1, 1), number(2, 2), number(3, 2), number(4, 2)]);
        let cases = [
            ("udp dport", look, false),
            ("udp dport set", write(2, 2, 2), true),
            ("th sport set", write(2, 0, 2), true),
            ("tcp window set", write(2, 14, 2), false),
            ("ip saddr set", write(1, 12, 4), true),
            ("ip daddr set", write(1, 16, 4), true),
            ("ip6 saddr set", write(1, 8, 16), true),
            ("ip dscp set", write(1, 0, 2), false),
            ("ip ttl set", write(1, 8, 2), false),
            ("ip6 hoplimit set", write(1, 6, 2), false),
            ("ether daddr set", write(0, 0, 6), false),
            ("tproxy", expression("tproxy", &[number(1, 2)]), true),
            ("fwd", expression("fwd", &[number(1, 1)]), true),
            ("dup", expression("dup", &[number(1, 1)]), true),
            ("-j TPROXY", target("TPROXY"), true),
            ("-j DNPT", target("DNPT"), true),
            ("-j LOG", target("LOG"), false),
        ];
        for (why, expression, expected) in cases {
            assert_eq!(read(&[expression]).translates, expected, "{why}");
        }
    }

    #[test]
    fn sets_that_are_added_to_and_those_that_are_looked_into_are_told_apart() {
        let set = |name| expression(name, &[attribute(1, b"known\0")]);
        let target = expression("target", &[attribute(1, b"SET\0")]);
        let cases = [
            ("add @known", set("dynset"), Some("known"), None),
            ("@known", set("lookup"), None, Some("known")),
            ("-j SET", target, Some(IPSET), None),
            ("-m set", of_iptables("set", &[]), None, Some(IPSET)),
            ("-m recent --set", of_iptables("recent", &[(8, 2)]), Some(RECENT), None),
            ("-m recent --rcheck", of_iptables("recent", &[(8, 1)]), None, Some(RECENT)),
        ];
        for (why, expression, adds_to, looks_into) in cases {
            let rule = read(&[expression]);
            assert_eq!(rule.adds_to.first().map(String::as_str), adds_to, "{why}");
            assert_eq!(rule.looks_into.first().map(String::as_str), looks_into, "{why}");
        }
    }
}
