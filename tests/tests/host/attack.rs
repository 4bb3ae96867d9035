//! Attacks that once got through or did harm, and some random ones (`cargo xtask attack` has more time for these).

use floodgate_tests::attack::{Aim, Kind, Phase, Pool, Profile, Trial, search};

/// Packets a second of a flood: all rates of a trial are a tenth of those on a host.
const FLOOD: u32 = 15_000;

/// What once got through or did harm, the configuration, and the attack.
type Case = (&'static str, Profile, Vec<Phase>);

#[test]
fn what_once_got_through_or_did_harm_does_not_any_more() {
    let flood = |kind, aim, pool| Phase::flood(kind, aim, pool, FLOOD);
    let many = Pool::Many(1_000);
    let few_tuples = |kind| Phase { ports: 1, ..flood(kind, Aim::Service, Pool::Many(50)) };
    let cases: [Case; 14] = [
        (
            "a large packet opens the sketch for small ones",
            Profile::Game,
            vec![Phase { large_every: Some(16), ports: 1, ..flood(Kind::Udp, Aim::Service, Pool::Own) }],
        ),
        ("a half-open connection speaks for SYNs", Profile::Default, vec![few_tuples(Kind::Syn)]),
        (
            "a half-open connection speaks for ACKs and RSTs",
            Profile::Dns,
            vec![
                Phase { rate: 200, start_ms: 0, ..few_tuples(Kind::Syn) },
                few_tuples(Kind::Ack),
                few_tuples(Kind::Rst),
            ],
        ),
        ("errors about a service", Profile::Web, vec![flood(Kind::Error, Aim::Other, many)]),
        (
            "errors about the attacker's own connection",
            Profile::Web,
            vec![flood(Kind::OwnError, Aim::Service, many)],
        ),
        (
            "a listener that takes no more connections",
            Profile::Default,
            vec![flood(Kind::Syn, Aim::Other, many)],
        ),
        (
            "a service vouches for mirrors",
            Profile::Default,
            vec![flood(Kind::Reflected, Aim::Other, Pool::Own)],
        ),
        ("mirrors on high ports", Profile::Default, vec![flood(Kind::Reflected, Aim::Service, Pool::Own)]),
        (
            "a note that answers renew",
            Profile::Default,
            vec![flood(Kind::OwnAnswer, Aim::Service, Pool::Own)],
        ),
        ("a visitor's address", Profile::Default, vec![flood(Kind::Udp, Aim::Service, Pool::Visitor)]),
        ("SYNs from a visitor's address", Profile::Web, vec![flood(Kind::Syn, Aim::Service, Pool::Visitor)]),
        ("the resolver's address", Profile::Web, vec![flood(Kind::Udp, Aim::Client, Pool::Resolver)]),
        (
            "one port takes the others' share",
            Profile::Dns,
            vec![Phase { size: 1_000, ..flood(Kind::Udp, Aim::Other, many) }],
        ),
        (
            "what is dropped is charged to others",
            Profile::Game,
            vec![Phase { rate: 40_000, ..flood(Kind::Reflected, Aim::Service, many) }],
        ),
    ];
    for (what, profile, phases) in cases {
        let trial = Trial::new(profile, phases);
        assert_eq!(trial.run(), Ok(()), "{what}");
    }
}

#[test]
fn chance_finds_no_attack() {
    // A second's worth.
    if let Some(finding) = search(1, 60) {
        panic!("{}\n{:#?}", finding.why, finding.trial);
    }
}
