use std::time::Duration;

use super::super::{
    AllowedNodes, Attribute, ClusterKind, Config, FaultKind, Fraction, HostPattern, ReadPolicy,
    Route, Secret,
};
use super::read;
use crate::cluster::Address;
use crate::ids::ClusterId;

pub(super) const SMALLEST: &str = r#"{
    "settings": {"op_timeout": "0.25s"},
    "prefix_routes": {"catch_all_route": {"cluster": "main"}},
    "clusters": {"main": {"seeds": ["127.0.0.1:7000", "[::1]:7001"]}}
}"#;

/// The block that is pasted from Envoy's redis_proxy, and what Slotmesh needs beside it.
const ARTICLE: &str = r#"{
    "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
    "stat_prefix": "outbound|6379||redis-cluster.redis.svc.cluster.local",
    "prefix_routes": {"catch_all_route": {
        "request_mirror_policy": [{"cluster": "mirror", "exclude_read_commands": true}],
        "cluster": "custom-redis-cluster"}},
    "settings": {"op_timeout": "5s", "enable_redirection": true, "enable_command_stats": true,
                 "read_policy": "REPLICA"},
    "clusters": {"custom-redis-cluster": {"seeds": ["redis-cluster.redis:6379"]},
                 "mirror": {"seeds": ["redis-mirror.redis:6379"], "type": "STANDALONE"}}
}"#;

/// Where the smallest configuration takes further words.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    Root,
    Settings,
    Routes,
    CatchAll,
    Cluster,
}

impl Place {
    fn path(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Settings => "settings.",
            Self::Routes => "prefix_routes.",
            Self::CatchAll => "prefix_routes.catch_all_route.",
            Self::Cluster => "clusters.main.",
        }
    }

    /// The smallest configuration with `words` in this place.
    pub(super) fn with(self, words: &str) -> String {
        let before = match self {
            Self::Root => "\"settings\"",
            Self::Settings => "\"op_timeout\"",
            Self::Routes => "\"catch_all_route\"",
            Self::CatchAll => "\"cluster\": \"main\"",
            Self::Cluster => "\"seeds\"",
        };
        SMALLEST.replace(before, &format!("{words}, {before}"))
    }
}

fn environment(name: &str) -> Option<Vec<u8>> {
    (name == "REDIS_PASSWORD").then(|| b"hunter2".to_vec())
}

fn config(json: &str) -> Config {
    read(json.as_bytes(), &environment).unwrap_or_else(|error| panic!("{error} in {json}"))
}

pub(super) fn error(json: &str) -> String {
    match read(json.as_bytes(), &environment) {
        Ok(_) => panic!("accepted: {json}"),
        Err(error) => error.to_string(),
    }
}

/// What `words` in `place` make of the smallest configuration.
fn with(place: Place, words: &str) -> Config {
    let config = config(&place.with(words));
    assert_eq!(config.notes, Vec::<String>::new(), "{words}");
    config
}

fn catch_all(config: &Config) -> &Route {
    config.routes.catch_all.as_ref().unwrap()
}

#[test]
fn the_smallest_configuration_has_envoys_defaults() {
    let config = Config::from_json(SMALLEST.as_bytes()).unwrap();
    assert_eq!(config.stat_prefix, "redis");
    assert!(!config.latency_in_micros);
    assert_eq!(config.op_timeout, Duration::from_millis(250));
    assert_eq!(config.read_policy, ReadPolicy::Master);
    assert!(config.enable_redirection);
    assert!(!config.enable_command_stats);
    assert_eq!(config.max_upstream_unknown_connections, 100);
    assert_eq!(config.connection_rate_limit, None);
    assert_eq!(config.connections_per_node, 1);
    assert!(!config.cluster_emulation);
    assert_eq!(config.zone, None);
    assert!(config.users.is_empty() && config.faults.is_empty() && config.notes.is_empty());
    assert!(config.routes.prefixes.is_empty() && !config.routes.case_insensitive);
    let route = catch_all(&config);
    assert!(route.prefix.is_empty() && !route.remove_prefix && route.mirrors.is_empty());
    assert_eq!(
        (route.cluster, route.read_cluster, route.read_policy, &route.key_formatter),
        (ClusterId::new(0), None, None, &None)
    );
    let cluster = &config.clusters[0];
    assert_eq!(cluster.name, "main");
    assert_eq!(cluster.kind, ClusterKind::Cluster);
    assert_eq!(cluster.seeds.len(), 2);
    assert_eq!(cluster.envoy_cluster, "slotmesh_upstream");
    assert_eq!(cluster.envoy_cluster_for_names, "slotmesh_upstream");
    assert_eq!(cluster.refresh_rate, Duration::from_secs(5));
    assert_eq!(cluster.refresh_timeout, Duration::from_secs(3));
    assert_eq!(cluster.redirect_refresh_interval, Duration::from_secs(5));
    assert_eq!(cluster.redirect_refresh_threshold, 5);
    assert!(cluster.credentials.is_empty() && cluster.zones.is_empty());
    assert!(!cluster.enable_zone_discovery);
}

#[test]
fn the_articles_redis_proxy_block_is_read_word_for_word() {
    let config = config(ARTICLE);
    assert_eq!(config.stat_prefix, "outbound|6379||redis-cluster.redis.svc.cluster.local");
    assert_eq!(config.op_timeout, Duration::from_secs(5));
    assert!(config.enable_redirection && config.enable_command_stats);
    assert_eq!(config.read_policy, ReadPolicy::Replica);
    let route = catch_all(&config);
    assert_eq!(config.clusters[route.cluster.position()].name, "custom-redis-cluster");
    let [mirror] = route.mirrors[..] else { panic!("{:?}", route.mirrors) };
    assert_eq!(config.clusters[mirror.cluster.position()].name, "mirror");
    assert_eq!(config.clusters[mirror.cluster.position()].kind, ClusterKind::Standalone);
    assert!(mirror.exclude_read_commands && !mirror.draw_per_command);
    assert_eq!(mirror.fraction, Fraction::ALL);
    assert_eq!(config.notes, Vec::<String>::new());
}

#[test]
fn words_in_lower_camel_case_are_the_same_words() {
    let article = ARTICLE
        .replace("stat_prefix", "statPrefix")
        .replace("prefix_routes", "prefixRoutes")
        .replace("catch_all_route", "catchAllRoute")
        .replace("request_mirror_policy", "requestMirrorPolicy")
        .replace("exclude_read_commands", "excludeReadCommands")
        .replace("op_timeout", "opTimeout")
        .replace("read_policy", "readPolicy");
    assert_eq!(format!("{:?}", config(&article)), format!("{:?}", config(ARTICLE)));
    let twice = Place::Settings.with(r#""opTimeout": "1s""#);
    assert!(
        error(&twice).starts_with("settings: duplicate field `op_timeout`"),
        "{}",
        error(&twice)
    );
}

#[test]
fn null_is_as_good_as_nothing() {
    let json =
        Place::Settings.with(r#""read_policy": null, "zone": null, "dns_cache_config": null"#);
    assert_eq!(format!("{:?}", config(&json)), format!("{:?}", config(SMALLEST)));
}

#[test]
fn every_setting_is_read() {
    use Place::{Root, Settings};
    assert_eq!(with(Root, r#""stat_prefix": "x""#).stat_prefix, "x");
    assert!(with(Root, r#""latency_in_micros": true"#).latency_in_micros);
    assert!(!with(Settings, r#""enable_redirection": false"#).enable_redirection);
    assert!(with(Settings, r#""enable_command_stats": true"#).enable_command_stats);
    let unknown = with(Settings, r#""max_upstream_unknown_connections": 0"#);
    assert_eq!(unknown.max_upstream_unknown_connections, 0);
    let limit = r#""connection_rate_limit": {"connection_rate_limit_per_sec": 7}"#;
    assert_eq!(with(Settings, limit).connection_rate_limit, Some(7));
    assert_eq!(with(Settings, r#""connections_per_node": 64"#).connections_per_node, 64);
    let memory = with(Settings, r#""max_memory_bytes_per_worker": 33554432"#).limits;
    assert_eq!(memory.memory_bytes + 5 * memory.reserve_bytes, 32 * 1024 * 1024);
    assert!(with(Settings, r#""cluster_emulation": true"#).cluster_emulation);
    assert_eq!(with(Settings, r#""zone": "a""#).zone.as_deref(), Some("a"));
    for (word, policy) in [
        ("MASTER", ReadPolicy::Master),
        ("PREFER_MASTER", ReadPolicy::PreferMaster),
        ("REPLICA", ReadPolicy::Replica),
        ("PREFER_REPLICA", ReadPolicy::PreferReplica),
        ("ANY", ReadPolicy::Any),
        ("LOCAL_ZONE_AFFINITY", ReadPolicy::LocalZoneAffinity),
        (
            "LOCAL_ZONE_AFFINITY_REPLICAS_AND_PRIMARY",
            ReadPolicy::LocalZoneAffinityReplicasAndPrimary,
        ),
    ] {
        let config = with(Settings, &format!(r#""read_policy": "{word}""#));
        assert_eq!(config.read_policy, policy);
    }
}

#[test]
fn routes_name_clusters_by_index() {
    let json =
        SMALLEST.replace("\"main\": {", r#""other": {"seeds": ["a:1"]}, "main": {"#).replace(
            "\"catch_all_route\"",
            r#""case_insensitive": true,
           "routes": [
               {"prefix": "a:", "remove_prefix": true, "cluster": "other",
                "key_formatter": "%DOWNSTREAM_REMOTE_PORT%:%KEY%",
                "read_policy": "ANY",
                "read_command_policy": {"cluster": "main"},
                "request_mirror_policy": [{
                    "cluster": "main", "draw_per_command": true,
                    "runtime_fraction": {
                        "default_value": {"numerator": 5, "denominator": "TEN_THOUSAND"}}}]},
               {"prefix": "b:", "cluster": "main"}],
           "catch_all_route""#,
        );
    let config = config(&json);
    assert_eq!(config.clusters[0].name, "other");
    assert!(config.routes.case_insensitive);
    let [a, b] = &config.routes.prefixes[..] else { panic!("{:?}", config.routes) };
    assert_eq!((&*a.prefix, a.remove_prefix, a.cluster.position()), (&b"a:"[..], true, 0));
    assert!(a.key_formatter.is_some());
    assert_eq!(config.attributes, [Attribute::RemoteAddress]);
    assert_eq!(a.read_cluster, Some(ClusterId::new(1)));
    assert_eq!(a.read_policy, Some(ReadPolicy::Any));
    assert_eq!(a.mirrors[0].cluster, ClusterId::new(1));
    assert!(a.mirrors[0].draw_per_command && !a.mirrors[0].exclude_read_commands);
    assert_eq!(a.mirrors[0].fraction, Fraction { numerator: 5, denominator: 10_000 });
    assert_eq!((&*b.prefix, b.remove_prefix, b.cluster.position()), (&b"b:"[..], false, 1));
}

#[test]
fn every_word_of_a_cluster_is_read() {
    let config = with(
        Place::Cluster,
        r#""envoy_cluster": "e", "envoy_cluster_for_names": "n", "cluster_refresh_rate": "1s", "cluster_refresh_timeout": "2s",
           "redirect_refresh_interval": "3s", "redirect_refresh_threshold": 0,
           "type": "REDIS_CLUSTER", "enable_zone_discovery": true,
           "auth_username": {"inline_string": "bob"},
           "auth_password": {"environment_variable": "REDIS_PASSWORD"},
           "credentials": [
               {"address": "a:1", "auth_password": {"inline_bytes": "aHVudGVyMw=="}},
               {"address": {"address": "10.0.0.1", "port_value": 2},
                "auth_password": {"inlineString": "x"}},
               {"address": {"socketAddress": {"address": "::1", "portValue": 3}},
                "auth_password": {"inline_string": "y"}}],
           "zones": {"10.0.0.0/8": "a", "redis-0.x": "b", "fd00::1": "c"},
           "allowed_nodes": ["10.0.0.0/8", "*.redis.a:6379", "redis-0:6379-6384", "10.1.2.3:1",
                             "[fd00::/8]:7", "[fd01::1]", "fd02::1"]"#,
    );
    let cluster = &config.clusters[0];
    let [node, seed] = ["10.0.0.1:1", "redis:1"].map(|text| Address::parse(text).unwrap());
    assert_eq!(cluster.envoy_cluster_of(&node), "e");
    assert_eq!(cluster.envoy_cluster_of(&seed), "n");
    assert_eq!(cluster.refresh_rate, Duration::from_secs(1));
    assert_eq!(cluster.refresh_timeout, Duration::from_secs(2));
    assert_eq!(cluster.redirect_refresh_interval, Duration::from_secs(3));
    assert_eq!(cluster.redirect_refresh_threshold, 0);
    assert!(cluster.enable_zone_discovery);
    let logins: Vec<_> = cluster
        .credentials
        .iter()
        .map(|login| (login.address.as_ref().map(Address::to_string), login.password.reveal()))
        .collect();
    assert_eq!(
        logins,
        [
            (Some("a:1".to_owned()), &b"hunter3"[..]),
            (Some("10.0.0.1:2".to_owned()), b"x"),
            (Some("[::1]:3".to_owned()), b"y"),
            (None, b"hunter2"),
        ]
    );
    assert_eq!(cluster.credentials[3].username, Some(Secret::new(*b"bob")));
    let network = |text: &str| HostPattern::Network(text.parse().unwrap());
    assert_eq!(
        cluster.zones,
        [
            (network("10.0.0.0/8"), "a".to_owned()),
            (HostPattern::Exact("redis-0.x".to_owned()), "b".to_owned()),
            (network("fd00::1/128"), "c".to_owned()),
        ]
    );
    assert_eq!(
        cluster.allowed_nodes,
        Some(AllowedNodes(vec![
            (network("10.0.0.0/8"), 1..=65535),
            (HostPattern::Below("redis.a".to_owned()), 6379..=6379),
            (HostPattern::Exact("redis-0".to_owned()), 6379..=6384),
            (network("10.1.2.3/32"), 1..=1),
            (network("fd00::/8"), 7..=7),
            (network("fd01::1/128"), 1..=65535),
            (network("fd02::1/128"), 1..=65535),
        ]))
    );
}

#[test]
fn users_are_envoys_one_and_further_ones() {
    let config = with(
        Place::Root,
        r#""downstream_auth_password": {"inline_string": "a"},
           "downstream_auth_passwords": [{"environment_variable": "REDIS_PASSWORD"}],
           "users": [{"name": "bob", "passwords": [{"inline_string": "b"}]}]"#,
    );
    let [default, bob] = &config.users[..] else { panic!("{:?}", config.users) };
    assert_eq!((&*default.name, &*bob.name), ("default", "bob"));
    assert_eq!(default.passwords, [Secret::new(*b"a"), Secret::new(*b"hunter2")]);
    assert_eq!(bob.passwords, [Secret::new(*b"b")]);
    let named = with(
        Place::Root,
        r#""downstream_auth_username": {"inline_string": "eve"},
           "downstream_auth_passwords": [{"inline_string": "a"}]"#,
    );
    assert_eq!(named.users[0].name, "eve");
    assert!(!named.auth_passthrough);
    assert!(with(Place::Root, r#""authPassthrough": true"#).auth_passthrough);
}

#[test]
fn faults_are_read() {
    let config = with(
        Place::Root,
        r#""faults": [
            {"fault_type": "ERROR", "fault_enabled": {"default_value": {"numerator": 5}},
             "commands": ["GET"]},
            {"delay": "0.1s",
             "fault_enabled": {"default_value": {"numerator": 1, "denominator": "MILLION"}}}]"#,
    );
    let [error, delay] = &config.faults[..] else { panic!("{:?}", config.faults) };
    assert_eq!(error.kind, FaultKind::Error(Duration::ZERO));
    assert_eq!(error.fraction, Fraction { numerator: 5, denominator: 100 });
    assert_eq!(error.commands, ["get"]);
    assert_eq!(delay.kind, FaultKind::Delay(Duration::from_millis(100)));
    assert_eq!(delay.fraction, Fraction { numerator: 1, denominator: 1_000_000 });
    assert!(delay.commands.is_empty());
}

#[test]
fn a_word_without_effect_leaves_a_note() {
    use Place::{CatchAll, Cluster, Root, Settings};
    let fraction = r#"{"default_value": {"numerator": 1}, "runtime_key": "k"}"#;
    let mirror = format!(
        r#""request_mirror_policy": [{{"cluster": "main", "runtime_fraction": {fraction}}}]"#
    );
    for (place, words, noted) in [
        (Root, r#""custom_commands": ["foo"]"#, "custom_commands"),
        (Root, r#""protocol_version": "RESP2""#, "protocol_version"),
        (Root, r#""protocol_version": "RESP3""#, "protocol_version"),
        (Settings, r#""enable_hashtagging": true"#, "enable_hashtagging"),
        (Settings, r#""max_buffer_size_before_flush": 1"#, "max_buffer_size_before_flush"),
        (Settings, r#""buffer_flush_timeout": "0.003s""#, "buffer_flush_timeout"),
        (Settings, r#""dns_cache_config": {"name": "x"}"#, "dns_cache_config"),
        (CatchAll, r#""prefix": "x""#, "prefix"),
        (CatchAll, r#""remove_prefix": true"#, "remove_prefix"),
        (CatchAll, &mirror, "request_mirror_policy[0].runtime_fraction.runtime_key"),
        (Cluster, r#""failure_refresh_threshold": 5"#, "failure_refresh_threshold"),
        (Cluster, r#""host_degraded_refresh_threshold": 5"#, "host_degraded_refresh_threshold"),
    ] {
        let config = config(&place.with(words));
        let [note] = &config.notes[..] else { panic!("{words}: {:?}", config.notes) };
        let start = format!("{}{noted} has no effect: ", place.path());
        assert!(note.starts_with(&start), "{note}");
    }
    let unused = SMALLEST.replace("\"main\": {", r#""other": {"seeds": ["a:1"]}, "main": {"#);
    assert_eq!(config(&unused).notes, ["clusters.other has no effect: no route names it"]);
}
