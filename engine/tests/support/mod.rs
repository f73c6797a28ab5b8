//! A driver with a virtual clock, and a model of a Redis Cluster for it to talk to.
#![allow(dead_code, unreachable_pub, reason = "every test binary uses a part of it")]

pub mod acl;
pub mod metrics;
pub mod pubsub;
pub mod redis;
pub mod tracking;

use std::collections::BTreeMap;
use std::time::Duration;

use slotmesh_engine::config::{ClusterKind, Fraction, Mirror};
use slotmesh_engine::{ClusterId, Config, ConnectionId, Instant, Output, Proxy, SessionId};

pub use metrics::Metrics;
pub use redis::{FakeCluster, Health};

/// How bytes reach the proxy. Every scenario must come out the same either way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chunking {
    Whole,
    ByteByByte,
}

/// Runs a scenario under both ways of cutting bytes.
pub fn each_chunking(scenario: impl Fn(Driver)) {
    each_chunking_with(|_| {}, scenario);
}

/// The same, with a changed configuration.
pub fn each_chunking_with(change: impl Fn(&mut Config), scenario: impl Fn(Driver)) {
    for chunking in [Chunking::Whole, Chunking::ByteByByte] {
        eprintln!("chunking: {chunking:?}");
        scenario(Driver::with(chunking, &change));
    }
}

/// Stands between the proxy, its clients and its nodes, as the filter does.
pub struct Driver {
    pub proxy: Proxy,
    pub cluster: FakeCluster,
    /// Another Redis, for routes and mirrors.
    pub other: FakeCluster,
    pub now: Instant,
    pub chunking: Chunking,
    pub log: Vec<String>,
    /// Writes to nodes so far, by address.
    pub writes: BTreeMap<String, usize>,
    /// Connections opened so far, by address.
    pub opened: BTreeMap<String, usize>,
    /// What the proxy has reported of what it counts.
    pub metrics: Metrics,
    /// The proxy waits for the events at hand to be handled.
    flush_soon: bool,
    /// Connections opened so far; a node calls each by its number.
    opened_in_all: i64,
    clients: Vec<Client>,
    links: Vec<Link>,
}

/// What a client has got.
#[derive(Default)]
struct Client {
    session: Option<SessionId>,
    received: Vec<u8>,
    /// How often the proxy has written to it.
    writes: usize,
    closed: bool,
    paused: bool,
    unread: Vec<u8>,
}

/// A connection to a node, seen from between.
struct Link {
    connection: ConnectionId,
    address: String,
    established: bool,
    peer: redis::Peer,
}

/// Names a client of the driver.
#[derive(Clone, Copy, Debug)]
pub struct ClientId(usize);

pub const OP_TIMEOUT: Duration = Duration::from_secs(2);

impl Driver {
    pub fn new(chunking: Chunking) -> Self {
        Self::with(chunking, |_| {})
    }

    /// A driver whose proxy has a changed configuration.
    pub fn with(chunking: Chunking, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::from_json(
            br#"{"settings": {"op_timeout": "2s"},
                "prefix_routes": {"catch_all_route": {"cluster": "main"}},
                "clusters": {"main": {"seeds": ["node-0:1", "node-1:1"]}}}"#,
        )
        .unwrap();
        // So that more is moved than large values alone.
        config.limits.moved_reply_bytes = 1;
        config.limits.moved_command_bytes = 1;
        change(&mut config);
        Self {
            proxy: Proxy::new(config, 1),
            cluster: FakeCluster::new(3),
            other: FakeCluster::standalone("other"),
            now: Instant::from_nanos(1_000_000_000),
            chunking,
            log: Vec::new(),
            writes: BTreeMap::new(),
            opened: BTreeMap::new(),
            metrics: Metrics::default(),
            flush_soon: false,
            opened_in_all: 0,
            clients: Vec::new(),
            links: Vec::new(),
        }
    }

    pub fn connect(&mut self) -> ClientId {
        let session = self.proxy.handle_downstream_open(self.now);
        self.clients.push(Client { session: Some(session), ..Client::default() });
        self.settle();
        ClientId(self.clients.len() - 1)
    }

    /// The host tells what it knows of a client's connection.
    pub fn introduce(&mut self, client: ClientId, attributes: Vec<Vec<u8>>) {
        let session = self.clients[client.0].session.unwrap();
        self.proxy.handle_downstream_attributes(session, attributes);
    }

    /// Tells the proxy where a client comes from and where it arrived.
    pub fn locate(&mut self, client: ClientId, remote: &str, local: &str) {
        let session = self.clients[client.0].session.unwrap();
        let (remote, local) = (remote.parse().unwrap(), local.parse().unwrap());
        self.proxy.handle_downstream_addresses(session, Some(remote), Some(local));
    }

    pub fn disconnect(&mut self, client: ClientId) {
        let session = self.clients[client.0].session.take().unwrap();
        self.proxy.handle_downstream_close(session, self.now);
        self.settle();
    }

    /// The client sends bytes; everything happens that takes no time.
    pub fn send(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        self.send_unsettled(client, bytes);
        self.settle();
    }

    /// The client sends bytes; nodes have not answered yet.
    pub fn send_unsettled(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        for chunk in cut(self.chunking, bytes.as_ref()) {
            let client = &mut self.clients[client.0];
            let Some(session) = client.session else { return };
            if client.paused {
                client.unread.extend_from_slice(chunk);
            } else {
                let (proxy, now) = (&mut self.proxy, self.now);
                match proxy.take_unfinished(session, chunk.len()) {
                    None => proxy.handle_downstream_buffer(session, &mut chunk.to_vec(), now),
                    Some(mut bytes) => {
                        let rest_at = bytes.len();
                        bytes.extend_from_slice(chunk);
                        proxy.handle_downstream_rest(session, bytes, rest_at, now);
                    }
                }
                self.obey();
            }
        }
    }

    /// The client sends a command of bulk strings.
    pub fn command(&mut self, client: ClientId, words: &str) {
        self.send(client, encode(words));
    }

    /// What the client has received since it was last asked, printable.
    pub fn received(&mut self, client: ClientId) -> String {
        let received = std::mem::take(&mut self.clients[client.0].received);
        String::from_utf8_lossy(&received).replace("\r\n", " ")
    }

    /// How often the proxy has written to a client.
    pub fn writes_to(&self, client: ClientId) -> usize {
        self.clients[client.0].writes
    }

    /// Sends a command and returns what comes back without time passing.
    pub fn ask(&mut self, client: ClientId, words: &str) -> String {
        self.command(client, words);
        self.received(client)
    }

    pub fn is_closed(&self, client: ClientId) -> bool {
        self.clients[client.0].closed
    }

    pub fn is_paused(&self, client: ClientId) -> bool {
        self.clients[client.0].paused
    }

    /// Lets time pass, stopping at every timeout on the way.
    pub fn wait(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(next) = self.proxy.poll_timeout().filter(|next| *next <= end) {
            self.now = next.max(self.now);
            self.proxy.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
        self.settle();
    }

    /// Cuts every connection to a node, as when its process dies.
    pub fn cut(&mut self, address: &str) {
        let links = std::mem::take(&mut self.links);
        for link in links {
            if link.address == address {
                self.proxy.handle_upstream_close(link.connection, "reset by the test", self.now);
            } else {
                self.links.push(link);
            }
        }
        self.settle();
    }

    /// A node sends bytes that nobody asked for on all of its connections.
    pub fn inject(&mut self, address: &str, bytes: &[u8]) {
        for link in self.links.iter_mut().filter(|link| link.address == address) {
            link.peer.output.extend_from_slice(bytes);
        }
        self.settle();
    }

    /// The test answers in the place of a node that is silent, and stays so, on the connection over
    /// which that has been asked something.
    pub fn say(&mut self, address: &str, bytes: &[u8]) {
        let is_asked = |link: &&Link| link.address == address && !link.peer.input.is_empty();
        let connection = self.links.iter().find(is_asked).expect("a question").connection;
        for chunk in cut(self.chunking, bytes) {
            self.proxy.handle_upstream_buffer(connection, &mut chunk.to_vec(), self.now);
            self.obey();
        }
        self.settle();
    }

    /// Topologies that the proxy has installed.
    pub fn refreshes(&self) -> u64 {
        self.proxy.stats().topology_refresh_success
    }

    /// Bytes that a node has got and has not executed.
    pub fn unexecuted(&self, address: &str) -> usize {
        let links = self.links.iter().filter(|link| link.address == address);
        links.map(|link| link.peer.input.len()).sum()
    }

    /// How many connections there are to a node.
    pub fn connections(&self, address: &str) -> usize {
        self.links.iter().filter(|link| link.address == address).count()
    }

    /// Everything happens that takes no time.
    pub fn settle(&mut self) {
        self.obey();
        for _ in 0..10_000 {
            let progress = self.establish() | self.exchange();
            self.obey();
            if progress {
                continue;
            }
            // What was at hand has been handled.
            if !std::mem::take(&mut self.flush_soon) {
                return self.proxy.check_invariants();
            }
            self.proxy.flush();
            self.obey();
        }
        panic!("proxy and nodes keep each other busy for ever");
    }

    /// Nodes accept or refuse the connections opened since.
    fn establish(&mut self) -> bool {
        let Some(at) = self.links.iter().position(|link| {
            !link.established && self.health(&link.address) != Health::Unreachable
        }) else {
            return false;
        };
        let address = self.links[at].address.clone();
        let connection = self.links[at].connection;
        if self.health(&address) == Health::Refusing {
            self.links.remove(at);
            self.proxy.handle_upstream_close(connection, "connection refused", self.now);
        } else {
            self.links[at].established = true;
            self.proxy.handle_upstream_open(connection, self.now);
        }
        true
    }

    fn health(&self, address: &str) -> Health {
        let other = self.other.has(address);
        if other { self.other.health(address) } else { self.cluster.health(address) }
    }

    /// Nodes execute what has arrived and their replies travel back.
    fn exchange(&mut self) -> bool {
        for at in 0..self.links.len() {
            let listeners: Vec<_> = self
                .links
                .iter()
                .map(|link| (link.address.clone(), link.peer.topics.clone()))
                .collect();
            let link = &mut self.links[at];
            let other = self.other.has(&link.address);
            let cluster = if other { &mut self.other } else { &mut self.cluster };
            if cluster.health(&link.address) != Health::Well {
                continue;
            }
            cluster.board.listeners = listeners;
            let address = link.address.clone();
            cluster.execute(&address, &mut link.peer);
            link.peer
                .topics
                .revoke(|channel| cluster.owns(&address, channel), &mut link.peer.output);
            for message in cluster.board.take_published() {
                // What a node that is silent would send is lost.
                let well = |address: &str| cluster.health(address) == Health::Well;
                for link in self.links.iter_mut().filter(|link| well(&link.address)) {
                    message.write_for(&link.address, &link.peer.topics, &mut link.peer.output);
                }
            }
            if let Some((id, fails)) = cluster.unblocked.take() {
                let named = self.links.iter_mut().find(|link| link.peer.tracker.id == id);
                FakeCluster::unblock(&mut named.expect("a connection").peer, fails);
            }
            for change in std::mem::take(&mut cluster.changes) {
                for listener in 0..self.links.len() {
                    let tracker = &mut self.links[listener].peer.tracker;
                    let heard = tracker.hear(&change, listener == at);
                    let here = self.links[listener].address == address;
                    let Some((id, push)) = heard.filter(|_| here) else { continue };
                    let target = self.links.iter_mut().find(|link| link.peer.tracker.id == id);
                    if let Some(target) = target {
                        target.peer.output.extend_from_slice(&push);
                    }
                }
            }
            let link = &mut self.links[at];
            if !link.peer.output.is_empty() {
                let output = std::mem::take(&mut link.peer.output);
                let connection = link.connection;
                for chunk in cut(self.chunking, &output) {
                    self.proxy.handle_upstream_buffer(connection, &mut chunk.to_vec(), self.now);
                    self.obey();
                }
                return true;
            }
        }
        false
    }

    /// Does what the proxy wants, until it wants nothing more.
    fn obey(&mut self) {
        let (mut resumed, mut report) = (Vec::new(), false);
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::OpenUpstream { connection, address, .. } => {
                    let address = address.to_string();
                    *self.opened.entry(address.clone()).or_default() += 1;
                    let mut peer = redis::Peer::default();
                    self.opened_in_all += 1;
                    peer.tracker.id = self.opened_in_all;
                    self.links.push(Link { connection, address, established: false, peer });
                }
                Output::WriteUpstream { connection, bytes } => {
                    assert!(!bytes.is_empty(), "an empty write");
                    let link = self.links.iter_mut().find(|link| link.connection == connection);
                    let link = link.expect("a write to a connection that is there");
                    assert!(link.established, "a write before the connection is established");
                    link.peer.input.extend_from_slice(bytes);
                    *self.writes.entry(link.address.clone()).or_default() += 1;
                }
                Output::CloseUpstream { connection } => {
                    self.links.retain(|link| link.connection != connection);
                }
                Output::WriteDownstream { session, bytes } => {
                    assert!(!bytes.is_empty(), "an empty write");
                    let client = client_of(&mut self.clients, session);
                    assert!(!client.closed, "a write after the close");
                    client.received.extend_from_slice(bytes);
                    client.writes += 1;
                    if client.paused && !client.unread.is_empty() {
                        resumed.push((session, std::mem::take(&mut client.unread)));
                    }
                }
                Output::CloseDownstream { session } => {
                    let client = client_of(&mut self.clients, session);
                    client.closed = true;
                    client.session = None;
                    self.proxy.handle_downstream_close(session, self.now);
                }
                Output::PauseDownstream { session } => {
                    client_of(&mut self.clients, session).paused = true;
                }
                Output::ResumeDownstream { session } => {
                    let client = client_of(&mut self.clients, session);
                    client.paused = false;
                    resumed.push((session, std::mem::take(&mut client.unread)));
                }
                Output::FlushSoon => self.flush_soon = true,
                Output::ReportStats => report = true,
                Output::Log { message, .. } => self.log.push(message),
            }
        }
        if report {
            self.metrics.take(&mut self.proxy);
        }
        if resumed.is_empty() {
            return;
        }
        for (session, bytes) in resumed {
            self.proxy.handle_downstream_data(session, &bytes, self.now);
        }
        self.obey();
    }
}

/// A cluster of the configuration, like the first but for its name and seed.
pub fn another_cluster(config: &mut Config, name: &str, seed: &str) -> ClusterId {
    let mut cluster = config.clusters[0].clone();
    cluster.name = name.to_owned();
    cluster.seeds = vec![slotmesh_engine::Address::parse(seed).unwrap()];
    config.clusters.push(cluster);
    ClusterId::new(config.clusters.len() - 1)
}

/// Copies every write to the standalone server `other-0:1`.
pub fn mirror_writes(config: &mut Config) {
    let cluster = another_cluster(config, "mirror", "other-0:1");
    config.clusters[cluster.position()].kind = ClusterKind::Standalone;
    config.routes.catch_all.as_mut().unwrap().mirrors = vec![Mirror {
        cluster,
        exclude_read_commands: true,
        fraction: Fraction::ALL,
        draw_per_command: false,
    }];
}

/// A command of the words between spaces.
pub fn encode(words: &str) -> Vec<u8> {
    let words: Vec<_> = words.split(' ').map(str::as_bytes).collect();
    let mut bytes = Vec::new();
    slotmesh_engine::resp::encode::command(&mut bytes, &words);
    bytes
}

fn cut(chunking: Chunking, bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let size = match chunking {
        Chunking::Whole => bytes.len().max(1),
        Chunking::ByteByByte => 1,
    };
    bytes.chunks(size)
}

fn client_of(clients: &mut [Client], session: SessionId) -> &mut Client {
    clients.iter_mut().find(|client| client.session == Some(session)).expect("a known session")
}
