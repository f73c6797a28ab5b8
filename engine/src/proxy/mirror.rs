//! Copies of commands, for mirrors.

use smallvec::SmallVec;

use super::command::{Command, CrossSlot};
use super::{Cut, Proxy};
use crate::blocking::{self, Effect};
use crate::cluster::Slot;
use crate::command::CommandSpec;
use crate::config::{Mirror, ReadPolicy};
use crate::pubsub::TopicKind;
use crate::request::{Owner, Part, RequestId, State, SubRequestId, Way};
use crate::resp::Reply;
use crate::route::{Place, Places};
use crate::time::Instant;
use crate::transaction::Exec;

/// What a mirror has to know of a command to say whether it wants a copy.
#[derive(Clone, Copy)]
pub(super) struct Offer<'a> {
    pub(super) read_only: bool,
    pub(super) first_key: Option<&'a [u8]>,
    pub(super) len: usize,
}

/// Something for mirrors whose keys share a slot.
struct Copy<'a> {
    spec: &'static CommandSpec,
    bytes: &'a [u8],
    /// The first key and its route, as an index; `None` without any.
    first_key: Option<(&'a [u8], usize)>,
    read_only: bool,
    /// What is expected of a transaction.
    exec: Option<&'a Exec>,
}

impl Proxy {
    /// Copies a command to the mirrors that want it. Of one that may be cut, each key counts by
    /// itself, as if it had come alone; of another one the first key counts for them all.
    pub(super) fn mirror(
        &mut self,
        request: RequestId,
        command: &Command<'_>,
        places: &Places,
        cut: &mut Cut,
        now: Instant,
    ) {
        if !self.routes.has_mirrors() || !self.is_under_way(request, now) {
            return;
        }
        let command = Command { policy: ReadPolicy::Master, delay: None, ..*command };
        let counted = if command.merge.is_some() { usize::MAX } else { 1 };
        let mut done: SmallVec<[usize; 4]> = SmallVec::new();
        for route in places.routes().iter().copied().take(counted) {
            if done.contains(&route) {
                continue;
            }
            done.push(route);
            let mut next = 0;
            while let Some(mirror) = self.routes.mirror_of(route, next) {
                next += 1;
                self.mirror_keys(mirror, route, command, places, cut, now);
            }
        }
    }

    /// Copies a message to the mirrors of commands without keys. As to samples, its channel is its
    /// key.
    pub(super) fn mirror_message(
        &mut self,
        request: RequestId,
        kind: TopicKind,
        command: Command<'_>,
        now: Instant,
    ) {
        if !self.is_under_way(request, now) {
            return;
        }
        let channel = command.frame.arg(1).unwrap_or_default();
        let command = Command { delay: None, ..command };
        let Some(route) = self.routes.keyless_route() else { return };
        let offer = Offer { read_only: false, first_key: Some(channel), len: command.len };
        let mut next = 0;
        while let Some(cluster) = self.next_mirror(route, &mut next, offer) {
            let part = self.part_of_message(kind, channel, cluster);
            let owner = Owner::Mirror(cluster);
            if let Some(request) = self.begin(owner, &command, State::Whole(part), now) {
                self.stats.upstream(cluster).mirror_sent += 1;
                self.send(SubRequestId { request, part: 0 }, command.frame.bytes(), now);
            }
        }
    }

    /// Whether a command has been sent, or waits for that: a mirror gets none that was refused at once,
    /// nor one that came too late.
    pub(super) fn is_under_way(&mut self, id: RequestId, now: Instant) -> bool {
        self.requests.waiting(id).is_some_and(|request| !request.is_overdue(now))
    }

    /// Copies a transaction, whose commands are these, to the mirrors that want it.
    pub(super) fn mirror_transaction(&mut self, id: RequestId, unit: &[u8], now: Instant) {
        if !self.is_under_way(id, now) {
            return;
        }
        let request = self.requests.get_mut(id);
        let extra = request.and_then(|request| request.known_extra());
        let Some(exec) = extra.and_then(|extra| extra.exec.take()) else { return };
        self.mirror_unit(&exec, unit, now);
        if let Some(request) = self.requests.get_mut(id) {
            request.extra_mut().exec = Some(exec);
        }
    }

    fn mirror_unit(&mut self, exec: &Exec, unit: &[u8], now: Instant) {
        let first_key = exec.target.first_key.as_ref();
        let copy = Copy {
            spec: exec.spec,
            bytes: unit,
            first_key: first_key.map(|(key, route)| (&key[..], *route)),
            read_only: exec.target.read_only,
            exec: Some(exec),
        };
        self.mirror_copy(&copy, now);
    }

    /// Copies what had to wait for its reply, because only that says what was done.
    pub(super) fn mirror_outcome(
        &mut self,
        sub_request: SubRequestId,
        command: &[u8],
        reply: &[u8],
        now: Instant,
    ) {
        let Some(request) = self.requests.get_mut(sub_request.request) else { return };
        match request.way {
            Way::Blocking(blocking) => {
                let effect = blocking::effect(command, reply);
                if let (Some(Effect { spec, key, command }), Some(route)) = (effect, blocking.route)
                {
                    let first_key = Some((&key[..], route));
                    let bytes = &command[..];
                    let copy = Copy { spec, bytes, first_key, read_only: false, exec: None };
                    self.mirror_copy(&copy, now);
                }
            }
            Way::WatchedExec if reply.first() == Some(&b'*') && !Reply::new(reply).is_null() => {
                self.mirror_transaction(sub_request.request, command, now);
            }
            Way::Shared | Way::Watch(_) | Way::WatchedExec | Way::Track => {}
        }
    }

    /// Copies as much of a command as goes by `route` and is in the mirror's sample.
    fn mirror_keys(
        &mut self,
        mirror: Mirror,
        route: usize,
        command: Command<'_>,
        places: &Places,
        cut: &mut Cut,
        now: Instant,
    ) {
        let Command { frame, keys, merge, .. } = command;
        let cluster = mirror.cluster;
        let read_only = command.spec.is_read();
        let key = |position: &u32| frame.arg(*position as usize).unwrap_or_default();
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
        let owner = Owner::Mirror(cluster);
        let submitted = match merge.filter(|_| wanted.len() < keys.len()) {
            Some(merge) => {
                let command = Command { keys: &wanted, ..command };
                Ok(self.submit_parts(owner, &command, merge, there, cut, now))
            }
            None => self.submit(owner, &command, there, cut, now),
        };
        match submitted {
            Ok(_) => self.stats.upstream(cluster).mirror_sent += 1,
            // A standalone server takes what a cluster as its mirror cannot.
            Err(CrossSlot) => self.stats.upstream(cluster).mirror_dropped_crossslot += 1,
        }
    }

    fn mirror_copy(&mut self, copy: &Copy<'_>, now: Instant) {
        let (key, route) = copy.first_key.unzip();
        let Some(route) = route.or_else(|| self.routes.keyless_route()) else { return };
        let offer = Offer { read_only: copy.read_only, first_key: key, len: copy.bytes.len() };
        let mut next = 0;
        while let Some(cluster) = self.next_mirror(route, &mut next, offer) {
            let slot = key.map(|key| self.routes.slot(cluster, key));
            let part = Part::new(cluster, slot, ReadPolicy::Master);
            let owner = Owner::Mirror(cluster);
            let command = Command::unit(copy.spec, copy.bytes, Way::Shared);
            if let Some(request) = self.begin(owner, &command, State::Whole(part), now) {
                self.stats.upstream(cluster).mirror_sent += 1;
                if let (Some(exec), Some(request)) = (copy.exec, self.requests.get_mut(request)) {
                    request.extra_mut().exec = Some(exec.copy());
                }
                self.send(SubRequestId { request, part: 0 }, copy.bytes, now);
            }
        }
    }

    /// The next mirror of a route, from number `next` on, that wants what it is offered and has room for
    /// it; as the index of its cluster.
    pub(super) fn next_mirror(
        &mut self,
        route: usize,
        next: &mut usize,
        offer: Offer<'_>,
    ) -> Option<usize> {
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
    fn has_room_for_copy(&mut self, cluster: usize, len: usize) -> bool {
        let pending = self.mirror_bytes.get(cluster).copied().unwrap_or_default();
        let has_room = pending.saturating_add(len) <= self.config.limits.mirror_bytes;
        if !has_room {
            self.stats.upstream(cluster).mirror_dropped_overflow += 1;
        }
        has_room
    }
}
