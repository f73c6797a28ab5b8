//! One client command whose reply is still owed, or a copy of one for a mirror.
//!
//! ```text
//! Unplanned ──shards are known──┐
//! Whole, Split ◄────────────────┘
//!   │  each part: New ─► Sent ─► (reply) or Held ─► Sent ...
//!   ├─► Relayed ──────────────────────────────────────► removed
//!   └─► Delayed ─► Answered ──its turn has come───────► removed
//! ```

use std::time::Duration;

use crate::blocking::Blocking;
use crate::command::Merge;
use crate::cursor::Step;
use crate::errors;
use crate::flight::deadlines::Line;
use crate::flight::split::Split;
use crate::ids::{ClusterId, ConnectionId, IdentityId, SessionId};
use crate::pool_key::Profile;
use crate::resp::Protocol;
use crate::scripts::Digest;
use crate::stats::Tally;
use crate::target::{SendMode, Target};
use crate::time::Instant;
use crate::transaction::Exec;

/// A command in flight. Its description never changes but by [`super::Flight`].
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) owner: Owner,
    /// The client's protocol version when it sent the command.
    pub(crate) protocol: Protocol,
    /// Its user and database then.
    pub(crate) identity: Option<IdentityId>,
    /// Only reads: may be sent again when its reply was lost.
    pub(crate) read_only: bool,
    /// Bytes that the command took in the client's stream.
    pub(crate) len: usize,
    /// What it takes of its client's window.
    pub(super) cost: u32,
    /// Its client wants no reply.
    pub(crate) silent: bool,
    pub(crate) class: ConnectionClass,
    pub(crate) completion: Completion,
    pub(crate) state: State,
    /// What it is counted as; `None` for what the proxy answers itself.
    pub(crate) tally: Option<Tally>,
    /// See [`Self::rare`].
    pub(super) rare: Option<Box<Rare>>,
    /// When the client is told that no reply came.
    pub(super) deadline: Instant,
    pub(super) line: Line,
}

/// Whose a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Owner {
    /// A client's.
    Client(SessionId),
    /// A copy for the mirror that is this cluster; nobody waits for the reply.
    Mirror(ClusterId),
}

/// On which connections a request travels.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum ConnectionClass {
    /// Those that many clients share.
    Shared,
    /// One that many clients share, but past their other commands: one of these may be a script
    /// that it is to end.
    Urgent,
    /// One by which its node tracks for the client.
    Tracked,
    /// One that nobody else uses meanwhile.
    Dedicated,
}

/// What is done with the reply.
#[derive(Debug)]
pub(crate) enum Completion {
    /// The client gets it as it is; of a split command, what its parts make.
    Deliver,
    /// The client gets it with these receivers added: the node does not know of them.
    Publish {
        /// See `features::pubsub::registry::Receivers`.
        more_receivers: i64,
    },
    /// The client gets it with the cursor of the proxy's own.
    Scan(Box<Step>),
    /// The client gets what the proxy and the node have answered to the transaction.
    Exec(Box<Exec>),
    /// The node watches keys for the client from then on.
    Watch,
    /// The node may have waited; what it has done is copied to mirrors.
    Block(Blocking),
    /// It says whether the client may be who it wants to be: see `features::identities`.
    Claim,
    /// Nodes track for the client from then on: see `features::tracking`.
    StartTracking,
}

/// What few requests have.
#[derive(Debug, Default)]
pub(crate) struct Rare {
    /// For how long a fault holds the reply back.
    pub(crate) delay: Option<Duration>,
    /// What CLIENT CACHING said of it: the node has to hear that right before.
    pub(crate) caching: Option<&'static [u8]>,
    /// The last error by which a node refused it for the moment; without `-` and CRLF.
    pub(crate) refusal: Vec<u8>,
    /// The script that it runs, if that is known here.
    pub(crate) script: Option<Digest>,
    /// What the proxy knows beside the nodes, as one more reply.
    pub(crate) known_reply: Option<Vec<u8>>,
}

/// How far a request has come.
#[derive(Debug)]
pub(crate) enum State {
    /// One node is to answer all of it.
    Whole(Part),
    /// Several nodes are to answer a part each.
    Split(Box<Split>),
    /// Waits until the shards of the cluster are known.
    Unplanned(ClusterId, Spread),
    /// The proxy answers it itself when it knows something about the cluster.
    Own(ClusterId),
    /// The reply is handed over as it comes.
    Relayed,
    /// The reply is there, but is to be held back for a while.
    Delayed,
    /// The reply is there, but replies to earlier commands of the client are not.
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

/// What one node is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) cluster: ClusterId,
    pub(crate) target: Target,
    /// Its keys are several, which may be at two nodes while their slot moves.
    pub(crate) several_keys: bool,
    pub(crate) stage: Stage,
    /// How it was sent last.
    pub(crate) mode: SendMode,
    /// How often nodes have sent it elsewhere since it was last held.
    pub(crate) redirections: u8,
}

/// How far a part has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Stage {
    /// It is about to be sent for the first time.
    New,
    /// A node is to answer it over this connection.
    Sent(ConnectionId),
    /// It has come back, or could not be sent: it is to be sent again.
    Held,
}

impl Part {
    #[inline]
    pub(crate) fn new(cluster: ClusterId, target: Target) -> Self {
        Self {
            cluster,
            target,
            several_keys: false,
            stage: Stage::New,
            mode: SendMode::Plain,
            redirections: 0,
        }
    }

    /// Whether its order with the client's other commands matters: that of what is left to
    /// replicas, or to any primary, does not.
    pub(super) fn is_ordered(&self) -> bool {
        !matches!(self.target, Target::Reader(..) | Target::AnyPrimary)
    }

    /// Whether the order of two parts matters.
    pub(super) fn conflicts(&self, other: &Self) -> bool {
        let is_same = match (self.target, other.target) {
            (Target::Home(_), Target::Home(_)) => true,
            (target, other) => target == other,
        };
        self.is_ordered() && self.cluster == other.cluster && is_same
    }
}

impl State {
    /// Whether a reply is still to come.
    #[inline]
    pub(super) fn is_waiting(&self) -> bool {
        !matches!(self, Self::Relayed | Self::Delayed | Self::Answered(_))
    }

    fn parts(&self) -> (Option<&Part>, Option<&Split>) {
        match self {
            Self::Whole(part) => (Some(part), None),
            Self::Split(split) => (None, Some(split)),
            Self::Unplanned(..)
            | Self::Own(_)
            | Self::Relayed
            | Self::Delayed
            | Self::Answered(_) => (None, None),
        }
    }
}

impl Request {
    #[inline]
    pub(crate) fn new(
        owner: Owner,
        protocol: Protocol,
        len: usize,
        state: State,
        completion: Completion,
    ) -> Self {
        Self {
            owner,
            protocol,
            identity: None,
            read_only: false,
            len,
            cost: 0,
            silent: false,
            class: ConnectionClass::Shared,
            completion,
            state,
            tally: None,
            rare: None,
            deadline: Instant::default(),
            line: Line::None,
        }
    }

    /// What few requests have.
    pub(crate) fn rare(&self) -> &Rare {
        static NOTHING: Rare = Rare {
            delay: None,
            caching: None,
            refusal: Vec::new(),
            script: None,
            known_reply: None,
        };
        self.rare.as_deref().unwrap_or(&NOTHING)
    }

    /// The same, to add to it before the request begins.
    pub(crate) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Whether nothing is to be done with its replies but to hand them over, or to put them
    /// together.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.rare.is_none()
            && matches!(self.completion, Completion::Deliver)
            && matches!(self.state, State::Whole(_) | State::Split(_))
    }

    /// What all clients have in common whose commands may travel on one connection with it.
    #[inline]
    pub(crate) fn profile(&self) -> Profile {
        Profile { protocol: self.protocol, identity: self.identity }
    }

    /// The client that is owed the reply.
    #[inline]
    pub(crate) fn client(&self) -> Option<SessionId> {
        match self.owner {
            Owner::Client(client) => Some(client),
            Owner::Mirror(_) => None,
        }
    }

    /// The clusters whose nodes are to answer.
    pub(crate) fn clusters(&self) -> impl Iterator<Item = ClusterId> {
        let alone = match self.state {
            State::Unplanned(cluster, _) | State::Own(cluster) => Some(cluster),
            _ => None,
        };
        alone.into_iter().chain(self.parts().map(|(_, part)| part.cluster))
    }

    /// A part that waits for a reply.
    #[inline]
    pub(crate) fn part(&self, part: u32) -> Option<&Part> {
        match &self.state {
            State::Whole(whole) => (part == 0).then_some(whole),
            State::Split(split) => split.part(part),
            _ => None,
        }
    }

    #[inline]
    pub(super) fn part_mut(&mut self, part: u32) -> Option<&mut Part> {
        match &mut self.state {
            State::Whole(whole) => (part == 0).then_some(whole),
            State::Split(split) => split.part_mut(part),
            _ => None,
        }
    }

    /// The parts that wait for replies, with their positions.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (u32, &Part)> {
        let (whole, split) = self.state.parts();
        let whole = whole.map(|part| (0, part));
        whole.into_iter().chain(split.into_iter().flat_map(Split::parts))
    }

    /// Bytes of its reply that are there, if a client waits for it.
    #[inline]
    pub(super) fn reply_bytes(&self) -> usize {
        match (&self.state, self.owner) {
            (State::Answered(reply), Owner::Client(_)) => reply.len(),
            (State::Split(split), Owner::Client(_)) => split.reply_bytes(),
            _ => 0,
        }
    }

    /// Whether its time is up.
    #[inline]
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        self.deadline <= now
    }

    /// Whether a reply is still to come.
    #[inline]
    pub(crate) fn is_waiting(&self) -> bool {
        self.state.is_waiting()
    }

    /// Why a command that came back is not sent again.
    pub(crate) fn refusal(&self) -> &[u8] {
        match &self.rare().refusal[..] {
            b"" => errors::OVERTAKEN.as_bytes(),
            refusal => refusal,
        }
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

    /// Whether any of it is to be sent again.
    pub(crate) fn is_held(&self) -> bool {
        self.parts().any(|(_, part)| part.stage == Stage::Held)
    }

    /// Whether the client gets one node's reply as it is, and as soon as it is its turn.
    pub(crate) fn is_answered_verbatim(&self) -> bool {
        matches!(self.state, State::Whole(_))
            && matches!(
                self.completion,
                Completion::Deliver | Completion::Publish { more_receivers: 0 }
            )
            && !self.silent
            && self.rare().delay.is_none()
    }

    /// The blocking command that it is.
    pub(crate) fn blocking(&self) -> Option<Blocking> {
        match self.completion {
            Completion::Block(blocking) => Some(blocking),
            _ => None,
        }
    }
}
