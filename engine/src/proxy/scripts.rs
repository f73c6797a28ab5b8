//! Scripts that a node does not know are brought to it.

use std::ops::Range;

use super::Proxy;
use crate::command::{self, CommandSpec, Flags, Lookup};
use crate::request::SubRequestId;
use crate::resp::{Limits, RequestFrame, RequestParser, encode, parse_decimal};
use crate::scripts::{Digest, Scripts};
use crate::time::Instant;
use crate::upstream::ConnectionId;

/// How a node answers an EVALSHA of a script that it does not know. It has then executed nothing.
const NOSCRIPT: &[u8] = b"-NOSCRIPT No matching script.";

/// How a node answers an EVAL of what is no script.
const NO_SCRIPT: &[u8] = b"-ERR Error compiling script";

impl Proxy {
    /// Remembers a script that a command brings; forgets all of them with the nodes. Returns which script
    /// the command runs, if it is one that the proxy knows.
    pub(super) fn note_script(
        &mut self,
        spec: &CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> Option<Digest> {
        if !spec.flags.contains(Flags::NOSCRIPT) {
            return None;
        }
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
    pub(super) fn note_scripts_of(&mut self, unit: &[u8]) {
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

    /// Which of the scripts that a SCRIPT EXISTS names are known here, and so will be wherever they are
    /// run; `None` if the command is another one.
    pub(super) fn known_scripts(&self, frame: &RequestFrame<'_>) -> Option<Vec<u8>> {
        let Lookup::Known(spec) = command::lookup(frame) else { return None };
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
    pub(super) fn note_no_script(&mut self, digest: Option<Digest>, reply: &[u8]) {
        if let Some(digest) = digest.filter(|_| reply.starts_with(NO_SCRIPT)) {
            self.scripts.forget(digest);
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
        if let Some(connection) = self.connections.get_mut(from) {
            connection.shown.forget_all();
        }
        let request = self.requests.waiting(sub_request.request);
        // What was shown only after this command was sent, Redis would not know either.
        if request.is_none_or(|request| request.extra().script.is_none()) {
            return false;
        }
        let mut eval = self.buffers.take();
        let written = self.write_eval(from, command, &mut eval).is_some();
        let request = self.requests.waiting(sub_request.request).filter(|_| written);
        if let Some(request) = request {
            request.extra_mut().refusal =
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
        self.scripts.rewrite(self.connections.get(from)?.pipeline.bytes(command), out)
    }
}

/// Whether an EVAL has as many keys as it says: else a node refuses it before it looks at the script.
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

impl Scripts {
    /// Writes the EVAL for the bytes of an EVALSHA; `None` if they are none, or the script is not known.
    pub(super) fn rewrite(&self, command: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let mut parser = RequestParser::new();
        parser.parse(command, &Limits::UNBOUNDED).ok()?;
        self.write_eval(&parser.frame(command), out)
    }

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
