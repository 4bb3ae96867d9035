//! Controls the only host setting that the daemon changes: whether the kernel makes SYN cookies. The daemon raises
//! it while SYNs exceed a limit, if the configuration allows it.
//!
//! The previous value is [recorded](Changes) before it is changed. It is restored when traffic is quiet, at the
//! end, and by the next daemon if this one is killed. But it is restored only if the setting still has the value
//! that the daemon set, because anyone who changed it meanwhile had a reason.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use tracing::{info, warn};

use crate::{
    config::SyncookieControl,
    host::{Change, Changes, Kept, setting_path},
};

/// Whether the kernel makes SYN cookies: 0 never, 1 when a listener's queue is full, 2 always
/// (Documentation/networking/ip-sysctl.rst).
pub(super) const SETTING: &str = "ipv4/tcp_syncookies";

/// The value that makes the kernel always use cookies.
const ALWAYS: &str = "2";

/// The setting is restored after this long without a SYN over a limit.
const QUIET: Duration = Duration::from_secs(60);

/// The setting, for callers that need to know whether it is raised and cannot wait for files.
pub struct SharedSyncookies {
    syncookies: Mutex<Syncookies>,
    is_raised: AtomicBool,
    /// SYNs over a limit so far.
    syns: AtomicU64,
    grown: Notify,
}

impl SharedSyncookies {
    /// See [`Syncookies::new`].
    pub(super) fn new(control: SyncookieControl, state: &Path) -> Self {
        Self {
            syncookies: Mutex::new(Syncookies::new(control, state)),
            is_raised: AtomicBool::new(false),
            syns: AtomicU64::new(0),
            grown: Notify::new(),
        }
    }

    /// Returns whether the setting is currently raised.
    pub(super) fn is_raised(&self) -> bool {
        self.is_raised.load(Ordering::Relaxed)
    }

    /// Records how many SYNs have exceeded a limit so far. Never blocks.
    pub(super) fn note(&self, syns: u64) {
        if self.syns.swap(syns, Ordering::Relaxed) < syns {
            self.grown.notify_one();
        }
    }

    /// Waits until more SYNs have exceeded a limit than recorded before.
    pub(super) async fn grown(&self) {
        self.grown.notified().await;
    }

    /// Calls [`Syncookies::look`] with the recorded count.
    pub(super) fn look(&self, now: Instant) {
        let mut syncookies = self.syncookies.lock().unwrap_or_else(PoisonError::into_inner);
        syncookies.look(self.syns.load(Ordering::Relaxed), now);
        self.is_raised.store(syncookies.is_raised(), Ordering::Relaxed);
    }

    /// Restores the setting if it is raised, and no longer changes it.
    pub(super) fn end(&self) {
        let mut syncookies = self.syncookies.lock().unwrap_or_else(PoisonError::into_inner);
        syncookies.put_back();
        syncookies.control = SyncookieControl::Keep;
        self.is_raised.store(false, Ordering::Relaxed);
    }
}

/// The setting.
struct Syncookies {
    control: SyncookieControl,
    file: PathBuf,
    changes: Changes,
    /// While raised: the previous value, and when the last SYN exceeded a limit.
    raised: Option<(Kept, Instant)>,
    /// SYNs over a limit at the last look.
    before: u64,
}

impl Syncookies {
    /// Leaves the setting unchanged for now, unless a killed daemon left it raised. `state` is the folder for
    /// state that survives a restart.
    fn new(control: SyncookieControl, state: &Path) -> Self {
        Self::of(setting_path(SETTING), control, state)
    }

    fn of(file: PathBuf, control: SyncookieControl, state: &Path) -> Self {
        let changes = Changes::of(&file, state);
        match changes.left() {
            Ok(Some(left)) => {
                warn!("a floodgate that was killed has left {} changed", file.display());
                put_back(&file, left);
            }
            Ok(None) => {}
            Err(error) => {
                warn!(
                    "it cannot be told whether a floodgate that was killed has left {} changed: {error}",
                    file.display()
                );
            }
        }
        Self { control, file, changes, raised: None, before: 0 }
    }

    /// Returns whether the setting is currently raised.
    fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// Raises the setting when the number of SYNs over a limit has grown, and restores it when that has not grown
    /// for a while.
    fn look(&mut self, syns: u64, now: Instant) {
        let grew = syns > std::mem::replace(&mut self.before, syns);
        if self.control == SyncookieControl::Keep {
            return;
        }
        if self.is_raised() && read(&self.file).is_ok_and(|value| value != ALWAYS) {
            // Whoever changed it wants it that way.
            self.put_back();
            self.control = SyncookieControl::Keep;
            return;
        }
        match &mut self.raised {
            Some((_, last)) if grew => *last = now,
            Some((_, last)) if now.saturating_duration_since(*last) < QUIET => {}
            Some(_) => self.put_back(),
            None if grew => self.raise(now),
            None => {}
        }
    }

    fn raise(&mut self, now: Instant) {
        let raise = || -> io::Result<Option<Kept>> {
            let before = read(&self.file)?;
            if before == ALWAYS {
                return Ok(None); // nothing to change or to restore
            }
            let kept = self.changes.note(Change { before, set: ALWAYS.to_owned() })?;
            match fs::write(&self.file, ALWAYS) {
                Ok(()) => Ok(Some(kept)),
                Err(error) => {
                    let _ = kept.forget(); // if this fails, the next start sees that nothing was changed
                    Err(error)
                }
            }
        };
        match raise() {
            Ok(Some(kept)) => {
                let (file, before) = (self.file.display(), &kept.change.before);
                info!("SYNs exceed a limit: {file} is {ALWAYS}, and will be {before} again");
                self.raised = Some((kept, now));
            }
            Ok(None) => {}
            Err(error) => {
                warn!("raising {}: {error}; cookies are made only when a queue is full", self.file.display());
                self.control = SyncookieControl::Keep; // logged only once
            }
        }
    }

    /// Restores the setting if it is raised.
    fn put_back(&mut self) {
        if let Some((kept, _)) = self.raised.take() {
            put_back(&self.file, kept);
        }
    }
}

impl Drop for Syncookies {
    fn drop(&mut self) {
        self.put_back();
    }
}

/// Returns the setting's value.
fn read(file: &Path) -> io::Result<String> {
    Ok(fs::read_to_string(file)?.trim().to_owned())
}

/// Restores a setting, unless someone else has changed it since.
fn put_back(file: &Path, kept: Kept) {
    let Change { before, set } = kept.change.clone();
    let outcome = read(file).and_then(|now| {
        if now == set {
            fs::write(file, &before)?;
            info!("{} is {before} again", file.display());
        } else {
            info!("{} is {now}, which somebody else has set since, and stays so", file.display());
        }
        kept.forget()
    });
    if let Err(error) = outcome {
        warn!("putting {} back to {before}: {error}", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Host {
        folder: tempfile::TempDir,
    }

    impl Host {
        fn new(value: &str) -> Self {
            let host = Self { folder: tempfile::tempdir().unwrap() };
            host.set(value);
            host
        }

        fn file(&self) -> PathBuf {
            self.folder.path().join("tcp_syncookies")
        }

        fn set(&self, value: &str) {
            fs::write(self.file(), value).unwrap();
        }

        fn value(&self) -> String {
            fs::read_to_string(self.file()).unwrap()
        }

        fn start(&self, control: SyncookieControl) -> Syncookies {
            Syncookies::of(self.file(), control, &self.folder.path().join("state"))
        }

        fn raised(&self) -> Syncookies {
            let mut syncookies = self.start(SyncookieControl::Raise);
            syncookies.look(5, Instant::now());
            assert_eq!((self.value().as_str(), syncookies.is_raised()), ("2", true));
            syncookies
        }
    }

    /// Simulates a killed daemon: none of its code runs, and the kernel closes its files.
    fn kill(mut syncookies: Syncookies) {
        drop(syncookies.raised.take());
    }

    #[test]
    fn the_setting_is_raised_under_pressure_and_put_back_when_it_is_quiet() {
        let host = Host::new("1\n");
        let mut syncookies = host.start(SyncookieControl::Raise);
        let start = Instant::now();
        syncookies.look(0, start);
        assert_eq!(host.value(), "1\n", "nothing has happened");
        syncookies.look(5, start);
        assert_eq!(host.value(), "2");
        syncookies.look(6, start + QUIET / 2);
        syncookies.look(6, start + QUIET);
        assert_eq!(host.value(), "2", "half of the time has passed since the last one");
        syncookies.look(6, start + QUIET * 3 / 2);
        assert_eq!(host.value(), "1");
        syncookies.look(7, start + QUIET * 2);
        assert_eq!(host.value(), "2", "and again");
        drop(syncookies);
        assert_eq!(host.value(), "1", "at the end, whatever ends it");
    }

    #[test]
    fn what_a_killed_daemon_has_raised_is_put_back_by_the_next_once() {
        for control in [SyncookieControl::Raise, SyncookieControl::Keep] {
            let host = Host::new("0");
            kill(host.raised());
            assert_eq!(host.value(), "2");
            let _next = host.start(control);
            assert_eq!(host.value(), "0", "{control:?}");
            host.set("2");
            let _another = host.start(control);
            assert_eq!(host.value(), "2", "the operator's");
        }
    }

    #[test]
    fn the_next_daemon_puts_back_what_was_so_before_all_that_were_killed() {
        let host = Host::new("1");
        kill(host.raised());
        kill(host.raised());
        drop(host.raised());
        assert_eq!(host.value(), "1");
    }

    #[test]
    fn a_daemon_that_lives_keeps_what_it_has_raised() {
        let host = Host::new("1");
        let first = host.raised();
        let mut second = host.start(SyncookieControl::Raise);
        assert_eq!(host.value(), "2");
        second.look(5, Instant::now());
        assert!(!second.is_raised(), "there was nothing to raise");
        drop(second);
        assert_eq!(host.value(), "2");
        drop(first);
        assert_eq!(host.value(), "1");
    }

    #[test]
    fn what_somebody_else_has_set_meanwhile_stays() {
        for (is_killed, how) in [(false, "while it runs"), (true, "after it was killed")] {
            let host = Host::new("1");
            let mut syncookies = host.raised();
            host.set("0");
            if is_killed {
                kill(syncookies);
                drop(host.start(SyncookieControl::Raise));
            } else {
                syncookies.look(6, Instant::now());
                assert!(!syncookies.is_raised());
                syncookies.look(7, Instant::now());
                drop(syncookies);
            }
            assert_eq!(host.value(), "0", "{how}");
            host.set("2");
            drop(host.start(SyncookieControl::Raise));
            assert_eq!(host.value(), "2", "{how}, and nothing is put back later");
        }
    }

    #[test]
    fn what_cannot_be_written_down_is_not_changed() {
        let host = Host::new("1");
        fs::write(host.folder.path().join("state"), "a file, not a folder").unwrap();
        let mut syncookies = host.start(SyncookieControl::Raise);
        syncookies.look(5, Instant::now());
        assert_eq!((host.value().as_str(), syncookies.is_raised()), ("1", false));
        assert_eq!(syncookies.control, SyncookieControl::Keep);
    }

    #[test]
    fn a_setting_that_is_to_be_kept_is_kept() {
        let host = Host::new("1");
        let mut syncookies = host.start(SyncookieControl::Keep);
        syncookies.look(100, Instant::now());
        assert!(!syncookies.is_raised());
        assert_eq!(host.value(), "1");
    }

    #[test]
    fn a_setting_that_cannot_be_written_is_given_up() {
        let state = tempfile::tempdir().unwrap();
        let mut syncookies =
            Syncookies::of("/nonexistent/setting".into(), SyncookieControl::Raise, state.path());
        syncookies.look(1, Instant::now());
        assert!(!syncookies.is_raised());
        assert_eq!(syncookies.control, SyncookieControl::Keep);
    }
}
