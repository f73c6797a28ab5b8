//! A mixed load with redirections and lost connections: command statistics change nothing that
//! clients and nodes see.

use crate::support::{Chunking, Driver, encode};
use slotmesh_engine::config::ReadPolicy;

/// Commands with one key, and others that change what comes before and after them.
const WORDS: [&str; 24] = [
    "GET a",
    "SET b 1",
    "GET b",
    "INCR c",
    "GET {a}other",
    "APPEND a x",
    "GET a",
    "MGET a b c",
    "PING",
    "HELLO 3",
    "GET a",
    "CLIENT REPLY SKIP",
    "GET a",
    "GET b",
    "MULTI",
    "GET a",
    "EXEC",
    "GET",
    "NOSUCHCOMMAND",
    "STRLEN b",
    "HELLO 2",
    "get a",
    "SELECT 0",
    "DEL a b",
];

/// Runs many pipelines with redirections and lost connections. Returns what clients and nodes have
/// seen, and what was counted.
fn run(chunking: Chunking, policy: ReadPolicy, command_stats: bool) -> Vec<String> {
    let mut driver = Driver::with(chunking, |config| {
        config.read_policy = policy;
        config.enable_command_stats = command_stats;
    });
    driver.cluster.add_replica(0, "replica-0:1");
    driver.cluster.add_replica(0, "replica-1:1");
    let clients: Vec<_> = (0..3).map(|_| driver.connect()).collect();
    let mut seen = Vec::new();
    for round in 0..60 {
        for (number, client) in clients.iter().enumerate() {
            let pipeline = (0..1 + round % 7).flat_map(|step| {
                let word = (round * 5 + step * (number + 1)) % WORDS.len();
                encode(WORDS[word])
            });
            driver.send_unsettled(*client, pipeline.collect::<Vec<_>>());
        }
        match round {
            10 | 40 => driver.cluster.move_slot("a", driver.cluster.other_than("a")),
            20 | 50 => driver.cut(&driver.cluster.owner("b")),
            30 => driver.cluster.refuse_once = Some("TRYAGAIN not yet".to_owned()),
            _ => {}
        }
        driver.settle();
        seen.extend(clients.iter().map(|client| driver.received(*client)));
    }
    seen.append(&mut driver.cluster.executed);
    seen.push(format!("{:?}", driver.proxy.stats()));
    seen
}

#[test]
fn command_statistics_change_nothing_that_clients_and_nodes_see() {
    for policy in [ReadPolicy::Master, ReadPolicy::Replica, ReadPolicy::Any] {
        for chunking in [Chunking::Whole, Chunking::ByteByByte] {
            let (without, with) = (run(chunking, policy, false), run(chunking, policy, true));
            assert_eq!(without.len(), with.len(), "{policy:?}");
            for (without, with) in without.iter().zip(&with) {
                assert_eq!(without, with, "{policy:?}");
            }
            let redirected =
                without.last().is_some_and(|stats| !stats.contains("redirect_moved: 0"));
            assert!(redirected, "nothing was redirected");
        }
    }
}
