//! Counts of bytes that are kept, each within a bound. They cannot wrap: what is given back was
//! taken before.

/// Bytes that are kept, and how many may be.
#[derive(Debug)]
pub(crate) struct ByteBudget {
    used: usize,
    limit: usize,
}

impl ByteBudget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: 0, limit }
    }

    /// Whether so many bytes more are within the bound.
    #[inline]
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.used.saturating_add(bytes) <= self.limit
    }

    /// Whether more is kept than may be.
    #[inline]
    pub(crate) fn is_exceeded(&self) -> bool {
        self.used > self.limit
    }

    /// Counts bytes that are kept from now on.
    #[inline]
    pub(crate) fn take(&mut self, bytes: usize) {
        self.used = self.used.saturating_add(bytes);
    }

    /// Counts bytes that are kept no longer.
    #[inline]
    pub(crate) fn give_back(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.used, "{bytes} bytes given back of {}", self.used);
        self.used = self.used.saturating_sub(bytes);
    }

    /// Counts `now` bytes in the place of `before`.
    #[inline]
    pub(crate) fn replace(&mut self, before: usize, now: usize) {
        self.give_back(before);
        self.take(now);
    }

    /// How many bytes may be kept.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are kept.
    pub(crate) fn used(&self) -> usize {
        self.used
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
}
