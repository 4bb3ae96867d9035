//! Sets as printed by nft, and `add element` and `define` of its scripts.

use super::{
    Format, Import, LineProblem, Refusal, Why,
    ipset::{Set, check_name},
    sniff::Head,
    text::{Line, Text},
};
use crate::lists::target::parse_target;

/// Options of an element that do not change what it covers, with their numbers of words.
const OPTIONS: [(&str, usize); 8] = [
    ("timeout", 2),
    ("expires", 2),
    ("comment", 2),
    ("counter", 1),
    ("packets", 2),
    ("bytes", 2),
    ("used", 2),
    ("last", 1),
];

pub(super) fn recognises(head: &Head) -> bool {
    let words: Vec<&str> = head.first().split_whitespace().collect();
    matches!(
        words[..],
        ["table" | "set" | "map", .., "{"]
            | ["define", _, "=", ..]
            | ["delete" | "destroy", "element", ..]
            | ["add" | "create" | "flush", "element" | "table" | "set", ..]
            | ["elements", ..]
    )
}

/// State of the reader.
#[derive(Default)]
struct State {
    /// Words since the last brace or semicolon.
    before: Vec<String>,
    /// Name of the current set.
    name: String,
    /// Set of the entries so far.
    set: Option<Set>,
    /// The element being read, inside the braces of elements.
    element: Option<Vec<String>>,
    /// Whether there is a set, with or without elements.
    is_set: bool,
}

/// Maximum words kept before a brace: `add element inet filter name`.
const BEFORE: usize = 8;

/// Maximum words kept of an element; more than its options have.
const WORDS: usize = 32;

pub(super) fn read(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    let mut state = State::default();
    let mut last = None;
    for line in text.lines() {
        import.lines += 1;
        last = Some(line);
        let beginning = String::from_utf8_lossy(line.bytes);
        // A line may continue on the next one.
        let (mut rest, goes_on) = match beginning.trim_end().strip_suffix('\\') {
            Some(line) => (line, true),
            None => (&*beginning, false),
        };
        while let Some((token, behind)) = token(rest) {
            rest = behind;
            state.token(token, &line, import)?;
        }
        if !goes_on && state.element.is_none() && state.before.last().is_some_and(|word| word != "=") {
            state.before.clear();
        }
    }
    let refused = |why| Err(Refusal::new(Format::Nft, why, last));
    match state {
        State { element: Some(_), .. } => {
            refused(Why::Syntax("the file ends within the elements of a set".into()))
        }
        State { is_set: false, .. } => refused(Why::Empty),
        State { .. } => Ok(()),
    }
}

/// Returns the next token of a line and the rest: a word, a mark, or quoted text.
fn token(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let first = line.chars().next()?;
    match first {
        '#' => None,
        '{' | '}' | ',' | ';' | '=' => Some(line.split_at(1)),
        '"' => Some(line.split_at(line[1..].find('"').map_or(line.len(), |end| end + 2))),
        _ => {
            let is_end = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ',' | ';' | '=' | '"' | '#');
            Some(line.split_at(line.find(is_end).unwrap_or(line.len())))
        }
    }
}

impl State {
    fn token(&mut self, token: &str, line: &Line<'_>, import: &mut Import) -> Result<(), Refusal> {
        if let Some(element) = &mut self.element {
            match token {
                "," => {
                    let element = std::mem::take(element);
                    return self.take(&element, line, import);
                }
                "}" => {
                    let element = std::mem::take(element);
                    self.element = None;
                    return self.take(&element, line, import);
                }
                "{" => {
                    return Err(Refusal::new(
                        Format::Nft,
                        Why::Syntax("a brace within elements".into()),
                        Some(*line),
                    ));
                }
                word if element.len() < WORDS => element.push(word.to_owned()),
                _ => {}
            }
            return Ok(());
        }
        match token {
            "{" => {
                let before = std::mem::take(&mut self.before);
                let before: Vec<&str> = before.iter().map(String::as_str).collect();
                match before[..] {
                    ["delete" | "destroy", "element", ..] => {
                        return Err(Refusal::new(Format::Nft, Why::Negated("delete element"), Some(*line)));
                    }
                    [.., "elements", "="] => {
                        self.element = Some(Vec::new());
                        self.is_set = true;
                    }
                    ["add" | "create", "element", .., name] | ["define", name, "="] => {
                        self.name = name.to_owned();
                        self.element = Some(Vec::new());
                        self.is_set = true;
                    }
                    [.., "set", name] => {
                        self.name = name.to_owned();
                        self.is_set = true;
                    }
                    [.., "map", name] => {
                        let why = Why::NotAddresses(format!("the map {name}"));
                        return Err(Refusal::new(Format::Nft, why, Some(*line)));
                    }
                    _ => {}
                }
            }
            "}" | ";" => self.before.clear(),
            word if self.before.len() < BEFORE => self.before.push(word.to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, element: &[String], line: &Line<'_>, import: &mut Import) -> Result<(), Refusal> {
        let words: Vec<&str> = element.iter().map(String::as_str).collect();
        let Some((target, mut rest)) = words.split_first() else { return Ok(()) }; // nft accepts a trailing comma
        let mut range = None;
        if let ["-", last, behind @ ..] = rest {
            range = Some(format!("{target}-{last}"));
            rest = behind;
        }
        while let Some(option) = rest.first() {
            let refused = |what: &str| {
                let why = Why::NotAddresses(format!("{what} {target:?}"));
                Err(Refusal::new(Format::Nft, why, Some(*line)))
            };
            match *option {
                "." => return refused("the concatenation that begins with"),
                ":" => return refused("the entry of a map"),
                "timeout" => import.timeouts += 1,
                _ => {}
            }
            let Some((_, words)) = OPTIONS.iter().find(|(name, _)| name == option) else {
                import.bad(line, LineProblem::Option((*option).to_owned()));
                return Ok(());
            };
            rest = rest.get(*words..).unwrap_or_default();
        }
        check_name(&mut self.set, &self.name, target, line, Format::Nft)?;
        let target = range.as_deref().unwrap_or(target);
        let read = parse_target(target).map_err(|error| LineProblem::of(target, error));
        import.take(line, read);
        Ok(())
    }
}
