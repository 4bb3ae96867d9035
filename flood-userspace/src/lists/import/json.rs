//! JSON: takes the strings that are addresses, prefixes or ranges, if all of them are under one name.
//!
//! A name is the path to a string, such as `prefixes.ip_prefix`, without the parts that distinguish address
//! families. Other strings are ignored unless they are under the same name. A document is walked through without
//! being stored.

use std::{collections::BTreeMap, fmt, iter};

use ipnet::IpNet;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Format, Import, LineProblem, MAX_KEPT_BAD_LINES, MAX_PREFIXES, Refusal, Why,
    sniff::Head,
    text::{Line, MAX_SHOWN_CHARS, Text, is_remark, lets_in},
};
use crate::lists::target::{parse_address, parse_target};

/// How many names are tracked. More than one with addresses is one too many.
const NAMES: usize = 1024;

/// Parts of the name of a field that holds the prefix length for an address, or its number of addresses.
const LENGTH_NAMES: [&str; 6] = ["len", "mask", "bits", "cidr", "prefix", "size"];

pub(super) fn recognises(head: &Head) -> bool {
    let mut chars = head.first().chars();
    let opens = chars.next();
    let next = chars.find(|c| !c.is_whitespace());
    match opens {
        Some('{') => matches!(next, None | Some('"' | '}')),
        Some('[') => matches!(next, None | Some('"' | '{' | '[' | ']')),
        _ => false,
    }
}

/// Parts of the name of a field that is true for addresses that are let in.
const LETS_IN: [&str; 2] = ["whitelist", "allowlist"];

/// Markers of the address families in names. Those that are the same in both mean either family.
const FAMILIES: [[&str; 10]; 2] = [
    ["ipv4", "ip4", "inet4", "v4", "ipv", "inet", "ip", "_", "-", "4"],
    ["ipv6", "ip6", "inet6", "v6", "ipv", "inet", "ip", "_", "-", "6"],
];

/// Returns whether text is IPv6 rather than IPv4.
fn is_ipv6(text: &str) -> bool {
    text.contains(':')
}

/// Returns the name of what holds `entry`, in lower case and without the markers of the entry's address family:
/// `bad4` and `bad6` are the same name if they hold what they say.
pub(super) fn neutral(name: &str, entry: &str) -> String {
    without_family(name, FAMILIES[usize::from(is_ipv6(entry))])
}

fn without_family(name: &str, [parts @ .., digit]: [&str; 10]) -> String {
    let mut name = name.to_ascii_lowercase();
    for part in parts {
        name = name.replace(part, "");
    }
    name.strip_suffix(digit).map(str::to_owned).unwrap_or(name)
}

/// The contents under one name.
#[derive(Default)]
struct Found {
    /// The name as first written.
    written: String,
    prefixes: Vec<IpNet>,
    /// Strings that are no entries: the first ones, each with its line number.
    others: Vec<(u64, String)>,
    more_others: u64,
}

/// Everything found so far.
#[derive(Default)]
struct Names {
    /// The number of a name, by the number of its parent and its last part.
    numbers: BTreeMap<(usize, String), usize>,
    /// By these numbers.
    found: BTreeMap<usize, Found>,
    prefixes: usize,
    /// Whether there is an empty array or an empty document.
    has_empty: bool,
    /// Whether there is an entry under a name that is not tracked.
    too_many: bool,
    /// Number of documents, and whether one is an array with several entries.
    documents: u64,
    has_list: bool,
}

/// A part of the path to a value.
struct Part {
    /// Its beginning, as written.
    written: String,
    /// The numbers of the name up to here, without IPv4 markers and without IPv6 markers; `None` if there are too
    /// many names.
    numbers: [Option<usize>; 2],
}

impl Names {
    /// Returns the part `name` at the end of a path.
    fn part(&mut self, path: &[Part], name: &str) -> Part {
        let around = path.last().map_or([Some(0); 2], |part| part.numbers);
        let numbers = [0, 1].map(|family| {
            let name = (around[family]?, without_family(name, FAMILIES[family]));
            let next = self.numbers.len() + 1;
            if next > NAMES {
                return self.numbers.get(&name).copied();
            }
            Some(*self.numbers.entry(name).or_insert(next))
        });
        Part { written: name.chars().take(MAX_SHOWN_CHARS).collect(), numbers }
    }

    /// Takes a string. Returns whether it is an entry.
    fn string(&mut self, path: &[Part], text: &str, line: u64) -> bool {
        let number = match path.last() {
            Some(part) => part.numbers[usize::from(is_ipv6(text))],
            None => Some(0),
        };
        let read = parse_target(text);
        let Some(number) = number else {
            self.too_many |= read.is_ok();
            return read.is_ok();
        };
        let found = self.found.entry(number).or_default();
        match read {
            Ok(prefixes) => {
                if found.prefixes.is_empty() {
                    let parts: Vec<&str> = path.iter().map(|part| part.written.as_str()).collect();
                    found.written = parts.join(".");
                }
                if self.prefixes <= MAX_PREFIXES {
                    self.prefixes += prefixes.len();
                    found.prefixes.extend(prefixes);
                }
                return true;
            }
            Err(_) if found.others.len() < MAX_KEPT_BAD_LINES => {
                found.others.push((line, text.chars().take(200).collect()));
            }
            Err(_) => found.more_others += 1,
        }
        false
    }
}

/// Kind of a value.
enum Kind {
    /// An address without a prefix length.
    Address,
    /// A prefix or range.
    Target,
    /// A number, or a string of digits.
    Number,
    True,
    Other,
}

/// Walks through a value.
struct Walk<'a> {
    names: &'a mut Names,
    path: &'a mut Vec<Part>,
    /// Whether it is one of several similar values: an array in it is a row of a table.
    is_row: bool,
    /// The line of each following string, names included, because the parser does not report it.
    lines: &'a mut dyn Iterator<Item = u64>,
}

impl Walk<'_> {
    /// Returns a walk for a value within this one.
    fn within(&mut self, is_row: bool) -> Walk<'_> {
        Walk { names: self.names, path: self.path, is_row, lines: self.lines }
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Kind;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Kind, E> {
        let line = self.lines.next().unwrap_or_default();
        if let Some(excepted) = text.strip_prefix('!')
            && parse_target(excepted.trim()).is_ok()
        {
            return Err(E::custom(Why::Negated("!")));
        }
        if let Some(word) = lets_in(text) {
            return Err(E::custom(Why::Negated(word)));
        }
        let is_target = self.names.string(self.path, text, line);
        Ok(match parse_address(text) {
            Ok(_) => Kind::Address,
            Err(_) if is_target => Kind::Target,
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Kind::Number,
            Err(_) => Kind::Other,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<Kind, A::Error> {
        let (mut values, mut targets) = (0_u64, 0_u64);
        while let Some(kind) = array.next_element_seed(self.within(true))? {
            values += 1;
            targets += u64::from(matches!(kind, Kind::Address | Kind::Target));
        }
        if self.is_row && targets > 1 {
            return Err(A::Error::custom(Why::SeveralColumns));
        }
        self.names.has_empty |= values == 0;
        self.names.has_list |= self.path.is_empty() && targets > 1;
        Ok(Kind::Other)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Kind, A::Error> {
        let (mut address, mut length, mut is_empty) = (false, None, true);
        while let Some(name) = object.next_key::<String>()? {
            self.lines.next();
            is_empty = false;
            if self.path.is_empty() && name == "nftables" {
                return Err(A::Error::custom("this is JSON of nft: save the set without `-j`"));
            }
            if parse_target(&name).is_ok() {
                return Err(A::Error::custom(format!(
                    "the address {name:?} is a name: write those that are meant as an array"
                )));
            }
            let part = self.names.part(self.path, &name);
            self.path.push(part);
            let kind = object.next_value_seed(self.within(false))?;
            self.path.pop();
            match kind {
                Kind::Address => address = true,
                Kind::Number if LENGTH_NAMES.iter().any(|part| name.to_ascii_lowercase().contains(part)) => {
                    length = Some(name);
                }
                Kind::True if LETS_IN.iter().any(|part| name.to_ascii_lowercase().contains(part)) => {
                    return Err(A::Error::custom(Why::Negated("whitelisted")));
                }
                Kind::Target | Kind::Number | Kind::True | Kind::Other => {}
            }
        }
        self.names.has_empty |= is_empty && self.path.is_empty();
        match length {
            Some(name) if address => Err(A::Error::custom(format!(
                "{name:?} beside an address: the length of a prefix belongs behind a slash"
            ))),
            _ => Ok(Kind::Other),
        }
    }

    fn visit_bool<E>(self, is: bool) -> Result<Kind, E> {
        Ok(if is { Kind::True } else { Kind::Other })
    }

    fn visit_u64<E>(self, _: u64) -> Result<Kind, E> {
        Ok(Kind::Number)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Kind, E> {
        Ok(Kind::Number)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Kind, E> {
        Ok(Kind::Number)
    }

    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Other)
    }
}

/// Counts the strings that begin on a line of JSON. No string spans two lines.
fn strings(line: &[u8]) -> usize {
    let (mut strings, mut is_within) = (0, false);
    let mut bytes = line.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => {
                is_within = !is_within;
                strings += usize::from(is_within);
            }
            b'\\' if is_within => {
                bytes.next();
            }
            _ => {}
        }
    }
    strings
}

fn walk(
    names: &mut Names,
    json: &[u8],
    lines: &mut dyn Iterator<Item = u64>,
) -> Result<(), serde_json::Error> {
    names.documents += 1;
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Walk { names, path: &mut Vec::new(), is_row: false, lines }.deserialize(&mut deserializer)?;
    deserializer.end()
}

pub(super) fn read(text: &Text<'_>, head: &Head, import: &mut Import) -> Result<(), Refusal> {
    let mut names = Names::default();
    let first_line = head.lines.first().map_or(0, |(number, _)| *number);
    let is_whole = |line: Line<'_>| serde_json::from_slice::<IgnoredAny>(line.bytes).is_ok();
    let by_line = text.lines().find(|line| line.number == first_line).is_some_and(is_whole);
    if by_line {
        for line in text.lines() {
            import.lines += 1;
            if is_remark(&line.text()) {
                continue;
            }
            match walk(&mut names, line.bytes, &mut iter::repeat(line.number)) {
                Err(error) if error.is_data() => return Err(refusal(&line, error.to_string())),
                Err(error) => import.bad(&line, LineProblem::NotJson(error.to_string())),
                Ok(()) => {}
            }
        }
    } else {
        import.lines += text.lines().count() as u64;
        let mut lines = text.lines().flat_map(|line| iter::repeat_n(line.number, strings(line.bytes)));
        walk(&mut names, text.bytes(), &mut lines).map_err(|error| {
            let number = error.line() as u64 + text.before();
            match text.lines().find(|line| line.number == number) {
                Some(line) => refusal(&line, error.to_string()),
                None => Refusal::new(Format::Json, Why::Syntax(error.to_string()), None),
            }
        })?;
    }
    take(names, text, import)
}

fn refusal(line: &Line<'_>, why: String) -> Refusal {
    Refusal::new(Format::Json, Why::Syntax(why), Some(*line))
}

/// Takes the entries of the only name with addresses.
fn take(names: Names, text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    let refused = |why| Err(Refusal::new(Format::Json, why, None));
    if names.too_many {
        return refused(Why::Syntax(format!("there are addresses, and more than {NAMES} names")));
    }
    if names.has_list && names.documents > 1 {
        return refused(Why::SeveralColumns);
    }
    let mut found = names.found.into_values().filter(|found| !found.prefixes.is_empty());
    let Some(Found { written, prefixes, others, more_others }) = found.next() else {
        return if import.bad_lines > 0 || names.has_empty { Ok(()) } else { refused(Why::Empty) };
    };
    if let Some(second) = found.next() {
        return refused(Why::SeveralNames(written, second.written));
    }
    import.prefixes = prefixes;
    let mut lines = text.lines().peekable();
    for (number, other) in others {
        // They are sorted by line.
        while lines.next_if(|line| line.number < number).is_some() {}
        if let (Some(line), Err(error)) = (lines.peek(), parse_target(&other)) {
            import.bad(line, LineProblem::of(&other, error));
        } else {
            import.bad_lines += 1;
        }
    }
    import.bad_lines += more_others;
    Ok(())
}
