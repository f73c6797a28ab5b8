//! Copies of commands, for mirrors.

use smallvec::SmallVec;

use crate::blocking::{self, Blocking, Effect};
use crate::budget::ByteBudget;
use crate::cluster::Slot;
use crate::command::{CommandSpec, Merge, TopicKind};
use crate::config::{Config, Mirror, ReadPolicy};
use crate::exchange::keyed::{CrossSlot, Submission};
use crate::exchange::keyless::Destination;
use crate::exchange::{Command, Cut, Exchange};
use crate::flight::{Completion, Owner, Part, State};
use crate::ids::{ClusterId, PartId, RequestId, RouteId};
use crate::route::{Place, Places};
use crate::target::Target;
use crate::transaction::Exec;

/// How many bytes of copies wait for each mirror.
#[derive(Debug)]
pub(super) struct Mirrors {
    /// By cluster.
    budgets: Vec<ByteBudget>,
}

impl Mirrors {
    pub(super) fn new(config: &Config) -> Self {
        let limit = config.limits.mirror_bytes;
        Self { budgets: config.clusters.iter().map(|_| ByteBudget::new(limit)).collect() }
    }

    fn has_room(&self, mirror: ClusterId, len: usize) -> bool {
        self.budgets.get(mirror.position()).is_some_and(|budget| budget.has_room(len))
    }

    pub(super) fn take(&mut self, mirror: ClusterId, len: usize) {
        if let Some(budget) = self.budgets.get_mut(mirror.position()) {
            budget.take(len);
        }
    }

    pub(super) fn give_back(&mut self, mirror: ClusterId, len: usize) {
        if let Some(budget) = self.budgets.get_mut(mirror.position()) {
            budget.give_back(len);
        }
    }

    pub(super) fn most(&self) -> usize {
        self.budgets.iter().map(ByteBudget::used).max().unwrap_or_default()
    }
}

/// What a mirror has to know of a command to say whether it wants a copy.
#[derive(Clone, Copy)]
struct Offer<'a> {
    read_only: bool,
    first_key: Option<&'a [u8]>,
    len: usize,
}

/// Something for mirrors whose keys share a slot.
struct Copy<'a> {
    spec: &'static CommandSpec,
    bytes: &'a [u8],
    /// The first key and its route; `None` without any.
    first_key: Option<(&'a [u8], RouteId)>,
    read_only: bool,
    /// What is expected of a transaction.
    exec: Option<&'a Exec>,
}

impl Exchange {
    /// Copies a command with one key to the mirrors that want it.
    #[inline]
    pub(super) fn mirror_key(
        &mut self,
        request: RequestId,
        command: &Command<'_>,
        key: &[u8],
        route: RouteId,
    ) {
        if !self.routes.has_mirrors() || !self.is_under_way(request) {
            return;
        }
        let command = Command { delay: None, ..*command };
        let offer =
            Offer { read_only: command.spec.is_read(), first_key: Some(key), len: command.len };
        let mut next = 0;
        while let Some(mirror) = self.next_mirror(route, &mut next, offer) {
            let slot = self.routes.slot(mirror, key);
            let part = Part::new(mirror, Target::Owner(slot));
            let state = State::Whole(part);
            if let Some(id) = self.begin_copy(mirror, &command, state, Completion::Deliver) {
                self.send(PartId::whole(id), command.frame.bytes());
            }
            self.upstream.count(mirror).mirror_sent += 1;
        }
    }

    /// Copies a command to the mirrors that want it. Of one that may be cut, each key counts by
    /// itself, as if it had come alone; of another one the first key counts for them all.
    pub(super) fn mirror_keys(
        &mut self,
        request: RequestId,
        command: &Command<'_>,
        keys: &[u32],
        merge: Option<Merge>,
        places: &Places,
        cut: &mut Cut,
    ) {
        if !self.routes.has_mirrors() || !self.is_under_way(request) {
            return;
        }
        let command = Command { delay: None, ..*command };
        let counted = if merge.is_some() { usize::MAX } else { 1 };
        let mut done: SmallVec<[RouteId; 4]> = SmallVec::new();
        for route in places.routes().iter().copied().take(counted) {
            if done.contains(&route) {
                continue;
            }
            done.push(route);
            let mut next = 0;
            while let Some(mirror) = self.routes.mirror_of(route, next) {
                next += 1;
                self.copy_keys(mirror, route, &command, keys, merge, places, cut);
            }
        }
    }

    /// Copies a message to the mirrors of commands without keys. As to samples, its channel is its
    /// key.
    pub(crate) fn mirror_message(
        &mut self,
        request: RequestId,
        kind: TopicKind,
        command: &Command<'_>,
    ) {
        if !self.is_under_way(request) {
            return;
        }
        let channel = command.frame.arg(1).unwrap_or_default();
        let command = Command { delay: None, ..*command };
        let Some(route) = self.routes.keyless_route() else { return };
        let offer = Offer { read_only: false, first_key: Some(channel), len: command.len };
        let mut next = 0;
        while let Some(mirror) = self.next_mirror(route, &mut next, offer) {
            let target = self.target_of_message(kind, channel, mirror);
            let state = State::Whole(Part::new(mirror, target));
            if let Some(id) = self.begin_copy(mirror, &command, state, Completion::Deliver) {
                self.upstream.count(mirror).mirror_sent += 1;
                self.send(PartId::whole(id), command.frame.bytes());
            }
        }
    }

    /// Copies a command without keys.
    pub(super) fn mirror_keyless(
        &mut self,
        request: RequestId,
        command: &Command<'_>,
        destination: Destination,
    ) {
        if !self.routes.has_mirrors() || !self.is_under_way(request) {
            return;
        }
        let Some(route) = self.routes.keyless_route() else { return };
        let command = Command { delay: None, ..*command };
        let (read_only, len) = (command.spec.is_read(), command.len);
        let offer = Offer { read_only, first_key: None, len };
        let mut next = 0;
        while let Some(mirror) = self.next_mirror(route, &mut next, offer) {
            self.copy_keyless(mirror, &command, destination);
            self.upstream.count(mirror).mirror_sent += 1;
        }
    }

    /// Copies a transaction, whose commands are these, to the mirrors that want it.
    pub(crate) fn mirror_transaction(&mut self, id: RequestId, unit: &[u8]) {
        if !self.routes.has_mirrors() || !self.is_under_way(id) {
            return;
        }
        let completion = self.flight.take_completion(id);
        if let Completion::Exec(exec) = &completion {
            let first_key = exec.target.first_key.as_ref();
            self.mirror_copy(&Copy {
                spec: exec.spec,
                bytes: unit,
                first_key: first_key.map(|(key, route)| (&key[..], *route)),
                read_only: exec.target.read_only,
                exec: Some(exec),
            });
        }
        self.flight.set_completion(id, completion);
    }

    /// Copies what a blocking command has done, because only its reply says that.
    pub(super) fn mirror_effect(&mut self, blocking: Blocking, command: &[u8], reply: &[u8]) {
        if !self.routes.has_mirrors() {
            return;
        }
        let effect = blocking::effect(command, reply);
        if let (Some(Effect { spec, key, command }), Some(route)) = (effect, blocking.route) {
            let (first_key, bytes) = (Some((&key[..], route)), &command[..]);
            self.mirror_copy(&Copy { spec, bytes, first_key, read_only: false, exec: None });
        }
    }

    /// Whether a command has been sent, or waits for that: a mirror gets none that was refused at
    /// once, nor one that came too late.
    #[inline]
    fn is_under_way(&self, id: RequestId) -> bool {
        self.flight.waiting(id).is_some_and(|request| !request.is_overdue(self.now))
    }

    /// Copies as much of a command as goes by `route` and is in the mirror's sample.
    #[expect(clippy::too_many_arguments, reason = "a command with its keys and their places")]
    fn copy_keys(
        &mut self,
        mirror: Mirror,
        route: RouteId,
        command: &Command<'_>,
        keys: &[u32],
        merge: Option<Merge>,
        places: &Places,
        cut: &mut Cut,
    ) {
        let cluster = mirror.cluster;
        let read_only = command.spec.is_read();
        let key = |position: &u32| command.frame.arg(*position as usize).unwrap_or_default();
        let together = (merge.is_none() || mirror.draw_per_command)
            .then(|| mirror.wants(read_only, keys.first().map(key), &mut self.rng));
        let wanted: SmallVec<[u32; 8]> = keys
            .iter()
            .zip(places.routes())
            .filter(|(_, by)| **by == route || merge.is_none())
            .map(|(position, _)| *position)
            .filter(|position| {
                together
                    .unwrap_or_else(|| mirror.wants(read_only, Some(key(position)), &mut self.rng))
            })
            .collect();
        if wanted.is_empty() || !self.has_room_for_copy(cluster, command.len) {
            return;
        }
        let slots: SmallVec<[Slot; 8]> =
            wanted.iter().map(|position| self.routes.slot(cluster, key(position))).collect();
        let there = slots.iter().map(|slot| Place { cluster, slot: *slot });
        let submission = Submission {
            owner: Owner::Mirror(cluster),
            caller: None,
            command,
            keys: &wanted,
            merge,
            policy: ReadPolicy::Master,
        };
        let submitted = match merge.filter(|_| wanted.len() < keys.len()) {
            Some(merge) => Ok(self.submit_parts(&submission, merge, there, cut)),
            None => self.submit(&submission, there, cut, Completion::Deliver),
        };
        match submitted {
            Ok(_) => self.upstream.count(cluster).mirror_sent += 1,
            // A standalone server takes what a cluster as its mirror cannot.
            Err(CrossSlot) => self.upstream.count(cluster).mirror_dropped_crossslot += 1,
        }
    }

    fn mirror_copy(&mut self, copy: &Copy<'_>) {
        let (key, route) = copy.first_key.unzip();
        let Some(route) = route.or_else(|| self.routes.keyless_route()) else { return };
        let offer = Offer { read_only: copy.read_only, first_key: key, len: copy.bytes.len() };
        let mut next = 0;
        while let Some(mirror) = self.next_mirror(route, &mut next, offer) {
            let slot = key.map(|key| self.routes.slot(mirror, key));
            let part = Part::new(mirror, slot.map_or(Target::Home(None), Target::Owner));
            let command = Command::of_bytes(copy.spec, copy.bytes);
            let completion = match copy.exec {
                Some(exec) => Completion::Exec(Box::new(exec.copy())),
                None => Completion::Deliver,
            };
            let state = State::Whole(part);
            if let Some(id) = self.begin_copy(mirror, &command, state, completion) {
                self.upstream.count(mirror).mirror_sent += 1;
                self.send(PartId::whole(id), copy.bytes);
            }
        }
    }

    /// The next mirror of a route, from number `next` on, that wants what it is offered and has
    /// room for it.
    #[inline]
    fn next_mirror(
        &mut self,
        route: RouteId,
        next: &mut usize,
        offer: Offer<'_>,
    ) -> Option<ClusterId> {
        loop {
            let mirror = self.routes.mirror_of(route, *next)?;
            *next += 1;
            if mirror.wants(offer.read_only, offer.first_key, &mut self.rng)
                && self.has_room_for_copy(mirror.cluster, offer.len)
            {
                return Some(mirror.cluster);
            }
        }
    }

    /// Whether a mirror may be given so many bytes more. Counts the copy as dropped if not.
    #[inline]
    fn has_room_for_copy(&mut self, mirror: ClusterId, len: usize) -> bool {
        let has_room = self.mirrors.has_room(mirror, len);
        if !has_room {
            self.upstream.count(mirror).mirror_dropped_overflow += 1;
        }
        has_room
    }
}
