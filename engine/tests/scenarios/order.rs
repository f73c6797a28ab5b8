//! A client's commands for one slot are executed in their order, whatever becomes of one of them.

use std::time::Duration;

use crate::support::{self, ClientId, Driver, Health, each_chunking};
use slotmesh_engine::Slot;
use slotmesh_engine::config::ReadPolicy;

const DOWN: &str = "CLUSTERDOWN The cluster is down";

#[test]
fn a_refused_write_waits_for_a_later_part_under_way_while_another_part_is_held() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a - b -");
        let (first, second) = (driver.cluster.owner("a"), driver.cluster.owner("b"));
        assert_ne!(first, second, "the test wants keys of two nodes");
        driver.cluster.set_health(&first, Health::Silent);
        driver.cluster.set_health(&second, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "MSET a 2 b 2");
        refuse_next(&mut driver, &first);
        refuse_next(&mut driver, &second);
        driver.wait(Duration::from_millis(100));
        driver.cluster.set_all_healths(Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), format!("-{DOWN} +OK "));
        assert_eq!(driver.cluster.value("a").unwrap(), "2");
    });
}

#[test]
fn a_refused_command_lets_none_of_those_behind_it_go_ahead() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "APPEND a 2");
        refuse_next(&mut driver, &owner);
        let other = driver.cluster.other_than("a");
        driver.cluster.move_slot("a", other);
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), ":2 :3 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "-12");
    });
}

#[test]
fn a_transaction_asked_elsewhere_is_not_executed_after_a_command_behind_it() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET {s}here -");
        let (owner, importer) = migrate(&mut driver);
        driver.cluster.set_health(&owner, Health::Silent);
        driver.cluster.set_health(&importer, Health::Silent);
        transact(&mut driver, client, &["APPEND {s}here 1", "GET {s}gone"]);
        driver.command(client, "APPEND {s}here 2");
        // It gets ASK, since of its keys one has gone; that behind it is served.
        driver.cluster.answer_only(&owner, 4);
        driver.settle();
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        driver.cluster.set_health(&importer, Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(
            driver.received(client),
            "+OK +QUEUED +QUEUED -TRYAGAIN Multiple keys request during rehashing of slot :2 "
        );
        assert_eq!(driver.cluster.value("{s}here").unwrap(), "-2");
    });
}

#[test]
fn nothing_is_read_behind_a_command_of_several_keys_that_was_asked_elsewhere() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET {s}here -");
        let (_, importer) = migrate(&mut driver);
        driver.cluster.set_health(&importer, Health::Silent);
        driver.command(client, "MSET {s}gone 1 {s}here 1");
        driver.command(client, "APPEND {s}here 2");
        assert_eq!(driver.received(client), "");
        assert_eq!(driver.cluster.value("{s}here").unwrap(), "-");
        driver.cluster.set_health(&importer, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "+OK :2 ");
    });
}

#[test]
fn commands_of_one_key_are_asked_elsewhere_in_the_middle_of_a_pipeline() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET {s}here -");
        let (owner, _) = migrate(&mut driver);
        driver.cluster.set_health(&owner, Health::Silent);
        for key in ["gone", "here", "gone", "here"] {
            driver.command(client, &format!("APPEND {{s}}{key} 1"));
        }
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), ":1 :2 :2 :3 ");
    });
}

#[test]
fn a_read_is_not_sent_again_behind_a_write_that_may_have_been_executed() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "GET a");
        driver.command(client, "APPEND a 1");
        driver.command(client, "GET a");
        driver.cluster.set_health(&owner, Health::Well);
        driver.cut(&owner);
        driver.wait(Duration::from_millis(100));
        let lost = format!("-ERR the connection to {owner} was lost (reset by the test)");
        assert_eq!(
            driver.received(client),
            format!(
                "{lost} before the reply {lost} before the reply: the command may have been \
                 executed $1 - "
            )
        );
    });
}

#[test]
fn reads_left_to_replicas_have_no_part_in_the_order() {
    for chunking in [support::Chunking::Whole, support::Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, |config| {
            config.routes.catch_all.as_mut().unwrap().read_policy = Some(ReadPolicy::Replica);
        });
        for primary in 0..3 {
            driver.cluster.add_replica(primary, &format!("replica-{primary}:1"));
        }
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        let replica = owner.replace("node", "replica");
        driver.cluster.set_health(&replica, Health::Silent);
        driver.command(client, "APPEND a 1");
        driver.command(client, "GET a");
        refuse_next(&mut driver, &owner);
        driver.cluster.set_all_healths(Health::Well);
        driver.settle();
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), ":2 $1 - ");
    }
}

#[test]
fn a_client_that_changes_its_protocol_does_not_overtake_itself() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        for words in ["APPEND a 1", "HELLO 3", "APPEND a 2", "RESET", "APPEND a 3"] {
            driver.command(client, words);
        }
        assert_eq!(driver.connections(&owner), 1, "another version has another connection");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        let received = driver.received(client);
        assert!(received.starts_with(":2 %7 "), "{received}");
        assert!(received.ends_with(" :3 +RESET :4 "), "{received}");
    });
}

/// A silent node refuses the next command, and is silent again.
fn refuse_next(driver: &mut Driver, node: &str) {
    driver.cluster.refuse_once = Some(DOWN.to_owned());
    driver.cluster.answer_only(node, 1);
    driver.settle();
}

/// The slot of the tag `{s}` begins to move; returns its owner and whom it moves to.
fn migrate(driver: &mut Driver) -> (String, String) {
    let to = driver.cluster.other_than("s");
    driver.cluster.migrating.insert(Slot::of(b"s").number(), to);
    (driver.cluster.owner("s"), format!("node-{to}:1"))
}

fn transact(driver: &mut Driver, client: ClientId, commands: &[&str]) {
    driver.command(client, "MULTI");
    for command in commands {
        driver.command(client, command);
    }
    driver.command(client, "EXEC");
}
