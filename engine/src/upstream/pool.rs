//! Which connection carries a command: one that clients share, or one that a client has to itself.

use std::collections::BTreeMap;
use std::time::Duration;

use smallvec::SmallVec;

use crate::cluster::{Address, Proof};
use crate::ids::{ClusterId, ConnectionId, NodeIndex, SessionId};
use crate::output::Queued;
use crate::pool_key::{PoolKey, Profile};
use crate::resp::Protocol;
use crate::time::Instant;
use crate::tracking::TrackingOptions;
use crate::upstream::connection::{Assignment, Connection, Purpose};
use crate::upstream::handshake::Handshake;
use crate::upstream::pipeline::Expect;
use crate::upstream::{PING, STALL_CHECK_INTERVAL, Upstream};

/// Dedicated connections kept for the next client that wants one.
const SPARE: usize = 64;
/// For how long they are kept.
const SPARE_TIME: Duration = Duration::from_secs(30);
/// A connection on which nothing has come for so long is asked for a sign of life: invalidations
/// might be what does not come.
const QUIET: Duration = Duration::from_secs(10);

/// Who has dedicated connections.
#[derive(Debug, Default)]
pub(super) struct Pool {
    of_clients: BTreeMap<SessionId, SmallVec<[ConnectionId; 1]>>,
    /// Connections that belonged to one client and wait for the next.
    spare: Vec<ConnectionId>,
    /// What clients that cache want nodes to track.
    tracking: BTreeMap<SessionId, TrackingOptions>,
}

impl Pool {
    /// The connections that a client has to itself.
    pub(super) fn of(&self, client: SessionId) -> &[ConnectionId] {
        self.of_clients.get(&client).map_or(&[], |own| own)
    }

    fn give(&mut self, client: SessionId, id: ConnectionId) {
        self.of_clients.entry(client).or_default().push(id);
    }

    fn take_back(&mut self, client: SessionId, id: ConnectionId) {
        if let Some(own) = self.of_clients.get_mut(&client) {
            own.retain(|other| *other != id);
            if own.is_empty() {
                self.of_clients.remove(&client);
            }
        }
    }

    /// A connection has gone.
    pub(super) fn forget(&mut self, client: Option<SessionId>, id: ConnectionId) {
        match client {
            Some(client) => self.take_back(client, id),
            None => self.spare.retain(|spare| *spare != id),
        }
    }

    /// Panics if it names a connection that is not there: for tests.
    pub(super) fn check(&self, exists: impl Fn(ConnectionId) -> bool) {
        let all = self.of_clients.values().flatten().chain(&self.spare);
        all.for_each(|id| assert!(exists(*id), "{id:?} has gone"));
    }
}

impl Upstream {
    /// The shared connection to a node, opened if need be; `None` while the node is left alone
    /// after a failure, or has been connected to too often in this second.
    #[inline]
    pub(crate) fn shared(
        &mut self,
        cluster: ClusterId,
        node: NodeIndex,
        key: PoolKey,
        now: Instant,
    ) -> Option<ConnectionId> {
        let known = self.clusters.get(cluster.position())?.node(node)?.shared(key);
        if known.is_some() {
            return known;
        }
        self.open_shared(cluster, node, key, now)
    }

    #[cold]
    fn open_shared(
        &mut self,
        cluster: ClusterId,
        node: NodeIndex,
        key: PoolKey,
        now: Instant,
    ) -> Option<ConnectionId> {
        let id = self.connect(cluster, node, Purpose::Shared(node, key), now)?;
        self.clusters.get_mut(cluster.position())?.node_mut(node)?.set_shared(key, Some(id));
        Some(id)
    }

    /// A connection to a node that nobody but this client uses; `None` as for [`Self::shared`].
    pub(crate) fn dedicated(
        &mut self,
        client: SessionId,
        cluster: ClusterId,
        node: NodeIndex,
        profile: Profile,
        now: Instant,
    ) -> Option<ConnectionId> {
        let address = self.node_address(cluster, node)?.clone();
        let leads_there = |id: &ConnectionId| {
            self.connections.get(*id).is_some_and(|connection| {
                let is_alike =
                    matches!(connection.purpose, Purpose::Dedicated(_, other) if other == profile);
                is_alike && connection.cluster == cluster && connection.address == address
            })
        };
        if let Some(own) = self.pool.of(client).iter().find(|own| leads_there(own)) {
            return Some(*own);
        }
        let id = match self.pool.spare.iter().rposition(leads_there) {
            Some(position) => self.pool.spare.remove(position),
            None => self.connect(cluster, node, Purpose::Dedicated(node, profile), now)?,
        };
        self.connections.get_mut(id)?.assignment.client = Some(client);
        self.pool.give(client, id);
        Some(id)
    }

    /// The connection to a node by which that tracks for a client; `None` as for [`Self::shared`],
    /// or while the node has not told yet what it calls the connection beside it.
    ///
    /// RESP2 has no pushes: there each such connection has another one beside it, of RESP3, to
    /// which the node redirects them.
    pub(crate) fn tracked(
        &mut self,
        client: SessionId,
        cluster: ClusterId,
        node: NodeIndex,
        profile: Profile,
        now: Instant,
    ) -> Option<ConnectionId> {
        let listener = match profile.protocol {
            Protocol::Resp2 => {
                let profile = Profile { protocol: Protocol::Resp3, ..profile };
                let own = self.dedicated(client, cluster, node, profile, now)?;
                let connection = self.connections.get_mut(own)?;
                connection.assignment.tracks = true;
                Some(connection.node_id?)
            }
            Protocol::Resp3 => None,
        };
        let own = self.dedicated(client, cluster, node, profile, now)?;
        let connection = self.connections.get_mut(own)?;
        if !connection.assignment.tracks {
            connection.assignment.tracks = true;
            let mut command = self.buffers.take();
            self.pool.tracking.get(&client)?.write_command(listener, &mut command);
            self.tell(own, Expect::Tracking, &command, now);
            self.buffers.recycle(command);
        }
        Some(own)
    }

    /// Nodes are to track for a client as these options say.
    pub(crate) fn start_tracking(&mut self, client: SessionId, options: TrackingOptions) {
        self.pool.tracking.insert(client, options);
    }

    /// Nodes need not track for a client any more.
    pub(crate) fn stop_tracking(&mut self, client: SessionId) {
        self.pool.tracking.remove(&client);
    }

    /// Whether nodes track for a client on any connection.
    pub(crate) fn has_tracked(&self, client: SessionId) -> bool {
        let mut own = self.pool.of(client).iter().filter_map(|own| self.connections.get(*own));
        own.any(|connection| connection.assignment.tracks)
    }

    /// The client for which a node tracks by this connection.
    pub(crate) fn tracks_for(&self, id: ConnectionId) -> Option<SessionId> {
        let connection =
            self.connections.get(id).filter(|connection| connection.assignment.tracks)?;
        connection.assignment.client
    }

    /// Asks nodes that track and have sent nothing for long whether they are there.
    pub(crate) fn ping_quiet_trackers(&mut self, now: Instant) {
        let is_quiet = |connection: &Connection| {
            connection.assignment.tracks
                && connection.pipeline.is_empty()
                && now.saturating_duration_since(connection.silent_since) >= QUIET
        };
        let quiet = self.connections.iter().filter(|(_, connection)| is_quiet(connection));
        for id in quiet.map(|(id, _)| id).collect::<Vec<_>>() {
            self.tell(id, Expect::Nothing, PING, now);
        }
    }

    /// Closes the connections by which nodes track for a client that have left the cluster and owe
    /// it nothing.
    pub(crate) fn close_departed_trackers(&mut self, client: SessionId) {
        for id in SmallVec::<[_; 4]>::from_slice(self.pool.of(client)) {
            let Some(connection) = self.connections.get(id) else { continue };
            let Assignment { watches, tracks, .. } = connection.assignment;
            let is_done = tracks && !watches && connection.pipeline.is_empty();
            if is_done && !self.is_member(connection.cluster, &connection.address) {
                self.close_quietly(id);
            }
        }
    }

    /// From now on a node watches keys for its client by this connection, or not any more.
    pub(crate) fn set_watching(&mut self, id: ConnectionId, watches: bool) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.assignment.watches = watches;
        }
    }

    /// Whether a node watches keys by this connection.
    pub(crate) fn is_watching(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.assignment.watches)
    }

    /// Takes a connection back from a client that needs it no longer.
    pub(crate) fn release(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Assignment { client: Some(client), watches: false, tracks: false, .. } =
            connection.assignment
        else {
            return;
        };
        if !connection.pipeline.is_empty() {
            return;
        }
        connection.assignment = Assignment::default();
        connection.silent_since = now;
        self.pool.take_back(client, id);
        self.pool.spare.push(id);
        if self.pool.spare.len() > SPARE {
            let oldest = self.pool.spare.remove(0);
            self.close_quietly(oldest);
        }
    }

    /// Closes the connections of a client that will not wait for what is due on them: a node must
    /// not give an element to nobody, nor a late reply to somebody else. Returns whether nodes
    /// tracked on any of them.
    pub(crate) fn abandon(&mut self, client: SessionId) -> bool {
        let has_tracked = self.has_tracked(client);
        for id in self.pool.of_clients.remove(&client).unwrap_or_default() {
            self.close_quietly(id);
        }
        has_tracked
    }

    /// Closes connections that nobody has wanted for a while.
    pub(crate) fn close_spare(&mut self, now: Instant) {
        let is_old = |id: &ConnectionId| {
            self.connections.get(*id).is_none_or(|connection| {
                now.saturating_duration_since(connection.silent_since) > SPARE_TIME
            })
        };
        let old: Vec<_> = self.pool.spare.iter().copied().filter(is_old).collect();
        old.into_iter().for_each(|id| self.close_quietly(id));
    }

    /// Closes the connections of identities that no client has had for `patience`, given those that
    /// clients have.
    pub(crate) fn end_identities(
        &mut self,
        used: &[crate::ids::IdentityId],
        patience: Duration,
        now: Instant,
    ) {
        if self.identities.is_empty() {
            return;
        }
        let ended = self.identities.take_unused(used, patience, now);
        let is_of = |purpose: Purpose| {
            purpose.profile().identity.is_some_and(|identity| ended.contains(&identity))
        };
        let left = self.connections.iter().filter(|(_, one)| is_of(one.purpose));
        for id in left.map(|(id, _)| id).collect::<Vec<_>>() {
            self.forget_shared(id);
            self.close_quietly(id);
        }
    }

    /// Where nodes keep a command of a client waiting, with what they call the connections.
    pub(crate) fn waits_of(&self, client: SessionId) -> Vec<(ClusterId, NodeIndex, i64)> {
        let own = self.pool.of(client).iter().filter_map(|own| self.connections.get(*own));
        let blocked = own.filter(|connection| connection.is_blocked());
        blocked.filter_map(|one| Some((one.cluster, one.purpose.node()?, one.node_id?))).collect()
    }

    // Subscriptions.

    /// Opens a connection that carries subscriptions; `None` as for [`Self::shared`].
    pub(crate) fn open_subscriber(
        &mut self,
        cluster: ClusterId,
        node: NodeIndex,
        now: Instant,
    ) -> Option<ConnectionId> {
        self.connect(cluster, node, Purpose::Subscriber, now)
    }

    /// For how long nothing has come on a connection; `None`: a reply is due on it.
    pub(crate) fn idle_time(&self, id: ConnectionId, now: Instant) -> Option<Duration> {
        let connection = self.connections.get(id).filter(|one| one.pipeline.is_empty())?;
        Some(now.saturating_duration_since(connection.silent_since))
    }

    /// The oldest command on a connection.
    pub(crate) fn front(&self, id: ConnectionId) -> Option<&[u8]> {
        self.connections.get(id)?.pipeline.front()
    }

    /// The oldest command on a connection has been answered.
    pub(crate) fn pop(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.pipeline.pop();
        }
    }

    /// The node at this address, if it belongs to the cluster as far as is known.
    pub(crate) fn find_member(&self, cluster: ClusterId, address: &Address) -> Option<NodeIndex> {
        self.cluster(cluster)?.find_member(address)
    }

    /// Whether the node at this address belongs to the cluster, as far as is known.
    pub(crate) fn is_member(&self, cluster: ClusterId, address: &Address) -> bool {
        self.find_member(cluster, address).is_some()
    }

    // Opening.

    /// Opens a connection to a node; `None`: the node is not known, or it may not have another one
    /// now.
    fn connect(
        &mut self,
        cluster: ClusterId,
        node: NodeIndex,
        purpose: Purpose,
        now: Instant,
    ) -> Option<ConnectionId> {
        let address = self.node_address(cluster, node)?.clone();
        let may_connect = self.may_connect(cluster, node, now);
        may_connect.then(|| self.open(cluster, address, purpose, now))
    }

    /// Whether another connection to a node may be opened now.
    fn may_connect(&mut self, id: ClusterId, index: NodeIndex, now: Instant) -> bool {
        let cluster = self.clusters.get_mut(id.position());
        let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) else { return false };
        if !node.is_allowed() || node.is_backing_off(now) {
            return false;
        }
        let may = node.may_connect(self.settings.connection_rate_limit, now);
        if !may {
            self.stats.count(id).connection_rate_limited += 1;
        }
        may
    }

    /// Opens a connection; its handshake goes first.
    pub(super) fn open(
        &mut self,
        cluster: ClusterId,
        address: Address,
        purpose: Purpose,
        now: Instant,
    ) -> ConnectionId {
        if self.connections.len() == 0 {
            self.next_stall_check = now + STALL_CHECK_INTERVAL;
        }
        self.stats.count(cluster).upstream_cx_total += 1;
        let (login, database) = self.login(purpose.profile().identity);
        let read_only = self.settings.reads_from_replicas;
        let pipeline = self.cluster(cluster).map(|cluster| {
            let (config, address) = (&cluster.config, &address);
            let proof = match purpose {
                // Whom to believe is decided by what it tells.
                Purpose::Refresh => Proof::None,
                _ => cluster.proof_of(address),
            };
            Handshake { config, address, purpose, login, database, proof, read_only }.start()
        });
        let pipeline = pipeline.unwrap_or_default();
        let connection = Connection::new(cluster, address, purpose, pipeline, now);
        let id = self.connections.insert(connection);
        self.outputs.push_back(Queued::OpenUpstream(id));
        id
    }
}
