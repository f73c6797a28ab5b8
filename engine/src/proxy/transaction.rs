//! MULTI, EXEC, DISCARD, WATCH and UNWATCH: see [`crate::transaction`].

use super::command::{CROSSSLOT, Command, NO_ROUTE};
use super::{Proxy, Scratch};
use crate::command::{
    self, CommandError, CommandSpec, Flags, KeysError, Local, Lookup, Support, Verb,
};
use crate::config::ReadPolicy;
use crate::pubsub::TopicKind;
use crate::request::{Leave, Owner, Part, State, SubRequestId, Way};
use crate::resp::{RequestParser, encode};
use crate::route::{Place, shared_place};
use crate::session::SessionId;
use crate::time::Instant;
use crate::transaction::{EXECABORT, Transaction, Watch};
use crate::upstream::{ConnectionId, Expect};

/// The text that Redis gives a command that no transaction may hold.
const NOT_IN_MULTI: &[u8] = b"ERR Command not allowed inside a transaction";

/// Redis lets a client do this, whose replies then cannot be told from messages.
const SUBSCRIBE_IN_MULTI: &[u8] =
    b"ERR this proxy does not change subscriptions inside a transaction: do it before or after";

const SELECT_IN_MULTI: &[u8] =
    b"ERR this proxy does not change the database inside a transaction: do it before or after";

const MANY_NODES: &[u8] =
    b"CROSSSLOT the command concerns all nodes of the cluster: they cannot take part in one transaction";

const TOO_LARGE: &[u8] = b"ERR the transaction is too large for this proxy";

const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

impl Proxy {
    /// Whether the session's next command has to come after all before it: it runs on a connection of
    /// its own or on many nodes, or messages will follow its answer, or what comes behind it will go by
    /// connections of another version.
    pub(super) fn runs_alone(&self, id: SessionId, support: Support) -> bool {
        let Some(session) = self.sessions.get(id) else { return false };
        match support {
            Support::Block | Support::Subscribe(_) | Support::Transaction(Verb::Watch) => {
                session.transaction.is_none()
            }
            Support::Transaction(Verb::Exec) => {
                session.watch != Watch::None || session.identity.is_some()
            }
            Support::Track => true,
            Support::EveryPrimary(_) | Support::Scan | Support::Wait(_) => {
                session.transaction.is_none()
            }
            Support::Local(Local::Hello | Local::Reset | Local::Select) => true,
            Support::Local(Local::Auth) => self.config.auth_passthrough,
            _ => false,
        }
    }

    /// A client has begun, ended or prepared a transaction.
    pub(super) fn handle_transaction(
        &mut self,
        id: SessionId,
        verb: Verb,
        command: Command<'_>,
        now: Instant,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let in_multi = session.transaction.is_some();
        let outcome = match (verb, in_multi) {
            (Verb::Multi, true) => Err("ERR MULTI calls can not be nested"),
            (Verb::Watch, true) => Err("ERR WATCH inside MULTI is not allowed"),
            (Verb::Exec, false) => Err("ERR EXEC without MULTI"),
            (Verb::Discard, false) => Err("ERR DISCARD without MULTI"),
            (Verb::Unwatch, true) => return self.queue(id, command, Support::AnyNode),
            (Verb::Exec, true) => return self.execute(id, command.spec, now),
            (Verb::Watch, false) => {
                return self.send_keyed(
                    id,
                    &Command { way: Way::Watch(Leave::Owner), ..command },
                    now,
                );
            }
            (Verb::Multi, false) => {
                session.transaction = Some(Box::new(Transaction::new()));
                Ok(())
            }
            (Verb::Discard, true) => {
                self.discard(id);
                Ok(())
            }
            (Verb::Unwatch, false) => {
                self.unwatch(id);
                Ok(())
            }
        };
        self.stats.finish_at_once(command.spec, outcome.is_ok());
        self.answer(id, |out| match outcome {
            Ok(()) => encode::simple(out, b"OK"),
            Err(text) => encode::error(out, text.as_bytes()),
        });
    }

    /// Puts a command into the client's transaction, if it may be there.
    pub(super) fn queue(&mut self, id: SessionId, command: Command<'_>, support: Support) {
        let result = self.try_queue(id, &command, support);
        match result {
            Ok(()) => {
                let session = self.sessions.get_mut(id);
                let transaction = session.and_then(|session| session.transaction.as_mut());
                if let Some(transaction) = transaction {
                    // A script is known when it is executed, and not before.
                    transaction.shows_scripts |= command.spec.flags.contains(Flags::NOSCRIPT);
                }
            }
            Err(_) => self.abort_transaction(id),
        }
        self.stats.finish_at_once(command.spec, result.is_ok());
        self.answer(id, |out| match &result {
            Ok(()) => encode::simple(out, b"QUEUED"),
            Err(error) => out.extend_from_slice(error),
        });
    }

    /// A command of the client's transaction was refused: EXEC will be too.
    pub(super) fn abort_transaction(&mut self, id: SessionId) {
        let session = self.sessions.get_mut(id);
        if let Some(transaction) = session.and_then(|session| session.transaction.as_mut()) {
            transaction.aborted = true;
        }
    }

    /// Refuses a command before anything is done with it; `text` starts with a code. A transaction
    /// that it was meant for is aborted, and EXEC ends it, as in Redis (`rejectCommand`).
    pub(super) fn reject(&mut self, id: SessionId, spec: &CommandSpec, text: &[u8]) {
        self.stats.fail(spec);
        if spec.name != "exec" {
            self.abort_transaction(id);
            return self.answer(id, |out| encode::error(out, text));
        }
        self.discard(id);
        let reason = text.strip_prefix(b"ERR ").unwrap_or(text);
        let text = [b"EXECABORT Transaction discarded because of: ", reason].concat();
        self.answer(id, |out| encode::error(out, &text));
    }

    /// Ends a client's transaction and its WATCH without executing anything.
    pub(super) fn discard(&mut self, id: SessionId) {
        self.take_transaction(id);
        self.unwatch(id);
    }

    /// Takes a transaction from its client.
    pub(super) fn take_transaction(&mut self, id: SessionId) -> Option<Box<Transaction>> {
        let transaction = self.sessions.get_mut(id)?.transaction.take()?;
        self.transaction_bytes = self.transaction_bytes.saturating_sub(transaction.bytes());
        Some(transaction)
    }

    /// Sends EXEC to the node that has watched the client's keys; if that is out of reach, nothing
    /// is known of the keys and nothing executed.
    pub(super) fn send_watched(&mut self, sub_request: SubRequestId, unit: &[u8], now: Instant) {
        let request = self.requests.get(sub_request.request);
        let session = request.and_then(|request| self.sessions.get(request.session()?));
        match session.map(|session| session.watch) {
            Some(Watch::Kept { connection, leave, .. }) => {
                self.push(connection, sub_request, unit, leave, now);
            }
            _ => self.fail_watched(sub_request),
        }
    }

    /// Answers EXEC as if a watched key had changed: the client will try again.
    pub(super) fn fail_watched(&mut self, sub_request: SubRequestId) {
        let Some(request) = self.requests.get(sub_request.request) else { return };
        let mut reply = self.buffers.take();
        encode::null_array(&mut reply, request.protocol);
        self.conclude_watched(sub_request);
        self.take_reply(sub_request, &reply);
        self.buffers.recycle(reply);
    }

    /// A WATCH has been answered by this connection: from now on it is the client's.
    pub(super) fn note_watch(
        &mut self,
        connection: ConnectionId,
        sub_request: SubRequestId,
        reply: &[u8],
    ) {
        let Some(request) = self.requests.get(sub_request.request) else { return };
        let (Way::Watch(leave), State::Whole(part)) = (request.way, &request.state) else { return };
        let (Some(slot), Some(id)) = (part.slot, request.session()) else { return };
        let place = Place { cluster: part.cluster, slot };
        let Some(session) = self.sessions.get_mut(id).filter(|_| reply == b"+OK\r\n") else {
            return;
        };
        let before = session.watch;
        session.watch = Watch::Kept { connection, place, leave };
        match before {
            Watch::None => {}
            Watch::Kept { connection: earlier, .. } if earlier == connection => {}
            // What was watched before is not watched by this one.
            Watch::Kept { .. } | Watch::Lost => {
                self.unwatch(id);
                if let Some(session) = self.sessions.get_mut(id) {
                    session.watch = before;
                }
                self.unwatch(id);
                if let Some(session) = self.sessions.get_mut(id) {
                    session.watch = Watch::Lost;
                }
            }
        }
    }

    /// EXEC has been answered: nothing is watched any more.
    pub(super) fn conclude_watched(&mut self, sub_request: SubRequestId) {
        let request = self.requests.get(sub_request.request);
        if let Some(session) = request
            .filter(|request| request.way == Way::WatchedExec)
            .and_then(|request| self.sessions.get_mut(request.session()?))
        {
            session.watch = Watch::None;
        }
    }

    /// Sends what the client has queued to the node that owns its keys.
    fn execute(&mut self, id: SessionId, spec: &'static CommandSpec, now: Instant) {
        let Some(transaction) = self.take_transaction(id) else { return };
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (watch, protocol) = (session.watch, session.protocol);
        if transaction.aborted {
            self.unwatch(id);
            self.stats.finish_at_once(spec, false);
            return self.answer(id, |out| encode::error(out, EXECABORT));
        }
        if watch == Watch::Lost {
            session.watch = Watch::None;
            self.stats.finish_at_once(spec, true);
            return self.answer(id, |out| encode::null_array(out, protocol));
        }
        let (is_remote, shows_scripts) = (transaction.is_remote(), transaction.shows_scripts);
        let (unit, exec) = transaction.execute(spec, |command| self.capture(id, command, now));
        if shows_scripts {
            self.note_scripts_of(&unit);
        }
        let place = match (exec.target.place, watch) {
            (None, Watch::Kept { place, .. }) => Some(place),
            (place, _) => place,
        };
        if watch == Watch::None && !is_remote {
            self.stats.finish_at_once(spec, true);
            return self.answer(id, |out| exec.write_reply(b"*0\r\n", out));
        }
        let Some(cluster) = place
            .map(|place| place.cluster)
            .or_else(|| self.routes.keyless().map(|route| route.cluster))
        else {
            return self.answer_no_route(id, spec);
        };
        let slot = place.map(|place| place.slot);
        let part = Part::new(cluster, slot, ReadPolicy::Master);
        let part = Part { several_keys: true, ..part };
        let way = if watch == Watch::None { Way::Shared } else { Way::WatchedExec };
        let owner = Owner::Session(id);
        let Some(request) =
            self.begin(owner, &Command::unit(spec, &unit, way), State::Whole(part), now)
        else {
            return;
        };
        if let Some(session) = self.sessions.get_mut(id) {
            session.alone |= session.identity.is_some();
        }
        if let Some(request) = self.requests.get_mut(request) {
            request.read_only = exec.target.read_only;
            request.extra_mut().exec = Some(exec);
        }
        self.send(SubRequestId { request, part: 0 }, &unit, now);
        if way == Way::Shared {
            self.mirror_transaction(request, &unit, now);
        }
    }

    /// The proxy's own reply to a command of a transaction.
    fn capture(&mut self, id: SessionId, command: &[u8], now: Instant) -> Vec<u8> {
        let mut parser = RequestParser::new();
        if let Some((Lookup::Known(spec), frame, len)) = command::read_again(&mut parser, command)
            && let Support::Local(local) = spec.support_for(&frame)
        {
            self.captured = Some(Vec::new());
            self.answer_locally(id, local, spec, &frame, len, now);
        }
        self.captured.take().unwrap_or_default()
    }

    /// Lets the node forget what it watches for a client, and takes the connection back.
    fn unwatch(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(connection) = std::mem::take(&mut session.watch).connection() else { return };
        if let Some(connection) = self.connections.get_mut(connection) {
            connection.pipeline.push(Expect::Nothing, UNWATCH);
        }
        self.queue_write_upstream(connection);
    }

    fn try_queue(
        &mut self,
        id: SessionId,
        command: &Command<'_>,
        support: Support,
    ) -> Result<(), Vec<u8>> {
        if command.spec.flags.contains(Flags::NO_MULTI) {
            return Err(error(NOT_IN_MULTI));
        }
        if self.transaction_bytes.saturating_add(command.len) > self.config.limits.held_bytes {
            return Err(error(TOO_LARGE));
        }
        let bytes = command.frame.bytes();
        match support {
            Support::Forward
            | Support::Split(_)
            | Support::Block
            | Support::Publish(TopicKind::ShardChannel) => {
                let mut scratch = self.scratch.take().unwrap_or_default();
                let queued = self.try_queue_keyed(id, command, &mut scratch);
                self.scratch = Some(scratch);
                queued
            }
            // The other nodes are told when one does not know it.
            Support::EveryPrimary(_) if command.spec.name == "script|load" => {
                self.add(id, |transaction| transaction.push(bytes, false));
                Ok(())
            }
            Support::EveryPrimary(_) | Support::Scan | Support::Debug => Err(error(MANY_NODES)),
            Support::AnyNode
            | Support::Publish(_)
            | Support::OnePrimary
            | Support::Wait(_)
            | Support::Local(Local::Ping | Local::Echo)
            | Support::Transaction(Verb::Unwatch) => {
                self.add(id, |transaction| transaction.push(bytes, command.spec.is_read()));
                Ok(())
            }
            Support::Transaction(_)
            | Support::Track
            | Support::Unblock
            | Support::Local(Local::ClientReply | Local::Cluster | Local::Hello) => {
                Err(error(NOT_IN_MULTI))
            }
            Support::Local(Local::Auth) if self.config.auth_passthrough => Err(error(NOT_IN_MULTI)),
            Support::Local(Local::Select) if self.changes_database(id, &command.frame) => {
                Err(error(SELECT_IN_MULTI))
            }
            Support::Local(_) => {
                self.add(id, |transaction| transaction.push_local(bytes));
                Ok(())
            }
            Support::Subscribe(_) | Support::Unsubscribe(_) => Err(error(SUBSCRIBE_IN_MULTI)),
            Support::Refuse(reason) => Err(error(reason.text().as_bytes())),
        }
    }

    fn try_queue_keyed(
        &mut self,
        id: SessionId,
        command: &Command<'_>,
        scratch: &mut Scratch,
    ) -> Result<(), Vec<u8>> {
        let Scratch { keys, places, rewritten, .. } = scratch;
        let Command { spec, frame, .. } = *command;
        match command::keys(spec, &frame, keys) {
            Ok(()) => {}
            // Redis itself will say what is wrong with it.
            Err(KeysError::Malformed) => keys.clear(),
            Err(KeysError::Arity) => {
                let mut error = Vec::new();
                CommandError::Arity(spec).write_reply(&frame, &mut error);
                return Err(error);
            }
        }
        let known = self.attributes_of(id);
        let Ok(frame) = self.routes.place(frame, keys, false, known, places, rewritten) else {
            return Err(error(NO_ROUTE));
        };
        let place = shared_place(places.as_slice().iter().copied());
        let Some(session) = self.sessions.get(id) else { return Ok(()) };
        let before = match (&session.transaction, session.watch) {
            (_, Watch::Kept { place, .. }) => Some(place),
            (Some(transaction), _) => transaction.target.place,
            (None, _) => None,
        };
        if !keys.is_empty() && (place.is_none() || before.is_some_and(|p| Some(p) != place)) {
            return Err(error(CROSSSLOT));
        }
        let route = self.routes.route_of(places);
        // When a node says that it does not know a script, all the rest is executed already.
        let mut eval = Vec::new();
        let brings = spec.flags.contains(Flags::NOSCRIPT)
            && self.scripts.write_eval(&frame, &mut eval).is_some();
        let bytes = if brings { &eval } else { frame.bytes() };
        self.add(id, |transaction| {
            transaction.push(bytes, spec.is_read());
            let first_key = keys.first().and_then(|key| frame.arg(*key as usize));
            if let (Some(key), None) = (first_key, transaction.target.place) {
                transaction.target.place = place;
                transaction.target.first_key = route.map(|route| (key.into(), route));
            }
        });
        Ok(())
    }

    /// Changes the client's transaction, and keeps count of its bytes.
    fn add(&mut self, id: SessionId, change: impl FnOnce(&mut Transaction)) {
        let session = self.sessions.get_mut(id);
        let Some(transaction) = session.and_then(|session| session.transaction.as_mut()) else {
            return;
        };
        let before = transaction.bytes();
        change(transaction);
        let grown = transaction.bytes().saturating_sub(before);
        self.transaction_bytes = self.transaction_bytes.saturating_add(grown);
    }
}

/// An error reply.
fn error(text: &[u8]) -> Vec<u8> {
    let mut error = Vec::new();
    encode::error(&mut error, text);
    error
}
