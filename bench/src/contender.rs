//! The proxies that are measured: Slotmesh, Envoy's own redis_proxy on the same binary, and any
//! other, by its address or by its command line.

use std::any::Any;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use slotmesh_testbed::process::Process;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ENVOY_CLUSTER, Envoy, EnvoyOptions, PluginConfig, Port, RedisCluster, RedisServer, TempDir,
};

use crate::door;
use crate::load::Profile;

/// Envoy with redis_proxy.
const NATIVE: &str = include_str!("../native.yaml");

/// What ratios are taken to.
pub(crate) const NATIVE_NAME: &str = "redis_proxy";

/// What is held to the targets.
pub(crate) const OWN_NAME: &str = "slotmesh";

/// Slotmesh as Istio has it for one Service.
const DOOR_NAME: &str = "slotmesh, door";

/// For another proxy to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// A proxy under test.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    /// Whose CPU time and memory are read; `None` if that is not known.
    pub(crate) pid: Option<u32>,
    /// Whether it is certain that it is before our cluster.
    pub(crate) is_before_our_cluster: bool,
    /// What ends when the contender goes.
    _running: Box<dyn Any>,
}

/// Another build of the module: `name=path`.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    name: String,
    path: PathBuf,
}

/// Another proxy.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Other {
    name: String,
    place: Place,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Place {
    /// It runs already.
    Running { addr: SocketAddr, pid: Option<u32> },
    /// A command for the shell. It must listen on `127.0.0.1:$PORT`; `$SEEDS` has the cluster's
    /// nodes.
    Command(String),
}

impl Contender {
    /// The Envoys of a profile, with one worker each: redis_proxy, the module that `make wasm`
    /// built, the same behind a door, and other builds of it.
    pub(crate) fn start_all(
        profile: Profile,
        modules: &[Module],
        cluster: &RedisCluster,
        mirror: &RedisServer,
    ) -> Result<Vec<Self>> {
        let slotmesh = slotmesh(profile, cluster, mirror);
        let mut all = vec![
            Self::start(NATIVE_NAME, native(profile, cluster, mirror))?,
            Self::start(OWN_NAME, slotmesh.clone())?,
        ];
        if profile == Profile::Plain {
            let template = door::put_before(&slotmesh.template)?.into();
            all.push(Self::start(DOOR_NAME, EnvoyOptions { template, ..slotmesh.clone() })?);
        }
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
        let (name, _running) = (name.to_owned(), Box::new(envoy));
        Ok(Self { name, addr, pid, is_before_our_cluster: true, _running })
    }

    /// Another proxy, which is started if it does not run yet.
    pub(crate) fn other(other: &Other, cluster: &RedisCluster) -> Result<Self> {
        let name = other.name.clone();
        match &other.place {
            Place::Running { addr, pid } => Ok(Self {
                name,
                addr: *addr,
                pid: *pid,
                is_before_our_cluster: false,
                _running: Box::new(()),
            }),
            Place::Command(line) => {
                let started = Self::start_command(name, line, &cluster.seeds());
                started.with_context(|| format!("starting {}", other.name))
            }
        }
    }

    fn start_command(name: String, line: &str, seeds: &[String]) -> Result<Self> {
        let (port, dir) = (Port::free()?, TempDir::new("other")?);
        // The shell makes room for the program, so that its pid is the program's.
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec {line}")]);
        command.env("PORT", port.number().to_string()).env("SEEDS", seeds.join(","));
        let mut process = Process::start(command, &dir.path().join("log"))?;
        let (addr, pid) = (port.addr(), Some(process.pid()));
        until(&format!("{name} to listen on {addr}"), PATIENCE, || {
            if let Some(status) = process.exited()? {
                bail!("it ended with {status}: {}", process.log().trim_end());
            }
            Ok(Probe::retry(TcpStream::connect(addr).map_err(Into::into)))
        })?;
        let _running = Box::new((process, port, dir));
        Ok(Self { name, addr, pid, is_before_our_cluster: false, _running })
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
        let (name, rest) =
            text.split_once('=').context("it must be name=host:port[,pid] or name=command")?;
        let (addr, pid) = match rest.split_once(',') {
            Some((addr, pid)) => (addr, pid.parse().map(Some).ok()),
            None => (rest, Some(None)),
        };
        let place = match (addr.parse(), pid) {
            (Ok(addr), Some(pid)) => Place::Running { addr, pid },
            (Ok(_), None) => bail!("the pid in {rest} is no number"),
            (Err(_), _) => Place::Command(rest.to_owned()),
        };
        Ok(Self { name: name.to_owned(), place })
    }
}

fn native(profile: Profile, cluster: &RedisCluster, mirror: &RedisServer) -> EnvoyOptions {
    let is_article = profile == Profile::Article;
    let (policy, mirrors) = match is_article {
        true => ("REPLICA", json!([{"cluster": "mirror", "exclude_read_commands": true}])),
        false => ("MASTER", json!([])),
    };
    let protocol = if profile == Profile::Resp3 { "RESP3" } else { "RESP2" };
    let seeds: Vec<Value> = cluster.nodes().iter().map(|node| endpoint(node.addr())).collect();
    let template = NATIVE
        .replace("@READ_POLICY@", policy)
        .replace("@COMMAND_STATS@", &is_article.to_string())
        .replace("@PROTOCOL_VERSION@", protocol)
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
        Profile::Plain | Profile::Resp3 => PluginConfig::from_seeds(&seeds),
        Profile::Article => article(&seeds, &mirror.addr().to_string()),
    })
}

fn article(seeds: &[String], mirror: &str) -> PluginConfig {
    let config = json!({
        "settings": {
            "op_timeout": "5s",
            "enable_redirection": true,
            "enable_command_stats": true,
            "read_policy": "REPLICA",
        },
        "prefix_routes": {"catch_all_route": {
            "cluster": "redis",
            "request_mirror_policy": [{"cluster": "mirror", "exclude_read_commands": true}],
        }},
        "clusters": {
            "redis": {"seeds": seeds, "envoy_cluster": ENVOY_CLUSTER},
            "mirror": {"type": "STANDALONE", "seeds": [mirror], "envoy_cluster": ENVOY_CLUSTER},
        },
    });
    PluginConfig::from_text(config.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_proxy_is_named_with_its_address_and_perhaps_its_pid() {
        let place = |text: &str| text.parse::<Other>().unwrap().place;
        let addr = "127.0.0.1:6379".parse().unwrap();
        let pid = Some(42);
        assert_eq!(place("envoy=127.0.0.1:6379,42"), Place::Running { addr, pid });
        assert_eq!(place("predixy=127.0.0.1:6379"), Place::Running { addr, pid: None });
        assert!("predixy=127.0.0.1:6379,x".parse::<Other>().is_err());
        assert!("127.0.0.1:6379".parse::<Other>().is_err());
    }

    #[test]
    fn another_proxy_is_started_from_its_command_line_and_stopped() {
        let other: Other = "redis=redis-server --port $PORT --save ''".parse().unwrap();
        let Place::Command(line) = other.place else { panic!("no command") };
        let contender = Contender::start_command(other.name, &line, &[]).unwrap();
        let name = std::fs::read_to_string(format!("/proc/{}/comm", contender.pid.unwrap()));
        assert_eq!(name.unwrap().trim_end(), "redis-server");
        let addr = contender.addr;
        assert!(TcpStream::connect(addr).is_ok());
        drop(contender);
        assert!(TcpStream::connect(addr).is_err());
    }

    #[test]
    fn another_proxy_that_ends_at_once_says_why() {
        let error = Contender::start_command("x".to_owned(), "ls /no/such/file", &[]);
        let error = format!("{:#}", error.err().unwrap());
        assert!(error.contains("No such file"), "{error}");
    }
}
