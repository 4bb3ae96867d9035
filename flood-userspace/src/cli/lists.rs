//! `block`, `allow` and `allow-proven`.

use std::{fmt::Display, net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;
use ipnet::IpNet;

use crate::{
    control::{
        client::Client,
        protocol::{AddReply, AddRequest, ListReply, RemoveReply, RemoveRequest},
    },
    feeds::NoList,
    file::{is_given, read_given},
    host::login_address,
    lists::{
        ListKind,
        configured::problems,
        doubt::Entries,
        import::{self, Import, MAX_FILE_BYTES},
        parse_target,
    },
    printable::Printable,
    quantity::parse_duration,
};

use super::{
    Json, complain,
    exit::{Failed, NO},
    print, say, say_json, show,
};

/// What to do with a list.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Adds addresses, prefixes or ranges, at once and for all interfaces.
    Add {
        /// As 203.0.113.7, 203.0.113.0/24, 203.0.113.1-203.0.113.9, 2001:db8::/32.
        #[arg(required = true, value_name = "PREFIX")]
        targets: Vec<String>,
        #[command(flatten)]
        entry: EntryArguments,
    },
    /// Removes entries that were added by hand, written as they were added; ends with 1 if one stays on the list.
    ///
    /// What the configuration, a feed or an import says about the same prefix stays, and is named.
    Del {
        /// As 203.0.113.0/24.
        #[arg(required_unless_present = "import", value_name = "PREFIX")]
        targets: Vec<String>,
        /// Remove what came with the import of this name instead; without a prefix all of it.
        #[arg(long, value_name = "NAME")]
        import: Option<String>,
    },
    /// Shows the entries.
    List(Json),
    /// Shows the entries that cover an address, and where they are from; ends with 1 if there are none.
    Test {
        /// The address.
        address: IpAddr,
        #[command(flatten)]
        json: Json,
    },
    /// Adds what files list, in any of the formats of docs/lists.md, which is found by content and named.
    ///
    /// A line that cannot be read is reported, and the others are taken. A file with exceptions, or of which nobody can say
    /// what it means, is refused. What would block this host's own addresses and networks, its gateways, resolvers or who is
    /// logged in is left out and named. `-` is standard input.
    Import {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Take nothing when a line cannot be read.
        #[arg(long)]
        strict: bool,
        /// Remove what the import of this name brought in before and no longer lists, in the same moment. It is refused when it
        /// lists nothing or less than a tenth of that, or over ten times as much.
        #[arg(long)]
        replace: bool,
        /// The name of the import; all files are one then [default: of each file its path, in full]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        entry: EntryArguments,
    },
}

/// What is said about entries.
#[derive(Args)]
pub(super) struct EntryArguments {
    /// How long they last, as 10m, 36h or 7d [default: until the daemon ends]
    #[arg(long, value_name = "TIME", value_parser = parse_ttl)]
    ttl: Option<Duration>,
    /// Why they are there.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Add them although they cover more than a /8 (/16 in IPv6; of an import, a /3), what this host needs, or the address you
    /// are logged in from; and believe an import whatever it lists.
    #[arg(long)]
    force: bool,
}

/// Reads how long entries last. They end at whole seconds.
fn parse_ttl(text: &str) -> Result<Duration, String> {
    match parse_duration(text).map_err(|error| error.to_string())? {
        ttl if ttl.as_secs() == 0 => Err("1s is the shortest".to_owned()),
        ttl if ttl.subsec_nanos() != 0 => Err("entries end at whole seconds, as in 90s".to_owned()),
        ttl => Ok(ttl),
    }
}

/// Does it.
pub(super) async fn run(client: &Client, kind: ListKind, verb: Verb) -> Result<ExitCode, Failed> {
    let path = format!("/v1/lists/{}", kind.label());
    match verb {
        Verb::Add { targets, entry } => {
            let prefixes = parse_all(&targets)?;
            add(client, &path, kind, entry.request(prefixes, None)).await?;
        }
        Verb::Del { targets, import } => {
            let request = RemoveRequest { prefixes: parse_all(&targets)?, import };
            return del(client, &path, kind, request).await;
        }
        Verb::List(Json { json }) => print::<ListReply>(client, &path, json, show::list).await?,
        Verb::Test { address, json: Json { json } } => {
            let list: ListReply = client.get(&format!("{path}?covering={address}")).await?;
            let none = list.entries.is_empty();
            match (json, none) {
                (true, _) => say_json(&list)?,
                (false, true) => say(&format!("{address} is not on the {} list", kind.label()))?,
                (false, false) => {
                    say(&show::list(&list))?;
                    if kind == ListKind::Block {
                        note_allowed(client, address).await?;
                    }
                }
            }
            return Ok(if none { ExitCode::from(NO) } else { ExitCode::SUCCESS });
        }
        Verb::Import { files, strict, replace, name, entry } => {
            let imports = named(read(&files, strict, entry.force)?, name)?;
            return import(client, &path, kind, imports, replace, &entry).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Says it where an address is on the allow list.
async fn note_allowed(client: &Client, address: IpAddr) -> Result<(), Failed> {
    let path = format!("/v1/lists/{}?covering={address}", ListKind::Allow.label());
    let allowed: ListReply = client.get(&path).await?;
    if let Some(entry) = allowed.entries.first() {
        say(&format!("{address} passes all the same: {} is on the allow list, which wins", entry.prefix))?;
    }
    Ok(())
}

fn parse_all(targets: &[String]) -> Result<Vec<IpNet>, Failed> {
    let mut prefixes = Vec::new();
    for target in targets {
        let parsed = parse_target(target).map_err(|error| Failed::usage(error.to_string()))?;
        let address = target.split_once('/').and_then(|(address, _)| address.trim().parse::<IpAddr>().ok());
        if let (Some(address), [prefix]) = (address, &parsed[..])
            && address.to_canonical() != prefix.addr()
        {
            complain(&format_args!("{target} is all of {prefix}"));
        }
        prefixes.extend(parsed);
    }
    Ok(prefixes)
}

impl EntryArguments {
    fn request(&self, prefixes: Vec<IpNet>, file: Option<String>) -> AddRequest {
        let user = ["SUDO_USER", "USER"].iter().find_map(|name| std::env::var(name).ok());
        AddRequest {
            prefixes,
            ttl_s: self.ttl.map(|ttl| ttl.as_secs()),
            reason: self.reason.clone(),
            added_by: user,
            file,
            replace: false,
            force: self.force,
            logged_in_from: login_address(),
        }
    }
}

async fn add(client: &Client, path: &str, kind: ListKind, request: AddRequest) -> Result<(), Failed> {
    let reply: AddReply = client.send(Method::POST, path, &request).await?;
    say(&changes(kind, &reply))?;
    for note in &reply.notes {
        complain(note);
    }
    Ok(())
}

/// What was changed in a list.
fn changes(kind: ListKind, reply: &AddReply) -> String {
    let AddReply { added, replaced, removed, kept, withheld, first_added: _, first_removed: _, notes: _ } =
        reply;
    let mut text = format!("{} list: {added} added", kind.label());
    for (count, what) in [
        (*replaced, "replaced"),
        (*removed, "removed"),
        (*kept, "kept, as they end later"),
        (*withheld, "left out or cut, as this host needs them"),
    ] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

async fn del(
    client: &Client,
    path: &str,
    kind: ListKind,
    request: RemoveRequest,
) -> Result<ExitCode, Failed> {
    let RemoveReply { removed, missing, still_covered_by, in_feeds, held_by } =
        client.send(Method::DELETE, path, &request).await?;
    say(&format!("{removed} removed"))?;
    for prefix in &missing {
        complain(&format_args!("{prefix} is not an entry of the list"));
    }
    for prefix in &still_covered_by {
        complain(&format_args!("still covered by {prefix}"));
    }
    for (prefix, feeds) in &in_feeds {
        let what_to_do = match kind {
            ListKind::Block => format!("`floodgate allow add {prefix}` lets it pass all the same"),
            ListKind::Allow | ListKind::AllowProven => {
                "take the feed out of the configuration if it is wrong".to_owned()
            }
        };
        complain(&format_args!("{prefix} stays, for the feed {} has it: {what_to_do}", feeds.join(", ")));
    }
    let others =
        held_by.iter().flat_map(|(prefix, origins)| origins.iter().map(move |origin| (prefix, origin)));
    for (prefix, origin) in others {
        let list = kind.label();
        let what_to_do = match origin.split_once(' ').unwrap_or((origin, "")) {
            ("feed", _) => continue,
            ("operator", _) => format!("`floodgate {list} del {prefix}` removes what was added by hand"),
            ("import", name) => format!("`floodgate {list} del --import {name} {prefix}` removes it"),
            ("file", _) => "take it out of the file and `floodgate reload`".to_owned(),
            _ => "take it out of the configuration and `floodgate reload`".to_owned(),
        };
        complain(&format_args!("{prefix} stays, for another has it ({origin}): {what_to_do}"));
    }
    Ok(if missing.is_empty() && held_by.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Reads files, and reports the lines that cannot be read.
fn read(files: &[PathBuf], strict: bool, force: bool) -> Result<Vec<(&PathBuf, Import)>, Failed> {
    let mut imports = Vec::new();
    for file in files {
        let failed = |error: &dyn Display| Failed::usage(format!("{}: {error}", Printable(file.display())));
        let bytes = read_given(file, MAX_FILE_BYTES).map_err(|error| failed(&error))?;
        let imported = import::parse(&bytes)
            .map_err(|refusal| failed(&format_args!("{refusal}; nothing is imported")))?;
        for problem in problems(file, &imported) {
            complain(&problem);
        }
        if !force {
            let Import { prefixes, bad, bad_lines, .. } = &imported;
            NoList::check(prefixes.len(), *bad_lines, bad.first())
                .map_err(|error| failed(&format_args!("{error}; nothing is imported")))?;
        }
        if imported.timeouts > 0 {
            let (count, file) = (imported.timeouts, Printable(file.display()));
            complain(&format_args!(
                "{file}: the times at which {count} entries end are not taken over: see --ttl"
            ));
        }
        let entries = Entries(imported.prefixes.len());
        say(&format!("{}: {entries}, read as {}", Printable(file.display()), imported.format))?;
        imports.push((file, imported));
    }
    let bad_lines = bad_lines(&imports);
    if strict && bad_lines > 0 {
        return Err(Failed::usage(format!(
            "nothing is imported, for {bad_lines} lines cannot be read (--strict)"
        )));
    }
    Ok(imports)
}

fn bad_lines(imports: &[(&PathBuf, Import)]) -> u64 {
    imports.iter().map(|(_, imported)| imported.bad_lines).sum()
}

/// What is imported under a name.
struct Named {
    name: String,
    prefixes: Vec<IpNet>,
    bad_lines: u64,
}

/// Gives imports their names: all of them the one that is given, or each that of its file.
fn named(imports: Vec<(&PathBuf, Import)>, name: Option<String>) -> Result<Vec<Named>, Failed> {
    if let Some(name) = name {
        let bad_lines = bad_lines(&imports);
        let prefixes = imports.into_iter().flat_map(|(_, imported)| imported.prefixes).collect();
        return Ok(vec![Named { name, prefixes, bad_lines }]);
    }
    let named = imports.into_iter().map(|(file, Import { prefixes, bad_lines, .. })| {
        // However a file is named, it is the same; a pipe has no name.
        let path = if is_given(file) { Ok(file.clone()) } else { file.canonicalize() };
        let path = path.map_err(|error| Failed::usage(format!("{}: {error}", Printable(file.display()))))?;
        Ok(Named { name: path.display().to_string(), prefixes, bad_lines })
    });
    named.collect()
}

async fn import(
    client: &Client,
    path: &str,
    kind: ListKind,
    imports: Vec<Named>,
    replace: bool,
    entry: &EntryArguments,
) -> Result<ExitCode, Failed> {
    let all_read = imports.iter().all(|named| named.bad_lines == 0);
    for Named { name, prefixes, .. } in imports {
        add(client, path, kind, AddRequest { replace, ..entry.request(prefixes, Some(name)) }).await?;
    }
    Ok(if all_read { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_last_for_whole_seconds() {
        assert_eq!(parse_ttl("90m"), Ok(Duration::from_secs(5_400)));
        for (text, expected) in [
            ("500ms", "1s is the shortest"),
            ("0s", "over before it begins"),
            ("1500ms", "whole seconds"),
            ("soon", "soon"),
        ] {
            let error = parse_ttl(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
