//! `check`.

use std::{path::Path, process::ExitCode};

use serde::Serialize;

use crate::{
    config::{Config, DEFAULT_PATH},
    feeds::Copies,
    lists::{Guard, configured::configured},
    printable::Printable,
};

use super::{Check, complain, exit::Failed, say, say_json};

/// What a check finds in a configuration that can be used.
#[derive(Serialize)]
struct Checked {
    /// The file.
    file: String,
    lists: Vec<CheckedList>,
    /// What would be left out.
    problems: Vec<String>,
}

#[derive(Serialize)]
struct CheckedList {
    list: &'static str,
    /// Prefixes in the configuration and its files.
    entries: usize,
    /// Each file, with what it is written in.
    files: Vec<(String, &'static str)>,
    /// Names and sources of feeds, which are not read.
    feeds: Vec<(String, String)>,
}

/// Says what a daemon would make of a configuration. What this host needs is not looked at: that is for `doctor`, as the
/// configuration may be for another host.
pub(super) fn run(Check { file, json }: &Check) -> Result<ExitCode, Failed> {
    let file = file.as_deref().unwrap_or(Path::new(DEFAULT_PATH));
    let config = Config::load(file)?;
    let mut checked = Checked { file: file.display().to_string(), lists: Vec::new(), problems: Vec::new() };
    for (kind, list) in configured(&config, &Guard::default())? {
        let feeds = config.list(kind).feeds.iter();
        checked.lists.push(CheckedList {
            list: kind.label(),
            entries: list.edit.prefixes().count(),
            files: list
                .formats
                .iter()
                .map(|(path, format)| (path.display().to_string(), format.label()))
                .collect(),
            feeds: feeds.map(|feed| (feed.name.to_string(), feed.source.to_string())).collect(),
        });
        checked.problems.extend(list.problems);
    }
    if checked.lists.iter().any(|list| !list.feeds.is_empty())
        && let Err(error) = Copies::within(&config.state).check()
    {
        checked.problems.push(error.to_string());
    }
    if json.json {
        say_json(&checked)?;
    } else {
        show(&checked)?;
    }
    Ok(if checked.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn show(Checked { file, lists, problems }: &Checked) -> Result<(), Failed> {
    for CheckedList { list, entries, files, feeds } in lists {
        for (path, format) in files {
            say(&format!("{list} list: file {}, read as {format}", Printable(path)))?;
        }
        say(&format!("{list} list: {entries} entries"))?;
        for (name, source) in feeds {
            say(&format!("{list} list: feed {name} from {source}, not read"))?;
        }
    }
    for problem in problems {
        complain(problem);
    }
    if problems.is_empty() {
        say(&format!("{file}: right"))?;
    }
    Ok(())
}
