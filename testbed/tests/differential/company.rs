//! Several clients at once: they wait for each other, hear of each other and spoil each other's
//! transactions.
//!
//! One acts after the other, each when the act before has had all its effects on both sides: then
//! who is served first is no matter of chance.

use std::time::Duration;

use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::RawClient;

use crate::grammar::{Comparison, Script, Step};
use crate::{Servers, difference};

const CLIENTS: usize = 5;
const ACTS: usize = 120;

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Company<'a> {
    servers: &'a Servers,
    /// The first never waits, so that the others may.
    members: Vec<Member>,
    /// Tells when the standalone server has done everything.
    observer: RawClient,
    /// Says how many clients wait at the node that owns the keys.
    node: redis::Connection,
    chance: Script,
}

/// A client of both.
struct Member {
    proxy: RawClient,
    redis: RawClient,
    script: Script,
    waits: bool,
}

impl<'a> Company<'a> {
    pub(crate) fn new(servers: &'a Servers, seed: u64) -> Self {
        let members = (0..CLIENTS).map(|number| {
            let protocol = 2 + (number % 2) as u8;
            let mut proxy = RawClient::connect(servers.envoy.addr()).unwrap();
            let mut redis = RawClient::connect(servers.standalone.addr()).unwrap();
            for client in [&mut proxy, &mut redis] {
                client.call(&["HELLO", &protocol.to_string()]).unwrap();
            }
            let script = Script::new(seed * CLIENTS as u64 + number as u64, protocol);
            Member { proxy, redis, script, waits: false }
        });
        // All clients wait for keys with this tag.
        let slot = redis::cmd("CLUSTER").arg(&["KEYSLOT", "{k}"]).clone();
        let mut any = servers.cluster.nodes()[0].connect().unwrap();
        let owner = servers.cluster.owner(slot.query(&mut any).unwrap()).unwrap();
        Self {
            members: members.collect(),
            observer: RawClient::connect(servers.standalone.addr()).unwrap(),
            node: owner.connect().unwrap(),
            chance: Script::new(!seed, 2),
            servers,
        }
    }

    pub(crate) fn first_difference(mut self) -> Option<String> {
        let mut done = Vec::new();
        for _ in 0..ACTS {
            let actor = self.chance.below(CLIENTS);
            if self.members[actor].waits {
                continue;
            }
            let step = self.members[actor].script.next_among_others(actor == 0);
            let found = self.act(actor, &step, &done);
            if found.is_some() {
                return found;
            }
            done.push(format!("{actor}: {}", step.shown));
        }
        let waiting = self.members.iter().filter(|member| member.waits).count();
        for member in self.members.iter_mut().filter(|member| !member.waits) {
            // Nothing has come that was not to come.
            let pong = member.proxy.call(&["PING", "the end"]).unwrap();
            if !pong.ends_with(b"the end\r\n") && pong != b"+QUEUED\r\n" {
                return Some(format!("a reply too many: {}", pong.escape_ascii()));
            }
        }
        drop(self.members);
        if waiting > 0 {
            wait_until_blocked(&mut self.node, 0).unwrap();
        }
        let _ = self.servers;
        None
    }

    /// Lets a client act, and compares what all of them get of it.
    fn act(&mut self, actor: usize, step: &Step, done: &[String]) -> Option<String> {
        self.members[actor].redis.send(&step.bytes).unwrap();
        let expected = self.settle();
        let waiting = |members: &[Member]| members.iter().filter(|member| member.waits).count();
        let before = waiting(&self.members);
        self.members[actor].proxy.send(&step.bytes).unwrap();
        self.members[actor].waits = true;
        for (number, (member, expected)) in self.members.iter_mut().zip(&expected).enumerate() {
            let got = expected.iter().map(|_| member.proxy.read().unwrap_or_default());
            let got: Vec<_> = got.collect();
            member.waits &= match number == actor {
                true => expected.is_empty(),
                // Somebody who waits may hear of something meanwhile.
                false => expected.iter().all(|frame| frame.starts_with(b">")),
            };
            // Which comes first, a message to oneself or the answer, differs in RESP3.
            let comparison = if number == actor { step.comparison } else { Comparison::Exact };
            for (got, expected) in replies_first(&got).iter().zip(replies_first(expected)) {
                if comparison.differs(got, expected) {
                    let done: Vec<_> = done.iter().map(String::as_str).collect();
                    let told = difference(step, got, expected, &done);
                    return Some(format!("client {number} of an act of {actor}: {told}"));
                }
            }
        }
        let after = waiting(&self.members);
        let waited = (after != before).then(|| wait_until_blocked(&mut self.node, after));
        let error = waited?.err()?;
        Some(format!("{actor}: {}: {error:#} after {done:?}", step.shown))
    }

    /// What each client gets from the standalone server, now that all effects have come about: the
    /// second answer is sent after everything that was due with the first.
    fn settle(&mut self) -> Vec<Vec<Vec<u8>>> {
        for _ in 0..2 {
            self.observer.call(&["PING"]).unwrap();
        }
        let all = self.members.iter_mut().map(|member| {
            let mut frames = Vec::new();
            while member.redis.has_input().unwrap() {
                frames.push(member.redis.read().unwrap());
            }
            frames
        });
        all.collect()
    }
}

fn replies_first(frames: &[Vec<u8>]) -> Vec<&[u8]> {
    let is_push = |frame: &&[u8]| frame.starts_with(b">");
    let (pushes, replies): (Vec<_>, Vec<_>) = frames.iter().map(Vec::as_slice).partition(is_push);
    [replies, pushes].concat()
}

/// Waits until so many clients wait at a node.
fn wait_until_blocked(node: &mut redis::Connection, count: usize) -> anyhow::Result<()> {
    until("clients to wait", PATIENCE, || {
        let info: redis::InfoDict = redis::cmd("INFO").arg("clients").query(node)?;
        let blocked: usize = info.get("blocked_clients").unwrap_or_default();
        Ok(if blocked == count {
            Probe::Ready(())
        } else {
            Probe::NotYet(format!("{blocked} instead of {count}"))
        })
    })
}
