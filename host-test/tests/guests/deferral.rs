//! What a plugin asks for is done when its callback has returned, in its order; and on whom.

use slotmesh_host::Role;

use crate::support::{said, simulate};

#[test]
fn continue_and_close_wait_for_the_callback_and_keep_their_order() {
    let mut simulation = simulate(
        r#"
        (data (i32.const 1024) "12")
        (data (i32.const 1030) "data done")
        (data (i32.const 1040) "closed")
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $data)
          (drop (call $set (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 1024) (i32.const 1)))
          (drop (call $continue (i32.const 2)))
          (drop (call $close (i32.const 2)))
          (drop (call $set (i32.const 2) (i32.const 0) (i32.const 0) (i32.const 1025) (i32.const 1)))
          (drop (call $continue (i32.const 2)))
          (call $say (i32.const 1030) (i32.const 9))
          (i32.const 1))
        (func (export "proxy_on_downstream_connection_close") (param i32 i32)
          (call $say (i32.const 1040) (i32.const 6))
          (call $digit (local.get 1)))"#,
    );
    let client = simulation.connect();
    simulation.send(client, "PING");
    simulation.settle();
    // Both edits were made before the first continue: it took them together.
    assert_eq!(simulation.received(client), b"21");
    assert!(!simulation.is_open(client));
    assert_eq!(said(&simulation, "router"), ["data done", "closed", "1"]);
}

#[test]
fn a_client_that_closes_is_reported_as_remote_and_its_context_ends() {
    let mut simulation = simulate(
        r#"
        (data (i32.const 1024) "done")
        (data (i32.const 1030) "log")
        (data (i32.const 1040) "delete")
        (global $first (mut i32) (i32.const 0))
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (if (i32.eqz (global.get $first)) (then (global.set $first (local.get 0)))
            (else (call $digit (call $effective (global.get $first)))))
          (i32.const 0))
        (func (export "proxy_on_downstream_connection_close") (param i32 i32)
          (call $digit (local.get 1)))
        (func (export "proxy_on_done") (param i32) (result i32)
          (call $say (i32.const 1024) (i32.const 4))
          (i32.const 1))
        (func (export "proxy_on_log") (param i32) (call $say (i32.const 1030) (i32.const 3)))
        (func (export "proxy_on_delete") (param i32) (call $say (i32.const 1040) (i32.const 6)))"#,
    );
    let client = simulation.connect();
    simulation.close(client);
    simulation.settle();
    simulation.connect();
    // The last 2: the first client's context is gone, it cannot be made the effective one.
    assert_eq!(said(&simulation, "router"), ["2", "done", "log", "delete", "2"]);
}

#[test]
fn the_effective_context_is_whom_calls_act_on_until_the_callback_ends() {
    // The second client's bytes are answered to the first one.
    let mut simulation = simulate(
        r#"
        (global $first (mut i32) (i32.const 0))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $data)
          (if (i32.eqz (global.get $first))
            (then (global.set $first (local.get 0)))
            (else
              (call $digit (call $effective (i32.const 9999)))
              (call $digit (call $effective (global.get $first)))
              (call $reply)
              (call $digit (call $effective (i32.const 0)))
              (call $reply)))
          (i32.const 1))"#,
    );
    let (first, second) = (simulation.connect(), simulation.connect());
    simulation.send(first, "a");
    simulation.settle();
    simulation.send(second, "b");
    simulation.settle();
    assert_eq!(said(&simulation, "router"), ["2", "0", "0"]);
    assert_eq!(simulation.take_received(first), b"b");
    assert_eq!(simulation.take_received(second), b"b");
    // It did not outlive the callback: the first client's own bytes are still its own.
    simulation.send(first, "c");
    simulation.settle();
    assert_eq!(simulation.take_received(first), b"cc");
    assert_eq!(simulation.host().usage(Role::Router).allocations, 3);
}
