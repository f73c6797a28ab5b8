//! A model of a Redis Cluster: who owns what, who believes what, and who copies from whom.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use slotmesh_engine::{Instant, SLOTS, Slot};

use super::journal::Journal;
use super::node::Peer;
use super::stranger::{Guest, Stranger};

/// Shards; each has a primary and a replica.
pub const SHARDS: usize = 3;

/// The node that is a mirror, behind those of the cluster.
pub const MIRROR: usize = 2 * SHARDS;

/// How long a command takes at most from its client to a node that is well, beside others.
const ON_ITS_WAY: Duration = Duration::from_millis(10);

/// Names a connection, at both of its ends.
pub type LinkId = usize;

pub struct Cluster {
    pub nodes: Vec<Node>,
    /// What is agreed on; nodes learn of it one by one.
    pub truth: Rc<View>,
    /// Slots on their way, from a node to another one.
    pub migrations: BTreeMap<u16, (usize, usize)>,
    /// The nodes' ends of connections.
    pub peers: BTreeMap<LinkId, Peer>,
    pub journal: Journal,
    /// What the mirror has executed.
    pub mirror_journal: Journal,
    /// Replies on their way out.
    pub outbox: Vec<(LinkId, Vec<u8>)>,
    changes: u64,
    /// How often a node has got a new address.
    moves: usize,
    /// Addresses that nodes have had.
    left: Vec<String>,
    /// Where nodes have stopped of whose handover the proxy could not know, and when.
    stops: Vec<(String, Instant)>,
    /// Nodes tell their ids.
    pub tells_ids: bool,
    pub strangers: Vec<Stranger>,
    /// The strangers' ends of connections.
    pub guests: BTreeMap<LinkId, Guest>,
}

/// What a node believes of the cluster.
#[derive(Clone)]
pub struct View {
    pub epoch: u64,
    /// The owner of each slot.
    pub owners: Vec<usize>,
    /// Whom each replica copies.
    pub copies: BTreeMap<usize, usize>,
    /// Where each node is.
    pub addresses: Vec<String>,
    /// What each node calls itself.
    pub ids: Vec<String>,
}

/// How a node is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Health {
    Well,
    /// Stopped: accepts connections, keeps what it gets.
    Silent,
    /// The way to it is cut without a word.
    Unreachable,
    /// Its process is gone: connections are refused.
    Dead,
}

pub struct Node {
    pub address: String,
    pub health: Health,
    /// Extra time to each reply.
    pub delay: Duration,
    pub view: Rc<View>,
    /// What it answers to every command with a key.
    pub refusal: Option<&'static str>,
    /// The next command with a key is answered by this instead.
    pub refuse_once: Option<&'static str>,
    /// Cut off from the other nodes: nobody copies from it.
    pub isolated: bool,
    pub data: BTreeMap<Vec<u8>, Value>,
    /// Bodies of the scripts that it has been told, by their digests.
    pub scripts: BTreeMap<Vec<u8>, Vec<u8>>,
    /// When it has executed PUBLISH last.
    pub published: Option<Instant>,
    /// The proxy may know all that has become of it: since its handover it has redirected a command
    /// to its successor, or nodes have told the proxy that they all know of that.
    pub told: bool,
    /// When each key was changed last, in numbers that count up.
    pub touched: BTreeMap<Vec<u8>, u64>,
    /// What it has still to copy, and when that arrives.
    backlog: VecDeque<(Instant, Vec<u8>, Option<Value>)>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

impl Cluster {
    /// A cluster, and a mirror if there is to be one.
    pub fn new(mirror: bool, tells_ids: bool) -> Self {
        let owners = (0..SLOTS).map(|slot| slot * SHARDS / SLOTS).collect();
        let copies = (0..SHARDS).map(|shard| (SHARDS + shard, shard)).collect();
        let count = MIRROR + usize::from(mirror);
        let addresses: Vec<_> = (0..count).map(|number| format!("node-{number}:6379")).collect();
        let ids = (0..count).map(|number| format!("{number:040x}")).collect();
        let addresses_there = addresses.clone();
        let view = View { epoch: 1, owners, copies, addresses: addresses_there, ids };
        let truth = Rc::new(view);
        let nodes = addresses.into_iter().map(|address| Node {
            address,
            health: Health::Well,
            delay: Duration::ZERO,
            view: truth.clone(),
            refusal: None,
            refuse_once: None,
            isolated: false,
            data: BTreeMap::new(),
            scripts: BTreeMap::new(),
            published: None,
            told: true,
            touched: BTreeMap::new(),
            backlog: VecDeque::new(),
        });
        Self {
            nodes: nodes.collect(),
            truth,
            migrations: BTreeMap::new(),
            peers: BTreeMap::new(),
            journal: Journal::default(),
            mirror_journal: Journal::default(),
            outbox: Vec::new(),
            changes: 0,
            moves: 0,
            left: Vec::new(),
            stops: Vec::new(),
            tells_ids,
            strangers: Vec::new(),
            guests: BTreeMap::new(),
        }
    }

    /// The node at an address, if there still is one.
    pub fn at(&self, address: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.address == address)
    }

    /// Addresses that nodes have had and nobody has.
    pub fn free_addresses(&self) -> Vec<String> {
        let is_free = |at: &&String| self.at(at).is_none() && !self.is_strange(at);
        self.left.iter().filter(is_free).cloned().collect()
    }

    /// A node is known by another address from now on, one that was another node's or a new one;
    /// others hear of it one by one.
    pub fn move_to_new_address(&mut self, node: usize, address: Option<String>) {
        self.moves += 1;
        let address = address.unwrap_or_else(|| format!("node-{node}-{}:6379", self.moves));
        let before = std::mem::replace(&mut self.nodes[node].address, address.clone());
        self.left.push(before);
        let mut view = (*self.truth).clone();
        view.addresses[node] = address;
        self.truth = Rc::new(view);
    }

    /// A node is not known by what it was called from now on; others hear of it one by one.
    pub fn give_new_id(&mut self, node: usize) {
        self.moves += 1;
        let mut view = (*self.truth).clone();
        view.ids[node] = format!("{:040x}", 100 * self.moves + node);
        self.truth = Rc::new(view);
    }

    /// Notes that a node has executed a write of this text.
    pub fn note(&mut self, node: usize, token: &[u8]) {
        match node {
            MIRROR => self.mirror_journal.note(token),
            _ => self.journal.note(token),
        }
    }

    /// Who copies from a primary.
    pub fn replicas(&self, primary: usize) -> Vec<usize> {
        let copies = self.truth.copies.iter().filter(|(_, of)| **of == primary);
        copies.map(|(replica, _)| *replica).collect()
    }

    /// Whether two nodes are a primary and its replica, or the same.
    pub fn share_a_shard(&self, one: usize, other: usize) -> bool {
        let primary = |node: usize| self.truth.copies.get(&node).copied().unwrap_or(node);
        primary(one) == primary(other)
    }

    pub fn primaries(&self) -> Vec<usize> {
        (0..MIRROR).filter(|node| !self.truth.copies.contains_key(node)).collect()
    }

    /// All keys that there are.
    pub fn keys(&self) -> BTreeSet<Vec<u8>> {
        let primaries = self.primaries().into_iter();
        primaries.flat_map(|node| self.nodes[node].data.keys().cloned()).collect()
    }

    /// Changes a key at a primary; its replicas will hear of it.
    pub fn store(&mut self, node: usize, key: &[u8], value: Option<Value>, arrives: Instant) {
        self.changes += 1;
        self.nodes[node].touched.insert(key.to_vec(), self.changes);
        for replica in self.replicas(node) {
            let copy = &mut self.nodes[replica];
            let arrives = copy.backlog.back().map_or(arrives, |last| last.0.max(arrives));
            copy.backlog.push_back((arrives, key.to_vec(), value.clone()));
        }
        self.nodes[node].put(key, value);
    }

    /// What has arrived at a replica by now is there.
    pub fn catch_up(&mut self, node: usize, now: Instant) {
        let primary = self.truth.copies.get(&node);
        if primary.is_some_and(|primary| self.nodes[*primary].isolated) {
            return;
        }
        let node = &mut self.nodes[node];
        while node.backlog.front().is_some_and(|(arrives, ..)| *arrives <= now) {
            let Some((_, key, value)) = node.backlog.pop_front() else { return };
            node.put(&key, value);
        }
    }

    /// A replica takes the place of its primary. What it has not copied is lost, unless the primary
    /// hands over in an orderly manner.
    pub fn promote(&mut self, replica: usize, orderly: bool) {
        let Some(primary) = self.truth.copies.get(&replica).copied() else { return };
        for (_, key, value) in std::mem::take(&mut self.nodes[replica].backlog) {
            if orderly {
                self.nodes[replica].put(&key, value);
            } else {
                self.journal.note_lost(&key);
            }
        }
        let (mut owners, mut copies) = (self.truth.owners.clone(), self.truth.copies.clone());
        for owner in owners.iter_mut().filter(|owner| **owner == primary) {
            *owner = replica;
        }
        copies.remove(&replica);
        copies.insert(primary, replica);
        self.nodes[primary].told = false;
        self.agree(owners, copies, &[replica]);
    }

    /// A node comes (back) as a replica, with all that its primary has.
    pub fn copy_all(&mut self, replica: usize) {
        let Some(primary) = self.truth.copies.get(&replica).copied() else { return };
        self.nodes[replica].view = self.truth.clone();
        self.nodes[replica].data = self.nodes[primary].data.clone();
        self.nodes[replica].scripts.clear();
        self.nodes[replica].backlog.clear();
    }

    /// Moves the keys of a slot that have not moved yet, at most so many; whether that was all.
    pub fn migrate(&mut self, slot: u16, count: usize, now: Instant) -> bool {
        let Some((from, to)) = self.migrations.get(&slot).copied() else { return true };
        let in_slot = |key: &&Vec<u8>| Slot::of(key).number() == slot;
        let keys: Vec<_> = self.nodes[from].data.keys().filter(in_slot).cloned().collect();
        for key in keys.iter().take(count) {
            let value = self.nodes[from].data[key].clone();
            self.store(to, key, Some(value), now);
            self.store(from, key, None, now);
            self.serve_blocked(to, key, now);
        }
        keys.len() <= count
    }

    /// The slot belongs to where it was moved.
    pub fn assign(&mut self, slot: u16) {
        let Some((from, to)) = self.migrations.remove(&slot) else { return };
        let mut owners = self.truth.owners.clone();
        owners[usize::from(slot)] = to;
        self.agree(owners, self.truth.copies.clone(), &[to, from]);
    }

    fn agree(&mut self, owners: Vec<usize>, copies: BTreeMap<usize, usize>, first: &[usize]) {
        let view = View { epoch: self.truth.epoch + 1, owners, copies, ..(*self.truth).clone() };
        self.truth = Rc::new(view);
        for node in first {
            self.learn(*node);
        }
    }

    /// Whether a message was published at a node less than `quiet` ago.
    pub fn is_published_at(&self, node: usize, now: Instant, quiet: Duration) -> bool {
        let published = self.nodes[node].published;
        published.is_some_and(|at| now.saturating_duration_since(at) < quiet)
    }

    /// The proxy is told what a node believes: if all believe the same, it knows all there is.
    pub fn note_view_told(&mut self) {
        let (epoch, well) = (self.truth.epoch, |node: &&Node| node.health == Health::Well);
        if self.nodes[..MIRROR].iter().filter(well).all(|node| node.view.epoch == epoch) {
            self.nodes.iter_mut().for_each(|node| node.told = true);
        }
    }

    /// A node stops in an orderly manner.
    pub fn note_stop(&mut self, node: usize, now: Instant) {
        let Node { address, told, .. } = &self.nodes[node];
        if !told {
            self.stops.push((address.clone(), now));
        }
    }

    /// Whether an error tells of a node that stopped when this was already on its way there, and of
    /// whose handover the proxy could not know. No proxy could do better: what was published there
    /// may have been executed.
    pub fn excuses(&self, error: &str, called: Instant) -> bool {
        self.stops.iter().any(|(address, at)| {
            error.contains(&format!("the connection to {address} was lost"))
                && error.contains("may have been executed")
                && (called..called + ON_ITS_WAY).contains(at)
        })
    }

    /// A node hears what is agreed on; those that wait for what it no longer owns are sent on.
    pub fn learn(&mut self, node: usize) {
        if self.nodes[node].isolated || self.nodes[node].health == Health::Dead {
            return;
        }
        self.nodes[node].view = self.truth.clone();
        self.redirect_blocked(node);
        self.revoke(node);
    }

    /// A connection is gone, as its node sees it.
    pub fn hang_up(&mut self, link: LinkId) {
        self.peers.remove(&link);
        self.guests.remove(&link);
    }
}

impl Node {
    fn put(&mut self, key: &[u8], value: Option<Value>) {
        match value {
            Some(value) => self.data.insert(key.to_vec(), value),
            None => self.data.remove(key),
        };
    }
}
