//! Commands that keep their connection waiting.

use std::time::Duration;

use crate::support::{self, Chunking, Driver, Health, OP_TIMEOUT, each_chunking, mirror_writes};

#[test]
fn a_blocked_client_waits_alone_and_gets_what_comes() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 0");
        assert_eq!(driver.ask(other, "SET b 1"), "+OK ");
        assert_eq!(driver.received(client), "");
        assert_eq!(driver.ask(other, "SET a 7"), "+OK ");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 ");
    });
}

#[test]
fn a_blocked_client_may_wait_far_longer_than_op_timeout() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 0");
        driver.wait(OP_TIMEOUT * 20);
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 ");
    });
}

#[test]
fn no_time_runs_for_what_a_client_has_sent_behind_a_blocking_command() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.send(client, ["BLPOP a 0", "GET b", "SET b 2"].map(support::encode).concat());
        driver.wait(OP_TIMEOUT * 20);
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 $-1 +OK ");
    });
}

#[test]
fn commands_behind_a_blocking_one_come_after_it_and_those_before_come_first() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        for words in ["SET b 1", "BLPOP a 0", "GET b", "BLPOP b 0", "PING"] {
            driver.command(client, words);
        }
        assert_eq!(driver.received(client), "+OK ");
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 $1 1 *2 $1 b $1 1 +PONG ");
    });
}

#[test]
fn a_client_that_leaves_takes_nothing() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 0");
        let owner = driver.cluster.owner("a");
        assert_eq!(driver.connections(&owner), 1);
        driver.disconnect(client);
        assert_eq!(driver.connections(&owner), 0);
        driver.ask(other, "SET a 7");
        assert_eq!(driver.ask(other, "GET a"), "$1 7 ");
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn a_connection_that_has_served_its_wait_serves_the_next_client_s() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.ask(other, "SET a 7");
        assert_eq!(driver.ask(client, "BLPOP a 0"), "*2 $1 a $1 7 ");
        let owner = driver.cluster.owner("a");
        assert_eq!(driver.connections(&owner), 2);
        driver.ask(client, "SET a 8");
        assert_eq!(driver.ask(other, "BLPOP a 0"), "*2 $1 a $1 8 ");
        assert_eq!(driver.connections(&owner), 2);
        driver.wait(Duration::from_secs(40));
        assert_eq!(driver.connections(&owner), 1, "nobody has wanted it for a while");
    });
}

#[test]
fn a_wait_goes_on_where_the_slot_has_gone_for_what_is_left_of_its_time() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 9");
        driver.wait(Duration::from_secs(4));
        // Redis tells blocked clients when their slot moves.
        driver.cluster.move_slot("a", driver.cluster.other_than("a"));
        driver.settle();
        assert_eq!(driver.received(client), "");
        let last = driver.cluster.executed.last().unwrap();
        assert_eq!(*last, format!("{}: BLPOP a 5.000", driver.cluster.owner("a")));
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 ");
    });
}

#[test]
fn a_wait_goes_on_when_the_node_has_become_a_replica() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 0");
        driver.cluster.refuse_once = Some(
            "UNBLOCKED force unblock from blocking operation, instance state changed \
             (master -> replica?)"
                .to_owned(),
        );
        driver.settle();
        driver.wait(Duration::from_millis(50));
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 ");
    });
}

#[test]
fn a_wait_whose_connection_was_lost_says_so() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.command(client, "BLPOP a 0");
        driver.cut(&driver.cluster.owner("a"));
        let reply = driver.received(client);
        assert!(reply.starts_with("-UNBLOCKED the connection to "), "{reply}");
        assert!(reply.contains("may have been executed"), "{reply}");
        assert_eq!(driver.ask(client, "PING"), "+PONG ");
    });
}

#[test]
fn a_wait_that_only_reads_is_taken_up_again_when_its_connection_was_lost() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.cluster.blocking = true;
        driver.command(client, "XREAD BLOCK 0 STREAMS a 0");
        driver.cut(&driver.cluster.owner("a"));
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(client), "");
        let reads = driver.cluster.executed.iter().filter(|words| words.contains("XREAD")).count();
        assert_eq!(reads, 2);
    });
}

#[test]
fn a_node_that_forgets_to_end_a_wait_is_given_up() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.command(client, "BLPOP a 3");
        driver.wait(Duration::from_millis(4500));
        assert_eq!(driver.received(client), "");
        driver.wait(Duration::from_secs(3));
        let reply = driver.received(client);
        assert!(reply.starts_with("-UNBLOCKED "), "{reply}");
        assert_eq!(driver.connections(&driver.cluster.owner("a")), 0);
    });
}

#[test]
fn a_wait_on_a_node_that_died_silently_ends_once_another_owns_the_slot() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.command(client, "BLPOP a 0");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.cluster.move_slot("a", driver.cluster.other_than("a"));
        driver.wait(Duration::from_secs(20));
        let reply = driver.received(client);
        assert!(reply.starts_with("-UNBLOCKED "), "{reply}");
        assert!(reply.contains("no longer owns the slot"), "{reply}");
    });
}

#[test]
fn a_wait_that_reaches_no_node_times_out_like_any_command() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "GET a");
        driver.cluster.set_all_healths(Health::Refusing);
        driver.cut("node-0:1");
        driver.cut("node-1:1");
        driver.cut("node-2:1");
        driver.command(client, "BLPOP a 0");
        driver.wait(OP_TIMEOUT + Duration::from_millis(100));
        assert!(driver.received(client).starts_with('-'));
    });
}

#[test]
fn keys_of_several_slots_cannot_be_waited_for_together() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let reply = driver.ask(client, "BLPOP a b 0");
        assert_eq!(reply, "-CROSSSLOT Keys in request don't hash to the same slot ");
    });
}

#[test]
fn a_mirror_is_told_what_a_wait_has_taken_and_never_waits_itself() {
    for chunking in [Chunking::Whole, Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, mirror_writes);
        let (client, other) = (driver.connect(), driver.connect());
        driver.command(client, "BLPOP a 0");
        assert_eq!(driver.other.executed, [""; 0]);
        driver.ask(other, "SET a 7");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $1 a $1 7 ");
        assert_eq!(driver.other.executed, ["other-0:1: SET a 7", "other-0:1: lpop a"]);
    }
}

#[test]
fn wait_is_about_all_that_the_client_has_written_wherever_it_lies() {
    each_chunking(|mut driver| {
        driver.cluster.add_replica(0, "replica-0:1");
        driver.cluster.add_replica(0, "replica-1:1");
        driver.cluster.add_replica(1, "replica-2:1");
        driver.cluster.add_replica(2, "replica-3:1");
        let client = driver.connect();
        driver.command(client, "SET a 1");
        assert_eq!(driver.ask(client, "WAIT 1 100"), "+OK :1 ");
        let executed = &driver.cluster.executed;
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            assert!(executed.contains(&format!("{node}: WAIT 1 100")), "{executed:?}");
            assert_eq!(
                driver.connections(node),
                if *node == *driver.cluster.owner("a") { 2 } else { 1 }
            );
        }
        driver.cluster.blocking = true;
        driver.command(client, "WAIT 2 0");
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT * 3);
        assert_eq!(driver.received(client), "");
        driver.cluster.blocking = false;
        driver.settle();
        assert_eq!(driver.received(client), ":1 $1 1 ");
    });
}

#[test]
fn the_node_lets_go_of_a_client_that_another_one_unblocks() {
    for protocol in ["2", "3"] {
        each_chunking(|mut driver| {
            driver.cluster.blocking = true;
            let [client, other] = [(); 2].map(|()| driver.connect());
            driver.ask(client, &format!("HELLO {protocol}"));
            let id = driver.ask(client, "CLIENT ID").trim_matches([':', ' ']).to_owned();
            assert_eq!(driver.ask(other, &format!("CLIENT UNBLOCK {id}")), ":0 ");
            driver.command(client, "BLPOP k 0");
            assert_eq!(driver.ask(other, &format!("CLIENT UNBLOCK {id}")), ":1 ");
            let null = if protocol == "2" { "*-1 " } else { "_ " };
            assert_eq!(driver.received(client), null);
            driver.command(client, "BLPOP k 0");
            assert_eq!(driver.ask(other, &format!("CLIENT UNBLOCK {id} ERROR")), ":1 ");
            let error = "-UNBLOCKED client unblocked via CLIENT UNBLOCK ";
            assert_eq!(driver.received(client), error);
            assert_eq!(driver.ask(client, "SET k x"), "+OK ");
            assert_eq!(driver.ask(client, "BLPOP k 0"), "*2 $1 k $1 x ");
            for (words, error) in [
                ("x", "-ERR value is not an integer or out of range "),
                ("1 FOO", "-ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR "),
            ] {
                assert_eq!(driver.ask(other, &format!("CLIENT UNBLOCK {words}")), error);
            }
        });
    }
}
