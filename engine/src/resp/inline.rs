//! Commands typed as a line of words: `SET greeting "hello\nworld"`.
//!
//! People, scripts and health checks send them, so this code may allocate.

use super::{ArgRange, ProtocolError, encode};

/// Appends the command of `line` (without its end) to `out` as an array of bulk strings, and the
/// places of its arguments there to `args`; of a blank line nothing. Both are empty before.
///
/// The words are those of Redis' `sdssplitargs`: spaces separate them, double quotes keep spaces
/// and know `\n \r \t \b \a \xHH`, single quotes keep everything but `\'`. A quote may open inside
/// a word; where it closes the word must be over.
///
/// # Errors
/// A quote that is not closed, or is closed within a word; and a NUL, which in Redis hides the
/// line's end, so that it gives this error when 64 KiB have come.
pub(super) fn parse(
    line: &[u8],
    out: &mut Vec<u8>,
    args: &mut Vec<ArgRange>,
) -> Result<(), ProtocolError> {
    if line.contains(&0) {
        return Err(ProtocolError::TooBigInline);
    }
    let mut words = Vec::new();
    let mut rest = trim_start(line);
    while !rest.is_empty() {
        let mut word = Vec::new();
        rest = trim_start(take_word(rest, &mut word)?);
        words.push(word);
    }
    if words.is_empty() {
        return Ok(());
    }
    encode::array_header(out, words.len());
    for word in &words {
        encode::bulk(out, word);
        let start = out.len() - 2 - word.len();
        let (range, _) =
            ArgRange::with_end(start, word.len()).ok_or(ProtocolError::TooBigInline)?;
        args.push(range);
    }
    Ok(())
}

/// Moves the first word of `rest` to `word`, without quotes and escapes; returns what follows.
fn take_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], ProtocolError> {
    loop {
        match *rest {
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(rest),
            [b'"', ref quoted @ ..] => return take_double_quoted(quoted, word),
            [b'\'', ref quoted @ ..] => return take_single_quoted(quoted, word),
            [byte, ref tail @ ..] => {
                word.push(byte);
                rest = tail;
            }
        }
    }
}

fn take_double_quoted<'a>(
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'"', ref tail @ ..] => return after_quote(tail),
            [b'\\', b'x', high, low, ref tail @ ..]
                if let (Some(high), Some(low)) = (hex_digit(high), hex_digit(low)) =>
            {
                (high << 4 | low, tail)
            }
            [b'\\', escaped, ref tail @ ..] => (unescape(escaped), tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

fn take_single_quoted<'a>(
    mut rest: &'a [u8],
    word: &mut Vec<u8>,
) -> Result<&'a [u8], ProtocolError> {
    loop {
        let (byte, tail) = match *rest {
            [] => return Err(ProtocolError::UnbalancedQuotes),
            [b'\'', ref tail @ ..] => return after_quote(tail),
            [b'\\', b'\'', ref tail @ ..] => (b'\'', tail),
            [byte, ref tail @ ..] => (byte, tail),
        };
        word.push(byte);
        rest = tail;
    }
}

/// `rest`, which follows a closing quote, if the word is over there.
fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

fn unescape(byte: u8) -> u8 {
    match byte {
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'b' => 0x08,
        b'a' => 0x07,
        _ => byte,
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

fn trim_start(line: &[u8]) -> &[u8] {
    let blanks = line.iter().take_while(|&&byte| is_space(byte)).count();
    line.get(blanks..).unwrap_or_default()
}

/// C's `isspace`, which unlike Rust's `is_ascii_whitespace` knows the vertical tab.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of `line`, by way of the frame that is made of it.
    fn words(line: &[u8]) -> Result<Vec<Vec<u8>>, ProtocolError> {
        let (mut out, mut args) = (Vec::new(), Vec::new());
        parse(line, &mut out, &mut args)?;
        let frame = super::super::RequestFrame::new(&out, &args);
        Ok(frame.args().map(<[u8]>::to_vec).collect())
    }

    #[test]
    fn words_are_split_as_redis_splits_them() {
        // Each line gave the same to redis-server 7.0.15, behind `EVAL 'return ARGV' 0`.
        let cases: &[(&[u8], &[&[u8]])] = &[
            (b"", &[]),
            (b" \t\x0b\x0c\r ", &[]),
            (b"GET key", &[b"GET", b"key"]),
            (b"  GET \t key ", &[b"GET", b"key"]),
            (br#""a\x41\n\t\q\"""#, &[b"aA\n\tq\""]),
            (br#""\b\a\r\\""#, &[b"\x08\x07\r\\"]),
            (br#""\x4""#, &[b"x4"]),
            (br#""\xfF""#, &[b"\xff"]),
            (br"'a\'b\n'", &[br"a'b\n"]),
            (br#"a"b c""#, &[b"ab c"]),
            (b"\"a\"\x0bb", &[b"a", b"b"]),
            (b"a\x0bb", &[b"a\x0bb"]),
            (b"a\rb", &[b"a", b"b"]),
            (b"\"\" ''", &[b"", b""]),
        ];
        for (line, expected) in cases {
            assert_eq!(words(line).unwrap(), *expected, "{:?}", line.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_quote_must_be_closed_and_end_its_word() {
        for line in [&br#""a"#[..], br"'a", br#""a"b"#, br#""a"'b'"#, br"'a'b", br#""\""#, br"'\'"]
        {
            assert_eq!(words(line), Err(ProtocolError::UnbalancedQuotes));
        }
    }

    #[test]
    fn a_nul_is_refused() {
        assert_eq!(words(b"GET a\0b"), Err(ProtocolError::TooBigInline));
    }

    #[test]
    fn the_frame_is_what_a_client_library_would_have_sent() {
        let (mut out, mut args) = (Vec::new(), Vec::new());
        parse(b"SET key ''", &mut out, &mut args).unwrap();
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$0\r\n\r\n");
        assert_eq!(args[1], ArgRange { start: 17, len: 3 });
    }
}
