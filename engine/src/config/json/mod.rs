//! The plugin configuration as JSON: every word that is unknown or wrong is named by its path.
//!
//! Words are written in snake_case or, as protobuf's JSON has them, in lowerCamelCase; `null` is as
//! good as leaving a word out. A word that is accepted without having an effect leaves a note; one
//! that Slotmesh does not implement is refused. No error repeats a secret.

mod auth;
mod base64;
mod clusters;
mod credentials;
mod data_source;
#[cfg(test)]
mod document;
mod duration;
#[cfg(test)]
mod error_tests;
mod faults;
mod field;
mod fraction;
mod routes;
mod settings;
#[cfg(test)]
mod tests;

use serde::Deserialize;
use serde::de::IgnoredAny;

use self::auth::{RawAuth, RawUser};
use self::clusters::RawCluster;
use self::data_source::DataSource;
use self::faults::RawFault;
use self::field::{Entries, Field};
use self::routes::RawPrefixRoutes;
use self::settings::RawSettings;
use super::{Attribute, Config, ConfigError};
use crate::ids::ClusterId;

/// What errors name that concern no single field.
const WHOLE: &str = "the plugin configuration";

/// What `@type` may be.
const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy";

/// What checking needs beside the words, and what it tells beside errors.
struct Reader<'a> {
    environment: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    notes: Vec<String>,
    /// What keys are made of beside themselves.
    attributes: Vec<Attribute>,
}

/// Envoy's `RedisProxy`, with `clusters` and `users` beside it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an object")]
struct RawConfig {
    #[serde(rename = "@type")]
    kind: Option<String>,
    #[serde(alias = "statPrefix")]
    stat_prefix: Option<String>,
    settings: Option<RawSettings>,
    #[serde(alias = "latencyInMicros")]
    latency_in_micros: Option<bool>,
    #[serde(alias = "prefixRoutes")]
    prefix_routes: Option<RawPrefixRoutes>,
    #[serde(alias = "downstreamAuthUsername")]
    downstream_auth_username: Option<DataSource>,
    #[serde(alias = "downstreamAuthPassword")]
    downstream_auth_password: Option<DataSource>,
    #[serde(alias = "downstreamAuthPasswords")]
    downstream_auth_passwords: Option<Vec<DataSource>>,
    #[serde(alias = "authPassthrough")]
    auth_passthrough: Option<bool>,
    #[serde(alias = "externalAuthProvider")]
    external_auth_provider: Option<IgnoredAny>,
    faults: Option<Vec<RawFault>>,
    #[serde(alias = "customCommands")]
    custom_commands: Option<Vec<String>>,
    #[serde(alias = "protocolVersion")]
    protocol_version: Option<RawProtocolVersion>,
    users: Option<Vec<RawUser>>,
    clusters: Option<Entries<RawCluster>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum RawProtocolVersion {
    Resp2,
    Resp3,
}

impl Config {
    /// Reads a plugin configuration that needs no environment variables: none is set.
    ///
    /// # Errors
    /// As [`Config::from_json_with_environment`].
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        Self::from_json_with_environment(json, |_| None)
    }

    /// Reads the plugin configuration; `environment` gives the value of an environment variable,
    /// which secrets may be kept in.
    ///
    /// # Errors
    /// A word is unknown, wrong, missing or not implemented; the error never holds a secret.
    pub fn from_json_with_environment(
        json: &[u8],
        environment: impl Fn(&str) -> Option<Vec<u8>>,
    ) -> Result<Self, ConfigError> {
        read(json, &environment)
    }
}

fn read(json: &[u8], environment: &dyn Fn(&str) -> Option<Vec<u8>>) -> Result<Config, ConfigError> {
    if json.iter().all(u8::is_ascii_whitespace) {
        let reason = "is empty: Slotmesh needs at least settings.op_timeout, \
                      prefix_routes.catch_all_route.cluster and clusters";
        return Err(ConfigError::new(WHOLE, reason));
    }
    let mut json = serde_json::Deserializer::from_slice(json);
    let raw: RawConfig = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        json_error(&path, error.inner())
    })?;
    json.end().map_err(|error| json_error(".", &error))?;
    raw.check(&mut Reader { environment, notes: Vec::new(), attributes: Vec::new() })
}

/// Where the JSON itself is broken, the line and column say enough, and the last word read may be a
/// password in the wrong place.
fn json_error(path: &str, error: &serde_json::Error) -> ConfigError {
    let field = if error.is_data() && !matches!(path, "." | "?") { path } else { WHOLE };
    ConfigError::new(field, without_value(&error.to_string()))
}

/// Takes out of serde's text the value that it did not expect: it may be a password.
fn without_value(text: &str) -> String {
    let has_value = ["invalid type: ", "invalid value: "].iter().any(|kind| text.starts_with(kind));
    let Some((found, expected)) = text.rsplit_once(", expected ").filter(|_| has_value) else {
        return text.to_owned();
    };
    let kind = found.split(['"', '`']).next().unwrap_or_default().trim_end();
    format!("{kind}, expected {expected}")
}

impl RawConfig {
    fn check(self, reader: &mut Reader<'_>) -> Result<Config, ConfigError> {
        if self.kind.is_some_and(|kind| kind != TYPE) {
            return Err(ConfigError::new("@type", format!("must be {TYPE}")));
        }
        Field::new("external_auth_provider").unsupported(
            self.external_auth_provider,
            "asking a gRPC service about each AUTH is not implemented; \
             use downstream_auth_passwords, users or auth_passthrough",
        )?;
        reader.no_effect(
            &Field::new("custom_commands"),
            self.custom_commands,
            "every command that Slotmesh does not know is forwarded, as a write, by its first \
             argument",
        );
        reader.no_effect(
            &Field::new("protocol_version"),
            self.protocol_version,
            "RESP2 and RESP3 clients are served on the same port",
        );
        let settings = Field::new("settings");
        let settings = settings.required(self.settings)?.check(&settings, reader)?;
        let clusters = clusters::check(self.clusters, reader)?;
        let routes = self.prefix_routes.unwrap_or_default().check(
            &Field::new("prefix_routes"),
            &clusters,
            reader,
        )?;
        for (index, cluster) in clusters.iter().enumerate() {
            let unused = (!routes.names(ClusterId::new(index))).then_some(());
            let at = Field::new("clusters").member(&cluster.name);
            reader.no_effect(&at, unused, "no route names it");
        }
        let users = RawAuth {
            downstream_auth_username: self.downstream_auth_username,
            downstream_auth_password: self.downstream_auth_password,
            downstream_auth_passwords: self.downstream_auth_passwords,
            users: self.users,
        }
        .check(reader)?;
        let auth_passthrough = self.auth_passthrough.unwrap_or(false);
        if auth_passthrough && !users.is_empty() {
            let reason = "cannot be combined with downstream_auth_* or users: either Redis or the \
                          proxy says who a client is";
            return Err(Field::new("auth_passthrough").refuse(reason));
        }
        let faults = Field::new("faults").each(self.faults, |at, fault| fault.check(at, reader))?;
        let stat_prefix = Field::new("stat_prefix").not_empty(self.stat_prefix)?;
        Ok(Config {
            stat_prefix: stat_prefix.unwrap_or_else(|| "redis".to_owned()),
            latency_in_micros: self.latency_in_micros.unwrap_or(false),
            op_timeout: settings.op_timeout,
            read_policy: settings.read_policy,
            enable_redirection: settings.enable_redirection,
            enable_command_stats: settings.enable_command_stats,
            max_upstream_unknown_connections: settings.max_upstream_unknown_connections,
            connection_rate_limit: settings.connection_rate_limit,
            connections_per_node: settings.connections_per_node,
            cluster_emulation: settings.cluster_emulation,
            zone: settings.zone,
            users,
            auth_passthrough,
            faults,
            clusters,
            routes,
            attributes: std::mem::take(&mut reader.attributes),
            limits: settings.limits,
            notes: std::mem::take(&mut reader.notes),
        })
    }
}

impl Reader<'_> {
    /// Notes that a word was set in vain.
    fn no_effect<T>(&mut self, at: &Field, value: Option<T>, reason: &str) {
        if value.is_some() {
            self.notes.push(format!("{at} has no effect: {reason}"));
        }
    }
}
