//! Whether connection tracking lets in who brings a SYN cookie back.
//!
//! The filter answers a SYN in the driver, so the first that connection tracking sees of such a connection is an ACK. As a rule it
//! takes that for a new one. Then it gets in where a SYN gets in, unless a rule looks at the flags of TCP as well; not at all where
//! `nf_conntrack_tcp_loose` is 0.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    sync::{Mutex, PoisonError},
};

use super::{nftables, setting};

/// Whether an ACK of a connection that tracking has not seen is taken for a new one.
const LOOSE: &str = "netfilter/nf_conntrack_tcp_loose";

/// The rules that were read last. With many rules that takes a while, and they hardly ever change.
static READ: Mutex<Option<Read>> = Mutex::new(None);

/// Rules as they were read.
struct Read {
    /// The inode of the network namespace, and the state of its rules.
    of: (u64, u32),
    rules: Option<Rules>,
}

/// What the rules ask for.
#[derive(Clone, Debug)]
struct Rules {
    /// A chain in which is asked what connection tracking says.
    state: String,
    /// A chain in which the flags of TCP are looked at, if there is one.
    flags: Option<String>,
}

/// Why who brings a SYN cookie back may not get in, in words. Where it cannot be told, he may not.
pub(super) fn why_no_ack_opens() -> Option<String> {
    by_nftables().or_else(by_iptables)
}

fn by_nftables() -> Option<String> {
    let rules = match rules() {
        Ok(rules) => rules?,
        Err(error) => return Some(format!("the rules of nftables cannot be read: {error}")),
    };
    if setting(LOOSE).is_some_and(|loose| loose == "0") {
        return Some(format!(
            "net.{} is 0, and {} asks for the state of connections",
            LOOSE.replace('/', "."),
            rules.state
        ));
    }
    let flags = rules.flags?;
    Some(format!("{flags} looks at the flags of TCP, and {} asks for the state of connections", rules.state))
}

/// Tables of the old iptables, which can be read only as a whole and by its own rules, where connections are tracked.
fn by_iptables() -> Option<String> {
    setting(LOOSE)?;
    ["ip_tables_names", "ip6_tables_names"].into_iter().find_map(|file| {
        let names = fs::read_to_string(format!("/proc/thread-self/net/{file}")).ok()?;
        let table = names.lines().find(|name| ["filter", "mangle", "raw"].contains(name))?;
        Some(format!(
            "the old iptables has rules in table {table} ({file}), which may ask for the state of connections"
        ))
    })
}

/// What the rules of this network namespace ask for; `None` where they do not ask for the state of connections.
fn rules() -> std::io::Result<Option<Rules>> {
    let Some(generation) = nftables::generation()? else { return Ok(None) };
    let key = (fs::metadata("/proc/thread-self/ns/net")?.ino(), generation);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(read) = &*read
        && read.of == key
    {
        return Ok(read.rules.clone());
    }
    let all = nftables::rules()?;
    let mut elsewhere = nftables::chains()?;
    elsewhere.retain(nftables::Chain::is_elsewhere);
    let is_elsewhere = |rule: &nftables::Rule| elsewhere.iter().any(|chain| chain.has(rule));
    let about_ip = || all.iter().filter(|rule| rule.is_of_ip() && !is_elsewhere(rule));
    let name = |rule: &nftables::Rule| format!("chain {} of table {}", rule.chain, rule.table);
    let flags = about_ip().find(|rule| rule.asks_flags).map(name);
    let state = about_ip().find(|rule| rule.asks_state).map(name);
    let rules = state.map(|state| Rules { state, flags });
    *read = Some(Read { of: key, rules: rules.clone() });
    Ok(rules)
}
