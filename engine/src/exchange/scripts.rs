//! Scripts that a node does not know are brought to it.

use crate::command::{self, CommandSpec, Flags, Lookup};
use crate::exchange::Exchange;
use crate::ids::{ConnectionId, PartId, RequestId};
use crate::resp::{RequestFrame, RequestParser, encode, parse_decimal};
use crate::scripts::Digest;
use crate::upstream::Span;

/// How a node answers an EVALSHA of a script that it does not know. It has then executed nothing.
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script.";

/// How a node answers an EVAL of what is no script.
const NO_SCRIPT: &[u8] = b"-ERR Error compiling script";

impl Exchange {
    /// Remembers a script that a command brings; forgets all of them with the nodes. Returns which
    /// script the command runs, if it is one that the proxy knows.
    #[inline]
    pub(crate) fn note_script(
        &mut self,
        spec: &CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> Option<Digest> {
        if !spec.flags.contains(Flags::NOSCRIPT) {
            return None;
        }
        self.note_script_command(spec, frame)
    }

    fn note_script_command(
        &mut self,
        spec: &CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> Option<Digest> {
        match spec.name {
            "eval" | "eval_ro" if counts_keys(frame) => self.scripts.note(frame.arg(1)?),
            "evalsha" | "evalsha_ro" => self.scripts.find_digest(frame.arg(1)?),
            "script|load" => {
                self.scripts.note(frame.arg(2)?);
                None
            }
            "script|flush" if flushes(frame) => {
                self.scripts.forget_all();
                None
            }
            _ => None,
        }
    }

    /// Remembers the scripts that a transaction brings, which goes to a node now.
    pub(crate) fn note_scripts_of(&mut self, unit: &[u8]) {
        let (mut parser, mut read) = (RequestParser::new(), 0);
        while let Some(rest) = unit.get(read..)
            && let Some((command, frame, len)) = command::read_again(&mut parser, rest)
        {
            if let Lookup::Known(spec) = command {
                self.note_script(spec, &frame);
            }
            read += len;
        }
    }

    /// Which of the scripts that a SCRIPT EXISTS names are known here, and so will be wherever they
    /// are run; `None` if the command is another one.
    pub(crate) fn known_scripts(
        &self,
        spec: &CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> Option<Vec<u8>> {
        if spec.name != "script|exists" {
            return None;
        }
        let mut reply = Vec::new();
        encode::array_header(&mut reply, frame.len().saturating_sub(2));
        for name in frame.args().skip(2) {
            encode::integer(&mut reply, i64::from(self.scripts.find(name).is_some()));
        }
        Some(reply)
    }

    /// A script has been answered: if it is none, no node has kept it.
    pub(super) fn note_no_script(&mut self, id: RequestId, reply: &[u8]) {
        if reply.starts_with(NO_SCRIPT)
            && let Some(digest) = self.flight.get(id).and_then(|request| request.rare().script)
        {
            self.scripts.forget(digest);
        }
    }

    /// Answers a node that does not know the script of an EVALSHA with the EVAL that brings it.
    /// Returns `false` if `reply` is another one, or the script is not known here either.
    pub(super) fn bring_script(
        &mut self,
        from: ConnectionId,
        id: PartId,
        command: Span,
        reply: &[u8],
    ) -> bool {
        if !reply.starts_with(NOSCRIPT) {
            return false;
        }
        self.upstream.forget_shown(from);
        // What was shown only after this command was sent, Redis would not know either.
        let request = self.flight.waiting(id.request);
        if request.is_none_or(|request| request.rare().script.is_none()) {
            return false;
        }
        let mut eval = self.buffers.take();
        let sent = self.upstream.command(from, command);
        let is_written = self.scripts.rewrite(sent, &mut eval).is_some();
        if is_written {
            let refusal = reply.trim_ascii_end().strip_prefix(b"-").unwrap_or_default();
            self.flight.set_refusal(id.request, refusal.to_vec());
            self.send_again(id, &eval);
        }
        self.buffers.recycle(eval);
        is_written
    }
}

/// Whether an EVAL has as many keys as it says: else a node refuses it before it looks at the
/// script.
fn counts_keys(frame: &RequestFrame<'_>) -> bool {
    let count = frame.arg(2).and_then(parse_decimal).and_then(|count| usize::try_from(count).ok());
    count.is_some_and(|count| count <= frame.len().saturating_sub(3))
}

/// Whether a SCRIPT FLUSH is one that nodes will not refuse.
fn flushes(frame: &RequestFrame<'_>) -> bool {
    let is_mode =
        |word: &[u8]| word.eq_ignore_ascii_case(b"SYNC") || word.eq_ignore_ascii_case(b"ASYNC");
    frame.len() == 2 || (frame.len() == 3 && frame.arg(2).is_some_and(is_mode))
}
