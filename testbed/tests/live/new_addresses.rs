//! Pods of istio/k8s/redis-cluster that all come back at new addresses, where no node finds another
//! by itself.

use std::process::Command;
use std::time::{Duration, Instant};

use slotmesh_testbed::process::Process;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Envoy, EnvoyOptions, PluginConfig, TempDir};

use crate::support::Client;
use crate::support::pods::{ALL, COUNT, NETWORKS, Pods, address};

/// The nodes are together again within this time of their start.
const PROMISED: Duration = Duration::from_secs(30);

const PATIENCE: Duration = Duration::from_secs(120);

const KEYS: usize = 1000;

fn start_and_fill() -> (Pods, Envoy) {
    let pods = Pods::start_cluster();
    let envoy = Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&pods.seeds()))).unwrap();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();
    let mut client = Client::connect(envoy.addr());
    for key in 0..KEYS {
        assert_eq!(client.call(&["SET", &format!("key:{key}"), "value"]), b"+OK\r\n");
    }
    // Redis may hold back what it appends to its file while another fsync runs.
    until("all to be in the files", PATIENCE, || {
        let behind = ALL.into_iter().find(|pod| {
            let info = pods.ask(*pod, &["INFO", "persistence"]).unwrap();
            !info.lines().any(|line| line == "aof_buffer_length:0")
        });
        Ok(match behind {
            None => Probe::Ready(()),
            Some(pod) => Probe::NotYet(format!("pod {pod} holds something back")),
        })
    })
    .unwrap();
    (pods, envoy)
}

/// Kills all pods, then starts them where `place` says, and checks that all is well in time.
fn move_all(pods: &mut Pods, envoy: &Envoy, place: impl Fn(usize) -> String) {
    ALL.iter().for_each(|pod| pods.kill(*pod));
    let begin = Instant::now();
    ALL.iter().for_each(|pod| pods.start_pod(*pod, &place(*pod)));
    pods.wait_until_ready(&ALL, PROMISED).unwrap();
    let together = begin.elapsed();
    let mut client = Client::connect(envoy.addr());
    until("Slotmesh to serve every key", PROMISED - together, || {
        let wrong = (0..KEYS).find_map(|key| {
            let reply = client.call(&["GET", &format!("key:{key}")]);
            (reply != b"$5\r\nvalue\r\n").then(|| format!("{key}: {}", reply.escape_ascii()))
        });
        Ok(match wrong {
            None => Probe::Ready(()),
            Some(wrong) => Probe::NotYet(wrong),
        })
    })
    .unwrap();
    eprintln!(
        "the nodes were ready after {together:?}, Slotmesh served after {:?}",
        begin.elapsed()
    );
    for pod in ALL {
        let nodes = pods.ask(pod, &["CLUSTER", "NODES"]).unwrap();
        assert_eq!(nodes.lines().count(), COUNT, "{nodes}");
    }
}

#[test]
fn nodes_that_have_all_moved_are_together_again_within_30_seconds_with_all_data() {
    let (mut pods, envoy) = start_and_fill();
    move_all(&mut pods, &envoy, |pod| address(NETWORKS[1], pod));
}

#[test]
fn nodes_that_have_got_each_others_addresses_find_each_other() {
    let (mut pods, envoy) = start_and_fill();
    move_all(&mut pods, &envoy, |pod| address(NETWORKS[0], (pod + 1) % COUNT));
}

#[test]
fn a_node_of_another_cluster_is_never_met() {
    let (mut pods, envoy) = start_and_fill();
    // One of the names leads to a node with slots of its own, whose bus is open to everybody.
    let [foreign, port] = [address(NETWORKS[1], 0), pods.endpoint(0).port().to_string()];
    let dir = TempDir::new("foreign").unwrap();
    let mut server = Command::new("redis-server");
    server.args(["--bind", &foreign, "--port", &port, "--cluster-enabled", "yes", "--save", ""]);
    server.args(["--cluster-announce-ip", &foreign, "--dir"]).arg(dir.path());
    let _server = Process::start(server, &dir.path().join("log")).unwrap();

    move_all(&mut pods, &envoy, |pod| match pod {
        0 => address(NETWORKS[0], pod),
        _ => address(NETWORKS[1], pod),
    });
    let said = pods.logs();
    assert!(said.contains(&format!("{foreign} is not met: its id ")), "{said}");
    assert!(said.contains("this node meets"), "{said}");
    let view = pods.ask_at(&foreign, &["CLUSTER", "NODES"]).unwrap();
    assert_eq!(view.lines().count(), 1, "{view}");
}
