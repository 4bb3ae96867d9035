//! Whether connection tracking admits a client that returns a valid SYN cookie.
//!
//! The filter answers a SYN in the driver, so the first packet of such a connection that connection tracking sees is
//! an ACK. As a rule it takes that for a new connection. Then the ACK is accepted where a SYN is, unless a rule
//! matches the flags of TCP as well; it is never accepted if `nf_conntrack_tcp_loose` is 0. Nor is it accepted where
//! the rules themselves record which sources sent a SYN.

use super::{nftables, setting, translation::table_of_old_iptables};

/// Whether an ACK of an untracked connection is taken for a new one.
const LOOSE: &str = "netfilter/nf_conntrack_tcp_loose";

/// Describes why a client that returns a valid SYN cookie may not be admitted. If it cannot be determined, it may
/// not.
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

/// Tables of legacy iptables on hosts that track connections. They can be read only as a whole and in its own format.
fn by_iptables() -> Option<String> {
    setting(LOOSE)?;
    let found = table_of_old_iptables(&["filter", "mangle", "raw", "security"])?;
    Some(format!("{found}: its rules cannot be read here, and may ask for the state of connections"))
}
