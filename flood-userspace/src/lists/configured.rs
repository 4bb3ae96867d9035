//! The entries that a configuration puts into a list: its own, and those of the files that it names.
//!
//! [`configured`] tells whether a configuration can be used, both to run it and to check it: it reads all files,
//! checks their plausibility, and counts the places that they take.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use ipnet::IpNet;
use thiserror::Error;

use crate::{
    boot_time::BootTime,
    config::{Config, ListInput},
    feeds::NoList,
    printable::Printable,
};

use super::{
    Book, Change, Edit, EditError, Entry, Guard, ListKind, Origin, Places, check_room,
    doubt::{Doubt, check_coverage},
    guard::Withholding,
    import::{self, Format, Import, LoadError},
    tables::Layout,
};

/// Lists of a configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ListError {
    /// A file cannot be read.
    #[error("the list {path}: {source}", path = Printable(path.display()))]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: LoadError,
    },
    /// A file is something other than a list.
    #[error("the list {path}: {source}", path = Printable(path.display()))]
    NoList {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: Box<NoList>,
    },
    /// A list covers too much.
    #[error(
        "the {list} list of the configuration, files included, is not believed: {doubt}; if that is right, say `{key}` in \
         its section",
        list = kind.label(),
        key = doubt.key()
    )]
    Doubt {
        /// The list.
        kind: ListKind,
        /// What is doubtful about it.
        doubt: Doubt,
    },
    /// There is no room in the tables.
    #[error(transparent)]
    Room(#[from] EditError),
}

/// How many prefixes a reply, a warning or the log names.
pub const NAMED: usize = 10;

/// The entries of a list, and the problems with lines of its files.
#[derive(Debug, Default)]
pub struct Configured {
    /// The entries.
    pub edit: Edit,
    /// Messages about bad lines, with file and line.
    pub problems: Vec<String>,
    /// The format of each file.
    pub formats: Vec<(PathBuf, Format)>,
    /// What is withheld, for each guarded origin.
    pub withheld: Vec<Withholding>,
    /// Number of entries that each file lists.
    pub listed: Vec<(Origin, usize)>,
}

impl Configured {
    /// Returns messages about everything that is not in force as written.
    pub fn left_out(&self) -> impl Iterator<Item = String> {
        let withheld = |of: &Withholding| {
            let origin = of.origin.to_string();
            let named = of.withheld().take(NAMED).map(|held| format!("{origin}: {held}"));
            let more = of.held.len().saturating_sub(NAMED);
            let more =
                (more > 0).then(|| format!("{origin}: {more} more are not in force as they are written"));
            named.chain(more).collect::<Vec<_>>()
        };
        self.problems.iter().cloned().chain(self.withheld.iter().flat_map(withheld))
    }
}

/// Reads what a configuration says about all lists. Bad lines of files, and what the guard withholds, are reported
/// and left out.
pub fn configured(config: &Config, guard: &Guard) -> Result<Vec<(ListKind, Configured)>, ListError> {
    let lists = ListKind::ALL.map(|kind| Ok((kind, read(kind, config.list(kind), guard)?)));
    let lists = lists.into_iter().collect::<Result<Vec<_>, ListError>>()?;
    let edits: Vec<_> = lists.iter().map(|(kind, list)| (*kind, &list.edit)).collect();
    let places = Places { ipv4: config.lists.ipv4.into(), ipv6: config.lists.ipv6.into() };
    check_room(&edits, Layout::with_room(Default::default(), places).capacity())?;
    Ok(lists)
}

fn read(kind: ListKind, input: &ListInput, guard: &Guard) -> Result<Configured, ListError> {
    let mut list = Configured::default();
    let is_guarded = kind == ListKind::Block && !input.may_cover_host;
    let mut add = |origin: Origin, mut prefixes: Vec<IpNet>| {
        let entry = Entry::of(&Arc::new(origin), BootTime::now());
        if is_guarded {
            let withheld = guard.sift(&mut prefixes);
            list.withheld.push(Withholding::of(withheld, &entry));
        }
        list.edit = std::mem::take(&mut list.edit).then(Edit::put_alike(prefixes, &entry));
    };
    let (mut problems, mut formats, mut listed) = (Vec::new(), Vec::new(), Vec::new());
    for path in &input.files {
        let imported = import::load(path).map_err(|source| ListError::File { path: path.clone(), source })?;
        problems.extend(self::problems(path, &imported));
        let Import { format, mut prefixes, bad, bad_lines, .. } = imported;
        NoList::check(prefixes.len(), bad_lines, bad.first())
            .map_err(|source| ListError::NoList { path: path.clone(), source: source.into() })?;
        prefixes.sort_unstable();
        prefixes.dedup();
        let origin = Origin::File(path.display().to_string());
        formats.push((path.clone(), format));
        listed.push((origin.clone(), prefixes.len()));
        add(origin, prefixes);
    }
    add(Origin::Config, input.entries.clone());
    (list.problems, list.formats, list.listed) = (problems, formats, listed);
    check_coverage(list.edit.prefixes(), input.max_coverage)
        .map_err(|doubt| ListError::Doubt { kind, doubt })?;
    Ok(list)
}

/// Returns the edit that replaces what the configuration has put into a book with what it says now. Unchanged
/// entries are left alone.
pub fn reloaded(book: &Book, now: &Edit) -> Edit {
    let is_configured = |entry: &Entry| entry.note.origin.is_configured();
    let there = book.all().filter(|(_, entry)| is_configured(entry));
    let gone = there.filter(|(prefix, entry)| now.of(*prefix, &entry.note.origin).is_none());
    let gone = gone.map(|(prefix, entry)| (prefix, Change::Take(Arc::clone(&entry.note.origin))));
    let new =
        now.changes().iter().filter(|(prefix, change)| book.held_by(*prefix, change.origin()).is_none());
    Edit::new(gone.chain(new.cloned()).collect())
}

/// Returns messages about the bad lines of a file.
pub fn problems(path: &Path, imported: &Import) -> Vec<String> {
    let mut problems: Vec<String> =
        imported.bad.iter().map(|line| format!("{}: {line}", Printable(path.display()))).collect();
    let more = imported.bad_lines - imported.bad.len() as u64;
    if more > 0 {
        problems.push(format!("{}: {more} more bad lines", Printable(path.display())));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Lifeline, Purpose};

    fn edit(entries: &[(&str, Origin)]) -> Edit {
        let entry = |origin: &Origin| Entry::of(&Arc::new(origin.clone()), BootTime::START);
        Edit::put(entries.iter().map(|(prefix, origin)| (prefix.parse().unwrap(), entry(origin))))
    }

    fn shown(book: &Book) -> Vec<String> {
        book.all().map(|(prefix, entry)| format!("{prefix} {}", entry.note.origin)).collect()
    }

    #[test]
    fn a_reload_changes_what_the_configuration_says_and_nothing_else() {
        let (ours, theirs) = (Origin::File("/a/ours".into()), Origin::Import("/a/theirs".into()));
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
        let prefix: IpNet = "10.0.0.1/32".parse().unwrap();
        let before = book.get(prefix).unwrap().clone();
        let now = edit(&[
            ("10.0.0.1/32", Origin::Config),
            ("10.0.0.4/32", Origin::Config),
            ("10.0.0.6/32", Origin::Config),
            ("10.0.0.7/32", Origin::Config),
            ("10.0.0.8/32", ours.clone()),
        ]);
        book.swap(reloaded(&book, &now));
        let expected = [
            "10.0.0.1/32 config",
            "10.0.0.4/32 config",
            "10.0.0.5/32 import /a/theirs",
            "10.0.0.6/32 operator",
            "10.0.0.6/32 config",
            "10.0.0.7/32 config",
            "10.0.0.7/32 feed drop",
            "10.0.0.8/32 file /a/ours",
        ];
        assert_eq!(shown(&book), expected);
        assert!(Arc::ptr_eq(&before.note, &book.get(prefix).unwrap().note));
        assert_eq!(reloaded(&book, &now), Edit::default());
    }

    fn config(folder: &Path, files: &[(&str, &str)], text: &str) -> Config {
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        Config::parse(text, &folder.join("floodgate.toml")).unwrap()
    }

    #[test]
    fn files_and_the_configuration_are_on_a_list_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let files = [("one", "192.0.2.2\n192.0.2.1\n"), ("two", "192.0.2.2\nx\n")];
        let text = "[block]\nentries = [\"192.0.2.1\"]\nfiles = [\"one\", \"two\"]\n";
        let lists = configured(&config(folder.path(), &files, text), &Guard::default()).unwrap();
        let (_, block) = lists.into_iter().find(|(kind, _)| *kind == ListKind::Block).unwrap();
        assert!(block.problems[0].contains("two: line 2: "), "{:?}", block.problems);
        let mut book = Book::default();
        book.swap(block.edit);
        let name = |name: &str| format!("file {}", folder.path().join(name).display());
        let expected = [
            "192.0.2.1/32 config".to_owned(),
            format!("192.0.2.1/32 {}", name("one")),
            format!("192.0.2.2/32 {}", name("one")),
            format!("192.0.2.2/32 {}", name("two")),
        ];
        assert_eq!(shown(&book), expected);
    }

    /// Returns what is left out of the block list, or why the configuration cannot be used.
    fn outcome(text: &str) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let many: String = (0..3_000).map(|n| format!("10.{}.{}.0/25\n", n / 256, n % 256)).collect();
        let files = [("lan", "192.0.2.0/24\n198.51.100.0/24\n"), ("all", "0.0.0.0/1\n"), ("many", &many)];
        let guard = Guard::new(vec![Lifeline::new("192.0.2.1/32".parse().unwrap(), Purpose::Address)]);
        let config = config(folder.path(), &files, text);
        let lists = configured(&config, &guard).map_err(|error| error.to_string())?;
        Ok(lists.iter().flat_map(|(_, list)| list.left_out()).collect())
    }

    #[test]
    fn a_configuration_is_guarded_believed_and_counted_before_it_is_used() {
        let fine: Result<Vec<String>, String> = Ok(Vec::new());
        let left_out = outcome("[block]\nfiles = [\"lan\"]\n").unwrap();
        assert!(
            left_out[0]
                .ends_with("lan: 192.0.2.0/24 is in force but for 192.0.2.1/32, this host's own address"),
            "{left_out:?}"
        );
        let left_out = outcome("[block]\nentries = [\"192.0.2.1\"]\n").unwrap();
        assert_eq!(
            left_out,
            ["config: 192.0.2.1/32 is left out because of 192.0.2.1/32, this host's own address"]
        );
        assert_eq!(outcome("[block]\nfiles = [\"lan\"]\nmay_cover_host = true\n"), fine);
        assert_eq!(outcome("[allow]\nfiles = [\"lan\"]\n"), fine);
        for list in ["block", "allow", "allow_proven"] {
            for what in ["files = [\"all\"]", "entries = [\"0.0.0.0/0\"]", "entries = [\"2000::/3\"]"] {
                let error = outcome(&format!("[{list}]\n{what}\n")).unwrap_err();
                assert!(error.contains("max_coverage"), "{list} {what}: {error}");
                let meant = format!("[{list}]\n{what}\nmax_coverage = \"100%\"\n");
                assert!(outcome(&meant).is_ok(), "{meant}");
            }
        }
        // 384,000 addresses, and room for 393,216, of which an eighth is reserved.
        let error = outcome("[lists]\nipv4 = 1\n[block]\nfiles = [\"many\"]\n").unwrap_err();
        assert!(error.contains("384000 places, and 344064 are free of 393216"), "{error}");
        assert_eq!(outcome("[lists]\nipv4 = 400000\n[block]\nfiles = [\"many\"]\n"), fine);
    }
}
