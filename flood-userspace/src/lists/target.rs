//! What a list entry names: one address, a prefix, or a range `first-last`.
//!
//! A prefix with host bits set is accepted and means the whole prefix, as in nft; its length may be an IPv4
//! netmask. A range becomes the fewest prefixes that cover it exactly. IPv4-mapped IPv6 (`::ffff:192.0.2.1`) is
//! treated as IPv4, because its packets travel as IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Subnets, ipv4_mask_to_prefix};
use thiserror::Error;

/// A prefix shorter than this must be written with its first address, or it is rejected.
const SHORTEST_OF_ANY_IPV4: u8 = 8;
const SHORTEST_OF_ANY_IPV6: u8 = 16;

/// The bits of an IPv4-mapped IPv6 address before the IPv4 address (RFC 4291, 2.5.5.2).
const MAPPED_BITS: u8 = 96;

/// Text that names no address, prefix or range.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TargetError {
    /// Neither an address nor a prefix.
    #[error("{0:?} is not an address, prefix or range: write 192.0.2.7, 192.0.2.0/24 or 192.0.2.1-192.0.2.9")]
    NotAnAddress(String),
    /// The address is valid, but the length after the slash is not.
    #[error("{written:?}: the length of a prefix of {address} is a number from 0 to {longest}")]
    PrefixLength {
        /// What was written.
        written: String,
        /// The part before the slash.
        address: IpAddr,
        /// The longest prefix of this address family.
        longest: u8,
    },
    /// A short prefix with an address other than its first: more likely, a digit of its length is missing.
    #[error(
        "{written}: a prefix shorter than /{shortest} whose address is not its first may lack a digit of its length: write \
         {prefix} if that is meant"
    )]
    Cut {
        /// What was written.
        written: String,
        /// Shorter prefixes must be written with their first address.
        shortest: u8,
        /// The prefix as parsed.
        prefix: IpNet,
    },
    /// The prefix holds IPv4-mapped addresses and others: no packet comes from any of them.
    #[error(
        "{prefix}: no packet comes from these addresses. A prefix of IPv4-mapped ones, as ::ffff:192.0.2.0/120, has a length \
         from {MAPPED_BITS} to 128"
    )]
    HalfMapped {
        /// The prefix.
        prefix: IpNet,
    },
    /// An IPv4-compatible address (RFC 4291, 2.5.5.1), from which no packet comes either.
    #[error("{prefix}: no packet comes from an IPv4-compatible address; write {ipv4}")]
    Compatible {
        /// The prefix.
        prefix: IpNet,
        /// The probable intent.
        ipv4: Ipv4Net,
    },
    /// The first address of a range is above its last.
    #[error("the range {first}-{last} runs backwards: write the lower address first")]
    Backwards {
        /// The address written first.
        first: IpAddr,
        /// The address written last.
        last: IpAddr,
    },
    /// The two ends of a range differ in address family.
    #[error("the range {first}-{last} mixes IPv4 and IPv6: write one range for each")]
    MixedFamilies {
        /// The address written first.
        first: IpAddr,
        /// The address written last.
        last: IpAddr,
    },
}

/// Parses one address, prefix or range. The result is never empty, and has more than one item only for a range.
pub fn parse_target(text: &str) -> Result<Vec<IpNet>, TargetError> {
    let text = text.trim();
    match text.split_once('-') {
        Some((first, last)) => subnets(parse_address(first.trim())?, parse_address(last.trim())?),
        None => parse_prefix(text).map(|prefix| vec![prefix]),
    }
}

/// Parses an address.
pub(super) fn parse_address(text: &str) -> Result<IpAddr, TargetError> {
    let address: IpAddr = text.parse().map_err(|_| TargetError::NotAnAddress(text.to_owned()))?;
    Ok(canonical(address.into())?.addr())
}

fn parse_prefix(text: &str) -> Result<IpNet, TargetError> {
    let Some((address, length)) = text.split_once('/') else {
        return parse_address(text).map(IpNet::from);
    };
    let address: IpAddr = address.parse().map_err(|_| TargetError::NotAnAddress(text.to_owned()))?;
    let mask = parse_address(length).ok().and_then(|mask| netmask_length(address, mask));
    if let Some(prefix) = mask.and_then(|length| IpNet::new(address, length).ok()) {
        return whole(prefix, text);
    }
    // Only digits: the standard parser would also accept "+8".
    let length = length.bytes().all(|b| b.is_ascii_digit()).then(|| length.parse().ok()).flatten();
    let prefix = length.and_then(|length| IpNet::new(address, length).ok());
    let prefix = prefix.ok_or_else(|| TargetError::PrefixLength {
        written: text.to_owned(),
        address,
        longest: IpNet::from(address).max_prefix_len(),
    })?;
    whole(prefix, text)
}

/// Returns the prefix, unless its length looks as if a digit were missing.
fn whole(prefix: IpNet, written: &str) -> Result<IpNet, TargetError> {
    let shortest = if matches!(prefix, IpNet::V4(_)) { SHORTEST_OF_ANY_IPV4 } else { SHORTEST_OF_ANY_IPV6 };
    if prefix.prefix_len() < shortest && prefix.addr() != prefix.network() {
        return Err(TargetError::Cut { written: written.to_owned(), shortest, prefix: prefix.trunc() });
    }
    canonical(prefix)
}

/// Returns the prefix as packets carry it: host bits cleared, and as IPv4 if its addresses are IPv4-mapped.
pub fn canonical(prefix: IpNet) -> Result<IpNet, TargetError> {
    let IpNet::V6(v6) = prefix else { return Ok(prefix.trunc()) };
    let mapped = v6.addr().to_ipv4_mapped();
    let length = v6.prefix_len().checked_sub(MAPPED_BITS);
    match (mapped, length) {
        (Some(address), Some(length)) => Ok(Ipv4Net::new(address, length).map_or(prefix, IpNet::V4).trunc()),
        (Some(_), None) if v6.prefix_len() > 0 => Err(TargetError::HalfMapped { prefix }),
        (None, Some(length)) if is_compatible(v6.addr()) => match Ipv4Net::new(embedded(v6.addr()), length) {
            Ok(ipv4) => Err(TargetError::Compatible { prefix, ipv4: ipv4.trunc() }),
            Err(_) => Ok(prefix.trunc()),
        },
        _ => Ok(prefix.trunc()),
    }
}

/// Returns whether an address is an IPv4 address preceded by zeros only; ::1 and the like do not count.
fn is_compatible(address: Ipv6Addr) -> bool {
    let bits = address.to_bits();
    bits >> 32 == 0 && bits >> 16 != 0
}

/// Returns the prefix length of an IPv4 netmask. `None` for anything that is no netmask, and for a mask of length
/// zero: in wildcard notation that means a single address.
pub(super) fn netmask_length(address: IpAddr, mask: IpAddr) -> Option<u8> {
    let (IpAddr::V4(address), IpAddr::V4(mask)) = (address, mask) else { return None };
    let length = ipv4_mask_to_prefix(mask).ok()?;
    (length > 0 || address.is_unspecified()).then_some(length)
}

/// Returns the IPv4 address in the last 32 bits.
fn embedded(address: Ipv6Addr) -> Ipv4Addr {
    Ipv4Addr::from_bits(address.to_bits() as u32)
}

/// Returns the fewest prefixes that cover exactly the addresses from `first` to `last`.
pub(super) fn subnets(first: IpAddr, last: IpAddr) -> Result<Vec<IpNet>, TargetError> {
    if first > last && first.is_ipv4() == last.is_ipv4() {
        return Err(TargetError::Backwards { first, last });
    }
    match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            Ok(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            Ok(Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect())
        }
        _ => Err(TargetError::MixedFamilies { first, last }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_operand_is_an_address_a_prefix_or_a_range() {
        let cases: [(&str, &str, &[&str]); 16] = [
            ("address", "192.0.2.7", &["192.0.2.7/32"]),
            ("IPv6 address", "2001:db8::7", &["2001:db8::7/128"]),
            ("prefix", "198.51.100.0/24", &["198.51.100.0/24"]),
            ("host bits set", "198.51.100.7/24", &["198.51.100.0/24"]),
            ("net mask", "198.51.100.7/255.255.255.0", &["198.51.100.0/24"]),
            ("net mask of one address", "198.51.100.7/255.255.255.255", &["198.51.100.7/32"]),
            ("mapped address", "::ffff:192.0.2.7", &["192.0.2.7/32"]),
            ("mapped prefix", "::ffff:192.0.2.7/120", &["192.0.2.0/24"]),
            ("all mapped addresses", "::ffff:0:0/96", &["0.0.0.0/0"]),
            ("short, and written with its first address", "44.0.0.0/7", &["44.0.0.0/7"]),
            ("range that is a prefix", "192.0.2.0-192.0.2.255", &["192.0.2.0/24"]),
            ("range with spaces", "192.0.2.1 - 192.0.2.4", &["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/32"]),
            ("IPv6 range", "2001:db8::-2001:db8::2", &["2001:db8::/127", "2001:db8::2/128"]),
            ("behind NAT64, where visitors come from", "64:ff9b::192.0.2.7", &["64:ff9b::c000:207/128"]),
            ("loopback", "::1", &["::1/128"]),
            ("range of one", "192.0.2.7-192.0.2.7", &["192.0.2.7/32"]),
        ];
        for (why, input, expected) in cases {
            let prefixes: Vec<_> = parse_target(input).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(prefixes, expected, "{why}");
        }
    }

    #[test]
    fn what_is_no_operand_is_refused_with_a_reason() {
        let cases = [
            ("nothing", "", "is not an address"),
            ("host name", "example.net", "is not an address"),
            ("octal or decimal, nobody knows", "192.0.2.010", "is not an address"),
            ("short form", "10/8", "is not an address"),
            ("length too long", "192.0.2.0/33", "from 0 to 32"),
            ("IPv6 length too long", "2001:db8::/129", "from 0 to 128"),
            ("signed length", "192.0.2.0/+8", "from 0 to 32"),
            ("no length", "192.0.2.0/", "from 0 to 32"),
            ("net mask with a hole", "192.0.2.0/255.0.255.0", "from 0 to 32"),
            ("wildcard", "192.0.2.0/0.0.0.255", "from 0 to 32"),
            ("wildcard of one address, or a net mask", "192.0.2.7/0.0.0.0", "from 0 to 32"),
            ("net mask of IPv6", "2001:db8::/ffff::", "from 0 to 128"),
            ("backwards", "192.0.2.9-192.0.2.1", "runs backwards"),
            ("two families", "192.0.2.9-2001:db8::1", "mixes IPv4 and IPv6"),
            ("two families, falling", "2001:db8::1-192.0.2.9", "mixes IPv4 and IPv6"),
            ("range without an end", "192.0.2.1-", "is not an address"),
            ("wider than the mapped addresses", "::ffff:192.0.2.7/95", "from 96 to 128"),
            ("a network of mapped addresses, as of IPv6", "::ffff:192.0.2.7/64", "from 96 to 128"),
            ("IPv4-compatible", "::192.0.2.7", "write 192.0.2.7/32"),
            ("a network of such", "::192.0.2.7/120", "write 192.0.2.0/24"),
            ("range of prefixes", "192.0.2.0/25-192.0.2.255", "is not an address"),
        ];
        for (why, input, expected) in cases {
            let error = parse_target(input).unwrap_err().to_string();
            assert!(error.contains(expected), "{why}: {error}");
        }
    }

    #[test]
    fn a_range_up_to_the_last_address_ends() {
        let prefixes = parse_target("0.0.0.0-255.255.255.255").unwrap();
        assert_eq!(prefixes, ["0.0.0.0/0".parse().unwrap()]);
        let prefixes = parse_target("::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff").unwrap();
        assert_eq!(prefixes, ["::/0".parse().unwrap()]);
    }

    proptest! {
        #[test]
        fn a_range_becomes_adjacent_prefixes_that_cannot_be_merged(a: u32, b: u32) {
            let (first, last) = (a.min(b), a.max(b));
            let text = format!("{}-{}", Ipv4Addr::from(first), Ipv4Addr::from(last));
            let prefixes = parse_target(&text).unwrap();

            let mut next = Some(IpAddr::V4(first.into()));
            for prefix in &prefixes {
                prop_assert_eq!(Some(prefix.network()), next);
                let IpAddr::V4(end) = prefix.broadcast() else { unreachable!() };
                next = u32::from(end).checked_add(1).map(|next| IpAddr::V4(next.into()));
            }
            prop_assert_eq!(next, last.checked_add(1).map(|next| IpAddr::V4(next.into())));
            prop_assert_eq!(IpNet::aggregate(&prefixes).len(), prefixes.len());
        }

        #[test]
        fn every_prefix_reads_back_as_itself(address: u128, length in 0_u8..=128) {
            let prefix = IpNet::new(Ipv6Addr::from(address).into(), length).unwrap().trunc();
            prop_assert_eq!(parse_target(&prefix.to_string()), canonical(prefix).map(|prefix| vec![prefix]));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-f.:/ -]{0,60}|.{0,60}") {
            let _ = parse_target(&text);
        }
    }
}
