//! What may pass over a limit: which means this host has, and the one setting of the kernel that they depend on.

use std::{
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use flood_common::proof::means;
use tracing::{info, warn};

use crate::{
    bpf::Attachment,
    config::{HostSays, Proof, SynProof, SyncookieControl},
    host::{Facts, setting, setting_path},
};

/// Whether the kernel makes SYN cookies: 0 never, 1 when a listener's queue is full, 2 always
/// (Documentation/networking/ip-sysctl.rst).
const SYNCOOKIES: &str = "ipv4/tcp_syncookies";

/// After so long without a SYN over a limit, the setting is put back.
const QUIET: Duration = Duration::from_secs(60);

/// What may pass over a limit on this host as it is.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Means {
    /// Bits of [`means`].
    pub(super) bits: u32,
    /// Whether it means that nobody wants a packet when there is no socket for it.
    pub(super) absence: bool,
    /// Why SYNs have to come twice, where they might have been answered.
    pub(super) why_no_cookies: Option<String>,
    /// Why nothing is dropped for want of a socket, where it might be.
    pub(super) why_no_absence: Option<String>,
}

impl Means {
    /// What the configuration asks for and this host has.
    pub(super) fn resolve(proof: &Proof, attachments: &[Attachment], facts: &Facts) -> Self {
        let asks_sockets = proof.host != HostSays::No;
        let why_no_absence = match proof.host {
            HostSays::Auto => facts.why_absence_says_nothing(),
            HostSays::Yes | HostSays::No => None,
        };
        let harmful = || translated(proof, facts).or_else(|| stripped(attachments, facts));
        let why_no_cookies = match proof.syn {
            SynProof::Auto => why_no_cookies(proof, attachments).or_else(harmful),
            SynProof::Cookie => harmful(),
            SynProof::Retransmission | SynProof::Off => None,
        };
        let syn = match proof.syn {
            SynProof::Off => 0,
            SynProof::Retransmission => means::RETRANSMISSION,
            SynProof::Auto | SynProof::Cookie if why_no_cookies.is_some() => means::RETRANSMISSION,
            SynProof::Auto | SynProof::Cookie => means::COOKIES,
        };
        Self {
            bits: syn | if asks_sockets { means::SOCKETS } else { 0 },
            absence: asks_sockets && why_no_absence.is_none(),
            why_no_cookies,
            why_no_absence,
        }
    }

    /// Says in the log what `auto` comes to.
    pub(super) fn log(&self) {
        if let Some(why) = &self.why_no_cookies {
            info!("SYNs over a limit have to come twice, as they cannot be answered: {why}");
        }
        if let Some(why) = &self.why_no_absence {
            info!("nothing is dropped for want of a socket: {why}");
        }
    }
}

/// Who brings a cookie back may get to somebody who knows nothing of it, as cookies are their listener's alone, or to nobody.
fn translated(proof: &Proof, facts: &Facts) -> Option<String> {
    if proof.host == HostSays::Yes {
        return None;
    }
    let who = facts.translation.as_ref();
    who.map(|who| format!("ports may be translated ({who}), and a cookie is its listener's alone"))
        .or_else(|| facts.tracking.clone())
}

/// What is sent back in the driver would have no tag where one was taken off before.
fn stripped(attachments: &[Attachment], facts: &Facts) -> Option<String> {
    let is_guarded = |index: u32| attachments.iter().find(|attachment| attachment.interface.index == index);
    let (guarded, stripped) =
        facts.stripped.iter().find_map(|stripped| Some((is_guarded(stripped.index)?, stripped)))?;
    Some(format!(
        "{name} takes off the VLAN tags of {vlan}, and what is sent back would have none (`ethtool -K {name} rxvlan off` leaves \
         them on)",
        name = guarded.interface.name,
        vlan = stripped.vlan,
    ))
}

fn why_no_cookies(proof: &Proof, attachments: &[Attachment]) -> Option<String> {
    if proof.host == HostSays::No {
        return Some("`proof.host` is false".into());
    }
    if setting(SYNCOOKIES).is_none_or(|value| value == "0") && proof.syncookies == SyncookieControl::Keep {
        return Some("net.ipv4.tcp_syncookies is 0".into());
    }
    let veth = attachments
        .iter()
        .find(|attachment| attachment.native && attachment.interface.kind.as_deref() == Some("veth"))?;
    Some(format!(
        "what {} sends by itself is lost unless its peer has an XDP program too",
        veth.interface.name
    ))
}

/// The kernel's setting, which is raised while SYNs exceed a limit, if the configuration allows it.
pub(super) struct Syncookies {
    control: SyncookieControl,
    file: PathBuf,
    /// What it was before, while it is raised, and when the last SYN exceeded a limit.
    raised: Option<(String, Instant)>,
    /// SYNs over a limit, at the last look.
    before: u64,
}

impl Syncookies {
    /// Leaves the setting as it is for now.
    pub(super) fn new(control: SyncookieControl) -> Self {
        Self { control, file: setting_path(SYNCOOKIES), raised: None, before: 0 }
    }

    /// Whether the setting is raised at the moment.
    pub(super) fn is_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// Raises the setting when the number of SYNs over a limit has grown, and puts it back when it has not for a
    /// while.
    pub(super) fn look(&mut self, syns: u64, now: Instant) {
        let grew = syns > std::mem::replace(&mut self.before, syns);
        if self.control == SyncookieControl::Keep {
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
        let raised =
            fs::read_to_string(&self.file).and_then(|before| fs::write(&self.file, "2").map(|()| before));
        match raised {
            Ok(before) => {
                let before = before.trim().to_owned();
                info!("SYNs exceed a limit: {} is 2, and will be {before} again", self.file.display());
                self.raised = Some((before, now));
            }
            Err(error) => {
                warn!("raising {}: {error}; cookies are made only when a queue is full", self.file.display());
                self.control = SyncookieControl::Keep; // said once
            }
        }
    }

    /// Puts the setting back, if it is raised.
    pub(super) fn put_back(&mut self) {
        let Some((before, _)) = self.raised.take() else { return };
        match fs::write(&self.file, &before) {
            Ok(()) => info!("{} is {before} again", self.file.display()),
            Err(error) => warn!("putting {} back to {before}: {error}", self.file.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setting(value: &str) -> (tempfile::NamedTempFile, Syncookies) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), value).unwrap();
        let syncookies = Syncookies { file: file.path().into(), ..Syncookies::new(SyncookieControl::Raise) };
        (file, syncookies)
    }

    #[test]
    fn the_setting_is_raised_under_pressure_and_put_back_when_it_is_quiet() {
        let (file, mut syncookies) = setting("1\n");
        let value = || fs::read_to_string(file.path()).unwrap();
        let start = Instant::now();
        syncookies.look(0, start);
        assert_eq!(value(), "1\n", "nothing has happened");
        syncookies.look(5, start);
        assert_eq!(value(), "2");
        syncookies.look(6, start + QUIET / 2);
        syncookies.look(6, start + QUIET);
        assert_eq!(value(), "2", "half of the time has passed since the last one");
        syncookies.look(6, start + QUIET * 3 / 2);
        assert_eq!(value(), "1");
        syncookies.look(7, start + QUIET * 2);
        assert_eq!(value(), "2", "and again");
        syncookies.put_back();
        assert_eq!(value(), "1", "at the end");
    }

    #[test]
    fn a_setting_that_is_to_be_kept_is_kept() {
        let (file, mut syncookies) = setting("1");
        syncookies.control = SyncookieControl::Keep;
        syncookies.look(100, Instant::now());
        assert!(!syncookies.is_raised());
        assert_eq!(fs::read_to_string(file.path()).unwrap(), "1");
    }

    #[test]
    fn a_setting_that_cannot_be_written_is_given_up() {
        let mut syncookies =
            Syncookies { file: "/nonexistent/setting".into(), ..Syncookies::new(SyncookieControl::Raise) };
        syncookies.look(1, Instant::now());
        assert!(!syncookies.is_raised());
        assert_eq!(syncookies.control, SyncookieControl::Keep);
    }
}
