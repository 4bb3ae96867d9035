//! Why the content of a list is implausible: it is suddenly much shorter or longer than before, or covers more of
//! the Internet than anyone intends.
//!
//! The operator can confirm that it is right: with a configuration key ([`Doubt::key`]), or once with `--force`.

use std::fmt;

use ipnet::{IpNet, Ipv6Net};
use serde::Serialize;
use thiserror::Error;

/// A list is still accepted with at least this fraction of its previous entries: one in so many.
const BELIEVED_SHARE: usize = 10;

/// A list is still accepted with at most this many times its previous entries.
const BELIEVED_GROWTH: usize = 10;

/// Entries that a list may gain at once, regardless of its previous size.
const FREE_GROWTH: usize = 10_000;

/// The blocks from which the regional registries allocate IPv6 addresses (IANA, IPv6 Global Unicast Address
/// Assignments): the first 16 bits and the length. Lists of unassigned addresses cover everything outside of them.
const REGISTRIES: [(u16, u8); 9] = [
    (0x2001, 16),
    (0x2003, 18),
    (0x2400, 12),
    (0x2410, 12),
    (0x2600, 12),
    (0x2630, 12),
    (0x2800, 12),
    (0x2a00, 11),
    (0x2c00, 12),
];

/// Maximum share of an address family that a list may cover, percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Coverage {
    /// Share of all of IPv4.
    pub ipv4: u8,
    /// Share of what the registries allocate.
    pub ipv6: u8,
}

impl Default for Coverage {
    /// All unassigned addresses, with some margin: an eighth of IPv4 and more than nine tenths of IPv6.
    fn default() -> Self {
        Self { ipv4: 25, ipv6: 97 }
    }
}

/// Why a list is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Doubt {
    /// The list is now empty.
    #[error("it has no entries, and had {0}")]
    Empty(Entries),
    /// The list is empty, and no earlier content is known.
    #[error("it has no entries")]
    NeverAny,
    /// The list suddenly has almost no entries.
    #[error("it has {now}, and had {before}, more than ten times as many")]
    Shrunk {
        /// Entries now.
        now: Entries,
        /// Entries before.
        before: Entries,
    },
    /// The list suddenly has many more entries.
    #[error("it has {now}, and had {before}, less than a tenth as many")]
    Grown {
        /// Entries now.
        now: Entries,
        /// Entries before.
        before: Entries,
    },
    /// The list covers too much.
    #[error("it covers {percent} % of {family}, and {most} % is the most")]
    Covers {
        /// The addresses meant.
        family: &'static str,
        /// The covered share, rounded up.
        percent: u8,
        /// The maximum share.
        most: u8,
    },
}

impl Doubt {
    /// Returns the configuration key that makes it acceptable.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Empty(_) | Self::NeverAny | Self::Shrunk { .. } => "may_shrink = true",
            Self::Grown { .. } => "may_grow = true",
            Self::Covers { .. } => "max_coverage = \"100%\"",
        }
    }
}

/// A number of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entries(pub usize);

impl fmt::Display for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 entry"),
            count => write!(f, "{count} entries"),
        }
    }
}

/// Rejects a list that has almost none of the entries that it had `before`, or none at all.
pub fn check_shrinking(before: usize, now: usize) -> Result<(), Doubt> {
    match (before, now) {
        (0, 0) => Err(Doubt::NeverAny),
        (_, 0) => Err(Doubt::Empty(Entries(before))),
        _ if now.saturating_mul(BELIEVED_SHARE) < before => {
            Err(Doubt::Shrunk { now: Entries(now), before: Entries(before) })
        }
        _ => Ok(()),
    }
}

/// Rejects a list that had far fewer entries `before`. The very first content may have any number.
pub fn check_growth(before: usize, now: usize) -> Result<(), Doubt> {
    let is_much = now > before.saturating_mul(BELIEVED_GROWTH) && now > before.saturating_add(FREE_GROWTH);
    if before > 0 && is_much {
        return Err(Doubt::Grown { now: Entries(now), before: Entries(before) });
    }
    Ok(())
}

/// Rejects a list that covers too much. The prefixes are sorted, broader before narrower.
pub fn check_coverage(prefixes: impl IntoIterator<Item = IpNet>, most: Coverage) -> Result<(), Doubt> {
    let (mut ipv4, mut ipv6) = (0_u64, 0_u128);
    let mut last: Option<IpNet> = None;
    for prefix in prefixes {
        if last.is_some_and(|last| last.contains(&prefix)) {
            continue;
        }
        last = Some(prefix);
        match prefix {
            IpNet::V4(v4) => ipv4 += 1 << (32 - v4.prefix_len()),
            IpNet::V6(v6) => ipv6 += registered(&v6),
        }
    }
    let shares = [
        ("IPv4", ipv4 as f64 / (1_u64 << 32) as f64, most.ipv4),
        (
            "the IPv6 addresses that registries give out",
            ipv6 as f64 / registered(&Ipv6Net::default()) as f64,
            most.ipv6,
        ),
    ];
    for (family, share, most) in shares {
        let percent = share * 100.0;
        if percent > f64::from(most) {
            return Err(Doubt::Covers { family, percent: percent.ceil() as u8, most });
        }
    }
    Ok(())
}

/// Returns how many /64 networks that registries allocate are in a prefix; a longer prefix counts as one.
fn registered(prefix: &Ipv6Net) -> u128 {
    let (first, last) = (prefix.network().to_bits(), prefix.broadcast().to_bits());
    let networks = REGISTRIES.iter().map(|(start, length)| {
        let start = u128::from(*start) << 112;
        let end = start | u128::MAX >> length;
        if last < start || end < first { 0 } else { ((last.min(end) - first.max(start)) >> 64) + 1 }
    });
    networks.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_may_change_within_bounds() {
        let cases = [
            ("the first of all", 0, 1_000_000, true, true),
            ("as many as before", 20, 20, true, true),
            ("a tenth", 20, 2, true, true),
            ("less than a tenth", 20, 1, false, true),
            ("nothing", 20, 0, false, true),
            ("nothing at the first time", 0, 0, false, true),
            ("a short list that becomes a long one", 10, 10_010, true, true),
            ("a little longer than that", 10, 10_011, true, false),
            ("ten times as many", 100_000, 1_000_000, true, true),
            ("more than that", 1_000, 1_000_000, true, false),
        ];
        for (why, before, now, may_shrink, may_grow) in cases {
            assert_eq!(check_shrinking(before, now).is_ok(), may_shrink, "{why}");
            assert_eq!(check_growth(before, now).is_ok(), may_grow, "{why}");
        }
    }

    fn covers(texts: &[&str]) -> Result<(), Doubt> {
        let mut prefixes: Vec<IpNet> = texts.iter().map(|text| text.parse().unwrap()).collect();
        prefixes.sort_unstable();
        check_coverage(prefixes, Coverage::default())
    }

    #[test]
    fn what_nobody_has_been_given_may_be_listed_and_the_internet_may_not() {
        let bogons =
            ["0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "224.0.0.0/3"];
        assert_eq!(covers(&bogons), Ok(()));
        let within: Vec<String> = (0..256).map(|n| format!("224.{n}.0.0/16")).collect();
        let within: Vec<&str> = within.iter().map(String::as_str).chain(bogons).collect();
        assert_eq!(covers(&within), Ok(()), "what lies within another counts once");
        let eighths: Vec<String> = (0..8).map(|n| format!("{}.0.0.0/3", n * 32)).collect();
        let eighths: Vec<&str> = eighths.iter().map(String::as_str).collect();
        assert_eq!(covers(&eighths[..2]), Ok(()));
        for count in 3..=8 {
            let doubt = covers(&eighths[..count]).unwrap_err();
            assert!(matches!(doubt, Doubt::Covers { family: "IPv4", .. }), "{doubt}");
        }
        let halves: Vec<String> = (0..512).map(|n| format!("{}.{}.0.0/9", n / 2, n % 2 * 128)).collect();
        assert!(covers(&halves.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn most_of_ipv6_belongs_to_nobody() {
        let bogons =
            ["::/8", "200::/7", "1000::/4", "2d00::/8", "3000::/4", "4000::/2", "8000::/1", "2c00::/13"];
        assert_eq!(covers(&bogons), Ok(()));
        assert_eq!(covers(&["2001:db8::/32", "2600::/13"]), Ok(()));
        assert!(covers(&["2000::/3"]).is_err());
        let sixteenths: Vec<String> =
            (0x2000..0x3000_u32).step_by(16).map(|n| format!("{n:x}::/12")).collect();
        assert!(covers(&sixteenths.iter().map(String::as_str).collect::<Vec<_>>()).is_err());
    }

    #[test]
    fn a_doubt_counts_properly() {
        assert_eq!(check_shrinking(0, 0).unwrap_err().to_string(), "it has no entries");
        assert_eq!(check_shrinking(1, 0).unwrap_err().to_string(), "it has no entries, and had 1 entry");
        let shrunk = check_shrinking(11, 1).unwrap_err().to_string();
        assert_eq!(shrunk, "it has 1 entry, and had 11 entries, more than ten times as many");
    }
}
