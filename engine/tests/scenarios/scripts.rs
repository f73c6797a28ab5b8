//! Scripts: loaded everywhere, and brought to nodes that have forgotten them.

use crate::support::{self, Driver, each_chunking, encode};

/// The fake nodes let every script append its argument to its key.
const SCRIPT: &str = "append";

/// What an EVALSHA is answered with whose script is not known.
const UNKNOWN: &str = "-NOSCRIPT No matching script. Please use EVAL. ";

fn digest_of(script: &str) -> String {
    sha1_smol::Sha1::from(script).digest().to_string()
}

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
        assert_eq!(driver.cluster.executed, [format!("{owner}: EVAL {SCRIPT} 1 a x")]);
        assert_eq!(driver.ask(client, &format!("evalsha {digest} 1 a y")), ":2 ");
        assert!(
            driver.cluster.executed[1].ends_with(&format!("evalsha {digest} 1 a y")),
            "it knows"
        );
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 0")), "+OK ");
    });
}

#[test]
fn an_eval_shows_a_script_as_well() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, &format!("EVAL {SCRIPT} 1 a x"));
        driver.cluster.forget_scripts();
        let digest = digest_of(SCRIPT);
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), ":2 ");
    });
}

#[test]
fn a_script_that_nobody_has_shown_or_that_was_flushed_is_not_known() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = digest_of(SCRIPT);
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), UNKNOWN);
        driver.ask(client, &format!("SCRIPT LOAD {SCRIPT}"));
        assert_eq!(driver.ask(client, "SCRIPT FLUSH"), "+OK ");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), UNKNOWN);
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
fn scripts_in_a_pipeline_are_known_wherever_they_come_to() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = digest_of(SCRIPT);
        let run = |key: &str| encode(&format!("EVALSHA {digest} 1 {key} x"));
        let shown = encode(&format!("EVAL {SCRIPT} 1 a x"));
        let exists = encode(&format!("SCRIPT EXISTS {digest} nonsense"));
        let commands = [shown, run("a"), run("b"), encode("APPEND b y"), run("c"), exists];
        driver.send(client, commands.concat());
        assert_eq!(driver.received(client), ":1 :2 :1 :2 :1 *2 :1 :0 ");
        assert_eq!(driver.cluster.value("b").unwrap(), "xy");
    });
}

#[test]
fn what_is_shown_behind_a_command_is_not_known_to_it() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = digest_of(SCRIPT);
        let (run, shown) = (format!("EVALSHA {digest} 1 a x"), format!("EVAL {SCRIPT} 1 b x"));
        driver.send(client, [encode(&run), encode(&shown)].concat());
        assert_eq!(driver.received(client), format!("{UNKNOWN}:1 "));
        assert_eq!(driver.cluster.value("a"), None);
    });
}

#[test]
fn what_was_not_executed_is_not_known() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = digest_of(SCRIPT);
        for keys in ["-1 a", "2 a", "nonsense a"] {
            driver.ask(client, &format!("EVAL {SCRIPT} {keys}"));
            driver.cluster.forget_scripts();
            assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), UNKNOWN, "{keys}");
        }
        driver.send(
            client,
            ["MULTI", &format!("EVAL {SCRIPT} 1 a x"), "DISCARD"].map(encode).concat(),
        );
        assert_eq!(driver.received(client), "+OK +QUEUED +OK ");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), UNKNOWN);
        driver.cluster.refuse_once = Some("ERR Error compiling script (new function)".to_owned());
        driver.ask(client, "EVAL nonsense( 0");
        let digest = digest_of("nonsense(");
        assert_eq!(driver.ask(client, &format!("EVALSHA {digest} 1 a x")), UNKNOWN);
    });
}

#[test]
fn a_script_that_was_overtaken_is_not_brought_afterwards() {
    // Whole, so that both commands are under way before the node answers.
    let mut driver = Driver::new(support::Chunking::Whole);
    let client = driver.connect();
    let digest = load_and_forget(&mut driver, client);
    // The connection has carried it, and the node has been made to forget it since.
    driver.ask(client, &format!("EVALSHA {digest} 1 a z"));
    driver.cluster.forget_scripts();
    let run = encode(&format!("EVALSHA {digest} 1 a x"));
    driver.send(client, [run, encode("APPEND a y")].concat());
    driver.wait(std::time::Duration::from_millis(100));
    assert_eq!(driver.received(client), format!("{UNKNOWN}:2 "));
    assert_eq!(driver.cluster.value("a").unwrap(), "zy");
}

#[test]
fn a_transaction_shows_scripts_and_brings_them() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let digest = digest_of(SCRIPT);
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
