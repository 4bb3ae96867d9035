//! `/metrics`: what a scrape finds, read from the maps at that moment.
//!
//! Labels are bounded: interfaces, verdicts, reasons and feeds, never an address. Every series is there from the start,
//! so that rates can be computed over its first step.

use std::{fmt, sync::atomic::AtomicU64};

use flood_common::{
    abi::{Count, InterfaceCounters},
    reason::Reason,
};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, info::Info},
    registry::{Registry, Unit},
};

use crate::{
    config::Mode,
    control::protocol::{Attached, Status},
};

#[derive(EncodeLabelSet, Clone, PartialEq, Eq, Hash, Debug)]
struct Verdict {
    interface: String,
    verdict: &'static str,
    reason: &'static str,
}

#[derive(EncodeLabelSet, Clone, PartialEq, Eq, Hash, Debug)]
struct Interface {
    interface: String,
    mode: &'static str,
}

#[derive(EncodeLabelSet, Clone, PartialEq, Eq, Hash, Debug)]
struct AddressFamily {
    family: &'static str,
}

#[derive(EncodeLabelSet, Clone, PartialEq, Eq, Hash, Debug)]
struct List {
    list: &'static str,
    family: &'static str,
}

#[derive(EncodeLabelSet, Clone, PartialEq, Eq, Hash, Debug)]
struct FeedLabels {
    list: String,
    feed: String,
}

type Counters<L> = Family<L, Counter<u64, AtomicU64>>;
type Gauges<L> = Family<L, Gauge>;

/// The text of a scrape (OpenMetrics).
pub fn render(status: &Status, counters: &[(String, InterfaceCounters)]) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("floodgate");
    let version = vec![("version", status.version.clone())];
    registry.register("build", "The daemon that answers", Info::new(version));
    register_packets(&mut registry, counters);
    register_tables(&mut registry, status);
    register_feeds(&mut registry, status);
    register_state(&mut registry, status);
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn register_packets(registry: &mut Registry, counters: &[(String, InterfaceCounters)]) {
    let packets = Counters::<Verdict>::default();
    let bytes = Counters::<Verdict>::default();
    for (interface, counters) in counters {
        for reason in Reason::ALL {
            let number = reason.number() as usize;
            let add = |verdict, count: Count| {
                let labels = Verdict { interface: interface.clone(), verdict, reason: reason.label() };
                packets.get_or_create(&labels).inc_by(count.packets);
                bytes.get_or_create(&labels).inc_by(count.bytes);
            };
            add(reason.verdict(), counters.done[number]);
            if reason.is_action() {
                add("would_drop", counters.would[number]);
            }
        }
    }
    registry.register("packets", "Frames by verdict and reason", packets);
    registry.register("bytes", "Bytes of whole frames by verdict and reason", bytes);
}

fn register_tables(registry: &mut Registry, status: &Status) {
    let tables = [
        (status.sources, "sources_in_debt", "Sources that have sent more than their rate allows so far"),
        (
            status.destinations,
            "destinations_in_debt",
            "Destinations that were sent more than their rate allows so far",
        ),
    ];
    let slots = Gauges::<AddressFamily>::default();
    for (table, name, help) in tables {
        let in_debt = Gauges::<AddressFamily>::default();
        for (family, used) in [("ipv4", table.ipv4), ("ipv6", table.ipv6)] {
            set(&in_debt, &AddressFamily { family }, used);
            set(&slots, &AddressFamily { family }, table.capacity);
        }
        registry.register(name, help, in_debt);
    }
    registry.register(
        "source_slots",
        "Sources, and as many destinations, that can be in debt at once",
        slots,
    );

    for (name, help, value) in [
        ("solicited_flows", "Flows to mirrors that were asked for", status.solicited.used),
        ("solicited_places", "Flows to mirrors that there is room for", status.solicited.capacity),
    ] {
        let gauge: Gauge = Gauge::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }

    let entries = Gauges::<List>::default();
    for (list, size) in
        [("block", status.blocked), ("allow", status.allowed), ("allow-proven", status.allowed_proven)]
    {
        set(&entries, &List { list, family: "ipv4" }, size.ipv4);
        set(&entries, &List { list, family: "ipv6" }, size.ipv6);
    }
    registry.register("list_entries", "Entries of the lists", entries);
    let used = Gauges::<AddressFamily>::default();
    let places = Gauges::<AddressFamily>::default();
    for (family, table) in [("ipv4", status.list_places.ipv4), ("ipv6", status.list_places.ipv6)] {
        set(&used, &AddressFamily { family }, table.used);
        set(&places, &AddressFamily { family }, table.capacity);
    }
    registry.register("list_places_used", "Places that the lists take in their tables", used);
    registry.register("list_places", "Places that there are for the lists", places);

    let taken = Counter::<u64, AtomicU64>::default();
    taken.inc_by(status.samples.taken);
    registry.register("samples", "Dropped packets that were sampled", taken);
    let lost = Counter::<u64, AtomicU64>::default();
    lost.inc_by(status.samples.lost);
    registry.register("samples_lost", "Samples that the ring had no room for", lost);
}

fn register_feeds(registry: &mut Registry, status: &Status) {
    let last_success = Gauges::<FeedLabels>::default();
    let entries = Gauges::<FeedLabels>::default();
    let left_out = Gauges::<FeedLabels>::default();
    let withheld = Gauges::<FeedLabels>::default();
    let failing = Gauges::<FeedLabels>::default();
    let errors = Counters::<FeedLabels>::default();
    for feed in &status.feeds {
        let labels = FeedLabels { list: feed.list.clone(), feed: feed.name.clone() };
        set(&last_success, &labels, feed.last_success.unwrap_or(0));
        set(&entries, &labels, feed.entries);
        set(&left_out, &labels, feed.left_out);
        set(&withheld, &labels, feed.withheld);
        set(&failing, &labels, u64::from(feed.error.is_some()));
        errors.get_or_create(&labels).inc_by(feed.errors);
    }
    registry.register_with_unit(
        "feed_last_success_timestamp",
        "When the feed was last read or found unchanged, 0 if never",
        Unit::Seconds,
        last_success,
    );
    registry.register("feed_entries", "Entries that the feed carries", entries);
    registry.register("feed_left_out", "Lines and prefixes of the feed that were left out", left_out);
    registry.register(
        "feed_withheld",
        "Prefixes of the feed that are not in force as they are written, since they cover what this host needs",
        withheld,
    );
    registry.register("feed_failing", "1 while the feed cannot be read or is not believed", failing);
    registry.register("feed_errors", "How often the feed could not be read or was not believed", errors);
}

fn register_state(registry: &mut Registry, status: &Status) {
    let attached = Gauges::<Interface>::default();
    for interface in &status.interfaces {
        let mode = match interface.attached {
            Attached::Native => "native",
            Attached::Generic => "generic",
        };
        set(&attached, &Interface { interface: interface.name.clone(), mode }, u64::from(interface.present));
    }
    registry.register("interface_attached", "1 while the interface is there and guarded", attached);
    let enforcing: Gauge = Gauge::default();
    enforcing.set(i64::from(status.mode == Mode::Enforce));
    registry.register("enforcing", "1 in enforce mode, 0 in monitor mode", enforcing);
}

fn set<L>(gauges: &Gauges<L>, labels: &L, value: u64)
where
    L: Clone + std::hash::Hash + Eq,
{
    gauges.get_or_create(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
}
