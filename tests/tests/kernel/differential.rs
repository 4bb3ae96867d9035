//! Host and kernel agree on generated frames. That they do is checked by [`Rig::send`], with every counter.

use std::time::Duration;

use anyhow::Result;
use fastrand::Rng;
use flood_common::{proof::means, reason::Reason, sanity::CHECKS};
use floodgate_tests::{
    lab::{Namespace, slowness},
    needs_root,
    packet::generate,
    rig::{Open, Rig},
};

/// Tight enough, each in its way, that all of them are exceeded now and then.
const LIMITS: &str = r#"
    [limit.source]
    packets = "100/s"
    packets_burst = "60"
    bits = "1Mbit/s"
    bits_burst = "100kbit"
    [limit.source_prefix.udp]
    packets = "100/s"
    bits = "1Mbit/s"
    [limit.destination.tcp]
    packets = "100/s"
    bits = "1Mbit/s"
    [limit.destination_prefix.other]
    packets = "80/s"
    bits = "1Mbit/s"
    [limit.total]
    packets = "1500/s"
    bits = "8Mbit/s"
"#;

/// Ports that a socket is open on.
const OPEN: [u16; 1] = [53];

/// Generated frames in all, on a real processor; fewer on a slow one.
const FRAMES: u64 = 120_000;

/// Reasons for which a frame alone is not enough: a full bucket, or a socket.
const NEED_MORE: [Reason; 5] =
    [Reason::Unaccounted, Reason::Proven, Reason::QueueHasRoom, Reason::Answered, Reason::WrongCookie];

#[test]
fn host_and_kernel_agree_on_generated_frames() -> Result<()> {
    needs_root!();
    // A host without sockets, whatever runs on this one.
    Namespace::new("differential")?.within(|| {
        compare_generated_frames();
        Ok(())
    })
}

fn compare_generated_frames() {
    let mut rig = Rig::sketched();
    rig.tell_answers();
    rig.limits(LIMITS);
    rig.check(
        CHECKS.map(|(reason, _)| reason).into_iter().filter(|reason| *reason != Reason::BogonSource),
        &[132],
    );
    for port in OPEN {
        rig.open(port, Open::ForAll);
    }
    rig.block("198.51.100.4/30");
    rig.block("2001:db8:0:5::/64");
    rig.block("2001:db8:0:c::/62");
    rig.allow("198.51.100.6/32");
    rig.allow("2001:db8:0:6::/63");

    let mut seen = std::collections::BTreeMap::new();
    let mut refused = 0_u64;
    let frames = FRAMES / u64::from(slowness());
    for seed in 0..frames {
        let mut random = Rng::with_seed(seed);
        if random.u8(..4) == 0 {
            rig.advance(Duration::from_micros(random.u64(..1_000)));
        }
        if random.u8(..16) == 0 {
            rig.ask(&generate::question(&mut random));
        }
        if seed == frames / 16 {
            // Packets weigh more than bits now.
            rig.limits(&LIMITS.replacen("100/s", "40/s", 2));
        } else if seed == frames / 8 {
            rig.limits(LIMITS);
        } else if seed == frames / 4 {
            rig.prove(means::COOKIES | means::SOCKETS, 1);
        } else if seed == frames / 2 {
            rig.monitor(true);
        } else if seed == frames * 3 / 4 {
            rig.prove(means::RETRANSMISSION, 1);
        }
        match rig.send(&generate::frame(&mut random)) {
            Some(reason) => *seen.entry(reason).or_insert(0_u64) += 1,
            None => refused += 1,
        }
    }
    assert_eq!(refused, 0, "every generated frame has an Ethernet header");
    println!("{seen:?}");
    if frames < FRAMES {
        return; // the rarest may be missing
    }
    for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::BogonSource) {
        assert!(
            seen.contains_key(reason) || NEED_MORE.contains(reason),
            "{reason:?}: the frames should vary enough: {seen:?}"
        );
    }
}
