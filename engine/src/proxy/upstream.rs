//! From a node's bytes to replies and retries.

use std::ops::Range;

use super::Proxy;
use crate::cluster::{Cluster, ErrorReply, parse_epoch, parse_zone};
use crate::identity::Login;
use crate::output::{LogLevel, Queued};
use crate::request::{SubRequestId, Way};
use crate::resp::{Limits, Reply};
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId, Expect, Purpose};

/// Whether a connection is still there after a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fate {
    Kept,
    Closed,
}

impl Proxy {
    /// A connection to a node has been established: what waits for it is written now.
    pub fn handle_upstream_open(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.open = true;
        }
        self.queue_write_upstream(id);
    }

    /// A node has sent bytes.
    pub fn handle_upstream_data(&mut self, id: ConnectionId, data: &[u8], now: Instant) {
        self.begin_event(now);
        let Some(connection) = self.connections.get_mut(id) else { return };
        connection.silent_since = now;
        let mut scanner = std::mem::take(&mut connection.scanner);
        let mut input = std::mem::take(&mut connection.input);
        let mut scanned = std::mem::take(&mut connection.scanned);
        let was_cut = !input.is_empty();
        if was_cut {
            input.extend_from_slice(data);
        }
        let bytes: &[u8] = if was_cut { &input } else { data };

        let mut start = 0;
        while let Some(rest) = bytes.get(scanned..).filter(|rest| !rest.is_empty()) {
            let scan = match scanner.scan(rest, &Limits::UNBOUNDED) {
                Ok(scan) => scan,
                Err(error) => {
                    self.give_up(id, &format!("it sent what is no RESP ({error})"), now);
                    break;
                }
            };
            scanned += scan.consumed;
            if !scan.complete {
                let piece = bytes.get(start..scanned).unwrap_or_default();
                if self.relay(id, piece) {
                    start = scanned;
                }
                break;
            }
            let reply = bytes.get(start..scanned).unwrap_or_default();
            start = scanned;
            if self.take_ordinary_reply(id, reply).is_some() {
                continue;
            }
            if self.handle_reply(id, reply, now) == Fate::Closed {
                break;
            }
        }

        if was_cut {
            input.drain(..start);
        } else if let Some(rest) = data.get(start..).filter(|rest| !rest.is_empty()) {
            input = self.buffers.take();
            input.extend_from_slice(rest);
        }
        match self.connections.get_mut(id) {
            Some(connection) if !input.is_empty() || connection.relayed.is_some() => {
                connection.scanner = scanner;
                connection.scanned = scanned - start;
                connection.input = input;
            }
            _ => self.buffers.recycle(input),
        }
        self.close_if_drained(id);
        self.settle(now);
    }

    /// A connection to a node could not be established, or has ended. `reason` is for people.
    pub fn handle_upstream_close(&mut self, id: ConnectionId, reason: &str, now: Instant) {
        self.begin_event(now);
        let Some(connection) = self.connections.remove(id) else { return };
        self.clean_up(id, connection, reason, now);
        self.settle(now);
    }

    /// Closes a connection that is of no further use.
    pub(super) fn give_up(&mut self, id: ConnectionId, reason: &str, now: Instant) {
        let Some(connection) = self.connections.remove(id) else { return };
        self.outputs.push_back(Queued::CloseUpstream(id));
        self.clean_up(id, connection, reason, now);
    }

    /// Closes connections on which a reply has been due for so long that the node, or the way to
    /// it, must be dead. A command that is merely slow has its own caller time out and no other:
    /// the connection lives on for several times that long.
    pub(super) fn close_stalled_connections(&mut self, now: Instant) {
        let patience = self.config.op_timeout.saturating_mul(3);
        let stalled: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                !connection.pipeline.is_empty()
                    && !self.is_blocked(connection)
                    && now.saturating_duration_since(connection.silent_since) > patience
            })
            .map(|(id, _)| id)
            .collect();
        for id in stalled {
            self.give_up(id, &format!("it sent nothing for {patience:?}"), now);
        }
    }

    /// Closes a connection that was only waiting for its last replies.
    pub(super) fn close_if_drained(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        if connection.draining && connection.pipeline.is_empty() {
            self.stats.upstream(connection.cluster).upstream_cx_drained += 1;
            self.forget_shared(id);
            self.connections.remove(id);
            self.outputs.push_back(Queued::CloseUpstream(id));
        }
    }

    fn handle_reply(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Fate {
        let Some(connection) = self.connections.get_mut(id) else { return Fate::Closed };
        if connection.relayed.is_some() {
            self.end_relay(id, reply);
            return Fate::Kept;
        }
        if reply.first() == Some(&b'>') {
            self.handle_push(id, reply);
            return Fate::Kept;
        }
        if connection.purpose == Purpose::Subscriber && connection.pipeline.is_open() {
            return self.handle_subscriber_frame(id, reply, now);
        }
        if let Some(expect) = connection.pipeline.count_earlier_reply() {
            self.note_queued(expect, reply);
            return Fate::Kept;
        }
        // Before the first command a node may say why it takes none.
        let is_unasked = connection.answered && !connection.pipeline.is_reply_due();
        let Some(popped) = (!is_unasked).then(|| connection.pipeline.pop()).flatten() else {
            self.give_up(id, "it sent a reply to nothing", now);
            return Fate::Closed;
        };
        let first = !std::mem::replace(&mut connection.answered, true);
        if first && reply.starts_with(b"-ERR max number of clients reached") {
            return self.refuse(id, "it has too many clients", now);
        }
        let greeted = !connection.pipeline.is_before_gate() && connection.pipeline.open_gate();
        if popped.expect == Expect::Epoch {
            connection.epoch = parse_epoch(Reply::new(reply));
        }
        if first {
            self.note_success(id);
        }
        if greeted {
            self.queue_write_upstream(id);
            self.suspend_blocked(id);
        }
        match popped.expect {
            Expect::Nothing => {
                self.release_dedicated(id, now);
                Fate::Kept
            }
            Expect::Epoch | Expect::Subscription => Fate::Kept,
            Expect::Zone => {
                self.note_zone(id, reply);
                Fate::Kept
            }
            Expect::Login => self.handle_login(id, reply, now),
            Expect::Database | Expect::Permit => match Reply::new(reply).error_line() {
                Some(_) => self.refuse_all(id, reply),
                None => Fate::Kept,
            },
            Expect::ClientId => {
                if let Some(connection) = self.connections.get_mut(id) {
                    connection.node_id = Reply::new(reply).integer();
                }
                Fate::Kept
            }
            Expect::Tracking => self.note_tracking(id, reply),
            Expect::Hello => self.handle_hello(id, reply, now),
            Expect::Topology => {
                self.handle_topology(id, reply, now);
                Fate::Closed
            }
            Expect::Role => {
                self.handle_role(id, reply, now);
                Fate::Kept
            }
            Expect::Request(sub_request) => {
                if self.config.enable_command_stats {
                    self.note_reply(id, reply);
                }
                self.handle_answer(id, sub_request, popped.range, reply, now);
                self.release_dedicated(id, now);
                Fate::Kept
            }
        }
    }

    /// A reply before the last has come to commands that stay together.
    fn note_queued(&mut self, expect: Expect, reply: &[u8]) {
        let Expect::Request(sub_request) = expect else { return };
        let request = self.requests.waiting(sub_request.request);
        let extra = request.and_then(|request| request.known_extra());
        if let Some(exec) = extra.and_then(|extra| extra.exec.as_mut()) {
            exec.note_queued(reply);
        }
    }

    /// A node has answered a client's command, or sends it elsewhere.
    fn handle_answer(
        &mut self,
        id: ConnectionId,
        sub_request: SubRequestId,
        range: Range<usize>,
        reply: &[u8],
        now: Instant,
    ) {
        let Some(request) = self.requests.waiting(sub_request.request) else { return };
        let exec = request.known_extra().and_then(|extra| extra.exec.as_mut());
        let verdict = exec.and_then(|exec| exec.take_verdict(reply));
        let verdict = verdict.as_deref().unwrap_or(reply);
        let error = match verdict.strip_prefix(b"-").and_then(|r| r.strip_suffix(b"\r\n")) {
            Some(text) => ErrorReply::of(text),
            None => ErrorReply::Final,
        };
        if error == ErrorReply::Final && request.way == Way::Shared {
            let script = request.extra().script;
            self.note_no_script(script, reply);
            if !self.bring_script(id, sub_request, range, reply, now) {
                self.take_reply(sub_request, reply);
            }
            return;
        }
        let mut command = self.buffers.take();
        if let Some(connection) = self.connections.get(id) {
            command.extend_from_slice(connection.pipeline.bytes(range));
        }
        if error == ErrorReply::Final {
            self.take_dedicated_reply(id, sub_request, &command, reply, now);
        } else {
            self.resume_blocked(sub_request.request, &mut command, now);
            self.send_elsewhere(id, sub_request, error, verdict, &command, now);
        }
        self.buffers.recycle(command);
    }

    /// A node has answered on a connection that one client has to itself.
    fn take_dedicated_reply(
        &mut self,
        id: ConnectionId,
        sub_request: SubRequestId,
        command: &[u8],
        reply: &[u8],
        now: Instant,
    ) {
        self.note_watch(id, sub_request, reply);
        self.conclude_watched(sub_request);
        self.mirror_outcome(sub_request, command, reply, now);
        self.take_reply(sub_request, reply);
    }

    /// A node that refuses the credentials executes nothing: whatever was to follow is told so.
    fn handle_login(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Fate {
        let Some(error) = Reply::new(reply).error_line() else { return Fate::Kept };
        let Some(connection) = self.connections.get(id) else { return Fate::Closed };
        if self.login(connection.purpose.manner().identity).0 != Login::Configured {
            return self.refuse_all(id, reply);
        }
        let Some(connection) = self.connections.get_mut(id) else { return Fate::Closed };
        let error = String::from_utf8_lossy(error).into_owned();
        let text =
            format!("NOAUTH {} refused the proxy's credentials ({error})", connection.address);
        let mut refused = Vec::new();
        while let Some(popped) = connection.pipeline.pop() {
            if let Expect::Request(sub_request) = popped.expect {
                refused.push(sub_request);
            }
        }
        for sub_request in refused {
            self.fail(sub_request, &text);
        }
        self.refuse(id, &format!("it answered AUTH with '{error}'"), now)
    }

    /// Closes a connection that a node refuses to serve. To try again at once would help nobody.
    fn refuse(&mut self, id: ConnectionId, reason: &str, now: Instant) -> Fate {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.answered = false;
        }
        self.give_up(id, reason, now);
        Fate::Closed
    }

    fn handle_hello(&mut self, id: ConnectionId, reply: &[u8], now: Instant) -> Fate {
        let (whole, reply) = (reply, Reply::new(reply));
        let Some(connection) = self.connections.get(id) else { return Fate::Closed };
        if let Some(error) = reply.error_line() {
            // A RESP2 connection is as good without HELLO: servers before 6.0 do not know it.
            if connection.purpose == Purpose::Refresh {
                return Fate::Kept;
            }
            if self.login(connection.purpose.manner().identity).0 == Login::Nobody {
                return self.refuse_all(id, whole);
            }
            let reason = format!("it answered HELLO with '{}'", String::from_utf8_lossy(error));
            return self.refuse(id, &reason, now);
        }
        let mut fields = reply.elements().map(Reply::new);
        while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
            match (name.bulk(), value.bulk(), value.integer()) {
                (Some(b"version"), Some(version), _) => {
                    if let Some(cluster) = self.cluster_of(id) {
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
        Fate::Kept
    }

    /// Settles what a connection that has gone leaves behind.
    fn clean_up(
        &mut self,
        id: ConnectionId,
        mut connection: Connection,
        reason: &str,
        now: Instant,
    ) {
        self.stats.touch();
        self.note_lost(&mut connection);
        if !connection.answered {
            self.stats.upstream(connection.cluster).upstream_cx_connect_fail += 1;
        }
        if connection.purpose == Purpose::Refresh {
            let text = format!("{}: {reason}", connection.address);
            self.give_up_candidate(connection.cluster, id, text, now);
            return;
        }
        if connection.purpose == Purpose::Subscriber {
            return self.lose_subscriber(id, &connection, reason, now);
        }
        self.forget_dedicated(id, &connection, now);
        self.release_shared(id, &connection, reason, now);
        let lost = format!("the connection to {} was lost ({reason})", connection.address);
        let mut returned = Vec::new();
        while let Some(popped) = connection.pipeline.pop() {
            let Expect::Request(sub_request) = popped.expect else { continue };
            self.break_relay(sub_request.request, &lost);
            let Some(request) = self.requests.waiting(sub_request.request) else { continue };
            if popped.written && !request.read_only {
                let code = match request.way {
                    // What Redis says when it has to let go of a client that waits.
                    Way::Blocking(_) => "UNBLOCKED",
                    _ => "ERR",
                };
                let text =
                    format!("{code} {lost} before the reply: the command may have been executed");
                self.conclude_watched(sub_request);
                self.take_error(sub_request, &text);
            } else {
                request.extra_mut().refusal = match popped.written {
                    true => format!("ERR {lost} before the reply"),
                    false => format!("CLUSTERDOWN {lost} before the command was sent"),
                }
                .into_bytes();
                self.note_held(sub_request);
                returned.push((sub_request, popped.range));
            }
        }
        // None of these has to wait for those behind it, because they have come back too.
        for (sub_request, range) in returned {
            if self.requests.waiting(sub_request.request).is_none() {
                continue;
            }
            self.stats.upstream(connection.cluster).upstream_rq_retry += 1;
            let mut command = self.buffers.take();
            command.extend_from_slice(connection.pipeline.bytes(range));
            self.resume_blocked(sub_request.request, &mut command, now);
            self.send_again(sub_request, &command, now);
            self.buffers.recycle(command);
        }
        self.buffers.recycle(connection.input);
    }

    /// Makes way for the next connection to a node whose shared one has gone.
    fn release_shared(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        reason: &str,
        now: Instant,
    ) {
        let (index, lane) = match connection.purpose {
            Purpose::Shared(index, lane) => (index, Some(lane)),
            Purpose::Dedicated(index, _) => (index, None),
            Purpose::Subscriber | Purpose::Refresh => return,
        };
        let Some(cluster) = self.clusters.get_mut(connection.cluster) else { return };
        cluster.refresh.hurry(now);
        let Some(node) = cluster.node_mut(index) else { return };
        if let Some(lane) = lane.filter(|lane| node.shared(*lane) == Some(id)) {
            node.set_shared(lane, None);
            node.note_lost();
        }
        if !connection.answered {
            let first = node.note_failure(now, &mut self.rng);
            if !first {
                return;
            }
        }
        let what = if connection.answered { "ended" } else { "failed" };
        let message = format!(
            "the connection to {} of cluster '{}' {what}: {reason}",
            connection.address, cluster.config.name
        );
        self.log(LogLevel::Warn, message);
    }

    /// Takes a connection out of the place where its node's clients find it.
    pub(super) fn forget_shared(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, lane) = connection.purpose else { return };
        let Some(cluster) = self.clusters.get_mut(connection.cluster) else { return };
        if let Some(node) = cluster.node_mut(index).filter(|n| n.shared(lane) == Some(id)) {
            node.set_shared(lane, None);
        }
    }

    fn note_zone(&mut self, id: ConnectionId, reply: &[u8]) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, _) = connection.purpose else { return };
        let Some(zone) = parse_zone(Reply::new(reply)) else { return };
        let cluster = self.clusters.get_mut(connection.cluster);
        if let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) {
            node.zone = Some(zone);
        }
    }

    fn note_success(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get(id) else { return };
        let Purpose::Shared(index, _) = connection.purpose else { return };
        let cluster = self.clusters.get_mut(connection.cluster);
        if let Some(node) = cluster.and_then(|cluster| cluster.node_mut(index)) {
            node.note_success();
        }
    }

    pub(super) fn cluster_of(&mut self, id: ConnectionId) -> Option<&mut Cluster> {
        let cluster = self.connections.get(id)?.cluster;
        self.clusters.get_mut(cluster)
    }
}
