//! Parses the content of a feed, and decides whether it can be believed.
//!
//! A feed is not under the operator's control, so its mistakes must neither cut the host off nor open the gate. A
//! line that cannot be read is left out, and so is a prefix that covers half the Internet. An answer that is not a
//! list, or suddenly lists almost nothing, is refused as a whole.

use std::fmt::Display;

use ipnet::IpNet;
use thiserror::Error;

use crate::lists::{
    guard::broadest_listed,
    import::{self, BadLine, Format, Import, Refusal},
};

/// How many of the omitted lines and prefixes are described.
const MAX_DESCRIBED: usize = 10;

/// What a feed lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Content {
    /// Sorted, without duplicates, host bits cleared.
    pub prefixes: Vec<IpNet>,
    /// How many lines and prefixes were left out.
    pub left_out: u64,
    /// Descriptions of the first of them, for people.
    pub problems: Vec<String>,
    /// The format in which it is written.
    pub format: Format,
    /// The first line that cannot be read, and how many there are.
    bad: Option<(BadLine, u64)>,
    /// Why nothing of it can be read.
    refusal: Option<Refusal>,
}

/// The content is not a list.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoList {
    /// Most of its lines cannot be read.
    #[error("this is no list: {bad} lines cannot be read, {entries} can; {first}")]
    Unreadable {
        /// Number of lines that cannot be read.
        bad: u64,
        /// Number of entries.
        entries: usize,
        /// The first line that cannot be read.
        first: BadLine,
    },
    /// Nothing of it can be read, or its meaning is unclear.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

impl NoList {
    /// Returns an error if there are more unreadable lines than entries. `first` is the first such line.
    pub fn check(entries: usize, bad: u64, first: Option<&BadLine>) -> Result<(), Self> {
        match first {
            Some(first) if bad > entries as u64 => {
                Err(Self::Unreadable { bad, entries, first: first.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl Content {
    /// Parses what a feed answered.
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
            let broadest = broadest_listed(prefix);
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

    /// Returns an error if it is not a list.
    pub fn check(&self) -> Result<(), NoList> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone().into());
        }
        let (first, bad) = self.bad.as_ref().map_or((None, 0), |(first, bad)| (Some(first), *bad));
        NoList::check(self.prefixes.len(), bad, first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_broken_or_too_broad_is_left_out_and_counted() {
        let text = "192.0.2.9\nnonsense\n0.0.0.0/0\n192.0.2.1\n192.0.2.9\n4000::/2\n2000::/7\n128.0.0.0/2 # all\n224.0.0.0/3\n";
        let content = Content::read(text.as_bytes());
        let shown: Vec<_> = content.prefixes.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["192.0.2.1/32", "192.0.2.9/32", "224.0.0.0/3", "2000::/7"]);
        assert_eq!(content.left_out, 4);
        assert!(content.problems[0].starts_with("line 2: "), "{:?}", content.problems);
        assert_eq!(
            content.problems[1..],
            [
                "0.0.0.0/0 covers more than a /3",
                "4000::/2 covers more than a /3",
                "128.0.0.0/2 covers more than a /3"
            ]
        );
        assert_eq!(content.check(), Ok(()));
    }

    #[test]
    fn what_is_described_is_bounded() {
        let content = Content::read("x\n0.0.0.0/0\n".repeat(1_000).as_bytes());
        assert_eq!((content.left_out, content.problems.len()), (2_000, MAX_DESCRIBED));
    }

    #[test]
    fn an_answer_that_is_mostly_something_else_is_no_list() {
        let page = "welcome\nto the network\nplease log in\n".to_owned();
        let cases = [
            ("a list", "10.0.0.1\n".to_owned(), true),
            ("nothing", String::new(), true),
            ("a page", page.clone(), false),
            ("a page with an address", page.clone() + "10.0.0.1", false),
            ("a list with some rubbish", page + "10.0.0.1\n10.0.0.2\n10.0.0.3\n", true),
        ];
        for (why, text, expected) in cases {
            let check = Content::read(text.as_bytes()).check();
            assert_eq!(check.is_ok(), expected, "{why}: {check:?}");
        }
        let page = Content::read(b"<html>\n").check().unwrap_err().to_string();
        assert!(page.starts_with("line 1: this is a page of the web") && page.contains("<html>"), "{page}");
        let text = Content::read(b"please log in\n").check().unwrap_err().to_string();
        assert!(text.starts_with("this is no list: 1 lines cannot be read"), "{text}");
    }
}
