//! The consequences that one part of the proxy's work has for others, all in one place.

use super::Proxy;
use crate::cluster::OwnersChange;
use crate::errors;
use crate::exchange::Event;
use crate::features::identities::Claim;
use crate::flight::Request;
use crate::ids::{IdentityId, RequestId, SessionId};
use crate::resp::{Reply, encode};
use crate::upstream;

impl Proxy {
    /// Ends every `handle_*`: what has happened is settled, and clients whose turn has come read
    /// on. For what they read it may be too late already.
    #[inline]
    pub(super) fn settle(&mut self) {
        self.settle_events();
        if self.x.downstream.has_resumable() {
            self.resume_clients();
        }
        self.x.start_report_timer(&mut self.report_timer);
    }

    fn resume_clients(&mut self) {
        while let Some(client) = self.x.downstream.pop_resumable() {
            self.read_on(client);
            self.x.expire_overdue();
            self.settle_events();
        }
    }

    /// Settles what has happened until nothing follows from it any more.
    #[inline]
    pub(super) fn settle_events(&mut self) {
        if self.x.has_events() {
            self.settle_waiting();
        }
    }

    #[cold]
    fn settle_waiting(&mut self) {
        while let Some(event) = self.x.poll_event() {
            self.settle_one(event);
        }
    }

    fn settle_one(&mut self, event: Event) {
        let Self { x, pubsub, tracking, transactions, .. } = self;
        match event {
            Event::Node(event) => self.settle_node(event),
            Event::Claimed(request, reply) => self.conclude_claim(request, &reply),
            Event::TrackingStarted(request, reply) => tracking.conclude_start(x, request, &reply),
            Event::Watched { client, connection, place, mode } => {
                transactions.note_watched(x, client, connection, place, mode);
            }
            Event::WatchEnded(client) => transactions.note_watch_ended(x, client),
            Event::WatchLost(client) => transactions.note_watch_lost(x, client, None),
            Event::Dropped(request) => {
                pubsub.abandon(x, request);
                self.hellos.retain(|hello| *hello != request);
            }
            Event::Untracked(client) => tracking.invalidate(x, client, None),
        }
    }

    fn settle_node(&mut self, event: upstream::Event) {
        let Self { x, pubsub, tracking, transactions, .. } = self;
        match event {
            upstream::Event::Lost(mut lost) => {
                if lost.subscriber {
                    return pubsub.note_lost(x, lost.connection);
                }
                if let Some(client) = lost.client {
                    transactions.note_watch_lost(x, client, Some(lost.connection));
                    if lost.tracked {
                        tracking.invalidate(x, client, None);
                    }
                }
                x.take_lost(&mut lost);
            }
            upstream::Event::Refused { parts, reply } => x.refuse(&parts, &reply),
            upstream::Event::Ready(connection) => x.note_ready(connection),
            upstream::Event::Tracks(client) => tracking.note_tracks(x, client),
            upstream::Event::OwnersChanged(change) => {
                tracking.note_moved_keys(x);
                if change == OwnersChange::Shards {
                    pubsub.follow_owners(x);
                    x.check_dials();
                    // What has left connections that are not established goes behind what is held.
                    self.settle_events();
                    self.x.release_held();
                }
            }
            upstream::Event::Installed => {
                self.finish_hellos();
                self.pubsub.follow_owners(&mut self.x);
                self.tracking.keep_broadcasts(&mut self.x);
                self.x.release_held();
            }
        }
    }

    /// A node has said who a client may be, or never will.
    fn conclude_claim(&mut self, request: RequestId, reply: &[u8]) {
        let Some(Claim { identity, user, hello }) = self.identities.take_claim(request) else {
            return;
        };
        let client = self.x.flight.get(request).and_then(Request::client);
        let Some(client) = client else { return };
        let error = Reply::new(reply).error_line();
        // Whoever may not do what was asked has been let in.
        let is_let_in = hello.is_some() && error.is_some_and(|text| text.starts_with(b"NOPERM"));
        let mut out = Vec::new();
        match error.filter(|_| !is_let_in) {
            Some(text) if hello.is_some() && text.starts_with(b"NOAUTH") => {
                encode::error(&mut out, errors::HELLO_NOAUTH.as_bytes());
            }
            Some(_) => out.extend_from_slice(reply),
            None => {
                self.change_identity(client, identity);
                if let Some(user) = user {
                    self.x.downstream.set_user(client, user);
                }
                match hello {
                    Some(hello) => {
                        let protocol = hello.protocol;
                        self.greet(client, hello);
                        self.write_hello(client, protocol, &mut out);
                    }
                    None => encode::simple(&mut out, b"OK"),
                }
            }
        }
        self.x.deliver(request, &out);
    }

    /// From now on nodes execute what a client says as somebody else, or elsewhere. Nothing may
    /// travel over the connections that it had to itself.
    pub(super) fn change_identity(&mut self, client: SessionId, identity: Option<IdentityId>) {
        if self.x.downstream.set_identity(client, identity) {
            self.tracking.abandon(&mut self.x, client);
            self.tracking.restart(&mut self.x, client);
        }
    }
}
