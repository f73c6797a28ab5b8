//! The walk-through, through whatever a redis-cli reaches.

use std::io::{self, Write};

use anyhow::{Result, ensure};
use slotmesh_testbed::walkthrough::{RedisCli, erase, mirroring, replica_reads, sharding};

/// Where the parts of the walk-through are.
pub(crate) struct Deployment {
    /// Slotmesh, with read policy `REPLICA` and writes copied to the mirror.
    pub(crate) proxy: RedisCli,
    /// All nodes of the cluster.
    pub(crate) nodes: Vec<RedisCli>,
    /// The mirror, a standalone server.
    pub(crate) mirror: RedisCli,
}

impl Deployment {
    /// Walks through sharding, reads from replicas and mirroring; the cluster must be empty.
    pub(crate) fn walk(&self, out: &mut impl Write) -> Result<()> {
        sharding(&self.proxy, &self.nodes, out)?;
        replica_reads(&self.proxy, &self.nodes, out)?;
        mirroring(&self.proxy, &self.mirror, out)
    }
}

/// Walks through parts that run already, given as command lines of redis-cli.
pub(crate) fn run(proxy: &str, nodes: &[String], mirror: &str, may_erase: bool) -> Result<()> {
    let cli = |line: &str| RedisCli::new(line.split_whitespace());
    let deployment = Deployment {
        proxy: cli(proxy),
        nodes: nodes.iter().map(|line| cli(line)).collect(),
        mirror: cli(mirror),
    };
    let out = &mut io::stdout().lock();
    ensure!(
        may_erase,
        "the walk-through begins with an empty cluster: --erase removes all its keys"
    );
    erase(&deployment.nodes, out)?;
    deployment.walk(out)?;
    Ok(writeln!(out, "\nEvery step was checked.")?)
}
