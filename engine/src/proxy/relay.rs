//! Large replies are handed on as they come, instead of being put together first.
//!
//! That can be done with a reply that goes to its client as it is, and now: to a whole command on a
//! shared connection, which is the oldest of its client. Once it has begun there is no way back:
//! nothing else is written to the client before its end, the command's time does not run out any
//! more, and if the rest does not come, the client is closed. What nobody waits for is dropped as
//! it comes.

use super::Proxy;
use crate::output::LogLevel;
use crate::request::{Owner, RequestId, State};
use crate::session::SessionId;
use crate::upstream::{ConnectionId, Purpose};

impl Proxy {
    /// Hands on what has come of a reply whose end has not. Returns whether it did: if not, the reply
    /// is to be put together. That counts which is there: a node may announce what it never sends.
    pub(super) fn relay(&mut self, id: ConnectionId, piece: &[u8]) -> bool {
        let Some(connection) = self.connections.get(id) else { return false };
        if connection.relayed.is_none() {
            let is_large = piece.len() > self.config.limits.reply_bytes;
            if !is_large || self.begin_relay(id, piece).is_none() {
                return false;
            }
        }
        self.hand_on(id, piece);
        true
    }

    /// Decides where a large reply goes; `None`: it is to be put together.
    fn begin_relay(&mut self, id: ConnectionId, piece: &[u8]) -> Option<()> {
        let connection = self.connections.get_mut(id)?;
        let Purpose::Shared(..) = connection.purpose else { return None };
        // An error may mean that the command is to be sent again.
        let tag @ (b'$' | b'=' | b'*' | b'%' | b'~') = *piece.first()? else { return None };
        let request_id = connection.pipeline.front_request()?.request;
        if let Some(request) = self.requests.waiting(request_id) {
            match request.owner {
                Owner::Mirror(_) if matches!(request.state, State::Whole(_)) => {}
                Owner::Session(session) if request.is_answered_verbatim() => {
                    let session = self.sessions.get_mut(session)?;
                    if session.pending.front() != Some(&request_id) {
                        return None;
                    }
                    session.begin_relay();
                    self.requests.set_relayed(request_id);
                }
                _ => return None,
            }
        }
        connection.relayed = Some(tag);
        Some(())
    }

    /// Hands on more of a reply.
    fn hand_on(&mut self, id: ConnectionId, piece: &[u8]) {
        let Some((_, session_id)) = self.relayed_to(id) else { return };
        let Some(session) = self.sessions.get_mut(session_id) else { return };
        session.output(&mut self.buffers).extend_from_slice(piece);
        self.queue_write_downstream(session_id);
    }

    /// The rest of a reply has come whose beginning has been handed on.
    pub(super) fn end_relay(&mut self, id: ConnectionId, rest: &[u8]) {
        self.hand_on(id, rest);
        let relayed_to = self.relayed_to(id);
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(tag) = connection.relayed.take() else { return };
        let request = connection.pipeline.front_request();
        connection.pipeline.pop();
        if self.config.enable_command_stats {
            self.note_reply(id, &[tag]);
        }
        if let Some((request, session)) = relayed_to {
            if let Some(session) = self.sessions.get_mut(session) {
                session.end_relay(&mut self.buffers, self.now);
            }
            // All of the reply has been handed on.
            self.hand_over(request, b"");
        } else if let Some(copy) = request {
            self.deliver(copy.request, &[tag]);
        }
    }

    /// The rest of a reply will not come. If its beginning has been handed on, nothing can be said
    /// to its client any more.
    pub(super) fn break_relay(&mut self, id: RequestId, reason: &str) {
        let Some(request) = self.requests.get(id) else { return };
        let (State::Relayed, Some(session)) = (&request.state, request.session()) else { return };
        self.stats.finish(request.tally, b"-");
        self.stats.downstream().downstream_cx_reply_cut += 1;
        self.log(LogLevel::Warn, format!("closing a client in the middle of a reply: {reason}"));
        self.close_at_once(session);
    }

    /// The request, and its client, to which the reply of a connection is being handed on.
    fn relayed_to(&self, id: ConnectionId) -> Option<(RequestId, SessionId)> {
        let sub_request = self.connections.get(id)?.pipeline.front_request()?;
        let request = self.requests.get(sub_request.request)?;
        match request.state {
            State::Relayed => Some((sub_request.request, request.session()?)),
            _ => None,
        }
    }
}
