//! One client: who it is, what it has said that changes its later commands, and its bytes.
//!
//! ```text
//! Reading ──a command has to wait──► Parked ──all before it are answered──► Reading
//!    └──────────QUIT, an error, CLIENT KILL──────────► Closing ──answered──► (closed)
//! ```

use std::net::SocketAddr;
use std::ops::Range;

use crate::buffers::Buffers;
use crate::downstream::arrivals::Arrivals;
use crate::downstream::input::Reader;
use crate::downstream::lingering::Linger;
use crate::ids::{IdentityId, SessionId};
use crate::resp::Protocol;
use crate::time::Instant;

/// While a client is paused its replies are kept back, because writing to it means reading what it
/// has sent; but not more of them than this.
const KEPT_BACK: usize = 1024 * 1024;

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) profile: Profile,
    /// Has said who it is, or need not.
    pub(super) authenticated: bool,
    /// As whom nodes execute what it says; `None`: as the configuration says, in database 0.
    pub(super) identity: Option<IdentityId>,
    /// RESP2 until HELLO says otherwise.
    pub(super) protocol: Protocol,
    pub(super) modes: Modes,
    pub(super) reply_mode: ReplyMode,
    /// Its last command gets no reply.
    pub(super) silent: bool,
    pub(super) phase: Phase,
    /// It is closed only once it has ceased to send.
    pub(super) lingers: Option<Linger>,
    pub(super) input: Input,
    pub(super) output: Output,
}

/// What CLIENT LIST tells of a client.
#[derive(Debug)]
pub(crate) struct Profile {
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
    /// What CLIENT NO-EVICT said; RESET leaves it.
    pub(crate) no_evict: bool,
    /// Who it says it is; empty: the default user.
    pub(super) user: Vec<u8>,
    /// What CLIENT SETNAME set; empty: none.
    pub(crate) name: Vec<u8>,
    /// What its keys are made of beside themselves, in the configuration's order.
    pub(super) attributes: Vec<Vec<u8>>,
}

/// What a client has done that changes its later commands: each is kept by the part of the proxy
/// that looks after it, and noted here, so that a command without any need not ask them all.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Modes(u8);

impl Modes {
    /// Between MULTI and EXEC.
    pub(crate) const MULTI: Self = Self(1);
    /// Nodes watch keys for it, or have lost them.
    pub(crate) const WATCH: Self = Self(2);
    /// CLIENT TRACKING is on.
    pub(crate) const TRACKING: Self = Self(4);
    /// Nodes track what it reads: tracking is on, and there is somebody to be told.
    pub(crate) const TRACKED: Self = Self(8);
    /// Is subscribed to something.
    pub(crate) const SUBSCRIBED: Self = Self(16);

    /// Whether it is in any of these modes.
    #[inline]
    pub(crate) fn has(self, modes: Self) -> bool {
        self.0 & modes.0 != 0
    }

    /// These modes as well as those.
    pub(crate) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn set(&mut self, modes: Self, on: bool) {
        match on {
            true => self.0 |= modes.0,
            false => self.0 &= !modes.0,
        }
    }
}

/// What CLIENT REPLY has set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum ReplyMode {
    /// Each command gets a reply.
    #[default]
    On,
    /// None gets one.
    Off,
    /// The next one gets none.
    SkipNext,
}

/// Whether a client's commands are read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    Reading,
    /// No further command is read before those under way are answered.
    Parked,
    /// To be closed once they are; nothing is read any more.
    Closing,
}

/// What a client has sent.
#[derive(Debug, Default)]
pub(super) struct Input {
    /// Finds commands in `bytes`. `None` before there are any, and while it does so.
    pub(super) reader: Option<Box<Reader>>,
    /// Bytes not yet taken as commands: an unfinished one, or, while parked, any number.
    pub(super) bytes: Vec<u8>,
    /// When `bytes` came, while parked.
    pub(super) arrivals: Arrivals,
    /// When the command that is just being read came, if that was not now.
    pub(super) arrived: Option<Instant>,
    /// What of `bytes`, and of what `reader` keeps of them, the budget of all clients counts.
    pub(super) counted: usize,
    /// The command that is being skipped is no larger than any may be, but too many bytes waited.
    pub(super) is_crowded_out: bool,
    /// The client has been asked, through its host, to send no more for now.
    pub(super) paused: bool,
}

/// What a client is to get.
#[derive(Debug, Default)]
pub(super) struct Output {
    /// What may leave.
    pub(super) bytes: Vec<u8>,
    /// What may leave before them is there in what a node has sent: see
    /// [`super::Downstream::take_buffer`].
    pub(super) claimed: Range<usize>,
    /// While a reply is relayed as it comes: what is to leave behind it.
    pub(super) behind_relay: Option<Vec<u8>>,
    /// A write is queued already.
    pub(super) write_queued: bool,
    /// One is to be queued when the events at hand have been handled, if it is owed more by then.
    pub(super) deferred: bool,
}

/// A client as the command that is being read finds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    pub(crate) id: SessionId,
    pub(crate) protocol: Protocol,
    pub(crate) identity: Option<IdentityId>,
    pub(crate) modes: Modes,
    pub(crate) authenticated: bool,
    /// The command gets no reply.
    pub(crate) silent: bool,
    /// When the command came, if it had to wait.
    pub(crate) arrived: Option<Instant>,
    /// What CLIENT CACHING has said of the command: its node has to hear that right before.
    pub(crate) caching: Option<&'static [u8]>,
}

impl Caller {
    #[inline]
    pub(super) fn of(id: SessionId, client: &Client) -> Self {
        Self {
            id,
            protocol: client.protocol,
            identity: client.identity,
            modes: client.modes,
            authenticated: client.authenticated,
            silent: client.silent,
            arrived: client.input.arrived,
            caching: None,
        }
    }

    /// Whether only few commands are allowed, because messages could not be told from replies.
    #[inline]
    pub(crate) fn is_in_subscriber_mode(&self) -> bool {
        self.modes.has(Modes::SUBSCRIBED) && self.protocol == Protocol::Resp2
    }
}

impl Profile {
    /// The user's name, as ACL WHOAMI tells it.
    pub(crate) fn user(&self) -> &[u8] {
        if self.user.is_empty() { b"default" } else { &self.user }
    }
}

impl Client {
    pub(super) fn new(
        client_id: u64,
        authenticated: bool,
        identity: Option<IdentityId>,
        now: Instant,
    ) -> Self {
        Self {
            profile: Profile {
                client_id,
                remote: None,
                local: None,
                since: now,
                active: now,
                command: "",
                no_evict: false,
                user: Vec::new(),
                name: Vec::new(),
                attributes: Vec::new(),
            },
            authenticated,
            identity,
            protocol: Protocol::Resp2,
            modes: Modes::default(),
            reply_mode: ReplyMode::On,
            silent: false,
            phase: Phase::Reading,
            lingers: None,
            input: Input::default(),
            output: Output::default(),
        }
    }

    /// What RESET leaves: a client as it came, under its id.
    pub(super) fn reset(&mut self, authenticated: bool) {
        self.authenticated = authenticated;
        self.protocol = Protocol::Resp2;
        self.profile.name.clear();
        self.profile.user.clear();
        self.reply_mode = ReplyMode::On;
        self.silent = false;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Whether there is something to write, and a write is to be queued for it.
    #[inline]
    pub(super) fn may_be_written(&self) -> bool {
        let len = self.output_len();
        let is_kept_back = self.input.paused && !self.is_closing() && len < KEPT_BACK;
        !self.output.write_queued && len > 0 && !is_kept_back
    }

    /// The buffer that replies go to.
    #[inline]
    pub(super) fn output(&mut self, buffers: &mut Buffers) -> &mut Vec<u8> {
        if self.output.bytes.capacity() == 0 {
            self.output.bytes = buffers.take();
        }
        &mut self.output.bytes
    }

    /// How much may leave.
    #[inline]
    pub(super) fn output_len(&self) -> usize {
        self.output.claimed.len() + self.output.bytes.len()
    }
}
