//! Where keys live: slots, the nodes that own them, and how that knowledge is kept fresh.

mod address;
mod membership;
mod node;
mod node_id;
mod redirect;
mod refresh;
mod shard;
mod slot;
mod takeover;
mod topology;

use std::cmp::Ordering;
use std::collections::VecDeque;
use std::time::Duration;

pub use address::Address;
pub(crate) use membership::{Expected, Proof};
pub(crate) use node::Node;
pub(crate) use node_id::NodeId;
pub(crate) use redirect::{ErrorReply, Redirection};
use refresh::VIEWS;
pub(crate) use refresh::{Outcome, Refresh};
use shard::Shard;
pub use slot::{SLOTS, Slot};
use takeover::{REMEMBERED, Takeover};
use topology::Member;
pub(crate) use topology::{Topology, parse_epoch, parse_zone};

use crate::config::{ClusterConfig, ClusterKind, ReadPolicy};
use crate::ids::{ConnectionId, NodeIndex};
use crate::rng::Rng;
use crate::sort::sort_by_key;
use crate::throttle::Throttle;
use crate::time::Instant;

/// Warnings about nodes that are not trusted are logged this often at most.
const WARNING_PAUSE: Duration = Duration::from_secs(10);
/// So many nodes are remembered that were out of reach when they left.
const UNREACHABLE: usize = 16;
/// The entry of a slot that no shard is known to own.
const NOBODY: u16 = u16::MAX;

/// One Redis Cluster: its topology as far as it is known, and its nodes.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) config: ClusterConfig,
    pub(crate) refresh: Refresh,
    /// What HELLO reported; empty until the first topology has been read.
    pub(crate) server_version: Vec<u8>,
    /// The shard of each slot, as an index; always [`SLOTS`] entries.
    slots: Vec<u16>,
    shards: Vec<Shard>,
    /// Some topology has been installed: `slots` is worth asking.
    known: bool,
    /// The epoch that the installed topology came with, and when it was news.
    epoch: u64,
    epoch_since: Instant,
    /// The last topology that came was from before the installed one.
    is_behind: bool,
    /// What is known ahead of the topology.
    takeovers: Vec<Takeover>,
    nodes: Vec<Node>,
    /// Nodes whose places others have taken, and that were out of reach. While nodes differ in
    /// where one of them is, its old address comes and goes, and still does not answer.
    unreachable: VecDeque<Node>,
    /// Since when nobody but nodes of another cluster has answered.
    foreign_since: Option<Instant>,
    /// Warnings about nodes that are not trusted.
    pub(crate) warnings: Throttle,
    /// Nodes that redirections alone may tell of between two topologies; a node that redirects to
    /// ever new addresses is not followed further.
    unknown_nodes: usize,
}

/// What has become of the owners of slots. It has consequences for clients that cache and for
/// subscriptions: whoever gets it hands it to `Upstream::note_owners`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[must_use = "new owners of slots have consequences"]
pub(crate) enum OwnersChange {
    /// They are those that were known.
    None,
    /// One slot has another owner.
    Slot,
    /// All slots of a shard have, or slots of several shards.
    Shards,
}

impl Cluster {
    pub(crate) fn new(config: ClusterConfig, unknown_nodes: usize) -> Self {
        let standalone = config.kind == ClusterKind::Standalone;
        let server = config.seeds.first().filter(|_| standalone).map(Topology::standalone);
        let mut cluster = Self {
            config,
            refresh: Refresh::new(!standalone),
            server_version: Vec::new(),
            slots: vec![NOBODY; SLOTS],
            shards: Vec::new(),
            known: false,
            epoch: 0,
            epoch_since: Instant::default(),
            is_behind: false,
            takeovers: Vec::new(),
            nodes: Vec::new(),
            unreachable: VecDeque::new(),
            foreign_since: None,
            warnings: Throttle::new(WARNING_PAUSE),
            unknown_nodes,
        };
        if let Some(topology) = server {
            // There are no clients yet, and so no consequences.
            let _ = cluster.install(&topology, Instant::default());
        }
        cluster
    }

    /// Whether a topology is known at all.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }

    /// The primary that owns `slot`.
    #[inline]
    pub(crate) fn owner(&self, slot: Slot) -> Option<NodeIndex> {
        let shard = *self.slots.get(usize::from(slot.number()))?;
        Some(self.shards.get(usize::from(shard))?.primary)
    }

    /// The replicas of a primary: if it has failed, one of them will take its place.
    pub(crate) fn replicas_of(&self, primary: NodeIndex) -> &[NodeIndex] {
        let shard = self.shards.iter().find(|shard| shard.primary == primary);
        shard.map_or(&[], |shard| &shard.replicas)
    }

    /// A node calls itself a primary. If it was a replica so far, it has taken its primary's place.
    pub(crate) fn promote(&mut self, replica: NodeIndex) -> OwnersChange {
        let Some(shard) = self.shards.iter_mut().find(|shard| shard.replicas.contains(&replica))
        else {
            return OwnersChange::None;
        };
        shard.primary = replica;
        shard.replicas.retain(|other| *other != replica);
        self.unite(replica);
        OwnersChange::Shards
    }

    /// The address of the node that owns a slot.
    pub(crate) fn owner_address(&self, slot: Slot) -> Option<&Address> {
        self.nodes.get(self.owner(slot)?.position()).map(|node| &node.address)
    }

    /// The node that answers a command for `slot` under `policy`, which for whatever writes is
    /// [`ReadPolicy::Master`]; `zone` is ours. The same one until [`Self::end_turn`].
    #[inline]
    pub(crate) fn node_for(
        &self,
        slot: Slot,
        policy: ReadPolicy,
        zone: Option<&str>,
        now: Instant,
    ) -> Option<NodeIndex> {
        if policy == ReadPolicy::Master {
            return self.owner(slot);
        }
        let shard = *self.slots.get(usize::from(slot.number()))?;
        let shard = self.shards.get(usize::from(shard))?;
        Some(shard.reader(policy, &self.nodes, zone, now))
    }

    /// The next read of `slot` is for the next of the nodes that may answer it under `policy`.
    #[inline]
    pub(crate) fn end_turn(&mut self, slot: Slot, policy: ReadPolicy) {
        if policy == ReadPolicy::Master {
            return;
        }
        let shard = self.slots.get(usize::from(slot.number())).copied().unwrap_or(NOBODY);
        if let Some(shard) = self.shards.get_mut(usize::from(shard)) {
            shard.end_turn();
        }
    }

    /// Whether a node is a primary, as far as is known.
    pub(crate) fn is_primary(&self, node: NodeIndex) -> bool {
        self.shards.iter().any(|shard| shard.primary == node)
    }

    /// Any primary, for a command without keys.
    pub(crate) fn any_primary(&self, rng: &mut Rng) -> Option<NodeIndex> {
        self.shards.get(rng.below(self.shards.len())).map(|shard| shard.primary)
    }

    /// The primary for what any node could do but one must: it is the same for everybody who sees
    /// the same topology. The first that is healthy, in the order of the slots; `preferred` before
    /// it, if that is healthy and connected.
    pub(crate) fn home(&self, preferred: Option<NodeIndex>, now: Instant) -> Option<NodeIndex> {
        let owners = || {
            let runs = self.slots.chunk_by(|left, right| left == right);
            let shards = runs.filter_map(|run| self.shards.get(usize::from(*run.first()?)));
            shards.map(|shard| shard.primary)
        };
        let is_healthy =
            |index: &NodeIndex| self.node(*index).is_some_and(|node| node.is_healthy(now));
        let preferred = preferred.filter(|index| {
            is_healthy(index) && self.node(*index).is_some_and(|node| !node.is_away())
        });
        preferred.or_else(|| owners().find(is_healthy)).or_else(|| owners().next())
    }

    /// The node at this address, if it belongs to the cluster as far as is known.
    pub(crate) fn find_member(&self, address: &Address) -> Option<NodeIndex> {
        self.find(address, |node| node.member)
    }

    /// The node at this address, if it belongs to the cluster as far as is known.
    pub(crate) fn member_mut(&mut self, address: &Address) -> Option<&mut Node> {
        self.nodes.iter_mut().find(|node| node.member && node.address == *address)
    }

    /// The lowest slot of each shard, in ascending order; and the lowest slot that nobody owns, if
    /// there is one, for what asks every shard must not take a part for the whole.
    pub(crate) fn lowest_slots(&self) -> Vec<Slot> {
        let mut seen = vec![false; self.shards.len() + 1];
        let mut lowest = Vec::new();
        let slots = (0..).map_while(Slot::new);
        for (slot, shard) in slots.zip(&self.slots) {
            let shard = usize::from(*shard).min(self.shards.len());
            if let Some(seen) = seen.get_mut(shard).filter(|seen| !**seen) {
                *seen = true;
                lowest.push(slot);
            }
        }
        lowest
    }

    /// How many nodes and shards are known.
    pub(crate) fn size(&self) -> (usize, usize) {
        (self.nodes.iter().filter(|node| node.member).count(), self.shards.len())
    }

    #[inline]
    pub(crate) fn node(&self, index: NodeIndex) -> Option<&Node> {
        self.nodes.get(index.position())
    }

    /// The address of a node.
    pub(crate) fn address(&self, index: NodeIndex) -> Option<&Address> {
        Some(&self.nodes.get(index.position())?.address)
    }

    pub(crate) fn node_mut(&mut self, index: NodeIndex) -> Option<&mut Node> {
        self.nodes.get_mut(index.position())
    }

    /// Installs what a node answered to CLUSTER SLOTS, and what is known that it cannot know yet.
    /// Nothing changes by what is from before the topology that is there.
    pub(crate) fn install(&mut self, topology: &Topology, now: Instant) -> OwnersChange {
        self.foreign_since = None;
        self.is_behind = topology.epoch != 0 && topology.epoch < self.known_epoch(now);
        if self.is_behind {
            return OwnersChange::None;
        }
        for node in &mut self.nodes {
            // Those that stay keep their places: a new one takes that of one that has left.
            node.member = topology.members().any(|member| member.address == node.address);
            node.unknown = false;
        }
        let mut slots = vec![NOBODY; SLOTS];
        let mut shards: Vec<Shard> = Vec::new();
        for range in &topology.ranges {
            let Some(primary) = self.admit(&range.primary) else { continue };
            let replicas =
                range.replicas.iter().filter_map(|replica| self.admit(replica)).collect();
            let known = shards.iter().position(|shard| shard.primary == primary);
            let shard = known.unwrap_or_else(|| {
                shards.push(Shard::new(primary, replicas));
                shards.len() - 1
            });
            let (start, end) = (usize::from(*range.slots.start()), usize::from(*range.slots.end()));
            if let (Ok(shard), Some(slots)) = (u16::try_from(shard), slots.get_mut(start..=end)) {
                slots.fill(shard);
            }
        }
        self.uphold_takeovers(&mut shards, topology.epoch, now);
        let owner = |slots: &[u16], shards: &[Shard], slot: usize| {
            shards.get(usize::from(*slots.get(slot)?)).map(|shard| shard.primary)
        };
        let changed = (0..SLOTS)
            .any(|slot| owner(&slots, &shards, slot) != owner(&self.slots, &self.shards, slot));
        self.slots = slots;
        self.shards = shards;
        self.known = true;
        if topology.epoch != 0 && topology.epoch != self.epoch {
            self.epoch = topology.epoch;
            self.epoch_since = now;
        }
        if changed { OwnersChange::Shards } else { OwnersChange::None }
    }

    /// A topology of a lower epoch is from before what is known. 0: none is, or no longer for sure.
    /// A node that nobody elects counts epochs up without knowing more than others.
    pub(crate) fn known_epoch(&self, now: Instant) -> u64 {
        let is_fresh = now.saturating_duration_since(self.epoch_since) < REMEMBERED;
        if is_fresh { self.epoch } else { 0 }
    }

    /// Whether something is known that the last topology that came does not know of.
    pub(crate) fn is_ahead_of_topology(&self) -> bool {
        self.is_behind || !self.takeovers.is_empty()
    }

    /// Learns from a MOVED of the node at `from` that `slot` lives at `to`; `None` when too many
    /// unknown nodes have been learnt already.
    pub(crate) fn learn(
        &mut self,
        slot: Slot,
        from: &Address,
        to: &Address,
        now: Instant,
    ) -> Option<(NodeIndex, OwnersChange)> {
        let node = self.find_or_learn(to)?;
        if self.owner(slot) == Some(node) {
            return Some((node, OwnersChange::None));
        }
        if self.take_back(slot, from, node) || self.take_over(slot, from, node, now) {
            return Some((node, OwnersChange::Shards));
        }
        self.assign(slot, node)?;
        Some((node, OwnersChange::Slot))
    }

    /// The node at `address`, learnt now if need be; `None` when too many unknown nodes have been
    /// learnt already.
    pub(crate) fn find_or_learn(&mut self, address: &Address) -> Option<NodeIndex> {
        if let Some(member) = self.find(address, |node| node.member) {
            return Some(member);
        }
        let unknown = self.nodes.iter().filter(|node| node.unknown).count();
        if unknown >= self.unknown_nodes {
            return None;
        }
        let index = self.admit(&Member { address: address.clone(), id: None })?;
        self.node_mut(index)?.unknown = true;
        Some(index)
    }

    /// Nodes that are not read from before there is a connection again.
    pub(crate) fn lost(&self) -> impl Iterator<Item = NodeIndex> {
        let nodes = self.nodes.iter().enumerate();
        let lost = nodes.filter(|(_, node)| node.member && node.lost);
        lost.map(|(position, _)| NodeIndex::new(position))
    }

    /// Nodes of the topology that may not be dialled.
    pub(crate) fn not_allowed(&self) -> impl Iterator<Item = &Address> {
        let not_allowed = self.nodes.iter().filter(|node| node.member && !node.allowed);
        not_allowed.map(|node| &node.address)
    }

    /// Nodes that have left the topology, with the connections they still have.
    pub(crate) fn departed(&self) -> impl Iterator<Item = ConnectionId> {
        self.nodes.iter().filter(|node| !node.member).flat_map(Node::all_shared)
    }

    /// Whom to ask for the topology, in random order: all known nodes, those that cannot be reached
    /// last, then the seeds. And how many at a time: no dead node, if there are two others.
    pub(crate) fn candidates(&self, rng: &mut Rng, now: Instant) -> (Vec<Address>, usize) {
        let mut nodes: Vec<_> =
            self.nodes.iter().filter(|node| node.member && node.allowed).collect();
        rng.shuffle(&mut nodes);
        sort_by_key(&mut nodes, |node| node.is_backing_off(now));
        let dead = nodes.iter().filter(|node| node.is_backing_off(now)).count();
        let views = if dead == 0 { VIEWS } else { (nodes.len() - dead).clamp(2, VIEWS) };
        let mut members: Vec<_> = nodes.into_iter().map(|node| node.address.clone()).collect();
        let mut seeds: Vec<_> =
            self.config.seeds.iter().filter(|seed| !members.contains(seed)).cloned().collect();
        rng.shuffle(&mut seeds);
        members.append(&mut seeds);
        (members, views)
    }

    /// Makes a node a member, in the place of one that has left if there is any.
    fn admit(&mut self, Member { address, id }: &Member) -> Option<NodeIndex> {
        let place = self
            .find(address, |_| true)
            .or_else(|| self.nodes.iter().position(Node::is_vacant).map(NodeIndex::new));
        let index = match place {
            Some(index) => index,
            None => {
                if self.nodes.len() >= NodeIndex::MOST {
                    return None;
                }
                let index = NodeIndex::new(self.nodes.len());
                self.nodes.push(Node::new(address.clone()));
                index
            }
        };
        let zone = self.config.zones.iter().find(|(host, _)| host.matches(address.host()));
        let zone = zone.map(|(_, zone)| zone.as_str().into());
        let allowed = self.config.allows(address);
        let known = self.unreachable.iter().position(|node| node.address == *address);
        let known = known.and_then(|position| self.unreachable.remove(position));
        let node = self.nodes.get_mut(index.position())?;
        if node.address != *address {
            let new = known.unwrap_or_else(|| Node::new(address.clone()));
            let before = std::mem::replace(node, new);
            if before.is_unreachable() {
                self.unreachable.truncate(UNREACHABLE - 1);
                self.unreachable.push_front(before);
            }
        }
        node.id.clone_from(id);
        node.zone = zone.or_else(|| node.zone.take());
        node.allowed = allowed;
        node.member = true;
        Some(index)
    }

    /// Moves a slot alone to the shard of this primary; `None`: there are too many shards.
    fn assign(&mut self, slot: Slot, primary: NodeIndex) -> Option<()> {
        let known = self.shards.iter().position(|shard| shard.primary == primary);
        let shard = known.unwrap_or_else(|| {
            self.shards.push(Shard::new(primary, Vec::new()));
            self.shards.len() - 1
        });
        *self.slots.get_mut(usize::from(slot.number()))? = u16::try_from(shard).ok()?;
        Some(())
    }

    /// Makes one shard of those that have this primary.
    fn unite(&mut self, primary: NodeIndex) {
        let mut theirs = (0..self.shards.len())
            .filter(|at| self.shards.get(*at).is_some_and(|shard| shard.primary == primary));
        let Some(first) = theirs.next() else { return };
        let others: Vec<_> = theirs.collect();
        for other in others.into_iter().rev() {
            let gone = self.shards.remove(other);
            if let Some(shard) = self.shards.get_mut(first) {
                shard.replicas.extend(gone.replicas);
            }
            for slot in self.slots.iter_mut().filter(|slot| **slot != NOBODY) {
                match usize::from(*slot).cmp(&other) {
                    Ordering::Less => {}
                    Ordering::Equal => *slot = first as u16,
                    Ordering::Greater => *slot -= 1,
                }
            }
        }
    }

    fn shard_mut(&mut self, slot: Slot) -> Option<&mut Shard> {
        let shard = *self.slots.get(usize::from(slot.number()))?;
        self.shards.get_mut(usize::from(shard))
    }

    fn find(&self, address: &Address, of: impl Fn(&Node) -> bool) -> Option<NodeIndex> {
        self.nodes.iter().position(|node| node.address == *address && of(node)).map(NodeIndex::new)
    }
}

#[cfg(test)]
mod tests {
    use super::topology::SlotRange;
    use super::*;
    use crate::config::Config;

    pub(super) fn cluster() -> Cluster {
        let json = br#"{"settings": {"op_timeout": "1s"},
            "prefix_routes": {"catch_all_route": {"cluster": "c"}},
            "clusters": {"c": {"seeds": ["seed:1"]}}}"#;
        Cluster::new(Config::from_json(json).unwrap().clusters.remove(0), 100)
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn topology(shards: &[(u16, u16, &str)]) -> Topology {
        let ranges = shards
            .iter()
            .map(|(start, end, primary)| SlotRange {
                slots: *start..=*end,
                primary: Member { address: address(primary), id: None },
                replicas: Vec::new(),
            })
            .collect();
        Topology::new(ranges, 0)
    }

    /// What a MOVED for slot 7 by its node a:1 tells.
    fn learn(cluster: &mut Cluster, to: &str) -> Option<OwnersChange> {
        let (slot, from) = (Slot::new(7).unwrap(), address("a:1"));
        cluster.learn(slot, &from, &address(to), Instant::default()).map(|(_, news)| news)
    }

    fn owner(cluster: &Cluster, slot: u16) -> String {
        let owner = cluster.owner(Slot::new(slot).unwrap()).unwrap();
        cluster.nodes[owner.position()].address.to_string()
    }

    #[test]
    fn a_topology_says_who_owns_a_slot_and_only_a_change_is_news() {
        let mut cluster = cluster();
        assert!(!cluster.is_known());
        let halves = topology(&[(0, 8191, "a:1"), (8192, 16383, "b:1")]);
        assert_eq!(cluster.install(&halves, Instant::default()), OwnersChange::Shards);
        assert_eq!(cluster.install(&halves, Instant::default()), OwnersChange::None);
        assert_eq!(owner(&cluster, 8191), "a:1");
        assert_eq!(owner(&cluster, 8192), "b:1");
        let moved = cluster.install(&topology(&[(0, 16383, "b:1")]), Instant::default());
        assert_eq!(moved, OwnersChange::Shards);
        assert_eq!(owner(&cluster, 0), "b:1");
    }

    #[test]
    fn home_is_the_first_primary_that_is_healthy() {
        let mut cluster = cluster();
        let now = Instant::default();
        assert_eq!(cluster.home(None, now), None);
        let _ = cluster
            .install(&topology(&[(0, 1, "a:1"), (2, 3, "b:1"), (4, 5, "a:1")]), Instant::default());
        let home = |cluster: &Cluster| {
            cluster.nodes[cluster.home(None, now).unwrap().position()].address.to_string()
        };
        assert_eq!(home(&cluster), "a:1");
        cluster.member_mut(&address("a:1")).unwrap().note_failure(now, &mut Rng::new(1));
        assert_eq!(home(&cluster), "b:1");
        cluster.member_mut(&address("b:1")).unwrap().note_failure(now, &mut Rng::new(1));
        assert_eq!(home(&cluster), "a:1");
    }

    #[test]
    fn every_shard_is_found_by_its_lowest_slot() {
        let mut cluster = cluster();
        let lowest = |cluster: &Cluster| -> Vec<_> {
            cluster.lowest_slots().into_iter().map(Slot::number).collect()
        };
        assert_eq!(lowest(&cluster), [0], "nobody owns any");
        let _ = cluster.install(
            &topology(&[(0, 9, "a:1"), (10, 19, "b:1"), (20, 16383, "a:1")]),
            Instant::default(),
        );
        assert_eq!(lowest(&cluster), [0, 10]);
        let _ =
            cluster.install(&topology(&[(5, 9, "a:1"), (10, 16000, "b:1")]), Instant::default());
        assert_eq!(lowest(&cluster), [0, 5, 10]);
    }

    #[test]
    fn a_moved_slot_is_learnt_once() {
        let mut cluster = cluster();
        let _ = cluster.install(&topology(&[(0, 16383, "a:1")]), Instant::default());
        assert_eq!(learn(&mut cluster, "b:1"), Some(OwnersChange::Slot));
        assert_eq!(learn(&mut cluster, "b:1"), Some(OwnersChange::None));
        assert_eq!(owner(&cluster, 7), "b:1");
        assert_eq!(owner(&cluster, 8), "a:1");
    }

    #[test]
    fn redirections_to_ever_new_nodes_are_followed_a_hundred_times_per_topology() {
        let mut cluster = cluster();
        for port in 1..=100 {
            assert_eq!(learn(&mut cluster, &format!("evil:{port}")), Some(OwnersChange::Slot));
        }
        assert_eq!(learn(&mut cluster, "evil:101"), None);
        let _ = cluster.install(&topology(&[(0, 16383, "a:1")]), Instant::default());
        assert_eq!(learn(&mut cluster, "evil:101"), Some(OwnersChange::Slot));
    }

    #[test]
    fn the_place_of_a_departed_node_is_taken_by_the_next() {
        let mut cluster = cluster();
        for round in 0..1000 {
            let _ = cluster
                .install(&topology(&[(0, 16383, &format!("node-{round}:1"))]), Instant::default());
        }
        assert!(cluster.nodes.len() <= 2, "{} nodes are kept", cluster.nodes.len());
    }

    #[test]
    fn a_new_node_does_not_take_the_place_of_one_that_stays() {
        let mut cluster = cluster();
        let now = Instant::default();
        let _ = cluster.install(&topology(&[(0, 1, "a:1"), (2, 3, "b:1")]), now);
        let place = cluster.find_member(&address("b:1")).unwrap();
        cluster.node_mut(place).unwrap().note_lost();
        let _ = cluster.install(&topology(&[(0, 1, "new:1"), (2, 3, "b:1")]), now);
        assert_eq!(cluster.find_member(&address("b:1")), Some(place));
        assert!(cluster.node(place).unwrap().is_away(), "what is known of it stays known");
    }

    #[test]
    fn a_lost_node_is_still_lost_when_it_has_been_out_of_the_topology() {
        let mut cluster = cluster();
        let now = Instant::default();
        let (before, after) = (topology(&[(0, 1, "old:1")]), topology(&[(0, 1, "new:1")]));
        let _ = cluster.install(&before, now);
        cluster.member_mut(&address("old:1")).unwrap().note_lost();
        cluster.member_mut(&address("old:1")).unwrap().note_failure(now, &mut Rng::new(1));
        for views in [[&after, &before], [&after, &before]] {
            views.into_iter().for_each(|view| _ = cluster.install(view, now));
            let old = cluster.member_mut(&address("old:1")).unwrap();
            assert!(old.is_away() && old.is_backing_off(now), "nodes differ in where it is");
        }
        let other = topology(&[(0, 1, "a:1"), (2, 3, "b:1")]);
        let _ = cluster.install(&other, now);
        assert!(!cluster.member_mut(&address("a:1")).unwrap().is_away());
        for round in 0..1000 {
            let address = format!("node-{round}:1");
            let _ = cluster.install(&topology(&[(0, 1, &address)]), now);
            cluster.member_mut(&self::address(&address)).unwrap().note_lost();
        }
        assert!(cluster.unreachable.len() <= UNREACHABLE, "only so many are remembered");
        assert!(cluster.nodes.len() <= 3, "{} nodes are kept", cluster.nodes.len());
    }

    #[test]
    fn a_topology_of_a_lower_epoch_changes_nothing_for_a_while() {
        let mut cluster = cluster();
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let of = |primary, epoch| Topology::new(topology(&[(0, 16383, primary)]).ranges, epoch);
        let _ = cluster.install(&of("a:1", 7), at(10));
        for (primary, epoch, seconds, owned, ahead) in [
            ("b:1", 6, 11, "a:1", true),
            ("c:1", 7, 11, "c:1", false),
            ("d:1", 0, 12, "d:1", false),
            ("b:1", 6, 14, "d:1", true),
            ("e:1", 8, 15, "e:1", false),
            ("b:1", 7, 19, "e:1", true),
            ("b:1", 7, 20, "b:1", false),
            ("f:1", 7, 21, "f:1", false),
        ] {
            let _ = cluster.install(&of(primary, epoch), at(seconds));
            assert_eq!(owner(&cluster, 7), owned, "{primary} of {epoch} after {seconds} s");
            assert_eq!(cluster.is_ahead_of_topology(), ahead, "{primary} after {seconds} s");
        }
    }

    #[test]
    fn known_nodes_are_asked_before_seeds() {
        let mut cluster = cluster();
        let now = Instant::default();
        assert_eq!(cluster.candidates(&mut Rng::new(1), now).0, [address("seed:1")]);
        let _ = cluster.install(&topology(&[(0, 1, "a:1"), (2, 3, "b:1")]), Instant::default());
        let (candidates, _) = cluster.candidates(&mut Rng::new(1), now);
        assert_eq!(candidates.len(), 3);
        assert_eq!(candidates[2], address("seed:1"));
    }
}
