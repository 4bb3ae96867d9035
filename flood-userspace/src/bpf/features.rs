//! What a driver can do with XDP, as it says itself (Documentation/netlink/specs/netdev.yaml, since Linux 6.3).

use std::{collections::HashMap, io};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use crate::netlink::{exchange, family_id};

/// The generic netlink family, and what of it is used (linux/netdev.h).
const FAMILY: &str = "netdev";
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;

/// `NETDEV_XDP_ACT_BASIC`: drop, pass, and send back.
const BASIC: u64 = 1 << 0;
/// `NETDEV_XDP_ACT_RX_SG`: frames in several buffers.
const RX_SG: u64 = 1 << 5;

/// What a driver can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures {
    /// It runs XDP programs.
    pub native: bool,
    /// It hands over frames that lie in several buffers, as jumbo frames do.
    pub jumbo: bool,
}

/// What the drivers of all interfaces can do, by the number of each. An error where the kernel does not tell.
pub fn xdp_features() -> io::Result<HashMap<u32, XdpFeatures>> {
    let mut request = GenlMessage::from_payload(Device { index: 0, features: None });
    request.set_resolved_family_id(family_id(FAMILY)?);
    let devices = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?.into_iter().map(|answer| answer.payload);
    let can = |bits| XdpFeatures { native: bits & BASIC != 0, jumbo: bits & RX_SG != 0 };
    Ok(devices.filter_map(|device| Some((device.index, can(device.features?)))).collect())
}

/// An interface, in the words of the family.
#[derive(Clone, Debug)]
struct Device {
    index: u32,
    features: Option<u64>,
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        DEV_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

/// A request for all of them says nothing.
impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(buffer: &[u8], _: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { index: 0, features: None };
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            let value = attribute.value();
            match (attribute.kind(), value.try_into(), value.try_into()) {
                (DEV_IFINDEX, Ok(index), _) => device.index = u32::from_ne_bytes(index),
                (DEV_XDP_FEATURES, _, Ok(features)) => device.features = Some(u64::from_ne_bytes(features)),
                _ => {}
            }
        }
        Ok(device)
    }
}
