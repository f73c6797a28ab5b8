//! The testbed itself: what it starts works, and what it stops is gone.

use std::path::PathBuf;

use slotmesh_testbed::{ClusterOptions, RedisCluster, RedisServer};

fn runs(pid: u32) -> bool {
    PathBuf::from(format!("/proc/{pid}")).exists()
}

fn get(server: &RedisServer, key: &str) -> Option<String> {
    redis::cmd("GET").arg(key).query(&mut server.connect().unwrap()).unwrap()
}

fn set(server: &RedisServer, key: &str, value: &str) {
    redis::cmd("SET").arg(key).arg(value).exec(&mut server.connect().unwrap()).unwrap();
}

/// `CLUSTER KEYSLOT foo`.
const SLOT_OF_FOO: u16 = 12182;

#[test]
fn a_cluster_starts_and_is_gone_when_dropped() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    assert_eq!(cluster.nodes().len(), 6);
    for node in cluster.nodes() {
        let info = node.cli(&["CLUSTER", "INFO"]).unwrap();
        assert!(info.contains("cluster_state:ok"), "{info}");
    }
    let primaries = cluster.primaries().unwrap();
    assert_eq!(primaries.len(), 3);
    for primary in primaries {
        assert_eq!(cluster.replicas_of(primary).unwrap().len(), 1);
    }
    let pids: Vec<u32> = cluster.nodes().iter().map(|node| node.pid().unwrap()).collect();
    assert!(pids.iter().all(|pid| runs(*pid)));
    drop(cluster);
    assert!(!pids.iter().any(|pid| runs(*pid)));
}

#[test]
fn a_cluster_is_gone_when_a_test_panics() {
    let (report, pids) = std::sync::mpsc::channel();
    let test = std::thread::spawn(move || {
        let server = RedisServer::start(&[]).unwrap();
        report.send(server.pid().unwrap()).unwrap();
        panic!("on purpose");
    });
    let pid = pids.recv().unwrap();
    assert!(test.join().is_err());
    assert!(!runs(pid));
}

#[test]
fn a_restarted_primary_has_its_data_and_its_place() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let owner = cluster.owner(SLOT_OF_FOO).unwrap();
    set(owner, "foo", "bar");
    let (addr, pid) = (owner.addr(), owner.pid().unwrap());
    owner.restart().unwrap();
    cluster.wait_until_ready().unwrap();
    assert_ne!(owner.pid(), Some(pid));
    assert_eq!(cluster.owner(SLOT_OF_FOO).unwrap().addr(), addr);
    assert_eq!(get(owner, "foo").as_deref(), Some("bar"));
}

#[test]
fn a_reshard_moves_slots_and_their_keys() {
    let cluster = RedisCluster::start(ClusterOptions::default()).unwrap();
    let primaries = cluster.primaries().unwrap();
    let [to, _, from] = primaries[..] else { panic!("not three primaries") };
    // redis-cli moves the first slots of the source.
    let slot = cluster
        .members()
        .unwrap()
        .iter()
        .find(|member| member.addr == from.addr().to_string())
        .map(|member| *member.slots[0].start())
        .unwrap();
    let key = (0..).map(|n| format!("key:{n}")).find(|key| key_slot(key) == slot).unwrap();
    set(from, &key, "moved");
    cluster.reshard(10, from, to).unwrap();
    assert_eq!(cluster.owner(slot).unwrap().addr(), to.addr());
    assert_eq!(get(to, &key).as_deref(), Some("moved"));
}

fn key_slot(key: &str) -> u16 {
    crc16::State::<crc16::XMODEM>::calculate(key.as_bytes()) % 16384
}

#[test]
fn a_killed_server_starts_again_with_its_data() {
    let server = RedisServer::start(&[]).unwrap();
    set(&server, "key", "value");
    server.kill();
    assert_eq!(server.pid(), None);
    assert!(server.connect().is_err());
    server.restart().unwrap();
    assert_eq!(get(&server, "key").as_deref(), Some("value"));
}

#[test]
fn a_paused_server_answers_after_it_is_resumed() {
    let server = RedisServer::start(&[]).unwrap();
    let mut connection = server.connect().unwrap();
    connection.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
    server.pause().unwrap();
    assert!(redis::cmd("PING").exec(&mut connection).unwrap_err().is_timeout());
    server.resume().unwrap();
    assert!(redis::cmd("PING").exec(&mut server.connect().unwrap()).is_ok());
}

#[test]
fn a_server_that_refuses_its_options_says_why() {
    let error = RedisServer::start(&["--no-such-option", "1"]).unwrap_err();
    assert!(error.to_string().contains("no-such-option"), "{error}");
}
