//! From a command to the part of the proxy that serves it.

use super::Proxy;
use crate::blocking::Blocking;
use crate::command::{
    self, CommandError, CommandSpec, Flags, Local, Lookup, Support, UNKNOWN, Verb,
};
use crate::config::FaultKind;
use crate::downstream::{Caller, Modes};
use crate::errors;
use crate::exchange::{Command, Destination, Keyed};
use crate::features::faults;
use crate::features::pubsub::PubSub;
use crate::flight::{Completion, Part, State};
use crate::ids::{ClusterId, SessionId};
use crate::resp::{RequestFrame, encode};
use crate::target::Target;
use std::time::Duration;

/// Whether a command has been read.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Taken {
    /// It goes to nodes, and changed nothing about its client.
    Sent,
    /// It has been served in any other way.
    Answered,
    /// It is to be read again when those before it are answered.
    NotYet,
}

impl Proxy {
    /// A client's command has been read.
    #[inline]
    pub(super) fn execute(
        &mut self,
        id: SessionId,
        lookup: Lookup,
        frame: &RequestFrame<'_>,
        len: usize,
    ) -> Taken {
        let spec = match lookup {
            Lookup::Known(spec) => spec,
            _ => match self.look_closer(id, lookup, frame) {
                Some(spec) => spec,
                None => return Taken::Answered,
            },
        };
        let support = self.support_for(spec, frame);
        if self.waits_for_earlier_replies(id, support) && !self.x.flight.is_idle(id) {
            return Taken::NotYet;
        }
        let now = self.x.now();
        let Some(mut caller) = self.x.downstream.begin_command(id, spec.name, now) else {
            return Taken::Answered;
        };
        if caller.modes.has(Modes::TRACKING) {
            let in_multi = caller.modes.has(Modes::MULTI);
            let caching = self.tracking.note_command(id, spec.name, in_multi);
            caller.caching = caching.filter(|_| caller.modes.has(Modes::TRACKED));
        }
        if !caller.authenticated && !spec.flags.contains(Flags::NO_AUTH) {
            self.x.answer_error(id, errors::NOAUTH);
            return Taken::Answered;
        }
        if caller.is_in_subscriber_mode() && self.answer_subscriber(&caller, spec, frame) {
            return Taken::Answered;
        }
        let mut command = Command::new(spec, *frame, len);
        if caller.modes.has(Modes::MULTI) && support.is_queued() {
            self.transactions.queue(&mut self.x, &caller, &command, support);
            return Taken::Answered;
        }
        if let Some(fault) = faults::draw(&self.x.config, &mut self.x.rng, frame) {
            self.x.downstream.stats_mut().note_fault(spec, fault);
            match fault {
                FaultKind::Error(delay) => {
                    self.answer_fault(&caller, &command, delay);
                    return Taken::Answered;
                }
                FaultKind::Delay(delay) => command.delay = Some(delay),
            }
        }
        let script = self.x.note_script(spec, frame);
        command.script = script.as_ref();
        match support {
            Support::Forward => self.x.send_keyed(&caller, &command, Keyed::Whole),
            Support::Split(merge) => self.x.send_keyed(&caller, &command, Keyed::Split(merge)),
            _ => {
                // Other consequences may want the command's bytes before its buffer is there.
                self.x.upstream.withdraw_offer();
                self.serve(&caller, &command, support);
                // What follows from it concerns the client's next command.
                self.settle_events();
                return Taken::Answered;
            }
        }
        Taken::Sent
    }

    /// Serves a command that does not simply go to the nodes that own its keys.
    fn serve(&mut self, caller: &Caller, command: &Command<'_>, support: Support) {
        let Self { x, pubsub, tracking, .. } = self;
        let frame = &command.frame;
        match support {
            Support::Forward => x.send_keyed(caller, command, Keyed::Whole),
            Support::Split(merge) => x.send_keyed(caller, command, Keyed::Split(merge)),
            Support::Block => {
                let blocking = Blocking::of(command.spec.name, frame, x.now());
                x.send_keyed(caller, command, Keyed::Block(blocking));
            }
            Support::Subscribe(kind) => pubsub.subscribe(x, caller, kind, command),
            Support::Unsubscribe(kind) => pubsub.unsubscribe(x, caller, kind, frame),
            Support::Publish(kind) => pubsub.publish(x, caller, kind, command),
            Support::AnyNode => x.send_keyless(caller, command, Destination::AnyPrimary, None),
            Support::OnePrimary => x.send_keyless(caller, command, Destination::OnePrimary, None),
            Support::EveryPrimary(merge) => {
                let known = pubsub.known(command.spec, frame);
                x.send_keyless(caller, command, Destination::EveryPrimary(merge), known);
            }
            Support::Scan => x.send_keyless(caller, command, Destination::Scan, None),
            Support::Wait(merge) => {
                let blocking = Blocking::of(command.spec.name, frame, x.now());
                let destination = Destination::EveryPrimaryWaits(merge, blocking);
                x.send_keyless(caller, command, destination, None);
            }
            Support::Transaction(verb) => self.serve_transaction(caller, command, verb),
            Support::Track => tracking.track(x, caller, command),
            Support::Unblock => self.client_unblock(caller, command),
            Support::Local(local) => self.answer_locally(caller, command, local),
            // What it does depends on its subcommand: see `support_for`.
            Support::Debug => {}
            Support::Refuse(reason) => {
                x.downstream.stats_mut().count().splitter_unsupported_command += 1;
                x.answer_error(caller.id, reason.text());
            }
        }
    }

    /// A command without a row in the table, or that no Redis would run; `None` if it has been
    /// answered.
    #[cold]
    fn look_closer(
        &mut self,
        id: SessionId,
        lookup: Lookup,
        frame: &RequestFrame<'_>,
    ) -> Option<&'static CommandSpec> {
        match lookup {
            Lookup::Known(spec) => Some(spec),
            Lookup::Unknown | Lookup::Invalid(CommandError::UnknownCommand)
                if command::is_http(frame) =>
            {
                // As Redis would close the connection that all clients share. It drops the replies
                // that it has not written yet.
                self.x.downstream.stats_mut().count().downstream_cx_protocol_error += 1;
                self.x.downstream.warn_of_http(id, self.x.now());
                self.x.kill(id);
                None
            }
            Lookup::Unknown => Some(&UNKNOWN),
            Lookup::Invalid(error) => {
                self.begin_invalid(id);
                self.x.downstream.stats_mut().count_invalid(error);
                match error {
                    CommandError::Arity(spec) if spec.name == "exec" => {
                        self.transactions.discard(&mut self.x, id);
                    }
                    _ => self.transactions.abort(id),
                }
                self.x.answer(id, |out| error.write_reply(frame, out));
                None
            }
        }
    }

    /// A command has been read that is no command of any row.
    fn begin_invalid(&mut self, id: SessionId) {
        let caller = self.x.downstream.begin_command(id, "", self.x.now());
        if let Some(caller) = caller.filter(|caller| caller.modes.has(Modes::TRACKING)) {
            self.tracking.note_command(id, "", caller.modes.has(Modes::MULTI));
        }
    }

    /// A command has ended that was too large to be kept.
    #[cold]
    pub(super) fn refuse_large(&mut self, id: SessionId) {
        self.begin_invalid(id);
        self.transactions.abort(id);
        let text = self.x.downstream.take_refusal(id);
        self.x.answer(id, |out| encode::error(out, text.as_bytes()));
    }

    #[inline]
    fn support_for(&self, spec: &'static CommandSpec, frame: &RequestFrame<'_>) -> Support {
        match spec.support_for(frame) {
            // The node knows whether the client may.
            Support::Local(Local::AclWhoami | Local::Echo | Local::Ping)
                if self.x.config.auth_passthrough =>
            {
                Support::AnyNode
            }
            support => support,
        }
    }

    /// Whether the client's next command has to come after all before it: it runs on a connection
    /// of its own or on many nodes, or messages will follow its answer, or what comes behind it
    /// will go by connections of another version.
    #[inline]
    fn waits_for_earlier_replies(&self, id: SessionId, support: Support) -> bool {
        let modes = || self.x.downstream.modes(id);
        match support {
            Support::Forward | Support::Split(_) => false,
            Support::Block
            | Support::Subscribe(_)
            | Support::Transaction(Verb::Watch)
            | Support::EveryPrimary(_)
            | Support::Scan
            | Support::Wait(_) => !modes().has(Modes::MULTI),
            Support::Transaction(Verb::Exec) => {
                modes().has(Modes::WATCH) || self.x.downstream.identity(id).is_some()
            }
            Support::Track => true,
            Support::Local(Local::Hello | Local::Reset | Local::Select) => true,
            Support::Local(Local::Auth) => self.x.config.auth_passthrough,
            _ => false,
        }
    }

    /// Answers a command of a RESP2 client that is subscribed to something, if it may not be
    /// executed or is answered in another way than else. Returns whether it did.
    fn answer_subscriber(
        &mut self,
        caller: &Caller,
        spec: &'static CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> bool {
        match spec.support {
            Support::Subscribe(_)
            | Support::Unsubscribe(_)
            | Support::Local(Local::Quit | Local::Reset) => false,
            Support::Local(Local::Ping) if frame.len() <= 2 => {
                let payload = frame.arg(1).unwrap_or_default();
                self.x.answer(caller.id, |out| PubSub::write_pong(payload, out));
                true
            }
            Support::Local(Local::Ping) => false,
            _ => {
                self.reject(caller, spec, &PubSub::refusal(spec, frame));
                true
            }
        }
    }

    /// Refuses a command before anything is done with it; `text` starts with a code. A transaction
    /// that it was meant for is aborted, and EXEC ends it, as in Redis (`rejectCommand`).
    fn reject(&mut self, caller: &Caller, spec: &'static CommandSpec, text: &[u8]) {
        self.x.downstream.stats_mut().fail(spec);
        if spec.name != "exec" {
            self.transactions.abort(caller.id);
            return self.x.answer(caller.id, |out| encode::error(out, text));
        }
        self.transactions.discard(&mut self.x, caller.id);
        let reason = text.strip_prefix(b"ERR ").unwrap_or(text);
        let text = [b"EXECABORT Transaction discarded because of: ", reason].concat();
        self.x.answer(caller.id, |out| encode::error(out, &text));
    }

    /// Answers a command with an injected error, after a while.
    fn answer_fault(&mut self, caller: &Caller, command: &Command<'_>, delay: Duration) {
        let x = &mut self.x;
        if delay.is_zero() {
            return x.answer_error(caller.id, errors::INJECTED);
        }
        let nowhere = State::Whole(Part::new(ClusterId::default(), Target::Home(None)));
        let Some(id) = x.begin(caller, command, nowhere, Completion::Deliver) else { return };
        x.flight.drop_tally(id);
        let mut error = Vec::new();
        encode::error(&mut error, errors::INJECTED.as_bytes());
        let until = x.now() + delay;
        x.delay(id, &error, until);
    }

    /// MULTI, EXEC, DISCARD, WATCH and UNWATCH.
    fn serve_transaction(&mut self, caller: &Caller, command: &Command<'_>, verb: Verb) {
        let Self { x, transactions, .. } = self;
        let outcome = match (verb, caller.modes.has(Modes::MULTI)) {
            (Verb::Multi, true) => Err(errors::NESTED_MULTI),
            (Verb::Watch, true) => Err(errors::WATCH_IN_MULTI),
            (Verb::Exec, false) => Err(errors::EXEC_WITHOUT_MULTI),
            (Verb::Discard, false) => Err(errors::DISCARD_WITHOUT_MULTI),
            (Verb::Unwatch, true) => {
                return transactions.queue(x, caller, command, Support::AnyNode);
            }
            (Verb::Exec, true) => return self.serve_exec(caller, command),
            (Verb::Watch, false) => return transactions.watch(x, caller, command),
            (Verb::Multi, false) => {
                transactions.start(x, caller.id);
                Ok(())
            }
            (Verb::Discard, true) => {
                transactions.discard(x, caller.id);
                Ok(())
            }
            (Verb::Unwatch, false) => {
                transactions.unwatch(x, caller.id);
                Ok(())
            }
        };
        x.downstream.stats_mut().finish_at_once(command.spec, outcome.is_ok());
        x.answer_result(caller.id, outcome.map_err(Into::into));
    }

    fn serve_exec(&mut self, caller: &Caller, command: &Command<'_>) {
        let transaction = self.transactions.start_exec(&mut self.x, caller, command.spec);
        let Some(transaction) = transaction else { return };
        let answers = transaction.local_commands().map(|bytes| self.capture(caller, bytes));
        let answers = answers.collect();
        self.transactions.finish_exec(&mut self.x, caller, command, *transaction, answers);
    }
}
