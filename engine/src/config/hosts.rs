//! Which hosts, and which nodes there, the configuration means.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use crate::cluster::Address;

/// Which hosts are meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum HostPattern {
    /// This host, as the topology names it.
    Exact(String),
    /// All names that end in a dot and this.
    Below(String),
    /// IP addresses of this network.
    Network(IpNet),
}

/// Nodes that may be dialled: hosts, each with its ports.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AllowedNodes(pub Vec<(HostPattern, RangeInclusive<u16>)>);

impl HostPattern {
    /// Reads a host name, one behind `*.`, an IP address or a network such as `10.0.0.0/8`. An IP
    /// address is a network of one, so that it may be spelt in any way.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(network) = text.parse::<IpNet>() {
            return Some(Self::Network(network));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Network(address.into()));
        }
        let (is_domain, name) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(is_name) {
            return None;
        }
        let name = name.to_owned();
        Some(if is_domain { Self::Below(name) } else { Self::Exact(name) })
    }

    /// Whether `host` is meant.
    pub fn matches(&self, host: &str) -> bool {
        let name = host.strip_suffix('.').unwrap_or(host);
        let address = host.parse::<IpAddr>();
        match self {
            Self::Below(_) if address.is_ok() => false,
            Self::Exact(only) => only.eq_ignore_ascii_case(name),
            Self::Below(domain) => {
                let labels = name.len().checked_sub(domain.len()).filter(|labels| *labels > 1);
                let end = labels.and_then(|labels| name.split_at_checked(labels));
                end.is_some_and(|(labels, end)| {
                    labels.ends_with('.') && end.eq_ignore_ascii_case(domain)
                })
            }
            // An IPv4 address may come in the clothes of IPv6.
            Self::Network(network) => {
                address.is_ok_and(|address| network.contains(&address.to_canonical()))
            }
        }
    }
}

impl AllowedNodes {
    /// Whether the node at `address` is among them.
    pub fn contains(&self, address: &Address) -> bool {
        self.0
            .iter()
            .any(|(host, ports)| ports.contains(&address.port()) && host.matches(address.host()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, host: &str) -> bool {
        HostPattern::parse(pattern).unwrap().matches(host)
    }

    #[test]
    fn hosts_are_meant_by_name_by_domain_or_by_network() {
        for (pattern, host, expected) in [
            ("redis-0", "Redis-0", true),
            ("redis-0", "redis-00", false),
            ("redis-0.a", "redis-0.a.", true),
            ("*.redis.a", "redis-0.Redis.a", true),
            ("*.redis.a", "x.redis-0.redis.a.", true),
            ("*.redis.a", "redis.a", false),
            ("*.redis.a", ".redis.a", false),
            ("*.redis.a", "evilredis.a", false),
            ("*.redis.a", "redis.a.evil", false),
            ("*.7", "10.0.0.7", false),
            ("10.1.0.0/16", "10.1.255.3", true),
            ("10.1.0.0/16", "10.2.0.1", false),
            ("10.1.0.0/16", "::ffff:10.1.2.3", true),
            ("10.1.0.0/16", "10.1.0.1.evil", false),
            ("0.0.0.0/0", "10.2.0.1", true),
            ("0.0.0.0/0", "::1", false),
            ("10.1.2.3", "10.1.2.3", true),
            ("10.1.2.3", "10.1.2.2", false),
            ("fd00::/8", "fd12::1", true),
            ("fd00::/8", "fe80::1", false),
            ("fd00::1", "fd00:0:0::1", true),
            ("::/0", "fe80::1", true),
            ("10.0.0.0/8", "redis-0", false),
        ] {
            assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn what_means_no_host_is_none() {
        for text in
            ["", "*", "*.", "*.*.a", "a.*", ".a", "10.0.0.0/33", "a/8", "a:1", "[::1]", "a b"]
        {
            assert_eq!(HostPattern::parse(text), None, "{text}");
        }
    }
}
