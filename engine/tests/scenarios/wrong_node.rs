//! Another Redis answers at the address of a node: it must not get a command.

use std::time::Duration;

use slotmesh_engine::Config;
use slotmesh_engine::config::ReadPolicy;

use crate::support::{
    ClientId, Driver, FakeCluster, Health, OP_TIMEOUT, each_chunking, each_chunking_with,
    mirror_writes,
};

/// The primary of the key `a`.
const PRIMARY: &str = "node-2:1";
/// Its replica.
const REPLICA: &str = "replica-3:1";

/// Everybody who may come to a node's address.
fn strangers() -> [FakeCluster; 2] {
    [FakeCluster::standalone("other"), FakeCluster::named("foreign", 1)]
}

/// Lets the proxy learn the topology. Returns a client and the index of [`REPLICA`].
fn prepare(driver: &mut Driver) -> (ClientId, usize) {
    let replica = driver.cluster.add_replica(2, REPLICA);
    let client = driver.connect();
    assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
    (client, replica)
}

/// The process of [`PRIMARY`] ends, and another one answers at its address.
fn replace_primary(driver: &mut Driver, mut by: FakeCluster) {
    by.rename(0, PRIMARY);
    driver.other = by;
    driver.cut(PRIMARY);
}

fn wrong_nodes(driver: &Driver) -> u64 {
    driver.proxy.stats().upstream_cx_wrong_node
}

#[test]
fn whoever_answers_at_the_address_of_a_primary_that_died_gets_no_write() {
    for by in 0..2 {
        each_chunking(|mut driver| {
            let (client, replica) = prepare(&mut driver);
            let [standalone, foreign] = strangers();
            replace_primary(&mut driver, if by == 0 { standalone } else { foreign });
            driver.command(client, "SET a 2");
            driver.wait(Duration::from_millis(300));
            assert_eq!(driver.received(client), "");
            assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
            assert!(wrong_nodes(&driver) > 0);
            driver.cluster.promote(replica);
            driver.wait(Duration::from_millis(300));
            assert_eq!(driver.received(client), "+OK ");
            assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
            assert_eq!(driver.cluster.value("a").as_deref(), Some("2"));
        });
    }
}

#[test]
fn whoever_answers_gets_no_write_if_the_address_has_left_the_topology_meanwhile() {
    let often = |config: &mut Config| {
        config.clusters[0].refresh_rate = Duration::from_millis(100);
    };
    for by in 0..2 {
        each_chunking_with(often, |mut driver| {
            let (client, replica) = prepare(&mut driver);
            let [standalone, foreign] = strangers();
            replace_primary(&mut driver, if by == 0 { standalone } else { foreign });
            driver.other.set_health(PRIMARY, Health::Silent);
            driver.command(client, "SET a 2");
            driver.cluster.promote(replica);
            driver.cluster.rename(2, "node-2-elsewhere:1");
            driver.wait(OP_TIMEOUT / 2);
            driver.other.set_health(PRIMARY, Health::Well);
            driver.wait(Duration::from_millis(100));
            assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
            assert_eq!(driver.received(client), "+OK ");
            assert_eq!(driver.cluster.value("a").as_deref(), Some("2"));
        });
    }
}

#[test]
fn what_is_not_executed_in_time_says_who_has_answered() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        replace_primary(&mut driver, FakeCluster::named("foreign", 1));
        driver.command(client, "SET a 2");
        driver.wait(OP_TIMEOUT);
        let reply = driver.received(client);
        assert!(reply.starts_with("-CLUSTERDOWN the connection to node-2:1"), "{reply}");
        let reason = "it is not node id-of-node-2:1: its id is id-of-foreign-0:1";
        assert!(reply.contains(reason), "{reply}");
        assert!(driver.log.iter().any(|line| line.contains(reason)), "{:?}", driver.log);
    });
}

#[test]
fn a_wrong_node_is_not_asked_again_all_the_time() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        replace_primary(&mut driver, FakeCluster::standalone("other"));
        let before = driver.opened[PRIMARY];
        for _ in 0..10 {
            driver.command(client, "SET a 2");
            driver.wait(Duration::from_secs(1));
        }
        // Each refresh of the topology may ask it as well.
        let (refreshes, opened) = (driver.refreshes() as usize, driver.opened[PRIMARY] - before);
        assert!(opened < refreshes + 30, "{opened} connections, {refreshes} refreshes");
    });
}

#[test]
fn blocking_commands_transactions_and_subscriptions_do_not_reach_a_wrong_node_either() {
    for command in [
        &["BLPOP a 1"][..],
        &["WATCH a"],
        &["MULTI", "SET a 2", "EXEC"],
        &["SSUBSCRIBE a"],
        &["EVAL x 1 a"],
    ] {
        each_chunking(|mut driver| {
            let (client, _) = prepare(&mut driver);
            replace_primary(&mut driver, FakeCluster::named("foreign", 1));
            command.iter().for_each(|words| driver.command(client, words));
            driver.wait(OP_TIMEOUT / 2);
            assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
            assert!(wrong_nodes(&driver) > 0, "{command:?}");
        });
    }
}

#[test]
fn reads_go_to_the_replica_while_a_wrong_node_answers() {
    let change = |config: &mut Config| config.read_policy = ReadPolicy::PreferMaster;
    each_chunking_with(change, |mut driver| {
        let (client, _) = prepare(&mut driver);
        replace_primary(&mut driver, FakeCluster::standalone("other"));
        assert_eq!(driver.ask(client, "GET a"), "$1 1 ");
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
    });
}

#[test]
fn a_node_that_has_lost_its_id_is_served_when_the_topology_tells_the_new_one() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        // The others have not heard of it.
        let mut amnesiac = FakeCluster::named("foreign", 1);
        amnesiac.rename(0, PRIMARY);
        driver.other = amnesiac;
        driver.cut(PRIMARY);
        driver.command(client, "SET a 2");
        driver.wait(Duration::from_millis(300));
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
        driver.other = FakeCluster::standalone("other");
        driver.cluster.set_id(PRIMARY, "new-id");
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), "+OK ");
    });
}

#[test]
fn a_moved_to_a_node_of_another_cluster_carries_no_command_there() {
    for by in 0..2 {
        each_chunking(|mut driver| {
            let (client, _) = prepare(&mut driver);
            let newcomer = driver.cluster.add_node("newcomer:7");
            driver.cluster.freeze_views();
            driver.cluster.move_slot("a", newcomer);
            let [standalone, foreign] = strangers();
            driver.other = if by == 0 { standalone } else { foreign };
            driver.other.rename(0, "newcomer:7");
            driver.command(client, "SET a 2");
            driver.wait(Duration::from_millis(300));
            assert_eq!(driver.received(client), "");
            assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
            assert!(wrong_nodes(&driver) > 0);
            // The node itself is back.
            driver.other = FakeCluster::standalone("other");
            driver.wait(Duration::from_secs(1));
            assert_eq!(driver.received(client), "+OK ");
        });
    }
}

#[test]
fn an_ask_to_a_node_of_another_cluster_carries_no_command_there() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        let newcomer = driver.cluster.add_node("newcomer:7");
        driver.cluster.freeze_views();
        let slot = slotmesh_engine::Slot::of(b"{a}b").number();
        driver.cluster.migrating.insert(slot, newcomer);
        driver.other = FakeCluster::named("foreign", 1);
        driver.other.rename(0, "newcomer:7");
        driver.command(client, "SET {a}b 2");
        driver.wait(Duration::from_millis(300));
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
        assert!(wrong_nodes(&driver) > 0);
    });
}

#[test]
fn a_seed_of_another_cluster_is_not_believed_while_a_node_of_this_one_answers() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        // All addresses but one lead elsewhere.
        driver.cluster.set_health(REPLICA, Health::Refusing);
        driver.other = FakeCluster::named("node", 3);
        driver.other.rename(2, "elsewhere:1");
        for id in ["node-0:1", "node-1:1", "elsewhere:1"] {
            driver.other.set_id(id, &format!("foreign-{id}"));
        }
        for address in ["node-0:1", "node-1:1"] {
            driver.cut(address);
        }
        for round in 0..40 {
            assert_eq!(driver.ask(client, &format!("SET a {round}")), "+OK ");
            driver.wait(Duration::from_secs(1));
        }
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
    });
}

#[test]
fn a_cluster_that_was_made_anew_is_taken_when_nobody_of_the_old_one_has_answered_for_ten_seconds() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
        for node in 0..3 {
            let address = format!("node-{node}:1");
            driver.cluster.set_id(&address, &format!("new-{node}"));
            driver.cut(&address);
        }
        driver.command(client, "SET a 2");
        driver.wait(Duration::from_secs(9));
        let reply = driver.received(client);
        assert!(reply.contains("it is not node id-of-node-2:1"), "{reply}");
        driver.wait(Duration::from_secs(3));
        assert_eq!(driver.ask(client, "SET a 3"), "+OK ");
    });
}

#[test]
fn a_node_that_may_not_be_asked_for_its_id_is_trusted_and_counted() {
    for error in [
        "NOPERM this user has no permissions to run the 'cluster|myid' command",
        "ERR Unknown subcommand or wrong number of arguments for 'MYID'. Try CLUSTER HELP.",
    ] {
        each_chunking(|mut driver| {
            driver.cluster.myid_error = Some(error.to_owned());
            let client = driver.connect();
            assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
            assert!(driver.proxy.stats().upstream_cx_unidentified > 0);
            let told = format!("is trusted without proof: it answered '{error}'");
            assert!(driver.log.iter().any(|line| line.contains(&told)), "{:?}", driver.log);
            assert_eq!(wrong_nodes(&driver), 0);
        });
    }
}

#[test]
fn a_server_that_knows_nothing_of_clusters_is_no_node() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        let mut stranger = FakeCluster::named("foreign", 1);
        let text = "ERR unknown command 'CLUSTER', with args beginning with: 'MYID'";
        stranger.myid_error = Some(text.to_owned());
        replace_primary(&mut driver, stranger);
        driver.command(client, "SET a 2");
        driver.wait(Duration::from_millis(300));
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
        assert!(wrong_nodes(&driver) > 0);
    });
}

#[test]
fn a_cluster_at_the_address_of_a_node_that_is_no_seed_never_takes_the_place_of_this_one() {
    each_chunking(|mut driver| {
        let (client, _) = prepare(&mut driver);
        driver.cluster.set_all_healths(Health::Refusing);
        for address in ["node-0:1", "node-1:1", REPLICA] {
            driver.cut(address);
        }
        replace_primary(&mut driver, FakeCluster::named("foreign", 1));
        for _ in 0..30 {
            driver.command(client, "SET a 2");
            driver.wait(Duration::from_secs(1));
        }
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
        driver.cluster.set_all_healths(Health::Well);
        driver.other = FakeCluster::standalone("other");
        driver.wait(Duration::from_secs(2));
        driver.received(client);
        assert_eq!(driver.ask(client, "SET a 3"), "+OK ");
    });
}

#[test]
fn a_primary_whose_address_the_others_have_forgotten_costs_its_own_slots_only() {
    each_chunking(|mut driver| {
        let (client, replica) = prepare(&mut driver);
        replace_primary(&mut driver, FakeCluster::named("foreign", 1));
        driver.cluster.placeless = Some(2);
        for _ in 0..20 {
            driver.command(client, "SET a 2");
            driver.wait(Duration::from_secs(1));
        }
        driver.wait(OP_TIMEOUT);
        let reply = driver.received(client);
        assert!(reply.contains("it is not node id-of-node-2:1"), "{reply}");
        assert!(driver.other.executed.is_empty(), "{:?}", driver.other.executed);
        assert_eq!(driver.ask(client, "SET b 1"), "+OK ");
        driver.cluster.promote(replica);
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.ask(client, "SET a 3"), "+OK ");
    });
    each_chunking(|mut driver| {
        driver.cluster.placeless = Some(2);
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SET b 1"), "+OK ", "to who has not known it before");
    });
}

#[test]
fn a_node_that_is_loading_is_waited_for() {
    each_chunking(|mut driver| {
        let text = "LOADING Redis is loading the dataset in memory";
        driver.cluster.myid_error = Some(text.to_owned());
        let client = driver.connect();
        driver.command(client, "SET a 1");
        driver.wait(Duration::from_millis(500));
        assert_eq!(driver.received(client), "");
        driver.cluster.myid_error = None;
        driver.wait(Duration::from_secs(1));
        assert_eq!(driver.received(client), "+OK ");
    });
}

#[test]
fn a_node_that_runs_a_script_says_so_and_can_be_told_to_end_it() {
    each_chunking(|mut driver| {
        let text = "BUSY Redis is busy running a script. You can only call SCRIPT KILL";
        driver.cluster.myid_error = Some(text.to_owned());
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SET a 1"), format!("-{text} "));
        let reply = driver.ask(client, "SCRIPT KILL");
        assert_eq!(reply, "-NOTBUSY No scripts in execution right now. ", "a node has said so");
    });
}

#[test]
fn standalone_servers_and_mirrors_are_not_asked_for_an_id() {
    each_chunking_with(mirror_writes, |mut driver| {
        let client = driver.connect();
        assert_eq!(driver.ask(client, "SET a 1"), "+OK ");
        assert_eq!(driver.other.executed, ["other-0:1: SET a 1"]);
        assert_eq!(wrong_nodes(&driver), 0);
    });
}
