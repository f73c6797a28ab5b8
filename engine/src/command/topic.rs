//! What can be subscribed to.

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
