//! From a client's bytes to commands.

use std::net::SocketAddr;

use super::Proxy;
use super::execute::Taken;
use crate::downstream::Unread;
use crate::errors;
use crate::ids::SessionId;
use crate::resp::{Parsed, encode};
use crate::time::Instant;

impl Proxy {
    /// A client has connected.
    pub fn handle_downstream_open(&mut self, now: Instant) -> SessionId {
        self.x.set_time(now);
        let authenticated = self.x.config.users.is_empty();
        let id = self.x.downstream.open(authenticated, self.identities.initial(), now);
        self.x.flight.open(id);
        self.x.upstream.note_client(now);
        self.settle();
        id
    }

    /// Where a client's connection comes from and where it arrived, as far as the host knows: what
    /// CLIENT LIST shows, and where cluster-aware clients are told to go.
    pub fn handle_downstream_addresses(
        &mut self,
        id: SessionId,
        remote: Option<SocketAddr>,
        local: Option<SocketAddr>,
    ) {
        self.x.downstream.set_addresses(id, remote, local);
    }

    /// What the host knows of a client's connection, in the order of [`Self::attributes`], empty
    /// where it knows nothing; to be told before the first bytes are. Of a value the first kilobyte
    /// counts.
    pub fn handle_downstream_attributes(&mut self, id: SessionId, attributes: Vec<Vec<u8>>) {
        self.x.downstream.set_attributes(id, attributes);
    }

    /// A client has sent bytes.
    pub fn handle_downstream_data(&mut self, id: SessionId, data: &[u8], now: Instant) {
        self.x.set_time(now);
        match self.x.downstream.receive(id, data) {
            Unread::AsTheyCame => {
                let read = self.read_commands(id, data);
                self.keep_rest(id, data.get(read..).unwrap_or_default());
            }
            unread => self.end_data(id, unread),
        }
    }

    /// The same, where the engine may keep the buffer. It leaves another one then, with whatever is
    /// in that.
    pub fn handle_downstream_buffer(&mut self, id: SessionId, buffer: &mut Vec<u8>, now: Instant) {
        self.x.set_time(now);
        let least = self.x.config.limits.moved_command_bytes;
        match self.x.downstream.receive(id, buffer) {
            Unread::AsTheyCame => match self.read_buffer(id, buffer) {
                0 if buffer.len() >= least => {
                    self.x.downstream.keep_buffer(id, buffer);
                    self.settle_input(id);
                }
                read => self.keep_rest(id, buffer.get(read..).unwrap_or_default()),
            },
            unread => self.end_data(id, unread),
        }
    }

    /// Keeps what has not been read of bytes as they came.
    #[inline]
    fn keep_rest(&mut self, id: SessionId, rest: &[u8]) {
        if rest.is_empty() {
            // Nothing waits, as nothing did before.
            return self.settle();
        }
        self.x.downstream.keep(id, rest);
        self.settle_input(id);
    }

    /// The beginning of a client's unfinished command, if it is large, so that what has come of the
    /// rest can be put behind it without a copy. There is room for `more` bytes.
    /// [`Self::handle_downstream_rest`] has to follow; only a client that is closed need not get it
    /// back.
    pub fn take_unfinished(&mut self, id: SessionId, more: usize) -> Option<Vec<u8>> {
        let least = self.x.config.limits.moved_command_bytes;
        self.x.downstream.take_unfinished(id, more, least)
    }

    /// A client has sent more of an unfinished command: `bytes` are its beginning and, from
    /// `rest_at` on, what has come now.
    pub fn handle_downstream_rest(
        &mut self,
        id: SessionId,
        bytes: Vec<u8>,
        rest_at: usize,
        now: Instant,
    ) {
        self.x.set_time(now);
        let unread = self.x.downstream.receive_rest(id, bytes, rest_at);
        self.end_data(id, unread);
    }

    /// A client has sent bytes that are not to be read as they came.
    fn end_data(&mut self, id: SessionId, unread: Unread) {
        match unread {
            Unread::Dropped => return self.settle(),
            Unread::Nothing | Unread::AsTheyCame => {}
            Unread::Kept(bytes) => self.read_kept(id, bytes),
        }
        self.settle_input(id);
    }

    /// The rest of what happens when a client has sent bytes, and some wait or have waited.
    fn settle_input(&mut self, id: SessionId) {
        self.count_input(id);
        self.x.downstream.pause_if_ahead(id);
        self.settle();
    }

    /// A client has gone. What it is still owed is dropped; what it has sent may be executed.
    pub fn handle_downstream_close(&mut self, id: SessionId, now: Instant) {
        self.x.set_time(now);
        self.tracking.stop(&mut self.x, id);
        self.tracking.abandon(&mut self.x, id);
        self.x.drop_pending(id);
        self.settle_events();
        self.transactions.forget(id);
        self.pubsub.drop_client(&mut self.x, id);
        self.x.flight.close(id);
        self.x.downstream.close(id);
        self.settle();
    }

    /// A parked client may read on, its commands so far having been answered.
    pub(super) fn read_on(&mut self, id: SessionId) {
        let renew = self.x.flight.take_untimed(id);
        if let Some(bytes) = self.x.downstream.resume(id, renew, self.x.now()) {
            self.read_kept(id, bytes);
            self.count_input(id);
        }
        self.x.downstream.resume_if_read(id);
    }

    fn read_kept(&mut self, id: SessionId, mut bytes: Vec<u8>) {
        let read = self.read_buffer(id, &mut bytes);
        self.x.downstream.put_back(id, bytes, read);
    }

    /// The same as [`Self::read_commands`]. A large command that is alone keeps the buffer, and one
    /// without any bytes is left.
    fn read_buffer(&mut self, id: SessionId, buffer: &mut Vec<u8>) -> usize {
        self.x.upstream.offer_buffer(buffer, self.x.config.limits.moved_command_bytes);
        let read = self.read_commands(id, buffer);
        self.x.upstream.give_buffer(buffer);
        read
    }

    /// Keeps the count of bytes that wait in the proxy, and closes the client that has most of them
    /// if they are too many.
    fn count_input(&mut self, id: SessionId) {
        if let Some(most) = self.x.downstream.count_input(id, self.x.now()) {
            self.x.answer_error(most, errors::INPUT_OVERFLOW);
            self.x.close_after_replies(most);
        }
    }

    /// Takes as many commands from `bytes` as may be sent now; returns how many bytes that were.
    fn read_commands(&mut self, id: SessionId, bytes: &[u8]) -> usize {
        let Some(mut reader) = self.x.downstream.start_reading(id) else { return 0 };
        let mut read = 0;
        while let Some(rest) = bytes.get(read..).filter(|rest| !rest.is_empty()) {
            if self.must_wait(id) {
                break;
            }
            match reader.parse(rest) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Ignored { len } | Parsed::Skipped { len }) => read += len,
                Ok(Parsed::TooLarge { len }) => {
                    read += len;
                    self.refuse_large(id);
                }
                Ok(Parsed::Command { len }) => {
                    if reader.has_waited() {
                        self.x.downstream.note_arrival(id, read + len);
                    }
                    let (frame, lookup) = reader.command(rest);
                    match self.execute(id, lookup, &frame, len) {
                        Taken::Sent => {}
                        // Who the client is may be known now.
                        Taken::Answered => self.x.downstream.renew_limits(id, &mut reader),
                        Taken::NotYet => {
                            self.x.downstream.park(id);
                            break;
                        }
                    }
                    read += len;
                }
                Err(error) => {
                    self.x.downstream.stats_mut().count().downstream_cx_protocol_error += 1;
                    self.x.answer(id, |out| encode::protocol_error(out, error));
                    if reader.exceeds_limit() {
                        self.x.downstream.set_lingering(id);
                    }
                    self.x.close_after_replies(id);
                }
            }
        }
        self.x.downstream.end_reading(id, reader, read);
        read
    }

    /// Whether the client's next command has to wait until those before it are answered.
    #[inline]
    fn must_wait(&mut self, id: SessionId) -> bool {
        let wait = self.x.flight.must_wait(id, self.x.upstream.epoch());
        if wait {
            self.x.downstream.park(id);
        }
        wait
    }
}
