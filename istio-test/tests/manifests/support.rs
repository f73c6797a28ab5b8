//! What the tests have in common: a mesh with a Redis service and another one, and clients.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use slotmesh_istio_test::{Mesh, Proxy, Resolution, Service, Sidecar, image, kustomize};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::{Port, RedisServer, Security, locate};

/// Long enough for anything on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// What the base manifests call the module and the cluster.
pub(crate) const IMAGE: &str = "oci://ghcr.io/slotmesh/slotmesh:0.1.0";
pub(crate) const SEED: &str = "redis-cluster.redis.svc.cluster.local:6379";

/// The digest of every image here.
pub(crate) const DIGEST: &str = "5107000000000000000000000000000000000000000000000000000000005107";

/// The listener of the Redis service, and that of another service.
pub(crate) const REDIS: &str = "10.96.0.10_6379";
pub(crate) const OTHER: &str = "10.96.0.11_9000";

/// The directory `istio/` of this workspace.
pub(crate) fn manifests() -> PathBuf {
    locate::workspace().join("istio")
}

/// The objects of a base.
pub(crate) fn base(name: &str) -> Vec<Value> {
    kustomize::build(&manifests().join("base").join(name)).unwrap()
}

/// What the sidecars of some Istios must have started with before a module may come to them.
pub(crate) fn early_v8() -> Vec<Value> {
    kustomize::build(&manifests().join("early-v8")).unwrap()
}

/// A client's sidecar, of the Istio whose Envoy is under test.
pub(crate) fn sidecar(name: &str) -> Proxy {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let version = Command::new(locate::envoy().unwrap()).arg("--version").output().unwrap();
        let version = String::from_utf8(version.stdout).unwrap();
        let minor = version.split("/1.").nth(1).and_then(|rest| rest.split('.').next());
        // Istio 1.28 has Envoy 1.36, and so on.
        let minor: u32 = minor.and_then(|minor| minor.parse().ok()).unwrap();
        format!("1.{}.0", minor - 8)
    });
    Proxy { version: VERSION.clone(), ..Proxy::client(name) }
}

/// Two services: one before `node`, and `other`, which is no business of Slotmesh's.
pub(crate) fn services(node: SocketAddr, other: SocketAddr) -> Vec<Service> {
    let service = |host: &str, address: &str, port, endpoint| Service {
        host: host.to_owned(),
        address: address.to_owned(),
        port,
        endpoints: vec![endpoint],
        sidecars: Vec::new(),
        resolution: Resolution::ClusterIp,
    };
    vec![
        service("redis-cluster.redis.svc.cluster.local", "10.96.0.10", 6379, node),
        service("other.default.svc.cluster.local", "10.96.0.11", 9000, other),
    ]
}

/// A Redis Cluster of one node, and a mesh that calls it by the name of the base manifests. Its
/// image can be pulled, and its sidecars start ready for it.
pub(crate) struct World {
    pub(crate) mesh: Arc<Mesh>,
    _node: RedisServer,
    /// A standalone server behind the other service.
    _other: RedisServer,
    _bus: Port,
}

impl World {
    pub(crate) fn start() -> Self {
        let bus = Port::free().unwrap();
        let node = one_node_cluster(&bus, &[]);
        let other = RedisServer::start(&[]).unwrap();
        let mesh = Mesh::new(services(node.addr(), other.addr())).unwrap();
        mesh.place(SEED, node.addr().to_string()).unwrap();
        mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
        mesh.apply(&early_v8()).unwrap();
        Self { mesh, _node: node, _other: other, _bus: bus }
    }

    pub(crate) fn client(&self) -> Sidecar {
        self.mesh.start(sidecar("client")).unwrap()
    }
}

/// A redis-server that owns all slots.
pub(crate) fn one_node_cluster(bus: &Port, args: &[&str]) -> RedisServer {
    secured_node(bus, Security::default(), args)
}

/// One that asks for a password, or speaks TLS.
pub(crate) fn secured_node(bus: &Port, security: Security, args: &[&str]) -> RedisServer {
    let bus = bus.number().to_string();
    let own = ["--cluster-enabled", "yes", "--cluster-port", &bus];
    let node = RedisServer::start_secured(security, &[&own[..], args].concat()).unwrap();
    let reply = node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).unwrap();
    assert_eq!(reply.trim(), "OK");
    until("the node to serve all slots", PATIENCE, || {
        let info = node.cli(&["CLUSTER", "INFO"])?;
        let ready = info.contains("cluster_state:ok");
        Ok(if ready { Probe::Ready(()) } else { Probe::NotYet(info) })
    })
    .unwrap();
    node
}

/// A plain client: what it writes and reads is bytes.
pub(crate) struct Client(TcpStream);

impl Client {
    pub(crate) fn connect(addr: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(addr)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Sends an inline command and reads a reply of one line.
    pub(crate) fn call(&mut self, command: &str) -> Result<String> {
        self.0.write_all(format!("{command}\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            ensure!(
                self.0.read(&mut byte)? == 1,
                "closed after {:?}",
                line.escape_ascii().to_string()
            );
            line.extend(byte);
        }
        let line = String::from_utf8(line)?;
        ensure!(line.trim_end() != command, "the client got its own bytes: {line}");
        Ok(line.trim_end().to_owned())
    }

    /// What comes until the end of the connection.
    pub(crate) fn rest(mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).unwrap();
        rest
    }
}

/// What one command is answered over a new connection.
pub(crate) fn ask(addr: SocketAddr, command: &str) -> Result<String> {
    Client::connect(addr)?.call(command)
}

/// Waits until new clients get this answer.
pub(crate) fn wait_for_answer(addr: SocketAddr, command: &str, answer: &str) {
    until(&format!("{command} to answer {answer}"), PATIENCE, || {
        Ok(Probe::retry(ask(addr, command).and_then(|found| {
            ensure!(found == answer, "it answers {found}");
            Ok(())
        })))
    })
    .unwrap();
}

/// Checks that a new client is closed without a byte.
pub(crate) fn assert_closed(addr: SocketAddr) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // What is closed already takes no bytes.
    let _ = stream.write_all(b"PING\r\n");
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(answer.is_empty(), "it is answered {}", answer.escape_ascii());
}

/// Waits until the log has a line with these words, and returns it.
pub(crate) fn wait_for_line(sidecar: &Sidecar, words: &[&str]) -> String {
    until(&format!("a line with {words:?} in the log"), PATIENCE, || {
        let log = sidecar.envoy().log();
        let line = log.lines().find(|line| words.iter().all(|word| line.contains(word)));
        Ok(Probe::retry(line.map(str::to_owned).context(log.clone())))
    })
    .unwrap()
}

/// How many times the router's guard let a client pass.
pub(crate) fn passed(sidecar: &Sidecar) -> u64 {
    counter(sidecar, "slotmesh_guard_.rbac.allowed")
}

/// One of Envoy's counters. Envoy does not answer while it compiles a module, which can take long.
pub(crate) fn counter(sidecar: &Sidecar, name: &str) -> u64 {
    let stats = || Ok(Probe::retry(sidecar.envoy().stats()));
    let stats = until("Envoy's counters", PATIENCE, stats).unwrap();
    stats.get(name).copied().unwrap_or_default()
}
