//! What the bench makes of its figures: ratios, report, plot. The figures here are invented; the measuring itself is
//! tested in the end-to-end suite.

use floodgate_tests::bench::{
    Bound, Case, Effort, EndToEnd, Family, Figure, Guard, Report, Selection, TARGETS, Visitor,
    plot::render_svg, quantile,
};
use proptest::prelude::*;
use serde_json::Value;

const MANY: u64 = 1 << 24;

fn figure(case: Case, sources: u64, cores: usize, ns: f64) -> Figure {
    let family = Family::Ipv4.label();
    Figure { case: case.label(), family, sources, cores, ns, floor_ns: 10.0, ns_quartiles: [ns, ns] }
}

fn row(guard: Guard, mpps: f64, visitor: Option<(f64, f64)>) -> EndToEnd {
    let visitor = visitor.map(|(flood_mpps, requests_per_second)| Visitor {
        flood_mpps,
        requests_per_second,
        p99_ms: 2.5,
    });
    EndToEnd { filter: guard.label(), sources: MANY, mpps, mpps_quartiles: [mpps, mpps], visitor }
}

/// Figures of which every ratio is a round number.
fn complete() -> (Vec<Figure>, Vec<EndToEnd>) {
    let cases = vec![
        figure(Case::Default, 1, 1, 20.0),
        figure(Case::Default, MANY, 1, 50.0),
        figure(Case::SourceLimit, MANY, 1, 40.0),
        figure(Case::LruReference, MANY, 1, 600.0),
        figure(Case::BLOCK_LIST_1M, MANY, 1, 30.0),
        figure(Case::LPM_REFERENCE_1M, MANY, 1, 900.0),
        figure(Case::Exceeding, 1, 1, 30.0),
        figure(Case::Exceeding, 1, 2, 40.0),
        figure(Case::Blocked, MANY, 1, 50.0),
        figure(Case::Blocked, MANY, 2, 50.0),
    ];
    let rows = vec![
        row(Guard::Floodgate, 8.0, Some((0.5, 950.0))),
        row(Guard::XdpDrop, 10.0, None),
        row(Guard::Ideal, 9.0, Some((0.5, 1_000.0))),
        row(Guard::NftMeter, 0.5, Some((0.5, 900.0))),
    ];
    (cases, rows)
}

/// The ratios of [`complete`].
const RATIOS: [(&str, f64); 7] = [
    ("growth_1_to_16m", 2.5),
    ("vs_lru_hash_16m", 15.0),
    ("vs_lpm_1m", 30.0),
    ("e2e_vs_xdp_drop_16m", 0.8),
    ("e2e_vs_nft_meter_16m", 16.0),
    ("visitor_vs_xdp_drop", 0.95),
    // 1.6 for one source: twice 30 + 10, over 40 + 10; and 2 for many.
    ("two_core_scaling", 1.6),
];

fn report((cases, rows): (Vec<Figure>, Vec<EndToEnd>)) -> Report {
    Report::new(cases, rows, Vec::new(), Vec::new(), Vec::new()).expect("the kernel tells its release")
}

#[test]
fn every_ratio_is_what_its_name_says() {
    let report = report(complete());
    assert_eq!(report.ratios.len(), TARGETS.len());
    for (key, expected) in RATIOS {
        let ratio = report.ratios[key];
        assert!((ratio - expected).abs() < 1e-9, "{key}: {ratio}, not {expected}");
    }
    assert_eq!(report.missed(), ["two_core_scaling is 1.60, and should be at least 1.7"]);
    assert_eq!(report.not_measured(), [""; 0]);
}

#[test]
fn a_ratio_needs_all_its_parts() {
    let (cases, rows) = complete();
    for index in 0..cases.len() {
        let mut fewer = cases.clone();
        let lost = fewer.remove(index);
        assert_eq!(report((fewer, rows.clone())).not_measured().len(), 1, "without {lost:?}");
    }
    for index in 0..rows.len() {
        let mut fewer = rows.clone();
        let lost = fewer.remove(index);
        let missing = report((cases.clone(), fewer)).not_measured();
        assert!(!missing.is_empty() && missing.iter().all(|key| key.contains('_')), "without {lost:?}");
        assert!(
            missing.iter().all(|key| key.starts_with("e2e") || key.starts_with("visitor")),
            "{missing:?}"
        );
    }
}

#[test]
fn figures_that_are_not_comparable_make_no_ratio() {
    let change_of = |change: fn(&mut Vec<Figure>, &mut Vec<EndToEnd>)| {
        let (mut cases, mut rows) = complete();
        change(&mut cases, &mut rows);
        report((cases, rows)).not_measured()
    };
    type Change = fn(&mut Vec<Figure>, &mut Vec<EndToEnd>);
    let cases: [(&str, Change, &[&str]); 4] = [
        ("noise made a cost negative", |cases, _| cases[0].ns = -1.0, &["growth_1_to_16m"]),
        ("nothing came through", |_, rows| rows[3].mpps = 0.0, &["e2e_vs_nft_meter_16m"]),
        (
            "the visitor behind Floodgate had less of a flood",
            |_, rows| rows[0] = row(Guard::Floodgate, 8.0, Some((0.4, 950.0))),
            &["visitor_vs_xdp_drop"],
        ),
        ("IPv6 is not IPv4", |cases, _| cases[5].family = Family::Ipv6.label(), &["vs_lpm_1m"]),
    ];
    for (why, change, expected) in cases {
        assert_eq!(change_of(change), expected, "{why}");
    }
}

#[test]
fn a_bound_holds_on_its_own_side() {
    let cases = [
        (Bound::AtMost(3.0), 3.0, true),
        (Bound::AtMost(3.0), 3.1, false),
        (Bound::AtLeast(0.7), 0.7, true),
        (Bound::AtLeast(0.7), 0.6, false),
    ];
    for (bound, ratio, expected) in cases {
        assert_eq!(bound.holds(ratio), expected, "{ratio}, {bound}");
    }
}

#[test]
fn the_json_has_the_keys_that_others_read() {
    let json = serde_json::to_value(report(complete())).unwrap();
    let keys = |value: &Value| {
        let mut keys: Vec<String> = value.as_object().unwrap().keys().cloned().collect();
        keys.sort();
        keys.join(" ")
    };
    assert_eq!(keys(&json), "cases commit cpu e2e hosts kernel lists ratios vectors");
    assert_eq!(keys(&json["cases"][0]), "case cores family floor_ns ns ns_quartiles sources");
    assert_eq!(
        keys(&json["e2e"][0]),
        "filter flood_mpps mpps mpps_quartiles sources visitor_p99_ms visitor_requests_per_second"
    );
    assert_eq!(keys(&json["e2e"][1]), "filter mpps mpps_quartiles sources", "no visitor passes XDP_DROP");
    assert_eq!(json["ratios"].as_object().unwrap().len(), RATIOS.len());
    assert_eq!(json["ratios"]["vs_lpm_1m"], 30.0);
}

#[test]
fn the_table_has_a_line_for_each_figure_and_a_verdict_for_each_ratio() {
    let report = report(complete());
    let table = report.table();
    for figure in &report.cases {
        assert!(table.contains(&figure.to_string()), "{figure}\n{table}");
    }
    for row in &report.e2e {
        assert!(table.contains(&row.to_string()), "{row}\n{table}");
    }
    let verdicts = |verdict: &str| table.lines().filter(|line| line.ends_with(verdict)).count();
    assert_eq!((verdicts(": reached"), verdicts(": missed")), (6, 1), "{table}");
}

#[test]
fn words_select_what_is_measured() {
    let same = |one: &[&str], other: &[&str]| {
        let [one, other] = [one, other].map(|words| {
            Selection::parse(&words.iter().map(ToString::to_string).collect::<Vec<_>>(), Effort::FULL)
                .unwrap()
        });
        one == other
    };
    let all_cases = Case::ALL.map(Case::label);
    let cases: [(&str, &[&str], &[&str], bool); 7] = [
        ("one family is not both", &["ipv4"], &["ipv4", "ipv6"], false),
        ("every case is as good as none", &[&all_cases[..], &["ipv4"]].concat(), &["ipv4"], true),
        ("a case goes without the end-to-end part", &["parse"], &["parse", "e2e"], false),
        ("a family does, too", &["ipv4"], &["ipv4", "e2e"], false),
        ("the end-to-end part alone has no cases", &["e2e"], &[], false),
        (
            "nothing is everything",
            &[],
            &[&all_cases[..], &["ipv4", "ipv6", "e2e", "vectors", "lists"]].concat(),
            true,
        ),
        ("floods of each kind alone have no cases", &["vectors"], &["vectors", "e2e"], false),
    ];
    for (why, one, other, expected) in cases {
        assert_eq!(same(one, other), expected, "{why}");
    }
    let error = Selection::parse(&["pars".into()], Effort::FULL).unwrap_err().to_string();
    assert!(error.starts_with("pars is neither a case (floor, parse, "), "{error}");
}

#[test]
fn the_plot_is_well_formed_and_names_its_lines() {
    let mut report = report(complete());
    report.cpu = "A & B <C>".into();
    let svg = render_svg(&report).unwrap();
    check_xml(&svg).unwrap_or_else(|problem| panic!("{problem}\n{svg}"));
    assert_eq!(svg.matches("<polyline").count(), 5, "parse was not measured");
    for label in ["default: 50", "source limit: 40", "block list 1M: 30", "lru reference: 600", "16 Mi"] {
        assert!(svg.contains(label), "no {label}\n{svg}");
    }
    report.cases.clear();
    assert_eq!(render_svg(&report), None, "there is nothing to plot");
}

/// Whether every element is closed where it should be, text is escaped, and nothing is beside the root: all of XML
/// that the plot uses.
fn check_xml(text: &str) -> Result<(), String> {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        let entities = before.split('&').skip(1);
        let escaped = entities
            .into_iter()
            .all(|entity| ["amp;", "lt;", "gt;"].iter().any(|name| entity.starts_with(name)));
        if before.contains('>') || !escaped {
            return Err(format!("text that is not escaped: {before:?}"));
        }
        let (tag, after) = after.split_once('>').ok_or("a tag without an end")?;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
        } else if tag.matches('"').count() % 2 != 0 || tag.contains('<') {
            return Err(format!("a broken tag: {tag}"));
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap_or_default());
        }
        rest = after;
        if open.is_empty() && !rest.trim().is_empty() {
            return Err(format!("beside the root: {rest:?}"));
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("never closed: {open:?}")) }
}

proptest! {
    #[test]
    fn a_quantile_has_its_share_of_the_values_below_it(
        values in prop::collection::vec(-1e6..1e6_f64, 1..200),
        share in 0.01..1.0_f64,
    ) {
        let found = quantile(values.clone(), share);
        let not_above = values.iter().filter(|value| **value <= found).count() as f64;
        let below = values.iter().filter(|value| **value < found).count() as f64;
        let wanted = share * values.len() as f64;
        prop_assert!(values.contains(&found));
        prop_assert!(not_above >= wanted && below < wanted, "{found}: {below} below, {not_above} not above");
    }
}
