//! The job of istio/k8s/redis-cluster, on servers of this machine: loopback has an address for each.

use std::process::Command;
use std::time::Duration;

use slotmesh_testbed::process::{Process, run};
use slotmesh_testbed::{Port, TempDir, locate};

const PATIENCE: Duration = Duration::from_secs(120);

const NODES: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// Six servers with the configuration of istio/k8s/redis-cluster, as its StatefulSet starts them, at
/// the addresses `network`.1 to `network`.6.
struct Pods {
    network: &'static str,
    port: u16,
    processes: Vec<Process>,
}

impl Pods {
    fn start(network: &'static str, port: u16, data: &TempDir) -> Self {
        let directory = locate::workspace().join("istio/k8s/redis-cluster");
        let processes = NODES.map(|node| {
            let data = data.path().join(node.to_string());
            std::fs::create_dir_all(&data).unwrap();
            let address = format!("{network}.{node}");
            let mut server = Command::new("redis-server");
            server.arg(directory.join("redis.conf")).arg("--dir").arg(&data);
            server.args(["--cluster-announce-ip", &address, "--bind", &address]);
            server.args(["--port", &port.to_string()]);
            Process::start(server, &data.join("log")).unwrap()
        });
        Self { network, port, processes: processes.into() }
    }

    fn run_job(&self) -> String {
        let nodes = NODES.map(|node| format!("{}.{node}", self.network));
        let mut job = Command::new("sh");
        job.arg(locate::workspace().join("istio/k8s/redis-cluster/create-cluster.sh"));
        job.env("NODES", nodes.join(" ")).env("PORT", self.port.to_string());
        run(job, PATIENCE).unwrap_or_else(|error| {
            let logs: Vec<String> = self.processes.iter().map(Process::log).collect();
            panic!("{error:#}\n{}", logs.join("\n"))
        })
    }

    /// Asks the node that owns the key, wherever that is.
    fn ask(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        cli.args(["-c", "-h", &format!("{}.1", self.network), "-p", &self.port.to_string()]);
        cli.args(command);
        run(cli, PATIENCE).unwrap().trim_end().to_owned()
    }
}

#[test]
fn the_job_creates_the_cluster_and_finds_nodes_that_have_all_moved() {
    let (port, data) = (Port::free().unwrap(), TempDir::new("pods").unwrap());
    let pods = Pods::start("127.0.2", port.number(), &data);
    let printed = pods.run_job();
    assert!(printed.contains("All 16384 slots covered"), "{printed}");
    assert_eq!(pods.ask(&["SET", "a", "before"]), "OK");

    let printed = pods.run_job();
    assert!(!printed.contains("Performing hash slots allocation"), "{printed}");
    assert_eq!(pods.ask(&["GET", "a"]), "before");
    drop(pods);

    let pods = Pods::start("127.0.3", port.number(), &data);
    pods.run_job();
    assert_eq!(pods.ask(&["GET", "a"]), "before");
}
