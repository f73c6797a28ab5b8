//! The engine's hot paths, each as one step that can be repeated.

use slotmesh_engine::{Config, ConnectionId, Instant, Output, Proxy, SessionId};

use crate::node::{VALUE, command, key, replies};

/// What is counted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// From a client's bytes to what nodes are sent.
    Request,
    /// From nodes' bytes to what the client is sent.
    Reply,
}

/// One path: the same commands again and again, one of the two steps counted.
pub(crate) struct Path {
    pub(crate) name: String,
    step: Step,
    configuration: &'static str,
    /// What the client sends first, to be answered by the proxy.
    hello: Vec<u8>,
    commands: Vec<u8>,
}

/// Before counting begins buffers have found their sizes.
const WARM_UP: usize = 100;
/// The count is of this many repetitions.
pub(crate) const REPETITIONS: u64 = 1000;

const PLAIN: &str = r#"{
    "settings": {"op_timeout": "1s"},
    "prefix_routes": {"catch_all_route": {"cluster": "c"}},
    "clusters": {"c": {"seeds": ["node:1"]}}}"#;

/// Of the article that Slotmesh comes from: reads from replicas, a mirror, statistics of commands.
const ARTICLE: &str = r#"{
    "settings": {"op_timeout": "5s", "read_policy": "REPLICA", "enable_command_stats": true},
    "prefix_routes": {"catch_all_route": {"cluster": "c", "request_mirror_policy": [
        {"cluster": "mirror", "exclude_read_commands": true}]}},
    "clusters": {
        "c": {"seeds": ["node:1"]},
        "mirror": {"type": "STANDALONE", "seeds": ["mirror:1"]}}}"#;

/// A route by prefix that writes keys anew.
const REWRITING: &str = r#"{
    "settings": {"op_timeout": "1s"},
    "prefix_routes": {"routes": [
        {"prefix": "app:", "remove_prefix": true, "key_formatter": "v2:%KEY%", "cluster": "c"}]},
    "clusters": {"c": {"seeds": ["node:1"]}}}"#;

/// All paths.
pub(crate) fn all() -> Vec<Path> {
    let value = "x".repeat(VALUE);
    let get = |key: String| command(&["GET", &key]);
    let set = |key: String| command(&["SET", &key, &value]);
    let mget: Vec<String> = std::iter::once("MGET".to_owned()).chain((0..10).map(key)).collect();
    let pipeline: Vec<u8> = (0..64).map(key).flat_map(get).collect();
    let prefixed = || format!("app:{}", key(0));
    let paths = [
        ("GET", PLAIN, get(key(0))),
        ("SET", PLAIN, set(key(0))),
        ("MGET of 10 keys", PLAIN, command(&mget)),
        ("64 GETs pipelined", PLAIN, pipeline.clone()),
        ("article: GET", ARTICLE, get(key(0))),
        ("article: SET", ARTICLE, set(key(0))),
        ("article: 64 GETs pipelined", ARTICLE, pipeline),
        ("prefix route, key rewritten: GET", REWRITING, get(prefixed())),
        ("prefix route, key rewritten: SET", REWRITING, set(prefixed())),
    ];
    let paths = paths.map(|(name, configuration, commands)| (name, configuration, "", commands));
    let resp3 = [("RESP3 client: GET", PLAIN, "HELLO 3\r\n", get(key(0)))];
    let both_steps = |(name, configuration, hello, commands): (_, _, &str, Vec<u8>)| {
        [("request", Step::Request), ("reply", Step::Reply)].map(|(step_name, step)| Path {
            name: format!("{name}, {step_name}"),
            step,
            configuration,
            hello: hello.into(),
            commands: commands.clone(),
        })
    };
    paths.into_iter().chain(resp3).flat_map(both_steps).collect()
}

impl Path {
    /// Goes the path over and over; what is to be counted runs inside [`measured`].
    pub(crate) fn run(&self) {
        let mut world = World::new(self);
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

/// A proxy with one client and all connections that a path needs.
struct World {
    proxy: Proxy,
    session: SessionId,
    /// What nodes answer to the commands of the path, in the order in which they were sent them.
    replies: Vec<(ConnectionId, Vec<u8>)>,
    now: Instant,
}

impl World {
    fn new(path: &Path) -> Self {
        let now = Instant::from_nanos(1);
        let config = Config::from_json(path.configuration.as_bytes());
        let mut proxy = Proxy::new(config.expect("the configuration is right"), 1);
        let session = proxy.handle_downstream_open(now);
        let mut world = Self { proxy, session, replies: Vec::new(), now };
        world.play();
        world.proxy.handle_downstream_data(session, &path.hello, now);
        // The first time connections are opened for the commands.
        for _ in 0..2 {
            world.proxy.handle_downstream_data(session, &path.commands, now);
            world.replies = world.play();
            assert_eq!(world.proxy.requests(), 0, "{}: not all is answered", path.name);
        }
        world
    }

    /// Lets nodes answer until the proxy wants nothing more. Returns what they have answered.
    fn play(&mut self) -> Vec<(ConnectionId, Vec<u8>)> {
        let mut replies_given = Vec::new();
        loop {
            let (mut opened, mut answers) = (Vec::new(), Vec::new());
            let mut flush = true;
            while flush {
                flush = false;
                while let Some(output) = self.proxy.poll_output() {
                    match output {
                        Output::OpenUpstream { connection, .. } => opened.push(connection),
                        Output::WriteUpstream { connection, bytes } => {
                            answers.push((connection, replies(bytes)));
                        }
                        Output::FlushSoon => flush = true,
                        _ => {}
                    }
                }
                if flush {
                    self.proxy.flush();
                }
            }
            if opened.is_empty() && answers.is_empty() {
                return replies_given;
            }
            for connection in opened {
                self.proxy.handle_upstream_open(connection, self.now);
            }
            for (connection, bytes) in &answers {
                self.proxy.handle_upstream_data(*connection, bytes, self.now);
            }
            replies_given.extend(answers);
        }
    }

    fn request(&mut self, path: &Path) {
        self.proxy.handle_downstream_data(self.session, &path.commands, self.now);
        assert!(drain(&mut self.proxy).up > 0, "{}: nothing has been sent", path.name);
    }

    fn reply(&mut self, path: &Path) {
        let mut down = 0;
        for (node, bytes) in &self.replies {
            self.proxy.handle_upstream_data(*node, bytes, self.now);
            down += drain(&mut self.proxy).down;
        }
        assert!(down > 0 && self.proxy.requests() == 0, "{}: not all is answered", path.name);
    }
}

/// How many bytes the proxy wanted to send.
#[derive(Default)]
struct Drained {
    up: usize,
    down: usize,
}

fn drain(proxy: &mut Proxy) -> Drained {
    let mut drained = Drained::default();
    let mut flush = false;
    loop {
        while let Some(output) = proxy.poll_output() {
            match output {
                Output::WriteUpstream { bytes, .. } => drained.up += bytes.len(),
                Output::WriteDownstream { bytes, .. } => drained.down += bytes.len(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_can_be_gone() {
        for path in all() {
            path.run();
        }
    }

    #[test]
    fn a_path_sends_what_its_configuration_says() {
        let sent = |name: &str| {
            let paths = all();
            let path = paths.iter().find(|path| path.name == name).unwrap();
            World::new(path).replies.len()
        };
        assert_eq!(sent("GET, request"), 1);
        assert_eq!(sent("article: GET, request"), 1);
        assert_eq!(sent("article: SET, request"), 2, "to the primary and to the mirror");
        assert_eq!(sent("MGET of 10 keys, request"), 3);
    }
}
