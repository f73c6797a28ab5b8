//! Sending messages off, and counting who receives them.

use crate::cluster::NodeIndex;
use crate::config::ReadPolicy;
use crate::proxy::Proxy;
use crate::proxy::command::Command;
use crate::pubsub::TopicKind;
use crate::request::{Owner, Part, RequestId, State, SubRequestId};
use crate::resp::Reply;
use crate::session::SessionId;
use crate::time::Instant;

impl Proxy {
    /// Sends a message to the node that its receivers are subscribed at: the owner of a shard
    /// channel's slot; for a channel any node would do, and it is the same one for all clients, so
    /// that what they publish stays in order.
    pub(in crate::proxy) fn publish(
        &mut self,
        id: SessionId,
        kind: TopicKind,
        command: Command<'_>,
        now: Instant,
    ) {
        let Some(cluster) = self.routes.keyless().map(|route| route.cluster) else {
            return self.answer_no_route(id, command.spec);
        };
        let channel = command.frame.arg(1).unwrap_or_default();
        let part = self.part_of_message(kind, channel, cluster);
        let more_receivers = self.more_receivers(kind, channel, cluster, now);
        let request = self.begin(Owner::Session(id), &command, State::Whole(part), now);
        let Some(request) = request else { return };
        if let Some(request) = self.requests.get_mut(request).filter(|_| more_receivers != 0) {
            request.extra_mut().more_receivers = more_receivers;
        }
        self.send(SubRequestId { request, part: 0 }, command.frame.bytes(), now);
        self.mirror_message(request, kind, command, now);
    }

    /// Where a message belongs in a cluster.
    pub(in crate::proxy) fn part_of_message(
        &self,
        kind: TopicKind,
        channel: &[u8],
        cluster: usize,
    ) -> Part {
        let is_sharded = kind == TopicKind::ShardChannel;
        let slot = is_sharded.then(|| self.routes.slot(cluster, channel));
        Part::new(cluster, slot, ReadPolicy::Master)
    }

    /// The reply to a PUBLISH with those receivers counted that the node does not know of; `None` if
    /// it is right as it is.
    pub(in crate::proxy) fn count_receivers(&self, id: RequestId, reply: &[u8]) -> Option<i64> {
        let more = Some(self.requests.get(id)?.extra().more_receivers).filter(|more| *more != 0)?;
        let count = Reply::new(reply).integer()?;
        Some(count.saturating_add(more).max(0))
    }

    /// To a node, all clients of this worker that hear of a topic are one. So many more there are,
    /// if they are subscribed at the node that the message goes to.
    fn more_receivers(&self, kind: TopicKind, channel: &[u8], cluster: usize, now: Instant) -> i64 {
        let (connection, node): (_, Option<NodeIndex>) = match kind {
            TopicKind::ShardChannel => {
                let topic = self.pubsub.find(kind, channel).and_then(|id| self.pubsub.get(id));
                (
                    topic.and_then(|topic| topic.link).map(|link| link.connection),
                    self.owner_of(channel),
                )
            }
            _ => {
                let cluster = self.clusters.get(cluster);
                (self.pubsub.home, cluster.and_then(|cluster| cluster.home(now)))
            }
        };
        let connection = connection.and_then(|id| self.connections.get(id));
        let (Some(connection), Some(node)) = (connection, node) else { return 0 };
        if !self.is_at(node, &connection.address) {
            return 0;
        }
        self.pubsub.receivers(kind, channel).unknown_to_nodes()
    }
}
