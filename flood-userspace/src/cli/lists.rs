//! `block`, `allow` and `allow-proven`.

use std::{net::IpAddr, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;
use ipnet::IpNet;

use crate::{
    control::{
        client::Client,
        protocol::{AddReply, AddRequest, ListReply, RemoveReply, RemoveRequest},
    },
    file::read_given,
    lists::{
        ListKind,
        configured::problems,
        guard::login_address,
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
    /// Removes entries, written as they were added.
    Del {
        /// As 203.0.113.0/24.
        #[arg(required = true, value_name = "PREFIX")]
        targets: Vec<String>,
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
    /// Adds what files list: an address, prefix or range per line, with comments behind `#` or `;`.
    ///
    /// A line that cannot be read is reported, and the others are taken. `-` is standard input.
    Import {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Take nothing when a line cannot be read.
        #[arg(long)]
        strict: bool,
        /// Remove what a file of this name brought in before and no longer lists, in the same moment.
        #[arg(long)]
        replace: bool,
        #[command(flatten)]
        entry: EntryArguments,
    },
}

/// What is said about entries.
#[derive(Args)]
pub(super) struct EntryArguments {
    /// How long they last, as 10m, 36h or 7d [default: until the daemon ends]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Why they are there.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Add them although they cover more than a /8 (/16 in IPv6), or the address you are logged in from.
    #[arg(long)]
    force: bool,
}

/// Does it.
pub(super) async fn run(client: &Client, kind: ListKind, verb: Verb) -> Result<ExitCode, Failed> {
    let path = format!("/v1/lists/{}", kind.label());
    match verb {
        Verb::Add { targets, entry } => {
            let prefixes = parse_all(&targets)?;
            add(client, &path, kind, entry.request(prefixes, None)).await?;
        }
        Verb::Del { targets } => return del(client, &path, kind, parse_all(&targets)?).await,
        Verb::List(Json { json }) => print::<ListReply>(client, &path, json, show::list).await?,
        Verb::Test { address, json: Json { json } } => {
            let list: ListReply = client.get(&format!("{path}?covering={address}")).await?;
            let none = list.entries.is_empty();
            match (json, none) {
                (true, _) => say_json(&list)?,
                (false, true) => say(&format!("{address} is not on the {} list", kind.label()))?,
                (false, false) => say(&show::list(&list))?,
            }
            return Ok(if none { ExitCode::from(NO) } else { ExitCode::SUCCESS });
        }
        Verb::Import { files, strict, replace, entry } => {
            let imports = read(&files, strict)?;
            return import(client, &path, kind, imports, replace, &entry).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_all(targets: &[String]) -> Result<Vec<IpNet>, Failed> {
    let mut prefixes = Vec::new();
    for target in targets {
        prefixes.extend(parse_target(target).map_err(|error| Failed::usage(error.to_string()))?);
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
    say(&changes(kind, &reply))
}

/// What was changed in a list.
pub(super) fn changes(kind: ListKind, reply: &AddReply) -> String {
    let AddReply { added, replaced, removed } = *reply;
    let mut text = format!("{} list: {added} added", kind.label());
    for (count, what) in [(replaced, "replaced"), (removed, "removed")] {
        if count > 0 {
            text += &format!(", {count} {what}");
        }
    }
    text
}

async fn del(client: &Client, path: &str, kind: ListKind, prefixes: Vec<IpNet>) -> Result<ExitCode, Failed> {
    let request = RemoveRequest { prefixes };
    let RemoveReply { removed, missing, still_covered_by, in_feeds } =
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
    Ok(if missing.is_empty() && in_feeds.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

/// Reads files, and reports the lines that cannot be read.
fn read(files: &[PathBuf], strict: bool) -> Result<Vec<(&PathBuf, Import)>, Failed> {
    let mut imports = Vec::new();
    for file in files {
        let imported = read_given(file, MAX_FILE_BYTES)
            .map(|bytes| import::parse(&bytes))
            .map_err(|error| Failed::usage(format!("{}: {error}", Printable(file.display()))))?;
        for problem in problems(file, &imported) {
            complain(&problem);
        }
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

async fn import(
    client: &Client,
    path: &str,
    kind: ListKind,
    imports: Vec<(&PathBuf, Import)>,
    replace: bool,
    entry: &EntryArguments,
) -> Result<ExitCode, Failed> {
    let all_read = bad_lines(&imports) == 0;
    for (file, imported) in imports {
        let request = entry.request(imported.prefixes, Some(file.display().to_string()));
        add(client, path, kind, AddRequest { replace, ..request }).await?;
    }
    Ok(if all_read { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}
