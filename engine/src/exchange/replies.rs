//! What becomes of a node's reply to a client's command.

use crate::cluster::ErrorReply;
use crate::exchange::{Event, Exchange};
use crate::flight::{Completion, Owner, State};
use crate::ids::{ConnectionId, PartId};
use crate::resp::Reply;
use crate::route::Place;
use crate::upstream::Span;

impl Exchange {
    /// A node has answered a part, whose bytes are at `command`.
    #[inline]
    pub(crate) fn take_reply(
        &mut self,
        from: ConnectionId,
        id: PartId,
        command: Span,
        dedicated: bool,
        reply: &[u8],
    ) {
        let is_error = matches!(reply.first(), None | Some(b'-'));
        if let Some(request) = self.flight.waiting(id.request)
            && !is_error
            && !dedicated
            && request.is_plain()
        {
            let is_split = matches!(request.state, State::Split(_));
            // Those before it that have come back may have been overtaken.
            if let Owner::Client(client) = request.owner
                && self.flight.has_barrier(client)
            {
                self.fail_overtaken(id);
            }
            return match is_split {
                true => self.take_part(id, reply),
                false => self.hand_over(id.request, reply),
            };
        }
        self.take_special_reply(from, id, command, reply);
        if dedicated {
            self.upstream.release(from, self.now);
        }
    }

    /// A reply before the last has come to commands that stay together.
    pub(crate) fn note_queued(&mut self, id: PartId, reply: &[u8]) {
        if self.flight.waiting(id.request).is_some() {
            self.flight.note_queued(id.request, reply);
        }
    }

    fn take_special_reply(&mut self, from: ConnectionId, id: PartId, command: Span, reply: &[u8]) {
        if self.flight.waiting(id.request).is_none() {
            return;
        }
        let verdict = self.flight.take_verdict(id.request, reply);
        let verdict = verdict.as_deref().unwrap_or(reply);
        let error = match verdict.strip_prefix(b"-").and_then(|text| text.strip_suffix(b"\r\n")) {
            Some(text) => ErrorReply::of(text),
            None => ErrorReply::Final,
        };
        if error == ErrorReply::Final {
            self.note_no_script(id.request, reply);
            if !self.bring_script(from, id, command.clone(), reply) {
                self.note_outcome(from, id, command, reply);
                self.fail_overtaken(id);
                self.hand_in(id, reply);
            }
            return;
        }
        let mut sent = self.buffers.take();
        sent.extend_from_slice(self.upstream.command(from, command));
        self.resume(id.request, &mut sent);
        self.send_elsewhere(from, id, &error, verdict, &sent);
        self.buffers.recycle(sent);
    }

    /// A command has been executed, or refused for good: sees to what follows from that beside the
    /// reply.
    fn note_outcome(&mut self, from: ConnectionId, id: PartId, command: Span, reply: &[u8]) {
        let Some(request) = self.flight.get(id.request) else { return };
        match &request.completion {
            Completion::Watch => self.note_watching(from, id, reply),
            Completion::Block(blocking) => {
                let blocking = *blocking;
                let mut sent = self.buffers.take();
                sent.extend_from_slice(self.upstream.command(from, command));
                self.mirror_effect(blocking, &sent, reply);
                self.buffers.recycle(sent);
            }
            Completion::Exec(exec) if exec.watched_by.is_some() => {
                self.end_watch(id);
                if reply.first() == Some(&b'*') && !Reply::new(reply).is_null() {
                    let mut sent = self.buffers.take();
                    sent.extend_from_slice(self.upstream.command(from, command));
                    self.mirror_transaction(id.request, &sent);
                    self.buffers.recycle(sent);
                }
            }
            Completion::Deliver
            | Completion::Publish { .. }
            | Completion::Scan(_)
            | Completion::Exec(_)
            | Completion::Claim
            | Completion::StartTracking => {}
        }
    }

    /// A WATCH has been answered: from now on the connection is the client's.
    fn note_watching(&mut self, connection: ConnectionId, id: PartId, reply: &[u8]) {
        let Some(request) = self.flight.get(id.request) else { return };
        let (Some(client), State::Whole(part)) = (request.client(), &request.state) else { return };
        let Some(slot) = part.target.slot().filter(|_| reply == b"+OK\r\n") else { return };
        let (place, mode) = (Place { cluster: part.cluster, slot }, part.mode);
        self.upstream.set_watching(connection, true);
        self.events.push_back(Event::Watched { client, connection, place, mode });
    }

    /// EXEC has been answered: nothing is watched for its client any more.
    pub(super) fn end_watch(&mut self, id: PartId) {
        let Some(request) = self.flight.get(id.request) else { return };
        if let (Some(client), Completion::Exec(exec)) = (request.client(), &request.completion)
            && let Some(connection) = exec.watched_by
        {
            self.upstream.set_watching(connection, false);
            self.events.push_back(Event::WatchEnded(client));
        }
    }

    /// Answers EXEC as if a watched key had changed: the client will try again.
    pub(super) fn fail_watched(&mut self, id: PartId) {
        let Some(request) = self.flight.get(id.request) else { return };
        let mut reply = self.buffers.take();
        crate::resp::encode::null_array(&mut reply, request.protocol);
        self.end_watch(id);
        self.fail_overtaken(id);
        self.hand_in(id, &reply);
        self.buffers.recycle(reply);
    }
}
