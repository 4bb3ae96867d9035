//! From a place in the text of the configuration to what a person looks for: line, column and key.
//!
//! Every fault, of syntax, type or meaning, comes with the range of bytes it is about, and this one function
//! says where that is. So no check needs to know its own key path.

use std::ops::Range;

use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

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

impl Problem {
    /// The problem `what` that the bytes `span` of `text` have.
    pub(super) fn locate(text: &str, span: &Range<usize>, what: &str) -> Self {
        let before = &text[..text.floor_char_boundary(span.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let (document, _) = DeTable::parse_recoverable(text);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key_at(document.get_ref(), span.start),
            // Messages of the TOML parser may have several lines; ours is one line for each problem.
            what: what.lines().collect::<Vec<_>>().join("; "),
        }
    }
}

/// The path of the key that has the byte at `offset` in its name or its value.
fn key_at(table: &DeTable<'_>, offset: usize) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        match value.get_ref() {
            // The range of a table is its header only, so the keys within have to be looked at.
            DeValue::Table(inner) => key_at(inner, offset)
                .map(|path| format!("{name}.{path}"))
                .or_else(|| contains(key, offset).then(|| name.to_string())),
            // `[[name]]`, whose ranges are those of the headers, too.
            DeValue::Array(items) if items.iter().any(|item| matches!(item.get_ref(), DeValue::Table(_))) => {
                let tables = items.iter().filter_map(|item| match item.get_ref() {
                    DeValue::Table(inner) => key_at(inner, offset),
                    _ => None,
                });
                let header = || items.iter().any(|item| contains(item, offset)) || contains(key, offset);
                let within = tables.map(|path| format!("{name}.{path}")).next();
                within.or_else(|| header().then(|| name.to_string()))
            }
            _ => (contains(key, offset) || contains(value, offset)).then(|| name.to_string()),
        }
    })
}

fn contains<T>(part: &Spanned<T>, offset: usize) -> bool {
    part.span().contains(&offset)
}
