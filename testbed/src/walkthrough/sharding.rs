//! Keys spread over the shards, each with its replica.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};

use super::{COPY_DEADLINE, KEYS, Node, RedisCli, describe, follows, heading, passed};
use crate::wait::{Probe, until};

/// Writes `a` to `h` through `proxy`, shows what each of `nodes` holds, and reads all back; shows
/// every command on `out` and checks every answer. The cluster must be empty and `nodes` must be
/// all of it, three primaries or more.
///
/// # Errors
/// An answer is not as it must be; says which.
pub fn sharding(proxy: &RedisCli, nodes: &[RedisCli], out: &mut impl Write) -> Result<()> {
    heading(out, "Write eight keys through the proxy")?;
    for key in KEYS {
        let answer = proxy.show(&["SET", key, key], out)?;
        ensure!(answer == "OK", "SET {key} {key} answered {answer:?} instead of OK");
    }
    passed(out, "every SET answered OK")?;

    heading(out, "Where the keys went")?;
    let nodes = nodes.iter().map(describe).collect::<Result<Vec<Node<'_>>>>()?;
    let (primaries, replicas): (Vec<&Node<'_>>, Vec<&Node<'_>>) =
        nodes.iter().partition(|node| node.member.is_primary());
    // Quietly, so that what is shown below is what is checked.
    wait_for_replicas(&primaries, &replicas)?;
    let mut held: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for primary in &primaries {
        held.insert(&primary.member.id, show_keys(primary, "primary", out)?);
        for replica in replicas.iter().filter(|replica| follows(replica, primary)) {
            held.insert(&replica.member.id, show_keys(replica, "its replica", out)?);
        }
    }
    check_spread(&primaries, &held, out)?;
    check_copies(&primaries, &replicas, &held, out)?;

    heading(out, "Read them back through the proxy")?;
    for key in KEYS {
        let answer = proxy.show(&["GET", key], out)?;
        ensure!(answer == key, "GET {key} answered {answer:?}");
    }
    passed(out, "every GET answered its key's value")
}

fn keys(answer: &str) -> BTreeSet<String> {
    answer.lines().map(str::to_owned).collect()
}

fn show_keys(node: &Node<'_>, role: &str, out: &mut impl Write) -> Result<BTreeSet<String>> {
    writeln!(out, "  {role} {}", node.member.addr)?;
    Ok(keys(&node.cli.show(&["--scan"], out)?))
}

fn wait_for_replicas(primaries: &[&Node<'_>], replicas: &[&Node<'_>]) -> Result<()> {
    until("the replicas to hold their primaries' keys", COPY_DEADLINE, || {
        for primary in primaries {
            let wanted = keys(&primary.cli.run(&["--scan"])?);
            for replica in replicas.iter().filter(|replica| follows(replica, primary)) {
                let copied = keys(&replica.cli.run(&["--scan"])?);
                if copied != wanted {
                    let addr = &replica.member.addr;
                    return Ok(Probe::NotYet(format!("{addr} holds {copied:?}, not {wanted:?}")));
                }
            }
        }
        Ok(Probe::Ready(()))
    })
}

fn check_spread(
    primaries: &[&Node<'_>],
    held: &BTreeMap<&str, BTreeSet<String>>,
    out: &mut impl Write,
) -> Result<()> {
    ensure!(primaries.len() >= 3, "there are {} primaries, not three", primaries.len());
    let mut counts = Vec::new();
    let mut all: Vec<&str> = Vec::new();
    for primary in primaries {
        let keys = held.get(primary.member.id.as_str()).context("a primary was not asked")?;
        ensure!(!keys.is_empty(), "primary {} holds no key", primary.member.addr);
        counts.push(keys.len().to_string());
        all.extend(keys.iter().map(String::as_str));
    }
    let counts = counts.join(" + ");
    passed(out, &format!("the keys are spread over {} primaries: {counts}", primaries.len()))?;
    all.sort_unstable();
    ensure!(all == KEYS, "together the primaries hold {all:?} instead of {KEYS:?}");
    passed(out, &format!("together they hold {}, each once", KEYS.join(" ")))
}

fn check_copies(
    primaries: &[&Node<'_>],
    replicas: &[&Node<'_>],
    held: &BTreeMap<&str, BTreeSet<String>>,
    out: &mut impl Write,
) -> Result<()> {
    for primary in primaries {
        let addr = &primary.member.addr;
        let mut copies = replicas.iter().filter(|replica| follows(replica, primary)).peekable();
        ensure!(copies.peek().is_some(), "primary {addr} has no replica");
        for replica in copies {
            let [ours, theirs] = [primary, replica].map(|node| held.get(node.member.id.as_str()));
            if ours != theirs {
                bail!("replica {} does not hold the keys of {addr}", replica.member.addr);
            }
        }
    }
    passed(out, "every replica holds exactly its primary's keys")
}
