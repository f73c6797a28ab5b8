//! Numbers have one spelling: what redis-server 7.0 refuses, the proxy refuses in its words.

use crate::support::{Chunking, Driver};

/// Other spellings of numbers that would be right.
const WRONG: [&str; 5] = ["+2", "02", "2a", "-0", "9223372036854775808"];

const NO_INTEGER: &str = "value is not an integer or out of range";

/// Commands that the proxy answers itself or has to understand before it sends them, where the
/// number goes, and redis-server's refusal.
const COMMANDS: [(&str, &str); 8] = [
    ("HELLO #", "Protocol version is not an integer or out of range"),
    ("SELECT #", NO_INTEGER),
    ("CLIENT UNBLOCK #", NO_INTEGER),
    ("CLIENT KILL ID #", "client-id should be greater than 0"),
    ("CLIENT LIST ID 7 #", "Invalid client ID"),
    ("CLIENT TRACKING ON REDIRECT #", NO_INTEGER),
    ("CLUSTER COUNTKEYSINSLOT #", NO_INTEGER),
    ("CLUSTER GETKEYSINSLOT # 1", NO_INTEGER),
];

#[test]
fn other_spellings_of_a_number_are_refused_as_redis_does() {
    let mut driver = Driver::with(Chunking::Whole, |config| config.cluster_emulation = true);
    let client = driver.connect();
    driver.locate(client, "10.0.0.1:5000", "10.0.0.9:6379");
    for (command, refusal) in COMMANDS {
        for number in WRONG {
            let words = command.replace('#', number);
            assert_eq!(driver.ask(client, &words), format!("-ERR {refusal} "), "{words}");
        }
    }
    assert_eq!(driver.ask(client, "CLIENT LIST ID -5"), "$0  ", "no client has this id");
    assert_eq!(driver.ask(client, "CLUSTER COUNTKEYSINSLOT -1"), "-ERR Invalid slot ");
    let slot_or_count = "-ERR Invalid slot or number of keys ";
    assert_eq!(driver.ask(client, "CLUSTER GETKEYSINSLOT 16384 1"), slot_or_count);
}

#[test]
fn a_script_whose_keys_are_counted_in_another_spelling_is_not_remembered() {
    let mut driver = Driver::new(Chunking::Whole);
    let client = driver.connect();
    for number in WRONG {
        driver.ask(client, &format!("EVAL body{number} {number} a b"));
    }
    assert_eq!(driver.proxy.kept().script_bytes, 0);
    driver.ask(client, "EVAL body 2 a b");
    assert_ne!(driver.proxy.kept().script_bytes, 0);
}
