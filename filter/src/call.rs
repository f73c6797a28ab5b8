//! What the handling of one event has from outside its router.

use slotmesh_engine::ConnectionId;

use crate::host::{self, HostError};
use crate::id_map::IdMap;
use crate::scope::Scope;
use crate::tickets::Tickets;

/// Which connection of which router a stream is.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) root: u32,
    pub(crate) connection: ConnectionId,
}

/// One event's way through a router: its streams, and the context that host calls apply to.
pub(crate) struct Call<'a> {
    pub(crate) root: u32,
    pub(crate) scope: &'a mut Scope,
    /// Connections to nodes by the token of their stream.
    pub(crate) streams: &'a mut IdMap<Stream>,
    pub(crate) tickets: &'a mut Tickets<Stream>,
}

impl Call<'_> {
    /// Makes host calls apply to a client. An error says that its context is gone.
    pub(crate) fn enter_client(&mut self, context: u32) -> Result<(), HostError> {
        self.scope.enter(self.root, context, host::set_effective_context)
    }

    /// Makes host calls about streams, the queue and the timer apply to this router.
    pub(crate) fn enter_router(&mut self) {
        // A root context outlives the events of its router.
        let _ = self.scope.enter_any(self.root, host::set_effective_context);
    }

    /// A ticket for the stream that `connection` is about to be.
    pub(crate) fn ticket(&mut self, connection: ConnectionId) -> String {
        self.tickets.issue(Stream { root: self.root, connection }, host::random())
    }

    /// Takes the ticket back: the stream could not be opened.
    pub(crate) fn revoke(&mut self, connection: ConnectionId) {
        revoke(self.tickets, self.root, connection);
    }

    pub(crate) fn insert(&mut self, token: u32, connection: ConnectionId) {
        self.streams.insert(token, Stream { root: self.root, connection });
    }

    pub(crate) fn remove(&mut self, token: u32) {
        if let Some(Stream { root, connection }) = self.streams.remove(&token) {
            revoke(self.tickets, root, connection);
        }
    }
}

/// Takes back the tickets of a connection of one router.
pub(crate) fn revoke(tickets: &mut Tickets<Stream>, root: u32, connection: ConnectionId) {
    tickets.revoke(|stream| stream.root == root && stream.connection == connection);
}
