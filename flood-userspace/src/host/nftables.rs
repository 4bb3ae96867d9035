//! The rules of nftables, as far as their effects matter here (linux/netfilter/nf_tables.h). iptables writes such
//! rules, too, except for the legacy version.

mod rule;

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

use crate::netlink::{
    Message,
    attributes::{number, text},
    exchange,
};

use self::rule::Rule;

/// What the rules of a network namespace do that matters here. Each is described by the chain that contains such a
/// rule.
#[derive(Default, Clone, Debug)]
pub(super) struct Ruleset {
    /// Translates addresses or ports, or redirects or duplicates packets.
    pub(super) translates: Option<String>,
    /// Uses the connection tracking state of packets to this host.
    pub(super) asks_state: Option<String>,
    /// Matches TCP flags or options of such packets.
    pub(super) asks_flags: Option<String>,
    /// Matches them to add to a set, and another rule looks into that set.
    pub(super) notes_flags: Option<String>,
}

/// The rules that were read last. Reading many rules takes a while, and they hardly ever change.
static READ: Mutex<Option<Read>> = Mutex::new(None);

/// Rules that were read.
struct Read {
    /// Inode of the network namespace, and generation of its rules.
    of: (u64, u32),
    ruleset: Ruleset,
}

/// Returns the rules of the network namespace of this thread; none if this kernel has no nftables.
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

/// The place of a chain: its family, table and name.
type Place<'a> = (u8, &'a str, &'a str);

fn name((_, table, chain): Place<'_>) -> String {
    format!("chain {chain} of table {table}")
}

/// Finds the chains through which packets to this host come: base chains, and the chains to which their rules jump.
/// It is not checked which rules jump to a chain through a map: any rule of the same table may.
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

/// Whether the table of a chain is dormant.
fn is_dormant(tables: &[Table], chain: &Chain) -> bool {
    let is_its = |table: &&Table| table.family == chain.family && table.name == chain.table;
    tables.iter().find(is_its).is_some_and(|table| table.is_dormant)
}

/// A table.
#[derive(Default, Clone, Debug)]
struct Table {
    name: String,
    family: u8,
    /// Whether it is dormant.
    is_dormant: bool,
}

/// Returns the generation of the rules, which changes with each of them; `None` if there are none.
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
    /// Number of its rules and of other references to it.
    uses: u32,
    /// Its hook, if it is a base chain.
    hook: Option<u32>,
}

impl Chain {
    /// Whether it is for translation and in use.
    fn is_translation(&self) -> bool {
        self.kind == "nat" && self.uses > 0
    }

    fn place(&self) -> Place<'_> {
        (self.family, &self.table, &self.name)
    }

    /// Whether only packets that this host sends or forwards come through it.
    fn is_elsewhere(&self) -> bool {
        match self.family {
            // linux/netfilter.h: NFPROTO_NETDEV, NF_NETDEV_EGRESS
            5 => self.hook == Some(1),
            // NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
            _ => matches!(self.hook, Some(2..=4)),
        }
    }
}

/// The generation of the rules.
#[derive(Default, Clone, Debug)]
struct Generation {
    number: u32,
}

/// An object that is requested from the kernel.
trait Asked: Default + Clone + std::fmt::Debug {
    /// `NFT_MSG_GET…`.
    const MESSAGE: u16;
    /// Stores an attribute.
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

/// Returns nothing if this kernel has no nftables.
fn known<T>(answers: io::Result<Vec<T>>) -> io::Result<Vec<T>> {
    answers.or_else(|error| match error.raw_os_error() {
        Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP | libc::ENOENT | libc::ECONNREFUSED) => {
            Ok(Vec::new())
        }
        _ => Err(error),
    })
}

/// A request, and the objects in the kernel's answer.
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

/// Size of `struct nfgenmsg`, bytes. It comes first: the address family, 0 for all of them, and fields that do not
/// matter here.
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

#[cfg(test)]
mod tests {
    use super::{
        rule::tests::{expression, number, read},
        *,
    };
    use crate::netlink::attributes::tests::attribute;

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
}
