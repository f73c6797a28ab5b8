//! The short way of what nearly all clients send nearly all the time: a command with one key, from a
//! client about whom there is nothing special, for a node that is connected; and of its reply.
//!
//! It does what [`command`](super::command), [`dispatch`](super::dispatch) and
//! [`upstream`](super::upstream) do in such a case, and finds out first, at the cost of a few
//! comparisons, that it is one. Whatever else there is takes the long way, and what took the short
//! way up may take the long way back.

use super::Proxy;
use crate::command::CommandSpec;
use crate::config::{Config, ReadPolicy};
use crate::request::{Owner, Part, Request, Stage, State, SubRequestId};
use crate::resp::RequestFrame;
use crate::route::RouteTable;
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
        let session = self.sessions.get_mut(id).filter(|session| session.is_ordinary())?;
        let (place, policy) = self.routes.place_key(key, spec.is_read())?;
        let cluster = self.clusters.get_mut(place.cluster)?;
        let node = match policy {
            ReadPolicy::Master => cluster.owner(place.slot),
            policy => cluster.reader(place.slot, policy, self.zone.as_deref(), now),
        };
        let number = (id.index() as u32).checked_rem(self.config.connections_per_node);
        let manner = Manner { protocol: session.protocol, identity: None };
        let lane = Lane { manner, number: number.unwrap_or_default() };
        let connection_id = cluster.node(node?)?.shared(lane)?;
        let connection = self.connections.get_mut(connection_id)?;
        let unanswered = connection.pipeline.unanswered_bytes();
        if unanswered.saturating_add(frame.bytes().len()) > self.config.limits.connection_bytes {
            return None;
        }

        if policy != ReadPolicy::Master {
            cluster.end_turn(place.slot);
        }
        session.note_command(spec.name, now);
        if session.pending.is_empty() {
            session.epoch = self.epoch;
            session.untimed = false;
        }
        let stage = Stage::Sent(connection_id);
        let part = Part { stage, ..Part::at(place, policy) };
        let mut request =
            Request::new(Owner::Session(id), session.protocol, len, State::Whole(part));
        request.read_only = spec.is_read();
        request.ordinary = true;
        request.tally = Some(self.stats.begin(spec));
        let request = self.requests.insert_waiting(request, now + self.config.op_timeout);
        session.note_pending(request, len);
        if connection.pipeline.is_empty() {
            connection.silent_since = now;
        }
        let expect = Expect::Request(SubRequestId { request, part: 0 });
        connection.pipeline.push(expect, frame.bytes());
        self.stats.downstream().downstream_rq_total += 1;
        self.stats.upstream(place.cluster).upstream_rq_total += 1;
        self.queue_write_upstream(connection_id);
        Some(())
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
        let SubRequestId { request: request_id, .. } = connection.pipeline.front_request()?;
        let request = self.requests.get(request_id).filter(|request| request.is_ordinary())?;
        let session = self.sessions.get(request.session()?)?;
        // Those before it that have come back may have been overtaken.
        if session.alone {
            return None;
        }
        connection.pipeline.pop();
        self.hand_over(request_id, reply);
        Some(())
    }
}
