//! The UDP ports of this host: on which of them somebody listens, on which a socket may be connected to a peer, and which are
//! those of tunnels.
//!
//! Four bits for each port. The daemon looks at the host's sockets each second, and the egress program sets what it sees being
//! used; so a client is known before its answer can come, and a service within a second. What has closed is taken out by the
//! daemon, which also writes when it looked: what is older than three seconds says nothing.

use crate::{
    meter::{CLOCK_SLACK_NS, RACES, Slot},
    reflector::{PORT_WORDS, port_bit, port_word},
};

/// Words for 64 ports, side by side: those that are open, those with a peer, those of tunnels, and of these those whose other ends
/// send from ports that are hashes.
const STRIDE: usize = 4;

/// The word of the last look, nanoseconds, behind those of the ports.
pub const LOOKED: usize = STRIDE * PORT_WORDS;

/// Words in the map.
pub const WORDS: usize = LOOKED + 1;

/// Nanoseconds for which a look is believed.
const FRESH_NS: u64 = 3_000_000_000;

/// The port of DHCP clients, which listen beside the network stack (RFC 2131). It is known to be in use by what they send.
pub const DHCP_CLIENT: u16 = 68;

/// The word of a port among those that are open.
#[inline(always)]
pub fn word(port: u16) -> usize {
    STRIDE * port_word(port)
}

/// The word of a port among those with a peer.
#[inline(always)]
pub fn peer_word(port: u16) -> usize {
    word(port) + 1
}

/// The word of a port among those of tunnels.
#[inline(always)]
pub fn tunnel_word(port: u16) -> usize {
    word(port) + 2
}

/// The word of a port among those of tunnels whose other ends send from ports that are hashes.
#[inline(always)]
pub fn hashing_word(port: u16) -> usize {
    word(port) + 3
}

/// Whether a look at this time is still believed.
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
