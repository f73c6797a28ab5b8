//! Transactions and blocking commands through real Envoy, against a real Redis Cluster.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::proxy::start;
use crate::support::slot;
use redis::{Commands, Connection, ErrorKind, RedisError, Value};
use slotmesh_testbed::RedisServer;
use slotmesh_testbed::wait::{Probe, until};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn connect(addr: SocketAddr) -> Connection {
    redis::Client::open(format!("redis://{addr}")).unwrap().get_connection().unwrap()
}

/// Clients that a server keeps waiting.
fn blocked(server: &RedisServer) -> u64 {
    let info: String =
        redis::cmd("INFO").arg("clients").query(&mut server.connect().unwrap()).unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("blocked_clients:"));
    line.unwrap().trim().parse().unwrap()
}

fn wait_for_blocked(server: &RedisServer, count: u64) {
    until("clients to wait", PATIENCE, || {
        let blocked = blocked(server);
        Ok(match blocked == count {
            true => Probe::Ready(()),
            false => Probe::NotYet(format!("{blocked} instead of {count}")),
        })
    })
    .unwrap();
}

#[test]
fn no_update_is_lost_among_clients_that_watch() {
    let (_cluster, envoy) = start();
    let addr = envoy.addr();
    let succeeded: u64 = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(move || {
                    let mut connection = connect(addr);
                    let mut succeeded = 0;
                    for _ in 0..60 {
                        let _: () =
                            redis::cmd("WATCH").arg("counter").query(&mut connection).unwrap();
                        let value: Option<u64> = connection.get("counter").unwrap();
                        let written: Option<Value> = redis::pipe()
                            .atomic()
                            .set("counter", value.unwrap_or(0) + 1)
                            .query(&mut connection)
                            .unwrap();
                        succeeded += u64::from(written.is_some_and(|value| value != Value::Nil));
                    }
                    succeeded
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().unwrap()).sum()
    });
    let counter: u64 = connect(addr).get("counter").unwrap();
    assert_eq!(counter, succeeded);
    assert!(succeeded >= 60, "one of four always wins, but only {succeeded} did");
}

#[test]
fn a_transaction_is_whole_while_its_slot_moves() {
    let (cluster, envoy) = start();
    let primaries = cluster.primaries().unwrap();
    let [here, _, there] = primaries[..] else { panic!("not three primaries") };
    let (addr, stop) = (envoy.addr(), AtomicBool::new(false));
    thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|number| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut connection = connect(addr);
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        // Keys of many slots, those that move first among them.
                        let tag = format!("{{{number}:{}}}", rounds % 500);
                        let (one, two): (u64, u64) = redis::pipe()
                            .atomic()
                            .incr(format!("{tag}one"), 1)
                            .incr(format!("{tag}two"), 1)
                            .query(&mut connection)
                            .unwrap();
                        assert_eq!((one, two), (rounds / 500 + 1, rounds / 500 + 1), "{tag}");
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        cluster.reshard(300, here, there).unwrap();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            assert!(client.join().unwrap() > 100);
        }
    });
}

#[test]
fn every_element_of_a_queue_reaches_one_of_those_who_wait() {
    const ELEMENTS: usize = 600;
    let (_cluster, envoy) = start();
    let addr = envoy.addr();
    let popped = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in 0..9 {
            let popped = &popped;
            scope.spawn(move || {
                let mut connection = connect(addr);
                // Queues on all shards, each with three workers.
                let queue = format!("queue:{}", worker % 3);
                loop {
                    let (_, element): (String, String) =
                        redis::cmd("BLPOP").arg(&queue).arg(0).query(&mut connection).unwrap();
                    if element == "end" {
                        return;
                    }
                    popped.lock().unwrap().push(element);
                }
            });
        }
        let mut connection = connect(addr);
        for number in 0..ELEMENTS {
            let queue = format!("queue:{}", number % 3);
            let _: u64 = connection.rpush(queue, format!("element:{number}")).unwrap();
        }
        for worker in 0..9 {
            let _: u64 = connection.rpush(format!("queue:{}", worker % 3), "end").unwrap();
        }
    });
    let popped = popped.into_inner().unwrap();
    assert_eq!(popped.len(), ELEMENTS);
    assert_eq!(popped.iter().collect::<BTreeSet<_>>().len(), ELEMENTS);
}

#[test]
fn nothing_is_popped_for_a_client_that_has_gone() {
    let (cluster, envoy) = start();
    let owner = cluster.owner(slot("queue")).unwrap();
    let clients: Vec<_> = (0..5)
        .map(|_| {
            let mut connection = connect(envoy.addr());
            connection
                .send_packed_command(&redis::cmd("BLPOP").arg("queue").arg(0).get_packed_command())
                .unwrap();
            connection
        })
        .collect();
    wait_for_blocked(owner, 5);
    drop(clients);
    wait_for_blocked(owner, 0);
    let mut connection = connect(envoy.addr());
    let length: u64 = connection.rpush("queue", "element").unwrap();
    assert_eq!(length, 1);
    let element: String = connection.lpop("queue", None).unwrap();
    assert_eq!(element, "element");
}

#[test]
fn those_who_wait_go_on_waiting_at_the_new_primary() {
    let (cluster, envoy) = start();
    cluster.wait_until_in_sync().unwrap();
    let owner = cluster.owner(slot("queue")).unwrap();
    let replica = cluster.replicas_of(owner).unwrap()[0];
    let addr = envoy.addr();
    thread::scope(|scope| {
        let waiting: Vec<_> = (0..5)
            .map(|_| {
                scope.spawn(move || -> (String, String) {
                    redis::cmd("BLPOP").arg("queue").arg(0).query(&mut connect(addr)).unwrap()
                })
            })
            .collect();
        wait_for_blocked(owner, 5);
        let _: () =
            redis::cmd("CLUSTER").arg("FAILOVER").query(&mut replica.connect().unwrap()).unwrap();
        wait_for_blocked(replica, 5);
        let mut connection = connect(addr);
        for number in 0..5 {
            let _: u64 = connection.rpush("queue", format!("element:{number}")).unwrap();
        }
        let popped: BTreeSet<_> = waiting.into_iter().map(|w| w.join().unwrap().1).collect();
        assert_eq!(popped.len(), 5);
    });
}

#[test]
fn streams_are_waited_for_and_a_wait_ends_in_its_own_time() {
    let (_cluster, envoy) = start();
    let addr = envoy.addr();
    thread::scope(|scope| {
        let reader = scope.spawn(move || -> Value {
            let mut connection = connect(addr);
            let mut read = redis::cmd("XREAD");
            read.arg("BLOCK").arg(0).arg("STREAMS").arg("stream").arg("0");
            read.query(&mut connection).unwrap()
        });
        let mut connection = connect(addr);
        let _: String = redis::cmd("XADD")
            .arg("stream")
            .arg("1-1")
            .arg("field")
            .arg("value")
            .query(&mut connection)
            .unwrap();
        let read = format!("{:?}", reader.join().unwrap());
        assert!(read.contains("1-1") && read.contains("value"), "{read}");

        let nothing: Value =
            redis::cmd("BLPOP").arg("nothing").arg(0.2).query(&mut connection).unwrap();
        assert_eq!(nothing, Value::Nil);
        let error: RedisError = redis::cmd("BLPOP")
            .arg("nothing")
            .arg("soon")
            .query::<Value>(&mut connection)
            .unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Server(_)), "{error}");
        assert!(error.to_string().contains("timeout is not a float"), "{error}");
    });
}
