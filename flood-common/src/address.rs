//! An IP address in the form that the filter computes with.

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

/// The first ten bits of an address that is for one link.
const LINK_LOCAL: u64 = 0xfe80 >> 6;

impl Address {
    /// Reads an IPv4 address as it lies on the wire.
    #[inline(always)]
    pub fn from_v4_bytes(bytes: &[u8; 4]) -> Self {
        Self::V4(read_be32(bytes))
    }

    /// Reads an IPv6 address as it lies on the wire.
    #[inline(always)]
    pub fn from_v6_bytes([network, interface]: &[[u8; 8]; 2]) -> Self {
        Self::V6 { network: read_be64(network), interface: read_be64(interface) }
    }

    /// The address as two 64-bit halves, an IPv4 address in the lower one. Two addresses of one family are equal
    /// exactly when their halves are.
    #[inline(always)]
    pub fn halves(self) -> [u64; 2] {
        match self {
            Self::V4(address) => [0, address as u64],
            Self::V6 { network, interface } => [network, interface],
        }
    }

    /// What limits count by. Neighbours on a link have the same upper half (fe80::/10, RFC 4291), so of their addresses it is the
    /// lower one.
    #[inline(always)]
    pub fn network(self) -> Network {
        let bits = match self {
            Self::V4(address) => address as u64,
            Self::V6 { network, interface } if network >> 54 == LINK_LOCAL => interface,
            Self::V6 { network, .. } => network,
        };
        Network { version: self.version().into(), bits }
    }

    /// 4 or 6.
    #[inline(always)]
    pub fn version(self) -> u8 {
        match self {
            Self::V4(_) => 4,
            Self::V6 { .. } => 6,
        }
    }

    /// The address of the given version (4 or 6) whose [`halves`](Self::halves) these are.
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
}
