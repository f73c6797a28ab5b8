//! Redis' own users through real Envoy: what they may do, a real Redis Cluster says.

use std::thread;
use std::time::Duration;

use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::RawClient;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// ACL SETUSER on every node. The proxy's own user may do nothing but ask for the topology.
const USERS: [&str; 4] = [
    "proxy on >pq7proxy -@all +cluster|slots +cluster|info +cluster|myid +ping +role +readonly +client|id",
    "alice on >pq7alice ~app:* &app:* +@all -flushall -config",
    "bob on >pq7bob ~* +@read +@connection +@transaction +acl|whoami",
    "carol on >pq7carol ~* +@all -multi",
];

/// What a client says, as one user after the other, and what a standalone server must answer the
/// same.
const CONVERSATION: &[&str] = &[
    "ACL WHOAMI",
    "AUTH alice pq7wrong",
    "AUTH pq7wrong",
    "AUTH nobody pq7alice",
    "ACL WHOAMI",
    "AUTH alice pq7alice",
    "ACL WHOAMI",
    "SET app:a 1",
    "SET other 1",
    "GET other",
    "MSET app:a 1 app:b 2 app:c 3",
    "MGET app:a app:b app:c",
    "MGET app:a other app:c",
    "EXISTS app:a",
    "FLUSHALL",
    "CONFIG GET maxmemory",
    "PING",
    "PING hello",
    "ECHO hello",
    "PUBLISH app:news x",
    "PUBLISH other:news x",
    "LPUSH app:list 1 2 3",
    "BLPOP app:list 1",
    "BLPOP other 1",
    "EVAL return{redis.call('GET',KEYS[1])} 1 app:a",
    "EVAL return{1} 1 other",
    "MULTI",
    "INCR app:n",
    "INCR app:n",
    "EXEC",
    "WATCH app:n",
    "MULTI",
    "INCR app:n",
    "EXEC",
    "WATCH other",
    "SELECT 0",
    "AUTH bob pq7bob",
    "ACL WHOAMI",
    "GET app:a",
    "SET app:a 2",
    "MGET app:a app:b other",
    "MSET app:a 1 app:b 2",
    "BLPOP app:list 1",
    "EVAL return{1} 0",
    "AUTH alice pq7bob",
    "ACL WHOAMI",
    "RESET",
    "ACL WHOAMI",
    "SET other 1",
    "FLUSHALL",
    "QUIT",
];

fn add_users(server: &RedisServer) {
    for user in USERS {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg(user.split(' ').collect::<Vec<_>>());
        command.exec(&mut server.connect().unwrap()).unwrap();
    }
}

fn start(read_policy: &str) -> (RedisCluster, Envoy) {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    cluster.nodes().iter().for_each(add_users);
    let secret = |text: &str| json!({"inline_string": text});
    let config = json!({
        "settings": {"op_timeout": "5s", "read_policy": read_policy, "enable_command_stats": true},
        "auth_passthrough": true,
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {
            "seeds": cluster.seeds(),
            "auth_username": secret("proxy"),
            "auth_password": secret("pq7proxy"),
        }},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    options.log_level = "debug".to_owned();
    (cluster, Envoy::start(options).unwrap())
}

fn call(client: &mut RawClient, command: &str) -> String {
    let words: Vec<_> = command.split(' ').collect();
    client.call(&words).unwrap().escape_ascii().to_string()
}

#[test]
fn users_are_answered_as_by_one_server_with_the_same_users() {
    let (cluster, envoy) = start("MASTER");
    let standalone = RedisServer::start(&[]).unwrap();
    add_users(&standalone);
    let mut proxied = RawClient::connect(envoy.addr()).unwrap();
    let mut direct = RawClient::connect(standalone.addr()).unwrap();
    for command in CONVERSATION {
        assert_eq!(call(&mut proxied, command), call(&mut direct, command), "{command}");
    }
    // Each node knows connections of those users that have been there, and of the proxy's own.
    for node in cluster.primaries().unwrap() {
        let list: String =
            redis::cmd("CLIENT").arg("LIST").query(&mut node.connect().unwrap()).unwrap();
        let of = |user: &str| list.lines().filter(|line| line.contains(user)).count();
        assert!(of(" user=alice ") >= 1, "{list}");
        assert!(of(" user=alice ") <= 3, "{list}");
    }
    let log = envoy.log();
    let stats = format!("{:?}", envoy.stats().unwrap());
    for secret in ["pq7alice", "pq7bob", "pq7wrong"] {
        let line = log.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} is in the log: {line:?}");
        assert!(!stats.contains(secret), "{secret} is in the statistics");
    }
}

#[test]
fn a_user_without_multi_changes_nothing_by_a_transaction() {
    let (_cluster, envoy) = start("MASTER");
    let mut client = RawClient::connect(envoy.addr()).unwrap();
    for (command, reply) in [
        ("AUTH carol pq7carol", r"+OK\r\n"),
        ("SET a 1", r"+OK\r\n"),
        ("MULTI", r"+OK\r\n"),
        ("SET a 2", r"+QUEUED\r\n"),
        ("EXEC", r"-NOPERM this user has no permissions to run the \'multi\' command\r\n"),
        ("GET a", r"$1\r\n1\r\n"),
        ("SET a 3", r"+OK\r\n"),
    ] {
        assert_eq!(call(&mut client, command), reply, "{command}");
    }
}

#[test]
fn many_clients_of_several_users_at_once_are_never_taken_for_each_other() {
    let (_cluster, envoy) = start("PREFER_REPLICA");
    let addr = envoy.addr();
    thread::scope(|scope| {
        for client in 0..12 {
            let user = ["alice", "bob", "default"][client % 3];
            scope.spawn(move || {
                let mut connection = RawClient::connect(addr).unwrap();
                if user != "default" {
                    let reply = call(&mut connection, &format!("AUTH {user} pq7{user}"));
                    assert_eq!(reply, r"+OK\r\n");
                }
                for round in 0..100 {
                    let key = format!("app:{client}:{round}");
                    let reply = call(&mut connection, &format!("SET {key} {round}"));
                    match user {
                        "bob" => assert!(reply.starts_with("-NOPERM"), "{reply}"),
                        _ => assert_eq!(reply, r"+OK\r\n"),
                    }
                    let reply = call(&mut connection, &format!("GET other:{round}"));
                    match user {
                        "alice" => assert!(reply.starts_with("-NOPERM"), "{reply}"),
                        _ => assert_eq!(reply, r"$-1\r\n"),
                    }
                    let whoami = call(&mut connection, "ACL WHOAMI");
                    assert!(whoami.contains(user), "{whoami} instead of {user}");
                }
            });
        }
    });
}

#[test]
fn a_user_that_is_deleted_or_whose_node_dies_is_told_and_can_come_back() {
    let (cluster, envoy) = start("MASTER");
    let mut client = RawClient::connect(envoy.addr()).unwrap();
    assert_eq!(call(&mut client, "AUTH alice pq7alice"), r"+OK\r\n");
    assert_eq!(call(&mut client, "SET app:a 1"), r"+OK\r\n");
    for node in cluster.nodes() {
        let mut command = redis::cmd("ACL");
        command.arg("DELUSER").arg("alice").exec(&mut node.connect().unwrap()).unwrap();
    }
    until("alice to be nobody", PATIENCE, || {
        let reply = call(&mut client, "SET app:a 2");
        Ok(match reply.starts_with("-WRONGPASS") {
            true => Probe::Ready(()),
            false => Probe::NotYet(reply),
        })
    })
    .unwrap();
    let mut other = RawClient::connect(envoy.addr()).unwrap();
    assert_eq!(call(&mut other, "GET app:a"), r"$1\r\n1\r\n", "others are served");
    cluster.nodes().iter().for_each(add_users);
    assert_eq!(call(&mut client, "SET app:a 3"), r"+OK\r\n");
}
