//! Standard clients with their default options, through the proxy.

use std::process::Command;
use std::thread;

use crate::support::proxy::{PATIENCE, Proxy};
use crate::support::{command, packages};
use anyhow::Result;
use redis::{
    Connection, ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value,
};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{locate, process};

/// What RESP puts between values.
const BINARY: &[u8] = b"\r\n$-1\r\n\0\xff";

impl Proxy {
    /// A redis-cli for the proxy.
    fn redis_cli(&self, args: &[&str]) -> Command {
        let mut command = Command::new(locate::program("redis-cli").unwrap());
        command.args(["-h", &self.host(), "-p", &self.port()]).args(args);
        command
    }

    fn redis_cli_prints(&self, args: &[&str], input: &[u8]) -> String {
        process::run_with_input(self.redis_cli(args), input.to_vec(), PATIENCE).unwrap()
    }

    /// Runs the program of a client, if that could be installed, and looks for the many keys that
    /// it has left under each of `prefixes`.
    fn run_and_look(&self, client: Result<Command>, prefixes: [&str; 2]) {
        if self.run(client).is_some() {
            for prefix in prefixes {
                self.assert_on_all_shards(prefix);
            }
        }
    }

    /// Looks on the nodes themselves for the keys that start with `prefix`.
    fn assert_on_all_shards(&self, prefix: &str) {
        for primary in self.cluster.primaries().unwrap() {
            let keys: Vec<String> =
                ask(&mut primary.connect().unwrap(), &["KEYS", &format!("{prefix}:*")]);
            assert!(keys.len() > 50, "{} has {} keys of {prefix}", primary.addr(), keys.len());
        }
    }
}

/// Sends a command and returns its reply.
fn ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> T {
    try_ask(connection, words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

/// Sends a command and returns the error it is answered with.
fn refusal(connection: &mut Connection, words: &[&str]) -> RedisError {
    try_ask::<Value>(connection, words).expect_err(words[0])
}

fn try_ask<T: FromRedisValue>(connection: &mut Connection, words: &[&str]) -> RedisResult<T> {
    redis::cmd(words[0]).arg(&words[1..]).query(connection)
}

#[test]
fn redis_py_works() {
    let prefixes = ["redis-py:many_keys", "redis-py-resp2:many_keys"];
    Proxy::start().run_and_look(packages::python("test.py"), prefixes);
}

#[test]
fn ioredis_works() {
    let prefixes = ["ioredis:manyKeys", "ioredis-resp2:manyKeys"];
    Proxy::start().run_and_look(packages::node("ioredis.mjs"), prefixes);
}

#[test]
fn node_redis_works() {
    let prefixes = ["node-redis:manyKeys", "node-redis-resp2:manyKeys"];
    Proxy::start().run_and_look(packages::node("node-redis.mjs"), prefixes);
}

#[test]
fn redis_cli_prints_the_reply_to_each_of_a_thousand_commands() {
    let proxy = Proxy::start();
    let (mut input, mut output) = (String::new(), String::new());
    for index in 0..250 {
        let (key, next) = (key(index), key((index + 1) % 250));
        input += &format!("SET {key} {index}\nINCR {key}\nMGET {key} {key}x\nDEL {next}\n");
        let deleted = usize::from(index == 249);
        output += &format!("OK\n{}\n{}\n\n{deleted}\n", index + 1, index + 1);
    }
    assert_eq!(proxy.redis_cli_prints(&[], input.as_bytes()), output);

    let set: String = (0..250).map(|index| format!("SET {} x\n", key(index))).collect();
    assert_eq!(proxy.redis_cli_prints(&[], set.as_bytes()), "OK\n".repeat(250));
    proxy.assert_on_all_shards("redis-cli");

    // Sends without waiting and counts the replies.
    let commands = (0..1000).map(|index| command(&["APPEND", &key(index), "x"]));
    let commands: Vec<Vec<u8>> = commands.collect();
    let printed = proxy.redis_cli_prints(&["--pipe"], &commands.concat());
    assert!(printed.ends_with("errors: 0, replies: 1000\n"), "{printed}");

    fn key(index: usize) -> String {
        format!("redis-cli:{index}")
    }
}

#[test]
fn redis_cli_prints_replies_and_errors_of_every_kind() {
    // Each line and what redis-cli prints for it.
    let session = [
        ("CLIENT GETNAME", "\n"),
        ("CLIENT SETNAME me", "OK\n"),
        ("CLIENT GETNAME", "me\n"),
        ("SELECT 0", "OK\n"),
        ("MSET cli:a 1 cli:b 2 cli:c 3", "OK\n"),
        ("MGET cli:a cli:x cli:b cli:c", "1\n\n2\n3\n"),
        ("EXISTS cli:a cli:a cli:x", "2\n"),
        ("DEL cli:a cli:b cli:x", "2\n"),
        ("INCRBY cli:c 39", "42\n"),
        ("HSET cli:hash a 1 b 2", "2\n"),
        ("HGETALL cli:hash", "a\n1\nb\n2\n"),
        ("RPUSH cli:list a b c", "3\n"),
        ("LRANGE cli:list 0 -1", "a\nb\nc\n"),
        ("SADD cli:set a a", "1\n"),
        ("SMEMBERS cli:set", "a\n"),
        ("ZADD cli:sorted 1.5 a 2 b", "2\n"),
        ("ZRANGE cli:sorted 0 -1 WITHSCORES", "a\n1.5\nb\n2\n"),
        ("XADD cli:stream 1-1 n 1", "1-1\n"),
        ("XRANGE cli:stream - +", "1-1\nn\n1\n"),
        ("XREAD STREAMS cli:stream 0", "cli:stream\n1-1\nn\n1\n"),
        ("EVAL 'return {KEYS[1], 7}' 1 cli:c", "cli:c\n7\n"),
        ("SET cli:c 1 EX 100", "OK\n"),
        ("PERSIST cli:c", "1\n"),
        ("TTL cli:c", "-1\n"),
        ("LPUSH cli:c x", "WRONGTYPE Operation against a key holding the wrong kind of value\n\n"),
        ("RENAME cli:c cli:d", "CROSSSLOT Keys in request don't hash to the same slot\n\n"),
        ("BLPOP cli:list 1", "cli:list\na\n"),
        ("GET cli:c", "1\n"),
    ];
    let (input, expected): (Vec<&str>, Vec<&str>) = session.into_iter().unzip();
    let proxy = Proxy::start();
    let printed = proxy.redis_cli_prints(&[], (input.join("\n") + "\n").as_bytes());
    assert_eq!(printed, expected.concat());

    let hash =
        |version: &str| proxy.redis_cli_prints(&[version, "--no-raw", "HGETALL", "cli:hash"], b"");
    assert_eq!(hash("-2"), "1) \"a\"\n2) \"1\"\n3) \"b\"\n4) \"2\"\n");
    assert_eq!(hash("-3"), "1# \"a\" => \"1\"\n2# \"b\" => \"2\"\n");
}

#[test]
fn redis_cli_writes_and_reads_every_byte() {
    let proxy = Proxy::start();
    // With -x the last argument is what comes from standard input.
    assert_eq!(proxy.redis_cli_prints(&["-x", "SET", "cli:binary"], BINARY), "OK\n");
    let quoted = proxy.redis_cli_prints(&["--no-raw", "GET", "cli:binary"], b"");
    assert_eq!(quoted, "\"\\r\\n$-1\\r\\n\\x00\\xff\"\n");
    let large = "0123456789".repeat(500_000);
    assert_eq!(proxy.redis_cli_prints(&["-x", "SET", "cli:large"], large.as_bytes()), "OK\n");
    assert!(proxy.redis_cli_prints(&["GET", "cli:large"], b"") == large + "\n", "GET of 5 MB");
}

/// On a terminal redis-cli first asks what commands there are, for its hints.
#[test]
fn redis_cli_starts_on_a_terminal() {
    let proxy = Proxy::start();
    let asked = || -> u64 {
        let calls = proxy.cluster.nodes().iter().map(|node| {
            let stats: String = ask(&mut node.connect().unwrap(), &["INFO", "commandstats"]);
            let calls = stats.split_once("cmdstat_command|docs:calls=").map(|(_, rest)| rest);
            calls.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
        });
        calls.sum()
    };
    let before = asked();
    let mut terminal = Command::new(locate::program("script").unwrap());
    let redis_cli = process::show(&proxy.redis_cli(&[]));
    terminal.args(["--quiet", "--return", "--command", &redis_cli, "/dev/null"]);
    // A plain terminal: redis-cli reads whole lines and asks for nothing.
    terminal.env("TERM", "dumb");
    let input = "SET cli:terminal 41\nINCR cli:terminal\nHELP INCR\nLPUSH cli:terminal x\n";
    let output = process::run_with_input(terminal, input.into(), PATIENCE).unwrap();
    for expected in ["> OK", "> (integer) 42", "summary:", "> (error) WRONGTYPE "] {
        assert!(output.contains(expected), "no {expected:?} in {output}");
    }
    assert!(asked() > before, "no node was asked for COMMAND DOCS");
}

#[test]
fn the_redis_crate_works_in_resp2() {
    use_everything("", "redis-rs-resp2");
}

#[test]
fn the_redis_crate_works_in_resp3() {
    use_everything("?protocol=resp3", "redis-rs-resp3");
}

fn use_everything(query: &str, name: &str) {
    let proxy = Proxy::start();
    let connection = &mut proxy.connect(query);
    let id: i64 = ask(connection, &["CLIENT", "ID"]);
    names_itself(connection);
    uses_many_keys(connection, name);
    proxy.assert_on_all_shards(name);
    uses_every_type(connection, name);
    keeps_every_byte(connection, name);
    sees_keys_expire(connection, name);
    pipelines(connection, name);
    gets_errors(connection, name);
    is_refused(connection);
    assert_eq!(ask::<i64>(connection, &["CLIENT", "ID"]), id, "it is another connection");
    *connection = proxy.connect(query);
    assert_ne!(ask::<i64>(connection, &["CLIENT", "ID"]), id, "it is the same connection");
    assert_eq!(ask::<String>(connection, &["GET", name]), "x");
}

fn names_itself(connection: &mut Connection) {
    assert_eq!(ask::<Option<String>>(connection, &["CLIENT", "GETNAME"]), None);
    assert_eq!(ask::<Value>(connection, &["CLIENT", "SETNAME", "me"]), Value::Okay);
    assert_eq!(ask::<String>(connection, &["CLIENT", "GETNAME"]), "me");
    assert_eq!(ask::<String>(connection, &["PING"]), "PONG");
    assert_eq!(ask::<String>(connection, &["ECHO", "x"]), "x");
    assert_eq!(ask::<Value>(connection, &["SELECT", "0"]), Value::Okay);
}

fn uses_many_keys(connection: &mut Connection, name: &str) {
    let keys: Vec<String> = (0..300).map(|index| format!("{name}:{index}")).collect();
    let of = |command: &str, keys: &[String]| redis::cmd(command).arg(keys).to_owned();
    for key in &keys[..100] {
        assert_eq!(
            ask::<Value>(connection, &["SET", key, &format!("value of {key}")]),
            Value::Okay
        );
    }
    let mut mset = redis::cmd("MSET");
    for key in &keys[100..] {
        mset.arg(key).arg(format!("value of {key}"));
    }
    mset.exec(connection).unwrap();
    for key in &keys {
        assert_eq!(ask::<String>(connection, &["GET", key]), format!("value of {key}"));
    }
    let found: Vec<Option<String>> = of("MGET", &keys).arg("missing").query(connection).unwrap();
    let values = keys.iter().map(|key| Some(format!("value of {key}")));
    assert_eq!(found, values.chain([None]).collect::<Vec<_>>());
    let count = |connection: &mut Connection, command: &str, keys: &[String]| -> i64 {
        of(command, keys).arg("missing").query(connection).unwrap()
    };
    assert_eq!(count(connection, "EXISTS", &keys), 300);
    assert_eq!(count(connection, "TOUCH", &keys), 300);
    assert_eq!(count(connection, "DEL", &keys[..50]), 50);
    assert_eq!(count(connection, "UNLINK", &keys[..100]), 50);
    assert_eq!(count(connection, "EXISTS", &keys), 200);
}

fn uses_every_type(connection: &mut Connection, name: &str) {
    for index in 0..20 {
        let key = &format!("{{{name}:{index}}}:types");
        let [hash, list, set, sorted, stream] =
            ["hash", "list", "set", "sorted", "stream"].map(|kind| format!("{key}:{kind}"));
        assert_eq!(ask::<i64>(connection, &["HSET", &hash, "a", "1", "b", "2"]), 2);
        let pairs: Vec<(String, i64)> = ask(connection, &["HGETALL", &hash]);
        assert_eq!(pairs, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(ask::<f64>(connection, &["HINCRBYFLOAT", &hash, "a", "0.5"]), 1.5);

        assert_eq!(ask::<i64>(connection, &["RPUSH", &list, "a", "b", "c"]), 3);
        assert_eq!(ask::<Vec<String>>(connection, &["LRANGE", &list, "0", "-1"]), ["a", "b", "c"]);
        assert_eq!(ask::<Value>(connection, &["LPOS", &list, "missing"]), Value::Nil);

        assert_eq!(ask::<i64>(connection, &["SADD", &set, "a", "b", "a"]), 2);
        let mut members: Vec<String> = ask(connection, &["SMEMBERS", &set]);
        members.sort_unstable();
        assert_eq!(members, ["a", "b"]);

        assert_eq!(ask::<i64>(connection, &["ZADD", &sorted, "1.5", "a", "2", "b"]), 2);
        assert_eq!(ask::<f64>(connection, &["ZSCORE", &sorted, "a"]), 1.5);
        let scores: Vec<(String, f64)> =
            ask(connection, &["ZRANGE", &sorted, "0", "-1", "WITHSCORES"]);
        assert_eq!(scores, [("a".to_owned(), 1.5), ("b".to_owned(), 2.0)]);

        let first: String = ask(connection, &["XADD", &stream, "*", "n", "1"]);
        let second: String = ask(connection, &["XADD", &stream, "*", "n", "2"]);
        type Entries = Vec<(String, Vec<(String, String)>)>;
        let entry = |id: &str, n: &str| (id.to_owned(), vec![("n".to_owned(), n.to_owned())]);
        let entries: Entries = ask(connection, &["XRANGE", &stream, "-", "+"]);
        assert_eq!(entries, [entry(&first, "1"), entry(&second, "2")]);
        let read: Vec<(String, Entries)> = ask(connection, &["XREAD", "STREAMS", &stream, &first]);
        assert_eq!(read, [(stream.clone(), vec![entry(&second, "2")])]);
        assert_eq!(ask::<Value>(connection, &["XREAD", "STREAMS", &stream, &second]), Value::Nil);

        let script = "redis.call('SET', KEYS[1], ARGV[1]) return {KEYS[1], 7}";
        let (set, seven): (String, i64) = ask(connection, &["EVAL", script, "1", key, "x"]);
        assert_eq!((&set, seven), (key, 7));
        assert_eq!(ask::<String>(connection, &["GET", key]), "x");
    }
}

fn keeps_every_byte(connection: &mut Connection, name: &str) {
    let key = [name.as_bytes(), BINARY].concat();
    let large = BINARY.repeat(5_000_000 / BINARY.len());
    for value in [BINARY, b"", &large] {
        redis::cmd("SET").arg(&key).arg(value).exec(connection).unwrap();
        let read: Vec<u8> = redis::cmd("GET").arg(&key).query(connection).unwrap();
        assert!(read == value, "GET of {} bytes", value.len());
        let read: (Option<()>, Vec<u8>) =
            redis::cmd("MGET").arg("missing").arg(&key).query(connection).unwrap();
        assert!(read == (None, value.to_vec()), "MGET of {} bytes", value.len());
    }
}

fn sees_keys_expire(connection: &mut Connection, name: &str) {
    let key = &format!("{name}:expiry");
    ask::<()>(connection, &["SET", key, "1", "EX", "100"]);
    assert!((1..=100).contains(&ask::<i64>(connection, &["TTL", key])));
    assert_eq!(ask::<i64>(connection, &["INCR", key]), 2);
    assert_eq!(ask::<i64>(connection, &["PERSIST", key]), 1);
    assert_eq!(ask::<i64>(connection, &["TTL", key]), -1);
    assert_eq!(ask::<i64>(connection, &["PEXPIRE", key, "1"]), 1);
    until("a key's time to be over", PATIENCE, || {
        Ok(match ask::<Value>(connection, &["GET", key]) {
            Value::Nil => Probe::Ready(()),
            value => Probe::NotYet(format!("{value:?}")),
        })
    })
    .unwrap();
}

/// A thousand commands, each key in five of them.
fn pipelines(connection: &mut Connection, name: &str) {
    let key = |index: usize| format!("{name}:pipeline:{}", index % 200);
    let text = |number: usize| Value::BulkString(number.to_string().into_bytes());
    let mut pipe = redis::pipe();
    let mut expected = Vec::new();
    for index in 0..200 {
        pipe.cmd("SET").arg(key(index)).arg(index);
        expected.push(Ok(Value::Okay));
    }
    for index in 0..200 {
        pipe.cmd("INCR").arg(key(index));
        expected.push(Ok(Value::Int(index as i64 + 1)));
    }
    for index in 0..200 {
        pipe.cmd("MGET").arg(key(index)).arg("missing").arg(key(index + 1));
        let next = (index + 1) % 200 + 1;
        expected.push(Ok(Value::Array(vec![text(index + 1), Value::Nil, text(next)])));
    }
    for index in 0..200 {
        pipe.cmd("LPUSH").arg(key(index)).arg("x");
        expected.push(Err("WRONGTYPE".to_owned()));
    }
    for index in 0..200 {
        pipe.cmd("DEL").arg(key(index)).arg(key(index + 1));
        // The second key of one is the first of the next.
        let left = match index {
            0 => 2,
            199 => 0,
            _ => 1,
        };
        expected.push(Ok(Value::Int(left)));
    }
    let replies: Vec<RedisResult<Value>> = pipe.ignore_errors().query(connection).unwrap();
    assert_eq!(replies.len(), 1000);
    for (index, (reply, expected)) in replies.into_iter().zip(expected).enumerate() {
        let reply = reply.map_err(|error| error.code().unwrap_or_default().to_owned());
        assert_eq!(reply, expected, "reply {index} of a pipeline");
    }
}

fn gets_errors(connection: &mut Connection, name: &str) {
    ask::<()>(connection, &["SET", name, "x"]);
    let wrong_type = refusal(connection, &["LPUSH", name, "x"]);
    assert_eq!(wrong_type.code(), Some("WRONGTYPE"));
    let cross_slot = refusal(connection, &["RENAME", name, "other"]);
    assert_eq!(cross_slot.kind(), ErrorKind::Server(ServerErrorKind::CrossSlot));
    let unknown = refusal(connection, &["NOSUCH", "x"]);
    assert_eq!(unknown.kind(), ErrorKind::Server(ServerErrorKind::ResponseError));
    assert_eq!(ask::<String>(connection, &["GET", name]), "x");
}

fn is_refused(connection: &mut Connection) {
    let in_clusters = |error: RedisError| {
        let text = error.to_string();
        assert!(text.contains("SWAPDB is not allowed in cluster mode"), "{text}");
    };
    in_clusters(refusal(connection, &["SWAPDB", "0", "1"]));
}

#[test]
fn clients_of_both_protocol_versions_work_side_by_side() {
    let proxy = Proxy::start();
    ask::<()>(&mut proxy.connect(""), &["HSET", "side-by-side", "a", "1"]);
    let pair = || ["a", "1"].map(|text| Value::BulkString(text.into()));
    let [field, value] = pair();
    let versions = [
        ("", Value::Array(pair().to_vec())),
        ("?protocol=resp3", Value::Map(vec![(field, value)])),
    ];
    thread::scope(|scope| {
        for (query, expected) in versions {
            let mut connection = proxy.connect(query);
            scope.spawn(move || {
                for _ in 0..1000 {
                    assert_eq!(
                        ask::<Value>(&mut connection, &["HGETALL", "side-by-side"]),
                        expected
                    );
                }
            });
        }
    });
}
