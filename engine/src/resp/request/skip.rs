//! Commands that are too large: nothing of them is kept, and their end is looked for.

use super::{RequestParser, State};
use crate::resp::{Limits, Parsed, ProtocolError};

impl RequestParser {
    /// Keeps no more of the unfinished command at the start of a buffer of `len` bytes, as if it
    /// were larger than [`Limits::max_command_bytes`]. Returns how many of these bytes are of no
    /// use; `None` if no command has begun whose end could be found.
    pub fn skip(&mut self, len: usize) -> Option<usize> {
        let State::Args { missing } = self.state else { return None };
        let useless = self.position.min(len);
        self.start_skipping(missing, self.position - useless);
        Some(useless)
    }

    /// The command is too large: skips what has come of it.
    #[cold]
    pub(super) fn refuse(&mut self, buf: &[u8], limits: &Limits) -> Parsed {
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
        self.state = State::Skip { missing, left };
    }

    /// Reads on in a command that is too large.
    #[cold]
    pub(super) fn skip_on(&mut self, buf: &[u8], limits: &Limits) -> Result<Parsed, ProtocolError> {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::request::ARG_COST;
    use crate::resp::request::tests::{GET, parse_with};

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
}
