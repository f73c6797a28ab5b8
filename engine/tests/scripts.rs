//! Scripts: loaded everywhere, and brought to nodes that have forgotten them.

mod support;

use support::{Driver, each_chunking, encode};

/// The fake nodes let every script append its argument to its key.
const SCRIPT: &str = "append";

/// Loads the script everywhere, then restarts all nodes, so to speak. Returns its digest.
fn load_and_forget(driver: &mut Driver, client: support::ClientId) -> String {
    let reply = driver.ask(client, &format!("SCRIPT LOAD {SCRIPT}"));
    driver.cluster.forget_scripts();
    driver.cluster.executed.clear();
    reply.split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_script_is_loaded_on_every_primary() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let reply = driver.ask(client, &format!("SCRIPT LOAD {SCRIPT}"));
        let digest = reply.split(' ').nth(1).unwrap();
        driver.cluster.executed.clear();
        for key in ["a", "b", "c", "d"] {
            assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 {key} x")), ":1 ");
        }
        assert_eq!(driver.cluster.executed.len(), 4, "all nodes knew it");
    });
}

#[test]
fn a_node_that_has_forgotten_a_script_is_told_and_runs_it_once() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = load_and_forget(&mut driver, client);
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), ":1 ");
        let owner = driver.cluster.owner("a");
        assert_eq!(
            driver.cluster.executed,
            [format!("{owner}: EVALSHA {digest} 1 a x"), format!("{owner}: EVAL {SCRIPT} 1 a x")]
        );
        assert_eq!(driver.ask(client, &format!("evalsha {digest} 1 a y")), ":2 ");
        assert_eq!(driver.cluster.executed.len(), 3, "now it knows");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 0")), "+OK ");
    });
}

#[test]
fn an_eval_shows_a_script_as_well() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, &format!("EVAL {SCRIPT} 1 a x"));
        driver.cluster.forget_scripts();
        let digest = sha1_smol::Sha1::from(SCRIPT).digest().to_string();
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), ":2 ");
    });
}

#[test]
fn a_script_that_nobody_has_shown_or_that_was_flushed_is_not_known() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let unknown = "-NOSCRIPT No matching script. Please use EVAL. ";
        let digest = sha1_smol::Sha1::from(SCRIPT).digest().to_string();
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), unknown);
        driver.ask(client, &format!("SCRIPT LOAD {SCRIPT}"));
        assert_eq!(driver.ask(client, "SCRIPT FLUSH"), "+OK ");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), unknown);
    });
}

#[test]
fn scripts_in_a_pipeline_are_brought_in_their_order() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = load_and_forget(&mut driver, client);
        let run = |argument: &str| encode(&format!("EVALSHA {digest} 1 a {argument}"));
        driver.send(client, [run("1"), run("2"), run("3")].concat());
        driver.wait(std::time::Duration::from_millis(100));
        assert_eq!(driver.received(client), ":1 :2 :3 ");
        assert_eq!(driver.cluster.value("a").unwrap(), "123");
    });
}

#[test]
fn a_script_that_was_overtaken_is_not_brought_afterwards() {
    // Whole, so that both commands are under way before the node answers.
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    let digest = load_and_forget(&mut driver, client);
    let run = encode(&format!("EVALSHA {digest} 1 a x"));
    driver.send(client, [run, encode("APPEND a y")].concat());
    driver.wait(std::time::Duration::from_millis(100));
    let unknown = "-NOSCRIPT No matching script. Please use EVAL. ";
    assert_eq!(driver.received(client), format!("{unknown}:1 "));
    assert_eq!(driver.cluster.value("a").unwrap(), "y");
}

#[test]
fn a_transaction_shows_scripts_and_brings_them() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = sha1_smol::Sha1::from(SCRIPT).digest().to_string();
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, &format!("EVAL {SCRIPT} 1 a x")), "+QUEUED ");
        assert_eq!(driver.ask(client, "EXEC"), "*1 :1 ");
        driver.cluster.forget_scripts();
        driver.ask(client, "MULTI");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a y")), "+QUEUED ");
        assert_eq!(driver.ask(client, "EXEC"), "*1 :2 ", "a node would find out too late");
    });
}

#[test]
fn a_flush_that_nodes_refuse_lets_nothing_be_forgotten() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = load_and_forget(&mut driver, client);
        driver.ask(client, "SCRIPT FLUSH NONSENSE");
        driver.cluster.forget_scripts();
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), ":1 ");
    });
}
