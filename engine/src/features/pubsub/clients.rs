//! What clients are subscribed to.

use std::rc::Rc;

use crate::command::{CommandSpec, TopicKind};
use crate::downstream::{Caller, Modes};
use crate::errors;
use crate::exchange::{Command, Exchange};
use crate::features::pubsub::PubSub;
use crate::features::pubsub::registry::{Registry, Subscribing, SubscriptionId};
use crate::features::pubsub::topics::Topics;
use crate::features::pubsub::wire;
use crate::flight::{Completion, State};
use crate::ids::{RequestId, SessionId};
use crate::resp::RequestFrame;

impl PubSub {
    /// Subscribes a client, which is told so when nodes have confirmed all of it: what is published
    /// from then on, it hears.
    pub(crate) fn subscribe(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        kind: TopicKind,
        command: &Command<'_>,
    ) {
        let Some(cluster) = x.routes.keyless().map(|route| route.cluster) else {
            return x.answer_failure(caller, command, errors::NO_ROUTE);
        };
        if x.config.auth_passthrough {
            return x.answer_failure(caller, command, errors::SUBSCRIBE_PASSTHROUGH);
        }
        let names = || command.frame.args().skip(1);
        let cost = names().fold(0_usize, |cost, name| cost.saturating_add(Registry::cost(name)));
        if !self.registry.has_room(cost) {
            return x.answer_failure(caller, command, errors::SUBSCRIPTION_OVERFLOW);
        }
        let state = State::Own(cluster);
        let Some(request) = x.begin(caller, command, state, Completion::Deliver) else { return };
        let mut missing = 0;
        let topics: Vec<_> = names().map(|name| self.registry.name(kind, name)).collect();
        for topic in &topics {
            let Some(subscription) = self.registry.get_mut(*topic) else { continue };
            if !subscription.is_confirmed() && subscription.waiting.last() != Some(&request) {
                subscription.waiting.push(request);
                missing += 1;
            }
        }
        let client = caller.id;
        self.subscribing.insert(request, Subscribing { client, topics, missing });
        if missing == 0 {
            self.finish_subscribe(x, request);
        } else {
            self.place(x);
        }
    }

    /// Ends subscriptions of a client: those it names, or all of a kind.
    pub(crate) fn unsubscribe(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        kind: TopicKind,
        frame: &RequestFrame<'_>,
    ) {
        let mut reply = x.buffers.take();
        let verb = kind.unsubscribe();
        let mut none = Topics::default();
        let subscribed = self.clients.get_mut(&caller.id).unwrap_or(&mut none);
        let names: Vec<Rc<[u8]>> = match frame.len() {
            1 => subscribed.get(kind).keys().cloned().collect(),
            _ => frame.args().skip(1).map(Rc::from).collect(),
        };
        let mut left = Vec::new();
        for name in &names {
            left.extend(subscribed.get_mut(kind).remove(name));
            let count = subscribed.count(kind);
            wire::confirmation(&mut reply, caller.protocol, verb, Some(name), count);
        }
        if names.is_empty() {
            let count = subscribed.count(kind);
            wire::confirmation(&mut reply, caller.protocol, verb, None, count);
        }
        if subscribed.is_empty() {
            self.clients.remove(&caller.id);
            x.downstream.set_modes(caller.id, Modes::SUBSCRIBED, false);
        }
        for topic in left {
            self.leave(x, topic, caller.id);
        }
        x.answer(caller.id, |out| out.extend_from_slice(&reply));
        x.buffers.recycle(reply);
    }

    /// Ends all subscriptions of a client without telling it.
    pub(crate) fn drop_client(&mut self, x: &mut Exchange, client: SessionId) {
        let Some(subscribed) = self.clients.remove(&client) else { return };
        x.downstream.set_modes(client, Modes::SUBSCRIBED, false);
        for topic in subscribed.into_values() {
            self.leave(x, topic, client);
        }
    }

    /// The reply to PING of a RESP2 client that is subscribed to something.
    pub(crate) fn write_pong(payload: &[u8], out: &mut Vec<u8>) {
        wire::pong(out, payload);
    }

    /// Why a RESP2 client that is subscribed to something may not have this command.
    pub(crate) fn refusal(spec: &CommandSpec, frame: &RequestFrame<'_>) -> Vec<u8> {
        let name = match spec.name {
            "" => frame.arg(0).unwrap_or_default().to_ascii_lowercase(),
            name => name.as_bytes().to_vec(),
        };
        [
            b"ERR Can't execute '",
            &name[..],
            b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
        ]
        .concat()
    }

    /// All that a SUBSCRIBE asked for is confirmed: the client is subscribed, and told so.
    pub(super) fn finish_subscribe(&mut self, x: &mut Exchange, request: RequestId) {
        let Some(protocol) = x.flight.waiting(request).map(|waiting| waiting.protocol) else {
            return;
        };
        let Some(Subscribing { client, topics, .. }) = self.subscribing.remove(&request) else {
            return;
        };
        let mut reply = x.buffers.take();
        let subscribed = self.clients.entry(client).or_default();
        for topic in topics {
            self.registry.join(topic, client);
            let Some(subscription) = self.registry.get(topic) else { continue };
            let (kind, name) = (subscription.kind, &subscription.name);
            subscribed.get_mut(kind).insert(Rc::clone(name), topic);
            let count = subscribed.count(kind);
            wire::confirmation(&mut reply, protocol, kind.subscribe(), Some(name), count);
        }
        x.downstream.set_modes(client, Modes::SUBSCRIBED, true);
        x.deliver(request, &reply);
        x.buffers.recycle(reply);
    }

    /// A SUBSCRIBE will not be finished: it leaves nothing behind.
    pub(crate) fn abandon(&mut self, x: &mut Exchange, request: RequestId) {
        let Some(Subscribing { topics, .. }) = self.subscribing.remove(&request) else { return };
        for topic in topics {
            if let Some(unwanted) = self.registry.stop_waiting(topic, request) {
                Self::unsubscribe_node(x, &unwanted);
            }
        }
    }

    /// Hands a message to all clients that are subscribed to its topic.
    pub(super) fn publish_to_clients(
        &mut self,
        x: &mut Exchange,
        topic: SubscriptionId,
        frame: &[u8],
    ) {
        let Some(subscription) = self.registry.get(topic) else { return };
        for client in &subscription.subscribers {
            x.notify(*client, |out, protocol| wire::message(out, protocol, frame));
        }
    }

    fn leave(&mut self, x: &mut Exchange, topic: SubscriptionId, client: SessionId) {
        if let Some(unwanted) = self.registry.leave(topic, client) {
            Self::unsubscribe_node(x, &unwanted);
        }
    }
}
