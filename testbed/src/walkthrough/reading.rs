//! Reads on replicas, writes on primaries.

use std::io::Write;

use anyhow::{Context, Result, ensure};

use super::monitor::{Executed, Monitor};
use super::{COPY_DEADLINE, Node, RedisCli, describe, follows, heading, passed};
use crate::process;

const KEY: &str = "b";

/// What KEY is written to.
const VALUE: &str = "bb";

const READS: usize = 3;

/// Reads `b` three times and writes it once through `proxy`, whose read policy is `REPLICA`; shows
/// by the MONITOR of all of `nodes` that only a replica of the key's shard was read from, and only
/// its primary written to. The key must exist.
///
/// # Errors
/// A command is answered by an error, or was executed where it must not be; says where.
pub fn replica_reads(proxy: &RedisCli, nodes: &[RedisCli], out: &mut impl Write) -> Result<()> {
    heading(out, "Read from replicas, write to the primary (read_policy: REPLICA)")?;
    let nodes = nodes.iter().map(describe).collect::<Result<Vec<Node<'_>>>>()?;
    let (primary, replica) = shard_of_key(&nodes)?;
    let mut monitors =
        nodes.iter().map(|node| Monitor::start(node.cli)).collect::<Result<Vec<Monitor<'_>>>>()?;
    passed(out, &format!("all {} nodes run MONITOR", nodes.len()))?;

    let expected = proxy.run(&["GET", KEY])?;
    ensure!(!expected.is_empty(), "there is no key {KEY}");
    for monitor in &mut monitors {
        monitor.read_to_now(COPY_DEADLINE)?;
    }
    for _ in 0..READS {
        let answer = proxy.show(&["GET", KEY], out)?;
        ensure!(answer == expected, "GET {KEY} answered {answer:?} instead of {expected:?}");
    }
    let answer = proxy.show(&["SET", KEY, VALUE], out)?;
    ensure!(answer == "OK", "SET {KEY} {VALUE} answered {answer:?} instead of OK");

    heading(out, "What the nodes' own MONITOR told meanwhile")?;
    let mut others = 0;
    for (node, monitor) in nodes.iter().zip(&mut monitors) {
        let addr = &node.member.addr;
        let mut heard = Vec::new();
        if node.member.id == replica.member.id {
            let what = format!("replica {addr} to receive the SET");
            heard = monitor.read_until(&what, COPY_DEADLINE, is_set)?;
        }
        heard.extend(monitor.read_to_now(COPY_DEADLINE)?);
        heard.retain(|executed| executed.is_on(KEY));
        if node.member.id == primary.member.id {
            show_heard(node, "primary", &heard, out)?;
            ensure!(count(&heard, is_get) == 0, "primary {addr} executed a GET");
            ensure!(count(&heard, is_set) == 1, "primary {addr} did not execute one SET");
        } else if node.member.id == replica.member.id {
            show_heard(node, "its replica", &heard, out)?;
            let gets = count(&heard, is_get);
            ensure!(gets == READS, "replica {addr} executed {gets} of {READS} GETs");
            let from_primary =
                |executed: &Executed| is_set(executed) && executed.sender == primary.member.addr;
            let [sets, copied] = [count(&heard, is_set), count(&heard, from_primary)];
            ensure!((sets, copied) == (1, 1), "replica {addr}: its one SET must be its primary's");
        } else {
            ensure!(heard.is_empty(), "{addr} has another shard, but executed {heard:?}");
            others += 1;
        }
    }
    passed(out, &format!("every GET of {KEY} was executed by a replica of its shard"))?;
    passed(out, &format!("the SET was executed by the primary {}", primary.member.addr))?;
    passed(out, "the replica's SET came from its primary, by replication")?;
    passed(out, &format!("the other {others} nodes were not asked about {KEY}"))
}

/// The primary and the one replica of the shard that holds KEY.
fn shard_of_key<'n, 'a>(nodes: &'n [Node<'a>]) -> Result<(&'n Node<'a>, &'n Node<'a>)> {
    let first = nodes.first().context("there is no node")?;
    let slot = first.cli.run(&["CLUSTER", "KEYSLOT", KEY])?;
    let slot = slot.parse().with_context(|| format!("CLUSTER KEYSLOT answered {slot:?}"))?;
    let primary = nodes.iter().find(|node| node.member.owns(slot));
    let primary = primary.with_context(|| format!("slot {slot} has no owner"))?;
    let replicas: Vec<&Node<'_>> = nodes.iter().filter(|node| follows(node, primary)).collect();
    let [replica] = replicas[..] else {
        anyhow::bail!("{} has {} replicas instead of one", primary.member.addr, replicas.len())
    };
    Ok((primary, replica))
}

fn is_get(executed: &Executed) -> bool {
    executed.is(&["GET", KEY])
}

fn is_set(executed: &Executed) -> bool {
    executed.is(&["SET", KEY, VALUE])
}

fn count(heard: &[Executed], what: impl Fn(&Executed) -> bool) -> usize {
    heard.iter().filter(|executed| what(executed)).count()
}

fn show_heard(node: &Node<'_>, role: &str, heard: &[Executed], out: &mut impl Write) -> Result<()> {
    writeln!(out, "  {role} {}", node.member.addr)?;
    let command = process::show(&node.cli.command(&["MONITOR"])?);
    writeln!(out, "  $ {command} | grep '\"{KEY}\"'")?;
    for executed in heard {
        writeln!(out, "  {}", executed.line)?;
    }
    Ok(())
}
