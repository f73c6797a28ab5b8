//! Nodes that misbehave, before stock Envoy with the module: no client gets what is not its own,
//! and those of other nodes notice nothing.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{Client, StopOnDrop, Workload, exchange};
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::read_reply;
use slotmesh_testbed::{Envoy, EnvoyOptions, PluginConfig, RedisServer};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Clients of the node that misbehaves.
const CLIENTS: usize = 8;

/// By how much Envoy may grow: less than a node announces.
const GROWTH_KIB: u64 = 50 * 1024;

/// What the node does when it is asked for a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer {
    /// Gives it.
    Right,
    /// Gives what is no RESP.
    Garbage,
    /// Gives it, and one more that nobody has asked for. While other commands are under way nobody
    /// could tell that from a reply to them.
    TooMany,
    /// Gives nothing any more.
    None,
    /// Gives half of it and closes.
    Half,
    /// Closes in the middle, and begins the next connection with the rest.
    Continued,
    /// Announces 512 MiB and gives a byte.
    Endless,
    /// Announces a million values and gives none.
    Array,
}

/// A standalone server with a value for every key: the key itself, between dots.
struct Node {
    addr: SocketAddr,
    answer: Arc<Mutex<Answer>>,
}

impl Node {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(Answer::Right));
        let shared = Arc::clone(&answer);
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let answer = Arc::clone(&shared);
                // A connection that has ended is no fault here.
                thread::spawn(move || serve(&connection, &answer));
            }
        });
        Self { addr, answer }
    }

    fn answer(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }
}

fn serve(mut connection: &TcpStream, answer: &Mutex<Answer>) -> std::io::Result<()> {
    if *answer.lock().unwrap() == Answer::Continued {
        connection.write_all(b".another's value.\r\n$9\r\n.another.\r\n")?;
    }
    let mut reader = BufReader::new(connection);
    loop {
        let command = read_reply(&mut reader)?;
        let text = String::from_utf8_lossy(&command).into_owned();
        let words: Vec<&str> = text.split("\r\n").skip(2).step_by(2).collect();
        let ["GET", key] = words[..] else {
            connection.write_all(b"+OK\r\n")?;
            continue;
        };
        let right = format!("${}\r\n.{key}.\r\n", key.len() + 2);
        let (half, _) = right.split_at(right.len() - 4);
        let answer = *answer.lock().unwrap();
        match answer {
            Answer::Right => connection.write_all(right.as_bytes())?,
            Answer::Garbage => connection.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")?,
            Answer::TooMany => {
                connection.write_all(format!("{right}$9\r\n.another.\r\n").as_bytes())?;
            }
            Answer::None => return fall_silent(reader),
            Answer::Half | Answer::Continued => {
                connection.write_all(half.as_bytes())?;
                return connection.shutdown(std::net::Shutdown::Both);
            }
            Answer::Endless => {
                connection.write_all(b"$536870912\r\nx")?;
                return fall_silent(reader);
            }
            Answer::Array => {
                connection.write_all(b"*1000000\r\n")?;
                return fall_silent(reader);
            }
        }
    }
}

/// Reads on and says no more.
fn fall_silent(mut reader: impl BufRead) -> std::io::Result<()> {
    std::io::copy(&mut reader, &mut std::io::sink())?;
    Ok(())
}

#[test]
fn what_a_node_makes_up_reaches_nobody_and_hurts_nobody() {
    let (node, redis) = (Node::start(), RedisServer::start(&[]).unwrap());
    let cluster = |addr: SocketAddr| json!({"type": "STANDALONE", "seeds": [addr.to_string()]});
    let config = json!({
        "settings": {"op_timeout": "1s"},
        "prefix_routes": {
            "routes": [{"prefix": "bad:", "cluster": "bad"}],
            "catch_all_route": {"cluster": "good"},
        },
        "clusters": {"good": cluster(redis.addr()), "bad": cluster(node.addr)},
    });
    let options = EnvoyOptions::new(PluginConfig::from_text(config.to_string()));
    let envoy = Envoy::start(options).unwrap();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (addr, stop, rounds) = (envoy.addr(), &stop, &rounds);
        scope.spawn(move || {
            let _stop = StopOnDrop(stop);
            let (mut client, mut workload) = (Client::connect(addr), Workload::new(1));
            while !stop.load(Ordering::Relaxed) {
                exchange(&mut client, &workload.round());
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        });
        let wait_for_others = || {
            let wanted = rounds.load(Ordering::Relaxed) + 10;
            until("the other client's traffic", PATIENCE, || {
                anyhow::ensure!(!stop.load(Ordering::Relaxed), "the other client was disturbed");
                let done = rounds.load(Ordering::Relaxed);
                Ok(match done >= wanted {
                    true => Probe::Ready(()),
                    false => Probe::NotYet(format!("{done} of {wanted} rounds")),
                })
            })
            .unwrap();
        };
        let mut clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(addr)).collect();
        wait_for_others();
        ask(&mut clients, Answer::Right);
        let before = envoy.resident_kib().unwrap();
        for answer in [
            Answer::Garbage,
            Answer::TooMany,
            Answer::None,
            Answer::Half,
            Answer::Continued,
            Answer::Endless,
            Answer::Array,
        ] {
            node.answer(answer);
            for _ in 0..3 {
                ask(&mut clients, answer);
            }
            wait_for_others();
            node.answer(Answer::Right);
            until("the node to be trusted again", PATIENCE, || {
                let reply = clients[0].call(&["GET", "bad:probe"]);
                Ok(match reply == b"$11\r\n.bad:probe.\r\n" {
                    true => Probe::Ready(()),
                    false => Probe::NotYet(reply.escape_ascii().to_string()),
                })
            })
            .unwrap();
            ask(&mut clients, Answer::Right);
        }
        let after = envoy.resident_kib().unwrap();
        assert!(after < before + GROWTH_KIB, "Envoy grew from {before} to {after} KiB");
    });
    let log = envoy.log();
    assert!(!log.contains("[error]") && !log.contains("[critical]"), "{log}");
    for reason in ["no RESP", "reply to nothing"] {
        assert!(log.contains(reason), "the log does not say {reason:?}:\n{log}");
    }
    let stats = envoy.stats().unwrap();
    let opened = stats.iter().find(|(name, _)| name.ends_with("cluster.bad.upstream_cx_total"));
    assert!(opened.is_some_and(|(_, count)| *count > 10), "{opened:?}");
}

/// Every client asks for a key of its own and gets that key's value or an error: all at the same
/// time, unless that would hide what the node does.
fn ask(clients: &mut [Client], answer: Answer) {
    let together = if answer == Answer::TooMany { 1 } else { CLIENTS };
    for (group, clients) in clients.chunks_mut(together).enumerate() {
        let name = |index: usize| format!("bad:{}", group * together + index);
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(&["GET", &name(index)]);
        }
        for (index, client) in clients.iter_mut().enumerate() {
            let reply = client.receive();
            let own = format!("$7\r\n.{}.\r\n", name(index));
            let is_error = reply.starts_with(b"-") && answer != Answer::Right;
            assert!(
                reply == own.as_bytes() || is_error,
                "{answer:?}: the client of {} got {}",
                name(index),
                reply.escape_ascii()
            );
        }
    }
}
