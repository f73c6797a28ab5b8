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

    // A replica whose link to its primary is down. The primary stays ready, and asks for a password.
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

#[test]
fn a_replica_that_may_copy_from_another_node_than_its_primary_is_not_ready() {
    let programs = TempDir::new("programs").unwrap();
    let probe = |primary: &str| {
        let (me, other) = ("a".repeat(40), "b".repeat(40));
        let redis = format!(
            "cluster_state:ok\nrole:slave\nmaster_link_status:up\n\
             {me} 10.0.0.1:6379@16379 myself,slave {other} 0 1 1 connected\n\
             {other} {primary} 0-5460\n"
        );
        let mut script = Pods::start(0).script_at("10.0.0.1", "ready.sh");
        script.env("PATH", program(&programs, "redis-cli", &format!("cat <<'END'\n{redis}END")));
        run(script, PATIENCE)
    };
    probe("10.0.0.2:6379@16379 master - 0 1 1 connected").unwrap();
    for primary in [
        ":0@0 master,noaddr - 0 1 1 disconnected",
        "10.0.0.2:6379@16379 master,fail - 0 1 1 connected",
    ] {
        let said = format!("{:#}", probe(primary).unwrap_err());
        assert!(said.contains("its primary is not where this replica copies from"), "{said}");
    }
}
