//! The UDP ports in use on this host, as the filter knows them.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use aya::maps::Map;
use flood_common::{
    abi,
    open::{DHCP_CLIENT, LOOKED, WORDS, hashing_word, peer_word, tunnel_word, word},
    reflector::port_bit,
};

use crate::host::UdpPort;

use super::{clock::Clock, error::BpfError, mapped::MappedArray};

/// How long a DHCP client waits for replies after its first packet, which it may do without a visible socket.
const DHCP_WAITS: Duration = Duration::from_secs(10);

/// The map of ports in the kernel.
pub struct OpenPorts {
    memory: MappedArray,
    clock: Arc<Clock>,
    /// Until when a DHCP client waits for replies.
    dhcp_until: Option<Instant>,
}

impl OpenPorts {
    pub(super) fn new(map: Map, clock: Arc<Clock>) -> Result<Self, BpfError> {
        let memory = MappedArray::new(abi::map::OPEN, map, WORDS * size_of::<u64>())?;
        Ok(Self { memory, clock, dhcp_until: None })
    }

    /// Takes over what `look` finds. A port that was there before it and is not found has been closed; one that is
    /// set while it looks is in use, and stays until the next time. Without the egress program (`is_noted`), which
    /// records that a DHCP client has sent something, the client's port always counts as in use.
    pub fn follow<E>(
        &mut self,
        is_noted: bool,
        look: impl FnOnce() -> Result<Vec<UdpPort>, E>,
    ) -> Result<(), E> {
        let words = &self.memory.words()[..LOOKED];
        let before: Vec<u64> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
        let mut found = vec![0; words.len()];
        for UdpPort { port, has_peer, tunnel } in look()? {
            found[word(port)] |= port_bit(port);
            // The end of a tunnel has peers, though its socket does not say so.
            if has_peer || tunnel.is_some() {
                found[peer_word(port)] |= port_bit(port);
            }
            if let Some(hashes) = tunnel {
                found[tunnel_word(port)] |= port_bit(port);
                found[hashing_word(port)] |= if hashes { port_bit(port) } else { 0 };
            }
        }
        found[word(DHCP_CLIENT)] |= if is_noted {
            dhcp(before[word(DHCP_CLIENT)], &mut self.dhcp_until, Instant::now())
        } else {
            port_bit(DHCP_CLIENT)
        };
        for ((word, found), before) in words.iter().zip(found).zip(before) {
            word.fetch_or(found, Ordering::Relaxed);
            word.fetch_and(!(before & !found), Ordering::Relaxed);
        }
        self.memory.words()[LOOKED].store(self.clock.now_ns(), Ordering::Release);
        Ok(())
    }
}

/// Returns the bit of the DHCP client's port while a client waits. `before` is the word in which the egress program
/// sets it.
fn dhcp(before: u64, until: &mut Option<Instant>, now: Instant) -> u64 {
    let bit = port_bit(DHCP_CLIENT);
    if before & bit != 0 && now < *until.get_or_insert(now + DHCP_WAITS) {
        return bit;
    }
    *until = None;
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dhcp_client_waits_for_so_long_after_it_has_sent_something() {
        let (begin, bit, mut until) = (Instant::now(), port_bit(DHCP_CLIENT), None);
        let mut word = bit;
        let mut open = |at_s: u64, sends: bool| {
            word = dhcp(word | if sends { bit } else { 0 }, &mut until, begin + Duration::from_secs(at_s));
            word != 0
        };
        assert_eq!(
            [open(0, true), open(9, false), open(10, false), open(11, false)],
            [true, true, false, false]
        );
        assert_eq!(
            [open(12, true), open(21, false), open(22, true), open(23, true)],
            [true, true, false, true],
            "at once again"
        );
        assert_eq!([open(30, true), open(32, false), open(33, false)], [true, true, false], "and later");
    }
}
