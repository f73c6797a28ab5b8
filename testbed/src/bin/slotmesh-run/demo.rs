//! The walk-through on this machine: starts its parts, walks, stops them.

use std::io::{self, Write};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::walkthrough::{RedisCli, heading, passed};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer,
};

use crate::walk::Deployment;

pub(crate) fn run() -> Result<()> {
    let out = &mut io::stdout().lock();
    writeln!(out, "Slotmesh: any Redis client, one address, a whole Redis Cluster")?;

    heading(out, "Start the parts")?;
    let cluster = timed(out, "six Redis nodes, joined to one cluster", || {
        RedisCluster::start(ClusterOptions::default())
    })?;
    let mirror = timed(out, "a standalone Redis for a mirror", || RedisServer::start(&[]))?;
    let config =
        PluginConfig::with_replicas_and_mirror(&cluster.seeds(), &mirror.addr().to_string());
    let envoy = timed(out, "Envoy with slotmesh.wasm before them", || {
        Envoy::start(EnvoyOptions::new(config))
    })?;
    let on_port = |server: &RedisServer| RedisCli::on_port(server.addr().port());
    let deployment = Deployment {
        proxy: RedisCli::on_port(envoy.addr().port()),
        nodes: cluster.nodes().iter().map(on_port).collect(),
        mirror: on_port(&mirror),
    };
    deployment.walk(out).with_context(|| {
        format!("Envoy's last words:\n{}\nthe walk-through failed", envoy.log())
    })?;

    heading(out, "Stop the parts")?;
    let mut pids: Vec<u32> = cluster.nodes().iter().filter_map(RedisServer::pid).collect();
    pids.extend(mirror.pid());
    pids.push(envoy.pid());
    drop(envoy);
    drop(mirror);
    drop(cluster);
    let left: Vec<&u32> =
        pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    ensure!(left.is_empty(), "still running: {left:?}");
    passed(out, &format!("all {} processes have ended", pids.len()))?;
    writeln!(
        out,
        "\nEvery step was checked: a cluster, its replicas and a mirror served a client that knows \
         nothing of them."
    )?;
    Ok(())
}

/// Says what takes its time before it does, and how long it took.
fn timed<T>(out: &mut impl Write, what: &str, start: impl FnOnce() -> Result<T>) -> Result<T> {
    write!(out, "  {what} ...")?;
    out.flush()?;
    let begin = Instant::now();
    let started = start().with_context(|| what.to_owned());
    match &started {
        Ok(_) => writeln!(out, " up in {:.1} s", begin.elapsed().as_secs_f64())?,
        Err(_) => writeln!(out, " failed")?,
    }
    started
}
