//! `block` and `allow`.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, Subcommand};
use hyper::Method;
use ipnet::IpNet;

use crate::{
    control::{
        client::Client,
        protocol::{AddReply, AddRequest, ListReply, RemoveReply, RemoveRequest},
    },
    lists::{ListKind, configured::problems, guard::login_address, import, parse_target},
    quantity::parse_duration,
};

use super::{
    Json,
    exit::{Failed, NO},
    print, say, show,
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
    /// Adds what files list: an address, prefix or range per line, with comments behind `#` or `;`.
    ///
    /// A line that cannot be read is reported, and the others are taken.
    Import {
        /// The files.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Take nothing when a line cannot be read.
        #[arg(long)]
        strict: bool,
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
        Verb::Del { targets } => return del(client, &path, parse_all(&targets)?).await,
        Verb::List(Json { json }) => print::<ListReply>(client, &path, json, show::list).await?,
        Verb::Import { files, strict, entry } => {
            return import(client, &path, kind, &files, strict, &entry).await;
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
            force: self.force,
            logged_in_from: login_address(),
        }
    }
}

async fn add(client: &Client, path: &str, kind: ListKind, request: AddRequest) -> Result<(), Failed> {
    let AddReply { added, replaced } = client.send(Method::POST, path, &request).await?;
    let replaced = if replaced > 0 { format!(", {replaced} replaced") } else { String::new() };
    say(&format!("{} list: {added} added{replaced}", kind.label()))
}

async fn del(client: &Client, path: &str, prefixes: Vec<IpNet>) -> Result<ExitCode, Failed> {
    let request = RemoveRequest { prefixes };
    let RemoveReply { removed, missing, still_covered_by } =
        client.send(Method::DELETE, path, &request).await?;
    say(&format!("{removed} removed"))?;
    for prefix in &missing {
        eprintln!("floodgate: {prefix} is not an entry of the list");
    }
    for prefix in &still_covered_by {
        eprintln!("floodgate: still covered by {prefix}");
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}

async fn import(
    client: &Client,
    path: &str,
    kind: ListKind,
    files: &[PathBuf],
    strict: bool,
    entry: &EntryArguments,
) -> Result<ExitCode, Failed> {
    let mut imports = Vec::new();
    let mut bad_lines = 0;
    for file in files {
        let imported =
            import::load(file).map_err(|error| Failed::usage(format!("{}: {error}", file.display())))?;
        for problem in problems(file, &imported) {
            eprintln!("floodgate: {problem}");
        }
        bad_lines += imported.bad_lines;
        imports.push((file, imported));
    }
    if strict && bad_lines > 0 {
        return Err(Failed::usage(format!(
            "nothing is imported, for {bad_lines} lines cannot be read (--strict)"
        )));
    }
    for (file, imported) in imports {
        let request = entry.request(imported.prefixes, Some(file.display().to_string()));
        add(client, path, kind, request).await?;
    }
    Ok(if bad_lines == 0 { ExitCode::SUCCESS } else { ExitCode::from(NO) })
}
