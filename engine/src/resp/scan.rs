//! Where a reply ends.

use memchr::memchr;

use super::number::parse_decimal;
use super::{Kind, Limits, ProtocolError};

/// How many streamed aggregates may stand in one another; servers do not send any yet.
const MAX_STREAM_DEPTH: usize = 32;

/// How many values a frame may still owe by the headers read so far. Far over what a server sends.
const MAX_OUTSTANDING: u64 = 1 << 32;

/// What [`Scanner::scan`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scan {
    /// Bytes of the input that belong to the frame; the next input starts after them.
    pub consumed: usize,
    /// Whether the frame ends with them.
    pub complete: bool,
}

/// Finds the end of each reply in a stream of bytes, RESP2 or RESP3.
///
/// Every step takes a whole unit (a header line, the CRLF after a bulk) or nothing, except that a
/// bulk's payload is taken as it comes. Nesting costs no memory: a frame is over when no value is
/// outstanding, and an aggregate's header makes as many outstanding as it has elements. Only
/// streamed aggregates (`*?`), whose length nobody knows, are remembered one by one.
///
/// An attribute and the value after it are one value. Lengths have one spelling, as in hiredis: no
/// plus sign, no leading zeros. A simple string ends at the first CRLF and may hold a lone CR or
/// LF. The syntax of bulks' payloads is nobody's business here, also of verbatim strings.
#[derive(Debug)]
pub struct Scanner {
    expect: Expect,
    /// Values that the innermost open stream's element, or else the frame, still lacks.
    outstanding: u64,
    /// Streamed aggregates that are open, the innermost last.
    streams: Vec<Stream>,
    /// Bytes at the start of the input that do not end the line.
    searched: usize,
}

/// The next unit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Expect {
    /// The header of a streamed string's chunk.
    Chunk,
    /// So many bytes of a bulk, and its CRLF.
    Payload { missing: usize, then: Then },
    /// The line that a value starts with, or is.
    Value,
}

/// What a payload's end is the end of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Then {
    Chunk,
    Value,
}

/// A streamed aggregate whose end has not come.
#[derive(Clone, Copy, Debug)]
struct Stream {
    /// Values outstanding around it.
    outstanding: u64,
    /// Values of one element: 2 in a map.
    element: u64,
}

impl Scanner {
    /// A scanner at the start of a frame. Does not allocate.
    pub const fn new() -> Self {
        Self { expect: Expect::Value, outstanding: 1, streams: Vec::new(), searched: 0 }
    }

    /// Reads on in the current frame, to its end at most.
    ///
    /// `input` starts with the first byte that no earlier call consumed. After a complete frame
    /// the next one is expected.
    ///
    /// # Errors
    /// The bytes are no reply, or exceed a limit. Where the next reply starts is unknown, so the
    /// connection is of no further use.
    pub fn scan(&mut self, input: &[u8], limits: &Limits) -> Result<Scan, ProtocolError> {
        let mut rest = input;
        loop {
            let taken = self.step(rest, limits)?;
            rest = rest.get(taken..).unwrap_or_default();
            let complete = self.is_complete();
            if complete {
                self.outstanding = 1;
            }
            if complete || taken == 0 {
                return Ok(Scan { consumed: input.len() - rest.len(), complete });
            }
        }
    }

    fn is_complete(&self) -> bool {
        self.outstanding == 0 && self.streams.is_empty()
    }

    /// Takes one unit from the start of `rest` and returns its length; 0 if it is cut.
    #[inline]
    fn step(&mut self, rest: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        match self.expect {
            Expect::Value => match short_bulk(rest, limits) {
                Some(len) if self.outstanding > 0 => {
                    self.searched = 0;
                    self.end_value();
                    Ok(len)
                }
                _ => self.step_array(rest, limits),
            },
            Expect::Payload { missing: 0, then } => match rest {
                [b'\r', b'\n', ..] => {
                    match then {
                        Then::Chunk => self.expect = Expect::Chunk,
                        Then::Value => self.end_value(),
                    }
                    Ok(2)
                }
                [] | [b'\r'] => Ok(0),
                _ => Err(ProtocolError::ReplyBulkUnterminated),
            },
            Expect::Payload { missing, then } => {
                let taken = missing.min(rest.len());
                self.expect = Expect::Payload { missing: missing - taken, then };
                Ok(taken)
            }
            Expect::Chunk => self.step_chunk(rest, limits),
        }
    }

    /// Takes the header of an array of up to nine elements, or whatever else a value starts with.
    fn step_array(&mut self, rest: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        match *rest {
            [b'*', count @ b'0'..=b'9', b'\r', b'\n', ..]
                if self.outstanding > 0 && digit(count) <= limits.max_array_len =>
            {
                self.searched = 0;
                self.end_value();
                self.owe(digit(count), 1)?;
                Ok(4)
            }
            _ => self.step_value(rest, limits),
        }
    }

    fn step_value(&mut self, rest: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        let Some(&tag) = rest.first() else {
            return Ok(0);
        };
        if tag == b'.' {
            return self.step_stream_end(rest, limits);
        }
        let kind = Kind::from_tag(tag).ok_or(ProtocolError::ReplyType(tag))?;
        let Some(line) = self.line(rest, limits)? else {
            return Ok(0);
        };
        let text = line.get(1..).unwrap_or_default();
        if self.outstanding == 0 {
            // Another element of the stream.
            self.outstanding = self.streams.last().map_or(0, |stream| stream.element);
        }
        match kind {
            Kind::Simple | Kind::Error => self.end_value(),
            Kind::Integer | Kind::Double | Kind::Boolean | Kind::BigNumber | Kind::Null => {
                if !is_scalar(kind, text) {
                    return Err(ProtocolError::ReplyValue(tag));
                }
                self.end_value();
            }
            Kind::Bulk if text == b"-1" => self.end_value(),
            Kind::Bulk if text == b"?" => self.expect = Expect::Chunk,
            Kind::Bulk | Kind::BlobError => {
                let missing = length(text, limits.max_bulk_len)?;
                self.expect = Expect::Payload { missing, then: Then::Value };
            }
            Kind::Verbatim => {
                let missing = length(text, limits.max_bulk_len)?;
                if missing < 4 {
                    // Too short for the format that it starts with, as in `txt:`.
                    return Err(ProtocolError::ReplyLength);
                }
                self.expect = Expect::Payload { missing, then: Then::Value };
            }
            Kind::Array if text == b"-1" => self.end_value(),
            Kind::Array | Kind::Map | Kind::Push | Kind::Set if text == b"?" => {
                self.begin_stream(if kind == Kind::Map { 2 } else { 1 })?;
            }
            Kind::Array | Kind::Push | Kind::Set => {
                self.end_value();
                self.owe(length(text, limits.max_array_len)?, 1)?;
            }
            Kind::Map => {
                self.end_value();
                self.owe(length(text, limits.max_array_len)?, 2)?;
            }
            // The value after it is the one that was outstanding.
            Kind::Attribute => self.owe(length(text, limits.max_array_len)?, 2)?,
        }
        Ok(line.len() + 2)
    }

    fn step_stream_end(&mut self, rest: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        if self.outstanding != 0 {
            return Err(ProtocolError::ReplyType(b'.'));
        }
        let Some(line) = self.line(rest, limits)? else {
            return Ok(0);
        };
        let Some(stream) = self.streams.pop() else {
            return Err(ProtocolError::ReplyType(b'.'));
        };
        if line != b"." {
            return Err(ProtocolError::ReplyValue(b'.'));
        }
        self.outstanding = stream.outstanding;
        Ok(line.len() + 2)
    }

    fn step_chunk(&mut self, rest: &[u8], limits: &Limits) -> Result<usize, ProtocolError> {
        match rest.first() {
            Some(b';') => {}
            Some(&tag) => return Err(ProtocolError::ReplyType(tag)),
            None => return Ok(0),
        }
        let Some(line) = self.line(rest, limits)? else {
            return Ok(0);
        };
        match length(line.get(1..).unwrap_or_default(), limits.max_bulk_len)? {
            0 => self.end_value(),
            missing => self.expect = Expect::Payload { missing, then: Then::Chunk },
        }
        Ok(line.len() + 2)
    }

    fn end_value(&mut self) {
        self.expect = Expect::Value;
        self.outstanding = self.outstanding.saturating_sub(1);
    }

    /// Makes `count` elements of so many values outstanding.
    fn owe(&mut self, count: usize, values: u64) -> Result<(), ProtocolError> {
        let outstanding = (count as u64).saturating_mul(values).saturating_add(self.outstanding);
        if outstanding > MAX_OUTSTANDING {
            return Err(ProtocolError::ReplyLength);
        }
        self.outstanding = outstanding;
        Ok(())
    }

    #[cold]
    fn begin_stream(&mut self, element: u64) -> Result<(), ProtocolError> {
        if self.streams.len() >= MAX_STREAM_DEPTH {
            return Err(ProtocolError::ReplyNesting);
        }
        self.end_value();
        self.streams.push(Stream { outstanding: self.outstanding, element });
        self.outstanding = 0;
        Ok(())
    }

    /// The line at the start of `rest`, without its CRLF, looking for its end in new bytes only.
    fn line<'a>(
        &mut self,
        rest: &'a [u8],
        limits: &Limits,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let longest = limits.max_line_len.saturating_add(2);
        let window = rest.get(..longest).unwrap_or(rest);
        while let Some(unseen) = window.get(self.searched..)
            && let Some(offset) = memchr(b'\n', unseen)
        {
            let newline = self.searched + offset;
            if let Some(line) = window.get(..newline).and_then(|line| line.strip_suffix(b"\r")) {
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = newline + 1;
        }
        if window.len() == longest {
            return Err(ProtocolError::ReplyLineTooLong);
        }
        self.searched = window.len();
        Ok(None)
    }
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

/// The length of the bulk string at the start of `bytes`, if that is one, whole and of up to five
/// digits' length. Most values are, and this finds their end in a few instructions.
#[inline]
fn short_bulk(bytes: &[u8], limits: &Limits) -> Option<usize> {
    let (header, len) = match *bytes {
        [b'$', a @ b'0'..=b'9', b'\r', b'\n', ..] => (4, digit(a)),
        [b'$', a @ b'1'..=b'9', b @ b'0'..=b'9', b'\r', b'\n', ..] => (5, digit(a) * 10 + digit(b)),
        [b'$', a @ b'1'..=b'9', ..] => {
            let digits = bytes.get(2..6)?.iter().take_while(|byte| byte.is_ascii_digit());
            let (count, len) = digits
                .fold((1, digit(a)), |(count, len), byte| (count + 1, len * 10 + digit(*byte)));
            (bytes.get(count + 1..)?.starts_with(b"\r\n")).then_some((count + 3, len))?
        }
        _ => return None,
    };
    let end = header + len;
    let whole = len <= limits.max_bulk_len && bytes.get(end..)?.starts_with(b"\r\n");
    whole.then_some(end + 2)
}

fn digit(byte: u8) -> usize {
    usize::from(byte & 0x0f)
}

/// The length of the value at the start of `bytes`, if it is whole.
#[inline]
pub(crate) fn value_len(bytes: &[u8]) -> Option<usize> {
    short_bulk(bytes, &Limits::UNBOUNDED).or_else(|| long_value_len(bytes))
}

/// [`value_len`] for any value.
fn long_value_len(bytes: &[u8]) -> Option<usize> {
    let scan = Scanner::new().scan(bytes, &Limits::UNBOUNDED).ok()?;
    scan.complete.then_some(scan.consumed)
}

/// A declared length or count, if it is one and not over `limit`.
fn length(text: &[u8], limit: usize) -> Result<usize, ProtocolError> {
    parse_decimal(text)
        .and_then(|length| usize::try_from(length).ok())
        .filter(|&length| length <= limit)
        .ok_or(ProtocolError::ReplyLength)
}

/// Whether `text` is a value of this kind, which has no payload but its line.
fn is_scalar(kind: Kind, text: &[u8]) -> bool {
    match kind {
        Kind::Integer => parse_decimal(text).is_some(),
        Kind::Double => std::str::from_utf8(text).is_ok_and(|text| text.parse::<f64>().is_ok()),
        Kind::Boolean => matches!(text, b"t" | b"f"),
        Kind::BigNumber => {
            let digits = text.strip_prefix(b"-").unwrap_or(text);
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        }
        _ => text.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in `stream` by a scanner that gets it in pieces of at most `size` bytes, and
    /// keeps what it did not consume.
    fn scan_in_pieces(
        stream: &[u8],
        size: usize,
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let mut scanner = Scanner::new();
        let (mut start, mut end) = (0, 0);
        while end < stream.len() {
            end = (end + size).min(stream.len());
            let scan = scanner.scan(&stream[start..end], limits)?;
            start += scan.consumed;
            if scan.complete {
                return Ok(Some(start));
            }
        }
        Ok(None)
    }

    fn scan_with(stream: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        let whole = scan_in_pieces(stream, stream.len(), limits);
        let bytewise = scan_in_pieces(stream, 1, limits);
        assert_eq!(whole, bytewise, "{:?}", stream.escape_ascii().to_string());
        whole
    }

    fn scan(stream: &[u8]) -> Result<Option<usize>, ProtocolError> {
        scan_with(stream, &Limits::default())
    }

    #[test]
    fn a_frame_ends_at_its_end_and_not_before() {
        let frames = [
            "+OK\r\n",
            "+\r\n",
            "+a\rb\nc\r\n",
            "-ERR no\r\n",
            ":0\r\n",
            ":-12\r\n",
            "$0\r\n\r\n",
            "$3\r\na\r\n\r\n",
            "$-1\r\n",
            "*-1\r\n",
            "*0\r\n",
            "_\r\n",
            "#t\r\n",
            "#f\r\n",
            ",1.5e-3\r\n",
            ",inf\r\n",
            ",-inf\r\n",
            ",nan\r\n",
            ",-nan\r\n",
            "(-123456789012345678901234567890\r\n",
            "!5\r\nERR a\r\n",
            "=7\r\ntxt:abc\r\n",
            "=4\r\ntxt:\r\n",
            "*2\r\n*1\r\n:1\r\n$1\r\na\r\n",
            "%1\r\n+k\r\n*2\r\n:1\r\n:2\r\n",
            "%0\r\n",
            "~2\r\n+a\r\n+b\r\n",
            ">2\r\n+message\r\n_\r\n",
            "*2\r\n*-1\r\n$-1\r\n",
        ];
        for frame in frames {
            assert_eq!(scan(frame.as_bytes()), Ok(Some(frame.len())), "{frame:?}");
            assert_eq!(scan(format!("{frame}+next\r\n").as_bytes()), Ok(Some(frame.len())));
            for cut in 0..frame.len() {
                assert_eq!(scan(&frame.as_bytes()[..cut]), Ok(None), "{frame:?} cut at {cut}");
            }
        }
    }

    #[test]
    fn an_attribute_and_its_value_are_one_frame() {
        for frame in [
            "|1\r\n+ttl\r\n:5\r\n+OK\r\n",
            "|0\r\n+OK\r\n",
            "|1\r\n+a\r\n:1\r\n|1\r\n+b\r\n:2\r\n:3\r\n",
            "*2\r\n|1\r\n+ttl\r\n:5\r\n+a\r\n+b\r\n",
            "|1\r\n|1\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n$1\r\nc\r\n",
        ] {
            assert_eq!(scan(frame.as_bytes()), Ok(Some(frame.len())), "{frame:?}");
            assert_eq!(scan(&frame.as_bytes()[..frame.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn streamed_values_end_at_their_end_mark() {
        for frame in [
            "$?\r\n;0\r\n",
            "$?\r\n;2\r\nab\r\n;1\r\nc\r\n;0\r\n",
            "*?\r\n.\r\n",
            "*?\r\n:1\r\n*2\r\n:2\r\n:3\r\n.\r\n",
            "%?\r\n+a\r\n:1\r\n+b\r\n*?\r\n.\r\n.\r\n",
            "~?\r\n$?\r\n;1\r\na\r\n;0\r\n.\r\n",
            ">?\r\n+message\r\n.\r\n",
            "*2\r\n*?\r\n:1\r\n.\r\n:2\r\n",
            "*?\r\n|1\r\n+a\r\n:1\r\n:2\r\n.\r\n",
        ] {
            assert_eq!(scan(frame.as_bytes()), Ok(Some(frame.len())), "{frame:?}");
            assert_eq!(scan(&frame.as_bytes()[..frame.len() - 1]), Ok(None));
        }
    }

    #[test]
    fn garbage_is_an_error_at_once() {
        use ProtocolError::{ReplyBulkUnterminated, ReplyLength, ReplyType, ReplyValue};
        let cases = [
            ("x", ReplyType(b'x')),
            ("\r\n", ReplyType(b'\r')),
            ("*1\r\n?", ReplyType(b'?')),
            (".\r\n", ReplyType(b'.')),
            (";1\r\n", ReplyType(b';')),
            ("*1\r\n.\r\n", ReplyType(b'.')),
            ("*?\r\n.x\r\n", ReplyValue(b'.')),
            ("%?\r\n+k\r\n.\r\n", ReplyType(b'.')),
            ("*?\r\n|1\r\n+a\r\n:1\r\n.\r\n", ReplyType(b'.')),
            ("$?\r\n+", ReplyType(b'+')),
            ("$1\r\nabc", ReplyBulkUnterminated),
            ("$1\r\na\rb", ReplyBulkUnterminated),
            ("$-2\r\n", ReplyLength),
            ("$\r\n", ReplyLength),
            ("$+1\r\n", ReplyLength),
            ("$01\r\n", ReplyLength),
            ("*-2\r\n", ReplyLength),
            ("%-1\r\n", ReplyLength),
            ("~-1\r\n", ReplyLength),
            (">-1\r\n", ReplyLength),
            ("|-1\r\n", ReplyLength),
            ("|?\r\n", ReplyLength),
            ("!-1\r\n", ReplyLength),
            ("!?\r\n", ReplyLength),
            ("=3\r\n", ReplyLength),
            ("$?\r\n;-1\r\n", ReplyLength),
            (":\r\n", ReplyValue(b':')),
            (":1a\r\n", ReplyValue(b':')),
            (":9223372036854775808\r\n", ReplyValue(b':')),
            ("#x\r\n", ReplyValue(b'#')),
            ("_x\r\n", ReplyValue(b'_')),
            (",1.x\r\n", ReplyValue(b',')),
            (",\r\n", ReplyValue(b',')),
            ("(1.5\r\n", ReplyValue(b'(')),
            ("(-\r\n", ReplyValue(b'(')),
        ];
        for (stream, error) in cases {
            assert_eq!(scan(stream.as_bytes()), Err(error), "{stream:?}");
        }
    }

    #[test]
    fn the_limits_are_the_greatest_allowed() {
        let limits =
            Limits { max_bulk_len: 4, max_array_len: 2, max_line_len: 6, ..Limits::default() };
        for frame in
            ["$4\r\nabcd\r\n", "*2\r\n:1\r\n:2\r\n", "%2\r\n_\r\n_\r\n_\r\n_\r\n", "+12345\r\n"]
        {
            assert_eq!(scan_with(frame.as_bytes(), &limits), Ok(Some(frame.len())), "{frame:?}");
        }
        for header in [
            "$5\r\n",
            "!5\r\n",
            "=5\r\n",
            "$?\r\n;5\r\n",
            "*3\r\n",
            "~3\r\n",
            ">3\r\n",
            "%3\r\n",
            "|3\r\n",
        ] {
            assert_eq!(scan_with(header.as_bytes(), &limits), Err(ProtocolError::ReplyLength));
        }
        assert_eq!(scan_with(b"+123456\r", &limits), Err(ProtocolError::ReplyLineTooLong));
    }

    #[test]
    fn what_a_frame_owes_is_bounded() {
        let bomb = b"%4000000000\r\n".repeat(2);
        assert_eq!(scan_with(&bomb, &Limits::UNBOUNDED), Err(ProtocolError::ReplyLength));
        assert_eq!(
            scan_with(b"*9223372036854775807\r\n", &Limits::UNBOUNDED),
            Err(ProtocolError::ReplyLength)
        );
    }

    #[test]
    fn sized_nesting_costs_nothing_and_streamed_nesting_is_bounded() {
        let depth = 100_000;
        let sized = [&b"*1\r\n".repeat(depth)[..], b":1\r\n"].concat();
        let mut scanner = Scanner::new();
        let scan = scanner.scan(&sized, &Limits::default()).unwrap();
        assert_eq!(scan, Scan { consumed: sized.len(), complete: true });
        assert_eq!(scanner.streams.capacity(), 0);

        let deepest =
            [b"*?\r\n".repeat(MAX_STREAM_DEPTH), b".\r\n".repeat(MAX_STREAM_DEPTH)].concat();
        assert_eq!(scan_with(&deepest, &Limits::default()), Ok(Some(deepest.len())));
        let deeper = b"*?\r\n".repeat(MAX_STREAM_DEPTH + 1);
        assert_eq!(scan_with(&deeper, &Limits::default()), Err(ProtocolError::ReplyNesting));
    }

    #[test]
    fn a_header_is_consumed_whole_and_a_payload_as_it_comes() {
        let limits = Limits::default();
        let mut scanner = Scanner::new();
        let mut consumed = |input: &[u8]| scanner.scan(input, &limits).unwrap();
        assert_eq!(consumed(b"*1\r\n$10\r"), Scan { consumed: 4, complete: false });
        assert_eq!(consumed(b"$10\r\n0123"), Scan { consumed: 9, complete: false });
        assert_eq!(consumed(b"456789\r"), Scan { consumed: 6, complete: false });
        assert_eq!(consumed(b"\r\n:1\r\n"), Scan { consumed: 2, complete: true });
        assert_eq!(consumed(b":1\r\n"), Scan { consumed: 4, complete: true });
    }

    #[test]
    fn an_unfinished_line_is_searched_in_its_new_bytes_only() {
        let line = b"+a\nb\rc\r";
        let mut scanner = Scanner::new();
        for len in 1..=line.len() {
            let scan = scanner.scan(&line[..len], &Limits::default()).unwrap();
            assert_eq!(scan, Scan { consumed: 0, complete: false });
            assert_eq!(scanner.searched, len);
        }
    }
}
