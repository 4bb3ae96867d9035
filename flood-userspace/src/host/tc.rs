//! Ingress filters of tc(8) that may redirect or rewrite packets. Our filter comes before them, so a packet without a
//! socket here may be for another host. (What this program itself attaches is on egress.)

use std::io;

use netlink_packet_core::{
    DecodeError, NLM_F_DUMP, NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkPayload,
    NetlinkSerializable, NlasIterator,
};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use crate::netlink::{
    Message,
    attributes::{link_name, text, value},
    exchange,
};

/// linux/rtnetlink.h
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;

/// Parent of ingress filters: `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` (linux/pkt_sched.h), also in the qdisc
/// `ingress`.
const WAY_IN: u32 = 0xffff_fff2;

/// Actions that neither redirect packets nor change their destination. Others may.
const HARMLESS: [&str; 10] =
    ["gact", "police", "skbedit", "skbmod", "vlan", "connmark", "ctinfo", "csum", "sample", "simple"];

/// Describes the first such filter.
pub(super) fn find(links: &[LinkMessage]) -> io::Result<Option<String>> {
    let qdiscs = exchange(Traffic::about(RTM_GETQDISC, 0, 0), NLM_F_REQUEST | NLM_F_DUMP)?;
    let has_filters = |qdisc: &&Traffic| matches!(qdisc.kind.as_str(), "clsact" | "ingress");
    for qdisc in qdiscs.iter().filter(has_filters) {
        let request = Traffic::about(RTM_GETTFILTER, qdisc.interface, WAY_IN);
        let filters = match exchange(request, NLM_F_REQUEST | NLM_F_DUMP) {
            // The interface has just disappeared.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => continue,
            filters => filters?,
        };
        for filter in filters {
            if let Some(what) = filter.harm(links).map_err(io::Error::other)? {
                let link = links.iter().find(|link| link.header.index == qdisc.interface);
                let name = link.and_then(link_name).unwrap_or("an interface");
                return Ok(Some(format!("tc: {what} on the way in at {name}")));
            }
        }
    }
    Ok(None)
}

/// A queueing discipline or a filter, and the request for them.
#[derive(Default, Clone, Debug)]
struct Traffic {
    message: u16,
    interface: u32,
    parent: u32,
    kind: String,
    options: Vec<u8>,
}

impl Traffic {
    fn about(message: u16, interface: u32, parent: u32) -> Self {
        Self { message, interface, parent, ..Self::default() }
    }

    /// Describes what a filter does that may lead a packet to another host.
    fn harm(&self, links: &[LinkMessage]) -> Result<Option<String>, DecodeError> {
        // `TCA_BPF_FLAGS`, `TCA_BPF_FLAG_ACT_DIRECT` (linux/pkt_cls.h): the program itself decides about a packet.
        let flags = if self.kind == "bpf" { value(&self.options, 8)? } else { None };
        if flags.is_some_and(|flags| word(&flags, 0) & 1 != 0) {
            return Ok(Some("a BPF program".to_owned()));
        }
        if self.options.is_empty() {
            return Ok(None);
        }
        // `TCA_…_ACT` (linux/pkt_cls.h).
        let place = match self.kind.as_str() {
            "bpf" | "cgroup" => 1,
            "matchall" => 2,
            "flower" | "basic" => 3,
            "fw" => 4,
            "route" => 6,
            "u32" => 7,
            "flow" => 9,
            other => return Ok(Some(format!("a filter of the kind {other}"))),
        };
        for action in NlasIterator::new(&value(&self.options, place)?.unwrap_or_default()[..]) {
            let action = action?;
            // TCA_ACT_KIND, TCA_ACT_OPTIONS
            let kind = text(&value(action.value(), 1)?.unwrap_or_default());
            let options = value(action.value(), 2)?.unwrap_or_default();
            let comes_back = kind == "mirred" && goes_to_ifb(&options, links)?;
            if !comes_back && !HARMLESS.contains(&kind.as_str()) {
                return Ok(Some(format!("the action {kind}")));
            }
        }
        Ok(None)
    }
}

/// Whether packets are redirected to an ifb interface, which returns them to where they came from, as ingress shapers
/// do.
fn goes_to_ifb(options: &[u8], links: &[LinkMessage]) -> Result<bool, DecodeError> {
    /// `TCA_MIRRED_PARMS`, and `ifindex` in `struct tc_mirred` (linux/tc_act/tc_mirred.h).
    const PARAMETERS: u16 = 2;
    const INTERFACE_AT: usize = 24;
    let interface = word(&value(options, PARAMETERS)?.unwrap_or_default(), INTERFACE_AT);
    let is_ifb = |attribute: &LinkAttribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Ifb)),
        _ => false,
    };
    let mut links = links.iter();
    Ok(links.any(|link| link.header.index == interface && link.attributes.iter().any(is_ifb)))
}

/// Size and offsets of `struct tcmsg` (linux/rtnetlink.h), which comes first: family and padding, interface, handle,
/// parent, and what does not matter here.
const HEADER: usize = 20;
const INTERFACE_AT: usize = 4;
const PARENT_AT: usize = 12;

impl Message for Traffic {
    const PROTOCOL: isize = NETLINK_ROUTE;
}

impl NetlinkSerializable for Traffic {
    fn message_type(&self) -> u16 {
        self.message
    }

    fn buffer_len(&self) -> usize {
        HEADER
    }

    fn serialize(&self, buffer: &mut [u8]) {
        buffer.fill(0);
        for (place, word) in [(INTERFACE_AT, self.interface), (PARENT_AT, self.parent)] {
            if let Some(bytes) = buffer.get_mut(place..place + 4) {
                bytes.copy_from_slice(&word.to_ne_bytes());
            }
        }
    }
}

impl NetlinkDeserializable for Traffic {
    type Error = DecodeError;

    fn deserialize(header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        let attributes = payload.get(HEADER..).unwrap_or_default();
        Ok(Self {
            message: header.message_type,
            interface: word(payload, INTERFACE_AT),
            parent: word(payload, PARENT_AT),
            // TCA_KIND, TCA_OPTIONS
            kind: text(&value(attributes, 1)?.unwrap_or_default()),
            options: value(attributes, 2)?.unwrap_or_default(),
        })
    }
}

impl From<Traffic> for NetlinkPayload<Traffic> {
    fn from(request: Traffic) -> Self {
        Self::InnerMessage(request)
    }
}

/// Reads a number in the byte order of this machine; 0 if there is none.
fn word(bytes: &[u8], place: usize) -> u32 {
    let word = bytes.get(place..place + 4).and_then(|word| word.try_into().ok());
    word.map_or(0, u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::attributes::tests::attribute;

    /// Builds an action with the index of its interface.
    fn action(kind: &str, interface: u32) -> Vec<u8> {
        let mut parameters = [0; 28];
        parameters[24..].copy_from_slice(&interface.to_ne_bytes());
        let options = attribute(2, &attribute(2, &parameters));
        attribute(1, &[attribute(1, format!("{kind}\0").as_bytes()), options].concat())
    }

    #[test]
    fn actions_that_may_lead_a_packet_to_others_are_told_from_the_rest() {
        let mut shaper = LinkMessage::default();
        shaper.header.index = 7;
        shaper.attributes = vec![LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Ifb)])];
        let cases = [
            ("no action", "u32", attribute(1, &[0; 4]), None),
            ("dropped", "u32", attribute(7, &action("gact", 0)), None),
            ("redirected", "u32", attribute(7, &action("mirred", 6)), Some("the action mirred")),
            ("redirected to an ifb", "u32", attribute(7, &action("mirred", 7)), None),
            ("written", "flower", attribute(3, &action("pedit", 0)), Some("the action pedit")),
            (
                "marked and translated",
                "matchall",
                attribute(2, &[action("skbedit", 0), action("nat", 0)].concat()),
                Some("the action nat"),
            ),
            ("a program that decides", "bpf", attribute(8, &1_u32.to_ne_bytes()), Some("a BPF program")),
            ("a program that sorts", "bpf", attribute(8, &0_u32.to_ne_bytes()), None),
            ("an unknown kind", "other", attribute(1, &[0; 4]), Some("a filter of the kind other")),
            ("the head of a chain", "other", Vec::new(), None),
        ];
        for (why, kind, options, expected) in cases {
            let filter = Traffic { kind: kind.to_owned(), options, ..Traffic::default() };
            assert_eq!(filter.harm(std::slice::from_ref(&shaper)).unwrap().as_deref(), expected, "{why}");
        }
    }
}
