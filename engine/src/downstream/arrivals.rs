//! When bytes came that a client has to wait with: a command's time runs from then, not from when
//! it is read.

use std::collections::VecDeque;
use std::time::Duration;

use crate::time::Instant;

/// `op_timeout` is told apart in so many steps: a command's time is up early by one at most.
const STEPS: u32 = 32;

/// The arrivals of a session's unread bytes, in their order.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    chunks: VecDeque<Chunk>,
    /// Bytes in all of `chunks`.
    len: usize,
}

#[derive(Debug)]
struct Chunk {
    came: Instant,
    len: usize,
}

impl Arrivals {
    /// What of `len` unread bytes is not known yet has come now.
    #[cold]
    pub(crate) fn note(&mut self, len: usize, op_timeout: Duration, now: Instant) {
        let new = len.saturating_sub(self.len);
        if new == 0 {
            return;
        }
        self.len = len;
        match self.chunks.back_mut() {
            Some(last) if now < last.came + op_timeout / STEPS => last.len += new,
            _ => self.chunks.push_back(Chunk { came: now, len: new }),
        }
        // The two oldest are so old that it does not matter any more how old.
        if self.chunks.len() > STEPS as usize + 2
            && let Some(oldest) = self.chunks.pop_front()
            && let Some(next) = self.chunks.front_mut()
        {
            next.len += oldest.len;
        }
    }

    /// When the last of the first `len` bytes came; `None` if nothing is known of it.
    #[cold]
    pub(crate) fn of(&self, len: usize) -> Option<Instant> {
        let mut end = 0;
        let chunk = self.chunks.iter().find(|chunk| {
            end += chunk.len;
            end >= len
        });
        Some(chunk?.came)
    }

    /// The first `len` bytes have been read.
    #[cold]
    pub(crate) fn take(&mut self, mut len: usize) {
        self.len = self.len.saturating_sub(len);
        while let Some(first) = self.chunks.front_mut() {
            if first.len > len {
                first.len -= len;
                return;
            }
            len -= first.len;
            self.chunks.pop_front();
        }
    }

    /// All unread bytes count as if they came now: what was before them was allowed to take its
    /// time.
    pub(crate) fn renew(&mut self, now: Instant) {
        let len = self.len;
        self.clear();
        if len > 0 {
            self.len = len;
            self.chunks.push_back(Chunk { came: now, len });
        }
    }

    /// Nothing is unread but what is still to be completed.
    pub(crate) fn clear(&mut self) {
        self.chunks.clear();
        self.len = 0;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP_TIMEOUT: Duration = Duration::from_millis(3200);

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    #[test]
    fn a_command_has_come_when_its_last_byte_has() {
        let mut arrivals = Arrivals::default();
        arrivals.note(10, OP_TIMEOUT, at(1000));
        arrivals.note(25, OP_TIMEOUT, at(2000));
        assert_eq!(arrivals.of(10), Some(at(1000)));
        assert_eq!(arrivals.of(11), Some(at(2000)));
        assert_eq!(arrivals.of(26), None);
        arrivals.take(8);
        assert_eq!(arrivals.of(2), Some(at(1000)));
        arrivals.take(5);
        assert_eq!(arrivals.of(1), Some(at(2000)));
        arrivals.note(20, OP_TIMEOUT, at(3000));
        assert_eq!(arrivals.of(12), Some(at(2000)));
        assert_eq!(arrivals.of(13), Some(at(3000)));
        arrivals.renew(at(4000));
        assert_eq!(arrivals.of(20), Some(at(4000)));
        assert_eq!(arrivals.of(21), None);
        arrivals.clear();
        assert!(arrivals.is_empty());
    }

    #[test]
    fn a_client_that_dribbles_for_long_is_kept_few_books_of() {
        let mut arrivals = Arrivals::default();
        for millis in 0..100_000 {
            arrivals.note(millis as usize + 1, OP_TIMEOUT, at(millis));
            assert!(arrivals.chunks.len() <= STEPS as usize + 2);
        }
        let now = 99_999;
        for ago in [1, 50, 1000, 3000] {
            let came = arrivals.of(now + 1 - ago).unwrap();
            let told = at(now as u64).saturating_duration_since(came).as_millis() as usize;
            assert!((ago..=ago + 100).contains(&told), "{told} ms instead of {ago}");
        }
        let oldest = at(now as u64).saturating_duration_since(arrivals.of(1).unwrap());
        assert!(oldest >= OP_TIMEOUT, "{oldest:?}");
    }
}
