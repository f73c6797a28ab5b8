//! What the connections to nodes tell: values that are settled in one place, `proxy::settle`.

use crate::cluster::{Address, OwnersChange};
use crate::ids::{ClusterId, ConnectionId, PartId, SessionId};
use crate::upstream::pipeline::{Expect, Pipeline, Span};

/// Something that has happened between the proxy and its nodes.
#[derive(Debug)]
pub(crate) enum Event {
    /// A connection that carried commands or subscriptions has gone.
    Lost(Box<Lost>),
    /// A node refuses what all that waits for a connection depends on: `reply` is the answer to
    /// these.
    Refused {
        /// What waited.
        parts: Vec<PartId>,
        /// The node's error, or the proxy's own.
        reply: Vec<u8>,
    },
    /// Slots have other owners than they had.
    OwnersChanged(OwnersChange),
    /// A topology has been read, be it another one or not.
    Installed,
    /// All of a dedicated connection's handshake has been answered: what waits for it is written
    /// now.
    Ready(ConnectionId),
    /// A node tracks for a client from now on.
    Tracks(SessionId),
}

/// What a connection that has gone leaves behind.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) connection: ConnectionId,
    pub(crate) cluster: ClusterId,
    pub(crate) address: Address,
    /// Why, for people.
    pub(crate) reason: String,
    /// It carried subscriptions.
    pub(crate) subscriber: bool,
    /// The client that had it to itself.
    pub(crate) client: Option<SessionId>,
    /// The node tracked by it for that client, and may have told it something.
    pub(crate) tracked: bool,
    pub(super) pipeline: Pipeline,
}

/// A command on a connection that has gone.
#[derive(Debug)]
pub(crate) struct LostPart {
    pub(crate) part: PartId,
    /// Where its bytes are: see [`Lost::bytes`].
    pub(crate) range: Span,
    /// All of it had been handed to the host, so that the node may have executed it.
    pub(crate) written: bool,
}

impl Lost {
    /// Takes out the oldest command of a client that has not been answered.
    pub(crate) fn pop(&mut self) -> Option<LostPart> {
        while let Some(popped) = self.pipeline.pop() {
            if let Expect::Part(part) = popped.expect {
                return Some(LostPart { part, range: popped.range, written: popped.written });
            }
        }
        None
    }

    /// The bytes of a command that was taken out.
    pub(crate) fn bytes(&self, range: Span) -> &[u8] {
        self.pipeline.bytes(range)
    }
}
