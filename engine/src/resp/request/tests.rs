use super::*;

pub(super) const GET: &[u8] = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";

/// The answer for `stream`, which must be the same whole and byte by byte, and its arguments.
pub(super) fn parse_with(
    stream: &[u8],
    limits: &Limits,
) -> (Result<Parsed, ProtocolError>, Vec<Vec<u8>>) {
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
        seen.push((parser.frame(stream).args().collect::<Vec<_>>().join(&b' '), parser.repeats()));
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
        assert_eq!(parse(line.as_bytes()).0, Ok(Parsed::Ignored { len: line.len() }), "{line:?}");
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
        assert_eq!(error(format!("*{count}\r\n").as_bytes()), InvalidMultibulkLength, "{count}");
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
