//! What the proxies are loaded with.

/// How the proxies of a load are configured. `contender.rs` says what that means for each of them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Profile {
    /// Everything at its default.
    Plain,
    /// Clients speak RESP3.
    Resp3,
    /// The article's configuration: `read_policy: REPLICA`, writes copied to a standalone mirror,
    /// and `enable_command_stats`.
    Article,
}

impl Profile {
    /// In the order of the report.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Resp3, Self::Article];
}

/// Commands of one kind, by so many clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// What reports call it.
    pub(crate) name: &'static str,
    pub(crate) profile: Profile,
    pub(crate) mix: Mix,
    pub(crate) clients: usize,
    /// Commands that a client sends at once; it sends the next when all are answered.
    pub(crate) pipeline: usize,
    /// Bytes of a value.
    pub(crate) value: usize,
    /// Keys that are used, each as likely as any other.
    pub(crate) keys: usize,
    /// A client that pipelines large reads is served at the same time. Its work is in the CPU time.
    pub(crate) beside_greedy: bool,
    /// What Slotmesh must reach against redis_proxy.
    pub(crate) target: Option<Target>,
}

/// Which commands.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Mix {
    Get,
    Set,
    /// Four GETs for each SET.
    GetAndSet,
    /// MGET of so many keys of any slots.
    Mget(usize),
    /// MSET of so many keys of any slots.
    Mset(usize),
}

/// Bounds on the ratios to redis_proxy in the same run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    /// Requests per second, at least.
    pub(crate) rate: f64,
    /// CPU time of the proxy per request, at most.
    pub(crate) cpu: f64,
}

const KEYS: usize = 10_000;

/// All loads, in the order of the report.
pub(crate) fn all() -> Vec<Load> {
    use Mix::{Get, GetAndSet, Mget, Mset, Set};
    let article = target(1.1, 1.0);
    let one_by_one = target(1.0, 1.05);
    let values = target(1.0, 1.0);
    let ten_keys = target(1.5, 0.6);
    vec![
        load("GET, 1 client", Get, 1).meets(one_by_one),
        load("SET, 1 client", Set, 1).meets(one_by_one),
        load("GET, 50 clients", Get, 50).meets(one_by_one),
        load("SET, 50 clients", Set, 50).meets(one_by_one),
        load("GET, 500 clients", Get, 500).meets(one_by_one),
        load("SET, 500 clients", Set, 500).meets(one_by_one),
        load("GET, 16 pipelined", Get, 50).pipelined(16).meets(target(1.9, 0.42)),
        load("SET, 16 pipelined", Set, 50).pipelined(16).meets(target(1.9, 0.42)),
        load("GET, 64 pipelined", Get, 50).pipelined(64).meets(target(2.8, 0.25)),
        load("SET, 64 pipelined", Set, 50).pipelined(64).meets(target(2.8, 0.25)),
        load("GET, 16 KiB", Get, 50).of_values(16 * 1024, 1000).meets(values),
        load("SET, 16 KiB", Set, 50).of_values(16 * 1024, 1000).meets(values),
        load("GET, 1 MiB", Get, 10).of_values(1024 * 1024, 30).meets(values),
        load("SET, 1 MiB", Set, 10).of_values(1024 * 1024, 30).meets(values),
        load("MGET, 10 keys", Mget(10), 50).meets(ten_keys),
        load("MSET, 10 keys", Mset(10), 50).meets(ten_keys),
        load("MGET, 100 keys", Mget(100), 50),
        load("MSET, 100 keys", Mset(100), 50),
        load("GET and SET, 200,000 keys", GetAndSet, 50).of_values(64, 200_000),
        load("GET, 1 client beside a greedy one", Get, 1).beside_greedy(),
        load("RESP3: GET and SET", GetAndSet, 50).with(Profile::Resp3),
        load("RESP3: GET and SET, 16 pipelined", GetAndSet, 50).pipelined(16).with(Profile::Resp3),
        load("article: GET and SET", GetAndSet, 50).with(Profile::Article).meets(article),
        load("article: GET", Get, 50).with(Profile::Article),
        load("article: SET", Set, 50).with(Profile::Article),
        load("article: GET and SET, 16 pipelined", GetAndSet, 50)
            .pipelined(16)
            .with(Profile::Article),
    ]
}

fn load(name: &'static str, mix: Mix, clients: usize) -> Load {
    let (profile, pipeline, value) = (Profile::Plain, 1, 64);
    Load {
        name,
        profile,
        mix,
        clients,
        pipeline,
        value,
        keys: KEYS,
        beside_greedy: false,
        target: None,
    }
}

fn target(rate: f64, cpu: f64) -> Target {
    Target { rate, cpu }
}

impl Load {
    fn meets(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    fn beside_greedy(self) -> Self {
        Self { beside_greedy: true, ..self }
    }

    fn pipelined(self, pipeline: usize) -> Self {
        Self { pipeline, ..self }
    }

    fn of_values(self, value: usize, keys: usize) -> Self {
        Self { value, keys, ..self }
    }

    fn with(self, profile: Profile) -> Self {
        Self { profile, ..self }
    }
}
