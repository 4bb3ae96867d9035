//! Detects what a file is, from its first bytes and lines.

use super::{
    Format, Refusal, Why, directives, ipset, json, nft, p2p,
    text::{Text, is_remark, printable},
};

/// How many lines other than remarks are examined.
const LINES: usize = 64;

/// First bytes of other kinds of files, and what they are.
const MAGIC: [(&[u8], &str); 9] = [
    (b"\x1f\x8b", "compressed with gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
    (b"\xfd7zXZ", "compressed with xz"),
    (b"BZh", "compressed with bzip2"),
    (b"PK\x03\x04", "a zip archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program"),
    (b"%PDF", "a PDF document"),
    (b"\xd4\xc3\xb2\xa1", "a capture"),
];

/// First words of web pages.
const PAGE: [&str; 6] = ["<!doctype", "<html", "<head", "<body", "<?xml", "<!--"];

/// Keys of whois output about a network, which may contain other addresses as well.
const WHOIS: [&str; 6] = ["inetnum:", "inet6num:", "route:", "route6:", "netrange:", "cidr:"];

/// Returns whether a file that begins like this has a certain format.
type Recognises = fn(&Head) -> bool;

/// The first lines other than remarks, with their line numbers.
pub(super) struct Head {
    pub(super) lines: Vec<(u64, String)>,
}

impl Head {
    pub(super) fn of(text: &Text<'_>) -> Self {
        let lines = text.lines().map(|line| (line.number, line.text()));
        let lines = lines.filter(|(_, text)| !is_remark(text) && !text.starts_with('!'));
        Self { lines: lines.take(LINES).map(|(number, text)| (number, text.into_owned())).collect() }
    }

    /// Returns the first line.
    pub(super) fn first(&self) -> &str {
        self.lines.first().map_or("", |(_, text)| text)
    }

    /// Returns the first word of each line.
    pub(super) fn first_words(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().filter_map(|(_, text)| text.split_whitespace().next())
    }

    /// Refuses the file because of one of the lines.
    pub(super) fn refusal(&self, number: u64, why: Why) -> Refusal {
        let text = self.lines.iter().find(|(there, _)| *there == number).map_or("", |(_, text)| text);
        Refusal { format: Format::Columns, line: Some((number, printable(text.as_bytes()))), why }
    }

    /// Refuses a file that is no list at all.
    pub(super) fn check(&self, bytes: &[u8]) -> Result<(), Refusal> {
        let magic = MAGIC.iter().find(|(magic, _)| bytes.starts_with(magic)).map(|(_, what)| *what);
        let first = self.first().get(..9.min(self.first().len())).unwrap_or_default().to_ascii_lowercase();
        let page = PAGE.iter().any(|page| first.starts_with(page)).then_some("a page of the web");
        if let (Some(what), Some((number, _))) = (magic.or(page), self.lines.first()) {
            return Err(self.refusal(*number, Why::NoList(what)));
        }
        let is_whois = |line: &str| {
            let first = line.split_whitespace().next().unwrap_or_default();
            WHOIS.iter().any(|key| first.eq_ignore_ascii_case(key))
        };
        match self.lines.iter().find(|(_, line)| is_whois(line)) {
            Some((number, _)) => Err(self.refusal(*number, Why::NoList("an answer of whois"))),
            None => Ok(()),
        }
    }

    /// Returns the format of the file.
    pub(super) fn format(&self) -> Format {
        let formats: [(Format, Recognises); 7] = [
            (Format::Json, json::recognises),
            (Format::IpsetSave, ipset::recognises_save),
            (Format::IpsetList, ipset::recognises_list),
            (Format::Nft, nft::recognises),
            (Format::Deny, directives::recognises),
            (Format::P2p, p2p::recognises),
            (Format::IpFilter, p2p::recognises_filter),
        ];
        formats
            .iter()
            .find(|(_, recognises)| recognises(self))
            .map_or(Format::Addresses, |(format, _)| *format)
    }
}
