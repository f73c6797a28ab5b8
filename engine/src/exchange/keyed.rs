//! Commands for the nodes that own their keys, and for the mirrors of their routes.

use crate::blocking::Blocking;
use crate::command::{self, CommandError, KeysError, Merge};
use crate::config::ReadPolicy;
use crate::downstream::{Caller, Modes};
use crate::errors;
use crate::exchange::keyless::Destination;
use crate::exchange::{Command, Cut, Exchange, Scratch};
use crate::flight::{Completion, Owner, Part, Plan, Split, State};
use crate::ids::{PartId, RequestId, RouteId};
use crate::route::{NoRoute, Place, shared_place};
use crate::target::Target;

/// What is done with a command that has keys.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Keyed {
    /// All of it goes to the node that owns all its keys.
    Whole,
    /// It may be cut: its replies are merged so.
    Split(Merge),
    /// Its node may keep it waiting.
    Block(Blocking),
    /// Its node watches the keys; they have to be at this place, where others are watched already.
    Watch(Option<Place>),
}

/// The only key of a command.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) place: Place,
    pub(crate) route: RouteId,
    pub(crate) policy: ReadPolicy,
}

/// The keys of a command that cannot be cut sit in several slots.
#[derive(Debug)]
pub(super) struct CrossSlot;

/// A command with what is to be known of its keys.
#[derive(Clone, Copy)]
pub(super) struct Submission<'a> {
    pub(super) owner: Owner,
    /// The client, unless it is a mirror's copy.
    pub(super) caller: Option<&'a Caller>,
    pub(super) command: &'a Command<'a>,
    /// Positions of the keys among the arguments.
    pub(super) keys: &'a [u32],
    /// How the replies to parts become one, if it may be cut.
    pub(super) merge: Option<Merge>,
    pub(super) policy: ReadPolicy,
}

impl Exchange {
    /// Sends a command to the nodes that own its keys, and copies to the mirrors that want them.
    #[inline]
    pub(crate) fn send_keyed(&mut self, caller: &Caller, command: &Command<'_>, keyed: Keyed) {
        if let Keyed::Whole = keyed
            && let Some(key) = self.single_key(command)
        {
            return self.send_key(caller, command, key);
        }
        let mut scratch = self.take_scratch();
        self.send_keys(caller, command, keyed, &mut scratch);
        self.put_scratch(scratch);
    }

    /// The only key of a command, if it can be told without a search and is not rewritten.
    #[inline]
    fn single_key<'a>(&self, command: &Command<'a>) -> Option<Key<'a>> {
        let key = command.frame.arg(command.spec.single_key()?)?;
        if self.routes.rewrites_keys() {
            return None;
        }
        let (place, route, policy) = self.routes.place_key(key, command.spec.is_read())?;
        Some(Key { key, place, route, policy })
    }

    #[inline]
    fn send_key(&mut self, caller: &Caller, command: &Command<'_>, key: Key<'_>) {
        let policy = match caller.modes.has(OWNER_ONLY) {
            true => ReadPolicy::Master,
            false => key.policy,
        };
        let part = Part::new(key.place.cluster, Target::of(key.place.slot, policy));
        let state = State::Whole(part);
        let Some(id) = self.begin(caller, command, state, Completion::Deliver) else { return };
        self.send(PartId::whole(id), command.frame.bytes());
        self.mirror_key(id, command, key.key, key.route);
    }

    fn send_keys(
        &mut self,
        caller: &Caller,
        command: &Command<'_>,
        keyed: Keyed,
        scratch: &mut Scratch,
    ) {
        let Scratch { keys, places, rewritten, cut } = scratch;
        let Command { spec, frame, .. } = *command;
        match command::keys(spec, &frame, keys) {
            Err(KeysError::Arity) => {
                let error = CommandError::Arity(spec);
                self.downstream.stats_mut().count_invalid(error);
                return self.answer(caller.id, |out| error.write_reply(&frame, out));
            }
            // Redis itself will say what is wrong with it.
            Err(KeysError::Malformed) => {
                let destination = match keyed {
                    Keyed::Block(blocking) => Destination::AnyPrimaryWaits(blocking),
                    _ => Destination::AnyPrimary,
                };
                return self.send_keyless(caller, command, destination, None);
            }
            Ok(()) => {}
        }
        let attributes = self.downstream.attributes(caller.id);
        let placed = self.routes.place(frame, keys, spec.is_read(), attributes, places, rewritten);
        let Ok(frame) = placed.map_err(|NoRoute| ()) else {
            return self.answer_failure(caller, command, errors::NO_ROUTE);
        };
        let here = places.as_slice().iter().copied();
        let needs_owner =
            caller.modes.has(OWNER_ONLY) || !matches!(keyed, Keyed::Whole | Keyed::Split(_));
        let policy = match needs_owner {
            true => ReadPolicy::Master,
            false => self.routes.policy(places, spec.is_read()),
        };
        let merge = match keyed {
            Keyed::Split(merge) => Some(merge),
            _ => None,
        };
        let completion = match keyed {
            Keyed::Whole | Keyed::Split(_) => Completion::Deliver,
            // What it has done is copied to the route's mirrors.
            Keyed::Block(blocking) => {
                Completion::Block(Blocking { route: self.routes.route_of(places), ..blocking })
            }
            Keyed::Watch(_) => Completion::Watch,
        };
        let is_elsewhere = match keyed {
            Keyed::Watch(Some(watched)) => here.clone().any(|place| place != watched),
            _ => false,
        };
        let command = Command { frame, ..*command };
        let owner = Owner::Client(caller.id);
        let caller_ref = Some(caller);
        let submission =
            Submission { owner, caller: caller_ref, command: &command, keys, merge, policy };
        let submitted = match is_elsewhere {
            true => Err(CrossSlot),
            false => self.submit(&submission, here, cut, completion),
        };
        match submitted {
            Ok(Some(id)) if matches!(keyed, Keyed::Whole | Keyed::Split(_)) => {
                self.mirror_keys(id, &command, keys, merge, places, cut);
            }
            Ok(_) => {}
            Err(CrossSlot) => self.answer_failure(caller, &command, errors::CROSSSLOT),
        }
    }

    /// Sends a command whose keys live at `places`: whole if that is one place, else in parts.
    /// `None` if its client has gone.
    pub(super) fn submit(
        &mut self,
        submission: &Submission<'_>,
        places: impl Iterator<Item = Place> + Clone,
        cut: &mut Cut,
        completion: Completion,
    ) -> Result<Option<RequestId>, CrossSlot> {
        let Submission { command, policy, .. } = *submission;
        if let Some(place) = shared_place(places.clone()) {
            let several_keys = submission.keys.len() > 1;
            let part = Part::new(place.cluster, Target::of(place.slot, policy));
            let state = State::Whole(Part { several_keys, ..part });
            let id = self.begin_for(submission, state, completion);
            if let Some(id) = id {
                self.send(PartId::whole(id), command.frame.bytes());
            }
            return Ok(id);
        }
        let merge = submission.merge.ok_or(CrossSlot)?;
        Ok(self.submit_parts(submission, merge, places, cut))
    }

    /// Sends those keys of a command that it names, in parts.
    pub(super) fn submit_parts(
        &mut self,
        submission: &Submission<'_>,
        merge: Merge,
        places: impl Iterator<Item = Place>,
        cut: &mut Cut,
    ) -> Option<RequestId> {
        let Cut { plan, bytes } = cut;
        Plan::make(plan, places);
        let state = State::Split(Box::new(Split::new(merge, plan, submission.policy)));
        let request = self.begin_for(submission, state, Completion::Deliver)?;
        let Submission { command, keys, .. } = *submission;
        plan.encode_each(&command.frame, keys, merge, bytes, |part, bytes| {
            self.send(PartId { request, part }, bytes);
        });
        Some(request)
    }

    fn begin_for(
        &mut self,
        submission: &Submission<'_>,
        state: State,
        completion: Completion,
    ) -> Option<RequestId> {
        match (submission.owner, submission.caller) {
            (Owner::Mirror(mirror), _) => {
                self.begin_copy(mirror, submission.command, state, completion)
            }
            (Owner::Client(_), caller) => {
                self.begin(caller?, submission.command, state, completion)
            }
        }
    }
}

/// While a client watches keys, what it reads must be what is watched; and while it caches, a
/// replica may be behind what it has been told of.
const OWNER_ONLY: Modes = Modes::WATCH.or(Modes::TRACKED);
