//! What becomes of a command that a node has not executed but sent elsewhere, or refused for now.

use crate::cluster::{ErrorReply, Redirection};
use crate::errors;
use crate::exchange::Exchange;
use crate::flight::Completion;
use crate::ids::{ConnectionId, PartId};
use crate::target::{SendMode, Target};

/// A command that nodes have sent on this often waits before it follows them further.
const REDIRECTIONS: u8 = 5;

impl Exchange {
    /// Follows an error that means "not executed here".
    pub(super) fn send_elsewhere(
        &mut self,
        from: ConnectionId,
        id: PartId,
        error: &ErrorReply,
        reply: &[u8],
        command: &[u8],
    ) {
        let is_redirection = matches!(error, ErrorReply::Moved(_) | ErrorReply::Ask(_));
        if is_redirection && !self.config.enable_redirection {
            self.fail_overtaken(id);
            return self.hand_in(id, reply);
        }
        let completion = self.flight.get(id.request).map(|request| &request.completion);
        if let Some(Completion::Exec(exec)) = completion
            && exec.watched_by.is_some()
        {
            return self.fail_watched(id);
        }
        let Some(cluster) = self.upstream.cluster_of(from) else { return };
        let counters = self.upstream.count(cluster);
        counters.upstream_rq_retry += 1;
        let followed = match error {
            ErrorReply::Moved(to) => {
                counters.redirect_moved += 1;
                self.follow(from, id, to, SendMode::Plain, command)
            }
            ErrorReply::Ask(to) => {
                counters.redirect_ask += 1;
                self.follow(from, id, to, SendMode::Asking, command)
            }
            ErrorReply::NotNow | ErrorReply::Unable => self.read_elsewhere(from, id, command),
            ErrorReply::Final => None,
        };
        if followed.is_none() {
            let refusal = self.refusal_of(from, error, reply);
            self.flight.set_refusal(id.request, refusal);
            self.upstream.hurry_for_waiting(cluster, self.now);
            if *error == ErrorReply::Unable {
                self.upstream.ask_replicas_of(from, self.now);
            }
            self.hold(id, command);
        }
    }

    /// What a client is told in the end if an error that could not be followed was the last word.
    fn refusal_of(&self, from: ConnectionId, error: &ErrorReply, reply: &[u8]) -> Vec<u8> {
        if let ErrorReply::Moved(to) | ErrorReply::Ask(to) = error
            && let Some(text) = self.upstream.refused_target(from, to)
        {
            return text.into_bytes();
        }
        if matches!(error, ErrorReply::Ask(_)) {
            return errors::MULTIPLE_KEYS_MOVE.into();
        }
        let text = reply.strip_prefix(b"-").unwrap_or(reply);
        text.strip_suffix(b"\r\n").unwrap_or(text).to_vec()
    }

    /// Sends a command where a redirection points; `None` if that is to be tried later.
    fn follow(
        &mut self,
        from: ConnectionId,
        id: PartId,
        to: &Redirection,
        mode: SendMode,
        command: &[u8],
    ) -> Option<()> {
        let several_keys = self.flight.part(id)?.several_keys;
        if mode == SendMode::Asking && several_keys {
            // Some of them may still be here, where commands behind this one would be served.
            if self.flight.is_followed(id) {
                return None;
            }
            self.flight.keep_order(id.request);
        }
        if self.flight.count_redirection(id) > REDIRECTIONS {
            return None;
        }
        let node = self.upstream.learn_redirection(from, to, mode, self.now)?;
        self.send_to(node, id, command, mode);
        Some(())
    }

    /// Sends a read that a node cannot serve now to another one that may; `None` if it is no such
    /// read, or enough have been tried.
    fn read_elsewhere(&mut self, from: ConnectionId, id: PartId, command: &[u8]) -> Option<()> {
        let target = self.flight.part(id)?.target;
        let redirections = self.flight.count_redirection(id);
        let may_move = matches!(target, Target::Reader(..) | Target::AnyPrimary);
        if !may_move || redirections > REDIRECTIONS {
            return None;
        }
        self.upstream.note_refused_read(from, self.now)?;
        self.send(id, command);
        Some(())
    }
}
