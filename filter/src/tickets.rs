//! How a tunnel, where it runs in the router's VM, knows whose stream it has.

use slotmesh_engine::ConnectionId;

use crate::host;
use crate::id_map::IdMap;

/// By a ticket, sent as a header of the stream, a tunnel learns which of this VM's connections it
/// carries: what the node sends then goes straight to the router.
#[derive(Default)]
pub(crate) struct Tickets {
    /// Tickets of this VM begin with it.
    nonce: Option<u64>,
    last: u32,
    /// Streams whose tunnel has not been seen yet, by the number of their ticket.
    issued: IdMap<Stream>,
}

/// Which connection of which router a stream is.
#[derive(Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) root: u32,
    pub(crate) connection: ConnectionId,
}

impl Tickets {
    pub(crate) fn issue(&mut self, stream: Stream) -> String {
        let nonce = *self.nonce.get_or_insert_with(host::random);
        self.last = self.last.wrapping_add(1);
        self.issued.insert(self.last, stream);
        format!("{nonce:016x}{:08x}", self.last)
    }

    /// The stream that the ticket was for; `None` if this VM has not issued it.
    pub(crate) fn redeem(&mut self, ticket: &[u8]) -> Option<Stream> {
        let (nonce, number) = std::str::from_utf8(ticket).ok()?.split_at_checked(16)?;
        if u64::from_str_radix(nonce, 16).ok() != self.nonce {
            return None;
        }
        self.issued.remove(&u32::from_str_radix(number, 16).ok()?)
    }

    /// Takes back the tickets of connections that have gone, or never came, before their tunnel was seen.
    pub(crate) fn revoke(&mut self, connection: ConnectionId) {
        self.issued.retain(|_, stream| stream.connection != connection);
    }
}
