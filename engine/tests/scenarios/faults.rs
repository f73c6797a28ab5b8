//! Made-up errors and delays.

use std::time::Duration;

use crate::support::{Chunking, Driver, OP_TIMEOUT};
use slotmesh_engine::config::{Fault, FaultKind, Fraction};

fn driver(kind: FaultKind, commands: &[&str], percent: u32) -> Driver {
    Driver::with(Chunking::Whole, |config| {
        config.faults = vec![Fault {
            kind,
            fraction: Fraction { numerator: percent, denominator: 100 },
            commands: commands.iter().map(|command| (*command).to_owned()).collect(),
        }];
    })
}

#[test]
fn an_error_befalls_its_commands_and_they_are_not_executed() {
    let mut driver = driver(FaultKind::Error(Duration::ZERO), &["get"], 100);
    let client = driver.connect();
    assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
    assert_eq!(driver.ask(client, "Get a"), "-ERR Fault Injected: Error ");
    assert_eq!(driver.cluster.executed.len(), 1);
}

#[test]
fn without_names_all_commands_but_auth_and_ping_are_meant() {
    let mut driver = driver(FaultKind::Error(Duration::ZERO), &[], 100);
    let client = driver.connect();
    for command in ["GET a", "MGET a b", "ECHO x", "HELLO 3", "SUBSCRIBE x"] {
        assert_eq!(driver.ask(client, command), "-ERR Fault Injected: Error ", "{command}");
    }
    assert_eq!(driver.ask(client, "PING"), "+PONG ");
    assert_eq!(driver.ask(client, "AUTH default x"), "+OK ");
}

#[test]
fn an_error_may_take_its_time_and_keeps_its_place() {
    let mut driver = driver(FaultKind::Error(Duration::from_millis(300)), &["set"], 100);
    let client = driver.connect();
    driver.command(client, "SET a 1");
    driver.command(client, "GET a");
    driver.wait(Duration::from_millis(299));
    assert_eq!(driver.received(client), "");
    driver.wait(Duration::from_millis(1));
    assert_eq!(driver.received(client), "-ERR Fault Injected: Error $-1 ");
}

#[test]
fn a_delay_holds_the_reply_back_but_not_the_command() {
    let mut driver = driver(FaultKind::Delay(OP_TIMEOUT * 2), &["set"], 100);
    let client = driver.connect();
    let other = driver.connect();
    driver.command(client, "SET a 1");
    driver.command(client, "GET a");
    assert_eq!(driver.ask(other, "GET a"), "$1 1 ", "it was executed");
    driver.wait(OP_TIMEOUT * 2 - Duration::from_millis(1));
    assert_eq!(driver.received(client), "");
    driver.wait(Duration::from_millis(1));
    assert_eq!(driver.received(client), "+OK $1 1 ");
    assert_eq!(driver.proxy.requests(), 0);
    assert_eq!(driver.proxy.stats().downstream_rq_timeout, 0);
}

#[test]
fn a_client_may_leave_while_its_reply_is_held_back() {
    let mut driver = driver(FaultKind::Delay(Duration::from_secs(1)), &[], 100);
    let client = driver.connect();
    driver.command(client, "SET a 1");
    driver.disconnect(client);
    driver.wait(Duration::from_secs(2));
    assert_eq!(driver.proxy.requests(), 0);
}

#[test]
fn a_fraction_of_commands_meets_the_fault() {
    let mut driver = driver(FaultKind::Error(Duration::ZERO), &[], 20);
    let client = driver.connect();
    let faults = (0..1000).filter(|_| driver.ask(client, "GET a").starts_with('-')).count();
    assert!((150..250).contains(&faults), "{faults} of 1000");
}
