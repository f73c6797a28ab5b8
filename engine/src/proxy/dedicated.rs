//! Connections that one client has to itself for a while: to wait on, or to watch keys by.

use std::time::Duration;

use super::Proxy;
use crate::blocking::Blocking;
use crate::cluster::NodeIndex;
use crate::request::{Part, RequestId, State, Way};
use crate::session::SessionId;
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId, Expect, Manner, Purpose};

/// Connections kept for the next client that wants one.
const SPARE: usize = 64;
/// For how long they are kept.
const SPARE_TIME: Duration = Duration::from_secs(30);

impl Proxy {
    /// A connection to a node that nobody but this client uses; `None` while the node is left alone
    /// after a failure, or has been connected to too often in this second.
    pub(super) fn dedicated_connection(
        &mut self,
        id: SessionId,
        cluster: usize,
        index: NodeIndex,
        manner: Manner,
        now: Instant,
    ) -> Option<ConnectionId> {
        let address = self.clusters.get_mut(cluster)?.node_mut(index)?.address.clone();
        let leads_there = |id: ConnectionId| {
            self.connections.get(id).is_some_and(|connection| {
                let speaks = |of| matches!(of, Purpose::Dedicated(_, speaks) if speaks == manner);
                connection.cluster == cluster
                    && connection.address == address
                    && speaks(connection.purpose)
            })
        };
        let session = self.sessions.get(id)?;
        if let Some(own) = session.dedicated.iter().copied().find(|own| leads_there(*own)) {
            return Some(own);
        }
        let connection = match self.spare.iter().rposition(|spare| leads_there(*spare)) {
            Some(position) => self.spare.remove(position),
            None => {
                if !self.may_connect(cluster, index, now) {
                    return None;
                }
                let purpose = Purpose::Dedicated(index, manner);
                self.open_connection(cluster, address, purpose, now)
            }
        };
        self.connections.get_mut(connection)?.user = Some(id);
        self.sessions.get_mut(id)?.dedicated.push(connection);
        Some(connection)
    }

    /// Takes a connection back from a client that no longer needs it.
    pub(super) fn release_dedicated(&mut self, id: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let is_done = connection.pipeline.is_empty() && !connection.tracked;
        let Some(user) = connection.user.filter(|_| is_done) else { return };
        if let Some(session) = self.sessions.get_mut(user) {
            if session.watch.connection() == Some(id) {
                return;
            }
            session.dedicated.retain(|own| *own != id);
        }
        connection.user = None;
        connection.doubted = false;
        connection.silent_since = now;
        self.spare.push(id);
        if self.spare.len() > SPARE {
            let oldest = self.spare.remove(0);
            self.close_quietly(oldest);
        }
    }

    /// Closes the connections of a client that will not wait for what is due on them: a node must
    /// not give an element to nobody, nor a late reply to somebody else.
    pub(super) fn abandon_dedicated(&mut self, id: SessionId) {
        let has_tracked = self.sessions.get(id).is_some_and(|session| self.has_tracked(session));
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.lose_watch();
        for connection in std::mem::take(&mut session.dedicated) {
            self.close_quietly(connection);
        }
        if has_tracked {
            self.invalidate(id, None);
        }
    }

    /// A connection has gone: nobody has it any more, and nothing is watched by it.
    pub(super) fn forget_dedicated(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        now: Instant,
    ) {
        self.spare.retain(|spare| *spare != id);
        let Some(user) = connection.user else { return };
        let Some(session) = self.sessions.get_mut(user) else { return };
        session.dedicated.retain(|own| *own != id);
        if session.watch.connection() == Some(id) {
            session.lose_watch();
        }
        if connection.tracked {
            self.lose_tracking(user, connection, now);
        }
    }

    /// Closes connections that nobody has wanted for a while.
    pub(super) fn close_spare(&mut self, now: Instant) {
        let is_old = |id: &ConnectionId| {
            self.connections.get(*id).is_none_or(|connection| {
                now.saturating_duration_since(connection.silent_since) > SPARE_TIME
            })
        };
        let old: Vec<_> = self.spare.iter().copied().filter(is_old).collect();
        for id in old {
            self.spare.retain(|spare| *spare != id);
            self.close_quietly(id);
        }
    }

    /// From here on the node keeps a blocking command waiting, for as long as the client wants.
    pub(super) fn suspend_blocked(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if self.is_blocked(connection)
            && let Some(user) = connection.user.and_then(|user| self.sessions.get_mut(user))
            && let Some(blocked) = user.pending.back()
        {
            user.untimed = true;
            self.requests.suspend(*blocked);
        }
    }

    /// Readies a command for another try: one that was blocked waits for what is left of its time.
    pub(super) fn resume_blocked(&mut self, id: RequestId, command: &mut Vec<u8>, now: Instant) {
        let deadline = now + self.config.op_timeout;
        if !self.requests.resume(id, deadline) {
            return;
        }
        let way = self.requests.get(id).map(|request| request.way);
        if let Some(Way::Blocking(blocking)) = way
            && let Some(shortened) = blocking.shorten(command, now)
        {
            *command = shortened;
        }
    }

    /// Ends the waits that nodes should have ended long ago, and those on nodes that no longer own
    /// the slot and do not say so: they must be dead.
    pub(super) fn end_lost_waits(&mut self, now: Instant) {
        let (mut doubtful, mut lost) = (Vec::new(), Vec::new());
        for (id, connection) in self.connections.iter() {
            let Some((blocking, part)) = self.blocked_on(connection) else { continue };
            let owner =
                part.and_then(|part| self.clusters.get(part.cluster)?.owner_address(part.slot?));
            if blocking.until.is_some_and(|until| until + self.config.op_timeout < now) {
                lost.push((id, "it should have answered by now"));
            } else if owner.is_none_or(|owner| *owner == connection.address) {
                // All is well, or nobody knows better.
            } else if connection.doubted {
                lost.push((id, "it no longer owns the slot and does not say so"));
            } else {
                doubtful.push(id);
            }
        }
        for id in doubtful {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.doubted = true;
            }
        }
        for (id, reason) in lost {
            self.give_up(id, reason, now);
        }
    }

    /// Whether the node keeps a command waiting on a connection, rather than being slow.
    pub(super) fn is_blocked(&self, connection: &Connection) -> bool {
        connection.open && connection.pipeline.is_open() && self.blocked_on(connection).is_some()
    }

    /// What the node keeps waiting on a connection, and where that belongs, if to one slot.
    fn blocked_on(&self, connection: &Connection) -> Option<(Blocking, Option<Part>)> {
        let session = self.sessions.get(connection.user?)?;
        let last = *session.pending.back()?;
        match connection.pipeline.back() {
            Some(Expect::Request(sub_request)) if sub_request.request == last => {}
            _ => return None,
        }
        let request = self.requests.get(last)?;
        match (request.way, &request.state) {
            (Way::Blocking(blocking), State::Whole(part)) => Some((blocking, Some(*part))),
            (Way::Blocking(blocking), State::Split(_)) => Some((blocking, None)),
            _ => None,
        }
    }
}
