//! The pods of istio/k8s/redis-cluster on this machine. Loopback has as many addresses as one
//! likes, so that a pod can come back at a new one, as in Kubernetes.

use std::env;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use slotmesh_testbed::process::{Process, run};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Port, TempDir, locate};

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// As many as the StatefulSet has.
pub(crate) const COUNT: usize = 6;
pub(crate) const ALL: [usize; COUNT] = [0, 1, 2, 3, 4, 5];

/// Where pods may get their addresses: `127.0.2.1` and so on.
pub(crate) const NETWORKS: [&str; 2] = ["127.0.2", "127.0.3"];

/// Six pods, each with a volume and, while it runs, an address and the processes of its containers.
pub(crate) struct Pods {
    port: Port,
    volumes: TempDir,
    pods: Vec<Option<Pod>>,
}

struct Pod {
    address: String,
    redis: Process,
    introduce: Process,
}

impl Pods {
    /// Starts the first `count` of them at the first network's addresses, and waits until they
    /// answer. There is no cluster yet.
    pub(crate) fn start(count: usize) -> Self {
        let mut pods = Self {
            port: Port::free().unwrap(),
            volumes: TempDir::new("pods").unwrap(),
            pods: (0..COUNT).map(|_| None).collect(),
        };
        for pod in 0..count {
            pods.start_pod(pod, &address(NETWORKS[0], pod));
        }
        for pod in 0..count {
            until("a server to answer", PATIENCE, || {
                Ok(match pods.ask(pod, &["PING"]) {
                    Ok(_) => Probe::Ready(()),
                    Err(error) => Probe::NotYet(format!("{error:#}")),
                })
            })
            .unwrap();
        }
        pods
    }

    /// Starts them all, and lets the job join them.
    pub(crate) fn start_cluster() -> Self {
        let pods = Self::start(COUNT);
        pods.run_job();
        pods
    }

    /// Starts the containers of a pod as the StatefulSet does, at `address`, on the volume that it
    /// has had.
    pub(crate) fn start_pod(&mut self, pod: usize, address: &str) {
        let volume = self.volumes.path().join(pod.to_string());
        fs::create_dir_all(&volume).unwrap();
        let mut redis = Command::new("redis-server");
        redis.arg(directory().join("redis.conf")).arg("--dir").arg(&volume);
        redis.args(["--cluster-announce-ip", address, "--bind", address]);
        redis.args(["--port", &self.port.number().to_string()]);
        let redis = Process::start(redis, &volume.join("redis.log")).unwrap();
        let mut introduce = self.script_at(address, "introduce.sh");
        introduce.env("NODES", self.names().join(" "));
        let introduce = Process::start(introduce, &volume.join("introduce.log")).unwrap();
        self.pods[pod] = Some(Pod { address: address.to_owned(), redis, introduce });
    }

    /// Ends the processes of a pod with SIGKILL, as when its machine is gone.
    pub(crate) fn kill(&mut self, pod: usize) {
        self.pods[pod] = None;
    }

    /// Stops a pod as the kubelet does: the preStop hook, then SIGTERM. Returns what the hook said.
    pub(crate) fn stop(&mut self, pod: usize) -> String {
        let said = run(self.script(pod, "handover.sh"), PATIENCE).unwrap();
        self.take(pod).terminate(PATIENCE).unwrap();
        said
    }

    /// The server of a pod, to be ended by the caller. The other containers end at once.
    pub(crate) fn take(&mut self, pod: usize) -> Process {
        self.pods[pod].take().expect("it runs").redis
    }

    /// Where a pod is.
    pub(crate) fn address(&self, pod: usize) -> &str {
        &self.pods[pod].as_ref().expect("it runs").address
    }

    /// Its address with the port.
    pub(crate) fn endpoint(&self, pod: usize) -> SocketAddr {
        format!("{}:{}", self.address(pod), self.port.number()).parse().unwrap()
    }

    /// Every place where a pod may be, as `host:port`: what a Service's name is for others.
    pub(crate) fn seeds(&self) -> Vec<String> {
        let port = self.port.number();
        self.names().iter().map(|address| format!("{address}:{port}")).collect()
    }

    /// All addresses that pods may have: what their names are in Kubernetes.
    fn names(&self) -> Vec<String> {
        NETWORKS.iter().flat_map(|network| (0..COUNT).map(|pod| address(network, pod))).collect()
    }

    /// A script of the pod's containers.
    pub(crate) fn script(&self, pod: usize, name: &str) -> Command {
        self.script_at(self.address(pod), name)
    }

    /// A script as at any address.
    pub(crate) fn script_at(&self, address: &str, name: &str) -> Command {
        let mut script = Command::new("sh");
        script.arg(directory().join(name));
        script.env("NODE_HOST", address).env("PORT", self.port.number().to_string());
        script
    }

    /// Runs the job that creates the cluster, and returns what it printed.
    pub(crate) fn run_job(&self) -> String {
        let nodes: Vec<&str> = (0..COUNT).map(|pod| self.address(pod)).collect();
        let mut job = self.script_at(nodes[0], "create-cluster.sh");
        job.env("NODES", nodes.join(" "));
        let printed = run(job, PATIENCE);
        let printed = printed.unwrap_or_else(|error| panic!("{error:#}\n{}", self.logs()));
        self.wait_until_replicas_are_known();
        printed
    }

    /// Lets `replica` take over from `primary`, and waits until all nodes know.
    pub(crate) fn fail_over(&self, primary: usize, replica: usize) {
        assert_eq!(self.ask(replica, &["CLUSTER", "FAILOVER"]).unwrap(), "OK");
        until("a failover", PATIENCE, || {
            Ok(match self.is_primary(replica) && !self.is_primary(primary) {
                true => Probe::Ready(()),
                false => Probe::NotYet(self.ask(replica, &["CLUSTER", "NODES"])?),
            })
        })
        .unwrap();
        self.wait_until_replicas_are_known();
        self.wait_until_ready(&[primary], PATIENCE).unwrap();
    }

    /// Waits until each node has heard which nodes are replicas, and of whom. A node can be ready
    /// before: it votes for nobody then of whom it does not know that it is a replica.
    fn wait_until_replicas_are_known(&self) {
        for pod in 0..COUNT {
            until("a node to know all replicas", PATIENCE, || {
                let view = self.ask(pod, &["CLUSTER", "NODES"])?;
                let replicas = view.lines().filter(|line| line.contains("slave")).count();
                Ok(match replicas == COUNT / 2 {
                    true => Probe::Ready(()),
                    false => Probe::NotYet(view),
                })
            })
            .unwrap();
        }
    }

    /// What a node answers to a command.
    pub(crate) fn ask(&self, pod: usize, command: &[&str]) -> Result<String> {
        self.ask_at(self.address(pod), command)
    }

    /// What a node at an address answers, which need not be a pod's.
    pub(crate) fn ask_at(&self, address: &str, command: &[&str]) -> Result<String> {
        let mut cli = Command::new("redis-cli");
        cli.args(["-h", address, "-p", &self.port.number().to_string()]).args(command);
        Ok(run(cli, PATIENCE)?.trim_end().to_owned())
    }

    /// Asks the node that owns the command's key, wherever that is.
    pub(crate) fn ask_owner(&self, command: &[&str]) -> String {
        self.ask(0, &[&["-c"], command].concat()).unwrap()
    }

    /// The pod whose node has the id `id`.
    pub(crate) fn find(&self, id: &str) -> usize {
        let is = |pod: &usize| self.ask(*pod, &["CLUSTER", "MYID"]).is_ok_and(|mine| mine == id);
        (0..COUNT).filter(|pod| self.pods[*pod].is_some()).find(is).expect("a pod has this id")
    }

    /// A primary with slots, and its replica.
    pub(crate) fn shard(&self) -> (usize, usize) {
        let primary = (0..COUNT).find(|pod| self.is_primary(*pod)).unwrap();
        let id = self.ask(primary, &["CLUSTER", "MYID"]).unwrap();
        let replicas = self.ask(primary, &["CLUSTER", "REPLICAS", &id]).unwrap();
        let (replica, _) = replicas.split_once(' ').expect("a replica with its id first");
        (primary, self.find(replica))
    }

    /// Whether it is a primary that owns slots.
    pub(crate) fn is_primary(&self, pod: usize) -> bool {
        self.ask(pod, &["ROLE"]).unwrap().starts_with("master")
    }

    /// Waits until the readiness probe of each of these pods succeeds.
    ///
    /// # Errors
    /// One does not `within` this time.
    pub(crate) fn wait_until_ready(&self, pods: &[usize], within: Duration) -> Result<()> {
        let ready = until("the pods to be ready", within, || {
            let fails = |pod: &usize| run(self.script(*pod, "ready.sh"), PATIENCE).err();
            Ok(match pods.iter().find_map(fails) {
                None => Probe::Ready(()),
                Some(error) => Probe::NotYet(format!("{error:#}")),
            })
        });
        ready.with_context(|| self.logs())
    }

    /// What all processes have logged.
    pub(crate) fn logs(&self) -> String {
        let pods = self.pods.iter().flatten();
        pods.map(|pod| format!("{}: {}{}\n", pod.address, pod.redis.log(), pod.introduce.log()))
            .collect()
    }
}

/// The address of a pod in one of the networks.
pub(crate) fn address(network: &str, pod: usize) -> String {
    format!("{network}.{}", pod + 1)
}

/// Writes a shell script that is run in the place of a program, and returns the `PATH` for that.
pub(crate) fn program(dir: &TempDir, name: &str, script: &str) -> String {
    let file = dir.path().join(name);
    fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o755)).unwrap();
    format!("{}:{}", dir.path().display(), env::var("PATH").unwrap())
}

fn directory() -> PathBuf {
    locate::workspace().join("istio/k8s/redis-cluster")
}
