//! The output of ipset: `save`, which `restore` reads, and `list`.

use super::{
    Format, Import, LineProblem, Refusal, Why,
    sniff::Head,
    text::{Line, Text, quoted_words},
};
use crate::lists::{import::json::neutral, target::parse_target};

/// Options of an entry that do not change what it covers, with their numbers of words.
const OPTIONS: [(&str, usize); 7] = [
    ("timeout", 2),
    ("packets", 2),
    ("bytes", 2),
    ("skbmark", 2),
    ("skbprio", 2),
    ("skbqueue", 2),
    ("comment", 2),
];

pub(super) fn recognises_save(head: &Head) -> bool {
    let words: Vec<&str> = head.first().split_whitespace().collect();
    match words[..] {
        ["create", _, kind, ..] => kind.contains(':'),
        ["add", _, entry, ..] => parse_target(entry).is_ok(),
        _ => false,
    }
}

pub(super) fn recognises_list(head: &Head) -> bool {
    head.first().starts_with("Name: ") && head.lines.iter().any(|(_, line)| line == "Members:")
}

pub(super) fn read_save(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    let mut set = None;
    for line in text.lines() {
        let Some(beginning) = import.begin(&line) else { continue };
        let words: Vec<&str> = quoted_words(&beginning).collect();
        match words[..] {
            ["create", _, kind, ref options @ ..] => check_set(import.format, &line, kind, options)?,
            ["add", name, entry, ref options @ ..] => {
                check_name(&mut set, name, entry, &line, Format::IpsetSave)?;
                read_entry(import, &line, entry, options)?;
            }
            ["del", ..] => return Err(Refusal::new(Format::IpsetSave, Why::Negated("del"), Some(line))),
            ["flush" | "COMMIT", ..] => {}
            _ => {
                import.bad(&line, LineProblem::Option(words.first().copied().unwrap_or_default().to_owned()));
            }
        }
    }
    Ok(())
}

pub(super) fn read_list(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    let mut set = None;
    let (mut name, mut kind) = (String::new(), String::new());
    let mut members = false;
    for line in text.lines() {
        let Some(beginning) = import.begin(&line) else { continue };
        if let Some((key, value)) =
            beginning.split_once(": ").filter(|(key, _)| !key.contains(|c: char| c.is_ascii_digit()))
        {
            members = false;
            match key {
                "Name" => value.clone_into(&mut name),
                "Type" => value.clone_into(&mut kind),
                "Header" => {
                    check_set(import.format, &line, &kind, &value.split_whitespace().collect::<Vec<_>>())?;
                }
                _ => {}
            }
            continue;
        }
        if &*beginning == "Members:" {
            members = true;
            continue;
        }
        let mut words = quoted_words(&beginning);
        match words.next() {
            None => {}
            Some(entry) if members => {
                check_name(&mut set, &name, entry, &line, Format::IpsetList)?;
                read_entry(import, &line, entry, &words.collect::<Vec<_>>())?;
            }
            Some(word) => import.bad(&line, LineProblem::Option(word.to_owned())),
        }
    }
    Ok(())
}

/// Refuses a set whose entries do not mean what they seem to.
fn check_set(format: Format, line: &Line<'_>, kind: &str, options: &[&str]) -> Result<(), Refusal> {
    let refused = |what: String| Err(Refusal::new(format, Why::NotAddresses(what), Some(*line)));
    if !matches!(kind, "hash:ip" | "hash:net" | "bitmap:ip") {
        return refused(format!("a set of type {kind}"));
    }
    match options.iter().find(|option| matches!(**option, "netmask" | "bitmask")) {
        Some(option) => {
            refused(format!("a set with `{option}`, where an address stands for more than itself"))
        }
        None => Ok(()),
    }
}

/// The set of the entries so far.
pub(super) struct Set {
    name: String,
    /// The name without the address family of its entries.
    neutral: String,
}

/// Refuses an entry of a second set, unless that is the counterpart for the other address family.
pub(super) fn check_name(
    set: &mut Option<Set>,
    name: &str,
    entry: &str,
    line: &Line<'_>,
    format: Format,
) -> Result<(), Refusal> {
    match set {
        Some(before) if before.name != name && before.neutral != neutral(name, entry) => {
            let why = Why::SeveralSets(before.name.clone(), name.to_owned());
            Err(Refusal::new(format, why, Some(*line)))
        }
        Some(_) => Ok(()),
        None => {
            *set = Some(Set { name: name.to_owned(), neutral: neutral(name, entry) });
            Ok(())
        }
    }
}

fn read_entry(import: &mut Import, line: &Line<'_>, entry: &str, options: &[&str]) -> Result<(), Refusal> {
    let mut rest = options;
    while let Some(option) = rest.first() {
        if *option == "nomatch" {
            return Err(Refusal::new(import.format, Why::Negated("nomatch"), Some(*line)));
        }
        let Some((_, words)) = OPTIONS.iter().find(|(name, _)| name == option) else {
            import.bad(line, LineProblem::Option((*option).to_owned()));
            return Ok(());
        };
        if *option == "timeout" && rest.get(1) != Some(&"0") {
            import.timeouts += 1;
        }
        rest = rest.get(*words..).unwrap_or_default();
    }
    let read = parse_target(entry).map_err(|error| LineProblem::of(entry, error));
    import.take(line, read);
    Ok(())
}
