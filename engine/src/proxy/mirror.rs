//! Copies of commands, for mirrors.

use smallvec::SmallVec;

use super::command::{Command, CrossSlot};
use super::{Cut, Proxy};
use crate::blocking::{self, Effect};
use crate::cluster::Slot;
use crate::command::CommandSpec;
use crate::config::ReadPolicy;
use crate::request::{Owner, Part, State, SubRequestId, Way};
use crate::resp::Reply;
use crate::route::{Place, Places};
use crate::time::Instant;
use crate::transaction::Exec;

/// Something for mirrors whose keys share a slot.
struct Copy<'a> {
    spec: &'static CommandSpec,
    bytes: &'a [u8],
    first_key: &'a [u8],
    /// The route of that key, as an index.
    route: usize,
    read_only: bool,
    /// What is expected of a transaction.
    exec: Option<&'a Exec>,
}

impl Proxy {
    /// Copies a command to the mirrors of its route that want it.
    pub(super) fn mirror(
        &mut self,
        command: Command<'_>,
        places: &Places,
        cut: &mut Cut,
        now: Instant,
    ) {
        let key = |position: &u32| command.frame.arg(*position as usize).unwrap_or_default();
        let command = Command { policy: ReadPolicy::Master, delay: None, ..command };
        let mut next = 0;
        while let Some(mirror) = self.routes.mirror(places, next) {
            next += 1;
            let first_key = command.keys.first().map(key);
            if !mirror.wants(command.spec.is_read(), first_key, &mut self.rng) {
                continue;
            }
            if !self.has_room_for_copy(mirror.cluster, command.len) {
                continue;
            }
            let slots: SmallVec<[Slot; 8]> = command
                .keys
                .iter()
                .map(|position| self.routes.slot(mirror.cluster, key(position)))
                .collect();
            let there = slots.iter().map(|slot| Place { cluster: mirror.cluster, slot: *slot });
            match self.submit(Owner::Mirror(mirror.cluster), command, there, cut, now) {
                Ok(()) => self.stats.upstream(mirror.cluster).mirror_sent += 1,
                // A standalone server takes what a cluster as its mirror cannot.
                Err(CrossSlot) => self.stats.upstream(mirror.cluster).mirror_dropped_crossslot += 1,
            }
        }
    }

    /// Copies a transaction to the mirrors of its route that want it.
    pub(super) fn mirror_transaction(&mut self, exec: &Exec, unit: &[u8], now: Instant) {
        let Some((first_key, route)) = &exec.target.first_key else { return };
        let copy = Copy {
            spec: exec.spec,
            bytes: unit,
            first_key,
            route: *route,
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
                    let (bytes, first_key) = (&command[..], &key[..]);
                    let read_only = false;
                    let copy = Copy { spec, bytes, first_key, route, read_only, exec: None };
                    self.mirror_copy(&copy, now);
                }
            }
            Way::WatchedExec if reply.first() == Some(&b'*') && !Reply::new(reply).is_null() => {
                let Some(exec) = request.exec.take() else { return };
                self.mirror_transaction(&exec, command, now);
                if let Some(request) = self.requests.get_mut(sub_request.request) {
                    request.exec = Some(exec);
                }
            }
            Way::Shared | Way::Watch(_) | Way::WatchedExec => {}
        }
    }

    fn mirror_copy(&mut self, copy: &Copy<'_>, now: Instant) {
        let mut next = 0;
        while let Some(mirror) = self.routes.mirror_of(copy.route, next) {
            next += 1;
            if !mirror.wants(copy.read_only, Some(copy.first_key), &mut self.rng)
                || !self.has_room_for_copy(mirror.cluster, copy.bytes.len())
            {
                continue;
            }
            let slot = self.routes.slot(mirror.cluster, copy.first_key);
            let part = Part::at(Place { cluster: mirror.cluster, slot }, ReadPolicy::Master);
            let owner = Owner::Mirror(mirror.cluster);
            let command = Command::unit(copy.spec, copy.bytes, Way::Shared);
            if let Some(request) = self.begin(owner, command, State::Whole(part), now) {
                self.stats.upstream(mirror.cluster).mirror_sent += 1;
                if let Some(request) = self.requests.get_mut(request) {
                    request.exec = copy.exec.map(|exec| Box::new(exec.copy()));
                }
                self.send(SubRequestId { request, part: 0 }, copy.bytes, now);
            }
        }
    }

    /// Whether a mirror may be given so many bytes more. Counts the copy as dropped if not.
    pub(super) fn has_room_for_copy(&mut self, cluster: usize, len: usize) -> bool {
        let pending = self.mirror_bytes.get(cluster).copied().unwrap_or_default();
        let has_room = pending.saturating_add(len) <= self.config.limits.mirror_bytes;
        if !has_room {
            self.stats.upstream(cluster).mirror_dropped_overflow += 1;
        }
        has_room
    }
}
