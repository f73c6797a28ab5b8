//! MULTI, EXEC, DISCARD, WATCH and UNWATCH: see [`crate::transaction`].

use std::collections::BTreeMap;

use crate::budget::{ByteBudget, Memory};
use crate::command::{
    self, CommandError, CommandSpec, Flags, KeysError, Local, Support, TopicKind, Verb, database_of,
};
use crate::config::Limits;
use crate::downstream::{Caller, Modes};
use crate::errors;
use crate::exchange::{Command, Exchange, Keyed, Scratch};
use crate::flight::{Completion, Part, State};
use crate::ids::{ConnectionId, PartId, SessionId};
use crate::resp::encode;
use crate::route::{Place, shared_place};
use crate::target::{SendMode, Target};
use crate::transaction::Transaction;
use crate::upstream::Expect;

const UNWATCH: &[u8] = b"*1\r\n$7\r\nUNWATCH\r\n";

/// What clients have queued since MULTI, and what nodes watch for them.
#[derive(Debug)]
pub(crate) struct Transactions {
    clients: BTreeMap<SessionId, ClientTransaction>,
    /// Bytes in all clients' queues.
    budget: ByteBudget,
}

#[derive(Debug, Default)]
struct ClientTransaction {
    queue: Option<Box<Transaction>>,
    watch: Watch,
}

/// What became of a client's WATCH.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Watch {
    /// There is none.
    #[default]
    None,
    /// A node watches keys at `place` for this client, by a connection that nobody else uses.
    Kept {
        connection: ConnectionId,
        place: Place,
        /// How WATCH was sent, and EXEC has to be.
        mode: SendMode,
    },
    /// The node that watched is out of reach: the keys may have changed since.
    Lost,
}

impl Transactions {
    /// Keeps no more than the configuration and the memory allow.
    pub(crate) fn new(limits: &Limits, memory: &Memory) -> Self {
        let budget = ByteBudget::within(memory, limits.reserve_bytes, limits.transaction_bytes);
        Self { clients: BTreeMap::new(), budget }
    }

    /// Bytes in all clients' queues.
    pub(crate) fn bytes(&self) -> usize {
        self.budget.used()
    }

    /// `MULTI`, outside of a transaction
    pub(crate) fn start(&mut self, x: &mut Exchange, client: SessionId) {
        let transaction = Transaction::new();
        self.budget.take(transaction.bytes());
        self.clients.entry(client).or_default().queue = Some(Box::new(transaction));
        x.downstream.set_modes(client, Modes::MULTI, true);
    }

    /// `WATCH key [key ...]`
    pub(crate) fn watch(&mut self, x: &mut Exchange, caller: &Caller, command: &Command<'_>) {
        let place = match self.watch_of(caller.id) {
            Watch::Kept { place, .. } => Some(place),
            Watch::None | Watch::Lost => None,
        };
        x.send_keyed(caller, command, Keyed::Watch(place));
    }

    /// `UNWATCH`, outside of a transaction: lets the node forget what it watches for a client, and
    /// takes the connection back.
    pub(crate) fn unwatch(&mut self, x: &mut Exchange, client: SessionId) {
        let watch = self.set_watch(x, client, Watch::None);
        release(x, watch);
    }

    /// Ends a client's transaction and its WATCH without executing anything.
    pub(crate) fn discard(&mut self, x: &mut Exchange, client: SessionId) {
        self.take(x, client);
        self.unwatch(x, client);
    }

    /// A command of the client's transaction was refused: EXEC will be too.
    pub(crate) fn abort(&mut self, client: SessionId) {
        let transaction = self.clients.get_mut(&client).and_then(|one| one.queue.as_mut());
        if let Some(transaction) = transaction {
            transaction.aborted = true;
        }
    }

    /// A client has gone.
    pub(crate) fn forget(&mut self, client: SessionId) {
        if let Some(ClientTransaction { queue: Some(queue), .. }) = self.clients.remove(&client) {
            self.budget.give_back(queue.bytes());
        }
    }

    /// Begins EXEC: takes out the transaction; `None` if EXEC has been answered, because nothing is
    /// to be executed.
    pub(crate) fn start_exec(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        spec: &'static CommandSpec,
    ) -> Option<Box<Transaction>> {
        let transaction = self.take(x, caller.id)?;
        if transaction.aborted {
            self.unwatch(x, caller.id);
            x.downstream.stats_mut().finish_at_once(spec, false);
            x.answer_error(caller.id, errors::EXECABORT);
            return None;
        }
        if self.watch_of(caller.id) == Watch::Lost {
            self.set_watch(x, caller.id, Watch::None);
            x.downstream.stats_mut().finish_at_once(spec, true);
            x.answer(caller.id, |out| encode::null_array(out, caller.protocol));
            return None;
        }
        Some(transaction)
    }

    /// Sends what the client has queued to the node that owns its keys. `answers` are the proxy's
    /// own replies: see [`Transaction::local_commands`].
    pub(crate) fn finish_exec(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        command: &Command<'_>,
        transaction: Transaction,
        answers: Vec<Vec<u8>>,
    ) {
        let spec = command.spec;
        let (is_remote, shows_scripts) = (transaction.is_remote(), transaction.shows_scripts);
        let watch = self.watch_of(caller.id);
        let (unit, mut exec) = transaction.execute(spec, answers);
        if shows_scripts {
            x.note_scripts_of(&unit);
        }
        if watch == Watch::None && !is_remote {
            x.downstream.stats_mut().finish_at_once(spec, true);
            return x.answer(caller.id, |out| exec.write_reply(b"*0\r\n", out));
        }
        let (cluster, target) = match (watch, exec.target.place) {
            (Watch::Kept { connection, place, mode }, _) => {
                exec.watched_by = Some(connection);
                (Some(place.cluster), Target::Watching(connection, mode))
            }
            (_, Some(place)) => (Some(place.cluster), Target::Owner(place.slot)),
            (_, None) => (x.routes.keyless().map(|route| route.cluster), Target::Home(None)),
        };
        let Some(cluster) = cluster else {
            return x.answer_failure(caller, command, errors::NO_ROUTE);
        };
        let part = Part { several_keys: true, ..Part::new(cluster, target) };
        let is_watched = exec.watched_by.is_some();
        let unit_command = Command::of_bytes(spec, &unit);
        let completion = Completion::Exec(Box::new(exec));
        let Some(id) = x.begin(caller, &unit_command, State::Whole(part), completion) else {
            return;
        };
        x.send(PartId::whole(id), &unit);
        if !is_watched {
            x.mirror_transaction(id, &unit);
        }
    }

    /// Puts a command into the client's transaction, if it may be there.
    pub(crate) fn queue(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        command: &Command<'_>,
        support: Support,
    ) {
        let result = self.try_queue(x, caller, command, support);
        match result {
            Ok(()) => {
                let client = self.clients.get_mut(&caller.id);
                if let Some(transaction) = client.and_then(|client| client.queue.as_mut()) {
                    // A script is known when it is executed, and not before.
                    transaction.shows_scripts |= command.spec.flags.contains(Flags::NOSCRIPT);
                }
            }
            Err(_) => self.abort(caller.id),
        }
        x.downstream.stats_mut().finish_at_once(command.spec, result.is_ok());
        x.answer(caller.id, |out| match &result {
            Ok(()) => encode::simple(out, b"QUEUED"),
            Err(error) => out.extend_from_slice(error),
        });
    }

    // What nodes tell.

    /// A node watches keys for a client: the connection is the client's from then on.
    pub(crate) fn note_watched(
        &mut self,
        x: &mut Exchange,
        client: SessionId,
        connection: ConnectionId,
        place: Place,
        mode: SendMode,
    ) {
        let kept = Watch::Kept { connection, place, mode };
        match self.set_watch(x, client, kept) {
            Watch::None => {}
            Watch::Kept { connection: earlier, .. } if earlier == connection => {}
            // What was watched before is not watched by this one.
            before @ (Watch::Kept { .. } | Watch::Lost) => {
                release(x, kept);
                release(x, before);
                self.set_watch(x, client, Watch::Lost);
            }
        }
    }

    /// EXEC has been answered: nothing is watched for its client any more.
    pub(crate) fn note_watch_ended(&mut self, x: &mut Exchange, client: SessionId) {
        self.set_watch(x, client, Watch::None);
    }

    /// Nothing is known any more of the keys that a client has watched; with `by`, if they were
    /// watched by that connection.
    pub(crate) fn note_watch_lost(
        &mut self,
        x: &mut Exchange,
        client: SessionId,
        by: Option<ConnectionId>,
    ) {
        if let Watch::Kept { connection, .. } = self.watch_of(client)
            && by.is_none_or(|by| by == connection)
        {
            self.set_watch(x, client, Watch::Lost);
        }
    }

    /// Panics if the count of bytes is wrong: for tests.
    pub(crate) fn check_invariants(&self, x: &Exchange) {
        let queues = self.clients.values().filter_map(|client| client.queue.as_ref());
        assert_eq!(queues.map(|queue| queue.bytes()).sum::<usize>(), self.budget.used());
        for (client, state) in &self.clients {
            let modes = x.downstream.modes(*client);
            assert_eq!(modes.has(Modes::MULTI), state.queue.is_some(), "MULTI of {client:?}");
            assert_eq!(modes.has(Modes::WATCH), state.watch != Watch::None, "WATCH of {client:?}");
        }
    }

    fn watch_of(&self, client: SessionId) -> Watch {
        self.clients.get(&client).map_or(Watch::None, |client| client.watch)
    }

    /// Sets what is watched. Returns what was before.
    fn set_watch(&mut self, x: &mut Exchange, client: SessionId, watch: Watch) -> Watch {
        if watch == Watch::None && !self.clients.contains_key(&client) {
            return Watch::None;
        }
        x.downstream.set_modes(client, Modes::WATCH, watch != Watch::None);
        let state = self.clients.entry(client).or_default();
        let before = std::mem::replace(&mut state.watch, watch);
        if watch == Watch::None && state.queue.is_none() {
            self.clients.remove(&client);
        }
        before
    }

    /// Takes a transaction from its client.
    fn take(&mut self, x: &mut Exchange, client: SessionId) -> Option<Box<Transaction>> {
        let transaction = self.clients.get_mut(&client)?.queue.take()?;
        self.budget.give_back(transaction.bytes());
        x.downstream.set_modes(client, Modes::MULTI, false);
        Some(transaction)
    }

    fn try_queue(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        command: &Command<'_>,
        support: Support,
    ) -> Result<(), Vec<u8>> {
        if command.spec.flags.contains(Flags::NO_MULTI) {
            return Err(error(errors::NOT_IN_MULTI));
        }
        if !self.budget.has_room(command.len) {
            return Err(error(errors::TRANSACTION_TOO_LARGE));
        }
        let bytes = command.frame.bytes();
        let passthrough = x.config.auth_passthrough;
        match support {
            Support::Forward
            | Support::Split(_)
            | Support::Block
            | Support::Publish(TopicKind::ShardChannel) => {
                let mut scratch = x.take_scratch();
                let queued = self.try_queue_keyed(x, caller, command, &mut scratch);
                x.put_scratch(scratch);
                return queued;
            }
            // The other nodes are told when one does not know it.
            Support::EveryPrimary(_) if command.spec.name == "script|load" => {
                self.add(caller.id, |transaction| transaction.push(bytes, false));
            }
            Support::EveryPrimary(_) | Support::Scan | Support::Debug => {
                return Err(error(errors::MANY_NODES_IN_MULTI));
            }
            Support::AnyNode
            | Support::Publish(_)
            | Support::OnePrimary
            | Support::Wait(_)
            | Support::Local(Local::Ping | Local::Echo)
            | Support::Transaction(Verb::Unwatch) => {
                let read_only = command.spec.is_read();
                self.add(caller.id, |transaction| transaction.push(bytes, read_only));
            }
            Support::Transaction(_)
            | Support::Track
            | Support::Unblock
            | Support::Local(Local::ClientReply | Local::Cluster | Local::Hello) => {
                return Err(error(errors::NOT_IN_MULTI));
            }
            Support::Local(Local::Auth) if passthrough => {
                return Err(error(errors::NOT_IN_MULTI));
            }
            Support::Local(Local::Select)
                if database_of(&command.frame)
                    .is_some_and(|wanted| wanted != x.login_of(caller.id).1) =>
            {
                return Err(error(errors::SELECT_IN_MULTI));
            }
            Support::Local(_) => self.add(caller.id, |transaction| transaction.push_local(bytes)),
            Support::Subscribe(_) | Support::Unsubscribe(_) => {
                return Err(error(errors::SUBSCRIBE_IN_MULTI));
            }
            Support::Refuse(reason) => return Err(error(reason.text())),
        }
        Ok(())
    }

    fn try_queue_keyed(
        &mut self,
        x: &Exchange,
        caller: &Caller,
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
        let attributes = x.downstream.attributes(caller.id);
        let Ok(frame) = x.routes.place(frame, keys, false, attributes, places, rewritten) else {
            return Err(error(errors::NO_ROUTE));
        };
        let place = shared_place(places.as_slice().iter().copied());
        let Some(client) = self.clients.get(&caller.id) else { return Ok(()) };
        let before = match (&client.queue, client.watch) {
            (_, Watch::Kept { place, .. }) => Some(place),
            (Some(transaction), _) => transaction.target.place,
            (None, _) => None,
        };
        if !keys.is_empty() && (place.is_none() || before.is_some_and(|p| Some(p) != place)) {
            return Err(error(errors::CROSSSLOT));
        }
        let route = x.routes.route_of(places);
        // When a node says that it does not know a script, all the rest is executed already.
        let mut eval = Vec::new();
        let brings = spec.flags.contains(Flags::NOSCRIPT)
            && x.scripts.write_eval(&frame, &mut eval).is_some();
        let bytes = if brings { &eval } else { frame.bytes() };
        self.add(caller.id, |transaction| {
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
    fn add(&mut self, client: SessionId, change: impl FnOnce(&mut Transaction)) {
        let client = self.clients.get_mut(&client);
        let Some(transaction) = client.and_then(|client| client.queue.as_mut()) else { return };
        let before = transaction.bytes();
        change(transaction);
        self.budget.replace(before, transaction.bytes());
    }
}

/// Lets a node forget what it watches.
fn release(x: &mut Exchange, watch: Watch) {
    if let Watch::Kept { connection, .. } = watch {
        let now = x.now();
        x.upstream.set_watching(connection, false);
        x.upstream.tell(connection, Expect::Nothing, UNWATCH, now);
    }
}

/// An error reply.
fn error(text: &str) -> Vec<u8> {
    let mut error = Vec::new();
    encode::error(&mut error, text.as_bytes());
    error
}
