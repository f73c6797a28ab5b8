//! Keeping subscribed at nodes what clients are subscribed to.
//!
//! Channels and patterns are subscribed at one node, because what is published anywhere in a
//! cluster reaches all of them. It is the same node for all workers and proxies, and messages are
//! published there: so PUBLISH can count whom it reaches, and order is kept. A shard channel is
//! subscribed at the owner of its slot.

use std::time::Duration;

use crate::cluster::{Address, ErrorReply, NodeIndex, Redirection};
use crate::output::LogLevel;
use crate::proxy::upstream::Fate;
use crate::proxy::{PING, Proxy};
use crate::pubsub::wire::{self, Incoming};
use crate::pubsub::{Link, Registry, Subscription, SubscriptionId, TopicKind};
use crate::request::{Leave, State};
use crate::resp::{self, Reply};
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId, Expect, Purpose};

/// How long a subscription that no node takes now waits before it is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The same where a node has refused it for good, as far as nodes know.
const REFUSED_PAUSE: Duration = Duration::from_secs(1);
/// A connection on which nothing has come for so long is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(10);
/// A connection that carries no subscription any more is closed when it has been quiet for so long.
const UNUSED: Duration = Duration::from_secs(30);
/// A subscription that nodes have sent on this often waits before it follows them further.
const REDIRECTIONS: u8 = 5;

impl Proxy {
    /// Subscribes at nodes what is not yet; what cannot be now is tried again soon.
    pub(in crate::proxy) fn place_subscriptions(&mut self, now: Instant) {
        for id in self.pubsub.take_unplaced() {
            let is_unplaced = |subscription: &Subscription| subscription.link.is_none();
            if self.pubsub.get(id).is_some_and(is_unplaced) && self.place(id, now).is_none() {
                self.pubsub.put_back(id);
                let pause = self.rng.jitter(RETRY_PAUSE);
                self.pubsub.retry_at(now + pause);
            }
        }
    }

    /// The slots have other owners, or nodes have left: subscriptions follow.
    pub(in crate::proxy) fn move_subscriptions(&mut self, now: Instant) {
        for id in self.pubsub.connections.clone() {
            let Some(connection) = self.connections.get(id) else { continue };
            let cluster = self.clusters.get_mut(connection.cluster);
            if cluster.is_some_and(|cluster| cluster.member_mut(&connection.address).is_none()) {
                self.give_up(id, "the node has left the cluster", now);
            }
        }
        if let Some(home) = self.pubsub.home.filter(|home| !self.is_home(*home, now)) {
            self.pubsub.home = None;
            for id in self.pubsub.at(home).collect::<Vec<_>>() {
                let kind = self.pubsub.get(id).map(|subscription| subscription.kind);
                if kind != Some(TopicKind::ShardChannel) {
                    self.leave_node(home, id);
                }
            }
        }
        for id in self.pubsub.shard_channels().copied().collect::<Vec<_>>() {
            let Some(subscription) = self.pubsub.get(id) else { continue };
            let Some(link) = subscription.link else { continue };
            let Some(connection) = self.connections.get(link.connection) else { continue };
            let address = &connection.address;
            if self.owner_of(&subscription.name).is_some_and(|owner| !self.is_at(owner, address)) {
                self.leave_node(link.connection, id);
            }
        }
        self.place_subscriptions(now);
    }

    /// Ends at its node a subscription that no client wants any more.
    pub(super) fn unsubscribe_node(&mut self, subscription: &Subscription) {
        let Some(Link { connection, .. }) = subscription.link else { return };
        let mut command = self.buffers.take();
        wire::command(&mut command, subscription.kind.unsubscribe(), &subscription.name);
        self.tell(connection, Expect::Subscription, &command);
        self.buffers.recycle(command);
    }

    /// Takes what a node sends on a connection that carries subscriptions.
    pub(in crate::proxy) fn handle_subscriber_frame(
        &mut self,
        id: ConnectionId,
        frame: &[u8],
        now: Instant,
    ) -> Fate {
        let incoming = Incoming::parse(frame);
        match incoming {
            Incoming::Message(kind, name) => {
                let topic = self.pubsub.find(kind, name).and_then(|topic| self.pubsub.get(topic));
                if topic.is_some_and(|topic| topic.is_at(id)) {
                    self.publish_to_clients(kind, name, frame);
                }
            }
            Incoming::Subscribed(kind, name) => {
                if self.pop_expected(id, &incoming) {
                    self.note_confirmed(id, kind, name);
                }
            }
            Incoming::Unsubscribed(kind, name) => {
                if !self.pop_expected(id, &incoming) {
                    self.note_revoked(id, kind, name, now);
                }
            }
            Incoming::Reply => self.handle_subscriber_reply(id, frame, now),
        }
        Fate::Kept
    }

    /// A connection that carried subscriptions has gone: they go elsewhere. Clients do not notice,
    /// except that they miss what is published meanwhile.
    pub(in crate::proxy) fn lose_subscriber(
        &mut self,
        id: ConnectionId,
        connection: &Connection,
        reason: &str,
        now: Instant,
    ) {
        self.pubsub.forget(id);
        for subscription in self.pubsub.at(id).collect::<Vec<_>>() {
            self.pubsub.unlink(subscription);
        }
        let Some(cluster) = self.clusters.get_mut(connection.cluster) else { return };
        cluster.refresh.hurry(now);
        let node = cluster.member_mut(&connection.address).filter(|_| !connection.answered);
        let is_news = node.is_none_or(|node| node.note_failure(now, &mut self.rng));
        if is_news {
            let message = format!(
                "the connection for subscriptions to {} of cluster '{}' ended: {reason}",
                connection.address, cluster.config.name
            );
            self.log(LogLevel::Warn, message);
        }
        self.place_subscriptions(now);
    }

    /// Asks nodes that have sent nothing for long whether they are there: one that answers nothing
    /// is given up as on any other connection. Where nobody is subscribed any more they are not asked,
    /// and the connection is closed in the end.
    pub(in crate::proxy) fn ping_quiet_subscribers(&mut self, now: Instant) {
        for id in self.pubsub.connections.clone() {
            let Some(connection) = self.connections.get(id) else { continue };
            let quiet = now.saturating_duration_since(connection.silent_since);
            if quiet < QUIET || !connection.pipeline.is_empty() {
                continue;
            }
            if self.pubsub.at(id).next().is_some() {
                // Else it would look dead.
                self.tell(id, Expect::Nothing, PING);
            } else if quiet >= UNUSED {
                self.pubsub.forget(id);
                self.close_quietly(id);
            }
        }
    }

    /// Ends a subscription where it is, to be placed anew.
    fn leave_node(&mut self, connection: ConnectionId, id: SubscriptionId) {
        let Some(subscription) = self.pubsub.get(id) else { return };
        self.say(connection, subscription.kind.unsubscribe(), id);
        self.pubsub.unlink(id);
    }

    /// Asks a node for a subscription, or refuses it where too many commands wait already; `None` if
    /// no node can be asked now.
    fn place(&mut self, id: SubscriptionId, now: Instant) -> Option<()> {
        let subscription = self.pubsub.get(id)?;
        let kind = subscription.kind;
        let connection = match (kind, self.pubsub.home) {
            (TopicKind::ShardChannel, _) => {
                let owner = self.owner_of(&subscription.name)?;
                self.subscriber_connection(owner, now)?
            }
            (_, Some(home)) => home,
            (_, None) => {
                let cluster = self.routes.keyless()?.cluster;
                let node = self.clusters.get(cluster)?.home(now)?;
                let home = self.subscriber_connection(node, now)?;
                *self.pubsub.home.insert(home)
            }
        };
        if let Some(refusal) = self.crowded(connection, id) {
            self.pubsub.put_back(id);
            self.refuse_subscription(id, refusal.as_bytes(), now);
            return Some(());
        }
        self.pubsub.get_mut(id)?.link = Some(Link { connection, confirmed: false });
        self.say(connection, kind.subscribe(), id);
        Some(())
    }

    /// The connection that carries subscriptions at a node, opened if need be.
    fn subscriber_connection(&mut self, node: NodeIndex, now: Instant) -> Option<ConnectionId> {
        let cluster = self.routes.keyless()?.cluster;
        let address = self.clusters.get(cluster)?.node(node)?.address.clone();
        let known = self.pubsub.connections.iter().copied().find(|id| {
            self.connections.get(*id).is_some_and(|connection| connection.address == address)
        });
        if known.is_some() {
            return known;
        }
        if !self.may_connect(cluster, node, now) {
            return None;
        }
        let id = self.open_connection(cluster, address, Purpose::Subscriber, now);
        self.pubsub.connections.push(id);
        Some(id)
    }

    /// Why no further subscription may be asked for on a connection; `None` if there is room for that,
    /// and for ending all that has been asked for on it: that may not be refused. Each takes less than
    /// it is counted as.
    fn crowded(&self, connection: ConnectionId, id: SubscriptionId) -> Option<String> {
        let connection = self.connections.get(connection)?;
        let wanted = Registry::cost(&self.pubsub.get(id)?.name);
        let unanswered = connection.pipeline.unanswered_bytes().saturating_add(wanted);
        let most = unanswered.saturating_add(self.pubsub.bytes());
        (most > self.config.limits.subscriber_bytes).then(|| connection.crowded())
    }

    /// Queues `verb` with the name of a subscription.
    fn say(&mut self, connection: ConnectionId, verb: &[u8], id: SubscriptionId) {
        let Some(subscription) = self.pubsub.get(id) else { return };
        let mut command = self.buffers.take();
        wire::command(&mut command, verb, &subscription.name);
        self.tell(connection, Expect::Subscription, &command);
        self.buffers.recycle(command);
    }

    /// Queues a command to a node.
    fn tell(&mut self, id: ConnectionId, expect: Expect, command: &[u8]) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        if connection.pipeline.is_empty() {
            connection.silent_since = self.now;
        }
        connection.pipeline.push(expect, command);
        self.queue_write_upstream(id);
    }

    /// Takes the oldest command out of the pipeline if this is what it asked for.
    fn pop_expected(&mut self, id: ConnectionId, confirmation: &Incoming<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(id) else { return false };
        let fits = connection.pipeline.front().map(Incoming::parse).as_ref() == Some(confirmation);
        if fits {
            connection.pipeline.pop();
        }
        fits
    }

    fn note_confirmed(&mut self, id: ConnectionId, kind: TopicKind, name: &[u8]) {
        let Some(topic) = self.pubsub.find(kind, name) else { return };
        let Some(subscription) = self.pubsub.get_mut(topic) else { return };
        match &mut subscription.link {
            Some(link) if link.connection == id => link.confirmed = true,
            _ => return,
        }
        subscription.redirections = 0;
        for request in std::mem::take(&mut subscription.waiting) {
            let Some(waiting) = self.requests.waiting(request) else { continue };
            let State::Subscribing(subscribing) = &mut waiting.state else { continue };
            subscribing.missing = subscribing.missing.saturating_sub(1);
            if subscribing.missing == 0 {
                self.finish_subscribe(request);
            }
        }
    }

    /// A node has ended a subscription by itself: a shard channel's slot has moved.
    fn note_revoked(&mut self, id: ConnectionId, kind: TopicKind, name: &[u8], now: Instant) {
        let Some(topic) = self.pubsub.find(kind, name) else { return };
        if self.pubsub.get(topic).is_some_and(|subscription| subscription.is_at(id)) {
            self.pubsub.unlink(topic);
            self.hurry_refresh(id, now);
            // If the old owner is still taken for the owner, it tells the new one now.
            self.place_subscriptions(now);
        }
    }

    /// Takes the reply to a command: to a PING, or an error.
    fn handle_subscriber_reply(&mut self, id: ConnectionId, reply: &[u8], now: Instant) {
        let error = Reply::new(reply).error_line();
        let Some(connection) = self.connections.get_mut(id) else { return };
        let Some(asked) = connection.pipeline.front().map(<[u8]>::to_vec) else { return };
        let asked = Incoming::parse(&asked);
        let refusal = error.map_or(ErrorReply::Final, ErrorReply::of);
        if let (ErrorReply::Moved(to), Incoming::Subscribed(_, name)) = (&refusal, &asked)
            && to.slot != self.routes.slot(connection.cluster, name)
        {
            // The reply to an SUNSUBSCRIBE that crossed the node's own.
            return;
        }
        connection.pipeline.pop();
        let (Some(error), Incoming::Subscribed(kind, name)) = (error, asked) else { return };
        let topic = self.pubsub.find(kind, name);
        let Some(topic) = topic.filter(|topic| {
            self.pubsub.get(*topic).is_some_and(|subscription| subscription.is_at(id))
        }) else {
            return;
        };
        self.pubsub.unlink(topic);
        match refusal {
            ErrorReply::Moved(to) if self.config.enable_redirection => {
                self.follow_slot(id, topic, &to, now);
            }
            ErrorReply::NotNow | ErrorReply::Unable | ErrorReply::Ask(_) => {
                self.hurry_refresh(id, now);
                self.pubsub.retry_at(now + RETRY_PAUSE);
            }
            ErrorReply::Moved(_) | ErrorReply::Final => self.refuse_subscription(topic, error, now),
        }
    }

    /// Subscribes to a shard channel where its slot is said to live.
    fn follow_slot(
        &mut self,
        from: ConnectionId,
        topic: SubscriptionId,
        to: &Redirection,
        now: Instant,
    ) {
        if let Some(connection) = self.connections.get(from) {
            self.stats.upstream(connection.cluster).redirect_moved += 1;
        }
        self.heed(from, to, Leave::Owner, now);
        let Some(subscription) = self.pubsub.get_mut(topic) else { return };
        subscription.redirections = subscription.redirections.saturating_add(1);
        if subscription.redirections > REDIRECTIONS {
            subscription.redirections = 0;
            self.hurry_refresh(from, now);
            self.pubsub.retry_at(now + RETRY_PAUSE);
        } else {
            self.place_subscriptions(now);
        }
    }

    /// A node will not have a subscription, or there is no room to ask: whoever waits for it is told
    /// so, and whoever had it hopes on.
    fn refuse_subscription(&mut self, topic: SubscriptionId, error: &[u8], now: Instant) {
        let Some(subscription) = self.pubsub.get_mut(topic) else { return };
        let waiting = std::mem::take(&mut subscription.waiting);
        let mut reply = self.buffers.take();
        resp::encode::error(&mut reply, error);
        for request in waiting {
            self.abandon_subscribe(request);
            self.deliver(request, &reply);
        }
        self.buffers.recycle(reply);
        self.pubsub.retry_at(now + REFUSED_PAUSE);
    }

    /// The node that owns the slot of a shard channel.
    pub(super) fn owner_of(&self, channel: &[u8]) -> Option<NodeIndex> {
        let cluster = self.routes.keyless()?.cluster;
        self.clusters.get(cluster)?.owner(self.routes.slot(cluster, channel))
    }

    /// Whether this connection leads where channels and patterns belong.
    fn is_home(&self, connection: ConnectionId, now: Instant) -> bool {
        let cluster = self.routes.keyless().and_then(|route| self.clusters.get(route.cluster));
        let home = cluster.and_then(|cluster| cluster.home(now));
        let connection = self.connections.get(connection);
        connection.zip(home).is_some_and(|(connection, home)| self.is_at(home, &connection.address))
    }

    /// Whether this is the address of a node.
    pub(super) fn is_at(&self, node: NodeIndex, address: &Address) -> bool {
        let cluster = self.routes.keyless().and_then(|route| self.clusters.get(route.cluster));
        let node = cluster.and_then(|cluster| cluster.node(node));
        node.is_some_and(|node| node.address == *address)
    }

    fn hurry_refresh(&mut self, connection: ConnectionId, now: Instant) {
        let Some(connection) = self.connections.get(connection) else { return };
        if let Some(cluster) = self.clusters.get_mut(connection.cluster) {
            cluster.refresh.hurry(now);
        }
    }
}
