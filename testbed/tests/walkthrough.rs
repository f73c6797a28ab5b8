//! The walk-through itself, with a client that does know Redis Cluster in place of the proxy.

use slotmesh_testbed::walkthrough::{RedisCli, sharding};
use slotmesh_testbed::{ClusterOptions, RedisCluster};

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
