//! A model of a Redis Cluster: enough commands to see where they went and what they did.

use std::collections::{BTreeMap, BTreeSet};

use slotmesh_engine::Slot;
use slotmesh_engine::resp::{Limits, Parsed, Protocol, RequestFrame, RequestParser, encode};

use super::acl::{Account, Acl};
use super::pubsub::{Board, Topics};
use super::tracking::{Change, Tracker};

/// What a node does with connections.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    /// Accepts and answers.
    Well,
    /// Accepts and keeps what it gets for later.
    Silent,
    /// Refuses connections.
    Refusing,
    /// Neither accepts nor refuses.
    Unreachable,
}

/// A node's end of a connection.
#[derive(Default)]
pub struct Peer {
    pub input: Vec<u8>,
    pub output: Vec<u8>,
    protocol: Protocol,
    asking: bool,
    readonly: bool,
    authenticated: bool,
    /// What came since MULTI.
    multi: Option<Multi>,
    /// Keys with the values they had.
    watched: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// A command that waits.
    blocked: Option<Vec<u8>>,
    /// As whom it is known.
    account: Account,
    /// What the connection is subscribed to.
    pub topics: Topics,
    /// What the node tracks by it.
    pub tracker: Tracker,
}

#[derive(Default)]
struct Multi {
    asked: bool,
    queue: Vec<Vec<u8>>,
    aborted: bool,
    /// What the connection is subscribed to.
    pub topics: Topics,
}

/// Nodes `node-0:1`, `node-1:1`, ... that share the slots evenly.
pub struct FakeCluster {
    /// Replicas and their primaries, as indices into `nodes`. They have what their primary has.
    pub replicas: BTreeMap<usize, usize>,
    /// Nodes, by address, that have too many clients.
    pub full: BTreeSet<String>,
    /// What AUTH has to say before anything else is answered.
    pub password: Option<String>,
    /// Users and databases.
    pub acl: Acl,
    /// What INFO says of some nodes' zones, by address.
    pub zones: BTreeMap<String, String>,
    /// The node, by index, whose address the others do not know any more.
    pub placeless: Option<usize>,
    /// What nodes answer to CLUSTER MYID instead of their id.
    pub myid_error: Option<String>,
    /// Every command needs no slot to be served here, and there is no topology.
    pub standalone: bool,
    /// The owner of each slot, as an index into `nodes`.
    pub owners: Vec<usize>,
    /// Slots on their way, to the node that imports them.
    pub migrating: BTreeMap<u16, usize>,
    /// Errors that a node answers to whatever comes, by address.
    pub errors: BTreeMap<String, String>,
    /// Commands that may block do so for ever.
    pub blocking: bool,
    /// An error that the next command gets, whichever node it reaches.
    pub refuse_once: Option<String>,
    /// How many more commands a node answers before it falls silent, by address.
    pub patience: BTreeMap<String, usize>,
    /// Every command but the connections' own, as `address: words`.
    pub executed: Vec<String>,
    /// Who some nodes, by address, still believe to own the slots.
    pub stale: BTreeMap<String, Vec<usize>>,
    /// Whom those nodes still believe to be replicas; `None`: they know.
    stale_replicas: Option<BTreeMap<usize, usize>>,
    /// What HELLO reports.
    pub version: String,
    /// What has been published and who listens.
    pub board: Board,
    /// The connection that CLIENT UNBLOCK has named, and whether its command fails.
    pub unblocked: Option<(i64, bool)>,
    /// Changes at the node that has just executed something.
    pub changes: Vec<Change>,
    nodes: Vec<Node>,
}

struct Node {
    address: String,
    /// What it calls itself.
    id: String,
    health: Health,
    data: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Digests of the scripts it knows.
    scripts: BTreeSet<String>,
}

impl FakeCluster {
    pub fn new(primaries: usize) -> Self {
        Self::named("node", primaries)
    }

    /// One server that is no cluster.
    pub fn standalone(name: &str) -> Self {
        Self { standalone: true, ..Self::named(name, 1) }
    }

    /// Nodes with another name than `node`.
    pub fn named(name: &str, primaries: usize) -> Self {
        let owners = (0..16_384).map(|slot| slot * primaries / 16_384).collect();
        let nodes = (0..primaries).map(|index| Node::new(format!("{name}-{index}:1"))).collect();
        Self {
            replicas: BTreeMap::new(),
            full: BTreeSet::new(),
            password: None,
            acl: Acl::default(),
            zones: BTreeMap::new(),
            placeless: None,
            myid_error: None,
            standalone: false,
            owners,
            migrating: BTreeMap::new(),
            errors: BTreeMap::new(),
            blocking: false,
            refuse_once: None,
            patience: BTreeMap::new(),
            executed: Vec::new(),
            stale: BTreeMap::new(),
            stale_replicas: None,
            version: "7.0.15".to_owned(),
            board: Board::default(),
            unblocked: None,
            changes: Vec::new(),
            nodes,
        }
    }

    /// Adds a node without slots; returns its index.
    pub fn add_node(&mut self, address: &str) -> usize {
        self.nodes.push(Node::new(address.to_owned()));
        self.nodes.len() - 1
    }

    /// Adds a replica of the node at index `primary`; returns its own index.
    pub fn add_replica(&mut self, primary: usize, address: &str) -> usize {
        let replica = self.add_node(address);
        self.replicas.insert(replica, primary);
        replica
    }

    /// A replica takes the place of its primary. Whoever has a stale view still takes it for one.
    pub fn promote(&mut self, replica: usize) {
        let primary = self.replicas[&replica];
        for owner in self.owners.iter_mut().filter(|owner| **owner == primary) {
            *owner = replica;
        }
        self.nodes[replica].data = std::mem::take(&mut self.nodes[primary].data);
    }

    /// A primary gives its role to its replica and serves as a replica from then on, as CLUSTER
    /// FAILOVER does it.
    pub fn hand_over(&mut self, replica: usize) {
        self.promote(replica);
        if let Some(primary) = self.replicas.remove(&replica) {
            self.replicas.insert(primary, replica);
        }
    }

    /// No node hears of what changes from now on, until it is taken out of `stale`.
    pub fn freeze_views(&mut self) {
        let frozen = self.nodes.iter().map(|node| (node.address.clone(), self.owners.clone()));
        self.stale = frozen.collect();
        self.stale_replicas = Some(self.replicas.clone());
    }

    /// A node answers at another address from now on.
    pub fn rename(&mut self, node: usize, address: &str) {
        self.nodes[node].address = address.to_owned();
    }

    /// A node has lost its configuration and calls itself something else.
    pub fn set_id(&mut self, address: &str, id: &str) {
        let node = self.nodes.iter_mut().find(|node| node.address == address);
        node.expect("a node").id = id.to_owned();
    }

    /// Whether a node of this address belongs to the cluster.
    pub fn has(&self, address: &str) -> bool {
        self.nodes.iter().any(|node| node.address == address)
    }

    /// The address of the node that owns a key.
    pub fn owner(&self, key: &str) -> String {
        self.nodes[self.owners[slot(key.as_bytes())]].address.clone()
    }

    /// A node that does not own a key.
    pub fn other_than(&self, key: &str) -> usize {
        (self.owners[slot(key.as_bytes())] + 1) % self.nodes.len()
    }

    /// Moves a key's slot with its data.
    pub fn move_slot(&mut self, key: &str, to: usize) {
        let slot = slot(key.as_bytes());
        let from = std::mem::replace(&mut self.owners[slot], to);
        let data = std::mem::take(&mut self.nodes[from].data);
        for (key, value) in data {
            let owner = if self::slot(&key) == slot { to } else { from };
            self.nodes[owner].data.insert(key, value);
        }
    }

    /// Whether a node owns the slot of a shard channel.
    pub fn owns(&self, address: &str, channel: &[u8]) -> bool {
        self.nodes[self.owners[slot(channel)]].address == address
    }

    pub fn health(&self, address: &str) -> Health {
        self.nodes
            .iter()
            .find(|node| node.address == address)
            .map_or(Health::Refusing, |node| node.health)
    }

    pub fn set_health(&mut self, address: &str, health: Health) {
        self.nodes.iter_mut().find(|node| node.address == address).unwrap().health = health;
    }

    pub fn set_all_healths(&mut self, health: Health) {
        for node in &mut self.nodes {
            node.health = health;
        }
    }

    /// As if all nodes had been started anew, with their data.
    pub fn forget_scripts(&mut self) {
        self.nodes.iter_mut().for_each(|node| node.scripts.clear());
    }

    /// The value of a key, wherever it lies.
    pub fn value(&self, key: &str) -> Option<String> {
        let value = self.nodes.iter().find_map(|node| node.data.get(key.as_bytes()))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Lets a node answer so many commands and then fall silent.
    pub fn answer_only(&mut self, address: &str, commands: usize) {
        self.set_health(address, Health::Well);
        self.patience.insert(address.to_owned(), commands);
    }

    /// Ends what a connection waits for, without a result.
    pub fn unblock(peer: &mut Peer, fails: bool) {
        if peer.blocked.take().is_some() {
            match fails {
                true => {
                    let text = b"UNBLOCKED client unblocked via CLIENT UNBLOCK";
                    encode::error(&mut peer.output, text);
                }
                false => encode::null_array(&mut peer.output, peer.protocol),
            }
        }
    }

    /// Executes what has arrived on one connection.
    pub fn execute(&mut self, address: &str, peer: &mut Peer) {
        let Some(node) = self.nodes.iter().position(|node| node.address == address) else { return };
        if let Some(blocked) = peer.blocked.take() {
            let mut parser = RequestParser::default();
            parser.parse(&blocked, &Limits::default()).unwrap();
            let executed = self.executed.len();
            self.answer(node, peer, &parser.frame(&blocked));
            self.executed.truncate(executed);
        }
        if peer.blocked.is_some() {
            return;
        }
        let mut parser = RequestParser::default();
        let mut read = 0;
        while let Some(rest) = peer.input.get(read..).filter(|rest| !rest.is_empty()) {
            if self.nodes[node].health != Health::Well {
                break;
            }
            match parser.parse(rest, &Limits::default()).expect("the proxy sends commands") {
                Parsed::Incomplete => break,
                Parsed::Ignored { .. } | Parsed::Skipped { .. } | Parsed::TooLarge { .. } => {
                    panic!("the proxy sends no empty commands, nor such large ones")
                }
                Parsed::Command { len } => {
                    let rest = rest.to_vec();
                    self.answer(node, peer, &parser.frame(&rest));
                    self.tire(address);
                    read += len;
                    if peer.blocked.is_some() {
                        break;
                    }
                }
            }
        }
        peer.input.drain(..read);
    }

    /// A node has answered one of the commands that it had patience for.
    fn tire(&mut self, address: &str) {
        let Some(left) = self.patience.get_mut(address) else { return };
        *left -= 1;
        if *left == 0 {
            self.patience.remove(address);
            self.set_health(address, Health::Silent);
        }
    }

    fn answer(&mut self, node: usize, peer: &mut Peer, frame: &RequestFrame<'_>) {
        let words: Vec<_> = frame.args().map(|arg| String::from_utf8_lossy(arg)).collect();
        let words = words.join(" ");
        let name = frame.arg(0).unwrap().to_ascii_uppercase();
        let asked = std::mem::take(&mut peer.asking);
        if self.full.contains(&self.nodes[node].address) {
            return encode::error(&mut peer.output, b"ERR max number of clients reached");
        }
        if let Some(password) = &self.password {
            if name == b"AUTH" {
                peer.authenticated = frame.args().last() == Some(password.as_bytes());
                return match peer.authenticated {
                    true => encode::simple(&mut peer.output, b"OK"),
                    false => encode::error(&mut peer.output, b"WRONGPASS invalid password"),
                };
            }
            if !peer.authenticated {
                return encode::error(&mut peer.output, b"NOAUTH Authentication required.");
            }
        }
        let start = peer.output.len();
        if self.acl.answer(&mut peer.account, frame, &mut peer.output) {
            if let (Some(multi), Some(b'-')) = (&mut peer.multi, peer.output.get(start)) {
                multi.aborted = true;
            }
            return;
        }
        match &name[..] {
            b"HELLO" => return self.answer_hello(peer, frame),
            b"CLUSTER" if self.standalone => {
                let text = b"ERR This instance has cluster support disabled";
                return encode::error(&mut peer.output, text);
            }
            b"CLUSTER" if frame.arg(1) == Some(b"MYID") => {
                return match &self.myid_error {
                    Some(error) => encode::error(&mut peer.output, error.as_bytes()),
                    None => encode::bulk(&mut peer.output, self.nodes[node].id.as_bytes()),
                };
            }
            b"CLUSTER" if frame.arg(1) == Some(b"INFO") => {
                // A node that is not behind has heard of more once anything is news.
                let is_behind = self.stale.contains_key(&self.nodes[node].address);
                let has_news = !self.stale.is_empty() || self.stale_replicas.is_some();
                let epoch = if has_news && !is_behind { 2 } else { 1 };
                let info = format!("cluster_state:ok\r\ncluster_current_epoch:{epoch}\r\n");
                return encode::bulk(&mut peer.output, info.as_bytes());
            }
            b"CLUSTER" => return self.answer_slots(node, peer),
            b"INFO" if frame.arg(1) == Some(b"server") => {
                let zone = self.zones.get(&self.nodes[node].address);
                let info = zone.map(|zone| format!("# Server\r\navailability_zone:{zone}\r\n"));
                return encode::bulk(&mut peer.output, info.unwrap_or_default().as_bytes());
            }
            b"ROLE" => {
                let role = if self.owners.contains(&node) { "master" } else { "slave" };
                encode::array_header(&mut peer.output, 1);
                return encode::bulk(&mut peer.output, role.as_bytes());
            }
            b"PING" if peer.topics.is_empty() => return encode::simple(&mut peer.output, b"PONG"),
            b"PING" => return encode::command(&mut peer.output, &[b"pong", b""]),
            b"CLIENT" if frame.arg(1) == Some(b"ID") => {
                return encode::integer(&mut peer.output, peer.tracker.id);
            }
            b"CLIENT" if frame.arg(1) == Some(b"UNBLOCK") => {
                self.executed.push(format!("{}: {words}", self.nodes[node].address));
                let id = String::from_utf8_lossy(frame.arg(2).unwrap()).parse().unwrap();
                self.unblocked = Some((id, frame.arg(3) == Some(b"ERROR")));
                return encode::integer(&mut peer.output, 1);
            }
            b"CLIENT" if !self.errors.contains_key(&self.nodes[node].address) => {
                self.executed.push(format!("{}: {words}", self.nodes[node].address));
                return peer.tracker.obey(frame, &mut peer.output);
            }
            b"READONLY" => {
                peer.readonly = true;
                return encode::simple(&mut peer.output, b"OK");
            }
            b"ASKING" => {
                peer.asking = true;
                return encode::simple(&mut peer.output, b"OK");
            }
            _ => {}
        }
        if name == b"WAITAOF" {
            self.executed.push(format!("{}: {words}", self.nodes[node].address));
            let replicas = self.replicas.values().filter(|primary| **primary == node).count();
            encode::array_header(&mut peer.output, 2);
            encode::integer(&mut peer.output, 1);
            return encode::integer(&mut peer.output, replicas as i64);
        }
        if name == b"WAIT" {
            self.executed.push(format!("{}: {words}", self.nodes[node].address));
            if self.blocking {
                peer.blocked = Some(frame.bytes().to_vec());
                return;
            }
            let replicas = self.replicas.values().filter(|primary| **primary == node).count();
            return encode::integer(&mut peer.output, replicas as i64);
        }
        if let b"MULTI" | b"EXEC" | b"UNWATCH" = &name[..] {
            self.executed.push(format!("{}: {words}", self.nodes[node].address));
            return self.transact(node, peer, &name, asked);
        }
        self.executed.push(format!("{}: {words}", self.nodes[node].address));
        let start = peer.output.len();
        self.run(node, peer, &name, asked, frame);
        if let (Some(multi), Some(b'-')) = (&mut peer.multi, peer.output.get(start)) {
            multi.aborted = true;
        }
    }

    fn transact(&mut self, node: usize, peer: &mut Peer, name: &[u8], asked: bool) {
        match name {
            b"MULTI" => {
                peer.multi = Some(Multi { asked, ..Multi::default() });
                encode::simple(&mut peer.output, b"OK");
            }
            b"UNWATCH" => {
                peer.watched.clear();
                encode::simple(&mut peer.output, b"OK");
            }
            _ => {
                let Some(multi) = peer.multi.take() else {
                    return encode::error(&mut peer.output, b"ERR EXEC without MULTI");
                };
                let watched = std::mem::take(&mut peer.watched);
                let data = &self.nodes[node].data;
                if multi.aborted {
                    let text = b"EXECABORT Transaction discarded because of previous errors.";
                    return encode::error(&mut peer.output, text);
                }
                if watched.iter().any(|(key, value)| data.get(key) != value.as_ref()) {
                    return encode::null_array(&mut peer.output, peer.protocol);
                }
                encode::array_header(&mut peer.output, multi.queue.len());
                for command in multi.queue {
                    let mut parser = RequestParser::default();
                    parser.parse(&command, &Limits::default()).unwrap();
                    let frame = parser.frame(&command);
                    let name = frame.arg(0).unwrap().to_ascii_uppercase();
                    self.execute_here(node, &name, &frame, peer);
                }
            }
        }
    }

    fn run(
        &mut self,
        node: usize,
        peer: &mut Peer,
        name: &[u8],
        asked: bool,
        frame: &RequestFrame<'_>,
    ) {
        let asked = asked || peer.multi.as_ref().is_some_and(|multi| multi.asked);
        if let Some(error) = self.errors.get(&self.nodes[node].address) {
            return encode::error(&mut peer.output, error.as_bytes());
        }
        if let Some(error) = self.refuse_once.take() {
            return encode::error(&mut peer.output, error.as_bytes());
        }
        let primary = self.replicas.get(&node).copied();
        let reads = [&b"GET"[..], b"MGET", b"EXISTS"].contains(&name);
        let served_here = primary.filter(|_| reads && peer.readonly).unwrap_or(node);
        if let Some(redirection) = self.redirect(served_here, asked, frame) {
            return encode::error(&mut peer.output, redirection.as_bytes());
        }
        if let Some(multi) = &mut peer.multi {
            multi.queue.push(frame.bytes().to_vec());
            return encode::simple(&mut peer.output, b"QUEUED");
        }
        if self.blocking && name == b"XREAD" {
            peer.blocked = Some(frame.bytes().to_vec());
            return;
        }
        self.execute_here(served_here, name, frame, peer);
    }

    fn execute_here(
        &mut self,
        node: usize,
        name: &[u8],
        frame: &RequestFrame<'_>,
        peer: &mut Peer,
    ) {
        let address = &self.nodes[node].address;
        if !self.board.run(address, name, frame, &mut peer.topics, &mut peer.output) {
            self.nodes[node].run(name, frame, peer);
        }
        let keys = || frame.args().skip(1).map(<[u8]>::to_vec);
        match name {
            b"GET" | b"MGET" => peer.tracker.note_read(keys()),
            b"SET" | b"MSET" => {
                self.changes.extend(keys().step_by(2).map(|key| Change(Some(key))));
            }
            b"DEL" | b"UNLINK" => self.changes.extend(keys().map(|key| Change(Some(key)))),
            b"FLUSHALL" => self.changes.push(Change(None)),
            _ => {}
        }
        peer.tracker.note_command();
    }

    /// MOVED or ASK, as a node that does not serve the first key would answer.
    fn redirect(&self, node: usize, asked: bool, frame: &RequestFrame<'_>) -> Option<String> {
        let has_key = !super::pubsub::is_keyless(&frame.arg(0)?.to_ascii_uppercase());
        let key = first_key(frame).filter(|_| has_key && !self.standalone)?;
        let slot = slot(key);
        let importer = self.migrating.get(&(slot as u16)).copied();
        if importer == Some(node) && asked {
            return None;
        }
        let owner = self.owners[slot];
        if owner != node {
            return Some(format!("MOVED {slot} {}", self.nodes[owner].address));
        }
        let importer = importer?;
        let here = self.nodes[node].data.contains_key(key);
        (!here).then(|| format!("ASK {slot} {}", self.nodes[importer].address))
    }

    fn answer_hello(&self, peer: &mut Peer, frame: &RequestFrame<'_>) {
        let version = if frame.arg(1) == Some(b"3") { 3 } else { 2 };
        peer.protocol = if version == 3 { Protocol::Resp3 } else { Protocol::Resp2 };
        encode::map_header(&mut peer.output, peer.protocol, 3);
        encode::bulk(&mut peer.output, b"version");
        encode::bulk(&mut peer.output, self.version.as_bytes());
        encode::bulk(&mut peer.output, b"id");
        encode::integer(&mut peer.output, peer.tracker.id);
        encode::bulk(&mut peer.output, b"proto");
        encode::integer(&mut peer.output, version);
    }

    fn answer_slots(&mut self, node: usize, peer: &mut Peer) {
        let stale = self.stale.get(&self.nodes[node].address);
        let owners = stale.unwrap_or(&self.owners);
        let known = stale.and(self.stale_replicas.as_ref()).unwrap_or(&self.replicas);
        let mut ranges: Vec<(usize, usize, usize)> = Vec::new();
        for (slot, owner) in owners.iter().enumerate() {
            match ranges.last_mut() {
                Some((_, end, last)) if last == owner => *end = slot,
                _ => ranges.push((slot, slot, *owner)),
            }
        }
        encode::array_header(&mut peer.output, ranges.len());
        for (start, end, owner) in ranges {
            let replicas = known.iter().filter(|(_, primary)| **primary == owner);
            let nodes: Vec<_> = [owner].into_iter().chain(replicas.map(|(at, _)| *at)).collect();
            encode::array_header(&mut peer.output, 2 + nodes.len());
            encode::integer(&mut peer.output, start as i64);
            encode::integer(&mut peer.output, end as i64);
            for node in nodes {
                let Node { address, id, .. } = &self.nodes[node];
                let (host, port) = match self.placeless == Some(node) {
                    true => ("", "0"),
                    false => address.rsplit_once(':').unwrap(),
                };
                encode::array_header(&mut peer.output, 3);
                encode::bulk(&mut peer.output, host.as_bytes());
                encode::integer(&mut peer.output, port.parse().unwrap());
                encode::bulk(&mut peer.output, id.as_bytes());
            }
        }
    }
}

impl Node {
    fn new(address: String) -> Self {
        let id = format!("id-of-{address}");
        Self { address, id, health: Health::Well, data: BTreeMap::new(), scripts: BTreeSet::new() }
    }

    fn run(&mut self, name: &[u8], frame: &RequestFrame<'_>, peer: &mut Peer) {
        let keys: Vec<_> = frame.args().skip(1).collect();
        let out = &mut peer.output;
        match name {
            b"GET" => self.write_value(keys[0], peer.protocol, out),
            b"SET" | b"MSET" => {
                for pair in keys.chunks(2) {
                    self.data.insert(pair[0].to_vec(), pair[1].to_vec());
                }
                encode::simple(out, b"OK");
            }
            b"APPEND" => {
                let value = self.data.entry(keys[0].to_vec()).or_default();
                value.extend_from_slice(keys[1]);
                encode::integer(out, value.len() as i64);
            }
            b"MGET" => {
                encode::array_header(out, keys.len());
                for key in keys {
                    self.write_value(key, peer.protocol, out);
                }
            }
            b"DEL" | b"UNLINK" => {
                let gone = keys.iter().filter(|key| self.data.remove(**key).is_some()).count();
                encode::integer(out, gone as i64);
            }
            b"EXISTS" | b"TOUCH" => {
                let there = keys.iter().filter(|key| self.data.contains_key(**key)).count();
                encode::integer(out, there as i64);
            }
            b"WATCH" => {
                let values = keys.iter().map(|key| (key.to_vec(), self.data.get(*key).cloned()));
                peer.watched.extend(values);
                encode::simple(out, b"OK");
            }
            b"BLPOP" => match self.data.remove(keys[0]) {
                Some(value) => {
                    encode::array_header(out, 2);
                    encode::bulk(out, keys[0]);
                    encode::bulk(out, &value);
                }
                None => peer.blocked = Some(frame.bytes().to_vec()),
            },
            b"SCRIPT" => self.answer_script(frame, out),
            b"EVAL" => {
                self.scripts.insert(sha1_smol::Sha1::from(keys[0]).digest().to_string());
                self.run_script(frame, out);
            }
            b"EVALSHA" if !self.scripts.contains(&*String::from_utf8_lossy(keys[0])) => {
                encode::error(out, b"NOSCRIPT No matching script. Please use EVAL.");
            }
            b"EVALSHA" => self.run_script(frame, out),
            b"COMMAND" => encode::array_header(out, 0),
            b"DBSIZE" => encode::integer(out, self.data.len() as i64),
            b"FLUSHALL" => {
                self.data.clear();
                encode::simple(out, b"OK");
            }
            b"KEYS" => {
                encode::array_header(out, self.data.len());
                self.data.keys().for_each(|key| encode::bulk(out, key));
            }
            b"RANDOMKEY" => match self.data.keys().next() {
                Some(key) => encode::bulk(out, key),
                None => encode::null(out, peer.protocol),
            },
            b"SCAN" => self.scan(frame, out),
            b"INFO" => {
                let info = format!(
                    "# Server\r\nredis_mode:cluster\r\n\r\n# Keyspace\r\n\
                     db0:keys={},expires=0,avg_ttl=0\r\n",
                    self.data.len()
                );
                match peer.protocol {
                    Protocol::Resp2 => encode::bulk(out, info.as_bytes()),
                    Protocol::Resp3 => encode::verbatim(out, info.as_bytes()),
                }
            }
            b"CONFIG" | b"DEBUG" | b"FUNCTION" | b"TIME" => encode::simple(out, b"OK"),
            _ => encode::error(out, b"ERR the fake node does not know this command"),
        }
    }

    /// Every script appends its argument to its key, if it has one.
    fn run_script(&mut self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let (Some(key), Some(b"1")) = (frame.arg(3), frame.arg(2)) else {
            return encode::simple(out, b"OK");
        };
        let value = self.data.entry(key.to_vec()).or_default();
        value.extend_from_slice(frame.arg(4).unwrap_or_default());
        encode::integer(out, value.len() as i64);
    }

    fn answer_script(&mut self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        match frame.arg(1).unwrap() {
            b"LOAD" => {
                let digest = sha1_smol::Sha1::from(frame.arg(2).unwrap()).digest().to_string();
                encode::bulk(out, digest.as_bytes());
                self.scripts.insert(digest);
            }
            b"FLUSH" => {
                self.scripts.clear();
                encode::simple(out, b"OK");
            }
            b"EXISTS" => {
                encode::array_header(out, frame.len() - 2);
                for digest in frame.args().skip(2) {
                    let known = self.scripts.contains(&*String::from_utf8_lossy(digest));
                    encode::integer(out, i64::from(known));
                }
            }
            b"KILL" => encode::error(out, b"NOTBUSY No scripts in execution right now."),
            _ => encode::error(out, b"ERR the fake node does not know this subcommand"),
        }
    }

    /// Cursors are positions among the keys, two at a time, and mean nothing to other nodes.
    fn scan(&self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let cursor: usize = String::from_utf8_lossy(frame.arg(1).unwrap()).parse().unwrap();
        let keys: Vec<_> = self.data.keys().skip(cursor).take(2).collect();
        let end = cursor + keys.len();
        let next = if end < self.data.len() { end } else { 0 };
        encode::array_header(out, 2);
        encode::bulk(out, next.to_string().as_bytes());
        encode::array_header(out, keys.len());
        keys.into_iter().for_each(|key| encode::bulk(out, key));
    }

    fn write_value(&self, key: &[u8], protocol: Protocol, out: &mut Vec<u8>) {
        match self.data.get(key) {
            Some(value) => encode::bulk(out, value),
            None => encode::null(out, protocol),
        }
    }
}

/// The key by which a node decides whether it serves a command.
fn first_key<'a>(frame: &RequestFrame<'a>) -> Option<&'a [u8]> {
    let name = frame.arg(0)?.to_ascii_uppercase();
    match &name[..] {
        b"EVAL" | b"EVALSHA" => frame.arg(3),
        b"XREAD" => frame.arg(4),
        b"CONFIG" | b"DEBUG" | b"FUNCTION" | b"KEYS" | b"SCAN" | b"SCRIPT" => None,
        _ => frame.arg(1),
    }
}

fn slot(key: &[u8]) -> usize {
    usize::from(Slot::of(key).number())
}
