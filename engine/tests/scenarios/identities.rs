//! Users that Redis itself knows, and databases: each has connections of its own.

use std::time::Duration;

use crate::support::{self, Driver, Health, OP_TIMEOUT, each_chunking, encode, mirror_writes};

const WRONGPASS: &str = "-WRONGPASS invalid username-password pair or user is disabled. ";
const NOAUTH: &str = "-NOAUTH Authentication required. ";

/// Runs a scenario with users that nodes know: default, alice and bob.
fn each_with_users(scenario: impl Fn(Driver)) {
    for chunking in [support::Chunking::Whole, support::Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, |config| config.auth_passthrough = true);
        driver.cluster.acl.fill();
        // The proxy's own user asks for the topology.
        driver.cluster.acl.users.get_mut("default").unwrap().password = None;
        let nobody = driver.connect();
        driver.ask(nobody, "GET a");
        driver.disconnect(nobody);
        scenario(driver);
    }
}

/// Who has said a command, of which the words are a part.
fn who_said(driver: &Driver, words: &str) -> Vec<String> {
    let said = driver.cluster.acl.said.iter().filter(|said| said.contains(words));
    said.map(|said| said.split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn a_node_says_who_a_client_is_and_what_it_may_do() {
    each_with_users(|mut driver| {
        driver.cluster.acl.deny("alice", "SET");
        let (alice, bob, nobody) = (driver.connect(), driver.connect(), driver.connect());
        assert_eq!(driver.ask(alice, "AUTH alice alice-secret"), "+OK ");
        assert_eq!(driver.ask(bob, "AUTH bob bob-secret"), "+OK ");
        let denied = "-NOPERM this user has no permissions to run the 'set' command ";
        assert_eq!(driver.ask(alice, "SET a 1"), denied);
        assert_eq!(driver.ask(bob, "SET a 2"), "+OK ");
        assert_eq!(driver.ask(nobody, "SET a 3"), "+OK ");
        assert_eq!(driver.ask(alice, "GET a"), "$1 3 ");
        for (client, name) in [(alice, "alice"), (bob, "bob"), (nobody, "default")] {
            assert_eq!(driver.ask(client, "ACL WHOAMI"), format!("${} {name} ", name.len()));
        }
        assert_eq!(who_said(&driver, " SET a "), ["alice/0", "bob/0", "default/0"]);
        let list = driver.ask(alice, "CLIENT LIST");
        assert!(list.contains("user=alice") && !list.contains("user=bob"), "{list}");
    });
}

#[test]
fn after_a_wrong_password_a_client_is_who_it_was_and_no_node_suffers() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "AUTH alice wrong"), WRONGPASS);
        assert_eq!(driver.ask(client, "ACL WHOAMI"), "$7 default ");
        assert_eq!(driver.ask(client, "AUTH alice alice-secret"), "+OK ");
        let commands = ["AUTH bob wrong", "ACL WHOAMI", "HELLO 3 AUTH bob wrong", "GET a"];
        driver.send(client, commands.map(encode).concat());
        assert_eq!(driver.received(client), format!("{WRONGPASS}$5 alice {WRONGPASS}$-1 "));
        assert_eq!(driver.ask(client, "AUTH a b c"), "-ERR syntax error ");
        assert!(driver.log.iter().all(|line| !line.contains("wrong")), "{:?}", driver.log);
        let wrong = driver.log.iter().filter(|line| line.contains("WRONGPASS"));
        assert_eq!(wrong.count(), 0, "{:?}", driver.log);
        let other = driver.connect();
        assert_eq!(driver.ask(other, "SET a 1"), "+OK ", "the node is not left alone");
    });
}

#[test]
fn who_knows_a_name_but_not_the_password_gets_no_connection_of_that_user() {
    each_with_users(|mut driver| {
        let (alice, thief) = (driver.connect(), driver.connect());
        assert_eq!(driver.ask(alice, "AUTH alice alice-secret"), "+OK ");
        driver.ask(alice, "SET a 1");
        for guess in ["x", "alice-secre", "alice-secret2", "default-secret"] {
            assert_eq!(driver.ask(thief, &format!("AUTH alice {guess}")), WRONGPASS);
        }
        driver.ask(thief, "SET a 2");
        assert_eq!(who_said(&driver, " SET a "), ["alice/0", "default/0"]);
    });
}

#[test]
fn clients_of_one_user_share_connections() {
    each_with_users(|mut driver| {
        let clients = [driver.connect(), driver.connect(), driver.connect()];
        for client in clients {
            driver.ask(client, "AUTH alice alice-secret");
            driver.ask(client, "GET a");
        }
        let owner = driver.cluster.owner("a");
        // Nobody's from the beginning, alice's, and where the AUTH went perhaps.
        assert!(driver.connections(&owner) <= 2, "{}", driver.connections(&owner));
    });
}

#[test]
fn hello_lets_in_and_changes_the_version_or_does_neither() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        let hello = driver.ask(client, "HELLO 3 AUTH alice alice-secret SETNAME worker");
        assert!(hello.starts_with("%7 "), "{hello}");
        assert_eq!(driver.ask(client, "GET a"), "_ ");
        assert_eq!(driver.ask(client, "CLIENT GETNAME"), "$6 worker ");
        assert_eq!(driver.ask(client, "ACL WHOAMI"), "$5 alice ");
        assert_eq!(driver.ask(client, "HELLO 2 AUTH bob wrong SETNAME other"), WRONGPASS);
        assert_eq!(driver.ask(client, "CLIENT GETNAME"), "$6 worker ");
        assert_eq!(driver.ask(client, "GET a"), "_ ");
        assert_eq!(driver.ask(client, "RESET"), "+RESET ");
        assert_eq!(driver.ask(client, "ACL WHOAMI"), "$7 default ");
        assert_eq!(driver.ask(client, "GET a"), "$-1 ");
    });
}

#[test]
fn where_the_default_user_needs_a_password_nothing_is_done_without() {
    each_with_users(|mut driver| {
        driver.cluster.acl.fill();
        for address in ["node-0:1", "node-1:1", "node-2:1"] {
            driver.cut(address);
        }
        let client = driver.connect();
        for command in ["GET a", "PING", "ECHO x", "ACL WHOAMI", "DBSIZE"] {
            assert_eq!(driver.ask(client, command), NOAUTH, "{command}");
        }
        for hello in ["HELLO 2", "HELLO 3"] {
            let reply = driver.ask(client, hello);
            assert!(reply.starts_with("-NOAUTH HELLO must be called"), "{reply}");
        }
        assert_eq!(driver.ask(client, "AUTH default-secret"), "+OK ");
        assert_eq!(driver.ask(client, "PING"), "+PONG ");
        assert_eq!(driver.ask(client, "GET a"), "$-1 ");
        assert!(who_said(&driver, " GET a").iter().all(|who| who == "default/0"));
    });
}

#[test]
fn a_transaction_of_a_user_that_may_not_have_one_leaves_nothing_behind() {
    for denied in ["MULTI", "EXEC"] {
        each_with_users(|mut driver| {
            driver.cluster.acl.deny("alice", denied);
            let client = driver.connect();
            driver.ask(client, "AUTH alice alice-secret");
            driver.ask(client, "SET a 0");
            driver.send(client, ["MULTI", "SET a 1", "EXEC"].map(encode).concat());
            let name = denied.to_lowercase();
            let error =
                format!("-NOPERM this user has no permissions to run the '{name}' command ");
            assert_eq!(driver.received(client), format!("+OK +QUEUED {error}"));
            assert_eq!(driver.ask(client, "GET a"), "$1 0 ");
            assert_eq!(driver.ask(client, "SET a 2"), "+OK ", "the connection is no transaction's");
            let reply = driver.ask(client, "WATCH a");
            assert!(reply.starts_with("-NOPERM"), "{reply}");
        });
    }
}

#[test]
fn a_user_s_transactions_are_executed_as_that_user_watched_or_not() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "AUTH alice alice-secret");
        let commands = ["SET a 1", "MULTI", "APPEND a 2", "EXEC", "APPEND a 3", "GET a"];
        driver.send(client, commands.map(encode).concat());
        assert_eq!(driver.received(client), "+OK +OK +QUEUED *1 :2 :3 $3 123 ");
        assert_eq!(driver.ask(client, "WATCH a"), "+OK ");
        driver.send(client, ["MULTI", "SET a 4", "EXEC"].map(encode).concat());
        assert_eq!(driver.received(client), "+OK +QUEUED *1 +OK ");
        assert_eq!(who_said(&driver, " SET a 4"), ["alice/0"]);
        assert_eq!(who_said(&driver, "APPEND"), ["alice/0", "alice/0"]);
        driver.cluster.acl.deny("alice", "SET");
        driver.send(client, ["MULTI", "SET a 5", "EXEC"].map(encode).concat());
        let aborted = "-EXECABORT Transaction discarded because of previous errors. ";
        assert_eq!(driver.received(client), format!("+OK +QUEUED {aborted}"));
    });
}

#[test]
fn what_a_client_watched_as_somebody_else_counts_as_changed() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "AUTH alice alice-secret");
        assert_eq!(driver.ask(client, "WATCH a"), "+OK ");
        assert_eq!(driver.ask(client, "AUTH bob bob-secret"), "+OK ");
        driver.send(client, ["MULTI", "SET a 1", "EXEC"].map(encode).concat());
        assert_eq!(driver.received(client), "+OK +QUEUED *-1 ");
        assert_eq!(who_said(&driver, " SET a 1"), [""; 0]);
        driver.send(client, ["MULTI", "SET a 1", "EXEC"].map(encode).concat());
        assert_eq!(driver.received(client), "+OK +QUEUED *1 +OK ");
        assert_eq!(who_said(&driver, " SET a 1"), ["bob/0"]);
    });
}

#[test]
fn a_blocking_command_waits_on_a_connection_of_its_user() {
    each_with_users(|mut driver| {
        driver.cluster.blocking = true;
        let (alice, bob) = (driver.connect(), driver.connect());
        driver.ask(alice, "AUTH alice alice-secret");
        driver.ask(bob, "AUTH bob bob-secret");
        let read = "XREAD BLOCK 0 STREAMS a 0";
        assert_eq!(driver.ask(alice, read), "");
        driver.disconnect(alice);
        assert_eq!(driver.ask(bob, read), "");
        assert_eq!(who_said(&driver, read), ["alice/0", "bob/0"]);
    });
}

#[test]
fn commands_follow_their_slot_as_the_user_that_said_them() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "AUTH alice alice-secret");
        driver.ask(client, "SET a 1");
        let to = driver.cluster.other_than("a");
        driver.cluster.move_slot("a", to);
        assert_eq!(driver.ask(client, "SET a 2"), "+OK ");
        assert!(who_said(&driver, " SET a ").iter().all(|who| who == "alice/0"));
        assert_eq!(driver.ask(client, "MGET a b c d"), "*4 $1 2 $-1 $-1 $-1 ");
        assert!(who_said(&driver, " MGET ").iter().all(|who| who == "alice/0"));
        assert!(who_said(&driver, "CLUSTER SLOTS").iter().all(|who| who == "default/0"));
    });
}

#[test]
fn what_nobody_could_check_is_refused() {
    each_with_users(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "AUTH alice alice-secret");
        let reply = driver.ask(client, "SUBSCRIBE news");
        assert!(reply.starts_with("-ERR subscriptions cannot be used"), "{reply}");
        driver.ask(client, "MULTI");
        let reply = driver.ask(client, "AUTH bob bob-secret");
        assert!(reply.starts_with("-ERR Command not allowed inside a transaction"), "{reply}");
    });
}

#[test]
fn a_client_knows_of_those_of_its_own_user_alone() {
    each_with_users(|mut driver| {
        let (alice, bob) = (driver.connect(), driver.connect());
        driver.ask(alice, "AUTH alice alice-secret");
        driver.ask(bob, "AUTH bob bob-secret");
        let id = driver.ask(bob, "CLIENT ID");
        let id = id.trim_start_matches(':').trim();
        assert_eq!(driver.ask(alice, &format!("CLIENT KILL ID {id}")), ":0 ");
        assert_eq!(driver.ask(alice, &format!("CLIENT UNBLOCK {id}")), ":0 ");
        let reply = driver.ask(alice, &format!("CLIENT TRACKING ON REDIRECT {id}"));
        assert!(reply.starts_with("-ERR The client ID you want"), "{reply}");
        assert!(!driver.is_closed(bob));
    });
}

#[test]
fn connections_of_users_that_have_gone_are_closed_after_a_while() {
    each_with_users(|mut driver| {
        let before = driver.proxy.connections();
        for round in 0..300 {
            let client = driver.connect();
            assert_eq!(driver.ask(client, &format!("AUTH alice {round}")), WRONGPASS);
            driver.disconnect(client);
        }
        let client = driver.connect();
        assert_eq!(driver.ask(client, "AUTH alice alice-secret"), "+OK ");
        driver.ask(client, "MGET a b c d");
        assert!(driver.proxy.connections() > before);
        driver.wait(Duration::from_secs(90));
        assert!(driver.proxy.connections() > before, "she is still there");
        driver.disconnect(client);
        driver.wait(Duration::from_secs(40));
        assert_eq!(driver.proxy.connections(), before);
    });
}

#[test]
fn while_no_node_answers_nobody_is_let_in() {
    each_with_users(|mut driver| {
        driver.cluster.set_all_healths(Health::Silent);
        let client = driver.connect();
        driver.command(client, "AUTH alice alice-secret");
        driver.command(client, "ACL WHOAMI");
        driver.wait(OP_TIMEOUT);
        let reply = driver.received(client);
        assert!(reply.starts_with("-TIMEOUT"), "{reply}");
        driver.cluster.set_all_healths(Health::Well);
        driver.settle();
        driver.received(client);
        assert_eq!(driver.ask(client, "ACL WHOAMI"), "$7 default ");
    });
}

#[test]
fn a_database_has_connections_of_its_own_where_nodes_have_it() {
    each_chunking(|mut driver| {
        driver.cluster.acl.databases = 15;
        let (first, second) = (driver.connect(), driver.connect());
        let commands = ["SET a 1", "SELECT 3", "GET a", "SELECT 0", "GET a"];
        driver.send(first, commands.map(encode).concat());
        assert!(driver.received(first).starts_with("+OK +OK $"));
        driver.ask(second, "SELECT 3");
        driver.ask(second, "EXISTS a");
        driver.ask(first, "EXISTS a");
        assert_eq!(who_said(&driver, " GET a"), ["default/3", "default/0"]);
        assert_eq!(who_said(&driver, "EXISTS"), ["default/3", "default/0"]);
        assert!(driver.ask(second, "CLIENT INFO").contains(" db=3 "));
        assert_eq!(driver.ask(second, "SELECT 16"), "-ERR DB index is out of range ");
        assert!(driver.ask(second, "CLIENT INFO").contains(" db=3 "));
        driver.send(second, ["MULTI", "APPEND a x", "SELECT 3", "EXEC"].map(encode).concat());
        assert_eq!(driver.received(second), "+OK +QUEUED +QUEUED *2 :2 +OK ");
        assert_eq!(who_said(&driver, "APPEND"), ["default/3"]);
        driver.ask(second, "MULTI");
        let reply = driver.ask(second, "SELECT 1");
        assert!(reply.starts_with("-ERR this proxy does not change the database"), "{reply}");
        assert_eq!(driver.ask(second, "RESET"), "+RESET ");
        assert!(driver.ask(second, "CLIENT INFO").contains(" db=0 "));
    });
}

#[test]
fn where_there_is_one_database_the_nodes_say_so() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let refused = "-ERR SELECT is not allowed in cluster mode ";
        assert_eq!(driver.ask(client, "SELECT 0"), "+OK ");
        assert_eq!(driver.ask(client, "SELECT 1"), refused);
        assert_eq!(driver.ask(client, "SELECT x"), "-ERR value is not an integer or out of range ");
        assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
        assert_eq!(who_said(&driver, " SET a "), ["default/0"]);
    });
}

#[test]
fn databases_are_not_mixed_in_a_mirror() {
    let mut driver = Driver::with(support::Chunking::Whole, mirror_writes);
    driver.cluster.acl.databases = 15;
    let client = driver.connect();
    let reply = driver.ask(client, "SELECT 1");
    assert!(reply.starts_with("-ERR SELECT is not possible through this proxy"), "{reply}");
}
