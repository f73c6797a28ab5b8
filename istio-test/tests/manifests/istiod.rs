//! What we make of the manifests, held against what a real istiod and a real istio-agent gave a
//! sidecar: Istio's snapshot of 2026-08-27, on 2026-11-30, from Envoy's `/config_dump`. Of
//! generated clusters, circuit breakers, TLS, metadata and names of statistics were left out, which
//! we do not make.

use std::fs;
use std::path::Path;

use serde_json::Value;
use slotmesh_istio_test::{Kind, Proxy, Resolution, Service, canonical, kustomize, render};
use slotmesh_testbed::locate;

/// The files of `istiod/`, and what had been applied.
const SEEN: [(&str, Option<&str>); 6] = [
    ("plain", None),
    ("service", Some("base/service")),
    ("envoyfilter", Some("base/envoyfilter")),
    ("wasmplugin", Some("base/wasmplugin")),
    ("mtls", Some("overlays/mtls")),
    ("auto-mtls", Some("overlays/auto-mtls")),
];

#[test]
fn we_make_of_the_manifests_what_istiod_makes_of_them() {
    let service = |name: &str, address: &str, resolution| Service {
        host: format!("{name}.redis.svc.cluster.local"),
        address: address.to_owned(),
        port: 6379,
        endpoints: vec!["10.244.0.10:6379".parse().unwrap()],
        sidecars: Vec::new(),
        resolution,
    };
    let services = [
        service("redis-cluster", "10.96.10.173", Resolution::ClusterIp),
        service("redis-nodes", "None", Resolution::Headless),
    ];
    for (name, applied) in SEEN {
        let istio = locate::workspace().join("istio");
        let mut objects =
            applied.map_or_else(Vec::new, |dir| kustomize::build(&istio.join(dir)).unwrap());
        for object in &mut objects {
            object["metadata"]["namespace"] = "redis-client".into();
        }
        let ours = render(&Proxy::client("client"), &services, &objects).unwrap();
        let theirs = seen(name);
        for (kind, list, ours) in [
            (Kind::Cluster, "clusters", ours.clusters),
            (Kind::Listener, "listeners", ours.listeners),
        ] {
            for theirs in theirs[list].as_array().unwrap() {
                let ours = ours.iter().find(|ours| ours["name"] == theirs["name"]);
                let ours = ours.unwrap_or_else(|| panic!("{name}: {}", theirs["name"]));
                let [ours, theirs] = [ours, theirs].map(|one| canonical(kind, one).unwrap());
                assert_eq!(ours, theirs, "{name}: the left is ours, the right istiod's");
            }
        }
    }
}

fn seen(name: &str) -> Value {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests/istiod");
    let text = fs::read_to_string(dir.join(name).with_extension("json")).unwrap();
    serde_json::from_str(&text).unwrap()
}
