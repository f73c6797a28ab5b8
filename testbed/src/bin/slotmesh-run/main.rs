//! `slotmesh-run`: what `make demo`, `make compare`, `make envoy` and `make host` run.

mod check;
mod compare;
mod demo;
mod walk;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use slotmesh_testbed::{
    Envoy, EnvoyOptions, Host, HostOptions, PluginConfig, locate, upstream_tls, wait,
};

/// Runs Slotmesh before a Redis Cluster.
#[derive(Parser)]
#[command(name = "slotmesh-run")]
struct Cli {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Starts a Redis Cluster, a mirror and Envoy, walks through sharding, reads from replicas and
    /// mirroring, checks every step.
    Demo,
    /// Looks for redis_proxy's defects in it and in Slotmesh, and writes down what it saw.
    Compare {
        /// Where it is written down.
        #[arg(long)]
        output: PathBuf,
        /// Only these defects, by their numbers; shown instead of written down.
        #[arg(long, value_delimiter = ',')]
        only: Vec<u8>,
    },
    /// Runs Envoy with the module before an existing Redis Cluster until interrupted.
    Envoy {
        #[command(flatten)]
        proxy: ProxyArgs,
        /// Worker threads of Envoy.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
        concurrency: u32,
        /// Port of Envoy's admin interface on loopback; a free one if not given.
        #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
        admin_port: Option<u16>,
        /// Variables of this environment that the configuration's secrets are read from.
        #[arg(long, value_delimiter = ',')]
        env: Vec<String>,
        /// A file with the authorities of Redis' certificates: nodes are reached by TLS.
        #[arg(long)]
        tls_ca: Option<PathBuf>,
        /// A file with a certificate to show to Redis.
        #[arg(long, requires_all = ["tls_ca", "tls_key"])]
        tls_cert: Option<PathBuf>,
        /// A file with that certificate's key.
        #[arg(long, requires = "tls_cert")]
        tls_key: Option<PathBuf>,
    },
    /// Runs our own host with the module before an existing Redis Cluster until interrupted.
    Host {
        #[command(flatten)]
        proxy: ProxyArgs,
    },
    /// Walks through a deployment that runs already, wherever: each part is a command line that
    /// reaches it with redis-cli. The proxy must read from replicas and copy writes to the mirror.
    Walk {
        /// Reaches the proxy: "kubectl exec -i client -- redis-cli -h redis".
        #[arg(long)]
        proxy: String,
        /// Reaches one node; once for each node of the cluster.
        #[arg(long = "node", required = true)]
        nodes: Vec<String>,
        /// Reaches the mirror.
        #[arg(long)]
        mirror: String,
        /// Removes all keys of the cluster first.
        #[arg(long)]
        erase: bool,
    },
}

#[derive(Args)]
struct ProxyArgs {
    /// Nodes of the cluster, as host:port,host:port; any one that is up is enough.
    #[arg(long, value_delimiter = ',', required_unless_present = "config")]
    seeds: Vec<String>,
    /// A file with a full plugin configuration; it names the seeds itself.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Port for clients.
    #[arg(long, default_value_t = 6379, value_parser = clap::value_parser!(u16).range(1..))]
    port: u16,
    /// Address for clients.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
}

impl ProxyArgs {
    fn listen(&self) -> SocketAddr {
        (self.bind, self.port).into()
    }

    /// The configuration to run with.
    fn configuration(&self) -> Result<PluginConfig> {
        let config = match &self.config {
            Some(path) => PluginConfig::from_file(path).context("CONFIG")?,
            None => {
                check::seeds_are_well_formed(&self.seeds)?;
                PluginConfig::from_seeds(&self.seeds)
            }
        };
        if self.config.is_some() && !self.seeds.is_empty() {
            eprintln!("warning: CONFIG names the seeds itself; SEEDS is not used");
        }
        let seeds = config.seeds()?;
        ensure!(!seeds.is_empty(), "there is no seed: set SEEDS=host:port,host:port");
        Ok(config)
    }
}

fn main() -> ExitCode {
    match run(Cli::parse().action) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(action: Action) -> Result<()> {
    wait::stop_on_signals()?;
    match action {
        Action::Demo => demo::run(),
        Action::Compare { output, only } => compare::run(&output, &only),
        Action::Envoy { proxy, concurrency, admin_port, env, tls_ca, tls_cert, tls_key } => {
            check::is_free("PORT", proxy.listen())?;
            if let Some(port) = admin_port {
                check::is_free("ADMIN_PORT", (Ipv4Addr::LOCALHOST, port).into())?;
            }
            for name in &env {
                ensure!(std::env::var_os(name).is_some(), "ENV: {name} is not set");
            }
            let mut options = EnvoyOptions::new(proxy.configuration()?);
            options.host_environment = env;
            if tls_ca.is_none() {
                warn_of_unreachable(&options.configuration)?;
            }
            if let Some(ca) = tls_ca {
                let identity = tls_cert.zip(tls_key);
                let identity = match &identity {
                    Some((cert, key)) => Some((file(cert)?, file(key)?)),
                    None => None,
                };
                options.transport_socket = Some(upstream_tls(&file(&ca)?, identity));
            }
            options.concurrency = concurrency;
            options.listen = Some(proxy.listen());
            options.admin_port = admin_port;
            options.bootstrap = Some(bootstrap_path(proxy.port)?);
            eprintln!("starting Envoy ({concurrency} workers)");
            let envoy = Envoy::start(options.clone())?;
            announce(envoy.addr());
            eprintln!("  admin      http://{}", envoy.admin());
            if let Some(path) = options.bootstrap {
                eprintln!("  bootstrap  {}", path.display());
            }
            envoy.follow()
        }
        Action::Host { proxy } => {
            check::is_free("PORT", proxy.listen())?;
            let mut options = HostOptions::new(proxy.configuration()?);
            warn_of_unreachable(&options.configuration)?;
            options.listen = Some(proxy.listen());
            eprintln!("starting slotmesh-host");
            let host = Host::start(options)?;
            announce(host.addr());
            host.follow()
        }
        Action::Walk { proxy, nodes, mirror, erase } => walk::run(&proxy, &nodes, &mirror, erase),
    }
}

fn announce(addr: SocketAddr) {
    eprintln!("serving on {addr}; Ctrl-C stops it");
    eprintln!("  try        redis-cli -p {} SET a a", addr.port());
}

/// A seed that does not answer is a warning, even if none does: a proxy may be started before the
/// Redis it stands for, and connects once there is one.
fn warn_of_unreachable(config: &PluginConfig) -> Result<()> {
    check::warn_of_unreachable(&config.seeds()?);
    Ok(())
}

/// A file as Envoy's DataSource.
fn file(path: &Path) -> Result<Value> {
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    Ok(json!({"filename": path}))
}

/// Where the bootstrap stays to be read: one file for each port, so that two can run.
fn bootstrap_path(port: u16) -> Result<PathBuf> {
    let dir = locate::workspace().canonicalize()?.join("target/run");
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    Ok(dir.join(format!("envoy-{port}.yaml")))
}
