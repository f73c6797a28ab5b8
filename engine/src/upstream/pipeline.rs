//! What was sent on one connection and whose reply comes next.

use std::collections::VecDeque;
use std::ops::Range;

use crate::ids::PartId;
use crate::stats::Tally;

/// The FIFO of one upstream connection, together with the bytes it has sent.
///
/// The bytes of a command stay here until its reply has come, because a redirection or a lost
/// connection may want them again. That costs no copy: they had to be put there to be sent.
///
/// ```text
///            answered        sent, unanswered          to be sent
/// window  [ ............ | cmd 1 | cmd 2 | cmd 3 | ASKING | cmd 4 ]
///                        ^ base                  ^ written        ^ end
/// queue                    [1, 2, 3, Asking, 4]
/// ```
///
/// A large command may keep the buffer in which it came. That is a segment of its own then, what is
/// in the window before it another one, and the window goes on behind both.
///
/// Positions count the bytes of the connection from its first one, so that they stay what they are
/// when answered bytes are forgotten.
#[derive(Debug, Default)]
pub(crate) struct Pipeline {
    /// The oldest first.
    segments: VecDeque<Segment>,
    window: Vec<u8>,
    /// The position at which the window starts.
    start: u64,
    /// Where the bytes of the queue's front start.
    base: u64,
    /// What has been handed to the host.
    written: u64,
    /// Nothing behind it is written for the time being.
    gate: Option<u64>,
    queue: VecDeque<Sent>,
}

/// Where a command's bytes are.
pub(crate) type Span = Range<u64>;

/// Bytes before the window. They end where the next segment starts, or the window.
#[derive(Debug)]
struct Segment {
    start: u64,
    bytes: Vec<u8>,
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
    pub(crate) range: Span,
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

    /// The same for `len` bytes whose buffer is not copied: [`Self::fill`] brings it, before anything
    /// is written.
    pub(crate) fn push_moved(
        &mut self,
        expect: Expect,
        len: usize,
        replies: u32,
        tally: Option<Tally>,
    ) {
        self.make_room(0);
        if !self.window.is_empty() {
            let (start, end) = (self.start, self.end());
            self.segments.push_back(Segment { start, bytes: std::mem::take(&mut self.window) });
            self.start = end;
        }
        self.segments.push_back(Segment { start: self.start, bytes: Vec::new() });
        self.start += len as u64;
        self.queue.push_back(Sent { expect, len, replies, tally });
    }

    /// Brings the bytes of the last [`Self::push_moved`].
    pub(crate) fn fill(&mut self, bytes: Vec<u8>) {
        if let Some(segment) = self.segments.back_mut() {
            segment.bytes = bytes;
        }
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
        let range = self.base..self.base + len as u64;
        self.base = range.end;
        let written = range.end <= self.written;
        Some(Popped { expect, range, written, tally })
    }

    /// Takes the oldest command out if it is a part whose only or last reply comes next.
    #[inline]
    pub(crate) fn pop_part(&mut self) -> Option<(PartId, Span, Option<Tally>)> {
        let sent = self.queue.front()?;
        let Expect::Part(part) = sent.expect else { return None };
        let (range, tally) = (self.base..self.base + sent.len as u64, sent.tally);
        if sent.replies != 1 || range.end > self.written {
            return None;
        }
        self.queue.pop_front();
        self.base = range.end;
        Some((part, range, tally))
    }

    /// The bytes of the oldest command.
    pub(crate) fn front(&self) -> Option<&[u8]> {
        let end = self.base + self.queue.front()?.len as u64;
        Some(self.bytes(self.base..end))
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
    #[inline]
    pub(crate) fn bytes(&self, range: Span) -> &[u8] {
        let (start, bytes) = match self.segment_of(range.start) {
            None => (self.start, &self.window),
            Some(segment) => (segment.start, &segment.bytes),
        };
        let offset = |position: u64| position.saturating_sub(start) as usize;
        bytes.get(offset(range.start)..offset(range.end)).unwrap_or_default()
    }

    /// Lets nothing be written, until [`Self::open_gate`], that is not there yet.
    pub(crate) fn close_gate(&mut self) {
        self.gate = Some(self.end());
    }

    /// Lets everything be written. Returns whether it could not before.
    pub(crate) fn open_gate(&mut self) -> bool {
        self.gate.take().is_some()
    }

    /// Whether everything may be written.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.gate.is_none()
    }

    /// Whether the next reply is to something before the gate.
    pub(crate) fn is_before_gate(&self) -> bool {
        self.gate.is_some_and(|gate| self.base < gate)
    }

    /// Whether the oldest command has been written, so that a reply can be one to it.
    #[inline]
    pub(crate) fn is_reply_due(&self) -> bool {
        let end = |sent: &Sent| self.base + sent.len as u64;
        self.queue.front().is_some_and(|sent| end(sent) <= self.written)
    }

    /// Whether there is something for [`Self::take_unwritten`].
    #[inline]
    pub(crate) fn has_unwritten(&self) -> bool {
        self.written.max(self.base) < self.writable()
    }

    /// Whether [`Self::take_unwritten`] gives only the first part of what is to be written.
    #[inline]
    pub(crate) fn is_unwritten_split(&self) -> bool {
        let first = self.written.max(self.base);
        first < self.start && self.segment_end(first) < self.writable()
    }

    /// What is to be handed to the host now; counts as written from then on.
    #[inline]
    pub(crate) fn take_unwritten(&mut self) -> &[u8] {
        let first = self.written.max(self.base);
        self.written = self.writable().min(self.segment_end(first));
        self.bytes(first..self.written)
    }

    /// Whether no reply is expected.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether a reply of this kind is still to come.
    pub(crate) fn expects(&self, expect: Expect) -> bool {
        self.queue.iter().any(|sent| sent.expect == expect)
    }

    /// Commands whose reply is still to come.
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of commands without a reply.
    #[inline]
    pub(crate) fn unanswered_bytes(&self) -> usize {
        self.end().saturating_sub(self.base) as usize
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
        assert_eq!(self.base + queued as u64, self.end(), "the queue covers what is unanswered");
        assert!(self.written <= self.end());
        assert!(self.gate.is_none_or(|gate| gate <= self.end()));
        let mut end = self.segments.front().map_or(self.start, |segment| segment.start);
        assert!(end <= self.base, "what is not answered is there");
        for segment in &self.segments {
            assert_eq!(segment.start, end, "segments follow each other");
            end += segment.bytes.len() as u64;
        }
        assert_eq!(end, self.start, "all segments have their bytes");
    }

    /// The position behind all bytes.
    #[inline]
    fn end(&self) -> u64 {
        self.start + self.window.len() as u64
    }

    /// Where the bytes end that may be written.
    #[inline]
    fn writable(&self) -> u64 {
        self.gate.unwrap_or_else(|| self.end())
    }

    /// The segment with this position; `None`: the window has it.
    #[inline]
    fn segment_of(&self, position: u64) -> Option<&Segment> {
        if position >= self.start {
            return None;
        }
        self.segments.iter().rev().find(|segment| segment.start <= position)
    }

    /// Where the segment ends that has this position, or the window.
    #[inline]
    fn segment_end(&self, position: u64) -> u64 {
        if position >= self.start {
            return self.end();
        }
        let next = self.segments.iter().find(|segment| segment.start > position);
        next.map_or(self.start, |segment| segment.start)
    }

    /// Forgets answered bytes: all of them when nothing else is left, else when they are at least
    /// as many as those that have to be moved.
    #[inline]
    fn make_room(&mut self, wanted: usize) {
        if self.base == self.end() && self.written == self.base {
            self.window.clear();
            self.start = self.base;
            if !self.segments.is_empty() || self.window.capacity() > KEPT_CAPACITY {
                self.give_back_room();
            }
        } else if !self.segments.is_empty() || self.window.capacity() - self.window.len() < wanted {
            self.drop_answered(wanted);
        }
    }

    /// Gives back what large commands have taken, or many.
    #[cold]
    fn give_back_room(&mut self) {
        self.segments.clear();
        if self.window.capacity() > KEPT_CAPACITY {
            self.window = Vec::new();
        }
    }

    #[cold]
    fn drop_answered(&mut self, wanted: usize) {
        while let Some(segment) = self.segments.front()
            && self.segment_end(segment.start) <= self.base
        {
            self.segments.pop_front();
        }
        let answered = self.base.saturating_sub(self.start) as usize;
        if self.segments.is_empty()
            && self.window.capacity() - self.window.len() < wanted
            && answered >= self.window.len() / 2
        {
            self.window.drain(..answered);
            self.start = self.base;
        }
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

    /// Everything that is to be written, write by write.
    fn writes(pipeline: &mut Pipeline) -> Vec<Vec<u8>> {
        let mut writes = Vec::new();
        while pipeline.has_unwritten() {
            let is_split = pipeline.is_unwritten_split();
            writes.push(pipeline.take_unwritten().to_vec());
            assert_eq!(is_split, pipeline.has_unwritten());
            pipeline.check_invariants();
        }
        writes
    }

    fn push_moved(pipeline: &mut Pipeline, bytes: &[u8]) -> *const u8 {
        let moved = bytes.to_vec();
        let address = moved.as_ptr();
        pipeline.push_moved(Expect::Nothing, moved.len(), 1, None);
        pipeline.fill(moved);
        pipeline.check_invariants();
        address
    }

    #[test]
    fn a_large_command_keeps_its_buffer_and_its_place() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Expect::Nothing, b"one");
        let address = push_moved(&mut pipeline, b"large");
        pipeline.push(Expect::Nothing, b"two");
        assert_eq!(pipeline.take_unwritten(), b"one");
        let large = pipeline.take_unwritten();
        assert_eq!((large, large.as_ptr()), (&b"large"[..], address));
        assert_eq!(writes(&mut pipeline), [b"two"]);
        assert_eq!(pop(&mut pipeline), (b"one".to_vec(), true));
        assert_eq!(pipeline.front(), Some(&b"large"[..]));
        assert_eq!(pop(&mut pipeline), (b"large".to_vec(), true));
        assert_eq!(pop(&mut pipeline), (b"two".to_vec(), true));
        assert_eq!(pipeline.unanswered_bytes(), 0);
    }

    #[test]
    fn what_was_taken_out_can_be_read_until_the_next_push() {
        let mut pipeline = Pipeline::default();
        push_moved(&mut pipeline, b"large");
        pipeline.push(Expect::Nothing, b"one");
        push_moved(&mut pipeline, b"larger");
        writes(&mut pipeline);
        let popped: Vec<_> = std::iter::from_fn(|| pipeline.pop()).map(|one| one.range).collect();
        let bytes: Vec<_> = popped.into_iter().map(|range| pipeline.bytes(range)).collect();
        assert_eq!(bytes, [&b"large"[..], b"one", b"larger"]);
        pipeline.push(Expect::Nothing, b"two");
        pipeline.check_invariants();
        assert!(pipeline.segments.is_empty());
        assert_eq!(writes(&mut pipeline), [b"two"]);
    }

    #[test]
    fn a_large_command_behind_the_gate_waits() {
        let mut pipeline = Pipeline::default();
        pipeline.push(Expect::Hello, b"hello");
        pipeline.close_gate();
        push_moved(&mut pipeline, b"large");
        assert_eq!(writes(&mut pipeline), [b"hello"]);
        assert!(pipeline.is_before_gate());
        pop(&mut pipeline);
        assert!(!pipeline.is_before_gate());
        assert!(pipeline.open_gate());
        assert_eq!(writes(&mut pipeline), [b"large"]);
    }

    #[test]
    fn commands_of_any_size_come_back_in_order_however_long_the_pipeline_runs() {
        let mut pipeline = Pipeline::default();
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut sent, mut written) = (VecDeque::new(), Vec::new());
        let (mut pushed, mut total) = (Vec::new(), 0);
        for number in 0..20_000_u32 {
            let command = number.to_string().repeat(rng.usize(1..20)).into_bytes();
            match rng.u32(..4) {
                0 => drop(push_moved(&mut pipeline, &command)),
                _ => pipeline.push(Expect::Nothing, &command),
            }
            pushed.extend_from_slice(&command);
            total += command.len();
            sent.push_back(command);
            if rng.bool() {
                written.extend(writes(&mut pipeline).concat());
            }
            while sent.len() > rng.usize(1..30) && pipeline.is_reply_due() {
                let command = sent.pop_front().unwrap();
                total -= command.len();
                assert_eq!(pop(&mut pipeline), (command, true));
            }
            assert_eq!(pipeline.unanswered_bytes(), total);
            pipeline.check_invariants();
        }
        written.extend(writes(&mut pipeline).concat());
        assert!(written == pushed);
        assert!(pipeline.window.capacity() < 100_000, "{}", pipeline.window.capacity());
    }
}
