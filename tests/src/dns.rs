//! Queries to name servers, as clients and attackers send them.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// The domain below which every name exists.
pub const DOMAIN: &str = "example";

/// Offset of the name's first label, behind the header (RFC 1035 section 4.1.1) and the label's length.
pub const LABEL_AT: usize = 13;

/// Length of that label.
pub const LABEL: usize = 12;

/// How often a query is sent, as by resolvers.
const TRIES: u32 = 2;

/// Returns a query for the address of the name with this label in [`DOMAIN`].
pub fn question(id: u16, label: [u8; LABEL]) -> Vec<u8> {
    const RECURSION_DESIRED: u8 = 0x01;
    let mut message = id.to_be_bytes().to_vec();
    message.extend([RECURSION_DESIRED, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    message.push(LABEL as u8);
    message.extend(label);
    message.push(DOMAIN.len() as u8);
    message.extend(DOMAIN.as_bytes());
    message.extend([0, 0, 1, 0, 1]); // the root; type A, class IN
    message
}

/// Whether this is a response without an error, and with answers, to the query with this number.
fn is_answer(message: &[u8], id: u16) -> bool {
    let [high, low, flags, code, _, _, count_high, count_low, ..] = *message else { return false };
    let is_response = flags & 0x80 != 0;
    u16::from_be_bytes([high, low]) == id && is_response && code & 0x0f == 0 && count_high | count_low != 0
}

/// Queries a random name, from a new port, and retries after half of the time.
pub fn ask(server: SocketAddr, patience: Duration) -> Result<()> {
    let any = if server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0_u16; 8]) };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(server)?;
    let id = fastrand::u16(..);
    let question = question(id, std::array::from_fn(|_| fastrand::lowercase() as u8));
    let mut buffer = [0; 512];
    for _ in 0..TRIES {
        let end = Instant::now() + patience / TRIES;
        let _ = socket.send(&question); // an ICMP error makes it fail; so does it then to wait
        while let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(left))?;
            if socket.recv(&mut buffer).is_ok_and(|length| is_answer(&buffer[..length], id)) {
                return Ok(());
            }
        }
    }
    bail!("{server} has not answered")
}
