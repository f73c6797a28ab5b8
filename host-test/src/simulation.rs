//! The host under a virtual clock, with clients and nodes that a test plays.
//!
//! Nothing happens by itself: bytes that a test or a [`Peer`] sends become events, and the test
//! says how far to run. Time jumps from event to event. Events of the same instant come in an order
//! that the seed decides, but those of one direction of one connection stay in order.
//!
//! ```no_run
//! use std::time::Duration;
//! use slotmesh_host::{Config, Simulation, Wasm, answering};
//!
//! let wasm = Wasm::from_file("slotmesh.wasm")?;
//! let mut simulation = Simulation::new(&wasm, Config::new("{}"), 7)?;
//! simulation.add_peer("10.0.0.1:6379", answering(|node, _request| node.write(b"+PONG\r\n")));
//! let client = simulation.connect();
//! simulation.send(client, b"*1\r\n$4\r\nPING\r\n");
//! let reply = simulation.receive(client, 7, Duration::from_secs(1));
//! assert_eq!(reply, b"+PONG\r\n");
//! # Ok::<(), slotmesh_host::StartError>(())
//! ```

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use crate::{
    clock::Clock,
    config::Config,
    host::{ClientId, Effect, Host, UpstreamId},
    random::Random,
    vm::{StartError, Wasm},
};

/// A host, its clients and its nodes.
pub struct Simulation {
    host: Host,
    clock: Clock,
    random: Random,
    agenda: BTreeMap<When, Event>,
    /// The last event of each direction of each connection: the next one comes after it.
    latest: BTreeMap<Channel, When>,
    clients: BTreeMap<ClientId, Client>,
    peers: BTreeMap<String, Box<dyn Peer>>,
    upstreams: BTreeMap<UpstreamId, String>,
    scheduled: u64,
    /// How long bytes travel, each way.
    pub latency: Duration,
    /// How clients' and peers' bytes are cut before the host gets them.
    pub chunking: Chunking,
}

/// How a stream of bytes is cut into events.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Chunking {
    /// As they were sent.
    #[default]
    Whole,
    /// Into pieces of this many bytes; the last may be shorter. 0 counts as 1.
    Bytes(usize),
    /// Into pieces of 1 to this many bytes, as the seed decides.
    Random(usize),
}

/// What a node is to do when the host connects to it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Accept {
    /// Accept.
    #[default]
    Now,
    /// Accept after this time, beside the latency.
    After(Duration),
    /// Refuse.
    Refuse,
    /// Neither: the host runs into its connect timeout.
    Hang,
    /// Not be found: its name has no address.
    Hide,
}

/// A node that a test plays. One peer serves all connections to its address.
pub trait Peer {
    /// The host wants to connect.
    fn on_connect(&mut self, node: &mut Connection) -> Accept {
        let _ = node;
        Accept::Now
    }

    /// The host sent `bytes`.
    fn on_data(&mut self, node: &mut Connection, bytes: &[u8]);

    /// A time that was asked for with [`Connection::wake_after`] has come.
    fn on_wake(&mut self, node: &mut Connection) {
        let _ = node;
    }

    /// The host will send no more, or dropped the connection.
    fn on_close(&mut self, node: &mut Connection) {
        let _ = node;
    }
}

impl<P: Peer> Peer for Rc<RefCell<P>> {
    fn on_connect(&mut self, node: &mut Connection) -> Accept {
        self.borrow_mut().on_connect(node)
    }

    fn on_data(&mut self, node: &mut Connection, bytes: &[u8]) {
        self.borrow_mut().on_data(node, bytes);
    }

    fn on_wake(&mut self, node: &mut Connection) {
        self.borrow_mut().on_wake(node);
    }

    fn on_close(&mut self, node: &mut Connection) {
        self.borrow_mut().on_close(node);
    }
}

/// A peer that accepts and calls `on_data` for what it is sent.
pub fn answering(on_data: impl FnMut(&mut Connection, &[u8]) + 'static) -> impl Peer {
    struct Answering<F>(F);

    impl<F: FnMut(&mut Connection, &[u8])> Peer for Answering<F> {
        fn on_data(&mut self, node: &mut Connection, bytes: &[u8]) {
            (self.0)(node, bytes);
        }
    }

    Answering(on_data)
}

/// A peer's side of a connection while one of its callbacks runs: what it says happens afterwards,
/// in its order.
#[derive(Debug)]
pub struct Connection {
    id: UpstreamId,
    now: Duration,
    delay: Duration,
    said: Vec<(Duration, Said)>,
}

#[derive(Debug)]
enum Said {
    Write(Vec<u8>),
    Finish,
    Reset,
    Wake,
}

impl Connection {
    /// Which connection: a peer keeps what it knows of it by this.
    #[must_use]
    pub fn id(&self) -> UpstreamId {
        self.id
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// Sends bytes.
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.say(Said::Write(bytes.as_ref().to_vec()));
    }

    /// Closes the connection in order: the host reads the end of it.
    pub fn close(&mut self) {
        self.say(Said::Finish);
    }

    /// Resets the connection: the host's next read fails.
    pub fn reset(&mut self) {
        self.say(Said::Reset);
    }

    /// Has everything said from here on in this callback happen `delay` later.
    pub fn wait(&mut self, delay: Duration) {
        self.delay += delay;
    }

    /// Calls [`Peer::on_wake`] after `delay`.
    pub fn wake_after(&mut self, delay: Duration) {
        self.said.push((self.delay + delay, Said::Wake));
    }

    fn say(&mut self, said: Said) {
        self.said.push((self.delay, said));
    }
}

impl Simulation {
    /// Starts a host at virtual time zero. `seed` decides the order of simultaneous events, the
    /// pieces of [`Chunking::Random`] and what the plugin's `random_get` gives.
    ///
    /// # Errors
    ///
    /// See [`StartError`].
    pub fn new(wasm: &Wasm, mut config: Config, seed: u64) -> Result<Self, StartError> {
        let clock = Clock::stopped();
        config.seed = seed;
        let host = Host::new(wasm, config, clock.clone())?;
        let mut simulation = Self {
            host,
            clock,
            random: Random::new(seed),
            agenda: BTreeMap::new(),
            latest: BTreeMap::new(),
            clients: BTreeMap::new(),
            peers: BTreeMap::new(),
            upstreams: BTreeMap::new(),
            scheduled: 0,
            latency: Duration::ZERO,
            chunking: Chunking::default(),
        };
        simulation.do_effects();
        Ok(simulation)
    }

    /// Puts a node at `address` (`host:port`), instead of one that was there. Where there is none,
    /// connections are refused.
    pub fn add_peer(&mut self, address: impl Into<String>, peer: impl Peer + 'static) {
        self.peers.insert(address.into(), Box::new(peer));
    }

    /// Takes a node away: its connections are reset, new ones are refused.
    pub fn remove_peer(&mut self, address: &str) {
        self.peers.remove(address);
        let upstreams: Vec<_> = self.upstreams_to(address);
        for upstream in upstreams {
            self.schedule(Duration::ZERO, Channel::FromPeer(upstream), Event::Reset(upstream));
        }
    }

    /// The connections the host has to `address`, or is making.
    #[must_use]
    pub fn upstreams_to(&self, address: &str) -> Vec<UpstreamId> {
        let here = self.upstreams.iter().filter(|(_, to)| *to == address);
        here.map(|(upstream, _)| *upstream).collect()
    }

    /// A node says something without being asked.
    pub fn peer_says(&mut self, upstream: UpstreamId, say: impl FnOnce(&mut Connection)) {
        let mut node = self.connection(upstream);
        say(&mut node);
        self.schedule_said(node);
    }

    /// Connects a client.
    pub fn connect(&mut self) -> ClientId {
        let address = format!("10.255.0.1:{}", 10_000 + self.clients.len());
        let client = self.host.handle_client_connected(address);
        self.clients.insert(client, Client { received: Vec::new(), open: true });
        self.do_effects();
        client
    }

    /// A client sends bytes, cut as [`Self::chunking`] says.
    pub fn send(&mut self, client: ClientId, bytes: impl AsRef<[u8]>) {
        for chunk in self.chunks(bytes.as_ref()) {
            let event = Event::ClientSends(client, chunk);
            self.schedule(self.latency, Channel::FromClient(client), event);
        }
    }

    /// A client closes its connection, after what it sent.
    pub fn close(&mut self, client: ClientId) {
        let event = Event::ClientCloses(client);
        self.schedule(self.latency, Channel::FromClient(client), event);
    }

    /// Whether the host has not closed a client's connection, nor the client itself.
    #[must_use]
    pub fn is_open(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|client| client.open)
    }

    /// What a client has got and not yet taken.
    #[must_use]
    pub fn received(&self, client: ClientId) -> &[u8] {
        self.clients.get(&client).map(|client| client.received.as_slice()).unwrap_or_default()
    }

    /// Takes what a client has got.
    pub fn take_received(&mut self, client: ClientId) -> Vec<u8> {
        self.clients
            .get_mut(&client)
            .map(|client| std::mem::take(&mut client.received))
            .unwrap_or_default()
    }

    /// Runs until a client has got `length` bytes, but no longer than `limit` and not on when its
    /// connection is closed; takes what it got, which may be less or more.
    pub fn receive(&mut self, client: ClientId, length: usize, limit: Duration) -> Vec<u8> {
        self.run_until(limit, |simulation| {
            simulation.received(client).len() >= length || !simulation.is_open(client)
        });
        self.take_received(client)
    }

    /// Runs what is due now; time stands still.
    pub fn settle(&mut self) {
        self.advance(Duration::ZERO);
    }

    /// Runs all that happens in the next `time`, and moves the clock on by it.
    pub fn advance(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Runs until `done`, for at most `limit` of virtual time, and says whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now() + limit;
        loop {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                self.clock.set(end);
                return done(self);
            }
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.clock.elapsed()
    }

    /// The host, for what it can tell: log, metrics, usage, misuse.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// See [`Host::reset_next_send`].
    pub fn reset_next_send(&mut self) {
        self.host.reset_next_send();
    }

    /// Runs the next event, if it is not after `end`.
    fn step(&mut self, end: Duration) -> bool {
        let event_at = self.agenda.first_key_value().map(|(when, _)| when.time);
        let timer_at = self.host.poll_timeout();
        let Some(next) = event_at.into_iter().chain(timer_at).min().filter(|next| *next <= end)
        else {
            return false;
        };
        self.clock.set(next);
        if event_at.is_some_and(|event_at| event_at <= next)
            && let Some((_, event)) = self.agenda.pop_first()
        {
            self.run(event);
        } else {
            self.host.handle_timeout();
        }
        self.do_effects();
        true
    }

    fn run(&mut self, event: Event) {
        match event {
            Event::ClientSends(client, bytes) if self.is_open(client) => {
                self.host.handle_client_data(client, &bytes);
            }
            Event::ClientCloses(client) if self.is_open(client) => {
                self.mark_closed(client);
                self.host.handle_client_closed(client);
            }
            Event::ClientSends(..) | Event::ClientCloses(_) => {}
            Event::Connected(upstream) => self.host.handle_upstream_connected(upstream),
            Event::Refused(upstream) => {
                self.host.handle_upstream_failed(upstream, "connection refused");
            }
            Event::NotFound(upstream) => self.host.handle_upstream_not_found(upstream),
            Event::PeerSends(upstream, bytes) => self.host.handle_upstream_data(upstream, &bytes),
            Event::PeerFinishes(upstream) => self.host.handle_upstream_finished(upstream),
            Event::Reset(upstream) => {
                self.host.handle_upstream_failed(upstream, "connection reset");
            }
            Event::Wake(upstream) => self.tell_peer(upstream, |peer, node| peer.on_wake(node)),
            Event::PeerGets(upstream, bytes) => {
                self.tell_peer(upstream, |peer, node| peer.on_data(node, &bytes));
            }
            Event::PeerSeesClose(upstream) => {
                self.tell_peer(upstream, |peer, node| peer.on_close(node));
            }
            Event::PeerSeesDrop(upstream) => {
                self.tell_peer(upstream, |peer, node| peer.on_close(node));
                self.upstreams.remove(&upstream);
            }
            Event::PeerSeesConnect(upstream) => self.connect_to_peer(upstream),
        }
    }

    fn do_effects(&mut self) {
        while let Some(effect) = self.host.poll_effect() {
            match effect {
                Effect::WriteClient { client, bytes } => {
                    if let Some(client) = self.clients.get_mut(&client) {
                        client.received.extend_from_slice(&bytes);
                    }
                }
                Effect::CloseClient { client } => self.mark_closed(client),
                Effect::Connect { upstream, address } => {
                    self.upstreams.insert(upstream, address);
                    self.schedule_arrival(upstream, Event::PeerSeesConnect(upstream));
                }
                Effect::WriteUpstream { upstream, bytes } => {
                    self.schedule_arrival(upstream, Event::PeerGets(upstream, bytes));
                }
                Effect::FinishUpstream { upstream } => {
                    self.schedule_arrival(upstream, Event::PeerSeesClose(upstream));
                }
                Effect::DropUpstream { upstream } => {
                    self.schedule_arrival(upstream, Event::PeerSeesDrop(upstream));
                }
            }
        }
    }

    fn mark_closed(&mut self, client: ClientId) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.open = false;
        }
    }

    fn schedule_arrival(&mut self, upstream: UpstreamId, event: Event) {
        self.schedule(self.latency, Channel::ToPeer(upstream), event);
    }

    fn connect_to_peer(&mut self, upstream: UpstreamId) {
        let Some(address) = self.upstreams.get(&upstream).cloned() else { return };
        let mut node = self.connection(upstream);
        let accept = match self.peers.get_mut(&address) {
            Some(peer) => peer.on_connect(&mut node),
            None => Accept::Refuse,
        };
        let channel = Channel::FromPeer(upstream);
        match accept {
            Accept::Now => self.schedule(self.latency, channel, Event::Connected(upstream)),
            Accept::After(delay) => {
                self.schedule(self.latency + delay, channel, Event::Connected(upstream));
            }
            Accept::Refuse => self.schedule(self.latency, channel, Event::Refused(upstream)),
            Accept::Hang => return,
            Accept::Hide => self.schedule(self.latency, channel, Event::NotFound(upstream)),
        }
        self.schedule_said(node);
    }

    fn tell_peer(
        &mut self,
        upstream: UpstreamId,
        tell: impl FnOnce(&mut dyn Peer, &mut Connection),
    ) {
        let Some(address) = self.upstreams.get(&upstream) else { return };
        let Some(peer) = self.peers.get_mut(address) else { return };
        let mut node = connection(upstream, self.clock.elapsed());
        tell(peer.as_mut(), &mut node);
        self.schedule_said(node);
    }

    fn connection(&self, upstream: UpstreamId) -> Connection {
        connection(upstream, self.now())
    }

    fn schedule_said(&mut self, node: Connection) {
        let upstream = node.id;
        let channel = Channel::FromPeer(upstream);
        for (delay, said) in node.said {
            let after = self.latency + delay;
            match said {
                Said::Write(bytes) => {
                    for chunk in self.chunks(&bytes) {
                        self.schedule(after, channel, Event::PeerSends(upstream, chunk));
                    }
                }
                Said::Finish => self.schedule(after, channel, Event::PeerFinishes(upstream)),
                Said::Reset => self.schedule(after, channel, Event::Reset(upstream)),
                Said::Wake => {
                    let when = self.when(delay);
                    self.agenda.insert(when, Event::Wake(upstream));
                }
            }
        }
    }

    /// Puts an event `after` from now, but behind the earlier ones of its channel.
    fn schedule(&mut self, after: Duration, channel: Channel, event: Event) {
        let mut when = self.when(after);
        if let Some(latest) = self.latest.get(&channel)
            && *latest > when
        {
            when = When { serial: when.serial, ..*latest };
        }
        self.latest.insert(channel, when);
        self.agenda.insert(when, event);
    }

    fn when(&mut self, after: Duration) -> When {
        self.scheduled += 1;
        When { time: self.now() + after, luck: self.random.next(), serial: self.scheduled }
    }

    fn chunks(&mut self, mut bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut chunks = Vec::new();
        while !bytes.is_empty() {
            let length = match self.chunking {
                Chunking::Whole => bytes.len(),
                Chunking::Bytes(length) => length.max(1),
                Chunking::Random(most) => self.random.up_to(most),
            };
            let (chunk, rest) = bytes.split_at(length.min(bytes.len()));
            chunks.push(chunk.to_vec());
            bytes = rest;
        }
        chunks
    }
}

fn connection(id: UpstreamId, now: Duration) -> Connection {
    Connection { id, now, delay: Duration::ZERO, said: Vec::new() }
}

/// A client's side of its connection.
struct Client {
    received: Vec<u8>,
    open: bool,
}

/// The place of an event: by time, then by luck.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct When {
    time: Duration,
    luck: u64,
    serial: u64,
}

/// A direction of a connection.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Channel {
    FromClient(ClientId),
    ToPeer(UpstreamId),
    FromPeer(UpstreamId),
}

enum Event {
    ClientSends(ClientId, Vec<u8>),
    ClientCloses(ClientId),
    /// The host hears of its connection.
    Connected(UpstreamId),
    Refused(UpstreamId),
    NotFound(UpstreamId),
    PeerSends(UpstreamId, Vec<u8>),
    PeerFinishes(UpstreamId),
    Reset(UpstreamId),
    Wake(UpstreamId),
    /// The peer hears of the host.
    PeerSeesConnect(UpstreamId),
    PeerGets(UpstreamId, Vec<u8>),
    PeerSeesClose(UpstreamId),
    PeerSeesDrop(UpstreamId),
}
