//! Reads list files in the formats that real lists have.
//!
//! One address, prefix or range `first-last` per line; what follows it after whitespace, a comma, `#` or `;`
//! is remarks. Comment lines, blank lines, CRLF, a byte order mark and text in any encoding behind the entry
//! are fine. Any bytes can be given: nothing panics, and what is kept of bad input is bounded. A line is
//! never half understood: what cannot be read is reported as a [`BadLine`], and the other lines count.

use std::io;
use std::path::Path;

use ipnet::IpNet;
use thiserror::Error;

use crate::file;

use super::target::{TargetError, parse_target};

/// Longest line in bytes; the longest of a real list are comments of a few hundred. Protects against binary
/// files.
const MAX_LINE_BYTES: usize = 4096;

/// How much of a bad line is shown, in characters.
const MAX_SHOWN_CHARS: usize = 80;

/// How many bad lines are kept. More tell nobody more, and a wrong file must not fill the memory.
const MAX_KEPT_BAD_LINES: usize = 100;

/// The largest file that is read: a million lines have 20 MB, so this is room for ten million.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// What a file contained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// The prefixes in the order of the file, repetitions included.
    pub prefixes: Vec<IpNet>,
    /// The first 100 lines that could not be read.
    pub bad: Vec<BadLine>,
    /// How many lines could not be read.
    pub bad_lines: u64,
    /// How many lines there were, with comments and blank lines.
    pub lines: u64,
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {problem} (the line is \"{text}\")")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: u64,
    /// Its beginning, made fit for a terminal.
    pub text: String,
    /// What is wrong.
    pub problem: LineProblem,
}

/// Why a line could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineProblem {
    /// No line of a list is this long.
    #[error("longer than {MAX_LINE_BYTES} bytes: is this a list?")]
    TooLong,
    /// Two addresses in two columns: a range, or something else. To take the first alone would be a guess.
    #[error("two addresses in two columns: write a range as first-last")]
    TwoAddresses,
    /// The entry itself is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
}

/// Reads the file at `path`. Bad lines are no error; a file that is larger than any list is.
pub fn load(path: &Path) -> io::Result<Import> {
    Ok(parse(&file::read(path, MAX_FILE_BYTES)?))
}

/// Reads the contents of a list file.
pub fn parse(bytes: &[u8]) -> Import {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let mut import = Import::default();
    if bytes.is_empty() {
        return import;
    }
    for line in bytes.split(|&b| b == b'\n') {
        import.lines += 1;
        match parse_line(line) {
            Ok(prefixes) => import.prefixes.extend(prefixes),
            Err(problem) => {
                import.bad_lines += 1;
                if import.bad.len() < MAX_KEPT_BAD_LINES {
                    import.bad.push(BadLine { line: import.lines, text: printable(line), problem });
                }
            }
        }
    }
    import
}

/// The prefixes of one line: none for a comment or a blank line, several for a range.
fn parse_line(line: &[u8]) -> Result<Vec<IpNet>, LineProblem> {
    if line.len() > MAX_LINE_BYTES {
        return Err(LineProblem::TooLong);
    }
    let text = String::from_utf8_lossy(line);
    let entry = text.split(['#', ';']).next().unwrap_or_default();
    let mut fields = entry.split(|c: char| c == ',' || c.is_whitespace()).filter(|field| !field.is_empty());
    let Some(first) = fields.next() else {
        return Ok(Vec::new());
    };

    let target = match (fields.next(), fields.next()) {
        (Some("-"), Some(last)) => parse_target(&format!("{first}-{last}")),
        (Some(second), _) if first.ends_with('-') || second.starts_with('-') => {
            parse_target(&format!("{first}{second}"))
        }
        (Some(second), _) if parse_target(second).is_ok() => return Err(LineProblem::TwoAddresses),
        _ => parse_target(first),
    };
    Ok(target?)
}

/// The beginning of a line without anything that would act on a terminal.
fn printable(line: &[u8]) -> String {
    // A character has at most four bytes.
    let beginning = &line[..line.len().min(4 * MAX_SHOWN_CHARS)];
    let text = String::from_utf8_lossy(beginning);
    text.trim_end_matches('\r').chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes(text: &str) -> Vec<String> {
        let import = parse(text.as_bytes());
        assert_eq!(import.bad, [], "in {text:?}");
        import.prefixes.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn lines_of_real_lists_are_read() {
        let cases: [(&str, &str, &[&str]); 18] = [
            ("bare address", "192.0.2.7", &["192.0.2.7/32"]),
            ("prefix, indented", "  192.0.2.0/24", &["192.0.2.0/24"]),
            ("Spamhaus DROP", "192.0.2.0/24 ; SBL1", &["192.0.2.0/24"]),
            ("remark without a space", "192.0.2.7#bot", &["192.0.2.7/32"]),
            ("ipsum: address, tab, score", "192.0.2.7\t10", &["192.0.2.7/32"]),
            ("comma separated", "192.0.2.7,443,2026-01-01", &["192.0.2.7/32"]),
            ("trailing space", "2001:db8::/32 ", &["2001:db8::/32"]),
            ("range", "192.0.2.0-192.0.2.127", &["192.0.2.0/25"]),
            ("range with spaces", "192.0.2.0 - 192.0.2.127", &["192.0.2.0/25"]),
            ("range, space before", "192.0.2.0 -192.0.2.127", &["192.0.2.0/25"]),
            ("range, space behind", "192.0.2.0- 192.0.2.127 x", &["192.0.2.0/25"]),
            ("Windows line ends", "192.0.2.7\r\n192.0.2.8\r\n", &["192.0.2.7/32", "192.0.2.8/32"]),
            ("byte order mark", "\u{FEFF}192.0.2.7", &["192.0.2.7/32"]),
            ("byte order mark before a comment", "\u{FEFF}# list\n192.0.2.7", &["192.0.2.7/32"]),
            ("only remarks", "# one\n; two\n\n   \n\t#three", &[]),
            ("nothing", "", &[]),
            ("host bits", "192.0.2.7/24", &["192.0.2.0/24"]),
            ("mapped", "::ffff:192.0.2.7", &["192.0.2.7/32"]),
        ];
        for (why, input, expected) in cases {
            assert_eq!(prefixes(input), expected, "{why}");
        }
    }

    #[test]
    fn a_bad_line_is_reported_and_the_others_count() {
        let import = parse(b"192.0.2.7\n\x1b[2Jevil\xff\n192.0.2.8\r\n192.0.2.300\r\n");
        assert_eq!(import.lines, 4);
        assert_eq!(import.prefixes.len(), 2);
        let shown: Vec<_> = import.bad.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 2);
        assert!(shown[0].starts_with("line 2: ") && shown[0].contains(r"\u{1b}[2Jevil"), "{}", shown[0]);
        assert!(!shown.concat().contains(char::is_control));
        assert!(shown[1].starts_with("line 4: \"192.0.2.300\" is not an address"), "{}", shown[1]);
        assert_eq!(import.bad[1].text, "192.0.2.300");
    }

    #[test]
    fn an_address_range_in_two_columns_is_not_taken_for_its_first_address() {
        let import = parse(b"192.0.2.0\t192.0.2.255\t24\n");
        assert_eq!(import.bad[0].problem, LineProblem::TwoAddresses);
        assert_eq!(import.prefixes, []);
    }

    #[test]
    fn remarks_may_be_in_any_encoding() {
        let import = parse(b"192.0.2.7 # caf\xe9\n# \xff\xfe\n");
        assert_eq!((import.prefixes.len(), import.bad_lines), (1, 0));
    }

    #[test]
    fn a_binary_file_costs_bounded_memory() {
        let long = parse(&[b'x'; 3 * MAX_LINE_BYTES]);
        assert_eq!(long.bad[0].problem, LineProblem::TooLong);
        assert_eq!(long.bad[0].text.len(), MAX_SHOWN_CHARS);

        let many = parse("x\n".repeat(1000).as_bytes());
        assert_eq!((many.lines, many.bad_lines, many.bad.len()), (1000, 1000, MAX_KEPT_BAD_LINES));
    }

    proptest! {
        #[test]
        fn every_line_is_counted_whatever_the_bytes(bytes: Vec<u8>) {
            let import = parse(&bytes);
            prop_assert!(import.bad_lines <= import.lines);
            prop_assert!(import.lines <= bytes.iter().filter(|&&b| b == b'\n').count() as u64 + 1);
        }

        #[test]
        fn text_that_is_nearly_a_list_never_panics(text in "([0-9a-f.:/,;# \t\r\n-]{0,20}\n){0,8}") {
            let import = parse(text.as_bytes());
            prop_assert!(import.prefixes.iter().all(|prefix| prefix.trunc() == *prefix));
        }
    }
}
