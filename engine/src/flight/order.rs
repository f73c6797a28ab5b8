//! The order of one client's commands: that of their replies, and that in which commands for one
//! slot are executed.
//!
//! A standalone Redis executes a client's commands in their order. Here that holds because commands
//! for one slot follow each other down one connection; so while one of them is held, or may have
//! been sent to a node that no longer owns its slot, none may overtake it on another way.

use std::collections::VecDeque;

use crate::flight::Flight;
use crate::flight::request::{Part, Request, Stage};
use crate::flight::window::Window;
use crate::ids::{ConnectionId, PartId, RequestId, SessionId};

/// The commands of one client that are in flight.
#[derive(Debug, Default)]
pub(super) struct ClientQueue {
    /// In the order in which they are to be answered.
    pub(super) pending: VecDeque<RequestId>,
    /// Bytes of the commands in `pending`.
    pub(super) bytes: usize,
    /// How much more may be under way.
    pub(super) window: Window,
    /// The epoch of the slots' owners when the oldest command of `pending` was sent.
    pub(super) epoch: u64,
    /// No command may follow the last one of `pending` yet: that runs on a dedicated connection or
    /// on many nodes, or changes what the client hears of; or one of `pending` is not where the
    /// next would go, being held or sent elsewhere.
    pub(super) barrier: bool,
    /// The client is to be closed: no further command of it is read.
    pub(super) stopped: bool,
    /// One of `pending` may take as long as it likes: no time runs for what comes behind it.
    pub(super) untimed: bool,
}

impl ClientQueue {
    /// A command begins in this epoch.
    #[inline]
    pub(super) fn push(&mut self, id: RequestId, len: usize, epoch: u64) {
        if self.pending.is_empty() {
            self.epoch = epoch;
            self.untimed = false;
        }
        self.pending.push_back(id);
        self.bytes = self.bytes.saturating_add(len);
    }
}

impl Flight {
    /// Whether a later command of the same client for the same slot is under way.
    pub(crate) fn is_followed(&self, id: PartId) -> bool {
        let Some((queue, request, part)) = self.ordered(id) else { return false };
        let later = queue.pending.iter().rev().take_while(|other| **other != id.request);
        self.conflicting(request, part, later).any(|(_, stage)| matches!(stage, Stage::Sent(_)))
    }

    /// Whether a part would get ahead of an earlier command of its client for the same slot by this
    /// connection, because that one has gone another way or is held.
    pub(crate) fn would_overtake(&self, id: PartId, connection: ConnectionId) -> bool {
        let Some((queue, request, part)) = self.ordered(id) else { return false };
        let earlier = queue.pending.iter().take_while(|other| **other != id.request);
        self.conflicting(request, part, earlier).any(|(_, stage)| stage != Stage::Sent(connection))
    }

    /// A part has, or may have, been executed: the earlier ones of its client for the same slot
    /// that were to be sent again, and would now be executed in the wrong order.
    pub(crate) fn overtaken(&self, id: PartId) -> Vec<PartId> {
        let Some((queue, request, part)) = self.ordered(id) else { return Vec::new() };
        if !queue.barrier {
            return Vec::new();
        }
        let earlier = queue.pending.iter().take_while(|other| **other != id.request);
        let held = self.conflicting(request, part, earlier);
        held.filter(|(_, stage)| *stage == Stage::Held).map(|(held, _)| held).collect()
    }

    /// Whether any command of a client may have been overtaken.
    #[inline]
    pub(crate) fn has_barrier(&self, client: SessionId) -> bool {
        self.queue(client).is_some_and(|queue| queue.barrier)
    }

    /// A part with its client's other commands, if its order with them matters.
    fn ordered(&self, id: PartId) -> Option<(&ClientQueue, &Request, &Part)> {
        let request = self.requests.get(id.request)?;
        let queue = self.queue(request.client()?)?;
        let part = request.part(id.part).filter(|part| part.is_ordered())?;
        Some((queue, request, part))
    }

    /// What of `others` must keep its order with a part: what is for the same slot, unless both
    /// only read.
    fn conflicting<'a>(
        &'a self,
        request: &'a Request,
        part: &'a Part,
        others: impl Iterator<Item = &'a RequestId>,
    ) -> impl Iterator<Item = (PartId, Stage)> {
        let others = others.filter_map(|id| Some((*id, self.requests.get(*id)?)));
        let others = others.filter(|(_, other)| !(request.read_only && other.read_only));
        others.flat_map(|(request, other)| {
            let there = other.parts().filter(|(_, other)| part.conflicts(other));
            there.map(move |(part, other)| (PartId { request, part }, other.stage))
        })
    }
}
