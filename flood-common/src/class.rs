//! The subjects of limits: classes of packets, and the scopes in which they are counted.
//!
//! A limit is a [`Cell`]: one class in one scope. A packet belongs to exactly one class, and in each scope it is
//! charged to at most two cells: that of its class, and the one for all classes together.

/// The class of a packet. A first fragment has the class of its content; later fragments have the class of their
/// first, where it is [known](crate::fragments).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Class {
    /// TCP with SYN alone: a client wants to connect.
    Syn = 0,
    /// TCP with SYN and ACK: the answer to a SYN of this host, or of an attacker who spoofs its address.
    SynAck = 1,
    /// TCP with RST or FIN.
    RstFin = 2,
    /// Any other TCP.
    Tcp = 3,
    /// UDP.
    Udp = 4,
    /// UDP from a port of a service that attackers use as a reflector ([`crate::reflector`]).
    Amplification = 5,
    /// UDP to a port on which no socket of this host listens, where that is known ([`crate::open`]).
    Closed = 6,
    /// ICMP and ICMPv6, except errors.
    Icmp = 7,
    /// ICMP and ICMPv6 about a packet that could not be delivered.
    IcmpError = 8,
    /// A later part of a datagram whose first part is not known, or a first part without the header that it should
    /// have.
    Fragment = 9,
    /// Any other protocol.
    Other = 10,
    /// All classes together. No packet has it; limits do.
    Any = 11,
    /// UDP from a reflector port that is also an ephemeral port of clients, in a flow in which this host has
    /// answered. It counts as UDP for its source, and as reflector traffic in all wider scopes. Packets have this
    /// class; no limit does.
    Answered = 12,
}

/// Room for classes. A power of two, so that the verifier accepts a mask as a bound.
pub const CLASS_SLOTS: usize = 16;

impl Class {
    /// All classes that a limit can be for.
    pub const ALL: [Self; 12] = [
        Self::Syn,
        Self::SynAck,
        Self::RstFin,
        Self::Tcp,
        Self::Udp,
        Self::Amplification,
        Self::Closed,
        Self::Icmp,
        Self::IcmpError,
        Self::Fragment,
        Self::Other,
        Self::Any,
    ];

    /// The name in the configuration; that of all classes together is empty.
    pub fn label(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::SynAck => "synack",
            Self::RstFin => "rst_fin",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Amplification => "amplification",
            Self::Closed => "closed",
            Self::Icmp => "icmp",
            Self::IcmpError => "icmp_error",
            Self::Fragment => "fragment",
            Self::Other => "other",
            Self::Any => "",
            Self::Answered => "answered",
        }
    }

    /// Returns the class whose limit applies to this one if it has none of its own, so that a limit on TCP cannot
    /// be evaded by setting flags.
    ///
    /// Traffic that nothing here listens for takes nothing from ports on which a socket listens, so it counts
    /// together with other UDP only in the scopes of one source.
    #[must_use]
    pub fn parent(self, scope: Scope) -> Option<Self> {
        match self {
            Self::Syn | Self::SynAck | Self::RstFin => Some(Self::Tcp),
            Self::Answered if scope >= Scope::Destination => Some(Self::Amplification),
            Self::Amplification | Self::Answered => Some(Self::Udp),
            Self::Closed if scope < Scope::Destination => Some(Self::Udp),
            Self::IcmpError => Some(Self::Icmp),
            _ => None,
        }
    }
}

/// What the packets of a cell have in common. The order is that in which cells are charged: narrow ones first, so
/// that the excess of one source is not charged to all.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Scope {
    /// The source.
    Source = 0,
    /// The network around the source.
    SourcePrefix = 1,
    /// The destination.
    Destination = 2,
    /// The network around the destination.
    DestinationPrefix = 3,
    /// All that the host receives.
    Total = 4,
}

impl Scope {
    /// All scopes, in their order.
    pub const ALL: [Self; 5] =
        [Self::Source, Self::SourcePrefix, Self::Destination, Self::DestinationPrefix, Self::Total];

    /// The name in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::SourcePrefix => "source_prefix",
            Self::Destination => "destination",
            Self::DestinationPrefix => "destination_prefix",
            Self::Total => "total",
        }
    }
}

/// Number of cells, unused ones included: see [`Cell`].
pub const CELLS: usize = Scope::ALL.len() * CLASS_SLOTS;

/// A scope and a class as one number: the scope times [`CLASS_SLOTS`], plus the class.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cell(u8);

impl Cell {
    /// The cell of a class in a scope.
    pub const fn new(scope: Scope, class: Class) -> Self {
        Self(scope as u8 * CLASS_SLOTS as u8 + class as u8)
    }

    /// The cell with this number, less than [`CELLS`].
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    /// Its number.
    #[inline(always)]
    pub const fn number(self) -> usize {
        self.0 as usize
    }

    /// The number of its class.
    #[inline(always)]
    pub const fn class_number(self) -> u32 {
        (self.0 as usize % CLASS_SLOTS) as u32
    }

    /// The number of its scope.
    #[inline(always)]
    pub const fn scope_number(self) -> u32 {
        (self.0 as usize / CLASS_SLOTS) as u32
    }

    /// Whether all packets are counted together, whatever their addresses.
    #[inline(always)]
    pub const fn is_total(self) -> bool {
        self.scope_number() == Scope::Total as u32
    }

    /// Whether sources share it.
    #[inline(always)]
    pub const fn is_wide(self) -> bool {
        self.scope_number() >= Scope::Destination as u32
    }

    /// Whether it counts by destination rather than by source.
    #[inline(always)]
    pub const fn is_by_destination(self) -> bool {
        self.scope_number() & 2 != 0
    }

    /// Whether it counts by network rather than by address.
    #[inline(always)]
    pub const fn is_by_prefix(self) -> bool {
        self.scope_number() & 1 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_says_what_it_is_made_of() {
        for scope in Scope::ALL {
            for class in Class::ALL {
                let cell = Cell::new(scope, class);
                assert!(cell.number() < CELLS);
                assert_eq!((cell.scope_number(), cell.class_number()), (scope as u32, class as u32));
                assert_eq!(cell.is_total(), scope == Scope::Total);
                let by = (cell.is_by_destination(), cell.is_by_prefix());
                let expected = match scope {
                    Scope::Source | Scope::Total => (false, false),
                    Scope::SourcePrefix => (false, true),
                    Scope::Destination => (true, false),
                    Scope::DestinationPrefix => (true, true),
                };
                assert_eq!(by, expected, "{scope:?}");
            }
        }
    }
}
