//! The way to the nodes: clusters and their topologies, connections, and what is expected on them.
//!
//! | file | what it does |
//! |---|---|
//! | mod | chooses nodes, puts commands on connections, says what to write |
//! | pool | finds or opens the connection for a command |
//! | connection, pipeline, handshake | one connection |
//! | moved | puts commands on connections without a copy |
//! | receive | takes what a node sends |
//! | identify | makes sure that a node is the one that was meant |
//! | refresh | keeps topologies fresh |
//! | lost | ends connections |
//! | identities | users and databases that clients have |
//! | event | what callers have to settle |

mod connection;
mod event;
mod handshake;
mod identify;
mod identities;
mod lost;
mod moved;
mod pipeline;
mod pool;
mod receive;
mod refresh;

use std::collections::VecDeque;
use std::time::Duration;

pub(crate) use connection::Wait;
use connection::{Connection, Purpose};
pub(crate) use event::{Event, Lost, LostPart};
use identities::Identities;
pub(crate) use identities::{IDLE, Login};
pub(crate) use lost::Dial;
pub(crate) use pipeline::{Expect, Span};
use pool::Pool;
pub(crate) use receive::{Frame, Received};

use crate::arena::Arena;
use crate::buffers::Buffers;
use crate::cluster::{Address, Cluster, OwnersChange, Slot};
use crate::config::{ClusterConfig, Config};
use crate::ids::{self, ClusterId, ConnectionId, IdentityId, NodeIndex, PartId};
use crate::offer::Offer;
use crate::output::{LogLevel, Output, Queued};
use crate::rng::Rng;
use crate::scripts::{Digest, Scripts};
use crate::stats::{ClusterGauges, NodeGauges, NodeStats, Tally, UpstreamCounters};
use crate::target::Target;
use crate::time::Instant;

/// `PING` as a command.
pub(crate) const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// How often connections are looked over for nodes that have fallen silent.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Commands under way on a connection from which on those of several clients are written together.
/// Below it few would be, and each would wait for nothing.
const BUSY: usize = 32;

/// All clusters and all connections to their nodes.
#[derive(Debug)]
pub(crate) struct Upstream {
    settings: Settings,
    clusters: Vec<Cluster>,
    connections: Arena<ids::Connection, Connection>,
    pool: Pool,
    identities: Identities,
    /// Counts changes of any slot's owner: commands sent in different epochs may have gone to
    /// different nodes for the same slot.
    epoch: u64,
    next_stall_check: Instant,
    rng: Rng,
    stats: NodeStats,
    buffers: Buffers,
    outputs: VecDeque<Queued>,
    /// Connections whose unwritten bytes wait for [`Self::flush`].
    deferred: Vec<ConnectionId>,
    events: VecDeque<Event>,
    /// What a client has sent, and the connection on which it goes as it is.
    offer: Offer,
    claimant: Option<ConnectionId>,
}

/// What of the configuration concerns the way to the nodes.
#[derive(Debug)]
struct Settings {
    op_timeout: Duration,
    /// Connections opened to one node in a second, at most.
    connection_rate_limit: Option<u32>,
    /// The lane of commands that end others, such as a running script.
    urgent_lane: u32,
    /// Commands are counted one by one.
    command_stats: bool,
    /// Replicas answer reads.
    reads_from_replicas: bool,
    /// The zone that this proxy is in.
    zone: Option<String>,
}

/// The node for a command, or why there is none.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Choice {
    Node(NodeIndex),
    /// No node owns the slot.
    NoOwner,
    /// No topology is known yet.
    Unknown,
}

/// What has become of a command that was put on a connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Pushed {
    /// It is written, as soon as the handshake is over.
    Written,
    /// It waits for the connection to be established.
    Dialing,
    /// Nothing: too many bytes wait there already.
    NoRoom,
}

impl Upstream {
    pub(crate) fn new(config: &Config, reads_from_replicas: bool, rng: Rng) -> Self {
        let unknown_nodes = config.max_upstream_unknown_connections as usize;
        let clusters = config.clusters.iter();
        Self {
            settings: Settings {
                op_timeout: config.op_timeout,
                connection_rate_limit: config.connection_rate_limit,
                urgent_lane: config.connections_per_node,
                command_stats: config.enable_command_stats,
                reads_from_replicas,
                zone: config.zone.clone(),
            },
            clusters: clusters.map(|one| Cluster::new(one.clone(), unknown_nodes)).collect(),
            connections: Arena::new(),
            pool: Pool::default(),
            identities: Identities::new(config.limits.identities),
            epoch: 0,
            next_stall_check: Instant::default(),
            rng,
            stats: NodeStats::new(config.clusters.len()),
            buffers: Buffers::default(),
            outputs: VecDeque::new(),
            deferred: Vec::new(),
            events: VecDeque::new(),
            offer: Offer::default(),
            claimant: None,
        }
    }

    /// Whether there is anything to settle.
    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// The next thing to settle.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When a topology is due, or a check of all connections.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let refreshes = self.clusters.iter().filter_map(|cluster| cluster.refresh.next_timeout());
        let stall_check = (self.connections.len() > 0).then_some(self.next_stall_check);
        refreshes.chain(stall_check).min()
    }

    /// Whether the check that is due once in a while is due now. Says so once.
    pub(crate) fn take_stall_check(&mut self, now: Instant) -> bool {
        let is_due = self.next_stall_check <= now;
        if is_due {
            self.next_stall_check = now + STALL_CHECK_INTERVAL;
        }
        is_due
    }

    // What there is.

    pub(crate) fn cluster_names(&self) -> impl Iterator<Item = &str> {
        self.clusters.iter().map(|cluster| cluster.config.name.as_str())
    }

    /// Whether a topology of the cluster is known.
    pub(crate) fn is_known(&self, cluster: ClusterId) -> bool {
        self.cluster(cluster).is_some_and(Cluster::is_known)
    }

    /// Why no node of a cluster gave a topology, as an error reply.
    pub(crate) fn outage(&self, cluster: ClusterId) -> Option<String> {
        let cluster = self.cluster(cluster).filter(|cluster| !cluster.is_known())?;
        let (name, reasons) = (&cluster.config.name, cluster.refresh.reasons());
        Some(match cluster.refresh.is_denied() {
            true => format!("NOAUTH cluster '{name}' refused the proxy: {reasons}"),
            false => format!("CLUSTERDOWN no node of cluster '{name}' answers: {reasons}"),
        })
    }

    /// The version of Redis that a cluster's nodes have reported; empty: none has.
    pub(crate) fn server_version(&self, cluster: ClusterId) -> &[u8] {
        self.cluster(cluster).map_or(&[], |cluster| &cluster.server_version)
    }

    /// Counts changes of any slot's owner.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The lowest slot of each shard: see [`Cluster::lowest_slots`].
    pub(crate) fn lowest_slots(&self, cluster: ClusterId) -> Vec<Slot> {
        self.cluster(cluster).map(Cluster::lowest_slots).unwrap_or_default()
    }

    /// The primary that owns a slot.
    pub(crate) fn owner(&self, cluster: ClusterId, slot: Slot) -> Option<NodeIndex> {
        self.cluster(cluster)?.owner(slot)
    }

    /// See [`Cluster::home`].
    pub(crate) fn home(
        &self,
        cluster: ClusterId,
        preferred: Option<NodeIndex>,
        now: Instant,
    ) -> Option<NodeIndex> {
        self.cluster(cluster)?.home(preferred, now)
    }

    pub(crate) fn node_address(&self, cluster: ClusterId, node: NodeIndex) -> Option<&Address> {
        self.cluster(cluster)?.address(node)
    }

    /// Where a connection leads.
    pub(crate) fn address(&self, id: ConnectionId) -> Option<&Address> {
        self.connections.get(id).map(|connection| &connection.address)
    }

    /// The cluster that a connection belongs to.
    pub(crate) fn cluster_of(&self, id: ConnectionId) -> Option<ClusterId> {
        self.connections.get(id).map(|connection| connection.cluster)
    }

    /// Whether many clients share the connection.
    pub(crate) fn is_shared(&self, id: ConnectionId) -> bool {
        let connection = self.connections.get(id);
        connection.is_some_and(|connection| matches!(connection.purpose, Purpose::Shared(..)))
    }

    /// Connections of all kinds.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    // Choosing a node.

    /// The node that a command goes to. Equal readers take turns.
    #[inline]
    pub(crate) fn choose(&mut self, id: ClusterId, target: Target, now: Instant) -> Choice {
        let Self { clusters, settings, rng, .. } = self;
        let Some(cluster) = clusters.get_mut(id.position()) else { return Choice::Unknown };
        let node = match target {
            Target::Owner(slot) => cluster.owner(slot),
            Target::Reader(slot, policy) => {
                let node = cluster.node_for(slot, policy, settings.zone.as_deref(), now);
                cluster.end_turn(slot, policy);
                node
            }
            Target::AnyPrimary => cluster.any_primary(rng),
            Target::Home(preferred) => cluster.home(preferred, now),
            Target::Node(node) => Some(node),
            Target::Watching(..) => None,
        };
        match node {
            Some(node) => Choice::Node(node),
            None if cluster.is_known() => Choice::NoOwner,
            None => Choice::Unknown,
        }
    }

    /// Whether a command for this target, which waits for `node`, would go to another one now.
    pub(crate) fn belongs_elsewhere(
        &self,
        cluster: ClusterId,
        node: NodeIndex,
        target: Target,
        now: Instant,
    ) -> bool {
        let Some(cluster) = self.cluster(cluster) else { return false };
        match target {
            Target::Owner(slot) => cluster.owner(slot) != Some(node),
            Target::Reader(slot, policy) => {
                // Readers take turns: that another one is next says nothing about this one.
                let is_away = cluster.node(node).is_none_or(|node| node.is_away());
                let zone = self.settings.zone.as_deref();
                is_away && cluster.node_for(slot, policy, zone, now) != Some(node)
            }
            // Nor does it of primaries.
            Target::AnyPrimary | Target::Home(_) => !cluster.is_primary(node),
            Target::Node(_) | Target::Watching(..) => false,
        }
    }

    // Putting commands on connections.

    /// Whether `len` bytes more may wait on a connection, where `limit` may in all.
    #[inline]
    pub(crate) fn has_room(&self, id: ConnectionId, len: usize, limit: usize) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.has_room(len, limit))
    }

    /// Bytes of commands on a connection that have not been answered.
    pub(crate) fn unanswered_bytes(&self, id: ConnectionId) -> usize {
        self.connections.get(id).map_or(0, |connection| connection.pipeline.unanswered_bytes())
    }

    /// The error for a command that has no room on a connection.
    pub(crate) fn crowded(&self, id: ConnectionId) -> String {
        self.connections.get(id).map_or_else(String::new, Connection::crowded)
    }

    /// Puts a client's command on a connection, or commands that stay together, which get so many
    /// replies. No more than `limit` bytes may wait there.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "a struct of them costs more than the command")]
    pub(crate) fn push(
        &mut self,
        id: ConnectionId,
        part: PartId,
        commands: &[u8],
        replies: u32,
        tally: Option<Tally>,
        limit: usize,
        now: Instant,
    ) -> Pushed {
        let Some(connection) = self.connections.get_mut(id) else { return Pushed::Dialing };
        if !connection.has_room(commands.len(), limit) {
            return Pushed::NoRoom;
        }
        self.stats.count(connection.cluster).upstream_rq_total += 1;
        let tally = match self.settings.command_stats {
            true => self.stats.begin(connection.cluster, tally),
            false => None,
        };
        connection.note_due(now);
        if self.offer.is_all(commands) {
            self.offer.withdraw();
            connection.pipeline.push_moved(Expect::Part(part), commands.len(), replies, tally);
            self.claimant = Some(id);
        } else {
            connection.pipeline.push_unit(Expect::Part(part), commands, replies, tally);
        }
        if !connection.is_open() {
            return Pushed::Dialing;
        }
        if !connection.write_queued && connection.pipeline.has_unwritten() {
            connection.write_queued = true;
            let is_busy = connection.pipeline.len() >= BUSY;
            self.write_soon(id, is_busy);
        }
        Pushed::Written
    }

    /// Puts a command of the proxy's own on a connection.
    pub(crate) fn tell(&mut self, id: ConnectionId, expect: Expect, command: &[u8], now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.note_due(now);
        connection.pipeline.push(expect, command);
        self.queue_write(id);
    }

    /// The same, to be written together with the command that follows.
    pub(crate) fn precede(&mut self, id: ConnectionId, command: &[u8], now: Instant) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.note_due(now);
            connection.pipeline.push(Expect::Nothing, command);
        }
    }

    /// Lets nothing follow on a connection before these commands have succeeded: an error to one of
    /// them is the answer to all that follows.
    pub(crate) fn ask_permit(&mut self, id: ConnectionId, commands: &[&[u8]], now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.note_due(now);
        for command in commands {
            connection.pipeline.push(Expect::Permit, command);
        }
        connection.pipeline.close_gate();
    }

    /// The last command on a dedicated connection is one that the node may keep waiting. Returns
    /// whether it does so from now on: else [`Event::Ready`] says when.
    pub(crate) fn set_wait(&mut self, id: ConnectionId, wait: Wait) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        connection.assignment.wait = Some(wait);
        connection.is_blocked()
    }

    /// The command that a node keeps waiting on a connection.
    pub(crate) fn blocked_part(&self, id: ConnectionId) -> Option<PartId> {
        let connection = self.connections.get(id).filter(|connection| connection.is_blocked())?;
        match connection.pipeline.back()? {
            Expect::Part(part) => Some(part),
            _ => None,
        }
    }

    /// Notes that a script goes over a connection. Returns whether its node may not know it.
    pub(crate) fn show_script(
        &mut self,
        id: ConnectionId,
        digest: Digest,
        scripts: &Scripts,
    ) -> bool {
        let connection = self.connections.get_mut(id);
        connection.is_some_and(|connection| !connection.shown.note(digest, scripts))
    }

    /// The node at the other end has forgotten all scripts.
    pub(crate) fn forget_shown(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.shown.forget_all();
        }
    }

    // Outputs.

    /// Drops outputs that mean nothing any more. Returns whether any is left.
    #[inline]
    pub(crate) fn has_outputs(&mut self) -> bool {
        while let Some(queued) = self.outputs.front() {
            if self.is_current(queued) {
                return true;
            }
            self.outputs.pop_front();
        }
        false
    }

    /// The next thing to do, if [`Self::has_outputs`].
    #[inline]
    pub(crate) fn poll_output(&mut self) -> Option<Output<'_>> {
        match self.outputs.pop_front()? {
            Queued::OpenUpstream(id) => {
                let connection = self.connections.get(id)?;
                let cluster = self.clusters.get(connection.cluster.position())?;
                Some(Output::OpenUpstream {
                    connection: id,
                    envoy_cluster: cluster.config.envoy_cluster_of(&connection.address),
                    address: &connection.address,
                })
            }
            Queued::WriteUpstream(id) => {
                let connection = self.connections.get_mut(id)?;
                connection.write_queued = connection.pipeline.is_unwritten_split();
                if connection.write_queued {
                    self.outputs.push_front(Queued::WriteUpstream(id));
                }
                let bytes = connection.pipeline.take_unwritten();
                Some(Output::WriteUpstream { connection: id, bytes })
            }
            Queued::CloseUpstream(connection) => Some(Output::CloseUpstream { connection }),
            Queued::Log(level, message) => Some(Output::Log { level, message }),
        }
    }

    /// Whether busy connections wait for [`Self::flush`].
    #[inline]
    pub(crate) fn is_corked(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Writes to busy nodes what all clients have for them.
    pub(crate) fn flush(&mut self) {
        self.outputs.extend(self.deferred.drain(..).map(Queued::WriteUpstream));
    }

    /// Whether an output still means something: its connection may have gone since.
    #[inline]
    fn is_current(&self, queued: &Queued) -> bool {
        match queued {
            Queued::OpenUpstream(id) => self.connections.get(*id).is_some(),
            Queued::WriteUpstream(id) => {
                let connection = self.connections.get(*id);
                connection.is_some_and(|connection| connection.pipeline.has_unwritten())
            }
            Queued::CloseUpstream(_) | Queued::Log(..) => true,
        }
    }

    #[inline]
    fn queue_write(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.write_queued || !connection.is_open() || !connection.pipeline.has_unwritten()
        {
            return;
        }
        connection.write_queued = true;
        let is_busy = connection.pipeline.len() >= BUSY;
        self.write_soon(id, is_busy);
    }

    /// Has what waits on a connection written, if that is busy with what other clients send as
    /// well.
    #[inline]
    fn write_soon(&mut self, id: ConnectionId, is_busy: bool) {
        match is_busy {
            true => self.deferred.push(id),
            false => self.outputs.push_back(Queued::WriteUpstream(id)),
        }
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.outputs.push_back(Queued::Log(level, message));
    }

    // Consequences.

    /// Sees to the consequences of new owners of slots.
    fn note_owners(&mut self, change: OwnersChange) {
        if change != OwnersChange::None {
            self.epoch += 1;
            self.events.push_back(Event::OwnersChanged(change));
        }
    }

    /// Counts nodes that were named and may not be dialled, `address` being one of them. Logs it,
    /// but not each time.
    fn note_not_allowed(&mut self, id: ClusterId, address: &Address, count: u64, now: Instant) {
        self.stats.count(id).upstream_node_not_allowed += count;
        let Some(cluster) = self.clusters.get_mut(id.position()) else { return };
        if !cluster.warnings.allows(now) {
            return;
        }
        let message = not_allowed(&cluster.config, address);
        self.log(LogLevel::Warn, message);
    }

    // Users and databases.

    /// As whom connections of an identity log in, and their database.
    pub(crate) fn login(&self, identity: Option<IdentityId>) -> (Login, i64) {
        let Some(id) = identity else { return (Login::Configured, 0) };
        match self.identities.get(id) {
            Some(identity) => (identity.login.clone(), identity.database),
            // Of one that has gone nothing is known but that it was not the configured one.
            None => (Login::Nobody, 0),
        }
    }

    /// The identity of this login in this database, if there is one already.
    pub(crate) fn find_identity(&self, login: &Login, database: i64) -> Option<IdentityId> {
        self.identities.find(login, database)
    }

    /// The same, made now if there may be another one.
    pub(crate) fn add_identity(&mut self, login: Login, database: i64) -> Option<IdentityId> {
        (!self.identities.is_full()).then(|| self.identities.insert(login, database))
    }

    /// The identity of clients that have not said who they are, however many there may be.
    pub(crate) fn add_initial_identity(&mut self) -> IdentityId {
        self.identities.insert(Login::Nobody, 0)
    }

    /// Whether there may be no further identity.
    pub(crate) fn has_all_identities(&self) -> bool {
        self.identities.is_full()
    }

    // Statistics.

    /// The counters of a cluster, to count something.
    #[inline]
    pub(crate) fn count(&mut self, cluster: ClusterId) -> &mut UpstreamCounters {
        self.stats.count(cluster)
    }

    /// What is counted, to be reported.
    pub(crate) fn stats(&self) -> &NodeStats {
        &self.stats
    }

    /// The same, to change it.
    pub(crate) fn stats_mut(&mut self) -> &mut NodeStats {
        &mut self.stats
    }

    /// Sets the gauges.
    pub(crate) fn measure(&mut self) {
        for (index, cluster) in self.clusters.iter().enumerate() {
            let (nodes, shards) = cluster.size();
            let gauges = ClusterGauges { nodes, shards, ..ClusterGauges::default() };
            self.stats.set_cluster_gauges(ClusterId::new(index), gauges);
        }
        for (_, connection) in self.connections.iter() {
            let Connection { cluster, address, .. } = connection;
            let in_flight = connection.pipeline.len();
            if let Some(gauges) = self.stats.cluster_gauges(*cluster) {
                gauges.upstream_cx_active += 1;
                gauges.upstream_rq_active += in_flight;
            }
            if connection.purpose != Purpose::Refresh
                && let Some(NodeGauges { upstream_cx_active, upstream_rq_active }) =
                    self.stats.node_gauges(*cluster, address)
            {
                *upstream_cx_active += usize::from(connection.is_open());
                *upstream_rq_active += in_flight;
            }
        }
    }

    /// The most bytes of unanswered commands on one connection: of those that carry subscriptions,
    /// and of the others.
    pub(crate) fn most_unanswered(&self) -> (usize, usize) {
        let most = |of_subscribers: bool| {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            let these = connections
                .filter(|one| (one.purpose == Purpose::Subscriber) == of_subscribers)
                .map(|one| one.pipeline.unanswered_bytes());
            these.max().unwrap_or_default()
        };
        (most(true), most(false))
    }

    /// Panics if the connections contradict each other: for tests.
    pub(crate) fn check_invariants(&self) {
        self.pool.check(|id| self.connections.get(id).is_some());
        for (id, connection) in self.connections.iter() {
            if let Some(client) = connection.assignment.client {
                assert!(self.pool.of(client).contains(&id), "{id:?} is not known as {client:?}'s");
            }
            if let Purpose::Shared(node, key) = connection.purpose
                && !connection.draining
                && let Some(node) = self.cluster(connection.cluster).and_then(|c| c.node(node))
                && node.address == connection.address
            {
                assert!(node.shared(key).is_some(), "{id:?} cannot be found at its node");
            }
            connection.pipeline.check_invariants();
        }
    }

    #[inline]
    fn cluster(&self, id: ClusterId) -> Option<&Cluster> {
        self.clusters.get(id.position())
    }
}

/// The error for a node that may not be dialled.
pub(crate) fn not_allowed(config: &ClusterConfig, address: &Address) -> String {
    let name = &config.name;
    format!(
        "CLUSTERDOWN {address} is named as a node, but allowed_nodes of cluster '{name}' does not allow it"
    )
}
