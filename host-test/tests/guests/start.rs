//! Starting: in which order, and what is refused how.

use slotmesh_host::{Config, Level, Log, Role, Simulation, StartError, Vms, Wasm};

use crate::support::{bare_guest, guest, said, try_simulate};

fn refused(wasm: &Wasm) -> StartError {
    Simulation::new(wasm, Config::new("{}"), 1).err().expect("it does not start")
}

#[test]
fn a_plugin_is_initialised_created_started_and_configured_in_this_order() {
    let mut config = Config::new("plugin");
    config.vm_configuration = b"vm".to_vec();
    let body = r#"
        (data (i32.const 1024) "initialize")
        (data (i32.const 1040) "create")
        (func (export "_initialize") (call $say (i32.const 1024) (i32.const 10)))
        (func (export "_start") unreachable)
        (func (export "proxy_on_context_create") (param i32 i32)
          (call $say (i32.const 1040) (i32.const 6))
          (call $digit (local.get 0)) (call $digit (local.get 1)))
        (func (export "proxy_on_vm_start") (param i32 i32) (result i32)
          (call $digit (local.get 1))
          (call $fetch (i32.const 6)) (call $say_answer)
          (i32.const 1))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (call $digit (local.get 1))
          (call $fetch (i32.const 7)) (call $say_answer)
          (i32.const 1))"#;
    let mut simulation = try_simulate(body, config.clone()).unwrap();
    simulation.connect();
    // The tunnel has no configuration.
    let tunnel = ["initialize", "create", "1", "0", "2", "vm", "0", ""];
    assert_eq!(said(&simulation, "tunnel"), tunnel);
    let router = ["create", "2", "0", "2", "vm", "6", "plugin", "create", "3", "2"];
    assert_eq!(said(&simulation, "router"), router);

    let config = Config { vms: Vms::Two, log: Log::captured(Level::Info), ..config };
    let mut simulation = try_simulate(body, config).unwrap();
    simulation.connect();
    assert_eq!(said(&simulation, "tunnel"), tunnel);
    let router = ["initialize", "create", "1", "0", "2", "vm", "6", "plugin", "create", "2", "1"];
    assert_eq!(said(&simulation, "router"), router);
}

#[test]
fn unknown_imports_are_all_named() {
    let wasm = bare_guest(
        r#"(import "env" "proxy_log" (func (param i32 i32 i32) (result i32)))
           (import "env" "proxy_http_call" (func (param i32) (result i32)))
           (import "wasi_snapshot_preview1" "path_open" (func (result i32)))
           (memory (export "memory") 1)
           (func (export "proxy_abi_version_0_2_1"))"#,
    );
    let error = refused(&wasm);
    assert_eq!(
        error.to_string(),
        "the plugin imports what this host does not have: env::proxy_http_call, \
         wasi_snapshot_preview1::path_open"
    );
}

#[test]
fn what_a_plugin_must_export_is_asked_for_by_name() {
    let memory = r#"(memory (export "memory") 1)"#;
    let version = r#"(func (export "proxy_abi_version_0_2_1"))"#;
    let name = |body: &str| match refused(&bare_guest(body)) {
        StartError::Export { name, .. } => name,
        error => panic!("{error}"),
    };
    assert_eq!(name(memory), "proxy_abi_version_0_2_1");
    assert_eq!(name(version), "memory");
    assert_eq!(name(&format!("{memory}{version}")), "proxy_on_memory_allocate");
    let wrong = r#"(func (export "proxy_on_tick") (param i64))"#;
    assert!(
        matches!(refused(&guest(wrong)), StartError::Export { name, .. } if name == "proxy_on_tick")
    );
}

#[test]
fn a_plugin_may_refuse_its_vm_and_its_configuration() {
    let refuses = |callback: &str, plugin: &str| {
        // Only the router has a configuration; both have a VM.
        let size = if plugin == "router" { "(i32.eqz (local.get 1))" } else { "(i32.const 0)" };
        refused(&guest(&format!(
            r#"(func (export "{callback}") (param i32 i32) (result i32) {size})"#
        )))
    };
    let rejected = refuses("proxy_on_configure", "router");
    assert_eq!(rejected, StartError::ConfigurationRejected(Role::Router));
    let refused = refuses("proxy_on_vm_start", "tunnel");
    assert_eq!(refused, StartError::VmStartRejected(Role::Tunnel));
}

#[test]
fn a_plugin_that_traps_while_starting_does_not_start() {
    let body = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32) unreachable)"#;
    assert_eq!(refused(&guest(body)), StartError::Trapped(Role::Tunnel));
}

#[test]
fn what_is_no_module_is_said_to_be_none() {
    let error = Wasm::from_bytes(b"not wasm").err().expect("it is no module");
    assert!(error.to_string().starts_with("not a WebAssembly module"), "{error}");
}
