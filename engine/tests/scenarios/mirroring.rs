//! A mirror gets no write that the cluster was never to get.

use crate::support::{Chunking, Driver, Health, OP_TIMEOUT, encode, mirror_writes};

/// What the mirror has executed.
fn copied(driver: &Driver) -> &[String] {
    &driver.other.executed
}

#[test]
fn a_write_whose_time_is_up_before_it_is_sent_is_not_copied() {
    let writes: [&[&str]; 7] = [
        &["SET b 1"],
        &["MSET b 1 {b}c 2"],
        &["DEL b c d e f g"],
        &["PUBLISH news m"],
        &["SPUBLISH b m"],
        &["FLUSHALL"],
        &["MULTI", "SET b 1", "PUBLISH news m", "EXEC"],
    ];
    for write in writes {
        let mut driver = Driver::with(Chunking::Whole, mirror_writes);
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2");
        assert_eq!(copied(&driver).len(), 1);
        let dead = driver.cluster.owner("a");
        assert_ne!(driver.cluster.owner("b"), dead, "the test wants keys of two nodes");
        driver.cluster.set_health(&dead, Health::Refusing);
        driver.cut(&dead);
        let other = driver.connect();
        driver.command(other, "GET a");
        let bytes = ["GET a"].iter().chain(write).map(|words| encode(words));
        driver.send(client, bytes.collect::<Vec<_>>().concat());
        driver.wait(OP_TIMEOUT * 2);
        let received = driver.received(client);
        assert!(received.contains(": it has waited for those before it "), "{write:?}: {received}");
        assert_eq!(copied(&driver).len(), 1, "{write:?}: {:?}", copied(&driver));
        assert_eq!(driver.proxy.requests(), 0, "{write:?}");
    }
}

#[test]
fn a_write_that_finds_no_room_to_wait_for_a_node_is_not_copied() {
    for write in ["SET a 1", "PUBLISH news m", "SPUBLISH a m", "APPEND a 1"] {
        let mut driver = Driver::with(Chunking::Whole, |config| {
            mirror_writes(config);
            config.limits.held_bytes = 1;
        });
        let client = driver.connect();
        driver.ask(client, "GET a");
        driver.cluster.set_all_healths(Health::Refusing);
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            driver.cut(node);
        }
        // From then on all nodes are known to be gone.
        driver.ask(client, "MGET a b c d e f g");
        let received = driver.ask(client, write);
        assert!(received.starts_with("-CLUSTERDOWN too many commands wait"), "{write}: {received}");
        assert!(copied(&driver).is_empty(), "{write}: {:?}", copied(&driver));
    }
}
