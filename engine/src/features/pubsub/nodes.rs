//! Keeping subscribed at nodes what clients are subscribed to.
//!
//! Channels and patterns are subscribed at one node, because what is published anywhere in a
//! cluster reaches all of them. It is the same node for all workers and proxies, and messages are
//! published there: so PUBLISH can count whom it reaches, and order is kept. A shard channel is
//! subscribed at the owner of its slot.

use std::time::Duration;

use crate::cluster::{ErrorReply, Redirection};
use crate::command::TopicKind;
use crate::exchange::Exchange;
use crate::features::pubsub::PubSub;
use crate::features::pubsub::registry::{Link, Registry, Subscription, SubscriptionId};
use crate::features::pubsub::wire::{self, Incoming};
use crate::ids::{ConnectionId, NodeIndex};
use crate::resp::{Reply, encode};
use crate::target::SendMode;
use crate::upstream::{Expect, PING};

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

impl PubSub {
    /// Subscribes at nodes what is not yet; what cannot be now is tried again soon.
    pub(crate) fn place(&mut self, x: &mut Exchange) {
        for id in self.registry.take_unplaced() {
            let is_unplaced = |subscription: &Subscription| subscription.link.is_none();
            if self.registry.get(id).is_some_and(is_unplaced) && self.place_one(x, id).is_none() {
                self.registry.put_back(id);
                let pause = x.rng.jitter(RETRY_PAUSE);
                self.registry.retry_at(x.now() + pause);
            }
        }
    }

    /// The slots have other owners, or nodes have left: subscriptions follow.
    pub(crate) fn follow_owners(&mut self, x: &mut Exchange) {
        let now = x.now();
        for id in self.registry.connections.clone() {
            let Some(cluster) = x.upstream.cluster_of(id) else { continue };
            let Some(address) = x.upstream.address(id) else { continue };
            if !x.upstream.is_member(cluster, address) {
                x.upstream.give_up(id, "the node has left the cluster", now);
            }
        }
        if let Some(home) = self.registry.home.filter(|home| !Self::is_home(x, *home)) {
            self.registry.home = None;
            for id in self.registry.at(home).collect::<Vec<_>>() {
                let kind = self.registry.get(id).map(|subscription| subscription.kind);
                if kind != Some(TopicKind::ShardChannel) {
                    self.leave_node(x, home, id);
                }
            }
        }
        for id in self.registry.shard_channels().copied().collect::<Vec<_>>() {
            let Some(subscription) = self.registry.get(id) else { continue };
            let Some(link) = subscription.link else { continue };
            let owner = Self::owner_of(x, &subscription.name);
            if owner.is_some_and(|owner| !Self::leads_to(x, link.connection, owner)) {
                self.leave_node(x, link.connection, id);
            }
        }
        self.place(x);
    }

    /// Ends at its node a subscription that no client wants any more.
    pub(super) fn unsubscribe_node(x: &mut Exchange, subscription: &Subscription) {
        if let Some(Link { connection, .. }) = subscription.link {
            tell(x, connection, subscription.kind.unsubscribe(), &subscription.name);
        }
    }

    /// Takes what a node sends on a connection that carries subscriptions.
    pub(crate) fn take_frame(&mut self, x: &mut Exchange, id: ConnectionId, frame: &[u8]) {
        let incoming = Incoming::parse(frame);
        match incoming {
            Incoming::Message(kind, name) => {
                let topic = self.registry.find(kind, name);
                // Before the confirmation comes what the node has sent for an earlier subscription
                // that was left since: clients may have heard it from another node.
                let is_heard_here = |topic: &SubscriptionId| {
                    let topic = self.registry.get(*topic);
                    topic.is_some_and(|topic| topic.is_at(id) && topic.is_confirmed())
                };
                if let Some(topic) = topic.filter(is_heard_here) {
                    self.publish_to_clients(x, topic, frame);
                }
            }
            Incoming::Subscribed(kind, name) => {
                if pop_expected(x, id, &incoming) {
                    self.note_confirmed(x, id, kind, name);
                }
            }
            Incoming::Unsubscribed(kind, name) => {
                if !pop_expected(x, id, &incoming) {
                    self.note_revoked(x, id, kind, name);
                }
            }
            Incoming::Reply => self.take_reply(x, id, frame),
        }
    }

    /// A connection that carried subscriptions has gone: they go elsewhere. Clients do not notice,
    /// except that they miss what is published meanwhile.
    pub(crate) fn note_lost(&mut self, x: &mut Exchange, id: ConnectionId) {
        self.registry.forget(id);
        for subscription in self.registry.at(id).collect::<Vec<_>>() {
            self.registry.unlink(subscription);
        }
        self.place(x);
    }

    /// Asks nodes that have sent nothing for long whether they are there: one that answers nothing
    /// is given up as on any other connection. Where nobody is subscribed any more they are not
    /// asked, and the connection is closed in the end.
    pub(crate) fn ping_quiet(&mut self, x: &mut Exchange) {
        let now = x.now();
        for id in self.registry.connections.clone() {
            let Some(quiet) = x.upstream.idle_time(id, now).filter(|quiet| *quiet >= QUIET) else {
                continue;
            };
            if self.registry.at(id).next().is_some() {
                // Else it would look dead.
                x.upstream.tell(id, Expect::Nothing, PING, now);
            } else if quiet >= UNUSED {
                self.registry.forget(id);
                x.upstream.close_quietly(id);
            }
        }
    }

    /// Ends a subscription where it is, to be placed anew.
    fn leave_node(&mut self, x: &mut Exchange, connection: ConnectionId, id: SubscriptionId) {
        let Some(subscription) = self.registry.get(id) else { return };
        tell(x, connection, subscription.kind.unsubscribe(), &subscription.name);
        self.registry.unlink(id);
    }

    /// Asks a node for a subscription, or refuses it where too many commands wait already; `None`
    /// if no node can be asked now.
    fn place_one(&mut self, x: &mut Exchange, id: SubscriptionId) -> Option<()> {
        let subscription = self.registry.get(id)?;
        let kind = subscription.kind;
        let connection = match (kind, self.registry.home) {
            (TopicKind::ShardChannel, _) => {
                let owner = Self::owner_of(x, &subscription.name)?;
                self.connection_to(x, owner)?
            }
            (_, Some(home)) => home,
            (_, None) => {
                let cluster = x.routes.keyless()?.cluster;
                let node = x.upstream.home(cluster, None, x.now())?;
                let home = self.connection_to(x, node)?;
                *self.registry.home.insert(home)
            }
        };
        if let Some(refusal) = self.crowded(x, connection, id) {
            self.registry.put_back(id);
            self.refuse(x, id, refusal.as_bytes());
            return Some(());
        }
        let subscription = self.registry.get_mut(id)?;
        subscription.link = Some(Link { connection, confirmed: false });
        tell(x, connection, kind.subscribe(), &subscription.name);
        Some(())
    }

    /// The connection that carries subscriptions at a node, opened if need be.
    fn connection_to(&mut self, x: &mut Exchange, node: NodeIndex) -> Option<ConnectionId> {
        let cluster = x.routes.keyless()?.cluster;
        let mut connections = self.registry.connections.iter().copied();
        if let Some(known) = connections.find(|known| Self::leads_to(x, *known, node)) {
            return Some(known);
        }
        let now = x.now();
        let id = x.upstream.open_subscriber(cluster, node, now)?;
        self.registry.connections.push(id);
        Some(id)
    }

    /// Why no further subscription may be asked for on a connection; `None` if there is room for
    /// that, and for ending all that has been asked for on it: that may not be refused. Each takes
    /// less than it is counted as.
    fn crowded(
        &self,
        x: &Exchange,
        connection: ConnectionId,
        id: SubscriptionId,
    ) -> Option<String> {
        let wanted = Registry::cost(&self.registry.get(id)?.name);
        let unanswered = x.upstream.unanswered_bytes(connection).saturating_add(wanted);
        let most = unanswered.saturating_add(self.registry.bytes());
        (most > x.config.limits.subscriber_bytes).then(|| x.upstream.crowded(connection))
    }

    fn note_confirmed(&mut self, x: &mut Exchange, id: ConnectionId, kind: TopicKind, name: &[u8]) {
        let Some(topic) = self.registry.find(kind, name) else { return };
        let Some(subscription) = self.registry.get_mut(topic) else { return };
        match &mut subscription.link {
            Some(link) if link.connection == id => link.confirmed = true,
            _ => return,
        }
        subscription.redirections = 0;
        for request in std::mem::take(&mut subscription.waiting) {
            let Some(subscribing) = self.subscribing.get_mut(&request) else { continue };
            subscribing.missing = subscribing.missing.saturating_sub(1);
            if subscribing.missing == 0 {
                self.finish_subscribe(x, request);
            }
        }
    }

    /// A node has ended a subscription by itself: a shard channel's slot has moved.
    fn note_revoked(&mut self, x: &mut Exchange, id: ConnectionId, kind: TopicKind, name: &[u8]) {
        let Some(topic) = self.registry.find(kind, name) else { return };
        if self.registry.get(topic).is_some_and(|subscription| subscription.is_at(id)) {
            self.registry.unlink(topic);
            hurry(x, id);
            // If the old owner is still taken for the owner, it tells the new one now.
            self.place(x);
        }
    }

    /// Takes the reply to a command: to a PING, or an error.
    fn take_reply(&mut self, x: &mut Exchange, id: ConnectionId, reply: &[u8]) {
        let error = Reply::new(reply).error_line();
        let Some(asked) = x.upstream.front(id).map(<[u8]>::to_vec) else { return };
        let asked = Incoming::parse(&asked);
        let refusal = error.map_or(ErrorReply::Final, ErrorReply::of);
        if let (ErrorReply::Moved(to), Incoming::Subscribed(_, name)) = (&refusal, &asked)
            && let Some(cluster) = x.upstream.cluster_of(id)
            && to.slot != x.routes.slot(cluster, name)
        {
            // The reply to an SUNSUBSCRIBE that crossed the node's own.
            return;
        }
        x.upstream.pop(id);
        let (Some(error), Incoming::Subscribed(kind, name)) = (error, asked) else { return };
        let is_here = |topic: &SubscriptionId| {
            self.registry.get(*topic).is_some_and(|subscription| subscription.is_at(id))
        };
        let Some(topic) = self.registry.find(kind, name).filter(is_here) else { return };
        self.registry.unlink(topic);
        match refusal {
            ErrorReply::Moved(to) if x.config.enable_redirection => {
                self.follow_slot(x, id, topic, &to);
            }
            ErrorReply::NotNow | ErrorReply::Unable | ErrorReply::Ask(_) => {
                hurry(x, id);
                self.registry.retry_at(x.now() + RETRY_PAUSE);
            }
            ErrorReply::Moved(_) | ErrorReply::Final => self.refuse(x, topic, error),
        }
    }

    /// Subscribes to a shard channel where its slot is said to live.
    fn follow_slot(
        &mut self,
        x: &mut Exchange,
        from: ConnectionId,
        topic: SubscriptionId,
        to: &Redirection,
    ) {
        let now = x.now();
        if let Some(cluster) = x.upstream.cluster_of(from) {
            x.upstream.count(cluster).redirect_moved += 1;
        }
        x.upstream.learn_redirection(from, to, SendMode::Plain, now);
        let Some(subscription) = self.registry.get_mut(topic) else { return };
        subscription.redirections = subscription.redirections.saturating_add(1);
        if subscription.redirections > REDIRECTIONS {
            subscription.redirections = 0;
            hurry(x, from);
            self.registry.retry_at(now + RETRY_PAUSE);
        } else {
            self.place(x);
        }
    }

    /// A node will not have a subscription, or there is no room to ask: whoever waits for it is
    /// told so; for those who had it the proxy tries again.
    fn refuse(&mut self, x: &mut Exchange, topic: SubscriptionId, error: &[u8]) {
        let Some(subscription) = self.registry.get_mut(topic) else { return };
        let waiting = std::mem::take(&mut subscription.waiting);
        let mut reply = x.buffers.take();
        encode::error(&mut reply, error);
        for request in waiting {
            self.abandon(x, request);
            x.deliver(request, &reply);
        }
        x.buffers.recycle(reply);
        self.registry.retry_at(x.now() + REFUSED_PAUSE);
    }

    /// The node that owns the slot of a shard channel.
    pub(super) fn owner_of(x: &Exchange, channel: &[u8]) -> Option<NodeIndex> {
        let cluster = x.routes.keyless()?.cluster;
        x.upstream.owner(cluster, x.routes.slot(cluster, channel))
    }

    /// Whether this connection leads where channels and patterns belong.
    fn is_home(x: &Exchange, connection: ConnectionId) -> bool {
        let cluster = x.routes.keyless().map(|route| route.cluster);
        let home = cluster.and_then(|cluster| x.upstream.home(cluster, None, x.now()));
        home.is_some_and(|home| Self::leads_to(x, connection, home))
    }

    /// Whether this connection leads to a node.
    fn leads_to(x: &Exchange, connection: ConnectionId, node: NodeIndex) -> bool {
        let cluster = x.routes.keyless().map(|route| route.cluster);
        let node = cluster.and_then(|cluster| x.upstream.node_address(cluster, node));
        node.is_some() && node == x.upstream.address(connection)
    }
}

/// Queues `verb` with the name of a subscription.
fn tell(x: &mut Exchange, connection: ConnectionId, verb: &[u8], name: &[u8]) {
    let now = x.now();
    let mut command = x.buffers.take();
    wire::command(&mut command, verb, name);
    x.upstream.tell(connection, Expect::Subscription, &command, now);
    x.buffers.recycle(command);
}

/// Takes the oldest command out of the pipeline if this is what it asked for.
fn pop_expected(x: &mut Exchange, id: ConnectionId, confirmation: &Incoming<'_>) -> bool {
    let fits = x.upstream.front(id).map(Incoming::parse).as_ref() == Some(confirmation);
    if fits {
        x.upstream.pop(id);
    }
    fits
}

fn hurry(x: &mut Exchange, connection: ConnectionId) {
    let now = x.now();
    if let Some(cluster) = x.upstream.cluster_of(connection) {
        x.upstream.hurry(cluster, now);
    }
}
