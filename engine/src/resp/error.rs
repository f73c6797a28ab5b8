//! Bytes that are no RESP.

use std::fmt;

/// Why a peer's bytes cannot be read any further; its connection is to be closed.
///
/// For a client's errors, `Display` gives the text that redis-server 7.0 answers after `-ERR `;
/// [`encode::protocol_error`](super::encode::protocol_error) writes the whole reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProtocolError {
    // Of commands.
    /// An argument starts with this byte instead of `$`.
    ExpectedBulk(u8),
    /// An argument's length is no number, negative, or over the limit.
    InvalidBulkLength,
    /// A command's argument count is no number or over the limit.
    InvalidMultibulkLength,
    /// An argument's header does not end.
    TooBigBulkCount,
    /// An inline command does not end.
    TooBigInline,
    /// A command's header does not end.
    TooBigMultibulkCount,
    /// An inline command's quote is not closed, or not followed by a space.
    UnbalancedQuotes,

    // Of replies.
    /// A reply's bulk is not followed by CRLF.
    ReplyBulkUnterminated,
    /// A reply's length is no number, or over the limit.
    ReplyLength,
    /// A reply's line does not end.
    ReplyLineTooLong,
    /// Streamed aggregates stand too deep in one another.
    ReplyNesting,
    /// A reply starts with this byte, which is no type, or none that may stand there.
    ReplyType(u8),
    /// The value of a reply of this type is not one.
    ReplyValue(u8),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match *self {
            Self::ExpectedBulk(byte) => write!(f, "expected '$', got '{}'", printable(byte)),
            Self::InvalidBulkLength => f.write_str("invalid bulk length"),
            Self::InvalidMultibulkLength => f.write_str("invalid multibulk length"),
            Self::TooBigBulkCount => f.write_str("too big bulk count string"),
            Self::TooBigInline => f.write_str("too big inline request"),
            Self::TooBigMultibulkCount => f.write_str("too big mbulk count string"),
            Self::UnbalancedQuotes => f.write_str("unbalanced quotes in request"),
            Self::ReplyBulkUnterminated => f.write_str("bulk without CRLF in reply"),
            Self::ReplyLength => f.write_str("invalid length in reply"),
            Self::ReplyLineTooLong => f.write_str("too big line in reply"),
            Self::ReplyNesting => f.write_str("too deep streams in reply"),
            Self::ReplyType(tag) => write!(f, "got '{}' as reply type byte", printable(tag)),
            Self::ReplyValue(tag) => {
                write!(f, "invalid value of type '{}' in reply", printable(tag))
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

/// The byte as a character; CR and LF, which would end the error's line, as spaces.
fn printable(byte: u8) -> char {
    match byte {
        b'\r' | b'\n' => ' ',
        _ => char::from(byte),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_of_a_clients_errors_are_those_of_redis() {
        // As measured on redis-server 7.0.15.
        let texts = [
            (ProtocolError::ExpectedBulk(b'x'), "expected '$', got 'x'"),
            (ProtocolError::ExpectedBulk(b'\r'), "expected '$', got ' '"),
            (ProtocolError::InvalidBulkLength, "invalid bulk length"),
            (ProtocolError::InvalidMultibulkLength, "invalid multibulk length"),
            (ProtocolError::TooBigBulkCount, "too big bulk count string"),
            (ProtocolError::TooBigInline, "too big inline request"),
            (ProtocolError::TooBigMultibulkCount, "too big mbulk count string"),
            (ProtocolError::UnbalancedQuotes, "unbalanced quotes in request"),
        ];
        for (error, text) in texts {
            assert_eq!(error.to_string(), format!("Protocol error: {text}"));
        }
    }
}
