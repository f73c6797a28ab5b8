//! The proxy as a whole: it hands events to its parts, and settles what these tell.
//!
//! | file | what it does |
//! |---|---|
//! | read | client bytes to commands |
//! | execute | a command to the part that serves it |
//! | local, clients, emulation, unblock | commands that the proxy answers itself, or about its clients |
//! | nodes | node bytes to replies |
//! | settle | the consequences for other parts |
//! | look | what there is to see from outside |
//!
//! Calls go down only: proxy to features, features to [`Exchange`], that to `downstream`, `flight`
//! and `upstream`. What has to go up is an event, a value.

mod clients;
mod emulation;
mod execute;
mod local;
mod look;
mod nodes;
mod read;
mod settle;
mod unblock;

pub use look::Kept;

use crate::budget::Memory;
use crate::config::Config;
use crate::exchange::Exchange;
use crate::features::identities::Identities;
use crate::features::pubsub::PubSub;
use crate::features::tracking::Tracking;
use crate::features::transactions::Transactions;
use crate::ids::RequestId;
use crate::output::Output;
use crate::rng::Rng;
use crate::stats::ReportTimer;
use crate::time::Instant;

/// The proxy of one worker, as a state machine.
///
/// Its methods are of four kinds:
///
/// - **`handle_*`**: something happened. Must be followed by a complete drain of
///   [`Self::poll_output`].
/// - **[`Self::poll_output`]**: what to do next, until `None`.
/// - **[`Self::poll_timeout`]**: when to call [`Self::handle_timeout`] at the latest. May be asked
///   after a drain.
/// - **getters**: everything else; they change nothing.
///
/// Ids of sessions and connections that are gone are ignored, so a driver may report events late.
#[derive(Debug)]
pub struct Proxy {
    x: Exchange,
    pubsub: PubSub,
    tracking: Tracking,
    transactions: Transactions,
    identities: Identities,
    /// HELLO commands that wait for the version of Redis.
    hellos: Vec<RequestId>,
    report_timer: ReportTimer,
    /// What the parts keep for clients together.
    memory: Memory,
}

impl Proxy {
    /// A proxy without clients. `seed` drives jitter and the choice among equal nodes; workers
    /// should have different ones.
    pub fn new(config: Config, seed: u64) -> Self {
        let memory = Memory::new(config.limits.memory_bytes);
        let mut x = Exchange::new(config, &memory, Rng::new(seed));
        let limits = &x.config.limits;
        Self {
            pubsub: PubSub::new(limits, &memory),
            tracking: Tracking::default(),
            transactions: Transactions::new(limits, &memory),
            identities: Identities::new(&mut x),
            hellos: Vec::new(),
            report_timer: ReportTimer::default(),
            memory,
            x,
        }
    }

    /// Something that was due by the clock may have to be done.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.x.set_time(now);
        self.x.handle_timeout();
        if self.pubsub.next_timeout().is_some_and(|at| at <= now) {
            self.pubsub.place(&mut self.x);
        }
        let has_clients = self.x.downstream.len() > 0;
        self.x.upstream.refresh_topologies(has_clients, now);
        if self.x.upstream.take_stall_check(now) {
            self.x.upstream.close_stalled(now);
            self.x.upstream.end_lost_waits(now);
            self.x.upstream.close_spare(now);
            self.identities.end_unused(&mut self.x);
            self.pubsub.ping_quiet(&mut self.x);
            self.x.upstream.ping_quiet_trackers(now);
            self.settle_events();
            self.tracking.keep_broadcasts(&mut self.x);
        }
        self.settle();
    }

    /// The events that were at hand have been handled: what is to be written to busy nodes is
    /// written now, that of all clients at once, and to clients what all nodes have answered. See
    /// [`Output::FlushSoon`].
    pub fn flush(&mut self) {
        self.x.flush();
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest; `None`: not before
    /// something else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let parts =
            [self.x.next_timeout(), self.pubsub.next_timeout(), self.report_timer.next_timeout()];
        parts.into_iter().flatten().min()
    }

    /// The next thing to do; `None`: all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        self.x.poll_output(&mut self.report_timer)
    }

    /// Panics if its parts contradict themselves or each other: for tests, after an event.
    ///
    /// # Panics
    /// They do.
    pub fn check_invariants(&self) {
        self.x.check_invariants();
        self.pubsub.check_invariants(&self.x);
        self.tracking.check_invariants(&self.x);
        self.transactions.check_invariants(&self.x);
    }
}
