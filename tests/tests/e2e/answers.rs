//! The host's own clients, and services with players, during a reflection flood; and the egress program.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flood_common::reflector::REFLECTORS;
use flood_userspace::{
    bpf::{Filter, FilterOptions, Hook, Noting},
    config::AttachMode,
    control::protocol::{AnswersBy, Status},
};
use floodgate_tests::{
    daemon::Daemon,
    lab::{Lab, Namespace, Role, command, eventually, send_frames, serve_udp, slowness},
    needs_root,
    packet::from,
    programs::Programs,
    skip::{self, kernel_series},
};

use crate::traffic::{dropped, eth0};

/// More reflector ports, in addition to the known ones, to make fifty.
const MORE: [u16; 12] =
    [177, 1_604, 5_060, 5_351, 5_093, 6_000, 7_001, 9_999, 17_185, 30_718, 30_120, 41_794];

fn config() -> String {
    format!("[sources]\nreflectors = {MORE:?}\n")
}

/// Sends a request and waits for the reply. A processor that is busy with a flood may lose a packet or two on the
/// veth pair.
fn is_answered(client: &UdpSocket, service: SocketAddr) -> Result<bool> {
    client.set_read_timeout(Some(Duration::from_millis(300) * slowness()))?;
    let mut reply = [0; 64];
    for _ in 0..5 {
        client.send_to(b"question", service)?;
        if client
            .recv_from(&mut reply)
            .is_ok_and(|(length, from)| from == service && &reply[..length] == b"question")
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The same over a connected socket.
fn is_answered_to_connected(server: &Namespace, service: SocketAddr) -> Result<bool> {
    server.within(|| {
        let client = UdpSocket::bind((IpAddr::from([0; 4]), 0))?;
        client.connect(service)?;
        client.set_read_timeout(Some(Duration::from_millis(300) * slowness()))?;
        let mut reply = [0; 64];
        Ok((0..5).any(|_| client.send(b"question").is_ok() && client.recv(&mut reply).is_ok()))
    })
}

/// Returns frames from fifty reflectors to random ports, or all to one.
fn reflections(to: Option<u16>) -> Vec<Vec<u8>> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut frames = Vec::new();
    for port in REFLECTORS.iter().map(|known| known.port).chain(MORE) {
        for n in 0..20_u8 {
            let mirror = IpAddr::from([198, 51, n, random.u8(..)]);
            let to = to.unwrap_or_else(|| random.u16(1_024..30_000));
            let mut frame = from(mirror).udp(port, to).payload(500).bytes();
            frame[..6].copy_from_slice(&Role::Server.mac());
            frames.push(frame);
        }
    }
    frames
}

/// Does something while the attacker sends frames repeatedly.
fn under_flood<T>(lab: &Lab, frames: &[Vec<u8>], work: impl FnOnce() -> Result<T>) -> Result<T> {
    let attacker = lab.host(Role::Attacker);
    let interface = attacker.index("eth0")?;
    let enough = AtomicBool::new(false);
    thread::scope(|scope| {
        let flood = scope.spawn(|| {
            attacker.within(|| {
                while !enough.load(Relaxed) {
                    send_frames(interface, frames.iter().map(Vec::as_slice))?;
                    // Some ten thousand packets a second: the flood shares the processor with the rest.
                    thread::sleep(Duration::from_millis(50) * slowness());
                }
                Ok(())
            })
        });
        let done = work();
        enough.store(true, Relaxed);
        flood.join().expect("the flood does not panic")?;
        done
    })
}

#[test]
fn the_host_s_own_clients_are_answered_while_fifty_mirrors_are_aimed_at_it() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    // A resolver, an NTP server, a web server with QUIC, and VPN endpoints.
    let services = [53, 123, 443, 1_194, 4_500].map(|port| SocketAddr::new(Role::Visitor.address(), port));
    let services6 = services.map(|service| SocketAddr::new(Role::Visitor.address6(), service.port()));
    for service in services.into_iter().chain(services6) {
        serve_udp(lab.host(Role::Visitor), service)?;
    }
    let daemon = Daemon::start(server, &config(), "eth0")?;
    let frames = reflections(None);
    under_flood(&lab, &frames, || {
        eventually("the flood has begun", || {
            dropped(&daemon, "unsolicited").is_ok_and(|count| count > 1_000)
        })?;
        for _ in 0..3 {
            for service in services {
                ensure!(is_answered_to_connected(server, service)?, "a connected client of {service}");
            }
            for service in services.into_iter().chain(services6) {
                let any = if service.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
                // A client port, and the service's own port, as with NTP, IKE and OpenVPN.
                for port in [0, service.port()] {
                    let answered = server.within(|| is_answered(&UdpSocket::bind((any, port))?, service))?;
                    ensure!(answered, "a client of {service} on port {port}");
                }
            }
        }
        Ok(())
    })?;
    let stats = eth0(&daemon)?;
    ensure!(stats.dropped.keys().eq(["unsolicited"]), "{stats:?}");
    ensure!(server.datagrams_without_port()? == 0, "no reflected packet has reached the stack");
    let status: Status = daemon.read("status")?;
    ensure!(status.solicited.used > 10 && status.warnings.is_empty(), "{status:?}");
    Ok(())
}

#[test]
fn players_play_while_mirrors_are_aimed_at_the_game() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let game = SocketAddr::new(Role::Server.address(), 27_015);
    let from_ports = serve_udp(server, game)?;
    let daemon = Daemon::start(
        server,
        &format!("{}[limit.total.amplification]\npackets = \"200/s\"\npackets_burst = \"200\"\n", config()),
        "eth0",
    )?;
    let frames = reflections(Some(game.port()));
    let begin = std::time::Instant::now();
    under_flood(&lab, &frames, || {
        eventually("the total is exceeded", || {
            dropped(&daemon, "total_packets").is_ok_and(|count| count > 1_000)
        })?;
        for _ in 0..20 {
            let answered = lab
                .host(Role::Visitor)
                .within(|| is_answered(&UdpSocket::bind((Role::Visitor.address(), 0))?, game))?;
            ensure!(answered, "a player");
        }
        Ok(())
    })?;
    // A lease for each processor, and a clock tick at either end.
    let most = 200.0 * (begin.elapsed().as_secs_f64() + 0.02) + 200.0 + 2.0 * 32.0;
    let counts = from_ports.lock().expect("nobody panics with it").clone();
    let mirrored: u64 = counts.iter().filter(|(port, _)| **port < 32_768).map(|(_, count)| count).sum();
    ensure!(
        mirrored as f64 <= most && mirrored > 50,
        "{mirrored} reflected packets where {most:.0} may: {counts:?}"
    );
    // The game has replied to them, which does not make them solicited.
    let (_, log) = daemon.end(libc::SIGTERM)?;
    ensure!(!log.contains("ERROR"), "{log}");
    Ok(())
}

/// Fills the egress of the server's `eth0`, so that no other program can be attached there.
fn refuse_egress(server: &Namespace) -> Result<Vec<Programs>> {
    if kernel_series()? < (6, 6) {
        // The qdisc `ingress` occupies the place of `clsact`, and has no egress.
        command(&format!("tc -n {} qdisc add dev eth0 ingress", server.name()))?;
        return Ok(Vec::new());
    }
    server.within(|| {
        let mut all = Vec::new();
        // The kernel accepts some sixty at most (linux/bpf_mprog.h, `BPF_MPROG_MAX`).
        while all.len() < 100 {
            let mut programs = Programs::load()?;
            if programs.stand_on_the_way_out("eth0", false).is_err() {
                return Ok(all);
            }
            all.push(programs);
        }
        bail!("the kernel takes any number of programs on the way out")
    })
}

#[test]
fn where_the_way_out_is_refused_sockets_tell_and_it_is_said() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let resolver = SocketAddr::new(Role::Visitor.address(), 53);
    serve_udp(lab.host(Role::Visitor), resolver)?;
    let _others = refuse_egress(server)?;

    let insisted = Daemon::start(server, "[proof]\nsolicited = \"egress\"\n", "eth0");
    let refusal = insisted.err().context("it starts without what is insisted on")?.to_string();
    ensure!(
        refusal.contains("eth0: the program that notes what the host asks for cannot be attached"),
        "{refusal}"
    );

    let daemon = Daemon::start(server, &config(), "eth0")?;
    ensure!(daemon.log().contains("what is asked for through eth0 is not noted"), "{}", daemon.log());
    let status: Status = daemon.read("status")?;
    ensure!(status.interfaces[0].answers == AnswersBy::Sockets && status.warnings.len() == 1, "{status:?}");
    ensure!(daemon.tell("status")?.contains("UDP answers told by sockets"));
    under_flood(&lab, &reflections(None), || {
        eventually("the flood has begun", || {
            dropped(&daemon, "unsolicited").is_ok_and(|count| count > 1_000)
        })?;
        ensure!(is_answered_to_connected(server, resolver)?, "a connected client");
        ensure!(
            server.within(|| is_answered(&UdpSocket::bind((IpAddr::from([0; 4]), 0))?, resolver))?,
            "any client"
        );
        Ok(())
    })
}

#[test]
fn the_configuration_says_by_what_answers_are_told() -> Result<()> {
    needs_root!();
    let noted = if kernel_series()? < (6, 6) { AnswersBy::Clsact } else { AnswersBy::Tcx };
    let lab = Lab::new()?;
    let cases = [
        ("solicited = \"auto\"", noted, true),
        ("solicited = \"egress\"", noted, false),
        ("solicited = \"socket\"", AnswersBy::Sockets, true),
        ("solicited = \"socket\"\nhost = false", AnswersBy::Nothing, false),
        ("host = false", noted, false),
        ("solicited = \"off\"", AnswersBy::Nothing, false),
    ];
    let frame = &reflections(Some(9))[0];
    let interface = lab.host(Role::Attacker).index("eth0")?;
    for (keys, expected, is_dropped) in cases {
        let daemon = Daemon::start(lab.host(Role::Server), &format!("[proof]\n{keys}\n"), "eth0")?;
        let status: Status = daemon.read("status")?;
        ensure!(status.interfaces[0].answers == expected, "{keys}: {status:?}");
        lab.host(Role::Attacker).within(|| send_frames(interface, [frame.as_slice()]))?;
        eventually(keys, || {
            eth0(&daemon).is_ok_and(|stats| {
                let side = if is_dropped { &stats.dropped } else { &stats.passed };
                side.contains_key(if is_dropped { "unsolicited" } else { "conforming" })
            })
        })?;
    }
    Ok(())
}

/// Returns what `tc` shows on the egress of `eth0`: queueing disciplines, and filters.
fn way_out(namespace: &Namespace) -> Result<[String; 2]> {
    let name = namespace.name();
    let shown = |what: &str| command(&format!("tc -n {name} {what}"));
    let filters = shown("filter show dev eth0 egress").unwrap_or_default(); // refused where there is no clsact
    Ok([shown("qdisc show dev eth0")?, filters])
}

/// Sends UDP to port 53 of a neighbour that need not exist.
fn ask(namespace: &Namespace, to: IpAddr, segment: Option<libc::c_int>) -> Result<()> {
    namespace.within(|| {
        let socket = UdpSocket::bind((IpAddr::from([0; 4]), 0))?;
        if let Some(size) = segment {
            // SAFETY: the option is an int, and the length is that of the value.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_SEGMENT,
                    (&raw const size).cast(),
                    size_of_val(&size) as u32,
                )
            };
            ensure!(set == 0, "UDP_SEGMENT: {}", std::io::Error::last_os_error());
        }
        socket.send_to(&[0; 4_000][..if segment.is_some() { 4_000 } else { 40 }], (to, 53))?;
        Ok(())
    })
}

/// Before Linux 6.11 a datagram is segmented only by a card with checksum offload, which those of the laboratory
/// lack.
fn is_refused_by_a_card_without_checksums(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error) == Some(libc::EIO)
}

#[test]
fn by_either_hook_questions_are_noted_and_nothing_of_others_is_touched() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let has_vlans = server.ip("link add link eth0 name eth0.7 type vlan id 7").is_ok();
    if has_vlans {
        server.ip_all(&[
            "link set eth0.7 up".to_owned(),
            "address add 192.0.2.129/25 dev eth0.7".to_owned(),
            "neighbour add 192.0.2.130 lladdr 02:00:00:00:00:03 dev eth0.7".to_owned(),
        ])?;
    } else {
        skip::skip("a_question_through_a_vlan_is_noted", "the kernel has no VLAN interfaces");
    }
    let before = way_out(server)?;
    let hooks = [Hook::Tcx, Hook::Clsact];
    for hook in hooks.into_iter().filter(|hook| *hook == Hook::Clsact || Hook::of_kernel() == Hook::Tcx) {
        for with_others in [false, true] {
            let mut theirs = Programs::load()?;
            if with_others {
                command(&format!("tc -n {} qdisc add dev eth0 clsact", server.name()))?;
                server.within(|| theirs.stand_on_the_way_out("eth0", true))?;
            }
            let without = way_out(server)?;
            server.within(|| {
                let options = FilterOptions { hook: Some(hook), ..FilterOptions::default() };
                let mut filter = Filter::load(&options)?;
                let attachment = filter.attach("eth0", AttachMode::Native, false)?;
                ensure!(attachment.noting == Noting::By(hook), "{:?}", attachment.noting);
                let shown = way_out(server)?;
                ensure!(
                    (hook == Hook::Clsact) == shown[1].contains("floodgate_egress"),
                    "{hook:?}: {shown:?}"
                );
                ensure!(with_others == shown[1].contains("leave"), "{shown:?}");
                let asked = [
                    ("plain", Role::Visitor.address(), None),
                    ("segments that the card would cut", Role::Visitor.address(), Some(1_000)),
                    ("a VLAN, whose tag is beside the frame", IpAddr::from([192, 0, 2, 130]), None),
                ];
                let asked = asked.into_iter().take(if has_vlans { 3 } else { 2 });
                let mut noted = 0;
                for (why, to, segment) in asked {
                    match ask(server, to, segment) {
                        Err(error) if segment.is_some() && is_refused_by_a_card_without_checksums(&error) => {
                            skip::skip(
                                "segments_that_the_card_would_cut_are_noted",
                                "the kernel makes none here",
                            );
                            continue;
                        }
                        sent => sent?,
                    }
                    noted += 1;
                    ensure!(filter.solicited.noted() == noted, "{hook:?}: {why}");
                }
                ensure!(filter.detach("eth0")?);
                Ok(())
            })?;
            ensure!(way_out(server)? == without, "{hook:?}: {:?}", way_out(server)?);
            if with_others {
                command(&format!("tc -n {} qdisc del dev eth0 clsact", server.name()))?;
                std::mem::forget(theirs); // its filter went with the qdisc
            }
        }
    }
    ensure!(way_out(server)? == before);
    Ok(())
}

#[test]
fn no_filter_for_the_way_out_is_put_on_the_way_in() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    command(&format!("tc -n {} qdisc add dev eth0 ingress", server.name()))?;
    server.within(|| {
        let options = FilterOptions { hook: Some(Hook::Clsact), ..FilterOptions::default() };
        let mut filter = Filter::load(&options)?;
        let Noting::Refused(why) = &filter.attach("eth0", AttachMode::Native, false)?.noting else {
            bail!("it is attached")
        };
        ensure!(why.contains("ingress has the place of clsact"), "{why}");
        let filters = command(&format!("tc -n {} filter show dev eth0 ingress", server.name()))?;
        ensure!(filters.is_empty(), "{filters}");
        Ok(())
    })
}

#[test]
fn what_a_killed_daemon_leaves_on_the_way_out_is_taken_over() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    let before = way_out(server)?;
    for signal in [libc::SIGKILL, libc::SIGTERM] {
        let daemon = Daemon::start(server, "", "eth0")?;
        let status: Status = daemon.read("status")?;
        ensure!(matches!(status.interfaces[0].answers, AnswersBy::Tcx | AnswersBy::Clsact), "{status:?}");
        ensure!(way_out(server)?[1].matches("floodgate_egress").count() <= 1);
        daemon.end(signal)?;
    }
    ensure!(way_out(server)? == before, "{:?}", way_out(server)?);
    Ok(())
}
