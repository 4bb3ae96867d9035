//! Floods from spoofed sources, of each kind, and the clients that must not be affected.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use flood_userspace::{config::SynProof, control::protocol::Status, host::setting_path};
use floodgate_tests::{
    daemon::Daemon,
    flood::Flood,
    lab::{Lab, Namespace, Role, eventually, fetch, serve_http, slowness},
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, from},
    programs::Sources as FloodSources,
};
use socket2::{Domain, Socket, Type};

use crate::traffic::eth0;

/// No source comes near its own limit, but together they exceed the total at once.
const CONFIG: &str = "
    [limit.source]
    packets = \"off\"
    [limit.source.syn]
    packets = \"off\"
    [limit.total.syn]
    packets = \"100/s\"
    packets_burst = \"6\"
    [limit.total.synack]
    packets = \"100/s\"
    packets_burst = \"6\"
    [limit.total.tcp]
    packets = \"100/s\"
    packets_burst = \"6\"
    [limit.total.rst_fin]
    packets = \"100/s\"
    packets_burst = \"6\"
";

const COOKIES: &str = "[proof]\nsyn = \"cookie\"\nsyncookies = \"raise\"\n";

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// How long a client waits.
fn patience() -> Duration {
    Duration::from_secs(2) * slowness()
}

/// Bytes of the large page besides its header.
const LARGE: usize = 1 << 20;

/// The laboratory with a page of six bytes at port 80, and a large one at port 81.
struct Site {
    lab: Lab,
}

impl Site {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        for ip in addresses(Role::Server).into_iter().chain(addresses(Role::Visitor)) {
            let role = if addresses(Role::Server).contains(&ip) { Role::Server } else { Role::Visitor };
            serve_http(lab.host(role), SocketAddr::new(ip, 80))?;
        }
        for ip in addresses(Role::Server) {
            serve_large(lab.host(Role::Server), SocketAddr::new(ip, 81))?;
        }
        Ok(Self { lab })
    }

    fn server(&self) -> &Namespace {
        self.lab.host(Role::Server)
    }

    fn visitor(&self) -> &Namespace {
        self.lab.host(Role::Visitor)
    }

    /// Does something while a frame is sent from sources all over the Internet.
    fn under<T>(&self, build: &Build, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let attacker = self.lab.host(Role::Attacker);
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        frame[6..12].copy_from_slice(&Role::Attacker.mac());
        let flood = Flood {
            interface: attacker.index("eth0")?,
            frame,
            varied: build.varied().to_vec(),
            sources: FloodSources { first: 0x2000_0000_0000_0000, count: 1 << 28, adjacent: false },
            rate: Some(100_000 / u64::from(slowness())),
            count: u64::MAX,
            duration: Duration::from_secs(60) * slowness(),
        };
        let (result, sent) = flood.during(attacker, || {
            thread::sleep(Duration::from_millis(200) * slowness());
            work()
        })?;
        ensure!(sent > 1_000, "{sent} frames sent");
        Ok(result)
    }

    fn syncookies(&self) -> Result<String> {
        self.server()
            .within(|| Ok(fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?.trim().to_owned()))
    }

    fn await_cookies(&self) -> Result<()> {
        eventually("net.ipv4.tcp_syncookies is raised", || self.syncookies().is_ok_and(|value| value == "2"))
    }
}

fn addresses(role: Role) -> [IpAddr; 2] {
    [role.address(), role.address6()]
}

/// Serves [`LARGE`] bytes to every client that sends something.
fn serve_large(server: &Namespace, address: SocketAddr) -> Result<()> {
    let listener = server.within(|| Ok(TcpListener::bind(address)?))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().filter_map(std::result::Result::ok) {
            thread::spawn(move || {
                // The visitor may have left.
                let _ = stream.read(&mut [0; 64]).and_then(|_| stream.write_all(&vec![7; LARGE]));
            });
        }
    });
    Ok(())
}

/// Fetches the large page over a connection.
fn fetch_large(mut stream: impl Read + Write) -> Result<()> {
    stream.write_all(b"please")?;
    let mut page = Vec::new();
    stream.read_to_end(&mut page)?;
    ensure!(page.len() == LARGE, "{} of {LARGE} bytes", page.len());
    Ok(())
}

fn connect(address: SocketAddr, prepare: impl FnOnce(&Socket) -> std::io::Result<()>) -> Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    prepare(&socket)?;
    socket
        .connect_timeout(&address.into(), patience())
        .with_context(|| format!("connecting to {address}"))?;
    socket.set_read_timeout(Some(patience()))?;
    Ok(socket)
}

#[test]
fn a_syn_flood_from_invented_sources_is_answered_and_no_client_notices() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let before = site.syncookies()?;
    ensure!(before != "2", "the kernel's default");
    // Opened before the filter is attached, and silent until the middle of the flood.
    let old = site.visitor().within(|| connect((Role::Server.address(), 81).into(), |_| Ok(())))?;
    let daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    let status: Status = daemon.read("status")?;
    ensure!(status.proof.syn == SynProof::Cookie && status.proof.sockets, "{:?}", status.proof);
    for build in [from(ATTACKER).tcp(40_000, 80, SYN), from(ATTACKER6).tcp(40_000, 80, SYN)] {
        site.under(&build, || {
            site.await_cookies()?;
            site.visitor().within(|| {
                for ip in addresses(Role::Server) {
                    for _ in 0..5 {
                        fetch((ip, 80).into(), patience()).with_context(|| format!("a page of {ip}"))?;
                    }
                    let large = |prepare: fn(&Socket) -> std::io::Result<()>| {
                        fetch_large(connect((ip, 81).into(), prepare)?)
                    };
                    large(|_| Ok(())).context("a large page")?;
                    large(|socket| socket.set_tcp_mss(536)).context("with small segments")?;
                    fs::write("/proc/sys/net/ipv4/tcp_timestamps", "0")?;
                    let plain = large(|_| Ok(()));
                    fs::write("/proc/sys/net/ipv4/tcp_timestamps", "1")?;
                    plain.context("without timestamps")?;
                }
                Ok(())
            })?;
            // The server's own connections.
            site.server().within(|| {
                addresses(Role::Visitor).into_iter().try_for_each(|ip| fetch((ip, 80).into(), patience()))
            })
        })?;
    }
    let old = || fetch_large(&old);
    site.under(&from(ATTACKER).tcp(40_000, 81, ACK), old).context("the connection from before")?;

    let stats = eth0(&daemon)?;
    let packets = |side: &std::collections::BTreeMap<String, _>, reason: &str| {
        side.get(reason).map_or(0, |volume: &flood_userspace::control::protocol::Volume| volume.packets)
    };
    ensure!(packets(&stats.answered, "answered") > 1_000, "{stats:?}");
    ensure!(packets(&stats.passed, "proven") > 30, "{stats:?}");
    ensure!(packets(&stats.dropped, "wrong_cookie") > 100, "{stats:?}");
    // What arrived before the setting was raised found room in a queue (of 4096), of one listener at a time.
    ensure!(packets(&stats.passed, "queue_has_room") < 10_000, "{stats:?}");
    let (status, log) = daemon.end(libc::SIGTERM)?;
    ensure!(status.success(), "{log}");
    ensure!(site.syncookies()? == before, "put back at the end");
    Ok(())
}

#[test]
fn answers_follow_the_mtu_and_end_with_the_flood() -> Result<()> {
    needs_root!();
    const MTU: u32 = 1_000;
    let site = Site::new()?;
    let daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    let offered = || {
        let socket = site.visitor().within(|| connect((Role::Server.address(), 80).into(), |_| Ok(())))?;
        Ok::<_, anyhow::Error>(socket.tcp_mss()?)
    };
    site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || {
        site.await_cookies()?;
        let before = offered()?;
        ensure!(before > MTU, "{before}");
        site.server().ip(&format!("link set eth0 mtu {MTU}"))?;
        eventually("the filter offers smaller segments", || offered().is_ok_and(|size| size <= MTU - 40))
    })?;

    // Frames of a flood may still be in flight.
    let answered =
        || Ok::<_, anyhow::Error>(eth0(&daemon)?.answered.get("answered").map(|volume| volume.packets));
    thread::sleep(Duration::from_secs(1));
    let before = answered()?;
    offered()?;
    ensure!(answered()? == before, "a second after the flood the kernel answers by itself");
    Ok(())
}

#[test]
fn what_a_killed_daemon_has_raised_is_put_back_by_the_next_one() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let state = tempfile::tempdir()?;
    let config = format!("state = \"{}\"\n{COOKIES}{CONFIG}", state.path().display());
    let before = site.syncookies()?;
    let kill = || -> Result<()> {
        let daemon = Daemon::start(site.server(), &config, "eth0")?;
        site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || site.await_cookies())?;
        daemon.end(libc::SIGKILL)?;
        ensure!(site.syncookies()? == "2", "nobody could put it back");
        Ok(())
    };
    for config in [&config, &config.replace("\"raise\"", "\"keep\"")] {
        kill()?;
        let daemon = Daemon::start(site.server(), config, "eth0")?;
        ensure!(site.syncookies()? == before, "{}", daemon.log());
        ensure!(daemon.log().contains("a floodgate that was killed has left"), "{}", daemon.log());
        daemon.end(libc::SIGTERM)?;
        ensure!(site.syncookies()? == before, "it was not taken for the operator's");
    }
    // The notes belong to that network namespace, and to the host as it was then.
    kill()?;
    let elsewhere = Namespace::new("elsewhere")?;
    elsewhere.ip("link add eth0 type veth peer name far0")?;
    let set = |value: &'static str| move || Ok(fs::write("/proc/sys/net/ipv4/tcp_syncookies", value)?);
    elsewhere.within(set("2"))?;
    drop(Daemon::start(&elsewhere, &config, "eth0")?);
    let there = elsewhere.within(|| Ok(fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies")?))?;
    ensure!(there.trim() == "2", "that of another namespace was changed");
    site.server().within(set("0"))?;
    drop(Daemon::start(site.server(), &config, "eth0")?);
    ensure!(site.syncookies()? == "0", "what the operator has set since was changed");
    Ok(())
}

#[test]
fn segments_out_of_the_blue_are_dropped_and_connections_go_on() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    let floods = [
        ("an ACK flood", from(ATTACKER).tcp(40_000, 80, ACK), "wrong_cookie"),
        ("to a port where nobody listens", from(ATTACKER6).tcp(40_000, 9, ACK), "no_connection"),
        ("an RST flood", from(ATTACKER).tcp(40_000, 80, RST), "wrong_cookie"),
        ("SYN-ACK reflection", from(ATTACKER).tcp(443, 50_000, SYN_ACK), "no_connection"),
        ("a SYN flood to a closed port", from(ATTACKER6).tcp(40_000, 9, SYN), "no_listener"),
    ];
    for (why, build, reason) in floods {
        site.under(&build, || {
            site.visitor().within(|| {
                for ip in addresses(Role::Server) {
                    fetch((ip, 80).into(), patience())?;
                    fetch_large(connect((ip, 81).into(), |_| Ok(()))?)?;
                }
                Ok(())
            })?;
            site.server().within(|| fetch((Role::Visitor.address(), 80).into(), patience()))
        })
        .context(why)?;
        let stats = eth0(&daemon)?;
        ensure!(stats.dropped.get(reason).is_some_and(|volume| volume.packets > 1_000), "{why}: {stats:?}");
    }
    Ok(())
}

#[test]
fn a_thousand_clients_behind_one_address_connect_during_a_syn_flood() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let clients = 1_000 / slowness() as usize;
    let _daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || {
        site.visitor().within(|| {
            let address = SocketAddr::new(Role::Server.address(), 81);
            let open = (0..clients)
                .map(|number| connect(address, |_| Ok(())).with_context(|| format!("client {number}")))
                .collect::<Result<Vec<_>>>()?;
            ensure!(open.len() == clients);
            fetch_large(&open[clients - 1]).context("the last of them")
        })
    })
}

#[test]
fn fast_open_falls_back_to_a_handshake() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    for host in [site.server(), site.visitor()] {
        host.within(|| Ok(fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027")?))?; // without cookies of its own
    }
    let _daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || {
        site.visitor().within(|| {
            for ip in addresses(Role::Server) {
                // TCP_FASTOPEN_CONNECT: the first data are sent with the SYN.
                fetch_large(connect((ip, 81).into(), fast_open)?)?;
            }
            Ok(())
        })
    })
}

fn fast_open(socket: &Socket) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;

    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one integer, of the given length.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_FASTOPEN_CONNECT,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

#[test]
fn where_the_filter_cannot_answer_a_syn_has_to_come_twice() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let daemon = Daemon::start(site.server(), CONFIG, "eth0")?;
    let status: Status = daemon.read("status")?;
    ensure!(status.proof.syn == SynProof::Retransmission, "{:?}", status.proof);
    ensure!(daemon.log().contains("unless its peer has an XDP program"), "{}", daemon.log());
    site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || {
        // Occasionally a visitor is still within the total, because the lease of its processor is not used up, or the
        // flood of a slow machine has pauses.
        for _ in 0..20 {
            let web = SocketAddr::new(Role::Server.address(), 80);
            site.visitor().within(|| fetch(web, 2 * patience()))?;
            if eth0(&daemon)?.passed.get("syn_again").is_some_and(|volume| volume.packets > 0) {
                return Ok(());
            }
        }
        bail!("no SYN had to come twice: {:?}", eth0(&daemon)?)
    })?;
    let stats = eth0(&daemon)?;
    ensure!(stats.dropped.get("first_syn").is_some_and(|volume| volume.packets > 1_000), "{stats:?}");
    Ok(())
}

/// A container behind the server: the server forwards port 8080 to it. A listener of the server also has that port,
/// as docker-proxy does, and never sees a packet.
struct Container {
    _namespace: Namespace,
    _listener: TcpListener,
}

impl Container {
    const PORT: u16 = 8_080;

    fn new(server: &Namespace) -> Result<Self> {
        let namespace = Namespace::new("container")?;
        server.ip_all(&[
            format!("link add inside type veth peer name eth0 netns {}", namespace.name()),
            "address add 10.99.0.1/24 dev inside".to_owned(),
            "link set inside up".to_owned(),
        ])?;
        namespace.ip_all(&[
            "address add 10.99.0.2/24 dev eth0".to_owned(),
            "link set eth0 up".to_owned(),
            "route add default via 10.99.0.1".to_owned(),
        ])?;
        for (host, interface) in [(server, "inside"), (&namespace, "eth0")] {
            let words = ["-K", interface, "tx", "off", "tso", "off", "gso", "off"];
            let off = host.command("ethtool")?.args(words).output()?;
            ensure!(off.status.success(), "ethtool: {}", String::from_utf8_lossy(&off.stderr));
        }
        server.within(|| Ok(fs::write("/proc/sys/net/ipv4/ip_forward", "1")?))?;
        let rules = "table ip passed_on { chain in { type nat hook prerouting priority -100; \
                     tcp dport 8080 dnat to 10.99.0.2:80; }; }";
        let translated = server.command("nft")?.arg(rules).output().context("starting nft")?;
        ensure!(translated.status.success(), "nft: {}", String::from_utf8_lossy(&translated.stderr));
        serve_http(&namespace, ([10, 99, 0, 2], 80).into())?;
        let listener = server.within(|| Ok(TcpListener::bind(("0.0.0.0", Self::PORT))?))?;
        Ok(Self { _namespace: namespace, _listener: listener })
    }
}

#[test]
fn where_ports_are_translated_every_client_gets_through_to_the_container() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let page = SocketAddr::new(Role::Server.address(), Container::PORT);
    let fetch_pages = |count: u32| {
        site.visitor().within(|| {
            // A retransmitted SYN comes after a second.
            (0..count).try_for_each(|n| fetch(page, 2 * patience()).with_context(|| format!("page {n}")))
        })
    };
    // The daemon starts first: it has to notice later changes.
    let daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    let status: Status = daemon.read("status")?;
    ensure!(status.proof.syn == SynProof::Cookie && status.proof.absence, "{:?}", status.proof);
    let _container = Container::new(site.server())?;
    eventually("the daemon has noticed", || {
        daemon.read("status").is_ok_and(|status: Status| status.proof.syn == SynProof::Retransmission)
    })?;
    let status: Status = daemon.read("status")?;
    ensure!(!status.proof.absence, "{:?}", status.proof);
    ensure!(
        status.proof.why_no_cookies.as_ref().is_some_and(|why| why.contains("table passed_on")),
        "{:?}",
        status.proof
    );
    fetch_pages(3).context("without a flood")?;
    site.under(&from(ATTACKER).tcp(40_000, Container::PORT, SYN), || fetch_pages(8))?;
    let stats = eth0(&daemon)?;
    ensure!(stats.answered.is_empty() && !stats.passed.contains_key("queue_has_room"), "{stats:?}");
    ensure!(stats.passed.get("syn_again").is_some_and(|volume| volume.packets > 0), "{stats:?}");
    // A packet without a socket here may have one in the container.
    site.under(&from(ATTACKER).tcp(40_000, Container::PORT, ACK), || Ok(()))?;
    ensure!(!eth0(&daemon)?.dropped.contains_key("no_connection"), "{:?}", eth0(&daemon)?);
    Ok(())
}

#[test]
fn where_one_interface_forwards_no_socket_says_nothing() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    server.ip("link add behind.7 type veth peer name far")?;
    let daemon = Daemon::start(server, "", "eth0")?;
    absence_says_nothing(&daemon, None)?;
    for (file, why) in [
        ("ipv4/conf/eth0/forwarding", "net.ipv4.conf.eth0.forwarding"),
        ("ipv6/conf/behind.7/forwarding", "net.ipv6.conf.behind/7.forwarding"),
    ] {
        let set = |value: &'static str| server.within(|| Ok(fs::write(setting_path(file), value)?));
        set("1")?;
        absence_says_nothing(&daemon, Some(why))?;
        set("0")?;
        absence_says_nothing(&daemon, None)?;
    }
    // The default for future interfaces does not apply to existing ones.
    server.within(|| Ok(fs::write(setting_path("ipv4/conf/default/forwarding"), "1")?))?;
    server.ip("link set behind.7 up")?;
    absence_says_nothing(&daemon, None)
}

/// Configurations that deliver packets to other destinations than they are addressed to: the name, the commands that
/// set it up, and words of the reason shown for it.
const TAKERS: [(&str, &[&str], &str); 11] = [
    (
        "a port is written",
        &[
            "nft table ip own { chain in { type filter hook prerouting priority -300; udp dport 5000 udp dport set 5001 notrack; }; }",
        ],
        "chain in of table own",
    ),
    (
        "the same before netfilter",
        &[
            "nft table netdev own { chain in { type filter hook ingress device eth0 priority 0; udp dport 5000 udp dport set 5001; }; }",
        ],
        "chain in of table own",
    ),
    (
        "an address is written",
        &[
            "nft table ip own { chain in { type filter hook prerouting priority -300; udp dport 5000 ip daddr set 192.0.2.99; }; }",
        ],
        "chain in of table own",
    ),
    (
        "a transparent proxy",
        &[
            "nft table ip own { chain in { type filter hook prerouting priority -150; udp dport 5000 tproxy to :5001; }; }",
        ],
        "chain in of table own",
    ),
    (
        "handed to another interface",
        &[
            "nft table netdev own { chain in { type filter hook ingress device eth0 priority 0; udp dport 5000 fwd to lo; }; }",
        ],
        "chain in of table own",
    ),
    (
        "a copy for another interface",
        &[
            "nft table netdev own { chain in { type filter hook ingress device eth0 priority 0; udp dport 5000 dup to lo; }; }",
        ],
        "chain in of table own",
    ),
    (
        "behind a jump",
        &["nft table ip own { chain x { udp dport set 5001; }; \
           chain in { type filter hook prerouting priority -300; udp dport 5000 notrack jump x; }; }"],
        "chain x of table own",
    ),
    (
        "behind a map",
        &["nft table ip own { chain x { udp dport set 5001; }; \
           chain in { type filter hook prerouting priority -300; udp dport vmap { 5000 : jump x }; }; }"],
        "chain x of table own",
    ),
    (
        "tc redirects",
        &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 ingress protocol ip u32 match ip dport 5000 0xffff action mirred egress redirect dev lo",
        ],
        "the action mirred on the way in at eth0",
    ),
    (
        "the same by the older qdisc",
        &[
            "tc qdisc add dev eth0 ingress",
            "tc filter add dev eth0 parent ffff: protocol ip u32 match ip dport 5000 0xffff action mirred egress redirect dev lo",
        ],
        "the action mirred on the way in at eth0",
    ),
    (
        "tc redirects all",
        &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev lo",
        ],
        "the action mirred on the way in at eth0",
    ),
];

/// Configurations that modify or inspect packets without redirecting any, or that do nothing.
const NO_TAKERS: [&[&str]; 8] = [
    &["nft table ip own { flags dormant; \
       chain in { type filter hook prerouting priority -300; udp dport 5000 udp dport set 5001; }; }"],
    &["nft table ip own { chain x { udp dport 5000 udp dport set 5001; }; \
       chain in { type filter hook prerouting priority -300; accept; }; }"],
    &["nft table ip own { chain x { udp dport 5000 udp dport set 5001; }; \
       chain out { type filter hook output priority -300; jump x; }; }"],
    &[
        "nft table ip own { chain in { type filter hook prerouting priority -300; ip dscp set cs1; ip ttl set 9; }; }",
    ],
    &[
        "nft table ip own { chain out { type filter hook output priority -300; udp sport 5001 udp sport set 5000; }; }",
    ],
    &[
        "tc qdisc add dev eth0 clsact",
        "tc filter add dev eth0 ingress protocol ip u32 match ip dport 5000 0xffff classid 1:1",
    ],
    &[
        "ip link add shaper type ifb",
        "tc qdisc add dev eth0 clsact",
        "tc filter add dev eth0 ingress protocol all u32 match u32 0 0 action mirred egress redirect dev shaper",
    ],
    &[
        "tc qdisc add dev eth0 clsact",
        "tc filter add dev eth0 egress protocol all u32 match u32 0 0 action mirred egress redirect dev lo",
    ],
];

#[test]
fn where_packets_are_given_to_others_no_socket_says_nothing() -> Result<()> {
    needs_root!();
    let lab = Lab::new()?;
    let server = lab.host(Role::Server);
    // On egress without a qdisc of its own, so that all qdiscs here are the test's.
    let daemon = Daemon::start(server, "[proof]\nsolicited = \"socket\"\n", "eth0")?;
    let run = |line: &str| {
        let (program, words) = line.split_once(' ').context("a command has words")?;
        let mut command = server.command(program)?;
        if program == "nft" {
            command.arg(words)
        } else {
            command.args(words.split(' '))
        };
        let said = command.output().with_context(|| line.to_owned())?;
        ensure!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(())
    };
    let clear = || {
        run("nft flush ruleset")?;
        // There is none, or there are two ways to delete it.
        let _ = run("tc qdisc del dev eth0 clsact").or_else(|_| run("tc qdisc del dev eth0 ingress"));
        absence_says_nothing(&daemon, None)
    };
    clear()?;
    for (name, lines, why) in TAKERS {
        lines.iter().try_for_each(|line| run(line)).context(name)?;
        absence_says_nothing(&daemon, Some(why)).context(name)?;
        if lines.iter().any(|line| line.contains("udp dport set 5001")) {
            arrives_from_a_mirror_s_port(&lab).context(name)?;
        }
        clear()?;
    }
    for lines in NO_TAKERS {
        lines.iter().try_for_each(|line| run(line))?;
        // The daemon's knowledge is from that moment or later once it has noticed another change.
        server.within(|| Ok(fs::write(setting_path("ipv4/conf/lo/forwarding"), "1")?))?;
        absence_says_nothing(&daemon, Some("net.ipv4.conf.lo.forwarding"))
            .with_context(|| format!("{lines:?}"))?;
        server.within(|| Ok(fs::write(setting_path("ipv4/conf/lo/forwarding"), "0")?))?;
        clear()?;
    }
    Ok(())
}

/// A client that uses a reflector port as its source port reaches what is behind port 5000.
fn arrives_from_a_mirror_s_port(lab: &Lab) -> Result<()> {
    let behind = lab.host(Role::Server).within(|| Ok(UdpSocket::bind((Role::Server.address(), 5_001))?))?;
    behind.set_read_timeout(Some(patience()))?;
    for port in [123, 27_015, 4_500] {
        let client =
            lab.host(Role::Visitor).within(|| Ok(UdpSocket::bind((Role::Visitor.address(), port))?))?;
        client.send_to(b"hello", (Role::Server.address(), 5_000))?;
        behind.recv(&mut [0; 8]).with_context(|| format!("from port {port}"))?;
    }
    Ok(())
}

/// Waits until the absence of a socket no longer counts, for this reason, or counts again.
fn absence_says_nothing(daemon: &Daemon, why: Option<&str>) -> Result<()> {
    eventually(&format!("absence is off for {why:?}"), || {
        daemon.read("status").is_ok_and(|Status { proof, .. }| match (why, &proof.why_no_absence) {
            (None, None) => proof.absence,
            (Some(why), Some(said)) => !proof.absence && said.contains(why),
            _ => false,
        })
    })
}

/// Rules that a host's own firewall may have, and whether the ACK with a cookie opens a connection there.
const FIREWALLS: [(&str, &str, bool); 12] = [
    ("states alone", "ct state established,related accept; ct state invalid drop; tcp dport 80 accept", true),
    ("flags alone", "tcp flags & (fin|syn|rst|ack) == 0 drop; accept", true),
    (
        "new but no SYN",
        "ct state established accept; tcp flags & (fin|syn|rst|ack) != syn ct state new drop; accept",
        false,
    ),
    ("only a SYN opens", "ct state established accept; tcp flags & syn == syn tcp dport 80 accept", false),
    (
        "by verdict map",
        "ct state vmap { established : accept, invalid : drop }; tcp flags syn / fin,syn,rst,ack accept",
        false,
    ),
    ("flags in a range", "ct state established accept; @th,96,16 & 0x3f == 2 tcp dport 80 accept", false),
    ("no state", "tcp dport 80 accept", true),
    (
        "a mark from a SYN",
        "tcp flags & (fin|syn|rst|ack) == syn tcp dport 80 ct mark set 1; ct mark 1 accept",
        false,
    ),
    ("a mark that nobody reads", "tcp flags syn ct mark set 1; tcp dport 80 accept", true),
    (
        "options alone open",
        "ct state established accept; tcp option maxseg exists tcp dport 80 accept",
        false,
    ),
    ("a set of who has sent a SYN", "tcp flags syn add @known { ip saddr }; ip saddr @known accept", false),
    ("a meter", "tcp flags syn add @known { ip saddr limit rate over 100/second } drop; accept", true),
];

#[test]
fn where_the_hosts_own_firewall_knows_connections_every_client_gets_in() -> Result<()> {
    needs_root!();
    let site = Site::new()?;
    let nft = |rules: &str| {
        let said = site.server().command("nft")?.arg(rules).output().context("starting nft")?;
        ensure!(said.status.success(), "nft {rules}: {}", String::from_utf8_lossy(&said.stderr));
        Ok(())
    };
    let daemon = Daemon::start(site.server(), &format!("{COOKIES}{CONFIG}"), "eth0")?;
    let turns_to = |proof: SynProof, why: &str| {
        eventually(&format!("{why}: {proof:?}"), || {
            daemon.read("status").is_ok_and(|status: Status| status.proof.syn == proof)
        })
    };
    let fetch_page = || {
        let web = SocketAddr::new(Role::Server.address(), 80);
        site.visitor().within(|| fetch(web, 2 * patience()))
    };
    for (name, rules, opens) in FIREWALLS {
        let proof = if opens { SynProof::Cookie } else { SynProof::Retransmission };
        nft(&format!(
            "table inet own {{ set known {{ type ipv4_addr; size 65535; flags dynamic; }}; chain in {{ type filter hook input priority 0; policy drop; iif lo accept; \
             meta l4proto {{ icmp, ipv6-icmp }} accept; {rules}; }}; }}"
        ))?;
        turns_to(proof, name)?;
        let status: Status = daemon.read("status")?;
        let says_why = status.proof.why_no_cookies.is_some_and(|why| why.contains("chain in of table own"));
        ensure!(says_why != opens, "{name}");
        site.under(&from(ATTACKER).tcp(40_000, 80, SYN), || {
            (0..3).try_for_each(|n| fetch_page().with_context(|| format!("{name}, page {n}")))
        })?;
        nft("delete table inet own")?;
    }
    // Forwarded and sent packets do not matter, and neither do frames.
    for chain in [
        "inet own { chain out { type filter hook forward priority 0;",
        "arp own { chain in { type filter hook input priority 0;",
    ] {
        let rules = if chain.starts_with("inet") { "ct state new tcp flags syn accept" } else { "accept" };
        nft(&format!("table {chain} {rules}; }}; }}"))?;
    }
    turns_to(SynProof::Cookie, "elsewhere")?;
    // Whatever rules match on connection tracking, it does not know the ACK.
    site.server().within(|| Ok(fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_loose", "0")?))?;
    for rules in [
        "ct state established accept",
        "ct mark 5 accept; ct direction original tcp dport 80 accept",
        "ct status & confirmed == confirmed accept",
    ] {
        nft("add table inet other; delete table inet other")?;
        turns_to(SynProof::Cookie, "no rules")?;
        nft(&format!("table inet other {{ chain in {{ type filter hook input priority 0; {rules}; }}; }}"))?;
        turns_to(SynProof::Retransmission, &format!("not loose: {rules}"))?;
        site.under(&from(ATTACKER).tcp(40_000, 80, SYN), fetch_page).context(rules)?;
    }
    Ok(())
}
