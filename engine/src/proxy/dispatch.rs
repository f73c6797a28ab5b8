//! From commands to the connections that carry them.

use std::time::Duration;

use super::identity::ask_permit;
use super::redirection::not_allowed;
use super::{PING, Proxy};
use crate::cluster::{Address, NodeIndex};
use crate::config::{Credentials, ReadPolicy};
use crate::hold::Held;
use crate::identity::Login;
use crate::output::Queued;
use crate::request::{
    Extra, Leave, Owner, Part, Request, RequestId, Stage, State, SubRequestId, Way,
};
use crate::resp;
use crate::session::Session;
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId, Expect, Handshake, Lane, Manner, Purpose};

/// How long a command waits before it tries again where it was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// `ASKING` as a command: the next one may be served by a node that is importing its slot.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

impl Proxy {
    /// Sends a sub-request to the owner of its slot, or holds it until it can be sent.
    pub(super) fn send(&mut self, sub_request: SubRequestId, command: &[u8], now: Instant) {
        let Some(request) = self.requests.waiting(sub_request.request) else { return };
        if request.is_overdue(now) {
            // It has waited behind others for so long. It ends when this event does: see `settle`.
            return;
        }
        if request.way == Way::WatchedExec {
            return self.send_watched(sub_request, command, now);
        }
        let Some(&mut Part { cluster, slot, policy, .. }) = request.part_mut(sub_request.part)
        else {
            return;
        };
        let Some(cluster) = self.clusters.get_mut(cluster) else { return };
        let node = match (slot, policy) {
            (None, ReadPolicy::Master) => cluster.home(now),
            (None, _) => cluster.any_primary(&mut self.rng),
            (Some(slot), policy) => {
                let node = cluster.node_for(slot, policy, self.zone.as_deref(), now);
                cluster.end_turn(slot, policy);
                node
            }
        };
        match node {
            Some(node) => self.send_to(node, sub_request, command, Leave::Owner, now),
            None => {
                if cluster.is_known() {
                    // As a node would say it; perhaps the topology was read during a failover.
                    request.extra_mut().refusal = b"CLUSTERDOWN Hash slot not served".to_vec();
                    cluster.refresh.hurry(now);
                }
                self.hold(sub_request, command, now);
            }
        }
    }

    /// Sends a sub-request to this node.
    pub(super) fn send_to(
        &mut self,
        node: NodeIndex,
        sub_request: SubRequestId,
        command: &[u8],
        leave: Leave,
        now: Instant,
    ) {
        let Some(request) = self.requests.waiting(sub_request.request) else { return };
        let lanes = self.config.connections_per_node;
        let number = lane_number(request.owner, lanes);
        if let Way::Watch(given) = &mut request.way {
            *given = leave;
        }
        let (way, session) = (request.way, request.session());
        let manner = Manner { protocol: request.protocol, identity: request.identity };
        let ordinary = Lane { manner, number };
        let lane = if request.urgent { Lane { number: lanes, ..ordinary } } else { ordinary };
        let tracked = request.tracked;
        let is_own_exec = manner.identity.is_some() && request.extra().exec.is_some();
        let Some(&Part { cluster, stage, .. }) = request.part(sub_request.part) else { return };
        let connection = match (way, session) {
            (_, Some(session)) if tracked => {
                self.tracked_connection(session, cluster, node, manner, now)
            }
            (Way::Blocking(_) | Way::Watch(_), Some(session)) => {
                self.dedicated_connection(session, cluster, node, manner, now)
            }
            (_, Some(session)) if is_own_exec => {
                self.dedicated_connection(session, cluster, node, manner, now)
            }
            _ => self.shared_connection(cluster, node, lane, now),
        };
        let Some(connection) = connection else {
            if let Some(cluster) = self.clusters.get_mut(cluster) {
                cluster.refresh.hurry_for_waiting(now);
                let address = cluster.address(node).filter(|at| !cluster.config.allows(at));
                if let Some(address) = address
                    && let Some(request) = self.requests.get_mut(sub_request.request)
                {
                    let text = not_allowed(&cluster.config, address);
                    request.extra_mut().refusal = text.into_bytes();
                }
            }
            // The topology is the proxy's own business.
            let manner = Manner { identity: None, ..manner };
            self.ask_heirs(cluster, node, Lane { manner, number }, now);
            return self.hold(sub_request, command, now);
        };
        if stage != Stage::New && self.would_overtake(sub_request, connection) {
            return self.hold(sub_request, command, now);
        }
        self.push(connection, sub_request, command, leave, now);
    }

    /// Keeps a sub-request until the next chance to send it.
    pub(super) fn hold(&mut self, sub_request: SubRequestId, command: &[u8], now: Instant) {
        if self.hold.bytes().saturating_add(command.len()) > self.config.limits.held_bytes {
            return self.fail(
                sub_request,
                "CLUSTERDOWN too many commands wait for a node that can serve them",
            );
        }
        self.note_held(sub_request);
        let mut kept = self.buffers.take();
        kept.extend_from_slice(command);
        self.hold.push(Held { sub_request, command: kept });
        let pause = self.rng.jitter(RETRY_PAUSE);
        self.hold.release_at(now + pause);
    }

    /// A sub-request has come back, or cannot be sent: nothing is read from its client that could
    /// overtake it.
    pub(super) fn note_held(&mut self, sub_request: SubRequestId) {
        let Some(request) = self.requests.waiting(sub_request.request) else { return };
        if let Some(part) = request.part_mut(sub_request.part) {
            part.stage = Stage::Held;
            part.redirections = 0;
        }
        self.keep_alone(sub_request);
    }

    /// Lets no command follow those of the client of this one, until they are answered.
    pub(super) fn keep_alone(&mut self, sub_request: SubRequestId) {
        let request = self.requests.get(sub_request.request);
        let session = request.and_then(|request| self.sessions.get_mut(request.session()?));
        if let Some(session) = session {
            session.alone = true;
        }
    }

    /// Lets all held commands try again, in the order in which they came.
    pub(super) fn release_held(&mut self, now: Instant) {
        for Held { sub_request, command } in self.hold.take_all() {
            if let Some(request) = self.requests.waiting(sub_request.request) {
                match request.state {
                    State::Hello(_) => self.finish_hello(sub_request.request, now),
                    State::Unplanned(..) => self.spread(sub_request.request, &command, now),
                    _ => self.send_again(sub_request, &command, now),
                }
            }
            self.buffers.recycle(command);
        }
    }

    /// Sends a sub-request that has come back, if it does not get out of its client's order: it
    /// waits until those behind it are answered, and [`Self::send_to`] sees to it that it follows
    /// those before it. If one behind it has been executed meanwhile, it is too late for this one:
    /// see [`Self::fail_overtaken`].
    pub(super) fn send_again(&mut self, sub_request: SubRequestId, command: &[u8], now: Instant) {
        if self.is_followed(sub_request) {
            self.hold(sub_request, command, now);
        } else {
            self.send(sub_request, command, now);
        }
    }

    /// Whether a later command of the same client for the same slot is under way.
    pub(super) fn is_followed(&self, sub_request: SubRequestId) -> bool {
        let Some((session, request, part)) = self.ordered(sub_request) else { return false };
        let later = session.pending.iter().rev().take_while(|id| **id != sub_request.request);
        self.rivals(request, part, later).any(|(_, stage)| matches!(stage, Stage::Sent(_)))
    }

    /// Whether a sub-request would get ahead of an earlier command of its client for the same slot
    /// by this connection, because that one has gone another way or is held.
    fn would_overtake(&self, sub_request: SubRequestId, connection: ConnectionId) -> bool {
        let Some((session, request, part)) = self.ordered(sub_request) else { return false };
        let earlier = session.pending.iter().take_while(|id| **id != sub_request.request);
        self.rivals(request, part, earlier).any(|(_, stage)| stage != Stage::Sent(connection))
    }

    /// A sub-request has, or may have, been executed: earlier ones of its client for the same slot
    /// that were to be sent again would now be executed in the wrong order. They fail as refused.
    pub(super) fn fail_overtaken(&mut self, sub_request: SubRequestId) {
        let Some((session, request, part)) = self.ordered(sub_request) else { return };
        if !session.alone {
            return;
        }
        let earlier = session.pending.iter().take_while(|id| **id != sub_request.request);
        let overtaken: Vec<_> = self
            .rivals(request, part, earlier)
            .filter(|(_, stage)| *stage == Stage::Held)
            .map(|(overtaken, _)| overtaken)
            .collect();
        for overtaken in overtaken {
            let mut error = self.buffers.take();
            if let Some(request) = self.requests.get(overtaken.request) {
                resp::encode::error(&mut error, request.refusal());
            }
            self.hand_in(overtaken, &error);
            self.buffers.recycle(error);
        }
    }

    /// A sub-request with its client and its place, if its order with the client's others matters:
    /// that of mirrors' copies and of what is left to replicas does not.
    fn ordered(&self, sub_request: SubRequestId) -> Option<(&Session, &Request, &Part)> {
        let request = self.requests.get(sub_request.request)?;
        let session = self.sessions.get(request.session()?)?;
        let part = request.part(sub_request.part)?;
        (part.policy == ReadPolicy::Master).then_some((session, request, part))
    }

    /// What of `others` must keep its order with a sub-request: what is for the same slot, unless both
    /// only read.
    fn rivals<'a>(
        &'a self,
        request: &'a Request,
        part: &'a Part,
        others: impl Iterator<Item = &'a RequestId>,
    ) -> impl Iterator<Item = (SubRequestId, Stage)> {
        let others = others.filter_map(|id| Some((*id, self.requests.get(*id)?)));
        let others = others.filter(|(_, other)| !(request.read_only && other.read_only));
        others.flat_map(|(id, other)| {
            let there = other.parts().filter(|(_, other)| {
                other.cluster == part.cluster
                    && other.slot == part.slot
                    && other.policy == ReadPolicy::Master
            });
            there.map(move |(part, other)| (SubRequestId { request: id, part }, other.stage))
        })
    }

    /// Opens a connection; its handshake goes first.
    pub(super) fn open_connection(
        &mut self,
        cluster: usize,
        address: Address,
        purpose: Purpose,
        now: Instant,
    ) -> ConnectionId {
        if self.connections.len() == 0 {
            self.next_stall_check = now + super::STALL_CHECK_INTERVAL;
        }
        self.stats.upstream(cluster).upstream_cx_total += 1;
        let handshake = self.handshake(cluster, &address, purpose);
        let connection = Connection::new(cluster, address, purpose, &handshake, now);
        let id = self.connections.insert(connection);
        self.outputs.push_back(Queued::OpenUpstream(id));
        id
    }

    /// What a node has to hear before anything else.
    fn handshake(&self, cluster: usize, address: &Address, purpose: Purpose) -> Handshake {
        let Some(cluster) = self.clusters.get(cluster) else { return Handshake::default() };
        let fits = |credentials: &&Credentials| {
            credentials.address.as_ref().is_none_or(|only| only == address)
        };
        let (login, database) = self.login(purpose.manner().identity);
        let credentials = match login {
            Login::Configured => cluster.config.credentials.iter().find(fits).cloned(),
            Login::Nobody => None,
            Login::User { name: username, password } => {
                Some(Credentials { address: None, username, password })
            }
        };
        let is_shared = matches!(purpose, Purpose::Shared(..));
        Handshake {
            credentials,
            database,
            read_only: is_shared && self.routes.reads_from_replicas(),
            zone: is_shared && cluster.config.enable_zone_discovery,
        }
    }

    /// The connection to a node on `lane`, opened if need be; `None` while the node is left alone
    /// after a failure, or has been connected to too often in this second.
    pub(super) fn shared_connection(
        &mut self,
        cluster_index: usize,
        index: NodeIndex,
        lane: Lane,
        now: Instant,
    ) -> Option<ConnectionId> {
        let node = self.clusters.get_mut(cluster_index)?.node_mut(index)?;
        if let Some(connection) = node.shared(lane) {
            return Some(connection);
        }
        let (address, purpose) = (node.address.clone(), Purpose::Shared(index, lane));
        if !self.may_connect(cluster_index, index, now) {
            return None;
        }
        let connection = self.open_connection(cluster_index, address, purpose, now);
        self.clusters.get_mut(cluster_index)?.node_mut(index)?.set_shared(lane, Some(connection));
        Some(connection)
    }

    /// Whether another connection to a node may be opened now.
    pub(super) fn may_connect(
        &mut self,
        cluster_index: usize,
        index: NodeIndex,
        now: Instant,
    ) -> bool {
        let cluster = self.clusters.get_mut(cluster_index);
        let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) else { return false };
        if !node.is_allowed() || node.is_backing_off(now) {
            return false;
        }
        let may = node.may_connect(self.config.connection_rate_limit, now);
        if !may {
            self.stats.upstream(cluster_index).connection_rate_limited += 1;
        }
        may
    }

    pub(super) fn push(
        &mut self,
        id: ConnectionId,
        sub_request: SubRequestId,
        command: &[u8],
        leave: Leave,
        now: Instant,
    ) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(request) = self.requests.waiting(sub_request.request) else { return };
        let is_open = connection.open;
        let Extra { script, exec, caching, .. } = request.extra();
        let script = script.filter(|_| exec.is_none());
        let (caching, replies) = (*caching, exec.as_ref().map_or(1, |exec| exec.replies));
        let is_new = script.is_some_and(|script| !connection.shown.note(script, &self.scripts));
        let mut eval = Vec::new();
        // A script that the node may not know goes with its EVALSHA: if it said NOSCRIPT, the commands
        // behind this one would have been executed already.
        let command = match is_new && self.scripts.rewrite(command, &mut eval).is_some() {
            true => &eval,
            false => command,
        };
        if let Owner::Mirror(_) = request.owner
            && !connection.has_room(command.len(), self.config.limits.mirror_bytes)
        {
            self.stats.upstream(connection.cluster).mirror_dropped_overflow += 1;
            return self.deliver(sub_request.request, b"");
        }
        if !connection.has_room(command.len(), self.config.limits.connection_bytes) {
            let text = connection.crowded();
            return self.fail(sub_request, &text);
        }
        if connection.pipeline.is_empty() {
            connection.silent_since = now;
        }
        if request.identity.is_some() && (request.extra().exec.is_some() || request.way.is_watch())
        {
            let watches = request.session().and_then(|session| self.sessions.get(session));
            let watches = watches.and_then(|session| session.watch.connection()) == Some(id);
            // What has been watched once could be.
            if self.config.auth_passthrough && !watches {
                ask_permit(&mut connection.pipeline);
            }
        }
        if let Some(part) = request.part_mut(sub_request.part) {
            part.stage = Stage::Sent(id);
        }
        if let Some(caching) = caching {
            connection.pipeline.push(Expect::Nothing, caching);
        }
        if leave == Leave::Asked {
            connection.pipeline.push(Expect::Nothing, ASKING);
        }
        // WAIT is about what its server had written when the connection's last command ended (redis
        // `replication.c`, `client.woff`), so one has to come before it, after the client's writes on
        // other connections.
        if let (Way::Blocking(_), State::Split(_)) = (request.way, &request.state) {
            connection.pipeline.push(Expect::Nothing, PING);
        }
        connection.pipeline.push_unit(Expect::Request(sub_request), command, replies);
        self.stats.upstream(connection.cluster).upstream_rq_total += 1;
        if self.config.enable_command_stats {
            self.note_sent(id, sub_request);
        }
        if !is_open {
            self.note_waiting_for_dial(now);
        }
        self.queue_write_upstream(id);
        self.suspend_blocked(id);
        self.note_untracked(sub_request, leave);
    }
}

/// Which of so many lanes the commands of this owner take. A client keeps to its lane, and a mirror to one:
/// order is kept.
pub(super) fn lane_number(owner: Owner, lanes: u32) -> u32 {
    let number = match owner {
        Owner::Session(session) => session.index() as u32,
        Owner::Mirror(_) => 0,
    };
    number.checked_rem(lanes).unwrap_or_default()
}
