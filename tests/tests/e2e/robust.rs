//! Nothing outside the packet path stops the daemon: crowds at its sockets, logs that nobody reads, files that are
//! not regular files, feeds that do not answer. Throughout, `status` answers within a second.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, PipeReader, PipeWriter, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    os::unix::net::UnixStream,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use flood_userspace::{
    control::protocol::{Feeds, Status},
    process::raise_descriptors,
};
use floodgate_tests::{
    daemon::{Daemon, Said, binary, run},
    lab::{Namespace, eventually},
    measures, needs_root, same_on_every_kernel,
};

use super::control::ask;

/// A namespace with an interface to guard.
pub(crate) fn host() -> Result<Namespace> {
    let here = Namespace::new("robust")?;
    here.ip("link add eth0 type veth peer name eth1")?;
    Ok(here)
}

/// Requests the status, which has to arrive within a second.
fn status(daemon: &Daemon) -> Result<Status> {
    let begun = Instant::now();
    let status = daemon.read("status")?;
    ensure!(begun.elapsed() < Duration::from_secs(1), "`status` has taken {:?}", begun.elapsed());
    Ok(status)
}

#[test]
fn who_connects_and_says_nothing_keeps_nobody_from_an_answer() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    measures!();
    raise_descriptors()?;
    let here = host()?;
    let daemon = Daemon::start(&here, "[control]\nmetrics = \"127.0.0.1:9472\"\n", "eth0")?;
    let metrics = SocketAddr::from(([127, 0, 0, 1], 9472));
    let connect = || here.within(|| Ok(TcpStream::connect(metrics)?));
    let scrape = || -> Result<Duration> {
        let begun = Instant::now();
        let mut stream = connect()?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        Ok(begun.elapsed())
    };
    // As `slow.c` of any user does: a head that never ends.
    let half_open = here.within(|| {
        let open = || -> Result<TcpStream> {
            let mut stream = TcpStream::connect(metrics)?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nX-")?;
            Ok(stream)
        };
        (0..1_100).map(|_| open()).collect::<Result<Vec<_>>>()
    })?;
    status(&daemon)?;
    let took = scrape()?;
    ensure!(took < Duration::from_secs(3), "a scrape has taken {took:?}");
    // The same at the control socket: nothing, half a head, half a body.
    let beginnings: [&[u8]; 3] = [
        b"",
        b"GET /v1/status HTTP/1.1\r\nX-",
        b"PUT /v1/mode HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{",
    ];
    let mut held = Vec::new();
    for number in 0..600 {
        let mut stream = UnixStream::connect(daemon.socket())?;
        // A connection that has already been dropped cannot be written to.
        let _ = stream.write_all(beginnings[number % beginnings.len()]);
        held.push(stream);
        if number % 100 == 0 {
            status(&daemon)?;
        }
    }
    status(&daemon)?;
    let descriptors = fs::read_dir(format!("/proc/{}/fd", daemon.pid()))?.count();
    ensure!(descriptors < 500, "{descriptors} descriptors are in use");
    drop((half_open, held));

    // Fifty clients that scrape continuously, over connections that they try to keep open.
    let before = processor_time(daemon.pid())?;
    let end = Instant::now() + Duration::from_secs(2);
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| while Instant::now() < end && scrape().is_ok() {});
        }
        status(&daemon)
    })?;
    let used = processor_time(daemon.pid())? - before;
    ensure!(used < Duration::from_millis(800), "{used:?} of a processor in two seconds");
    ensure!(scrape()? < Duration::from_secs(1), "the crowd has gone");
    Ok(())
}

/// Returns how much processor time a process has used.
fn processor_time(pid: u32) -> Result<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = text.rsplit_once(')').context("a name in brackets")?.1;
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    // USER_HZ is 100 on every architecture that the filter supports (proc_pid_stat(5)).
    Ok(Duration::from_millis(ticks * 10))
}

/// Creates a pipe of minimum size, so that a log soon fills it.
fn small_pipe() -> Result<(PipeReader, PipeWriter)> {
    let (reader, writer) = io::pipe()?;
    // SAFETY: the descriptor is open, and no memory is involved.
    let set = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4_096) };
    ensure!(set >= 0, "F_SETPIPE_SZ: {}", io::Error::last_os_error());
    Ok((reader, writer))
}

/// Opens both ends of a terminal: the one that displays, and the one that programs write to.
fn terminal() -> Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (-1, -1);
    let null = std::ptr::null_mut();
    // SAFETY: the first two pointers are to integers, and the others may be null (openpty(3)).
    let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, null, null.cast(), null.cast()) };
    ensure!(made == 0, "openpty: {}", io::Error::last_os_error());
    // A program that inherited the other end would keep it open.
    // SAFETY: the descriptor is open, and no memory is involved.
    unsafe { libc::fcntl(master, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: both were just created, and nothing else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) })
}

#[test]
fn a_log_that_nobody_reads_ends_nothing_and_holds_up_nothing() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let (gone, written) = io::pipe()?;
    let (shown, typed) = terminal()?;
    for (why, log, reader) in [
        ("a full disk", Stdio::from(File::options().write(true).open("/dev/full")?), None),
        ("a reader that has gone", written.into(), Some(OwnedFd::from(gone))),
        ("a closed terminal", typed.into(), Some(shown)),
    ] {
        let mut daemon = Daemon::start_logging_to(&here, "", "eth0", log)?;
        drop(reader);
        // What a closing terminal sends.
        daemon.hang_up();
        daemon.tell("block add 192.0.2.1 --ttl 1s")?;
        eventually("the entry ends, and that is logged", || {
            daemon.read::<Status>("status").is_ok_and(|status| status.blocked.ipv4 == 0)
        })?;
        eventually("lost lines are counted", || {
            daemon.read::<Status>("status").is_ok_and(|status| status.log_lines_lost > 0)
        })
        .context(why)?;
        let warnings = status(&daemon)?.warnings;
        ensure!(warnings.iter().any(|warning| warning.contains("log are lost")), "{why}: {warnings:?}");
        ensure!(!daemon.has_ended(), "{why}");
        let (ended, _) = daemon.end(libc::SIGTERM)?;
        ensure!(ended.code() == Some(0), "{why}: {ended:?}");
    }
    Ok(())
}

#[test]
fn a_reader_of_the_log_who_stops_loses_lines_and_is_told_how_many() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let (mut reader, writer) = small_pipe()?;
    let daemon = Daemon::start_logging_to(&here, "", "eth0", writer.into())?;
    // A line each, and more than the pipe and the queue can hold.
    for number in 0..1_400 {
        let body = format!("{{\"prefixes\":[\"192.0.2.{}/32\"]}}", number % 250);
        let answer = ask(&daemon, "POST", "/v1/lists/block", &body)?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let lost = status(&daemon)?.log_lines_lost;
    ensure!(lost > 0, "nothing is lost");
    daemon.tell("mode monitor")?;
    // The reader resumes.
    let mut text = String::new();
    let told = format!("({} lines of the log are lost)\n", lost + 1);
    let mut part = [0; 4_096];
    while !text.contains("lines of the log are lost") {
        let length = reader.read(&mut part)?;
        ensure!(length > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..length]));
    }
    ensure!(text.contains(&told), "{told} is missing in\n{}", &text[text.len().saturating_sub(600)..]);
    Ok(())
}

fn make_pipe(path: &Path) -> Result<()> {
    let path = CString::new(path.to_str().context("a path in UTF-8")?)?;
    // SAFETY: the path is a string that ends with a NUL.
    let made = unsafe { libc::mkfifo(path.as_ptr(), 0o600) } == 0;
    ensure!(made, "mkfifo: {}", io::Error::last_os_error());
    Ok(())
}

#[test]
fn what_is_no_file_is_refused_as_configuration_and_list() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let daemon = Daemon::start(&here, "", "eth0")?;
    let config = daemon.folder().join("floodgate.toml");
    let place = |name: &str| daemon.folder().join(name);
    make_pipe(&place("pipe"))?;
    let refused = |why: &str, said: &Said, part: &str| -> Result<()> {
        ensure!(said.code == 2 && said.stderr.contains(part), "{why}: {said:?}");
        Ok(())
    };
    for (why, path, part) in [
        ("a pipe", "pipe", "it is a pipe and no file"),
        ("a folder", ".", "it is a folder and no file"),
        ("a device that never ends", "/dev/zero", "it is a device and no file"),
    ] {
        fs::write(&config, format!("[block]\nfiles = [\"{path}\"]\n"))?;
        refused(why, &daemon.ask("reload")?, part)?;
        status(&daemon)?;
        fs::remove_file(&config)?;
        std::os::unix::fs::symlink(place(path), &config)?;
        refused(why, &daemon.ask("reload")?, part)?;
        refused(why, &daemon.ask(&format!("check {}", config.display()))?, part)?;
        refused(why, &daemon.ask(&format!("block import {}", place(path).display()))?, part)?;
        daemon.hang_up();
        status(&daemon)?;
        fs::remove_file(&config)?;
    }
    // None of them blocks the next reload, and piped standard input is read.
    daemon.rewrite("[block]\nentries = [\"192.0.2.9\"]\n")?;
    ensure!(daemon.tell("reload")?.contains("block list: 1 added"), "{}", daemon.log());
    for name in ["-", "/dev/stdin"] {
        let mut import = daemon.command(&format!("block import {name}"))?;
        let mut import = import.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        import.stdin.take().context("a pipe")?.write_all(b"198.51.100.1\n")?;
        ensure!(import.wait()?.success(), "{name}");
    }
    Ok(())
}

#[test]
fn feeds_that_do_not_answer_hold_up_no_others() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let silent = here.within(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
    let address = silent.local_addr()?;
    let folder = tempfile::tempdir()?;
    fs::write(folder.path().join("list"), "192.0.2.1\n192.0.2.2\n")?;
    let mut config = format!("state = \"{0}/state\"\n", folder.path().display());
    for number in 0..8 {
        config += &format!("[[block.feed]]\nname = \"slow{number}\"\nurl = \"http://{address}/\"\n");
    }
    config += &format!("[[block.feed]]\nname = \"good\"\npath = \"{}/list\"\n", folder.path().display());
    let daemon = Daemon::start(&here, &config, "eth0")?;
    let good_has = |entries| {
        let feeds = daemon.read::<Feeds>("feed list").map(|feeds| feeds.feeds).unwrap_or_default();
        feeds.iter().any(|feed| feed.name == "good" && feed.entries == entries)
    };
    eventually("the healthy feed is read", || good_has(2))?;
    fs::write(folder.path().join("list"), "192.0.2.1\n192.0.2.2\n192.0.2.3\n")?;
    daemon.tell("feed refresh good")?;
    ensure!(good_has(3), "{:?}", daemon.read::<Feeds>("feed list")?);
    status(&daemon)?;
    Ok(())
}

#[test]
fn copies_of_feeds_are_kept_whole_and_only_where_nobody_else_can_write() -> Result<()> {
    use std::os::unix::fs::PermissionsExt;

    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let folder = tempfile::tempdir()?;
    let (state, list) = (folder.path().join("state"), folder.path().join("list"));
    fs::create_dir(&state)?;
    let many: String = (0..20_000).map(|n| format!("10.1.{}.{}\n", n / 250, n % 250)).collect();
    fs::write(&list, many)?;
    let config = format!(
        "state = \"{}\"\n[[block.feed]]\nname = \"large\"\npath = \"{}\"\n",
        state.display(),
        list.display()
    );
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777))?;
    let error = Daemon::start(&here, &config, "eth0").err().context("it starts")?.to_string();
    ensure!(error.contains("0777") && error.contains("chmod go-w"), "{error}");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755))?;

    // A disk that has room for only part of it.
    let _disk = SmallDisk::mount(&state)?;
    let daemon = Daemon::start(&here, &config, "eth0")?;
    let feed = || Ok::<_, anyhow::Error>(daemon.read::<Feeds>("feed list")?.feeds.remove(0));
    eventually("the feed is read", || {
        feed().is_ok_and(|feed| feed.entries == 20_000 && feed.error.is_some())
    })?;
    let error = feed()?.error.unwrap_or_default();
    ensure!(error.contains("No space left") && error.contains("block.large"), "{error}");
    ensure!(fs::read_dir(state.join("feeds"))?.count() == 0, "a part is left behind");
    Ok(())
}

/// A file system of 64 KiB, which is unmounted when this is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(at: &'a Path) -> Result<Self> {
        let said =
            run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k,mode=755", "tmpfs"]).arg(at))?;
        ensure!(said.code == 0, "{said:?}");
        Ok(Self(at))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(self.0)); // it goes with its folder at the latest
    }
}

#[test]
fn memory_does_not_grow_with_the_number_of_reloads() -> Result<()> {
    /// Memory that the daemon may use for itself, according to docs/control.md.
    const OWN: u64 = 24 << 20;
    const FOR_AN_ENTRY: u64 = 100;
    const ENTRIES: u64 = 100_000;

    same_on_every_kernel!();
    needs_root!();
    measures!();
    let here = host()?;
    let daemon = Daemon::start(&here, "", "eth0")?;
    daemon.rewrite("[block]\nfiles = [\"list\"]\n")?;
    for round in 0..12 {
        let entry = |n: u64| {
            let n = n + round % 2 * ENTRIES / 2;
            format!("{}.{}.{}.{}\n", 20 + (n >> 16), n >> 8 & 255, n & 255, (n * 7) & 255)
        };
        fs::write(daemon.folder().join("list"), (0..ENTRIES).map(entry).collect::<String>())?;
        if round % 3 == 2 {
            daemon.tell(&format!("block import --replace {}/list", daemon.folder().display()))?;
        } else {
            daemon.tell("reload")?;
        }
    }
    let taken = || -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("RssAnon")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
    };
    let bound = OWN + ENTRIES * FOR_AN_ENTRY;
    eventually("memory is given back", || taken().is_ok_and(|taken| taken < bound))
        .with_context(|| format!("{} MB", taken().unwrap_or(0) >> 20))
}

#[test]
fn a_signal_during_the_start_is_followed() -> Result<()> {
    same_on_every_kernel!();
    needs_root!();
    let here = host()?;
    let folder = tempfile::tempdir()?;
    for (signal, ends) in [(libc::SIGHUP, false), (libc::SIGTERM, true)] {
        let mut command = here.command(binary()?)?;
        command.args(["run", "eth0", "--socket"]).arg(folder.path().join("socket")).stderr(Stdio::null());
        let mut process = floodgate_tests::process::Process::start(&mut command)?;
        // From then on the signal is caught; loading the filter takes much longer.
        let pid = process.pid();
        let is_caught = || {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or_default();
            u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (signal - 1) & 1 == 1)
        };
        while !is_caught() {
            ensure!(!process.has_ended(), "it ends by itself");
            thread::sleep(Duration::from_millis(1));
        }
        let descriptors =
            fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let in_kernel = descriptors.filter(|target| target.to_string_lossy().contains("bpf")).count();
        ensure!(in_kernel == 0, "it is caught only when there are {in_kernel} maps and programs");
        process.signal(signal);
        if ends {
            ensure!(process.wait()?.code() == Some(0), "SIGTERM");
            ensure!(!here.ip("-d link show")?.contains("prog/xdp"), "the filter is left");
        } else {
            eventually("it answers", || UnixStream::connect(folder.path().join("socket")).is_ok())?;
            process.signal(libc::SIGTERM);
            ensure!(process.wait()?.code() == Some(0), "SIGHUP");
        }
    }
    Ok(())
}
