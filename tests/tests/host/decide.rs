//! The verdict: the order of the rules, and what each asks for.

use std::cell::RefCell;

use flood_common::{
    abi::{Settings, list},
    address::Address,
    decide::{Tables, decide},
    lists::Listed,
    meter::{Charge, Price},
    packet::{Packet, Parsed, Part, Vital},
    reason::Reason::{self, *},
};
use flood_userspace::{bpf::limit::set_limits, config::Config};

/// Tables that answer what they are told to, and remember what they were asked.
struct Oracle {
    listed: Listed,
    source: Option<Charge>,
    vital: Option<Charge>,
    asked: RefCell<Vec<&'static str>>,
}

impl Default for Oracle {
    fn default() -> Self {
        Self { listed: Listed::Nothing, source: None, vital: None, asked: RefCell::default() }
    }
}

impl Oracle {
    fn note<T>(&self, question: &'static str, answer: T) -> T {
        self.asked.borrow_mut().push(question);
        answer
    }
}

impl Tables for Oracle {
    fn look_up(&self, _: &Settings, _: Address, _: u64) -> Listed {
        self.note("lists", self.listed)
    }

    fn charge_source(&self, _: &Settings, _: Address, _: u64, _: &Price) -> Charge {
        self.note("source", self.source.expect("the case says what the source is charged"))
    }

    fn charge_vital(&self, _: Vital, _: u64, _: &Price) -> Charge {
        self.note("vital", self.vital.expect("the case says what the budget says"))
    }
}

fn settings(lists: u32) -> Settings {
    let mut settings = Settings { lists, ..Settings::default() };
    let config = Config::default();
    set_limits(&mut settings, &config.source_limit, &config.protected_limits);
    settings
}

fn packet(vital: Option<Vital>, defect: Option<Reason>) -> Parsed {
    Parsed::Packet(Packet {
        source: Address::V4(0xc633_6442),
        length: 60,
        protocol: 6,
        part: Part::Whole,
        ports: None,
        vital,
        defect,
    })
}

/// Why, the packet, the tables, the reason, what was asked in this order.
type Case = (&'static str, Parsed, Oracle, Reason, &'static [&'static str]);

#[test]
fn the_order_of_the_rules_is_the_policy() {
    let plain = || packet(None, None);
    let broken = || packet(None, Some(TransportHeader));
    let vital = || packet(Some(Vital::PathMtu), None);
    let source = |charge| Oracle { source: Some(charge), ..Oracle::default() };
    let cases: [Case; 14] = [
        ("not IP is none of our business", Parsed::NotIp, Oracle::default(), NotIp, &[]),
        ("without a source nothing is asked", Parsed::Broken(IpLength), Oracle::default(), IpLength, &[]),
        ("nothing speaks against it", plain(), source(Charge::Conforming), Conforming, &["lists", "source"]),
        ("beyond the limit", plain(), source(Charge::Exceeding), SourcePackets, &["lists", "source"]),
        ("no room", plain(), source(Charge::Unaccounted), Unaccounted, &["lists", "source"]),
        ("blocked", plain(), Oracle { listed: Listed::Blocked, ..Oracle::default() }, Blocked, &["lists"]),
        (
            "allow wins over block",
            plain(),
            Oracle { listed: Listed::Allowed, ..Oracle::default() },
            Allowed,
            &["lists"],
        ),
        (
            "allow wins over a defect",
            broken(),
            Oracle { listed: Listed::Allowed, ..Oracle::default() },
            Allowed,
            &["lists"],
        ),
        (
            "a defect is found before the block",
            broken(),
            Oracle { listed: Listed::Blocked, ..Oracle::default() },
            TransportHeader,
            &["lists"],
        ),
        (
            "a vital message within its budget is asked nothing else",
            vital(),
            Oracle { listed: Listed::Blocked, vital: Some(Charge::Conforming), ..Oracle::default() },
            Protected,
            &["vital"],
        ),
        (
            "beyond it, it is like any other: blocked",
            vital(),
            Oracle { listed: Listed::Blocked, vital: Some(Charge::Exceeding), ..Oracle::default() },
            Blocked,
            &["vital", "lists"],
        ),
        (
            "allowed",
            vital(),
            Oracle { listed: Listed::Allowed, vital: Some(Charge::Exceeding), ..Oracle::default() },
            Allowed,
            &["vital", "lists"],
        ),
        (
            "or limited",
            vital(),
            Oracle { vital: Some(Charge::Exceeding), source: Some(Charge::Exceeding), ..Oracle::default() },
            SourcePackets,
            &["vital", "lists", "source"],
        ),
        (
            "a budget that cannot be charged protects nothing",
            vital(),
            Oracle {
                vital: Some(Charge::Unaccounted),
                source: Some(Charge::Conforming),
                ..Oracle::default()
            },
            Conforming,
            &["vital", "lists", "source"],
        ),
    ];
    let settings = settings(list::V4);
    for (why, parsed, tables, expected, asked) in cases {
        assert_eq!(decide(&parsed, &settings, 1, &tables), expected, "{why}");
        assert_eq!(*tables.asked.borrow(), asked, "{why}");
    }
}

#[test]
fn an_empty_list_and_an_unset_limit_are_not_asked() {
    let tables = Oracle { source: Some(Charge::Conforming), ..Oracle::default() };
    // The other family's lists have entries.
    let settings = settings(list::V6);
    assert_eq!(decide(&packet(None, None), &settings, 1, &tables), Conforming);
    assert_eq!(*tables.asked.borrow(), ["source"]);

    let tables = Oracle::default();
    assert_eq!(decide(&packet(None, None), &Settings::default(), 1, &tables), Conforming);
    assert!(tables.asked.borrow().is_empty());
}
