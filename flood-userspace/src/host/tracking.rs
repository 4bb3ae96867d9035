//! Whether connection tracking lets in who brings a SYN cookie back.
//!
//! The filter answers a SYN in the driver, so the first that connection tracking sees of such a connection is an ACK. As a rule it
//! takes that for a new one. Then it gets in where a SYN gets in, unless a rule looks at the flags of TCP as well; not at all where
//! `nf_conntrack_tcp_loose` is 0. Nor does it get in where rules themselves note who sent a SYN.

use super::{nftables, setting, translation::table_of_old_iptables};

/// Whether an ACK of a connection that tracking has not seen is taken for a new one.
const LOOSE: &str = "netfilter/nf_conntrack_tcp_loose";

/// Why who brings a SYN cookie back may not get in, in words. Where it cannot be told, he may not.
pub(super) fn why_no_ack_opens() -> Option<String> {
    by_nftables().or_else(by_iptables)
}

fn by_nftables() -> Option<String> {
    let rules = match nftables::ruleset() {
        Ok(rules) => rules,
        Err(error) => return Some(format!("the rules of nftables cannot be read: {error}")),
    };
    if let Some(chain) = rules.notes_flags {
        return Some(format!("{chain} adds to a set by the flags of TCP, and a rule looks into that set"));
    }
    let state = rules.asks_state?;
    if setting(LOOSE).is_some_and(|loose| loose == "0") {
        return Some(format!("net.{} is 0, and {state} asks connection tracking", LOOSE.replace('/', ".")));
    }
    let flags = rules.asks_flags?;
    Some(format!("{flags} looks at the flags or options of TCP, and {state} asks connection tracking"))
}

/// Tables of the old iptables, which can be read only as a whole and by its own rules, where connections are tracked.
fn by_iptables() -> Option<String> {
    setting(LOOSE)?;
    let found = table_of_old_iptables(&["filter", "mangle", "raw", "security"])?;
    Some(format!("{found}: its rules cannot be read here, and may ask for the state of connections"))
}
