//! Clients that listen to channels, patterns and shard channels, and what they must hear.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redis::{PushKind, Value};
use slotmesh_engine::Instant;
use slotmesh_engine::resp::{Protocol, encode};

use super::client::Expected;
use super::history::Outcome;
use super::workload::Keys;
use super::world::{Event, World};

/// Channels that clients use.
pub const CHANNELS: [&[u8]; 3] = [b"news", b"sports", b"weather"];
/// Patterns that fit them, several of them the same.
const PATTERNS: [&[u8]; 3] = [b"*s", b"n*", b"w*"];

/// A message takes another way than what its publisher is told, and may come so much later.
const BEHIND: Duration = Duration::from_millis(50);

/// What can be listened to.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    Channel,
    Pattern,
    ShardChannel,
}

/// Something of this kind.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Topic {
    pub kind: Kind,
    pub name: Vec<u8>,
}

/// All that was published, and what was heard of it.
#[derive(Default)]
pub struct Messages {
    /// In the order in which each client asked.
    pub published: Vec<Published>,
    /// By the listener's connection.
    listeners: BTreeMap<usize, Listener>,
}

pub struct Published {
    /// The client's connection.
    pub session: usize,
    /// The channel or shard channel.
    pub topic: Topic,
    pub text: Vec<u8>,
    pub called: Instant,
    pub outcome: Outcome,
}

/// What a connection has listened to.
#[derive(Default)]
struct Listener {
    subscribed: BTreeSet<Topic>,
    spans: Vec<Span>,
    /// In the order in which it heard them: by which topic, and what.
    heard: Vec<(Topic, Topic, Vec<u8>)>,
}

/// A time of listening.
struct Span {
    topic: Topic,
    /// When it was confirmed.
    since: Instant,
    /// When its end was asked for.
    until: Option<Instant>,
}

/// What is due for each topic of a command that subscribes or ends that.
#[derive(Clone, Debug)]
pub struct Confirmation {
    pub topic: Topic,
    pub subscribes: bool,
    /// An error would stand for all of them up to this one.
    pub is_last: bool,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Channel, Self::Pattern, Self::ShardChannel];

    /// The letter before the names of its commands and messages.
    fn letter(self) -> &'static str {
        match self {
            Self::Channel => "",
            Self::Pattern => "p",
            Self::ShardChannel => "s",
        }
    }

    pub fn subscribe(self) -> String {
        format!("{}subscribe", self.letter())
    }

    pub fn unsubscribe(self) -> String {
        format!("{}unsubscribe", self.letter())
    }

    pub fn message(self) -> String {
        format!("{}message", self.letter())
    }
}

impl Topic {
    pub fn new(kind: Kind, name: &[u8]) -> Self {
        Self { kind, name: name.to_vec() }
    }

    /// Whether what is published there is heard here.
    pub fn hears(&self, published: &Self) -> bool {
        match (self.kind, published.kind, &self.name[..]) {
            (Kind::Pattern, Kind::Channel, [b'*', end @ ..]) => published.name.ends_with(end),
            (Kind::Pattern, Kind::Channel, [start @ .., b'*']) => published.name.starts_with(start),
            _ => self == published,
        }
    }

    /// All topics of a world.
    fn all(keys: &Keys) -> Vec<Self> {
        let channels = CHANNELS.iter().map(|name| Self::new(Kind::Channel, name));
        let patterns = PATTERNS.iter().map(|name| Self::new(Kind::Pattern, name));
        channels.chain(patterns).chain(keys.shard_channels()).collect()
    }
}

impl World {
    /// A client that has nothing else to do begins to listen to some topics and ends that for
    /// others; to all in the end.
    pub fn listen(&mut self, number: usize) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        let client = &mut self.clients[number];
        let (session, is_end) = (client.number, client.left == 1);
        let listener = self.history.messages.listeners.entry(session).or_default();
        // Half of them speak RESP3.
        let may_greet = client.protocol == Protocol::Resp2 && listener.subscribed.is_empty();
        if number.is_multiple_of(2) && may_greet {
            encode::command(&mut bytes, &[b"HELLO", b"3"]);
            expected.push(Expected::Hello);
        }
        let topics = Topic::all(&client.keys);
        for kind in Kind::ALL {
            let (rng, there) = (&mut self.rng, |topic: &Topic| listener.subscribed.contains(topic));
            let of_kind = topics.iter().filter(|topic| topic.kind == kind);
            let (old, new): (Vec<_>, Vec<_>) = of_kind.cloned().partition(there);
            let begun: Vec<_> = new.into_iter().filter(|_| is_end || rng.bool()).collect();
            let ended: Vec<_> = old.into_iter().filter(|_| !is_end && rng.u8(..4) == 0).collect();
            for span in listener.spans.iter_mut().filter(|span| ended.contains(&span.topic)) {
                span.until.get_or_insert(self.now);
            }
            let verbs = [(true, kind.subscribe(), begun), (false, kind.unsubscribe(), ended)];
            for (subscribes, verb, topics) in verbs {
                let names = topics.iter().map(|topic| &topic.name[..]);
                let words: Vec<_> = std::iter::once(verb.as_bytes()).chain(names).collect();
                if words.len() > 1 {
                    encode::command(&mut bytes, &words);
                }
                let last = topics.len().saturating_sub(1);
                expected.extend(topics.into_iter().enumerate().map(|(place, topic)| {
                    Expected::Confirmed(Confirmation { topic, subscribes, is_last: place == last })
                }));
            }
        }
        if is_end && expected.is_empty() {
            client.left = 0;
            return;
        }
        client.left -= usize::from(!is_end);
        if expected.is_empty() {
            let pause = self.up_to(Duration::from_millis(50));
            return self.after(pause, Event::Act(number));
        }
        if self.rng.u8(..100) < 2 {
            let wait = self.up_to(Duration::from_millis(20));
            self.after(wait, Event::Leave(number, session));
        }
        self.send(number, bytes, expected);
    }

    /// Notes that a client publishes something.
    pub fn publish(&mut self, number: usize, topic: Topic, text: &[u8]) -> Expected {
        let published = &mut self.history.messages.published;
        published.push(Published {
            session: self.clients[number].number,
            topic,
            text: text.to_vec(),
            called: self.now,
            outcome: Outcome::Unknown,
        });
        Expected::Receivers(published.len() - 1)
    }

    /// Takes in a message; returns whether it was one.
    pub fn take_message(&mut self, number: usize, value: &Value) -> bool {
        let session = self.clients[number].number;
        let (kind, words) = match value {
            Value::Array(words) => match &words[..] {
                [Value::BulkString(word), rest @ ..] => {
                    let kind = Kind::ALL.into_iter().find(|kind| kind.message().as_bytes() == word);
                    let Some(kind) = kind else { return false };
                    (kind, rest)
                }
                _ => return false,
            },
            Value::Push { kind: PushKind::Message, data } => (Kind::Channel, &data[..]),
            Value::Push { kind: PushKind::PMessage, data } => (Kind::Pattern, &data[..]),
            Value::Push { kind: PushKind::SMessage, data } => (Kind::ShardChannel, &data[..]),
            _ => return false,
        };
        let [Value::BulkString(name), .., Value::BulkString(text)] = words else {
            panic!("client {number} got {value:?}")
        };
        let topic = Topic::new(kind, name);
        let channel = match (kind, words) {
            (Kind::Pattern, [_, Value::BulkString(channel), _]) => {
                Topic::new(Kind::Channel, channel)
            }
            (Kind::Channel | Kind::ShardChannel, [_, _]) => topic.clone(),
            _ => panic!("client {number} got {value:?}"),
        };
        let listener = self.history.messages.listeners.entry(session).or_default();
        assert!(listener.subscribed.contains(&topic), "client {number} does not listen: {value:?}");
        listener.heard.push((topic, channel, text.clone()));
        true
    }

    /// Takes in a confirmation; returns whether it is the one that is due.
    pub fn note_confirmed(&mut self, number: usize, due: &Confirmation, value: &Value) -> bool {
        let Confirmation { topic, subscribes, .. } = due;
        let session = self.clients[number].number;
        let listener = self.history.messages.listeners.entry(session).or_default();
        if *subscribes {
            listener.subscribed.insert(topic.clone());
            listener.spans.push(Span { topic: topic.clone(), since: self.now, until: None });
        } else {
            listener.subscribed.remove(topic);
        }
        let is_sharded = |topic: &Topic| topic.kind == Kind::ShardChannel;
        let alike = listener.subscribed.iter().filter(|one| is_sharded(one) == is_sharded(topic));
        let rest = [Value::BulkString(topic.name.clone()), Value::Int(alike.count() as i64)];
        let verb = if *subscribes { topic.kind.subscribe() } else { topic.kind.unsubscribe() };
        match value {
            Value::Array(words) => {
                words.first() == Some(&Value::BulkString(verb.into_bytes())) && words[1..] == rest
            }
            Value::Push { kind, data } => kind.to_string() == verb && data[..] == rest,
            _ => false,
        }
    }
}

impl Messages {
    /// A client's connection has gone.
    pub fn end(&mut self, session: usize, now: Instant) {
        let Some(listener) = self.listeners.get_mut(&session) else { return };
        for span in &mut listener.spans {
            span.until.get_or_insert(now);
        }
    }

    /// Panics when listeners heard what they should not, or, in peace, not all of what they should.
    pub fn check(&self, in_peace: bool) {
        for (session, listener) in &self.listeners {
            self.check_heard(*session, &listener.heard);
            if in_peace {
                self.check_complete(*session, listener);
            }
        }
    }

    /// Nothing is heard that was not published, nothing twice, and what one client has published,
    /// and knows of, in its order: over all channels, or on one shard channel.
    fn check_heard(&self, session: usize, heard: &[(Topic, Topic, Vec<u8>)]) {
        let mut seen = BTreeSet::new();
        let mut last = BTreeMap::new();
        for (topic, channel, text) in heard {
            let name = text.escape_ascii();
            let place = self.published.iter().position(|one| one.text == *text);
            let place = place.unwrap_or_else(|| panic!("nobody has published {name}"));
            let published = &self.published[place];
            assert_eq!(published.topic, *channel, "{name} came by another channel");
            assert!(topic.hears(channel), "{name} came by {topic:?}");
            assert!(published.outcome != Outcome::Refused, "{name} was refused, and heard");
            assert!(seen.insert((place, topic)), "{session} has heard {name} twice by {topic:?}");
            if published.outcome == Outcome::Unknown {
                // Its publisher was told so: a node that was stopped may send it when it wakes up.
                continue;
            }
            let line = (channel.kind == Kind::ShardChannel).then_some(channel);
            let before = last.insert((published.session, line), place);
            assert!(before <= Some(place), "{session} has heard {name} after a later message");
        }
    }

    /// All is heard that was published between a confirmation and the end of listening.
    fn check_complete(&self, session: usize, listener: &Listener) {
        let heard: BTreeSet<_> =
            listener.heard.iter().map(|(topic, _, text)| (topic, &text[..])).collect();
        for Span { topic, since, until } in &listener.spans {
            for published in self.published.iter().filter(|one| topic.hears(&one.topic)) {
                let Outcome::Done(at) = published.outcome else { continue };
                let is_early = until.is_none_or(|until| at + BEHIND < until);
                let is_due = *since <= published.called && is_early;
                let name = published.text.escape_ascii();
                let was_heard = heard.contains(&(topic, &published.text[..]));
                assert!(!is_due || was_heard, "{session} has not heard {name} by {topic:?}");
            }
        }
    }
}
