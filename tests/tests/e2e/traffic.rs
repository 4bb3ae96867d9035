//! Verdicts on real traffic: limits, lists, modes, encapsulations, and a real flood.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_common::wire::protocol;
use flood_userspace::{
    capture::Capture,
    control::protocol::{InterfaceStats, Sources, Stats, Status},
};
use floodgate_tests::{
    daemon::{Daemon, floodgate, run},
    flood::Flood,
    lab::{Lab, Role, eventually, fetch, send_frames, serve_http, slowness},
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, from},
    same_on_every_kernel, skip,
};
use serde::Deserialize;

/// How long a visitor waits for a page.
fn patience() -> Duration {
    Duration::from_millis(700) * slowness()
}

/// What the filter counted on the server's interface.
pub(crate) fn eth0(daemon: &Daemon) -> Result<InterfaceStats> {
    let mut stats: Stats = daemon.read("stats")?;
    stats.interfaces.remove("eth0").context("eth0 is not guarded")
}

pub(crate) fn dropped(daemon: &Daemon, reason: &str) -> Result<u64> {
    Ok(eth0(daemon)?.dropped.get(reason).map_or(0, |volume| volume.packets))
}

/// A server that serves pages over IPv4 and IPv6.
struct Site {
    lab: Lab,
    addresses: [SocketAddr; 2],
}

impl Site {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let addresses = [Role::Server.address(), Role::Server.address6()].map(|ip| SocketAddr::new(ip, 80));
        for address in addresses {
            serve_http(lab.host(Role::Server), address)?;
        }
        Ok(Self { lab, addresses })
    }

    fn guard(&self, config: &str) -> Result<Daemon> {
        Daemon::start(self.lab.host(Role::Server), config, "eth0")
    }

    /// Returns whether the visitor gets the page over each address family.
    fn is_served(&self) -> Result<[bool; 2]> {
        self.lab
            .host(Role::Visitor)
            .within(|| Ok(self.addresses.map(|address| fetch(address, patience()).is_ok())))
    }

    /// The same over IPv4 with curl as the client.
    fn is_served_by_curl(&self) -> Result<bool> {
        let mut curl = self.lab.host(Role::Visitor).command("curl")?;
        curl.args(["--silent", "--max-time", &patience().as_secs_f64().to_string()]);
        Ok(run(curl.arg(format!("http://{}/", self.addresses[0])))?.stdout == "hello\n")
    }
}

#[test]
fn a_blocked_visitor_gets_no_page_until_he_is_unblocked() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    ensure!(site.is_served()? == [true, true], "without floodgate");
    let daemon = site.guard("")?;
    ensure!(site.is_served()? == [true, true] && site.is_served_by_curl()?, "with floodgate");

    daemon.tell("block add 203.0.113.0/24 --reason test")?;
    ensure!(site.is_served()? == [false, true] && !site.is_served_by_curl()?, "IPv4 is blocked");
    daemon.tell("block add 2001:db8:600d::/48")?;
    ensure!(site.is_served()? == [false, false], "both are blocked");
    ensure!(dropped(&daemon, "blocked")? > 0);

    daemon.tell("allow add 203.0.113.7 2001:db8:600d::7")?;
    ensure!(site.is_served()? == [true, true], "allow wins");
    daemon.tell("allow del 203.0.113.7 2001:db8:600d::7")?;
    ensure!(site.is_served()? == [false, false], "blocked again");

    daemon.tell("block del 203.0.113.0/24 2001:db8:600d::/48")?;
    ensure!(site.is_served()? == [true, true], "unblocked");
    Ok(())
}

#[test]
fn a_temporary_ban_ends_by_itself() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let site = Site::new()?;
    let daemon = site.guard("")?;
    daemon.tell(&format!("block add 203.0.113.7 --ttl {}s", 2 * slowness()))?;
    ensure!(site.is_served()? == [false, true], "banned");
    eventually("the visitor is served again", || site.is_served().is_ok_and(|served| served[0]))?;
    let status: Status = daemon.read("status")?;
    ensure!(status.blocked.ipv4 == 0, "{status:?}");
    Ok(())
}

#[test]
fn in_monitor_mode_the_visitor_is_served_and_the_drops_are_counted() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let site = Site::new()?;
    let daemon = site.guard("mode = \"monitor\"\n[block]\nentries = [\"203.0.113.7\"]\n")?;
    ensure!(site.is_served()? == [true, true]);
    let stats = eth0(&daemon)?;
    ensure!(stats.dropped.is_empty() && stats.would_drop["blocked"].packets > 3, "{stats:?}");
    ensure!(daemon.tell("status")?.contains("monitor mode: nothing is dropped"));

    daemon.tell("mode enforce")?;
    ensure!(site.is_served()? == [false, true]);
    daemon.tell("mode monitor")?;
    ensure!(site.is_served()? == [true, true]);
    Ok(())
}

#[test]
fn a_flood_from_one_source_is_held_to_its_limit_and_the_visitor_is_served() -> Result<()> {
    const LIMIT: u64 = 200;
    const BURST: u64 = 400;

    needs_root!();
    let site = Site::new()?;
    let config = format!("[limit.source]\npackets = \"{LIMIT}/s\"\npackets_burst = \"{BURST}\"\n");
    let daemon = site.guard(&config)?;
    let attacker = site.lab.host(Role::Attacker);
    let flood = Flood {
        rate: Some(100_000 / u64::from(slowness())),
        count: 1_000_000,
        duration: Duration::from_secs(3),
        ..Flood::of_attacker(&site.lab, &from(ATTACKER).udp(40_000, 9).payload(18))?
    };
    let begin = Instant::now();
    let (sent, pages) = std::thread::scope(|scope| -> Result<(u64, u32)> {
        let flood = scope.spawn(|| attacker.within(|| flood.run(|| false)));
        let mut pages = 0;
        while !flood.is_finished() {
            ensure!(site.is_served()? == [true, true], "page {pages}");
            pages += 1;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok((flood.join().expect("the flood does not panic")?, pages))
    })?;
    let seconds = begin.elapsed().as_secs_f64();

    let sources: Sources = daemon.read("sources")?;
    let first = sources.dropped.first().context("nobody lost packets")?;
    ensure!(first.source == ATTACKER.to_string(), "{sources:?}");
    let stats = eth0(&daemon)?;
    let lost = stats.dropped["source_packets"].packets;
    ensure!(stats.dropped.len() == 1 && lost < sent, "{stats:?}");
    // Not `sent - lost`: what overflowed the veth queue on a busy processor was lost before the filter.
    let passed = site.lab.host(Role::Server).datagrams_without_port()?;
    ensure!(passed + lost <= sent, "{passed} passed and {lost} lost of {sent}");
    // A clock tick at either end; and when the flood changes processors, a 32nd more through their sketches.
    let most = (LIMIT as f64 * (seconds + 0.02) + BURST as f64) * 33.0 / 32.0 + 1.0;
    ensure!(passed as f64 <= most, "{passed} passed where {most:.0} may");
    ensure!(passed >= LIMIT * 2 + BURST, "{passed} passed, which is less than the limit");
    let error = (first.packets as f64 - lost as f64).abs() / lost as f64;
    ensure!(error < 0.2, "{lost} lost, {} said", first.packets);
    // The number of pages is meaningful only if the visitor, the flood and the server each have a processor.
    ensure!(pages > if slowness() > 1 { 0 } else { 20 }, "{pages} pages");
    Ok(())
}

#[test]
fn a_source_in_debt_is_named_with_its_rate() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let site = Site::new()?;
    let daemon = site.guard("[limit.source]\npackets = \"1k/s\"\n")?;
    let attacker = site.lab.host(Role::Attacker);
    let flood = Flood {
        rate: Some(10_000),
        count: 100_000,
        duration: Duration::from_secs(5),
        ..Flood::of_attacker(&site.lab, &from(ATTACKER).udp(40_000, 9).payload(18))?
    };
    let named = || {
        eventually("the attacker is the busiest, at its limit", || {
            let sources: Result<Sources> = daemon.read("sources");
            sources.is_ok_and(|sources| {
                sources.busiest.first().is_some_and(|busy| {
                    busy.source.as_deref() == Some("198.51.100.66")
                        && busy.share > 0.9
                        && busy.packets_per_s.is_some_and(|rate| rate > 900.0)
                })
            })
        })
    };
    flood.during(attacker, named).map(|_| ())
}

/// The encapsulations that a source may use, in frames of valid length for a real interface.
fn disguises(source: IpAddr) -> Vec<(&'static str, Build)> {
    let syn = || from(source).syn(80);
    let mut disguises = vec![
        ("plain", syn()),
        ("VLAN", syn().vlan()),
        ("two VLANs", syn().service_vlan().vlan()),
        ("old service tags", syn().tag(0x9100).tag(0x9300)),
        ("PPPoE", syn().pppoe()),
        ("PPPoE in a VLAN, with a protocol of one byte", syn().vlan().short_pppoe()),
        ("SNAP", syn().snap()),
        ("a first fragment", syn().payload(68).fragment(0, true)),
        ("a later fragment", from(source).protocol(protocol::TCP).payload(64).fragment(100, false)),
        ("another protocol", from(source).protocol(47).payload(40)),
        ("a ping", from(source).echo_request().payload(40)),
    ];
    if source.is_ipv4() {
        disguises.push(("options", syn().options(10)));
    } else {
        for kind in
            [protocol::HOP_BY_HOP, protocol::ROUTING, protocol::DESTINATION_OPTIONS, protocol::AUTHENTICATION]
        {
            disguises.push(("an extension header", from(source).extension(kind, 1).syn(80)));
        }
        disguises.push((
            "an extension header before a fragment",
            from(source).extension(protocol::HOP_BY_HOP, 0).fragment(0, true).syn(80).payload(4),
        ));
    }
    disguises
}

#[test]
fn no_disguise_walks_past_a_block_on_a_real_interface() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let daemon = Daemon::start(lab.host(Role::Server), "", "eth0")?;
    daemon.tell("block add 198.51.100.66 2001:db8:bad::/48")?;
    let attacker = lab.host(Role::Attacker);
    let interface = attacker.index("eth0")?;
    let all = disguises(ATTACKER).into_iter().chain(disguises(ATTACKER6));
    for ((why, build), sent) in all.zip(1..) {
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        attacker.within(|| send_frames(interface, [frame.as_slice()]))?;
        eventually(&format!("{why} is blocked"), || dropped(&daemon, "blocked").is_ok_and(|n| n == sent))?;
    }
    let stats = eth0(&daemon)?;
    ensure!(stats.passed.is_empty(), "{stats:?}");
    Ok(())
}

/// The last line of `replay --json`.
#[derive(Deserialize)]
struct Replayed {
    summary: Summary,
}

#[derive(Deserialize, Debug)]
struct Summary {
    packets: u64,
    pass: u64,
    drop: u64,
    skipped: u64,
    reasons: BTreeMap<String, u64>,
}

#[test]
fn a_real_syn_flood_over_the_wire_counts_what_replay_says() -> Result<()> {
    /// A quarter of all addresses in several places. No limits, as these depend on the sending rate.
    const CONFIG: &str = "[block]\nentries = [\"64.0.0.0/2\", \"192.0.0.0/2\"]\n\
         max_coverage = \"100%\"\nmay_cover_host = true\n[limit.source]\npackets = \"off\"\n\
         [limit.total.syn]\npackets = \"off\"\n[limit.total.tcp]\npackets = \"off\"\n";

    needs_root!();
    let captures = skip::captures("a_real_syn_flood_over_the_wire_counts_what_replay_says", "attacks");
    let Some(path) = captures.iter().find(|path| path.to_string_lossy().contains("tcp_syn_spoofed")) else {
        ensure!(captures.is_empty(), "no capture of a spoofed SYN flood among {captures:?}");
        return Ok(());
    };
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.toml");
    std::fs::write(&config, CONFIG)?;
    let said = floodgate(&format!("replay --json {} --config {}", path.display(), config.display()))?;
    ensure!(said.code == 0, "{said:?}");
    let Replayed { summary } = serde_json::from_str(&said.stdout)?;
    ensure!(summary.drop > 1_000 && summary.pass > 1_000 && summary.skipped == 0, "{summary:?}");

    let mut frames = Vec::new();
    let mut capture = Capture::open(path)?;
    while let Some(frame) = capture.next_frame()? {
        let mut bytes = frame.bytes.to_vec();
        bytes[..6].copy_from_slice(&Role::Server.mac());
        frames.push(bytes);
    }
    ensure!(frames.len() as u64 == summary.packets);
    let lab = Lab::new()?;
    let daemon = Daemon::start(lab.host(Role::Server), CONFIG, "eth0")?;
    let attacker = lab.host(Role::Attacker);
    let interface = attacker.index("eth0")?;
    attacker.within(|| send_frames(interface, frames.iter().map(Vec::as_slice)))?;
    eventually("the filter has counted what replay says", || {
        eth0(&daemon).is_ok_and(|InterfaceStats { passed, dropped, .. }| {
            let counted: BTreeMap<_, _> = passed
                .iter()
                .chain(&dropped)
                .map(|(reason, volume)| (reason.clone(), volume.packets))
                .collect();
            counted == summary.reasons
        })
    })
    .with_context(|| format!("replay: {summary:?}, the wire: {:?}", eth0(&daemon)))
}

/// The fragments of a flood have no successors, so the kernel keeps them, in memory that is soon full.
#[test]
fn during_a_flood_of_fragments_the_visitor_s_are_put_together() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    const DATAGRAMS: usize = 20;
    let lab = Lab::new()?;
    let (server, visitor, attacker) =
        (lab.host(Role::Server), lab.host(Role::Visitor), lab.host(Role::Attacker));
    let _daemon = Daemon::start(server, "[limit.total.fragment]\npackets = \"off\"\n", "eth0")?;
    let interface = attacker.index("eth0")?;
    let flood: Vec<Vec<u8>> = (0..6_000_u32)
        .map(|n| {
            let source = IpAddr::from((0x0b00_0000 + n * 9).to_be_bytes());
            let mut frame = from(source).fragment(100, true).protocol(protocol::UDP).payload(64).bytes();
            frame[..6].copy_from_slice(&Role::Server.mac());
            frame
        })
        .collect();
    for address in [Role::Server.address(), Role::Server.address6()] {
        let service = server.within(|| Ok(UdpSocket::bind((address, 0))?))?;
        service.set_read_timeout(Some(patience()))?;
        let service_address = service.local_addr()?;
        let answered = visitor.within(|| {
            let client = UdpSocket::bind((if address.is_ipv4() { "0.0.0.0" } else { "::" }, 0))?;
            client.connect(service_address)?;
            let mut answered = 0;
            for n in 0..DATAGRAMS {
                if n == 1 {
                    attacker.within(|| send_frames(interface, flood.iter().map(Vec::as_slice)))?;
                }
                client.send(&[7; 3_000])?;
                answered += usize::from(service.recv(&mut [0; 4_000]).is_ok_and(|length| length == 3_000));
            }
            Ok(answered)
        })?;
        ensure!(answered == DATAGRAMS, "{address}: {answered} of {DATAGRAMS}");
    }
    Ok(())
}
