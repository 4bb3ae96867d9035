//! Records what the host has solicited: which remote sides may reply.
//!
//! A packet that leaves for the port of a [reflector](crate::reflector), of a tunnel, or as a ping is noted for
//! some seconds, by both addresses and both ports. This distinguishes a reply from reflected attack traffic. A note
//! is a word, `tag:32 | answers:6 | end:26`, in a table of buckets like the debt table; the place of a flow in it
//! is a hash with secret keys.
//!
//! A service answers whatever it is sent. It must not vouch for every reflector that is aimed at it, so a second
//! table of the same form marks the flows that the remote side began. A packet that leaves in such a flow is not a
//! question, whichever address of this host it leaves from: a service may answer from another address than it was
//! asked at.
//!
//! Invariants: only packets that leave the host make or renew notes; packets from outside can only use them up. A
//! question is worth a fixed number of answers and no more; packets that a session admits are charged to an
//! [account](crate::account).

use crate::{
    abi::Settings,
    account::ports,
    address::Address,
    link::{self, Inner, Link},
    meter::{RACES, Slot, WAYS},
    open,
    packet::{Packet, is_extension},
    verifier::opaque,
    watch,
    wire::{Icmp, Ipv4, Ipv6, Tcp, Udp, Window, ethertype, is_ping, protocol, tcp_flags},
};

/// Binary logarithm of the number of buckets of each table: 131,072 flows in 1 MiB, or five seconds of 25,000
/// questions a second.
pub const SOLICIT_BITS: u32 = 14;

/// Nanoseconds in a unit of time, as a binary logarithm: 0.13 seconds, so that 26 bits last for 104 days.
const UNIT_SHIFT: u32 = 27;

/// Bits of an end; the number of answers is above it.
const END_BITS: u32 = 26;
const END_MASK: u32 = (1 << END_BITS) - 1;

/// Seconds for which a resolver waits for an answer at most; unbound and BIND give up sooner.
pub const DNS_S: u32 = 10;
/// Seconds for which a note lasts for a service that answers each question: the shortest interval at which NTP
/// polls (RFC 5905 section 7.3), longer than any client waits.
pub const ANSWER_S: u32 = 16;
/// Seconds for which a note lasts for a service that has sessions. QUIC, IPsec, OpenVPN and STUN send something
/// every 15 to 30 seconds to keep the table of a NAT device alive (RFC 9308 section 3.2, RFC 3948 section 4).
pub const SESSION_S: u32 = 60;
/// Seconds for which a flow is marked as begun by the remote side: longer than a service needs for its answer. A
/// service that continues to send renews the mark.
pub const MARK_S: u32 = 5;

/// Answers to a question: one, or the few packets of a long one. Successive questions add up.
const ANSWERS: u32 = 8;

/// The most answers that can be outstanding; above it, the number that marks a session.
const MOST_ANSWERS: u32 = 62;
pub(crate) const SESSION: u32 = 63;

const DNS: u16 = 53;

/// Secret keys of the hash.
pub type SolicitSeeds = [u64; 10];

/// The packets that a remote side and this host send each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// The IP protocol.
    pub protocol: u8,
    /// The remote side.
    pub remote: Address,
    /// This host, or the host that it forwards for.
    pub local: Address,
    /// Port of the remote side; 0 if the protocol has none.
    pub remote_port: u16,
    /// Port here, or the identifier of a ping.
    pub local_port: u16,
}

/// A bucket and the tag of a flow in it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct SolicitPlace {
    /// Number of the bucket.
    pub bucket: u32,
    /// Distinguishes the flows in a bucket.
    pub tag: u32,
}

/// Hashes two addresses and one more word; all bits of the result are equally good. This is pair-multiply-shift
/// (Dietzfelbinger 1996), in which two inputs have the same upper half of the sum with a probability of 2^-32,
/// followed by a multiplication that carries all of it into the upper bits.
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
    /// Returns the flow of an incoming packet.
    #[inline(always)]
    pub fn of(packet: &Packet) -> Self {
        let [remote_port, local_port] = ports(packet.ports);
        Self {
            protocol: packet.protocol,
            remote: packet.source,
            local: packet.destination,
            remote_port,
            local_port: local_port | packet.icmp.identifier,
        }
    }

    /// Returns a hash of the whole flow.
    #[inline(always)]
    pub(crate) fn hash(&self, seeds: &SolicitSeeds) -> u64 {
        let word =
            u64::from(self.protocol) << 32 | u64::from(self.remote_port) << 16 | u64::from(self.local_port);
        hash(seeds, [self.remote, self.local], word)
    }

    /// Returns where the flow is noted.
    #[inline(always)]
    pub fn place(&self, seeds: &SolicitSeeds) -> SolicitPlace {
        let x = self.hash(seeds);
        SolicitPlace { bucket: (x >> (64 - SOLICIT_BITS)) as u32, tag: (x >> (32 - SOLICIT_BITS)) as u32 }
    }

    /// Returns where the flow is marked as begun by the remote side.
    #[inline(always)]
    pub fn place_begun(&self, seeds: &SolicitSeeds) -> SolicitPlace {
        Self { local: Address::V4(0), ..*self }.place(seeds)
    }

    /// Whether its protocol is one, other than UDP, whose services answer strangers.
    #[inline(always)]
    pub fn answers_strangers(&self) -> bool {
        matches!(self.protocol, protocol::SCTP | protocol::DCCP | protocol::UDP_LITE)
    }
}

pub(crate) const fn units_of(seconds: u32) -> u32 {
    (seconds as u64 * 1_000_000_000).div_ceil(1 << UNIT_SHIFT) as u32
}

/// What is recorded about a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// Units for which it lasts.
    pub(crate) lifetime: u32,
    pub(crate) answers: u32,
}

impl Note {
    /// A flow that the remote side began.
    pub const BEGUN: Self = Self { lifetime: units_of(MARK_S), answers: 0 };

    /// The same, after this host has answered.
    pub const ANSWERED: Self = Self { answers: SESSION, ..Self::BEGUN };

    /// Returns the note for a packet to the remote side. `is_session` says that services on this UDP port have
    /// sessions.
    #[inline(always)]
    pub fn question(flow: &Flow, is_session: bool) -> Self {
        let (lifetime, answers) = match flow.protocol {
            protocol::UDP if flow.remote_port == DNS => (DNS_S, ANSWERS),
            protocol::UDP if is_session => (SESSION_S, SESSION),
            protocol::UDP | protocol::ICMP | protocol::ICMPV6 => (ANSWER_S, ANSWERS),
            _ => (SESSION_S, SESSION),
        };
        Self { lifetime: units_of(lifetime), answers }
    }
}

/// What this host has asked of the sender of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Asked {
    /// Nothing.
    Nothing = 0,
    /// A question, and this is an answer to it.
    Question = 1,
    /// A session exists.
    Session = 2,
    /// A question that has already had its answers.
    Answered = 3,
}

impl Asked {
    /// Converts from the number.
    #[inline(always)]
    pub fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Nothing,
            1 => Self::Question,
            2 => Self::Session,
            _ => Self::Answered,
        }
    }
}

#[inline(always)]
pub(crate) fn units(now_ns: u64) -> u32 {
    (now_ns >> UNIT_SHIFT) as u32 & END_MASK
}

#[inline(always)]
pub(crate) fn tag_of(word: u64) -> u32 {
    (word >> 32) as u32
}

#[inline(always)]
pub(crate) fn answers_of(word: u64) -> u32 {
    word as u32 >> END_BITS
}

#[inline(always)]
pub(crate) fn word(tag: u32, answers: u32, end: u32) -> u64 {
    u64::from(tag) << 32 | u64::from(answers << END_BITS | end & END_MASK)
}

/// Returns the units for which a word still lasts; 0 once it has ended.
#[inline(always)]
pub(crate) fn left(word: u64, now_ns: u64) -> u32 {
    const LONGEST: u32 = units_of(SESSION_S);
    let left = (word as u32).wrapping_sub(units(now_ns)).wrapping_add(1) & END_MASK;
    if left > LONGEST + 1 { 0 } else { left }
}

/// Whether a word belongs to a flow at `now_ns`.
#[inline(always)]
pub fn is_live(word: u64, now_ns: u64) -> bool {
    word != 0 && left(word, now_ns) != 0
}

/// Whether the flow with this tag is in its bucket.
#[inline(always)]
pub fn is_in<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) -> bool {
    bucket.iter().any(|slot| {
        let found = slot.load();
        tag_of(found) == tag && is_live(found, now_ns)
    })
}

/// Whether the word of the flow with this tag has the mark of a session. Among flows that the remote side began,
/// these are the flows in which this host has answered since the flow was last marked.
#[inline(always)]
pub fn is_session<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) -> bool {
    bucket.iter().any(|slot| {
        let found = slot.load();
        tag_of(found) == tag && is_live(found, now_ns) && answers_of(found) == SESSION
    })
}

/// Returns what has been asked in the flow with this tag. A packet that answers a question uses up one of its
/// answers.
#[inline(always)]
pub fn asked<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64) -> Asked {
    for slot in bucket {
        let found = slot.load();
        if tag_of(found) != tag || !is_live(found, now_ns) {
            continue;
        }
        return match answers_of(found) {
            SESSION => Asked::Session,
            0 => Asked::Answered,
            // If the race is lost, another packet of the flow won it, which is an answer as well.
            _ => {
                slot.compare_swap(found, found - (1 << END_BITS));
                Asked::Question
            }
        };
    }
    Asked::Nothing
}

/// Writes a note about the flow with this tag into its bucket: into the flow's own word, or else into the word that
/// ends first. So words that have ended are overwritten before others; if there are none, the oldest note is
/// evicted.
#[inline(always)]
pub fn write<S: Slot>(bucket: &[S; WAYS], tag: u32, now_ns: u64, note: Note) {
    for _ in 0..RACES {
        // VERIFIER: the way is in the low bits, as in the debt table.
        let mut first = u64::MAX;
        for (way, slot) in bucket.iter().enumerate() {
            let found = slot.load();
            if tag_of(found) == tag && found != 0 {
                return renew(slot, found, now_ns, note);
            }
            let left_and_way = u64::from(left(found, now_ns)) * WAYS as u64 + way as u64;
            first = opaque(first.min(left_and_way), found);
        }
        let slot = &bucket[first as usize % WAYS];
        let old = slot.load();
        let new = word(tag, note.answers, units(now_ns).wrapping_add(note.lifetime));
        if slot.compare_swap(old, new) == old {
            return;
        }
    }
}

/// Writes only when half of the time is over or answers are to be added, so that a flow of many packets mostly
/// reads. If the race is lost, another packet won it.
#[inline(always)]
fn renew<S: Slot>(slot: &S, found: u64, now_ns: u64, note: Note) {
    let left = left(found, now_ns);
    let open = if left == 0 { 0 } else { answers_of(found) };
    let answers = match note.answers {
        SESSION => SESSION,
        // What the remote side sends gives no information about answers.
        0 => 0,
        more => (open + more).min(MOST_ANSWERS),
    };
    if left <= note.lifetime / 2 || open < answers {
        slot.compare_swap(found, word(tag_of(found), answers, units(now_ns).wrapping_add(note.lifetime)));
    }
}

/// Where outgoing packets are recorded: BPF maps in the kernel, ordinary memory on a host.
pub trait Outgoing {
    /// Sets the bit of a port in a [word](open::word) of the open ports.
    fn set_open(&self, word: usize, port: u16);
    /// Whether a reflector may answer UDP to this port.
    fn is_mirror(&self, port: u16) -> bool;
    /// Whether services on this UDP port have sessions.
    fn has_sessions(&self, port: u16) -> bool;
    /// Whether a socket of this host on this UDP port is the end of a tunnel.
    fn is_tunnel(&self, port: u16) -> bool;
    /// Whether it is the end of a tunnel whose remote end sends from ports that are hashes.
    fn is_hashing_tunnel(&self, port: u16) -> bool;
    /// Whether a source is [watched](crate::watch).
    fn is_watched(&self, source: SolicitPlace, now_ns: u64) -> bool;
    /// [Counts](crate::watch::count) a packet in a flow with a watched source.
    fn count(&self, flow: SolicitPlace, now_ns: u64);
    /// Whether this host has asked something in a flow.
    fn has_asked(&self, flow: SolicitPlace, now_ns: u64) -> bool;
    /// Whether the remote side began a flow.
    fn has_begun(&self, flow: SolicitPlace, now_ns: u64) -> bool;
    /// Marks again that the remote side began a flow, and that this host answers.
    fn goes_on(&self, flow: SolicitPlace, now_ns: u64);
    /// Notes what this host has asked in a flow.
    fn ask(&self, flow: SolicitPlace, note: Note, now_ns: u64);
}

/// Records what follows from a packet that leaves: that its port is in use, and which answers to admit.
/// `is_connected` says whether its socket is connected.
#[inline(always)]
pub fn sent(settings: &Settings, flow: &Flow, is_connected: bool, now_ns: u64, tables: &impl Outgoing) {
    if let Some(session) = watch::session(settings, flow, tables)
        && tables.is_watched(watch::place_of_source(settings, flow), now_ns)
    {
        tables.count(session.place(&settings.solicit_seeds), now_ns);
    }
    if flow.protocol == protocol::TCP {
        return;
    }
    if flow.protocol == protocol::UDP {
        tables.set_open(open::word(flow.local_port), flow.local_port);
        if is_connected {
            tables.set_open(open::peer_word(flow.local_port), flow.local_port);
        }
        if !tables.is_mirror(flow.remote_port) {
            return;
        }
    }
    let seeds = &settings.solicit_seeds;
    let (begun, asked) = (flow.place_begun(seeds), flow.place(seeds));
    // A flow that this host began remains so, whatever anybody sends to another of its addresses.
    if !is_connected && tables.has_begun(begun, now_ns) && !tables.has_asked(asked, now_ns) {
        tables.goes_on(begun, now_ns);
    } else {
        let note = Note::question(flow, tables.has_sessions(flow.remote_port));
        tables.ask(asked, note, now_ns);
    }
}

/// Returns the flow of a frame that leaves the host, if it may be a question: UDP, a ping, or a protocol without
/// ports; and, if the host `passes_on` packets of others, TCP that is [not an answer to a stranger](crate::watch).
/// `kind` is its EtherType, or that inside the VLAN tag that the kernel keeps beside the frame. The parser looks
/// behind the same headers as in an incoming frame, because the answer will have them too; but it does not look
/// into IPv6 with extension headers.
#[inline(always)]
pub fn outgoing<'a, W: Window<'a>>(window: W, kind: u16, passes_on: bool) -> Option<Flow> {
    let Link::Ip(Inner { ethertype, offset, .. }) = link::open(window, kind) else { return None };
    let (protocol, local, remote, transport) = match ethertype {
        ethertype::IPV4 => {
            const OFFSET: u16 = 0x1fff;
            let ip = window.view::<Ipv4>(offset)?;
            if ip.flags_offset.get() & OFFSET != 0 {
                return None;
            }
            let header = usize::from(ip.version_length & 0x0f) * 4;
            let [source, destination] = [&ip.source, &ip.destination].map(Address::from_v4_bytes);
            (ip.protocol, source, destination, offset + header)
        }
        _ => {
            let ip = window.view::<Ipv6>(offset)?;
            if is_extension(ip.next_header) {
                return None;
            }
            let [source, destination] = [&ip.source, &ip.destination].map(Address::from_v6_bytes);
            (ip.next_header, source, destination, offset + size_of::<Ipv6>())
        }
    };
    let (remote_port, local_port) = match protocol {
        protocol::UDP => {
            let udp = window.view::<Udp>(transport)?;
            (udp.destination.get(), udp.source.get())
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let icmp = window.view::<Icmp>(transport)?;
            if !is_ping(protocol, icmp.kind) {
                return None;
            }
            (0, icmp.identifier.get())
        }
        protocol::TCP if passes_on => {
            const NOT_BEFORE: u8 = tcp_flags::SYN | tcp_flags::RST;
            let tcp = window.view::<Tcp>(transport)?;
            if tcp.flags & (NOT_BEFORE | tcp_flags::ACK) != tcp_flags::ACK {
                return None;
            }
            (tcp.destination.get(), tcp.source.get())
        }
        protocol::TCP => return None,
        _ => (0, 0),
    };
    Some(Flow { protocol, remote, local, remote_port, local_port })
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

    fn flow(protocol: u8, remote_port: u16) -> Flow {
        Flow { protocol, remote: Address::V4(1), local: Address::V4(2), remote_port, local_port: 40_000 }
    }

    fn question(port: u16) -> Note {
        Note::question(&flow(protocol::UDP, port), false)
    }

    #[test]
    fn what_the_other_side_sends_renews_its_mark_and_not_that_it_is_answered() {
        let bucket = bucket();
        let half = u64::from(MARK_S) * SECOND * 3 / 4;
        write(&bucket, 7, NOW, Note::BEGUN);
        assert!(is_in(&bucket, 7, NOW) && !is_session(&bucket, 7, NOW), "begun");
        write(&bucket, 7, NOW, Note::ANSWERED);
        write(&bucket, 7, NOW, Note::BEGUN);
        assert!(is_session(&bucket, 7, NOW), "answered a moment ago");
        write(&bucket, 7, NOW + half, Note::BEGUN);
        assert!(is_in(&bucket, 7, NOW + half) && !is_session(&bucket, 7, NOW + half), "not since");
        write(&bucket, 7, NOW + half, Note::ANSWERED);
        assert!(is_session(&bucket, 7, NOW + half), "again");
    }

    #[test]
    fn a_note_lasts_for_its_time_and_no_longer() {
        for (of, session, seconds, expected) in [
            (flow(protocol::UDP, 53), false, DNS_S, Asked::Question),
            (flow(protocol::UDP, 53), true, DNS_S, Asked::Question),
            (flow(protocol::UDP, 123), false, ANSWER_S, Asked::Question),
            (flow(protocol::UDP, 4_500), true, SESSION_S, Asked::Session),
            (flow(protocol::ICMP, 0), false, ANSWER_S, Asked::Question),
            (flow(47, 0), false, SESSION_S, Asked::Session),
        ] {
            let end = u64::from(seconds) * SECOND;
            for (after, expected) in [(end, expected), (end + SECOND / 2, Asked::Nothing)] {
                let bucket = bucket();
                write(&bucket, 7, NOW, Note::question(&of, session));
                assert_eq!(asked(&bucket, 8, NOW), Asked::Nothing, "another's");
                assert_eq!(asked(&bucket, 7, NOW + after), expected, "{of:?} after {after} ns");
            }
        }
    }

    #[test]
    fn only_what_goes_out_renews_it() {
        let bucket = bucket();
        write(&bucket, 7, NOW, question(53));
        assert_eq!(asked(&bucket, 7, NOW + 8 * SECOND), Asked::Question);
        assert_eq!(asked(&bucket, 7, NOW + 11 * SECOND), Asked::Nothing, "a packet that came in did not");
        for n in 0..10 {
            write(&bucket, 7, NOW + n * 20 * SECOND, question(53));
        }
        assert_eq!(
            asked(&bucket, 7, NOW + 9 * 20 * SECOND + 5 * SECOND),
            Asked::Question,
            "after an end as well"
        );
        let words = bucket.iter().filter(|word| Slot::load(*word) != 0).count();
        assert_eq!(words, 1, "in its own word");
    }

    #[test]
    fn a_question_is_worth_so_many_answers() {
        let bucket = bucket();
        let answers = |now_ns| (0..1_000).filter(|_| asked(&bucket, 7, now_ns) == Asked::Question).count();
        write(&bucket, 7, NOW, question(53));
        assert_eq!(answers(NOW), ANSWERS as usize);
        assert_eq!(asked(&bucket, 7, NOW), Asked::Answered);
        write(&bucket, 7, NOW, question(53));
        assert_eq!(answers(NOW), ANSWERS as usize, "another question");
        for _ in 0..100 {
            write(&bucket, 7, NOW, question(53));
        }
        assert_eq!(answers(NOW), MOST_ANSWERS as usize, "many");
        write(&bucket, 7, NOW, Note::question(&flow(protocol::UDP, 443), true));
        assert!((0..1_000).all(|_| asked(&bucket, 7, NOW) == Asked::Session));
    }

    #[test]
    fn a_packet_from_outside_notes_nothing() {
        let bucket = bucket();
        assert!((0..9).all(|tag| asked(&bucket, tag, NOW) == Asked::Nothing));
        assert!(bucket.iter().all(|word| Slot::load(word) == 0));
        // A note that has ended does not count, and no packet revives it.
        write(&bucket, 7, NOW, question(53));
        let later = NOW + 3_600 * SECOND;
        assert!((0..2).all(|_| asked(&bucket, 7, later) == Asked::Nothing));
    }

    #[test]
    fn in_a_full_bucket_the_oldest_gives_way_and_what_has_ended_before_it() {
        let bucket = bucket();
        for tag in 1..=8 {
            write(&bucket, tag, NOW + u64::from(tag) * SECOND, question(53));
        }
        let now = NOW + 9 * SECOND;
        write(&bucket, 9, now, question(53));
        let left: Vec<u32> = (1..=9).filter(|tag| is_in(&bucket, *tag, now)).collect();
        assert_eq!(left, [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn every_part_of_a_flow_counts() {
        let seeds: SolicitSeeds =
            std::array::from_fn(|n| 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(2 * n as u64 + 1));
        let flow = |remote: u64, local: u64, remote_port, local_port| Flow {
            protocol: protocol::UDP,
            remote: Address::V6 { network: 0x2001_0db8_0000_0000, interface: remote },
            local: Address::V6 { network: 0x2001_0db8_0001_0000, interface: local },
            remote_port,
            local_port,
        };
        let v4 = |remote, local| Flow {
            protocol: protocol::UDP,
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
            Flow { protocol: protocol::ICMP, ..v4(1, 2) },
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
                protocol: protocol::UDP,
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
}
