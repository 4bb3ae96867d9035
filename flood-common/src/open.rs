//! The UDP ports of this host: on which of them a socket listens, on which a socket may be connected to a peer, and
//! which belong to tunnels.
//!
//! There are four bits for each port. The daemon looks at the host's sockets each second, and the egress program
//! sets the bits of ports that it sees in use. So a client is known before its reply can arrive, and a service
//! within a second. The daemon also clears the bits of closed ports and writes the time of its look: after three
//! seconds the bits no longer count.

use crate::{
    meter::{CLOCK_SLACK_NS, RACES, Slot},
    reflector::{PORT_WORDS, port_bit, port_word},
};

/// Words for 64 ports, side by side: open ports, ports with a peer, ports of tunnels, and ports of tunnels whose
/// remote ends send from ports that are hashes.
const STRIDE: usize = 4;

/// The word with the time of the last look, nanoseconds, after those of the ports.
pub const LOOKED: usize = STRIDE * PORT_WORDS;

/// Words in the map.
pub const WORDS: usize = LOOKED + 1;

/// Nanoseconds for which a look is valid.
const FRESH_NS: u64 = 3_000_000_000;

/// The port of DHCP clients, which listen outside the network stack (RFC 2131). What they send shows that it is in
/// use.
pub const DHCP_CLIENT: u16 = 68;

/// Returns the word of a port among the open ports.
#[inline(always)]
pub fn word(port: u16) -> usize {
    STRIDE * port_word(port)
}

/// Returns the word of a port among the ports with a peer.
#[inline(always)]
pub fn peer_word(port: u16) -> usize {
    word(port) + 1
}

/// Returns the word of a port among the ports of tunnels.
#[inline(always)]
pub fn tunnel_word(port: u16) -> usize {
    word(port) + 2
}

/// Returns the word of a port among those of tunnels whose remote ends send from ports that are hashes.
#[inline(always)]
pub fn hashing_word(port: u16) -> usize {
    word(port) + 3
}

/// Whether a look at this time is still valid.
#[inline(always)]
pub fn is_fresh(looked_ns: u64, now_ns: u64) -> bool {
    // The clock of the packet may be a tick behind that of the look.
    looked_ns != 0 && now_ns.wrapping_add(CLOCK_SLACK_NS).wrapping_sub(looked_ns) < FRESH_NS + CLOCK_SLACK_NS
}

/// Sets the bit of a port in a word.
#[inline(always)]
pub fn set(word: &impl Slot, port: u16) {
    for _ in 0..RACES {
        let found = word.load();
        if found & port_bit(port) != 0 || word.compare_swap(found, found | port_bit(port)) == found {
            return;
        }
    }
}
