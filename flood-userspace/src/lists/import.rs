//! Reads list files in the formats that real lists have.
//!
//! The format is found by content, from the table of [`Format`]s, and holds for the whole file. Any bytes can be given:
//! nothing panics, time is linear, and what is kept of bad input is bounded. A line is never half understood: one that
//! cannot be read is a [`BadLine`], and the other lines count. What says something about other lines than its own (an
//! exception, columns of which nobody knows the meaning) or shows that the file is something else is a [`Refusal`] of all.

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

/// How many bad lines are kept for the report; reading more helps nobody, and a wrong file must not fill the memory.
const MAX_KEPT_BAD_LINES: usize = 100;

/// The largest file that is read: a million lines have 20 MB, so this is room for ten million.
pub const MAX_FILE_BYTES: u64 = 256 << 20;

/// How many prefixes a file may have: a range can become 250 of them.
const MAX_PREFIXES: usize = 1 << 23;

/// What the copy of a feed begins with, before the feed as it came: one line.
pub const COPY_MARK: &str = "# floodgate feed ";

macro_rules! formats {
    ($($(#[doc = $meaning:literal])+ $variant:ident = $label:literal $(, #[$default:ident])?;)+) => {
        /// What a list is written in.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        pub enum Format {
            $($(#[doc = $meaning])+ $(#[$default])? $variant,)+
        }

        impl Format {
            /// All of them, in the order of the documentation.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its name.
            pub const fn label(self) -> &'static str {
                match self {
                    $(Self::$variant => $label,)+
                }
            }

            /// What its files look like.
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

/// What a file contained.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Import {
    /// What it is written in.
    pub format: Format,
    /// The prefixes in the order of the file, repetitions included.
    pub prefixes: Vec<IpNet>,
    /// The first 100 lines that could not be read.
    pub bad: Vec<BadLine>,
    /// How many lines could not be read.
    pub bad_lines: u64,
    /// How many lines there were, with comments and blank lines.
    pub lines: u64,
    /// How many entries have a time at which they end, which is not taken over.
    pub timeouts: u64,
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
    /// Only its beginning would be read.
    #[error("longer than {LOOKED_AT} bytes: write the entries on several lines")]
    TooLong,
    /// Two addresses in two columns: a range, or something else. To take the first alone would be a guess.
    #[error("two addresses in two columns: write a range as first-last")]
    TwoAddresses,
    /// The other lines have a range in two columns.
    #[error("no range in two columns, which the other lines have")]
    NoRange,
    /// It ends before the column of the entries.
    #[error("no column {0}, where the other lines have their addresses")]
    NoColumn(usize),
    /// The name of a page.
    #[error("{0:?} is a URL: lists hold addresses")]
    Url(String),
    /// Written so that nobody follows it by accident.
    #[error("{0:?} is written so that it is no address: write it with plain dots")]
    Defanged(String),
    /// A list would take all ports.
    #[error(
        "{0:?} has a port: an entry of a list is for all ports, so write the address alone if that is meant"
    )]
    Port(String),
    /// A directive that says nothing about a list.
    #[error("neither `deny` nor `Require not ip`")]
    NoDeny,
    /// Not JSON, where other lines are.
    #[error("not JSON: {0}")]
    NotJson(String),
    /// What is behind an entry changes its meaning.
    #[error("{0:?} behind an entry is not understood")]
    Option(String),
    /// An entry that the source itself does not block.
    #[error("level {0} is for addresses that are let in: only those up to 127 are blocked")]
    Level(u16),
    /// The entry itself is wrong.
    #[error(transparent)]
    Target(#[from] TargetError),
}

impl LineProblem {
    /// Why a word is no target.
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

/// Why nothing of a file is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// As which format it was read.
    pub format: Format,
    /// The line that shows it, and its beginning.
    pub line: Option<(u64, String)>,
    /// What is wrong.
    pub why: Why,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Why {
    /// Something else.
    #[error("this is {0}, no list of addresses")]
    NoList(&'static str),
    /// Names with the address at which nobody is.
    #[error("this is a hosts file: it lists names, and its addresses are this host's own")]
    Hosts,
    /// An exception, which no list has.
    #[error(
        "`{0}` excepts addresses from the other entries, and leaving that out would put them on the list: take the line \
         out, and put on the allow list what is to pass"
    )]
    Negated(&'static str),
    /// Two addresses on each line, and nothing says what they are.
    #[error(
        "two addresses in two columns, and nothing says whether they are a range: write first-last, or name the columns \
         start_ip and end_ip"
    )]
    TwoAddresses,
    /// More than one column with addresses.
    #[error("several columns have addresses: leave the one that is meant")]
    SeveralColumns,
    /// Numbers beside addresses.
    #[error(
        "the numbers beside the addresses may be lengths of prefixes: write 192.0.2.0/24, or name the column behind the \
         addresses prefix_length"
    )]
    Lengths,
    /// More than one set.
    #[error("the sets {0:?} and {1:?} in one file: save each into its own")]
    SeveralSets(String, String),
    /// More than one name in JSON.
    #[error("addresses under several names, {0:?} and {1:?}: leave the one that is meant")]
    SeveralNames(String, String),
    /// Entries with more than an address.
    #[error("{0}: an entry of a list is an address, prefix or range")]
    NotAddresses(String),
    /// Not in the format as which it begins.
    #[error("{0}")]
    Syntax(String),
    /// Nothing in it.
    #[error("there is no address in it")]
    Empty,
    /// Too much.
    #[error("more than {MAX_PREFIXES} prefixes")]
    TooMany,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { format, line, why } = self;
        match line {
            // What is something else is read as nothing.
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

/// Why a file is not read.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The system does not give it, or it is larger than any list.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// It is no list.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads the file at `path`. Bad lines are no error; a file that is larger than any list is.
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

/// A file without the line that a copy of a feed begins with.
fn without_mark(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.iter().position(|&b| b == b'\n') {
        Some(end) if bytes.starts_with(COPY_MARK.as_bytes()) => (1, &bytes[end + 1..]),
        _ => (0, bytes),
    }
}

impl Import {
    /// Takes an entry.
    fn take(&mut self, line: &Line<'_>, entry: Result<Vec<IpNet>, LineProblem>) {
        match entry {
            Ok(prefixes) => self.extend(prefixes),
            Err(problem) => self.bad(line, problem),
        }
    }

    /// Takes prefixes, up to one more than may be, so that it is seen.
    fn extend(&mut self, prefixes: Vec<IpNet>) {
        let room = (MAX_PREFIXES + 1).saturating_sub(self.prefixes.len());
        self.prefixes.extend(prefixes.into_iter().take(room));
    }

    /// Counts a line. Its text if there is anything in it to read: all of it, or it is a bad line.
    fn begin<'a>(&mut self, line: &Line<'a>) -> Option<Cow<'a, str>> {
        self.begin_remarked(line, |text| text)
    }

    /// The same for a format with remarks at the end of lines, which `without_remarks` leaves out.
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
