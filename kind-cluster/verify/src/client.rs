//! A pod with a plain redis-cli, a sidecar and the label that asks for Slotmesh.

use std::net::SocketAddr;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use slotmesh_testbed::wait::{Probe, until};

use crate::kubectl::Kubectl;
use crate::load::Load;
use crate::manifest::Manifest;
use crate::namespace::Namespace;

/// Time for a pod with a sidecar to become ready, and for configuration to reach it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// The address of the Redis Cluster for who uses it.
pub(crate) const REDIS: &str = "redis-cluster.redis";

/// A deployment of one pod in a namespace of its own.
#[derive(Debug)]
pub(crate) struct Client {
    kubectl: Kubectl,
    namespace: Namespace,
    /// As kubectl wants to have it.
    deployment: String,
}

impl Client {
    /// Starts it in the namespace, after Slotmesh has been put there.
    pub(crate) fn start(kubectl: &Kubectl, name: &str, slotmesh: &Manifest) -> Result<Self> {
        let namespace = Namespace::create(kubectl, name, "enabled")?;
        slotmesh.apply(kubectl, name)?;
        let client = Self::deploy(kubectl, namespace, &deployment(kubectl, "plain")?)?;
        client.until_it_serves(REDIS)?;
        Ok(client)
    }

    /// Starts a deployment that may differ from the usual one, with whatever is in the namespace.
    pub(crate) fn deploy(
        kubectl: &Kubectl,
        namespace: Namespace,
        deployment: &Manifest,
    ) -> Result<Self> {
        let client = Self::create(kubectl, namespace, deployment)?;
        client.until_ready()?;
        Ok(client)
    }

    /// The same without waiting for it.
    pub(crate) fn create(
        kubectl: &Kubectl,
        namespace: Namespace,
        deployment: &Manifest,
    ) -> Result<Self> {
        let name = &namespace.name().to_owned();
        let kubectl = kubectl.clone();
        let client = Self { kubectl, namespace, deployment: format!("deployment/{name}") };
        client.apply(&deployment.with("redis-client", name)?)?;
        Ok(client)
    }

    pub(crate) fn namespace(&self) -> &str {
        self.namespace.name()
    }

    pub(crate) fn until_ready(&self) -> Result<()> {
        let args = ["rollout", "status", "--namespace", self.namespace(), &self.deployment];
        self.kubectl.run_within(PATIENCE, &args)?;
        Ok(())
    }

    /// Whether its pod is ready.
    pub(crate) fn is_ready(&self) -> Result<bool> {
        let of = ["get", "--namespace", self.namespace(), &self.deployment];
        Ok(self.kubectl.json(&of)?["status"]["readyReplicas"] == 1)
    }

    /// Puts a manifest into its namespace.
    pub(crate) fn apply(&self, manifest: &Manifest) -> Result<()> {
        manifest.apply(&self.kubectl, self.namespace())
    }

    /// Takes a manifest out of it.
    pub(crate) fn delete(&self, manifest: &Manifest) -> Result<()> {
        manifest.delete(&self.kubectl, self.namespace())
    }

    /// What redis-cli prints for a command that it sends to a host.
    pub(crate) fn redis(&self, host: &str, command: &[&str]) -> Result<String> {
        let args = [&["redis-cli", "-h", host], command].concat();
        Ok(self.exec("client", &args)?.trim_end().to_owned())
    }

    /// Waits until keys of several slots can be written at once: only Slotmesh takes that.
    pub(crate) fn until_it_serves(&self, host: &str) -> Result<()> {
        until(&format!("Slotmesh to serve {host}"), PATIENCE, || {
            Ok(Probe::retry(self.serves(host)))
        })
    }

    /// Whether keys of several slots can be written at once.
    pub(crate) fn serves(&self, host: &str) -> Result<()> {
        let reply = self.redis(host, &["MSET", "a", "a", "b", "b", "c", "c"])?;
        ensure!(reply == "OK", "{reply}");
        Ok(())
    }

    /// The router's configuration as the sidecar has it, and since when.
    pub(crate) fn router(&self) -> Result<String> {
        self.envoy("config_dump?resource=ecds_filters")
    }

    /// Waits until the sidecar has another router than before.
    pub(crate) fn until_router_differs(&self, before: &str) -> Result<()> {
        until("the sidecar to take the change", PATIENCE, || {
            Ok(match self.router()? == before {
                true => Probe::NotYet("it has not".to_owned()),
                false => Probe::Ready(()),
            })
        })
    }

    /// Waits until the sidecar's log holds a text.
    pub(crate) fn until_it_logs(&self, text: &str) -> Result<()> {
        until(&format!("`{text}` in the log"), PATIENCE, || {
            Ok(match self.log()?.contains(text) {
                true => Probe::Ready(()),
                false => Probe::NotYet("it is not there".to_owned()),
            })
        })
    }

    /// What the sidecar's Envoy answers at its admin interface.
    pub(crate) fn envoy(&self, path: &str) -> Result<String> {
        self.exec("istio-proxy", &["pilot-agent", "request", "GET", path])
    }

    /// The sidecar's log.
    pub(crate) fn log(&self) -> Result<String> {
        let of = ["--namespace", self.namespace(), &self.deployment];
        self.kubectl.run(&[&["logs", "--container", "istio-proxy"], &of[..]].concat())
    }

    /// Starts the load against an address.
    pub(crate) fn load(&self, addr: SocketAddr, options: &[&str]) -> Result<Load> {
        let program = env::current_exe()?.with_file_name("slotmesh-load");
        let program = fs::read(&program).with_context(|| format!("{}", program.display()))?;
        self.put("client", program, "/load/load")?;
        let addr = addr.to_string();
        let words = [&["/load/load", addr.as_str()], options].concat();
        Load::start(self.kubectl.command(&self.words("client", &words)))
    }

    /// Makes an executable file in a container. It is moved into place whole.
    pub(crate) fn put(&self, container: &str, content: Vec<u8>, path: &str) -> Result<()> {
        let put = format!("cat >{path}.new && chmod 755 {path}.new && mv {path}.new {path}");
        self.kubectl.feed(content, &self.words(container, &["sh", "-c", &put]))?;
        Ok(())
    }

    /// A load that ends as soon as it has seen enough, without an error.
    pub(crate) fn traffic(&self, addr: SocketAddr) -> Result<String> {
        let load = self.load(addr, &["--renew", "20"])?;
        load.goes_on()?;
        load.finish_flawless()
    }

    fn exec(&self, container: &str, command: &[&str]) -> Result<String> {
        self.kubectl.run(&self.words(container, command))
    }

    /// The arguments of kubectl that run a command in a container of the pod.
    fn words<'a>(&'a self, container: &'a str, command: &[&'a str]) -> Vec<&'a str> {
        let exec = ["exec", "--stdin", "--namespace", self.namespace(), &self.deployment];
        [&exec[..], &["--container", container, "--"], command].concat()
    }
}

/// A deployment of `clients/`.
pub(crate) fn deployment(kubectl: &Kubectl, kind: &str) -> Result<Manifest> {
    Manifest::build(kubectl, &format!("../kind-cluster/verify/clients/{kind}"))
}
