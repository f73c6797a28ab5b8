//! What an operator sees of what the proxy does.

use std::time::Duration;

use crate::support::{Chunking, Driver, Health, OP_TIMEOUT, another_cluster, each_chunking};
use slotmesh_engine::config::{ClusterKind, Fault, FaultKind, Fraction, Mirror};
use slotmesh_engine::{Config, MetricKind, documented_metrics};

const SECOND: Duration = Duration::from_secs(1);

fn with(change: impl FnOnce(&mut Config)) -> Driver {
    Driver::with(Chunking::Whole, change)
}

/// What `command.<name>` says: total, success, error.
fn command(driver: &Driver, name: &str) -> [i64; 3] {
    ["total", "success", "error"]
        .map(|stat| driver.metrics.value(&format!("command.{name}.{stat}")))
}

/// What the cluster counts of a command it was sent: total, success, failure.
fn upstream_command(driver: &Driver, cluster: &str, name: &str) -> [i64; 3] {
    ["total", "success", "failure"].map(|stat| {
        driver.metrics.value(&format!("cluster.{cluster}.upstream_commands.{name}.{stat}"))
    })
}

#[test]
fn commands_are_counted_by_name_and_by_their_replies() {
    each_chunking(|mut driver| {
        let client = driver.connect();
        for words in ["GET a", "get b", "GET c", "SET a 1", "RENAME a a", "FOO.BAR a", "Foo b"] {
            driver.ask(client, words);
        }
        driver.wait(SECOND);
        assert_eq!(command(&driver, "get"), [3, 3, 0]);
        assert_eq!(command(&driver, "set"), [1, 1, 0]);
        assert_eq!(command(&driver, "rename"), [1, 0, 1], "the fake node does not know it");
        assert_eq!(command(&driver, "unknown"), [2, 0, 2], "all unknown commands share one name");
        assert_eq!(driver.metrics.value("downstream_rq_total"), 7);
        assert_eq!(driver.metrics.value("cluster.main.upstream_rq_total"), 7);
        assert_eq!(driver.metrics.histogram("command.get.latency"), [0, 0, 0]);
        assert_eq!(upstream_command(&driver, "main", "get"), [0; 3], "only if it is wanted");
    });
}

#[test]
fn what_no_redis_would_run_is_counted_by_its_reason() {
    let mut driver = with(|_| {});
    let client = driver.connect();
    for words in ["GET", "SET a", "MONITOR", "FOO", "CONFIG FOO", "MSET a 1 b", "RENAME a b"] {
        assert!(driver.ask(client, words).starts_with('-'), "{words}");
    }
    driver.wait(SECOND);
    assert_eq!(driver.metrics.value("splitter.invalid_request"), 3, "GET, SET, MSET");
    assert_eq!(driver.metrics.value("splitter.unsupported_command"), 3, "MONITOR, FOO, CONFIG FOO");
    assert_eq!(command(&driver, "rename"), [1, 0, 1], "CROSSSLOT");
    assert_eq!(command(&driver, "get"), [0; 3]);
}

#[test]
fn a_split_command_is_one_to_the_client_and_one_for_each_part_to_the_cluster() {
    let mut driver = with(|config| config.enable_command_stats = true);
    let client = driver.connect();
    driver.ask(client, "MGET a b c a");
    driver.wait(SECOND);
    assert_eq!(command(&driver, "mget"), [1, 1, 0]);
    assert_eq!(upstream_command(&driver, "main", "mget"), [3, 3, 0]);
    assert_eq!(driver.metrics.value("cluster.main.upstream_rq_total"), 3);
    let latency = "cluster.main.upstream_commands.mget.latency";
    assert_eq!(driver.metrics.histogram(latency).len(), 3);
}

#[test]
fn a_mirror_counts_for_itself() {
    let mut driver = with(|config| {
        let cluster = another_cluster(config, "other", "other-0:1");
        config.clusters[cluster.position()].kind = ClusterKind::Standalone;
        config.enable_command_stats = true;
        let fraction = Fraction::ALL;
        let mirror =
            Mirror { cluster, exclude_read_commands: true, fraction, draw_per_command: false };
        config.routes.catch_all.as_mut().unwrap().mirrors.push(mirror);
    });
    let client = driver.connect();
    for words in ["SET a 1", "SET b 1", "RENAME a a", "GET a"] {
        driver.ask(client, words);
    }
    driver.wait(SECOND);
    assert_eq!(command(&driver, "set"), [2, 2, 0], "a copy is no client's command");
    assert_eq!(upstream_command(&driver, "main", "set"), [2, 2, 0]);
    assert_eq!(upstream_command(&driver, "other", "set"), [2, 2, 0]);
    assert_eq!(upstream_command(&driver, "other", "get"), [0; 3]);
    assert_eq!(driver.metrics.value("cluster.other.mirror_sent"), 3);
    assert_eq!(driver.metrics.value("cluster.other.mirror_error"), 1, "RENAME");
    assert_eq!(driver.metrics.value("cluster.main.mirror_sent"), 0);
}

#[test]
fn latency_is_the_time_from_the_command_to_its_reply() {
    for (in_micros, expected) in [(false, 70), (true, 70_000)] {
        let mut driver = with(|config| {
            config.latency_in_micros = in_micros;
            config.enable_command_stats = true;
        });
        let client = driver.connect();
        driver.ask(client, "GET a");
        driver.cluster.set_all_healths(Health::Silent);
        driver.command(client, "SET a 1");
        driver.wait(Duration::from_millis(70));
        driver.cluster.set_all_healths(Health::Well);
        driver.settle();
        assert_eq!(driver.received(client), "+OK ");
        driver.wait(SECOND);
        assert_eq!(driver.metrics.histogram("command.get.latency"), [0]);
        let [latency] = driver.metrics.histogram("command.set.latency") else { panic!() };
        assert!(latency.abs_diff(expected) * 32 <= expected, "{latency}");
        let upstream = driver.metrics.histogram("cluster.main.upstream_commands.set.latency");
        assert!(
            upstream[0].abs_diff(70_000) * 32 <= 70_000,
            "always in microseconds: {upstream:?}"
        );
    }
}

#[test]
fn an_unanswered_command_is_an_error_and_a_timeout() {
    let mut driver = with(|_| {});
    let client = driver.connect();
    driver.ask(client, "GET a");
    driver.cluster.set_all_healths(Health::Silent);
    driver.command(client, "MGET a b c");
    driver.wait(OP_TIMEOUT + SECOND * 2);
    assert_eq!(command(&driver, "mget"), [1, 0, 1]);
    assert_eq!(driver.metrics.value("downstream_rq_timeout"), 1);
    assert_eq!(driver.metrics.value("cluster.main.upstream_rq_timeout"), 3);
}

#[test]
fn gauges_follow_what_they_tell_of_and_end_with_the_proxy() {
    let mut driver = with(|_| {});
    let clients = [(); 3].map(|()| driver.connect());
    driver.ask(clients[0], "SET a 1");
    driver.disconnect(clients[1]);
    driver.cluster.set_all_healths(Health::Silent);
    driver.command(clients[0], "GET a");
    driver.wait(SECOND);
    let node = |driver: &Driver, stat: &str| -> i64 {
        (0..3).map(|n| driver.metrics.value(&format!("cluster.main.node.node-{n}_1.{stat}"))).sum()
    };
    assert_eq!(driver.metrics.value("downstream_cx_active"), 2);
    assert_eq!(driver.metrics.value("downstream_cx_total"), 3);
    assert_eq!(driver.metrics.value("downstream_rq_active"), 1);
    assert_eq!(driver.metrics.value("cluster.main.nodes"), 3);
    assert_eq!(driver.metrics.value("cluster.main.shards"), 3);
    assert_eq!(driver.metrics.value("cluster.main.upstream_rq_active"), 1);
    assert_eq!((node(&driver, "upstream_cx_active"), node(&driver, "upstream_rq_active")), (1, 1));
    driver.wait(OP_TIMEOUT + SECOND);
    assert_eq!(driver.metrics.value("downstream_rq_active"), 0);
    driver.disconnect(clients[0]);
    driver.wait(SECOND);
    assert_eq!(driver.metrics.value("downstream_cx_active"), 1);

    let mut gauges = Vec::new();
    driver.proxy.report_last_stats(|metric, _| {
        gauges.extend((metric.kind() == MetricKind::Gauge).then(|| metric.to_string()));
        true
    });
    assert!(gauges.iter().any(|name| name.ends_with(".downstream_cx_active")), "{gauges:?}");
    assert!(gauges.iter().any(|name| name.contains(".node.")), "{gauges:?}");
}

#[test]
fn an_idle_proxy_reports_nothing_and_a_busy_one_once_a_second() {
    let mut driver = with(|_| {});
    let client = driver.connect();
    for _ in 0..100 {
        driver.ask(client, "GET a");
        driver.wait(Duration::from_millis(100));
    }
    assert!((8..=10).contains(&driver.metrics.reports), "{}", driver.metrics.reports);
    driver.disconnect(client);
    driver.wait(SECOND * 60);
    let reports = driver.metrics.reports;
    driver.wait(SECOND * 600);
    assert_eq!(driver.metrics.reports, reports);
}

#[test]
fn a_change_that_was_not_taken_comes_again() {
    let mut driver = with(|_| {});
    let client = driver.connect();
    driver.ask(client, "GET a");
    let mut offered = Vec::new();
    driver.proxy.report_stats(|metric, change| {
        offered.push((metric.to_string(), change));
        false
    });
    assert!(driver.proxy.poll_timeout().is_some_and(|at| at <= driver.now + SECOND));
    let mut again = Vec::new();
    driver.proxy.report_stats(|metric, change| {
        again.push((metric.to_string(), change));
        true
    });
    assert_eq!(again, offered);
    assert!(again.iter().any(|(name, _)| name == "redis.redis.command.get.latency"), "{again:?}");
    driver.proxy.report_stats(|metric, _| panic!("{metric} has not changed"));
}

#[test]
fn however_many_commands_run_a_report_has_at_most_32_latencies_of_each() {
    let mut driver = with(|_| {});
    let client = driver.connect();
    for _ in 0..1000 {
        driver.ask(client, "GET a");
    }
    driver.wait(SECOND);
    assert_eq!(driver.metrics.histogram("command.get.latency").len(), 32);
    assert_eq!(command(&driver, "get"), [1000, 1000, 0]);
}

#[test]
fn faults_are_counted_apart_from_errors() {
    let all = Fraction::ALL;
    let fault = |kind, command: &str| Fault { kind, fraction: all, commands: vec![command.into()] };
    let mut driver = with(|config| {
        config.faults = vec![
            fault(FaultKind::Error(Duration::ZERO), "get"),
            fault(FaultKind::Error(SECOND / 10), "set"),
            fault(FaultKind::Delay(SECOND / 10), "del"),
        ];
    });
    let client = driver.connect();
    for words in ["GET a", "SET a 1", "DEL a", "EXISTS a"] {
        driver.command(client, words);
    }
    driver.wait(SECOND * 2);
    let counts = |name: &str| {
        let faults = ["error_fault", "delay_fault"];
        let faults = faults.map(|stat| driver.metrics.value(&format!("command.{name}.{stat}")));
        (command(&driver, name), faults)
    };
    assert_eq!(counts("get"), ([1, 0, 0], [1, 0]));
    assert_eq!(counts("set"), ([1, 0, 0], [1, 1]));
    assert_eq!(counts("del"), ([1, 1, 0], [0, 1]));
    assert_eq!(counts("exists"), ([1, 1, 0], [0, 0]));
}

#[test]
fn drained_connections_and_redirections_that_lead_too_far_are_counted() {
    let mut driver = with(|config| {
        config.max_upstream_unknown_connections = 0;
        config.clusters[0].refresh_rate = SECOND * 60;
    });
    let client = driver.connect();
    driver.ask(client, "MSET a 1 b 1 c 1");
    let stranger = driver.cluster.add_node("stranger:1");
    driver.cluster.move_slot("a", stranger);
    driver.command(client, "GET a");
    driver.wait(SECOND * 2);
    let refused = driver.metrics.value("cluster.main.max_upstream_unknown_connections_reached");
    assert!(refused > 0);
    assert_eq!(driver.received(client), "$1 1 ");

    for owner in &mut driver.cluster.owners {
        *owner = (*owner).min(1);
    }
    driver.wait(SECOND * 70);
    assert_eq!(driver.metrics.value("cluster.main.upstream_cx_drained"), 2);
}

#[test]
fn the_name_of_a_node_or_a_cluster_holds_no_colon() {
    let mut driver = with(|config| config.clusters[0].name = "a:b".to_owned());
    let client = driver.connect();
    driver.ask(client, "GET a");
    driver.wait(SECOND);
    assert!(driver.metrics.names().any(|name| name.starts_with("redis.redis.cluster.a_b.node.")));
    assert!(driver.metrics.names().all(|name| !name.contains(':')));
}

/// docs/statistics.md has a table row for each metric: name, type, ...
#[test]
fn the_documentation_lists_every_metric_with_its_type() {
    let text = include_str!("../../../docs/statistics.md");
    let mut listed = Vec::new();
    let mut root = "";
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("### `") {
            root = heading.split('`').next().unwrap();
        }
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let ["", name, kind @ ("counter" | "gauge" | "histogram"), ..] = cells[..] {
            listed.push(format!("{root}{} {kind}", name.trim_matches('`')));
        }
    }
    let mut counted: Vec<_> = documented_metrics()
        .iter()
        .map(|(name, kind)| format!("{name} {}", format!("{kind:?}").to_lowercase()))
        .collect();
    listed.sort_unstable();
    counted.sort_unstable();
    assert_eq!(listed, counted);
}
