//! The real module on real sockets, before a real Redis Cluster of six nodes.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use crate::support;
use redis::{Connection, Value};
use slotmesh_host::{Config, Running, Server, Vms};
use slotmesh_testbed::{ClusterOptions, Host, HostOptions, PluginConfig, RedisCluster, locate};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// The host with the module, and the cluster behind it.
struct Proxy {
    server: Running,
    cluster: Arc<RedisCluster>,
}

impl Proxy {
    fn start() -> Self {
        Self::start_in(Vms::One)
    }

    fn start_in(vms: Vms) -> Self {
        let cluster = cluster();
        let config = Config::new(PluginConfig::from_seeds(&cluster.seeds()).as_str());
        let config = Config { vms, ..config };
        let server =
            Server::new(&support::wasm(), config, ANY_PORT).expect("the module starts").spawn();
        Self { server, cluster }
    }

    /// A client that speaks RESP2.
    fn connect(&self) -> Connection {
        self.connect_with("resp2")
    }

    fn connect_with(&self, protocol: &str) -> Connection {
        let url = format!("redis://{}/?protocol={protocol}", self.server.address());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    }

    fn assert_sound(self) {
        support::assert_sound(&self.server.stop().unwrap());
    }
}

/// The cluster that all tests running at the same time share; the last of them stops it. Keys
/// therefore begin with their test's name.
fn cluster() -> Arc<RedisCluster> {
    static SHARED: Mutex<Weak<RedisCluster>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let started = RedisCluster::start(ClusterOptions::default()).expect("Redis starts");
        let cluster = Arc::new(started);
        *shared = Arc::downgrade(&cluster);
        cluster
    })
}

fn query<T: redis::FromRedisValue>(client: &mut Connection, words: &[&str]) -> T {
    let (name, args) = words.split_first().unwrap();
    redis::cmd(name).arg(args).query(client).unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

#[test]
fn keys_of_all_shards_are_written_and_read() {
    for vms in [Vms::One, Vms::Two] {
        let proxy = Proxy::start_in(vms);
        let mut client = proxy.connect();
        for number in 0..300 {
            let key = format!("all:{vms:?}:{number}");
            query::<()>(&mut client, &["SET", &key, &number.to_string()]);
            assert_eq!(query::<usize>(&mut client, &["GET", &key]), number);
        }
        let pattern = format!("all:{vms:?}:*");
        for primary in proxy.cluster.primaries().unwrap() {
            let keys: Vec<String> = query(&mut primary.connect().unwrap(), &["KEYS", &pattern]);
            assert!(keys.len() > 50, "{} has only {} of 300 keys", primary.addr(), keys.len());
        }
        proxy.assert_sound();
    }
}

#[test]
fn commands_with_keys_of_many_slots_answer_as_one_server_would() {
    let proxy = Proxy::start();
    for protocol in ["resp2", "resp3"] {
        let mut client = proxy.connect_with(protocol);
        let keys: Vec<_> = (0..500).map(|number| format!("many:{number}")).collect();
        let mut set = redis::cmd("MSET");
        for (number, key) in keys.iter().enumerate() {
            set.arg(key).arg(number);
        }
        set.exec(&mut client).unwrap();
        let mut get = redis::cmd("MGET");
        get.arg(keys.iter().rev().collect::<Vec<_>>());
        let values: Vec<Option<usize>> = get.arg("many:missing").query(&mut client).unwrap();
        let expected: Vec<_> = (0..500).rev().map(Some).chain([None]).collect();
        assert_eq!(values, expected);
        let deleted: usize = redis::cmd("DEL").arg(&keys).query(&mut client).unwrap();
        assert_eq!(deleted, 500);
        let left: usize = redis::cmd("EXISTS").arg(&keys).query(&mut client).unwrap();
        assert_eq!(left, 0);
    }
    proxy.assert_sound();
}

#[test]
fn a_pipeline_of_a_thousand_over_all_shards_is_answered_in_order() {
    let proxy = Proxy::start();
    let mut client = proxy.connect();
    for round in 0..5 {
        let mut pipeline = redis::pipe();
        for number in 0..1000 {
            let key = format!("pipeline:{}", number % 100);
            match number % 2 {
                0 => pipeline.cmd("SET").arg(key).arg(number + round).ignore(),
                _ => pipeline.cmd("ECHO").arg(number + round),
            };
        }
        let echoed: Vec<usize> = pipeline.query(&mut client).unwrap();
        let expected: Vec<_> = (0..1000).skip(1).step_by(2).map(|number| number + round).collect();
        assert_eq!(echoed, expected);
    }
    let mut increments = redis::pipe();
    for _ in 0..1000 {
        increments.cmd("INCR").arg("pipeline:counter");
    }
    let counted: Vec<usize> = increments.query(&mut client).unwrap();
    assert_eq!(counted, (1..=1000).collect::<Vec<_>>());
    proxy.assert_sound();
}

#[test]
fn clients_of_both_protocols_are_served_side_by_side() {
    let proxy = Proxy::start();
    let (mut resp2, mut resp3) = (proxy.connect(), proxy.connect_with("resp3"));
    for number in 0..50 {
        let key = format!("protocols:{number}");
        query::<()>(&mut resp2, &["HSET", &key, "field", "value"]);
        let pair = [&b"field"[..], b"value"].map(|word| Value::BulkString(word.to_vec()));
        let [field, value] = pair.clone();
        let map: Value = query(&mut resp3, &["HGETALL", &key]);
        assert_eq!(map, Value::Map(vec![(field, value)]));
        let flat: Value = query(&mut resp2, &["HGETALL", &key]);
        assert_eq!(flat, Value::Array(pair.to_vec()));
    }
    proxy.assert_sound();
}

#[test]
fn values_are_any_bytes_and_as_large_as_they_are() {
    let proxy = Proxy::start();
    for protocol in ["resp2", "resp3"] {
        let mut client = proxy.connect_with(protocol);
        let binary: Vec<u8> = (0..=255).chain(*b"\r\n$5\r\n*1\r\n").collect();
        let large: Vec<u8> = (0..5_000_000_u32).map(|at| at.to_le_bytes()[0] ^ 0x5a).collect();
        for value in [binary, large, Vec::new()] {
            let key = [&b"bytes:\0\r\n\xff"[..], protocol.as_bytes()].concat();
            redis::cmd("SET").arg(&key).arg(&value).exec(&mut client).unwrap();
            let got: Vec<u8> = redis::cmd("GET").arg(&key).query(&mut client).unwrap();
            assert!(got == value, "{} of {} bytes", got.len(), value.len());
        }
    }
    proxy.assert_sound();
}

#[test]
fn slots_that_move_under_traffic_lose_and_repeat_nothing() {
    let proxy = Proxy::start();
    let cluster = &proxy.cluster;
    let primaries = cluster.primaries().unwrap();
    // redis-cli moves a node's lowest slots first.
    let moving_keys = |protocol| {
        let keys = (0..).map(move |number| format!("reshard:{protocol}:{number}"));
        keys.filter(|key| support::slot(key) < MOVED).take(100).collect::<Vec<_>>()
    };
    let moving = AtomicBool::new(true);
    thread::scope(|scope| {
        let traffic = ["resp2", "resp3"].map(|protocol| {
            let (proxy, moving) = (&proxy, &moving);
            scope.spawn(move || {
                let mut client = proxy.connect_with(protocol);
                let keys = moving_keys(protocol);
                let mut round = 0;
                while moving.load(Ordering::Acquire) {
                    round += 1;
                    let mut pipeline = redis::pipe();
                    for key in &keys {
                        pipeline.cmd("INCR").arg(key).cmd("GET").arg(key);
                    }
                    let counted: Vec<usize> = pipeline.query(&mut client).unwrap();
                    assert_eq!(counted, [round; 200]);
                }
                round
            })
        });
        let moved = cluster.reshard(MOVED, primaries[0], primaries[1]);
        let owner = cluster.owner(MOVED - 1).map(|owner| owner.addr());
        let moved_back = cluster.reshard(MOVED, primaries[1], primaries[0]);
        moving.store(false, Ordering::Release);
        moved.and(moved_back).unwrap();
        assert_eq!(owner.unwrap(), primaries[1].addr());
        for rounds in traffic.map(|traffic| traffic.join().unwrap()) {
            assert!(rounds > 10, "only {rounds} rounds while slots moved");
        }
    });
    proxy.assert_sound();
}

/// Slots that the reshard moves.
const MOVED: u16 = 300;

#[test]
fn the_program_answers_redis_cli() {
    let cluster = cluster();
    let host = Host::start(HostOptions::new(PluginConfig::from_seeds(&cluster.seeds()))).unwrap();
    let mut cli = Command::new(locate::program("redis-cli").unwrap());
    cli.args(["-h", "127.0.0.1", "-p", &host.addr().port().to_string()]);
    let output = cli.args(["SET", "cli:key", "value"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "OK\n", "{}", host.log());
}

/// Runs the program with a configuration that it must not start with, or on an address it cannot
/// have; returns what it said.
fn failure(name: &str, configuration: &str, listen: SocketAddr) -> String {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    fs::write(&path, configuration).unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_slotmesh-host"));
    program.arg("--wasm").arg(locate::wasm().unwrap()).arg("--config").arg(&path);
    let output = program.args(["--listen", &listen.to_string()]).output().unwrap();
    fs::remove_file(path).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    stderr
}

#[test]
fn a_wrong_configuration_ends_the_program_and_its_field_is_named() {
    let good = PluginConfig::from_seeds(&["127.0.0.1:1"]).as_str().to_owned();
    for (from, to, field) in [
        ("op_timeout", "op_timeuot", "settings.op_timeuot"),
        ("\"5s\"", "\"soon\"", "settings.op_timeout"),
        ("127.0.0.1:1", "127.0.0.1", "clusters.redis.seeds[0]"),
    ] {
        assert!(good.contains(from), "{good}");
        let stderr = failure("wrong", &good.replace(from, to), ANY_PORT);
        assert!(stderr.contains(&format!("configuration refused: {field}: ")), "{stderr}");
    }
}

#[test]
fn a_taken_port_is_said() {
    let holder = TcpListener::bind(ANY_PORT).unwrap();
    let taken = holder.local_addr().unwrap();
    let good = PluginConfig::from_seeds(&["127.0.0.1:1"]);
    let stderr = failure("taken", good.as_str(), taken);
    assert!(stderr.contains(&format!("{taken} is taken by another program")), "{stderr}");
}
