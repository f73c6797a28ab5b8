//! What can be subscribed to.

use std::collections::BTreeMap;
use std::rc::Rc;

/// What a SUBSCRIBE names.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TopicKind {
    /// `SUBSCRIBE`: a name.
    Channel,
    /// `PSUBSCRIBE`: all channels whose names fit a pattern.
    Pattern,
    /// `SSUBSCRIBE`: a name that has a slot, and is known only to the nodes of that shard.
    ShardChannel,
}

impl TopicKind {
    /// The command that subscribes to it, as nodes write it in their confirmation.
    pub(crate) fn subscribe(self) -> &'static [u8] {
        match self {
            Self::Channel => b"subscribe",
            Self::Pattern => b"psubscribe",
            Self::ShardChannel => b"ssubscribe",
        }
    }

    /// The command that ends a subscription, as nodes write it in their confirmation.
    pub(crate) fn unsubscribe(self) -> &'static [u8] {
        match self {
            Self::Channel => b"unsubscribe",
            Self::Pattern => b"punsubscribe",
            Self::ShardChannel => b"sunsubscribe",
        }
    }
}

/// Something for each of some topics, in the order of their names.
#[derive(Debug)]
pub(crate) struct Topics<T> {
    channels: BTreeMap<Rc<[u8]>, T>,
    patterns: BTreeMap<Rc<[u8]>, T>,
    shard_channels: BTreeMap<Rc<[u8]>, T>,
}

impl<T> Topics<T> {
    pub(crate) fn get(&self, kind: TopicKind) -> &BTreeMap<Rc<[u8]>, T> {
        match kind {
            TopicKind::Channel => &self.channels,
            TopicKind::Pattern => &self.patterns,
            TopicKind::ShardChannel => &self.shard_channels,
        }
    }

    pub(crate) fn get_mut(&mut self, kind: TopicKind) -> &mut BTreeMap<Rc<[u8]>, T> {
        match kind {
            TopicKind::Channel => &mut self.channels,
            TopicKind::Pattern => &mut self.patterns,
            TopicKind::ShardChannel => &mut self.shard_channels,
        }
    }

    /// What Redis counts together: channels and patterns, or shard channels.
    pub(crate) fn count(&self, kind: TopicKind) -> usize {
        match kind {
            TopicKind::Channel | TopicKind::Pattern => self.channels.len() + self.patterns.len(),
            TopicKind::ShardChannel => self.shard_channels.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count(TopicKind::Channel) + self.count(TopicKind::ShardChannel) == 0
    }

    /// What belongs to the topics, of all kinds.
    pub(crate) fn into_values(self) -> impl Iterator<Item = T> {
        let Self { channels, patterns, shard_channels } = self;
        channels.into_values().chain(patterns.into_values()).chain(shard_channels.into_values())
    }
}

impl<T> Default for Topics<T> {
    fn default() -> Self {
        Self {
            channels: BTreeMap::new(),
            patterns: BTreeMap::new(),
            shard_channels: BTreeMap::new(),
        }
    }
}
