//! How long it takes until long lists are in force: with the binary, from the start of the command to its end.

use std::{
    fmt::{self, Display},
    fs,
    io::{BufWriter, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{InterfaceStats, Stats, Status};
use ipnet::IpNet;
use serde::Serialize;

use crate::{
    daemon::Daemon,
    lab::{Lab, Role, eventually, send_frames},
    packet, prefixes,
};

use super::{Effort, measure::quantile};

/// Blocks in a command, and their TTL.
const BANS: usize = 10_000;
const TTL: Duration = Duration::from_secs(3);

/// A change, and how long it took.
#[derive(Serialize, Clone, Debug)]
pub struct ListRow {
    /// The change.
    pub what: &'static str,
    /// Milliseconds, median.
    pub ms: f64,
}

impl Display for ListRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<56} {:>8.1}", self.what, self.ms)
    }
}

/// A source that is on none of the lists. The lists are the same in each run.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(11, 0, 0, 1));

/// The changes, in order.
const CHANGES: [&str; 6] = [
    "start with 1,000,000 IPv4 and 200,000 IPv6 prefixes",
    "the same, imported at run time",
    "exchanged for as many others",
    "one added",
    "10,000 blocked for three seconds",
    "the last of these gone, after its time",
];

/// Measures every change, round by round.
pub(super) fn measure(
    effort: Effort,
    progress: &mut impl FnMut(&dyn Display) -> Result<()>,
) -> Result<Vec<ListRow>> {
    let mut times: [Vec<f64>; CHANGES.len()] = Default::default();
    for _ in 0..effort.changes {
        for (times, ms) in times.iter_mut().zip(round(effort.listed)?) {
            times.push(ms);
        }
        progress(&"a round of lists")?;
    }
    let rows = CHANGES.into_iter().zip(times).map(|(what, times)| ListRow { what, ms: quantile(times, 0.5) });
    rows.map(|row| progress(&row).map(|()| row)).collect()
}

/// Measures the milliseconds that each of [`CHANGES`] takes, with this many IPv4 addresses and a fifth as many IPv6
/// prefixes.
fn round(listed: usize) -> Result<[f64; CHANGES.len()]> {
    let folder = tempfile::tempdir()?;
    let [list, bans] = ["list", "bans"].map(|name| folder.path().join(name));
    write(&list, &prefixes::random(listed, listed / 5, 1))?;
    write(&bans, &prefixes::random(BANS, 0, 3))?;
    let room = format!("[lists]\nipv4 = {}\nipv6 = {}\n", listed * 3 / 2 + BANS, listed / 2 + BANS);
    let [list_name, bans_name] = [&list, &bans].map(|path| path.display());

    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let begin = Instant::now();
    let daemon = Daemon::start(server, &format!("{room}[block]\nfiles = [\"{list_name}\"]\n"), "eth0")?;
    let start = ms_since(begin);
    ensure!(blocked_ipv4(&daemon)? > 0, "nothing is listed");
    drop(daemon);

    let daemon = Daemon::start(server, &room, "eth0")?;
    let timed = |command: &str| -> Result<f64> {
        let begin = Instant::now();
        daemon.tell(command)?;
        Ok(ms_since(begin))
    };
    let import = timed(&format!("block import {list_name}"))?;
    write(&list, &prefixes::random(listed, listed / 5, 2))?;
    let exchange = timed(&format!("block import --replace {list_name}"))?;
    ensure!(packets_dropped(&lab, &daemon)? == 0, "a stranger is blocked");
    let add = timed(&format!("block add {STRANGER}"))?;
    ensure!(packets_dropped(&lab, &daemon)? == 1, "a stranger is not blocked");
    let before = blocked_ipv4(&daemon)?;
    let ban = timed(&format!("block import --ttl {}s {bans_name}", TTL.as_secs()))?;
    let end = Instant::now() + TTL;
    ensure!(blocked_ipv4(&daemon)? > before, "nothing is blocked for a while");
    eventually("bans end", || blocked_ipv4(&daemon).is_ok_and(|blocked| blocked <= before))?;
    Ok([start, import, exchange, add, ban, ms_since(end)])
}

fn ms_since(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

fn blocked_ipv4(daemon: &Daemon) -> Result<u64> {
    Ok(daemon.read::<Status>("status")?.blocked.ipv4)
}

/// Sends a packet from [`STRANGER`]. Returns how many packets have been dropped as blocked so far.
fn packets_dropped(lab: &Lab, daemon: &Daemon) -> Result<u64> {
    let mut frame = packet::from(STRANGER).udp(40_000, 9).bytes();
    frame[..6].copy_from_slice(&Role::Server.mac());
    let attacker = lab.host(Role::Attacker);
    let interface = attacker.index("eth0")?;
    let stats = || -> Result<_> {
        let stats: Stats = daemon.read("stats")?;
        let all = |stats: &InterfaceStats| -> u64 {
            stats.passed.values().chain(stats.dropped.values()).map(|volume| volume.packets).sum()
        };
        let stats = stats.interfaces.get("eth0").context("eth0 is not guarded")?;
        Ok((all(stats), stats.dropped.get("blocked").map_or(0, |volume| volume.packets)))
    };
    let (before, _) = stats()?;
    attacker.within(|| send_frames(interface, [frame.as_slice()]))?;
    eventually("a packet arrives", || stats().is_ok_and(|(all, _)| all > before))?;
    Ok(stats()?.1)
}

fn write(path: &Path, prefixes: &[IpNet]) -> Result<()> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    for prefix in prefixes {
        writeln!(file, "{prefix}")?;
    }
    Ok(file.flush()?)
}
