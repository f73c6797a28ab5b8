//! What the proxy adds to what nodes answer to PUBSUB.
//!
//! To a node, all clients of this worker that hear of a topic are one, and it does not know of a
//! topic that has just lost its node. So to the nodes' replies comes one more, in which the proxy
//! says what the nodes do not know.

use crate::command::{CommandSpec, TopicKind};
use crate::features::pubsub::PubSub;
use crate::features::pubsub::glob::matches;
use crate::resp::{RequestFrame, encode};

impl PubSub {
    /// What the proxy knows beside the nodes about subscriptions, as the reply of one more node;
    /// `None` if the command is about something else.
    pub(crate) fn known(&self, spec: &CommandSpec, frame: &RequestFrame<'_>) -> Option<Vec<u8>> {
        let mut reply = Vec::new();
        match spec.name {
            "pubsub|channels" => self.write_topics(TopicKind::Channel, frame.arg(2), &mut reply),
            "pubsub|shardchannels" => {
                self.write_topics(TopicKind::ShardChannel, frame.arg(2), &mut reply);
            }
            "pubsub|numsub" => self.write_counts(TopicKind::Channel, frame, &mut reply),
            "pubsub|shardnumsub" => self.write_counts(TopicKind::ShardChannel, frame, &mut reply),
            "pubsub|numpat" => {
                let patterns = self.registry.topics(TopicKind::Pattern);
                let unknown = patterns.filter(|(_, pattern)| pattern.link.is_none()).count();
                encode::integer(&mut reply, i64::try_from(unknown).unwrap_or(i64::MAX));
            }
            _ => return None,
        }
        Some(reply)
    }

    /// The topics that clients are subscribed to, those that fit the pattern if there is one.
    fn write_topics(&self, kind: TopicKind, pattern: Option<&[u8]>, out: &mut Vec<u8>) {
        let fits = |name: &[u8]| pattern.is_none_or(|pattern| matches(pattern, name));
        let names = || self.registry.topics(kind).map(|(name, _)| name).filter(|name| fits(name));
        encode::array_header(out, names().count());
        names().for_each(|name| encode::bulk(out, name));
    }

    /// Each topic that the command names, and how many more clients hear of it than nodes know.
    fn write_counts(&self, kind: TopicKind, frame: &RequestFrame<'_>, out: &mut Vec<u8>) {
        let names = || frame.args().skip(2);
        encode::array_header(out, names().count() * 2);
        for name in names() {
            encode::bulk(out, name);
            encode::integer(out, self.registry.subscribers(kind, name).unknown_to_nodes());
        }
    }
}
