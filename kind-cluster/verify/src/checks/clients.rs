//! Clients whose sidecars are not the usual ones.

use anyhow::{Result, bail};
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};

use crate::client::{Client, PATIENCE, REDIS, deployment};
use crate::manifest::Manifest;
use crate::namespace::Namespace;
use crate::stage::Stage;

pub(crate) fn dns_proxy(stage: &Stage) -> Result<String> {
    of_another_kind(stage, "verify-dns-proxy", "dns-proxy")
}

pub(crate) fn not_held(stage: &Stage) -> Result<String> {
    of_another_kind(stage, "verify-not-held", "not-held")
}

/// A `Sidecar` that shows the client nothing but what it needs, and lets it reach nothing else.
pub(crate) fn narrow(stage: &Stage) -> Result<String> {
    let client = stage.client()?;
    let sidecar = json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": "narrow"},
        "spec": {
            "egress": [{"hosts": ["./*", "redis/redis-cluster.redis.svc.cluster.local"]}],
            "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
        },
    });
    let sidecar = Manifest::from(sidecar.to_string());
    client.apply(&sidecar)?;
    let seen = narrowed(stage, client);
    let delete = ["delete", "sidecar", "narrow", "--namespace", client.namespace()];
    stage.kubectl.put_back("", &delete);
    client.until_it_serves(REDIS)?;
    seen
}

fn narrowed(stage: &Stage, client: &Client) -> Result<String> {
    until("another Redis to be out of reach", PATIENCE, || {
        Ok(match client.redis("redis-mirror.redis", &["-p", "6380", "PING"]) {
            Ok(reply) if reply == "PONG" => Probe::NotYet("it answers".to_owned()),
            Ok(reply) => bail!("it answers {reply}"),
            Err(_) => Probe::Ready(()),
        })
    })?;
    client.until_it_serves(REDIS)?;
    client.traffic(stage.redis()?)
}

fn of_another_kind(stage: &Stage, name: &str, kind: &str) -> Result<String> {
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, name, "enabled")?;
    stage.slotmesh()?.apply(kubectl, name)?;
    let client = Client::deploy(kubectl, namespace, &deployment(kubectl, kind)?)?;
    client.until_it_serves(REDIS)?;
    client.traffic(stage.redis()?)
}
