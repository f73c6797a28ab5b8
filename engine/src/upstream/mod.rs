//! The way to one node: a connection, its handshake and its pipeline.

mod pipeline;

use std::collections::VecDeque;

pub(crate) use pipeline::{Expect, Pipeline};

use crate::arena::Key;
use crate::cluster::{Address, NodeIndex};
use crate::config::{Credentials, Secret};
use crate::identity::IdentityId;
use crate::resp::{self, Protocol, Scanner};
use crate::scripts::Shown;
use crate::session::SessionId;
use crate::stats::Tally;
use crate::time::Instant;

/// Names a connection to a node, for as long as it is open.
pub type ConnectionId = Key<Connection>;

/// A connection to a node.
#[derive(Debug)]
pub struct Connection {
    /// Index of the cluster that the node belongs to.
    pub(crate) cluster: usize,
    pub(crate) address: Address,
    pub(crate) purpose: Purpose,
    /// Established: nothing is written before, so whatever a connection that never opened was to
    /// carry has reached nobody.
    pub(crate) open: bool,
    /// Some reply has come: the node is alive and speaks RESP.
    pub(crate) answered: bool,
    pub(crate) pipeline: Pipeline,
    /// What the requests in `pipeline` are counted as, while commands are counted one by one.
    pub(crate) tallies: VecDeque<Option<Tally>>,
    /// The beginning of a reply whose end has not come yet.
    pub(crate) input: Vec<u8>,
    /// How much of `input` the scanner has seen.
    pub(crate) scanned: usize,
    pub(crate) scanner: Scanner,
    /// The first byte of the reply that is being handed on as it comes.
    pub(crate) relayed: Option<u8>,
    /// Since when a reply has been due: bytes came, or the pipeline ceased to be empty.
    pub(crate) silent_since: Instant,
    /// What the reply to CLUSTER INFO told.
    pub(crate) epoch: u64,
    /// An output for this connection is queued already.
    pub(crate) write_queued: bool,
    /// To be closed as soon as nothing is expected on it any more.
    pub(crate) draining: bool,
    /// The client that it belongs to for the time being.
    pub(crate) user: Option<SessionId>,
    /// Scripts that the node has seen on it.
    pub(crate) shown: Shown,
    /// What the node calls it, if it has told.
    pub(crate) node_id: Option<i64>,
    /// The node tracks by it, or tells by it what has changed, for the client that it belongs to.
    pub(crate) tracked: bool,
    /// It was seen waiting on a node that no longer owns the slot.
    pub(crate) doubted: bool,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Purpose {
    /// Ordinary commands of many clients.
    Shared(NodeIndex, Lane),
    /// Commands of one client at a time.
    Dedicated(NodeIndex, Manner),
    /// Subscriptions of many clients.
    Subscriber,
    /// One CLUSTER SLOTS.
    Refresh,
}

/// Which of a node's shared connections is meant.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lane {
    pub(crate) manner: Manner,
    /// A client keeps to one lane, so that its commands stay in order.
    pub(crate) number: u32,
}

/// What the clients of a connection have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Manner {
    /// The version that they speak.
    pub(crate) protocol: Protocol,
    /// As whom they do; `None`: as the configuration says, in database 0.
    pub(crate) identity: Option<IdentityId>,
}

/// What a node must hear first.
#[derive(Debug, Default)]
pub(crate) struct Handshake {
    pub(crate) credentials: Option<Credentials>,
    pub(crate) database: i64,
    /// Replicas are to answer reads.
    pub(crate) read_only: bool,
    /// The node is to tell which zone it is in.
    pub(crate) zone: bool,
}

impl Purpose {
    /// What the clients of such a connection have in common.
    pub(crate) fn manner(self) -> Manner {
        match self {
            Self::Shared(_, Lane { manner, .. }) | Self::Dedicated(_, manner) => manner,
            Self::Subscriber | Self::Refresh => Manner::default(),
        }
    }

    fn protocol(self) -> Protocol {
        self.manner().protocol
    }
}

impl Lane {
    /// A small number that no other lane of the same identity has.
    pub(crate) fn index(self) -> usize {
        let protocol = usize::from(self.manner.protocol == Protocol::Resp3);
        (self.number as usize).saturating_mul(2).saturating_add(protocol)
    }
}

impl Connection {
    /// A connection about to be opened, its handshake already in the pipeline.
    pub(crate) fn new(
        cluster: usize,
        address: Address,
        purpose: Purpose,
        handshake: &Handshake,
        now: Instant,
    ) -> Self {
        let mut connection = Self {
            cluster,
            address,
            purpose,
            open: false,
            answered: false,
            pipeline: Pipeline::default(),
            tallies: VecDeque::new(),
            input: Vec::new(),
            scanned: 0,
            scanner: Scanner::default(),
            relayed: None,
            silent_since: now,
            epoch: 0,
            write_queued: false,
            draining: false,
            user: None,
            shown: Shown::default(),
            node_id: None,
            tracked: false,
            doubted: false,
        };
        connection.shake_hands(handshake);
        connection
    }

    /// Whether `len` bytes more may wait on it, where `most` may in all.
    pub(crate) fn has_room(&self, len: usize, most: usize) -> bool {
        self.pipeline.unanswered_bytes().saturating_add(len) <= most
    }

    /// Why no further command may wait on it.
    pub(crate) fn crowded(&self) -> String {
        let unanswered = self.pipeline.unanswered_bytes();
        format!("ERR {unanswered} bytes of commands wait for replies from {} already", self.address)
    }

    /// Queues what the node must hear first. No command follows before all of it is answered: a node
    /// that is just dying, is full, or refuses the proxy has then not seen any, and each can safely
    /// be sent elsewhere.
    fn shake_hands(&mut self, handshake: &Handshake) {
        if let Some(Credentials { username, password, .. }) = &handshake.credentials {
            let username = username.as_ref().map(Secret::reveal);
            match username {
                Some(username) => self.say(Expect::Login, &[b"AUTH", username, password.reveal()]),
                None => self.say(Expect::Login, &[b"AUTH", password.reveal()]),
            }
        }
        match (self.purpose, self.purpose.protocol()) {
            // In RESP3, HELLO tells.
            (Purpose::Dedicated(..), Protocol::Resp2) => {
                self.say(Expect::ClientId, &[b"CLIENT", b"ID"]);
            }
            (Purpose::Shared(..) | Purpose::Subscriber, Protocol::Resp2) => {}
            (
                Purpose::Shared(..) | Purpose::Dedicated(..) | Purpose::Subscriber,
                Protocol::Resp3,
            ) => {
                self.say(Expect::Hello, &[b"HELLO", b"3"]);
            }
            (Purpose::Refresh, _) => {
                self.say(Expect::Hello, &[b"HELLO", b"2"]);
                self.say(Expect::Epoch, &[b"CLUSTER", b"INFO"]);
                self.say(Expect::Topology, &[b"CLUSTER", b"SLOTS"]);
            }
        }
        if handshake.database != 0 {
            let database = handshake.database.to_string();
            self.say(Expect::Database, &[b"SELECT", database.as_bytes()]);
        }
        if handshake.zone {
            self.say(Expect::Zone, &[b"INFO", b"server"]);
        }
        if handshake.read_only {
            self.say(Expect::Nothing, &[b"READONLY"]);
        }
        if self.pipeline.is_empty() {
            self.say(Expect::Nothing, &[b"PING"]);
        }
        self.pipeline.close_gate();
    }

    fn say(&mut self, expect: Expect, words: &[&[u8]]) {
        let mut command = Vec::new();
        resp::encode::command(&mut command, words);
        self.pipeline.push(expect, &command);
    }
}
