//! Replies go to the client that asked, in the order in which it asked.

use std::time::Duration;

use slotmesh_engine::Config;

use crate::support::{self, Driver, Health, OP_TIMEOUT, each_chunking, each_chunking_with, encode};

#[test]
fn a_client_reads_and_writes_every_shard_through_one_connection() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            assert_eq!(driver.ask(client, &format!("SET {key} value-of-{key}")), "+OK ");
        }
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            let value = format!("$10 value-of-{key} ");
            assert_eq!(driver.ask(client, &format!("GET {key}")), value);
        }
        let owners: std::collections::BTreeSet<_> =
            ["a", "b", "c", "d"].iter().map(|key| driver.cluster.owner(key)).collect();
        assert_eq!(owners.len(), 3, "the keys are spread over the three nodes");
        assert_eq!(driver.proxy.stats().redirect_moved, 0, "every command went to its owner");
    });
}

#[test]
fn replies_leave_in_request_order_whatever_order_nodes_answer_in() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for key in ["a", "b", "c"] {
            driver.ask(client, &format!("SET {key} {key}"));
        }
        let slowest = driver.cluster.owner("a");
        driver.cluster.set_health(&slowest, Health::Silent);
        let mut pipeline = encode("GET a");
        for command in ["GET b", "GET c", "PING", "NOSUCHCOMMAND", "GET b"] {
            pipeline.extend(encode(command));
        }
        driver.send(client, pipeline);
        assert_eq!(driver.received(client), "", "the first reply is not there yet");
        driver.cluster.set_health(&slowest, Health::Well);
        driver.settle();
        assert_eq!(
            driver.received(client),
            "$1 a $1 b $1 c +PONG \
             -ERR unknown command 'NOSUCHCOMMAND', with args beginning with:  $1 b "
        );
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn clients_share_a_connection_and_each_gets_its_own_replies() {
    each_chunking(|mut driver| {
        let clients: Vec<_> = (0..20).map(|_| driver.connect()).collect();
        for (number, client) in clients.iter().enumerate() {
            driver.send_unsettled(*client, encode(&format!("SET key-{number} {number}")));
            driver.send_unsettled(*client, encode(&format!("GET key-{number}")));
        }
        driver.settle();
        for (number, client) in clients.iter().enumerate() {
            let digits = number.to_string().len();
            assert_eq!(driver.received(*client), format!("+OK ${digits} {number} "));
        }
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            assert_eq!(driver.connections(node), 1);
        }
    });
}

#[test]
fn everything_that_one_read_brings_for_a_node_leaves_in_one_write() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    driver.ask(client, "SET {t}1 x");
    let owner = driver.cluster.owner("{t}");
    let before = driver.writes[&owner];
    let mut pipeline = Vec::new();
    for _ in 0..100 {
        pipeline.extend(encode("GET {t}1"));
    }
    driver.send(client, pipeline);
    assert_eq!(driver.received(client), "$1 x ".repeat(100));
    assert_eq!(driver.writes[&owner], before + 1);
}

#[test]
fn replies_of_several_nodes_that_come_together_reach_their_client_in_one_write() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    let keys = ["a", "b", "c"];
    for key in keys {
        driver.ask(client, &format!("SET {key} {key}"));
    }
    let before = driver.writes_to(client);
    driver.cluster.set_all_healths(Health::Silent);
    let pipeline: Vec<u8> = keys.iter().flat_map(|key| encode(&format!("GET {key}"))).collect();
    driver.send(client, pipeline.repeat(2));
    assert_eq!(driver.received(client), "");
    driver.cluster.set_all_healths(Health::Well);
    driver.settle();
    assert_eq!(driver.received(client), "$1 a $1 b $1 c ".repeat(2));
    assert_eq!(driver.writes_to(client), before + 1);
}

#[test]
fn what_many_clients_send_to_a_busy_node_leaves_in_one_write() {
    // A command that is moved leaves by itself, and so small ones are not.
    let copied = |config: &mut Config| config.limits.moved_command_bytes = 1000;
    each_chunking_with(copied, |mut driver| {
        let clients: Vec<_> = (0..100).map(|_| driver.connect()).collect();
        assert_eq!(driver.ask(clients[0], "SET a 1"), "+OK ");
        let node = driver.cluster.owner("a");
        let before = driver.writes[&node];
        for client in &clients {
            driver.send_unsettled(*client, encode("APPEND a x"));
        }
        let at_once = driver.writes[&node] - before;
        assert!(at_once < 40, "{at_once} of 100 did not wait for the others");
        driver.settle();
        assert_eq!(driver.writes[&node] - before, at_once + 1);
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(driver.received(*client), format!(":{} ", number + 2));
        }
    });
}

#[test]
fn what_a_client_is_owed_when_it_leaves_goes_to_nobody() {
    each_chunking(|mut driver| {
        let leaving = driver.connect();
        let staying = driver.connect();
        driver.ask(staying, "SET a secret");
        driver.ask(staying, "SET {a}b mine");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(leaving, "GET a");
        driver.command(staying, "GET {a}b");
        driver.disconnect(leaving);
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(staying), "$4 mine ");
        assert_eq!(driver.proxy.requests(), 0);
        assert_eq!(driver.connections(&owner), 1);
    });
}

#[test]
fn a_command_whose_time_is_up_fails_alone_and_its_late_reply_is_dropped() {
    each_chunking(|mut driver| {
        let impatient = driver.connect();
        let other = driver.connect();
        driver.ask(other, "SET a 1");
        driver.ask(other, "SET {a}b 2");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(impatient, "SET a 3");
        driver.wait(OP_TIMEOUT - Duration::from_millis(100));
        assert_eq!(driver.received(impatient), "");
        driver.command(other, "GET {a}b");
        driver.wait(Duration::from_millis(200));
        assert_eq!(
            driver.received(impatient),
            "-TIMEOUT no reply to the command within 2s; it may have been executed "
        );
        assert_eq!(driver.received(other), "", "its own time is not up");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(other), "$1 2 ");
        assert_eq!(driver.received(impatient), "");
        assert_eq!(driver.ask(impatient, "GET a"), "$1 3 ");
        assert_eq!(driver.opened[&owner], 1 + opened_for_topology(&driver, &owner));
    });
}

#[test]
fn commands_behind_one_that_waits_for_its_node_end_in_their_own_time() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.ask(other, "MSET a 1 b 2");
        let (dead, well) = (driver.cluster.owner("a"), driver.cluster.owner("b"));
        assert_ne!(dead, well, "the test wants keys of two nodes");
        driver.cluster.set_health(&dead, Health::Refusing);
        driver.cut(&dead);
        driver.command(other, "GET a");
        let executed = driver.cluster.executed.len();
        driver.send(client, ["GET a", "ECHO hi", "SET b 3", "GET a"].map(encode).concat());
        driver.wait(OP_TIMEOUT / 2);
        driver.command(client, "APPEND b 4");
        driver.command(client, "GET a");
        driver.command(client, "GET b");
        driver.wait(OP_TIMEOUT / 4);
        assert_eq!(driver.received(client), "");
        driver.wait(OP_TIMEOUT / 4);
        let reply = driver.received(client);
        let (lost, replies) = reply.split_once(" $2 hi ").expect(&reply);
        assert!(lost.starts_with("-CLUSTERDOWN "), "{lost}");
        let late = "-TIMEOUT no reply to the command within 2s: it has waited for those before it ";
        assert_eq!(replies, format!("{late}{late}:2 "));
        assert_eq!(driver.cluster.executed[executed..], [format!("{well}: APPEND b 4")]);
        // Arrivals are told apart in steps.
        driver.wait(OP_TIMEOUT / 2 - OP_TIMEOUT / 16);
        assert_eq!(driver.received(client), "");
        driver.wait(OP_TIMEOUT / 16);
        let reply = driver.received(client);
        assert!(reply.starts_with("-CLUSTERDOWN ") && reply.ends_with(late), "{reply}");
        assert_eq!(driver.ask(client, "GET b"), "$2 24 ");
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn a_client_that_sends_far_ahead_is_paused_until_it_has_been_answered() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.limits.session_requests = 100;
    });
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    let owner = driver.cluster.owner("a");
    driver.cluster.set_health(&owner, Health::Silent);
    let value = "x".repeat(1000);
    let mut expected = String::new();
    for number in 0..3000 {
        driver.send_unsettled(client, encode(&format!("SET {{a}}{number} {value}")));
        driver.send_unsettled(client, encode(&format!("EXISTS {{a}}{number}")));
        expected.push_str("+OK :1 ");
    }
    driver.settle();
    assert!(driver.is_paused(client));
    assert_eq!(driver.proxy.requests(), 100);
    driver.cluster.set_health(&owner, Health::Well);
    driver.settle();
    assert!(!driver.is_paused(client));
    assert_eq!(driver.received(client), expected);
}

#[test]
fn commands_may_be_cut_anywhere_and_mixed_with_inline_ones() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver
            .send(client, b"SET \"a b\" '1 2'\r\n*2\r\n$3\r\nget\r\n$3\r\na b\r\n\r\n*0\r\nping\n");
        assert_eq!(driver.received(client), "+OK $3 1 2 +PONG ");
    });
}

fn opened_for_topology(driver: &Driver, address: &str) -> usize {
    // Every topology is read over a connection of its own.
    driver.opened[address] - driver.connections(address)
}
