//! The walk-through itself, with a client that does know Redis Cluster in place of the proxy, and
//! as `make mesh-verify` walks: through parts that run already.

use std::process::Command;
use std::time::Duration;

use slotmesh_testbed::process::run;
use slotmesh_testbed::walkthrough::{RedisCli, sharding};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

fn walk(cluster: &RedisCluster, proxy: &RedisCli) -> (anyhow::Result<()>, String) {
    let nodes: Vec<RedisCli> =
        cluster.nodes().iter().map(|node| RedisCli::on_port(node.addr().port())).collect();
    let mut shown = Vec::new();
    let result = sharding(proxy, &nodes, &mut shown);
    (result, String::from_utf8(shown).unwrap())
}

#[test]
fn the_walk_through_passes_only_where_every_shard_is_reached() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let port = cluster.nodes()[0].addr().port().to_string();

    let plain = RedisCli::new(["redis-cli", "-p", &port]);
    let (result, _) = walk(&cluster, &plain);
    let error = result.unwrap_err().to_string();
    assert!(error.contains("answered \"MOVED"), "{error}");
    cluster.flush().unwrap();

    let knowing = RedisCli::new(["redis-cli", "-c", "-p", &port]);
    let (result, shown) = walk(&cluster, &knowing);
    result.unwrap();
    assert!(shown.contains("[ok] the keys are spread over 3 primaries"), "{shown}");
    assert!(shown.contains("[ok] every replica holds exactly its primary's keys"), "{shown}");

    // A key that was there before is one too many.
    let owner = cluster.owner(12182).unwrap();
    redis::cmd("SET").arg("foo").arg("bar").exec(&mut owner.connect().unwrap()).unwrap();
    let (result, _) = walk(&cluster, &knowing);
    assert!(result.unwrap_err().to_string().contains("together the primaries hold"));
}

#[test]
fn a_deployment_that_runs_already_is_walked_through_again_and_again() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mirror = RedisServer::start(&[]).unwrap();
    let config =
        PluginConfig::with_replicas_and_mirror(&cluster.seeds(), &mirror.addr().to_string());
    let envoy = Envoy::start(EnvoyOptions::new(config)).unwrap();
    let walk = |last: &[&str]| {
        let line = |port: u16| format!("redis-cli -p {port}");
        let mut command = Command::new(env!("CARGO_BIN_EXE_slotmesh-run"));
        command.args(["walk", "--proxy", &line(envoy.addr().port())]);
        for node in cluster.nodes() {
            command.args(["--node", &line(node.addr().port())]);
        }
        command.args(["--mirror", &line(mirror.addr().port())]).args(last);
        run(command, Duration::from_secs(120))
    };
    let error = walk(&[]).unwrap_err().to_string();
    assert!(error.contains("--erase removes all its keys"), "{error}");
    for _ in 0..2 {
        let shown = walk(&["--erase"]).unwrap();
        assert!(shown.contains("[ok] it executed all 8 SETs, in order"), "{shown}");
        assert!(shown.ends_with("Every step was checked.\n"), "{shown}");
    }
}
