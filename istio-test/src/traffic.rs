//! What istiod makes of ServiceEntries and VirtualServices: more services, and other destinations
//! for TCP.

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::proxy::{Proxy, Resolution, Service};

/// The services that ServiceEntries add for `proxy`.
pub(crate) fn entries(objects: &[Value], proxy: &Proxy) -> Result<Vec<Service>> {
    let mut services = Vec::new();
    for entry in of_kind(objects, "ServiceEntry", proxy) {
        let spec = &entry["spec"];
        ensure!(
            spec["resolution"] == "NONE",
            "istio-test knows ServiceEntries with resolution: NONE only"
        );
        for host in texts(&spec["hosts"]) {
            for (address, port) in texts(&spec["addresses"])
                .flat_map(|address| ports(spec).map(move |port| (address, port)))
            {
                services.push(Service {
                    host: host.to_owned(),
                    address: address.to_owned(),
                    port: port.context("a ServiceEntry's port without a number")?,
                    endpoints: Vec::new(),
                    sidecars: Vec::new(),
                    resolution: Resolution::None,
                });
            }
        }
    }
    Ok(services)
}

/// The Envoy cluster to which `proxy` sends what is for `service`.
pub(crate) fn destination(service: &Service, objects: &[Value], proxy: &Proxy) -> Result<String> {
    for object in of_kind(objects, "VirtualService", proxy) {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        let mut hosts = texts(&object["spec"]["hosts"]).map(|host| full(host, namespace));
        if !hosts.any(|host| host == service.host) {
            continue;
        }
        let routes = object["spec"]["tcp"].as_array().into_iter().flatten();
        let Some(route) = routes.into_iter().find(|route| fits(route, service, proxy)) else {
            continue;
        };
        let Some([route]) = route["route"].as_array().map(Vec::as_slice) else {
            bail!("istio-test knows TCP routes with one destination only");
        };
        let to = &route["destination"];
        let host = full(to["host"].as_str().context("a destination without a host")?, namespace);
        let port = to["port"]["number"].as_u64().unwrap_or_else(|| service.port.into());
        return Ok(format!("outbound|{port}|{}|{host}", to["subset"].as_str().unwrap_or_default()));
    }
    Ok(service.cluster())
}

/// Whether what `proxy` sends to `service` takes this route: one of its matches fits, or it has
/// none.
fn fits(route: &Value, service: &Service, proxy: &Proxy) -> bool {
    let Some(matches) = route["match"].as_array() else { return true };
    matches.iter().any(|wanted| {
        (wanted["port"].is_null() || wanted["port"] == service.port)
            && proxy.has_labels(&wanted["sourceLabels"])
    })
}

/// Those that are exported to the proxy's namespace, in the order of their creation.
fn of_kind<'a>(
    objects: &'a [Value],
    kind: &'a str,
    proxy: &'a Proxy,
) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| {
        let own = object["metadata"]["namespace"] == *proxy.namespace;
        let exported = object["spec"]["exportTo"].as_array();
        let reaches = |to: &Value| to == "*" || to == &*proxy.namespace || (to == "." && own);
        object["kind"] == kind && exported.is_none_or(|all| all.iter().any(reaches))
    })
}

/// A host as istiod reads it: without a dot it is a Service of the object's own namespace.
fn full(host: &str, namespace: &str) -> String {
    match host.contains('.') {
        true => host.to_owned(),
        false => format!("{host}.{namespace}.svc.cluster.local"),
    }
}

fn ports(spec: &Value) -> impl Iterator<Item = Option<u16>> {
    let ports = spec["ports"].as_array().into_iter().flatten();
    ports.map(|port| port["number"].as_u64().and_then(|number| number.try_into().ok()))
}

fn texts(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
