//! Nodes of Redis come and go under load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};

use crate::client::REDIS;
use crate::kubectl::Kubectl;
use crate::load::{Load, told, why};
use crate::redis::{self, Node};
use crate::stage::Stage;

/// Time for six nodes to be restarted one after the other.
const ROLLOUT: Duration = Duration::from_secs(600);

/// Time from the start of the last pod to the first commands of clients.
const RETURN: Duration = Duration::from_secs(30);

/// Every second client makes a new connection now and then.
const LOAD: [&str; 2] = ["--renew", "50"];

pub(crate) fn rolling(stage: &Stage) -> Result<String> {
    let load = begin(stage)?;
    let of = ["--namespace", "redis", "statefulset/redis-cluster"];
    stage.kubectl.run(&[&["rollout", "restart"], &of[..]].concat())?;
    stage.kubectl.run_within(ROLLOUT, &[&["rollout", "status"], &of[..]].concat())?;
    end(stage, load, &[])
}

pub(crate) fn deletion(stage: &Stage) -> Result<String> {
    let load = begin(stage)?;
    let node = redis::a_primary(&stage.kubectl)?;
    delete(&stage.kubectl, &["pod", &node.name])?;
    end(stage, load, &[node])
}

pub(crate) fn eviction(stage: &Stage) -> Result<String> {
    let load = begin(stage)?;
    let node = redis::a_primary(&stage.kubectl)?;
    evict(&stage.kubectl, &node)?;
    for other in redis::nodes(&stage.kubectl)?.iter().filter(|other| other.name != node.name) {
        match evict(&stage.kubectl, other) {
            Err(error) if error.to_string().contains("disruption budget") => {}
            Err(error) => return Err(error),
            Ok(()) => bail!("{} was evicted, too", other.name),
        }
    }
    end(stage, load, &[node])
}

pub(crate) fn all_at_once(stage: &Stage) -> Result<String> {
    all(stage, &[])
}

/// They have no time to hand anything over.
pub(crate) fn all_killed(stage: &Stage) -> Result<String> {
    all(stage, &["--grace-period=1"])
}

fn all(stage: &Stage, how: &[&str]) -> Result<String> {
    let load = begin(stage)?;
    let gone = redis::nodes(&stage.kubectl)?;
    delete(&stage.kubectl, &[&["pod", "--selector", "app=redis-cluster"], how].concat())?;
    let started = until("six new pods", ROLLOUT, || {
        let nodes = redis::nodes(&stage.kubectl)?;
        let is_new = |node: &&Node| gone.iter().all(|gone| gone.uid != node.uid);
        let running = nodes.iter().filter(is_new).filter(|node| node.started.is_some()).count();
        Ok(match running {
            6 => Probe::Ready(Instant::now()),
            _ => Probe::NotYet(format!("{running} run")),
        })
    })?;
    let client = stage.client()?;
    until("Redis to serve again", RETURN, || Ok(Probe::retry(client.serves(REDIS))))?;
    let waited = started.elapsed();
    load.goes_on()?;
    redis::until_all_are_well(&stage.kubectl, &gone)?;
    let report = load.finish()?;
    ensure!(report.lost.is_empty(), "{}{}", told(&report), why(&report));
    Ok(format!(
        "served {:.0} s after the last pod's start; nothing lost, {}",
        waited.as_secs_f64(),
        told(&report)
    ))
}

fn begin(stage: &Stage) -> Result<Load> {
    redis::until_all_are_well(&stage.kubectl, &[]).context("before anything was done")?;
    stage.client()?.load(stage.redis()?, &LOAD)
}

fn end(stage: &Stage, load: Load, gone: &[Node]) -> Result<String> {
    redis::until_all_are_well(&stage.kubectl, gone)?;
    load.goes_on()?;
    load.finish_flawless()
}

/// Does not wait until it has gone: kubectl may wait for ever for a pod that has come back under
/// its name before kubectl has begun to watch.
fn delete(kubectl: &Kubectl, what: &[&str]) -> Result<()> {
    let delete = ["delete", "--namespace", "redis", "--wait=false"];
    kubectl.run(&[&delete, what].concat())?;
    Ok(())
}

/// As `kubectl drain` does it.
fn evict(kubectl: &Kubectl, node: &Node) -> Result<()> {
    let eviction = json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"namespace": "redis", "name": node.name},
    });
    let path = format!("/api/v1/namespaces/redis/pods/{}/eviction", node.name);
    kubectl.feed(eviction.to_string(), &["create", "--raw", &path, "--filename", "-"])?;
    Ok(())
}
