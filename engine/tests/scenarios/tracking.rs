//! Clients that cache what they read, and are told when it changes.

use std::time::Duration;

use crate::support::{Chunking, ClientId, Driver, Health, OP_TIMEOUT, each_chunking, encode};
use slotmesh_engine::config::Limits;

/// What tells a RESP3 client that keys have changed.
fn changed(keys: &str) -> String {
    format!(">2 $10 invalidate {}", array(keys))
}

/// What tells a RESP2 client the same.
fn message(keys: &str) -> String {
    format!("*3 $7 message $20 __redis__:invalidate {}", array(keys))
}

fn array(keys: &str) -> String {
    let keys: Vec<_> = keys.split(' ').collect();
    let elements: String = keys.iter().map(|key| format!("${} {key} ", key.len())).collect();
    format!("*{} {elements}", keys.len())
}

const ALL_CHANGED: &str = ">2 $10 invalidate _ ";
const ALL_CHANGED_RESP2: &str = "*3 $7 message $20 __redis__:invalidate $-1 ";

/// A client that speaks RESP3 and has said this with CLIENT TRACKING.
fn tracking(driver: &mut Driver, options: &str) -> ClientId {
    let client = driver.connect();
    assert!(driver.ask(client, "HELLO 3").starts_with("%7 "));
    let order = format!("CLIENT TRACKING ON {options}");
    assert_eq!(driver.ask(client, order.trim_end()), "+OK ");
    client
}

/// A RESP2 client and the one that hears for it.
fn redirecting(driver: &mut Driver, options: &str) -> (ClientId, ClientId) {
    let [client, listener] = [(); 2].map(|()| driver.connect());
    let id = driver.ask(listener, "CLIENT ID").trim_matches([':', ' ']).to_owned();
    driver.ask(listener, "SUBSCRIBE __redis__:invalidate");
    let order = format!("CLIENT TRACKING ON REDIRECT {id} {options}");
    driver.command(client, order.trim_end());
    driver.wait(Duration::from_millis(100));
    assert_eq!(driver.received(client), "+OK ");
    (client, listener)
}

/// Sends a command that may have to wait for a connection.
fn ask_soon(driver: &mut Driver, client: ClientId, words: &str) -> String {
    driver.command(client, words);
    driver.wait(Duration::from_millis(100));
    driver.received(client)
}

/// Keys of three different nodes.
fn keys_of_all_nodes(driver: &Driver) -> [String; 3] {
    ["node-0:1", "node-1:1", "node-2:1"].map(|node| {
        let mut names = (0..).map(|number| format!("k{number}"));
        names.find(|key| driver.cluster.owner(key) == node).unwrap()
    })
}

#[test]
fn a_client_is_told_when_what_it_has_read_changes() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        let keys = keys_of_all_nodes(&driver);
        for key in &keys {
            assert_eq!(driver.ask(client, &format!("GET {key}")), "_ ");
        }
        driver.ask(other, "SET unread x");
        assert_eq!(driver.received(client), "");
        for key in &keys {
            driver.ask(other, &format!("SET {key} x"));
            assert_eq!(driver.received(client), changed(key));
            driver.ask(other, &format!("SET {key} y"));
            assert_eq!(driver.received(client), "", "once for each read");
        }
        assert_eq!(driver.ask(client, &format!("MGET {} a b", keys[0])), "*3 $1 y _ _ ");
        driver.ask(other, "DEL b");
        assert_eq!(driver.received(client), changed("b"));
        let reply = driver.ask(client, &format!("SET {} z", keys[0]));
        assert_eq!(reply, format!("+OK {}", changed(&keys[0])), "it has no NOLOOP");
    });
}

#[test]
fn each_client_hears_of_its_own_reads_only() {
    each_chunking(|mut driver| {
        let [one, two] = [(); 2].map(|()| tracking(&mut driver, ""));
        let [other, untracked] = [(); 2].map(|()| driver.connect());
        driver.ask(one, "GET a");
        driver.ask(two, "GET b");
        driver.ask(untracked, "GET a");
        driver.ask(other, "MSET a 1 b 1");
        assert_eq!(driver.received(one), changed("a"));
        assert_eq!(driver.received(two), changed("b"));
        assert_eq!(driver.received(untracked), "");
    });
}

#[test]
fn a_change_is_never_told_before_the_reply_that_it_is_about() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        let [slow, fast, _] = keys_of_all_nodes(&driver);
        driver.ask(client, &format!("GET {slow}"));
        let slow_node = driver.cluster.owner(&slow);
        driver.cluster.set_health(&slow_node, Health::Silent);
        driver.command(client, &format!("GET {slow}"));
        driver.command(client, &format!("GET {fast}"));
        // The reply is there, and waits for its turn.
        driver.ask(other, &format!("SET {fast} new"));
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&slow_node, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), format!("_ _ {}", changed(&fast)));
    });
}

#[test]
fn a_client_that_waits_in_a_blocking_command_is_told_at_once() {
    each_chunking(|mut driver| {
        driver.cluster.blocking = true;
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        driver.ask(client, "GET k");
        driver.command(client, "BLPOP list 0");
        driver.ask(other, "SET k x");
        assert_eq!(driver.received(client), changed("k"));
        // Nor is a connection without anything to say taken for one that waits in vain.
        driver.wait(OP_TIMEOUT * 20);
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET list x");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $4 list $1 x ");
    });
}

#[test]
fn what_a_transaction_reads_is_tracked() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        for words in ["WATCH {t}a", "MULTI", "GET {t}b", "EXEC"] {
            driver.ask(client, words);
        }
        driver.ask(other, "SET {t}b x");
        assert_eq!(driver.received(client), changed("{t}b"));
    });
}

#[test]
fn a_client_need_not_hear_of_its_own_changes() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "NOLOOP");
        let other = driver.connect();
        driver.ask(client, "GET k");
        assert_eq!(driver.ask(client, "SET k x"), "+OK ");
        driver.ask(client, "GET k");
        driver.ask(other, "SET k y");
        assert_eq!(driver.received(client), changed("k"));
    });
}

#[test]
fn with_optin_only_what_follows_client_caching_is_tracked() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "OPTIN");
        let other = driver.connect();
        driver.ask(client, "GET a");
        assert_eq!(driver.ask(client, "CLIENT CACHING YES"), "+OK ");
        driver.ask(client, "MGET b c d");
        driver.ask(client, "GET e");
        driver.ask(other, "MSET a 1 e 1");
        assert_eq!(driver.received(client), "");
        for key in ["b", "c", "d"] {
            driver.ask(other, &format!("SET {key} 1"));
            assert_eq!(driver.received(client), changed(key));
        }
    });
}

#[test]
fn with_bcast_a_client_hears_of_all_keys_with_its_prefixes() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "BCAST PREFIX k PREFIX user:");
        let other = driver.connect();
        for key in keys_of_all_nodes(&driver) {
            driver.ask(other, &format!("SET {key} x"));
            assert_eq!(driver.received(client), changed(&key));
        }
        driver.ask(other, "SET other x");
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET user:1 x");
        assert_eq!(driver.received(client), changed("user:1"));
    });
}

#[test]
fn a_resp2_client_lets_another_one_hear() {
    each_chunking(|mut driver| {
        let (client, listener) = redirecting(&mut driver, "");
        driver.received(listener);
        let other = driver.connect();
        for key in keys_of_all_nodes(&driver) {
            assert_eq!(ask_soon(&mut driver, client, &format!("GET {key}")), "$-1 ");
            driver.ask(other, &format!("SET {key} x"));
            assert_eq!(driver.received(listener), message(&key));
        }
        assert_eq!(driver.received(client), "");
        driver.ask(client, "GET k0");
        let node = driver.cluster.owner("k0");
        driver.cut(&node);
        assert!(driver.received(listener).contains(ALL_CHANGED_RESP2));
        // Nobody hears, and nobody is told.
        let mute = driver.connect();
        assert_eq!(driver.ask(mute, "CLIENT TRACKING ON"), "+OK ");
        driver.ask(mute, "GET a");
        driver.ask(other, "SET a x");
        assert_eq!(driver.received(mute), "");
    });
}

#[test]
fn a_resp3_client_learns_that_whom_it_redirected_to_has_gone() {
    each_chunking(|mut driver| {
        let listener = driver.connect();
        driver.ask(listener, "HELLO 3");
        let id = driver.ask(listener, "CLIENT ID").trim_matches([':', ' ']).to_owned();
        let client = tracking(&mut driver, &format!("REDIRECT {id}"));
        let other = driver.connect();
        driver.ask(client, "GET k");
        driver.ask(other, "SET k x");
        assert_eq!(driver.received(listener), changed("k"));
        driver.ask(client, "GET k");
        driver.disconnect(listener);
        driver.ask(other, "SET k y");
        assert_eq!(driver.received(client), format!(">2 $21 tracking-redir-broken :{id} "));
        assert!(driver.ask(client, "CLIENT TRACKINGINFO").contains("broken_redirect"));
        assert_eq!(driver.ask(client, "CLIENT GETREDIR"), format!(":{id} "));
    });
}

#[test]
fn a_client_forgets_all_when_a_node_has_forgotten_what_it_read() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        driver.ask(client, "GET k");
        let node = driver.cluster.owner("k");
        driver.cut(&node);
        assert_eq!(driver.received(client), ALL_CHANGED);
        assert_eq!(ask_soon(&mut driver, client, "GET k"), "_ ");
        driver.ask(other, "SET k x");
        assert_eq!(driver.received(client), changed("k"), "it is tracked again");
    });
}

#[test]
fn a_reply_that_is_under_way_when_a_connection_is_lost_comes_before_the_news_of_it() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        driver.ask(client, "GET k");
        let node = driver.cluster.owner("k");
        driver.cluster.set_health(&node, Health::Silent);
        driver.command(client, "GET k");
        driver.cut(&node);
        driver.cluster.set_health(&node, Health::Well);
        driver.wait(Duration::from_millis(200));
        assert_eq!(driver.received(client), format!("_ {ALL_CHANGED}"));
    });
}

#[test]
fn a_client_forgets_all_when_a_slot_has_moved() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        driver.ask(client, "GET k");
        let to = driver.cluster.other_than("k");
        driver.cluster.move_slot("k", to);
        // It is another client that learns it.
        assert_eq!(driver.ask(other, "GET k"), "$-1 ");
        assert_eq!(driver.received(client), ALL_CHANGED);
        assert_eq!(driver.ask(client, "GET k"), "_ ");
        driver.ask(other, "SET k x");
        assert_eq!(driver.received(client), changed("k"));
    });
}

/// The old primary says nothing of it on the connection by which it tracks.
#[test]
fn a_client_forgets_all_when_a_replica_says_by_its_role_that_it_has_taken_over() {
    each_chunking(|mut driver| {
        let primary = driver.cluster.owner("k");
        let position = primary.trim_start_matches("node-").trim_end_matches(":1").parse().unwrap();
        let replica = driver.cluster.add_replica(position, "node-9:1");
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        assert_eq!(driver.ask(client, "GET k"), "_ ");
        assert_eq!(driver.ask(other, "GET k"), "$-1 ");
        driver.cluster.errors.insert(primary, "CLUSTERDOWN The cluster is down".to_owned());
        driver.cluster.promote(replica);
        driver.command(other, "SET k x");
        // Too soon for a topology.
        driver.wait(Duration::from_millis(30));
        assert_eq!(driver.received(other), "+OK ", "the replica was asked for its role");
        assert_eq!(driver.received(client), ALL_CHANGED);
    });
}

#[test]
fn who_hears_of_all_keys_forgets_all_when_a_node_has_come_back() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "BCAST");
        let other = driver.connect();
        let [key, ..] = keys_of_all_nodes(&driver);
        let node = driver.cluster.owner(&key);
        driver.cluster.set_health(&node, Health::Refusing);
        driver.cut(&node);
        assert_eq!(driver.received(client), ALL_CHANGED);
        driver.wait(Duration::from_secs(3));
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&node, Health::Well);
        driver.wait(Duration::from_secs(10));
        assert_eq!(driver.received(client), ALL_CHANGED, "something may have changed meanwhile");
        driver.ask(other, &format!("SET {key} x"));
        assert_eq!(driver.received(client), changed(&key));
    });
}

#[test]
fn a_node_that_says_nothing_any_more_is_found_out() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        driver.ask(client, "GET k");
        let node = driver.cluster.owner("k");
        driver.cluster.set_health(&node, Health::Silent);
        driver.wait(Duration::from_secs(11) + OP_TIMEOUT * 4);
        assert_eq!(driver.received(client), ALL_CHANGED);
    });
}

#[test]
fn connections_last_as_long_as_a_client_tracks() {
    each_chunking(|mut driver| {
        let before: usize = driver.opened.values().sum();
        let client = tracking(&mut driver, "");
        for key in keys_of_all_nodes(&driver) {
            driver.ask(client, &format!("GET {key}"));
        }
        let connections = |driver: &Driver| -> usize {
            ["node-0:1", "node-1:1", "node-2:1"].iter().map(|node| driver.connections(node)).sum()
        };
        let with = connections(&driver);
        assert_eq!(driver.ask(client, "CLIENT TRACKING OFF"), "+OK ");
        assert_eq!(connections(&driver), with - 3, "before: {before}");
        assert_eq!(driver.ask(client, "CLIENT TRACKING ON"), "+OK ");
        assert_eq!(driver.ask(client, "RESET"), "+RESET ");
        assert_eq!(connections(&driver), with - 3);
        let client = tracking(&mut driver, "BCAST");
        assert!(connections(&driver) >= with);
        driver.disconnect(client);
        assert_eq!(connections(&driver), with - 3);
    });
}

#[test]
fn options_that_change_begin_anew() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        driver.ask(client, "GET k");
        assert_eq!(driver.ask(client, "CLIENT TRACKING ON"), "+OK ", "as it was");
        let reply = driver.ask(client, "CLIENT TRACKING ON NOLOOP");
        assert_eq!(reply, format!("{ALL_CHANGED}+OK "));
        driver.ask(client, "GET k");
        assert_eq!(driver.ask(client, "SET k x"), "+OK ");
        driver.ask(client, "GET k");
        driver.ask(other, "SET k x");
        assert_eq!(driver.received(client), changed("k"));
        let reply = driver.ask(client, "CLIENT TRACKING ON BCAST");
        assert!(reply.starts_with("-ERR You can't switch BCAST mode on/off"), "{reply}");
    });
}

#[test]
fn a_node_that_refuses_to_track_is_quoted() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            let error = "NOPERM this user has no permissions to run the 'client|tracking' command";
            driver.cluster.errors.insert(node.to_owned(), error.to_owned());
        }
        for options in ["", " BCAST"] {
            let reply = driver.ask(client, &format!("CLIENT TRACKING ON{options}"));
            assert!(reply.starts_with("-NOPERM "), "{reply}");
            assert!(driver.ask(client, "CLIENT TRACKINGINFO").contains(" off "));
        }
        driver.cluster.errors.clear();
        assert_eq!(driver.ask(client, "GET k"), "_ ");
    });
}

#[test]
fn what_cannot_be_done_soundly_is_refused() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.routes.catch_all.as_mut().unwrap().remove_prefix = true;
    });
    let client = driver.connect();
    let reply = driver.ask(client, "CLIENT TRACKING ON");
    assert!(reply.contains("rewrites keys"), "{reply}");

    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.limits = Limits { tracking_clients: 1, ..Limits::default() };
    });
    tracking(&mut driver, "");
    let client = driver.connect();
    let reply = driver.ask(client, "CLIENT TRACKING ON");
    assert!(reply.starts_with("-ERR too many clients"), "{reply}");
}

#[test]
fn a_client_whose_tracking_does_not_begin_in_time_is_told_once_and_does_not_track() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        driver.cluster.set_all_healths(Health::Silent);
        driver.command(client, "CLIENT TRACKING ON BCAST");
        driver.wait(OP_TIMEOUT * 4);
        let reply = driver.received(client);
        assert!(reply.starts_with('-') && reply.matches('-').count() == 1, "{reply}");
        driver.cluster.set_all_healths(Health::Well);
        driver.wait(OP_TIMEOUT * 4);
        assert_eq!(driver.received(client), "");
        assert!(driver.ask(client, "CLIENT TRACKINGINFO").contains(" off "));
        assert_eq!(driver.ask(client, "GET k"), "_ ");
    });
}

#[test]
fn a_reply_to_what_came_before_does_not_end_the_wait_of_a_blocking_command() {
    each_chunking(|mut driver| {
        driver.cluster.blocking = true;
        let client = tracking(&mut driver, "");
        let other = driver.connect();
        driver.ask(client, "GET {k}");
        let node = driver.cluster.owner("k");
        driver.cluster.set_health(&node, Health::Silent);
        driver.send(client, ["GET {k}", "BLPOP {k}list 0"].map(encode).concat());
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "_ ");
        driver.wait(OP_TIMEOUT * 20);
        assert_eq!(driver.received(client), "");
        driver.ask(other, "SET {k}list x");
        driver.settle();
        assert_eq!(driver.received(client), "*2 $7 {k}list $1 x ");
    });
}

#[test]
fn commands_around_client_tracking_keep_their_order() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        let pipeline = ["SET k 1", "CLIENT TRACKING ON", "APPEND k 2", "GET k", "RESET", "GET k"];
        driver.send(client, pipeline.map(encode).concat());
        let replies = driver.received(client);
        assert_eq!(replies, "+OK +OK :2 $2 12 +RESET $2 12 ");
    });
}

#[test]
fn news_of_something_else_does_no_harm() {
    each_chunking(|mut driver| {
        let client = tracking(&mut driver, "");
        driver.ask(client, "GET k");
        let node = driver.cluster.owner("k");
        driver.inject(&node, b">2\r\n+news\r\n:1\r\n");
        assert_eq!(driver.received(client), "");
        assert_eq!(driver.ask(client, "GET k"), "_ ");
    });
}
