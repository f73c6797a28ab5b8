//! Routing, sampling, passwords, TLS and host names, each on real servers.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use crate::support::Client;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use serde_json::{Value, json};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, Port, RedisCluster, RedisServer, Security,
    Tls, upstream_tls,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

const SECRET: &str = "do-not-tell-4711";

/// Three primaries without replicas: nothing here reads from one.
fn primaries_only() -> ClusterOptions {
    ClusterOptions { replicas_per_primary: 0, ..ClusterOptions::default() }
}

/// The configuration of one cluster for all keys, with `more` of its words.
fn one_cluster(seeds: &[String], more: Value) -> PluginConfig {
    let mut cluster = json!({"seeds": seeds});
    cluster.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let config = json!({
        "settings": {"op_timeout": "3s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": cluster},
    });
    PluginConfig::from_text(config.to_string())
}

/// A command's reply as text, with its line ends escaped.
fn ask(client: &mut Client, args: &[&str]) -> String {
    client.call(args).escape_ascii().to_string()
}

/// The keys that the primaries of a cluster hold.
fn keys(cluster: &RedisCluster) -> BTreeSet<String> {
    let primaries = cluster.primaries().unwrap();
    primaries.into_iter().flat_map(keys_of).collect()
}

fn keys_of(server: &RedisServer) -> Vec<String> {
    redis::cmd("KEYS").arg("*").query(&mut server.connect().unwrap()).unwrap()
}

/// Writes to each shard and reads it back.
fn use_all_shards(client: &mut Client) {
    for number in 0..30 {
        let (key, value) = (format!("key:{number}"), format!("value:{number}"));
        assert_eq!(ask(client, &["SET", &key, &value]), r"+OK\r\n");
        assert_eq!(ask(client, &["GET", &key]), format!(r"${}\r\n{value}\r\n", value.len()));
    }
}

#[test]
fn keys_go_to_two_clusters_by_their_prefix() {
    let [orders, rest] = [(); 2].map(|()| RedisCluster::start(primaries_only()).unwrap());
    let config = json!({
        "settings": {"op_timeout": "5s"},
        "prefix_routes": {
            "routes": [{"prefix": "order:", "remove_prefix": true, "cluster": "orders"}],
            "catch_all_route": {"cluster": "rest"},
        },
        "clusters": {"orders": {"seeds": orders.seeds()}, "rest": {"seeds": rest.seeds()}},
    });
    let envoy =
        Envoy::start(EnvoyOptions::new(PluginConfig::from_text(config.to_string()))).unwrap();
    let mut client = Client::connect(envoy.addr());
    for number in 0..20 {
        let value = number.to_string();
        assert_eq!(ask(&mut client, &["SET", &format!("order:{number}"), &value]), r"+OK\r\n");
        assert_eq!(ask(&mut client, &["SET", &format!("user:{number}"), &value]), r"+OK\r\n");
    }
    assert_eq!(keys(&orders), (0..20).map(|number| number.to_string()).collect());
    assert_eq!(keys(&rest), (0..20).map(|number| format!("user:{number}")).collect());
    // One command on keys of both.
    let values = ask(&mut client, &["MGET", "order:3", "user:14", "order:nobody", "user:5"]);
    assert_eq!(values, r"*4\r\n$1\r\n3\r\n$2\r\n14\r\n$-1\r\n$1\r\n5\r\n");
    assert_eq!(ask(&mut client, &["DEL", "order:3", "user:14", "user:nobody"]), r":2\r\n");
    assert!(!keys(&orders).contains("3") && !keys(&rest).contains("user:14"));
}

/// A filter that knows who a client is, by where it connects from.
const TENANT_FILTER: &str = r#"    - filters:
      - name: envoy.filters.network.set_filter_state
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config
          on_new_connection:
          - object_key: tenant
            factory_key: envoy.string
            format_string:
              text_format_source: {inline_string: "acme-%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}
"#;

#[test]
fn keys_are_made_of_what_envoy_knows_of_the_connection() {
    let server = RedisServer::start(&[]).unwrap();
    let config = json!({
        "settings": {"op_timeout": "5s"},
        "prefix_routes": {
            "routes": [
                {"prefix": "t:", "cluster": "redis", "remove_prefix": true,
                 "key_formatter": "%FILTER_STATE(tenant:PLAIN)%:%KEY%"},
                {"prefix": "short:", "cluster": "redis", "remove_prefix": true,
                 "key_formatter": "%FILTER_STATE(tenant:PLAIN):4%:%KEY%"},
                {"prefix": "from:", "cluster": "redis", "remove_prefix": true,
                 "key_formatter": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:%KEY%"},
                {"prefix": "to:", "cluster": "redis", "remove_prefix": true,
                 "key_formatter": "%DOWNSTREAM_LOCAL_ADDRESS%:%KEY%"},
            ],
            "catch_all_route": {
                "cluster": "redis", "key_formatter": "%FILTER_STATE(nobody)%<%KEY%>",
            },
        },
        "clusters": {"redis": {"type": "STANDALONE", "seeds": [server.addr().to_string()]}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    options.template = options.template.replacen("    - filters:\n", TENANT_FILTER, 1).into();
    let envoy = Envoy::start(options).unwrap();
    let mut client = Client::connect(envoy.addr());
    let pairs = "MSET t:a 1 t:b 2 short:a 3 from:a 4 to:a 5 a 6";
    assert_eq!(ask(&mut client, &pairs.split(' ').collect::<Vec<_>>()), r"+OK\r\n");
    let local = format!("{}:a", envoy.addr());
    let expected = ["acme-127.0.0.1:a", "acme-127.0.0.1:b", "acme:a", "127.0.0.1:a", &local, "<a>"];
    let keys: BTreeSet<String> = keys_of(&server).into_iter().collect();
    assert_eq!(keys, expected.map(str::to_owned).into());
}

#[test]
fn clients_of_a_server_with_databases_are_in_one_each() {
    let server = RedisServer::start(&[]).unwrap();
    let config = json!({
        "settings": {"op_timeout": "5s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"type": "STANDALONE", "seeds": [server.addr().to_string()]}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    // Else two clients might share no connection anyway.
    options.concurrency = 1;
    let envoy = Envoy::start(options).unwrap();
    let (mut zero, mut three) = (Client::connect(envoy.addr()), Client::connect(envoy.addr()));
    assert_eq!(ask(&mut three, &["SELECT", "3"]), r"+OK\r\n");
    assert_eq!(ask(&mut three, &["SET", "a", "three"]), r"+OK\r\n");
    assert_eq!(ask(&mut zero, &["SET", "a", "zero"]), r"+OK\r\n");
    assert_eq!(ask(&mut three, &["GET", "a"]), r"$5\r\nthree\r\n");
    assert_eq!(ask(&mut zero, &["GET", "a"]), r"$4\r\nzero\r\n");
    ask(&mut three, &["MULTI"]);
    ask(&mut three, &["APPEND", "a", "!"]);
    assert_eq!(ask(&mut three, &["EXEC"]), r"*1\r\n:6\r\n");
    assert_eq!(ask(&mut three, &["SELECT", "16"]), r"-ERR DB index is out of range\r\n");
    assert_eq!(ask(&mut three, &["GET", "a"]), r"$6\r\nthree!\r\n");
    let mut direct = Client::connect(server.addr());
    ask(&mut direct, &["SELECT", "3"]);
    assert_eq!(ask(&mut direct, &["GET", "a"]), r"$6\r\nthree!\r\n");
    assert_eq!(ask(&mut direct, &["DBSIZE"]), r":1\r\n");
}

#[test]
fn half_a_mirror_holds_the_same_keys_on_every_run() {
    let cluster = RedisCluster::start(primaries_only()).unwrap();
    let sample = || -> BTreeSet<String> {
        let mirror = RedisServer::start(&[]).unwrap();
        let half = json!({"default_value": {"numerator": 50, "denominator": "HUNDRED"}});
        let config = json!({
            "settings": {"op_timeout": "5s"},
            "prefix_routes": {
                // All of these are copied: one of them, sent last, says that the others are
                // through.
                "routes": [{
                    "prefix": "end",
                    "cluster": "redis",
                    "request_mirror_policy": [{"cluster": "mirror"}],
                }],
                "catch_all_route": {
                    "cluster": "redis",
                    "request_mirror_policy": [{"cluster": "mirror", "runtime_fraction": half}],
                },
            },
            "clusters": {
                "redis": {"seeds": cluster.seeds()},
                "mirror": {"type": "STANDALONE", "seeds": [mirror.addr().to_string()]},
            },
        });
        let config = PluginConfig::from_text(config.to_string());
        let envoy = Envoy::start(EnvoyOptions::new(config)).unwrap();
        let mut client = Client::connect(envoy.addr());
        for number in 0..300 {
            assert_eq!(ask(&mut client, &["SET", &format!("key:{number}"), "1"]), r"+OK\r\n");
            assert_eq!(ask(&mut client, &["APPEND", &format!("key:{number}"), "2"]), r":2\r\n");
        }
        assert_eq!(ask(&mut client, &["SET", "end", "1"]), r"+OK\r\n");
        until("the last copy", PATIENCE, || {
            let exists: bool = redis::cmd("EXISTS").arg("end").query(&mut mirror.connect()?)?;
            Ok(if exists { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
        })
        .unwrap();
        let mut kept: BTreeSet<String> = keys_of(&mirror).into_iter().collect();
        kept.remove("end");
        // A key has all of its writes or none.
        for key in &kept {
            let value: String =
                redis::cmd("GET").arg(key).query(&mut mirror.connect().unwrap()).unwrap();
            assert_eq!(value, "12", "{key}");
        }
        kept
    };
    let first = sample();
    assert!((100..200).contains(&first.len()), "{} of 300 keys", first.len());
    assert_eq!(first, sample());
}

#[test]
fn only_the_right_password_opens_the_nodes_and_none_is_told() {
    let security = Security { password: Some(SECRET.to_owned()), tls: None };
    let single = RedisServer::start_secured(security.clone(), &[]).unwrap();
    let cluster = RedisCluster::start(ClusterOptions { security, ..primaries_only() }).unwrap();
    let start = |seeds: &[String], words: Value| {
        Envoy::start(EnvoyOptions::new(one_cluster(seeds, words))).unwrap()
    };

    let envoy = start(&cluster.seeds(), json!({"auth_password": {"inline_string": SECRET}}));
    use_all_shards(&mut Client::connect(envoy.addr()));
    assert!(!envoy.log().contains(SECRET), "{}", envoy.log());

    const WRONG: &str = "wrong-0815";
    let credentials = json!({"inline_string": WRONG});
    let standalone = json!({"type": "STANDALONE", "auth_password": credentials});
    for (seeds, words) in [
        (cluster.seeds(), json!({"auth_password": credentials})),
        (vec![single.addr().to_string()], standalone),
    ] {
        let envoy = start(&seeds, words);
        let error = ask(&mut Client::connect(envoy.addr()), &["SET", "a", "a"]);
        assert!(error.starts_with("-NOAUTH ") && error.contains("WRONGPASS"), "{error}");
        for text in [&error, &envoy.log()] {
            assert!(!text.contains(WRONG) && !text.contains(SECRET), "{text}");
        }
    }

    let envoy = start(&cluster.seeds(), json!({}));
    let error = ask(&mut Client::connect(envoy.addr()), &["SET", "a", "a"]);
    assert!(error.starts_with("-NOAUTH "), "{error}");
}

#[test]
fn a_clients_password_may_come_from_the_environment() {
    let server = RedisServer::start(&[]).unwrap();
    let config = json!({
        "settings": {"op_timeout": "3s"},
        "downstream_auth_password": {"environment_variable": "CLIENT_PASSWORD"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"type": "STANDALONE", "seeds": [server.addr().to_string()]}},
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    let error = Envoy::start(options.clone()).unwrap_err().to_string();
    assert!(error.contains("CLIENT_PASSWORD"), "{error}");

    options.environment.insert("CLIENT_PASSWORD".to_owned(), SECRET.to_owned());
    let envoy = Envoy::start(options).unwrap();
    let mut client = Client::connect(envoy.addr());
    assert!(ask(&mut client, &["GET", "a"]).starts_with("-NOAUTH "));
    assert!(ask(&mut client, &["AUTH", "wrong"]).starts_with("-WRONGPASS "));
    assert!(ask(&mut client, &["SET", "a", "a"]).starts_with("-NOAUTH "));
    assert_eq!(ask(&mut client, &["AUTH", SECRET]), r"+OK\r\n");
    assert_eq!(ask(&mut client, &["SET", "a", "a"]), r"+OK\r\n");
    assert!(ask(&mut Client::connect(envoy.addr()), &["GET", "a"]).starts_with("-NOAUTH "));
    assert!(!envoy.log().contains(SECRET), "{}", envoy.log());
}

/// An authority, and a certificate for `host` that it signed, good until the end of `last_year`.
fn certificates(host: &str, last_year: i32) -> Tls {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Slotmesh's test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().unwrap();
    let authority = params.self_signed(&authority_key).unwrap();
    let issuer = Issuer::from_params(&params, &authority_key);

    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "Slotmesh's test server");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(last_year, 12, 31);
    let key = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    Tls { certificate: certificate.pem(), key: key.serialize_pem(), authority: authority.pem() }
}

#[test]
fn a_cluster_is_reached_by_tls() {
    let tls = certificates("127.0.0.1", 4000);
    let security = Security { password: Some(SECRET.to_owned()), tls: Some(tls.clone()) };
    let cluster =
        RedisCluster::start(ClusterOptions { security, ..ClusterOptions::default() }).unwrap();
    let credentials = json!({"auth_password": {"inline_string": SECRET}});
    let mut options = EnvoyOptions::new(one_cluster(&cluster.seeds(), credentials));
    options.transport_socket = Some(upstream_tls(&json!({"inline_string": tls.authority}), None));
    let envoy = Envoy::start(options).unwrap();
    let mut client = Client::connect(envoy.addr());
    use_all_shards(&mut client);
    // Redirections lead to the same ports.
    let primaries = cluster.primaries().unwrap();
    cluster.reshard(500, primaries[0], primaries[2]).unwrap();
    use_all_shards(&mut client);
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_program_behind_make_envoy_reaches_a_redis_that_wants_tls_and_a_password() {
    let tls = certificates("127.0.0.1", 4000);
    let security = Security { password: Some(SECRET.to_owned()), tls: Some(tls.clone()) };
    let server = RedisServer::start_secured(security, &[]).unwrap();
    let port = Port::free().unwrap();
    let dir = std::env::temp_dir().join(format!("slotmesh-run-{}", port.number()));
    fs::create_dir_all(&dir).unwrap();
    let (ca, config) = (dir.join("ca.pem"), dir.join("plugin.json"));
    fs::write(&ca, &tls.authority).unwrap();
    let words = json!({
        "type": "STANDALONE", "auth_password": {"environment_variable": "REDIS_PASSWORD"},
    });
    let seeds = [server.addr().to_string()];
    fs::write(&config, one_cluster(&seeds, words).as_str()).unwrap();

    let start = |password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_slotmesh-run"));
        command.args(["envoy", "--port", &port.number().to_string(), "--concurrency", "1"]);
        command.args(["--env", "REDIS_PASSWORD", "--config"]).arg(&config);
        command.arg("--tls-ca").arg(&ca).stdin(Stdio::null()).stderr(Stdio::piped());
        command.env_remove("REDIS_PASSWORD");
        command.envs(password.map(|password| ("REDIS_PASSWORD", password)));
        command.spawn().unwrap()
    };
    let refused = start(None).wait_with_output().unwrap();
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("REDIS_PASSWORD is not set"), "{error}");

    let mut running = Running(start(Some(SECRET)));
    let mut lines = BufReader::new(running.0.stderr.take().unwrap()).lines();
    let mut shown = String::new();
    let bootstrap = loop {
        let line = lines.next().unwrap_or_else(|| panic!("it ended: {shown}")).unwrap();
        shown.push_str(&line);
        if let Some(path) = line.trim().strip_prefix("bootstrap") {
            break path.trim().to_owned();
        }
    };
    let mut client = Client::connect(port.addr());
    use_all_shards(&mut client);
    let bootstrap = fs::read_to_string(bootstrap).unwrap();
    assert!(bootstrap.contains("REDIS_PASSWORD") && !bootstrap.contains(SECRET));
    assert!(!shown.contains(SECRET), "{shown}");
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn an_expired_certificate_is_told_and_nothing_leaves_in_plaintext() {
    refuse_certificate(&certificates("127.0.0.1", 2021), "certificate_has_expired");
}

#[test]
fn a_certificate_for_another_host_is_told_and_nothing_leaves_in_plaintext() {
    refuse_certificate(&certificates("127.0.0.2", 4000), "SAN");
}

fn refuse_certificate(tls: &Tls, reason: &str) {
    let security = Security { password: None, tls: Some(tls.clone()) };
    let server = RedisServer::start_secured(security, &[]).unwrap();
    let (relay, connections) = record(server.addr());
    let mut options = EnvoyOptions::new(one_cluster(&[relay.to_string()], json!({})));
    options.transport_socket = Some(upstream_tls(&json!({"inline_string": tls.authority}), None));
    let envoy = Envoy::start(options).unwrap();
    let mut client = Client::connect(envoy.addr());
    let error = ask(&mut client, &["SET", "plaintext-key", "plaintext-value"]);
    assert!(error.starts_with("-CLUSTERDOWN ") && error.contains(&relay.to_string()), "{error}");
    assert!(error.contains("CERTIFICATE_VERIFY_FAILED") && error.contains(reason), "{error}");
    drop(client);
    drop(envoy);

    let first = connections.recv_timeout(PATIENCE).expect("Envoy tried to connect");
    for bytes in [first].into_iter().chain(connections.try_iter()) {
        // A TLS handshake (RFC 8446, section 5.1), and none of what the proxy had to say.
        assert!(bytes.is_empty() || bytes.starts_with(&[0x16, 0x03]), "{}", bytes.escape_ascii());
        let text = String::from_utf8_lossy(&bytes);
        for word in ["plaintext", "CLUSTER", "HELLO"] {
            assert!(!text.contains(word), "{}", bytes.escape_ascii());
        }
    }
}

/// Relays connections to `server`; gives the address to connect to, and what the clients of each
/// connection sent, once it has ended.
fn record(server: SocketAddr) -> (SocketAddr, Receiver<Vec<u8>>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let addr = listener.local_addr().unwrap();
    let (recorded, connections) = channel();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let recorded = recorded.clone();
            thread::spawn(move || recorded.send(relay(client, server)));
        }
    });
    (addr, connections)
}

/// Relays one connection to its end, however it ends; returns what the client sent.
fn relay(mut client: TcpStream, server: SocketAddr) -> Vec<u8> {
    let mut server = TcpStream::connect(server).unwrap();
    let (mut from_server, mut to_client) =
        (server.try_clone().unwrap(), client.try_clone().unwrap());
    thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
        let _ = to_client.shutdown(Shutdown::Both);
    });
    let (mut sent, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(count @ 1..) = client.read(&mut buffer) {
        sent.extend_from_slice(&buffer[..count]);
        if server.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = server.shutdown(Shutdown::Both);
    sent
}

#[test]
fn nodes_that_go_by_host_names_are_found_and_redirections_to_them_followed() {
    let names = ["--cluster-announce-hostname", "localhost"];
    let preferred = ["--cluster-preferred-endpoint-type", "hostname"];
    let redis_args = [names, preferred].concat().into_iter().map(str::to_owned).collect();
    let cluster = RedisCluster::start(ClusterOptions { redis_args, ..primaries_only() }).unwrap();
    let envoy = Envoy::start(EnvoyOptions::new(one_cluster(&cluster.seeds(), json!({})))).unwrap();
    let mut client = Client::connect(envoy.addr());
    use_all_shards(&mut client);
    let primaries = cluster.primaries().unwrap();
    let log = envoy.log();
    for primary in &primaries {
        let name = format!("localhost:{}", primary.addr().port());
        assert!(log.contains(&name), "{name} is not in {log}");
    }
    cluster.reshard(5000, primaries[0], primaries[1]).unwrap();
    use_all_shards(&mut client);
}
