//! `/metrics`: the content of a scrape, read from the maps at that moment.
//!
//! Labels are bounded: interfaces, verdicts, reasons and feeds, never an address. Every series exists from the
//! start, so that rates can be computed over its first step.

use std::{
    collections::BTreeMap,
    fmt::{self, Write},
    sync::atomic::AtomicU64,
};

use bytes::Bytes;
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
struct InterfaceName {
    interface: String,
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

/// The media type of OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";

/// A scrape, in both available formats.
#[derive(Clone, Debug)]
pub struct Scrape {
    openmetrics: Bytes,
    text: Bytes,
}

impl Scrape {
    /// Renders a scrape.
    pub fn render(status: &Status, counters: &[(String, InterfaceCounters)]) -> Result<Self, fmt::Error> {
        let openmetrics = render(status, counters)?;
        Ok(Self { text: in_text_format(&openmetrics).into(), openmetrics: openmetrics.into() })
    }

    /// Returns the format that a scraper prefers according to its Accept header, and its content type. Without
    /// OpenMetrics in that header, it is the Prometheus text format, which every scraper reads.
    pub fn negotiated<'a>(&self, accepted: impl Iterator<Item = &'a str>) -> (&'static str, Bytes) {
        let (mut openmetrics, mut text) = (0.0, 0.0);
        for range in accepted.flat_map(|accepted| accepted.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            if media.eq_ignore_ascii_case(OPENMETRICS) {
                openmetrics = f32::max(openmetrics, quality);
            } else if media.eq_ignore_ascii_case("text/plain") {
                text = f32::max(text, quality);
            }
        }
        if openmetrics > 0.0 && openmetrics >= text {
            // OpenMetrics 1.0, section 5.
            ("application/openmetrics-text; version=1.0.0; charset=utf-8", self.openmetrics.clone())
        } else {
            ("text/plain; version=0.0.4; charset=utf-8", self.text.clone())
        }
    }
}

/// Converts to the Prometheus text format, version 0.0.4. There a metric has the name of its samples, and there is
/// no type `info`, no unit, and no end mark.
fn in_text_format(openmetrics: &str) -> String {
    let mut types = BTreeMap::new();
    for line in openmetrics.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            types.insert(name, kind);
        }
    }
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some(what @ ("HELP" | "TYPE")), Some(name), Some(rest)) => {
                let (suffix, kind) = match types.get(name) {
                    Some(&"counter") => ("_total", "counter"),
                    Some(&"info") => ("_info", "gauge"),
                    Some(&"unknown") | None => ("", "untyped"),
                    Some(kind) => ("", *kind),
                };
                let rest = if what == "TYPE" { kind } else { rest };
                _ = writeln!(text, "# {what} {name}{suffix} {rest}");
            }
            (Some("#"), ..) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

/// Returns a scrape as OpenMetrics text.
fn render(status: &Status, counters: &[(String, InterfaceCounters)]) -> Result<String, fmt::Error> {
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
    let lost = Counter::<u64, AtomicU64>::default();
    lost.inc_by(status.log_lines_lost);
    registry.register("log_lines_lost", "Lines of the log that could not be written", lost);
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
    let reattached = Counters::<InterfaceName>::default();
    for interface in &status.interfaces {
        let mode = match interface.attached {
            Attached::Native => "native",
            Attached::Generic => "generic",
            Attached::Nowhere => "none",
        };
        let is_guarded = interface.attached != Attached::Nowhere;
        let name = interface.name.clone();
        set(&attached, &Interface { interface: name.clone(), mode }, u64::from(is_guarded));
        reattached.get_or_create(&InterfaceName { interface: name }).inc_by(interface.reattached);
    }
    registry.register("interface_attached", "1 while the interface is there and guarded", attached);
    registry.register(
        "interface_reattached",
        "How often the filter was attached to the interface again, since it had come off",
        reattached,
    );
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

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "# HELP f_build The daemon.\n# TYPE f_build info\nf_build_info{version=\"1\"} 1\n\
        # HELP f_packets Frames.\n# TYPE f_packets counter\nf_packets_total{reason=\"a # b\"} 3\n\
        # HELP f_at_seconds When.\n# TYPE f_at_seconds gauge\n# UNIT f_at_seconds seconds\nf_at_seconds 0\n# EOF\n";

    #[test]
    fn the_text_format_has_no_more_than_prometheus_knows() {
        let expected = "# HELP f_build_info The daemon.\n# TYPE f_build_info gauge\nf_build_info{version=\"1\"} 1\n\
            # HELP f_packets_total Frames.\n# TYPE f_packets_total counter\nf_packets_total{reason=\"a # b\"} 3\n\
            # HELP f_at_seconds When.\n# TYPE f_at_seconds gauge\nf_at_seconds 0\n";
        assert_eq!(in_text_format(OURS), expected);
    }

    #[test]
    fn a_scraper_gets_openmetrics_only_if_it_asks_for_it() {
        let scrape = Scrape { openmetrics: OURS.into(), text: in_text_format(OURS).into() };
        let prometheus =
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let cases = [
            ("says nothing", vec![], false),
            ("curl", vec!["*/*"], false),
            ("a browser", vec!["text/html,*/*;q=0.8"], false),
            ("Prometheus", vec![prometheus], true),
            ("in two headers", vec!["text/plain;q=0.5", "Application/OpenMetrics-Text"], true),
            ("rather text", vec!["application/openmetrics-text;q=0.1, text/plain"], false),
            ("text alone", vec!["text/plain", "application/openmetrics-text;q=0"], false),
        ];
        for (why, accepted, expected) in cases {
            let (content_type, text) = scrape.negotiated(accepted.into_iter());
            assert_eq!(content_type.starts_with(OPENMETRICS), expected, "{why}");
            assert_eq!(text.ends_with(b"# EOF\n"), expected, "{why}");
        }
    }
}
