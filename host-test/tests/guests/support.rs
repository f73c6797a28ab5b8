//! What the guests have in common.

use slotmesh_host::{Config, HostSelection, Simulation, StartError, Vms, Wasm};

/// Imports, memory, allocator and the words the guests use.
///
/// `$say` logs, `$digit` logs a number as one hexadecimal digit, `$data` fetches the client's bytes
/// into `$at` and `$size` and empties the buffer, `$reply` answers the client with them.
const PRELUDE: &str = r#"
  (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_continue_stream" (func $continue (param i32) (result i32)))
  (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
  (import "env" "proxy_set_effective_context" (func $effective (param i32) (result i32)))
  (import "env" "proxy_set_tick_period_milliseconds" (func $tick (param i32) (result i32)))
  (import "env" "proxy_get_current_time_nanoseconds" (func $time (param i32) (result i32)))
  (import "env" "proxy_get_log_level" (func $level (param i32) (result i32)))
  (import "env" "proxy_get_property"
    (func $property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_property"
    (func $set_property (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_stream"
    (func $open (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_send" (func $send (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_grpc_close" (func $finish (param i32) (result i32)))
  (import "env" "proxy_grpc_cancel" (func $cancel (param i32) (result i32)))
  (import "env" "proxy_get_status" (func $status (param i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_value"
    (func $header (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_get_header_map_pairs"
    (func $headers (param i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
  (import "env" "proxy_get_metric" (func $metric (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get"
    (func $environ_sizes (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_get" (func $environ (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))

  (memory (export "memory") 2)
  ;; Below 1024: the host's answers. From 1024: a guest's own strings. From 4096: the heap.
  (global $heap (mut i32) (i32.const 4096))
  (global $at (mut i32) (i32.const 0))
  (global $size (mut i32) (i32.const 0))

  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param $size i32) (result i32)
    (local $address i32)
    ;; Nothing lives longer than a callback here: start again where the heap would end.
    (if (i32.gt_u (i32.add (global.get $heap) (local.get $size)) (i32.const 131072))
      (then (global.set $heap (i32.const 4096))))
    (local.set $address (global.get $heap))
    (global.set $heap (i32.add (global.get $heap) (local.get $size)))
    (local.get $address))

  (func $say (param $text i32) (param $size i32)
    (drop (call $log (i32.const 2) (local.get $text) (local.get $size))))
  (func $digit (param $number i32)
    (i32.store8 (i32.const 900) (i32.add (local.get $number)
      (select (i32.const 48) (i32.const 87) (i32.lt_u (local.get $number) (i32.const 10)))))
    (call $say (i32.const 900) (i32.const 1)))
  ;; Logs what the host handed over to the words at 0 and 4.
  (func $say_answer
    (call $say (i32.load (i32.const 0)) (i32.load (i32.const 4))))
  (func $fetch (param $buffer i32)
    (i64.store (i32.const 0) (i64.const 0))
    (drop (call $get (local.get $buffer) (i32.const 0) (i32.const 0x7fffffff)
      (i32.const 0) (i32.const 4)))
    (global.set $at (i32.load (i32.const 0)))
    (global.set $size (i32.load (i32.const 4))))
  (func $data
    (call $fetch (i32.const 2))
    (drop (call $set (i32.const 2) (i32.const 0) (global.get $size) (i32.const 0) (i32.const 0))))
  (func $reply
    (drop (call $set (i32.const 2) (i32.const 0) (i32.const 0) (global.get $at) (global.get $size)))
    (drop (call $continue (i32.const 2))))
"#;

/// The tunnel as the real plugin has it: frame headers off on the way out, on on the way in.
const TUNNEL: &str = r#"
  (func $big_endian (param $at i32) (result i32)
    (i32.or
      (i32.or (i32.shl (i32.load8_u (local.get $at)) (i32.const 24))
              (i32.shl (i32.load8_u offset=1 (local.get $at)) (i32.const 16)))
      (i32.or (i32.shl (i32.load8_u offset=2 (local.get $at)) (i32.const 8))
              (i32.load8_u offset=3 (local.get $at)))))
  (func (export "proxy_on_request_body") (param $context i32) (param $length i32) (param $end i32)
      (result i32)
    (local $from i32) (local $to i32) (local $message i32)
    (call $fetch (i32.const 0))
    (local.set $from (global.get $at))
    (local.set $to (global.get $at))
    (block $done (loop $next
      (br_if $done (i32.ge_u (local.get $from) (i32.add (global.get $at) (global.get $size))))
      (local.set $message (call $big_endian (i32.add (local.get $from) (i32.const 1))))
      (memory.copy (local.get $to) (i32.add (local.get $from) (i32.const 5)) (local.get $message))
      (local.set $to (i32.add (local.get $to) (local.get $message)))
      (local.set $from
        (i32.add (i32.add (local.get $from) (i32.const 5)) (local.get $message)))
      (br $next)))
    (drop (call $set (i32.const 0) (i32.const 0) (global.get $size) (global.get $at)
      (i32.sub (local.get $to) (global.get $at))))
    (i32.const 0))
  (func (export "proxy_on_response_body") (param $context i32) (param $length i32) (param $end i32)
      (result i32)
    (if (i32.eqz (local.get $length)) (then (return (i32.const 0))))
    (i32.store8 (i32.const 800) (i32.const 0))
    (i32.store8 (i32.const 801) (i32.shr_u (local.get $length) (i32.const 24)))
    (i32.store8 (i32.const 802) (i32.shr_u (local.get $length) (i32.const 16)))
    (i32.store8 (i32.const 803) (i32.shr_u (local.get $length) (i32.const 8)))
    (i32.store8 (i32.const 804) (local.get $length))
    (drop (call $set (i32.const 1) (i32.const 0) (i32.const 0) (i32.const 800) (i32.const 5)))
    (i32.const 0))
"#;

/// A router that sends all its clients' bytes to one node and the node's bytes to the last client
/// that spoke. Its plugin configuration is the first argument of `proxy_grpc_stream`; a client's
/// first byte may be a command: [`OPEN`], [`CLOSE`], [`CANCEL`].
const RELAY: &str = r#"
  (data (i32.const 1024) "redis")
  (data (i32.const 1032) "tunnel")
  (data (i32.const 1040) "up")
  (data (i32.const 1044) "before")
  (data (i32.const 1052) "after")
  ;; One pair: x-envoy-original-dst-host: 10.0.0.9:6379
  (data (i32.const 1100) "\01\00\00\00\19\00\00\00\0d\00\00\00x-envoy-original-dst-host\0010.0.0.9:6379\00")
  (data (i32.const 1200) ":status")
  (data (i32.const 1210) ":path")
  (global $target_size (mut i32) (i32.const 0))
  (global $token (mut i32) (i32.const 0))
  (global $client (mut i32) (i32.const 0))

  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (call $fetch (i32.const 7))
    (memory.copy (i32.const 2048) (global.get $at) (global.get $size))
    (global.set $target_size (global.get $size))
    (i32.const 1))
  (func $connect (param $metadata_size i32)
    (if (global.get $token) (then (return)))
    (call $digit (call $open
      (i32.const 2048) (global.get $target_size) (i32.const 1024) (i32.const 5)
      (i32.const 1032) (i32.const 6) (i32.const 1100) (local.get $metadata_size) (i32.const 16)))
    (global.set $token (i32.load (i32.const 16))))
  (func (export "proxy_on_downstream_data") (param $context i32) (param $length i32) (param $end i32)
      (result i32)
    (local $command i32)
    (global.set $client (local.get $context))
    (call $data)
    (local.set $command (i32.load8_u (global.get $at)))
    (if (i32.eq (local.get $command) (i32.const 2)) ;; close
      (then (call $digit (call $finish (global.get $token))) (return (i32.const 1))))
    (if (i32.eq (local.get $command) (i32.const 3)) ;; cancel
      (then (call $digit (call $cancel (global.get $token))) (return (i32.const 1))))
    (call $connect (i32.const 52))
    (if (i32.eq (local.get $command) (i32.const 1)) (then (return (i32.const 1)))) ;; open
    (call $say (i32.const 1044) (i32.const 6))
    (call $digit
      (call $send (global.get $token) (global.get $at) (global.get $size) (i32.const 0)))
    (call $say (i32.const 1052) (i32.const 5))
    (i32.const 1))
  (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32)
    (call $say (i32.const 1040) (i32.const 2))
    (drop (call $header (i32.const 4) (i32.const 1200) (i32.const 7) (i32.const 0) (i32.const 4)))
    (call $say_answer))
  (func (export "proxy_on_grpc_receive") (param $root i32) (param $token i32) (param $length i32)
    (call $fetch (i32.const 5))
    (drop (call $effective (global.get $client)))
    (call $reply))
  (func (export "proxy_on_grpc_close") (param $root i32) (param $token i32) (param $status i32)
    (i32.store8 (i32.const 901) (i32.add (i32.div_u (local.get $status) (i32.const 10)) (i32.const 48)))
    (i32.store8 (i32.const 902) (i32.add (i32.rem_u (local.get $status) (i32.const 10)) (i32.const 48)))
    (call $say (i32.const 901) (i32.const 2))
    (drop (call $status (i32.const 0) (i32.const 0) (i32.const 4)))
    (call $say_answer))
  (func (export "proxy_on_request_headers") (param $context i32) (param $count i32) (param $end i32)
      (result i32)
    (drop (call $header (i32.const 0) (i32.const 1112) (i32.const 25) (i32.const 0) (i32.const 4)))
    (call $say_answer)
    (drop (call $header (i32.const 0) (i32.const 1210) (i32.const 5) (i32.const 0) (i32.const 4)))
    (call $say_answer)
    (i32.const 0))
"#;

/// Has the relay open its stream and send nothing.
pub(crate) const OPEN: &str = "\u{1}";
/// Has the relay close its stream.
pub(crate) const CLOSE: &str = "\u{2}";
/// Has the relay cancel its stream.
pub(crate) const CANCEL: &str = "\u{3}";

/// A guest with the prelude and `body`.
pub(crate) fn guest(body: &str) -> Wasm {
    bare_guest(&format!("{PRELUDE}{body}"))
}

/// A guest with nothing but `body`.
pub(crate) fn bare_guest(body: &str) -> Wasm {
    let bytes = wat::parse_str(format!("(module {body})")).expect("the guest is WAT");
    Wasm::from_bytes(&bytes).expect("the guest is a module")
}

/// The router that relays, with the tunnel.
pub(crate) fn relay() -> Wasm {
    guest(&format!("{RELAY}{TUNNEL}"))
}

/// The router that relays, with `tunnel` in place of the real one.
pub(crate) fn relay_with_tunnel(tunnel: &str) -> Wasm {
    guest(&format!("{RELAY}{tunnel}"))
}

/// The protobuf by which the router names a node.
pub(crate) fn grpc_service(cluster: &str, authority: &str) -> Vec<u8> {
    let field = |number: u8, bytes: &[u8]| {
        let length = u8::try_from(bytes.len()).expect("test strings are short");
        assert!(length < 128, "one byte of varint");
        [&[number << 3 | 2, length], bytes].concat()
    };
    field(1, &[field(1, cluster.as_bytes()), field(2, authority.as_bytes())].concat())
}

/// A simulation of `body` behind the prelude, without configuration.
pub(crate) fn simulate(body: &str) -> Simulation {
    try_simulate(body, Config::new("")).expect("the guest starts")
}

/// The same, for a guest that knows nothing of the tunnel: that has a VM of its own.
pub(crate) fn simulate_router(body: &str) -> Simulation {
    let config = Config { vms: Vms::Two, ..Config::new("") };
    try_simulate(body, config).expect("the guest starts")
}

pub(crate) fn try_simulate(body: &str, config: Config) -> Result<Simulation, StartError> {
    Simulation::new(&guest(body), config, 1)
}

/// A simulation of the relay whose node is at `address`.
pub(crate) fn simulate_relay(address: &str) -> Simulation {
    Simulation::new(&relay(), relay_config(address), 1).expect("the relay starts")
}

/// The relay sends at once, which only synchronous host selection survives.
pub(crate) fn relay_config(address: &str) -> Config {
    let mut config = Config::new(grpc_service("upstream", address));
    config.host_selection = HostSelection::Synchronous;
    config
}

/// All lines that a plugin logged, in order.
pub(crate) fn said(simulation: &Simulation, plugin: &str) -> Vec<String> {
    let lines = simulation.host().log().lines();
    lines.into_iter().filter(|line| line.source == plugin).map(|line| line.text).collect()
}
