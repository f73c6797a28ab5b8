//! How much of the nodes' time a client may claim at once.
//!
//! Clients share connections, and a node answers in the order in which it was asked. So what one
//! client has under way stands before what others ask next. Each client has a window: its commands
//! under way may cost so much, and the next one is read when the window opens again. The cost of a
//! command is a number of bytes: its own, those of the reply that is expected, and a fixed part for
//! the work.
//!
//! All clients that claim much share one whole: the more there are, the smaller is the window of
//! each. While the whole is claimed, whoever comes has the least window. A client may always have
//! one command under way.

/// The cost that clients that claim much may have under way together. A node with its proxy moves
/// so many bytes in some milliseconds.
const WHOLE: u64 = 1024 * 1024;
/// The cost that every client may have under way. Below it a client does not claim much.
const LEAST: u64 = 64 * 1024;
/// The cost of a command's work: a node executes some thousand of them in the time in which it
/// moves [`WHOLE`] bytes.
const WORK: u64 = 256;

/// What all clients share.
#[derive(Debug)]
pub(super) struct Windows {
    /// The cost of all that is under way.
    used: u64,
    /// Clients that claim much.
    busy: u64,
    /// The window of each.
    share: u64,
    /// The size of replies lately: what is expected for a client that has got none.
    expected: u32,
    /// A client that waits has been answered.
    answered: bool,
}

/// What one client has under way.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// The cost of its commands under way.
    used: u64,
    /// The size of the replies that it gets; `None`: it has got none.
    expected: Option<u32>,
    /// So many bytes of the oldest reply have been handed over.
    relayed: u32,
    /// Its next command waits for the window to open.
    waits: bool,
}

impl Default for Windows {
    fn default() -> Self {
        Self { used: 0, busy: 0, share: WHOLE, expected: 0, answered: false }
    }
}

impl Windows {
    /// Whether the client's next command has to wait for those under way. If so, [`Self::opens`]
    /// says when it need not any more.
    #[inline]
    pub(super) fn is_full(&self, window: &mut Window) -> bool {
        let is_full = window.used >= LEAST && (window.used >= self.share || self.used >= WHOLE);
        window.waits = is_full;
        is_full
    }

    /// A command of `len` bytes begins. Returns what it costs.
    #[inline]
    pub(super) fn take(&mut self, window: &mut Window, len: usize) -> u32 {
        let expected = window.expected.unwrap_or(self.expected);
        let cost = WORK + len as u64 + u64::from(expected);
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        window.used += u64::from(cost);
        self.used += u64::from(cost);
        if window.used > LEAST && window.used - u64::from(cost) <= LEAST {
            self.set_busy(self.busy + 1);
        }
        cost
    }

    /// A command of this cost has been answered.
    #[inline]
    pub(super) fn give_back(&mut self, window: &mut Window, cost: u32) {
        self.release(window, u64::from(cost));
        self.answered |= window.waits;
    }

    /// Whether a client that waits has been answered, so that its window may open. Says so once.
    #[inline]
    pub(super) fn take_answered(&mut self) -> bool {
        std::mem::take(&mut self.answered)
    }

    /// Whether the client's next command has waited and need not any more. Says so once.
    #[inline]
    pub(super) fn opens(&self, window: &mut Window) -> bool {
        // Half of the window is read at a time, not one command.
        let opens = window.waits && window.used <= self.share / 2;
        window.waits &= !opens;
        opens
    }

    /// Notes how long a reply was, of which some may have been handed over before.
    #[inline]
    pub(super) fn learn(&mut self, window: &mut Window, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        let len = len.saturating_add(std::mem::take(&mut window.relayed));
        window.expected = Some(follow(window.expected.unwrap_or(len), len, 8));
        self.expected = follow(self.expected, len, 64);
    }

    /// The client has gone, or is not to be answered.
    pub(super) fn clear(&mut self, window: &mut Window) {
        self.release(window, window.used);
        *window = Window::default();
    }

    /// Panics if it does not agree with the clients' windows: for tests.
    pub(super) fn check<'a>(&self, windows: impl Iterator<Item = &'a Window>) {
        let (mut used, mut busy) = (0, 0);
        for window in windows {
            used += window.used;
            busy += u64::from(window.used > LEAST);
        }
        assert_eq!((used, busy), (self.used, self.busy), "what is under way");
    }

    /// So much of the cost is under way no longer.
    #[inline]
    fn release(&mut self, window: &mut Window, cost: u64) {
        let before = window.used;
        window.used = before.saturating_sub(cost);
        self.used = self.used.saturating_sub(cost);
        if before > LEAST && window.used <= LEAST {
            self.set_busy(self.busy.saturating_sub(1));
        }
    }

    #[cold]
    fn set_busy(&mut self, busy: u64) {
        self.busy = busy;
        self.share = (WHOLE / busy.max(1)).max(LEAST);
    }
}

impl Window {
    /// So many bytes of a reply have been handed over, and its end has not come.
    pub(super) fn note_relayed(&mut self, len: usize) {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        self.relayed = self.relayed.saturating_add(len);
    }

    /// The cost of what is under way.
    pub(super) fn used(&self) -> u64 {
        self.used
    }
}

/// An expectation that rises at once and falls slowly, by one part in so many.
#[inline]
fn follow(expected: u32, len: u32, parts: u32) -> u32 {
    match len.checked_sub(expected) {
        Some(_) => len,
        None => expected - (expected - len).div_ceil(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many commands a client sends at once whose replies were of this length.
    fn burst(windows: &mut Windows, window: &mut Window) -> Vec<u32> {
        let mut costs = Vec::new();
        while !windows.is_full(window) {
            costs.push(windows.take(window, 40));
        }
        costs
    }

    fn client(windows: &mut Windows, reply: usize) -> Window {
        let mut window = Window::default();
        windows.learn(&mut window, reply);
        window
    }

    #[test]
    fn a_client_alone_has_the_whole_and_several_share_it() {
        let mut windows = Windows::default();
        let mut first = client(&mut windows, 100_000);
        assert_eq!(burst(&mut windows, &mut first).len(), 11);
        let mut second = client(&mut windows, 100_000);
        assert_eq!(burst(&mut windows, &mut second).len(), 1, "the whole is claimed");
        windows.give_back(&mut first, 600_000);
        assert_eq!(burst(&mut windows, &mut second).len(), 5, "half of it");
        let mut others: Vec<_> = (0..98).map(|_| client(&mut windows, 100_000)).collect();
        let bursts = others.iter_mut().map(|window| burst(&mut windows, window).len());
        assert_eq!(bursts.last(), Some(1));
        windows.check([&first, &second].into_iter().chain(&others));
    }

    #[test]
    fn small_commands_of_many_clients_do_not_wait() {
        let mut windows = Windows::default();
        for _ in 0..500 {
            let mut window = client(&mut windows, 70);
            for _ in 0..128 {
                assert!(!windows.is_full(&mut window));
                windows.take(&mut window, 40);
            }
        }
    }

    #[test]
    fn the_next_command_is_read_when_half_of_the_window_is_free() {
        let mut windows = Windows::default();
        let mut window = client(&mut windows, 100_000);
        let costs = burst(&mut windows, &mut window);
        let opened = costs.into_iter().map(|cost| {
            windows.give_back(&mut window, cost);
            windows.opens(&mut window)
        });
        let opened: Vec<_> = opened.collect();
        assert_eq!(opened.iter().position(|opened| *opened), Some(5));
        assert_eq!(opened.iter().filter(|opened| **opened).count(), 1, "{opened:?}");
        assert_eq!(window.used(), 0);
    }

    #[test]
    fn what_is_expected_rises_at_once_and_falls_slowly() {
        let mut windows = Windows::default();
        let mut window = client(&mut windows, 10);
        window.note_relayed(60_000);
        windows.learn(&mut window, 40_000);
        assert_eq!(window.expected, Some(100_000));
        assert_eq!(burst(&mut windows, &mut Window::default()).len(), 11, "of one not known");
        for _ in 0..100 {
            windows.learn(&mut window, 10);
        }
        assert_eq!(window.expected, Some(10));
    }

    #[test]
    fn who_has_gone_takes_no_share() {
        let mut windows = Windows::default();
        let mut gone = client(&mut windows, 100_000);
        burst(&mut windows, &mut gone);
        windows.clear(&mut gone);
        windows.check([&gone].into_iter());
        let mut window = client(&mut windows, 100_000);
        assert_eq!(burst(&mut windows, &mut window).len(), 11);
    }
}
