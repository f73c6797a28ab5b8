//! Reads from replicas.

use std::time::Duration;

use crate::support::{self, Chunking, Driver, Health, OP_TIMEOUT};
use slotmesh_engine::config::ReadPolicy;

/// One primary, `node-0:1`, with the replicas `replica-1:1` and `replica-2:1`.
fn driver(policy: ReadPolicy) -> Driver {
    let mut driver = Driver::with(Chunking::Whole, |config| config.read_policy = policy);
    driver.cluster = support::FakeCluster::new(1);
    driver.cluster.add_replica(0, "replica-1:1");
    driver.cluster.add_replica(0, "replica-2:1");
    driver
}

/// How many commands each node has executed, the primary first.
fn executed(driver: &Driver) -> [usize; 3] {
    ["node-0:1", "replica-1:1", "replica-2:1"]
        .map(|node| driver.cluster.executed.iter().filter(|line| line.starts_with(node)).count())
}

#[test]
fn reads_go_to_replicas_in_turn_and_writes_to_the_primary() {
    let mut driver = driver(ReadPolicy::Replica);
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    for _ in 0..10 {
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    }
    assert_eq!(executed(&driver), [1, 5, 5]);
    assert_eq!(driver.proxy.stats().redirect_moved, 0, "replicas were told READONLY");
    for write in ["APPEND a 1", "GETEX a", "GETSET a 2", "XADD s * f v", "SORT a", "EVAL s 1 a"] {
        driver.ask(client, write);
    }
    assert_eq!(executed(&driver), [7, 5, 5], "what may write is not read from a replica");
}

#[test]
fn a_replica_that_cannot_answer_now_is_passed_over_and_the_client_sees_nothing() {
    let mut driver = driver(ReadPolicy::Replica);
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    let loading = "LOADING Redis is loading the dataset in memory".to_owned();
    driver.cluster.errors.insert("replica-1:1".to_owned(), loading);
    for _ in 0..10 {
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    }
    assert_eq!(executed(&driver), [1, 1, 10], "it was asked once");
    driver.cluster.errors.clear();
    driver.wait(Duration::from_secs(1));
    for _ in 0..10 {
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    }
    assert_eq!(executed(&driver), [1, 6, 15], "it takes its turns again");
}

#[test]
fn a_lost_replica_costs_no_read() {
    for policy in [ReadPolicy::Replica, ReadPolicy::PreferReplica, ReadPolicy::Any] {
        let mut driver = driver(policy);
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        for _ in 0..6 {
            driver.ask(client, "GET a");
        }
        driver.cluster.set_health("replica-1:1", Health::Silent);
        for _ in 0..6 {
            driver.command(client, "GET a");
        }
        driver.cluster.set_health("replica-1:1", Health::Refusing);
        driver.cut("replica-1:1");
        assert_eq!(driver.received(client), "$1 1 ".repeat(6), "{policy:?}");
        for _ in 0..6 {
            assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        }
    }
}

#[test]
fn no_read_waits_for_a_connection_to_a_replica_that_was_lost() {
    for policy in [ReadPolicy::Replica, ReadPolicy::PreferReplica, ReadPolicy::Any] {
        let mut driver = driver(policy);
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        for _ in 0..6 {
            driver.ask(client, "GET a");
        }
        // Its address is gone: what is sent there is not even refused.
        driver.cluster.set_health("replica-1:1", Health::Unreachable);
        driver.cut("replica-1:1");
        for _ in 0..20 {
            assert_eq!(driver.ask(client, "GET a"), "$1 1 ", "{policy:?}");
            driver.wait(Duration::from_millis(500));
        }
        let before = executed(&driver)[1];
        driver.cluster.set_health("replica-1:1", Health::Well);
        driver.wait(Duration::from_secs(6));
        for _ in 0..6 {
            assert_eq!(driver.ask(client, "GET a"), "$1 1 ", "{policy:?}");
        }
        assert!(executed(&driver)[1] > before, "{policy:?}: it takes its turns again");
    }
}

#[test]
fn preferring_the_primary_reads_from_a_replica_while_the_primary_is_away() {
    let mut driver = driver(ReadPolicy::PreferMaster);
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    driver.ask(client, "GET a");
    assert_eq!(executed(&driver), [2, 0, 0]);
    driver.cluster.set_health("node-0:1", Health::Refusing);
    driver.cut("node-0:1");
    driver.command(client, "GET a");
    driver.wait(Duration::from_millis(100));
    assert_eq!(driver.received(client), "$1 1 ");
    assert_eq!(executed(&driver)[0], 2);
}

#[test]
fn with_all_replicas_away_one_policy_reads_from_the_primary_and_the_other_waits() {
    for (policy, reply) in [(ReadPolicy::PreferReplica, "$1 1 "), (ReadPolicy::Replica, "")] {
        let mut driver = driver(policy);
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        for replica in ["replica-1:1", "replica-2:1"] {
            driver.cluster.set_health(replica, Health::Refusing);
        }
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT / 2);
        assert_eq!(driver.received(client), reply, "{policy:?}");
        // The cluster's next topology has no replicas any more.
        driver.cluster.replicas.clear();
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT / 2);
        assert!(driver.received(client).ends_with("$1 1 "), "{policy:?}");
    }
}

#[test]
fn reads_keep_to_our_zone() {
    use slotmesh_engine::config::HostPattern;
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.read_policy = ReadPolicy::LocalZoneAffinity;
        config.zone = Some("b".to_owned());
        let zone = |host: &str, zone: &str| (HostPattern::Exact(host.to_owned()), zone.to_owned());
        config.clusters[0].zones = vec![zone("replica-1", "a"), zone("replica-2", "b")];
    });
    driver.cluster = support::FakeCluster::new(1);
    driver.cluster.add_replica(0, "replica-1:1");
    driver.cluster.add_replica(0, "replica-2:1");
    let client = driver.connect();
    for _ in 0..10 {
        driver.ask(client, "GET a");
    }
    assert_eq!(executed(&driver), [0, 0, 10]);
}

#[test]
fn nodes_may_tell_their_zone_themselves() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.read_policy = ReadPolicy::LocalZoneAffinity;
        config.zone = Some("b".to_owned());
        config.clusters[0].enable_zone_discovery = true;
        config.clusters[0].refresh_rate = Duration::from_secs(1);
    });
    driver.cluster = support::FakeCluster::new(1);
    for (replica, zone) in [("replica-1:1", "a"), ("replica-2:1", "b")] {
        driver.cluster.add_replica(0, replica);
        driver.cluster.zones.insert(replica.to_owned(), zone.to_owned());
    }
    let client = driver.connect();
    for _ in 0..20 {
        driver.ask(client, "GET a");
        driver.wait(Duration::from_millis(200));
    }
    let [primary, other_zone, our_zone] = executed(&driver);
    assert_eq!(primary, 0);
    assert!(other_zone <= 1, "until ours is found, both are asked: {other_zone}");
    assert_eq!(our_zone, 20 - other_zone);
}
