//! The names of what the engine owns. They are values: whoever has one can do nothing with it but
//! ask its owner.

use crate::arena::Key;

/// A client's connection. There are no values of this type: it only tells keys apart.
#[derive(Debug)]
pub enum Session {}

/// A connection to a node. There are no values of this type: it only tells keys apart.
#[derive(Debug)]
pub enum Connection {}

/// Tells keys of client commands apart.
#[derive(Debug)]
pub(crate) enum Request {}

/// Tells keys of identities apart.
#[derive(Debug)]
pub(crate) enum Identity {}

/// Names a client's connection, for as long as it is open.
pub type SessionId = Key<Session>;

/// Names a connection to a node, for as long as it is open.
pub type ConnectionId = Key<Connection>;

/// Names a client command, from the moment it was read until its reply has been handed over.
pub(crate) type RequestId = Key<Request>;

/// Names a user and a database, for as long as any client has them or has had them lately.
pub(crate) type IdentityId = Key<Identity>;

/// Names what one node is asked for a request: all of it, or one part of a split command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PartId {
    pub(crate) request: RequestId,
    /// Position among the parts; 0 for a command that is not split.
    pub(crate) part: u32,
}

impl PartId {
    /// All of a command that is not split.
    pub(crate) fn whole(request: RequestId) -> Self {
        Self { request, part: 0 }
    }
}

/// Declares an index type.
macro_rules! index {
    ($(#[$doc:meta])* $visibility:vis $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
        $visibility struct $name(u16);

        impl $name {
            /// The most that there can be.
            $visibility const MOST: usize = u16::MAX as usize;

            /// The index of this position; the last index for positions beyond it.
            $visibility fn new(position: usize) -> Self {
                Self(u16::try_from(position).unwrap_or(u16::MAX))
            }

            /// The position in the list that it is an index of.
            $visibility fn position(self) -> usize {
                usize::from(self.0)
            }
        }
    };
}

index! {
    /// Index of a cluster in [`Config::clusters`](crate::Config).
    pub ClusterId
}

index! {
    /// Index of a route in the route table.
    pub(crate) RouteId
}

index! {
    /// Names a node within its cluster, for as long as the node is in the topology or connected.
    pub(crate) NodeIndex
}
