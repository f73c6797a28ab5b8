//! A replica that owns a slot by its own primary's word owns them all: the primary has handed over,
//! or was replaced. So one MOVED moves a whole shard.

use std::time::Duration;

use super::{Address, Cluster, NodeIndex, Shard, Slot};
use crate::time::Instant;

/// For so long a topology that cannot know of a change does not undo it.
pub(super) const REMEMBERED: Duration = Duration::from_secs(5);

/// A takeover that no topology has confirmed yet.
#[derive(Debug)]
pub(super) struct Takeover {
    /// The primary that was replaced.
    from: Address,
    /// Its replica.
    to: Address,
    /// The slot that the MOVED was about.
    slot: Slot,
    /// The epoch of the cluster before, as far as is known.
    epoch: u64,
    /// When it is forgotten.
    until: Instant,
}

impl Cluster {
    /// `from` has said that `slot` is at `replica`. If they are a primary and its replica, the
    /// whole shard follows. Returns whether it does.
    pub(super) fn take_over(
        &mut self,
        slot: Slot,
        from: &Address,
        replica: NodeIndex,
        now: Instant,
    ) -> bool {
        // One that is not confirmed yet is not built upon: nodes that lie could go on for ever.
        if self.takeovers.iter().any(|takeover| takeover.to == *from) {
            return false;
        }
        let (primary, to) = (self.find(from, |node| node.member), self.address(replica).cloned());
        let (Some(primary), Some(to)) = (primary, to) else { return false };
        let Some(shard) = self.shard_mut(slot).filter(|shard| !shard.doubtful) else {
            return false;
        };
        if shard.primary != primary || !shard.hand_over(replica) {
            return false;
        }
        self.unite(replica);
        self.takeovers.retain(|takeover| takeover.from != *from);
        self.takeovers.push(Takeover {
            from: from.clone(),
            to,
            slot,
            epoch: self.epoch,
            until: now + REMEMBERED,
        });
        true
    }

    /// `from` has said that `slot` is at `node`. If `from` was taken to have taken over from that
    /// very node, it has not: all but the slot that the first MOVED was about goes back, and until
    /// the next topology a MOVED moves its slot only. Returns whether that was so.
    pub(super) fn take_back(&mut self, slot: Slot, from: &Address, node: NodeIndex) -> bool {
        let Some(to) = self.address(node) else { return false };
        let contradicted = |takeover: &Takeover| takeover.to == *from && takeover.from == *to;
        let Some(position) = self.takeovers.iter().position(contradicted) else { return false };
        let Takeover { slot: first, .. } = self.takeovers.remove(position);
        let (replica, shard) = (self.find(from, |node| node.member), self.shard_mut(slot));
        let Some(shard) = shard.filter(|shard| Some(shard.primary) == replica) else {
            return false;
        };
        if !shard.hand_over(node) {
            return false;
        }
        shard.doubtful = true;
        self.unite(node);
        if let Some(replica) = replica.filter(|_| first != slot) {
            self.assign(first, replica);
        }
        true
    }

    /// Lets takeovers stand in `shards` where the topology that these are made of, of this epoch,
    /// is from before them.
    pub(super) fn uphold_takeovers(&mut self, shards: &mut [Shard], epoch: u64, now: Instant) {
        let mut takeovers = std::mem::take(&mut self.takeovers);
        takeovers.retain(|takeover| {
            let is_older = epoch != 0 && epoch <= takeover.epoch && now < takeover.until;
            let member = |address| self.find(address, |node| node.member);
            let (Some(from), Some(to)) = (member(&takeover.from), member(&takeover.to)) else {
                return false;
            };
            let shard = shards.iter_mut().find(|shard| shard.primary == from);
            is_older && shard.is_some_and(|shard| shard.hand_over(to))
        });
        self.takeovers = takeovers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::topology::{Member, SlotRange};
    use crate::cluster::{OwnersChange, Topology};
    use crate::config::Config;

    /// The primary `a:1` with the replica `b:1`, and the primary `c:1`.
    fn topology(epoch: u64) -> Topology {
        let range = |slots, primary: &str, replicas: &[&str]| SlotRange {
            slots,
            primary: member(primary),
            replicas: replicas.iter().map(|replica| member(replica)).collect(),
        };
        let ranges = vec![range(0..=99, "a:1", &["b:1"]), range(100..=16383, "c:1", &[])];
        Topology::new(ranges, epoch)
    }

    fn cluster() -> Cluster {
        let json = br#"{"settings": {"op_timeout": "1s"},
            "prefix_routes": {"catch_all_route": {"cluster": "c"}},
            "clusters": {"c": {"seeds": ["seed:1"]}}}"#;
        let mut cluster = Cluster::new(Config::from_json(json).unwrap().clusters.remove(0), 100);
        let _ = cluster.install(&topology(5), Instant::default());
        cluster
    }

    fn address(text: &str) -> Address {
        Address::parse(text).unwrap()
    }

    fn member(text: &str) -> Member {
        Member { address: address(text), id: None }
    }

    fn learn(cluster: &mut Cluster, slot: u16, from: &str, to: &str) -> OwnersChange {
        let slot = Slot::new(slot).unwrap();
        cluster.learn(slot, &address(from), &address(to), Instant::default()).unwrap().1
    }

    fn owners<const N: usize>(cluster: &Cluster, slots: [u16; N]) -> [String; N] {
        slots.map(|slot| cluster.owner_address(Slot::new(slot).unwrap()).unwrap().to_string())
    }

    #[test]
    fn a_replica_takes_over_by_the_word_of_its_primary_alone() {
        let mut cluster = cluster();
        assert_eq!(learn(&mut cluster, 7, "c:1", "b:1"), OwnersChange::Slot);
        assert_eq!(owners(&cluster, [7, 8]), ["b:1", "a:1"]);
        assert_eq!(learn(&mut cluster, 9, "a:1", "b:1"), OwnersChange::Shards);
        assert_eq!(owners(&cluster, [7, 8, 9, 100]), ["b:1", "b:1", "b:1", "c:1"]);
        assert_eq!(cluster.lowest_slots().len(), 2, "they are one shard");
        assert_eq!(learn(&mut cluster, 100, "c:1", "b:1"), OwnersChange::Slot);
        assert_eq!(owners(&cluster, [100, 101]), ["b:1", "c:1"]);
    }

    #[test]
    fn a_takeover_that_is_contradicted_leaves_its_first_slot_only() {
        let mut cluster = cluster();
        assert_eq!(learn(&mut cluster, 7, "a:1", "b:1"), OwnersChange::Shards);
        assert_eq!(learn(&mut cluster, 8, "b:1", "a:1"), OwnersChange::Shards);
        assert_eq!(owners(&cluster, [7, 8, 9]), ["b:1", "a:1", "a:1"]);
        assert_eq!(learn(&mut cluster, 9, "a:1", "b:1"), OwnersChange::Slot);
        assert_eq!(owners(&cluster, [7, 8, 9]), ["b:1", "a:1", "b:1"]);
        assert!(!cluster.is_ahead_of_topology());
    }

    #[test]
    fn a_topology_undoes_a_takeover_if_it_may_know_of_it_or_time_is_up() {
        for (epoch, seconds, owner) in
            [(5, 1, "b:1"), (4, 1, "b:1"), (6, 1, "a:1"), (0, 1, "a:1"), (5, 6, "a:1")]
        {
            let mut cluster = cluster();
            let _ = learn(&mut cluster, 7, "a:1", "b:1");
            let now = Instant::default() + Duration::from_secs(seconds);
            let changed = cluster.install(&topology(epoch), now);
            assert_eq!(owners(&cluster, [7]), [owner], "{epoch} {seconds}");
            assert_eq!(changed != OwnersChange::None, owner == "a:1");
            assert_eq!(cluster.is_ahead_of_topology(), owner == "b:1");
        }
    }

    #[test]
    fn nodes_that_name_each_other_in_a_circle_move_a_shard_once() {
        let mut cluster = cluster();
        assert_eq!(learn(&mut cluster, 7, "a:1", "b:1"), OwnersChange::Shards);
        assert_eq!(learn(&mut cluster, 7, "b:1", "c:1"), OwnersChange::Slot);
        assert_eq!(learn(&mut cluster, 7, "c:1", "a:1"), OwnersChange::Slot);
        assert_eq!(owners(&cluster, [7, 8]), ["a:1", "b:1"]);
    }
}
