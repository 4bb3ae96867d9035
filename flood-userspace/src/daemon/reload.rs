//! Reads the configuration again: replaces its lists, and names everything else that has changed.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::time::timeout;
use tracing::{info, warn};

use crate::{
    config::{Config, ConfigError},
    control::protocol::ReloadReply,
    lists::configured::{ListError, configured},
    memory,
};

use super::{
    Written,
    engine::{Engine, Refused},
    feeds::FeedKeeper,
    locked,
};

/// Maximum time for reading the configuration and its lists: a million entries take two seconds.
const READING: Duration = Duration::from_secs(60);

/// How long a reload waits for another to end.
const ANOTHER: Duration = Duration::from_secs(10);
/// Text before the keys that have changed since the start.
pub const PENDING: &str =
    "the configuration has changed since the start, and these settings take effect at the next";

/// The sections that a reload reads.
const RELOADED: [&str; 3] = ["block", "allow", "allow_proven"];

/// Reads the configuration again.
pub struct Reloader {
    path: PathBuf,
    engine: Arc<Mutex<Engine>>,
    feeds: Arc<FeedKeeper>,
    /// The settings that only take effect at a start, as the daemon started with them.
    started: Arc<Map<String, Value>>,
    /// Whether the file existed at the last look. A reload holds the lock, so that reloads run one at a time.
    found: tokio::sync::Mutex<bool>,
}

impl From<ConfigError> for Refused {
    fn from(error: ConfigError) -> Self {
        let cause = std::error::Error::source(&error).map_or(String::new(), |cause| format!(": {cause}"));
        Self::Bad(format!("nothing is changed: {error}{cause}"))
    }
}

impl From<ListError> for Refused {
    fn from(error: ListError) -> Self {
        Self::Bad(format!("nothing is changed: {error}"))
    }
}

impl Reloader {
    /// Creates a reloader for a daemon that was started with `written`.
    pub fn new(written: Written, engine: Arc<Mutex<Engine>>, feeds: Arc<FeedKeeper>) -> Self {
        let Written { path, config, found } = written;
        let started = Arc::new(restarted(&config));
        Self { path, engine, feeds, started, found: tokio::sync::Mutex::new(found) }
    }

    /// Reads the configuration, replaces the lists, and has all feeds read. A faulty configuration changes
    /// nothing, and neither does one that cannot be read in time, for example from a lost disk. If there was no
    /// file and there still is none, the defaults hold, and there are no feeds to read.
    pub async fn reload(&self, force: bool) -> Result<ReloadReply, Refused> {
        let waited = timeout(ANOTHER, self.found.lock()).await;
        let mut found = waited.map_err(|_| Refused::Conflict("another reload is under way".into()))?;
        let (was_there, path, engine) = (*found, self.path.clone(), Arc::clone(&self.engine));
        let started = Arc::clone(&self.started);
        let read = move || -> Result<_, Refused> {
            let is_there = was_there || path.exists();
            let config = if is_there { Config::load(&path)? } else { Config::default() };
            let guard = locked(&engine).list_guard().clone();
            let lists = configured(&config, &guard)?;
            let pending = changed_keys(&started, &restarted(&config));
            Ok((is_there, config, lists, pending))
        };
        let read = timeout(READING, tokio::task::spawn_blocking(read)).await.map_err(|_| {
            Refused::Bad(format!(
                "nothing is changed: {} and its lists could not be read within {} s",
                self.path.display(),
                READING.as_secs()
            ))
        })?;
        let (is_there, config, lists, pending) = read.map_err(|error| Refused::Bad(error.to_string()))??;
        let (path, engine) = (self.path.clone(), Arc::clone(&self.engine));
        let work = move || -> Result<(Config, ReloadReply), Refused> {
            let mut engine = locked(&engine);
            let mut reply = engine.reload(&config, lists, force)?;
            engine.set_pending(pending.clone());
            drop(engine);
            reply.pending = pending;
            if !is_there {
                reply.warnings.push(format!("there is no {}: the defaults hold", path.display()));
            }
            Ok((config, reply))
        };
        let work = move || {
            let done = work();
            memory::give_back();
            done
        };
        let outcome = tokio::task::spawn_blocking(work).await;
        let (config, reply) = outcome.map_err(|error| Refused::Bad(error.to_string()))??;
        *found = is_there;
        info!("reloaded {}", self.path.display());
        for line in changes(&reply) {
            info!("{line}");
        }
        for warning in &reply.warnings {
            warn!("{warning}");
        }
        if !reply.pending.is_empty() {
            warn!("{PENDING}: {}", reply.pending.join(", "));
        }
        self.feeds.keep(&config, BTreeMap::new());
        Ok(reply)
    }
}

/// Returns what a reload has changed, one line for each list and feed.
fn changes(reply: &ReloadReply) -> Vec<String> {
    let lists = [("allow", &reply.allow), ("block", &reply.block), ("allow-proven", &reply.allow_proven)];
    let lists = lists.iter().map(|(list, changed)| (list, changed.named()));
    let lists = lists.filter(|(_, changed)| changed != "unchanged");
    lists
        .map(|(list, changed)| format!("{list} list: {changed}"))
        .chain(reply.feeds.iter().cloned())
        .collect()
}

/// Returns the settings of a configuration that a reload does not put into force.
fn restarted(config: &Config) -> Map<String, Value> {
    let Ok(Value::Object(mut sections)) = serde_json::to_value(config) else { return Map::new() };
    sections.retain(|section, _| !RELOADED.contains(&section.as_str()));
    sections
}

/// Returns the keys whose values differ between two configurations.
fn changed_keys(before: &Map<String, Value>, after: &Map<String, Value>) -> Vec<String> {
    let mut keys = Vec::new();
    for (section, now) in after {
        let was = before.get(section).unwrap_or(&Value::Null);
        if was == now {
            continue;
        }
        // Use the names in the file.
        let section = match section.as_str() {
            "limits" => "limit",
            "protected_limits" => "limit.protected",
            section => section,
        };
        match (was, now) {
            (Value::Object(was), Value::Object(now)) => {
                let names = was.keys().chain(now.keys().filter(|key| !was.contains_key(*key)));
                let changed = names.filter(|key| was.get(*key) != now.get(*key));
                keys.extend(changed.map(|key| format!("{section}.{key}")));
            }
            _ => keys.push(section.to_owned()),
        }
    }
    keys.sort_unstable();
    keys
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn what_waits_for_a_start_is_named_as_in_the_file() {
        let parse = |text| restarted(&Config::parse(text, Path::new("")).unwrap());
        let cases: [(&str, &[&str]); 8] = [
            ("", &[]),
            ("[block]\nentries = [\"192.0.2.1\"]\n[[allow.feed]]\nname = \"a\"\npath = \"a\"", &[]),
            ("mode = \"monitor\"", &["mode"]),
            ("[limit.source.syn]\npackets = \"1k/s\"", &["limit.source.syn"]),
            ("[limit.total]\nbits = \"1Gbit/s\"", &["limit.total"]),
            ("[limit.protected]\nlink = \"50/s\"", &["limit.protected.link"]),
            ("[sanity]\nland = false", &["sanity.land"]),
            (
                "interfaces = [\"eth1\"]\n[proof]\nsyn = \"off\"\n[sources]\ntable = 65536",
                &["interfaces", "proof.syn", "sources.table"],
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(changed_keys(&parse(""), &parse(text)), expected, "{text}");
            assert_eq!(changed_keys(&parse(text), &parse("")), expected, "{text}, back");
        }
    }
}
