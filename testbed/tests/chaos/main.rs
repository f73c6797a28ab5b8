//! Real Envoy before six real redis-servers while nodes, network and Envoy itself fail, and what
//! clients see of it.
//!
//! Each round is one fault under load, with keys of its own. When it is mended, what every client
//! was told is held against what is there:
//!
//! - every command gets one reply, its own, in order, and within `op_timeout`;
//! - the replies for each key fit one order of all commands, as if there were one server;
//! - no write is executed twice, and none that was refused;
//! - every acknowledged write is there, except those that Redis itself loses: a replica that takes over
//!   from a primary that was killed or stopped may not have got the last it acknowledged.
//!
//! `SLOTMESH_CHAOS_ROUNDS=200` runs more rounds than usual, `SLOTMESH_CHAOS_SEED=7` others, and
//! `SLOTMESH_CHAOS_ONLY=Reload` those faults alone whose name has this in it.

#[allow(dead_code, unused_imports, reason = "each test program uses its part")]
#[path = "../support/mod.rs"]
mod support;

mod client;
mod fault;
mod history;
#[allow(dead_code, unreachable_pub, reason = "written for the simulation")]
#[path = "../../../engine/tests/simulation/linearizability.rs"]
mod linearizability;
mod network;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use slotmesh_engine::Instant;
use slotmesh_testbed::wait::{Probe, until};
use slotmesh_testbed::wire::RawClient;

use client::{Client, Clock, Round};
use fault::{FAULTS, Fault, OP_TIMEOUT, Stage, check_log};
use history::{Findings, History, Outcome, examine};
use linearizability::State;
use network::Network;
use support::{Random, StopOnDrop};

/// Clients at work.
const CLIENTS: usize = 10;

/// Replies that each client gets before a fault begins, and after it has been mended.
const REPLIES: usize = 50;

/// What a busy machine, on which client, proxy and nodes wait for each other, may add to a
/// command's time.
const MARGIN: Duration = Duration::from_secs(1);

/// Long enough for anything on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

#[test]
fn no_fault_mixes_up_loses_or_repeats_anything() {
    let rounds = number("SLOTMESH_CHAOS_ROUNDS").unwrap_or(FAULTS.len());
    if Network::own().is_some() {
        return run(rounds, Network::own());
    }
    match network::probe() {
        Ok(()) => {
            network::run_inside("no_fault_mixes_up_loses_or_repeats_anything").unwrap();
        }
        Err(error) => {
            say(&format!(
                "SKIPPED: faults of the network, which takes iproute2, iptables and the \
                          right to make a namespace: {error:#}"
            ));
            run(rounds, None);
        }
    }
}

fn run(rounds: usize, network: Option<Network>) {
    let seed = number("SLOTMESH_CHAOS_SEED").unwrap_or(1) as u64;
    let (clock, mut random) = (Clock::start(), Random(seed));
    let stage = Stage::set(network, clock).unwrap();
    let mut clients: Vec<Client> = (0..CLIENTS).map(|number| Client::new(number, seed)).collect();
    let only = env::var("SLOTMESH_CHAOS_ONLY").unwrap_or_default();
    let wanted = |fault: &Fault| stage.allows(*fault) && format!("{fault:?}").contains(&only);
    let faults: Vec<Fault> = FAULTS.into_iter().filter(wanted).collect();
    for number in 0..rounds {
        // Each once, then any.
        let any = faults[random.below(faults.len() as u64) as usize];
        let fault = faults.get(number).copied().unwrap_or(any);
        round(number, fault, &stage, clock, &mut clients, &mut random);
    }
}

fn round(
    number: usize,
    fault: Fault,
    stage: &Stage,
    clock: Clock,
    clients: &mut [Client],
    random: &mut Random,
) {
    let (stop, began) = (AtomicBool::new(false), clock.now());
    let round = Round {
        number,
        clock,
        proxy: &stage.proxy,
        may_close: fault.closes_clients(),
        time_limit: OP_TIMEOUT + MARGIN,
        stop: &stop,
    };
    let replies: Vec<_> = clients.iter().map(|client| Arc::clone(&client.replies)).collect();
    let wait_for_replies = || {
        let before: Vec<usize> = replies.iter().map(|one| one.load(Ordering::Relaxed)).collect();
        until("every client's traffic", PATIENCE, || {
            assert!(!stop.load(Ordering::Relaxed), "a client has failed, in {fault:?}");
            let counts = replies.iter().map(|one| one.load(Ordering::Relaxed));
            let least = counts.zip(&before).map(|(now, before)| now - before).min();
            Ok(match least >= Some(REPLIES) {
                true => Probe::Ready(()),
                false => Probe::NotYet(format!("one has {least:?} replies")),
            })
        })
        .unwrap();
    };
    let (histories, loss) = thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let running: Vec<_> = clients
            .iter_mut()
            .map(|client| {
                let (round, stop) = (&round, &stop);
                scope.spawn(move || {
                    let _stop = StopOnDrop(stop);
                    client.run(round)
                })
            })
            .collect();
        wait_for_replies();
        let loss = stage.inflict(fault, random).unwrap();
        wait_for_replies();
        stop.store(true, Ordering::Relaxed);
        let histories: Vec<History> =
            running.into_iter().map(|client| client.join().unwrap()).collect();
        (histories, loss)
    });
    stage.cluster.wait_until_ready().unwrap();
    check_log(&stage.log()).unwrap();
    let reader = Reader::connect(stage, clock);
    let (values, lists) = (reader.values(&histories), reader.lists(&histories));
    let stale = fault.lets_reads_be_stale();
    let findings = examine(&histories, &values, &lists, loss.as_ref(), stale);
    let took = clock.now().saturating_duration_since(began);
    say(&format!(
        "chaos {number}: {fault:?}, {took:.1?}: {}",
        told(clients, &histories, &findings)
    ));
}

/// Reads what is there after a round, as any client does.
struct Reader {
    connection: RefCell<RawClient>,
    clock: Clock,
}

impl Reader {
    fn connect(stage: &Stage, clock: Clock) -> Self {
        let connection = RawClient::connect(*stage.proxy.lock().unwrap()).unwrap();
        Self { connection: RefCell::new(connection), clock }
    }

    /// Each key's value, and when it was read.
    fn values(&self, histories: &[History]) -> BTreeMap<String, (State, Range<Instant>)> {
        let ops = histories.iter().flat_map(|one| &one.ops);
        let keys: BTreeSet<String> = ops.map(|op| op.key.clone()).collect();
        let read = |key: String| {
            let called = self.clock.now();
            let value = client::value(&self.call(&["GET", &key]));
            (key, (value, called..self.clock.now()))
        };
        keys.into_iter().map(read).collect()
    }

    /// Each list, and the count of what was pushed to it.
    fn lists(&self, histories: &[History]) -> BTreeMap<String, (Vec<String>, usize)> {
        let keys = histories.iter().flat_map(|one| one.pushes.keys());
        let read = |key: &String| {
            let list = self.call(&["LRANGE", key, "0", "-1"]);
            let text = String::from_utf8(list).unwrap();
            let elements = text.lines().skip(2).step_by(2).map(ToOwned::to_owned).collect();
            let count = client::value(&self.call(&["GET", &format!("{key}:count")]));
            let count = String::from_utf8(count.unwrap_or_else(|| b"0".to_vec())).unwrap();
            (key.clone(), (elements, count.parse().unwrap()))
        };
        keys.map(read).collect()
    }

    fn call(&self, args: &[&str]) -> Vec<u8> {
        let reply = self.connection.borrow_mut().call(args).unwrap();
        assert!(!reply.starts_with(b"-"), "{args:?} was answered {}", reply.escape_ascii());
        reply
    }
}

/// A round in one line.
fn told(clients: &[Client], histories: &[History], findings: &Findings) -> String {
    let ops = histories.iter().flat_map(|one| &one.ops).map(|op| op.outcome);
    let pushes = histories.iter().flat_map(|one| one.pushes.values().flatten());
    let outcomes: Vec<Outcome> = ops.chain(pushes.map(|push| push.outcome)).collect();
    let count = |wanted: Outcome| outcomes.iter().filter(|one| **one == wanted).count();
    let (all, refused, unknown) =
        (outcomes.len(), count(Outcome::Refused), count(Outcome::Unknown));
    let slowest = clients.iter().map(|client| client.slowest).max().unwrap_or_default();
    let closed: usize = clients.iter().map(|client| client.closed).sum();
    let Findings { explained, undecided, lost } = findings;
    format!(
        "{all} operations, {refused} refused, {unknown} may have been executed, the slowest took \
         {slowest:.1?}; {closed} clients closed; {explained} keys explained, {undecided} undecided; \
         {lost} acknowledged writes lost by Redis"
    )
}

/// At once, and past the test harness, which shows nothing of a test that passes.
fn say(text: &str) {
    // There is nobody to tell of an error.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn number(variable: &str) -> Option<usize> {
    env::var(variable).ok().map(|text| text.parse().expect(variable))
}
