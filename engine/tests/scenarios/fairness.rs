//! What one client has under way stands before the commands of all others on the connections that
//! they share: so it is bounded by what it costs a node.

use std::time::Duration;

use fastrand::Rng;

use crate::support::{Chunking, ClientId, Driver, Health, OP_TIMEOUT, each_chunking, encode};

const GET: &str = "GET {k}large";

/// Commands of 100 KB replies that a client alone may have under way.
const ALONE: usize = 11;

/// Stores a large and a small value at one node, which falls silent. Returns the node, and a client
/// that has read the large one.
fn prepare(driver: &mut Driver) -> (String, ClientId) {
    let client = driver.connect();
    let large = "x".repeat(100_000);
    assert_eq!(driver.ask(client, &format!("SET {{k}}large {large}")), "+OK ");
    assert_eq!(driver.ask(client, "SET {k}small s"), "+OK ");
    assert_eq!(driver.ask(client, GET).len(), "$100000  ".len() + 100_000);
    let node = driver.cluster.owner("{k}");
    driver.cluster.set_health(&node, Health::Silent);
    (node, client)
}

/// Sends a pipeline of GETs of the large value.
fn pipeline(driver: &mut Driver, client: ClientId, commands: usize) {
    driver.send(client, encode(GET).repeat(commands));
}

/// Large replies that a client has received since it was last asked.
fn replies(driver: &mut Driver, client: ClientId) -> usize {
    driver.received(client).split_whitespace().filter(|word| *word == "$100000").count()
}

/// Commands that a node has got and has not executed, if all are GETs of the large value.
fn waiting(driver: &Driver, node: &str) -> usize {
    driver.unexecuted(node) / encode(GET).len()
}

#[test]
fn a_client_has_no_more_large_replies_under_way_than_a_node_gives_in_a_moment() {
    each_chunking(|mut driver| {
        let (node, client) = prepare(&mut driver);
        pipeline(&mut driver, client, 100);
        assert_eq!(waiting(&driver, &node), ALONE);
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        assert_eq!(replies(&mut driver, client), 100);
    });
}

#[test]
fn clients_that_ask_for_much_share_what_one_may_have() {
    each_chunking(|mut driver| {
        let (node, client) = prepare(&mut driver);
        let mut clients = vec![client];
        clients.extend((0..4).map(|_| driver.connect()));
        for client in &clients {
            pipeline(&mut driver, *client, 20);
        }
        // The first has the whole, each other one the least.
        assert_eq!(waiting(&driver, &node), ALONE + 4);
        driver.cluster.answer_only(&node, ALONE);
        driver.settle();
        assert!(waiting(&driver, &node) <= ALONE + 4, "{}", waiting(&driver, &node));
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        for client in clients {
            assert_eq!(replies(&mut driver, client), 20);
        }
    });
}

#[test]
fn who_asks_for_little_waits_for_what_others_have_under_way_and_not_for_all_that_they_want() {
    each_chunking(|mut driver| {
        let (node, greedy) = prepare(&mut driver);
        pipeline(&mut driver, greedy, 1000);
        let other = driver.connect();
        driver.command(other, "GET {k}small");
        driver.cluster.answer_only(&node, ALONE + 1);
        driver.settle();
        assert_eq!(driver.received(other), "$1 s ");
    });
}

#[test]
fn small_commands_are_all_under_way_at_once() {
    each_chunking(|mut driver| {
        let (node, _) = prepare(&mut driver);
        let mut clients: Vec<_> = (0..20).map(|_| driver.connect()).collect();
        driver.cluster.set_health(&node, Health::Well);
        for client in &mut clients {
            assert_eq!(driver.ask(*client, "GET {k}small"), "$1 s ");
        }
        driver.cluster.set_health(&node, Health::Silent);
        let small = encode("GET {k}small");
        for client in &clients {
            driver.send(*client, small.repeat(200));
        }
        assert_eq!(driver.unexecuted(&node), 20 * 200 * small.len());
    });
}

#[test]
fn no_time_runs_for_what_waits_behind_its_clients_own_large_replies() {
    each_chunking(|mut driver| {
        let (node, client) = prepare(&mut driver);
        pipeline(&mut driver, client, 60);
        let mut answered = 0;
        // The node takes a quarter of the timeout for each few of them.
        for _ in 0..20 {
            driver.wait(OP_TIMEOUT / 4);
            driver.cluster.answer_only(&node, 5);
            driver.settle();
            answered += replies(&mut driver, client);
        }
        assert_eq!(answered, 60);
    });
}

#[test]
fn all_that_waits_for_a_node_that_is_stuck_fails_in_time() {
    each_chunking(|mut driver| {
        let (_, client) = prepare(&mut driver);
        pipeline(&mut driver, client, 60);
        driver.wait(OP_TIMEOUT + Duration::from_millis(1));
        let received = driver.received(client);
        assert_eq!(received.matches("no reply").count(), 60, "{received}");
    });
}

#[test]
fn large_commands_wait_like_large_replies() {
    each_chunking(|mut driver| {
        let (node, client) = prepare(&mut driver);
        let set = encode(&format!("SET {{k}}other {}", "x".repeat(50_000)));
        driver.send(client, set.repeat(40));
        let before_other = driver.unexecuted(&node);
        assert!(before_other < 2 << 20, "{before_other}");
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "+OK ".repeat(40));
    });
}

/// The bytes of each value, by its key, and how many clients ask for one of them all the time.
const VALUES: [usize; 4] = [1, 300, 4000, 40_000];
const GREEDY: usize = 6;

/// What a client alone may have under way, each one at any time, and what a command's work costs:
/// see `engine/src/flight/window.rs`.
const WHOLE: usize = 1024 * 1024;
const LEAST: usize = 64 * 1024;
const WORK: usize = 256;

/// Lets a node execute some commands after the other until a client has got something.
fn answer(driver: &mut Driver, node: &str, client: ClientId, rng: &mut Rng) {
    while driver.received(client).is_empty() {
        driver.cluster.answer_only(node, rng.usize(1..300));
        driver.settle();
    }
    driver.cluster.set_health(node, Health::Silent);
}

/// A client that asks for one value again and again. Its first reply tells the proxy what it costs.
fn connect_greedy(driver: &mut Driver, node: &str, rng: &mut Rng) -> ClientId {
    let client = driver.connect();
    let get = encode(&format!("GET {{k}}{}", rng.usize(..VALUES.len())));
    driver.send(client, &get);
    answer(driver, node, client, rng);
    driver.send(client, get.repeat(10_000));
    client
}

/// What a node has executed since, up to a command: how many commands, and what they cost.
fn before(executed: &[String], command: &str) -> Option<(usize, usize)> {
    let place = executed.iter().position(|line| line.ends_with(command))?;
    let cost = |line: &String| {
        let value: usize = line.rsplit_once('}').unwrap().1.parse().unwrap();
        WORK + encode("GET {k}0").len() + format!("${}", VALUES[value]).len() + 4 + VALUES[value]
    };
    Some((place, executed[..place].iter().map(cost).sum()))
}

#[test]
fn a_command_waits_for_a_bounded_cost_of_others_whatever_they_ask() {
    for seed in 0..2 {
        let mut rng = Rng::with_seed(seed);
        let mut driver = Driver::new(Chunking::Whole);
        let meek = driver.connect();
        for (value, len) in VALUES.iter().enumerate() {
            assert_eq!(driver.ask(meek, &format!("SET {{k}}{value} {}", "x".repeat(*len))), "+OK ");
        }
        assert_eq!(driver.ask(meek, "SET {k}meek m"), "+OK ");
        let node = driver.cluster.owner("{k}");
        let connect = |driver: &mut Driver, rng: &mut Rng| connect_greedy(driver, &node, rng);
        let mut others: Vec<_> = (0..GREEDY).map(|_| connect(&mut driver, &mut rng)).collect();
        for turn in 0..15 {
            if rng.u8(..4) == 0 {
                // What it has under way is executed all the same.
                driver.disconnect(others.remove(rng.usize(..GREEDY)));
                others.push(connect(&mut driver, &mut rng));
            }
            driver.cluster.answer_only(&node, rng.usize(1..300));
            driver.settle();
            driver.cluster.set_health(&node, Health::Silent);
            let sent = driver.cluster.executed.len();
            driver.command(meek, "GET {k}meek");
            answer(&mut driver, &node, meek, &mut rng);
            let executed = &driver.cluster.executed[sent..];
            let (commands, cost) = before(executed, "GET {k}meek").expect("it was answered");
            let largest = WORK + VALUES[VALUES.len() - 1] + 64;
            // Clients that have gone in this turn have left what they had under way.
            let most = WHOLE + (GREEDY + 1) * (LEAST + largest);
            let told = format!("seed {seed}, turn {turn}: {commands} commands of {cost} before");
            assert!(cost <= most, "{told}");
            assert!(commands <= most / WORK, "{told}");
        }
    }
}
