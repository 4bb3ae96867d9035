//! Checks whether most of the traffic is judged at all: packets that are not IP, or carry it in an encapsulation
//! that is not parsed, pass regardless of lists and limits.

use std::time::{Duration, Instant};

use flood_common::{abi::InterfaceCounters, reason::Reason};
use tracing::{info, warn};

/// Time over which a share is measured.
const WINDOW: Duration = Duration::from_secs(10);

/// Fewer packets than this in a window mean nothing: on a quiet network most may be ARP.
const FEW: u64 = 1_000;

/// Reasons for which a packet passes without being judged.
const UNJUDGED: [Reason; 2] = [Reason::NotIp, Reason::Encapsulated];

/// The interfaces on which most of the traffic is not judged.
pub(super) struct Unjudged {
    /// When the window began, and the counts at that time.
    since: Instant,
    before: Vec<(String, Seen)>,
    warnings: Vec<(String, String)>,
}

/// Packet counts of an interface.
#[derive(Clone, Copy, Default)]
struct Seen {
    all: u64,
    unjudged: [u64; UNJUDGED.len()],
}

impl Seen {
    fn of(counters: &InterfaceCounters) -> Self {
        let packets = |reason: Reason| counters.done[reason.number() as usize].packets;
        Self { all: counters.done.iter().map(|count| count.packets).sum(), unjudged: UNJUDGED.map(packets) }
    }

    /// Returns the increase since `before`.
    fn since(self, before: Self) -> Self {
        let mut unjudged = self.unjudged;
        for (after, before) in unjudged.iter_mut().zip(before.unjudged) {
            *after = after.saturating_sub(before);
        }
        Self { all: self.all.saturating_sub(before.all), unjudged }
    }

    /// Returns a warning for the operator, if most packets are not judged.
    fn warning(self, interface: &str) -> Option<String> {
        let unjudged: u64 = self.unjudged.iter().sum();
        if self.all < FEW || unjudged * 2 <= self.all {
            return None;
        }
        let named = UNJUDGED.iter().zip(self.unjudged).filter(|(_, packets)| *packets > 0);
        let named: Vec<_> = named.map(|(reason, packets)| format!("{packets} {}", reason.label())).collect();
        Some(format!(
            "{interface}: {} % of what arrives is not judged (of {} packets in {} s: {}), and passes whatever the lists and \
             limits say: guard the device on which it is unpacked, or refuse it with `sanity.refuse_ethertypes`",
            unjudged * 100 / self.all,
            self.all,
            WINDOW.as_secs(),
            named.join(", ")
        ))
    }
}

impl Unjudged {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, before: Vec::new(), warnings: Vec::new() }
    }

    /// Evaluates the counters of each interface. A new interface is evaluated from then on.
    pub(super) fn look(&mut self, counters: &[(String, InterfaceCounters)], now: Instant) {
        if now.saturating_duration_since(self.since) < WINDOW {
            return;
        }
        self.since = now;
        let seen: Vec<_> =
            counters.iter().map(|(name, counters)| (name.clone(), Seen::of(counters))).collect();
        let before = std::mem::replace(&mut self.before, seen);
        let known = |name: &str| before.iter().find(|(other, _)| other == name).map(|(_, seen)| *seen);
        let warnings: Vec<_> = self
            .before
            .iter()
            .filter_map(|(name, seen)| Some((name.clone(), seen.since(known(name)?).warning(name)?)))
            .collect();
        let old = std::mem::replace(&mut self.warnings, warnings);
        let is_in =
            |name: &str, warnings: &[(String, String)]| warnings.iter().any(|(other, _)| other == name);
        for (_, warning) in self.warnings.iter().filter(|(name, _)| !is_in(name, &old)) {
            warn!("{warning}");
        }
        for (name, _) in old.iter().filter(|(name, _)| !is_in(name, &self.warnings)) {
            info!("{name}: most of what arrives is judged again");
        }
    }

    /// Returns the warnings for display.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        self.warnings.iter().map(|(_, warning)| warning.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(packets: &[(Reason, u64)]) -> Vec<(String, InterfaceCounters)> {
        let mut counters = InterfaceCounters::default();
        for (reason, packets) in packets {
            counters.done[reason.number() as usize].packets = *packets;
        }
        vec![("eth0".to_owned(), counters)]
    }

    #[test]
    fn most_of_what_arrives_and_not_a_little_has_to_be_unjudged() {
        /// What is tried, packets by reason, and how the warning begins.
        type Case = (&'static str, &'static [(Reason, u64)], Option<&'static str>);

        let cases: [Case; 6] = [
            ("IP", &[(Reason::Conforming, 9_000), (Reason::NotIp, 500)], None),
            ("half of it", &[(Reason::Conforming, 5_000), (Reason::NotIp, 5_000)], None),
            ("ARP on a quiet network", &[(Reason::NotIp, 999)], None),
            ("MPLS", &[(Reason::Encapsulated, 1_000)], Some("eth0: 100 % of what arrives is not judged")),
            (
                "something else",
                &[(Reason::NotIp, 600), (Reason::Encapsulated, 200), (Reason::Blocked, 200)],
                Some(
                    "eth0: 80 % of what arrives is not judged (of 1000 packets in 10 s: 600 not_ip, 200 encapsulated)",
                ),
            ),
            ("what is dropped is judged", &[(Reason::NotIp, 600), (Reason::RefusedEthertype, 900)], None),
        ];
        for (why, packets, expected) in cases {
            let begin = Instant::now();
            let mut unjudged = Unjudged::new(begin);
            unjudged.look(&counted(&[]), begin + WINDOW);
            unjudged.look(&counted(packets), begin + WINDOW + WINDOW / 2);
            assert_eq!(unjudged.warnings().count(), 0, "{why}: within the window");
            unjudged.look(&counted(packets), begin + 2 * WINDOW);
            let warnings: Vec<_> = unjudged.warnings().collect();
            let is_right = match expected {
                Some(expected) => warnings.iter().any(|warning| warning.starts_with(expected)),
                None => warnings.is_empty(),
            };
            assert!(is_right, "{why}: {warnings:?}");
            unjudged.look(&counted(packets), begin + 3 * WINDOW);
            assert_eq!(unjudged.warnings().count(), 0, "{why}: over");
        }
    }

    #[test]
    fn what_was_counted_before_an_interface_is_known_says_nothing() {
        let begin = Instant::now();
        let mut unjudged = Unjudged::new(begin);
        unjudged.look(&counted(&[(Reason::NotIp, 1_000_000)]), begin + WINDOW);
        assert_eq!(unjudged.warnings().count(), 0);
    }
}
