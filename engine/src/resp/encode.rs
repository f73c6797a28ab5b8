//! Writers that append one RESP value, or the header of one, to a buffer.

use super::{Protocol, ProtocolError};

/// Appends a simple string such as `+OK`; CR and LF in it become spaces.
pub fn simple(out: &mut Vec<u8>, text: &[u8]) {
    line(out, b'+', text);
}

/// Appends an error; `text` starts with its code (`ERR`, `MOVED`), CR and LF become spaces.
pub fn error(out: &mut Vec<u8>, text: &[u8]) {
    line(out, b'-', text);
}

/// Adds to the text of an error; what is no error stays as it is.
pub fn extend_error(reply: &mut Vec<u8>, text: &[u8]) {
    if reply.starts_with(b"-") && reply.ends_with(b"\r\n") {
        reply.truncate(reply.len() - 2);
        reply.extend_from_slice(text);
        reply.extend_from_slice(b"\r\n");
    }
}

/// Appends the reply of redis-server 7.0 to bytes that are no command.
pub fn protocol_error(out: &mut Vec<u8>, error: ProtocolError) {
    if let ProtocolError::ExpectedBulk(byte) = error {
        // The byte as it came, which is no character if it is over 127.
        line(out, b'-', &[b"ERR Protocol error: expected '$', got '", &[byte][..], b"'"].concat());
    } else {
        line(out, b'-', format!("ERR {error}").as_bytes());
    }
}

/// Appends an integer.
pub fn integer(out: &mut Vec<u8>, value: i64) {
    number(out, b':', value);
}

/// Appends a bulk string.
pub fn bulk(out: &mut Vec<u8>, payload: &[u8]) {
    number(out, b'$', payload.len());
    out.extend_from_slice(payload);
    out.extend_from_slice(b"\r\n");
}

/// Appends a text, in the form that only RESP3 has.
pub fn verbatim(out: &mut Vec<u8>, text: &[u8]) {
    number(out, b'=', text.len().saturating_add(4));
    out.extend_from_slice(b"txt:");
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// Appends the null that stands for a missing string.
pub fn null(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"$-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends the null that stands for a missing array, such as the reply of an aborted `EXEC`.
pub fn null_array(out: &mut Vec<u8>, protocol: Protocol) {
    out.extend_from_slice(match protocol {
        Protocol::Resp2 => b"*-1\r\n",
        Protocol::Resp3 => b"_\r\n",
    });
}

/// Appends the header of an array of `len` elements, which the caller appends after it.
pub fn array_header(out: &mut Vec<u8>, len: usize) {
    number(out, b'*', len);
}

/// Appends the header of a map of `pairs` keys and values: in RESP2 an array of them in turn.
pub fn map_header(out: &mut Vec<u8>, protocol: Protocol, pairs: usize) {
    match protocol {
        Protocol::Resp2 => number(out, b'*', pairs * 2),
        Protocol::Resp3 => number(out, b'%', pairs),
    }
}

/// Appends the header of a set of `len` elements: in RESP2 an array.
pub fn set_header(out: &mut Vec<u8>, protocol: Protocol, len: usize) {
    match protocol {
        Protocol::Resp2 => number(out, b'*', len),
        Protocol::Resp3 => number(out, b'~', len),
    }
}

/// Appends the header of a push of `len` elements: in RESP2 an array.
pub fn push_header(out: &mut Vec<u8>, protocol: Protocol, len: usize) {
    match protocol {
        Protocol::Resp2 => number(out, b'*', len),
        Protocol::Resp3 => number(out, b'>', len),
    }
}

/// Appends a command: an array of bulk strings.
pub fn command(out: &mut Vec<u8>, args: &[&[u8]]) {
    array_header(out, args.len());
    for arg in args {
        bulk(out, arg);
    }
}

fn line(out: &mut Vec<u8>, tag: u8, text: &[u8]) {
    out.push(tag);
    out.extend(text.iter().map(|&byte| match byte {
        b'\r' | b'\n' => b' ',
        _ => byte,
    }));
    out.extend_from_slice(b"\r\n");
}

fn number(out: &mut Vec<u8>, tag: u8, value: impl itoa::Integer) {
    out.push(tag);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        out.escape_ascii().to_string()
    }

    #[test]
    fn values_are_appended_in_the_form_of_the_protocol() {
        use Protocol::{Resp2, Resp3};
        assert_eq!(written(|out| simple(out, b"OK")), r"+OK\r\n");
        assert_eq!(written(|out| error(out, b"ERR no")), r"-ERR no\r\n");
        assert_eq!(written(|out| integer(out, i64::MIN)), r":-9223372036854775808\r\n");
        assert_eq!(written(|out| bulk(out, b"a\r\nb")), r"$4\r\na\r\nb\r\n");
        assert_eq!(written(|out| bulk(out, b"")), r"$0\r\n\r\n");
        assert_eq!(written(|out| verbatim(out, b"ab")), r"=6\r\ntxt:ab\r\n");
        assert_eq!(written(|out| null(out, Resp2)), r"$-1\r\n");
        assert_eq!(written(|out| null(out, Resp3)), r"_\r\n");
        assert_eq!(written(|out| null_array(out, Resp2)), r"*-1\r\n");
        assert_eq!(written(|out| null_array(out, Resp3)), r"_\r\n");
        assert_eq!(written(|out| array_header(out, 12)), r"*12\r\n");
        assert_eq!(written(|out| map_header(out, Resp2, 7)), r"*14\r\n");
        assert_eq!(written(|out| map_header(out, Resp3, 7)), r"%7\r\n");
        assert_eq!(written(|out| set_header(out, Resp2, 3)), r"*3\r\n");
        assert_eq!(written(|out| set_header(out, Resp3, 3)), r"~3\r\n");
        assert_eq!(written(|out| push_header(out, Resp2, 3)), r"*3\r\n");
        assert_eq!(written(|out| push_header(out, Resp3, 3)), r">3\r\n");
        assert_eq!(
            written(|out| command(out, &[b"GET", b"key"])),
            r"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
        );
    }

    #[test]
    fn only_an_error_is_told_more_about() {
        let extended = |reply: &[u8]| {
            written(|out| {
                out.extend_from_slice(reply);
                extend_error(out, b"; or so");
            })
        };
        assert_eq!(extended(b"-ERR no\r\n"), r"-ERR no; or so\r\n");
        assert_eq!(extended(b"+OK\r\n"), r"+OK\r\n");
    }

    #[test]
    fn a_line_cannot_be_broken_by_its_text() {
        assert_eq!(written(|out| error(out, b"ERR a\r\n+OK")), r"-ERR a  +OK\r\n");
        assert_eq!(written(|out| simple(out, b"a\nb\rc")), r"+a b c\r\n");
    }

    #[test]
    fn a_protocol_error_is_the_reply_of_redis() {
        // As measured on redis-server 7.0.15.
        use ProtocolError::{ExpectedBulk, InvalidBulkLength, UnbalancedQuotes};
        let cases = [
            (ExpectedBulk(b'x'), r"-ERR Protocol error: expected \'$\', got \'x\'\r\n"),
            (ExpectedBulk(0xff), r"-ERR Protocol error: expected \'$\', got \'\xff\'\r\n"),
            (ExpectedBulk(b'\n'), r"-ERR Protocol error: expected \'$\', got \' \'\r\n"),
            (InvalidBulkLength, r"-ERR Protocol error: invalid bulk length\r\n"),
            (UnbalancedQuotes, r"-ERR Protocol error: unbalanced quotes in request\r\n"),
        ];
        for (error, reply) in cases {
            assert_eq!(written(|out| protocol_error(out, error)), reply);
        }
    }
}
