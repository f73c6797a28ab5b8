//! Bases and overlays of istio/, as a user would apply them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wait::{Probe, until};

use crate::client::{Client, PATIENCE, REDIS, deployment};
use crate::kubectl::mesh;
use crate::manifest::{MODULE, Manifest};
use crate::namespace::Namespace;
use crate::redis;
use crate::small::{Kind, SmallCluster};
use crate::stage::Stage;

/// What is read from replicas.
const READS: usize = 60;

/// The way by port.
pub(crate) fn envoyfilter(stage: &Stage) -> Result<String> {
    let base = Manifest::slotmesh(&stage.kubectl, "base/envoyfilter")?;
    let client = Client::start(&stage.kubectl, "verify-envoyfilter", &base)?;
    client.traffic(stage.redis()?)
}

pub(crate) fn wasmplugin(stage: &Stage) -> Result<String> {
    let base = Manifest::slotmesh(&stage.kubectl, "base/wasmplugin")?;
    let client = Client::start(&stage.kubectl, "verify-wasmplugin", &base)?;
    client.traffic(stage.redis()?)
}

pub(crate) fn own_registry(stage: &Stage) -> Result<String> {
    // sha256: "0123..."
    let pushed = mesh(&["push", "pinned"])?;
    let digest = pushed.split('"').nth(1).context("no digest")?;
    let overlay = Manifest::build(&stage.kubectl, "overlays/own-registry")?
        .with("oci://registry.example/team/slotmesh:0.1.0", &format!("{MODULE}:pinned"))?
        .with(&"0".repeat(64), digest)?;
    let client = Client::start(&stage.kubectl, "verify-own-registry", &overlay)?;
    client.traffic(stage.redis()?)
}

pub(crate) fn read_split(stage: &Stage) -> Result<String> {
    let overlay = Manifest::slotmesh(&stage.kubectl, "overlays/read-split")?;
    stage.with(&overlay, |client| {
        client.redis(REDIS, &["SET", "split", "1"])?;
        let [primaries, replicas] = reads(stage)?;
        let count = READS.to_string();
        client.redis(REDIS, &["-r", &count, "GET", "split"])?;
        let [primaries, replicas] = {
            let [all_primaries, all_replicas] = reads(stage)?;
            [all_primaries - primaries, all_replicas - replicas]
        };
        let seen =
            format!("of {READS} reads replicas have answered {replicas}, primaries {primaries}");
        ensure!(replicas == READS && primaries == 0, "{seen}");
        Ok(seen)
    })
}

pub(crate) fn mirror(stage: &Stage) -> Result<String> {
    let overlay = Manifest::slotmesh(&stage.kubectl, "overlays/mirror")?;
    stage.with(&overlay, |client| {
        client
            .redis(REDIS, &["MSET", "copied:1", "one", "copied:2", "two", "copied:3", "three"])?;
        until("the mirror to have what was written", PATIENCE, || {
            let copied = ["-p", "6380", "MGET", "copied:1", "copied:2", "copied:3"];
            let copied = client.redis("redis-mirror.redis", &copied)?;
            Ok(match copied.as_str() {
                "one\ntwo\nthree" => Probe::Ready(()),
                _ => Probe::NotYet(copied),
            })
        })?;
        client.traffic(stage.redis()?)
    })
}

pub(crate) fn prefix_routes(stage: &Stage) -> Result<String> {
    // The name is the overlay's.
    let sessions = SmallCluster::start(&stage.kubectl, "sessions", Kind::default())?;
    let overlay = Manifest::slotmesh(&stage.kubectl, "overlays/prefix-routes")?;
    stage.with(&overlay, |client| {
        until("a key with the prefix in the other cluster", PATIENCE, || {
            client.redis(REDIS, &["MSET", "session:routed", "there", "routed", "here"])?;
            let there = ["node-0", "node-1"].map(|node| sessions.ask(node, &["GET", "routed"]));
            let there = there.into_iter().collect::<Result<Vec<String>>>()?;
            Ok(match there.iter().any(|value| value == "there") {
                true => Probe::Ready(()),
                false => Probe::NotYet(format!("{there:?}")),
            })
        })?;
        let here = client.redis(REDIS, &["GET", "routed"])?;
        ensure!(here == "here", "the key without prefix is {here}");
        Ok("each key is in its cluster".to_owned())
    })
}

/// Each Service has a configuration of its own.
pub(crate) fn several_services(stage: &Stage) -> Result<String> {
    let sessions = SmallCluster::start(&stage.kubectl, "sessions", Kind::default())?;
    let overlay = Manifest::slotmesh(&stage.kubectl, "overlays/several-services")?;
    let client = Client::start(&stage.kubectl, "verify-several-services", &overlay)?;
    let host = format!("redis-cluster.{}", sessions.namespace());
    client.until_it_serves(&host)?;
    client.redis(REDIS, &["SET", "where", "first"])?;
    client.redis(&host, &["SET", "where", "second"])?;
    let values = [client.redis(REDIS, &["GET", "where"])?, client.redis(&host, &["GET", "where"])?];
    ensure!(values == ["first", "second"], "one key has the values {values:?}");
    Ok("each Service has its keys".to_owned())
}

pub(crate) fn gateway(stage: &Stage) -> Result<String> {
    const NAME: &str = "verify-gateway";
    let kubectl = &stage.kubectl;
    let namespace = Namespace::create(kubectl, NAME, "enabled")?;
    Manifest::slotmesh(kubectl, "overlays/gateway")?.apply(kubectl, NAME)?;
    let rollout = ["rollout", "status", "--namespace", NAME, "deployment/slotmesh-gateway"];
    kubectl.run_within(Duration::from_secs(180), &rollout)?;
    let outside = Namespace::create(kubectl, "verify-outside", "disabled")?;
    let client = Client::deploy(kubectl, outside, &deployment(kubectl, "plain")?)?;
    client.until_it_serves(&format!("redis.{NAME}"))?;
    let seen = client.traffic(redis::service(kubectl, NAME, "redis")?);
    drop(namespace);
    seen
}

/// How often primaries have executed GET, and how often replicas have.
fn reads(stage: &Stage) -> Result<[usize; 2]> {
    let mut reads = [0, 0];
    for node in redis::nodes(&stage.kubectl)? {
        let info = ["INFO", "replication", "commandstats"];
        let info = redis::ask(&stage.kubectl, &node.name, &info)?;
        // cmdstat_get:calls=12,usec=...
        let get = info.lines().find_map(|line| line.strip_prefix("cmdstat_get:calls="));
        let calls = get.and_then(|calls| calls.split(',').next()?.parse::<usize>().ok());
        reads[usize::from(!info.contains("role:master"))] += calls.unwrap_or(0);
    }
    Ok(reads)
}
