//! One node of the cluster: what is known of it, and its connections that clients share.

use std::time::Duration;

use super::{Address, NodeId};
use crate::ids::ConnectionId;
use crate::pool_key::PoolKey;
use crate::rng::Rng;
use crate::time::Instant;

/// Pauses before connecting again to a node that refused: doubled from the first to the last.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LAST_BACKOFF: Duration = Duration::from_secs(1);
/// A node that said "not now" to a read is passed over for so long.
const AVOIDED: Duration = Duration::from_millis(500);

/// One Redis process.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) address: Address,
    /// What the topology calls it; `None`: that does not say, or does not know the node.
    pub(super) id: Option<NodeId>,
    /// The zone it is in, if anybody has told.
    pub(crate) zone: Option<Box<str>>,
    /// May be dialled: see [`allowed_nodes`](crate::config::ClusterConfig::allowed_nodes).
    pub(super) allowed: bool,
    /// In the installed topology, or learnt from a redirection since.
    pub(super) member: bool,
    /// Learnt from a redirection and not yet confirmed by a topology.
    pub(super) unknown: bool,
    /// The connections that clients of the usual identity share, by the index of their key.
    shared: Vec<Option<ConnectionId>>,
    /// Those that clients of other identities share.
    others: Vec<(PoolKey, ConnectionId)>,
    /// A connection to it has ended, and none has served anything since.
    pub(super) lost: bool,
    /// Connections that failed in a row.
    failures: u32,
    /// No connection is opened before.
    retry_at: Instant,
    /// No read is sent before, if another node can take it.
    avoided_until: Instant,
    /// Its replicas are not asked before whether one has taken its place.
    ask_replicas_at: Instant,
    /// When counting `opened` began.
    second: Instant,
    /// Connections opened in the second that began then.
    opened: u32,
}

impl Node {
    pub(super) fn new(address: Address) -> Self {
        Self {
            address,
            id: None,
            zone: None,
            allowed: true,
            member: false,
            unknown: false,
            shared: Vec::new(),
            others: Vec::new(),
            lost: false,
            failures: 0,
            retry_at: Instant::default(),
            avoided_until: Instant::default(),
            ask_replicas_at: Instant::default(),
            second: Instant::default(),
            opened: 0,
        }
    }

    /// The connection of this key.
    #[inline]
    pub(crate) fn shared(&self, key: PoolKey) -> Option<ConnectionId> {
        if key.profile.identity.is_some() {
            let mut others = self.others.iter();
            return others.find(|(other, _)| *other == key).map(|(_, connection)| *connection);
        }
        self.shared.get(key.index()).copied().flatten()
    }

    pub(crate) fn set_shared(&mut self, key: PoolKey, connection: Option<ConnectionId>) {
        if key.profile.identity.is_some() {
            self.others.retain(|(other, _)| *other != key);
            return self.others.extend(connection.map(|connection| (key, connection)));
        }
        if key.index() >= self.shared.len() {
            self.shared.resize(key.index() + 1, None);
        }
        if let Some(shared) = self.shared.get_mut(key.index()) {
            *shared = connection;
        }
    }

    /// Whether connections to it may be opened at all.
    pub(crate) fn is_allowed(&self) -> bool {
        self.allowed
    }

    /// Counts a connection about to be opened, unless `limit` have been in this second already.
    pub(crate) fn may_connect(&mut self, limit: Option<u32>, now: Instant) -> bool {
        let Some(limit) = limit else { return true };
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            self.second = now;
            self.opened = 0;
        }
        self.opened = self.opened.saturating_add(1);
        self.opened <= limit
    }

    /// Whether its replicas may be asked for their role now; not again for `pause` if so.
    pub(crate) fn may_ask_replicas(&mut self, pause: Duration, now: Instant) -> bool {
        let may = now >= self.ask_replicas_at;
        if may {
            self.ask_replicas_at = now + pause;
        }
        may
    }

    /// Whether connecting now would come too soon after the last failure.
    pub(crate) fn is_backing_off(&self, now: Instant) -> bool {
        now < self.retry_at
    }

    /// A connection to it has ended. No read waits until there is another one, if another node can
    /// take it: to find out that an address is gone may take seconds.
    pub(crate) fn note_lost(&mut self) {
        self.lost = true;
    }

    /// Whether no read is sent there, if another node can take it: it has left the topology, or
    /// there is no connection since one has ended.
    pub(crate) fn is_away(&self) -> bool {
        self.lost || !self.member
    }

    /// Whether there is no way to it, as far as is known.
    pub(super) fn is_unreachable(&self) -> bool {
        self.lost || self.failures > 0
    }

    /// A connection failed before it served anything. Returns whether it is the first in a row.
    pub(crate) fn note_failure(&mut self, now: Instant, rng: &mut Rng) -> bool {
        let doubled = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now + rng.jitter(doubled.min(LAST_BACKOFF));
        self.failures == 1
    }

    /// A connection has served something.
    pub(crate) fn note_success(&mut self) {
        self.lost = false;
        self.failures = 0;
        self.retry_at = Instant::default();
    }

    /// It said "not now" to a read: others are asked for a while.
    pub(crate) fn note_refusal(&mut self, now: Instant) {
        self.avoid_until(now + AVOIDED);
    }

    pub(super) fn avoid_until(&mut self, at: Instant) {
        self.avoided_until = at;
    }

    /// Whether there is no reason to read elsewhere.
    pub(super) fn is_healthy(&self, now: Instant) -> bool {
        self.allowed && now >= self.avoided_until && !self.is_backing_off(now)
    }

    pub(super) fn is_vacant(&self) -> bool {
        !self.member && self.all_shared().next().is_none()
    }

    pub(super) fn all_shared(&self) -> impl Iterator<Item = ConnectionId> {
        let others = self.others.iter().map(|(_, connection)| *connection);
        self.shared.iter().flatten().copied().chain(others)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_between_failures_grow_up_to_a_second() {
        let mut node = Node::new(Address::parse("a:1").unwrap());
        let mut rng = Rng::new(1);
        let now = Instant::default();
        node.note_failure(now, &mut rng);
        assert!(node.is_backing_off(now + Duration::from_millis(9)));
        assert!(!node.is_backing_off(now + Duration::from_millis(20)));
        for _ in 0..40 {
            node.note_failure(now, &mut rng);
        }
        assert!(node.is_backing_off(now + Duration::from_millis(499)));
        assert!(!node.is_backing_off(now + Duration::from_secs(1)));
        node.note_success();
        assert!(!node.is_backing_off(now));
    }
}
