//! Several clusters, and mirrors.

use std::time::Duration;

use crate::support::{self, Chunking, Driver, Health, OP_TIMEOUT, another_cluster, encode};
use slotmesh_engine::config::{
    Attribute, ClusterKind, Credentials, Fraction, Mirror, Route, Secret,
};
use slotmesh_engine::{ClusterId, Config};

/// A configuration with a standalone server named `other` beside the cluster.
fn with_other(config: &mut Config) -> ClusterId {
    let other = another_cluster(config, "other", "other-0:1");
    config.clusters[other.position()].kind = ClusterKind::Standalone;
    other
}

/// A driver whose mirror is the standalone server.
fn mirrored(change: impl FnOnce(&mut Mirror)) -> Driver {
    Driver::with(Chunking::Whole, |config| {
        let cluster = with_other(config);
        let fraction = Fraction::ALL;
        let mut mirror =
            Mirror { cluster, exclude_read_commands: true, fraction, draw_per_command: false };
        change(&mut mirror);
        config.routes.catch_all.as_mut().unwrap().mirrors.push(mirror);
    })
}

#[test]
fn keys_go_to_the_cluster_of_their_prefix() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        let cluster = with_other(config);
        let route = config.routes.catch_all.clone().unwrap();
        config.routes.prefixes.push(Route {
            prefix: b"o:".to_vec(),
            remove_prefix: true,
            cluster,
            ..route
        });
    });
    let client = driver.connect();
    assert_eq!(driver.ask(client, "MSET a 1 o:b 2 o:c 3 d 4"), "+OK ");
    assert_eq!(driver.ask(client, "MGET o:c d a o:b"), "*4 $1 3 $1 4 $1 1 $1 2 ");
    assert_eq!(driver.other.executed, ["other-0:1: MSET b 2 c 3", "other-0:1: MGET c b"]);
    assert_eq!(driver.ask(client, "EXISTS o:b o:c a"), ":3 ");
    assert!(driver.ask(client, "RENAME a o:b").starts_with("-CROSSSLOT"));
    assert!(driver.ask(client, "RENAME o:b o:c").starts_with("-ERR the fake node"), "it was sent");
}

#[test]
fn every_write_is_copied_to_the_mirror_and_no_read() {
    let mut driver = mirrored(|_| {});
    let client = driver.connect();
    let commands = ["SET a 1", "GET a", "MSET a 2 b 3", "APPEND b 4", "MGET a b", "DEL a b c"];
    for command in commands {
        driver.ask(client, command);
    }
    let copies = ["SET a 1", "MSET a 2 b 3", "APPEND b 4", "DEL a b c"];
    assert_eq!(driver.other.executed, copies.map(|copy| format!("other-0:1: {copy}")));
    assert_eq!(driver.proxy.stats().mirror_sent, 4);
    assert_eq!(driver.proxy.requests(), 0);
}

#[test]
fn reads_are_copied_too_unless_they_are_excluded() {
    let mut driver = mirrored(|mirror| mirror.exclude_read_commands = false);
    let client = driver.connect();
    driver.ask(client, "GET a");
    assert_eq!(driver.other.executed, ["other-0:1: GET a"]);
}

#[test]
fn a_sample_holds_all_writes_of_its_keys_and_none_of_others() {
    let mut driver = mirrored(|mirror| {
        mirror.fraction = Fraction { numerator: 50, denominator: 100 };
    });
    let client = driver.connect();
    for round in 0..3 {
        for key in 0..100 {
            driver.ask(client, &format!("APPEND key:{key} {round}"));
        }
    }
    let copied = (0..100).filter(|key| driver.other.value(&format!("key:{key}")).is_some());
    let copied: Vec<_> = copied.collect();
    assert!((30..70).contains(&copied.len()), "{} keys", copied.len());
    for key in copied {
        assert_eq!(driver.other.value(&format!("key:{key}")).unwrap(), "012");
    }
}

/// A driver with a route for each of the prefixes `o:` and none, to the same cluster, each with a
/// mirror of its own: the catch-all's is `other-0:1`, that of `o:` is `other-1:1`.
fn mirrored_by_route(change: impl FnOnce(&mut Mirror)) -> Driver {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        let fraction = Fraction::ALL;
        let mirror = |cluster| Mirror {
            cluster,
            exclude_read_commands: true,
            fraction,
            draw_per_command: false,
        };
        let first = with_other(config);
        let second = another_cluster(config, "second", "other-1:1");
        config.clusters[second.position()].kind = ClusterKind::Standalone;
        let catch_all = config.routes.catch_all.as_mut().unwrap();
        catch_all.mirrors = vec![mirror(first)];
        change(&mut catch_all.mirrors[0]);
        let route = Route {
            prefix: b"o:".to_vec(),
            remove_prefix: true,
            mirrors: vec![mirror(second)],
            ..catch_all.clone()
        };
        config.routes.prefixes.push(route);
    });
    driver.other.add_node("other-1:1");
    driver
}

#[test]
fn each_key_of_a_command_is_copied_to_the_mirrors_of_its_own_route() {
    let mut driver = mirrored_by_route(|_| {});
    let client = driver.connect();
    driver.ask(client, "MSET a 1 o:b 2 c 3 o:d 4");
    driver.ask(client, "DEL o:b");
    let copies = ["other-0:1: MSET a 1 c 3", "other-1:1: MSET b 2 d 4", "other-1:1: DEL b"];
    assert_eq!(driver.other.executed, copies);
    assert_eq!(driver.proxy.stats().mirror_sent, 3);
}

#[test]
fn a_sample_holds_the_same_keys_whether_they_are_written_alone_or_together() {
    let mut driver = mirrored(|mirror| {
        mirror.fraction = Fraction { numerator: 50, denominator: 100 };
    });
    let client = driver.connect();
    let keys: Vec<_> = (0..100).map(|number| format!("key:{number}")).collect();
    for key in &keys {
        driver.ask(client, &format!("SET {key} alone"));
    }
    for keys in keys.chunks(10) {
        let words: Vec<_> = keys.iter().map(|key| format!("{key} together")).collect();
        driver.ask(client, &format!("MSET {}", words.join(" ")));
    }
    let values: Vec<_> = keys.iter().filter_map(|key| driver.other.value(key)).collect();
    assert!((30..70).contains(&values.len()), "{} keys", values.len());
    assert!(values.iter().all(|value| value == "together"), "{values:?}");
    driver.ask(client, &format!("DEL {}", keys.join(" ")));
    assert!(keys.iter().all(|key| driver.other.value(key).is_none()));
}

#[test]
fn messages_are_copied_to_the_mirrors_of_what_has_no_key() {
    let mut driver = mirrored(|_| {});
    let [listener, publisher] = [(); 2].map(|()| driver.connect());
    driver.ask(listener, "SUBSCRIBE news");
    assert_eq!(driver.ask(publisher, "PUBLISH news hello"), ":1 ");
    assert_eq!(driver.ask(publisher, "SPUBLISH shard hello"), ":0 ");
    for words in ["MULTI", "PUBLISH news again", "EXEC"] {
        driver.ask(publisher, words);
    }
    let copies = ["PUBLISH news hello", "SPUBLISH shard hello", "PUBLISH news again"];
    let copied = driver.other.executed.iter().filter(|line| line.contains("PUBLISH"));
    assert!(copied.eq(copies.map(|copy| format!("other-0:1: {copy}")).iter()));
    assert_eq!(driver.proxy.stats().mirror_sent, 3);
}

#[test]
fn a_sample_holds_all_messages_of_its_channels_and_none_of_others() {
    let mut driver = mirrored(|mirror| {
        mirror.fraction = Fraction { numerator: 50, denominator: 100 };
    });
    let client = driver.connect();
    for round in 0..3 {
        for channel in 0..100 {
            driver.ask(client, &format!("PUBLISH channel:{channel} {round}"));
        }
    }
    let copies = |channel: usize| {
        let start = format!("other-0:1: PUBLISH channel:{channel} ");
        driver.other.executed.iter().filter(|line| line.starts_with(&start)).count()
    };
    let counts: Vec<_> = (0..100).map(copies).collect();
    assert!(counts.iter().all(|count| [0, 3].contains(count)), "{counts:?}");
    assert!((30..70).contains(&counts.iter().filter(|count| **count == 3).count()));
}

#[test]
fn a_mirror_that_stalls_dies_or_lies_changes_nothing_for_clients() {
    let mut driver = mirrored(|_| {});
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    for health in [Health::Silent, Health::Refusing, Health::Unreachable] {
        driver.other.set_health("other-0:1", health);
        driver.cut("other-0:1");
        for _ in 0..100 {
            assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
        }
        driver.wait(OP_TIMEOUT * 4);
        assert_eq!(driver.proxy.requests(), 0, "copies are given up in time");
    }
    assert_eq!(driver.received(client), "");
    driver.other.set_health("other-0:1", Health::Well);
    driver.other.errors.insert("other-0:1".to_owned(), "OOM no room".to_owned());
    driver.wait(Duration::from_secs(2));
    for _ in 0..10 {
        assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
    }
    assert_eq!(driver.proxy.stats().mirror_error, 10);
    assert!(driver.proxy.stats().mirror_timeout >= 200);
    driver.inject("other-0:1", b"*3\r\n$1000000\r\n+garbage\r\n");
    assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
}

#[test]
fn what_waits_for_a_mirror_is_bounded_and_the_rest_is_dropped_and_counted() {
    let mut driver = mirrored(|_| {});
    let client = driver.connect();
    driver.ask(client, "SET a 1");
    driver.other.set_health("other-0:1", Health::Silent);
    let value = "x".repeat(1024 * 1024);
    for _ in 0..40 {
        driver.send(client, encode(&format!("SET a {value}")));
    }
    assert_eq!(driver.received(client), "+OK ".repeat(40));
    let stats = driver.proxy.stats();
    assert!((14..=16).contains(&(stats.mirror_sent - 1)), "{}", stats.mirror_sent);
    assert_eq!(stats.mirror_sent - 1 + stats.mirror_dropped_overflow, 40);
    // When their time is up they still lie in the connection, so nothing more is sent there.
    driver.wait(OP_TIMEOUT);
    driver.send(client, encode(&format!("SET a {value}")));
    assert_eq!(driver.proxy.stats().mirror_dropped_overflow, stats.mirror_dropped_overflow + 1);
}

#[test]
fn the_mirror_may_be_a_cluster_that_splits_what_is_copied() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        let cluster = another_cluster(config, "other", "other-0:1");
        let fraction = Fraction::ALL;
        let mirror =
            Mirror { cluster, exclude_read_commands: true, fraction, draw_per_command: false };
        config.routes.catch_all.as_mut().unwrap().mirrors.push(mirror);
    });
    driver.other = support::FakeCluster::named("other", 3);
    let client = driver.connect();
    driver.ask(client, "MSET a 1 b 2 c 3");
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        assert_eq!(driver.other.value(key).unwrap(), value);
    }
}

#[test]
fn the_proxy_logs_in_where_it_has_to() {
    let password = |secret: &str| Credentials {
        address: None,
        username: None,
        password: Secret::new(secret.as_bytes()),
    };
    let mut driver = Driver::with(Chunking::Whole, |config| {
        config.clusters[0].credentials = vec![password("sesame")];
    });
    driver.cluster.password = Some("sesame".to_owned());
    let client = driver.connect();
    assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
    assert!(driver.ask(client, "HELLO 3").starts_with("%7"));
    assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
    driver.cluster.password = Some("changed".to_owned());
    for node in ["node-0:1", "node-1:1", "node-2:1"] {
        driver.cut(node);
    }
    driver.command(client, "GET a");
    driver.wait(OP_TIMEOUT);
    let error = driver.received(client);
    assert!(error.starts_with("-NOAUTH node-"), "{error}");
    assert!(error.contains("WRONGPASS invalid password"), "{error}");
    assert!(!format!("{error} {:?}", driver.log).contains("sesame"));
}

#[test]
fn keys_are_made_of_what_the_host_knows_of_each_connection() {
    let mut driver = Driver::with(Chunking::Whole, |config| {
        *config = Config::from_json(
            br#"{"settings": {"op_timeout": "2s"},
                "prefix_routes": {"catch_all_route": {
                    "cluster": "main",
                    "key_formatter":
                        "%FILTER_STATE(tenant:PLAIN)%:%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%:%KEY%"}},
                "clusters": {"main": {"seeds": ["node-0:1"]}}}"#,
        )
        .unwrap();
    });
    let wanted = [Attribute::FilterState("tenant".to_owned()), Attribute::RemoteAddress];
    assert_eq!(driver.proxy.attributes(), wanted);
    let [known, long, unknown] = [(); 3].map(|()| driver.connect());
    let address = b"10.0.0.1:4711".to_vec();
    driver.introduce(known, vec![b"acme".to_vec(), address.clone()]);
    driver.introduce(long, vec![vec![b'x'; 5000], address]);
    for client in [known, long, unknown] {
        driver.ask(client, "SET a 1");
    }
    assert_eq!(driver.ask(known, "MGET a b"), "*2 $1 1 $-1 ");
    assert_eq!(driver.cluster.value("acme:10.0.0.1:a").unwrap(), "1");
    for (words, reply) in [("MULTI", "+OK "), ("SET b 2", "+QUEUED "), ("EXEC", "*1 +OK ")] {
        assert_eq!(driver.ask(known, words), reply, "{words}");
    }
    assert_eq!(driver.cluster.value("acme:10.0.0.1:b").unwrap(), "2");
    assert_eq!(driver.cluster.value("::a").unwrap(), "1", "what is not known is left out");
    let bounded = format!("{}:10.0.0.1:a", "x".repeat(1024));
    assert_eq!(driver.cluster.value(&bounded).unwrap(), "1");
}
