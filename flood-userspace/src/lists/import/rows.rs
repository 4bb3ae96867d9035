//! Files with one entry per line: alone, followed by remarks, or in a column of a table.
//!
//! The first lines determine which column holds the entries and what two columns mean together; this holds for the
//! whole file. A pair of addresses is a range or an address with its mask only if the column names or all of the
//! pairs say so.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::lists::target::{parse_address, parse_target};

use super::{
    Format, Import, LineProblem, Refusal, Why,
    pairs::{Meaning, Pair, meaning},
    sniff::Head,
    text::{Line, Text, excepts, fields, lets_in, lets_in_as_verdict, visible, without_remarks, words},
};

/// Number of table columns that are examined.
const COLUMNS: usize = 32;

/// Characters in which counts, times and dates are written.
const FIGURES: [char; 8] = ['-', ':', '.', 'T', 'Z', '+', '/', '_'];

/// A column holds addresses if its name contains one of these words.
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

/// Words in the names of two columns that may be a range, or when or where something began and ended.
const FIRST_NAMES: [&str; 8] = ["start", "first", "from", "begin", "low", "min", "startip", "beginip"];
const LAST_NAMES: [&str; 8] = ["end", "last", "to", "high", "max", "until", "endip", "stop"];

/// The words that remain of such names without [`AROUND_RANGES`] if the columns can only be a range.
const RANGE_STARTS: [&str; 6] = ["start", "begin", "low", "min", "startip", "beginip"];
const RANGE_ENDS: [&str; 5] = ["end", "high", "max", "stop", "endip"];
const AROUND_RANGES: [&str; 12] = [
    "ip", "ipv4", "ipv6", "addr", "address", "cidr", "net", "network", "netblock", "subnet", "range", "block",
];

/// Words in the name of a column that holds prefix lengths.
const LENGTH_NAMES: [&str; 9] =
    ["prefix", "prefixlen", "prefixlength", "plen", "mask", "netmask", "masklen", "masklength", "cidr"];

/// Words in the name of a column that says what is done with an address.
const VERDICT_NAMES: [&str; 7] = ["action", "verdict", "decision", "policy", "mode", "disposition", "target"];

/// Column separators.
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

/// Where a line has its entry.
#[derive(Clone, Copy)]
enum Place {
    /// At its beginning, whatever separates it from the rest.
    First,
    /// In a column, counted from 0.
    Column(Separator, usize),
}

impl Place {
    /// Returns whether the columns of a line are shifted against those of other lines because the first is empty.
    fn is_moved(self, line: &Line<'_>) -> bool {
        let text = line.bytes.trim_ascii();
        line.bytes.starts_with(b"\t")
            && match self {
                Self::First => text.contains(&b'\t'),
                Self::Column(separator, _) => separator == Separator::Tab,
            }
    }

    /// Returns the words of a line from the entry on.
    fn words(self, line: &str) -> Vec<&str> {
        match self {
            Self::First => words(line).take(4).collect(),
            Self::Column(separator, column) => {
                separator.columns(line).get(column..).map(<[&str]>::to_vec).unwrap_or_default()
            }
        }
    }
}

/// Form of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// An address, prefix or range.
    Target,
    /// Two consecutive addresses.
    Pair,
    /// Two integers.
    Integers,
    /// An address with its prefix length in the next column.
    Length,
}

/// How to read the lines of a file.
struct Layout {
    place: Place,
    shape: Shape,
    /// Number of the line that names the columns, if there is one.
    header: Option<u64>,
    /// The meaning of a pair according to the column names.
    named: Option<Meaning>,
    /// Whether the column names include a column of verdicts.
    has_verdicts: bool,
}

/// Tracks whether the numbers after addresses could all be prefix lengths.
#[derive(Default)]
struct Lengths {
    /// The first line with a prefix shorter than a full address.
    first: Option<u64>,
    impossible: bool,
}

impl Lengths {
    fn see(&mut self, words: &[&str], line: u64) {
        let length = |prefix: IpNet| prefix.prefix_len() > 0 && prefix == prefix.trunc();
        match words {
            [address, number, ..] if parse_address(address).is_ok() => {
                match prefix(address, number).filter(|prefix| length(*prefix)) {
                    Some(prefix) if prefix.prefix_len() == prefix.max_prefix_len() => {}
                    Some(_) => _ = self.first.get_or_insert(line),
                    None => self.impossible = true,
                }
            }
            _ => self.impossible = true,
        }
    }
}

/// Returns the prefix of this address and length, host bits kept.
fn prefix(address: &str, length: &str) -> Option<IpNet> {
    IpNet::new(parse_address(address).ok()?, length.parse().ok()?).ok()
}

/// Reads any text; whatever is no entry becomes a bad line.
pub(super) fn read(text: &Text<'_>, head: &Head, import: &mut Import) -> Result<(), Refusal> {
    let layout = Layout::find(head).map_err(|(line, why)| head.refusal(line, why))?;
    import.format = match (layout.place, layout.shape) {
        (Place::First, Shape::Target) => Format::Addresses,
        (_, Shape::Target | Shape::Length) => Format::Columns,
        (_, Shape::Pair) => Format::Ranges,
        (_, Shape::Integers) => Format::Integers,
    };
    let refusal =
        |number, format, why| Refusal::new(format, why, text.lines().find(|line| line.number == number));
    let (mut pairs, mut lengths) = (Vec::new(), Lengths::default());
    for line in text.lines() {
        let Some(entry) = import.begin_remarked(&line, without_remarks) else { continue };
        if Some(line.number) == layout.header {
            continue;
        }
        let words = layout.place.words(&entry);
        layout.check_whole(&line, &entry, &words)?;
        if layout.place.is_moved(&line) {
            import.bad(&line, LineProblem::NoColumn(1));
            continue;
        }
        match layout.entry(&entry, &words, line.number) {
            Ok(Some(Entry::Prefixes(prefixes))) => {
                lengths.see(&words, line.number);
                import.extend(prefixes);
            }
            Ok(Some(Entry::Pair(pair))) => pairs.push(pair),
            Ok(None) => {}
            Err(problem) => import.bad(&line, problem),
        }
    }
    if let Lengths { first: Some(number), impossible: false } = lengths
        && layout.shape == Shape::Target
    {
        return Err(refusal(number, import.format, Why::Lengths));
    }
    if !pairs.is_empty() {
        let meaning = meaning(layout.named, layout.shape == Shape::Integers, &mut pairs)
            .map_err(|number| refusal(number, import.format, Why::TwoAddresses))?;
        if meaning == Meaning::Mask {
            import.format = Format::Netmasks;
        }
        pairs.iter().for_each(|pair| import.extend(pair.prefixes(meaning)));
    }
    Ok(())
}

/// Returns the word by which a line excepts an address.
fn exception(text: &str) -> Option<&'static str> {
    let is_address = |word: &str| {
        parse_target(word).is_ok()
            || word.starts_with(|c: char| c.is_ascii_digit()) && word.contains(['.', ':'])
    };
    if let Some(excepted) = text.strip_prefix('!') {
        // Some formats begin remarks with `!`.
        return words(excepted).next().filter(|first| is_address(first)).map(|_| "!");
    }
    let mut before = "";
    words(text).find_map(|word| {
        let before = std::mem::replace(&mut before, word);
        match word.strip_prefix('!') {
            Some(excepted) if is_address(excepted) => Some("!"),
            _ if word == "nomatch" => Some("nomatch"),
            _ => excepts(before).filter(|_| parse_target(word).is_ok()),
        }
    })
}

/// Returns whether a line is from a DNS zone file: `4.3.2.1 IN A 127.0.0.2`.
fn is_of_zone(words: &[&str]) -> bool {
    const TYPES: [&str; 7] = ["A", "AAAA", "TXT", "NS", "SOA", "PTR", "CNAME"];

    let behind = words.get(1..).unwrap_or_default();
    matches!(words.first(), Some(&("$TTL" | "$ORIGIN")))
        || behind.windows(2).any(|two| {
            two[0] == "IN" && TYPES.contains(&two[1])
                || two[0].eq_ignore_ascii_case("a") && two[1].starts_with("127.")
        })
}

/// Returns whether a word is a host name and not a remark.
fn is_host_name(word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let known = ["localhost", "broadcasthost", "local", "ip6-localhost", "ip6-loopback"];
    let has_letter = word.contains(|c: char| c.is_ascii_alphabetic());
    known.contains(&word) || word.contains('.') && has_letter && word.chars().all(is_name)
}

/// Contents of a line.
enum Entry {
    Prefixes(Vec<IpNet>),
    Pair(Pair),
}

impl Layout {
    /// Refuses a file because of a line that affects the other lines. `words` are those from the entry on.
    fn check_whole(&self, line: &Line<'_>, text: &str, words: &[&str]) -> Result<(), Refusal> {
        let refusal = |why| Err(Refusal::new(Format::Addresses, why, Some(*line)));
        if let Some(word) = exception(text).or_else(|| self.lets_in(text, words)) {
            return refusal(Why::Negated(word));
        }
        let first: Vec<&str> = Place::First.words(text);
        match first[..] {
            ["0.0.0.0" | "127.0.0.1" | "::" | "::1", second, ..] if is_host_name(second) => {
                refusal(Why::Hosts)
            }
            ["geo" | "map", ..] if text.ends_with('{') => refusal(Why::NoList("a map of nginx")),
            _ if is_of_zone(&first) => {
                refusal(Why::NoList("a zone of DNS, where addresses are written backwards"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the word by which a line lets its address in, in a file where others may be blocked.
    fn lets_in(&self, text: &str, words: &[&str]) -> Option<&'static str> {
        if text.starts_with('!') {
            return None;
        }
        let is_target = |word: &str| parse_target(word).is_ok();
        let verdict = match *words {
            [word, target, ..] if lets_in(word).is_some() && is_target(target) => lets_in(word),
            // A line from an included nginx map.
            [target, "0" | "off" | "no" | "false"] if text.ends_with(';') && is_target(target) => Some("0;"),
            [target, word, ..] if is_target(target) => lets_in_as_verdict(word),
            _ => None,
        };
        let known = if self.has_verdicts { lets_in_as_verdict } else { lets_in };
        let mut cells = fields(text, |c| matches!(c, ',' | '\t' | ';')).map(visible);
        verdict.or_else(|| cells.find_map(known).filter(|_| text.contains([',', '\t', ';'])))
    }

    /// Finds the layout that fits the first lines. Otherwise returns the line at which it is ambiguous, and why.
    fn find(head: &Head) -> Result<Self, (u64, Why)> {
        let lines: Vec<(u64, &str)> =
            head.lines.iter().map(|(number, text)| (*number, without_remarks(text))).collect();
        let at_first = lines.iter().filter(|(_, line)| begins(Place::First.words(line))).count();
        if at_first > 0 && at_first * 2 >= lines.len().saturating_sub(1) {
            let layout = Self::at(Place::First, &lines)?;
            // Blanks may belong to a remark.
            let mut separators =
                Separator::ALL.into_iter().filter(|separator| *separator != Separator::Blanks);
            if separators.any(|separator| layout.leaves_out(&found(separator, &lines), 0, at_first)) {
                return Err((lines[usize::from(layout.header.is_some())].0, Why::SeveralColumns));
            }
            return Ok(layout);
        }
        if let Some(layout) = Self::integers(&lines) {
            return Ok(layout);
        }
        for separator in Separator::ALL {
            if let Some(layout) = Self::column(separator, &lines)? {
                return Ok(layout);
            }
        }
        Ok(Self { place: Place::First, shape: Shape::Target, header: None, named: None, has_verdicts: false })
    }

    /// Returns whether at least half of `most` lines have addresses after those that this layout takes from a
    /// column (and the next).
    fn leaves_out(&self, found: &[usize; COLUMNS], column: usize, most: usize) -> bool {
        let behind = if self.shape == Shape::Pair { column + 2 } else { column + 1 };
        found[behind.min(COLUMNS)..].iter().any(|count| *count * 2 >= most)
    }

    /// Returns the layout with entries at this place in most lines.
    fn at(place: Place, lines: &[(u64, &str)]) -> Result<Self, (u64, Why)> {
        let header = lines.first().filter(|(_, line)| is_header(&place.words(line)));
        let names = header.map(|(_, line)| place.words(line)).unwrap_or_default();
        let rows: Vec<Vec<&str>> =
            lines.iter().map(|(_, line)| place.words(line)).filter(|words| begins(words.clone())).collect();
        let all = |is: fn(&[&str]) -> bool| !rows.is_empty() && rows.iter().all(|words| is(words));
        let length = names.iter().skip(1).position(|name| has_part(name, &LENGTH_NAMES));
        let is_pair = |words: &[&str]| matches!(words, [first, second, ..] if pair(first, second).is_some());
        let is_alone = |words: &[&str]| parse_address(words[0]).is_ok();
        let shape = match length {
            _ if all(is_pair) => Shape::Pair,
            Some(0) if all(|words| words.len() > 1 && prefix(words[0], words[1]).is_some()) => Shape::Length,
            Some(_) if all(is_alone) => return Err((header.map_or(1, |(number, _)| *number), Why::Lengths)),
            _ => Shape::Target,
        };
        Ok(Self {
            place,
            shape,
            header: header.map(|(number, _)| *number),
            named: meaning_of_names(&names, false),
            has_verdicts: names.iter().any(|name| has_part(name, &VERDICT_NAMES)),
        })
    }

    /// Returns the layout with entries in a column other than the first.
    fn column(separator: Separator, lines: &[(u64, &str)]) -> Result<Option<Self>, (u64, Why)> {
        let rows: Vec<(u64, Vec<&str>)> =
            lines.iter().map(|(number, line)| (*number, separator.columns(line))).collect();
        let found = found(separator, lines);
        let most = found.iter().copied().max().unwrap_or(0);
        let column = found.iter().position(|count| *count == most).unwrap_or(0);
        let place = Place::Column(separator, column);
        let mut layout = Self::at(place, lines)?;
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
            // In prose, words precede an address.
            Separator::Blanks => with_entry.all(|(_, row)| row[..column].iter().all(|word| is_figure(word))),
            _ => {
                let widths: Vec<usize> = with_entry.map(|(_, row)| row.len()).collect();
                widths.iter().all(|width| *width == widths[0]) && (named || widths.len() > 1)
            }
        };
        if !is_table {
            return Ok(None);
        }
        if layout.leaves_out(&found, column, most) {
            return Err((rows.get(usize::from(named)).map_or(1, |(number, _)| *number), Why::SeveralColumns));
        }
        Ok(Some(layout))
    }

    /// Returns the layout with two integers at the beginning of each line, if no line has an address.
    fn integers(lines: &[(u64, &str)]) -> Option<Self> {
        if lines.iter().any(|(_, line)| words(line).any(|word| parse_target(word).is_ok())) {
            return None;
        }
        let is_row = |line: &str| matches!(Place::First.words(line)[..], [first, second, ..] if integers(first, second).is_some());
        let (number, first) = lines.first()?;
        let header = (!is_row(first) && is_header(&Place::First.words(first))).then_some(*number);
        let rows = &lines[usize::from(header.is_some())..];
        let named = header.and_then(|_| meaning_of_names(&Place::First.words(first), true));
        let fits = !rows.is_empty() && rows.iter().all(|(_, line)| is_row(line));
        let shape = Shape::Integers;
        fits.then_some(Self { place: Place::First, shape, header, named, has_verdicts: false })
    }

    /// Returns the entry of a line whose remarks were stripped.
    fn entry(&self, line: &str, words: &[&str], number: u64) -> Result<Option<Entry>, LineProblem> {
        if line.starts_with('!') {
            return Ok(None);
        }
        if words.is_empty() {
            return match self.place {
                Place::First => Ok(None),
                Place::Column(_, column) => Err(LineProblem::NoColumn(column + 1)),
            };
        }
        let found = match (self.shape, words) {
            (Shape::Pair, [first, second, ..]) => pair(first, second),
            (Shape::Integers, [first, second, ..]) => integers(first, second),
            _ => None,
        };
        if let Some((first, last)) = found {
            let third = words.get(2).and_then(|word| word.parse().ok());
            return Ok(Some(Entry::Pair(Pair { line: number, first, last, third })));
        }
        match self.shape {
            Shape::Target => leading(words.to_vec()).map(|prefixes| Some(Entry::Prefixes(prefixes))),
            Shape::Length => {
                let target = format!("{}/{}", words[0], words.get(1).copied().unwrap_or_default());
                let read = parse_target(&target).map_err(|error| LineProblem::of(words[0], error));
                read.map(|prefixes| Some(Entry::Prefixes(prefixes)))
            }
            Shape::Pair | Shape::Integers => Err(LineProblem::NoRange),
        }
    }
}

/// Returns the entry that the words begin with.
fn leading(words: Vec<&str>) -> Result<Vec<IpNet>, LineProblem> {
    let mut words = words.into_iter();
    let Some(first) = words.next() else { return Ok(Vec::new()) };
    let is_between = |word: &str| matches!(word, "-" | "–" | "—" | "to");
    let target = match (words.next(), words.next()) {
        (Some(between), Some(last)) if is_between(between) => parse_target(&format!("{first}-{last}")),
        (Some(second), _) if first.ends_with('-') || second.starts_with('-') && second.len() > 1 => {
            parse_target(&format!("{first}{second}"))
        }
        (Some("/"), Some(length)) if is_number(length) => parse_target(&format!("{first}/{length}")),
        (Some(second), _) if second.strip_prefix('/').is_some_and(is_number) => {
            parse_target(&format!("{first}{second}"))
        }
        (Some(second), _) if parse_target(first).is_ok() && parse_target(second).is_ok() => {
            return Err(LineProblem::TwoAddresses);
        }
        _ => parse_target(unbracketed(first)),
    };
    target.map_err(|error| LineProblem::of(first, error))
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit())
}

/// Returns whether the words begin with one entry or two.
fn begins(words: Vec<&str>) -> bool {
    matches!(leading(words), Ok(_) | Err(LineProblem::TwoAddresses))
}

/// Strips the brackets around an IPv6 address.
fn unbracketed(word: &str) -> &str {
    word.strip_prefix('[').and_then(|word| word.strip_suffix(']')).unwrap_or(word)
}

/// Parses two addresses.
fn pair(first: &str, second: &str) -> Option<(IpAddr, IpAddr)> {
    Some((parse_address(first).ok()?, parse_address(second).ok()?))
}

/// Parses two addresses written as integers. Both are IPv4 if neither exceeds the largest IPv4 address.
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

/// Returns whether words, from the place of the entry on, are column names.
fn is_header(words: &[&str]) -> bool {
    words.first().is_some_and(|first| has_part(first, &ADDRESS_NAMES))
        || matches!(words, [first, second, ..] if has_part(first, &FIRST_NAMES) && has_part(second, &LAST_NAMES))
}

/// Returns whether all fields of a line look like column names.
fn are_names(fields: &[&str]) -> bool {
    let is_name = |name: &&str| {
        name.starts_with(|c: char| c.is_alphabetic()) && !name.contains(|c: char| c.is_ascii_digit())
    };
    fields.iter().all(is_name)
}

/// Returns whether one of `parts` occurs in a column name such as `dst_ip`.
fn has_part(name: &str, parts: &[&str]) -> bool {
    name.split(['_', '-', ' ']).any(|part| parts.contains(&part.to_ascii_lowercase().as_str()))
}

/// Returns what the names of two columns establish with certainty. For integers they must contain a word for
/// addresses, because `start` and `end` may be times.
fn meaning_of_names(words: &[&str], integers: bool) -> Option<Meaning> {
    let [first, second, ..] = words else { return None };
    let names_only = |name: &str, ends: &[&str]| {
        let parts = || name.split(['_', '-', ' ']).map(str::to_ascii_lowercase);
        let mut rest = parts().filter(|part| !AROUND_RANGES.contains(&part.as_str()));
        let end = rest.next().filter(|part| ends.contains(&part.as_str()));
        let has_address = parts().count() > 1 || name.to_ascii_lowercase().ends_with("ip");
        end.is_some() && rest.next().is_none() && (has_address || !integers)
    };
    if has_part(second, &["mask", "netmask"]) {
        Some(Meaning::Mask)
    } else if names_only(first, &RANGE_STARTS) && names_only(second, &RANGE_ENDS) {
        Some(Meaning::Range)
    } else {
        None
    }
}

/// Counts the lines with an entry in each column.
fn found(separator: Separator, lines: &[(u64, &str)]) -> [usize; COLUMNS] {
    let mut found = [0; COLUMNS];
    for (_, line) in lines {
        for (column, word) in separator.columns(line).into_iter().enumerate() {
            found[column] += usize::from(parse_target(word).is_ok());
        }
    }
    found
}

/// Returns whether a word is a number, a date or a time.
fn is_figure(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_digit())
        && word.chars().all(|c| c.is_ascii_digit() || FIGURES.contains(&c))
}
