//! How connections end.

use std::time::Duration;

use crate::ids::{ClusterId, ConnectionId, NodeIndex, PartId};
use crate::output::{LogLevel, Queued};
use crate::time::Instant;
use crate::upstream::Upstream;
use crate::upstream::connection::{Connection, Purpose};
use crate::upstream::event::{Event, Lost};

impl Upstream {
    /// A connection could not be established, or has ended. `reason` is for people.
    pub(crate) fn note_close(&mut self, id: ConnectionId, reason: &str, now: Instant) {
        if let Some(connection) = self.connections.remove(id) {
            self.lose(id, connection, reason, now);
        }
    }

    /// Closes a connection that is of no further use. What waits on it goes elsewhere.
    pub(crate) fn give_up(&mut self, id: ConnectionId, reason: &str, now: Instant) {
        if let Some(connection) = self.connections.remove(id) {
            self.outputs.push_back(Queued::CloseUpstream(id));
            self.lose(id, connection, reason, now);
        }
    }

    /// Closes a connection on which nothing waits that matters.
    pub(crate) fn close_quietly(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.remove(id) {
            self.outputs.push_back(Queued::CloseUpstream(id));
            self.forget_use(id, &connection);
            self.buffers.recycle(connection.input.map(|input| input.bytes).unwrap_or_default());
        }
    }

    /// Closes a connection that was only waiting for its last replies.
    #[inline]
    pub(super) fn close_if_drained(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.draining && connection.pipeline.is_empty() {
            self.stats.count(connection.cluster).upstream_cx_drained += 1;
            self.forget_shared(id);
            self.close_quietly(id);
        }
    }

    /// Closes connections on which a reply has been due for so long that the node, or the way to
    /// it, must have failed. A command that is merely slow has its own caller time out and no
    /// other: the connection lives on for several times that long.
    pub(crate) fn close_stalled(&mut self, now: Instant) {
        let patience = self.settings.op_timeout.saturating_mul(3);
        let is_stalled = |connection: &Connection| {
            !connection.pipeline.is_empty()
                && !connection.is_blocked()
                && now.saturating_duration_since(connection.silent_since) > patience
        };
        let stalled = self.connections.iter().filter(|(_, connection)| is_stalled(connection));
        for id in stalled.map(|(id, _)| id).collect::<Vec<_>>() {
            self.give_up(id, &format!("it sent nothing for {patience:?}"), now);
        }
    }

    /// Ends the waits that nodes should have ended long ago, and those on nodes that no longer own
    /// the slot and do not say so: they must have failed.
    pub(crate) fn end_lost_waits(&mut self, now: Instant) {
        let mut lost = Vec::new();
        let Self { connections, clusters, settings, .. } = self;
        for (id, connection) in connections.iter_mut() {
            let is_ready = connection.is_open() && connection.pipeline.is_open();
            let Some(wait) = connection.assignment.wait.as_mut().filter(|_| is_ready) else {
                continue;
            };
            let cluster = clusters.get(connection.cluster.position());
            let owner = wait.slot.and_then(|slot| cluster?.owner_address(slot));
            if wait.until.is_some_and(|until| until + settings.op_timeout < now) {
                lost.push((id, "it should have answered by now"));
            } else if owner.is_none_or(|owner| *owner == connection.address) {
                // All is well, or nobody knows better.
            } else if wait.doubted {
                lost.push((id, "it no longer owns the slot and does not say so"));
            } else {
                wait.doubted = true;
            }
        }
        for (id, reason) in lost {
            self.give_up(id, reason, now);
        }
    }

    /// Takes a connection out of the place where its node's clients find it.
    pub(super) fn forget_shared(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, key) = connection.purpose else { return };
        let Some(cluster) = self.clusters.get_mut(connection.cluster.position()) else { return };
        if let Some(node) = cluster.node_mut(index).filter(|node| node.shared(key) == Some(id)) {
            node.set_shared(key, None);
        }
    }

    /// Settles what a connection that has gone leaves behind.
    fn lose(&mut self, id: ConnectionId, connection: Connection, reason: &str, now: Instant) {
        self.stats.touch();
        for tally in connection.pipeline.tallies() {
            self.stats.finish(connection.cluster, tally, b"-");
        }
        if !connection.is_answered() {
            self.stats.count(connection.cluster).upstream_cx_connect_fail += 1;
        }
        match connection.purpose {
            Purpose::Refresh => {
                let text = format!("{}: {reason}", connection.address);
                return self.give_up_candidate(connection.cluster, id, text, now);
            }
            Purpose::Subscriber => self.note_lost_subscriber(&connection, reason, now),
            Purpose::Shared(..) | Purpose::Dedicated(..) => {
                self.forget_use(id, &connection);
                self.give_up_beside(&connection, now);
                self.note_lost_node(id, &connection, reason, now);
            }
        }
        let is_answered = connection.is_answered();
        let Connection { cluster, address, purpose, pipeline, assignment, input, .. } = connection;
        self.buffers.recycle(input.map(|input| input.bytes).unwrap_or_default());
        self.events.push_back(Event::Lost(Box::new(Lost {
            connection: id,
            cluster,
            address,
            reason: reason.to_owned(),
            subscriber: purpose == Purpose::Subscriber,
            client: assignment.client,
            tracked: assignment.tracks && is_answered,
            pipeline,
        })));
    }

    /// Nobody has the connection any more.
    fn forget_use(&mut self, id: ConnectionId, connection: &Connection) {
        if let Purpose::Dedicated(..) = connection.purpose {
            self.pool.forget(connection.assignment.client, id);
        }
    }

    /// Of two connections by which a node tracks for a RESP2 client, one is of no use without the
    /// other.
    fn give_up_beside(&mut self, lost: &Connection, now: Instant) {
        let Some(client) = lost.assignment.client.filter(|_| lost.assignment.tracks) else {
            return;
        };
        let is_beside = |own: &ConnectionId| {
            let own = self.connections.get(*own);
            own.is_some_and(|own| own.cluster == lost.cluster && own.address == lost.address)
        };
        let beside: Vec<_> = self.pool.of(client).iter().copied().filter(is_beside).collect();
        for own in beside {
            self.give_up(own, "the one that belongs to it has gone", now);
        }
    }

    /// Makes room for the next connection to a node.
    fn note_lost_node(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        reason: &str,
        now: Instant,
    ) {
        let Self { clusters, rng, .. } = self;
        let Some(cluster) = clusters.get_mut(connection.cluster.position()) else { return };
        cluster.refresh.hurry(now);
        let name = &cluster.config.name;
        let what = if connection.is_answered() { "ended" } else { "failed" };
        let message = format!(
            "the connection to {} of cluster '{name}' {what}: {reason}",
            connection.address
        );
        let node = connection.purpose.node().and_then(|node| cluster.node_mut(node));
        // Another one may have got its place.
        let Some(node) = node.filter(|node| node.address == connection.address) else { return };
        if let Purpose::Shared(_, key) = connection.purpose
            && node.shared(key) == Some(id)
        {
            node.set_shared(key, None);
            node.note_lost();
        }
        if connection.is_answered() || node.note_failure(now, rng) {
            self.log(LogLevel::Warn, message);
        }
    }

    fn note_lost_subscriber(&mut self, connection: &Connection, reason: &str, now: Instant) {
        let Self { clusters, rng, .. } = self;
        let Some(cluster) = clusters.get_mut(connection.cluster.position()) else { return };
        cluster.refresh.hurry(now);
        let node = cluster.member_mut(&connection.address).filter(|_| !connection.is_answered());
        if node.is_none_or(|node| node.note_failure(now, rng)) {
            let message = format!(
                "the connection for subscriptions to {} of cluster '{}' ended: {reason}",
                connection.address, cluster.config.name
            );
            self.log(LogLevel::Warn, message);
        }
    }
}

/// A connection that is not established yet and that commands wait for.
#[derive(Debug)]
pub(crate) struct Dial {
    pub(crate) connection: ConnectionId,
    pub(crate) cluster: ClusterId,
    /// The node, if it is one that clients' commands go to.
    pub(crate) node: Option<NodeIndex>,
    /// That node has left, and another one has its place.
    pub(crate) is_replaced: bool,
    /// For how long the oldest command has waited.
    pub(crate) age: Duration,
    /// What waits.
    pub(crate) parts: Vec<PartId>,
}

impl Upstream {
    /// Connections that are not established yet and that commands wait for.
    pub(crate) fn dials(&self, now: Instant) -> Vec<Dial> {
        let waiting = self.connections.iter().filter(|(_, connection)| !connection.is_open());
        let dials = waiting.map(|(id, connection)| Dial {
            connection: id,
            cluster: connection.cluster,
            node: connection.purpose.node(),
            is_replaced: connection.purpose.node().is_some_and(|node| {
                self.node_address(connection.cluster, node) != Some(&connection.address)
            }),
            age: now.saturating_duration_since(connection.silent_since),
            parts: connection.pipeline.parts().collect(),
        });
        dials.filter(|dial| !dial.parts.is_empty()).collect()
    }
}
