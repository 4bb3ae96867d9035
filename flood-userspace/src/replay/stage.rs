//! A stand-in for the host of a capture: its addresses, and sockets where something listened.
//!
//! The program looks up sockets in the network namespace in which it runs. So a replay has a namespace of its own and
//! opens sockets in it. They never receive a packet; it is enough that they exist. There are no connections.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

use crate::{
    host::{UdpPort, setting_path},
    process::raise_descriptors,
};

use super::survey::{Endpoint, Said, Service, Survey, is_unicast};

/// How many sockets are opened at most.
const MAX_SOCKETS: usize = 4_096;

/// How the host's addresses are known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// The user gives them.
    Said,
    /// The capture tells the direction of each frame.
    Direction,
    /// Packets to the services that are said to listen go there.
    Listened,
    /// Replies come from there.
    Answered,
    /// Most packets of a flood go there.
    Targets,
}

impl Known {
    /// Describes it for people, to be put after an address.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Said => "by --local",
            Self::Direction => "by the directions in the capture",
            Self::Listened => "as packets for what listens go there",
            Self::Answered => "by the answers in the capture",
            Self::Targets => "as most packets go there",
        }
    }
}

/// The plan of the stand-in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stage {
    /// Addresses of the host.
    pub local: Vec<IpNet>,
    /// How they are known.
    pub known: Known,
    /// Services that listen, at one address or at all.
    pub listening: Vec<(Service, Option<IpAddr>)>,
    /// UDP ports from which the host has sent requests.
    pub(super) clients: Vec<Endpoint>,
    /// Whether the capture shows more of the host than is remembered, or than sockets can be opened for.
    pub incomplete: bool,
}

impl Stage {
    /// Plans a stand-in from what the user says and what the capture shows; `None` if neither says anything about a
    /// host.
    pub fn plan(survey: &Survey, said: &Said) -> Option<Self> {
        let single = |addresses: BTreeSet<IpAddr>| -> Vec<IpNet> {
            let is_single = |address: &IpAddr| is_unicast(*address) && !survey.groups.contains(address);
            addresses.into_iter().filter(is_single).map(IpNet::from).collect()
        };
        let candidates = [
            (Known::Said, said.local.clone()),
            (Known::Direction, single(survey.by_direction())),
            (Known::Listened, single(survey.listened.iter().copied().collect())),
            (Known::Answered, single(survey.answered.iter().map(|(_, address)| *address).collect())),
            (Known::Targets, if said.flood { single(survey.targets()) } else { Vec::new() }),
        ];
        let (known, local) = candidates.into_iter().find(|(_, local)| !local.is_empty())?;
        let incomplete = survey.is_cut(known, said);
        let mut stage = Self { local, known, listening: Vec::new(), clients: Vec::new(), incomplete };
        let at = |(service, address): &Endpoint| (*service, Some(*address));
        stage.listening = if said.listen.is_empty() {
            survey.answered.iter().filter(|(_, address)| stage.is_local(*address)).map(at).collect()
        } else {
            said.listen.iter().map(|service| (*service, None)).collect()
        };
        stage.clients =
            survey.senders.iter().filter(|(_, address)| stage.is_local(*address)).copied().collect();
        stage.incomplete |= stage.listening.len() + stage.clients.len() > MAX_SOCKETS;
        Some(stage)
    }

    /// Whether it is an address of the host.
    pub(super) fn is_local(&self, address: IpAddr) -> bool {
        match self.known {
            Known::Said => self.local.iter().any(|prefix| prefix.contains(&address)),
            // Single addresses, sorted.
            _ => self.local.binary_search(&IpNet::from(address)).is_ok(),
        }
    }

    /// Whether a packet without a socket is unwanted. It may be wanted if the capture has only one direction, unless
    /// the user says what the host is.
    pub(super) fn absence_counts(&self) -> bool {
        match self.known {
            Known::Said | Known::Listened | Known::Answered | Known::Targets => true,
            Known::Direction => !self.listening.is_empty() || !self.clients.is_empty(),
        }
    }

    /// Whether packets from these addresses have left the host. Addresses that are known only by their replies may
    /// belong to any host.
    pub(super) fn tells_direction(&self) -> bool {
        self.known != Known::Answered
    }

    /// Returns the UDP ports in use.
    pub(super) fn udp_ports(&self) -> Vec<UdpPort> {
        let listening = self.listening.iter().map(|(service, _)| *service);
        let services = listening.chain(self.clients.iter().map(|(service, _)| *service));
        services.filter(|service| !service.is_tcp).map(|service| UdpPort::open(service.port)).collect()
    }

    /// Opens the sockets in the network namespace of this thread. Omits those beyond the maximum and those that
    /// cannot be opened.
    pub(super) fn open(&self) -> Vec<Socket> {
        let clients = self.clients.iter().map(|(service, address)| (*service, Some(*address)));
        let all = self.listening.iter().copied().chain(clients);
        all.take(MAX_SOCKETS).filter_map(|(service, address)| open(service, address).ok()).collect()
    }
}

/// Opens a socket at an address that need not exist.
fn open(service: Service, address: Option<IpAddr>) -> io::Result<Socket> {
    let at = |address: IpAddr| {
        let (kind, protocol) =
            if service.is_tcp { (Type::STREAM, Protocol::TCP) } else { (Type::DGRAM, Protocol::UDP) };
        let socket = Socket::new(Domain::for_address((address, 0).into()), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.is_unspecified())?;
            socket.set_freebind_v6(true)?;
        } else {
            socket.set_freebind_v4(true)?;
        }
        socket.bind(&SocketAddr::new(address, service.port).into())?;
        if service.is_tcp {
            socket.listen(1)?;
        }
        Ok(socket)
    };
    match address {
        Some(address) => at(address),
        // For both families, or for IPv4 where there is no IPv6.
        None => at(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| at(Ipv4Addr::UNSPECIFIED.into())),
    }
}

/// Moves this thread into a network namespace that contains nothing but what a stage opens. Listeners there answer
/// with SYN cookies, as those of a flooded host do.
pub fn leave_network() -> io::Result<()> {
    /// Sends cookies for every SYN (Documentation/networking/ip-sysctl.rst).
    const ALWAYS: &str = "2";

    // SAFETY: no pointers, and only this thread is moved.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // If it cannot be set, SYNs over a limit pass as if the queue had room.
    let _ = fs::write(setting_path("ipv4/tcp_syncookies"), ALWAYS);
    // With fewer descriptors, some sockets are left out.
    let _ = raise_descriptors();
    Ok(())
}

#[cfg(test)]
mod tests {
    use flood_common::wire::protocol;

    use super::*;
    use crate::capture::{Direction, Frame, Source};

    /// Builds an IPv4 frame that ends after the ports, or after the header of TCP with these flags.
    fn frame(is_tcp: bool, from: (u8, u16), to: (u8, u16), flags: u8) -> Vec<u8> {
        let length: u8 = if is_tcp { 40 } else { 28 };
        let mut frame = vec![0; 12];
        frame.extend([8, 0, 0x45, 0, 0, length, 0, 0, 0, 0, 64]);
        frame.extend([if is_tcp { protocol::TCP } else { protocol::UDP }, 0, 0]);
        frame.extend([192, 0, 2, from.0, 192, 0, 2, to.0]);
        frame.extend(from.1.to_be_bytes());
        frame.extend(to.1.to_be_bytes());
        if is_tcp {
            frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags, 1, 0, 0, 0, 0, 0]);
        } else {
            frame.extend([0, 8, 0, 0]);
        }
        frame
    }

    fn survey(frames: &[(Vec<u8>, Option<Direction>)], said: &Said) -> Survey {
        let mut survey = Survey::default();
        for (number, (bytes, direction)) in (1..).zip(frames) {
            survey.see(&Frame { number, time_ns: Some(number), direction: *direction, bytes }, said);
        }
        survey
    }

    fn service(text: &str) -> Service {
        text.parse().unwrap()
    }

    fn addresses(stage: &Stage) -> Vec<String> {
        stage.local.iter().map(|prefix| prefix.addr().to_string()).collect()
    }

    const WEB: (u8, u16) = (1, 443);
    const NAMES: (u8, u16) = (1, 53);
    const CLIENT: (u8, u16) = (9, 50_000);

    #[test]
    fn a_service_is_written_with_its_protocol() {
        assert_eq!([service("tcp/443"), service("UDP/53")].map(|s| s.to_string()), ["tcp/443", "udp/53"]);
        for wrong in ["443", "tcp", "tcp/0", "tcp/65536", "sctp/1", "tcp/https", ""] {
            assert!(wrong.parse::<Service>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn who_answers_is_taken_for_the_host() {
        let frames = [
            (frame(true, CLIENT, WEB, 0x02), None),
            (frame(true, WEB, CLIENT, 0x12), None),
            (frame(false, CLIENT, NAMES, 0), None),
            (frame(false, NAMES, CLIENT, 0), None),
            (frame(true, CLIENT, (2, 22), 0x02), None),
            (frame(true, (2, 22), CLIENT, 0x14), None),
        ];
        let stage = Stage::plan(&survey(&frames, &Said::default()), &Said::default()).unwrap();
        assert_eq!((addresses(&stage), stage.known), (vec!["192.0.2.1".to_owned()], Known::Answered));
        let at = Some("192.0.2.1".parse().unwrap());
        assert_eq!(stage.listening, [(service("udp/53"), at), (service("tcp/443"), at)]);
        assert!(!stage.tells_direction());
        // An unsolicited SYN-ACK may be reflected.
        let reflected = survey(&frames[1..2], &Said::default());
        assert_eq!(Stage::plan(&reflected, &Said::default()), None);
        let flood = Stage::plan(&reflected, &Said { flood: true, ..Said::default() }).unwrap();
        assert_eq!((addresses(&flood), flood.known), (vec!["192.0.2.9".to_owned()], Known::Targets));
        assert_eq!(Stage::plan(&survey(&frames[4..], &Said::default()), &Said::default()), None);
    }

    #[test]
    fn a_broadcast_address_is_no_host() {
        let mut broadcast = frame(false, CLIENT, (255, 137), 0);
        broadcast[..6].fill(0xff);
        let frames = [(broadcast.clone(), Some(Direction::In)), (broadcast, None)];
        let said = Said { flood: true, listen: vec![service("udp/137")], ..Said::default() };
        assert_eq!(Stage::plan(&survey(&frames, &said), &said), None);
    }

    #[test]
    fn what_is_said_goes_before_what_is_seen() {
        let frames = [
            (frame(true, CLIENT, WEB, 0x02), Some(Direction::In)),
            (frame(false, (1, 40_000), (5, 53), 0), Some(Direction::Out)),
            (frame(false, (7, 1), (8, 2), 0), Some(Direction::In)),
            (frame(false, (7, 1), (8, 2), 0), Some(Direction::Out)),
        ];
        let stage = |said: &Said| Stage::plan(&survey(&frames, said), said).unwrap();
        let seen = stage(&Said::default());
        assert_eq!((addresses(&seen), seen.known), (vec!["192.0.2.1".to_owned()], Known::Direction));
        assert!(seen.udp_ports().contains(&UdpPort::open(40_000)), "{seen:?}");

        let local = vec!["192.0.2.8/30".parse().unwrap()];
        let local = Said { local, listen: vec![service("tcp/443")], flood: false };
        let said = stage(&local);
        assert_eq!((said.known, said.listening), (Known::Said, vec![(service("tcp/443"), None)]));

        let listen = Said { listen: vec![service("tcp/443")], ..Said::default() };
        let without = frames.clone().map(|(bytes, _)| (bytes, None));
        let listened = Stage::plan(&survey(&without, &listen), &listen).unwrap();
        assert_eq!((addresses(&listened), listened.known), (vec!["192.0.2.1".to_owned()], Known::Listened));
    }
    /// Plans the stand-in for a capture in a file.
    fn planned(frames: impl Iterator<Item = Vec<u8>>, said: &Said) -> Stage {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
        let mut bytes = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
        for frame in frames {
            let length = frame.len() as u32;
            bytes.extend(words(&[0, 0, length, length]));
            bytes.extend(frame);
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), bytes).unwrap();
        Stage::plan(&Survey::of(&Source::open(file.path()).unwrap(), said), said).unwrap()
    }

    #[test]
    fn a_flood_takes_no_place_of_what_the_host_has_asked() {
        let said = Said { local: vec!["192.0.2.1/32".parse().unwrap()], ..Said::default() };
        let from_ports = |source: u8| (1..=40_000).map(move |port| frame(false, (source, port), NAMES, 0));
        let asked = frame(false, (1, 50_000), (5, 53), 0);
        let stage = planned(from_ports(7).chain([asked]), &said);
        assert_eq!(stage.clients, [(service("udp/50000"), "192.0.2.1".parse().unwrap())]);
        assert!(!stage.incomplete);
        // If the host itself sends from more ports than there is room for, the plan says so.
        let stage = planned(from_ports(1), &said);
        assert!(stage.incomplete && !stage.clients.is_empty());
    }

    #[test]
    fn what_came_from_elsewhere_is_nothing_that_the_host_has_asked() {
        let frames = [
            (frame(false, (1, 40_000), (5, 53), 0), Some(Direction::Out)),
            (frame(false, (1, 40_001), (5, 53), 0), Some(Direction::In)),
        ];
        let said = Said { local: vec!["192.0.2.1/32".parse().unwrap()], ..Said::default() };
        let stage = Stage::plan(&survey(&frames, &said), &said).unwrap();
        assert_eq!(stage.clients.len(), 1, "{stage:?}");
    }
}
