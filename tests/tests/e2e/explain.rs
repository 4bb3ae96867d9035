//! What an operator learns about the fate of packets.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{Sources, Status};
use floodgate_tests::{
    flood::Flood,
    lab::{Role, eventually, eventually_within},
    needs_root,
    packet::{ATTACKER, Build, from},
    same_on_every_kernel,
};

use crate::commands::Guarded;

/// Has the attacker send a frame a thousand times a second while `work` runs.
fn during<T>(guarded: &Guarded, frame: &Build, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let flood = Flood { rate: Some(1_000), ..Flood::of_attacker(&guarded.lab, frame)? };
    flood.during(guarded.lab.host(Role::Attacker), work).map(|(outcome, _)| outcome)
}

#[test]
fn the_limit_that_a_packet_has_exceeded_is_named() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("[limit.source]\nsyn = { packets = \"10/s\" }\n")?;
    let daemon = &guarded.daemon;
    during(&guarded, &from(ATTACKER).syn(80), || {
        eventually("the source has lost packets", || {
            let sources: Result<Sources> = daemon.read("sources");
            sources.is_ok_and(|sources| {
                let lost = sources.dropped.iter().find(|lost| lost.source == ATTACKER.to_string());
                lost.is_some_and(|lost| {
                    lost.limits.keys().map(ToString::to_string).eq(["source.syn"])
                        && lost.limits.values().sum::<u64>() == lost.packets
                })
            })
        })?;
        let shown = daemon.tell("sources")?;
        ensure!(shown.contains(" limit.source.syn\n"), "{shown}");
        let mut trace = daemon.command(&format!("trace {ATTACKER}"))?.stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(trace.stdout.take().context("no stdout")?).lines();
        let dropped = lines.map_while(Result::ok).take(50).find(|line| line.starts_with("drop "));
        trace.kill()?;
        trace.wait()?;
        ensure!(dropped.as_ref().is_some_and(|line| line.contains(" (limit.source.syn) ")), "{dropped:?}");
        Ok(())
    })
}

#[test]
fn that_most_of_what_arrives_is_not_judged_is_said() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let warned = || -> Result<bool> {
        let status: Status = guarded.daemon.read("status")?;
        let is_it = |warning: &String| {
            warning.starts_with("eth0: ")
                && warning.contains("is not judged")
                && warning.contains(" encapsulated)")
        };
        Ok(status.warnings.iter().any(is_it))
    };
    ensure!(!warned()?, "nothing has arrived yet");
    // MPLS
    during(&guarded, &from(ATTACKER).syn(80).tag(0x8847), || {
        // The check runs every ten seconds, for the preceding ten seconds.
        eventually_within(Duration::from_secs(30), "the operator is warned", || warned().unwrap_or(false))
    })
}
