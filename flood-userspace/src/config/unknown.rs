//! Keys that do not exist: all of them are found and taken out, so that the rest can be read as well.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::validate::Fault;

/// A section, which knows its keys and the sections within it.
pub(super) trait Known {
    /// Takes out of a value of this kind what it does not know. A value of another kind is left for the one who
    /// reads it.
    fn take_unknown(value: &mut DeValue<'_>, faults: &mut Vec<Fault>);
}

/// A section that may occur any number of times.
impl<T: Known> Known for Vec<Spanned<T>> {
    fn take_unknown(value: &mut DeValue<'_>, faults: &mut Vec<Fault>) {
        if let DeValue::Array(items) = value {
            for item in items.iter_mut() {
                T::take_unknown(item.get_mut(), faults);
            }
        }
    }
}

/// Takes out of a table the keys that are not among `names`.
pub(super) fn take(table: &mut DeTable<'_>, names: &[&str], faults: &mut Vec<Fault>) {
    if table.keys().all(|key| names.contains(&key.get_ref().as_ref())) {
        return;
    }
    let expected = || match names {
        [] => "there are no keys".to_owned(),
        [only] => format!("expected `{only}`"),
        _ => format!(
            "expected one of {}",
            names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", ")
        ),
    };
    let is_known = |key: &Spanned<_>, faults: &mut Vec<Fault>| {
        let name: &toml::de::DeString<'_> = key.get_ref();
        let is_known = names.contains(&name.as_ref());
        if !is_known {
            faults.push((key.span(), format!("unknown field `{name}`, {}", expected())));
        }
        is_known
    };
    *table = std::mem::take(table).into_iter().filter(|(key, _)| is_known(key, faults)).collect();
}

/// Takes out of a table the value whose name or value has the byte at `offset`; false if there is none.
pub(super) fn take_at(table: &mut DeTable<'_>, offset: usize) -> bool {
    let contains = |span: std::ops::Range<usize>| span.contains(&offset);
    let mut found = None;
    for (key, value) in table.iter_mut() {
        let here = contains(key.span()) || contains(value.span());
        let within = match value.get_mut() {
            DeValue::Table(inner) => take_at(inner, offset),
            DeValue::Array(items) => items.iter_mut().any(|item| match item.get_mut() {
                DeValue::Table(inner) => take_at(inner, offset),
                _ => false,
            }),
            _ => false,
        };
        if within {
            return true;
        }
        if here {
            found = Some(key.span());
        }
    }
    let Some(found) = found else { return false };
    *table = std::mem::take(table).into_iter().filter(|(key, _)| key.span() != found).collect();
    true
}
