//! Commands that name no key, in Envoy before a cluster of six nodes: the answers are those of one
//! server that holds everything.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::Client;
use crate::support::proxy::start;
use redis::{Commands, Connection, FromRedisValue, InfoDict, RedisResult, Value};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Envoy, RedisCluster};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

struct Proxy {
    cluster: RedisCluster,
    envoy: Envoy,
}

impl Proxy {
    fn start() -> Self {
        let (cluster, envoy) = start();
        Self { cluster, envoy }
    }

    fn connect(&self, query: &str) -> Connection {
        let url = format!("redis://{}/{query}", self.envoy.addr());
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        // Only so that a test ends.
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// A command's reply from each primary.
    fn of_primaries<T: FromRedisValue>(&self, words: &[&str]) -> Vec<T> {
        let primaries = self.cluster.primaries().unwrap();
        primaries.into_iter().map(|node| ask(&mut node.connect().unwrap(), words)).collect()
    }
}

fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    try_ask(connection, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

fn try_ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> RedisResult<T> {
    redis::cmd(words[0]).arg(&words[1..]).query(connection)
}

/// Writes `count` keys and returns them.
fn fill(connection: &mut Connection, count: usize) -> BTreeSet<String> {
    let keys: BTreeSet<String> = (0..count).map(|number| format!("key:{number}")).collect();
    let mut pipeline = redis::pipe();
    for key in &keys {
        pipeline.set(key, "1").ignore();
    }
    pipeline.query::<()>(connection).unwrap();
    keys
}

#[test]
fn all_keys_are_counted_listed_scanned_and_flushed_as_those_of_one_server() {
    let proxy = Proxy::start();
    for query in ["", "?protocol=resp3"] {
        let mut connection = proxy.connect(query);
        let keys = fill(&mut connection, 1000);
        assert_eq!(ask::<usize>(&mut connection, &["DBSIZE"]), 1000);
        assert_eq!(ask::<BTreeSet<String>>(&mut connection, &["KEYS", "*"]), keys);
        assert_eq!(ask::<Vec<String>>(&mut connection, &["KEYS", "key:7"]), ["key:7"]);
        assert!(keys.contains(&ask::<String>(&mut connection, &["RANDOMKEY"])));

        // The iterator of a client, which knows nothing of shards.
        let scanned: Vec<String> =
            connection.scan().unwrap().collect::<RedisResult<Vec<_>>>().unwrap();
        assert_eq!(scanned.len(), 1000, "nothing has moved, so nothing comes twice");
        assert_eq!(BTreeSet::from_iter(scanned), keys);
        let options = redis::ScanOptions::default().with_pattern("key:1*").with_count(500);
        let some: BTreeSet<String> =
            connection.scan_options(options).unwrap().collect::<RedisResult<_>>().unwrap();
        assert_eq!(some, keys.iter().filter(|key| key.starts_with("key:1")).cloned().collect());
        ask::<i64>(&mut connection, &["RPUSH", "list", "1"]);
        let typed = redis::cmd("SCAN").cursor_arg(0).arg(&["TYPE", "list"]).clone();
        let lists: Vec<String> =
            typed.iter(&mut connection).unwrap().collect::<RedisResult<_>>().unwrap();
        assert_eq!(lists, ["list"]);

        let info: InfoDict = ask(&mut connection, &["INFO"]);
        assert_eq!(info.get::<String>("redis_mode").as_deref(), Some("standalone"));
        assert_eq!(info.get::<u8>("cluster_enabled"), Some(0));
        let keyspace: String = info.get("db0").unwrap();
        assert!(keyspace.starts_with("keys=1001,expires=0,"), "{keyspace}");

        ask::<()>(&mut connection, &["FLUSHALL"]);
        assert_eq!(proxy.of_primaries::<usize>(&["DBSIZE"]), [0, 0, 0]);
        assert_eq!(ask::<Value>(&mut connection, &["RANDOMKEY"]), Value::Nil);
    }
}

#[test]
fn what_is_set_or_loaded_is_so_on_every_primary() {
    let proxy = Proxy::start();
    let mut connection = proxy.connect("");
    ask::<()>(&mut connection, &["CONFIG", "SET", "slowlog-log-slower-than", "0"]);
    let get = ["CONFIG", "GET", "slowlog-log-slower-than"];
    let expected = ["slowlog-log-slower-than", "0"].map(str::to_owned).to_vec();
    assert_eq!(ask::<Vec<String>>(&mut connection, &get), expected);
    assert_eq!(proxy.of_primaries::<Vec<String>>(&get), vec![expected; 3]);

    fill(&mut connection, 100);
    let entries: Vec<(i64, i64)> =
        ask::<Vec<Vec<Value>>>(&mut connection, &["SLOWLOG", "GET", "7"])
            .into_iter()
            .map(|entry| redis::from_redis_value(Value::Array(entry[..2].to_vec())).unwrap())
            .collect();
    assert_eq!(entries.len(), 7);
    assert!(entries.is_sorted_by(|(_, newer), (_, older)| newer >= older), "{entries:?}");
    assert!(ask::<i64>(&mut connection, &["SLOWLOG", "LEN"]) > 100);
    ask::<()>(&mut connection, &["CONFIG", "SET", "slowlog-log-slower-than", "-1"]);
    ask::<()>(&mut connection, &["SLOWLOG", "RESET"]);
    assert_eq!(ask::<i64>(&mut connection, &["SLOWLOG", "LEN"]), 0);

    let sha: String = ask(&mut connection, &["SCRIPT", "LOAD", "return ARGV[1]"]);
    let exists = ["SCRIPT", "EXISTS", &sha, "ffffffffffffffffffffffffffffffffffffffff"];
    assert_eq!(ask::<Vec<bool>>(&mut connection, &exists), [true, false]);
    assert_eq!(proxy.of_primaries::<Vec<bool>>(&exists), vec![vec![true, false]; 3]);
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(ask::<String>(&mut connection, &["EVALSHA", &sha, "1", key, "x"]), "x");
    }
    assert_eq!(ask::<String>(&mut connection, &["EVALSHA", &sha, "0", "x"]), "x");
    assert_eq!(ask::<i64>(&mut connection, &["EVAL", "return 7", "0"]), 7);
    proxy.of_primaries::<Value>(&["SCRIPT", "FLUSH"]);
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(ask::<String>(&mut connection, &["EVALSHA", &sha, "1", key, "x"]), "x");
    }
    ask::<()>(&mut connection, &["SCRIPT", "FLUSH"]);
    let error = try_ask::<Value>(&mut connection, &["EVALSHA", &sha, "1", "a", "x"]).unwrap_err();
    assert_eq!(error.code(), Some("NOSCRIPT"));
    let error = try_ask::<Value>(&mut connection, &["SCRIPT", "KILL"]).unwrap_err().to_string();
    assert!(error.contains("No scripts in execution right now"), "{error}");

    let library = "#!lua name=lib\nredis.register_function{function_name='f', \
                   callback=function(keys, args) return args[1] end, flags={'no-writes'}}";
    assert_eq!(ask::<String>(&mut connection, &["FUNCTION", "LOAD", library]), "lib");
    for key in ["a", "b", "c", "d", "e", "f"] {
        assert_eq!(ask::<String>(&mut connection, &["FCALL", "f", "1", key, "y"]), "y");
        assert_eq!(ask::<String>(&mut connection, &["FCALL_RO", "f", "1", key, "y"]), "y");
    }
    assert_eq!(ask::<String>(&mut connection, &["FCALL", "f", "0", "y"]), "y");
    let stats: Vec<Value> = ask(&mut connection, &["FUNCTION", "STATS"]);
    assert_eq!(stats[1], Value::Nil, "no script is running");
    let dump: Vec<u8> = ask(&mut connection, &["FUNCTION", "DUMP"]);
    ask::<()>(&mut connection, &["FUNCTION", "FLUSH"]);
    redis::cmd("FUNCTION").arg("RESTORE").arg(dump).query::<()>(&mut connection).unwrap();
    ask::<()>(&mut connection, &["FUNCTION", "DELETE", "lib"]);
    assert!(try_ask::<Value>(&mut connection, &["FCALL", "f", "1", "a"]).is_err());
}

#[test]
fn a_script_that_does_not_end_is_killed() {
    let proxy = Proxy::start();
    let mut connection = proxy.connect("");
    ask::<()>(&mut connection, &["CONFIG", "SET", "busy-reply-threshold", "100"]);
    let mut script = proxy.connect("");
    std::thread::scope(|scope| {
        let running = scope
            .spawn(move || try_ask::<Value>(&mut script, &["EVAL", "while true do end", "1", "a"]));
        until("the script's end", PATIENCE, || {
            let killed = try_ask::<Value>(&mut connection, &["SCRIPT", "KILL"]);
            Ok(match killed {
                Ok(_) => Probe::Ready(()),
                Err(error) => Probe::NotYet(error.to_string()),
            })
        })
        .unwrap();
        let error = running.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("Script killed by user") || error.contains("TIMEOUT"), "{error}");
    });
}

#[test]
fn a_scan_that_began_before_a_failover_ends_after_it_and_misses_nothing() {
    let proxy = Proxy::start();
    let mut connection = proxy.connect("");
    let keys = fill(&mut connection, 1000);
    let mut client = Client::connect(proxy.envoy.addr());
    let mut scanned = BTreeSet::new();
    let (mut cursor, mut steps) = ("0".to_owned(), 0);
    loop {
        let reply: (String, Vec<String>) = ask(&mut connection, &["SCAN", &cursor, "COUNT", "50"]);
        scanned.extend(reply.1);
        cursor = reply.0;
        steps += 1;
        if cursor == "0" {
            break;
        }
        if steps == 3 {
            let primary = proxy.cluster.owner(0).unwrap();
            let replica = proxy.cluster.replicas_of(primary).unwrap()[0];
            ask::<()>(&mut replica.connect().unwrap(), &["CLUSTER", "FAILOVER"]);
            until("the replica's promotion", PATIENCE, || {
                let role: Vec<Value> = ask(&mut replica.connect()?, &["ROLE"]);
                let promoted = role[0] == Value::BulkString(b"master".to_vec());
                Ok(if promoted { Probe::Ready(()) } else { Probe::NotYet(format!("{role:?}")) })
            })
            .unwrap();
            // Every shard is asked, so that its new owner is learnt.
            for key in &keys {
                assert_eq!(client.call(&["GET", key]).escape_ascii().to_string(), r"$1\r\n1\r\n");
            }
        }
    }
    assert_eq!(scanned, keys);
}
