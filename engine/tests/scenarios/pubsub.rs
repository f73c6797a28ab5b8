//! Clients that publish and clients that listen.

use std::time::Duration;

use slotmesh_engine::Config;

use crate::support::{
    self, ClientId, Driver, Health, OP_TIMEOUT, each_chunking, each_chunking_with,
};

/// How a confirmation or a message looks in RESP2.
fn array(words: &str) -> String {
    frame('*', words)
}

/// The same in RESP3.
fn push(words: &str) -> String {
    frame('>', words)
}

fn frame(tag: char, words: &str) -> String {
    let words: Vec<_> = words.split(' ').collect();
    let element = |word: &&str| match word.starts_with(':') {
        true => format!("{word} "),
        false => format!("${} {word} ", word.len()),
    };
    format!("{tag}{} {}", words.len(), words.iter().map(element).collect::<String>())
}

/// A client that speaks RESP3.
fn connect_resp3(driver: &mut Driver) -> ClientId {
    let client = driver.connect();
    assert!(driver.ask(client, "HELLO 3").starts_with("%7 "));
    client
}

/// How often a node was told these words.
fn told(driver: &Driver, words: &str) -> usize {
    driver.cluster.executed.iter().filter(|line| line.ends_with(&format!(": {words}"))).count()
}

/// The node at which a topic is subscribed.
fn node_of(driver: &Driver, words: &str) -> String {
    let line = driver.cluster.executed.iter().rfind(|line| line.ends_with(&format!(": {words}")));
    line.unwrap().strip_suffix(&format!(": {words}")).unwrap().to_owned()
}

#[test]
fn what_is_published_reaches_all_that_are_subscribed() {
    each_chunking(|mut driver| {
        let [one, two, other, publisher] = [(); 4].map(|()| driver.connect());
        assert_eq!(driver.ask(one, "SUBSCRIBE news"), array("subscribe news :1"));
        assert_eq!(driver.ask(two, "PSUBSCRIBE n*"), array("psubscribe n* :1"));
        assert_eq!(driver.ask(other, "SUBSCRIBE sport"), array("subscribe sport :1"));
        assert_eq!(driver.ask(publisher, "PUBLISH news hello"), ":2 ");
        assert_eq!(driver.received(one), array("message news hello"));
        assert_eq!(driver.received(two), array("pmessage n* news hello"));
        assert_eq!(driver.received(other), "");
    });
}

#[test]
fn a_resp3_client_gets_pushes_and_may_do_anything_else() {
    each_chunking(|mut driver| {
        let client = connect_resp3(&mut driver);
        assert_eq!(
            driver.ask(client, "SUBSCRIBE a b"),
            push("subscribe a :1") + &push("subscribe b :2")
        );
        assert_eq!(driver.ask(client, "PSUBSCRIBE x*"), push("psubscribe x* :3"));
        assert_eq!(driver.ask(client, "SSUBSCRIBE s"), push("ssubscribe s :1"));
        assert_eq!(driver.ask(client, "SET k v"), "+OK ");
        assert_eq!(driver.ask(client, "PING"), "+PONG ");
        let received = driver.ask(client, "PUBLISH b m");
        assert!(received.contains(":1 ") && received.contains(&push("message b m")), "{received}");
        assert_eq!(driver.ask(client, "UNSUBSCRIBE a b c").matches(":1 ").count(), 2);
        assert_eq!(driver.ask(client, "PUNSUBSCRIBE"), push("punsubscribe x* :0"));
        assert_eq!(driver.ask(client, "UNSUBSCRIBE"), ">3 $11 unsubscribe _ :0 ");
        assert_eq!(driver.ask(client, "SUNSUBSCRIBE"), push("sunsubscribe s :0"));
    });
}

#[test]
fn a_resp2_client_that_is_subscribed_may_do_little_else() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "UNSUBSCRIBE"), "*3 $11 unsubscribe $-1 :0 ");
        driver.ask(client, "SUBSCRIBE a");
        let allowed = "only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in \
                       this context";
        for (words, name) in
            [("GET k", "get"), ("CONFIG GET x", "config|get"), ("HELLO 3", "hello"), ("MY k", "my")]
        {
            let refusal = format!("-ERR Can't execute '{name}': {allowed} ");
            assert_eq!(driver.ask(client, words), refusal);
        }
        assert_eq!(driver.ask(client, "PING"), "*2 $4 pong $0  ");
        assert_eq!(driver.ask(client, "PING x"), "*2 $4 pong $1 x ");
        let arity = "-ERR wrong number of arguments for 'ping' command ";
        assert_eq!(driver.ask(client, "PING x y"), arity);
        assert_eq!(driver.ask(client, "SSUBSCRIBE s"), array("ssubscribe s :1"));
        assert_eq!(driver.ask(client, "UNSUBSCRIBE"), array("unsubscribe a :0"));
        assert!(driver.ask(client, "GET k").starts_with("-ERR Can't execute 'get'"));
        assert_eq!(driver.ask(client, "SUNSUBSCRIBE s"), array("sunsubscribe s :0"));
        assert_eq!(driver.ask(client, "GET k"), "$-1 ");
        assert_eq!(driver.ask(client, "PING"), "+PONG ");
    });
}

#[test]
fn all_clients_share_one_subscription_at_a_node() {
    each_chunking(|mut driver| {
        let clients: Vec<_> = (0..50).map(|_| driver.connect()).collect();
        for client in &clients {
            assert_eq!(driver.ask(*client, "SUBSCRIBE a"), array("subscribe a :1"));
            assert_eq!(driver.ask(*client, "PSUBSCRIBE b*"), array("psubscribe b* :2"));
            assert_eq!(driver.ask(*client, "SUBSCRIBE a"), array("subscribe a :2"), "again");
        }
        assert_eq!((told(&driver, "subscribe a"), told(&driver, "psubscribe b*")), (1, 1));
        let publisher = driver.connect();
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":50 ");
        for client in &clients {
            assert_eq!(driver.received(*client), array("message a m"));
        }
        // The last one to leave ends it.
        for client in &clients {
            assert_eq!(told(&driver, "unsubscribe a"), 0);
            driver.ask(*client, "UNSUBSCRIBE a");
        }
        assert_eq!(told(&driver, "unsubscribe a"), 1);
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":0 ");
        assert_eq!(driver.ask(publisher, "PUBLISH bb m"), ":50 ");
    });
}

#[test]
fn pubsub_tells_of_clients_rather_than_of_the_proxy_s_own_subscriptions() {
    each_chunking(|mut driver| {
        let clients = [(); 3].map(|()| driver.connect());
        let asking = driver.connect();
        assert_eq!(driver.ask(asking, "PUBSUB NUMSUB a"), "*2 $1 a :0 ");
        for client in clients {
            driver.ask(client, "SUBSCRIBE a");
            driver.ask(client, "SSUBSCRIBE s1 s2 s3");
            driver.ask(client, "PSUBSCRIBE a* b*");
        }
        driver.ask(clients[0], "SUBSCRIBE b");
        assert_eq!(driver.ask(asking, "PUBSUB CHANNELS"), "*2 $1 a $1 b ");
        assert_eq!(
            driver.ask(asking, "PUBSUB NUMSUB a x b a"),
            "*8 $1 a :3 $1 x :0 $1 b :1 $1 a :3 "
        );
        assert_eq!(driver.ask(asking, "PUBSUB NUMSUB"), "*0 ");
        assert_eq!(driver.ask(asking, "PUBSUB NUMPAT"), ":2 ");
        assert_eq!(driver.ask(asking, "PUBSUB SHARDCHANNELS"), "*3 $2 s1 $2 s2 $2 s3 ");
        assert_eq!(driver.ask(asking, "PUBSUB SHARDNUMSUB s1 s3"), "*4 $2 s1 :3 $2 s3 :3 ");
        driver.ask(clients[0], "UNSUBSCRIBE");
        assert_eq!(driver.ask(asking, "PUBSUB CHANNELS"), "*1 $1 a ");
        assert_eq!(driver.ask(asking, "PUBSUB NUMSUB a b"), "*4 $1 a :2 $1 b :0 ");
    });
}

#[test]
fn pubsub_counts_right_while_a_topic_changes_its_node() {
    each_chunking(|mut driver| {
        let [client, asking] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "SUBSCRIBE a");
        driver.ask(client, "PSUBSCRIBE a*");
        let home = node_of(&driver, "subscribe a");
        driver.cluster.set_health(&home, Health::Silent);
        driver.cut(&home);
        driver.command(asking, "PUBSUB NUMSUB a");
        driver.command(asking, "PUBSUB NUMPAT");
        driver.cluster.set_health(&home, Health::Well);
        driver.wait(Duration::from_millis(100));
        assert_eq!(driver.received(asking), "*2 $1 a :1 :1 ");
    });
}

#[test]
fn a_client_is_told_that_it_is_subscribed_when_a_node_has_said_so() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "SUBSCRIBE first");
        let node = node_of(&driver, "subscribe first");
        driver.cluster.set_health(&node, Health::Silent);
        assert_eq!(driver.ask(client, "SUBSCRIBE first second third"), "");
        // Nothing behind it is answered before.
        assert_eq!(driver.ask(client, "PING"), "");
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        let confirmed =
            ["first :1", "second :2", "third :3"].map(|of| array(&format!("subscribe {of}")));
        assert_eq!(driver.received(client), confirmed.concat() + "*2 $4 pong $0  ");
        assert_eq!(driver.ask(publisher, "PUBLISH third m"), ":1 ");
        assert_eq!(driver.received(client), array("message third m"));
    });
}

#[test]
fn a_topic_that_another_client_leaves_meanwhile_is_confirmed_all_the_same() {
    each_chunking(|mut driver| {
        let [leaves, client, publisher] = [(); 3].map(|()| driver.connect());
        driver.ask(leaves, "SUBSCRIBE first");
        let node = node_of(&driver, "subscribe first");
        driver.cluster.set_health(&node, Health::Silent);
        assert_eq!(driver.ask(client, "SUBSCRIBE first second"), "");
        assert_eq!(driver.ask(leaves, "UNSUBSCRIBE"), array("unsubscribe first :0"));
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        let confirmed = array("subscribe first :1") + &array("subscribe second :2");
        assert_eq!(driver.received(client), confirmed);
        assert_eq!(driver.ask(publisher, "PUBLISH first m"), ":1 ");
        assert_eq!(driver.received(client), array("message first m"));
        driver.ask(client, "UNSUBSCRIBE");
        assert_eq!(driver.proxy.kept().subscription_bytes, 0);
    });
}

#[test]
fn a_confirmation_comes_after_the_replies_to_the_commands_before() {
    each_chunking(|mut driver| {
        let client = connect_resp3(&mut driver);
        let owner = driver.cluster.owner("k");
        driver.ask(client, "GET k");
        driver.cluster.set_health(&owner, Health::Silent);
        driver.command(client, "GET k");
        driver.command(client, "SUBSCRIBE a");
        driver.command(client, "PUBLISH a m");
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health(&owner, Health::Well);
        driver.settle();
        let received = driver.received(client);
        let rest = received.strip_prefix(&format!("_ {}", push("subscribe a :1"))).unwrap();
        let (message, count) = (push("message a m"), ":1 ");
        assert!(rest == message.clone() + count || rest == format!("{count}{message}"), "{rest}");
    });
}

#[test]
fn what_one_client_publishes_stays_in_order() {
    each_chunking(|mut driver| {
        let [listener, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(listener, "PSUBSCRIBE *");
        let mut expected = String::new();
        for number in 0..100 {
            driver.send_unsettled(
                publisher,
                support::encode(&format!("PUBLISH c{} {number}", number % 7)),
            );
            expected += &array(&format!("pmessage * c{} {number}", number % 7));
        }
        driver.settle();
        assert_eq!(driver.received(publisher), ":1 ".repeat(100));
        assert_eq!(driver.received(listener), expected);
    });
}

#[test]
fn subscriptions_outlive_the_connection_that_carried_them() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        for words in ["SUBSCRIBE a b", "PSUBSCRIBE c*", "SSUBSCRIBE s"] {
            driver.ask(client, words);
        }
        for topic in ["subscribe a", "ssubscribe s"] {
            let node = node_of(&driver, topic);
            driver.cut(&node);
        }
        driver.wait(Duration::from_millis(200));
        assert_eq!(driver.received(client), "", "the client does not notice");
        for (publish, message) in [
            ("PUBLISH a 1", "message a 1"),
            ("PUBLISH b 2", "message b 2"),
            ("PUBLISH cc 3", "pmessage c* cc 3"),
            ("SPUBLISH s 4", "smessage s 4"),
        ] {
            assert_eq!(driver.ask(publisher, publish), ":1 ");
            assert_eq!(driver.received(client), array(message));
        }
    });
}

#[test]
fn when_a_node_dies_its_channels_are_subscribed_at_another() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "SUBSCRIBE a");
        let dead = node_of(&driver, "subscribe a");
        driver.cluster.set_health(&dead, Health::Refusing);
        driver.cut(&dead);
        driver.wait(Duration::from_secs(1));
        assert_ne!(node_of(&driver, "subscribe a"), dead);
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
        assert_eq!(driver.received(client), array("message a m"));
        // New ones are confirmed as well.
        assert_eq!(driver.ask(client, "SUBSCRIBE b"), array("subscribe b :2"));
    });
}

#[test]
fn what_a_node_has_sent_before_it_was_left_is_not_heard_again_when_it_has_been_returned_to() {
    let often = |config: &mut Config| {
        config.clusters[0].refresh_rate = Duration::from_millis(100);
    };
    each_chunking_with(often, |mut driver| {
        let replica = driver.cluster.add_replica(0, "replica-0:1");
        let client = driver.connect();
        assert_eq!(driver.ask(client, "PSUBSCRIBE n*"), array("psubscribe n* :1"));
        assert_eq!(node_of(&driver, "psubscribe n*"), "node-0:1");
        driver.cluster.set_health("node-0:1", Health::Silent);
        driver.cluster.hand_over(replica);
        driver.wait(OP_TIMEOUT / 2);
        assert_eq!(node_of(&driver, "psubscribe n*"), "replica-0:1");
        driver.cluster.hand_over(0);
        driver.wait(OP_TIMEOUT / 2);
        // It is on its way since the first subscription there; the client has heard it.
        driver.inject("node-0:1", array("pmessage n* news hello").replace(' ', "\r\n").as_bytes());
        assert_eq!(driver.received(client), "");
        driver.cluster.set_health("node-0:1", Health::Well);
        driver.wait(Duration::from_millis(100));
        assert_eq!(node_of(&driver, "psubscribe n*"), "node-0:1");
        assert_eq!(driver.ask(client, "PING"), array("pong "));
        let publisher = driver.connect();
        assert_eq!(driver.ask(publisher, "PUBLISH news again"), ":1 ");
        assert_eq!(driver.received(client), array("pmessage n* news again"));
    });
}

#[test]
fn when_no_node_can_be_reached_a_subscribe_fails_in_time_and_leaves_nothing_behind() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        driver.ask(client, "SUBSCRIBE a");
        driver.cluster.set_all_healths(Health::Refusing);
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            driver.cut(node);
        }
        driver.command(client, "SUBSCRIBE a b");
        driver.wait(OP_TIMEOUT);
        let received = driver.received(client);
        assert!(received.starts_with("-TIMEOUT no reply to the command within 2s "), "{received}");
        driver.cluster.set_all_healths(Health::Well);
        driver.wait(Duration::from_secs(3));
        assert_eq!(told(&driver, "subscribe b"), 0, "nobody wants it any more");
        let publisher = driver.connect();
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
        assert_eq!(driver.received(client), array("message a m"));
    });
}

#[test]
fn a_shard_channel_follows_its_slot() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "SSUBSCRIBE s {s}t other");
        assert_eq!(node_of(&driver, "ssubscribe s"), driver.cluster.owner("s"));
        let slot = usize::from(slotmesh_engine::Slot::of(b"s").number());
        driver.cluster.move_slot("s", (driver.cluster.owners[slot] + 1) % 3);
        driver.settle();
        assert_eq!(node_of(&driver, "ssubscribe s"), driver.cluster.owner("s"));
        assert_eq!(driver.received(client), "", "the client does not notice");
        for channel in ["s", "{s}t", "other"] {
            assert_eq!(driver.ask(publisher, &format!("SPUBLISH {channel} m")), ":1 ");
            assert_eq!(driver.received(client), array(&format!("smessage {channel} m")));
        }
    });
}

#[test]
fn a_shard_channel_is_found_where_its_slot_has_moved_unheard() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "GET s");
        let slot = usize::from(slotmesh_engine::Slot::of(b"s").number());
        let to = driver.cluster.add_node("newcomer:7");
        driver.cluster.move_slot("s", to);
        assert_eq!(driver.ask(client, "SSUBSCRIBE s"), array("ssubscribe s :1"));
        assert_eq!(driver.cluster.owners[slot], to);
        assert_eq!(driver.ask(publisher, "SPUBLISH s m"), ":1 ");
        assert_eq!(driver.received(client), array("smessage s m"));
    });
}

#[test]
fn a_node_that_leaves_the_cluster_gives_its_subscriptions_away() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "SUBSCRIBE a");
        let left = node_of(&driver, "subscribe a");
        let stays = if left == "node-0:1" { 1 } else { 0 };
        driver.cluster.owners.fill(stays);
        driver.wait(Duration::from_secs(30));
        assert_eq!(driver.connections(&left), 0);
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
        assert_eq!(driver.received(client), array("message a m"));
    });
}

#[test]
fn a_subscription_that_a_node_refuses_is_refused_to_the_client() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let noperm = "NOPERM this user has no permissions to access one of the channels";
        for node in ["node-0:1", "node-1:1", "node-2:1"] {
            driver.cluster.errors.insert(node.to_owned(), noperm.to_owned());
        }
        assert_eq!(driver.ask(client, "SUBSCRIBE a b"), format!("-{noperm} "));
        driver.cluster.errors.clear();
        assert_eq!(driver.ask(client, "GET k"), "$-1 ", "it is not in subscriber mode");
        assert_eq!(driver.ask(client, "SUBSCRIBE a b").matches("subscribe").count(), 2);
        assert_eq!(driver.ask(client, "UNSUBSCRIBE a"), array("unsubscribe a :1"));
    });
}

#[test]
fn a_client_that_has_gone_is_not_subscribed() {
    each_chunking(|mut driver| {
        let [quits, closes, resets, waits, killed, publisher] = [(); 6].map(|()| driver.connect());
        for client in [quits, closes, resets] {
            driver.ask(client, "SUBSCRIBE a");
            driver.ask(client, "PSUBSCRIBE a*");
            driver.ask(client, "SSUBSCRIBE a");
        }
        driver.ask(quits, "QUIT");
        driver.disconnect(closes);
        assert_eq!(driver.ask(resets, "RESET"), "+RESET ");
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":0 ");
        assert_eq!(driver.ask(publisher, "SPUBLISH a m"), ":0 ");
        assert_eq!(driver.received(resets), "");
        assert_eq!(driver.ask(resets, "GET k"), "$-1 ");
        for verb in ["unsubscribe a", "punsubscribe a*", "sunsubscribe a"] {
            assert_eq!(told(&driver, verb), 1);
        }
        // Also one that goes, or is made to, before it has been confirmed.
        let node = node_of(&driver, "subscribe a");
        let id = driver.ask(killed, "CLIENT ID");
        driver.cluster.set_health(&node, Health::Silent);
        driver.command(waits, "SUBSCRIBE b");
        driver.disconnect(waits);
        driver.command(killed, "SUBSCRIBE c");
        assert_eq!(driver.ask(resets, &format!("CLIENT KILL ID {}", id[1..].trim())), ":1 ");
        driver.cluster.set_health(&node, Health::Well);
        driver.settle();
        assert_eq!((told(&driver, "subscribe b"), told(&driver, "unsubscribe b")), (1, 1));
        assert_eq!((told(&driver, "subscribe c"), told(&driver, "unsubscribe c")), (1, 1));
        assert_eq!(driver.proxy.requests(), 0);
        assert_eq!(driver.proxy.kept().subscription_bytes, 0);
    });
}

#[test]
fn subscriptions_are_bounded() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.limits.subscription_bytes = 2_000;
    });
    let client = driver.connect();
    driver.ask(client, "SUBSCRIBE a");
    let refusal = "-ERR this proxy's clients have too many subscriptions already ";
    assert_eq!(driver.ask(client, &format!("SUBSCRIBE {}", "x".repeat(2_000))), refusal);
    let mut accepted = 0;
    while driver.ask(client, &format!("SUBSCRIBE c{accepted}")) != refusal {
        accepted += 1;
        assert!(accepted < 100);
    }
    assert!(accepted > 3, "{accepted}");
    driver.ask(client, "UNSUBSCRIBE");
    assert_eq!(driver.ask(client, "SUBSCRIBE d"), array("subscribe d :1"));
}

#[test]
fn what_waits_on_a_connection_for_subscriptions_is_bounded() {
    let most = 4_000;
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.limits.subscription_bytes = 2_000;
        config.limits.subscriber_bytes = most;
    });
    let [stays, publisher] = [(); 2].map(|()| driver.connect());
    driver.ask(stays, "SUBSCRIBE a");
    let slow = node_of(&driver, "subscribe a");
    driver.cluster.set_health(&slow, Health::Silent);
    // Each that goes leaves a SUBSCRIBE and an UNSUBSCRIBE behind.
    let mut refusal = String::new();
    for number in 0..1_000 {
        let client = driver.connect();
        let received = driver.ask(client, &format!("SUBSCRIBE c{number} d{number}"));
        driver.disconnect(client);
        assert!(driver.proxy.kept().subscriber_bytes <= most, "{:?}", driver.proxy.kept());
        if !received.is_empty() {
            refusal = received;
        }
    }
    let told = format!("bytes of commands wait for replies from {slow} already ");
    assert!(refusal.starts_with("-ERR ") && refusal.ends_with(&told), "{refusal}");
    assert_eq!(driver.proxy.kept().subscription_bytes, 2 * 128 + 1, "nothing else is left of it");
    // Who is subscribed stays so, and there is room again when the node has answered.
    driver.cluster.set_health(&slow, Health::Well);
    driver.settle();
    assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
    assert_eq!(driver.received(stays), array("message a m"));
    assert_eq!(driver.ask(stays, "SUBSCRIBE b"), array("subscribe b :2"));
}

#[test]
fn a_shard_channel_whose_new_node_has_no_room_for_it_waits_until_it_has() {
    let mut driver = Driver::with(support::Chunking::Whole, |config| {
        config.limits.subscription_bytes = 1_000;
        config.limits.subscriber_bytes = 2_000;
    });
    let [stays, publisher] = [(); 2].map(|()| driver.connect());
    // Its name is longer than those that find no room.
    let long = format!("{{s}}{}", "x".repeat(200));
    driver.ask(stays, &format!("SSUBSCRIBE {long}"));
    let slow = (0..3).find(|node| driver.cluster.owner("s") != format!("node-{node}:1")).unwrap();
    let address = format!("node-{slow}:1");
    driver.cluster.set_health(&address, Health::Silent);
    let is_there = |channel: &String| driver.cluster.owner(channel) == address;
    let channels: Vec<_> = (0..300).map(|n| format!("c{n}")).filter(is_there).collect();
    let mut refused = 0;
    for channel in &channels {
        let client = driver.connect();
        refused += usize::from(!driver.ask(client, &format!("SSUBSCRIBE {channel}")).is_empty());
        driver.disconnect(client);
    }
    assert!(refused > 50, "{refused} of {}", channels.len());
    driver.cluster.move_slot("s", slow);
    driver.settle();
    driver.cluster.set_health(&address, Health::Well);
    driver.wait(Duration::from_secs(2));
    assert_eq!(node_of(&driver, &format!("ssubscribe {long}")), address);
    assert_eq!(driver.ask(publisher, &format!("SPUBLISH {long} m")), ":1 ");
    assert_eq!(driver.received(stays), array(&format!("smessage {long} m")));
}

#[test]
fn a_node_that_falls_silent_is_given_up_and_its_channels_go_elsewhere() {
    let mut driver = Driver::new(support::Chunking::Whole);
    let [client, publisher] = [(); 2].map(|()| driver.connect());
    driver.ask(client, "SUBSCRIBE a");
    let silent = node_of(&driver, "subscribe a");
    driver.wait(Duration::from_secs(60));
    assert_eq!(told(&driver, "subscribe a"), 1, "a node that only has nothing to say is kept");
    driver.cluster.set_health(&silent, Health::Unreachable);
    driver.wait(Duration::from_secs(60));
    assert_ne!(node_of(&driver, "subscribe a"), silent);
    assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
    assert_eq!(driver.received(client), array("message a m"));
}

#[test]
fn a_connection_that_carries_no_subscription_any_more_is_closed_after_a_while() {
    each_chunking(|mut driver| {
        let [client, publisher] = [(); 2].map(|()| driver.connect());
        driver.ask(client, "GET k");
        driver.ask(client, "SSUBSCRIBE foo");
        driver.ask(client, "SUBSCRIBE a");
        let [home, shard] = ["subscribe a", "ssubscribe foo"].map(|topic| node_of(&driver, topic));
        assert_ne!(home, shard, "the test wants topics of two nodes");
        let before = [&home, &shard].map(|node| driver.connections(node));
        // One that is used is kept, however long it has nothing to say.
        driver.ask(client, "SUNSUBSCRIBE foo");
        driver.wait(Duration::from_secs(20));
        assert_eq!([&home, &shard].map(|node| driver.connections(node)), before);
        driver.wait(Duration::from_secs(20));
        assert_eq!(driver.connections(&home), before[0]);
        assert_eq!(driver.connections(&shard), before[1] - 1);
        driver.ask(client, "UNSUBSCRIBE");
        driver.wait(Duration::from_secs(40));
        assert_eq!(driver.connections(&home), before[0] - 1);
        // It comes again when it is wanted.
        assert_eq!(driver.ask(client, "SUBSCRIBE a"), array("subscribe a :1"));
        assert_eq!(driver.ask(publisher, "PUBLISH a m"), ":1 ");
        assert_eq!(driver.received(client), array("message a m"));
    });
}

#[test]
fn shard_channels_of_several_slots_may_be_subscribed_at_once() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        let channels = ["a", "b", "c"];
        let confirmed = driver.ask(client, "SSUBSCRIBE a b c");
        let expected =
            channels.iter().zip(1..).map(|(c, n)| array(&format!("ssubscribe {c} :{n}")));
        assert_eq!(confirmed, expected.collect::<String>());
        for channel in channels {
            let words = format!("ssubscribe {channel}");
            assert_eq!(node_of(&driver, &words), driver.cluster.owner(channel));
        }
    });
}

#[test]
fn a_transaction_may_publish_but_not_subscribe() {
    each_chunking(|mut driver| {
        let [listener, client] = [(); 2].map(|()| driver.connect());
        driver.ask(listener, "SUBSCRIBE news");
        driver.ask(listener, "SSUBSCRIBE {k}shard");
        driver.ask(client, "MULTI");
        for words in ["SET k v", "PUBLISH news m", "SPUBLISH {k}shard n"] {
            assert_eq!(driver.ask(client, words), "+QUEUED ");
        }
        assert!(driver.ask(client, "EXEC").starts_with("*3 +OK :"));
        let heard = driver.received(listener);
        assert!(heard.contains(&array("message news m")), "{heard}");
        assert!(heard.contains(&array("smessage {k}shard n")), "{heard}");
        for words in ["SUBSCRIBE a", "PSUBSCRIBE a", "SSUBSCRIBE a", "UNSUBSCRIBE"] {
            driver.ask(client, "MULTI");
            let refusal = driver.ask(client, words);
            assert!(
                refusal.starts_with("-ERR this proxy does not change subscriptions"),
                "{refusal}"
            );
            assert!(driver.ask(client, "EXEC").starts_with("-EXECABORT "));
        }
    });
}
