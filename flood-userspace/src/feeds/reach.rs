//! Restricts where a web server may redirect us.
//!
//! The operator chooses the server, which may be inside the network. That server must not choose another one there:
//! the loopback address and the networks around this host give it answers that they would not give to strangers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use hyper::Uri;
use ureq::{
    config::Config,
    unversioned::{
        resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver},
        transport::NextTimeout,
    },
};

use crate::config::FeedUrl;

/// An internal address to which a server has redirected us.
#[derive(Debug)]
pub(super) struct Inside(pub(super) IpAddr);

impl fmt::Display for Inside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is inside", self.0)
    }
}

impl std::error::Error for Inside {}

/// Resolves names, and refuses internal addresses unless they are those of the configured server.
#[derive(Debug)]
pub(super) struct Reach {
    lookup: DefaultResolver,
    host: Option<String>,
    port: Option<u16>,
}

impl From<&FeedUrl> for Reach {
    fn from(url: &FeedUrl) -> Self {
        let uri: Option<Uri> = url.as_str().parse().ok();
        Self {
            lookup: DefaultResolver::default(),
            host: uri.as_ref().and_then(Uri::host).map(str::to_ascii_lowercase),
            port: uri.as_ref().and_then(port),
        }
    }
}

impl Reach {
    /// Whether a URI is on the configured server, perhaps with TLS now.
    fn is_configured(&self, uri: &Uri) -> bool {
        let is_same_host = uri.host().map(str::to_ascii_lowercase) == self.host;
        is_same_host && (port(uri) == self.port || (self.port, port(uri)) == (Some(80), Some(443)))
    }
}

impl Resolver for Reach {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.lookup.resolve(uri, config, timeout)?;
        if !self.is_configured(uri)
            && let Some(inside) = found.iter().map(std::net::SocketAddr::ip).find(|ip| is_inside(*ip))
        {
            return Err(ureq::Error::Other(Box::new(Inside(inside))));
        }
        Ok(found)
    }
}

fn port(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}

/// Whether an address is not a public one of the Internet: the registries of special addresses (RFC 6890), and
/// addresses that the kernel or a translator maps to such.
fn is_inside(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_inside_v4(v4),
        IpAddr::V6(v6) => {
            let [first, second, .., high, low] = v6.segments();
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            let embedded = Ipv4Addr::new(a, b, c, d);
            match (first, second) {
                // ::/96 (the unspecified, the loopback, and deprecated addresses), 64:ff9b::/96 and its local sibling
                // (RFC 6052, 8215), 6to4 (RFC 3056).
                (0, _) => v6.segments()[..6] == [0; 6],
                (0x64, 0xff9b) => v6.segments()[2] != 0 || is_inside_v4(embedded),
                (0x2002, _) => {
                    is_inside_v4(Ipv4Addr::from(u32::from(second) << 16 | u32::from(v6.segments()[2])))
                }
                _ => is_inside_v6(v6),
            }
        }
    }
}

fn is_inside_v4(v4: Ipv4Addr) -> bool {
    let [first, second, ..] = v4.octets();
    v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || first == 0
        || first >= 224
        || (first == 100 && second & 0xc0 == 64)
}

fn is_inside_v6(v6: Ipv6Addr) -> bool {
    v6.is_unique_local()
        || v6.is_unicast_link_local()
        || v6.is_multicast()
        || v6.segments()[0] & 0xffc0 == 0xfec0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_inside_are_known_however_they_are_written() {
        let inside = [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:c0a8:101::1",
            "fe80::1",
            "fec0::1",
            "fc00::1",
            "ff02::1",
        ];
        for address in inside {
            assert!(is_inside(address.parse().unwrap()), "{address}");
        }
        for address in ["192.0.2.1", "100.128.0.1", "2001:db8::1", "64:ff9b::c000:201", "2002:c000:201::1"] {
            assert!(!is_inside(address.parse().unwrap()), "{address}");
        }
    }

    #[test]
    fn the_server_that_was_configured_may_be_inside() {
        let cases = [
            ("http://10.0.0.1/a", "http://10.0.0.1/b", true),
            ("http://Lists.example/a", "http://lists.EXAMPLE:80/b", true),
            ("http://lists.example/a", "https://lists.example/b", true),
            ("http://lists.example/a", "http://lists.example:8080/b", false),
            ("http://10.0.0.1/a", "http://10.0.0.2/a", false),
            ("http://10.0.0.1:8080/a", "https://10.0.0.1/a", false),
        ];
        for (configured, asked, expected) in cases {
            let reach = Reach::from(&configured.parse::<FeedUrl>().unwrap());
            assert_eq!(reach.is_configured(&asked.parse().unwrap()), expected, "{configured} {asked}");
        }
    }
}
