//! Scripts that a node does not know are brought to it.

use std::ops::Range;

use super::Proxy;
use crate::command::{CommandSpec, Flags};
use crate::request::SubRequestId;
use crate::resp::{Limits, RequestFrame, RequestParser, encode};
use crate::scripts::Scripts;
use crate::time::Instant;
use crate::upstream::ConnectionId;

/// How a node answers an EVALSHA of a script that it does not know. It has then executed nothing.
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script.";

impl Proxy {
    /// Remembers a script that a command brings; forgets all of them with the nodes.
    pub(super) fn note_script(&mut self, spec: &CommandSpec, frame: &RequestFrame<'_>) {
        if !spec.flags.contains(Flags::NOSCRIPT) {
            return;
        }
        let body = match spec.name {
            "eval" | "eval_ro" => frame.arg(1),
            "script|load" => frame.arg(2),
            "script|flush" if flushes(frame) => return self.scripts.forget_all(),
            _ => None,
        };
        if let Some(body) = body {
            self.scripts.note(body);
        }
    }

    /// Answers a node that does not know the script of an EVALSHA with the EVAL that brings it. Returns
    /// `false` if `reply` is another one, or the script is not known here either.
    pub(super) fn bring_script(
        &mut self,
        from: ConnectionId,
        sub_request: SubRequestId,
        command: Range<usize>,
        reply: &[u8],
        now: Instant,
    ) -> bool {
        if !reply.starts_with(NOSCRIPT) {
            return false;
        }
        let mut eval = self.buffers.take();
        let written = self.write_eval(from, command, &mut eval).is_some();
        let request = self.requests.waiting(sub_request.request).filter(|_| written);
        if let Some(request) = request {
            request.refusal =
                reply.trim_ascii_end().strip_prefix(b"-").unwrap_or_default().to_vec();
            self.send_again(sub_request, &eval, now);
        }
        self.buffers.recycle(eval);
        written
    }

    /// Writes the EVAL for an EVALSHA that was sent.
    fn write_eval(
        &self,
        from: ConnectionId,
        command: Range<usize>,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let bytes = self.connections.get(from)?.pipeline.bytes(command);
        let mut parser = RequestParser::new();
        parser.parse(bytes, &Limits::UNBOUNDED).ok()?;
        self.scripts.write_eval(&parser.frame(bytes), out)
    }
}

/// Whether a SCRIPT FLUSH is one that nodes will not refuse.
fn flushes(frame: &RequestFrame<'_>) -> bool {
    let is_mode =
        |word: &[u8]| word.eq_ignore_ascii_case(b"SYNC") || word.eq_ignore_ascii_case(b"ASYNC");
    frame.len() == 2 || (frame.len() == 3 && frame.arg(2).is_some_and(is_mode))
}

impl Scripts {
    /// Writes the EVAL for an EVALSHA of a script that is known; `None` if it is none.
    pub(super) fn write_eval(&self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) -> Option<()> {
        let name = match frame.arg(0)? {
            name if name.eq_ignore_ascii_case(b"EVALSHA") => b"EVAL".as_slice(),
            name if name.eq_ignore_ascii_case(b"EVALSHA_RO") => b"EVAL_RO",
            _ => return None,
        };
        let body = self.find(frame.arg(1)?)?;
        encode::array_header(out, frame.len());
        encode::bulk(out, name);
        encode::bulk(out, body);
        for index in 2..frame.len() {
            out.extend_from_slice(frame.raw(index)?);
        }
        Some(())
    }
}
