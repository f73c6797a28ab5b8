//! What istiod generates for a proxy: a baseline made of services and VirtualServices, changed
//! by WasmPlugins and EnvoyFilters.

use anyhow::Result;
use serde_json::{Value, json};

use crate::envoyfilter::Patches;
use crate::proxy::{Proxy, Resolution, Service};
use crate::traffic;
use crate::wasmplugin;

/// The listener to which all that a pod sends is redirected.
pub(crate) const VIRTUAL_OUTBOUND: &str = "virtualOutbound";

/// Everything that a proxy can ask istiod for, in protobuf's JSON.
#[derive(Clone, Debug, Default)]
pub struct Rendered {
    /// `envoy.config.cluster.v3.Cluster`.
    pub clusters: Vec<Value>,
    /// `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    pub endpoints: Vec<Value>,
    /// `envoy.config.listener.v3.Listener`.
    pub listeners: Vec<Value>,
    /// `envoy.config.core.v3.TypedExtensionConfig`, with the module still where it is published.
    pub extensions: Vec<Value>,
}

/// What `proxy` is given for `services` after `objects` have been applied.
///
/// # Errors
/// An object has a word that is not implemented here.
pub fn render(proxy: &Proxy, services: &[Service], objects: &[Value]) -> Result<Rendered> {
    let plugins = wasmplugin::select(objects, proxy)?;
    let patches = Patches::select(objects, proxy)?;
    let context = proxy.context();
    let services = [services, &traffic::entries(objects, proxy)?].concat();

    let mut listeners = Vec::new();
    if !proxy.gateway {
        listeners.push(virtual_outbound());
        for service in &services {
            let fits = |plugin: &&&Value| wasmplugin::fits_port(plugin, service.port);
            let filters = plugins.iter().filter(fits);
            let filters: Vec<Value> =
                filters.map(|plugin| wasmplugin::filter(plugin, proxy)).collect();
            let destination = traffic::destination(service, objects, proxy)?;
            for address in service.addresses() {
                listeners.push(listener(service, &address, filters.clone(), &destination));
            }
        }
    }
    patches.patch_listeners(&mut listeners, context);

    let mut clusters: Vec<Value> = services.iter().map(cluster).collect();
    clusters.push(original_dst("PassthroughCluster"));
    patches.patch_clusters(&mut clusters, context);

    let mut extensions: Vec<Value> = patches.extensions().cloned().collect();
    for plugin in plugins {
        extensions.push(wasmplugin::extension(plugin, proxy)?);
    }
    let endpoints = services.iter().map(endpoints).collect();
    Ok(Rendered { clusters, endpoints, listeners, extensions })
}

/// A service's listener at one of its addresses. It is not bound: the pod's traffic comes to it by
/// way of virtualOutbound.
fn listener(service: &Service, address: &str, mut filters: Vec<Value>, destination: &str) -> Value {
    filters.push(tcp_proxy(destination));
    json!({
        "name": format!("{address}_{}", service.port),
        "address": {"socket_address": {"address": address, "port_value": service.port}},
        "traffic_direction": "OUTBOUND",
        "bind_to_port": false,
        "listener_filters_timeout": "0s",
        "continue_on_listener_filters_timeout": true,
        "filter_chains": [{"transport_socket_connect_timeout": "15s", "filters": filters}],
    })
}

fn virtual_outbound() -> Value {
    json!({
        "name": VIRTUAL_OUTBOUND,
        "address": {"socket_address": {"address": "0.0.0.0", "port_value": 15001}},
        "traffic_direction": "OUTBOUND",
        "bind_to_port": false,
        "default_filter_chain": {
            "name": "PassthroughFilterChain",
            "filters": [tcp_proxy("PassthroughCluster")],
        },
    })
}

fn tcp_proxy(cluster: &str) -> Value {
    json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": cluster,
            "cluster": cluster,
        },
    })
}

fn cluster(service: &Service) -> Value {
    if service.resolution != Resolution::ClusterIp {
        return original_dst(&service.cluster());
    }
    json!({
        "name": service.cluster(),
        "type": "EDS",
        "eds_cluster_config": {
            "service_name": service.cluster(),
            "eds_config": {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"},
        },
        "connect_timeout": "10s",
        "lb_policy": "LEAST_REQUEST",
    })
}

fn original_dst(name: &str) -> Value {
    json!({
        "name": name,
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "connect_timeout": "10s",
    })
}

fn endpoints(service: &Service) -> Value {
    let endpoints = service.endpoints.iter().map(|endpoint| {
        let (address, port) = (endpoint.ip().to_string(), endpoint.port());
        let address = json!({"socket_address": {"address": address, "port_value": port}});
        let mut rendered = json!({"endpoint": {"address": address}});
        if service.sidecars.contains(endpoint) {
            let metadata = json!({"envoy.transport_socket_match": {"tlsMode": "istio"}});
            rendered["metadata"] = json!({"filter_metadata": metadata});
        }
        rendered
    });
    json!({
        "cluster_name": service.cluster(),
        "endpoints": [{"lb_endpoints": endpoints.collect::<Vec<Value>>()}],
    })
}
