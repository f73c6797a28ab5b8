//! Commands to nodes and replies to clients: what every feature of the proxy stands on.
//!
//! ```text
//! keyed, keyless ─► command ─► send ─► upstream     upstream ─► replies ─► deliver ─► downstream
//!       │                       ▲                      │
//!       └─► mirror              └── redirect, lost ◄───┘
//! ```
//!
//! It may call the three components that it owns, and none of those calls it, or another one. What
//! concerns a feature (subscriptions, tracking, transactions, users) comes out as an [`Event`].

mod command;
mod deliver;
mod dials;
mod event;
mod keyed;
mod keyless;
mod lost;
mod mirror;
mod redirect;
mod relay;
mod replies;
mod scripts;
mod send;

use std::collections::VecDeque;

pub(crate) use command::Command;
use deliver::Delayed;
pub(crate) use event::Event;
pub(crate) use keyed::Keyed;
pub(crate) use keyless::Destination;
use mirror::Mirrors;

use crate::budget::Memory;
use crate::buffers::Buffers;
use crate::config::Config;
use crate::downstream::{Downstream, Profile};
use crate::flight::{Flight, Plan};
use crate::ids::{ClusterId, SessionId};
use crate::output::Output;
use crate::rng::Rng;
use crate::route::{Places, Rewritten, RouteTable};
use crate::scripts::Scripts;
use crate::stats::ReportTimer;
use crate::time::Instant;
use crate::upstream::{Login, Upstream};

/// What carries commands to nodes and their replies back.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) config: Config,
    pub(crate) routes: RouteTable,
    pub(crate) downstream: Downstream,
    pub(crate) flight: Flight,
    pub(crate) upstream: Upstream,
    pub(crate) scripts: Scripts,
    pub(crate) buffers: Buffers,
    pub(crate) rng: Rng,
    mirrors: Mirrors,
    /// Replies that a fault holds back.
    delayed: Vec<Delayed>,
    /// Where the proxy's own replies go while a transaction is put together.
    captured: Option<Vec<u8>>,
    /// When to look after commands that wait for a connection; `None`: none does.
    next_dial_check: Option<Instant>,
    /// The driver knows that it has to call [`Self::flush`].
    flush_announced: bool,
    events: VecDeque<Event>,
    /// `None` while a command has it. Boxed, so that taking it moves a pointer.
    scratch: Option<Box<Scratch>>,
    /// The one clock: when the current event has happened.
    now: Instant,
}

/// Room for intermediate results, so that a command allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pub(crate) keys: Vec<u32>,
    pub(crate) places: Places,
    pub(crate) rewritten: Rewritten,
    cut: Cut,
}

/// Room for cutting a command.
#[derive(Debug, Default)]
struct Cut {
    plan: Plan,
    bytes: Vec<u8>,
}

impl Exchange {
    pub(crate) fn new(config: Config, memory: &Memory, mut rng: Rng) -> Self {
        // Ids of different workers should not meet, and clients read them as doubles.
        let first_client_id = (rng.next() >> 44 << 32) + 1;
        let routes = RouteTable::new(&config.routes, &config.clusters, config.read_policy);
        let upstream_rng = Rng::new(rng.next());
        Self {
            downstream: Downstream::new(&config, memory, first_client_id),
            flight: Flight::new(&config.limits, memory),
            upstream: Upstream::new(&config, routes.reads_from_replicas(), upstream_rng),
            scripts: Scripts::new(config.limits.script_bytes),
            mirrors: Mirrors::new(&config),
            routes,
            config,
            buffers: Buffers::default(),
            rng,
            delayed: Vec::new(),
            captured: None,
            next_dial_check: None,
            flush_announced: false,
            events: VecDeque::new(),
            scratch: None,
            now: Instant::default(),
        }
    }

    /// Sets the clock: an event has happened.
    #[inline]
    pub(crate) fn set_time(&mut self, now: Instant) {
        self.now = now;
        self.downstream.stats_mut().set_time(now);
        self.upstream.stats_mut().set_time(now);
    }

    /// When the current event has happened.
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Whether features have anything to settle.
    #[inline]
    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty() || self.upstream.has_events()
    }

    /// The next thing that they have.
    pub(crate) fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front().or_else(|| self.upstream.poll_event().map(Event::Node))
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub(crate) fn next_timeout(&self) -> Option<Instant> {
        let requests = self.flight.oldest().map(|(_, deadline)| deadline);
        let held = self.flight.next_release();
        let delayed = self.delayed.iter().map(|delayed| delayed.until).min();
        let upstream = self.upstream.next_timeout();
        let clients = self.downstream.next_timeout();
        let waiting = [requests, held, delayed, self.next_dial_check, upstream, clients];
        waiting.into_iter().flatten().min()
    }

    /// Does what is due by the clock for commands and replies.
    pub(crate) fn handle_timeout(&mut self) {
        let now = self.now;
        self.release_delayed();
        self.expire_overdue();
        if self.flight.next_release().is_some_and(|at| at <= now) {
            self.release_held();
        }
        if self.next_dial_check.is_some_and(|at| at <= now) {
            self.check_dials();
        }
        self.downstream.close_quiet(now);
    }

    /// Lets the timer of the statistics' report run if there is something to report.
    #[inline]
    pub(crate) fn start_report_timer(&mut self, timer: &mut ReportTimer) {
        let clients_changed = self.downstream.stats_mut().take_changed();
        if self.upstream.stats_mut().take_changed() || clients_changed {
            timer.start(self.now);
        }
    }

    /// The next thing to do for the driver; `None`: all is done.
    #[inline]
    pub(crate) fn poll_output(&mut self, timer: &mut ReportTimer) -> Option<Output<'_>> {
        if self.upstream.has_outputs() {
            return self.upstream.poll_output();
        }
        if self.downstream.has_outputs() {
            return self.downstream.poll_output();
        }
        // The event is over: whoever has not got all waits for what else is at hand.
        while let Some(client) = self.downstream.pop_partly_answered() {
            let is_owed_more = !self.flight.is_idle(client);
            self.downstream.defer(client, is_owed_more);
        }
        if self.needs_flush() {
            return Some(Output::FlushSoon);
        }
        timer.take_due(self.now).then_some(Output::ReportStats)
    }

    /// Whether [`crate::Proxy::flush`] is to be called, and nobody has been told so yet.
    fn needs_flush(&mut self) -> bool {
        let is_corked = self.upstream.is_corked() || self.downstream.is_corked();
        is_corked && !std::mem::replace(&mut self.flush_announced, is_corked)
    }

    /// Writes to busy nodes what all clients have for them, and to clients what all nodes have
    /// answered.
    pub(crate) fn flush(&mut self) {
        self.flush_announced = false;
        self.upstream.flush();
        self.downstream.flush();
    }

    /// The cluster for commands that name no key; that of the first route if there is no catch-all.
    pub(crate) fn default_cluster(&self) -> ClusterId {
        self.routes.keyless().map(|route| route.cluster).unwrap_or_default()
    }

    /// As whom a client's connections log in, and its database.
    pub(crate) fn login_of(&self, client: SessionId) -> (Login, i64) {
        self.upstream.login(self.downstream.identity(client))
    }

    /// Clients that a client may know of and do something to: where nodes say what users may do,
    /// those of its own user, since no node can be asked about these.
    pub(crate) fn visible_to(
        &self,
        client: SessionId,
    ) -> impl Iterator<Item = (SessionId, &Profile)> {
        let user = self.downstream.profile(client).map(Profile::user);
        let all = !self.config.auth_passthrough;
        let profiles = self.downstream.profiles();
        profiles.filter(move |(_, other)| all || Some(other.user()) == user)
    }

    /// Room for intermediate results, to be given back by [`Self::put_scratch`].
    pub(crate) fn take_scratch(&mut self) -> Box<Scratch> {
        self.scratch.take().unwrap_or_default()
    }

    pub(crate) fn put_scratch(&mut self, scratch: Box<Scratch>) {
        self.scratch = Some(scratch);
    }

    /// From now on the proxy's own replies are kept, until [`Self::take_captured`].
    pub(crate) fn start_capture(&mut self) {
        self.captured = Some(Vec::new());
    }

    /// What has been answered since [`Self::start_capture`].
    pub(crate) fn take_captured(&mut self) -> Vec<u8> {
        self.captured.take().unwrap_or_default()
    }

    /// Bytes of copies that wait for the mirror that has most.
    pub(crate) fn mirror_bytes(&self) -> usize {
        self.mirrors.most()
    }

    /// Panics if the components contradict themselves: for tests.
    pub(crate) fn check_invariants(&self) {
        self.downstream.check_invariants();
        self.flight.check_invariants();
        self.upstream.check_invariants();
        assert!(self.captured.is_none(), "nothing is captured between two events");
    }
}
