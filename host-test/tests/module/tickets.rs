//! How what a node sends finds the router: straight from a tunnel in its VM, or as gRPC messages.

use std::time::Duration;

use crate::support::{World, words};
use slotmesh_host::{Accept, Role, Vms};

/// How often nodes have written, and how many gRPC messages have come of it.
fn written_and_messages(world: &World) -> (u64, u64) {
    (world.cluster.borrow().writes, world.simulation.host().grpc_messages())
}

fn ask_all_nodes(world: &mut World) {
    let client = world.simulation.connect();
    for key in ["a", "b", "c"] {
        assert_eq!(world.ask(client, &format!("SET {key} {key}")), "+OK\r\n");
        assert_eq!(world.ask(client, &format!("GET {key}")), format!("$1\r\n{key}\r\n"));
    }
}

#[test]
fn in_one_vm_replies_go_straight_to_the_router_and_nothing_is_left_for_the_grpc_stream() {
    let mut world = World::with(|config| config.vms = Vms::One);
    ask_all_nodes(&mut world);
    let (written, messages) = written_and_messages(&world);
    assert!(written > 6, "{written}");
    assert_eq!(messages, 0);
}

#[test]
fn in_two_vms_replies_go_as_grpc_messages() {
    let mut world = World::with(|config| config.vms = Vms::Two);
    ask_all_nodes(&mut world);
    let (written, messages) = written_and_messages(&world);
    assert!(written > 6, "{written}");
    assert_eq!(messages, written);
}

/// The first two have numbers that this VM has issued, too.
#[test]
fn a_ticket_that_is_not_this_vms_own_is_not_redeemed() {
    for ticket in ["000000000000000000000001", "fedcba987654321000000002", "00000001", "", "\u{e9}"]
    {
        let mut world = World::with(|config| {
            config.stream_headers = vec![("x-slotmesh-ticket".to_owned(), ticket.to_owned())];
        });
        ask_all_nodes(&mut world);
        let (written, messages) = written_and_messages(&world);
        assert_eq!(messages, written, "{ticket}");
    }
}

#[test]
fn tickets_of_connections_that_end_unseen_are_revoked() {
    // Not found by name, and refused for want of an endpoint in the call that opens the stream.
    for (accept, endpoints) in [(Accept::Hide, None), (Accept::Now, Some(vec![]))] {
        let mut world = World::with(|config| config.endpoints = endpoints);
        for node in 0..3 {
            world.script(node, |script| script.accept = accept);
        }
        let client = world.simulation.connect();
        let mut try_for = |minutes: u64| {
            for _ in 0..minutes * 60 {
                world.simulation.send(client, words("GET a"));
                world.simulation.advance(Duration::from_secs(1));
            }
            world.simulation.host().usage(Role::Router).memory_bytes
        };
        let warm = try_for(10);
        let after = try_for(60);
        assert_eq!(after, warm, "{accept:?}");
    }
}
