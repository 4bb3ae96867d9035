//! A packet that several limits apply to, against an exact model: it is charged to all of them or to none, and what
//! passes sketches and table together is what the limits allow, whatever the mix.

use std::collections::HashMap;

use flood_common::{
    abi::{MAX_CELLS, Settings},
    address::Address,
    class::{Cell, Class, Scope},
    decide::decide,
    host::HostTables,
    meter::Price,
    packet::{Message, Packet, Parsed, Part, Piece, Ports},
    place::{MIN_BUCKET_BITS, Seeds},
    reason::Reason,
};
use flood_userspace::{
    bpf::limit::rate_limit,
    config::{BitLimit, PacketLimit, RateLimit},
    quantity::{BitRate, Bits, PacketRate, Packets},
};
use proptest::prelude::*;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000 * SECOND;

/// In addition to a limit, one part in this many of it passes through the sketches of all processors together.
const SHARE: u128 = 32;

/// The cells that may have a limit, one or two in each scope.
const CELLS: [(Scope, Class); 9] = [
    (Scope::Source, Class::Udp),
    (Scope::Source, Class::Any),
    (Scope::SourcePrefix, Class::Any),
    (Scope::Destination, Class::Udp),
    (Scope::Destination, Class::Any),
    (Scope::DestinationPrefix, Class::Any),
    (Scope::Total, Class::Udp),
    (Scope::Total, Class::Icmp),
    (Scope::Total, Class::Any),
];

/// A drawn limit: packets a second and burst, bits a second and burst.
type Drawn = (Option<(u64, u64)>, Option<(u64, u64)>);

/// Limits that are exceeded now and then.
fn limit(bursts: std::ops::Range<u64>) -> impl Strategy<Value = Drawn> {
    let packets = (100_u64..5_000, bursts.clone());
    let bits = (1_000_000_u64..20_000_000, bursts);
    let half = prop::bool::ANY;
    (packets, bits, half, half).prop_map(|(packets, (rate, burst), has_packets, has_bits)| {
        let bits = (rate, burst * 12_000);
        (has_packets.then_some(packets), (has_bits || !has_packets).then_some(bits))
    })
}

/// Settings with these limits, in the order of [`CELLS`].
fn settings(drawn: &[Option<Drawn>]) -> Settings {
    let mut settings = Settings {
        seeds: Seeds { v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f], ..Seeds::default() },
        masks_v4: [u32::MAX, !0xff],
        ..Settings::default()
    };
    let mut limits = settings.limits;
    for ((scope, class), drawn) in CELLS.into_iter().zip(drawn) {
        let Some((packets, bits)) = drawn else { continue };
        limits[Cell::new(scope, class).number()] = rate_limit(&RateLimit {
            packets: packets
                .map(|(rate, burst)| PacketLimit { rate: PacketRate(rate), burst: Packets(burst) }),
            bits: bits.map(|(rate, burst)| BitLimit { rate: BitRate(rate), burst: Bits(burst) }),
        });
    }
    settings.set_limits(limits);
    settings
}

/// A drawn packet: time since the last one, source and destination out of a few, class, length, processor.
type Sent = (u64, u8, u8, bool, u32, usize);

fn sent() -> impl Strategy<Value = Vec<Sent>> {
    let length = prop_oneof![Just(60_u32), 60_u32..1_515];
    let packet = (0_u64..400_000, 0_u8..6, 0_u8..4, prop::bool::weighted(0.7), length, any::<usize>());
    prop::collection::vec(packet, 1..1_500)
}

fn packet((_, source, destination, is_udp, length, _): &Sent) -> Packet {
    // Two of them in each network.
    let host = |base: u32, number: u8| Address::V4(base + u32::from(number / 2) * 256 + u32::from(number));
    Packet {
        source: host(0xc633_6400, *source),
        destination: host(0xc000_0200, *destination),
        class: if *is_udp { Class::Udp } else { Class::Icmp },
        length: *length,
        network_at: 14,
        length_at: 0,
        transport_at: 34,
        protocol: if *is_udp { 17 } else { 1 },
        part: Part::Whole,
        datagram: 0,
        piece: Piece { start: 0, length: length - 34, end: length - 14, is_last: true },
        ports: is_udp.then_some(Ports { source: 5_000, destination: 5_001 }),
        tcp_flags: None,
        icmp: Message::default(),
        vital: None,
        defect: None,
    }
}

/// A cell, and the address that is charged in it.
type Account = (usize, Address);

/// Returns the cells that a packet is charged to, with the charged address and the price.
fn accounts(settings: &Settings, packet: &Packet) -> Vec<(Cell, Account, Price)> {
    settings.plan[Settings::plan_of(packet.source.version().into(), packet.class as usize)][..MAX_CELLS]
        .iter()
        .take_while(|entry| **entry != 0)
        .map(|entry| {
            let cell = Cell::from_number(entry - 1);
            let address = if cell.is_by_destination() { packet.destination } else { packet.source };
            let who = match (cell.is_total(), cell.is_by_prefix(), address) {
                (true, ..) => Address::V4(0),
                (false, true, Address::V4(address)) => Address::V4(address & !0xff),
                (false, ..) => address,
            };
            (cell, (cell.number(), who), settings.limits[cell.number()].price(packet.length))
        })
        .collect()
}

/// The algorithm as specified: for each account a theoretical arrival time that never wraps. A packet is charged to
/// all of its accounts, or to none.
#[derive(Default)]
struct Model(HashMap<Account, u128>);

impl Model {
    fn judge(&mut self, settings: &Settings, packet: &Packet, now_ns: u64) -> Reason {
        let now_ns = u128::from(now_ns);
        let accounts = accounts(settings, packet);
        for (cell, account, price) in &accounts {
            let debt = self.0.get(account).map_or(0, |arrival| arrival.saturating_sub(now_ns));
            if debt > u128::from(price.tolerance_ns) {
                return Reason::exceeding(*cell, price.bits);
            }
        }
        for (_, account, price) in accounts {
            let arrival = self.0.entry(account).or_default();
            *arrival = now_ns.max(*arrival) + u128::from(price.cost_ns);
        }
        Reason::Conforming
    }
}

/// What has passed for an account.
#[derive(Default)]
struct Passed {
    cost_ns: u128,
    tolerance_ns: u64,
    dearest_ns: u64,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    /// A packet is charged to all limits or to none: after a dropped packet, every other is judged as if it had never
    /// come.
    #[test]
    fn a_packet_is_charged_to_all_of_its_limits_or_to_none(
        drawn in prop::collection::vec(prop::option::weighted(0.6, limit(2..15)), CELLS.len()),
        sent in sent(),
    ) {
        // With a burst of less than 16 packets, no lease of a total is left over.
        let exact = CELLS.iter().zip(drawn).map(|((scope, _), drawn)| match (scope, drawn) {
            (Scope::Total, Some((packets, _))) => packets.map(|packets| (Some(packets), None)),
            (_, drawn) => drawn,
        });
        let settings = settings(&exact.collect::<Vec<_>>());
        let (tables, mut model) = (HostTables::new(MIN_BUCKET_BITS), Model::default());
        let mut now_ns = START;
        for sent in &sent {
            now_ns += sent.0;
            let packet = packet(sent);
            let reason = decide(&Parsed::Packet(packet), &settings, now_ns, &tables).reason;
            prop_assert_eq!(reason, model.judge(&settings, &packet, now_ns));
        }
    }

    /// With sketches on any number of processors, an account passes at most its limit and a 32nd of that.
    #[test]
    fn sketches_let_through_a_thirty_second_more_whatever_the_mix(
        drawn in prop::collection::vec(prop::option::weighted(0.6, limit(20..3_000)), CELLS.len()),
        processors in 1_u32..8,
        repeat in 1_usize..40,
        sent in sent(),
    ) {
        let settings = settings(&drawn);
        let mut tables = HostTables::new(MIN_BUCKET_BITS);
        tables.sketch(processors);
        let (mut now_ns, mut passed) = (START, HashMap::<Account, Passed>::new());
        for sent in sent.iter().cycle().take(sent.len() * repeat) {
            now_ns += sent.0 / repeat as u64;
            tables.run_on(sent.5);
            let packet = packet(sent);
            if decide(&Parsed::Packet(packet), &settings, now_ns, &tables).reason != Reason::Conforming {
                continue;
            }
            for (cell, account, price) in accounts(&settings, &packet) {
                let passed = passed.entry(account).or_default();
                passed.cost_ns += u128::from(price.cost_ns);
                passed.tolerance_ns = passed.tolerance_ns.max(price.tolerance_ns);
                passed.dearest_ns = passed.dearest_ns.max(price.cost_ns);
                let most = u128::from(now_ns - START + passed.tolerance_ns);
                // The burst of a total may be larger by a lease for each processor: at most a sixteenth of it, or a
                // packet.
                let leases = if cell.is_total() {
                    u128::from(processors) * u128::from((passed.tolerance_ns / 16).max(passed.dearest_ns))
                } else {
                    most / SHARE
                };
                prop_assert!(
                    passed.cost_ns <= most + leases + u128::from(passed.dearest_ns),
                    "{:?}: {} ns have passed of {most}", cell, passed.cost_ns
                );
            }
        }
    }
}
