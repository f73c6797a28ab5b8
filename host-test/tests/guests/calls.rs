//! The other host calls: pointers, time, properties, metrics, log, WASI.

use std::time::Duration;

use slotmesh_host::{Config, Level, Log, Metric, Simulation};

use crate::support::{guest, said, simulate, simulate_router, try_simulate};

#[test]
fn pointers_outside_the_memory_are_answered_and_nothing_breaks() {
    let out = "(i32.const 0x7ffffff0)";
    let last = "(i32.const 0xffffffff)";
    let calls = [
        format!("(call $log (i32.const 2) {out} (i32.const 32))"),
        format!("(call $log (i32.const 2) {last} {last})"),
        format!("(call $get (i32.const 2) (i32.const 0) (i32.const 9) {out} (i32.const 4))"),
        format!("(call $get (i32.const 2) (i32.const 0) (i32.const 9) (i32.const 0) {last})"),
        format!("(call $set (i32.const 2) (i32.const 0) (i32.const 0) {out} (i32.const 1))"),
        format!("(call $set (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 0) {last})"),
        format!("(call $property {out} (i32.const 9) (i32.const 0) (i32.const 4))"),
        format!("(call $set_property (i32.const 0) (i32.const 1) {out} (i32.const 1))"),
        format!("(call $time {last})"),
        format!("(call $level {out})"),
        format!("(call $status {out} (i32.const 0) (i32.const 4))"),
        format!("(call $define (i32.const 0) {out} (i32.const 4) (i32.const 0))"),
        format!("(call $define (i32.const 0) (i32.const 0) (i32.const 4) {out})"),
        format!("(call $header (i32.const 4) {out} (i32.const 4) (i32.const 0) (i32.const 4))"),
        format!("(call $headers (i32.const 4) {out} {out})"),
        open_with(out, "(i32.const 16)"),
        open_with("(i32.const 1024)", out),
    ];
    let body: String = calls.iter().map(|call| format!("(call $digit {call})")).collect();
    let mut simulation = simulate(&format!(
        r#"
        (data (i32.const 1024) "upstream")
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          {body}
          (i32.const 0))"#
    ));
    let client = simulation.connect();
    simulation.send(client, "still here");
    simulation.settle();
    assert_eq!(said(&simulation, "router").concat(), "6".repeat(calls.len()));
    assert_eq!(simulation.received(client), b"still here");
    assert_eq!(simulation.upstreams_to(""), [], "no stream is left behind");
}

fn open_with(target: &str, token_at: &str) -> String {
    format!(
        "(call $open {target} (i32.const 8) (i32.const 0) (i32.const 0) (i32.const 0)
           (i32.const 0) (i32.const 0) (i32.const 0) {token_at})"
    )
}

#[test]
fn an_allocator_that_gives_nothing_is_answered() {
    let wat = r#"(module
        (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
        (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "proxy_abi_version_0_2_1"))
        (func (export "malloc") (param i32) (result i32) (i32.const 0))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (i32.store8 (i32.const 100) (i32.add (i32.const 48)
            (call $get (i32.const 2) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4))))
          (drop (call $log (i32.const 2) (i32.const 100) (i32.const 1)))
          (i32.const 1)))"#;
    let wasm = slotmesh_host::Wasm::from_bytes(&wat::parse_str(wat).unwrap()).unwrap();
    let mut simulation = Simulation::new(&wasm, Config::new(""), 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(said(&simulation, "router"), ["6"]);
}

#[test]
fn ticks_come_at_their_period_and_stop_at_zero() {
    let mut simulation = simulate_router(
        r#"
        (data (i32.const 1024) "ticks")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (drop (call $define (i32.const 0) (i32.const 1024) (i32.const 5) (i32.const 16)))
          (drop (call $tick (i32.const 10)))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $increment (i32.load (i32.const 16)) (i64.const 1))))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (drop (call $tick (i32.const 0)))
          (i32.const 1))"#,
    );
    let ticks = |simulation: &Simulation| simulation.host().metrics()["ticks"];
    simulation.advance(Duration::from_millis(95));
    assert_eq!(ticks(&simulation), Metric::Counter(9));
    let client = simulation.connect();
    simulation.send(client, "stop");
    simulation.advance(Duration::from_secs(10));
    assert_eq!(ticks(&simulation), Metric::Counter(9));
}

#[test]
fn each_plugin_knows_its_root_id_from_the_start() {
    let simulation = simulate(
        r#"
        (data (i32.const 1024) "plugin_root_id")
        (func (export "proxy_on_context_create") (param i32 i32)
          (call $digit (call $property (i32.const 1024) (i32.const 14) (i32.const 0) (i32.const 4)))
          (call $say_answer))"#,
    );
    assert_eq!(said(&simulation, "router"), ["0", "router"]);
    assert_eq!(said(&simulation, "tunnel"), ["0", "tunnel"]);
}

#[test]
fn properties_belong_to_a_connection() {
    let mut simulation = simulate(
        r#"
        (data (i32.const 1024) "source\00address")
        (data (i32.const 1040) "mine")
        (func $try (param $path i32) (param $size i32)
          (i64.store (i32.const 0) (i64.const 0))
          (call $digit (call $property (local.get $path) (local.get $size) (i32.const 0) (i32.const 4)))
          (call $say_answer))
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          (if (local.get 1) (then
            (call $digit (call $set_property (i32.const 1040) (i32.const 4) (i32.const 1040) (i32.const 2)))))
          (i32.const 1))
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (call $try (i32.const 1024) (i32.const 14))
          (call $try (i32.const 1040) (i32.const 4))
          (call $digit (call $set_property (i32.const 1040) (i32.const 4) (i32.const 1040) (i32.const 2)))
          (call $try (i32.const 1040) (i32.const 4))
          (i32.const 0))"#,
    );
    simulation.connect();
    assert_eq!(said(&simulation, "router"), ["0", "10.255.0.1:10000", "1", "", "0", "0", "mi"]);
}

#[test]
fn metrics_count_as_envoys_do() {
    let mut simulation = simulate(
        r#"
        (data (i32.const 1024) "cgh")
        (func $try (param $id i32)
          (call $digit (call $increment (local.get $id) (i64.const 5)))
          (call $digit (call $increment (local.get $id) (i64.const -2)))
          (call $digit (call $record (local.get $id) (i64.const 7)))
          (call $digit (call $metric (local.get $id) (i32.const 32))))
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (drop (call $define (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 16)))
          (drop (call $define (i32.const 1) (i32.const 1025) (i32.const 1) (i32.const 20)))
          (drop (call $define (i32.const 2) (i32.const 1026) (i32.const 1) (i32.const 24)))
          (call $try (i32.load (i32.const 16)))
          (call $try (i32.load (i32.const 20)))
          (call $try (i32.load (i32.const 24)))
          (call $try (i32.const 4000))
          (call $digit (call $define (i32.const 3) (i32.const 1024) (i32.const 1) (i32.const 16)))
          (i32.const 0))"#,
    );
    simulation.connect();
    assert_eq!(said(&simulation, "router").concat(), "0200000022021111".to_owned() + "2");
    let metrics = simulation.host().metrics();
    assert_eq!(metrics["c"], Metric::Counter(12));
    assert_eq!(metrics["g"], Metric::Gauge(7));
    assert_eq!(metrics["h"], Metric::Histogram { count: 1, sum: 7 });
}

#[test]
fn lines_below_the_log_level_are_dropped_and_the_level_is_told() {
    let body = r#"
        (data (i32.const 1024) "line")
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (local $level i32)
          (loop $next
            (drop (call $log (local.get $level) (i32.const 1024) (i32.const 4)))
            (local.set $level (i32.add (local.get $level) (i32.const 1)))
            (br_if $next (i32.lt_u (local.get $level) (i32.const 6))))
          (drop (call $level (i32.const 16)))
          (i32.store8 (i32.const 32) (i32.add (i32.load (i32.const 16)) (i32.const 48)))
          (drop (call $log (i32.const 5) (i32.const 32) (i32.const 1)))
          (i32.store8 (i32.const 32) (i32.add (i32.const 48)
            (call $log (i32.const 6) (i32.const 1024) (i32.const 4))))
          (drop (call $log (i32.const 5) (i32.const 32) (i32.const 1)))
          (i32.const 0))"#;
    let mut config = Config::new("");
    config.log = Log::captured(Level::Error);
    let mut simulation = try_simulate(body, config).unwrap();
    simulation.connect();
    let lines = simulation.host().log().lines();
    let lines: Vec<_> = lines.iter().map(|line| (line.level, line.text.as_str())).collect();
    let (error, critical) = (Level::Error, Level::Critical);
    assert_eq!(lines, [(error, "line"), (critical, "line"), (critical, "4"), (critical, "2")]);
}

#[test]
fn wasi_gives_both_clocks_the_environment_and_repeatable_randomness() {
    let body = r#"
        (data (i32.const 1024) "\00\05\00\00\03\00\00\00\00\06\00\00\02\00\00\00") ;; two slices
        (data (i32.const 0x500) "two")
        (data (i32.const 0x600) "!\n")
        (func (export "proxy_on_tick") (param i32)
          (call $digit (call $clock (i32.const 1) (i64.const 0) (i32.const 16)))
          (i32.store8 (i32.const 32) (i32.add (i32.const 48)
            (i32.wrap_i64 (i64.div_u (i64.load (i32.const 16)) (i64.const 1000000)))))
          (call $say (i32.const 32) (i32.const 1))
          (call $digit (i32.eqz (call $clock (i32.const 2) (i64.const 0) (i32.const 16))))
          (drop (call $environ_sizes (i32.const 16) (i32.const 20)))
          (call $digit (i32.load (i32.const 16)))
          (drop (call $environ (i32.const 24) (i32.const 2048)))
          (call $say (i32.load (i32.const 28)) (i32.const 3))
          (call $digit (call $write (i32.const 2) (i32.const 1024) (i32.const 2) (i32.const 16)))
          (call $digit (i32.load (i32.const 16)))
          (call $digit (call $write (i32.const 3) (i32.const 1024) (i32.const 2) (i32.const 16)))
          (drop (call $random (i32.const 3000) (i32.const 300)))
          (call $say (i32.const 3280) (i32.const 20))
          (drop (call $tick (i32.const 0))))
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (drop (call $tick (i32.const 7)))
          (i32.const 0))"#;
    let run = |seed| {
        let mut config = Config::new("");
        config.environment.insert("A".into(), "1".into());
        config.environment.insert("B".into(), "2".into());
        let mut simulation = Simulation::new(&guest(body), config, seed).unwrap();
        simulation.connect();
        simulation.advance(Duration::from_secs(1));
        said(&simulation, "router")
    };
    let lines = run(1);
    assert_eq!(lines[..9], ["0", "7", "0", "2", "B=2", "two!", "0", "5", "8"]);
    assert_eq!(lines, run(1));
    assert_ne!(lines, run(2));
}
