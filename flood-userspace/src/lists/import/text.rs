//! Turns bytes into lines and words, whatever the encoding.

use std::borrow::Cow;

/// Maximum length of a line without its remarks, in bytes: room for 4000 addresses after one `deny from`. A longer
/// line is ignored completely, because the last address within this length may be cut off.
pub(super) const LOOKED_AT: usize = 1 << 16;

/// How many characters of an unintelligible line are shown.
pub(super) const MAX_SHOWN_CHARS: usize = 60;

/// Zero-width characters, which text copied from web pages may contain.
const INVISIBLE: [char; 5] = ['\u{200b}', '\u{200c}', '\u{200d}', '\u{2060}', '\u{feff}'];

/// A file in UTF-8 or nearly so: remarks may be in any encoding.
pub(super) struct Text<'a> {
    bytes: Cow<'a, [u8]>,
    /// Number of lines before this text.
    before: u64,
}

/// A line of text.
#[derive(Clone, Copy)]
pub(super) struct Line<'a> {
    /// Line number, from 1.
    pub(super) number: u64,
    /// The whole line, without its line ending.
    pub(super) bytes: &'a [u8],
}

impl<'a> Text<'a> {
    /// Decodes text after a byte order mark of UTF-8 or UTF-16, if there is one. `before` is the number of lines
    /// before it.
    pub(super) fn decode(bytes: &'a [u8], before: u64) -> Self {
        let units = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
            let (pairs, _) = bytes.as_chunks::<2>();
            let units = pairs.iter().map(|pair| unit(*pair));
            let text: String =
                char::decode_utf16(units).map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
            Cow::Owned(text.into_bytes())
        };
        let bytes = match bytes {
            [0xef, 0xbb, 0xbf, rest @ ..] => Cow::Borrowed(rest),
            [0xff, 0xfe, rest @ ..] => units(rest, u16::from_le_bytes),
            [0xfe, 0xff, rest @ ..] => units(rest, u16::from_be_bytes),
            _ => Cow::Borrowed(bytes),
        };
        Self { bytes, before }
    }

    /// Returns the whole text.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the number of lines before this text.
    pub(super) fn before(&self) -> u64 {
        self.before
    }

    /// Returns the lines, which end with LF, CRLF or CR.
    pub(super) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let mut rest = self.bytes();
        let mut number = self.before;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let end = rest.iter().position(|b| matches!(b, b'\n' | b'\r')).unwrap_or(rest.len());
            let (bytes, ending) = rest.split_at(end);
            rest = ending.strip_prefix(b"\r\n").or(ending.get(1..)).unwrap_or_default();
            number += 1;
            Some(Line { number, bytes })
        })
    }
}

impl<'a> Line<'a> {
    /// Returns its first [`LOOKED_AT`] bytes as text, trimmed.
    pub(super) fn text(&self) -> Cow<'a, str> {
        let blank = |c: char| c.is_whitespace() || INVISIBLE.contains(&c);
        match String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(LOOKED_AT)]) {
            Cow::Borrowed(text) => Cow::Borrowed(text.trim_matches(blank)),
            Cow::Owned(text) => Cow::Owned(text.trim_matches(blank).to_owned()),
        }
    }

    /// Returns whether the line is longer than what is examined.
    pub(super) fn is_long(&self) -> bool {
        self.bytes.len() > LOOKED_AT
    }
}

/// Returns whether a trimmed line contains nothing but a remark.
pub(super) fn is_remark(line: &str) -> bool {
    line.is_empty() || line.starts_with(['#', ';']) || line.starts_with("//")
}

/// Strips the remark at the end of a line: whatever follows `#`, `//` (unless part of a URL), or `;` after a
/// blank.
pub(super) fn without_remarks(line: &str) -> &str {
    let bytes = line.as_bytes();
    let mut before = b' ';
    for (at, &byte) in bytes.iter().enumerate() {
        let begins = match byte {
            b'#' => true,
            b';' => before.is_ascii_whitespace(),
            b'/' => before != b':' && bytes.get(at + 1) == Some(&b'/'),
            _ => false,
        };
        if begins {
            return line.get(..at).unwrap_or(line);
        }
        before = byte;
    }
    line
}

/// Splits a line at `separator`s. A quoted text stays in one piece, without its quotes.
pub(super) fn fields(line: &str, separator: fn(char) -> bool) -> impl Iterator<Item = &str> {
    separated(line, separator).map(|(field, _)| field)
}

/// Does the same, but returns each field with the separator after it.
fn separated(line: &str, separator: fn(char) -> bool) -> impl Iterator<Item = (&str, Option<char>)> {
    let mut rest = Some(line);
    std::iter::from_fn(move || {
        let text = rest?.trim_start_matches(|c: char| c.is_whitespace() && !separator(c));
        let quoted = text.strip_prefix('"').and_then(|text| text.split_once('"'));
        let (field, behind) = quoted.unwrap_or(("", text));
        let end = behind.find(separator).unwrap_or(behind.len());
        let (unquoted, behind) = behind.split_at(end);
        let mut chars = behind.chars();
        let mark = chars.next();
        rest = mark.map(|_| chars.as_str());
        Some((if quoted.is_some() { field } else { unquoted }.trim(), mark))
    })
}

/// Splits a line into words at blanks, commas and semicolons. Nothing between two commas, or before the first one,
/// is an empty word.
pub(super) fn words(line: &str) -> impl Iterator<Item = &str> {
    let mut is_behind_comma = true;
    separated(line, |c| c.is_whitespace() || matches!(c, ',' | ';')).filter_map(move |(word, mark)| {
        let is_word = !word.is_empty() || is_behind_comma && mark == Some(',');
        is_behind_comma = mark == Some(',') || is_behind_comma && word.is_empty();
        is_word.then(|| visible(word))
    })
}

/// Splits a line into words at blanks; quoted text is one word.
pub(super) fn quoted_words(line: &str) -> impl Iterator<Item = &str> {
    let mut rest = line;
    std::iter::from_fn(move || {
        rest = rest.trim_start();
        let quoted = rest.strip_prefix('"').and_then(|text| text.find('"')).map(|end| end + 2);
        let end = quoted.or_else(|| rest.find(char::is_whitespace)).unwrap_or(rest.len());
        let (word, behind) = rest.split_at(end);
        rest = behind;
        (!word.is_empty()).then_some(word)
    })
}

/// Words by which tables and policies let addresses in.
const LETS_IN: [&str; 10] = [
    "allow",
    "allowed",
    "accept",
    "accepted",
    "permit",
    "permitted",
    "whitelist",
    "whitelisted",
    "allowlist",
    "allowlisted",
];

/// Words that let addresses in only in the place of a verdict.
const LETS_IN_AS_VERDICT: [&str; 3] = ["pass", "ok", "dunno"];

fn one_of(word: &str, words: &[&'static str]) -> Option<&'static str> {
    words.iter().find(|known| word.eq_ignore_ascii_case(known)).copied()
}

/// Returns the known word if this word lets addresses in anywhere.
pub(super) fn lets_in(word: &str) -> Option<&'static str> {
    one_of(word, &LETS_IN)
}

/// Returns the known word if this word lets addresses in as a verdict.
pub(super) fn lets_in_as_verdict(word: &str) -> Option<&'static str> {
    lets_in(word).or_else(|| one_of(word, &LETS_IN_AS_VERDICT))
}

/// Returns the known word if this word makes a following address an exception.
pub(super) fn excepts(word: &str) -> Option<&'static str> {
    one_of(word, &["!", "except", "excluding", "exclude", "without", "not", "minus", "unless"])
}

/// Strips invisible characters around a word.
pub(super) fn visible(word: &str) -> &str {
    word.trim_matches(INVISIBLE)
}

/// Returns the beginning of a text, escaped so that it cannot affect a terminal.
pub(super) fn printable(bytes: &[u8]) -> String {
    // A character has at most four bytes.
    let beginning = &bytes[..bytes.len().min(4 * MAX_SHOWN_CHARS)];
    let text = String::from_utf8_lossy(beginning);
    text.chars().take(MAX_SHOWN_CHARS).flat_map(char::escape_debug).collect()
}
