//! Lists with several origins, entries that are kept out of them, and that a checked configuration works when it
//! runs.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use flood_userspace::{
    config::DEFAULT_PATH,
    control::protocol::{ListReply, Status},
};
use floodgate_tests::{
    daemon::{Daemon, Said, binary, run},
    lab::{Lab, Namespace, Role, eventually},
    needs_root,
    packet::{ATTACKER, from},
    same_on_every_kernel,
    skip::{skip, test_name},
};

use super::{
    commands::Guarded,
    feeds::{blocked, feed, pairs},
    traffic::dropped,
};

#[test]
fn a_prefix_stays_while_anybody_holds_it() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("[block]\nentries = [\"198.51.100.66\"]\n")?;
    let daemon = &guarded.daemon;
    let folder = tempfile::tempdir()?;
    let path = folder.path().canonicalize()?.join("drop.txt");
    let path = path.display();
    fs::write(path.to_string(), "198.51.100.66\n203.0.113.9\n")?;

    daemon.tell("block add 198.51.100.66 203.0.113.9 --ttl 1h --reason flood")?;
    daemon.tell(&format!("block import {path}"))?;
    let import = format!("import {path}");
    let all = pairs(&[
        ("198.51.100.66/32", "config"),
        ("198.51.100.66/32", &import),
        ("198.51.100.66/32", "operator"),
        ("203.0.113.9/32", &import),
        ("203.0.113.9/32", "operator"),
    ]);
    ensure!(blocked(daemon)? == all, "{:?}", blocked(daemon)?);
    ensure!(daemon.read::<Status>("status")?.blocked.ipv4 == 2, "prefixes are counted once");
    let added = daemon.log();
    let added = added.lines().find(|line| line.contains("203.0.113.9/32")).context("not in the log")?;
    ensure!(added.contains("2 added") && added.contains("for 1h: flood"), "{added}");

    // Each command removes its own entries, and reports which origins hold the rest.
    let said = daemon.ask("block del 198.51.100.66 203.0.113.9")?;
    ensure!(said.code == 1 && said.stdout == "2 removed\n", "{said:?}");
    for expected in [
        "198.51.100.66/32 stays, for another has it (config): take it out of the configuration and `floodgate reload`",
        &format!(
            "203.0.113.9/32 stays, for another has it ({import}): `floodgate block del --import {path} 203.0.113.9/32`"
        ),
    ] {
        ensure!(said.stderr.contains(expected), "{expected}: {said:?}");
    }
    guarded.send(&from(ATTACKER).syn(80))?;
    eventually("it is blocked", || dropped(daemon, "blocked").is_ok_and(|packets| packets == 1))?;

    let said = daemon.ask(&format!("block del --import {path} 198.51.100.66"))?;
    ensure!(said.code == 1 && said.stderr.contains("(config)"), "{said:?}");
    daemon.tell(&format!("block del --import {path}"))?;
    ensure!(blocked(daemon)? == pairs(&[("198.51.100.66/32", "config")]), "{:?}", blocked(daemon)?);
    let said = daemon.ask("block del --import nobody")?;
    ensure!(said.code == 1 && said.stderr.contains("there are none"), "{said:?}");

    daemon.rewrite("")?;
    daemon.tell("reload")?;
    ensure!(blocked(daemon)?.is_empty(), "{:?}", blocked(daemon)?);
    guarded.send(&from(ATTACKER).syn(80))?;
    eventually("it passes", || {
        dropped(daemon, "blocked").is_ok_and(|packets| packets == 1)
            && daemon.tell("stats").is_ok_and(|text| text.contains("pass conforming"))
    })?;
    Ok(())
}

#[test]
fn a_request_over_the_socket_means_what_the_same_words_mean() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let send = |method: &str, body: &str| {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--request", method, "--header", "content-type: application/json"]);
        curl.arg("--unix-socket").arg(guarded.daemon.socket()).args(["--data", body]);
        run(curl.arg("http://floodgate/v1/lists/block"))
    };
    let said = send("POST", r#"{"prefixes": ["::ffff:9.9.9.9/128", "198.51.100.66/24"]}"#)?;
    ensure!(said.stdout.contains("\"added\":2"), "{said:?}");
    let expected = pairs(&[("9.9.9.9/32", "operator"), ("198.51.100.0/24", "operator")]);
    ensure!(blocked(&guarded.daemon)? == expected, "{:?}", blocked(&guarded.daemon)?);
    let said = send("DELETE", r#"{"prefixes": ["::ffff:9.9.9.9/128"]}"#)?;
    ensure!(said.stdout.contains("\"removed\":1"), "{said:?}");
    for (body, expected) in [
        (r#"{"prefixes": ["::ffff:9.9.9.9/64"]}"#, "from 96 to 128"),
        (r#"{"prefixes": ["::9.9.9.9/128"]}"#, "write 9.9.9.9/32"),
        (r#"{"prefixes": ["9.9.9.9/32"], "file": ""}"#, "the name of an import"),
        (r#"{"prefixes": [], "replace": true}"#, "`replace` is for an import"),
    ] {
        let said = send("POST", body)?;
        ensure!(said.stdout.contains(expected), "{body}: {said:?}");
    }
    guarded.send(&from(ATTACKER).syn(80))?;
    eventually("it is blocked", || dropped(&guarded.daemon, "blocked").is_ok_and(|packets| packets == 1))?;
    Ok(())
}

#[test]
fn an_import_has_a_name_and_is_doubted_like_a_feed() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let daemon = &guarded.daemon;
    let folder = tempfile::tempdir()?;
    fs::create_dir(folder.path().join("sub"))?;
    let write = |text: &str| fs::write(folder.path().join("drop.txt"), text);
    let import = |arguments: &str| -> Result<Said> {
        let mut command = daemon.command(&format!("block import {arguments}"))?;
        run(command.current_dir(folder.path()))
    };
    let many = |count: u32| (0..count).map(|n| format!("10.0.{}.{}\n", n / 256, n % 256)).collect::<String>();

    write(&many(30))?;
    ensure!(import("drop.txt")?.code == 0);
    daemon.tell("block add 10.0.0.7")?;
    // However its path is written, it is the same file.
    write(&many(20))?;
    let said = import("./sub/../drop.txt --replace")?;
    ensure!(said.stdout.ends_with("\nblock list: 0 added, 20 replaced, 10 removed\n"), "{said:?}");

    let eighths: String = (0..8).map(|n| format!("{}.0.0.0/3\n", n * 32)).collect();
    let cases = [
        ("empty", String::new(), "it has no entries, and had 20 entries"),
        ("a page", "<html>\n<p>404\n".to_owned(), "line 1: this is a page of the web"),
        ("almost empty", many(1), "it has 1 entry, and had 20 entries"),
        ("all of a sudden many", many(10_021), "it has 10021 entries, and had 20 entries"),
        ("the Internet", eighths, "it covers 100 % of IPv4, and 25 % is the most"),
        ("all of it", "0.0.0.0/0\n".to_owned(), "it covers more than a /3"),
    ];
    for (why, text, expected) in cases {
        write(&text)?;
        let said = import("drop.txt --replace")?;
        ensure!(said.code == 2 && said.stderr.contains(expected), "{why}: {said:?}");
        ensure!(daemon.read::<Status>("status")?.blocked.ipv4 == 20, "{why}");
    }
    write("")?;
    let said = import("drop.txt --replace --force")?;
    ensure!(said.stdout.ends_with("block list: 0 added, 20 removed\n"), "{said:?}");
    ensure!(blocked(daemon)? == pairs(&[("10.0.0.7/32", "operator")]), "{:?}", blocked(daemon)?);

    // With a name of its own.
    fs::write(folder.path().join("a"), "192.0.2.7\n")?;
    fs::write(folder.path().join("b"), "192.0.2.8\n192.0.2.9\n")?;
    ensure!(import("a b --name both")?.stdout.ends_with("block list: 3 added\n"));
    let said = import("b --name both --replace")?;
    ensure!(said.stdout.ends_with("block list: 0 added, 2 replaced, 1 removed\n"), "{said:?}");
    // An import that expires sooner does not shorten an entry.
    let said = import("b --name both --ttl 1h")?;
    ensure!(said.stdout.ends_with("block list: 0 added, 2 kept, as they end later\n"), "{said:?}");
    Ok(())
}

#[test]
fn what_this_host_needs_is_kept_out_of_feeds_files_and_imports() -> Result<()> {
    const BOGONS: &str = "0.0.0.0/8\n10.0.0.0/8\n127.0.0.0/8\n172.16.0.0/12\n192.0.0.0/24\n198.51.100.0/24\n224.0.0.0/3\nfe80::/10\n";

    same_on_every_kernel!();
    needs_root!();
    let lab = Lab::new()?;
    let host = lab.host(Role::Server);
    host.ip("link add lan0 type veth peer name lan1")?;
    host.ip("link set lan1 up")?;
    host.ip("link set lan0 up")?;
    host.ip("address add 10.1.2.3/24 dev lan0 nodad")?;
    host.ip("route add 203.0.113.128/25 via 10.1.2.254")?;
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("bogons");
    fs::write(&list, BOGONS)?;
    let (list, state) = (list.display(), folder.path().join("state"));
    let config = |more: &str| {
        let feed = format!("[[block.feed]]\nname = \"bogons\"\npath = \"{list}\"\n{more}");
        format!("state = \"{}\"\n[block]\nfiles = [\"{list}\"]\n{feed}", state.display())
    };
    let daemon = Daemon::start(host, &config(""), "eth0")?;
    eventually("the feed is read", || feed(&daemon, "bogons").is_ok_and(|feed| feed.entries == 8))?;
    let is_blocked = |daemon: &Daemon, address: &str| -> Result<Vec<String>> {
        let said = daemon.ask(&format!("block test {address} --json"))?;
        let list: ListReply = serde_json::from_str(&said.stdout)?;
        Ok(list.entries.into_iter().map(|entry| entry.origin).collect())
    };
    let both = [format!("file {list}"), "feed bogons".to_owned()];
    for needed in ["10.1.2.3", "10.1.2.254", "10.1.2.77", "0.0.0.0", "127.0.0.1", "fe80::1"] {
        ensure!(is_blocked(&daemon, needed)?.is_empty(), "{needed} is blocked");
    }
    for bogon in ["10.1.3.1", "10.200.0.1", "172.16.0.1", "198.51.100.1", "240.0.0.1"] {
        ensure!(is_blocked(&daemon, bogon)? == both, "{bogon}: {:?}", is_blocked(&daemon, bogon)?);
    }
    let status = feed(&daemon, "bogons")?;
    ensure!(status.withheld == 4 && status.first_withheld.len() == 4, "{status:?}");
    let text = daemon.tell("feed list")?;
    ensure!(text.contains("withheld: 10.0.0.0/8 is in force but for 10.1.2."), "{text}");
    let warnings = daemon.read::<Status>("status")?.warnings;
    for origin in &both {
        ensure!(
            warnings.iter().any(|warning| warning.contains(&format!("block list, {origin}: "))),
            "{warnings:?}"
        );
    }
    // The same prefix, and a neighbour, by hand and by import.
    for (prefix, code) in [("10.1.2.254", 2), ("10.1.2.0/25", 2), ("10.0.0.0/8", 2), ("10.1.2.77", 0)] {
        let said = daemon.ask(&format!("block add {prefix}"))?;
        ensure!(said.code == code && (code == 0 || said.stderr.contains("--force")), "{prefix}: {said:?}");
    }
    let said = daemon.ask(&format!("block import {list} --name mine"))?;
    ensure!(said.code == 0 && said.stdout.contains("4 left out or cut"), "{said:?}");
    ensure!(said.stderr.contains("fe80::/10 is left out because of fe80::/10"), "{said:?}");
    // The same file again is neither shorter nor different, and a list of the same name elsewhere does not affect its
    // guard.
    let said = daemon.ask(&format!("block import {list} --name mine --replace"))?;
    ensure!(said.code == 0 && said.stdout.contains("4 left out or cut"), "{said:?}");
    let said = daemon.ask(&format!("block import {list} --name mine"))?;
    ensure!(said.code == 0 && said.stdout.contains("4 left out or cut"), "{said:?}");
    fs::write(format!("{list}.allow"), "203.0.113.9\n")?;
    daemon.tell(&format!("allow import {list}.allow --name mine --force"))?;
    daemon.tell("allow del --import mine 203.0.113.9")?;

    // A newly added address is excluded, and a removed one is included again.
    host.ip("address add 198.51.100.1/24 dev lan0")?;
    eventually("the new address is kept out", || {
        is_blocked(&daemon, "198.51.100.1").is_ok_and(|origins| origins.is_empty())
    })?;
    ensure!(is_blocked(&daemon, "198.51.100.200")?.is_empty(), "its network");
    host.ip("address del 198.51.100.1/24 dev lan0")?;
    eventually("what has gone is blocked again", || {
        is_blocked(&daemon, "198.51.100.1").is_ok_and(|origins| origins.len() == 3)
    })?;
    ensure!(is_blocked(&daemon, "10.1.2.3")?.is_empty());
    let said = daemon.ask(&format!("block import {list} --name mine --force"))?;
    ensure!(said.code == 0 && is_blocked(&daemon, "10.1.2.3")? == ["import mine"], "{said:?}");
    daemon.tell("block del --import mine")?;

    // Unless the configuration allows it.
    daemon.rewrite(&config("may_cover_host = true\n"))?;
    daemon.tell("reload")?;
    eventually("the feed may", || {
        is_blocked(&daemon, "10.1.2.3").is_ok_and(|origins| origins == ["feed bogons"])
    })?;
    daemon.rewrite(
        &config("may_cover_host = true\n").replace("[block]\n", "[block]\nmay_cover_host = true\n"),
    )?;
    daemon.tell("reload")?;
    ensure!(is_blocked(&daemon, "10.1.2.3")? == both);
    ensure!(daemon.read::<Status>("status")?.warnings.is_empty());
    Ok(())
}

#[test]
fn a_feed_that_covers_the_internet_or_explodes_is_not_believed() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("list");
    let eighths: String = (0..8).map(|n| format!("{}.0.0.0/3\n", n * 32)).collect();
    fs::write(&list, eighths)?;
    let config = |more: &str| {
        let state = folder.path().join("state");
        let (state, list) = (state.display(), list.display());
        format!("state = \"{state}\"\n[[block.feed]]\nname = \"list\"\npath = \"{list}\"\n{more}")
    };
    let guarded = Guarded::new(&config(""))?;
    let daemon = &guarded.daemon;
    let said = daemon.ask("feed refresh --force")?;
    ensure!(said.code == 1 && said.stdout.contains("it covers 100 % of IPv4"), "{said:?}");
    ensure!(said.stdout.contains("max_coverage = \"100%\""), "{said:?}");
    ensure!(blocked(daemon)?.is_empty());

    let many = |count: u32| (0..count).map(|n| format!("10.0.{}.{}\n", n / 256, n % 256)).collect::<String>();
    fs::write(&list, many(1_000))?;
    daemon.tell("feed refresh")?;
    fs::write(&list, many(12_000))?;
    let said = daemon.ask("feed refresh")?;
    ensure!(said.code == 1 && said.stdout.contains("it has 12000 entries, and had 1000 entries"), "{said:?}");
    ensure!(said.stdout.contains("may_grow = true") && said.stdout.contains("--force"), "{said:?}");
    ensure!(feed(daemon, "list")?.entries == 1_000);
    daemon.tell("feed refresh --force")?;
    ensure!(feed(daemon, "list")?.entries == 12_000);
    fs::write(&list, many(1_000))?;
    daemon.rewrite(&config("may_shrink = true\nmay_grow = true\n"))?;
    daemon.tell("reload")?;
    eventually("it may shrink", || feed(daemon, "list").is_ok_and(|feed| feed.entries == 1_000))?;
    fs::write(&list, many(12_000))?;
    daemon.tell("feed refresh")?;
    Ok(())
}

/// Why, the configuration, and whether it is usable.
type Usable = (&'static str, String, bool);

#[test]
fn what_check_accepts_run_and_reload_accept() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = Namespace::new("checked")?;
    here.ip("link add eth0 type veth peer name eth1")?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    let quarters = |from: u32, count: u32| -> String {
        (from..from + count).map(|n| format!("10.{}.{}.0/25\n", n / 256, n % 256)).collect()
    };
    fs::write(path("long"), quarters(0, 3_000))?;
    fs::write(path("fits"), quarters(0, 2_688))?;
    fs::write(path("allow"), quarters(10_000, 384))?;
    fs::write(
        path("proven"),
        (0..65_000).map(|n| format!("10.0.{}.{}\n", n / 256, n % 256)).collect::<String>(),
    )?;
    fs::write(path("all"), "0.0.0.0/1\n")?;
    fs::write(path("bad"), "192.0.2.77\nnonsense\n")?;
    let list = |list: &str, file: &str| format!("[{list}]\nfiles = [\"{}\"]\n", path(file));
    let small = "[lists]\nipv4 = 1000\n";
    let cases: Vec<Usable> = vec![
        ("nothing", String::new(), true),
        ("more than there is room for", format!("{small}{}", list("block", "long")), false),
        ("more room", format!("[lists]\nipv4 = 500000\n{}", list("block", "long")), true),
        ("just as much as there is room for", format!("{small}{}", list("block", "fits")), true),
        ("and the allow list", format!("{small}{}{}", list("block", "fits"), list("allow", "allow")), false),
        ("too many by evidence", list("allow_proven", "proven"), false),
        ("half the Internet", list("block", "all"), false),
        ("half the Internet, allowed", list("allow", "all"), false),
        ("as it is meant", list("allow", "all") + "max_coverage = \"50%\"\n", true),
        ("all of it", "[block]\nentries = [\"0.0.0.0/0\"]\n".into(), false),
        ("no such file", list("block", "nowhere"), false),
        ("a folder", format!("[block]\nfiles = [\"{}\"]\n", folder.path().display()), false),
        ("the same interface twice", "interfaces = [\"eth0\", \"eth0\"]\n".into(), false),
        ("a feed that is not there", "[[block.feed]]\nname = \"a\"\npath = \"/nowhere\"\n".into(), true),
    ];
    let daemon = Daemon::start(&here, "", "eth0")?;
    for (why, text, is_right) in &cases {
        let config = path("floodgate.toml");
        fs::write(&config, format!("state = \"{}\"\n{text}", path("state")))?;
        let checked = run(Command::new(binary()?).args(["check", &config]))?;
        ensure!((checked.code == 0) == *is_right, "check, {why}: {checked:?}");
        let started = start(&here, folder.path(), &config)?;
        ensure!(started.is_none() == *is_right, "run, {why}: {started:?}");
        // What requires a restart is not applied by a reload.
        if !text.contains("[lists]\nipv4 = ") {
            daemon.rewrite(&fs::read_to_string(&config)?)?;
            let reloaded = daemon.ask("reload")?;
            ensure!((reloaded.code == 0) == *is_right, "reload, {why}: {reloaded:?}");
        }
    }
    // An unreadable line stops neither, and both report it.
    let config = path("floodgate.toml");
    fs::write(&config, list("block", "bad"))?;
    let checked = run(Command::new(binary()?).args(["check", "--json", &config]))?;
    let found: serde_json::Value = serde_json::from_str(&checked.stdout)?;
    ensure!(checked.code == 1 && found["lists"][1]["entries"] == 1, "{checked:?}");
    ensure!(found["problems"][0].as_str().is_some_and(|text| text.contains("line 2: ")), "{checked:?}");
    Ok(())
}

/// Returns the error of a daemon that does not start; nothing if it starts.
fn start(here: &Namespace, folder: &Path, config: &str) -> Result<Option<String>> {
    let mut command = here.command("timeout")?;
    command.args(["--signal=TERM", "60"]).arg(binary()?).arg("--socket").arg(folder.join("socket"));
    command.args(["run", "--config", config, "eth1"]).stderr(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    let asked = || {
        let mut ask = Command::new(binary()?);
        run(ask.arg("--socket").arg(folder.join("socket")).arg("status"))
    };
    let mut ended = None;
    eventually("it starts or ends", || {
        ended = child.try_wait().ok().flatten();
        ended.is_some() || asked().is_ok_and(|said| said.code == 0)
    })?;
    if ended.is_none() {
        run(Command::new(binary()?).arg("--socket").arg(folder.join("socket")).arg("detach"))?;
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((!output.status.success()).then_some(said))
}

#[test]
fn a_daemon_without_a_configuration_is_reloaded_and_an_interface_may_be_named_twice() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    if Path::new(DEFAULT_PATH).exists() {
        skip(test_name(|| {}), &format!("there is a {DEFAULT_PATH}, of whoever runs the tests"));
        return Ok(());
    }
    let here = Namespace::new("plain")?;
    here.ip("link add eth0 type veth peer name eth1")?;
    let folder = tempfile::tempdir()?;
    let socket = folder.path().join("socket");
    let mut command = here.command("timeout")?;
    command.arg("60").arg(binary()?).arg("--socket").arg(&socket).args(["run", "eth0", "eth1", "eth0"]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn()?;
    let ask = |words: &str| run(Command::new(binary()?).arg("--socket").arg(&socket).args(words.split(' ')));
    eventually("it answers", || ask("status").is_ok_and(|said| said.code == 0))?;
    let said = ask("reload")?;
    ensure!(said.code == 0 && said.stderr.contains("there is no /etc/floodgate/floodgate.toml"), "{said:?}");
    let said = ask("detach eth1 eth0 eth1")?;
    ensure!(said.code == 0 && said.stdout.contains("let go: eth0, eth1; nothing is left"), "{said:?}");
    child.wait()?;
    Ok(())
}

#[test]
fn a_file_that_is_suddenly_empty_or_something_else_changes_nothing() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("list");
    let many: String = (0..100).map(|n| format!("10.7.0.{n}\n")).collect();
    fs::write(&list, &many)?;
    let guarded = Guarded::new(&format!("[block]\nfiles = [\"{}\"]\n", list.display()))?;
    let daemon = &guarded.daemon;
    let blocked = || -> Result<u64> { Ok(daemon.read::<Status>("status")?.blocked.ipv4) };
    let cases = [
        ("empty", "", "it has no entries, and had 100 entries"),
        ("almost empty", "10.7.0.1\n", "it has 1 entry, and had 100 entries"),
        ("an error", "Service Unavailable\nplease retry\n", "this is no list"),
        // A truncated line.
        ("cut", &format!("{many}45.128.0.0/3"), "45.128.0.0/3"),
    ];
    for (why, text, expected) in cases {
        fs::write(&list, text)?;
        let said = daemon.ask("reload")?;
        ensure!(said.stderr.contains(expected), "{why}: {said:?}");
        ensure!(why == "cut" || said.code == 2, "{why}: {said:?}");
        ensure!(blocked()? == 100, "{why}: {}", blocked()?);
    }
    fs::write(&list, "")?;
    daemon.tell("reload --force")?;
    ensure!(blocked()? == 0);
    Ok(())
}

#[test]
fn what_is_typed_and_harms_is_said() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let guarded = Guarded::new("")?;
    let daemon = &guarded.daemon;
    let said = daemon.ask("block add 100.64.3.3/16")?;
    ensure!(said.code == 0 && said.stderr.contains("100.64.3.3/16 is all of 100.64.0.0/16"), "{said:?}");
    daemon.tell("allow add 100.64.0.9")?;
    let said = daemon.tell("block test 100.64.0.9")?;
    ensure!(said.contains("100.64.0.9 passes all the same: 100.64.0.9/32 is on the allow list"), "{said}");
    ensure!(daemon.read::<Status>("status")?.warnings.is_empty());

    // The host gets an address in that range.
    guarded.lab.host(Role::Server).ip("address add 100.64.3.3/24 dev eth0")?;
    eventually("it is said", || {
        let status: Result<Status> = daemon.read("status");
        let is_it = |warning: &String| {
            warning.starts_with("block list: 100.64.0.0/16, which was typed, covers 100.64.3.")
        };
        status.is_ok_and(|status| status.warnings.iter().any(is_it))
    })?;
    daemon.tell("allow add 0.0.0.0/0 --force")?;
    let warnings = daemon.read::<Status>("status")?.warnings;
    ensure!(warnings.contains(&"allow list: 0.0.0.0/0 lets everything pass".to_owned()), "{warnings:?}");
    Ok(())
}
