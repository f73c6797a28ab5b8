//! What is left when the module itself fails: it should not, but if it does, its worker must not be
//! lost.

use std::fs;
use std::io::Read;
use std::time::Duration;

use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::{RawClient, command};
use slotmesh_testbed::{
    ClusterOptions, Envoy, EnvoyOptions, PluginConfig, RedisCluster, TempDir, locate,
};
use wasmparser::{ExternalKind, Parser, Payload};

const PATIENCE: Duration = Duration::from_secs(30);

/// The module, with a function that traps in the place of the one that it exports as `name`.
fn module_that_traps_in(name: &str) -> Vec<u8> {
    const NO_LOCALS: u8 = 0;
    const UNREACHABLE: u8 = 0;
    const NOP: u8 = 1;
    const END: u8 = 0x0b;
    let mut module = fs::read(locate::wasm().unwrap()).unwrap();
    let (mut imported, mut index, mut bodies) = (0, None, Vec::new());
    for payload in Parser::new(0).parse_all(&module) {
        match payload.unwrap() {
            Payload::ImportSection(imports) => {
                let imports = imports.into_imports().map(Result::unwrap);
                imported = imports.filter(|i| matches!(i.ty, wasmparser::TypeRef::Func(_))).count();
            }
            Payload::ExportSection(exports) => {
                let mut exports = exports.into_iter().map(Result::unwrap);
                let export = exports.find(|e| e.kind == ExternalKind::Func && e.name == name);
                index = export.map(|export| export.index as usize);
            }
            Payload::CodeSectionEntry(body) => {
                let range = body.range();
                bodies.push(range.start as usize..range.end as usize);
            }
            _ => {}
        }
    }
    let body = &mut module[bodies[index.expect(name) - imported].clone()];
    body.fill(NOP);
    let [locals, first, .., last] = body else { panic!("{name} does nothing") };
    (*locals, *first, *last) = (NO_LOCALS, UNREACHABLE, END);
    module
}

#[test]
fn a_worker_whose_module_fails_echoes_nothing_and_serves_new_clients_soon_after() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let dir = TempDir::new("crash").unwrap();
    let wasm = dir.path().join("traps.wasm");
    fs::write(&wasm, module_that_traps_in("proxy_on_downstream_connection_close")).unwrap();
    let mut options = EnvoyOptions::new(PluginConfig::from_seeds(&cluster.seeds()));
    options.wasm = Some(wasm);
    options.concurrency = 1;
    let envoy = Envoy::start(options).unwrap();

    let mut old = RawClient::connect(envoy.addr()).unwrap();
    assert_eq!(old.call(&["SET", "a", "1"]).unwrap(), b"+OK\r\n");
    drop(RawClient::connect(envoy.addr()).unwrap());
    until("the module to fail", PATIENCE, || {
        let failed = envoy.log().contains("proxy_on_downstream_connection_close failed");
        Ok(if failed { Probe::Ready(()) } else { Probe::NotYet("it works".to_owned()) })
    })
    .unwrap();
    old.send(&command(&["SET", "a", "2"])).unwrap();
    let mut rest = Vec::new();
    // The connection may be reset as well.
    let _ = old.halves().1.read_to_end(&mut rest);
    assert_eq!(rest.escape_ascii().to_string(), "", "what it has sent, or a reply from nowhere");

    let mut new = until("a new client to be served", PATIENCE, || {
        let mut client = RawClient::connect(envoy.addr())?;
        Ok(match client.call(&["GET", "a"]) {
            Ok(reply) => Probe::Ready((client, reply)),
            Err(error) => Probe::NotYet(error.to_string()),
        })
    })
    .unwrap();
    assert_eq!(new.1, b"$1\r\n1\r\n");
    assert_eq!(new.0.call(&["SET", "a", "3"]).unwrap(), b"+OK\r\n");
}
