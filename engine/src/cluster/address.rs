//! Where a node listens.

use std::fmt;
use std::net::IpAddr;

/// Host and port of a Redis node; the host is an IP address or a DNS name.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Address {
    host: Box<str>,
    port: u16,
}

impl Address {
    /// An address, unless the host is empty or the port 0. An IPv6 host may stand in brackets.
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let valid = !host.is_empty()
            && port != 0
            && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]/@".contains(&byte));
        valid.then(|| Self { host: host.into(), port })
    }

    /// Reads `host:port`, `[v6]:port` and, as Redis writes it in redirections, `v6:port`: the
    /// last colon ends the host.
    pub fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        Self::new(host, port.parse().ok()?)
    }

    /// The IP address or DNS name, an IPv6 address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the host is a name that somebody must resolve.
    pub fn is_name(&self) -> bool {
        self.host.parse::<IpAddr>().is_err()
    }
}

/// Writes `host:port`, with an IPv6 host in brackets.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_both_ip_versions_are_read_and_written() {
        for (text, written) in [
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("redis-0.redis.svc:6379", "redis-0.redis.svc:6379"),
            ("::1:7000", "[::1]:7000"),
            ("[fe80::1]:7000", "[fe80::1]:7000"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), written);
        }
    }

    #[test]
    fn a_name_is_told_from_an_ip_address() {
        for (text, is_name) in [("redis-0:1", true), ("127.0.0.1:1", false), ("[::1]:1", false)] {
            assert_eq!(Address::parse(text).unwrap().is_name(), is_name, "{text}");
        }
    }

    #[test]
    fn half_an_address_is_none() {
        for text in ["", "host", "host:", ":7000", "host:0", "host:65536", "ho st:1", "host:+1x"] {
            assert_eq!(Address::parse(text), None, "{text}");
        }
    }
}
