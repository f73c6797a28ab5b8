//! Commands that cannot be sent now: no topology yet, no connection, or a node that said "not now".

use std::collections::VecDeque;

use crate::budget::ByteBudget;
use crate::ids::PartId;
use crate::time::Instant;

/// Commands in order of arrival. It is emptied all at once, so that they leave it in that order.
#[derive(Debug)]
pub(super) struct Hold {
    queue: VecDeque<Held>,
    budget: ByteBudget,
    release_at: Option<Instant>,
}

/// A command that waits, with its own copy of its bytes.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) part: PartId,
    pub(crate) command: Vec<u8>,
}

impl Hold {
    /// Holds no more than the budget allows.
    pub(super) fn new(budget: ByteBudget) -> Self {
        Self { queue: VecDeque::new(), budget, release_at: None }
    }

    /// Whether so many bytes more may wait.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.budget.has_room(bytes)
    }

    /// Keeps a command, to be tried again at `release_at` at the latest.
    pub(super) fn push(&mut self, held: Held, release_at: Instant) {
        self.budget.take(held.command.len());
        self.queue.push_back(held);
        self.release_at = Some(self.release_at.map_or(release_at, |at| at.min(release_at)));
    }

    /// Takes all out; what still cannot go is to be pushed again.
    pub(super) fn take_all(&mut self) -> VecDeque<Held> {
        self.budget.give_back(self.budget.used());
        self.release_at = None;
        std::mem::take(&mut self.queue)
    }

    /// Bytes of all commands that wait.
    pub(super) fn bytes(&self) -> usize {
        self.budget.used()
    }

    /// When to try again; `None` when nothing waits.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.release_at.filter(|_| !self.queue.is_empty())
    }

    /// Panics if the count is wrong: for tests.
    pub(super) fn check_invariants(&self) {
        let bytes: usize = self.queue.iter().map(|held| held.command.len()).sum();
        assert_eq!(bytes, self.budget.used());
    }
}
