//! Queries the kernel about the XDP features of drivers, and about the threads that receive packets
//! (Documentation/netlink/specs/netdev.yaml, since Linux 6.3).

use std::{collections::HashMap, io};

use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NlasIterator, ParseableParametrized,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use crate::netlink::{exchange, family_id};

/// The generic netlink family, and what is used of it (linux/netdev.h).
const FAMILY: &str = "netdev";
const DEV_GET: u8 = 1;
const DEV_IFINDEX: u16 = 1;
const DEV_XDP_FEATURES: u16 = 3;
const NAPI_GET: u8 = 11;
const NAPI_IFINDEX: u16 = 1;
const NAPI_PID: u16 = 4;

/// `NETDEV_XDP_ACT_BASIC`: drop, pass, and send back.
const BASIC: u64 = 1 << 0;
/// `NETDEV_XDP_ACT_RX_SG`: frames in several buffers.
const RX_SG: u64 = 1 << 5;

/// Capabilities of a driver.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpFeatures {
    /// It runs XDP programs.
    pub native: bool,
    /// It hands over frames that lie in several buffers, as jumbo frames do.
    pub jumbo: bool,
}

/// Returns the capabilities of the drivers of all interfaces, by index. An error if the kernel does not tell.
pub fn xdp_features() -> io::Result<HashMap<u32, XdpFeatures>> {
    let can = |bits| XdpFeatures { native: bits & BASIC != 0, jumbo: bits & RX_SG != 0 };
    let devices = ask_for_all(DEV_GET)?;
    let known = devices.iter().filter_map(|device| {
        Some((device.number(DEV_IFINDEX)? as u32, can(device.number(DEV_XDP_FEATURES)?)))
    });
    Ok(known.collect())
}

/// Returns the ids of the kernel threads that receive packets of an interface (threaded NAPI). An error if the kernel
/// does not tell, as before Linux 6.8.
pub fn receiving_threads(interface: u32) -> io::Result<Vec<u32>> {
    let queues = ask_for_all(NAPI_GET)?;
    let of_interface = queues.iter().filter(|queue| queue.number(NAPI_IFINDEX) == Some(interface.into()));
    Ok(of_interface.filter_map(|queue| Some(queue.number(NAPI_PID)? as u32)).collect())
}

/// Requests all objects of a kind, in this thread's network namespace.
fn ask_for_all(command: u8) -> io::Result<Vec<Described>> {
    let mut request = GenlMessage::from_payload(Described { command, numbers: Vec::new() });
    request.set_resolved_family_id(family_id(FAMILY)?);
    let answers = exchange(request, NLM_F_REQUEST | NLM_F_DUMP)?;
    Ok(answers.into_iter().map(|answer| answer.payload).collect())
}

/// An object of the family: its numeric attributes.
#[derive(Clone, Debug)]
struct Described {
    command: u8,
    numbers: Vec<(u16, u64)>,
}

impl Described {
    fn number(&self, kind: u16) -> Option<u64> {
        self.numbers.iter().find_map(|(of, number)| (*of == kind).then_some(*number))
    }
}

impl GenlFamily for Described {
    fn family_name() -> &'static str {
        FAMILY
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

/// A request for all objects has no attributes.
impl Emitable for Described {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for Described {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let mut numbers = Vec::new();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            let value = attribute.value();
            match (value.try_into(), value.try_into()) {
                (Ok(number), _) => numbers.push((attribute.kind(), u32::from_ne_bytes(number).into())),
                (_, Ok(number)) => numbers.push((attribute.kind(), u64::from_ne_bytes(number))),
                _ => {}
            }
        }
        Ok(Self { command: header.cmd, numbers })
    }
}
