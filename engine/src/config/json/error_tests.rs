//! What is said about a wrong configuration, and what is not: secrets.

use super::tests::{Place, SMALLEST, error};

#[test]
fn a_wrong_word_is_named_by_its_path() {
    use Place::{CatchAll, Cluster, Root, Routes, Settings};
    let fault = |words| format!(r#""faults": [{{{words}}}]"#);
    let all = r#""fault_enabled": {"default_value": {"numerator": 100}}"#;
    let mirror = |words| format!(r#""request_mirror_policy": [{{{words}}}]"#);
    for (place, words, expected) in [
        (Root, r#""@type": "x""#, "@type: must be type.googleapis.com/"),
        (Root, r#""@type": 1"#, "@type: invalid type: integer, expected a string"),
        (Root, r#""nope": 1"#, "nope: unknown field `nope`"),
        (Root, r#""stat_prefix": """#, "stat_prefix: is empty"),
        (Root, r#""stat_prefix": 1"#, "stat_prefix: invalid type"),
        (Root, r#""latency_in_micros": "x""#, "latency_in_micros: invalid type: string, expected"),
        (Root, r#""protocol_version": "RESP4""#, "protocol_version: unknown variant `RESP4`"),
        (Root, r#""custom_commands": [1]"#, "custom_commands[0]: invalid type"),
        (Root, r#""external_auth_provider": {}"#, "external_auth_provider: is not supported: "),
        (Root, r#""faults": {}"#, "faults: invalid type: map, expected a sequence"),
        (Root, &fault(""), "faults[0].fault_enabled: is required"),
        (Root, &fault(r#""fault_enabled": {}"#), "faults[0].fault_enabled.default_value: is req"),
        (Root, &fault(all), "faults[0].delay: must be greater than 0s for a DELAY"),
        (Root, &fault(r#""fault_type": "X""#), "faults[0].fault_type: unknown variant `X`"),
        (Root, &fault(r#""delay": "x""#), "faults[0].delay: 'x' is not a duration"),
        (Root, &fault(r#""x": 1"#), "faults[0].x: unknown field"),
        (
            Root,
            &fault(&format!(r#"{all}, "delay": "1s", "commands": [""]"#)),
            "faults[0].commands[0]: is empty",
        ),
        (
            Root,
            &fault(&all.replace("100", "101")),
            "faults[0].fault_enabled.default_value.numerator: is more than all: at most 100",
        ),
        (
            Root,
            &fault(&all.replace("100", r#"1, "denominator": "TEN""#)),
            "faults[0].fault_enabled.default_value.denominator: unknown variant `TEN`",
        ),
        (Root, r#""auth_passthrough": "yes""#, "auth_passthrough: invalid type: string"),
        (
            Root,
            r#""auth_passthrough": true, "users": [{"name": "a", "passwords": [{"inline_string": "b"}]}]"#,
            "auth_passthrough: cannot be combined with downstream_auth_* or users",
        ),
        (Root, r#""users": [{}]"#, "users[0].name: is required"),
        (Root, r#""users": [{"name": ""}]"#, "users[0].name: is empty"),
        (Root, r#""users": [{"name": "a"}]"#, "users[0].passwords: needs at least one"),
        (
            Root,
            r#""users": [{"name": "a", "passwords": [{"inline_string": "b"}]},
                        {"name": "a", "passwords": [{"inline_string": "b"}]}]"#,
            "users[1].name: 'a' is there twice",
        ),
        (
            Root,
            r#""downstream_auth_username": {"inline_string": "a"}"#,
            "downstream_auth_username: needs downstream_auth_passwords",
        ),
        (
            Root,
            r#""downstream_auth_password": {"filename": "/x"}"#,
            "downstream_auth_password.filename: is not supported: a Wasm module cannot read files",
        ),
        (
            Root,
            r#""downstream_auth_passwords": [{"environment_variable": "NOPE"}]"#,
            "downstream_auth_passwords[0].environment_variable: is not set: 'NOPE'",
        ),
        (
            Root,
            r#""downstream_auth_password": {"inline_string": ""}"#,
            "downstream_auth_password: is empty",
        ),
        (Settings, r#""nope": 1"#, "settings.nope: unknown field `nope`"),
        (Settings, r#""enable_redirection": 1"#, "settings.enable_redirection: invalid type"),
        (Settings, r#""enable_command_stats": 1"#, "settings.enable_command_stats: invalid type"),
        (Settings, r#""enable_hashtagging": 1"#, "settings.enable_hashtagging: invalid type"),
        (
            Settings,
            r#""max_buffer_size_before_flush": -1"#,
            "settings.max_buffer_size_before_flush: invalid value: integer, expected u32",
        ),
        (Settings, r#""buffer_flush_timeout": "3ms""#, "settings.buffer_flush_timeout: '3ms' is"),
        (
            Settings,
            r#""max_upstream_unknown_connections": "x""#,
            "settings.max_upstream_unknown_connections: invalid type",
        ),
        (Settings, r#""read_policy": "SLAVE""#, "settings.read_policy: unknown variant `SLAVE`"),
        (
            Settings,
            r#""connection_rate_limit": {"connection_rate_limit_per_sec": 0}"#,
            "settings.connection_rate_limit.connection_rate_limit_per_sec: must be greater",
        ),
        (
            Settings,
            r#""connection_rate_limit": {}"#,
            "settings.connection_rate_limit.connection_rate_limit_per_sec: is required",
        ),
        (Settings, r#""connections_per_node": 0"#, "settings.connections_per_node: must be from 1"),
        (
            Settings,
            r#""max_memory_bytes_per_worker": 1000000"#,
            "settings.max_memory_bytes_per_worker: must be from 16777216 to 536870912",
        ),
        (Settings, r#""connections_per_node": 65"#, "settings.connections_per_node: must be from"),
        (Settings, r#""zone": """#, "settings.zone: is empty"),
        (Routes, r#""nope": 1"#, "prefix_routes.nope: unknown field"),
        (Routes, r#""case_insensitive": 1"#, "prefix_routes.case_insensitive: invalid type"),
        (Routes, r#""routes": [{}]"#, "prefix_routes.routes[0].prefix: is required"),
        (Routes, r#""routes": [{"prefix": "a"}]"#, "prefix_routes.routes[0].cluster: is required"),
        (
            Routes,
            r#""case_insensitive": true, "routes": [{"prefix": "a", "cluster": "main"},
                                                    {"prefix": "A", "cluster": "main"}]"#,
            "prefix_routes.routes[1].prefix: is there twice",
        ),
        (
            Routes,
            &format!(r#""routes": [{{"prefix": "{}", "cluster": "main"}}]"#, "x".repeat(1001)),
            "prefix_routes.routes[0].prefix: is longer than 1000 bytes",
        ),
        (CatchAll, r#""nope": 1"#, "prefix_routes.catch_all_route.nope: unknown field"),
        (CatchAll, r#""remove_prefix": 1"#, "prefix_routes.catch_all_route.remove_prefix: invalid"),
        (
            CatchAll,
            r#""key_formatter": "%KEY""#,
            "prefix_routes.catch_all_route.key_formatter: '%KEY' has a command that does not end",
        ),
        (CatchAll, r#""read_policy": "X""#, "prefix_routes.catch_all_route.read_policy: unknown"),
        (
            CatchAll,
            r#""read_command_policy": {"cluster": "nope"}"#,
            "prefix_routes.catch_all_route.read_command_policy.cluster: no cluster 'nope'",
        ),
        (
            CatchAll,
            &mirror(""),
            "prefix_routes.catch_all_route.request_mirror_policy[0].cluster: is required",
        ),
        (
            CatchAll,
            &mirror(r#""cluster": "main", "runtime_fraction": {}"#),
            "prefix_routes.catch_all_route.request_mirror_policy[0].runtime_fraction.default_value",
        ),
        (
            CatchAll,
            &mirror(r#""exclude_read_commands": 1"#),
            "prefix_routes.catch_all_route.request_mirror_policy[0].exclude_read_commands: invalid",
        ),
        (
            CatchAll,
            &mirror(r#""draw_per_command": 1"#),
            "prefix_routes.catch_all_route.request_mirror_policy[0].draw_per_command: invalid",
        ),
        (Cluster, r#""nope": 1"#, "clusters.main.nope: unknown field"),
        (Cluster, r#""type": "SENTINEL""#, "clusters.main.type: unknown variant `SENTINEL`"),
        (Cluster, r#""type": "STANDALONE""#, "clusters.main.seeds: of a STANDALONE Redis"),
        (Cluster, r#""envoy_cluster": """#, "clusters.main.envoy_cluster: is empty"),
        (
            Cluster,
            r#""envoy_cluster_for_names": """#,
            "clusters.main.envoy_cluster_for_names: is empty",
        ),
        (Cluster, r#""cluster_refresh_rate": "x""#, "clusters.main.cluster_refresh_rate: 'x' is"),
        (
            Cluster,
            r#""cluster_refresh_timeout": "0s""#,
            "clusters.main.cluster_refresh_timeout: mu",
        ),
        (
            Cluster,
            r#""redirect_refresh_interval": 5"#,
            "clusters.main.redirect_refresh_interval: i",
        ),
        (
            Cluster,
            r#""redirect_refresh_threshold": -1"#,
            "clusters.main.redirect_refresh_threshold",
        ),
        (
            Cluster,
            r#""failure_refresh_threshold": "x""#,
            "clusters.main.failure_refresh_threshold:",
        ),
        (
            Cluster,
            r#""host_degraded_refresh_threshold": "x""#,
            "clusters.main.host_degraded_refresh_threshold: invalid type",
        ),
        (Cluster, r#""enable_zone_discovery": {}"#, "clusters.main.enable_zone_discovery: invalid"),
        (Cluster, r#""aws_iam": {"region": "x"}"#, "clusters.main.aws_iam: is not supported: "),
        (
            Cluster,
            r#""auth_username": {"inline_string": "x"}"#,
            "clusters.main.auth_username: needs auth_password",
        ),
        (Cluster, r#""allowed_nodes": {}"#, "clusters.main.allowed_nodes: invalid type: map"),
        (Cluster, r#""allowed_nodes": [1]"#, "clusters.main.allowed_nodes[0]: invalid type"),
        (Cluster, r#""allowed_nodes": ["*"]"#, "clusters.main.allowed_nodes[0]: is no network"),
        (
            Cluster,
            r#""allowed_nodes": ["fd00::/8:1"]"#,
            "clusters.main.allowed_nodes[0]: is no net",
        ),
        (Cluster, r#""allowed_nodes": ["a", "a:0"]"#, "clusters.main.allowed_nodes[1]: has ports"),
        (Cluster, r#""allowed_nodes": ["a:2-1"]"#, "clusters.main.allowed_nodes[0]: has ports"),
        (Cluster, r#""allowed_nodes": ["[::1]1"]"#, "clusters.main.allowed_nodes[0]: has ports"),
        (
            Cluster,
            r#""allowed_nodes": ["10.1.2.3/8"]"#,
            "clusters.main.allowed_nodes[0]: has bits beyond its prefix: write 10.0.0.0/8 or 10.1",
        ),
        (Cluster, r#""credentials": [{}]"#, "clusters.main.credentials[0].address: is required"),
        (
            Cluster,
            r#""credentials": [{"address": "a:1"}]"#,
            "clusters.main.credentials[0].auth_password: is required",
        ),
        (
            Cluster,
            r#""credentials": [{"address": "a"}]"#,
            "clusters.main.credentials[0].address: is not host:port",
        ),
        (
            Cluster,
            r#""credentials": [{"address": 1}]"#,
            "clusters.main.credentials[0].address: invalid type: integer, expected host:port",
        ),
        (
            Cluster,
            r#""credentials": [{"address": {"socket_address": {"address": "a"}}}]"#,
            "clusters.main.credentials[0].address.socket_address.port_value: is required",
        ),
        (
            Cluster,
            r#""credentials": [{"address": {"port_value": 70000}}]"#,
            "clusters.main.credentials[0].address.port_value: invalid value",
        ),
        (
            Cluster,
            r#""zones": {"10.0.0.0/33": "a"}"#,
            "clusters.main.zones.10.0.0.0/33: is no host",
        ),
        (Cluster, r#""zones": {"a/8": "a"}"#, "clusters.main.zones.a/8: is no host name"),
        (Cluster, r#""zones": {"a": ""}"#, "clusters.main.zones.a: is empty"),
        (Cluster, r#""zones": {"a": "b", "a": "c"}"#, "clusters.main.zones.a: is there twice"),
        (Cluster, r#""zones": {"a": 1}"#, "clusters.main.zones.a: invalid type"),
    ] {
        let error = error(&place.with(words));
        assert!(error.starts_with(expected), "{words}: {error}");
    }
}

#[test]
fn what_is_missing_or_broken_as_a_whole_is_said() {
    let replaced = |from: &str, to: &str| {
        assert!(SMALLEST.contains(from), "{from}");
        error(&SMALLEST.replace(from, to))
    };
    let seeds = r#"["127.0.0.1:7000", "[::1]:7001"]"#;
    let cluster = format!(r#""main": {{"seeds": {seeds}}}"#);
    for (error, expected) in [
        (error(""), "the plugin configuration: is empty"),
        (error("{"), "the plugin configuration: EOF"),
        (error("[]"), "the plugin configuration: invalid length"),
        (error(&format!("{SMALLEST} x")), "the plugin configuration: trailing characters"),
        (error("{}"), "settings: is required"),
        (replaced(r#""op_timeout": "0.25s""#, ""), "settings.op_timeout: is required"),
        (replaced("\"0.25s\"", "5"), "settings.op_timeout: invalid type"),
        (replaced("0.25s", "5 s"), "settings.op_timeout: '5 s' is not a duration"),
        (replaced("0.25s", "0s"), "settings.op_timeout: must be greater than 0s"),
        (
            replaced(r#""catch_all_route": {"cluster": "main"}"#, ""),
            "prefix_routes: cannot configure a redis-proxy without any upstream",
        ),
        (
            replaced(r#""cluster": "main""#, r#""cluster": "other""#),
            "prefix_routes.catch_all_route.cluster: no cluster 'other' in clusters",
        ),
        (replaced(&cluster, ""), "clusters: needs at least one cluster"),
        (replaced(&cluster, &format!("{cluster}, {cluster}")), "clusters.main: is there twice"),
        (replaced(seeds, "[]"), "clusters.main.seeds: needs at least one host:port"),
        (replaced("127.0.0.1:7000", "127.0.0.1"), "clusters.main.seeds[0]: '127.0.0.1' is not"),
        (replaced("\"[::1]:7001\"", "7"), "clusters.main.seeds[1]: invalid type"),
    ] {
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn no_error_repeats_a_secret() {
    let at_every_data_source = |source: &str| {
        [
            Place::Root.with(&format!(r#""downstream_auth_username": {source}"#)),
            Place::Root.with(&format!(r#""downstream_auth_password": {source}"#)),
            Place::Root.with(&format!(r#""downstream_auth_passwords": [{source}]"#)),
            Place::Root.with(&format!(r#""users": [{{"name": "a", "passwords": [{source}]}}]"#)),
            Place::Cluster.with(&format!(r#""auth_username": {source}"#)),
            Place::Cluster.with(&format!(r#""auth_password": {source}"#)),
            Place::Cluster.with(&format!(
                r#""credentials": [{{"address": "a:1", "auth_password": {source}}}]"#
            )),
        ]
    };
    for source in [
        r#""hunter2""#,
        r#"["hunter2"]"#,
        r#"{"hunter2": "x"}"#,
        r#"{"hunter2": {}}"#,
        r#"{"hunter2" "x"}"#,
        r#"{"hunter2"}"#,
        r#"{"hunter2": "#,
        r#"{"inline_string": ["hunter2"]}"#,
        r#"{"inline_string": {"hunter2": 1}}"#,
        r#"{"inline_string": "hunter2" x}"#,
        r#"{"inline_string": "hunter2\x"}"#,
        r#"{"inline_string": "hunter2"#,
        r#"{"inline_bytes": "hunter2!"}"#,
        r#"{"inline_string": "hunter2", "hunter2": ""}"#,
        r#"{"inline_string": "hunter2", "inline_bytes": "hunter2"}"#,
        r#"{"filename": "hunter2"}"#,
        r#""a, expected hunter2""#,
        r#"", expected \"hunter2\"""#,
    ] {
        for json in at_every_data_source(source) {
            let error = error(&json);
            assert!(!error.contains("hunter2"), "{source}: {error}");
        }
    }
    let number = error(&Place::Root.with(r#""downstream_auth_password": 271828"#));
    assert_eq!(&number[..59], "downstream_auth_password: invalid type: integer, expected a");
    assert!(!number.contains("271828"), "{number}");
    let url = error(&SMALLEST.replace("127.0.0.1:7000", "redis://:hunter2@127.0.0.1:7000"));
    assert!(url.starts_with("clusters.main.seeds[0]: ") && !url.contains("hunter2"), "{url}");
}
