//! The control socket: what may occupy its path, which requests are valid, and how other users' text is shown.

use std::{
    fs,
    io::{Read, Write},
    net::Shutdown,
    os::unix::{
        fs::MetadataExt,
        net::{UnixListener, UnixStream},
    },
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_userspace::control::protocol::{ListReply, Status};
use floodgate_tests::{
    daemon::{Daemon, binary, run},
    lab::eventually,
    needs_root, same_on_every_kernel,
};

use super::robust::host;

/// The response to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// Sends a request to the control socket.
pub(crate) fn ask(daemon: &Daemon, method: &str, path: &str, body: &str) -> Result<Answer> {
    let length = body.len();
    send(
        daemon,
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .as_bytes(),
    )
}

/// Sends bytes to the control socket and closes the sending side.
fn send(daemon: &Daemon, bytes: &[u8]) -> Result<Answer> {
    let mut stream = UnixStream::connect(daemon.socket())?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    // A refusal may arrive before everything is sent.
    let _ = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    let mut part = [0; 4_096];
    // A reset may follow a response, because not everything was read.
    while let Ok(length @ 1..) = stream.read(&mut part) {
        answer.extend(&part[..length]);
    }
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("no answer: {answer:?}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
    Ok(Answer { status, body: body.to_owned() })
}

#[test]
fn what_a_request_does_not_have_is_refused() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let daemon = Daemon::start(&host()?, "", "eth0")?;
    let huge = format!("{{\"mode\":\"{}\"}}", "x".repeat(100_000));
    let cases = [
        ("POST", "/v1/lists/block", r#"{"prefixes":["192.0.2.1/32"],"ttl":60}"#, 400, "unknown field `ttl`"),
        ("DELETE", "/v1/lists/block", r#"{"prefixes":[],"x":1}"#, 400, "unknown field `x`"),
        ("PATCH", "/v1/limits", r#"{"set":{},"x":1}"#, 400, "unknown field `x`"),
        ("PUT", "/v1/mode", r#"{"mode":"monitor","x":1}"#, 400, "unknown field `x`"),
        ("POST", "/v1/trace", r#"{"address":"192.0.2.1","x":1}"#, 400, "unknown field `x`"),
        ("POST", "/v1/detach", r#"{"interfaces":["eth0"],"x":1}"#, 400, "unknown field `x`"),
        ("POST", "/v1/feeds/refresh", r#"{"names":[],"forced":true}"#, 400, "unknown field `forced`"),
        ("POST", "/v1/reload", r#"{"config":"/tmp/x"}"#, 400, "unknown field `config`"),
        ("GET", "/v1/sources?limits=3", "", 400, "unknown field `limits`"),
        ("GET", "/v1/lists/block?cover=192.0.2.1", "", 400, "unknown field `cover`"),
        ("GET", "/v1/status?json", "", 400, "no parameters"),
        ("GET", "/v1/lists/grey", "", 404, "grey"),
        ("GET", "/v1/nothing", "", 404, "docs/control.md"),
        ("POST", "/v1/status", "{}", 405, "docs/control.md"),
        ("PUT", "/v1/mode", &huge, 413, "65536 are the most"),
    ];
    for (method, path, body, status, part) in cases {
        let answer = ask(&daemon, method, path, body)?;
        ensure!(answer.status == status, "{method} {path}: {answer:?}");
        let failure: serde_json::Value = serde_json::from_str(&answer.body)?;
        let error = failure["error"].as_str().unwrap_or_default();
        ensure!(error.contains(part), "{method} {path}: {answer:?}");
    }
    let announced = b"POST /v1/lists/block HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        content-length: 999999999999\r\n\r\n{";
    ensure!(send(&daemon, announced)?.status == 413, "refused before it is read");
    let mut chunked = b"PUT /v1/mode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
        transfer-encoding: chunked\r\n\r\n20000\r\n"
        .to_vec();
    chunked.extend([b' '; 0x20000]);
    ensure!(send(&daemon, &chunked)?.status == 413, "refused at the bound");
    ensure!(ask(&daemon, "POST", "/v1/reload", "{}")?.status == 200, "{}", daemon.log());
    ensure!(daemon.read::<ListReply>("block list")?.entries.is_empty(), "nothing is added");
    Ok(())
}

#[test]
fn malformed_requests_are_answered_and_hold_up_nobody() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let daemon = Daemon::start(&host()?, "", "eth0")?;
    let mut random = fastrand::Rng::with_seed(7);
    let paths =
        ["/v1/status", "/v1/lists/block", "/v1/limits", "/v1/mode", "/v1/feeds/refresh", "/%00", "/..", "*"];
    let methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "BREW", "get", ""];
    let bodies = [
        "",
        "{",
        "[]",
        "null",
        "{\"prefixes\":[1]}",
        "{\"set\":{\"source\":5}}",
        "{\"a\":{\"a\":{\"a\":",
        "\u{202e}",
    ];
    for number in 0..10_000 {
        let kind = random.u32(0..6);
        let request = match kind {
            0 => (0..random.usize(1..300)).map(|_| random.u8(..)).collect(),
            1 => b"POST /v1/limits HTTP/1.1\r\ncontent-length: -5\r\n\r\n".to_vec(),
            2 => b"POST /v1/mode HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nffffffffffffffff\r\nx".to_vec(),
            _ => {
                let mut pick = |from: &[&'static str]| from[random.usize(..from.len())];
                let (method, path, body) = (pick(&methods), pick(&paths), pick(&bodies));
                let length = body.len();
                format!("{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}")
                    .into_bytes()
            }
        };
        let shown = || String::from_utf8_lossy(&request).into_owned();
        match send(&daemon, &request) {
            Ok(answer) => ensure!((200..500).contains(&answer.status), "{}: {answer:?}", shown()),
            // Bytes that are not a request may be answered by hanging up.
            Err(error) => ensure!(kind == 0, "{}: {error:#}", shown()),
        }
        if number % 1_000 == 0 {
            let begun = Instant::now();
            daemon.tell("status")?;
            ensure!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
        }
    }
    ensure!(!daemon.log().contains("panic"), "{}", daemon.log());
    Ok(())
}

#[test]
fn a_trace_ends_with_its_client_however_soon_he_leaves() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let daemon = Daemon::start(&host()?, "", "eth0")?;
    let body = "{\"address\":\"192.0.2.1\"}";
    // What follows the request is never read, and hides the end of the connection.
    for (round, more) in ["", "GET / HTTP/1.1\r\n\r\n", ""].iter().cycle().take(12).enumerate() {
        let request = format!(
            "POST /v1/trace HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}{more}",
            body.len()
        );
        let mut stream = UnixStream::connect(daemon.socket())?;
        stream.write_all(request.as_bytes())?;
        thread::sleep(Duration::from_millis([0, 1, 30][round % 3]));
        drop(stream);
        eventually("the trace has ended", || {
            daemon.read::<Status>("status").is_ok_and(|status| status.trace.is_none())
        })?;
    }
    let mut trace = daemon.command("trace 192.0.2.2")?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let traced = eventually("another can be traced", || {
        daemon.read::<Status>("status").is_ok_and(|status| status.trace.is_some())
    });
    trace.kill()?;
    trace.wait()?;
    traced
}

#[test]
fn the_socket_takes_nobodys_place_and_nobody_its() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    here.ip("link add eth2 type veth peer name eth3")?;
    let folder = tempfile::tempdir()?;
    let start = |socket: &str, interface: &str| -> Result<_> {
        let mut command = here.command("timeout")?;
        command.arg("20").arg(binary()?).args(["run", interface, "--socket"]).arg(folder.path().join(socket));
        run(&mut command)
    };
    fs::write(folder.path().join("file"), "precious")?;
    let said = start("file", "eth2")?;
    ensure!(said.code == 2 && said.stderr.contains("is no socket"), "{said:?}");
    ensure!(fs::read_to_string(folder.path().join("file"))? == "precious", "the file is gone");
    let said = start("fails", "lo")?;
    ensure!(said.code == 4 && !folder.path().join("fails").exists(), "{said:?}");

    let mut daemon = Daemon::start(&here, "", "eth0")?;
    let mut second = here.command(binary()?)?;
    second.args(["run", "eth2", "--socket"]).arg(daemon.socket());
    let said = run(&mut second)?;
    ensure!(said.code == 2 && said.stderr.contains("another floodgate answers"), "{said:?}");
    // A removed socket is created again, even if its folder is removed, too.
    fs::remove_file(daemon.socket())?;
    eventually("the socket is there again", || daemon.tell("status").is_ok())?;
    ensure!(daemon.log().contains("is made again"), "{}", daemon.log());
    ensure!(fs::metadata(daemon.socket())?.mode() & 0o777 == 0o600, "its mode");

    // A socket that another daemon has created in the meantime is left in place.
    let moved = daemon.folder().join("moved");
    fs::rename(daemon.socket(), &moved)?;
    let other = UnixListener::bind(daemon.socket())?;
    eventually("he is noticed", || daemon.log().contains("the control socket is gone: another"))?;
    let mut detach = Command::new(binary()?);
    let said = run(detach.arg("--socket").arg(&moved).arg("detach"))?;
    ensure!(said.code == 0, "{said:?}");
    ensure!(daemon.wait()?.code() == Some(0), "{}", daemon.log());
    ensure!(daemon.socket().exists(), "the socket of another is removed");
    drop(other);
    Ok(())
}

#[test]
fn text_from_outside_does_nothing_to_a_terminal_or_a_log() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let daemon = Daemon::start(&host()?, "", "eth0")?;
    let evil = "\u{1b}[2J\u{9b}1m\u{202e}txt\nERROR forged";
    let mut add = daemon.command("block add 192.0.2.1 --reason")?;
    ensure!(run(add.arg(evil).env("SUDO_USER", evil))?.code == 0, "{}", daemon.log());
    let path = daemon.folder().join("\u{1b}]0;list\u{7}");
    fs::write(&path, "198.51.100.1\n\u{1b}[31mnonsense\n")?;
    let said = run(daemon.command("block import --name list")?.arg(&path))?;
    ensure!(said.code == 1, "{said:?}");
    let acts = |text: &str| text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}'));
    let shown = [said.stderr, daemon.tell("block list")?, daemon.tell("block list --json")?, daemon.log()];
    for text in &shown {
        ensure!(!acts(text), "{text:?}");
        ensure!(!text.lines().any(|line| line.starts_with("ERROR forged")), "{text}");
    }
    ensure!(shown[1].contains("\\u{1b}[2J"), "{}", shown[1]);
    let list: ListReply = serde_json::from_str(&shown[2])?;
    ensure!(list.entries.iter().any(|entry| entry.reason.as_deref() == Some(evil)), "{list:?}");
    Ok(())
}

#[test]
fn a_verb_whose_output_nobody_reads_ends_as_if_it_were_read() -> Result<()> {
    same_on_every_kernel!();
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("floodgate.toml");
    fs::write(&config, "[block]\nfiles = [\"list\"]\n")?;
    fs::write(folder.path().join("list"), "192.0.2.1\nnonsense\n")?;
    for close_errors in [false, true] {
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let errors = if close_errors { Stdio::from(writer.try_clone()?) } else { Stdio::null() };
        let mut command = Command::new(binary()?);
        let code = command.arg("check").arg(&config).stdout(writer).stderr(errors).status()?.code();
        ensure!(code == Some(1), "{code:?}");
    }
    let full = || fs::File::options().write(true).open("/dev/full");
    let code = Command::new(binary()?).arg("check").arg("/nowhere").stderr(full()?).status()?.code();
    ensure!(code == Some(2), "{code:?}");
    Ok(())
}
