//! The registry of subscriptions: which clients are subscribed to what, and where nodes have been
//! asked.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::arena::{Arena, Key};
use crate::budget::ByteBudget;
use crate::command::TopicKind;
use crate::features::pubsub::glob::matches;
use crate::features::pubsub::topics::Topics;
use crate::ids::{ConnectionId, RequestId, SessionId};
use crate::time::Instant;

/// Names a topic that somebody wants, for as long as anybody does.
pub(super) type SubscriptionId = Key<Subscription>;

/// Bytes that a topic counts as beside its name, and one client's subscription to it.
const OVERHEAD: usize = 128;

/// A topic that clients want to hear of.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: TopicKind,
    pub(super) name: Rc<[u8]>,
    /// Clients that have been told that they are subscribed.
    pub(super) subscribers: BTreeSet<SessionId>,
    /// SUBSCRIBE commands that wait until a node has confirmed it.
    pub(super) waiting: Vec<RequestId>,
    /// How often SUBSCRIBE commands on their way name it, be it confirmed or not.
    named: usize,
    /// Where a node has been asked; `None`: that is still to be done.
    pub(super) link: Option<Link>,
    /// How often nodes have sent it elsewhere since one confirmed it.
    pub(super) redirections: u8,
}

/// A subscription at a node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) connection: ConnectionId,
    /// The node has said so.
    pub(super) confirmed: bool,
}

/// The topics that one client is subscribed to.
pub(super) type Subscribed = Topics<SubscriptionId>;

/// All subscriptions of all clients.
#[derive(Debug)]
pub(super) struct Registry {
    subscriptions: Arena<Subscription, Subscription>,
    by_name: Topics<SubscriptionId>,
    /// Connections that carry subscriptions, one for a node.
    pub(super) connections: Vec<ConnectionId>,
    /// The one of them that carries channels and patterns, which any node will do for.
    pub(super) home: Option<ConnectionId>,
    /// Subscriptions without a link.
    unplaced: Vec<SubscriptionId>,
    /// When to try again to place them.
    retry_at: Option<Instant>,
    /// What all subscriptions are counted as.
    budget: ByteBudget,
}

/// A SUBSCRIBE on its way, of any kind.
#[derive(Debug)]
pub(super) struct Subscribing {
    /// The client.
    pub(super) client: SessionId,
    /// In the order of its arguments.
    pub(super) topics: Vec<SubscriptionId>,
    /// How many of them nodes have still to confirm.
    pub(super) missing: usize,
}

impl Subscription {
    /// Whether messages flow.
    pub(super) fn is_confirmed(&self) -> bool {
        self.link.is_some_and(|link| link.confirmed)
    }

    /// Whether this is where the node has been asked.
    pub(super) fn is_at(&self, connection: ConnectionId) -> bool {
        self.link.is_some_and(|link| link.connection == connection)
    }

    fn is_wanted(&self) -> bool {
        !self.subscribers.is_empty() || self.named > 0
    }
}

impl Registry {
    pub(super) fn new(budget: ByteBudget) -> Self {
        Self {
            subscriptions: Arena::new(),
            by_name: Topics::default(),
            connections: Vec::new(),
            home: None,
            unplaced: Vec::new(),
            retry_at: None,
            budget,
        }
    }

    /// What a client's subscription to a topic of this name is counted as, at most.
    pub(super) fn cost(name: &[u8]) -> usize {
        (2 * OVERHEAD).saturating_add(name.len())
    }

    /// What all subscriptions are counted as.
    pub(super) fn bytes(&self) -> usize {
        self.budget.used()
    }

    /// Whether so many bytes more may be kept.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.budget.has_room(bytes)
    }

    pub(super) fn get(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.subscriptions.get(id)
    }

    pub(super) fn get_mut(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        self.subscriptions.get_mut(id)
    }

    pub(super) fn find(&self, kind: TopicKind, name: &[u8]) -> Option<SubscriptionId> {
        self.by_name.get(kind).get(name).copied()
    }

    /// The subscription to a topic that a SUBSCRIBE names, made now if nobody wanted it so far. It
    /// stays at least until [`Self::join`] or [`Self::stop_waiting`].
    pub(super) fn name(&mut self, kind: TopicKind, name: &[u8]) -> SubscriptionId {
        let id = self.find(kind, name).unwrap_or_else(|| self.insert(kind, name.into()));
        if let Some(subscription) = self.subscriptions.get_mut(id) {
            subscription.named += 1;
        }
        id
    }

    fn insert(&mut self, kind: TopicKind, name: Rc<[u8]>) -> SubscriptionId {
        let id = self.subscriptions.insert(Subscription {
            kind,
            name: Rc::clone(&name),
            subscribers: BTreeSet::new(),
            waiting: Vec::new(),
            named: 0,
            link: None,
            redirections: 0,
        });
        self.budget.take(OVERHEAD.saturating_add(name.len()));
        self.by_name.get_mut(kind).insert(name, id);
        self.unplaced.push(id);
        id
    }

    /// The client of a SUBSCRIBE is subscribed from now on.
    pub(super) fn join(&mut self, id: SubscriptionId, session: SessionId) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        subscription.named = subscription.named.saturating_sub(1);
        if subscription.subscribers.insert(session) {
            self.budget.take(OVERHEAD);
        }
    }

    /// A client is not subscribed any more. Returns the subscription if nobody else wants it.
    pub(super) fn leave(&mut self, id: SubscriptionId, session: SessionId) -> Option<Subscription> {
        let subscription = self.subscriptions.get_mut(id)?;
        if subscription.subscribers.remove(&session) {
            self.budget.give_back(OVERHEAD);
        }
        self.remove_unwanted(id)
    }

    /// A SUBSCRIBE does not wait any more. Returns the subscription if nobody else wants it.
    pub(super) fn stop_waiting(
        &mut self,
        id: SubscriptionId,
        request: RequestId,
    ) -> Option<Subscription> {
        let subscription = self.subscriptions.get_mut(id)?;
        subscription.waiting.retain(|waiting| *waiting != request);
        subscription.named = subscription.named.saturating_sub(1);
        self.remove_unwanted(id)
    }

    /// Takes the link away: the subscription is to be placed anew.
    pub(super) fn unlink(&mut self, id: SubscriptionId) {
        let Some(subscription) = self.subscriptions.get_mut(id) else { return };
        if subscription.link.take().is_some() {
            self.unplaced.push(id);
        }
    }

    /// The subscriptions at a connection.
    pub(super) fn at(&self, connection: ConnectionId) -> impl Iterator<Item = SubscriptionId> {
        let there = move |(_, subscription): &(_, &Subscription)| subscription.is_at(connection);
        self.subscriptions.iter().filter(there).map(|(id, _)| id)
    }

    /// All shard channels, each of which has to be at the owner of its slot.
    pub(super) fn shard_channels(&self) -> impl Iterator<Item = &SubscriptionId> {
        self.by_name.get(TopicKind::ShardChannel).values()
    }

    /// A connection has gone. Returns whether it was one of ours.
    pub(super) fn forget(&mut self, connection: ConnectionId) -> bool {
        let before = self.connections.len();
        self.connections.retain(|known| *known != connection);
        self.home.take_if(|home| *home == connection);
        self.connections.len() < before
    }

    /// Takes out all subscriptions that are to be placed; who still cannot be is to be given back.
    pub(super) fn take_unplaced(&mut self) -> Vec<SubscriptionId> {
        self.retry_at = None;
        std::mem::take(&mut self.unplaced)
    }

    /// A subscription taken out could not be placed.
    pub(super) fn put_back(&mut self, id: SubscriptionId) {
        self.unplaced.push(id);
    }

    /// Those that are not placed are to be tried again at `at`, if not earlier.
    pub(super) fn retry_at(&mut self, at: Instant) {
        self.retry_at = Some(self.retry_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// When to try again to place subscriptions; `None` when all are placed.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.retry_at
    }

    /// The topics of a kind that clients are subscribed to, by name.
    pub(super) fn topics(&self, kind: TopicKind) -> impl Iterator<Item = (&[u8], &Subscription)> {
        let topics = self.by_name.get(kind).iter();
        let topics = topics.filter_map(|(name, id)| Some((&**name, self.get(*id)?)));
        topics.filter(|(_, subscription)| !subscription.subscribers.is_empty())
    }

    /// How many clients are subscribed to this very topic, and how many nodes know of: who has been
    /// asked will know by the time it answers anything else.
    pub(super) fn subscribers(&self, kind: TopicKind, name: &[u8]) -> Receivers {
        let subscription = self.find(kind, name).and_then(|id| self.get(id));
        subscription.map_or_else(Receivers::default, |subscription| Receivers {
            clients: subscription.subscribers.len(),
            links: usize::from(subscription.link.is_some()),
        })
    }

    /// How many messages clients get of one that is published, and how many of these a node sends
    /// that all of them are subscribed at.
    pub(super) fn receivers(&self, kind: TopicKind, channel: &[u8]) -> Receivers {
        let channels = self.find(kind, channel).into_iter();
        let patterns = (kind == TopicKind::Channel).then(|| self.by_name.get(TopicKind::Pattern));
        let patterns = patterns.into_iter().flatten();
        let patterns = patterns.filter(|(pattern, _)| matches(pattern, channel));
        let mut receivers = Receivers::default();
        for id in channels.chain(patterns.map(|(_, id)| *id)) {
            let Some(subscription) = self.get(id).filter(|one| one.is_confirmed()) else {
                continue;
            };
            receivers.clients += subscription.subscribers.len();
            receivers.links += 1;
        }
        receivers
    }

    fn remove_unwanted(&mut self, id: SubscriptionId) -> Option<Subscription> {
        self.subscriptions.get(id).filter(|subscription| !subscription.is_wanted())?;
        let subscription = self.subscriptions.remove(id)?;
        self.by_name.get_mut(subscription.kind).remove(&subscription.name);
        self.budget.give_back(OVERHEAD.saturating_add(subscription.name.len()));
        Some(subscription)
    }
}

/// Who gets a message: see [`Registry::receivers`].
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Receivers {
    /// Messages that clients get.
    pub(super) clients: usize,
    /// Messages that the node sends for them.
    pub(super) links: usize,
}

impl Receivers {
    /// How many more clients receive a message than nodes know of.
    pub(super) fn unknown_to_nodes(self) -> i64 {
        let count = |number| i64::try_from(number).unwrap_or(i64::MAX);
        count(self.clients).saturating_sub(count(self.links))
    }
}
