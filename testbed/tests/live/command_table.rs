//! The command table against a real redis-server 7.0: what it says of its commands, where it finds
//! their keys, and the words of its errors.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use slotmesh_engine::command::{
    BeginSearch, COMMANDS, CommandError, CommandSpec, FindKeys, Flags, KeySpec, KeysError, Lookup,
    RequestPolicy, ResponsePolicy, Support, keys, lookup,
};
use slotmesh_engine::resp::{ArgRange, RequestFrame};
use slotmesh_testbed::RedisServer;

#[test]
fn the_table_says_what_redis_says() {
    let live = Redis::start().commands();
    for (name, described) in &live {
        assert_eq!(&Described::by_table(row(name)), described, "{name}");
    }
    assert_eq!(live.len(), 366, "commands and subcommands of Redis 7.0.15");
}

#[test]
fn every_command_of_redis_is_supported_or_refused_with_a_reason() {
    let live = Redis::start().commands();
    let without_a_reason: Vec<_> = live
        .keys()
        .filter(|name| match row(name).support {
            Support::Refuse(reason) => reason.text().ends_with(" yet"),
            _ => false,
        })
        .collect();
    assert_eq!(without_a_reason, [""; 0]);
}

#[test]
fn keys_are_found_where_redis_finds_them() {
    let mut redis = Redis::start();
    let mut compared = 0;
    for name in redis.commands().keys() {
        let spec = row(name);
        // Redis takes shard channels for keys when it routes, but does not show them as such.
        if spec.key_specs.is_empty() || spec.flags.contains(Flags::PUBSUB) {
            continue;
        }
        let examples = examples(spec);
        assert!(examples.len() > 1 || spec.arity > 0, "one example of {name} only");
        for example in examples {
            compare_keys(&mut redis, &example);
        }
        compared += 1;
    }
    assert_eq!(compared, 190, "commands and subcommands with keys");
}

#[test]
fn keys_in_odd_places_are_found_where_redis_finds_them() {
    let mut redis = Redis::start();
    for example in [
        "SORT k1 BY store GET store STORE k2",
        "SORT k1 LIMIT store store store k2 ALPHA",
        "SORT k1 STORE k2 STORE k3",
        "SORT k1 GET # GET w_* STORE",
        "SORT_RO k1 BY store GET store",
        "GEORADIUS k1 1 2 3 m STORE k2 STORE k3",
        "GEORADIUS k1 1 2 3 m storedist k2 WITHDIST sToRe k3",
        "GEORADIUS k1 1 2 3 m COUNT STORE",
        "GEORADIUS k1 1 2 3 STORE m STORE k2",
        "GEORADIUSBYMEMBER k1 STORE 3 m STORE k2",
        "GEORADIUSBYMEMBER k1 m 3 STORE k2",
        "GEORADIUSBYMEMBER_RO k1 m 3 m STORE",
        "MIGRATE h 1 k1 0 10 COPY REPLACE",
        "MIGRATE h 1 k1 0 10 AUTH KEYS",
        "MIGRATE h 1  0 10 COPY KEYS k1 k2 k3",
        "MIGRATE h 1  0 10 AUTH keys keys k1",
        "MIGRATE h 1  0 10 AUTH2 keys b KEYS k1 k2",
        "MIGRATE h 1 k1 0 10 KEYS k2 k3",
        "XREAD COUNT 1 STREAMS streams k1 0 0-1",
        "XREAD STREAMS k1 k2 0",
        "XREAD block 5 streams k1 0",
        "XREADGROUP GROUP streams c COUNT 1 NOACK streams k1 k2 > 0",
        "XREADGROUP COUNT 1 GROUP STREAMS c STREAMS k1 >",
        "XREAD COUNT 1 k1",
        "EVAL s 0",
        "EVAL s 0 k1",
        "EVAL s 5 k1 k2",
        "EVAL s -1 k1",
        "EVAL s x k1",
        "FCALL_RO f 1 k1 k2",
        "ZUNIONSTORE k1 0 k2",
        "ZUNIONSTORE k1 -3 k2",
        "ZUNIONSTORE k1 3 k2 k3",
        "ZUNIONSTORE k1 1 k2 WEIGHTS k3",
        "ZINTERCARD 2 k1 k2 LIMIT 1",
        "LMPOP 1 k1 LEFT COUNT k2",
        "BITOP NOT k1 k2",
        "RESTORE k1 0 v REPLACE",
        "MEMORY USAGE k1 SAMPLES 5",
        "GET k1 k2",
    ] {
        let call: Vec<_> = example.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        compare_keys(&mut redis, &call);
    }
}

#[test]
fn a_wrong_number_of_arguments_is_told_in_the_words_of_redis() {
    let mut redis = Redis::start();
    let mut compared = 0;
    for name in redis.commands().keys() {
        let spec = row(name);
        let words: Vec<_> = name.split('|').map(|word| word.to_uppercase().into_bytes()).collect();
        let arity = usize::from(spec.arity.unsigned_abs());
        let too_many = (spec.arity > 0).then_some(arity + 1);
        for len in (words.len()..arity).chain(too_many) {
            // With a second word, a container's error is about the subcommand.
            if spec.subcommands != 0 && len > 1 {
                continue;
            }
            let mut call = words.clone();
            call.resize(len, b"x".to_vec());
            let error = invalid(&call);
            assert!(matches!(error, CommandError::Arity(row) if row.name == name), "{name}");
            compare_errors(&mut redis, &call, error);
            compared += 1;
        }
    }
    assert!(compared > 400, "only {compared} calls");
}

#[test]
fn an_unknown_subcommand_is_told_in_the_words_of_redis() {
    let mut redis = Redis::start();
    let live = redis.commands();
    let containers = || live.keys().map(|name| row(name)).filter(|spec| spec.subcommands != 0);
    assert_eq!(containers().count(), 15);
    for container in containers() {
        for word in [&b"nope"[..], b"", b"a\r\nb", b"a\0b", b"\xff\xfe", b"GET|", &[b'x'; 200]] {
            let call = [container.name.to_uppercase().into_bytes(), word.to_vec(), b"k".to_vec()];
            compare_errors(&mut redis, &call, invalid(&call));
        }
    }
}

#[test]
fn an_unknown_command_is_told_in_the_words_of_redis() {
    let mut redis = Redis::start();
    let calls: [&[&[u8]]; 14] = [
        &[b"foo"],
        &[b"Foo", b"a", b"b c"],
        &[b"", b""],
        &[b"a\r\nb", b"c\r\n", b"d'e"],
        &[b"a\0b", b"c\0d", b"\xff"],
        &[b"config|get", b"k"],
        &[b"get\0", b"k"],
        &[&[b'x'; 200], b"a"],
        &[b"foo", &[b'x'; 127], b"b"],
        &[b"foo", &[b'x'; 126], b"b"],
        &[b"foo", &[b'x'; 125], b"b"],
        &[b"foo", &[b'x'; 124], b"b"],
        &[b"foo", &[b'x'; 100], &[b'y'; 100], b"b"],
        &[&[b'y'; 24], b"a"],
    ];
    for call in calls {
        let call: Vec<_> = call.iter().map(|arg| arg.to_vec()).collect();
        let found = with_frame(&call, |frame| lookup(&frame));
        assert!(matches!(found, Lookup::Unknown | Lookup::Invalid(CommandError::UnknownCommand)));
        compare_errors(&mut redis, &call, CommandError::UnknownCommand);
    }
}

fn row(name: &str) -> &'static CommandSpec {
    let row = COMMANDS.iter().find(|spec| spec.name == name);
    row.unwrap_or_else(|| panic!("the table lacks {name}"))
}

/// Calls of `spec` in which every argument differs from the others: of all lengths from the shortest
/// on, with every number of keys, with every keyword in every place and in several cases.
fn examples(spec: &CommandSpec) -> Vec<Vec<Vec<u8>>> {
    const MORE: usize = 6;
    let least = usize::from(spec.arity.unsigned_abs());
    let most = if spec.arity < 0 { least + MORE } else { least };
    let mut calls = Vec::new();
    for len in least..=most {
        let mut call: Vec<Vec<u8>> = spec.name.split('|').map(|word| word.into()).collect();
        call.extend((call.len()..len).map(|index| format!("arg{index}").into_bytes()));
        calls.push(call);
    }
    for KeySpec { begin_search, find_keys } in spec.key_specs {
        match (*begin_search, *find_keys) {
            (BeginSearch::Index(begin), FindKeys::KeyNum { count_at, .. }) => {
                let at = usize::from(begin + count_at);
                calls = calls
                    .iter()
                    .flat_map(|call| (0..call.len()).map(move |count| (call, count)))
                    .map(|(call, count)| replaced(call, at, count.to_string()))
                    .collect();
            }
            (BeginSearch::Keyword { word, .. }, _) => {
                let spellings = [
                    word.to_lowercase(),
                    word.to_string(),
                    format!("{word:.1}").to_lowercase() + &word[1..],
                ];
                let with_word: Vec<_> = calls
                    .iter()
                    .flat_map(|call| (2..call.len()).map(move |at| (call, at)))
                    .map(|(call, at)| replaced(call, at, spellings[at % 3].clone()))
                    .collect();
                calls.extend(with_word);
            }
            _ => {}
        }
    }
    calls
}

fn replaced(call: &[Vec<u8>], at: usize, word: String) -> Vec<Vec<u8>> {
    let mut call = call.to_vec();
    call[at] = word.into_bytes();
    call
}

fn compare_keys(redis: &mut Redis, call: &[Vec<u8>]) {
    let shown = String::from_utf8_lossy(&call.join(&b' ')).into_owned();
    let theirs = redis.call(&[&[b"COMMAND".to_vec(), b"GETKEYS".to_vec()], call].concat());
    let ours = with_frame(call, |frame| {
        let Lookup::Known(spec) = lookup(&frame) else { return None };
        let mut out = Vec::new();
        Some(keys(spec, &frame, &mut out).map(|()| out))
    });
    let (ours, theirs) = match (ours, theirs) {
        (None, Value::Error(text)) => {
            let refusal = "ERR Invalid number of arguments specified for command";
            return assert_eq!(text, refusal, "{shown}");
        }
        (Some(Err(KeysError::Malformed)), Value::Error(_)) => return,
        // An EVAL that announces more keys than it has: Redis finds none.
        (Some(Err(KeysError::Malformed)), Value::Array(keys)) if keys.is_empty() => return,
        // GETKEYS shows the keys of a pair cut short; the command itself refuses it.
        (Some(Err(KeysError::Arity)), Value::Array(_)) => return,
        // Redis 7.0 does not see the only key, and would run the command on any node.
        (Some(Ok(ours)), Value::Error(_)) if call[0] == b"pfmerge" => {
            return assert_eq!((ours.as_slice(), call.len()), ([1].as_slice(), 2), "{shown}");
        }
        (Some(Ok(ours)), Value::Array(theirs)) => (ours, theirs),
        (ours, theirs) => panic!("{shown}: {ours:?}, but Redis says {theirs:?}"),
    };
    let mut ours: Vec<_> = ours.iter().map(|index| call[*index as usize].clone()).collect();
    let mut theirs: Vec<_> = theirs.iter().map(|key| key.text().into_bytes()).collect();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs, "{shown}");
}

fn invalid(call: &[Vec<u8>]) -> CommandError {
    match with_frame(call, |frame| lookup(&frame)) {
        Lookup::Invalid(error) => error,
        other => panic!("{}: {other:?}", String::from_utf8_lossy(&call.join(&b' '))),
    }
}

fn compare_errors(redis: &mut Redis, call: &[Vec<u8>], error: CommandError) {
    let mut ours = Vec::new();
    with_frame(call, |frame| error.write_reply(&frame, &mut ours));
    redis.send(call);
    assert_eq!(ours.escape_ascii().to_string(), redis.line().escape_ascii().to_string());
}

fn with_frame<T>(args: &[Vec<u8>], check: impl FnOnce(RequestFrame<'_>) -> T) -> T {
    let mut ranges = Vec::new();
    let mut start = 0;
    for arg in args {
        ranges.push(ArgRange { start, len: arg.len() as u32 });
        start += arg.len() as u32;
    }
    check(RequestFrame::new(&args.concat(), &ranges))
}

/// What the table and the server both tell of a command, in the server's words.
#[derive(Debug, Eq, PartialEq)]
struct Described {
    arity: String,
    flags: BTreeSet<String>,
    key_specs: Vec<String>,
    policies: BTreeSet<String>,
}

impl Described {
    fn by_table(spec: &CommandSpec) -> Self {
        let request = match spec.request_policy {
            RequestPolicy::Default => None,
            RequestPolicy::AllNodes => Some("all_nodes"),
            RequestPolicy::AllShards => Some("all_shards"),
            RequestPolicy::MultiShard => Some("multi_shard"),
            RequestPolicy::Special => Some("special"),
        };
        let response = match spec.response_policy {
            ResponsePolicy::Default => None,
            ResponsePolicy::AggLogicalAnd => Some("agg_logical_and"),
            ResponsePolicy::AggMin => Some("agg_min"),
            ResponsePolicy::AggSum => Some("agg_sum"),
            ResponsePolicy::AllSucceeded => Some("all_succeeded"),
            ResponsePolicy::OneSucceeded => Some("one_succeeded"),
            ResponsePolicy::Special => Some("special"),
        };
        Self {
            arity: spec.arity.to_string(),
            flags: spec.flags.names().map(String::from).collect(),
            key_specs: spec.key_specs.iter().map(Self::key_spec_by_table).collect(),
            policies: request
                .map(|policy| format!("request_policy:{policy}"))
                .into_iter()
                .chain(response.map(|policy| format!("response_policy:{policy}")))
                .collect(),
        }
    }

    fn key_spec_by_table(spec: &KeySpec) -> String {
        let begin = match spec.begin_search {
            BeginSearch::Index(index) => format!("index {index}"),
            BeginSearch::Keyword { word, start_from } => format!("keyword {word} {start_from}"),
            BeginSearch::Unknown => "unknown".to_string(),
        };
        let find = match spec.find_keys {
            FindKeys::Range { last, step, limit } => format!("range {last} {step} {limit}"),
            FindKeys::KeyNum { count_at, first, step } => {
                format!("keynum {count_at} {first} {step}")
            }
            FindKeys::Unknown => "unknown".to_string(),
        };
        format!("{begin}, {find}")
    }

    fn by_server(entry: &[Value]) -> Self {
        Self {
            arity: entry[1].text(),
            flags: entry[2].array().iter().map(Value::text).collect(),
            key_specs: entry[8].array().iter().map(Self::key_spec_by_server).collect(),
            policies: entry[7]
                .array()
                .iter()
                .map(Value::text)
                .filter(|tip| tip.contains("_policy:"))
                .collect(),
        }
    }

    /// `[flags, [...], begin_search, [type, index, spec, [index, 1]], find_keys, [...]]`
    fn key_spec_by_server(spec: &Value) -> String {
        let spec = spec.map();
        let half = |name: &str| {
            let half = spec[name].map();
            let values = half["spec"].map();
            let order: &[&str] = match half["type"].text().as_str() {
                "index" => &["index"],
                "keyword" => &["keyword", "startfrom"],
                "range" => &["lastkey", "keystep", "limit"],
                "keynum" => &["keynumidx", "firstkey", "keystep"],
                _ => &[],
            };
            let values = order.iter().map(|name| values[*name].text());
            [half["type"].text()].into_iter().chain(values).collect::<Vec<_>>().join(" ")
        };
        format!("{}, {}", half("begin_search"), half("find_keys"))
    }
}

/// A reply, as much as these tests need to know of it.
#[derive(Debug)]
enum Value {
    Array(Vec<Self>),
    Error(String),
    Text(String),
}

impl Value {
    fn array(&self) -> &[Self] {
        let Self::Array(values) = self else { panic!("no array: {self:?}") };
        values
    }

    fn map(&self) -> BTreeMap<String, &Self> {
        self.array().chunks(2).map(|pair| (pair[0].text(), &pair[1])).collect()
    }

    fn text(&self) -> String {
        let Self::Text(text) = self else { panic!("no text: {self:?}") };
        text.clone()
    }
}

/// A redis-server of our own, and a connection to it.
struct Redis {
    stream: BufReader<TcpStream>,
    _server: RedisServer,
}

impl Redis {
    fn start() -> Self {
        let server = RedisServer::start(&[]).unwrap();
        let stream = TcpStream::connect(server.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Self { stream: BufReader::new(stream), _server: server }
    }

    /// What the server tells of each command and subcommand.
    fn commands(&mut self) -> BTreeMap<String, Described> {
        let mut all = BTreeMap::new();
        for entry in self.call(&[b"COMMAND".to_vec()]).array() {
            let entry = entry.array();
            for entry in entry[9].array().iter().map(Value::array).chain([entry]) {
                all.insert(entry[0].text(), Described::by_server(entry));
            }
        }
        all
    }

    fn call(&mut self, args: &[Vec<u8>]) -> Value {
        self.send(args);
        self.value()
    }

    fn send(&mut self, args: &[Vec<u8>]) {
        let mut request = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            request.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            request.extend_from_slice(arg);
            request.extend_from_slice(b"\r\n");
        }
        self.stream.get_mut().write_all(&request).unwrap();
    }

    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        line
    }

    fn value(&mut self) -> Value {
        let line = String::from_utf8(self.line()).unwrap();
        let (kind, rest) = line.trim_end().split_at(1);
        match kind {
            "+" | ":" => Value::Text(rest.to_string()),
            "-" => Value::Error(rest.to_string()),
            "$" => {
                let mut bytes = vec![0; rest.parse::<usize>().unwrap() + 2];
                self.stream.read_exact(&mut bytes).unwrap();
                bytes.truncate(bytes.len() - 2);
                Value::Text(String::from_utf8(bytes).unwrap())
            }
            "*" => Value::Array((0..rest.parse().unwrap()).map(|_| self.value()).collect()),
            _ => panic!("no reply these tests know: {line:?}"),
        }
    }
}
