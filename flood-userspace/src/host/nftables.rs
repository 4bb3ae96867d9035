//! The rules of nftables, as far as it matters here what they do (linux/netfilter/nf_tables.h). iptables writes such rules, too,
//! unless it is the old one.

use std::{
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
    /// Translates addresses or ports.
    pub(super) translates: Option<String>,
    /// Asks what connection tracking says of a packet that comes to this host.
    pub(super) asks_state: Option<String>,
    /// Looks at the TCP flags of such a packet.
    pub(super) asks_flags: Option<String>,
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
    let (rules, chains) = (dump::<Rule>()?, dump::<Chain>()?);
    let name = |chain: &str, table: &str| format!("chain {chain} of table {table}");
    let is_elsewhere = |rule: &Rule| chains.iter().any(|chain| chain.is_elsewhere() && chain.has(rule));
    let first = |asks: fn(&Rule) -> bool| {
        let rule = rules.iter().find(|rule| asks(rule) && rule.is_of_ip() && !is_elsewhere(rule))?;
        Some(name(&rule.chain, &rule.table))
    };
    let ruleset = Ruleset {
        translates: chains
            .iter()
            .find(|chain| chain.is_translation())
            .map(|chain| name(&chain.name, &chain.table)),
        asks_state: first(|rule| rule.asks_state),
        asks_flags: first(|rule| rule.asks_flags),
    };
    *read = Some(Read { of, ruleset: ruleset.clone() });
    Ok(ruleset)
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

    /// Whether a rule is one of its.
    fn has(&self, rule: &Rule) -> bool {
        self.table == rule.table && self.name == rule.chain && self.family == rule.family
    }

    /// Whether what comes to this host does not come through it, but what it sends or passes on.
    fn is_elsewhere(&self) -> bool {
        // linux/netfilter.h: NF_INET_FORWARD, NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING
        matches!(self.hook, Some(2..=4))
    }
}

/// A rule.
#[derive(Default, Clone, Debug)]
struct Rule {
    table: String,
    chain: String,
    family: u8,
    /// Whether it asks what connection tracking says of a packet.
    asks_state: bool,
    /// Whether it looks at the flags of TCP.
    asks_flags: bool,
}

impl Rule {
    /// Whether it is about IP, rather than about frames.
    fn is_of_ip(&self) -> bool {
        // linux/netfilter.h: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
        matches!(self.family, 1 | 2 | 10)
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
            // NFTA_CT_KEY, NFT_CT_STATE
            "ct" => self.asks_state |= number(data, 2)? == Some(0),
            // NFTA_PAYLOAD_BASE, NFT_PAYLOAD_TRANSPORT_HEADER; NFTA_PAYLOAD_OFFSET and NFTA_PAYLOAD_LEN: the byte of the flags
            "payload" => {
                let (base, from) = (number(data, 2)?, number(data, 3)?.unwrap_or(0));
                let to = from.saturating_add(number(data, 4)?.unwrap_or(0));
                self.asks_flags |= base == Some(2) && (from..to).contains(&FLAGS_AT);
            }
            "match" => self.read_match(data)?,
            _ => {}
        }
        Ok(())
    }

    /// Reads a match of iptables.
    fn read_match(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        const NAME: u16 = 1;
        const INFO: u16 = 3;
        /// `flg_mask` in `struct xt_tcp` (linux/netfilter/xt_tcpudp.h).
        const MASK_AT: usize = 9;
        let (mut name, mut mask) = (String::new(), 0);
        for attribute in NlasIterator::new(data) {
            let attribute = attribute?;
            match attribute.kind() {
                NAME => name = text(attribute.value()),
                INFO => mask = attribute.value().get(MASK_AT).copied().unwrap_or(0),
                _ => {}
            }
        }
        self.asks_state |= name == "conntrack" || name == "state";
        self.asks_flags |= name == "tcp" && mask != 0;
        Ok(())
    }
}

/// Where the flags are in a TCP header.
const FLAGS_AT: u32 = 13;

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
fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned()
}

/// The number that an attribute of this kind has.
fn number(attributes: &[u8], kind: u16) -> Result<Option<u32>, DecodeError> {
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            return Ok(attribute.value().try_into().ok().map(u32::from_be_bytes));
        }
    }
    Ok(None)
}
