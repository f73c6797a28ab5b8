//! Client commands: where each argument stands in the bytes of its frame.

use memchr::memchr;

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

/// The payload of one argument, relative to the first byte of its frame.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ArgRange {
    /// Offset of the payload's first byte.
    pub start: u32,
    /// Length of the payload in bytes.
    pub len: u32,
}

impl ArgRange {
    /// The range of `len` bytes from `start`, and where the CRLF after it ends.
    ///
    /// `None` if that end is over 4 GiB: no frame is that long.
    pub(super) fn with_end(start: usize, len: usize) -> Option<(Self, usize)> {
        let start = u32::try_from(start).ok()?;
        let len = u32::try_from(len).ok()?;
        let end = start.checked_add(len)?.checked_add(2)?;
        Some((Self { start, len }, end as usize))
    }

    /// Where the payload ends and its CRLF begins.
    pub(super) fn end(self) -> usize {
        self.start as usize + self.len as usize
    }
}

/// One complete command as the client sent it: an array of bulk strings.
///
/// An inline command is seen as the array that it stands for.
#[derive(Clone, Copy, Debug)]
pub struct RequestFrame<'a> {
    bytes: &'a [u8],
    args: &'a [ArgRange],
}

#[expect(clippy::len_without_is_empty, reason = "a command is never empty: it has a name")]
impl<'a> RequestFrame<'a> {
    /// A view on `bytes`, whose arguments stand at `args`; every range lies in `bytes`.
    pub fn new(bytes: &'a [u8], args: &'a [ArgRange]) -> Self {
        Self { bytes, args }
    }

    /// The frame's bytes, as they go to Redis.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many arguments there are, the command's name included; never 0.
    pub fn len(&self) -> usize {
        self.args.len()
    }

    /// The payload of argument `index`; 0 is the command's name.
    pub fn arg(&self, index: usize) -> Option<&'a [u8]> {
        let range = self.args.get(index)?;
        self.bytes.get(range.start as usize..)?.get(..range.len as usize)
    }

    /// Argument `index` with its header and its CRLF, to be put into another command as it is.
    pub fn raw(&self, index: usize) -> Option<&'a [u8]> {
        let range = self.args.get(index)?;
        let start = match index.checked_sub(1) {
            Some(previous) => self.args.get(previous)?.end() + 2,
            None => memchr(b'\r', self.bytes)? + 2,
        };
        self.bytes.get(start..range.end() + 2)
    }

    /// All payloads in order, the command's name first.
    pub fn args(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let Self { bytes, args } = *self;
        args.iter()
            .filter_map(move |range| bytes.get(range.start as usize..)?.get(..range.len as usize))
    }
}

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
    /// Where the next header starts; the buffer may still be shorter.
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
    /// headers of `missing` more. `position` is out of reach.
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
        if self.state == State::Begin && !self.begin_like_last(buf, limits) {
            match buf.first() {
                Some(b'*') => {}
                Some(_) => return self.parse_inline(buf, limits),
                None => return Ok(Parsed::Incomplete),
            }
            let too_big = ProtocolError::TooBigMultibulkCount;
            let Some(header) = self.header(buf, limits, too_big)? else {
                return Ok(Parsed::Incomplete);
            };
            let count = header.number.ok_or(ProtocolError::InvalidMultibulkLength)?;
            if count <= 0 {
                return Ok(Parsed::Ignored { len: header.len });
            }
            let missing = self
                .at_most(count, limits.max_array_len)
                .ok_or(ProtocolError::InvalidMultibulkLength)?;
            self.state = State::Args { missing };
            self.position = header.len;
        }
        self.parse_args(buf, limits)
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

    /// Keeps no more of the unfinished command at the start of a buffer of `len` bytes, as if it
    /// were larger than [`Limits::max_command_bytes`]. Returns how many of these bytes are of no
    /// use; `None` if no command has begun whose end could be found.
    pub fn skip(&mut self, len: usize) -> Option<usize> {
        let State::Args { missing } = self.state else { return None };
        let useless = self.position.min(len);
        self.start_skipping(missing, self.position - useless);
        Some(useless)
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

    /// Skips what is known already of a frame that begins like the last one.
    #[inline]
    fn begin_like_last(&mut self, buf: &[u8], limits: &Limits) -> bool {
        let Head { len, name, arguments, .. } = self.head;
        if self.searched > 0 || arguments >= limits.max_array_len || !self.head.begins(buf) {
            return false;
        }
        self.args.push(name);
        self.state = State::Args { missing: arguments };
        self.position = len;
        self.repeats = true;
        true
    }

    #[inline]
    fn parse_args(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        while let State::Args { missing: missing @ 1.. } = self.state {
            let Some(rest) = buf.get(self.position..) else {
                return Ok(Parsed::Incomplete);
            };
            let Some((header, len)) = self.bulk_header(rest, limits)? else {
                return Ok(Parsed::Incomplete);
            };
            let (range, end) = ArgRange::with_end(self.position + header, len)
                .ok_or(ProtocolError::InvalidBulkLength)?;
            self.args.push(range);
            self.position = end;
            self.state = State::Args { missing: missing - 1 };
            if end.saturating_add(self.args.len() * ARG_COST) > limits.max_command_bytes {
                return Ok(self.refuse(buf, limits));
            }
        }
        if buf.len() < self.position {
            if let State::Skip { .. } = self.state {
                return self.skip_on(buf, limits);
            }
            // The last bulk is cut.
            return Ok(Parsed::Incomplete);
        }
        self.state = State::Command;
        if !self.repeats {
            self.note_head(buf);
        }
        Ok(Parsed::Command { len: self.position })
    }

    /// The header of a bulk at the start of `rest`, or `None` if it is cut: its length and that of
    /// the bulk.
    #[inline]
    fn bulk_header(
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

    /// The command is too large: skips what has come of it.
    #[cold]
    fn refuse(&mut self, buf: &[u8], limits: &Limits) -> Parsed {
        let Some(len) = self.skip(buf.len()) else { return Parsed::Incomplete };
        match self.skip_on(buf.get(len..).unwrap_or_default(), limits) {
            Ok(Parsed::Skipped { len: more }) => Parsed::Skipped { len: len + more },
            Ok(Parsed::TooLarge { len: more }) => Parsed::TooLarge { len: len + more },
            // What is wrong further on is said when the rest is read.
            Ok(_) | Err(_) => Parsed::Skipped { len },
        }
    }

    fn start_skipping(&mut self, missing: usize, left: usize) {
        self.begin();
        self.position = usize::MAX;
        self.state = State::Skip { missing, left };
    }

    /// Reads on in a command that is too large.
    #[cold]
    fn skip_on(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
        let mut len = 0;
        while let State::Skip { missing, left } = self.state {
            let rest = buf.get(len..).unwrap_or_default();
            let useless = left.min(rest.len());
            len += useless;
            if useless < left {
                self.state = State::Skip { missing, left: left - useless };
                break;
            }
            let Some(missing) = missing.checked_sub(1) else {
                self.begin();
                return Ok(Parsed::TooLarge { len });
            };
            let rest = rest.get(useless..).unwrap_or_default();
            let Some((header, bulk)) = self.bulk_header(rest, limits)? else {
                self.state = State::Skip { missing: missing + 1, left: 0 };
                break;
            };
            self.state = State::Skip { missing, left: header + bulk + 2 };
        }
        Ok(if len == 0 { Parsed::Incomplete } else { Parsed::Skipped { len } })
    }

    fn note_head(&mut self, frame: &[u8]) {
        let name = self.args.first().copied().unwrap_or_default();
        self.head = Head::of(frame, name, self.args.len().saturating_sub(1));
    }

    /// The header at the start of `rest`, or `None` if it is cut.
    #[inline]
    fn header(
        &mut self,
        rest: &[u8],
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<Header>, ProtocolError> {
        // One or two digits, as in nearly all headers.
        match *rest {
            [_, ones @ b'0'..=b'9', b'\r', _, ..] => {
                self.searched = 0;
                Ok(Some(Header { number: Some(i64::from(ones - b'0')), len: 4 }))
            }
            [_, tens @ b'1'..=b'9', ones @ b'0'..=b'9', b'\r', _, ..] => {
                self.searched = 0;
                let number = i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
                Ok(Some(Header { number: Some(number), len: 5 }))
            }
            _ => self.long_header(rest, limits, too_big),
        }
    }

    /// [`header`](Self::header) for any header.
    #[inline(never)]
    fn long_header(
        &mut self,
        rest: &[u8],
        limits: &Limits,
        too_big: ProtocolError,
    ) -> Result<Option<Header>, ProtocolError> {
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
    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";

    /// The answer for `stream`, which must be the same whole and byte by byte, and its arguments.
    fn parse_with(stream: &[u8], limits: &Limits) -> (Result<Parsed, ProtocolError>, Vec<Vec<u8>>) {
        let mut whole = RequestParser::new();
        let answer = whole.parse(stream, limits);
        let mut bytewise = RequestParser::new();
        let answer_bytewise = (0..=stream.len())
            .map(|len| bytewise.parse(&stream[..len], limits))
            .find(|answer| *answer != Ok(Parsed::Incomplete))
            .unwrap_or(Ok(Parsed::Incomplete));
        assert_eq!(answer, answer_bytewise, "{:?}", stream.escape_ascii().to_string());
        let args = |parser: &RequestParser| match answer {
            Ok(Parsed::Command { .. }) => parser.frame(stream).args().map(<[u8]>::to_vec).collect(),
            _ => Vec::new(),
        };
        assert_eq!(args(&whole), args(&bytewise));
        (answer, args(&whole))
    }

    fn parse(stream: &[u8]) -> (Result<Parsed, ProtocolError>, Vec<Vec<u8>>) {
        parse_with(stream, &Limits::default())
    }

    fn error(stream: &[u8]) -> ProtocolError {
        parse(stream).0.expect_err("a protocol error")
    }

    #[test]
    fn a_command_ends_where_its_last_argument_does() {
        let (answer, args) = parse(&[GET, b"*1\r\n"].concat());
        assert_eq!(answer, Ok(Parsed::Command { len: GET.len() }));
        assert_eq!(args, [b"GET", b"key"]);
    }

    #[test]
    fn a_frame_keeps_its_bytes_and_gives_each_argument_verbatim() {
        // Redis skips the byte after a CR and the two after a bulk unread.
        let sent = b"*3\rX$3\rYSETab$10\r\n0123456789\r\n$0\r\n\r\n";
        let mut parser = RequestParser::new();
        assert_eq!(parser.parse(sent, &Limits::default()), Ok(Parsed::Command { len: sent.len() }));
        let frame = parser.frame(sent);
        assert_eq!(frame.bytes(), sent);
        assert_eq!(frame.len(), 3);
        assert_eq!(frame.args().collect::<Vec<_>>(), [&b"SET"[..], b"0123456789", b""]);
        assert_eq!(frame.raw(0), Some(&b"$3\rYSETab"[..]));
        assert_eq!(frame.raw(1), Some(&b"$10\r\n0123456789\r\n"[..]));
        assert_eq!(frame.raw(2), Some(&b"$0\r\n\r\n"[..]));
        assert_eq!(frame.raw(3), None);
        assert_eq!(frame.arg(3), None);
    }

    #[test]
    fn a_pipeline_is_read_frame_by_frame() {
        let mut stream: &[u8] =
            b"*1\r\n$4\r\nPING\r\n\r\n*0\r\nGET a\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n*1\r";
        let mut parser = RequestParser::new();
        let mut seen = Vec::new();
        loop {
            match parser.parse(stream, &Limits::default()).unwrap() {
                Parsed::Command { len } => {
                    seen.push(parser.frame(stream).args().collect::<Vec<_>>().join(&b' '));
                    assert!(parser.is_idle());
                    stream = &stream[len..];
                }
                Parsed::Ignored { len } => {
                    seen.push(b"-".to_vec());
                    assert!(parser.is_idle());
                    stream = &stream[len..];
                }
                _ => break,
            }
        }
        assert_eq!(seen, [&b"PING"[..], b"-", b"-", b"GET a", b"GET b"]);
        assert_eq!(stream, b"*1\r");
        assert!(!parser.is_idle());
    }

    #[test]
    fn a_command_that_begins_like_the_last_one_is_known_by_that() {
        let set = b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n";
        let mut stream: &[u8] = &[GET, GET, b"GET inline\r\n", GET, set, GET, GET].concat();
        let mut parser = RequestParser::new();
        let mut seen = Vec::new();
        while let Ok(Parsed::Command { len }) = parser.parse(stream, &Limits::default()) {
            seen.push((
                parser.frame(stream).args().collect::<Vec<_>>().join(&b' '),
                parser.repeats(),
            ));
            stream = &stream[len..];
        }
        let seen: Vec<_> = seen.iter().map(|(args, repeats)| (&args[..], *repeats)).collect();
        let get = &b"GET key"[..];
        assert_eq!(
            seen,
            [
                (get, false),
                (get, true),
                (b"GET inline", false),
                (get, true),
                (b"SET a b", false),
                (get, false),
                // Nothing is behind it by which to tell.
                (get, false),
            ]
        );
    }

    #[test]
    fn a_command_like_the_last_one_is_held_to_the_limits_of_today() {
        let mut parser = RequestParser::new();
        let stream = &[GET, GET].concat();
        parser.parse(stream, &Limits::default()).unwrap();
        let less = Limits { max_array_len: 1, ..Limits::default() };
        assert_eq!(parser.parse(stream, &less), Err(ProtocolError::InvalidMultibulkLength));
    }

    #[test]
    fn what_asks_for_nothing_is_ignored() {
        for line in ["*0\r\n", "*-1\r\n", "*-5\r\n", "\r\n", "\n", "  \t\r\n"] {
            assert_eq!(
                parse(line.as_bytes()).0,
                Ok(Parsed::Ignored { len: line.len() }),
                "{line:?}"
            );
        }
    }

    #[test]
    fn an_inline_command_becomes_an_array() {
        let sent = b"SET key \"a b\"\r\nPING\r\n";
        let (answer, args) = parse(sent);
        assert_eq!(answer, Ok(Parsed::Command { len: 15 }));
        assert_eq!(args, [&b"SET"[..], b"key", b"a b"]);

        let mut parser = RequestParser::new();
        parser.parse(sent, &Limits::default()).unwrap();
        let frame = parser.frame(sent);
        assert_eq!(frame.bytes(), b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\na b\r\n");
        assert_eq!(frame.raw(2), Some(&b"$3\r\na b\r\n"[..]));
    }

    #[test]
    fn wrong_headers_get_the_errors_of_redis() {
        use ProtocolError::{
            ExpectedBulk, InvalidBulkLength, InvalidMultibulkLength, UnbalancedQuotes,
        };
        for count in ["", "abc", "+1", "01", "-0", " 1", "1 ", "1\0", "2147483648"] {
            assert_eq!(
                error(format!("*{count}\r\n").as_bytes()),
                InvalidMultibulkLength,
                "{count}"
            );
        }
        for len in ["", "-1", "+5", "05", "5x", "536870913", "9223372036854775808"] {
            let stream = format!("*2\r\n$4\r\nECHO\r\n${len}\r\n");
            assert_eq!(error(stream.as_bytes()), InvalidBulkLength, "{len}");
        }
        assert_eq!(error(b"*1\r\n:5\r\n"), ExpectedBulk(b':'));
        assert_eq!(error(b"*1\r\n\r\n"), ExpectedBulk(b'\r'));
        assert_eq!(error(b"*2\r\n$4\r\nECHO\r\n*12\r\n"), ExpectedBulk(b'*'));
        assert_eq!(error(b"GET \"a\r\n"), UnbalancedQuotes);
    }

    #[test]
    fn what_is_wrong_is_said_at_the_headers_end() {
        for cut in ["*x", "*x\r", "*1\r\nxyz", "*1\r\nx\r", "*1\r\n$x", "GET \"a"] {
            assert_eq!(parse(cut.as_bytes()).0, Ok(Parsed::Incomplete), "{cut:?}");
        }
    }

    #[test]
    fn a_line_may_be_as_long_as_the_limit() {
        let limits = Limits { max_line_len: 8, ..Limits::default() };
        assert_eq!(parse_with(b"12345678\n", &limits).0, Ok(Parsed::Command { len: 9 }));
        assert_eq!(parse_with(b"12345678", &limits).0, Ok(Parsed::Incomplete));
        let cases = [
            (&b"123456789"[..], ProtocolError::TooBigInline),
            (b"*12345678", ProtocolError::TooBigMultibulkCount),
            (b"*1\r\n$12345678", ProtocolError::TooBigBulkCount),
            (b"*2\r\n$4\r\nECHO\r\n$12345678", ProtocolError::TooBigBulkCount),
        ];
        for (stream, error) in cases {
            assert_eq!(parse_with(stream, &limits).0, Err(error));
        }
    }

    #[test]
    fn the_limits_are_the_greatest_allowed() {
        let limits = Limits { max_array_len: 2, max_bulk_len: 3, ..Limits::default() };
        assert_eq!(parse_with(GET, &limits).0, Ok(Parsed::Command { len: GET.len() }));
        assert_eq!(parse_with(b"*3\r\n", &limits).0, Err(ProtocolError::InvalidMultibulkLength));
        assert_eq!(parse_with(b"*2\r\n$4\r\n", &limits).0, Err(ProtocolError::InvalidBulkLength));
    }

    /// What is seen of a stream that comes in chunks: a command by its name, `!` for one that is
    /// too large, and the most bytes that waited.
    fn see(stream: &[u8], limits: &Limits, chunk: usize) -> (Vec<String>, usize) {
        let (mut parser, mut buf, mut seen, mut most) =
            (RequestParser::new(), Vec::new(), Vec::new(), 0);
        for bytes in stream.chunks(chunk) {
            buf.extend_from_slice(bytes);
            while !buf.is_empty() {
                let taken = match parser.parse(&buf, limits).unwrap() {
                    Parsed::Incomplete => break,
                    Parsed::Ignored { len } | Parsed::Skipped { len } => len,
                    Parsed::TooLarge { len } => {
                        seen.push("!".to_owned());
                        assert!(parser.is_idle());
                        len
                    }
                    Parsed::Command { len } => {
                        let name = parser.frame(&buf).arg(0).unwrap();
                        seen.push(String::from_utf8(name.to_vec()).unwrap());
                        len
                    }
                };
                assert!(taken > 0);
                buf.drain(..taken);
            }
            most = most.max(buf.len());
        }
        assert!(buf.is_empty());
        (seen, most)
    }

    #[test]
    fn a_command_that_is_too_large_is_skipped_and_the_next_one_read() {
        let limits = Limits { max_command_bytes: 400, ..Limits::default() };
        let long =
            [&b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1000\r\n"[..], &[b'*'; 1000], b"\r\n"].concat();
        let middle =
            [&b"*3\r\n$1000\r\n"[..], &[b'$'; 1000], b"\r\n$0\r\n\r\n$1\r\na\r\n"].concat();
        let many = [&b"*100\r\n"[..], &b"$1\r\na\r\n".repeat(100)].concat();
        let stream = [GET, &long, GET, &middle, &middle, &many, b"PING\r\n", GET].concat();
        for chunk in 1..stream.len() {
            let (seen, most) = see(&stream, &limits, chunk);
            assert_eq!(seen, ["GET", "!", "GET", "!", "!", "!", "PING", "GET"], "{chunk}");
            assert!(most < 400, "{most} bytes waited");
        }
    }

    #[test]
    fn each_argument_counts_for_more_than_its_bytes() {
        // 4 bytes, and 7 with 32 more for each argument.
        let limits = Limits { max_command_bytes: 4 + 9 * (7 + ARG_COST), ..Limits::default() };
        let fits = [&b"*9\r\n"[..], &b"$1\r\na\r\n".repeat(9)].concat();
        assert_eq!(parse_with(&fits, &limits).0, Ok(Parsed::Command { len: fits.len() }));
        let less = Limits { max_command_bytes: limits.max_command_bytes - 1, ..limits };
        assert_eq!(see(&fits, &less, 1).0, ["!"]);
    }

    #[test]
    fn what_is_no_command_is_no_command_behind_what_is_skipped() {
        let limits = Limits { max_command_bytes: 50, ..Limits::default() };
        let mut parser = RequestParser::new();
        let start = b"*3\r\n$100\r\n";
        assert_eq!(parser.parse(start, &limits), Ok(Parsed::Skipped { len: start.len() }));
        assert!(!parser.is_idle());
        assert_eq!(parser.parse(&[b'x'; 102], &limits), Ok(Parsed::Skipped { len: 102 }));
        assert_eq!(parser.parse(b"$1", &limits), Ok(Parsed::Incomplete));
        assert_eq!(parser.parse(b"$1\r\na\r\n", &limits), Ok(Parsed::Skipped { len: 7 }));
        assert_eq!(parser.parse(b":1\r\n", &limits), Err(ProtocolError::ExpectedBulk(b':')));
    }

    #[test]
    fn a_command_may_be_skipped_in_its_middle() {
        let limits = Limits::default();
        for cut in 4..GET.len() {
            let mut parser = RequestParser::new();
            assert_eq!(parser.parse(&GET[..cut], &limits), Ok(Parsed::Incomplete));
            let skipped = parser.skip(cut).unwrap();
            let rest = &[&GET[skipped..], GET].concat();
            let end = GET.len() - skipped;
            assert_eq!(parser.parse(rest, &limits), Ok(Parsed::TooLarge { len: end }), "{cut}");
            let next = parser.parse(&rest[end..], &limits);
            assert_eq!(next, Ok(Parsed::Command { len: GET.len() }));
        }
        assert_eq!(RequestParser::new().skip(0), None);
    }

    #[test]
    fn a_frame_over_four_gigabytes_is_refused() {
        let limits = Limits::UNBOUNDED;
        let stream = b"*1\r\n$4294967290\r\n";
        assert_eq!(parse_with(stream, &limits).0, Err(ProtocolError::InvalidBulkLength));
    }

    #[test]
    fn a_parser_that_has_seen_nothing_is_idle() {
        let mut parser = RequestParser::new();
        assert!(parser.is_idle());
        parser.parse(b"", &Limits::default()).unwrap();
        assert!(parser.is_idle());
        for len in 1..GET.len() {
            parser.parse(&GET[..len], &Limits::default()).unwrap();
            assert!(!parser.is_idle(), "after {len} bytes");
        }
        parser.parse(GET, &Limits::default()).unwrap();
        assert!(parser.is_idle());
    }

    #[test]
    fn room_for_an_outlier_is_given_back() {
        let mut parser = RequestParser::new();
        let long = [&b"*100000\r\n"[..], &b"$1\r\na\r\n".repeat(100_000)].concat();
        parser.parse(&long, &Limits::default()).unwrap();
        assert_eq!(parser.frame(&long).len(), 100_000);
        let inline = [&b"a ".repeat(10_000)[..], b"\n"].concat();
        parser.parse(&inline, &Limits::default()).unwrap();
        assert_eq!(parser.frame(&inline).len(), 10_000);
        parser.parse(GET, &Limits::default()).unwrap();
        assert_eq!(parser.frame(GET).len(), 2);
        assert!(parser.args.capacity() <= KEPT_ARGS);
        assert!(parser.canonical.capacity() <= KEPT_INLINE_BYTES);
    }

    #[test]
    fn an_unfinished_line_is_searched_in_its_new_bytes_only() {
        let limits = Limits::default();
        for line in [&b"*1234"[..], b"GET key"] {
            let mut parser = RequestParser::new();
            for len in 1..=line.len() {
                parser.parse(&line[..len], &limits).unwrap();
                assert_eq!(parser.searched, len);
            }
        }
    }
}
