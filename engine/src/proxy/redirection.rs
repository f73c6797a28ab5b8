//! What becomes of a command that a node has not executed but sent elsewhere, or refused for now.

use std::time::Duration;

use super::Proxy;
use crate::cluster::{Address, ErrorReply, News, NodeIndex, Redirection};
use crate::config::{ClusterConfig, ReadPolicy};
use crate::output::LogLevel;
use crate::request::{Leave, SubRequestId, Way};
use crate::time::Instant;
use crate::upstream::{ConnectionId, Purpose};

/// A command that nodes have sent on this often waits before it follows them further.
const REDIRECTIONS: u8 = 5;

/// A node that may not be dialled is logged this often at most.
const QUIET: Duration = Duration::from_secs(10);

/// What Redis says to a command whose keys it cannot find in one node while their slot moves.
const TRYAGAIN: &[u8] = b"TRYAGAIN Multiple keys request during rehashing of slot";

impl Proxy {
    /// Follows an error that means "not executed here".
    pub(super) fn send_elsewhere(
        &mut self,
        from: ConnectionId,
        sub_request: SubRequestId,
        error: ErrorReply,
        reply: &[u8],
        command: &[u8],
        now: Instant,
    ) {
        if let (ErrorReply::Moved(_) | ErrorReply::Ask(_), false) =
            (&error, self.config.enable_redirection)
        {
            return self.take_reply(sub_request, reply);
        }
        let request = self.requests.get(sub_request.request);
        if request.is_some_and(|request| request.way == Way::WatchedExec) {
            return self.fail_watched(sub_request);
        }
        let Some(cluster) = self.connections.get(from).map(|from| from.cluster) else { return };
        self.stats.upstream(cluster).upstream_rq_retry += 1;
        let followed = match &error {
            ErrorReply::Moved(to) => {
                self.stats.upstream(cluster).redirect_moved += 1;
                self.follow(from, sub_request, to, Leave::Owner, command, now)
            }
            ErrorReply::Ask(to) => {
                self.stats.upstream(cluster).redirect_ask += 1;
                self.follow(from, sub_request, to, Leave::Asked, command, now)
            }
            ErrorReply::NotNow | ErrorReply::Unable => {
                self.read_elsewhere(from, sub_request, command, now)
            }
            ErrorReply::Final => None,
        };
        if followed.is_none() {
            let refusal = self.refusal_of(from, &error, reply);
            if let Some(request) = self.requests.get_mut(sub_request.request) {
                request.extra_mut().refusal = refusal;
            }
            if let Some(cluster) = self.cluster_of(from) {
                cluster.refresh.hurry_for_waiting(now);
            }
            if error == ErrorReply::Unable {
                self.ask_heirs_of(from, now);
            }
            self.hold(sub_request, command, now);
        }
    }

    /// What a client is told in the end if an error that could not be followed was the last word.
    fn refusal_of(&self, from: ConnectionId, error: &ErrorReply, reply: &[u8]) -> Vec<u8> {
        if let ErrorReply::Moved(to) | ErrorReply::Ask(to) = error
            && let Some(connection) = self.connections.get(from)
            && let Some(cluster) = self.clusters.get(connection.cluster)
            && let Some(target) = to.target(&connection.address)
            && !cluster.config.allows(&target)
        {
            return not_allowed(&cluster.config, &target).into_bytes();
        }
        if matches!(error, ErrorReply::Ask(_)) {
            return TRYAGAIN.to_vec();
        }
        let text = reply.strip_prefix(b"-").unwrap_or(reply);
        text.strip_suffix(b"\r\n").unwrap_or(text).to_vec()
    }

    /// Sends a command where a redirection points; `None` if that is to be tried later.
    fn follow(
        &mut self,
        from: ConnectionId,
        sub_request: SubRequestId,
        to: &Redirection,
        leave: Leave,
        command: &[u8],
        now: Instant,
    ) -> Option<()> {
        let request = self.requests.get(sub_request.request)?;
        let several_keys = request.part(sub_request.part)?.several_keys;
        if leave == Leave::Asked && several_keys {
            // Some of them may still be here, where commands behind this one would be served.
            if self.is_followed(sub_request) {
                return None;
            }
            self.keep_alone(sub_request);
        }
        let part = self.requests.get_mut(sub_request.request)?.part_mut(sub_request.part)?;
        part.redirections += 1;
        if part.redirections > REDIRECTIONS {
            return None;
        }
        let node = self.heed(from, to, leave, now)?;
        self.send_to(node, sub_request, command, leave, now);
        Some(())
    }

    /// Learns what a redirection tells. Returns the node that it leads to; `None` if that may not be
    /// asked.
    pub(super) fn heed(
        &mut self,
        from: ConnectionId,
        to: &Redirection,
        leave: Leave,
        now: Instant,
    ) -> Option<NodeIndex> {
        let connection = self.connections.get(from)?;
        let (index, from) = (connection.cluster, connection.address.clone());
        let target = to.target(&from)?;
        let cluster = self.clusters.get_mut(index)?;
        if !cluster.config.allows(&target) {
            cluster.refresh.note_redirection(now, &cluster.config);
            self.note_not_allowed(index, &target, 1, now);
            return None;
        }
        let learnt = match leave {
            Leave::Owner => cluster.learn(to.slot, &from, &target, now),
            Leave::Asked => cluster.find_or_learn(&target).map(|node| (node, News::None)),
        };
        let Some((node, news)) = learnt else {
            cluster.refresh.note_redirection(now, &cluster.config);
            self.stats.upstream(index).max_upstream_unknown_connections_reached += 1;
            return None;
        };
        match news {
            News::None => cluster.refresh.note_redirection(now, &cluster.config),
            News::Slot | News::Shard => {
                cluster.refresh.note_move(now, &cluster.config);
                self.note_new_owners();
            }
        }
        if news == News::Shard {
            let message = format!("{from} says that {target} has taken its place");
            self.log(LogLevel::Info, message);
            self.move_subscriptions(now);
        }
        Some(node)
    }

    /// Counts nodes that were named and may not be dialled, `address` being one of them. Logs it, but
    /// not each time.
    pub(super) fn note_not_allowed(
        &mut self,
        index: usize,
        address: &Address,
        count: u64,
        now: Instant,
    ) {
        self.stats.upstream(index).upstream_node_not_allowed += count;
        let Some(cluster) = self.clusters.get_mut(index) else { return };
        if now < cluster.quiet_until {
            return;
        }
        cluster.quiet_until = now + QUIET;
        let message = not_allowed(&cluster.config, address);
        self.log(LogLevel::Warn, message);
    }

    /// Sends a read that a node cannot serve now to another one that may; `None` if it is no such
    /// read, or enough have been tried.
    fn read_elsewhere(
        &mut self,
        from: ConnectionId,
        sub_request: SubRequestId,
        command: &[u8],
        now: Instant,
    ) -> Option<()> {
        let request = self.requests.waiting(sub_request.request)?;
        let part = request.part_mut(sub_request.part)?;
        part.redirections += 1;
        if part.policy == ReadPolicy::Master || part.redirections > REDIRECTIONS {
            return None;
        }
        let Purpose::Shared(node, _) = self.connections.get(from)?.purpose else { return None };
        self.cluster_of(from)?.node_mut(node)?.note_refusal(now);
        self.send(sub_request, command, now);
        Some(())
    }
}

/// Why a node is not dialled.
pub(super) fn not_allowed(config: &ClusterConfig, address: &Address) -> String {
    let name = &config.name;
    format!(
        "CLUSTERDOWN {address} is named as a node, but allowed_nodes of cluster '{name}' does not allow it"
    )
}
