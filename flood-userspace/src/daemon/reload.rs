//! Reading the configuration again: its lists are exchanged, and what else has changed in it is named.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    config::{Config, ConfigError, ListInput},
    control::protocol::ReloadReply,
    lists::{
        ListKind,
        configured::{Configured, ListFileError, configured},
    },
    memory,
};

use super::{
    engine::{Engine, Refused},
    feeds::FeedKeeper,
    locked,
};

/// How long the configuration and its lists may take to be read: a million entries take two seconds.
const READING: Duration = Duration::from_secs(60);

/// How long a reload waits for another to end.
const ANOTHER: Duration = Duration::from_secs(10);

/// Reads the configuration again.
pub struct Reloader {
    path: PathBuf,
    engine: Arc<Mutex<Engine>>,
    feeds: Arc<FeedKeeper>,
    /// The configuration in force, as it was written.
    written: tokio::sync::Mutex<Config>,
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Self::Bad(format!("nothing is changed: {error}{cause}"))
    }
}

impl From<ListFileError> for Refused {
    fn from(error: ListFileError) -> Self {
        Self::Bad(format!("nothing is changed: {error}"))
    }
}

impl Reloader {
    /// For the configuration at `path`, which was `written` when the daemon started.
    pub fn new(path: PathBuf, written: Config, engine: Arc<Mutex<Engine>>, feeds: Arc<FeedKeeper>) -> Self {
        Self { path, engine, feeds, written: tokio::sync::Mutex::new(written) }
    }

    /// Reads it, exchanges the lists, and has all feeds read. A configuration with a fault changes nothing, and neither
    /// does one that cannot be read in time, as from a disk that is gone.
    pub async fn reload(&self) -> Result<ReloadReply, Refused> {
        let waited = timeout(ANOTHER, self.written.lock()).await;
        let mut written = waited.map_err(|_| Refused::Conflict("another reload is under way".into()))?;
        let path = self.path.clone();
        let read = move || -> Result<_, Refused> {
            let config = Config::load(&path)?;
            let (mut edits, mut warnings) = (Vec::new(), Vec::new());
            for kind in ListKind::ALL {
                let Configured { edit, problems, .. } = configured(config.list(kind))?;
                let left_out = |problem| format!("{} list: left out: {problem}", kind.label());
                warnings.extend(problems.into_iter().map(left_out));
                edits.push((kind, edit));
            }
            Ok((config, edits, warnings))
        };
        let read = timeout(READING, tokio::task::spawn_blocking(read)).await.map_err(|_| {
            Refused::Bad(format!(
                "nothing is changed: {} and its lists could not be read within {} s",
                self.path.display(),
                READING.as_secs()
            ))
        })?;
        let (config, edits, mut warnings) = read.map_err(|error| Refused::Bad(error.to_string()))??;
        let (engine, before) = (Arc::clone(&self.engine), written.clone());
        let work = move || -> Result<(Config, ReloadReply), Refused> {
            if elsewhere(&before) != elsewhere(&config) {
                warnings.push(
                    "the configuration has changed outside of [block], [allow] and [allow_proven]; that takes effect when \
                     floodgate is started again"
                        .into(),
                );
            }
            let reply = locked(&engine).reload(&before, &config, &edits)?;
            Ok((config, ReloadReply { warnings, ..reply }))
        };
        let work = move || {
            let done = work();
            memory::give_back();
            done
        };
        let outcome = tokio::task::spawn_blocking(work).await;
        let (config, reply) = outcome.map_err(|error| Refused::Bad(error.to_string()))??;
        info!("reloaded {}", self.path.display());
        for warning in &reply.warnings {
            warn!("{warning}");
        }
        self.feeds.keep(&config, BTreeMap::new());
        *written = config;
        Ok(reply)
    }
}

/// What a reload leaves as it is.
fn elsewhere(config: &Config) -> Config {
    Config {
        block: ListInput::default(),
        allow: ListInput::default(),
        allow_proven: ListInput::default(),
        ..config.clone()
    }
}
