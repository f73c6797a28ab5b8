//! An empty cluster to begin with.

use std::io::Write;

use anyhow::{Result, ensure};

use super::{COPY_DEADLINE, Node, RedisCli, describe, heading, passed};
use crate::wait::{Probe, until};

/// Removes all keys from the cluster of `nodes`, and waits until every node lists every replica.
///
/// CLUSTER SLOTS leaves out a replica that has never received a byte: this makes sure that each
/// has.
///
/// # Errors
/// A node does not answer, or not all are listed in time.
pub fn erase(nodes: &[RedisCli], out: &mut impl Write) -> Result<()> {
    heading(out, "Begin with an empty cluster")?;
    let nodes = nodes.iter().map(describe).collect::<Result<Vec<Node<'_>>>>()?;
    for node in nodes.iter().filter(|node| node.member.is_primary()) {
        let answer = node.cli.show(&["FLUSHALL"], out)?;
        ensure!(answer == "OK", "FLUSHALL answered {answer:?}");
    }
    for node in &nodes {
        let what = format!("{} to list all nodes", node.member.addr);
        until(&what, COPY_DEADLINE, || {
            let listed = node.cli.run(&["CLUSTER", "SLOTS"])?;
            let missing = nodes.iter().find(|other| !listed.contains(&other.member.id));
            Ok(match missing {
                Some(other) => Probe::NotYet(format!("{} is missing", other.member.addr)),
                None => Probe::Ready(()),
            })
        })?;
    }
    passed(out, &format!("no keys, and all {} nodes know of each other", nodes.len()))
}
