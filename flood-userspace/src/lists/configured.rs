//! What a configuration fills a list with: its own entries, and the files that it names.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;

use crate::{boot_time::BootTime, config::ListInput, printable::Printable};

use super::{
    book::{Book, Edit, Entry, Note, Origin},
    import,
};

/// A list file that cannot be read.
#[derive(Debug, Error)]
#[error("the list {path}: {source}", path = Printable(path.display()))]
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
    let mut edit = Edit::default();
    let mut problems = Vec::new();
    for path in &input.files {
        let imported = import::load(path).map_err(|source| ListFileError { path: path.clone(), source })?;
        problems.extend(self::problems(path, &imported));
        let entry = entry(Origin::File(path.display().to_string()));
        edit = edit.then(Edit::put_alike(imported.prefixes, &entry));
    }
    edit = edit.then(Edit::put_alike(input.entries.clone(), &entry(Origin::Config)));
    Ok(Configured { edit, problems })
}

/// The edit that exchanges, in a book, what an earlier configuration with these files has put there for what one says
/// now. What was added at run time stays, and what has not changed is left alone.
pub fn reloaded(book: &Book, files_before: &[PathBuf], now: &Edit) -> Edit {
    let files: Vec<String> = files_before.iter().map(|path| path.display().to_string()).collect();
    let is_configured = |origin: &Origin| match origin {
        Origin::Config => true,
        Origin::File(name) => files.contains(name),
        Origin::Operator | Origin::Feed(_) => false,
    };
    let stays = |prefix| now.changes().binary_search_by_key(&prefix, |(there, _)| *there).is_ok();
    let gone = book.iter().filter(|(prefix, entry)| is_configured(&entry.note.origin) && !stays(*prefix));
    let gone = gone.map(|(prefix, _)| (prefix, None));
    let new = now.changes().iter().filter(|(prefix, entry)| match (book.get(*prefix), entry) {
        (Some(there), Some(entry)) => {
            let origin = &there.note.origin;
            *origin != entry.note.origin && (is_configured(origin) || matches!(origin, Origin::Feed(_)))
        }
        _ => true,
    });
    Edit::new(gone.chain(new.cloned()).collect())
}

/// The bad lines of a file, for people.
pub fn problems(path: &Path, imported: &import::Import) -> Vec<String> {
    let mut problems: Vec<String> =
        imported.bad.iter().map(|line| format!("{}: {line}", Printable(path.display()))).collect();
    let more = imported.bad_lines - imported.bad.len() as u64;
    if more > 0 {
        problems.push(format!("{}: {more} more bad lines", Printable(path.display())));
    }
    problems
}

fn entry(origin: Origin) -> Entry {
    let note = Note { origin, reason: None, added: BootTime::now(), added_by: None };
    Entry { expires: None, note: Arc::new(note) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(entries: &[(&str, Origin)]) -> Edit {
        Edit::put(entries.iter().map(|(prefix, origin)| (prefix.parse().unwrap(), entry(origin.clone()))))
    }

    fn shown(book: &Book) -> Vec<String> {
        book.iter().map(|(prefix, entry)| format!("{prefix} {:?}", entry.note.origin)).collect()
    }

    #[test]
    fn a_reload_changes_what_the_configuration_says_and_nothing_else() {
        let (ours, theirs) = (Origin::File("/a/ours".into()), Origin::File("/a/theirs".into()));
        let feed = Origin::Feed("drop".parse().unwrap());
        let mut book = Book::default();
        book.swap(edit(&[
            ("10.0.0.1/32", Origin::Config),
            ("10.0.0.2/32", Origin::Config),
            ("10.0.0.3/32", ours.clone()),
            ("10.0.0.4/32", ours.clone()),
            ("10.0.0.5/32", theirs.clone()),
            ("10.0.0.6/32", Origin::Operator),
            ("10.0.0.7/32", feed.clone()),
        ]));
        let before = book.get("10.0.0.1/32".parse().unwrap()).unwrap().clone();
        let now = edit(&[
            ("10.0.0.1/32", Origin::Config),
            ("10.0.0.4/32", Origin::Config),
            ("10.0.0.6/32", Origin::Config),
            ("10.0.0.7/32", Origin::Config),
            ("10.0.0.8/32", ours.clone()),
        ]);
        let change = reloaded(&book, &["/a/ours".into()], &now);
        let changed: Vec<String> = change.changes().iter().map(|(prefix, _)| prefix.to_string()).collect();
        assert_eq!(changed, ["10.0.0.2/32", "10.0.0.3/32", "10.0.0.4/32", "10.0.0.7/32", "10.0.0.8/32"]);
        book.swap(change);
        let expected = [
            ("10.0.0.1/32", Origin::Config),
            ("10.0.0.4/32", Origin::Config),
            ("10.0.0.5/32", theirs),
            ("10.0.0.6/32", Origin::Operator),
            ("10.0.0.7/32", Origin::Config),
            ("10.0.0.8/32", ours),
        ];
        assert_eq!(shown(&book), expected.map(|(prefix, origin)| format!("{prefix} {origin:?}")));
        assert!(Arc::ptr_eq(&before.note, &book.get("10.0.0.1/32".parse().unwrap()).unwrap().note));
        assert_eq!(reloaded(&book, &["/a/ours".into()], &now), Edit::default());
    }

    #[test]
    fn where_a_file_and_the_configuration_name_the_same_the_configuration_counts() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["one", "two"].map(|name| folder.path().join(name)).into();
        std::fs::write(&files[0], "192.0.2.2\n192.0.2.1\n192.0.2.3\n").unwrap();
        std::fs::write(&files[1], "192.0.2.3\nx\n").unwrap();
        let input = ListInput { entries: vec!["192.0.2.1/32".parse().unwrap()], files, feeds: Vec::new() };
        let Configured { edit, problems } = configured(&input).unwrap();
        let mut book = Book::default();
        book.swap(edit);
        let name = |number: usize| format!("{:?}", Origin::File(input.files[number].display().to_string()));
        let expected = [
            format!("192.0.2.1/32 {:?}", Origin::Config),
            format!("192.0.2.2/32 {}", name(0)),
            format!("192.0.2.3/32 {}", name(1)),
        ];
        assert_eq!(shown(&book), expected);
        assert!(problems[0].contains("two: line 2: "), "{problems:?}");
    }
}
