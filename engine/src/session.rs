//! One client: its connection, its protocol state, and the order of its replies.

use std::collections::VecDeque;
use std::net::SocketAddr;

use smallvec::SmallVec;

use crate::arena::Key;
use crate::arrivals::Arrivals;
use crate::buffers::Buffers;
use crate::command::CommandSpec;
use crate::identity::IdentityId;
use crate::pubsub::Subscribed;
use crate::request::{Request, RequestId};
use crate::resp::{Protocol, RequestParser};
use crate::time::Instant;
use crate::tracking::Tracking;
use crate::transaction::{Transaction, Watch};
use crate::upstream::ConnectionId;

/// Names a client's connection, for as long as it is open.
pub type SessionId = Key<Session>;

/// One downstream connection.
#[derive(Debug)]
pub struct Session {
    /// What CLIENT ID answers.
    pub(crate) client_id: u64,
    /// Where it comes from and where it arrived, if its host knows.
    pub(crate) remote: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    /// When it connected.
    pub(crate) since: Instant,
    /// When its last command was read.
    pub(crate) active: Instant,
    /// The name of that command; empty: none yet.
    pub(crate) command: &'static str,
    /// Who it says it is; empty: the default user.
    pub(crate) user: Vec<u8>,
    /// What CLIENT NO-EVICT said; RESET leaves it.
    pub(crate) no_evict: bool,
    /// As whom nodes execute what it says; `None`: as the configuration says, in database 0.
    pub(crate) identity: Option<IdentityId>,
    pub(crate) replies: Replies,
    /// Its last command gets no reply.
    pub(crate) silent: bool,
    /// Has said who it is, or need not.
    pub(crate) authenticated: bool,
    /// RESP2 until HELLO says otherwise.
    pub(crate) protocol: Protocol,
    /// What keys of it are made of beside themselves, in the configuration's order.
    pub(crate) attributes: Vec<Vec<u8>>,
    /// What CLIENT SETNAME set; empty: none.
    pub(crate) name: Vec<u8>,
    /// What it hears of.
    pub(crate) subscribed: Subscribed,
    pub(crate) parser: RequestParser,
    /// The row of the last command that `parser` has found, if its name alone leads there.
    pub(crate) last: Option<&'static CommandSpec>,
    /// Bytes read but not yet taken as commands: an unfinished one, or, while `parked`, any
    /// number.
    pub(crate) input: Vec<u8>,
    /// When `input` came, while `parked`.
    pub(crate) arrivals: Arrivals,
    /// When the command that is just being read came, if that was not now.
    pub(crate) came: Option<Instant>,
    /// One of `pending` may take as long as it likes: no time runs for what comes behind it.
    pub(crate) untimed: bool,
    /// How much of `input` the proxy's total counts.
    pub(crate) counted_input: usize,
    /// Replies that may leave.
    pub(crate) output: Vec<u8>,
    /// While a reply is handed over as it comes: what is to leave behind it.
    pub(crate) news: Option<Vec<u8>>,
    /// Commands in the order in which they are to be answered.
    pub(crate) pending: VecDeque<RequestId>,
    /// Bytes of the commands in `pending`.
    pub(crate) pending_bytes: usize,
    /// The topology's epoch when the oldest command of `pending` was sent.
    pub(crate) epoch: u64,
    /// What it has queued since MULTI.
    pub(crate) transaction: Option<Box<Transaction>>,
    pub(crate) watch: Watch,
    /// What it wants to hear of because it caches.
    pub(crate) tracking: Option<Box<Tracking>>,
    /// Connections that nobody else uses at the moment.
    pub(crate) dedicated: SmallVec<[ConnectionId; 1]>,
    /// None may follow the last command of `pending` yet: it runs on such a connection or on many
    /// nodes, or changes what the session hears of; or one of `pending` is not where the next would
    /// go, being held or sent elsewhere.
    pub(crate) alone: bool,
    /// No further command is read before `pending` is empty.
    pub(crate) parked: bool,
    /// The client has been asked, through its host, to send no more for now.
    pub(crate) paused: bool,
    /// To be closed once `pending` is empty; nothing is read any more.
    pub(crate) closing: bool,
    /// An output for this session is queued already.
    pub(crate) write_queued: bool,
    /// One is to be queued when the events at hand have been handled, if it is owed more by then.
    pub(crate) corked: bool,
}

/// What CLIENT REPLY has set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Replies {
    /// Each command gets one.
    #[default]
    On,
    /// None gets one.
    Off,
    /// The next one gets none.
    Skip,
}

impl Session {
    pub(crate) fn new(client_id: u64, authenticated: bool, now: Instant) -> Self {
        Self {
            client_id,
            remote: None,
            local: None,
            since: now,
            active: now,
            command: "",
            user: Vec::new(),
            no_evict: false,
            identity: None,
            replies: Replies::On,
            silent: false,
            authenticated,
            protocol: Protocol::Resp2,
            attributes: Vec::new(),
            name: Vec::new(),
            subscribed: Subscribed::default(),
            parser: RequestParser::default(),
            last: None,
            input: Vec::new(),
            arrivals: Arrivals::default(),
            came: None,
            untimed: false,
            counted_input: 0,
            output: Vec::new(),
            news: None,
            pending: VecDeque::new(),
            pending_bytes: 0,
            epoch: 0,
            transaction: None,
            watch: Watch::None,
            tracking: None,
            dedicated: SmallVec::new(),
            alone: false,
            parked: false,
            paused: false,
            closing: false,
            write_queued: false,
            corked: false,
        }
    }

    /// What RESET leaves: a client as it came, under its id.
    pub(crate) fn reset(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
        self.protocol = Protocol::Resp2;
        self.name.clear();
        self.user.clear();
        self.replies = Replies::On;
        self.silent = false;
    }

    /// The user's name, as ACL WHOAMI tells it.
    pub(crate) fn user(&self) -> &[u8] {
        if self.user.is_empty() { b"default" } else { &self.user }
    }

    /// Whether an ordinary command of it is that and no more: nothing that it has said before changes
    /// what is to be done.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.authenticated
            && self.identity.is_none()
            && self.replies == Replies::On
            && self.came.is_none()
            && self.transaction.is_none()
            && self.tracking.is_none()
            && self.watch == Watch::None
            && !self.is_in_subscriber_mode()
    }

    /// A command has been read.
    pub(crate) fn note_command(&mut self, name: &'static str, now: Instant) {
        self.command = name;
        self.active = now;
        if let Some(tracking) = &mut self.tracking {
            tracking.note_command(name, self.transaction.is_some());
        }
        self.silent = self.replies != Replies::On;
        if self.replies == Replies::Skip {
            self.replies = Replies::On;
        }
    }

    /// Nothing is known any more of the keys that were watched.
    pub(crate) fn lose_watch(&mut self) {
        if self.watch.connection().is_some() {
            self.watch = Watch::Lost;
        }
    }

    /// Whether nodes are to track what it reads.
    pub(crate) fn is_tracking(&self) -> bool {
        self.tracking.as_ref().is_some_and(|tracking| !tracking.is_mute(self.protocol))
    }

    /// Whether only few commands are allowed, because messages cannot be told from replies.
    pub(crate) fn is_in_subscriber_mode(&self) -> bool {
        self.protocol == Protocol::Resp2 && !self.subscribed.is_empty()
    }

    /// The buffer that replies go to.
    pub(crate) fn output(&mut self, buffers: &mut Buffers) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = buffers.take();
        }
        &mut self.output
    }

    /// From here on a reply is handed over as it comes: nothing may get into the middle of it.
    pub(crate) fn begin_relay(&mut self) {
        self.news = Some(Vec::new());
    }

    /// The end of such a reply has been handed over. It took the time that it took: no time has run for
    /// what came behind it.
    pub(crate) fn end_relay(&mut self, buffers: &mut Buffers, now: Instant) {
        self.arrivals.renew(now);
        if let Some(news) = self.news.take() {
            self.output(buffers).extend_from_slice(&news);
        }
    }

    /// A command is about to begin in this epoch of the topology.
    pub(crate) fn begin_in(&mut self, epoch: u64) {
        if self.pending.is_empty() {
            self.epoch = epoch;
            self.untimed = false;
        }
    }

    /// Counts a command that has begun to wait for its reply.
    pub(crate) fn note_pending(&mut self, id: RequestId, len: usize) {
        self.pending.push_back(id);
        self.pending_bytes = self.pending_bytes.saturating_add(len);
    }

    /// Counts a command that waits no longer, its reply having been handed over.
    pub(crate) fn note_answered(&mut self, request: &Request) {
        self.pending_bytes = self.pending_bytes.saturating_sub(request.len);
    }
}
