//! What may pass over a limit: the means that this host has.

use flood_common::proof::means;
use tracing::info;

use crate::{
    bpf::{Attachment, interface::Interface},
    config::{HostSays, Proof, SynProof, SyncookieControl},
    host::{Facts, setting},
};

use super::syncookies;

/// What may pass over a limit on this host in its current state.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(super) struct Means {
    /// Bits of [`means`].
    pub(super) bits: u32,
    /// Whether the absence of a socket means that a packet is unwanted.
    pub(super) absence: bool,
    /// Why SYNs have to be retransmitted where cookies might have been used.
    pub(super) why_no_cookies: Option<String>,
    /// Why packets are not dropped for lack of a socket, where they might be.
    pub(super) why_no_absence: Option<String>,
}

impl Means {
    /// Returns what the configuration requests and this host supports.
    pub(super) fn resolve(proof: &Proof, attachments: &[Attachment], facts: &Facts) -> Self {
        let asks_sockets = proof.host != HostSays::No;
        let why_no_absence = match proof.host {
            HostSays::Auto => facts.why_absence_says_nothing(),
            HostSays::Yes | HostSays::No => None,
        };
        let guarded = attachments.iter().map(|attachment| &attachment.interface);
        let harmful = || why_answers_harm(proof, guarded, facts);
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

    /// Logs what `auto` resolves to.
    pub(super) fn log(&self) {
        if let Some(why) = &self.why_no_cookies {
            info!("SYNs over a limit have to come twice, as they cannot be answered: {why}");
        }
        if let Some(why) = &self.why_no_absence {
            info!("nothing is dropped for want of a socket: {why}");
        }
    }
}

/// Returns why a client that the filter answers on these interfaces would not reach its destination, if so.
pub(crate) fn why_answers_harm<'a>(
    proof: &Proof,
    guarded: impl Iterator<Item = &'a Interface>,
    facts: &Facts,
) -> Option<String> {
    translated(proof, facts).or_else(|| facts.tracking.clone()).or_else(|| stripped(guarded, facts))
}

/// Returns the reason if ports may be translated: a client that returns a cookie may then reach a listener that
/// does not know the cookie, because a cookie is valid for its own listener only. Not if the operator says that
/// sockets tell.
fn translated(proof: &Proof, facts: &Facts) -> Option<String> {
    let who = facts.translation.as_ref().filter(|_| proof.host != HostSays::Yes)?;
    Some(format!("ports may be translated ({who}), and a cookie is its listener's alone"))
}

/// Returns the reason if the host strips VLAN tags: a reply sent from the driver would lack the tag.
fn stripped<'a>(mut guarded: impl Iterator<Item = &'a Interface>, facts: &Facts) -> Option<String> {
    let (guarded, stripped) = guarded.find_map(|interface| {
        let stripped = facts.stripped.iter().find(|stripped| stripped.index == interface.index)?;
        Some((interface, stripped))
    })?;
    Some(format!(
        "{name} takes off the VLAN tags of {vlan}, and what is sent back would have none (`ethtool -K {name} rxvlan off` leaves \
         them on)",
        name = guarded.name,
        vlan = stripped.vlan,
    ))
}

fn why_no_cookies(proof: &Proof, attachments: &[Attachment]) -> Option<String> {
    if proof.host == HostSays::No {
        return Some("`proof.host` is false".into());
    }
    if setting(syncookies::SETTING).is_none_or(|value| value == "0")
        && proof.syncookies == SyncookieControl::Keep
    {
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
