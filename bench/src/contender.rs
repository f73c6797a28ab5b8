//! The proxies that are measured: Slotmesh, Envoy's own redis_proxy on the same binary, and any other
//! that is given by its address.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slotmesh_testbed::{Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer};

use crate::load::Profile;

/// Envoy with redis_proxy.
const NATIVE: &str = include_str!("../native.yaml");

/// What ratios are taken to.
pub(crate) const NATIVE_NAME: &str = "redis_proxy";

/// A proxy under test.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    /// Whose CPU time and memory are read; `None` if that is not known.
    pub(crate) pid: Option<u32>,
    _envoy: Option<Envoy>,
}

/// Another build of the module: `name=path`.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    name: String,
    path: PathBuf,
}

/// A proxy that runs already: `name=host:port`, or `name=host:port,pid`.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    name: String,
    addr: SocketAddr,
    pid: Option<u32>,
}

impl Contender {
    /// The Envoys of a profile, with one worker each: redis_proxy, the module that `make wasm`
    /// built, and other builds of it.
    pub(crate) fn start_all(
        profile: Profile,
        modules: &[Module],
        cluster: &RedisCluster,
        mirror: &RedisServer,
    ) -> Result<Vec<Self>> {
        let slotmesh = slotmesh(profile, cluster, mirror);
        let mut all = vec![
            Self::start(NATIVE_NAME, native(profile, cluster, mirror))?,
            Self::start("slotmesh", slotmesh.clone())?,
        ];
        for Module { name, path } in modules {
            let wasm = Some(path.clone());
            all.push(Self::start(name, EnvoyOptions { wasm, ..slotmesh.clone() })?);
        }
        Ok(all)
    }

    fn start(name: &str, mut options: EnvoyOptions) -> Result<Self> {
        options.concurrency = 1;
        let envoy = Envoy::start(options).with_context(|| format!("starting {name}"))?;
        let (addr, pid) = (envoy.addr(), Some(envoy.pid()));
        Ok(Self { name: name.to_owned(), addr, pid, _envoy: Some(envoy) })
    }
}

impl From<&Other> for Contender {
    fn from(other: &Other) -> Self {
        Self { name: other.name.clone(), addr: other.addr, pid: other.pid, _envoy: None }
    }
}

impl FromStr for Module {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, path) = text.split_once('=').context("it must be name=path")?;
        Ok(Self { name: name.to_owned(), path: path.into() })
    }
}

impl FromStr for Other {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, rest) = text.split_once('=').context("it must be name=host:port[,pid]")?;
        let (addr, pid) = match rest.split_once(',') {
            Some((addr, pid)) => (addr, Some(pid.parse().context("the pid is no number")?)),
            None => (rest, None),
        };
        let addr = addr.parse().with_context(|| format!("{addr} is no IP address and port"))?;
        Ok(Self { name: name.to_owned(), addr, pid })
    }
}

fn native(profile: Profile, cluster: &RedisCluster, mirror: &RedisServer) -> EnvoyOptions {
    let (policy, mirrors) = match profile {
        Profile::Plain => ("MASTER", json!([])),
        Profile::ReplicasAndMirror => {
            ("REPLICA", json!([{"cluster": "mirror", "exclude_read_commands": true}]))
        }
    };
    let seeds: Vec<Value> = cluster.nodes().iter().map(|node| endpoint(node.addr())).collect();
    let template = NATIVE
        .replace("@READ_POLICY@", policy)
        .replace("\"@MIRRORS@\"", &mirrors.to_string())
        .replace("\"@SEEDS@\"", &Value::from(seeds).to_string())
        .replace("\"@MIRROR_ENDPOINTS@\"", &json!([endpoint(mirror.addr())]).to_string());
    // Its template has no place for the module's configuration.
    let mut options = EnvoyOptions::new(PluginConfig::from_text(""));
    options.template = template.into();
    options
}

fn endpoint(addr: SocketAddr) -> Value {
    let (address, port) = (addr.ip().to_string(), addr.port());
    json!({"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}})
}

fn slotmesh(profile: Profile, cluster: &RedisCluster, mirror: &RedisServer) -> EnvoyOptions {
    let seeds = cluster.seeds();
    EnvoyOptions::new(match profile {
        Profile::Plain => PluginConfig::from_seeds(&seeds),
        Profile::ReplicasAndMirror => {
            PluginConfig::with_replicas_and_mirror(&seeds, &mirror.addr().to_string())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_proxy_is_named_with_its_address_and_perhaps_its_pid() {
        let other: Other = "envoy=127.0.0.1:6379,42".parse().unwrap();
        assert_eq!((other.name.as_str(), other.addr.port(), other.pid), ("envoy", 6379, Some(42)));
        let other: Other = "predixy=127.0.0.1:7617".parse().unwrap();
        assert_eq!(other.pid, None);
        assert!("127.0.0.1:7617".parse::<Other>().is_err());
    }
}
