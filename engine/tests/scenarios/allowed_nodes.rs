//! Nodes that the operator does not allow are not dialled, whoever names them.

use std::time::Duration;

use slotmesh_engine::config::{AllowedNodes, HostPattern};

use crate::support::{Chunking, Driver, OP_TIMEOUT};

/// A node that nobody allows.
const EVIL: &str = "evil:1";

const REFUSAL: &str = "-CLUSTERDOWN evil:1 is named as a node, but allowed_nodes of cluster 'main' \
                       does not allow it ";

/// Runs a scenario, under both ways of cutting bytes, in a proxy that allows these hosts.
fn allowing(hosts: &[&str], scenario: impl Fn(Driver)) {
    for chunking in [Chunking::Whole, Chunking::ByteByByte] {
        scenario(Driver::with(chunking, |config| {
            let allowed = hosts.iter().map(|host| (HostPattern::parse(host).unwrap(), 1..=1));
            config.clusters[0].allowed_nodes = Some(AllowedNodes(allowed.collect()));
        }));
    }
}

fn not_allowed(driver: &mut Driver) -> u64 {
    driver.proxy.stats().upstream_node_not_allowed
}

#[test]
fn nodes_that_are_allowed_are_served_from() {
    // node-0 and node-1 are seeds, so they need not be named.
    allowing(&["node-2"], |mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "MSET a 1 b 2 c 3"), "+OK ");
        assert_eq!(not_allowed(&mut driver), 0);
    });
}

#[test]
fn a_node_that_a_moved_names_is_not_dialled_and_its_slot_waits_for_another() {
    allowing(&["node-2"], |mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        driver.cluster.freeze_views();
        let evil = driver.cluster.add_node(EVIL);
        driver.cluster.move_slot("a", evil);
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT / 2);
        assert_eq!(driver.received(client), "");
        assert!(not_allowed(&mut driver) > 0);
        driver.cluster.move_slot("a", 0);
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), "$1 1 ");
        assert_eq!(driver.opened.get(EVIL), None);
    });
}

#[test]
fn a_client_is_told_which_node_was_not_allowed_when_its_time_is_up() {
    for ask in [false, true] {
        allowing(&["node-2"], |mut driver| {
            let client = driver.connect();
            driver.ask(client, "SET {s}old 1");
            let evil = driver.cluster.add_node(EVIL);
            if ask {
                let slot = slotmesh_engine::Slot::of(b"s").number();
                driver.cluster.migrating.insert(slot, evil);
            } else {
                driver.cluster.freeze_views();
                driver.cluster.move_slot("{s}new", evil);
            }
            driver.command(client, "SET {s}new 1");
            driver.wait(OP_TIMEOUT);
            assert_eq!(driver.received(client), REFUSAL);
            assert_eq!(driver.opened.get(EVIL), None);
            let logged = driver.log.iter().filter(|line| line.contains("does not allow")).count();
            assert_eq!(logged, 1, "{:?}", driver.log);
        });
    }
}

#[test]
fn a_node_that_the_topology_names_is_not_dialled_and_the_others_serve() {
    allowing(&["node-2"], |mut driver| {
        let evil = driver.cluster.add_node(EVIL);
        driver.cluster.move_slot("a", evil);
        let client = driver.connect();
        assert_eq!(driver.ask(client, "MSET b 2 c 3"), "+OK ");
        driver.command(client, "SET a 1");
        driver.wait(OP_TIMEOUT);
        assert_eq!(driver.received(client), REFUSAL);
        // What asks all shards, or any, is none the wiser.
        driver.command(client, "DBSIZE");
        driver.command(client, "SUBSCRIBE news");
        driver.wait(OP_TIMEOUT * 2);
        driver.wait(Duration::from_secs(60));
        assert_eq!(driver.opened.get(EVIL), None);
        assert!(not_allowed(&mut driver) > 0);
        let logged = driver.log.iter().filter(|line| line.contains("does not allow")).count();
        assert!((2..=7).contains(&logged), "once in ten seconds at most: {logged}");
    });
}

#[test]
fn a_replica_that_is_not_allowed_is_asked_nothing() {
    allowing(&["node-2"], |mut driver| {
        driver.cluster.add_replica(2, EVIL);
        let mut change = Driver::with(driver.chunking, |config| {
            config.read_policy = slotmesh_engine::config::ReadPolicy::Replica;
            let node = (HostPattern::parse("node-2").unwrap(), 1..=1);
            config.clusters[0].allowed_nodes = Some(AllowedNodes(vec![node]));
        });
        std::mem::swap(&mut driver.proxy, &mut change.proxy);
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.errors.insert(owner, "READONLY You can't write".to_owned());
        driver.command(client, "SET a 2");
        driver.wait(OP_TIMEOUT);
        assert_eq!(driver.received(client), "-READONLY You can't write ");
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT);
        assert_eq!(driver.opened.get(EVIL), None);
    });
}

#[test]
fn another_port_of_a_node_that_is_allowed_is_not() {
    allowing(&["node-2", "node-0"], |mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let slot = slotmesh_engine::Slot::of(b"a").number();
        let owner = driver.cluster.owner("a");
        driver.cluster.errors.insert(owner, format!("MOVED {slot} node-0:22"));
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT);
        assert!(driver.received(client).starts_with("-CLUSTERDOWN node-0:22 is named"));
        assert_eq!(driver.opened.get("node-0:22"), None);
    });
}

#[test]
fn without_the_word_every_node_may_be_dialled() {
    let mut driver = Driver::new(Chunking::Whole);
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    let evil = driver.cluster.add_node(EVIL);
    driver.cluster.move_slot("a", evil);
    assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    assert_eq!(not_allowed(&mut driver), 0);
}
