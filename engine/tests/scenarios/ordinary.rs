//! Ordinary commands take a short way through the proxy; it leads where the long one does.

use crate::support::{Chunking, Driver, encode};
use slotmesh_engine::config::ReadPolicy;

/// What clients may say around an ordinary command, and what makes it none.
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

/// Goes through a day with redirections, lost connections and many pipelines. Returns what clients and
/// nodes have seen, and what was counted.
fn day(chunking: Chunking, policy: ReadPolicy, long: bool) -> Vec<String> {
    let mut driver = Driver::with(chunking, |config| {
        config.read_policy = policy;
        // What is counted by command and node takes the long way.
        config.enable_command_stats = long;
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
fn the_short_way_leads_where_the_long_one_does() {
    for policy in [ReadPolicy::Master, ReadPolicy::Replica, ReadPolicy::Any] {
        for chunking in [Chunking::Whole, Chunking::ByteByByte] {
            let (short, long) = (day(chunking, policy, false), day(chunking, policy, true));
            assert_eq!(short.len(), long.len(), "{policy:?}");
            for (short, long) in short.iter().zip(&long) {
                assert_eq!(short, long, "{policy:?}");
            }
            let redirected = short.last().is_some_and(|stats| !stats.contains("redirect_moved: 0"));
            assert!(redirected, "the day was too quiet");
        }
    }
}
