//! Client commands in flight, and when their time is up.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::arena::{Arena, Key};
use crate::blocking::Blocking;
use crate::cluster::Slot;
use crate::command::Merge;
use crate::config::ReadPolicy;
use crate::cursor::Step;
use crate::identity::{Claim, IdentityId};
use crate::pubsub::Subscribing;
use crate::resp::Protocol;
use crate::route::Place;
use crate::scripts::Digest;
use crate::session::SessionId;
use crate::split::Split;
use crate::stats::Tally;
use crate::time::Instant;
use crate::transaction::Exec;
use crate::upstream::ConnectionId;

/// Names a client command, from the moment it was read until its reply has been handed over.
pub(crate) type RequestId = Key<Request>;

/// Names what one node is asked for a request: all of it, or one part of a split command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct SubRequestId {
    pub(crate) request: RequestId,
    /// Position among the parts; 0 for a command that is not split.
    pub(crate) part: u32,
}

/// One client command whose reply is still owed.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) owner: Owner,
    /// The client's protocol version when it sent the command.
    pub(crate) protocol: Protocol,
    /// As whom its client was known then; `None`: as the configuration says.
    pub(crate) identity: Option<IdentityId>,
    /// Only reads: may be sent again when its reply was lost.
    pub(crate) read_only: bool,
    /// Bytes that the command took in the client's stream.
    pub(crate) len: usize,
    /// Its client wants no reply.
    pub(crate) silent: bool,
    /// Goes past the commands of other clients: one of them may be a script to be ended.
    pub(crate) urgent: bool,
    /// Goes over connections on which nodes track for its client.
    pub(crate) tracked: bool,
    /// May go the short way: see `proxy/ordinary.rs`.
    pub(crate) ordinary: bool,
    pub(crate) state: State,
    pub(crate) way: Way,
    /// What it is counted as; `None` for what the proxy answers itself.
    pub(crate) tally: Option<Tally>,
    /// See [`Self::extra`].
    extra: Option<Box<Extra>>,
    /// When the client is told that no reply came.
    deadline: Instant,
    line: Line,
}

/// What is to be known of few requests: most are made and forgotten without it.
#[derive(Debug, Default)]
pub(crate) struct Extra {
    /// It asks who its client may be.
    pub(crate) claim: Option<Claim>,
    /// For how long its reply is to be held back.
    pub(crate) delay: Option<Duration>,
    /// What CLIENT CACHING said of it: the node has to hear that right before.
    pub(crate) caching: Option<&'static [u8]>,
    /// Which step of a SCAN it is.
    pub(crate) step: Option<Step>,
    /// The last error by which a node refused it for the moment; without `-` and CRLF.
    pub(crate) refusal: Vec<u8>,
    /// The script that it runs, if that is known here.
    pub(crate) script: Option<Digest>,
    /// How the replies to a transaction become one.
    pub(crate) exec: Option<Exec>,
    /// Receivers of a published message that the node does not know of: see
    /// [`crate::pubsub::Receivers`].
    pub(crate) more_receivers: i64,
}

/// Whose a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// A client's.
    Session(SessionId),
    /// A copy for the mirror that is the cluster of this index; nobody waits for the reply.
    Mirror(usize),
}

/// On which connections a request may travel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Way {
    /// Those that many clients share.
    Shared,
    /// One that nobody else uses meanwhile, because it will keep it waiting.
    Blocking(Blocking),
    /// One that will be the client's until its transaction, because the node watches by it.
    Watch(Leave),
    /// The one by which the node has watched.
    WatchedExec,
    /// Those on which nodes are to begin to track for the client.
    Track,
}

/// Whether a command goes to a node as it is or with leave to be served there once.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Leave {
    /// The node owns the slot, as far as is known.
    Owner,
    /// The owner has sent it there by ASK.
    Asked,
}

/// Where a request waits for its time to be up.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Line {
    /// Nowhere: it has all the time in the world.
    None,
    /// Among those that were read as soon as they came, or after all with an earlier deadline.
    Regular,
    /// Among those that have waited for others of their client before they were read.
    Late,
}

/// How far a request has come.
#[derive(Debug)]
pub(crate) enum State {
    /// One node is to answer all of it.
    Whole(Part),
    /// Several nodes are to answer a part each.
    Split(Box<Split>),
    /// Waits until the shards of this cluster are known.
    Unplanned(usize, Spread),
    /// A HELLO that waits until this cluster has told its version of Redis.
    Hello(usize),
    /// Nodes are to confirm subscriptions.
    Subscribing(Box<Subscribing>),
    /// The reply is handed over as it comes.
    Relayed,
    /// The reply is there, but is to be held back for a while.
    Delayed,
    /// The reply is there, but replies to earlier commands of the session are not.
    Answered(Vec<u8>),
}

/// What is to be done with a command as soon as the shards are known.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spread {
    /// It goes to every primary.
    EveryPrimary(Merge),
    /// It is a SCAN.
    Scan,
}

/// Where one sub-request belongs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Index of the cluster.
    pub(crate) cluster: usize,
    /// `None`: any primary will do; if it must be the master, that of [`Cluster::home`].
    ///
    /// [`Cluster::home`]: crate::cluster::Cluster::home
    pub(crate) slot: Option<Slot>,
    /// Which nodes may answer; [`ReadPolicy::Master`] for whatever writes.
    pub(crate) policy: ReadPolicy,
    /// Its keys are several, which may be at two nodes while their slot moves.
    pub(crate) several_keys: bool,
    pub(crate) stage: Stage,
    /// How often nodes have sent it elsewhere since it was last held.
    pub(crate) redirections: u8,
}

/// How far a sub-request has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// It is about to be sent for the first time.
    New,
    /// A node is to answer it over this connection.
    Sent(ConnectionId),
    /// It has come back, or could not be sent: it is to be sent again.
    Held,
}

impl Way {
    /// Whether a node is to begin to watch.
    pub(crate) fn is_watch(self) -> bool {
        matches!(self, Self::Watch(_))
    }

    /// The same for a command that goes by a route, which a wait must remember: what it has done is
    /// copied to the route's mirrors.
    pub(crate) fn by_route(self, route: Option<usize>) -> Self {
        match self {
            Self::Blocking(blocking) => Self::Blocking(Blocking { route, ..blocking }),
            other => other,
        }
    }
}

impl State {
    /// Whether a reply is still to come.
    fn is_waiting(&self) -> bool {
        !matches!(self, Self::Relayed | Self::Delayed | Self::Answered(_))
    }
}

impl Part {
    pub(crate) fn new(cluster: usize, slot: Option<Slot>, policy: ReadPolicy) -> Self {
        let (several_keys, stage) = (false, Stage::New);
        Self { cluster, slot, policy, several_keys, stage, redirections: 0 }
    }

    pub(crate) fn at(place: Place, policy: ReadPolicy) -> Self {
        Self::new(place.cluster, Some(place.slot), policy)
    }
}

/// All requests, and when the time is up of those that wait for a reply.
#[derive(Debug)]
pub(crate) struct Requests {
    arena: Arena<Request>,
    regular: Queue,
    late: BTreeSet<(Instant, RequestId)>,
    /// Bytes of replies that are there, but not handed over.
    reply_bytes: usize,
}

/// Requests in the order of their deadlines. Every request gets the same time, so that is the order in
/// which they came; those that were read later than they came are sorted apart.
///
/// Who leaves keeps its entry until that comes to the front, or such entries are the most. Invariant:
/// the front's request has not left.
#[derive(Debug, Default)]
struct Queue {
    entries: VecDeque<(RequestId, Instant)>,
    /// Entries whose request has not left.
    waiting: usize,
}

/// So many entries of requests that have left are kept in any case.
const KEPT_ENTRIES: usize = 64;

impl Request {
    pub(crate) fn new(owner: Owner, protocol: Protocol, len: usize, state: State) -> Self {
        Self {
            owner,
            protocol,
            identity: None,
            read_only: false,
            len,
            silent: false,
            urgent: false,
            tracked: false,
            ordinary: false,
            state,
            way: Way::Shared,
            tally: None,
            extra: None,
            deadline: Instant::default(),
            line: Line::None,
        }
    }

    /// What is known of it beside the usual.
    pub(crate) fn extra(&self) -> &Extra {
        static NOTHING: Extra = Extra {
            claim: None,
            delay: None,
            caching: None,
            step: None,
            refusal: Vec::new(),
            script: None,
            exec: None,
            more_receivers: 0,
        };
        self.extra.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to change what is there already.
    pub(crate) fn known_extra(&mut self) -> Option<&mut Extra> {
        self.extra.as_deref_mut()
    }

    /// The same, to add to it.
    pub(crate) fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }

    /// The session that is owed the reply.
    pub(crate) fn session(&self) -> Option<SessionId> {
        match self.owner {
            Owner::Session(session) => Some(session),
            Owner::Mirror(_) => None,
        }
    }

    /// Indices of the clusters whose nodes are to answer.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = usize> {
        let (whole, split) = match &self.state {
            State::Whole(part) => (Some(part.cluster), None),
            State::Hello(cluster) | State::Unplanned(cluster, _) => (Some(*cluster), None),
            State::Subscribing(subscribing) => (Some(subscribing.cluster), None),
            State::Split(split) => (None, Some(split.clusters())),
            State::Relayed | State::Delayed | State::Answered(_) => (None, None),
        };
        whole.into_iter().chain(split.into_iter().flatten())
    }

    /// The sub-request at position `part`, while it waits for a reply.
    pub(crate) fn part(&self, part: u32) -> Option<&Part> {
        match &self.state {
            State::Whole(whole) => (part == 0).then_some(whole),
            State::Split(split) => split.part(part),
            State::Hello(_)
            | State::Unplanned(..)
            | State::Subscribing(_)
            | State::Relayed
            | State::Delayed
            | State::Answered(_) => None,
        }
    }

    /// The sub-requests that wait for replies, with their positions.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u32, &Part)> {
        let (whole, split) = match &self.state {
            State::Whole(part) => (Some((0, part)), None),
            State::Split(split) => (None, Some(split.parts())),
            State::Hello(_)
            | State::Unplanned(..)
            | State::Subscribing(_)
            | State::Relayed
            | State::Delayed
            | State::Answered(_) => (None, None),
        };
        whole.into_iter().chain(split.into_iter().flatten())
    }

    /// Bytes of its reply that are there, if a client waits for it.
    pub(crate) fn reply_bytes(&self) -> usize {
        match (&self.state, self.owner) {
            (State::Answered(reply), Owner::Session(_)) => reply.len(),
            (State::Split(split), Owner::Session(_)) => split.reply_bytes(),
            _ => 0,
        }
    }

    /// Whether its time is up.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// Why a command that came back is not sent again.
    pub(crate) fn refusal(&self) -> &[u8] {
        match &self.extra().refusal[..] {
            b"" => b"TRYAGAIN a command behind this one has been executed already",
            refusal => refusal,
        }
    }

    /// Whether nothing is to be done with its replies but to hand them over, or to put them together.
    pub(crate) fn is_ordinary(&self) -> bool {
        let is_waiting = matches!(self.state, State::Whole(_) | State::Split(_));
        self.ordinary && self.extra.is_none() && is_waiting
    }

    /// Whether any of it has been executed, or may have been.
    pub(crate) fn may_be_executed(&self) -> bool {
        let answered = matches!(&self.state, State::Split(split) if split.is_executed());
        answered || self.parts().any(|(_, part)| matches!(part.stage, Stage::Sent(_)))
    }

    /// Whether any of it has never got as far as to be sent.
    pub(crate) fn is_unsent(&self) -> bool {
        self.parts().any(|(_, part)| part.stage == Stage::New)
    }

    /// Whether the client gets one node's reply as it is, and as soon as it is its turn.
    pub(crate) fn is_answered_verbatim(&self) -> bool {
        let is_whole = matches!(self.state, State::Whole(_)) && self.way == Way::Shared;
        let Extra { delay, step, exec, more_receivers, .. } = self.extra();
        let is_changed = exec.is_some() || step.is_some() || *more_receivers != 0;
        is_whole && !is_changed && !self.silent && delay.is_none()
    }

    /// Whether any of it is to be sent again.
    pub(crate) fn is_held(&self) -> bool {
        self.parts().any(|(_, part)| part.stage == Stage::Held)
    }

    /// The sub-request at position `part`, while it waits for a reply.
    pub(crate) fn part_mut(&mut self, part: u32) -> Option<&mut Part> {
        match &mut self.state {
            State::Whole(whole) => (part == 0).then_some(whole),
            State::Split(split) => split.part_mut(part),
            State::Hello(_)
            | State::Unplanned(..)
            | State::Subscribing(_)
            | State::Relayed
            | State::Delayed
            | State::Answered(_) => None,
        }
    }
}

impl Requests {
    pub(crate) fn new() -> Self {
        let (arena, late) = (Arena::new(), BTreeSet::new());
        Self { arena, regular: Queue::default(), late, reply_bytes: 0 }
    }

    /// Adds a request that waits for a reply until `deadline`.
    pub(crate) fn insert_waiting(&mut self, mut request: Request, deadline: Instant) -> RequestId {
        request.deadline = deadline;
        request.line = self.regular.line_for(deadline);
        let line = request.line;
        let id = self.arena.insert(request);
        self.join(id, line, deadline);
        id
    }

    /// Takes a request out of those whose time runs out: it waits for as long as it takes.
    pub(crate) fn suspend(&mut self, id: RequestId) {
        self.leave(id);
    }

    /// Lets a suspended request wait until `deadline`. Returns whether it was suspended.
    pub(crate) fn resume(&mut self, id: RequestId, deadline: Instant) -> bool {
        let Some(request) = self.arena.get_mut(id) else { return false };
        let is_suspended = request.line == Line::None && request.state.is_waiting();
        if is_suspended {
            let line = self.regular.line_for(deadline);
            (request.line, request.deadline) = (line, deadline);
            self.join(id, line, deadline);
        }
        is_suspended
    }

    /// Adds a request whose reply is there already.
    pub(crate) fn insert_answered(&mut self, request: Request) -> RequestId {
        debug_assert!(matches!(request.state, State::Answered(_)));
        self.reply_bytes += request.reply_bytes();
        self.arena.insert(request)
    }

    pub(crate) fn get(&self, id: RequestId) -> Option<&Request> {
        self.arena.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: RequestId) -> Option<&mut Request> {
        self.arena.get_mut(id)
    }

    /// The request that has waited longest, and its deadline.
    pub(crate) fn oldest(&self) -> Option<(RequestId, Instant)> {
        let regular = self.regular.entries.front().copied();
        if self.late.is_empty() {
            return regular;
        }
        let late = self.late.first().map(|(deadline, id)| (*id, *deadline));
        regular.into_iter().chain(late).min_by_key(|(_, deadline)| *deadline)
    }

    /// The request, unless it has its reply already: a late one is nobody's.
    pub(crate) fn waiting(&mut self, id: RequestId) -> Option<&mut Request> {
        self.arena.get_mut(id).filter(|request| request.state.is_waiting())
    }

    /// The reply is handed over from now on, however long that takes.
    pub(crate) fn set_relayed(&mut self, id: RequestId) {
        self.end_wait(id, State::Relayed);
    }

    /// Holds the reply back: until it is handed over, the request does not wait, nor is it answered.
    pub(crate) fn set_delayed(&mut self, id: RequestId) {
        self.end_wait(id, State::Delayed);
    }

    /// Keeps `reply` until its turn comes; the request waits no longer.
    pub(crate) fn set_answered(&mut self, id: RequestId, reply: Vec<u8>) {
        self.end_wait(id, State::Answered(reply));
    }

    /// Makes of a request that waits one that is split.
    pub(crate) fn set_split(&mut self, id: RequestId, split: Split) {
        let Some(request) = self.arena.get_mut(id) else { return };
        request.state = State::Split(Box::new(split));
        // One part may be known already.
        self.reply_bytes += request.reply_bytes();
    }

    /// Hands the reply to one part of a split command to what makes one of them all. Returns that when
    /// it was the last.
    pub(crate) fn absorb(
        &mut self,
        sub_request: SubRequestId,
        reply: &[u8],
    ) -> Option<&mut Request> {
        let request = self.arena.get_mut(sub_request.request)?;
        let before = request.reply_bytes();
        let State::Split(split) = &mut request.state else { return None };
        let is_whole = split.absorb(sub_request.part, reply);
        self.reply_bytes += request.reply_bytes().saturating_sub(before);
        is_whole.then_some(request)
    }

    #[inline]
    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Request> {
        let request = self.arena.remove(id)?;
        self.note_left(id, request.line, request.deadline);
        self.reply_bytes -= request.reply_bytes();
        Some(request)
    }

    /// Bytes of clients' replies that wait for those before them or for their other parts.
    pub(crate) fn reply_bytes(&self) -> usize {
        self.reply_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.arena.len()
    }

    /// No reply is waited for any more, nor does time run out.
    fn end_wait(&mut self, id: RequestId, state: State) {
        let Some(request) = self.arena.get_mut(id) else { return };
        self.reply_bytes -= request.reply_bytes();
        request.state = state;
        self.reply_bytes += request.reply_bytes();
        self.leave(id);
    }

    fn join(&mut self, id: RequestId, line: Line, deadline: Instant) {
        match line {
            Line::None => {}
            Line::Regular => self.regular.push(id, deadline, &self.arena),
            Line::Late => self.join_late(id, deadline),
        }
    }

    /// A request is in no line any more.
    fn leave(&mut self, id: RequestId) {
        let Some(request) = self.arena.get_mut(id) else { return };
        let line = std::mem::replace(&mut request.line, Line::None);
        let deadline = request.deadline;
        self.note_left(id, line, deadline);
    }

    fn note_left(&mut self, id: RequestId, line: Line, deadline: Instant) {
        match line {
            Line::None => {}
            Line::Regular => self.regular.note_left(id, &self.arena),
            Line::Late => self.leave_late(id, deadline),
        }
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

impl Queue {
    /// Where a request with this deadline belongs.
    fn line_for(&self, deadline: Instant) -> Line {
        match self.entries.back() {
            Some((_, last)) if *last > deadline => Line::Late,
            _ => Line::Regular,
        }
    }

    fn push(&mut self, id: RequestId, deadline: Instant, requests: &Arena<Request>) {
        self.waiting += 1;
        self.entries.push_back((id, deadline));
        if self.entries.len() > 2 * self.waiting + KEPT_ENTRIES {
            self.forget_left(requests);
        }
    }

    /// A request that was in the queue is so no longer.
    fn note_left(&mut self, id: RequestId, requests: &Arena<Request>) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.entries.front().is_some_and(|(front, _)| *front == id) {
            self.entries.pop_front();
            while let Some(front) = self.entries.front()
                && !is_in_line(front, requests)
            {
                self.entries.pop_front();
            }
        }
    }

    #[cold]
    fn forget_left(&mut self, requests: &Arena<Request>) {
        self.entries.retain(|entry| is_in_line(entry, requests));
    }
}

/// Whether the request that an entry is of waits by it.
fn is_in_line((id, deadline): &(RequestId, Instant), requests: &Arena<Request>) -> bool {
    let request = requests.get(*id);
    request.is_some_and(|request| request.line == Line::Regular && request.deadline == *deadline)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_nanos(millis * 1_000_000)
    }

    fn add(requests: &mut Requests, deadline: u64) -> RequestId {
        let part = Part::new(0, None, ReadPolicy::Master);
        let request = Request::new(Owner::Mirror(0), Protocol::Resp2, 0, State::Whole(part));
        requests.insert_waiting(request, at(deadline))
    }

    #[test]
    fn the_oldest_request_is_that_whose_time_is_up_first_whoever_has_left() {
        let mut requests = Requests::new();
        let ids: Vec<_> = [10, 20, 30, 15].map(|at| add(&mut requests, at)).into();
        assert_eq!(requests.oldest(), Some((ids[0], at(10))));
        requests.remove(ids[1]);
        requests.suspend(ids[0]);
        assert_eq!(requests.oldest(), Some((ids[3], at(15))), "the late one");
        requests.set_answered(ids[3], Vec::new());
        assert_eq!(requests.oldest(), Some((ids[2], at(30))));
        assert!(requests.resume(ids[0], at(40)));
        assert!(!requests.resume(ids[0], at(50)));
        requests.remove(ids[2]);
        assert_eq!(requests.oldest(), Some((ids[0], at(40))));
        requests.remove(ids[0]);
        assert_eq!(requests.oldest(), None);
    }

    #[test]
    fn one_that_waits_for_long_keeps_no_account_of_all_that_have_left_since() {
        let mut requests = Requests::new();
        let oldest = add(&mut requests, 0);
        for millis in 0..10_000 {
            let id = add(&mut requests, millis);
            requests.remove(id);
            assert!(requests.regular.entries.len() <= 2 * 2 + KEPT_ENTRIES);
        }
        assert_eq!(requests.oldest(), Some((oldest, at(0))));
    }
}
