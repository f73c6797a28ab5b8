//! Large replies are relayed as they come, instead of being put together first.
//!
//! That can be done with a reply that goes to its client as it is, and now: to a whole command on a
//! shared connection, which is the oldest of its client. Once it has begun there is no way back:
//! nothing else is written to the client before its end, the command's time does not run out any
//! more, and if the rest does not come, the client is closed. What nobody waits for is dropped as
//! it comes.

use crate::exchange::Exchange;
use crate::flight::{Owner, Request, State};
use crate::ids::{ConnectionId, RequestId, SessionId};

impl Exchange {
    /// Relays what has come of a reply whose end has not. Returns whether it did: if not, the reply
    /// is to be put together. What is there counts: a node may announce what it never sends.
    pub(crate) fn relay(&mut self, from: ConnectionId, piece: &[u8]) -> bool {
        if !self.upstream.is_relaying(from) {
            let is_large = piece.len() > self.config.limits.reply_bytes;
            if !is_large || self.begin_relay(from, piece).is_none() {
                return false;
            }
        }
        self.relay_piece(from, piece);
        true
    }

    /// Decides where a large reply goes; `None`: it is to be put together.
    fn begin_relay(&mut self, from: ConnectionId, piece: &[u8]) -> Option<()> {
        if !self.upstream.is_shared(from) {
            return None;
        }
        // An error may mean that the command is to be sent again.
        let tag @ (b'$' | b'=' | b'*' | b'%' | b'~') = *piece.first()? else { return None };
        let id = self.upstream.front_part(from)?.request;
        if let Some(request) = self.flight.waiting(id) {
            match request.owner {
                Owner::Mirror(_) if matches!(request.state, State::Whole(_)) => {}
                Owner::Client(client) if request.is_answered_verbatim() => {
                    if self.flight.first(client) != Some(id) {
                        return None;
                    }
                    self.downstream.begin_relay(client);
                    self.flight.set_relayed(id);
                }
                _ => return None,
            }
        }
        self.upstream.begin_relay(from, tag);
        Some(())
    }

    fn relay_piece(&mut self, from: ConnectionId, piece: &[u8]) {
        if let Some((_, client)) = self.relayed_to(from) {
            self.downstream.append(client, piece);
            self.downstream.queue_write(client);
            self.flight.note_relayed(client, piece.len());
        }
    }

    /// The rest of a reply has come whose beginning has been relayed.
    pub(crate) fn end_relay(&mut self, from: ConnectionId, rest: &[u8]) {
        self.relay_piece(from, rest);
        let relayed_to = self.relayed_to(from);
        let Some((part, tag)) = self.upstream.end_relay(from) else { return };
        if let Some((request, client)) = relayed_to {
            self.downstream.end_relay(client, self.now);
            // All of the reply has been handed on.
            self.hand_over(request, b"");
        } else if let Some(copy) = part {
            self.deliver(copy.request, &[tag]);
        }
    }

    /// The request, and its client, to which the reply of a connection is being relayed.
    fn relayed_to(&self, from: ConnectionId) -> Option<(RequestId, SessionId)> {
        let id = self.upstream.front_part(from)?.request;
        match self.flight.get(id)? {
            request @ Request { state: State::Relayed, .. } => Some((id, request.client()?)),
            _ => None,
        }
    }
}
