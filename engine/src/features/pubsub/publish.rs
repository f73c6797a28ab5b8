//! Sending messages off, and counting who receives them.

use crate::command::TopicKind;
use crate::downstream::Caller;
use crate::errors;
use crate::exchange::{Command, Exchange};
use crate::features::pubsub::PubSub;
use crate::flight::{Completion, Part, State};
use crate::ids::{ClusterId, NodeIndex, PartId};
use crate::target::Target;

impl PubSub {
    /// Sends a message to the node that its receivers are subscribed at.
    pub(crate) fn publish(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        kind: TopicKind,
        command: &Command<'_>,
    ) {
        let Some(cluster) = x.routes.keyless().map(|route| route.cluster) else {
            return x.answer_failure(caller, command, errors::NO_ROUTE);
        };
        let channel = command.frame.arg(1).unwrap_or_default();
        let target = match x.target_of_message(kind, channel, cluster) {
            // Where the receivers are known, as long as that node is healthy.
            Target::Home(_) => Target::Home(self.home_node(x)),
            target => target,
        };
        let completion = match self.more_receivers(x, kind, channel, cluster) {
            0 => Completion::Deliver,
            more_receivers => Completion::Publish { more_receivers },
        };
        let state = State::Whole(Part::new(cluster, target));
        let Some(request) = x.begin(caller, command, state, completion) else { return };
        x.send(PartId::whole(request), command.frame.bytes());
        x.mirror_message(request, kind, command);
    }

    /// The node at which channels are subscribed.
    fn home_node(&self, x: &Exchange) -> Option<NodeIndex> {
        let home = self.registry.home?;
        x.upstream.find_member(x.upstream.cluster_of(home)?, x.upstream.address(home)?)
    }

    /// To a node, all clients of this worker that hear of a topic are one. So many more there are,
    /// if they are subscribed at the node that the message goes to.
    fn more_receivers(
        &self,
        x: &Exchange,
        kind: TopicKind,
        channel: &[u8],
        cluster: ClusterId,
    ) -> i64 {
        let (connection, node) = match kind {
            TopicKind::ShardChannel => {
                let topic = self.registry.find(kind, channel).and_then(|id| self.registry.get(id));
                let link = topic.and_then(|topic| topic.link);
                (link.map(|link| link.connection), Self::owner_of(x, channel))
            }
            TopicKind::Channel | TopicKind::Pattern => {
                (self.registry.home, x.upstream.home(cluster, self.home_node(x), x.now()))
            }
        };
        let there = connection.and_then(|connection| x.upstream.address(connection));
        let node = node.and_then(|node| x.upstream.node_address(cluster, node));
        if there.is_none() || there != node {
            return 0;
        }
        self.registry.receivers(kind, channel).unknown_to_nodes()
    }
}
