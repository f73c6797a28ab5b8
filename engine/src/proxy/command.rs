//! From commands to requests: what this proxy does with each, and where its keys live.

use std::time::Duration;

use super::faults::INJECTED;
use super::keyless::Destination;
use super::{Cut, Proxy, Scratch};
use crate::blocking::Blocking;
use crate::command::{
    self, CommandError, CommandSpec, Flags, KeysError, Local, Lookup, Merge, Support, UNKNOWN,
};
use crate::config::{FaultKind, ReadPolicy};
use crate::request::{Owner, Part, Request, RequestId, Spread, State, SubRequestId, Way};
use crate::resp::{self, Protocol, RequestFrame};
use crate::route::{NoRoute, Place, Places, shared_place};
use crate::scripts::Digest;
use crate::session::SessionId;
use crate::split::Split;
use crate::time::Instant;
use crate::transaction::Watch;

/// The text that Redis gives a client that has not said who it is.
const NOAUTH: &[u8] = b"NOAUTH Authentication required.";

/// The text that Redis gives keys of several slots in one command.
pub(super) const CROSSSLOT: &[u8] = b"CROSSSLOT Keys in request don't hash to the same slot";

pub(super) const NO_ROUTE: &[u8] = b"ERR no route takes this key or command";

impl Proxy {
    /// A client's command has been read.
    pub(super) fn handle_command(
        &mut self,
        id: SessionId,
        lookup: Lookup,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) -> Taken {
        if let Lookup::Known(spec) = lookup
            && self.send_ordinary(id, spec, frame, len, now).is_some()
        {
            return Taken::Ordinary;
        }
        let spec = match lookup {
            Lookup::Known(spec) => spec,
            Lookup::Unknown | Lookup::Invalid(CommandError::UnknownCommand)
                if command::is_http(frame) =>
            {
                // As Redis would close the connection that all clients share.
                self.stats.downstream().downstream_cx_protocol_error += 1;
                self.close_after_replies(id);
                return Taken::Yes;
            }
            Lookup::Unknown => &UNKNOWN,
            Lookup::Invalid(error) => {
                self.note_command(id, "", now);
                self.count_invalid(error);
                match error {
                    CommandError::Arity(spec) if spec.name == "exec" => self.discard(id),
                    _ => self.abort_transaction(id),
                }
                self.answer(id, |out| error.write_reply(frame, out));
                return Taken::Yes;
            }
        };
        let support = match spec.support_for(frame) {
            // The node knows whether the client may.
            Support::Local(Local::AclWhoami | Local::Echo | Local::Ping)
                if self.config.auth_passthrough =>
            {
                Support::AnyNode
            }
            support => support,
        };
        if self.runs_alone(id, support) && !self.is_idle(id) {
            return Taken::NotYet;
        }
        self.note_command(id, spec.name, now);
        if self.is_admitted(id, spec) {
            self.handle_known(id, spec, support, frame, len, now);
        } else {
            self.answer(id, |out| resp::encode::error(out, NOAUTH));
        }
        Taken::Yes
    }

    /// A command that the table has, from a client that may use it.
    fn handle_known(
        &mut self,
        id: SessionId,
        spec: &'static CommandSpec,
        support: Support,
        frame: &RequestFrame<'_>,
        len: usize,
        now: Instant,
    ) {
        if self.answer_subscriber(id, spec, frame) {
            return;
        }
        let mut command = Command {
            spec,
            frame: *frame,
            len,
            keys: &[],
            merge: None,
            policy: ReadPolicy::Master,
            delay: None,
            way: Way::Shared,
            script: None,
        };
        let in_multi = self.sessions.get(id).is_some_and(|session| session.transaction.is_some());
        if in_multi && support.is_queued() {
            return self.queue(id, command, support);
        }
        let fault = self.draw_fault(frame);
        if let Some(fault) = fault {
            self.stats.note_fault(spec, fault);
        }
        match fault {
            None => {}
            Some(FaultKind::Error(delay)) => return self.answer_fault(id, command, delay, now),
            Some(FaultKind::Delay(delay)) => command.delay = Some(delay),
        }
        let script = self.note_script(spec, frame);
        command.script = script.as_ref();
        match support {
            Support::Forward => self.send_keyed(id, &command, now),
            Support::Split(merge) => {
                command.merge = Some(merge);
                self.send_keyed(id, &command, now);
            }
            Support::Subscribe(kind) => self.subscribe(id, kind, command, now),
            Support::Unsubscribe(kind) => self.unsubscribe(id, kind, frame),
            Support::Publish(kind) => self.publish(id, kind, command, now),
            Support::AnyNode => self.send_keyless(id, command, Destination::AnyPrimary, now),
            Support::OnePrimary => self.send_keyless(id, command, Destination::OnePrimary, now),
            Support::EveryPrimary(merge) => {
                self.send_keyless(
                    id,
                    command,
                    Destination::Shards(Spread::EveryPrimary(merge)),
                    now,
                );
            }
            Support::Scan => self.scan(id, command, now),
            Support::Block => {
                let blocking = Blocking::of(spec.name, frame, now);
                command.way = Way::Blocking(blocking);
                self.send_keyed(id, &command, now);
            }
            Support::Wait(merge) => {
                command.way = Way::Blocking(Blocking::of(spec.name, frame, now));
                let spread = Spread::EveryPrimary(merge);
                self.send_keyless(id, command, Destination::Shards(spread), now);
            }
            Support::Transaction(verb) => self.handle_transaction(id, verb, command, now),
            Support::Track => self.track(id, &command, now),
            Support::Unblock => self.client_unblock(id, &command, now),
            Support::Local(local) => self.answer_locally(id, local, spec, frame, len, now),
            // What it does depends on its subcommand: see `support_for`.
            Support::Debug => {}
            Support::Refuse(reason) => {
                self.stats.downstream().splitter_unsupported_command += 1;
                self.answer(id, |out| resp::encode::error(out, reason.text().as_bytes()));
            }
        }
    }

    fn note_command(&mut self, id: SessionId, name: &'static str, now: Instant) {
        self.stats.downstream().downstream_rq_total += 1;
        if let Some(session) = self.sessions.get_mut(id) {
            session.note_command(name, now);
        }
    }

    /// Whether nothing is owed to the client.
    fn is_idle(&self, id: SessionId) -> bool {
        self.sessions.get(id).is_none_or(|session| session.pending.is_empty())
    }

    /// Whether the client may use the command: some are for everybody.
    fn is_admitted(&self, id: SessionId, spec: &CommandSpec) -> bool {
        spec.flags.contains(Flags::NO_AUTH)
            || self.sessions.get(id).is_some_and(|session| session.authenticated)
    }

    /// A command for the nodes that own its keys, and for the mirrors of its route.
    pub(super) fn send_keyed(&mut self, id: SessionId, command: &Command<'_>, now: Instant) {
        let mut scratch = self.scratch.take().unwrap_or_default();
        let Scratch { keys, places, rewritten, cut } = &mut *scratch;
        let (spec, frame) = (command.spec, command.frame);
        let known = self.attributes_of(id);
        match command::keys(spec, &frame, keys) {
            Err(KeysError::Arity) => {
                let error = CommandError::Arity(spec);
                self.count_invalid(error);
                self.answer(id, |out| error.write_reply(&frame, out));
            }
            // Redis itself will say what is wrong with it.
            Err(KeysError::Malformed) => {
                self.send_keyless(id, *command, Destination::AnyPrimary, now);
            }
            Ok(()) => {
                match self.routes.place(frame, keys, spec.is_read(), known, places, rewritten) {
                    Err(NoRoute) => self.answer_no_route(id, spec),
                    Ok(frame) => {
                        let policy = self.policy(id, command, places);
                        let way = command.way.by_route(self.routes.route_of(places));
                        let command = Command { frame, keys, policy, way, ..*command };
                        let here = places.as_slice().iter().copied();
                        let submitted = match self.strays(id, &command, places) {
                            true => Err(CrossSlot),
                            false => self.submit(Owner::Session(id), &command, here, cut, now),
                        };
                        match submitted {
                            Ok(Some(request)) if command.way == Way::Shared => {
                                self.mirror(request, &command, places, cut, now);
                            }
                            Ok(_) => {}
                            Err(CrossSlot) => {
                                self.stats.fail(spec);
                                self.answer(id, |out| resp::encode::error(out, CROSSSLOT));
                            }
                        }
                    }
                }
            }
        }
        self.scratch = Some(scratch);
    }

    /// Whether a WATCH names keys that cannot be in one transaction with those watched already.
    fn strays(&self, id: SessionId, command: &Command<'_>, places: &Places) -> bool {
        let watch = self.sessions.get(id).map(|session| session.watch);
        let (Way::Watch(_), Some(Watch::Kept { place, .. })) = (command.way, watch) else {
            return false;
        };
        places.as_slice().iter().any(|there| *there != place)
    }

    /// Which nodes may answer a command. While a client watches keys, what it reads must be what is
    /// watched; and while it caches, a replica may be behind what it has been told of.
    fn policy(&self, id: SessionId, command: &Command<'_>, places: &Places) -> ReadPolicy {
        let needs_owner = self
            .sessions
            .get(id)
            .is_some_and(|session| session.watch != Watch::None || session.is_tracking());
        if needs_owner || command.way != Way::Shared {
            return ReadPolicy::Master;
        }
        self.routes.policy(places, command.spec.is_read())
    }

    /// Sends a command whose keys live at `places`: whole if that is one place, else in parts. `None` if
    /// its client has gone.
    pub(super) fn submit(
        &mut self,
        owner: Owner,
        command: &Command<'_>,
        places: impl Iterator<Item = Place> + Clone,
        cut: &mut Cut,
        now: Instant,
    ) -> Result<Option<RequestId>, CrossSlot> {
        let Command { frame, policy, .. } = *command;
        if let Some(place) = shared_place(places.clone()) {
            let several_keys = command.keys.len() > 1;
            let state = State::Whole(Part { several_keys, ..Part::at(place, policy) });
            let request = self.begin(owner, command, state, now);
            if let Some(request) = request {
                self.send(SubRequestId { request, part: 0 }, frame.bytes(), now);
            }
            return Ok(request);
        }
        let merge = command.merge.ok_or(CrossSlot)?;
        Ok(self.submit_parts(owner, command, merge, places, cut, now))
    }

    /// Sends those keys of a command that it names, in parts.
    pub(super) fn submit_parts(
        &mut self,
        owner: Owner,
        command: &Command<'_>,
        merge: Merge,
        places: impl Iterator<Item = Place>,
        cut: &mut Cut,
        now: Instant,
    ) -> Option<RequestId> {
        let Cut { plan, bytes } = cut;
        plan.make(places);
        let state = State::Split(Box::new(Split::new(merge, plan, command.policy)));
        let request = self.begin(owner, command, state, now)?;
        plan.encode_each(&command.frame, command.keys, merge, bytes, |part, bytes| {
            let sub_request = SubRequestId { request, part };
            if self.send_ordinary_part(sub_request, bytes, now).is_none() {
                self.send(sub_request, bytes, now);
            }
        });
        Some(request)
    }

    /// Gives a command its deadline and, if it is a client's, its place among the replies.
    pub(super) fn begin(
        &mut self,
        owner: Owner,
        command: &Command<'_>,
        state: State,
        now: Instant,
    ) -> Option<RequestId> {
        let op_timeout = self.config.op_timeout;
        let to_many = matches!(state, State::Unplanned(..));
        let mut request = Request::new(owner, Protocol::Resp2, command.len, state);
        // To watch twice does no harm either.
        request.read_only = command.spec.is_read() || command.way.is_watch();
        request.urgent = command.spec.flags.contains(Flags::ALLOW_BUSY);
        request.way = command.way;
        if command.delay.is_some() || command.script.is_some() {
            let extra = request.extra_mut();
            (extra.delay, extra.script) = (command.delay, command.script.copied());
        }
        match owner {
            Owner::Session(id) => {
                let session = self.sessions.get_mut(id)?;
                session.begin_in(self.epoch);
                request.protocol = session.protocol;
                request.identity = session.identity;
                request.silent = session.silent;
                request.ordinary = self.takes_short_ways
                    && command.way == Way::Shared
                    && !request.urgent
                    && session.is_ordinary();
                if session.is_tracking() {
                    request.tracked = true;
                    let tracking = session.tracking.as_ref();
                    if let Some(caching) = tracking.and_then(|tracking| tracking.caching_command())
                    {
                        request.extra_mut().caching = Some(caching);
                    }
                }
                let subscribes = matches!(command.spec.support, Support::Subscribe(_));
                session.alone |= subscribes || to_many || command.way != Way::Shared;
                request.tally = Some(self.stats.begin(command.spec));
                let deadline = session.came.unwrap_or(now) + op_timeout;
                let request = self.requests.insert_waiting(request, deadline);
                session.note_pending(request, command.len);
                Some(request)
            }
            Owner::Mirror(cluster) => {
                request.tally = Some(self.stats.tally(command.spec));
                *self.mirror_bytes.get_mut(cluster)? += command.len;
                Some(self.requests.insert_waiting(request, now + op_timeout))
            }
        }
    }

    /// Answers a command with a made-up error, after a while.
    fn answer_fault(&mut self, id: SessionId, command: Command<'_>, delay: Duration, now: Instant) {
        let mut error = self.buffers.take();
        resp::encode::error(&mut error, INJECTED);
        if delay.is_zero() {
            self.answer(id, |out| out.extend_from_slice(&error));
        } else {
            let nowhere = Part::new(0, None, command.policy);
            let owner = Owner::Session(id);
            if let Some(id) = self.begin(owner, &command, State::Whole(nowhere), now) {
                if let Some(request) = self.requests.get_mut(id) {
                    request.tally = None;
                }
                self.delay(id, &error, now + delay);
            }
        }
        self.buffers.recycle(error);
    }

    pub(super) fn answer_no_route(&mut self, id: SessionId, spec: &CommandSpec) {
        self.stats.fail(spec);
        self.answer(id, |out| resp::encode::error(out, NO_ROUTE));
    }
}

/// A client's command, looked up in the table.
#[derive(Clone, Copy)]
pub(super) struct Command<'a> {
    pub(super) spec: &'static CommandSpec,
    /// As it is to be sent.
    pub(super) frame: RequestFrame<'a>,
    /// Bytes it took in the client's stream.
    pub(super) len: usize,
    /// Positions of its keys among the arguments.
    pub(super) keys: &'a [u32],
    /// How the replies to its parts become one, if it may be cut.
    pub(super) merge: Option<Merge>,
    /// Which nodes may answer.
    pub(super) policy: ReadPolicy,
    /// For how long a fault holds its reply back.
    pub(super) delay: Option<Duration>,
    pub(super) way: Way,
    /// The script that it runs, if that is known.
    pub(super) script: Option<&'a Digest>,
}

impl<'a> Command<'a> {
    /// A transaction, from MULTI to EXEC.
    pub(super) fn unit(spec: &'static CommandSpec, unit: &'a [u8], way: Way) -> Self {
        Self {
            spec,
            frame: RequestFrame::new(unit, &[]),
            len: unit.len(),
            keys: &[],
            merge: None,
            policy: ReadPolicy::Master,
            delay: None,
            way,
            script: None,
        }
    }
}

/// Whether a command has been read.
#[derive(Clone, Copy, Eq, PartialEq)]
pub(super) enum Taken {
    Yes,
    /// It has gone the short way, and changed nothing about its client.
    Ordinary,
    /// It is to be read again when those before it are answered.
    NotYet,
}

/// The keys of a command that cannot be cut sit in several slots.
pub(super) struct CrossSlot;
