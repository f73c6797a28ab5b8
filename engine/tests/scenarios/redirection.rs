//! Slots that move, and nodes that say "not now".

use std::time::Duration;

use crate::support::{self, Driver, Health, OP_TIMEOUT, each_chunking};

#[test]
fn a_moved_slot_is_followed_once_and_remembered() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let to = other_than(&driver, "a");
        driver.cluster.move_slot("a", to);
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
    });
}

#[test]
fn a_slot_may_move_to_a_node_nobody_has_heard_of() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let to = driver.cluster.add_node("newcomer:7");
        driver.cluster.move_slot("a", to);
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert_eq!(driver.connections("newcomer:7"), 1);
    });
}

#[test]
fn ask_is_followed_with_asking_and_not_remembered() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET {s}old 1");
        let slot = slotmesh_engine::Slot::of(b"s").number();
        let importer = other_than(&driver, "s");
        driver.cluster.migrating.insert(slot, importer);
        assert_eq!(driver.ask(client, "SET {s}new 2"), "+OK ");
        assert_eq!(driver.ask(client, "GET {s}old"), "$1 1 ", "what has not moved yet is here");
        assert_eq!(driver.ask(client, "GET {s}new"), "$1 2 ");
        assert_eq!(driver.proxy.stats().redirect_ask, 2);
        assert_eq!(driver.proxy.stats().redirect_moved, 0);
    });
}

#[test]
fn every_part_of_a_split_command_is_redirected_by_itself() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3 d 4");
        driver.cluster.move_slot("a", other_than(&driver, "a"));
        driver.cluster.move_slot("c", other_than(&driver, "c"));
        assert_eq!(driver.ask(client, "MGET a b c d"), "*4 $1 1 $1 2 $1 3 $1 4 ");
        assert_eq!(driver.proxy.stats().redirect_moved, 2);
    });
}

#[test]
fn a_client_s_writes_keep_their_order_while_their_slot_moves() {
    for chunking in [support::Chunking::Whole, support::Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, |config| {
            config.clusters[0].refresh_rate = Duration::from_millis(200);
        });
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let from = driver.cluster.owner("a");
        // Two writes are on their way to the old owner, which is slow to redirect them...
        driver.cluster.set_health(&from, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.cluster.move_slot("a", other_than(&driver, "a"));
        // ... when a refresh tells of the new one.
        let told = driver.refreshes();
        driver.wait(Duration::from_secs(1));
        assert!(driver.refreshes() > told);
        driver.command(client, "APPEND a 3");
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&from, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), ":2 :3 :4 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "-123");
    }
}

#[test]
fn a_write_that_waits_for_a_new_owner_is_not_overtaken_by_the_next() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.errors.insert(owner.clone(), "TRYAGAIN not now".to_owned());
        driver.command(client, "APPEND a 1");
        driver.cluster.errors.clear();
        driver.command(client, "APPEND a 2");
        assert_eq!(driver.received(client), "");
        driver.wait(Duration::from_millis(50));
        assert_eq!(driver.received(client), ":2 :3 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "-12");
    });
}

#[test]
fn a_refused_write_with_another_behind_it_is_not_sent_again() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.command(client, "GET a");
        // The state of the node changes between the two.
        driver.cluster.refuse_once = Some("CLUSTERDOWN The cluster is down".to_owned());
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), "-CLUSTERDOWN The cluster is down :2 $2 -2 ");
        // Of two reads it does not matter which comes first.
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "GET a");
        driver.command(client, "GET a");
        driver.cluster.refuse_once = Some("CLUSTERDOWN The cluster is down".to_owned());
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), "$2 -2 $2 -2 ");
    });
}

#[test]
fn writes_that_are_all_refused_are_all_sent_again_in_their_order() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        for number in 1..=5 {
            driver.command(client, &format!("APPEND a {number}"));
        }
        let down = "CLUSTERDOWN The cluster is down".to_owned();
        driver.cluster.errors.insert(owner.clone(), down);
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(300));
        assert_eq!(driver.received(client), "");
        driver.cluster.errors.clear();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), ":2 :3 :4 :5 :6 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "-12345");
    });
}

#[test]
fn a_command_refused_for_the_moment_is_sent_again_until_it_is_served() {
    for error in [
        "TRYAGAIN Multiple keys request during rehashing of slot",
        "CLUSTERDOWN The cluster is down",
        "LOADING Redis is loading the dataset in memory",
        "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
        "READONLY You can't write against a read only replica.",
    ] {
        each_chunking(|mut driver| {
            let client = driver.connect();
            let owner = driver.cluster.owner("a");
            driver.cluster.errors.insert(owner, error.to_owned());
            driver.command(client, "SET a 1");
            driver.wait(Duration::from_millis(500));
            assert_eq!(driver.received(client), "");
            driver.cluster.errors.clear();
            driver.wait(Duration::from_millis(50));
            assert_eq!(driver.received(client), "+OK ", "{error}");
        });
    }
}

#[test]
fn a_refusal_that_lasts_reaches_the_client_when_its_time_is_up() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = driver.cluster.owner("a");
        driver.cluster.errors.insert(owner, "CLUSTERDOWN The cluster is down".to_owned());
        driver.command(client, "SET a 1");
        driver.wait(OP_TIMEOUT);
        assert_eq!(driver.received(client), "-CLUSTERDOWN The cluster is down ");
    });
}

#[test]
fn errors_that_are_answers_reach_the_client_at_once() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = driver.cluster.owner("a");
        for error in ["WRONGTYPE Operation against a key", "ERR x", "BUSY Redis is busy"] {
            driver.cluster.errors.insert(owner.clone(), error.to_owned());
            assert_eq!(driver.ask(client, "GET a"), format!("-{error} "));
        }
    });
}

#[test]
fn two_nodes_that_send_a_command_to_each_other_do_not_spin() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    let slot = slotmesh_engine::Slot::of(b"a").number();
    for (node, other) in
        [("node-0:1", "node-1:1"), ("node-1:1", "node-2:1"), ("node-2:1", "node-0:1")]
    {
        driver.cluster.errors.insert(node.to_owned(), format!("MOVED {slot} {other}"));
    }
    driver.command(client, "GET a");
    driver.wait(OP_TIMEOUT);
    let received = driver.received(client);
    assert!(received.starts_with(&format!("-MOVED {slot} node-")), "{received}");
    assert!(driver.cluster.executed.len() < 1000, "{}", driver.cluster.executed.len());
}

#[test]
fn redirections_that_tell_nothing_new_cause_one_refresh_over_the_threshold() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.clusters[0].redirect_refresh_threshold = 3;
        config.clusters[0].redirect_refresh_interval = Duration::from_millis(100);
        config.clusters[0].refresh_rate = Duration::from_secs(3600);
    });
    let client = driver.connect();
    driver.ask(client, "SET {s}old 1");
    driver.wait(Duration::from_millis(500));
    assert_eq!(driver.refreshes(), 1);
    let slot = slotmesh_engine::Slot::of(b"s").number();
    driver.cluster.migrating.insert(slot, other_than(&driver, "s"));
    for key in ["{s}1", "{s}2", "{s}3"] {
        driver.wait(Duration::from_millis(10));
        assert_eq!(driver.refreshes(), 1);
        driver.ask(client, &format!("SET {key} 1"));
    }
    driver.wait(Duration::from_secs(1));
    assert_eq!(driver.refreshes(), 2);
}

/// A node that does not own `key`.
fn other_than(driver: &Driver, key: &str) -> usize {
    let slot = usize::from(slotmesh_engine::Slot::of(key.as_bytes()).number());
    (driver.cluster.owners[slot] + 1) % 3
}
