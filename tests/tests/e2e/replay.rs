//! `floodgate replay`: its output is an interface.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Result, ensure};
use flood_userspace::{
    config::Config,
    feeds::{Copies, Stamp},
    lists::ListKind,
};
use floodgate_tests::{
    daemon::{binary, floodgate, run},
    needs_root,
    packet::{ATTACKER, SERVER, VISITOR, from},
    same_on_every_kernel,
};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A pcap file of these frames, each with its time in microseconds.
fn pcap(frames: &[(u32, Vec<u8>)]) -> Vec<u8> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(u32::to_le_bytes(word));
    }
    for (time_us, frame) in frames {
        let length = frame.len() as u32;
        for word in [1_700_000_000 + time_us / 1_000_000, time_us % 1_000_000, length, length] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(frame);
    }
    file
}

/// A folder with `flood.pcap`, `limits.toml` and broken captures.
fn folder() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    // 300 packets, one a millisecond; then a visitor; then a frame that the kernel does not run.
    let mut frames: Vec<(u32, Vec<u8>)> =
        (0..300).map(|n| (n * 1_000, from(ATTACKER).syn(80).bytes())).collect();
    frames.push((300_000, from(VISITOR).syn(80).bytes()));
    frames.push((301_000, vec![0; 13]));
    let flood = pcap(&frames);
    fs::write(folder.path().join("cut.pcap"), &flood[..flood.len() - 5])?;
    fs::write(folder.path().join("flood.pcap"), flood)?;
    fs::write(folder.path().join("no.pcap"), "this is no capture")?;
    fs::write(
        folder.path().join("limits.toml"),
        "[limit.source]\npackets = \"100/s\"\npackets_burst = \"50\"\n",
    )?;
    Ok(folder)
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

#[test]
fn each_packet_gets_a_line_and_the_last_line_sums_up() -> Result<()> {
    needs_root!();
    let folder = folder()?;
    let (flood, limits) = (path(&folder, "flood.pcap"), path(&folder, "limits.toml"));
    let said = floodgate(&format!("replay --json --each --config {} {}", limits.display(), flood.display()))?;
    ensure!(said.code == 0 && said.stderr.is_empty(), "{said:?}");
    let lines: Vec<Value> = said.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(lines.len() == 303);
    ensure!(
        lines[0]
            == json!({
                "file": flood, "n": 1, "verdict": "pass", "reason": "conforming",
                "source": ATTACKER, "destination": SERVER,
            }),
        "{}",
        lines[0]
    );
    ensure!(lines[299]["verdict"] == "drop" && lines[299]["reason"] == "source_packets", "{}", lines[299]);
    ensure!(lines[299]["limit"] == "source", "{}", lines[299]);
    ensure!(lines[300]["verdict"] == "pass" && lines[300]["source"] == json!(VISITOR), "{}", lines[300]);
    ensure!(lines[301] == json!({"file": flood, "n": 302, "verdict": "skipped"}), "{}", lines[301]);
    // By the capture's own clock: the burst, 100 a second for 0.3 s, the packet that conforms just in time, the
    // visitor.
    let passed = lines[..301].iter().filter(|line| line["verdict"] == "pass").count();
    ensure!((80..=82).contains(&passed), "{passed} passed");
    let expected = json!({"summary": {
        "packets": 302, "pass": passed, "answer": 0, "drop": 301 - passed, "noted": 0, "skipped": 1,
        "reasons": {"conforming": passed, "source_packets": 301 - passed},
        "limits": {"source": 301 - passed},
        "odd_times": 0, "untimed": 0, "assumed": lines[302]["summary"]["assumed"],
    }});
    ensure!(lines[302] == expected, "{}", lines[302]);
    let assumed = lines[302]["summary"]["assumed"].to_string();
    ensure!(assumed.contains("limits.toml") && assumed.contains("nothing is known of the host"), "{assumed}");

    let again =
        floodgate(&format!("replay --json --each --config {} {}", limits.display(), flood.display()))?;
    ensure!(again.stdout == said.stdout, "the result is the same every time");
    Ok(())
}

#[test]
fn a_table_for_people_explains_the_reasons() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let (flood, limits) = (path(&folder, "flood.pcap"), path(&folder, "limits.toml"));
    let said = floodgate(&format!("replay {}", flood.display()))?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(
        said.stdout.starts_with("302 packets: 301 would pass, 0 would be dropped, 1 not run\n"),
        "{said:?}"
    );
    let said =
        floodgate(&format!("replay --fail-on-drop --config {} {}", limits.display(), flood.display()))?;
    ensure!(said.code == 1 && said.stdout.contains("drop source_packets"), "{said:?}");
    Ok(())
}

#[test]
fn a_capture_that_cannot_be_read_to_its_end_is_named_and_ends_with_2() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let cases = [
        ("cut short", "cut.pcap", "is cut short: it ends within what follows frame 301"),
        ("no capture", "no.pcap", "is no capture"),
        ("not there", "none.pcap", "No such file"),
        ("a folder", "", "it is a folder"),
    ];
    for (why, name, expected) in cases {
        let said = floodgate(&format!("replay --json {}", path(&folder, name).display()))?;
        ensure!(said.code == 2 && said.stderr.contains(expected), "{why}: {said:?}");
        let last = said.stdout.lines().last().unwrap_or_default();
        ensure!(last.starts_with("{\"summary\":{"), "{why}: {said:?}");
    }
    // The readable part is judged all the same, and so is the next capture.
    let (cut, flood) = (path(&folder, "cut.pcap"), path(&folder, "flood.pcap"));
    let said = floodgate(&format!("replay --json {} {}", cut.display(), flood.display()))?;
    ensure!(said.code == 2 && said.stdout.contains("\"packets\":603"), "{said:?}");
    Ok(())
}

/// The summary of a replay.
fn summary(arguments: &str) -> Result<Value> {
    let said = floodgate(&format!("replay --json {arguments}"))?;
    ensure!(said.code == 0, "{said:?}");
    let last = said.stdout.lines().last().unwrap_or_default();
    Ok(serde_json::from_str::<Value>(last)?["summary"].take())
}

fn count(summary: &Value, key: &str) -> u64 {
    summary[key].as_u64().unwrap_or(0)
}

/// A flood that was recorded at a low rate is judged at that rate, not at the speed of an attack; unless a listener
/// wants it.
#[test]
fn a_flood_is_judged_at_its_speed_and_by_what_would_have_listened() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let spoofed = |number: u32| IpAddr::from(Ipv4Addr::from(0x0b00_0000 + 0x1_0001 * number));
    let syns: Vec<_> = (0..2_000).map(|n| (n * 10_000, from(spoofed(n)).syn(80).bytes())).collect();
    let datagrams: Vec<_> =
        (0..2_000).map(|n| (n * 10_000, from(spoofed(n)).udp(5_000, 53).bytes())).collect();
    let (syn, udp) = (path(&folder, "syn.pcap"), path(&folder, "udp.pcap"));
    fs::write(&syn, pcap(&syns))?;
    fs::write(&udp, pcap(&datagrams))?;
    let share = |summary: &Value, key: &str| count(summary, key) * 100 / count(summary, "packets").max(1);

    for file in [&syn, &udp] {
        let recorded = summary(&file.display().to_string())?;
        ensure!(count(&recorded, "pass") == 2_000, "{recorded}");
    }
    let at_speed = "--rate 500k/s --for 500ms";
    let nobody = summary(&format!("{at_speed} {}", syn.display()))?;
    ensure!(count(&nobody, "packets") >= 250_000 && share(&nobody, "drop") > 90, "{nobody}");
    ensure!(count(&nobody["reasons"], "no_listener") > 0, "{nobody}");
    let listens = summary(&format!("{at_speed} --listen tcp/80 {}", syn.display()))?;
    ensure!(share(&listens, "answer") > 10 && share(&listens, "pass") < 10, "{listens}");
    let at_once = summary(&format!("--speed 100000 --listen tcp/443 --local {SERVER} {}", syn.display()))?;
    ensure!(count(&at_once, "packets") == 2_000, "{at_once}");

    let nobody = summary(&format!("{at_speed} {}", udp.display()))?;
    ensure!(share(&nobody, "drop") > 90 && count(&nobody["reasons"], "no_socket") > 0, "{nobody}");
    let listens = summary(&format!("{at_speed} --listen tcp/80,udp/53 {}", udp.display()))?;
    ensure!(count(&listens["reasons"], "no_socket") == 0 && share(&listens, "pass") > 90, "{listens}");

    let said = floodgate(&format!("replay {at_speed} --listen tcp/80 --top 3 {}", syn.display()))?;
    for expected in [
        "most packets, by sources:",
        "most packets, by ports:",
        "tcp/80",
        "assumed: the host is 192.0.2.1, as packets for what listens go there",
        "assumed: listening is tcp/80, by --listen",
    ] {
        ensure!(said.stdout.contains(expected), "{expected}: {said:?}");
    }
    let top = summary(&format!("--top 2 {}", syn.display()))?;
    ensure!(
        top["top"]["ports"][0]
            == json!({
                "packets": 2_000, "verdict": "pass", "reason": "conforming", "what": "tcp/80",
            }),
        "{top}"
    );
    ensure!(top["top"]["sources"].as_array().is_some_and(|sources| sources.len() == 2), "{top}");
    Ok(())
}

/// What the host sends is not judged, but makes the replies solicited. Without it they are unsolicited if the host is
/// known.
#[test]
fn what_the_host_sends_is_noted_and_not_judged() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let question = from(SERVER).to(VISITOR).udp(40_000, 53).bytes();
    let answer = from(VISITOR).to(SERVER).udp(53, 40_000).bytes();
    // Nobody should send this, but the host may.
    let odd = from(SERVER).to(VISITOR).tcp(40_000, 53, 0).bytes();
    let asked = path(&folder, "asked.pcap");
    fs::write(&asked, pcap(&[(0, question.clone()), (1_000, odd), (2_000, answer.clone())]))?;
    let local = format!("--local {SERVER} {}", asked.display());
    let known = summary(&local)?;
    ensure!(count(&known, "noted") == 2 && count(&known["reasons"], "solicited") == 1, "{known}");
    let unknown = summary(&asked.display().to_string())?;
    ensure!(count(&unknown, "noted") == 0 && count(&unknown, "drop") == 1, "{unknown}");

    let unasked = path(&folder, "unasked.pcap");
    fs::write(&unasked, pcap(&[(0, answer)]))?;
    let known = summary(&format!("--local {SERVER} {}", unasked.display()))?;
    ensure!(count(&known["reasons"], "unsolicited") == 1, "{known}");
    let unknown = summary(&unasked.display().to_string())?;
    ensure!(count(&unknown, "pass") == 1, "nothing says who the host is, or what it has asked: {unknown}");
    // More ports than the filter has room for sockets.
    let many = path(&folder, "many.pcap");
    let questions = (10_000..15_000).map(|port| (0, from(SERVER).to(VISITOR).udp(port, 53).bytes()));
    fs::write(&many, pcap(&questions.collect::<Vec<_>>()))?;
    let said = summary(&format!("--local {SERVER} {}", many.display()))?;
    ensure!(said["assumed"].to_string().contains("known in part only"), "{said}");
    ensure!(!known["assumed"].to_string().contains("known in part only"), "{known}");
    let said = floodgate(&format!("replay --listen http {}", unasked.display()))?;
    ensure!(said.code == 2 && said.stderr.contains("write tcp/443 or udp/53"), "{said:?}");
    Ok(())
}

#[test]
fn a_capture_comes_by_standard_input_and_compressed() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let flood = path(&folder, "flood.pcap");
    let zipped = run(Command::new("gzip").arg("--keep").arg(&flood))?;
    ensure!(zipped.code == 0, "{zipped:?}");
    for name in ["flood.pcap", "flood.pcap.gz"] {
        for pipe in [false, true] {
            let mut command = Command::new(binary()?);
            command.args(["replay", "--json", "-"]);
            let file = path(&folder, name);
            let mut cat = None;
            if pipe {
                let mut child = Command::new("cat").arg(&file).stdout(Stdio::piped()).spawn()?;
                command.stdin(child.stdout.take().map_or(Stdio::null(), Stdio::from));
                cat = Some(child);
            } else {
                command.stdin(fs::File::open(&file)?);
            }
            let said = command.output()?;
            if let Some(mut cat) = cat {
                cat.wait()?;
            }
            let text = String::from_utf8(said.stdout)?;
            ensure!(said.status.success() && text.contains("\"packets\":302"), "{name}: {text}");
        }
    }
    Ok(())
}

/// One frame an hour ahead, in a second of pings within their limit; a clock that is set back; and no timestamps at
/// all.
#[test]
fn no_frame_stops_the_clock_for_the_others() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let hour = 3_600_000_000;
    let pings = |time: &dyn Fn(u32) -> u32| {
        pcap(&(0..300).map(|n| (time(n), from(VISITOR).syn(80).bytes())).collect::<Vec<_>>())
    };
    let cases: [(&str, Vec<u8>, u64, u64); 4] = [
        ("as it should be", pings(&|n| n * 12_000), 0, 0),
        ("one ahead", pings(&|n| if n == 10 { hour } else { n * 12_000 }), 1, 0),
        ("set back", pings(&|n| if n < 100 { hour + n * 12_000 } else { n * 12_000 }), 1, 0),
        (
            "no times",
            {
                let mut file = pings(&|_| 0);
                // The file header, then each frame's header.
                let length = 16 + from(VISITOR).syn(80).bytes().len();
                file[24..].chunks_mut(length).for_each(|record| record[..8].fill(0));
                file
            },
            0,
            300,
        ),
    ];
    let capture = path(&folder, "pings.pcap");
    for (why, bytes, odd, untimed) in cases {
        fs::write(&capture, bytes)?;
        let limits = path(&folder, "limits.toml");
        let said = summary(&format!("--config {} {}", limits.display(), capture.display()))?;
        ensure!(count(&said, "pass") == 300, "{why}: {said}");
        ensure!((count(&said, "odd_times"), count(&said, "untimed")) == (odd, untimed), "{why}: {said}");
    }
    Ok(())
}

#[test]
fn a_copy_of_a_feed_is_believed_as_the_daemon_believes_it() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = folder()?;
    let (flood, file) = (path(&folder, "flood.pcap"), path(&folder, "feed.toml"));
    let state = folder.path().display();
    let text = format!(
        "state = \"{state}\"\n[[block.feed]]\nname = \"drop\"\nurl = \"http://192.0.2.9/drop.txt\"\n"
    );
    fs::write(&file, &text)?;
    let config = Config::parse(&text, Path::new(""))?;
    let feed = &config.list(ListKind::Block).feeds[0];
    let keep = |copy: String| {
        let stamp = Stamp::of(&feed.source);
        Copies::within(folder.path()).store(ListKind::Block, &feed.name, copy.as_bytes(), &stamp)
    };
    let arguments = format!("--config {} {}", file.display(), flood.display());
    keep(format!("{ATTACKER}\nx\n"))?;
    let blocked = summary(&arguments)?;
    ensure!(count(&blocked["reasons"], "blocked") == 300, "{blocked}");
    for (why, copy) in [
        ("most of it cannot be read", format!("{ATTACKER}\nplease\nlog in\n")),
        ("a page", "<html>\n".to_owned()),
    ] {
        keep(copy)?;
        let said = floodgate(&format!("replay {arguments}"))?;
        ensure!(said.code == 2 && said.stderr.contains("copy of the feed drop"), "{why}: {said:?}");
    }
    Ok(())
}
