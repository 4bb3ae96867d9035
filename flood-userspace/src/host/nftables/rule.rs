//! A rule of nftables, as far as its effects matter here.

use netlink_packet_core::{DecodeError, NlasIterator};

use crate::netlink::attributes::{number, text, value, word};

use super::{Asked, Place};

/// A rule.
#[derive(Default, Clone, Debug)]
pub(super) struct Rule {
    pub(super) table: String,
    pub(super) chain: String,
    pub(super) family: u8,
    /// The chains to which it jumps, except through a map.
    pub(super) chains: Vec<String>,
    /// Whether it uses the connection tracking state of a packet.
    pub(super) asks_state: bool,
    /// Whether it matches the flags of TCP, or its options, as those of a SYN are different.
    pub(super) asks_flags: bool,
    /// Whether it writes addresses or ports, or redirects or duplicates packets.
    pub(super) translates: bool,
    /// The sets to which it adds.
    pub(super) adds_to: Vec<String>,
    /// The sets in which it looks up packets.
    pub(super) looks_into: Vec<String>,
}

impl Rule {
    pub(super) fn place(&self) -> Place<'_> {
        (self.family, &self.table, &self.chain)
    }

    /// Returns the chains to which it jumps.
    pub(super) fn leads_to(&self) -> impl Iterator<Item = Place<'_>> {
        self.chains.iter().map(|chain| (self.family, self.table.as_str(), chain.as_str()))
    }

    /// Whether it applies to IP packets rather than to frames.
    pub(super) fn is_of_ip(&self) -> bool {
        // linux/netfilter.h: NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6
        matches!(self.family, 1 | 2 | 10)
    }

    /// Whether it applies to ARP.
    pub(super) fn is_of_arp(&self) -> bool {
        // NFPROTO_ARP
        self.family == 3
    }

    /// Reads an expression: its name and its attributes.
    fn read(&mut self, expression: &[u8]) -> Result<(), DecodeError> {
        // NFTA_EXPR_NAME, NFTA_EXPR_DATA
        let name = word(expression, 1)?.unwrap_or_default();
        let data = &value(expression, 2)?.unwrap_or_default()[..];
        match name.as_str() {
            // NFTA_CT_DREG: it reads something, whatever that is. Setting a mark is not reading.
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

    /// Reads an expression that reads or writes bytes of a packet.
    fn read_payload(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        /// `NFT_PAYLOAD_NETWORK_HEADER`, `NFT_PAYLOAD_TRANSPORT_HEADER`.
        const NETWORK: Option<u32> = Some(1);
        const TRANSPORT: Option<u32> = Some(2);
        // NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_SREG
        let (base, from) = (number(data, 2)?, number(data, 3)?.unwrap_or(0));
        let to = from.saturating_add(number(data, 4)?.unwrap_or(0));
        if number(data, 5)?.is_some() {
            // Fields before the addresses, of either version, do not matter: DSCP, time to live.
            self.translates |= base == NETWORK && to > ADDRESSES_AT || base == TRANSPORT && from < PORTS_TO;
        } else {
            self.asks_flags |= base == TRANSPORT && (from..to).contains(&FLAGS_AT);
        }
        Ok(())
    }

    /// Reads an iptables match.
    fn read_match(&mut self, data: &[u8]) -> Result<(), DecodeError> {
        /// `option` and `flg_mask` in `struct xt_tcp` (linux/netfilter/xt_tcpudp.h).
        const OPTION_AT: usize = 8;
        const MASK_AT: usize = 9;
        /// `check_set` in `struct xt_recent_mtinfo` (linux/netfilter/xt_recent.h), and `XT_RECENT_SET` in it.
        const RECENT_AT: usize = 8;
        const RECENT_SET: u8 = 1 << 1;
        // NFTA_MATCH_NAME, NFTA_MATCH_INFO
        let name = word(data, 1)?.unwrap_or_default();
        let info = value(data, 3)?.unwrap_or_default();
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

/// Names here for the sets of ipset(8) and the lists of iptables' match `recent`. All sets share one name, as it does
/// not matter which they are.
const IPSET: &str = "a set of ipset";
const RECENT: &str = "a list of recent";

/// Offset of the flags in a TCP header.
const FLAGS_AT: u32 = 13;

/// End of the ports in a TCP or UDP header.
const PORTS_TO: u32 = 4;

/// Offset of the addresses in an IPv4 header. Those of IPv6 begin earlier and are longer.
const ADDRESSES_AT: u32 = 12;

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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::netlink::attributes::tests::attribute;

    pub(in crate::host::nftables) fn number(kind: u16, value: u32) -> Vec<u8> {
        attribute(kind, &value.to_be_bytes())
    }

    /// Builds an expression with these attributes.
    pub(in crate::host::nftables) fn expression(name: &str, data: &[Vec<u8>]) -> Vec<u8> {
        [attribute(1, format!("{name}\0").as_bytes()), attribute(2, &data.concat())].concat()
    }

    /// Builds an iptables match.
    fn of_iptables(name: &str, info: &[(usize, u8)]) -> Vec<u8> {
        let mut bytes = [0; 220];
        for (place, value) in info {
            bytes[*place] = *value;
        }
        expression("match", &[attribute(1, format!("{name}\0").as_bytes()), attribute(3, &bytes)])
    }

    pub(in crate::host::nftables) fn read(expressions: &[Vec<u8>]) -> Rule {
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
