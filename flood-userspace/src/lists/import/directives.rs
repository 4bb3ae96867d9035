//! `deny` of nginx and Apache, and `Require not ip`.

use super::{
    Format, Import, LineProblem, Refusal, Why,
    sniff::Head,
    text::{Text, is_remark, without_remarks},
};
use crate::lists::target::parse_target;

pub(super) fn recognises(head: &Head) -> bool {
    head.first_words().any(|word| is(word, &["deny", "allow", "require"]))
}

fn is(word: &str, names: &[&str]) -> bool {
    names.iter().any(|name| word.eq_ignore_ascii_case(name))
}

pub(super) fn read(text: &Text<'_>, import: &mut Import) -> Result<(), Refusal> {
    for line in text.lines() {
        import.lines += 1;
        let beginning = line.text();
        if is_remark(&beginning) {
            continue;
        }
        for directive in without_remarks(&beginning).split(';') {
            let words: Vec<&str> = directive.split_whitespace().collect();
            let lower: Vec<String> = words.iter().map(|word| word.to_ascii_lowercase()).collect();
            let lower: Vec<&str> = lower.iter().map(String::as_str).collect();
            let negated = |what| Err(Refusal::new(Format::Deny, Why::Negated(what), Some(line)));
            let targets = match lower[..] {
                // What frames directives, and what is so without them.
                []
                | ["order" | "satisfy", ..]
                | ["allow", "all"]
                | ["allow", "from", "all"]
                | ["require", "all", "granted"] => continue,
                [first, ..] if first.starts_with(['<', '{', '}']) => continue,
                ["allow", ..] => return negated("allow"),
                ["require", "ip" | "host" | "forward-dns" | "local", ..] => return negated("Require ip"),
                ["deny", "from", _, ..] => &words[2..],
                ["deny", _, ..] => &words[1..],
                ["require", "not", "ip", _, ..] => &words[3..],
                _ => {
                    import.bad(&line, LineProblem::NoDeny);
                    continue;
                }
            };
            for target in targets {
                let read = match *target {
                    "all" => {
                        return Err(Refusal::new(
                            Format::Deny,
                            Why::NotAddresses("`deny all`".into()),
                            Some(line),
                        ));
                    }
                    target => parse_target(target).map_err(|error| LineProblem::of(target, error)),
                };
                import.take(&line, read);
            }
        }
    }
    Ok(())
}
