//! Large replies are handed on as they come, and nothing gets into the middle of one.

use std::time::Duration;

use slotmesh_engine::Config;

use crate::support::{
    Chunking, ClientId, Driver, Health, OP_TIMEOUT, each_chunking_with, encode, mirror_writes,
};

/// What the proxy puts together, here; the replies of these tests are longer.
const REPLY_BYTES: usize = 10;

/// Runs a scenario under both ways of cutting bytes.
fn each_chunking(scenario: impl Fn(Driver)) {
    let change = |config: &mut Config| config.limits.reply_bytes = REPLY_BYTES;
    each_chunking_with(change, |mut driver| {
        let client = driver.connect();
        driver.ask(client, "MSET a 1 b 2 c 3");
        driver.disconnect(client);
        scenario(driver);
    });
}

/// The owner of `key` keeps what it gets from now on; the test answers in its place.
fn silence(driver: &mut Driver, key: &str) -> String {
    let owner = driver.cluster.owner(key);
    driver.cluster.set_health(&owner, Health::Silent);
    owner
}

fn connect_resp3(driver: &mut Driver) -> ClientId {
    let client = driver.connect();
    assert!(driver.ask(client, "HELLO 3").starts_with('%'));
    client
}

#[test]
fn a_large_reply_is_handed_on_as_it_comes_and_a_small_one_when_it_is_whole() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.send(client, [encode("GET a"), encode("GET a"), encode("PING")].concat());
        driver.say(&owner, b"$30\r\n0123456789");
        assert_eq!(driver.received(client), "$30 0123456789");
        driver.say(&owner, b"01234567890123456789\r");
        assert_eq!(driver.received(client), "01234567890123456789");
        driver.say(&owner, b"\n$4\r\nabc");
        assert_eq!(driver.received(client), " ");
        driver.say(&owner, b"d\r\n");
        assert_eq!(driver.received(client), "$4 abcd +PONG ");
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn a_reply_of_many_small_values_is_handed_on_as_it_comes() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "LRANGE a 0 -1");
        driver.say(&owner, b"*4\r\n$6\r\nvalue1\r\n$6\r\nvalue2\r\n");
        assert_eq!(driver.received(client), "*4 $6 value1 $6 value2 ");
        driver.say(&owner, b"$6\r\nvalue3\r\n$6\r\nvalue4\r\n");
        assert_eq!(driver.received(client), "$6 value3 $6 value4 ");
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn a_large_reply_waits_for_its_turn() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let (first, second) = (silence(&mut driver, "a"), silence(&mut driver, "b"));
        driver.send(client, [encode("GET a"), encode("GET b")].concat());
        driver.say(&second, b"$30\r\n0123456789");
        assert_eq!(driver.received(client), "");
        driver.say(&first, b"$1\r\n1\r\n");
        assert_eq!(driver.received(client), "$1 1 ");
        driver.say(&second, b"0123456789");
        assert_eq!(driver.received(client), "$30 01234567890123456789");
        driver.say(&second, b"0123456789\r\n");
        assert_eq!(driver.received(client), "0123456789 ");
    });
}

#[test]
fn a_large_reply_that_is_whole_before_its_turn_keeps_its_place() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let (first, second) = (silence(&mut driver, "a"), silence(&mut driver, "b"));
        driver.send(client, [encode("GET a"), encode("GET b")].concat());
        driver.say(&second, b"$20\r\n01234567890123456789\r\n");
        driver.say(&first, b"$20\r\nabcdefghij");
        assert_eq!(driver.received(client), "$20 abcdefghij");
        driver.say(&first, b"klmnopqrst\r\n");
        assert_eq!(driver.received(client), "klmnopqrst $20 01234567890123456789 ");
    });
}

#[test]
fn what_is_published_meanwhile_comes_behind_the_reply() {
    each_chunking(|mut driver| {
        let client = connect_resp3(&mut driver);
        assert!(driver.ask(client, "SUBSCRIBE news").contains("subscribe"));
        // Its reply comes from another node than messages.
        let key = ["a", "b", "c"].into_iter().find(|key| driver.cluster.owner(key) != "node-0:1");
        let key = key.unwrap();
        driver.command(client, &format!("GET {key}"));
        driver.received(client);
        let owner = silence(&mut driver, key);
        driver.command(client, &format!("GET {key}"));
        driver.say(&owner, b"$20\r\n0123456789");
        let publisher = driver.connect();
        assert_eq!(driver.ask(publisher, "PUBLISH news first"), ":1 ");
        assert_eq!(driver.ask(publisher, "PUBLISH news second"), ":1 ");
        assert_eq!(driver.received(client), "$20 0123456789");
        driver.say(&owner, b"0123456789\r\n");
        let message = |text: &str| format!(">3 $7 message $4 news ${} {text} ", text.len());
        assert_eq!(
            driver.received(client),
            format!("0123456789 {}{}", message("first"), message("second"))
        );
        assert_eq!(driver.ask(publisher, "PUBLISH news third"), ":1 ");
        assert_eq!(driver.received(client), message("third"));
    });
}

#[test]
fn a_client_that_is_told_too_much_in_the_middle_of_a_reply_is_closed() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.limits.reply_bytes = REPLY_BYTES;
        config.limits.session_bytes = 100;
    });
    let client = connect_resp3(&mut driver);
    driver.ask(client, "SUBSCRIBE news");
    let key = ["a", "b", "c"].into_iter().find(|key| driver.cluster.owner(key) != "node-0:1");
    driver.ask(client, &format!("GET {}", key.unwrap()));
    let owner = silence(&mut driver, key.unwrap());
    driver.command(client, &format!("GET {}", key.unwrap()));
    driver.say(&owner, b"$20\r\n0123456789");
    let publisher = driver.connect();
    for _ in 0..10 {
        driver.ask(publisher, "PUBLISH news text");
    }
    assert!(driver.is_closed(client));
    assert_eq!(driver.received(client), "$20 0123456789");
}

#[test]
fn a_command_s_time_does_not_run_out_in_the_middle_of_its_reply() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "GET a");
        driver.say(&owner, b"$90\r\n0123456789");
        assert_eq!(driver.received(client), "$90 0123456789");
        for _ in 0..8 {
            driver.wait(OP_TIMEOUT);
            driver.say(&owner, b"0123456789");
            assert_eq!(driver.received(client), "0123456789");
        }
        driver.say(&owner, b"\r\n");
        assert_eq!(driver.received(client), " ");
        assert_eq!(driver.proxy.stats().downstream_rq_timeout, 0);
    });
}

#[test]
fn when_a_node_falls_silent_in_the_middle_of_a_reply_its_client_is_closed() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "GET a");
        driver.say(&owner, b"$90\r\n0123456789");
        driver.wait(OP_TIMEOUT * 3 + Duration::from_secs(2));
        assert_eq!(driver.received(client), "$90 0123456789");
        assert!(driver.is_closed(client));
        assert_eq!(driver.proxy.stats().downstream_cx_reply_cut, 1);
    });
}

#[test]
fn a_connection_lost_in_the_middle_of_a_reply_closes_that_client_and_no_other() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        let owner = silence(&mut driver, "a");
        driver.send(client, [encode("GET a"), encode("GET a"), encode("GET b")].concat());
        driver.command(other, "GET a");
        driver.say(&owner, b"$90\r\n0123456789");
        driver.cluster.set_health(&owner, Health::Well);
        driver.cut(&owner);
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), "$90 0123456789");
        assert!(driver.is_closed(client));
        assert_eq!(driver.received(other), "$1 1 ");
        assert_eq!(driver.proxy.stats().downstream_cx_reply_cut, 1);
        let closing =
            |line: &&String| line.starts_with("closing a client in the middle of a reply");
        assert_eq!(driver.log.iter().filter(closing).count(), 1, "{:?}", driver.log);
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn what_is_no_resp_in_the_middle_of_a_reply_closes_its_client() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "LRANGE a 0 -1");
        driver.say(&owner, b"*3\r\n$20\r\n0123456789");
        driver.say(&owner, b"0123456789\r\nXXX");
        assert!(driver.received(client).starts_with("*3 $20 0123456789"));
        assert!(driver.is_closed(client));
        assert_eq!(driver.proxy.stats().downstream_cx_reply_cut, 1);
    });
}

#[test]
fn the_rest_of_a_reply_is_never_taken_for_a_reply_of_its_own() {
    each_chunking(|mut driver| {
        let client = connect_resp3(&mut driver);
        driver.ask(client, "GET a");
        let owner = silence(&mut driver, "a");
        for rest in [">1\r\n+message\r\n", "-MOVED 1 b:1\r\n", "-ERR a text\r\n\r\n"] {
            driver.command(client, "GET a");
            let len = 10 + rest.len() - 2;
            driver.say(&owner, format!("${len}\r\n0123456789").as_bytes());
            driver.say(&owner, rest.as_bytes());
            let rest = rest.replace("\r\n", " ");
            assert_eq!(driver.received(client), format!("${len} 0123456789{rest}"));
        }
        assert_eq!(driver.proxy.stats().redirect_moved, 0);
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn the_reply_of_a_client_that_has_gone_is_dropped_and_the_next_one_finds_its_own() {
    each_chunking(|mut driver| {
        let (leaving, staying) = (driver.connect(), driver.connect());
        let owner = silence(&mut driver, "a");
        driver.command(leaving, "GET a");
        driver.command(staying, "GET a");
        driver.say(&owner, b"$30\r\n0123456789");
        driver.disconnect(leaving);
        driver.say(&owner, b"01234567890123456789\r\n$1\r\n1\r\n");
        assert_eq!(driver.received(staying), "$1 1 ");
        driver.command(staying, "GET a");
        driver.say(&owner, b"$30\r\n0123456789");
        assert_eq!(driver.received(staying), "$30 0123456789");
    });
}

#[test]
fn a_client_may_be_killed_in_the_middle_of_a_reply() {
    each_chunking(|mut driver| {
        let (client, other) = (driver.connect(), driver.connect());
        let id = driver.ask(client, "CLIENT ID");
        let owner = silence(&mut driver, "a");
        driver.command(client, "GET a");
        driver.say(&owner, b"$30\r\n0123456789");
        let id = id.trim().trim_start_matches(':');
        assert_eq!(driver.ask(other, &format!("CLIENT KILL ID {id}")), ":1 ");
        assert!(driver.is_closed(client));
        driver.command(other, "GET a");
        driver.say(&owner, b"01234567890123456789\r\n$1\r\n1\r\n");
        assert_eq!(driver.received(other), "$1 1 ");
        assert_eq!(driver.received(client), "$30 0123456789");
    });
}

#[test]
fn a_large_reply_that_comes_too_late_is_dropped() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "GET a");
        driver.wait(OP_TIMEOUT);
        assert!(driver.received(client).starts_with("-TIMEOUT"));
        driver.command(client, "GET a");
        driver.say(&owner, b"$30\r\n0123456789");
        driver.say(&owner, b"01234567890123456789\r\n");
        assert_eq!(driver.received(client), "");
        driver.say(&owner, b"$1\r\n1\r\n");
        assert_eq!(driver.received(client), "$1 1 ");
    });
}

#[test]
fn a_client_that_wants_no_replies_gets_nothing_of_a_large_one() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        driver.command(client, "CLIENT REPLY SKIP");
        driver.send(client, [encode("GET a"), encode("PING")].concat());
        driver.say(&owner, b"$30\r\n0123456789");
        driver.say(&owner, b"01234567890123456789\r\n");
        assert_eq!(driver.received(client), "+PONG ");
    });
}

#[test]
fn what_is_made_of_several_replies_is_put_together() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let (first, second) = (silence(&mut driver, "a"), silence(&mut driver, "b"));
        driver.command(client, "MGET a b");
        driver.say(&first, b"*1\r\n$20\r\n0123456789");
        assert_eq!(driver.received(client), "");
        driver.say(&second, b"*1\r\n$1\r\n2\r\n");
        driver.say(&first, b"0123456789\r\n");
        assert_eq!(driver.received(client), "*2 $20 01234567890123456789 $1 2 ");
        driver.send(client, [encode("MULTI"), encode("GET a"), encode("EXEC")].concat());
        driver.say(&first, b"+OK\r\n+QUEUED\r\n*1\r\n$20\r\n0123456789");
        assert_eq!(driver.received(client), "+OK +QUEUED ");
        driver.say(&first, b"0123456789\r\n");
        assert_eq!(driver.received(client), "*1 $20 01234567890123456789 ");
    });
}

#[test]
fn an_error_is_put_together_however_long_it_is() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let owner = silence(&mut driver, "a");
        let to = driver.cluster.other_than("a");
        driver.cluster.move_slot("a", to);
        driver.command(client, "GET a");
        let slot = slotmesh_engine::Slot::of(b"a").number();
        let moved = format!("-MOVED {slot} {}\r\n", driver.cluster.owner("a"));
        let (head, rest) = moved.split_at(moved.len() - 3);
        driver.say(&owner, head.as_bytes());
        assert_eq!(driver.received(client), "");
        driver.say(&owner, rest.as_bytes());
        assert_eq!(driver.received(client), "$1 1 ");
    });
}

#[test]
fn what_a_mirror_answers_is_dropped_as_it_comes() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.limits.reply_bytes = REPLY_BYTES;
        mirror_writes(config);
    });
    let client = driver.connect();
    assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
    driver.other.set_health("other-0:1", Health::Silent);
    assert_eq!(driver.ask(client, "SET a 2"), "+OK ");
    driver.say("other-0:1", b"$30\r\n0123456789");
    driver.say("other-0:1", b"0123456789-ERR 56789\r\n");
    assert_eq!(driver.proxy.requests(), 0);
    assert_eq!(driver.proxy.stats().mirror_error, 0);
    assert_eq!(driver.ask(client, "SET a 3"), "+OK ");
    driver.say("other-0:1", b"-ERR no\r\n");
    assert_eq!(driver.proxy.stats().mirror_error, 1);
}
