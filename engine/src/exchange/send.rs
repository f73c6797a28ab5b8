//! From commands to the connections that carry them.

use std::time::Duration;

use smallvec::SmallVec;

use crate::blocking::Blocking;
use crate::errors;
use crate::exchange::{Event, Exchange};
use crate::flight::{Completion, ConnectionClass, Held, Owner, Request, Stage, State};
use crate::ids::{ClusterId, ConnectionId, NodeIndex, PartId, RequestId};
use crate::pool_key::PoolKey;
use crate::target::{SendMode, Target};
use crate::transaction::{EXEC, MULTI};
use crate::upstream::{Choice, PING, Pushed, Wait};

/// How long a command waits before it tries again where it was refused.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// `ASKING` as a command: the next one may be served by a node that is importing its slot.
const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// A part that is about to be sent.
#[derive(Clone, Copy)]
struct Outgoing<'a> {
    id: PartId,
    command: &'a [u8],
    mode: SendMode,
}

impl Exchange {
    /// Sends a part to a node of its target, or holds it until it can be sent.
    #[inline]
    pub(crate) fn send(&mut self, id: PartId, command: &[u8]) {
        self.send_by(Outgoing { id, command, mode: SendMode::Plain }, None);
    }

    /// Sends a part to this node.
    pub(crate) fn send_to(&mut self, node: NodeIndex, id: PartId, command: &[u8], mode: SendMode) {
        self.send_by(Outgoing { id, command, mode }, Some(node));
    }

    /// Sends a part to this node, or to one of its target. What its request says is read where it
    /// lies; what few need is looked up by those that need it.
    #[inline]
    fn send_by(&mut self, outgoing: Outgoing<'_>, node: Option<NodeIndex>) {
        let Outgoing { id, command, mode } = outgoing;
        let Some((request, part)) = self.flight.request_and_part(id) else { return };
        let (cluster, now) = (part.cluster, self.now);
        let node = match (node, part.target) {
            (Some(node), _) => node,
            // It has waited behind others for so long. It ends when this event does.
            _ if request.is_overdue(now) => return,
            (None, Target::Watching(connection, mode)) => {
                return self.send_watched(connection, Outgoing { mode, ..outgoing });
            }
            (None, target) => match self.upstream.choose(cluster, target, now) {
                Choice::Node(node) => node,
                Choice::NoOwner => return self.hold_unowned(outgoing, cluster),
                Choice::Unknown => return self.hold(id, command),
            },
        };
        let lanes = self.config.connections_per_node;
        let lane = match request.class {
            ConnectionClass::Urgent => lanes,
            _ => lane_of(request.owner, lanes),
        };
        let profile = request.profile();
        let connection = match (request.class, request.owner) {
            (ConnectionClass::Shared | ConnectionClass::Urgent, _) | (_, Owner::Mirror(_)) => {
                self.upstream.shared(cluster, node, PoolKey { profile, lane }, now)
            }
            (ConnectionClass::Tracked, Owner::Client(client)) => {
                self.upstream.tracked(client, cluster, node, profile, now)
            }
            (ConnectionClass::Dedicated, Owner::Client(client)) => {
                self.upstream.dedicated(client, cluster, node, profile, now)
            }
        };
        let Some(connection) = connection else {
            return self.hold_unreachable(outgoing, cluster, node);
        };
        if part.stage != Stage::New && self.flight.would_overtake(id, connection) {
            return self.hold(id, command);
        }
        if !request.is_plain() || mode == SendMode::Asking {
            return self.push_special(connection, outgoing);
        }
        let (tally, limit) = (request.tally, self.limit_for(request.owner));
        let pushed = self.upstream.push(connection, id, command, 1, tally, limit, now);
        self.note_pushed(connection, outgoing, pushed);
    }

    /// No node owns the slot. Perhaps the topology was read during a failover.
    #[cold]
    fn hold_unowned(&mut self, outgoing: Outgoing<'_>, cluster: ClusterId) {
        let Outgoing { id, command, .. } = outgoing;
        // As a node would say it.
        self.flight.set_refusal(id.request, errors::SLOT_NOT_SERVED.into());
        self.upstream.hurry(cluster, self.now);
        self.hold(id, command);
    }

    /// There is no connection to the node, and none may be opened.
    #[cold]
    fn hold_unreachable(&mut self, outgoing: Outgoing<'_>, cluster: ClusterId, node: NodeIndex) {
        let Outgoing { id, command, .. } = outgoing;
        let Some(request) = self.flight.waiting(id.request) else { return };
        let lane = lane_of(request.owner, self.config.connections_per_node);
        let key = PoolKey { profile: request.profile(), lane };
        if let Some(text) = self.upstream.note_unreachable(cluster, node, key, self.now) {
            self.flight.set_refusal(id.request, text.into_bytes());
        }
        self.hold(id, command);
    }

    /// Sends a part that has come back, if it does not get out of its client's order: it waits
    /// until those behind it are answered, and [`Self::send_to`] sees to it that it follows those
    /// before it. If one behind it has been executed meanwhile, it is too late for this one: see
    /// [`Self::fail_overtaken`].
    pub(super) fn send_again(&mut self, id: PartId, command: &[u8]) {
        if self.flight.is_followed(id) {
            self.hold(id, command);
        } else {
            self.send(id, command);
        }
    }

    /// Keeps a part until the next chance to send it.
    pub(super) fn hold(&mut self, id: PartId, command: &[u8]) {
        if !self.flight.may_hold(command.len()) {
            return self.fail(id, errors::HELD_OVERFLOW);
        }
        let mut kept = self.buffers.take();
        kept.extend_from_slice(command);
        let pause = self.rng.jitter(RETRY_PAUSE);
        self.flight.hold(id, kept, self.now + pause);
    }

    /// Lets all that is held try again, in the order in which it came.
    pub(crate) fn release_held(&mut self) {
        for Held { part, command } in self.flight.take_held() {
            match self.flight.waiting(part.request).map(|request| &request.state) {
                None => {}
                Some(State::Unplanned(..)) => self.spread(part.request, &command),
                Some(_) => self.send_again(part, &command),
            }
            self.buffers.recycle(command);
        }
    }

    /// A part has, or may have, been executed: earlier ones of its client for the same slot that
    /// were to be sent again would now be executed in the wrong order. They fail as refused.
    #[cold]
    pub(super) fn fail_overtaken(&mut self, id: PartId) {
        for overtaken in self.flight.overtaken(id) {
            let mut error = self.buffers.take();
            if let Some(request) = self.flight.get(overtaken.request) {
                crate::resp::encode::error(&mut error, request.refusal());
            }
            self.hand_in(overtaken, &error);
            self.buffers.recycle(error);
        }
    }

    /// Sends EXEC to the node that has watched the client's keys; if that is out of reach, nothing
    /// is known of the keys and nothing executed.
    #[cold]
    fn send_watched(&mut self, connection: ConnectionId, outgoing: Outgoing<'_>) {
        match self.upstream.address(connection) {
            Some(_) => self.push_special(connection, outgoing),
            None => self.fail_watched(outgoing.id),
        }
    }

    /// Puts a part on a connection with whatever has to go before it.
    #[cold]
    fn push_special(&mut self, connection: ConnectionId, outgoing: Outgoing<'_>) {
        let Outgoing { id, mode, .. } = outgoing;
        let Some(request) = self.flight.waiting(id.request) else { return };
        let (owner, tally) = (request.owner, request.tally);
        let exec_replies = match &request.completion {
            Completion::Exec(exec) => Some(exec.replies),
            _ => None,
        };
        let caching = request.rare().caching;
        let script = request.rare().script.filter(|_| exec_replies.is_none());
        let needs_permit = self.config.auth_passthrough
            && request.identity.is_some()
            && (exec_replies.is_some() || matches!(request.completion, Completion::Watch))
            // What has been watched once could be.
            && !self.upstream.is_watching(connection);
        let waits_everywhere =
            request.blocking().is_some() && matches!(request.state, State::Split(_));

        // A script that the node may not know goes with its EVALSHA: if it said NOSCRIPT, the
        // commands behind this one would have been executed already.
        let mut eval = Vec::new();
        let is_new = script
            .is_some_and(|script| self.upstream.show_script(connection, script, &self.scripts));
        let brings = is_new && self.scripts.rewrite(outgoing.command, &mut eval).is_some();
        let command = if brings { &eval[..] } else { outgoing.command };
        let outgoing = Outgoing { command, ..outgoing };

        if !self.upstream.has_room(connection, command.len(), self.limit_for(owner)) {
            return self.refuse_crowded(connection, outgoing);
        }
        if needs_permit {
            self.upstream.ask_permit(connection, &[MULTI, EXEC], self.now);
        }
        let mut before: SmallVec<[&[u8]; 2]> = SmallVec::new();
        before.extend(caching);
        before.extend((mode == SendMode::Asking).then_some(ASKING));
        // WAIT is about what its server had written when the connection's last command ended (redis
        // `replication.c`, `client.woff`), so one has to come before it, after the client's writes
        // on other connections.
        before.extend(waits_everywhere.then_some(PING));
        for command in before {
            self.upstream.precede(connection, command, self.now);
        }
        // There is room, as has been seen: what goes before the command must not be left without
        // it.
        let replies = exec_replies.unwrap_or(1);
        let pushed =
            self.upstream.push(connection, id, command, replies, tally, usize::MAX, self.now);
        self.note_pushed(connection, outgoing, pushed);
        self.note_wait(connection, id);
        if let (SendMode::Asking, Some(_), Owner::Client(client)) = (mode, caching, owner) {
            // A node that hears ASKING forgets what CLIENT CACHING said.
            self.events.push_back(Event::Untracked(client));
        }
    }

    /// A part has been put on a connection, if there was room.
    #[inline]
    fn note_pushed(&mut self, connection: ConnectionId, outgoing: Outgoing<'_>, pushed: Pushed) {
        match pushed {
            Pushed::Written => self.flight.set_sent(outgoing.id, connection, outgoing.mode),
            Pushed::Dialing => {
                self.flight.set_sent(outgoing.id, connection, outgoing.mode);
                self.note_waiting_for_dial();
            }
            Pushed::NoRoom => self.refuse_crowded(connection, outgoing),
        }
    }

    /// How many bytes of commands may wait on one connection.
    #[inline]
    fn limit_for(&self, owner: Owner) -> usize {
        let limits = &self.config.limits;
        match owner {
            Owner::Client(_) => limits.connection_bytes,
            Owner::Mirror(_) => limits.mirror_bytes.min(limits.connection_bytes),
        }
    }

    #[cold]
    fn refuse_crowded(&mut self, connection: ConnectionId, outgoing: Outgoing<'_>) {
        let Outgoing { id, .. } = outgoing;
        let owner = self.flight.get(id.request).map(|request| request.owner);
        if let Some(Owner::Mirror(mirror)) = owner {
            self.upstream.count(mirror).mirror_dropped_overflow += 1;
            return self.deliver(id.request, b"");
        }
        let text = self.upstream.crowded(connection);
        self.fail(id, &text);
    }

    /// A command that its node may keep waiting has been put on a connection.
    fn note_wait(&mut self, connection: ConnectionId, id: PartId) {
        let Some(request) = self.flight.get(id.request) else { return };
        let Some(Blocking { until, .. }) = request.blocking() else { return };
        let slot = match request.state {
            State::Whole(part) => part.target.slot(),
            _ => None,
        };
        if self.upstream.set_wait(connection, Wait { until, slot, doubted: false }) {
            self.suspend(id.request);
        }
    }

    /// A connection is ready: what waits on it is written now, and may be kept waiting by the node.
    pub(crate) fn note_ready(&mut self, connection: ConnectionId) {
        if let Some(part) = self.upstream.blocked_part(connection) {
            self.suspend(part.request);
        }
    }

    /// From here on a node keeps a command waiting, for as long as the client wants.
    fn suspend(&mut self, id: RequestId) {
        let Some(request) = self.flight.get(id).filter(|one| one.blocking().is_some()) else {
            return;
        };
        if let Some(client) = request.client() {
            self.flight.set_untimed(client);
        }
        self.flight.suspend(id);
    }

    /// Readies a command for another try: one that was kept waiting waits for what is left of its
    /// time.
    pub(super) fn resume(&mut self, id: RequestId, command: &mut Vec<u8>) {
        if !self.flight.resume(id, self.now + self.config.op_timeout) {
            return;
        }
        let blocking = self.flight.get(id).and_then(Request::blocking);
        if let Some(shortened) = blocking.and_then(|one| one.shorten(command, self.now)) {
            *command = shortened;
        }
    }
}

/// Which of so many lanes the commands of this owner take. A client keeps to its lane, and a mirror
/// to one: order is kept.
#[inline]
fn lane_of(owner: Owner, lanes: u32) -> u32 {
    match owner {
        Owner::Client(client) if lanes > 1 => {
            (client.index() as u32).checked_rem(lanes).unwrap_or_default()
        }
        Owner::Client(_) | Owner::Mirror(_) => 0,
    }
}
