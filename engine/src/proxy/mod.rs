//! The owner of everything: sessions, requests, connections, clusters.
//!
//! Its parts follow the way of the bytes: `downstream` reads commands, `command` makes requests of
//! them, `local` answers some itself, `identity` has nodes say who a client may be, `pubsub` those
//! about messages, `keyless` says where those without keys go, `dispatch` sends them to nodes, `dials` looks after those that wait for a connection,
//! `upstream` takes in what nodes answer, `redirection` follows nodes that send a command elsewhere,
//! `deliver` puts replies in order, `relay` hands large ones on as they come, `refresh` keeps the
//! topology fresh.

mod client;
mod command;
mod dedicated;
mod deliver;
mod dials;
mod dispatch;
mod downstream;
mod emulation;
mod faults;
mod identity;
mod kept;
mod keyless;
mod local;
mod mirror;
mod ordinary;
mod pubsub;
mod redirection;
mod refresh;
mod relay;
mod scripts;
mod stats;
mod tracking;
mod transaction;
mod unblock;
mod upstream;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use faults::Delayed;
pub use kept::Kept;

use crate::arena::Arena;
use crate::buffers::Buffers;
use crate::cluster::Cluster;
use crate::config::{Attribute, Config};
use crate::hold::Hold;
use crate::identity::{Identities, IdentityId, Login};
use crate::output::{LogLevel, Output, Queued};
use crate::pubsub::Registry;
use crate::request::Requests;
use crate::rng::Rng;
use crate::route::{Places, Rewritten, RouteTable};
use crate::scripts::Scripts;
use crate::session::{Session, SessionId};
use crate::split::Plan;
use crate::stats::Recorder;
use crate::time::Instant;
use crate::upstream::{Connection, ConnectionId};

/// `PING` as a command.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// How often connections are looked over for nodes that have fallen silent.
const STALL_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Commands under way on a connection from which on those of several clients are written together.
/// Below it few would be, and each would wait for nothing.
const BUSY: usize = 32;

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
    config: Config,
    rng: Rng,
    clusters: Vec<Cluster>,
    /// Index of the cluster for commands that name no key.
    default_cluster: usize,
    sessions: Arena<Session>,
    requests: Requests,
    connections: Arena<Connection>,
    hold: Hold,
    /// What clients are subscribed to.
    pubsub: Registry,
    /// Replies that a fault holds back.
    delayed: Vec<Delayed>,
    /// Connections that belonged to one client and wait for the next.
    spare: Vec<ConnectionId>,
    /// As whom clients speak.
    identities: Identities,
    /// What a client is before it has said who it is; `None`: what the configuration says.
    stranger: Option<IdentityId>,
    /// Clients that want to hear of changes because they cache.
    trackers: BTreeSet<SessionId>,
    /// Where replies of the proxy's own go while a transaction is put together.
    captured: Option<Vec<u8>>,
    /// Bytes in all clients' transactions.
    transaction_bytes: usize,
    outputs: VecDeque<Queued>,
    /// Connections and clients whose unwritten bytes wait for [`Self::flush`].
    corked: Vec<ConnectionId>,
    corked_clients: Vec<SessionId>,
    /// Clients that have been answered in this event, but are owed more.
    partly_answered: Vec<SessionId>,
    /// Parked sessions that may read on.
    resumable: VecDeque<SessionId>,
    buffers: Buffers,
    /// Bytes in all sessions' input.
    input_bytes: usize,
    /// The bytes of the last [`Output::WriteDownstream`].
    lent: Vec<u8>,
    /// `None` while a command has it. Boxed, so that taking it moves a pointer.
    scratch: Option<Box<Scratch>>,
    routes: RouteTable,
    /// See [`ordinary`].
    takes_short_ways: bool,
    scripts: Scripts,
    /// Bytes of copies that wait for a mirror, by the index of its cluster.
    mirror_bytes: Vec<usize>,
    /// Counts changes of any slot's owner: commands sent in different epochs may have gone to
    /// different nodes for the same slot.
    epoch: u64,
    /// The zone that this proxy is in.
    zone: Option<String>,
    /// When the current `handle_*` was called.
    now: Instant,
    next_client_id: u64,
    next_stall_check: Instant,
    /// When to look after commands that wait for a connection; `None`: none does.
    next_dial_check: Option<Instant>,
    stats: Recorder,
}

/// Room for intermediate results, so that a command allocates nothing.
#[derive(Debug, Default)]
struct Scratch {
    keys: Vec<u32>,
    places: Places,
    rewritten: Rewritten,
    cut: Cut,
}

/// Room for cutting a command.
#[derive(Debug, Default)]
struct Cut {
    plan: Plan,
    bytes: Vec<u8>,
}

impl Proxy {
    /// A proxy without clients. `seed` drives jitter and the choice among equal nodes; workers
    /// should have different ones.
    pub fn new(config: Config, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        // Ids of different workers should not meet, and clients read them as doubles.
        let next_client_id = (rng.next() >> 44 << 32) + 1;
        let unknown_nodes = config.max_upstream_unknown_connections as usize;
        let mut identities = Identities::new(config.limits.identities);
        let stranger = config.auth_passthrough.then(|| identities.insert(Login::Nobody, 0));
        let routes = RouteTable::new(&config.routes, &config.clusters, config.read_policy);
        Self {
            default_cluster: config.routes.catch_all.as_ref().map_or(0, |route| route.cluster),
            scripts: Scripts::new(config.limits.script_bytes),
            takes_short_ways: ordinary::is_allowed(&config, &routes),
            routes,
            stats: Recorder::new(config.clusters.len(), config.latency_in_micros),
            mirror_bytes: vec![0; config.clusters.len()],
            clusters: config
                .clusters
                .iter()
                .map(|cluster| Cluster::new(cluster.clone(), unknown_nodes))
                .collect(),
            zone: config.zone.clone(),
            config,
            rng,
            sessions: Arena::new(),
            requests: Requests::new(),
            connections: Arena::new(),
            hold: Hold::default(),
            pubsub: Registry::new(),
            delayed: Vec::new(),
            spare: Vec::new(),
            identities,
            stranger,
            trackers: BTreeSet::new(),
            captured: None,
            transaction_bytes: 0,
            now: Instant::default(),
            outputs: VecDeque::new(),
            corked: Vec::new(),
            corked_clients: Vec::new(),
            partly_answered: Vec::new(),
            resumable: VecDeque::new(),
            buffers: Buffers::default(),
            input_bytes: 0,
            lent: Vec::new(),
            scratch: None,
            epoch: 0,
            next_client_id,
            next_stall_check: Instant::default(),
            next_dial_check: None,
        }
    }

    /// Something that was due by the clock may have to be done.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.begin_event(now);
        self.release_delayed(now);
        self.expire_overdue(now);
        if self.hold.next_timeout().is_some_and(|at| at <= now) {
            self.release_held(now);
        }
        if self.pubsub.next_timeout().is_some_and(|at| at <= now) {
            self.place_subscriptions(now);
        }
        if self.next_dial_check.is_some_and(|at| at <= now) {
            self.check_dials(now);
        }
        self.refresh_topologies(now);
        if self.next_stall_check <= now {
            self.next_stall_check = now + STALL_CHECK_INTERVAL;
            self.close_stalled_connections(now);
            self.end_lost_waits(now);
            self.close_spare(now);
            self.end_unused_identities(now);
            self.ping_quiet_subscribers(now);
            self.ping_quiet_trackers(now);
            self.keep_broadcasts(now);
        }
        if self.stats.take_due(now) {
            self.outputs.push_back(Queued::ReportStats);
        }
        self.settle(now);
    }

    /// The events that were at hand have been handled: what is to be written to busy nodes is
    /// written now, that of all clients at once, and to clients what all nodes have answered. See
    /// [`Output::FlushSoon`].
    pub fn flush(&mut self) {
        self.outputs.extend(self.corked.drain(..).map(Queued::WriteUpstream));
        while let Some(id) = self.corked_clients.pop() {
            if let Some(session) = self.sessions.get_mut(id) {
                session.corked = false;
                self.queue_write_downstream(id);
            }
        }
    }

    /// When [`Self::handle_timeout`] wants to be called at the latest; `None`: not before
    /// something else happens.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let requests = self.requests.oldest().map(|(_, deadline)| deadline);
        let refreshes = self.clusters.iter().filter_map(|cluster| cluster.refresh.next_timeout());
        let stall_check = (self.connections.len() > 0).then_some(self.next_stall_check);
        let waiting = self.hold.next_timeout().into_iter().chain(self.next_delayed());
        let waiting = waiting.chain(self.stats.next_timeout()).chain(self.pubsub.next_timeout());
        let checks = stall_check.into_iter().chain(self.next_dial_check);
        refreshes.chain(requests).chain(waiting).chain(checks).min()
    }

    /// The next thing to do; `None`: all is done.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output<'_>> {
        let queued = loop {
            if self.outputs.is_empty() {
                self.cork_clients();
            }
            let queued = self.outputs.pop_front()?;
            if self.is_current(&queued) {
                break queued;
            }
        };
        match queued {
            Queued::OpenUpstream(id) => {
                let connection = self.connections.get(id)?;
                let cluster = self.clusters.get(connection.cluster)?;
                Some(Output::OpenUpstream {
                    connection: id,
                    envoy_cluster: cluster.config.envoy_cluster_of(&connection.address),
                    address: &connection.address,
                })
            }
            Queued::WriteUpstream(id) => {
                let connection = self.connections.get_mut(id)?;
                connection.write_queued = false;
                let bytes = connection.pipeline.take_unwritten();
                Some(Output::WriteUpstream { connection: id, bytes })
            }
            Queued::WriteDownstream(id) => {
                let session = self.sessions.get_mut(id)?;
                session.write_queued = false;
                let spent = std::mem::replace(&mut self.lent, std::mem::take(&mut session.output));
                self.buffers.recycle(spent);
                self.stats.downstream().downstream_cx_tx_bytes_total += self.lent.len() as u64;
                Some(Output::WriteDownstream { session: id, bytes: &self.lent })
            }
            Queued::CloseUpstream(connection) => Some(Output::CloseUpstream { connection }),
            Queued::CloseDownstream(session) => Some(Output::CloseDownstream { session }),
            Queued::PauseDownstream(session) => Some(Output::PauseDownstream { session }),
            Queued::ResumeDownstream(session) => Some(Output::ResumeDownstream { session }),
            Queued::FlushSoon => Some(Output::FlushSoon),
            Queued::ReportStats => Some(Output::ReportStats),
            Queued::Log(level, message) => Some(Output::Log { level, message }),
        }
    }

    /// What keys are made of beside themselves: see [`Self::handle_downstream_attributes`].
    pub fn attributes(&self) -> &[Attribute] {
        &self.config.attributes
    }

    /// Clients connected at the moment.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Client commands that wait for a reply or for their turn to be answered.
    pub fn requests(&self) -> usize {
        self.requests.len()
    }

    /// Connections to nodes, of all kinds.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Whether an output still means something: its owner may have gone since.
    fn is_current(&self, queued: &Queued) -> bool {
        match queued {
            Queued::OpenUpstream(id) => self.connections.get(*id).is_some(),
            Queued::WriteUpstream(id) => self
                .connections
                .get(*id)
                .is_some_and(|connection| connection.pipeline.has_unwritten()),
            Queued::WriteDownstream(id) => {
                self.sessions.get(*id).is_some_and(|session| !session.output.is_empty())
            }
            Queued::CloseDownstream(id)
            | Queued::PauseDownstream(id)
            | Queued::ResumeDownstream(id) => self.sessions.get(*id).is_some(),
            Queued::CloseUpstream(_)
            | Queued::FlushSoon
            | Queued::ReportStats
            | Queued::Log(..) => true,
        }
    }

    /// Begins every `handle_*` that is told the time.
    fn begin_event(&mut self, now: Instant) {
        self.stats.set_time(now);
        self.now = now;
    }

    /// Ends every `handle_*`: sessions whose turn has come read on. For what they read it may be too
    /// late already.
    fn settle(&mut self, now: Instant) {
        while let Some(session) = self.resumable.pop_front() {
            self.read_on(session, now);
            self.expire_overdue(now);
        }
    }

    /// Ends the requests whose time is up.
    fn expire_overdue(&mut self, now: Instant) {
        while let Some((id, deadline)) = self.requests.oldest() {
            if deadline > now {
                return;
            }
            self.expire(id);
        }
    }

    fn queue_write_upstream(&mut self, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else { return };
        let has_unwritten = connection.pipeline.has_unwritten();
        if !connection.open || !has_unwritten || connection.write_queued {
            return;
        }
        connection.write_queued = true;
        if connection.pipeline.len() < BUSY {
            self.outputs.push_back(Queued::WriteUpstream(id));
            return;
        }
        self.flush_soon();
        self.corked.push(id);
    }

    /// Has [`Self::flush`] called, if it is not to be called already.
    fn flush_soon(&mut self) {
        if self.corked.is_empty() && self.corked_clients.is_empty() {
            self.outputs.push_back(Queued::FlushSoon);
        }
    }

    /// A slot has another owner than it was thought to have.
    fn note_new_owners(&mut self) {
        self.epoch += 1;
        self.note_moved_keys();
    }

    fn log(&mut self, level: LogLevel, message: String) {
        self.outputs.push_back(Queued::Log(level, message));
    }
}
