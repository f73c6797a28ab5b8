//! How much the proxy keeps, to be held against [`Limits`](crate::config::Limits).

use super::Proxy;
use crate::upstream::{Connection, Purpose};

/// What the proxy keeps at the moment, under the names of the limits that bound it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Kept {
    /// Unanswered commands of the client that has most.
    pub session_requests: usize,
    /// Bytes of unanswered commands of the client that has most; the last of them may be over the limit.
    pub session_bytes: usize,
    /// Bytes of all clients' commands that are unfinished or wait unread.
    pub input_bytes: usize,
    /// Bytes of unanswered commands on the connection that has most, with the few bytes that the proxy
    /// puts before some of them. Connections that carry subscriptions count by themselves.
    pub connection_bytes: usize,
    /// Bytes of all clients' replies that wait for those before them or for their other parts.
    pub waiting_reply_bytes: usize,
    /// Bytes of commands that wait for a node or a topology.
    pub held_bytes: usize,
    /// Bytes of copies that wait for the mirror that has most.
    pub mirror_bytes: usize,
    /// Bytes of all clients' subscriptions.
    pub subscription_bytes: usize,
    /// Bytes of unanswered commands on the connection that has most, of those that carry subscriptions.
    pub subscriber_bytes: usize,
    /// Bytes of scripts that are remembered.
    pub script_bytes: usize,
}

impl Proxy {
    /// What the proxy keeps at the moment.
    #[must_use]
    pub fn kept(&self) -> Kept {
        let sessions = || self.sessions.iter().map(|(_, session)| session);
        let unanswered = |counts: fn(&Connection) -> bool| {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            most(connections.filter(|one| counts(one)).map(|one| one.pipeline.unanswered_bytes()))
        };
        Kept {
            session_requests: most(sessions().map(|session| session.pending.len())),
            session_bytes: most(sessions().map(|session| session.pending_bytes)),
            input_bytes: self.input_bytes,
            connection_bytes: unanswered(|one| one.purpose != Purpose::Subscriber),
            waiting_reply_bytes: self.requests.reply_bytes(),
            held_bytes: self.hold.bytes(),
            mirror_bytes: most(self.mirror_bytes.iter().copied()),
            subscription_bytes: self.pubsub.bytes(),
            subscriber_bytes: unanswered(|one| one.purpose == Purpose::Subscriber),
            script_bytes: self.scripts.bytes(),
        }
    }
}

fn most(counts: impl Iterator<Item = usize>) -> usize {
    counts.max().unwrap_or_default()
}
