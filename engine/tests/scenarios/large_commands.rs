//! Commands that are larger than the proxy keeps, and clients that announce more than Redis takes.

use std::time::Duration;

use crate::support::{Chunking, Driver, Health, each_chunking_with, encode};

const ANSWER: &str = "-ERR the command is too large for this proxy: it takes 1000 bytes, where each \
                      argument counts for 32 more ";

fn each_chunking(scenario: impl Fn(Driver)) {
    each_chunking_with(|config| config.limits.frame.max_command_bytes = 1000, scenario);
}

fn large() -> Vec<u8> {
    encode(&format!("SET a {}", "x".repeat(2000)))
}

#[test]
fn a_command_that_is_too_large_is_refused_in_its_turn_and_the_client_goes_on() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        let many = encode(&format!("MGET{}", " a".repeat(40)));
        let [get, ping] = ["GET a", "PING"].map(encode);
        driver.send(client, [&get[..], &large(), &get, &many, &ping].concat());
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), format!("$1 1 {ANSWER}$1 1 {ANSWER}+PONG "));
        assert_eq!(driver.proxy.kept().input_bytes, 0);
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    });
}

#[test]
fn a_command_that_is_too_large_aborts_the_transaction_that_it_was_meant_for() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "MULTI"), "+OK ");
        driver.send(client, large());
        assert_eq!(driver.received(client), ANSWER);
        assert_eq!(
            driver.ask(client, "EXEC"),
            "-EXECABORT Transaction discarded because of previous errors. "
        );
    });
}

#[test]
fn a_command_that_is_too_large_gets_no_reply_where_none_is_wanted() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.send(client, [encode("CLIENT REPLY SKIP"), large(), encode("PING")].concat());
        assert_eq!(driver.received(client), "+PONG ");
    });
}

#[test]
fn what_is_skipped_of_a_large_command_is_not_kept() {
    let mut driver =
        Driver::with(Chunking::Whole, |config| config.limits.frame.max_command_bytes = 1000);
    let client = driver.connect();
    driver.send(client, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$500000000\r\n");
    for _ in 0..50 {
        driver.send(client, [b'x'; 10_000]);
        assert_eq!(driver.proxy.kept().input_bytes, 0);
    }
    assert_eq!(driver.received(client), "");
}

#[test]
fn a_client_whose_unfinished_command_outgrows_the_proxy_is_refused_alone() {
    let mut driver = Driver::with(Chunking::Whole, |config| config.limits.input_bytes = 100_000);
    let [greedy, modest, other] = [(); 3].map(|()| driver.connect());
    let set = encode(&format!("SET a {}", "x".repeat(50_000)));
    let (half, rest) = set.split_at(20_000);
    driver.send(modest, half);
    driver.send(greedy, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$200000\r\n");
    for _ in 0..20 {
        driver.send(greedy, [b'x'; 10_000]);
        assert!(driver.proxy.kept().input_bytes <= 100_000);
    }
    assert_eq!(driver.received(greedy), "", "its command has no end");
    driver.send(greedy, [b"\r\n".to_vec(), encode("PING")].concat());
    let reply = driver.received(greedy);
    assert!(reply.starts_with("-ERR too many bytes of unfinished commands"), "{reply}");
    assert!(reply.contains("100000") && reply.ends_with(" +PONG "), "{reply}");
    driver.send(modest, rest);
    assert_eq!(driver.received(modest), "+OK ");
    assert_eq!(driver.ask(other, &format!("SET a {}", "x".repeat(50_000))), "+OK ");
    assert_eq!(driver.proxy.stats().downstream_cx_input_overflow, 1);
}

#[test]
fn who_keeps_most_of_unfinished_commands_gives_way_not_who_comes_last() {
    let mut driver = Driver::with(Chunking::Whole, |config| config.limits.input_bytes = 100_000);
    let [greedy, parked, modest] = [(); 3].map(|()| driver.connect());
    driver.send(greedy, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$95000\r\n");
    driver.send(greedy, [b'x'; 80_000]);
    driver.send(parked, [encode("BLPOP nothing 0"), encode("ECHO behind").repeat(500)].concat());
    let set = encode(&format!("SET a {}", "x".repeat(15_000)));
    let (half, rest) = set.split_at(10_000);
    driver.send(modest, half);
    assert!(driver.proxy.kept().input_bytes < 30_000, "{:?}", driver.proxy.kept());
    driver.send(modest, rest);
    assert_eq!(driver.received(modest), "+OK ");
    driver.send(greedy, [vec![b'x'; 15_000], b"\r\n".to_vec()].concat());
    let reply = driver.received(greedy);
    assert!(reply.starts_with("-ERR too many bytes of unfinished commands"), "{reply}");
    assert!(!driver.is_closed(parked));
}

#[test]
fn what_other_parts_keep_leaves_unfinished_commands_their_reserve() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.limits.memory_bytes = 100_000;
        config.limits.reserve_bytes = 10_000;
    });
    let [greedy, modest, greedy_again] = [(); 3].map(|()| driver.connect());
    driver.ask(greedy, "MULTI");
    let set = format!("SET a {}", "x".repeat(20_000));
    let queued = (0..10).filter(|_| driver.ask(greedy, &set) == "+QUEUED ").count();
    assert_eq!(queued, 5, "of 110,000 bytes");
    let kept = driver.proxy.kept();
    assert!((80_000..=100_000).contains(&kept.memory_bytes), "{kept:?}");
    let set = encode(&format!("SET a {}", "x".repeat(12_000)));
    let (half, rest) = set.split_at(9_000);
    driver.send(modest, half);
    driver.send(modest, rest);
    assert_eq!(driver.received(modest), "+OK ");
    driver.send(greedy_again, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$50000\r\n");
    driver.send(greedy_again, [b'x'; 40_000]);
    assert!(driver.proxy.kept().input_bytes < 100, "{:?}", driver.proxy.kept());
    driver.send(greedy_again, [vec![b'x'; 10_000], b"\r\n".to_vec()].concat());
    let reply = driver.received(greedy_again);
    assert!(reply.starts_with("-ERR too many bytes of unfinished commands"), "{reply}");
    driver.ask(greedy, "DISCARD");
    assert_eq!(driver.proxy.kept().memory_bytes, 0);
}

#[test]
fn the_arguments_of_an_unfinished_command_count_as_bytes() {
    let mut driver = Driver::with(Chunking::Whole, |config| config.limits.input_bytes = 100_000);
    let client = driver.connect();
    driver.send(client, b"*3001\r\n$3\r\nDEL\r\n");
    driver.send(client, b"$1\r\na\r\n".repeat(2000));
    let kept = driver.proxy.kept().input_bytes;
    assert!(kept > 2000 * (7 + 32), "{kept}");
    driver.send(client, b"$1\r\na\r\n".repeat(900));
    assert!(driver.proxy.kept().input_bytes < 100);
    driver.send(client, b"$1\r\na\r\n".repeat(100));
    let reply = driver.received(client);
    assert!(reply.starts_with("-ERR too many bytes of unfinished commands"), "{reply}");
}

/// A close with unread bytes resets the connection.
#[test]
fn a_client_that_announces_too_much_is_closed_when_it_has_ceased_to_send() {
    let quiet = Duration::from_millis(200);
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.send(client, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870913\r\n");
        assert_eq!(driver.received(client), "-ERR Protocol error: invalid bulk length ");
        for _ in 0..10 {
            driver.send(client, b"xxx");
            driver.wait(quiet * 3 / 4);
            assert!(!driver.is_closed(client));
        }
        driver.wait(quiet * 2);
        assert!(driver.is_closed(client));
        assert_eq!(driver.received(client), "");
    });
}

#[test]
fn a_client_that_announces_too_much_and_never_ceases_to_send_is_closed() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.send(client, b"*2147483648\r\n");
        assert_eq!(driver.received(client), "-ERR Protocol error: invalid multibulk length ");
        let mut turns = 0;
        while !driver.is_closed(client) {
            driver.send(client, b"xxx");
            driver.wait(Duration::from_millis(100));
            turns += 1;
            assert!(turns < 110, "it is there after {turns} turns");
        }
        assert!(turns > 90, "{turns}");
    });
}
