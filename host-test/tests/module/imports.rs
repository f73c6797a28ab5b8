//! What the real module asks of its host, and what it has its host enter.

use std::{fs, path::PathBuf};

use wasmtime::{Engine, Module};

fn module() -> Module {
    let path = slotmesh_testbed::locate::wasm().expect("the module is built");
    Module::from_file(&Engine::default(), path).expect("it is a module")
}

/// An Envoy that lacks one of them does not load the module: a new one is a decision.
#[test]
fn the_module_imports_what_the_list_says() {
    let module = module();
    let mut imports: Vec<_> = module
        .imports()
        .map(|import| format!("{}::{}\n", import.module(), import.name()))
        .collect();
    imports.sort_unstable();
    let list = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../filter/abi/imports.txt");
    let listed = fs::read_to_string(&list).expect("the list is there");
    assert_eq!(imports.concat(), listed, "the left is what {} should say", list.display());
}

/// Envoy would enter the VM for every reply that the echo filter writes.
#[test]
fn the_module_is_not_entered_for_what_echo_writes() {
    let module = module();
    assert!(module.get_export("proxy_on_downstream_data").is_some());
    assert!(module.get_export("proxy_on_upstream_data").is_none());
}
