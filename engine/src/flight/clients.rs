//! What is known of each client: which commands it waits for, and whether it may send more.

use std::collections::VecDeque;

use crate::flight::Flight;
use crate::flight::order::ClientQueue;
use crate::flight::request::Request;
use crate::ids::{RequestId, SessionId};

impl Flight {
    /// A client may have commands from now on.
    pub(crate) fn open(&mut self, client: SessionId) {
        if client.index() >= self.queues.len() {
            self.queues.resize_with(client.index() + 1, || None);
        }
        if let Some(queue) = self.queues.get_mut(client.index()) {
            *queue = Some((client, ClientQueue::default()));
        }
    }

    /// A client will have no further commands.
    pub(crate) fn close(&mut self, client: SessionId) {
        let Some((windows, queue)) = self.windowed(client) else { return };
        windows.clear(&mut queue.window);
        if let Some(queue) = self.queues.get_mut(client.index()) {
            *queue = None;
        }
    }

    /// No further command of a client is read.
    pub(crate) fn stop(&mut self, client: SessionId) {
        if let Some(queue) = self.queue_mut(client) {
            queue.stopped = true;
        }
    }

    /// Takes out all commands of a client: nobody is to be answered.
    pub(crate) fn take_pending(&mut self, client: SessionId) -> VecDeque<RequestId> {
        let Some((windows, queue)) = self.windowed(client) else { return VecDeque::new() };
        windows.clear(&mut queue.window);
        queue.bytes = 0;
        std::mem::take(&mut queue.pending)
    }

    /// Whether the client's next command has to wait until those before it are answered.
    #[inline]
    pub(crate) fn must_wait(&mut self, client: SessionId, epoch: u64) -> bool {
        let (requests, bytes) = (self.client_requests, self.client_bytes);
        let Some((windows, queue)) = self.windowed(client) else { return true };
        let wait = queue.stopped
            || !queue.pending.is_empty()
                && (queue.barrier
                    || queue.epoch != epoch
                    || queue.pending.len() >= requests
                    || queue.bytes >= bytes
                    || windows.is_full(&mut queue.window));
        queue.barrier &= wait;
        wait
    }

    /// Whether nothing is owed to the client.
    #[inline]
    pub(crate) fn is_idle(&self, client: SessionId) -> bool {
        self.queue(client).is_none_or(|queue| queue.pending.is_empty())
    }

    /// How many commands of a client wait for their replies, or for their turn to be answered.
    pub(crate) fn pending(&self, client: SessionId) -> usize {
        self.queue(client).map_or(0, |queue| queue.pending.len())
    }

    /// The command of a client that is to be answered first.
    #[inline]
    pub(crate) fn first(&self, client: SessionId) -> Option<RequestId> {
        self.queue(client)?.pending.front().copied()
    }

    /// The command of a client that is to be answered last.
    pub(crate) fn last(&self, client: SessionId) -> Option<(RequestId, &Request)> {
        let last = *self.queue(client)?.pending.back()?;
        Some((last, self.requests.get(last)?))
    }

    /// Lets no command follow those of the client until they are answered.
    pub(crate) fn set_barrier(&mut self, client: SessionId) {
        if let Some(queue) = self.queue_mut(client) {
            queue.barrier = true;
        }
    }

    /// A command of the client may take as long as it likes.
    pub(crate) fn set_untimed(&mut self, client: SessionId) {
        if let Some(queue) = self.queue_mut(client) {
            queue.untimed = true;
        }
    }

    /// Whether one of the commands that the client waited for could take as long as it liked. Says
    /// so once.
    pub(crate) fn take_untimed(&mut self, client: SessionId) -> bool {
        self.queue_mut(client).is_some_and(|queue| std::mem::take(&mut queue.untimed))
    }

    /// Some of the reply to the first command of a client has been handed over.
    pub(crate) fn note_relayed(&mut self, client: SessionId, len: usize) {
        if let Some(queue) = self.queue_mut(client) {
            queue.window.note_relayed(len);
        }
    }

    /// Whether the client's next command has waited for its window to open, and need not any more.
    /// Says so once. If those before it were answered in time, no time has run for it.
    #[inline]
    pub(crate) fn window_opens(&mut self, client: SessionId, in_time: bool) -> bool {
        if !self.windows.take_answered() {
            return false;
        }
        let Some((windows, queue)) = self.windowed(client) else { return false };
        let opens = windows.opens(&mut queue.window);
        queue.untimed |= opens && in_time;
        opens
    }

    /// Unanswered commands, and their bytes, of the client that has most of each.
    pub(crate) fn most_pending(&self) -> (usize, usize) {
        let queues = || self.queues.iter().flatten().map(|(_, queue)| queue);
        let requests = queues().map(|queue| queue.pending.len()).max();
        let bytes = queues().map(|queue| queue.bytes).max();
        (requests.unwrap_or_default(), bytes.unwrap_or_default())
    }

    /// Commands of all clients that are in flight.
    pub(crate) fn all_pending(&self) -> usize {
        self.queues.iter().flatten().map(|(_, queue)| queue.pending.len()).sum()
    }

    /// The client for which most bytes of replies wait.
    pub(crate) fn largest_waiting(&self) -> Option<(SessionId, usize)> {
        let kept = |queue: &ClientQueue| -> usize {
            let requests = queue.pending.iter().filter_map(|id| self.requests.get(*id));
            requests.map(Request::reply_bytes).sum()
        };
        let clients = self.queues.iter().flatten().map(|(client, queue)| (*client, kept(queue)));
        clients.max_by_key(|(_, bytes)| *bytes).filter(|(_, bytes)| *bytes > 0)
    }
}
