//! Real captures: host and kernel agree on every frame, ordinary traffic is left alone, and what is broken on
//! purpose gets a documented reason. The captures are not in the repository; see CONTRIBUTING.md.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use flood_common::reason::Reason;
use flood_userspace::{
    bpf::{RunOutcome, SHORTEST_FRAME},
    capture::{Capture, CaptureError},
    config::Config,
    replay::{Replay, Verdict},
};
use floodgate_tests::{needs_root, rig::Rig, skip};

/// Verdicts by reason; `None` for frames that the kernel does not run.
type Verdicts = BTreeMap<Option<Reason>, u64>;

/// Ordinary traffic with frames that no network delivers, and what is wrong with them.
const DAMAGED: [(&str, Reason, u64, &str); 3] = [
    ("ndpi__rsh-syslog-false-positive.pcap", Reason::IpLength, 2, "frames shorter than their IP length"),
    ("ndpi__telnet.pcap", Reason::IpLength, 5, "frames shorter than their IP length"),
    ("zeek__modbus__fuzz-1011.pcap", Reason::IpVersion, 1, "an IP version of 2, by a fuzzer"),
];

fn name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Sends every frame of a capture through kernel and twin, which [`Rig::send`] compares.
fn compare(rig: &mut Rig, path: &Path) -> Result<u64> {
    let mut frames = 0;
    let mut capture = Capture::open(path)?;
    loop {
        match capture.next_frame() {
            Ok(Some(frame)) => {
                // Debts end now and then, as a full bucket is where kernel and twin throw dice of their own.
                rig.advance(Duration::from_micros(10));
                let verdict = rig.send(frame.bytes);
                ensure!(
                    verdict.is_some() || frame.bytes.len() < SHORTEST_FRAME || frame.bytes.len() > 4_000,
                    "{}: frame {} of {} bytes is not run",
                    path.display(),
                    frame.number,
                    frame.bytes.len()
                );
                frames += 1;
            }
            Ok(None) => return Ok(frames),
            // Some of the captures that are broken on purpose are broken as files.
            Err(CaptureError::CutShort { .. } | CaptureError::Damaged { .. }) => return Ok(frames),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn host_and_kernel_agree_on_every_frame_of_every_capture() -> Result<()> {
    const TEST: &str = "host_and_kernel_agree_on_every_frame_of_every_capture";

    needs_root!();
    let mut frames = 0;
    for class in ["attacks", "legit", "torture"] {
        let paths = skip::captures(TEST, class);
        if paths.is_empty() {
            continue;
        }
        let mut rig = Rig::new();
        rig.block("192.168.0.0/17");
        rig.allow("192.168.1.0/24");
        rig.block("fe80::/10");
        rig.allow("2001:db8::/33");
        for path in paths {
            frames += compare(&mut rig, &path).with_context(|| path.display().to_string())?;
        }
    }
    println!("{frames} frames");
    Ok(())
}

/// Replays a capture as `floodgate replay` does.
fn replay(replay: &mut Replay, path: &Path) -> Result<Verdicts> {
    let mut verdicts = Verdicts::new();
    replay.begin_capture();
    let mut capture = Capture::open(path)?;
    while let Some(frame) = capture.next_frame()? {
        let reason = match replay.run(&frame)? {
            Verdict::Pass(reason) | Verdict::Drop(reason) => Some(reason),
            Verdict::Skipped => None,
        };
        *verdicts.entry(reason).or_default() += 1;
    }
    Ok(verdicts)
}

#[test]
fn ordinary_traffic_is_left_alone_by_the_default_configuration() -> Result<()> {
    needs_root!();
    let paths = skip::captures("ordinary_traffic_is_left_alone_by_the_default_configuration", "legit");
    if paths.is_empty() {
        return Ok(());
    }
    let mut filter = Replay::new(&Config::default())?;
    for path in paths {
        let verdicts = replay(&mut filter, &path).with_context(|| path.display().to_string())?;
        let mut dropped: Vec<(Reason, u64)> = verdicts
            .into_iter()
            .filter_map(|(reason, count)| Some((reason?, count)))
            .filter(|(reason, _)| reason.is_drop())
            .collect();
        if let Some((_, reason, count, _)) = DAMAGED.iter().find(|(file, ..)| *file == name(&path)) {
            ensure!(dropped.contains(&(*reason, *count)), "{}: {dropped:?}", path.display());
            dropped.retain(|(dropped, _)| dropped != reason);
        }
        ensure!(dropped.is_empty(), "{}: {dropped:?}", path.display());
    }
    Ok(())
}

#[test]
fn what_is_broken_on_purpose_is_judged_and_never_aborts() -> Result<()> {
    needs_root!();
    let captures = skip::captures("what_is_broken_on_purpose_is_judged_and_never_aborts", "torture");
    if captures.is_empty() {
        return Ok(());
    }
    let mut filter = Replay::new(&Config::default())?;
    let mut all = Verdicts::new();
    for path in &captures {
        // `Replay::run` fails when the program returns anything but pass and drop, or counts no reason.
        match replay(&mut filter, path) {
            Ok(verdicts) => {
                for (reason, count) in verdicts {
                    *all.entry(reason).or_default() += count;
                }
            }
            Err(error) => ensure!(error.is::<CaptureError>(), "{}: {error:#}", path.display()),
        }
    }
    ensure!(all.contains_key(&Some(Reason::IpLength)) && all.contains_key(&None), "{all:?}");
    println!("{all:?}");
    Ok(())
}

#[test]
fn frames_that_the_kernel_does_not_run_are_refused_and_nothing_else_is() -> Result<()> {
    needs_root!();
    let mut rig = Rig::new();
    ensure!(rig.filter().run(&[0; SHORTEST_FRAME - 1])? == RunOutcome::Refused);
    ensure!(rig.filter().run(&[0; SHORTEST_FRAME])? == RunOutcome::Pass);
    ensure!(rig.filter().run(&[0; 9_014])? == RunOutcome::Pass, "a jumbo frame in several buffers");
    ensure!(rig.filter().run(&vec![0; 1 << 20])? == RunOutcome::Refused);
    Ok(())
}
