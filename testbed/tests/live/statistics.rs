//! What an operator sees in the real Envoy of what the module counts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::proxy::start;
use crate::support::{Client, command};
use slotmesh_testbed::wait::{Probe, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// The value of a metric of the module's.
fn value(stats: &BTreeMap<String, u64>, name: &str) -> Option<u64> {
    stats.get(&format!("wasmcustom.redis.redis.{name}")).copied()
}

/// Fails unless every line is a comment or a sample: `name{label="value",...} number`.
fn check_exposition(text: &str) {
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ")) {
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = name.split_once('{').unwrap_or_else(|| panic!("{line}"));
        assert!(labels.ends_with('}'), "{line}");
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
        assert!(!name.is_empty() && name.bytes().all(valid), "{line}");
        assert!(!name.as_bytes()[0].is_ascii_digit(), "{line}");
    }
}

#[test]
fn known_traffic_is_counted_exactly_over_all_workers() {
    let (_cluster, envoy) = start();
    let mut clients: Vec<Client> = (0..8).map(|_| Client::connect(envoy.addr())).collect();
    for client in &mut clients {
        assert_eq!(client.call(&["SET", "a", "1"]), b"+OK\r\n");
        let gets = vec![command(&["GET", "a"]); 500];
        client.pipeline(&gets, |_, reply| assert_eq!(reply, b"$1\r\n1\r\n"));
        assert_eq!(client.call(&["MGET", "a", "b", "c"]), b"*3\r\n$1\r\n1\r\n$-1\r\n$-1\r\n");
        assert!(client.call(&["LPOP", "a"]).starts_with(b"-WRONGTYPE"));
        assert!(client.call(&["GET"]).starts_with(b"-ERR"));
    }
    clients.truncate(5);

    // Workers report on their own, and metric by metric: what is read may be half of a report.
    let expected = [
        ("downstream_cx_active", 5),
        ("splitter.invalid_request", 8),
        ("command.get.total", 4000),
        ("command.get.success", 4000),
        ("command.set.success", 8),
        ("command.mget.total", 8),
        ("command.lpop.total", 8),
        ("command.lpop.error", 8),
        ("downstream_cx_total", 8),
        ("downstream_rq_total", 8 * 504),
    ];
    let differing = |stats: &BTreeMap<String, u64>| -> Vec<String> {
        let differs = |(name, expected): &(&str, u64)| value(stats, name) != Some(*expected);
        let text = |(name, _): &(&str, u64)| format!("{name} is {:?}", value(stats, name));
        expected.iter().filter(|metric| differs(metric)).map(text).collect()
    };
    until("all to be counted", PATIENCE, || {
        let differing = differing(&envoy.stats()?);
        Ok(match differing.is_empty() {
            true => Probe::Ready(()),
            false => Probe::NotYet(differing.join(", ")),
        })
    })
    .unwrap();
    // And not once more by a report that comes later.
    let stats = envoy.stats().unwrap();
    assert_eq!(differing(&stats), [""; 0]);
    assert_eq!(value(&stats, "command.get.error"), None, "what never happened is not listed");
    let nodes = stats.keys().filter(|name| name.contains(".redis.node.127.0.0.1_")).count();
    assert!(nodes >= 3, "{stats:?}");

    let text = envoy.prometheus().unwrap();
    check_exposition(&text);
    assert!(text.contains("\nredis_redis_command_get_total{} 4000\n"), "{text}");
    // Envoy merges the workers' histograms every five seconds.
    until("the latencies", PATIENCE, || {
        let text = envoy.prometheus()?;
        let count = text.lines().find(|l| l.starts_with("redis_redis_command_get_latency_count"));
        Ok(match count.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok()) {
            Some(32..) => Probe::Ready(()),
            _ => Probe::NotYet(format!("{count:?}")),
        })
    })
    .unwrap();
}
