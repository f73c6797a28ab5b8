//! Connections between the proxy and nodes: bytes take their time, come in pieces, and may be cut
//! anywhere.

use std::time::Duration;

use slotmesh_engine::{ConnectionId, Instant};

use super::cluster::{Health, LinkId};
use super::node::Peer;
use super::world::{Event, World};

/// How long bytes are on their way at most, when nothing is wrong.
const LATENCY: Duration = Duration::from_millis(2);
/// How far replicas are behind at most.
const LAG: Duration = Duration::from_millis(30);
/// How long the proxy's host tries to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

pub struct Link {
    /// Where it leads to.
    address: String,
    /// The node at its end; `None`: there is none any more.
    node: Option<usize>,
    /// When the last bytes on their way to the node arrive.
    pub last_up: Instant,
    /// When the last bytes on their way to the proxy arrive.
    pub last_down: Instant,
    connection: ConnectionId,
    opened: Instant,
    closed: bool,
    /// Bytes on their way.
    up: usize,
    down: usize,
    /// Cut: so many of them still arrive.
    cut: Option<(usize, usize)>,
}

impl Link {
    pub fn new(
        connection: ConnectionId,
        address: String,
        node: Option<usize>,
        now: Instant,
    ) -> Self {
        Self {
            address,
            node,
            last_up: now,
            last_down: now,
            connection,
            opened: now,
            closed: false,
            up: 0,
            down: 0,
            cut: None,
        }
    }

    /// Whether the proxy still has it.
    pub fn is_proxys(&self) -> bool {
        !self.closed
    }

    /// It is established, if the proxy still wants it.
    pub fn establish(&mut self) -> Option<ConnectionId> {
        (!self.closed).then_some(self.connection)
    }

    /// The proxy does not have it any more; `None` if that is no news.
    pub fn close(&mut self) -> Option<ConnectionId> {
        (!std::mem::replace(&mut self.closed, true)).then_some(self.connection)
    }
}

/// What of `bytes` arrives, when only `left` more do.
fn allow(bytes: &mut Vec<u8>, left: Option<&mut usize>) {
    if let Some(left) = left {
        bytes.truncate(*left);
        *left -= bytes.len();
    }
}

impl World {
    /// How long bytes take to or from a node.
    pub fn latency(&mut self, node: usize) -> Duration {
        self.up_to(LATENCY) + self.cluster.nodes[node].delay
    }

    /// How long bytes take on a connection, each way.
    fn latency_on(&mut self, number: LinkId) -> Duration {
        match self.links[&number].node {
            Some(node) => self.latency(node),
            None => self.up_to(LATENCY),
        }
    }

    /// Cuts bytes somewhere, or not at all.
    pub fn tear(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = bytes;
        while rest.len() > 1 && self.rng.u8(..100) < self.profile.torn {
            let tail = rest.split_off(self.rng.usize(1..rest.len()));
            pieces.push(std::mem::replace(&mut rest, tail));
        }
        pieces.push(rest);
        pieces
    }

    pub fn dial(&mut self, number: LinkId) {
        let Some(link) = self.links.get_mut(&number).filter(|link| link.is_proxys()) else {
            return;
        };
        let is_strange = self.cluster.is_strange(&link.address);
        // Who is there may not be who was there when the proxy began to connect.
        link.node = self.cluster.at(&link.address).filter(|_| !is_strange);
        if is_strange {
            self.cluster.receive(number, &link.address);
            return self.accept(number);
        }
        let link = &self.links[&number];
        let refused = |reason| Event::ProxyHangUp(number, reason);
        let Some(node) = link.node else {
            let waits = self.profile.silent_addresses && self.now < link.opened + CONNECT_TIMEOUT;
            return match waits {
                true => self.after(Duration::from_millis(50), Event::Dial(number)),
                false => self.after(Duration::ZERO, refused("no route to host")),
            };
        };
        match self.cluster.nodes[node].health {
            Health::Unreachable if self.now < link.opened + CONNECT_TIMEOUT => {
                self.after(Duration::from_millis(50), Event::Dial(number));
            }
            Health::Unreachable => self.after(Duration::ZERO, refused("connect timeout")),
            Health::Dead => self.after(Duration::ZERO, refused("connection refused")),
            Health::Well | Health::Silent => {
                let lag = self.up_to(LAG);
                self.cluster.peers.insert(number, Peer::new(node, lag));
                self.accept(number);
            }
        }
    }

    fn accept(&mut self, number: LinkId) {
        let arrives = self.now + self.latency_on(number);
        if let Some(link) = self.links.get_mut(&number) {
            link.last_down = arrives;
        }
        self.at(arrives, Event::Established(number));
    }

    pub fn send_to_node(&mut self, number: LinkId, bytes: Vec<u8>) {
        assert!(!bytes.is_empty(), "an empty write");
        self.tell(|| format!("link {number} <- {}", bytes.escape_ascii()));
        for piece in self.tear(bytes) {
            let wait = self.latency_on(number);
            let now = self.now;
            let Some(link) = self.links.get_mut(&number) else { return };
            if link.cut.is_some() {
                return;
            }
            link.last_up = link.last_up.max(now + wait);
            link.up += piece.len();
            let at = link.last_up;
            self.at(at, Event::ToNode(number, piece));
        }
    }

    pub fn reach_node(&mut self, number: LinkId, mut bytes: Vec<u8>) {
        let Some(link) = self.links.get_mut(&number) else { return };
        link.up -= bytes.len();
        allow(&mut bytes, link.cut.as_mut().map(|(up, _)| up));
        if let Some(peer) = self.cluster.peers.get_mut(&number) {
            peer.input.extend_from_slice(&bytes);
            self.cluster.run(number, self.now);
        }
        self.cluster.answer_as_stranger(number, &bytes);
    }

    /// Replies of nodes set out.
    pub fn carry_replies(&mut self) {
        for (number, bytes) in std::mem::take(&mut self.cluster.outbox) {
            self.tell(|| format!("link {number} -> {}", bytes.escape_ascii()));
            for piece in self.tear(bytes) {
                let wait = self.latency_on(number);
                let now = self.now;
                let Some(link) = self.links.get_mut(&number) else { break };
                if link.cut.is_some() {
                    break;
                }
                link.last_down = link.last_down.max(now + wait);
                link.down += piece.len();
                let at = link.last_down;
                self.at(at, Event::ToProxy(number, piece));
            }
        }
    }

    pub fn reach_proxy(&mut self, number: LinkId, mut bytes: Vec<u8>) {
        let Some(link) = self.links.get_mut(&number) else { return };
        link.down -= bytes.len();
        allow(&mut bytes, link.cut.as_mut().map(|(_, down)| down));
        if !link.closed && !bytes.is_empty() {
            self.proxy.handle_upstream_buffer(link.connection, &mut bytes, self.now);
        }
    }

    /// Cuts a connection: some of what is on its way still arrives, to any byte. What reaches a
    /// node that is `dead` does not count.
    pub fn cut(&mut self, number: LinkId, dead: bool) {
        let (up, down, at) = match self.links.get(&number) {
            Some(link) if link.cut.is_none() && !link.closed => (link.up, link.down, link.last_up),
            _ => return,
        };
        self.tell(|| format!("link {number} is cut"));
        let up = if dead { 0 } else { self.rng.usize(..=up) };
        let down = self.rng.usize(..=down);
        let end = match self.rng.bool() {
            true => self.now,
            false => self.links[&number].last_down,
        };
        if let Some(link) = self.links.get_mut(&number) {
            link.cut = Some((up, down));
        }
        self.at(if dead { self.now } else { at }, Event::NodeHangUp(number));
        self.at(end, Event::ProxyHangUp(number, "reset"));
    }

    /// Cuts all connections to a node.
    pub fn cut_all(&mut self, node: usize, dead: bool) {
        let links: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.node == Some(node))
            .map(|(at, _)| *at)
            .collect();
        for link in links {
            self.cut(link, dead);
        }
    }
}
