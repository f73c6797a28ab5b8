//! Commands with several keys.

use crate::support::{self, Driver, Health, OP_TIMEOUT, each_chunking};

#[test]
fn split_commands_answer_as_one_redis_would() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "MSET a 1 b 2 c 3 a 4"), "+OK ");
        assert_eq!(driver.ask(client, "MGET b a missing c a"), "*5 $1 2 $1 4 $-1 $1 3 $1 4 ");
        assert_eq!(driver.ask(client, "EXISTS a b missing a"), ":3 ");
        assert_eq!(driver.ask(client, "touch a b c d"), ":3 ");
        assert_eq!(driver.ask(client, "UNLINK a missing"), ":1 ");
        assert_eq!(driver.ask(client, "DEL a b c"), ":2 ");
    });
}

#[test]
fn there_is_one_part_per_slot_and_all_for_a_node_leave_in_one_write() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    driver.ask(client, "MSET a 1 b 2 c 3 d 4");
    driver.cluster.executed.clear();
    let writes = driver.writes.clone();
    let keys: Vec<_> = (0..100).map(|number| format!("k{number}")).collect();
    driver.ask(client, &format!("MGET {} {{k0}}twin", keys.join(" ")));
    assert_eq!(driver.cluster.executed.len(), 100, "k0 and its twin go together");
    assert!(driver.cluster.executed.iter().any(|line| line.ends_with("MGET k0 {k0}twin")));
    for node in ["node-0:1", "node-1:1", "node-2:1"] {
        assert_eq!(driver.writes[node], writes[node] + 1);
    }
}

#[test]
fn keys_of_one_slot_pass_unsplit() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET {t}a 1 {t}b 2");
        let owner = driver.cluster.owner("t");
        assert_eq!(driver.cluster.executed, [format!("{owner}: MSET {{t}}a 1 {{t}}b 2")]);
    });
}

#[test]
fn other_commands_across_slots_get_redis_own_error() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let crossslot = "-CROSSSLOT Keys in request don't hash to the same slot ";
        for command in ["RENAME a b", "SINTER a b c", "ZUNIONSTORE a 2 b c", "MSETNX a 1 b 2"] {
            assert_eq!(driver.ask(client, command), crossslot, "{command}");
        }
        assert_eq!(driver.cluster.executed, [""; 0], "no node was bothered");
    });
}

#[test]
fn an_error_of_one_part_is_the_reply_to_all() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3");
        let owner = driver.cluster.owner("b");
        driver.cluster.errors.insert(owner, "OOM command not allowed".to_owned());
        let error = "-OOM command not allowed";
        let reply = driver.ask(client, "MSET a 2 b 2 c 2");
        assert_eq!(reply, format!("{error}; it may have been executed in part "));
        assert_eq!(driver.ask(client, "MGET a b c"), format!("{error} "));
        driver.cluster.errors.clear();
        assert_eq!(driver.ask(client, "MGET a b c"), "*3 $1 2 $1 2 $1 2 ");
    });
}

#[test]
fn a_command_whose_time_is_up_tells_whether_a_part_may_have_been_executed() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3");
        let ask = |driver: &mut Driver, words: &str| {
            driver.command(client, words);
            driver.wait(OP_TIMEOUT);
            let reply = driver.received(client);
            assert!(reply.starts_with("-CLUSTERDOWN"), "{reply}");
            reply.contains("may have been executed")
        };
        let dead = driver.cluster.owner("b");
        driver.cluster.set_health(&dead, Health::Refusing);
        driver.cut(&dead);
        assert!(ask(&mut driver, "MSET a 2 b 2"));
        assert_eq!(driver.cluster.value("a").unwrap(), "2");
        assert!(!ask(&mut driver, "MGET a b"));
        let silent = driver.cluster.owner("a");
        driver.cluster.set_health(&silent, Health::Silent);
        assert!(ask(&mut driver, "MSET a 3 b 3"));
        driver.cluster.set_all_healths(Health::Refusing);
        driver.cut(&silent);
        assert!(!ask(&mut driver, "MSET a 4 b 4"));
    });
}

#[test]
fn pairs_that_are_none_get_redis_own_error() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let error = "-ERR wrong number of arguments for 'mset' command ";
        assert_eq!(driver.ask(client, "MSET a 1 b"), error);
        assert_eq!(driver.ask(client, "MSET {t}a 1 {t}b"), error);
    });
}

#[test]
fn the_null_of_a_missing_key_is_that_of_the_client_s_protocol() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        assert_eq!(driver.ask(client, "MGET a b"), "*2 _ _ ");
    });
}
