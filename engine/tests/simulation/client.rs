//! Clients: they send pipelines, and know what each reply must look like.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use redis::Value;
use slotmesh_engine::resp::{Limits, Protocol, Scanner};
use slotmesh_engine::{Instant, SessionId};

use super::history::{OpId, Outcome};
use super::linearizability::{Effect, State};
use super::listener::Confirmation;
use super::profile::{LONGEST_PAUSE, OP_TIMEOUT, PEACEFUL};
use super::workload::Keys;
use super::world::{Event, World};

/// A client, over all of its connections.
pub struct Client {
    pub keys: Keys,
    /// Replies that it is owed, in order.
    pub waiting: VecDeque<Expected>,
    /// What went wrong, in its view.
    pub errors: Vec<String>,
    /// No other connection has had this number.
    pub number: usize,
    pub protocol: Protocol,
    /// A key that it watches, and what it has read from it since.
    pub watched: Option<(Vec<u8>, Option<State>)>,
    pub left: usize,
    /// It does nothing but listen to what others publish.
    pub listens: bool,
    /// Scripts that it has sent by its present connection.
    pub scripts: BTreeSet<&'static [u8]>,
    /// Where its SCAN has come to, and the keys that it has brought.
    pub cursor: Vec<u8>,
    pub scanned: BTreeSet<Vec<u8>>,
    session: Option<SessionId>,
    received: Vec<u8>,
    /// Pieces that have not reached the proxy.
    in_flight: usize,
    /// Since when its time runs: when the last of its bytes reached the proxy, or a command before
    /// was answered that may wait, or whose reply came in pieces.
    due_since: Instant,
    /// When the first piece of a reply came. The rest may take as long as it likes.
    begun: Option<Instant>,
    tokens: usize,
}

/// What the reply to a command must be.
#[derive(Clone, Debug)]
pub enum Expected {
    /// `+OK`, or this.
    Status(&'static str),
    /// `+OK`: this key is watched.
    Watching(Vec<u8>),
    /// Exactly this text.
    Echo(Vec<u8>),
    /// `+OK` when all of this was written.
    Written(Vec<OpId>),
    /// A number, in the manner of the command.
    Number(OpId),
    /// How many keys were deleted.
    Deleted(Vec<OpId>),
    Value(OpId),
    Values(Vec<OpId>),
    /// The value, behind what the client sent along.
    Tagged(Vec<u8>, OpId),
    /// Null, or the replies to the commands of a transaction.
    Exec(Vec<Self>),
    Pushed(Vec<u8>),
    /// Null, or an element of this list.
    Popped(Vec<u8>),
    /// The greeting of HELLO 3.
    Hello,
    /// The next cursor and some keys.
    Scanned,
    /// A number of keys.
    Count,
    /// The number of those who have heard what was published.
    Receivers(usize),
    Confirmed(Confirmation),
}

impl Client {
    pub fn is_done(&self) -> bool {
        self.left == 0 && self.waiting.is_empty()
    }

    /// A text that nobody else writes.
    pub fn token(&mut self) -> Vec<u8> {
        self.tokens += 1;
        format!("c{}.{};", self.number, self.tokens).into_bytes()
    }
}

impl World {
    pub fn add_client(&mut self, keys: Keys) -> usize {
        let session = self.proxy.handle_downstream_open(self.now);
        self.clients.push(Client {
            keys,
            waiting: VecDeque::new(),
            errors: Vec::new(),
            number: self.clients.len() * 1000,
            protocol: Protocol::Resp2,
            watched: None,
            left: self.profile.batches,
            listens: false,
            scripts: BTreeSet::new(),
            cursor: b"0".to_vec(),
            scanned: BTreeSet::new(),
            session: Some(session),
            received: Vec::new(),
            in_flight: 0,
            due_since: self.now,
            begun: None,
            tokens: 0,
        });
        self.obey();
        self.clients.len() - 1
    }

    /// A client goes, whatever it is owed.
    pub fn leave(&mut self, number: usize) {
        let client = &mut self.clients[number];
        self.history.messages.end(client.number, self.now);
        client.waiting.clear();
        client.received.clear();
        client.begun = None;
        client.watched = None;
        if let Some(session) = client.session.take() {
            self.proxy.handle_downstream_close(session, self.now);
            self.obey();
        }
    }

    /// A client goes and comes again, over a new connection.
    pub fn come_again(&mut self, number: usize) {
        self.tell(|| format!("client {number} goes and comes again"));
        self.leave(number);
        let session = self.proxy.handle_downstream_open(self.now);
        let client = &mut self.clients[number];
        client.session = Some(session);
        client.number += 1;
        client.protocol = Protocol::Resp2;
        client.scripts.clear();
        client.in_flight = 0;
        let pause = self.up_to(Duration::from_millis(50));
        self.after(pause, Event::Act(number));
    }

    /// The proxy closes a client: it may, if it owes the rest of a reply that will not come, or if
    /// too many replies waited.
    pub fn lose_rest(&mut self, session: SessionId) {
        let client = self.clients.iter().position(|client| client.session == Some(session));
        let number = client.expect("the end of a client that is there");
        let owes_rest = !self.clients[number].received.is_empty();
        let overflowed = self.overflows < self.proxy.stats().downstream_cx_reply_overflow;
        self.overflows += u64::from(overflowed);
        assert!(owes_rest || overflowed, "the proxy has closed client {number}");
        self.come_again(number);
    }

    /// A client sends a pipeline; `bytes` come to the proxy in pieces.
    pub fn send(&mut self, number: usize, bytes: Vec<u8>, expected: Vec<Expected>) {
        self.tell(|| format!("client {number}: {}", bytes.escape_ascii()));
        let pieces = self.tear(bytes);
        let client = &mut self.clients[number];
        client.waiting.extend(expected);
        client.in_flight = pieces.len();
        let (mut at, session) = (self.now, client.number);
        for piece in pieces {
            at = at + self.up_to(Duration::from_millis(1));
            self.at(at, Event::FromClient(number, session, piece));
        }
    }

    /// A client's bytes reach the proxy.
    pub fn hear(&mut self, number: usize, session: usize, bytes: &[u8]) {
        let client = &mut self.clients[number];
        if client.number != session {
            return;
        }
        client.in_flight -= 1;
        if client.in_flight == 0 {
            client.due_since = self.now;
        }
        let session = client.session.expect("a client that is there");
        self.proxy.handle_downstream_buffer(session, &mut bytes.to_vec(), self.now);
    }

    /// The proxy's bytes reach a client.
    pub fn take(&mut self, session: SessionId, bytes: &[u8]) {
        let client = self.clients.iter().position(|client| client.session == Some(session));
        let number = client.expect("bytes for a client that is there");
        self.tell(|| format!("client {number} gets {}", bytes.escape_ascii()));
        self.clients[number].received.extend_from_slice(bytes);
        loop {
            let client = &mut self.clients[number];
            let scan = Scanner::new().scan(&client.received, &Limits::default()).expect("RESP");
            if !scan.complete {
                break;
            }
            let reply: Vec<_> = client.received.drain(..scan.consumed).collect();
            let text = reply.escape_ascii().to_string();
            if client.listens && !reply.starts_with(b"-") {
                let value = redis::parse_redis_value(&reply).expect("a reply");
                if self.take_message(number, &value) {
                    continue;
                }
            }
            let client = &mut self.clients[number];
            let Some(expected) = client.waiting.pop_front() else {
                panic!("client {number} got a reply to nothing: {text}")
            };
            let begun = client.begun.take();
            let waited = begun.unwrap_or(self.now).saturating_duration_since(client.due_since);
            let may_wait = matches!(expected, Expected::Popped(_));
            let longest = if self.profile.rolling { LONGEST_PAUSE } else { OP_TIMEOUT };
            assert!(
                client.in_flight > 0 || may_wait || waited <= longest,
                "client {number} waited {waited:?} for the reply to {expected:?}: {text}"
            );
            if may_wait || begun.is_some() {
                client.due_since = self.now;
            }
            self.absorb(number, expected, &reply);
        }
        let client = &mut self.clients[number];
        if !client.received.is_empty() {
            client.begun.get_or_insert(self.now);
        }
        if client.waiting.is_empty() && client.in_flight == 0 && client.left > 0 {
            // One that watches should not think for too long.
            let most = if client.watched.is_some() { 20 } else { 150 };
            let pause = self.up_to(Duration::from_millis(most));
            self.after(pause, Event::Act(number));
        }
    }

    fn absorb(&mut self, number: usize, expected: Expected, reply: &[u8]) {
        if let Some(error) = reply.strip_prefix(b"-") {
            return self.absorb_error(number, expected, &String::from_utf8_lossy(error));
        }
        let value = redis::parse_redis_value(reply).expect("a reply");
        if !self.absorb_value(number, &expected, &value) {
            panic!("client {number} got {value:?} where {expected:?} was due");
        }
    }

    /// Takes in a reply that is no error; returns whether it is one to this command.
    fn absorb_value(&mut self, number: usize, expected: &Expected, value: &Value) -> bool {
        let done = Outcome::Done(self.now);
        match (expected, value) {
            (Expected::Status("OK"), Value::Okay) => true,
            (Expected::Status(text), Value::SimpleString(got)) => text == got,
            (Expected::Watching(key), Value::Okay) => {
                self.clients[number].watched = Some((key.clone(), None));
                true
            }
            (Expected::Echo(text), Value::BulkString(got)) => text == got,
            (Expected::Hello, Value::Map(_)) => {
                self.clients[number].protocol = Protocol::Resp3;
                true
            }
            (Expected::Scanned, Value::Array(got)) => match &got[..] {
                [Value::BulkString(cursor), Value::Array(keys)] => {
                    let client = &mut self.clients[number];
                    client.cursor.clone_from(cursor);
                    keys.iter().all(|key| match key {
                        Value::BulkString(key) => {
                            client.scanned.insert(key.clone());
                            client.keys.contain(key)
                        }
                        _ => false,
                    })
                }
                _ => false,
            },
            (Expected::Count, Value::Int(_)) => true,
            (Expected::Receivers(place), Value::Int(_)) => {
                self.history.messages.published[*place].outcome = done;
                true
            }
            (Expected::Confirmed(due), _) => self.note_confirmed(number, due, value),
            (Expected::Written(ops), Value::Okay) => {
                ops.iter().for_each(|op| self.history.ops[*op].outcome = done);
                true
            }
            (Expected::Number(op), Value::Int(got)) => {
                let op = &mut self.history.ops[*op];
                op.outcome = done;
                match &mut op.effect {
                    Effect::Increment(seen) | Effect::Append(_, seen) => *seen = Some(*got),
                    effect => panic!("a number for {effect:?}"),
                }
                true
            }
            (Expected::Deleted(ops), Value::Int(got)) => {
                for op in ops {
                    let known = (ops.len() == 1).then_some(*got == 1);
                    self.history.ops[*op].effect = Effect::Delete(known);
                    self.history.ops[*op].outcome = done;
                }
                (0..=ops.len() as i64).contains(got)
            }
            (Expected::Value(op), Value::BulkString(_) | Value::Nil) => {
                let state = match value {
                    Value::BulkString(text) => Some(text.clone()),
                    _ => None,
                };
                let op = &mut self.history.ops[*op];
                if let Some((key, seen)) = &mut self.clients[number].watched
                    && *key == op.key
                {
                    *seen = Some(state.clone());
                }
                op.effect = Effect::Read(state);
                op.outcome = done;
                true
            }
            (Expected::Values(ops), Value::Array(got)) => {
                let mut pairs = ops.iter().zip(got);
                ops.len() == got.len()
                    && pairs
                        .all(|(op, value)| self.absorb_value(number, &Expected::Value(*op), value))
            }
            (Expected::Tagged(tag, op), Value::Array(got)) => match &got[..] {
                [Value::BulkString(told), value] => {
                    tag == told && self.absorb_value(number, &Expected::Value(*op), value)
                }
                _ => false,
            },
            (Expected::Exec(commands), Value::Nil) => {
                commands.iter().for_each(|command| self.settle(command, Outcome::Refused));
                true
            }
            (Expected::Exec(commands), Value::Array(got)) => {
                let mut pairs = commands.iter().zip(got);
                commands.len() == got.len()
                    && pairs.all(|(command, value)| self.absorb_value(number, command, value))
            }
            (Expected::Pushed(token), Value::Int(_)) => {
                self.history.pushed.insert(token.clone(), done);
                true
            }
            (Expected::Popped(_), Value::Nil) => true,
            (Expected::Popped(key), Value::Array(got)) => match &got[..] {
                [Value::BulkString(from), Value::BulkString(element)] => {
                    self.history.popped.push(element.clone());
                    key == from
                }
                _ => false,
            },
            _ => false,
        }
    }

    fn absorb_error(&mut self, number: usize, expected: Expected, error: &str) {
        let is_excused = match expected {
            Expected::Receivers(place) => {
                let published = &self.history.messages.published[place];
                self.cluster.excuses(error, published.called)
            }
            _ => false,
        };
        assert!(
            !self.profile.rolling || is_excused,
            "client {number} got '{error}' where {expected:?} was due, in an orderly restart"
        );
        let known = ["may have been executed", "TIMEOUT", "CLUSTERDOWN", "TRYAGAIN", "LOADING"];
        let known = known.into_iter().chain(["READONLY", "MASTERDOWN", "EXECABORT"]);
        let known = known.chain(["bytes of commands wait for replies", "UNBLOCKED"]);
        // NOSCRIPT: a write behind it has been executed while the node was to be told the script.
        let known = known.chain(["was lost", "NOSCRIPT"]);
        let is_small = self.profile.held_bytes < PEACEFUL.held_bytes;
        let known = known.chain(is_small.then_some("the transaction is too large"));
        assert!(
            known.into_iter().any(|known| error.contains(known)),
            "client {number} got '{error}' where {expected:?} was due"
        );
        self.clients[number].errors.push(error.to_owned());
        let mut refused = &expected;
        let mut next;
        // One error for all of it; it tries again.
        while let Expected::Confirmed(Confirmation { is_last: false, .. }) = refused {
            next = self.clients[number].waiting.pop_front().expect("the last of its topics");
            refused = &next;
        }
        let outcome = match error.contains("may have been executed") {
            true => Outcome::Unknown,
            false => Outcome::Refused,
        };
        self.settle(&expected, outcome);
    }

    /// Notes how a command ended that got no reply of its own.
    fn settle(&mut self, expected: &Expected, outcome: Outcome) {
        match expected {
            Expected::Written(ops) | Expected::Deleted(ops) | Expected::Values(ops) => {
                ops.iter().for_each(|op| self.history.ops[*op].outcome = outcome);
            }
            Expected::Number(op) | Expected::Value(op) | Expected::Tagged(_, op) => {
                self.history.ops[*op].outcome = outcome;
            }
            Expected::Exec(commands) => {
                commands.iter().for_each(|command| self.settle(command, outcome));
            }
            Expected::Pushed(token) => {
                self.history.pushed.insert(token.clone(), outcome);
            }
            Expected::Receivers(place) => {
                self.history.messages.published[*place].outcome = outcome;
            }
            Expected::Status(_)
            | Expected::Watching(_)
            | Expected::Echo(_)
            | Expected::Popped(_)
            | Expected::Hello
            | Expected::Scanned
            | Expected::Confirmed(_)
            | Expected::Count => {}
        }
    }
}
