//! A primary gives its role to a replica, and nodes restart: what one reply tells is enough.

use std::time::Duration;

use crate::support::{self, ClientId, Driver, Health, OP_TIMEOUT, each_chunking};

/// The primary of the keys of [`KEYS`].
const OLD: &str = "node-2:1";
/// Its replica.
const NEW: &str = "replica-3:1";

/// Keys of different slots that [`OLD`] owns.
const KEYS: [&str; 4] = ["a", "e", "i", "m"];

const REFUSALS: [&str; 5] = [
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "READONLY You can't write against a read only replica.",
    "UNBLOCKED force unblock from blocking operation, instance state changed",
];

#[test]
fn one_moved_of_a_primary_to_its_replica_moves_the_whole_shard() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        // Whatever is asked again tells nothing new.
        driver.cluster.freeze_views();
        driver.cluster.hand_over(replica);
        set_all(&mut driver, client);
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
    });
}

#[test]
fn a_moved_to_another_primary_moves_its_slot_only() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        driver.cluster.freeze_views();
        driver.cluster.move_slot("a", 0);
        set_all(&mut driver, client);
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
        driver.cluster.move_slot("e", 0);
        set_all(&mut driver, client);
        assert_eq!(driver.proxy.stats().redirect_moved, 2);
    });
}

#[test]
fn a_moved_to_an_unknown_node_moves_its_slot_only_until_the_topology_tells_of_the_others() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        let newcomer = driver.cluster.add_node("newcomer:7");
        driver.cluster.freeze_views();
        for key in KEYS {
            driver.cluster.move_slot(key, newcomer);
        }
        set_all(&mut driver, client);
        assert_eq!(driver.proxy.stats().redirect_moved, 4, "nodes tell nothing new");
    });
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        let newcomer = driver.cluster.add_node("newcomer:7");
        for key in KEYS {
            driver.cluster.move_slot(key, newcomer);
        }
        driver.ask(client, "SET a 1");
        driver.wait(Duration::ZERO);
        set_all(&mut driver, client);
        assert_eq!(driver.proxy.stats().redirect_moved, 1, "the topology was asked at once");
    });
}

#[test]
fn a_replica_that_owns_one_slot_only_does_not_keep_the_others() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        driver.cluster.freeze_views();
        driver.cluster.move_slot("a", replica);
        for round in 0..5 {
            set_all(&mut driver, client);
            // The first said that the replica owns the slot, the second that it owns no other.
            let moved = driver.proxy.stats().redirect_moved;
            assert_eq!(moved, 2, "in round {round}");
        }
    });
}

#[test]
fn a_role_that_is_handed_back_and_forth_is_followed() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        let primary = 2;
        for round in 0..10 {
            driver.cluster.hand_over(if round % 2 == 0 { replica } else { primary });
            set_all(&mut driver, client);
            driver.wait(Duration::from_millis(30));
            set_all(&mut driver, client);
        }
        let moved = driver.proxy.stats().redirect_moved;
        assert!(moved <= 10 * KEYS.len() as u64, "{moved} redirections");
    });
}

#[test]
fn a_topology_from_before_the_handover_does_not_undo_what_the_primary_has_said() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        driver.cluster.freeze_views();
        driver.cluster.hand_over(replica);
        let before = driver.refreshes();
        for _ in 0..10 {
            set_all(&mut driver, client);
            driver.wait(Duration::from_millis(200));
        }
        assert!(driver.refreshes() > before + 2, "nodes are asked again while they are behind");
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
        driver.cluster.stale.clear();
        driver.wait(Duration::from_secs(1));
        let before = driver.refreshes();
        driver.wait(Duration::from_secs(4));
        assert_eq!(driver.refreshes(), before, "what they tell now is known");
    });
}

#[test]
fn nodes_that_have_not_heard_of_a_handover_do_not_undo_it_once_others_have() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        driver.cluster.freeze_views();
        let mut before = std::mem::take(&mut driver.cluster.stale);
        driver.cluster.hand_over(replica);
        driver.ask(client, "SET a 1");
        driver.wait(Duration::from_millis(100));
        // Of any three nodes, as many as are asked, two may be behind.
        before.retain(|address, _| *address != NEW && *address != OLD);
        driver.cluster.stale = before;
        let refreshes = driver.refreshes();
        for _ in 0..40 {
            // After a lost connection nodes are asked.
            driver.cut(NEW);
            driver.wait(Duration::from_millis(100));
            set_all(&mut driver, client);
        }
        assert!(driver.refreshes() >= refreshes + 40);
        assert_eq!(driver.proxy.stats().redirect_moved, 1);
    });
}

#[test]
fn a_moved_is_followed_by_a_refresh_at_once_whatever_the_interval() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.clusters[0].redirect_refresh_interval = Duration::from_secs(3600);
        config.clusters[0].refresh_rate = Duration::from_secs(3600);
    });
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    driver.wait(Duration::from_secs(1));
    assert_eq!(driver.refreshes(), 1);
    driver.cluster.move_slot("a", 0);
    driver.ask(client, "SET a 2");
    driver.wait(Duration::ZERO);
    assert_eq!(driver.refreshes(), 2);
}

#[test]
fn slots_that_move_for_long_cause_ever_fewer_refreshes() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.clusters[0].refresh_rate = Duration::from_secs(3600);
    });
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    driver.wait(Duration::from_secs(10));
    let before = driver.refreshes();
    for step in 0..6_000 {
        let key = format!("key-{}", step / 2);
        let to = (driver.cluster.owners[slot(&key)] + 1) % 3;
        driver.cluster.move_slot(&key, to);
        driver.ask(client, &format!("GET {key}"));
        driver.wait(Duration::from_millis(10));
    }
    let rounds = driver.refreshes() - before;
    // 0, 0.1, 0.3, 0.7, 1.5, 3.1, 6.3 seconds, then every five.
    assert!((12..=20).contains(&rounds), "{rounds} refreshes in a minute");
}

#[test]
fn a_threshold_of_zero_means_that_redirections_cause_no_refresh() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.clusters[0].redirect_refresh_threshold = 0;
        config.clusters[0].refresh_rate = Duration::from_secs(3600);
    });
    let client = driver.connect();
    for key in KEYS {
        driver.ask(client, &format!("SET {key} 1"));
        driver.cluster.move_slot(key, 0);
        driver.ask(client, &format!("GET {key}"));
    }
    driver.wait(Duration::from_secs(10));
    assert_eq!(driver.refreshes(), 1);
}

#[test]
fn nothing_is_sent_to_a_node_that_has_handed_over_once_it_has_said_so() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        driver.cluster.freeze_views();
        driver.cluster.hand_over(replica);
        driver.ask(client, "SET a 1");
        let before = driver.writes[OLD];
        for _ in 0..10 {
            set_all(&mut driver, client);
            driver.command(client, "PUBLISH news 1");
            driver.wait(Duration::from_millis(100));
            driver.received(client);
        }
        // Those that ask for the topology are short-lived, and each says one thing.
        let refreshes = 3 * driver.refreshes() as usize;
        assert!(driver.writes[OLD] <= before + refreshes, "{:?}", driver.writes);
        driver.cluster.set_health(OLD, Health::Refusing);
        driver.cut(OLD);
        set_all(&mut driver, client);
    });
}

#[test]
fn messages_follow_the_role_at_once() {
    each_chunking(|mut driver| {
        // Home is the primary of the lowest slot.
        let replica = driver.cluster.add_replica(0, NEW);
        let (client, listener) = (driver.connect(), driver.connect());
        driver.ask(listener, "SUBSCRIBE news");
        driver.ask(client, "SET b 1");
        driver.cluster.freeze_views();
        driver.cluster.hand_over(replica);
        driver.ask(client, "SET b 2");
        assert_eq!(driver.ask(client, "PUBLISH news 1"), ":1 ");
        assert_eq!(driver.received(listener), "*3 $7 message $4 news $1 1 ");
        assert!(driver.cluster.executed.contains(&format!("{NEW}: PUBLISH news 1")));
    });
}

#[test]
fn what_a_primary_refuses_is_served_by_the_replica_that_has_taken_over() {
    for refusal in REFUSALS {
        each_chunking(|mut driver| {
            let (client, replica) = prepare(&mut driver);
            driver.cluster.freeze_views();
            driver.cluster.errors.insert(OLD.to_owned(), refusal.to_owned());
            driver.cluster.promote(replica);
            driver.command(client, "APPEND a 1");
            driver.command(client, "APPEND a 2");
            driver.wait(Duration::from_millis(30));
            assert_eq!(driver.received(client), ":2 :3 ", "{refusal}");
        });
    }
}

#[test]
fn what_waits_for_a_connection_to_an_address_that_is_gone_goes_to_the_replica_that_has_taken_over()
{
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        driver.cluster.freeze_views();
        driver.cluster.set_health(OLD, Health::Unreachable);
        driver.cut(OLD);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.wait(Duration::from_millis(500));
        assert_eq!(driver.received(client), "");
        driver.cluster.promote(replica);
        driver.wait(Duration::from_millis(250));
        assert_eq!(driver.received(client), ":2 :3 ");
    });
}

#[test]
fn what_waits_for_a_connection_to_an_address_that_is_gone_goes_where_the_topology_says() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 0");
        driver.cluster.set_health(OLD, Health::Unreachable);
        driver.cut(OLD);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        driver.wait(Duration::from_millis(500));
        assert_eq!(driver.received(client), "");
        for key in KEYS {
            driver.cluster.move_slot(key, 0);
        }
        driver.wait(Duration::from_millis(500));
        assert_eq!(driver.received(client), ":2 :3 ");
    });
}

#[test]
fn a_message_that_waits_for_a_connection_to_an_address_that_is_gone_goes_to_another_primary() {
    each_chunking(|mut driver| {
        // Home is the primary of the lowest slot.
        let (home, replica) = ("node-0:1", driver.cluster.add_replica(0, NEW));
        let client = driver.connect();
        driver.ask(client, "SET b 0");
        driver.cluster.set_health(home, Health::Unreachable);
        driver.cut(home);
        driver.command(client, "PUBLISH news 1");
        driver.wait(Duration::from_millis(500));
        assert_eq!(driver.received(client), "");
        driver.cluster.hand_over(replica);
        driver.wait(Duration::from_millis(250));
        assert_eq!(driver.received(client), ":0 ");
    });
}

#[test]
fn a_connection_that_takes_its_time_is_waited_for() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET b 0");
        driver.cluster.set_health(OLD, Health::Unreachable);
        driver.command(client, "APPEND a 1");
        driver.wait(Duration::from_secs(1));
        driver.cluster.set_health(OLD, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), ":1 ");
    });
}

#[test]
fn what_one_node_refuses_is_tried_again_for_as_long_as_the_client_waits() {
    for refusal in REFUSALS {
        each_chunking(|mut driver| {
            let (client, _) = prepare(&mut driver);
            driver.cluster.errors.insert(OLD.to_owned(), refusal.to_owned());
            driver.command(client, "APPEND a 1");
            driver.wait(OP_TIMEOUT - Duration::from_millis(100));
            assert_eq!(driver.received(client), "", "{refusal}");
            assert_eq!(driver.ask(client, "PING"), "", "replies keep their order");
            driver.cluster.errors.clear();
            driver.wait(Duration::from_millis(50));
            assert_eq!(driver.received(client), ":2 +PONG ", "{refusal}");
        });
    }
}

#[test]
fn the_replicas_of_a_node_that_refuses_are_not_asked_more_often_than_those_of_a_dead_one() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.op_timeout = Duration::from_secs(10);
    });
    let (client, _) = prepare(&mut driver);
    let clients: Vec<_> = (0..20).map(|_| driver.connect()).collect();
    driver.cluster.errors.insert(OLD.to_owned(), REFUSALS[1].to_owned());
    for client in clients.into_iter().chain([client]) {
        driver.command(client, "APPEND a 1");
    }
    let before = driver.writes.get(NEW).copied().unwrap_or_default();
    let refreshes = driver.refreshes();
    driver.wait(Duration::from_secs(2));
    let rounds = driver.refreshes() - refreshes;
    assert!(rounds <= 41, "{rounds} rounds");
    let asked = driver.writes[NEW] - before - rounds as usize;
    assert!(asked <= 200, "{asked} writes");
}

/// A driver with a replica, and a client that has written to all keys.
fn prepare(driver: &mut Driver) -> (ClientId, usize) {
    let replica = driver.cluster.add_replica(2, NEW);
    let client = driver.connect();
    for key in KEYS {
        assert_eq!(driver.cluster.owner(key), OLD, "{key}");
        assert_eq!(driver.ask(client, &format!("SET {key} 0")), "+OK ");
    }
    driver.wait(Duration::from_millis(100));
    (client, replica)
}

fn set_all(driver: &mut Driver, client: ClientId) {
    for key in KEYS {
        assert_eq!(driver.ask(client, &format!("SET {key} 1")), "+OK ", "{key}");
    }
}

fn slot(key: &str) -> usize {
    usize::from(slotmesh_engine::Slot::of(key.as_bytes()).number())
}
