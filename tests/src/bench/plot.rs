//! The plot: cost against number of sources, the filter against the references, as an SVG without dependencies.
//!
//! Both axes are logarithmic. Colours have enough contrast on white and on black; text follows the reader's colour
//! scheme.

use std::fmt::Write as _;

use super::{
    case::Case,
    family::Family,
    report::{Figure, Report},
};

/// Size of the picture, and the plot area within it: left, top, right, bottom.
const WIDTH: f64 = 800.0;
const HEIGHT: f64 = 440.0;
const AREA: [f64; 4] = [64.0, 56.0, 616.0, 384.0];

/// Minimum distance of two labels at the ends of their lines.
const LINE_HEIGHT: f64 = 17.0;

/// Height of the plot relative to its highest point.
const HEADROOM: f64 = 1.03;

/// Minimum value in nanoseconds, so that logarithms stay non-negative.
const LEAST_NS: f64 = 1.0;

/// The lines, with their colours and dashes.
const LINES: [(Case, &str, &str); 6] = [
    (Case::Parse, "#7f8c8d", ""),
    (Case::Default, "#2f7ed8", ""),
    (Case::SourceLimit, "#1a9e96", ""),
    (Case::BLOCK_LIST_1M, "#8e63ce", ""),
    (Case::LruReference, "#d9822b", "6 4"),
    (Case::LPM_REFERENCE_1M, "#d64541", "6 4"),
];

/// A line: its points as (sources, ns), ascending.
struct Line {
    label: &'static str,
    colour: &'static str,
    dashes: &'static str,
    points: Vec<(u64, f64)>,
}

/// Draws the figures for IPv4 on one core; nothing if there are none.
pub fn render_svg(report: &Report) -> Option<String> {
    let lines: Vec<Line> = LINES
        .into_iter()
        .filter_map(|(case, colour, dashes)| line(&report.measured.cases, case, colour, dashes))
        .collect();
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let most_sources = points().map(|(sources, _)| sources).max()?;
    let most_ns = points().map(|(_, ns)| ns).fold(10.0, f64::max);
    let scale =
        Scale { decades: most_ns.log10() * HEADROOM, doublings: (most_sources as f64).log2().max(1.0) };

    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<style>text {{ fill: #333 }} .grid {{ stroke: #888; \
         stroke-width: 0.5; stroke-opacity: 0.6 }} @media (prefers-color-scheme: dark) {{ text {{ fill: #ddd }} }}</style>\n"
    );
    let [left, top, _, bottom] = AREA;
    let title = "Cost of a packet above a bare XDP_DROP, nanoseconds (IPv4, one core)";
    text(&mut svg, left, top - 32.0, "start", title);
    // The version without the suffix of a distribution or a host.
    let version = report.kernel.split('-').next().unwrap_or_default();
    let machine = format!("{}, Linux {version}, commit {}", report.cpu, report.commit);
    text(&mut svg, left, top - 14.0, "start", &machine);
    grid(&mut svg, &scale, points().map(|(sources, _)| sources).collect());
    text(&mut svg, left, bottom + 42.0, "start", "random sources; dashed: references");
    let mut ends = Vec::new();
    for line in &lines {
        draw(&mut svg, &scale, line);
        if let Some(&(_, ns)) = line.points.last() {
            ends.push((scale.y(ns), line, ns));
        }
    }
    label_ends(&mut svg, ends);
    svg.push_str("</svg>\n");
    Some(svg)
}

fn line(cases: &[Figure], case: Case, colour: &'static str, dashes: &'static str) -> Option<Line> {
    let figures = cases.iter().filter(|figure| {
        (figure.case, figure.family, figure.cores) == (case.label(), Family::Ipv4.label(), 1)
    });
    let mut points: Vec<(u64, f64)> = figures.map(|figure| (figure.sources, figure.ns.median)).collect();
    points.sort_unstable_by_key(|(sources, _)| *sources);
    (!points.is_empty()).then(|| Line { label: case.label(), colour, dashes, points })
}

/// Maps values to positions in the picture.
struct Scale {
    /// Powers of ten from bottom to top, not necessarily whole.
    decades: f64,
    /// Powers of two from left to right.
    doublings: f64,
}

impl Scale {
    fn x(&self, sources: u64) -> f64 {
        let [left, _, right, _] = AREA;
        left + (right - left) * (sources.max(1) as f64).log2() / self.doublings
    }

    fn y(&self, ns: f64) -> f64 {
        let [_, top, _, bottom] = AREA;
        bottom - (bottom - top) * ns.max(LEAST_NS).log10() / self.decades
    }
}

fn grid(svg: &mut String, scale: &Scale, mut sources: Vec<u64>) {
    let [left, top, right, bottom] = AREA;
    let mut rule = |x1: f64, y1: f64, x2: f64, y2: f64| {
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    };
    sources.sort_unstable();
    sources.dedup();
    let values: Vec<f64> = (0..=scale.decades.floor() as i32).map(|decade| 10_f64.powi(decade)).collect();
    for &ns in &values {
        rule(left, scale.y(ns), right, scale.y(ns));
    }
    for &count in &sources {
        rule(scale.x(count), top, scale.x(count), bottom);
    }
    for &ns in &values {
        text(svg, left - 8.0, scale.y(ns) + 4.0, "end", &format!("{ns}"));
    }
    for &count in &sources {
        text(svg, scale.x(count), bottom + 20.0, "middle", &count_text(count));
    }
}

fn draw(svg: &mut String, scale: &Scale, Line { colour, dashes, points, .. }: &Line) {
    let places: Vec<(f64, f64)> =
        points.iter().map(|&(sources, ns)| (scale.x(sources), scale.y(ns))).collect();
    let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let _ = writeln!(
        svg,
        "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"/>",
        path.join(" ")
    );
    for (x, y) in places {
        let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>");
    }
}

/// Labels the lines at their right ends, from the top down, each label below the one before.
fn label_ends(svg: &mut String, mut ends: Vec<(f64, &Line, f64)>) {
    let [_, top, right, _] = AREA;
    ends.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let mut lowest = top - LINE_HEIGHT;
    for (y, Line { label, colour, .. }, ns) in ends {
        let y = y.max(lowest + LINE_HEIGHT);
        lowest = y;
        let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"{colour}\"/>", right + 18.0);
        text(svg, right + 28.0, y + 4.0, "start", &format!("{label}: {ns:.0}"));
    }
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>");
}

/// Formats a number of sources for people.
fn count_text(count: u64) -> String {
    match count {
        0..0x400 => count.to_string(),
        0x400..0x10_0000 => format!("{} Ki", count >> 10),
        _ => format!("{} Mi", count >> 20),
    }
}
