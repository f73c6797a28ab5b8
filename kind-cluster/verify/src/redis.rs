//! The Redis Cluster of istio/k8s/redis-cluster, seen from its own pods.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slotmesh_testbed::wait::{Probe, until};

use crate::kubectl::Kubectl;

/// Time for a node to come back and for the cluster to be well again.
const PATIENCE: Duration = Duration::from_secs(180);

/// A pod of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) name: String,
    /// Another one after each restart.
    pub(crate) uid: String,
    ready: bool,
    /// When its container `redis` was started, as RFC 3339 says it.
    pub(crate) started: Option<String>,
}

/// The cluster's pods, by name.
pub(crate) fn nodes(kubectl: &Kubectl) -> Result<Vec<Node>> {
    let of = ["get", "pods", "--namespace", "redis", "--selector", "app=redis-cluster"];
    let pods = kubectl.json(&of)?;
    let pods = pods["items"].as_array().context("no list of pods")?;
    pods.iter().map(|pod| node(pod).with_context(|| format!("{pod}"))).collect()
}

/// Waits until all six are ready, none of them is one of `gone`, and one may be evicted.
pub(crate) fn until_all_are_well(kubectl: &Kubectl, gone: &[Node]) -> Result<()> {
    until("six nodes that are ready", PATIENCE, || Ok(Probe::retry(all_are_well(kubectl, gone))))
}

/// One that owns slots.
pub(crate) fn a_primary(kubectl: &Kubectl) -> Result<Node> {
    for node in nodes(kubectl)? {
        if ask(kubectl, &node.name, &["ROLE"])?.starts_with("master") {
            return Ok(node);
        }
    }
    anyhow::bail!("there is no primary")
}

/// What a node answers.
pub(crate) fn ask(kubectl: &Kubectl, node: &str, command: &[&str]) -> Result<String> {
    let exec = ["exec", "--namespace", "redis", node, "--container", "redis", "--", "redis-cli"];
    Ok(kubectl.run(&[&exec, command].concat())?.trim_end().to_owned())
}

/// The address of a Service.
pub(crate) fn service(kubectl: &Kubectl, namespace: &str, name: &str) -> Result<SocketAddr> {
    let service = kubectl.json(&["get", "service", "--namespace", namespace, name])?;
    let ip = service["spec"]["clusterIP"].as_str().context("no clusterIP")?;
    let port = service["spec"]["ports"][0]["port"].as_u64().context("no port")?;
    Ok(SocketAddr::new(ip.parse()?, port.try_into()?))
}

fn node(pod: &Value) -> Option<Node> {
    let metadata = &pod["metadata"];
    let ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let redis = containers.into_iter().find(|container| container["name"] == "redis");
    Some(Node {
        name: metadata["name"].as_str()?.to_owned(),
        uid: metadata["uid"].as_str()?.to_owned(),
        ready: metadata["deletionTimestamp"].is_null()
            && pod["status"]["conditions"].as_array().is_some_and(|all| all.iter().any(ready)),
        started: redis
            .and_then(|redis| Some(redis["state"]["running"]["startedAt"].as_str()?.to_owned())),
    })
}

fn all_are_well(kubectl: &Kubectl, gone: &[Node]) -> Result<()> {
    let nodes = nodes(kubectl)?;
    ensure!(nodes.len() == 6, "there are {} nodes", nodes.len());
    for node in &nodes {
        ensure!(node.ready, "{} is not ready", node.name);
        ensure!(gone.iter().all(|gone| gone.uid != node.uid), "{} is still there", node.name);
    }
    let of = ["get", "poddisruptionbudget", "--namespace", "redis", "redis-cluster"];
    let budget = kubectl.json(&of)?;
    ensure!(budget["status"]["disruptionsAllowed"] == 1, "none may be evicted yet");
    Ok(())
}
