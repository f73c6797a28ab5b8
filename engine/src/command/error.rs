//! Commands that fail before they reach a node, in the words of Redis 7.0.

use crate::command::CommandSpec;
use crate::resp::RequestFrame;

/// Redis quotes no more bytes than this of what a client sent.
const QUOTED_LEN: usize = 128;

/// A command that no Redis would run, so none is asked.
#[derive(Clone, Copy, Debug)]
pub enum CommandError {
    /// The number of arguments is wrong for this command.
    Arity(&'static CommandSpec),
    /// There is no such command, nor a first argument that could be its key.
    UnknownCommand,
    /// The second word is no subcommand of this container.
    UnknownSubcommand(&'static CommandSpec),
}

impl CommandError {
    /// Appends the error reply for `frame`, the whole line from `-` to CRLF.
    ///
    /// The words are those of `processCommand` in Redis' server.c: what the client sent is quoted
    /// up to 128 bytes or its first NUL, with line breaks as spaces.
    #[cold]
    pub fn write_reply(self, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let name = frame.arg(0).unwrap_or_default();
        match self {
            Self::Arity(spec) => {
                // An EXEC that cannot run ends the transaction all the same, and Redis says so.
                let code: &[u8] = match spec.name {
                    "exec" => b"-EXECABORT Transaction discarded because of: ",
                    _ => b"-ERR ",
                };
                out.extend_from_slice(code);
                out.extend_from_slice(b"wrong number of arguments for '");
                out.extend_from_slice(spec.name.as_bytes());
                out.extend_from_slice(b"' command");
            }
            Self::UnknownCommand => {
                out.extend_from_slice(b"-ERR unknown command '");
                quote(name, QUOTED_LEN, out);
                out.extend_from_slice(b"', with args beginning with: ");
                quote_arguments(frame, out);
            }
            Self::UnknownSubcommand(container) => {
                out.extend_from_slice(b"-ERR unknown subcommand '");
                quote(frame.arg(1).unwrap_or_default(), QUOTED_LEN, out);
                out.extend_from_slice(b"'. Try ");
                out.extend(container.name.bytes().map(|byte| byte.to_ascii_uppercase()));
                out.extend_from_slice(b" HELP.");
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends every argument in quotes, until they fill [`QUOTED_LEN`].
fn quote_arguments(frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    for arg in frame.args().skip(1) {
        let Some(room) = QUOTED_LEN.checked_sub(out.len() - start).filter(|room| *room > 0) else {
            return;
        };
        out.push(b'\'');
        quote(arg, room, out);
        out.extend_from_slice(b"' ");
    }
}

/// Appends at most `limit` bytes of `text` as they may stand in an error line.
fn quote(text: &[u8], limit: usize, out: &mut Vec<u8>) {
    let printed = text.iter().take(limit).take_while(|byte| **byte != 0);
    out.extend(printed.map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }));
}
