//! Clocks that step: durations are measured by the clock that does not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Result, ensure};
use flood_userspace::control::protocol::{Feeds, ListReply};
use floodgate_tests::{
    daemon::{Daemon, run},
    lab::eventually,
    needs_root,
    skip::{skip, test_name},
};
use tempfile::TempDir;

use super::attached::Cables;

/// A library that shifts the wall clock of the program that loads it by the number of seconds in a file.
const SHIM: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (clock == CLOCK_REALTIME && result == 0) {
        char text[32];
        int file = open(getenv("CLOCK_FILE"), O_RDONLY | O_CLOEXEC);
        long length = read(file, text, sizeof text - 1);
        close(file);
        if (length > 0) {
            text[length] = 0;
            time->tv_sec += atol(text);
        }
    }
    return result;
}
"#;

/// The wall clock of a daemon.
struct WallClock {
    folder: TempDir,
}

impl WallClock {
    /// A clock that is correct; none without a C compiler, in which case the test is skipped.
    fn new(test: &str) -> Result<Option<Self>> {
        let folder = tempfile::tempdir()?;
        let source = folder.path().join("shim.c");
        fs::write(&source, SHIM)?;
        let clock = Self { folder };
        clock.step(0)?;
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(clock.library()).arg(source);
        match run(&mut compile) {
            Ok(said) => ensure!(said.code == 0, "cc: {}", said.stderr),
            Err(error) => {
                skip(test, &format!("needs a C compiler: {error}"));
                return Ok(None);
            }
        }
        Ok(Some(clock))
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("shim.so")
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("seconds")
    }

    /// Steps to this many seconds ahead of the correct time.
    fn step(&self, seconds: i64) -> Result<()> {
        let new = self.folder.path().join("new");
        fs::write(&new, seconds.to_string())?;
        Ok(fs::rename(new, self.file())?)
    }

    fn daemon(&self, cables: &Cables, config: &str) -> Result<Daemon> {
        let environment: [(&str, &Path); 2] = [("LD_PRELOAD", &self.library()), ("CLOCK_FILE", &self.file())];
        Daemon::start_with(&cables.here, config, "eth0", &environment)
    }
}

const HOUR: i64 = 3_600;

#[test]
fn what_has_an_end_keeps_it_when_the_wall_clock_steps() -> Result<()> {
    needs_root!();
    let Some(clock) = WallClock::new(test_name(|| {}))? else { return Ok(()) };
    let cables = Cables::new()?;
    let daemon = clock.daemon(&cables, "")?;
    let names = ["203.0.113.0/24", "198.51.100.200/32", "2001:db8:77::/48"];
    let on = |list: &str| Ok::<_, anyhow::Error>(daemon.read::<ListReply>(&format!("{list} list"))?.entries);
    for list in ["block", "allow", "allow-proven"] {
        daemon.tell(&format!("{list} add {} --ttl 10m", names.join(" ")))?;
    }
    for seconds in [HOUR, -HOUR, 20 * 365 * 24 * HOUR] {
        clock.step(seconds)?;
        for list in ["block", "allow", "allow-proven"] {
            daemon.tell(&format!("{list} add 192.0.2.77 --ttl 2s"))?;
            let is_left =
                |prefix: &str| on(list).is_ok_and(|all| all.iter().any(|e| e.prefix.to_string() == prefix));
            ensure!(is_left("192.0.2.77/32"), "{list}: it ended at once");
            eventually("two seconds have an end", || !is_left("192.0.2.77/32"))?;
            for entry in on(list)? {
                let left = entry.expires_in_s.unwrap_or(0);
                ensure!((540..=600).contains(&left) && entry.age_s < 60, "{list}, {seconds}: {entry:?}");
            }
            ensure!(on(list)?.len() == names.len(), "{list}, {seconds}: {:?}", on(list)?);
        }
    }
    Ok(())
}

#[test]
fn a_feed_that_was_read_before_the_time_was_known_has_its_age() -> Result<()> {
    needs_root!();
    let Some(clock) = WallClock::new(test_name(|| {}))? else { return Ok(()) };
    let cables = Cables::new()?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("drop.txt");
    fs::write(&path, "192.0.2.1\n")?;
    let now = || Ok::<_, anyhow::Error>(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs());
    clock.step(60 - i64::try_from(now()?)?)?; // a minute after the beginning of 1970
    let config = format!("[[block.feed]]\nname = \"drop\"\npath = \"{}\"\nevery = \"1h\"\n", path.display());
    let daemon = clock.daemon(&cables, &config)?;
    let feed = || Ok::<_, anyhow::Error>(daemon.read::<Feeds>("feed list")?.feeds.remove(0));
    eventually("it is read", || {
        feed().is_ok_and(|feed| feed.last_success.is_some() && feed.next_s.is_some())
    })?;
    let read_in_1970 = feed()?.last_success;
    ensure!(read_in_1970.is_some_and(|at| at < 3_600), "{read_in_1970:?}");
    clock.step(0)?;
    let feed = feed()?;
    let age = now()?.abs_diff(feed.last_success.unwrap_or(0));
    ensure!(Duration::from_secs(age) < Duration::from_secs(60), "read {age} s ago: {feed:?}");
    ensure!(feed.next_s.is_some_and(|next| (3_000..=3_600).contains(&next)), "{feed:?}");
    Ok(())
}
