//! Publish and subscribe, on a real cluster and a real Envoy.

use std::collections::BTreeMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::support::{self, Client, packages, slot};
use anyhow::Result;
use redis::{Connection, FromRedisValue, PushKind};
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer, or_skip, process,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A channel to which tests publish what only has to come some time.
const PROBE: &str = "probe";

fn start() -> (RedisCluster, Envoy) {
    start_with(ClusterOptions::default(), 2)
}

fn start_with(options: ClusterOptions, concurrency: u32) -> (RedisCluster, Envoy) {
    let cluster = RedisCluster::start(options).unwrap();
    let config = json!({
        "settings": {"op_timeout": "20s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": cluster.seeds()}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    options.concurrency = concurrency;
    (cluster, Envoy::start(options).unwrap())
}

/// What RESP2 makes of a confirmation or a message: words, and numbers that start with a colon.
fn frame(words: &[&str]) -> String {
    let element = |word: &&str| match word.starts_with(':') {
        true => format!("{word}\r\n"),
        false => format!("${}\r\n{word}\r\n", word.len()),
    };
    format!("*{}\r\n{}", words.len(), words.iter().map(element).collect::<String>())
}

fn receive(client: &mut Client) -> String {
    String::from_utf8(client.receive()).unwrap()
}

/// The next message, or any other frame, that is no probe.
fn receive_no_probe(client: &mut Client) -> String {
    loop {
        let received = receive(client);
        if !received.contains(PROBE) {
            return received;
        }
    }
}

/// The number that an integer reply is.
fn integer(reply: &[u8]) -> i64 {
    let text = std::str::from_utf8(reply).unwrap();
    let number = text.strip_prefix(':').and_then(|text| text.strip_suffix("\r\n"));
    number.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{text:?}"))
}

fn ask<T: FromRedisValue>(node: &RedisServer, words: &[&str]) -> T {
    let mut connection = node.connect().unwrap();
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection).unwrap()
}

/// Connections of the proxy that are subscribed to something at a node.
fn subscribers_at(node: &RedisServer) -> usize {
    let list: String = ask(node, &["CLIENT", "LIST", "TYPE", "pubsub"]);
    list.lines().filter(|line| !line.is_empty()).count()
}

/// The primary at which the proxy is subscribed to its clients' channels.
fn home(cluster: &RedisCluster) -> &RedisServer {
    let primaries = cluster.primaries().unwrap();
    let homes: Vec<_> = primaries.into_iter().filter(|node| subscribers_at(node) > 0).collect();
    assert_eq!(homes.len(), 1, "all workers are subscribed at the same node");
    homes[0]
}

#[test]
fn redis_py_publishes_and_subscribes() {
    run(packages::python("pubsub.py"));
}

#[test]
fn ioredis_publishes_and_subscribes() {
    run(packages::node("ioredis-pubsub.mjs"));
}

#[test]
fn node_redis_publishes_and_subscribes() {
    run(packages::node("node-redis-pubsub.mjs"));
}

fn run(client: Result<Command>) {
    let (_cluster, envoy) = start();
    let addr = envoy.addr();
    let Some(mut command) = or_skip(client) else { return };
    command.args([addr.ip().to_string(), addr.port().to_string()]);
    process::run(command, PATIENCE).unwrap();
}

#[test]
fn the_redis_crate_publishes_and_subscribes_in_resp2() {
    let (_cluster, envoy) = start();
    let client = redis::Client::open(format!("redis://{}", envoy.addr())).unwrap();
    let (mut subscriber, mut publisher) = (client.get_connection().unwrap(), connect(&envoy, ""));
    let mut pubsub = subscriber.as_pubsub();
    pubsub.set_read_timeout(Some(PATIENCE)).unwrap();
    pubsub.subscribe("channel").unwrap();
    pubsub.psubscribe("chan*").unwrap();
    for number in 0..100 {
        let receivers: i64 =
            redis::cmd("PUBLISH").arg("channel").arg(number).query(&mut publisher).unwrap();
        assert_eq!(receivers, 2);
    }
    for number in 0..100 {
        let mut patterns = Vec::new();
        for _ in 0..2 {
            let message = pubsub.get_message().unwrap();
            assert_eq!(message.get_channel_name(), "channel");
            assert_eq!(message.get_payload::<i64>().unwrap(), number);
            patterns.push(message.get_pattern::<Option<String>>().unwrap());
        }
        patterns.sort();
        assert_eq!(patterns, [None, Some("chan*".to_owned())]);
    }
    pubsub.unsubscribe("channel").unwrap();
    pubsub.punsubscribe("chan*").unwrap();
}

#[test]
fn the_redis_crate_publishes_and_subscribes_in_resp3() {
    let (_cluster, envoy) = start();
    let (mut subscriber, mut publisher) = (connect(&envoy, "?protocol=resp3"), connect(&envoy, ""));
    let (sender, pushes) = std::sync::mpsc::channel();
    subscriber.set_push_sender(sender);
    // Sends it only; what follows on the same connection is answered after the confirmation.
    subscriber.subscribe_resp3("channel").unwrap();
    let () = redis::cmd("SET").arg("key").arg("x").query(&mut subscriber).unwrap();
    for number in 0..100 {
        let receivers: i64 =
            redis::cmd("PUBLISH").arg("channel").arg(number).query(&mut publisher).unwrap();
        assert_eq!(receivers, 1);
    }
    // Other commands go on, and what was pushed meanwhile is seen with their replies.
    let mut heard = Vec::new();
    until("all messages", PATIENCE, || {
        let () = redis::cmd("SET").arg("key").arg("x").query(&mut subscriber)?;
        heard.extend(pushes.try_iter().filter(|push| push.kind == PushKind::Message));
        Ok(match heard.len() {
            100 => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} messages")),
        })
    })
    .unwrap();
    for (number, push) in heard.iter().enumerate() {
        let payload: String = redis::from_redis_value_ref(&push.data[1]).unwrap();
        assert_eq!(payload, number.to_string());
    }
}

fn connect(envoy: &Envoy, query: &str) -> Connection {
    let client = redis::Client::open(format!("redis://{}/{query}", envoy.addr())).unwrap();
    let connection = client.get_connection().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

#[test]
fn pubsub_answers_as_one_server_with_the_same_clients() {
    let (cluster, envoy) = start_with(ClusterOptions::default(), 1);
    let standalone = RedisServer::start(&[]).unwrap();
    let ask_both = |proxied: &mut Client, direct: &mut Client, words: &[&str]| {
        // In any order, as Redis answers.
        let sorted = |reply: Vec<u8>| {
            let mut lines: Vec<_> =
                reply.escape_ascii().to_string().split("\\r\\n").map(str::to_owned).collect();
            lines.sort();
            lines
        };
        let (ours, theirs) = (sorted(proxied.call(words)), sorted(direct.call(words)));
        assert_eq!(ours, theirs, "{words:?}");
    };
    let connect = || [envoy.addr(), standalone.addr()].map(Client::connect);
    let subscribed = |words: &[&str], topics: usize| {
        let mut clients = connect();
        for client in &mut clients {
            client.send(words);
            for _ in 0..topics {
                receive(client);
            }
        }
        clients
    };
    let first = subscribed(&["SUBSCRIBE", "a", "b", "hello"], 3);
    let second = subscribed(&["SUBSCRIBE", "a"], 1);
    let third = subscribed(&["PSUBSCRIBE", "a*", "b?", "*"], 3);
    let fourth = subscribed(&["PSUBSCRIBE", "a*"], 1);
    let fifth = subscribed(&["SSUBSCRIBE", "s1"], 1);
    let [mut proxied, mut direct] = connect();
    for words in [
        &["PUBSUB", "CHANNELS"][..],
        &["PUBSUB", "CHANNELS", "h[a-f]*"],
        &["pubsub", "channels", "nothing"],
        &["PUBSUB", "NUMSUB"],
        &["PUBSUB", "NUMSUB", "a", "b", "c", "a"],
        &["PUBSUB", "NUMPAT"],
        &["PUBSUB", "SHARDCHANNELS"],
        &["PUBSUB", "SHARDCHANNELS", "s*"],
        &["PUBSUB", "SHARDNUMSUB", "s1", "s2"],
        &["PUBSUB", "CHANNELS", "a", "b"],
        &["PUBSUB", "NUMPAT", "x"],
    ] {
        ask_both(&mut proxied, &mut direct, words);
    }
    // Who is subscribed at another node without the proxy is counted, too.
    let mut elsewhere = Client::connect(cluster.primaries().unwrap()[2].addr());
    elsewhere.send(&["SUBSCRIBE", "a", "only there"]);
    receive(&mut elsewhere);
    receive(&mut elsewhere);
    assert_eq!(proxied.call(&["PUBSUB", "NUMSUB", "a"]), b"*2\r\n$1\r\na\r\n:3\r\n");
    let channels = proxied.call(&["PUBSUB", "CHANNELS", "*[en]*"]);
    assert_eq!(channels, frame(&["only there", "hello"]).as_bytes());
    drop((first, second, third, fourth, fifth));
}

#[test]
fn subscribers_of_all_workers_hear_everything_in_order_over_one_connection_each() {
    const WORKERS: usize = 4;
    const SUBSCRIBERS: usize = 200;
    const MESSAGES: usize = 100;
    let (cluster, envoy) = start_with(ClusterOptions::default(), WORKERS as u32);
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS).map(|_| Client::connect(envoy.addr())).collect();
    for subscriber in &mut subscribers {
        subscriber.send(&["SUBSCRIBE", "a", "b"]);
        assert_eq!(receive(subscriber), frame(&["subscribe", "a", ":1"]));
        assert_eq!(receive(subscriber), frame(&["subscribe", "b", ":2"]));
    }
    let home = home(&cluster);
    assert!(subscribers_at(home) <= WORKERS, "more than one connection per worker");

    let mut publisher = Client::connect(envoy.addr());
    let commands: Vec<_> = (0..MESSAGES)
        .map(|number| support::command(&["PUBLISH", ["a", "b"][number % 2], &number.to_string()]))
        .collect();
    publisher.pipeline(&commands, |_, reply| {
        assert!((1..=SUBSCRIBERS as i64).contains(&integer(&reply)), "{}", reply.escape_ascii());
    });
    for subscriber in &mut subscribers {
        for number in 0..MESSAGES {
            let message = frame(&["message", ["a", "b"][number % 2], &number.to_string()]);
            assert_eq!(receive(subscriber), message);
        }
        assert!(subscriber.call(&["PING"]).starts_with(b"*2\r\n$4\r\npong\r\n"), "nothing more");
    }

    // What a client publishes that knows the cluster is heard too, from whichever node.
    for (number, node) in cluster.nodes().iter().enumerate() {
        let _: i64 = ask(node, &["PUBLISH", "a", &format!("direct {number}")]);
    }
    for subscriber in &mut subscribers {
        let mut heard: Vec<_> = cluster.nodes().iter().map(|_| receive(subscriber)).collect();
        heard.sort();
        let direct = |number| frame(&["message", "a", &format!("direct {number}")]);
        assert_eq!(heard, (0..cluster.nodes().len()).map(direct).collect::<Vec<_>>());
    }
    drop(subscribers);
    until("the proxy to unsubscribe", PATIENCE, || {
        let counts: BTreeMap<String, usize> = ask(home, &["PUBSUB", "NUMSUB", "a", "b"]);
        Ok(match counts.values().sum() {
            0 => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} subscriptions")),
        })
    })
    .unwrap();
}

#[test]
fn a_subscriber_that_does_not_read_is_closed() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mut options = EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds()));
    options.concurrency = 1;
    let (minute, second) = ("watermark_timeout: 60s", "watermark_timeout: 1s");
    assert!(options.template.contains(minute));
    options.template = options.template.replace(minute, second).into();
    let envoy = Envoy::start(options).unwrap();
    let (mut lazy, mut busy) = (Client::connect(envoy.addr()), Client::connect(envoy.addr()));
    for client in [&mut lazy, &mut busy] {
        assert_eq!(client.call(&["SUBSCRIBE", "a"]), frame(&["subscribe", "a", ":1"]).as_bytes());
    }
    let mut publisher = Client::connect(envoy.addr());
    let message = "x".repeat(256 * 1024);
    until("the one that does not read to be closed", PATIENCE, || {
        let receivers = integer(&publisher.call(&["PUBLISH", "a", &message]));
        assert_eq!(receive(&mut busy), frame(&["message", "a", &message]));
        Ok(match receivers {
            1 => Probe::Ready(()),
            _ => Probe::NotYet(format!("{receivers} receivers")),
        })
    })
    .unwrap();
}

#[test]
fn subscriptions_survive_the_death_of_their_node() {
    let options =
        ClusterOptions { node_timeout: Duration::from_millis(2000), ..ClusterOptions::default() };
    let (cluster, envoy) = start_with(options, 2);
    let mut subscribers: Vec<_> = (0..20).map(|_| Client::connect(envoy.addr())).collect();
    for subscriber in &mut subscribers {
        subscriber.send(&["SUBSCRIBE", "news", PROBE]);
        assert_eq!(receive(subscriber), frame(&["subscribe", "news", ":1"]));
        receive(subscriber);
    }
    let victim = home(&cluster);
    let workers = subscribers_at(victim);
    victim.kill();
    let mut publisher = Client::connect(envoy.addr());
    probe_all(&mut publisher, &mut subscribers);
    // After the failover the successor is where channels belong.
    until("all workers to be subscribed at the successor", PATIENCE, || {
        let successor = match cluster.owner(0) {
            Ok(successor) if successor.addr() != victim.addr() => successor,
            Ok(_) => return Ok(Probe::NotYet("no successor".to_owned())),
            Err(error) => return Ok(Probe::NotYet(format!("{error:#}"))),
        };
        Ok(match ask::<(String, usize)>(successor, &["PUBSUB", "NUMSUB", "news"]).1 {
            count if count == workers => Probe::Ready(()),
            count => Probe::NotYet(format!("{count} of {workers}")),
        })
    })
    .unwrap();
    for number in 0..100 {
        integer(&publisher.call(&["PUBLISH", "news", &number.to_string()]));
    }
    for subscriber in &mut subscribers {
        for number in 0..100 {
            let message = frame(&["message", "news", &number.to_string()]);
            assert_eq!(receive_no_probe(subscriber), message, "nothing is lost or doubled");
        }
    }
    // A new client is served as well.
    let mut late = Client::connect(envoy.addr());
    assert_eq!(late.call(&["SUBSCRIBE", "news"]), frame(&["subscribe", "news", ":1"]).as_bytes());
}

/// Publishes a last probe again and again until all subscribers, of any worker, have heard one.
fn probe_all(publisher: &mut Client, subscribers: &mut [Client]) {
    thread::scope(|scope| {
        let waiting: Vec<_> = subscribers
            .iter_mut()
            .map(|subscriber| scope.spawn(move || receive(subscriber)))
            .collect();
        until("a probe at all subscribers", PATIENCE, || {
            publisher.call(&["PUBLISH", PROBE, "x"]);
            let missing = waiting.iter().filter(|thread| !thread.is_finished()).count();
            Ok(match missing {
                0 => Probe::Ready(()),
                _ => Probe::NotYet(format!("{missing} have heard nothing")),
            })
        })
        .unwrap();
        for heard in waiting {
            assert_eq!(heard.join().unwrap(), frame(&["message", PROBE, "x"]));
        }
    });
}

#[test]
fn shard_channels_follow_their_slots_through_a_reshard() {
    let (cluster, envoy) = start();
    let primaries = cluster.primaries().unwrap();
    let [from, to] = primaries[..2] else { panic!("not two primaries") };
    let members = cluster.members().unwrap();
    let member = members.iter().find(|member| member.addr == from.addr().to_string()).unwrap();
    // redis-cli moves the first slots.
    let first = (0..16384).find(|slot| member.owns(*slot)).unwrap();
    let moved = first..first + 200;
    let names = (0..).map(|number| format!("channel:{number}"));
    let channels: Vec<_> = names.filter(|name| moved.contains(&slot(name))).take(3).collect();

    let mut subscriber = Client::connect(envoy.addr());
    for (channel, count) in channels.iter().zip(1..) {
        subscriber.send(&["SSUBSCRIBE", channel]);
        assert_eq!(receive(&mut subscriber), frame(&["ssubscribe", channel, &format!(":{count}")]));
    }
    let mut publisher = Client::connect(envoy.addr());
    for channel in &channels {
        assert_eq!(publisher.call(&["SPUBLISH", channel, "before"]), b":1\r\n");
        assert_eq!(receive(&mut subscriber), frame(&["smessage", channel, "before"]));
    }
    cluster.reshard(200, from, to).unwrap();
    for channel in &channels {
        assert_eq!(cluster.owner(slot(channel)).unwrap().addr(), to.addr(), "it has moved");
        until("a subscription at the new owner", PATIENCE, || {
            Ok(match integer(&publisher.call(&["SPUBLISH", channel, "after"])) {
                0 => Probe::NotYet("nobody hears".to_owned()),
                _ => Probe::Ready(()),
            })
        })
        .unwrap();
        assert_eq!(receive(&mut subscriber), frame(&["smessage", channel, "after"]));
    }
    let left: Vec<String> = ask(from, &["PUBSUB", "SHARDCHANNELS"]);
    assert_eq!(left, [""; 0]);
    subscriber.send(&["SUNSUBSCRIBE"]);
    for _ in &channels {
        assert!(receive(&mut subscriber).contains("sunsubscribe"));
    }
}

#[test]
fn a_subscriber_may_say_little_else_in_resp2() {
    let (_cluster, envoy) = start();
    let mut client = Client::connect(envoy.addr());
    client.call(&["SUBSCRIBE", "a"]);
    let refusal = client.call(&["GET", "a"]);
    let expected = "-ERR Can't execute 'get': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
                    RESET are allowed in this context\r\n";
    assert_eq!(refusal.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    assert_eq!(client.call(&["PING", "x"]), frame(&["pong", "x"]).as_bytes());
    assert_eq!(client.call(&["RESET"]), b"+RESET\r\n");
    assert_eq!(client.call(&["SET", "a", "x"]), b"+OK\r\n");
}
