//! Files with one entry a line: alone, with remarks behind it, or in a column of a table.
//!
//! Which column it is, and what two of them mean together, is found from the first lines and holds for all. A
//! pair of addresses is a range or an address and its mask only when the names of the columns or all of the pairs say so.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::lists::target::{parse_address, parse_target};

use super::{
    Format, Import, LineProblem, Refusal, Why,
    pairs::{Meaning, Pair, meaning},
    sniff::Head,
    text::{Line, Text, fields, is_remark, visible, without_remarks, words},
};

/// How many columns of a table are looked at.
const COLUMNS: usize = 32;

/// What counts, times and dates are written with.
const FIGURES: [char; 8] = ['-', ':', '.', 'T', 'Z', '+', '/', '_'];

/// Words of which one is in the name of a column that holds addresses.
const ADDRESS_NAMES: [&str; 19] = [
    "ip",
    "ips",
    "ipv4",
    "ipv6",
    "addr",
    "address",
    "addresses",
    "ipaddress",
    "cidr",
    "cidrs",
    "net",
    "network",
    "netblock",
    "subnet",
    "prefix",
    "range",
    "host",
    "start",
    "startip",
];

/// Words for the first and the last address of a range, in names of columns.
const FIRST_NAMES: [&str; 8] = ["start", "first", "from", "begin", "low", "min", "startip", "beginip"];
const LAST_NAMES: [&str; 8] = ["end", "last", "to", "high", "max", "until", "endip", "stop"];

/// What separates columns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    Comma,
    Tab,
    Semicolon,
    Blanks,
}

impl Separator {
    const ALL: [Self; 4] = [Self::Comma, Self::Tab, Self::Semicolon, Self::Blanks];

    fn columns(self, line: &str) -> Vec<&str> {
        let separated = |separator| fields(line, separator).map(visible).take(COLUMNS).collect();
        match self {
            Self::Comma => separated(|c| c == ','),
            Self::Tab => separated(|c| c == '\t'),
            Self::Semicolon => separated(|c| c == ';'),
            Self::Blanks => words(line).take(COLUMNS).collect(),
        }
    }
}

/// Where in a line its entry is.
#[derive(Clone, Copy)]
enum Place {
    /// At its beginning, whatever separates it from what follows.
    First,
    /// In a column, from 0.
    Column(Separator, usize),
}

impl Place {
    /// The words of a line from the entry on.
    fn words(self, line: &str) -> Vec<&str> {
        match self {
            Self::First => words(line).take(4).collect(),
            Self::Column(separator, column) => {
                separator.columns(line).get(column..).map(<[&str]>::to_vec).unwrap_or_default()
            }
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// An address, prefix or range.
    Target,
    /// Two addresses, one after the other.
    Pair,
    /// Two integers.
    Integers,
}

/// How the lines of a file are to be read.
struct Layout {
    place: Place,
    shape: Shape,
    /// The line that names the columns, if there is one.
    header: Option<u64>,
    /// What those names say of a pair.
    named: Option<Meaning>,
}

/// Reads any text: what is no entry is a bad line.
pub(super) fn read(text: &Text<'_>, head: &Head, import: &mut Import) -> Result<(), Refusal> {
    let layout = Layout::find(head).map_err(|line| head.refusal(line, Why::SeveralColumns))?;
    import.format = match (layout.place, layout.shape) {
        (Place::First, Shape::Target) => Format::Addresses,
        (_, Shape::Target) => Format::Columns,
        (_, Shape::Pair) => Format::Ranges,
        (_, Shape::Integers) => Format::Integers,
    };
    let mut pairs = Vec::new();
    for line in text.lines() {
        import.lines += 1;
        if Some(line.number) == layout.header {
            continue;
        }
        let beginning = line.text();
        if is_remark(&beginning) {
            continue;
        }
        check_whole(&line, &beginning)?;
        let entry = without_remarks(&beginning);
        match layout.entry(entry, line.number) {
            Ok(Some(Entry::Prefixes(prefixes))) => import.extend(prefixes),
            Ok(Some(Entry::Pair(pair))) => pairs.push(pair),
            Ok(None) => {}
            Err(_) if line.is_long() && entry.len() == beginning.len() => {
                import.bad(&line, LineProblem::TooLong);
            }
            Err(problem) => import.bad(&line, problem),
        }
    }
    if !pairs.is_empty() {
        let meaning =
            meaning(layout.named, layout.shape == Shape::Integers, &mut pairs).map_err(|number| {
                let line = text.lines().find(|line| line.number == number);
                Refusal::new(import.format, Why::TwoAddresses, line)
            })?;
        if meaning == Meaning::Mask {
            import.format = Format::Netmasks;
        }
        pairs.iter().for_each(|pair| import.extend(pair.prefixes(meaning)));
    }
    Ok(())
}

/// Refuses a file for a line that says something about the others.
fn check_whole(line: &Line<'_>, text: &str) -> Result<(), Refusal> {
    let refusal = |why| Err(Refusal::new(Format::Addresses, why, Some(*line)));
    if let Some(excepted) = text.strip_prefix('!') {
        // Others begin remarks with it.
        let first = words(excepted).next().unwrap_or_default();
        let is_address = parse_target(first).is_ok()
            || first.starts_with(|c: char| c.is_ascii_digit()) && first.contains(['.', ':']);
        return if is_address { refusal(Why::Negated("!")) } else { Ok(()) };
    }
    let mut words = words(without_remarks(text));
    let (first, second) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if second == "nomatch" {
        return refusal(Why::Negated("nomatch"));
    }
    if matches!(first, "0.0.0.0" | "127.0.0.1" | "::" | "::1") && is_host_name(second) {
        return refusal(Why::Hosts);
    }
    Ok(())
}

/// Whether that is the name of a host, and no remark.
fn is_host_name(word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let known = ["localhost", "broadcasthost", "local", "ip6-localhost", "ip6-loopback"];
    let has_letter = word.contains(|c: char| c.is_ascii_alphabetic());
    known.contains(&word) || word.contains('.') && has_letter && word.chars().all(is_name)
}

/// What a line says.
enum Entry {
    Prefixes(Vec<IpNet>),
    Pair(Pair),
}

impl Layout {
    /// What fits the first lines. The number of the line at which it cannot be told, otherwise.
    fn find(head: &Head) -> Result<Self, u64> {
        let lines: Vec<(u64, &str)> =
            head.lines.iter().map(|(number, text)| (*number, without_remarks(text))).collect();
        let at_first = lines.iter().filter(|(_, line)| begins(Place::First.words(line))).count();
        if at_first > 0 && at_first * 2 >= lines.len().saturating_sub(1) {
            return Ok(Self::at(Place::First, &lines));
        }
        if let Some(layout) = Self::integers(&lines) {
            return Ok(layout);
        }
        for separator in Separator::ALL {
            if let Some(layout) = Self::column(separator, &lines)? {
                return Ok(layout);
            }
        }
        Ok(Self { place: Place::First, shape: Shape::Target, header: None, named: None })
    }

    /// With entries in this place of most lines.
    fn at(place: Place, lines: &[(u64, &str)]) -> Self {
        let header = lines.first().filter(|(_, line)| is_header(&place.words(line)));
        let rows = lines.iter().map(|(_, line)| place.words(line)).filter(|words| begins(words.clone()));
        let is_pair =
            |words: Vec<&str>| matches!(words[..], [first, second, ..] if pair(first, second).is_some());
        let all_pairs = rows.map(is_pair).fold(None, |all, is| Some(all.unwrap_or(true) && is));
        let named = header.and_then(|(_, line)| meaning_of_names(&place.words(line)));
        let shape = if all_pairs == Some(true) { Shape::Pair } else { Shape::Target };
        Self { place, shape, header: header.map(|(number, _)| *number), named }
    }

    /// With entries in a column that is not the first.
    fn column(separator: Separator, lines: &[(u64, &str)]) -> Result<Option<Self>, u64> {
        let rows: Vec<(u64, Vec<&str>)> =
            lines.iter().map(|(number, line)| (*number, separator.columns(line))).collect();
        let mut found = [0_usize; COLUMNS];
        for (_, row) in &rows {
            for (column, word) in row.iter().enumerate() {
                found[column] += usize::from(parse_target(word).is_ok());
            }
        }
        let most = found.iter().copied().max().unwrap_or(0);
        let column = found.iter().position(|count| *count == most).unwrap_or(0);
        let place = Place::Column(separator, column);
        let mut layout = Self::at(place, lines);
        let has_names = matches!(&rows[..], [(_, first), (_, second), ..] if first.len() == second.len() && are_names(first));
        if separator != Separator::Blanks && has_names {
            layout.header = rows.first().map(|(number, _)| *number);
        }
        let named = layout.header.is_some();
        let others = rows.len() - usize::from(named) - most;
        if most == 0 || column == 0 || others * 10 > most {
            return Ok(None);
        }
        let mut with_entry =
            rows.iter().filter(|(_, row)| row.get(column).is_some_and(|word| parse_target(word).is_ok()));
        let is_table = match separator {
            // Before an address, in prose, are words.
            Separator::Blanks => with_entry.all(|(_, row)| row[..column].iter().all(|word| is_figure(word))),
            _ => {
                let widths: Vec<usize> = with_entry.map(|(_, row)| row.len()).collect();
                widths.iter().all(|width| *width == widths[0]) && (named || widths.len() > 1)
            }
        };
        if !is_table {
            return Ok(None);
        }
        let behind = if layout.shape == Shape::Pair { column + 2 } else { column + 1 };
        if found[behind.min(COLUMNS)..].iter().any(|count| *count * 2 >= most) {
            return Err(rows.get(usize::from(named)).map_or(1, |(number, _)| *number));
        }
        Ok(Some(layout))
    }

    /// With two integers at the beginning of each line.
    fn integers(lines: &[(u64, &str)]) -> Option<Self> {
        let is_row = |line: &str| matches!(Place::First.words(line)[..], [first, second, ..] if integers(first, second).is_some());
        let (number, first) = lines.first()?;
        let header = (!is_row(first) && is_header(&Place::First.words(first))).then_some(*number);
        let rows = &lines[usize::from(header.is_some())..];
        let named = header.and_then(|_| meaning_of_names(&Place::First.words(first)));
        let fits = !rows.is_empty() && rows.iter().all(|(_, line)| is_row(line));
        fits.then_some(Self { place: Place::First, shape: Shape::Integers, header, named })
    }

    /// The entry of a line without remarks.
    fn entry(&self, line: &str, number: u64) -> Result<Option<Entry>, LineProblem> {
        if line.starts_with('!') {
            return Ok(None);
        }
        let words = self.place.words(line);
        if words.is_empty() {
            return match self.place {
                Place::First => Ok(None),
                Place::Column(_, column) => Err(LineProblem::NoColumn(column + 1)),
            };
        }
        let found = match (self.shape, &words[..]) {
            (Shape::Pair, [first, second, ..]) => pair(first, second),
            (Shape::Integers, [first, second, ..]) => integers(first, second),
            _ => None,
        };
        if let Some((first, last)) = found {
            let third = words.get(2).and_then(|word| word.parse().ok());
            return Ok(Some(Entry::Pair(Pair { line: number, first, last, third })));
        }
        match self.shape {
            Shape::Target => leading(words).map(|prefixes| Some(Entry::Prefixes(prefixes))),
            Shape::Pair | Shape::Integers => Err(LineProblem::NoRange),
        }
    }
}

/// The entry that words begin with.
fn leading(words: Vec<&str>) -> Result<Vec<IpNet>, LineProblem> {
    let mut words = words.into_iter();
    let Some(first) = words.next() else { return Ok(Vec::new()) };
    let is_between = |word: &str| matches!(word, "-" | "–" | "—" | "to");
    let target = match (words.next(), words.next()) {
        (Some(between), Some(last)) if is_between(between) => parse_target(&format!("{first}-{last}")),
        (Some(second), _) if first.ends_with('-') || second.starts_with('-') && second.len() > 1 => {
            parse_target(&format!("{first}{second}"))
        }
        (Some(second), _) if parse_target(first).is_ok() && parse_target(second).is_ok() => {
            return Err(LineProblem::TwoAddresses);
        }
        _ => parse_target(unbracketed(first)),
    };
    target.map_err(|error| LineProblem::of(first, error))
}

/// Whether words begin with an entry, or with two.
fn begins(words: Vec<&str>) -> bool {
    matches!(leading(words), Ok(_) | Err(LineProblem::TwoAddresses))
}

/// An IPv6 address without the brackets that set it apart.
fn unbracketed(word: &str) -> &str {
    word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word)
}

/// Two addresses.
fn pair(first: &str, second: &str) -> Option<(IpAddr, IpAddr)> {
    Some((parse_address(first).ok()?, parse_address(second).ok()?))
}

/// Two addresses that are written as integers: what is not larger than an IPv4 address can be is one.
fn integers(first: &str, second: &str) -> Option<(IpAddr, IpAddr)> {
    let number = |text: &str| -> Option<u128> {
        text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let (first, last) = (number(first)?, number(second)?);
    Some(match (u32::try_from(first), u32::try_from(last)) {
        (Ok(first), Ok(last)) => (IpAddr::V4(first.into()), IpAddr::V4(last.into())),
        _ => (IpAddr::V6(first.into()).to_canonical(), IpAddr::V6(last.into()).to_canonical()),
    })
}

/// Whether words, from the place of the entry on, are names of columns.
fn is_header(words: &[&str]) -> bool {
    words.first().is_some_and(|first| has_part(first, &ADDRESS_NAMES)) || meaning_of_names(words).is_some()
}

/// Whether all fields of a line look like names of columns.
fn are_names(fields: &[&str]) -> bool {
    let is_name = |name: &&str| {
        name.starts_with(|c: char| c.is_alphabetic()) && !name.contains(|c: char| c.is_ascii_digit())
    };
    fields.iter().all(is_name)
}

/// Whether one of these is part of the name of a column, as in `dst_ip`.
fn has_part(name: &str, parts: &[&str]) -> bool {
    name.split(['_', '-', ' ']).any(|part| parts.contains(&part.to_ascii_lowercase().as_str()))
}

/// What the names of two columns say.
fn meaning_of_names(words: &[&str]) -> Option<Meaning> {
    let [first, second, ..] = words else { return None };
    if has_part(second, &["mask", "netmask"]) {
        Some(Meaning::Mask)
    } else if has_part(first, &FIRST_NAMES) && has_part(second, &LAST_NAMES) {
        Some(Meaning::Range)
    } else {
        None
    }
}

/// Whether a word is a number, a date or a time.
fn is_figure(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || FIGURES.contains(&c))
}
