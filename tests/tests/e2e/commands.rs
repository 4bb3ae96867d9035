//! The verbs, with and without a running floodgate.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{Limits, ListReply, Sources, Stats, Status};
use floodgate_tests::{
    daemon::{Daemon, floodgate, run},
    lab::{Lab, Role, eventually, send_frames},
    needs_root,
    packet::{ATTACKER, ATTACKER6, Build, VISITOR, from},
    same_on_every_kernel,
};

use super::traffic::dropped;

/// A guarded server and an attacker.
pub(crate) struct Guarded {
    pub(crate) lab: Lab,
    pub(crate) daemon: Daemon,
}

impl Guarded {
    pub(crate) fn new(config: &str) -> Result<Self> {
        let lab = Lab::new()?;
        let daemon = Daemon::start(lab.host(Role::Server), config, "eth0")?;
        Ok(Self { lab, daemon })
    }

    /// Sends a frame to the server, from the attacker's interface.
    pub(crate) fn send(&self, build: &Build) -> Result<()> {
        let attacker = self.lab.host(Role::Attacker);
        let interface = attacker.index("eth0")?;
        let mut frame = build.bytes();
        frame[..6].copy_from_slice(&Role::Server.mac());
        attacker.within(|| send_frames(interface, [frame.as_slice()]))
    }
}

#[test]
fn lists_take_what_people_write_and_say_what_became_of_it() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let ask = |words: &str| guarded.daemon.ask(words);
    let cases = [
        ("an address", "block add 192.0.2.77", 0, "block list: 1 added\n", ""),
        ("again", "block add 192.0.2.77", 0, "block list: 0 added, 1 replaced\n", ""),
        (
            "with an end, which it has not",
            "block add 192.0.2.77 --ttl 1h",
            0,
            "block list: 0 added, 1 kept, as they end later\n",
            "192.0.2.77/32 is there already and has no end",
        ),
        ("host bits are cleared", "block add 198.18.2.99/24", 0, "block list: 1 added\n", ""),
        ("an address in it", "block add 198.18.2.77", 0, "block list: 1 added\n", ""),
        (
            "with an end, in what has none",
            "block add 198.18.2.78 --ttl 1h",
            0,
            "block list: 1 added\n",
            "198.18.2.78/32 stays on the list after that: 198.18.2.0/24 (operator) has no end",
        ),
        ("its removal", "block del 198.18.2.78", 0, "1 removed\n", "still covered by 198.18.2.0/24"),
        ("mapped", "block add ::ffff:9.9.9.9/128", 0, "block list: 1 added\n", ""),
        ("it is the IPv4 address", "block del 9.9.9.9", 0, "1 removed\n", ""),
        ("half mapped", "block add ::ffff:9.9.9.9/64", 2, "", "from 96 to 128"),
        ("compatible", "block add ::9.9.9.9", 2, "", "write 9.9.9.9"),
        ("the host's own network", "block add 192.0.2.0/24", 2, "", "192.0.2.1/32, this host's own address"),
        ("a range", "block add 10.1.0.1-10.1.0.6", 0, "block list: 4 added\n", ""),
        ("IPv6", "block add 2001:db8:bad::/48 --reason spam", 0, "block list: 1 added\n", ""),
        ("allow", "allow add 2001:db8::7", 0, "allow list: 1 added\n", ""),
        ("allow by evidence", "allow-proven add 2001:db8:cd::/48", 0, "allow-proven list: 1 added\n", ""),
        ("its test", "allow-proven test 192.0.2.1", 1, "192.0.2.1 is not on the allow-proven list\n", ""),
        ("removed, but covered", "block del 198.18.2.77", 0, "1 removed\n", "still covered by 198.18.2.0/24"),
        ("removed", "block del 192.0.2.77", 0, "1 removed\n", ""),
        ("not there", "block del 192.0.2.77", 1, "0 removed\n", "192.0.2.77/32 is not an entry of the list"),
        ("no address", "block add 192.0.2", 2, "", "192.0.2"),
        ("a name", "block add localhost", 2, "", "localhost"),
        ("too long a prefix", "block add 192.0.2.0/33", 2, "", "192.0.2.0/33"),
        ("a range backwards", "block add 10.0.0.2-10.0.0.1", 2, "", "10.0.0.2-10.0.0.1"),
        ("too much at once", "block add 0.0.0.0/7", 2, "", "--force"),
        ("too much of IPv6", "block add 2000::/15", 2, "", "--force"),
        ("unless forced", "block add 128.0.0.0/7 --force", 0, "block list: 1 added\n", ""),
        ("no time", "block add 192.0.2.1 --ttl soon", 2, "", "soon"),
        ("allowed, and so not blocked", "block add 2001:db8::7", 0, "block list: 1 added\n", "which wins"),
        ("and removed", "block del 2001:db8::7", 0, "1 removed\n", ""),
        ("less than a second", "block add 192.0.2.1 --ttl 500ms", 2, "", "1s is the shortest"),
        ("an end before it begins", "block add 192.0.2.1 --ttl 0s", 2, "", "0"),
    ];
    for (why, words, code, stdout, stderr) in cases {
        let said = ask(words)?;
        ensure!(said.code == code, "{why}: {said:?}");
        ensure!(code == 2 || said.stdout == stdout, "{why}: {said:?}");
        ensure!(said.stderr.contains(stderr), "{why}: {said:?}");
    }
    let list: ListReply = guarded.daemon.read("block list")?;
    let prefixes: Vec<String> = list.entries.iter().map(|entry| entry.prefix.to_string()).collect();
    ensure!(
        prefixes
            == [
                "10.1.0.1/32",
                "10.1.0.2/31",
                "10.1.0.4/31",
                "10.1.0.6/32",
                "128.0.0.0/7",
                "198.18.2.0/24",
                "2001:db8:bad::/48"
            ],
        "{prefixes:?}"
    );
    let text = guarded.daemon.tell("block list")?;
    ensure!(text.contains("2001:db8:bad::/48") && text.contains(": spam"), "{text}");
    Ok(())
}

#[test]
fn the_address_that_one_is_logged_in_from_is_not_blocked_without_force() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let mut block = guarded.daemon.command("block add 198.51.100.0/24")?;
    block.env("SSH_CONNECTION", "198.51.100.66 50000 192.0.2.1 22");
    let said = run(&mut block)?;
    ensure!(said.code == 2 && said.stderr.contains("198.51.100.66"), "{said:?}");
    ensure!(said.stderr.contains("--force"), "{said:?}");
    let said = run(block.arg("--force"))?;
    ensure!(said.code == 0, "{said:?}");
    Ok(())
}

#[test]
fn an_import_takes_the_good_lines_or_with_strict_none() -> Result<()> {
    const LIST: &str = "\
# a list as they are
192.0.2.129
192.0.2.128/25 ; SBL1
198.51.100.0/24\t2024-01-01\tscanner

192.0.2.129
nonsense here
10.0.0.0-10.0.0.255
2001:db8:77::/48
300.1.1.1
";

    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("list.txt");
    std::fs::write(&path, LIST)?;
    let path = path.display();

    let said = guarded.daemon.ask(&format!("block import --strict {path}"))?;
    ensure!(said.code == 2 && said.stderr.contains("nothing is imported"), "{said:?}");
    let list: ListReply = guarded.daemon.read("block list")?;
    ensure!(list.entries.is_empty(), "{list:?}");

    let said = guarded.daemon.ask(&format!("block import {path} --ttl 1h"))?;
    ensure!(said.code == 1, "{said:?}");
    for line in [7, 10] {
        ensure!(said.stderr.contains(&format!("list.txt: line {line}: ")), "line {line}: {said:?}");
    }
    let list: ListReply = guarded.daemon.read("block list")?;
    let entries: Vec<_> = list.entries.iter().map(|entry| entry.prefix.to_string()).collect();
    let expected = ["10.0.0.0/24", "192.0.2.128/25", "192.0.2.129/32", "198.51.100.0/24", "2001:db8:77::/48"];
    ensure!(entries == expected, "{entries:?}");
    ensure!(list.entries.iter().all(|entry| entry.origin.ends_with("list.txt")), "{list:?}");
    ensure!(list.entries.iter().all(|entry| entry.expires_in_s.is_some()), "{list:?}");

    // Imported again without the IPv6 prefix, and with a new address.
    std::fs::write(path.to_string(), "192.0.2.128/25\n203.0.113.9\n")?;
    let text = guarded.daemon.tell(&format!("block import {path} --replace"))?;
    let read = format!("{path}: 2 entries, read as addresses\n");
    ensure!(text == read + "block list: 1 added, 1 replaced, 4 removed\n", "{text}");

    // A file in another format is reported; one that would require guessing is refused as a whole.
    std::fs::write(path.to_string(), "create bl hash:net\nadd bl 203.0.113.7 timeout 60\n")?;
    let said = guarded.daemon.ask(&format!("block import {path}"))?;
    ensure!(said.code == 0 && said.stdout.contains("list.txt: 1 entry, read as ipset save\n"), "{said:?}");
    ensure!(said.stderr.contains("the times at which 1 entries end are not taken over"), "{said:?}");
    for (text, expected) in [
        ("198.51.100.0/24\n198.51.100.7 nomatch\n", "list.txt: line 2: `nomatch` excepts"),
        ("0.0.0.0 bad.example\n", "list.txt: line 1: this is a hosts file"),
        ("192.0.2.1 198.51.100.2\n", "list.txt: line 1: two addresses in two columns"),
    ] {
        std::fs::write(path.to_string(), text)?;
        let said = guarded.daemon.ask(&format!("block import {path} --replace"))?;
        ensure!(said.code == 2 && said.stderr.contains(expected), "{said:?}");
    }
    let list: ListReply = guarded.daemon.read("block list")?;
    ensure!(list.entries.len() == 3, "what is refused changes nothing: {list:?}");

    let said = guarded.daemon.ask("block import /nowhere/list.txt")?;
    ensure!(said.code == 2 && said.stderr.contains("/nowhere/list.txt: "), "{said:?}");
    Ok(())
}

#[test]
fn limits_are_changed_at_once_and_a_wrong_one_changes_nothing() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let text = guarded.daemon.tell("limit show")?;
    ensure!(text.contains("source.packets") && text.contains("20k/s, burst 40k"), "{text}");
    ensure!(text.contains("source.syn.packets") && text.contains("default"), "{text}");
    guarded.daemon.tell("limit set source.packets=5k/s source.bits=200Mbit/s total.udp 1Gbit/s")?;
    let before: Limits = guarded.daemon.read("limit show")?;
    let packets = before.limits[&"source".parse()?].limit.packets.context("no packet limit")?;
    ensure!((packets.rate.0, packets.burst.0) == (5_000, 10_000), "{packets:?}");
    let text = guarded.daemon.tell("limit show")?;
    let total = text.lines().find(|line| line.starts_with("total.udp.bits")).context("no such line")?;
    ensure!(total.contains("1Gbit/s") && total.ends_with("set at run time"), "{total}");
    let cases = [
        ("no such limit", "limit set source.packet=5k/s", "source_prefix"),
        ("no unit", "limit set source.packets=5k", "source.packets"),
        ("one of two is wrong", "limit set source.packets=1k/s source.bits=fast", "source.bits"),
        ("zero", "limit set source.packets=0/s", "source.packets"),
        ("no value", "limit set source.packets", "LIMIT=VALUE"),
    ];
    for (why, words, expected) in cases {
        let said = guarded.daemon.ask(words)?;
        ensure!(said.code == 2 && said.stderr.contains(expected), "{why}: {said:?}");
        ensure!(guarded.daemon.read::<Limits>("limit show")? == before, "{why}: changed");
    }
    Ok(())
}

#[test]
fn every_reading_verb_has_text_and_json() -> Result<()> {
    needs_root!();
    let guarded = Guarded::new("[block]\nentries = [\"198.51.100.66\"]\n")?;
    for _ in 0..3 {
        guarded.send(&from(ATTACKER).syn(80))?;
    }
    guarded.send(&from(VISITOR).syn(80))?;
    eventually("all has arrived", || {
        let stats: Result<Stats> = guarded.daemon.read("stats");
        stats.is_ok_and(|stats| stats.interfaces["eth0"].passed.contains_key("conforming"))
    })?;

    let text = guarded.daemon.tell("status")?;
    ensure!(text.contains("mode enforce") && text.contains("native (in the driver)"), "{text}");
    ensure!(text.contains("block list   1 IPv4, 0 IPv6"), "{text}");
    let status: Status = guarded.daemon.read("status")?;
    ensure!(status.version == env!("CARGO_PKG_VERSION") && status.warnings.is_empty(), "{status:?}");

    let text = guarded.daemon.tell("stats")?;
    let blocked = text.lines().find(|line| line.contains("drop blocked")).context("no such line")?;
    ensure!(blocked.split_whitespace().eq(["drop", "blocked", "3", "162"]), "{text}");

    let sources: Sources = guarded.daemon.read("sources --limit 1")?;
    let lost = sources.dropped.first().context("nobody lost packets")?;
    ensure!((lost.source.as_str(), lost.packets, lost.bytes) == ("198.51.100.66", 3, 162), "{lost:?}");
    ensure!(sources.dropped_exact && lost.error == 0.0, "{sources:?}");
    ensure!(guarded.daemon.tell("sources")?.contains("the most dropped (exact):"));
    Ok(())
}

#[test]
fn a_trace_shows_each_decision_about_one_source_and_ends_with_its_reader() -> Result<()> {
    needs_root!();
    let guarded = Guarded::new("[block]\nentries = [\"2001:db8:bad::/48\"]\n")?;
    for (source, frame, expected) in [
        (ATTACKER, from(ATTACKER).syn(80), "pass conforming 198.51.100.66 "),
        (ATTACKER6, from(ATTACKER6).udp(53, 4_000), "drop blocked 2001:db8:bad::66 "),
    ] {
        let mut trace = guarded
            .daemon
            .command(&format!("trace {source}"))?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let status = || guarded.daemon.read::<Status>("status");
        eventually("the trace is on", || status().is_ok_and(|status| status.trace == Some(source)))?;
        let second = guarded.daemon.ask("trace 192.0.2.200")?;
        ensure!(second.code == 1 && second.stderr.contains("is being traced already"), "{second:?}");

        guarded.send(&from(VISITOR).syn(80))?;
        guarded.send(&frame)?;
        let mut line = String::new();
        BufReader::new(trace.stdout.take().context("no stdout")?).read_line(&mut line)?;
        ensure!(line.starts_with(expected), "{line}");
        trace.kill()?;
        trace.wait()?;
        eventually("it ends with its reader", || status().is_ok_and(|status| status.trace.is_none()))?;
    }
    Ok(())
}

#[test]
fn a_trace_of_a_flood_says_how_much_it_leaves_out() -> Result<()> {
    /// More than the burst of lines that the kernel logs.
    const FRAMES: usize = 2_000;

    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("[block]\nentries = [\"198.51.100.66\"]\n")?;
    let mut trace = guarded
        .daemon
        .command("trace 198.51.100.66")?
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    eventually("the trace is on", || {
        guarded.daemon.read::<Status>("status").is_ok_and(|status| status.trace.is_some())
    })?;
    let attacker = guarded.lab.host(Role::Attacker);
    let interface = attacker.index("eth0")?;
    let mut frame = from(ATTACKER).syn(80).bytes();
    frame[..6].copy_from_slice(&Role::Server.mac());
    attacker.within(|| send_frames(interface, std::iter::repeat_n(frame.as_slice(), FRAMES)))?;
    // Frames that arrive while a slow processor has not emptied the veth ring are lost before the filter.
    let arrived = || -> Result<u64> { dropped(&guarded.daemon, "blocked") };
    let mut before = 0;
    eventually("the last frame is counted", || {
        let now = arrived().unwrap_or(0);
        std::mem::replace(&mut before, now) == now && now > 0
    })?;
    let frames = usize::try_from(arrived()?)?;
    let mut shown = 0;
    let mut left_out = 0;
    for line in BufReader::new(trace.stdout.take().context("no stdout")?).lines() {
        let line = line?;
        match line.strip_prefix('(').and_then(|rest| rest.strip_suffix(" lines left out)")) {
            Some(number) => left_out += number.parse::<usize>()?,
            None => shown += 1,
        }
        if shown + left_out >= frames {
            break;
        }
    }
    trace.kill()?;
    trace.wait()?;
    ensure!(shown + left_out == frames && left_out > frames / 2, "{shown} shown, {left_out} left out");
    Ok(())
}

#[test]
fn metrics_are_served_where_the_configuration_says() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let config = "[control]\nmetrics = \"127.0.0.1:9472\"\n[block]\nentries = [\"198.51.100.66\"]\n";
    let guarded = Guarded::new(config)?;
    for _ in 0..3 {
        guarded.send(&from(ATTACKER).syn(80))?;
    }
    let get = |path: &str| {
        let mut curl = guarded.lab.host(Role::Server).command("curl")?;
        curl.args(["--header", "accept: application/openmetrics-text;version=1.0.0"]);
        run(curl.args(["--silent", "--include"]).arg(format!("http://127.0.0.1:9472{path}")))
    };
    let scrape = || Ok::<_, anyhow::Error>(get("/metrics")?.stdout);
    let counted = "floodgate_packets_total{interface=\"eth0\",verdict=\"drop\",reason=\"blocked\"} 3\n";
    eventually("the packets are counted", || scrape().is_ok_and(|text| text.contains(counted)))?;
    let text = scrape()?;
    for expected in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n",
        "floodgate_bytes_total{interface=\"eth0\",verdict=\"drop\",reason=\"blocked\"} 162\n",
        "floodgate_list_entries{list=\"block\",family=\"ipv4\"} 1\n",
        "floodgate_interface_attached{interface=\"eth0\",mode=\"native\"} 1\n",
        "floodgate_enforcing 1\n",
        "floodgate_build_info{",
        "floodgate_source_slots{family=\"ipv4\"} 524288\n",
        "# EOF\n",
    ] {
        ensure!(text.contains(expected), "{expected} is missing in\n{text}");
    }
    // A client that does not request OpenMetrics gets the format that every scraper reads.
    let mut curl = guarded.lab.host(Role::Server).command("curl")?;
    let plain = run(curl.args(["--silent", "--include", "http://127.0.0.1:9472/metrics"]))?.stdout;
    for expected in [
        "content-type: text/plain; version=0.0.4; charset=utf-8\r\n",
        "# TYPE floodgate_packets_total counter\n",
        "# TYPE floodgate_build_info gauge\n",
        counted,
    ] {
        ensure!(plain.contains(expected), "{expected} is missing in\n{plain}");
    }
    ensure!(!plain.contains("# EOF") && !plain.contains("# UNIT") && !plain.contains(" info\n"), "{plain}");
    ensure!(!text.contains("198.51.100.66"), "an address is no label:\n{text}");
    // The whole API is available on the socket only.
    let other = get("/v1/status")?.stdout;
    ensure!(other.starts_with("HTTP/1.1 404"), "{other}");
    let mut curl = guarded.lab.host(Role::Server).command("curl")?;
    curl.args(["--silent", "--unix-socket"]).arg(guarded.daemon.socket());
    let text = run(curl.args(["http://floodgate/metrics", "http://floodgate/v1/status"]))?.stdout;
    ensure!(text.contains(counted) && text.contains("\"mode\":\"enforce\""), "{text}");
    Ok(())
}

#[test]
fn without_a_daemon_a_verb_says_how_to_start_one() -> Result<()> {
    same_on_every_kernel!();
    let said = floodgate("--socket /nowhere/floodgate.sock status")?;
    ensure!(said.code == 3, "{said:?}");
    ensure!(said.stderr.contains("no floodgate answers at /nowhere/floodgate.sock"), "{said:?}");
    ensure!(said.stderr.contains("floodgate run"), "{said:?}");
    Ok(())
}
