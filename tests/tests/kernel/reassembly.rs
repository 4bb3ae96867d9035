//! The memory in which a host keeps fragments: how much of it each source may use.

use std::{net::IpAddr, time::Duration};

use flood_common::{reason::Reason::*, reassembly::PAGE_BYTES};
use flood_userspace::host::FragmentMemory;
use floodgate_tests::{
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, SERVER, SERVER6, VISITOR, VISITOR6, from},
    rig::{Loan, Rig},
};

const FAMILIES: [(IpAddr, IpAddr, IpAddr); 2] = [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)];

/// Seconds for which the host keeps incomplete datagrams.
const KEPT: u64 = 30;

/// Burst of fragments; the whole memory holds twice as many.
const HALF: usize = 400;

/// What each source may use of it.
const SHARE: usize = HALF / 8;

/// Tolerance of a burst: one for overdrawing a budget, and one for rounding.
const SLACK: usize = 2;

fn rig() -> Loan {
    let mut rig = Rig::without_limits();
    rig.own(&[SERVER, SERVER6]);
    let memory = FragmentMemory { bytes: 2 * HALF as u64 * PAGE_BYTES, kept: Duration::from_secs(KEPT) };
    rig.fragment_memory(memory);
    rig
}

fn part(source: IpAddr, datagram: u16, offset: u16, more: bool) -> Build {
    let build = from(source).datagram(datagram).fragment(offset, more);
    if offset == 0 { build.udp(4_000, 5_000).payload(64) } else { build.protocol(17).payload(72) }
}

/// The first fragment of a datagram of 144 bytes, and the rest.
fn first(source: IpAddr, datagram: u16) -> Build {
    part(source, datagram, 0, true)
}

fn last(source: IpAddr, datagram: u16) -> Build {
    part(source, datagram, 9, false)
}

fn passes(rig: &mut Rig, build: &Build) -> bool {
    let reason = rig.send(&build.bytes());
    assert!(matches!(reason, Some(Conforming | FragmentMemory)), "{reason:?}");
    reason == Some(Conforming)
}

/// Returns the n-th spoofed source.
fn invented(like: IpAddr, n: u32) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from((0x0b00_0000 + n * 9).to_be_bytes()),
        IpAddr::V6(_) => IpAddr::from((0x2600_u128 << 112 | u128::from(n) << 64).to_be_bytes()),
    }
}

#[test]
fn a_flood_of_fragments_that_nothing_follows_takes_half_and_visitors_keep_theirs() {
    needs_root!();
    let mut rig = rig();
    for (server, visitor, _) in FAMILIES {
        assert!(passes(&mut rig, &first(visitor, 1)) && passes(&mut rig, &last(visitor, 1)));
        for part in [first, last] {
            rig.advance(Duration::from_secs(100));
            assert!(passes(&mut rig, &first(visitor, 2)) && passes(&mut rig, &last(visitor, 2)));
            let sent = 0..10 * HALF as u32;
            let passed = sent.filter(|n| passes(&mut rig, &part(invented(server, *n), 7))).count();
            assert!(passed.abs_diff(HALF / 2) <= SLACK, "{server}: {passed} of a flood passed");
            for datagram in 100..200 {
                let pair = [first(visitor, datagram), last(visitor, datagram)];
                assert!(
                    pair.iter().all(|part| passes(&mut rig, part)),
                    "{server}: {datagram} of a visitor's"
                );
            }
            // What drains is available to newcomers again.
            rig.advance(Duration::from_secs(KEPT / 10));
            let sent = 0..HALF as u32;
            let passed = sent.filter(|n| passes(&mut rig, &part(invented(server, 50_000 + *n), 7))).count();
            assert!(passed.abs_diff(HALF / 10) <= SLACK, "{server}: {passed} in three seconds");
        }
    }
}

/// A fragment that finds no memory is not charged to the limits that other traffic needs.
#[test]
fn fragments_without_memory_take_nothing_from_the_limits() {
    needs_root!();
    let mut rig = rig();
    let limit = 3 * HALF;
    rig.limits(&format!("[limit.total.udp]\npackets = \"20/s\"\npackets_burst = \"{limit}\""));
    let sent = (0..10 * HALF as u32).map(|n| first(invented(SERVER, n), 7));
    let passed = sent.filter(|part| passes(&mut rig, part)).count();
    assert!(passed <= HALF, "{passed}");
    let player = from(VISITOR).udp(50_000, 27_015).bytes();
    let left = (0..limit).filter(|_| rig.send(&player) == Some(Conforming)).count();
    assert!(left + passed + SLACK >= limit, "{left} of {limit} are left, and {passed} fragments passed");
}

/// If the filter drops part of a datagram, the kernel keeps the rest, so its charge is not refunded.
#[test]
fn what_a_limit_drops_makes_no_datagram_whole() {
    needs_root!();
    let mut rig = rig();
    rig.limits("[limit.source]\npackets = \"100/s\"\npackets_burst = \"100\"\n[limit.total]\n");
    let send = |rig: &mut Rig, build: &Build| rig.send(&build.bytes()).expect("is run");
    let mut kept = 0;
    for datagram in 0..40 * 100_u16 {
        // Of each pair only the first fragment is within the limit.
        while send(&mut rig, &from(ATTACKER).udp(50_000, 27_015)) == Conforming {}
        rig.advance(Duration::from_millis(10));
        kept += usize::from(send(&mut rig, &first(ATTACKER, datagram)) == Conforming);
        assert_ne!(send(&mut rig, &last(ATTACKER, datagram)), Conforming, "{datagram}");
    }
    // Forty seconds, in which a full burst drains.
    assert!(kept <= 3 * SHARE, "{kept} first fragments are kept that nothing follows");
}

#[test]
fn no_source_takes_more_than_its_share() {
    needs_root!();
    let mut rig = rig();
    for (server, visitor, attacker) in FAMILIES {
        let passed = (0..1_000).filter(|n| passes(&mut rig, &first(attacker, *n))).count();
        // Of three quarters, as its fragments have come before, and what the first look is charged to lies above that.
        let share = SHARE * 3 / 4;
        assert!((share..=2 * share).contains(&passed), "{server}: {passed} of one source");
        assert!(passes(&mut rig, &first(visitor, 1)) && passes(&mut rig, &last(visitor, 1)), "{server}");
    }
}

#[test]
fn whole_datagrams_cost_nothing_and_what_only_looks_whole_does() {
    needs_root!();
    let mut rig = rig();
    for (server, visitor, attacker) in FAMILIES {
        for datagram in 0..5_000 {
            let mut pair = [first(visitor, datagram), last(visitor, datagram)];
            // Multipath links change the order.
            if datagram % 3 == 0 {
                pair.reverse();
            }
            assert!(pair.iter().all(|part| passes(&mut rig, part)), "{server}: {datagram}");
        }
        type Pair = fn(IpAddr, u16) -> [Build; 2];
        let shams: [(&str, Pair); 6] = [
            ("twice the first", |source, n| [first(source, n), first(source, n)]),
            ("with a hole", |source, n| [first(source, n), part(source, n, 10, false)]),
            ("with an overlap", |source, n| [first(source, n), part(source, n, 8, false)]),
            ("of another datagram", |source, n| [first(source, n), last(source, n + 1_000)]),
            ("that the kernel throws away", |source, n| {
                // A wrong checksum, or options before the fragment header that may be rejected.
                let build = if source.is_ipv4() {
                    last(source, n).patch(24, &[0xff, 0x00])
                } else {
                    from(source).datagram(n).extension(60, 0).fragment(9, false).protocol(17).payload(72)
                };
                [first(source, n), build]
            }),
            ("without all headers in its first", |source, n| {
                // Options that fill it completely (RFC 8200 section 4.5), and in IPv4 some that may be rejected.
                if source.is_ipv4() {
                    return [first(source, n).options(4), last(source, n)];
                }
                let first = from(source).datagram(n).fragment(0, true).extension(60, 0).protocol(47);
                [first, part(source, n, 1, false).protocol(60).payload(8)]
            }),
        ];
        for (why, pair) in shams {
            rig.advance(Duration::from_secs(100));
            let sent = (0..1_000).flat_map(|n| pair(attacker, n));
            let passed = sent.filter(|part| passes(&mut rig, part)).count();
            assert!(passed <= 2 * SHARE, "{server}: {passed} passed, {why}");
        }
    }
}

#[test]
fn what_was_asked_for_has_the_last_quarter() {
    needs_root!();
    let mut rig = rig();
    rig.tell_by(flood_common::abi::solicited::NOTED);
    for (server, resolver, _) in FAMILIES {
        // Two fragments from each of very many sources, so that the sources are known.
        for n in 0..2 * HALF as u32 {
            for datagram in [1, 2] {
                let _ = passes(&mut rig, &first(invented(server, n), datagram));
            }
        }
        assert!(!passes(&mut rig, &last(invented(server, 0), 9)), "{server}: three quarters are taken");
        rig.ask(&from(server).to(resolver).udp(40_000, 53).payload(30).bytes());
        let answer = |n: u16, offset, more| {
            let build = from(resolver).datagram(n).fragment(offset, more);
            let build =
                if offset == 0 { build.udp(53, 40_000).payload(64) } else { build.protocol(17).payload(72) };
            build.bytes()
        };
        for n in 0..8 {
            assert_eq!(rig.send(&answer(n, 0, true)), Some(Solicited), "{server}: answer {n}");
            assert_eq!(rig.send(&answer(n, 9, false)), Some(Solicited), "{server}: the rest of answer {n}");
        }
    }
}

#[test]
fn only_what_this_host_puts_together_is_counted() {
    needs_root!();
    let mut rig = rig();
    for (server, elsewhere) in [(SERVER, "198.51.100.9"), (SERVER6, "2001:db8:9::9")] {
        let elsewhere: IpAddr = elsewhere.parse().expect("an address");
        let send = |rig: &mut Rig, to: IpAddr| {
            let sent = (0..10 * HALF as u32).map(|n| first(invented(server, n), 7).to(to).bytes());
            sent.filter(|frame| rig.send(frame) == Some(Conforming)).count()
        };
        assert_eq!(send(&mut rig, elsewhere), 10 * HALF, "{server}");
        rig.defragment_for_all(true);
        assert!(
            send(&mut rig, elsewhere) <= HALF,
            "{server}: connection tracking puts together what is for others"
        );
        rig.defragment_for_all(false);
        rig.advance(Duration::from_secs(100));
        assert!(send(&mut rig, server) < HALF, "{server}");
    }
    let mut unlimited = Rig::without_limits();
    unlimited.own(&[SERVER]);
    unlimited.fragment_memory(FragmentMemory::default());
    assert!((0..10 * HALF as u32).all(|n| passes(&mut unlimited, &first(invented(SERVER, n), 7))));
}
