//! The proxy before a Redis Cluster against one standalone Redis: what a client can tell apart.
//!
//! Commands drawn by chance go to both, and the replies must be the same bytes. A failure names its
//! seed; `SLOTMESH_SEED=n` runs that one alone, `SLOTMESH_SEEDS=n` so many instead of the usual.

mod company;
mod grammar;
mod templates;

use std::env;
use std::ops::Range;

use company::Company;
use grammar::{Script, Step};
use slotmesh_testbed::wire::RawClient;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

/// Scripts of each protocol version, and how long they are.
const SEEDS: u64 = 40;
const STEPS: usize = 250;

/// What is compared with what.
struct Servers {
    cluster: RedisCluster,
    envoy: Envoy,
    standalone: RedisServer,
}

#[test]
fn resp2_clients_cannot_tell_the_proxy_from_one_redis() {
    Servers::start().compare(|servers, seed| servers.compare_script(seed, 2));
}

#[test]
fn resp3_clients_cannot_tell_the_proxy_from_one_redis() {
    Servers::start().compare(|servers, seed| servers.compare_script(seed, 3));
}

#[test]
fn clients_that_wait_for_each_other_cannot_tell_the_proxy_from_one_redis() {
    Servers::start().compare(|servers, seed| Company::new(servers, seed).first_difference());
}

impl Servers {
    fn start() -> Self {
        let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
        let mut options = EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds()));
        // What PUBLISH answers counts the clients of a worker.
        options.concurrency = 1;
        let envoy = Envoy::start(options).unwrap();
        Self { cluster, envoy, standalone: RedisServer::start(&[]).unwrap() }
    }

    fn compare(&self, first_difference: impl Fn(&Self, u64) -> Option<String>) {
        let mut differences = Vec::new();
        for seed in seeds() {
            self.forget();
            if let Some(difference) = first_difference(self, seed) {
                differences.push(format!("seed {seed}, {difference}"));
            }
        }
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }

    /// Both have no keys, scripts and functions.
    fn forget(&self) {
        for addr in [self.envoy.addr(), self.standalone.addr()] {
            let mut client = RawClient::connect(addr).unwrap();
            for words in [&["FLUSHALL"][..], &["SCRIPT", "FLUSH"], &["FUNCTION", "FLUSH"]] {
                assert_eq!(client.call(words).unwrap(), b"+OK\r\n");
            }
        }
    }

    /// Plays a script to both; one gets it all at once, the other command by command, which must
    /// make no difference.
    fn compare_script(&self, seed: u64, protocol: u8) -> Option<String> {
        let mut proxy = RawClient::connect(self.envoy.addr()).unwrap();
        let mut redis = RawClient::connect(self.standalone.addr()).unwrap();
        for client in [&mut proxy, &mut redis] {
            client.call(&["HELLO", &protocol.to_string()]).unwrap();
        }
        let mut script = Script::new(seed, protocol);
        let mut steps = script.steps(STEPS);
        steps.push(script.ending());
        let bytes: Vec<u8> = steps.iter().flat_map(|step| step.bytes.iter().copied()).collect();
        proxy.send(&bytes).unwrap();
        let mut done = Vec::new();
        for step in &steps {
            redis.send(&step.bytes).unwrap();
            for _ in 0..step.replies {
                let expected = redis.read().unwrap_or_else(|error| {
                    panic!("seed {seed}, {}: {error} after {done:?}", step.shown)
                });
                let got = proxy.read().unwrap_or_default();
                if step.comparison.differs(&got, &expected) {
                    return Some(difference(step, &got, &expected, &done));
                }
            }
            done.push(step.shown.as_str());
        }
        let ends = [proxy.read().is_err(), redis.read().is_err()];
        (ends != [true, true]).then(|| format!("ended: {ends:?} after {:?}", done.last()))
    }
}

/// Tells of a difference, for people.
fn difference(step: &Step, proxy: &[u8], redis: &[u8], before: &[&str]) -> String {
    let latest = &before[before.len().saturating_sub(8)..];
    format!(
        "command {}, {}\n  proxy: {}\n  redis: {}\n  after: {latest:?}",
        before.len(),
        step.shown,
        proxy.escape_ascii(),
        redis.escape_ascii(),
    )
}

fn seeds() -> Range<u64> {
    let number = |name| env::var(name).ok().map(|text| text.parse().unwrap());
    match number("SLOTMESH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SLOTMESH_SEEDS").unwrap_or(SEEDS),
    }
}
