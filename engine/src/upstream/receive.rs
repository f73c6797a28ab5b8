//! What a node sends: where replies end, and what each is for.

use crate::cluster::{parse_epoch, parse_zone};
use crate::ids::{ConnectionId, PartId};
use crate::resp::{Limits, ProtocolError, Reply, encode};
use crate::time::Instant;
use crate::upstream::Upstream;
use crate::upstream::connection::{Input, Phase, Purpose};
use crate::upstream::event::Event;
use crate::upstream::identities::Login;
use crate::upstream::pipeline::{Expect, Popped, Span};

/// The bytes that have come on a connection, cut into replies.
#[derive(Debug)]
pub(crate) struct Reading<'a> {
    /// What had come before of a reply whose end had not; if that is not empty, `data` is behind
    /// it.
    input: Box<Input>,
    data: &'a [u8],
    /// Where the reply begins that is being read.
    start: usize,
}

/// A piece of what a node has sent.
#[derive(Debug)]
pub(crate) enum Frame<'a> {
    /// A reply, or the rest of one that is being relayed.
    Whole(&'a [u8]),
    /// The beginning of a reply, or more of one that is being relayed; its end has not come.
    Piece(&'a [u8]),
    /// It is no RESP.
    Invalid(ProtocolError),
}

/// What a reply is.
#[derive(Debug)]
pub(crate) enum Received {
    /// The reply to a client's command, whose bytes are at `command` until the next push.
    Reply {
        /// What was asked.
        part: PartId,
        /// See [`Upstream::command`].
        command: Span,
        /// It came on a connection that one client has to itself.
        dedicated: bool,
    },
    /// A reply before the last to a client's commands that stay together.
    Queued(PartId),
    /// Nothing that was asked for.
    Push,
    /// Something on a connection that carries subscriptions.
    Subscription,
    /// The end of a reply that is being relayed.
    RelayEnd,
    /// The reply to a command of the proxy's own, which has been seen to.
    Own,
    /// The connection has been closed.
    Closed,
}

impl<'a> Reading<'a> {
    /// The next piece; `None`: all has been read.
    #[inline]
    pub(crate) fn next(&mut self) -> Option<Frame<'_>> {
        let Input { bytes: kept, scanned, scanner } = &mut *self.input;
        let bytes: &[u8] = if kept.is_empty() { self.data } else { kept };
        let rest = bytes.get(*scanned..).filter(|rest| !rest.is_empty())?;
        let scan = match scanner.scan(rest, &Limits::UNBOUNDED) {
            Ok(scan) => scan,
            Err(error) => return Some(Frame::Invalid(error)),
        };
        *scanned += scan.consumed;
        let piece = bytes.get(self.start..*scanned).unwrap_or_default();
        if !scan.complete {
            return Some(Frame::Piece(piece));
        }
        self.start = *scanned;
        Some(Frame::Whole(piece))
    }

    /// The last piece has been relayed and need not be kept.
    pub(crate) fn drop_piece(&mut self) {
        self.start = self.input.scanned;
    }
}

impl Upstream {
    /// A connection to a node has been established: what waits for it is written now.
    pub(crate) fn note_open(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && connection.phase == Phase::Dialing
        {
            connection.phase = Phase::Established;
        }
        self.queue_write(id);
    }

    /// Begins to read what has come on a connection; `None`: it has gone.
    #[inline]
    pub(crate) fn start_reading<'a>(
        &mut self,
        id: ConnectionId,
        data: &'a [u8],
        now: Instant,
    ) -> Option<Reading<'a>> {
        let connection = self.connections.get_mut(id)?;
        connection.silent_since = now;
        let mut input = connection.input.take().unwrap_or_default();
        if !input.bytes.is_empty() {
            input.bytes.extend_from_slice(data);
        }
        Some(Reading { input, data, start: 0 })
    }

    /// Keeps what has not been read to its end.
    #[inline]
    pub(crate) fn end_reading(&mut self, id: ConnectionId, reading: Reading<'_>) {
        let Reading { mut input, data, start } = reading;
        input.scanned = input.scanned.saturating_sub(start);
        if !input.bytes.is_empty() {
            input.bytes.drain(..start);
            if input.bytes.is_empty() {
                self.buffers.recycle(std::mem::take(&mut input.bytes));
            }
        } else if let Some(rest) = data.get(start..).filter(|rest| !rest.is_empty()) {
            input.bytes = self.buffers.take();
            input.bytes.extend_from_slice(rest);
        }
        let Some(connection) = self.connections.get_mut(id) else {
            return self.buffers.recycle(input.bytes);
        };
        connection.input = Some(input);
        if connection.draining {
            self.close_if_drained(id);
        }
    }

    /// Finds out what a reply is, and sees to those to the proxy's own commands.
    #[inline]
    pub(crate) fn receive(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Received {
        let Some(connection) = self.connections.get_mut(id) else { return Received::Closed };
        if connection.relayed.is_some() {
            return Received::RelayEnd;
        }
        if reply.first() == Some(&b'>') {
            return Received::Push;
        }
        // All of the handshake has been answered, so some reply has come.
        if connection.pipeline.is_open()
            && let Some((part, range, tally)) = connection.pipeline.pop_part()
        {
            connection.phase = Phase::Answered;
            let dedicated = matches!(connection.purpose, Purpose::Dedicated(..));
            if dedicated {
                connection.note_reply();
            }
            if let Some(tally) = tally {
                self.stats.finish(connection.cluster, tally, reply);
            }
            return Received::Reply { part, command: range, dedicated };
        }
        self.receive_other(id, reply, now)
    }

    /// The bytes of the command that has just been answered.
    pub(crate) fn command(&self, id: ConnectionId, range: Span) -> &[u8] {
        self.connections.get(id).map_or(&[], |connection| connection.pipeline.bytes(range))
    }

    fn receive_other(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Received {
        let Some(connection) = self.connections.get_mut(id) else { return Received::Closed };
        if connection.purpose == Purpose::Subscriber && connection.pipeline.is_open() {
            return Received::Subscription;
        }
        if let Some(expect) = connection.pipeline.count_earlier_reply() {
            return match expect {
                Expect::Part(part) => Received::Queued(part),
                _ => Received::Own,
            };
        }
        // Before the first command a node may say why it takes none.
        let is_unasked = connection.is_answered() && !connection.pipeline.is_reply_due();
        let Some(popped) = (!is_unasked).then(|| connection.pipeline.pop()).flatten() else {
            self.give_up(id, "it sent a reply to nothing", now);
            return Received::Closed;
        };
        let first = !connection.is_answered();
        connection.phase = Phase::Answered;
        if first && reply.starts_with(b"-ERR max number of clients reached") {
            return self.refuse(id, "it has too many clients", now);
        }
        let received = self.receive_own(id, popped, reply, now);
        if !matches!(received, Received::Closed) {
            self.note_progress(id, first);
        }
        received
    }

    /// A connection has been answered, for the first time or not: if that was the end of the
    /// handshake, what waits behind it is written.
    fn note_progress(&mut self, id: ConnectionId, first: bool) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let greeted = !connection.pipeline.is_before_gate() && connection.pipeline.open_gate();
        let waits = connection.assignment.wait.is_some();
        if first {
            self.note_success(id);
        }
        if greeted {
            self.queue_write(id);
            if waits {
                self.events.push_back(Event::Ready(id));
            }
        }
    }

    /// Sees to the reply to a command of the proxy's own.
    fn receive_own(
        &mut self,
        id: ConnectionId,
        popped: Popped,
        reply: &[u8],
        now: Instant,
    ) -> Received {
        let error = Reply::new(reply).error_line();
        let Some(connection) = self.connections.get_mut(id) else { return Received::Closed };
        match popped.expect {
            Expect::Nothing => self.release(id, now),
            Expect::Subscription => {}
            Expect::Epoch => connection.epoch = parse_epoch(Reply::new(reply)),
            Expect::Zone => self.note_zone(id, reply),
            Expect::NodeId => return self.receive_node_id(id, reply, now),
            Expect::Membership => return self.receive_membership(id, reply, now),
            Expect::Login => return self.receive_login(id, reply, now),
            Expect::Database | Expect::Permit => {
                if error.is_some() {
                    return self.refuse_all(id, reply);
                }
            }
            Expect::ClientId => connection.node_id = Reply::new(reply).integer(),
            Expect::Tracking => match (error, connection.assignment.client) {
                (Some(_), _) => return self.refuse_all(id, reply),
                (None, client) => self.events.extend(client.map(Event::Tracks)),
            },
            Expect::Hello => return self.receive_hello(id, reply, now),
            Expect::Topology => {
                self.receive_topology(id, reply, now);
                return Received::Closed;
            }
            Expect::Role => self.receive_role(id, reply, now),
            // A client's command before a gate: see `ask_permit`.
            Expect::Part(part) => {
                let dedicated = matches!(connection.purpose, Purpose::Dedicated(..));
                connection.note_reply();
                if let Some(tally) = popped.tally {
                    self.stats.finish(connection.cluster, tally, reply);
                }
                return Received::Reply { part, command: popped.range, dedicated };
            }
        }
        Received::Own
    }

    /// A node that refuses the credentials executes nothing: whatever was to follow is told so.
    fn receive_login(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Received {
        let Some(error) = Reply::new(reply).error_line() else { return Received::Own };
        let Some(connection) = self.connections.get(id) else { return Received::Closed };
        if self.login(connection.purpose.profile().identity).0 != Login::Configured {
            return self.refuse_all(id, reply);
        }
        let error = String::from_utf8_lossy(error).into_owned();
        let text =
            format!("NOAUTH {} refused the proxy's credentials ({error})", connection.address);
        let mut refusal = Vec::new();
        encode::error(&mut refusal, text.as_bytes());
        self.refuse_parts(id, refusal);
        self.refuse(id, &format!("it answered AUTH with '{error}'"), now)
    }

    fn receive_hello(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Received {
        let (whole, reply) = (reply, Reply::new(reply));
        let Some(connection) = self.connections.get(id) else { return Received::Closed };
        if let Some(error) = reply.error_line() {
            // A RESP2 connection is as good without HELLO: servers before 6.0 do not know it.
            if connection.purpose == Purpose::Refresh {
                return Received::Own;
            }
            if self.login(connection.purpose.profile().identity).0 == Login::Nobody {
                return self.refuse_all(id, whole);
            }
            let reason = format!("it answered HELLO with '{}'", String::from_utf8_lossy(error));
            return self.refuse(id, &reason, now);
        }
        let cluster = connection.cluster;
        let mut fields = reply.elements().map(Reply::new);
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match (name.bulk(), value.bulk(), value.integer()) {
                (Some(b"version"), Some(version), _) => {
                    if let Some(cluster) = self.clusters.get_mut(cluster.position()) {
                        cluster.server_version = version.to_vec();
                    }
                }
                (Some(b"id"), _, node_id) => {
                    if let Some(connection) = self.connections.get_mut(id) {
                        connection.node_id = node_id;
                    }
                }
                _ => {}
            }
        }
        Received::Own
    }

    /// A node refuses what all that waits for a connection depends on: its error is the answer.
    /// That is no failure of the node's.
    pub(super) fn refuse_all(&mut self, id: ConnectionId, reply: &[u8]) -> Received {
        self.forget_shared(id);
        self.refuse_parts(id, reply.to_vec());
        self.close_quietly(id);
        Received::Closed
    }

    fn refuse_parts(&mut self, id: ConnectionId, reply: Vec<u8>) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let mut parts = Vec::new();
        while let Some(popped) = connection.pipeline.pop() {
            if let Expect::Part(part) = popped.expect {
                parts.push(part);
            }
            if let Some(tally) = popped.tally {
                self.stats.finish(connection.cluster, tally, b"-");
            }
        }
        self.events.push_back(Event::Refused { parts, reply });
    }

    /// Closes a connection that a node refuses to serve. To try again at once would help nobody.
    pub(super) fn refuse(&mut self, id: ConnectionId, reason: &str, now: Instant) -> Received {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.phase = Phase::Established;
        }
        self.give_up(id, reason, now);
        Received::Closed
    }

    fn note_zone(&mut self, id: ConnectionId, reply: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, _) = connection.purpose else { return };
        let Some(zone) = parse_zone(Reply::new(reply)) else { return };
        let cluster = self.clusters.get_mut(connection.cluster.position());
        if let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) {
            node.zone = Some(zone);
        }
    }

    fn note_success(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, _) = connection.purpose else { return };
        let cluster = self.clusters.get_mut(connection.cluster.position());
        if let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) {
            node.note_success();
        }
    }

    // Relaying.

    /// Whether a reply is being relayed on a connection.
    pub(crate) fn is_relaying(&self, id: ConnectionId) -> bool {
        self.connections.get(id).is_some_and(|connection| connection.relayed.is_some())
    }

    /// The command whose reply comes next on a connection.
    pub(crate) fn front_part(&self, id: ConnectionId) -> Option<PartId> {
        self.connections.get(id)?.pipeline.front_part()
    }

    /// The reply that comes next, of which the first byte is `tag`, is relayed.
    pub(crate) fn begin_relay(&mut self, id: ConnectionId, tag: u8) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.relayed = Some(tag);
        }
    }

    /// A reply has been relayed to its end. Returns what it was to, and its first byte.
    pub(crate) fn end_relay(&mut self, id: ConnectionId) -> Option<(Option<PartId>, u8)> {
        let connection = self.connections.get_mut(id)?;
        let tag = connection.relayed.take()?;
        let part = connection.pipeline.front_part();
        let popped = connection.pipeline.pop();
        if let Some(tally) = popped.and_then(|popped| popped.tally) {
            self.stats.finish(connection.cluster, tally, &[tag]);
        }
        Some((part, tag))
    }
}
