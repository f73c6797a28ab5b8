//! Views on one complete reply frame.

use memchr::memchr_iter;

use super::number::parse_decimal;
use super::scan::value_len;

/// The type of a value, by its first byte; in the order of the RESP3 specification.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Kind {
    /// `*`: a sequence of values; `*-1` is RESP2's null array.
    Array,
    /// `$`: a string with its length; `$-1` is RESP2's null.
    Bulk,
    /// `+`: a line.
    Simple,
    /// `-`: an error on one line.
    Error,
    /// `:`: a signed 64-bit number.
    Integer,
    /// `_`: RESP3's null.
    Null,
    /// `,`: a floating point number.
    Double,
    /// `#`: `t` or `f`.
    Boolean,
    /// `!`: an error with its length.
    BlobError,
    /// `=`: a string whose first three bytes and colon name its format.
    Verbatim,
    /// `(`: a number of any size.
    BigNumber,
    /// `%`: pairs of values.
    Map,
    /// `~`: a sequence of different values.
    Set,
    /// `|`: pairs that say something about the value after them; part of that value's frame.
    Attribute,
    /// `>`: out-of-band data, that is no reply to a command.
    Push,
}

impl Kind {
    /// The type whose values start with `tag`.
    #[inline]
    pub fn from_tag(tag: u8) -> Option<Self> {
        Some(match tag {
            b'*' => Self::Array,
            b'$' => Self::Bulk,
            b'+' => Self::Simple,
            b'-' => Self::Error,
            b':' => Self::Integer,
            b'_' => Self::Null,
            b',' => Self::Double,
            b'#' => Self::Boolean,
            b'!' => Self::BlobError,
            b'=' => Self::Verbatim,
            b'(' => Self::BigNumber,
            b'%' => Self::Map,
            b'~' => Self::Set,
            b'|' => Self::Attribute,
            b'>' => Self::Push,
            _ => return None,
        })
    }
}

/// A view on one complete frame, as a [`Scanner`](super::Scanner) delimited it.
///
/// Nothing here panics on other bytes: what is no value looks like a null, what is cut like less.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    kind: Kind,
    /// The first line, without its type byte and its CRLF.
    head: &'a [u8],
    /// What follows that line.
    tail: &'a [u8],
}

impl<'a> Reply<'a> {
    /// A view on the value of `frame`; attributes before it are skipped.
    pub fn new(frame: &'a [u8]) -> Self {
        let mut reply = Self::with_first_line(frame);
        while reply.kind == Kind::Attribute {
            let mut pairs = reply.elements();
            pairs.by_ref().for_each(drop);
            reply = Self::with_first_line(pairs.rest);
        }
        reply
    }

    fn with_first_line(bytes: &'a [u8]) -> Self {
        let kind = bytes.first().and_then(|&tag| Kind::from_tag(tag)).unwrap_or(Kind::Null);
        let is_end =
            |newline: &usize| bytes.get(..*newline).is_some_and(|line| line.ends_with(b"\r"));
        let end = memchr_iter(b'\n', bytes).find(is_end).map_or(bytes.len(), |newline| newline - 1);
        Self {
            kind,
            head: bytes.get(1..end).unwrap_or_default(),
            tail: bytes.get(end + 2..).unwrap_or_default(),
        }
    }

    /// The value's type, which for RESP2's nulls is bulk or array; never an attribute.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether this is a null: `$-1`, `*-1` or `_`.
    pub fn is_null(&self) -> bool {
        match self.kind {
            Kind::Null => true,
            Kind::Array | Kind::Bulk => self.head == b"-1",
            _ => false,
        }
    }

    /// The text of an error, code word first.
    pub fn error_line(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Error => Some(self.head),
            Kind::BlobError => self.payload(),
            _ => None,
        }
    }

    /// The value of an integer.
    pub fn integer(&self) -> Option<i64> {
        match self.kind {
            Kind::Integer => parse_decimal(self.head),
            _ => None,
        }
    }

    /// The bytes of a bulk string, a simple string, or a verbatim string without its format.
    ///
    /// `None` for a streamed string, whose bytes are not in one piece.
    pub fn bulk(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Simple => Some(self.head),
            Kind::Bulk => self.payload(),
            Kind::Verbatim => self.payload()?.get(4..),
            _ => None,
        }
    }

    /// The frames of an array's, a set's or a push's elements, or of a map's keys and values in
    /// turn, each with its attributes; none for other types.
    pub fn elements(&self) -> Elements<'a> {
        let values = match self.kind {
            Kind::Array | Kind::Push | Kind::Set => 1,
            Kind::Attribute | Kind::Map => 2,
            _ => 0,
        };
        let missing = match self.head {
            b"?" if values > 0 => u64::MAX,
            head => parse_decimal(head)
                .and_then(|count| u64::try_from(count).ok())
                .map_or(0, |count| count.saturating_mul(values)),
        };
        Elements { rest: self.tail, missing }
    }

    fn payload(&self) -> Option<&'a [u8]> {
        let len = usize::try_from(parse_decimal(self.head)?).ok()?;
        self.tail.get(..len)
    }
}

/// The frames of an aggregate's elements: see [`Reply::elements`].
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
    /// Elements to come. A streamed aggregate's are over sooner: at its end mark, which is no
    /// value.
    missing: u64,
}

impl<'a> Elements<'a> {
    /// The bytes of the elements to come; with those that end a streamed aggregate.
    pub(crate) fn rest(&self) -> &'a [u8] {
        if self.missing > 0 { self.rest } else { &[] }
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.missing = self.missing.checked_sub(1)?;
        let (element, rest) = self.rest.split_at_checked(value_len(self.rest)?)?;
        self.rest = rest;
        Some(element)
    }
}

impl std::iter::FusedIterator for Elements<'_> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn elements(frame: &str) -> Vec<&str> {
        Reply::new(frame.as_bytes()).elements().map(|e| std::str::from_utf8(e).unwrap()).collect()
    }

    #[test]
    fn a_value_is_read_by_its_type() {
        let reply = Reply::new(b"$3\r\na\r\n\r\n");
        assert_eq!(reply.kind(), Kind::Bulk);
        assert_eq!(reply.bulk(), Some(&b"a\r\n"[..]));
        assert_eq!((reply.integer(), reply.error_line(), reply.is_null()), (None, None, false));

        assert_eq!(Reply::new(b"+OK\r\n").bulk(), Some(&b"OK"[..]));
        assert_eq!(Reply::new(b"=7\r\ntxt:abc\r\n").bulk(), Some(&b"abc"[..]));
        assert_eq!(Reply::new(b"$?\r\n;1\r\na\r\n;0\r\n").bulk(), None);
        assert_eq!(Reply::new(b":-5\r\n").integer(), Some(-5));
        assert_eq!(Reply::new(b":-5\r\n").bulk(), None);
        assert_eq!(Reply::new(b"-MOVED 1 a:1\r\n").error_line(), Some(&b"MOVED 1 a:1"[..]));
        assert_eq!(Reply::new(b"!5\r\nERR a\r\n").error_line(), Some(&b"ERR a"[..]));
        assert_eq!(Reply::new(b"-ERR a\rb\r\n").error_line(), Some(&b"ERR a\rb"[..]));
    }

    #[test]
    fn every_spelling_of_null_is_null() {
        for (frame, kind) in
            [("$-1\r\n", Kind::Bulk), ("*-1\r\n", Kind::Array), ("_\r\n", Kind::Null)]
        {
            let reply = Reply::new(frame.as_bytes());
            assert_eq!((reply.kind(), reply.is_null(), reply.bulk()), (kind, true, None));
            assert_eq!(reply.elements().next(), None);
        }
        for frame in ["$0\r\n\r\n", "*0\r\n", ":0\r\n", "+-1\r\n"] {
            assert!(!Reply::new(frame.as_bytes()).is_null(), "{frame:?}");
        }
    }

    #[test]
    fn elements_are_whole_frames() {
        assert_eq!(
            elements("*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n"),
            ["$1\r\na\r\n", "*1\r\n:1\r\n", "$-1\r\n"]
        );
        assert_eq!(elements("%1\r\n+k\r\n%1\r\n+a\r\n+b\r\n"), ["+k\r\n", "%1\r\n+a\r\n+b\r\n"]);
        assert_eq!(elements("~1\r\n|1\r\n+a\r\n+b\r\n:1\r\n"), ["|1\r\n+a\r\n+b\r\n:1\r\n"]);
        assert_eq!(elements(">2\r\n+pong\r\n+\r\n"), ["+pong\r\n", "+\r\n"]);
        assert_eq!(elements("*?\r\n:1\r\n*?\r\n.\r\n.\r\n:9\r\n"), [":1\r\n", "*?\r\n.\r\n"]);
        assert!(elements("*0\r\n").is_empty());
        assert!(elements("$1\r\na\r\n").is_empty());
    }

    #[test]
    fn the_reply_of_cluster_slots_is_walked_without_a_tree() {
        let frame = b"*1\r\n*3\r\n:0\r\n:16383\r\n*3\r\n$9\r\n127.0.0.1\r\n:7000\r\n$2\r\nid\r\n";
        let range = Reply::new(Reply::new(frame).elements().next().unwrap());
        let fields: Vec<_> = range.elements().map(Reply::new).collect();
        assert_eq!((fields[0].integer(), fields[1].integer()), (Some(0), Some(16383)));
        let node: Vec<_> = fields[2].elements().map(Reply::new).collect();
        assert_eq!((node[0].bulk(), node[1].integer()), (Some(&b"127.0.0.1"[..]), Some(7000)));
    }

    #[test]
    fn attributes_are_skipped() {
        let reply =
            Reply::new(b"|2\r\n+a\r\n|1\r\n+x\r\n:1\r\n:2\r\n+b\r\n:3\r\n|0\r\n*1\r\n:4\r\n");
        assert_eq!(reply.kind(), Kind::Array);
        assert_eq!(
            reply.elements().map(|e| Reply::new(e).integer()).collect::<Vec<_>>(),
            [Some(4)]
        );
    }

    #[test]
    fn bytes_that_are_no_frame_do_no_harm() {
        for bytes in [
            "",
            "x",
            "|1\r\n",
            "|",
            "*5\r\n:1\r\n",
            "$5\r\nab",
            "$9223372036854775807\r\n",
            "%9223372036854775807\r\n+a",
        ] {
            let reply = Reply::new(bytes.as_bytes());
            assert_eq!((reply.bulk(), reply.error_line(), reply.integer()), (None, None, None));
            assert!(reply.elements().count() <= 1);
        }
    }
}
