//! Answers of the daemon, for people.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use flood_common::reason::Reason;

use crate::{
    config::{BitLimit, CellLimit, LimitOrigin, Mode, PacketLimit, ProtectedLimits, RateLimit, SynProof},
    control::protocol::{
        AnswersBy, Attached, BusySource, DroppedSource, FeedStatus, Feeds, InterfaceStats, Limits,
        ListPlaces, ListReply, ListSize, PlaceStatus, ProofStatus, SanityStatus, Sources, Stats, Status,
        Volume,
    },
    doctor::{Finding, Verdict},
    printable::Printable,
};

/// A number with its thousands apart.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn duration(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}

pub(super) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Monitor => "monitor",
    }
}

pub(super) fn status(status: &Status) -> String {
    let mut text = format!(
        "floodgate {}, process {}, up {}, mode {}\n",
        status.version,
        status.pid,
        duration(status.uptime_s),
        mode(status.mode)
    );
    for interface in &status.interfaces {
        let attached = match (interface.attached, interface.present) {
            (Attached::Native, _) => "native (in the driver)",
            (Attached::Generic, _) => "generic (behind the driver)",
            (Attached::Nowhere, true) => "NOT GUARDED",
            (Attached::Nowhere, false) => "NOT GUARDED: it is not there",
        };
        _ = write!(text, "interface    {:<15} {attached}", interface.name);
        if interface.attached != Attached::Nowhere {
            let answers = match interface.answers {
                AnswersBy::Tcx => "notes (tcx)",
                AnswersBy::Clsact => "notes (clsact)",
                AnswersBy::Sockets => "sockets",
                AnswersBy::Nothing => "limits alone",
            };
            _ = write!(text, ";\n             UDP answers told by {answers}");
        }
        if let Some(given) = &interface.given {
            _ = write!(text, "; given as {given}");
        }
        if interface.reattached > 0 {
            _ = write!(text, "; attached again {} times", grouped(interface.reattached));
        }
        text.push('\n');
    }
    let size = |size: &ListSize| format!("{} IPv4, {} IPv6", grouped(size.ipv4), grouped(size.ipv6));
    _ = writeln!(text, "block list   {}", size(&status.blocked));
    _ = writeln!(text, "allow list   {}", size(&status.allowed));
    if status.allowed_proven != (ListSize { ipv4: 0, ipv6: 0 }) {
        _ = writeln!(text, "allow-proven {}", size(&status.allowed_proven));
    }
    let places = |places: &PlaceStatus| format!("{} of {}", grouped(places.used), grouped(places.capacity));
    let ListPlaces { ipv4, ipv6 } = &status.list_places;
    _ = writeln!(
        text,
        "list memory  {} IPv4 addresses longer than /24,\n             {} IPv6 prefixes",
        places(ipv4),
        places(ipv6)
    );
    text += &feeds_of(&status.feeds);
    let sources = &status.sources;
    _ = writeln!(
        text,
        "sources      above a rate of theirs now: {} IPv4 addresses, {} IPv6 /{};\n             room for {} of each",
        grouped(sources.ipv4),
        grouped(sources.ipv6),
        sources.ipv6_prefix,
        grouped(sources.capacity)
    );
    _ = writeln!(
        text,
        "solicited    {} flows that this host began with reflectors (DNS, NTP, …);\n             room for {}",
        grouped(status.solicited.used),
        grouped(status.solicited.capacity)
    );
    let every = match status.samples.every {
        1 => "every dropped packet is looked at".to_owned(),
        every => format!("one in {} dropped packets is looked at", grouped(every.into())),
    };
    _ = writeln!(
        text,
        "samples      {every} for `sources`;\n             {} so far, {} lost",
        grouped(status.samples.taken),
        grouped(status.samples.lost)
    );
    _ = writeln!(text, "proof        {}", proof(&status.proof));
    _ = writeln!(text, "sanity       {}", sanity(&status.sanity));
    if let Some(address) = status.trace {
        _ = writeln!(text, "tracing      {address}");
    }
    for warning in &status.warnings {
        _ = writeln!(text, "warning: {}", Printable(warning));
    }
    text
}

/// What was found, and a last line that sums up.
pub(super) fn findings(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { subject, verdict, text: found } in findings {
        let verdict = match verdict {
            Verdict::Good => "good",
            Verdict::Note => "note",
            Verdict::Fault => "FAULT",
        };
        _ = writeln!(text, "{verdict:<5} {subject:<15} {found}");
    }
    let count = |verdict| findings.iter().filter(|finding| finding.verdict == verdict).count();
    text += &match count(Verdict::Fault) {
        0 => format!("\nnothing is in the way of `floodgate run`; notes: {}", count(Verdict::Note)),
        faults => format!("\nin the way of `floodgate run`: {faults}"),
    };
    text
}

fn proof(proof: &ProofStatus) -> String {
    let syn = match proof.syn {
        SynProof::Cookie => "SYNs by cookie",
        SynProof::Retransmission => "SYNs by coming again",
        SynProof::Auto | SynProof::Off => "SYNs not at all",
    };
    let sockets = match (proof.sockets, proof.absence) {
        (true, true) => "the rest by sockets",
        (true, false) => "the rest by sockets, but nothing is dropped for want of one",
        (false, _) => "the rest not at all",
    };
    let raised = if proof.syncookies_raised { "; net.ipv4.tcp_syncookies is raised" } else { "" };
    let mut text = format!("{syn}, {sockets}{raised}");
    for (what, why) in [
        ("no cookies", &proof.why_no_cookies),
        ("no drops for want of a socket, and no default totals", &proof.why_no_absence),
    ] {
        if let Some(why) = why {
            _ = write!(text, "\n             {what}: {why}");
        }
    }
    if proof.sockets && !proof.half_open {
        text += "\n             half-open connections: this kernel does not say what they have sent; each listener has a budget for them";
    }
    text
}

fn sanity(status: &SanityStatus) -> String {
    let SanityStatus { off, refused_protocols, refused_ethertypes, accepted_ethertypes } = status;
    let mut text = "all checks".to_owned();
    if !off.is_empty() {
        _ = write!(text, " but {}", off.join(", "));
    }
    if !refused_protocols.is_empty() {
        let numbers: Vec<_> = refused_protocols.iter().map(u8::to_string).collect();
        _ = write!(text, "; protocols refused: {}", numbers.join(", "));
    }
    for (what, numbers) in
        [("refused", refused_ethertypes), ("accepted besides IP and ARP", accepted_ethertypes)]
    {
        if !numbers.is_empty() {
            let numbers: Vec<_> = numbers.iter().map(|number| format!("{number:#06x}")).collect();
            _ = write!(text, "; EtherTypes {what}: {}", numbers.join(", "));
        }
    }
    text
}

/// A line for each feed.
fn feeds_of(feeds: &[FeedStatus]) -> String {
    let mut text = String::new();
    for FeedStatus { list, name, entries, left_out, withheld, last_success, error, .. } in feeds {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let age = match last_success.map(|at| since_epoch.as_secs().checked_sub(at)) {
            Some(Some(age)) => format!("read {} ago", duration(age)),
            Some(None) => "read when the clock was ahead of now".to_owned(),
            None => "not read yet".to_owned(),
        };
        let left_out =
            if *left_out > 0 { format!(", {} left out", grouped(*left_out)) } else { String::new() };
        let withheld =
            if *withheld > 0 { format!(", {} withheld", grouped(*withheld)) } else { String::new() };
        let state = if error.is_some() { ", FAILS" } else { "" };
        _ = writeln!(
            text,
            "feed         {list} {name}: {} {}{left_out}{withheld}, {age}{state}",
            grouped(*entries),
            if *entries == 1 { "entry" } else { "entries" }
        );
    }
    text
}

pub(super) fn feeds(feeds: &Feeds) -> String {
    let mut text = String::new();
    for feed in &feeds.feeds {
        text += &feeds_of(std::slice::from_ref(feed));
        let FeedStatus {
            source,
            every_s,
            next_s,
            problems,
            format,
            withheld,
            first_withheld,
            errors,
            error,
            ..
        } = feed;
        let next = match next_s {
            None | Some(0) => "now".to_owned(),
            Some(next) => format!("in {}", duration(*next)),
        };
        let format = format.as_ref().map_or(String::new(), |format| format!(" ({})", Printable(format)));
        _ = writeln!(text, "  from {}{format}, every {}, next {next}", Printable(source), duration(*every_s));
        for problem in problems {
            _ = writeln!(text, "  left out: {}", Printable(problem));
        }
        for held in first_withheld {
            _ = writeln!(text, "  withheld: {}", Printable(held));
        }
        let more = withheld.saturating_sub(first_withheld.len() as u64);
        if more > 0 {
            _ = writeln!(text, "  withheld: {} more, as they cover what this host needs", grouped(more));
        }
        if let Some(error) = error {
            _ = writeln!(text, "  error ({} since the start): {}", grouped(*errors), Printable(error));
        }
    }
    if text.is_empty() { "there are no feeds\n".into() } else { text }
}

pub(super) fn stats(stats: &Stats) -> String {
    let mut text = String::new();
    for (interface, InterfaceStats { passed, answered, dropped, would_drop }) in &stats.interfaces {
        _ = writeln!(text, "{:<32}{:>20}{:>24}", interface, "packets", "bytes");
        let sides = [("pass", passed), ("answer", answered), ("drop", dropped), ("would drop", would_drop)];
        for (verdict, side) in sides {
            // In the order of the reasons, which is that of the decisions.
            for reason in Reason::ALL {
                if let Some(Volume { packets, bytes }) = side.get(reason.label()) {
                    let what = format!("  {verdict} {}", reason.label());
                    _ = writeln!(text, "{what:<32}{:>20}{:>24}", grouped(*packets), grouped(*bytes));
                }
            }
        }
    }
    text
}

pub(super) fn sources(sources: &Sources) -> String {
    let mut text = match sources.in_debt {
        0 => "no source is above a rate of its limits\n".to_owned(),
        in_debt => format!("sources above a rate of their limits: {}; the busiest:\n", grouped(in_debt)),
    };
    let name = |source: &BusySource| {
        source.source.clone().unwrap_or_else(|| format!("an IPv{} prefix, unknown", source.version))
    };
    let busiest = sources.busiest.iter().map(name);
    let dropped = sources.dropped.iter().map(|source| source.source.clone());
    let width = busiest.chain(dropped).map(|name| name.len()).max().unwrap_or(0);
    for source in &sources.busiest {
        let BusySource { source: _, limit, version: _, share, packets_per_s, bits_per_s } = source;
        _ = write!(text, "  {:<width$} {:>4.0} % of {limit}", name(source), share * 100.0);
        if let Some(rate) = packets_per_s {
            _ = write!(text, ", {}/s", grouped(*rate as u64));
        }
        if let Some(rate) = bits_per_s {
            _ = write!(text, ", {} bit/s", grouped(*rate as u64));
        }
        text.push('\n');
    }
    if sources.dropped.is_empty() {
        text.push_str("no source has lost packets\n");
        return text;
    }
    let how = if sources.dropped_exact { "exact" } else { "estimated from samples" };
    _ = writeln!(text, "the most dropped ({how}):");
    for source in &sources.dropped {
        let DroppedSource { source, packets, bytes, error, reasons, limits, last_seen_s } = source;
        let error = if *error > 0.0 { format!(" ±{:.0} %", error * 100.0) } else { String::new() };
        let limits = limits.keys().map(|limit| format!("limit.{limit}"));
        let reasons: Vec<String> = reasons.keys().cloned().chain(limits).collect();
        _ = writeln!(
            text,
            "  {source:<width$} {} packets{error}, {last_seen_s:.0} s ago\n    {} bytes, {}",
            grouped(*packets),
            grouped(*bytes),
            reasons.join(" ")
        );
    }
    text
}

pub(super) fn list(list: &ListReply) -> String {
    let mut text = String::new();
    for entry in &list.entries {
        let ends = entry
            .expires_in_s
            .map_or_else(|| "no end".to_owned(), |left| format!("ends in {}", duration(left)));
        _ = write!(text, "{:<44}{ends:<28}{}", entry.prefix.to_string(), Printable(&entry.origin));
        if let Some(who) = &entry.added_by {
            _ = write!(text, " ({})", Printable(who));
        }
        if let Some(reason) = &entry.reason {
            _ = write!(text, ": {}", Printable(reason));
        }
        text.push('\n');
    }
    if text.is_empty() { "the list is empty\n".into() } else { text }
}

pub(super) fn limits(limits: &Limits) -> String {
    let mut text = String::new();
    let packets = |PacketLimit { rate, burst }: PacketLimit| format!("{rate}, burst {burst}");
    let mut lines = Vec::new();
    for (name, limit) in &limits.limits {
        let CellLimit { limit: RateLimit { packets: packet_limit, bits }, origin } = limit;
        let origin = match origin {
            LimitOrigin::Default if limit.is_of_ipv6_alone(*name) => "default, for IPv6",
            LimitOrigin::Default => "default",
            LimitOrigin::Host => "default, by sockets",
            LimitOrigin::Configuration => "configuration",
            LimitOrigin::RunTime => "set at run time",
        };
        let bits = bits.map(|BitLimit { rate, burst }| format!("{rate}, burst {burst}"));
        for (unit, value) in [("packets", packet_limit.map(packets)), ("bits", bits)] {
            lines.push((format!("{name}.{unit}"), value.unwrap_or_else(|| "off".into()), origin));
        }
    }
    let ProtectedLimits { neighbour_discovery, path_mtu, link } = limits.protected;
    for (name, limit) in
        [("neighbour_discovery", neighbour_discovery), ("path_mtu", path_mtu), ("link", link)]
    {
        lines.push((format!("protected.{name}"), packets(limit), ""));
    }
    let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
    let name_width = longest(&mut lines.iter().map(|(name, ..)| name.len()));
    let value_width = longest(&mut lines.iter().map(|(_, value, _)| value.len()));
    for (name, value, origin) in lines {
        let line = format!("{name:<name_width$}  {value:<value_width$}  {origin}");
        _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use flood_common::class::Scope;

    use super::*;
    use crate::{
        config::{CellName, Config},
        control::protocol::DroppedSource,
    };

    #[test]
    fn columns_are_apart_and_fit_a_terminal() {
        let config = Config::default();
        let shown = limits(&Limits { limits: config.limits, protected: config.protected_limits });
        for line in shown.lines() {
            assert!(line.contains("  ") && line.chars().count() <= 80, "{line}");
        }
        let name = CellName { scope: Scope::SourcePrefix, class: flood_common::class::Class::Amplification };
        let shown = sources(&Sources {
            busiest: vec![BusySource {
                source: Some("2001:db8:1234:5678::/64".into()),
                limit: name,
                version: 6,
                share: 0.97,
                packets_per_s: Some(19_400.0),
                bits_per_s: None,
            }],
            in_debt: 1,
            dropped: vec![DroppedSource {
                source: "2001:db8:1234:5678::/64".into(),
                packets: 12_345_678,
                bytes: 12_345_678_901,
                error: 0.1,
                reasons: BTreeMap::from([("source_prefix_limit".to_owned(), 1), ("blocked".to_owned(), 2)]),
                limits: BTreeMap::new(),
                last_seen_s: 3.0,
            }],
            dropped_exact: false,
        });
        for line in shown.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}
