//! What is refused unless the operator says `--force`: entries that are most likely a slip of the finger, and
//! one that would cut off the very session it is typed in.
//!
//! The guard is for what people type. It knows nothing of the lists: an allow entry may well make a refused
//! block harmless, and then `--force` is the right answer.

use std::fs;
use std::net::IpAddr;

use ipnet::IpNet;
use thiserror::Error;

/// The broadest IPv4 prefix: /8 is the most that was ever given to one holder.
const BROADEST_IPV4: u8 = 8;

/// The broadest IPv6 prefix: regional registries hold /12 to /23, their members longer ones; broader is a
/// typing error.
const BROADEST_IPV6: u8 = 16;

/// How far up [`login_address`] looks. A shell below tmux below sudo below sshd is ten deep.
const MAX_ANCESTORS: usize = 32;

/// An entry that is not made without `--force`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The prefix holds more addresses than anyone means.
    #[error(
        "{prefix} is refused, it covers more than a /{broadest}: check its length, or repeat with --force"
    )]
    TooBroad {
        /// The entry.
        prefix: IpNet,
        /// The broadest prefix length that is taken without question.
        broadest: u8,
    },
    /// The block would end the operator's own session.
    #[error(
        "{prefix} is refused, it contains {address}, from which you are logged in: \
         put that on the allow list first, and then repeat with --force"
    )]
    CutsOffLogin {
        /// The entry.
        prefix: IpNet,
        /// Where the operator is.
        address: IpAddr,
    },
}

/// May this prefix go on the block list? `logged_in_from` is where the operator is, if known:
/// [`login_address`].
pub fn check_block(prefix: IpNet, logged_in_from: Option<IpAddr>) -> Result<(), Refusal> {
    check_breadth(prefix)?;
    match logged_in_from.map(|address| address.to_canonical()) {
        Some(address) if prefix.contains(&address) => Err(Refusal::CutsOffLogin { prefix, address }),
        _ => Ok(()),
    }
}

/// May this prefix go on the allow list? What is there bypasses the filter, so breadth matters here too.
pub fn check_allow(prefix: IpNet) -> Result<(), Refusal> {
    check_breadth(prefix)
}

fn check_breadth(prefix: IpNet) -> Result<(), Refusal> {
    let broadest = match prefix {
        IpNet::V4(_) => BROADEST_IPV4,
        IpNet::V6(_) => BROADEST_IPV6,
    };
    if prefix.prefix_len() < broadest { Err(Refusal::TooBroad { prefix, broadest }) } else { Ok(()) }
}

/// The address from which the operator is logged in over SSH, or `None` when that is not known.
///
/// sshd leaves it in the environment of the session, but `sudo` clears the environment, so that of the
/// ancestors is read as well. The nearest one wins: below tmux or screen it is where the pane was opened
/// from.
pub fn login_address() -> Option<IpAddr> {
    let mut pid = std::process::id();
    for _ in 0..MAX_ANCESTORS {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if let Some(address) = login_in(&environment) {
            return Some(address);
        }
        pid = parent_in(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)?;
    }
    None
}

/// The client's address in the environment of a process (`NAME=value`, each with a NUL behind it). sshd
/// writes `SSH_CONNECTION=client port server port` and, for older programs, `SSH_CLIENT=client port port`
/// (sshd(8)).
fn login_in(environment: &[u8]) -> Option<IpAddr> {
    ["SSH_CONNECTION=", "SSH_CLIENT="].iter().find_map(|name| {
        let value =
            environment.split(|&b| b == 0).find_map(|variable| variable.strip_prefix(name.as_bytes()))?;
        let client = std::str::from_utf8(value).ok()?.split_ascii_whitespace().next()?;
        // A link-local address comes with its interface: fe80::1%eth0.
        let address: IpAddr = client.split('%').next()?.parse().ok()?;
        Some(address.to_canonical())
    })
}

/// The parent in the text of `/proc/PID/status`; `None` for process 1, whose parent is 0.
fn parent_in(status: &str) -> Option<u32> {
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    parent.trim().parse().ok().filter(|&pid| pid != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the operator of these tests sits (RFC 5737, TEST-NET-2).
    const OPERATOR: &str = "198.51.100.7";

    #[test]
    fn a_block_is_refused_when_too_broad_or_around_the_operator() {
        let cases = [
            ("a network elsewhere", "203.0.113.0/24", None),
            ("everything", "0.0.0.0/0", Some("more than a /8")),
            ("half of a slip", "203.0.0.0/7", Some("more than a /8")),
            ("as broad as can be meant", "10.0.0.0/8", None),
            ("all of IPv6", "::/0", Some("more than a /16")),
            ("broad IPv6", "2001::/15", Some("more than a /16")),
            ("as broad as can be meant", "2001::/16", None),
            ("the operator's network", "198.51.100.0/24", Some("you are logged in")),
            ("the operator", "198.51.100.7/32", Some("you are logged in")),
            ("the operator's neighbour", "198.51.100.8/32", None),
        ];
        for (why, prefix, expected) in cases {
            let result = check_block(prefix.parse().unwrap(), OPERATOR.parse().ok());
            match (result, expected) {
                (Ok(()), None) => {}
                (Err(refusal), Some(expected)) => {
                    let text = refusal.to_string();
                    assert!(text.contains(expected) && text.contains("--force"), "{why}: {text}");
                }
                (result, _) => panic!("{why}: {result:?}"),
            }
        }
    }

    #[test]
    fn an_operator_who_comes_over_a_dual_stack_socket_is_an_ipv4_address() {
        let mapped = "::ffff:198.51.100.7".parse().ok();
        assert!(check_block("198.51.100.0/24".parse().unwrap(), mapped).is_err());
    }

    #[test]
    fn an_unknown_login_refuses_nothing() {
        assert_eq!(check_block("198.51.100.0/24".parse().unwrap(), None), Ok(()));
    }

    #[test]
    fn allowing_the_operator_is_fine_and_allowing_everyone_is_not() {
        assert_eq!(check_allow("198.51.100.7/32".parse().unwrap()), Ok(()));
        assert!(check_allow("0.0.0.0/0".parse().unwrap()).is_err());
    }

    #[test]
    fn the_login_is_found_in_an_environment() {
        let cases: [(&str, &[u8], Option<&str>); 7] = [
            ("sshd", b"A=b\0SSH_CONNECTION=198.51.100.7 50000 192.0.2.1 22\0", Some(OPERATOR)),
            ("old", b"SSH_CLIENT=198.51.100.7 50000 22\0", Some(OPERATOR)),
            ("mapped", b"SSH_CONNECTION=::ffff:198.51.100.7 1 ::1 22\0", Some(OPERATOR)),
            ("link-local", b"SSH_CONNECTION=fe80::1%eth0 50000 fe80::2%eth0 22\0", Some("fe80::1")),
            ("not over SSH", b"HOME=/root\0", None),
            ("another variable", b"OLD_SSH_CONNECTION=198.51.100.7 1\0", None),
            ("nonsense", b"SSH_CONNECTION=\xff\0SSH_CLIENT=\0", None),
        ];
        for (why, environment, expected) in cases {
            assert_eq!(login_in(environment), expected.and_then(|text| text.parse().ok()), "{why}");
        }
    }

    #[test]
    fn the_first_process_has_no_parent() {
        assert_eq!(parent_in("Name:\tbash\nPPid:\t42\n"), Some(42));
        assert_eq!(parent_in("Name:\tinit\nPPid:\t0\n"), None);
        assert_eq!(parent_in(""), None);
    }
}
