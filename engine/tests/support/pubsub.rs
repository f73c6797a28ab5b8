//! What a model of a Redis Cluster knows of publish and subscribe.

use std::collections::BTreeSet;

use slotmesh_engine::resp::{RequestFrame, encode};

/// What a connection is subscribed to, by the command that did it.
#[derive(Clone, Default)]
pub struct Topics(BTreeSet<(String, Vec<u8>)>);

/// Published messages on their way to the connections, and who listens.
#[derive(Default)]
pub struct Board {
    published: Vec<Message>,
    /// Every connection: the address of its node, and its topics.
    pub listeners: Vec<(String, Topics)>,
}

/// Something published.
pub struct Message {
    /// The only node that hears of it, for a shard channel.
    node: Option<String>,
    channel: Vec<u8>,
    payload: Vec<u8>,
}

/// Whether the first argument of a command is no key.
pub fn is_keyless(name: &[u8]) -> bool {
    [&b"SUBSCRIBE"[..], b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"PUBLISH", b"PUBSUB"]
        .contains(&name)
}

impl Topics {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends subscriptions to shard channels whose slot is not served any more.
    pub fn revoke(&mut self, is_served: impl Fn(&[u8]) -> bool, out: &mut Vec<u8>) {
        let is_lost =
            |(verb, name): &&(String, Vec<u8>)| verb == "SSUBSCRIBE" && !is_served(name.as_slice());
        for lost in self.0.iter().filter(is_lost).cloned().collect::<Vec<_>>() {
            self.0.remove(&lost);
            confirm(out, b"sunsubscribe", &lost.1, self.count("SSUBSCRIBE"));
        }
    }

    fn has(&self, verb: &str, name: &[u8]) -> bool {
        self.0.contains(&(verb.to_owned(), name.to_vec()))
    }

    fn count(&self, verb: &str) -> usize {
        let sharded = verb.starts_with('S') && verb.ends_with("SSUBSCRIBE");
        self.0.iter().filter(|(verb, _)| (verb == "SSUBSCRIBE") == sharded).count()
    }
}

impl Board {
    /// Runs a command about messages; returns whether it was one.
    pub fn run(
        &mut self,
        node: &str,
        name: &[u8],
        frame: &RequestFrame<'_>,
        topics: &mut Topics,
        out: &mut Vec<u8>,
    ) -> bool {
        let verb = String::from_utf8_lossy(name).into_owned();
        let topic = frame.arg(1).unwrap_or_default().to_vec();
        match name {
            b"SUBSCRIBE" | b"PSUBSCRIBE" | b"SSUBSCRIBE" => {
                topics.0.insert((verb.clone(), topic.clone()));
                confirm(out, verb.to_lowercase().as_bytes(), &topic, topics.count(&verb));
            }
            b"UNSUBSCRIBE" | b"PUNSUBSCRIBE" | b"SUNSUBSCRIBE" => {
                let begun = verb.replace("UNSUB", "SUB");
                topics.0.remove(&(begun.clone(), topic.clone()));
                confirm(out, verb.to_lowercase().as_bytes(), &topic, topics.count(&begun));
            }
            b"PUBLISH" | b"SPUBLISH" => {
                let message = Message {
                    node: (name == b"SPUBLISH").then(|| node.to_owned()),
                    channel: topic,
                    payload: frame.arg(2).unwrap_or_default().to_vec(),
                };
                let heard = self.listeners.iter().filter(|(address, _)| address == node);
                let heard = heard.map(|(address, topics)| message.heard(address, topics).len());
                encode::integer(out, heard.sum::<usize>() as i64);
                self.published.push(message);
            }
            b"PUBSUB" => self.introspect(node, frame, out),
            _ => return false,
        }
        true
    }

    /// What a node tells of its own subscribers.
    fn introspect(&self, node: &str, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let verb = match String::from_utf8_lossy(frame.arg(1).unwrap()).to_uppercase().as_str() {
            "NUMPAT" => "PSUBSCRIBE",
            word if word.starts_with("SHARD") => "SSUBSCRIBE",
            _ => "SUBSCRIBE",
        };
        let here = self.listeners.iter().filter(|(address, _)| address == node);
        let names: Vec<_> = here
            .flat_map(|(_, topics)| topics.0.iter())
            .filter(|(kind, _)| kind == verb)
            .map(|(_, name)| &name[..])
            .collect();
        let different: BTreeSet<_> = names.iter().copied().collect();
        match frame.arg(1).unwrap() {
            b"NUMPAT" => encode::integer(out, different.len() as i64),
            b"NUMSUB" | b"SHARDNUMSUB" => {
                encode::array_header(out, 2 * (frame.len() - 2));
                for name in frame.args().skip(2) {
                    encode::bulk(out, name);
                    let count = names.iter().filter(|other| **other == name).count();
                    encode::integer(out, count as i64);
                }
            }
            _ => {
                encode::array_header(out, different.len());
                different.iter().for_each(|name| encode::bulk(out, name));
            }
        }
    }

    pub fn take_published(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.published)
    }
}

impl Message {
    /// Writes what a connection to a node gets of it.
    pub fn write_for(&self, node: &str, topics: &Topics, out: &mut Vec<u8>) {
        for pattern in self.heard(node, topics) {
            let words: Vec<&[u8]> = match (&pattern, &self.node) {
                (Some(pattern), _) => vec![b"pmessage", pattern, &self.channel, &self.payload],
                (None, None) => vec![b"message", &self.channel, &self.payload],
                (None, Some(_)) => vec![b"smessage", &self.channel, &self.payload],
            };
            encode::command(out, &words);
        }
    }

    /// By which topics a connection hears of it: the pattern, or the channel itself. Patterns here
    /// end in a star and have no other.
    fn heard(&self, node: &str, topics: &Topics) -> Vec<Option<Vec<u8>>> {
        if let Some(only) = &self.node {
            let hears = only == node && topics.has("SSUBSCRIBE", &self.channel);
            return if hears { vec![None] } else { Vec::new() };
        }
        let channel = topics.has("SUBSCRIBE", &self.channel).then_some(None);
        let patterns = topics.0.iter().filter(|(verb, pattern)| {
            let start = pattern.strip_suffix(b"*").unwrap_or(pattern);
            verb == "PSUBSCRIBE" && self.channel.starts_with(start)
        });
        channel.into_iter().chain(patterns.map(|(_, pattern)| Some(pattern.clone()))).collect()
    }
}

fn confirm(out: &mut Vec<u8>, verb: &[u8], name: &[u8], count: usize) {
    encode::array_header(out, 3);
    encode::bulk(out, verb);
    encode::bulk(out, name);
    encode::integer(out, count as i64);
}
