//! What goes wrong, and when it is right again.

use std::collections::BTreeSet;
use std::time::Duration;

use slotmesh_engine::Slot;

use super::cluster::{Health, MIRROR};
use super::stranger::Kind;
use super::world::{CHAOS, Event, World};

/// A step of something that goes wrong.
#[derive(Debug)]
pub enum Change {
    /// Something new goes wrong.
    Next,
    Health(usize, Health),
    /// A process starts again, as what it was.
    Restart(usize),
    Delay(usize, Duration),
    Refuse(usize, Option<&'static str>),
    RefuseOnce(usize, &'static str),
    Isolate(usize),
    Promote {
        replica: usize,
        orderly: bool,
    },
    /// A former primary comes back and copies the new one.
    Rejoin(usize),
    /// Of these nodes the last is restarted in an orderly manner, then the others.
    Roll(Vec<usize>),
    /// This node stops when it has been quiet for so long, and then the others follow.
    Stop {
        node: usize,
        quiet: Duration,
        rest: Vec<usize>,
    },
    Migrate(u16),
    Learn(usize),
    /// A stranger gets this address, or leaves it.
    MoveIn(String, Kind),
    MoveOut(String),
    /// These nodes are as before.
    Over(Vec<usize>),
}

/// Who is in trouble already.
#[derive(Default)]
pub struct Chaos {
    busy: BTreeSet<usize>,
}

impl Chaos {
    pub fn assert_over(&self) {
        assert_eq!(self.busy, BTreeSet::new(), "nodes are still in trouble");
    }
}

const REFUSALS: [&str; 4] = [
    "LOADING Redis is loading the dataset in memory",
    "CLUSTERDOWN The cluster is down",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
];

impl World {
    pub fn begin_chaos(&mut self) {
        if self.profile.weights().iter().any(|weight| *weight > 0) {
            self.later(100..500, Change::Next);
        }
        if self.profile.rolling {
            let mut order: Vec<_> = (0..MIRROR).collect();
            self.rng.shuffle(&mut order);
            self.later(100..500, Change::Roll(order));
        }
    }

    pub fn change(&mut self, change: Change) {
        self.tell(|| format!("change: {change:?}"));
        match change {
            Change::Next => {
                if self.now < self.start + CHAOS {
                    self.go_wrong();
                    self.later(20..400, Change::Next);
                }
            }
            Change::Health(node, health) => {
                let before = std::mem::replace(&mut self.cluster.nodes[node].health, health);
                if health == Health::Dead || (before == Health::Unreachable && self.rng.bool()) {
                    self.cut_all(node, health == Health::Dead);
                }
                if health == Health::Dead {
                    let address = self.cluster.nodes[node].address.clone();
                    self.vacate(&address);
                }
                self.run_all(node);
            }
            Change::Restart(node) => {
                self.cluster.nodes[node].health = Health::Well;
                self.cluster.nodes[node].scripts.clear();
                self.come_back(node);
            }
            Change::Delay(node, delay) => self.cluster.nodes[node].delay = delay,
            Change::Refuse(node, refusal) => self.cluster.nodes[node].refusal = refusal,
            Change::RefuseOnce(node, refusal) => {
                self.cluster.nodes[node].refuse_once = Some(refusal);
            }
            Change::Isolate(node) => self.cluster.nodes[node].isolated = true,
            Change::Promote { replica, orderly } => {
                let primary = self.cluster.truth.copies.get(&replica).copied();
                self.cluster.catch_up(replica, self.now);
                self.cluster.promote(replica, orderly);
                if let Some(primary) = primary.filter(|_| orderly) {
                    self.cluster.copy_all(primary);
                    self.cluster.learn(primary);
                }
                self.all_learn();
            }
            Change::Rejoin(node) => {
                if self.profile.strangers && self.rng.u8(..4) == 0 {
                    self.cluster.give_new_id(node);
                }
                self.cluster.nodes[node].isolated = false;
                self.cluster.nodes[node].health = Health::Well;
                self.cluster.copy_all(node);
                self.come_back(node);
            }
            Change::Roll(rest) => self.restart_next(rest),
            Change::Stop { node, quiet, rest } => self.stop(node, quiet, rest),
            Change::Migrate(slot) => {
                let count = self.rng.usize(..2);
                if self.cluster.migrate(slot, count, self.now) && self.rng.bool() {
                    let nodes = self.cluster.migrations.get(&slot).copied();
                    self.cluster.assign(slot);
                    self.all_learn();
                    if let Some((from, to)) = nodes {
                        self.chaos.busy.retain(|node| *node != from && *node != to);
                    }
                } else {
                    self.later(5..150, Change::Migrate(slot));
                }
            }
            Change::Learn(node) => self.cluster.learn(node),
            Change::MoveIn(address, kind) => self.move_in(address, kind),
            Change::MoveOut(address) => self.move_out(&address),
            Change::Over(nodes) => self.chaos.busy.retain(|node| !nodes.contains(node)),
        }
    }

    /// A node is there again, perhaps elsewhere.
    fn come_back(&mut self, node: usize) {
        if self.profile.new_addresses {
            // Nobody takes connections along.
            self.cut_all(node, true);
            let before = self.cluster.nodes[node].address.clone();
            let free = self.cluster.free_addresses();
            let free = free.into_iter().filter(|_| self.profile.strangers && self.rng.bool());
            let again = free.last();
            self.cluster.move_to_new_address(node, again);
            self.vacate(&before);
            self.all_learn();
        }
        self.cluster.learn(node);
    }

    /// Restarts one of these nodes as an orderly operator does: a primary hands over to its
    /// replica, which pauses clients, and serves as a replica until nobody publishes there. Then it
    /// stops. The next one follows when it is back, in sync, and all nodes know where.
    fn restart_next(&mut self, mut rest: Vec<usize>) {
        let Some(node) = rest.pop() else { return };
        let (mut at, mut quiet) = (0, 0);
        if let Some(replica) = self.cluster.replicas(node).first().copied() {
            self.change(Change::Health(node, Health::Silent));
            at = self.rng.u64(..50);
            self.later(at..at + 1, Change::Promote { replica, orderly: true });
            self.later(at + 1..at + 2, Change::Health(node, Health::Well));
            quiet = self.rng.u64(400..600);
            at += quiet;
        }
        let quiet = Duration::from_millis(quiet);
        self.later(at..at + 1, Change::Stop { node, quiet, rest });
    }

    fn stop(&mut self, node: usize, quiet: Duration, rest: Vec<usize>) {
        if self.cluster.is_published_at(node, self.now, quiet) {
            return self.later(20..50, Change::Stop { node, quiet, rest });
        }
        self.cluster.note_stop(node, self.now);
        self.change(Change::Health(node, Health::Dead));
        let mut at = self.rng.u64(100..600);
        self.later(at..at + 1, Change::Refuse(node, Some(REFUSALS[0])));
        self.later(at + 1..at + 2, Change::Rejoin(node));
        at += self.rng.u64(10..300);
        self.later(at..at + 1, Change::Refuse(node, None));
        self.later(at + 800..at + 1000, Change::Roll(rest));
    }

    fn go_wrong(&mut self) {
        let weights = self.profile.weights();
        let mut draw = self.rng.u32(..weights.iter().sum::<u32>());
        let kind = weights.iter().position(|weight| {
            let hit = draw < *weight;
            draw = draw.saturating_sub(*weight);
            hit
        });
        match kind {
            Some(0) => self.cut_something(),
            Some(1) => self.reshard(),
            Some(2) => self.fail_over(),
            Some(3) => self.silence(),
            _ => self.refuse(),
        }
    }

    fn cut_something(&mut self) {
        let open: Vec<_> =
            self.links.iter().filter(|(_, link)| link.is_proxys()).map(|(at, _)| *at).collect();
        for _ in 0..self.rng.usize(1..4) {
            if let Some(link) = self.rng.choice(&open).copied() {
                self.cut(link, false);
            }
        }
    }

    fn reshard(&mut self) {
        let free: Vec<_> =
            self.cluster.primaries().into_iter().filter(|node| !self.is_busy(*node)).collect();
        let Some(to) = self.rng.choice(&free).copied() else { return };
        let slots: BTreeSet<_> = (self.clients[0].keys.all().iter())
            .map(|key| Slot::of(key).number())
            .filter(|slot| {
                let owner = self.cluster.truth.owners[usize::from(*slot)];
                owner != to && free.contains(&owner)
            })
            .collect();
        let Some(slot) = self.rng.choice(slots) else { return };
        let from = self.cluster.truth.owners[usize::from(slot)];
        self.chaos.busy.extend([from, to]);
        self.cluster.migrations.insert(slot, (from, to));
        self.later(5..300, Change::Migrate(slot));
    }

    fn fail_over(&mut self) {
        let primaries = self.cluster.primaries();
        let Some(primary) = self.rng.choice(primaries) else { return };
        let Some(replica) = self.cluster.replicas(primary).first().copied() else { return };
        if self.is_busy(primary) || self.is_busy(replica) {
            return;
        }
        self.chaos.busy.extend([primary, replica]);
        match self.rng.u8(..4) {
            0 => {
                self.change(Change::Promote { replica, orderly: true });
                self.later(100..300, Change::Over(vec![primary, replica]));
            }
            1 => {
                self.change(Change::Health(primary, Health::Dead));
                self.later(100..1500, Change::Restart(primary));
                self.load(primary, replica, 1500);
            }
            2 => {
                self.change(Change::Health(primary, Health::Dead));
                if self.rng.bool() {
                    self.everybody_is_down(primary);
                }
                self.later(700..1500, Change::Promote { replica, orderly: false });
                self.later(1500..2500, Change::Rejoin(primary));
                self.load(primary, replica, 2500);
            }
            _ => {
                self.change(Change::Isolate(primary));
                self.later(300..500, Change::Refuse(primary, Some(REFUSALS[1])));
                self.later(500..1000, Change::Promote { replica, orderly: false });
                self.later(1500..2000, Change::Rejoin(primary));
                self.load(primary, replica, 2000);
            }
        }
    }

    /// A node that has been away reads its data before it serves.
    fn load(&mut self, node: usize, other: usize, back: u64) {
        self.later(50..100, Change::RefuseOnce(node, REFUSALS[0]));
        self.later(back..back + 300, Change::Refuse(node, Some(REFUSALS[0])));
        self.later(back + 300..back + 600, Change::Refuse(node, None));
        self.later(back + 600..back + 700, Change::Over(vec![node, other]));
    }

    /// Nodes that miss one refuse to serve at all.
    fn everybody_is_down(&mut self, missed: usize) {
        for node in (0..self.cluster.nodes.len()).filter(|node| *node != missed) {
            if !self.is_busy(node) {
                self.later(200..400, Change::Refuse(node, Some(REFUSALS[1])));
                self.later(700..1500, Change::Refuse(node, None));
            }
        }
    }

    fn silence(&mut self) {
        let node = self.rng.usize(..self.cluster.nodes.len());
        if self.is_busy(node) {
            return;
        }
        self.chaos.busy.insert(node);
        match self.rng.u8(..3) {
            0 => {
                self.change(Change::Health(node, Health::Silent));
                self.later(50..4500, Change::Health(node, Health::Well));
            }
            1 => {
                self.change(Change::Health(node, Health::Unreachable));
                self.later(50..4500, Change::Health(node, Health::Well));
            }
            _ => {
                let delay = self.up_to(Duration::from_millis(600));
                self.change(Change::Delay(node, delay));
                self.later(50..2000, Change::Delay(node, Duration::ZERO));
            }
        }
        self.later(4500..4600, Change::Over(vec![node]));
    }

    fn refuse(&mut self) {
        let node = self.rng.usize(..self.cluster.nodes.len());
        if self.is_busy(node) {
            return;
        }
        let refusal = self.rng.choice(REFUSALS).unwrap_or(REFUSALS[0]);
        if self.rng.bool() {
            return self.change(Change::RefuseOnce(node, refusal));
        }
        self.chaos.busy.insert(node);
        self.change(Change::Refuse(node, Some(refusal)));
        self.later(10..1500, Change::Refuse(node, None));
        self.later(1500..1600, Change::Over(vec![node]));
    }

    fn is_busy(&self, node: usize) -> bool {
        self.chaos.busy.contains(&node)
    }

    /// News spreads.
    fn all_learn(&mut self) {
        for node in 0..self.cluster.nodes.len() {
            self.later(0..800, Change::Learn(node));
        }
    }

    /// A node does what has piled up.
    fn run_all(&mut self, node: usize) {
        let peers: Vec<_> = (self.cluster.peers.iter())
            .filter(|(_, peer)| peer.node == node)
            .map(|(link, _)| *link)
            .collect();
        for link in peers {
            self.cluster.run(link, self.now);
        }
    }

    /// Lets something change in so many milliseconds.
    pub fn later(&mut self, millis: std::ops::Range<u64>, change: Change) {
        let wait = Duration::from_millis(self.rng.u64(millis));
        self.after(wait, Event::Change(change));
    }
}
