//! Commands in flight: what they are, how far they have come, in which order they are answered, and
//! when their time is up.
//!
//! Nothing here knows of connections' bytes or clients' buffers: who sends and delivers is
//! [`crate::exchange`].

mod clients;
mod deadlines;
mod hold;
mod info;
mod join;
mod order;
mod request;
mod split;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use deadlines::{Deadlines, Line};
pub(crate) use hold::Held;
use hold::Hold;
use order::ClientQueue;
pub(crate) use request::{Completion, ConnectionClass, Owner, Part, Request, Spread, Stage, State};
pub(crate) use split::{Plan, Split};
use window::Windows;

use crate::arena::Arena;
use crate::budget::{ByteBudget, Memory};
use crate::config::Limits;
use crate::ids::{self, ConnectionId, PartId, RequestId, SessionId};
use crate::target::SendMode;
use crate::time::Instant;
use crate::transaction::Exec;

/// Whether it is a command's turn to be answered, and what comes behind it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Turn {
    /// Others of its client are answered before.
    Later,
    /// It was the last one of its client.
    Last,
    /// The reply to the next one is there already.
    NextAnswered,
    /// The next one waits for its reply.
    NextWaits,
}

/// All commands in flight.
#[derive(Debug)]
pub(crate) struct Flight {
    requests: Arena<ids::Request, Request>,
    /// By the index of the client's key.
    queues: Vec<Option<(SessionId, ClientQueue)>>,
    windows: Windows,
    deadlines: Deadlines,
    hold: Hold,
    /// Bytes of clients' replies that are there, but not handed over.
    replies: ByteBudget,
    /// See [`Limits`].
    client_requests: usize,
    client_bytes: usize,
}

impl Flight {
    pub(crate) fn new(limits: &Limits, memory: &Memory) -> Self {
        let budget = |limit| ByteBudget::within(memory, limits.reserve_bytes, limit);
        Self {
            requests: Arena::new(),
            queues: Vec::new(),
            windows: Windows::default(),
            deadlines: Deadlines::default(),
            hold: Hold::new(budget(limits.held_bytes)),
            replies: budget(limits.waiting_reply_bytes),
            client_requests: limits.session_requests,
            client_bytes: limits.session_bytes,
        }
    }

    // Beginning and ending.

    /// Adds a command that waits for a reply until `deadline`; a client's gets its place among the
    /// replies. `epoch` is that of the slots' owners.
    #[inline]
    pub(crate) fn begin(
        &mut self,
        mut request: Request,
        deadline: Instant,
        epoch: u64,
    ) -> Option<RequestId> {
        let Self { requests, queues, windows, deadlines, .. } = self;
        let (owner, len, line) = (request.owner, request.len, deadlines.line_for(deadline));
        let mut queue = match owner {
            Owner::Client(client) => queue_of(queues, client),
            Owner::Mirror(_) => None,
        };
        if let Some(queue) = &mut queue {
            request.cost = windows.take(&mut queue.window, len);
        }
        (request.deadline, request.line) = (deadline, line);
        let replies = request.reply_bytes();
        let id = requests.insert(request);
        match queue {
            Some(queue) => queue.push(id, len, epoch),
            None if matches!(owner, Owner::Mirror(_)) => {}
            None => {
                requests.remove(id);
                return None;
            }
        }
        self.replies.take(replies);
        deadlines.join(id, line, deadline, |entry| is_waiting(requests, entry));
        Some(id)
    }

    /// Adds what a client gets when its turn has come.
    pub(crate) fn begin_answered(&mut self, request: Request, epoch: u64) {
        debug_assert!(matches!(request.state, State::Answered(_)));
        let (owner, len, bytes) = (request.owner, request.len, request.reply_bytes());
        let id = self.requests.insert(request);
        self.replies.take(bytes);
        if let Owner::Client(client) = owner
            && let Some(queue) = self.queue_mut(client)
        {
            queue.push(id, len, epoch);
        }
    }

    /// Takes out a command if it is the first of its client. So many bytes have answered it, beside
    /// those that were relayed before.
    #[inline]
    pub(crate) fn pop_first(&mut self, client: SessionId, id: RequestId, reply: usize) -> Turn {
        let popped = self.pop_if(client, |first, _| (first == id).then_some(((), reply)));
        popped.map_or(Turn::Later, |((), turn)| turn)
    }

    /// Takes out the reply to the first command of a client, which is there already, and says what
    /// comes behind it.
    pub(crate) fn pop_answered(&mut self, client: SessionId) -> Option<(Vec<u8>, Turn)> {
        self.pop_if(client, |_, request| match &mut request.state {
            State::Answered(reply) => {
                let reply = std::mem::take(reply);
                let len = reply.len();
                Some((reply, len))
            }
            _ => None,
        })
    }

    /// Takes out the first command of a client, unless `take` says no: it takes what is wanted of
    /// the command, and says how many bytes have answered it. Says what comes behind it.
    #[inline]
    fn pop_if<T>(
        &mut self,
        client: SessionId,
        take: impl FnOnce(RequestId, &mut Request) -> Option<(T, usize)>,
    ) -> Option<(T, Turn)> {
        let Self { requests, queues, windows, deadlines, replies, .. } = self;
        let queue = queue_of(queues, client)?;
        let id = *queue.pending.front()?;
        let request = requests.get_mut(id)?;
        let kept = request.reply_bytes();
        let (taken, reply) = take(id, request)?;
        queue.pending.pop_front();
        queue.bytes = queue.bytes.saturating_sub(request.len);
        windows.learn(&mut queue.window, reply);
        windows.give_back(&mut queue.window, request.cost);
        replies.give_back(kept);
        let (line, deadline) = (request.line, request.deadline);
        requests.discard(id);
        deadlines.leave(id, line, deadline, |entry| is_waiting(requests, entry));
        let turn = match queue.pending.front().and_then(|next| requests.get(*next)) {
            None => Turn::Last,
            Some(Request { state: State::Answered(_), .. }) => Turn::NextAnswered,
            Some(_) => Turn::NextWaits,
        };
        Some((taken, turn))
    }

    /// Takes out a command, whose client has gone or has no place for it.
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(id)?;
        self.leave(id, request.line, request.deadline);
        self.replies.give_back(request.reply_bytes());
        Some(request)
    }

    // Asking.

    #[inline]
    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.requests.get(id)
    }

    /// The request, unless it has its reply already: a late one is nobody's.
    #[inline]
    pub(crate) fn waiting(&self, id: RequestId) -> Option<&Request> {
        self.requests.get(id).filter(|request| request.is_waiting())
    }

    /// A part that waits for a reply.
    #[inline]
    pub(crate) fn part(&self, id: PartId) -> Option<&Part> {
        self.requests.get(id.request)?.part(id.part)
    }

    /// The same, with its request.
    #[inline]
    pub(crate) fn request_and_part(&self, id: PartId) -> Option<(&Request, &Part)> {
        let request = self.requests.get(id.request)?;
        Some((request, request.part(id.part)?))
    }

    /// How many commands there are.
    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    /// The request whose time is up first, and its deadline.
    #[inline]
    pub(crate) fn oldest(&self) -> Option<(RequestId, Instant)> {
        self.deadlines.first()
    }

    // Sending.

    /// A part is on its way over a connection.
    #[inline]
    pub(crate) fn set_sent(&mut self, id: PartId, connection: ConnectionId, mode: SendMode) {
        if let Some(part) = self.part_mut(id) {
            (part.stage, part.mode) = (Stage::Sent(connection), mode);
        }
    }

    /// A part has come back, or cannot be sent: nothing is read from its client that could overtake
    /// it.
    pub(crate) fn set_held(&mut self, id: PartId) {
        if let Some(part) = self.part_mut(id) {
            (part.stage, part.redirections) = (Stage::Held, 0);
        }
        self.keep_order(id.request);
    }

    /// Lets no command follow those of this one's client, until they are answered.
    pub(crate) fn keep_order(&mut self, id: RequestId) {
        if let Some(client) = self.get(id).and_then(Request::client) {
            self.set_barrier(client);
        }
    }

    /// Counts that a node has sent a part elsewhere. Returns how often that was since it was held.
    pub(crate) fn count_redirection(&mut self, id: PartId) -> u8 {
        let Some(part) = self.part_mut(id) else { return u8::MAX };
        part.redirections = part.redirections.saturating_add(1);
        part.redirections
    }

    /// Notes why a command could not be executed for the moment: an error text.
    pub(crate) fn set_refusal(&mut self, id: RequestId, text: Vec<u8>) {
        if let Some(request) = self.requests.get_mut(id) {
            request.rare_mut().refusal = text;
        }
    }

    /// The shards are known: this is what the command is.
    pub(crate) fn set_split(&mut self, id: RequestId, split: Split) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let before = request.reply_bytes();
        request.state = State::Split(Box::new(split));
        // One part may be known already.
        self.replies.replace(before, request.reply_bytes());
    }

    /// The same for one that a single node answers.
    pub(crate) fn set_whole(&mut self, id: RequestId, part: Part, completion: Completion) {
        if let Some(request) = self.requests.get_mut(id) {
            request.state = State::Whole(part);
            request.completion = completion;
        }
    }

    /// Notes what the proxy knows beside the nodes, as the reply of one more.
    pub(crate) fn set_known_reply(&mut self, id: RequestId, reply: Vec<u8>) {
        if let Some(request) = self.requests.get_mut(id) {
            request.rare_mut().known_reply = Some(reply);
        }
    }

    /// What the proxy knows beside the nodes.
    pub(crate) fn take_known_reply(&mut self, id: RequestId) -> Option<Vec<u8>> {
        self.requests.get_mut(id)?.rare.as_mut()?.known_reply.take()
    }

    // Holding.

    /// Whether so many bytes more may wait for a node.
    pub(crate) fn may_hold(&self, bytes: usize) -> bool {
        self.hold.has_room(bytes)
    }

    /// Keeps a part until the next chance to send it, which comes at `release_at` at the latest.
    pub(crate) fn hold(&mut self, part: PartId, command: Vec<u8>, release_at: Instant) {
        self.set_held(part);
        self.hold.push(Held { part, command }, release_at);
    }

    /// Takes out all that is held, in the order in which it came.
    pub(crate) fn take_held(&mut self) -> VecDeque<Held> {
        self.hold.take_all()
    }

    /// When to try again to send what is held.
    pub(crate) fn next_release(&self) -> Option<Instant> {
        self.hold.next_timeout()
    }

    /// Bytes of commands that are held.
    pub(crate) fn held_bytes(&self) -> usize {
        self.hold.bytes()
    }

    // Deadlines.

    /// Takes a request out of those whose time runs out: it waits for as long as it takes.
    pub(crate) fn suspend(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let line = std::mem::replace(&mut request.line, Line::None);
        let deadline = request.deadline;
        self.leave(id, line, deadline);
    }

    /// Lets a suspended request wait until `deadline`. Returns whether it was suspended.
    pub(crate) fn resume(&mut self, id: RequestId, deadline: Instant) -> bool {
        let Self { requests, deadlines, .. } = self;
        let Some(request) = requests.get_mut(id) else { return false };
        if request.line != Line::None || !request.is_waiting() {
            return false;
        }
        let line = deadlines.line_for(deadline);
        (request.line, request.deadline) = (line, deadline);
        deadlines.join(id, line, deadline, |entry| is_waiting(requests, entry));
        true
    }

    // Replies.

    /// A reply before the last has come to a transaction.
    pub(crate) fn note_queued(&mut self, id: RequestId, reply: &[u8]) {
        if let Some(exec) = self.exec_mut(id) {
            exec.note_queued(reply);
        }
    }

    /// See [`Exec::take_verdict`].
    pub(crate) fn take_verdict(&mut self, id: RequestId, reply: &[u8]) -> Option<Vec<u8>> {
        self.exec_mut(id)?.take_verdict(reply)
    }

    /// Takes out what is to be done with the reply: nothing more than to deliver what that has
    /// made.
    pub(crate) fn take_completion(&mut self, id: RequestId) -> Completion {
        let Some(request) = self.requests.get_mut(id) else { return Completion::Deliver };
        std::mem::replace(&mut request.completion, Completion::Deliver)
    }

    /// Puts it back.
    pub(crate) fn set_completion(&mut self, id: RequestId, completion: Completion) {
        if let Some(request) = self.requests.get_mut(id) {
            request.completion = completion;
        }
    }

    /// For how long a fault holds the reply back. Says so once.
    pub(crate) fn take_delay(&mut self, id: RequestId) -> Option<Duration> {
        self.requests.get_mut(id)?.rare.as_mut()?.delay.take()
    }

    /// The request is not counted as a client's command.
    pub(crate) fn drop_tally(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get_mut(id) {
            request.tally = None;
        }
    }

    /// A part of a split command that gets an error may have been executed all the same.
    pub(crate) fn note_executed(&mut self, id: RequestId) {
        if let Some(Request { state: State::Split(split), .. }) = self.requests.get_mut(id) {
            split.note_executed();
        }
    }

    /// Hands the reply to one part of a split command to what makes one of them all. Returns the
    /// request when it was the last.
    #[inline]
    pub(crate) fn absorb(&mut self, id: PartId, reply: &[u8]) -> Option<&mut Request> {
        let request = self.requests.get_mut(id.request)?;
        let before = request.reply_bytes();
        let State::Split(split) = &mut request.state else { return None };
        let is_whole = split.absorb(id.part, reply);
        self.replies.replace(before, request.reply_bytes());
        is_whole.then_some(request)
    }

    /// The reply is handed over from now on, however long that takes.
    pub(crate) fn set_relayed(&mut self, id: RequestId) {
        self.end_wait(id, State::Relayed);
    }

    /// Holds the reply back: until it is handed over, the request does not wait, nor is it
    /// answered.
    pub(crate) fn set_delayed(&mut self, id: RequestId) {
        self.end_wait(id, State::Delayed);
    }

    /// Keeps `reply` until its turn comes; the request waits no longer.
    pub(crate) fn set_answered(&mut self, id: RequestId, reply: Vec<u8>) {
        self.end_wait(id, State::Answered(reply));
    }

    /// Bytes of clients' replies that wait for those before them or for their other parts.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.replies.used()
    }

    /// Whether these are more than may be.
    #[inline]
    pub(crate) fn has_too_many_replies(&self) -> bool {
        self.replies.is_exceeded()
    }

    /// Panics if its parts contradict each other: for tests.
    pub(crate) fn check_invariants(&self) {
        self.hold.check_invariants();
        let bytes: usize = self.requests.iter().map(|(_, request)| request.reply_bytes()).sum();
        assert_eq!(bytes, self.replies.used(), "bytes of replies");
        for (client, queue) in self.queues.iter().flatten() {
            let requests = queue.pending.iter().map(|id| self.requests.get(*id));
            let lens = requests.map(|request| {
                let request = request.unwrap_or_else(|| unreachable_request(*client));
                assert_eq!(request.client(), Some(*client));
                request.len
            });
            assert_eq!(lens.sum::<usize>(), queue.bytes, "bytes of commands");
            let requests = queue.pending.iter().filter_map(|id| self.requests.get(*id));
            let costs = requests.map(|request| u64::from(request.cost));
            assert_eq!(costs.sum::<u64>(), queue.window.used(), "the cost of commands");
        }
        self.windows.check(self.queues.iter().flatten().map(|(_, queue)| &queue.window));
        for (id, request) in self.requests.iter() {
            let Some(client) = request.client() else { continue };
            let queue = self.queue(client);
            let is_queued = queue.is_some_and(|queue| queue.pending.contains(&id));
            assert!(is_queued, "{id:?} is in its client's queue");
        }
        if let Some((first, _)) = self.oldest() {
            assert!(self.waiting(first).is_some(), "the oldest request waits");
        }
    }

    fn exec_mut(&mut self, id: RequestId) -> Option<&mut Exec> {
        match &mut self.requests.get_mut(id)?.completion {
            Completion::Exec(exec) => Some(exec),
            _ => None,
        }
    }

    #[inline]
    fn part_mut(&mut self, id: PartId) -> Option<&mut Part> {
        self.requests.get_mut(id.request)?.part_mut(id.part)
    }

    /// No reply is waited for any more, nor does time run out.
    fn end_wait(&mut self, id: RequestId, state: State) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let before = request.reply_bytes();
        request.state = state;
        self.replies.replace(before, request.reply_bytes());
        self.suspend(id);
    }

    #[inline]
    fn leave(&mut self, id: RequestId, line: Line, deadline: Instant) {
        let Self { deadlines, requests, .. } = self;
        deadlines.leave(id, line, deadline, |entry| is_waiting(requests, entry));
    }

    #[inline]
    fn queue(&self, client: SessionId) -> Option<&ClientQueue> {
        match self.queues.get(client.index()) {
            Some(Some((owner, queue))) if *owner == client => Some(queue),
            _ => None,
        }
    }

    #[inline]
    fn queue_mut(&mut self, client: SessionId) -> Option<&mut ClientQueue> {
        self.windowed(client).map(|(_, queue)| queue)
    }

    /// The commands of a client, with what all clients share.
    #[inline]
    fn windowed(&mut self, client: SessionId) -> Option<(&mut Windows, &mut ClientQueue)> {
        Some((&mut self.windows, queue_of(&mut self.queues, client)?))
    }
}

/// The commands of a client.
#[inline]
fn queue_of(
    queues: &mut [Option<(SessionId, ClientQueue)>],
    client: SessionId,
) -> Option<&mut ClientQueue> {
    match queues.get_mut(client.index()) {
        Some(Some((owner, queue))) if *owner == client => Some(queue),
        _ => None,
    }
}

/// Whether the request that an entry of the deadlines is of waits by it.
fn is_waiting(
    requests: &Arena<ids::Request, Request>,
    (id, deadline): &(RequestId, Instant),
) -> bool {
    let request = requests.get(*id);
    request.is_some_and(|request| request.line == Line::Regular && request.deadline == *deadline)
}

#[expect(clippy::panic, reason = "only tests check invariants")]
fn unreachable_request(client: SessionId) -> &'static Request {
    panic!("{client:?} waits for a request that has gone")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ClusterId;
    use crate::resp::Protocol;
    use crate::target::Target;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn flight() -> Flight {
        Flight::new(&Limits::default(), &Memory::new(usize::MAX))
    }

    fn add(flight: &mut Flight, deadline: u64) -> RequestId {
        let part = Part::new(ClusterId::default(), Target::Home(None));
        let owner = Owner::Mirror(ClusterId::default());
        let request =
            Request::new(owner, Protocol::Resp2, 0, State::Whole(part), Completion::Deliver);
        flight.begin(request, at(deadline), 0).unwrap()
    }

    #[test]
    fn the_oldest_request_is_that_whose_time_is_up_first_whoever_has_left() {
        let mut flight = flight();
        let ids: Vec<_> = [10, 20, 30, 15].map(|at| add(&mut flight, at)).into();
        assert_eq!(flight.oldest(), Some((ids[0], at(10))));
        flight.remove(ids[1]);
        flight.suspend(ids[0]);
        assert_eq!(flight.oldest(), Some((ids[3], at(15))), "the late one");
        flight.set_answered(ids[3], Vec::new());
        assert_eq!(flight.oldest(), Some((ids[2], at(30))));
        assert!(flight.resume(ids[0], at(40)));
        assert!(!flight.resume(ids[0], at(50)));
        flight.remove(ids[2]);
        assert_eq!(flight.oldest(), Some((ids[0], at(40))));
        flight.remove(ids[0]);
        assert_eq!(flight.oldest(), None);
        flight.check_invariants();
    }

    #[test]
    fn one_that_waits_for_long_keeps_no_account_of_all_that_have_left_since() {
        let mut flight = flight();
        let oldest = add(&mut flight, 0);
        for millis in 0..10_000 {
            let id = add(&mut flight, millis);
            flight.remove(id);
            assert!(flight.deadlines.len() <= 2 * 2 + 64);
        }
        assert_eq!(flight.oldest(), Some((oldest, at(0))));
    }
}
