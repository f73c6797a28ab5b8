//! The whole walk-through, as `make demo` shows it, and that each step can fail.

use slotmesh_testbed::walkthrough::{RedisCli, mirroring, replica_reads, sharding};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

fn cli(server: &RedisServer) -> RedisCli {
    RedisCli::on_port(server.addr().port())
}

/// Walks on; gives the step's result and what it showed.
fn shown(step: impl FnOnce(&mut Vec<u8>) -> anyhow::Result<()>) -> (anyhow::Result<()>, String) {
    let mut out = Vec::new();
    let result = step(&mut out);
    (result, String::from_utf8(out).unwrap())
}

#[test]
fn redis_cli_walks_through_sharding_replica_reads_and_mirroring() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mirror = RedisServer::start(&[]).unwrap();
    let address = mirror.addr().to_string();
    let config = PluginConfig::with_replicas_and_mirror(&cluster.seeds(), &address);
    let envoy = Envoy::start(EnvoyOptions::new(config)).unwrap();
    let proxy = RedisCli::on_port(envoy.addr().port());
    let nodes: Vec<RedisCli> = cluster.nodes().iter().map(cli).collect();

    let (result, _) = shown(|out| sharding(&proxy, &nodes, out));
    result.unwrap();
    let (result, text) = shown(|out| replica_reads(&proxy, &nodes, out));
    result.unwrap();
    assert_eq!(text.matches(r#"] "GET" "b""#).count(), 3, "{text}");
    assert_eq!(text.matches(r#"] "SET" "b" "bb""#).count(), 2, "{text}");
    let (result, text) = shown(|out| mirroring(&proxy, &cli(&mirror), out));
    result.unwrap();
    assert_eq!(text.matches(r#"] "SET""#).count(), 8, "{text}");
    assert!(text.contains("[ok] it executed no GET"), "{text}");
}

/// With a client that knows Redis Cluster but neither replicas nor mirrors in place of the proxy.
#[test]
fn the_walk_through_sees_reads_on_a_primary_and_reads_on_a_mirror() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let port = cluster.nodes()[0].addr().port().to_string();
    let knowing = RedisCli::new(["redis-cli", "-c", "-p", &port]);
    let nodes: Vec<RedisCli> = cluster.nodes().iter().map(cli).collect();
    sharding(&knowing, &nodes, &mut std::io::sink()).unwrap();
    let error = replica_reads(&knowing, &nodes, &mut std::io::sink()).unwrap_err().to_string();
    assert!(error.contains("executed a GET") || error.contains("of 3 GETs"), "{error}");

    let alone = RedisServer::start(&[]).unwrap();
    for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        alone.cli(&["SET", key, key]).unwrap();
    }
    let error = mirroring(&cli(&alone), &cli(&alone), &mut std::io::sink()).unwrap_err();
    assert!(error.to_string().contains("the mirror got reads"), "{error}");
}
