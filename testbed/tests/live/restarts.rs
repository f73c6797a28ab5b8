//! Pods of istio/k8s/redis-cluster that stop and come back: their scripts, and what clients of
//! Slotmesh see.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use slotmesh_testbed::process::run;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Envoy, EnvoyOptions, PluginConfig, TempDir, locate};

use crate::support::pods::{ALL, NETWORKS, Pods, address, program};
use crate::support::{Client, StopOnDrop};

const PATIENCE: Duration = Duration::from_secs(120);

/// A real mesh is held to 0.5 s; the rest is for a busy machine.
const SHORT: Duration = Duration::from_secs(2);

/// What takes longer gets an error.
const OP_TIMEOUT: Duration = Duration::from_secs(5);

/// Keys of each client: those that it writes again and again, and those that it only reads.
const KEYS: usize = 200;

/// What a client saw.
#[derive(Default)]
struct Seen {
    commands: usize,
    errors: Vec<String>,
    longest_pause: Duration,
    /// What was acknowledged last.
    values: HashMap<String, String>,
}

/// Writes and reads until `stop`. A read key has the value that it has had before.
fn load(proxy: SocketAddr, number: usize, stop: &AtomicBool, commands: &AtomicUsize) -> Seen {
    let mut client = Client::connect(proxy);
    let mut seen = Seen::default();
    let mut last = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let round = seen.commands / 2;
        let (key, value) = (format!("w{number}:{}", round % KEYS), round.to_string());
        let reply = client.call(&["SET", &key, &value]);
        if reply == b"+OK\r\n" {
            seen.values.insert(key, value);
        } else {
            seen.errors.push(format!("SET: {}", reply.escape_ascii()));
        }
        let reply = client.call(&["GET", &format!("r{number}:{}", round % KEYS)]);
        if reply != b"$1\r\nr\r\n" {
            seen.errors.push(format!("GET: {}", reply.escape_ascii()));
        }
        seen.commands += 2;
        commands.fetch_add(2, Ordering::Relaxed);
        seen.longest_pause = seen.longest_pause.max(last.elapsed());
        last = Instant::now();
    }
    seen
}

fn write_what_is_read(proxy: SocketAddr, clients: usize) {
    let mut client = Client::connect(proxy);
    for number in 0..clients {
        for key in 0..KEYS {
            assert_eq!(client.call(&["SET", &format!("r{number}:{key}"), "r"]), b"+OK\r\n");
        }
    }
}

/// Replicas answer the reads, and may be a moment behind.
fn check_that_nothing_is_lost(proxy: SocketAddr, seen: &[Seen]) {
    let mut client = Client::connect(proxy);
    for (key, value) in seen.iter().flat_map(|seen| &seen.values) {
        let expected = format!("${}\r\n{value}\r\n", value.len());
        until("an acknowledged write", Duration::from_secs(5), || {
            let reply = client.call(&["GET", key]);
            Ok(match reply == expected.as_bytes() {
                true => Probe::Ready(()),
                false => Probe::NotYet(format!("{key}: {}", reply.escape_ascii())),
            })
        })
        .unwrap();
    }
}

/// Clients of one proxy, for as long as this runs. Returns what they saw when `change` had
/// happened.
fn under_load(proxy: SocketAddr, change: impl FnOnce(&dyn Fn())) -> Vec<Seen> {
    const CLIENTS: usize = 8;
    write_what_is_read(proxy, CLIENTS);
    let (stop, commands) = (AtomicBool::new(false), AtomicUsize::new(0));
    let seen: Vec<Seen> = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (stop, commands) = (&stop, &commands);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || load(proxy, number, stop, commands)))
            .collect();
        let more = || {
            let before = commands.load(Ordering::Relaxed);
            until("traffic", PATIENCE, || {
                let done = commands.load(Ordering::Relaxed) - before;
                Ok(match done > 1000 {
                    true => Probe::Ready(()),
                    false => Probe::NotYet(format!("{done} commands")),
                })
            })
            .unwrap();
        };
        more();
        change(&more);
        more();
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    check_that_nothing_is_lost(proxy, &seen);
    seen
}

fn envoy(pods: &Pods, read_policy: &str) -> Envoy {
    let config = json!({
        "settings": {"op_timeout": format!("{}s", OP_TIMEOUT.as_secs()), "read_policy": read_policy},
        "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        "clusters": {"redis": {"seeds": pods.seeds()}},
    });
    Envoy::start(EnvoyOptions::new(PluginConfig::from_text(config.to_string()))).unwrap()
}

#[test]
fn a_rolling_restart_costs_no_command_with_reads_from_primaries() {
    restart_all("MASTER", SHORT);
}

#[test]
fn a_rolling_restart_costs_no_command_with_reads_from_replicas() {
    // A read may be sent to a replica that has just gone: no error comes of it, but a pause.
    restart_all("REPLICA", OP_TIMEOUT);
}

/// All pods one after the other, the last one first, each to a new address.
fn restart_all(read_policy: &str, longest_pause: Duration) {
    let mut pods = Pods::start_cluster();
    let envoy = envoy(&pods, read_policy);
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let mut said = String::new();
    let seen = under_load(envoy.addr(), |more| {
        for pod in ALL.into_iter().rev() {
            said += &pods.stop(pod);
            pods.start_pod(pod, &address(NETWORKS[1], pod));
            pods.wait_until_ready(&[pod], PATIENCE).unwrap();
            more();
        }
    });
    assert!(said.matches("is the primary now").count() >= 3, "{said}");
    check(&format!("rolling restart, {read_policy}"), &seen, longest_pause, &said);
}

/// No error, and no pause that is longer than allowed.
fn check(what: &str, seen: &[Seen], longest_pause: Duration, said: &str) {
    let commands: usize = seen.iter().map(|seen| seen.commands).sum();
    let errors: Vec<&String> = seen.iter().flat_map(|seen| &seen.errors).collect();
    let longest = seen.iter().map(|seen| seen.longest_pause).max().unwrap();
    eprintln!("{what}: {commands} commands, {} errors, longest pause {longest:?}", errors.len());
    assert!(errors.is_empty(), "{}: {:?}\n{said}", errors.len(), &errors[..errors.len().min(5)]);
    assert!(longest < longest_pause, "{longest:?}\n{said}");
}

/// `kubectl delete pod --all`: a shard's primary and its replica never stop at the same time, for
/// each of them waits for the other to be in sync.
#[test]
fn pods_that_are_all_deleted_at_once_stop_in_turn_and_cost_no_command() {
    let pods = Pods::start_cluster();
    let envoy = envoy(&pods, "MASTER");
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (pods, said) = (Mutex::new(pods), Mutex::new(String::new()));
    let seen = under_load(envoy.addr(), |_| {
        thread::scope(|scope| {
            for pod in ALL {
                let (pods, said) = (&pods, &said);
                scope.spawn(move || {
                    let hook = pods.lock().unwrap().script(pod, "handover.sh");
                    said.lock().unwrap().push_str(&run(hook, PATIENCE).unwrap());
                    let redis = pods.lock().unwrap().take(pod);
                    redis.terminate(PATIENCE).unwrap();
                    pods.lock().unwrap().start_pod(pod, &address(NETWORKS[1], pod));
                });
            }
        });
        pods.lock().unwrap().wait_until_ready(&ALL, PATIENCE).unwrap();
    });
    let said = said.into_inner().unwrap();
    // None was asked in vain.
    let [asked, elected] =
        ["handover: to ", "is the primary now"].map(|what| said.matches(what).count());
    assert_eq!(asked, elected, "{said}");
    check("all deleted at once", &seen, SHORT, &said);
}

/// A primary with two replicas.
fn with_two_replicas() -> (Pods, usize, [usize; 2]) {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let spare = ALL.into_iter().find(|pod| *pod != replica && !pods.is_primary(*pod)).unwrap();
    let id = pods.ask(primary, &["CLUSTER", "MYID"]).unwrap();
    assert_eq!(pods.ask(spare, &["CLUSTER", "REPLICATE", &id]).unwrap(), "OK");
    until("the primary to know both", PATIENCE, || {
        let replicas = pods.ask(primary, &["CLUSTER", "REPLICAS", &id])?;
        Ok(match replicas.lines().count() == 2 {
            true => Probe::Ready(()),
            false => Probe::NotYet(replicas),
        })
    })
    .unwrap();
    pods.wait_until_ready(&[spare], PATIENCE).unwrap();
    (pods, primary, [replica, spare])
}

/// The hook of a primary, for which `redis-cli` does something else first. There, `count` sets `$n`
/// to how often it has been called before, and keeps that in the file `count` of `programs`.
fn handover_with(pods: &Pods, primary: usize, programs: &TempDir, first: &str) -> Command {
    let redis_cli = format!(
        "redis_cli='{redis_cli}' calls='{calls}'\n\
         count() {{ n=$(cat \"$calls\" 2>/dev/null || echo 0); echo $((n + 1)) >\"$calls\"; }}\n\
         {first}\n\
         exec \"$redis_cli\" \"$@\"",
        redis_cli = locate::program("redis-cli").unwrap().display(),
        calls = programs.path().join("count").display(),
    );
    let mut hook = pods.script(primary, "handover.sh");
    hook.env("PATH", program(programs, "redis-cli", &redis_cli));
    hook
}

#[test]
fn a_primary_asks_another_replica_if_one_does_not_take_over() {
    let (pods, primary, replicas) = with_two_replicas();
    // What is asked first accepts and does nothing.
    let programs = TempDir::new("programs").unwrap();
    let first = "case \"$*\" in\n\
                 *'cluster failover') count; [ $n -gt 0 ] || { echo OK; exit; } ;;\n\
                 *takeover) echo OK; exit ;;\n\
                 esac";
    let hook = handover_with(&pods, primary, &programs, first);
    let said = run(hook, PATIENCE).unwrap();
    for replica in replicas {
        assert!(said.contains(&format!("to {}: OK", pods.address(replica))), "{said}");
    }
    assert!(replicas.iter().any(|replica| pods.is_primary(*replica)), "{said}");
    assert!(!pods.is_primary(primary), "{said}");
}

/// A node that has held an election may not hold another one for 20 seconds.
#[test]
fn a_primary_whose_replica_is_not_elected_hands_over_without_an_election() {
    let pods = Pods::start_cluster();
    let envoy = envoy(&pods, "MASTER");
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    pods.fail_over(primary, replica);
    pods.fail_over(replica, primary);
    let mut said = String::new();
    let seen = under_load(envoy.addr(), |_| {
        said = run(pods.script(primary, "handover.sh"), PATIENCE).unwrap();
    });
    assert!(said.contains("the election has failed"), "{said}");
    assert!(pods.is_primary(replica) && !pods.is_primary(primary), "{said}");
    // Redis holds writes back for five seconds.
    check("an election that fails", &seen, Duration::from_secs(4), &said);
}

/// Somebody who asks that node for the topology would still be sent here.
#[test]
fn a_primary_stops_only_when_every_node_knows_its_successor() {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let id = pods.ask(primary, &["CLUSTER", "MYID"]).unwrap();
    let other = ALL.into_iter().find(|pod| *pod != primary && *pod != replica).unwrap();
    let programs = TempDir::new("programs").unwrap();
    let first = format!(
        "case \"$*\" in '-h {other} '*'cluster nodes') count\n\
         [ $n -gt 2 ] || {{ echo '{id} host:1@2 master - 0 0 1 connected 0-5460'; exit; }} ;; esac",
        other = pods.address(other),
    );
    let hook = handover_with(&pods, primary, &programs, &first);
    let said = run(hook, PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(replica))), "{said}");
    let asked = fs::read_to_string(programs.path().join("count")).unwrap();
    assert!(asked.trim().parse::<usize>().unwrap() > 3, "{asked}");
}

/// A replica executes PUBLISH, too, and so redirects nobody who does nothing else.
#[test]
fn a_primary_stops_only_when_nobody_publishes_there_any_more() {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let node = pods.endpoint(primary);
    let [host, port] = [node.ip().to_string(), node.port().to_string()];
    let mut publisher = Command::new("redis-cli");
    publisher.args(["-h", &host, "-p", &port, "-r", "30", "-i", "0.2", "PUBLISH", "news", "hello"]);
    let published = thread::spawn(move || {
        run(publisher, PATIENCE).unwrap();
        Instant::now()
    });
    let said = run(pods.script(primary, "handover.sh"), PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(replica))), "{said}");
    assert!(published.is_finished(), "it stops while somebody publishes there");
    let quiet = published.join().unwrap().elapsed();
    assert!(quiet >= Duration::from_secs(1), "it stops {quiet:?} after the last message");
}

/// As after a failover, until the new primary has heard of it from its replica.
#[test]
fn a_primary_that_does_not_know_its_replica_yet_hands_over_all_the_same() {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let programs = TempDir::new("programs").unwrap();
    let first = "case \"$*\" in *'cluster replicas '*) count; [ $n -gt 4 ] || exit 0 ;; esac";
    let hook = handover_with(&pods, primary, &programs, first);
    let said = run(hook, PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(replica))), "{said}");
}

#[test]
fn a_replica_that_hangs_or_is_about_to_stop_is_not_chosen() {
    let (pods, primary, [hanging, well]) = with_two_replicas();
    assert_eq!(pods.ask(hanging, &["CLIENT", "PAUSE", "10000"]).unwrap(), "OK");
    let said = run(pods.script(primary, "handover.sh"), PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(well))), "{said}");

    // The hook of `primary` has run: it is about to stop.
    let said = run(pods.script(well, "handover.sh"), PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(hanging))), "{said}");
}

#[test]
fn a_primary_waits_for_its_replica_to_come_into_sync() {
    let mut pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    pods.kill(replica);
    let mut hook = pods.script(primary, "handover.sh");
    hook.env("LIMIT", "100");
    let hook = thread::spawn(|| run(hook, PATIENCE).unwrap());
    pods.start_pod(replica, &address(NETWORKS[1], replica));
    let said = hook.join().unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(replica))), "{said}");
    assert!(pods.is_primary(replica) && !pods.is_primary(primary), "{said}");
}

#[test]
fn a_primary_without_a_replica_in_sync_stops_when_its_time_is_over() {
    let mut pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    pods.kill(replica);
    let mut hook = pods.script(primary, "handover.sh");
    hook.env("LIMIT", "3");
    let begin = Instant::now();
    let said = run(hook, PATIENCE).unwrap();
    assert!(said.contains("handover: the time is over"), "{said}");
    // What is under way when the time is over may take seven seconds.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(3 + 7 + 1), "{took:?}");
    assert!(pods.is_primary(primary));
}

#[test]
fn a_node_that_has_no_cluster_stops_without_waiting_for_a_replica() {
    let pods = Pods::start(1);
    let begin = Instant::now();
    assert_eq!(run(pods.script(0, "handover.sh"), PATIENCE).unwrap(), "");
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[test]
fn a_node_that_refuses_to_answer_stops_and_says_why() {
    let pods = Pods::start(1);
    assert_eq!(pods.ask(0, &["CONFIG", "SET", "requirepass", "secret"]).unwrap(), "OK");
    let said = run(pods.script(0, "handover.sh"), PATIENCE).unwrap();
    assert!(said.contains("nothing to hand over. Redis says: NOAUTH"), "{said}");
}

/// What is busy is asked again: it may still own slots.
#[test]
fn a_primary_that_is_busy_for_a_while_hands_over_all_the_same() {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let programs = TempDir::new("programs").unwrap();
    let hook = handover_with(&pods, primary, &programs, "count; [ $n -gt 6 ] || exit 124");
    let said = run(hook, PATIENCE).unwrap();
    assert!(said.contains(&format!("{} is the primary now", pods.address(replica))), "{said}");
}

/// It would not be elected, and meanwhile the primary would hold all writes back.
#[test]
fn a_replica_that_does_not_reach_most_primaries_is_not_asked() {
    let pods = Pods::start_cluster();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let (primary, replica) = pods.shard();
    let programs = TempDir::new("programs").unwrap();
    // The view of the replica, without its links to the others.
    let first = format!(
        "case \"$*\" in '-h {replica} '*)\n\
         \"$redis_cli\" \"$@\" | sed '/myself/!s/ connected/ disconnected/'; exit ;; esac",
        replica = pods.address(replica),
    );
    let mut hook = handover_with(&pods, primary, &programs, &first);
    hook.env("LIMIT", "5");
    assert_eq!(run(hook, PATIENCE).unwrap(), "handover: the time is over\n");
    assert!(pods.is_primary(primary));
}
