//! The module's configuration.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The Envoy cluster in envoy/bootstrap.yaml through which the module reaches Redis.
pub const ENVOY_CLUSTER: &str = "slotmesh_upstream";

/// The module's configuration as JSON text, which only the module itself judges.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PluginConfig(String);

impl PluginConfig {
    /// One cluster, found by its `seeds` (`host:port`), for all keys.
    pub fn from_seeds<S: AsRef<str>>(seeds: &[S]) -> Self {
        let seeds: Vec<&str> = seeds.iter().map(AsRef::as_ref).collect();
        let config = json!({
            "settings": {"op_timeout": "5s"},
            "prefix_routes": {"catch_all_route": {"cluster": "redis"}},
            "clusters": {"redis": {"seeds": seeds, "envoy_cluster": ENVOY_CLUSTER}},
        });
        Self(config.to_string())
    }

    /// What the walk-through shows: reads from replicas, and every write copied to `mirror`, a
    /// standalone server.
    pub fn with_replicas_and_mirror<S: AsRef<str>>(seeds: &[S], mirror: &str) -> Self {
        let seeds: Vec<&str> = seeds.iter().map(AsRef::as_ref).collect();
        let config = json!({
            "@type": "type.googleapis.com/\
                      envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
            "settings": {
                "op_timeout": "5s",
                "enable_redirection": true,
                "read_policy": "REPLICA",
            },
            "prefix_routes": {
                "catch_all_route": {
                    "cluster": "redis",
                    "request_mirror_policy": [
                        {"cluster": "mirror", "exclude_read_commands": true},
                    ],
                },
            },
            "clusters": {
                "redis": {"seeds": seeds, "envoy_cluster": ENVOY_CLUSTER},
                "mirror": {
                    "type": "STANDALONE",
                    "seeds": [mirror],
                    "envoy_cluster": ENVOY_CLUSTER,
                },
            },
        });
        Self(config.to_string())
    }

    /// Any text, also one that the module must refuse.
    pub fn from_text(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The JSON file at `path`.
    ///
    /// # Errors
    /// It cannot be read, is not JSON, or names another Envoy cluster than the bootstrap has.
    pub fn from_file(path: &Path) -> Result<Self> {
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("{shown} cannot be read"))?;
        let json: Value =
            serde_json::from_str(&text).with_context(|| format!("{shown} is not JSON"))?;
        for (name, cluster) in json["clusters"].as_object().into_iter().flatten() {
            if let Some(envoy_cluster) = cluster["envoy_cluster"].as_str() {
                ensure!(
                    envoy_cluster == ENVOY_CLUSTER,
                    "{shown}: clusters.{name}.envoy_cluster is {envoy_cluster:?}, \
                     but envoy/bootstrap.yaml calls it {ENVOY_CLUSTER:?}"
                );
            }
        }
        Ok(Self(text))
    }

    /// The seeds of all its clusters.
    ///
    /// # Errors
    /// It is not JSON, or seeds are not a list of texts.
    pub fn seeds(&self) -> Result<Vec<String>> {
        let json: Value = serde_json::from_str(&self.0)?;
        let mut all = Vec::new();
        for (name, cluster) in json["clusters"].as_object().into_iter().flatten() {
            for seed in cluster["seeds"].as_array().into_iter().flatten() {
                let Some(seed) = seed.as_str() else { bail!("clusters.{name}.seeds: {seed}") };
                all.push(seed.to_owned());
            }
        }
        Ok(all)
    }

    /// The JSON text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_made_of_seeds_has_them_all() {
        let config = PluginConfig::from_seeds(&["a:1", "b:2"]);
        assert_eq!(config.seeds().unwrap(), ["a:1", "b:2"]);
    }

    #[test]
    fn a_file_for_another_envoy_cluster_is_refused() {
        let dir = crate::temp::TempDir::new("plugin").unwrap();
        let path = dir.path().join("plugin.json");
        fs::write(&path, r#"{"clusters": {"redis": {"seeds": ["a:1"], "envoy_cluster": "x"}}}"#)
            .unwrap();
        let error = PluginConfig::from_file(&path).unwrap_err().to_string();
        assert!(error.contains(r#"clusters.redis.envoy_cluster is "x""#), "{error}");
    }
}
