//! All of this proxy's bounds used at once, by clients that mean harm, before stock Envoy with two
//! workers: its memory stays within what Istio gives a sidecar, it goes on, and others are served.
//! `make hostile` goes on for ten minutes.

#[allow(dead_code, unused_imports, reason = "each test program uses its part")]
mod support;

use std::collections::BTreeMap;
use std::env;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use slotmesh_testbed::{ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster};
use support::{Client, StopOnDrop, Workload, command, exchange};

/// How much Envoy may have in memory. Istio gives a sidecar 1 GiB.
const RESIDENT_KIB: u64 = 700 * 1024;

/// Well-behaved clients.
const OTHERS: usize = 4;

/// How long each attacker holds what it has taken, before it leaves and comes again.
const HELD: Duration = Duration::from_secs(4);

/// A read or write of an attacker takes no longer: it is not served, or not read from.
const ATTACKER_PATIENCE: Duration = Duration::from_millis(500);

/// What attackers were told, and how often.
type Answers = Mutex<BTreeMap<String, usize>>;

/// One connection of an attacker. What goes wrong is what it came for, and no fault of the test.
struct Attacker(TcpStream);

impl Attacker {
    fn connect(addr: SocketAddr) -> Self {
        let stream = TcpStream::connect(addr).expect("the proxy accepts");
        stream.set_read_timeout(Some(ATTACKER_PATIENCE)).unwrap();
        stream.set_write_timeout(Some(ATTACKER_PATIENCE)).unwrap();
        Self(stream)
    }

    /// Writes until the proxy takes no more.
    fn write(&mut self, bytes: &[u8]) -> bool {
        self.0.write_all(bytes).is_ok()
    }

    /// Reads the errors among what has come, as far as it has come.
    fn note_errors(&mut self, name: &str, answers: &Answers) {
        let mut bytes = vec![0; 1 << 16];
        let read = self.0.read(&mut bytes);
        let text = match read {
            Ok(0) => "(closed)".to_owned(),
            Ok(len) => String::from_utf8_lossy(&bytes[..len]).into_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => "(silence)".to_owned(),
            Err(error) => format!("({})", error.kind()),
        };
        let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
        let told = text.lines().filter(|line| line.starts_with(['-', '(']));
        for line in told {
            // Without numbers, so that each kind of answer is counted.
            let line = line.chars().filter(|char| !char.is_ascii_digit()).take(100).collect();
            let line: String = line;
            *answers.entry(format!("{name}: {line}")).or_default() += 1;
        }
    }
}

/// A way to do harm: takes what it can get by new connections, and returns them.
type Attack = fn(SocketAddr) -> Vec<Attacker>;

const ATTACKS: &[(&str, Attack)] = &[
    ("declares huge bulks", declare_huge_bulks),
    ("declares many arguments", declare_many_arguments),
    ("opens MULTI and stops", open_transactions),
    ("subscribes to everything", subscribe_to_everything),
    ("waits with much behind", wait_with_much_behind),
    ("lets replies wait", let_replies_wait),
    ("never reads", never_read),
    ("sends large scripts", send_large_scripts),
    ("writes to a busy node", write_to_a_busy_node),
];

/// `count` clients that send the same.
fn clients(addr: SocketAddr, count: usize, bytes: &[u8]) -> Vec<Attacker> {
    (0..count)
        .map(|_| {
            let mut client = Attacker::connect(addr);
            client.write(bytes);
            client
        })
        .collect()
}

/// 30 MiB of a value of 32 MiB, which this proxy takes, and 20 MiB of one of 512 MiB.
fn declare_huge_bulks(addr: SocketAddr) -> Vec<Attacker> {
    let chunk = vec![b'x'; 1024 * 1024];
    let send = |declared: usize, sent: usize| {
        let mut client = Attacker::connect(addr);
        let head = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n${}\r\n", declared * chunk.len());
        client.write(head.as_bytes());
        (0..sent).take_while(|_| client.write(&chunk)).count();
        client
    };
    (0..8).flat_map(|_| [send(32, 30), send(512, 20)]).collect()
}

/// Arguments of one byte cost more than they are long.
fn declare_many_arguments(addr: SocketAddr) -> Vec<Attacker> {
    let many = [b"*2000000\r\n".to_vec(), b"$1\r\na\r\n".repeat(1_500_000)].concat();
    clients(addr, 8, &many)
}

fn open_transactions(addr: SocketAddr) -> Vec<Attacker> {
    let value = "x".repeat(1024 * 1024);
    let queued = command(&["SET", "{t}a", &value]).repeat(20);
    clients(addr, 20, &[command(&["MULTI"]), queued].concat())
}

fn subscribe_to_everything(addr: SocketAddr) -> Vec<Attacker> {
    let name = "x".repeat(16 * 1024);
    (0..25)
        .map(|client| {
            let names = (0..200).map(|number| format!("{client}:{number}:{name}"));
            let args: Vec<_> = ["SUBSCRIBE".to_owned()].into_iter().chain(names).collect();
            let mut client = Attacker::connect(addr);
            client.write(&command(&args));
            client
        })
        .collect()
}

/// Commands behind one that blocks are not read, or kept unread.
fn wait_with_much_behind(addr: SocketAddr) -> Vec<Attacker> {
    let value = "x".repeat(1024 * 1024);
    let behind = command(&["SET", "b", &value]).repeat(30);
    clients(addr, 20, &[command(&["BLPOP", "nothing", "3"]), behind].concat())
}

/// Large replies of one node that stand behind a slow one of another.
fn let_replies_wait(addr: SocketAddr) -> Vec<Attacker> {
    let get = command(&["GET", "big:0"]).repeat(100);
    clients(addr, 2, &[slow_command(), get].concat())
}

/// Half a megabyte for each, which is more than the kernel's buffers hold. Envoy keeps what is
/// not read, so that there is no bound on what a client can ask for: see SECURITY.md.
fn never_read(addr: SocketAddr) -> Vec<Attacker> {
    clients(addr, 200, &command(&["GET", "big:1"]).repeat(5))
}

fn send_large_scripts(addr: SocketAddr) -> Vec<Attacker> {
    let padding = "-".repeat(512 * 1024);
    (0..20)
        .map(|number| {
            let script = format!("return {number} --{padding}");
            let mut client = Attacker::connect(addr);
            client.write(&command(&["EVAL", &script, "0"]).repeat(3));
            client
        })
        .collect()
}

/// What a node does not take stays in Envoy's memory.
fn write_to_a_busy_node(addr: SocketAddr) -> Vec<Attacker> {
    let value = "x".repeat(1024 * 1024);
    let writes = command(&["SET", "{busy}a", &value]).repeat(20);
    clients(addr, 2, &[slow_command(), writes.clone()].concat())
        .into_iter()
        .chain(clients(addr, 20, &writes))
        .collect()
}

/// Keeps its node busy for a moment.
fn slow_command() -> Vec<u8> {
    let script = "local n = 0; for i = 1, 2000000 do n = n + i end; return n";
    command(&["EVAL", script, "1", "{busy}a"])
}

fn seconds() -> Duration {
    let seconds = env::var("SLOTMESH_HOSTILE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(20, |text| text.parse().expect("a number of seconds")))
}

fn only() -> Option<String> {
    env::var("SLOTMESH_HOSTILE_ONLY").ok().filter(|only| !only.is_empty())
}

#[test]
fn hostile_clients_together_neither_end_envoy_nor_keep_others_from_being_served() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy =
        Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds()))).unwrap();
    let mut client = Client::connect(envoy.addr());
    for number in 0..2 {
        client.call(&["SET", &format!("big:{number}"), &"x".repeat(100_000)]);
    }
    let answers = Answers::default();
    let stop = AtomicBool::new(false);
    let slowest = Mutex::new((Duration::ZERO, 0));
    let mut most = 0;
    let begin = Instant::now();
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..OTHERS {
            let (addr, stop, slowest) = (envoy.addr(), &stop, &slowest);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut client = Client::connect(addr);
                let mut workload = Workload::new(number);
                while !stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    exchange(&mut client, &workload.round());
                    let mut slowest = slowest.lock().unwrap_or_else(PoisonError::into_inner);
                    *slowest = (slowest.0.max(begin.elapsed()), slowest.1 + 1);
                }
            });
        }
        let only = only();
        for (name, attack) in ATTACKS {
            if only.as_deref().is_some_and(|only| !name.contains(only)) {
                continue;
            }
            let (addr, stop, answers) = (envoy.addr(), &stop, &answers);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut held = attack(addr);
                    let begin = Instant::now();
                    while begin.elapsed() < HELD && !stop.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(50));
                    }
                    if *name != "never reads" {
                        held.iter_mut().for_each(|client| client.note_errors(name, answers));
                    }
                }
            });
        }
        while begin.elapsed() < seconds() && !stop.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(50));
            most = most.max(envoy.resident_kib().unwrap());
        }
    });
    for (answer, times) in answers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        eprintln!("{times:6} times {answer}");
    }
    let (slowest, rounds) = *slowest.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("others: {rounds} rounds, the slowest {slowest:.1?}; Envoy: at most {most} KiB");
    let log = envoy.log();
    assert!(!log.contains("[error]") && !log.contains("[critical]"), "{log}");
    assert!(rounds > 0, "nobody else was served");
    assert!(most < RESIDENT_KIB, "Envoy had {most} KiB");
}
