//! What the real module takes of its host: memory and entries, under the virtual clock.

use std::time::Duration;

use crate::support::{self, World, words};
use slotmesh_host::{Role, Usage, Vms};

fn usage(world: &World, role: Role) -> Usage {
    world.simulation.host().usage(role)
}

#[test]
fn a_hundred_thousand_gets_take_no_more_memory_than_the_first() {
    const BATCH: usize = 100;
    let mut world = World::new();
    let client = world.client_of("a");
    assert_eq!(world.ask(client, "SET a value"), "+OK\r\n");
    let pipeline = words("GET a").repeat(BATCH);
    let replies = "$5\r\nvalue\r\n".repeat(BATCH);
    let mut ask = |batches: usize| {
        for _ in 0..batches {
            world.simulation.send(client, &pipeline);
            world.simulation.advance(Duration::from_millis(1));
            assert_eq!(world.simulation.take_received(client), replies.as_bytes());
            world.cluster.borrow_mut().executed.clear();
        }
        [Role::Router, Role::Tunnel].map(|role| usage(&world, role).memory_bytes)
    };
    let warm = ask(50);
    assert_eq!(ask(100_000 / BATCH), warm);
}

#[test]
fn a_get_enters_one_vm_three_times_and_has_it_allocate_twice() {
    for (vms, per_exchange) in PER_EXCHANGE {
        let mut world = World::with(|config| config.vms = vms);
        let client = world.client_of("a");
        let before = totals(&world);
        assert_eq!(world.ask(client, "GET a"), "$-1\r\n");
        assert_eq!(difference(before, totals(&world)), per_exchange, "{vms:?}");
    }
}

#[test]
fn a_pipeline_of_a_thousand_enters_the_vms_no_more_often_than_a_get() {
    for (vms, per_exchange) in PER_EXCHANGE {
        let mut world = World::with(|config| config.vms = vms);
        let client = world.client_of("a");
        let before = totals(&world);
        world.simulation.send(client, words("GET a").repeat(1000));
        world.simulation.settle();
        assert_eq!(world.take(client), "$-1\r\n".repeat(1000));
        assert_eq!(difference(before, totals(&world)), per_exchange, "{vms:?}");
    }
}

/// Calls and allocations of router and tunnel for bytes to a node and bytes back.
///
/// In two VMs each is entered once each way. The router takes the bytes both ways; the tunnel takes
/// only the frame's header, on the way to the node. In one VM, which both columns are about, the
/// tunnel knows what it is sent, and the router needs not be entered for what comes back.
const PER_EXCHANGE: [(Vms, [(u64, u64); 2]); 2] =
    [(Vms::One, [(3, 2), (3, 2)]), (Vms::Two, [(2, 2), (2, 1)])];

fn totals(world: &World) -> [(u64, u64); 2] {
    [Role::Router, Role::Tunnel].map(|role| {
        let usage = usage(world, role);
        (usage.calls, usage.allocations)
    })
}

fn difference(before: [(u64, u64); 2], after: [(u64, u64); 2]) -> [(u64, u64); 2] {
    std::array::from_fn(|at| (after[at].0 - before[at].0, after[at].1 - before[at].1))
}

#[test]
fn declared_lengths_take_no_memory() {
    let mut world = World::new();
    let witness = world.client_of("a");
    let clients: Vec<_> = (0..200).map(|_| world.simulation.connect()).collect();
    world.simulation.settle();
    let before = usage(&world, Role::Router).memory_bytes;
    for client in &clients {
        world.simulation.send(*client, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$536870912\r\n");
    }
    world.simulation.settle();
    let grown = usage(&world, Role::Router).memory_bytes - before;
    assert!(grown <= 200 * 4096, "{grown} bytes for 200 clients that sent 33 bytes each");
    assert!(clients.iter().all(|client| world.simulation.is_open(*client)));
    assert_eq!(world.ask(witness, "GET a"), "$-1\r\n");
}

#[test]
fn a_header_of_a_million_arguments_takes_no_memory() {
    let mut world = World::new();
    let witness = world.client_of("a");
    let client = world.simulation.connect();
    world.simulation.settle();
    let before = usage(&world, Role::Router).memory_bytes;
    world.simulation.send(client, b"*1000000\r\n$4\r\nMGET\r\n");
    world.simulation.settle();
    assert_eq!(usage(&world, Role::Router).memory_bytes, before);
    assert!(world.simulation.is_open(client));
    assert_eq!(world.ask(witness, "GET a"), "$-1\r\n");
}

#[test]
fn a_node_that_declares_lengths_takes_no_memory() {
    let mut world = World::new();
    let client = world.client_of("a");
    let before = usage(&world, Role::Router).memory_bytes;
    world.script(2, |script| script.hangs = true);
    world.simulation.send(client, words("GET a"));
    world.simulation.settle();
    for upstream in world.simulation.upstreams_to(&support::address(2)) {
        world.simulation.peer_says(upstream, |node| node.write("*1000000\r\n$536870912\r\nx"));
    }
    world.simulation.settle();
    assert_eq!(usage(&world, Role::Router).memory_bytes, before);
}
