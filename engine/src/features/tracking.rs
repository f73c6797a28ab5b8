//! Client-side caching: nodes track what a client reads, on connections that it has to itself.
//!
//! A client that caches has a connection to each node that it asks anything of, on which that node
//! tracks for it, with the client's own options. So a node's push comes behind the replies that it
//! is about, and the client gets both in this order.
//!
//! No change is lost silently. Whenever a node may have forgotten what it tracks, or no longer
//! hears of all changes, the client is told to forget everything it knows, as Redis advises.

use std::collections::BTreeMap;

use crate::command::{CommandSpec, Merge};
use crate::downstream::{Caller, Modes};
use crate::errors::{self, ErrorText};
use crate::exchange::{Command, Exchange};
use crate::flight::{Completion, Part, Request, Spread, State};
use crate::ids::{ConnectionId, PartId, RequestId, SessionId};
use crate::pool_key::Profile;
use crate::resp::{Protocol, Reply, encode};
use crate::target::Target;
use crate::tracking::{self, TrackingOptions, TrackingRequest};
use crate::upstream::PING;

/// What clients want to hear of because they cache.
#[derive(Debug, Default)]
pub(crate) struct Tracking {
    clients: BTreeMap<SessionId, TrackingOptions>,
}

impl Tracking {
    /// `CLIENT TRACKING`
    pub(crate) fn track(&mut self, x: &mut Exchange, caller: &Caller, command: &Command<'_>) {
        let before = self.clients.get(&caller.id);
        let find = |client_id| {
            let mut clients = x.visible_to(caller.id);
            let is_it = |(id, profile): &(SessionId, &crate::downstream::Profile)| {
                profile.client_id == client_id && x.downstream.is_open(*id)
            };
            clients.find(is_it).map(|(id, _)| id)
        };
        let request = TrackingRequest::parse(&command.frame, before, find);
        match request.and_then(|request| self.check(x, request)) {
            Ok(TrackingRequest::On(options)) => self.start(x, caller, options, command.spec),
            Ok(TrackingRequest::Off) => {
                self.stop(x, caller.id);
                answer_ok(x, caller.id, command.spec);
            }
            Err(text) => {
                x.downstream.stats_mut().finish_at_once(command.spec, false);
                x.answer(caller.id, |out| encode::error(out, text.as_bytes()));
            }
        }
    }

    /// Forgets what a client wants to hear of, without telling it.
    pub(crate) fn stop(&mut self, x: &mut Exchange, client: SessionId) {
        if self.clients.remove(&client).is_some() {
            x.upstream.stop_tracking(client);
            x.downstream.set_modes(client, Modes::TRACKING.or(Modes::TRACKED), false);
            self.abandon(x, client);
        }
    }

    /// The client speaks another protocol from now on, or as somebody else, so it has other
    /// connections.
    pub(crate) fn restart(&mut self, x: &mut Exchange, client: SessionId) {
        if self.clients.contains_key(&client) {
            self.note_modes(x, client);
            self.abandon(x, client);
            self.keep_broadcasts(x);
        }
    }

    /// Closes the connections that a client has to itself.
    pub(crate) fn abandon(&mut self, x: &mut Exchange, client: SessionId) {
        if x.abandon(client) {
            self.invalidate(x, client, None);
        }
    }

    /// `CLIENT CACHING YES|NO`
    pub(crate) fn caching(&mut self, client: SessionId, answer: &[u8]) -> Result<(), ErrorText> {
        let options = self.clients.get_mut(&client).ok_or(errors::CACHING_WITHOUT_TRACKING)?;
        options.set_caching(answer)
    }

    /// A command of a client has been read. Returns what its node has to hear right before.
    pub(crate) fn note_command(
        &mut self,
        client: SessionId,
        name: &str,
        in_multi: bool,
    ) -> Option<&'static [u8]> {
        let options = self.clients.get_mut(&client)?;
        options.note_command(name, in_multi);
        options.caching_command()
    }

    /// `CLIENT TRACKINGINFO`
    pub(crate) fn write_info(&self, client: SessionId, protocol: Protocol, out: &mut Vec<u8>) {
        tracking::write_info(self.clients.get(&client), protocol, out);
    }

    /// What CLIENT GETREDIR answers: -1 if tracking is off.
    pub(crate) fn redirect_id(&self, client: SessionId) -> i64 {
        self.clients.get(&client).map_or(-1, TrackingOptions::redirect_id)
    }

    /// The letters that CLIENT LIST shows.
    pub(crate) fn letters(&self, client: SessionId) -> String {
        self.clients.get(&client).map(TrackingOptions::letters).unwrap_or_default()
    }

    // What nodes tell.

    /// The first command on the connections of a client that caches has been answered, or will not
    /// be.
    pub(crate) fn conclude_start(&mut self, x: &mut Exchange, request: RequestId, reply: &[u8]) {
        if Reply::new(reply).error_line().is_none() {
            return x.deliver(request, b"+OK\r\n");
        }
        if let Some(client) = x.flight.get(request).and_then(Request::client) {
            self.stop(x, client);
        }
        x.deliver(request, reply);
    }

    /// A node tracks for a client from now on.
    pub(crate) fn note_tracks(&mut self, x: &mut Exchange, client: SessionId) {
        if self.is_broadcast(x, client) {
            // Until now it would have told nobody of what has changed.
            self.invalidate(x, client, None);
        }
    }

    /// A node has sent something that is no reply.
    pub(crate) fn note_push(&mut self, x: &mut Exchange, from: ConnectionId, push: &[u8]) {
        if let Some(client) = x.upstream.tracks_for(from)
            && let Some(keys) = tracking::invalidated(push)
        {
            self.invalidate(x, client, Some(keys));
        }
    }

    /// Slots have new owners, which track nothing of what clients have read at the old ones.
    pub(crate) fn note_moved_keys(&mut self, x: &mut Exchange) {
        for client in self.clients.keys().copied().collect::<Vec<_>>() {
            let has_read = self.is_tracked(x, client) && x.upstream.has_tracked(client);
            if has_read && !self.is_broadcast(x, client) {
                self.invalidate(x, client, None);
            }
        }
    }

    /// Clients that want to hear of all keys need a connection to every primary; no client needs
    /// one to a node that has left.
    pub(crate) fn keep_broadcasts(&mut self, x: &mut Exchange) {
        let now = x.now();
        for client in self.clients.keys().copied().collect::<Vec<_>>() {
            x.upstream.close_departed_trackers(client);
            if !self.is_broadcast(x, client) {
                continue;
            }
            let Some(caller) = x.downstream.caller(client) else { continue };
            let profile = Profile { protocol: caller.protocol, identity: caller.identity };
            for cluster in x.routes.clusters() {
                for slot in x.upstream.lowest_slots(cluster) {
                    if let Some(node) = x.upstream.owner(cluster, slot) {
                        x.upstream.tracked(client, cluster, node, profile, now);
                    }
                }
            }
        }
    }

    /// Tells a client, or whom it wants told instead, that keys have changed; with `None`, that any
    /// may have.
    pub(crate) fn invalidate(&mut self, x: &mut Exchange, client: SessionId, keys: Option<&[u8]>) {
        let Some(options) = self.clients.get_mut(&client) else { return };
        let Some(protocol) = x.downstream.protocol(client) else { return };
        let mut news = x.buffers.take();
        match options.redirect().map(|target| (target, x.downstream.protocol(target))) {
            None if protocol == Protocol::Resp2 => {}
            None => {
                tracking::invalidation(&mut news, protocol, keys);
                push_in_turn(x, client, &news);
            }
            Some((target, Some(protocol))) => {
                let listens = x.downstream.modes(target).has(Modes::SUBSCRIBED);
                if protocol == Protocol::Resp3 || listens {
                    tracking::invalidation(&mut news, protocol, keys);
                    x.notify(target, |out, _| out.extend_from_slice(&news));
                }
            }
            Some((_, None)) => {
                options.set_broken();
                if protocol == Protocol::Resp3 {
                    tracking::redirection_broken(&mut news, options.redirect_id());
                    push_in_turn(x, client, &news);
                }
            }
        }
        x.buffers.recycle(news);
    }

    /// Panics if it contradicts what clients are known for: for tests.
    pub(crate) fn check_invariants(&self, x: &Exchange) {
        for client in x.downstream.ids() {
            let modes = x.downstream.modes(client);
            assert_eq!(modes.has(Modes::TRACKING), self.clients.contains_key(&client));
            assert_eq!(modes.has(Modes::TRACKED), self.is_tracked(x, client));
        }
    }

    /// What stands in the way of a request here, though Redis would grant it.
    fn check(&self, x: &Exchange, request: TrackingRequest) -> Result<TrackingRequest, ErrorText> {
        let TrackingRequest::On(options) = &request else { return Ok(request) };
        if x.routes.rewrites_keys() {
            return Err(errors::TRACKING_REWRITTEN.into());
        }
        if !options.fits() {
            return Err(errors::LONG_PREFIXES.into());
        }
        if self.clients.len() >= x.config.limits.tracking_clients {
            return Err(errors::TRACKING_OVERFLOW.into());
        }
        Ok(request)
    }

    /// Begins to track for a client, which is told so when a node has said that it does; if it
    /// wants to hear of all keys, when every primary has.
    fn start(
        &mut self,
        x: &mut Exchange,
        caller: &Caller,
        options: TrackingOptions,
        spec: &'static CommandSpec,
    ) {
        if self.clients.get(&caller.id) == Some(&options) {
            return answer_ok(x, caller.id, spec);
        }
        let is_broadcast = options.is_broadcast();
        x.upstream.start_tracking(caller.id, options.clone());
        self.clients.insert(caller.id, options);
        self.note_modes(x, caller.id);
        // They have other options, or none.
        self.abandon(x, caller.id);
        if !self.is_tracked(x, caller.id) {
            return answer_ok(x, caller.id, spec);
        }
        let Some(caller) = x.downstream.caller(caller.id) else { return };
        let cluster = x.routes.keyless().map(|route| route.cluster);
        let cluster = cluster.or_else(|| x.routes.clusters().first().copied()).unwrap_or_default();
        let state = match is_broadcast {
            true => State::Unplanned(cluster, Spread::EveryPrimary(Merge::First)),
            false => State::Whole(Part::new(cluster, Target::AnyPrimary)),
        };
        let ping = Command::of_bytes(spec, PING);
        let Some(id) = x.begin(&caller, &ping, state, Completion::StartTracking) else { return };
        match is_broadcast {
            true => x.spread(id, PING),
            false => x.send(PartId::whole(id), PING),
        }
    }

    fn note_modes(&self, x: &mut Exchange, client: SessionId) {
        let is_tracked = self.is_tracked(x, client);
        x.downstream.set_modes(client, Modes::TRACKING, true);
        x.downstream.set_modes(client, Modes::TRACKED, is_tracked);
    }

    /// Whether nodes are to track what a client reads: RESP2 has no place for news but another
    /// client's channel.
    fn is_tracked(&self, x: &Exchange, client: SessionId) -> bool {
        let options = self.clients.get(&client);
        let protocol = x.downstream.protocol(client);
        options.zip(protocol).is_some_and(|(options, protocol)| !options.is_mute(protocol))
    }

    /// Whether nodes tell a client of all keys, all of them having begun.
    fn is_broadcast(&self, x: &Exchange, client: SessionId) -> bool {
        let is_broadcast = self.clients.get(&client).is_some_and(TrackingOptions::is_broadcast);
        let begins =
            |(_, last): (_, &Request)| matches!(last.completion, Completion::StartTracking);
        is_broadcast && self.is_tracked(x, client) && !x.flight.last(client).is_some_and(begins)
    }
}

fn answer_ok(x: &mut Exchange, client: SessionId, spec: &'static CommandSpec) {
    x.downstream.stats_mut().finish_at_once(spec, true);
    x.answer(client, |out| encode::simple(out, b"OK"));
}

/// Hands a client news that must not come before the reply to anything that it has sent: that may
/// be the value which the news is about. What a node keeps waiting is not.
fn push_in_turn(x: &mut Exchange, client: SessionId, news: &[u8]) {
    let last = x.flight.last(client);
    if last.is_none_or(|(_, last)| last.blocking().is_some()) {
        return x.notify(client, |out, _| out.extend_from_slice(news));
    }
    if x.flight.pending(client) >= x.config.limits.session_requests.saturating_mul(2) {
        // It has so much news to come that it must not miss, and takes none.
        return x.kill(client);
    }
    x.queue_answer(client, news.to_vec());
}
