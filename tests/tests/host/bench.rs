//! What the bench computes from its figures: ratios, report, plot. The figures here are made up; the measuring itself
//! is tested in the end-to-end suite.

use floodgate_tests::{
    bench::{
        Bound, Case, Core, Effort, EndToEnd, Family, Figure, Guard, Measured, Ratio, Reach, Report,
        Selection, Spread, TARGETS, Unit, VectorRow, Visit, plot::render_svg, quantile,
    },
    processor::parse_schedstat,
};
use proptest::prelude::*;
use serde_json::Value;

const MANY: u64 = 1 << 24;

/// A figure whose rounds are all equal.
fn sure(value: f64) -> Spread {
    Spread::of(vec![value; 5])
}

fn figure(case: Case, family: Family, sources: u64, cores: usize, ns: f64) -> Figure {
    let (case, family) = (case.label(), family.label());
    Figure { case, family, sources, cores, ns: sure(ns), floor_ns: sure(10.0) }
}

fn row(guard: Guard, core_ns: f64) -> EndToEnd {
    let core = Core { ns: sure(core_ns), mpps: 1e3 / core_ns, offered_mpps: 9.0, received_mpps: 8.0 };
    let visit = Visit {
        load_percent: 90,
        offered_mpps: 7.0,
        received_mpps: 6.9,
        pages_per_second: sure(300.0),
        median_ms: 11.0,
        p99_ms: 20.0,
        failed: 0,
    };
    let visits = if guard.admits_visitor() { vec![visit] } else { Vec::new() };
    EndToEnd {
        filter: guard.label(),
        sources: MANY,
        core: Some(core),
        shared_core_ns: Some(sure(200.0)),
        visits,
    }
}

fn vector(vector: &'static str, cpu_ns: [f64; 2], pages: [f64; 2]) -> VectorRow {
    let [cpu_ns, ideal_cpu_ns] = cpu_ns.map(|ns| Some(sure(ns)));
    let [requests_per_second, ideal_requests_per_second] = pages.map(sure);
    VectorRow {
        vector,
        flood_mpps: 0.4,
        passed: 0.0,
        mitigated_ms: Some(3.0),
        cpu_ns,
        ideal_cpu_ns,
        requests_per_second,
        failed: 0,
        ideal_requests_per_second,
        ideal_flood_mpps: 0.4,
    }
}

/// Figures for which every ratio is a round number.
fn complete() -> Measured {
    let (v4, v6) = (Family::Ipv4, Family::Ipv6);
    let cases = vec![
        figure(Case::Default, v4, 1, 1, 20.0),
        figure(Case::Default, v4, MANY, 1, 25.0),
        figure(Case::SourceLimit, v4, MANY, 1, 40.0),
        figure(Case::LruReference, v4, MANY, 1, 1_000.0),
        figure(Case::BLOCK_LIST_1K, v4, MANY, 1, 33.0),
        figure(Case::BLOCK_LIST_1M, v4, MANY, 1, 30.0),
        figure(Case::LPM_REFERENCE_1M, v4, MANY, 1, 900.0),
        figure(Case::BLOCK_LIST_100K, v6, MANY, 1, 70.0),
        figure(Case::EveryLength(Reach::Within), v6, MANY, 1, 140.0),
        figure(Case::Exceeding, v4, 1, 1, 30.0),
        figure(Case::Exceeding, v4, 1, 2, 40.0),
        figure(Case::Blocked, v4, MANY, 1, 28.0),
        figure(Case::Blocked, v4, MANY, 2, 28.0),
    ];
    let e2e = vec![
        row(Guard::Floodgate, 100.0),
        row(Guard::XdpDrop, 85.0),
        row(Guard::NftMeter, 1_200.0),
        row(Guard::XdpFilter, 150.0),
    ];
    let vectors = vec![
        vector("SYN", [500.0, 300.0], [285.0, 300.0]),
        vector("ACK", [400.0, 300.0], [288.0, 300.0]),
        vector("RST", [400.0, 300.0], [291.0, 300.0]),
    ];
    Measured { cases, e2e, vectors, ..Measured::default() }
}

/// The ratios of [`complete`].
const RATIOS: [(&str, f64); 15] = [
    ("core_vs_xdp_drop_16m", 0.85),
    ("core_vs_nft_meter_16m", 12.0),
    ("core_vs_xdp_filter_16m", 1.5),
    ("default_16m", 25.0),
    ("vs_lru_hash_16m", 25.0),
    ("vs_lpm_1m", 30.0),
    ("growth_1_to_16m", 1.25),
    ("blocked_16m", 28.0),
    ("block_list_1k_16m", 33.0),
    ("block_list_1m_16m", 30.0),
    ("ipv6_block_list_100k_16m", 70.0),
    ("ipv6_every_length_16m", 140.0),
    ("syn_answered_ns", 200.0),
    ("visitor_vs_ideal", 0.96),
    // 1.6 for one source: twice 30 + 10, over 40 + 10; and 2 for many.
    ("two_core_scaling", 1.6),
];

fn report(measured: Measured) -> Report {
    Report::new(measured).expect("the kernel tells its release")
}

#[test]
fn every_ratio_is_what_its_name_says() {
    let report = report(complete());
    assert_eq!(report.ratios.len(), TARGETS.len());
    for (key, expected) in RATIOS {
        let ratio = report.ratios[key].value.unwrap();
        assert!((ratio - expected).abs() < 1e-9, "{key}: {ratio}, not {expected}");
    }
    assert_eq!(report.missed(), ["two_core_scaling is 1.60 (1.60 to 1.60), and should be at least 1.9"]);
    assert_eq!(report.not_measured(), [""; 0]);
}

#[test]
fn a_ratio_needs_all_its_parts() {
    let without = |change: &dyn Fn(&mut Measured)| {
        let mut measured = complete();
        change(&mut measured);
        report(measured).not_measured()
    };
    let all = complete();
    for index in 0..all.cases.len() {
        let missing = without(&|measured| drop(measured.cases.remove(index)));
        assert!(!missing.is_empty(), "without {:?}", all.cases[index]);
    }
    for index in 0..all.e2e.len() {
        let missing = without(&|measured| drop(measured.e2e.remove(index)));
        assert!(!missing.is_empty(), "without {:?}", all.e2e[index]);
        assert!(missing.iter().all(|key| key.starts_with("core_")), "{missing:?}");
    }
    assert_eq!(without(&|measured| measured.vectors.clear()), ["syn_answered_ns", "visitor_vs_ideal"]);
    let no_core = |measured: &mut Measured| measured.e2e.iter_mut().for_each(|row| row.core = None);
    assert_eq!(without(&no_core).len(), 3, "a machine of one core");
}

#[test]
fn figures_that_are_not_comparable_make_no_ratio() {
    type Change = fn(&mut Measured);
    let cases: [(&str, Change, &[&str]); 4] = [
        ("noise made a cost negative", |measured| measured.cases[0].ns = sure(-1.0), &["growth_1_to_16m"]),
        (
            "nothing came through",
            |measured| measured.e2e[2].core.as_mut().unwrap().ns = sure(0.0),
            &["core_vs_nft_meter_16m"],
        ),
        (
            "the visitor behind Floodgate had less of a flood",
            |measured| measured.vectors.iter_mut().for_each(|row| row.flood_mpps = 0.3),
            &["visitor_vs_ideal"],
        ),
        ("IPv6 is not IPv4", |measured| measured.cases[6].family = Family::Ipv6.label(), &["vs_lpm_1m"]),
    ];
    for (why, change, expected) in cases {
        let mut measured = complete();
        change(&mut measured);
        assert_eq!(report(measured).not_measured(), expected, "{why}");
    }
}

#[test]
fn rounds_are_compared_with_the_same_round() {
    // The machine was half as fast in the second round, and twice as fast in the third.
    let (one, other) = (Spread::of(vec![30.0, 60.0, 15.0]), Spread::of(vec![10.0, 20.0, 5.0]));
    let ratio = one.over(&other).unwrap();
    assert_eq!((ratio.median, ratio.quartiles), (3.0, [3.0, 3.0]), "not what the medians' spread would say");
    assert_eq!(one.above(&other).rounds, [20.0, 40.0, 10.0]);
    let noisy = Spread::of(vec![10.0, -1.0, 5.0]);
    assert_eq!(one.over(&noisy).unwrap().rounds, [3.0, 3.0], "a round that came to nothing is left out");
    assert_eq!(one.over(&Spread::of(vec![-1.0, -2.0, 5.0])), None, "one that mostly did is no figure");
}

#[test]
fn a_ratio_whose_rounds_lie_on_both_sides_of_1_tells_no_difference() {
    let around_one = [0.9, 0.98, 1.0, 1.02, 1.1];
    let cases: [(&str, Unit, &[f64], Option<f64>); 8] = [
        ("as much as what it is compared with", Unit::Times, &around_one, None),
        ("more", Unit::Times, &[1.4, 1.5, 1.6, 1.7, 1.8], Some(1.6)),
        ("less", Unit::Times, &[0.4, 0.5, 0.6, 0.7, 0.8], Some(0.6)),
        (
            "one of five says otherwise, as one in six times by chance",
            Unit::Times,
            &[1.8, 1.5, 1.6, 0.7, 1.7],
            None,
        ),
        ("one of nine may", Unit::Times, &[1.4, 1.4, 1.5, 1.5, 1.6, 1.7, 1.8, 1.9, 0.7], Some(1.5)),
        ("four rounds are too few", Unit::Times, &[1.5, 1.6, 1.7, 1.8], None),
        ("nanoseconds differ from 0", Unit::Nanoseconds, &around_one, Some(1.0)),
        ("or do not", Unit::Nanoseconds, &[-3.0, -1.0, 0.0, 1.0, 3.0], None),
    ];
    for (why, unit, rounds, expected) in cases {
        let ratio = Ratio::of(&Spread::of(rounds.to_vec()), unit, Bound::AtMost(30.0));
        let says_so = ratio.to_string().starts_with("no difference told");
        assert_eq!((ratio.value, says_so), (expected, expected.is_none()), "{why}: {ratio}");
    }
}

#[test]
fn a_promise_is_kept_by_what_is_told_or_by_two_that_are_the_same() {
    let (same, less, more) =
        ([0.8, 0.9, 1.0, 1.1, 1.2], [0.4, 0.5, 0.6, 0.7, 0.8], [1.4, 1.5, 1.6, 1.7, 1.8]);
    let cases = [
        ("as good as the other", same, Bound::AtLeast(0.95), true),
        ("not better", same, Bound::AtLeast(1.3), false),
        ("not dearer", same, Bound::AtMost(1.3), true),
        ("better", more, Bound::AtLeast(1.3), true),
        ("dearer", more, Bound::AtMost(1.3), false),
        ("worse", less, Bound::AtLeast(0.95), false),
        ("too noisy to tell", [0.4, 0.5, 0.7, 0.9, 1.01], Bound::AtLeast(0.95), false),
    ];
    for (why, rounds, bound, reached) in cases {
        let ratio = Ratio::of(&Spread::of(rounds.to_vec()), Unit::Times, bound);
        assert_eq!(ratio.reached, reached, "{why}: {ratio}, {bound}");
    }
}

#[test]
fn the_table_and_the_json_refuse_a_ratio_that_tells_nothing() {
    let mut measured = complete();
    measured.e2e[1].core.as_mut().unwrap().ns = Spread::of(vec![70.0, 80.0, 100.0, 120.0, 130.0]);
    let report = report(measured);
    let line = "core_vs_xdp_drop_16m      no difference told (0.80 to 1.20)           at least 0.8: reached";
    assert!(report.table().contains(line), "{}", report.table());
    let json = serde_json::to_value(&report).unwrap();
    let expected = r#"{"value":null,"quartiles":[0.8,1.2],"reached":true}"#;
    assert_eq!(json["ratios"]["core_vs_xdp_drop_16m"], serde_json::from_str::<Value>(expected).unwrap());
    assert_eq!(report.missed().len(), 1, "what is as good as the other does not miss 0.8");
}

#[test]
fn how_long_a_thread_has_run_is_the_first_number() {
    assert_eq!(parse_schedstat("123456789 42 7\n").unwrap().as_nanos(), 123_456_789);
    assert_eq!(parse_schedstat(""), None);
    assert_eq!(parse_schedstat("running 42 7"), None);
}

#[test]
fn a_table_goes_between_its_marks() {
    let report = report(complete());
    let page = "before\n<!-- bench: lists -->\nold\n<!-- end -->\nafter\n<!-- bench: e2e -->\n<!-- end -->\n";
    let put = report.put(page, "lists", "| new |\n").unwrap();
    let (before, rest) = put.split_once("<!-- bench: lists -->\n").unwrap();
    let (table, after) = rest.split_once("<!-- end -->\n").unwrap();
    assert_eq!((before, after), ("before\n", "after\n<!-- bench: e2e -->\n<!-- end -->\n"));
    assert!(table.ends_with(".\n\n| new |\n") && !table.contains("old"), "{table}");
    assert!(report.put(page, "vectors", "").unwrap_err().to_string().contains("<!-- bench: vectors -->"));
}

#[test]
fn what_was_not_measured_whole_is_not_recorded() {
    let folder = tempfile::tempdir().unwrap();
    assert!(report(Measured::default()).record(folder.path()).is_err());
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    let sections = ["e2e", "vectors", "ratios"].map(|name| format!("<!-- bench: {name} -->\n<!-- end -->\n"));
    std::fs::write(folder.path().join("docs/bench.md"), sections.concat()).unwrap();
    assert_eq!(
        report(complete()).record(folder.path()).unwrap(),
        ["vectors", "ratios"],
        "some filters are missing"
    );
    let mut measured = complete();
    measured.e2e = Guard::ALL.map(|guard| row(guard, 100.0)).to_vec();
    assert_eq!(report(measured).record(folder.path()).unwrap(), ["e2e", "vectors", "ratios"]);
    let page = std::fs::read_to_string(folder.path().join("docs/bench.md")).unwrap();
    assert!(page.contains("| floodgate | 16777216 | 100 (100 to 100) | 10.00 | 9.00 | 8.00 |"), "{page}");
    assert!(page.contains("| `two_core_scaling` | at least 1.9 | 1.60 (1.60 to 1.60) | missed |"), "{page}");
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
    assert_eq!(keys(&json), "cases commit cpu e2e hosts kernel lists memory ratios vectors");
    assert_eq!(keys(&json["cases"][0]), "case cores family floor_ns ns sources");
    assert_eq!(keys(&json["cases"][0]["ns"]), "median quartiles");
    assert_eq!(keys(&json["e2e"][0]), "core filter shared_core_ns sources visits");
    assert_eq!(keys(&json["e2e"][0]["core"]), "mpps ns offered_mpps received_mpps");
    assert_eq!(
        keys(&json["e2e"][0]["visits"][0]),
        "failed load_percent median_ms offered_mpps p99_ms pages_per_second received_mpps"
    );
    assert_eq!(json["e2e"][1]["visits"].as_array().unwrap().len(), 0, "no visitor passes XDP_DROP");
    assert_eq!(json["ratios"].as_object().unwrap().len(), RATIOS.len());
    assert_eq!(keys(&json["ratios"]["vs_lpm_1m"]), "quartiles reached value");
    assert_eq!(json["ratios"]["vs_lpm_1m"]["value"], 30.0);
}

#[test]
fn the_table_has_a_line_for_each_figure_and_a_verdict_for_each_ratio() {
    let report = report(complete());
    let table = report.table();
    for figure in &report.measured.cases {
        assert!(table.contains(&figure.to_string()), "{figure}\n{table}");
    }
    for row in &report.measured.e2e {
        assert!(table.contains(&row.to_string()), "{row}\n{table}");
    }
    let verdicts = |verdict: &str| table.lines().filter(|line| line.ends_with(verdict)).count();
    assert_eq!((verdicts(": reached"), verdicts(": missed")), (14, 1), "{table}");
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
            &[&all_cases[..], &["ipv4", "ipv6", "e2e", "vectors", "lists", "scaling"]].concat(),
            true,
        ),
        ("floods of each kind alone have no cases", &["vectors"], &["vectors", "e2e"], false),
    ];
    for (why, one, other, expected) in cases {
        assert_eq!(same(one, other), expected, "{why}");
    }
    let error = Selection::parse(&["pars".into()], Effort::FULL).unwrap_err().to_string();
    assert!(error.starts_with("pars is neither a case (floor, parse, "), "{error}");
    let everything = Selection::parse(&[], Effort::FULL).unwrap();
    let names = |name: &str| everything.clone().with_filters(&[name.to_owned()]);
    assert!(names("xdp drop").is_ok_and(|selection| selection != everything));
    assert!(
        names("xdp-drop")
            .unwrap_err()
            .to_string()
            .starts_with("xdp-drop is none of the filters: no filter, ")
    );
}

#[test]
fn the_plot_is_well_formed_and_names_its_lines() {
    let mut report = report(complete());
    report.cpu = "A & B <C>".into();
    let svg = render_svg(&report).unwrap();
    check_xml(&svg).unwrap_or_else(|problem| panic!("{problem}\n{svg}"));
    assert_eq!(svg.matches("<polyline").count(), 5, "parse was not measured");
    for label in ["default: 25", "source limit: 40", "block list 1M: 30", "lru reference: 1000", "16 Mi"] {
        assert!(svg.contains(label), "no {label}\n{svg}");
    }
    report.measured.cases.clear();
    assert_eq!(render_svg(&report), None, "there is nothing to plot");
}

/// Checks that every element is closed in the right place, text is escaped, and nothing is beside the root: all of
/// XML that the plot uses.
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
