//! Feeds: from files and a web server that sometimes fails, through reloads and restarts; and long imports.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, BufWriter, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use flood_userspace::control::protocol::{FeedStatus, Feeds, ListReply, Status};
use floodgate_tests::{
    daemon::{Daemon, run},
    lab::{Lab, Namespace, Role, eventually},
    measures, needs_root,
    packet::{ATTACKER, VISITOR, from},
    same_on_every_kernel,
};

use super::{commands::Guarded, traffic::dropped};

/// What a web server serves, and what it has answered.
#[derive(Default)]
struct Site {
    status: u16,
    body: String,
    /// Statuses that it has answered with.
    answered: Vec<u16>,
}

/// A web server with one page, whose ETag changes with it. It ends when dropped.
struct Web {
    address: SocketAddr,
    site: Arc<Mutex<Site>>,
    listener: TcpListener,
}

impl Web {
    fn start(namespace: &Namespace) -> Result<Self> {
        let listener = namespace.within(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let (address, accepting) = (listener.local_addr()?, listener.try_clone()?);
        let site = Arc::new(Mutex::new(Site { status: 200, ..Site::default() }));
        let shared = Arc::clone(&site);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                // A client that hangs up does not matter to the server.
                let _ = answer(&stream, &mut shared.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Ok(Self { address, site, listener })
    }

    /// Changes its response.
    fn says(&self, status: u16, body: &str) {
        let mut site = self.site.lock().unwrap_or_else(PoisonError::into_inner);
        (site.status, site.body) = (status, body.to_owned());
    }

    /// The last status that it answered with.
    fn last_answer(&self) -> Option<u16> {
        self.site.lock().unwrap_or_else(PoisonError::into_inner).answered.last().copied()
    }

    fn config(&self, state: &Path) -> String {
        let (address, state) = (self.address, state.display());
        format!(
            "state = \"{state}\"\n[[block.feed]]\nname = \"drop\"\nurl = \"http://{address}/drop.txt?key=hush\"\n"
        )
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        // SAFETY: no pointers; the descriptor is open as long as the listener is. This wakes up the accepting thread.
        unsafe { libc::shutdown(self.listener.as_raw_fd(), libc::SHUT_RDWR) };
    }
}

fn answer(mut stream: &TcpStream, site: &mut Site) -> Result<()> {
    let etag =
        format!("\"{:x}\"", site.body.len() * 31 + usize::from(site.body.bytes().fold(0, u8::wrapping_add)));
    let mut known = false;
    for line in BufReader::new(stream).lines() {
        let line = line?.to_lowercase();
        if line.is_empty() {
            break;
        }
        known |= line == format!("if-none-match: {etag}");
    }
    let status = if site.status == 200 && known { 304 } else { site.status };
    site.answered.push(status);
    let body = if status == 304 { "" } else { &site.body };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status} X\r\nETag: {etag}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    Ok(stream.write_all((head + body).as_bytes())?)
}

/// Returns the prefixes and origins of the block list.
pub(crate) fn blocked(daemon: &Daemon) -> Result<Vec<(String, String)>> {
    let list: ListReply = daemon.read("block list")?;
    Ok(list.entries.into_iter().map(|entry| (entry.prefix.to_string(), entry.origin)).collect())
}

pub(crate) fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(prefix, origin)| ((*prefix).to_owned(), (*origin).to_owned())).collect()
}

pub(crate) fn feed(daemon: &Daemon, name: &str) -> Result<FeedStatus> {
    let feeds: Feeds = daemon.read("feed list")?;
    feeds.feeds.into_iter().find(|feed| feed.name == name).context("no such feed")
}

#[test]
fn a_feed_follows_its_server_and_outlives_it() -> Result<()> {
    const FIRST: &str = "# ours\n192.0.2.0\n198.51.100.66 ; SBL1\nnonsense\n2001:db8:bad::/48\n0.0.0.0/1\n";

    same_on_every_kernel!();
    needs_root!();
    let lab = Lab::new()?;
    let state = tempfile::tempdir()?;
    let web = Web::start(lab.host(Role::Server))?;
    web.says(200, FIRST);
    let config = web.config(state.path());
    let daemon = Daemon::start(lab.host(Role::Server), &config, "eth0")?;
    let guarded = Guarded { lab, daemon };
    let daemon = &guarded.daemon;

    eventually("the feed is read", || feed(daemon, "drop").is_ok_and(|feed| feed.entries == 3))?;
    let expected = pairs(&[
        ("192.0.2.0/32", "feed drop"),
        ("198.51.100.66/32", "feed drop"),
        ("2001:db8:bad::/48", "feed drop"),
    ]);
    ensure!(blocked(daemon)? == expected, "{:?}", blocked(daemon)?);
    guarded.send(&from(ATTACKER).syn(80))?;
    eventually("it is in force", || dropped(daemon, "blocked").is_ok_and(|packets| packets == 1))?;
    let status = feed(daemon, "drop")?;
    ensure!(status.left_out == 2 && status.problems[0].starts_with("line 4: "), "{status:?}");
    ensure!(status.error.is_none() && status.last_success.is_some() && status.next_s.is_some(), "{status:?}");

    let text = daemon.tell("feed refresh drop")?;
    ensure!(text.contains("block drop: 3 entries, 2 left out, read ") && !text.contains("hush"), "{text}");
    ensure!(web.last_answer() == Some(304), "what has not changed is not sent again");

    web.says(200, "[\"192.0.2.0\", \"203.0.113.0/24\", \"198.51.100.66\"]");
    let text = daemon.tell("feed refresh")?;
    ensure!(text.contains("(json), every"), "{text}");
    let expected = pairs(&[
        ("192.0.2.0/32", "feed drop"),
        ("198.51.100.66/32", "feed drop"),
        ("203.0.113.0/24", "feed drop"),
    ]);
    ensure!(blocked(daemon)? == expected, "{:?}", blocked(daemon)?);

    // No error of the server changes anything.
    for (why, status, body, problem) in [
        ("broken", 503, "sorry", "the server answers 503"),
        ("broken still", 503, "sorry", "the server answers 503"),
        ("empty", 200, "", "--force"),
        ("a page", 200, "<html>\n<p>log in\n", "line 1: this is a page of the web"),
        ("prose", 200, "please\nlog in\n", "this is no list"),
        ("a hosts file", 200, "192.0.2.1\n0.0.0.0 bad.example\n", "line 2: this is a hosts file"),
        ("an exception", 200, "192.0.2.0/24\n192.0.2.1 nomatch\n", "line 2: `nomatch` excepts"),
    ] {
        web.says(status, body);
        let said = daemon.ask("feed refresh drop")?;
        ensure!(said.code == 1 && said.stdout.contains(problem), "{why}: {said:?}");
        ensure!(blocked(daemon)? == expected, "{why}: {:?}", blocked(daemon)?);
    }
    let warnings = daemon.read::<Status>("status")?.warnings;
    ensure!(
        warnings.iter().any(|warning| warning.contains("feed drop") && !warning.contains("hush")),
        "{warnings:?}"
    );
    ensure!(daemon.log().matches("answers 503").count() == 1, "an error is logged once:\n{}", daemon.log());
    let mut curl = guarded.lab.host(Role::Server).command("curl")?;
    curl.args(["--silent", "--unix-socket"]).arg(daemon.socket()).arg("http://floodgate/metrics");
    let metrics = run(&mut curl)?.stdout;
    for (name, value) in [("entries", "3"), ("left_out", "0"), ("failing", "1"), ("errors_total", "7")] {
        let line = format!("floodgate_feed_{name}{{list=\"block\",feed=\"drop\"}} {value}\n");
        ensure!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
    let stamp = "floodgate_feed_last_success_timestamp_seconds{list=\"block\",feed=\"drop\"} 1";
    ensure!(metrics.contains(stamp), "{metrics}");

    // It works again, and its list is accepted when the operator says so.
    web.says(200, "198.51.100.66\n");
    daemon.tell("feed refresh drop")?;
    web.says(200, "");
    daemon.tell("feed refresh drop --force")?;
    ensure!(blocked(daemon)?.is_empty(), "{:?}", blocked(daemon)?);
    web.says(200, "198.51.100.66\n");
    daemon.tell("feed refresh drop")?;
    ensure!(daemon.log().contains("works again"), "{}", daemon.log());
    let said = daemon.ask("feed refresh nobody")?;
    ensure!(said.code == 1 && said.stderr.contains("there is no feed nobody; there are drop"), "{said:?}");

    // Without the server, the next daemon still has the list from the start.
    drop(web);
    let Guarded { lab, daemon } = guarded;
    daemon.end(libc::SIGTERM)?;
    let daemon = Daemon::start(lab.host(Role::Server), &config, "eth0")?;
    ensure!(blocked(&daemon)? == pairs(&[("198.51.100.66/32", "feed drop")]), "{:?}", blocked(&daemon)?);
    eventually("it fails", || feed(&daemon, "drop").is_ok_and(|feed| feed.error.is_some()))?;
    let status = feed(&daemon, "drop")?;
    ensure!(status.entries == 1 && status.last_success.is_some(), "{status:?}");
    Ok(())
}

#[test]
fn a_reload_takes_out_what_a_feed_alone_has_brought_in() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = tempfile::tempdir()?;
    let [one, two, file] = ["one", "two", "file"].map(|name| folder.path().join(name));
    fs::write(&one, "192.0.2.0\n192.0.2.2\n192.0.2.3\n192.0.2.4\n")?;
    fs::write(&two, "192.0.2.2\n192.0.2.5\n")?;
    fs::write(&file, "192.0.2.7\n192.0.2.8\n")?;
    let state = format!("state = \"{}\"\n", folder.path().join("state").display());
    let feed_of = |path: &Path| {
        let name = path.file_name().unwrap_or_default().display();
        format!("[[block.feed]]\nname = \"{name}\"\npath = \"{}\"\n", path.display())
    };
    let block = format!("[block]\nentries = [\"192.0.2.4\"]\nfiles = [\"{}\"]\n", file.display());
    let config = format!("{state}{block}{}{}", feed_of(&one), feed_of(&two));
    let guarded = Guarded::new(&config)?;
    let daemon = &guarded.daemon;
    daemon.tell("feed refresh")?;
    daemon.tell("block add 192.0.2.3 192.0.2.6")?;
    let expected = pairs(&[
        ("192.0.2.0/32", "feed one"),
        ("192.0.2.2/32", "feed one"),
        ("192.0.2.2/32", "feed two"),
        ("192.0.2.3/32", "operator"),
        ("192.0.2.3/32", "feed one"),
        ("192.0.2.4/32", "config"),
        ("192.0.2.4/32", "feed one"),
        ("192.0.2.5/32", "feed two"),
        ("192.0.2.6/32", "operator"),
        ("192.0.2.7/32", &format!("file {}", file.display())),
        ("192.0.2.8/32", &format!("file {}", file.display())),
    ]);
    ensure!(blocked(daemon)? == expected, "{:?}", blocked(daemon)?);

    // An entry removed by hand stays in the feed, and a feed's entry stays in the list.
    let said = daemon.ask("block del 192.0.2.3 192.0.2.5")?;
    ensure!(said.code == 1 && said.stdout == "1 removed\n", "{said:?}");
    ensure!(said.stderr.contains("192.0.2.5/32 stays, for the feed two has it"), "{said:?}");
    let text = daemon.tell("block test 192.0.2.3")?;
    ensure!(text.starts_with("192.0.2.3/32") && text.trim_end().ends_with("feed one"), "{text}");
    let said = daemon.ask("block test 192.0.2.9")?;
    ensure!(said.code == 1 && said.stdout == "192.0.2.9 is not on the block list\n", "{said:?}");
    // So does an entry with an expiry.
    let said = daemon.ask("block add 192.0.2.0 --ttl 1s")?;
    ensure!(
        said.stderr.contains("stays on the list after that: 192.0.2.0/32 (feed one) has no end"),
        "{said:?}"
    );
    eventually("the feed alone has it", || {
        daemon.tell("block test 192.0.2.0").is_ok_and(|text| !text.contains("operator"))
    })?;
    ensure!(daemon.tell("block test 192.0.2.0")?.contains("feed one"));

    // An error in the configuration changes nothing.
    daemon.rewrite("[[block.feed]]\nname = \"one\"\n")?;
    let before = blocked(daemon)?;
    let said = daemon.ask("reload")?;
    ensure!(said.code == 2 && said.stderr.contains("floodgate.toml:2:1: block.feed: "), "{said:?}");
    daemon.hang_up();
    eventually("the fault is logged", || daemon.log().contains("SIGHUP: nothing is changed"))?;
    ensure!(blocked(daemon)? == before, "{:?}", blocked(daemon)?);

    // Without the first feed, with another entry, and with a changed file.
    fs::write(&file, "192.0.2.8\n192.0.2.9\n")?;
    fs::write(&two, "192.0.2.2\n192.0.2.10\n")?;
    daemon.rewrite(&format!("{state}{block}{}", feed_of(&two)).replace("192.0.2.4", "192.0.2.11"))?;
    daemon.hang_up();
    let expected = pairs(&[
        ("192.0.2.2/32", "feed two"),
        ("192.0.2.6/32", "operator"),
        ("192.0.2.8/32", &format!("file {}", file.display())),
        ("192.0.2.9/32", &format!("file {}", file.display())),
        ("192.0.2.10/32", "feed two"),
        ("192.0.2.11/32", "config"),
    ]);
    eventually("the lists are exchanged", || blocked(daemon).is_ok_and(|blocked| blocked == expected))
        .with_context(|| format!("{:?}", blocked(daemon)))?;
    ensure!(!folder.path().join("state/feeds/block.one").exists(), "the copy has gone with the feed");
    ensure!(folder.path().join("state/feeds/block.two").exists());

    daemon.rewrite(&format!(
        "mode = \"monitor\"\n{state}[block]\nentries = [\"192.0.2.6\", \"192.0.2.12\"]\n"
    ))?;
    let said = daemon.ask("reload")?;
    ensure!(said.code == 0, "{said:?}");
    for expected in [
        "allow list: unchanged\n",
        "block list: 2 added (192.0.2.6/32, 192.0.2.12/32), 3 removed (192.0.2.8/32, 192.0.2.9/32, 192.0.2.11/32)\n",
        "block list: the feed two is gone, 2 removed (192.0.2.2/32, 192.0.2.10/32)\n",
    ] {
        ensure!(said.stdout.contains(expected), "{expected}: {said:?}");
    }
    ensure!(said.stderr.contains("take effect at the next: mode\n"), "{said:?}");
    let again = daemon.ask("reload")?;
    ensure!(again.stdout.contains("block list: unchanged\n"), "{again:?}");
    ensure!(again.stderr.contains("take effect at the next: mode\n"), "named each time: {again:?}");
    let status: Status = daemon.read("status")?;
    ensure!(status.pending == ["mode"], "{status:?}");
    let expected =
        pairs(&[("192.0.2.6/32", "operator"), ("192.0.2.6/32", "config"), ("192.0.2.12/32", "config")]);
    ensure!(blocked(daemon)? == expected, "{:?}", blocked(daemon)?);
    ensure!(daemon.tell("feed list")? == "there are no feeds\n");
    Ok(())
}

#[test]
fn a_feed_that_does_not_fit_is_refused_whole() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let folder = tempfile::tempdir()?;
    // Room for 393,216 addresses; each of these has 128.
    let list: String =
        (0..3_100).map(|n| format!("{}/25\n", Ipv4Addr::from_bits(0x0a00_0000 + n * 256))).collect();
    fs::write(folder.path().join("long"), list)?;
    fs::write(folder.path().join("one"), "198.18.0.2\n")?;
    let folder = folder.path().display();
    let config = format!(
        "state = \"{folder}/state\"\n[lists]\nipv4 = 1\n[[block.feed]]\nname = \"long\"\npath = \"{folder}/long\"\n"
    );
    let guarded = Guarded::new(&config)?;
    let said = guarded.daemon.ask("feed refresh long")?;
    ensure!(said.code == 1, "{said:?}");
    ensure!(said.stdout.contains("would take 396800 places, and 344064 are free of 393216"), "{said:?}");
    ensure!(blocked(&guarded.daemon)?.is_empty());
    // A feed that just fits leaves room for the operator and for the allow list.
    let list: String =
        (0..2_688).map(|n| format!("{}/25\n", Ipv4Addr::from_bits(0x0a00_0000 + n * 256))).collect();
    fs::write(format!("{folder}/long"), list)?;
    guarded.daemon.tell("feed refresh long")?;
    let said = guarded.daemon.ask(&format!("block import {folder}/one"))?;
    ensure!(said.code == 2 && said.stderr.contains("0 are free of 393216"), "{said:?}");
    guarded.daemon.tell(&format!("allow import {folder}/one"))?;
    guarded.daemon.tell("block add 198.18.0.1")?;
    guarded.daemon.tell("allow add 198.18.0.1")?;
    Ok(())
}

#[test]
fn a_million_lines_are_imported_within_seconds_and_in_force() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    measures!();
    let guarded = Guarded::new("")?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("list");
    let mut random = Rng::with_seed(3);
    let mut list = BufWriter::new(File::create(&path)?);
    for _ in 0..1_000_000 {
        // Neither the attacker nor the visitor is in this range.
        writeln!(list, "{}", Ipv4Addr::from_bits(0x0a00_0000 + random.u32(..1 << 24)))?;
    }
    writeln!(list, "{ATTACKER}")?;
    drop(list);

    let began = Instant::now();
    let said = guarded.daemon.ask(&format!("block import {}", path.display()))?;
    let took = began.elapsed();
    println!("a million lines imported in {took:?}");
    ensure!(said.code == 0 && said.stdout.contains("\nblock list: "), "{said:?}");
    ensure!(took < Duration::from_secs(40), "{took:?}");
    let status: Status = guarded.daemon.read("status")?;
    ensure!(status.blocked.ipv4 > 900_000, "{:?}", status.blocked);
    guarded.send(&from(ATTACKER).syn(80))?;
    guarded.send(&from(VISITOR).syn(80))?;
    eventually("the attacker is dropped", || {
        dropped(&guarded.daemon, "blocked").is_ok_and(|packets| packets == 1)
    })?;
    Ok(())
}
