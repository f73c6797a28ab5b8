//! Plugins that trap, and the limit of their memory.

use std::time::Duration;

use slotmesh_host::{Config, Level, Role, Simulation, StartError, Vms, answering};

use crate::support::{
    bare_guest, guest, relay_config, relay_with_tunnel, said, simulate, try_simulate,
};

const TRAPS_ON_DATA: &str = r#"
    (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32) unreachable)
    (func (export "proxy_on_tick") (param i32) (call $digit (i32.const 1)))
    (func (export "proxy_on_configure") (param i32 i32) (result i32)
      (drop (call $tick (i32.const 100))) (i32.const 1))"#;

#[test]
fn a_trap_closes_every_client_and_every_later_one_at_once() {
    let mut simulation = simulate(TRAPS_ON_DATA);
    let clients = [simulation.connect(), simulation.connect()];
    simulation.send(clients[0], "boom");
    simulation.settle();
    for client in clients {
        assert!(!simulation.is_open(client));
        assert_eq!(simulation.received(client), b"", "its own bytes are not echoed");
    }
    let lines = simulation.host().log().lines();
    let trap = lines.iter().find(|line| line.level == Level::Critical).unwrap();
    assert!(trap.text.starts_with("trapped in proxy_on_downstream_data"), "{}", trap.text);
    assert!(simulation.host().log().says("2 clients are closed"));
    let late = simulation.connect();
    assert!(!simulation.is_open(late));
    // The VM is never entered again.
    simulation.advance(Duration::from_secs(1));
    assert_eq!(said(&simulation, "router").len(), 1);
    assert!(simulation.host().usage(Role::Router).failed);
}

#[test]
fn what_the_router_sent_before_it_trapped_is_sent_and_its_streams_are_dropped() {
    let wasm = guest(
        r#"
        (data (i32.const 1024) "upstream")
        (data (i32.const 1040) "\01\00\00\00\19\00\00\00\0d\00\00\00x-envoy-original-dst-host\0010.0.0.9:6379\00")
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (drop (call $open (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 1040) (i32.const 52) (i32.const 16)))
          unreachable)"#,
    );
    let mut simulation = Simulation::new(&wasm, Config::new(""), 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert!(!simulation.is_open(client));
    assert_eq!(simulation.upstreams_to("10.0.0.9:6379"), []);
}

const TUNNEL_THAT_TRAPS: &str =
    r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) unreachable)"#;

#[test]
fn a_trap_in_a_tunnel_with_its_own_vm_ends_all_streams_and_spares_the_router() {
    let wasm = relay_with_tunnel(TUNNEL_THAT_TRAPS);
    let config = Config { vms: Vms::Two, ..relay_config("10.0.0.1:6379") };
    let mut simulation = Simulation::new(&wasm, config, 1).unwrap();
    simulation.add_peer("10.0.0.1:6379", answering(|_, _| panic!("nothing may arrive")));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    let lines = said(&simulation, "router");
    assert_eq!(lines[lines.len() - 2..], ["13", "wasm_fail_stream"]);
    assert!(simulation.is_open(client));
    assert!(simulation.host().usage(Role::Tunnel).failed);
    assert!(!simulation.host().usage(Role::Router).failed);
}

#[test]
fn a_trap_in_a_tunnel_in_the_routers_vm_closes_the_clients() {
    let wasm = relay_with_tunnel(TUNNEL_THAT_TRAPS);
    let mut simulation = Simulation::new(&wasm, relay_config("10.0.0.1:6379"), 1).unwrap();
    simulation.add_peer("10.0.0.1:6379", answering(|_, _| panic!("nothing may arrive")));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert!(!simulation.is_open(client));
    assert_eq!(simulation.upstreams_to("10.0.0.1:6379"), []);
    assert!(simulation.host().log().says("trapped in proxy_on_request_body"));
}

#[test]
fn proc_exit_is_a_trap() {
    let mut simulation = simulate(
        r#"(func (export "proxy_on_new_connection") (param i32) (result i32)
             (call $exit (i32.const 3)) (i32.const 0))"#,
    );
    let client = simulation.connect();
    assert!(!simulation.is_open(client));
    assert!(simulation.host().log().says("proc_exit(3)"));
}

#[test]
fn memory_grows_to_the_limit_and_no_further() {
    let body = r#"
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (call $digit (i32.ge_s (memory.grow (i32.const 2)) (i32.const 0)))
          (call $digit (i32.ge_s (memory.grow (i32.const 1)) (i32.const 0)))
          (i32.const 0))"#;
    let mut config = Config::new("");
    config.memory_limit = 4 << 16;
    let mut simulation = try_simulate(body, config.clone()).unwrap();
    simulation.connect();
    assert_eq!(said(&simulation, "router"), ["1", "0"]);
    assert_eq!(simulation.host().usage(Role::Router).memory_bytes, 4 << 16);

    config.memory_limit = 1 << 16;
    let refused = try_simulate(body, config).err();
    assert!(matches!(refused, Some(StartError::Instantiation(_))), "{refused:?}");
}

#[test]
fn an_allocator_that_traps_fails_the_plugin_not_the_host() {
    let wasm = bare_guest(
        r#"(import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "proxy_on_memory_allocate") (param i32) (result i32) unreachable)
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $get (i32.const 2) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4)))"#,
    );
    let mut simulation = Simulation::new(&wasm, Config::new(""), 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert!(!simulation.is_open(client));
}
