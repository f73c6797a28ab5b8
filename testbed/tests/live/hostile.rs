//! Clients that misbehave, before stock Envoy with the module: they get what a standalone
//! redis-server gives them, memory stays where it was, and nobody else notices.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::support::{Client, Random, StopOnDrop, Workload, command, exchange};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Well-behaved clients.
const OTHERS: usize = 4;

/// By how much Envoy may grow: more than what these clients send, far less than what they announce.
const GROWTH_KIB: u64 = 50 * 1024;

/// What makes a server that has understood everything before it close the connection.
const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";

/// Lets `attack` loose on a proxy whose other clients go on working, and looks at Envoy while what
/// it returns is still there.
fn besiege<T>(attack: impl FnOnce(&Envoy) -> T) {
    besiege_with(|_| (), attack);
}

/// The same, on an Envoy started with other options.
fn besiege_with<T>(change: impl FnOnce(&mut EnvoyOptions), attack: impl FnOnce(&Envoy) -> T) {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let config = PluginConfig::from_seeds(&cluster.seeds());
    let mut options = EnvoyOptions::new(config);
    change(&mut options);
    let envoy = Envoy::start(options).unwrap();
    let (stop, rounds) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for number in 0..OTHERS {
            let (addr, stop, rounds) = (envoy.addr(), &stop, &rounds);
            scope.spawn(move || {
                let _stop = StopOnDrop(stop);
                let mut client = Client::connect(addr);
                let mut workload = Workload::new(number);
                while !stop.load(Ordering::Relaxed) {
                    exchange(&mut client, &workload.round());
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let wait_for_rounds = || {
            let wanted = rounds.load(Ordering::Relaxed) + 100;
            until("the other clients' traffic", PATIENCE, || {
                assert!(!stop.load(Ordering::Relaxed), "another client was disturbed");
                let done = rounds.load(Ordering::Relaxed);
                Ok(match done >= wanted {
                    true => Probe::Ready(()),
                    false => Probe::NotYet(format!("{done} of {wanted} rounds")),
                })
            })
            .unwrap();
        };
        // So that all buffers have the size that this traffic needs.
        wait_for_rounds();
        let before = envoy.resident_kib().unwrap();
        let _held = attack(&envoy);
        wait_for_rounds();
        let after = envoy.resident_kib().unwrap();
        assert!(after < before + GROWTH_KIB, "Envoy grew from {before} to {after} KiB");
    });
    // A VM that has died leaves such a line; its clients are closed, and so are new ones.
    let log = envoy.log();
    assert!(!log.contains("[error]") && !log.contains("[critical]"), "{log}");
    assert_eq!(Client::connect(envoy.addr()).call(&["PING"]), b"+PONG\r\n");
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that a server answers to `bytes` until it closes the connection, which it must do.
fn talk(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(addr);
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let (sent, got) = (bytes.escape_ascii(), answer.escape_ascii());
        panic!("{sent} was answered with {got} and then {error}");
    }
    answer.escape_ascii().to_string()
}

fn assert_same_answer(proxy: &Envoy, redis: &RedisServer, bytes: &[u8]) {
    let [ours, theirs] = [proxy.addr(), redis.addr()].map(|addr| talk(addr, bytes));
    let shown = bytes.get(..200).unwrap_or(bytes).escape_ascii();
    assert_eq!(ours, theirs, "the answer to {shown} ({} bytes)", bytes.len());
}

#[test]
fn what_is_no_command_gets_redis_own_words_and_a_closed_connection() {
    let redis = RedisServer::start(&[]).unwrap();
    // Redis gives up on a line when it has read more than 64 KiB of it.
    let endless = |start: &str| [start.as_bytes(), &[b'1'; 64 * 1024 + 1]].concat();
    let fatal: Vec<Vec<u8>> = [
        "*abc\r\n",
        "*\r\n",
        "*01\r\n",
        "*+1\r\n",
        "*2147483648\r\n",
        "*99999999999999999999\r\n",
        "*1\r\n$-1\r\n",
        "*1\r\n$-536870912\r\n",
        "*1\r\n$536870913\r\n",
        "*1\r\n$99999999999999999999\r\n",
        "*1\r\n$abc\r\n",
        "*1\r\n$\r\n",
        "*1\r\n:1\r\n",
        "*1\r\n\r\n\r\n",
        "*2\r\n$3\r\nGET\r\n*1\r\n",
        "SET a \"b\r\n",
        "SET a 'b\r\n",
        "SET a \"b\"c\r\n",
        // The replies to what was there before come first.
        "PING\r\n*1\r\n$-1\r\n",
        "SET {hostile}a b\r\nGET {hostile}a\r\nDEL {hostile}a\r\n*1\r\n$-1\r\nPING\r\n",
    ]
    .into_iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([endless(""), endless("*"), endless("*1\r\n$"), vec![0; 65_537]])
    .collect();
    let harmless = [
        "*-1\r\n",
        "*-99999\r\n",
        "*0\r\n\r\n \r\n",
        "*1\r\n$0\r\n\r\n",
        "*1\r\n$4\r\nPINGxx",
        "+OK\r\n$3\r\nfoo\r\n",
        "GET\r\nGET a b\r\nNOSUCH {hostile}a\r\n",
        "EVAL x -1\r\nEVAL x 9 {hostile}a\r\nOBJECT NOSUCH a\r\n",
    ];
    besiege(|proxy| {
        for bytes in fatal {
            assert!(talk(redis.addr(), &bytes).contains("-ERR Protocol error: "));
            assert_same_answer(proxy, &redis, &bytes);
        }
        for text in harmless {
            assert_same_answer(proxy, &redis, &[text.as_bytes(), QUIT].concat());
        }
        let mut random = Random(1);
        for _ in 0..200 {
            // Without NUL, behind which Redis does not see the line's end.
            let noise = (0..random.below(200)).map(|_| 1 + random.below(255) as u8);
            let noise: Vec<u8> = noise.chain(*b"\r\n").chain(QUIT.iter().copied()).collect();
            assert_same_answer(proxy, &redis, &noise);
        }
    });
}

/// Redis takes a browser that was lured to its port for an attack.
#[test]
fn a_web_browser_gets_nothing_and_a_closed_connection() {
    let redis = RedisServer::start(&[]).unwrap();
    besiege(|proxy| {
        for method in ["POST", "GET", "HEAD"] {
            let request = format!("{method} / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n");
            assert_eq!(talk(redis.addr(), request.as_bytes()), "", "{method}");
            (0..50).for_each(|_| assert_same_answer(proxy, &redis, request.as_bytes()));
        }
        // Each of a read of its own.
        let in_turn = |addr| {
            let mut client = Client::connect(addr);
            let answer = client.call(&["GET", "/", "HTTP/1.1"]);
            (answer, talk(addr, b"Host: localhost\r\n\r\n"))
        };
        assert_eq!(in_turn(proxy.addr()), in_turn(redis.addr()));
        // Once a minute, by each of two workers.
        let warnings = proxy.log().matches("speaks HTTP").count();
        assert!((1..=2).contains(&warnings), "{}", proxy.log());
    });
}

/// Redis takes up to 2,147,483,647 arguments. They need more memory than a worker has by default.
#[test]
fn commands_with_over_a_million_arguments_are_answered_as_by_one_redis() {
    const MANY: usize = 1_100_000;
    let redis = RedisServer::start(&[]).unwrap();
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let config = PluginConfig::from_seeds(&cluster.seeds());
    let config = config.as_str().replacen("\"5s\"", "\"60s\"", 1);
    assert!(config.contains("60s"), "{config}");
    let memory = r#""max_memory_bytes_per_worker": 402653184, "op_timeout""#;
    let config = config.replacen(r#""op_timeout""#, memory, 1);
    let proxy = Envoy::start(EnvoyOptions::new(PluginConfig::from_text(config))).unwrap();
    let frame = |name: &str, fixed: &[&str], args: &mut dyn Iterator<Item = String>| {
        let args = fixed.iter().map(|one| (*one).to_owned()).chain(args);
        let args: Vec<String> = args.collect();
        assert!(args.len() > MANY - 1);
        let mut bytes = format!("*{}\r\n${}\r\n{name}\r\n", 1 + args.len(), name.len());
        for one in args {
            bytes.push_str(&format!("${}\r\n{one}\r\n", one.len()));
        }
        bytes.into_bytes()
    };
    let keys = || (0..MANY).map(|number| format!("{{{}}}{number}", number % 100));
    let commands = [
        frame("MSET", &[], &mut keys().flat_map(|key| [key, "v".to_owned()])),
        frame("MGET", &[], &mut keys()),
        frame("RPUSH", &["list"], &mut (0..MANY).map(|_| "v".to_owned())),
        frame("DEL", &[], &mut keys()),
        command(&["LLEN", "list"]),
    ];
    let mut clients = [proxy.addr(), redis.addr()].map(connect);
    for bytes in commands {
        let name = bytes.get(..40).unwrap_or(&bytes).escape_ascii().to_string();
        let [ours, theirs] = clients.each_mut().map(|client| {
            client.write_all(&bytes).unwrap();
            // What QUIT would be, but the connection goes on.
            client.write_all(&command(&["ECHO", "the end"])).unwrap();
            let (mut answer, mut chunk) = (Vec::new(), vec![0; 1 << 16]);
            while !answer.ends_with(b"$7\r\nthe end\r\n") {
                let len = client.read(&mut chunk).unwrap();
                assert!(len > 0, "{name}: closed after {}", answer.escape_ascii());
                answer.extend_from_slice(&chunk[..len]);
            }
            answer
        });
        let shown = ours.get(..200).unwrap_or(&ours).escape_ascii();
        assert!(ours == theirs, "{name}: {} bytes, {} of Redis: {shown}", ours.len(), theirs.len());
    }
}

/// It does not fit into the memory of a worker: none of it is kept.
#[test]
fn a_value_of_half_a_gigabyte_is_refused_with_the_bound_and_the_client_goes_on() {
    const VALUE: usize = 511 * 1024 * 1024;
    besiege(|proxy| {
        let mut client = connect(proxy.addr());
        client.write_all(&command(&["ECHO", "before"])).unwrap();
        let head = format!("*3\r\n$3\r\nSET\r\n$12\r\n{{hostile}}big\r\n${VALUE}\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let chunk = vec![b'x'; 1024 * 1024];
        (0..VALUE / chunk.len()).for_each(|_| client.write_all(&chunk).unwrap());
        client.write_all(b"\r\n").unwrap();
        client.write_all(&command(&["ECHO", "behind"])).unwrap();
        let expected = "$6\r\nbefore\r\n-ERR the command is too large for this proxy: it takes \
                        37748736 bytes, where each argument counts for 32 more\r\n\
                        $6\r\nbehind\r\n";
        let mut answer = vec![0; expected.len()];
        client.read_exact(&mut answer).unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), expected);
        assert_eq!(Client::connect(proxy.addr()).call(&["GET", "{hostile}big"]), b"$-1\r\n");
        client
    });
}

/// A connection that is closed with unread bytes is reset, and what was written to it may be lost.
#[test]
fn a_client_that_sends_more_than_redis_takes_can_send_all_of_it_and_read_why_it_is_closed() {
    const VALUE: usize = 513 * 1024 * 1024;
    besiege(|proxy| {
        let mut client = connect(proxy.addr());
        let head = format!("*3\r\n$3\r\nSET\r\n$12\r\n{{hostile}}big\r\n${VALUE}\r\n");
        client.write_all(head.as_bytes()).unwrap();
        let chunk = vec![b'x'; 1024 * 1024];
        (0..64).for_each(|_| client.write_all(&chunk).unwrap());
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "-ERR Protocol error: invalid bulk length\r\n");
    });
}

#[test]
fn a_line_without_end_is_cut_off() {
    besiege(|proxy| {
        for start in ["*", "*1\r\n$", "x", "SET a \""] {
            let mut stream = connect(proxy.addr());
            stream.write_all(start.as_bytes()).unwrap();
            let sent = (0..1024).take_while(|_| stream.write_all(&[b'1'; 65_536]).is_ok()).count();
            assert!(sent < 1024, "{start:?} went on for 64 MiB");
        }
    });
}

#[test]
fn what_is_announced_and_never_sent_takes_no_memory() {
    besiege(|proxy| {
        let argument = [b'x'; 1000];
        let large = [b"*2\r\n$3\r\nGET\r\n$536870912\r\n", &argument[..]].concat();
        let many = [b"*1000000\r\n".to_vec(), b"$1\r\na\r\n".repeat(1000)].concat();
        let half = b"*2\r\n$4\r\nECHO\r\n$5\r\nhe";
        let open = |bytes: &[u8]| -> Vec<TcpStream> {
            let clients = (0..50).map(|_| {
                let mut client = connect(proxy.addr());
                client.write_all(bytes).unwrap();
                client
            });
            clients.collect()
        };
        let silent = open(&large).into_iter().chain(open(&many)).collect::<Vec<_>>();
        for mut client in open(half) {
            client.write_all(b"llo\r\n").unwrap();
            let mut reply = [0; 11];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(reply, *b"$5\r\nhello\r\n");
        }
        for client in &silent {
            client.set_nonblocking(true).unwrap();
            let error = client.peek(&mut [0]).expect_err("an answer to half a command");
            assert_eq!(error.kind(), ErrorKind::WouldBlock);
        }
        silent
    });
}

#[test]
fn clients_that_leave_in_mid_pipeline_leave_nothing_behind() {
    besiege(|proxy| {
        let value = "x".repeat(1000);
        let commands = (0..300).flat_map(|number| {
            let [key, next] = [number, number + 1].map(|number| format!("hostile:{number}"));
            [
                command(&["SET", &key, &value]),
                command(&["GET", &key]),
                command(&["MGET", &key, &next]),
            ]
        });
        let mut pipeline = commands.collect::<Vec<_>>().concat();
        pipeline.extend_from_slice(b"*2\r\n$3\r\nGET\r\n$7\r\nhost");
        // Together more than Envoy may grow by.
        for _ in 0..200 {
            let mut client = connect(proxy.addr());
            client.write_all(&pipeline).unwrap();
            client.read_exact(&mut [0; 100_000]).unwrap();
        }
        until("the clients to be gone", PATIENCE, || {
            let stats = proxy.stats()?;
            let active = stats.get("listener.slotmesh.downstream_cx_active").copied();
            Ok(match active == Some(OTHERS as u64) {
                true => Probe::Ready(()),
                false => Probe::NotYet(format!("{active:?} clients")),
            })
        })
        .unwrap();
    });
}

#[test]
fn clients_that_send_a_byte_now_and_then_are_answered_when_a_command_is_whole() {
    besiege(|proxy| {
        let mut slow: Vec<TcpStream> = (0..200).map(|_| connect(proxy.addr())).collect();
        for byte in command(&["ECHO", "hello"]) {
            for client in &mut slow {
                client.set_nodelay(true).unwrap();
                client.write_all(&[byte]).unwrap();
            }
        }
        for client in &mut slow {
            let mut reply = [0; 11];
            client.read_exact(&mut reply).unwrap();
            assert_eq!(reply, *b"$5\r\nhello\r\n");
        }
        slow
    });
}

#[test]
fn millions_of_tiny_commands_are_a_burden_to_nobody_else() {
    const COMMANDS: usize = 1_000_000;
    besiege(|proxy| {
        let mut client = connect(proxy.addr());
        let mut writer = client.try_clone().unwrap();
        // Between them what is no command at all.
        let batch = b"PING\r\n\r\n*0\r\n".repeat(1000);
        let writing = thread::spawn(move || {
            (0..COMMANDS / 1000).for_each(|_| writer.write_all(&batch).unwrap());
        });
        let (mut buffer, mut left) = (vec![0; 7 * 16_384], COMMANDS * 7);
        while left > 0 {
            let wanted = left.min(buffer.len());
            client.read_exact(&mut buffer[..wanted]).unwrap();
            assert!(buffer[..wanted].chunks(7).all(|reply| reply == b"+PONG\r\n"));
            left -= wanted;
        }
        writing.join().unwrap();
    });
}

/// Envoy keeps all that such a client is owed; the module does not see how much that is.
#[test]
fn a_client_that_never_reads_is_closed() {
    // Shorter than in envoy/bootstrap.yaml, so that the test is.
    let shorten = |options: &mut EnvoyOptions| {
        let (long, short) = ("high_watermark_timeout: 60s", "high_watermark_timeout: 2s");
        assert!(options.template.contains(long));
        options.template = options.template.replace(long, short).into();
    };
    besiege_with(shorten, |proxy| {
        let value = "x".repeat(1024 * 1024);
        Client::connect(proxy.addr()).call(&["SET", "{hostile}big", &value]);
        let mut client = connect(proxy.addr());
        let get = command(&["GET", "{hostile}big"]);
        // More than the socket's own buffers hold, less than Envoy may grow by.
        client.write_all(&get.repeat(20)).unwrap();
        until("the client to be closed", PATIENCE, || {
            let closed = client.write(b"\r\n").is_err();
            Ok(if closed { Probe::Ready(()) } else { Probe::NotYet("it is there".to_owned()) })
        })
        .unwrap();
    });
}
