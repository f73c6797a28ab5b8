//! Client-side caching: nodes track what a client reads, on connections that it has to itself.
//!
//! A client that caches has a connection to each node that it asks anything of, on which that node
//! tracks for it, with the client's own options. So a node's push comes behind the replies that it
//! is about, and the client gets both in this order. RESP2 has no pushes: there each such
//! connection has another one beside it, of RESP3, to which the node redirects them.
//!
//! No change is lost silently. Whenever a node may have forgotten what it tracks, or no longer
//! hears of all changes, the client is told to forget everything it knows, as Redis advises.

use std::time::Duration;

use super::command::Command;
use super::upstream::Fate;
use super::{PING, Proxy};
use crate::cluster::NodeIndex;
use crate::command::{CommandSpec, Merge};
use crate::config::ReadPolicy;
use crate::identity::IdentityId;
use crate::request::{Leave, Owner, Part, Request, RequestId, Spread, State, SubRequestId, Way};
use crate::resp::{Protocol, Reply, encode};
use crate::session::{Session, SessionId};
use crate::time::Instant;
use crate::tracking::{self, Tracking, Wish};
use crate::upstream::{Connection, ConnectionId, Expect, Manner};

/// A connection on which nothing has come for so long is asked for a sign of life: pushes might be
/// what does not come.
const QUIET: Duration = Duration::from_secs(10);

impl Proxy {
    /// `CLIENT TRACKING`
    pub(super) fn track(&mut self, id: SessionId, command: &Command<'_>, now: Instant) {
        let before = self.sessions.get(id).and_then(|session| session.tracking.as_deref());
        let wish = Wish::parse(&command.frame, before, |client_id| self.find_client(id, client_id));
        match wish.and_then(|wish| self.check_wish(wish)) {
            Ok(Wish::On(tracking)) => self.start_tracking(id, tracking, command.spec, now),
            Ok(Wish::Off) => {
                self.stop_tracking(id);
                self.answer_track(id, command.spec);
            }
            Err(text) => {
                self.stats.finish_at_once(command.spec, false);
                self.answer(id, |out| encode::error(out, text.as_bytes()));
            }
        }
    }

    /// Forgets what a client wants to hear of, without telling it.
    pub(super) fn stop_tracking(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.tracking.take().is_some() {
            self.trackers.remove(&id);
            self.abandon_dedicated(id);
        }
    }

    /// The client speaks another protocol from now on, so it has other connections.
    pub(super) fn restart_tracking(&mut self, id: SessionId) {
        if self.trackers.contains(&id) {
            self.abandon_dedicated(id);
            self.keep_broadcasts(self.now);
        }
    }

    /// `CLIENT CACHING YES|NO`
    pub(super) fn client_caching(&mut self, id: SessionId, answer: &[u8]) -> Result<(), String> {
        let session = self.sessions.get_mut(id);
        let tracking = session.and_then(|session| session.tracking.as_mut()).ok_or(
            "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN \
             or OPTOUT mode enabled",
        )?;
        tracking.set_caching(answer)?;
        self.answer(id, |out| encode::simple(out, b"OK"));
        Ok(())
    }

    /// `CLIENT TRACKINGINFO`
    pub(super) fn client_trackinginfo(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let mut reply = self.buffers.take();
        tracking::write_info(session.tracking.as_deref(), session.protocol, &mut reply);
        self.answer(id, |out| out.extend_from_slice(&reply));
        self.buffers.recycle(reply);
    }

    /// The connection to a node on which that tracks for a client; `None` while there cannot be
    /// one, or the node has not told yet what it calls the one beside it.
    pub(super) fn tracked_connection(
        &mut self,
        id: SessionId,
        cluster: usize,
        node: NodeIndex,
        manner: Manner,
        now: Instant,
    ) -> Option<ConnectionId> {
        let listener = match manner.protocol {
            Protocol::Resp2 => Some(self.listener(id, cluster, node, manner.identity, now)?),
            Protocol::Resp3 => None,
        };
        let own = self.dedicated_connection(id, cluster, node, manner, now)?;
        let connection = self.connections.get_mut(own)?;
        if !connection.tracked {
            connection.tracked = true;
            let mut command = self.buffers.take();
            let tracking = self.sessions.get(id)?.tracking.as_ref()?;
            tracking.write_command(listener, &mut command);
            self.tell_tracker(own, Expect::Tracking, &command, now);
            self.buffers.recycle(command);
        }
        Some(own)
    }

    /// The first command on the connections of a client that caches has been answered, or will not
    /// be.
    pub(super) fn conclude_track(&mut self, id: RequestId, reply: &[u8]) {
        let Some(request) = self.requests.waiting(id) else { return };
        request.way = Way::Shared;
        let session = request.session();
        if Reply::new(reply).error_line().is_none() {
            return self.deliver(id, b"+OK\r\n");
        }
        if let Some(session) = session {
            self.stop_tracking(session);
        }
        self.deliver(id, reply);
    }

    /// A node tracks from now on, or will not.
    pub(super) fn note_tracking(&mut self, id: ConnectionId, reply: &[u8]) -> Fate {
        let Some(connection) = self.connections.get_mut(id) else { return Fate::Closed };
        let user = connection.user;
        let Some(error) = Reply::new(reply).error_line() else {
            if let Some(user) = user.filter(|user| self.is_broadcast(*user)) {
                // Until now it would have told nobody of what has changed.
                self.invalidate(user, None);
            }
            return Fate::Kept;
        };
        let text = String::from_utf8_lossy(error).into_owned();
        let mut refused = Vec::new();
        while let Some(popped) = connection.pipeline.pop() {
            if let Expect::Request(sub_request) = popped.expect {
                refused.push(sub_request);
            }
        }
        if let Some(session) = user.and_then(|user| self.sessions.get_mut(user)) {
            session.dedicated.retain(|own| *own != id);
        }
        self.close_quietly(id);
        for sub_request in refused {
            self.fail(sub_request, &text);
        }
        Fate::Closed
    }

    /// A node has sent something that is no reply.
    pub(super) fn handle_push(&mut self, id: ConnectionId, push: &[u8]) {
        let connection = self.connections.get(id).filter(|connection| connection.tracked);
        let user = connection.and_then(|connection| connection.user);
        if let (Some(user), Some(keys)) = (user, tracking::invalidated(push)) {
            self.invalidate(user, Some(keys));
        }
    }

    /// A command that ASK sent on goes out. A node that hears ASKING forgets what CLIENT CACHING
    /// said, so it will not track what the client now reads.
    pub(super) fn note_untracked(&mut self, sub_request: SubRequestId, leave: Leave) {
        let request = self.requests.get(sub_request.request);
        let request = request.filter(|request| request.extra().caching.is_some());
        if let (Leave::Asked, Some(id)) = (leave, request.and_then(Request::session)) {
            self.invalidate(id, None);
        }
    }

    /// A connection has gone, and with it what the node knew of the client.
    pub(super) fn lose_tracking(&mut self, id: SessionId, lost: &Connection, now: Instant) {
        let Some(session) = self.sessions.get(id) else { return };
        // In RESP2, one is of no use without the other.
        let is_beside = |own: &ConnectionId| {
            let own = self.connections.get(*own);
            own.is_some_and(|own| own.cluster == lost.cluster && own.address == lost.address)
        };
        let beside: Vec<_> = session.dedicated.iter().copied().filter(is_beside).collect();
        for own in beside {
            self.give_up(own, "the one that belongs to it has gone", now);
        }
        if lost.answered {
            self.invalidate(id, None);
        }
    }

    /// Slots have new owners, which track nothing of what clients have read at the old ones.
    pub(super) fn note_moved_keys(&mut self) {
        for id in self.trackers.iter().copied().collect::<Vec<_>>() {
            let has_read = |session: &&Session| self.has_tracked(session);
            if self.sessions.get(id).filter(has_read).is_some() && !self.is_broadcast(id) {
                self.invalidate(id, None);
            }
        }
    }

    /// Clients that want to hear of all keys need a connection to every primary; no client needs
    /// one to a node that has left.
    pub(super) fn keep_broadcasts(&mut self, now: Instant) {
        for id in self.trackers.iter().copied().collect::<Vec<_>>() {
            self.leave_departed(id);
            let Some(session) = self.sessions.get(id).filter(|_| self.is_broadcast(id)) else {
                continue;
            };
            let manner = Manner { protocol: session.protocol, identity: session.identity };
            for index in self.routes.clusters() {
                let Some(cluster) = self.clusters.get(index) else { continue };
                let slots = cluster.lowest_slots();
                let nodes: Vec<_> = slots.iter().filter_map(|slot| cluster.owner(*slot)).collect();
                for node in nodes {
                    self.tracked_connection(id, index, node, manner, now);
                }
            }
        }
    }

    /// Asks nodes that have sent nothing for long whether they are there.
    pub(super) fn ping_quiet_trackers(&mut self, now: Instant) {
        let is_quiet = |connection: &Connection| {
            connection.tracked
                && connection.pipeline.is_empty()
                && now.saturating_duration_since(connection.silent_since) >= QUIET
        };
        let quiet = self.connections.iter().filter(|(_, connection)| is_quiet(connection));
        for id in quiet.map(|(id, _)| id).collect::<Vec<_>>() {
            self.tell_tracker(id, Expect::Nothing, PING, now);
        }
    }

    /// Whether nodes track for a client on any connection.
    pub(super) fn has_tracked(&self, session: &Session) -> bool {
        let mut own = session.dedicated.iter().filter_map(|own| self.connections.get(*own));
        session.is_tracking() && own.any(|connection| connection.tracked)
    }

    /// Tells a client, or whom it wants told instead, that keys have changed; with `None`, that any
    /// may have.
    pub(super) fn invalidate(&mut self, id: SessionId, keys: Option<&[u8]>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let protocol = session.protocol;
        let Some(tracking) = &mut session.tracking else { return };
        let redirect = tracking.redirect;
        let redirect_id = tracking.redirect_id();
        let mut news = self.buffers.take();
        let target =
            redirect.map(|redirect| (redirect.session, self.sessions.get(redirect.session)));
        match target {
            None if protocol == Protocol::Resp2 => {}
            None => {
                tracking::invalidation(&mut news, protocol, keys);
                self.push_in_turn(id, &news);
            }
            Some((target, Some(session))) => {
                if session.protocol == Protocol::Resp3 || !session.subscribed.is_empty() {
                    tracking::invalidation(&mut news, session.protocol, keys);
                    self.push_at_once(target, &news);
                }
            }
            Some((_, None)) => {
                if let Some(session) = self.sessions.get_mut(id)
                    && let Some(tracking) = &mut session.tracking
                {
                    tracking.broken = true;
                }
                if protocol == Protocol::Resp3 {
                    tracking::redirection_broken(&mut news, redirect_id);
                    self.push_in_turn(id, &news);
                }
            }
        }
        self.buffers.recycle(news);
    }

    /// Hands a client news that must not come before the reply to anything that it has sent: that
    /// may be the value which the news is about. What a node keeps waiting is not.
    fn push_in_turn(&mut self, id: SessionId, news: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let last = session.pending.back().and_then(|last| self.requests.get(*last));
        if last.is_none_or(|last| matches!(last.way, Way::Blocking(_))) {
            return self.push_at_once(id, news);
        }
        if session.pending.len() >= self.config.limits.session_requests.saturating_mul(2) {
            // It has so much news to come that it must not miss, and takes none.
            return self.kill(id);
        }
        let state = State::Answered(news.to_vec());
        let request = Request::new(Owner::Session(id), session.protocol, 0, state);
        let request = self.requests.insert_answered(request);
        session.note_pending(request, 0);
        self.bound_replies();
    }

    fn push_at_once(&mut self, id: SessionId, news: &[u8]) {
        self.notify(id, |out, _| out.extend_from_slice(news));
    }

    /// What stands in the way of a wish here, though Redis would grant it.
    fn check_wish(&self, wish: Wish) -> Result<Wish, String> {
        let Wish::On(tracking) = &wish else { return Ok(wish) };
        if self.routes.rewrites_keys() {
            return Err("ERR client-side caching cannot be used through this proxy: one of its \
                        routes rewrites keys (remove_prefix or key_formatter), so nodes call them \
                        by other names"
                .to_owned());
        }
        if !tracking.fits() {
            return Err("ERR the prefixes are too long for this proxy".to_owned());
        }
        if self.trackers.len() >= self.config.limits.tracking_clients {
            return Err("ERR too many clients of this proxy use client-side caching".to_owned());
        }
        Ok(wish)
    }

    /// Begins to track for a client, which is told so when a node has said that it does; if it wants
    /// to hear of all keys, when every primary has.
    fn start_tracking(
        &mut self,
        id: SessionId,
        tracking: Tracking,
        spec: &'static CommandSpec,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.tracking.as_deref() == Some(&tracking) {
            return self.answer_track(id, spec);
        }
        let is_broadcast = tracking.is_broadcast();
        session.tracking = Some(Box::new(tracking));
        let is_mute = !session.is_tracking();
        self.trackers.insert(id);
        // They have other options, or none.
        self.abandon_dedicated(id);
        if is_mute {
            return self.answer_track(id, spec);
        }
        let cluster = self.routes.keyless().map(|route| route.cluster);
        let cluster = cluster.or_else(|| self.routes.clusters().first().copied()).unwrap_or(0);
        let state = match is_broadcast {
            true => State::Unplanned(cluster, Spread::EveryPrimary(Merge::First)),
            false => State::Whole(Part::new(cluster, None, ReadPolicy::Any)),
        };
        let ping = Command::unit(spec, PING, Way::Track);
        let Some(request) = self.begin(Owner::Session(id), &ping, state, now) else { return };
        if let Some(request) = self.requests.get_mut(request) {
            // It may be sent again.
            request.read_only = true;
        }
        match is_broadcast {
            true => self.spread(request, PING, now),
            false => self.send(SubRequestId { request, part: 0 }, PING, now),
        }
    }

    fn answer_track(&mut self, id: SessionId, spec: &'static CommandSpec) {
        self.stats.finish_at_once(spec, true);
        self.answer(id, |out| encode::simple(out, b"OK"));
    }

    /// What a node calls the connection to which it redirects a client's pushes.
    fn listener(
        &mut self,
        id: SessionId,
        cluster: usize,
        node: NodeIndex,
        identity: Option<IdentityId>,
        now: Instant,
    ) -> Option<i64> {
        let manner = Manner { protocol: Protocol::Resp3, identity };
        let own = self.dedicated_connection(id, cluster, node, manner, now)?;
        let connection = self.connections.get_mut(own)?;
        connection.tracked = true;
        connection.node_id
    }

    /// Queues a command of the proxy's own.
    fn tell_tracker(&mut self, id: ConnectionId, expect: Expect, command: &[u8], now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.pipeline.is_empty() {
            connection.silent_since = now;
        }
        connection.pipeline.push(expect, command);
        self.queue_write_upstream(id);
    }

    /// Closes a client's connections to nodes that have left the cluster and owe it nothing.
    fn leave_departed(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let (own, watched) = (session.dedicated.clone(), session.watch.connection());
        for connection_id in own.into_iter().filter(|own| Some(*own) != watched) {
            let Some(connection) = self.connections.get(connection_id) else { continue };
            let cluster = self.clusters.get_mut(connection.cluster);
            let departed =
                cluster.is_some_and(|cluster| cluster.member_mut(&connection.address).is_none());
            if departed && connection.tracked && connection.pipeline.is_empty() {
                if let Some(session) = self.sessions.get_mut(id) {
                    session.dedicated.retain(|own| *own != connection_id);
                }
                self.close_quietly(connection_id);
            }
        }
    }

    /// Whether nodes tell a client of all keys, all of them having begun.
    fn is_broadcast(&self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get(id).filter(|session| session.is_tracking()) else {
            return false;
        };
        let last = session.pending.back().and_then(|last| self.requests.get(*last));
        let begins = last.is_some_and(|last| last.way == Way::Track);
        session.tracking.as_ref().is_some_and(|tracking| tracking.is_broadcast()) && !begins
    }

    fn find_client(&self, id: SessionId, client_id: u64) -> Option<SessionId> {
        let mut sessions = self.fellows(id);
        let found =
            sessions.find(|(_, session)| session.client_id == client_id && !session.closing);
        found.map(|(id, _)| id)
    }
}
