//! The UDP ports of this host: on which of them somebody listens, and on which a socket may be connected to a peer.
//!
//! Two bits for each port. The daemon looks at the host's sockets each second, and the egress program sets what it sees being
//! used; so a client is known before its answer can come, and a service within a second. What has closed is taken out by the
//! daemon, which also writes when it looked: what is older than three seconds says nothing.

use crate::{
    meter::{CLOCK_SLACK_NS, RACES, Slot},
    reflector::{PORT_WORDS, port_bit, port_word},
};

/// Words in the map: for 64 ports two words side by side, those that are open and those with a peer; then the time of the last
/// look, nanoseconds.
pub const WORDS: usize = 2 * PORT_WORDS + 1;

/// The word of the last look.
pub const LOOKED: usize = 2 * PORT_WORDS;

/// Nanoseconds for which a look is believed.
const FRESH_NS: u64 = 3_000_000_000;

/// The port of DHCP clients, which listen beside the network stack (RFC 2131). It is known to be in use by what they send.
pub const DHCP_CLIENT: u16 = 68;

/// The word of a port among those that are open; that for ports with a peer comes next.
#[inline(always)]
pub fn word(port: u16) -> usize {
    2 * port_word(port)
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
