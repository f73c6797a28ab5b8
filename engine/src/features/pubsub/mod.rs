//! Publish and subscribe: channels, patterns and shard channels, and the clients subscribed to
//! them.
//!
//! ```text
//! client ──┐                                           ┌── client
//! client ──┼── Subscription ── Link ── connection ──► node
//! client ──┘   (one for each topic)    (one for each node)
//! ```
//!
//! A node is asked once for each topic, however many clients want it. `registry` keeps who is
//! subscribed, `clients` takes commands, `nodes` keeps subscribed at nodes what has to be,
//! `publish` counts who receives a message, `introspect` tells who is subscribed.

mod clients;
mod glob;
mod introspect;
mod nodes;
mod publish;
mod registry;
mod topics;
mod wire;

use std::collections::BTreeMap;

use registry::{Registry, Subscribed, Subscribing};

use crate::budget::{ByteBudget, Memory};
use crate::command::TopicKind;
use crate::config::Limits;
use crate::downstream::Modes;
use crate::exchange::Exchange;
use crate::ids::{RequestId, SessionId};
use crate::time::Instant;

/// All subscriptions.
#[derive(Debug)]
pub(crate) struct PubSub {
    registry: Registry,
    /// What each client is subscribed to; nobody is in it who is subscribed to nothing.
    clients: BTreeMap<SessionId, Subscribed>,
    /// SUBSCRIBE commands that wait for nodes.
    subscribing: BTreeMap<RequestId, Subscribing>,
}

impl PubSub {
    /// Keeps no more than the configuration and the memory allow.
    pub(crate) fn new(limits: &Limits, memory: &Memory) -> Self {
        let budget = ByteBudget::within(memory, limits.reserve_bytes, limits.subscription_bytes);
        let registry = Registry::new(budget);
        Self { registry, clients: BTreeMap::new(), subscribing: BTreeMap::new() }
    }

    /// What all subscriptions are counted as.
    pub(crate) fn bytes(&self) -> usize {
        self.registry.bytes()
    }

    /// When [`Self::place`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        self.registry.next_timeout()
    }

    /// How many topics of a kind a client is subscribed to.
    pub(crate) fn count(&self, client: SessionId, kind: TopicKind) -> usize {
        self.clients.get(&client).map_or(0, |subscribed| subscribed.get(kind).len())
    }

    /// Panics if it contradicts what clients are known for: for tests.
    pub(crate) fn check_invariants(&self, x: &Exchange) {
        for (client, subscribed) in &self.clients {
            assert!(!subscribed.is_empty());
            assert!(x.downstream.modes(*client).has(Modes::SUBSCRIBED), "{client:?} is subscribed");
        }
        for client in x.downstream.ids() {
            if x.downstream.modes(client).has(Modes::SUBSCRIBED) {
                assert!(self.clients.contains_key(&client), "{client:?} is not subscribed");
            }
        }
        for request in self.subscribing.keys() {
            assert!(x.flight.waiting(*request).is_some(), "{request:?} does not wait");
        }
    }
}
