//! The address families: a frame of each, and the range of its sources.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{
    packet::{self, Build},
    programs::Sources,
};

/// The factor by which the harness multiplies a source number, to spread sources over 32 bits
/// (flood-ebpf/src/lab.rs).
const SCATTER: u32 = 0x9e37_79b1;

/// The first source of each family: 11.0.0.0 and 2001:db8::.
const FIRST_V4: u32 = 0x0b00_0000;
const FIRST_V6: u64 = 0x2001_0db8_0000_0000;
const OTHER_V6: u64 = 0x2001_0db9_0000_0000;

/// A closed port.
pub(super) const UNUSED_PORT: u16 = 9;

/// An address family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// A source is an address.
    Ipv4,
    /// A source is a /48.
    Ipv6,
}

impl Family {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    /// The name on the command line and in reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Ipv4 => "ipv4",
            Self::Ipv6 => "ipv6",
        }
    }

    /// Begins the frames of this family.
    pub(super) fn frame(self) -> Build {
        packet::from(self.address(0)).to(match self {
            Self::Ipv4 => packet::SERVER,
            Self::Ipv6 => packet::SERVER6,
        })
    }

    /// Returns the shortest UDP packet that Ethernet carries.
    pub(super) fn udp(self, from_port: u16) -> Build {
        let payload = match self {
            Self::Ipv4 => 18,
            Self::Ipv6 => 12,
        };
        self.frame().udp(from_port, UNUSED_PORT).payload(payload)
    }

    /// Returns the address at this distance from the first source: the harness reaches all within 32 bits.
    pub(super) fn address(self, distance: u32) -> IpAddr {
        match self {
            Self::Ipv4 => Ipv4Addr::from_bits(FIRST_V4.wrapping_add(distance)).into(),
            Self::Ipv6 => Region::of(self).address(distance),
        }
    }
}

/// The range of the sources: the harness reaches 2^32 of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Region {
    pub(super) family: Family,
    /// IPv6: the bit of the upper 64 of an address at which source numbers begin.
    pub(super) lowest_bit: u32,
    /// IPv6: the upper 64 bits of the first address.
    first: u64,
}

impl Region {
    /// Sources are addresses; in IPv6, /48 networks.
    pub(super) fn of(family: Family) -> Self {
        Self { family, lowest_bit: 16, first: FIRST_V6 }
    }

    /// Every /64 of the first IPv6 /32.
    pub(super) fn first_network() -> Self {
        Self { lowest_bit: 0, ..Self::of(Family::Ipv6) }
    }

    /// Every /64 of another /32.
    pub(super) fn other_network() -> Self {
        Self { first: OTHER_V6, ..Self::first_network() }
    }

    /// Returns this many sources, spread over the addresses.
    pub(super) fn sources(self, count: u64) -> Sources {
        let first = match self.family {
            Family::Ipv4 => FIRST_V4.into(),
            Family::Ipv6 => self.first,
        };
        Sources { first, count, adjacent: false }
    }

    /// Returns the source of this number, as the harness writes it.
    pub(super) fn source(self, number: u32) -> IpAddr {
        self.address(number.wrapping_mul(SCATTER))
    }

    fn address(self, distance: u32) -> IpAddr {
        match self.family {
            Family::Ipv4 => self.family.address(distance),
            Family::Ipv6 => {
                let network = self.first.wrapping_add(u64::from(distance) << self.lowest_bit);
                Ipv6Addr::from_bits(u128::from(network) << 64).into()
            }
        }
    }
}
