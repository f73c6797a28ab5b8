//! What the proxy does, in values that make sense: read once from the plugin configuration, whose
//! words are those of Envoy's `RedisProxy` and `RedisClusterConfig`.

mod hosts;
mod json;
mod key_formatter;
mod secret;

use std::fmt;
use std::time::Duration;

pub use hosts::{AllowedNodes, HostPattern};
pub use key_formatter::{Attribute, KeyFormatter};
pub use secret::Secret;
use serde::Deserialize;

use crate::cluster::Address;
use crate::ids::ClusterId;
use crate::resp;

/// What the proxy does, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The root of its statistics' names: `redis.<stat_prefix>.`.
    pub stat_prefix: String,
    /// Latencies of commands are counted in microseconds instead of milliseconds.
    pub latency_in_micros: bool,
    /// How long a client waits for a reply at most, from the moment its command was read.
    pub op_timeout: Duration,
    /// Which nodes answer reads, unless the route says otherwise.
    pub read_policy: ReadPolicy,
    /// MOVED and ASK are followed rather than handed to the client.
    pub enable_redirection: bool,
    /// Commands are also counted where they are sent, one by one.
    pub enable_command_stats: bool,
    /// Connections to nodes that no topology has told of yet.
    pub max_upstream_unknown_connections: u32,
    /// Connections opened to one node in a second, at most.
    pub connection_rate_limit: Option<u32>,
    /// Connections to one node that clients of one protocol version share.
    pub connections_per_node: u32,
    /// CLUSTER answers as one node that owns every slot, for cluster-aware clients.
    pub cluster_emulation: bool,
    /// The zone that this proxy is in, unless its host tells.
    pub zone: Option<String>,
    /// Who may use the proxy; empty: everybody.
    pub users: Vec<User>,
    /// Nodes say who a client is and what it may do; it has connections of its user.
    pub auth_passthrough: bool,
    /// Errors and delays to be injected.
    pub faults: Vec<Fault>,
    /// Every Redis that a route names.
    pub clusters: Vec<ClusterConfig>,
    /// Which of them a key belongs to.
    pub routes: Routes,
    /// What routes want to know of a client's connection, each once.
    pub attributes: Vec<Attribute>,
    /// What a peer may send.
    pub limits: Limits,
    /// Words of the configuration that have no effect, and why: to be logged once.
    pub notes: Vec<String>,
}

/// Which nodes of a shard answer reads (Envoy: `ConnPoolSettings.ReadPolicy`).
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReadPolicy {
    /// The primary.
    #[default]
    Master,
    /// The primary while it is reachable, else a replica.
    PreferMaster,
    /// A replica.
    Replica,
    /// A replica while one is reachable, else the primary.
    PreferReplica,
    /// All of them in turn.
    Any,
    /// A replica in our zone, else any replica, else the primary.
    LocalZoneAffinity,
    /// A replica in our zone, else the primary if it is there, else any replica, else the primary.
    LocalZoneAffinityReplicasAndPrimary,
}

/// Somebody who may use the proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct User {
    /// What AUTH and HELLO call them; `default` for AUTH with a password alone.
    pub name: String,
    /// Any of these will do.
    pub passwords: Vec<Secret>,
}

/// A fault to be injected.
#[derive(Clone, Debug)]
pub struct Fault {
    /// What happens.
    pub kind: FaultKind,
    /// How often.
    pub fraction: Fraction,
    /// Lower-case names of the commands it happens to; empty: all but AUTH and PING.
    pub commands: Vec<String>,
}

/// What a fault does to a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FaultKind {
    /// It is not executed but answered with an error, after the delay.
    Error(Duration),
    /// It is executed, and its reply held back for so long.
    Delay(Duration),
}

/// A share of all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Fraction {
    /// So many...
    pub numerator: u32,
    /// ... of 100, 10,000 or 1,000,000.
    pub denominator: u32,
}

/// Which cluster a key belongs to.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Routes by prefix; the longest that fits wins.
    pub prefixes: Vec<Route>,
    /// For all other keys, and for commands without any.
    pub catch_all: Option<Route>,
    /// Prefixes fit keys in any case.
    pub case_insensitive: bool,
}

/// Where the keys with a prefix go, and as what.
#[derive(Clone, Debug)]
pub struct Route {
    /// What keys start with; empty for the catch-all route.
    pub prefix: Vec<u8>,
    /// The prefix is taken off the key.
    pub remove_prefix: bool,
    /// How the key is written anew.
    pub key_formatter: Option<KeyFormatter>,
    /// One of [`Config::clusters`].
    pub cluster: ClusterId,
    /// The cluster that answers reads instead, if another one does.
    pub read_cluster: Option<ClusterId>,
    /// Which nodes answer reads; `None`: as [`Config::read_policy`] says.
    pub read_policy: Option<ReadPolicy>,
    /// Who gets a copy of each command.
    pub mirrors: Vec<Mirror>,
}

/// Somebody who gets a copy of commands and whose replies nobody reads.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    /// One of [`Config::clusters`].
    pub cluster: ClusterId,
    /// Only writes are copied.
    pub exclude_read_commands: bool,
    /// How many keys, or commands, are copied.
    pub fraction: Fraction,
    /// Each command is drawn by itself, as Envoy does it; else a key is either copied or not.
    pub draw_per_command: bool,
}

/// One Redis Cluster, or one standalone Redis.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// The name that routes use.
    pub name: String,
    /// What kind of Redis this is.
    pub kind: ClusterKind,
    /// Nodes to ask for the topology as long as none is known, or the standalone server; never
    /// empty.
    pub seeds: Vec<Address>,
    /// The Envoy cluster through which nodes are dialled.
    pub envoy_cluster: String,
    /// The one for nodes that are known by a host name, such as most seeds; often the same.
    pub envoy_cluster_for_names: String,
    /// Time between two topology refreshes.
    pub refresh_rate: Duration,
    /// How long a node may take to answer a refresh before the next one is asked.
    pub refresh_timeout: Duration,
    /// Shortest time between two refreshes that redirections caused.
    pub redirect_refresh_interval: Duration,
    /// Redirections that cause a refresh; 0 turns that off.
    pub redirect_refresh_threshold: u32,
    /// How to log in to each node, the first that fits; without one nobody logs in.
    pub credentials: Vec<Credentials>,
    /// Nodes are asked for their zone (`availability_zone`, Valkey).
    pub enable_zone_discovery: bool,
    /// Zones by the node's host.
    pub zones: Vec<(HostPattern, String)>,
    /// Besides the seeds, the nodes that may be dialled; `None`: all.
    pub allowed_nodes: Option<AllowedNodes>,
}

impl ClusterConfig {
    /// The Envoy cluster through which `address` is dialled.
    #[must_use]
    pub fn envoy_cluster_of(&self, address: &Address) -> &str {
        match address.is_name() {
            true => &self.envoy_cluster_for_names,
            false => &self.envoy_cluster,
        }
    }

    /// Whether the node at `address` may be dialled, whoever has named it.
    #[must_use]
    pub fn allows(&self, address: &Address) -> bool {
        let allowed = |nodes: &AllowedNodes| nodes.contains(address);
        self.allowed_nodes.as_ref().is_none_or(allowed) || self.seeds.contains(address)
    }
}

/// What kind of Redis serves a name.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ClusterKind {
    /// A Redis Cluster, whose topology is asked for.
    #[default]
    #[serde(rename = "REDIS_CLUSTER")]
    Cluster,
    /// One server that owns every slot: the first seed.
    Standalone,
}

/// How to log in to nodes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// The node; `None`: all.
    pub address: Option<Address>,
    /// The ACL user; `None`: the default user.
    pub username: Option<Secret>,
    /// Its password.
    pub password: Secret,
}

/// Bounds on what clients and nodes may make the proxy hold.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bounds on one frame.
    pub frame: resp::Limits,
    /// Commands of one client that are unanswered; further ones wait unread.
    pub session_requests: usize,
    /// Bytes of one client's commands that are unanswered; further ones wait unread.
    pub session_bytes: usize,
    /// Bytes of all clients' unfinished commands together, where each argument counts for 32 more,
    /// and of what waits unread. Beyond it the client that has most gives way: its unfinished
    /// command is not kept, but refused when its end has come, or it is closed with what waits.
    /// `frame` bounds one command.
    pub input_bytes: usize,
    /// Bytes that unfinished commands, transactions, commands that wait, replies that wait and
    /// subscriptions may take together, beyond their reserves.
    pub memory_bytes: usize,
    /// So many bytes each of these may keep whatever the others keep.
    pub reserve_bytes: usize,
    /// Bytes of a reply that is put together before it is handed on; a longer one is handed on as
    /// it comes, where that can be.
    pub reply_bytes: usize,
    /// A reply of so many bytes is written from the buffer in which it came. A smaller one is
    /// copied.
    pub moved_reply_bytes: usize,
    /// A command of so many bytes that is alone in its buffer keeps that. A smaller one is copied,
    /// and written together with others.
    pub moved_command_bytes: usize,
    /// Bytes of all clients' replies that wait, for those before them or for their other parts;
    /// beyond it the client that has most of them is closed.
    pub waiting_reply_bytes: usize,
    /// Bytes of commands unanswered on one upstream connection; further ones are refused.
    pub connection_bytes: usize,
    /// Bytes of commands that wait for a node or a topology; further ones are refused.
    pub held_bytes: usize,
    /// Bytes of commands that clients have queued since MULTI; further ones are refused.
    pub transaction_bytes: usize,
    /// Bytes of copies that wait for a mirror; further ones are dropped.
    pub mirror_bytes: usize,
    /// Bytes of all clients' subscriptions: names of channels, and what is kept about them; further
    /// ones are refused.
    pub subscription_bytes: usize,
    /// Bytes of commands unanswered on one connection that carries subscriptions, with what all
    /// subscriptions are counted as, because those there may have to be ended; further ones are
    /// refused. Twice `subscription_bytes` has room for all of them.
    pub subscriber_bytes: usize,
    /// Clients that cache and are told of changes: each takes a connection to every node, or two;
    /// further ones are refused.
    pub tracking_clients: usize,
    /// Users and databases that clients have at the same time, each with connections of its own; a
    /// client that wants another one is refused.
    pub identities: usize,
    /// Bytes of scripts that are remembered; the oldest are forgotten.
    pub script_bytes: usize,
}

/// Why a configuration was not accepted; names the field.
#[derive(Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// The field, as a path from the root: `clusters.main.seeds[0]`.
    pub field: String,
    /// What is wrong with it and what it should be.
    pub reason: String,
}

impl ReadPolicy {
    /// Whether replicas may be asked at all.
    pub fn reads_from_replicas(self) -> bool {
        self != Self::Master
    }
}

impl Fraction {
    /// All of them.
    pub const ALL: Self = Self { numerator: 100, denominator: 100 };

    /// Whether something drawn evenly from all numbers is within the share.
    pub fn contains(self, draw: u64) -> bool {
        draw % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

impl Route {
    /// Whether keys are sent under another name than the client's.
    pub(crate) fn rewrites(&self) -> bool {
        self.remove_prefix || self.key_formatter.is_some()
    }
}

impl Routes {
    /// Whether any route leads to the cluster, be it for reads or copies alone.
    pub fn names(&self, cluster: ClusterId) -> bool {
        self.prefixes.iter().chain(&self.catch_all).any(|route| {
            route.cluster == cluster
                || route.read_cluster == Some(cluster)
                || route.mirrors.iter().any(|mirror| mirror.cluster == cluster)
        })
    }
}

impl ConfigError {
    pub(crate) fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.reason)
    }
}

impl Limits {
    /// The least memory of a worker that all parts can work with.
    pub const LEAST_MEMORY: usize = 16 * 1024 * 1024;
    /// More has not been tried: a VM that gets no more memory ends.
    pub const MOST_MEMORY: usize = 512 * 1024 * 1024;
    /// Two workers fit into the 1 GiB that Istio gives a sidecar: see SECURITY.md.
    pub const DEFAULT_MEMORY: usize = 96 * 1024 * 1024;

    /// Bounds for a worker that keeps at most so many bytes for its clients. What Envoy keeps for
    /// them, and the copies that are made on the way, come on top.
    #[must_use]
    pub fn for_memory(bytes: usize) -> Self {
        let part = bytes / 16;
        Self {
            frame: resp::Limits { max_command_bytes: 6 * part, ..resp::Limits::default() },
            session_requests: 16 * 1024,
            session_bytes: (2 * part).min(16 * 1024 * 1024),
            // Five parts have a reserve.
            memory_bytes: bytes - 5 * part,
            reserve_bytes: part,
            input_bytes: 8 * part,
            reply_bytes: 32 * 1024,
            moved_reply_bytes: 8 * 1024,
            moved_command_bytes: 64 * 1024,
            waiting_reply_bytes: 10 * part,
            connection_bytes: 8 * part,
            held_bytes: 6 * part,
            transaction_bytes: 6 * part,
            mirror_bytes: (3 * part).min(16 * 1024 * 1024),
            subscription_bytes: 3 * part,
            subscriber_bytes: 6 * part,
            tracking_clients: 1024,
            identities: 256,
            script_bytes: part.min(16 * 1024 * 1024),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::for_memory(Self::DEFAULT_MEMORY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_workers_memory_are_not_more_than_the_whole() {
        for memory in [Limits::LEAST_MEMORY, Limits::DEFAULT_MEMORY, Limits::MOST_MEMORY] {
            let limits = Limits::for_memory(memory);
            assert_eq!(limits.memory_bytes + 5 * limits.reserve_bytes, memory);
            assert!(limits.frame.max_command_bytes <= limits.input_bytes);
            assert!(limits.frame.max_command_bytes <= limits.connection_bytes);
            // While it is read it counts as input, and a copy of it may have to wait.
            assert!(limits.frame.max_command_bytes <= limits.held_bytes);
            let twice = 2 * (limits.frame.max_command_bytes - limits.reserve_bytes);
            assert!(twice <= limits.memory_bytes);
            assert!(2 * limits.subscription_bytes <= limits.subscriber_bytes);
        }
    }

    #[test]
    fn a_fraction_is_what_it_says() {
        let share =
            |fraction: Fraction| (0..10_000).filter(|draw| fraction.contains(*draw)).count();
        assert_eq!(share(Fraction::ALL), 10_000);
        assert_eq!(share(Fraction { numerator: 25, denominator: 100 }), 2_500);
        assert_eq!(share(Fraction { numerator: 0, denominator: 100 }), 0);
        assert_eq!(share(Fraction { numerator: 7, denominator: 10_000 }), 7);
    }
}
