//! What a node does with the commands of a connection.

use slotmesh_engine::resp::{Limits, Parsed, Protocol, RequestParser, encode};
use slotmesh_engine::{Instant, SLOTS, Slot};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::cluster::{Cluster, Health, LinkId, MIRROR, Value};
use super::listener::{Kind, Topic};
use super::script;

/// A node's end of a connection.
pub struct Peer {
    pub node: usize,
    /// When what it writes reaches its node's replica.
    pub lag: Duration,
    pub input: Vec<u8>,
    protocol: Protocol,
    readonly: bool,
    asking: bool,
    multi: Option<Multi>,
    /// Keys, and when they had been changed last.
    watched: Vec<(Vec<u8>, Option<u64>)>,
    blocked: Option<Blocked>,
    /// What it is subscribed to.
    topics: BTreeSet<Topic>,
}

#[derive(Default)]
struct Multi {
    queue: Vec<Command>,
    aborted: bool,
}

struct Blocked {
    since: Instant,
    until: Option<Instant>,
    key: Vec<u8>,
}

/// The words of a command.
pub type Command = Vec<Vec<u8>>;

impl Peer {
    pub fn new(node: usize, lag: Duration) -> Self {
        Self {
            node,
            lag,
            input: Vec::new(),
            protocol: Protocol::Resp2,
            readonly: false,
            asking: false,
            multi: None,
            watched: Vec::new(),
            blocked: None,
            topics: BTreeSet::new(),
        }
    }
}

impl Peer {
    /// Subscribes, or ends that, and confirms it.
    fn subscribe(&mut self, kind: Kind, command: &Command, out: &mut Vec<u8>) {
        let verb = command[0].to_ascii_lowercase();
        let topic = Topic::new(kind, &command[1]);
        if verb == kind.subscribe().as_bytes() {
            self.topics.insert(topic);
        } else {
            self.topics.remove(&topic);
        }
        let is_sharded = |kind| kind == Kind::ShardChannel;
        let alike = self.topics.iter().filter(|one| is_sharded(one.kind) == is_sharded(kind));
        encode::array_header(out, 3);
        encode::bulk(out, &verb);
        encode::bulk(out, &command[1]);
        encode::integer(out, alike.count() as i64);
    }
}

impl Cluster {
    /// Executes what a connection has brought, as far as its node is able to.
    pub fn run(&mut self, link: LinkId, now: Instant) {
        loop {
            let Some(peer) = self.peers.get_mut(&link) else { return };
            if self.nodes[peer.node].health != Health::Well || peer.blocked.is_some() {
                return;
            }
            let Some(command) = take_command(&mut peer.input) else { return };
            let node = peer.node;
            self.catch_up(node, now);
            let mut out = Vec::new();
            self.answer(link, command, now, &mut out);
            if !out.is_empty() {
                self.outbox.push((link, out));
            }
        }
    }

    fn answer(&mut self, link: LinkId, command: Command, now: Instant, out: &mut Vec<u8>) {
        let Some(peer) = self.peers.get_mut(&link) else { return };
        let node = peer.node;
        let asked = peer.asking;
        peer.asking &= peer.multi.is_some();
        match &command[0][..] {
            b"PING" if !peer.topics.is_empty() => encode::command(out, &[b"pong", b""]),
            b"PING" => encode::simple(out, b"PONG"),
            b"SUBSCRIBE" | b"UNSUBSCRIBE" => peer.subscribe(Kind::Channel, &command, out),
            b"PSUBSCRIBE" | b"PUNSUBSCRIBE" => peer.subscribe(Kind::Pattern, &command, out),
            b"ROLE" => {
                let is_replica = self.nodes[node].view.copies.contains_key(&node);
                encode::array_header(out, 1);
                encode::bulk(out, if is_replica { b"slave" } else { b"master" });
            }
            b"CLIENT" => encode::integer(out, 1),
            b"READONLY" => {
                peer.readonly = true;
                encode::simple(out, b"OK");
            }
            b"ASKING" => {
                peer.asking = true;
                encode::simple(out, b"OK");
            }
            b"HELLO" => {
                let version = if command[1] == b"3" { 3 } else { 2 };
                peer.protocol = if version == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
                encode::map_header(out, peer.protocol, 2);
                encode::bulk(out, b"version");
                encode::bulk(out, b"7.2.0");
                encode::bulk(out, b"proto");
                encode::integer(out, version);
            }
            b"CLUSTER" if command[1] == b"INFO" => {
                let epoch = self.nodes[node].view.epoch;
                encode::bulk(out, format!("cluster_current_epoch:{epoch}\r\n").as_bytes());
            }
            b"CLUSTER" if command[1] == b"MYID" => {
                encode::bulk(out, self.truth.ids[node].as_bytes());
            }
            b"CLUSTER" => {
                self.note_view_told();
                self.write_slots(node, now, out);
            }
            b"UNWATCH" => {
                peer.watched.clear();
                encode::simple(out, b"OK");
            }
            b"MULTI" => {
                peer.multi = Some(Multi::default());
                peer.asking = asked;
                encode::simple(out, b"OK");
            }
            b"EXEC" => self.execute_all(link, asked, now, out),
            _ => {
                if let Some(refusal) = self.refusal(link, &[&command], asked) {
                    let peer = self.peers.get_mut(&link).expect("a peer");
                    if let Some(multi) = &mut peer.multi {
                        multi.aborted = true;
                    }
                    return encode::error(out, refusal.as_bytes());
                }
                let peer = self.peers.get_mut(&link).expect("a peer");
                match &mut peer.multi {
                    Some(multi) => {
                        multi.queue.push(command);
                        encode::simple(out, b"QUEUED");
                    }
                    None => self.execute(link, &command, now, out),
                }
            }
        }
    }

    fn execute_all(&mut self, link: LinkId, asked: bool, now: Instant, out: &mut Vec<u8>) {
        let peer = self.peers.get_mut(&link).expect("a peer");
        let multi = peer.multi.take().expect("MULTI before EXEC");
        peer.asking = false;
        let watched = std::mem::take(&mut peer.watched);
        let (node, protocol) = (peer.node, peer.protocol);
        if multi.aborted {
            let text = b"EXECABORT Transaction discarded because of previous errors.";
            return encode::error(out, text);
        }
        let commands: Vec<_> = multi.queue.iter().collect();
        if let Some(refusal) = self.refusal(link, &commands, asked) {
            return encode::error(out, refusal.as_bytes());
        }
        let version = |key: &Vec<u8>| self.nodes[node].touched.get(key).copied();
        if watched.iter().any(|(key, before)| version(key) != *before) {
            return encode::null_array(out, protocol);
        }
        encode::array_header(out, multi.queue.len());
        for command in &multi.queue {
            self.execute(link, command, now, out);
        }
    }

    /// Why a node does not execute commands; `None` if it does.
    fn refusal(&mut self, link: LinkId, commands: &[&Command], asked: bool) -> Option<String> {
        let peer = &self.peers[&link];
        let (number, readonly) = (peer.node, peer.readonly);
        let deposed = self.truth.copies.contains_key(&number);
        let node = &mut self.nodes[number];
        if node.isolated && deposed {
            return Some("CLUSTERDOWN The cluster is down".to_owned());
        }
        if let Some(refusal) = node.refuse_once.take().or(node.refusal) {
            return Some(refusal.to_owned());
        }
        if number == MIRROR {
            return None;
        }
        let keys: Vec<_> = commands.iter().flat_map(|command| keys(command)).collect();
        let slot = Slot::of(keys.first()?).number();
        assert!(keys.iter().all(|key| Slot::of(key).number() == slot), "keys of several slots");
        // A shard channel is no key that could be elsewhere.
        let is_message = commands.iter().all(|command| is_sharded(command));
        let missing = keys.iter().filter(|key| !node.data.contains_key(**key)).count();
        let missing = if is_message { 0 } else { missing };
        let several = keys.iter().any(|key| *key != keys[0]);
        let owner = node.view.owners[usize::from(slot)];
        let try_again = "TRYAGAIN Multiple keys request during rehashing of slot".to_owned();
        if owner == number {
            let to = self.migrations.get(&slot).filter(|(from, _)| *from == number)?.1;
            return match missing {
                0 => None,
                _ if missing < keys.len() && several => Some(try_again),
                _ => Some(format!("ASK {slot} {}", node.view.addresses[to])),
            };
        }
        let importing = self.migrations.get(&slot).is_some_and(|(_, to)| *to == number);
        if importing && asked {
            return (several && missing > 0).then_some(try_again);
        }
        let reads = commands.iter().all(|command| is_read(command));
        if readonly && reads && node.view.copies.get(&number) == Some(&owner) {
            return None;
        }
        node.told = true;
        Some(format!("MOVED {slot} {}", node.view.addresses[owner]))
    }

    fn execute(&mut self, link: LinkId, command: &Command, now: Instant, out: &mut Vec<u8>) {
        let peer = &self.peers[&link];
        let (node, protocol, arrives) = (peer.node, peer.protocol, now + peer.lag);
        match &command[0][..] {
            b"GET" => self.write_text(node, &command[1], protocol, out),
            b"MGET" => {
                encode::array_header(out, command.len() - 1);
                for key in &command[1..] {
                    self.write_text(node, key, protocol, out);
                }
            }
            b"EVAL" | b"EVAL_RO" => {
                let digest = script::digest(&command[1]);
                self.nodes[node].scripts.insert(digest, command[1].clone());
                self.run_script(link, command, now, out);
            }
            b"EVALSHA" | b"EVALSHA_RO" => {
                match self.nodes[node].scripts.get(&command[1]).cloned() {
                    Some(body) => {
                        let name = command[0].clone();
                        let eval = [&[name, body][..], &command[2..]].concat();
                        self.run_script(link, &eval, now, out);
                    }
                    None => encode::error(out, b"NOSCRIPT No matching script. Please use EVAL."),
                }
            }
            b"SET" | b"MSET" => {
                for pair in command[1..].chunks(2) {
                    self.note(node, &pair[1]);
                    self.store(node, &pair[0], Some(Value::Text(pair[1].clone())), arrives);
                }
                encode::simple(out, b"OK");
            }
            b"DEL" => {
                let mut count = 0;
                for key in &command[1..] {
                    count += i64::from(self.nodes[node].data.contains_key(key));
                    self.store(node, key, None, arrives);
                }
                encode::integer(out, count);
            }
            b"INCR" => {
                let before = self.text(node, &command[1]).unwrap_or_else(|| b"0".to_vec());
                let number = std::str::from_utf8(&before).unwrap().parse::<i64>().unwrap() + 1;
                let value = Value::Text(number.to_string().into_bytes());
                self.store(node, &command[1], Some(value), arrives);
                encode::integer(out, number);
            }
            b"APPEND" => {
                let mut value = self.text(node, &command[1]).unwrap_or_default();
                value.extend_from_slice(&command[2]);
                encode::integer(out, value.len() as i64);
                self.note(node, &command[2]);
                self.store(node, &command[1], Some(Value::Text(value)), arrives);
            }
            b"RPUSH" => {
                let mut list = self.list(node, &command[1]);
                list.push_back(command[2].clone());
                encode::integer(out, list.len() as i64);
                self.note(node, &command[2]);
                self.store(node, &command[1], Some(Value::List(list)), arrives);
                self.serve_blocked(node, &command[1], now);
            }
            b"LPOP" => {
                let mut list = self.list(node, &command[1]);
                match list.pop_front() {
                    Some(element) => encode::bulk(out, &element),
                    None => encode::null(out, protocol),
                }
                let rest = (!list.is_empty()).then_some(Value::List(list));
                self.store(node, &command[1], rest, arrives);
            }
            b"SCAN" => self.scan(node, &command[1], out),
            b"SSUBSCRIBE" | b"SUNSUBSCRIBE" => {
                let peer = self.peers.get_mut(&link).expect("a peer");
                peer.subscribe(Kind::ShardChannel, command, out);
            }
            b"PUBLISH" => {
                self.nodes[node].published = Some(now);
                let heard = self.spread(node, &Topic::new(Kind::Channel, &command[1]), &command[2]);
                encode::integer(out, heard as i64);
            }
            b"SPUBLISH" => {
                let heard =
                    self.spread(node, &Topic::new(Kind::ShardChannel, &command[1]), &command[2]);
                encode::integer(out, heard as i64);
            }
            b"DBSIZE" => encode::integer(out, self.nodes[node].data.len() as i64),
            b"BLPOP" => {
                let seconds: f64 = std::str::from_utf8(&command[2]).unwrap().parse().unwrap();
                let until = (seconds > 0.0).then(|| now + Duration::from_secs_f64(seconds));
                let blocked = Blocked { since: now, until, key: command[1].clone() };
                self.peers.get_mut(&link).expect("a peer").blocked = Some(blocked);
                self.serve_blocked(node, &command[1], now);
            }
            b"WATCH" => {
                for key in &command[1..] {
                    let version = self.nodes[node].touched.get(key).copied();
                    let peer = self.peers.get_mut(&link).expect("a peer");
                    peer.watched.push((key.clone(), version));
                }
                encode::simple(out, b"OK");
            }
            name => panic!("the model does not know {}", name.escape_ascii()),
        }
    }

    /// Does what one of the scripts does that clients use.
    fn run_script(&mut self, link: LinkId, command: &Command, now: Instant, out: &mut Vec<u8>) {
        let (key, argument) = (&command[3], &command[4]);
        match &command[1][..] {
            script::READ => {
                let peer = &self.peers[&link];
                let (node, protocol) = (peer.node, peer.protocol);
                encode::array_header(out, 2);
                encode::bulk(out, argument);
                self.write_text(node, key, protocol, out);
            }
            script::APPEND => {
                let append = vec![b"APPEND".to_vec(), key.clone(), argument.clone()];
                self.execute(link, &append, now, out);
            }
            body => panic!("nobody uses the script {}", body.escape_ascii()),
        }
    }

    /// Sends a message to those who are subscribed, at all nodes that can be reached; returns how
    /// many these are at the node that it was published at.
    fn spread(&mut self, node: usize, channel: &Topic, text: &[u8]) -> usize {
        let alone = node == MIRROR || self.nodes[node].isolated;
        let mut heard = 0;
        for (link, peer) in &self.peers {
            let there = &self.nodes[peer.node];
            let is_far = channel.kind == Kind::ShardChannel && !self.share_a_shard(node, peer.node);
            let reached = !alone && !is_far && !there.isolated && there.health == Health::Well;
            let is_here = peer.node == node;
            // A channel's own name comes before patterns that fit it.
            for topic in peer.topics.iter().filter(|topic| topic.hears(channel)) {
                if !is_here && !reached {
                    continue;
                }
                let verb = topic.kind.message();
                let mut words = vec![verb.as_bytes(), &topic.name];
                if topic.kind == Kind::Pattern {
                    words.push(&channel.name);
                }
                words.push(text);
                let mut message = Vec::new();
                encode::command(&mut message, &words);
                self.outbox.push((*link, message));
                heard += usize::from(is_here);
            }
        }
        heard
    }

    /// Ends subscriptions to shard channels that a node does not own any more, and says so.
    pub fn revoke(&mut self, node: usize) {
        let owners = &self.nodes[node].view.owners;
        for (link, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.node == node) {
            let is_lost = |topic: &&Topic| {
                let slot = usize::from(Slot::of(&topic.name).number());
                topic.kind == Kind::ShardChannel && owners[slot] != node
            };
            for lost in peer.topics.iter().filter(is_lost).cloned().collect::<Vec<_>>() {
                let mut out = Vec::new();
                peer.subscribe(lost.kind, &vec![b"SUNSUBSCRIBE".to_vec(), lost.name], &mut out);
                self.outbox.push((*link, out));
            }
        }
    }

    /// Gives elements of a list to those who have waited longest.
    pub fn serve_blocked(&mut self, node: usize, key: &[u8], now: Instant) {
        loop {
            let mut list = self.list(node, key);
            let waits = |peer: &&mut Peer| {
                peer.node == node && peer.blocked.as_ref().is_some_and(|b| b.key == key)
            };
            let waiting = self.peers.iter_mut().filter(|(_, peer)| waits(peer));
            let first = waiting.min_by_key(|(_, peer)| peer.blocked.as_ref().map(|b| b.since));
            let (Some((link, peer)), Some(element)) = (first, list.pop_front()) else { return };
            peer.blocked = None;
            let (link, arrives) = (*link, now + peer.lag);
            let mut out = Vec::new();
            encode::command(&mut out, &[key, &element]);
            self.outbox.push((link, out));
            let rest = (!list.is_empty()).then_some(Value::List(list));
            self.store(node, key, rest, arrives);
            self.run(link, now);
        }
    }

    /// Tells those who wait for a list that their time is up.
    pub fn end_waits(&mut self, now: Instant) {
        let mut ended = Vec::new();
        for (link, peer) in &mut self.peers {
            let until = peer.blocked.as_ref().and_then(|blocked| blocked.until);
            if until.is_some_and(|until| until <= now)
                && self.nodes[peer.node].health == Health::Well
            {
                peer.blocked = None;
                let mut out = Vec::new();
                encode::null_array(&mut out, peer.protocol);
                self.outbox.push((*link, out));
                ended.push(*link);
            }
        }
        for link in ended {
            self.run(link, now);
        }
    }

    /// Sends those on who wait for what a node no longer owns.
    pub fn redirect_blocked(&mut self, node: usize) {
        for (link, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.node == node) {
            let Some(blocked) = &peer.blocked else { continue };
            let slot = Slot::of(&blocked.key).number();
            let owner = self.nodes[node].view.owners[usize::from(slot)];
            let imports = self.migrations.get(&slot).is_some_and(|(_, to)| *to == node);
            if owner == node || imports {
                continue;
            }
            peer.blocked = None;
            let mut out = Vec::new();
            let text = match self.nodes[node].view.copies.contains_key(&node) {
                true => "UNBLOCKED force unblock from blocking operation, instance state changed \
                         (master -> replica?)"
                    .to_owned(),
                false => format!("MOVED {slot} {}", self.nodes[node].view.addresses[owner]),
            };
            encode::error(&mut out, text.as_bytes());
            self.outbox.push((*link, out));
        }
    }

    fn text(&self, node: usize, key: &[u8]) -> Option<Vec<u8>> {
        match self.nodes[node].data.get(key)? {
            Value::Text(text) => Some(text.clone()),
            Value::List(_) => panic!("a list where a text was expected"),
        }
    }

    fn list(&self, node: usize, key: &[u8]) -> VecDeque<Vec<u8>> {
        match self.nodes[node].data.get(key) {
            Some(Value::List(list)) => list.clone(),
            _ => VecDeque::new(),
        }
    }

    fn write_text(&self, node: usize, key: &[u8], protocol: Protocol, out: &mut Vec<u8>) {
        match self.text(node, key) {
            Some(text) => encode::bulk(out, &text),
            None => encode::null(out, protocol),
        }
    }

    /// The next keys, in the order of numbers made of them, so that it does not matter which of the
    /// others come and go.
    fn scan(&self, node: usize, cursor: &[u8], out: &mut Vec<u8>) {
        const COUNT: usize = 3;
        let cursor: u32 = std::str::from_utf8(cursor).unwrap().parse().unwrap();
        let number = |key: &[u8]| {
            let mixed = key
                .iter()
                .fold(7_u32, |sum, byte| (sum ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
            1 + mixed % 1_000_000_007
        };
        let mut keys: Vec<_> = self.nodes[node].data.keys().map(|key| (number(key), key)).collect();
        keys.sort_unstable();
        keys.retain(|(number, _)| *number >= cursor);
        let next = keys.get(COUNT).map_or(0, |(number, _)| *number);
        keys.truncate(COUNT);
        encode::array_header(out, 2);
        encode::bulk(out, next.to_string().as_bytes());
        encode::array_header(out, keys.len());
        keys.iter().for_each(|(_, key)| encode::bulk(out, key));
    }

    fn write_slots(&self, node: usize, now: Instant, out: &mut Vec<u8>) {
        let view = &self.nodes[node].view;
        let starts = (0..SLOTS).filter(|at| *at == 0 || view.owners[*at] != view.owners[*at - 1]);
        let starts: Vec<_> = starts.collect();
        encode::array_header(out, starts.len());
        for (position, start) in starts.iter().enumerate() {
            let end = starts.get(position + 1).copied().unwrap_or(SLOTS) - 1;
            let owner = view.owners[*start];
            let copies = view.copies.iter().filter(|(_, of)| **of == owner).map(|(at, _)| *at);
            let nodes: Vec<_> = std::iter::once(owner).chain(copies).collect();
            encode::array_header(out, 2 + nodes.len());
            encode::integer(out, *start as i64);
            encode::integer(out, end as i64);
            for node in nodes {
                let address = match self.is_noticed(&view.addresses[node], now) {
                    true => ":0",
                    false => &view.addresses[node],
                };
                let (host, port) = address.rsplit_once(':').unwrap();
                encode::array_header(out, if self.tells_ids { 3 } else { 2 });
                encode::bulk(out, host.as_bytes());
                encode::integer(out, port.parse().unwrap());
                if self.tells_ids {
                    encode::bulk(out, view.ids[node].as_bytes());
                }
            }
        }
    }
}

/// Takes the first command out of what has come, if all of it has.
pub fn take_command(input: &mut Vec<u8>) -> Option<Command> {
    if input.is_empty() {
        return None;
    }
    let mut parser = RequestParser::default();
    let parsed = parser.parse(input, &Limits::default()).expect("the proxy sends commands");
    let Parsed::Command { len } = parsed else { return None };
    let mut command: Command = parser.frame(input).args().map(<[u8]>::to_vec).collect();
    command[0].make_ascii_uppercase();
    input.drain(..len);
    Some(command)
}

fn is_read(command: &Command) -> bool {
    [&b"GET"[..], b"MGET", b"EVAL_RO", b"EVALSHA_RO"].contains(&&command[0][..])
}

fn is_sharded(command: &Command) -> bool {
    [&b"SSUBSCRIBE"[..], b"SUNSUBSCRIBE", b"SPUBLISH"].contains(&&command[0][..])
}

fn keys(command: &Command) -> Vec<&Vec<u8>> {
    match &command[0][..] {
        b"MGET" | b"DEL" | b"WATCH" => command[1..].iter().collect(),
        b"MSET" => command[1..].iter().step_by(2).collect(),
        b"EVAL" | b"EVALSHA" | b"EVAL_RO" | b"EVALSHA_RO" => vec![&command[3]],
        b"SCAN" | b"PUBLISH" => Vec::new(),
        _ => command.get(1).into_iter().collect(),
    }
}
