//! Where commands go that name no key.
//!
//! They concern the cluster of the catch-all route alone, as in Envoy, and those that write go to its
//! mirrors as well.

use super::Proxy;
use super::command::Command;
use super::mirror::Offer;
use crate::cluster::Slot;
use crate::command::{Merge, changes_without_keys};
use crate::config::ReadPolicy;
use crate::cursor::{Cursor, Step};
use crate::request::{Owner, Part, RequestId, Spread, State, SubRequestId};
use crate::resp::{Limits, RequestFrame, RequestParser, encode, parse_decimal};
use crate::route::Place;
use crate::session::SessionId;
use crate::split::Split;
use crate::time::Instant;

/// Whom a command without keys is for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Destination {
    /// Any primary.
    AnyPrimary,
    /// Always the same primary: the owner of the lowest slot.
    OnePrimary,
    /// Shards, which have to be known first.
    Shards(Spread),
}

impl Proxy {
    /// Sends a command without keys, and a copy to each mirror that wants it.
    pub(super) fn send_keyless(
        &mut self,
        id: SessionId,
        command: Command<'_>,
        destination: Destination,
        now: Instant,
    ) {
        let Some(route) = self.routes.keyless() else {
            return self.answer_no_route(id, command.spec);
        };
        let owner = Owner::Session(id);
        let request = self.send_to_cluster(owner, route.cluster, command, destination, now);
        let (Some(request), Some(route)) = (request, self.routes.keyless_route()) else { return };
        if !changes_without_keys(command.spec) || !self.is_under_way(request, now) {
            return;
        }
        let command = Command { delay: None, ..command };
        let (read_only, len) = (command.spec.is_read(), command.len);
        let offer = Offer { read_only, first_key: None, len };
        let mut next = 0;
        while let Some(cluster) = self.next_mirror(route, &mut next, offer) {
            self.send_to_cluster(Owner::Mirror(cluster), cluster, command, destination, now);
            self.stats.upstream(cluster).mirror_sent += 1;
        }
    }

    /// One step of a client's iteration over all keys.
    pub(super) fn scan(&mut self, id: SessionId, command: Command<'_>, now: Instant) {
        if Cursor::parse(command.frame.arg(1).unwrap_or_default()).is_none() {
            return self.answer(id, |out| encode::error(out, b"ERR invalid cursor"));
        }
        self.send_keyless(id, command, Destination::Shards(Spread::Scan), now);
    }

    /// Sends a command on its way to the shards as soon as these are known.
    pub(super) fn spread(&mut self, id: RequestId, command: &[u8], now: Instant) {
        let Some(request) = self.requests.waiting(id) else { return };
        let State::Unplanned(cluster, spread) = request.state else { return };
        if !self.clusters.get(cluster).is_some_and(|cluster| cluster.is_known()) {
            return self.hold(SubRequestId { request: id, part: 0 }, command, now);
        }
        let mut parser = RequestParser::new();
        if parser.parse(command, &Limits::UNBOUNDED).is_err() {
            return;
        }
        let frame = parser.frame(command);
        match spread {
            Spread::EveryPrimary(merge) => self.send_to_all(id, cluster, merge, &frame, now),
            Spread::Scan => self.send_step(id, cluster, &frame, now),
        }
    }

    fn send_to_cluster(
        &mut self,
        owner: Owner,
        cluster: usize,
        command: Command<'_>,
        destination: Destination,
        now: Instant,
    ) -> Option<RequestId> {
        let (slot, policy) = match destination {
            Destination::AnyPrimary => (None, ReadPolicy::Any),
            Destination::OnePrimary => (Some(Slot::default()), ReadPolicy::Master),
            Destination::Shards(spread) => {
                let state = State::Unplanned(cluster, spread);
                let request = self.begin(owner, &command, state, now)?;
                self.spread(request, command.frame.bytes(), now);
                return Some(request);
            }
        };
        let part = Part::new(cluster, slot, policy);
        let request = self.begin(owner, &command, State::Whole(part), now)?;
        self.send(SubRequestId { request, part: 0 }, command.frame.bytes(), now);
        Some(request)
    }

    fn send_to_all(
        &mut self,
        id: RequestId,
        cluster: usize,
        merge: Merge,
        frame: &RequestFrame<'_>,
        now: Instant,
    ) {
        let slots = self.clusters.get(cluster).map(|cluster| cluster.lowest_slots());
        let slots = slots.unwrap_or_default();
        let parts = slots.iter().map(|slot| part_at(cluster, *slot));
        let argument = match merge {
            Merge::Latest => wanted(frame.arg(2)),
            _ => self.rng.next(),
        };
        let mut split = Split::whole(merge, argument, parts);
        let known = self.known_subscriptions(frame).or_else(|| self.known_scripts(frame));
        if let Some(known) = known {
            split.add_reply(&known);
        }
        self.requests.set_split(id, split);
        for (part, _) in (0..).zip(slots) {
            self.send(SubRequestId { request: id, part }, frame.bytes(), now);
        }
    }

    fn send_step(&mut self, id: RequestId, index: usize, frame: &RequestFrame<'_>, now: Instant) {
        let Some(cluster) = self.clusters.get(index) else { return };
        let Some(cursor) = Cursor::parse(frame.arg(1).unwrap_or_default()) else { return };
        let Some(request) = self.requests.waiting(id) else { return };
        let step = Step::new(cursor, cluster);
        request.extra_mut().step = Some(step);
        request.state = State::Whole(part_at(index, step.slot()));
        let mut command = self.buffers.take();
        step.write_command(frame, &mut command);
        self.send(SubRequestId { request: id, part: 0 }, &command, now);
        self.buffers.recycle(command);
    }
}

fn part_at(cluster: usize, slot: Slot) -> Part {
    Part::at(Place { cluster, slot }, ReadPolicy::Master)
}

/// How many entries SLOWLOG GET wants: 10 unless it says so, all if it says -1. What is no number
/// the nodes refuse.
fn wanted(count: Option<&[u8]>) -> u64 {
    const DEFAULT: u64 = 10;
    let Some(count) = count else { return DEFAULT };
    parse_decimal(count).and_then(|count| u64::try_from(count).ok()).unwrap_or(u64::MAX)
}
