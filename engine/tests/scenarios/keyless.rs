//! Commands that name no key: asked of one primary, of all of them, or of one after the other.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::{
    self, Chunking, Driver, Health, OP_TIMEOUT, another_cluster, each_chunking, encode,
};
use slotmesh_engine::config::{Fraction, Mirror};

/// Keys on all three nodes, and how many there are.
fn fill(driver: &mut Driver, client: support::ClientId) -> BTreeSet<String> {
    let keys: BTreeSet<_> = (0..20).map(|number| format!("k{number}")).collect();
    for key in &keys {
        assert_eq!(driver.ask(client, &format!("SET {key} 1")), "+OK ");
    }
    driver.cluster.executed.clear();
    keys
}

/// Follows the cursor from 0 to 0; returns every key that came, in order.
fn scan_all(driver: &mut Driver, client: support::ClientId) -> Vec<String> {
    let (mut cursor, mut keys) = ("0".to_owned(), Vec::new());
    for _ in 0..100 {
        let reply = driver.ask(client, &format!("SCAN {cursor} COUNT 2"));
        let words: Vec<_> = reply.split(' ').collect();
        assert_eq!(words[0], "*2", "{reply}");
        keys.extend(words.iter().filter(|word| word.starts_with('k')).map(|key| key.to_string()));
        cursor = words[2].to_owned();
        if cursor == "0" {
            return keys;
        }
    }
    panic!("the scan has no end");
}

#[test]
fn what_concerns_all_keys_is_asked_of_every_primary() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let keys = fill(&mut driver, client);
        assert_eq!(driver.ask(client, "DBSIZE"), ":20 ");
        let reply = driver.ask(client, "KEYS *");
        assert!(reply.starts_with("*20 "), "{reply}");
        assert!(keys.iter().all(|key| reply.contains(&format!(" {key} "))), "{reply}");
        let reply = driver.ask(client, "RANDOMKEY");
        assert!(keys.contains(reply.split(' ').nth(1).unwrap()), "{reply}");
        assert_eq!(driver.ask(client, "FLUSHALL"), "+OK ");
        assert_eq!(driver.ask(client, "DBSIZE"), ":0 ");
        assert_eq!(driver.ask(client, "RANDOMKEY"), "$-1 ");
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            let executed = |line: &&String| **line == format!("{node}: FLUSHALL");
            assert_eq!(driver.cluster.executed.iter().filter(executed).count(), 1, "{node}");
        }
    });
}

#[test]
fn info_is_that_of_one_server_with_all_keys() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        fill(&mut driver, client);
        let info = "# Server redis_mode:standalone  # Keyspace db0:keys=20,expires=0,avg_ttl=0  ";
        assert_eq!(driver.ask(client, "INFO"), format!("${} {info}", info.len() + 4));
        driver.ask(client, "HELLO 3");
        assert_eq!(driver.ask(client, "INFO"), format!("={} txt:{info}", info.len() + 8));
    });
}

#[test]
fn an_error_of_one_primary_is_the_reply() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        fill(&mut driver, client);
        driver.cluster.errors.insert("node-1:1".to_owned(), "NOPERM not you".to_owned());
        assert_eq!(driver.ask(client, "DBSIZE"), "-NOPERM not you ");
    });
}

#[test]
fn a_scan_goes_over_all_primaries_and_ends() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let keys = fill(&mut driver, client);
        let scanned = scan_all(&mut driver, client);
        assert_eq!(scanned.len(), keys.len(), "each key comes once");
        assert_eq!(scanned.into_iter().collect::<BTreeSet<_>>(), keys);
        let lines = driver.cluster.executed.iter();
        assert!(lines.clone().all(|line| line.ends_with(" COUNT 2")), "options go with it");
        let nodes: Vec<_> = lines.map(|line| line.split(": ").next().unwrap()).collect();
        assert!(nodes.is_sorted(), "one shard after the other: {nodes:?}");
    });
}

#[test]
fn a_scan_misses_nothing_when_a_primary_is_replaced_on_the_way() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let keys = fill(&mut driver, client);
        let reply = driver.ask(client, "SCAN 0 COUNT 2");
        let cursor = reply.split(' ').nth(2).unwrap().to_owned();
        // Another node owns the slots of the first one, and its cursors are others.
        let successor = driver.cluster.add_node("successor:1");
        for key in &keys {
            if driver.cluster.owner(key) == "node-0:1" {
                driver.cluster.move_slot(key, successor);
            }
        }
        for owner in &mut driver.cluster.owners {
            *owner = if *owner == 0 { successor } else { *owner };
        }
        driver.ask(client, "SET a 1");
        driver.wait(Duration::from_secs(60));
        let mut scanned = BTreeSet::new();
        let mut cursor = cursor;
        while cursor != "0" {
            let reply = driver.ask(client, &format!("SCAN {cursor} COUNT 2"));
            let words: Vec<_> = reply.split(' ').collect();
            scanned.extend(words.iter().filter(|w| w.starts_with('k')).map(|key| key.to_string()));
            cursor = words[2].to_owned();
        }
        assert_eq!(scanned, keys, "those of the first shard came again");
    });
}

#[test]
fn what_is_no_cursor_is_refused_as_redis_refuses_it() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SCAN x"), "-ERR invalid cursor ");
        assert_eq!(driver.cluster.executed, [""; 0]);
    });
}

#[test]
fn no_command_of_the_client_overtakes_one_that_goes_to_all_primaries() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        driver.ask(client, "SET b 1");
        driver.cluster.executed.clear();
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        let pipeline = ["APPEND a x", "DBSIZE", "FLUSHALL", "SET b 2", "DBSIZE"];
        driver.send(client, pipeline.map(encode).concat());
        assert_eq!(driver.cluster.executed, [""; 0], "nothing goes past the first command");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), ":2 :2 +OK +OK :1 ");
        let position = |end: &str| driver.cluster.executed.iter().rposition(|l| l.ends_with(end));
        assert!(position("FLUSHALL") < position("SET b 2"));
    });
}

#[test]
fn they_wait_until_the_shards_are_known() {
    each_chunking(|mut driver| {
        driver.cluster.set_all_healths(Health::Silent);
        let client = driver.connect();
        driver.send(client, [encode("DBSIZE"), encode("SCAN 0")].concat());
        assert_eq!(driver.received(client), "");
        driver.cluster.set_all_healths(Health::Well);
        driver.wait(Duration::from_millis(100));
        let received = driver.received(client);
        assert!(received.starts_with(":0 *2 $4 5462 *0 "), "{received}");
    });
}

#[test]
fn keys_of_a_slot_that_nobody_serves_are_not_passed_over() {
    each_chunking(|mut driver| {
        let gone = driver.cluster.add_node("gone:1");
        driver.cluster.set_health("gone:1", Health::Refusing);
        for owner in driver.cluster.owners.iter_mut().take(100) {
            *owner = gone;
        }
        let client = driver.connect();
        driver.command(client, "DBSIZE");
        driver.wait(OP_TIMEOUT);
        let reply = driver.received(client);
        assert!(reply.starts_with("-TIMEOUT") || reply.starts_with("-CLUSTERDOWN"), "{reply}");
    });
}

#[test]
fn what_each_node_answers_for_itself_is_always_asked_of_the_same() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        driver.cluster.executed.clear();
        for _ in 0..5 {
            driver.ask(client, "CONFIG GET maxmemory");
        }
        assert_eq!(driver.cluster.executed, ["node-0:1: CONFIG GET maxmemory"; 5]);
        driver.cluster.executed.clear();
        assert_eq!(driver.ask(client, "CONFIG SET maxmemory 0"), "+OK ");
        assert_eq!(driver.cluster.executed.len(), 3);
    });
}

#[test]
fn a_mirror_hears_of_what_changes_all_keys_and_of_nothing_else_without_keys() {
    for chunking in [Chunking::Whole, Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, |config| {
            let cluster = another_cluster(config, "mirror", "other-0:1");
            config.clusters[cluster.position()].kind =
                slotmesh_engine::config::ClusterKind::Standalone;
            let route = config.routes.catch_all.as_mut().unwrap();
            route.mirrors.push(Mirror {
                cluster,
                exclude_read_commands: false,
                fraction: Fraction::ALL,
                draw_per_command: false,
            });
        });
        let client = driver.connect();
        for command in ["SET a 1", "DBSIZE", "KEYS *", "INFO", "CONFIG GET x", "FLUSHALL"] {
            driver.ask(client, command);
        }
        assert_eq!(driver.other.executed, ["other-0:1: SET a 1", "other-0:1: FLUSHALL"]);
        assert_eq!(driver.other.value("a"), None);
    }
}

#[test]
fn a_script_is_ended_past_the_connection_that_it_keeps_busy() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        assert_eq!(driver.connections(&owner), 1);
        driver.command(client, "FUNCTION KILL");
        assert_eq!(driver.connections(&owner), 2);
    });
}

#[test]
fn of_debug_only_sleep_is_for_all_nodes() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "DEBUG sleep 0"), "+OK ");
        assert_eq!(driver.cluster.executed.len(), 3);
        let refusal = driver.ask(client, "DEBUG JMAP");
        assert!(refusal.starts_with("-ERR the command looks after one server"), "{refusal}");
        assert_eq!(driver.cluster.executed.len(), 3);
    });
}

#[test]
fn waitaof_answers_with_the_least_of_all_primaries() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        assert_eq!(driver.ask(client, "WAITAOF 1 0 100"), "*2 :1 :0 ");
        let asked = driver.cluster.executed.iter().filter(|line| line.contains("WAITAOF"));
        assert_eq!(asked.count(), 3);
    });
}

#[test]
fn a_script_loaded_in_a_transaction_is_brought_to_the_other_nodes_later() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, "SCRIPT LOAD append"), "+QUEUED ");
        let loaded = driver.ask(client, "EXEC");
        let digest = loaded.split(' ').nth(2).unwrap();
        for key in ["a", "b", "c", "d"] {
            assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 {key} x")), ":1 ");
        }
    });
}

#[test]
fn what_concerns_all_nodes_is_refused_in_a_transaction() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MULTI");
        let reply = driver.ask(client, "FLUSHALL");
        assert!(reply.starts_with("-CROSSSLOT the command concerns all nodes"), "{reply}");
        assert!(driver.ask(client, "EXEC").starts_with("-EXECABORT"));
        assert_eq!(driver.cluster.executed, [""; 0]);
    });
}
