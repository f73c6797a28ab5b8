//! What commands and replies mean to the features of the proxy: values that are settled in one
//! place, `proxy::settle`.

use crate::ids::{ConnectionId, RequestId, SessionId};
use crate::route::Place;
use crate::target::SendMode;
use crate::upstream;

/// Something that a feature has to see to.
#[derive(Debug)]
pub(crate) enum Event {
    /// Something has happened between the proxy and its nodes.
    Node(upstream::Event),
    /// A node has said, or never will, whether a client may be who it wants to be.
    Claimed(RequestId, Vec<u8>),
    /// A node has said, or never will, that it tracks for a client.
    TrackingStarted(RequestId, Vec<u8>),
    /// A node watches keys for a client.
    Watched {
        /// The client.
        client: SessionId,
        /// The connection by which the node watches.
        connection: ConnectionId,
        /// Where the keys are.
        place: Place,
        /// How the WATCH was sent, and EXEC has to be.
        mode: SendMode,
    },
    /// EXEC has been answered: no key is watched any more for this client.
    WatchEnded(SessionId),
    /// The connections that a client had to itself have been closed, and with them what nodes
    /// watched.
    WatchLost(SessionId),
    /// A command that the proxy was to answer itself will not be answered by it.
    Dropped(RequestId),
    /// A client may not be told of all that changes: it has to forget what it knows.
    Untracked(SessionId),
}
