//! What the checks share.

use std::cell::OnceCell;
use std::net::SocketAddr;

use anyhow::{Context, Result};

use crate::client::Client;
use crate::kubectl::Kubectl;
use crate::manifest::Manifest;
use crate::redis;

/// The mesh, and a client in it that is started for the first check that wants one.
pub(crate) struct Stage {
    pub(crate) kubectl: Kubectl,
    client: OnceCell<Client>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        Self { kubectl: Kubectl::of_the_mesh(), client: OnceCell::new() }
    }

    /// A client with Slotmesh as base/service has it. A check that changes that puts it back.
    pub(crate) fn client(&self) -> Result<&Client> {
        if self.client.get().is_none() {
            let client = Client::start(&self.kubectl, "verify-client", &self.slotmesh()?)?;
            // It was not there.
            let _ = self.client.set(client);
        }
        self.client.get().context("no client")
    }

    /// Slotmesh as that client has it.
    pub(crate) fn slotmesh(&self) -> Result<Manifest> {
        Manifest::slotmesh(&self.kubectl, "base/service")
    }

    /// Where clients find the Redis Cluster.
    pub(crate) fn redis(&self) -> Result<SocketAddr> {
        redis::service(&self.kubectl, "redis", "redis-cluster")
    }

    /// A Redis that Slotmesh has nothing to do with.
    pub(crate) fn mirror(&self) -> Result<SocketAddr> {
        redis::service(&self.kubectl, "redis", "redis-mirror")
    }

    /// Does something while that client has another Slotmesh, and gives it the usual one back.
    pub(crate) fn with<T>(
        &self,
        slotmesh: &Manifest,
        then: impl FnOnce(&Client) -> Result<T>,
    ) -> Result<T> {
        let client = self.client()?;
        let usual = self.slotmesh()?;
        let router = client.router()?;
        client.apply(slotmesh)?;
        let result = client.until_router_differs(&router).and_then(|()| then(client));
        let changed = client.router();
        usual.put_back(&self.kubectl, client.namespace());
        let seen = result?;
        client.until_router_differs(&changed?)?;
        Ok(seen)
    }
}
