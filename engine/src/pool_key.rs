//! Which connections to a node a command may use.

use crate::ids::IdentityId;
use crate::resp::Protocol;

/// What all clients of one connection have in common.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Profile {
    /// The version of RESP that they speak.
    pub(crate) protocol: Protocol,
    /// Their user and database; `None`: the configured user, database 0.
    pub(crate) identity: Option<IdentityId>,
}

/// Names one of the connections to a node that clients share.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct PoolKey {
    pub(crate) profile: Profile,
    /// A client keeps to one lane, so that its commands stay in order.
    pub(crate) lane: u32,
}

impl PoolKey {
    /// A small number that no other key of the same identity has.
    #[inline]
    pub(crate) fn index(self) -> usize {
        let protocol = usize::from(self.profile.protocol == Protocol::Resp3);
        (self.lane as usize).saturating_mul(2).saturating_add(protocol)
    }
}
