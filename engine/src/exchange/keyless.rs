//! Where commands go that name no key.
//!
//! They concern the cluster of the catch-all route alone, as in Envoy, and those that write go to
//! its mirrors as well.

use crate::blocking::Blocking;
use crate::cluster::Slot;
use crate::command::{Merge, TopicKind, changes_without_keys};
use crate::cursor::{Cursor, Step};
use crate::downstream::Caller;
use crate::errors;
use crate::exchange::{Command, Exchange};
use crate::flight::{Completion, Part, Request, Split, Spread, State};
use crate::ids::{ClusterId, PartId, RequestId};
use crate::resp::{Limits, RequestFrame, RequestParser, parse_decimal};
use crate::target::Target;

/// Whom a command without keys is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Destination {
    /// Any primary.
    AnyPrimary,
    /// The same, and it may keep the command waiting.
    AnyPrimaryWaits(Blocking),
    /// Always the same primary: the owner of the lowest slot.
    OnePrimary,
    /// Every primary; the replies are merged.
    EveryPrimary(Merge),
    /// The same, and each may keep the command waiting.
    EveryPrimaryWaits(Merge, Blocking),
    /// The primary that the cursor names.
    Scan,
}

impl Exchange {
    /// Sends a command without keys, and a copy to each mirror that wants it. `known` is what the
    /// proxy knows beside the nodes, as the reply of one more.
    pub(crate) fn send_keyless(
        &mut self,
        caller: &Caller,
        command: &Command<'_>,
        destination: Destination,
        known: Option<Vec<u8>>,
    ) {
        if let Destination::Scan = destination
            && Cursor::parse(command.frame.arg(1).unwrap_or_default()).is_none()
        {
            return self.answer_error(caller.id, errors::INVALID_CURSOR);
        }
        let Some(cluster) = self.routes.keyless().map(|route| route.cluster) else {
            return self.answer_failure(caller, command, errors::NO_ROUTE);
        };
        let (state, completion) = start_of(cluster, destination);
        let known = known.or_else(|| self.known_scripts(command.spec, &command.frame));
        let Some(id) = self.begin(caller, command, state, completion) else { return };
        if let Some(known) = known {
            self.flight.set_known_reply(id, known);
        }
        self.start_keyless(id, command.frame.bytes(), destination);
        if changes_without_keys(command.spec) {
            self.mirror_keyless(id, command, destination);
        }
    }

    /// Sends a copy of such a command to a mirror.
    pub(super) fn copy_keyless(
        &mut self,
        mirror: ClusterId,
        command: &Command<'_>,
        destination: Destination,
    ) {
        let (state, completion) = start_of(mirror, destination);
        if let Some(id) = self.begin_copy(mirror, command, state, completion) {
            self.start_keyless(id, command.frame.bytes(), destination);
        }
    }

    fn start_keyless(&mut self, id: RequestId, command: &[u8], destination: Destination) {
        match destination {
            Destination::AnyPrimary | Destination::AnyPrimaryWaits(_) | Destination::OnePrimary => {
                self.send(PartId::whole(id), command);
            }
            Destination::EveryPrimary(_)
            | Destination::EveryPrimaryWaits(..)
            | Destination::Scan => self.spread(id, command),
        }
    }

    /// Sends a command on its way to the shards as soon as these are known.
    pub(crate) fn spread(&mut self, id: RequestId, command: &[u8]) {
        let Some(Request { state: State::Unplanned(cluster, spread), .. }) =
            self.flight.waiting(id)
        else {
            return;
        };
        let (cluster, spread) = (*cluster, *spread);
        if !self.upstream.is_known(cluster) {
            return self.hold(PartId::whole(id), command);
        }
        let mut parser = RequestParser::new();
        if parser.parse(command, &Limits::UNBOUNDED).is_err() {
            return;
        }
        let frame = parser.frame(command);
        match spread {
            Spread::EveryPrimary(merge) => self.send_to_all(id, cluster, merge, &frame),
            Spread::Scan => self.send_step(id, cluster, &frame),
        }
    }

    /// Where a message is published: at the owner of a shard channel's slot; for a channel any node
    /// would do, and it is the same one for all clients, so that what they publish stays in order.
    pub(crate) fn target_of_message(
        &self,
        kind: TopicKind,
        channel: &[u8],
        cluster: ClusterId,
    ) -> Target {
        match kind {
            TopicKind::ShardChannel => Target::Owner(self.routes.slot(cluster, channel)),
            TopicKind::Channel | TopicKind::Pattern => Target::Home(None),
        }
    }

    fn send_to_all(
        &mut self,
        id: RequestId,
        cluster: ClusterId,
        merge: Merge,
        frame: &RequestFrame<'_>,
    ) {
        let slots = self.upstream.lowest_slots(cluster);
        let parts = slots.iter().map(|slot| Part::new(cluster, Target::Owner(*slot)));
        let argument = match merge {
            Merge::Latest => wanted(frame.arg(2)),
            _ => self.rng.next(),
        };
        let mut split = Split::whole(merge, argument, parts);
        if let Some(known) = self.flight.take_known_reply(id) {
            split.add_reply(&known);
        }
        self.flight.set_split(id, split);
        for (part, _) in (0..).zip(slots) {
            self.send(PartId { request: id, part }, frame.bytes());
        }
    }

    fn send_step(&mut self, id: RequestId, cluster: ClusterId, frame: &RequestFrame<'_>) {
        let Some(cursor) = Cursor::parse(frame.arg(1).unwrap_or_default()) else { return };
        let owner = self.upstream.owner(cluster, cursor.slot());
        let owner = owner.and_then(|owner| self.upstream.node_address(cluster, owner));
        let step = Step::new(cursor, owner, &self.upstream.lowest_slots(cluster));
        let part = Part::new(cluster, Target::Owner(step.slot()));
        let mut command = self.buffers.take();
        step.write_command(frame, &mut command);
        self.flight.set_whole(id, part, Completion::Scan(Box::new(step)));
        self.send(PartId::whole(id), &command);
        self.buffers.recycle(command);
    }
}

/// How a command without keys begins.
fn start_of(cluster: ClusterId, destination: Destination) -> (State, Completion) {
    let whole = |target| State::Whole(Part::new(cluster, target));
    match destination {
        Destination::AnyPrimary => (whole(Target::AnyPrimary), Completion::Deliver),
        Destination::AnyPrimaryWaits(blocking) => {
            (whole(Target::AnyPrimary), Completion::Block(blocking))
        }
        Destination::OnePrimary => (whole(Target::Owner(Slot::default())), Completion::Deliver),
        Destination::EveryPrimary(merge) => {
            (State::Unplanned(cluster, Spread::EveryPrimary(merge)), Completion::Deliver)
        }
        Destination::EveryPrimaryWaits(merge, blocking) => {
            let state = State::Unplanned(cluster, Spread::EveryPrimary(merge));
            (state, Completion::Block(blocking))
        }
        Destination::Scan => (State::Unplanned(cluster, Spread::Scan), Completion::Deliver),
    }
}

/// How many entries SLOWLOG GET wants: 10 unless it says so, all if it says -1. What is no number
/// the nodes refuse.
fn wanted(count: Option<&[u8]>) -> u64 {
    const DEFAULT: u64 = 10;
    let Some(count) = count else { return DEFAULT };
    parse_decimal(count).and_then(|count| u64::try_from(count).ok()).unwrap_or(u64::MAX)
}
