//! What becomes of commands whose connection has gone.

use crate::exchange::Exchange;
use crate::flight::{Completion, Request, State};
use crate::ids::RequestId;
use crate::output::LogLevel;
use crate::upstream::{Lost, LostPart};

impl Exchange {
    /// Sends again what may be, and fails the rest.
    pub(crate) fn take_lost(&mut self, lost: &mut Lost) {
        let text = format!("the connection to {} was lost ({})", lost.address, lost.reason);
        let mut returned = Vec::new();
        while let Some(LostPart { part, range, written }) = lost.pop() {
            self.break_relay(part.request, &text);
            let Some(request) = self.flight.waiting(part.request) else { continue };
            if written && !request.read_only {
                let code = match request.completion {
                    // What Redis says when it has to let go of a client that waits.
                    Completion::Block(_) => "UNBLOCKED",
                    _ => "ERR",
                };
                let text =
                    format!("{code} {text} before the reply: the command may have been executed");
                self.end_watch(part);
                self.fail_executed(part, &text);
            } else {
                let refusal = match written {
                    true => format!("ERR {text} before the reply"),
                    false => format!("CLUSTERDOWN {text} before the command was sent"),
                };
                self.flight.set_refusal(part.request, refusal.into_bytes());
                self.flight.set_held(part);
                returned.push((part, range));
            }
        }
        // None of these has to wait for those behind it, because they have come back too.
        for (part, range) in returned {
            if self.flight.waiting(part.request).is_none() {
                continue;
            }
            self.upstream.count(lost.cluster).upstream_rq_retry += 1;
            let mut command = self.buffers.take();
            command.extend_from_slice(lost.bytes(range));
            self.resume(part.request, &mut command);
            self.send_again(part, &command);
            self.buffers.recycle(command);
        }
    }

    /// The rest of a reply will not come. If its beginning has been handed on, nothing can be said
    /// to its client any more.
    fn break_relay(&mut self, id: RequestId, reason: &str) {
        let Some(Request { state: State::Relayed, tally, .. }) = self.flight.get(id) else {
            return;
        };
        let Some(client) = self.flight.get(id).and_then(Request::client) else { return };
        let stats = self.downstream.stats_mut();
        stats.finish(*tally, b"-");
        stats.count().downstream_cx_reply_cut += 1;
        let message = format!("closing a client in the middle of a reply: {reason}");
        self.downstream.log(LogLevel::Warn, message);
        self.close_at_once(client);
    }
}
