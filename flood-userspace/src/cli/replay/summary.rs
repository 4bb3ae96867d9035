//! What a replay says at its end.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    io::{self, Write},
    net::IpAddr,
};

use flood_common::{packet::Packet, reason::Reason, wire::protocol};
use serde::Serialize;

use crate::{
    config::CellName,
    replay::{Survey, Verdict},
};

use super::words;

/// How many sources, and how many ports, are counted at once.
const COUNTED: usize = 1 << 18;

/// The last line of JSON, or the table.
#[derive(Serialize, Default)]
pub(super) struct Summary {
    packets: u64,
    pass: u64,
    answer: u64,
    /// How many would be dropped.
    pub(super) drop: u64,
    noted: u64,
    skipped: u64,
    reasons: BTreeMap<&'static str, u64>,
    /// Those over a limit, dropped or not, by its name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    limits: BTreeMap<CellName, u64>,
    /// Frames that are not for the filter, by the name of their link type.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    links: BTreeMap<String, u64>,
    odd_times: u64,
    untimed: u64,
    assumed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top: Option<Top>,
    #[serde(skip)]
    counts: Option<Counts>,
}

/// Who most packets are from, and what they are for.
#[derive(Serialize)]
struct Top {
    sources: Vec<Share>,
    ports: Vec<Share>,
}

/// One of them: a source, or a protocol with a port.
#[derive(Serialize)]
struct Share {
    packets: u64,
    verdict: &'static str,
    reason: &'static str,
    what: String,
}

/// What the most frequent ones are found from.
struct Counts {
    length: usize,
    sources: Tally<(Reason, IpAddr)>,
    ports: Tally<(Reason, u8, Option<u16>)>,
}

impl Counts {
    fn top(&self) -> Top {
        let share = |packets, reason: Reason, what| {
            let (verdict, reason) = (reason.verdict(), reason.label());
            Share { packets, verdict, reason, what }
        };
        let sources = self.sources.most(self.length).into_iter();
        let ports = self.ports.most(self.length).into_iter();
        Top {
            sources: sources
                .map(|((reason, source), count)| share(count, reason, source.to_string()))
                .collect(),
            ports: ports
                .map(|((reason, protocol, port), count)| share(count, reason, port_name(protocol, port)))
                .collect(),
        }
    }
}

/// A protocol and a port, as people write them.
fn port_name(protocol: u8, port: Option<u16>) -> String {
    let protocol = match protocol {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::ICMP => "icmp".to_owned(),
        protocol::ICMPV6 => "icmpv6".to_owned(),
        other => format!("protocol {other}"),
    };
    match port {
        Some(port) => format!("{protocol}/{port}"),
        None => protocol,
    }
}

/// Counts what is frequent, in bounded memory: where there is no room for a new one, all lose one (Misra and Gries). What is
/// shown is never more than there was.
struct Tally<T>(HashMap<T, u64>);

impl<T: Hash + Eq + Ord + Copy> Tally<T> {
    fn add(&mut self, what: T) {
        if self.0.len() >= COUNTED && !self.0.contains_key(&what) {
            self.0.retain(|_, count| {
                *count -= 1;
                *count > 0
            });
            return;
        }
        *self.0.entry(what).or_default() += 1;
    }

    fn most(&self, length: usize) -> Vec<(T, u64)> {
        let mut all: Vec<(T, u64)> = self.0.iter().map(|(what, count)| (*what, *count)).collect();
        all.sort_unstable_by(|(a, more), (b, less)| less.cmp(more).then(a.cmp(b)));
        all.truncate(length);
        all
    }
}

impl Summary {
    /// One that names so many sources and ports.
    pub(super) fn new(top: Option<usize>) -> Self {
        let counts = |length| Counts { length, sources: Tally(HashMap::new()), ports: Tally(HashMap::new()) };
        Self { counts: top.map(counts), ..Self::default() }
    }

    /// Counts a packet.
    pub(super) fn add(&mut self, verdict: Verdict, limit: Option<CellName>, packet: Option<&Packet>) {
        self.packets += 1;
        match verdict {
            Verdict::Pass(_) => self.pass += 1,
            Verdict::Answer(_) => self.answer += 1,
            Verdict::Drop(_) => self.drop += 1,
            Verdict::Noted => self.noted += 1,
            Verdict::Skipped => self.skipped += 1,
        }
        let (_, Some(reason)) = words(verdict) else { return };
        *self.reasons.entry(reason.label()).or_default() += 1;
        if let Some(limit) = limit {
            *self.limits.entry(limit).or_default() += 1;
        }
        if let (Some(Counts { sources, ports, .. }), Some(packet)) = (&mut self.counts, packet) {
            sources.add((reason, packet.source.into()));
            ports.add((reason, packet.protocol, packet.ports.map(|ports| ports.destination)));
        }
    }

    /// How many packets have been judged.
    pub(super) fn judged(&self) -> u64 {
        self.pass + self.answer + self.drop
    }

    /// Counts frames that are not for the filter.
    pub(super) fn skip_link(&mut self, link: String, frames: u64) {
        *self.links.entry(link).or_default() += frames;
    }

    /// Notes what is wrong with the times of a capture, where they are what it is played by.
    pub(super) fn see_times(&mut self, survey: &Survey, by_rate: bool) {
        if by_rate {
            return;
        }
        self.odd_times += survey.odd.count();
        self.untimed += if survey.has_times() { survey.untimed } else { survey.frames };
    }

    /// Notes what is assumed.
    pub(super) fn assume(&mut self, what: String) {
        self.assumed.push(what);
    }

    /// Writes it.
    pub(super) fn write(&mut self, output: &mut impl Write, json: bool) -> io::Result<()> {
        self.top = self.counts.as_ref().map(Counts::top);
        if json {
            serde_json::to_writer(&mut *output, &BTreeMap::from([("summary", &*self)]))?;
            return writeln!(output);
        }
        write!(output, "{}", self.table())
    }

    fn table(&self) -> String {
        let Self {
            packets,
            pass,
            answer,
            drop,
            noted,
            skipped,
            reasons,
            limits,
            links,
            odd_times,
            untimed,
            assumed,
            top,
            ..
        } = self;
        let mut text = format!("{packets} packets: {pass} would pass, {drop} would be dropped");
        if *answer > 0 {
            text += &format!(", {answer} would be answered");
        }
        if *noted > 0 {
            text += &format!(", {noted} left the host");
        }
        text += &format!(", {skipped} not run\n");
        for reason in Reason::ALL {
            if let Some(count) = reasons.get(reason.label()) {
                let verdict = reason.verdict();
                text += &format!("{count:>12} {verdict} {:<17} {}\n", reason.label(), reason.meaning());
            }
        }
        for (limit, count) in limits {
            text += &format!("{count:>12} over limit.{limit}\n");
        }
        if let Some(Top { sources, ports }) = top {
            for (title, shares) in [("sources", sources), ("ports", ports)] {
                text += &format!("most packets, by {title}:\n");
                for Share { packets, verdict, reason, what } in shares {
                    text += &format!("{packets:>12} {verdict} {reason:<17} {what}\n");
                }
            }
        }
        for (link, frames) in links {
            text += &format!("not for a filter on an interface: {} of {link}\n", frames_of(*frames));
        }
        if *odd_times > 0 {
            text += &format!(
                "times that do not fit those around them, and do not count: {}\n",
                frames_of(*odd_times)
            );
        }
        if *untimed > 0 {
            text += &format!("without a time, so judged without limits: {}\n", frames_of(*untimed));
        }
        for what in assumed {
            text += &format!("assumed: {what}\n");
        }
        text
    }
}

fn frames_of(count: u64) -> String {
    format!("{count} {}", if count == 1 { "frame" } else { "frames" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_are_found_whatever_else_there_is() {
        let mut tally = Tally(HashMap::new());
        for n in 0..2 * COUNTED as u64 {
            tally.add(n + 10);
            if n % 4 == 0 {
                tally.add(1);
            }
        }
        assert!(tally.0.len() <= COUNTED);
        let most = tally.most(1);
        assert!(matches!(most[..], [(1, count)] if count <= COUNTED as u64 / 2), "{most:?}");
    }
}
