//! Large commands, whose buffers go to their connections without a copy: see [`crate::offer`].

use crate::buffers;
use crate::upstream::Upstream;

impl Upstream {
    /// A client has sent `bytes`. If they turn out to be one command, the connection on which it
    /// goes may have their buffer, by [`Self::give_buffer`].
    pub(crate) fn offer_buffer(&mut self, bytes: &[u8], least: usize) {
        self.offer.make(bytes, least);
    }

    /// No connection may have the buffer.
    pub(crate) fn withdraw_offer(&mut self) {
        self.offer.withdraw();
    }

    /// Gives the buffer to the connection that has claimed it, if one has, and leaves another one
    /// without any bytes.
    pub(crate) fn give_buffer(&mut self, buffer: &mut Vec<u8>) {
        self.offer.withdraw();
        let Some(id) = self.claimant.take() else { return };
        let mut bytes = std::mem::replace(buffer, self.buffers.take());
        buffers::fit(&mut bytes);
        if let Some(connection) = self.connections.get_mut(id) {
            connection.pipeline.fill(bytes);
        }
    }
}
