//! MULTI, EXEC, DISCARD, WATCH: what a standalone Redis would answer, from one node of many.

use std::time::Duration;

use crate::support::{self, Driver, Health, each_chunking, mirror_writes};

/// What the client is told when a transaction was refused.
const ABORTED: &str = "-EXECABORT Transaction discarded because of previous errors. ";

const CROSSSLOT: &str = "-CROSSSLOT Keys in request don't hash to the same slot ";

#[test]
fn a_transaction_is_executed_as_one() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "MULTI"), "+OK ");
        assert_eq!(driver.ask(client, "SET a 1"), "+QUEUED ");
        assert_eq!(driver.ask(client, "APPEND a 2"), "+QUEUED ");
        assert_eq!(driver.ask(client, "GET a"), "+QUEUED ");
        assert_eq!(driver.cluster.value("a"), None, "nothing is executed before EXEC");
        assert_eq!(driver.ask(client, "EXEC"), "*3 +OK :2 $2 12 ");
        assert_eq!(driver.ask(client, "GET a"), "$2 12 ");
        let owner = driver.cluster.owner("a");
        let words = ["MULTI", "SET a 1", "APPEND a 2", "GET a", "EXEC", "GET a"];
        assert_eq!(driver.cluster.executed, words.map(|words| format!("{owner}: {words}")));
    });
}

#[test]
fn many_transactions_share_a_connection_and_get_their_own_replies() {
    each_chunking(|mut driver| {
        let (one, two) = (driver.connect(), driver.connect());
        driver.ask(one, "SET a 0");
        driver.ask(one, "MULTI");
        driver.ask(two, "MULTI");
        driver.ask(one, "APPEND a 1");
        driver.ask(two, "APPEND a 22");
        driver.ask(two, "GET a");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(two, "EXEC");
        driver.command(one, "EXEC");
        driver.command(one, "GET a");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(two), "*2 :3 $3 022 ");
        assert_eq!(driver.received(one), "*1 :4 $4 0221 ");
        assert_eq!(driver.connections(&owner), 1);
    });
}

#[test]
fn misuse_is_answered_in_redis_words() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "EXEC"), "-ERR EXEC without MULTI ");
        assert_eq!(driver.ask(client, "DISCARD"), "-ERR DISCARD without MULTI ");
        assert_eq!(driver.ask(client, "UNWATCH"), "+OK ");
        assert_eq!(driver.ask(client, "MULTI"), "+OK ");
        assert_eq!(driver.ask(client, "MULTI"), "-ERR MULTI calls can not be nested ");
        assert_eq!(driver.ask(client, "WATCH a"), "-ERR WATCH inside MULTI is not allowed ");
        assert_eq!(driver.ask(client, "EXEC"), "*0 ", "neither ends it");
    });
}

#[test]
fn a_command_that_is_rejected_ends_up_in_the_reply_to_exec() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SUBSCRIBE news");
        driver.ask(client, "MULTI");
        let text = "Can't execute 'exec': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / \
                    RESET are allowed in this context ";
        let aborted = format!("-EXECABORT Transaction discarded because of: {text}");
        assert_eq!(driver.ask(client, "EXEC"), aborted);
        driver.ask(client, "UNSUBSCRIBE");

        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 1");
        assert_eq!(
            driver.ask(client, "EXEC now"),
            "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command "
        );
        assert_eq!(driver.ask(client, "EXEC"), "-ERR EXEC without MULTI ");
        assert_eq!(driver.cluster.value("a"), None);
    });
}

#[test]
fn a_command_that_no_redis_takes_aborts_the_transaction() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for wrong in ["GET", "SAVE", "SUBSCRIBE x"] {
            driver.ask(client, "MULTI");
            assert!(driver.ask(client, wrong).starts_with("-ERR "), "{wrong}");
            assert_eq!(driver.ask(client, "SET a 1"), "+QUEUED ");
            assert_eq!(driver.ask(client, "EXEC"), ABORTED);
        }
        assert_eq!(driver.cluster.value("a"), None);
        driver.ask(client, "MULTI");
        assert_eq!(
            driver.ask(client, "EXEC a"),
            "-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' \
             command "
        );
        assert_eq!(driver.ask(client, "EXEC"), "-ERR EXEC without MULTI ");
    });
}

#[test]
fn keys_of_another_slot_are_refused_when_they_are_queued() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, "SET {x}1 1"), "+QUEUED ");
        assert_eq!(driver.ask(client, "SET {x}2 1"), "+QUEUED ");
        assert_eq!(driver.ask(client, "SET b 1"), CROSSSLOT);
        assert_eq!(driver.ask(client, "EXEC"), ABORTED);
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, "MGET a b"), CROSSSLOT);
        assert_eq!(driver.ask(client, "DISCARD"), "+OK ");
        assert_eq!(driver.ask(client, "GET {x}1"), "$-1 ");
    });
}

#[test]
fn what_the_proxy_answers_itself_stands_among_the_replies() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MULTI");
        for words in ["CLIENT SETNAME me", "SET a 1", "CLIENT GETNAME", "GET a", "SELECT 0"] {
            assert_eq!(driver.ask(client, words), "+QUEUED ");
        }
        assert_eq!(driver.ask(client, "EXEC"), "*5 +OK +OK $2 me $1 1 +OK ");
        driver.ask(client, "MULTI");
        driver.ask(client, "CLIENT GETNAME");
        assert_eq!(driver.ask(client, "EXEC"), "*1 $2 me ");
    });
}

#[test]
fn a_transaction_follows_its_slot_and_is_executed_once() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        let owner = driver.cluster.owner("a");
        driver.cluster.move_slot("a", driver.cluster.other_than("a"));
        driver.ask(client, "MULTI");
        driver.ask(client, "APPEND a 1");
        driver.ask(client, "GET a");
        assert_eq!(driver.ask(client, "EXEC"), "*2 :2 $2 -1 ");
        assert_ne!(driver.cluster.owner("a"), owner);
        assert_eq!(driver.cluster.value("a").unwrap(), "-1");
    });
}

#[test]
fn a_transaction_is_executed_with_leave_where_its_slot_is_going() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let slot = slotmesh_engine::Slot::of(b"s").number();
        driver.ask(client, "SET {s}old 1");
        driver.cluster.migrating.insert(slot, driver.cluster.other_than("s"));
        driver.ask(client, "MULTI");
        driver.ask(client, "SET {s}new 2");
        driver.ask(client, "APPEND {s}new 3");
        assert_eq!(driver.ask(client, "EXEC"), "*2 +OK :2 ");
        assert_eq!(driver.proxy.stats().redirect_ask, 1);
    });
}

#[test]
fn a_transaction_waits_for_a_node_that_can_serve_it() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        driver.ask(client, "MULTI");
        driver.ask(client, "APPEND a 1");
        driver.ask(client, "APPEND a 2");
        driver.cluster.refuse_once = Some("CLUSTERDOWN The cluster is down".to_owned());
        driver.command(client, "EXEC");
        assert_eq!(driver.received(client), "");
        driver.wait(Duration::from_millis(50));
        assert_eq!(driver.received(client), "*2 :2 :3 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "-12");
    });
}

#[test]
fn a_transaction_whose_reply_was_lost_is_not_sent_again() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a -");
        driver.ask(client, "MULTI");
        driver.ask(client, "APPEND a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "EXEC");
        driver.cut(&owner);
        assert!(driver.received(client).contains("the command may have been executed"));
        driver.cluster.set_health(&owner, Health::Well);
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.cluster.value("a").unwrap(), "-");
    });
}

#[test]
fn a_watched_key_that_another_client_changes_stops_the_transaction() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.ask(client, "SET a 1");
        assert_eq!(driver.ask(client, "WATCH a"), "+OK ");
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        driver.ask(other, "SET a 5");
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 2");
        assert_eq!(driver.ask(client, "EXEC"), "*-1 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "5");
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 2");
        assert_eq!(driver.ask(client, "EXEC"), "*1 +OK ", "it is watched no more");
    });
}

#[test]
fn a_watched_key_that_nobody_changes_lets_the_transaction_run() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.ask(client, "SET {x}a 1");
        assert_eq!(driver.ask(client, "WATCH {x}a"), "+OK ");
        assert_eq!(driver.ask(client, "WATCH {x}b"), "+OK ");
        driver.ask(other, "SET {x}c 5");
        driver.ask(client, "MULTI");
        driver.ask(client, "SET {x}a 2");
        assert_eq!(driver.ask(client, "EXEC"), "*1 +OK ");
        let owner = driver.cluster.owner("{x}a");
        assert_eq!(driver.connections(&owner), 2, "one that is shared, one to watch by");
        // The next client watches by the same one.
        assert_eq!(driver.ask(other, "WATCH {x}a"), "+OK ");
        assert_eq!(driver.connections(&owner), 2);
        driver.disconnect(other);
        assert_eq!(driver.connections(&owner), 1, "it may watch still");
    });
}

#[test]
fn keys_of_several_slots_cannot_be_watched() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "WATCH a b"), CROSSSLOT);
        assert_eq!(driver.ask(client, "WATCH a"), "+OK ");
        assert_eq!(driver.ask(client, "WATCH b"), CROSSSLOT);
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, "SET b 1"), CROSSSLOT);
        assert_eq!(driver.ask(client, "EXEC"), ABORTED);
        assert_eq!(driver.ask(client, "WATCH b"), "+OK ", "EXEC has ended the first watch");
    });
}

#[test]
fn unwatch_and_discard_forget_what_was_watched() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        for end in ["UNWATCH", "DISCARD", "RESET"] {
            driver.ask(client, "WATCH a");
            driver.ask(other, "APPEND a 5");
            if end == "DISCARD" {
                driver.ask(client, "MULTI");
            }
            driver.ask(client, end);
            driver.ask(client, "MULTI");
            driver.ask(client, "SET a 2");
            assert_eq!(driver.ask(client, "EXEC"), "*1 +OK ", "{end}");
        }
    });
}

#[test]
fn a_watch_comes_after_what_was_sent_before_it_and_before_what_follows() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = driver.cluster.owner("a");
        driver.ask(client, "GET a");
        driver.cluster.set_health(&owner, Health::Silent);
        for words in ["SET a 1", "WATCH a", "GET a", "MULTI", "APPEND a 2", "EXEC", "GET a"] {
            driver.command(client, words);
        }
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "+OK +OK $1 1 +OK +QUEUED *1 :2 $2 12 ");
        let executed: Vec<_> = driver.cluster.executed.iter().skip(1).cloned().collect();
        let words = ["SET a 1", "WATCH a", "GET a", "MULTI", "APPEND a 2", "EXEC", "GET a"];
        assert_eq!(executed, words.map(|words| format!("{owner}: {words}")));
    });
}

#[test]
fn a_watch_whose_connection_was_lost_stops_the_transaction() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "WATCH a");
        driver.cut(&driver.cluster.owner("a"));
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 1");
        assert_eq!(driver.ask(client, "EXEC"), "*-1 ");
        assert_eq!(driver.cluster.value("a"), None);
        driver.ask(client, "HELLO 3");
        driver.ask(client, "WATCH a");
        driver.cut(&driver.cluster.owner("a"));
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, "EXEC"), "_ ");
    });
}

#[test]
fn a_watched_slot_that_has_moved_stops_the_transaction() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        driver.ask(client, "WATCH a");
        driver.cluster.move_slot("a", driver.cluster.other_than("a"));
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 2");
        assert_eq!(driver.ask(client, "EXEC"), "*-1 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "1");
        driver.ask(client, "WATCH a");
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 2");
        assert_eq!(driver.ask(client, "EXEC"), "*1 +OK ", "the second try finds it");
    });
}

#[test]
fn a_client_that_leaves_takes_its_transaction_along() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "WATCH a");
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        assert_eq!(driver.connections(&owner), 1);
        driver.disconnect(client);
        assert_eq!(driver.connections(&owner), 0);
        assert_eq!(driver.cluster.value("a"), None);
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn a_mirror_gets_a_transaction_as_one_unless_it_was_stopped() {
    for chunking in [support::Chunking::Whole, support::Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, mirror_writes);
        let (client, other) = (driver.connect(), driver.connect());
        driver.ask(client, "MULTI");
        driver.ask(client, "SET a 1");
        driver.ask(client, "EXEC");
        driver.ask(client, "WATCH a");
        driver.ask(client, "MULTI");
        driver.ask(client, "APPEND a 2");
        driver.ask(client, "EXEC");
        driver.ask(client, "WATCH a");
        driver.ask(other, "SET a 5");
        driver.ask(client, "MULTI");
        driver.ask(client, "APPEND a 9");
        assert_eq!(driver.ask(client, "EXEC"), "*-1 ");
        driver.ask(client, "MULTI");
        driver.ask(client, "GET a");
        driver.ask(client, "EXEC");
        let words = ["MULTI", "SET a 1", "EXEC", "MULTI", "APPEND a 2", "EXEC", "SET a 5"];
        assert_eq!(driver.other.executed, words.map(|words| format!("other-0:1: {words}")));
    }
}

#[test]
fn a_transaction_may_not_take_all_memory() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.limits.transaction_bytes = 1000;
    });
    let client = driver.connect();
    driver.ask(client, "MULTI");
    let set = format!("SET a {}", "x".repeat(400));
    assert_eq!(driver.ask(client, &set), "+QUEUED ");
    assert_eq!(driver.ask(client, &set), "+QUEUED ");
    let refused = driver.ask(client, &set);
    assert!(refused.starts_with("-ERR the transaction is too large"), "{refused}");
    assert_eq!(driver.ask(client, "EXEC"), ABORTED);
    driver.ask(client, "MULTI");
    assert_eq!(driver.ask(client, &set), "+QUEUED ", "what ended gives its room back");
}
