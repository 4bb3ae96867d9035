//! `deny` of nginx and Apache, and `Require not ip`.

use super::{
    Format, Import, LineProblem, Refusal, Why,
    sniff::Head,
    text::{Line, Text},
};
use crate::lists::target::parse_target;

pub(super) fn recognises(head: &Head) -> bool {
    head.first_words().any(|word| is(word, &["deny", "allow", "permit", "require"]))
}

fn is(word: &str, names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name))
}

/// Strips remarks: neither server has others, and to nginx a semicolon ends a directive.
fn without_remarks(line: &str) -> &str {
    line.split('#').next().unwrap_or_default()
}

pub(super) fn read(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    for line in text.lines() {
        let Some(beginning) = import.begin_remarked(&line, without_remarks) else { continue };
        for directive in beginning.split(';') {
            let words: Vec<&str> = directive.split_whitespace().collect();
            let lower: Vec<String> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
            let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
            let negated = |what| Err(Refusal::new(Format::Deny, Why::Negated(what), Some(line)));
            match lower[..] {
                // Directives that frame others, and those that state the default.
                []
                | ["order" | "satisfy", ..]
                | ["allow", "all"]
                | ["allow", "from", "all"]
                | ["require", "all", "granted"] => {}
                [first, ..] if first.starts_with(['<', '{', '}']) => {}
                ["allow", ..] => return negated("allow"),
                ["permit", ..] => return negated("permit"),
                ["require", "ip" | "host" | "forward-dns" | "local", ..] => return negated("Require ip"),
                ["deny", "from", _, ..] => take(&words[2..], &line, import)?,
                // A mask, a port, or the other end of a connection: nginx supports none of them.
                ["deny", _, _, ..] => {
                    let why = Why::NoList("the access list of a router");
                    return Err(Refusal::new(Format::Deny, why, Some(line)));
                }
                ["deny", _] => take(&words[1..], &line, import)?,
                ["require", "not", "ip", _, ..] => take(&words[3..], &line, import)?,
                _ => import.bad(&line, LineProblem::NoDeny),
            }
        }
    }
    Ok(())
}

/// Takes all targets of a directive.
fn take(targets: &[&str], line: &Line<'_>, import: &mut Import) -> Result<(), Refusal> {
    for target in targets {
        let refused = |why| Err(Refusal::new(Format::Deny, why, Some(*line)));
        match *target {
            target if is(target, &["all"]) => return refused(Why::NotAddresses("`deny all`".into())),
            target if target.starts_with('!') => return refused(Why::Negated("!")),
            target => {
                let read = parse_target(target).map_err(|error| LineProblem::of(target, error));
                import.take(line, read);
            }
        }
    }
    Ok(())
}
