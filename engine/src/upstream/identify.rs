//! Whether the node at the other end is the one that was meant. Another Redis may answer at an
//! address that was a node's: writes that it took would be lost.
//!
//! Nothing of a client has been written before: see [`super::handshake`].

use crate::cluster::{Address, Cluster, Expected, NodeId, Topology};
use crate::ids::ConnectionId;
use crate::output::LogLevel;
use crate::resp::Reply;
use crate::time::Instant;
use crate::upstream::Upstream;
use crate::upstream::connection::{Connection, Purpose};
use crate::upstream::receive::Received;

/// What a node has answered to the question who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Answer<'a> {
    /// An id.
    Id(&'a [u8]),
    /// An error that no node of a cluster gives.
    Error(&'a [u8]),
    /// Nothing that tells who it is.
    NoProof(NoProof),
}

/// Why a node does not say who it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum NoProof {
    /// The user may not ask, or the server knows the command but not this question.
    Unknown,
    /// A script runs, and nothing else does.
    Busy,
    /// Its data is being loaded: it cannot say yet.
    Loading,
}

impl Upstream {
    /// Takes the reply to CLUSTER MYID.
    pub(super) fn receive_node_id(
        &mut self,
        id: ConnectionId,
        reply: &[u8],
        now: Instant,
    ) -> Received {
        let Some((cluster, address)) = self.other_end(id) else { return Received::Closed };
        let text = match (cluster.expected_at(address), Answer::of(Reply::new(reply))) {
            // Whoever answers now need not be the node that was there: what waits goes elsewhere.
            (Expected::Nobody, _) => return self.refuse(id, "the topology names it no more", now),
            (_, Answer::NoProof(why)) => return self.take_no_proof(id, why, reply, now),
            (Expected::Anybody, Answer::Id(_)) => return Received::Own,
            (Expected::Node(expected), Answer::Id(text))
                if NodeId::parse(text).as_ref() == Some(expected) =>
            {
                return Received::Own;
            }
            (_, Answer::Id(text)) => format!("its id is {}", String::from_utf8_lossy(text)),
            (_, Answer::Error(text)) => {
                format!("it answered CLUSTER MYID with '{}'", String::from_utf8_lossy(text))
            }
        };
        let what = match cluster.expected_at(address) {
            Expected::Node(expected) => format!("it is not node {expected}: {text}"),
            Expected::Anybody | Expected::Nobody => text,
        };
        self.refuse_wrong(id, &what, now)
    }

    /// Takes the reply to CLUSTER SLOTS of a node that only a redirection has named.
    pub(super) fn receive_membership(
        &mut self,
        id: ConnectionId,
        reply: &[u8],
        now: Instant,
    ) -> Received {
        let Some((cluster, address)) = self.other_end(id) else { return Received::Closed };
        match Topology::parse(Reply::new(reply), address, 0) {
            Ok(view) if cluster.is_related(&view) => Received::Own,
            Ok(_) => self.refuse_wrong(id, "it is a node of another cluster", now),
            Err(error) => match Answer::of(Reply::new(reply)) {
                Answer::NoProof(why) => self.take_no_proof(id, why, reply, now),
                _ => self.refuse_wrong(id, &format!("it {error}"), now),
            },
        }
    }

    /// The cluster that a connection belongs to, and the address that it leads to.
    fn other_end(&self, id: ConnectionId) -> Option<(&Cluster, &Address)> {
        let connection = self.connections.get(id)?;
        Some((self.cluster(connection.cluster)?, &connection.address))
    }

    /// Takes an answer that says nothing of who the node is.
    fn take_no_proof(
        &mut self,
        id: ConnectionId,
        why: NoProof,
        reply: &[u8],
        now: Instant,
    ) -> Received {
        let Some(connection) = self.connections.get(id) else { return Received::Closed };
        match why {
            NoProof::Loading => self.refuse(id, "it is loading its data", now),
            // The command that ends the script must reach the node.
            NoProof::Busy if self.is_urgent(connection.purpose) => Received::Own,
            NoProof::Busy => self.refuse_all(id, reply),
            NoProof::Unknown => {
                self.note_unidentified(id, reply, now);
                Received::Own
            }
        }
    }

    /// Counts a node that cannot be asked who it is, and is trusted. Logs it, but not each time.
    fn note_unidentified(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let Some(Connection { cluster, address, .. }) = self.connections.get(id) else { return };
        self.stats.count(*cluster).upstream_cx_unidentified += 1;
        let Some(cluster) = self.clusters.get_mut(cluster.position()) else { return };
        if cluster.warnings.allows(now) {
            let error = Reply::new(reply).error_line().unwrap_or_default();
            let message = format!(
                "{address} of cluster '{}' is trusted without proof: it answered '{}'",
                cluster.config.name,
                String::from_utf8_lossy(error)
            );
            self.log(LogLevel::Warn, message);
        }
    }

    /// Closes a connection that leads to somebody else. The node at this address is left alone for
    /// a while, and the topology is asked for.
    fn refuse_wrong(&mut self, id: ConnectionId, reason: &str, now: Instant) -> Received {
        let Some(Connection { cluster, address, .. }) = self.connections.get(id) else {
            return Received::Closed;
        };
        self.stats.count(*cluster).upstream_cx_wrong_node += 1;
        let Some(cluster) = self.clusters.get_mut(cluster.position()) else {
            return Received::Closed;
        };
        // The end of the connection before may have been logged, and no later one is.
        if cluster.warnings.allows(now) {
            let name = &cluster.config.name;
            let message =
                format!("another Redis answers at {address} of cluster '{name}': {reason}");
            self.log(LogLevel::Warn, message);
        }
        self.refuse(id, reason, now)
    }

    /// Whether only commands that end others travel on such a connection.
    fn is_urgent(&self, purpose: Purpose) -> bool {
        matches!(purpose, Purpose::Shared(_, key) if key.lane == self.settings.urgent_lane)
    }
}

impl<'a> Answer<'a> {
    fn of(reply: Reply<'a>) -> Self {
        let Some(error) = reply.error_line() else {
            return Self::Id(reply.bulk().unwrap_or_default());
        };
        let code = error.split(|byte| *byte == b' ').next().unwrap_or_default();
        Self::NoProof(match code {
            b"NOPERM" | b"NOAUTH" => NoProof::Unknown,
            b"BUSY" => NoProof::Busy,
            b"LOADING" => NoProof::Loading,
            // A server that knows nothing of clusters says "unknown command".
            _ if error.to_ascii_lowercase().starts_with(b"err unknown subcommand") => {
                NoProof::Unknown
            }
            _ => return Self::Error(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_whether_the_node_cannot_tell_or_is_no_node() {
        let answer = |reply: &'static str| Answer::of(Reply::new(reply.as_bytes()));
        assert_eq!(answer("$3\r\nabc\r\n"), Answer::Id(b"abc"));
        assert_eq!(
            answer("-NOPERM this user has no permissions\r\n"),
            Answer::NoProof(NoProof::Unknown)
        );
        assert_eq!(
            answer("-NOAUTH Authentication required.\r\n"),
            Answer::NoProof(NoProof::Unknown)
        );
        let unknown = "ERR unknown command 'CLUSTER'";
        assert_eq!(answer("-ERR unknown command 'CLUSTER'\r\n"), Answer::Error(unknown.as_bytes()));
        assert_eq!(
            answer("-ERR unknown subcommand 'MYID'. Try CLUSTER HELP.\r\n"),
            Answer::NoProof(NoProof::Unknown)
        );
        assert_eq!(
            answer("-ERR Unknown subcommand or wrong number\r\n"),
            Answer::NoProof(NoProof::Unknown)
        );
        assert_eq!(
            answer("-BUSY Redis is busy running a script\r\n"),
            Answer::NoProof(NoProof::Busy)
        );
        assert_eq!(answer("-LOADING Redis is loading\r\n"), Answer::NoProof(NoProof::Loading));
        let disabled = "ERR This instance has cluster support disabled";
        assert_eq!(
            answer("-ERR This instance has cluster support disabled\r\n"),
            Answer::Error(disabled.as_bytes())
        );
        assert_eq!(answer(":1\r\n"), Answer::Id(b""));
    }
}
