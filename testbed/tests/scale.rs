//! What it costs: memory for each client, node and worker, the time to the first reply, and that it
//! stays so. `make scale` prints the numbers of docs/scale.md, `make soak` goes on for an hour.

#[allow(dead_code, unused_imports, reason = "each test program uses its part")]
mod support;

use std::env;
use std::fs;
use std::io::{BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::read_reply;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, locate, or_skip,
};
use support::{Client, StopOnDrop, Workload, exchange};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Long enough for Envoy to give back all the memory that it will.
const RELEASED: Duration = Duration::from_secs(360);

/// As many as envoy/bootstrap.yaml lets in.
const IDLE_CLIENTS: usize = 10_000;

/// Nodes of a large cluster.
const NODES: usize = 100;

/// These tests measure memory and time: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn envoy(seeds: &[String], workers: u32) -> Envoy {
    let mut options = EnvoyOptions::new(PluginConfig::from_seeds(seeds));
    options.concurrency = workers;
    Envoy::start(options).unwrap()
}

/// Lets this process and those that it starts have a file for each client.
fn allow_many_files() -> anyhow::Result<()> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    anyhow::ensure!(most >= IDLE_CLIENTS as u64 * 11 / 10, "no more than {most} files are allowed");
    let current = limit.maximum;
    Ok(rustix::process::setrlimit(Resource::Nofile, Rlimit { current, ..limit })?)
}

fn median<T: Ord + Copy>(mut values: Vec<T>) -> T {
    values.sort_unstable();
    values[values.len() / 2]
}

/// A cluster of primaries without data: every node is a port of this process.
struct LargeCluster {
    addrs: Vec<SocketAddr>,
}

impl LargeCluster {
    fn start() -> Self {
        let listeners: Vec<_> =
            (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let addrs: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
        let topology: Arc<str> = topology(&addrs).into();
        for (index, listener) in listeners.into_iter().enumerate() {
            let topology = Arc::clone(&topology);
            thread::spawn(move || {
                for connection in listener.incoming().flatten() {
                    let topology = Arc::clone(&topology);
                    // A connection that has ended is no fault here.
                    thread::spawn(move || serve(&connection, &node_id(index), &topology));
                }
            });
        }
        Self { addrs }
    }
}

/// The id by which the topology and the node itself name a node.
fn node_id(index: usize) -> String {
    format!("{index:040}")
}

/// The reply to CLUSTER SLOTS: the slots are dealt out evenly.
fn topology(addrs: &[SocketAddr]) -> String {
    let first = |index: usize| index * 16_384 / addrs.len();
    let ranges = addrs.iter().enumerate().map(|(index, addr)| {
        let (begin, end) = (first(index), first(index + 1) - 1);
        let (port, id) = (addr.port(), node_id(index));
        format!("*3\r\n:{begin}\r\n:{end}\r\n*3\r\n$9\r\n127.0.0.1\r\n:{port}\r\n$40\r\n{id}\r\n")
    });
    format!("*{}\r\n{}", addrs.len(), ranges.collect::<String>())
}

fn serve(mut connection: &TcpStream, id: &str, topology: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(connection);
    let my_id = format!("$40\r\n{id}\r\n");
    loop {
        let command = read_reply(&mut reader)?;
        let has = |word: &[u8]| command.windows(word.len()).any(|window| window == word);
        let reply = match () {
            () if has(b"SLOTS") => topology,
            () if has(b"MYID") => &my_id,
            () if has(b"INFO") => "$27\r\ncluster_current_epoch:100\r\n\r\n",
            () if has(b"GET") => "$-1\r\n",
            () => "+OK\r\n",
        };
        connection.write_all(reply.as_bytes())?;
    }
}

/// A key in the middle of each of the nodes' ranges.
fn keys() -> Vec<String> {
    let node = |key: &String| usize::from(support::slot(key)) * NODES / 16_384;
    let mut keys = vec![None; NODES];
    (0..)
        .map(|number| format!("key:{number}"))
        .take_while(|key| {
            keys[node(key)].get_or_insert_with(|| key.clone());
            keys.iter().any(Option::is_none)
        })
        .for_each(drop);
    keys.into_iter().flatten().collect()
}

#[test]
fn a_hundred_nodes_are_reached_and_cost_little() {
    let _alone = alone();
    let cluster = LargeCluster::start();
    let seeds: Vec<String> = cluster.addrs.iter().take(3).map(ToString::to_string).collect();
    let envoy = envoy(&seeds, 1);
    let mut client = Client::connect(envoy.addr());
    assert_eq!(client.call(&["GET", "key:0"]), b"$-1\r\n");
    let before = envoy.resident_kib().unwrap();
    let begin = Instant::now();
    for key in keys() {
        assert_eq!(client.call(&["GET", &key]), b"$-1\r\n", "{key}");
    }
    let took = begin.elapsed();
    let after = envoy.resident_kib().unwrap();
    until("all nodes to be counted", PATIENCE, || {
        let stats = envoy.stats()?;
        let nodes = stats.iter().find(|(name, _)| name.ends_with("cluster.redis.nodes"));
        Ok(match nodes {
            Some((_, nodes)) if *nodes == NODES as u64 => Probe::Ready(()),
            other => Probe::NotYet(format!("{other:?}")),
        })
    })
    .unwrap();
    let each = after.saturating_sub(before) as f64 / NODES as f64;
    eprintln!("{NODES} nodes, reached one after the other in {took:.1?}: {each:.0} KiB for each");
    assert!(each < 300.0, "{each} KiB for each node");
}

#[test]
fn ten_thousand_idle_clients_are_served_and_cost_little() {
    let _alone = alone();
    if or_skip(allow_many_files()).is_none() {
        return;
    }
    let redis = RedisCluster::start(ClusterOptions {
        replicas_per_primary: 0,
        ..ClusterOptions::default()
    })
    .unwrap();
    let envoy = envoy(&redis.seeds(), 2);
    let mut active = Client::connect(envoy.addr());
    active.call(&["SET", "a", "1"]);
    let latency = |client: &mut Client| {
        median(
            (0..1000)
                .map(|_| {
                    let begin = Instant::now();
                    assert_eq!(client.call(&["GET", "a"]), b"$1\r\n1\r\n");
                    begin.elapsed()
                })
                .collect(),
        )
    };
    let (before, alone) = (envoy.resident_kib().unwrap(), latency(&mut active));
    let mut idle: Vec<TcpStream> = Vec::new();
    for _ in 1..IDLE_CLIENTS {
        let mut client = TcpStream::connect(envoy.addr()).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Each has been served once.
        client.write_all(b"GET a\r\n").unwrap();
        idle.push(client);
    }
    for client in &mut idle {
        let mut reply = [0; 7];
        std::io::Read::read_exact(client, &mut reply).unwrap();
        assert_eq!(reply, *b"$1\r\n1\r\n");
    }
    let (after, among) = (envoy.resident_kib().unwrap(), latency(&mut active));
    let each = after.saturating_sub(before) as f64 / IDLE_CLIENTS as f64;
    eprintln!(
        "{IDLE_CLIENTS} idle clients: {each:.1} KiB for each; a GET takes {among:.0?} among them, \
         {alone:.0?} without"
    );
    assert!(each < 40.0, "{each} KiB for each client");
    // One more is too many, and is told so by being closed.
    let mut late = TcpStream::connect(envoy.addr()).unwrap();
    late.set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(!matches!(std::io::Read::read(&mut late, &mut [0]), Ok(1..)), "it was let in");
}

/// All of it takes minutes: the allocator keeps what was needed lately.
#[test]
fn memory_that_compiling_the_module_took_goes_back_to_the_kernel() {
    let _alone = alone();
    let envoy = envoy(&["127.0.0.1:1".to_owned()], 1);
    until("Envoy to give memory back", PATIENCE, || {
        let released = envoy.released_bytes()?;
        Ok(match released >= 4 << 20 {
            true => Probe::Ready(()),
            false => Probe::NotYet(format!("{released} bytes so far")),
        })
    })
    .unwrap();
}

#[test]
#[ignore = "it only measures: `make scale`"]
fn what_a_start_and_a_worker_cost() {
    let _alone = alone();
    let module = fs::metadata(locate::wasm().unwrap()).unwrap().len();
    eprintln!("the module: {} KiB", module / 1024);
    let redis = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mut bare = EnvoyOptions::new(PluginConfig::from_seeds(&redis.seeds()));
    bare.template =
        "admin: {address: {socket_address: {address: 127.0.0.1, port_value: @ADMIN_PORT@}}}".into();
    let starts = (0..5).map(|_| {
        let begin = Instant::now();
        let envoy = Envoy::start(bare.clone()).unwrap();
        (begin.elapsed(), envoy.resident_kib().unwrap() / 1024)
    });
    let (start, size) = median(starts.collect());
    eprintln!("Envoy without the module serves after {start:.2?}; {size} MiB");
    let mut memory = Vec::new();
    for workers in [1, 2, 4] {
        let (mut starts, mut firsts, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..5 {
            let begin = Instant::now();
            let envoy = envoy(&redis.seeds(), workers);
            starts.push(begin.elapsed());
            let begin = Instant::now();
            let mut client = Client::connect(envoy.addr());
            assert_eq!(client.call(&["GET", "a"]), b"$-1\r\n");
            firsts.push(begin.elapsed());
            sizes.push(envoy.resident_kib().unwrap());
        }
        let (start, first, size) = (median(starts), median(firsts), median(sizes));
        memory.push(size);
        eprintln!(
            "{workers} workers: Envoy serves after {start:.2?}, the first reply comes {first:.1?} \
             later; {} MiB",
            size / 1024
        );
    }
    eprintln!("each further worker: {} MiB", (memory[2] - memory[0]) / 3 / 1024);
    let envoy = envoy(&redis.seeds(), 1);
    assert_eq!(Client::connect(envoy.addr()).call(&["GET", "a"]), b"$-1\r\n");
    thread::sleep(RELEASED);
    eprintln!("1 worker, {RELEASED:?} later: {} MiB", envoy.resident_kib().unwrap() / 1024);
}

/// `SLOTMESH_SOAK_SECONDS=3600` goes on for an hour.
#[test]
fn memory_does_not_grow_with_time() {
    const CLIENTS: usize = 8;
    let _alone = alone();
    let seconds = env::var("SLOTMESH_SOAK_SECONDS").map_or(12, |text| text.parse().unwrap());
    let length = Duration::from_secs(seconds);
    let redis = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = envoy(&redis.seeds(), 2);
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..CLIENTS {
            let (envoy, stop, rounds) = (&envoy, &stop, &rounds);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut workload = Workload::new(number);
                while !stop.load(Ordering::Relaxed) {
                    // Clients come and go, too.
                    let mut client = Client::connect(envoy.addr());
                    for _ in 0..20 {
                        exchange(&mut client, &workload.round());
                        rounds.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        let begin = Instant::now();
        let mut seen = Vec::new();
        // Twelve looks; the first third is for buffers to get the size that they need.
        for look in 1..=12 {
            until("the next look", length * 2 + PATIENCE, || {
                anyhow::ensure!(!stop.load(Ordering::Relaxed), "a client has failed");
                Ok(match begin.elapsed() >= length * look / 12 {
                    true => Probe::Ready(()),
                    false => Probe::NotYet("it is not time".to_owned()),
                })
            })
            .unwrap();
            seen.push(envoy.resident_kib().unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        let (warm, last) = (seen[3], seen[11]);
        let rounds = rounds.load(Ordering::Relaxed);
        eprintln!(
            "{rounds} rounds of 120 commands in {length:?}; MiB at twelve looks: {:?}",
            seen.iter().map(|kib| kib / 1024).collect::<Vec<_>>()
        );
        assert!(last < warm + 8 * 1024, "Envoy grew from {warm} to {last} KiB: {seen:?}");
    });
}
