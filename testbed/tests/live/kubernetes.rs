//! The job of istio/k8s/redis-cluster and the readiness probe of its pods.

use std::time::Duration;

use anyhow::anyhow;
use slotmesh_testbed::TempDir;
use slotmesh_testbed::process::run;
use slotmesh_testbed::wait::{Probe, until};

use crate::support::pods::{ALL, COUNT, Pods, program};

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn the_job_creates_a_cluster_and_leaves_one_that_is_there_as_it_is() {
    let pods = Pods::start_cluster();
    assert_eq!(pods.ask_owner(&["SET", "a", "before"]), "OK");

    let printed = pods.run_job();
    assert!(!printed.contains("Performing hash slots allocation"), "{printed}");
    assert_eq!(pods.ask_owner(&["GET", "a"]), "before");
}

/// What the readiness probe says of a pod, if it is not ready.
fn not_ready(pods: &Pods, pod: usize) -> String {
    let error = run(pods.script(pod, "ready.sh"), PATIENCE).unwrap_err();
    format!("{error:#}")
}

#[test]
fn a_node_is_ready_while_it_is_in_sync_and_in_a_cluster_that_is_ok() {
    let mut pods = Pods::start(COUNT);
    let said = not_ready(&pods, 0);
    assert!(said.contains("not ready: Redis says: cluster_state:fail"), "{said}");
    pods.run_job();
    pods.wait_until_ready(&ALL, PATIENCE).unwrap();

    // A replica whose link to its primary is down. The primary stays ready, and asks for a
    // password.
    let (primary, replica) = pods.shard();
    let set = |pod, words: &[&str]| {
        let answer = pods.ask(pod, &[&["CONFIG", "SET"], words].concat()).unwrap();
        assert_eq!(answer, "OK", "{words:?}");
    };
    set(replica, &["masterauth", "wrong"]);
    set(primary, &["requirepass", "right"]);
    pods.ask(replica, &["CLIENT", "KILL", "TYPE", "master"]).unwrap();
    let said = not_ready(&pods, replica);
    assert!(said.contains("this replica is not in sync with its primary"), "{said}");
    let said = not_ready(&pods, primary);
    assert!(said.contains("not ready: Redis says: NOAUTH"), "{said}");
    let mut with_password = pods.script(primary, "ready.sh");
    with_password.env("REDISCLI_AUTH", "right");
    run(with_password, PATIENCE).unwrap();
    set(replica, &["masterauth", "right"]);
    pods.wait_until_ready(&[replica], PATIENCE).unwrap();

    // Most primaries are gone.
    let others = ALL.into_iter().filter(|pod| *pod != primary && pods.is_primary(*pod));
    others.collect::<Vec<usize>>().into_iter().for_each(|pod| pods.kill(pod));
    until("the cluster to fail", PATIENCE, || {
        let probe = run(pods.script(replica, "ready.sh"), PATIENCE);
        let said = format!("{:#}", probe.err().unwrap_or_else(|| anyhow!("ready")));
        Ok(match said.contains("not ready: Redis says: cluster_state:fail") {
            true => Probe::Ready(()),
            false => Probe::NotYet(said),
        })
    })
    .unwrap();

    // Nobody answers.
    let probe = pods.script(replica, "ready.sh");
    pods.kill(replica);
    let said = format!("{:#}", run(probe, PATIENCE).unwrap_err());
    assert!(said.contains("not ready: Redis says: Could not connect"), "{said}");
}

/// What the readiness probe of a replica says that sees three primaries so, the first one being its
/// own.
fn probe_of_replica(primaries: [&str; 3]) -> String {
    let programs = TempDir::new("programs").unwrap();
    let nodes: String =
        (0..3).map(|n| format!("{n} 10.0.0.{n}:6379@16379 {} {n}\n", primaries[n])).collect();
    let redis_cli = format!(
        "cat <<'END'\ncluster_state:ok\nrole:slave\nmaster_link_status:up\n\
         9 10.0.0.9:6379@16379 myself,slave 0 0 1 1 connected\n{nodes}END"
    );
    let mut script = Pods::start(0).script_at("10.0.0.9", "ready.sh");
    script.env("PATH", program(&programs, "redis-cli", &redis_cli));
    run(script, PATIENCE).unwrap_or_else(|error| format!("{error:#}"))
}

const WELL: &str = "master - 0 1 1 connected";
const LOST: [&str; 4] = [
    "master,noaddr - 0 1 1 disconnected",
    "master - 0 1 1 disconnected",
    "master,fail? - 0 1 1 connected",
    // A ping of long ago that nobody has answered.
    "master - 1700000000000 1 1 connected",
];

#[test]
fn a_replica_that_may_copy_from_another_node_than_its_primary_is_not_ready() {
    assert_eq!(probe_of_replica([WELL, WELL, LOST[0]]), "");
    for lost in LOST {
        let said = probe_of_replica([lost, WELL, WELL]);
        assert!(said.contains("its primary is not where this replica copies from"), "{said}");
    }
}

/// For five seconds it believes all the same that the cluster is ok.
#[test]
fn a_node_that_has_just_lost_most_primaries_is_not_ready() {
    let said = probe_of_replica([WELL, LOST[1], LOST[3]]);
    assert!(said.contains("this node does not reach most primaries"), "{said}");
}
