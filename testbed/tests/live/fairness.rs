//! What a client sees of others that ask for much: next to nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, StopOnDrop, command};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster};

/// The size of the large values.
const LARGE: usize = 100_000;

/// Commands whose latency is measured in a round.
const SAMPLES: usize = 500;

/// The best of so many rounds counts: other tests run at the same time.
const ROUNDS: usize = 5;

const PATIENCE: Duration = Duration::from_secs(60);

/// The time in which 99 of 100 GETs of a small value are answered, one after the other.
fn p99(proxy: SocketAddr) -> Duration {
    let mut client = Client::connect(proxy);
    let round = |_| {
        let begin = Instant::now();
        let mut times: Vec<_> = (0..SAMPLES)
            .map(|_| {
                let start = Instant::now();
                assert_eq!(client.call(&["GET", "{fair}small"]), b"$5\r\nvalue\r\n");
                assert!(begin.elapsed() < PATIENCE, "{SAMPLES} commands take over a minute");
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        times[SAMPLES * 99 / 100]
    };
    (0..ROUNDS).map(round).min().unwrap()
}

/// A cluster with a large and a small value in one slot, and a proxy before it with one worker:
/// clients of different workers share no connection.
fn start() -> (RedisCluster, Envoy) {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mut options = EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds()));
    options.concurrency = 1;
    let envoy = Envoy::start(options).unwrap();
    let mut client = Client::connect(envoy.addr());
    assert_eq!(client.call(&["SET", "{fair}small", "value"]), b"+OK\r\n");
    assert_eq!(client.call(&["SET", "{fair}large", &"x".repeat(LARGE)]), b"+OK\r\n");
    (cluster, envoy)
}

/// Sends a pipeline of GETs of the large value.
fn ask_for_much(proxy: SocketAddr, commands: usize) -> TcpStream {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.write_all(&command(&["GET", "{fair}large"]).repeat(commands)).unwrap();
    stream
}

/// What a client may notice of others: twice its own latency, and what a node gives in a moment.
fn assert_undisturbed(alone: Duration, beside: Duration) {
    eprintln!("p99 alone {alone:?}, beside others {beside:?}");
    assert!(beside < 2 * alone + Duration::from_millis(5), "{beside:?}, alone {alone:?}");
}

#[test]
fn a_client_that_pipelines_large_reads_delays_nobody() {
    const COMMANDS: usize = 10_000;
    let (_cluster, envoy) = start();
    let addr = envoy.addr();
    let alone = p99(addr);
    let (stop, read) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (stop, read) = (&stop, &read);
        scope.spawn(move || {
            let _stop = StopOnDrop(stop);
            let mut buffer = vec![0; 1 << 20];
            while !stop.load(Ordering::Relaxed) {
                let mut stream = ask_for_much(addr, COMMANDS);
                let mut left = COMMANDS * (LARGE + "$100000\r\n\r\n".len());
                while left > 0 && !stop.load(Ordering::Relaxed) {
                    let len = stream.read(&mut buffer).unwrap();
                    assert!(len > 0, "closed with {left} bytes to come");
                    left -= len;
                    read.fetch_add(len, Ordering::Relaxed);
                }
            }
        });
        until("the other client's replies", PATIENCE, || {
            Ok(match read.load(Ordering::Relaxed) {
                0..LARGE => Probe::NotYet("none".to_owned()),
                _ => Probe::Ready(()),
            })
        })
        .unwrap();
        let (before, start) = (read.load(Ordering::Relaxed), Instant::now());
        let beside = p99(addr);
        assert!(!stop.load(Ordering::Relaxed), "the other client was disturbed");
        let rate = (read.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
        eprintln!("the other one reads {:.0} MB/s", rate / 1e6);
        assert_undisturbed(alone, beside);
    });
}

/// Envoy keeps what they do not read: few enough here that its memory does not matter.
#[test]
fn clients_that_never_read_delay_nobody() {
    let (_cluster, envoy) = start();
    let alone = p99(envoy.addr());
    let _silent: Vec<_> = (0..5).map(|_| ask_for_much(envoy.addr(), 1000)).collect();
    assert_undisturbed(alone, p99(envoy.addr()));
}
