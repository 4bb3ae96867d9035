//! What an attacker sends to the server's veth pair: floods in turn, or the frames of a capture repeatedly.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use flood_common::{
    address::Address,
    packet::{Packet, Parsed, Part, parse},
    wire::{Frame, protocol},
};
use flood_userspace::capture::Capture;

use crate::{
    flood::{Flood, PAUSE},
    lab::Role,
    packet::{SERVER, SERVER6},
    wire::Wire,
};

use super::site::{LONGEST_FLOOD, NOBODY};

/// Length of a flood's turn.
const TURN: Duration = Duration::from_millis(100);

/// The longest frame on a veth pair with the usual MTU, bytes.
const LONGEST_FRAME: usize = 1_514;

/// What an attacker sends.
pub(super) enum Attack {
    /// Floods that take turns; none for no attack.
    Floods(Vec<Flood>),
    /// Frames, sent repeatedly.
    Frames {
        /// Index of the interface, in the switch's namespace.
        interface: u32,
        /// What is sent.
        frames: Vec<Vec<u8>>,
        /// Frames per second.
        rate: u64,
    },
}

impl Attack {
    /// Whether nothing is sent.
    pub(super) fn is_none(&self) -> bool {
        matches!(self, Self::Floods(floods) if floods.is_empty())
    }

    /// Sends one processor's part, from this thread's namespace, until it is over. Signals when it is about to begin.
    /// Returns how many packets it sent.
    pub(super) fn send(
        &self,
        (core, cores): (usize, usize),
        over: &AtomicBool,
        ready: &mpsc::Sender<()>,
    ) -> Result<u64> {
        match self {
            Self::Floods(floods) => send_in_turn(floods, cores, over, ready),
            Self::Frames { interface, frames, rate } => {
                let wire = Wire::to_send()?;
                let mut part = frames.iter().skip(core % frames.len()).step_by(cores).cycle();
                let rate = *rate as f64 / cores as f64;
                let _ = ready.send(()); // who waits has given up
                let (begin, mut sent) = (Instant::now(), 0_u64);
                while !over.load(Relaxed) && begin.elapsed() < LONGEST_FLOOD {
                    thread::sleep(PAUSE);
                    let due = (begin.elapsed().as_secs_f64() * rate) as u64;
                    for frame in part.by_ref().take((due - sent) as usize) {
                        let _ = wire.send(*interface, frame); // a cable that is full loses it
                    }
                    sent = due;
                }
                Ok(sent)
            }
        }
    }
}

fn send_in_turn(floods: &[Flood], cores: usize, over: &AtomicBool, ready: &mpsc::Sender<()>) -> Result<u64> {
    let part = |flood: &Flood| {
        let flood = Flood { rate: flood.rate.map(|rate| rate / cores as u64), ..flood.clone() };
        Ok((flood.load()?, flood))
    };
    let mut parts = floods.iter().map(part).collect::<Result<Vec<_>>>()?;
    let _ = ready.send(()); // who waits has given up
    let (begin, mut sent) = (Instant::now(), 0);
    while !over.load(Relaxed) && begin.elapsed() < LONGEST_FLOOD {
        for (programs, flood) in &mut parts {
            let turn = Instant::now();
            sent += flood.send(programs, || over.load(Relaxed) || turn.elapsed() > TURN)?;
        }
    }
    Ok(sent)
}

/// Returns the captures of attacks, by file name, from the folder that `FLOODGATE_CAPTURES` names.
pub(super) fn captures(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut captures = Vec::new();
    for entry in folder.join("attacks/public").read_dir()? {
        let path = entry?.path();
        let is_capture = path.extension().is_some_and(|extension| extension == "pcap");
        if let Some(name) = path.file_stem().filter(|_| is_capture) {
            captures.push((name.to_string_lossy().into_owned(), path));
        }
    }
    captures.sort();
    Ok(captures)
}

/// Returns the frames of a capture as if they had been sent to the server: only the destination addresses differ.
pub(super) fn frames_of(path: &Path) -> Result<Vec<Vec<u8>>> {
    let mut capture = Capture::open(path)?;
    let mut frames = Vec::new();
    while let Some(frame) = capture.next_frame()? {
        if frame.bytes.len() <= LONGEST_FRAME {
            frames.push(aimed(frame.bytes.to_vec()));
        }
    }
    ensure!(!frames.is_empty(), "{} has no frame that a cable carries", path.display());
    Ok(frames)
}

/// Replaces the destination addresses of a frame with the server's, and updates the checksums.
fn aimed(mut frame: Vec<u8>) -> Vec<u8> {
    if let Parsed::Packet(packet) = parse(Frame(&frame)) {
        let Packet { destination, network_at, transport_at, protocol, part, .. } = packet;
        // Offsets of addresses and checksums: RFC 791 section 3.1, RFC 8200 section 3.
        let (server, at, header) = match destination {
            Address::V4(_) => (SERVER, network_at + 16, Some(network_at + 10)),
            Address::V6 { .. } => (SERVER6, network_at + 24, None),
        };
        let address = match server {
            IpAddr::V4(server) => server.octets().to_vec(),
            IpAddr::V6(server) => server.octets().to_vec(),
        };
        let covers = match protocol {
            protocol::TCP => Some(16),
            protocol::UDP => Some(6),
            protocol::ICMPV6 => Some(2),
            _ => None,
        };
        let covers = covers.filter(|_| part != Part::Later).map(|offset| transport_at + offset);
        for (n, word) in address.chunks(2).enumerate() {
            let new = [word[0], word[1]];
            let at = at + 2 * n;
            let Some(old) = frame.get(at..at + 2).and_then(|old| old.first_chunk().copied()) else { break };
            for checksum in [header, covers].into_iter().flatten() {
                amend(&mut frame, checksum, old, new);
            }
            frame[at..at + 2].copy_from_slice(&new);
        }
    }
    if let Some(addresses) = frame.first_chunk_mut::<12>() {
        addresses[..6].copy_from_slice(&Role::Server.mac());
        addresses[6..].copy_from_slice(&NOBODY);
    }
    frame
}

/// Updates a checksum for a changed word (RFC 1624). An absent checksum, 0, stays absent.
fn amend(frame: &mut [u8], at: usize, old: [u8; 2], new: [u8; 2]) {
    let Some(checksum) = frame.get_mut(at..at + 2) else { return };
    let before = u16::from_be_bytes([checksum[0], checksum[1]]);
    if before == 0 {
        return;
    }
    let mut sum =
        u32::from(!before) + u32::from(!u16::from_be_bytes(old)) + u32::from(u16::from_be_bytes(new));
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    checksum.copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use crate::packet::{self, ATTACKER, ATTACKER6, VISITOR, VISITOR6};

    use super::*;

    #[test]
    fn a_frame_that_is_aimed_is_as_if_it_had_been_built_for_the_server() {
        for (from, other, server) in [(ATTACKER, VISITOR, SERVER), (ATTACKER6, VISITOR6, SERVER6)] {
            let build = |to| packet::from(from).to(to).udp(40_000, 9).payload(18);
            let mut expected = build(server).bytes();
            expected[..6].copy_from_slice(&Role::Server.mac());
            expected[6..12].copy_from_slice(&NOBODY);
            assert_eq!(aimed(build(other).bytes()), expected);
        }
    }
}
