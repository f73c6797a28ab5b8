//! What istiod makes of WasmPlugins of type NETWORK: a filter without configuration in each
//! listener, and an extension configuration that Envoy asks for.

use std::slice;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use crate::proxy::Proxy;

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
const RBAC: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";

/// The label by which the pods of a Gateway of the Kubernetes Gateway API are known.
const GATEWAY_NAME: &str = "gateway.networking.k8s.io/gateway-name";

/// What the module's digest is called where none is given.
const NO_DIGEST: &str = "nil";

/// The WasmPlugins for `proxy`, in the order in which their filters come.
pub(crate) fn select<'a>(objects: &'a [Value], proxy: &Proxy) -> Result<Vec<&'a Value>> {
    let mut plugins: Vec<&Value> = objects
        .iter()
        .filter(|object| object["kind"] == "WasmPlugin" && is_attached(object, proxy))
        .collect();
    for plugin in &plugins {
        ensure!(
            plugin["spec"]["type"] == "NETWORK",
            "istio-test knows WasmPlugins of type NETWORK only"
        );
    }
    plugins.sort_by_key(|plugin| {
        let phases = ["AUTHN", "AUTHZ", "STATS"];
        let phase = plugin["spec"]["phase"].as_str();
        let phase = phase.and_then(|phase| phases.iter().position(|known| *known == phase));
        let priority = plugin["spec"]["priority"].as_i64().unwrap_or_default();
        (phase.unwrap_or(phases.len()), -priority)
    });
    Ok(plugins)
}

/// Whether it is for `proxy`: by its selector, or by naming the Gateway whose pod that is. Whatever
/// names something else is for waypoints, which are not rendered here.
fn is_attached(plugin: &Value, proxy: &Proxy) -> bool {
    let spec = &plugin["spec"];
    let targets = match spec["targetRefs"].as_array() {
        Some(targets) if !targets.is_empty() => targets.as_slice(),
        _ => slice::from_ref(&spec["targetRef"]),
    };
    if targets.iter().all(Value::is_null) {
        return proxy.selects(plugin);
    }
    let namespace = &plugin["metadata"]["namespace"];
    let Some(gateway) = proxy.labels.get(GATEWAY_NAME) else { return false };
    *namespace == proxy.namespace
        && targets.iter().any(|target| {
            target["group"] == "gateway.networking.k8s.io"
                && target["kind"] == "Gateway"
                && target["name"] == *gateway
                && (target["namespace"].is_null() || target["namespace"] == *namespace)
        })
}

/// Whether it is for what this proxy sends to services on `port`.
pub(crate) fn fits_port(plugin: &Value, port: u16) -> bool {
    let Some(matches) = plugin["spec"]["match"].as_array() else { return true };
    matches.iter().any(|entry| {
        let mode = entry["mode"].as_str().unwrap_or("CLIENT_AND_SERVER");
        let ports = entry["ports"].as_array();
        mode.contains("CLIENT")
            && ports.is_none_or(|ports| ports.iter().any(|wanted| wanted["number"] == port))
    })
}

/// The filter that stands for it in a listener.
pub(crate) fn filter(plugin: &Value, proxy: &Proxy) -> Value {
    json!({
        "name": resource_name(plugin, proxy),
        "config_discovery": {
            "config_source": {
                "ads": {},
                "initial_fetch_timeout": "0s",
                "resource_api_version": "V3",
            },
            "type_urls": [WASM, RBAC],
        },
    })
}

/// What Envoy is given when it asks for that filter's configuration.
pub(crate) fn extension(plugin: &Value, proxy: &Proxy) -> Result<Value> {
    let (spec, metadata) = (&plugin["spec"], &plugin["metadata"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let url = spec["url"].as_str().context("a WasmPlugin without url")?;
    let policy = match spec["failStrategy"].as_str().unwrap_or("FAIL_CLOSE") {
        "FAIL_CLOSE" => "FAIL_CLOSED",
        policy @ ("FAIL_OPEN" | "FAIL_RELOAD") => policy,
        other => bail!("failStrategy: {other}"),
    };
    let mut config = json!({
        "name": format!("{}.{}", text(&metadata["namespace"]), text(&metadata["name"])),
        "root_id": text(&spec["pluginName"]),
        "failure_policy": policy,
        "vm_config": {
            "runtime": "envoy.wasm.runtime.v8",
            "code": {
                "remote": {
                    "http_uri": {"uri": url, "cluster": "_", "timeout": "30s"},
                    "sha256": spec["sha256"].as_str().unwrap_or(NO_DIGEST),
                },
            },
        },
    });
    let configuration = &spec["pluginConfig"];
    if configuration.as_object().is_some_and(|words| !words.is_empty()) {
        config["configuration"] = json!({
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": configuration.to_string(),
        });
    }
    if let Some(variables) = spec["vmConfig"]["env"].as_array() {
        config["vm_config"]["environment_variables"] = environment(variables);
    }
    Ok(json!({
        "name": resource_name(plugin, proxy),
        "typed_config": {"@type": WASM, "config": config},
    }))
}

fn environment(variables: &[Value]) -> Value {
    let (mut given, mut host) = (Map::new(), Vec::new());
    for variable in variables {
        match variable["valueFrom"] == "HOST" {
            true => host.push(variable["name"].clone()),
            false => {
                let name = variable["name"].as_str().unwrap_or_default();
                given.insert(name.to_owned(), variable["value"].clone());
            }
        }
    }
    json!({"key_values": given, "host_env_keys": host})
}

/// Each Istio has had its own way to name it, the oldest with a slip of the pen.
fn resource_name(plugin: &Value, proxy: &Proxy) -> String {
    let [namespace, name] =
        ["namespace", "name"].map(|word| plugin["metadata"][word].as_str().unwrap_or_default());
    match proxy.minor() {
        ..=25 => format!("extenstions.istio.io/wasmplugin/{namespace}.{name}"),
        26..=29 => format!("extensions.istio.io/wasmplugin/{namespace}.{name}"),
        _ => format!(
            "extensions.istio.io/trafficextension/{namespace}.{name}~istio-translated-wasmplugin"
        ),
    }
}
