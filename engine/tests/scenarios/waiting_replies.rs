//! Replies that wait, for those before them or for their other parts, are bounded.

use crate::support::{Chunking, ClientId, Driver, Health, encode};

/// So many bytes of replies may wait.
const MOST: usize = 10_000;

/// A cluster in which `b` is long and the node of `a` has fallen silent, and two clients that wait
/// for it: a modest one and one that is not.
fn scene() -> (Driver, ClientId, ClientId) {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.limits.waiting_reply_bytes = MOST;
    });
    let [modest, greedy] = [(); 2].map(|()| driver.connect());
    driver.ask(modest, &format!("MSET a 1 b {}", "x".repeat(1_000)));
    let slow = driver.cluster.owner("a");
    assert_ne!(driver.cluster.owner("b"), slow, "the test wants keys of two nodes");
    driver.cluster.set_health(&slow, Health::Silent);
    driver.send(modest, ["GET a", "GET b", "ECHO c"].map(encode).concat());
    (driver, modest, greedy)
}

/// The greedy client sends a command again and again, and is closed for it; the other is not.
fn try_greed(words: &str) {
    let (mut driver, modest, greedy) = scene();
    let slow = driver.cluster.owner("a");
    driver.command(greedy, "GET a");
    let mut sent = 0;
    while !driver.is_closed(greedy) {
        sent += 1;
        assert!(sent < 100, "{words}: {:?}", driver.proxy.kept());
        driver.command(greedy, words);
        let kept = driver.proxy.kept().waiting_reply_bytes;
        assert!(kept <= MOST, "{words}: {kept}");
        assert!(kept > 1_000 * sent || driver.is_closed(greedy), "{words}: {kept}");
    }
    assert!(sent > 3, "{words}: {sent}");
    assert_eq!(driver.proxy.stats().downstream_cx_reply_overflow, 1);
    assert_eq!(driver.received(greedy), "");
    driver.cluster.set_health(&slow, Health::Well);
    driver.settle();
    assert_eq!(driver.received(modest), format!("$1 1 $1000 {} $1 c ", "x".repeat(1_000)));
    assert_eq!(driver.proxy.kept().waiting_reply_bytes, 0);
    assert_eq!(driver.proxy.requests(), 0);
}

#[test]
fn a_client_whose_replies_pile_up_behind_a_slow_node_is_closed() {
    try_greed("GET b");
}

#[test]
fn a_client_whose_replies_wait_for_their_other_parts_is_closed() {
    try_greed("MGET a b b");
}

#[test]
fn a_client_whose_local_replies_pile_up_is_closed() {
    try_greed(&format!("ECHO {}", "x".repeat(1_100)));
}

#[test]
fn not_the_client_that_exceeds_the_bound_is_closed_but_the_one_that_has_most() {
    let (mut driver, modest, greedy) = scene();
    driver.send(greedy, ["GET a", "GET b", "GET b", "GET b", "GET b"].map(encode).concat());
    let others = [(); 5].map(|()| {
        let other = driver.connect();
        driver.send(other, ["GET a", "GET b"].map(encode).concat());
        other
    });
    assert!(driver.is_closed(greedy));
    assert!(!others.into_iter().chain([modest]).any(|client| driver.is_closed(client)));
}

#[test]
fn replies_that_wait_for_a_client_that_goes_are_forgotten() {
    let (mut driver, modest, greedy) = scene();
    driver.send(greedy, ["GET a", "GET b", "MGET a b"].map(encode).concat());
    assert!(driver.proxy.kept().waiting_reply_bytes > 3_000);
    driver.disconnect(modest);
    driver.disconnect(greedy);
    assert_eq!(driver.proxy.kept().waiting_reply_bytes, 0);
}
