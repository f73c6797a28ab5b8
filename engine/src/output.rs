//! What the engine asks of its driver.

use crate::cluster::Address;
use crate::ids::{ConnectionId, SessionId};

/// One thing to do; see [`Proxy::poll_output`](crate::Proxy::poll_output).
#[derive(Debug)]
pub enum Output<'a> {
    /// Open a TCP connection, and report when it is established by
    /// [`Proxy::handle_upstream_open`](crate::Proxy::handle_upstream_open): nothing is written to
    /// it before.
    OpenUpstream {
        /// How the connection is called from now on.
        connection: ConnectionId,
        /// The Envoy cluster to go through.
        envoy_cluster: &'a str,
        /// The node to dial.
        address: &'a Address,
    },
    /// Send bytes to a node.
    WriteUpstream {
        /// The connection to write to.
        connection: ConnectionId,
        /// What to send; never empty.
        bytes: &'a [u8],
    },
    /// Close a connection to a node; it is forgotten already.
    CloseUpstream {
        /// The connection to close.
        connection: ConnectionId,
    },
    /// Send bytes to a client.
    WriteDownstream {
        /// The client.
        session: SessionId,
        /// What to send; never empty.
        bytes: &'a [u8],
    },
    /// Close a client's connection when all that was written has been sent, and report that by
    /// [`Proxy::handle_downstream_close`](crate::Proxy::handle_downstream_close).
    CloseDownstream {
        /// The client.
        session: SessionId,
    },
    /// Leave this client's bytes unread from now on, so that it has to wait.
    PauseDownstream {
        /// The client.
        session: SessionId,
    },
    /// Read this client's bytes again, those first that have come in the meantime.
    ResumeDownstream {
        /// The client.
        session: SessionId,
    },
    /// Call [`Proxy::flush`](crate::Proxy::flush) once the events that are at hand have been
    /// handled: more commands for the same nodes may be among them.
    FlushSoon,
    /// Show what has been counted: see [`Proxy::report_stats`](crate::Proxy::report_stats).
    ReportStats,
    /// Tell the operator. The text never holds keys, values or credentials.
    Log {
        /// How grave it is.
        level: LogLevel,
        /// One line.
        message: String,
    },
}

/// How grave a message is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum LogLevel {
    /// Good to know.
    Info,
    /// Clients suffer, or may soon.
    Warn,
}

/// An output about nodes that waits to be polled; ids only, the bytes stay with their owners.
#[derive(Debug)]
pub(crate) enum Queued {
    OpenUpstream(ConnectionId),
    WriteUpstream(ConnectionId),
    CloseUpstream(ConnectionId),
    Log(LogLevel, String),
}
