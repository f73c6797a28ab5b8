//! Nodes and connections that fail.

use std::time::Duration;

use slotmesh_engine::Config;

use crate::support::{
    self, Driver, FakeCluster, Health, OP_TIMEOUT, each_chunking, each_chunking_with,
};

#[test]
fn without_any_node_clients_learn_why_in_time_and_all_is_well_when_one_appears() {
    each_chunking(|mut driver| {
        driver.cluster.set_all_healths(Health::Refusing);
        let client = driver.connect();
        driver.command(client, "SET a 1");
        driver.wait(OP_TIMEOUT);
        let error = driver.received(client);
        assert!(error.starts_with("-CLUSTERDOWN no node of cluster 'main' answers: "), "{error}");
        assert!(error.contains("node-0:1: connection refused"), "{error}");
        assert!(error.contains("node-1:1: connection refused"), "{error}");
        driver.cluster.set_all_healths(Health::Well);
        driver.command(client, "SET a 2");
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), "+OK ");
    });
}

#[test]
fn a_seed_that_answers_nothing_is_passed_over_in_time() {
    each_chunking(|mut driver| {
        driver.cluster.set_health("node-0:1", Health::Unreachable);
        driver.cluster.set_health("node-1:1", Health::Silent);
        let mut change = Driver::with(driver.chunking, |config| {
            config.clusters[0].refresh_timeout = Duration::from_millis(300);
        });
        std::mem::swap(&mut driver.proxy, &mut change.proxy);
        let client = driver.connect();
        driver.command(client, "PING");
        driver.command(client, "GET a");
        driver.wait(Duration::from_secs(1));
        driver.cluster.set_health("node-1:1", Health::Well);
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), "+PONG $-1 ");
    });
}

#[test]
fn a_seed_that_belongs_to_no_cluster_is_named() {
    each_chunking(|mut driver| {
        driver.cluster.owners.clear();
        let client = driver.connect();
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT);
        let error = driver.received(client);
        assert!(error.contains("node-0:1: knows no slots"), "{error}");
    });
}

#[test]
fn a_lost_connection_repeats_reads_and_never_a_write() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        let neighbour = neighbour_of(&driver, "a");
        driver.command(client, &format!("GET {neighbour}"));
        driver.command(client, "APPEND a 2");
        driver.command(client, "GET a");
        driver.cluster.set_health(&owner, Health::Well);
        driver.cut(&owner);
        let received = driver.received(client);
        assert_eq!(
            received,
            format!(
                "$-1 -ERR the connection to {owner} was lost (reset by the test) before the \
                 reply: the command may have been executed $1 1 "
            )
        );
        let appends = driver.cluster.executed.iter().filter(|line| line.contains("APPEND"));
        assert_eq!(appends.count(), 0);
        assert_eq!(driver.cluster.value("a").unwrap(), "1");
    });
}

#[test]
fn what_a_connection_that_never_opened_was_to_carry_is_sent_over_the_next() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Refusing);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.wait(Duration::from_millis(200));
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&owner, Health::Well);
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), ":1 :2 ");
    });
}

#[test]
fn a_node_that_refuses_is_tried_ever_more_rarely() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.op_timeout = Duration::from_secs(60);
    });
    let client = driver.connect();
    driver.ask(client, "PING");
    let owner = driver.cluster.owner("a");
    driver.cluster.set_health(&owner, Health::Refusing);
    let before = driver.opened.get(&owner).copied().unwrap_or_default();
    driver.command(client, "SET a 1");
    driver.wait(Duration::from_secs(30));
    let tries = driver.opened[&owner] - before;
    // Once or twice a second for the commands, and each refresh may ask it as well.
    assert!((20..200).contains(&tries), "{tries} tries");
    driver.cluster.set_health(&owner, Health::Well);
    driver.wait(Duration::from_millis(1100));
    assert_eq!(driver.received(client), "+OK ");
}

#[test]
fn the_failure_of_one_shard_does_not_touch_the_others() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let other = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Refusing);
        driver.cut(&owner);
        driver.command(client, "GET a");
        for key in ["b", "c"] {
            assert!(driver.ask(other, &format!("GET {key}")).starts_with("$1"));
        }
    });
}

#[test]
fn a_slot_given_to_another_node_is_found_as_soon_as_the_cluster_says_so() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Refusing);
        driver.cut(&owner);
        driver.command(client, "SET a 2");
        driver.wait(Duration::from_millis(700));
        assert_eq!(driver.received(client), "");
        // What a failover leads to.
        for owner in &mut driver.cluster.owners {
            *owner = 1;
        }
        let survivor = "node-1:1";
        assert_ne!(owner, survivor, "the test wants another owner at first");
        driver.wait(Duration::from_millis(1100));
        assert_eq!(driver.received(client), "+OK ");
    });
}

#[test]
fn a_new_owner_is_found_within_100_ms_and_nobody_is_asked_for_more_than_that_takes() {
    // The cluster makes up its mind at any moment of the proxy's pauses.
    for delay in (0..40).map(|step| Duration::from_millis(2000 + 37 * step)) {
        let mut driver = Driver::with(support::Chunking::Whole, |config| {
            config.op_timeout = Duration::from_secs(10);
        });
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Refusing);
        driver.cut(&owner);
        driver.command(client, "SET a 2");
        let before = driver.refreshes();
        driver.wait(delay);
        let rounds = driver.refreshes() - before;
        assert!(rounds <= delay.as_millis() as u64 / 50 + 1, "{rounds} rounds in {delay:?}");
        assert_eq!(driver.received(client), "");
        for owner in &mut driver.cluster.owners {
            *owner = 1;
        }
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), "+OK ", "after {delay:?}");
    }
}

#[test]
fn a_replica_that_has_taken_over_serves_within_30_ms_whatever_others_have_heard() {
    for delay in (0..40).map(|step| Duration::from_millis(2000 + 7 * step)) {
        let mut driver = Driver::with(support::Chunking::Whole, |config| {
            config.op_timeout = Duration::from_secs(10);
        });
        let replica = driver.cluster.add_replica(2, "replica-3:1");
        let owner = driver.cluster.owner("a");
        assert_eq!(owner, "node-2:1");
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        driver.cluster.set_health(&owner, Health::Refusing);
        driver.cut(&owner);
        driver.command(client, "APPEND a 2");
        driver.command(client, "GET a");
        driver.wait(delay);
        assert_eq!(driver.received(client), "");
        let asked = driver.writes["replica-3:1"];
        assert!(asked as u128 <= delay.as_millis() / 10, "{asked} writes in {delay:?}");
        let before = driver.cluster.owners.clone();
        for node in ["node-0:1", "node-1:1", "node-2:1", "replica-3:1"] {
            driver.cluster.stale.insert(node.to_owned(), before.clone());
        }
        driver.cluster.promote(replica);
        driver.wait(Duration::from_millis(30));
        assert_eq!(driver.received(client), ":2 $2 12 ", "after {delay:?}");
    }
}

#[test]
fn a_replica_that_does_not_answer_is_asked_once() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.op_timeout = Duration::from_secs(10);
    });
    driver.cluster.add_replica(2, "replica-3:1");
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    let owner = driver.cluster.owner("a");
    driver.cluster.set_health(&owner, Health::Refusing);
    driver.cut(&owner);
    driver.command(client, "SET a 2");
    driver.wait(Duration::from_millis(100));
    driver.cluster.set_health("replica-3:1", Health::Silent);
    let before = driver.writes["replica-3:1"];
    driver.wait(Duration::from_secs(3));
    // Those that look for the topology do not count among these connections' writes.
    assert!(driver.writes["replica-3:1"] - before < 100, "{:?}", driver.writes);
}

#[test]
fn an_outage_that_lasts_is_asked_about_ever_more_rarely() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.op_timeout = Duration::from_secs(600);
    });
    let client = driver.connect();
    driver.ask(client, "PING");
    let owner = driver.cluster.owner("a");
    driver.cluster.set_health(&owner, Health::Refusing);
    driver.command(client, "SET a 1");
    driver.wait(Duration::from_secs(300));
    let before = driver.refreshes();
    driver.wait(Duration::from_secs(100));
    assert!(driver.refreshes() - before < 400, "{}", driver.refreshes() - before);
}

#[test]
fn nodes_that_refuse_the_proxy_are_told_as_such() {
    each_chunking(|mut driver| {
        driver.cluster.password = Some("secret".to_owned());
        let client = driver.connect();
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT);
        let error = driver.received(client);
        assert!(error.starts_with("-NOAUTH cluster 'main' refused the proxy: "), "{error}");
        // One that is merely dead may be the one that would have let us in.
        driver.cluster.set_health("node-0:1", Health::Refusing);
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT * 2);
        assert!(driver.received(client).starts_with("-CLUSTERDOWN "));
    });
}

#[test]
fn a_dead_connection_is_closed_after_a_while_and_a_new_one_serves() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT * 4);
        assert!(driver.received(client).starts_with("-TIMEOUT"));
        assert!(
            driver.log.iter().any(|line| line.contains("sent nothing for 6s")),
            "{:?}",
            driver.log
        );
        driver.cluster.set_health(&owner, Health::Well);
        driver.wait(Duration::from_secs(2));
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    });
}

#[test]
fn a_node_that_sends_garbage_loses_its_connection_and_nobody_gets_it() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.inject(&owner, b"HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!(driver.received(client), "");
        assert!(driver.log.iter().any(|line| line.contains("no RESP")), "{:?}", driver.log);
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    });
}

#[test]
fn a_reply_to_nothing_ends_the_connection() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.inject(&owner, b"$6\r\nsecret\r\n");
        assert_eq!(driver.received(client), "");
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert!(driver.log.iter().any(|line| line.contains("reply to nothing")));
    });
}

#[test]
fn pushes_answer_nothing() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.inject(&owner, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n");
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert_eq!(driver.connections(&owner), 1);
    });
}

#[test]
fn the_topology_is_refreshed_while_there_are_clients_and_not_otherwise() {
    let mut driver = Driver::new(support::Chunking::Whole);
    driver.wait(Duration::from_secs(60));
    assert_eq!(driver.refreshes(), 0, "an idle proxy costs nothing");
    let client = driver.connect();
    driver.wait(Duration::from_secs(60));
    let told = driver.refreshes();
    assert!((10..=13).contains(&told), "{told} refreshes in a minute");
    driver.disconnect(client);
    driver.wait(Duration::from_secs(60));
    assert!(driver.refreshes() <= told + 1);
    let client = driver.connect();
    assert_eq!(driver.refreshes(), told + 1, "the next client finds it fresh");
    assert_eq!(driver.ask(client, "GET a"), "$-1 ");
}

#[test]
fn connections_to_nodes_that_left_the_cluster_are_closed() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3");
        assert_eq!(driver.connections("node-2:1"), 1);
        for owner in &mut driver.cluster.owners {
            *owner = (*owner).min(1);
        }
        driver.wait(Duration::from_secs(7));
        assert_eq!(driver.connections("node-2:1"), 0);
    });
}

#[test]
fn a_node_that_is_behind_does_not_lead_the_proxy_astray() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let before = driver.cluster.owners.clone();
        // Everything has gone to node 1, and node 0 has not heard of it.
        driver.cluster.stale.insert("node-0:1".to_owned(), before);
        for owner in &mut driver.cluster.owners {
            *owner = 1;
        }
        for key in ["a", "b", "c", "d"] {
            driver.ask(client, &format!("SET {key} 1"));
        }
        driver.wait(Duration::from_secs(6));
        let moved = driver.proxy.stats().redirect_moved;
        let refreshes = driver.refreshes();
        for _ in 0..50 {
            driver.wait(Duration::from_secs(1));
            for key in ["a", "b", "c", "d"] {
                driver.ask(client, &format!("GET {key}"));
            }
        }
        assert_eq!(driver.proxy.stats().redirect_moved, moved, "the other two are believed");
        assert!(driver.refreshes() > refreshes + 20, "but while they differ they are asked often");
    });
}

#[test]
fn one_view_is_enough_when_the_others_do_not_come() {
    each_chunking(|mut driver| {
        driver.cluster.set_health("node-1:1", Health::Silent);
        let client = driver.connect();
        driver.command(client, "SET a 1");
        driver.wait(Duration::from_millis(250));
        let owner = driver.cluster.owner("a");
        assert_ne!(owner, "node-1:1", "the test wants another owner");
        assert_eq!(driver.received(client), "+OK ");
        assert_eq!(driver.connections("node-1:1"), 0, "it is not waited for any longer");
    });
}

#[test]
fn a_node_that_is_full_costs_no_write() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "PING");
        let owner = driver.cluster.owner("a");
        driver.cluster.full.insert(owner.clone());
        driver.command(client, "APPEND a 1");
        driver.wait(Duration::from_millis(300));
        assert_eq!(driver.received(client), "");
        driver.cluster.full.clear();
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), ":1 ");
        assert!(
            driver.log.iter().any(|line| line.contains("too many clients")),
            "{:?}",
            driver.log
        );
    });
}

#[test]
fn a_write_is_not_entrusted_to_a_node_that_dies_while_it_is_greeted() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "PING");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "APPEND a 1");
        assert_eq!(driver.connections(&owner), 1, "it was accepted");
        driver.cluster.set_health(&owner, Health::Well);
        driver.cut(&owner);
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), ":1 ");
    });
}

#[test]
fn what_comes_while_a_node_is_greeted_is_sent_when_it_has_answered() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "PING");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), ":1 :2 ");
    });
}

/// A key of another slot that the same node owns.
fn neighbour_of(driver: &Driver, key: &str) -> String {
    let owner = driver.cluster.owner(key);
    let names = ["e", "f", "g", "h", "i", "j", "k"];
    names.into_iter().find(|name| driver.cluster.owner(name) == owner).unwrap().to_owned()
}

#[test]
fn who_waits_for_an_address_that_its_node_has_left_goes_along_and_does_the_node_no_harm() {
    let often = |config: &mut Config| {
        config.clusters[0].refresh_rate = Duration::from_millis(50);
    };
    each_chunking_with(often, |mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
        let node = driver.cluster.owner("a");
        driver.other = FakeCluster::standalone("nobody");
        driver.other.rename(0, &node);
        driver.other.set_health(&node, Health::Unreachable);
        driver.cut(&node);
        // Each of them has a connection of its own, which is not established.
        let waiting: Vec<_> = (0..10).map(|_| driver.connect()).collect();
        for client in &waiting {
            driver.command(*client, "WATCH a");
        }
        // In the proxy the node takes the place of the one at the old address.
        driver.cluster.rename(2, "elsewhere:1");
        driver.wait(Duration::from_millis(250));
        assert_eq!(driver.ask(client, "SET a 2"), "+OK ", "nobody has failed at the new address");
        for client in waiting {
            assert_eq!(driver.received(client), "+OK ");
        }
    });
}
