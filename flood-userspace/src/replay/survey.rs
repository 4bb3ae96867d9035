//! A first look at a capture: finds odd times, and what the capture shows of its host.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
};

use flood_common::{
    packet::{Packet, Parsed, parse},
    wire::{Frame as Bytes, protocol},
};
use ipnet::IpNet;

use crate::capture::{Direction, Frame, Source};

use super::{Known, Stage, pace::OddTimes};

/// How many addresses, and how many endpoints, are remembered.
const MAX_KNOWN: usize = 1 << 15;

/// How many requests are remembered.
const MAX_ASKED: usize = 1 << 20;

/// Flags of TCP: a SYN-ACK has exactly [`SYN`] and [`ACK`] of these three.
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;
const RST: u8 = 0x04;

/// A service: its protocol and port, such as `tcp/443`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service {
    /// Whether it is TCP rather than UDP.
    pub is_tcp: bool,
    /// Its port.
    pub port: u16,
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (protocol, port) = text.split_once('/').unwrap_or_default();
        let port = port.parse().ok().filter(|port| *port != 0);
        match (protocol.to_ascii_lowercase().as_str(), port) {
            ("tcp", Some(port)) => Ok(Self { is_tcp: true, port }),
            ("udp", Some(port)) => Ok(Self { is_tcp: false, port }),
            _ => Err(format!("{text:?} is no service: write tcp/443 or udp/53")),
        }
    }
}

impl std::fmt::Display for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", if self.is_tcp { "tcp" } else { "udp" }, self.port)
    }
}

/// What the user says about the host of a capture.
#[derive(Clone, Default, Debug)]
pub struct Said {
    /// Its addresses; empty if not given.
    pub local: Vec<IpNet>,
    /// All services that listen; empty if not given.
    pub listen: Vec<Service>,
    /// Whether the capture is a flood, and so has a target.
    pub flood: bool,
}

/// A service at an address.
pub(super) type Endpoint = (Service, IpAddr);

/// Items of a capture that are remembered, in bounded memory: the first [`MAX_KNOWN`].
pub(super) struct Remembered<T> {
    known: BTreeSet<T>,
    /// Whether there was no room for an item.
    is_cut: bool,
}

impl<T> Default for Remembered<T> {
    fn default() -> Self {
        Self { known: BTreeSet::new(), is_cut: false }
    }
}

impl<T: Ord> Remembered<T> {
    fn add(&mut self, what: T) {
        if self.known.len() < MAX_KNOWN {
            self.known.insert(what);
        } else {
            self.is_cut |= !self.known.contains(&what);
        }
    }

    pub(super) fn contains(&self, what: &T) -> bool {
        self.known.contains(what)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.known.iter()
    }
}

/// Result of a first look.
#[derive(Default)]
pub struct Survey {
    /// Frames whose times do not fit.
    pub odd: OddTimes,
    /// Frames of the capture.
    pub frames: u64,
    /// Number of frames without times.
    pub untimed: u64,
    /// Whether any frame has a time other than 0.
    timed: bool,
    /// Requests: protocol and port of the server, addresses of server and client, and port of the client.
    asked: HashSet<(Service, IpAddr, IpAddr, u16)>,
    /// Whether there was no room for a request.
    asked_is_cut: bool,
    /// Endpoints that have replied: sent a SYN-ACK after a SYN, or UDP after UDP.
    pub(super) answered: Remembered<Endpoint>,
    /// Endpoints that have sent UDP and may be the host: all senders, or only addresses of the host if there are too
    /// many.
    pub(super) senders: Remembered<Endpoint>,
    /// Sources and destinations of received and of sent frames, as far as the capture tells the direction.
    came: [Remembered<IpAddr>; 2],
    left: [Remembered<IpAddr>; 2],
    /// Destinations of group frames. An IP broadcast address of a subnet cannot be recognized from the address alone.
    pub(super) groups: Remembered<IpAddr>,
    /// Number of packets to each destination.
    destinations: HashMap<IpAddr, u64>,
    destinations_are_cut: bool,
    /// Destinations of packets to services that are said to listen.
    pub(super) listened: Remembered<IpAddr>,
}

/// Calls a function for each frame of a capture up to its end, or to where it cannot be read.
fn each_frame(source: &Source, mut see: impl FnMut(&Frame<'_>)) {
    let Ok(mut capture) = source.read() else { return };
    while let Ok(Some(frame)) = capture.next_frame() {
        see(&frame);
    }
}

impl Survey {
    /// Surveys a capture up to its end, or to where it cannot be read.
    pub fn of(source: &Source, said: &Said) -> Self {
        let mut survey = Self::default();
        each_frame(source, |frame| survey.see(frame, said));
        // Spoofed sources may have used up the room for what the host has sent.
        if survey.senders.is_cut
            && let Some(stage) = Stage::plan(&survey, said)
        {
            survey.senders = Remembered::default();
            each_frame(source, |frame| {
                if let Parsed::Packet(packet) = parse(Bytes(frame.bytes)) {
                    survey.see_sender(frame, &packet, |address| stage.is_local(address));
                }
            });
        }
        survey
    }

    pub(super) fn see(&mut self, frame: &Frame<'_>, said: &Said) {
        self.frames += 1;
        match frame.time_ns {
            Some(time_ns) => {
                self.timed |= time_ns != 0;
                self.odd.see(frame.number, time_ns);
            }
            None => self.untimed += 1,
        }
        let Parsed::Packet(packet) = parse(Bytes(frame.bytes)) else { return };
        let ends: [IpAddr; 2] = [packet.source.into(), packet.destination.into()];
        if is_group(frame.bytes) {
            self.groups.add(ends[1]);
        }
        if self.destinations.len() < MAX_KNOWN || self.destinations.contains_key(&ends[1]) {
            *self.destinations.entry(ends[1]).or_default() += 1;
        } else {
            self.destinations_are_cut = true;
        }
        let sides = match frame.direction {
            Some(Direction::In) => Some(&mut self.came),
            Some(Direction::Out) => Some(&mut self.left),
            None => None,
        };
        if let Some(sides) = sides {
            sides.iter_mut().zip(ends).for_each(|(side, address)| side.add(address));
        }
        self.see_ports(&packet, ends, said);
        self.see_sender(frame, &packet, |_| true);
    }

    /// Remembers the sender of a UDP packet, if it may be the host.
    fn see_sender(&mut self, frame: &Frame<'_>, packet: &Packet, may_be: impl Fn(IpAddr) -> bool) {
        let Some(ports) = packet.ports.filter(|_| packet.protocol == protocol::UDP) else { return };
        let source = packet.source.into();
        if frame.direction != Some(Direction::In) && may_be(source) {
            self.senders.add((Service { is_tcp: false, port: ports.source }, source));
        }
    }

    fn see_ports(&mut self, packet: &Packet, [source, destination]: [IpAddr; 2], said: &Said) {
        let Some(ports) = packet.ports else { return };
        let is_tcp = match packet.protocol {
            protocol::TCP => true,
            protocol::UDP => false,
            _ => return,
        };
        if said.listen.contains(&Service { is_tcp, port: ports.destination }) {
            self.listened.add(destination);
        }
        let [sender, receiver] = [ports.source, ports.destination].map(|port| Service { is_tcp, port });
        let flags = packet.tcp_flags.unwrap_or(0) & (SYN | ACK | RST);
        let asks = !is_tcp || flags == SYN;
        let answers = !is_tcp || flags == SYN | ACK;
        if answers && self.asked.contains(&(sender, source, destination, ports.destination)) {
            self.answered.add((sender, source));
        } else if asks {
            let question = (receiver, destination, source, ports.source);
            if self.asked.len() < MAX_ASKED {
                self.asked.insert(question);
            } else {
                self.asked_is_cut |= !self.asked.contains(&question);
            }
        }
    }

    /// Whether the capture has times. One in which all are 0 has none.
    pub fn has_times(&self) -> bool {
        self.timed
    }

    /// Derives the host's addresses from the directions of frames: sources of sent frames that were not sources of
    /// received ones, and destinations of received frames that were not destinations of sent ones.
    pub(super) fn by_direction(&self) -> BTreeSet<IpAddr> {
        let [came_from, came_to] = self.came.each_ref().map(|side| &side.known);
        let [left_from, left_to] = self.left.each_ref().map(|side| &side.known);
        left_from.difference(came_from).chain(came_to.difference(left_to)).copied().collect()
    }

    /// Whether the capture shows more of the host's addresses and ports than is remembered.
    pub(super) fn is_cut(&self, known: Known, said: &Said) -> bool {
        let answers = self.answered.is_cut || self.asked_is_cut;
        let addresses = match known {
            Known::Said => false,
            Known::Direction => self.came.iter().chain(&self.left).any(|side| side.is_cut),
            Known::Listened => self.listened.is_cut,
            Known::Answered => answers,
            Known::Targets => self.destinations_are_cut,
        };
        addresses || self.senders.is_cut || (said.listen.is_empty() && answers)
    }

    /// Returns the destination of most packets, and others that get a similar number: a flood may have several
    /// targets.
    pub(super) fn targets(&self) -> BTreeSet<IpAddr> {
        /// A target has at least one in this many of the packets of the busiest destination.
        const SHARE: u64 = 2;

        let is_single =
            |(address, _): &(&IpAddr, &u64)| is_unicast(**address) && !self.groups.contains(address);
        let busiest =
            self.destinations.iter().filter(is_single).map(|(_, packets)| *packets).max().unwrap_or(0);
        let busy = self.destinations.iter().filter(|(_, packets)| **packets * SHARE >= busiest);
        busy.map(|(address, _)| *address).collect()
    }
}

/// Whether a frame is for a group of hosts: the lowest bit of its first octet says so (IEEE 802, 8.2).
fn is_group(frame: &[u8]) -> bool {
    frame.first().is_some_and(|octet| octet & 1 == 1)
}

/// Whether it is the address of a single host.
pub(super) fn is_unicast(address: IpAddr) -> bool {
    !address.is_multicast() && !address.is_unspecified() && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}
