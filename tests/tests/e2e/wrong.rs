//! Mistakes of first-time users, and the messages they cause. Each message names what was tried, on what, why it
//! failed and what to do; the exit code says who is at fault.

use std::{fs, process::Command};

use anyhow::{Result, ensure};
use floodgate_tests::{
    daemon::{Said, binary, floodgate, run},
    lab::Namespace,
    needs_root, same_on_every_kernel,
    skip::{kernel_series, skip, test_name},
};
use tempfile::TempDir;

/// Why, the arguments, the exit code, and parts of the message.
type Case = (&'static str, &'static str, i32, &'static [&'static str]);

fn check_all(cases: &[Case], mut run: impl FnMut(&str) -> Result<Said>) -> Result<()> {
    for (why, arguments, code, parts) in cases {
        let said = run(arguments)?;
        ensure!(said.code == *code, "{why}: {said:?}");
        for part in *parts {
            ensure!(said.stderr.contains(part), "{why}: {part:?} is missing in {:?}", said.stderr);
        }
        ensure!(!said.stderr.contains("panicked"), "{why}: {said:?}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_cannot_start_says_why_and_what_to_do() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = Namespace::new("wrong")?;
    here.ip("link add eth0 type veth peer name eth1")?;
    let folder = tempfile::tempdir()?;
    let in_folder = |name: &str| folder.path().join(name).display().to_string();
    fs::write(in_folder("bad.toml"), "mode = \"enforce\"\n[limit.source]\npakets = \"1k/s\"\n")?;
    fs::write(in_folder("missing-list.toml"), "[block]\nfiles = [\"nowhere.txt\"]\n")?;
    fs::write(in_folder("metrics.toml"), "[control]\nmetrics = \"0.0.0.0:9472\"\n")?;
    fs::write(in_folder("file"), "")?;

    let cases: [Case; 8] = [
        ("no interface", "run", 2, &["no interface to guard: name one (`floodgate run eth0`)"]),
        ("no such interface", "run eth7", 2, &["there is no interface eth7. There are: lo, eth1, eth0"]),
        ("a name that cannot be", "run a/b", 2, &["a/b"]),
        ("no such configuration", "run --config FOLDER/none.toml eth0", 2, &["none.toml", "No such file"]),
        (
            "a key that does not exist",
            "run --config FOLDER/bad.toml eth0",
            2,
            &["bad.toml:3:1", "pakets", "packets"],
        ),
        (
            "a list that is not there",
            "run --config FOLDER/missing-list.toml eth0",
            2,
            &["nowhere.txt", "No such file"],
        ),
        ("metrics for the whole world", "run --config FOLDER/metrics.toml eth0", 2, &["control.metrics"]),
        ("a socket in a file", "run --socket FOLDER/file/socket eth0", 4, &["making the control socket"]),
    ];
    check_starts(&here, &folder, &cases)
}

#[test]
fn an_interface_that_the_kernel_cannot_guard_is_named_with_what_to_do() -> Result<()> {
    needs_root!();
    let here = Namespace::new("wrong")?;
    here.ip("link add narrow numrxqueues 1 type veth peer name wide numtxqueues 2")?;
    run(here.command("ethtool")?.args(["-L", "wide", "tx", "2"]))?;
    let folder = tempfile::tempdir()?;
    let unchecked = "[sanity]\nland = false\nloopback_source = false\n";
    fs::write(folder.path().join("unchecked.toml"), unchecked)?;
    let cases: [Case; 3] = [
        ("it is the loopback", "run lo", 4, &["lo is the loopback", "--force"]),
        (
            "the driver has none",
            "run --force --config FOLDER/unchecked.toml lo",
            4,
            &["of lo has no native XDP", "--attach generic"],
        ),
        (
            "fewer queues here than the peer sends by",
            "run narrow",
            4,
            &["driver veth of narrow refuses native XDP as the interface is set up", "ethtool -L"],
        ),
    ];
    check_starts(&here, &folder, &cases)
}

/// Checks starts that have to fail and to leave nothing attached; `FOLDER` stands for this folder.
fn check_starts(here: &Namespace, folder: &TempDir, cases: &[Case]) -> Result<()> {
    check_all(cases, |arguments| {
        let arguments = arguments.replace("FOLDER", &folder.path().display().to_string());
        // A daemon that starts unexpectedly ends by itself.
        let mut command = here.command("timeout")?;
        command.arg("20").arg(binary()?);
        if !arguments.contains("--socket") {
            command.arg("--socket").arg(folder.path().join("socket"));
        }
        run(command.args(arguments.split_whitespace()))
    })?;
    ensure!(!here.ip("-d link show")?.contains("prog/xdp"), "an interface has a program");
    Ok(())
}

#[test]
fn without_privileges_what_is_missing_is_named() -> Result<()> {
    needs_root!();
    let here = Namespace::new("powerless")?;
    here.ip("link add eth0 type veth peer name eth1")?;
    let folder = tempfile::tempdir()?;
    let powerless = |arguments: &[&str]| {
        let mut command = here.command("setpriv")?;
        // Root without any capability, which may still read the binary.
        command.args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(binary()?);
        command.arg("--socket").arg(folder.path().join("socket")).args(arguments);
        run(&mut command)
    };
    let (ran, examined) = (powerless(&["run", "eth0"])?, powerless(&["doctor", "eth0"])?);
    ensure!(ran.code == 4, "{ran:?}");
    ensure!(examined.code == 1, "{examined:?}");
    for part in ["not permitted", "root", "CAP_BPF", "CAP_NET_ADMIN"] {
        ensure!(ran.stderr.contains(part), "{part}: {ran:?}");
        ensure!(examined.stdout.contains(part), "{part}: {examined:?}");
    }
    Ok(())
}

#[test]
fn a_kernel_below_the_floor_is_refused_by_name() -> Result<()> {
    needs_root!();
    let (major, minor) = kernel_series()?;
    if (major, minor) >= (6, 1) {
        skip(test_name(|| {}), "needs a kernel older than 6.1");
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let said = floodgate(&format!("--socket {}/socket run lo", folder.path().display()))?;
    ensure!(said.code == 4, "{said:?}");
    let message = format!("this is Linux {major}.{minor}; Floodgate needs 6.1 or newer");
    ensure!(said.stderr.contains(&message), "{said:?}");
    Ok(())
}

#[test]
fn a_configuration_is_checked_without_root_or_daemon() -> Result<()> {
    same_on_every_kernel!();
    let folder = tempfile::tempdir()?;
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
    write("right.toml", "interfaces = [\"eth0\"]\n[block]\nfiles = [\"list.txt\"]\n")?;
    write("list.txt", "192.0.2.1\n# nothing\n198.51.100.0/24\n")?;
    write("unit.toml", "[limit.source]\npackets = \"20k\"\n")?;
    write("syntax.toml", "mode = \n")?;
    write("bad-line.toml", "[block]\nfiles = [\"bad.txt\"]\n")?;
    write("bad.txt", "192.0.2.1\nnonsense\n")?;
    let check = |name: &str| -> Result<Said> {
        let mut command = Command::new(binary()?);
        command.arg("check").arg(folder.path().join(name));
        run(&mut command)
    };
    let said = check("right.toml")?;
    ensure!(said.code == 0 && said.stdout.contains("block list: 2 entries"), "{said:?}");
    ensure!(said.stdout.ends_with("right.toml: right\n"), "{said:?}");
    ensure!(said.stdout.contains("list.txt, read as addresses\n"), "{said:?}");
    let mut command = Command::new(binary()?);
    let said = run(command.args(["check", "--json"]).arg(folder.path().join("bad-line.toml")))?;
    ensure!(said.code == 1 && said.stderr.is_empty(), "{said:?}");
    ensure!(said.stdout.contains("bad.txt: line 2: ") && said.stdout.contains("\"addresses\""), "{said:?}");
    let cases: [Case; 4] = [
        ("a number without unit", "unit.toml", 2, &["unit.toml:2:11", "limit.source.packets", "20k/s"]),
        ("no TOML", "syntax.toml", 2, &["syntax.toml:1:8"]),
        ("no file", "none.toml", 2, &["none.toml", "No such file"]),
        ("a bad line in a list", "bad-line.toml", 1, &["bad.txt: line 2: ", "nonsense"]),
    ];
    check_all(&cases, check)
}

#[test]
fn a_command_line_that_makes_no_sense_is_explained() -> Result<()> {
    same_on_every_kernel!();
    let cases: [Case; 5] = [
        ("no verb", "", 2, &["Usage: floodgate"]),
        ("an unknown verb", "start", 2, &["unrecognized subcommand 'start'"]),
        ("no address", "trace eth0", 2, &["invalid value 'eth0'"]),
        ("no such mode", "mode off", 2, &["enforce, monitor"]),
        ("nothing to block", "block add", 2, &["<PREFIX>"]),
    ];
    check_all(&cases, floodgate)
}
