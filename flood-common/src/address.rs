//! IP addresses in the form that the filter computes with.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::wire::{read_be32, read_be64};

/// An IP address, numbers in host byte order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// IPv4.
    V4(u32),
    /// IPv6: the upper and the lower 64 bits.
    V6 {
        /// Upper 64 bits: routing prefix and subnet.
        network: u64,
        /// Lower 64 bits: interface identifier.
        interface: u64,
    },
}

/// The part of an address that limits count by: an IPv4 address, or the upper half of an IPv6 one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    /// 4 or 6.
    pub version: u64,
    /// The bits, in the lower half for IPv4.
    pub bits: u64,
}

/// The most translator prefixes.
pub const TRANSLATORS: usize = 4;

/// The /96 prefixes in which translators (NAT64, SIIT) embed IPv4 addresses (RFC 6052 section 2.2), as
/// [halves](Address::halves) of an address. Unused entries repeat another.
pub type Translators = [[u64; 2]; TRANSLATORS];

/// The well-known prefix of translators, 64:ff9b::/96 (RFC 6052 section 2.1).
pub const WELL_KNOWN_TRANSLATOR: [u64; 2] = [0x0064_ff9b_0000_0000, 0];

/// Where a translated IPv4 address is counted: the unassigned 64:fe00::/24, followed by the IPv4 address. So a
/// limit by /48 counts by the IPv4 /24, and a limit by /56 to /64 counts by address.
const TRANSLATED: u64 = 0x0064_fe00_0000_0000;

/// The first ten bits of a link-local address.
const LINK_LOCAL: u64 = 0xfe80 >> 6;

impl Address {
    /// Reads an IPv4 address in wire format.
    #[inline(always)]
    pub fn from_v4_bytes(bytes: &[u8; 4]) -> Self {
        Self::V4(read_be32(bytes))
    }

    /// Reads an IPv6 address in wire format.
    #[inline(always)]
    pub fn from_v6_bytes([network, interface]: &[[u8; 8]; 2]) -> Self {
        Self::V6 { network: read_be64(network), interface: read_be64(interface) }
    }

    /// Returns the address as two 64-bit halves, an IPv4 address in the lower one. Two addresses of one family are
    /// equal exactly when their halves are.
    #[inline(always)]
    pub fn halves(self) -> [u64; 2] {
        match self {
            Self::V4(address) => [0, address as u64],
            Self::V6 { network, interface } => [network, interface],
        }
    }

    /// Returns the part that limits count by. Neighbours on a link share the upper half (fe80::/10, RFC 4291), so
    /// for their addresses it is the lower one.
    #[inline(always)]
    pub fn network(self) -> Network {
        let bits = match self {
            Self::V4(address) => address as u64,
            Self::V6 { network, interface } if network >> 54 == LINK_LOCAL => interface,
            Self::V6 { network, .. } => network,
        };
        Network { version: self.version().into(), bits }
    }

    /// Returns the part that limits count by for a source. All sources behind a [translator](Translators) share the
    /// upper half, so for them it is the IPv4 address.
    #[inline(always)]
    pub fn source_network(self, translators: &Translators) -> Network {
        let counted = self.network();
        let Self::V6 { network, interface } = self else { return counted };
        // VERIFIER: without a branch, so that there is one path through the program.
        let found = translators.iter().fold(0, |found, [upper, lower]| {
            let difference = (network ^ upper) | (interface ^ lower) >> 32;
            found | !(difference | difference.wrapping_neg())
        });
        let is_translated = 0u64.wrapping_sub(found >> 63);
        let translated = TRANSLATED | (interface & 0xffff_ffff) << 8;
        Network { bits: counted.bits ^ (counted.bits ^ translated) & is_translated, ..counted }
    }

    /// 4 or 6.
    #[inline(always)]
    pub fn version(self) -> u8 {
        match self {
            Self::V4(_) => 4,
            Self::V6 { .. } => 6,
        }
    }

    /// Returns the address of the given version (4 or 6) with these [`halves`](Self::halves).
    pub fn from_halves(version: u8, halves: [u64; 2]) -> Option<Self> {
        let [network, interface] = halves;
        match version {
            4 => u32::try_from(interface).ok().map(Self::V4),
            6 => Some(Self::V6 { network, interface }),
            _ => None,
        }
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::V4(v4.to_bits()),
            IpAddr::V6(v6) => Self::from_v6_bytes(&zerocopy::transmute!(v6.octets())),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        match address {
            Address::V4(v4) => Self::V4(Ipv4Addr::from_bits(v4)),
            Address::V6 { network, interface } => {
                Self::V6(Ipv6Addr::from_bits((u128::from(network) << 64) | u128::from(interface)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_there_and_back() {
        for text in
            ["192.0.2.1", "255.255.255.255", "0.0.0.0", "2001:db8:1:2:3:4:5:6", "::", "::ffff:192.0.2.1"]
        {
            let address: IpAddr = text.parse().unwrap();
            let inner = Address::from(address);
            assert_eq!(IpAddr::from(inner), address);
            assert_eq!(Address::from_halves(inner.version(), inner.halves()), Some(inner));
        }
    }

    #[test]
    fn who_comes_through_a_translator_is_counted_by_his_own_address() {
        let own = [0x2001_0db8_0064_0000, 0x0001_0000_0000_0000];
        let translators = [WELL_KNOWN_TRANSLATOR, own, own, own];
        let bits =
            |text: &str| Address::from(text.parse::<IpAddr>().unwrap()).source_network(&translators).bits;
        assert_eq!(bits("64:ff9b::192.0.2.1"), 0x0064_fec0_0002_0100);
        assert_eq!(bits("2001:db8:64:0:1::192.0.2.1"), bits("64:ff9b::192.0.2.1"), "the same person");
        assert_ne!(bits("64:ff9b::192.0.2.1"), bits("64:ff9b::192.0.2.2"));
        let by_network = |text| bits(text) & !0xffff;
        assert_eq!(by_network("64:ff9b::192.0.2.1"), by_network("64:ff9b::192.0.2.255"));
        assert_ne!(by_network("64:ff9b::192.0.2.1"), by_network("64:ff9b::192.0.3.1"));
        for (other, expected) in [
            ("64:ff9b::1:192.0.2.1", WELL_KNOWN_TRANSLATOR[0]),
            ("64:ff9b:1::192.0.2.1", 0x0064_ff9b_0001_0000),
            ("2001:db8:64::192.0.2.1", own[0]),
            ("fe80::192.0.2.1", 0xc000_0201),
        ] {
            assert_eq!(bits(other), expected, "{other}");
        }
    }
}
