//! From a client's bytes to commands.

use super::Proxy;
use super::command::Taken;
use crate::command::{self, Lookup};
use crate::output::Queued;
use crate::resp::{self, Parsed};
use crate::session::{Session, SessionId};
use crate::time::Instant;

/// A parked client that has sent this many bytes ahead is asked to wait.
const READ_AHEAD: usize = 1024 * 1024;

/// So many bytes of what is known of a connection become part of its keys, at most.
const LONGEST_ATTRIBUTE: usize = 1024;

impl Proxy {
    /// A client has connected.
    pub fn handle_downstream_open(&mut self, now: Instant) -> SessionId {
        self.begin_event(now);
        self.stats.downstream().downstream_cx_total += 1;
        let client_id = self.next_client_id;
        self.next_client_id += 1;
        let mut session = Session::new(client_id, self.config.users.is_empty(), now);
        session.identity = self.stranger;
        let session = self.sessions.insert(session);
        for cluster in &mut self.clusters {
            cluster.refresh.note_client(now, &cluster.config);
        }
        self.refresh_topologies(now);
        session
    }

    /// What the host knows of a client's connection, in the order of [`Self::attributes`], empty
    /// where it knows nothing; to be told before the first bytes are. Of a value
    /// the first kilobyte counts.
    pub fn handle_downstream_attributes(&mut self, id: SessionId, mut attributes: Vec<Vec<u8>>) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        for value in &mut attributes {
            value.truncate(LONGEST_ATTRIBUTE);
        }
        session.attributes = attributes;
    }

    /// What is known of a client's connection.
    pub(super) fn attributes_of(&self, id: SessionId) -> &[Vec<u8>] {
        self.sessions.get(id).map_or(&[], |session| &session.attributes)
    }

    /// A client has sent bytes.
    pub fn handle_downstream_data(&mut self, id: SessionId, data: &[u8], now: Instant) {
        self.begin_event(now);
        self.stats.downstream().downstream_cx_rx_bytes_total += data.len() as u64;
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.closing {
            return;
        }
        if session.input.is_empty() && !session.parked {
            let read = self.read_commands(id, data, now);
            self.keep_input(id, data.get(read..).unwrap_or_default());
        } else {
            session.input.extend_from_slice(data);
            if !session.parked {
                self.read_input(id, now);
            }
        }
        self.count_input(id, now);
        self.pause_if_ahead(id);
        self.settle(now);
    }

    /// A client has gone. What it is still owed is dropped; what it has sent may be executed.
    pub fn handle_downstream_close(&mut self, id: SessionId) {
        self.take_transaction(id);
        self.stop_tracking(id);
        self.abandon_dedicated(id);
        let Some(session) = self.sessions.remove(id) else { return };
        self.stats.touch();
        self.input_bytes -= session.counted_input;
        for request in session.pending {
            self.abandon_subscribe(request);
            self.requests.remove(request);
        }
        self.drop_subscriptions(id, session.subscribed);
        self.buffers.recycle(session.input);
        self.buffers.recycle(session.output);
    }

    /// A parked session may read on, its commands so far having been answered.
    pub(super) fn read_on(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        session.parked = false;
        if std::mem::take(&mut session.untimed) {
            session.arrivals.renew(now);
        }
        if !session.input.is_empty() && !session.closing {
            self.read_input(id, now);
            self.count_input(id, now);
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.paused && session.input.len() < READ_AHEAD {
            session.paused = false;
            self.outputs.push_back(Queued::ResumeDownstream(id));
            // What was kept back while the client could not be read.
            self.queue_write_downstream(id);
        }
    }

    /// Takes commands from the session's own buffer.
    fn read_input(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut input = std::mem::take(&mut session.input);
        let read = self.read_commands(id, &input, now);
        match self.sessions.get_mut(id) {
            Some(session) if read < input.len() && !session.closing => {
                input.drain(..read);
                session.input = input;
            }
            _ => self.buffers.recycle(input),
        }
    }

    fn keep_input(&mut self, id: SessionId, rest: &[u8]) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if !rest.is_empty() && !session.closing {
            session.input = self.buffers.take();
            session.input.extend_from_slice(rest);
        }
    }

    /// Keeps the count of bytes that wait in the proxy, and account of when they came, and closes a
    /// client whose bytes are too many for it.
    fn count_input(&mut self, id: SessionId, now: Instant) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.parked {
            session.arrivals.note(session.input.len(), self.config.op_timeout, now);
        } else if !session.arrivals.is_empty() {
            session.arrivals.clear();
        }
        self.input_bytes = self.input_bytes - session.counted_input + session.input.len();
        session.counted_input = session.input.len();
        if self.input_bytes <= self.config.limits.input_bytes || session.input.is_empty() {
            return;
        }
        self.input_bytes -= session.counted_input;
        session.counted_input = 0;
        session.input = Vec::new();
        self.stats.downstream().downstream_cx_input_overflow += 1;
        let text = b"ERR too many bytes of unfinished or unanswered commands wait in this proxy";
        self.answer(id, |out| resp::encode::error(out, text));
        self.close_after_replies(id);
    }

    fn pause_if_ahead(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.parked && !session.paused && session.input.len() >= READ_AHEAD {
            session.paused = true;
            self.outputs.push_back(Queued::PauseDownstream(id));
        }
    }

    /// Takes as many commands from `bytes` as may be sent now; returns how many bytes that were.
    fn read_commands(&mut self, id: SessionId, bytes: &[u8], now: Instant) -> usize {
        let Some(session) = self.sessions.get_mut(id) else { return 0 };
        let mut parser = std::mem::take(&mut session.parser);
        let has_waited = !session.arrivals.is_empty();
        let mut last = session.last;
        let mut limits = self.frame_limits(id);
        let mut read = 0;
        while let Some(rest) = bytes.get(read..).filter(|rest| !rest.is_empty()) {
            if self.must_wait(id) {
                break;
            }
            match parser.parse(rest, &limits) {
                Ok(Parsed::Incomplete) => break,
                Ok(Parsed::Ignored { len }) => read += len,
                Ok(Parsed::Command { len }) => {
                    if has_waited && let Some(session) = self.sessions.get_mut(id) {
                        session.came = session.arrivals.of(read + len);
                    }
                    let frame = parser.frame(rest);
                    let lookup = match last.filter(|_| parser.repeats()) {
                        Some(spec) => Lookup::Known(spec),
                        None => {
                            let lookup = command::lookup(&frame);
                            last = lookup.by_name();
                            lookup
                        }
                    };
                    match self.handle_command(id, lookup, &frame, len, now) {
                        Taken::Ordinary => {}
                        // Who the client is may be known now.
                        Taken::Yes => limits = self.frame_limits(id),
                        Taken::NotYet => {
                            self.park(id);
                            break;
                        }
                    }
                    read += len;
                }
                Err(error) => {
                    self.stats.downstream().downstream_cx_protocol_error += 1;
                    self.answer(id, |out| resp::encode::protocol_error(out, error));
                    self.close_after_replies(id);
                }
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            session.parser = parser;
            session.last = last;
            if has_waited {
                session.came = None;
                session.arrivals.take(read);
            }
        }
        read
    }

    /// Whether the session's next command has to wait until those before it are answered.
    ///
    /// A standalone Redis executes a client's commands in their order. Here that holds because
    /// commands for one slot follow each other down one connection; so while one of them is held,
    /// or may have been sent to a node that no longer owns its slot, none may overtake it on
    /// another way. What is sent more than once sees to that itself: see [`Self::send_again`].
    fn must_wait(&mut self, id: SessionId) -> bool {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(id) else { return true };
        if session.closing {
            return true;
        }
        let wait = !session.pending.is_empty()
            && (session.alone
                || session.epoch != self.epoch
                || session.pending.len() >= limits.session_requests
                || session.pending_bytes >= limits.session_bytes);
        session.parked |= wait;
        session.alone &= wait;
        wait
    }

    /// Lets the session's commands wait until those before them are answered.
    fn park(&mut self, id: SessionId) {
        if let Some(session) = self.sessions.get_mut(id) {
            session.parked = true;
        }
    }

    /// What a client may send; little before it has said who it is.
    fn frame_limits(&self, id: SessionId) -> resp::Limits {
        let limits = self.config.limits.frame;
        if self.sessions.get(id).is_some_and(|session| session.authenticated) {
            return limits;
        }
        resp::Limits { max_array_len: 10, max_bulk_len: 16 * 1024, ..limits }
    }
}
