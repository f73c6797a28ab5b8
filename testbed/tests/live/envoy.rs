//! The whole way: plain clients, stock Envoy with the module, a real Redis Cluster.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::proxy::start;
use crate::support::{Client, Exchange, StopOnDrop, Workload, command, exchange, slot};
use anyhow::{Context, Result};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::walkthrough::{RedisCli, sharding};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn redis_cli_walks_through_sharding() {
    let (cluster, envoy) = start();
    let proxy = RedisCli::on_port(envoy.addr().port());
    let nodes: Vec<RedisCli> =
        cluster.nodes().iter().map(|node| RedisCli::on_port(node.addr().port())).collect();
    sharding(&proxy, &nodes, &mut std::io::sink()).unwrap();
}

#[test]
fn twenty_clients_pipeline_thousands_of_mixed_commands_over_all_shards() {
    let (cluster, envoy) = start();
    thread::scope(|scope| {
        for number in 0..20 {
            let addr = envoy.addr();
            scope.spawn(move || {
                let mut workload = Workload::new(number);
                let exchanges: Vec<Exchange> = (0..30).flat_map(|_| workload.round()).collect();
                assert!(exchanges.len() > 3000, "{}", exchanges.len());
                exchange(&mut Client::connect(addr), &exchanges);
            });
        }
    });
    for primary in cluster.primaries().unwrap() {
        let count: u64 = redis::cmd("DBSIZE").query(&mut primary.connect().unwrap()).unwrap();
        assert!(count > 500, "{} holds {count} keys", primary.addr());
    }
}

/// Each pipeline uses every key several times, so most replies (INCRBY, APPEND, RPUSH, GET) show
/// whether the commands before them were executed before them. No command has two keys in one slot:
/// the next test has.
#[test]
fn a_live_reshard_is_not_seen_by_clients() {
    let (cluster, envoy) = start();
    let primaries = cluster.primaries().unwrap();
    let [here, _, there] = primaries[..] else { panic!("not three primaries") };
    let (stop, pipelines) = (AtomicBool::new(false), AtomicUsize::new(0));
    let owned = |node: SocketAddr| -> HashSet<u16> {
        let members = cluster.members().unwrap();
        let member = members.iter().find(|member| member.addr == node.to_string()).unwrap();
        member.slots.iter().cloned().flatten().collect()
    };
    let before = owned(here.addr());
    let mut moved = HashSet::new();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..4 {
            let (addr, stop, pipelines) = (envoy.addr(), &stop, &pipelines);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut client = Client::connect(addr);
                let mut workload = Workload::of_lone_keys(number);
                let mut next = || (0..4).flat_map(|_| workload.round()).collect::<Vec<Exchange>>();
                while !stop.load(Ordering::Relaxed) {
                    exchange(&mut client, &next());
                    pipelines.fetch_add(1, Ordering::Relaxed);
                }
                // What is there in the end is what was written.
                exchange(&mut client, &next());
            });
        }
        // All clients have written everywhere before the first slot moves.
        until("traffic before the reshard", PATIENCE, || {
            let done = pipelines.load(Ordering::Relaxed);
            Ok(if done >= 40 || stop.load(Ordering::Relaxed) {
                Probe::Ready(())
            } else {
                Probe::NotYet(format!("{done} pipelines"))
            })
        })
        .unwrap();
        for _ in 0..2 {
            cluster.reshard(1500, here, there).unwrap();
            moved = &before - &owned(here.addr());
            assert_eq!(moved.len(), 1500);
            // redis-cli takes the first slots of the source, which are the same ones.
            cluster.reshard(1500, there, here).unwrap();
            assert_eq!(owned(here.addr()), before);
        }
    });
    let keys = (0..4).flat_map(|number| Workload::of_lone_keys(number).keys().collect::<Vec<_>>());
    let moved_keys = keys.filter(|key| moved.contains(&slot(key))).count();
    assert!(moved_keys > 50, "only {moved_keys} keys of the traffic were in slots that moved");
}

/// While one key of a command has moved to the slot's next owner and the other has not, no node
/// serves the command: Redis says TRYAGAIN. A command that nothing follows is tried again; one that
/// the next has overtaken must not be.
#[test]
fn a_command_on_two_keys_waits_while_they_move_but_is_not_overtaken() {
    let (cluster, envoy) = start();
    let primaries = cluster.primaries().unwrap();
    let [from, to, _] = primaries[..] else { panic!("not three primaries") };
    let tell = |node: &RedisServer, words: &[&str]| {
        let reply = node.cli(words).unwrap();
        assert_eq!(reply.trim_end(), "OK", "{words:?}");
    };
    // The first shard has the slots from 0 on.
    let tag = (0..).map(|n| format!("{{{n}}}")).find(|tag| slot(tag) < 5000).unwrap();
    let number = &slot(&tag).to_string();
    let [first, second] = ["first", "second"].map(|key| format!("{tag}{key}"));
    let [from_id, to_id] = [from, to].map(|node| node.cli(&["CLUSTER", "MYID"]).unwrap());
    let move_key = |key: &str| {
        let (host, port) = (to.addr().ip().to_string(), to.addr().port().to_string());
        tell(from, &["MIGRATE", &host, &port, key, "0", "5000"]);
    };

    let mut client = Client::connect(envoy.addr());
    assert_eq!(client.call(&["MSET", &first, "1", &second, "1"]), b"+OK\r\n");
    tell(to, &["CLUSTER", "SETSLOT", number, "IMPORTING", from_id.trim_end()]);
    tell(from, &["CLUSTER", "SETSLOT", number, "MIGRATING", to_id.trim_end()]);
    move_key(&first);

    let pipeline = [command(&["DEL", &first, &second]), command(&["SET", &second, "2"])];
    let mut replies = Vec::new();
    client.pipeline(&pipeline, |_, reply| replies.push(reply));
    let [del, set] = &replies[..] else { panic!("{replies:?}") };
    assert!(del.starts_with(b"-TRYAGAIN "), "{}", del.escape_ascii());
    assert_eq!(set, b"+OK\r\n");

    let refused = || -> Result<String> {
        let errors = from.cli(&["INFO", "errorstats"])?;
        let count = errors.split_once("errorstat_TRYAGAIN:count=").context("never refused")?.1;
        Ok(count.lines().next().unwrap_or_default().to_owned())
    };
    let before = refused().unwrap();
    thread::scope(|scope| {
        let (first, second) = (&first, &second);
        scope.spawn(move || {
            let values = client.call(&["MGET", first, second]);
            assert_eq!(values, b"*2\r\n$1\r\n1\r\n$1\r\n2\r\n", "{}", values.escape_ascii());
        });
        until("MGET to be refused", PATIENCE, || {
            let now = refused()?;
            Ok(match now == before {
                true => Probe::NotYet(now),
                false => Probe::Ready(()),
            })
        })
        .unwrap();
        move_key(second);
        for node in [to, from] {
            tell(node, &["CLUSTER", "SETSLOT", number, "NODE", to_id.trim_end()]);
        }
    });
}

/// What a key may hold: one value, or more while a write to it got an error.
#[derive(Default)]
struct Possible(HashMap<String, HashSet<String>>);

impl Possible {
    fn wrote(&mut self, key: &str, value: &str, reply: &[u8]) {
        let values = self.0.entry(key.to_owned()).or_insert_with(|| HashSet::from([String::new()]));
        if reply == b"+OK\r\n" {
            values.clear();
        }
        values.insert(value.to_owned());
    }

    /// Whether `key` may hold `value`, which is then all that it holds; no value is the empty one.
    fn read(&mut self, key: &str, value: String) -> bool {
        let values = self.0.entry(key.to_owned()).or_insert_with(|| HashSet::from([String::new()]));
        if !values.contains(&value) {
            return false;
        }
        *values = HashSet::from([value]);
        true
    }
}

/// Errors are for commands on the restarted node's keys only; each has a code word, and each reply
/// has its place. No acknowledged write is lost and no failed one comes back later.
#[test]
fn a_restarted_node_disturbs_its_own_keys_only_and_loses_nothing() {
    let (cluster, envoy) = start();
    let victim = cluster.primaries().unwrap()[1];
    let victim_slots: HashSet<u16> = cluster
        .members()
        .unwrap()
        .iter()
        .find(|member| member.addr == victim.addr().to_string())
        .map(|member| member.slots.iter().cloned().flatten().collect())
        .unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..8 {
            let (addr, stop, victim_slots) = (envoy.addr(), &stop, &victim_slots);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut client = Client::connect(addr);
                let mut possible = Possible::default();
                let mut round = 0;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    write_and_read(&mut client, number, round, &mut possible, victim_slots);
                }
                // It has been back for long: no error is left.
                let errors =
                    write_and_read(&mut client, number, round + 1, &mut possible, victim_slots);
                assert_eq!(errors, 0, "errors after the restarted node was ready");
            });
        }
        victim.restart().unwrap();
        cluster.wait_until_ready().unwrap();
        wait_until_writable(envoy.addr(), &victim_slots);
    });
}

/// Writes 100 keys and reads them back in one pipeline each; returns how many commands got an
/// error.
fn write_and_read(
    client: &mut Client,
    number: usize,
    round: usize,
    possible: &mut Possible,
    may_fail: &HashSet<u16>,
) -> usize {
    let keys: Vec<String> = (0..100).map(|index| format!("client:{number}:{index}")).collect();
    let value = format!("round {round}");
    let mut errors = 0;
    let mut is_error = |key: &str, reply: &[u8]| {
        let Some(text) = reply.strip_prefix(b"-") else { return false };
        let shown = text.escape_ascii().to_string();
        assert!(may_fail.contains(&slot(key)), "{key} is elsewhere, yet: {shown}");
        let code = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        assert!(code.iter().all(u8::is_ascii_uppercase), "an error without a code word: {shown}");
        errors += 1;
        true
    };

    let writes: Vec<Vec<u8>> = keys.iter().map(|key| command(&["SET", key, &value])).collect();
    client.pipeline(&writes, |index, reply| {
        let key = &keys[index];
        assert!(reply == b"+OK\r\n" || is_error(key, &reply), "SET: {}", reply.escape_ascii());
        possible.wrote(key, &value, &reply);
    });
    let reads: Vec<Vec<u8>> = keys.iter().map(|key| command(&["GET", key])).collect();
    client.pipeline(&reads, |index, reply| {
        let key = &keys[index];
        if is_error(key, &reply) {
            return;
        }
        let text = String::from_utf8(reply).unwrap();
        let value = text.lines().nth(1).unwrap_or_default().to_owned();
        assert!(possible.read(key, value), "GET {key}: {text:?}");
    });
    errors
}

fn wait_until_writable(proxy: SocketAddr, slots: &HashSet<u16>) {
    let key = (0..).map(|n| format!("probe:{n}")).find(|key| slots.contains(&slot(key))).unwrap();
    let mut client = Client::connect(proxy);
    until("writes to the restarted node", PATIENCE, || {
        let reply = client.call(&["SET", &key, "1"]);
        Ok(match reply == b"+OK\r\n" {
            true => Probe::Ready(()),
            false => Probe::NotYet(reply.escape_ascii().to_string()),
        })
    })
    .unwrap();
}

#[test]
fn clients_are_told_while_no_seed_is_reachable_and_served_once_one_is() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    for node in cluster.nodes() {
        node.kill();
    }
    let config = PluginConfig::from_seeds(&cluster.seeds());
    let envoy = Envoy::start(EnvoyOptions::new(config)).unwrap();
    let mut client = Client::connect(envoy.addr());
    let begin = std::time::Instant::now();
    let reply = client.call(&["SET", "a", "a"]);
    assert!(reply.starts_with(b"-CLUSTERDOWN "), "{}", reply.escape_ascii());
    // op_timeout is 5 s; the rest is for a busy machine.
    assert!(begin.elapsed() < Duration::from_secs(8), "{:?}", begin.elapsed());

    for node in cluster.nodes() {
        node.restart().unwrap();
    }
    cluster.wait_until_ready().unwrap();
    until("the proxy to recover", PATIENCE, || {
        let reply = client.call(&["SET", "a", "a"]);
        Ok(match reply == b"+OK\r\n" {
            true => Probe::Ready(()),
            false => Probe::NotYet(reply.escape_ascii().to_string()),
        })
    })
    .unwrap();
}

#[test]
fn a_configuration_error_names_its_field_and_leaves_no_listener() {
    let config = r#"{"settings": {"op_timeout": "5s", "op_timeuot": "5s"}}"#;
    let error = Envoy::start(EnvoyOptions::new(PluginConfig::from_text(config))).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("the module says") && text.contains("op_timeuot"), "{text}");
}
