//! Limits and the rules for them. The configuration and `floodgate limit set` obey the same ones, which are
//! here.
//!
//! A limit is a rate and a burst: what may come at once after a silence. In the kernel (GCRA) the burst is
//! the time `tau = burst / rate`, and the bounds on bursts are bounds on tau: long enough for the kernel's
//! clock, and short against the range of its time stamps.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::ops::RangeInclusive;
use std::str::FromStr;

use flood_common::{
    class::{Cell, Class, Scope},
    reason::Reason,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

use crate::quantity::{BitRate, Bits, PacketRate, Packets};

/// A burst must carry this many milliseconds of its rate. The kernel's coarse clock moves in ticks of up to
/// 10 ms (CONFIG_HZ=100), and a limit is only exact when tau is four ticks or more.
const SHORTEST_BURST_MS: u64 = 40;

/// A burst may carry this many seconds of its rate: tau must stay small against the wrap of the kernel's time
/// stamps, and a longer burst would be no limit at all for a short attack.
const LONGEST_BURST_S: u64 = 60;

/// The burst of a packet limit for which none is given, in seconds of its rate. A page load is over by then.
const DEFAULT_BURST_S: u64 = 2;

/// Packet rates that a limit may have. 100 M/s is more than 64-byte frames fill 40 GbE (59.5 M/s).
const PACKET_RATES: RangeInclusive<PacketRate> = PacketRate(1)..=PacketRate(100_000_000);

/// Bit rates that a limit may have: from less than one full Ethernet frame a second to more than any link.
const BIT_RATES: RangeInclusive<BitRate> = BitRate(8_000)..=BitRate(1_000_000_000_000);

/// The least burst of a bit limit: one jumbo frame of 9216 bytes with 24 bytes of preamble, check sum and
/// gap. With less, a large frame would never conform, however idle its source.
const JUMBO_FRAME: Bits = Bits((9216 + 24) * 8);

/// A limit on packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PacketLimit {
    /// What may come in the long run.
    pub rate: PacketRate,
    /// What may come at once after a silence.
    pub burst: Packets,
}

/// A limit on bits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BitLimit {
    /// What may come in the long run.
    pub rate: BitRate,
    /// What may come at once after a silence.
    pub burst: Bits,
}

/// What one cell of limits lets through. `None` is no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// In packets.
    pub packets: Option<PacketLimit>,
    /// In bits on the wire.
    pub bits: Option<BitLimit>,
}

/// A cell of limits by its name in the configuration: a scope, and a class unless it is for all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellName {
    /// By what is counted.
    pub scope: Scope,
    /// What is counted.
    pub class: Class,
}

impl CellName {
    /// All cells.
    pub fn all() -> impl Iterator<Item = Self> {
        Scope::ALL.into_iter().flat_map(|scope| Class::ALL.map(|class| Self { scope, class }))
    }

    /// The name of a cell.
    pub fn of(cell: Cell) -> Option<Self> {
        Self::all().find(|name| name.cell() == cell)
    }

    /// That of the cell which a packet has exceeded, for a reason that says so; of any other it means nothing.
    pub fn exceeded(reason: Reason, number: impl TryInto<u8>) -> Option<Self> {
        let number = number.try_into().ok().filter(|_| reason.is_over_limit())?;
        Self::of(Cell::from_number(number))
    }

    /// The cell itself.
    pub fn cell(self) -> Cell {
        Cell::new(self.scope, self.class)
    }
}

impl Display for CellName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scope.label())?;
        if self.class == Class::Any { Ok(()) } else { write!(f, ".{}", self.class.label()) }
    }
}

impl FromStr for CellName {
    type Err = UnknownCell;

    fn from_str(text: &str) -> Result<Self, UnknownCell> {
        Self::all().find(|name| name.to_string() == text).ok_or_else(|| UnknownCell(text.to_owned()))
    }
}

impl Serialize for CellName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CellName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A name that no cell has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("there is no limit {0:?}. A limit is a scope ({scopes}), alone or with a class behind a dot ({classes})",
    scopes = Scope::ALL.map(Scope::label).join(", "), classes = class_names())]
pub struct UnknownCell(pub String);

fn class_names() -> String {
    let names: Vec<_> = Class::ALL.into_iter().map(Class::label).filter(|label| !label.is_empty()).collect();
    names.join(", ")
}

/// Where the value of a limit is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitOrigin {
    /// What holds when nothing is said.
    Default,
    /// What holds when nothing is said on a host whose sockets tell what is wanted.
    Host,
    /// The configuration.
    Configuration,
    /// A change at run time.
    RunTime,
}

impl LimitOrigin {
    /// Whether nobody has said anything.
    pub fn is_default(self) -> bool {
        matches!(self, Self::Default | Self::Host)
    }
}

/// A limit, and where it is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CellLimit {
    /// What is let through.
    #[serde(flatten)]
    pub limit: RateLimit,
    /// Who says so.
    pub origin: LimitOrigin,
}

/// What a host can tell of what it is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostTells {
    /// That nobody wants a packet for which there is no socket.
    pub absence: bool,
    /// What it has asked for.
    pub asked: bool,
}

impl CellLimit {
    /// Whether it holds on a host, as the limit of a cell.
    pub fn is_in_force(&self, name: CellName, host: HostTells) -> bool {
        // A tunnel is none of sockets: without knowing what was asked for, nothing speaks for its packets.
        let speaks = host.absence && (name.class != Class::Other || host.asked);
        speaks || self.origin != LimitOrigin::Host
    }

    /// Whether it holds for IPv6 alone. What holds by default of the networks of UDP is for those of IPv6, of which one has
    /// 65,536 sources; those of 256 IPv4 addresses can do without, and each packet is saved a look.
    pub fn is_of_ipv6_alone(&self, name: CellName) -> bool {
        let CellName { scope, class } = name;
        self.origin.is_default() && scope == Scope::SourcePrefix && class == Class::Udp
    }
}

/// The limits that have been set, by cell.
pub type CellLimits = BTreeMap<CellName, CellLimit>;

/// The limits that hold when nothing is said.
pub fn default_limits() -> CellLimits {
    let limit = |scope, class, packets_per_s| {
        let limit = RateLimit { packets: Some(PacketLimit::of_rate(PacketRate(packets_per_s))), bits: None };
        (CellName { scope, class }, CellLimit { limit, origin: LimitOrigin::Default })
    };
    // Half a second of it at once: what all of the Internet sends has no pauses to make up for.
    let total = |class, packets_per_s: u64, origin| {
        let packets = PacketLimit { rate: PacketRate(packets_per_s), burst: Packets(packets_per_s / 2) };
        let limit = RateLimit { packets: Some(packets), bits: None };
        (CellName { scope: Scope::Total, class }, CellLimit { limit, origin })
    };
    // A full-speed download over HTTP/2 at 1 Gbit/s is acknowledged with some 40,000 packets a second at worst, and
    // with half as many by every common system; more from one address is no visitor.
    BTreeMap::from([
        limit(Scope::Source, Class::Any, 20_000),
        // A browser opens some ten connections for a page, a network of a thousand behind one address some hundred a
        // second.
        limit(Scope::Source, Class::Syn, 1_000),
        // Ping, traceroute and errors: some per second; monitoring, some ten.
        limit(Scope::Source, Class::Icmp, 500),
        // Of IPv6 alone. UDP only, as the rest has totals.
        limit(Scope::SourcePrefix, Class::Udp, 100_000),
        // Few hosts open so many connections in a second, and what is over it is not lost: it has to prove its origin.
        total(Class::Syn, 10_000, LimitOrigin::Default),
        // What was not asked for but leads to a socket: a player has 128 packets a second at most, whatever his port; a
        // mirror has a few hundred. In all, 5,000 of the largest packets are 60 Mbit/s.
        limit(Scope::Source, Class::Amplification, 1_000),
        limit(Scope::SourcePrefix, Class::Amplification, 2_000),
        total(Class::Amplification, 5_000, LimitOrigin::Default),
        // What belongs to a connection passes over these, and what is nobody's is not missed.
        total(Class::Tcp, 15_000, LimitOrigin::Host),
        total(Class::RstFin, 5_000, LimitOrigin::Host),
        total(Class::SynAck, 2_000, LimitOrigin::Host),
        // Nobody listens; a port that is scanned, and traceroute, get an answer still.
        total(Class::Closed, 1_000, LimitOrigin::Host),
        // The kernel answers a thousand pings a second (net.ipv4.icmp_msgs_per_sec).
        total(Class::Icmp, 1_000, LimitOrigin::Host),
        total(Class::IcmpError, 1_000, LimitOrigin::Host),
        // A name server gets one for some hundred questions. Answers that were asked for, and tunnels of this host's, pass.
        total(Class::Fragment, 1_000, LimitOrigin::Host),
        total(Class::Other, 1_000, LimitOrigin::Host),
    ])
}

/// The budgets of messages without which a host falls off the network, in all; no source gets more than an eighth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProtectedLimits {
    /// Neighbour discovery (RFC 4861).
    pub neighbour_discovery: PacketLimit,
    /// Packet Too Big, for path MTU discovery (RFC 8201).
    pub path_mtu: PacketLimit,
    /// What is sent to all hosts of the link.
    pub link: PacketLimit,
}

/// The half of a limit that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The rate.
    Rate,
    /// The burst.
    Burst,
}

impl Display for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rate => "rate",
            Self::Burst => "burst",
        })
    }
}

/// A limit that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("a {half} of {value} is out of bounds: {rule}; write {lowest} to {highest}")]
pub struct LimitError {
    /// Where to correct it.
    pub half: Half,
    value: String,
    rule: &'static str,
    lowest: String,
    highest: String,
}

impl PacketLimit {
    /// The limit with this rate and the burst that is usual for it.
    pub fn of_rate(rate: PacketRate) -> Self {
        Self { rate, burst: Packets(rate.0.saturating_mul(DEFAULT_BURST_S)) }
    }

    /// Are rate and burst within their bounds?
    pub fn check(&self) -> Result<(), LimitError> {
        let Self { rate, burst } = *self;
        check_bounds(Half::Rate, &rate, PACKET_RATES, RATE_RULE)?;
        let (lowest, highest) = burst_bounds(rate.0);
        check_bounds(Half::Burst, &burst, Packets(lowest)..=Packets(highest), BURST_RULE)
    }
}

impl BitLimit {
    /// The limit with this rate and the burst that is usual for it: one second, and at least one jumbo frame.
    pub fn of_rate(rate: BitRate) -> Self {
        Self { rate, burst: Bits(rate.0).max(JUMBO_FRAME) }
    }

    /// Are rate and burst within their bounds?
    pub fn check(&self) -> Result<(), LimitError> {
        let Self { rate, burst } = *self;
        check_bounds(Half::Rate, &rate, BIT_RATES, RATE_RULE)?;
        let (lowest, highest) = burst_bounds(rate.0);
        check_bounds(Half::Burst, &burst, JUMBO_FRAME.max(Bits(lowest))..=Bits(highest), BIT_BURST_RULE)
    }
}

impl RateLimit {
    /// Are all limits within their bounds?
    pub fn check(&self) -> Result<(), LimitError> {
        let Self { packets, bits } = self;
        packets.as_ref().map_or(Ok(()), PacketLimit::check)?;
        bits.as_ref().map_or(Ok(()), BitLimit::check)
    }
}

const RATE_RULE: &str = "no network card has more, and less is a block";
const BURST_RULE: &str = "it must carry 40 ms to 60 s of its rate";
const BIT_BURST_RULE: &str = "it must carry 40 ms to 60 s of its rate, and at least one jumbo frame";

fn check_bounds<T: Ord + Display>(
    half: Half,
    value: &T,
    bounds: RangeInclusive<T>,
    rule: &'static str,
) -> Result<(), LimitError> {
    if bounds.contains(value) {
        return Ok(());
    }
    let (lowest, highest) = bounds.into_inner();
    Err(LimitError {
        half,
        value: value.to_string(),
        rule,
        lowest: lowest.to_string(),
        highest: highest.to_string(),
    })
}

/// The least and the greatest burst at a rate that is within its own bounds.
fn burst_bounds(rate: u64) -> (u64, u64) {
    ((rate * SHORTEST_BURST_MS).div_ceil(1000), rate * LONGEST_BURST_S)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_limit_has_bounds() {
        let cases = [
            ("the default", 20_000, 40_000, Ok(())),
            ("exactly four ticks", 20_000, 800, Ok(())),
            ("less", 20_000, 799, Err(Half::Burst)),
            ("exactly a minute", 20_000, 1_200_000, Ok(())),
            ("more", 20_000, 1_200_001, Err(Half::Burst)),
            ("one packet a second, one at once", 1, 1, Ok(())),
            ("no burst", 1, 0, Err(Half::Burst)),
            ("no rate", 0, 1, Err(Half::Rate)),
            ("highest rate", 100_000_000, 200_000_000, Ok(())),
            ("above", 100_000_001, 200_000_000, Err(Half::Rate)),
            ("far above, where multiplying overflows", u64::MAX, u64::MAX, Err(Half::Rate)),
        ];
        for (why, rate, burst, expected) in cases {
            let limit = PacketLimit { rate: PacketRate(rate), burst: Packets(burst) };
            assert_eq!(limit.check().map_err(|error| error.half), expected, "{why}");
        }
    }

    #[test]
    fn a_bit_limit_always_lets_a_jumbo_frame_conform() {
        let cases = [
            ("a second at the rate", 8_000_000, 8_000_000, Ok(())),
            ("a jumbo frame", 1_000_000, 73_920, Ok(())),
            ("less than a jumbo frame", 1_000_000, 73_919, Err(Half::Burst)),
            ("less than four ticks", 1_000_000_000, 39_999_999, Err(Half::Burst)),
            ("four ticks", 1_000_000_000, 40_000_000, Ok(())),
            ("more than a minute", 8_000, 480_001, Err(Half::Burst)),
            ("too slow", 7_999, 73_920, Err(Half::Rate)),
            ("highest rate", 1_000_000_000_000, 60_000_000_000_000, Ok(())),
            ("above", 1_000_000_000_001, 1_000_000_000_001, Err(Half::Rate)),
        ];
        for (why, rate, burst, expected) in cases {
            let limit = BitLimit { rate: BitRate(rate), burst: Bits(burst) };
            assert_eq!(limit.check().map_err(|error| error.half), expected, "{why}");
        }
    }

    #[test]
    fn the_usual_burst_is_within_bounds_at_every_allowed_rate() {
        for rate in [PacketRate(1), PacketRate(17), PacketRate(100_000_000)] {
            assert_eq!(PacketLimit::of_rate(rate).check(), Ok(()));
        }
        for rate in [8_000, 73_919, 100_000_000, 1_000_000_000_000].map(BitRate) {
            assert_eq!(BitLimit::of_rate(rate).check(), Ok(()));
        }
    }

    #[test]
    fn a_refusal_says_what_would_be_right() {
        let limit = PacketLimit { rate: PacketRate(20_000), burst: Packets(100) };
        assert_eq!(
            RateLimit { packets: Some(limit), bits: None }.check().unwrap_err().to_string(),
            "a burst of 100 is out of bounds: it must carry 40 ms to 60 s of its rate; write 800 to 1.2M"
        );
    }
}
