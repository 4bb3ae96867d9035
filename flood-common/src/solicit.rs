//! What the host has asked for: who may answer from the port of a mirror.
//!
//! A packet that goes out to the port of a [mirror](crate::reflector) is noted for some seconds, by both addresses and
//! both ports, and so an answer is told from what a mirror was made to send. A note is a word, `tag:32 | end:32`, in a
//! table of buckets like that of debts; the place of a flow in it is a hash with secret keys. Traffic of a noted flow, in
//! either direction, renews the note.
//!
//! Invariant: only what leaves the host makes a note. From outside one can renew a note that there is, and nothing else.

use crate::{
    address::Address,
    meter::{Slot, WAYS},
    verifier::opaque,
    wire::{Ethernet, Ipv4, Ipv6, Udp, VlanTag, Window, ethertype, protocol},
};

/// Binary logarithm of the number of buckets: 131,072 notes in 1 MiB, or five seconds of 25,000 questions a second.
pub const SOLICIT_BITS: u32 = 14;

/// Nanoseconds in a unit of time are two to this power: 0.13 seconds, so that 32 bits last for 18 years.
const UNIT_SHIFT: u32 = 27;

/// Seconds for which a resolver waits for an answer at most; unbound and BIND give up sooner.
pub const DNS_S: u32 = 10;
/// Seconds for which a note of a service lasts that is asked a question and answers it: the shortest interval at which
/// NTP polls (RFC 5905 section 7.3), longer than any client waits.
pub const ANSWER_S: u32 = 16;
/// Seconds for which a note of a service lasts with which one has a session. QUIC, IPsec, OpenVPN and STUN send
/// something every 15 to 30 seconds to keep a translator's table alive (RFC 9308 section 3.2, RFC 3948 section 4).
pub const SESSION_S: u32 = 60;

const DNS: u16 = 53;

/// Ports from here on are what systems give to their clients: Linux from 32768, others from 49152 (RFC 6335).
const FIRST_CLIENT_PORT: u16 = 32_768;

/// How often a note that lost its race is tried again.
const RACES: usize = 3;

/// Secrets of the hash.
pub type SolicitSeeds = [u64; 10];

/// UDP between somebody and this host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The other side.
    pub remote: Address,
    /// This host, or whom it forwards for.
    pub local: Address,
    /// Port of the other side.
    pub remote_port: u16,
    /// Port here.
    pub local_port: u16,
}

/// A bucket and the tag of a flow in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SolicitPlace {
    /// Number of the bucket.
    pub bucket: u32,
    /// Tells the flows in a bucket apart.
    pub tag: u32,
}

/// Hashes two addresses and one word more, all bits of the result alike. Pair-multiply-shift (Dietzfelbinger 1996), by which
/// two of them have the same upper half of the sum with a probability of 2^-32, and a multiplication that brings all of it
/// up.
#[inline(always)]
pub(crate) fn hash(seeds: &SolicitSeeds, [one, other]: [Address; 2], word: u64) -> u64 {
    let [k0, k1, k2, k3, k4, k5, k6, k7, k8, k9] = *seeds;
    let pair = |word: u64, high: u64, low: u64| {
        high.wrapping_add(word >> 32).wrapping_mul(low.wrapping_add(word & 0xffff_ffff))
    };
    let ([one_high, one_low], [other_high, other_low]) = (one.halves(), other.halves());
    let mut x = pair(one_high, k0, k1)
        .wrapping_add(pair(one_low, k2, k3))
        .wrapping_add(pair(other_high, k4, k5))
        .wrapping_add(pair(other_low, k6, k7))
        .wrapping_add(word.wrapping_mul(k8));
    x ^= x >> 32;
    x.wrapping_mul(k9 | 1)
}

impl Flow {
    /// A hash of all of it.
    #[inline(always)]
    pub(crate) fn hash(&self, seeds: &SolicitSeeds) -> u64 {
        let ports = (u64::from(self.remote_port) << 16) | u64::from(self.local_port);
        hash(seeds, [self.remote, self.local], ports)
    }

    /// Where the flow is noted.
    #[inline(always)]
    pub fn place(&self, seeds: &SolicitSeeds) -> SolicitPlace {
        let x = self.hash(seeds);
        SolicitPlace { bucket: (x >> (64 - SOLICIT_BITS)) as u32, tag: (x >> (32 - SOLICIT_BITS)) as u32 }
    }

    /// Whether a packet to the other side is a question, to which an answer may come, rather than the answer of a service
    /// of ours. A service that answers whatever it is sent would else vouch for every mirror that is aimed at it.
    ///
    /// `client` says that the packet is from a connected socket, or is forwarded, and so from no service of this host.
    /// Otherwise one of the ports must be of those that clients are given, or both the same, as peers have them (NTP, IKE,
    /// OpenVPN).
    #[inline(always)]
    pub fn is_question(&self, client: bool) -> bool {
        client
            || self.local_port == self.remote_port
            || (self.local_port | self.remote_port) & FIRST_CLIENT_PORT != 0
    }
}

/// How long a note lasts, in units of time, for the port of the other side.
#[inline(always)]
pub fn lifetime(port: u16, is_session: bool) -> u32 {
    const fn units(seconds: u32) -> u32 {
        (seconds as u64 * 1_000_000_000).div_ceil(1 << UNIT_SHIFT) as u32
    }
    if port == DNS {
        units(DNS_S)
    } else if is_session {
        units(SESSION_S)
    } else {
        units(ANSWER_S)
    }
}

#[inline(always)]
fn units(now_ns: u64) -> u32 {
    (now_ns >> UNIT_SHIFT) as u32
}

#[inline(always)]
fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline(always)]
fn word(tag: u32, end: u32) -> u64 {
    (u64::from(tag) << 32) | u64::from(end)
}

/// Whether a word is a note that lasts at `now_ns`.
#[inline(always)]
pub fn is_live(word: u64, now_ns: u64) -> bool {
    word != 0 && word as u32 >= units(now_ns)
}

/// Whether the flow with this tag is noted in its bucket; a packet that it is noted for renews the note.
#[inline(always)]
pub fn is_noted<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64, lifetime: impl FnOnce() -> u32) -> bool {
    for slot in bucket {
        let found = slot.load();
        if tag_of(found) == tag && is_live(found, now_ns) {
            renew(slot, found, now_ns, lifetime());
            return true;
        }
    }
    false
}

/// Notes the flow with this tag in its bucket: in its own word, or in that which ends first. So words that have ended are
/// taken before others, and where there are none the oldest gives way.
#[inline(always)]
pub fn note<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64, lifetime: u32) {
    for _ in 0..RACES {
        // VERIFIER: the way in the low bits of the end, as in the table of debts.
        let mut first = u64::MAX;
        for (way, slot) in bucket.iter().enumerate() {
            let found = slot.load();
            if tag_of(found) == tag && found != 0 {
                return renew(slot, found, now_ns, lifetime);
            }
            let end_and_way = (found & 0xffff_ffff) * WAYS as u64 + way as u64;
            first = opaque(first.min(end_and_way), found);
        }
        let slot = &bucket[first as usize % WAYS];
        let old = slot.load();
        if slot.compare_swap(old, word(tag, units(now_ns).wrapping_add(lifetime))) == old {
            return;
        }
    }
}

/// Writes only when half of the time is over, so that a flow of many packets mostly reads. A lost race is another packet's
/// note.
#[inline(always)]
fn renew<S: Slot>(slot: &S, found: u64, now_ns: u64, lifetime: u32) {
    let left = (found as u32).wrapping_sub(units(now_ns));
    // What has ended is left with a great deal.
    if left < lifetime / 2 || left > lifetime {
        slot.compare_swap(found, word(tag_of(found), units(now_ns).wrapping_add(lifetime)));
    }
}

/// The flow of a frame that leaves the host, if it is UDP whose ports are there to be read. `kind` is its EtherType, or that
/// inside the VLAN tag which the kernel keeps beside the frame. IPv6 with extension headers is not looked into.
#[inline(always)]
pub fn outgoing<'a, W: Window<'a>>(window: W, mut kind: u16) -> Option<Flow> {
    let mut offset = size_of::<Ethernet>();
    if matches!(kind, ethertype::VLAN | ethertype::SERVICE_VLAN) {
        kind = window.view::<VlanTag>(offset)?.ethertype.get();
        offset += size_of::<VlanTag>();
    }
    let (local, remote, transport) = match kind {
        ethertype::IPV4 => {
            const OFFSET: u16 = 0x1fff;
            let ip = window.view::<Ipv4>(offset)?;
            if ip.protocol != protocol::UDP || ip.flags_offset.get() & OFFSET != 0 {
                return None;
            }
            let header = usize::from(ip.version_length & 0x0f) * 4;
            (Address::from_v4_bytes(&ip.source), Address::from_v4_bytes(&ip.destination), offset + header)
        }
        ethertype::IPV6 => {
            let ip = window.view::<Ipv6>(offset)?;
            if ip.next_header != protocol::UDP {
                return None;
            }
            let header = size_of::<Ipv6>();
            (Address::from_v6_bytes(&ip.source), Address::from_v6_bytes(&ip.destination), offset + header)
        }
        _ => return None,
    };
    let udp = window.view::<Udp>(transport)?;
    Some(Flow { remote, local, remote_port: udp.destination.get(), local_port: udp.source.get() })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const NOW: u64 = 1_000 * SECOND;

    fn bucket() -> [AtomicU64; WAYS] {
        Default::default()
    }

    fn has(bucket: &[AtomicU64; WAYS], tag: u32, now_ns: u64) -> bool {
        is_noted(bucket, tag, now_ns, || lifetime(DNS, false))
    }

    #[test]
    fn a_note_lasts_for_its_time_and_no_longer() {
        for (port, session, seconds) in
            [(53, false, DNS_S), (53, true, DNS_S), (123, false, ANSWER_S), (4_500, true, SESSION_S)]
        {
            for (after, expected) in
                [(u64::from(seconds) * SECOND, true), (u64::from(seconds) * SECOND + SECOND / 2, false)]
            {
                let bucket = bucket();
                note(&bucket, 7, NOW, lifetime(port, session));
                assert_eq!(has(&bucket, 7, NOW + after), expected, "port {port} after {after} ns");
                assert!(!has(&bucket, 8, NOW), "another's");
            }
        }
    }

    #[test]
    fn traffic_in_either_direction_renews_it() {
        let answers = bucket();
        note(&answers, 7, NOW, lifetime(DNS, false));
        assert!((1..10).all(|n| has(&answers, 7, NOW + n * 8 * SECOND)), "a packet that comes in");
        assert!(!has(&answers, 7, NOW + 9 * 8 * SECOND + 11 * SECOND), "and then none for its time");

        let questions = bucket();
        for n in 0..10 {
            note(&questions, 7, NOW + n * 20 * SECOND, lifetime(DNS, false));
        }
        assert!(
            has(&questions, 7, NOW + 9 * 20 * SECOND + 5 * SECOND),
            "a packet that goes out, after an end as well"
        );
        let words = questions.iter().filter(|word| Slot::load(*word) != 0).count();
        assert_eq!(words, 1, "in its own word");
    }

    #[test]
    fn a_packet_from_outside_notes_nothing() {
        let bucket = bucket();
        assert!(!has(&bucket, 0, NOW) && !has(&bucket, 7, NOW));
        assert!(bucket.iter().all(|word| Slot::load(word) == 0));
        // A note that has ended is none, and no packet revives it.
        note(&bucket, 7, NOW, lifetime(DNS, false));
        let later = NOW + 3_600 * SECOND;
        assert!(!has(&bucket, 7, later) && !has(&bucket, 7, later));
    }

    #[test]
    fn in_a_full_bucket_the_oldest_gives_way_and_what_has_ended_before_it() {
        let bucket = bucket();
        for tag in 1..=8 {
            note(&bucket, tag, NOW + u64::from(tag) * SECOND, lifetime(DNS, false));
        }
        let now = NOW + 9 * SECOND;
        note(&bucket, 9, now, lifetime(DNS, false));
        let left: Vec<u32> = (1..=9).filter(|tag| has(&bucket, *tag, now)).collect();
        assert_eq!(left, [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn every_part_of_a_flow_counts() {
        let seeds: SolicitSeeds =
            std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n as u64 + 1));
        let flow = |remote: u64, local: u64, remote_port, local_port| Flow {
            remote: Address::V6 { network: 0x2001_0db8_0000_0000, interface: remote },
            local: Address::V6 { network: 0x2001_0db8_0001_0000, interface: local },
            remote_port,
            local_port,
        };
        let v4 = |remote, local| Flow {
            remote: Address::V4(remote),
            local: Address::V4(local),
            remote_port: 53,
            local_port: 40_000,
        };
        let mut places = [
            flow(1, 2, 53, 40_000),
            flow(2, 1, 53, 40_000),
            flow(1 << 32, 2, 53, 40_000),
            flow(1, 2, 40_000, 53),
            flow(1, 2, 53, 40_001),
            flow(1, 2, 123, 40_000),
            v4(1, 2),
            v4(2, 1),
        ]
        .iter()
        .map(|flow| flow.place(&seeds))
        .collect::<Vec<_>>();
        assert!(places.iter().all(|place| place.bucket < 1 << SOLICIT_BITS));
        let count = places.len();
        places.sort_by_key(|place| (place.bucket, place.tag));
        places.dedup();
        assert_eq!(places.len(), count);
    }

    #[test]
    fn questions_fill_the_buckets_evenly() {
        let seeds: SolicitSeeds =
            std::array::from_fn(|n| 0xbf58_476d_1ce4_e5b9_u64.wrapping_mul(2 * n as u64 + 1));
        let mut fill = vec![0u32; 1 << SOLICIT_BITS];
        for port in 0..=u16::MAX {
            let flow = Flow {
                remote: Address::V4(0xc000_0235),
                local: Address::V4(0xc000_0201),
                remote_port: 53,
                local_port: port,
            };
            fill[flow.place(&seeds).bucket as usize] += 1;
        }
        // Four in each on average; Poisson gives 15 or 16 as the largest of 16,384.
        let largest = fill.iter().max().unwrap();
        assert!(*largest <= 20, "{largest} in one bucket");
    }

    #[test]
    fn a_service_s_answer_is_no_question() {
        let cases = [
            ("a resolver from a port of a client's", 40_000, 53, false, true),
            ("NTP between peers", 123, 123, false, true),
            ("IKE behind a translator", 4_500, 4_500, false, true),
            ("a game server's answer to a mirror", 27_015, 53, false, false),
            ("a name server's answer to a client on the port of a mirror", 53, 1_900, false, false),
            (
                "to a client on a port of clients', which happens to be a mirror's",
                27_015,
                37_810,
                false,
                true,
            ),
            ("a resolver from any port, connected", 5_000, 53, true, true),
        ];
        for (why, local_port, remote_port, client, expected) in cases {
            let (remote, local) = (Address::V4(1), Address::V4(2));
            assert_eq!(
                Flow { remote, local, remote_port, local_port }.is_question(client),
                expected,
                "{why}"
            );
        }
    }
}
