//! JSON: the strings in it that are addresses, prefixes or ranges, if all of them are under one name.
//!
//! A name is the way to a string, `prefixes.ip_prefix`, without what distinguishes address families in it. Other strings
//! are of no interest unless they are under the same name. A document is walked through without being kept.

use std::{collections::BTreeMap, fmt, iter};

use ipnet::IpNet;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::{
    Format, Import, LineProblem, MAX_KEPT_BAD_LINES, MAX_PREFIXES, Refusal, Why,
    sniff::Head,
    text::{Line, Text, is_remark},
};
use crate::lists::target::{parse_address, parse_target};

/// How many names are looked at: more than one with addresses is one too many.
const NAMES: usize = 64;

/// What the name of a field has in it that is the length of a prefix beside an address.
const LENGTH_NAMES: [&str; 5] = ["len", "mask", "bits", "cidr", "prefix"];

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

/// A name without case and without what distinguishes address families in it.
pub(super) fn neutral(name: &str) -> String {
    let mut name = name.to_ascii_lowercase();
    for family in ["ipv4", "ipv6", "ip4", "ip6", "inet6", "v4", "v6", "inet", "ip", "_", "-"] {
        name = name.replace(family, "");
    }
    name.trim_end_matches(['4', '6']).to_owned()
}

/// What is under one name.
#[derive(Default)]
struct Found {
    /// The name as it is written first.
    written: String,
    prefixes: Vec<IpNet>,
    /// Strings that are no entries: the first, each with the line that it is on.
    others: Vec<(u64, String)>,
    more_others: u64,
}

/// What has been found so far.
#[derive(Default)]
struct Names {
    found: BTreeMap<String, Found>,
    prefixes: usize,
}

impl Names {
    fn string(&mut self, path: &[String], text: &str, line: u64) {
        let name: Vec<String> = path.iter().map(|name| neutral(name)).collect();
        let name = name.join(".");
        if self.found.len() >= NAMES && !self.found.contains_key(&name) {
            return;
        }
        let found = self.found.entry(name).or_default();
        match parse_target(text) {
            Ok(prefixes) => {
                if found.prefixes.is_empty() {
                    found.written = path.join(".");
                }
                if self.prefixes <= MAX_PREFIXES {
                    self.prefixes += prefixes.len();
                    found.prefixes.extend(prefixes);
                }
            }
            Err(_) if found.others.len() < MAX_KEPT_BAD_LINES => {
                found.others.push((line, text.chars().take(200).collect()));
            }
            Err(_) => found.more_others += 1,
        }
    }
}

/// What a value was.
enum Kind {
    /// An address without a length.
    Address,
    /// A number, or a string of digits.
    Number,
    Other,
}

/// Walks through a value.
struct Walk<'a> {
    names: &'a mut Names,
    path: &'a mut Vec<String>,
    /// The line of each string that follows, names among them. The parser does not tell it.
    lines: &'a mut dyn Iterator<Item = u64>,
}

impl Walk<'_> {
    /// For a value within this one.
    fn within(&mut self) -> Walk<'_> {
        Walk { names: self.names, path: self.path, lines: self.lines }
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
        self.names.string(self.path, text, line);
        Ok(match parse_address(text) {
            Ok(_) => Kind::Address,
            Err(_) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => Kind::Number,
            Err(_) => Kind::Other,
        })
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<Kind, A::Error> {
        while array.next_element_seed(self.within())?.is_some() {}
        Ok(Kind::Other)
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut object: A) -> Result<Kind, A::Error> {
        let (mut address, mut length) = (false, None);
        while let Some(name) = object.next_key::<String>()? {
            self.lines.next();
            if self.path.is_empty() && name == "nftables" {
                return Err(A::Error::custom("this is JSON of nft: save the set without `-j`"));
            }
            self.path.push(name);
            let kind = object.next_value_seed(self.within())?;
            let name = self.path.pop().unwrap_or_default();
            match kind {
                Kind::Address => address = true,
                Kind::Number if LENGTH_NAMES.iter().any(|part| name.to_ascii_lowercase().contains(part)) => {
                    length = Some(name);
                }
                Kind::Number | Kind::Other => {}
            }
        }
        match length {
            Some(name) if address => Err(A::Error::custom(format!(
                "{name:?} beside an address: the length of a prefix belongs behind a slash"
            ))),
            _ => Ok(Kind::Other),
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Kind, E> {
        Ok(Kind::Other)
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

/// How many strings begin on a line of JSON. None goes on on the next line.
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
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Walk { names, path: &mut Vec::new(), lines }.deserialize(&mut deserializer)?;
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

/// Takes what is under the one name with addresses.
fn take(names: Names, text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    let mut found = names.found.into_values().filter(|found| !found.prefixes.is_empty());
    let refused = |why| Err(Refusal::new(Format::Json, why, None));
    let Some(Found { written, prefixes, others, more_others }) = found.next() else {
        return if import.bad_lines > 0 { Ok(()) } else { refused(Why::Empty) };
    };
    if let Some(second) = found.next() {
        return refused(Why::SeveralNames(written, second.written));
    }
    import.prefixes = prefixes;
    let mut lines = text.lines().peekable();
    for (number, other) in others {
        // They come in the order of the lines.
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
