//! UDP services that attackers use as reflectors: a small request with the victim's address as its source causes a
//! large reply to the victim. Such replies come from the port of the service.
//!
//! Sources: TA14 is US-CERT alert TA14-017A; RFC 9308 section 8.1 names 53, 123, 1900, 5353 and 11211 as ports that
//! servers may block and that clients avoid as source ports. Factors are bandwidth amplification factors: bytes of
//! reply per byte of request.

/// The first ephemeral port in Linux; the ports from here on include those that IANA has set aside (RFC 6335
/// section 6). Some reflectors have ports in this range, too, so the port alone does not show that a packet is from
/// one.
pub const FIRST_OF_CLIENTS: u16 = 32_768;

/// A service that can be a reflector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reflector {
    /// Name of the service.
    pub name: &'static str,
    /// Its UDP port.
    pub port: u16,
    /// Its amplification factor, as usually quoted.
    pub factor: &'static str,
    /// The source of the factor.
    pub source: &'static str,
    /// Whether a client has a session with it, rather than one reply to each question
    /// ([`SESSION_S`](crate::solicit::SESSION_S)).
    pub is_session: bool,
}

const fn reflector(name: &'static str, port: u16, factor: &'static str, source: &'static str) -> Reflector {
    Reflector { name, port, factor, source, is_session: false }
}

const fn session(name: &'static str, port: u16, factor: &'static str, source: &'static str) -> Reflector {
    Reflector { is_session: true, ..reflector(name, port, factor, source) }
}

const TA14: &str = "US-CERT TA14-017A";
/// The vector is known, but no factor.
const UNKNOWN: &str = "not published";

/// The services known to be abused. Solicited replies from each pass, so listing them does not harm the host's own
/// clients of QUIC, VPNs and the like. A client from outside that happens to use such a port as its source port is
/// subject to the limits of `amplification`.
pub const REFLECTORS: [Reflector; 38] = [
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
    session(
        "dtls",
        443,
        "37",
        "NETSCOUT ASERT, 2021; QUIC, which is at the same port, at most 3 (RFC 9000 section 8)",
    ),
    session("ike", 500, UNKNOWN, "Akamai on IKE, 2016"),
    reflector("rip", 520, "131", TA14),
    reflector("ipmi", 623, UNKNOWN, "named as a vector by NETSCOUT"),
    session("openvpn", 1194, UNKNOWN, "Alibaba Cloud Anti-DDoS, list of vectors"),
    reflector("mssql", 1434, "25", TA14),
    session("l2tp", 1701, UNKNOWN, "named as a vector by NETSCOUT"),
    reflector("ssdp", 1900, "30.8", TA14),
    reflector("ard", 3283, "35.5", "NETSCOUT ASERT, 2019"),
    session("rdp", 3389, "85.9", "NETSCOUT ASERT, 2021"),
    session("stun", 3478, "2.3", "NETSCOUT ASERT, 2021"),
    reflector("ws-discovery", 3702, "10 to 500", TA14),
    session("ike-nat-t", 4500, UNKNOWN, "StopDDoS packet captures"),
    reflector("mdns", 5353, "2 to 10", TA14),
    reflector("coap", 5683, "34", "NETSCOUT ASERT, 2019"),
    session("bittorrent", 6881, "3.8", TA14),
    reflector("ubiquiti", 10_001, "30 to 35", "Rapid7, 2019"),
    reflector("tp240", 10_074, "more than 4 billion", "CVE-2022-26143"),
    reflector("memcached", 11_211, "10,000 to 51,000", TA14),
    session("steam", 27_015, "5.5", TA14),
    session("quake", 27_960, "63.9", TA14),
    reflector("plex-32410", 32_410, "4.7", "NETSCOUT ASERT, 2021"),
    reflector("plex-32412", 32_412, "4.7", "NETSCOUT ASERT, 2021"),
    reflector("plex-32413", 32_413, "4.7", "NETSCOUT ASERT, 2021"),
    reflector("plex", 32_414, "4.7", "NETSCOUT ASERT, 2021"),
    reflector("jenkins", 33_848, "up to 100", "CVE-2020-2100"),
    reflector("dhcpdiscover", 37_810, "25", "NETSCOUT ASERT, 2021"),
    reflector("bacnet", 47_808, UNKNOWN, "StopDDoS packet captures"),
];

/// Words in a set of ports.
pub const PORT_WORDS: usize = 1 << 10;

/// Returns the word of a port in a set of ports.
#[inline(always)]
pub fn port_word(port: u16) -> usize {
    usize::from(port >> 6)
}

/// Returns the bit of a port within its word.
#[inline(always)]
pub fn port_bit(port: u16) -> u64 {
    1 << (port & 63)
}

/// Returns the set of these ports.
pub fn port_set(ports: impl IntoIterator<Item = u16>) -> [u64; PORT_WORDS] {
    let mut set = [0; PORT_WORDS];
    for port in ports {
        set[port_word(port)] |= port_bit(port);
    }
    set
}

/// Returns both sets of [`REFLECTORS`](crate::abi::map::REFLECTORS) in the map: `ports` of reflectors, and those of
/// sessions. The service on a port that only the operator names is unknown, so the port is treated as one with
/// sessions.
pub fn port_sets(ports: impl IntoIterator<Item = u16>) -> [u64; 2 * PORT_WORDS] {
    let answers_once = |port| REFLECTORS.iter().any(|known| known.port == port && !known.is_session);
    let mut sets = [0; 2 * PORT_WORDS];
    let (mirrors, sessions) = sets.split_at_mut(PORT_WORDS);
    mirrors.copy_from_slice(&port_set(ports));
    sessions.copy_from_slice(&port_set((0..=u16::MAX).filter(|port| !answers_once(*port))));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_is_there_once_and_in_order_with_a_name_of_its_own() {
        assert!(REFLECTORS.windows(2).all(|pair| pair[0].port < pair[1].port));
        for (index, reflector) in REFLECTORS.iter().enumerate() {
            let Reflector { name, port: _, factor, source, is_session: _ } = reflector;
            assert!(!factor.is_empty() && !source.is_empty(), "{name}");
            assert!(REFLECTORS[..index].iter().all(|other| other.name != *name), "{name}");
            // In the configuration, digits distinguish a port from a name.
            assert!(name.starts_with(|first: char| first.is_ascii_lowercase()), "{name}");
        }
    }

    #[test]
    fn sessions_are_those_that_are_said_to_be_and_what_nobody_knows() {
        let sets = port_sets([53, 443, 9_999]);
        let has = |set: usize, port| sets[set * PORT_WORDS + port_word(port)] & port_bit(port) != 0;
        assert_eq!([53, 443, 9_999, 123].map(|port| has(0, port)), [true, true, true, false]);
        assert_eq!([53, 443, 9_999, 123].map(|port| has(1, port)), [false, true, true, false]);
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
