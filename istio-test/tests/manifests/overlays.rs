//! Every overlay on a real sidecar, with a walk-through of what it promises. A new overlay fails
//! here until it has one.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use crate::support::{
    DIGEST, IMAGE, PATIENCE, REDIS, SEED, ask, assert_closed, counter, manifests, one_node_cluster,
    passed, secured_node, services, wait_for_answer,
};
use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};
use slotmesh_istio_test::{Mesh, Proxy, Pull, Resolution, Service, Sidecar, image, kustomize};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::walkthrough::{RedisCli, mirroring, replica_reads, sharding};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, Port, RedisCluster, RedisServer, Security,
    TempDir, Tls, locate,
};

const MIRROR: &str = "redis-mirror.redis.svc.cluster.local:6380";

/// The test of each overlay, by the overlay's directory.
const WALKED_THROUGH: [&str; 14] = [
    "auto-mtls",
    "credentials",
    "gateway",
    "local-module",
    "migration",
    "mirror",
    "mtls",
    "own-registry",
    "prefix-routes",
    "read-split",
    "several-services",
    "tls",
    "wait-for-module",
    "web-server",
];

#[test]
fn every_overlay_has_a_walk_through() {
    let entries =
        manifests().join("overlays").read_dir().unwrap().map(|entry| entry.unwrap().path());
    let overlays = entries.filter(|dir| dir.join("kustomization.yaml").is_file());
    let overlays: BTreeSet<String> =
        overlays.map(|dir| dir.file_name().unwrap().to_str().unwrap().to_owned()).collect();
    let walked = WALKED_THROUGH.map(str::to_owned).into();
    assert_eq!(overlays, walked, "the left is istio/overlays, the right what this file tests");
}

/// The overlays that need nothing but a cluster and a mirror share them.
#[test]
fn redis_cli_walks_through_what_the_overlays_promise() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let mirror = RedisServer::start(&[]).unwrap();
    let node = cluster.nodes().first().unwrap().addr();
    let nodes: Vec<RedisCli> =
        cluster.nodes().iter().map(|node| RedisCli::on_port(node.addr().port())).collect();
    let out = &mut std::io::sink();
    let walk = |name: &str, proxy: Proxy, listener: &str| {
        cluster.flush().unwrap();
        let mesh = mesh(name, node);
        mesh.place(MIRROR, mirror.addr().to_string()).unwrap();
        let client = mesh.start(proxy).unwrap();
        let proxy = RedisCli::on_port(client.addr(listener).unwrap().port());
        let walked = sharding(&proxy, &nodes, &mut std::io::sink());
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
        walked.with_context(|| format!("{name}: {}", client.envoy().log())).unwrap();
        assert!(passed(&client) > 0, "{name}: the guard saw no client");
        (client, proxy)
    };
    let client = || Proxy::client("client");

    walk("own-registry", client(), REDIS);

    let (_sidecar, proxy) = walk("read-split", client(), REDIS);
    replica_reads(&proxy, &nodes, out).unwrap();

    let (_sidecar, proxy) = walk("mirror", client(), REDIS);
    mirroring(&proxy, &RedisCli::on_port(mirror.addr().port()), out).unwrap();

    let (_sidecar, proxy) = walk("migration", client(), REDIS);
    replica_reads(&proxy, &nodes, out).unwrap();
    mirroring(&proxy, &RedisCli::on_port(mirror.addr().port()), out).unwrap();

    walk("gateway", Proxy { gateway: true, ..Proxy::client("slotmesh-gateway") }, "slotmesh");
}

#[test]
fn prefix_routes_puts_sessions_into_a_cluster_of_their_own() {
    let [bus, sessions_bus] = [(); 2].map(|()| Port::free().unwrap());
    let redis = one_node_cluster(&bus, &[]);
    let sessions = one_node_cluster(&sessions_bus, &[]);
    let mesh = mesh("prefix-routes", redis.addr());
    let place = "redis-cluster.sessions.svc.cluster.local:6379";
    mesh.place(place, sessions.addr().to_string()).unwrap();
    let client = start(&mesh);
    let addr = client.addr(REDIS).unwrap();
    assert_eq!(ask(addr, "SET session:1 one").unwrap(), "+OK");
    assert_eq!(ask(addr, "SET a 1").unwrap(), "+OK");
    assert_eq!(sessions.cli(&["KEYS", "*"]).unwrap().trim(), "1");
    assert_eq!(redis.cli(&["KEYS", "*"]).unwrap().trim(), "a");
}

/// No image is published: whoever asked for one would get none.
#[test]
fn local_module_is_a_file_of_the_pod_and_needs_no_registry() {
    let bus = Port::free().unwrap();
    let redis = one_node_cluster(&bus, &[]);
    let mesh = Mesh::new(services(redis.addr(), Port::free().unwrap().addr())).unwrap();
    mesh.place(SEED, redis.addr().to_string()).unwrap();
    let module = locate::wasm().unwrap();
    mesh.place("/opt/slotmesh/plugin.wasm", module.to_str().unwrap()).unwrap();
    mesh.apply(&overlay("local-module")).unwrap();
    let client = start(&mesh);
    wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
    assert_eq!(client.refusals(), Vec::<String>::new());
}

/// An agent that asks again and again has nothing to say meanwhile.
#[test]
fn a_sidecar_that_waits_for_its_module_is_ready_when_it_serves() {
    let bus = Port::free().unwrap();
    let redis = one_node_cluster(&bus, &[]);
    for name in ["web-server", "wait-for-module"] {
        let mesh = mesh(name, redis.addr());
        let module = "https://files.example/slotmesh-0.1.0.wasm";
        mesh.publish(module, Pull::Pending).unwrap();
        let arrives = || mesh.publish(module, image(&"0".repeat(64)).unwrap()).unwrap();
        let client = std::thread::scope(|scope| {
            let client = scope.spawn(|| start(&mesh));
            until("the sidecar to ask for the tunnel", PATIENCE, || {
                let asked = mesh.was_asked_for(&Proxy::client("client"), "slotmesh.tunnel");
                Ok(if asked { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
            })
            .unwrap();
            if name == "wait-for-module" {
                arrives();
            }
            client.join().unwrap()
        });
        let addr = client.addr(REDIS).unwrap();
        if name == "web-server" {
            assert_closed(addr);
            arrives();
            wait_for_answer(addr, "SET a 1", "+OK");
        } else {
            assert_eq!(ask(addr, "SET a 1").unwrap(), "+OK");
        }
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
    }
}

/// The second one reads from replicas, which this cluster of one node does not show; what it says
/// of itself does.
#[test]
fn several_services_have_a_router_each_with_its_own_configuration() {
    let [bus, sessions_bus] = [(); 2].map(|()| Port::free().unwrap());
    let redis = one_node_cluster(&bus, &[]);
    let sessions = one_node_cluster(&sessions_bus, &[]);
    let mut services = services(redis.addr(), sessions.addr());
    "redis-cluster.sessions.svc.cluster.local".clone_into(&mut services[1].host);
    services[1].port = 6379;
    let mesh = mesh_of("several-services", services);
    for (seed, node) in [("redis", &redis), ("sessions", &sessions)] {
        let seed = format!("redis-cluster.{seed}.svc.cluster.local:6379");
        mesh.place(&seed, node.addr().to_string()).unwrap();
    }
    let client = start(&mesh);
    let [first, second] = [REDIS, "10.96.0.11_6379"].map(|name| client.addr(name).unwrap());
    wait_for_answer(first, "SET a first", "+OK");
    wait_for_answer(second, "SET a second", "+OK");
    assert_eq!(redis.cli(&["GET", "a"]).unwrap().trim(), "first");
    assert_eq!(sessions.cli(&["GET", "a"]).unwrap().trim(), "second");
    let allowed = |guard: &str| counter(&client, &format!("slotmesh_guard_{guard}.rbac.allowed"));
    assert_eq!([allowed(""), allowed("sessions_")], [1, 1]);
    assert_eq!(client.refusals(), Vec::<String>::new());
}

#[test]
fn credentials_takes_the_password_from_the_sidecars_environment() {
    let bus = Port::free().unwrap();
    let password = "secret of the Secret";
    let security = Security { password: Some(password.to_owned()), tls: None };
    let redis = secured_node(&bus, security, &[]);
    let mesh = mesh("credentials", redis.addr());
    let mut proxy = Proxy::client("client");
    proxy.environment.insert("REDIS_PASSWORD".to_owned(), password.to_owned());
    let client = mesh.start(proxy).unwrap();
    assert_eq!(ask(client.addr(REDIS).unwrap(), "SET a 1").unwrap(), "+OK");
    assert!(!client.envoy().log().contains(password));
}

#[test]
fn tls_checks_the_certificates_of_a_redis_outside_the_mesh() {
    let bus = Port::free().unwrap();
    let [ours, another] = [(); 2].map(|()| Authority::new());
    let (certificate, key) = ours.sign(SanType::IpAddress([127, 0, 0, 1].into()));
    let tls = Tls { certificate, key, authority: ours.certificate.clone() };
    let redis = secured_node(&bus, Security { password: None, tls: Some(tls) }, &[]);
    for (authority, is_trusted) in [(&ours, true), (&another, false)] {
        let mut services = services(redis.addr(), Port::free().unwrap().addr());
        "redis.redis-client.svc.cluster.local".clone_into(&mut services[0].host);
        let mesh = mesh_of("tls", services);
        let place = "clustercfg.my-redis.abc123.euw1.cache.amazonaws.com:6379";
        mesh.place(place, redis.addr().to_string()).unwrap();
        mesh.place("*.my-redis.abc123.euw1.cache.amazonaws.com:6379", "127.0.0.0/8").unwrap();
        let dir = TempDir::new("authorities").unwrap();
        let file = dir.path().join("ca-certificates.crt");
        std::fs::write(&file, &authority.certificate).unwrap();
        mesh.place("/etc/ssl/certs/ca-certificates.crt", file.to_str().unwrap()).unwrap();
        let client = start(&mesh);
        let answer = ask(client.addr(REDIS).unwrap(), "SET a 1").unwrap();
        assert_eq!(answer == "+OK", is_trusted, "{answer}");
    }
}

/// The node is behind a sidecar of its own, which takes nobody without a certificate of the mesh.
#[test]
fn mtls_reaches_nodes_whose_sidecars_are_strict() {
    let mesh_authority = Authority::new();
    for (account, is_redis) in [("redis", true), ("another", false)] {
        let [bus, front] = [(); 2].map(|()| Port::free().unwrap());
        let announced = front.number().to_string();
        let redis = one_node_cluster(&bus, &["--cluster-announce-port", &announced]);
        let server = mesh_authority.identity("redis", account);
        let _inbound = strict_inbound(front.addr(), redis.addr(), &server, &mesh_authority);
        let mesh = mesh("mtls", front.addr());
        add_secrets(&mesh, &mesh_authority);
        let client = start(&mesh);
        let answer = ask(client.addr(REDIS).unwrap(), "SET a 1").unwrap();
        assert_eq!(answer == "+OK", is_redis, "{answer}");
    }
}

#[test]
fn auto_mtls_meets_each_node_as_istiod_says_it_is() {
    let authority = Authority::new();
    let [bus, front, plain_bus] = [(); 3].map(|()| Port::free().unwrap());
    let meshed = announcing(&bus, Some(&front));
    let server = authority.identity("redis", "redis");
    let _inbound = strict_inbound(front.addr(), meshed.addr(), &server, &authority);
    let client = start_auto_mtls(front.addr(), &[front.addr()], &authority);
    wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
    assert_eq!(client.refusals(), Vec::<String>::new());

    let plain = announcing(&plain_bus, None);
    let client = start_auto_mtls(plain.addr(), &[], &authority);
    wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
}

/// The seed is any endpoint; the node is the one that CLUSTER SLOTS names.
#[test]
fn auto_mtls_dials_no_node_that_istiod_does_not_know() {
    let [bus, elsewhere] = [(); 2].map(|()| Port::free().unwrap());
    let redis = announcing(&bus, Some(&elsewhere));
    let listener = TcpListener::bind(elsewhere.addr()).unwrap();
    listener.set_nonblocking(true).unwrap();
    let client = start_auto_mtls(redis.addr(), &[], &Authority::new());
    let addr = client.addr(REDIS).unwrap();
    // On a busy machine the module may come after its time, and clients be closed until then.
    let answered = || Ok(Probe::retry(ask(addr, "SET a 1")));
    let answer = until("the router to answer", PATIENCE, answered).unwrap();
    assert!(answer.starts_with('-'), "{answer}");
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

/// A node that knows its IP address, as those of k8s/redis-cluster do: one alone learns it from
/// nobody.
fn announcing(bus: &Port, port: Option<&Port>) -> RedisServer {
    let port = port.map(|port| port.number().to_string());
    let mut args = vec!["--cluster-announce-ip", "127.0.0.1"];
    if let Some(port) = &port {
        args.extend(["--cluster-announce-port", port]);
    }
    one_node_cluster(bus, &args)
}

/// A client in front of a headless Service with one endpoint.
fn start_auto_mtls(node: SocketAddr, sidecars: &[SocketAddr], authority: &Authority) -> Sidecar {
    let mut services = services(node, Port::free().unwrap().addr());
    services.push(Service {
        host: "redis-nodes.redis.svc.cluster.local".to_owned(),
        address: "None".to_owned(),
        port: 6379,
        endpoints: vec![node],
        sidecars: sidecars.to_owned(),
        resolution: Resolution::Headless,
    });
    let mesh = mesh_of("auto-mtls", services);
    add_secrets(&mesh, authority);
    start(&mesh)
}

/// A mesh with an overlay applied, and the module where that says it is.
fn mesh(overlay: &str, node: SocketAddr) -> Arc<Mesh> {
    let mesh = mesh_of(overlay, services(node, Port::free().unwrap().addr()));
    mesh.place(SEED, node.to_string()).unwrap();
    mesh
}

fn overlay(name: &str) -> Vec<Value> {
    kustomize::build(&manifests().join("overlays").join(name)).unwrap()
}

fn mesh_of(overlay: &str, services: Vec<Service>) -> Arc<Mesh> {
    let objects = self::overlay(overlay);
    let mesh = Mesh::new(services).unwrap();
    for remote in objects.iter().flat_map(remotes) {
        let digest = remote["sha256"].as_str().unwrap_or(DIGEST);
        mesh.publish(remote["http_uri"]["uri"].as_str().unwrap(), image(digest).unwrap()).unwrap();
    }
    mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
    mesh.apply(&objects).unwrap();
    mesh
}

/// What the client's own sidecar gets from its istio-agent.
fn add_secrets(mesh: &Mesh, authority: &Authority) {
    let (chain, key) = authority.identity("redis-client", "client");
    mesh.add_secret(json!({
        "name": "default",
        "tls_certificate": {
            "certificate_chain": {"inline_string": chain},
            "private_key": {"inline_string": key},
        },
    }))
    .unwrap();
    mesh.add_secret(json!({
        "name": "ROOTCA",
        "validation_context": {"trusted_ca": {"inline_string": authority.certificate}},
    }))
    .unwrap();
}

/// From where an EnvoyFilter has modules pulled.
fn remotes(object: &Value) -> Vec<&Value> {
    let patches = object["spec"]["configPatches"].as_array().into_iter().flatten();
    let remote = "/patch/value/typed_config/config/vm_config/code/remote";
    patches.filter_map(|patch| patch.pointer(remote)).collect()
}

fn start(mesh: &Arc<Mesh>) -> Sidecar {
    mesh.start(Proxy::client("client")).unwrap()
}

/// The Envoy of a Redis pod under STRICT mutual TLS, as far as it matters to who connects.
fn strict_inbound(
    listen: SocketAddr,
    redis: SocketAddr,
    (chain, key): &(String, String),
    authority: &Authority,
) -> Envoy {
    let type_of = |name: &str| format!("type.googleapis.com/envoy.extensions.{name}");
    let socket = |addr: SocketAddr| json!({"socket_address": {"address": addr.ip().to_string(), "port_value": addr.port()}});
    let bootstrap = json!({
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": "@PORT@"}}},
        "static_resources": {
            "listeners": [{
                "name": "virtualInbound",
                "address": socket(listen),
                "filter_chains": [{
                    "transport_socket": {
                        "name": "envoy.transport_sockets.tls",
                        "typed_config": {
                            "@type": type_of("transport_sockets.tls.v3.DownstreamTlsContext"),
                            "require_client_certificate": true,
                            "common_tls_context": {
                                "alpn_protocols": ["istio-peer-exchange", "istio"],
                                "tls_certificates": [{
                                    "certificate_chain": {"inline_string": chain},
                                    "private_key": {"inline_string": key},
                                }],
                                "validation_context": {
                                    "trusted_ca": {"inline_string": authority.certificate},
                                    "match_typed_subject_alt_names": [{
                                        "san_type": "URI",
                                        "matcher": {"prefix": "spiffe://cluster.local/"},
                                    }],
                                },
                            },
                        },
                    },
                    "filters": [{
                        "name": "envoy.filters.network.tcp_proxy",
                        "typed_config": {
                            "@type": type_of("filters.network.tcp_proxy.v3.TcpProxy"),
                            "stat_prefix": "inbound",
                            "cluster": "inbound",
                        },
                    }],
                }],
            }],
            "clusters": [{
                "name": "inbound",
                "load_assignment": {
                    "cluster_name": "inbound",
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": socket(redis)}}]}],
                },
            }],
        },
    });
    let mut options = EnvoyOptions::new(PluginConfig::from_text(""));
    options.template = bootstrap.to_string().replace("\"@PORT@\"", "@ADMIN_PORT@").into();
    Envoy::start(options).unwrap()
}

/// Who signs certificates.
struct Authority {
    params: CertificateParams,
    key: KeyPair,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, "a test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { params, key, certificate }
    }

    /// A certificate for this name, and its key.
    fn sign(&self, name: SanType) -> (String, String) {
        let mut params = CertificateParams::new([]).unwrap();
        params.subject_alt_names.push(name);
        let key = KeyPair::generate().unwrap();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// That of a pod with this service account.
    fn identity(&self, namespace: &str, account: &str) -> (String, String) {
        let name = format!("spiffe://cluster.local/ns/{namespace}/sa/{account}");
        self.sign(SanType::URI(name.try_into().unwrap()))
    }
}
