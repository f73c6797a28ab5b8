//! Client-side caching, on a real cluster and a real Envoy.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::support::{Client, packages};
use redis::Connection;
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer, or_skip, process,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// With one worker, to which all clients belong, so that each may redirect to any other.
fn start() -> (RedisCluster, Envoy) {
    let options =
        ClusterOptions { node_timeout: Duration::from_millis(2000), ..ClusterOptions::default() };
    let cluster = RedisCluster::start(options).unwrap();
    let config = json!({
        "settings": {"op_timeout": "20s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": cluster.seeds(), "cluster_refresh_rate": "1s"}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    options.concurrency = 1;
    (cluster, Envoy::start(options).unwrap())
}

/// The same client twice: of the proxy and of a standalone server.
struct Twins {
    proxied: Client,
    direct: Client,
    ids: [String; 2],
}

impl Twins {
    fn connect(envoy: &Envoy, standalone: &RedisServer) -> Self {
        let mut clients = [envoy.addr(), standalone.addr()].map(Client::connect);
        let ids = clients.each_mut().map(|client| {
            let id = String::from_utf8(client.call(&["CLIENT", "ID"])).unwrap();
            id.trim_matches([':', '\r', '\n']).to_owned()
        });
        let [proxied, direct] = clients;
        Self { proxied, direct, ids }
    }

    /// Sends both what may name another client's id as `ID`, and expects the same reply, but for
    /// that. Returns it.
    fn ask(&mut self, words: &str, other: &[String; 2]) -> String {
        let [ours, theirs] =
            [(&mut self.proxied, &other[0]), (&mut self.direct, &other[1])].map(|(client, id)| {
                let words: Vec<_> = words.split(' ').collect();
                let words: Vec<_> =
                    words.iter().map(|word| if *word == "ID" { &id[..] } else { word }).collect();
                client.send(&words);
                printable(&client.receive()).replace(&format!(":{id}\r\n"), ":ID\r\n")
            });
        assert_eq!(ours, theirs, "{words}");
        ours
    }

    fn say(&mut self, words: &str) {
        let words: Vec<_> = words.split(' ').collect();
        for client in [&mut self.proxied, &mut self.direct] {
            client.send(&words);
            client.receive();
        }
    }

    /// What both have heard beside replies: the same, in the same order.
    fn heard(&mut self, after: &str) -> Vec<String> {
        self.direct.send(&["PING"]);
        let mut theirs = Vec::new();
        loop {
            let frame = printable(&self.direct.receive());
            if frame.contains("PONG") || frame.contains("pong") {
                break;
            }
            theirs.push(frame);
        }
        eprintln!("{after}: {theirs:?}");
        // What comes from several connections may take its time.
        let ours: Vec<_> = theirs.iter().map(|_| printable(&self.proxied.receive())).collect();
        assert_eq!(ours, theirs, "{after}");
        let end = printable(&self.proxied.call(&["PING"]));
        assert!(end.to_uppercase().contains("PONG"), "{after}: more than {theirs:?}: {end}");
        theirs
    }
}

fn printable(frame: &[u8]) -> String {
    String::from_utf8_lossy(frame).into_owned()
}

#[test]
fn a_caching_client_hears_what_it_would_hear_from_one_server() {
    let (_cluster, envoy) = start();
    let standalone = RedisServer::start(&[]).unwrap();
    let connect = || Twins::connect(&envoy, &standalone);
    let (mut reader, mut writer, none) = (connect(), connect(), [String::new(), String::new()]);
    reader.say("HELLO 3");
    let (mut told, mut in_multi) = (0, false);
    for words in [
        "r CLIENT TRACKINGINFO",
        "r CLIENT GETREDIR",
        "r CLIENT CACHING YES",
        "r CLIENT TRACKING ON PREFIX a",
        "r CLIENT TRACKING ON OPTIN OPTOUT",
        "r CLIENT TRACKING ON BCAST OPTIN",
        "r CLIENT TRACKING ON REDIRECT 1000000000",
        "r CLIENT TRACKING SOMETIMES",
        "r CLIENT TRACKING ON",
        "r CLIENT TRACKINGINFO",
        "r CLIENT GETREDIR",
        "r CLIENT TRACKING ON BCAST",
        "r CLIENT CACHING NO",
        "r GET a",
        "r MGET b c d e f",
        "r EXISTS h",
        "r HGETALL h",
        "r GET n",
        "w SET a 1",
        "w SET a 2",
        "w DEL b",
        "w SET b 1",
        "w SET c 1",
        "w HSET h f v",
        "w EXPIRE n 100",
        "w SETNX d 1",
        "r LRANGE l 0 -1",
        "w RPUSH l x y",
        "r EVAL return(redis.call('get',KEYS[1])) 1 s",
        "w SET s 1",
        "r GET g",
        "r SET g own",
        "r GET x{1}",
        "r MULTI",
        "r GET y{1}",
        "r GET x{1}",
        "r EXEC",
        "w SET y{1} 1",
        "w SET x{1} 1",
        "r CLIENT TRACKING OFF",
        "w SET f 1",
        "r GET f",
        "w SET f 2",
        "r CLIENT TRACKING ON NOLOOP",
        "r CLIENT TRACKINGINFO",
        "r GET own",
        "r SET own 1",
        "r GET own",
        "w SET own 2",
        "r CLIENT TRACKING OFF",
        "r CLIENT TRACKING ON OPTIN",
        "r GET o1",
        "r CLIENT CACHING YES",
        "r CLIENT TRACKINGINFO",
        "r MGET o2 o3",
        "r CLIENT TRACKINGINFO",
        "r GET o4",
        "w SET o1 1",
        "w SET o2 1",
        "w SET o3 1",
        "w SET o4 1",
        "r CLIENT TRACKING ON OPTOUT",
        "r CLIENT CACHING NO",
        "r CLIENT TRACKING OFF",
        "r CLIENT TRACKING ON OPTOUT",
        "r CLIENT CACHING NO",
        "r CLIENT TRACKINGINFO",
        "r GET p1",
        "r GET p2",
        "w SET p1 1",
        "w SET p2 1",
        "r CLIENT TRACKING OFF",
        "r CLIENT TRACKING ON BCAST PREFIX foo PREFIX foobar",
        "r CLIENT TRACKING ON BCAST PREFIX foo PREFIX bar NOLOOP",
        "r CLIENT TRACKINGINFO",
        "w SET foo1 1",
        "w SET bar1 1",
        "w SET other 1",
        "r SET foo2 1",
        "r CLIENT TRACKING ON BCAST PREFIX fo",
        "r CLIENT TRACKING ON",
        "r RESET",
        "w SET foo1 2",
        "r CLIENT TRACKINGINFO",
    ] {
        let (who, words) = words.split_at(2);
        match who {
            "r " => reader.ask(words, &none),
            _ => writer.ask(words, &none),
        };
        in_multi = words == "MULTI" || in_multi && words != "EXEC";
        if !in_multi {
            told += reader.heard(words).len();
        }
    }
    assert!(told > 10, "only {told} changes were told of");
}

#[test]
fn a_resp2_client_redirects_as_it_would_at_one_server() {
    let (_cluster, envoy) = start();
    let standalone = RedisServer::start(&[]).unwrap();
    let connect = || Twins::connect(&envoy, &standalone);
    let (mut reader, mut listener, mut writer) = (connect(), connect(), connect());
    listener.say("SUBSCRIBE __redis__:invalidate");
    let listens = listener.ids.clone();
    let mut told = 0;
    for words in [
        "r CLIENT TRACKING ON REDIRECT ID",
        "r CLIENT TRACKINGINFO",
        "r CLIENT GETREDIR",
        "r GET a",
        "r MGET b c d e f",
        "w SET a 1",
        "w SET e 1",
        "w SET a 1",
        "r CLIENT TRACKING OFF",
        "w SET b 1",
        "r CLIENT TRACKING ON REDIRECT ID BCAST PREFIX u:",
        "w SET u:1 1",
        "w SET u:2 1",
        "w SET v:2 1",
    ] {
        let (who, words) = words.split_at(2);
        match who {
            "r " => reader.ask(words, &listens),
            _ => writer.ask(words, &listens),
        };
        told += listener.heard(words).len();
        assert_eq!(reader.heard(words), [""; 0]);
    }
    assert_eq!(told, 4);
}

#[test]
fn a_cache_is_never_stale_for_long_whatever_happens_to_the_cluster() {
    const KEYS: usize = 200;
    let (cluster, envoy) = start();
    let mut cache = Cache::new(&envoy);
    let mut writer = client(&envoy);
    let mut round = 0_usize;
    let mut keep_busy = |cache: &mut Cache, duration: Duration| {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            round += 1;
            let key = format!("key:{}", round * 7 % KEYS);
            // During a failover a write may fail.
            let _ = redis::cmd("SET").arg(&key).arg(round).query::<()>(&mut writer);
            cache.read(&format!("key:{}", round * 11 % KEYS));
            // Keys that nobody writes before their slot has moved.
            cache.read(&format!("missing:{}", round % KEYS));
        }
    };
    keep_busy(&mut cache, Duration::from_secs(2));
    let primaries = cluster.primaries().unwrap();
    let [from, to, victim] = primaries[..] else { panic!("not three primaries") };
    cluster.reshard(1000, from, to).unwrap();
    keep_busy(&mut cache, Duration::from_secs(2));
    victim.kill();
    keep_busy(&mut cache, Duration::from_secs(10));
    assert!(cache.hits > 100, "{} hits", cache.hits);
    assert!(cache.flushes > 0, "the node's death was told of");

    let mut fresh = client(&envoy);
    until("a cluster that serves all slots again", PATIENCE, || {
        let reply = redis::cmd("DBSIZE").query::<i64>(&mut fresh);
        Ok(reply.map_or_else(|error| Probe::NotYet(error.to_string()), |_| Probe::Ready(())))
    })
    .unwrap();
    for number in 0..KEYS {
        for kind in ["key", "missing"] {
            let key = format!("{kind}:{number}");
            let () = redis::cmd("SET").arg(&key).arg("last").query(&mut fresh).unwrap();
        }
    }
    until("a cache without stale values", PATIENCE, || {
        cache.listen();
        let stale = cache.values.iter().find(|(_, value)| value.as_deref() != Some("last"));
        Ok(match stale {
            None => Probe::Ready(()),
            Some((key, value)) => Probe::NotYet(format!("{key} is {value:?}")),
        })
    })
    .unwrap();
}

fn client(envoy: &Envoy) -> Connection {
    let client = redis::Client::open(format!("redis://{}", envoy.addr())).unwrap();
    let connection = client.get_connection().unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    connection
}

/// What a client keeps of what it has read.
struct Cache {
    client: Client,
    values: HashMap<String, Option<String>>,
    hits: usize,
    flushes: usize,
}

impl Cache {
    fn new(envoy: &Envoy) -> Self {
        let mut client = Client::connect(envoy.addr());
        client.call(&["HELLO", "3"]);
        assert_eq!(client.call(&["CLIENT", "TRACKING", "ON"]), b"+OK\r\n");
        Self { client, values: HashMap::new(), hits: 0, flushes: 0 }
    }

    fn read(&mut self, key: &str) {
        if self.values.contains_key(key) {
            self.hits += 1;
            if self.hits.is_multiple_of(50) {
                self.listen();
            }
            return;
        }
        let reply = self.call(&["GET", key]);
        if let Some(line) = reply.strip_prefix('$') {
            let value = line.split("\r\n").nth(1).map(str::to_owned);
            self.values.insert(key.to_owned(), value);
        } else if reply.starts_with('_') {
            self.values.insert(key.to_owned(), None);
        }
    }

    /// Takes in all that has been pushed.
    fn listen(&mut self) {
        self.call(&["PING"]);
    }

    fn call(&mut self, words: &[&str]) -> String {
        self.client.send(words);
        loop {
            let frame = printable(&self.client.receive());
            if !frame.starts_with('>') {
                return frame;
            }
            let words: Vec<_> = frame.split("\r\n").collect();
            assert_eq!(words[2], "invalidate", "{frame}");
            if words[3] == "_" {
                self.flushes += 1;
                self.values.clear();
            }
            for key in words.iter().skip(5).step_by(2) {
                self.values.remove(*key);
            }
        }
    }
}

#[test]
fn redis_py_caches() {
    let (_cluster, envoy) = start();
    let Some(mut command) = or_skip(packages::python("caching.py")) else { return };
    command.args([envoy.addr().ip().to_string(), envoy.addr().port().to_string()]);
    process::run(command, PATIENCE).unwrap();
}

#[test]
fn node_redis_caches() {
    let (_cluster, envoy) = start();
    let Some(mut command) = or_skip(packages::node("node-redis-caching.mjs")) else { return };
    command.args([envoy.addr().ip().to_string(), envoy.addr().port().to_string()]);
    process::run(command, PATIENCE).unwrap();
}
