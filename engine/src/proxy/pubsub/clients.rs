//! What clients are subscribed to.

use std::rc::Rc;

use crate::command::{CommandSpec, Local, Support};
use crate::proxy::Proxy;
use crate::proxy::command::Command;
use crate::pubsub::{Registry, Subscribed, Subscribing, SubscriptionId, TopicKind, wire};
use crate::request::{Owner, RequestId, State};
use crate::resp::{RequestFrame, encode};
use crate::session::SessionId;
use crate::time::Instant;

/// One subscription serves clients of several users: no node could say who may hear what.
const NOT_FOR_USERS: &[u8] =
    b"ERR subscriptions cannot be used through this proxy: it passes users through (auth_passthrough)";

impl Proxy {
    /// Subscribes a client, which is told so when nodes have confirmed all of it: what is published
    /// from then on, it hears.
    pub(in crate::proxy) fn subscribe(
        &mut self,
        id: SessionId,
        kind: TopicKind,
        command: Command<'_>,
        now: Instant,
    ) {
        let Some(cluster) = self.routes.keyless().map(|route| route.cluster) else {
            return self.answer_no_route(id, command.spec);
        };
        if self.config.auth_passthrough {
            self.stats.fail(command.spec);
            return self.answer(id, |out| encode::error(out, NOT_FOR_USERS));
        }
        let names = || command.frame.args().skip(1);
        let cost = names().fold(0_usize, |cost, name| cost.saturating_add(Registry::cost(name)));
        if self.pubsub.bytes().saturating_add(cost) > self.config.limits.subscription_bytes {
            self.stats.fail(command.spec);
            let text = b"ERR this proxy's clients have too many subscriptions already";
            return self.answer(id, |out| encode::error(out, text));
        }
        let subscribing = Subscribing { cluster, topics: Vec::new(), missing: 0 };
        let state = State::Subscribing(Box::new(subscribing));
        let Some(request) = self.begin(Owner::Session(id), &command, state, now) else { return };
        let mut missing = 0;
        let topics: Vec<_> = names().map(|name| self.pubsub.name(kind, name)).collect();
        for topic in &topics {
            let Some(subscription) = self.pubsub.get_mut(*topic) else { continue };
            if !subscription.is_confirmed() && subscription.waiting.last() != Some(&request) {
                subscription.waiting.push(request);
                missing += 1;
            }
        }
        self.stats.touch();
        if let Some(waiting) = self.requests.waiting(request) {
            waiting.state = State::Subscribing(Box::new(Subscribing { cluster, topics, missing }));
            // It may be tried again.
            waiting.read_only = true;
        }
        if missing == 0 {
            self.finish_subscribe(request);
        } else {
            self.place_subscriptions(now);
        }
    }

    /// Ends subscriptions of a client: those it names, or all of a kind.
    pub(in crate::proxy) fn unsubscribe(
        &mut self,
        id: SessionId,
        kind: TopicKind,
        frame: &RequestFrame<'_>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let protocol = session.protocol;
        let mut reply = self.buffers.take();
        let verb = kind.unsubscribe();
        let names: Vec<Rc<[u8]>> = match frame.len() {
            1 => session.subscribed.get(kind).keys().cloned().collect(),
            _ => frame.args().skip(1).map(Rc::from).collect(),
        };
        let mut left = Vec::new();
        for name in &names {
            left.extend(session.subscribed.get_mut(kind).remove(name));
            let count = session.subscribed.count(kind);
            wire::confirmation(&mut reply, protocol, verb, Some(name), count);
        }
        if names.is_empty() {
            let count = session.subscribed.count(kind);
            wire::confirmation(&mut reply, protocol, verb, None, count);
        }
        for topic in left {
            self.leave(topic, id);
        }
        self.answer(id, |out| out.extend_from_slice(&reply));
        self.buffers.recycle(reply);
    }

    /// Ends all subscriptions of a client without telling it.
    pub(in crate::proxy) fn drop_subscriptions(&mut self, id: SessionId, subscribed: Subscribed) {
        for topic in subscribed.into_values() {
            self.leave(topic, id);
        }
    }

    /// Answers a command of a RESP2 client that is subscribed to something, if it may not be
    /// executed or is answered in another way than else. Returns whether it did.
    pub(in crate::proxy) fn answer_subscriber(
        &mut self,
        id: SessionId,
        spec: &CommandSpec,
        frame: &RequestFrame<'_>,
    ) -> bool {
        if !self.sessions.get(id).is_some_and(|session| session.is_in_subscriber_mode()) {
            return false;
        }
        match spec.support {
            Support::Subscribe(_)
            | Support::Unsubscribe(_)
            | Support::Local(Local::Quit | Local::Reset) => false,
            Support::Local(Local::Ping) if frame.len() <= 2 => {
                self.answer(id, |out| wire::pong(out, frame.arg(1).unwrap_or_default()));
                true
            }
            Support::Local(Local::Ping) => false,
            _ => {
                let name = match spec.name {
                    "" => frame.arg(0).unwrap_or_default().to_ascii_lowercase(),
                    name => name.as_bytes().to_vec(),
                };
                let text = [
                    b"ERR Can't execute '",
                    &name[..],
                    b"': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are \
                      allowed in this context",
                ]
                .concat();
                self.reject(id, spec, &text);
                true
            }
        }
    }

    /// All that a SUBSCRIBE asked for is confirmed: the client is subscribed, and told so.
    pub(super) fn finish_subscribe(&mut self, id: RequestId) {
        let Some(request) = self.requests.waiting(id) else { return };
        let State::Subscribing(subscribing) = &mut request.state else { return };
        let topics = std::mem::take(&mut subscribing.topics);
        let protocol = request.protocol;
        let Some(session_id) = request.session() else { return };
        let Some(session) = self.sessions.get_mut(session_id) else { return };
        let mut reply = self.buffers.take();
        for topic in topics {
            self.pubsub.join(topic, session_id);
            let Some(subscription) = self.pubsub.get(topic) else { continue };
            let (kind, name) = (subscription.kind, &subscription.name);
            session.subscribed.get_mut(kind).insert(Rc::clone(name), topic);
            let count = session.subscribed.count(kind);
            wire::confirmation(&mut reply, protocol, kind.subscribe(), Some(name), count);
        }
        self.deliver(id, &reply);
        self.buffers.recycle(reply);
    }

    /// A request will not be finished; if it is a SUBSCRIBE, it leaves nothing behind.
    pub(in crate::proxy) fn abandon_subscribe(&mut self, id: RequestId) {
        let Some(request) = self.requests.get_mut(id) else { return };
        let State::Subscribing(subscribing) = &mut request.state else { return };
        for topic in std::mem::take(&mut subscribing.topics) {
            if let Some(unwanted) = self.pubsub.stop_waiting(topic, id) {
                self.unsubscribe_node(&unwanted);
            }
        }
    }

    /// Hands a message to all clients that are subscribed to its topic.
    pub(super) fn publish_to_clients(&mut self, kind: TopicKind, name: &[u8], frame: &[u8]) {
        let Some(topic) = self.pubsub.find(kind, name) else { return };
        let Some(subscription) = self.pubsub.get_mut(topic) else { return };
        let subscribers = std::mem::take(&mut subscription.subscribers);
        for id in &subscribers {
            self.notify(*id, |out, protocol| wire::message(out, protocol, frame));
        }
        if let Some(subscription) = self.pubsub.get_mut(topic) {
            subscription.subscribers = subscribers;
        }
    }

    fn leave(&mut self, topic: SubscriptionId, id: SessionId) {
        if let Some(unwanted) = self.pubsub.leave(topic, id) {
            self.unsubscribe_node(&unwanted);
        }
    }
}
