//! Overfull tables: heavy sources do not escape, and light ones are not harmed.
//!
//! The real code with tables in ordinary memory, on a virtual clock.

use fastrand::Rng;
use flood_common::{
    abi::Settings,
    account::{Account, Accounts, By},
    address::Address,
    class::{CELLS, Cell, Class, Scope},
    decide::Cells,
    host::HostTables,
    meter::{Charge, charge_leased},
    place::{MIN_BUCKET_BITS, Seeds},
};
use flood_userspace::{
    bpf::limit::{accounts, rate_limit},
    config::{Config, PacketLimit, RateLimit},
    quantity::{PacketRate, Packets},
};
use std::sync::atomic::AtomicU64;

const SECOND: u64 = 1_000_000_000;
const START: u64 = 1_000 * SECOND;

/// Slots in the table.
const SLOTS: u32 = 8 << MIN_BUCKET_BITS;

/// The limit for each source, packets per second.
const RATE: u64 = 100;

fn settings() -> Settings {
    let mut settings = Settings {
        seeds: Seeds { v4: [0x1f12_3bb5, 0x9e37_79b1, 0x85eb_ca77, 0x27d4_eb2f], ..Seeds::default() },
        masks_v4: [u32::MAX, !0xff],
        masks_v6: [u64::MAX, !0xffff],
        ..Settings::default()
    };
    let limit = PacketLimit { rate: PacketRate(RATE), burst: Packets(RATE) };
    let mut limits = settings.limits;
    limits[Cell::new(Scope::Source, Class::Any).number()] =
        rate_limit(&RateLimit { packets: Some(limit), bits: None });
    settings.set_limits(limits);
    settings
}

struct Crowd {
    settings: Settings,
    tables: HostTables,
}

impl Crowd {
    fn new() -> Self {
        Self { settings: settings(), tables: HostTables::new(MIN_BUCKET_BITS) }
    }

    fn send(&self, source: u32, now_ns: u64) -> Charge {
        let cell = Cell::new(Scope::Source, Class::Any);
        let price = self.settings.limits[cell.number()].price(60);
        self.tables.charge_network(
            &self.settings,
            cell,
            Address::V4(source).source_network(&self.settings.translators),
            now_ns,
            &price,
        )
    }

    /// Puts this many sources deep into debt.
    fn fill(&self, debtors: u32, now_ns: u64) {
        for source in 0..debtors {
            for _ in 0..RATE {
                let _ = self.send(source, now_ns);
            }
        }
    }
}

/// Why, debtors in the table, and the range of the limit's share that a heavy source may get.
type Case = (&'static str, u32, f64, f64);

#[test]
fn in_a_full_table_a_heavy_source_is_held_and_a_light_one_loses_nothing() {
    // The random numbers of the host tables never admit, so a full bucket stays closed: the worst case.
    let cases: [Case; 3] = [
        ("an empty table", 0, 0.97, 1.03),
        ("a tenth full: 52,000 debtors", SLOTS / 10, 0.97, 1.03),
        ("a third full: 175,000 debtors", SLOTS / 3, 0.97, 1.10),
    ];
    for (why, debtors, least, most) in cases {
        let crowd = Crowd::new();
        crowd.fill(debtors, START);
        let mut random = Rng::with_seed(u64::from(debtors));
        // 500 heavy sources at ten times the limit and 500 light ones at half the limit, for a second.
        let (heavy, light) = (0xc000_0000_u32, 0xd000_0000_u32);
        let mut passed = 0_u64;
        for step in 0..10 * RATE {
            let now_ns = START + step * SECOND / (10 * RATE);
            // Keeps the debtors in debt.
            for _ in 0..debtors / 2_000 {
                let _ = crowd.send(random.u32(..debtors), now_ns);
            }
            for source in 0..500 {
                passed += u64::from(crowd.send(heavy + source, now_ns) != Charge::Exceeding);
                if step % 20 == 0 {
                    let charge = crowd.send(light + source, now_ns);
                    assert_ne!(charge, Charge::Exceeding, "{why}: a light source lost a packet");
                }
            }
        }
        // A second at the rate, and the burst.
        let share = passed as f64 / (500 * 2 * RATE) as f64;
        assert!((least..=most).contains(&share), "{why}: heavy sources got {share:.3} of their limit");
    }
}

#[test]
fn beyond_all_its_slots_a_table_passes_newcomers_and_keeps_who_is_in_it() {
    let crowd = Crowd::new();
    crowd.fill(3 * SLOTS, START);
    // The sources that came first are in the table, and are limited.
    let held = (0..1_000).filter(|source| crowd.send(*source, START) == Charge::Exceeding).count();
    assert_eq!(held, 1_000);
    let newcomers = (0..1_000).map(|n| crowd.send(0xf000_0000 + n, START));
    let unaccounted = newcomers.filter(|charge| *charge == Charge::Unaccounted).count();
    assert!(unaccounted > 990, "{unaccounted} of 1000 newcomers found no slot");
    // Debts end on their own.
    assert_eq!(crowd.send(0xf000_0000, START + 3 * SECOND), Charge::Conforming);
}

/// A source that sends enough of every class would otherwise have no slot left for another class.
#[test]
fn a_source_in_debt_for_everything_has_a_place_for_all_of_it() {
    let config = Config::default();
    let limits = config.limits.into_values().map(|limit| limit.limit).next().expect("there are defaults");
    let mut settings = Settings { accounts: accounts(&config.proof), ..settings() };
    settings.set_limits([rate_limit(&limits); CELLS]);
    let tables = HostTables::new(MIN_BUCKET_BITS);
    // The first address of a network also represents the network itself.
    let counted = settings.source(Address::V4(0xc633_6400));
    for class in Class::ALL {
        for scope in [Scope::Source, Scope::SourcePrefix] {
            let cell = Cell::new(scope, class);
            let price = settings.limits[cell.number()].price(60);
            let charge =
                || tables.charge_network(&settings, cell, counted, START, &price) != Charge::Exceeding;
            let passed = (0..100_000).take_while(|_| charge()).count();
            assert!(passed < 100_000, "no end of {scope:?} {class:?}");
        }
    }
    for account in [Account::Proven, Account::Answered, Account::AnsweredNetwork, Account::Errors] {
        let price = settings.accounts[account as usize].price(60);
        let by = if account == Account::AnsweredNetwork { By::network(counted) } else { By::source(counted) };
        let charge = || tables.charge_account(&settings, account, by, START, &price) != Charge::Exceeding;
        let passed = (0..4_000_000).take_while(|_| charge()).count();
        assert!(passed < 4_000_000, "no end of {account:?}");
    }
}

#[test]
fn a_total_lets_through_its_rate_and_its_burst_and_a_lease_for_each_processor() {
    const PROCESSORS: u64 = 4;
    for (rate, burst) in [(1_000, 1_000), (100_000, 50_000), (10, 20), (300_000, 600_000)] {
        let limit = PacketLimit { rate: PacketRate(rate), burst: Packets(burst) };
        let price = rate_limit(&RateLimit { packets: Some(limit), bits: None }).price(60);
        let word = AtomicU64::default();
        let mut leases = [0_u64; PROCESSORS as usize];
        let mut random = Rng::with_seed(rate);
        let mut passed = 0_u64;
        let seconds = 5;
        // Twice the rate and more, on random processors.
        let steps = 2 * seconds * rate + 2 * burst;
        for step in 1..=steps {
            let now_ns = START + step * seconds * SECOND / steps;
            let lease = &mut leases[random.usize(..leases.len())];
            passed += u64::from(charge_leased(&word, lease, now_ns, &price) == Charge::Conforming);
        }
        let allowed = seconds * rate + burst;
        let lease = (burst / 16).clamp(1, 32);
        assert!(passed <= allowed + (PROCESSORS + 1) * lease, "{rate}/s: {passed} of {allowed}");
        assert!(passed + (PROCESSORS + 1) * lease >= allowed, "{rate}/s: only {passed} of {allowed}");
    }
}
