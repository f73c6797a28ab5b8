//! Which node of a shard answers.

use super::Node;
use crate::config::ReadPolicy;
use crate::ids::NodeIndex;
use crate::time::Instant;

/// A primary and its replicas.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) primary: NodeIndex,
    pub(crate) replicas: Vec<NodeIndex>,
    /// A takeover has turned out to be none: another one is not believed before the next topology.
    pub(super) doubtful: bool,
    /// Counts reads, so that equal nodes take turns.
    turn: usize,
}

/// Where a node has to be, for policies that care.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Where {
    OurZone,
    Anywhere,
}

impl Shard {
    pub(crate) fn new(primary: NodeIndex, replicas: Vec<NodeIndex>) -> Self {
        Self { primary, replicas, doubtful: false, turn: 0 }
    }

    /// A replica and the primary change places. Returns whether it is one.
    pub(super) fn hand_over(&mut self, successor: NodeIndex) -> bool {
        let Some(place) = self.replicas.iter_mut().find(|replica| **replica == successor) else {
            return false;
        };
        *place = std::mem::replace(&mut self.primary, successor);
        true
    }

    /// The node whose turn it is to answer a read under `policy`, until [`Self::end_turn`].
    ///
    /// A node that has failed or said "not now" a moment ago is passed over while another one may
    /// answer. Where a policy insists on replicas and there are none, the primary answers: Envoy
    /// would fail the read.
    pub(crate) fn reader(
        &self,
        policy: ReadPolicy,
        nodes: &[Node],
        zone: Option<&str>,
        now: Instant,
    ) -> NodeIndex {
        let healthy = |index: NodeIndex| {
            nodes.get(index.position()).is_some_and(|node| node.is_healthy(now) && !node.lost)
        };
        let in_our_zone = |index: NodeIndex| {
            let node = nodes.get(index.position());
            zone.is_some() && node.is_some_and(|node| node.zone.as_deref() == zone)
        };
        let replica = |place: Where| {
            let fits = |index: &&NodeIndex| {
                healthy(**index) && (place == Where::Anywhere || in_our_zone(**index))
            };
            let count = self.replicas.iter().filter(fits).count();
            let turn = self.turn.checked_rem(count)?;
            self.replicas.iter().filter(fits).nth(turn).copied()
        };
        let primary = self.primary;
        let healthy_primary = Some(primary).filter(|index| healthy(*index));
        let primary_in_zone = healthy_primary.filter(|index| in_our_zone(*index));
        let chosen = match policy {
            ReadPolicy::Master => Some(primary),
            ReadPolicy::PreferMaster => healthy_primary.or_else(|| replica(Where::Anywhere)),
            ReadPolicy::Replica => {
                // Replicas that are all unhealthy are waited for; the topology drops the dead ones.
                replica(Where::Anywhere).or_else(|| self.replicas.first().copied())
            }
            ReadPolicy::PreferReplica => replica(Where::Anywhere),
            ReadPolicy::Any => {
                let all = || [primary].into_iter().chain(self.replicas.iter().copied());
                let count = all().filter(|index| healthy(*index)).count();
                let turn = self.turn.checked_rem(count);
                turn.and_then(|turn| all().filter(|index| healthy(*index)).nth(turn))
            }
            ReadPolicy::LocalZoneAffinity => {
                replica(Where::OurZone).or_else(|| replica(Where::Anywhere))
            }
            ReadPolicy::LocalZoneAffinityReplicasAndPrimary => {
                replica(Where::OurZone).or(primary_in_zone).or_else(|| replica(Where::Anywhere))
            }
        };
        chosen.unwrap_or(primary)
    }

    /// The next read is for the next of equal nodes.
    pub(crate) fn end_turn(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use super::*;
    use crate::cluster::Address;

    /// Node 0 is the primary in zone a; 1 and 2 are replicas in a and b; 3 another one in b.
    fn shard() -> (Shard, Vec<Node>) {
        let nodes = ["a", "a", "b", "b"].iter().enumerate().map(|(number, zone)| {
            let mut node = Node::new(Address::new("node", 1 + number as u16).unwrap());
            node.zone = Some((*zone).into());
            node
        });
        let index = |position| NodeIndex::new(position);
        (Shard::new(index(0), vec![index(1), index(2), index(3)]), nodes.collect())
    }

    /// Who answers a number of reads.
    fn readers(policy: ReadPolicy, zone: Option<&str>, unhealthy: &[usize]) -> BTreeSet<usize> {
        let (mut shard, mut nodes) = shard();
        let now = Instant::default() + Duration::from_secs(1);
        for position in unhealthy {
            nodes[*position].avoid_until(now + Duration::from_secs(1));
        }
        let read = |_| {
            shard.end_turn();
            shard.reader(policy, &nodes, zone, now).position()
        };
        (0..12).map(read).collect()
    }

    fn set<const N: usize>(positions: [usize; N]) -> BTreeSet<usize> {
        positions.into()
    }

    #[test]
    fn every_policy_reads_from_its_nodes() {
        use ReadPolicy::*;
        assert_eq!(readers(Master, None, &[]), set([0]));
        assert_eq!(readers(Master, None, &[0]), set([0]));
        assert_eq!(readers(PreferMaster, None, &[]), set([0]));
        assert_eq!(readers(PreferMaster, None, &[0]), set([1, 2, 3]));
        assert_eq!(readers(Replica, None, &[]), set([1, 2, 3]));
        assert_eq!(readers(Replica, None, &[2]), set([1, 3]));
        assert_eq!(readers(Replica, None, &[1, 2, 3]), set([1]), "waits for a replica");
        assert_eq!(readers(PreferReplica, None, &[1, 2]), set([3]));
        assert_eq!(readers(PreferReplica, None, &[1, 2, 3]), set([0]));
        assert_eq!(readers(Any, None, &[]), set([0, 1, 2, 3]));
        assert_eq!(readers(Any, None, &[0, 2]), set([1, 3]));
    }

    #[test]
    fn zones_are_kept_to_while_a_healthy_node_is_in_them() {
        use ReadPolicy::{
            LocalZoneAffinity as Affinity, LocalZoneAffinityReplicasAndPrimary as Both,
        };
        assert_eq!(readers(Affinity, Some("b"), &[]), set([2, 3]));
        assert_eq!(readers(Affinity, Some("a"), &[]), set([1]));
        assert_eq!(readers(Affinity, Some("a"), &[1]), set([2, 3]));
        assert_eq!(readers(Affinity, Some("c"), &[]), set([1, 2, 3]));
        assert_eq!(readers(Affinity, None, &[1, 2, 3]), set([0]));
        assert_eq!(readers(Both, Some("a"), &[]), set([1]));
        assert_eq!(readers(Both, Some("a"), &[1]), set([0]));
        assert_eq!(readers(Both, Some("a"), &[0, 1]), set([2, 3]));
    }

    #[test]
    fn equal_replicas_get_equally_many_reads() {
        let (mut shard, nodes) = shard();
        let mut counts = [0; 4];
        for _ in 0..300 {
            let now = Instant::default();
            counts[shard.reader(ReadPolicy::Replica, &nodes, None, now).position()] += 1;
            shard.end_turn();
        }
        assert_eq!(counts, [0, 100, 100, 100]);
    }

    #[test]
    fn a_shard_without_replicas_is_read_at_its_primary() {
        let (mut shard, nodes) = shard();
        shard.replicas.clear();
        let reader = shard.reader(ReadPolicy::Replica, &nodes, None, Instant::default());
        assert_eq!(reader.position(), 0);
    }
}
