//! The UDP sockets of this host, from proc(5), which also lists those of the kernel itself, such as for tunnels.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::tunnels;

/// Files with the sockets of each family. Those of UDP-Lite are another protocol.
const FILES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// A port with a socket that packets from outside can reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpPort {
    /// The port.
    pub port: u16,
    /// Whether the socket is connected to a peer.
    pub has_peer: bool,
    /// Whether it is the end of a tunnel, and if so, whether its peers send from ports that are hashes.
    pub tunnel: Option<bool>,
}

impl UdpPort {
    /// Creates one without a peer.
    pub fn open(port: u16) -> Self {
        Self { port, has_peer: false, tunnel: None }
    }
}

/// Returns the ports of all sockets in the network namespace of this thread. `tunnels` are the ports that
/// [interfaces](super::Facts::tunnels) have.
pub fn udp_ports(tunnels: &[(u16, bool)]) -> io::Result<Vec<UdpPort>> {
    let mut ports = Vec::new();
    for file in FILES {
        match fs::read_to_string(file) {
            Ok(text) => ports.extend(text.lines().skip(1).filter_map(port)),
            // Without IPv6 the file does not exist.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    for port in &mut ports {
        let mut known = tunnels.iter().chain(&tunnels::USUAL);
        port.tunnel = known.find(|(tunnel, _)| *tunnel == port.port).map(|(_, hashes)| *hashes);
    }
    Ok(ports)
}

/// Parses a line: a number, the local `ADDRESS:PORT`, the same of the peer, and what does not matter here, all in
/// hexadecimal. Returns `None` for a socket on the loopback.
fn port(line: &str) -> Option<UdpPort> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let (_, peer) = fields.next()?.split_once(':')?;
    let hex = |text| u16::from_str_radix(text, 16).ok();
    if self::address(address)?.to_canonical().is_loopback() {
        return None;
    }
    Some(UdpPort { has_peer: hex(peer)? != 0, ..UdpPort::open(hex(port)?) })
}

/// Parses an address: 32-bit words as they are in memory, printed as numbers of this machine.
fn address(text: &str) -> Option<IpAddr> {
    let mut bytes = [0; 16];
    let words = text.len() / 8;
    for n in 0..words {
        let word = u32::from_str_radix(text.get(8 * n..8 * n + 8)?, 16).ok()?;
        bytes.get_mut(4 * n..4 * n + 4)?.copy_from_slice(&word.to_ne_bytes());
    }
    match words {
        1 => Some(Ipv4Addr::from([bytes[0], bytes[1], bytes[2], bytes[3]]).into()),
        4 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn sockets_are_found_with_their_ports_and_peers_and_not_those_of_the_host_with_itself() {
        let bind = |address: &str| UdpSocket::bind(address).unwrap();
        let port = |socket: &UdpSocket| socket.local_addr().unwrap().port();
        let [for_all, for_all6, mine] = ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"].map(bind);
        let connected = bind("0.0.0.0:0");
        let found = udp_ports(&[]).unwrap();
        let has = |socket: &UdpSocket| found.iter().find(|found| found.port == port(socket)).copied();
        assert_eq!(has(&for_all), Some(UdpPort::open(port(&for_all))));
        assert_eq!(has(&for_all6), Some(UdpPort::open(port(&for_all6))));
        assert_eq!(has(&mine), None);
        assert_eq!(has(&connected).map(|found| found.has_peer), Some(false));
    }

    #[test]
    fn a_line_is_read() {
        let here = if cfg!(target_endian = "little") { "0A0000C0" } else { "C000000A" };
        let line =
            format!("  12: {here}:0035 {here}:A000 01 00000000:00000000 00:00000000 00000000 0 0 5 2 0 0");
        assert_eq!(port(&line), Some(UdpPort { has_peer: true, ..UdpPort::open(53) }));
        for wrong in ["", "1:", "1: 0:0", "1: zz:35 0:0", "1: 00000000:xyz 00000000:0000"] {
            assert_eq!(port(wrong), None, "{wrong}");
        }
    }
}
