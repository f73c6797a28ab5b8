//! A cluster of six nodes with Envoy before it, for one test or for all of a program.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use anyhow::Result;
use redis::Connection;
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, or_skip, process,
};

/// Time for one program; it needs seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster of six nodes with Envoy before it, for one test alone.
pub(crate) fn start() -> (RedisCluster, Envoy) {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let envoy = Envoy::start(EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds())));
    (cluster, envoy.unwrap())
}

/// A cluster with Envoy before it.
pub(crate) struct Proxy {
    pub(crate) envoy: Envoy,
    pub(crate) cluster: RedisCluster,
}

impl Proxy {
    /// One for all tests that run at the same time; the last of them ends it.
    pub(crate) fn start() -> Arc<Self> {
        static SHARED: Mutex<Weak<Proxy>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let (cluster, envoy) = start();
            let proxy = Arc::new(Self { envoy, cluster });
            *shared = Arc::downgrade(&proxy);
            proxy
        })
    }

    pub(crate) fn host(&self) -> String {
        self.envoy.addr().ip().to_string()
    }

    pub(crate) fn port(&self) -> String {
        self.envoy.addr().port().to_string()
    }

    /// A connection of the `redis` crate, with its options in the form of a URL's query.
    pub(crate) fn connect(&self, query: &str) -> Connection {
        let url = format!("redis://{}/{query}", self.envoy.addr());
        let connection = redis::Client::open(url).unwrap().get_connection().unwrap();
        // Only so that a test ends; no option of the client itself.
        connection.set_read_timeout(Some(PATIENCE)).unwrap();
        connection
    }

    /// Runs the program of a client to its end; `None` if that could not be installed.
    pub(crate) fn run(&self, client: Result<Command>) -> Option<()> {
        let mut command = or_skip(client)?;
        command.args([self.host(), self.port()]);
        process::run(command, PATIENCE).unwrap();
        Some(())
    }
}
