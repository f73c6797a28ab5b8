//! When the time of requests is up.

use std::collections::{BTreeSet, VecDeque};

use crate::ids::RequestId;
use crate::time::Instant;

/// So many entries of requests that have left are kept in any case.
const KEPT_ENTRIES: usize = 64;

/// Where a request waits for its time to be up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Line {
    /// Nowhere: it may wait for as long as it takes.
    None,
    /// Among those that were read as soon as they came, or after all with an earlier deadline.
    Regular,
    /// Among those that have waited for others of their client before they were read.
    Late,
}

/// Requests in the order of their deadlines. Every request gets the same time, so for nearly all
/// that is the order in which they came; those that were read later than they came are sorted
/// apart.
///
/// Who leaves keeps its entry until that comes to the front, or such entries are the most.
/// Invariant: the front's request has not left.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    regular: VecDeque<(RequestId, Instant)>,
    /// Entries of `regular` whose request has not left.
    waiting: usize,
    late: BTreeSet<(Instant, RequestId)>,
}

impl Deadlines {
    /// The request whose time is up first, and its deadline.
    #[inline]
    pub(super) fn first(&self) -> Option<(RequestId, Instant)> {
        let regular = self.regular.front().copied();
        if self.late.is_empty() {
            return regular;
        }
        let late = self.late.first().map(|(deadline, id)| (*id, *deadline));
        regular.into_iter().chain(late).min_by_key(|(_, deadline)| *deadline)
    }

    /// Where a request with this deadline belongs.
    #[inline]
    pub(super) fn line_for(&self, deadline: Instant) -> Line {
        match self.regular.back() {
            Some((_, last)) if *last > deadline => Line::Late,
            _ => Line::Regular,
        }
    }

    /// A request waits from now on. `is_waiting` says of an entry whether its request still does.
    #[inline]
    pub(super) fn join(
        &mut self,
        id: RequestId,
        line: Line,
        deadline: Instant,
        is_waiting: impl Fn(&(RequestId, Instant)) -> bool,
    ) {
        match line {
            Line::None => {}
            Line::Regular => {
                self.waiting += 1;
                self.regular.push_back((id, deadline));
                if self.regular.len() > 2 * self.waiting + KEPT_ENTRIES {
                    self.regular.retain(is_waiting);
                }
            }
            Line::Late => self.join_late(id, deadline),
        }
    }

    /// A request that waited does so no longer, as `is_waiting` knows already.
    #[inline]
    pub(super) fn leave(
        &mut self,
        id: RequestId,
        line: Line,
        deadline: Instant,
        is_waiting: impl Fn(&(RequestId, Instant)) -> bool,
    ) {
        match line {
            Line::None => {}
            Line::Regular => {
                self.waiting = self.waiting.saturating_sub(1);
                if self.regular.front().is_some_and(|(front, _)| *front == id) {
                    self.regular.pop_front();
                    while self.regular.front().is_some_and(|front| !is_waiting(front)) {
                        self.regular.pop_front();
                    }
                }
            }
            Line::Late => self.leave_late(id, deadline),
        }
    }

    /// Entries that are kept, for tests.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.regular.len() + self.late.len()
    }

    #[cold]
    fn join_late(&mut self, id: RequestId, deadline: Instant) {
        self.late.insert((deadline, id));
    }

    #[cold]
    fn leave_late(&mut self, id: RequestId, deadline: Instant) {
        self.late.remove(&(deadline, id));
    }
}
