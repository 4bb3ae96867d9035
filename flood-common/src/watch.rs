//! Sessions that sockets do not show: connections of hosts behind this one, and tunnels, whose socket takes packets
//! from anyone.
//!
//! When such a packet is over the limit of its source, the source is *watched* for some seconds. Packets that leave
//! to a watched source are counted for each flow, and after enough of them the flow is a session for a minute. So
//! nothing is written while no source sends too much, and a source that does costs one mark, whatever else it
//! varies.
//!
//! Only what strangers are not sent is counted: TCP with ACK and neither SYN nor RST, and what the end of a tunnel
//! sends. Spoofing can elicit a few of these (Linux answers a second SYN with a bare ACK, at most twice a second),
//! so one is not enough. WireGuard under load answers each initiation with a cookie if its sender has the public
//! key of this end: an attacker who has that key and spoofs a source gets a session for that source.
//!
//! The table consists of buckets like that of [`solicit`], but shares no words with it: filling it affects only
//! these sessions.

use crate::{
    abi::Settings,
    address::{Address, Network},
    meter::{Slot, WAYS},
    solicit::{
        self, Flow, MARK_S, Note, Outgoing, SESSION, SESSION_S, SolicitPlace, answers_of, is_live, left,
        tag_of, units, units_of, word,
    },
    wire::protocol,
};

/// Packets that have to leave in a flow before it is a session, within [this many seconds](MARK_S) of the first:
/// more than the ten bare ACKs that a half-open connection of Linux sends at most in this time.
pub const ENOUGH: u32 = 16;

/// The note of a watched source.
pub const WATCHED: Note = Note::BEGUN;

/// Returns the flow that a leaving packet counts for as a session, if any: its own, or all that goes through a
/// tunnel, one end of which may send from a port that is a hash of the inner packet.
#[inline(always)]
pub(crate) fn session(settings: &Settings, flow: &Flow, tables: &impl Outgoing) -> Option<Flow> {
    match flow.protocol {
        protocol::TCP => Some(*flow),
        // An attacker may make a service on another port send to the port of a tunnel.
        protocol::UDP
            if tables.is_tunnel(flow.local_port)
                || settings.is_of_clients(flow.local_port) && tables.is_hashing_tunnel(flow.remote_port) =>
        {
            Some(of_tunnel(flow))
        }
        _ => None,
    }
}

/// Returns the flow of everything that this host and the remote side send each other through a tunnel.
#[inline(always)]
pub(crate) fn of_tunnel(flow: &Flow) -> Flow {
    Flow { remote_port: 0, local_port: 0, ..*flow }
}

/// Returns where the mark of a watched remote side is: by what that side [counts by](Address::source_network).
#[inline(always)]
pub(crate) fn place_of_source(settings: &Settings, flow: &Flow) -> SolicitPlace {
    let Network { version, bits } = settings.source(flow.remote);
    let source = Flow {
        protocol: flow.protocol,
        remote: Address::V6 { network: bits, interface: version },
        local: Address::V4(0),
        remote_port: 0,
        local_port: 0,
    };
    source.place(&settings.solicit_seeds)
}

/// Counts a packet that leaves in the flow with this tag.
#[inline(always)]
pub fn count<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) {
    for slot in bucket {
        let found = slot.load();
        if tag_of(found) != tag || !is_live(found, now_ns) {
            continue;
        }
        let (sent, rest) = (answers_of(found), left(found, now_ns));
        let session = word(tag, SESSION, units(now_ns).wrapping_add(units_of(SESSION_S)));
        // If the race is lost, another packet won it.
        if sent == SESSION && rest <= units_of(SESSION_S) / 2 || sent < SESSION && sent + 1 >= ENOUGH {
            slot.compare_swap(found, session);
        } else if sent < SESSION {
            // The end stays the same, so a trickle never suffices.
            slot.compare_swap(found, found + word(0, 1, 0));
        }
        return;
    }
    solicit::write(bucket, tag, now_ns, Note { lifetime: units_of(MARK_S), answers: 1 });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    #[test]
    fn enough_packets_in_a_few_seconds_are_a_session_and_a_trickle_is_none() {
        // Packets, nanoseconds between two, whether they make a session.
        for (packets, apart, expected) in [
            (ENOUGH, 1_000, true),
            (ENOUGH - 1, 1_000, false),
            (ENOUGH, SECOND / 4, true),
            (1_000, SECOND / 2, false),
        ] {
            let bucket: [AtomicU64; WAYS] = Default::default();
            let mut now = NOW;
            let mut was = false;
            for _ in 0..packets {
                count(&bucket, 7, now);
                was |= solicit::is_session(&bucket, 7, now);
                now += apart;
            }
            assert_eq!(was, expected, "{packets} packets, one each {apart} ns");
        }
    }

    #[test]
    fn a_session_lasts_for_a_minute_and_as_long_as_something_leaves() {
        let bucket: [AtomicU64; WAYS] = Default::default();
        (0..ENOUGH).for_each(|_| count(&bucket, 7, NOW));
        let minute = u64::from(SESSION_S) * SECOND;
        assert!(solicit::is_session(&bucket, 7, NOW + minute));
        assert!(!solicit::is_session(&bucket, 7, NOW + minute + SECOND / 2));
        assert!(!solicit::is_session(&bucket, 8, NOW), "another flow");
        count(&bucket, 7, NOW + minute - SECOND);
        assert!(solicit::is_session(&bucket, 7, NOW + 2 * minute - 2 * SECOND));
        count(&bucket, 7, NOW + 3 * minute);
        assert!(!solicit::is_session(&bucket, 7, NOW + 3 * minute), "it begins anew");
    }
}
