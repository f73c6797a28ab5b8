//! The proxy before a Redis Cluster against one standalone Redis: what a client can tell apart.
//!
//! Commands drawn by chance go to both, and the replies must be the same bytes. A failure names its
//! seed; `SLOTMESH_SEED=n` runs that one alone, `SLOTMESH_SEEDS=n` so many instead of the usual.

mod grammar;

use std::env;
use std::ops::Range;

use grammar::{Script, Step};
use slotmesh_testbed::wire::{RawClient, command};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

/// Scripts of each protocol version, and how long they are.
const SEEDS: u64 = 40;
const STEPS: usize = 250;

#[test]
fn resp2_clients_cannot_tell_the_proxy_from_one_redis() {
    compare(2);
}

#[test]
fn resp3_clients_cannot_tell_the_proxy_from_one_redis() {
    compare(3);
}

fn compare(protocol: u8) {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds())));
    let envoy = envoy.unwrap();
    let standalone = RedisServer::start(&[]).unwrap();
    let mut differences = Vec::new();
    for seed in seeds() {
        cluster.flush().unwrap();
        standalone.cli(&["FLUSHALL"]).unwrap();
        let mut proxy = RawClient::connect(envoy.addr()).unwrap();
        let mut redis = RawClient::connect(standalone.addr()).unwrap();
        for client in [&mut proxy, &mut redis] {
            client.call(&["HELLO", &protocol.to_string()]).unwrap();
        }
        let steps: Vec<Step> = Script::new(seed).take(STEPS).collect();
        if let Some(difference) = first_difference(&mut proxy, &mut redis, &steps) {
            differences.push(format!("RESP{protocol}, seed {seed}, {difference}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Plays a script to both; one gets it all at once, the other command by command, which must make no
/// difference.
fn first_difference(
    proxy: &mut RawClient,
    redis: &mut RawClient,
    steps: &[Step],
) -> Option<String> {
    let bytes: Vec<u8> = steps.iter().flat_map(|step| command(&step.words)).collect();
    proxy.send(&bytes).unwrap();
    for (number, step) in steps.iter().enumerate() {
        let expected = redis.call(&step.words).unwrap();
        let Ok(got) = proxy.read() else {
            return Some(format!("command {number}, {:?}: no reply", step.words));
        };
        if step.comparison.normalize(&got) != step.comparison.normalize(&expected) {
            let before = &steps[number.saturating_sub(8)..number];
            let before: Vec<_> = before.iter().map(|step| step.words.join(" ")).collect();
            return Some(format!(
                "command {number}, {:?}\n  proxy: {}\n  redis: {}\n  after: {before:?}",
                step.words,
                got.escape_ascii(),
                expected.escape_ascii(),
            ));
        }
    }
    None
}

fn seeds() -> Range<u64> {
    let number = |name| env::var(name).ok().map(|text| text.parse().unwrap());
    match number("SLOTMESH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLOTMESH_SEEDS").unwrap_or(SEEDS),
    }
}
