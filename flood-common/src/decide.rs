//! The verdict: from the facts about a packet to the reason why it passes or is dropped.
//!
//! The order is the policy. What keeps the host reachable comes first, within its own budget; then the allow list,
//! which wins over everything that has a source; then defects, the block list, and the limits of the source.
//!
//! Lookups are lazy, since each costs: [`Tables`] is asked only for what the packet has come to.

use crate::{
    abi::{Settings, list},
    address::Address,
    lists::Listed,
    meter::{Charge, Price},
    packet::{Packet, Parsed, Vital},
    reason::Reason,
};

/// The tables behind a verdict: BPF maps in the kernel, ordinary memory on a host.
pub trait Tables {
    /// What the unexpired entries of both lists say about the address.
    fn look_up(&self, settings: &Settings, address: Address, now_ns: u64) -> Listed;
    /// Charges the source of a packet.
    fn charge_source(&self, settings: &Settings, source: Address, now_ns: u64, price: &Price) -> Charge;
    /// Charges the budget of vital messages.
    fn charge_vital(&self, vital: Vital, now_ns: u64, price: &Price) -> Charge;
}

/// Decides about a frame.
#[inline(always)]
pub fn decide<T: Tables>(parsed: &Parsed, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    match parsed {
        Parsed::Packet(packet) => decide_packet(packet, settings, now_ns, tables),
        Parsed::NotIp => Reason::NotIp,
        Parsed::Broken(reason) => *reason,
    }
}

#[inline(always)]
fn decide_packet<T: Tables>(packet: &Packet, settings: &Settings, now_ns: u64, tables: &T) -> Reason {
    if let Some(vital) = packet.vital {
        let price = settings.vital[vital as usize].price(packet.length);
        if tables.charge_vital(vital, now_ns, &price) == Charge::Conforming {
            return Reason::Protected;
        }
    }
    let family = match packet.source {
        Address::V4(_) => list::V4,
        Address::V6 { .. } => list::V6,
    };
    let listed = if settings.lists & family == 0 {
        Listed::Nothing
    } else {
        tables.look_up(settings, packet.source, now_ns)
    };
    if listed == Listed::Allowed {
        return Reason::Allowed;
    }
    if let Some(defect) = packet.defect {
        return defect;
    }
    if listed == Listed::Blocked {
        return Reason::Blocked;
    }
    if !settings.source.is_set() {
        return Reason::Conforming;
    }
    let price = settings.source.price(packet.length);
    match tables.charge_source(settings, packet.source, now_ns, &price) {
        Charge::Conforming => Reason::Conforming,
        Charge::Exceeding => price.reason,
        Charge::Unaccounted => Reason::Unaccounted,
    }
}
