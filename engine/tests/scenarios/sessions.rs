//! What CLIENT tells of clients and does to them, and CLUSTER for clients that want a cluster.

use std::time::Duration;

use crate::support::{self, Chunking, Driver, Health, each_chunking, encode};

/// The fields of a line of CLIENT LIST.
fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let mut fields = line.split(' ').filter_map(|field| field.split_once('='));
    fields.find(|(field, _)| *field == name).map(|(_, value)| value).expect(name)
}

fn id(driver: &mut Driver, client: support::ClientId) -> String {
    driver.ask(client, "CLIENT ID").trim_start_matches(':').trim().to_owned()
}

#[test]
fn clients_are_listed_with_what_is_known_of_them() {
    each_chunking(|mut driver| {
        let (first, second) = (driver.connect(), driver.connect());
        driver.ask(first, "CLIENT SETNAME worker");
        driver.locate(first, "10.0.0.1:5000", "10.0.0.9:6379");
        driver.wait(Duration::from_secs(5));
        let list = driver.ask(second, "CLIENT LIST");
        let lines: Vec<_> = list.split('\n').filter(|line| line.contains("addr=")).collect();
        assert_eq!(lines.len(), 2, "{list}");
        assert_eq!(field(lines[0], "addr"), "10.0.0.1:5000");
        assert_eq!(field(lines[0], "laddr"), "10.0.0.9:6379");
        assert_eq!((field(lines[0], "name"), field(lines[0], "age")), ("worker", "5"));
        assert_eq!(field(lines[0], "cmd"), "client|setname");
        assert_eq!((field(lines[1], "idle"), field(lines[1], "cmd")), ("0", "client|list"));
        assert_eq!(field(lines[1], "user"), "default");
        let number = id(&mut driver, first);
        let one = driver.ask(second, &format!("CLIENT LIST ID {number}"));
        assert_eq!((field(&one, "name"), one.matches("addr=").count()), ("worker", 2));
        let info = driver.ask(first, "CLIENT INFO");
        assert_eq!(field(&info, "cmd"), "client|info");
        assert_eq!(driver.ask(first, "CLIENT LIST TYPE pubsub"), "$0  ");
        assert_eq!(driver.ask(first, "CLIENT LIST TYPE x"), "-ERR Unknown client type 'x' ");
        assert_eq!(driver.ask(first, "CLIENT LIST ID x"), "-ERR Invalid client ID ");
        assert_eq!(driver.ask(first, "CLIENT LIST x"), "-ERR syntax error ");
        assert_eq!(driver.ask(first, "CLIENT GETREDIR"), ":-1 ");
        assert_eq!(driver.ask(first, "CLIENT NO-EVICT on"), "+OK ");
        assert_eq!(driver.ask(first, "CLIENT NO-EVICT x"), "-ERR syntax error ");
        assert_eq!(field(&driver.ask(first, "CLIENT INFO"), "flags"), "e");
        driver.ask(first, "CLIENT NO-EVICT off");
        assert_eq!(field(&driver.ask(first, "CLIENT INFO"), "flags"), "N");
        assert_eq!(driver.ask(first, "ACL WHOAMI"), "$7 default ");
        driver.ask(first, "HELLO 3");
        let tracking = "%3 $5 flags ~1 $3 off $8 redirect :-1 $8 prefixes *0 ";
        assert_eq!(driver.ask(first, "CLIENT TRACKINGINFO"), tracking);
        assert!(driver.ask(first, "CLIENT INFO").starts_with('='), "a verbatim string");
    });
}

#[test]
fn a_killed_client_is_closed_whatever_it_is_owed() {
    each_chunking(|mut driver| {
        let (killer, victim) = (driver.connect(), driver.connect());
        driver.locate(victim, "10.0.0.1:5000", "10.0.0.9:6379");
        driver.ask(victim, "SET a 1");
        let owner = driver.cluster.owner("a");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(victim, "GET a");
        let number = id(&mut driver, killer);
        assert_eq!(driver.ask(killer, &format!("CLIENT KILL ID {number}")), ":0 ", "skips itself");
        assert_eq!(driver.ask(killer, "CLIENT KILL 10.0.0.1:1"), "-ERR No such client ");
        assert_eq!(driver.ask(killer, "CLIENT KILL ADDR 10.0.0.1:5000"), ":1 ");
        assert!(driver.is_closed(victim));
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        assert_eq!(driver.received(victim), "");
        assert_eq!((driver.proxy.sessions(), driver.proxy.requests()), (1, 0));
        for (command, error) in [
            ("CLIENT KILL ID 0", "-ERR client-id should be greater than 0 "),
            ("CLIENT KILL TYPE x", "-ERR Unknown client type 'x' "),
            ("CLIENT KILL USER x", "-ERR No such user 'x' "),
            ("CLIENT KILL ID 1 SKIPME", "-ERR syntax error "),
            ("CLIENT KILL WHAT 1", "-ERR syntax error "),
        ] {
            assert_eq!(driver.ask(killer, command), error);
        }
        assert_eq!(driver.ask(killer, &format!("CLIENT KILL ID {number} SKIPME no")), ":1 ");
        assert!(driver.is_closed(killer));
    });
}

#[test]
fn a_client_that_wants_no_replies_gets_none() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let commands = ["CLIENT REPLY SKIP", "SET a 1", "GET a"];
        driver.send(client, commands.map(encode).concat());
        assert_eq!(driver.received(client), "$1 1 ");
        for command in ["CLIENT REPLY OFF", "SET a 2", "GET a", "MGET a b c", "PING", "NOSUCH"] {
            assert_eq!(driver.ask(client, command), "", "{command}");
        }
        assert_eq!(driver.ask(client, "CLIENT REPLY SKIP"), "");
        assert_eq!(driver.ask(client, "DBSIZE"), "");
        assert_eq!(driver.ask(client, "CLIENT REPLY ON"), "+OK ");
        assert_eq!(driver.ask(client, "GET a"), "$1 2 ");
        assert_eq!(driver.ask(client, "CLIENT REPLY x"), "-ERR syntax error ");
        assert_eq!(driver.proxy.requests(), 0);
    });
}

#[test]
fn without_emulation_cluster_is_what_it_is_on_a_standalone_server() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let disabled = "-ERR This instance has cluster support disabled ";
        for command in ["CLUSTER INFO", "CLUSTER SLOTS", "CLUSTER HELP", "READONLY", "ASKING"] {
            assert_eq!(driver.ask(client, command), disabled, "{command}");
        }
        assert_eq!(
            driver.ask(client, "CLUSTER NOSUCH"),
            "-ERR unknown subcommand 'NOSUCH'. Try CLUSTER HELP. "
        );
        assert_eq!(
            driver.ask(client, "CLUSTER KEYSLOT"),
            "-ERR wrong number of arguments for 'cluster|keyslot' command "
        );
    });
}

#[test]
fn with_emulation_the_proxy_is_a_cluster_of_one_node() {
    for chunking in [Chunking::Whole, Chunking::ByteByByte] {
        let mut driver = Driver::with(chunking, |config| config.cluster_emulation = true);
        let client = driver.connect();
        assert!(driver.ask(client, "CLUSTER SLOTS").starts_with("-ERR the proxy does not know"));
        driver.locate(client, "10.0.0.1:5000", "10.0.0.9:6379");
        let myid = driver.ask(client, "CLUSTER MYID");
        let myid = myid.trim_start_matches("$40 ").trim();
        let slots = format!("*1 *3 :0 :16383 *4 $8 10.0.0.9 :6379 $40 {myid} *0 ");
        assert_eq!(driver.ask(client, "CLUSTER SLOTS"), slots);
        let nodes = driver.ask(client, "CLUSTER NODES");
        let line = format!("{myid} 10.0.0.9:6379@0 myself,master - 0 0 1 connected 0-16383\n");
        assert_eq!(nodes, format!("${} {line} ", line.len()));
        assert!(driver.ask(client, "CLUSTER SHARDS").contains("$6 health $6 online $4 port :6379"));
        assert!(driver.ask(client, "CLUSTER INFO").contains("cluster_state:ok"));
        assert_eq!(driver.ask(client, "CLUSTER KEYSLOT foo"), ":12182 ");
        assert_eq!(driver.ask(client, &format!("CLUSTER REPLICAS {myid}")), "*0 ");
        assert_eq!(driver.ask(client, "CLUSTER REPLICAS x"), "-ERR Unknown node x ");
        assert_eq!(driver.ask(client, "READONLY"), "+OK ");
        assert!(driver.ask(client, "HELLO 2").contains("$4 mode $7 cluster"));
        assert!(driver.ask(client, "CLUSTER MEET a 1").contains("this proxy hides the cluster"));
        assert_eq!(driver.ask(client, "CLUSTER COUNTKEYSINSLOT 16384"), "-ERR Invalid slot ");
    }
}
