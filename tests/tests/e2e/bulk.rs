//! Transfers of the guarded host itself: the default limits on sources do not affect traffic that the host requested.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{Stats, Volume};
use floodgate_tests::{daemon::Daemon, lab::Namespace, measures, needs_root};

/// Bytes of each transfer.
const TRANSFER: usize = 600 << 20;

/// Packets a second that the default configuration lets a source send without evidence.
const LIMIT: f64 = 20_000.0;

/// Two hosts connected by a veth pair, with a tunnel over it.
struct Pair {
    near: Namespace,
    far: Namespace,
}

impl Pair {
    const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    const IN_TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

    fn new() -> Result<Self> {
        let (near, far) = (Namespace::new("near")?, Namespace::new("far")?);
        near.ip(&format!("link add eth0 type veth peer name eth0 netns {}", far.name()))?;
        for (host, last, own, other) in [(&near, 1, Self::NEAR, Self::FAR), (&far, 2, Self::FAR, Self::NEAR)]
        {
            host.ip_all(&[
                format!("address add {own}/24 dev eth0"),
                "link set lo up".to_owned(),
                "link set eth0 up".to_owned(),
                format!("link add vx0 mtu 1450 type vxlan id 7 remote {other} local {own} dstport 4789"),
                format!("address add 10.99.0.{last}/24 dev vx0"),
                "link set vx0 up".to_owned(),
            ])?;
            // Packets of the sizes that occur on a network.
            for device in ["eth0", "vx0"] {
                let off = host
                    .command("ethtool")?
                    .args(["-K", device, "tso", "off", "gso", "off", "gro", "off"])
                    .output()?;
                ensure!(off.status.success(), "ethtool: {}", String::from_utf8_lossy(&off.stderr));
            }
        }
        Ok(Self { near, far })
    }

    /// Connects the near end to the far one this many times, and one end sends. Returns how long it takes.
    fn transfer(&self, address: Ipv4Addr, flows: usize, sends: Sends) -> Result<Duration> {
        let listener = self.far.within(|| Ok(TcpListener::bind(SocketAddr::new(address.into(), 0))?))?;
        let to = listener.local_addr()?;
        let began = Instant::now();
        thread::scope(|scope| {
            let mut threads = Vec::new();
            for _ in 0..flows {
                let near = self.near.within(|| Ok(TcpStream::connect(to)?))?;
                let (far, _) = listener.accept()?;
                let (mut from, mut into) = match sends {
                    Sends::Near => (near, far),
                    Sends::Far => (far, near),
                };
                threads.push(scope.spawn(move || -> Result<()> {
                    let piece = vec![0; 1 << 16];
                    for _ in 0..TRANSFER / flows / piece.len() {
                        from.write_all(&piece)?;
                    }
                    Ok(())
                }));
                threads.push(scope.spawn(move || -> Result<()> {
                    std::io::copy(&mut into, &mut std::io::sink())?;
                    Ok(())
                }));
            }
            threads.into_iter().try_for_each(|thread| thread.join().expect("no thread panics"))
        })?;
        Ok(began.elapsed())
    }
}

/// Which end sends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sends {
    Near,
    Far,
}

#[test]
fn what_the_host_itself_transfers_is_not_held_to_the_limit_of_a_source() -> Result<()> {
    measures!();
    needs_root!();
    let pair = Pair::new()?;
    let daemon = Daemon::start(&pair.near, "", "eth0")?;
    let cases = [
        ("download", Pair::FAR, 1, Sends::Far),
        ("upload", Pair::FAR, 1, Sends::Near),
        ("download in a tunnel", Pair::IN_TUNNEL, 50, Sends::Far),
    ];
    let counted = || -> Result<(u64, u64)> {
        let stats: Stats = daemon.read("stats")?;
        let eth0 = stats.interfaces.get("eth0").context("eth0 is not guarded")?;
        let packets = |side: &BTreeMap<String, Volume>| side.values().map(|volume| volume.packets).sum();
        Ok((packets(&eth0.passed), packets(&eth0.dropped)))
    };
    let mut before = counted()?;
    for (why, address, flows, sends) in cases {
        let took = pair.transfer(address, flows, sends).context(why)?;
        let after = counted()?;
        let (passed, dropped) = (after.0 - before.0, after.1 - before.1);
        before = after;
        let rate = passed as f64 / took.as_secs_f64();
        let speed = 8.0 * TRANSFER as f64 / took.as_secs_f64() / 1e6;
        println!(
            "{why}: {speed:.0} Mbit/s, {rate:.0} packets a second arrived, {dropped} of {passed} were dropped"
        );
        // In reply to sent data, acknowledgements arrive: the more data the other side receives at once, the fewer.
        ensure!(sends == Sends::Near || rate > 1.1 * LIMIT, "{why}: {rate} packets a second tell nothing");
        // Evidence of a tunnel is that the host keeps sending. Until then its peer has the limit of any source, and
        // fifty connections in slow start may exceed it for some milliseconds: 0 to 700 packets of 475,000, depending
        // on the scheduler.
        ensure!(dropped * 200 < passed, "{why}: {dropped} of {passed} dropped");
    }
    Ok(())
}
