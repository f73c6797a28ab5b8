//! The whole engine under a script of events.

use std::collections::BTreeSet;
use std::time::Duration;

use slotmesh_engine::{Config, ConnectionId, Instant, Output, Proxy, SessionId};

const CONFIGURATION: &[u8] =
    br#"{"settings": {"op_timeout": "1s", "read_policy": "PREFER_REPLICA"},
    "prefix_routes": {"catch_all_route": {"cluster": "c",
        "request_mirror_policy": [{"cluster": "m"}]}},
    "clusters": {"c": {"seeds": ["n:1", "n:2"]},
        "m": {"type": "STANDALONE", "seeds": ["m:1"]}}}"#;

/// Replies with which a connection for asking the topology is content.
const TOPOLOGY: &[u8] = b"*0\r\n+cluster_current_epoch:1\r\n*2\r\n\
    *4\r\n:0\r\n:8191\r\n*2\r\n$1\r\nn\r\n:1\r\n*2\r\n$1\r\nn\r\n:3\r\n\
    *3\r\n:8192\r\n:16383\r\n*2\r\n$1\r\nn\r\n:2\r\n";

/// So long after everybody has gone, nothing may be left that waits.
const AFTERWARDS: Duration = Duration::from_secs(60);

/// A driver that keeps the engine's rules, and sees that the engine keeps its own.
struct World {
    proxy: Proxy,
    now: Instant,
    sessions: Vec<SessionId>,
    connections: Vec<ConnectionId>,
    established: BTreeSet<usize>,
    flush_soon: bool,
}

/// Node replies of any bytes: to the question for the topology, then to a command of each kind.
pub(crate) fn nodes(bytes: &[u8]) {
    let mut world = World::new();
    let session = world.open();
    let (topology, rest) = bytes.split_at(bytes.len() / 2);
    let said: &[&[u8]] = match bytes.first() {
        Some(b'!') => &[topology.get(1..).unwrap_or_default()],
        _ => &[TOPOLOGY],
    };
    world.everybody_says(said);
    world.send(session, b"GET a\r\nSET b 1\r\nMGET a b c d\r\nDEL a b c\r\nEXISTS x y\r\n");
    world.everybody_says(&[b"+PONG\r\n+OK\r\n", rest, bytes]);
    world.end();
}

/// Any events in any order: the first byte of each is what happens, the second how much of what
/// follows belongs to it.
pub(crate) fn events(bytes: &[u8]) {
    let mut world = World::new();
    let mut rest = bytes;
    while let [event, len, tail @ ..] = rest {
        let (data, after) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = after;
        world.happen(*event, data);
    }
    world.end();
}

impl World {
    fn new() -> Self {
        let mut config = Config::from_json(CONFIGURATION).expect("the configuration is right");
        config.limits.moved_reply_bytes = 1;
        config.limits.moved_command_bytes = 1;
        Self {
            proxy: Proxy::new(config, 1),
            now: Instant::from_nanos(1_000_000_000),
            sessions: Vec::new(),
            connections: Vec::new(),
            established: BTreeSet::new(),
            flush_soon: false,
        }
    }

    fn happen(&mut self, event: u8, data: &[u8]) {
        let number = usize::from(event >> 4);
        let session = self.sessions.get(number % self.sessions.len().max(1)).copied();
        let connection = self.connections.get(number % self.connections.len().max(1)).copied();
        match (event & 0x0f, session, connection) {
            (0, ..) => drop(self.open()),
            (1, Some(session), _) => self.close(session),
            (2..=6, Some(session), _) => self.send(session, data),
            (7, _, Some(connection)) => self.establish(connection),
            (8, _, Some(connection)) => self.lose(connection),
            (9, _, Some(connection)) => self.say(connection, TOPOLOGY),
            (10..=12, _, Some(connection)) => self.say(connection, data),
            (13, _, Some(connection)) => self.say(connection, b"+OK\r\n"),
            (14, ..) => self.flush(),
            _ => self.wait(Duration::from_millis(10 << (number % 8))),
        }
    }

    fn open(&mut self) -> SessionId {
        let session = self.proxy.handle_downstream_open(self.now);
        self.sessions.push(session);
        self.obey();
        session
    }

    fn send(&mut self, session: SessionId, data: &[u8]) {
        self.proxy.handle_downstream_buffer(session, &mut data.to_vec(), self.now);
        self.obey();
    }

    fn close(&mut self, session: SessionId) {
        self.sessions.retain(|open| *open != session);
        self.proxy.handle_downstream_close(session, self.now);
        self.obey();
    }

    fn establish(&mut self, connection: ConnectionId) {
        self.established.insert(connection.index());
        self.proxy.handle_upstream_open(connection, self.now);
        self.obey();
    }

    fn say(&mut self, connection: ConnectionId, data: &[u8]) {
        self.establish(connection);
        self.proxy.handle_upstream_buffer(connection, &mut data.to_vec(), self.now);
        self.obey();
    }

    fn lose(&mut self, connection: ConnectionId) {
        self.forget(connection);
        self.proxy.handle_upstream_close(connection, "lost", self.now);
        self.obey();
    }

    fn forget(&mut self, connection: ConnectionId) {
        self.connections.retain(|open| *open != connection);
        self.established.remove(&connection.index());
    }

    /// Every connection that is there then gets the same, one after the other.
    fn everybody_says(&mut self, said: &[&[u8]]) {
        for data in said {
            for connection in self.connections.clone() {
                self.say(connection, data);
            }
        }
    }

    fn flush(&mut self) {
        if std::mem::take(&mut self.flush_soon) {
            self.proxy.flush();
            self.obey();
        }
    }

    fn wait(&mut self, duration: Duration) {
        self.flush();
        self.now = self.now + duration;
        self.proxy.handle_timeout(self.now);
        self.obey();
    }

    /// Everybody goes; after a while nobody's command may be left.
    fn end(mut self) {
        for session in self.sessions.clone() {
            self.close(session);
        }
        for connection in self.connections.clone() {
            self.lose(connection);
        }
        self.wait(AFTERWARDS);
        for connection in self.connections.clone() {
            self.lose(connection);
        }
        self.wait(AFTERWARDS);
        assert_eq!((self.proxy.sessions(), self.proxy.requests()), (0, 0));
    }

    fn obey(&mut self) {
        let (mut gone, mut resumed) = (Vec::new(), Vec::new());
        while let Some(output) = self.proxy.poll_output() {
            match output {
                Output::OpenUpstream { connection, .. } => self.connections.push(connection),
                Output::CloseUpstream { connection } => {
                    self.connections.retain(|open| *open != connection);
                    self.established.remove(&connection.index());
                }
                Output::WriteUpstream { connection, bytes } => {
                    assert!(!bytes.is_empty(), "an empty write");
                    let established = self.established.contains(&connection.index());
                    assert!(established, "a write before the connection is established");
                }
                Output::WriteDownstream { session, bytes } => {
                    assert!(!bytes.is_empty(), "an empty write");
                    assert!(self.sessions.contains(&session), "a reply to nobody");
                }
                Output::CloseDownstream { session } => gone.push(session),
                Output::ResumeDownstream { session } => resumed.push(session),
                Output::FlushSoon => self.flush_soon = true,
                Output::PauseDownstream { .. } | Output::ReportStats | Output::Log { .. } => {}
            }
        }
        if !gone.is_empty() || !resumed.is_empty() {
            for session in gone {
                self.sessions.retain(|open| *open != session);
                self.proxy.handle_downstream_close(session, self.now);
            }
            for session in resumed {
                self.proxy.handle_downstream_data(session, b"", self.now);
            }
            return self.obey();
        }
        self.proxy.check_invariants();
    }
}
