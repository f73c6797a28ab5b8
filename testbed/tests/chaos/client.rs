//! A client that asks for all sorts of things at once, and notes what it was told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use slotmesh_engine::Instant;
use slotmesh_testbed::wire::{self, RawClient, command};

use crate::history::{History, Op, Outcome, Push};
use crate::linearizability::Effect;
use crate::support::Random;

/// Commands that one client has under way.
const PIPELINE: u64 = 8;

/// Keys of each kind that all clients use at the same time.
const KEYS: u64 = 3;

/// How long clients stay with the same keys: more commands on one key take longer to examine.
const STAY: Duration = Duration::from_millis(25);

/// What a client does between its pipelines: so what a long fault adds can be examined, too.
const THINKING: Duration = Duration::from_millis(8);

/// The time since the test began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(std::time::Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn now(self) -> Instant {
        Instant::from_nanos(self.0.elapsed().as_nanos() as u64)
    }
}

/// What all clients of a round share.
pub(crate) struct Round<'a> {
    pub(crate) number: usize,
    pub(crate) clock: Clock,
    /// Where new connections go.
    pub(crate) proxy: &'a Mutex<SocketAddr>,
    /// Whether the proxy may close connections: only if it is itself what goes wrong.
    pub(crate) may_close: bool,
    /// A command must be answered within this.
    pub(crate) time_limit: Duration,
    pub(crate) stop: &'a AtomicBool,
}

/// A client and its connection, which lives on from round to round.
pub(crate) struct Client {
    number: usize,
    random: Random,
    connection: Option<RawClient>,
    /// Connections so far.
    sessions: usize,
    /// Tokens so far.
    tokens: usize,
    pub(crate) replies: Arc<AtomicUsize>,
    /// Connections that the proxy closed, in this round.
    pub(crate) closed: usize,
    /// The longest that a reply took, in this round.
    pub(crate) slowest: Duration,
}

/// What has become of a connection.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Connection {
    Kept,
    Closed,
    /// Closed where a long reply was cut: its node or the way to it was lost.
    CutOff,
}

/// What is to come for one command, and where it is noted.
enum Expected {
    /// Exactly this.
    Bytes(Vec<u8>),
    /// The replies for these operations, or one error for all.
    Ops(Vec<usize>),
    /// That of an EXEC: a push to this list, and its number among the list's pushes.
    Push(String, usize),
}

impl Client {
    pub(crate) fn new(number: usize, seed: u64) -> Self {
        Self {
            number,
            random: Random(seed ^ (number as u64 + 1) << 32),
            connection: None,
            sessions: 0,
            tokens: 0,
            replies: Arc::default(),
            closed: 0,
            slowest: Duration::ZERO,
        }
    }

    /// Asks until it is told to stop.
    pub(crate) fn run(&mut self, round: &Round<'_>) -> History {
        let mut history = History::default();
        (self.closed, self.slowest) = (0, Duration::ZERO);
        while !round.stop.load(Ordering::Relaxed) {
            let mut connection = match self.connection.take() {
                Some(connection) => connection,
                None => match self.connect(round) {
                    Some(connection) => connection,
                    None => continue,
                },
            };
            let end = self.exchange(&mut connection, round, &mut history);
            assert!(
                end != Connection::Closed || round.may_close,
                "the proxy closed the connection of {}",
                self.number
            );
            let kept = end == Connection::Kept;
            self.closed += usize::from(!kept);
            // Now and then it goes of its own will, and meets another worker next.
            let leaves = self.random.below(200) == 0;
            self.connection = (kept && !leaves).then_some(connection);
            thread::sleep(THINKING);
        }
        history
    }

    fn connect(&mut self, round: &Round<'_>) -> Option<RawClient> {
        let addr = *round.proxy.lock().unwrap();
        let mut connection = match RawClient::connect(addr) {
            Ok(connection) => connection,
            Err(error) => {
                assert!(round.may_close, "the proxy takes no clients: {error}");
                return None;
            }
        };
        self.sessions += 1;
        // Half of all clients speak RESP3.
        if self.number.is_multiple_of(2) {
            match connection.call(&["HELLO", "3"]) {
                Ok(reply) => assert!(reply.starts_with(b"%"), "{}", reply.escape_ascii()),
                Err(error) => {
                    assert!(round.may_close, "no reply to HELLO: {error}");
                    return None;
                }
            }
        }
        Some(connection)
    }

    /// One pipeline and its replies.
    fn exchange(
        &mut self,
        connection: &mut RawClient,
        round: &Round<'_>,
        history: &mut History,
    ) -> Connection {
        let called = round.clock.now();
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for _ in 0..=self.random.below(PIPELINE) {
            self.add(round, called, history, &mut bytes, &mut expected);
        }
        if connection.send(&bytes).is_err() {
            return Connection::Closed;
        }
        for expected in expected {
            let reply = match connection.read() {
                Ok(reply) => reply,
                Err(error) if error.kind() == std::io::ErrorKind::InvalidData => panic!("{error}"),
                Err(error) if error.to_string() == wire::CUT => return Connection::CutOff,
                Err(_) => return Connection::Closed,
            };
            let now = round.clock.now();
            let took = now.saturating_duration_since(called);
            self.slowest = self.slowest.max(took);
            let shown = reply.get(..200).unwrap_or(&reply).escape_ascii();
            assert!(took < round.time_limit, "after {took:?} came {shown}");
            note(history, &expected, &reply, now);
            self.replies.fetch_add(1, Ordering::Relaxed);
        }
        Connection::Kept
    }

    /// One more command for the pipeline.
    fn add(
        &mut self,
        round: &Round<'_>,
        called: Instant,
        history: &mut History,
        bytes: &mut Vec<u8>,
        expected: &mut Vec<Expected>,
    ) {
        let session = self.number << 32 | self.sessions;
        let mut begin = |key: &str, effect, together| {
            let (key, outcome) = (key.to_owned(), Outcome::Unknown);
            history.ops.push(Op { session, key, effect, together, called, outcome });
            history.ops.len() - 1
        };
        let mut send = |args: &[&str], one: Expected| {
            bytes.extend(command(args));
            expected.push(one);
        };
        self.tokens += 1;
        let token = format!("{}-{};", self.number, self.tokens);
        let stay = called.as_nanos() / STAY.as_nanos() as u64;
        let key = |kind: &str, index: u64| format!("{}:{stay}:{kind}:{index}", round.number);
        let one = self.random.below(KEYS);
        match self.random.below(12) {
            0 => send(&["ECHO", &token], Expected::Bytes(bulk(&token))),
            1 | 2 => {
                let (key, value) = (key("value", one), padded(&token, self.random.below(40) == 0));
                let op = begin(&key, Effect::Write(token.into()), false);
                send(&["SET", &key, &value], Expected::Ops(vec![op]));
            }
            3 | 4 => {
                let key = key("value", one);
                let op = begin(&key, Effect::Read(None), false);
                send(&["GET", &key], Expected::Ops(vec![op]));
            }
            5 => {
                let key = key("value", one);
                let op = begin(&key, Effect::Delete(None), false);
                send(&["DEL", &key], Expected::Ops(vec![op]));
            }
            6 => {
                let key = key("count", one);
                let op = begin(&key, Effect::Increment(None), false);
                send(&["INCR", &key], Expected::Ops(vec![op]));
            }
            7 => {
                let key = key("text", one);
                let op = begin(&key, Effect::Append(token.clone().into(), None), false);
                send(&["APPEND", &key, &token], Expected::Ops(vec![op]));
            }
            8 => {
                let keys = [key("value", 0), key("text", 1), key("count", 2)];
                let ops = keys.iter().map(|key| begin(key, Effect::Read(None), true)).collect();
                send(&["MGET", &keys[0], &keys[1], &keys[2]], Expected::Ops(ops));
            }
            9 => {
                let keys = [key("value", 0), key("value", 1)];
                let ops =
                    keys.iter().map(|key| begin(key, Effect::Write(token.clone().into()), true));
                let ops = ops.collect();
                send(&["MSET", &keys[0], &token, &keys[1], &token], Expected::Ops(ops));
            }
            _ => {
                // A few lists in different slots.
                let list = format!("{{{}:list:{}:{one}}}", round.number, self.number);
                let pushes = history.pushes.entry(list.clone()).or_default();
                let (element, outcome) = (token.clone(), Outcome::Unknown);
                pushes.push(Push { element, length: 0, outcome });
                let place = pushes.len() - 1;
                let count = format!("{list}:count");
                send(&["MULTI"], Expected::Bytes(b"+OK\r\n".to_vec()));
                send(&["RPUSH", &list, &token], Expected::Bytes(b"+QUEUED\r\n".to_vec()));
                send(&["INCR", &count], Expected::Bytes(b"+QUEUED\r\n".to_vec()));
                send(&["EXEC"], Expected::Push(list, place));
            }
        }
    }
}

/// Notes what a reply says of its command.
fn note(history: &mut History, expected: &Expected, reply: &[u8], now: Instant) {
    let outcome = outcome(reply, now);
    match expected {
        Expected::Bytes(bytes) => {
            let (reply, bytes) = (reply.escape_ascii(), bytes.escape_ascii());
            assert_eq!(reply.to_string(), bytes.to_string(), "another's reply, or out of order");
        }
        Expected::Push(list, place) => {
            let push = &mut history.pushes.get_mut(list).unwrap()[*place];
            push.outcome = outcome;
            if let Outcome::Done(_) = outcome {
                let (length, count) = parse_pair(reply);
                assert_eq!(length, count, "{list}: {}", reply.escape_ascii());
                push.length = length;
            }
        }
        Expected::Ops(ops) => {
            let values = match (outcome, &ops[..]) {
                (Outcome::Done(_), [_, _, ..]) => split(reply, ops.len()),
                _ => vec![reply; ops.len()],
            };
            for (op, value) in ops.iter().zip(values) {
                let op = &mut history.ops[*op];
                op.outcome = outcome;
                if let Outcome::Done(_) = outcome {
                    read(&mut op.effect, value);
                }
            }
        }
    }
}

fn outcome(reply: &[u8], now: Instant) -> Outcome {
    let says = |text: &[u8]| reply.windows(text.len()).any(|window| window == text);
    match reply {
        [b'-', ..] if says(b"may have been executed") => Outcome::Unknown,
        [b'-', ..] => {
            let wrong = [&b"-WRONGTYPE"[..], b"-MOVED", b"-ASK", b"-CROSSSLOT", b"-NOSCRIPT"];
            let wrong = wrong.iter().any(|code| reply.starts_with(code));
            assert!(!wrong, "no client should see {}", reply.escape_ascii());
            Outcome::Refused
        }
        _ => Outcome::Done(now),
    }
}

/// Completes what a command did by what its reply tells.
fn read(effect: &mut Effect, reply: &[u8]) {
    match effect {
        Effect::Read(seen) => *seen = value(reply),
        Effect::Delete(seen) => *seen = Some(integer(reply) == 1),
        Effect::Increment(seen) | Effect::Append(_, seen) => *seen = Some(integer(reply)),
        Effect::Write(_) | Effect::Swap(..) => {
            assert_eq!(reply.escape_ascii().to_string(), r"+OK\r\n");
        }
    }
}

/// A long value, now and then, is sent in many pieces.
fn padded(token: &str, long: bool) -> String {
    match long {
        true => format!("{token}{}", "#".repeat(300_000)),
        false => token.to_owned(),
    }
}

/// A bulk string's value without its padding; `None` for a null.
pub(crate) fn value(reply: &[u8]) -> Option<Vec<u8>> {
    if matches!(reply, b"$-1\r\n" | b"_\r\n") {
        return None;
    }
    let begin = reply.iter().position(|byte| *byte == b'\n').unwrap_or_default() + 1;
    let is_bulk = reply.starts_with(b"$") && reply.len() > begin + 1;
    assert!(is_bulk, "{} is no value", reply.escape_ascii());
    let value = &reply[begin..reply.len() - 2];
    let padding = value.iter().rev().take_while(|byte| **byte == b'#').count();
    assert!(padding == 0 || padding == 300_000, "{padding} bytes of padding");
    Some(value[..value.len() - padding].to_vec())
}

fn integer(reply: &[u8]) -> i64 {
    let text = std::str::from_utf8(reply).ok().and_then(|text| text.strip_prefix(':'));
    let number = text.and_then(|text| text.trim_end().parse().ok());
    number.unwrap_or_else(|| panic!("{} is no number", reply.escape_ascii()))
}

/// The replies within an array; for MSET its one reply for each of its keys.
fn split(reply: &[u8], count: usize) -> Vec<&[u8]> {
    let Some(mut rest) = reply.strip_prefix(format!("*{count}\r\n").as_bytes()) else {
        return vec![reply; count];
    };
    (0..count)
        .map(|_| {
            let before = rest;
            wire::read_reply(&mut rest).expect("an array's element");
            &before[..before.len() - rest.len()]
        })
        .collect()
}

fn parse_pair(reply: &[u8]) -> (usize, usize) {
    let pair = split(reply, 2);
    assert!(pair[0] != reply, "{} is no pair", reply.escape_ascii());
    (integer(pair[0]) as usize, integer(pair[1]) as usize)
}

fn bulk(value: &str) -> Vec<u8> {
    format!("${}\r\n{value}\r\n", value.len()).into_bytes()
}
