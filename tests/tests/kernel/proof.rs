//! Packets beyond a limit, against the real sockets of a host: a network namespace with the server's addresses.

use std::{
    fs,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::programs::{TestRun, TestRunOptions};
use flood_common::{
    proof::means::{COOKIES, RETRANSMISSION, SOCKETS},
    reason::Reason::{self, *},
    wire::protocol,
};
use floodgate_tests::{
    lab::Namespace,
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, SERVER, SERVER6, VISITOR, VISITOR6, from},
    rig::Rig,
    same_on_every_kernel,
};

const SYN: u8 = 0x02;
const SYN_ACK: u8 = 0x12;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;

/// Runs a test on a host with the server's addresses, whose kernel always makes cookies.
fn on_host(test: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    let host = Namespace::new("proof")?;
    let addresses = [SERVER, SERVER6, VISITOR, VISITOR6];
    let prefix = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    host.ip_all(
        &addresses.map(|address| format!("address add {address}/{} dev lo nodad", prefix(&address))),
    )?;
    host.within(|| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
        let mut rig = Rig::without_limits();
        // The first packet takes all of it, as time stands still.
        rig.limits(
            "[limit.source]\npackets = \"off\"\n[limit.source.syn]\npackets = \"off\"\n\
             [limit.source.icmp]\npackets = \"off\"\n[limit.total]\npackets = \"1/s\"\npackets_burst = \"1\"\n",
        );
        while rig.send(&from(ATTACKER).udp(1, 1).bytes()) == Some(Conforming) {}
        rig.prove(COOKIES | SOCKETS, 10);
        test(&mut rig)
    })
}

fn send(rig: &mut Rig, build: &Build) -> Option<Reason> {
    rig.send(&build.bytes())
}

fn tcp(source: IpAddr, ports: [u16; 2], flags: u8) -> Build {
    from(source).tcp(ports[0], ports[1], flags)
}

#[test]
fn what_belongs_to_a_connection_passes_and_nothing_else_does() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        for (server, visitor, attacker) in [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)] {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            let client = connect_from(visitor, listener.local_addr()?)?;
            let _accepted = listener.accept()?;
            let clients = client.local_addr()?.port();
            rig.sockets.listeners = vec![port];
            rig.sockets.connections = vec![[clients, port]];
            for flags in [ACK, RST, ACK | 0x01, SYN] {
                let segment = tcp(visitor, [clients, port], flags);
                ensure!(send(rig, &segment) == Some(Proven), "{visitor}, flags {flags:#x}");
            }
            let other = clients ^ 1;
            let cases = [
                ("an ACK to a listener", tcp(attacker, [other, port], ACK), WrongCookie),
                ("an RST to a listener", tcp(attacker, [other, port], RST), WrongCookie),
                ("an ACK to no listener", tcp(attacker, [other, port ^ 1], ACK), NoConnection),
                ("a SYN-ACK that nobody asked for", tcp(attacker, [port, other], SYN_ACK), NoConnection),
                ("a SYN to no listener", tcp(attacker, [other, port ^ 1], SYN), NoListener),
                (
                    "a later fragment",
                    from(attacker).protocol(protocol::TCP).payload(1).fragment(5, false),
                    TotalPackets,
                ),
            ];
            for (why, build, expected) in cases {
                let reason = send(rig, &build);
                ensure!(reason == Some(expected), "{why}: {reason:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_syn_to_a_listener_is_answered_with_a_cookie_that_the_kernel_accepts() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        for (server, attacker) in [(SERVER, ATTACKER), (SERVER6, ATTACKER6)] {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            rig.sockets.listeners = vec![port];
            rig.sockets.cookies = true;
            for size in [Some(536), Some(1_220), Some(1_300), Some(1_440), Some(1_460), Some(8_960), None] {
                for build in [
                    tcp(attacker, [40_000, port], SYN),
                    tcp(attacker, [40_000, port], SYN).vlan().service_vlan(),
                ] {
                    let build = with_size(build, size);
                    let why = format!("{server}, segment size {size:?}");
                    ensure!(send(rig, &build) == Some(Answered), "{why}");
                    let frame = build.bytes();
                    let answer = run(rig, &frame)?;
                    let transport = build.transport_offset();
                    ensure!(answer.len() == transport + 24, "{why}: {} bytes", answer.len());
                    ensure!(
                        answer[..6] == frame[6..12] && answer[6..12] == frame[..6],
                        "{why}: MAC addresses"
                    );
                    ensure!(
                        answer[12..build.ip_offset()] == frame[12..build.ip_offset()],
                        "{why}: VLAN tags"
                    );
                    let tcp_header = &answer[transport..];
                    ensure!(
                        tcp_header[..4]
                            == [&frame[transport + 2..transport + 4], &frame[transport..transport + 2]]
                                .concat()[..]
                    );
                    ensure!(
                        tcp_header[13] == SYN_ACK && tcp_header[8..12] == [0, 0, 0, 8],
                        "{why}: {tcp_header:?}"
                    );
                    let headers = if server.is_ipv4() { 40 } else { 60 };
                    // The sizes that a cookie has room for (`msstab` in net/ipv4/syncookies.c and net/ipv6/syncookies.c).
                    let sizes = if server.is_ipv4() {
                        [536, 1_300, 1_440, 1_460]
                    } else {
                        [1_220, 1_420, 1_440, 8_940]
                    };
                    let largest = sizes.into_iter().rfind(|fits| size.is_some_and(|size| size >= *fits));
                    let wanted = largest.unwrap_or(sizes[0]).min(1_500 - headers);
                    ensure!(tcp_header[22..24] == wanted.to_be_bytes(), "{why}: {:?}", &tcp_header[20..]);

                    let cookie = u32::from_be_bytes(tcp_header[4..8].try_into()?);
                    let bring = |cookie| bring(attacker, server, port, cookie);
                    rig.sockets.right_cookie = true;
                    ensure!(send(rig, &bring(cookie)) == Some(Proven), "{why}: brought back");
                    rig.sockets.right_cookie = false;
                    for wrong in [cookie ^ 1 << 24, cookie ^ 1 << 20, 0] {
                        ensure!(
                            send(rig, &bring(wrong)) == Some(WrongCookie),
                            "{why}: {wrong:#x} for {cookie:#x}"
                        );
                    }
                }
            }
            let hard = [
                ("IP options", tcp(attacker, [40_000, port], SYN).options(1), server.is_ipv4()),
                (
                    "extension headers",
                    tcp(attacker, [40_000, port], SYN).extension(protocol::DESTINATION_OPTIONS, 0),
                    server.is_ipv6(),
                ),
            ];
            for (why, build, _) in hard.into_iter().filter(|(_, _, applies)| *applies) {
                rig.sockets.cookies = false;
                let frame = build.bytes();
                let outcome = rig.filter().run(&frame)?;
                ensure!(outcome == flood_userspace::bpf::RunOutcome::Drop, "{why}: {outcome:?}");
                rig.recount();
                rig.sockets.cookies = true;
            }
            // In monitor mode the kernel answers.
            rig.monitor(true);
            ensure!(send(rig, &tcp(attacker, [40_000, port], SYN)) == Some(Answered));
            rig.monitor(false);
        }
        Ok(())
    })
}

#[test]
fn a_cookie_is_right_in_the_next_minute_too() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    // Longer than the minutes by which the kernel counts.
    const MINUTE: Duration = Duration::from_secs(61);
    on_host(|rig| {
        rig.sockets.cookies = true;
        let mut cookies = Vec::new();
        for (server, attacker) in [(SERVER, ATTACKER), (SERVER6, ATTACKER6)] {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            rig.sockets.listeners.push(port);
            let syn = with_size(tcp(attacker, [40_000, port], SYN), Some(1_460));
            let answer = run(rig, &syn.bytes())?;
            let at = syn.transport_offset() + 4;
            let cookie = u32::from_be_bytes(answer.get(at..at + 4).context("no answer")?.try_into()?);
            cookies.push((bring(attacker, server, port, cookie), listener));
        }
        thread::sleep(MINUTE);
        rig.sockets.right_cookie = true;
        for (ack, listener) in cookies {
            ensure!(send(rig, &ack) == Some(Proven), "{listener:?}");
        }
        Ok(())
    })
}

#[test]
fn a_listener_with_room_in_its_queue_gets_the_syn() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        let listener = TcpListener::bind((SERVER, 0))?;
        let port = listener.local_addr()?.port();
        rig.sockets.listeners = vec![port];
        ensure!(send(rig, &tcp(ATTACKER, [40_000, port], SYN)) == Some(QueueHasRoom));
        Ok(())
    })
}

#[test]
fn a_syn_that_comes_again_in_time_passes() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        rig.prove(RETRANSMISSION | SOCKETS, 10);
        for source in [VISITOR, VISITOR6] {
            let syn = tcp(source, [40_000, 443], SYN);
            ensure!(send(rig, &syn) == Some(FirstSyn));
            ensure!(send(rig, &syn) == Some(FirstSyn), "a copy that comes at once");
            exhaust(rig, Duration::from_secs(1));
            ensure!(send(rig, &syn) == Some(Proven), "{source} after a second");
            exhaust(rig, Duration::from_secs(10));
            ensure!(send(rig, &syn) == Some(FirstSyn), "long after");
        }
        // Those that come again have a budget: ten a second, twenty at once.
        let many: Vec<_> = (0..50).map(|n| tcp(VISITOR, [41_000 + n, 443], SYN)).collect();
        ensure!(many.iter().all(|syn| send(rig, syn) == Some(FirstSyn)));
        exhaust(rig, Duration::from_secs(1));
        let passed = many.iter().filter(|syn| send(rig, syn) == Some(Proven)).count();
        ensure!(passed == 20, "{passed} of 50 passed");
        Ok(())
    })
}

/// Lets time pass, and takes what the total allows since.
fn exhaust(rig: &mut Rig, time: Duration) {
    rig.advance(time);
    while rig.send(&from(ATTACKER).tcp(1, 1, ACK).bytes()) == Some(Conforming) {}
}

#[test]
fn udp_beyond_a_limit_needs_a_socket_of_its_own() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        for (server, visitor, attacker) in [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)] {
            let (open, connected) = (UdpSocket::bind((server, 0))?, UdpSocket::bind((server, 0))?);
            connected.connect((visitor, 5_000))?;
            let ports = [open.local_addr()?.port(), connected.local_addr()?.port()];
            rig.sockets.datagrams = vec![(ports[0], None), (ports[1], Some(5_000))];
            let udp = |source, ports: [u16; 2]| from(source).udp(ports[0], ports[1]);
            ensure!(send(rig, &udp(visitor, [5_000, ports[1]])) == Some(Proven), "{visitor}");
            ensure!(send(rig, &udp(visitor, [5_000, ports[0]])) == Some(TotalPackets), "to anybody's socket");
            ensure!(send(rig, &udp(attacker, [5_001, 1])) == Some(NoSocket), "to none");
        }
        Ok(())
    })
}

#[test]
fn an_icmp_error_about_a_packet_of_this_host_passes() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        for (server, visitor, attacker) in [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)] {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            let client = connect_from(visitor, listener.local_addr()?)?;
            let _accepted = listener.accept()?;
            let clients = client.local_addr()?.port();
            rig.sockets.connections = vec![[clients, port]];
            let unreachable = if server.is_ipv4() { (3, 1) } else { (1, 0) };
            let error = |ports: [u16; 2]| {
                // What the server sent to the visitor, quoted by a router.
                let quoted = from(server).to(visitor).tcp(ports[0], ports[1], ACK).bytes();
                let build = from(attacker).icmp(unreachable.0, unreachable.1).payload(quoted.len() - 14);
                let at = build.transport_offset() + 8;
                build.patch(at, &quoted[14..])
            };
            ensure!(send(rig, &error([port, clients])) == Some(Proven), "{server}");
            ensure!(send(rig, &error([port, clients ^ 1])) == Some(NoConnection), "{server}, another port");
            ensure!(send(rig, &from(attacker).echo_request()) == Some(TotalPackets), "a ping quotes nothing");
        }
        Ok(())
    })
}

/// Gives a SYN the option of the segment size.
fn with_size(syn: Build, size: Option<u16>) -> Build {
    let at = syn.transport_offset();
    // The client's sequence number is 7.
    let syn = syn.patch(at + 4, &7_u32.to_be_bytes());
    match size {
        None => syn,
        Some(size) => {
            let [high, low] = size.to_be_bytes();
            syn.payload(4).patch(at + 12, &[6 << 4]).patch(at + 20, &[2, 4, high, low])
        }
    }
}

/// The ACK that brings a cookie back to whoever answered a SYN of [`with_size`].
fn bring(client: IpAddr, server: IpAddr, port: u16, cookie: u32) -> Build {
    let at = build_offset(server);
    tcp(client, [40_000, port], ACK)
        .patch(at + 4, &8_u32.to_be_bytes())
        .patch(at + 8, &cookie.wrapping_add(1).to_be_bytes())
}

/// Where TCP begins in a frame without tags to this server.
fn build_offset(server: IpAddr) -> usize {
    tcp(server, [0, 0], 0).transport_offset()
}

/// The frame that the filter makes of a frame.
fn run(rig: &mut Rig, frame: &[u8]) -> Result<Vec<u8>> {
    let mut out = vec![0; frame.len() + 64];
    let options =
        TestRunOptions { data_in: Some(frame), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = rig.filter().program()?.test_run(options)?;
    let length = result.data_size_out as usize;
    out.truncate(length);
    rig.recount();
    Ok(out)
}

/// Connects from an address.
fn connect_from(from: IpAddr, to: SocketAddr) -> Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(to), socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), Duration::from_secs(2)).with_context(|| format!("{from} to {to}"))?;
    Ok(socket.into())
}
