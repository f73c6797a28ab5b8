//! One connection to a node: what it is for, how far it has come, and what is expected on it.
//!
//! ```text
//! Dialing ──established──► Established ──first reply──► Answered ──► (closed)
//!    │                        │  the handshake is written, nothing behind it
//!    └──────── failed ────────┴────► the node is left alone for a while
//! ```
//!
//! Commands of clients are written when the whole handshake has been answered: see
//! [`super::handshake`].

use crate::cluster::{Address, Slot};
use crate::ids::{ClusterId, NodeIndex, SessionId};
use crate::pool_key::{PoolKey, Profile};
use crate::resp::Scanner;
use crate::scripts::Shown;
use crate::time::Instant;
use crate::upstream::pipeline::Pipeline;

/// A connection to a node.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) cluster: ClusterId,
    pub(super) address: Address,
    pub(super) purpose: Purpose,
    pub(super) phase: Phase,
    pub(super) pipeline: Pipeline,
    /// Boxed, so that reading on moves a pointer. `None` before anything has come, and meanwhile.
    pub(super) input: Option<Box<Input>>,
    /// The first byte of the reply that is being relayed as it comes.
    pub(super) relayed: Option<u8>,
    /// Since when a reply has been due: bytes came, or the pipeline ceased to be empty.
    pub(super) silent_since: Instant,
    /// An output for this connection is queued already.
    pub(super) write_queued: bool,
    /// To be closed as soon as nothing is expected on it any more.
    pub(super) draining: bool,
    /// The client that has it to itself, and for what.
    pub(super) assignment: Assignment,
    /// Scripts that the node has seen on it.
    pub(super) shown: Shown,
    /// What the node calls it, if it has told.
    pub(super) node_id: Option<i64>,
    /// The cluster's epoch, as the reply to CLUSTER INFO told it.
    pub(super) epoch: u64,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Purpose {
    /// Commands of many clients.
    Shared(NodeIndex, PoolKey),
    /// Commands of one client at a time.
    Dedicated(NodeIndex, Profile),
    /// Subscriptions of many clients.
    Subscriber,
    /// One CLUSTER SLOTS.
    Refresh,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Nothing is written before it is established: whatever a connection that never was
    /// established was to carry has reached nobody.
    Dialing,
    /// Established, but no reply has come yet.
    Established,
    /// Some reply has come: the node is alive and speaks RESP.
    Answered,
}

/// What has been read of a reply whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub(super) bytes: Vec<u8>,
    /// How much of `bytes` the scanner has seen.
    pub(super) scanned: usize,
    pub(super) scanner: Scanner,
}

/// How one client uses a dedicated connection.
#[derive(Debug, Default)]
pub(super) struct Assignment {
    /// The client; `None`: the connection waits for the next one.
    pub(super) client: Option<SessionId>,
    /// The node watches keys by it, so that it stays the client's.
    pub(super) watches: bool,
    /// The node tracks by it what the client reads, or tells by it what has changed.
    pub(super) tracks: bool,
    /// The blocking command that was sent last and has not been answered.
    pub(super) wait: Option<Wait>,
}

/// A command that a node may keep waiting.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wait {
    /// When the node is to answer at the latest; `None`: it may wait for ever.
    pub(crate) until: Option<Instant>,
    /// The slot that it is about, if it is about one.
    pub(crate) slot: Option<Slot>,
    /// It was seen waiting on a node that no longer owns the slot.
    pub(crate) doubted: bool,
}

impl Purpose {
    /// What the clients of such a connection have in common.
    pub(super) fn profile(self) -> Profile {
        match self {
            Self::Shared(_, PoolKey { profile, .. }) | Self::Dedicated(_, profile) => profile,
            Self::Subscriber | Self::Refresh => Profile::default(),
        }
    }

    /// The node that clients' commands go to.
    pub(super) fn node(self) -> Option<NodeIndex> {
        match self {
            Self::Shared(node, _) | Self::Dedicated(node, _) => Some(node),
            Self::Subscriber | Self::Refresh => None,
        }
    }
}

impl Connection {
    pub(super) fn new(
        cluster: ClusterId,
        address: Address,
        purpose: Purpose,
        pipeline: Pipeline,
        now: Instant,
    ) -> Self {
        Self {
            cluster,
            address,
            purpose,
            phase: Phase::Dialing,
            pipeline,
            input: None,
            relayed: None,
            silent_since: now,
            write_queued: false,
            draining: false,
            assignment: Assignment::default(),
            shown: Shown::default(),
            node_id: None,
            epoch: 0,
        }
    }

    /// A reply becomes due, if none is already.
    #[inline]
    pub(super) fn note_due(&mut self, now: Instant) {
        if self.pipeline.is_empty() {
            self.silent_since = now;
        }
    }

    /// A command has been answered. A blocking one is the last on its connection: if others are
    /// behind the one that was answered, it is still waited for.
    pub(super) fn note_reply(&mut self) {
        if self.pipeline.is_empty() {
            self.assignment.wait = None;
        }
    }

    /// Whether it is established.
    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.phase != Phase::Dialing
    }

    /// Whether some reply has come.
    pub(super) fn is_answered(&self) -> bool {
        self.phase == Phase::Answered
    }

    /// Whether the node keeps a command waiting on it, rather than being slow.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_open() && self.pipeline.is_open() && self.assignment.wait.is_some()
    }

    /// Whether `len` bytes more may wait on it, where `limit` may in all.
    #[inline]
    pub(super) fn has_room(&self, len: usize, limit: usize) -> bool {
        self.pipeline.unanswered_bytes().saturating_add(len) <= limit
    }

    /// Why no further command may wait on it.
    pub(super) fn crowded(&self) -> String {
        let unanswered = self.pipeline.unanswered_bytes();
        format!("ERR {unanswered} bytes of commands wait for replies from {} already", self.address)
    }
}
