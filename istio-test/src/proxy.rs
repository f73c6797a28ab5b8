//! Pods with an Envoy, and the services they see.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::Value;

/// The namespace whose objects are for all others, too.
pub(crate) const ROOT_NAMESPACE: &str = "istio-system";

/// A pod with an Envoy of Istio's, as istiod knows it.
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's labels.
    pub labels: BTreeMap<String, String>,
    /// What else its Envoy's node tells of it, such as `ISTIO_META_` variables.
    pub metadata: BTreeMap<String, String>,
    /// Its Istio: `1.31.0`.
    pub version: String,
    /// Its Envoy; `None` is the one that `make deps` installed.
    pub envoy: Option<PathBuf>,
    /// The ConfigMap that its annotation `sidecar.istio.io/bootstrapOverride` names.
    pub bootstrap_override: Option<String>,
    /// Whether it is a gateway rather than a client's sidecar. It has no listener of its own.
    pub gateway: bool,
    /// Variables of its Envoy's container.
    pub environment: BTreeMap<String, String>,
}

impl Proxy {
    /// A sidecar of the newest Istio, of a client that has opted in.
    pub fn client(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "redis-client".to_owned(),
            labels: BTreeMap::from([("slotmesh".to_owned(), "enabled".to_owned())]),
            metadata: BTreeMap::new(),
            version: "1.31.0".to_owned(),
            envoy: None,
            bootstrap_override: None,
            gateway: false,
            environment: BTreeMap::new(),
        }
    }

    /// What Envoy calls itself.
    pub(crate) fn node_id(&self) -> String {
        let kind = if self.gateway { "router" } else { "sidecar" };
        let Self { name, namespace, .. } = self;
        format!("{kind}~127.0.0.1~{name}.{namespace}~{namespace}.svc.cluster.local")
    }

    /// The context of its patches for what goes out.
    pub(crate) fn context(&self) -> &'static str {
        if self.gateway { "GATEWAY" } else { "SIDECAR_OUTBOUND" }
    }

    /// Whether an EnvoyFilter or a WasmPlugin is for it.
    pub(crate) fn selects(&self, object: &Value) -> bool {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let spec = &object["spec"];
        let labels = &spec["workloadSelector"]["labels"];
        let labels = if labels.is_null() { &spec["selector"]["matchLabels"] } else { labels };
        [ROOT_NAMESPACE, &self.namespace].contains(&namespace) && self.has_labels(labels)
    }

    /// Whether its pod has all of these labels.
    pub(crate) fn has_labels(&self, labels: &Value) -> bool {
        let has = |(name, value): (&String, &Value)| {
            self.labels.get(name).is_some_and(|label| value == label.as_str())
        };
        labels.as_object().into_iter().flatten().all(has)
    }

    /// Its Istio's minor version.
    pub(crate) fn minor(&self) -> u32 {
        self.version.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or_default()
    }
}

/// A service of plain TCP.
#[derive(Clone, Debug)]
pub struct Service {
    /// `redis-cluster.redis.svc.cluster.local`.
    pub host: String,
    /// Its cluster IP.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Where its pods listen.
    pub endpoints: Vec<SocketAddr>,
    /// Those of them whose pods have a sidecar.
    pub sidecars: Vec<SocketAddr>,
    /// How its address becomes that of an endpoint.
    pub resolution: Resolution,
}

/// How the address of a service becomes that of an endpoint.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Resolution {
    /// It has a cluster IP, and istiod tells the endpoints.
    ClusterIp,
    /// It has no cluster IP: each of its pods has a listener.
    Headless,
    /// Not at all: connections go to where the client was going. A ServiceEntry's
    /// `resolution: NONE`.
    None,
}

impl Service {
    /// The name of its Envoy cluster, and of that cluster's endpoints.
    pub(crate) fn cluster(&self) -> String {
        format!("outbound|{}||{}", self.port, self.host)
    }

    /// The addresses that clients connect to, each of which has a listener.
    pub(crate) fn addresses(&self) -> BTreeSet<String> {
        if self.resolution == Resolution::Headless {
            return self.endpoints.iter().map(|endpoint| endpoint.ip().to_string()).collect();
        }
        BTreeSet::from([self.address.clone()])
    }
}
