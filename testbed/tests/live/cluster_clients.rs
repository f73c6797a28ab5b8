//! Cluster-aware clients before a proxy that plays a cluster of one node (`cluster_emulation`), and
//! what CLIENT tells of clients in Envoy.

use std::time::Duration;

use crate::support::{Client, packages};
use redis::{Commands, Connection, ConnectionLike, RedisResult, Value};
use serde_json::json;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, or_skip, process,
};

/// Time for one program; it needs seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Envoy before a cluster, with or without emulation.
fn start(cluster: &RedisCluster, emulation: bool) -> Envoy {
    let config = json!({
        "settings": {"op_timeout": "10s", "cluster_emulation": emulation},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": cluster.seeds()}},
    });
    let options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    // Clients of one worker only see each other.
    Envoy::start(EnvoyOptions { concurrency: 1, ..options }).unwrap()
}

/// A command's reply as text, with its line ends escaped.
fn ask(client: &mut Client, args: &[&str]) -> String {
    client.call(args).escape_ascii().to_string()
}

#[test]
fn cluster_clients_find_one_node_that_owns_every_slot() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = start(&cluster, true);
    let address = envoy.addr();

    let client = redis::cluster::ClusterClient::new([format!("redis://{address}/")]).unwrap();
    let mut connection = client.get_connection().unwrap();
    for number in 0..300 {
        let key = format!("redis-rs:{number}");
        connection.set::<_, _, ()>(&key, number).unwrap();
        assert_eq!(connection.get::<_, i32>(&key).unwrap(), number);
    }
    let keys: Vec<_> = (0..300).map(|number| format!("redis-rs:{number}")).collect();
    let values: Vec<i32> = connection.mget(&keys).unwrap();
    assert_eq!(values, (0..300).collect::<Vec<_>>());

    let mut raw = Client::connect(address);
    let slots = ask(&mut raw, &["CLUSTER", "SLOTS"]);
    let port = address.port();
    let start = format!(r"*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n");
    assert!(slots.starts_with(&start), "{slots}");
    let slot = ask(&mut raw, &["CLUSTER", "KEYSLOT", "redis-rs:7"]);
    let slot = slot.trim_start_matches(':').trim_end_matches(r"\r\n");
    assert_eq!(ask(&mut raw, &["CLUSTER", "COUNTKEYSINSLOT", slot]), r":1\r\n");
    let keys = ask(&mut raw, &["CLUSTER", "GETKEYSINSLOT", slot, "10"]);
    assert_eq!(keys, r"*1\r\n$10\r\nredis-rs:7\r\n");

    let Some(mut program) = or_skip(packages::python("cluster.py")) else { return };
    program.args([address.ip().to_string(), port.to_string()]);
    process::run(program, PATIENCE).unwrap();
}

#[test]
fn clients_are_listed_and_killed_by_their_address() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = start(&cluster, false);
    let connect = || {
        let url = format!("redis://{}/", envoy.addr());
        redis::Client::open(url).unwrap().get_connection().unwrap()
    };
    let (mut victim, mut killer) = (connect(), connect());
    let ask = |connection: &mut Connection, words: &[&str]| -> RedisResult<String> {
        redis::cmd(words[0]).arg(&words[1..]).query(connection)
    };
    let error = ask(&mut victim, &["CLUSTER", "INFO"]).unwrap_err().to_string();
    assert!(error.contains("This instance has cluster support disabled"), "{error}");
    let info = ask(&mut victim, &["CLIENT", "INFO"]).unwrap();
    let address = info.split(' ').find_map(|field| field.strip_prefix("addr=")).unwrap();
    assert!(address.starts_with("127.0.0.1:"), "{info}");
    let list = ask(&mut killer, &["CLIENT", "LIST"]).unwrap();
    assert_eq!(list.lines().count(), 2, "{list}");
    assert!(list.contains(&format!("addr={address} ")), "{list}");
    assert_eq!(ask(&mut killer, &["CLIENT", "KILL", address]).unwrap(), "OK");
    let error = ask(&mut victim, &["PING"]).unwrap_err();
    assert!(error.is_io_error(), "{error}");
    assert_eq!(ask(&mut killer, &["CLIENT", "LIST"]).unwrap().lines().count(), 1);
}

#[test]
fn replies_are_left_out_as_the_client_wishes() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = start(&cluster, false);
    let mut connection = redis::Client::open(format!("redis://{}/", envoy.addr()))
        .unwrap()
        .get_connection()
        .unwrap();
    let commands = [
        redis::cmd("CLIENT").arg(&["REPLY", "OFF"]).get_packed_command(),
        redis::cmd("SET").arg(&["a", "1"]).get_packed_command(),
        redis::cmd("GET").arg("a").get_packed_command(),
        redis::cmd("CLIENT").arg(&["REPLY", "ON"]).get_packed_command(),
        redis::cmd("CLIENT").arg(&["REPLY", "SKIP"]).get_packed_command(),
        redis::cmd("INCR").arg("a").get_packed_command(),
        redis::cmd("GET").arg("a").get_packed_command(),
    ];
    let replies = connection.req_packed_commands(&commands.concat(), 0, 2).unwrap();
    assert_eq!(replies, [Value::Okay, Value::BulkString(b"2".to_vec())]);
}
