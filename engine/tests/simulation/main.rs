//! The engine under a virtual clock, before a model of a Redis Cluster in which things go wrong.
//!
//! Everything in a run follows from its seed. A failure names it; with
//! `SLOTMESH_SIMULATION_SEED=<seed>` the same test runs that seed alone and tells all that happens.
//! `SLOTMESH_SIMULATION_SEEDS=<count>` runs more seeds than usual.
#![allow(unreachable_pub, reason = "a test has no public interface")]

mod chaos;
mod client;
mod cluster;
mod history;
mod journal;
mod linearizability;
mod link;
mod listener;
mod node;
mod profile;
mod script;
mod stranger;
mod workload;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use profile::{ORDERLY, PEACEFUL, Profile};
use world::World;

/// Seeds of each test, unless the environment says otherwise.
const SEEDS: u64 = 24;

#[test]
fn nothing_is_lost_in_peace() {
    simulate("nothing_is_lost_in_peace", &PEACEFUL);
}

#[test]
fn a_mirror_gets_all_that_is_written_in_its_order() {
    static PROFILE: Profile = Profile { mirror: true, ..PEACEFUL };
    simulate("a_mirror_gets_all_that_is_written_in_its_order", &PROFILE);
}

#[test]
fn a_mirror_gets_nothing_twice_whatever_happens() {
    static PROFILE: Profile = Profile {
        mirror: true,
        mirror_bytes: 300,
        cut: 2,
        reshard: 2,
        fail_over: 2,
        silence: 2,
        refuse: 2,
        ..PEACEFUL
    };
    simulate("a_mirror_gets_nothing_twice_whatever_happens", &PROFILE);
}

#[test]
fn nothing_is_lost_while_connections_are_cut_at_any_byte() {
    static PROFILE: Profile = Profile { cut: 1, torn: 60, ..PEACEFUL };
    simulate("nothing_is_lost_while_connections_are_cut_at_any_byte", &PROFILE);
}

#[test]
fn nothing_is_lost_while_slots_move() {
    static PROFILE: Profile = Profile { reshard: 1, ..PEACEFUL };
    simulate("nothing_is_lost_while_slots_move", &PROFILE);
}

#[test]
fn nothing_is_lost_while_replicas_take_over() {
    static PROFILE: Profile = Profile { fail_over: 1, ..PEACEFUL };
    simulate("nothing_is_lost_while_replicas_take_over", &PROFILE);
}

#[test]
fn nothing_is_lost_while_nodes_that_failed_come_back_elsewhere() {
    static PROFILE: Profile =
        Profile { fail_over: 1, new_addresses: true, silent_addresses: true, ..PEACEFUL };
    simulate("nothing_is_lost_while_nodes_that_failed_come_back_elsewhere", &PROFILE);
}

#[test]
fn nothing_is_told_to_strangers_who_get_the_addresses_of_nodes_that_failed() {
    static PROFILE: Profile = Profile {
        cut: 1,
        reshard: 1,
        fail_over: 4,
        new_addresses: true,
        silent_addresses: true,
        strangers: true,
        ..PEACEFUL
    };
    simulate("nothing_is_told_to_strangers_who_get_the_addresses_of_nodes_that_failed", &PROFILE);
}

#[test]
fn nobody_notices_that_strangers_get_the_addresses_of_nodes_that_are_restarted() {
    static PROFILE: Profile = Profile { read_policy: "PREFER_REPLICA", strangers: true, ..ORDERLY };
    simulate(
        "nobody_notices_that_strangers_get_the_addresses_of_nodes_that_are_restarted",
        &PROFILE,
    );
}

#[test]
fn nobody_notices_that_nodes_are_restarted_one_after_the_other() {
    static PROFILE: Profile = Profile { silent_addresses: false, ..ORDERLY };
    simulate("nobody_notices_that_nodes_are_restarted_one_after_the_other", &PROFILE);
}

#[test]
fn nobody_notices_it_either_where_old_addresses_do_not_even_refuse() {
    simulate("nobody_notices_it_either_where_old_addresses_do_not_even_refuse", &ORDERLY);
}

#[test]
fn nobody_who_reads_from_replicas_notices_that_nodes_are_restarted() {
    static PROFILE: Profile = Profile { read_policy: "PREFER_REPLICA", ..ORDERLY };
    simulate("nobody_who_reads_from_replicas_notices_that_nodes_are_restarted", &PROFILE);
}

#[test]
fn nothing_is_lost_while_nodes_are_silent_slow_or_out_of_reach() {
    static PROFILE: Profile = Profile { silence: 1, ..PEACEFUL };
    simulate("nothing_is_lost_while_nodes_are_silent_slow_or_out_of_reach", &PROFILE);
}

#[test]
fn nothing_is_lost_while_nodes_refuse() {
    static PROFILE: Profile = Profile { refuse: 1, ..PEACEFUL };
    simulate("nothing_is_lost_while_nodes_refuse", &PROFILE);
}

#[test]
fn nothing_is_lost_when_all_of_it_happens_at_once() {
    static PROFILE: Profile =
        Profile { cut: 2, reshard: 3, fail_over: 3, silence: 1, refuse: 2, torn: 50, ..PEACEFUL };
    simulate("nothing_is_lost_when_all_of_it_happens_at_once", &PROFILE);
}

#[test]
fn nothing_is_lost_when_there_is_little_room() {
    static PROFILE: Profile = Profile {
        cut: 2,
        reshard: 3,
        fail_over: 3,
        silence: 2,
        refuse: 2,
        session_requests: 3,
        session_bytes: 300,
        connection_bytes: 400,
        held_bytes: 300,
        subscriber_bytes: 4500,
        waiting_reply_bytes: 200,
        ..PEACEFUL
    };
    simulate("nothing_is_lost_when_there_is_little_room", &PROFILE);
}

#[test]
fn nothing_is_lost_when_replies_are_handed_on_as_they_come() {
    static PROFILE: Profile = Profile {
        reply_bytes: 0,
        cut: 20,
        reshard: 1,
        fail_over: 1,
        silence: 1,
        refuse: 1,
        torn: 90,
        ..PEACEFUL
    };
    simulate("nothing_is_lost_when_replies_are_handed_on_as_they_come", &PROFILE);
}

#[test]
fn nothing_is_lost_when_replicas_answer_reads() {
    static PROFILE: Profile = Profile {
        read_policy: "PREFER_REPLICA",
        cut: 2,
        reshard: 3,
        fail_over: 3,
        silence: 2,
        refuse: 2,
        ..PEACEFUL
    };
    simulate("nothing_is_lost_when_replicas_answer_reads", &PROFILE);
}

/// Runs every seed of a profile, and fails with the seeds that failed.
fn simulate(test: &str, profile: &'static Profile) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect(name));
    if let Some(seed) = number("SLOTMESH_SIMULATION_SEED") {
        return World::new(profile, seed, true).run();
    }
    let seeds = number("SLOTMESH_SIMULATION_SEEDS").unwrap_or(SEEDS);
    let fails = |seed: &u64| {
        catch_unwind(AssertUnwindSafe(|| World::new(profile, *seed, false).run())).is_err()
    };
    let failed: Vec<_> = (0..seeds).filter(fails).take(10).collect();
    assert!(
        failed.is_empty(),
        "seeds {failed:?} failed, as told above; to see all of the first: \
         SLOTMESH_SIMULATION_SEED={} cargo test -p slotmesh-engine --test simulation {test}",
        failed[0]
    );
}
