//! Reads list files in the formats that real lists use.
//!
//! The format is detected from the content, from the table of [`Format`]s, and holds for the whole file. Any bytes
//! are accepted as input: nothing panics, time is linear, and what is kept of bad input is bounded. A line is
//! never half understood: an unreadable line is a [`BadLine`], and the other lines count. A line that affects
//! other lines (an exception, columns of unknown meaning) or shows that the file is something else is a
//! [`Refusal`] of the whole file.

mod directives;
mod ipset;
mod json;
mod nft;
mod p2p;
mod pairs;
mod rows;
mod sniff;
mod text;

use std::{borrow::Cow, fmt, io, net::SocketAddr, path::Path};

use ipnet::IpNet;
use thiserror::Error;

use crate::file;

use self::{
    sniff::Head,
    text::{LOOKED_AT, Line, Text, is_remark, printable},
};
use super::target::TargetError;

/// How many bad lines are kept for the report. More would help nobody, and a wrong file must not fill the memory.
const MAX_KEPT_BAD_LINES: usize = 100;

/// The largest file that is read: a million lines take 20 MB, so this is enough for ten million.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// Maximum number of prefixes in a file: a single range can become 250 of them.
const MAX_PREFIXES: usize = 1 << 23;

/// Start of the line that precedes the feed's own content in the stored copy of a feed.
pub const COPY_MARK: &str = "# floodgate feed ";

macro_rules! formats {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $label:literal $(, #[$default:ident])?;)+) => {
        /// The format of a list.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum Format {
            $($(#[doc = $meaning])+ $(#[$default])? $variant,)+
        }

        impl Format {
            /// All formats, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Returns its name.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// Describes what its files look like.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => concat!($($meaning),+),)+
                }
            }
        }
    };
}

formats! {
    /// An address, prefix, `first-last` or `address/mask` first on each line, and remarks behind it: Spamhaus DROP, FireHOL, ipsum.
    Addresses = "addresses", #[default];
    /// A table, as CSV or with blanks, with the address in the same column of each line: abuse.ch, `uniq -c`.
    Columns = "columns";
    /// A range in two columns, first and last: DShield, DB-IP.
    Ranges = "ranges";
    /// An address and its mask in two columns.
    Netmasks = "netmasks";
    /// A range in two columns of integers: IP2Location.
    Integers = "integers";
    /// JSON, in one piece or an object on each line: Spamhaus, AWS, Cloudflare.
    Json = "json";
    /// What `ipset save` prints.
    IpsetSave = "ipset save";
    /// What `ipset list` prints.
    IpsetList = "ipset list";
    /// Sets as `nft list set` prints them, and `add element`.
    Nft = "nft";
    /// `deny` of nginx and Apache, `Require not ip`.
    Deny = "deny";
    /// `name:first-last`: P2P, PeerGuardian.
    P2p = "p2p";
    /// `first - last , level , name`, with three digits for each number of an address: eMule's `ipfilter.dat`.
    IpFilter = "ipfilter";
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// The contents of a list file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// Detected format.
    pub format: Format,
    /// The prefixes in file order, repetitions included.
    pub prefixes: Vec<IpNet>,
    /// The first 100 lines that could not be read.
    pub bad: Vec<BadLine>,
    /// Number of lines that could not be read.
    pub bad_lines: u64,
    /// Number of lines, including comments and blank lines.
    pub lines: u64,
    /// Number of entries with an expiry, which is ignored.
    pub timeouts: u64,
}

/// A line that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("line {line}: {problem} (the line is \"{text}\")")]
pub struct BadLine {
    /// Line number, from 1.
    pub line: u64,
    /// The start of the line, made safe for a terminal.
    pub text: String,
    /// What is wrong.
    pub problem: LineProblem,
}

/// Why a line could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineProblem {
    /// Too long: only its beginning would be read.
    #[error("longer than {LOOKED_AT} bytes: write the entries on several lines")]
    TooLong,
    /// Two addresses in two columns: a range, or something else. Taking only the first would be a guess.
    #[error("two addresses in two columns: write a range as first-last")]
    TwoAddresses,
    /// The other lines have a range in two columns.
    #[error("no range in two columns, which the other lines have")]
    NoRange,
    /// The line ends before the column of the entries.
    #[error("no column {0}, where the other lines have their addresses")]
    NoColumn(usize),
    /// A URL.
    #[error("{0:?} is a URL: lists hold addresses")]
    Url(String),
    /// Defanged: written so that nobody follows it by accident.
    #[error("{0:?} is written so that it is no address: write it with plain dots")]
    Defanged(String),
    /// An address with a port, but a list entry covers all ports.
    #[error(
        "{0:?} has a port: an entry of a list is for all ports, so write the address alone if that is meant"
    )]
    Port(String),
    /// A directive that has nothing to do with lists.
    #[error("neither `deny` nor `Require not ip`")]
    NoDeny,
    /// Not JSON, although other lines are.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// The text after an entry changes its meaning.
    #[error("{0:?} behind an entry is not understood")]
    Option(String),
    /// An entry that the list itself does not block.
    #[error("level {0} is for addresses that are let in: only those up to 127 are blocked")]
    Level(u16),
    /// The entry itself is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl LineProblem {
    /// Explains why a word is no target.
    fn of(word: &str, error: TargetError) -> Self {
        if word.contains("[.]") || word.starts_with("hxxp") {
            Self::Defanged(word.to_owned())
        } else if word.contains("://") {
            Self::Url(word.to_owned())
        } else if word.parse::<SocketAddr>().is_ok() {
            Self::Port(word.to_owned())
        } else {
            error.into()
        }
    }
}

/// Why a whole file is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The format in which it was read.
    pub format: Format,
    /// The line that shows the problem: its number and its beginning.
    pub line: Option<(u64, String)>,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    /// A different kind of file.
    #[error("this is {0}, no list of addresses")]
    NoList(&'static str),
    /// A hosts file: names with a null or loopback address.
    #[error("this is a hosts file: it lists names, and its addresses are this host's own")]
    Hosts,
    /// An exception, which lists do not support.
    #[error(
        "`{0}` excepts addresses from the other entries, and leaving that out would put them on the list: take the line \
         out, and put on the allow list what is to pass"
    )]
    Negated(&'static str),
    /// Two addresses on each line, and nothing says what they mean.
    #[error(
        "two addresses in two columns, and nothing says whether they are a range: write first-last, or name the columns \
         start_ip and end_ip"
    )]
    TwoAddresses,
    /// More than one column of addresses.
    #[error("several columns have addresses: leave the one that is meant")]
    SeveralColumns,
    /// Numbers next to addresses.
    #[error(
        "the numbers beside the addresses may be lengths of prefixes: write 192.0.2.0/24, or name the column behind the \
         addresses prefix_length"
    )]
    Lengths,
    /// More than one set in the file.
    #[error("the sets {0:?} and {1:?} in one file: save each into its own")]
    SeveralSets(String, String),
    /// Addresses under more than one name in JSON.
    #[error("addresses under several names, {0:?} and {1:?}: leave the one that is meant")]
    SeveralNames(String, String),
    /// Entries that are more than an address.
    #[error("{0}: an entry of a list is an address, prefix or range")]
    NotAddresses(String),
    /// Does not follow the format that it starts with.
    #[error("{0}")]
    Syntax(String),
    /// No address in it.
    #[error("there is no address in it")]
    Empty,
    /// Too many prefixes.
    #[error("more than {MAX_PREFIXES} prefixes")]
    TooMany,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, line, why } = self;
        match line {
            // A file that is something else was not read in any format.
            Some((line, text)) if matches!(why, Why::NoList(_) | Why::Hosts) => {
                write!(f, "line {line}: {why} (the line is \"{text}\")")
            }
            Some((line, text)) => write!(f, "line {line}: {why} (read as {format}; the line is \"{text}\")"),
            None => write!(f, "{why} (read as {format})"),
        }
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    fn new(format: Format, why: Why, line: Option<Line<'_>>) -> Self {
        Self { format, line: line.map(|line| (line.number, printable(line.bytes))), why }
    }
}

/// Why a file could not be read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The system cannot read it, or it is larger than any list.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is not a list.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads the file at `path`. Bad lines are no error, but a file that is larger than any list is.
pub fn load(path: &Path) -> Result<Import, LoadError> {
    Ok(parse(&file::read(path, MAX_FILE_BYTES)?)?)
}

/// Reads the contents of a list file.
pub fn parse(bytes: &[u8]) -> Result<Import, Refusal> {
    let (before, bytes) = without_mark(bytes);
    let text = Text::decode(bytes, before);
    let head = Head::of(&text);
    head.check(bytes)?;
    let format = head.format();
    let mut import = Import { format, lines: before, ..Import::default() };
    match format {
        Format::Json => json::read(&text, &head, &mut import),
        Format::IpsetSave => ipset::read_save(&text, &mut import),
        Format::IpsetList => ipset::read_list(&text, &mut import),
        Format::Nft => nft::read(&text, &mut import),
        Format::Deny => directives::read(&text, &mut import),
        Format::P2p => p2p::read(&text, &mut import),
        Format::IpFilter => p2p::read_filter(&text, &mut import),
        Format::Addresses | Format::Columns | Format::Ranges | Format::Netmasks | Format::Integers => {
            rows::read(&text, &head, &mut import)
        }
    }?;
    if import.prefixes.len() > MAX_PREFIXES {
        return Err(Refusal::new(import.format, Why::TooMany, None));
    }
    Ok(import)
}

/// Strips the mark line of a stored feed copy; returns the number of lines stripped and the rest.
fn without_mark(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.iter().position(|&b| b == b'\n') {
        Some(end) if bytes.starts_with(COPY_MARK.as_bytes()) => (1, &bytes[end + 1..]),
        _ => (0, bytes),
    }
}

impl Import {
    /// Adds the prefixes of an entry, or records a bad line.
    fn take(&mut self, line: &Line<'_>, entry: Result<Vec<IpNet>, LineProblem>) {
        match entry {
            Ok(prefixes) => self.extend(prefixes),
            Err(problem) => self.bad(line, problem),
        }
    }

    /// Adds prefixes, up to one more than the maximum, so that exceeding it is noticed.
    fn extend(&mut self, prefixes: Vec<IpNet>) {
        let room = (MAX_PREFIXES + 1).saturating_sub(self.prefixes.len());
        self.prefixes.extend(prefixes.into_iter().take(room));
    }

    /// Counts a line and returns its text if there is anything to read. The text is complete; a line that is too
    /// long is a bad line.
    fn begin<'a>(&mut self, line: &Line<'a>) -> Option<Cow<'a, str>> {
        self.begin_remarked(line, |text| text)
    }

    /// Does the same for a format with remarks at the end of lines, which `without_remarks` strips.
    fn begin_remarked<'a>(
        &mut self,
        line: &Line<'a>,
        without_remarks: fn(&str) -> &str,
    ) -> Option<Cow<'a, str>> {
        self.lines += 1;
        let beginning = line.text();
        if is_remark(&beginning) {
            return None;
        }
        let length = without_remarks(&beginning).len();
        if line.is_long() && length == beginning.len() {
            self.bad(line, LineProblem::TooLong);
            return None;
        }
        Some(match beginning {
            Cow::Borrowed(text) => Cow::Borrowed(&text[..length]),
            Cow::Owned(mut text) => {
                text.truncate(length);
                Cow::Owned(text)
            }
        })
    }

    /// Counts a line that cannot be read.
    fn bad(&mut self, line: &Line<'_>, problem: LineProblem) {
        self.bad_lines += 1;
        if self.bad.len() < MAX_KEPT_BAD_LINES {
            self.bad.push(BadLine { line: line.number, text: printable(line.bytes), problem });
        }
    }
}

#[cfg(test)]
mod tests;
