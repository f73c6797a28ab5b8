//! Where a command may go.

use crate::cluster::Slot;
use crate::config::ReadPolicy;
use crate::ids::{ConnectionId, NodeIndex};

/// The node, or nodes, that may execute a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Target {
    /// The primary that owns the slot.
    Owner(Slot),
    /// A node of the slot's shard that the policy allows to answer a read.
    Reader(Slot, ReadPolicy),
    /// Any primary.
    AnyPrimary,
    /// One primary, the same for all proxies that know the same topology; while this node is
    /// healthy, it and no other.
    Home(Option<NodeIndex>),
    /// This node and no other.
    Node(NodeIndex),
    /// The node at the other end of this connection, which watches keys for the client.
    Watching(ConnectionId, SendMode),
}

impl Target {
    /// The target of a command for `slot`: its owner for whatever writes.
    #[inline]
    pub(crate) fn of(slot: Slot, policy: ReadPolicy) -> Self {
        match policy {
            ReadPolicy::Master => Self::Owner(slot),
            policy => Self::Reader(slot, policy),
        }
    }

    /// The slot that the command is about, if it is about one.
    pub(crate) fn slot(self) -> Option<Slot> {
        match self {
            Self::Owner(slot) | Self::Reader(slot, _) => Some(slot),
            Self::AnyPrimary | Self::Home(_) | Self::Node(_) | Self::Watching(..) => None,
        }
    }
}

/// How a command is sent to a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum SendMode {
    /// As it is: the node owns the slot, as far as is known.
    Plain,
    /// Behind ASKING: the slot's owner has redirected this one command by ASK.
    Asking,
}
