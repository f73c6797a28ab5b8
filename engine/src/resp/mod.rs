//! The wire format: RESP2 and RESP3 as bytes, never as trees.
//!
//! ```text
//! client bytes ──> RequestParser ──> RequestFrame (ranges of arguments)
//! Redis bytes  ──> Scanner       ──> where a reply ends ──> Reply (a view on it)
//! out-buffers  <── encode
//! ```
//!
//! Both parsers are resumable: a frame may be cut anywhere, and a byte is looked at once. They
//! allocate by what has arrived, never by what a peer declared. The rules are those of
//! redis-server 7.0 for commands and of the RESP3 specification for replies.

pub mod encode;
mod error;
mod head;
mod inline;
mod number;
mod reply;
mod request;
mod scan;

pub use error::ProtocolError;
pub(crate) use number::parse_decimal;
pub use reply::{Elements, Kind, Reply};
pub use request::{ArgRange, Parsed, RequestFrame, RequestParser};
pub(crate) use scan::value_len;
pub use scan::{Scan, Scanner};

/// The version of RESP that a connection speaks, as `HELLO` chooses it.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// What every connection starts with.
    #[default]
    Resp2,
    /// After `HELLO 3`.
    Resp3,
}

/// How much a peer may declare before it is cut off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of one bulk string: Redis' `proto-max-bulk-len`.
    pub max_bulk_len: usize,
    /// Elements of one command, or of one array, set or push, or pairs of one map, in a reply.
    ///
    /// Redis limits only what it receives: a reply (`LRANGE`, `HGETALL`) can be longer than any
    /// command, so a scanner is given a higher limit where long replies are expected.
    pub max_array_len: usize,
    /// Bytes of one command, where each argument counts for 32 more: a larger one is not kept, and
    /// its end is looked for. No limit of Redis.
    pub max_command_bytes: usize,
    /// Bytes of a line without its CRLF: an inline command, a header, a simple string or an error.
    pub max_line_len: usize,
}

impl Limits {
    /// For frames that have already been accepted.
    pub(crate) const UNBOUNDED: Self = Self {
        max_bulk_len: usize::MAX,
        max_array_len: usize::MAX,
        max_command_bytes: usize::MAX,
        max_line_len: usize::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bulk_len: 512 * 1024 * 1024,
            max_array_len: i32::MAX as usize,
            max_command_bytes: 128 * 1024 * 1024,
            max_line_len: 64 * 1024,
        }
    }
}
