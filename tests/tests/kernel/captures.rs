//! Real captures: host and kernel agree on every frame, ordinary traffic is not affected, and what is broken on
//! purpose gets a documented reason. The captures are not in the repository; see CONTRIBUTING.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use flood_common::{
    abi::{LOCAL_PREFIXES, solicited},
    address::Address,
    packet::{Packet, Parsed, Part, parse},
    proof::means::{COOKIES, SOCKETS},
    reason::Reason,
    wire::{self, protocol},
};
use flood_userspace::{
    bpf::{RunOutcome, SHORTEST_FRAME},
    capture::{Capture, CaptureError, Source},
    config::Config,
    replay::{Pace, Replay, Said, Stage, Survey, Verdict, leave_network},
};
use floodgate_tests::{
    needs_root,
    packet::{VISITOR, from},
    rig::{Open, Rig},
    skip,
};

/// Verdicts by reason; `None` for frames that the kernel does not run.
type Verdicts = BTreeMap<Option<Reason>, u64>;

/// Ordinary traffic that contains frames which no network delivers, and what is wrong with them.
const DAMAGED: [(&str, Reason, u64, &str); 6] = [
    ("ndpi__rsh-syslog-false-positive.pcap", Reason::IpLength, 2, "frames shorter than their IP length"),
    ("ndpi__telnet.pcap", Reason::IpLength, 5, "frames shorter than their IP length"),
    ("ndpi__tcp_scan.pcap", Reason::TcpNoFlags, 1, "a port scan"),
    ("ndpi__tcp_scan.pcap", Reason::TcpImpossibleFlags, 2, "a port scan"),
    ("zeek__rotation.pcap", Reason::ZeroPort, 1, "TCP from port 0"),
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
                // Debts end now and then, because in a full bucket kernel and twin use independent random numbers.
                rig.advance(Duration::from_micros(10));
                if frame.bytes.len() >= SHORTEST_FRAME {
                    rig.ask(frame.bytes);
                }
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
            // Some of the captures that are broken on purpose are damaged files.
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
        rig.tell_answers();
        for port in [53, 80, 5_353] {
            rig.open(port, Open::ForAll);
        }
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
    let (source, said) = (Source::open(path)?, Said::default());
    let survey = Survey::of(&source, &said);
    replay.begin_capture();
    replay.set_stage(Stage::plan(&survey, &said))?;
    replay.set_pace(Pace::default(), survey.odd);
    let mut capture = source.read()?;
    while let Some(frame) = capture.next_frame()? {
        let reason = match replay.run(&frame)? {
            Verdict::Pass(reason) | Verdict::Drop(reason) | Verdict::Answer(reason) => Some(reason),
            Verdict::Noted | Verdict::Skipped => None,
        };
        *verdicts.entry(reason).or_default() += 1;
    }
    Ok(verdicts)
}

/// Many captures were recorded on the interface `lo`, or have been anonymized with made-up addresses.
const ADDRESSES_MEAN_NOTHING: &str =
    "[sanity]\nland = false\nloopback_source = false\nmulticast_source = false\nreserved_source = false";

#[test]
fn ordinary_traffic_is_left_alone_by_the_default_configuration() -> Result<()> {
    needs_root!();
    let paths = skip::captures("ordinary_traffic_is_left_alone_by_the_default_configuration", "legit");
    if paths.is_empty() {
        return Ok(());
    }
    let config = Config::parse(ADDRESSES_MEAN_NOTHING, Path::new(""))?;
    leave_network()?;
    let mut filter = Replay::new(&config)?;
    for path in paths {
        let verdicts = replay(&mut filter, &path).with_context(|| path.display().to_string())?;
        let mut dropped: Vec<(Reason, u64)> = verdicts
            .into_iter()
            .filter_map(|(reason, count)| Some((reason?, count)))
            .filter(|(reason, _)| reason.is_drop())
            .collect();
        for (_, reason, count, _) in DAMAGED.iter().filter(|(file, ..)| *file == name(&path)) {
            ensure!(dropped.contains(&(*reason, *count)), "{}: {dropped:?}", path.display());
            dropped.retain(|(dropped, _)| dropped != reason);
        }
        ensure!(dropped.is_empty(), "{}: {dropped:?}", path.display());
    }
    Ok(())
}

/// Returns the capture of this name; `None` if there are no captures at all.
fn find<'a>(captures: &'a [PathBuf], file: &str) -> Result<Option<&'a PathBuf>> {
    let found = captures.iter().find(|path| name(path) == file);
    ensure!(found.is_some() || captures.is_empty(), "{file} is not among the captures");
    Ok(found)
}

/// Makes all destinations in a capture addresses of the host, as far as there is room for them.
fn own_destinations(rig: &mut Rig, path: &Path) -> Result<()> {
    let mut addresses = BTreeSet::new();
    let mut capture = Capture::open(path)?;
    while let Some(frame) = capture.next_frame()? {
        if let Parsed::Packet(packet) = parse(wire::Frame(frame.bytes)) {
            addresses.insert(IpAddr::from(packet.destination));
        }
    }
    let unicast = addresses.into_iter().filter(|address| !address.is_multicast());
    rig.own(&unicast.take(LOCAL_PREFIXES as usize / 2).collect::<Vec<_>>());
    Ok(())
}

/// The time of a capture, which may step back; the time of a rig never does.
#[derive(Default)]
struct CaptureClock {
    now_ns: Option<u64>,
}

impl CaptureClock {
    /// Returns the time between the previous frames and this one.
    fn until(&mut self, time_ns: u64) -> Duration {
        let now_ns = self.now_ns.get_or_insert(time_ns);
        let passed_ns = time_ns.saturating_sub(*now_ns);
        *now_ns += passed_ns;
        Duration::from_nanos(passed_ns)
    }
}

/// Captures that contain only an attack, and the minimum percentage that must be dropped when the attack exceeds the
/// total limits.
const FLOODS: [(&str, u64); 13] = [
    ("mlqos_icmp-echo-flood.pcap", 100),
    ("mlqos_multi-vector-syn_udp_icmp.pcap", 100),
    ("mlqos_tcp-syn-flood-synthetic.pcap", 100),
    ("mlqos_udp-flood-large.pcap", 100),
    ("ndpi_slp_scan_background.a.pcap", 100),
    ("stopddos_tcp_syn_ece_cwr.a.pcap", 100),
    ("stopddos_tcp_syn_spoofed.a.pcap", 100),
    // Two of them are ARP.
    ("stopddos_tcp_synack_reflection.a.pcap", 99),
    ("stopddos_udp_amp_ike_natt.a.pcap", 100),
    ("stopddos_udp_amp_snmp.a.pcap", 100),
    ("suricata_frag_spray_v4v6.a.pcap", 100),
    ("suricata_v6_rsmurf.a.pcap", 100),
    ("zeek_dhcp_flood.pcap", 100),
];

/// Measures how much of each flood the default configuration drops: as recorded (some for only a second), and with
/// total limits used up, so that each packet needs evidence.
#[test]
fn floods_in_captures_are_stopped() -> Result<()> {
    needs_root!();
    let captures = skip::captures("floods_in_captures_are_stopped", "attacks");
    println!("| capture | packets | stopped as recorded | stopped beyond a limit on all |");
    println!("|---|---:|---:|---:|");
    for (file, least) in FLOODS {
        let Some(path) = find(&captures, file)? else { return Ok(()) };
        let (mut packets, mut stopped) = (0_u64, [0_u64; 2]);
        let mut passed = BTreeMap::<Reason, u64>::new();
        for (stopped, beyond) in stopped.iter_mut().zip([false, true]) {
            let mut rig = Rig::new();
            rig.tell_answers();
            rig.prove(COOKIES | SOCKETS, 10);
            own_destinations(&mut rig, path)?;
            if beyond {
                rig.limits("[limit.total]\npackets = \"1/s\"\npackets_burst = \"1\"");
                while rig.send(&from(VISITOR).udp(1, 1).bytes()) == Some(Reason::Conforming) {}
            }
            packets = 0;
            let mut capture = Capture::open(path)?;
            let mut clock = CaptureClock::default();
            while let Some(frame) = capture.next_frame()? {
                if !beyond {
                    rig.advance(clock.until(frame.time_ns.unwrap_or_default()));
                }
                let reason = rig.send(frame.bytes).context("a frame that is not run")?;
                packets += 1;
                let is_stopped = reason.is_drop() || reason == Reason::Answered;
                *stopped += u64::from(is_stopped);
                if beyond && !is_stopped {
                    *passed.entry(reason).or_default() += 1;
                }
            }
        }
        let percent = |count: u64| format!("{:.1} %", count as f64 * 100.0 / packets as f64);
        println!("| `{file}` | {packets} | {} | {} |", percent(stopped[0]), percent(stopped[1]));
        ensure!(stopped[1] * 100 >= packets * least, "{file}: {} of {packets}, {passed:?}", stopped[1]);
    }
    Ok(())
}

/// A capture of a reflection attack, which of its packets are the attack, and the minimum percentage of those that
/// must be dropped with no open socket, and with one.
type Attack = (&'static str, fn(&Packet) -> bool, [u64; 2]);

/// See `attack_filter` in the captures' manifest.
const ATTACKS: [Attack; 5] = [
    // Its reflectors reply slowly, from ports of their own choice.
    ("nladc_booter_ssdp_reflection.a.pcap", |packet| to(packet, 80) && packet.destination == BOOTED, [0, 0]),
    (
        "stopddos_udp_amp_bacnet_dvr.a.pcap",
        |packet| comes_from(packet, &[47_808, 37_810, 30_120]) || packet.protocol == protocol::ICMP,
        [90, 0],
    ),
    // Half of it are later fragments.
    (
        "stopddos_udp_amp_dns_rrsig_frag.a.pcap",
        |packet| (comes_from(packet, &[53]) && to(packet, 22)) || packet.part == Part::Later,
        [80, 0],
    ),
    ("stopddos_udp_amp_ike_natt.a.pcap", |_| true, [100, 0]),
    ("stopddos_udp_amp_snmp.a.pcap", |_| true, [90, 0]),
];

/// 172.31.28.132, the victim in the first capture.
const BOOTED: Address = Address::V4(0xac1f_1c84);

fn comes_from(packet: &Packet, ports: &[u16]) -> bool {
    packet.protocol == protocol::UDP && packet.ports.is_some_and(|found| ports.contains(&found.source))
}

fn to(packet: &Packet, port: u16) -> bool {
    packet.protocol == protocol::UDP && packet.ports.is_some_and(|found| found.destination == port)
}

/// Measures how much of each reflection attack the default configuration drops: with no open socket on the targeted
/// ports, and with one on each.
#[test]
fn mirrors_in_captures_are_stopped() -> Result<()> {
    needs_root!();
    let captures = skip::captures("mirrors_in_captures_are_stopped", "attacks");
    println!("| capture | attack packets | stopped, no socket | stopped, sockets | other packets dropped |");
    println!("|---|---:|---:|---:|---:|");
    for (file, is_attack, least) in ATTACKS {
        let Some(path) = find(&captures, file)? else { return Ok(()) };
        let (mut attack, mut others) = (0_u64, 0);
        let mut stopped = [0_u64; 2];
        for (stopped, bits) in
            stopped.iter_mut().zip([solicited::NOTED | solicited::SOCKETS, solicited::NOTED])
        {
            let mut rig = Rig::new();
            rig.tell_answers();
            rig.tell_by(bits);
            rig.absence(bits & solicited::SOCKETS != 0);
            own_destinations(&mut rig, path)?;
            (attack, others) = (0, 0);
            let mut capture = Capture::open(path)?;
            let mut clock = CaptureClock::default();
            while let Some(frame) = capture.next_frame()? {
                rig.advance(clock.until(frame.time_ns.unwrap_or_default()));
                rig.ask(frame.bytes);
                let reason = rig.send(frame.bytes).context("a frame that is not run")?;
                match parse(wire::Frame(frame.bytes)) {
                    Parsed::Packet(packet) if is_attack(&packet) => {
                        attack += 1;
                        *stopped += u64::from(reason.is_drop());
                    }
                    _ => others += u64::from(reason.is_drop()),
                }
            }
        }
        let percent = |count: u64| format!("{:.1} %", count as f64 * 100.0 / attack as f64);
        println!("| `{file}` | {attack} | {} | {} | {others} |", percent(stopped[0]), percent(stopped[1]));
        for (stopped, least) in stopped.into_iter().zip(least) {
            ensure!(stopped * 100 >= attack * least, "{file}: {stopped} of {attack}");
        }
        ensure!(others == 0, "{file}: {others} packets of others are dropped");
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
    leave_network()?;
    let mut filter = Replay::new(&Config::default())?;
    let mut all = Verdicts::new();
    for path in &captures {
        // `Replay::run` fails if the program returns anything except pass and drop, or counts no reason.
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
