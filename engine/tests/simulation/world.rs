//! Virtual time: what happens next, between clients, the proxy and nodes.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use fastrand::Rng;
use slotmesh_engine::config::Limits;
use slotmesh_engine::{Config, ConnectionId, Instant, Output, Proxy, SessionId};

use super::chaos::{Change, Chaos};
use super::client::Client;
use super::cluster::{Cluster, LinkId, MIRROR, Node};
use super::history::History;
use super::link::Link;
use super::profile::{OP_TIMEOUT, Profile};

/// How many clients there are at a time.
const CLIENTS: usize = 8;
/// How many more only listen to channels.
const LISTENERS: usize = 2;
/// No new faults after this.
pub const CHAOS: Duration = Duration::from_secs(6);
/// All faults have ended, and the proxy has had time to get over them.
const PEACE: Duration = Duration::from_secs(26);
/// Long enough for everything to be given up that nobody uses.
const AFTERMATH: Duration = Duration::from_secs(120);

/// No command of a client has more bytes.
const LONGEST: usize = 1024;
/// Connections to a node that stay: the shared ones of each version.
const LASTING: usize = 2;
/// What the proxy tells a node before a client's command, and when a connection begins.
const PREFACE: usize = 256;

/// Something that is due.
pub enum Event {
    /// A client sends its next commands.
    Act(usize),
    /// Bytes of a client reach the proxy; the client's session has this number.
    FromClient(usize, usize, Vec<u8>),
    /// A client goes, in the middle of whatever it does.
    Leave(usize, usize),
    Dial(LinkId),
    Established(LinkId),
    ToNode(LinkId, Vec<u8>),
    ToProxy(LinkId, Vec<u8>),
    /// A connection has ended, as the node sees it.
    NodeHangUp(LinkId),
    /// The same, as the proxy sees it.
    ProxyHangUp(LinkId, &'static str),
    Change(Change),
    /// The proxy's events at hand have been handled.
    Flush,
    /// Nodes look whose wait is over.
    Tick,
}

/// Everything there is.
pub struct World {
    pub profile: &'static Profile,
    pub rng: Rng,
    pub now: Instant,
    pub start: Instant,
    pub proxy: Proxy,
    limits: Limits,
    pub cluster: Cluster,
    pub clients: Vec<Client>,
    pub history: History,
    pub chaos: Chaos,
    pub links: BTreeMap<LinkId, Link>,
    /// Clients that the proxy has closed because too much of what they were owed waited in it.
    pub overflows: u64,
    pub trace: bool,
    names: HashMap<ConnectionId, LinkId>,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
}

impl World {
    pub fn new(profile: &'static Profile, seed: u64, trace: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let tells_ids = profile.strangers || rng.u8(..4) > 0;
        let cluster = Cluster::new(profile.mirror, tells_ids);
        let mut config = profile.config(&cluster, &mut rng);
        // Not drawn, so that what is drawn behind it stays the same for each seed.
        config.limits.moved_reply_bytes = 1 + (seed % 200) as usize;
        config.limits.moved_command_bytes = 1 + (seed % 200) as usize;
        let now = Instant::from_nanos(1_000_000_000);
        let limits = config.limits;
        Self {
            profile,
            limits,
            proxy: Proxy::new(config, rng.u64(..)),
            now,
            start: now,
            cluster,
            clients: Vec::new(),
            history: History::default(),
            chaos: Chaos::default(),
            links: BTreeMap::new(),
            overflows: 0,
            trace,
            names: HashMap::new(),
            events: BTreeMap::new(),
            count: 0,
            rng,
        }
    }

    /// A whole life: work under faults, peace, and what is left when all have gone.
    pub fn run(&mut self) {
        let keys = super::workload::Keys::choose(&mut self.rng);
        for number in 0..CLIENTS {
            self.add_client(keys.clone());
            let start = self.up_to(Duration::from_millis(200));
            self.after(start, Event::Act(number));
        }
        for number in CLIENTS..CLIENTS + LISTENERS {
            self.add_client(keys.clone());
            self.clients[number].listens = true;
            self.after(Duration::ZERO, Event::Act(number));
        }
        self.begin_chaos();
        self.after(Duration::from_millis(10), Event::Tick);
        self.run_until(self.start + PEACE);
        for (number, client) in self.clients.iter().enumerate() {
            assert!(client.is_done(), "client {number} still waits for {:?}", client.waiting);
        }
        self.chaos.assert_over();
        self.verify(keys);
        self.history.check(&self.cluster.journal, self.profile);
        assert!(!self.profile.rolling || !self.cluster.journal.has_lost_any(), "writes are lost");
        if self.profile.mirror {
            self.history.check_mirror(&self.cluster.mirror_journal, self.profile.is_peaceful());
        }
        self.leave_all();
        self.run_until(self.now + AFTERMATH);
        self.check_nothing_is_left();
    }

    /// Once all is well again, every key can be read.
    fn verify(&mut self, keys: super::workload::Keys) {
        let number = self.add_client(keys);
        self.read_all_keys(number);
        self.run_until(self.now + OP_TIMEOUT * 2);
        let client = &self.clients[number];
        assert!(client.is_done(), "after the faults nobody answers {:?}", client.waiting);
        assert_eq!(client.errors, Vec::<String>::new(), "after the faults reads fail");
        for step in 0.. {
            assert!(step < 1000, "a SCAN comes to no end");
            self.scan_on(number);
            self.run_until(self.now + Duration::from_millis(100));
            if self.clients[number].cursor == b"0" {
                break;
            }
        }
        assert_eq!(self.clients[number].scanned, self.cluster.keys(), "SCAN has not got all keys");
    }

    fn leave_all(&mut self) {
        for number in 0..self.clients.len() {
            self.leave(number);
        }
    }

    fn check_nothing_is_left(&self) {
        assert_eq!(self.proxy.sessions(), 0, "sessions are left");
        assert_eq!(self.proxy.requests(), 0, "requests are left");
        assert_eq!(self.proxy.kept().subscription_bytes, 0, "subscriptions are left");
        let open = self.links.values().filter(|link| link.is_proxys()).count();
        assert_eq!(self.proxy.connections(), open, "connections have been forgotten");
        let most = self.cluster.nodes.len() * LASTING;
        assert!(open <= most, "{open} connections are left, only {most} are to stay");
    }

    pub fn run_until(&mut self, end: Instant) {
        loop {
            let event = self.events.first_key_value().map(|((at, _), _)| *at);
            let timer = self.proxy.poll_timeout().map(|at| at.max(self.now));
            let Some(next) = event.into_iter().chain(timer).min().filter(|at| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = next;
            if timer == Some(next) {
                self.proxy.handle_timeout(next);
                self.obey();
                if self.proxy.poll_timeout().is_some_and(|again| again <= next) {
                    self.count += 1;
                    assert!(self.count < 100_000_000, "a timer is due for ever");
                }
            } else if let Some((_, event)) = self.events.pop_first() {
                self.happen(event);
            }
            self.check_bounds();
        }
    }

    /// Lets something happen in a while.
    pub fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    pub fn at(&mut self, at: Instant, event: Event) {
        self.count += 1;
        self.events.insert((at.max(self.now), self.count), event);
    }

    /// A duration between nothing and `most`.
    pub fn up_to(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.rng.u64(..=most.as_nanos() as u64))
    }

    pub fn tell(&self, text: impl FnOnce() -> String) {
        if self.trace {
            let since = self.now.saturating_duration_since(self.start);
            eprintln!("{:>12.6} {}", since.as_secs_f64(), text());
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Act(client) => self.act(client),
            Event::FromClient(client, session, bytes) => self.hear(client, session, &bytes),
            Event::Leave(client, session) => {
                if self.clients[client].number == session {
                    self.come_again(client);
                }
            }
            Event::Dial(link) => self.dial(link),
            Event::Established(link) => {
                if let Some(connection) = self.links.get_mut(&link).and_then(Link::establish) {
                    self.proxy.handle_upstream_open(connection, self.now);
                }
            }
            Event::ToNode(link, bytes) => self.reach_node(link, bytes),
            Event::ToProxy(link, bytes) => self.reach_proxy(link, bytes),
            Event::NodeHangUp(link) => self.cluster.hang_up(link),
            Event::ProxyHangUp(link, reason) => {
                if let Some(connection) = self.links.get_mut(&link).and_then(Link::close) {
                    self.tell(|| format!("link {link} closed: {reason}"));
                    self.proxy.handle_upstream_close(connection, reason, self.now);
                }
            }
            Event::Change(change) => self.change(change),
            Event::Flush => self.proxy.flush(),
            Event::Tick => {
                self.cluster.end_waits(self.now);
                if self.now < self.start + PEACE {
                    self.after(Duration::from_millis(10), Event::Tick);
                }
            }
        }
        self.obey();
        self.carry_replies();
    }

    /// Does what the proxy wants.
    pub fn obey(&mut self) {
        enum Todo {
            Open(ConnectionId, String),
            Write(ConnectionId, Vec<u8>),
            Close(ConnectionId),
            Reply(SessionId, Vec<u8>),
            End(SessionId),
            Pause(SessionId),
            Resume(SessionId),
            Flush,
            Report,
        }
        while let Some(output) = self.proxy.poll_output() {
            let todo = match output {
                Output::OpenUpstream { connection, address, .. } => {
                    Todo::Open(connection, address.to_string())
                }
                Output::WriteUpstream { connection, bytes } => {
                    Todo::Write(connection, bytes.to_vec())
                }
                Output::CloseUpstream { connection } => Todo::Close(connection),
                Output::WriteDownstream { session, bytes } => Todo::Reply(session, bytes.to_vec()),
                Output::CloseDownstream { session } => Todo::End(session),
                Output::PauseDownstream { session } => Todo::Pause(session),
                Output::ResumeDownstream { session } => Todo::Resume(session),
                Output::FlushSoon => Todo::Flush,
                Output::ReportStats => Todo::Report,
                Output::Log { message, .. } => {
                    self.tell(|| format!("log: {message}"));
                    continue;
                }
            };
            match todo {
                Todo::Open(connection, address) => {
                    let node = self.cluster.at(&address);
                    let link = self.links.len();
                    self.tell(|| format!("link {link} to {address} is opened"));
                    self.links.insert(link, Link::new(connection, address, node, self.now));
                    self.names.insert(connection, link);
                    let wait = node.map_or(Duration::ZERO, |node| self.latency(node));
                    self.after(wait, Event::Dial(link));
                }
                Todo::Write(connection, bytes) => self.send_to_node(self.names[&connection], bytes),
                Todo::Close(connection) => {
                    let link = self.names[&connection];
                    self.tell(|| format!("link {link} is closed by the proxy"));
                    let end = self.links.get_mut(&link).map(|link| {
                        link.close();
                        link.last_up
                    });
                    self.at(end.unwrap_or(self.now), Event::NodeHangUp(link));
                }
                Todo::Reply(session, bytes) => self.take(session, &bytes),
                Todo::End(session) => self.lose_rest(session),
                Todo::Pause(session) | Todo::Resume(session) => {
                    panic!("{session:?} is far from sending too much")
                }
                Todo::Flush => {
                    let wait = self.up_to(Duration::from_micros(100));
                    self.after(wait, Event::Flush);
                }
                Todo::Report => {
                    self.proxy.report_stats(|_, _| true);
                }
            }
        }
        self.proxy.check_invariants();
    }

    fn check_bounds(&self) {
        let kept = self.proxy.kept();
        let bounds = [
            (kept.session_requests, self.limits.session_requests),
            (kept.session_bytes, self.limits.session_bytes + LONGEST),
            (kept.input_bytes, self.limits.input_bytes),
            (kept.memory_bytes, self.limits.memory_bytes),
            (kept.transaction_bytes, self.limits.transaction_bytes),
            (kept.connection_bytes, self.limits.connection_bytes + PREFACE),
            (kept.waiting_reply_bytes, self.limits.waiting_reply_bytes),
            (kept.held_bytes, self.limits.held_bytes),
            (kept.mirror_bytes, self.limits.mirror_bytes),
            (kept.subscription_bytes, self.limits.subscription_bytes),
            (kept.subscriber_bytes, self.limits.subscriber_bytes + PREFACE),
            (kept.script_bytes, self.limits.script_bytes),
        ];
        let is_over = bounds.iter().any(|(kept, most)| kept > most);
        assert!(!is_over, "over the limits: {kept:?}");
        // Besides these those for subscriptions, those that ask for the topology, and those of one
        // client at a time.
        let nodes = self.cluster.nodes.len();
        let most = nodes * (LASTING + 1) + 3 + 64 + self.proxy.sessions() * nodes;
        assert!(self.proxy.connections() <= most, "{} connections", self.proxy.connections());
    }
}

impl Profile {
    fn config(&self, cluster: &Cluster, rng: &mut Rng) -> Config {
        let address = |node: &Node| format!("\"{}\"", node.address);
        let seeds: Vec<_> = cluster.nodes[..MIRROR].iter().map(address).collect();
        let mirror = cluster.nodes.get(MIRROR).map(address);
        let (policy, copy) = match mirror {
            Some(mirror) => (
                r#", "request_mirror_policy": [{"cluster": "copy", "exclude_read_commands": true}]"#,
                format!(r#", "copy": {{"type": "STANDALONE", "seeds": [{mirror}]}}"#),
            ),
            None => ("", String::new()),
        };
        let json = format!(
            r#"{{"settings": {{"op_timeout": "{}s", "read_policy": "{}"}},
                "prefix_routes": {{"catch_all_route": {{"cluster": "main"{policy}}}}},
                "clusters": {{"main": {{"seeds": [{}], "cluster_refresh_rate": "3s"}}{copy}}}}}"#,
            OP_TIMEOUT.as_secs_f64(),
            self.read_policy,
            seeds[..rng.usize(1..=seeds.len())].join(", "),
        );
        let mut config = Config::from_json(json.as_bytes()).unwrap();
        config.limits.session_requests = self.session_requests;
        config.limits.session_bytes = self.session_bytes;
        config.limits.mirror_bytes = self.mirror_bytes;
        config.limits.input_bytes = 1 << 16;
        config.limits.script_bytes = 1 << 10;
        config.limits.connection_bytes = self.connection_bytes;
        config.limits.held_bytes = self.held_bytes;
        config.limits.transaction_bytes = self.held_bytes;
        config.limits.subscriber_bytes = self.subscriber_bytes;
        config.limits.reply_bytes = self.reply_bytes;
        config.limits.waiting_reply_bytes = self.waiting_reply_bytes;
        config
    }
}
