//! gRPC streams: from the router through the tunnel to a node and back, and how they end.

use std::{cell::RefCell, rc::Rc, time::Duration};

use slotmesh_host::{
    Accept, Chunking, Config, Connection, HostSelection, Level, Log, Peer, Reentrancy, Role,
    Simulation, Vms, answering,
};

use crate::support::{
    CANCEL, CLOSE, OPEN, grpc_service, guest, relay, relay_config, relay_with_tunnel, said,
    simulate_relay,
};

const NODE: &str = "10.0.0.1:6379";
const SECOND: Duration = Duration::from_secs(1);

/// Remembers what it was sent, and accepts as told.
#[derive(Default)]
struct Recorder {
    accept: Accept,
    got: Vec<Vec<u8>>,
    closed: usize,
}

impl Peer for Recorder {
    fn on_connect(&mut self, _: &mut Connection) -> Accept {
        self.accept
    }

    fn on_data(&mut self, _: &mut Connection, bytes: &[u8]) {
        self.got.push(bytes.to_vec());
    }

    fn on_close(&mut self, _: &mut Connection) {
        self.closed += 1;
    }
}

fn recorder(accept: Accept) -> Rc<RefCell<Recorder>> {
    Rc::new(RefCell::new(Recorder { accept, ..Recorder::default() }))
}

/// The second line the router logs when a stream ends, after its status.
fn ends(simulation: &Simulation) -> Vec<(String, String)> {
    let lines = said(simulation, "router");
    let ends = lines.windows(2).filter(|pair| matches!(pair[0].as_str(), "02" | "13" | "14"));
    ends.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

#[test]
fn bytes_reach_the_node_and_come_back_however_they_are_cut() {
    for chunking in [Chunking::Whole, Chunking::Bytes(1), Chunking::Bytes(3), Chunking::Random(5)] {
        let mut simulation = simulate_relay(NODE);
        simulation.chunking = chunking;
        let shout = |node: &mut Connection, bytes: &[u8]| node.write(bytes.to_ascii_uppercase());
        simulation.add_peer(NODE, answering(shout));
        let client = simulation.connect();
        simulation.send(client, "hello, node");
        let reply = simulation.receive(client, 11, SECOND);
        assert_eq!(reply, b"HELLO, NODE", "{chunking:?}");
        assert_eq!(simulation.host().misuse(), [""; 0]);
    }
}

#[test]
fn what_is_sent_before_the_connection_is_up_arrives_in_order_at_once() {
    let node = recorder(Accept::After(Duration::from_millis(20)));
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, Rc::clone(&node));
    let client = simulation.connect();
    for part in ["one ", "two ", "three"] {
        simulation.send(client, part);
        simulation.settle();
    }
    assert!(node.borrow().got.is_empty());
    simulation.advance(SECOND);
    assert_eq!(node.borrow().got, [b"one two three"]);
    simulation.send(client, "four");
    simulation.settle();
    assert_eq!(node.borrow().got.last().unwrap(), b"four");
}

#[test]
fn the_connection_coming_up_is_initial_metadata_with_status_200() {
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, recorder(Accept::Now));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(said(&simulation, "router"), ["0", "before", "0", "after", "up", "200"]);
    // And the tunnel saw a request with the metadata that the router passed.
    assert_eq!(said(&simulation, "tunnel"), ["10.0.0.9:6379", "/redis/tunnel"]);
}

#[test]
fn without_an_authority_the_original_destination_header_says_where() {
    let mut config = Config::new("upstream");
    config.host_selection = HostSelection::Synchronous;
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    simulation.add_peer("10.0.0.9:6379", answering(|node, _| node.write("there")));
    let client = simulation.connect();
    simulation.send(client, "where?");
    assert_eq!(simulation.receive(client, 5, SECOND), b"there");
}

#[test]
fn refused_reset_and_closed_streams_end_as_in_envoy() {
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, recorder(Accept::Refuse));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(ends(&simulation), [("14".into(), "connection refused".into())]);
    assert!(simulation.is_open(client), "a lost node is not the client's end");

    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, answering(|node, _| node.reset()));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(ends(&simulation), [("13".into(), "connection reset".into())]);

    let mut simulation = simulate_relay(NODE);
    let part = |node: &mut Connection, _: &[u8]| {
        node.write("+PO");
        node.close();
    };
    simulation.add_peer(NODE, answering(part));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(simulation.take_received(client), b"+PO", "what came before is delivered");
    assert_eq!(ends(&simulation), [("02".into(), "via_upstream".into())]);
    assert_eq!(simulation.upstreams_to(NODE), []);
}

#[test]
fn a_refused_connection_too_has_initial_metadata_but_empty() {
    let wasm = guest(
        r#"
        (data (i32.const 1024) "upstream")
        (data (i32.const 1040) "\01\00\00\00\19\00\00\00\0d\00\00\00x-envoy-original-dst-host\0010.0.0.9:6379\00")
        (func (export "proxy_on_new_connection") (param i32) (result i32)
          (drop (call $open (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 1040) (i32.const 52) (i32.const 16)))
          (i32.const 0))
        (func (export "proxy_on_grpc_receive_initial_metadata") (param i32 i32 i32)
          (call $digit (local.get 2)))
        (func (export "proxy_on_grpc_receive_trailing_metadata") (param i32 i32 i32)
          (call $digit (local.get 2)))
        (func (export "proxy_on_grpc_close") (param i32 i32 i32)
          (call $digit (local.get 2)))"#,
    );
    let mut simulation = Simulation::new(&wasm, Config::new(""), 1).unwrap();
    simulation.connect();
    simulation.settle();
    assert_eq!(said(&simulation, "router"), ["0", "0", "e"]);
}

#[test]
fn sending_before_the_host_is_known_resets_the_stream() {
    let config = Config::new(grpc_service("upstream", NODE));
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    let node = recorder(Accept::Now);
    simulation.add_peer(NODE, Rc::clone(&node));
    let client = simulation.connect();
    simulation.send(client, "too early");
    simulation.settle();
    assert_eq!(ends(&simulation), [("13".into(), String::new())]);
    assert!(node.borrow().got.is_empty());

    // Opened first, and sent on when it is up: that works.
    let config = Config::new(grpc_service("upstream", NODE));
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    simulation.add_peer(NODE, Rc::clone(&node));
    let client = simulation.connect();
    simulation.send(client, OPEN);
    simulation.settle();
    simulation.send(client, "in time");
    simulation.settle();
    assert_eq!(node.borrow().got, [b"in time"]);
}

#[test]
fn a_node_that_does_not_answer_the_handshake_times_out() {
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, recorder(Accept::Hang));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.advance(SECOND - Duration::from_millis(1));
    assert_eq!(ends(&simulation), []);
    simulation.advance(Duration::from_millis(1));
    assert_eq!(ends(&simulation), [("14".into(), "connection timeout".into())]);
}

#[test]
fn a_node_that_is_not_found_is_refused_before_the_tunnel_sees_the_stream() {
    let config = Config::new(grpc_service("upstream", NODE));
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    simulation.add_peer(NODE, recorder(Accept::Hide));
    let client = simulation.connect();
    simulation.send(client, OPEN);
    simulation.settle();
    assert_eq!(ends(&simulation), [("14".into(), "dns_resolution_failure".into())]);
    assert!(said(&simulation, "tunnel").is_empty());
}

#[test]
fn a_node_that_is_taken_away_ends_its_streams() {
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, recorder(Accept::Now));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(simulation.upstreams_to(NODE).len(), 1);
    simulation.remove_peer(NODE);
    simulation.settle();
    assert_eq!(ends(&simulation).len(), 1);
}

#[test]
fn a_node_may_answer_late_and_without_being_asked() {
    struct Slow;
    impl Peer for Slow {
        fn on_data(&mut self, node: &mut Connection, _: &[u8]) {
            node.wake_after(Duration::from_millis(500));
            node.wait(Duration::from_millis(100));
            node.write("late");
        }

        fn on_wake(&mut self, node: &mut Connection) {
            assert_eq!(node.now(), Duration::from_millis(500));
            node.write("later");
        }
    }
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, Slow);
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.advance(Duration::from_millis(99));
    assert_eq!(simulation.received(client), b"");
    assert_eq!(simulation.receive(client, 4, SECOND), b"late");
    assert_eq!(simulation.now(), Duration::from_millis(100));
    assert_eq!(simulation.receive(client, 5, SECOND), b"later");
    let upstream = simulation.upstreams_to(NODE)[0];
    simulation.peer_says(upstream, |node| node.write("push"));
    assert_eq!(simulation.receive(client, 4, SECOND), b"push");
}

#[test]
fn the_tunnel_runs_inside_the_routers_call() {
    let wasm = relay_with_tunnel(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (call $digit (i32.const 7)) (i32.const 0))"#,
    );
    for vms in [Vms::One, Vms::Two] {
        let config = Config { vms, ..relay_config(NODE) };
        let mut simulation = Simulation::new(&wasm, config, 1).unwrap();
        simulation.add_peer(NODE, recorder(Accept::Now));
        let client = simulation.connect();
        simulation.send(client, OPEN);
        simulation.settle();
        let before = simulation.host().log().lines().len();
        simulation.send(client, "a");
        simulation.settle();
        let lines = simulation.host().log().lines().split_off(before);
        let said: Vec<_> = lines.iter().map(|line| (line.source, &*line.text)).collect();
        let router = |text| ("router", text);
        let expected = [router("before"), ("tunnel", "7"), router("0"), router("after")];
        assert_eq!(said, expected, "{vms:?}");
    }
}

#[test]
fn what_waits_for_the_end_of_a_callback_is_done_when_the_vm_is_left_within_it() {
    // Answers "1", sends, answers "2", which it puts before what is in the buffer.
    let wasm = guest(
        r#"
        (data (i32.const 1024) "upstream12")
        (data (i32.const 1040) "\01\00\00\00\19\00\00\00\0d\00\00\00x-envoy-original-dst-host\0010.0.0.1:6379\00")
        (func $answer (param $at i32)
          (drop (call $set (i32.const 2) (i32.const 0) (i32.const 0) (local.get $at) (i32.const 1)))
          (drop (call $continue (i32.const 2))))
        (func (export "proxy_on_downstream_data") (param i32 i32 i32) (result i32)
          (call $data)
          (if (i32.eqz (i32.load (i32.const 16)))
            (then (drop (call $open (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 1040) (i32.const 52) (i32.const 16))))
            (else
              (call $answer (i32.const 1032))
              (drop (call $send
                (i32.load (i32.const 16)) (i32.const 1024) (i32.const 1) (i32.const 0)))
              (call $answer (i32.const 1033))))
          (i32.const 1))
        (func (export "proxy_on_request_body") (param i32 i32 i32) (result i32) (i32.const 0))"#,
    );
    for (vms, answers) in [(Vms::One, "12"), (Vms::Two, "21")] {
        let config = Config { vms, ..Config::new("") };
        let mut simulation = Simulation::new(&wasm, config, 1).unwrap();
        simulation.add_peer(NODE, recorder(Accept::Now));
        let client = simulation.connect();
        for bytes in ["open", "answer"] {
            simulation.send(client, bytes);
            simulation.settle();
        }
        assert_eq!(simulation.take_received(client), answers.as_bytes(), "{vms:?}");
    }
}

#[test]
fn a_stream_is_no_context_of_the_tunnels() {
    // Tells of its own stream, as the tunnel: "1", not found.
    let wasm = relay_with_tunnel(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (call $digit (call $finish (global.get $token))) (i32.const 0))"#,
    );
    let mut simulation = Simulation::new(&wasm, relay_config(NODE), 1).unwrap();
    simulation.add_peer(NODE, recorder(Accept::Now));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(said(&simulation, "tunnel").last().unwrap(), "1");
}

#[test]
fn closing_a_stream_still_receives_and_cancelling_it_does_not() {
    let node = recorder(Accept::Now);
    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, Rc::clone(&node));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    let upstream = simulation.upstreams_to(NODE)[0];
    simulation.send(client, CLOSE);
    simulation.settle();
    assert_eq!(node.borrow().closed, 1, "the node reads the end");
    simulation.peer_says(upstream, |node| {
        node.write("bye");
        node.close();
    });
    assert_eq!(simulation.receive(client, 3, SECOND), b"bye");
    simulation.settle();
    assert_eq!(ends(&simulation).len(), 1);
    assert_eq!(simulation.host().misuse(), [""; 0]);

    let mut simulation = simulate_relay(NODE);
    simulation.add_peer(NODE, recorder(Accept::Now));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    let upstream = simulation.upstreams_to(NODE)[0];
    simulation.send(client, CANCEL);
    simulation.settle();
    simulation.peer_says(upstream, |node| node.write("bye"));
    simulation.settle();
    assert_eq!(simulation.received(client), b"");
    assert_eq!(ends(&simulation), []);
    // The token is unknown now: NotFound.
    simulation.send(client, CANCEL);
    simulation.settle();
    assert_eq!(said(&simulation, "router").last().unwrap(), "1");
}

#[test]
fn a_stream_that_ended_must_not_be_named_again() {
    let mut simulation = simulate_relay(NODE);
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(ends(&simulation).len(), 1);
    simulation.send(client, "b");
    simulation.settle();
    let misuse = simulation.host().misuse();
    assert_eq!(misuse, ["proxy_grpc_send on stream 6, whose end the plugin was told"]);
}

#[test]
fn a_send_that_finds_a_reset_connection_is_told_after_the_callback_or_inside_it() {
    let run = |reentrancy| {
        let mut config = relay_config(NODE);
        config.reentrancy = reentrancy;
        let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
        let node = recorder(Accept::Now);
        simulation.add_peer(NODE, Rc::clone(&node));
        let client = simulation.connect();
        simulation.send(client, "a");
        simulation.settle();
        let before = said(&simulation, "router").len();
        simulation.reset_next_send();
        simulation.send(client, "b");
        simulation.settle();
        assert_eq!(node.borrow().got, [b"a"]);
        assert_eq!(node.borrow().closed, 1);
        said(&simulation, "router").split_off(before)
    };
    let deferred = run(Reentrancy::Deferred);
    assert_eq!(deferred, ["before", "0", "after", "13", "connection reset"]);
    let immediate = run(Reentrancy::Immediate);
    assert_eq!(immediate, ["before", "13", "connection reset", "0", "after"]);
}

#[test]
fn an_unknown_envoy_cluster_fails_the_open_and_still_ends_the_stream() {
    let mut config = Config::new(grpc_service("elsewhere", NODE));
    config.envoy_clusters = Some(vec!["upstream".into()]);
    let mut simulation = Simulation::new(&relay(), config.clone(), 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(said(&simulation, "router")[0], "a", "InternalFailure");
    assert_eq!(ends(&simulation), [("14".into(), "Cluster elsewhere not available".into())]);

    config.plugin_configuration = b"elsewhere".to_vec();
    config.log = Log::captured(Level::Info);
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(said(&simulation, "router")[0], "4", "ParseFailure");
    assert_eq!(ends(&simulation), []);
}

#[test]
fn a_stream_without_an_endpoint_is_answered_inside_the_call_and_ended_after_it() {
    let mut config = relay_config(NODE);
    config.endpoints = Some(vec!["10.0.0.2:6379".into()]);
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    let ended = ["after", "14", "no healthy upstream in upstream"];
    let lines = said(&simulation, "router");
    assert_eq!(lines[0], "up");
    assert_eq!(lines[lines.len() - 3..], ended, "{lines:?}");
    assert_eq!(simulation.host().misuse(), [""; 0]);
}

#[test]
fn a_tunnel_that_makes_no_frames_ends_the_stream_with_internal() {
    let wasm = relay_with_tunnel(""); // hands the node's bytes on as they are
    let config = relay_config(NODE);
    let mut simulation = Simulation::new(&wasm, config, 1).unwrap();
    simulation.add_peer(NODE, answering(|node, _| node.write("+PONG\r\n")));
    let client = simulation.connect();
    simulation.send(client, "a");
    simulation.settle();
    assert_eq!(ends(&simulation), [("13".into(), "not a gRPC frame".into())]);
}

#[test]
fn a_body_that_the_tunnel_holds_back_is_handed_on_with_the_next() {
    // Lets go of the request body at 14 bytes: two frames of two bytes each.
    let wasm = relay_with_tunnel(
        r#"(func (export "proxy_on_request_body") (param i32 i32 i32) (result i32)
             (i32.lt_u (local.get 1) (i32.const 14)))"#,
    );
    let node = recorder(Accept::Now);
    let config = relay_config(NODE);
    let mut simulation = Simulation::new(&wasm, config, 1).unwrap();
    simulation.add_peer(NODE, Rc::clone(&node));
    let client = simulation.connect();
    for part in ["ab", "ef"] {
        simulation.send(client, part);
        simulation.settle();
    }
    assert_eq!(node.borrow().got, [b"\0\0\0\0\x02ab\0\0\0\0\x02ef"]);
}

#[test]
fn one_seed_is_one_history() {
    let run = |seed| {
        let config = relay_config(NODE);
        let mut simulation = Simulation::new(&relay(), config, seed).unwrap();
        simulation.chunking = Chunking::Random(4);
        let node = recorder(Accept::Now);
        simulation.add_peer(NODE, Rc::clone(&node));
        let clients = [simulation.connect(), simulation.connect(), simulation.connect()];
        for client in clients {
            simulation.send(client, "0123456789");
        }
        simulation.settle();
        let got = node.borrow().got.concat();
        let mut sorted = got.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, b"000111222333444555666777888999");
        got
    };
    assert_eq!(run(3), run(3));
    let histories: std::collections::BTreeSet<_> = (0..10).map(run).collect();
    assert!(histories.len() > 1, "seeds make a difference");
}

#[test]
fn memory_and_allocations_are_counted() {
    let config = Config { vms: Vms::Two, ..relay_config(NODE) };
    let mut simulation = Simulation::new(&relay(), config, 1).unwrap();
    simulation.add_peer(NODE, answering(|node, bytes| node.write(bytes)));
    let client = simulation.connect();
    simulation.send(client, "warm up");
    assert_eq!(simulation.receive(client, 7, SECOND), b"warm up");
    let before = simulation.host().usage(Role::Router);
    for _ in 0..1000 {
        simulation.send(client, "0123456789");
        simulation.settle();
        assert_eq!(simulation.take_received(client), b"0123456789");
    }
    let after = simulation.host().usage(Role::Router);
    // One for the client's bytes, one for the node's.
    assert_eq!(after.allocations - before.allocations, 2000);
    assert_eq!(after.calls - before.calls, 2000);
    assert_eq!(after.memory_bytes, before.memory_bytes);
}

#[test]
fn a_stream_opened_while_configuring_is_made() {
    let wasm = guest(
        r#"
        (data (i32.const 1024) "upstream")
        (data (i32.const 1040) "\01\00\00\00\19\00\00\00\0d\00\00\00x-envoy-original-dst-host\0010.0.0.9:6379\00")
        (func (export "proxy_on_configure") (param i32 i32) (result i32)
          ;; Only the router has a configuration.
          (if (local.get 1) (then
            (drop (call $open (i32.const 1024) (i32.const 8) (i32.const 0) (i32.const 0)
              (i32.const 0) (i32.const 0) (i32.const 1040) (i32.const 52) (i32.const 16)))))
          (i32.const 1))"#,
    );
    let simulation = Simulation::new(&wasm, Config::new("{}"), 1).unwrap();
    assert_eq!(simulation.upstreams_to("10.0.0.9:6379").len(), 1);
}
