//! Keeping every cluster's topology fresh: by CLUSTER SLOTS, by redirections, and by ROLE.

use smallvec::SmallVec;

use crate::cluster::{Cluster, Outcome, OwnersChange, Redirection, Topology};
use crate::ids::{ClusterId, ConnectionId, NodeIndex};
use crate::output::LogLevel;
use crate::pool_key::{PoolKey, Profile};
use crate::resp::Reply;
use crate::sort::sort_by_key;
use crate::target::SendMode;
use crate::time::Instant;
use crate::upstream::connection::Purpose;
use crate::upstream::event::Event;
use crate::upstream::pipeline::Expect;
use crate::upstream::{Upstream, not_allowed};

/// `ROLE` as a command.
const ROLE: &[u8] = b"*1\r\n$4\r\nROLE\r\n";

/// Replicas of a primary that commands wait for are asked for their role so much more often than
/// nodes for the topology: that costs them next to nothing.
const ROLES_PER_ROUND: u32 = 5;

impl Upstream {
    /// A client has come: topologies have to be fresh.
    pub(crate) fn note_client(&mut self, now: Instant) {
        for cluster in &mut self.clusters {
            cluster.refresh.note_client(now, &cluster.config);
        }
        self.refresh_topologies(true, now);
    }

    /// Starts the refreshes that are due, if there are clients, and gives up nodes that take too
    /// long to answer one.
    pub(crate) fn refresh_topologies(&mut self, has_clients: bool, now: Instant) {
        for id in (0..self.clusters.len()).map(ClusterId::new) {
            self.give_up_silent(id, now);
            self.ask_candidates(id, now);
            self.conclude(id, now);
            let Some(cluster) = self.clusters.get_mut(id.position()) else { continue };
            if !cluster.refresh.is_due(now) {
                continue;
            }
            if !has_clients {
                // Nobody uses the cluster: the next client will start again.
                cluster.refresh.rest();
                continue;
            }
            let (candidates, views) = cluster.candidates(&mut self.rng, now);
            let known_epoch = cluster.known_epoch(now);
            cluster.refresh.start(candidates, views, known_epoch, now);
            self.ask_candidates(id, now);
            self.conclude(id, now);
        }
    }

    /// Something is wrong that a fresh topology may mend.
    pub(crate) fn hurry(&mut self, id: ClusterId, now: Instant) {
        if let Some(cluster) = self.clusters.get_mut(id.position()) {
            cluster.refresh.hurry(now);
        }
    }

    /// A command waits for a node that is not there, or cannot serve it.
    pub(crate) fn hurry_for_waiting(&mut self, id: ClusterId, now: Instant) {
        if let Some(cluster) = self.clusters.get_mut(id.position()) {
            cluster.refresh.hurry_for_waiting(now);
        }
    }

    /// A command has to wait because there is no connection to its node: asks for the topology and
    /// the node's replicas for their role. Returns the error for the client if the node may not be
    /// dialled.
    pub(crate) fn note_unreachable(
        &mut self,
        id: ClusterId,
        node: NodeIndex,
        key: PoolKey,
        now: Instant,
    ) -> Option<String> {
        self.hurry_for_waiting(id, now);
        self.ask_replicas(id, node, key, now);
        let cluster = self.cluster(id)?;
        let address = cluster.address(node).filter(|address| !cluster.config.allows(address))?;
        Some(not_allowed(&cluster.config, address))
    }

    /// A node cannot serve a read now: others are asked for a while.
    pub(crate) fn note_refused_read(&mut self, from: ConnectionId, now: Instant) -> Option<()> {
        let connection = self.connections.get(from)?;
        let Purpose::Shared(node, _) = connection.purpose else { return None };
        let cluster = self.clusters.get_mut(connection.cluster.position())?;
        cluster.node_mut(node)?.note_refusal(now);
        Some(())
    }

    /// Learns what a redirection tells. Returns the node that it leads to; `None` if that may not
    /// be asked.
    pub(crate) fn learn_redirection(
        &mut self,
        from: ConnectionId,
        to: &Redirection,
        mode: SendMode,
        now: Instant,
    ) -> Option<NodeIndex> {
        let connection = self.connections.get(from)?;
        let (id, from) = (connection.cluster, connection.address.clone());
        let target = to.target(&from)?;
        let cluster = self.clusters.get_mut(id.position())?;
        if !cluster.config.allows(&target) {
            cluster.refresh.note_redirection(now, &cluster.config);
            self.note_not_allowed(id, &target, 1, now);
            return None;
        }
        let learnt = match mode {
            SendMode::Plain => cluster.learn(to.slot, &from, &target, now),
            SendMode::Asking => {
                cluster.find_or_learn(&target).map(|node| (node, OwnersChange::None))
            }
        };
        let Some((node, change)) = learnt else {
            cluster.refresh.note_redirection(now, &cluster.config);
            self.stats.count(id).max_upstream_unknown_connections_reached += 1;
            return None;
        };
        match change {
            OwnersChange::None => cluster.refresh.note_redirection(now, &cluster.config),
            OwnersChange::Slot | OwnersChange::Shards => {
                cluster.refresh.note_move(now, &cluster.config);
            }
        }
        if change == OwnersChange::Shards {
            self.log(LogLevel::Info, format!("{from} says that {target} has taken its place"));
        }
        self.note_owners(change);
        Some(node)
    }

    /// The error for a redirection to a node that may not be dialled.
    pub(crate) fn refused_target(&self, from: ConnectionId, to: &Redirection) -> Option<String> {
        let connection = self.connections.get(from)?;
        let config = &self.cluster(connection.cluster)?.config;
        let target = to.target(&connection.address).filter(|target| !config.allows(target))?;
        Some(not_allowed(config, &target))
    }

    /// Asks the replicas of the node at the other end, which has refused a command or cannot be
    /// reached, for their role.
    pub(crate) fn ask_replicas_of(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(id) else { return };
        let (node, key) = match connection.purpose {
            Purpose::Shared(node, key) => (node, key),
            Purpose::Dedicated(node, profile) => (node, PoolKey { profile, lane: 0 }),
            Purpose::Subscriber | Purpose::Refresh => return,
        };
        self.ask_replicas(connection.cluster, node, key, now);
    }

    /// Asks the replicas of a primary for their role. The one that takes its place is the first to
    /// know, and can be sent commands at once, on a connection that is open already.
    fn ask_replicas(&mut self, id: ClusterId, primary: NodeIndex, key: PoolKey, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        let replicas: SmallVec<[NodeIndex; 4]> = cluster.replicas_of(primary).into();
        let pause = cluster.refresh.eager_interval() / ROLES_PER_ROUND;
        if !cluster.node_mut(primary).is_some_and(|node| node.may_ask_replicas(pause, now)) {
            return;
        }
        // The topology is the proxy's own business, whoever the client is.
        let key = PoolKey { profile: Profile { identity: None, ..key.profile }, ..key };
        for replica in replicas {
            let Some(connection) = self.shared(id, replica, key, now) else { continue };
            let is_asked = |one: &super::Connection| one.pipeline.expects(Expect::Role);
            if !self.connections.get(connection).is_some_and(is_asked) {
                self.tell(connection, Expect::Role, ROLE, now);
            }
        }
    }

    /// Takes the reply to ROLE. Whoever says that it is a primary serves what its primary did, and
    /// what it does not it will redirect.
    pub(super) fn receive_role(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let role = Reply::new(reply).elements().next().map(Reply::new);
        let is_primary = role.and_then(|role| role.bulk()) == Some(b"master");
        let Some(connection) = self.connections.get(id).filter(|_| is_primary) else { return };
        let Purpose::Shared(replica, _) = connection.purpose else { return };
        let Some(cluster) = self.clusters.get_mut(connection.cluster.position()) else { return };
        let change = cluster.promote(replica);
        if change != OwnersChange::None {
            cluster.refresh.hurry(now);
            let message = format!(
                "{} of cluster '{}' has taken the place of its primary",
                connection.address, cluster.config.name
            );
            self.log(LogLevel::Info, message);
        }
        self.note_owners(change);
    }

    /// Takes the reply to CLUSTER SLOTS; the connection has done its duty either way.
    pub(super) fn receive_topology(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let Some(connection) = self.connections.get(id) else { return };
        let (address, cluster_id) = (connection.address.clone(), connection.cluster);
        let view = Topology::parse(Reply::new(reply), &address, connection.epoch);
        let Some(cluster) = self.clusters.get_mut(cluster_id.position()) else { return };
        let view = view.and_then(|view| cluster.complete(view));
        let is_believed =
            |view: &Topology| cluster.is_related(view) || cluster.is_replaced(&address, now);
        match view {
            Err(error) => self.give_up(id, &error.to_string(), now),
            Ok(view) if is_believed(&view) => {
                if let Some(round) = cluster.refresh.round_mut() {
                    round.note_view(id, view, now);
                }
                self.close_quietly(id);
                self.ask_candidates(cluster_id, now);
                self.conclude(cluster_id, now);
            }
            Ok(_) => {
                self.stats.count(cluster_id).upstream_cx_wrong_node += 1;
                if let Some(round) = cluster.refresh.round_mut() {
                    round.note_foreign();
                }
                self.give_up(id, "is a node of another cluster", now);
            }
        }
    }

    /// A node that was asked for the topology gave none: another one is asked.
    pub(super) fn give_up_candidate(
        &mut self,
        id: ClusterId,
        connection: ConnectionId,
        reason: String,
        now: Instant,
    ) {
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        let Some(round) = cluster.refresh.round_mut() else { return };
        if round.note_reason(connection, reason) {
            self.ask_candidates(id, now);
            self.conclude(id, now);
        }
    }

    fn give_up_silent(&mut self, id: ClusterId, now: Instant) {
        while let Some(cluster) = self.clusters.get_mut(id.position()) {
            let timeout = cluster.config.refresh_timeout;
            let round = cluster.refresh.round_mut();
            let Some(silent) = round.and_then(|round| round.silent(now)) else { return };
            self.give_up(silent, &format!("no answer within {timeout:?}"), now);
        }
    }

    /// Asks as many candidates as a round wants views.
    fn ask_candidates(&mut self, id: ClusterId, now: Instant) {
        while let Some(cluster) = self.clusters.get_mut(id.position()) {
            let deadline = now + cluster.config.refresh_timeout;
            let Some(round) = cluster.refresh.round_mut() else { return };
            round.note_slow(now);
            let Some(address) = round.next_candidate() else { return };
            let connection = self.open(id, address, Purpose::Refresh, now);
            let cluster = self.clusters.get_mut(id.position());
            if let Some(round) = cluster.and_then(|cluster| cluster.refresh.round_mut()) {
                round.note_asked(connection, deadline, now);
            }
        }
    }

    /// Ends the round if it has an outcome.
    fn conclude(&mut self, id: ClusterId, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        let outcome = cluster.refresh.round_mut().and_then(|round| round.outcome(now));
        match outcome {
            None => {}
            Some(Outcome::Nothing) => self.fail_round(id, now),
            Some(Outcome::Topology { topology, disputed, unneeded }) => {
                cluster.refresh.succeed(now, disputed, &cluster.config, &mut self.rng);
                unneeded.into_iter().for_each(|connection| self.close_quietly(connection));
                self.install(id, &topology, now);
            }
        }
    }

    fn install(&mut self, id: ClusterId, topology: &Topology, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        let was_known = cluster.is_known();
        let change = cluster.install(topology, now);
        if cluster.is_ahead_of_topology() {
            cluster.refresh.ask_again_soon(now);
        }
        self.stats.count(id).topology_refresh_success += 1;
        let departed: Vec<_> = cluster.departed().collect();
        let count = cluster.not_allowed().count();
        let not_allowed = cluster.not_allowed().next().cloned();
        let is_news = !was_known || change != OwnersChange::None;
        let message = is_news.then(|| describe(cluster, topology));
        if let Some(message) = message {
            self.log(LogLevel::Info, message);
        }
        if let Some(address) = not_allowed {
            self.note_not_allowed(id, &address, count as u64, now);
        }
        for connection in departed {
            if let Some(connection) = self.connections.get_mut(connection) {
                connection.draining = true;
            }
            self.close_if_drained(connection);
        }
        self.dial_lost(id, now);
        self.note_owners(change);
        self.events.push_back(Event::Installed);
    }

    /// Connects again to the nodes that no read is sent to before.
    fn dial_lost(&mut self, id: ClusterId, now: Instant) {
        if !self.settings.reads_from_replicas {
            return;
        }
        let lost: Vec<_> = self.cluster(id).into_iter().flat_map(Cluster::lost).collect();
        for node in lost {
            self.shared(id, node, PoolKey { profile: Profile::default(), lane: 0 }, now);
        }
    }

    fn fail_round(&mut self, id: ClusterId, now: Instant) {
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        if cluster.refresh.is_foreign() {
            cluster.note_foreign(now);
        }
        cluster.refresh.fail(now, &mut self.rng);
        self.stats.count(id).topology_refresh_failure += 1;
        if cluster.refresh.failures() == 1 {
            let (name, reasons) = (&cluster.config.name, cluster.refresh.reasons());
            let message = format!("no node of cluster '{name}' answers: {reasons}");
            self.log(LogLevel::Warn, message);
        }
    }
}

fn describe(cluster: &Cluster, topology: &Topology) -> String {
    let mut primaries: Vec<_> =
        topology.ranges.iter().map(|range| &range.primary.address).collect();
    sort_by_key(&mut primaries, |address| *address);
    primaries.dedup();
    let primaries: Vec<_> = primaries.into_iter().map(ToString::to_string).collect();
    format!("cluster '{}' has the primaries {}", cluster.config.name, primaries.join(", "))
}
