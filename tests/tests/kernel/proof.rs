//! Packets over a limit, against the real sockets of a host: a network namespace with the server's addresses.

use std::{
    fs,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{TestRun, TestRunOptions};
use flood_common::{
    evidence::{Opening, Request, state},
    host::{self, Between, Listener},
    packet::{Parsed, parse},
    proof::means::{COOKIES, RETRANSMISSION, SOCKETS},
    reason::Reason::{self, *},
    wire::{Frame, protocol},
};
use flood_userspace::{
    boot_time::BootTime,
    lists::{Edit, ListKind},
};
use floodgate_tests::{
    lab::{Namespace, eventually},
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, SERVER, SERVER6, VISITOR, VISITOR6, from},
    peer::{ACK, FIN, Peer, RST, SYN},
    rig::{Rig, entry},
    same_on_every_kernel,
};
use ipnet::IpNet;

const SYN_ACK: u8 = SYN | ACK;

/// Addresses of both families: of the server, and of a peer without an interface.
const FAMILIES: [(IpAddr, IpAddr); 2] = [(SERVER, ATTACKER), (SERVER6, ATTACKER6)];

/// Runs a test on a host with the server's addresses, whose kernel always uses cookies.
fn on_host(test: impl FnOnce(&mut Rig) -> Result<()> + Send) -> Result<()> {
    on_host_with(|| test(&mut Rig::without_limits()))
}

fn on_host_with(test: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let host = Namespace::new("proof")?;
    let addresses = [SERVER, SERVER6, VISITOR, VISITOR6];
    let prefix = |address: &IpAddr| if address.is_ipv4() { 32 } else { 128 };
    host.ip_all(
        &addresses.map(|address| format!("address add {address}/{} dev lo nodad", prefix(&address))),
    )?;
    host.within(|| {
        Peer::prepare()?;
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
        test()
    })
}

/// Sets a total limit that the first packet uses up, as time stands still. Later packets need evidence.
fn over_the_limit(rig: &mut Rig) {
    rig.limits(
        "[limit.source]\npackets = \"off\"\n[limit.source.syn]\npackets = \"off\"\n\
         [limit.source.icmp]\npackets = \"off\"\n[limit.total]\npackets = \"1/s\"\npackets_burst = \"1\"\n",
    );
    while rig.send(&from(ATTACKER).udp(1, 1).bytes()) == Some(Conforming) {}
    rig.own(&[SERVER, SERVER6, VISITOR, VISITOR6]);
    rig.prove(COOKIES | SOCKETS, 1_000);
}

fn send(rig: &mut Rig, build: &Build) -> Option<Reason> {
    rig.send(&build.bytes())
}

fn tcp(source: IpAddr, ports: [u16; 2], flags: u8) -> Build {
    from(source).tcp(ports[0], ports[1], flags)
}

/// Creates a listener that uses cookies, and makes it the only one that the twin knows.
fn listen(rig: &mut Rig, address: IpAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind((address, 0))?;
    rig.twin.sockets.listeners = vec![Listener::with_cookies(listener.local_addr()?.port())];
    Ok(listener)
}

/// Creates a peer with a connection, the only one that the twin knows, and returns it with the socket here.
fn connect(rig: &mut Rig, listener: &TcpListener, from: IpAddr, port: u16) -> Result<(Peer, TcpStream)> {
    let mut peer = Peer::new(from, port, listener.local_addr()?)?;
    peer.connect()?;
    let (accepted, _) = listener.accept()?;
    let connection = Between::Connection(peer.connection(state::ESTABLISHED, 0));
    rig.twin.sockets.tcp = vec![(peer.flow(), connection)];
    Ok((peer, accepted))
}

/// Lets time pass, and uses up what the total has regained since.
fn exhaust(rig: &mut Rig, time: Duration) {
    rig.advance(time);
    while rig.send(&from(ATTACKER).tcp(1, 1, ACK).bytes()) == Some(Conforming) {}
}

/// Brings the server's connected socket for a peer into a state. Returns how much the peer has not acknowledged, and
/// what has to stay alive.
fn bring_into(wanted: u32, peer: &mut Peer, stream: TcpStream) -> Result<(u32, Option<TcpStream>)> {
    let begin_to_close = |peer: &mut Peer| -> Result<()> {
        stream.shutdown(Shutdown::Write)?;
        peer.receive(FIN | ACK)
    };
    Ok(match wanted {
        state::ESTABLISHED => (0, Some(stream)),
        FIN_WAIT1 => {
            begin_to_close(peer)?;
            (1, Some(stream))
        }
        FIN_WAIT2 => {
            begin_to_close(peer)?;
            peer.send(ACK)?;
            (0, Some(stream))
        }
        CLOSE_WAIT => {
            peer.send(FIN | ACK)?;
            (0, Some(stream))
        }
        LAST_ACK => {
            peer.send(FIN | ACK)?;
            peer.receive(ACK)?;
            drop(stream);
            peer.receive(FIN | ACK)?;
            (1, None)
        }
        CLOSING => {
            let before = peer.acknowledgement;
            begin_to_close(peer)?;
            // Its FIN crosses the server's FIN.
            let both = std::mem::replace(&mut peer.acknowledgement, before);
            peer.send(FIN | ACK)?;
            peer.acknowledgement = both;
            (1, Some(stream))
        }
        state::TIME_WAIT => {
            begin_to_close(peer)?;
            peer.send(ACK)?;
            peer.send(FIN | ACK)?;
            (0, Some(stream))
        }
        other => anyhow::bail!("no way into state {other}"),
    })
}

/// include/net/tcp_states.h
const FIN_WAIT1: u32 = 4;
const FIN_WAIT2: u32 = 5;
const CLOSE_WAIT: u32 = 8;
const LAST_ACK: u32 = 9;
const CLOSING: u32 = 11;

#[test]
fn a_segment_passes_by_the_numbers_of_its_connection_whatever_the_state_of_that() -> Result<()> {
    needs_root!();
    let states = [state::ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING, state::TIME_WAIT];
    on_host(|rig| {
        over_the_limit(rig);
        for (server, attacker) in FAMILIES {
            let listener = listen(rig, server)?;
            for (port, wanted) in (40_000..).zip(states) {
                let mut peer = Peer::new(attacker, port, listener.local_addr()?)?;
                peer.connect()?;
                let (stream, _) = listener.accept()?;
                let (outstanding, _stream) = bring_into(wanted, &mut peer, stream)?;
                eventually("the socket is in its state", || {
                    peer.state().is_ok_and(|state| state == Some(wanted))
                })
                .with_context(|| format!("{server}, {wanted}"))?;
                let connection = peer.connection(wanted, outstanding);
                rig.twin.sockets.tcp = vec![(peer.flow(), Between::Connection(connection))];
                let (sequence, acknowledgement) = (peer.sequence, peer.acknowledgement);
                let with = |flags, sequence: u32, acknowledgement: u32| {
                    peer.segment(flags).numbers(sequence, acknowledgement)
                };
                let far = |number: u32| number.wrapping_add(1 << 30);
                let cases = [
                    ("ACK", with(ACK, sequence, acknowledgement), Proven),
                    ("FIN", with(FIN | ACK, sequence, acknowledgement), Proven),
                    ("RST", with(RST, sequence, 0), Proven),
                    ("what was sent before", with(ACK, sequence.wrapping_sub(1), acknowledgement), Proven),
                    (
                        "an ACK of nothing sent",
                        with(ACK, sequence, acknowledgement.wrapping_add(1)),
                        NoConnection,
                    ),
                    ("an ACK out of the air", with(ACK, far(sequence), far(acknowledgement)), NoConnection),
                    ("a RST out of the air", with(RST, far(sequence), 0), NoConnection),
                    (
                        "a SYN-ACK out of the air",
                        with(SYN_ACK, far(sequence), far(acknowledgement)),
                        NoConnection,
                    ),
                    ("a SYN", with(SYN, far(sequence), 0), FirstSyn),
                ];
                for (why, build, expected) in cases {
                    let reason = send(rig, &build);
                    ensure!(reason == Some(expected), "{server}, state {wanted}, {why}: {reason:?}");
                }
                exhaust(rig, Duration::from_secs(1));
                ensure!(
                    send(rig, &with(SYN, far(sequence), 0)) == Some(SynAgain),
                    "{server}, {wanted}: again"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn a_half_open_connection_proves_nothing_but_to_whom_its_answer_went() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?; // so that the kernel makes requests
        for (server, attacker) in FAMILIES {
            let listener = TcpListener::bind((server, 0))?;
            let mut peer = Peer::new(attacker, 41_000, listener.local_addr()?)?;
            peer.ask()?;
            ensure!(peer.state()? == Some(3), "it is a request, and shown as SYN_RECV");
            let request = Request { sent: peer.acknowledgement.wrapping_sub(1), expected: peer.sequence };
            rig.twin.sockets.listeners = vec![Listener::with_cookies(listener.local_addr()?.port())];
            rig.twin.sockets.tcp = vec![(peer.flow(), Between::Request(request))];
            let (sequence, acknowledgement) = (peer.sequence, peer.acknowledgement);
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", "2")?;
            for round in 0..3 {
                let with = |flags, sequence: u32, acknowledgement: u32| {
                    peer.segment(flags).numbers(sequence, acknowledgement)
                };
                let cases = [
                    ("its ACK", with(ACK, sequence, acknowledgement), Proven),
                    ("another ACK", with(ACK, sequence, acknowledgement.wrapping_add(1)), NoConnection),
                    ("an ACK of nothing", with(ACK, sequence, 0), NoConnection),
                    ("a SYN-ACK", with(SYN_ACK, sequence, 0), NoConnection),
                    ("a RST", with(RST, sequence.wrapping_add(1), 0), NoConnection),
                    ("the SYN again", with(SYN, sequence.wrapping_sub(1), 0), Answered),
                ];
                for (why, build, expected) in cases {
                    let reason = send(rig, &build);
                    ensure!(reason == Some(expected), "{server}, round {round}, {why}: {reason:?}");
                }
            }
            fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        }
        Ok(())
    })
}

#[test]
fn a_connection_that_this_host_opens_is_proven_by_who_answers_it() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        for (server, attacker) in FAMILIES {
            let client = socket2::Socket::new(
                socket2::Domain::for_address(SocketAddr::new(server, 0)),
                socket2::Type::STREAM,
                None,
            )?;
            let own = SocketAddr::new(server, 42_000);
            client.bind(&own.into())?;
            client.set_nonblocking(true)?;
            let mut peer = Peer::new(attacker, 443, own)?;
            let _ = client.connect(&SocketAddr::new(attacker, 443).into()); // it is under way
            peer.receive(SYN)?;
            ensure!(peer.state()? == Some(state::SYN_SENT));
            let connection = Between::Connection(peer.connection(state::SYN_SENT, 1));
            rig.twin.sockets.tcp = vec![(peer.flow(), connection)];
            let acknowledgement = peer.acknowledgement;
            for (why, flags, acknowledgement, expected) in [
                ("the answer", SYN_ACK, acknowledgement, Proven),
                ("a refusal", RST | ACK, acknowledgement, Proven),
                ("an answer to something else", SYN_ACK, acknowledgement.wrapping_add(1), NoConnection),
                ("an answer to nothing", SYN_ACK, acknowledgement.wrapping_sub(1), NoConnection),
                ("a RST out of the air", RST, 0, NoConnection),
                ("an ACK out of the air", ACK, 77, NoConnection),
                ("a SYN that crosses ours", SYN, 0, FirstSyn),
            ] {
                let reason = send(rig, &peer.segment(flags).numbers(5, acknowledgement));
                ensure!(reason == Some(expected), "{server}, {why}: {reason:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn who_has_no_connection_is_told_what_is_missing() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        for (server, attacker) in FAMILIES {
            let listener = listen(rig, server)?;
            let port = listener.local_addr()?.port();
            let cases = [
                ("an ACK to a listener", tcp(attacker, [7, port], ACK), WrongCookie),
                ("an RST to a listener", tcp(attacker, [7, port], RST), WrongCookie),
                ("an ACK to no listener", tcp(attacker, [7, port ^ 1], ACK), NoConnection),
                ("a SYN-ACK that nobody asked for", tcp(attacker, [port, 7], SYN_ACK), NoConnection),
                ("a SYN to no listener", tcp(attacker, [7, port ^ 1], SYN), NoListener),
                (
                    "a later fragment",
                    from(attacker).protocol(protocol::TCP).payload(1).fragment(5, false),
                    TotalPackets,
                ),
            ];
            for (why, build, expected) in &cases {
                let reason = send(rig, build);
                ensure!(reason == Some(*expected), "{server}, {why}: {reason:?}");
            }
            // If packets may be for other hosts, none is dropped for lack of a socket.
            rig.absence(false);
            let expected = [TotalPackets, TotalPackets, TotalPackets, TotalPackets, FirstSyn, TotalPackets];
            for ((why, build, _), expected) in cases.iter().zip(expected) {
                let reason = send(rig, build);
                ensure!(reason == Some(expected), "{server}, translated, {why}: {reason:?}");
            }
            rig.absence(true);
        }
        Ok(())
    })
}

#[test]
fn a_peer_has_a_budget_of_its_own_that_nobody_else_uses_up() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        rig.account("[proof]\nproven = \"100/s\"\n");
        for (server, attacker) in FAMILIES {
            let listener = listen(rig, server)?;
            let (peer, _accepted) = connect(rig, &listener, attacker, 43_000)?;
            // A source that spoofs the peer knows its ports, but not its numbers.
            let spoofed = peer.segment(ACK).numbers(peer.sequence.wrapping_add(1 << 30), 0);
            for _ in 0..1_000 {
                ensure!(send(rig, &spoofed) == Some(NoConnection), "{server}");
            }
            let real = peer.segment(ACK);
            let passed = (0..1_000).filter(|_| send(rig, &real) == Some(Proven)).count();
            ensure!(passed == 200, "{server}: two seconds' worth, and {passed} passed");
            ensure!(
                send(rig, &real) == Some(TotalPackets),
                "{server}: beyond that it has the limit's reason"
            );
        }
        Ok(())
    })
}

#[test]
fn who_is_on_the_list_of_the_proven_has_no_limit_for_what_gives_evidence_and_the_usual_for_the_rest()
-> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        rig.account("[proof]\nproven = \"100/s\"\n");
        for ((server, attacker), network) in FAMILIES.into_iter().zip(["198.51.100.0/24", "2001:db8::/32"]) {
            let network: IpNet = network.parse()?;
            ensure!(network.contains(&attacker), "{attacker}");
            let listener = listen(rig, server)?;
            let (peer, _accepted) = connect(rig, &listener, attacker, 43_100)?;
            let real = peer.segment(ACK);
            while send(rig, &real) == Some(Proven) {}
            ensure!(send(rig, &real) == Some(TotalPackets), "{server}: not on the list");

            rig.allow_proven(&network.to_string());
            for _ in 0..1_000 {
                ensure!(send(rig, &real) == Some(Allowed), "{server}: on the list");
            }
            let spoofed = peer.segment(ACK).numbers(peer.sequence.wrapping_add(1 << 30), 0);
            ensure!(send(rig, &spoofed) == Some(NoConnection), "{server}: no evidence");
            ensure!(send(rig, &from(attacker).udp(9, 9)) != Some(Allowed), "{server}: of another protocol");
            let syn = tcp(attacker, [10, listener.local_addr()?.port()], SYN);
            ensure!(send(rig, &syn) == Some(Answered), "{server}: new");

            rig.block(&IpNet::from(attacker).to_string());
            ensure!(send(rig, &real) == Some(Blocked), "{server}: blocked");
            rig.edit(ListKind::Block, Edit::take([attacker.into()]));
            // A longer prefix that expires before the one that covers it changes nothing.
            let ends = |seconds| entry(Some(BootTime::now() + Duration::from_secs(seconds)));
            rig.edit(ListKind::AllowProven, Edit::put([(attacker.into(), ends(1))]));
            rig.edit(ListKind::AllowProven, Edit::put([(network, ends(5))]));
            for (expected, seconds) in [(Allowed, 3), (TotalPackets, 3)] {
                exhaust(rig, Duration::from_secs(seconds));
                while send(rig, &real) == Some(Proven) {}
                ensure!(send(rig, &real) == Some(expected), "{server}: {seconds} seconds later");
            }
            rig.edit(ListKind::AllowProven, Edit::take([network, attacker.into()]));
        }
        Ok(())
    })
}

#[test]
fn over_the_limit_of_its_source_a_packet_proves_itself_as_well() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        for (server, attacker) in FAMILIES {
            rig.limits("[limit.source]\npackets = \"100/s\"\npackets_burst = \"100\"\n");
            rig.own(&[SERVER, SERVER6]);
            rig.prove(COOKIES | SOCKETS, 1_000);
            let listener = listen(rig, server)?;
            let (peer, _accepted) = connect(rig, &listener, attacker, 44_000)?;
            let flood = from(attacker).tcp(9, listener.local_addr()?.port(), ACK);
            for _ in 0..200 {
                let _ = send(rig, &flood);
            }
            ensure!(
                send(rig, &flood) == Some(SourcePackets),
                "{server}: it sends too much, whatever else it lacks"
            );
            ensure!(send(rig, &from(attacker).udp(9, 9)) == Some(SourcePackets), "{server}");
            ensure!(send(rig, &peer.segment(ACK)) == Some(Proven), "{server}: old");
            ensure!(
                send(rig, &tcp(attacker, [10, listener.local_addr()?.port()], SYN)) == Some(Answered),
                "{server}: new"
            );
            rig.advance(Duration::from_secs(10));
        }
        Ok(())
    })
}

#[test]
fn a_kernel_that_does_not_say_what_a_request_has_sent_has_a_budget_for_each_listener() -> Result<()> {
    needs_root!();
    on_host_with(|| {
        let mut rig = Rig::without_socket_fields();
        over_the_limit(&mut rig);
        ensure!(!rig.filter().knows_requests());
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        let listener = TcpListener::bind((SERVER, 0))?;
        let mut peer = Peer::new(ATTACKER, 45_000, listener.local_addr()?)?;
        peer.ask()?;
        let frame = peer.segment(ACK).numbers(1, 1).bytes();
        let passed = (0..12_000)
            .map(|_| rig.filter().run(&frame))
            .filter(|outcome| matches!(outcome, Ok(flood_userspace::bpf::RunOutcome::Pass)))
            .count();
        ensure!(passed == 10_000, "5,000 a second, and two seconds' worth at once: {passed}");
        // A connection is still evidence for its packets.
        peer.send(ACK)?;
        let _accepted = listener.accept()?;
        let outcome = rig.filter().run(&peer.segment(ACK).bytes())?;
        ensure!(outcome == flood_userspace::bpf::RunOutcome::Pass);
        Ok(())
    })
}

/// Returns the offset of a length field in the encapsulation of a frame's packet.
fn length_at(frame: &[u8]) -> Result<Option<usize>> {
    match parse(Frame(frame)) {
        Parsed::Packet(packet) => Ok(Some(packet.length_at).filter(|at| *at != 0)),
        other => bail!("{other:?}"),
    }
}

#[test]
fn a_syn_to_a_listener_is_answered_with_a_cookie_that_the_kernel_accepts() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        for (server, attacker) in FAMILIES {
            let listener = listen(rig, server)?;
            let port = listener.local_addr()?.port();
            for size in [Some(536), Some(1_220), Some(1_300), Some(1_440), Some(1_460), Some(8_960), None] {
                for build in [
                    tcp(attacker, [40_000, port], SYN),
                    tcp(attacker, [40_000, port], SYN).vlan().service_vlan(),
                    tcp(attacker, [40_000, port], SYN).vlan().pppoe(),
                    tcp(attacker, [40_000, port], SYN).short_pppoe(),
                    tcp(attacker, [40_000, port], SYN).snap(),
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
                    let mut around = frame[12..build.ip_offset()].to_vec();
                    let length_at = length_at(&frame)?;
                    if let Some(at) = length_at {
                        let follow = u16::try_from(answer.len() - at - 2)?;
                        around[at - 12..at - 10].copy_from_slice(&follow.to_be_bytes());
                    }
                    ensure!(answer[12..build.ip_offset()] == around, "{why}: what is around it");
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
                    // The segment sizes that a cookie can encode (`msstab` in net/ipv4/syncookies.c and
                    // net/ipv6/syncookies.c).
                    let sizes = if server.is_ipv4() {
                        [536, 1_300, 1_440, 1_460]
                    } else {
                        [1_220, 1_420, 1_440, 8_940]
                    };
                    let largest = sizes.into_iter().rfind(|fits| size.is_some_and(|size| size >= *fits));
                    let mtu = if length_at.is_some() { 1_492 } else { 1_500 };
                    let wanted = largest.unwrap_or(sizes[0]).min(mtu - headers);
                    ensure!(tcp_header[22..24] == wanted.to_be_bytes(), "{why}: {:?}", &tcp_header[20..]);

                    let cookie = u32::from_be_bytes(tcp_header[4..8].try_into()?);
                    let bring = |cookie| bring(attacker, port, cookie);
                    rig.twin.sockets.right_cookie = true;
                    ensure!(send(rig, &bring(cookie)) == Some(Proven), "{why}: brought back");
                    rig.twin.sockets.right_cookie = false;
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
                rig.twin.sockets.listeners[0].opening = Opening::Unable;
                ensure!(send(rig, &build) == Some(FirstSyn), "{why}: it has to come again");
                rig.twin.sockets.listeners = vec![Listener::with_cookies(port)];
            }
            // In monitor mode the kernel replies.
            rig.monitor(true);
            ensure!(send(rig, &tcp(attacker, [40_000, port], SYN)) == Some(Answered));
            rig.monitor(false);
        }
        Ok(())
    })
}

#[test]
fn only_addresses_of_this_host_are_answered_for() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        // Listens on every address of both families.
        let listener = listen(rig, IpAddr::from([0_u16; 8]))?;
        let port = listener.local_addr()?.port();
        for (server, attacker) in FAMILIES {
            ensure!(send(rig, &tcp(attacker, [40_000, port], SYN)) == Some(Answered), "{server}");
        }
        // The last two are ways to write the first of this host's own addresses in IPv6.
        let elsewhere = [
            "203.0.113.9",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "2001:db8:9::1",
            "ff02::1",
            "ff05::2",
            "::192.0.2.1",
            "::ffff:192.0.2.1",
        ];
        for address in elsewhere {
            let address: IpAddr = address.parse()?;
            let attacker = if address.is_ipv4() { ATTACKER } else { ATTACKER6 };
            let reason = send(rig, &tcp(attacker, [40_000, port], SYN).to(address));
            ensure!(reason == Some(FirstSyn), "{address}: {reason:?}");
        }
        // An added address is recognized, and a removed one is not.
        let another: IpAddr = "203.0.113.9".parse()?;
        rig.own(&[SERVER, another]);
        ensure!(send(rig, &tcp(ATTACKER, [40_001, port], SYN).to(another)) == Some(Answered));
        ensure!(
            send(rig, &tcp(ATTACKER6, [40_001, port], SYN)) == Some(FirstSyn),
            "the other family's is gone"
        );
        Ok(())
    })
}

#[test]
fn no_address_and_no_network_is_sent_more_answers_than_it_may() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        rig.account("[proof]\nanswers = \"10/s\"\nretransmissions = \"1k/s\"\n");
        for (server, attacker) in FAMILIES {
            let listener = listen(rig, server)?;
            let port = listener.local_addr()?.port();
            let syns = |source: IpAddr| (0..200).map(move |n| tcp(source, [50_000 + n, port], SYN));
            let answered =
                |rig: &mut Rig, source| syns(source).filter(|syn| send(rig, syn) == Some(Answered)).count();
            ensure!(answered(rig, attacker) == 20, "{server}: ten a second, and two seconds' worth at once");
            // Retransmitted SYNs pass as well; a spoofer has to send each twice.
            exhaust(rig, Duration::from_secs(1));
            let again = answered(rig, attacker);
            // SYNs that share bits in the SYN filter may be missed.
            ensure!((10 + 170..=10 + 180).contains(&again), "{server}: {again}");
            // Forty a second for the whole network.
            let neighbours = (1..60_u8).map(|n| neighbour(attacker, n));
            let all: usize = neighbours.map(|source| answered(rig, source)).sum();
            ensure!((40..=80).contains(&all), "{server}: {all}");
            exhaust(rig, Duration::from_secs(30));
        }
        Ok(())
    })
}

/// Returns another address of the same network: /24, /48.
fn neighbour(address: IpAddr, number: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            [a, b, c, 100 + number].into()
        }
        IpAddr::V6(v6) => {
            let mut segments = v6.segments();
            segments[3] = 0x1000 + u16::from(number);
            segments.into()
        }
    }
}

#[test]
fn a_cookie_is_right_in_the_next_minute_too() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    // Longer than the minutes in which the kernel counts.
    const MINUTE: Duration = Duration::from_secs(61);
    on_host(|rig| {
        over_the_limit(rig);
        let mut cookies = Vec::new();
        for (server, attacker) in FAMILIES {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            rig.twin.sockets.listeners.push(Listener::with_cookies(port));
            let syn = with_size(tcp(attacker, [40_000, port], SYN), Some(1_460));
            let answer = run(rig, &syn.bytes())?;
            let at = syn.transport_offset() + 4;
            let cookie = u32::from_be_bytes(answer.get(at..at + 4).context("no answer")?.try_into()?);
            cookies.push((bring(attacker, port, cookie), listener));
        }
        thread::sleep(MINUTE);
        rig.twin.sockets.right_cookie = true;
        for (ack, listener) in cookies {
            ensure!(send(rig, &ack) == Some(Proven), "{listener:?}");
        }
        Ok(())
    })
}

#[test]
fn a_listener_with_room_in_its_queue_gets_syns_within_a_budget() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        fs::write("/proc/sys/net/ipv4/tcp_syncookies", "1")?;
        let listener = TcpListener::bind((SERVER, 0))?;
        let port = listener.local_addr()?.port();
        rig.twin.sockets.listeners =
            vec![Listener { opening: Opening::Room, ..Listener::with_cookies(port) }];
        let syn = |n: u32| tcp(ATTACKER, [(n >> 8) as u16 + 1, port], SYN).numbers(n, 0);
        let passed = (0..12_000).filter(|n| send(rig, &syn(*n)) == Some(QueueHasRoom)).count();
        ensure!(passed == 10_000, "5,000 a second, and two seconds' worth at once: {passed}");
        ensure!(send(rig, &syn(12_000)) == Some(FirstSyn), "then it has to come again");
        exhaust(rig, Duration::from_secs(1));
        while send(rig, &syn(1 << 20)) == Some(QueueHasRoom) {}
        ensure!(send(rig, &syn(12_000)) == Some(SynAgain), "and passes");
        Ok(())
    })
}

#[test]
fn a_listener_that_takes_no_more_connections_gets_no_syns() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        for (server, attacker) in FAMILIES {
            let listener = TcpListener::bind((server, 0))?;
            let port = listener.local_addr()?.port();
            // SAFETY: no pointers. A backlog of one.
            ensure!(unsafe { libc::listen(listener.as_raw_fd(), 1) } == 0);
            let _waiting = (0..2)
                .map(|_| TcpStream::connect(listener.local_addr()?))
                .collect::<std::io::Result<Vec<_>>>()?;
            rig.twin.sockets.listeners =
                vec![Listener { opening: Opening::Full, ..Listener::with_cookies(port) }];
            for cookies in ["1", "2"] {
                fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies)?;
                let reason = send(rig, &tcp(attacker, [40_000, port], SYN));
                ensure!(reason == Some(QueueFull), "{server}, tcp_syncookies {cookies}: {reason:?}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_syn_that_comes_again_in_time_passes() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        rig.prove(RETRANSMISSION | SOCKETS, 80);
        for source in [VISITOR, VISITOR6] {
            let syn = tcp(source, [40_000, 443], SYN);
            ensure!(send(rig, &syn) == Some(FirstSyn));
            ensure!(send(rig, &syn) == Some(FirstSyn), "a copy that comes at once");
            exhaust(rig, Duration::from_secs(1));
            ensure!(send(rig, &syn) == Some(SynAgain), "{source} after a second");
            ensure!(send(rig, &syn) == Some(FirstSyn), "each passes once");
            exhaust(rig, Duration::from_secs(10));
            ensure!(send(rig, &syn) == Some(FirstSyn), "long after");
            ensure!(
                send(rig, &syn.clone().numbers(1, 0)) == Some(FirstSyn),
                "another SYN between the same ports"
            );
        }
        // Eighty a second may pass, and an eighth of them from one source; the burst is twice that.
        exhaust(rig, Duration::from_secs(10));
        let many = |source: IpAddr| (0..50).map(move |n| tcp(source, [41_000 + n, 443], SYN));
        let sources: Vec<IpAddr> = (1..=20).map(|n| neighbour(VISITOR, n)).collect();
        ensure!(sources.iter().flat_map(|source| many(*source)).all(|syn| send(rig, &syn) == Some(FirstSyn)));
        exhaust(rig, Duration::from_secs(1));
        let passed: Vec<usize> = sources
            .iter()
            .map(|source| many(*source).filter(|syn| send(rig, syn) == Some(SynAgain)).count())
            .collect();
        ensure!(passed[..8] == [20; 8] && passed[8..] == [0; 12], "{passed:?}");
        Ok(())
    })
}

#[test]
fn udp_over_a_limit_needs_a_socket_of_its_own() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        rig.account("[proof]\nproven = \"100/s\"\n");
        for (server, visitor, attacker) in [(SERVER, VISITOR, ATTACKER), (SERVER6, VISITOR6, ATTACKER6)] {
            let (open, connected) = (UdpSocket::bind((server, 0))?, UdpSocket::bind((server, 0))?);
            connected.connect((visitor, 5_000))?;
            let ports = [open.local_addr()?.port(), connected.local_addr()?.port()];
            let socket = |port, peer| host::UdpSocket { local: Some(server.into()), port, peer };
            rig.twin.sockets.udp =
                vec![socket(ports[0], None), socket(ports[1], Some((visitor.into(), 5_000)))];
            let udp = |source, ports: [u16; 2]| from(source).udp(ports[0], ports[1]);
            let session = udp(visitor, [5_000, ports[1]]);
            let passed = (0..300).filter(|_| send(rig, &session) == Some(Proven)).count();
            ensure!(passed == 200, "{visitor}: a session has a budget, and {passed} passed");
            let anybodys = udp(visitor, [5_000, ports[0]]);
            let passed = (0..10).filter(|_| send(rig, &anybodys) != Some(TotalPackets)).count();
            ensure!(passed <= 1, "to anybody's socket there is its share, and {passed} passed");
            ensure!(send(rig, &udp(visitor, [5_001, ports[1]])) == Some(NoSocket), "from another port");
            ensure!(send(rig, &udp(attacker, [5_001, 1])) == Some(NoSocket), "to none");
            let elsewhere = if server.is_ipv4() { "203.0.113.9" } else { "2001:db8:9::1" };
            let for_another = udp(attacker, [5_001, 1]).to(elsewhere.parse()?);
            ensure!(send(rig, &for_another) == Some(TotalPackets), "to another host's");
        }
        Ok(())
    })
}

#[test]
fn an_icmp_error_passes_when_this_host_has_sent_what_it_quotes() -> Result<()> {
    needs_root!();
    on_host(|rig| {
        over_the_limit(rig);
        for (server, router) in FAMILIES {
            let listener = TcpListener::bind((server, 0))?;
            let mut peer = Peer::new(neighbour(router, 77), 46_000, listener.local_addr()?)?;
            peer.connect()?;
            let _accepted = listener.accept()?;
            let (service, session) = (UdpSocket::bind((server, 0))?, UdpSocket::bind((server, 0))?);
            let visitor = SocketAddr::new(neighbour(router, 78), 5_000);
            session.connect(visitor)?;
            let flow = peer.flow();
            rig.twin.sockets.listeners = vec![Listener::with_cookies(flow.local_port)];
            rig.twin.sockets.tcp = vec![(flow, Between::Connection(peer.connection(state::ESTABLISHED, 0)))];
            let ports = [service.local_addr()?.port(), session.local_addr()?.port()];
            let socket = |port, peer| host::UdpSocket { local: Some(server.into()), port, peer };
            let to_visitor = Some((visitor.ip().into(), visitor.port()));
            rig.twin.sockets.udp = vec![socket(ports[0], None), socket(ports[1], to_visitor)];

            let unreachable = if server.is_ipv4() { (3, 1) } else { (1, 0) };
            // A router reports that it dropped what the server sent.
            let error = |sent: Build| {
                let quoted = sent.bytes();
                let build = from(router).icmp(unreachable.0, unreachable.1).payload(quoted.len() - 14);
                let at = build.transport_offset() + 8;
                build.patch(at, &quoted[14..])
            };
            let tcp = |port, sequence| {
                error(
                    from(server).to(flow.remote.into()).tcp(flow.local_port, port, ACK).numbers(sequence, 0),
                )
            };
            let udp = |to: SocketAddr, from_port| error(from(server).to(to.ip()).udp(from_port, to.port()));
            let sent = peer.acknowledgement;
            let cases = [
                ("of a connection", tcp(flow.remote_port, sent), Proven),
                ("about what has arrived", tcp(flow.remote_port, sent.wrapping_sub(1)), NoConnection),
                (
                    "with a number that was never sent",
                    tcp(flow.remote_port, sent.wrapping_add(1 << 30)),
                    NoConnection,
                ),
                ("to somebody else's port", tcp(flow.remote_port ^ 1, sent), NoConnection),
                ("of a session", udp(visitor, ports[1]), Proven),
                ("from a port where a service listens", udp(visitor, ports[0]), NoConnection),
                ("to who has no session", udp(SocketAddr::new(router, 5_000), ports[1]), NoConnection),
                ("from a port without a socket", udp(visitor, 9), NoConnection),
                ("a ping quotes nothing", from(router).echo_request(), TotalPackets),
            ];
            for (why, build, expected) in cases {
                let reason = send(rig, &build);
                ensure!(reason == Some(expected), "{server}, {why}: {reason:?}");
            }
            // Errors about one connection are limited to this many a second, from any source.
            let passed = (0..400).filter(|_| send(rig, &tcp(flow.remote_port, sent)) == Some(Proven)).count();
            ensure!(passed == 199, "{server}: {passed}");
        }
        Ok(())
    })
}

/// Adds the segment size option to a SYN.
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

/// Returns the ACK that returns the cookie from the answer to a SYN of [`with_size`].
fn bring(client: IpAddr, port: u16, cookie: u32) -> Build {
    tcp(client, [40_000, port], ACK).numbers(8, cookie.wrapping_add(1))
}

/// Returns the frame that the filter makes of a frame.
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
