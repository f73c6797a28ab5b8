//! Clients that listen to channels, and what they must hear.

use std::collections::{BTreeMap, BTreeSet};

use redis::Value;
use slotmesh_engine::Instant;
use slotmesh_engine::resp::{Protocol, encode};

use super::client::Expected;
use super::history::Outcome;
use super::world::World;

/// Channels that clients use.
pub const CHANNELS: [&[u8]; 3] = [b"news", b"sports", b"weather"];

/// All that was published, and what was heard of it.
#[derive(Default)]
pub struct Messages {
    /// In the order in which each client asked.
    pub published: Vec<Published>,
    /// By the listener's connection, in the order in which it heard them.
    heard: BTreeMap<usize, Vec<Heard>>,
    /// Since when a connection is subscribed to all channels.
    since: BTreeMap<usize, Instant>,
}

pub struct Published {
    /// The client's connection.
    pub session: usize,
    pub channel: Vec<u8>,
    pub text: Vec<u8>,
    pub called: Instant,
    pub outcome: Outcome,
}

struct Heard {
    channel: Vec<u8>,
    text: Vec<u8>,
}

impl World {
    /// A client that has nothing else to do subscribes to all channels.
    pub fn listen(&mut self, number: usize) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        // Half of them speak RESP3.
        if number.is_multiple_of(2) && self.clients[number].protocol == Protocol::Resp2 {
            encode::command(&mut bytes, &[b"HELLO", b"3"]);
            expected.push(Expected::Hello);
        }
        encode::command(&mut bytes, &[&[b"SUBSCRIBE".as_slice()], &CHANNELS[..]].concat());
        expected.extend((1..=CHANNELS.len()).map(Expected::Subscribed));
        self.send(number, bytes, expected);
    }

    /// Notes that a client publishes something.
    pub fn publish(&mut self, number: usize, channel: &[u8], text: &[u8]) -> Expected {
        let published = &mut self.history.messages.published;
        published.push(Published {
            session: self.clients[number].number,
            channel: channel.to_vec(),
            text: text.to_vec(),
            called: self.now,
            outcome: Outcome::Unknown,
        });
        Expected::Receivers(published.len() - 1)
    }

    /// Takes in a message; returns whether it was one.
    pub fn take_message(&mut self, number: usize, value: &Value) -> bool {
        let session = self.clients[number].number;
        let words = match value {
            Value::Array(words) => words,
            Value::Push { data, .. } => data,
            _ => return false,
        };
        let message = match (value, &words[..]) {
            (Value::Array(_), [Value::BulkString(kind), channel, text]) if kind == b"message" => {
                (channel, text)
            }
            (Value::Push { kind: redis::PushKind::Message, .. }, [channel, text]) => {
                (channel, text)
            }
            _ => return false,
        };
        let (Value::BulkString(channel), Value::BulkString(text)) = message else {
            panic!("client {number} got {value:?}")
        };
        let heard = self.history.messages.heard.entry(session).or_default();
        heard.push(Heard { channel: channel.clone(), text: text.clone() });
        true
    }

    /// A confirmation has come: that of the last channel makes it complete.
    pub fn note_subscribed(&mut self, number: usize, place: usize, value: &Value) -> bool {
        let words = match value {
            Value::Array(words) => &words[1..],
            Value::Push { kind: redis::PushKind::Subscribe, data } => data,
            _ => return false,
        };
        let channel = CHANNELS[place - 1].to_vec();
        if place == CHANNELS.len() {
            let session = self.clients[number].number;
            self.history.messages.since.insert(session, self.now);
            self.clients[number].left = 0;
        }
        *words == [Value::BulkString(channel), Value::Int(place as i64)]
    }
}

impl Messages {
    /// Panics when listeners heard what they should not, or, in peace, not all of what they should.
    pub fn check(&self, in_peace: bool) {
        for (session, heard) in &self.heard {
            self.check_heard(*session, heard);
        }
        for (session, since) in self.since.iter().filter(|_| in_peace) {
            let heard = self.heard.get(session).map_or(&[][..], Vec::as_slice);
            let heard: BTreeSet<_> = heard.iter().map(|heard| &heard.text).collect();
            let due = self.published.iter().filter(|published| {
                matches!(published.outcome, Outcome::Done(_)) && *since <= published.called
            });
            for Published { text, .. } in due {
                assert!(heard.contains(text), "{session} has not heard {}", text.escape_ascii());
            }
        }
    }

    /// Nothing is heard that was not published, nothing twice, and what one client published in its
    /// order.
    fn check_heard(&self, session: usize, heard: &[Heard]) {
        let mut seen = BTreeSet::new();
        let mut last = BTreeMap::new();
        for Heard { channel, text } in heard {
            let name = text.escape_ascii();
            let place = self.published.iter().position(|one| one.text == *text);
            let place = place.unwrap_or_else(|| panic!("nobody has published {name}"));
            let published = &self.published[place];
            assert_eq!(published.channel, *channel, "{name} came by another channel");
            assert!(published.outcome != Outcome::Refused, "{name} was refused, and heard");
            assert!(seen.insert(place), "{session} has heard {name} twice");
            let before = last.insert(published.session, place);
            assert!(before < Some(place), "{session} has heard {name} after a later message");
        }
    }
}
