//! From a place in the text of the configuration to what a person looks for: line, column and key.
//!
//! Every fault, of syntax, type or meaning, comes with the range of bytes it is about, and this one module says where
//! that is. So no check needs to know its own key path. A file with many faults is looked through once.

use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::validate::Fault;

/// One thing that is wrong with a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line}:{column}: {}{what}", key.as_ref().map(|key| format!("{key}: ")).unwrap_or_default())]
pub struct Problem {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The key with its sections, as `limit.source.packets`; `None` where the text is not even TOML.
    pub key: Option<String>,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// How far back from a place the innermost key around it may begin: a name lies within the brackets of its header.
const NESTED: usize = 4;

/// The problems that these faults of `text` are, in the order of the text.
pub(super) fn locate(text: &str, document: &DeTable<'_>, mut faults: Vec<Fault>) -> Vec<Problem> {
    let mut keys = Vec::new();
    collect(document, "", &mut keys);
    keys.sort_by_key(|(range, _)| range.start);
    faults.sort_by_key(|(range, _)| range.start);
    let (mut at, mut line, mut column) = (0, 1, 1);
    let locate = |(range, what): Fault| {
        let start = text.floor_char_boundary(range.start);
        for c in text[at..start].chars() {
            (line, column) = if c == '\n' { (line + 1, 1) } else { (line, column + 1) };
        }
        at = start;
        // Messages of the TOML parser may have several lines; ours is one line for each problem.
        let what = what.lines().collect::<Vec<_>>().join("; ");
        Problem { line, column, key: key_at(&keys, range.start), what }
    };
    faults.into_iter().map(locate).collect()
}

/// A key with the path that it has, at the bytes of its name or its value.
type Place = (Range<usize>, String);

/// The path of the key that has the byte at `offset` in its name or its value.
fn key_at(keys: &[Place], offset: usize) -> Option<String> {
    let before = keys.partition_point(|(range, _)| range.start <= offset);
    let near = keys[..before].iter().rev().take(NESTED);
    near.filter(|(range, _)| range.contains(&offset)).map(|(_, path)| path.clone()).next()
}

fn collect(table: &DeTable<'_>, path: &str, keys: &mut Vec<Place>) {
    for (key, value) in table {
        let name = key.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        keys.push((key.span(), path.clone()));
        match value.get_ref() {
            // The range of a table is its header only, so the keys within have to be looked at.
            DeValue::Table(inner) => collect(inner, &path, keys),
            // `[[name]]`, whose ranges are those of the headers, too.
            DeValue::Array(items) if items.iter().any(is_table) => {
                for item in items {
                    keys.push((item.span(), path.clone()));
                    if let DeValue::Table(inner) = item.get_ref() {
                        collect(inner, &path, keys);
                    }
                }
            }
            _ => keys.push((value.span(), path)),
        }
    }
}

fn is_table(value: &Spanned<DeValue<'_>>) -> bool {
    matches!(value.get_ref(), DeValue::Table(_))
}
