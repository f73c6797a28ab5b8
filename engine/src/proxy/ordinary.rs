//! The short way of what nearly all clients send nearly all the time: a command with one key, from a
//! client about whom there is nothing special, for a node that is connected; and of its reply.
//!
//! It does what [`command`](super::command), [`dispatch`](super::dispatch) and
//! [`upstream`](super::upstream) do in such a case, and finds out first, at the cost of a few
//! comparisons, that it is one. Whatever else there is takes the long way, and what took the short
//! way up may take the long way back.

use super::Proxy;
use super::dispatch::lane_number;
use crate::command::CommandSpec;
use crate::config::{Config, ReadPolicy};
use crate::request::{Owner, Part, Request, Stage, State, SubRequestId};
use crate::resp::{Protocol, RequestFrame};
use crate::route::{Place, RouteTable};
use crate::session::SessionId;
use crate::time::Instant;
use crate::upstream::{ConnectionId, Expect, Lane, Manner, Purpose};

/// Whether commands may take the short way at all: nothing has to be done for each of them that only
/// some configurations want.
pub(super) fn is_allowed(config: &Config, routes: &RouteTable) -> bool {
    config.faults.is_empty()
        && !config.enable_command_stats
        && !routes.has_mirrors()
        && !routes.rewrites_keys()
}

impl Proxy {
    /// Sends a command that may take the short way; `None`: it may not, and nothing has been done.
    pub(super) fn send_ordinary(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) -> Option<()> {
        let key = frame.arg(spec.ordinary_key().filter(|_| self.takes_short_ways)?)?;
        let session = self.sessions.get(id).filter(|session| session.is_ordinary())?;
        let (place, policy) = self.routes.place_key(key, spec.is_read())?;
        let protocol = session.protocol;
        let connection =
            self.ordinary_connection(id, protocol, place, policy, frame.bytes().len(), now)?;

        let part = Part { stage: Stage::Sent(connection), ..Part::at(place, policy) };
        let mut request = Request::new(Owner::Session(id), protocol, len, State::Whole(part));
        request.read_only = spec.is_read();
        request.ordinary = true;
        request.tally = Some(self.stats.begin(spec));
        let request = self.requests.insert_waiting(request, now + self.config.op_timeout);
        let session = self.sessions.get_mut(id)?;
        session.note_command(spec.name, now);
        session.begin_in(self.epoch);
        session.note_pending(request, len);
        self.stats.downstream().downstream_rq_total += 1;
        let sub_request = SubRequestId { request, part: 0 };
        self.push_ordinary(connection, sub_request, place, policy, frame.bytes(), now);
        Some(())
    }

    /// The same for a part of a split command that has begun.
    pub(super) fn send_ordinary_part(
        &mut self,
        sub_request: SubRequestId,
        command: &[u8],
        now: Instant,
    ) -> Option<()> {
        let request = self.requests.get(sub_request.request)?;
        if !request.is_ordinary() || request.is_overdue(now) {
            return None;
        }
        let Part { cluster, slot, policy, .. } = *request.part(sub_request.part)?;
        let place = Place { cluster, slot: slot? };
        let (client, protocol) = (request.session()?, request.protocol);
        let connection =
            self.ordinary_connection(client, protocol, place, policy, command.len(), now)?;
        let part = self.requests.get_mut(sub_request.request)?.part_mut(sub_request.part)?;
        part.stage = Stage::Sent(connection);
        self.push_ordinary(connection, sub_request, place, policy, command, now);
        Some(())
    }

    /// The connection that is there, and has room, for `len` bytes of an ordinary command.
    fn ordinary_connection(
        &self,
        client: SessionId,
        protocol: Protocol,
        place: Place,
        policy: ReadPolicy,
        len: usize,
        now: Instant,
    ) -> Option<ConnectionId> {
        let cluster = self.clusters.get(place.cluster)?;
        let node = cluster.node_for(place.slot, policy, self.zone.as_deref(), now)?;
        let number = lane_number(Owner::Session(client), self.config.connections_per_node);
        let lane = Lane { manner: Manner { protocol, identity: None }, number };
        let id = cluster.node(node)?.shared(lane)?;
        let connection = self.connections.get(id).filter(|connection| connection.open)?;
        connection.has_room(len, self.config.limits.connection_bytes).then_some(id)
    }

    fn push_ordinary(
        &mut self,
        id: ConnectionId,
        sub_request: SubRequestId,
        place: Place,
        policy: ReadPolicy,
        command: &[u8],
        now: Instant,
    ) {
        if let Some(cluster) = self.clusters.get_mut(place.cluster) {
            cluster.end_turn(place.slot, policy);
        }
        if let Some(connection) = self.connections.get_mut(id) {
            if connection.pipeline.is_empty() {
                connection.silent_since = now;
            }
            connection.pipeline.push(Expect::Request(sub_request), command);
        }
        self.stats.upstream(place.cluster).upstream_rq_total += 1;
        self.queue_write_upstream(id);
    }

    /// Hands over a reply that may take the short way; `None`: it may not, and nothing has been done.
    pub(super) fn take_ordinary_reply(&mut self, id: ConnectionId, reply: &[u8]) -> Option<()> {
        if matches!(reply.first(), None | Some(b'-' | b'>')) {
            return None;
        }
        let connection = self.connections.get_mut(id)?;
        if !matches!(connection.purpose, Purpose::Shared(..))
            || connection.relayed.is_some()
            || !connection.pipeline.is_open()
        {
            return None;
        }
        let sub_request = connection.pipeline.front_request()?;
        let request = self.requests.get(sub_request.request)?;
        if !request.is_ordinary() {
            return None;
        }
        let is_split = matches!(request.state, State::Split(_));
        let session = self.sessions.get(request.session()?)?;
        // Those before it that have come back may have been overtaken.
        if session.alone {
            return None;
        }
        connection.pipeline.pop();
        match is_split {
            true => self.take_part(sub_request, reply),
            false => self.hand_over(sub_request.request, reply),
        }
        Some(())
    }
}
