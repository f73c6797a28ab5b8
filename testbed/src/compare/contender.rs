//! The two proxies, started with the same words.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use super::session::Session;
use crate::{Envoy, EnvoyOptions, PluginConfig, RedisCluster, RedisServer};

/// Who is looked at.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Contender {
    /// Envoy's `redis_proxy` with `envoy.clusters.redis`.
    RedisProxy,
    /// Slotmesh on the same Envoy binary.
    Slotmesh,
}

/// What a route names.
pub(super) enum Upstream {
    Cluster(Vec<String>),
    Standalone(SocketAddr),
}

/// A running proxy.
pub(super) struct Proxy {
    envoy: Envoy,
}

/// What both proxies are told: redis_proxy's own words, and who is behind the names in them.
pub(super) struct Setup {
    redis_proxy: Value,
    upstreams: Vec<(&'static str, Upstream)>,
}

impl Contender {
    /// Both, in the order of the document's columns.
    pub const ALL: [Self; 2] = [Self::RedisProxy, Self::Slotmesh];

    pub(super) fn start(self, setup: &Setup) -> Result<Proxy> {
        let mut options = match self {
            Self::RedisProxy => native(setup),
            Self::Slotmesh => EnvoyOptions::new(PluginConfig::from_text(slotmesh(setup))),
        };
        // Clients of one worker share their connections to a node: what befalls one may befall all.
        options.concurrency = 1;
        let envoy = Envoy::start(options).with_context(|| format!("starting {self:?}"))?;
        Ok(Proxy { envoy })
    }
}

impl Proxy {
    pub(super) fn addr(&self) -> SocketAddr {
        self.envoy.addr()
    }

    pub(super) fn connect(&self) -> Result<Session> {
        Session::connect(self.addr())
    }
}

impl Setup {
    /// `settings` before one cluster, called `redis`, for all keys.
    pub(super) fn new(settings: Value, cluster: &RedisCluster) -> Self {
        let redis_proxy = json!({
            "stat_prefix": "redis",
            "settings": settings,
            "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
        });
        Self { redis_proxy, upstreams: vec![("redis", Upstream::Cluster(cluster.seeds()))] }
    }

    /// With a standalone server, or a port where none is, under another name.
    pub(super) fn and(mut self, name: &'static str, server: SocketAddr) -> Self {
        self.upstreams.push((name, Upstream::Standalone(server)));
        self
    }

    /// With other routes.
    pub(super) fn routes(mut self, routes: Value) -> Self {
        self.redis_proxy["prefix_routes"] = routes;
        self
    }

    /// With another word at the root.
    pub(super) fn word(mut self, name: &str, value: Value) -> Self {
        self.redis_proxy[name] = value;
        self
    }
}

/// The settings that most users write.
pub(super) fn usual() -> Value {
    json!({"op_timeout": "5s", "enable_redirection": true})
}

/// A port where nobody listens, held by a server that was stopped.
pub(super) fn nobody() -> Result<RedisServer> {
    let server = RedisServer::start(&[])?;
    server.kill();
    Ok(server)
}

fn slotmesh(setup: &Setup) -> String {
    let mut config = setup.redis_proxy.clone();
    let clusters: Map<String, Value> = setup
        .upstreams
        .iter()
        .map(|(name, upstream)| {
            let cluster = match upstream {
                Upstream::Cluster(seeds) => json!({"seeds": seeds, "cluster_refresh_rate": RATE}),
                Upstream::Standalone(addr) => {
                    json!({"type": "STANDALONE", "seeds": [addr.to_string()]})
                }
            };
            ((*name).to_owned(), cluster)
        })
        .collect();
    config["clusters"] = clusters.into();
    config.to_string()
}

/// Time between two topology refreshes: what redis_proxy does by default.
const RATE: &str = "5s";

fn native(setup: &Setup) -> EnvoyOptions {
    let mut filter = setup.redis_proxy.clone();
    filter["@type"] =
        "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy".into();
    let clusters: Vec<Value> =
        setup.upstreams.iter().map(|(name, upstream)| native_cluster(name, upstream)).collect();
    let bootstrap = json!({
        "admin": {"address": address("127.0.0.1", "@ADMIN_PORT@")},
        "static_resources": {
            "listeners": [{
                "name": "redis_proxy",
                "address": address("@LISTEN_ADDRESS@", "@LISTEN_PORT@"),
                "filter_chains": [{"filters": [{
                    "name": "envoy.filters.network.redis_proxy",
                    "typed_config": filter,
                }]}],
            }],
            "clusters": clusters,
        },
    });
    // Its template has no place for the module's configuration.
    let mut options = EnvoyOptions::new(PluginConfig::from_text(""));
    options.template = bootstrap.to_string().into();
    options
}

fn native_cluster(name: &str, upstream: &Upstream) -> Value {
    let (kind, addresses) = match upstream {
        Upstream::Standalone(addr) => (json!({"type": "STATIC"}), vec![addr.to_string()]),
        Upstream::Cluster(seeds) => {
            let kind = json!({
                "lb_policy": "CLUSTER_PROVIDED",
                "cluster_type": {
                    "name": "envoy.clusters.redis",
                    "typed_config": {
                        "@type": "type.googleapis.com/google.protobuf.Struct",
                        "value": {"cluster_refresh_rate": RATE},
                    },
                },
            });
            (kind, seeds.clone())
        }
    };
    let endpoints: Vec<Value> = addresses
        .iter()
        .filter_map(|text| text.rsplit_once(':'))
        .map(|(host, port)| json!({"endpoint": {"address": address(host, port)}}))
        .collect();
    let mut cluster = json!({
        "name": name,
        "connect_timeout": "1s",
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    });
    if let (Value::Object(cluster), Value::Object(kind)) = (&mut cluster, kind) {
        cluster.extend(kind);
    }
    cluster
}

fn address(host: &str, port: &str) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}
