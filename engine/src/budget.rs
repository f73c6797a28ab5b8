//! Counts of bytes that are kept, each within a bound. They cannot wrap: what is given back was
//! taken before.
//!
//! Parts of the proxy that keep bytes for clients share one [`Memory`]. Each part may keep some
//! bytes, its reserve, whatever the others keep. What it keeps beyond that is taken from the
//! memory. So whoever uses up one bound does not use up the others.

use std::cell::Cell;
use std::rc::Rc;

/// Bytes that several budgets share.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    taken: Rc<Cell<usize>>,
    limit: usize,
}

/// Bytes that are kept, and how many may be.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    used: usize,
    limit: usize,
    /// The first bytes, which are not taken from the memory.
    reserve: usize,
    memory: Option<Memory>,
}

impl Memory {
    /// So many bytes, all free.
    pub(crate) fn new(limit: usize) -> Self {
        Self { taken: Rc::default(), limit }
    }

    /// Bytes that budgets have taken.
    pub(crate) fn taken(&self) -> usize {
        self.taken.get()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.taken.get().saturating_add(bytes) <= self.limit
    }

    fn replace(&self, before: usize, now: usize) {
        debug_assert!(before <= self.taken.get(), "{before} bytes given back of {self:?}");
        self.taken.set(self.taken.get().saturating_sub(before).saturating_add(now));
    }
}

impl ByteBudget {
    /// A budget that shares nothing.
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: 0, limit, reserve: usize::MAX, memory: None }
    }

    /// A budget that takes from `memory` what it keeps beyond `reserve`.
    pub(crate) fn within(memory: &Memory, reserve: usize, limit: usize) -> Self {
        Self { used: 0, limit, reserve, memory: Some(memory.clone()) }
    }

    /// Whether so many bytes more are within the bound.
    #[inline]
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        let used = self.used.saturating_add(bytes);
        used <= self.limit && (used <= self.reserve || self.memory_has_room(used))
    }

    /// Whether more is kept than may be.
    #[inline]
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used > self.limit || (self.used > self.reserve && !self.memory_has_room(self.used))
    }

    /// Counts bytes that are kept from now on.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) {
        // Nothing, most often.
        if bytes > 0 {
            self.set(self.used.saturating_add(bytes));
        }
    }

    /// Counts bytes that are kept no longer.
    #[inline]
    pub(crate) fn give_back(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "{bytes} bytes given back of {}", self.used);
        if bytes > 0 {
            self.set(self.used.saturating_sub(bytes));
        }
    }

    /// Counts `now` bytes in the place of `before`.
    #[inline]
    pub(crate) fn replace(&mut self, before: usize, now: usize) {
        debug_assert!(before <= self.used, "{before} bytes given back of {}", self.used);
        self.set(self.used.saturating_sub(before).saturating_add(now));
    }

    /// How many bytes may be kept.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are kept.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    #[inline]
    fn set(&mut self, used: usize) {
        let before = std::mem::replace(&mut self.used, used);
        if before.max(used) > self.reserve {
            self.set_shared(before, used);
        }
    }

    /// Takes from the memory what is beyond the reserve.
    #[cold]
    fn set_shared(&self, before: usize, used: usize) {
        if let Some(memory) = &self.memory {
            memory.replace(self.shared(before), self.shared(used));
        }
    }

    #[cold]
    fn memory_has_room(&self, used: usize) -> bool {
        let more = self.shared(used).saturating_sub(self.shared(self.used));
        self.memory.as_ref().is_none_or(|memory| memory.has_room(more))
    }

    fn shared(&self, used: usize) -> usize {
        used.saturating_sub(self.reserve)
    }
}

impl Drop for ByteBudget {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_has_room_up_to_its_limit() {
        let mut budget = ByteBudget::new(10);
        assert!(budget.has_room(10) && !budget.has_room(11) && !budget.has_room(usize::MAX));
        budget.take(7);
        assert!(budget.has_room(3) && !budget.has_room(4));
        budget.replace(7, 12);
        assert!(budget.is_exceeded());
        budget.give_back(2);
        assert!(!budget.is_exceeded() && !budget.has_room(1));
        assert_eq!(budget.used(), 10);
    }

    #[test]
    fn budgets_share_a_memory_and_each_has_its_reserve() {
        let memory = Memory::new(100);
        let [mut first, mut second] = [(); 2].map(|()| ByteBudget::within(&memory, 10, 80));
        first.take(80);
        assert_eq!(memory.taken(), 70);
        assert!(second.has_room(40) && !second.has_room(41));
        second.take(41);
        assert!(first.is_exceeded() && second.is_exceeded(), "both keep more than their reserve");
        first.give_back(71);
        assert!(!first.is_exceeded() && !second.is_exceeded());
        second.take(1_000);
        assert!(first.has_room(1) && !first.has_room(2), "the reserve is there all the same");
        assert!(!first.is_exceeded() && second.is_exceeded());
        drop(second);
        assert_eq!(memory.taken(), 0);
    }
}
