//! UDP services that attackers use as mirrors: a small request with the victim's address as its source, a large
//! answer to the victim. Such answers come from the port of the service.
//!
//! Sources: TA14 is US-CERT alert TA14-017A, RFC 9308 section 8.1 names 53, 123, 1900, 5353 and 11211 as ports that
//! servers may block and that clients avoid as source ports. Factors are bandwidth amplification factors: bytes of
//! answer for a byte of request.

/// A service, as a mirror.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reflector {
    /// Name of the service.
    pub name: &'static str,
    /// Its UDP port.
    pub port: u16,
    /// How much it amplifies, as it is usually quoted.
    pub factor: &'static str,
    /// Who says so.
    pub source: &'static str,
}

const fn reflector(name: &'static str, port: u16, factor: &'static str, source: &'static str) -> Reflector {
    Reflector { name, port, factor, source }
}

const TA14: &str = "US-CERT TA14-017A";

/// The services known to be used. Ports that clients commonly choose as their own (443, 500, 3478 and the like) are
/// not among them.
pub const REFLECTORS: [Reflector; 24] = [
    reflector("qotd", 17, "140.3", TA14),
    reflector("chargen", 19, "358.8", TA14),
    reflector("dns", 53, "28 to 54", TA14),
    reflector("tftp", 69, "60", TA14),
    reflector("portmap", 111, "7 to 28", TA14),
    reflector("ntp", 123, "556.9", TA14),
    reflector("netbios", 137, "3.8", TA14),
    reflector("snmp", 161, "6.3", TA14),
    reflector("cldap", 389, "56 to 70", TA14),
    reflector("slp", 427, "up to 2200", "NSFOCUS on CVE-2023-29552"),
    reflector("rip", 520, "131", TA14),
    reflector("mssql", 1434, "25", TA14),
    reflector("ssdp", 1900, "30.8", TA14),
    reflector("ard", 3283, "35.5", "NETSCOUT ASERT, 2019"),
    reflector("ws-discovery", 3702, "10 to 500", TA14),
    reflector("mdns", 5353, "2 to 10", TA14),
    reflector("coap", 5683, "34", "NETSCOUT ASERT, 2019"),
    reflector("ubiquiti", 10_001, "30 to 35", "Rapid7, 2019"),
    reflector("tp240", 10_074, "more than 4 billion", "CVE-2022-26143"),
    reflector("memcached", 11_211, "10,000 to 51,000", TA14),
    reflector("quake", 27_960, "63.9", TA14),
    reflector("plex", 32_414, "4.7", "NETSCOUT ASERT, 2021"),
    reflector("jenkins", 33_848, "up to 100", "CVE-2020-2100"),
    reflector("dhcpdiscover", 37_810, "25", "NETSCOUT ASERT, 2021"),
];

/// Words of a set of ports.
pub const PORT_WORDS: usize = 1 << 10;

/// The word of a port in a set of ports.
#[inline(always)]
pub fn port_word(port: u16) -> usize {
    usize::from(port >> 6)
}

/// The bit of a port within its word.
#[inline(always)]
pub fn port_bit(port: u16) -> u64 {
    1 << (port & 63)
}

/// The set of these ports.
pub fn port_set(ports: impl IntoIterator<Item = u16>) -> [u64; PORT_WORDS] {
    let mut set = [0; PORT_WORDS];
    for port in ports {
        set[port_word(port)] |= port_bit(port);
    }
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_there_once_and_in_order() {
        assert!(REFLECTORS.windows(2).all(|pair| pair[0].port < pair[1].port));
    }

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut set = [0u64; PORT_WORDS];
        for port in 0..=u16::MAX {
            assert_eq!(set[port_word(port)] & port_bit(port), 0);
            set[port_word(port)] |= port_bit(port);
        }
        assert!(set.iter().all(|word| *word == u64::MAX));
    }
}
