//! What goes wrong, and how it ends.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use slotmesh_engine::Instant;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer, TempDir, locate,
};

use crate::client::Clock;
use crate::history::Loss;
use crate::network::{Network, Weather};
use crate::support::Random;

/// Time for a replica to take over; long, since tests share few cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long a fault lasts that ends by itself: shorter than [`NODE_TIMEOUT`].
const MOMENT: Duration = Duration::from_millis(1200);

/// How long the nodes wait for one of them before they elect another.
const NODE_TIMEOUT: Duration = Duration::from_millis(2500);

/// The time before its end in which what a primary acknowledges may not have reached its replica.
const REPLICATION_WINDOW: Duration = Duration::from_millis(500);

/// How long Envoy keeps clients of a listener that is no more.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// The proxy's time for a command.
pub(crate) const OP_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Nothing,
    /// A primary is killed with -9 and comes back before the others miss it.
    KillPrimary,
    /// The same with a replica.
    KillReplica,
    /// A primary is killed with -9 and comes back when its replica has taken its place.
    LosePrimary,
    /// A primary stops for a while: it is connected and silent.
    PausePrimary,
    /// A primary stops until its replica has taken its place, and then goes on.
    PauseUntilReplaced,
    /// A replica takes over in agreement with its primary.
    FailOver,
    /// Slots move to another primary, and back another time.
    Reshard,
    /// Every node closes all connections, again and again, in the middle of replies.
    CutConnections,
    /// What one primary sends and is sent has to pass this.
    Weather(Weather),
    /// Envoy gets another configuration of the module, as by a control plane.
    ReloadConfiguration,
    /// Envoy gets another build of the module.
    ReloadModule,
    /// Another Envoy takes over, and the first drains and ends.
    ReplaceEnvoy,
}

pub(crate) const FAULTS: [Fault; 16] = [
    Fault::Nothing,
    Fault::KillPrimary,
    Fault::KillReplica,
    Fault::PausePrimary,
    Fault::FailOver,
    Fault::Reshard,
    Fault::CutConnections,
    Fault::Weather(Weather::Loss),
    Fault::Weather(Weather::Silence),
    Fault::Weather(Weather::Reset),
    Fault::Weather(Weather::Delay),
    Fault::ReloadConfiguration,
    Fault::ReloadModule,
    Fault::ReplaceEnvoy,
    Fault::LosePrimary,
    Fault::PauseUntilReplaced,
];

impl Fault {
    /// Whether clients may lose their connections to the proxy.
    pub(crate) fn closes_clients(self) -> bool {
        matches!(self, Self::ReloadConfiguration | Self::ReloadModule | Self::ReplaceEnvoy)
    }

    /// Whether a primary may go on answering reads after another one has taken its place, since
    /// Redis lets it until it learns of that.
    pub(crate) fn lets_reads_be_stale(self) -> bool {
        matches!(self, Self::FailOver)
    }
}

/// All that can break.
pub(crate) struct Stage {
    pub(crate) cluster: RedisCluster,
    envoy: Mutex<Envoy>,
    /// Where clients find the proxy at the moment.
    pub(crate) proxy: Mutex<SocketAddr>,
    network: Option<Network>,
    clock: Clock,
    modules: TempDir,
}

impl Stage {
    pub(crate) fn set(network: Option<Network>, clock: Clock) -> Result<Self> {
        let options = ClusterOptions { node_timeout: NODE_TIMEOUT, ..ClusterOptions::default() };
        let cluster = RedisCluster::start(options)?;
        let envoy = Envoy::start_reloadable(envoy_options(&cluster))?;
        let (proxy, modules) = (Mutex::new(envoy.addr()), TempDir::new("chaos")?);
        Ok(Self { cluster, envoy: Mutex::new(envoy), proxy, network, clock, modules })
    }

    /// Whether the fault can happen here.
    pub(crate) fn allows(&self, fault: Fault) -> bool {
        !matches!(fault, Fault::Weather(_)) || self.network.is_some()
    }

    /// What Envoy has logged.
    pub(crate) fn log(&self) -> String {
        self.envoy.lock().unwrap().log()
    }

    /// Lets something go wrong, and mends it.
    ///
    /// # Errors
    /// It cannot be done, or not be mended.
    pub(crate) fn inflict(&self, fault: Fault, random: &mut Random) -> Result<Option<Loss>> {
        let primaries = self.cluster.primaries()?;
        let victim = primaries[random.below(primaries.len() as u64) as usize];
        let other = primaries.iter().find(|node| node.addr() != victim.addr()).context("alone")?;
        let before = self.cluster.members()?;
        let slots = before.iter().find(|member| member.addr == victim.addr().to_string());
        let slots = slots.context("the victim is no member")?.slots.clone();
        let began = self.clock.now();
        let mut last_words = None;
        match fault {
            Fault::Nothing => pass(MOMENT),
            Fault::KillPrimary => {
                victim.kill();
                victim.restart()?;
            }
            Fault::KillReplica => {
                let replica = self.replica_of(victim)?;
                replica.kill();
                pass(MOMENT);
                replica.restart()?;
            }
            Fault::LosePrimary => {
                let successor = self.replica_of(victim)?;
                victim.kill();
                // What it had answered may still be on its way to the client.
                last_words = Some(self.clock.now() + Duration::from_secs(1));
                wait_for_promotion(successor)?;
                victim.restart()?;
            }
            Fault::PausePrimary => {
                victim.pause()?;
                pass(MOMENT);
                victim.resume()?;
            }
            Fault::PauseUntilReplaced => {
                let successor = self.replica_of(victim)?;
                victim.pause()?;
                let promoted = wait_for_promotion(successor);
                victim.resume()?;
                promoted?;
            }
            Fault::FailOver => {
                let successor = self.replica_of(victim)?;
                successor.cli(&["CLUSTER", "FAILOVER"])?;
                wait_for_promotion(successor)?;
            }
            Fault::Reshard => self.cluster.reshard(150, victim, other)?,
            Fault::CutConnections => {
                for _ in 0..20 {
                    pass(MOMENT / 20);
                    for node in self.cluster.nodes() {
                        let mut kill = redis::cmd("CLIENT");
                        kill.arg("KILL").arg("TYPE").arg("normal").exec(&mut node.connect()?)?;
                    }
                }
            }
            Fault::Weather(weather) => {
                let network = self.network.as_ref().context("no network of our own")?;
                network.begin(weather, victim.addr())?;
                pass(MOMENT);
                network.end(weather, victim.addr())?;
            }
            Fault::ReloadConfiguration => self.reload(None)?,
            Fault::ReloadModule => self.reload(Some(self.another_build()?))?,
            Fault::ReplaceEnvoy => self.replace_envoy()?,
        }
        self.cluster.wait_until_ready()?;
        // Also a fault that was meant to be short may last too long for the other nodes.
        let replaced = self.cluster.primaries()?.iter().all(|node| node.addr() != victim.addr());
        let lossless = matches!(fault, Fault::FailOver);
        Ok((replaced && !lossless).then(|| {
            let window = REPLICATION_WINDOW.as_nanos() as u64;
            let from = Instant::from_nanos(began.as_nanos().saturating_sub(window));
            let to = last_words.unwrap_or_else(|| self.clock.now());
            Loss { slots, acknowledged: from..to }
        }))
    }

    fn replica_of(&self, primary: &RedisServer) -> Result<&RedisServer> {
        let replicas = self.cluster.replicas_of(primary)?;
        replicas.first().copied().context("a primary has no replica")
    }

    /// Another configuration, with or without another module, while clients of the last are
    /// connected; waits until these have been closed.
    fn reload(&self, wasm: Option<PathBuf>) -> Result<()> {
        let mut envoy = self.envoy.lock().unwrap();
        envoy.reload(configuration(&self.cluster, self.clock.now().as_nanos()), wasm)?;
        until("the old listener to be drained", PATIENCE, || {
            let draining =
                envoy.stats()?.get("listener_manager.total_filter_chains_draining").copied();
            Ok(match draining {
                Some(0) => Probe::Ready(()),
                other => Probe::NotYet(format!("{other:?} filter chains are draining")),
            })
        })
    }

    /// The module with a section more, which says nothing and makes it another one.
    fn another_build(&self) -> Result<PathBuf> {
        let mut module = fs::read(locate::wasm()?)?;
        let section = format!("{:020}", self.clock.now().as_nanos());
        module.extend([0, section.len() as u8 + 1, section.len() as u8]);
        module.extend(section.as_bytes());
        let path = self.modules.path().join(format!("{section}.wasm"));
        fs::write(&path, module)?;
        Ok(path)
    }

    fn replace_envoy(&self) -> Result<()> {
        let next = Envoy::start_reloadable(envoy_options(&self.cluster))?;
        *self.proxy.lock().unwrap() = next.addr();
        let mut envoy = self.envoy.lock().unwrap();
        let last = std::mem::replace(&mut *envoy, next);
        last.drain()?;
        pass(DRAIN_TIME);
        check_log(&last.log())?;
        last.terminate()
    }
}

/// Fails if a VM has died: its clients are closed, and so are new ones.
pub(crate) fn check_log(log: &str) -> Result<()> {
    let is_error = |line: &&str| line.contains("[error]") || line.contains("[critical]");
    let errors: Vec<&str> = log.lines().filter(is_error).collect();
    ensure!(errors.is_empty(), "Envoy says: {}", errors.join("\n"));
    Ok(())
}

fn envoy_options(cluster: &RedisCluster) -> EnvoyOptions {
    let mut options = EnvoyOptions::new(configuration(cluster, 0));
    options.drain_time = DRAIN_TIME;
    options
}

/// One that differs from those with other numbers, and means the same.
fn configuration(cluster: &RedisCluster, number: u64) -> PluginConfig {
    let config = json!({
        "stat_prefix": format!("chaos{number}"),
        "settings": {"op_timeout": format!("{}s", OP_TIMEOUT.as_secs())},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": cluster.seeds()}},
    });
    PluginConfig::from_text(config.to_string())
}

fn wait_for_promotion(successor: &RedisServer) -> Result<()> {
    until("the replica to take over", PATIENCE, || {
        let role: Vec<redis::Value> = redis::cmd("ROLE").query(&mut successor.connect()?)?;
        let role = role.into_iter().next();
        Ok(match role == Some(redis::Value::BulkString(b"master".to_vec())) {
            true => Probe::Ready(()),
            false => Probe::NotYet(format!("{} is {role:?}", successor.addr())),
        })
    })
}

/// Lets a fault last.
fn pass(time: Duration) {
    thread::sleep(time);
}
