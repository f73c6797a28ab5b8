//! What may happen once in a while only, such as a warning.

use std::time::Duration;

use crate::time::Instant;

/// Allows something once in each pause.
#[derive(Debug)]
pub(crate) struct Throttle {
    pause: Duration,
    /// Nothing is allowed before.
    next: Instant,
}

impl Throttle {
    /// Allows the first one at once.
    pub(crate) fn new(pause: Duration) -> Self {
        Self { pause, next: Instant::default() }
    }

    /// Whether it may happen now. Not again for the pause, if so.
    pub(crate) fn allows(&mut self, now: Instant) -> bool {
        let is_allowed = now >= self.next;
        if is_allowed {
            self.next = now + self.pause;
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_allowed_in_each_pause() {
        let mut throttle = Throttle::new(Duration::from_secs(10));
        let at = |seconds| Instant::default() + Duration::from_secs(seconds);
        let allowed = [0, 1, 9, 10, 11, 25, 30].map(|seconds| throttle.allows(at(seconds)));
        assert_eq!(allowed, [true, false, false, true, false, true, false]);
    }
}
