//! The engine's hot paths, each as one step that can be repeated.

use slotmesh_engine::{Config, ConnectionId, Instant, Output, Proxy, SessionId};

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// From a client's bytes to what nodes are sent.
    Request,
    /// From nodes' bytes to what the client is sent.
    Reply,
}

/// One path: the same commands and replies again and again, one of the two steps counted.
pub(crate) struct Path {
    pub(crate) name: &'static str,
    step: Step,
    commands: Vec<u8>,
    /// By node.
    replies: [Vec<u8>; 3],
}

/// Tags of keys on node 0, 1 and 2 (slots 3300, 7365 and 15495).
const TAGS: [&str; 3] = ["b", "c", "a"];

/// Before counting begins buffers have found their sizes.
const WARM_UP: usize = 100;
/// The count is of this many repetitions.
pub(crate) const REPETITIONS: u64 = 1000;

const TOPOLOGY: &[u8] = b"*0\r\n+epoch\r\n*3\r\n\
    *3\r\n:0\r\n:5460\r\n*2\r\n$4\r\nnode\r\n:1\r\n\
    *3\r\n:5461\r\n:10922\r\n*2\r\n$4\r\nnode\r\n:2\r\n\
    *3\r\n:10923\r\n:16383\r\n*2\r\n$4\r\nnode\r\n:3\r\n";

/// All paths.
pub(crate) fn all() -> Vec<Path> {
    let value = bulk(&"x".repeat(64));
    let get = |number: usize| command(&["GET", &key(number)]);
    let set = |number: usize| command(&["SET", &key(number), &"x".repeat(64)]);
    let mget: Vec<String> = std::iter::once("MGET".to_owned()).chain((0..10).map(key)).collect();
    let mget = command(&mget.iter().map(String::as_str).collect::<Vec<_>>());
    // Of ten keys in turn on three nodes, node 0 has four.
    let elements = |count: usize| format!("*{count}\r\n{}", value.repeat(count)).into_bytes();
    let mget_replies = [elements(4), elements(3), elements(3)];
    let pipeline: Vec<u8> = (0..64).flat_map(get).collect();
    let pipeline_replies = [22, 21, 21].map(|count| value.repeat(count).into_bytes());
    let one = |reply: &str| [reply.as_bytes().to_vec(), Vec::new(), Vec::new()];

    use Step::{Reply, Request};
    vec![
        Path::new("GET, request", Request, get(0), one(&value)),
        Path::new("GET, reply", Reply, get(0), one(&value)),
        Path::new("SET, request", Request, set(0), one("+OK\r\n")),
        Path::new("SET, reply", Reply, set(0), one("+OK\r\n")),
        Path::new("MGET of 10 keys, request", Request, mget.clone(), mget_replies.clone()),
        Path::new("MGET of 10 keys, reply", Reply, mget, mget_replies),
        Path::new(
            "64 GETs pipelined, request",
            Request,
            pipeline.clone(),
            pipeline_replies.clone(),
        ),
        Path::new("64 GETs pipelined, reply", Reply, pipeline, pipeline_replies),
    ]
}

impl Path {
    fn new(name: &'static str, step: Step, commands: Vec<u8>, replies: [Vec<u8>; 3]) -> Self {
        Self { name, step, commands, replies }
    }

    /// Goes the path over and over; what is to be counted runs inside [`measured`].
    pub(crate) fn run(&self) {
        let mut world = World::new();
        for _ in 0..WARM_UP {
            world.request(self);
            world.reply(self);
        }
        for _ in 0..REPETITIONS {
            match self.step {
                Step::Request => {
                    measured(|| world.request(self));
                    world.reply(self);
                }
                Step::Reply => {
                    world.request(self);
                    measured(|| world.reply(self));
                }
            }
        }
    }
}

/// valgrind counts what runs inside this function, which it finds by its name.
#[inline(never)]
fn measured(step: impl FnOnce()) {
    step();
}

/// A proxy with one client and three nodes, all connections established.
struct World {
    proxy: Proxy,
    session: SessionId,
    nodes: Vec<ConnectionId>,
    now: Instant,
}

impl World {
    fn new() -> Self {
        let config = br#"{"settings": {"op_timeout": "1s"},
            "prefix_routes": {"catch_all_route": {"cluster": "c"}},
            "clusters": {"c": {"seeds": ["node:1"]}}}"#;
        let now = Instant::from_nanos(1);
        let config = Config::from_json(config).expect("the configuration is right");
        let mut proxy = Proxy::new(config, 1);
        let session = proxy.handle_downstream_open(now);
        let asking = drain(&mut proxy).opened.expect("the topology is asked for");
        proxy.handle_upstream_open(asking);
        drain(&mut proxy);
        proxy.handle_upstream_data(asking, TOPOLOGY, now);
        drain(&mut proxy);
        let mut world = Self { proxy, session, nodes: Vec::new(), now };
        for number in 0..TAGS.len() {
            world.connect(number);
        }
        world
    }

    /// The first command for a node opens the connection to it.
    fn connect(&mut self, number: usize) {
        let get = command(&["GET", &key(number)]);
        self.proxy.handle_downstream_data(self.session, &get, self.now);
        let node = drain(&mut self.proxy).opened.expect("a connection is wanted");
        self.proxy.handle_upstream_open(node);
        drain(&mut self.proxy);
        for reply in [&b"+PONG\r\n"[..], b"$-1\r\n"] {
            self.proxy.handle_upstream_data(node, reply, self.now);
            drain(&mut self.proxy);
        }
        self.nodes.push(node);
    }

    fn request(&mut self, path: &Path) {
        self.proxy.handle_downstream_data(self.session, &path.commands, self.now);
        let drained = drain(&mut self.proxy);
        assert!(drained.up >= path.commands.len(), "{}: not all has been sent", path.name);
    }

    fn reply(&mut self, path: &Path) {
        let mut down = 0;
        for (node, bytes) in self.nodes.iter().zip(&path.replies).filter(|(_, b)| !b.is_empty()) {
            self.proxy.handle_upstream_data(*node, bytes, self.now);
            down += drain(&mut self.proxy).down;
        }
        assert!(down > 0 && self.proxy.requests() == 0, "{}: not all is answered", path.name);
    }
}

/// What the proxy wanted.
#[derive(Default)]
struct Drained {
    up: usize,
    down: usize,
    opened: Option<ConnectionId>,
}

fn drain(proxy: &mut Proxy) -> Drained {
    let mut drained = Drained::default();
    let mut flush = false;
    loop {
        while let Some(output) = proxy.poll_output() {
            match output {
                Output::WriteUpstream { bytes, .. } => drained.up += bytes.len(),
                Output::WriteDownstream { bytes, .. } => drained.down += bytes.len(),
                Output::OpenUpstream { connection, .. } => drained.opened = Some(connection),
                Output::FlushSoon => flush = true,
                _ => {}
            }
        }
        if !std::mem::take(&mut flush) {
            return drained;
        }
        proxy.flush();
    }
}

/// Keys with numbers that follow each other lie on nodes in turn.
fn key(number: usize) -> String {
    let tag = TAGS.get(number % TAGS.len()).copied().unwrap_or_default();
    format!("{{{tag}}}:{number:08}")
}

fn command(words: &[&str]) -> Vec<u8> {
    let words: Vec<String> = words.iter().map(|word| bulk(word)).collect();
    format!("*{}\r\n{}", words.len(), words.concat()).into_bytes()
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_path_can_be_gone() {
        for path in super::all() {
            path.run();
        }
    }
}
