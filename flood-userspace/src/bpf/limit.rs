//! Converts limits and mode from the configuration into what the filter computes with.

use std::time::Duration;

use flood_common::{
    abi::{MODE_ENFORCE, MODE_MONITOR, Settings, solicited},
    account::{ACCOUNTS, Account},
    class::CELLS,
    meter::{BYTE_COST_SHIFT, CLOCK_SLACK_NS, Limit, SHARE},
    packet::Vital,
    reassembly::PAGE_BYTES,
};

use crate::{
    config::{
        CellLimit, CellLimits, CellName, HostTells, Mode, PacketLimit, Proof, ProtectedLimits, RateLimit,
    },
    host::FragmentMemory,
    quantity::PacketRate,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Returns what the host can tell, according to the settings.
pub fn host_tells(settings: &Settings) -> HostTells {
    HostTells { absence: settings.absence != 0, asked: settings.solicited & solicited::NOTED != 0 }
}

/// Writes limits into the settings: those that are in force given what the settings say [about the host](host_tells).
pub fn set_limits(settings: &mut Settings, limits: &CellLimits, protected: &ProtectedLimits) {
    let mut cells = [Limit::default(); CELLS];
    let host = host_tells(settings);
    settings.ipv6_cells = Default::default();
    for (name, limit) in limits.iter().filter(|(name, limit)| limit.is_in_force(**name, host)) {
        let number = name.cell().number();
        settings.ipv6_cells[number / 64] |= u64::from(limit.is_of_ipv6_alone(*name)) << (number % 64);
        cells[name.cell().number()] = rate_limit(&in_force_as(*name, limit, limits));
    }
    let ProtectedLimits { neighbour_discovery, path_mtu, link } = protected;
    for (vital, limit) in
        [(Vital::NeighbourDiscovery, neighbour_discovery), (Vital::PathMtu, path_mtu), (Vital::Link, link)]
    {
        settings.vital[vital as usize] = shared(limit);
    }
    settings.set_limits(cells);
}

/// Returns the budget of each account.
pub fn accounts(proof: &Proof) -> [Limit; ACCOUNTS] {
    let mut accounts = [Limit::default(); ACCOUNTS];
    let network = PacketLimit::of_rate(PacketRate(proof.answers.rate.0.saturating_mul(ANSWERS_OF_A_NETWORK)));
    for (account, limit) in [
        (Account::Proven, proof.proven),
        (Account::Watched, proof.proven),
        (Account::Answered, proof.answers),
        (Account::AnsweredNetwork, network),
        (Account::Errors, PacketLimit::of_rate(ERRORS)),
        (Account::Room, PacketLimit::of_rate(ROOM)),
    ] {
        accounts[account as usize] = budget(&limit);
    }
    accounts
}

/// How many times as much is sent back to a whole network as to one address.
const ANSWERS_OF_A_NETWORK: u64 = 4;

/// ICMP errors about what was sent to one peer. One is enough for a connection to know, and a host sends no more than some
/// hundred a second to anybody (`net.ipv4.icmp_msgs_per_sec` is 1,000 for all).
const ERRORS: PacketRate = PacketRate(100);

/// SYNs over a limit to a listener whose queue is said to have room. A queue takes 4,096 at most by default
/// (`net.core.somaxconn`), and once it is full the kernel sends cookies. A listener behind port translation never
/// appears full.
const ROOM: PacketRate = PacketRate(5_000);

/// Returns a limit as it is enforced. A default is never looser than what is configured for the enclosing class: a
/// lower limit for UDP, or TCP, holds for all of it.
pub fn in_force_as(name: CellName, limit: &CellLimit, limits: &CellLimits) -> RateLimit {
    let around = name.class.parent(name.scope).and_then(|class| limits.get(&CellName { class, ..name }));
    match around {
        Some(around) if limit.origin.is_default() && !around.origin.is_default() => {
            let packets = [limit.limit.packets, around.limit.packets].into_iter().flatten();
            let bits = [limit.limit.bits, around.limit.bits].into_iter().flatten();
            RateLimit {
                packets: packets.min_by_key(|packets| packets.rate),
                bits: bits.min_by_key(|bits| bits.rate),
            }
        }
        _ => limit.limit,
    }
}

/// Writes the mode into the settings.
pub fn set_mode(settings: &mut Settings, mode: Mode) {
    settings.mode = match mode {
        Mode::Enforce => MODE_ENFORCE,
        Mode::Monitor => MODE_MONITOR,
    };
}

/// Converts a limit into what the filter computes with.
pub fn rate_limit(limit: &RateLimit) -> Limit {
    let mut result = Limit::default();
    if let Some(packets) = limit.packets {
        result.packet_cost_ns = divide(NANOS_PER_SECOND, packets.rate.0);
        result.packet_tolerance_ns = result.packet_cost_ns * packets.burst.0.saturating_sub(1);
    }
    if let Some(bits) = limit.bits {
        let byte_cost = divide_wide((8 * u128::from(NANOS_PER_SECOND)) << BYTE_COST_SHIFT, bits.rate.0);
        result.byte_cost = byte_cost;
        result.bit_tolerance_ns =
            divide_wide(u128::from(NANOS_PER_SECOND) * u128::from(bits.burst.0), bits.rate.0);
    }
    if limit.packets.is_some() || limit.bits.is_some() {
        result.horizon_ns = result.longest_ns(0);
        let tolerances =
            [limit.packets.map(|_| result.packet_tolerance_ns), limit.bits.map(|_| result.bit_tolerance_ns)];
        result.evictable_ns = tolerances.into_iter().flatten().min().unwrap_or(0) / 2;
    }
    result
}

/// Converts a budget of the whole host of which each source has a share: a packet costs its source more.
pub fn shared(limit: &PacketLimit) -> Limit {
    budget(limit).shared()
}

/// Returns the cost of a page of the memory in which the kernel keeps fragments. It is such that half of the memory
/// may be charged at once, and the other half drains while fragments are kept.
pub fn reassembly(memory: &FragmentMemory) -> Limit {
    let kept_ns = u64::try_from(memory.kept.min(LONGEST_KEPT).as_nanos()).unwrap_or(u64::MAX);
    let cost_ns = divide_wide(u128::from(kept_ns) * u128::from(PAGE_BYTES), memory.bytes / 2).min(kept_ns);
    if cost_ns == 0 {
        return Limit::default();
    }
    Limit {
        packet_cost_ns: cost_ns,
        packet_tolerance_ns: kept_ns,
        horizon_ns: kept_ns + (cost_ns << SHARE) * PAGES_OF_A_FRAGMENT + CLOCK_SLACK_NS,
        evictable_ns: kept_ns / 2,
        ..Limit::default()
    }
}

/// Converts a budget of the whole host.
pub fn budget(limit: &PacketLimit) -> Limit {
    rate_limit(&RateLimit { packets: Some(*limit), bits: None })
}

/// The longest debt that a word of a table can hold.
const LONGEST_KEPT: Duration = Duration::from_secs(300);

/// The most pages that a fragment takes, whose data are at most 64 KiB.
const PAGES_OF_A_FRAGMENT: u64 = 17;

/// Divides, rounding to nearest.
fn divide(number: u64, by: u64) -> u64 {
    divide_wide(u128::from(number), by)
}

fn divide_wide(number: u128, by: u64) -> u64 {
    let by = u128::from(by.max(1));
    u64::try_from((number + by / 2) / by).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{BitLimit, LimitOrigin},
        quantity::{BitRate, Bits, PacketRate, Packets},
    };

    #[test]
    fn a_rate_becomes_its_inverse_and_a_burst_the_time_it_takes() {
        let packets = PacketLimit { rate: PacketRate(1_000), burst: Packets(101) };
        let limit = rate_limit(&RateLimit { packets: Some(packets), bits: None });
        assert_eq!((limit.packet_cost_ns, limit.packet_tolerance_ns), (1_000_000, 100_000_000));
        assert_eq!((limit.byte_cost, limit.bit_tolerance_ns), (0, 0));

        let bits = BitLimit { rate: BitRate(1_000_000_000), burst: Bits(500_000_000) };
        let limit = rate_limit(&RateLimit { packets: None, bits: Some(bits) });
        assert_eq!((limit.packet_cost_ns, limit.bit_tolerance_ns), (0, 500_000_000));
        // 1,476 bytes and 24 of wire overhead are 12,000 bits: 12 us at 1 Gbit/s.
        assert_eq!(limit.price(1_476).cost_ns, 12_000);
    }

    #[test]
    fn a_default_is_no_looser_than_what_is_set_around_it() {
        let packets = |rate| Some(PacketLimit::of_rate(PacketRate(rate)));
        let bits = Some(BitLimit::of_rate(BitRate(8_000_000)));
        let set = LimitOrigin::Configuration;
        let cases = [
            ("tighter", packets(10), None, set, (packets(10), None)),
            ("looser", packets(5_000), None, set, (packets(1_000), None)),
            ("in bits", None, bits, set, (packets(1_000), bits)),
            ("a default as well", packets(10), None, LimitOrigin::Default, (packets(1_000), None)),
        ];
        let [udp, mirrors] = ["source.udp", "source.amplification"].map(|name| name.parse().unwrap());
        for (why, packets, bits, origin, expected) in cases {
            let mut limits = crate::config::Config::default().limits;
            limits.insert(udp, CellLimit { limit: RateLimit { packets, bits }, origin });
            let RateLimit { packets, bits } = in_force_as(mirrors, &limits[&mirrors], &limits);
            assert_eq!((packets, bits), expected, "{why}");
        }
        let own = CellLimit { limit: RateLimit { packets: packets(9_000), bits: None }, origin: set };
        let mut limits = CellLimits::from([(mirrors, own)]);
        limits.insert(udp, CellLimit { limit: RateLimit { packets: packets(10), bits: None }, origin: set });
        assert_eq!(in_force_as(mirrors, &own, &limits), own.limit, "what is set for it holds");
    }

    #[test]
    fn no_limit_is_no_limit() {
        let limit = rate_limit(&RateLimit { packets: None, bits: None });
        assert!(!limit.is_set());
        assert_eq!(limit, Limit::default());
    }

    #[test]
    fn the_slowest_and_the_fastest_limit_stay_within_the_clock() {
        for rate in [8_000, 1_000_000_000_000] {
            let bits = BitLimit { rate: BitRate(rate), burst: Bits(rate * 60) };
            let limit = rate_limit(&RateLimit { packets: None, bits: Some(bits) });
            assert!(limit.horizon_ns < 1 << 40, "{rate}: horizon {} ns", limit.horizon_ns);
            let exact = 8.0e9 / rate as f64;
            let error = limit.byte_cost as f64 / f64::from(1 << BYTE_COST_SHIFT) / exact - 1.0;
            assert!(error.abs() < 1e-4, "{rate}: a byte costs {error} too much");
        }
    }
}
