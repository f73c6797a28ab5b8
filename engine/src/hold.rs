//! Commands that cannot be sent now: no topology yet, no connection, or a node that said "not now".

use std::collections::VecDeque;

use crate::request::SubRequestId;
use crate::time::Instant;

/// A waiting room in order of arrival. It is emptied all at once, so that commands leave it in the
/// order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    queue: VecDeque<Held>,
    bytes: usize,
    release_at: Option<Instant>,
}

/// A command that waits, with its own copy of its bytes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) sub_request: SubRequestId,
    pub(crate) command: Vec<u8>,
}

impl Hold {
    pub(crate) fn push(&mut self, held: Held) {
        self.bytes = self.bytes.saturating_add(held.command.len());
        self.queue.push_back(held);
    }

    /// Takes everybody out; whoever still cannot go is to be pushed again.
    pub(crate) fn take_all(&mut self) -> VecDeque<Held> {
        self.bytes = 0;
        self.release_at = None;
        std::mem::take(&mut self.queue)
    }

    /// Bytes of all commands that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets everybody try again at `at`, if that is not to happen earlier anyway.
    pub(crate) fn release_at(&mut self, at: Instant) {
        self.release_at = Some(self.release_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When to try again; `None` when nobody waits.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.release_at.filter(|_| !self.queue.is_empty())
    }
}
