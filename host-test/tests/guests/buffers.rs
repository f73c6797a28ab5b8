//! Buffers: what can be read, what can be edited, what is reachable when.

use crate::support::{said, simulate};

#[test]
fn a_plugin_without_the_export_leaves_the_bytes_to_the_next_filter() {
    let mut simulation = simulate("");
    let client = simulation.connect();
    simulation.send(client, "PING");
    simulation.settle();
    assert_eq!(simulation.take_received(client), b"PING");
}

#[test]
fn a_paused_buffer_grows_and_is_reachable_later() {
    // Pauses until there are 6 bytes, then lets them go from a tick.
    let mut simulation = simulate(
        r#"
        (global $client (mut i32) (i32.const 0))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (global.set $client (local.get 0))
          (call $digit (local.get 1))
          (if (i32.eq (local.get 1) (i32.const 6)) (then (drop (call $tick (i32.const 5)))))
          (i32.const 1))
        (func (export "proxy_on_tick") (param i32)
          (drop (call $effective (global.get $client)))
          (drop (call $continue (i32.const 2)))
          (drop (call $tick (i32.const 0))))"#,
    );
    let client = simulation.connect();
    simulation.send(client, "abc");
    simulation.send(client, "def");
    simulation.settle();
    assert_eq!(simulation.received(client), b"");
    assert_eq!(said(&simulation, "router"), ["3", "6"]);
    simulation.advance(std::time::Duration::from_millis(5));
    assert_eq!(simulation.received(client), b"abcdef");
}

#[test]
fn set_buffer_edits_the_ends_and_refuses_the_middle() {
    let mut simulation = simulate(
        r#"
        (data (i32.const 1024) "XYZQ")
        (func $try (param $start i32) (param $length i32) (param $text i32) (param $size i32)
          (call $digit (call $set (i32.const 2) (local.get $start) (local.get $length)
            (local.get $text) (local.get $size)))
          (call $fetch (i32.const 2))
          (call $say_answer))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $try (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 1))
          (call $try (i32.const 1) (i32.const 1) (i32.const 1025) (i32.const 1))
          (call $try (i32.const 4) (i32.const 0) (i32.const 1026) (i32.const 1))
          (call $try (i32.const 99) (i32.const 7) (i32.const 1026) (i32.const 1))
          (call $try (i32.const 0) (i32.const 2) (i32.const 0) (i32.const 0))
          (call $try (i32.const 0) (i32.const 1000) (i32.const 1027) (i32.const 1))
          (i32.const 0))"#,
    );
    let client = simulation.connect();
    simulation.send(client, "abc");
    simulation.settle();
    let expected = [
        ("0", "Xabc"),   // prepend
        ("2", "Xabc"),   // the middle: BadArgument
        ("0", "XabcZ"),  // append
        ("0", "XabcZZ"), // append past the end
        ("0", "bcZZ"),   // take off the front
        ("0", "Q"),      // replace more than there is
    ];
    let expected: Vec<_> = expected.into_iter().flat_map(|(status, text)| [status, text]).collect();
    assert_eq!(said(&simulation, "router"), expected);
    assert_eq!(simulation.received(client), b"Q");
}

#[test]
fn buffers_that_are_not_there_answer_as_in_envoy() {
    let mut simulation = simulate(
        r#"
        (func $try (param $buffer i32)
          (call $digit (call $get (local.get $buffer) (i32.const 0) (i32.const 9) (i32.const 0) (i32.const 4)))
          (call $digit (call $set (local.get $buffer) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (call $try (i32.const 2))  ;; no data yet: empty, and not to be written
          (call $try (i32.const 0))  ;; no HTTP here
          (call $try (i32.const 3))  ;; no upstream connection
          (call $try (i32.const 4))  ;; no HTTP call
          (call $try (i32.const 5))  ;; not in on_grpc_receive
          (call $try (i32.const 7))  ;; not in on_configure
          (call $try (i32.const 9))  ;; no such buffer
          (i32.const 0))"#,
    );
    simulation.connect();
    let statuses = said(&simulation, "router").concat();
    assert_eq!(statuses, "02020211021122");
}

#[test]
fn reading_starts_anywhere_and_never_past_the_end() {
    let mut simulation = simulate(
        r#"
        (func $try (param $start i32) (param $most i32)
          (i64.store (i32.const 0) (i64.const 0))
          (call $digit (call $get (i32.const 2) (local.get $start) (local.get $most)
            (i32.const 0) (i32.const 4)))
          (call $say_answer))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $try (i32.const 1) (i32.const 2))
          (call $try (i32.const 2) (i32.const 100))
          (call $try (i32.const 4) (i32.const 1))
          (call $try (i32.const 99) (i32.const 1))
          (call $try (i32.const 2) (i32.const 0xffffffff))
          (i32.const 1))"#,
    );
    let client = simulation.connect();
    simulation.send(client, "abcd");
    simulation.settle();
    let expected = ["0", "bc", "0", "cd", "0", "", "0", "", "2", ""];
    assert_eq!(said(&simulation, "router"), expected);
}
