//! What a configuration fills a list with: its own entries, and the files that it names.

use std::{
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::config::ListInput;

use super::{
    book::{Entry, Origin},
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
    /// The entries: those of files first, so that the configuration's own replace them.
    pub entries: Vec<Entry>,
    /// For people: bad lines, with file and line.
    pub problems: Vec<String>,
}

/// Reads what the configuration says about a list. Bad lines of files are reported and left out.
pub fn configured(input: &ListInput) -> Result<Configured, ListFileError> {
    let mut result = Configured::default();
    for path in &input.files {
        let imported = import::load(path).map_err(|source| ListFileError { path: path.clone(), source })?;
        let origin = Origin::File(path.display().to_string());
        result.entries.extend(imported.prefixes.iter().map(|prefix| entry(*prefix, &origin)));
        result.problems.extend(problems(path, &imported));
    }
    result.entries.extend(input.entries.iter().map(|prefix| entry(*prefix, &Origin::Config)));
    Ok(result)
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

fn entry(prefix: IpNet, origin: &Origin) -> Entry {
    Entry {
        prefix,
        origin: origin.clone(),
        reason: None,
        added: SystemTime::now(),
        added_by: None,
        expires: None,
    }
}
