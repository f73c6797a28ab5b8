//! What clients say when they connect, and when they misbehave.

use std::time::Duration;

use crate::support::{self, Driver, Health, OP_TIMEOUT, each_chunking, encode};

/// How long a client that has announced too much has to be quiet before it is closed.
const QUIET: Duration = Duration::from_millis(200);

#[test]
fn resp2_and_resp3_clients_live_side_by_side() {
    each_chunking(|mut driver| {
        let old = driver.connect();
        let new = driver.connect();
        let hello = driver.ask(new, "HELLO 3");
        assert!(
            hello.starts_with("%7 $6 server $5 redis $7 version $6 7.0.15 $5 proto :3 $2 id :")
        );
        assert!(hello.ends_with("$4 mode $10 standalone $4 role $6 master $7 modules *0 "));
        assert_eq!(driver.ask(old, "GET missing"), "$-1 ");
        assert_eq!(driver.ask(new, "GET missing"), "_ ");
        let hello = driver.ask(new, "HELLO 2");
        assert!(
            hello.starts_with("*14 $6 server $5 redis $7 version $6 7.0.15 $5 proto :2 $2 id :")
        );
        assert_eq!(driver.ask(new, "GET missing"), "$-1 ");
        let owner = driver.cluster.owner("missing");
        assert_eq!(driver.connections(&owner), 2, "one for each version");
    });
}

#[test]
fn hello_waits_until_the_version_of_redis_is_known() {
    each_chunking(|mut driver| {
        driver.cluster.set_all_healths(Health::Silent);
        driver.cluster.version = "8.2.1".to_owned();
        let client = driver.connect();
        let mut both = encode("HELLO 3 SETNAME me");
        both.extend(encode("CLIENT GETNAME"));
        driver.send(client, both);
        assert_eq!(driver.received(client), "");
        driver.cluster.set_all_healths(Health::Well);
        driver.wait(Duration::from_millis(100));
        let received = driver.received(client);
        assert!(received.contains("$7 version $5 8.2.1"), "{received}");
        assert!(received.ends_with("*0 $2 me "), "{received}");
    });
}

#[test]
fn hello_is_refused_in_redis_own_words() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for (command, error) in [
            ("HELLO 4", "-NOPROTO unsupported protocol version "),
            ("HELLO abc", "-ERR Protocol version is not an integer or out of range "),
            ("HELLO 3 AUTH me", "-ERR Syntax error in HELLO option 'AUTH' "),
            ("HELLO 3 WHAT", "-ERR Syntax error in HELLO option 'WHAT' "),
            (
                "HELLO 3 AUTH me secret",
                "-WRONGPASS invalid username-password pair or user is disabled. ",
            ),
        ] {
            assert_eq!(driver.ask(client, command), error);
            assert_eq!(driver.ask(client, "GET missing"), "$-1 ", "still RESP2");
        }
        assert!(driver.ask(client, "HELLO 2 AUTH default any").starts_with("*14"));
    });
}

#[test]
fn what_standard_clients_send_when_they_connect_is_answered() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "CLIENT GETNAME"), "$-1 ");
        assert_eq!(driver.ask(client, "CLIENT SETNAME worker-1"), "+OK ");
        assert_eq!(driver.ask(client, "client getname"), "$8 worker-1 ");
        assert_eq!(driver.ask(client, "CLIENT SETINFO LIB-NAME redis-py"), "+OK ");
        assert_eq!(driver.ask(client, "CLIENT SETINFO lib-ver 5.0.1"), "+OK ");
        assert_eq!(driver.ask(client, "SELECT 0"), "+OK ");
        assert_eq!(driver.ask(client, "SELECT 1"), "-ERR SELECT is not allowed in cluster mode ");
        assert_eq!(driver.ask(client, "SELECT x"), "-ERR value is not an integer or out of range ");
        assert_eq!(driver.ask(client, "PING"), "+PONG ");
        assert_eq!(driver.ask(client, "PING hello"), "$5 hello ");
        assert_eq!(
            driver.ask(client, "PING a b"),
            "-ERR wrong number of arguments for 'ping' command "
        );
        assert_eq!(driver.ask(client, "ECHO hello"), "$5 hello ");
        assert_eq!(driver.ask(client, "COMMAND"), "*0 ", "asked of a node");
        assert_eq!(driver.ask(client, "RESET"), "+RESET ");
        assert_eq!(driver.ask(client, "CLIENT GETNAME"), "$-1 ");
        driver.send(client, b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$3\r\na b\r\n");
        assert_eq!(
            driver.received(client),
            "-ERR Client names cannot contain spaces, newlines or special characters. "
        );
    });
}

#[test]
fn every_client_has_an_id_of_its_own() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let (first, second) = (driver.connect(), driver.connect());
    let (first, second) = (driver.ask(first, "CLIENT ID"), driver.ask(second, "CLIENT ID"));
    assert_ne!(first, second);
    let id: u64 = first.trim_start_matches(':').trim().parse().unwrap();
    assert!(id < 1 << 53, "clients read it as a double");
}

#[test]
fn auth_answers_as_a_server_without_password() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let error = "-ERR AUTH <password> called without any password configured for the default \
                     user. Are you sure your configuration is correct? ";
        assert_eq!(driver.ask(client, "AUTH secret"), error);
        assert_eq!(driver.ask(client, "AUTH default secret"), "+OK ");
        assert!(driver.ask(client, "AUTH someone secret").starts_with("-WRONGPASS"));
    });
}

#[test]
fn quit_in_a_pipeline_is_the_last_command_that_counts() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        let mut pipeline = encode("GET a");
        pipeline.extend(encode("QUIT"));
        pipeline.extend(encode("SET a 2"));
        driver.send(client, pipeline);
        assert!(!driver.is_closed(client), "it is still owed replies");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "$1 1 +OK ");
        assert!(driver.is_closed(client));
        assert_eq!(driver.cluster.value("a").unwrap(), "1");
        assert_eq!(driver.proxy.sessions(), 0);
    });
}

#[test]
fn a_protocol_error_is_told_after_the_replies_before_it_and_closes_only_that_client() {
    for (bytes, error) in [
        ("*1\r\nhello\r\n", "-ERR Protocol error: expected '$', got 'h' "),
        ("*1\r\n$-1\r\n", "-ERR Protocol error: invalid bulk length "),
        ("*1\r\n$999999999999\r\n", "-ERR Protocol error: invalid bulk length "),
        ("*99999999999\r\n", "-ERR Protocol error: invalid multibulk length "),
        ("set \"unbalanced\r\n", "-ERR Protocol error: unbalanced quotes in request "),
    ] {
        each_chunking(|mut driver| {
            let rude = driver.connect();
            let other = driver.connect();
            driver.ask(other, "SET a 1");
            driver.send(rude, [&encode("GET a")[..], bytes.as_bytes(), b"PING\r\n"].concat());
            assert_eq!(driver.received(rude), format!("$1 1 {error}"));
            // One that has announced too much is given time to send it.
            driver.wait(QUIET * 2);
            assert!(driver.is_closed(rude));
            assert_eq!(driver.ask(other, "GET a"), "$1 1 ");
        });
    }
}

#[test]
fn a_web_browser_is_closed_as_redis_would_close_it_and_no_node_hears_of_it() {
    let arity = "-ERR wrong number of arguments for 'get' command ";
    for (lines, before) in [
        ("POST / HTTP/1.1\r\n", ""),
        ("Host: localhost\r\n", ""),
        ("post\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n", arity),
    ] {
        each_chunking(|mut driver| {
            let browser = driver.connect();
            driver.send(browser, [&encode("PING")[..], lines.as_bytes(), b"PING\r\n"].concat());
            // As Redis, which drops the replies to what came with it.
            let replies = match driver.chunking {
                support::Chunking::Whole => String::new(),
                support::Chunking::ByteByByte => format!("+PONG {before}"),
            };
            assert_eq!(driver.received(browser), replies, "{lines}");
            assert!(driver.is_closed(browser), "{lines}");
            assert_eq!(driver.cluster.executed, [""; 0], "{lines}");
        });
    }
}

#[test]
fn a_web_browser_is_warned_of_once_a_minute() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let browse = |driver: &mut Driver| {
        let browser = driver.connect();
        driver.send(browser, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
        driver.log.iter().filter(|line| line.contains("speaks HTTP")).count()
    };
    assert_eq!([(); 3].map(|()| browse(&mut driver)), [1; 3]);
    driver.wait(Duration::from_secs(60));
    assert_eq!([(); 3].map(|()| browse(&mut driver)), [2; 3]);
}

#[test]
fn what_comes_later_is_refused_with_a_code_and_a_reason() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for command in ["ACL LIST", "MONITOR", "SHUTDOWN"] {
            let reply = driver.ask(client, command);
            assert!(reply.starts_with("-ERR "), "{command}: {reply}");
            assert!(reply.contains("proxy") || reply.contains("node"), "{command}: {reply}");
        }
        assert_eq!(driver.cluster.executed, [""; 0]);
    });
}

#[test]
fn a_command_nobody_knows_is_a_write_for_the_owner_of_its_first_argument() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SOME.MODULE a b");
        let owner = driver.cluster.owner("a");
        assert_eq!(driver.cluster.executed, [format!("{owner}: SOME.MODULE a b")]);
    });
}

#[test]
fn hello_is_told_when_no_node_answers() {
    each_chunking(|mut driver| {
        driver.cluster.set_all_healths(Health::Refusing);
        let client = driver.connect();
        driver.command(client, "HELLO 3");
        driver.wait(OP_TIMEOUT);
        assert!(driver.received(client).starts_with("-CLUSTERDOWN no node of cluster 'main'"));
    });
}

/// A driver whose clients have to say who they are.
fn guarded(chunking: support::Chunking) -> Driver {
    use slotmesh_engine::config::{Secret, User};
    Driver::with(chunking, |config| {
        let user = |name: &str, password: &[u8]| User {
            name: name.to_owned(),
            passwords: vec![Secret::new(password)],
        };
        config.users = vec![user("default", b"sesame"), user("alice", b"wonder")];
    })
}

#[test]
fn a_client_that_has_not_said_who_it_is_can_do_nothing_else() {
    for chunking in [support::Chunking::Whole, support::Chunking::ByteByByte] {
        let mut driver = guarded(chunking);
        let client = driver.connect();
        for command in ["GET a", "PING", "CLIENT ID", "SUBSCRIBE x", "MGET a b"] {
            assert_eq!(driver.ask(client, command), "-NOAUTH Authentication required. ");
        }
        let hello = driver.ask(client, "HELLO 3");
        assert!(hello.starts_with("-NOAUTH HELLO must be called with the client"), "{hello}");
        assert!(driver.ask(client, "AUTH wrong").starts_with("-WRONGPASS"));
        assert!(driver.ask(client, "AUTH alice sesame").starts_with("-WRONGPASS"));
        assert_eq!(driver.ask(client, "AUTH sesame"), "+OK ");
        assert_eq!(driver.ask(client, "GET a"), "$-1 ");
        assert_eq!(driver.ask(client, "RESET"), "+RESET ");
        assert_eq!(driver.ask(client, "GET a"), "-NOAUTH Authentication required. ");
        let hello = driver.ask(client, "HELLO 3 AUTH alice wonder SETNAME me");
        assert!(hello.starts_with("%7"), "{hello}");
        assert_eq!(driver.ask(client, "GET a"), "_ ");
    }
}

#[test]
fn a_client_that_has_not_said_who_it_is_may_send_little() {
    let mut driver = guarded(support::Chunking::Whole);
    let client = driver.connect();
    driver.send(client, b"*11\r\n");
    assert_eq!(driver.received(client), "-ERR Protocol error: invalid multibulk length ");
    driver.wait(QUIET);
    assert!(driver.is_closed(client));
    let client = driver.connect();
    driver.send(client, b"*2\r\n$4\r\nAUTH\r\n$16385\r\n");
    assert_eq!(driver.received(client), "-ERR Protocol error: invalid bulk length ");
    driver.wait(QUIET);
    assert!(driver.is_closed(client));
}

#[test]
fn attributes_before_a_reply_reach_the_client_as_they_came() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "HELLO 3");
        driver.ask(client, "GET k");
        let node = driver.cluster.owner("k");
        driver.cluster.set_health(&node, Health::Silent);
        driver.command(client, "GET k");
        driver.inject(&node, b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n");
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "|1 +ttl :3600 $1 v ");
    });
}
