//! What the proxies are loaded with.

/// How the proxies of a load are configured.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Profile {
    /// Everything at its default.
    Plain,
    /// `read_policy: REPLICA`, and writes copied to a standalone mirror.
    ReplicasAndMirror,
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
    let one = target(0.9, 1.25);
    let many = target(1.0, 1.1);
    let values = target(1.1, 1.0);
    let ten_keys = target(1.4, 0.7);
    vec![
        load("GET, 1 client", Get, 1).meets(one),
        load("SET, 1 client", Set, 1).meets(one),
        load("GET, 50 clients", Get, 50).meets(many),
        load("SET, 50 clients", Set, 50).meets(many),
        load("GET, 500 clients", Get, 500).meets(many),
        load("SET, 500 clients", Set, 500).meets(many),
        load("GET, 16 pipelined", Get, 50).pipelined(16).meets(target(1.9, 0.45)),
        load("SET, 16 pipelined", Set, 50).pipelined(16).meets(target(1.9, 0.45)),
        load("GET, 64 pipelined", Get, 50).pipelined(64).meets(target(2.8, 0.25)),
        load("SET, 64 pipelined", Set, 50).pipelined(64).meets(target(2.8, 0.25)),
        load("GET, 16 KiB", Get, 50).of_values(16 * 1024, 1000).meets(values),
        load("SET, 16 KiB", Set, 50).of_values(16 * 1024, 1000).meets(values),
        load("GET, 1 MiB", Get, 10).of_values(1024 * 1024, 30).meets(values),
        load("SET, 1 MiB", Set, 10).of_values(1024 * 1024, 30).meets(values),
        load("MGET, 10 keys", Mget(10), 50).meets(ten_keys),
        load("MSET, 10 keys", Mset(10), 50).meets(ten_keys),
        load("MGET, 100 keys", Mget(100), 50).meets(target(2.0, 0.5)),
        load("MSET, 100 keys", Mset(100), 50),
        load("GET and SET, 200,000 keys", GetAndSet, 50).of_values(64, 200_000),
        load("GET and SET, replicas and mirror", GetAndSet, 50).with_replicas_and_mirror(),
    ]
}

fn load(name: &'static str, mix: Mix, clients: usize) -> Load {
    let (profile, pipeline, value) = (Profile::Plain, 1, 64);
    Load { name, profile, mix, clients, pipeline, value, keys: KEYS, target: None }
}

fn target(rate: f64, cpu: f64) -> Target {
    Target { rate, cpu }
}

impl Load {
    fn meets(self, target: Target) -> Self {
        Self { target: Some(target), ..self }
    }

    fn pipelined(self, pipeline: usize) -> Self {
        Self { pipeline, ..self }
    }

    fn of_values(self, value: usize, keys: usize) -> Self {
        Self { value, keys, ..self }
    }

    fn with_replicas_and_mirror(self) -> Self {
        Self { profile: Profile::ReplicasAndMirror, ..self }
    }
}
