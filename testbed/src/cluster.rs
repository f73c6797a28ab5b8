//! A Redis Cluster on loopback.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::member::{Member, Role};
use crate::process;
use crate::server::{RedisServer, Security};
use crate::wait::{Probe, until};

/// Time for the nodes to agree, or for redis-cli to move slots; long, since tests share few cores.
const PATIENCE: Duration = Duration::from_secs(120);

/// The node timeout while a cluster comes about. Nodes tell each of the others of themselves after
/// half of it, so that they agree in no time; should one be taken for failed, replicas leave it at
/// that.
const JOINING: Duration = Duration::from_millis(500);

const NODE_TIMEOUT: &str = "cluster-node-timeout";
const NO_FAILOVER: &str = "cluster-replica-no-failover";

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Nodes that own slots; Redis wants three or more.
    pub primaries: usize,
    /// Replicas of each of them.
    pub replicas_per_primary: usize,
    /// How long a node may be silent before the others take it for failed.
    pub node_timeout: Duration,
    /// More options for each redis-server (`--maxmemory`, `10mb`); they win over the testbed's own.
    pub redis_args: Vec<String>,
    /// What the nodes ask of clients and of each other.
    pub security: Security,
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            primaries: 3,
            replicas_per_primary: 1,
            node_timeout: Duration::from_secs(5),
            redis_args: Vec::new(),
            security: Security::default(),
        }
    }
}

/// A cluster of redis-server processes. Dropping it kills them all and removes their data.
#[derive(Debug)]
pub struct RedisCluster {
    options: ClusterOptions,
    nodes: Vec<RedisServer>,
}

impl RedisCluster {
    /// Starts the nodes, joins them with `redis-cli --cluster create`, and waits until they are
    /// [ready](Self::wait_until_ready).
    ///
    /// # Errors
    /// A node does not start, or they do not agree in time.
    pub fn start(options: ClusterOptions) -> Result<Self> {
        let count = options.primaries * (1 + options.replicas_per_primary);
        let nodes = (0..count)
            .map(|_| {
                let security = options.security.clone();
                RedisServer::start_node(options.node_timeout, &options.redis_args, security)
            })
            .collect::<Result<Vec<RedisServer>>>()?;
        let cluster = Self { options, nodes };
        let node_timeout = cluster.options.node_timeout;
        let joining = node_timeout.min(JOINING).as_millis().to_string();
        cluster.configure([(NODE_TIMEOUT, &joining), (NO_FAILOVER, "yes")])?;
        let mut create = cluster.nodes.first().context("no node")?.cli_command()?;
        create.args(["--cluster", "create"]).args(cluster.seeds());
        create.args(["--cluster-replicas", &cluster.options.replicas_per_primary.to_string()]);
        process::run(with_yes(create), PATIENCE)?;
        cluster.wait_until_agreed()?;
        // CLUSTER SLOTS leaves out a replica that has never received a byte.
        cluster.flush()?;
        cluster.wait_until_ready()?;
        let node_timeout = node_timeout.as_millis().to_string();
        cluster.configure([(NODE_TIMEOUT, &node_timeout), (NO_FAILOVER, "no")])?;
        Ok(cluster)
    }

    /// The nodes, in the order they were started: the first `primaries` of them begin as primaries.
    /// Kill, restart, pause and resume them through this.
    pub fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// The addresses of all nodes, as `host:port`.
    pub fn seeds(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.addr().to_string()).collect()
    }

    /// All members and their present roles, as the first node that answers sees them.
    ///
    /// # Errors
    /// No node answers.
    pub fn members(&self) -> Result<Vec<Member>> {
        let running = self.nodes.iter().filter(|node| node.pid().is_some());
        let mut last = anyhow!("no node runs");
        for node in running {
            match members_seen_by(node) {
                Ok(members) => return Ok(members),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The node that `member` describes.
    ///
    /// # Errors
    /// It is not one of ours.
    pub fn node(&self, member: &Member) -> Result<&RedisServer> {
        let found = self.nodes.iter().find(|node| node.addr().to_string() == member.addr);
        found.with_context(|| format!("{} is not a node of this cluster", member.addr))
    }

    /// The nodes that are primaries now, in the order of their first slots.
    ///
    /// # Errors
    /// No node answers.
    pub fn primaries(&self) -> Result<Vec<&RedisServer>> {
        let mut members = self.members()?;
        members.retain(|member| member.is_primary() && !member.slots.is_empty());
        members.sort_by_key(|member| member.slots.first().map(|range| *range.start()));
        members.iter().map(|member| self.node(member)).collect()
    }

    /// The replicas that `primary` has now.
    ///
    /// # Errors
    /// No node answers, or `primary` is not one.
    pub fn replicas_of(&self, primary: &RedisServer) -> Result<Vec<&RedisServer>> {
        let of = self.member(primary)?.id;
        let members = self.members()?;
        let replicas =
            members.iter().filter(|member| member.role == Role::Replica { of: of.clone() });
        replicas.map(|member| self.node(member)).collect()
    }

    /// The node that owns `slot` now.
    ///
    /// # Errors
    /// No node answers, or none owns it.
    pub fn owner(&self, slot: u16) -> Result<&RedisServer> {
        let members = self.members()?;
        let owner = members.iter().find(|member| member.owns(slot));
        self.node(owner.with_context(|| format!("slot {slot} has no owner"))?)
    }

    /// Moves `slots` slots with their keys, as an operator does, with
    /// `redis-cli --cluster reshard`, and waits until all nodes agree on the result.
    ///
    /// # Errors
    /// redis-cli fails or takes too long; the error carries what it printed.
    pub fn reshard(&self, slots: u16, from: &RedisServer, to: &RedisServer) -> Result<()> {
        let (source, target) = (self.member(from)?, self.member(to)?);
        let mut reshard = from.cli_command()?;
        reshard.args(["--cluster", "reshard", &source.addr]);
        reshard.args(["--cluster-from", &source.id, "--cluster-to", &target.id]);
        reshard.args(["--cluster-slots", &slots.to_string()]);
        process::run(with_yes(reshard), PATIENCE)?;
        self.wait_until_ready()
    }

    /// Removes all keys, on the replicas too.
    ///
    /// # Errors
    /// A primary does not answer.
    pub fn flush(&self) -> Result<()> {
        for primary in self.primaries()? {
            redis::cmd("FLUSHALL").exec(&mut primary.connect()?)?;
        }
        self.wait_until_in_sync()
    }

    /// Waits until every running node reports `cluster_state:ok` and sees the same owner of every
    /// slot, every running replica is connected to its primary, and CLUSTER SLOTS tells of it.
    ///
    /// # Errors
    /// That does not come true in two minutes; says what is missing.
    pub fn wait_until_ready(&self) -> Result<()> {
        self.wait_until_agreed()?;
        until("CLUSTER SLOTS to list replicas", PATIENCE, || Ok(Probe::retry(self.check_listed())))
    }

    /// Changes options of all nodes.
    fn configure(&self, options: [(&str, &str); 2]) -> Result<()> {
        for node in &self.nodes {
            redis::cmd("CONFIG").arg("SET").arg(&options).exec(&mut node.connect()?)?;
        }
        Ok(())
    }

    fn wait_until_agreed(&self) -> Result<()> {
        until("the cluster to be ready", PATIENCE, || Ok(Probe::retry(self.check_agreed())))
    }

    /// Waits until every running replica has received all that its primary wrote.
    ///
    /// # Errors
    /// That does not come true in two minutes; says what is missing.
    pub fn wait_until_in_sync(&self) -> Result<()> {
        until("the replicas to be in sync", PATIENCE, || Ok(Probe::retry(self.check_in_sync())))
    }

    fn check_agreed(&self) -> Result<()> {
        let mut agreed = None;
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            let addr = node.addr();
            let state = info(node, "CLUSTER", "cluster_state")?;
            ensure!(state == "ok", "{addr} reports cluster_state:{state}");
            let mut view = members_seen_by(node)?;
            ensure!(view.len() == self.nodes.len(), "{addr} knows {} nodes", view.len());
            view.sort_by(|a, b| a.id.cmp(&b.id));
            for member in &mut view {
                member.myself = false;
                member.failed = false;
            }
            let agreed = agreed.get_or_insert_with(|| view.clone());
            ensure!(*agreed == view, "{addr} disagrees with another node on roles or slots");
        }
        let view = agreed.context("no node runs")?;
        let replicas = view.iter().filter(|member| !member.is_primary()).count();
        let wanted = self.options.primaries * self.options.replicas_per_primary;
        ensure!(replicas == wanted, "{replicas} of {wanted} replicas are replicas yet");
        for member in view.iter().filter(|member| !member.is_primary()) {
            let replica = self.node(member)?;
            if replica.pid().is_some() {
                let link = info(replica, "REPLICATION", "master_link_status")?;
                ensure!(link == "up", "{} reports master_link_status:{link}", replica.addr());
            }
        }
        Ok(())
    }

    fn check_listed(&self) -> Result<()> {
        let members = self.members()?;
        let replicas = members.iter().filter(|member| !member.is_primary());
        let running = |port: &u16| {
            self.nodes.iter().any(|node| node.addr().port() == *port && node.pid().is_some())
        };
        let ports = replicas.filter_map(|member| member.addr.rsplit_once(':')?.1.parse().ok());
        let wanted: BTreeSet<u16> = ports.filter(running).collect();
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            let listed = listed_replicas(node)?;
            let addr = node.addr();
            ensure!(listed.is_superset(&wanted), "{addr} lists {listed:?} instead of {wanted:?}");
        }
        Ok(())
    }

    fn check_in_sync(&self) -> Result<()> {
        for primary in self.primaries()? {
            let written = info(primary, "REPLICATION", "master_repl_offset")?;
            for replica in self.replicas_of(primary)? {
                if replica.pid().is_none() {
                    continue;
                }
                let received = info(replica, "REPLICATION", "slave_repl_offset")?;
                let addr = replica.addr();
                ensure!(received == written, "{addr} has {received} of {written} bytes");
            }
        }
        Ok(())
    }

    fn member(&self, node: &RedisServer) -> Result<Member> {
        let addr = node.addr().to_string();
        let found = self.members()?.into_iter().find(|member| member.addr == addr);
        found.with_context(|| format!("the cluster does not know {addr}"))
    }
}

/// Answers redis-cli's question whether to go on.
fn with_yes(mut command: Command) -> Command {
    command.arg("--cluster-yes");
    command
}

fn members_seen_by(node: &RedisServer) -> Result<Vec<Member>> {
    let reply: String = redis::cmd("CLUSTER").arg("NODES").query(&mut node.connect()?)?;
    Member::parse_all(&reply)
}

/// The ports of the replicas that a node's CLUSTER SLOTS tells of.
fn listed_replicas(node: &RedisServer) -> Result<BTreeSet<u16>> {
    // Start, end, primary, replicas; each node is host, port and more.
    type Range = Vec<redis::Value>;
    type Node = (redis::Value, u16);
    let ranges: Vec<Range> = redis::cmd("CLUSTER").arg("SLOTS").query(&mut node.connect()?)?;
    let mut ports = BTreeSet::new();
    for replica in ranges.iter().flat_map(|range| range.iter().skip(3)) {
        let redis::Value::Array(fields) = replica else { bail!("not a node: {replica:?}") };
        let host_and_port = redis::Value::Array(fields.iter().take(2).cloned().collect());
        let (_host, port): Node = redis::from_redis_value(host_and_port)?;
        ports.insert(port);
    }
    Ok(ports)
}

/// One field of `CLUSTER INFO` or of a section of `INFO`; both answer lines of `name:value`.
fn info(node: &RedisServer, section: &str, field: &str) -> Result<String> {
    let mut command = match section {
        "CLUSTER" => redis::cmd("CLUSTER"),
        _ => redis::cmd("INFO"),
    };
    command.arg(if section == "CLUSTER" { "INFO" } else { section });
    let reply: String = command.query(&mut node.connect()?)?;
    let mut pairs = reply.lines().filter_map(|line| line.trim_end().split_once(':'));
    let found = pairs.find(|(name, _)| *name == field);
    let (_, value) = found.with_context(|| format!("{} reports no {field}", node.addr()))?;
    Ok(value.to_owned())
}
