//! `floodgate replay`: its output is an interface.

use std::{fs, path::PathBuf};

use anyhow::{Result, ensure};
use floodgate_tests::{
    daemon::floodgate,
    needs_root,
    packet::{ATTACKER, VISITOR, from},
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
        lines[0] == json!({"file": flood, "n": 1, "verdict": "pass", "reason": "conforming"}),
        "{}",
        lines[0]
    );
    ensure!(lines[299] == json!({"file": flood, "n": 300, "verdict": "drop", "reason": "source_packets"}));
    ensure!(lines[300] == json!({"file": flood, "n": 301, "verdict": "pass", "reason": "conforming"}));
    ensure!(lines[301] == json!({"file": flood, "n": 302, "verdict": "skipped"}), "{}", lines[301]);
    // By the capture's own clock: the burst, 100 a second for 0.3 s, the packet that begins in time, the visitor.
    let passed = lines[..301].iter().filter(|line| line["verdict"] == "pass").count();
    ensure!((80..=82).contains(&passed), "{passed} passed");
    let expected = json!({"summary": {
        "packets": 302, "pass": passed, "drop": 301 - passed, "skipped": 1,
        "reasons": {"conforming": passed, "source_packets": 301 - passed},
    }});
    ensure!(lines[302] == expected, "{}", lines[302]);

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
        ("a folder", "", "directory"),
    ];
    for (why, name, expected) in cases {
        let said = floodgate(&format!("replay --json {}", path(&folder, name).display()))?;
        ensure!(said.code == 2 && said.stderr.contains(expected), "{why}: {said:?}");
        let last = said.stdout.lines().last().unwrap_or_default();
        ensure!(last.starts_with("{\"summary\":{"), "{why}: {said:?}");
    }
    // What could be read is judged all the same, and the next capture as well.
    let (cut, flood) = (path(&folder, "cut.pcap"), path(&folder, "flood.pcap"));
    let said = floodgate(&format!("replay --json {} {}", cut.display(), flood.display()))?;
    ensure!(said.code == 2 && said.stdout.contains("\"packets\":603"), "{said:?}");
    Ok(())
}
