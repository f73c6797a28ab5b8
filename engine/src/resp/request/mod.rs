//! Client commands: where each argument stands in the bytes of its frame.

mod frame;
mod skip;

use std::ops::ControlFlow;

use memchr::memchr;

pub use frame::{ArgRange, RequestFrame};

use super::head::Head;
use super::number::parse_decimal;
use super::{Limits, ProtocolError, inline};

/// Argument ranges (8 bytes each) that a parser keeps room for between two commands.
///
/// A command with more of them gives its room back when the next one begins.
const KEPT_ARGS: usize = 1024;

/// Bytes that a parser keeps room for between two inline commands.
const KEPT_INLINE_BYTES: usize = 1024;

/// What an argument counts for beside its bytes: its range, and what it takes to cut a command with
/// many keys into parts.
const ARG_COST: usize = 32;

/// How far a [`RequestParser`] came.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Parsed {
    /// A command of `len` bytes is complete: see [`RequestParser::frame`].
    Command {
        /// The bytes of the buffer that it took.
        len: usize,
    },
    /// `len` bytes that ask for nothing, so that Redis answers nothing: an empty line or array.
    Ignored {
        /// The bytes of the buffer that it took.
        len: usize,
    },
    /// `len` bytes of a command that is larger than [`Limits::max_command_bytes`]: it is not kept.
    /// Its end has not arrived.
    Skipped {
        /// The bytes of the buffer that are of no use.
        len: usize,
    },
    /// The last `len` bytes of such a command.
    TooLarge {
        /// The bytes of the buffer that are of no use.
        len: usize,
    },
    /// The frame's end has not arrived.
    Incomplete,
}

/// Finds client commands in a stream of bytes.
///
/// It accepts what redis-server 7.0 accepts (`processMultibulkBuffer`, `processInlineBuffer`),
/// because a frame is forwarded as it came, so both must see the same arguments in it:
/// - a header ends at the first CR, and the byte after it is skipped, whatever it is;
/// - so are the two bytes after a bulk;
/// - a length has one spelling: no plus sign, no leading zeros;
/// - what is wrong with a header is said when its end is there, not sooner.
///
/// One difference: in Redis a NUL hides the end of its line, so that it waits for 64 KiB before it
/// says that the line is too big. Here the line is refused at its end.
#[derive(Debug, Default)]
pub struct RequestParser {
    args: Vec<ArgRange>,
    /// An inline command as an array of bulk strings.
    canonical: Vec<u8>,
    state: State,
    /// Where the next header of [`State::Args`] starts, or the frame ends; the buffer may still be
    /// shorter.
    position: usize,
    /// Bytes from `position` on that do not end the header.
    searched: usize,
    /// That of the last command, if it was an array.
    head: Head,
    /// The frame begins with `head`.
    repeats: bool,
    /// A number of arguments or a length was over a limit.
    exceeds_limit: bool,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    /// The frame's first line has not arrived.
    #[default]
    Begin,
    /// So many arguments' headers have not arrived.
    Args { missing: usize },
    /// The frame is too large: `left` bytes of the current argument have not arrived, nor have the
    /// headers of `missing` more.
    Skip { missing: usize, left: usize },
    /// The frame is the first `position` bytes of the buffer.
    Command,
    /// The frame is `canonical`.
    InlineCommand,
}

/// A line of one type byte and a number.
#[derive(Clone, Copy)]
struct Header {
    /// `None` if that is no number.
    number: Option<i64>,
    /// Length in bytes, with the two that end the line.
    len: usize,
}

impl RequestParser {
    /// A parser at the start of a stream. Does not allocate.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on in the frame that starts at the first byte of `buf`.
    ///
    /// As long as the answer is [`Parsed::Incomplete`], the next call gets the same bytes again,
    /// with more behind them. After any other answer it gets what follows the frame.
    ///
    /// # Errors
    /// The bytes are no command, and where the next one starts is unknown: Redis answers with the
    /// error and closes the connection.
    pub fn parse(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        if matches!(self.state, State::Command | State::InlineCommand) {
            self.begin();
        }
        let (position, missing) = match self.state {
            State::Args { missing } => (self.position, missing),
            State::Skip { .. } => return self.skip_on(buf, limits),
            _ => match self.begin_like_last(buf, limits) {
                Some(known) => known,
                None => match self.parse_first_line(buf, limits)? {
                    ControlFlow::Continue(known) => known,
                    ControlFlow::Break(parsed) => return Ok(parsed),
                },
            },
        };
        self.parse_args(buf, limits, position, missing)
    }

    /// The command for which [`parse`](Self::parse) has just answered [`Parsed::Command`], where
    /// `buf` starts with the same bytes.
    pub fn frame<'a>(&'a self, buf: &'a [u8]) -> RequestFrame<'a> {
        let bytes = match self.state {
            State::Command => buf.get(..self.position).unwrap_or_default(),
            State::InlineCommand => &self.canonical,
            State::Begin | State::Args { .. } | State::Skip { .. } => &[],
        };
        RequestFrame::new(bytes, &self.args)
    }

    /// Whether the command has the same name as the one before, and the same number of arguments.
    /// It may have them where the answer is `false`.
    pub fn repeats(&self) -> bool {
        self.repeats
    }

    /// Whether no frame has begun, so that a client that leaves now leaves nothing half said.
    pub fn is_idle(&self) -> bool {
        match self.state {
            State::Begin => self.searched == 0,
            State::Args { .. } | State::Skip { .. } => false,
            State::Command | State::InlineCommand => true,
        }
    }

    /// What an unfinished command counts for beside its bytes.
    pub fn cost_of_args(&self) -> usize {
        match self.state {
            State::Args { .. } => self.args.len() * ARG_COST,
            _ => 0,
        }
    }

    /// Where the part of the frame that has been announced ends, if that is more than has come.
    pub fn announced(&self) -> usize {
        match self.state {
            State::Args { .. } => self.position,
            _ => 0,
        }
    }

    /// Whether the last error was about a number of arguments or a length over a limit, so that the
    /// peer goes on to send all that.
    pub fn exceeds_limit(&self) -> bool {
        self.exceeds_limit
    }

    /// Gives back the room that a command took whose frame is needed no longer.
    #[inline]
    pub fn shrink(&mut self) {
        if self.args.capacity() > KEPT_ARGS
            && matches!(self.state, State::Command | State::InlineCommand)
        {
            self.begin();
        }
    }

    fn begin(&mut self) {
        self.args.clear();
        self.canonical.clear();
        if self.args.capacity() > KEPT_ARGS {
            self.args.shrink_to(KEPT_ARGS);
        }
        if self.canonical.capacity() > KEPT_INLINE_BYTES {
            self.canonical.shrink_to(KEPT_INLINE_BYTES);
        }
        self.state = State::Begin;
        self.position = 0;
        self.repeats = false;
    }

    /// Skips what is known already of a frame that begins like the last one. Returns where its next
    /// argument starts, and how many there are.
    #[inline]
    fn begin_like_last(&mut self, buf: &[u8], limits: &Limits) -> Option<(usize, usize)> {
        let Head { len, name, arguments, .. } = self.head;
        if self.searched > 0 || arguments >= limits.max_array_len || !self.head.begins(buf) {
            return None;
        }
        self.args.push(name);
        self.repeats = true;
        Some((len, arguments))
    }

    /// Reads the first line of an array: returns where its first argument starts, and how many
    /// there are. Or all of anything else.
    #[inline(never)]
    fn parse_first_line(
        &mut self,
        buf: &[u8],
        limits: &Limits,
    ) -> Result<ControlFlow<Parsed, (usize, usize)>, ProtocolError> {
        match buf.first() {
            Some(b'*') => {}
            Some(_) => return self.parse_inline(buf, limits).map(ControlFlow::Break),
            None => return Ok(ControlFlow::Break(Parsed::Incomplete)),
        }
        let Some(header) = self.header(buf, limits, ProtocolError::TooBigMultibulkCount)? else {
            return Ok(ControlFlow::Break(Parsed::Incomplete));
        };
        let count = header.number.ok_or(ProtocolError::InvalidMultibulkLength)?;
        if count <= 0 {
            return Ok(ControlFlow::Break(Parsed::Ignored { len: header.len }));
        }
        let count = self.at_most(count, limits.max_array_len);
        let count = count.ok_or(ProtocolError::InvalidMultibulkLength)?;
        Ok(ControlFlow::Continue((header.len, count)))
    }

    /// Reads the `missing` arguments that start at `position`.
    #[inline]
    fn parse_args(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        mut position: usize,
        mut missing: usize,
    ) -> Result<Parsed, ProtocolError> {
        let is_complete = loop {
            let Some(left) = missing.checked_sub(1) else { break position <= buf.len() };
            let Some(rest) = buf.get(position..) else { break false };
            let Some((header, len)) = self.bulk_header(rest, limits)? else { break false };
            let (range, end) = ArgRange::with_end(position + header, len)
                .ok_or(ProtocolError::InvalidBulkLength)?;
            self.args.push(range);
            (position, missing) = (end, left);
        };
        self.position = position;
        // What has been read of it is here, so it is early enough to look now.
        let size = position.saturating_add(self.args.len() * ARG_COST);
        if !is_complete || size > limits.max_command_bytes {
            self.state = State::Args { missing };
            return Ok(match size > limits.max_command_bytes {
                true => self.refuse(buf, limits),
                false => Parsed::Incomplete,
            });
        }
        self.state = State::Command;
        if !self.repeats {
            self.note_head(buf);
        }
        Ok(Parsed::Command { len: position })
    }

    /// The header of a bulk at the start of `rest`, or `None` if it is cut: its length and that of
    /// the bulk.
    #[inline]
    fn bulk_header(
        &mut self,
        rest: &[u8],
        limits: &Limits,
    ) -> Result<Option<(usize, usize)>, ProtocolError> {
        match short_header(rest) {
            Some((b'$', len, header)) if len <= limits.max_bulk_len => {
                self.searched = 0;
                Ok(Some((header, len)))
            }
            _ => self.long_bulk_header(rest, limits),
        }
    }

    /// [`bulk_header`](Self::bulk_header) for any header.
    #[inline(never)]
    fn long_bulk_header(
        &mut self,
        rest: &[u8],
        limits: &Limits,
    ) -> Result<Option<(usize, usize)>, ProtocolError> {
        let Some(header) = self.header(rest, limits, ProtocolError::TooBigBulkCount)? else {
            return Ok(None);
        };
        if let Some(&tag) = rest.first()
            && tag != b'$'
        {
            return Err(ProtocolError::ExpectedBulk(tag));
        }
        let len = header.number.and_then(|len| self.at_most(len, limits.max_bulk_len));
        Ok(Some((header.len, len.ok_or(ProtocolError::InvalidBulkLength)?)))
    }

    fn note_head(&mut self, frame: &[u8]) {
        let name = self.args.first().copied().unwrap_or_default();
        self.head = Head::of(frame, name, self.args.len().saturating_sub(1));
    }

    /// The header at the start of `rest`, or `None` if it is cut.
    fn header(
        &mut self,
        rest: &[u8],
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<Header>, ProtocolError> {
        if let Some((_, number, len)) = short_header(rest) {
            self.searched = 0;
            return Ok(Some(Header { number: Some(number as i64), len }));
        }
        let Some(end) = self.find(b'\r', rest, limits).map_err(|TooLong| too_big)? else {
            return Ok(None);
        };
        if rest.len() < end + 2 {
            self.searched = end;
            return Ok(None);
        }
        let number = rest.get(1..end).and_then(parse_decimal);
        Ok(Some(Header { number, len: end + 2 }))
    }

    /// `number` as a length that is not over `limit`.
    fn at_most(&mut self, number: i64, limit: usize) -> Option<usize> {
        let len = usize::try_from(number).ok().filter(|&len| len <= limit);
        if len.is_none() {
            self.exceeds_limit = number > 0;
        }
        len
    }

    fn parse_inline(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let found = self.find(b'\n', buf, limits).map_err(|TooLong| ProtocolError::TooBigInline)?;
        let Some(end) = found else {
            return Ok(Parsed::Incomplete);
        };
        let line = buf.get(..end).unwrap_or_default();
        inline::parse(
            line.strip_suffix(b"\r").unwrap_or(line),
            &mut self.canonical,
            &mut self.args,
        )?;
        let len = end + 1;
        if self.args.is_empty() {
            return Ok(Parsed::Ignored { len });
        }
        self.state = State::InlineCommand;
        Ok(Parsed::Command { len })
    }

    /// Where the first `byte` stands in the line at the start of `rest`, looking at new bytes only.
    fn find(&mut self, byte: u8, rest: &[u8], limits: &Limits) -> Result<Option<usize>, TooLong> {
        // A line of just the greatest length, and the byte after it.
        let window = rest.get(..=limits.max_line_len).unwrap_or(rest);
        let unseen = window.get(self.searched..).unwrap_or_default();
        if let Some(offset) = memchr(byte, unseen) {
            return Ok(Some(std::mem::take(&mut self.searched) + offset));
        }
        if window.len() > limits.max_line_len {
            return Err(TooLong);
        }
        self.searched = window.len();
        Ok(None)
    }
}

/// A line is longer than [`Limits::max_line_len`].
struct TooLong;

/// A header of one or two digits, as nearly all are: its type, its number and its length.
#[inline]
fn short_header(rest: &[u8]) -> Option<(u8, usize, usize)> {
    let digit = |byte| usize::from(byte - b'0');
    match *rest {
        [tag, ones @ b'0'..=b'9', b'\r', _, ..] => Some((tag, digit(ones), 4)),
        [tag, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
            Some((tag, 10 * digit(tens) + digit(ones), 5))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
