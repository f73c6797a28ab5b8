//! What istiod makes of the manifests, without an Envoy.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};
use slotmesh_istio_test::{Proxy, Rendered, Resolution, Service, kustomize, render};
use slotmesh_testbed::{locate, or_skip};

const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const DOOR: &str = "outbound|6379||redis-cluster.slotmesh.internal";
const ECHO: &str = "envoy.filters.network.echo";

fn base(name: &str) -> Vec<Value> {
    let mut objects = kustomize::build(&locate::workspace().join("istio/base").join(name)).unwrap();
    for object in &mut objects {
        object["metadata"]["namespace"] = "redis-client".into();
    }
    objects
}

fn services() -> Vec<Service> {
    [("redis-cluster.redis", "10.96.0.10", 6379), ("other.default", "10.96.0.11", 9000)]
        .map(|(host, address, port)| Service {
            host: format!("{host}.svc.cluster.local"),
            address: address.to_owned(),
            port,
            endpoints: Vec::new(),
            sidecars: Vec::new(),
            resolution: Resolution::ClusterIp,
        })
        .into()
}

/// The nodes of a cluster, by a headless Service.
fn nodes() -> Service {
    Service {
        host: "nodes.default.svc.cluster.local".to_owned(),
        address: "None".to_owned(),
        port: 6379,
        endpoints: ["10.244.0.1:6379", "10.244.0.2:6379"].map(|node| node.parse().unwrap()).into(),
        sidecars: Vec::new(),
        resolution: Resolution::Headless,
    }
}

fn rendered(proxy: &Proxy, objects: &[Value]) -> Rendered {
    render(proxy, &services(), objects).unwrap()
}

/// The names of the filters of a listener's first chain, or of its default one.
fn filters<'a>(rendered: &'a Rendered, listener: &str) -> Vec<&'a str> {
    let listener = rendered.listeners.iter().find(|found| found["name"] == listener).unwrap();
    let chain =
        listener.pointer("/filter_chains/0").unwrap_or_else(|| &listener["default_filter_chain"]);
    let filters = chain["filters"].as_array().unwrap();
    filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect()
}

fn has_cluster(rendered: &Rendered, name: &str) -> bool {
    rendered.clusters.iter().any(|cluster| cluster["name"] == name)
}

#[test]
fn the_router_the_guard_and_echo_take_the_place_of_tcp_proxy() {
    let client = Proxy::client("client");
    let found = rendered(&client, &base("envoyfilter"));
    assert_eq!(filters(&found, "10.96.0.10_6379"), ["slotmesh.router", "slotmesh.guard", ECHO]);
    assert!(has_cluster(&found, "slotmesh_upstream"));
    let names: Vec<&Value> = found.extensions.iter().map(|found| &found["name"]).collect();
    assert_eq!(names, ["slotmesh.router", "slotmesh.tunnel"]);
}

/// Another Redis on the same port, and single pods of a headless Service, which the nodes may be.
#[test]
fn the_door_changes_where_one_service_leads_to_and_nothing_else() {
    let mut services = services();
    services[1].port = 6379;
    services.push(nodes());
    let client = Proxy::client("client");
    let before = render(&client, &services, &[]).unwrap();
    let after = render(&client, &services, &base("service")).unwrap();
    let named = |resources: &[Value]| -> BTreeMap<String, Value> {
        let name = |resource: &Value| resource["name"].as_str().unwrap().to_owned();
        resources.iter().map(|resource| (name(resource), resource.clone())).collect()
    };
    let mut listeners = named(&after.listeners);
    let own = [listeners.remove("slotmesh"), listeners.remove("240.0.0.1_6379")];
    let [Some(own), Some(_)] = own else { panic!("{listeners:?}") };
    assert!(own["internal_listener"].is_object() && own["address"].is_null());
    let proxy =
        &mut listeners.get_mut("10.96.0.10_6379").unwrap()["filter_chains"][0]["filters"][0];
    assert_eq!(proxy["typed_config"]["cluster"], DOOR);
    let mut expected = named(&before.listeners);
    *proxy = expected["10.96.0.10_6379"]["filter_chains"][0]["filters"][0].clone();
    assert_eq!(listeners, expected);

    let mut clusters = named(&after.clusters);
    assert!(clusters.remove("slotmesh_upstream").is_some());
    let door = clusters.remove(DOOR).unwrap();
    assert_eq!(door["type"], "STATIC");
    let leads_to =
        "/load_assignment/endpoints/0/lb_endpoints/0/endpoint/address/envoy_internal_address";
    assert_eq!(door.pointer(leads_to).unwrap()["server_listener_name"], own["name"]);
    expected = named(&before.clusters);
    assert_eq!(clusters, expected);
}

#[test]
fn the_door_is_for_pods_that_have_opted_in() {
    let mut bystander = Proxy::client("bystander");
    bystander.labels.clear();
    let elsewhere = Proxy { namespace: "other".to_owned(), ..Proxy::client("client") };
    for proxy in [&bystander, &elsewhere] {
        let before = rendered(proxy, &[]);
        let mut after = rendered(proxy, &base("service"));
        after.listeners.retain(|listener| listener["name"] != "240.0.0.1_6379");
        assert_eq!(after.listeners, before.listeners, "{}", proxy.name);
    }
}

/// Both halves are there whatever the version: a router alone would have its replies sent on to
/// Redis.
#[test]
fn a_wasmplugin_is_named_as_each_istio_names_it() {
    for (version, prefix, suffix) in [
        ("1.31.0", "extensions.istio.io/trafficextension", "~istio-translated-wasmplugin"),
        ("1.30.3", "extensions.istio.io/trafficextension", "~istio-translated-wasmplugin"),
        ("1.29.1", "extensions.istio.io/wasmplugin", ""),
        ("1.26.0", "extensions.istio.io/wasmplugin", ""),
        ("1.25.0", "extenstions.istio.io/wasmplugin", ""),
    ] {
        let client = Proxy { version: version.to_owned(), ..Proxy::client("client") };
        let found = rendered(&client, &base("wasmplugin"));
        let plugin = format!("{prefix}/redis-client.slotmesh{suffix}");
        assert_eq!(filters(&found, "10.96.0.10_6379"), [&plugin, "slotmesh.guard", ECHO]);
        let names: Vec<&Value> = found.extensions.iter().map(|found| &found["name"]).collect();
        assert_eq!(names, ["slotmesh.tunnel", &plugin]);
    }
}

/// One that names a Gateway is for no sidecar, whatever its selector says.
#[test]
fn a_wasmplugin_with_target_refs_is_for_the_gateway_that_it_names() {
    let gateway = |name: &str| {
        let label = ("gateway.networking.k8s.io/gateway-name".to_owned(), name.to_owned());
        Proxy { gateway: true, labels: [label].into(), ..Proxy::client(name) }
    };
    let elsewhere = Proxy { namespace: "other".to_owned(), ..gateway("edge") };
    let target = json!({"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "edge"});
    for (target, has) in [
        (target.clone(), [true, false, false, false]),
        (json!({"group": "", "kind": "Service", "name": "edge"}), [false; 4]),
    ] {
        let mut plugin = base("wasmplugin");
        plugin.retain(|object| object["kind"] == "WasmPlugin");
        plugin[0]["spec"]["targetRefs"] = json!([target]);
        let proxies = [&gateway("edge"), &gateway("inner"), &elsewhere, &Proxy::client("client")];
        let found = proxies.map(|proxy| !rendered(proxy, &plugin).extensions.is_empty());
        assert_eq!(found, has, "{target}");
    }
}

#[test]
fn an_istio_before_1_28_is_left_alone() {
    for version in ["1.27.3", "1.9.0", "1.3.0"] {
        let client = Proxy { version: version.to_owned(), ..Proxy::client("client") };
        for name in ["service", "envoyfilter"] {
            let found = rendered(&client, &base(name));
            assert_eq!(filters(&found, "10.96.0.10_6379"), [TCP_PROXY], "{version}");
            assert!(!has_cluster(&found, "slotmesh_upstream"), "{version}");
            // To which an older one is led by the VirtualService, which knows no versions.
            let door = found.clusters.iter().find(|cluster| cluster["name"] == DOOR);
            assert!(door.is_none_or(|door| door["type"] == "ORIGINAL_DST"), "{version}");
        }
    }
}

/// Of a listener of our own, older sidecars ignore it. A patch to istiod's is not for them.
#[test]
fn a_client_that_does_not_read_is_closed_where_envoy_can() {
    for (name, version, own) in [
        ("service", "1.31.0", "slotmesh"),
        ("envoyfilter", "1.31.0", "10.96.0.10_6379"),
        ("wasmplugin", "1.31.0", "10.96.0.10_6379"),
        ("envoyfilter", "1.28.0", ""),
        ("wasmplugin", "1.28.0", ""),
    ] {
        let client = Proxy { version: version.to_owned(), ..Proxy::client("client") };
        for listener in rendered(&client, &base(name)).listeners {
            let timeout = if listener["name"] == own { json!("60s") } else { json!(null) };
            let found = &listener["per_connection_buffer_high_watermark_timeout"];
            assert_eq!(*found, timeout, "{name} {version} {}", listener["name"]);
        }
    }
}

#[test]
fn the_empty_module_is_for_the_istios_whose_v8_must_come_early() {
    let mut objects = kustomize::build(&locate::workspace().join("istio/early-v8")).unwrap();
    for object in &mut objects {
        object["metadata"]["namespace"] = "redis-client".into();
    }
    for (version, has) in [("1.28.0", true), ("1.29.4", true), ("1.30.3", true), ("1.31.0", false)]
    {
        let client = Proxy { version: version.to_owned(), ..Proxy::client("client") };
        let found = rendered(&client, &objects);
        assert_eq!(has_cluster(&found, "slotmesh_early_v8"), has, "{version}");
        assert_eq!(filters(&found, "10.96.0.10_6379"), [TCP_PROXY], "{version}");
        let gateway = rendered(&Proxy { gateway: true, ..client }, &objects);
        assert_eq!(has_cluster(&gateway, "slotmesh_early_v8"), has, "{version}");
    }
}

#[test]
fn other_ports_other_pods_and_other_namespaces_are_left_alone() {
    let mut unlabelled = Proxy::client("client");
    unlabelled.labels.clear();
    let elsewhere = Proxy { namespace: "redis".to_owned(), ..Proxy::client("redis-0") };
    for name in ["envoyfilter", "wasmplugin"] {
        let found = rendered(&Proxy::client("client"), &base(name));
        assert_eq!(filters(&found, "10.96.0.11_9000"), [TCP_PROXY], "{name}");
        assert_eq!(filters(&found, "virtualOutbound"), [TCP_PROXY], "{name}");
        for proxy in [&unlabelled, &elsewhere] {
            let found = rendered(proxy, &base(name));
            assert_eq!(filters(&found, "10.96.0.10_6379"), [TCP_PROXY], "{name} {}", proxy.name);
            assert!(found.extensions.is_empty(), "{name} {}", proxy.name);
        }
    }
}

/// A patch of the Redis listener's filters: the operation, the filter that it is about, the value.
type FilterPatch<'a> = (&'a str, Option<&'a str>, Value);

/// An EnvoyFilter of the root namespace with these patches.
fn filter_patches(patches: &[FilterPatch<'_>]) -> Value {
    let patch = |(operation, at, value): &FilterPatch<'_>| {
        let chain = at.map(|name| json!({"filter": {"name": name}}));
        json!({
            "applyTo": "NETWORK_FILTER",
            "match": {"listener": {"portNumber": 6379, "filterChain": chain}},
            "patch": {"operation": operation, "value": value},
        })
    };
    let patches: Vec<Value> = patches.iter().map(patch).collect();
    json!({
        "kind": "EnvoyFilter",
        "metadata": {"name": "patches", "namespace": "istio-system"},
        "spec": {"configPatches": patches},
    })
}

#[test]
fn filters_are_added_inserted_replaced_and_removed_where_istiod_does_it() {
    let named = |name: &str| json!({"name": name});
    let cases: [(&[FilterPatch<'_>], &[&str]); 8] = [
        (&[("ADD", None, named("a"))], &[TCP_PROXY, "a"]),
        (&[("INSERT_FIRST", Some("absent"), named("a"))], &["a", TCP_PROXY]),
        (&[("INSERT_BEFORE", Some("absent"), named("a"))], &[TCP_PROXY]),
        (&[("INSERT_BEFORE", None, named("a"))], &["a", TCP_PROXY]),
        (&[("INSERT_AFTER", Some(TCP_PROXY), named("a"))], &[TCP_PROXY, "a"]),
        (&[("REPLACE", None, named("a"))], &[TCP_PROXY]),
        (
            &[
                ("ADD", None, named("a")),
                ("ADD", None, named("a")),
                ("REMOVE", Some("a"), json!(null)),
            ],
            &[TCP_PROXY],
        ),
        (
            &[
                ("ADD", None, named("a")),
                ("ADD", None, named("a")),
                ("REPLACE", Some("a"), named("b")),
            ],
            &[TCP_PROXY, "b", "a"],
        ),
    ];
    for (patches, expected) in cases {
        let found = rendered(&Proxy::client("client"), &[filter_patches(patches)]);
        assert_eq!(filters(&found, "10.96.0.10_6379"), expected, "{patches:?}");
    }
}

#[test]
fn a_merge_replaces_what_is_one_and_lengthens_what_is_many_but_not_what_comes_by_ecds() {
    let merged = json!({
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "cluster": "other",
        },
    });
    let ecds = json!({"name": "ecds", "config_discovery": {}});
    let object = filter_patches(&[
        ("MERGE", Some(TCP_PROXY), merged),
        ("INSERT_FIRST", None, ecds),
        ("MERGE", Some("ecds"), json!({"name": "renamed"})),
    ]);
    let found = rendered(&Proxy::client("client"), &[object]);
    assert_eq!(filters(&found, "10.96.0.10_6379"), ["ecds", TCP_PROXY]);
    let listener = found.listeners.iter().find(|found| found["name"] == "10.96.0.10_6379").unwrap();
    let config = &listener["filter_chains"][0]["filters"][1]["typed_config"];
    assert_eq!(config["cluster"], "other");
    assert_eq!(config["stat_prefix"], "outbound|6379||redis-cluster.redis.svc.cluster.local");
}

/// An EnvoyFilter of the root namespace with one patch of the Redis listener.
fn listener_patch(apply_to: &str, operation: &str, at: &Value, value: &Value) -> Value {
    let mut wanted = at.clone();
    wanted["portNumber"] = 6379.into();
    json!({
        "kind": "EnvoyFilter",
        "metadata": {"name": format!("{apply_to}-{operation}"), "namespace": "istio-system"},
        "spec": {"configPatches": [{
            "applyTo": apply_to,
            "match": {"context": "SIDECAR_OUTBOUND", "listener": wanted},
            "patch": {"operation": operation, "value": value},
        }]},
    })
}

fn redis_listener(objects: &[Value]) -> Value {
    let found = rendered(&Proxy::client("client"), objects).listeners;
    found.into_iter().find(|found| found["name"] == "10.96.0.10_6379").unwrap()
}

#[test]
fn listener_filters_are_patched_as_network_filters_are() {
    let (inspector, proxy) = (json!({"name": "tls_inspector"}), json!({"name": "proxy_protocol"}));
    let none = json!({});
    let at = json!({"listenerFilter": "tls_inspector"});
    let add = listener_patch("LISTENER_FILTER", "ADD", &none, &inspector);
    let cases = [
        ("INSERT_FIRST", &none, vec!["proxy_protocol", "tls_inspector"]),
        ("INSERT_BEFORE", &at, vec!["proxy_protocol", "tls_inspector"]),
        ("INSERT_AFTER", &at, vec!["tls_inspector", "proxy_protocol"]),
        ("REPLACE", &at, vec!["proxy_protocol"]),
        ("REPLACE", &none, vec!["tls_inspector"]),
        ("REMOVE", &at, vec![]),
    ];
    for (operation, at, expected) in cases {
        let patch = listener_patch("LISTENER_FILTER", operation, at, &proxy);
        let listener = redis_listener(&[add.clone(), patch]);
        let filters = listener["listener_filters"].as_array().unwrap();
        let names: Vec<&str> =
            filters.iter().map(|filter| filter["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{operation}");
    }
}

#[test]
fn filter_chains_are_merged_removed_and_added() {
    let none = json!({});
    let chain = json!({"name": "mine", "filters": [{"name": ECHO}]});
    let added = redis_listener(&[listener_patch("FILTER_CHAIN", "ADD", &none, &chain)]);
    assert_eq!(added["filter_chains"].as_array().unwrap().len(), 2);
    assert_eq!(added["filter_chains"][1], chain);

    let timeout = json!({"transport_socket_connect_timeout": "3s"});
    let merged = redis_listener(&[listener_patch("FILTER_CHAIN", "MERGE", &none, &timeout)]);
    assert_eq!(merged["filter_chains"][0]["transport_socket_connect_timeout"], "3s");
    assert_eq!(merged["filter_chains"][0]["filters"][0]["name"], TCP_PROXY);

    let named = json!({"filterChain": {"name": "another"}});
    let kept = redis_listener(&[listener_patch("FILTER_CHAIN", "REMOVE", &named, &none)]);
    assert_eq!(kept["filter_chains"].as_array().unwrap().len(), 1);
    let gone = redis_listener(&[listener_patch("FILTER_CHAIN", "REMOVE", &none, &none)]);
    assert!(gone["filter_chains"].is_null());
}

#[test]
fn a_patch_may_be_for_proxies_with_certain_metadata() {
    let mut object = filter_patches(&[("ADD", None, json!({"name": "a"}))]);
    object["spec"]["configPatches"][0]["match"]["proxy"] = json!({"metadata": {"CANARY": "yes"}});
    let mut client = Proxy::client("client");
    assert_eq!(filters(&rendered(&client, &[object.clone()]), "10.96.0.10_6379"), [TCP_PROXY]);
    client.metadata.insert("CANARY".to_owned(), "yes".to_owned());
    assert_eq!(filters(&rendered(&client, &[object]), "10.96.0.10_6379"), [TCP_PROXY, "a"]);
}

/// Which is why the label must not be given to pods that are to speak to single nodes.
#[test]
fn the_pods_of_a_headless_service_have_listeners_that_are_patched_too() {
    let mut services = services();
    services.push(nodes());
    let found = render(&Proxy::client("client"), &services, &base("envoyfilter")).unwrap();
    for listener in ["10.244.0.1_6379", "10.244.0.2_6379"] {
        assert_eq!(filters(&found, listener), ["slotmesh.router", "slotmesh.guard", ECHO]);
    }
}

#[test]
fn lower_priorities_come_first_and_among_equals_the_root_namespace() {
    let add = |name: &str, namespace: &str, priority: i64| {
        let mut object = filter_patches(&[("ADD", None, json!({"name": name}))]);
        object["metadata"] = json!({"name": name, "namespace": namespace});
        object["spec"]["priority"] = priority.into();
        object
    };
    let objects = [
        add("third", "redis-client", 0),
        add("fourth", "redis-client", 5),
        add("second", "istio-system", 0),
        add("first", "redis-client", -5),
    ];
    let found = rendered(&Proxy::client("client"), &objects);
    let expected = [TCP_PROXY, "first", "second", "third", "fourth"];
    assert_eq!(filters(&found, "10.96.0.10_6379"), expected);
}

#[test]
fn clusters_are_merged_removed_and_added_once() {
    let patch = |operation: &str, wanted: Value, value: Value| {
        json!({
            "applyTo": "CLUSTER",
            "match": {"context": "SIDECAR_OUTBOUND", "cluster": wanted},
            "patch": {"operation": operation, "value": value},
        })
    };
    let object = json!({
        "kind": "EnvoyFilter",
        "metadata": {"name": "patches", "namespace": "istio-system"},
        "spec": {"configPatches": [
            patch("MERGE", json!({"portNumber": 6379}), json!({"connect_timeout": "1s"})),
            patch("REMOVE", json!({"service": "other.default.svc.cluster.local"}), json!(null)),
            patch("ADD", json!(null), json!({"name": "added", "connect_timeout": "2s"})),
            patch("ADD", json!(null), json!({"name": "added", "connect_timeout": "3s"})),
        ]},
    });
    let found = rendered(&Proxy::client("client"), &[object]);
    let found: Vec<(&str, &str)> = found
        .clusters
        .iter()
        .map(|cluster| {
            ["name", "connect_timeout"].map(|word| cluster[word].as_str().unwrap()).into()
        })
        .collect();
    let redis = "outbound|6379||redis-cluster.redis.svc.cluster.local";
    assert_eq!(found, [(redis, "1s"), ("PassthroughCluster", "10s"), ("added", "2s")]);
}

#[test]
fn our_kustomize_makes_what_kubectl_makes() {
    let Some(kubectl) = or_skip(locate::kubectl()) else { return };
    let istio = locate::workspace().join("istio");
    let mut compared = 0;
    for kind in ["base", "overlays"] {
        let Ok(entries) = istio.join(kind).read_dir() else { continue };
        for entry in entries {
            let dir = entry.unwrap().path();
            if !dir.join("kustomization.yaml").is_file() {
                continue;
            }
            let output = Command::new(&kubectl).arg("kustomize").arg(&dir).output().unwrap();
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{}: {error}", dir.display());
            let text = String::from_utf8(output.stdout).unwrap();
            let sorted = |mut objects: Vec<Value>| {
                objects.sort_by_key(|object| {
                    object["kind"].to_string() + &object["metadata"].to_string()
                });
                objects
            };
            let theirs = sorted(kustomize::parse(&text).unwrap());
            let ours = sorted(kustomize::build(&dir).unwrap());
            assert_eq!(ours, theirs, "{}", dir.display());
            compared += 1;
        }
    }
    assert!(compared >= 2, "only {compared} directories");
}
