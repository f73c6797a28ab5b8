//! A Redis Cluster of two primaries, up in seconds: for checks that need one of a special kind.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use slotmesh_testbed::wait::{Probe, until};

use crate::kubectl::Kubectl;
use crate::manifest::Manifest;
use crate::namespace::Namespace;

/// The image that the manifests have.
const IMAGE: &str = "docker.io/library/redis:8.2-alpine";

/// Time for pods to start and for nodes to meet.
const PATIENCE: Duration = Duration::from_secs(120);

/// Its nodes, and the slots of each.
const NODES: [(&str, &str, &str); 2] = [("node-0", "0", "8191"), ("node-1", "8192", "16383")];

/// What is special.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Kind<'a> {
    /// Whether its first node has a sidecar, and whether its second one has.
    pub(crate) sidecars: [bool; 2],
    /// The key `password` of the Secret `redis`, which it makes.
    pub(crate) password: Option<&'a str>,
    /// Its certificate, with its key and its authority, in PEM: it speaks TLS, and names its nodes.
    pub(crate) tls: Option<&'a Tls>,
}

/// What a server shows, and who has signed it.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) authority: String,
}

/// A cluster in a namespace of its own, with the Services of istio/k8s/redis-cluster.
#[derive(Debug)]
pub(crate) struct SmallCluster {
    kubectl: Kubectl,
    namespace: Namespace,
    tls: bool,
}

impl SmallCluster {
    /// Starts it and waits until it is one.
    pub(crate) fn start(kubectl: &Kubectl, name: &str, kind: Kind<'_>) -> Result<Self> {
        let injection = if kind.sidecars == [false; 2] { "disabled" } else { "enabled" };
        let namespace = Namespace::create(kubectl, name, injection)?;
        let cluster = Self { kubectl: kubectl.clone(), namespace, tls: kind.tls.is_some() };
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": objects(name, kind)});
        Manifest::from(objects.to_string()).apply(kubectl, name)?;
        cluster.join()?;
        Ok(cluster)
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    /// What a node answers.
    pub(crate) fn ask(&self, node: &str, command: &[&str]) -> Result<String> {
        let exec = ["exec", "--namespace", self.namespace(), node, "--container", "redis", "--"];
        let cli: &[&str] = match self.tls {
            true => &["redis-cli", "--no-auth-warning", "--tls", "--insecure"],
            false => &["redis-cli", "--no-auth-warning"],
        };
        Ok(self.kubectl.run(&[&exec[..], cli, command].concat())?.trim_end().to_owned())
    }

    fn join(&self) -> Result<()> {
        let mut pods = vec!["wait", "--for=condition=Ready", "--timeout=110s"];
        pods.extend(["--namespace", self.namespace(), "pod/node-0", "pod/node-1"]);
        self.kubectl.run_within(PATIENCE, &pods)?;
        for (node, first, last) in NODES {
            until(&format!("{node} to take its slots"), PATIENCE, || {
                let reply = self.ask(node, &["CLUSTER", "ADDSLOTSRANGE", first, last]);
                Ok(match reply.as_deref() {
                    Ok("OK") => Probe::Ready(()),
                    other => Probe::NotYet(format!("{other:?}")),
                })
            })?;
        }
        let pod = ["get", "pod", "--namespace", self.namespace(), "node-1"];
        let pod = self.kubectl.json(&pod)?;
        let other = pod["status"]["podIP"].as_str().context("no address")?;
        self.ask("node-0", &["CLUSTER", "MEET", other, "6379"])?;
        for (node, ..) in NODES {
            until(&format!("{node} to see all slots served"), PATIENCE, || {
                let info = self.ask(node, &["CLUSTER", "INFO"])?;
                let all = info.contains("cluster_state:ok")
                    && info.contains("cluster_slots_assigned:16384");
                Ok(if all { Probe::Ready(()) } else { Probe::NotYet(info) })
            })?;
        }
        Ok(())
    }
}

fn objects(namespace: &str, kind: Kind<'_>) -> Vec<Value> {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "redis"}}),
        service("redis-cluster", json!({})),
        service("redis-nodes", json!({"clusterIP": "None", "publishNotReadyAddresses": true})),
    ];
    if let Some(password) = kind.password {
        objects.push(secret(json!({"password": password})));
    }
    if let Some(tls) = kind.tls {
        objects.push(secret(json!({
            "tls.crt": tls.certificate,
            "tls.key": tls.key,
            "ca.crt": tls.authority,
        })));
    }
    for (index, (node, ..)) in NODES.iter().enumerate() {
        objects.push(pod(namespace, node, kind, kind.sidecars[index]));
    }
    objects
}

fn secret(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis"}, "stringData": data})
}

fn service(name: &str, rest: Value) -> Value {
    let mut spec = json!({
        "selector": {"app": "redis-small"},
        "ports": [
            {"name": "tcp-redis", "port": 6379},
            {"name": "tcp-bus", "port": 16379},
        ],
    });
    if let (Some(spec), Value::Object(rest)) = (spec.as_object_mut(), rest) {
        spec.extend(rest);
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn pod(namespace: &str, node: &str, kind: Kind<'_>, sidecar: bool) -> Value {
    let mut command = vec!["redis-server", "--dir", "/data", "--protected-mode", "no"];
    command.extend(["--save", "", "--cluster-enabled", "yes"]);
    command.extend(["--cluster-announce-ip", "$(POD_IP)"]);
    let mut env = vec![json!({
        "name": "POD_IP",
        "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}},
    })];
    let mut mounts = vec![json!({"name": "data", "mountPath": "/data"})];
    let mut volumes = vec![json!({"name": "data", "emptyDir": {}})];
    if kind.password.is_some() {
        let password = json!({"secretKeyRef": {"name": "redis", "key": "password"}});
        // The last one is for redis-cli.
        for name in ["REDIS_PASSWORD", "REDISCLI_AUTH"] {
            env.push(json!({"name": name, "valueFrom": password}));
        }
        command.extend(["--requirepass", "$(REDIS_PASSWORD)"]);
    }
    let host = format!("{node}.redis-nodes.{namespace}.svc.cluster.local");
    if kind.tls.is_some() {
        mounts.push(json!({"name": "tls", "mountPath": "/tls"}));
        volumes.push(json!({"name": "tls", "secret": {"secretName": "redis"}}));
        command.extend(["--port", "0", "--tls-port", "6379", "--tls-cluster", "yes"]);
        command.extend(["--tls-auth-clients", "no", "--tls-cert-file", "/tls/tls.crt"]);
        command.extend(["--tls-key-file", "/tls/tls.key", "--tls-ca-cert-file", "/tls/ca.crt"]);
        command.extend(["--cluster-announce-hostname", host.as_str()]);
        command.extend(["--cluster-preferred-endpoint-type", "hostname"]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": node,
            "labels": {"app": "redis-small", "sidecar.istio.io/inject": sidecar.to_string()},
            "annotations": {"proxy.istio.io/config": "proxyMetadata: {SECRET_TTL: 30s}"},
        },
        "spec": {
            "hostname": node,
            "subdomain": "redis-nodes",
            "serviceAccountName": "redis",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "redis",
                "image": IMAGE,
                "command": command,
                "env": env,
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    })
}
