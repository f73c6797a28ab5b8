//! The bases on the Envoy of each Istio that istio/README.md calls tested.

use crate::support::{
    DIGEST, IMAGE, PATIENCE, REDIS, SEED, World, ask, base, manifests, passed, services, sidecar,
    wait_for_answer,
};
use slotmesh_istio_test::{Mesh, Proxy, image, kustomize};
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::walkthrough::{RedisCli, sharding};
use slotmesh_testbed::{ClusterOptions, Port, RedisCluster, locate, or_skip};

#[test]
fn istio_1_28_with_envoy_1_36() {
    walk_through("1.28.0", "1.36.4");
}

#[test]
fn istio_1_31_with_envoy_1_39() {
    walk_through("1.31.0", "1.39.3");
}

/// Without the empty module that it starts with, this sidecar crashes where the processor has
/// memory protection keys: istio/early-v8 says why.
#[test]
fn it_comes_to_a_running_sidecar_of_istio_1_28_that_has_started_with_v8() {
    let Some(binary) = or_skip(locate::envoy_of("1.36.4")) else { return };
    let world = World::start();
    let version = "1.28.0".to_owned();
    let proxy = Proxy { version, envoy: Some(binary), ..Proxy::client("client") };
    let client = world.mesh.start(proxy).unwrap();
    let addr = client.addr(REDIS).unwrap();
    assert_eq!(ask(addr, "PING").unwrap(), "+PONG");
    assert_eq!(passed(&client), 0);
    world.mesh.apply(&base("envoyfilter")).unwrap();
    until("new clients to be the router's", PATIENCE, || {
        ask(addr, "PING")?;
        let now = passed(&client);
        Ok(if now > 0 { Probe::Ready(()) } else { Probe::NotYet("none was".to_owned()) })
    })
    .unwrap();
    wait_for_answer(addr, "SET a 1", "+OK");
    assert_eq!(client.refusals(), Vec::<String>::new());
}

#[test]
fn release_memory_makes_each_envoy_give_back_what_compiling_took() {
    for (istio, envoy) in [("1.28.0", Some("1.36.4")), ("1.31.0", Some("1.39.3")), ("", None)] {
        let mut proxy = sidecar("client");
        if let Some(version) = envoy {
            let Some(binary) = or_skip(locate::envoy_of(version)) else { continue };
            proxy = Proxy { version: istio.to_owned(), envoy: Some(binary), ..proxy };
        }
        let objects =
            kustomize::build(&manifests().join("k8s").join("client-release-memory")).unwrap();
        let deployment = objects.iter().find(|object| object["kind"] == "Deployment").unwrap();
        let annotations = &deployment["spec"]["template"]["metadata"]["annotations"];
        let name = annotations["sidecar.istio.io/bootstrapOverride"].as_str().unwrap();
        proxy.bootstrap_override = Some(name.to_owned());
        let world = World::start();
        world.mesh.apply(&objects).unwrap();
        world.mesh.apply(&base("service")).unwrap();
        let client = world.mesh.start(proxy).unwrap();
        wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
        until("Envoy to give memory back", PATIENCE, || {
            let released = client.envoy().released_bytes()?;
            Ok(match released >= 4 << 20 {
                true => Probe::Ready(()),
                false => Probe::NotYet(format!("{released} bytes so far, {envoy:?}")),
            })
        })
        .unwrap();
        assert_eq!(client.refusals(), Vec::<String>::new());
    }
}

fn walk_through(istio: &str, envoy: &str) {
    let Some(binary) = or_skip(locate::envoy_of(envoy)) else { return };
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let nodes: Vec<RedisCli> =
        cluster.nodes().iter().map(|node| RedisCli::on_port(node.addr().port())).collect();
    let node = cluster.nodes().first().unwrap().addr();
    for name in ["service", "envoyfilter", "wasmplugin"] {
        cluster.flush().unwrap();
        let mesh = Mesh::new(services(node, Port::free().unwrap().addr())).unwrap();
        mesh.place(SEED, node.to_string()).unwrap();
        mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
        mesh.apply(&base(name)).unwrap();
        let mut proxy = Proxy::client("client");
        proxy.version = istio.to_owned();
        proxy.envoy = Some(binary.clone());
        let client = mesh.start(proxy).unwrap();
        let proxy = RedisCli::on_port(client.addr(REDIS).unwrap().port());
        sharding(&proxy, &nodes, &mut std::io::sink()).unwrap();
        assert!(passed(&client) > 0, "{name}: the guard saw no client");
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
    }
}
