//! Who belongs to the cluster. An address is used again, in Kubernetes within seconds: whoever
//! answers there may be another Redis, which would take writes that nobody finds again.

use std::time::Duration;

use super::topology::TopologyError;
use super::{Address, Cluster, Node, NodeId, Topology};
use crate::time::Instant;

/// When no node of the cluster has answered for so long, and a seed that is a node of another one
/// has, that has taken its place.
const REPLACED_AFTER: Duration = Duration::from_secs(10);

/// What a node has to answer before it gets a client's command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Proof {
    /// Nothing: no topology says what could be compared.
    None,
    /// Its id, which the topology tells.
    Id,
    /// A topology that names some node of this cluster. The node itself is not known yet.
    Topology,
}

/// Who is to answer at an address, as far as is known by now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expected<'a> {
    /// The node of this id.
    Node(&'a NodeId),
    /// A node that the topology names without an id.
    Anybody,
    /// No node of the topology is there.
    Nobody,
}

impl Cluster {
    /// What the node at this address has to answer first. One that has left the topology, or has
    /// not been in any, is known by nothing but those that it knows.
    pub(crate) fn proof_of(&self, address: &Address) -> Proof {
        match self.member(address) {
            Some(node) if node.id.is_some() => Proof::Id,
            Some(node) if !node.unknown => Proof::None,
            _ if self.has_ids() => Proof::Topology,
            _ => Proof::None,
        }
    }

    /// Who is to answer at this address. The topology may have changed since a connection was
    /// opened.
    pub(crate) fn expected_at(&self, address: &Address) -> Expected<'_> {
        match self.member(address) {
            Some(Node { id: Some(id), .. }) => Expected::Node(id),
            Some(_) => Expected::Anybody,
            None => Expected::Nobody,
        }
    }

    /// Whether a topology is of this cluster: it names a node that this one has. `true` where ids
    /// are not told.
    pub(crate) fn is_related(&self, view: &Topology) -> bool {
        let mut named = view.members().filter_map(|member| member.id.as_ref()).peekable();
        if named.peek().is_none() || !self.has_ids() {
            return true;
        }
        named.any(|id| self.member_called(id).is_some())
    }

    /// Puts the primaries of a topology whose address the node does not know where they were. What
    /// is there now has to prove who it is.
    ///
    /// # Errors
    /// No slot is left.
    pub(crate) fn complete(&self, mut view: Topology) -> Result<Topology, TopologyError> {
        view.place(|id| Some(self.member_called(id)?.address.clone()));
        if view.ranges.is_empty() { Err(TopologyError::NoSlots) } else { Ok(view) }
    }

    /// Whether to take a topology of another cluster, which the node at `from` has given: this one
    /// is not there any more. Only a seed can say so: the configuration names it.
    pub(crate) fn is_replaced(&self, from: &Address, now: Instant) -> bool {
        let is_over = |since| now.saturating_duration_since(since) >= REPLACED_AFTER;
        self.config.seeds.contains(from) && self.foreign_since.is_some_and(is_over)
    }

    /// Nobody but nodes of another cluster has answered.
    pub(crate) fn note_foreign(&mut self, now: Instant) {
        self.foreign_since.get_or_insert(now);
    }

    fn has_ids(&self) -> bool {
        self.members().any(|node| node.id.is_some())
    }

    fn member_called(&self, id: &NodeId) -> Option<&Node> {
        self.members().find(|node| node.id.as_ref() == Some(id))
    }

    fn member(&self, address: &Address) -> Option<&Node> {
        self.members().find(|node| node.address == *address)
    }

    fn members(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().filter(|node| node.member)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::cluster;
    use super::super::topology::{Member, SlotRange};
    use super::*;

    /// One primary that is called `id`.
    fn topology(primary: &str, id: Option<&str>) -> Topology {
        let id = id.and_then(|id| NodeId::parse(id.as_bytes()));
        let primary = Member { address: Address::parse(primary).unwrap(), id };
        Topology::new(vec![SlotRange { slots: 0..=16383, primary, replicas: Vec::new() }], 0)
    }

    #[test]
    fn who_is_not_in_the_topology_has_to_prove_more_than_who_is() {
        let mut cluster = cluster();
        let (old, new) = (Address::parse("old:1").unwrap(), Address::parse("new:1").unwrap());
        assert_eq!(cluster.proof_of(&old), Proof::None, "nothing is known yet");
        let now = Instant::default();
        let _ = cluster.install(&topology("old:1", Some("a")), now);
        assert_eq!(cluster.proof_of(&old), Proof::Id);
        assert_eq!(cluster.expected_at(&old), Expected::Node(&NodeId::parse(b"a").unwrap()));
        let _ = cluster.install(&topology("new:1", Some("a")), now);
        assert_eq!((cluster.proof_of(&old), cluster.proof_of(&new)), (Proof::Topology, Proof::Id));
        assert_eq!(cluster.expected_at(&old), Expected::Nobody);
        let _ = cluster.install(&topology("new:1", None), now);
        assert_eq!((cluster.proof_of(&old), cluster.proof_of(&new)), (Proof::None, Proof::None));
        assert_eq!(cluster.expected_at(&new), Expected::Anybody);
    }
}
