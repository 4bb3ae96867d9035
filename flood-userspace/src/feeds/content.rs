//! What a feed says, and whether it can be believed.
//!
//! A feed is not under the operator's control, so its mistakes must neither shut the host nor open the gate: a line
//! that cannot be read is left out, a prefix that covers half the Internet too, and an answer that is no list, or
//! suddenly lists almost nothing, is refused as a whole.

use std::fmt::Display;

use ipnet::IpNet;
use thiserror::Error;

use crate::lists::import::{self, BadLine, Format, Import, Refusal};

/// How many of the things that were left out are described.
const MAX_DESCRIBED: usize = 10;

/// The broadest IPv4 prefix of a feed. Lists of countries have joined prefixes up to /6, those of addresses that nobody
/// has been given 224.0.0.0/3.
const BROADEST_IPV4: u8 = 3;

/// The broadest IPv6 prefix of a feed: more than a regional registry holds (/12).
const BROADEST_IPV6: u8 = 8;

/// The share of the entries that it had with which a feed is still believed: one in so many.
const BELIEVED_SHARE: usize = 10;

/// What a feed lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Sorted, no prefix twice, host bits cleared.
    pub prefixes: Vec<IpNet>,
    /// How many lines and prefixes were left out.
    pub left_out: u64,
    /// The first of them, for people.
    pub problems: Vec<String>,
    /// What it is written in.
    pub format: Format,
    /// The first line that cannot be read, and how many there are.
    bad: Option<(BadLine, u64)>,
    /// Why nothing of it can be read.
    refusal: Option<Refusal>,
}

/// Why what a feed lists is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Doubt {
    /// It is something else.
    #[error("this is no list: {bad} lines cannot be read, {entries} can; {first}")]
    NoList {
        /// Lines that cannot be read.
        bad: u64,
        /// Entries.
        entries: usize,
        /// The first of the lines.
        first: BadLine,
    },
    /// It is something else, or nobody can say what it means.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It lists nothing, or almost nothing, all of a sudden.
    #[error(
        "it lists {entries} entries, and had {before}: if that is right, say `may_shrink = true` in its section, or \
         `floodgate feed refresh --force` once"
    )]
    Shrunk {
        /// Entries now.
        entries: usize,
        /// Entries before.
        before: usize,
    },
}

impl Content {
    /// Reads what a feed answered.
    pub fn read(bytes: &[u8]) -> Self {
        let import = match import::parse(bytes) {
            Ok(import) => import,
            Err(refusal) => {
                return Self { format: refusal.format, refusal: Some(refusal), ..Self::default() };
            }
        };
        let Import { format, mut prefixes, bad, bad_lines, lines: _, timeouts: _ } = import;
        let mut problems: Vec<String> = Vec::new();
        let mut describe = |problem: &dyn Display| {
            if problems.len() < MAX_DESCRIBED {
                problems.push(problem.to_string());
            }
        };
        bad.iter().for_each(|line| describe(line));
        let read = prefixes.len();
        prefixes.retain(|prefix| {
            let broadest = match prefix {
                IpNet::V4(_) => BROADEST_IPV4,
                IpNet::V6(_) => BROADEST_IPV6,
            };
            let is_meant = prefix.prefix_len() >= broadest;
            if !is_meant {
                describe(&format_args!("{prefix} covers more than a /{broadest}"));
            }
            is_meant
        });
        let left_out = bad_lines + (read - prefixes.len()) as u64;
        prefixes.sort_unstable();
        prefixes.dedup();
        prefixes.shrink_to_fit();
        let bad = bad.into_iter().next().map(|line| (line, bad_lines));
        Self { prefixes, left_out, problems, format, bad, refusal: None }
    }

    /// Whether it can be believed of a feed that had `before` entries. A feed that may shrink is believed with any
    /// number of entries, but not when it is no list.
    pub fn check(&self, before: usize, may_shrink: bool) -> Result<(), Doubt> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone().into());
        }
        let entries = self.prefixes.len();
        match &self.bad {
            Some((first, bad)) if *bad > entries as u64 => {
                return Err(Doubt::NoList { bad: *bad, entries, first: first.clone() });
            }
            _ => {}
        }
        let few = entries == 0 || entries * BELIEVED_SHARE < before;
        if few && !may_shrink { Err(Doubt::Shrunk { entries, before }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_or_too_broad_is_left_out_and_counted() {
        let text = "192.0.2.9\nnonsense\n0.0.0.0/0\n192.0.2.1\n192.0.2.9\n2000::/7\n128.0.0.0/2 # all\n224.0.0.0/3\n";
        let content = Content::read(text.as_bytes());
        let shown: Vec<_> = content.prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1/32", "192.0.2.9/32", "224.0.0.0/3"]);
        assert_eq!(content.left_out, 4);
        assert!(content.problems[0].starts_with("line 2: "), "{:?}", content.problems);
        assert_eq!(
            content.problems[1..],
            [
                "0.0.0.0/0 covers more than a /3",
                "2000::/7 covers more than a /8",
                "128.0.0.0/2 covers more than a /3"
            ]
        );
        assert_eq!(content.check(3, false), Ok(()));
    }

    #[test]
    fn what_is_described_is_bounded() {
        let content = Content::read("x\n0.0.0.0/0\n".repeat(1_000).as_bytes());
        assert_eq!((content.left_out, content.problems.len()), (2_000, MAX_DESCRIBED));
    }

    #[test]
    fn an_answer_is_believed_unless_it_is_no_list_or_lists_almost_nothing() {
        let list = |entries: u32| (0..entries).map(|n| format!("10.0.0.{n}\n")).collect::<String>();
        let page = "welcome\nto the network\nplease log in\n".to_owned();
        let cases = [
            ("the first of all", list(1), 0, false, true),
            ("as many as before", list(20), 20, false, true),
            ("a tenth", list(2), 20, false, true),
            ("less than a tenth", list(1), 20, false, false),
            ("less than a tenth, as it may", list(1), 20, true, true),
            ("nothing", list(0), 20, false, false),
            ("nothing at the first time", list(0), 0, false, false),
            ("nothing, as it may", list(0), 20, true, true),
            ("a page", page.clone(), 0, false, false),
            ("a page is no list, however small it may be", page.clone(), 20, true, false),
            ("a page with an address", page.clone() + "10.0.0.1", 1, false, false),
            ("a list with some rubbish", page + &list(3), 3, false, true),
        ];
        for (why, text, before, may_shrink, expected) in cases {
            let check = Content::read(text.as_bytes()).check(before, may_shrink);
            assert_eq!(check.is_ok(), expected, "{why}: {check:?}");
        }
    }

    #[test]
    fn a_doubt_says_what_to_do() {
        let page = Content::read(b"<html>\n").check(0, true).unwrap_err().to_string();
        assert!(page.starts_with("line 1: this is a page of the web") && page.contains("<html>"), "{page}");
        let text = Content::read(b"please log in\n").check(0, true).unwrap_err().to_string();
        assert!(text.starts_with("this is no list: 1 lines cannot be read"), "{text}");
        let empty = Content::read(b"").check(7, false).unwrap_err().to_string();
        assert!(empty.contains("had 7") && empty.contains("--force"), "{empty}");
    }
}
