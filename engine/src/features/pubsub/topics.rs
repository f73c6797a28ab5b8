//! Something for each topic of a kind, by its name.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::command::TopicKind;

/// Something for each of some topics, in the order of their names.
#[derive(Debug)]
pub(super) struct Topics<T> {
    channels: BTreeMap<Rc<[u8]>, T>,
    patterns: BTreeMap<Rc<[u8]>, T>,
    shard_channels: BTreeMap<Rc<[u8]>, T>,
}

impl<T> Topics<T> {
    pub(super) fn get(&self, kind: TopicKind) -> &BTreeMap<Rc<[u8]>, T> {
        match kind {
            TopicKind::Channel => &self.channels,
            TopicKind::Pattern => &self.patterns,
            TopicKind::ShardChannel => &self.shard_channels,
        }
    }

    pub(super) fn get_mut(&mut self, kind: TopicKind) -> &mut BTreeMap<Rc<[u8]>, T> {
        match kind {
            TopicKind::Channel => &mut self.channels,
            TopicKind::Pattern => &mut self.patterns,
            TopicKind::ShardChannel => &mut self.shard_channels,
        }
    }

    /// What Redis counts together: channels and patterns, or shard channels.
    pub(super) fn count(&self, kind: TopicKind) -> usize {
        match kind {
            TopicKind::Channel | TopicKind::Pattern => self.channels.len() + self.patterns.len(),
            TopicKind::ShardChannel => self.shard_channels.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count(TopicKind::Channel) + self.count(TopicKind::ShardChannel) == 0
    }

    /// What belongs to the topics, of all kinds.
    pub(super) fn into_values(self) -> impl Iterator<Item = T> {
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
