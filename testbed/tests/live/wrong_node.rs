//! A primary is killed while clients write, and a Redis answers at its address before the replica
//! has taken over: another one, or the same one again.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::json;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, Member, PluginConfig, Port, RedisCluster, RedisServer,
};

use crate::support::{Client, StopOnDrop, slot};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster of which nobody answers is taken for replaced sooner than this.
const UNTIL_REPLACED: Duration = Duration::from_secs(20);

const WRITERS: usize = 8;

/// Writes that each client begins, or has acknowledged, before a step is over.
const SOME: usize = 3;

/// The replica connects to the stranger as well, and would copy its empty data: it does not ask who
/// answers at its primary's address.
const NO_REPLICATION: [&str; 6] = ["--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""];

/// Sets each key once, to its number.
struct Writer<'a> {
    envoy: &'a Envoy,
    tag: String,
    stop: &'a AtomicBool,
    begun: AtomicUsize,
    acknowledged: Mutex<Vec<usize>>,
    errors: Mutex<Vec<String>>,
}

impl Writer<'_> {
    fn write(&self) {
        let _stop = StopOnDrop(self.stop);
        let mut client = Client::connect(self.envoy.addr());
        while !self.stop.load(Ordering::Relaxed) {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            match &client.call(&["SET", &self.key(number), &number.to_string()])[..] {
                b"+OK\r\n" => lock(&self.acknowledged).push(number),
                error => lock(&self.errors).push(error.escape_ascii().to_string()),
            }
        }
    }

    fn key(&self, number: usize) -> String {
        format!("{{{}}}:{number}", self.tag)
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    fn acknowledged_since(&self, first: usize) -> usize {
        lock(&self.acknowledged).iter().filter(|number| **number >= first).count()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Clients that write to one shard, whose replica does not take over before it is told.
struct Scene<'a> {
    envoy: &'a Envoy,
    writers: Vec<Writer<'a>>,
    primary: &'a RedisServer,
    /// The primary, as the cluster knew it.
    member: &'a Member,
    replica: &'a RedisServer,
}

/// Writes of each client that may be lost with the primary, for replication is asynchronous: those
/// that were under way when it was killed, or were acknowledged shortly before.
type Unsure = Vec<Range<usize>>;

impl Scene<'_> {
    /// Waits until `is_done` for each client. Fails as soon as `still` does.
    fn wait_for(
        &self,
        what: &str,
        is_done: impl Fn(usize, &Writer<'_>) -> bool,
        still: impl Fn() -> anyhow::Result<()>,
    ) {
        until(what, PATIENCE, || {
            still()?;
            let waiting = self.writers.iter().enumerate().find(|(at, one)| !is_done(*at, one));
            let Some((at, writer)) = waiting else { return Ok(Probe::Ready(())) };
            ensure!(!writer.stop.load(Ordering::Relaxed), "a client has failed");
            let errors = lock(&writer.errors);
            let (begun, last) = (writer.begun(), errors.last());
            Ok(Probe::NotYet(format!("client {at}: {begun} writes, last error: {last:?}")))
        })
        .unwrap();
    }

    /// Waits until each client has had more writes acknowledged.
    fn wait_for_writes(&self) {
        let begun: Vec<usize> = self.writers.iter().map(Writer::begun).collect();
        let is_done = |at: usize, one: &Writer<'_>| one.acknowledged_since(begun[at]) >= SOME;
        self.wait_for("writes to be served", is_done, || Ok(()));
    }

    fn kill_primary(&self) -> Unsure {
        let last = |writer: &Writer<'_>| *lock(&writer.acknowledged).last().unwrap();
        let sure: Vec<usize> = self.writers.iter().map(last).collect();
        let mut replica = self.replica.connect().unwrap();
        redis::cmd("READONLY").exec(&mut replica).unwrap();
        let mut has = |key: String| -> redis::RedisResult<bool> {
            redis::cmd("EXISTS").arg(key).query(&mut replica)
        };
        until("the replica to have what was acknowledged", PATIENCE, || {
            for (writer, sure) in self.writers.iter().zip(&sure) {
                if !has(writer.key(*sure))? {
                    return Ok(Probe::NotYet(writer.key(*sure)));
                }
            }
            Ok(Probe::Ready(()))
        })
        .unwrap();
        self.primary.kill();
        self.writers.iter().zip(sure).map(|(writer, sure)| sure + 1..writer.begun()).collect()
    }

    /// What the module has counted.
    fn counter(&self, name: &str) -> Option<u64> {
        let stats = self.envoy.stats().unwrap();
        stats.get(&format!("wasmcustom.redis.redis.{name}")).copied()
    }

    /// What has never happened is not listed.
    fn wrong_nodes(&self) -> u64 {
        self.counter("cluster.redis.upstream_cx_wrong_node").unwrap_or(0)
    }

    /// The clients go on while `stranger` answers at the primary's address. It gets no write, is
    /// counted, and errors tell of it.
    fn write_beside(&self, stranger: &RedisServer, unsure: &Unsure) {
        let reason = format!("it is not node {}: ", self.member.id);
        let begun: Vec<usize> = self.writers.iter().map(Writer::begun).collect();
        let is_told = |at: usize, writer: &Writer<'_>| {
            let told = lock(&writer.errors).iter().any(|error| error.contains(&reason));
            told && writer.begun() >= begun[at] + SOME
        };
        self.wait_for("errors that tell of the stranger", is_told, || {
            self.ensure_untouched(stranger, unsure)
        });
        until("the stranger to be counted", PATIENCE, || {
            Ok(match self.wrong_nodes() {
                0 => Probe::NotYet("no connection to a wrong node".to_owned()),
                _ => Probe::Ready(()),
            })
        })
        .unwrap();
        self.check_logged();
    }

    /// Operators are told.
    fn check_logged(&self) {
        let (address, id) = (self.primary.addr(), &self.member.id);
        let log = self.envoy.log();
        let tells = |line: &str| {
            line.contains(&address.to_string()) && line.contains(&format!("it is not node {id}: "))
        };
        assert!(log.lines().any(tells), "the log does not say that {address} is not {id}:\n{log}");
    }

    fn ensure_untouched(&self, stranger: &RedisServer, unsure: &Unsure) -> anyhow::Result<()> {
        let since =
            |(writer, unsure): (&Writer<'_>, &Range<usize>)| writer.acknowledged_since(unsure.end);
        let acknowledged: usize = self.writers.iter().zip(unsure).map(since).sum();
        ensure!(acknowledged == 0, "{acknowledged} writes were acknowledged by a stranger");
        ensure_no_write(stranger)
    }

    /// Every write that was acknowledged is there, but for some that were `unsure`.
    fn check_kept(&self, owner: &RedisServer, unsure: &Unsure) {
        let mut owner = owner.connect().unwrap();
        let (mut total, mut lost) = (0, 0);
        for (writer, unsure) in self.writers.iter().zip(unsure) {
            let acknowledged = lock(&writer.acknowledged);
            let keys: Vec<String> = acknowledged.iter().map(|one| writer.key(*one)).collect();
            let values: Vec<Option<usize>> =
                redis::cmd("MGET").arg(&keys).query(&mut owner).unwrap();
            for (number, value) in acknowledged.iter().zip(values) {
                let is_kept = value == Some(*number);
                let key = writer.key(*number);
                assert!(is_kept || unsure.contains(number), "{key} was acknowledged: {value:?}");
                lost += usize::from(!is_kept);
            }
            total += acknowledged.len();
        }
        eprintln!(
            "{total} acknowledged writes, {lost} lost with the primary; {} wrong connections",
            self.wrong_nodes()
        );
    }
}

/// No SET has come, nor been refused.
fn ensure_no_write(server: &RedisServer) -> anyhow::Result<()> {
    let mut connection = server.connect()?;
    let keys: usize = redis::cmd("DBSIZE").query(&mut connection)?;
    let commands: String = redis::cmd("INFO").arg("commandstats").query(&mut connection)?;
    let sets = commands.lines().find(|line| line.starts_with("cmdstat_set:"));
    ensure!(keys == 0 && sets.is_none(), "the stranger has {keys} keys, {sets:?}");
    Ok(())
}

/// Runs `change` while clients write to a shard, and the replica has their writes.
fn while_clients_write(change: impl FnOnce(&Scene<'_>)) {
    let cluster = RedisCluster::start(ClusterOptions {
        node_timeout: Duration::from_secs(2),
        // However old its data are.
        redis_args: ["--cluster-replica-validity-factor", "0"].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    })
    .unwrap();
    let config = json!({
        "settings": {"op_timeout": "1s"},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": cluster.seeds()}},
    });
    let config = PluginConfig::from_text(config.to_string());
    let envoy = Envoy::start(EnvoyOptions::new(config)).unwrap();
    let primary = cluster.primaries().unwrap()[1];
    let [replica] = cluster.replicas_of(primary).unwrap()[..] else { panic!("not one replica") };
    may_take_over(replica, false);
    let address = primary.addr().to_string();
    let members = cluster.members().unwrap();
    let member = members.iter().find(|member| member.addr == address).unwrap();

    let stop = AtomicBool::new(false);
    let tags = (0..).map(|index| format!("t{index}")).filter(|tag| member.owns(slot(tag)));
    let writer = |tag| Writer {
        envoy: &envoy,
        tag,
        stop: &stop,
        begun: AtomicUsize::new(0),
        acknowledged: Mutex::default(),
        errors: Mutex::default(),
    };
    let writers = tags.take(WRITERS).map(writer).collect();
    let scene = Scene { envoy: &envoy, writers, primary, member, replica };
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for writer in &scene.writers {
            scope.spawn(|| writer.write());
        }
        scene.wait_for_writes();
        change(&scene);
    });
}

fn may_take_over(replica: &RedisServer, may: bool) {
    let answer = if may { "no" } else { "yes" };
    let mut config = redis::cmd("CONFIG");
    config.arg("SET").arg("cluster-replica-no-failover").arg(answer);
    config.exec(&mut replica.connect().unwrap()).unwrap();
}

#[test]
fn a_standalone_redis_at_the_address_of_a_dead_primary_gets_no_write() {
    while_clients_write(|scene| {
        let unsure = scene.kill_primary();
        let stranger = RedisServer::start_in_place_of(scene.primary, &NO_REPLICATION).unwrap();
        scene.write_beside(&stranger, &unsure);
        take_over_beside(scene, &stranger, &unsure);
    });
}

#[test]
fn a_node_of_another_cluster_at_the_address_of_a_dead_primary_gets_no_write() {
    let bus = Port::free().unwrap();
    while_clients_write(|scene| {
        let unsure = scene.kill_primary();
        let stranger = start_node(scene.primary, bus.number());
        give_all_slots(&stranger);
        scene.write_beside(&stranger, &unsure);
        take_over_beside(scene, &stranger, &unsure);
    });
}

/// As in Kubernetes, where a whole address is used again. The other nodes see another id at the bus
/// and no longer tell an address of the primary, however long that lasts.
#[test]
fn a_node_of_another_cluster_at_the_whole_address_of_a_dead_primary_gets_no_write() {
    while_clients_write(|scene| {
        let unsure = scene.kill_primary();
        let stranger = start_node(scene.primary, scene.primary.bus_port().unwrap());
        give_all_slots(&stranger);
        scene.write_beside(&stranger, &unsure);
        let begin = Instant::now();
        let is_over = |_, _: &Writer<'_>| begin.elapsed() > UNTIL_REPLACED;
        scene.wait_for("the cluster not to be taken for replaced", is_over, || {
            scene.ensure_untouched(&stranger, &unsure)
        });
        // The other shards are served, also by an Envoy that has just started.
        let seeds = [scene.replica.addr().to_string()];
        let fresh = Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&seeds))).unwrap();
        let is_elsewhere = |key: &String| !scene.member.owns(slot(key));
        let key = (0..).map(|index| format!("k{index}")).find(is_elsewhere).unwrap();
        for envoy in [scene.envoy, &fresh] {
            let reply = Client::connect(envoy.addr()).call(&["SET", &key, "1"]);
            assert_eq!(reply.escape_ascii().to_string(), r"+OK\r\n", "SET {key}");
        }
        ensure_no_write(&stranger).unwrap();
    });
}

fn give_all_slots(server: &RedisServer) {
    let slots = ["CLUSTER", "ADDSLOTSRANGE", "0", "16383"];
    assert_eq!(server.cli(&slots).unwrap().trim(), "OK");
    until("the other cluster to take writes", PATIENCE, || {
        let info = server.cli(&["CLUSTER", "INFO"])?;
        Ok(match info.contains("cluster_state:ok") {
            true => Probe::Ready(()),
            false => Probe::NotYet(info),
        })
    })
    .unwrap();
}

/// The other nodes see another id at its address and forget the address. They never call it failed,
/// so somebody has to promote the replica.
#[test]
fn a_primary_that_comes_back_without_its_id_gets_no_write() {
    while_clients_write(|scene| {
        let unsure = scene.kill_primary();
        let bus = scene.primary.bus_port().unwrap();
        let stranger = start_node(scene.primary, bus);
        scene.write_beside(&stranger, &unsure);
        let takeover = scene.replica.cli(&["CLUSTER", "FAILOVER", "TAKEOVER"]).unwrap();
        assert_eq!(takeover.trim(), "OK");
        scene.wait_for_writes();
        ensure_no_write(&stranger).unwrap();
        scene.check_kept(scene.replica, &unsure);
    });
}

#[test]
fn a_primary_that_comes_back_with_its_id_is_served_again() {
    while_clients_write(|scene| {
        scene.kill_primary();
        scene.primary.restart().unwrap();
        scene.wait_for_writes();
        // It has every write in its file.
        scene.check_kept(scene.primary, &vec![0..0; WRITERS]);
        let commands = scene.primary.cli(&["INFO", "commandstats"]).unwrap();
        assert!(commands.contains("cmdstat_cluster|myid:calls="), "{commands}");
        // What was counted before these writes is in the same report, or in an earlier one.
        let acknowledged: usize =
            scene.writers.iter().map(|writer| lock(&writer.acknowledged).len()).sum();
        until("the writes to be counted", PATIENCE, || {
            Ok(match scene.counter("command.set.success") {
                Some(count) if count >= acknowledged as u64 => Probe::Ready(()),
                count => Probe::NotYet(format!("{count:?} of {acknowledged}")),
            })
        })
        .unwrap();
        assert_eq!(scene.wrong_nodes(), 0);
        let log = scene.envoy.log();
        assert!(!log.contains("it is not node"), "{log}");
    });
}

/// A cluster node that belongs to no cluster yet, at the address of one that was killed.
fn start_node(gone: &RedisServer, bus: u16) -> RedisServer {
    let bus = bus.to_string();
    let mut args = vec!["--cluster-enabled", "yes", "--cluster-port", &bus];
    args.extend(NO_REPLICATION);
    RedisServer::start_in_place_of(gone, &args).unwrap()
}

/// The replica takes over while a stranger that would take writes answers at the old address.
fn take_over_beside(scene: &Scene<'_>, stranger: &RedisServer, unsure: &Unsure) {
    may_take_over(scene.replica, true);
    scene.wait_for_writes();
    ensure_no_write(stranger).unwrap();
    scene.check_kept(scene.replica, unsure);
    let key = scene.writers[0].key(0);
    assert_eq!(stranger.cli(&["SET", &key, "stray"]).unwrap().trim(), "OK");
}
