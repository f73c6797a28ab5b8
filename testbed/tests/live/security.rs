//! What a client may do before it has said who it is, and what nobody is ever told.

use std::collections::BTreeSet;

use serde_json::json;
use slotmesh_testbed::wire::RawClient;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer, Security,
};

/// Texts that stand nowhere else.
const CLIENT_PASSWORD: &str = "cq7clientpassword";
const NODE_PASSWORD: &str = "nq7nodepassword";
const KEY: &str = "kq7key";
const VALUE: &str = "vq7value";

fn envoy(seeds: &[String], log_level: &str) -> Envoy {
    let secrets = [("CLIENT_PASSWORD", CLIENT_PASSWORD), ("NODE_PASSWORD", NODE_PASSWORD)];
    let [client, node] = secrets.map(|(name, _)| json!({"environment_variable": name}));
    let config = json!({
        "settings": {"op_timeout": "5s", "enable_command_stats": true},
        "downstream_auth_passwords": [client],
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": seeds, "auth_password": node}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    // Envoy itself prints its whole configuration: so they must not stand there.
    let secrets = secrets.map(|(name, value)| (name.to_owned(), value.to_owned()));
    options.host_environment = secrets.iter().map(|(name, _)| name.clone()).collect();
    options.process_environment.extend(secrets);
    options.log_level = log_level.to_owned();
    Envoy::start(options).unwrap()
}

fn call(client: &mut RawClient, args: &[&str]) -> String {
    client.call(args).unwrap().escape_ascii().to_string()
}

#[test]
fn who_has_not_said_who_it_is_can_say_so_or_leave_and_nothing_else() {
    let redis = RedisServer::start(&[]).unwrap();
    let names: Vec<String> =
        redis::cmd("COMMAND").arg("LIST").query(&mut redis.connect().unwrap()).unwrap();
    assert!(names.len() > 200, "{names:?}");
    // No node is needed to refuse a client.
    let envoy = envoy(&["127.0.0.1:1".to_owned()], "warning");
    let mut allowed = BTreeSet::new();
    for name in &names {
        let name = name.split('|').next().unwrap_or(name);
        for args in [&[name][..], &[name, KEY], &[name, KEY, VALUE], &[name, "1", KEY, VALUE]] {
            let mut client = RawClient::connect(envoy.addr()).unwrap();
            let reply = call(&mut client, args);
            // As in Redis, a command that can be none at all is refused as such.
            let refused =
                ["-NOAUTH ", "-ERR wrong number", "-EXECABORT ", "-ERR unknown subcommand"];
            if !refused.iter().any(|error| reply.starts_with(error)) {
                allowed.insert(format!("{name}: {reply}"));
            }
        }
    }
    let allowed = Vec::from_iter(&allowed);
    let names: BTreeSet<_> = allowed.iter().filter_map(|one| one.split(':').next()).collect();
    assert_eq!(Vec::from_iter(names), ["auth", "hello", "quit", "reset"], "{allowed:?}");
    let stats = envoy.stats().unwrap();
    let asked = stats.iter().filter(|(name, _)| name.ends_with(".upstream_rq_total"));
    assert!(asked.clone().all(|(_, count)| *count == 0), "{:?}", Vec::from_iter(asked));
}

#[test]
fn who_has_not_said_who_it_is_is_not_listened_to_for_long() {
    let envoy = envoy(&["127.0.0.1:1".to_owned()], "warning");
    for (begin, error) in [
        ("*11\r\n", "-ERR Protocol error: invalid multibulk length"),
        ("*2\r\n$4\r\nAUTH\r\n$16385\r\n", "-ERR Protocol error: invalid bulk length"),
    ] {
        let mut client = RawClient::connect(envoy.addr()).unwrap();
        client.send(begin.as_bytes()).unwrap();
        let reply = client.read().unwrap().escape_ascii().to_string();
        assert!(reply.starts_with(error), "{reply}");
        assert!(client.read().is_err(), "the client was not closed");
    }
    // Who has may say more.
    let mut client = RawClient::connect(envoy.addr()).unwrap();
    assert_eq!(call(&mut client, &["AUTH", CLIENT_PASSWORD]), r"+OK\r\n");
    let long = "x".repeat(16_385);
    assert_eq!(call(&mut client, &["ECHO", &long]), format!(r"$16385\r\n{long}\r\n"));
}

#[test]
fn no_key_value_or_password_is_in_envoys_log_or_statistics() {
    let security = Security { password: Some(NODE_PASSWORD.to_owned()), tls: None };
    let cluster =
        RedisCluster::start(ClusterOptions { security, ..ClusterOptions::default() }).unwrap();
    let envoy = envoy(&cluster.seeds(), "debug");
    let mut client = RawClient::connect(envoy.addr()).unwrap();
    assert!(call(&mut client, &["AUTH", "wq7wrong"]).starts_with("-WRONGPASS "));
    assert!(call(&mut client, &["HELLO", "3", "AUTH", "uq7user", "wq7wrong"]).starts_with('-'));
    assert_eq!(call(&mut client, &["AUTH", CLIENT_PASSWORD]), r"+OK\r\n");
    let commands: [&[&str]; 16] = [
        &["SET", KEY, VALUE],
        &["GET", KEY],
        &["LPUSH", KEY, VALUE],
        &["MSET", KEY, VALUE, "kq7other", VALUE],
        &["MGET", KEY, "kq7other"],
        &["EVAL", "return redis.call('get', KEYS[1]) .. ARGV[1]", "1", KEY, VALUE],
        &["EVAL", "error('vq7value')", "1", KEY],
        &["kq7command", KEY, VALUE],
        &["CONFIG", "SET", "kq7parameter", VALUE],
        &["MULTI"],
        &["GET", KEY],
        &["EXEC"],
        &["PUBLISH", KEY, VALUE],
        &["BLPOP", "kq7list", "0.1"],
        &["CLIENT", "SETNAME", VALUE],
        &["WATCH", KEY],
    ];
    for args in commands {
        call(&mut client, args);
    }
    // Nodes and connections that fail are told in the log.
    for node in cluster.primaries().unwrap() {
        let mut kill = redis::cmd("CLIENT");
        kill.arg("KILL").arg("TYPE").arg("normal").exec(&mut node.connect().unwrap()).unwrap();
        call(&mut client, &["SET", KEY, VALUE]);
    }
    client.send(b"*2\r\n$3\r\nGET\r\nkq7key vq7value\r\n").unwrap();
    client.read().unwrap();
    let texts = [
        ("log", envoy.log()),
        ("statistics", format!("{:?}", envoy.stats().unwrap())),
        ("Prometheus' statistics", envoy.prometheus().unwrap()),
    ];
    for (name, text) in texts {
        assert!(text.len() > 1000, "the {name} are nearly empty: {text}");
        let found = ["cq7", "nq7", "kq7", "vq7", "wq7", "uq7"].map(|part| {
            let line = text.lines().find(|line| line.to_ascii_lowercase().contains(part));
            line.map(|line| format!("{part} is in the {name}: {line:.300}"))
        });
        let found: Vec<String> = found.into_iter().flatten().collect();
        assert!(found.is_empty(), "{}", found.join("\n"));
    }
}
