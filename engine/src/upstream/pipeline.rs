//! What was sent on one connection and whose reply comes next.

use std::collections::VecDeque;
use std::ops::Range;

use crate::ids::PartId;
use crate::stats::Tally;

/// The FIFO of one upstream connection, together with the bytes it has sent.
///
/// The bytes of a command stay in `window` until its reply has come, because a redirection or a
/// lost connection may want them again. That costs no copy: they had to be put there to be sent.
///
/// ```text
///            answered        sent, unanswered          to be sent
/// window  [ ............ | cmd 1 | cmd 2 | cmd 3 | ASKING | cmd 4 ]
///                        ^ base                  ^ written        ^ end
/// queue                    [1, 2, 3, Asking, 4]
/// ```
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    window: Vec<u8>,
    /// Where the bytes of the queue's front start.
    base: usize,
    /// What has been handed to the host. Invariant: `base <= written <= window.len()`.
    written: usize,
    /// Nothing behind it is written for the time being.
    gate: Option<usize>,
    queue: VecDeque<Sent>,
}

/// One command whose reply is still to come.
#[derive(Debug)]
struct Sent {
    expect: Expect,
    /// Length of the command in the window.
    len: usize,
    /// Replies that are still to come: one, but for a transaction.
    replies: u32,
    /// What it is counted as, where commands are counted one by one.
    tally: Option<Tally>,
}

/// What to do with a reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Expect {
    /// A reply from which there is nothing to learn: to ASKING, whose command has its own, or to
    /// READONLY, which a primary or a standalone server may well refuse.
    Nothing,
    /// The reply to INFO, in which Valkey names its zone.
    Zone,
    /// The reply to AUTH.
    Login,
    /// The reply to SELECT.
    Database,
    /// The reply to the EXEC of an empty transaction: whether the user may have one with commands.
    Permit,
    /// The reply to HELLO, which says which version of Redis answers.
    Hello,
    /// The reply to CLUSTER MYID, which says which node answers.
    NodeId,
    /// The reply to CLUSTER SLOTS of a node that no topology has named yet: it has to name one that
    /// is known.
    Membership,
    /// The reply to CLUSTER INFO, which says how much the node has heard.
    Epoch,
    /// The reply to CLUSTER SLOTS.
    Topology,
    /// The reply to ROLE.
    Role,
    /// The confirmation of a subscription, or of its end.
    Subscription,
    /// The reply to CLIENT ID.
    ClientId,
    /// The reply to CLIENT TRACKING.
    Tracking,
    /// The reply to a client's command, or to a part of it.
    Part(PartId),
}

/// A command that has left the pipeline.
#[derive(Debug)]
pub(crate) struct Popped {
    pub(crate) expect: Expect,
    /// The command's bytes, valid until the next push: see [`Pipeline::bytes`].
    pub(crate) range: Range<usize>,
    /// Whether all of it had been handed to the host.
    pub(crate) written: bool,
    /// What it is counted as, where commands are counted one by one.
    pub(crate) tally: Option<Tally>,
}

/// An emptied window with more room than this is freed rather than kept.
const KEPT_CAPACITY: usize = 256 * 1024;

impl Pipeline {
    /// Appends a command; its reply is the next one after those already expected.
    pub(crate) fn push(&mut self, expect: Expect, command: &[u8]) {
        self.push_unit(expect, command, 1, None);
    }

    /// Appends commands that stay together, such as a transaction. They are one entry, which the
    /// last of their `replies` takes out.
    #[inline]
    pub(crate) fn push_unit(
        &mut self,
        expect: Expect,
        commands: &[u8],
        replies: u32,
        tally: Option<Tally>,
    ) {
        self.make_room(commands.len());
        self.window.extend_from_slice(commands);
        self.queue.push_back(Sent { expect, len: commands.len(), replies, tally });
    }

    /// Counts a reply that is not the last to the oldest entry, and says what that is. `None`: the
    /// reply is the last, or to nothing, and [`Self::pop`] takes the entry out.
    pub(crate) fn count_earlier_reply(&mut self) -> Option<Expect> {
        let sent = self.queue.front_mut().filter(|sent| sent.replies > 1)?;
        sent.replies -= 1;
        Some(sent.expect)
    }

    /// Takes the oldest command out, because its reply has come or never will.
    pub(crate) fn pop(&mut self) -> Option<Popped> {
        let Sent { expect, len, tally, .. } = self.queue.pop_front()?;
        let range = self.base..self.base.saturating_add(len);
        self.base = range.end;
        let written = range.end <= self.written;
        Some(Popped { expect, range, written, tally })
    }

    /// The bytes of the oldest command.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        let end = self.base.saturating_add(self.queue.front()?.len);
        self.window.get(self.base..end)
    }

    /// The part whose only or last reply comes next.
    pub(crate) fn front_part(&self) -> Option<PartId> {
        let sent = self.queue.front().filter(|sent| sent.replies == 1 && self.is_reply_due())?;
        match sent.expect {
            Expect::Part(part) => Some(part),
            _ => None,
        }
    }

    /// The bytes of a command just popped.
    pub(crate) fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.window.get(range).unwrap_or_default()
    }

    /// Lets nothing be written, until [`Self::open_gate`], that is not there yet.
    pub(crate) fn close_gate(&mut self) {
        self.gate = Some(self.window.len());
    }

    /// Lets everything be written. Returns whether it could not before.
    pub(crate) fn open_gate(&mut self) -> bool {
        self.gate.take().is_some()
    }

    /// Whether everything may be written.
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_none()
    }

    /// Whether the next reply is to something before the gate.
    pub(crate) fn is_before_gate(&self) -> bool {
        self.gate.is_some_and(|gate| self.base < gate)
    }

    /// Whether the oldest command has been written, so that a reply can be one to it.
    pub(crate) fn is_reply_due(&self) -> bool {
        let end = |sent: &Sent| self.base.saturating_add(sent.len);
        self.queue.front().is_some_and(|sent| end(sent) <= self.written)
    }

    /// Whether there is something for [`Self::take_unwritten`].
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written.max(self.base) < self.writable()
    }

    /// What is to be handed to the host now; counts as written from then on.
    pub(crate) fn take_unwritten(&mut self) -> &[u8] {
        let start = self.written.max(self.base);
        self.written = self.writable();
        self.window.get(start..self.written).unwrap_or_default()
    }

    /// Whether no reply is expected.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a reply of this kind is still to come.
    pub(crate) fn expects(&self, expect: Expect) -> bool {
        self.queue.iter().any(|sent| sent.expect == expect)
    }

    /// Commands whose reply is still to come.
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of commands without a reply.
    pub(crate) fn unanswered_bytes(&self) -> usize {
        self.window.len().saturating_sub(self.base)
    }

    /// What the newest command expects.
    pub(crate) fn back(&self) -> Option<Expect> {
        self.queue.back().map(|sent| sent.expect)
    }

    /// The clients' commands without a reply, in their order.
    pub(crate) fn parts(&self) -> impl Iterator<Item = PartId> {
        self.queue.iter().filter_map(|sent| match sent.expect {
            Expect::Part(part) => Some(part),
            _ => None,
        })
    }

    /// What all commands without a reply are counted as.
    pub(crate) fn tallies(&self) -> impl Iterator<Item = Tally> {
        self.queue.iter().filter_map(|sent| sent.tally)
    }

    /// Panics if the positions contradict each other: for tests.
    pub(crate) fn check_invariants(&self) {
        let queued: usize = self.queue.iter().map(|sent| sent.len).sum();
        assert_eq!(self.base + queued, self.window.len(), "the queue covers what is unanswered");
        assert!(self.written <= self.window.len());
        assert!(self.gate.is_none_or(|gate| gate <= self.window.len()));
    }

    /// Where the bytes end that may be written.
    fn writable(&self) -> usize {
        self.gate.unwrap_or(self.window.len())
    }

    /// Forgets answered bytes: all of them when nothing else is left, else when they are at least
    /// as many as those that have to be moved.
    fn make_room(&mut self, wanted: usize) {
        if self.base == self.window.len() && self.written == self.base {
            self.window.clear();
            if self.window.capacity() > KEPT_CAPACITY {
                self.window = Vec::new();
            }
        } else if self.window.capacity().saturating_sub(self.window.len()) < wanted
            && self.base >= self.window.len() / 2
        {
            self.window.drain(..self.base);
        } else {
            return;
        }
        self.written = self.written.saturating_sub(self.base);
        self.gate = self.gate.map(|gate| gate.saturating_sub(self.base));
        self.base = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pop(pipeline: &mut Pipeline) -> (Vec<u8>, bool) {
        let popped = pipeline.pop().unwrap();
        (pipeline.bytes(popped.range).to_vec(), popped.written)
    }

    #[test]
    fn commands_come_back_in_order_with_their_bytes() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Expect::Hello, b"hello");
        assert_eq!(pipeline.take_unwritten(), b"hello");
        pipeline.push(Expect::Nothing, b"asking");
        assert_eq!(pop(&mut pipeline), (b"hello".to_vec(), true));
        assert_eq!(pop(&mut pipeline), (b"asking".to_vec(), false));
        assert!(pipeline.pop().is_none());
    }

    #[test]
    fn a_unit_leaves_with_the_last_of_its_replies() {
        let mut pipeline = Pipeline::default();
        pipeline.push_unit(Expect::Nothing, b"multi get exec", 3, None);
        pipeline.push(Expect::Hello, b"hello");
        assert_eq!(pipeline.count_earlier_reply(), Some(Expect::Nothing));
        assert_eq!(pipeline.count_earlier_reply(), Some(Expect::Nothing));
        assert_eq!(pipeline.count_earlier_reply(), None);
        assert_eq!(pop(&mut pipeline), (b"multi get exec".to_vec(), false));
        assert_eq!(pipeline.count_earlier_reply(), None);
        assert_eq!(pop(&mut pipeline), (b"hello".to_vec(), false));
    }

    #[test]
    fn only_what_is_new_is_written() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Expect::Nothing, b"one");
        assert_eq!(pipeline.take_unwritten(), b"one");
        assert!(!pipeline.has_unwritten());
        pipeline.push(Expect::Nothing, b"two");
        pop(&mut pipeline);
        assert_eq!(pipeline.take_unwritten(), b"two");
        pop(&mut pipeline);
        pipeline.push(Expect::Nothing, b"three");
        assert_eq!(pipeline.take_unwritten(), b"three");
    }

    #[test]
    fn no_reply_is_due_to_what_was_not_written() {
        let mut pipeline = Pipeline::default();
        assert!(!pipeline.is_reply_due());
        pipeline.push(Expect::Nothing, b"one");
        assert!(!pipeline.is_reply_due());
        pipeline.take_unwritten();
        pipeline.push(Expect::Nothing, b"two");
        assert!(pipeline.is_reply_due());
        pop(&mut pipeline);
        assert!(!pipeline.is_reply_due());
        pop(&mut pipeline);
        assert!(!pipeline.has_unwritten(), "what left unwritten is not written");
    }

    #[test]
    fn nothing_behind_the_gate_is_written_before_it_opens() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Expect::Hello, b"hello");
        pipeline.close_gate();
        pipeline.push(Expect::Nothing, b"command");
        assert_eq!(pipeline.take_unwritten(), b"hello");
        assert!(!pipeline.has_unwritten());
        assert!(pipeline.is_before_gate());
        pop(&mut pipeline);
        assert!(!pipeline.is_before_gate());
        assert!(pipeline.open_gate());
        assert!(!pipeline.open_gate());
        assert_eq!(pipeline.take_unwritten(), b"command");
    }

    #[test]
    fn answered_bytes_are_forgotten_however_long_the_pipeline_runs() {
        let mut pipeline = Pipeline::default();
        let command = [b'x'; 100];
        for _ in 0..10 {
            pipeline.push(Expect::Nothing, &command);
        }
        // The pipeline is never empty.
        for _ in 0..10_000 {
            pipeline.push(Expect::Nothing, &command);
            pipeline.take_unwritten();
            assert_eq!(pop(&mut pipeline), (command.to_vec(), true));
            assert_eq!(pipeline.unanswered_bytes(), 1000);
        }
        assert!(pipeline.window.capacity() < 10_000, "{}", pipeline.window.capacity());
    }
}
