//! What a configuration fills a list with: its own entries, and the files that it names.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use thiserror::Error;

use crate::config::ListInput;

use super::{
    book::{Edit, Entry, Note, Origin},
    import,
};

/// A list file that cannot be read.
#[derive(Debug, Error)]
#[error("the list {path}: {source}", path = path.display())]
pub struct ListFileError {
    path: PathBuf,
    source: io::Error,
}

/// The entries of a list, and what was wrong with lines of its files.
#[derive(Debug, Default)]
pub struct Configured {
    /// The entries: where a file and the configuration itself name the same prefix, the configuration's own.
    pub edit: Edit,
    /// For people: bad lines, with file and line.
    pub problems: Vec<String>,
}

/// Reads what the configuration says about a list. Bad lines of files are reported and left out.
pub fn configured(input: &ListInput) -> Result<Configured, ListFileError> {
    let mut entries = Vec::new();
    let mut problems = Vec::new();
    for path in &input.files {
        let imported = import::load(path).map_err(|source| ListFileError { path: path.clone(), source })?;
        problems.extend(self::problems(path, &imported));
        let entry = entry(Origin::File(path.display().to_string()));
        entries.extend(imported.prefixes.into_iter().map(|prefix| (prefix, entry.clone())));
    }
    let entry = entry(Origin::Config);
    entries.extend(input.entries.iter().map(|prefix| (*prefix, entry.clone())));
    Ok(Configured { edit: Edit::put(entries), problems })
}

/// The bad lines of a file, for people.
pub fn problems(path: &Path, imported: &import::Import) -> Vec<String> {
    let mut problems: Vec<String> =
        imported.bad.iter().map(|line| format!("{}: {line}", path.display())).collect();
    let more = imported.bad_lines - imported.bad.len() as u64;
    if more > 0 {
        problems.push(format!("{}: {more} more bad lines", path.display()));
    }
    problems
}

fn entry(origin: Origin) -> Entry {
    let note = Note { origin, reason: None, added: SystemTime::now(), added_by: None };
    Entry { expires: None, note: Arc::new(note) }
}
