//! The base manifests on real sidecars: how Slotmesh comes, changes, fails and goes.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use crate::support::{
    Client, DIGEST, IMAGE, OTHER, PATIENCE, REDIS, SEED, World, ask, assert_closed, base, counter,
    manifests, one_node_cluster, passed, services, sidecar, wait_for_answer, wait_for_line,
};
use anyhow::{Result, bail};
use serde_json::{Value, json};
use slotmesh_istio_test::{Mesh, POD_NETWORK, Pull, Sidecar, image};
use slotmesh_testbed::process::run;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::walkthrough::{RedisCli, sharding};
use slotmesh_testbed::{ClusterOptions, Port, RedisCluster, RedisServer};

const BASES: [&str; 3] = ["service", "envoyfilter", "wasmplugin"];

#[test]
fn redis_cli_walks_through_sharding_by_each_base() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let other = RedisServer::start(&[]).unwrap();
    let node = cluster.nodes().first().unwrap().addr();
    let nodes: Vec<RedisCli> =
        cluster.nodes().iter().map(|node| RedisCli::on_port(node.addr().port())).collect();
    for name in BASES {
        cluster.flush().unwrap();
        let mesh = Mesh::new(services(node, other.addr())).unwrap();
        mesh.place(SEED, node.to_string()).unwrap();
        mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
        mesh.apply(&base(name)).unwrap();
        let client = mesh.start(sidecar("client")).unwrap();
        let proxy = RedisCli::on_port(client.addr(REDIS).unwrap().port());
        sharding(&proxy, &nodes, &mut std::io::sink()).unwrap();
        assert!(passed(&client) > 0, "{name}: the guard saw no client");
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn the_readme_shows_what_its_reader_will_see() {
    let readme = fs::read_to_string(manifests().join("README.md")).unwrap();
    let verify =
        readme.split("## Verify").nth(1).and_then(|rest| rest.split("## ").next()).unwrap();
    let world = World::start();
    world.mesh.apply(&base("service")).unwrap();
    let client = world.client();
    let port = client.addr(REDIS).unwrap().port().to_string();
    let shown = verify.lines().filter_map(|line| line.strip_prefix("    ")).collect::<Vec<_>>();
    let mut seen = Vec::new();
    for command in shown.iter().filter(|line| line.starts_with("$ ")) {
        seen.push((*command).to_owned());
        if let Some(words) = command.strip_prefix("$ redis-cli ") {
            let mut cli = Command::new("redis-cli");
            cli.args(["-p", &port]).args(words.split(' '));
            seen.extend(run(cli, PATIENCE).unwrap().lines().map(str::to_owned));
        } else if let Some((_, word)) = command.split_once("| grep ") {
            let stats = client.envoy().stats().unwrap();
            let of_word = stats.iter().filter(|(name, _)| name.contains(word));
            seen.extend(of_word.map(|(name, value)| format!("{name}: {value}")));
        }
    }
    assert_eq!(seen, shown);
}

/// Clients reconnect when they are closed, and get the right answer or an error, never their own
/// bytes.
#[test]
fn it_comes_and_goes_on_a_live_listener_under_traffic() {
    for name in BASES {
        let world = World::start();
        let client = world.client();
        let addr = client.addr(REDIS).unwrap();
        assert_eq!(ask(addr, "PING").unwrap(), "+PONG", "before, it is plain TCP to one node");
        let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            let writer = scope.spawn(|| write_until(&stop, addr, &answers));
            for _ in 0..2 {
                wait_for_traffic(&answers);
                let before = passed(&client);
                world.mesh.apply(&base(name)).unwrap();
                until("new clients to be the router's", PATIENCE, || {
                    let _ = ask(addr, "PING");
                    let now = passed(&client);
                    let more = now > before;
                    Ok(if more { Probe::Ready(()) } else { Probe::NotYet(format!("{now}")) })
                })
                .unwrap();
                wait_for_traffic(&answers);
                assert_eq!(ask(addr, "PING").unwrap(), "+PONG");
                for object in in_order_of_removal(base(name)) {
                    world.mesh.delete(&[object]).unwrap();
                }
                until("new clients to be the node's again", PATIENCE, || {
                    let _ = ask(addr, "PING");
                    let before = passed(&client);
                    let answer = ask(addr, "PING");
                    let plain = answer.is_ok() && passed(&client) == before;
                    Ok(if plain { Probe::Ready(()) } else { Probe::NotYet(format!("{answer:?}")) })
                })
                .unwrap();
            }
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
        });
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_module_that_arrives_late_is_waited_for() {
    for name in BASES {
        let world = World::start();
        world.mesh.publish(IMAGE, Pull::Pending).unwrap();
        world.mesh.apply(&base(name)).unwrap();
        let proxy = sidecar("client");
        let client = thread::scope(|scope| {
            let client = scope.spawn(|| world.client());
            until("the sidecar to ask for the tunnel", PATIENCE, || {
                let asked = world.mesh.was_asked_for(&proxy, "slotmesh.tunnel");
                Ok(if asked { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
            })
            .unwrap();
            world.mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
            client.join().unwrap()
        });
        wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
        assert!(passed(&client) > 0, "{name}");
    }
}

#[test]
fn a_live_listener_serves_as_before_until_the_module_has_arrived() {
    let world = World::start();
    let client = world.client();
    let addr = client.addr(REDIS).unwrap();
    world.mesh.publish(IMAGE, Pull::Pending).unwrap();
    // Envoy would go on without the module after 15 s.
    let patient = Value::from(base("envoyfilter")).to_string().replace("\"15s\"", "\"600s\"");
    let patient: Vec<Value> = serde_json::from_str(&patient).unwrap();
    world.mesh.apply(&patient).unwrap();
    until("the sidecar to ask for the tunnel", PATIENCE, || {
        let asked = world.mesh.was_asked_for(&sidecar("client"), "slotmesh.tunnel");
        Ok(if asked { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
    })
    .unwrap();
    assert_eq!(ask(addr, "PING").unwrap(), "+PONG");
    assert_eq!(passed(&client), 0);
    world.mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
    until("new clients to be the router's", PATIENCE, || {
        ask(addr, "PING")?;
        let now = passed(&client);
        Ok(if now > 0 { Probe::Ready(()) } else { Probe::NotYet("none was".to_owned()) })
    })
    .unwrap();
}

#[test]
fn a_module_that_never_arrives_closes_its_clients_and_keeps_nothing_else_from_starting() {
    let world = World::start();
    world.mesh.publish(IMAGE, Pull::Pending).unwrap();
    world.mesh.apply(&base("envoyfilter")).unwrap();
    let client = world.client();
    assert_closed(client.addr(REDIS).unwrap());
    assert_other_serves(&client);
    // Should it arrive in the end, nobody has to restart anything.
    world.mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
    wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
}

#[test]
fn a_module_that_cannot_be_pulled_closes_its_clients_and_nothing_else() {
    for name in BASES {
        let world = World::start();
        world.mesh.publish(IMAGE, Pull::Failed).unwrap();
        world.mesh.apply(&base(name)).unwrap();
        let client = world.client();
        assert_closed(client.addr(REDIS).unwrap());
        assert_other_serves(&client);
        wait_for_line(&client, &["rejected", "http.rbac.v3.RBAC but expect"]);
        world.mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
        wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
    }
}

#[test]
fn an_image_with_another_digest_is_not_loaded() {
    let world = World::start();
    let client = world.client();
    let addr = client.addr(REDIS).unwrap();
    world.mesh.apply(&with_digest(&"0".repeat(64))).unwrap();
    until("new clients to be closed", PATIENCE, || {
        Ok(match ask(addr, "PING") {
            Ok(answer) => Probe::NotYet(answer),
            Err(_) => Probe::Ready(()),
        })
    })
    .unwrap();
    assert_closed(addr);
    assert_other_serves(&client);
    wait_for_line(&client, &["rejected", "http.rbac.v3.RBAC but expect"]);
    world.mesh.apply(&with_digest(DIGEST)).unwrap();
    wait_for_answer(addr, "SET a 1", "+OK");
}

/// The agent says so by a filter that is no module, which the listener does not take. A
/// WasmPlugin's does.
#[test]
fn a_router_that_works_stays_when_its_next_image_cannot_be_pulled() {
    for name in ["service", "envoyfilter"] {
        let world = World::start();
        world.mesh.apply(&base(name)).unwrap();
        let client = world.client();
        let addr = client.addr(REDIS).unwrap();
        wait_for_answer(addr, "SET a 1", "+OK");
        let before = client.refusals().len();
        let text = Value::from(base(name)).to_string().replace(IMAGE, "oci://registry/of:the-next");
        world.mesh.apply(&serde_json::from_str::<Vec<Value>>(&text).unwrap()).unwrap();
        until("the sidecar to refuse it", PATIENCE, || {
            let more = client.refusals().len() > before;
            Ok(if more { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
        })
        .unwrap();
        assert_eq!(ask(addr, "SET a 2").unwrap(), "+OK", "{name}");
        assert_eq!(passed(&client), 2, "{name}");
    }
}

#[test]
fn the_door_is_for_one_service_and_another_redis_on_its_port_stays_as_it_is() {
    let bus = Port::free().unwrap();
    let node = one_node_cluster(&bus, &[]);
    let another = RedisServer::start(&[]).unwrap();
    let mut services = services(node.addr(), another.addr());
    services[1].port = 6379;
    let mesh = Mesh::new(services).unwrap();
    mesh.place(SEED, node.addr().to_string()).unwrap();
    mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
    mesh.apply(&base("service")).unwrap();
    let client = mesh.start(sidecar("client")).unwrap();
    wait_for_answer(client.addr(REDIS).unwrap(), "SET a slotmesh", "+OK");
    assert_eq!(passed(&client), 1);
    // What Slotmesh would not have sent there.
    let addr = client.addr("10.96.0.11_6379").unwrap();
    assert_eq!(ask(addr, "SET a another").unwrap(), "+OK");
    assert_eq!(ask(addr, "SELECT 1").unwrap(), "+OK");
    assert_eq!(another.cli(&["GET", "a"]).unwrap().trim(), "another");
    assert_eq!(node.cli(&["GET", "a"]).unwrap().trim(), "slotmesh");
    assert_eq!(passed(&client), 1);
    // Its own tcp_proxy leads to the door, with the statistics of it.
    let door = "outbound|6379||redis-cluster.slotmesh.internal";
    assert_eq!(counter(&client, &format!("tcp.{door}.downstream_cx_total")), 1);
    assert_eq!(client.refusals(), Vec::<String>::new());
}

/// Envoy 1.40 does not hand it on, unless it is told to.
#[test]
fn the_last_reply_comes_before_the_end_of_the_connection() {
    for name in BASES {
        let world = World::start();
        world.mesh.apply(&base(name)).unwrap();
        let client = world.client();
        wait_for_answer(client.addr(REDIS).unwrap(), "SET a 1", "+OK");
        for _ in 0..20 {
            let mut client = Client::connect(client.addr(REDIS).unwrap()).unwrap();
            assert_eq!(client.call("INCR a\r\nQUIT").unwrap().get(..1), Some(":"), "{name}");
            assert_eq!(client.rest(), "+OK\r\n", "{name}");
        }
    }
}

/// As it is documented for a pod under load: all but the VirtualService, which then leads clients
/// to it.
#[test]
fn no_client_of_a_running_pod_is_closed_when_the_route_comes_last_and_goes_first() {
    let world = World::start();
    let client = world.client();
    let addr = client.addr(REDIS).unwrap();
    let (route, behind): (Vec<Value>, Vec<Value>) =
        base("service").into_iter().partition(|object| object["kind"] == "VirtualService");
    let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let asker = scope.spawn(|| {
            let mut old = Client::connect(addr).unwrap();
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(ask(addr, "INCR new").unwrap().get(..1), Some(":"));
                assert_eq!(old.call("INCR old").unwrap().get(..1), Some(":"));
                answers.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_for_traffic(&answers);
        world.mesh.apply(&behind).unwrap();
        until("the router to be there", PATIENCE, || {
            let stats = client.envoy().stats()?;
            let name = "extension_config_discovery.network_filter.slotmesh.router.config_reload";
            let there = stats.get(name).is_some_and(|reloads| *reloads > 0);
            Ok(if there { Probe::Ready(()) } else { Probe::NotYet("it is not".to_owned()) })
        })
        .unwrap();
        wait_for_traffic(&answers);
        assert_eq!(passed(&client), 0);
        world.mesh.apply(&route).unwrap();
        until("new clients to be the router's", PATIENCE, || {
            let now = passed(&client);
            Ok(if now > 0 { Probe::Ready(()) } else { Probe::NotYet("none was".to_owned()) })
        })
        .unwrap();
        wait_for_traffic(&answers);
        world.mesh.delete(&route).unwrap();
        until("new clients to be the node's again", PATIENCE, || {
            let before = passed(&client);
            wait_for_traffic(&answers);
            let more = passed(&client) - before;
            Ok(if more == 0 { Probe::Ready(()) } else { Probe::NotYet(format!("{more} were not")) })
        })
        .unwrap();
        world.mesh.delete(&behind).unwrap();
        wait_for_traffic(&answers);
        stop.store(true, Ordering::Relaxed);
        asker.join().unwrap();
    });
}

#[test]
fn the_envoyfilter_without_its_wasmplugin_closes_clients() {
    let world = World::start();
    let mut objects = base("wasmplugin");
    objects.retain(|object| object["kind"] == "EnvoyFilter");
    world.mesh.apply(&objects).unwrap();
    let client = world.client();
    let addr = client.addr(REDIS).unwrap();
    assert_closed(addr);
    assert_other_serves(&client);
    assert!(counter(&client, "slotmesh_guard_.rbac.denied") > 0, "it was not the guard");
    world.mesh.apply(&base("wasmplugin")).unwrap();
    wait_for_answer(addr, "SET a 1", "+OK");
}

#[test]
fn a_new_configuration_is_for_new_clients_and_old_ones_keep_working() {
    for name in BASES {
        let world = World::start();
        world.mesh.apply(&base(name)).unwrap();
        let client = world.client();
        let addr = client.addr(REDIS).unwrap();
        let mut old = Client::connect(addr).unwrap();
        assert_eq!(old.call("SET a 1").unwrap(), "+OK");
        let (stop, answers) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            let _stop = StopOnDrop(&stop);
            // One connection, from before to after.
            let writer = scope.spawn(|| {
                let mut writer = Client::connect(addr).unwrap();
                while !stop.load(Ordering::Relaxed) {
                    let count = answers.load(Ordering::Relaxed) + 1;
                    assert_eq!(writer.call("INCR count").unwrap(), format!(":{count}"));
                    answers.store(count, Ordering::Relaxed);
                }
            });
            wait_for_traffic(&answers);
            let with_password = configured(name, |configuration| {
                configuration["downstream_auth_password"] = json!({"inline_string": "secret"});
            });
            world.mesh.apply(&with_password).unwrap();
            wait_for_answer(addr, "SET a 2", "-NOAUTH Authentication required.");
            wait_for_traffic(&answers);
            stop.store(true, Ordering::Relaxed);
            writer.join().unwrap();
        });
        assert_eq!(old.call("SET a 3").unwrap(), "+OK", "{name}");
        assert_eq!(client.refusals(), Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_bad_configuration_is_named_in_the_log_and_closes_its_clients_and_nothing_else() {
    for name in BASES {
        let world = World::start();
        let misspelt = configured(name, |configuration| {
            configuration["settings"]["op_timeuot"] = json!("5s");
        });
        world.mesh.apply(&misspelt).unwrap();
        let client = world.client();
        let addr = client.addr(REDIS).unwrap();
        assert_closed(addr);
        assert_other_serves(&client);
        wait_for_line(&client, &["configuration refused: settings.op_timeuot: unknown field"]);
        world.mesh.apply(&base(name)).unwrap();
        wait_for_answer(addr, "SET a 1", "+OK");
        // One that works is kept when a bad one follows.
        let refusals = client.refusals().len();
        world.mesh.apply(&misspelt).unwrap();
        until("the sidecar to refuse it", PATIENCE, || {
            let more = client.refusals().len() > refusals;
            Ok(if more { Probe::Ready(()) } else { Probe::NotYet("not yet".to_owned()) })
        })
        .unwrap();
        assert_eq!(ask(addr, "SET a 2").unwrap(), "+OK", "{name}");
    }
}

#[test]
fn an_unreachable_seed_is_named_in_the_log_and_clients_are_told() {
    let world = World::start();
    let nobody = Port::free().unwrap();
    world.mesh.place(SEED, nobody.addr().to_string()).unwrap();
    let impatient = configured("envoyfilter", |configuration| {
        configuration["settings"]["op_timeout"] = json!("0.5s");
    });
    world.mesh.apply(&impatient).unwrap();
    let client = world.client();
    let answer = ask(client.addr(REDIS).unwrap(), "SET a 1").unwrap();
    assert!(answer.starts_with('-'), "{answer}");
    wait_for_line(&client, &["slotmesh: ", &nobody.addr().to_string()]);
    assert_other_serves(&client);
}

/// The seed says that it is somewhere else.
#[test]
fn a_node_outside_the_pods_network_is_not_dialled() {
    let bus = Port::free().unwrap();
    let node = one_node_cluster(&bus, &["--cluster-announce-ip", "127.0.0.2"]);
    let impatient = configured("service", |configuration| {
        configuration["settings"]["op_timeout"] = json!("0.5s");
    });
    let mesh = Mesh::new(services(node.addr(), Port::free().unwrap().addr())).unwrap();
    mesh.place(SEED, node.addr().to_string()).unwrap();
    mesh.place(POD_NETWORK, POD_NETWORK).unwrap();
    mesh.publish(IMAGE, image(DIGEST).unwrap()).unwrap();
    mesh.apply(&impatient).unwrap();
    let client = mesh.start(sidecar("client")).unwrap();
    let answer = ask(client.addr(REDIS).unwrap(), "SET a 1").unwrap();
    assert!(answer.contains("allowed_nodes of cluster 'redis' does not allow it"), "{answer}");
}

#[test]
fn two_workloads_have_it_and_a_third_that_has_not_opted_in_is_left_alone() {
    let world = World::start();
    world.mesh.apply(&base("envoyfilter")).unwrap();
    let mut bystander = sidecar("bystander");
    bystander.labels.clear();
    let bystander = world.mesh.start(bystander).unwrap();
    let clients = ["one", "two"].map(|name| world.mesh.start(sidecar(name)).unwrap());
    let [one, two] = &clients;
    assert_eq!(ask(one.addr(REDIS).unwrap(), "SET a 1").unwrap(), "+OK");
    assert_eq!(ask(two.addr(REDIS).unwrap(), "INCR a").unwrap(), ":2");
    assert_eq!(ask(bystander.addr(REDIS).unwrap(), "INCR a").unwrap(), ":3");
    assert_eq!([one, two, &bystander].map(passed), [1, 1, 0]);
    world.mesh.delete(&base("envoyfilter")).unwrap();
    for client in clients {
        until("the second to be without it, too", PATIENCE, || {
            let before = passed(&client);
            let answer = ask(client.addr(REDIS)?, "PING");
            let plain = answer.is_ok() && passed(&client) == before;
            Ok(if plain { Probe::Ready(()) } else { Probe::NotYet(format!("{answer:?}")) })
        })
        .unwrap();
    }
}

/// First what leads clients to the router, then the router: see istio/README.md.
fn in_order_of_removal(mut objects: Vec<Value>) -> Vec<Value> {
    objects.sort_by_key(|object| match object["kind"].as_str() {
        Some("VirtualService" | "WasmPlugin") => 0,
        Some("EnvoyFilter") => 1,
        _ => 2,
    });
    objects
}

/// Writes over one connection after the other. A write may fail, and it may have been executed all
/// the same; what must not be is an answer to another command.
fn write_until(stop: &AtomicBool, addr: SocketAddr, answers: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut client) = Client::connect(addr) else { continue };
        let mut last = 0;
        while !stop.load(Ordering::Relaxed) {
            match client.call("INCR count") {
                Ok(answer) if answer.starts_with(':') => {
                    let count: u64 = answer[1..].parse().unwrap();
                    assert!(count > last, "{count} after {last}");
                    last = count;
                    answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(answer) => {
                    assert!(answer.starts_with('-'), "INCR answered {answer}");
                    break;
                }
                Err(error) => {
                    assert!(!error.to_string().contains("own bytes"), "{error}");
                    break;
                }
            }
        }
    }
}

/// Sets its flag when dropped, so that traffic ends also when the test around it panics.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_for_traffic(answers: &AtomicU64) {
    let before = answers.load(Ordering::Relaxed);
    until("traffic", PATIENCE, || {
        let more = answers.load(Ordering::Relaxed) - before;
        Ok(if more >= 100 { Probe::Ready(()) } else { Probe::NotYet(format!("{more} answers")) })
    })
    .unwrap();
}

fn assert_other_serves(client: &Sidecar) {
    assert_eq!(ask(client.addr(OTHER).unwrap(), "PING").unwrap(), "+PONG");
}

/// The objects of a base with another configuration of the module.
fn configured(name: &str, change: impl FnOnce(&mut Value)) -> Vec<Value> {
    let mut objects = base(name);
    let edit = |objects: &mut [Value]| -> Result<()> {
        for object in objects {
            if object["kind"] == "WasmPlugin" {
                change(&mut object["spec"]["pluginConfig"]);
                return Ok(());
            }
            let text = "/spec/configPatches/0/patch/value/typed_config/config/configuration/value";
            if let Some(text) = object.pointer_mut(text) {
                let mut json = serde_json::from_str(text.as_str().unwrap())?;
                change(&mut json);
                *text = json.to_string().into();
                return Ok(());
            }
        }
        bail!("no configuration")
    };
    edit(&mut objects).unwrap();
    objects
}

/// The first base with a digest for both roles.
fn with_digest(digest: &str) -> Vec<Value> {
    let mut objects = base("envoyfilter");
    for object in &mut objects {
        for patch in [0, 1] {
            let remote = &mut object["spec"]["configPatches"][patch]["patch"]["value"]["typed_config"]
                ["config"]["vm_config"]["code"]["remote"];
            remote["sha256"] = digest.into();
        }
    }
    objects
}
