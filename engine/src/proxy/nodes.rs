//! From a node's bytes to replies.

use super::Proxy;
use crate::ids::ConnectionId;
use crate::time::Instant;
use crate::upstream::{Frame, Received};

impl Proxy {
    /// A connection to a node has been established: what waits for it is written now.
    pub fn handle_upstream_open(&mut self, id: ConnectionId, now: Instant) {
        self.x.set_time(now);
        self.x.upstream.note_open(id);
        self.settle();
    }

    /// A node has sent bytes.
    pub fn handle_upstream_data(&mut self, id: ConnectionId, data: &[u8], now: Instant) {
        self.x.set_time(now);
        self.read_replies(id, data);
        self.settle();
    }

    /// The same, where the engine may keep the buffer. It leaves another one then, with whatever is
    /// in that.
    pub fn handle_upstream_buffer(&mut self, id: ConnectionId, buffer: &mut Vec<u8>, now: Instant) {
        self.x.set_time(now);
        self.x.downstream.offer_buffer(buffer, self.x.config.limits.moved_reply_bytes);
        self.read_replies(id, buffer);
        self.x.downstream.take_buffer(buffer);
        self.settle();
    }

    fn read_replies(&mut self, id: ConnectionId, data: &[u8]) {
        let now = self.x.now();
        let Some(mut reading) = self.x.upstream.start_reading(id, data, now) else { return };
        while let Some(frame) = reading.next() {
            match frame {
                Frame::Whole(reply) => {
                    let is_open = self.take_frame(id, reply);
                    self.settle_events();
                    if !is_open {
                        break;
                    }
                }
                Frame::Piece(piece) => {
                    if self.x.relay(id, piece) {
                        reading.drop_piece();
                    }
                    break;
                }
                Frame::Invalid(error) => {
                    let reason = format!("it sent what is no RESP ({error})");
                    self.x.upstream.give_up(id, &reason, now);
                    break;
                }
            }
        }
        self.x.upstream.end_reading(id, reading);
    }

    /// A connection to a node could not be established, or has ended. `reason` is for people.
    pub fn handle_upstream_close(&mut self, id: ConnectionId, reason: &str, now: Instant) {
        self.x.set_time(now);
        self.x.upstream.note_close(id, reason, now);
        self.settle();
    }

    /// Takes a reply. Returns whether the connection is still there.
    #[inline]
    fn take_frame(&mut self, id: ConnectionId, reply: &[u8]) -> bool {
        match self.x.upstream.receive(id, reply, self.x.now()) {
            Received::Reply { part, command, dedicated } => {
                self.x.take_reply(id, part, command, dedicated, reply);
            }
            Received::Queued(part) => self.x.note_queued(part, reply),
            Received::Push => self.tracking.note_push(&mut self.x, id, reply),
            Received::Subscription => self.pubsub.take_frame(&mut self.x, id, reply),
            Received::RelayEnd => self.x.end_relay(id, reply),
            Received::Own => {}
            Received::Closed => return false,
        }
        true
    }
}
