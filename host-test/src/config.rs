//! What a host is told before it starts.

use std::{collections::BTreeMap, time::Duration};

use crate::log::{Level, Log};

/// The two plugins that one Slotmesh .wasm is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// The network filter between client and `echo`.
    Router,
    /// The HTTP filter on the upstream side of the cluster.
    Tunnel,
}

impl Role {
    /// The plugin's `root_id`, which is also its name.
    #[must_use]
    pub fn root_id(self) -> &'static str {
        match self {
            Self::Router => "router",
            Self::Tunnel => "tunnel",
        }
    }
}

/// In how many VMs the two plugins run: Envoy has one for each `vm_id`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Vms {
    /// Both have the same `vm_id`, and the tunnel is entered from within the router's calls.
    #[default]
    One,
    /// Each has its own `vm_id`, and the two share nothing.
    Two,
}

/// When a guest learns that a stream ended while it was calling the host.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Reentrancy {
    /// After its callback has returned, as Envoy does.
    #[default]
    Deferred,
    /// At once, inside the host call: the guest is entered a second time. Envoy does not do this; a
    /// plugin that survives it does not depend on Envoy's deferring.
    Immediate,
}

/// How the Envoy cluster finds the host of a new stream.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum HostSelection {
    /// As the dynamic_forward_proxy cluster does: a host that was never dialled is looked up first,
    /// and a stream on which something is sent meanwhile is reset (seen on Envoy 1.40.0: "the
    /// buffer limit for the async client has been exceeded due to async host selection").
    #[default]
    Asynchronous,
    /// As ORIGINAL_DST and EDS clusters do: at once, and what is sent waits for the connection.
    Synchronous,
}

/// How a host is to be set up.
#[derive(Clone)]
pub struct Config {
    /// The router's configuration: what `WasmPlugin.pluginConfig` becomes.
    pub plugin_configuration: Vec<u8>,
    /// In how many VMs the plugins run.
    pub vms: Vms,
    /// Every VM's configuration: Envoy's `vm_config.configuration`.
    pub vm_configuration: Vec<u8>,
    /// Every VM's environment: Envoy's `vm_config.environment_variables`.
    pub environment: BTreeMap<String, String>,
    /// The Envoy clusters there are; `None` means that every name is one.
    pub envoy_clusters: Option<Vec<String>>,
    /// The only addresses that they have endpoints for, as under the `override_host` policy: a
    /// stream to another one fails inside the call that opens it. `None` means that every address
    /// will do.
    pub endpoints: Option<Vec<String>>,
    /// Headers that each stream has when its tunnel sees it, in place of the router's of their
    /// names: what another filter before the tunnel may do.
    pub stream_headers: Vec<(String, String)>,
    /// How their hosts are found.
    pub host_selection: HostSelection,
    /// The most memory each VM may have, in bytes. Envoy sets no limit of its own below 4 GiB.
    pub memory_limit: usize,
    /// How long a connection to a node may take: Envoy's `connect_timeout` of the cluster.
    pub connect_timeout: Duration,
    /// When stream ends are delivered.
    pub reentrancy: Reentrancy,
    /// What `random_get` repeats.
    pub seed: u64,
    /// Where log lines go.
    pub log: Log,
}

impl Config {
    /// A host whose router is configured with `plugin_configuration`. All else: one VM, no
    /// environment, any Envoy cluster and address, hosts found asynchronously, 256 MiB, 1 s to
    /// connect, seed 0, log lines of level info captured.
    pub fn new(plugin_configuration: impl Into<Vec<u8>>) -> Self {
        Self {
            plugin_configuration: plugin_configuration.into(),
            vms: Vms::default(),
            vm_configuration: Vec::new(),
            environment: BTreeMap::new(),
            envoy_clusters: None,
            endpoints: None,
            stream_headers: Vec::new(),
            host_selection: HostSelection::default(),
            memory_limit: 256 << 20,
            connect_timeout: Duration::from_secs(1),
            reentrancy: Reentrancy::default(),
            seed: 0,
            log: Log::captured(Level::Info),
        }
    }

    /// The configuration a plugin is given: the tunnel has none.
    pub(crate) fn plugin_configuration(&self, role: Role) -> &[u8] {
        match role {
            Role::Router => &self.plugin_configuration,
            Role::Tunnel => &[],
        }
    }
}
