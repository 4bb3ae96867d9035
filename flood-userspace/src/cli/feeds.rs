//! `feed`.

use std::process::ExitCode;

use clap::Subcommand;
use hyper::Method;

use crate::control::{
    client::Client,
    protocol::{Feeds, RefreshRequest},
};

use super::{
    Json,
    exit::{Failed, NO},
    print, say, show,
};

/// What to do with feeds.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Shows the feeds: entries, age, and what is wrong with them.
    List(Json),
    /// Reads feeds now, and waits for it; ends with 1 if one fails.
    Refresh {
        /// Their names [default: all]
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Believe a feed even if it lists nothing, or less than a tenth of what it had.
        #[arg(long)]
        force: bool,
    },
}

/// Does it.
pub(super) async fn run(client: &Client, verb: Verb) -> Result<ExitCode, Failed> {
    match verb {
        Verb::List(Json { json }) => print::<Feeds>(client, "/v1/feeds", json, show::feeds).await?,
        Verb::Refresh { names, force } => {
            let request = RefreshRequest { names, force };
            let feeds: Feeds = client.send_and_wait(Method::POST, "/v1/feeds/refresh", &request).await?;
            say(&show::feeds(&feeds))?;
            if feeds.feeds.iter().any(|feed| feed.error.is_some()) {
                return Ok(ExitCode::from(NO));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
