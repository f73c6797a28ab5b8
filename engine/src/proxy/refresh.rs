//! Keeping every cluster's topology fresh.

use smallvec::SmallVec;

use super::Proxy;
use crate::cluster::{Cluster, NodeIndex, Outcome, Topology};
use crate::output::{LogLevel, Queued};
use crate::resp::Reply;
use crate::time::Instant;
use crate::upstream::{ConnectionId, Expect, Lane, Manner, Purpose};

/// `ROLE` as a command.
const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";

/// Replicas of a primary that commands wait for are asked for their role so much more often than
/// nodes for the topology: that costs them next to nothing.
const ROLES_PER_ROUND: u32 = 5;

impl Proxy {
    /// Starts the refreshes that are due and gives up nodes that take too long to answer one.
    pub(super) fn refresh_topologies(&mut self, now: Instant) {
        for index in 0..self.clusters.len() {
            self.give_up_silent(index, now);
            self.conclude(index, now);
            let Some(cluster) = self.clusters.get_mut(index) else { continue };
            if !cluster.refresh.is_due(now) {
                continue;
            }
            if self.sessions.len() == 0 {
                // Nobody uses the cluster: the next client will start again.
                cluster.refresh.rest();
            } else {
                let (candidates, views) = cluster.candidates(&mut self.rng, now);
                cluster.refresh.start(candidates, views, now);
                self.ask_candidates(index, now);
                self.conclude(index, now);
            }
        }
    }

    /// A node that was asked for the topology gave none: another one is asked.
    pub(super) fn give_up_candidate(
        &mut self,
        index: usize,
        connection: ConnectionId,
        reason: String,
        now: Instant,
    ) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let Some(round) = cluster.refresh.round_mut() else { return };
        if round.note_reason(connection, reason) {
            self.ask_candidates(index, now);
            self.conclude(index, now);
        }
    }

    /// Takes the reply to CLUSTER SLOTS; the connection has done its duty either way.
    pub(super) fn handle_topology(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let Some(connection) = self.connections.get(id) else { return };
        let index = connection.cluster;
        match Topology::parse(Reply::new(reply), &connection.address, connection.epoch) {
            Err(error) => self.give_up(id, &error.to_string(), now),
            Ok(view) => {
                self.close_quietly(id);
                let Some(cluster) = self.clusters.get_mut(index) else { return };
                if let Some(round) = cluster.refresh.round_mut() {
                    round.note_view(id, view, now);
                }
                self.conclude(index, now);
            }
        }
    }

    /// Asks the replicas of the node at the other end, which has refused a command, for their role.
    pub(super) fn ask_heirs_of(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(id) else { return };
        let (node, lane) = match connection.purpose {
            Purpose::Shared(node, lane) => (node, lane),
            Purpose::Dedicated(node, manner) => (node, Lane { manner, number: 0 }),
            Purpose::Subscriber | Purpose::Refresh => return,
        };
        let manner = Manner { identity: None, ..lane.manner };
        self.ask_heirs(connection.cluster, node, Lane { manner, ..lane }, now);
    }

    /// Asks the replicas of a primary that is out of reach, or refuses, for their role. The one that takes its
    /// place is the first to know, and can be sent commands at once, on a connection that is open
    /// already.
    pub(super) fn ask_heirs(&mut self, index: usize, primary: NodeIndex, lane: Lane, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let heirs: SmallVec<[NodeIndex; 4]> = cluster.heirs(primary).into();
        let pause = cluster.refresh.haste() / ROLES_PER_ROUND;
        if !cluster.node_mut(primary).is_some_and(|node| node.may_ask_heirs(pause, now)) {
            return;
        }
        for heir in heirs {
            let Some(id) = self.shared_connection(index, heir, lane, now) else { continue };
            let Some(connection) = self.connections.get_mut(id) else { continue };
            if connection.pipeline.expects(Expect::Role) {
                continue;
            }
            if connection.pipeline.is_empty() {
                connection.silent_since = now;
            }
            connection.pipeline.push(Expect::Role, ROLE);
            self.queue_write_upstream(id);
        }
    }

    /// Takes the reply to ROLE. Whoever says that it is a primary serves what its primary did, and
    /// what it does not it will redirect.
    pub(super) fn handle_role(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let role = Reply::new(reply).elements().next().map(Reply::new);
        let is_primary = role.and_then(|role| role.bulk()) == Some(b"master");
        let Some(connection) = self.connections.get(id).filter(|_| is_primary) else { return };
        let Purpose::Shared(heir, _) = connection.purpose else { return };
        let Some(cluster) = self.clusters.get_mut(connection.cluster) else { return };
        if !cluster.promote(heir) {
            return;
        }
        cluster.refresh.hurry(now);
        let message = format!(
            "{} of cluster '{}' has taken the place of its primary",
            connection.address, cluster.config.name
        );
        self.log(LogLevel::Info, message);
        self.epoch += 1;
        self.move_subscriptions(now);
        self.check_dials(now);
        self.release_held(now);
    }

    fn give_up_silent(&mut self, index: usize, now: Instant) {
        while let Some(cluster) = self.clusters.get_mut(index) {
            let timeout = cluster.config.refresh_timeout;
            let round = cluster.refresh.round_mut();
            let Some(silent) = round.and_then(|round| round.silent(now)) else { return };
            self.give_up(silent, &format!("no answer within {timeout:?}"), now);
        }
    }

    /// Asks as many candidates as a round wants views.
    fn ask_candidates(&mut self, index: usize, now: Instant) {
        while let Some(cluster) = self.clusters.get_mut(index) {
            let deadline = now + cluster.config.refresh_timeout;
            let round = cluster.refresh.round_mut();
            let Some(address) = round.and_then(|round| round.next_candidate()) else { return };
            let connection = self.open_connection(index, address, Purpose::Refresh, now);
            let cluster = self.clusters.get_mut(index);
            if let Some(round) = cluster.and_then(|cluster| cluster.refresh.round_mut()) {
                round.note_asked(connection, deadline);
            }
        }
    }

    /// Ends the round if it has an outcome.
    fn conclude(&mut self, index: usize, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let outcome = cluster.refresh.round_mut().and_then(|round| round.outcome(now));
        match outcome {
            None => {}
            Some(Outcome::Nothing) => self.fail_round(index, now),
            Some(Outcome::Topology { topology, disputed, unneeded }) => {
                cluster.refresh.succeed(now, disputed, &cluster.config, &mut self.rng);
                for connection in unneeded {
                    self.close_quietly(connection);
                }
                self.install(index, &topology, now);
            }
        }
    }

    fn install(&mut self, index: usize, topology: &Topology, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        let was_known = cluster.is_known();
        let changed = cluster.install(topology, now);
        if cluster.is_ahead_of_topology() {
            cluster.refresh.ask_again_soon(now);
        }
        self.stats.upstream(index).topology_refresh_success += 1;
        let departed: Vec<_> = cluster.departed().collect();
        let count = cluster.not_allowed().count();
        let not_allowed = cluster.not_allowed().next().cloned();
        let message = (!was_known || changed).then(|| describe(cluster, topology));
        if let Some(message) = message {
            self.log(LogLevel::Info, message);
        }
        if let Some(address) = not_allowed {
            self.note_not_allowed(index, &address, count as u64, now);
        }
        for connection in departed {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.draining = true;
            }
            self.close_if_drained(connection);
        }
        if changed {
            self.note_new_owners();
        }
        self.dial_lost(index, now);
        self.move_subscriptions(now);
        self.keep_broadcasts(now);
        self.release_held(now);
    }

    /// Connects again to the nodes that no read is sent to before.
    fn dial_lost(&mut self, index: usize, now: Instant) {
        let Some(cluster) = self.clusters.get(index) else { return };
        if !self.routes.reads_from_replicas() {
            return;
        }
        let lane = Lane { manner: Manner::default(), number: 0 };
        for node in cluster.lost().collect::<Vec<_>>() {
            self.shared_connection(index, node, lane, now);
        }
    }

    fn fail_round(&mut self, index: usize, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        cluster.refresh.fail(now, &mut self.rng);
        self.stats.upstream(index).topology_refresh_failure += 1;
        if cluster.refresh.failures() == 1 {
            let message = format!(
                "no node of cluster '{}' answers: {}",
                cluster.config.name,
                cluster.refresh.reasons()
            );
            self.log(LogLevel::Warn, message);
        }
    }

    /// Closes a connection that has told what it was asked, or need not any more.
    pub(super) fn close_quietly(&mut self, id: ConnectionId) {
        if self.connections.remove(id).is_some() {
            self.outputs.push_back(Queued::CloseUpstream(id));
        }
    }
}

fn describe(cluster: &Cluster, topology: &Topology) -> String {
    let mut primaries: Vec<_> = topology.ranges.iter().map(|range| &range.primary).collect();
    primaries.sort_unstable();
    primaries.dedup();
    let primaries: Vec<_> = primaries.into_iter().map(ToString::to_string).collect();
    format!("cluster '{}' has the primaries {}", cluster.config.name, primaries.join(", "))
}
